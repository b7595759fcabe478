"""Catch what jobs log, where log records are made.

The only module that replaces the log record factory of ``logging``.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from typing import Any

from ..context import running_call
from ..runtime.forks import in_child
from .call import Call
from .reports import FAILED

__all__ = ("catch_logs",)

_lock = threading.Lock()
_catches = False  # guarded by _lock

_tracebacks = logging.Formatter()


def catch_logs() -> None:
    """Have calls that keep their log told of the log records that they make, from now on.

    For good: a factory that the app sets later usually calls the one before, which is ours.
    """
    # No handler: with one on the root logger, logging.basicConfig() would do nothing, Flask would
    # not set up its own, and the warnings of an app without handlers would not reach stderr.
    global _catches  # noqa: PLW0603
    with _lock:
        if not _catches:
            logging.setLogRecordFactory(partial(_make, logging.getLogRecordFactory()))
            _catches = True


@in_child
def _forget_parent() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()  # a thread of the parent may have held the other one


def _make(make: Any, *args: Any, **kwargs: Any) -> logging.LogRecord:
    record: logging.LogRecord = make(*args, **kwargs)
    call: Call[Any] | None = running_call.get()
    if call is not None and call.keeps_log:
        with suppress(Exception):  # of the message and its arguments: the handlers report that
            call.add_log(_lines_of(record))
    return record


def _lines_of(record: logging.LogRecord) -> list[str]:
    # Not Formatter.format(), which leaves its traceback on the record for other formatters to use.
    text = record.getMessage()
    is_the_end = str(record.msg).startswith(FAILED)  # whose traceback the job's record has
    if record.exc_info and not is_the_end:
        text += f"\n{_tracebacks.formatException(record.exc_info)}"
    if record.stack_info:
        text += f"\n{record.stack_info}"
    time = datetime.fromtimestamp(record.created, timezone.utc)
    return f"{time:%Y-%m-%d %H:%M:%S}Z {record.levelname} {record.name}: {text}".splitlines()
