"""The jobs that a blueprint has told its clients of, while this process remembers them."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

from ..futures import FutureProxy
from ..stores import CancelAnswer, JobError, JobProblem, JobRecord, JobStatus
from ..stores.encoding import failure_of

__all__ = ("KnownJobs", "is_done")

_KEPT = 1000
"""Jobs that are done and remembered, at most."""

_KEPT_FOR = 300.0
"""Seconds that a job is remembered after its end."""

_LOOKS_EVERY = 0.05  # seconds, between two looks at the progress of a job that is watched


@dataclass(slots=True)
class _Known:
    future: FutureProxy[Any]
    user: str | None
    kind: str
    is_asked_to_end: bool = False
    version: int = 0
    seen: object = None
    """What the last version was made of."""


class KnownJobs:
    """Finds jobs by their ids, which only those who were told them know.

    Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, _Known] = OrderedDict()  # oldest first; guarded by _lock

    def add(self, future: FutureProxy[Any], user: str | None, kind: str = "call") -> JobRecord:
        """Remember a job from now on, and return its record. Again: nothing changes."""
        with self._lock:
            known = self._jobs.setdefault(future.id, _Known(future, user, kind))
        self._forget()
        return self._record(known)

    def _forget(self) -> None:
        """Forget what was done long ago, and the oldest of what is done if that is too much."""
        with self._lock:
            done = [(job_id, each) for job_id, each in self._jobs.items() if each.future.done()]
            too_many = len(done) - _KEPT
            before = time.time() - _KEPT_FOR
            for number, (job_id, each) in enumerate(done):
                end = each.future.finished_at
                if number < too_many or (end is not None and end.timestamp() < before):
                    del self._jobs[job_id]

    def get(self, job_id: str) -> JobRecord | None:
        """Return the record of a job; ``None`` if there is no such job."""
        with self._lock:
            known = self._jobs.get(job_id)
        return None if known is None else self._record(known)

    def future(self, job_id: str) -> FutureProxy[Any] | None:
        with self._lock:
            known = self._jobs.get(job_id)
        return None if known is None else known.future

    def list(
        self,
        *,
        status: JobStatus | None = None,
        name: str | None = None,
        user: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[JobRecord]:
        """Return records, newest first; ``before``: only those older than this job."""
        with self._lock:
            known = list(reversed(self._jobs.values()))
        if before is not None:
            ids = [each.future.id for each in known]
            known = known[ids.index(before) + 1 :] if before in ids else []
        records = map(self._record, known)
        matching = [
            job
            for job in records
            if (status is None or job.status == status)
            and (name is None or job.name == name)
            and (user is None or job.user == user)
        ]
        return matching[:limit]

    def counts(self, *, user: str | None = None) -> Mapping[JobStatus, int]:
        """Return how many jobs have each status that occurs."""
        return Counter(job.status for job in self.list(user=user, limit=2**31))

    def cancel(self, job_id: str) -> CancelAnswer | None:
        """Cancel a job, or ask it to end; ``None`` if there is no such job."""
        with self._lock:
            known = self._jobs.get(job_id)
        if known is None:
            return None
        if known.future.done():
            return "cannot"
        known.is_asked_to_end = True
        return "cancelled" if known.future.cancel() else "asked"

    def changed(self, job_id: str, version: int, timeout: float) -> int:
        """Wait until a record has another version, and return which; the same if time is up."""
        end = time.monotonic() + timeout
        while True:
            job = self.get(job_id)
            now = -1 if job is None else job.version
            left = end - time.monotonic()
            future = self.future(job_id)
            if now != version or left <= 0 or future is None:
                return now
            is_done(future, min(left, _LOOKS_EVERY))

    def _record(self, known: _Known) -> JobRecord:
        future = known.future
        status, error = future.status, None
        if status == "failed" and (raised := future.exception()) is not None:
            error = _error_of(raised)
        progress = future.progress
        state = status, progress, known.is_asked_to_end
        with self._lock:
            if known.seen != state:
                known.seen = state
                known.version += 1
            version = known.version
        return JobRecord(
            id=future.id,
            name=future.name,
            key=future.key,
            status=status,
            progress=progress,
            attempts=1,
            submitted_at=future.submitted_at,
            started_at=future.started_at,
            finished_at=future.finished_at,
            server=f"{socket.gethostname()}:{os.getpid()}",
            user=known.user,
            labels={},
            error=error,
            result=None,
            result_state="stored" if status == "succeeded" else "absent",
            cancel_requested=known.is_asked_to_end,
            kind=known.kind,
            version=version,
        )


def _error_of(raised: BaseException) -> JobError:
    failure = failure_of(raised)
    problem = None
    if failure.problem is not None:
        problem = JobProblem(**json.loads(failure.problem))
    return JobError(failure.type, failure.message, failure.traceback, problem)


def is_done(future: FutureProxy[Any], seconds: float | None) -> bool:
    """Wait for a future; ``False`` if it takes longer."""
    try:
        future.exception(seconds)
    except FutureTimeoutError:
        return False
    except CancelledError:
        pass
    return True
