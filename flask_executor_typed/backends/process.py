"""Run calls in other processes, for work that needs a processor of its own.

A call is bound to a process only when it is sent to one that is up. Until then it waits in the
queue, where cancelling, abandoning or a time limit can find it. So calls begin in the order in
which they were submitted, and no call is lost because a process starts or ends before the call has
begun.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections import Counter, OrderedDict
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from ..calls import Call
from ..errors import ExecutorClosedError, JobLostError, NestedProcessError
from ..runtime.exit import ClosableThreads, exit_has_begun
from ..runtime.threads import start_thread
from ..runtime.timers import Timers
from .capabilities import Capabilities
from .pickling import ContextDumper, Settings, load_error
from .process_call import End, ProcessCall
from .runner import FAILED, is_worker
from .starting import DEFAULT_START_METHOD
from .wire import Message
from .worker_process import Trouble, WorkerProcess

__all__ = ("ProcessBackend",)

_WARN_AFTER = 30.0
"""Seconds that a worker may take to load the app before a warning is logged; a guess."""

_CRASHES, _KILLS = 3, 10
"""Workers in a row that may end before they run anything, until a call is given up: by themselves,
or killed from outside, which says little about the app."""

_TRUSTED_FOR = 0.1
"""Seconds of idleness after which a worker is checked before it gets a call. A worker that dies
sooner is sent a call that it never reads; that call goes back to the front of the queue."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
"""Seconds between a failed start and the next, doubled each time; guesses."""

_LONGEST_PAUSE_AFTER_KILLS = 0.5
"""The same for workers killed from outside: the next one is likely to start."""

_LOAD_AGAIN_AFTER = 1.0
"""Seconds to wait at least before loading an app again that a worker could not load; a guess."""


class _State(Enum):
    VACANT = "no worker"
    STARTING = "its worker is starting"
    IDLE = "its worker is up"
    BUSY = "its worker has a call"


class _Seat:
    """A thread and its worker process, which it starts when there is a call for one."""

    def __init__(self) -> None:
        # Guarded by the backend's lock.
        self.state = _State.STARTING  # from the beginning: its thread is about to start
        self.has_begun = False  # whether the thread has
        self.worker: WorkerProcess | None = None
        self.call: ProcessCall | None = None


class _Failure(NamedTuple):
    """A failed start of a worker."""

    reason: str
    patience: int
    """Failures in a row until a call is given up. With 0, all calls are given up at once."""

    is_crash: bool = False
    error: bytes | None = None
    """The error that the worker has sent, pickled."""

    def error_of(self, name: str, count: int, begun: bool = False) -> BaseException:
        """Return the error for a call that is given up after ``count`` failures."""
        if self.error is not None:
            return load_error(self.error)
        if not self.is_crash:
            return JobLostError(name, self.reason, begun)
        reason = f"each of {count} worker processes {self.reason} when it started"
        return JobLostError(name, reason, begun)


def _failure_of(error: Exception) -> _Failure:
    reason = f"no worker process could be started ({type(error).__name__}: {error})"
    is_killed = isinstance(error, (EOFError, ConnectionError, FileNotFoundError))  # the fork server
    return _Failure(reason, _KILLS if is_killed else _CRASHES)


def _death_of(worker: WorkerProcess) -> _Failure:
    how = worker.bury()
    # multiprocessing reports 255 if the exit code is unknown, as the fork server was killed too.
    kills = {-signal.SIGTERM, -getattr(signal, "SIGKILL", signal.SIGTERM), 255, None}
    is_killed = worker.exit_code in kills
    return _Failure(how, _KILLS if is_killed else _CRASHES, is_crash=True)


_SHUT_DOWN = _Failure("its worker processes were killed", 0)


