"""The future's state machine: starting, settling and notifying, without a lock.

The only module that takes the rights to start, resume and settle a call, or gives them back, and
that knows the effect of a fork on them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from typing_extensions import Self

from .. import signals
from ..context import ContextRules, ContextSnapshot
from ..errors import ForkedFutureError, JobLostError
from ..runtime.forks import in_child
from .callbacks import CallbackCounter, announce
from .progress import Progress
from .waiters import SharedState

if TYPE_CHECKING:
    from blinker import NamedSignal

__all__ = ("ClaimableFuture", "Interrupter", "Recorder", "has_watchers", "shared_lock")

R = TypeVar("R")

_DEFAULT_RULES = ContextRules()

_shared_lock = threading.RLock()  # reentrant: a finalizer may run while it is held


def shared_lock() -> threading.RLock:
    """The lock of all futures of this process, for what is rare."""
    return _shared_lock


class _Ticket:
    """Stands in a future's list of watchers for a right that exactly one caller may take."""

    def __call__(self, future: object) -> None:
        """Nobody took the ticket, so there is nobody to tell."""


_TO_START = _Ticket()
"""Whoever removes it decides whether the call runs: the worker by starting, or ``cancel()``."""

_TO_RESUME = _Ticket()
"""The same between two attempts, for the worker that has the call, and ``cancel()``."""

_TO_SETTLE = _Ticket()
"""Whoever removes it decides the outcome: the worker with a result, or ``cancel()``."""

# The child of a fork makes tickets of its own. Those in the futures of its parent are then worth
# nothing there, so that it can neither run nor settle nor cancel a call of the parent.
_forked_at = 0.0  # when this process was forked, if it was


@in_child
def _forget_parent() -> None:
    global _forked_at, _shared_lock  # noqa: PLW0603
    _forked_at = time.time()
    _shared_lock = threading.RLock()  # a thread of the parent may have held the other one
    # Constant in each process; only here it becomes another one.
    globals().update(_TO_START=_Ticket(), _TO_RESUME=_Ticket(), _TO_SETTLE=_Ticket())


class Counter(CallbackCounter, Protocol):
    """Counts the calls of an executor that are not done."""

    def settle(
        self, future: ClaimableFuture[Any], status: str, exception: BaseException | None
    ) -> None:
        """Count how a call ends; called before those who wait for it hear of it."""


class _Queued(Protocol):
    """A call that no worker has begun."""

    def is_watched(self) -> None: ...

    def is_wanted(self) -> None: ...


class Interrupter(Protocol):
    """Stops a running call, or asks it to end: what ``cancel()`` can tell where the call runs."""

    backend: str
    """Where the call runs, for messages."""

    def can_interrupt(self, *, kill: bool) -> bool:
        """Return whether ``interrupt()`` stops the call, so that it may be settled before."""
        ...

    def interrupt(self, *, kill: bool = False) -> None:
        """Stop the call, which is settled. ``kill``: whatever it does."""
        ...

    def ask(self) -> None:
        """Tell a call that cannot be stopped that ``cancel()`` was called."""
        ...


class Recorder(Protocol):
    """Keeps a record of a call, for other processes."""

    def is_named(self, future: ClaimableFuture[Any]) -> None:
        """Write the record if it is not written: the id is about to be given out."""

    def has_changed(self, future: ClaimableFuture[Any]) -> None:
        """Note that the call has begun."""

    def has_moved(self, future: ClaimableFuture[Any]) -> None:
        """Note that the call has reported progress."""

    def keep_outcome(
        self, future: ClaimableFuture[Any], result: object, exception: BaseException | None
    ) -> None:
        """Encode the outcome, before anything can see it or change it. Raises nothing.

        Not called if the recorder came while the call was being settled.
        """

    def __call__(self, future: ClaimableFuture[Any]) -> None:
        """Note that the call is settled: a recorder is the first of the future's watchers."""

    def is_refused(self, future: ClaimableFuture[Any]) -> None:
        """Forget a call that was not accepted, and free its key."""

    def public_record(self, future: ClaimableFuture[Any]) -> object:
        """Return the record for receivers of signals."""
        ...


