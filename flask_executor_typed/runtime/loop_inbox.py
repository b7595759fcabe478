"""Callbacks for an event loop, posted from any thread.

The only module that knows which inbox belongs to the loop that runs here.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import ref

__all__ = ("LoopInbox", "inbox_of_running_loop")

_DRAINED_AT_ONCE = 1000  # callbacks that an inbox runs before the loop sees to its other work


class LoopInbox:
    """Callbacks for one event loop, posted from any thread; many share one wake-up of the loop.

    ``call_soon_threadsafe`` writes to the loop's self-pipe each time it is called; here it is
    called once for all that arrives before the loop gets to it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._awake = False

    def is_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._loop() is loop

    def __len__(self) -> int:
        return len(self._posted)

    def waiting(self) -> list[tuple[Callable[..., object], tuple[Any, ...]]]:
        """Return the posted functions that have not been called, with their arguments."""
        return list(self._posted.copy())  # copy() is one step, which other threads cannot disturb

    def post(self, fn: Callable[..., object], *args: Any) -> bool:
        """Call ``fn(*args)`` on the loop soon, in order. ``False`` if the loop is gone."""
        self._posted.append((fn, args))
        # No lock: _drain() clears the flag before it looks at the deque, and we look at the flag
        # after we filled the deque. So the second thread sees what the first has done: either
        # _drain() finds our entry, or we find the flag cleared and wake the loop again. Two
        # posters may both wake it; the second wake-up finds nothing to do.
        return self._awake or self._wake()

    def _wake(self) -> bool:
        loop = self._loop()
        if loop is None:
            return False
        try:
            self._awake = True
            loop.call_soon_threadsafe(self._drain)
        except BaseException as error:
            # A signal handler may raise here, and the stack may be too deep. The loop was not
            # woken, or once more does no harm: the next to post must wake it.
            self._awake = False
            if isinstance(error, RuntimeError) and loop.is_closed():
                return False
            raise
        return True

    def _drain(self) -> None:
        self._awake = False
        try:
            for _ in range(_DRAINED_AT_ONCE):
                try:
                    fn, args = self._posted.popleft()
                except IndexError:
                    return
                fn(*args)
        finally:
            if self._posted and not self._awake:  # the loop's other work gets its turn first
                self._wake()


class _ThisThread(threading.local):
    inbox: LoopInbox | None = None
    """Of the loop that runs in this thread, made when something is awaited there."""


_this_thread = _ThisThread()


def inbox_of_running_loop() -> tuple[asyncio.AbstractEventLoop, LoopInbox]:
    loop = asyncio.get_running_loop()
    inbox = _this_thread.inbox
    if inbox is None or not inbox.is_of(loop):
        inbox = _this_thread.inbox = LoopInbox(loop)
    return loop, inbox
