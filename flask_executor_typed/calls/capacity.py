"""Count an executor's calls and limit how many may be pending."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from dataclasses import dataclass
from typing import Any

from ..errors import DeadlockError, QueueFullError
from ..futures.base import ClaimableFuture
from ..futures.callbacks import Callback, callbacks_of
from ..runtime.frames import line_of_caller

__all__ = ("Capacity", "ExecutorStats", "are_idle", "stats_of", "watching_for_idle", "what_runs")

_Counted = ClaimableFuture[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorStats:
    """What an executor does in this process, for one app: made by ``executor.stats()``."""

    pending: int
    """Calls that were accepted and have not started."""

    running: int
    """Calls that have started and are not done, coroutines that wait included."""

    succeeded: int
    """Calls that have a result, since the workers of this process were made."""

    failed: int
    """Calls that raised, or took too long, since then."""

    cancelled: int
    """Calls that were cancelled, before or while they ran, since then."""

    workers: int
    """Threads that run plain functions now, or that each look after a worker process. Of threads
    that are not ours, with ``'sync'`` or an executor of yours, those that run a call; 0 if the
    workers are another library's processes."""

    loops: int
    """Threads that each run an event loop now."""

    oldest_pending_age: float
    """Seconds since the oldest of the pending calls was submitted; 0.0 if there is none."""


