"""The operations of a store of job records, and their guarantees."""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol

from ..futures import OnDuplicate
from .records import JobStatus, Row

__all__ = ("Burial", "Hazard", "Hears", "Listener", "Owner", "Pulse", "Query", "Store", "matches")

Pulse = Literal["ok", "dead", "gone"]
"""``"dead"``: another process has buried this one. ``"gone"``: the store has lost its data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process that runs jobs, as other processes see it."""

    id: str
    """Random, so that it is never reused."""

    host: str
    """The machine and its process id namespace; ``""`` if the system does not report it."""

    pid: int
    born: str
    """The start of the process, as the kernel reports it."""

    server: str = ""
    """``"host:pid"``, shown to users."""

    beats: int = 0
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Burial:
    """The outcome for the jobs of a dead process."""

    lost: list[str] = field(default_factory=list[str])
    """The ids of the lost jobs."""

    again: list[Row] = field(default_factory=list[Row])
    """The jobs that had retries left. They are pending, have no owner, and must be published."""


@dataclass(frozen=True, slots=True)
class Hazard:
    """A danger to a store in its current place and configuration."""

    code: str
    """A stable name, such as ``"store-evicts"``."""

    what: str
    """The danger, in a sentence."""

    cure: str
    """The cure, in a sentence."""

    must_mend: bool = True
    """Whether records can be lost or damaged. If not, it is a hint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query for a list of records. All given conditions must hold."""

    status: JobStatus | None = None
    name: str | None = None
    user: str | None = None
    label: tuple[str, str] | None = None
    executor: str | None = None
    """Only those of the executor with this name."""
    limit: int = 100
    before: str | None = None
    """Only records older than the one with this id; none, if there is no such record."""


class Hears(IntEnum):
    """What a listener tells of. Each costs every process that hears it, so it is all that it needs.

    None of them is told of new jobs.
    """

    ASKS = 0
    """Requests to cancel jobs of this process."""

    CHANGES = 1
    """Those, and changes of all jobs, but for starts."""

    STARTS = 2
    """Those, and the workers' beginning of jobs that an engine has."""


class Listener(Protocol):
    """Receives changes as they happen, in one thread."""

    def wait(self, seconds: float, hears: Hears) -> Mapping[str, bytes] | None:
        """Return the ids of jobs that have changed, and the owner's if it is to cancel a job.

        With each comes what :meth:`row_of` takes. ``None``: changes may have been missed, so the
        caller must check everything.

        Args:
            seconds: How long to wait for the first.
            hears: What is heard from now on. Never less than before.

        Raises:
            StoreError: the connection is lost.
        """
        ...

    def row_of(self, record: bytes) -> Row | None:
        """Return the final record that came with an id; ``None``: it must be read."""
        ...

    def wake(self) -> None:
        """Have :meth:`wait` return, from any thread. Raises ``StoreError`` if it cannot."""

    def close(self) -> None:
        """Stop listening, from any thread. :meth:`wait` then returns or raises soon."""


