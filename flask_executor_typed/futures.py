"""The handle of one call: wait for it, await it, cancel it, be called back by it.

The only module that knows ``concurrent.futures.Future`` inside out. Futures can be kept by key in
a :class:`FutureCollection`, with a typed :class:`FutureKey` where the checker should know the
result's type.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Generator, Hashable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures._base import (
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    LOGGER,
    PENDING,
    RUNNING,
)
from contextvars import Context
from datetime import datetime, timezone
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    final,
    overload,
)
from weakref import WeakSet, ref

from typing_extensions import Self
from typing_extensions import TypeVar as TypeVarWithDefault

from . import signals
from .context import ContextRules, ContextSnapshot, active_app_context, capture, run_pushed
from .errors import DuplicateKeyError, ForkedFutureError, UnsupportedError
from .load import Load
from .logs import log_exception, without_data

if TYPE_CHECKING:
    from blinker import NamedSignal

__all__ = (
    "FutureCollection",
    "FutureKey",
    "FutureProxy",
    "LoopInbox",
    "OnDuplicate",
    "Progress",
    "ReadableFuture",
    "Status",
    "following_apart",
    "wait_here_with",
)

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVarWithDefault("T", default=Any)

# Unions, since stubtest wants one at runtime where a type checker sees one.
Status = (
    Literal["pending"]  # noqa: PYI030
    | Literal["running"]
    | Literal["succeeded"]
    | Literal["failed"]
    | Literal["cancelled"]
)
OnDuplicate = Literal["error"] | Literal["join"] | Literal["replace"]  # noqa: PYI030

_DEFAULT_RULES = ContextRules()

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
        """What was posted and has not been called, with its arguments."""
        return list(self._posted.copy())  # copy() is one step, which other threads cannot disturb

    def post(self, fn: Callable[..., object], *args: Any) -> bool:
        """Call ``fn(*args)`` on the loop soon, in order. ``False`` if the loop is gone."""
        self._posted.append((fn, args))
        # No lock: _drain() clears the flag before it looks at the deque, and we look at the flag
        # after we filled the deque. Whoever is second sees what the other did: either _drain()
        # finds our entry, or we find the flag cleared and wake the loop again. Two posters may
        # both wake it; the second wake-up finds nothing to do.
        return self._awake or self._wake()

    def _wake(self) -> bool:
        self._awake = True
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._drain)
                return True
        except RuntimeError:  # closed
            pass
        self._awake = False
        return False

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

    wait: Callable[[FutureProxy[Any], float | None], None] | None = None
    """What a thread of an executor does instead of only blocking."""

    def __init__(self) -> None:
        self.followers: deque[tuple[FutureProxy[Any], Future[Any]]] = deque()
        """Futures that are to be settled like others which have been settled in this thread."""


_this_thread = _ThisThread()


def wait_here_with(wait: Callable[[FutureProxy[Any], float | None], None]) -> None:
    """In this thread, have ``wait(future, timeout)`` called by ``result()`` if it must wait."""
    _this_thread.wait = wait


@contextlib.contextmanager
def following_apart() -> Generator[None, None, None]:
    """Settle followers at once, although a frame below is settling some: it waits for these."""
    outer, _this_thread.followers = _this_thread.followers, deque()
    try:
        yield
    finally:
        _this_thread.followers = outer


def _inbox_of_running_loop() -> tuple[asyncio.AbstractEventLoop, LoopInbox]:
    loop = asyncio.get_running_loop()
    inbox = _this_thread.inbox
    if inbox is None or not inbox.is_of(loop):
        inbox = _this_thread.inbox = LoopInbox(loop)
    return loop, inbox


class Progress(NamedTuple):
    """How far a job is, as it said itself."""

    done: float
    """So much is done, in whatever unit the job counts."""

    total: float | None = None
    """Of so much; ``None`` if the job does not know."""

    message: str = ""

    @property
    def fraction(self) -> float | None:
        """From 0.0 to 1.0; ``None`` without a total."""
        return self.done / self.total if self.total else None


class _Ticket:
    """Stands in a future's list of watchers for a right that exactly one caller may take.

    Nothing in such a list may define ``__eq__`` in Python: removing an item would not be atomic.
    """

    def __call__(self, future: FutureProxy[Any]) -> None:
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


class _Queued(Protocol):
    """A call that no worker has begun."""

    def is_watched(self) -> None: ...

    def is_wanted(self) -> None: ...


class _Interruptible(Protocol):
    """A running call that can be stopped, or asked to end: a coroutine, or another process."""

    backend: str
    """Where it runs."""

    def can_interrupt(self, *, kill: bool) -> bool:
        """Whether ``interrupt()`` stops the call, so that it may be settled before."""
        ...

    def interrupt(self, *, kill: bool = False) -> None: ...

    def ask(self) -> None:
        """Tell a call that cannot be stopped that ``cancel()`` was called."""
        ...


class FutureProxy(Future[R]):
    """The handle of one submitted call: a real ``concurrent.futures.Future`` that can be awaited.

    Every method may be called from any thread. ``await future`` works on any running asyncio
    loop, for any number of awaiters; awaiting is waiting, as :meth:`result` is: when the awaiting
    task is cancelled or times out, the call goes on. Use :meth:`cancel` to stop it.
    """

    # What makes a stdlib future slow is its Condition: made, taken and notified for every call,
    # it passes the GIL back and forth. Here a call that nobody waits for needs no lock at all.
    #
    # ``_watchers`` holds two tickets and whoever wants to know. Removing an item from a list is
    # atomic, with the GIL and without it, so of all that try to take a ticket one succeeds. The
    # winner of _TO_SETTLE writes the result, then the state, then pops and calls every watcher.
    # Who adds a watcher looks at the state afterwards: if it is final, the watcher may or may not
    # have been popped, and removing it again tells which. So each watcher is called exactly once.
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
        "_exception",
        "_finished",
        "_followed",
        "_held",
        "_id",
        "_interruptible",
        "_load",
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
    """The qualified name of the function that was called."""

    key: Hashable | None
    """The key under which the future was kept last, if it was submitted with one."""

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
        self._interruptible: _Interruptible | None = None
        self._load: Load | None = None  # that the call is a part of, until it is done
        self._shared: _SharedState | None = None
        self._queued: _Queued | None = None  # the call, while it waits in a pool of threads
        self._held = False  # the call waits for its response or commit, which may never come
        self._cancel_requested = False
        self._progress: Progress | None = None
        self._progress_watchers: tuple[Callable[[], object], ...] = ()  # guarded by _shared_lock
        self._submitted = time.time()
        self._started = self._finished = 0.0
        self._watchers: list[Callable[[FutureProxy[R]], object]] = [_TO_START, _TO_SETTLE]

    # -- what a person wants to know -------------------------------------------------------------

    @property
    def id(self) -> str:
        """A name for this call that nobody can guess, of 22 characters that are safe in a URL."""
        if self._id is None:
            with _shared_lock:  # two first readers must see one id
                if self._id is None:
                    self._id = secrets.token_urlsafe(16)
        return self._id

    @property
    def status(self) -> Status:
        """``pending``, ``running``, ``succeeded``, ``failed`` or ``cancelled``."""
        running = self.running()  # first: asked last, a call that ends meanwhile would be pending
        if self._status == FINISHED:
            return "succeeded" if self._exception is None else "failed"
        if self._status == CANCELLED_AND_NOTIFIED:
            return "cancelled"
        return "running" if running else "pending"

    @property
    def submitted_at(self) -> datetime:
        """When the call was submitted, in UTC."""
        return datetime.fromtimestamp(self._submitted, timezone.utc)

    @property
    def started_at(self) -> datetime | None:
        """When a worker began to run the call, in UTC; ``None`` if it has not, or never did."""
        return datetime.fromtimestamp(self._started, timezone.utc) if self._started else None

    @property
    def finished_at(self) -> datetime | None:
        """When the future was settled, in UTC; ``None`` if it is not."""
        return datetime.fromtimestamp(self._finished, timezone.utc) if self._finished else None

    @property
    def progress(self) -> Progress | None:
        """How far the job says it is; ``None`` if it has said nothing."""
        return self._progress

    async def watch(self) -> AsyncIterator[Progress]:
        """The job's progress, each time it has changed, until the job is done.

        ``async for progress in future.watch():`` ends with the job, however that ends; it does not
        raise what the job raised. A reader that is slower than the job misses steps, never the
        last. Does not poll.
        """
        watcher = _ProgressWatcher(*_inbox_of_running_loop())
        with self._telling(watcher.change):
            try:
                self._watch(watcher, first=True)
                last: Progress | None = None
                while True:
                    # In this order: when it is done, the progress is the last.
                    done, progress = self.done(), self._progress
                    if progress is not None and progress is not last:
                        last = progress
                        yield progress
                    elif done:
                        return
                    else:
                        await watcher.until_changed()
            finally:
                self._take(watcher)

    @contextlib.contextmanager
    def _telling(self, change: Callable[[], object]) -> Generator[None, None, None]:
        """Have ``change()`` called for each progress, in the job's thread."""
        with _shared_lock:
            self._progress_watchers += (change,)
        try:
            yield
        finally:
            with _shared_lock:
                watchers = self._progress_watchers
                self._progress_watchers = tuple(each for each in watchers if each is not change)

    def _report(self, progress: Progress) -> None:
        self._progress = progress
        for change in self._progress_watchers:
            change()

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        key = "" if self.key is None else f" key={self.key!r}"
        return f"<{type(self).__name__}{name}{key} {self.status} at {id(self):#x}>"

    # -- concurrent.futures ----------------------------------------------------------------------

    def done(self) -> bool:
        """Whether the call has a result, has an exception, or was cancelled."""
        return self._status != PENDING

    def running(self) -> bool:
        """Whether a worker runs the call now."""
        if self._status != PENDING:
            return False
        followed = self._followed
        return self._started > 0 or (followed is not None and followed.running())

    def cancelled(self) -> bool:
        """Whether the call was cancelled, before or while it ran."""
        return self._status == CANCELLED_AND_NOTIFIED

    def cancel(self, *, kill: bool = False) -> bool:
        """Cancel the call if that is possible, and say whether it was.

        A pending call never starts. A running coroutine gets ``CancelledError`` at its next
        ``await``; the future is cancelled at once, the coroutine's cleanup follows on its loop.
        A running plain function cannot be stopped: ``False``. It can see the request, as
        ``current_job.cancel_requested``, and end by itself.

        Args:
            kill: End the worker process of a running call, whatever it does there. For a pending
                call, and a coroutine in a thread, nothing is different.

        Raises:
            UnsupportedError: ``kill`` was asked for, and the call runs where nothing can kill it:
                in a thread, say.
        """
        if _forked_at and self._is_of_parent():
            return False
        last = self._last_followed()
        if isinstance(last, FutureProxy) and last is not self:  # cancelling that settles this one
            return last.cancel(kill=kill)
        if last is not self:
            cancelled = last.cancel()
            if kill and last.running():
                raise self._cannot_be_killed()
            return cancelled
        if self._take(_TO_START) or self._take(_TO_RESUME):
            if self._end_cancelled():
                return True
        elif (running := self._interruptible) is not None and running.can_interrupt(kill=kill):
            if self._interrupt(kill=kill):
                return True
        elif kill and self.running():
            raise self._cannot_be_killed()
        else:
            self._cancel_requested = True
            if running is not None:
                running.ask()
        return self.cancelled()

    def _cannot_be_killed(self) -> UnsupportedError:
        running = self._interruptible
        return UnsupportedError(
            self.name,
            "EXECUTOR_TYPE='thread'" if running is None else running.backend,
            "kill a running job",
            "use EXECUTOR_TYPE='process', or cancel() and current_job.cancel_requested",
        )

    def _interrupt(self, error: BaseException | None = None, *, kill: bool = False) -> bool:
        """End a running call, with ``error`` or as cancelled; ``False`` if it was done before.

        A coroutine is stopped at its next ``await``; a plain function is only told.
        """
        interruptible = self._interruptible
        self._cancel_requested = True
        if not (self._end_cancelled() if error is None else self._fail(error)):
            return False
        if interruptible is not None:
            interruptible.interrupt(kill=kill)
        return True

    def result(self, timeout: float | None = None) -> R:
        """Wait until the call is done and return what it returned.

        Args:
            timeout: Seconds to wait at most; ``None`` waits for ever.

        Raises:
            concurrent.futures.CancelledError: the call was cancelled.
            concurrent.futures.TimeoutError: it was not done in time; it goes on.
            BaseException: what the call raised.
        """
        try:
            exception = self.exception(timeout)
            if exception is not None:
                raise exception
            result: R = self._result
            return result
        finally:
            # The traceback of what we raise refers to this frame, and the future to it: without
            # this, every failed call would be a cycle that only the garbage collector ends.
            exception = None
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait until the call is done and return what it raised, or ``None``.

        Raises:
            concurrent.futures.CancelledError: the call was cancelled.
            concurrent.futures.TimeoutError: it was not done in time.
        """
        if self._status == PENDING:
            if timeout is None or timeout > 0:
                (_this_thread.wait or _block)(self, timeout)
            if self._status == PENDING:
                raise FutureTimeoutError
        if self._status != FINISHED:
            raise CancelledError
        return self._exception

    def _block(self, timeout: float | None) -> None:
        """Block until the call is done, or time is up."""
        blocked = _Blocked()
        if self._watch(blocked, first=True):
            try:
                blocked.wait(timeout)
            finally:
                self._take(blocked)

    def add_done_callback(self, fn: Callable[[FutureProxy[R]], object]) -> None:
        """Call ``fn(self)`` when the call is done, at once if it already is.

        The callback runs in the thread that settles the future (the worker's; a coroutine job's
        callbacks run on its loop, so they must not block), with contexts of its own like the ones
        active here now; outside of any, with those of the call. What it raises is logged.
        """
        callback = _Callback(fn, *self._contexts_for_callback())
        if not self._watch(callback):
            callback(self)

    def set_running_or_notify_cancel(self) -> bool:
        """Claim the call for running. For executors; ``False`` if it was cancelled."""
        if self._begin():
            return True
        if self._started or self._status == FINISHED:
            raise InvalidStateError(f"{self.status}: {self!r}")
        return False

    def set_result(self, result: R) -> None:
        """Settle the future with a result. For executors; raises ``InvalidStateError`` if done."""
        if not self._succeed(result):
            raise InvalidStateError(f"{self.status}: {self!r}")

    def set_exception(self, exception: BaseException | None) -> None:
        """Settle the future with an exception. For executors, like :meth:`set_result`."""
        if not self._settle(FINISHED, None, exception):
            raise InvalidStateError(f"{self.status}: {self!r}")

    # -- asyncio ---------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, R]:
        try:
            if self._status == PENDING:
                loop, inbox = _inbox_of_running_loop()
                awaiter = _Awaiter(inbox, loop.create_future())
                if self._watch(awaiter, first=True):
                    try:
                        yield from awaiter.waiter.__await__()
                    finally:
                        self._take(awaiter)  # only there still if our task was cancelled
            if self._status != FINISHED:
                raise asyncio.CancelledError
            return self.result()
        finally:
            del self  # see result()

    def _add_default_callback(self, fn: Callable[[FutureProxy[Any]], object]) -> None:
        """Like :meth:`add_done_callback`, for a call that is not submitted yet."""
        self._watchers.append(_Callback(fn, self._snapshot, self._variables))

    # -- settling, for the workers of this package -----------------------------------------------

    def _begin(self) -> bool:
        """Take the right to run the call; ``False`` if it was cancelled, or refused."""
        try:
            self._watchers.remove(_TO_START)  # what _take() does, for each job
        except ValueError:
            return False
        self._queued = None
        self._started = time.time()
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
        return self._settle(FINISHED, None, exception)

    def _end_cancelled(self) -> bool:
        return self._settle(CANCELLED_AND_NOTIFIED)

    def _refuse(self) -> bool:
        """Make sure that the call never starts; ``False`` if it already has."""
        self._queued = None
        return self._take(_TO_START)

    def _follow(self, future: Future[R]) -> None:
        """Be settled, and cancelled, with another future."""
        if not isinstance(future, FutureProxy):
            self._followed = future
            future.add_done_callback(self._settle_like)
        elif future._last_followed() is self:
            self._fail(RuntimeError(f"{self.name} returned its own future, and can never be done"))
        elif _forked_at and future._is_of_parent():
            self._fail(ForkedFutureError(future.name))
        else:
            self._followed = future
            if (queued := future._queued) is not None:
                queued.is_wanted()  # by whoever waits for this one
            if not future._watch(self._settle_like):  # unlike a callback, it needs no contexts
                self._settle_like(future)

    def _last_followed(self) -> Future[Any]:
        """The future at the end of the chain; a loop, because a chain may be long."""
        last: Future[Any] = self
        while isinstance(last, FutureProxy) and last._followed is not None:
            last = last._followed
        return last

    def _settle_like(self, future: Future[R]) -> None:
        followers = _this_thread.followers
        followers.append((self, future))
        if len(followers) > 1:
            return  # a frame below does it: a chain of futures is not a chain of frames
        try:
            while followers:
                follower, followed = followers[0]
                if followed.cancelled():
                    follower._end_cancelled()
                elif (exception := followed.exception()) is not None:
                    follower._fail(exception)
                else:
                    follower._succeed(followed.result())
                followers.popleft()
        finally:
            followers.clear()  # empty, unless this was interrupted

    def _take(self, item: Callable[[FutureProxy[R]], object]) -> bool:
        """Remove a ticket or a watcher; ``False`` if somebody else was first."""
        try:
            self._watchers.remove(item)
        except ValueError:
            return False
        return True

    def _watch(self, watcher: Callable[[FutureProxy[R]], object], *, first: bool = False) -> bool:
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
        pending = self._status == PENDING and _TO_SETTLE not in self._watchers
        return pending and self._submitted <= _forked_at

    def _settle(
        self, status: str, result: R | None = None, exception: BaseException | None = None
    ) -> bool:
        """Decide the outcome and tell all who watch; ``False`` if it was decided before."""
        watchers = self._watchers
        try:
            watchers.remove(_TO_SETTLE)  # what _take() does, for each job
        except ValueError:
            return False
        if (load := self._load) is not None:
            load.settle(self, status, exception)
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
            signal = signals.job_failed if exception is not None else _SIGNALS[status]
            self._announce(signal, self._snapshot, self._variables)
        # Let go of what the call held.
        self._snapshot = self._variables = None
        self._interruptible = self._followed = self._queued = None
        return True

    def _announce(
        self, signal: NamedSignal, snapshot: ContextSnapshot | None, variables: Context | None
    ) -> None:
        """Send a signal, with contexts like those of the call."""
        if signal.receivers and snapshot is not None:
            announce = partial(signals.announce, signal, snapshot.app)
            _Callback(announce, snapshot, variables)(self)

    def _contexts_for_callback(self) -> tuple[ContextSnapshot | None, Context | None]:
        app_context = active_app_context()
        if app_context is not None:
            return capture(app_context.app, self._rules, app_context)
        # A worker may settle the future in between. It forgets the snapshot first: look at it last.
        variables, snapshot = self._variables, self._snapshot
        if snapshot is not None:
            return snapshot, variables
        if self._app is None:
            return None, None
        return ContextSnapshot(self._app, self._rules), Context()

    # -- for concurrent.futures.wait() and as_completed() ----------------------------------------
    # They lock ``_condition``, read ``_state`` and add to ``_waiters``, and rely on the state not
    # changing while they hold the lock. So what they see is a state of its own that changes under
    # their lock, made when they first ask.

    if not TYPE_CHECKING:  # the standard library's stubs call them attributes that can be set

        @property
        def _condition(self) -> threading.Condition:
            return self._share().condition

        @property
        def _waiters(self) -> list[Any]:
            return self._share().waiters

        @property
        def _state(self) -> str:
            return self._visible_state()

    def _visible_state(self) -> str:
        running = self.running()  # first: see status
        state = self._status if self._shared is None else self._shared.state
        return RUNNING if state == PENDING and running else state

    def _share(self) -> _SharedState:
        if self._shared is None:
            with _shared_lock:  # two first readers must get one condition
                if self._shared is None:
                    shared = _SharedState()
                    if not self._watch(shared, first=True):
                        shared.state = self._status
                    _shared_states.add(shared)
                    self._shared = shared
        return self._shared


_block = FutureProxy[Any]._block

_shared_lock = threading.RLock()  # reentrant: a finalizer may run while it is held


_SIGNALS: dict[str, NamedSignal] = {
    FINISHED: signals.job_succeeded,
    CANCELLED_AND_NOTIFIED: signals.job_cancelled,
}


_hear_of_success = signals.receivers_of(signals.job_succeeded)
_hear_of_failure = signals.receivers_of(signals.job_failed)
_hear_of_cancelling = signals.receivers_of(signals.job_cancelled)


class _SharedState:
    """A future as ``wait()`` and ``as_completed()`` see it."""

    __slots__ = ("__weakref__", "condition", "state", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.state = PENDING  # guarded by condition
        self.waiters: list[Any] = []  # guarded by condition

    def __call__(self, future: FutureProxy[Any]) -> None:
        with self.condition:
            self.state = future._status
            for waiter in self.waiters:
                if future.cancelled():
                    waiter.add_cancelled(future)
                elif future._exception is not None:
                    waiter.add_exception(future)
                else:
                    waiter.add_result(future)
            self.condition.notify_all()


class _Blocked:
    """A thread that waits in ``result()``: one raw lock, held until the future is done."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> None:
        seconds = -1 if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX)
        self._lock.acquire(timeout=seconds)

    def __call__(self, future: FutureProxy[Any]) -> None:
        self._lock.release()


