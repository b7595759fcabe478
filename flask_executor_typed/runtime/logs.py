"""Logging from where nobody could catch what a logging handler raises.

And what of the data of users may be in a log or a ``repr``.
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
    """Log ``error``, by default the exception that is being handled."""
    with contextlib.suppress(BaseException):
        logger.error(message, *args, exc_info=error or sys.exc_info())


def without_data(fn: Callable[..., object]) -> object:
    """What a log or ``repr`` may show of a callable: the arguments that a partial holds, or the
    object that a method belongs to, may be secrets."""
    if isinstance(fn, functools.partial):
        return without_data(fn.func)
    if isinstance(fn, FunctionType | BuiltinFunctionType):
        return fn
    return getattr(fn, "__qualname__", type(fn).__qualname__)
