"""Watch a job's progress: from a loop, or by a function in the job's own thread.

The only module that adds and removes watchers of progress. In a worker process, backends/runner.py
uses it to report to the server process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from ..runtime.loop_inbox import LoopInbox, inbox_of_running_loop
from .base import ClaimableFuture, shared_lock
from .progress import Progress

__all__ = ("steps_of", "telling")


async def steps_of(future: ClaimableFuture[Any]) -> AsyncIterator[Progress]:
    """Yield the progress each time it has changed, until the job is done."""
    watcher = _ProgressWatcher(*inbox_of_running_loop())
    with telling(future, watcher.change):
        try:
            future._watch(watcher, first=True)
            last: Progress | None = None
            while True:
                # In this order: once the future is done, its progress is final.
                done, progress = future.done(), future._progress
                if progress is not None and progress is not last:
                    last = progress
                    yield progress
                elif done:
                    return
                else:
                    await watcher.until_changed()
        finally:
            future._take(watcher)


@contextlib.contextmanager
def telling(
    future: ClaimableFuture[Any], change: Callable[[], object]
) -> Generator[None, None, None]:
    """Call ``change()`` for each reported progress, in the job's thread."""
    with shared_lock():
        future._progress_watchers += (change,)
    try:
        yield
    finally:
        with shared_lock():
            watchers = future._progress_watchers
            future._progress_watchers = tuple(each for each in watchers if each is not change)


class _ProgressWatcher:
    """A task that iterates over ``future.watch()``, on the loop of ``inbox``."""

    __slots__ = ("_inbox", "_loop", "_posted", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop, inbox: LoopInbox) -> None:
        self._loop = loop
        self._inbox = inbox
        self._posted = False
        self._waiter: asyncio.Future[None] | None = None  # only the loop's thread touches it

    def __call__(self, future: object) -> None:
        self._inbox.post(self._wake)

    def change(self) -> None:
        # However often a job reports, the loop is woken once until the reader has looked. If two
        # threads both wake it, no harm is done. _wake() clears the flag before the reader looks, so
        # a report that comes afterwards wakes the loop again.
        if not self._posted:
            self._posted = True
            self._inbox.post(self._wake)

    def _wake(self) -> None:
        self._posted = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def until_changed(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter
