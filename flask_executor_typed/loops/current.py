"""The loop, the loop's thread and the resident that run the current code, or wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, Protocol

from asgiref.sync import AsyncToSync

from ..runtime.forks import in_child
from ..runtime.running_loop import running_loop
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
    """Something that lives on a loop until the loop ends, with the tasks that it starts."""

    loop: asyncio.AbstractEventLoop

    async def close(self) -> None: ...


running_resident: ContextVar[Resident | None] = ContextVar("resident", default=None)
"""The resident running the current code, if any. Meaningless on any loop but its own."""


class Host(Protocol):
    """The services of a loop's thread for code running on the loop."""

    residents: dict[object, Resident]

    def admit(
        self, key: object, resident: Resident, living: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]: ...


loop_threads: dict[asyncio.AbstractEventLoop, Host] = {}  # until the loop ends

in_child(loop_threads.clear)


def loop_thread_here() -> Host | None:
    """Return the thread of the running loop, if the loop is this package's."""
    loop = running_loop()
    return None if loop is None else loop_threads.get(loop)


def serves_this_thread() -> bool:
    """Return whether a loop of this package is running this code, or waiting for it."""
    return any(loop in loop_threads for loop in loops_here() if loop is not None)


def has_loop_of_asgirefs() -> bool:
    """Return whether ``async_to_sync`` must find the loop itself, because a loop called this code.

    Also if it must refuse, because a loop is running in this very thread.
    """
    running, bridged = loops_here()
    if running is not None or AsyncToSync.async_single_thread_context.get(None) is not None:
        return True
    if bridged is None or not bridged.is_running():
        return False
    # Code of a job, or of an async view in the thread waiting for it; but not a whole request that
    # an ASGI server handed to a thread, since the server's loop serves all requests.
    return bridged in loop_threads or getattr(AsyncToSync.executors, "current", None) is not None


def resident_here() -> Resident | None:
    """Return the resident running this code, if any."""
    return running_resident.get()


def runs_resident_of(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether a resident of ``loop``, the running loop, is running this code."""
    resident = running_resident.get()
    return resident is not None and resident.loop is loop