class _Awaiter:
    """A task that waits in ``await future``, on the loop of ``inbox``."""

    __slots__ = ("_inbox", "waiter")

    def __init__(self, inbox: LoopInbox, waiter: asyncio.Future[None]) -> None:
        self._inbox = inbox
        self.waiter = waiter

    def __call__(self, future: FutureProxy[Any]) -> None:
        self._inbox.post(self._wake)  # False: the loop is closed, and nobody waits there any more

    def _wake(self) -> None:
        if not self.waiter.done():
            self.waiter.set_result(None)


class _ProgressWatcher:
    """Whoever iterates over ``future.watch()``, on the loop of ``inbox``."""

    __slots__ = ("_inbox", "_loop", "_posted", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop, inbox: LoopInbox) -> None:
        self._loop = loop
        self._inbox = inbox
        self._posted = False
        self._waiter: asyncio.Future[None] | None = None  # only the loop's thread touches it

    def __call__(self, future: FutureProxy[Any]) -> None:
        self._inbox.post(self._wake)

    def change(self) -> None:
        # However often a job reports, the loop is told once until it has looked. Two threads may
        # both tell it: no harm. _wake() clears the flag before the reader looks, so what is
        # reported afterwards is told again.
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


class _Callback:
    """A done callback with the contexts it runs in."""

    __slots__ = ("_fn", "_snapshot", "_variables")

    def __init__(
        self,
        fn: Callable[[FutureProxy[Any]], object],
        snapshot: ContextSnapshot | None,
        variables: Context | None,
    ) -> None:
        self._fn = fn
        self._snapshot = snapshot
        self._variables = variables

    def __call__(self, future: FutureProxy[Any]) -> None:
        try:
            if self._snapshot is None or self._variables is None:
                self._fn(future)
            else:
                run_pushed(self._snapshot, self._variables, self._fn, future)
        except BaseException:
            # Nobody can catch what a callback raises: the worker that runs it must live on.
            logger = LOGGER if future._app is None else future._app.logger
            fn = without_data(self._fn)
            log_exception(logger, "exception calling callback %r for %r", fn, future)


