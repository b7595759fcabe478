"""Log without ever raising, and without leaking users' data.

For places where no caller could catch what a logging handler raises.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType

__all__ = ("log_exception", "without_data")


def log_exception(
    logger: logging.Logger, message: str, *args: object, error: BaseException | None = None
) -> None:
    """Log ``error``, or else the exception being handled. Never raises."""
    with contextlib.suppress(BaseException):
        logger.error(message, *args, exc_info=error or sys.exc_info())


def without_data(fn: Callable[..., object]) -> object:
    """Return the part of a callable that may appear in a log or a ``repr``.

    The arguments of a partial, and the object of a bound method, may be secrets.
    """
    if isinstance(fn, functools.partial):
        return without_data(fn.func)
    if isinstance(fn, FunctionType | BuiltinFunctionType):
        return fn
    return getattr(fn, "__qualname__", type(fn).__qualname__)
