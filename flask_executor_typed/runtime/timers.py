"""Functions that are called after some seconds, each in a thread of its own."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from functools import partial

from .threads import start_thread

__all__ = ("Timers",)

_SWEPT_FROM = 100
"""Cancelled timers that are kept until their time comes, unless they are more than half."""


class _Timer:
    __slots__ = ("fn", "number", "when")

    def __init__(self, when: float, number: int, fn: Callable[[], object]) -> None:
        self.when = when
        self.number = number
        self.fn: Callable[[], object] | None = fn  # None: cancelled; guarded by Timers._changed

    def __lt__(self, other: _Timer) -> bool:
        return (self.when, self.number) < (other.when, other.number)


class Timers:
    """Time limits, kept by one thread, which starts with the first. Thread-safe.

    Not on an event loop: a job that blocks the loop would suspend the limits of all other jobs.
    What a timer calls must not raise. It may block: it fails a future, whose callbacks may.
    """

    # The clock is bound here, because freezegun replaces time.monotonic in modules later.
    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._changed = threading.Condition(threading.RLock())  # reentrant: a finalizer may cancel
        # Guarded by _changed, as all that follows.
        self._heap: list[_Timer] = []
        self._numbers = itertools.count()
        self._cancelled = 0  # of those in the heap
        self._ends = False
        self._thread: threading.Thread | None = None
        self._calling: list[threading.Thread] = []  # that call the functions of timers

    def call_later(self, seconds: float, fn: Callable[[], object]) -> Callable[[], object]:
        """Call ``fn()`` in ``seconds``. Returns a function that prevents it.

        Raises:
            RuntimeError: the system has no thread for it.
        """
        with self._changed:
            if self._thread is None:
                self._thread = start_thread(f"{self._name}-timers", self._run)
            timer = _Timer(self._clock() + seconds, next(self._numbers), fn)
            heapq.heappush(self._heap, timer)
            if self._heap[0] is timer:
                self._changed.notify()
        return partial(self._cancel, timer)

    def _cancel(self, timer: _Timer) -> None:
        with self._changed:
            if timer.fn is None:  # cancelled before, or called
                return
            timer.fn = None  # what it refers to is free now, not when its time comes
            self._cancelled += 1
            if self._cancelled > _SWEPT_FROM and 2 * self._cancelled > len(self._heap):
                self._heap = [each for each in self._heap if each.fn is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0
            if self._ends:
                self._changed.notify()

    def end(self) -> None:
        """End the thread as soon as no timer is left."""
        with self._changed:
            self._ends = True
            self._changed.notify()

    def threads(self) -> list[threading.Thread]:
        with self._changed:
            calling = [each for each in self._calling if each.is_alive()]
            return calling if self._thread is None else [*calling, self._thread]

    def _run(self) -> None:
        while (fn := self._next()) is not None:
            self._call(fn)
            del fn  # an idle thread keeps nothing alive

    def _call(self, fn: Callable[[], object]) -> None:
        try:
            # Few limits are ever reached, so a thread for each costs less than keeping some. With
            # the lock: it finds itself among the threads, if it asks.
            with self._changed:
                self._calling = [each for each in self._calling if each.is_alive()]
                self._calling.append(start_thread(f"{self._name}-timer", fn))
        except (RuntimeError, OSError):  # no more threads, or Python 3.12 is exiting
            fn()

    def _next(self) -> Callable[[], object] | None:
        """Wait for the next timer, and take its function; ``None`` at the end."""
        with self._changed:
            while True:
                while self._heap and self._heap[0].fn is None:
                    heapq.heappop(self._heap)
                    self._cancelled -= 1
                if not self._heap:
                    if self._ends:
                        # The next call_later() starts another thread: a job that still runs may
                        # get a limit after the last of the others was lifted.
                        self._thread = None
                        return None
                    self._changed.wait()
                elif (left := self._heap[0].when - self._clock()) > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                else:
                    timer = heapq.heappop(self._heap)
                    fn, timer.fn = timer.fn, None
                    return fn
