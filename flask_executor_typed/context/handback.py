"""Give a job a session of its own, and take back what a request that waits for it can use.

A job shares its submitter's session. That is wrong for a job that may still run after its request
was answered: both would change the session, and the request saves it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from flask import Response

from .carry import carried
from .compat import active_app_context, active_request_context, session_attribute

__all__ = ("copy_of_g", "copy_of_session", "take_after_request_functions", "use_session")


def copy_of_session() -> Any:
    """Return a deep copy of this request's session, which does not count as an access to it."""
    context = active_request_context()
    session: Any = getattr(context, session_attribute(context))
    copied = deepcopy(session)
    # A session that notes when it is changed has noted how its copy was filled.
    notes: dict[str, Any] | None = getattr(copied, "__dict__", None)
    if notes is not None:
        original: dict[str, Any] = session.__dict__
        notes.clear()
        notes.update(original)
    return copied


def use_session(session: Any) -> None:
    """Make ``session`` that of the active request context."""
    context = active_request_context()
    setattr(context, session_attribute(context), session)


def take_after_request_functions() -> list[Callable[[Response], Response]]:
    """Return what ``after_this_request`` was called with here, and forget it."""
    context = active_request_context()
    functions: list[Callable[[Response], Response]] = context._after_request_functions
    context._after_request_functions = []
    return functions


def copy_of_g(carry_g: Callable[[str, object], bool]) -> dict[str, Any]:
    """Return those values of ``g`` that may travel."""
    values: dict[str, Any] | None = getattr(active_app_context().g, "__dict__", None)
    return {} if values is None else carried(values, carry_g)
