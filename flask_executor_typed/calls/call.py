"""One accepted call, and the ways to run it: in a thread, or on an event loop.

The only module that runs the function of a call; the function of a chunk of ``map`` is in map.py.
Whatever the function returns or raises ends up in the call's future, never in the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from contextvars import Context
from dataclasses import replace
from functools import partial
from logging import ERROR, WARNING
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast

from .. import futures, signals
from ..context import (
    ContextSnapshot,
    PushedContexts,
    PushedInTask,
    rewind_uploads,
    running_call,
)
from ..errors import JobAbandonedError
from ..futures import (
    FutureProxy,
    Progress,
    announce,
    block_until_done,
    follow,
)
from ..runtime.logs import log_exception
from .limits import Deadline, Limits
from .reports import FAILED, add_cures, explain, log_call

if TYPE_CHECKING:
    from blinker import NamedSignal

__all__ = (
    "Call",
    "Interrupter",
    "LoopServices",
    "can_be_awaited",
    "is_of_another_call",
    "pending_call_of",
)

R = TypeVar("R")


_type_of: Callable[[object], type[object]] = type  # for type checkers


def pending_call_of(future: FutureProxy[Any]) -> Call[Any] | None:
    """Return the pending call whose outcome ``future`` gets, if this process has that call."""
    return cast("Call[Any] | None", futures.pending_call(future))


def is_of_another_call(result: object) -> bool:
    """Return whether it is a call's future. Waiting for it could take the worker it needs."""
    return isinstance(result, FutureProxy)


def can_be_awaited(result: object) -> bool:
    """Return whether ``result`` can be awaited. The type of a proxy always says so."""
    try:
        return hasattr(result, "__await__")
    except Exception:  # a proxy that stands for nothing here
        return False


class LoopServices(Protocol):
    """The part of the executor's event loops that worker threads use."""

    def wait_for(self, awaitable: Awaitable[R], /) -> R:
        """Block until an awaitable has a result."""
        ...

    def call_later(self, seconds: float, fn: Callable[[], object], /) -> Callable[[], object]:
        """Call ``fn`` on a loop after some seconds. Return a function that prevents it."""
        ...


class CallPool(Protocol):
    """A pool of workers that must know which calls other jobs wait for."""

    def want(self, call: Call[Any]) -> None: ...

    def unwant(self, call: Call[Any]) -> None: ...


class Interrupter(Protocol):
    """Stops running calls, or asks them to end, when ``cancel()`` is called. Thread-safe."""

    backend: str
    """Where the calls run, for messages."""

    def can_interrupt(self, call: Call[Any], /, *, kill: bool) -> bool:
        """Return whether ``interrupt()`` stops the call, which may then be settled first."""
        ...

    def interrupt(self, call: Call[Any], /, *, kill: bool = False) -> None:
        """Stop the call, which is settled already. ``kill`` stops it whatever it does."""

    def ask_to_end(self, call: Call[Any], /) -> None:
        """Tell a call that cannot be stopped that ``cancel()`` was called."""


class CallLoop(Protocol):
    """An event loop that must know which of its calls are over."""

    def call_is_over(self, call: Call[Any], /) -> None: ...


# Bound once, because each call uses them.
_set_running_call = running_call.set
_begin, _succeed = futures.begin, futures.succeed
_hear_of_start = signals.receivers_of(signals.job_started)

_no_future: FutureProxy[Any] = FutureProxy("a call that is over")
futures.refuse(_no_future)
futures.end_cancelled(_no_future)  # not cancel(), which would say that it was asked for

_nothing: Any = None  # in place of what a call that is over has dropped

_NO_KWARGS: dict[str, Any] = {}
"""Shared by the calls without keyword arguments, to save a dict for each that waits."""


