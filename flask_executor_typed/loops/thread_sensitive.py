"""A thread of its own for the thread-sensitive code of each task."""

from __future__ import annotations

from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext

from .asgiref_bridge import waiting_thread
from .current import loop_thread_here

__all__ = ("use_own_sensitive_thread",)

# Bound once: each coroutine uses it, and Python is slower with methods of what a module imports.
_waiting_thread_here = waiting_thread.get


def use_own_sensitive_thread() -> None:
    """Give the current task a thread of its own for thread-sensitive ``sync_to_async``.

    Otherwise all tasks of the process share one, or a job uses that of the view which submitted it,
    and which may have returned. asgiref makes the thread when it is first used, and ends it when
    the variable's value is freed with the task's context.
    """
    SyncToAsync.thread_sensitive_context.set(_OwnThread())
    if _waiting_thread_here(None) is not None:
        AsyncToSync.executors.current = None


class _OwnThread(ThreadSensitiveContext):
    """Stands for a task's thread. A shutdown can leave it behind, which asgiref's own it cannot."""

    def __init__(self) -> None:
        """Nothing, for the many jobs whose thread nobody asks for."""

    def __getattr__(self, name: str) -> Any:
        if not self.__dict__:  # somebody does now
            super().__init__()
        return object.__getattribute__(self, name)

    def __bool__(self) -> bool:
        # asgiref asks whether there is a context, and then for its executor. If it asks in some
        # other way one day, it makes the executor itself.
        pools: Any = SyncToAsync.context_to_thread_executor
        thread = loop_thread_here()
        if thread is not None and self not in pools:
            pools[self] = thread.sensitive_pool()
        return True