_SIGNALS: dict[str, NamedSignal] = {
    FINISHED: signals.job_succeeded,
    CANCELLED_AND_NOTIFIED: signals.job_cancelled,
}

_hear_of_success = signals.receivers_of(signals.job_succeeded)
_hear_of_failure = signals.receivers_of(signals.job_failed)
_hear_of_cancelling = signals.receivers_of(signals.job_cancelled)


class ClaimableFuture(Future[R]):
    """A future as the workers see it: the rights to its call, its outcome, and who is told.

    :class:`FutureProxy` adds what users may do. Slots of both are here, for one ``__init__``.
    """

    # What makes a stdlib future slow is its Condition: made, taken and notified for every call,
    # it passes the GIL back and forth. Here a call that nobody waits for needs no lock at all.
    #
    # ``_watchers`` holds two tickets and whoever wants to know. Removing an item from a list is
    # atomic, with the GIL and without it, if no item has an ``__eq__`` that is written in Python.
    # So of all that try to take a ticket one succeeds. The winner of _TO_SETTLE writes the result,
    # then the state, then pops and calls every watcher. Who adds a watcher looks at the state
    # afterwards: if it is final, the watcher may or may not have been popped, and removing it again
    # tells which. So each watcher is called exactly once.
    #
    # Without the GIL too: there an item of a list, and an attribute in a slot, is stored under the
    # object's own lock, and taking and giving back such a lock orders what all threads see. So who
    # sees the state sees the result, and of two that each store and then look, one sees the other.
    #
    # ``_status`` changes once, from PENDING to what is final. That a call runs is told by the time
    # at which it started: a coroutine may be cancelled while its loop is about to start it, and
    # nothing that the loop writes then may replace the outcome.
    __slots__ = (
        "_app",
        "_cancel_requested",
        "_counter",
        "_exception",
        "_finished",
        "_followed",
        "_held",
        "_id",
        "_interrupter",
        "_progress",
        "_progress_watchers",
        "_queued",
        "_result",
        "_rules",
        "_shared",
        "_snapshot",
        "_started",
        "_status",
        "_submitted",
        "_variables",
        "_watchers",
        "key",
        "name",
    )

    name: str
    key: Hashable | None

    # Not slots: most futures have none of their own.
    _recorder: Recorder | None = None
    _attempts: int = 1
    _has_callbacks: bool = False  # set before the first is added
    _submitter: str = ""  # the line that submitted it, if that is noted

    def __init__(
        self,
        name: str = "",
        snapshot: ContextSnapshot | None = None,
        variables: Context | None = None,
    ) -> None:
        # Not super().__init__(): that makes the Condition.
        self.name = name
        self.key = None
        self._id: str | None = None
        self._status = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._snapshot = snapshot
        self._variables = variables  # not None if there is a snapshot
        self._app = None if snapshot is None else snapshot.app
        self._rules = _DEFAULT_RULES if snapshot is None else snapshot.rules
        self._followed: Future[R] | None = None
        self._interrupter: Interrupter | None = None
        self._counter: Counter | None = None  # that the call is a part of, until it is done
        self._shared: SharedState | None = None
        self._queued: _Queued | None = None  # the call, while it waits in a pool of threads
        self._held = False  # the call waits for its response or commit, which may never come
        self._cancel_requested = False
        self._progress: Progress | None = None
        self._progress_watchers: tuple[Callable[[], object], ...] = ()  # guarded by shared_lock()
        self._submitted = time.time()
        self._started = self._finished = 0.0
        self._watchers: list[Callable[[Self], object]] = [_TO_START, _TO_SETTLE]

    def _begin(self) -> bool:
        """Take the right to run the call; ``False`` if it was cancelled, or refused."""
        try:
            self._watchers.remove(_TO_START)  # what _take() does, for each job
        except ValueError:
            return False
        self._queued = None
        self._started = time.time()
        if self._recorder is not None:
            self._recorder.has_changed(self)
        return True

    def _pause(self) -> None:
        """Give the right to run the call back, until :meth:`_resume`."""
        self._watchers.append(_TO_RESUME)

    def _resume(self) -> bool:
        """Take it again; ``False`` if the call was settled meanwhile."""
        return self._take(_TO_RESUME) and self._status == PENDING

    def _succeed(self, result: R) -> bool:
        return self._settle(FINISHED, result)

    def _fail(self, exception: BaseException) -> bool:
        if not isinstance(exception, JobLostError):
            return self._settle(FINISHED, None, exception)
        snapshot, variables = self._snapshot, self._variables
        if not self._settle(FINISHED, None, exception):
            return False
        record = None if self._recorder is None else self._recorder.public_record(self)
        announce(signals.job_lost, self, snapshot, variables, record=record)
        return True

    def _end_cancelled(self) -> bool:
        return self._settle(CANCELLED_AND_NOTIFIED)

    def _refuse(self) -> bool:
        """Make sure that the call never starts; ``False`` if it already has."""
        self._queued = None
        return self._take(_TO_START)

    def _withdraw(self) -> bool:
        """Take the right to start or resume the call; ``False`` if it runs, or is done."""
        return self._take(_TO_START) or self._take(_TO_RESUME)

    def _take(self, item: Callable[[Self], object]) -> bool:
        """Remove a ticket or a watcher; ``False`` if somebody else was first."""
        try:
            self._watchers.remove(item)
        except ValueError:
            return False
        return True

    def _watch(self, watcher: Callable[[Self], object], *, first: bool = False) -> bool:
        """Have ``watcher(self)`` called once when done; ``False`` if it already is.

        ``first``: before the callbacks. Waiters are woken before any callback runs.
        """
        if self._status != PENDING:
            return False
        if _forked_at and self._is_of_parent():
            raise ForkedFutureError(self.name)  # it would never be called
        if (queued := self._queued) is not None:
            queued.is_watched()
        if first:
            self._watchers.insert(0, watcher)
        else:
            self._watchers.append(watcher)
        # Settled in between? If the watcher can be removed, it was not called and never will be.
        return self._status == PENDING or not self._take(watcher)

    def _is_of_parent(self) -> bool:
        """Whether the call runs in the process that this one was forked from, and only there."""
        # A future of ours has no ticket for a moment, while it is settled: so look at the time too.
        is_older = self._submitted <= _forked_at
        return is_older and self._status == PENDING and _TO_SETTLE not in self._watchers

    def _settle(
        self: Self, status: str, result: R | None = None, exception: BaseException | None = None
    ) -> bool:
        """Decide the outcome and tell all who watch; ``False`` if it was decided before."""
        watchers = self._watchers
        try:
            watchers.remove(_TO_SETTLE)  # what _take() does, for each job
        except ValueError:
            return False
        if (counter := self._counter) is not None:
            counter.settle(self, status, exception)
        if self._recorder is not None:
            self._recorder.keep_outcome(self, result, exception)
        self._result = result
        self._exception = exception
        self._finished = time.time()
        self._status = status  # after the result: who sees the state may read it
        while watchers:
            try:
                watcher = watchers.pop(0)
            except IndexError:  # its waiter gave up just now
                break
            watcher(self)
        if _hear_of_success or _hear_of_failure or _hear_of_cancelling:
            signal = _SIGNALS[status] if exception is None else signals.job_failed
            if not isinstance(exception, JobLostError):  # which has a signal of its own
                announce(signal, self, self._snapshot, self._variables)
        # Let go of what the call held.
        self._snapshot = self._variables = None
        self._interrupter = self._followed = self._queued = self._counter = None
        return True

    def _last_followed(self) -> Future[Any]:
        """The future at the end of the chain; a loop, because a chain may be long."""
        last: Future[Any] = self
        while isinstance(last, ClaimableFuture) and last._followed is not None:
            last = last._followed
        return last


def has_watchers(future: ClaimableFuture[Any]) -> bool:
    """Return whether anything but the rights to a call, and its recorder, is among its watchers."""
    own = future._recorder
    return any(not isinstance(each, _Ticket) and each is not own for each in list(future._watchers))