class Store(Protocol):
    """Keeps rows in a database. Every method may be called from any thread, and blocks.

    Each method is one atomic step, :meth:`write` one per row: other processes see all of it or
    nothing, even if this process is killed halfway. Each may raise :exc:`StoreError`. Then it is
    unknown whether the step was done, and the caller should repeat it.

    A method waits only a fraction of a second for a busy store, because a request may be waiting
    for it. With ``patient``, for background threads, it waits for seconds.
    """

    url: str
    """``EXECUTOR_STORE`` without a password."""

    listens: bool
    """Whether :meth:`listener` reports changes. If not, :meth:`mark` must be polled."""

    # -- processes -------------------------------------------------------------------------------

    def register(self, owner: Owner) -> None:
        """Add a living process. Again: nothing changes."""

    def beat(self, owner_id: str) -> Pulse:
        """Show that a process is alive, unless it was buried, and say which it is."""
        ...

    def retire(self, owner_id: str) -> bool:
        """Remove a living process that ends; ``False`` if it has unfinished records, and stays."""
        ...

    def owners(self) -> list[Owner]:
        """Return the living processes, and dead or unknown ones that have unfinished records.

        Of an unknown process, only the id is set.
        """
        ...

    def bury(self, owner_id: str, reason: str, now: float, *, patient: bool = False) -> Burial:
        """Declare a process dead, and end or requeue its unfinished records.

        A record with retries left becomes pending again, without an owner and with one more
        attempt. Any other is lost, for ``reason``, and untold. A process buried before may have
        written records since; they are included. If two processes bury a third, each job is in
        exactly one of the answers.
        """
        ...

    def untold(self, space: str) -> list[str]:
        """Return the ids of lost jobs that no process has announced."""
        ...

    def tell(self, job_id: str) -> bool:
        """Take the right to announce a lost job; exactly one caller gets ``True``."""
        ...

    # -- records that a process writes about its own jobs ----------------------------------------

    def write(self, rows: Sequence[Row], *, patient: bool = False) -> list[str]:
        """Insert or update rows, and return the ids of those that were refused.

        A row is refused if its record is final, has another owner, or is not older than the row.
        The store controls ``version`` and the key: an inserted row gets its key if that is free.
        ``cancel`` never decreases.

        Raises:
            UnstorableError: the database refuses the content of a row; no row is written.
        """
        ...

    def claim(self, row: Row, on_duplicate: OnDuplicate) -> Row | None:
        """Insert a row and give it its key; ``None`` on success.

        If the key is taken, return the record that has it: with ``"error"`` any record, with
        ``"join"`` one that is neither done nor held. A key whose record is gone is free. A row that
        already has its key keeps it, so a claim can be repeated if its answer was lost. If the job
        has a record without this key, only the key changes.
        """
        ...

    def release(self, space: str, key: str, job_id: str) -> None:
        """Free a key if this job has it. The record stays."""

    def enqueue(self, row: Row, owner_id: str) -> bool:
        """Let an engine have a job: insert a row without an owner, or take the owner off its row.

        ``False`` if the job has a record that is not a pending one of this owner. As in
        :meth:`write`, the store controls ``version`` and the key, and ``cancel`` never decreases.
        """
        ...

    def withdraw(self, job_id: str) -> bool:
        """Remove a record that no process works on, and its key. Return whether it did.

        That is one of a pending job without an owner, or an unlisted one of a job that is done.
        """
        ...

    def add_piece(self, job_id: str, owner_id: str, number: int, data: bytes) -> bool:
        """Store one part of a response; ``False`` if the job is done or has another owner."""
        ...

    # -- jobs that wait in an engine -------------------------------------------------------------

    def take(self, job_id: str, attempt: int, owner: Owner, now: float) -> Row | None:
        """Make a process the owner of a pending job without one, and mark the job as running.

        ``None`` if the job is gone, taken, done or at another attempt, so that the message is out
        of date; or if it has expired, in which case it fails with ``JobExpiredError``.
        """
        ...

    def lose(self, job_id: str, owner_id: str, reason: str, now: float) -> Burial:
        """Do what :meth:`bury` does, for one job of a process that may still be alive."""
        ...

    def expire(self, space: str, now: float) -> list[str]:
        """Fail the jobs that no worker has taken in time. Return their ids."""
        ...

    # -- cancelling ------------------------------------------------------------------------------

    def ask_to_cancel(self, job_id: str, now: float, *, kill: bool = False) -> Row | None:
        """Mark an unfinished job for cancellation, and return its updated record.

        A pending job without an owner is cancelled at once.
        """
        ...

    def asked_to_cancel(self, owner_id: str) -> list[tuple[str, bool]]:
        """Return the ids of this process's unfinished jobs marked so, each with ``kill``."""
        ...

    # -- reading ---------------------------------------------------------------------------------

    def get(self, job_ids: Collection[str], *, results: bool = False) -> dict[str, Row]:
        """Return the records that exist, by id."""
        ...

    def find(self, space: str, key: str) -> Row | None:
        """Return the record that has a key, without its result."""
        ...

    def pop(self, space: str, key: str) -> Row | None:
        """Free a key and return the record that had it; exactly one caller gets it."""
        ...

    def page(self, space: str, query: Query) -> list[Row]:
        """Return records without results and logs, newest first."""
        ...

    def counts(self, space: str, user: str | None) -> dict[str, int]:
        """Return the number of records by status, for each status that occurs."""
        ...

    def count_keys(self, space: str) -> int: ...

    def piece(self, job_id: str, number: int) -> bytes | None: ...

    # -- bounds ----------------------------------------------------------------------------------

    def purge(
        self,
        space: str,
        *,
        finished_before: float,
        keep: int | None = None,
        keep_bytes: int | None = None,
        limit: int = 500,
    ) -> int:
        """Remove some finished records, the oldest first, and return how many.

        First come those that finished too long ago, then those in excess of ``keep`` records. After
        them, results in excess of ``keep_bytes`` are removed; their records stay. Call it again
        until it returns 0.
        """
        ...

    # -- changes ---------------------------------------------------------------------------------

    def mark(self) -> Hashable:
        """Return a value that differs after another process has made a change. Cheap."""
        ...

    def listener(self, space: str, owner_id: str) -> Listener:
        """Return a new listener of a process, for a space; only for stores that listen."""
        ...

    # -- the place -------------------------------------------------------------------------------

    def hazards(self) -> Iterator[Hazard]:
        """Yield the dangers to this store. Writes nothing and creates no database.

        Raises:
            StoreError: records cannot be written. Raised after the last hazard.
        """
        ...

    def close(self) -> None:
        """Close the connections. The next call opens them again."""


def matches(row: Row, query: Query) -> bool:
    """Return whether a listed row matches a query, for stores that filter in Python."""
    if query.label is not None:
        name, value = query.label
        if json.loads(row.labels).get(name) != value:
            return False
    return (
        (query.status is None or row.status == query.status)
        and (query.name is None or row.name == query.name)
        and (query.user is None or row.user == query.user)
        and (query.executor is None or row.executor == query.executor)
    )
