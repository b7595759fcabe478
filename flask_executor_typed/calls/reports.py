"""The report of a failed call: its log record, and the notes on its exception."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flask import Flask

from ..callables import missing_await
from ..context import ContextSnapshot, missing_context
from ..errors import OutsideContextError
from ..futures import FutureProxy, id_of, submitter_of
from ..runtime.frames import Place, place_of
from ..runtime.logs import log_as_if_from

__all__ = (
    "FAILED",
    "add_cures",
    "explain",
    "log_call",
    "warn_of_generator",
    "when_context_is_missed",
)

FAILED = "Exception in background job %s [%s]"
"""The message about a call that has failed in the end."""

_PRINTS_NOTES = hasattr(BaseException, "add_note")  # Python 3.11


def log_call(  # noqa: PLR0913  # the call, which may be over, in parts
    logger: logging.Logger,
    message: str,
    *args: object,
    future: FutureProxy[Any],
    fn: Callable[..., object],
    attempt: int,
    error: BaseException,
    level: int = logging.ERROR,
) -> None:
    """Log what a call raised, as if from its function. Raises nothing, and writes no record.

    ``message`` ends in the places of the call's name and id.
    """
    # id_of() and not future.id, which would have the job's record written: see Recorder.on_named.
    job_id = id_of(future)
    if not _PRINTS_NOTES and (notes := getattr(error, "__notes__", None)):
        message += " (%s)"
        args = (*args, future.name, job_id, "; ".join(map(str, notes)))
    else:
        args = (*args, future.name, job_id)
    extra = {
        "job": future.name,
        "job_id": job_id,
        "job_key": future.key,
        "job_attempt": attempt,
    }
    try:
        place = place_of(fn, error)
    except Exception:  # of an attribute of the callable
        place = Place("", 0, "")
    log_as_if_from(place, logger, level, message, *args, error=error, extra=extra)


def explain(error: BaseException, future: FutureProxy[Any]) -> None:
    """Add a note to what a call raised: the line that submitted it, if that is known."""
    if line := submitter_of(future):
        _add_note(error, f"submitted at {line}")


def add_cures(
    error: BaseException, name: str, fn: Callable[..., object], snapshot: ContextSnapshot
) -> None:
    """Add notes to what the function of a call raised: why, and what to do."""
    missing = missing_context(error)
    if missing and (why := _why_missing(missing, snapshot)):
        _add_note(error, f"{name}{_defined_at(fn)} {why}")
    elif cure := missing_await(error):
        _add_note(error, cure)
    if missing or isinstance(error, OutsideContextError):
        for listener in _listeners:
            listener(snapshot.app, fn)


_listeners: list[Callable[[Flask, Callable[..., object]], None]] = []  # filled at import


def when_context_is_missed(listener: Callable[[Flask, Callable[..., object]], None]) -> None:
    """Call ``listener(app, fn)`` when a job of ``fn`` has failed for want of a context."""
    _listeners.append(listener)


def _why_missing(missing: str, snapshot: ContextSnapshot) -> str:
    rules = snapshot.rules
    if missing == "app":
        reason = "has no app: EXECUTOR_PUSH_APP_CONTEXT is False"
        return "" if rules.push_app else f"{reason}; set it to True"
    if not snapshot.had_request:
        return (
            "was submitted outside of a request, so it has none; pass what it needs as arguments, "
            "or submit it in a view (in a streamed response: within stream_with_context())"
        )
    if not rules.push_request:
        return (
            "has no request: EXECUTOR_PUSH_REQUEST_CONTEXT is False; set it to True, or pass what "
            "the job needs as arguments"
        )
    return ""


def _defined_at(fn: Callable[..., object]) -> str:
    with suppress(Exception):  # of an attribute of the callable
        place = place_of(fn)
        if place.line:
            return f" ({place.file}:{place.line})"
    return ""


def warn_of_generator(logger: logging.Logger, future: FutureProxy[Any]) -> None:
    """Log a warning if the result of a call is a generator that has not begun."""
    if future.status != "succeeded" or not _is_new_generator(future.result()):
        return
    with suppress(Exception):
        logger.warning(
            "%s returned a generator, whose body runs where it is iterated: not in the background, "
            "and without the contexts of the job; return a list (submitted at %s)",
            future.name,
            submitter_of(future),
        )


def _is_new_generator(result: Any) -> bool:
    if inspect.isgenerator(result):
        return inspect.getgeneratorstate(result) == inspect.GEN_CREATED
    return inspect.isasyncgen(result)


def _add_note(error: BaseException, note: str) -> None:
    """Add a note, as PEP 678 says, unless it is there already."""
    with suppress(Exception):  # the class may allow no attributes
        given: Any = error
        if note not in getattr(given, "__notes__", ()):
            given.__notes__ = [*getattr(given, "__notes__", ()), note]
