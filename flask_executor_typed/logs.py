"""Logging from where nobody could catch what a logging handler raises.

The only module that swallows exceptions.
"""

from __future__ import annotations

import contextlib
import logging
import sys

__all__ = ("log_exception",)


def log_exception(
    logger: logging.Logger, message: str, *args: object, error: BaseException | None = None
) -> None:
    """Log ``error``, by default the exception that is being handled."""
    with contextlib.suppress(BaseException):
        logger.error(message, *args, exc_info=error or sys.exc_info())
