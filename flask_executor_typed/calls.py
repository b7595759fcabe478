"""One accepted call, and how a worker runs it: on a thread, or on a loop.

The only module that runs a user's function. Whatever the function returns or raises ends up in the
call's future; nothing gets past it into the worker.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from . import signals
from .context import ContextSnapshot
from .futures import FutureProxy, LoopInbox
from .logs import log_exception

__all__ = ("Call", "is_awaitable", "is_of_another_call", "name_of")

R = TypeVar("R")


def name_of(fn: Callable[..., object]) -> str:
    """The qualified name of a callable, through partials and instances."""
    name = getattr(fn, "__qualname__", None)
    if isinstance(name, str):
        return name
    return name_of(fn.func if isinstance(fn, functools.partial) else type(fn))


def is_awaitable(result: object) -> bool:
    """Whether a function returned something to be awaited, in a third of the time of inspect."""
    return hasattr(type(result), "__await__")


def is_of_another_call(result: object) -> bool:
    """Whether a function returned a call's future: waiting could take the worker that it needs."""
    return isinstance(result, FutureProxy)


class Call(Generic[R]):
    """A function with its arguments, the contexts it runs in, and the future that it settles."""

    __slots__ = ("_inbox", "args", "fn", "future", "inner", "kwargs", "logs", "snapshot", "task")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        snapshot: ContextSnapshot,
        future: FutureProxy[R],
        logs: bool = True,
    ) -> None:
        self.fn: Callable[..., Any] = fn
        self.args: tuple[Any, ...] = args
        self.kwargs: dict[str, Any] = kwargs
        self.snapshot: ContextSnapshot = snapshot
        self.future: FutureProxy[R] = future
        self.logs: bool = logs
        """Whether an exception is logged."""
        self.inner: FutureProxy[R] | None = None
        """The future of another call that the function returned: its outcome is this call's."""
        self.task: asyncio.Task[Any] | None = None
        """The task that runs the call, on a loop; read and written by the loop's thread alone."""
        self._inbox: LoopInbox | None = None

    def run(self, wait_for: Callable[[Awaitable[Any]], Any]) -> None:
        """Run the call in this thread. ``wait_for`` blocks until an awaitable has a result."""
        future = self.future
        try:
            if not future._begin():
                return
            try:
                result = self.snapshot.variables.copy().run(self._run_in_context, wait_for)
            except BaseException as error:
                self._log(error)
                future._fail(error)
            else:
                if self.inner is not None:
                    future._follow(self.inner)
                else:
                    future._succeed(result)
        finally:
            self._let_go()
            del future

    def _run_in_context(self, wait_for: Callable[[Awaitable[Any]], Any]) -> Any:
        with self.snapshot.pushed():
            self._announce_start()
            try:
                result: Any = self.fn(*self.args, **self.kwargs)
                if is_of_another_call(result):
                    self.inner = result
                elif is_awaitable(result):
                    # Nobody could know: a lambda, say, that calls an async def. The thread waits,
                    # so that the contexts stay and are torn down once, at the end.
                    result = wait_for(result)
                return result
            except BaseException as error:
                self._log(error)
                raise

    async def run_async(self) -> None:
        """Run the call in the current task."""
        future = self.future
        try:
            if future.done():  # cancelled, after its loop had begun it
                return
            try:
                with self.snapshot.pushed():
                    self._announce_start()
                    try:
                        result: Any = self.fn(*self.args, **self.kwargs)
                        if is_awaitable(result):
                            result = await result
                    except asyncio.CancelledError:
                        raise
                    except BaseException as error:
                        self._log(error)
                        raise
            except asyncio.CancelledError:
                future._end_cancelled()
            except BaseException as error:
                # SystemExit and KeyboardInterrupt too: asyncio would end the loop with them.
                self._log(error)
                future._fail(error)
            else:
                future._succeed(result)
        finally:
            self._let_go()
            del future

    def _let_go(self) -> None:
        """Forget everything, now that the call is over.

        A failed call's exception keeps the frames that it went through, and those that called
        them, which refer to this object. If it referred to the future, and so to the exception,
        arguments and request would stay until the garbage collector finds the cycle.
        """
        del self.fn, self.args, self.kwargs, self.snapshot, self.future, self.inner

    def follow(self, future: Future[R]) -> None:
        """Leave the outcome to the future of another executor, which runs the call."""
        future.add_done_callback(self._log_outcome)
        self.future._follow(future)

    def _log_outcome(self, future: Future[R]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._log(error)

    def interruptible_through(self, inbox: LoopInbox) -> None:
        """Let the future's ``cancel()`` stop the coroutine on the loop of ``inbox``."""
        self._inbox = inbox
        self.future._interruptible = self

    def interrupt(self) -> None:
        if self._inbox is not None:
            self._inbox.post(self._cancel_task)

    def _cancel_task(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def _announce_start(self) -> None:
        if signals.job_started.receivers:
            signals.announce(signals.job_started, self.snapshot.app, self.future)

    def _log(self, error: BaseException) -> None:
        if self.logs:
            self.logs = False  # once: where it was raised, or where nothing else could log it
            log_exception(
                self.snapshot.app.logger,
                "Exception in background job %s [%s]",
                self.future.name,
                self.future.id,
                error=error,
            )
