"""The records of an app without a store: made from the futures of this process when asked for."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any
from weakref import ref

from flask import Flask

from ..futures import (
    FutureProxy,
    app_of,
    facts_of,
    id_of,
    log_of,
    named_future,
    named_futures,
    record_late,
    recorder_of,
)
from .encoding import clean_text, failure_of
from .protocol import Query
from .records import CancelAnswer, JobRecord, JobStatus, error_of

__all__ = ("LocalNote", "LocalRecords")

_KEPT = 1000
"""Jobs that are done and kept, at most."""

_KEPT_FOR = 300.0
"""Seconds that a job is kept after its end."""


class LocalNote:
    """What a future does not know of its job: implements :class:`Recorder`, and records nothing."""

    __slots__ = ("_versions", "_waiting", "announces_loss", "kind", "labels", "user", "version")

    def __init__(self, user: str | None, labels: Mapping[str, str], kind: str = "call") -> None:
        self.user: str | None = user
        self.labels: Mapping[str, str] = labels
        self.kind: str = kind
        self.announces_loss: bool = True
        self.version: int = 1
        self._versions = itertools.count(2)
        # Replaced, under _joining; so the job's thread reads it as it is.
        self._waiting: tuple[Callable[[None], object], ...] = ()

    def _changes(self) -> None:
        # Of two changes at once the lower number may stay. It is another than before, all the same.
        self.version = next(self._versions)
        for wake in self._waiting:
            wake(None)

    def changed(self, version: int, timeout: float) -> int:
        """Wait until the version is another, or time is up, and return it."""
        changes: SimpleQueue[None] = SimpleQueue()  # whose put() takes no lock: see _settle()
        wake = changes.put
        with _joining:
            self._waiting += (wake,)
        try:
            # After we wait: what has changed before is seen here, and the rest wakes us.
            if self.version == version:
                changes.get(timeout=timeout)
        except Empty:
            pass
        finally:
            with _joining:
                self._waiting = tuple(each for each in self._waiting if each is not wake)
        return self.version

    def on_named(self, future: Any) -> None: ...

    def on_change(self, future: Any) -> None:
        self._changes()

    def on_progress(self, future: Any) -> None:
        self._changes()

    def on_log(self, future: Any) -> None: ...  # only operators see it, who hear of no changes

    def encode_outcome(
        self, future: Any, result: object, exception: BaseException | None
    ) -> None: ...

    def __call__(self, future: Any) -> None:
        self._changes()

    def on_refused(self, future: Any) -> None: ...

    def public_record(self, future: Any) -> JobRecord:
        return _record_of(future)


_NO_NOTE = LocalNote(None, {})

_joining = threading.Lock()


class LocalRecords:
    """The jobs of one app in this process whose ids were read, as long as their futures live.

    Those that were given to :meth:`keep` live for five minutes after their end. Implements
    :class:`Records`.
    """

    def __init__(self, app: Flask, max_result_bytes: int = 8 * 2**20) -> None:
        self.max_result_bytes: int = max_result_bytes
        self._app = ref(app)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, FutureProxy[Any]] = OrderedDict()  # guarded by _lock
        self._purged: set[str] = set()  # items are added and removed atomically

    def _find(self, job_id: str) -> FutureProxy[Any] | None:
        future = named_future(job_id)
        return future if future is not None and self._has(future) else None

    def _has(self, future: FutureProxy[Any]) -> bool:
        return app_of(future) is self._app() and id_of(future) not in self._purged

    def _all(self) -> list[FutureProxy[Any]]:
        return [future for future in named_futures() if self._has(future)]

    def keep(self, future: FutureProxy[Any], *, kind: str, user: str | None) -> None:
        if recorder_of(future) is None:
            record_late(future, LocalNote(user, {}, kind))
        with self._lock:
            self._kept[future.id] = future
            self._forget()

    def _forget(self) -> None:
        """Forget what was done long ago, and the oldest of what is done if that is too much."""
        done = [(job_id, each) for job_id, each in self._kept.items() if each.done()]
        too_many = len(done) - _KEPT
        before = time.time() - _KEPT_FOR
        for number, (job_id, future) in enumerate(done):
            end = future.finished_at
            if number < too_many or (end is not None and end.timestamp() < before):
                del self._kept[job_id]

    def changed(self, job_id: str, version: int, timeout: float) -> int:
        future = self._find(job_id)
        note = None if future is None else recorder_of(future)
        return note.changed(version, timeout) if isinstance(note, LocalNote) else 0

    def get(self, job_id: str, *, with_result: bool = True) -> JobRecord | None:
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
                page.append(replace(record, log_tail=None))
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
        with self._lock:
            for job_id in done:
                self._kept.pop(job_id, None)
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
    note = recorder_of(future)
    if not isinstance(note, LocalNote):
        note = _NO_NOTE
    version = note.version  # first: what changes from now on has another
    status = future.status  # then this: once it is final, so is the rest
    facts = facts_of(future)
    result, error = None, None
    if status == "succeeded":
        result = future.result(0)
    elif status in {"failed", "lost"} and (raised := future.exception(0)) is not None:
        failure = failure_of(raised)
        error = error_of(failure.type, failure.message, failure.traceback, failure.problem)
    progress, log = future.progress, log_of(future)
    if progress is not None:
        progress = progress._replace(message=clean_text(progress.message))
    return JobRecord(
        id=id_of(future),
        name=clean_text(str(future.name)),
        key=future.key,
        status=status,
        progress=progress,
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
        kind=note.kind,
        version=version,
        log_tail=None if log is None else clean_text(log),
    )
