"""A job as JSON, and the JSON Schema of that and of errors."""

from __future__ import annotations

from datetime import datetime
from math import isfinite
from typing import Any, TypedDict

from ..errors import JobAbandonedError
from ..futures import Progress
from ..stores import JobRecord
from ..stores.encoding import full_name
from .texts import TEXTS

__all__ = (
    "ErrorDocument",
    "JobDocument",
    "ProgressDocument",
    "document_of",
    "error_of",
    "job_schema",
    "name_of",
    "problem_schema",
    "progress_of",
)

_LONGEST_MESSAGE = 300
_EXACT = 2**53  # below it, a whole number is the same in every reader of JSON
_ABANDONED = full_name(JobAbandonedError)


class ProgressDocument(TypedDict):
    done: float
    total: float | None
    percent: int | None
    message: str


class ErrorDocument(TypedDict):
    status: int
    title: str
    detail: str | None


class JobDocument(TypedDict):
    id: str
    name: str
    status: str
    done: bool
    cancel_requested: bool
    progress: ProgressDocument | None
    submitted_at: str
    started_at: str | None
    finished_at: str | None
    error: ErrorDocument | None
    links: dict[str, str]


def document_of(job: JobRecord, links: dict[str, str]) -> JobDocument:
    """Return what a job's user may know of it."""
    return JobDocument(
        id=job.id,
        name=name_of(job),
        status=job.status,
        done=job.done,
        cancel_requested=job.cancel_requested,
        progress=None if job.progress is None else progress_of(job.progress),
        submitted_at=_timestamp(job.submitted_at),
        started_at=None if job.started_at is None else _timestamp(job.started_at),
        finished_at=None if job.finished_at is None else _timestamp(job.finished_at),
        error=error_of(job),
        links=links,
    )


def name_of(job: JobRecord) -> str:
    """Return a function's own name, of a qualified one, or what ``using(name=...)`` said."""
    parts = job.name.split(".")
    is_qualified = all(part.isidentifier() or part in {"<locals>", "<lambda>"} for part in parts)
    return parts[-1] if is_qualified else job.name


def progress_of(progress: Progress) -> ProgressDocument:
    """Return what a job says of its progress, whatever that is, as JSON of a limited size."""
    done = _number(progress.done)
    total = None if progress.total is None else _number(progress.total)
    return ProgressDocument(
        done=done,
        total=total,
        percent=int(min(100, max(0, 100 * done / total))) if total else None,
        message=str(progress.message)[:_LONGEST_MESSAGE],
    )


def _number(value: float) -> float:
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return 0
    if not isfinite(number):
        return 0
    is_exact = number.is_integer() and abs(number) < _EXACT
    return int(number) if is_exact else number


def _timestamp(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def error_of(job: JobRecord) -> ErrorDocument | None:
    """Return why a job has no result, in the words that are meant for its user.

    A job chooses them by raising an ``HTTPException``. What else it raised is for operators only.
    """
    if job.status == "lost":
        return ErrorDocument(status=500, title="Job Lost", detail=TEXTS["lost"])
    if job.status != "failed":
        return None
    if job.error is not None and (problem := job.error.problem) is not None:
        return ErrorDocument(status=problem.status, title=problem.title, detail=problem.detail)
    if job.error is not None and job.error.type == _ABANDONED:
        return ErrorDocument(status=503, title="Service Unavailable", detail=TEXTS["lost"])
    return ErrorDocument(status=500, title="Internal Server Error", detail=None)


# -- the schemas ---------------------------------------------------------------------------------


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a job, for the components of an OpenAPI document."""
    time = {"type": "string", "format": "date-time"}
    time_or_null = {"type": ["string", "null"], "format": "date-time"}
    link = {"type": "string", "format": "uri-reference"}
    return {
        "title": "Job",
        "type": "object",
        "required": list(JobDocument.__annotations__),
        "properties": {
            "id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
            "name": {
                "type": "string",
                "description": "The function's own name, or using(name=...).",
            },
            "status": {"enum": ["pending", "running", "succeeded", "failed", "cancelled", "lost"]},
            "done": {"type": "boolean", "description": "No further change will come."},
            "cancel_requested": {"type": "boolean"},
            "progress": {
                "type": ["object", "null"],
                "required": list(ProgressDocument.__annotations__),
                "properties": {
                    "done": {"type": "number"},
                    "total": {"type": ["number", "null"]},
                    "percent": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
                    "message": {"type": "string", "maxLength": _LONGEST_MESSAGE},
                },
            },
            "submitted_at": time,
            "started_at": time_or_null,
            "finished_at": time_or_null,
            "error": {
                "type": ["object", "null"],
                "required": list(ErrorDocument.__annotations__),
                "properties": {
                    "status": {"type": "integer"},
                    "title": {"type": "string"},
                    "detail": {"type": ["string", "null"]},
                },
            },
            "links": {
                "type": "object",
                "required": ["self"],
                "properties": dict.fromkeys(("self", "result", "cancel", "events"), link),
            },
        },
    }


def problem_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of an error, an ``application/problem+json``."""
    return {
        "title": "Problem",
        "type": "object",
        "required": ["type", "title", "status"],
        "properties": {
            "type": {
                "type": "string",
                "format": "uri-reference",
                "description": "about:blank, or urn:flask-executor:cancelled, :failed, :lost or "
                ":result-gone.",
            },
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": ["string", "null"]},
            "job": {
                "type": "string",
                "format": "uri-reference",
                "description": "The job's own address.",
            },
        },
    }
