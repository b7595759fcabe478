"""A server thread that waits for an async view and runs the view's thread-sensitive code."""

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

_view_number_here = view_number.get  # bound once: see loops/thread_sensitive.py


class WaitingThread(Generic[R]):
    """A thread that waits for a view. To asgiref, it is the view's future.

    Few views have thread-sensitive code. So the thread waits on a plain lock, and switches to
    asgiref's executor only when code asks for it.
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
        self._woken = threading.Lock()  # released when either of them becomes true
        self._woken.acquire()
        self._executor = _this_thread.spare or CurrentThreadExecutor(None)
        _this_thread.spare = None

    def wait(self) -> R:
        """Block until the view is over. Return its result, or raise its exception."""
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
            here.main_event_loop, here.task_context = before  # which the code has changed

    def set_result(self, result: R) -> None:
        self._result = result

    def set_exception(self, error: BaseException) -> None:
        self._error = error

    @property
    def is_over(self) -> bool:
        """Whether the view has ended, even if the waiting thread has not noticed yet."""
        return self._over

    def wait_for_cleanup(self, seconds: float) -> None:
        """Wait for the view to end after an exception has interrupted :meth:`wait`."""
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
        # Not in announce()'s thread, so both may call fn; asgiref's function does not mind.
        self._callback = fn
        if self._over:
            fn(self)

    def executor(self) -> CurrentThreadExecutor | None:
        """Return the executor that runs code in this thread; ``None`` if the view is over."""
        # The view may be ending on its loop right now. If this takes the lock first, the thread
        # runs what the caller submits; if announce() does, nothing would, hence the None.
        with self._lock:
            if not self._wanted:
                if self._over:
                    return None
                self._wanted = True
                self._woken.release()
        return self._executor


class ThreadOfView:
    """The executor that asgiref uses for the thread-sensitive code of all views of a loop.

    It stands for the executor of the thread waiting for the running view.
    """

    def __init__(self) -> None:
        self.waiting: WaitingThread[Any] | None = None
        self.running: set[int] = set()  # view numbers; a view may outlive its thread's wait

    def __getattr__(self, name: str) -> Any:
        """Provide ``submit``, and what the executor of a nested ``async_to_sync`` looks at."""
        number, waiting, executor = _view_number_here(), self.waiting, None
        # If the view that this code belongs to is over, the waiting thread is another request's.
        if waiting is not None and (number is None or number in self.running):
            executor = waiting.executor()
        if executor is None:
            raise RuntimeError("the async view is over in whose thread this code was to run")
        return getattr(executor, name)


class _ThisThread(threading.local):
    spare: CurrentThreadExecutor | None = None
    """An executor that was never handed out, so it is as good as new."""


_this_thread = _ThisThread()
