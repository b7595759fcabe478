"""The capabilities of backends, and the refusal of calls that ask for more.

The only module that says which backend can do what; ``docs/backends.rst`` shows it as a table.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..callables import is_async_callable
from ..calls import Call, Limits
from ..errors import UnsupportedError

__all__ = ("IN_A_THREAD", "Capabilities", "check", "check_route")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do for its calls, beyond running plain functions."""

    contexts: bool = False
    """Jobs run with the app, a copy of ``g`` and, if the settings say so, the request."""

    shared_memory: bool = False
    """Any function works, and shares its arguments with the submitter; nothing is pickled."""

    coroutines: bool = False
    """``async def`` jobs run, on a lasting loop."""

    progress: bool = False
    """What ``current_job.progress()`` reports reaches the future while the job runs."""

    cancel_running: bool = False
    """``cancel()`` reaches a running job: a coroutine is cancelled, a function sees the request."""

    kill: bool = False
    """``cancel(kill=True)`` ends a running function."""

    time_limits: bool = False
    """``using(timeout=...)`` and ``EXECUTOR_JOB_TIMEOUT`` work."""

    retries: bool = False
    """``using(retries=...)`` works."""

    routing: bool = False
    """``using(queue=...)``, ``using(priority=...)`` and ``using(expires=...)`` work."""

    delay: bool = False
    """``using(delay=...)`` works."""

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
"""The capabilities of every backend that runs calls in threads of this process."""


def check(call: Call[Any], capabilities: Capabilities, backend: str) -> None:
    """Refuse a call that asks for what ``backend`` cannot do.

    Raises:
        UnsupportedError: names the backend, what it cannot do, and what to do instead.
    """
    name, limits = call.future.name, call.limits
    if not capabilities.coroutines and is_async_callable(call.fn):
        cure = "use EXECUTOR_TYPE='thread', or a plain function that calls asyncio.run()"
        raise UnsupportedError(name, backend, "run async def jobs", cure)
    if limits is None:
        return
    if not capabilities.time_limits and call.has_time_limit:
        cure = "use EXECUTOR_TYPE='process', or lift the limit with using(timeout=math.inf)"
        raise UnsupportedError(name, backend, "enforce time limits", cure)
    if not capabilities.retries and limits.retries:
        cure = "use EXECUTOR_TYPE='process', or retry inside the function"
        raise UnsupportedError(name, backend, "retry a job", cure)


def check_route(name: str, limits: Limits, capabilities: Capabilities, backend: str) -> None:
    """Refuse what a call asks of an engine, if ``backend`` is none, or one that cannot do it.

    Raises:
        UnsupportedError: names the backend, what it cannot do, and what to do instead.
    """
    route = limits.route
    if route.delay and not capabilities.delay:
        cure = "use EXECUTOR_TYPE='celery', or submit it later"
        raise UnsupportedError(name, backend, "delay a job", cure)
    is_routed = (route.queue, route.priority, limits.expires) != (None, None, None)
    if is_routed and not capabilities.routing:
        cure = "use EXECUTOR_TYPE='celery', or submit without queue, priority and expires"
        raise UnsupportedError(name, backend, "route a job or let it expire", cure)