class ReadableFuture(Protocol[R_co]):
    """What a future gives: so that an ``Executor[float]`` may keep a future of ``int``."""

    def cancel(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def running(self) -> bool: ...
    def done(self) -> bool: ...
    def result(self, timeout: float | None = None) -> R_co: ...
    def exception(self, timeout: float | None = None) -> BaseException | None: ...


@final
class FutureKey(Generic[R]):
    """A key that knows the type of its results: ``REPORT = FutureKey[Report]("report")``.

    ``REPORT[user_id]`` is a key of the same type for one user. Two keys are the same key if their
    parts are equal; a key of one part names the same future as the bare part does.
    """

    __slots__ = ("parts",)

    # Hashable to Python, but not to type checkers: otherwise a FutureKey[int] would also match
    # the overloads for untyped keys, and a job that returns str could be stored under it.
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, name: Hashable, /) -> None:
        self.parts: tuple[Hashable, ...] = (name,)

    def __getitem__(self, item: Hashable, /) -> Self:
        key = type(self)(self.parts[0])
        key.parts = (*self.parts, item)
        return key

    def __eq__(self, other: object, /) -> bool:
        return isinstance(other, FutureKey) and _plain_key(self) == _plain_key(other)

    def __repr__(self) -> str:
        first, *rest = self.parts
        return f"FutureKey({first!r})" + "".join(f"[{item!r}]" for item in rest)


