"""The report of a failed call: its log record, and the notes on its exception."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..context import ContextSnapshot, missing_context
from ..futures import FutureProxy, id_of, submitter_of
from ..runtime.frames import Place, place_of
from ..runtime.logs import log_as_if_from

__all__ = ("explain", "log_call")

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


def explain(
    error: BaseException, future: FutureProxy[Any], snapshot: ContextSnapshot | None = None
) -> None:
    """Add notes to what a call raised: the line that submitted it, and why it has no context."""
    missing = None if snapshot is None else missing_context(error)
    if snapshot is not None and missing and (why := _why_missing(missing, future.name, snapshot)):
        _add_note(error, why)
    if line := submitter_of(future):
        _add_note(error, f"submitted at {line}")


def _why_missing(missing: str, name: str, snapshot: ContextSnapshot) -> str:
    rules = snapshot.rules
    if missing == "app":
        return "" if rules.push_app else f"{name} has no app: EXECUTOR_PUSH_APP_CONTEXT is False"
    if not snapshot.had_request:
        return f"{name} was submitted outside of a request, so it has none"
    if not rules.push_request:
        return f"{name} has no request: EXECUTOR_PUSH_REQUEST_CONTEXT is False"
    return ""


def _add_note(error: BaseException, note: str) -> None:
    """Add a note, as PEP 678 says, unless it is there already."""
    with suppress(Exception):  # the class may allow no attributes
        given: Any = error
        if note not in getattr(given, "__notes__", ()):
            given.__notes__ = [*getattr(given, "__notes__", ()), note]
