"""A store in an SQLite file, for the processes of one machine.

Each process has two connections, one that writes and one that reads, each under a lock. With one
for each thread, servers that start a thread for each request would never close them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Generator, Hashable, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ..errors import StoreError, UnstorableError
from ..futures import OnDuplicate
from ..runtime.forks import around_fork
from .disks import network_disk_of
from .protocol import Burial, Hazard, Listener, Owner, Pulse, Query
from .records import COLUMNS, EXPIRED, LOST, NOT_IN_TIME, Row

__all__ = ("SqliteStore",)

_HURRIED = 0.25  # seconds that a request may wait for another process's transaction
_PATIENT = 5.0  # for background threads: SQLite does not grant locks in order
_TOMBSTONE = 86400.0  # seconds that a dead process is remembered
_LOOK_AT_FILE = 1.0  # seconds between checks that the open file is still the one with its name
_COMMITS = 500  # after so many of ours the WAL is copied into the database
_LOG_BYTES = 4 * 2**20  # or once it is larger; when it begins again it is cut to that
_STEP = 100  # records that one step of a purge removes, at most; others wait for the lock so long
_STEP_BYTES = 16 * 2**20  # of results removed by one step of a purge: freeing pages takes time

# Below this version a checkpoint that overlaps a commit of another connection may corrupt the
# database (https://sqlite.org/wal.html#walresetbug). There, this module makes the checkpoints,
# while its writing connection holds the write lock, so that nothing can commit meanwhile.
_CHECKPOINTS_ARE_SAFE = sqlite3.sqlite_version_info >= (3, 51, 3)


# -- the tables ------------------------------------------------------------------------------------

# 1 is the major version: releases that cannot share tables use others in the same file. A column
# that a release adds needs a default, since older releases continue to insert without it.
_JOB_COLUMNS = {
    "id": "TEXT NOT NULL UNIQUE",
    "space": "TEXT NOT NULL",
    "executor": "TEXT NOT NULL",
    "name": "TEXT NOT NULL",
    "kind": "TEXT NOT NULL DEFAULT 'call'",
    "key": "TEXT",
    "owner": "TEXT",
    "server": "TEXT NOT NULL DEFAULT ''",
    "status": "TEXT NOT NULL DEFAULT 'pending'",
    "step": "INTEGER NOT NULL DEFAULT 0",
    "version": "INTEGER NOT NULL DEFAULT 1",
    "attempts": "INTEGER NOT NULL DEFAULT 1",
    "retries": "INTEGER NOT NULL DEFAULT 0",
    "submitted": "REAL NOT NULL",
    "started": "REAL",
    "finished": "REAL",
    "expires": "REAL",
    "progress_done": "REAL",
    "progress_total": "REAL",
    "progress_message": "TEXT",
    "error_type": "TEXT",
    "error_message": "TEXT",
    "error_traceback": "TEXT",
    "problem": "TEXT",
    "result_state": "TEXT NOT NULL DEFAULT 'absent'",
    "result_type": "TEXT",
    "result_size": "INTEGER NOT NULL DEFAULT 0",
    "user": "TEXT",
    "labels": "TEXT NOT NULL DEFAULT '{}'",
    "held": "INTEGER NOT NULL DEFAULT 0",
    "cancel": "INTEGER NOT NULL DEFAULT 0",
    "listed": "INTEGER NOT NULL DEFAULT 1",
    "token": "BLOB",
    "route": "TEXT",
    "is_async": "INTEGER NOT NULL DEFAULT 0",
    "log_tail": "TEXT",
    "result": "BLOB",
}

# Most of what the first look at future.id takes is writing each page that an insert changes to the
# WAL. So there is no AUTOINCREMENT, whose counter is a page of its own, and jobs without a user are
# not in the index of users.
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS fet1_jobs (seq INTEGER PRIMARY KEY, "
    + ", ".join(f"{name} {kind}" for name, kind in _JOB_COLUMNS.items())
    + ")",
    (
        "CREATE INDEX IF NOT EXISTS fet1_jobs_by_user ON fet1_jobs (space, user, seq)"
        " WHERE user IS NOT NULL"
    ),
    "CREATE INDEX IF NOT EXISTS fet1_jobs_open ON fet1_jobs (owner) WHERE finished IS NULL",
    (
        "CREATE INDEX IF NOT EXISTS fet1_jobs_expiring ON fet1_jobs (space, expires)"
        " WHERE expires IS NOT NULL AND finished IS NULL"
    ),
    (
        "CREATE INDEX IF NOT EXISTS fet1_jobs_done ON fet1_jobs (space, finished, seq, result_size)"
        " WHERE finished IS NOT NULL AND listed = 1"
    ),
    (
        "CREATE TABLE IF NOT EXISTS fet1_owners (id TEXT PRIMARY KEY, host TEXT NOT NULL,"
        " pid INTEGER NOT NULL, born TEXT NOT NULL, server TEXT NOT NULL, beats INTEGER NOT NULL,"
        " dead INTEGER NOT NULL, seen REAL NOT NULL) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE IF NOT EXISTS fet1_keys (space TEXT, key TEXT, job TEXT NOT NULL,"
        " PRIMARY KEY (space, key)) WITHOUT ROWID"
    ),
    "CREATE TABLE IF NOT EXISTS fet1_untold (job TEXT PRIMARY KEY) WITHOUT ROWID",
    (
        "CREATE TABLE IF NOT EXISTS fet1_pieces (job TEXT, number INTEGER, data BLOB NOT NULL,"
        " PRIMARY KEY (job, number))"
    ),
)

_READ = tuple(name for name in COLUMNS if name != "result")
_LISTED = tuple(name for name in _READ if name != "log_tail")
_KEPT_BY_THE_STORE = {"id", "version", "cancel", "key", "submitted"}

_SELECT = f"SELECT {', '.join(_READ)} FROM fet1_jobs"
_SELECT_ALL = f"SELECT {', '.join(COLUMNS)} FROM fet1_jobs"
_INSERT = f"INSERT INTO fet1_jobs ({', '.join(COLUMNS)}) VALUES ({', '.join('?' for _ in COLUMNS)})"
_UPDATE = (
    _INSERT
    + " ON CONFLICT (id) DO UPDATE SET version = version + 1,"
    + " cancel = max(cancel, excluded.cancel), "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in _KEPT_BY_THE_STORE)
)
_UPSERT = f"{_UPDATE} WHERE owner IS excluded.owner AND finished IS NULL AND step < excluded.step"
_ENQUEUE = f"{_UPDATE} WHERE owner = ? AND status = 'pending'"
_FIND = (
    "SELECT " + ", ".join(f"j.{name}" for name in _READ) + " FROM fet1_keys AS k"
    " JOIN fet1_jobs AS j ON j.id = k.job WHERE k.space = ? AND k.key = ?"
)
_DONE = "FROM fet1_jobs WHERE space = ? AND finished IS NOT NULL AND listed = 1"

_values_of = attrgetter(*COLUMNS)

_OF_CONTENT = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
"""The errors raised for a value that cannot be stored, and for nothing else here."""


def _row(names: Sequence[str], values: Sequence[Any]) -> Row:
    return Row(**dict(zip(names, values, strict=True)))


# -- connections -----------------------------------------------------------------------------------


class _Handle:
    """A connection opened on demand, and the lock that guards its use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # Everything below is guarded by the lock.
        self.connection: sqlite3.Connection | None = None
        self.file: tuple[int, int] | None = None  # the file that the connection has open
        self.next_look = 0.0  # when to check that the file still has its name
        self.busy_timeout = 0

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


