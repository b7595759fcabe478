"""Names and kinds of callables: what to call a function, and whether it can be a job."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType
from typing import Any

from asgiref.sync import iscoroutinefunction

__all__ = (
    "GENERATOR",
    "check_function",
    "code_of",
    "is_async_callable",
    "missing_await",
    "name_of",
)

_CO_COROUTINE = inspect.CO_COROUTINE

GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
"""The flags in the code of a generator function, of which it has one."""


def is_async_callable(fn: Callable[..., object]) -> bool:
    """Return whether calling ``fn`` gives a coroutine, as far as can be known without calling it.

    True for ``async def`` functions and methods, partials of them, objects with an ``async``
    ``__call__``, and callables marked as such (by ``asgiref.sync.sync_to_async``, for one).
    """
    if type(fn) is FunctionType and not fn.__dict__:  # the usual case, in a tenth of the time
        return bool(fn.__code__.co_flags & _CO_COROUTINE)
    # asgiref's function is inspect's from Python 3.12 on; before, it also knows its own mark.
    return iscoroutinefunction(fn) or iscoroutinefunction(getattr(fn, "__call__", fn))  # noqa: B004


def check_function(fn: Callable[..., object]) -> None:
    """Refuse what is no function that a worker can run.

    Raises:
        TypeError: ``fn`` cannot be called, or calling it runs none of its body: a generator
            function's, which runs wherever the result is iterated.
    """
    given: Any = fn  # whatever the annotation says
    if inspect.iscoroutine(given):
        name = given.__qualname__
        if inspect.getcoroutinestate(given) == inspect.CORO_CREATED:
            given.close()  # or else a warning says that it was never awaited
        raise TypeError(
            f"expected a function to run, got a coroutine, which is what calling {name} gives; "
            f"pass the function and its arguments apart: submit({name}, 1, 2)"
        )
    if not callable(given):
        raise TypeError(
            f"expected a function to run, got {given!r} ({type(given).__name__}); "
            "pass the function and its arguments apart: submit(fn, 1, 2)"
        )
    if _flags_of(fn) & GENERATOR:
        raise TypeError(
            f"{name_of(fn)} is a generator function: none of its body would run in the "
            "background, only where the result is iterated; return a list, or yield nothing and "
            "report each step with track() or current_job.progress()"
        )


def _flags_of(fn: Any) -> int:
    code = code_of(fn)
    return 0 if code is None else code.co_flags


def code_of(fn: Any) -> CodeType | None:
    """Return the code that a call of ``fn`` runs, through partials, methods and instances.

    ``None`` if it is not written in Python.
    """
    while isinstance(fn, functools.partial | MethodType):
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    code = getattr(fn if hasattr(fn, "__code__") else type(fn).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def missing_await(error: BaseException) -> str:
    """Return the cure if ``error`` says that a coroutine has no such attribute, or ""."""
    owner: Any = error.obj if type(error) is AttributeError else None
    if not inspect.iscoroutine(owner):
        return ""
    return f"{owner.__qualname__}() gives a coroutine; await it first"


def name_of(fn: Callable[..., object]) -> str:
    """Return the qualified name of a callable, looking through partials and instances."""
    name = getattr(fn, "__qualname__", None)
    if isinstance(name, str):
        return name
    return name_of(fn.func if isinstance(fn, functools.partial) else type(fn))
