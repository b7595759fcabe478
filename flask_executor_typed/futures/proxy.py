"""The future that users get: wait for a call, await it, cancel it, add callbacks.

The only module with the public methods of a future.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Hashable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar
from weakref import WeakValueDictionary

from ..errors import JobLostError, UnsupportedError
from ..runtime.forks import in_child
from ..runtime.frames import levels_to_caller, name_of_caller
from ..runtime.loop_inbox import inbox_of_running_loop
from ..runtime.running_loop import running_loop
from .base import (
    ClaimableFuture,
    begin,
    interrupt,
    last_followed,
    note_change,
    shared_lock,
    succeed,
)
from .callbacks import Callback, app_of, check_callback, contexts_for_callback
from .progress import Progress
from .stdlib import shared_state_of, state_of
from .waiters import Awaiter, Blocked
from .watching import steps_of

__all__ = (
    "FutureProxy",
    "Status",
    "block_until_done",
    "future_with_id",
    "id_of",
    "named_future",
    "named_futures",
    "wait_here_with",
    "waiting_here_by",
)

R = TypeVar("R")

# A union, since stubtest wants one at runtime where a type checker sees one.
Status = (
    Literal["pending"]  # noqa: PYI030
    | Literal["running"]
    | Literal["succeeded"]
    | Literal["failed"]
    | Literal["cancelled"]
    | Literal["lost"]
)


class _ThisThread(threading.local):
    wait: Callable[[FutureProxy[Any], float | None], None] | None = None
    """How this thread waits, if not by blocking alone; see :func:`wait_here_with`."""


_this_thread = _ThisThread()


def wait_here_with(wait: Callable[[FutureProxy[Any], float | None], None]) -> None:
    """Make ``result()`` call ``wait(future, timeout)`` when it has to wait in this thread.

    Workers use this to run the call meanwhile, and threads of event loops to refuse to wait.
    """
    _this_thread.wait = wait


@contextlib.contextmanager
def waiting_here_by(
    wait: Callable[[FutureProxy[Any], float | None], None],
) -> Generator[None, None, None]:
    """Wait like that in this thread until the block ends; see :func:`wait_here_with`."""
    before, _this_thread.wait = _this_thread.wait, wait
    try:
        yield
    finally:
        _this_thread.wait = before


@in_child
def _forget_parent() -> None:
    _this_thread.wait = None  # this thread is no worker any more


class FutureProxy(ClaimableFuture[R]):
    """The handle of one submitted call: a real ``concurrent.futures.Future`` that can be awaited.

    Every method may be called from any thread. ``await future`` works on any running asyncio
    loop, for any number of awaiters. If the awaiting task is cancelled or times out, the call goes
    on, as it does after a timeout of :meth:`result`. Use :meth:`cancel` to stop it.
    """

    __slots__ = ()

    name: str
    """The qualified name of the function that was called."""

    key: Hashable | None
    """The key under which the future was kept last, if it was submitted with one."""

    # -- what the call is and how far it is ------------------------------------------------------

    @property
    def id(self) -> str:
        """An unguessable id of the call, of 22 characters that are safe in a URL.

        With a store, the first read waits until the job's record is written.
        """
        future_id = self._made_id()
        if future_id not in _named:
            with shared_lock():
                _named[future_id] = self
        if self._recorder is not None:
            self._recorder.on_named(self)  # other processes must find the job from now on
        return future_id

    def _made_id(self) -> str:
        if self._id is None:
            with shared_lock():  # two first readers must see one id
                if self._id is None:
                    self._id = secrets.token_urlsafe(16)
        return self._id

    @property
    def status(self) -> Status:
        """``pending``, ``running``, ``succeeded``, ``failed``, ``cancelled`` or ``lost``.

        ``lost``: the process that ran the call has ended, and how far the call got is unknown.
        """
        running = self.running()  # first: asked last, a call that ends meanwhile would be pending
        if not self._outcomes:
            return "running" if running else "pending"
        state, _, exception, *_ = self._outcomes[0]
        if state != FINISHED:
            return "cancelled"
        if exception is None:
            return "succeeded"
        return "lost" if isinstance(exception, JobLostError) else "failed"

    @property
    def submitted_at(self) -> datetime:
        """When the call was submitted, in UTC."""
        return datetime.fromtimestamp(self._submitted, timezone.utc)

    @property
    def started_at(self) -> datetime | None:
        """When a worker began to run the call, in UTC; ``None`` if it has not, or never did."""
        self.running()  # for a job on an engine: reads its record, which sets the start
        started = self._started
        return datetime.fromtimestamp(started, timezone.utc) if started else None

    @property
    def finished_at(self) -> datetime | None:
        """When the future was settled, in UTC; ``None`` if it is not."""
        if not self._outcomes:
            return None
        return datetime.fromtimestamp(self._outcomes[0][3], timezone.utc)

    @property
    def progress(self) -> Progress | None:
        """The progress that the job reported last; ``None`` if it reported none."""
        return self._progress

    def watch(self) -> AsyncIterator[Progress]:
        """Yield the job's progress each time it changes, until the job is done.

        ``async for progress in future.watch():`` ends with the job, however that ends, and does not
        raise what the job raised. A reader that is slower than the job misses steps, but never the
        last one. Nothing polls.
        """
        return steps_of(self)

    def _report(self, progress: Progress) -> None:
        self._progress = progress
        if self._recorder is not None:
            self._recorder.on_progress(self)
        for change in self._progress_watchers:
            change()

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        key = "" if self.key is None else f" key={self.key!r}"
        return f"<{type(self).__name__}{name}{key} {self.status} at {id(self):#x}>"

    # -- what a future cannot be used for --------------------------------------------------------

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a future cannot be pickled or copied; pass its result, or its id or key, by which "
            "executor.jobs and executor.futures find it"
        )

    @property
    def __html__(self) -> NoReturn:
        # Flask's JSON provider looks for this before it says "not JSON serializable". For all other
        # code the attribute does not exist.
        if name_of_caller().startswith("flask.json"):
            raise TypeError(
                f"the future of {self.name} is not JSON; give its result: await the future, or "
                "call result()"
            )
        raise AttributeError("__html__")

    # -- concurrent.futures ----------------------------------------------------------------------

    def done(self) -> bool:
        """Return whether the call has a result or an exception, or was cancelled."""
        self._go_on()
        return bool(self._outcomes)

    def running(self) -> bool:
        """Return whether a worker runs the call now."""
        if self._outcomes:
            return False
        followed = self._followed
        return self._started > 0 or (followed is not None and followed.running())

    def cancelled(self) -> bool:
        """Return whether the call was cancelled, before or while it ran."""
        return bool(self._outcomes) and self._outcomes[0][0] == CANCELLED_AND_NOTIFIED

    def cancel(self, *, kill: bool = False) -> bool:
        """Cancel the call if that is possible; return whether it is cancelled.

        A pending call never starts. A running coroutine gets ``CancelledError`` at its next
        ``await``; the future is cancelled at once, and the coroutine cleans up on its loop. A
        running plain function cannot be stopped, so this returns ``False``; the function can read
        ``current_job.cancel_requested`` and end by itself.

        Args:
            kill: End the worker process of a running call, whatever it does there. Makes no
                difference to a pending call or a coroutine in a thread.

        Raises:
            UnsupportedError: ``kill`` is set, and the call runs where it cannot be killed: in a
                thread, say.
        """
        if self._outcomes or self._is_of_parent():
            self._go_on()
            return self.cancelled()
        _reserve_frames()  # enough of them to end what is decided here, or none is
        last = last_followed(self)
        if last is not self:
            return self._cancel_followed(last, kill=kill)
        call = self._call
        if self._withdraw():
            self._end_by_cancel()
        elif call is not None and call.can_interrupt(kill=kill):
            interrupt(self, kill=kill)
        elif kill and self.running():
            raise self._cannot_be_killed()
        else:
            self._cancel_requested = True
            # Another thread may have begun to have the call followed. It looks for the request
            # after that, so one of the two sees what the other has done.
            if (last := last_followed(self)) is not self:
                return self._cancel_followed(last, kill=kill)
            note_change(self)
            if call is not None:
                call.ask_to_end()
        return self.cancelled()

    def _cancel_followed(self, last: Future[Any], *, kill: bool) -> bool:
        """Cancel the future whose end settles this one."""
        before, self._cancel_requested = self._cancel_requested, True  # as in _end_by_cancel()
        try:
            if isinstance(last, FutureProxy):
                cancelled = last.cancel(kill=kill)
            else:
                cancelled = last.cancel()
                if kill and last.running():
                    raise self._cannot_be_killed()
        except UnsupportedError:
            self._cancel_requested = before
            raise
        if not self._outcomes:
            note_change(self)
        return cancelled

    def _cannot_be_killed(self) -> UnsupportedError:
        call = self._call
        return UnsupportedError(
            self.name,
            "EXECUTOR_TYPE='thread'" if call is None else call.backend,
            "kill a running job",
            "use EXECUTOR_TYPE='process', or cancel() and current_job.cancel_requested",
        )

    def result(self, timeout: float | None = None) -> R:
        """Wait until the call is done and return what it returned.

        Args:
            timeout: The limit in seconds; ``None`` waits for ever.

        Raises:
            concurrent.futures.CancelledError: the call was cancelled.
            concurrent.futures.TimeoutError: the call was not done in time; it goes on.
            BaseException: whatever the call raised.
        """
        try:
            if not self._outcomes:
                self._wait(timeout)
            result: R
            state, result, exception, *_ = self._outcomes[0]
            if exception is not None:
                raise exception
            if state != FINISHED:
                raise CancelledError
            return result
        finally:
            # The traceback of the exception refers to this frame. If the frame still referred to
            # the future, each failed call would be a cycle that only the garbage collector frees.
            exception = None
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait until the call is done and return what it raised, or ``None``.

        Raises:
            concurrent.futures.CancelledError: the call was cancelled.
            concurrent.futures.TimeoutError: the call was not done in time.
        """
        if not self._outcomes:
            self._wait(timeout)
        state, _, exception, *_ = self._outcomes[0]
        if state != FINISHED:
            raise CancelledError
        return exception

    def _wait(self, timeout: float | None) -> None:
        """Block until the call is done, in the way that suits this thread."""
        if timeout is None or timeout > 0:
            (_this_thread.wait or _block_here)(self, timeout)
        if not self._outcomes:
            seconds = max(timeout or 0, 0)
            raise FutureTimeoutError(
                f"{self.name or 'the call'} is not done after {seconds:.3g} s; it goes on"
            )

    def add_done_callback(self, fn: Callable[[FutureProxy[R]], object]) -> None:
        """Call ``fn(self)`` when the call is done, at once if it already is.

        The callback may block. It runs in the thread that settles the future, such as the worker's;
        if that thread runs an event loop, a thread for callbacks runs it instead. If the call is
        done already, the callback runs here, and must not block an event loop. The callbacks of one
        future run one after the other, in the order in which they were added. Each gets contexts of
        its own, copied from the ones active here now; outside of any, from those of the call, of
        which only the app is left once it is done. Its exceptions are logged.
        """
        check_callback(fn)
        callback = Callback(fn, *contexts_for_callback(self))
        self._has_callbacks = True
        # The settling thread may have looked for callbacks already, and may still call this one. It
        # drops the counter last, and calls no more callbacks after that.
        try:
            if (counter := self._counter) is not None:
                counter.expect(callback)
            is_done = not self._watch(callback)
        except BaseException:  # of a signal handler; or the future is that of a parent process
            if callback.counter is not None and callback not in self._watchers:
                callback.counter.callback_is_over(callback)  # nothing will call it
            raise
        if is_done:
            callback.run(self)

    def set_running_or_notify_cancel(self) -> bool:
        """Claim the call for running. For executors; ``False`` if it was cancelled."""
        if begin(self):
            return True
        if self._started or (self._outcomes and not self.cancelled()):
            raise InvalidStateError(f"{self.status}: {self!r}")
        return False

    def set_result(self, result: R) -> None:
        """Settle the future with a result. For executors; raises ``InvalidStateError`` if done."""
        _reserve_frames()
        if not succeed(self, result):
            raise InvalidStateError(f"{self.status}: {self!r}")

    def set_exception(self, exception: BaseException | None) -> None:
        """Settle the future with an exception. For executors, like :meth:`set_result`."""
        _reserve_frames()
        if not self._settle(FINISHED, None, exception):
            raise InvalidStateError(f"{self.status}: {self!r}")

    # -- asyncio ---------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, R]:
        try:
            if not self._outcomes:
                loop, inbox = inbox_of_running_loop()
                awaiter = Awaiter(inbox, loop.create_future())
                if self._watch(awaiter, first=True):
                    try:
                        yield from awaiter.waiter.__await__()
                    finally:
                        self._take(awaiter)  # only there still if our task was cancelled
            if self.cancelled():
                raise asyncio.CancelledError
            return self.result()
        finally:
            del self  # see result()

    # -- for concurrent.futures.wait() and as_completed() ----------------------------------------

    if not TYPE_CHECKING:  # the standard library's stubs call them attributes that can be set

        @property
        def _condition(self) -> threading.Condition:
            return shared_state_of(self).condition

        @property
        def _waiters(self) -> list[Any]:
            return shared_state_of(self).waiters

        @property
        def _state(self) -> str:
            return state_of(self)


