"""Job records: as users read them, and as stores keep them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any, Literal

from ..errors import JobExpiredError, JobLostError
from ..futures import Progress
from .encoding import decode_key, full_name

__all__ = (
    "COLUMNS",
    "EXPIRED",
    "FINAL",
    "LOST",
    "NOT_IN_TIME",
    "CancelAnswer",
    "JobError",
    "JobProblem",
    "JobRecord",
    "JobStatus",
    "ResultState",
    "Row",
    "error_of",
    "record_of",
    "utc",
)

JobStatus = Literal["pending", "running", "succeeded", "failed", "cancelled", "lost"]

ResultState = Literal["absent", "stored", "local", "too_large"]
"""``"local"``: it is not plain data, and stays in its process."""

CancelAnswer = Literal["cancelled", "asked", "cannot"]
"""``"asked"``: the job was told, and has not ended yet. ``"cannot"``: it was done before."""

LOST = full_name(JobLostError)
EXPIRED = full_name(JobExpiredError)
NOT_IN_TIME = "no worker started it in time"

FINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "lost"})


@dataclass(frozen=True, slots=True)
class JobProblem:
    """The part of a failure that is meant for the job's user."""

    status: int
    title: str
    detail: str | None
    headers: tuple[tuple[str, str], ...] = ()
    """Names and values that any answer should have, such as ``Retry-After``."""


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed, or was lost."""

    type: str
    """The exception's class with its module, as ``"myapp.PaymentError"``, or ``"ValueError"``."""

    message: str
    traceback: str
    problem: JobProblem | None = None
    """What the job tells its user by raising an ``HTTPException``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What is known of one job at one moment. A value: it does not change with the job."""

    id: str
    name: str
    key: Hashable | None
    status: JobStatus
    progress: Progress | None
    attempts: int
    """How often the job was begun, once retries are counted; 1 at first."""

    submitted_at: datetime
    """In UTC, as the other two times."""

    started_at: datetime | None
    finished_at: datetime | None
    server: str
    """``"host:pid"`` of the process that the job belongs to."""

    user: str | None
    labels: Mapping[str, str]
    error: JobError | None
    result: Any
    """``None`` as long as ``result_state`` is not ``"stored"``, and in lists.

    Of a failed job, the response in its ``HTTPException``, as ``abort(response)`` puts it there.
    """

    result_state: ResultState
    cancel_requested: bool
    """Whether the job was asked to end while it was pending or running. It was cancelled in some
    process, its time was up, or the commit that it waited for was rolled back."""

    kind: str = "call"
    """Or ``"view"``: then the result is a response."""

    version: int = 0
    """Grows with every change of the record."""

    log_tail: str | None = None
    """The last lines that the job has logged, with ``EXECUTOR_STORE_LOGS``; ``None`` if there are
    none, and in lists. Only for operators: it may hold anything."""

    @property
    def done(self) -> bool:
        """Whether no further change will come."""
        return self.status in FINAL


@dataclass(slots=True, kw_only=True)
class Row:
    """A job's record as a store keeps it. Each field is a column of that name in every store."""

    id: str
    space: str
    """The apps that see each other's jobs: by default the name of the app."""

    executor: str
    name: str
    kind: str = "call"
    """Or ``"view"``: then the result is a response."""

    key: str | None = None
    """As :func:`encode_key` makes it."""

    owner: str | None = None
    """The process that runs the job, and alone may write its record; ``None``: the job waits in an
    engine, and whichever worker takes it first becomes its owner."""

    server: str = ""
    status: JobStatus = "pending"
    step: int = 0
    """Counts what the owner has seen happen: a store refuses a row that is older than its own."""

    version: int = 1
    """Counts the changes of the record, by any process. The store counts, not the writer."""

    attempts: int = 1
    retries: int = 0
    """How often an engine may give the job to another worker when its owner has died."""

    submitted: float
    """Seconds since 1970, as all times here."""

    started: float | None = None
    finished: float | None = None
    expires: float | None = None
    """When a job that no worker has taken fails."""

    progress_done: float | None = None
    progress_total: float | None = None
    progress_message: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    error_traceback: str | None = None
    problem: str | None = None
    """The part of the error that is meant for the job's user; see :class:`Failure`."""

    result_state: ResultState = "absent"
    result_type: str | None = None
    """How :attr:`result` is encoded; if there is none, the class of what the job returned."""

    result_size: int = 0
    """Bytes, the pieces of a response included."""

    user: str | None = None
    labels: str = "{}"
    """A JSON object of texts."""

    held: int = 0
    """Whether the job waits for a response or commit, which may never come."""

    cancel: int = 0
    """What was asked for: 1 to cancel the job, 2 to kill it if need be."""

    listed: int = 1
    """Whether the job is a user's: one part of a ``map`` is in no list, and no bound removes it."""

    token: bytes | None = None
    """The signed message that an engine was given."""

    route: str | None = None
    is_async: int = 0
    log_tail: str | None = None
    result: bytes | None = None
    """Not in rows that were read without results."""

    @property
    def done(self) -> bool:
        return self.status in FINAL

    @property
    def progress(self) -> Progress | None:
        if self.progress_done is None:
            return None
        return Progress(self.progress_done, self.progress_total, self.progress_message or "")


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Row))


def record_of(row: Row, result: Any = None) -> JobRecord:
    """Return a row for users. ``result``: what its result stands for."""
    error = None
    if row.error_type is not None:
        error = error_of(
            row.error_type, row.error_message or "", row.error_traceback or "", row.problem
        )
    labels: dict[str, str] = {} if row.labels == "{}" else json.loads(row.labels)
    return JobRecord(
        id=row.id,
        name=row.name,
        key=None if row.key is None else decode_key(row.key),
        status=row.status,
        progress=row.progress,
        attempts=row.attempts,
        submitted_at=utc(row.submitted),
        started_at=None if row.started is None else utc(row.started),
        finished_at=None if row.finished is None else utc(row.finished),
        server=row.server,
        user=row.user,
        labels=labels,
        error=error,
        result=result,
        result_state=row.result_state,
        cancel_requested=bool(row.cancel),
        kind=row.kind,
        version=row.version,
        log_tail=row.log_tail,
    )


def error_of(kind: str, message: str, traceback: str, problem: str | None) -> JobError:
    """Return an error with its problem, which is a JSON object."""
    if problem is None:
        return JobError(kind, message, traceback)
    fields: dict[str, Any] = json.loads(problem)
    headers = tuple((name, value) for name, value in fields.pop("headers", ()))
    return JobError(kind, message, traceback, JobProblem(**fields, headers=headers))


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
