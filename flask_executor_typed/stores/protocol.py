"""The operations of a store of job records, and what each promises."""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ..futures import OnDuplicate
from .records import JobStatus, Row

__all__ = ("Burial", "Hazard", "Listener", "Owner", "Pulse", "Query", "Store", "matches")

Pulse = Literal["ok", "dead", "gone"]
"""``"dead"``: another process has buried this one. ``"gone"``: the store has lost its data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """One process that runs jobs, as others see it."""

    id: str
    """Random, so that it is never used again."""

    host: str
    """The machine and its namespace of process ids; ``""`` if the system does not tell."""

    pid: int
    born: str
    """When the process started, by the clock that the kernel counts it with."""

    server: str = ""
    """``"host:pid"``, for people."""

    beats: int = 0
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Burial:
    """What became of the jobs of a dead process."""

    lost: list[str] = field(default_factory=list[str])
    """Their ids."""

    again: list[Row] = field(default_factory=list[Row])
    """Those that had attempts left: they are pending, have no owner, and are to be published."""


@dataclass(frozen=True, slots=True)
class Hazard:
    """What may go wrong with a store where it is now."""

    code: str
    """Its name, such as ``"store-evicts"``, which is the same in every version."""

    what: str
    """What happens, in a sentence."""

    cure: str
    """What to do about it, in a sentence."""

    must_mend: bool = True
    """Whether records can be lost or damaged; else it is a hint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which records a list has: all that are given must hold."""

    status: JobStatus | None = None
    name: str | None = None
    user: str | None = None
    label: tuple[str, str] | None = None
    executor: str | None = None
    """Only those of the executor with this name."""
    limit: int = 100
    before: str | None = None
    """Only records older than the one with this id; none, if there is no such record."""


class Listener(Protocol):
    """Hears of changes as they happen, for one thread."""

    def wait(self, seconds: float) -> Collection[str] | None:
        """Return what changed: ids of jobs, and of owners that a job's cancellation is asked of.

        ``None``: some changes may have been missed, so look at everything that matters.

        Raises:
            StoreError: the connection is lost.
        """
        ...

    def close(self) -> None:
        """From any thread: :meth:`wait` returns or raises soon."""


class Store(Protocol):
    """Keeps rows in a database. Every method may be called from any thread, and blocks.

    Each method is one atomic step, and :meth:`write` one for each row: another process sees all of
    it or nothing, also if this one is killed halfway. Each may raise :exc:`StoreError`; then it is
    unknown whether the step was done, and doing it again is right.

    A method waits a fraction of a second for a busy store, for the sake of the request that
    called it; where it takes ``patient``, a thread in the background may wait for seconds.
    """

    url: str
    """``EXECUTOR_STORE`` without a password."""

    listens: bool
    """Whether changes come from :meth:`listener`; else :meth:`mark` must be asked."""

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
        """Return the living processes, and each that is dead or unknown and has unfinished records.

        An unknown one has nothing but its id.
        """
        ...

    def bury(self, owner_id: str, reason: str, now: float, *, patient: bool = False) -> Burial:
        """Declare a process dead, and give its unfinished records an end.

        Each is pending again, without an owner and with its attempt counted, if it has retries
        left; else it is lost, for ``reason``, and untold. A process that was buried before may have
        written since: that is taken too. Of two processes that bury a third, each job is in the
        answer to one.
        """
        ...

    def untold(self, space: str) -> list[str]:
        """Return the ids of lost jobs that no process has announced."""
        ...

    def tell(self, job_id: str) -> bool:
        """Take the right to announce a lost job; exactly one caller gets ``True``."""
        ...

    # -- records that a process writes of its own jobs -------------------------------------------

    def write(self, rows: Sequence[Row], *, patient: bool = False) -> list[str]:
        """Insert rows, or replace what is known of them, and return the ids that were refused.

        A row is refused if the record is final, has another owner, or is not older than the row.
        ``version`` and the key are the store's: an inserted row gets its key if that is free.
        ``cancel`` never shrinks.

        Raises:
            UnstorableError: the database refuses the content of one of the rows; none is written.
        """
        ...

    def claim(self, row: Row, on_duplicate: OnDuplicate) -> Row | None:
        """Insert a row and give it its key, unless the key is taken; ``None``: it was given.

        Else the record that has the key is returned: with ``"error"`` any, with ``"join"`` one that
        is not done and not held. A key whose record is gone is free. A row that has its key already
        keeps it, so a claim whose answer was lost can be repeated. Of a job that has a record
        without this key, only the key changes.
        """
        ...

    def release(self, space: str, key: str, job_id: str) -> None:
        """Free a key, if this job has it. The record stays."""

    def withdraw(self, job_id: str) -> bool:
        """Remove the record of a job that has no owner and is pending, with its key."""
        ...

    def add_piece(self, job_id: str, owner_id: str, number: int, data: bytes) -> bool:
        """Keep one part of a response; ``False`` if the job is done or has another owner."""
        ...

    # -- jobs that wait in an engine -------------------------------------------------------------

    def take(self, job_id: str, attempt: int, owner: Owner, now: float) -> Row | None:
        """Make a process the owner of a pending job that has none, and the job running.

        ``None`` if it is gone, taken, done, or at another attempt: its message is out of date. If
        it has expired it fails with ``JobExpiredError``.
        """
        ...

    def lose(self, job_id: str, owner_id: str, reason: str, now: float) -> Burial:
        """Do what :meth:`bury` does, for one job of a process that may live on."""
        ...

    def expire(self, space: str, now: float) -> list[str]:
        """Fail the jobs that no worker has taken in time, and return their ids."""
        ...

    # -- cancelling ------------------------------------------------------------------------------

    def ask_to_cancel(self, job_id: str, now: float, *, kill: bool = False) -> Row | None:
        """Mark a job that is not done, and return its record as it is then.

        A pending one that has no owner is cancelled at once.
        """
        ...

    def asked_to_cancel(self, owner_id: str) -> list[tuple[str, bool]]:
        """Return the ids of this process's unfinished jobs that are marked, each with ``kill``."""
        ...

    # -- reading ---------------------------------------------------------------------------------

    def get(self, job_ids: Collection[str], *, results: bool = False) -> dict[str, Row]:
        """Return the records that exist, by id."""
        ...

    def find(self, space: str, key: str) -> Row | None:
        """Return the record that has a key, without its result."""
        ...

    def pop(self, space: str, key: str) -> Row | None:
        """Free a key and return the record that had it; of many callers one gets it."""
        ...

    def page(self, space: str, query: Query) -> list[Row]:
        """Return records without results, newest first."""
        ...

    def counts(self, space: str, user: str | None) -> dict[str, int]:
        """Return how many records have each status that occurs."""
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
        """Remove some of the finished records, the oldest first, and return how many.

        First those that finished too long ago, then those above ``keep`` records in all; then
        the results above ``keep_bytes`` in all, whose records stay. Again until it returns 0.
        """
        ...

    # -- changes ---------------------------------------------------------------------------------

    def mark(self) -> Hashable:
        """Return a value that another process's change makes different. Cheap."""
        ...

    def listener(self, space: str) -> Listener:
        """Hear of changes. Only of stores that listen."""
        ...

    # -- the place -------------------------------------------------------------------------------

    def hazards(self) -> Iterator[Hazard]:
        """Yield what may go wrong here. Writes nothing, and makes no database.

        Raises:
            StoreError: after the last one, if records cannot be written.
        """
        ...

    def close(self) -> None:
        """Close the connections; the next call opens them again."""


def matches(row: Row, query: Query) -> bool:
    """Return whether a listed row belongs to a page, for stores that filter here."""
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