def _block_here(future: FutureProxy[Any], timeout: float | None) -> None:
    """Block a thread that is none of the executor's, such as that of a view."""
    # Waiting on the loop of an async view ends, unlike on the loop that must run the call: so this
    # only warns.
    if running_loop() is not None and (app := app_of(future)) is not None and app.debug:
        warnings.warn(
            f"waiting for {future.name} here blocks the event loop, and whatever else runs on it; "
            "use 'await future'",
            stacklevel=levels_to_caller(),
        )
    block_until_done(future, timeout)


def _reserve_frames(count: int = 25) -> None:
    """Raise ``RecursionError`` unless ``count`` more frames fit below the recursion limit."""
    if count:
        _reserve_frames(count - 1)


def block_until_done(future: FutureProxy[Any], timeout: float | None = None) -> None:
    """Block this thread until ``future`` is done, for ``timeout`` seconds at most."""
    blocked = Blocked()
    if future._watch(blocked, first=True):
        try:
            blocked.wait(timeout)
        finally:
            future._take(blocked)


def id_of(future: FutureProxy[Any]) -> str:
    """Return the id of a future without writing its record: for logs, and for the record itself."""
    return future._made_id()


_named: WeakValueDictionary[str, FutureProxy[Any]] = WeakValueDictionary()
"""The futures of this process whose id was read, by id. Guarded by shared_lock() for writing."""


def named_future(future_id: str) -> FutureProxy[Any] | None:
    """Return the future of this process with an id, if the id was read and the future is alive."""
    return _named.get(future_id)


def named_futures() -> list[FutureProxy[Any]]:
    """Return the futures of this process whose ids were read, the oldest first."""
    with shared_lock():
        return list(_named.values())


def future_with_id(name: str, future_id: str, key: Hashable | None) -> FutureProxy[Any]:
    """Create the future of a call of another process, which has given it the id."""
    future: FutureProxy[Any] = FutureProxy(name)
    future._id = future_id
    future.key = key
    return future
