"""The future's state machine: starting, settling and notifying, without a lock.

The only module that decides which thread starts a call, how the call ends, and what a fork changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from contextvars import Context
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from typing_extensions import Self

from .. import signals
from ..context import ContextRules, ContextSnapshot
from ..errors import ForkedFutureError, JobLostError
from ..runtime.forks import in_child
from .callbacks import CallbackCounter, DefaultCallback, announce
from .log_tail import LogTail
from .progress import Progress
from .waiters import SharedState

if TYPE_CHECKING:
    from blinker import NamedSignal
    from flask import Flask

__all__ = (
    "ClaimableFuture",
    "Facts",
    "Recorder",
    "add_default_callback",
    "add_log",
    "begin",
    "end_by_cancel",
    "end_cancelled",
    "end_hold",
    "facts_of",
    "fail",
    "hold",
    "interrupt",
    "is_claimed",
    "is_waited_for",
    "keep_log",
    "last_followed",
    "log_of",
    "may_never_run",
    "note_change",
    "note_submitter",
    "pause",
    "pending_call",
    "record_late",
    "record_with",
    "recorder_of",
    "refuse",
    "resume",
    "set_start",
    "shared_lock",
    "submitter_of",
    "succeed",
    "times_of",
)

R = TypeVar("R")
F = TypeVar("F", bound="ClaimableFuture[Any]")

Outcome = tuple[str, Any, "BaseException | None", float, object]
"""The final state (``FINISHED`` or ``CANCELLED_AND_NOTIFIED``), result, exception, time, and what
the recorder returned for them."""

_DEFAULT_RULES = ContextRules()

_shared_lock = threading.RLock()  # reentrant: a finalizer may run while it is held


def shared_lock() -> threading.RLock:
    """Return the one lock of all futures in this process, for rare operations."""
    return _shared_lock


_WITHDRAWN = -1.0
"""Stands in place of the start time of a call that was cancelled before it began."""


class _Ticket:
    """Stands in a future's list of watchers for a right that exactly one thread may take."""

    def __call__(self, future: object) -> None:
        """Do nothing: the call was settled, and no thread has taken the ticket."""


_TO_RESUME = _Ticket()
"""The right to run again, between two attempts: either the call's worker or cancel() takes it."""


class _Process:
    """This process; the child of a fork is another."""


_this_process = _Process()
_is_forked = False


@in_child
def _forget_parent() -> None:
    global _is_forked, _shared_lock, _this_process  # noqa: PLW0603
    _is_forked, _this_process = True, _Process()
    _shared_lock = threading.RLock()  # a thread of the parent may have held the other one


class Counter(CallbackCounter, Protocol):
    """Counts the calls of an executor that are not done."""

    def settle(self, future: ClaimableFuture[Any]) -> None:
        """Count how a call ended. May be called twice, and by two threads at once."""


class PendingCall(Protocol):
    """The part of a call that its future uses until it is done."""

    @property
    def backend(self) -> str:
        """Where the call runs, for messages."""
        ...

    def on_watched(self) -> None:
        """A watcher was added: another thread waits for the end of the call."""

    def on_wanted(self) -> None:
        """A job waits for the call."""

    def can_interrupt(self, *, kill: bool) -> bool:
        """Return whether ``interrupt()`` stops the call, which may then be settled first."""
        ...

    def interrupt(self, *, kill: bool = False) -> None:
        """Stop the running call, which is settled already; with ``kill``, whatever it does."""

    def ask_to_end(self) -> None:
        """Tell a running call that cannot be stopped that ``cancel()`` was called."""


class Recorder(Protocol):
    """Keeps a record of a call, for other processes."""

    announces_loss: bool
    """Whether the end of the future is to send ``job_lost``; else its record sees to that."""

    def on_named(self, future: ClaimableFuture[Any]) -> None:
        """Write the record, unless it is written: the caller is about to get the id."""

    def on_change(self, future: ClaimableFuture[Any]) -> None:
        """Note that the call has begun, is tried again, or was asked to end."""

    def on_progress(self, future: ClaimableFuture[Any]) -> None:
        """Note that the call has reported progress."""

    def on_log(self, future: ClaimableFuture[Any]) -> None:
        """Note that the call has logged something."""

    def encode_outcome(
        self, future: ClaimableFuture[Any], result: object, exception: BaseException | None
    ) -> object:
        """Encode an outcome for the store, before other code can see or change it.

        Raises nothing. If several are encoded, ``facts_of(future)`` has the one that counts. Not
        called for a cancelled call, or if the recorder was added while the call was settled.
        """

    def __call__(self, future: ClaimableFuture[Any]) -> None:
        """Note that the call is settled: a recorder is the first of the future's watchers.

        May be called twice, and by two threads at once: see :func:`record_late`.
        """

    def on_refused(self, future: ClaimableFuture[Any]) -> None:
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
_hear_of_loss = signals.receivers_of(signals.job_lost)


