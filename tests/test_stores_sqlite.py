"""SQLite's own faults: locks, damaged and missing files, forks, checkpoints, two releases."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flask_executor_typed.errors import StoreError
from flask_executor_typed.stores import sqlite
from flask_executor_typed.stores.protocol import Query
from flask_executor_typed.stores.records import COLUMNS
from flask_executor_typed.stores.sqlite import SqliteStore

from .conftest import TIMEOUT
from .helpers.forks import exit_code_of, fork_to
from .helpers.stores import SPACE, owner_of, row_of

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


@contextlib.contextmanager
def plain_connection(path: Path) -> Generator[sqlite3.Connection, None, None]:
    """A connection of somebody else's."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def seen(path: Path) -> set[str]:
    with plain_connection(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {job_id for (job_id,) in connection.execute("SELECT id FROM fet1_jobs")}


# -- the schema ------------------------------------------------------------------------------------


def test_the_tables_have_a_column_for_each_field_of_a_row(store: SqliteStore, path: Path) -> None:
    store.write([row_of("a")])
    with plain_connection(path) as connection:
        columns = {name for _, name, *_ in connection.execute("PRAGMA table_info (fet1_jobs)")}
        assert columns == {*COLUMNS, "seq"}
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    ("query", "order"),
    [
        (Query(), "SCAN fet1_jobs"),
        (Query(status="running"), "SCAN fet1_jobs"),
        (Query(user="ann"), "SEARCH fet1_jobs USING INDEX fet1_jobs_by_user (space=? AND user=?)"),
        (
            Query(user="ann", before="a"),
            "SEARCH fet1_jobs USING INDEX fet1_jobs_by_user (space=? AND user=? AND seq<?)",
        ),
    ],
)
def test_pages_come_in_the_order_of_an_index(
    store: SqliteStore, path: Path, query: Query, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[list[str]] = []

    class Explaining(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql.startswith("SELECT") and "LIMIT" in sql:
                plan = super().execute(f"EXPLAIN QUERY PLAN {sql}", *args)
                plans.append([each[-1] for each in plan])
            return super().execute(sql, *args)

    connect: Any = partial(sqlite3.connect, factory=Explaining)
    monkeypatch.setattr(sqlite3, "connect", connect)
    store.page(SPACE, query)
    ((first, *others),) = plans
    assert first == order
    assert not any("TEMP B-TREE" in each for each in others)


def columns_of_an_older_release() -> dict[str, str]:
    return {name: kind for name, kind in sqlite._JOB_COLUMNS.items() if name != "log_tail"}


def test_two_releases_side_by_side_write_and_read_the_same_file(
    store: SqliteStore, path: Path
) -> None:
    older = columns_of_an_older_release()
    with plain_connection(path) as connection:
        for statement in sqlite._SCHEMA:
            connection.execute(statement.replace(", log_tail TEXT", ""))
        have = {name for _, name, *_ in connection.execute("PRAGMA table_info (fet1_jobs)")}
        assert have == {*older, "seq"}

        def insert(job_id: str) -> None:
            row = row_of(job_id)
            names = ", ".join(older)
            marks = ", ".join("?" for _ in older)
            values = [getattr(row, name) for name in older]
            connection.execute(f"INSERT INTO fet1_jobs ({names}) VALUES ({marks})", values)

        insert("by the older")
        store.write([row_of("by the newer", log_tail="line")])
        insert("by the older, later")
        rows = store.get(["by the older", "by the newer", "by the older, later"])
        assert [row.log_tail for row in rows.values()] == [None, "line", None]
        names = ", ".join(older)
        assert len(connection.execute(f"SELECT {names} FROM fet1_jobs").fetchall()) == 3


def test_columns_of_a_newer_release_are_left_alone(store: SqliteStore, path: Path) -> None:
    store.write([row_of("before", key='"k"')])
    with plain_connection(path) as connection:
        connection.execute(
            "ALTER TABLE fet1_jobs ADD COLUMN added_later TEXT NOT NULL DEFAULT 'nothing'"
        )
        connection.execute("UPDATE fet1_jobs SET added_later = 'kept'")
        store.close()  # and opened again, as by a process that starts now
        assert store.claim(row_of("after", key='"k2"'), "error") is None
        store.write([row_of("before", step=2, status="succeeded", finished=1001.0)])
        assert [row.id for row in store.page(SPACE, Query())] == ["after", "before"]
        assert store.bury("o1", "it ended", 1002.0).lost == ["after"]
        found = connection.execute("SELECT id, status, added_later FROM fet1_jobs ORDER BY seq")
        assert found.fetchall() == [("before", "succeeded", "kept"), ("after", "lost", "nothing")]


# -- faults ----------------------------------------------------------------------------------------


def test_a_locked_file_is_waited_for_a_moment_and_then_an_error(
    store: SqliteStore, path: Path
) -> None:
    store.write([row_of("a")])
    with plain_connection(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            store.write([row_of("b")])
        assert set(store.get(["a", "b"])) == {"a"}  # reading goes on
        connection.execute("ROLLBACK")
    assert store.write([row_of("b")]) == []


def test_a_patient_writer_waits_until_the_lock_is_free(store: SqliteStore, path: Path) -> None:
    store.write([row_of("a")])
    begun = threading.Event()

    def write() -> None:
        begun.set()
        assert store.write([row_of("b")], patient=True) == []

    with plain_connection(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=write)
        thread.start()
        assert begun.wait(TIMEOUT)
        time.sleep(2 * sqlite._HURRIED)  # longer than a hurried one would wait
        connection.execute("COMMIT")
    thread.join(TIMEOUT)
    assert set(store.get(["b"])) == {"b"}


def test_a_request_does_not_wait_long_for_a_thread_in_the_background(
    store: SqliteStore, path: Path
) -> None:
    store.write([row_of("a")])
    failures: list[StoreError] = []

    def write_patiently() -> None:
        try:
            store.write([row_of("b")], patient=True)
        except StoreError as error:
            failures.append(error)

    with plain_connection(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=write_patiently)
        thread.start()
        while not store._writer.lock.locked():
            time.sleep(0.001)
        begun = time.monotonic()
        with pytest.raises(StoreError, match="locked by another thread"):
            store.write([row_of("c")])
        assert time.monotonic() - begun < sqlite._PATIENT  # and so it was not the same wait
        connection.execute("ROLLBACK")
    thread.join(TIMEOUT)
    assert failures == []


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 5000]
)
def test_a_file_that_is_no_database_is_an_error_and_is_left_alone(
    store: SqliteStore, path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError):
        store.write([row_of("a")])
    assert path.read_bytes() == content
    path.unlink()
    assert store.write([row_of("a")]) == []  # it is opened again by itself


def test_a_folder_that_is_gone_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    store = SqliteStore(folder / "jobs.db")
    with pytest.raises(StoreError, match="No such file"):
        store.write([row_of("a")])
    folder.mkdir()
    assert store.write([row_of("a")]) == []
    store.close()


def test_a_file_that_may_not_be_written_is_an_error_until_it_may(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([row_of("a")])
    store.close()
    connect: Any = sqlite3.connect

    def connect_to_read(address: str, **options: Any) -> Any:
        return connect(address.replace("mode=rw", "mode=ro"), **options)

    with monkeypatch.context() as read_only:
        read_only.setattr(sqlite3, "connect", connect_to_read)
        with pytest.raises(StoreError, match="readonly"):
            store.write([row_of("b")])
        assert set(store.get(["a", "b"])) == {"a"}
    assert store.write([row_of("b")]) == []


def test_a_full_disk_is_an_error_until_there_is_room(store: SqliteStore) -> None:
    store.write([row_of("a")])
    with store._writing() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    with store._using(store._writer, 1.0) as connection:
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="full"):
        store.write([row_of("b", result=bytes(100_000))])
    assert set(store.get(["a", "b"])) == {"a"}
    assert store.write([row_of("b", result=bytes(100_000))]) == []  # by a connection that is new


def test_a_file_that_is_replaced_is_opened_again(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_LOOK_AT_FILE", 0.0)
    store.register(owner_of("o1"))
    store.write([row_of("a")])
    assert set(store.get(["a"])) == {"a"}
    new = path.with_name("new.db")
    other = SqliteStore(new)
    other.write([row_of("b")])
    other.close()
    for ending in ("-wal", "-shm"):  # as it must be done, or SQLite replays the old log
        path.with_name(path.name + ending).unlink()
    new.replace(path)
    assert store.beat("o1") == "gone"
    assert set(store.get(["a", "b"])) == {"b"}
    store.write([row_of("c")])
    store.close()
    assert seen(path) == {"b", "c"}


def test_a_file_that_is_removed_is_made_again(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_LOOK_AT_FILE", 0.0)
    store.register(owner_of("o1"))
    store.write([row_of("a")])
    path.unlink()
    assert store.beat("o1") == "gone"
    store.write([row_of("b")])
    assert set(store.get(["a", "b"])) == {"b"}


# -- checkpoints -----------------------------------------------------------------------------------


def test_the_log_of_the_database_does_not_grow_for_ever(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_COMMITS", 20)
    wal = path.with_name("jobs.db-wal")
    sizes: list[int] = []
    for number in range(200):
        store.write([row_of(f"job-{number}", result=bytes(10_000))], patient=True)
        sizes.append(wal.stat().st_size)
    assert max(sizes) < 3 * max(sizes[:20])
    store.close()
    assert len(seen(path)) == 200


# -- processes -------------------------------------------------------------------------------------


def write_many(path: Path, name: str, count: int) -> None:
    store = SqliteStore(path)
    for number in range(count):
        row = row_of(f"{name}-{number}", key=f'"{name}-{number}"')
        while True:
            with contextlib.suppress(StoreError):
                store.claim(row, "error")
                break
        store.write([row_of(f"{name}-{number}", step=2, status="running")], patient=True)
    store.close()


def test_large_results_do_not_make_the_log_large(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_CHECKPOINTS_ARE_SAFE", False)
    log = path.with_name("jobs.db-wal")
    sizes: list[int] = []
    for number in range(60):
        store.write([row_of(f"a{number}", result=b"x" * 2**20)], patient=True)
        sizes.append(log.stat().st_size)
    assert max(sizes) < 12 * 2**20  # 60 MB in all
    assert len(seen(path)) == 60


def test_processes_that_write_flat_out_lose_nothing(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=write_many, args=(path, f"p{n}", 100)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(6 * TIMEOUT)
        assert process.exitcode == 0
    assert len(seen(path)) == 400


def child_of_fork(work: Any) -> int:
    """Run ``work`` in the child of a fork; its exit code."""
    return exit_code_of(fork_to(work))


@needs_fork
def test_parent_and_child_of_a_fork_both_go_on(store: SqliteStore, path: Path) -> None:
    store.write([row_of("before")])
    store.get(["before"])

    def work() -> None:
        for number in range(50):
            store.write([row_of(f"child-{number}")], patient=True)
        store.get(["before"])

    done = threading.Event()

    def write_in_parent() -> None:
        for number in range(50):
            store.write([row_of(f"parent-{number}")], patient=True)
        done.set()

    thread = threading.Thread(target=write_in_parent)
    thread.start()  # so that a thread may have the lock when the process is forked
    assert child_of_fork(work) == 0
    assert done.wait(6 * TIMEOUT)
    thread.join(TIMEOUT)
    store.close()
    assert len(seen(path)) == 101


@needs_fork
def test_stores_made_while_a_process_is_forked_are_closed_before_it_or_made_after(
    path: Path,
) -> None:
    kept = [SqliteStore(path) for _ in range(200)]
    stop = threading.Event()

    def make_stores() -> None:
        while not stop.is_set():
            kept.append(SqliteStore(path))

    thread = threading.Thread(target=make_stores)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(10):  # without the lock: "Set changed size during iteration"
            sqlite._close_before_fork()
            sqlite._go_on_after_fork()
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join(TIMEOUT)
    assert child_of_fork(lambda: SqliteStore(path).get(["none"])) == 0


@needs_fork
def test_what_a_child_writes_stays_when_the_parent_closes_meanwhile(
    store: SqliteStore, path: Path
) -> None:
    store.write([row_of("before")])
    closed_end, told = os.pipe()

    def work() -> None:
        store.write([row_of("child-1")])
        os.read(closed_end, 1)  # the parent has closed
        store.write([row_of("child-2")])

    pid = fork_to(work)
    limit = time.monotonic() + TIMEOUT
    while "child-1" not in store.get(["child-1"]) and time.monotonic() < limit:
        time.sleep(0.001)
    store.close()
    os.write(told, b"x")
    assert exit_code_of(pid) == 0
    for descriptor in (closed_end, told):
        os.close(descriptor)
    assert seen(path) == {"before", "child-1", "child-2"}


FORKED_WITHOUT_HOOKS = """
import ctypes, os, sys
from functools import partial
from pathlib import Path
from flask_executor_typed.errors import StoreError
from flask_executor_typed.stores.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
store.beat("o1")
pid = ctypes.CDLL(None).fork()  # as a server in C forks
if pid == 0:
    try:
        store.beat("o1")
    except StoreError as error:
        os._exit(7 if "forked without Python's fork hooks" in str(error) else 8)
    os._exit(9)
_, status = os.waitpid(pid, 0)
assert store.beat("o1") == "gone"
sys.exit(os.waitstatus_to_exitcode(status))
"""


@needs_fork
def test_a_child_of_a_fork_without_hooks_does_not_touch_the_file(path: Path) -> None:
    command = [sys.executable, "-c", FORKED_WITHOUT_HOOKS, str(path)]
    assert subprocess.run(command, timeout=6 * TIMEOUT, check=False).returncode == 7
