"""``executor.jobs``: the records of jobs, for users."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..futures import FutureProxy
from .protocol import Query
from .records import CancelAnswer, JobRecord, JobStatus

__all__ = ("JobRecords", "Records", "records_of")


class Records(Protocol):
    """Where the records of one executor in one app are."""

    @property
    def max_result_bytes(self) -> int: ...

    def get(self, job_id: str, *, with_result: bool = True) -> JobRecord | None: ...

    def keep(self, future: FutureProxy[Any], *, kind: str, user: str | None) -> None:
        """Have a job found by its id from now on.

        Args:
            future: The job's; it may be running, or over.
            kind: Of a job that has no record so far: ``"call"``, or ``"view"``.
            user: Whose such a job is.

        Raises:
            StoreError: the record cannot be written.
        """
        ...

    def changed(self, job_id: str, version: int, timeout: float) -> int:
        """Wait until the version of a record is another, and return it; 0 if there is no record.

        When the time is over, that is the same version.
        """
        ...

    def page(self, query: Query) -> list[JobRecord]: ...

    def counts(self, user: str | None) -> Mapping[JobStatus, int]: ...

    def future(self, job_id: str) -> FutureProxy[Any] | None: ...

    def cancel(self, job_id: str, timeout: float) -> CancelAnswer | None: ...

    def purge(self, older_than: float) -> int: ...


class JobRecords:
    """The records of jobs: of all server processes with ``EXECUTOR_STORE``, else of this one.

    Without a store, a job has a record once its ``future.id`` was read, for as long as the future
    is kept. Nothing here waits for a job, but for :meth:`cancel`, for a moment. Every method may be
    called from any thread.

    Raises:
        NoAppError: by each method, if it is not clear for which app.
        StoreError: by each method, while the store cannot be used.
    """

    def __init__(self, records: Callable[[], Records]) -> None:
        self._records = records

    def get(self, job_id: str) -> JobRecord | None:
        """Return the record of a job, with its result; ``None`` if there is no such job."""
        return self._records().get(job_id)

    def list(  # each narrows the list
        self,
        *,
        status: JobStatus | None = None,
        name: str | None = None,
        user: str | None = None,
        label: tuple[str, str] | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> builtins.list[JobRecord]:
        """Return records without results, newest first.

        Args:
            status: Only jobs of this status; this and what follows: all that are given must hold.
            name: Only jobs of this name.
            user: Only jobs of this user.
            label: Only jobs that have this label with this value.
            limit: Records at most.
            before: Only jobs that were submitted before the one with this id, for the next page.
        """
        query = Query(status=status, name=name, user=user, label=label, limit=limit, before=before)
        return self._records().page(query)

    def future(self, job_id: str) -> FutureProxy[Any] | None:
        """Return the future of a job, which can be awaited here whichever process runs it."""
        return self._records().future(job_id)

    def cancel(self, job_id: str, *, timeout: float = 1.0) -> CancelAnswer | None:
        """Cancel a job, or ask it to end, in whichever process it runs.

        Args:
            job_id: The job's; ``None`` is returned if there is no such job.
            timeout: Seconds to wait for the answer of that process.

        Returns:
            ``"cancelled"``: it is. ``"asked"``: it was told, and may end later.
            ``"cannot"``: it was done before.
        """
        return self._records().cancel(job_id, timeout)

    def purge(self, *, older_than: float = 0.0) -> int:
        """Remove the records of jobs that finished so many seconds ago; returns how many."""
        return self._records().purge(older_than)

    def counts(self, *, user: str | None = None) -> Mapping[JobStatus, int]:
        """Return how many jobs there are of each status that occurs."""
        return self._records().counts(user)


def records_of(jobs: JobRecords) -> Records:
    """Return where records are now, with what is for the routes of jobs only.

    Raises:
        NoAppError: it is not clear for which app.
    """
    return jobs._records()  # pyright: ignore[reportPrivateUsage]  # of a class in this module
