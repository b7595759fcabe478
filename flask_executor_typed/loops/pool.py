"""Loop threads, started one by one as they are needed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ..calls import Call
from ..errors import ExecutorClosedError
from ..runtime.exit import exit_has_begun
from ..runtime.timers import Timers
from .asgiref_bridge import bridge_this_thread, loops_here
from .thread import LoopThread

__all__ = ("LoopPool",)

R = TypeVar("R")


class LoopPool:
    """Loop threads, started one by one as they are needed. Every method is thread-safe."""

    def __init__(
        self,
        name: str,
        max_loops: int,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
        slow_callback: float | None = None,
    ) -> None:
        self._name = name
        self._new_loop = new_loop
        self._slow_callback = slow_callback
        self._max_loops = max_loops
        self._lock = threading.RLock()  # reentrant: a finalizer may shut down while it is held
        self._threads: list[LoopThread] = []  # guarded by _lock; only grows
        self._only: LoopThread | None = None  # the only one, if there can be no more
        self._refusing = self._ended = False  # guarded by _lock
        self._timers = Timers(name)

    def size(self) -> int:
        """Return the number of running loops."""
        return sum(thread.alive for thread in list(self._threads))

    def submit(self, call: Call[Any]) -> None:
        """Run the coroutine function of ``call`` on the least busy loop. Never blocks.

        Raises:
            ExecutorClosedError: the pool was shut down.
        """
        (self._only or self._least_busy()).submit(call)

    def wait_for(self, awaitable: Awaitable[R]) -> R:
        """Await ``awaitable`` on a loop, and block the current thread until it is done."""
        return self._least_busy().wait_for(awaitable)

    def call_later(self, seconds: float, fn: Callable[[], object]) -> Callable[[], object]:
        """Call ``fn()`` after ``seconds``, even if all loops are blocked.

        Returns a function that cancels it.
        """
        return self._timers.call_later(seconds, fn)

    def start_one(self) -> None:
        """Start a loop if there is none."""
        if not self._threads:
            self._least_busy()

    def bridge_this_thread(
        self, waits: Callable[[], object], goes_on: Callable[[], object]
    ) -> None:
        """Make ``async_to_sync`` in this thread use a loop of the pool, not a new one per call."""
        bridge_this_thread(self._least_busy().loop, waits, goes_on)

    def _least_busy(self) -> LoopThread:
        threads = self._threads
        if len(threads) < self._max_loops and all(thread.busy for thread in threads):
            with self._lock:
                if self._ended:
                    raise ExecutorClosedError(self._name, exit_has_begun())
                if len(threads) < self._max_loops:
                    self._start_another()
        if len(threads) == 1:
            return threads[0]
        return min(threads, key=lambda thread: thread.busy)

    def _start_another(self) -> None:
        try:
            thread_name = f"{self._name}-loop-{len(self._threads)}"
            thread = LoopThread(thread_name, self._name, self._new_loop, self._slow_callback)
        except Exception:  # no more threads or files, interpreter exit, or EXECUTOR_LOOP_FACTORY
            if not self._threads:
                raise
        else:
            self._threads.append(thread)
            self._only = thread if self._max_loops == 1 else None
            if self._refusing:  # this loop is for a plain job that is still running, not for calls
                thread.refuse(cancel_pending=False)

    def refuse(self, cancel_pending: bool) -> None:
        """Refuse calls from now on. The loops keep running accepted ones until :meth:`end`."""
        with self._lock:
            self._refusing = True
        for thread in self._threads:
            thread.refuse(cancel_pending)

    def end(self) -> None:
        """End each loop as soon as its calls are done."""
        with self._lock:
            self._ended = True
        self._timers.end()
        for thread in self._threads:
            thread.end()

    def abandon(self, seconds: float) -> None:
        """Fail the calls that are not done after ``seconds``, cancel them, and end each loop."""
        with self._lock:
            self._ended = True
            threads = self._threads.copy()
        self._timers.end()
        for thread in threads:
            thread.abandon(seconds)

    def threads(self) -> list[threading.Thread]:
        """Return the threads of the loops, those that block for coroutines, and the timers'."""
        of_loops = [each for thread in self._threads for each in thread.threads()]
        return [*of_loops, *self._timers.threads()]

    def join(self) -> None:
        """Wait until the loops have ended."""
        for thread in self._threads:
            thread.join()

    def blocked(self, seconds: float) -> list[threading.Thread]:
        """Return the threads whose loops do not answer within ``seconds``. Blocks that long."""
        end = time.monotonic() + seconds
        asked = [(thread, thread.ask()) for thread in list(self._threads)]
        return [
            thread.thread
            for thread, answered in asked
            if not answered.wait(max(0.0, end - time.monotonic())) and thread.thread.is_alive()
        ]

    def serves_this_thread(self) -> bool:
        """Return whether a call of this pool is running here: on a loop, or in a bridged thread."""
        here = loops_here()
        return any(thread.loop in here for thread in self._threads)
