"""The loop, the loop's thread and the resident that run the current code, or wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, Protocol

from asgiref.sync import AsyncToSync

from ..runtime.forks import in_child
from ..runtime.threads import DaemonPool
from .asgiref_bridge import loops_here

__all__ = (
    "Resident",
    "has_loop_of_asgirefs",
    "loop_thread_here",
    "loop_threads",
    "resident_here",
    "running_resident",
    "runs_resident_of",
    "serves_this_thread",
)


class Resident(Protocol):
    """What lives on a loop until the loop ends. The tasks that it starts do so too."""

    loop: asyncio.AbstractEventLoop

    async def close(self) -> None: ...


running_resident: ContextVar[Resident | None] = ContextVar("resident", default=None)
"""Whose the running code is, if it is a resident's. Elsewhere than on its loop it means nothing."""


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


def resident_here() -> Resident | None:
    """The resident that runs this code, if one does."""
    return running_resident.get()


def runs_resident_of(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a resident of ``loop``, on which this code runs, runs it."""
    resident = running_resident.get()
    return resident is not None and resident.loop is loop
