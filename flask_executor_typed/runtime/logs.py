"""Log without ever raising, and without leaking users' data.

For places where no caller could catch what a logging handler raises.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

from .frames import Place

__all__ = ("fields_of", "log_as_if_from", "log_exception", "without_data")


def log_exception(
    logger: logging.Logger, message: str, *args: object, error: BaseException | None = None
) -> None:
    """Log ``error``, or else the exception being handled. Never raises."""
    with contextlib.suppress(BaseException):
        logger.error(message, *args, exc_info=error or sys.exc_info())


def log_as_if_from(  # all that a record is made of
    place: Place,
    logger: logging.Logger,
    level: int,
    message: str,
    *args: object,
    error: BaseException,
    extra: Mapping[str, object],
) -> None:
    """Log ``error`` in a record that shows ``place``, not the line that logs. Never raises."""
    with contextlib.suppress(BaseException):
        given: Any = logger  # an app may have put a logger of another library in its place
        if not isinstance(given, logging.Logger):
            given.log(level, message, *args, exc_info=error, extra=extra)
        elif logger.isEnabledFor(level):
            raised = type(error), error, error.__traceback__
            file, line, function = place
            record = logger.makeRecord(
                logger.name, level, file, line, message, args, raised, function
            )
            # Not makeRecord(extra=...), which refuses what a record factory of the app has set.
            vars(record).update(extra)
            logger.handle(record)


def fields_of(value: NamedTuple) -> str:
    """Return a ``repr`` with the names of the fields, for tuples of users' data.

    Debuggers and error trackers show the local variables of every frame on the stack.
    """
    return f"<{type(value).__name__} of {', '.join(value._fields)}>"


def without_data(fn: Callable[..., object]) -> object:
    """Return the part of a callable that may appear in a log or a ``repr``.

    The arguments of a partial, and the object of a bound method, may be secrets.
    """
    if isinstance(fn, functools.partial):
        return without_data(fn.func)
    if isinstance(fn, FunctionType | BuiltinFunctionType):
        return fn
    return getattr(fn, "__qualname__", type(fn).__qualname__)
