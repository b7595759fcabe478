"""Count an executor's calls and limit how many may be pending."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from dataclasses import dataclass
from typing import Any

from ..errors import DeadlockError, ExecutorBusyError, QueueFullError
from ..futures.base import ClaimableFuture, times_of
from ..futures.callbacks import Callback, callbacks_of
from ..runtime.frames import line_of_caller
from ..runtime.running_loop import running_loop

__all__ = (
    "Capacity",
    "ExecutorStats",
    "are_idle",
    "stats_of",
    "wait_until_idle",
    "watching_for_idle",
    "what_runs",
)

_Counted = ClaimableFuture[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorStats:
    """The activity of an executor in this process, for one app; see ``executor.stats()``."""

    pending: int
    """Calls that were accepted and have not started."""

    running: int
    """Calls that have started and are not done, including waiting coroutines."""

    succeeded: int
    """Calls that have succeeded since this process's workers were created."""

    failed: int
    """Calls that have raised or exceeded their time limit since then."""

    cancelled: int
    """Calls that were cancelled since then, before or while they ran."""

    workers: int
    """Current threads that run plain functions, or that each look after a worker process. With
    ``'sync'`` or an executor of your own, the threads running a call; 0 if its workers are
    processes."""

    loops: int
    """Current threads that each run an event loop."""

    oldest_pending_age: float
    """Seconds since the oldest pending call was submitted; 0.0 if there is none."""