class ClaimableFuture(Future[R]):
    """A future as the workers see it: the right to start its call, its outcome, and its watchers.

    :class:`FutureProxy` adds what users may do. Slots of both are here, for one ``__init__``. The
    package's own operations on a future are functions of this module, so that users don't see them.
    """

    # What makes a stdlib future slow is its Condition: creating, taking and notifying it for every
    # call passes the GIL back and forth. Here a call that nothing waits for needs no lock at all.
    #
    # Two lists decide, and the first item of each counts. Appending an item is one step, and so is
    # looking whether it came first, with the GIL and without it. A thread that is interrupted (by
    # the exception of a signal handler, say, or at the recursion limit) has either decided, and
    # every other thread sees it, or has changed nothing. So each claim is an object of its own.
    #
    # ``_starts``: the time at which a worker began. A negative time keeps workers from starting the
    # call: cancel() appends _WITHDRAWN (any number of threads may, since the outcome decides among
    # them), and a backend that refuses the call appends another.
    # ``_outcomes``: how the call ended. The first one makes the future done, and a thread that
    # sees it sees the whole outcome.
    #
    # ``_watchers`` are called when the future is done, with the future. A thread that adds one
    # looks for an outcome afterwards. If there is one, the settling thread may or may not have
    # found the watcher; so waiters may be called twice, and a callback first removes itself, which
    # only one thread can (removing an item from a list is one step too, if no item has an
    # ``__eq__`` written in Python).
    __slots__ = (
        "_app",
        "_call",
        "_counter",
        "_outcomes",
        "_process",
        "_rules",
        "_snapshot",
        "_starts",
        "_submitted",
        "_variables",
        "_watchers",
        "name",
    )

    name: str
    _app: Flask | None  # this and the next stay when the snapshot is dropped
    _rules: ContextRules

    # Few futures set these; defaults on the class cost the others nothing.
    key: Hashable | None = None
    _cancel_requested: bool = False
    _followed: Future[R] | None = None  # that answers for this one
    _held: bool = False  # the call waits for its response or commit, which may never come
    _is_interrupted: bool = False  # the settling thread was, and another may go on for it
    _log: LogTail | None = None
    _progress: Progress | None = None
    _progress_watchers: tuple[Callable[[], object], ...] = ()  # guarded by shared_lock()
    _shared: SharedState | None = None

    # Not slots either, since most futures keep the default.
    _id: str | None = None
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
        self._snapshot = snapshot
        self._variables = variables  # not None if there is a snapshot
        if snapshot is None:
            self._app = None
            self._rules = _DEFAULT_RULES
        else:
            self._app = snapshot.app
            self._rules = snapshot.rules
        self._call: PendingCall | None = None  # until it is done
        self._counter: Counter | None = None  # that counts the call until it is done
        self._process = _this_process
        self._submitted = time()
        self._starts: list[float] = []
        self._outcomes: list[Outcome] = []
        self._watchers: list[Callable[[Self], object]] = []

    # -- the right to run ------------------------------------------------------------------------

    @property
    def _started(self) -> float:
        """When a worker began to run the call; 0.0 if none has."""
        return max(0.0, self._starts[0]) if self._starts else 0.0

    def _withdraw(self) -> bool:
        """Keep the call from starting or resuming; ``False`` if it runs, is refused, or done."""
        return self._claim_start(_WITHDRAWN) or self._take(_TO_RESUME)

    def _claim_start(self, at: float) -> bool:
        """Try to be the thread that decides when the call starts, or that it never does."""
        if self._outcomes or (_is_forked and self._process is not _this_process):
            return False  # it was settled without being run, or the call is the parent's
        starts = self._starts
        starts.append(at)
        if starts[0] is at:
            return True
        del starts[1:]
        if starts[0] is _WITHDRAWN:
            self._end_by_cancel()  # for a cancel() that was interrupted
        return False

    # -- the outcome -----------------------------------------------------------------------------

    def _end_by_cancel(self) -> bool:
        """Settle as cancelled, because ``cancel()`` was called."""
        self._cancel_requested = True  # first: a recorder reads it as soon as the call is over
        return end_cancelled(self)

    def _settle(
        self: Self, state: str, result: R | None = None, exception: BaseException | None = None
    ) -> bool:
        """Decide the outcome and call all watchers; ``False`` if another one was first."""
        if _is_forked and self._process is not _this_process:
            return False  # the call runs in the parent
        outcomes = self._outcomes
        recorded: object = None
        if self._recorder is not None and state == FINISHED and not outcomes:
            recorded = self._recorder.encode_outcome(self, result, exception)
        outcome = state, result, exception, time(), recorded
        try:
            outcomes.append(outcome)
            if outcomes[0] is not outcome:
                del outcomes[1:]
                return False
            self._finish()
        except BaseException:  # of a signal handler, say
            if outcomes and outcomes[0] is outcome:
                self._is_interrupted = True
                self._go_on()
            raise
        return True

    def _go_on(self) -> None:
        """Finish the settling, if the thread that began it was interrupted."""
        if self._is_interrupted:
            self._finish()
            self._is_interrupted = False

    def _finish(self: Self) -> None:
        """Count the outcome, call all watchers, and drop what the call held."""
        if (counter := self._counter) is not None:
            counter.settle(self)  # first: a thread that is woken may look at the counts
        if self._watchers:
            for watcher in self._watchers.copy():
                watcher(self)
                self._take(watcher)
        if _hear_of_success or _hear_of_failure or _hear_of_cancelling or _hear_of_loss:
            self._announce_outcome()
        self._snapshot = self._variables = self._call = self._counter = None
        if self._followed is not None:
            self._followed = None

    def _announce_outcome(self) -> None:
        snapshot, self._snapshot = self._snapshot, None  # once
        state, _, exception, *_ = self._outcomes[0]
        recorder = self._recorder
        if isinstance(exception, JobLostError):
            if recorder is None or recorder.announces_loss:
                record = None if recorder is None else recorder.public_record(self)
                announce(signals.job_lost, self, snapshot, self._variables, record=record)
        else:
            signal = signals.job_failed if exception is not None else _SIGNALS[state]
            announce(signal, self, snapshot, self._variables)

    # -- watchers --------------------------------------------------------------------------------

    def _watch(self, watcher: Callable[[Self], object], *, first: bool = False) -> bool:
        """Have ``watcher(self)`` called when done; ``False`` if it already is.

        ``first``: before the callbacks. Waiters are woken before any callback runs.
        """
        if self._outcomes:
            return False
        if self._is_of_parent():
            raise ForkedFutureError(self.name)  # it would never be called
        if (call := self._call) is not None:
            call.on_watched()
        if first:
            self._watchers.insert(0, watcher)
        else:
            self._watchers.append(watcher)
        # Settled in between? If the watcher can be removed, the caller is the one to call it.
        return not (self._outcomes and self._take(watcher))

    def _take(self, item: Callable[[Self], object]) -> bool:
        """Remove a ticket or a watcher; ``False`` if another thread was first."""
        try:
            self._watchers.remove(item)
        except ValueError:
            return False
        return True

    def _is_of_parent(self) -> bool:
        """Return whether only the process that this one was forked from can end the call.

        A future that was done before the fork is as good here as there.
        """
        return _is_forked and self._process is not _this_process and not self._outcomes