def _plain_key(key: Any) -> Hashable:
    """The value under which a key is kept."""
    if isinstance(key, FutureKey):
        return key.parts[0] if len(key.parts) == 1 else key.parts
    plain: Hashable = key
    return plain


class FutureCollection(Generic[T]):
    """Futures by key, a bounded number of them. Every method may be called from any thread.

    Methods named like those of a future take the key first and ask the future kept under it; for
    a key that is not there they return ``None``. ``T`` is the type of the results; with a
    :class:`FutureKey` the key's own type is used instead.
    """

    def __init__(self, max_length: int | None = 50) -> None:
        self.max_length = max_length
        """Futures kept at most; ``None`` keeps them all."""
        self._futures: OrderedDict[Hashable, Future[Any]] = OrderedDict()  # guarded by _lock
        self._lock = threading.RLock()  # reentrant: a key's __eq__ or a finalizer may come back
        _collections.add(self)

    def __len__(self) -> int:
        return len(self._futures)

    def __contains__(self, future: object) -> bool:
        """Whether this *future* is kept, under whatever key. For a key, use :meth:`get`."""
        with self._lock:
            return any(kept is future for kept in self._futures.values())

    @overload
    def add(self, future_key: FutureKey[R], future: ReadableFuture[R]) -> None: ...
    @overload
    def add(self, future_key: Hashable, future: ReadableFuture[T]) -> None: ...
    def add(self, future_key: Any, future: Any) -> None:
        """Keep a future. The oldest finished one goes if there is no room, else the oldest.

        A future that goes is only forgotten here; its call runs on.

        Raises:
            DuplicateKeyError: the key is in use; a ``ValueError``.
        """
        self._claim(future_key, future, "error")

    def _claim(
        self, future_key: object, future: Future[Any], on_duplicate: OnDuplicate
    ) -> FutureProxy[Any] | None:
        """Keep ``future``, or return the one to join. One step: of two claims, one comes second."""
        key = _plain_key(future_key)
        with self._lock:
            kept = self._futures.get(key)
            if kept is not None:
                if on_duplicate == "error":
                    raise DuplicateKeyError(key)
                held = isinstance(kept, FutureProxy) and kept._held
                forked = isinstance(kept, FutureProxy) and kept._is_of_parent()
                if on_duplicate == "join" and not (held or forked or kept.done()):
                    return _as_proxy(kept)
                del self._futures[key]
            self._futures[key] = future
            if isinstance(future, FutureProxy):
                future.key = key
            while self.max_length is not None and len(self._futures) > self.max_length:
                finished = (
                    k for k, kept in self._futures.items() if kept.done() and kept is not future
                )
                del self._futures[next(finished, next(iter(self._futures)))]
        return None

    def _forget(self, future: FutureProxy[Any]) -> None:
        """Undo the claim of a future whose call was refused."""
        with self._lock:
            if self._futures.get(future.key) is future:
                del self._futures[future.key]

    @overload
    def pop(self, future_key: FutureKey[R]) -> FutureProxy[R] | None: ...
    @overload
    def pop(self, future_key: Hashable) -> FutureProxy[T] | None: ...
    def pop(self, future_key: Any) -> FutureProxy[Any] | None:
        """Forget a key and return its future, or ``None``."""
        with self._lock:
            return _as_proxy(self._futures.pop(_plain_key(future_key), None))

    @overload
    def get(self, future_key: FutureKey[R]) -> FutureProxy[R] | None: ...
    @overload
    def get(self, future_key: Hashable) -> FutureProxy[T] | None: ...
    def get(self, future_key: Any) -> FutureProxy[Any] | None:
        """The future kept under a key, or ``None``."""
        return _as_proxy(self._get(future_key))

    def _get(self, future_key: object) -> Future[Any] | None:
        with self._lock:
            return self._futures.get(_plain_key(future_key))

    @overload
    def result(self, future_key: FutureKey[R], timeout: float | None = None) -> R | None: ...
    @overload
    def result(self, future_key: Hashable, timeout: float | None = None) -> T | None: ...
    def result(self, future_key: Any, timeout: float | None = None) -> Any:
        """Like :meth:`FutureProxy.result`."""
        future = self._get(future_key)
        return None if future is None else future.result(timeout)

    @overload
    def exception(
        self, future_key: FutureKey[Any], timeout: float | None = None
    ) -> BaseException | None: ...
    @overload
    def exception(
        self, future_key: Hashable, timeout: float | None = None
    ) -> BaseException | None: ...
    def exception(self, future_key: Any, timeout: float | None = None) -> BaseException | None:
        """Like :meth:`FutureProxy.exception`."""
        future = self._get(future_key)
        return None if future is None else future.exception(timeout)

    @overload
    def done(self, future_key: FutureKey[Any]) -> bool | None: ...
    @overload
    def done(self, future_key: Hashable) -> bool | None: ...
    def done(self, future_key: Any) -> bool | None:
        """Like :meth:`FutureProxy.done`."""
        future = self._get(future_key)
        return None if future is None else future.done()

    @overload
    def running(self, future_key: FutureKey[Any]) -> bool | None: ...
    @overload
    def running(self, future_key: Hashable) -> bool | None: ...
    def running(self, future_key: Any) -> bool | None:
        """Like :meth:`FutureProxy.running`."""
        future = self._get(future_key)
        return None if future is None else future.running()

    @overload
    def cancelled(self, future_key: FutureKey[Any]) -> bool | None: ...
    @overload
    def cancelled(self, future_key: Hashable) -> bool | None: ...
    def cancelled(self, future_key: Any) -> bool | None:
        """Like :meth:`FutureProxy.cancelled`."""
        future = self._get(future_key)
        return None if future is None else future.cancelled()

    @overload
    def cancel(self, future_key: FutureKey[Any]) -> bool | None: ...
    @overload
    def cancel(self, future_key: Hashable) -> bool | None: ...
    def cancel(self, future_key: Any) -> bool | None:
        """Like :meth:`FutureProxy.cancel`."""
        future = self._get(future_key)
        return None if future is None else future.cancel()

    @overload
    def status(self, future_key: FutureKey[Any]) -> Status | None: ...
    @overload
    def status(self, future_key: Hashable) -> Status | None: ...
    def status(self, future_key: Any) -> Status | None:
        """Like :attr:`FutureProxy.status`."""
        future = self.get(future_key)
        return None if future is None else future.status

    @overload
    def add_done_callback(
        self, future_key: FutureKey[R], fn: Callable[[FutureProxy[R]], object]
    ) -> None: ...
    @overload
    def add_done_callback(
        self, future_key: Hashable, fn: Callable[[FutureProxy[T]], object]
    ) -> None: ...
    def add_done_callback(self, future_key: Any, fn: Callable[[Any], object]) -> None:
        """Like :meth:`FutureProxy.add_done_callback`; a key that is not there does nothing."""
        future = self.get(future_key)
        if future is not None:
            future.add_done_callback(fn)

    def _state(self, future_key: object) -> str | None:
        """``concurrent.futures``' own word for the status: ``"RUNNING"``, ``"FINISHED"``, ..."""
        future = self._get(future_key)
        return None if future is None else future._state


@overload
def _as_proxy(future: None) -> None: ...
@overload
def _as_proxy(future: Future[R]) -> FutureProxy[R]: ...
def _as_proxy(future: Future[Any] | None) -> FutureProxy[Any] | None:
    """Make a future of another executor awaitable, like ours."""
    if future is None or isinstance(future, FutureProxy):
        return future
    proxy: FutureProxy[Any] = FutureProxy()
    proxy._follow(future)
    return proxy


_collections: WeakSet[FutureCollection[Any]] = WeakSet()
_shared_states: WeakSet[_SharedState] = WeakSet()  # guarded by _shared_lock


def _forget_parent() -> None:
    """In the child of a fork: a thread of the parent may have held the locks."""
    global _forked_at, _shared_lock  # noqa: PLW0603
    _forked_at = time.time()
    # Constant in each process; only here it becomes another one.
    globals().update(_TO_START=_Ticket(), _TO_RESUME=_Ticket(), _TO_SETTLE=_Ticket())
    _shared_lock = threading.RLock()
    for shared in list(_shared_states):
        shared.condition = threading.Condition()
    _this_thread.wait = None  # this thread is no worker any more
    for collection in _collections:
        collection._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
