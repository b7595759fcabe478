"""The protocol of engines, which carry messages to workers. Provisional."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..backends import Capabilities
from ..calls import Route

__all__ = ("Engine", "Message", "Route")


class Message(NamedTuple):
    """What an engine carries: plain texts and a number, for ``run_message(*message)``."""

    app: str
    """The name of the app."""

    executor: str
    """The name of the executor; ``""`` for the one without a name."""

    name: str
    """The name of the job, to show. Not signed."""

    id: str
    """The job's ``future.id``. The signature is valid for this job only."""

    attempt: int
    """Counted from 1. A worker drops a message whose attempt was begun."""

    token: str
    """The signed function and arguments, in Base64."""


class Engine(Protocol):
    """Carries messages to workers. Provisional: it may change in a minor release.

    Somewhere else, in a process that has created the app, a worker of the engine calls
    :func:`run_message` with each message. Whether a message arrives once, late, often or never is
    up to the engine: a job begins at most once for each attempt.
    """

    @property
    def name(self) -> str:
        """The engine's name in messages for users."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What its workers can do. A call that asks for more is refused by ``submit``."""
        ...

    def publish(self, message: Message, route: Route) -> None:
        """Have one worker call ``run_message(*message)``. From any thread.

        ``route`` says into which queue and so on. It asks for nothing that :attr:`capabilities`
        does not have.

        May raise anything. Then the job is withdrawn, and ``submit`` raises
        :exc:`~flask_executor_typed.EngineUnreachableError`.
        """
