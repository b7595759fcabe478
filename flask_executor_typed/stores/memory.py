"""A store in the memory of one process: the simplest implementation of the protocol.

Tests hold the other stores to its behaviour. Several clients in one process may share it.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from operator import attrgetter

from ..futures import OnDuplicate
from .protocol import Burial, Hazard, Listener, Owner, Pulse, Query, matches
from .records import EXPIRED, LOST, NOT_IN_TIME, Row

__all__ = ("MemoryStore",)

_KEPT_BY_THE_STORE = {"version", "cancel", "key", "submitted"}
_WRITTEN = tuple(each.name for each in fields(Row) if each.name not in _KEPT_BY_THE_STORE)


class MemoryStore:
    """Implements :class:`Store`."""

    url = "memory:"
    listens = False

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a finalizer may call us
        # Everything below is guarded by _lock. Records stay in the order of their insertion.
        self._rows: dict[str, Row] = {}
        self._owners: dict[str, Owner] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._untold: dict[str, None] = {}
        self._pieces: dict[tuple[str, int], bytes] = {}
        self._changes = 0

    # -- processes -------------------------------------------------------------------------------

    def register(self, owner: Owner) -> None:
        with self._lock:
            self._owners.setdefault(owner.id, owner)

    def beat(self, owner_id: str) -> Pulse:
        with self._lock:
            owner = self._owners.get(owner_id)
            if owner is None:
                return "gone"
            if owner.dead:
                return "dead"
            self._owners[owner_id] = replace(owner, beats=owner.beats + 1)
            return "ok"

    def retire(self, owner_id: str) -> bool:
        with self._lock:
            owner = self._owners.get(owner_id)
            if owner is None or owner.dead or any(True for _ in self._open_of(owner_id)):
                return False
            del self._owners[owner_id]
            return True

    def owners(self) -> list[Owner]:
        with self._lock:
            living = [owner for owner in self._owners.values() if not owner.dead]
            of_open = {row.owner for row in self._rows.values() if not row.done and row.owner}
            return living + [
                self._owners.get(each, Owner(id=each, host="", pid=0, born=""))
                for each in sorted(of_open - {owner.id for owner in living})
            ]

    def bury(self, owner_id: str, reason: str, now: float, *, patient: bool = False) -> Burial:
        with self._lock:
            unknown = Owner(id=owner_id, host="", pid=0, born="")
            self._owners[owner_id] = replace(self._owners.get(owner_id, unknown), dead=True)
            return self._bury(list(self._open_of(owner_id)), reason, now)

    def lose(self, job_id: str, owner_id: str, reason: str, now: float) -> Burial:
        with self._lock:
            return self._bury([r for r in self._open_of(owner_id) if r.id == job_id], reason, now)

    def _open_of(self, owner_id: str) -> Iterable[Row]:
        return (row for row in self._rows.values() if row.owner == owner_id and not row.done)

    def _bury(self, rows: Iterable[Row], reason: str, now: float) -> Burial:
        burial = Burial()
        for row in rows:
            self._changed(row)
            if row.retries > 0:
                row.owner, row.server, row.status, row.started = None, "", "pending", None
                row.retries -= 1
                row.attempts += 1
                burial.again.append(replace(row))
            else:
                row.error_type, row.error_message = LOST, reason
                row.status, row.finished = "lost", now
                self._untold[row.id] = None
                burial.lost.append(row.id)
        return burial

    def untold(self, space: str) -> list[str]:
        with self._lock:
            return [each for each in self._untold if self._rows[each].space == space]

    def tell(self, job_id: str) -> bool:
        with self._lock:
            return self._untold.pop(job_id, self) is None

    # -- records that a process writes about its own jobs ----------------------------------------

    def write(self, rows: Sequence[Row], *, patient: bool = False) -> list[str]:
        with self._lock:
            return [row.id for row in rows if not self._write(row)]

    def _write(self, row: Row) -> bool:
        old = self._rows.get(row.id)
        if old is None:
            self._insert(row)
            if row.key is not None and self._with_key(row.space, row.key) is None:
                self._keys[row.space, row.key] = row.id
            return True
        if old.owner != row.owner or old.done or old.step >= row.step:
            return False
        self._update(old, row)
        return True

    def _update(self, old: Row, row: Row) -> None:
        for column in _WRITTEN:
            setattr(old, column, getattr(row, column))
        old.cancel = max(old.cancel, row.cancel)
        self._changed(old)

    def _insert(self, row: Row) -> None:
        self._rows[row.id] = replace(row, version=1)
        self._changes += 1

    def _changed(self, row: Row) -> None:
        row.version += 1
        self._changes += 1

    def _with_key(self, space: str, key: str) -> Row | None:
        return self._rows.get(self._keys.get((space, key), ""))

    def claim(self, row: Row, on_duplicate: OnDuplicate) -> Row | None:
        assert row.key is not None
        with self._lock:
            kept = self._with_key(row.space, row.key)
            if kept is not None and kept.id != row.id:
                if on_duplicate == "error":
                    return _without_result(kept)
                if on_duplicate == "join" and not kept.done and not kept.held:
                    return _without_result(kept)
            self._keys[row.space, row.key] = row.id
            old = self._rows.get(row.id)
            if old is None:
                self._insert(row)
            elif old.key != row.key:
                self._rows[row.id] = replace(old, key=row.key, version=old.version + 1)
                self._changes += 1
        return None

    def release(self, space: str, key: str, job_id: str) -> None:
        with self._lock:
            if self._keys.get((space, key)) == job_id:
                del self._keys[space, key]
                self._changes += 1

    def enqueue(self, row: Row, owner_id: str) -> bool:
        with self._lock:
            old = self._rows.get(row.id)
            if old is None:
                return self._write(row)
            if old.owner != owner_id or old.status != "pending":
                return False
            self._update(old, row)
            return True

    def withdraw(self, job_id: str) -> bool:
        with self._lock:
            row = self._rows.get(job_id)
            if row is None:
                return False
            waits = row.owner is None and row.status == "pending"
            if not waits and (row.listed or not row.done):
                return False
            self._remove(row)
            return True

    def _remove(self, row: Row) -> None:
        if row.key is not None:
            self.release(row.space, row.key, row.id)
        for number in itertools.count():
            if self._pieces.pop((row.id, number), None) is None:
                break
        del self._rows[row.id]
        self._untold.pop(row.id, None)
        self._changes += 1

    def add_piece(self, job_id: str, owner_id: str, number: int, data: bytes) -> bool:
        with self._lock:
            row = self._rows.get(job_id)
            if row is None or row.owner != owner_id or row.done:
                return False
            self._pieces[job_id, number] = data
            return True

    # -- jobs that wait in an engine -------------------------------------------------------------

    def take(self, job_id: str, attempt: int, owner: Owner, now: float) -> Row | None:
        with self._lock:
            row = self._rows.get(job_id)
            if row is None or row.owner is not None or row.status != "pending":
                return None
            if self._expire(row, now) or row.attempts != attempt:
                return None
            row.owner, row.server, row.status, row.started = owner.id, owner.server, "running", now
            self._changed(row)
            return replace(row)

    def _expire(self, row: Row, now: float) -> bool:
        waits = row.owner is None and row.status == "pending"
        if not waits or row.expires is None or row.expires > now:
            return False
        row.error_type, row.error_message = EXPIRED, NOT_IN_TIME
        row.status, row.finished = "failed", now
        self._changed(row)
        return True

    def expire(self, space: str, now: float) -> list[str]:
        with self._lock:
            rows = (row for row in self._rows.values() if row.space == space)
            return [row.id for row in rows if self._expire(row, now)]

    # -- cancelling ------------------------------------------------------------------------------

    def ask_to_cancel(self, job_id: str, now: float, *, kill: bool = False) -> Row | None:
        with self._lock:
            row = self._rows.get(job_id)
            if row is None:
                return None
            if not row.done:
                row.cancel = max(row.cancel, 2 if kill else 1)
                if row.owner is None and row.status == "pending":
                    row.status, row.finished = "cancelled", now
                self._changed(row)
            return _without_result(row)

    def asked_to_cancel(self, owner_id: str) -> list[tuple[str, bool]]:
        with self._lock:
            return [(row.id, row.cancel > 1) for row in self._open_of(owner_id) if row.cancel]

    # -- reading ---------------------------------------------------------------------------------

    def get(self, job_ids: Collection[str], *, results: bool = False) -> dict[str, Row]:
        with self._lock:
            found = [self._rows[job_id] for job_id in job_ids if job_id in self._rows]
            return {row.id: replace(row) if results else _without_result(row) for row in found}

    def find(self, space: str, key: str) -> Row | None:
        with self._lock:
            row = self._with_key(space, key)
            return None if row is None else _without_result(row)

    def pop(self, space: str, key: str) -> Row | None:
        with self._lock:
            row = self._with_key(space, key)
            if row is None:
                return None
            self.release(space, key, row.id)
            return _without_result(row)

    def page(self, space: str, query: Query) -> list[Row]:
        with self._lock:
            rows = [row for row in self._rows.values() if row.space == space and row.listed]
        rows.reverse()
        if query.before is not None:
            ids = [row.id for row in rows]
            rows = rows[ids.index(query.before) + 1 :] if query.before in ids else []
        matching = (_in_a_list(row) for row in rows if matches(row, query))
        return list(itertools.islice(matching, query.limit))

    def counts(self, space: str, user: str | None) -> dict[str, int]:
        with self._lock:
            rows = [row for row in self._rows.values() if row.space == space and row.listed]
        return Counter(row.status for row in rows if user is None or row.user == user)

    def count_keys(self, space: str) -> int:
        with self._lock:
            return sum(self._with_key(*each) is not None for each in self._keys if each[0] == space)

    def piece(self, job_id: str, number: int) -> bytes | None:
        with self._lock:
            return self._pieces.get((job_id, number))

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
        with self._lock:
            rows = [row for row in self._rows.values() if row.space == space and row.listed]
            done = sorted((row for row in rows if row.done), key=attrgetter("finished"))
            above = 0 if keep is None else max(0, len(done) - keep)
            removed = [
                row
                for number, row in enumerate(done)
                if number < above or (row.finished or 0.0) < finished_before
            ][:limit]
            for row in removed:
                self._remove(row)
            if removed or keep_bytes is None:
                return len(removed)
            excess = sum(row.result_size for row in done) - keep_bytes
            dropped = 0
            for row in done:
                if excess <= 0 or dropped == limit:
                    break
                if row.result_size:
                    excess -= row.result_size
                    dropped += 1
                    self._drop_result(row)
            return dropped

    def _drop_result(self, row: Row) -> None:
        for number in itertools.count():
            if self._pieces.pop((row.id, number), None) is None:
                break
        row.result, row.result_size, row.result_state = None, 0, "absent"
        self._changed(row)

    # -- changes ---------------------------------------------------------------------------------

    def mark(self) -> int:
        return self._changes

    def listener(self, space: str, owner_id: str) -> Listener:
        raise NotImplementedError("this store does not listen; poll mark()")

    def hazards(self) -> Iterator[Hazard]:
        yield from ()

    def close(self) -> None:
        """Do nothing: there is no connection to close."""


def _without_result(row: Row) -> Row:
    return replace(row, result=None)


def _in_a_list(row: Row) -> Row:
    return replace(row, result=None, log_tail=None)
