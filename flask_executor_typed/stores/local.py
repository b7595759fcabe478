"""The records of an app without a store: made from the futures of this process when asked for."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any
from weakref import ref

from flask import Flask

from ..futures import FutureProxy, app_of, facts_of, id_of, named_future, named_futures, recorder_of
from .encoding import failure_of
from .protocol import Query
from .records import CancelAnswer, JobRecord, JobStatus, error_of

__all__ = ("LocalNote", "LocalRecords")


class LocalNote:
    """What a future does not know of its job: implements :class:`Recorder`, and records nothing."""

    __slots__ = ("labels", "user")

    def __init__(self, user: str | None, labels: Mapping[str, str]) -> None:
        self.user = user
        self.labels = labels

    def is_named(self, future: Any) -> None: ...

    def has_changed(self, future: Any) -> None: ...

    def has_moved(self, future: Any) -> None: ...

    def keep_outcome(
        self, future: Any, result: object, exception: BaseException | None
    ) -> None: ...

    def __call__(self, future: Any) -> None: ...

    def is_refused(self, future: Any) -> None: ...

    def public_record(self, future: Any) -> JobRecord:
        return _record_of(future)


_NO_NOTE = LocalNote(None, {})


class LocalRecords:
    """The jobs of one app in this process whose ids were read, as long as their futures live.

    Implements :class:`Records`.
    """

    def __init__(self, app: Flask) -> None:
        self._app = ref(app)
        self._purged: set[str] = set()  # items are added and removed atomically

    def _find(self, job_id: str) -> FutureProxy[Any] | None:
        future = named_future(job_id)
        return future if future is not None and self._has(future) else None

    def _has(self, future: FutureProxy[Any]) -> bool:
        return app_of(future) is self._app() and id_of(future) not in self._purged

    def _all(self) -> list[FutureProxy[Any]]:
        return [future for future in named_futures() if self._has(future)]

    def get(self, job_id: str) -> JobRecord | None:
        future = self._find(job_id)
        return None if future is None else _record_of(future)

    def page(self, query: Query) -> list[JobRecord]:
        futures = sorted(self._all(), key=lambda future: future.submitted_at, reverse=True)
        if query.before is not None:
            ids = [id_of(future) for future in futures]
            futures = futures[ids.index(query.before) + 1 :] if query.before in ids else []
        page: list[JobRecord] = []
        for record in map(_record_of, futures):
            if len(page) == query.limit:
                break
            if _matches(record, query):
                page.append(record)
        return page

    def counts(self, user: str | None) -> Mapping[JobStatus, int]:
        counts: dict[JobStatus, int] = {}
        for record in map(_record_of, self._all()):
            if user is None or record.user == user:
                counts[record.status] = counts.get(record.status, 0) + 1
        return counts

    def future(self, job_id: str) -> FutureProxy[Any] | None:
        return self._find(job_id)

    def cancel(self, job_id: str, timeout: float) -> CancelAnswer | None:
        future = self._find(job_id)
        if future is None:
            return None
        if future.done():
            return "cannot"
        return "cancelled" if future.cancel() else "asked"

    def purge(self, older_than: float) -> int:
        before = time.time() - older_than
        done = [
            id_of(future)
            for future in self._all()
            if future.finished_at is not None and future.finished_at.timestamp() <= before
        ]
        named = {id_of(future) for future in named_futures()}
        self._purged = (self._purged | set(done)) & named
        return len(done)


def _matches(record: JobRecord, query: Query) -> bool:
    if query.label is not None and record.labels.get(query.label[0]) != query.label[1]:
        return False
    return (
        (query.status is None or record.status == query.status)
        and (query.name is None or record.name == query.name)
        and (query.user is None or record.user == query.user)
    )


def _record_of(future: FutureProxy[Any]) -> JobRecord:
    status = future.status  # first: once it is final, so is the rest
    facts, note = facts_of(future), recorder_of(future)
    if not isinstance(note, LocalNote):
        note = _NO_NOTE
    result, error = None, None
    if status == "succeeded":
        result = future.result(0)
    elif status in {"failed", "lost"} and (raised := future.exception(0)) is not None:
        failure = failure_of(raised)
        error = error_of(failure.type, failure.message, failure.traceback, failure.problem)
    return JobRecord(
        id=id_of(future),
        name=future.name,
        key=future.key,
        status=status,
        progress=future.progress,
        attempts=facts.attempts,
        submitted_at=future.submitted_at,
        started_at=future.started_at,
        finished_at=future.finished_at,
        server=f"{socket.gethostname()}:{os.getpid()}",
        user=note.user,
        labels=dict(note.labels),
        error=error,
        result=result,
        result_state="stored" if status == "succeeded" else "absent",
        cancel_requested=facts.cancel_requested,
    )