# -- the right to run ------------------------------------------------------------------------------


def begin(future: ClaimableFuture[Any]) -> bool:
    """Take the right to run the call; ``False`` if it was cancelled, refused, or has begun."""
    if not future._claim_start(time()):
        return False
    if future._recorder is not None:
        future._recorder.on_change(future)
    return True


def refuse(future: ClaimableFuture[Any]) -> bool:
    """Keep the call from ever starting; ``False`` if another thread was first."""
    return future._claim_start(-time())


def is_claimed(future: ClaimableFuture[Any]) -> bool:
    """Return whether the call has begun, was refused, or was cancelled before it began."""
    return bool(future._starts)


def pause(future: ClaimableFuture[Any]) -> None:
    """Give the right to run the call back, until :func:`resume`."""
    future._watchers.append(_TO_RESUME)


def resume(future: ClaimableFuture[Any]) -> bool:
    """Take the right to run again; ``False`` if the call was settled meanwhile."""
    return future._take(_TO_RESUME) and not future._outcomes


def set_start(future: ClaimableFuture[Any], at: float) -> None:
    """Note when the call, which has begun, began in another process."""
    future._starts[0] = at
    note_change(future)


def times_of(future: ClaimableFuture[Any]) -> tuple[float, float]:
    """Return when the call was submitted, and when a worker began it: 0.0 if none has."""
    return future._submitted, future._started


def hold(future: ClaimableFuture[Any]) -> None:
    """Note, before any worker has the call, that it waits for a response or commit."""
    future._held = True


def end_hold(future: ClaimableFuture[Any]) -> None:
    """Note that the response or commit that the call waited for has come."""
    future._held = False
    note_change(future)


def may_never_run(future: Future[Any]) -> bool:
    """Return whether a call waits for what may never come, or belongs to a parent process."""
    return isinstance(future, ClaimableFuture) and (future._held or future._is_of_parent())


# -- the outcome -----------------------------------------------------------------------------------


