"""Lead asgiref's ``async_to_sync`` from a worker thread to a loop that lasts.

Also the context variables by which asgiref finds the thread that waits for the running code.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar

import asgiref.sync
from asgiref.sync import AsyncToSync, SyncToAsync

from ..runtime.running_loop import running_loop

__all__ = (
    "adopt",
    "bridge_this_thread",
    "loops_here",
    "stock_async_to_sync",
    "view_number",
    "waiting_thread",
)

R = TypeVar("R")


def bridge_this_thread(
    loop: asyncio.AbstractEventLoop, waits: Callable[[], object], goes_on: Callable[[], object]
) -> None:
    """Make ``async_to_sync`` in this thread use ``loop``, not a new one per call."""
    # SyncToAsync stores here the loop that called a thread, and AsyncToSync looks for it here.
    SyncToAsync.threadlocal.main_event_loop = _Bridge(loop, waits, goes_on)
    SyncToAsync.threadlocal.main_event_loop_pid = os.getpid()


class _Bridge:
    """A loop as asgiref sees it in a worker thread, which waits for each coroutine it submits."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        waits: Callable[[], object],
        goes_on: Callable[[], object],
    ) -> None:
        self.loop = loop
        self.create_task = loop.create_task
        self._waits = waits
        self._goes_on = goes_on

    def call_soon_threadsafe(
        self, create_task: Callable[[Coroutine[Any, Any, None]], object], awaitable: Awaitable[None]
    ) -> None:
        run = self._run(awaitable)
        self._waits()
        try:
            self.loop.call_soon_threadsafe(create_task, run)
        except BaseException:  # the loop is closed; asgiref creates another
            run.close()
            self._goes_on()
            raise

    async def _run(self, awaitable: Awaitable[None]) -> None:
        try:
            await awaitable
        finally:
            self._goes_on()


def loops_here() -> tuple[asyncio.AbstractEventLoop | None, asyncio.AbstractEventLoop | None]:
    """Return the loop running in this thread, and the one that ``async_to_sync`` would use."""
    of_asgiref = getattr(SyncToAsync.threadlocal, "main_event_loop", None)
    bridged = of_asgiref.loop if isinstance(of_asgiref, _Bridge) else of_asgiref
    return running_loop(), bridged


def stock_async_to_sync(fn: Callable[..., Awaitable[R]]) -> Callable[..., R]:
    """Do what the stock ``Flask.async_to_sync`` does."""
    return AsyncToSync(fn)


# -- context variables ----------------------------------------------------------------------------

view_number: ContextVar[int | None] = ContextVar("flask_executor_typed_view", default=None)
"""The number of the view whose code runs here. A number keeps nothing alive in a context that
outlives the view."""


def _variable_of_waiting_thread() -> tuple[ContextVar[Any], type[object]]:
    """Return the variable by which ``sync_to_async`` finds the thread waiting in ``async_to_sync``.

    Also the type of its value, which every ``Local`` of asgiref shares.
    """
    context = Context()
    context.run(setattr, AsyncToSync.executors, "current", None)
    variable: ContextVar[object] = next(iter(context))
    return variable, type(context[variable])


waiting_thread: ContextVar[Any]
waiting_thread, _TypeOfLocals = _variable_of_waiting_thread()


def adopt(context: Context) -> None:
    """Copy the values of ``context`` into the current context.

    Except for the two variables that identify the running view and the thread waiting for it.
    """
    missing = object()
    for variable, value in context.items():
        if variable is waiting_thread or variable is view_number:
            continue
        if type(value) is _TypeOfLocals:
            waiting, number = waiting_thread.get(None), view_number.get()
            asgiref.sync._restore_context(context)  # pyright: ignore[reportPrivateUsage]
            waiting_thread.set(waiting)
            view_number.set(number)
            return
        if variable.get(missing) is not value:
            variable.set(value)