class ProcessBackend(ClosableThreads):
    """Worker processes. Another one is started only while all of them are busy."""

    def __init__(
        self,
        settings: Settings,
        max_workers: int,
        start_method: str | None,
        start_timeout: float,
        key_of_start_timeout: str,
    ) -> None:
        self.capabilities: Capabilities = Capabilities(
            contexts=settings.app is not None,
            coroutines=True,
            progress=True,
            cancel_running=True,
            kill=True,
            time_limits=True,
            retries=True,
        )
        self._settings = settings
        self._max_workers = max_workers
        self._start_method = start_method or DEFAULT_START_METHOD
        self._start_timeout = start_timeout
        self._key_of_start_timeout = key_of_start_timeout
        self._contexts = ContextDumper(settings)
        self._numbers = itertools.count(1)  # of worker processes, for their names
        self._timers = Timers(settings.name)
        # Everything below is guarded by _lock. It is held for a few steps only, never while users'
        # code runs or anything blocks. Reentrant: a finalizer may shut down while it is held.
        self._lock = threading.RLock()
        self._call_came = threading.Condition(self._lock)  # or will never; for idle seats
        self._worker_wanted = threading.Condition(self._lock)  # or will never be; for vacant seats
        self._pending: OrderedDict[ProcessCall, None] = OrderedDict()  # first in, first out
        # Those that a close() is to cancel, also one that is interrupted and made again.
        self._taken: list[ProcessCall] = []
        self._seats: list[_Seat] = []
        self._count: Counter[_State] = Counter()  # of seats
        self._threads: list[threading.Thread] = []  # of seats; some may have ended
        self._closed = False
        self._killed = False
        self._failures = 0  # failed starts in a row, reset when a worker has run a call
        self._no_start_before = 0.0
        self._refusal: _Failure | None = None  # for new calls until then, while no worker is up

    def submit(self, call: Call[Any]) -> None:
        name = call.future.name
        if is_worker():
            raise NestedProcessError(name)
        # Pickled here, so that errors are raised in the submitter.
        item = ProcessCall(call, self._contexts.dump(call))
        try:
            refusal = self._accept(item)
            # A call that is settled before a worker takes it leaves the queue, so that no worker
            # is started for it.
            if not call.watch(partial(self._note_settled, item)):
                self._withdraw(item)
            error = self._add_seat()
        except BaseException:  # refused, or interrupted by a signal: leave no call behind
            if self._withdraw(item):
                call.refuse()
            raise
        if error is not None and not self._seats and self._withdraw(item):
            call.refuse()
            raise error
        if refusal is not None:
            item.fail(refusal.error_of(name, 1))

    def _accept(self, item: ProcessCall) -> _Failure | None:
        """Queue a call; or return the recent failure, if no worker could load the app just now."""
        with self._lock:
            if self._closed:
                raise ExecutorClosedError(self._settings.name, exit_has_begun())
            if self._refusal is not None and self._no_worker_is_up():
                if time.monotonic() < self._no_start_before:
                    return self._refusal
                self._refusal = None
            self._pending[item] = None
            self._wake_seats()
            return None

    def sizes(self) -> tuple[int, int]:
        with self._lock:
            return len(self._seats) - self._count[_State.VACANT], 0

    def close(self, *, cancel_pending: bool) -> None:
        with self._lock:
            self._closed = True
            if cancel_pending:
                self._taken += self._pending
                self._pending.clear()
            self._end_if_done()
        self._timers.end()
        for item in self._taken.copy():
            item.call.cancel()
            with contextlib.suppress(ValueError):  # another thread cancels them as well
                self._taken.remove(item)

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            return self._threads + self._timers.threads()

    def abandon(self, seconds: float) -> None:
        """Fail pending and running calls. The workers are ordered to cancel the running ones."""
        with self._lock:
            items = self._take_all()
            items += [seat.call for seat in self._seats if seat.call is not None]
            self._end_if_done()
        for item in items:
            item.call.abandon(seconds)

    def kill(self) -> bool:
        with self._lock:
            self._killed = True  # a thread that is just starting a worker sees this, and kills it
            workers = [seat.worker for seat in self._seats if seat.worker is not None]
        for worker in workers:
            worker.kill()
        return bool(workers)

    def try_to_start(self) -> None:
        """Start a worker process, let it load the app, and end it.

        Raises:
            ConfigError: the worker could not load the app.
            JobLostError: no process can be started, or each ends before it has loaded the app.
        """
        for count in itertools.count(1):
            seat = _Seat()
            failure = self._start_worker(seat)
            self._end_worker(seat, failure)
            if failure is None:
                return
            if count >= failure.patience:
                raise failure.error_of(self._settings.name, count)

    # -- the queue and the number of seats it needs; all with the lock held - -----------------

    def _wanted(self) -> int:
        """Return how many workers are needed beyond the idle and starting ones."""
        return len(self._pending) - self._count[_State.IDLE] - self._count[_State.STARTING]

    def _wants_another_seat(self) -> bool:
        can_start = len(self._seats) < self._max_workers
        return can_start and self._wanted() > self._count[_State.VACANT]

    def _wake_seats(self) -> None:
        """Wake the threads concerned after a call has come, or a seat has lost its worker."""
        self._call_came.notify()
        self._worker_wanted.notify(max(0, self._wanted()))

    def _is_done(self) -> bool:
        return self._closed and not self._pending

    def _end_if_done(self) -> None:
        if self._is_done():
            self._call_came.notify_all()
            self._worker_wanted.notify_all()
            for seat in self._seats:
                if seat.state is _State.STARTING and seat.worker is not None:
                    seat.worker.kill()  # no call is left for it: do not wait for its start

    def _take_all(self) -> list[ProcessCall]:
        items = list(self._pending)
        self._pending.clear()
        return items

    def _no_worker_is_up(self) -> bool:
        """Return whether all seats are vacant: no worker is up or starting."""
        return self._count[_State.VACANT] == len(self._seats)

    def _move(self, seat: _Seat, state: _State) -> None:
        self._count[seat.state] -= 1
        self._count[state] += 1
        seat.state = state

    # -- called from any thread -------------------------------------------------------------------

    def _note_settled(self, item: ProcessCall, future: object) -> None:
        # Usually, the call has run. If a seat's thread is just putting it back into the queue, that
        # thread sees that it is settled.
        if item in self._pending:  # cancelled, abandoned or out of time
            self._withdraw(item)

    def _withdraw(self, item: ProcessCall) -> bool:
        """Take a call out of the queue; ``False`` if it was not there."""
        with self._lock:
            if item not in self._pending:
                return False
            del self._pending[item]
            self._end_if_done()
            return True

    def _add_seat(self) -> Exception | None:
        """Start the thread of another seat, if one is needed. Return the error if that fails.

        The thread is started without the lock, which it needs: a signal handler may run here
        meanwhile, and wait for the thread. The seat is counted first, so that no other seat is
        started for the same call. If the thread does not start, or a signal handler raises, the
        seat is removed; a thread that starts anyway sees that.
        """
        if not self._wants_another_seat():  # the usual case; checked again under the lock
            return None
        seat = _Seat()
        try:
            with self._lock:
                if not self._wants_another_seat():
                    return None
                name = f"{self._settings.name}-process-{len(self._seats)}"
                self._seats.append(seat)
                self._count[seat.state] += 1
            start_thread(name, partial(self._serve, seat))
        except BaseException as error:
            with self._lock:
                if not seat.has_begun:
                    self._remove(seat)
            if not isinstance(error, Exception):
                raise
            return error  # the system has no more threads, or the interpreter is ending
        return None

    def _remove(self, seat: _Seat) -> None:
        with self._lock:
            if seat in self._seats:
                self._seats.remove(seat)
                self._count[seat.state] -= 1

    # -- in the thread of a seat -------------------------------------------------------------------

    def _serve(self, seat: _Seat) -> None:
        with self._lock:
            if seat not in self._seats:
                return
            seat.has_begun = True
            self._threads = [each for each in self._threads if each.is_alive()]
            self._threads.append(threading.current_thread())
        try:
            while self._wait_until_wanted(seat):
                failure = self._start_worker(seat) or self._serve_calls(seat)
                if failure is not None:
                    self._note_failure(seat, failure)
                self._end_worker(seat, failure)
        except BaseException as error:  # out of memory, say
            if seat.call is not None:
                seat.call.call.fail(error)
            if seat.worker is not None:
                seat.worker.kill()
            raise
        finally:
            self._remove(seat)
            self._add_seat()  # usually, none is needed any more

    def _wait_until_wanted(self, seat: _Seat) -> bool:
        """Wait as a vacant seat for a call that needs a worker; ``False`` if none will come."""
        with self._lock:
            self._move(seat, _State.VACANT)
            while not self._is_done():
                pause = None
                if self._wanted() > 0:
                    pause = max(0.0, self._no_start_before - time.monotonic())
                if pause == 0:
                    self._move(seat, _State.STARTING)
                    return True
                self._worker_wanted.wait(pause)
            return False

    def _start_worker(self, seat: _Seat) -> _Failure | None:
        """Start a process, and wait until it has loaded the app."""
        begun, limit = time.monotonic(), self._start_timeout
        name = f"{self._settings.name}-worker-{next(self._numbers)}"
        try:
            worker = WorkerProcess(self._start_method, self._settings, name)
        except Exception as error:  # no memory, no file descriptors, or no fork server
            return _failure_of(error)
        with self._lock:
            seat.worker = worker
            unwanted = self._is_done() or self._killed
        if unwanted:  # since before kill() and _end_if_done() could find it
            worker.kill()
        answer = worker.receive(0, begun + min(limit, _WARN_AFTER))
        if answer is Trouble.LATE and limit > _WARN_AFTER:
            self._warn(
                "Worker process %s is not up after %.0f s; it will be killed after %g s (%s)",
                *(name, time.monotonic() - begun, limit, self._key_of_start_timeout),
            )
            answer = worker.receive(0, begun + limit)
        if answer is Trouble.LATE:
            worker.kill()
            reason = f"no worker process was up after {self._key_of_start_timeout} = {limit:g} s"
            return _Failure(reason, 0)
        if not isinstance(answer, Message):
            return _SHUT_DOWN if self._killed else _death_of(worker)
        if answer.kind == FAILED:
            worker.order(0)
            return _Failure("it could not load the app", 0, error=answer.content)
        return None

    def _note_failure(self, seat: _Seat, failure: _Failure) -> None:
        """Decide what a failed start means for the waiting calls."""
        with self._lock:
            self._move(seat, _State.VACANT)
            self._failures += 1
            count, pause = self._failures, _FIRST_PAUSE * 2.0 ** (self._failures - 1)
            items: list[ProcessCall] = []
            if self._no_worker_is_up() and count >= failure.patience:
                items = self._take_all() if failure.patience == 0 else self._take_first()
                self._failures = 0
            if failure.error is not None:
                self._refusal, pause = failure, max(pause, _LOAD_AGAIN_AFTER)
            is_killed = failure.patience == _KILLS
            longest = _LONGEST_PAUSE_AFTER_KILLS if is_killed else _LONGEST_PAUSE
            self._no_start_before = time.monotonic() + min(pause, longest)
            self._wake_seats()
            self._end_if_done()
        for item in items:
            item.fail(failure.error_of(item.call.future.name, count, item.has_begun))
        self._warn("Worker processes of %s do not start: %s", self._settings.name, failure.reason)

    def _take_first(self) -> list[ProcessCall]:
        return [self._pending.popitem(last=False)[0]] if self._pending else []

    def _serve_calls(self, seat: _Seat) -> _Failure | None:
        """Let the worker, which is up, run calls. Return why it ended, if it has run none."""
        worker = seat.worker
        assert worker is not None
        while not worker.is_gone and (item := self._next_call(seat, worker)) is not None:
            end = item.run(worker)
            waits = end is not End.OVER and item.wait_for_another_worker(self._timers.call_later)
            with self._lock:
                seat.call = None
                if end is not End.UNREAD:
                    worker.is_used = True
                    self._failures = 0
                if waits:
                    self._pending[item] = None
                    self._pending.move_to_end(item, last=False)
                    self._wake_seats()
            if waits and item.is_settled():  # maybe before _note_settled() looked
                self._withdraw(item)
            del item  # an idle worker keeps nothing alive
        if worker.is_used or self._is_done():
            return None
        return _death_of(worker)

    def _next_call(self, seat: _Seat, worker: WorkerProcess) -> ProcessCall | None:
        """Wait as an idle seat for a call; ``None`` if none will come, or the worker has died."""
        with self._lock:
            self._move(seat, _State.IDLE)
            while not self._pending:
                begun = time.monotonic()
                if not self._closed:
                    self._call_came.wait()
                is_stale = time.monotonic() - begun > _TRUSTED_FOR
                if self._is_done() or (is_stale and not worker.is_ready()):
                    self._move(seat, _State.VACANT)
                    self._wake_seats()  # another seat must take the call that woke this one
                    return None
            item = self._take_first()[0]
            seat.call = item
            self._move(seat, _State.BUSY)
            self._end_if_done()
        self._add_seat()  # in case a thread could not be started earlier
        return item

    def _end_worker(self, seat: _Seat, failure: _Failure | None) -> None:
        worker = seat.worker
        if worker is not None:
            if failure is None:
                worker.end()
            else:
                worker.bury()  # not end(): the app may have started a thread that never ends
            with self._lock:
                seat.worker = None

    def _warn(self, message: str, *args: object) -> None:
        """Log a warning to the app whose call has waited longest, if there is one."""
        with self._lock:
            snapshot = next((getattr(each.call, "snapshot", None) for each in self._pending), None)
        if snapshot is not None:
            with contextlib.suppress(BaseException):
                snapshot.app.logger.warning(message, *args)