class Capacity:
    """The accepted and unfinished calls of one kind: plain functions, or coroutines."""

    # Without a bound, no call takes a lock: setting and removing a dict item is atomic, with and
    # without the GIL, and so is taking the next number of a count. (Only on the experimental
    # free-threaded 3.13 may two threads take the same number.)

    def __init__(self, label: str, key: str, max_pending: int | None, workers: int = 0) -> None:
        self._label = label
        self._key = key
        self._max_pending = max_pending
        # Set to None under _room when the executor closes.
        self._limit = None if max_pending is None else max_pending + workers
        # Oldest first; each is False. With a bound, added to under _room.
        self._calls: dict[_Counted, bool] = {}
        self._room = threading.Condition()  # reentrant: a finalizer may settle a future meanwhile
        self._waiting = 0  # waiters for room or for an idle executor; guarded by _room
        self._idle_watchers: list[Callable[[], object]] = []  # guarded by _room
        # Done callbacks that have not finished, of calls that are done or about to be. A call's
        # callbacks are added before the call is removed, and a call that a callback submits is
        # added before the callback finishes, so that work is always counted in one of the two.
        self._callbacks: dict[Callback, None] = {}
        self._callbacks_over = itertools.count()
        self._failed = itertools.count()
        self._counts = {FINISHED: itertools.count(), CANCELLED_AND_NOTIFIED: itertools.count()}

    def admit(self, future: _Counted, seconds: float | None, now: bool = True) -> None:
        """Count a call, if there is room.

        Args:
            future: The call's future.
            seconds: How long to wait for room; ``None``: not at all.
            now: If false, only check for room; :meth:`add` counts the call later.

        Raises:
            DeadlockError: waiting would stop the event loop running in this thread.
            QueueFullError: there is no room.
        """
        if self._limit is None:
            if now:
                future._counter = self  # as add() does, in half the time
                self._calls[future] = False
            return
        if seconds and running_loop() is not None:
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
                self._room.notify()  # the room found here is still free for another

    def add(self, future: _Counted) -> None:
        """Count a call, even if there is no room."""
        future._counter = self
        self._calls[future] = False

    def settle(self, future: _Counted) -> None:
        """Count how a call ended. May be called twice, and by two threads at once."""
        if future._has_callbacks:
            for callback in callbacks_of(future):
                self.expect(callback)
        if self._calls.pop(future, True):
            return  # counted before
        # Interrupted here, the call is in no count, but not pending for ever either.
        state, _, exception, *_ = future._outcomes[0]
        next(self._failed if exception is not None else self._counts[state])
        if self._waiting:
            self._tell_who_waits()

    def remove(self, future: _Counted) -> None:
        """Stop counting a call that is done or was not accepted."""
        future._counter = None
        self._calls.pop(future, True)
        if self._waiting:
            self._tell_who_waits()

    def expect(self, callback: Callback) -> None:
        """Count a done callback as work, until it has finished."""
        callback.counter = self
        self._callbacks[callback] = None
        if callback.is_over:  # run by another thread that settles the call, and not counted there
            self.callback_is_over(callback)

    def callback_is_over(self, callback: Callback) -> None:
        next(self._callbacks_over)
        self._callbacks.pop(callback, None)
        if self._waiting:
            self._tell_who_waits()

    def close(self) -> None:
        """Admit all calls from now on, so that waiting submitters are refused by the backend."""
        with self._room:
            self._limit = None
            self._room.notify_all()

    def _tell_who_waits(self) -> None:
        # A submitter counts itself in _waiting before it looks for room, and a call is removed
        # before _waiting is looked at. So the second of the two always sees the first.
        with self._room:
            self._room.notify()
            if not self._calls and not self._callbacks:
                for wake in self._idle_watchers:
                    wake()

    def _has_room(self) -> bool:
        return self._limit is None or len(self._calls) < self._limit or self._count_late()

    def _count_late(self) -> bool:
        """Count calls whose future is done, before its own thread does; ``False`` if none is."""
        done = [future for future in self._calls.copy() if future._outcomes]
        for future in done:
            self.settle(future)
        return bool(done)

    def _wait_for_room(self, seconds: float) -> bool:
        self._waiting += 1
        try:
            return self._room.wait_for(self._has_room, min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._waiting -= 1

    def watch_for_idle(self, wake: Callable[[], object]) -> None:
        """Call ``wake()`` whenever no call and no callback is left, until it is forgotten.

        It is called in any thread, and must not block.
        """
        with self._room:
            self._waiting += 1
            self._idle_watchers.append(wake)

    def forget_idle_watcher(self, wake: Callable[[], object]) -> None:
        with self._room:
            self._waiting -= 1
            self._idle_watchers.remove(wake)

    def is_empty(self) -> bool:
        """Return whether no call and no callback is left. Not atomic; see :func:`are_idle`."""
        return not self.calls() and not self._callbacks

    def over(self) -> int:
        """Return how many calls and callbacks have finished so far."""
        return sum(self.ended()) + _taken(self._callbacks_over)

    def callbacks(self) -> list[Callback]:
        """Return the done callbacks that have not finished."""
        return list(self._callbacks)

    def calls(self) -> list[_Counted]:
        """Return the unfinished calls, oldest first."""
        self._count_late()
        return list(self._calls)  # atomic: other threads add and remove calls

    def ended(self) -> tuple[int, int, int]:
        """Return how many calls have succeeded, failed, and been cancelled."""
        succeeded, cancelled = self._counts.values()
        return _taken(succeeded), _taken(self._failed), _taken(cancelled)


def stats_of(capacities: Iterable[Capacity], workers: int, loops: int) -> ExecutorStats:
    capacities = list(capacities)
    times = [times_of(call) for each in capacities for call in each.calls()]
    waiting = [submitted for submitted, started in times if not started]
    succeeded, failed, cancelled = map(
        sum, zip(*(each.ended() for each in capacities), strict=True)
    )
    return ExecutorStats(
        pending=len(waiting),
        running=len(times) - len(waiting),
        succeeded=succeeded,
        failed=failed,
        cancelled=cancelled,
        workers=workers,
        loops=loops,
        oldest_pending_age=max(0.0, time.time() - min(waiting)) if waiting else 0.0,
    )


def are_idle(capacities: Iterable[Capacity]) -> bool:
    """Return whether no call and no done callback is left in any of them."""
    # Work moves: a callback may submit to an executor that was already checked, and finish before
    # it is checked itself. But then the number of finished calls and callbacks has grown. If it has
    # not, no work can have moved between the checks.
    capacities = list(capacities)
    before = [each.over() for each in capacities]
    empty = all(each.is_empty() for each in capacities)
    return empty and before == [each.over() for each in capacities]


@contextlib.contextmanager
def watching_for_idle(
    capacities: Iterable[Capacity], wake: Callable[[], object]
) -> Generator[None, None, None]:
    """Call ``wake()`` whenever one of them becomes idle, until the block ends."""
    watched: list[Capacity] = []
    try:
        for each in capacities:
            each.watch_for_idle(wake)
            watched.append(each)
        yield
    finally:
        for each in watched:
            each.forget_idle_watcher(wake)


def wait_until_idle(capacities: Iterable[Capacity], timeout: float | None, label: str) -> None:
    """Block until no call is left in any of them, nor a done callback.

    Raises:
        ExecutorBusyError: time is up.
    """
    capacities = list(capacities)
    changed = threading.Event()
    end = None if timeout is None else time.monotonic() + timeout
    with watching_for_idle(capacities, changed.set):
        while not are_idle(capacities):
            seconds = None if end is None else end - time.monotonic()
            if seconds is not None and seconds <= 0:
                raise ExecutorBusyError(label, timeout or 0, what_runs(capacities))
            changed.wait(seconds)
            changed.clear()


def what_runs(capacities: Iterable[Capacity]) -> list[str]:
    """Describe the unfinished calls and callbacks, for messages."""
    now = time.time()
    found: list[str] = []
    for each in capacities:
        for call in each.calls():
            _, started = times_of(call)
            how = f"running for {now - started:.1f} s" if started else "pending"
            key = "" if call.key is None else f", key {call.key!r}"
            found.append(f"{call.name} ({how}{key})")
        found.extend(f"the done callback {callback.name}" for callback in each.callbacks())
    return found


def _taken(count: itertools.count[int]) -> int:
    """Return how many numbers a count has handed out; only its repr shows that."""
    return int(repr(count)[len("count(") : -1])
