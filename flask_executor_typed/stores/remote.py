"""Futures of jobs that other processes run: waited for, awaited and cancelled like any other."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Any, Protocol, TypeVar

from ..errors import JobLostError
from ..futures import FutureProxy, Progress, Status, end_cancelled, fail, succeed
from .encoding import decode_key
from .records import Row, utc

__all__ = ("RemoteFuture", "Source")

R = TypeVar("R")


class Source(Protocol):
    """The records that remote futures read."""

    def read(self, job_id: str) -> Row | None:
        """Return the record, with its result if it is final. Raises ``StoreError``."""
        ...

    def outcome_of(self, row: Row) -> tuple[Any, BaseException | None]:
        """Return what the job returned, and what ``result()`` is to raise instead."""
        ...

    def wait_for(self, future: RemoteFuture[Any]) -> None:
        """Settle the future when its record is final, and show it each progress until then."""

    def cancel_remote(self, job_id: str, *, kill: bool) -> bool:
        """Ask the owner to cancel the job, and return whether it has."""
        ...


class RemoteFuture(FutureProxy[R]):
    """The handle of a job of another process.

    Asking it for its state reads the store, for a fraction of a second at most, unless the job is
    done. Waiting, awaiting and callbacks do not.

    Raises:
        StoreError: by what reads the store, while that cannot be used.
    """

    is_answer: bool = False
    """Whether this process has submitted the job, to an engine, and waits for its end."""
    _end: Row | None = None
    """The final record, which decides even if a slow thread notes an older one after it."""

    def __init__(self, source: Source, row: Row) -> None:
        super().__init__(row.name)
        self._id = row.id
        self.key: Hashable | None = None if row.key is None else decode_key(row.key)
        self._source = source
        self._row = row
        self._submitted = row.submitted
        self._note(row)

    def adopt(self, row: Row | None) -> None:
        """Show what a record says, and settle the future if it is final or gone."""
        if row is None:  # removed after another thread has read the end, perhaps
            row = self._end
        if row is None:
            fail(self, JobLostError(self.name, "its record is gone"))
        elif not row.done:
            if self._end is None:  # else a thread has read this row before another read the end
                self._note(row)
        elif not self._outcomes:
            self._end = row  # first: whoever sees the end may ask for its times and progress
            self._note(row)
            result, error = self._source.outcome_of(row)
            if row.status == "cancelled":
                end_cancelled(self)
            elif error is not None:
                fail(self, error)
            else:
                succeed(self, result)

    @property
    def has_ended(self) -> bool:
        """Whether the end of the job was read. Asks no store."""
        return bool(self._outcomes)

    def give_up(self, error: BaseException) -> None:
        """Fail the future, whose record is not looked at any more."""
        fail(self, error)

    def _note(self, row: Row) -> None:
        self._row = row
        self._starts = [row.started] if row.started else []
        progress = row.progress
        if progress is not None and progress != self._progress:
            self._report(progress)
        end = self._end
        if (
            end is not None and end is not row
        ):  # it was read meanwhile, and its progress is the last
            self._note(end)

    def _look(self) -> None:
        if not self._outcomes:
            self.adopt(self._source.read(self.id))

    def _watch(self, watcher: Callable[[Any], object], *, first: bool = False) -> bool:
        watched = super()._watch(watcher, first=first)
        if watched:
            # After the watcher is there: the first look at the record then finds an end that came
            # before it was waited for.
            self._source.wait_for(self)
        return watched

    # -- what a user asks ------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        self._look()
        if not self._outcomes:
            return "running" if self._started else "pending"
        return "lost" if self._end is None else self._end.status

    @property
    def progress(self) -> Progress | None:
        self._look()
        return self._progress

    @property
    def started_at(self) -> datetime | None:
        self._look()
        row = self._end or self._row
        return None if row.started is None else utc(row.started)

    @property
    def finished_at(self) -> datetime | None:
        self._look()
        return None if self._end is None or self._end.finished is None else utc(self._end.finished)

    def done(self) -> bool:
        self._look()
        return super().done()

    def running(self) -> bool:
        self._look()
        return super().running()

    def cancelled(self) -> bool:
        self._look()
        return super().cancelled()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._look()
        return super().exception(timeout)

    def cancel(self, *, kill: bool = False) -> bool:
        """Ask the process that runs the job to cancel it; ``True`` only if it has confirmed that.

        Waits a second for its answer. Otherwise the job may still be cancelled later.
        """
        if not self._outcomes and self._source.cancel_remote(self.id, kill=kill):
            self._look()
        return super().cancelled()
