"""The capabilities of backends, and the refusal of calls that ask for more.

The only module that says which backend can do what; ``docs/backends.rst`` shows it as a table.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..callables import is_async_callable
from ..calls import Call
from ..errors import UnsupportedError

__all__ = ("IN_A_THREAD", "Capabilities", "check")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do for its calls, beyond running plain functions."""

    contexts: bool = False
    """Jobs have the app, a copy of ``g``, and the request if the settings say so."""

    shared_memory: bool = False
    """Nothing is pickled: any function will do, and it shares its arguments with the submitter."""

    coroutines: bool = False
    """``async def`` jobs, on a loop that lasts."""

    progress: bool = False
    """What ``current_job.progress()`` tells reaches the future while the job runs."""

    cancel_running: bool = False
    """``cancel()`` reaches a running job: a coroutine ends, a function sees the request."""

    kill: bool = False
    """``cancel(kill=True)`` ends a running function."""

    time_limits: bool = False
    """``using(timeout=...)`` and ``EXECUTOR_JOB_TIMEOUT``."""

    retries: bool = False
    """``using(retries=...)``."""

    def names(self) -> set[str]:
        return {field.name for field in fields(self) if getattr(self, field.name)}


IN_A_THREAD = Capabilities(
    contexts=True,
    shared_memory=True,
    coroutines=True,
    progress=True,
    cancel_running=True,
    time_limits=True,
    retries=True,
)
"""Of whatever runs calls in threads of this process."""


def check(call: Call[Any], capabilities: Capabilities, backend: str) -> None:
    """Refuse a call that asks for what ``backend`` cannot do.

    Raises:
        UnsupportedError: it names the backend, what it cannot do, and what to do instead.
    """
    name, limits = call.future.name, call.limits
    if not capabilities.coroutines and is_async_callable(call.fn):
        cure = "use EXECUTOR_TYPE='thread', or a plain function that calls asyncio.run()"
        raise UnsupportedError(name, backend, "run async def jobs", cure)
    if limits is None:
        return
    if not capabilities.time_limits and call.has_time_limit:
        cure = "use EXECUTOR_TYPE='process', or lift the limit with using(timeout=math.inf)"
        raise UnsupportedError(name, backend, "keep time limits", cure)
    if not capabilities.retries and limits.retries:
        cure = "use EXECUTOR_TYPE='process', or try again in the function itself"
        raise UnsupportedError(name, backend, "run a job again", cure)
