"""Give each task its own thread for the thread-sensitive code of ``sync_to_async``."""

from __future__ import annotations

from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext

from .asgiref_bridge import waiting_thread
from .current import loop_thread_here

__all__ = ("use_own_sensitive_thread",)

# Bound once: each coroutine job uses it, and looking up a method costs more.
_waiting_thread_here = waiting_thread.get


def use_own_sensitive_thread() -> None:
    """Give the current task a thread of its own for thread-sensitive ``sync_to_async``.

    Otherwise all tasks of the process would share one thread, or a job would use that of the view
    that submitted it, which may have returned. asgiref starts the thread on first use, and ends it
    when the variable's value is freed with the task's context.
    """
    SyncToAsync.thread_sensitive_context.set(_OwnThread())
    if _waiting_thread_here(None) is not None:
        AsyncToSync.executors.current = None


class _OwnThread(ThreadSensitiveContext):
    """A task's thread. Unlike asgiref's own, a shutdown can leave it behind."""

    def __init__(self) -> None:
        """Do nothing yet: most jobs never use their thread."""

    def __getattr__(self, name: str) -> Any:
        if not self.__dict__:  # this one does
            super().__init__()
        return object.__getattribute__(self, name)

    def __bool__(self) -> bool:
        # asgiref first asks whether there is a context, then for its executor. Should a future
        # version ask differently, it creates the executor itself.
        pools: Any = SyncToAsync.context_to_thread_executor
        thread = loop_thread_here()
        if thread is not None and self not in pools:
            pools[self] = thread.sensitive_pool()
        return True
