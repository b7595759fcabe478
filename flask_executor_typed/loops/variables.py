"""The context variables that tell whose code runs here, and which thread waits for it."""

from __future__ import annotations

from contextvars import Context, ContextVar
from typing import Any

import asgiref.sync
from asgiref.sync import AsyncToSync

__all__ = ("adopt", "view_number", "waiting_thread")

view_number: ContextVar[int | None] = ContextVar("flask_executor_typed_view", default=None)
"""Of the view whose code runs here. A number, which keeps nothing in contexts that outlive it."""


def _variable_of_waiting_thread() -> tuple[ContextVar[Any], type[object]]:
    """The variable by which ``sync_to_async`` finds the thread that waits in ``async_to_sync``.

    And the type of its value, which that of any ``Local`` of asgiref has.
    """
    context = Context()
    context.run(setattr, AsyncToSync.executors, "current", None)
    variable: ContextVar[object] = next(iter(context))
    return variable, type(context[variable])


waiting_thread: ContextVar[Any]
waiting_thread, _TypeOfLocals = _variable_of_waiting_thread()


def adopt(context: Context) -> None:
    """Give the context variables here the values that they have in ``context``.

    But for those that tell whose code runs here, and which thread waits for it.
    """
    missing = object()
    for variable, value in context.items():
        if variable is waiting_thread or variable is view_number:
            continue
        if type(value) is _TypeOfLocals:
            waiting, number = waiting_thread.get(None), view_number.get()
            asgiref.sync._restore_context(context)
            waiting_thread.set(waiting)
            view_number.set(number)
            return
        if variable.get(missing) is not value:
            variable.set(value)
