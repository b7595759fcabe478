"""Give each task its own thread for the thread-sensitive code of ``sync_to_async``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, ContextVar
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync

from ..runtime.threads import DaemonPool
from .asgiref_bridge import waiting_thread

__all__ = ("SensitiveThreads", "outside_of_sensitive_contexts", "use_own_sensitive_thread")


class _OwnThread:
    """A task's thread, which starts on first use, and ends when the task's context is freed."""

    __slots__ = ("pool",)

    def __init__(self) -> None:
        self.pool: DaemonPool | None = None  # set by the loop's thread, if at all


_own_thread: ContextVar[_OwnThread | None] = ContextVar(
    "flask_executor_typed_sensitive_thread", default=None
)

# Bound once: each coroutine job uses them, and looking up a method costs more.
_set_own_thread = _own_thread.set
_waiting_thread_here = waiting_thread.get


def use_own_sensitive_thread() -> None:
    """Give the current task a thread of its own for thread-sensitive ``sync_to_async``.

    Otherwise all tasks of the process would share one thread, or a job would use that of the view
    that submitted it, which may have returned.
    """
    _set_own_thread(_OwnThread())
    if _waiting_thread_here(None) is not None:
        AsyncToSync.executors.current = None


class SensitiveThreads:
    """The executor that asgiref uses for the thread-sensitive code of all tasks on one loop.

    It stands for the thread of the running task. asgiref asks for the executor of a loop last. So
    a ``ThreadSensitiveContext`` in a job is the outermost one, and has a thread of its own.
    """

    def __init__(self, new_pool: Callable[[], DaemonPool]) -> None:
        self._new_pool = new_pool
        self.of_others: Any = None
        """The executor for tasks without a thread of their own; ``None``: asgiref's."""

    def serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be the executor of ``loop``, until :meth:`stop_serving`."""
        executors: dict[asyncio.AbstractEventLoop, Any] = AsyncToSync.loop_thread_executors
        executors[loop] = self

    def stop_serving(self, loop: asyncio.AbstractEventLoop) -> None:
        AsyncToSync.loop_thread_executors.pop(loop, None)

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run ``fn`` for the running task. Called by the loop, in its thread."""
        own = _own_thread.get()
        if own is None:
            others: Any = self.of_others or SyncToAsync.single_thread_executor
            submitted: Future[Any] = others.submit(fn, *args)
            return submitted
        if own.pool is None:
            own.pool = self._new_pool()
        return own.pool.submit(fn, *args)


def outside_of_sensitive_contexts(context: Context) -> Context:
    """Return ``context``, or a copy that is outside of its ``ThreadSensitiveContext``.

    That is the submitter's, whose thread a job must not use. A variable cannot be unset.
    """
    if SyncToAsync.thread_sensitive_context not in context:
        return context
    outside = Context()
    for variable, value in context.items():
        if variable is not SyncToAsync.thread_sensitive_context:
            outside.run(variable.set, value)
    return outside
