"""Leads asgiref's ``async_to_sync`` from a worker thread to a loop that lasts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync

__all__ = ("bridge_this_thread", "loops_here", "stock_async_to_sync")

R = TypeVar("R")


def bridge_this_thread(
    loop: asyncio.AbstractEventLoop, waits: Callable[[], object], goes_on: Callable[[], object]
) -> None:
    """Make ``async_to_sync`` in this thread use ``loop``, not a new one per call."""
    # Where SyncToAsync notes the loop that called a thread, and AsyncToSync looks for it.
    SyncToAsync.threadlocal.main_event_loop = _Bridge(loop, waits, goes_on)
    SyncToAsync.threadlocal.main_event_loop_pid = os.getpid()


class _Bridge:
    """A loop as asgiref uses it in a worker, which waits for each coroutine that it gives it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        waits: Callable[[], object],
        goes_on: Callable[[], object],
    ) -> None:
        self.loop = loop
        self.create_task = loop.create_task
        self._waits = waits
        self._goes_on = goes_on

    def call_soon_threadsafe(
        self, create_task: Callable[[Coroutine[Any, Any, None]], object], awaitable: Awaitable[None]
    ) -> None:
        run = self._run(awaitable)
        self._waits()
        try:
            self.loop.call_soon_threadsafe(create_task, run)
        except BaseException:  # the loop is closed, and asgiref makes another
            run.close()
            self._goes_on()
            raise

    async def _run(self, awaitable: Awaitable[None]) -> None:
        try:
            await awaitable
        finally:
            self._goes_on()


def loops_here() -> tuple[asyncio.AbstractEventLoop | None, asyncio.AbstractEventLoop | None]:
    """The loop that runs in this thread, and the one that ``async_to_sync`` would use."""
    of_asgiref = getattr(SyncToAsync.threadlocal, "main_event_loop", None)
    bridged = of_asgiref.loop if isinstance(of_asgiref, _Bridge) else of_asgiref
    return asyncio._get_running_loop(), bridged


def stock_async_to_sync(fn: Callable[..., Awaitable[R]]) -> Callable[..., R]:
    """What ``Flask.async_to_sync`` returns."""
    return AsyncToSync(fn)