class Call(Generic[R]):
    """A function with its arguments, the contexts it runs in, and the future that it settles."""

    contexts: ClassVar[type[PushedContexts]] = PushedContexts
    """The context manager that makes the snapshot current in a thread."""

    contexts_in_task: ClassVar[type[PushedContexts]] = PushedInTask

    __slots__ = (
        "_is_wanted",
        "_looks",
        "args",
        "attempt",
        "executor",
        "fn",
        "future",
        "interrupter",
        "kwargs",
        "limits",
        "logs",
        "pool",
        "snapshot",
        "task",
        "variables",
    )

    task: asyncio.Task[Any] | None
    """The task that runs the call on a loop: unset before, and read by the loop's thread alone."""

    def __init__(  # noqa: PLR0913  # all that a call is made of
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        snapshot: ContextSnapshot,
        variables: Context,
        future: FutureProxy[R],
        logs: bool = True,
        executor: object = None,
        limits: Limits | None = None,
    ) -> None:
        self.fn: Callable[..., Any] = fn
        self.args: tuple[Any, ...] = args
        self.kwargs: dict[str, Any] = kwargs or _NO_KWARGS
        self.snapshot: ContextSnapshot = snapshot
        self.variables: Context = variables
        """The context variables at the submit; the function runs in a copy of them."""
        self.future: FutureProxy[R] = future
        """The future that the call settles; ``_no_future`` once the call is over."""
        future._call = self
        self.logs: bool = logs
        """Whether an exception is logged."""
        self.executor: object = executor
        """The executor that accepted the call."""
        self.limits: Limits | None = limits
        self.attempt: int = 1
        self.pool: CallPool | None = None
        """The pool of threads that runs the call, or will."""
        self.interrupter: Interrupter | None = None
        """Stops the running call when ``cancel()`` is called; without one, nothing can."""
        self._is_wanted = False

    def is_of(self, executor: object) -> bool:
        """Return whether ``executor`` accepted the call, and the call is not over."""
        return self.executor is executor

    def settles(self, future: FutureProxy[Any]) -> bool:
        """Return whether ``future`` gets the outcome of this call, which is not over."""
        return futures.last_followed(future) is self.future

    @property
    def is_over(self) -> bool:
        """Whether the call was released: its worker has nothing left to do. Thread-safe."""
        return self.future is _no_future

    @property
    def was_accepted(self) -> bool:
        """Whether the call counts among those of its executor."""
        return self.future._counter is not None

    @property
    def has_time_limit(self) -> bool:
        return self.limits is not None and self.limits.timeout not in {None, inf}

    # -- for backends and loops ------------------------------------------------------------------

    # Another thread may release the call at any moment. Its future is then one that is done: the
    # call can be neither begun nor cancelled any more.

    def begin(self) -> bool:
        """Take the right to run the call; ``False`` if it was cancelled, refused, or has run."""
        begins = _begin(self.future)
        if self._is_wanted and self.pool is not None:
            self.pool.unwant(self)
        return begins

    def refuse(self) -> bool:
        """Take the right to start from all workers; ``False`` if one has it, or it was cancelled.

        From any thread.
        """
        return futures.refuse(self.future)

    def cancel(self) -> None:
        """Cancel the call unless it is over. From any thread."""
        self.future.cancel()

    @property
    def cancel_requested(self) -> bool:
        """Whether ``cancel()`` was called, or the time is up. Thread-safe."""
        return self.future._cancel_requested

    def look_for_cancel(self) -> bool:
        """Return :attr:`cancel_requested`, and note that the function ends by itself if asked."""
        self._looks = True
        return self.cancel_requested

    @property
    def looks(self) -> bool:
        """Whether the function has looked, and so is expected to end when it is asked to."""
        return getattr(self, "_looks", False)  # no slot of each call: only the function sets it

    def watch(self, watcher: Callable[[FutureProxy[Any]], object]) -> bool:
        """Have ``watcher(future)`` called when the call is settled, before the callbacks.

        From any thread. ``False`` if it is settled already. It may be called twice.
        """
        return self.future._watch(watcher, first=True)

    def pause(self) -> None:
        """Give back the right to run, so that the call can be cancelled as if it had not begun."""
        futures.pause(self.future)

    def resume(self) -> bool:
        """Take the right to run again; ``False`` if the call was settled meanwhile."""
        return futures.resume(self.future)

    def delegate_to(self, running: Future[Any]) -> None:
        """Have ``running``, the same call in another executor, answer for this one.

        It is asked whether the call runs, and ``cancel()`` cancels it.
        """
        futures.delegate(self.future, running)

    def end_hold(self) -> None:
        """Note that the response or commit that the call waited for has come."""
        futures.end_hold(self.future)

    def set_start(self, at: float) -> None:
        """Note when the call began in another process, in seconds since the epoch."""
        futures.set_start(self.future, at)

    def set_attempt(self, number: int) -> None:
        """Note the number of the next attempt; those before it were made elsewhere."""
        self.attempt = self.future._attempts = number

    def report(self, progress: Progress) -> None:
        """Publish the call's progress, unless the call is over. Thread-safe."""
        if not self.is_over:
            self.future._report(progress)

    @property
    def keeps_log(self) -> bool:
        """Whether it is to be told what it logs."""
        return self.future._log is not None

    def add_log(self, lines: Iterable[str]) -> None:
        """Keep lines that the function has logged, unless it is settled. From any thread."""
        futures.add_log(self.future, lines)

    def announcement(self, signal: NamedSignal) -> Callable[[], None]:
        """Return a function that sends a signal about the call, in contexts like its own.

        The call may be over when that is called.
        """
        return partial(announce, signal, self.future, self.snapshot, self.variables)

    def succeed(self, result: R) -> bool:
        """Settle the call with a result; ``False`` if it is settled already."""
        return _succeed(self.future, result)

    def fail(self, error: BaseException) -> None:
        """Log ``error`` and settle the call with it; as cancelled if it answers ``cancel()``."""
        if self._is_answer_to_cancel(error):
            self.end_cancelled()
        elif not self.future.cancelled():  # it may be, between two attempts
            self.explain(error)
            self.log(error)
            futures.fail(self.future, error)

    def end_cancelled(self) -> bool:
        """Settle the call as cancelled; ``False`` if it is settled already."""
        return futures.end_cancelled(self.future)

    def end_by_cancel(self) -> bool:
        """Settle the call as cancelled, which was asked for; ``False`` if it is settled already."""
        return futures.end_by_cancel(self.future)

    def release(self) -> None:
        """Drop all references, so that a failed call is freed without the garbage collector.

        The last thing done to a call. A failed call's exception keeps the frames of its traceback,
        which refer to this object. If this referred to the future, and so to the exception, they
        would form a cycle that keeps the arguments and the request.
        """
        self.future = _no_future
        self.fn = self.args = self.kwargs = self.snapshot = self.variables = _nothing
        self.executor = None

    # -- for its future --------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        return "EXECUTOR_TYPE='thread'" if self.interrupter is None else self.interrupter.backend

    def can_interrupt(self, *, kill: bool) -> bool:
        return self.interrupter is not None and self.interrupter.can_interrupt(self, kill=kill)

    def interrupt(self, *, kill: bool = False) -> None:
        if self.interrupter is not None:
            self.interrupter.interrupt(self, kill=kill)

    def ask_to_end(self) -> None:
        if self.interrupter is not None:
            self.interrupter.ask_to_end(self)

    def on_watched(self) -> None:
        if self.pool is not None and running_call.get() is not None:
            self.on_wanted()

    def on_wanted(self) -> None:
        if self.pool is None or self._is_wanted or futures.is_claimed(self.future):
            return
        self._is_wanted = True
        self.pool.want(self)
        # A worker that begins the call claims it first, and then looks at _is_wanted: one of
        # the two sees that the call is not wanted any more.
        if self.is_over or futures.is_claimed(self.future):
            self.pool.unwant(self)

    # -- in a thread -----------------------------------------------------------------------------

    def run(self, loops: LoopServices) -> None:
        """Run the call, which has begun, in this thread."""
        future = self.future
        lift_limit = None if self.limits is None else self._limit_time(loops.call_later)
        try:
            while True:
                try:
                    result = self.variables.copy().run(_run_in_context, self, loops)
                except BaseException as error:
                    pause = self.pause_after(error)
                    if pause is not None and self.wait_unless_settled(pause):
                        continue
                    self.fail(error)
                else:
                    if type(result) is _ReturnedFuture:
                        follow(future, result.future)
                    else:
                        _succeed(future, result)
                break
        finally:
            if lift_limit is not None:
                lift_limit()
            self.release()
            del future

    def wait_unless_settled(self, seconds: float) -> bool:
        """Wait until the next attempt; ``False`` if the call is settled or cancelled meanwhile."""
        self.pause()
        block_until_done(self.future, seconds)
        return self.resume() and not self.cancel_requested

    # -- on a loop -------------------------------------------------------------------------------

    async def run_async(self, loop: CallLoop, prepare_task: Callable[[], object]) -> None:
        """Run the call, which has begun, in the current task, and tell its loop when it is over."""
        prepare_task()
        # One coroutine for everything: another around it would cost each sleeping job 400 bytes.
        # The task is noted here: one that is cancelled before its first step never gets here.
        self.task = asyncio.current_task()
        future = self.future
        lift_limit = None if self.limits is None else self._limit_time(_call_later_here)
        _set_running_call(self)
        try:
            while not future.done():  # cancelled, after its loop had begun it
                try:
                    with self.contexts_in_task(self.snapshot):
                        if _hear_of_start:
                            self._announce_start()
                        try:
                            result: Any = self.fn(*self.args, **self.kwargs)
                            if hasattr(_type_of(result), "__await__"):
                                result = await result
                        except asyncio.CancelledError:
                            raise
                        except BaseException as error:
                            self.log(error)
                            raise
                except asyncio.CancelledError:
                    self.end_cancelled()
                except BaseException as error:
                    # SystemExit and KeyboardInterrupt too: asyncio would end the loop with them.
                    pause = self.pause_after(error)
                    if pause is not None:
                        await asyncio.sleep(pause)
                        continue
                    self.fail(error)
                else:
                    _succeed(future, result)
                break
        except asyncio.CancelledError:  # between two attempts
            self.end_cancelled()
        finally:
            if lift_limit is not None:
                lift_limit()
            self.release()
            del future
            self.task = None
            loop.call_is_over(self)

    # -- both ------------------------------------------------------------------------------------

    def _limit_time(
        self, call_later: Callable[[float, Callable[[], object]], Callable[[], object]]
    ) -> Callable[[], object] | None:
        seconds = self.limits.timeout if self.limits is not None and self.has_time_limit else None
        if seconds is None:
            return None
        return call_later(seconds, self.deadline(seconds))

    def deadline(self, seconds: float) -> Deadline:
        """Return the function that fails the call when its time is up."""
        logger = self.snapshot.app.logger if self.logs else None
        return Deadline(self.future, seconds, logger, self.fn)

    def pause_after(self, error: BaseException) -> float | None:
        """Return the seconds until the next attempt, or ``None`` if the error is final."""
        if not self._may_retry(error):
            return None
        assert self.limits is not None
        try:
            pause = self.limits.pause_after(self.attempt)
            if not 0 <= pause < inf:
                raise ValueError(f"backoff gave {pause!r}: expected seconds, 0 or more")
        except BaseException:
            log_exception(self.snapshot.app.logger, "backoff of %s failed", self.future.name)
            self.give_up()
            return None
        self.set_attempt(self.attempt + 1)
        futures.note_change(self.future)
        rewind_uploads(self.fn, *self.args, *self.kwargs.values())
        return pause

    def give_up(self) -> None:
        """Let the attempt that has just failed be the last one."""
        if self.limits is not None:
            self.limits = replace(self.limits, retries=0)

    def _may_retry(self, error: BaseException) -> bool:
        return (
            self.limits is not None
            and self.attempt <= self.limits.retries
            and isinstance(error, Exception)
            and not self.future.done()  # by cancel(), or because its time is up
            and not self.cancel_requested
        )

    def _is_answer_to_cancel(self, error: BaseException) -> bool:
        return isinstance(error, asyncio.CancelledError) and self.cancel_requested

    def mute(self) -> None:
        """Do not log what the call raises: its submitter reports it."""
        self.logs = False

    def abandon(self, seconds: float, *, goes_on: bool = False) -> None:
        """Fail the call, unless it is over: a shutdown has waited for it long enough.

        A function that looks for a cancel is asked first, and fails when this is called again.
        ``goes_on``: another process has the call, which this doesn't end.
        Thread-safe. The call may end at any moment, and drops its references one by one.
        """
        # In this order: release() drops the future first.
        fn, snapshot, future = self.fn, self.snapshot, self.future
        if future is _no_future:
            return
        # If this takes the right to start, no worker can.
        begun = not futures.refuse(future)
        if begun and self.looks and not future._cancel_requested:
            future.cancel()
            return
        error = JobAbandonedError(future.name, seconds, begun=begun, goes_on=goes_on)
        explain(error, future)
        if futures.interrupt(future, error) and self.logs:
            self.logs = False  # whatever the function raises from now on goes nowhere
            message = "Background job %s [%s] is abandoned"
            log_call(
                snapshot.app.logger,
                message,
                future=future,
                fn=fn,
                attempt=self.attempt,
                error=error,
            )

    def _announce_start(self) -> None:
        if self.attempt == 1:
            signals.announce(signals.job_started, self.snapshot.app, self.future)

    def explain(self, error: BaseException) -> None:
        """Add notes to ``error`` with what its traceback does not show."""
        add_cures(error, self.future.name, self.fn, self.snapshot)
        explain(error, self.future)

    def log(self, error: BaseException) -> None:
        """Log what an attempt raised, once, unless it answers ``cancel()``."""
        if not self.logs or self._is_answer_to_cancel(error):
            return
        self.explain(error)
        message, numbers, level = FAILED, tuple[int, ...](), ERROR
        if self.limits is not None and self._may_retry(error):
            message = "Attempt %d of %d of background job %s [%s] failed; it will run again"
            numbers, level = (self.attempt, self.limits.retries + 1), WARNING
        else:
            self.logs = False  # it is logged once, here
        log_call(
            self.snapshot.app.logger,
            message,
            *numbers,
            future=self.future,
            fn=self.fn,
            attempt=self.attempt,
            error=error,
            level=level,
        )


class _ReturnedFuture:
    """The future of another call, which a function has returned: its outcome is this call's."""

    def __init__(self, future: FutureProxy[Any]) -> None:
        self.future: FutureProxy[Any] = future


def _run_in_context(call: Call[Any], loops: LoopServices) -> Any:
    _set_running_call(call)
    with call.contexts(call.snapshot):
        if _hear_of_start:
            call._announce_start()
        try:
            result: Any = call.fn(*call.args, **call.kwargs)
            if not hasattr(_type_of(result), "__await__"):  # the usual case
                pass
            elif is_of_another_call(result):
                result = _ReturnedFuture(result)
            elif can_be_awaited(result):
                # Not a coroutine function, but a lambda, say, that calls one. The thread waits, so
                # that the contexts stay and are torn down once, at the end.
                result = loops.wait_for(result)
            return result
        except BaseException as error:
            call.log(error)
            raise


def _call_later_here(seconds: float, fn: Callable[[], object]) -> Callable[[], object]:
    # In an empty context, because a cancelled timer keeps its context until its time comes.
    return asyncio.get_running_loop().call_later(seconds, fn, context=Context()).cancel
