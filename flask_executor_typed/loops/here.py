"""Which loop of this package runs this code, or waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from asgiref.sync import AsyncToSync

from ..runtime.forks import in_child
from ..runtime.threads import DaemonPool
from .bridging import loops_here
from .residents import Resident

__all__ = (
    "has_loop_of_asgirefs",
    "loop_thread_here",
    "loop_threads",
    "serves_this_thread",
)


class Host(Protocol):
    """What code that runs on a loop wants of the loop's thread."""

    residents: dict[object, Resident]

    def admit(
        self, key: object, resident: Resident, living: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]: ...

    def sensitive_pool(self) -> DaemonPool: ...


loop_threads: dict[asyncio.AbstractEventLoop, Host] = {}  # until the loop ends

in_child(loop_threads.clear)


def loop_thread_here() -> Host | None:
    """What runs this code, if it runs on a loop of this package."""
    loop = asyncio._get_running_loop()
    return None if loop is None else loop_threads.get(loop)


def serves_this_thread() -> bool:
    """Whether any loop of this package runs this code, or waits for it."""
    return any(loop in loop_threads for loop in loops_here() if loop is not None)


def has_loop_of_asgirefs() -> bool:
    """Whether ``async_to_sync`` is to find the loop itself: this code was called by one.

    Or it is to refuse, because a loop runs in this very thread.
    """
    running, bridged = loops_here()
    if running is not None or AsyncToSync.async_single_thread_context.get(None) is not None:
        return True
    if bridged is None or not bridged.is_running():
        return False
    # Code of an async view, in the thread that waits for it, or of a job. But not a whole request
    # that an ASGI server handed to a thread: its loop is the server's, and serves all requests.
    return bridged in loop_threads or getattr(AsyncToSync.executors, "current", None) is not None
