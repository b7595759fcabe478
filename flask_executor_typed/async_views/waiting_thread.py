"""A server's thread that waits for an async view, and runs the view's thread-sensitive code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context
from typing import Any, Generic, TypeVar, cast

from asgiref.current_thread_executor import CurrentThreadExecutor
from asgiref.sync import SyncToAsync

from ..loops.asgiref_bridge import view_number

__all__ = ("ThreadOfView", "WaitingThread")

R = TypeVar("R")

_view_number_here = view_number.get  # see sensitive.py


class WaitingThread(Generic[R]):
    """A thread that waits for a view, which is a future to asgiref.

    Few views have thread-sensitive code, so the thread waits on a plain lock, and with asgiref's
    executor only from the moment when somebody wants that.
    """

    __slots__ = (
        "_callback",
        "_cleaned_up",
        "_error",
        "_executor",
        "_lock",
        "_over",
        "_result",
        "_wanted",
        "_woken",
        "context",
        "task",
    )

    def __init__(self, lock: threading.Lock) -> None:
        self.task: asyncio.Task[None] | None = None  # asyncio keeps only weak references
        self.context: Context | None = None  # as the view left it
        self._result: Any = None
        self._error: BaseException | None = None
        self._callback: Callable[[Any], object] | None = None
        self._cleaned_up: threading.Event | None = None  # guarded by _lock
        self._lock = lock
        self._over = self._wanted = False  # guarded by _lock; never unset
        self._woken = threading.Lock()  # released with the first of these two
        self._woken.acquire()
        self._executor = _this_thread.spare or CurrentThreadExecutor(None)
        _this_thread.spare = None

    def wait(self) -> R:
        """Block until the view is over, and return or raise what it did."""
        self._woken.acquire()
        if self._wanted:
            self._run_code()
        else:
            _this_thread.spare = self._executor
        try:
            if self._error is not None:
                raise self._error
            result: R = self._result
            return result
        finally:
            self._error = None  # its traceback refers to us

    def _run_code(self) -> None:
        here = SyncToAsync.threadlocal
        before = getattr(here, "main_event_loop", None), getattr(here, "task_context", None)
        try:
            self._executor.run_until_future(cast("Future[R]", self))
        finally:
            here.main_event_loop, here.task_context = before  # the code has left these behind

    def set_result(self, result: R) -> None:
        self._result = result

    def set_exception(self, error: BaseException) -> None:
        self._error = error

    @property
    def is_over(self) -> bool:
        """Whether the view has ended; the thread may still not know."""
        return self._over

    def wait_for_cleanup(self, seconds: float) -> None:
        """Wait for the end of the view, of which an exception in :meth:`wait` let go."""
        with self._lock:
            if self._over:
                return
            ended = self._cleaned_up = threading.Event()
        ended.wait(seconds)

    def announce(self) -> None:
        with self._lock:
            self._over = True
            if self._cleaned_up is not None:
                self._cleaned_up.set()
        if not self._wanted:
            self._woken.release()
        elif self._callback is not None:
            self._callback(self)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        # In another thread than announce(), so perhaps both call it; asgiref's does not mind.
        self._callback = fn
        if self._over:
            fn(self)

    def executor(self) -> CurrentThreadExecutor | None:
        """What runs code in this thread, or ``None`` if it has not waited with one."""
        # The view may end meanwhile, if this is not its loop. Whoever is first takes the lock: then
        # the thread runs what the caller submits, or nobody would ever run it.
        with self._lock:
            if not self._wanted:
                if self._over:
                    return None
                self._wanted = True
                self._woken.release()
        return self._executor


class ThreadOfView:
    """To asgiref, the executor for thread-sensitive code of all views of a loop.

    It is that of the thread that waits for the view that runs.
    """

    def __init__(self) -> None:
        self.waiting: WaitingThread[Any] | None = None
        self.running: set[int] = set()  # numbers of views; a view may outlive its thread's wait

    def __getattr__(self, name: str) -> Any:
        """``submit``, and what the executor of a nested ``async_to_sync`` looks at."""
        number, waiting, executor = _view_number_here(), self.waiting, None
        # If the view is over whose code this is, another request's thread waits.
        if waiting is not None and (number is None or number in self.running):
            executor = waiting.executor()
        if executor is None:
            raise RuntimeError("the async view is over in whose thread this code was to run")
        return getattr(executor, name)


class _ThisThread(threading.local):
    spare: CurrentThreadExecutor | None = None
    """One that nobody has looked at, so that it is as good as new."""


_this_thread = _ThisThread()