def succeed(future: ClaimableFuture[R], result: R) -> bool:
    """Settle the future with a result; ``False`` if it is settled already."""
    return future._settle(FINISHED, result)


def fail(future: ClaimableFuture[Any], exception: BaseException) -> bool:
    """Settle the future with an exception; ``False`` if it is settled already."""
    return future._settle(FINISHED, None, exception)


def end_cancelled(future: ClaimableFuture[Any]) -> bool:
    """Settle the future as cancelled; ``False`` if it is settled already."""
    return future._settle(CANCELLED_AND_NOTIFIED)


def end_by_cancel(future: ClaimableFuture[Any]) -> bool:
    """Settle the future as cancelled, which was asked for; ``False`` if it is settled already."""
    return future._end_by_cancel()


def interrupt(
    future: ClaimableFuture[Any], error: BaseException | None = None, *, kill: bool = False
) -> bool:
    """Settle the call, with ``error`` or as cancelled, and stop it; ``False`` if it was done.

    A coroutine is stopped at its next ``await``; a plain function is only asked to end.
    """
    call = future._call
    future._cancel_requested = True
    if not (end_cancelled(future) if error is None else fail(future, error)):
        return False
    if call is not None:
        call.interrupt(kill=kill)
    return True


# -- watchers --------------------------------------------------------------------------------------


def add_default_callback(future: F, fn: Callable[[F], object]) -> None:
    """Like ``add_done_callback()``, for a call that is not submitted yet."""
    future._has_callbacks = True
    future._watchers.append(DefaultCallback(fn, future._snapshot, future._variables))


def is_waited_for(future: ClaimableFuture[Any]) -> bool:
    """Return whether a future has watchers of its progress, or any of its end but the recorder."""
    own = future._recorder
    return bool(future._progress_watchers) or any(
        not isinstance(each, _Ticket) and each is not own for each in list(future._watchers)
    )


# -- chains ----------------------------------------------------------------------------------------


def last_followed(future: Future[Any]) -> Future[Any]:
    """Return the future at the end of the chain, which may be long, but never is a ring."""
    while isinstance(future, ClaimableFuture) and future._followed is not None:
        future = future._followed
    return future


def pending_call(future: ClaimableFuture[Any]) -> PendingCall | None:
    """Return the pending call whose outcome ``future`` gets, if this process has that call."""
    last = last_followed(future)
    return last._call if isinstance(last, ClaimableFuture) and not last._starts else None


# -- logs and records ------------------------------------------------------------------------------


def keep_log(future: ClaimableFuture[Any]) -> None:
    """Keep what the call logs. Called before any worker has it."""
    future._log = LogTail()


def add_log(future: ClaimableFuture[Any], lines: Iterable[str]) -> None:
    """Keep lines that the call has logged, until it is settled: its record is final then."""
    if future._log is not None and not future._outcomes:
        future._log.add(lines)
        if future._recorder is not None:
            future._recorder.on_log(future)


def log_of(future: ClaimableFuture[Any]) -> str | None:
    """Return the last lines that a call has logged; ``None`` if there are none."""
    return None if future._log is None else future._log.text() or None


def note_submitter(future: ClaimableFuture[Any], line: str) -> None:
    """Note the line that submits a call, before any worker gets it."""
    future._submitter = line


def submitter_of(future: ClaimableFuture[Any]) -> str:
    """Return the line that submitted a call, or ``""`` if it was not noted."""
    return future._submitter


def note_change(future: ClaimableFuture[Any]) -> None:
    """Have the recorder, if there is one, write that the call has changed."""
    if future._recorder is not None:
        future._recorder.on_change(future)


def recorder_of(future: ClaimableFuture[Any]) -> Recorder | None:
    return future._recorder


def record_with(future: ClaimableFuture[Any], recorder: Recorder) -> None:
    """Record the changes of a call that was not submitted yet."""
    future._recorder = recorder
    future._watchers.insert(0, recorder)


def record_late(future: ClaimableFuture[Any], recorder: Recorder) -> None:
    """Record the changes of a call from now on, even if it is running or over.

    Like any watcher, the recorder is called at the end, twice if it was added while the call was
    being settled. It encodes the outcome only if it came before: :meth:`Recorder.encode_outcome`.
    """
    future._recorder = recorder
    if not future._watch(recorder, first=True):
        recorder(future)


class Facts(NamedTuple):
    """The part of a record that a future does not show to users."""

    attempts: int
    is_held: bool
    cancel_requested: bool
    recorded: object
    """The outcome as the recorder encoded it, once it is decided."""


def facts_of(future: ClaimableFuture[Any]) -> Facts:
    recorded = future._outcomes[0][-1] if future._outcomes else None
    return Facts(future._attempts, future._held, future._cancel_requested, recorded)