class Capacity:
    """The calls of one kind that were accepted and are not done."""

    # No lock in the way of a call, as long as there is no bound: items of a dict are set and
    # removed atomically, with the GIL and without it, and so is the next of a count taken. (Only
    # on the experimental free-threaded 3.13 two threads may take the same one.)

    def __init__(self, label: str, key: str, max_pending: int | None, workers: int = 0) -> None:
        self._label = label
        self._key = key
        self._max_pending = max_pending
        # Set to None under _room, when it is closed.
        self._limit = None if max_pending is None else max_pending + workers
        self._calls: dict[_Counted, None] = {}  # oldest first; with a bound, added to under _room
        self._room = threading.Condition()  # reentrant: a finalizer may settle a future meanwhile
        self._waiting = 0  # for room, or for no call to be left; guarded by _room
        self._idle_watchers: list[Callable[[], object]] = []  # guarded by _room
        # Done callbacks that are not over, of calls that are done or will be. The callbacks of a
        # call are added before the call is removed, and the calls that a callback submits are added
        # before it is over, so that the work is always in one of the two.
        self._callbacks: dict[Callback, None] = {}
        self._callbacks_over = itertools.count()
        self._failed = itertools.count()
        self._counts = {FINISHED: itertools.count(), CANCELLED_AND_NOTIFIED: itertools.count()}

    def admit(self, future: _Counted, seconds: float | None, now: bool = True) -> None:
        """Count a call from now on, if there is room.

        Args:
            future: The call's.
            seconds: How long to wait for room; ``None``: not at all.
            now: Or else look for room only; :meth:`add` is to come later.

        Raises:
            DeadlockError: waiting would stop the event loop that runs here.
            QueueFullError: there is no room.
        """
        if self._limit is None:
            if now:
                future._counter = self  # as add() does, in half of the time
                self._calls[future] = None
            return
        if seconds and asyncio._get_running_loop() is not None:
            raise DeadlockError(
                line_of_caller(),
                f"room for {future.name}",
                "which would stop the event loop here; use 'await asyncio.to_thread("
                "executor.using(block=...).submit, ...)'",
            )
        with self._room:
            if not self._has_room() and not (seconds and self._wait_for_room(seconds)):
                bound = self._max_pending or 0
                raise QueueFullError(self._label, self._key, bound, line_of_caller())
            if now:
                self.add(future)
            else:
                self._room.notify()  # of room that was found, and left to others

    def add(self, future: _Counted) -> None:
        """Count a call from now on, whether or not there is room."""
        future._counter = self
        self._calls[future] = None

    def settle(self, future: _Counted, status: str, exception: BaseException | None) -> None:
        """Count how a call ends. To be called before those who wait for it hear of it."""
        next(self._failed if exception is not None else self._counts[status])
        if future._has_callbacks:
            for callback in callbacks_of(future):
                self.expect(callback)
        self._calls.pop(future, None)
        if self._waiting:
            self._tell_who_waits()

    def remove(self, future: _Counted) -> None:
        """Forget a call that is done, or was not accepted."""
        future._counter = None
        self._calls.pop(future, None)
        if self._waiting:
            self._tell_who_waits()

    def expect(self, callback: Callback) -> None:
        """Count a done callback as work from now on."""
        callback.counter = self
        self._callbacks[callback] = None

    def callback_is_over(self, callback: Callback) -> None:
        next(self._callbacks_over)
        self._callbacks.pop(callback, None)
        if self._waiting:
            self._tell_who_waits()

    def close(self) -> None:
        """Let everybody in: there will be no room any more, and the backend refuses them."""
        with self._room:
            self._limit = None
            self._room.notify_all()

    def _tell_who_waits(self) -> None:
        # A submitter says that it waits before it looks for room, and a call is removed before
        # somebody looks for who waits. So whoever is second sees what the other did.
        with self._room:
            self._room.notify()
            if not self._calls and not self._callbacks:
                for wake in self._idle_watchers:
                    wake()

    def _has_room(self) -> bool:
        return self._limit is None or len(self._calls) < self._limit

    def _wait_for_room(self, seconds: float) -> bool:
        self._waiting += 1
        try:
            return self._room.wait_for(self._has_room, min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._waiting -= 1

    def watch_for_idle(self, wake: Callable[[], object]) -> None:
        """Have ``wake()`` called whenever no call and no callback is left, until it is forgotten.

        From any thread, which must not be blocked by it.
        """
        with self._room:
            self._waiting += 1
            self._idle_watchers.append(wake)

    def forget_idle_watcher(self, wake: Callable[[], object]) -> None:
        with self._room:
            self._waiting -= 1
            self._idle_watchers.remove(wake)

    def is_empty(self) -> bool:
        """Return whether no call and no callback is left, as far as two looks can tell."""
        return not self._calls and not self._callbacks

    def over(self) -> int:
        """Return how many calls and callbacks are over."""
        return sum(self.ended()) + _taken(self._callbacks_over)

    def callbacks(self) -> list[Callback]:
        """Return the done callbacks that are not over."""
        return list(self._callbacks)

    def calls(self) -> list[_Counted]:
        """The calls that are not done, oldest first. In one step, since others come and go."""
        return list(self._calls)

    def ended(self) -> tuple[int, int, int]:
        """How many calls succeeded, failed, and were cancelled."""
        succeeded, cancelled = self._counts.values()
        return _taken(succeeded), _taken(self._failed), _taken(cancelled)


def stats_of(capacities: Iterable[Capacity], workers: int, loops: int) -> ExecutorStats:
    capacities = list(capacities)
    calls = [call for each in capacities for call in each.calls()]
    waiting = [call._submitted for call in calls if not call._started]
    succeeded, failed, cancelled = map(
        sum, zip(*(each.ended() for each in capacities), strict=True)
    )
    return ExecutorStats(
        pending=len(waiting),
        running=len(calls) - len(waiting),
        succeeded=succeeded,
        failed=failed,
        cancelled=cancelled,
        workers=workers,
        loops=loops,
        oldest_pending_age=max(0.0, time.time() - min(waiting)) if waiting else 0.0,
    )


def are_idle(capacities: Iterable[Capacity]) -> bool:
    """Return whether no call is left in any of them, nor a done callback."""
    # Work moves: a callback may submit to an executor that was looked at before, and end before it
    # is looked at itself. But then something is over that was not. If nothing has ended between the
    # first look and the last, then what is there at the last look was there all the time.
    capacities = list(capacities)
    before = [each.over() for each in capacities]
    empty = all(each.is_empty() for each in capacities)
    return empty and before == [each.over() for each in capacities]


@contextlib.contextmanager
def watching_for_idle(
    capacities: Iterable[Capacity], wake: Callable[[], object]
) -> Generator[None, None, None]:
    """Have ``wake()`` called whenever one of them has become idle."""
    watched: list[Capacity] = []
    try:
        for each in capacities:
            each.watch_for_idle(wake)
            watched.append(each)
        yield
    finally:
        for each in watched:
            each.forget_idle_watcher(wake)


def what_runs(capacities: Iterable[Capacity]) -> list[str]:
    """Describe the calls and callbacks that are not over, for messages."""
    now = time.time()
    found: list[str] = []
    for each in capacities:
        for call in each.calls():
            how = f"running for {now - call._started:.1f} s" if call._started else "pending"
            key = "" if call.key is None else f", key {call.key!r}"
            found.append(f"{call.name} ({how}{key})")
        found.extend(f"the done callback {callback.name}" for callback in each.callbacks())
    return found


def _taken(count: itertools.count[int]) -> int:
    """How many were taken of a count; it tells nobody in another way."""
    return int(repr(count)[len("count(") : -1])
