"""Names and kinds of callables: what to call a function, and whether it is asynchronous."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType

from asgiref.sync import iscoroutinefunction

__all__ = ("is_async_callable", "name_of")

_CO_COROUTINE = inspect.CO_COROUTINE


def is_async_callable(fn: Callable[..., object]) -> bool:
    """Return whether calling ``fn`` gives a coroutine, as far as can be known without calling it.

    True for ``async def`` functions and methods, partials of them, objects with an ``async``
    ``__call__``, and callables marked as such (by ``asgiref.sync.sync_to_async``, for one).
    """
    if type(fn) is FunctionType and not fn.__dict__:  # the usual case, in a tenth of the time
        return bool(fn.__code__.co_flags & _CO_COROUTINE)
    # asgiref's function is inspect's from Python 3.12 on; before, it also knows its own mark.
    return iscoroutinefunction(fn) or iscoroutinefunction(getattr(fn, "__call__", fn))  # noqa: B004


def name_of(fn: Callable[..., object]) -> str:
    """Return the qualified name of a callable, looking through partials and instances."""
    name = getattr(fn, "__qualname__", None)
    if isinstance(name, str):
        return name
    return name_of(fn.func if isinstance(fn, functools.partial) else type(fn))