class SqliteStore:
    """Implements :class:`Store`."""

    listens = False

    def __init__(self, path: Path) -> None:
        self.url: str = f"sqlite:///{path}"
        self._path = path
        self._writer = _Handle()
        self._reader = _Handle()  # if both locks are taken, the writer's comes first
        self._process = os.getpid()
        self._commits = 0  # since the last checkpoint; guarded by the writer's lock
        self._opened = itertools.count()  # numbers of the readers opened so far
        self._reader_number = 0  # guarded by the reader's lock
        with _listing:
            _stores.add(self)

    @contextlib.contextmanager
    def _using(self, handle: _Handle, seconds: float) -> Generator[sqlite3.Connection, None, None]:
        """Lock ``handle`` and yield its connection.

        SQLite's errors become :exc:`StoreError`. After one that may last, such as a damaged file,
        the next use opens the file again.
        """
        if self._process != os.getpid():
            raise self._error(
                "this process was forked without Python's fork hooks, so the connection opened "
                "before cannot be used; with uWSGI, set lazy-apps"
            )
        end = time.monotonic() + seconds
        if not handle.lock.acquire(timeout=seconds):
            raise self._error("database is locked by another thread")
        try:
            yield self._connection_of(handle, end)
        except _OF_CONTENT as error:
            raise UnstorableError(self.url, str(error)) from error
        except (sqlite3.Error, OSError) as error:
            if "locked" not in str(error):
                handle.close()
            raise self._error(str(error)) from error
        finally:
            handle.lock.release()

    def _error(self, reason: str) -> StoreError:
        return StoreError(self.url, reason)

    def _connection_of(self, handle: _Handle, end: float) -> sqlite3.Connection:
        now = time.monotonic()
        milliseconds = round(max(0.0, end - now) * 100) * 10  # rounded, so that it rarely changes
        if handle.connection is not None and now >= handle.next_look:
            handle.next_look = now + _LOOK_AT_FILE
            if handle.file != _identity_of(self._path):  # replaced, or removed
                handle.close()
        if handle.connection is None:
            handle.connection = self._connect(milliseconds)
            handle.file = _identity_of(self._path)
            handle.busy_timeout = milliseconds
            if handle is self._reader:
                self._reader_number = next(self._opened)
        elif handle.busy_timeout != milliseconds:
            handle.connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
            handle.busy_timeout = milliseconds
        return handle.connection

    def _connect(self, milliseconds: int) -> sqlite3.Connection:
        # Created before SQLite opens it, so that other users can read neither it nor the files that
        # SQLite puts beside it. Never open an existing file: closing it drops SQLite's locks on it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            uri=True,
            timeout=milliseconds / 1000,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if not _CHECKPOINTS_ARE_SAFE:
                connection.execute("PRAGMA wal_autocheckpoint = 0")
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            self._make_tables(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _make_tables(connection: sqlite3.Connection) -> None:
        have = {name for _, name, *_ in connection.execute("PRAGMA table_info (fet1_jobs)")}
        if have.issuperset(_JOB_COLUMNS):
            return
        connection.execute("BEGIN IMMEDIATE")  # if two processes come here, one waits
        try:
            for statement in _SCHEMA:
                connection.execute(statement)
            have = {name for _, name, *_ in connection.execute("PRAGMA table_info (fet1_jobs)")}
            for name, kind in _JOB_COLUMNS.items():
                if name not in have:  # an older release created the table
                    connection.execute(f"ALTER TABLE fet1_jobs ADD COLUMN {name} {kind}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _writing(self, *, patient: bool = False) -> Generator[sqlite3.Connection, None, None]:
        """Run the block in one write transaction, patiently or not."""
        with self._using(self._writer, _PATIENT if patient else _HURRIED) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
                self._commits += 1
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return self._using(self._reader, _HURRIED)

    def _checkpoint(self) -> None:
        if _CHECKPOINTS_ARE_SAFE:
            return
        if self._commits < _COMMITS and self._log_size() <= _LOG_BYTES:
            return
        with self._writing(patient=True), self._using(self._reader, _PATIENT) as connection:
            connection.execute("PRAGMA wal_checkpoint (PASSIVE)").fetchone()
        self._commits = 0

    def _log_size(self) -> int:
        try:
            return os.stat(f"{self._path}-wal").st_size
        except OSError:
            return 0

    # -- processes -------------------------------------------------------------------------------

    def register(self, owner: Owner) -> None:
        with self._writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO fet1_owners (id, host, pid, born, server, beats, dead, seen)"
                " VALUES (?, ?, ?, ?, ?, 0, 0, ?)",
                (owner.id, owner.host, owner.pid, owner.born, owner.server, time.time()),
            )

    def beat(self, owner_id: str) -> Pulse:
        with self._using(self._writer, _PATIENT) as connection:
            beaten = connection.execute(
                "UPDATE fet1_owners SET beats = beats + 1, seen = ? WHERE id = ? AND dead = 0",
                (time.time(), owner_id),
            )
            if beaten.rowcount:
                return "ok"
            known = "SELECT 1 FROM fet1_owners WHERE id = ?"
            return "dead" if connection.execute(known, (owner_id,)).fetchone() else "gone"

    def retire(self, owner_id: str) -> bool:
        with self._writing() as connection:
            removed = connection.execute(
                "DELETE FROM fet1_owners WHERE id = ? AND dead = 0 AND NOT EXISTS"
                " (SELECT 1 FROM fet1_jobs WHERE owner = ? AND finished IS NULL)",
                (owner_id, owner_id),
            )
            return bool(removed.rowcount)

    def owners(self) -> list[Owner]:
        with self._reading() as connection:
            found = connection.execute(
                "SELECT id, host, pid, born, server, beats, dead FROM fet1_owners"
            )
            known = {
                each[0]: Owner(
                    id=each[0],
                    host=each[1],
                    pid=each[2],
                    born=each[3],
                    server=each[4],
                    beats=each[5],
                    dead=bool(each[6]),
                )
                for each in found
            }
            of_open = connection.execute(
                "SELECT DISTINCT owner FROM fet1_jobs WHERE owner IS NOT NULL AND finished IS NULL"
            ).fetchall()
        living = [owner for owner in known.values() if not owner.dead]
        others = sorted({each for (each,) in of_open} - {owner.id for owner in living})
        return living + [
            known.get(each, Owner(id=each, host="", pid=0, born="")) for each in others
        ]

    def bury(self, owner_id: str, reason: str, now: float, *, patient: bool = False) -> Burial:
        with self._writing(patient=patient) as connection:
            connection.execute(
                "INSERT OR IGNORE INTO fet1_owners (id, host, pid, born, server, beats, dead, seen)"
                " VALUES (?, '', 0, '', '', 0, 1, ?)",
                (owner_id, now),
            )
            connection.execute(
                "UPDATE fet1_owners SET dead = 1, seen = ? WHERE id = ?", (now, owner_id)
            )
            connection.execute(
                "DELETE FROM fet1_owners WHERE dead = 1 AND seen < ?", (now - _TOMBSTONE,)
            )
            return _bury(connection, "owner = ?", (owner_id,), reason, now)

    def lose(self, job_id: str, owner_id: str, reason: str, now: float) -> Burial:
        with self._writing() as connection:
            return _bury(connection, "id = ? AND owner = ?", (job_id, owner_id), reason, now)

    def untold(self, space: str) -> list[str]:
        with self._reading() as connection:
            return _first_of(
                connection.execute(
                    "SELECT u.job FROM fet1_untold AS u JOIN fet1_jobs AS j ON j.id = u.job"
                    " WHERE j.space = ? ORDER BY j.seq",
                    (space,),
                )
            )

    def tell(self, job_id: str) -> bool:
        with self._writing() as connection:
            told = connection.execute("DELETE FROM fet1_untold WHERE job = ?", (job_id,))
            return bool(told.rowcount)

    # -- records that a process writes about its own jobs ----------------------------------------

    def write(self, rows: Sequence[Row], *, patient: bool = False) -> list[str]:
        if len(rows) == 1 and rows[0].key is None and not patient:
            return self._write_one(rows[0])
        refused: list[str] = []
        with self._writing(patient=patient) as connection:
            for row in rows:
                _take_key(connection, row)
                if not connection.execute(_UPSERT, _values_of(row)).rowcount:
                    refused.append(row.id)
        if patient:
            self._checkpoint()
        return refused

    def _write_one(self, row: Row) -> list[str]:
        # What reading future.id waits for. A single statement is a transaction of its own, and
        # gives the GIL away once, not three times: each time, busy threads may keep it for 5 ms.
        with self._using(self._writer, _HURRIED) as connection:
            is_written = connection.execute(_UPSERT, _values_of(row)).rowcount
            self._commits += 1
        return [] if is_written else [row.id]

    def claim(self, row: Row, on_duplicate: OnDuplicate) -> Row | None:
        with self._writing() as connection:
            found = connection.execute(_FIND, (row.space, row.key)).fetchone()
            if found is not None:
                kept = _row(_READ, found)
                if kept.id == row.id:  # claimed before, but the answer was lost
                    return None
                if on_duplicate == "error":
                    return kept
                if on_duplicate == "join" and not kept.done and not kept.held:
                    return kept
            connection.execute(
                "INSERT INTO fet1_keys (space, key, job) VALUES (?, ?, ?)"
                " ON CONFLICT (space, key) DO UPDATE SET job = excluded.job",
                (row.space, row.key, row.id),
            )
            if not _exists(connection, row.id):
                connection.execute(_INSERT, _values_of(row))
            else:
                connection.execute(
                    "UPDATE fet1_jobs SET key = ?, version = version + 1"
                    " WHERE id = ? AND key IS NOT ?",
                    (row.key, row.id, row.key),
                )
        return None

    def release(self, space: str, key: str, job_id: str) -> None:
        with self._writing() as connection:
            connection.execute(
                "DELETE FROM fet1_keys WHERE space = ? AND key = ? AND job = ?",
                (space, key, job_id),
            )

    def enqueue(self, row: Row, owner_id: str) -> bool:
        with self._writing() as connection:
            _take_key(connection, row)
            changed = connection.execute(_ENQUEUE, (*_values_of(row), owner_id))
            return bool(changed.rowcount)

    def withdraw(self, job_id: str) -> bool:
        with self._writing() as connection:
            is_free = (
                "SELECT 1 FROM fet1_jobs WHERE id = ? AND (owner IS NULL AND status = 'pending'"
                " OR listed = 0 AND finished IS NOT NULL)"
            )
            if connection.execute(is_free, (job_id,)).fetchone() is None:
                return False
            _remove(connection, [job_id])
            return True

    def add_piece(self, job_id: str, owner_id: str, number: int, data: bytes) -> bool:
        with self._writing() as connection:
            added = connection.execute(
                "INSERT OR REPLACE INTO fet1_pieces (job, number, data) SELECT ?, ?, ? WHERE EXISTS"
                " (SELECT 1 FROM fet1_jobs WHERE id = ? AND owner = ? AND finished IS NULL)",
                (job_id, number, data, job_id, owner_id),
            )
            return bool(added.rowcount)

    # -- jobs that wait in an engine -------------------------------------------------------------

    def take(self, job_id: str, attempt: int, owner: Owner, now: float) -> Row | None:
        with self._writing() as connection:
            if _expire(connection, "id = ?", (job_id,), now):
                return None
            taken = connection.execute(
                "UPDATE fet1_jobs SET owner = ?, server = ?, status = 'running', started = ?,"
                " version = version + 1"
                " WHERE id = ? AND owner IS NULL AND status = 'pending' AND attempts = ?",
                (owner.id, owner.server, now, job_id, attempt),
            )
            if not taken.rowcount:
                return None
            found = connection.execute(f"{_SELECT_ALL} WHERE id = ?", (job_id,)).fetchone()
            return _row(COLUMNS, found)

    def expire(self, space: str, now: float) -> list[str]:
        with self._reading() as connection:
            due = "SELECT 1 FROM fet1_jobs WHERE space = ? AND expires <= ? AND finished IS NULL"
            if connection.execute(due, (space, now)).fetchone() is None:
                return []
        with self._writing() as connection:
            return _expire(connection, "space = ?", (space,), now)

    # -- cancelling ------------------------------------------------------------------------------

    def ask_to_cancel(self, job_id: str, now: float, *, kill: bool = False) -> Row | None:
        with self._writing() as connection:
            connection.execute(
                "UPDATE fet1_jobs SET cancel = max(cancel, ?), version = version + 1"
                " WHERE id = ? AND finished IS NULL",
                (2 if kill else 1, job_id),
            )
            connection.execute(
                "UPDATE fet1_jobs SET status = 'cancelled', finished = ?"
                " WHERE id = ? AND owner IS NULL AND status = 'pending'",
                (now, job_id),
            )
            found = connection.execute(f"{_SELECT} WHERE id = ?", (job_id,)).fetchone()
        return None if found is None else _row(_READ, found)

    def asked_to_cancel(self, owner_id: str) -> list[tuple[str, bool]]:
        with self._reading() as connection:
            found = connection.execute(
                "SELECT id, cancel FROM fet1_jobs"
                " WHERE owner = ? AND finished IS NULL AND cancel > 0",
                (owner_id,),
            )
            return [(job_id, cancel > 1) for job_id, cancel in found]

    # -- reading ---------------------------------------------------------------------------------

    def get(self, job_ids: Collection[str], *, results: bool = False) -> dict[str, Row]:
        select, names = (_SELECT_ALL, COLUMNS) if results else (_SELECT, _READ)
        with self._reading() as connection:
            found = (
                connection.execute(f"{select} WHERE id = ?", (job_id,)).fetchone()
                for job_id in job_ids
            )
            rows = [_row(names, each) for each in found if each is not None]
        return {row.id: row for row in rows}

    def find(self, space: str, key: str) -> Row | None:
        with self._reading() as connection:
            found = connection.execute(_FIND, (space, key)).fetchone()
        return None if found is None else _row(_READ, found)

    def pop(self, space: str, key: str) -> Row | None:
        with self._writing() as connection:
            found = connection.execute(_FIND, (space, key)).fetchone()
            connection.execute("DELETE FROM fet1_keys WHERE space = ? AND key = ?", (space, key))
        return None if found is None else _row(_READ, found)

    def page(self, space: str, query: Query) -> list[Row]:
        # The plus keeps SQLite from using an index in another order.
        where, values = ["space = ?" if query.user is not None else "+space = ?"], [space]
        given: tuple[tuple[str, Any], ...] = (
            ("user = ?", query.user),
            ("status = ?", query.status),
            ("name = ?", query.name),
            ("executor = ?", query.executor),
            ("seq < (SELECT seq FROM fet1_jobs WHERE id = ?)", query.before),
        )
        for condition, value in given:
            if value is not None:
                where.append(condition)
                values.append(value)
        if query.label is not None:
            where.append("EXISTS (SELECT 1 FROM json_each (labels) WHERE key = ? AND value = ?)")
            values.extend(query.label)
        select = f"SELECT {', '.join(_LISTED)} FROM fet1_jobs WHERE {' AND '.join(where)}"
        sql = f"{select} AND listed = 1 ORDER BY seq DESC LIMIT ?"
        with self._reading() as connection:
            found = connection.execute(sql, (*values, query.limit)).fetchall()
        return [_row(_LISTED, each) for each in found]

    def counts(self, space: str, user: str | None) -> dict[str, int]:
        whose, values = ("", (space,)) if user is None else (" AND user = ?", (space, user))
        sql = f"SELECT status, count(*) FROM fet1_jobs WHERE space = ? AND listed = 1{whose}"
        with self._reading() as connection:
            return dict(connection.execute(f"{sql} GROUP BY status", values).fetchall())

    def count_keys(self, space: str) -> int:
        with self._reading() as connection:
            counted = connection.execute(
                "SELECT count(*) FROM fet1_keys AS k JOIN fet1_jobs AS j ON j.id = k.job"
                " WHERE k.space = ?",
                (space,),
            )
            count: int = counted.fetchone()[0]
            return count

    def piece(self, job_id: str, number: int) -> bytes | None:
        with self._reading() as connection:
            found = connection.execute(
                "SELECT data FROM fet1_pieces WHERE job = ? AND number = ?", (job_id, number)
            ).fetchone()
        return None if found is None else found[0]

    # -- bounds ----------------------------------------------------------------------------------

    def purge(
        self,
        space: str,
        *,
        finished_before: float,
        keep: int | None = None,
        keep_bytes: int | None = None,
        limit: int = _STEP,
    ) -> int:
        # The records to remove are selected without the write lock: a final record does not change.
        with self._reading() as connection:

            def oldest(count: int, condition: str = "", *values: float) -> list[tuple[str, int]]:
                return connection.execute(
                    f"SELECT id, result_size {_DONE}{condition} ORDER BY finished, seq LIMIT ?",
                    (space, *values, count),
                ).fetchall()

            excess = 0
            removing = oldest(limit, " AND finished < ?", finished_before)
            if not removing:  # only then count, which reads the whole index
                count, size = connection.execute(
                    f"SELECT count(*), coalesce(sum(result_size), 0) {_DONE}", (space,)
                ).fetchone()
                removing = [] if keep is None else oldest(min(limit, max(0, count - keep)))
                excess = 0 if keep_bytes is None else size - keep_bytes
            if removing:
                chosen = _up_to(_STEP_BYTES, removing)
            elif excess > 0:
                chosen = _up_to(min(excess, _STEP_BYTES), oldest(limit, " AND result_size > 0"))
            else:
                return 0
        with self._writing(patient=True) as connection:
            if removing:
                _remove(connection, chosen)
            else:
                _drop_results(connection, chosen)
        return len(chosen)

    # -- changes ---------------------------------------------------------------------------------

    def mark(self) -> Hashable:
        with self._reading() as connection:
            (changes,) = connection.execute("PRAGMA data_version").fetchone()
            return self._reader_number, changes  # each connection has its own count

    def listener(self, space: str, owner_id: str) -> Listener:
        raise NotImplementedError("this store does not listen; poll mark()")

    # -- the place -------------------------------------------------------------------------------

    def hazards(self) -> Iterator[Hazard]:
        if (kind := network_disk_of(self._path)) is not None:
            yield Hazard(
                "store-on-network-disk",
                f"{self._path} is on a network disk ({kind}), where SQLite's locks and shared "
                "memory do not work between machines: the file can be damaged.",
                "Put the file on a disk of this machine, or use a Redis for several machines.",
            )
        if not _CHECKPOINTS_ARE_SAFE:
            yield Hazard(
                "old-sqlite",
                f"This Python has SQLite {sqlite3.sqlite_version}. Before 3.51.3 it can, very "
                "rarely, damage a file that several processes write. Executors avoid that; other "
                "programs that write to the same file do not.",
                "Keep other programs from writing to the file, or use a Python with SQLite 3.51.3.",
                must_mend=False,
            )
        if self._path.exists():
            self.tell("")  # changes nothing, but fails wherever a change would
        elif not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise self._error(f"no file can be created in {self._path.parent}")

    def close(self) -> None:
        for handle in self.handles():
            # Without waiting, since a finalizer may close the store: a connection in use is left.
            if handle.lock.acquire(blocking=False):
                handle.close()
                handle.lock.release()

    # -- forks -----------------------------------------------------------------------------------

    def handles(self) -> tuple[_Handle, _Handle]:
        """Return both handles in the order in which their locks must be taken."""
        return self._writer, self._reader

    def after_fork_in_child(self) -> None:
        if all(handle.connection is None for handle in self.handles()):
            self._process = os.getpid()
        # Otherwise the hook before the fork has not run, so this process must not use the file.
        for handle in self.handles():
            handle.lock = threading.Lock()


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _first_of(found: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [each[0] for each in found]


def _up_to(size: int, found: Iterable[tuple[str, int]]) -> list[str]:
    """Return the first ids, up to the one with which the results reach ``size`` bytes."""
    chosen: list[str] = []
    for job_id, result_size in found:
        chosen.append(job_id)
        size -= result_size
        if size <= 0:
            break
    return chosen


def _take_key(connection: sqlite3.Connection, row: Row) -> None:
    """Give a row that is about to be inserted its key, if that is free."""
    if row.key is None or _exists(connection, row.id):
        return
    connection.execute(
        "DELETE FROM fet1_keys WHERE space = ? AND key = ? AND NOT EXISTS"
        " (SELECT 1 FROM fet1_jobs WHERE id = job)",
        (row.space, row.key),
    )
    connection.execute(
        "INSERT OR IGNORE INTO fet1_keys (space, key, job) VALUES (?, ?, ?)",
        (row.space, row.key, row.id),
    )


def _exists(connection: sqlite3.Connection, job_id: str) -> bool:
    found = connection.execute("SELECT 1 FROM fet1_jobs WHERE id = ?", (job_id,))
    return found.fetchone() is not None


def _bury(
    connection: sqlite3.Connection, whose: str, values: tuple[str, ...], reason: str, now: float
) -> Burial:
    of_open = f"{_SELECT_ALL} WHERE {whose} AND finished IS NULL ORDER BY seq"
    rows = [_row(COLUMNS, each) for each in connection.execute(of_open, values)]
    burial = Burial()
    for row in rows:
        if row.retries > 0:
            connection.execute(
                "UPDATE fet1_jobs SET owner = NULL, server = '', status = 'pending',"
                " started = NULL, retries = retries - 1, attempts = attempts + 1,"
                " version = version + 1 WHERE id = ?",
                (row.id,),
            )
            found = connection.execute(f"{_SELECT_ALL} WHERE id = ?", (row.id,)).fetchone()
            burial.again.append(_row(COLUMNS, found))
        else:
            connection.execute(
                "UPDATE fet1_jobs SET status = 'lost', finished = ?, error_type = ?,"
                " error_message = ?, version = version + 1 WHERE id = ?",
                (now, LOST, reason, row.id),
            )
            connection.execute("INSERT OR IGNORE INTO fet1_untold (job) VALUES (?)", (row.id,))
            burial.lost.append(row.id)
    return burial


def _expire(
    connection: sqlite3.Connection, which: str, values: tuple[str, ...], now: float
) -> list[str]:
    due = f"{which} AND owner IS NULL AND status = 'pending' AND expires <= ? AND finished IS NULL"
    ids = _first_of(connection.execute(f"SELECT id FROM fet1_jobs WHERE {due}", (*values, now)))
    connection.executemany(
        "UPDATE fet1_jobs SET status = 'failed', finished = ?, error_type = ?, error_message = ?,"
        " version = version + 1 WHERE id = ?",
        [(now, EXPIRED, NOT_IN_TIME, job_id) for job_id in ids],
    )
    return ids


def _remove(connection: sqlite3.Connection, job_ids: Iterable[str]) -> None:
    ids = [(job_id,) for job_id in job_ids]
    connection.executemany(
        "DELETE FROM fet1_keys WHERE job = ? AND (space, key) IN"
        " (SELECT space, key FROM fet1_jobs WHERE id = ?)",
        [each * 2 for each in ids],
    )
    for table in ("fet1_pieces", "fet1_untold"):
        connection.executemany(f"DELETE FROM {table} WHERE job = ?", ids)
    connection.executemany("DELETE FROM fet1_jobs WHERE id = ?", ids)


def _drop_results(connection: sqlite3.Connection, job_ids: Iterable[str]) -> None:
    ids = [(job_id,) for job_id in job_ids]
    connection.executemany("DELETE FROM fet1_pieces WHERE job = ?", ids)
    connection.executemany(
        "UPDATE fet1_jobs SET result = NULL, result_size = 0, result_state = 'absent',"
        " version = version + 1 WHERE id = ?",
        ids,
    )


# -- forks -----------------------------------------------------------------------------------------

# No connection may be open across a fork. If one is, the child inherits SQLite's list of the locks
# of this process, so a connection that the child opens locks nothing. When the parent then closes
# its own connection, the WAL is deleted, and what the child commits later is lost.

_listing = threading.RLock()  # reentrant: a signal handler may fork while it is held
"""Held for the whole of a fork: a store is either closed before it, or created after it."""

_stores: WeakSet[SqliteStore] = WeakSet()  # guarded by _listing
_FORK_PATIENCE = 2 * _PATIENT  # longer than any thread holds a lock


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.held: list[_Handle] = []
        """The handles whose locks this thread holds while it forks."""


_this_thread = _ThisThread()


def _close_before_fork() -> None:
    _listing.acquire()
    for store in list(_stores):
        for handle in store.handles():
            if handle.lock.acquire(timeout=_FORK_PATIENCE):
                _this_thread.held.append(handle)
                handle.close()


def _go_on_after_fork() -> None:
    while _this_thread.held:
        _this_thread.held.pop().lock.release()
    _listing.release()


def _go_on_in_child() -> None:
    global _listing  # noqa: PLW0603
    _listing = threading.RLock()
    _this_thread.held.clear()
    for store in list(_stores):
        store.after_fork_in_child()


around_fork(_close_before_fork, _go_on_after_fork, _go_on_in_child)
