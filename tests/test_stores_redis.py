"""Redis's own faults: down, emptied, restarted, frozen, full; and what it forgets by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from flask_executor_typed.errors import ConfigError, StoreError
from flask_executor_typed.stores import open_store
from flask_executor_typed.stores.protocol import Hears, Query, Store
from flask_executor_typed.stores.redis import RedisStore

from .conftest import TIMEOUT
from .helpers.forks import exit_code_of, fork_to
from .helpers.services import RedisServer, redis_server
from .helpers.stores import SPACE, empty_redis, owner_of, row_of


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def store(redis: RedisServer) -> Iterator[RedisStore]:
    empty_redis(redis)
    store = RedisStore(redis.url, redis.url, ttl=100.0)
    yield store
    store.close()


def client_of(server: RedisServer) -> Any:
    return import_module("redis").Redis(port=server.port)


# -- addresses -------------------------------------------------------------------------------------


def test_addresses_of_redis_open_a_store_that_connects_to_nothing(tmp_path: Path) -> None:
    for url, shown, space in (
        ("redis://:s3cret@host:7/1?space=two", "redis://***@host:7/1", "two"),
        ("rediss://host", "rediss://host", None),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock", None),
    ):
        store, found = open_store("EXECUTOR_STORE", url, instance_path=str(tmp_path))
        assert (store.url, found) == (shown, space)
        store.close()


def test_an_address_that_redis_py_cannot_read_is_refused(tmp_path: Path) -> None:
    for url in ("redis://:s3cret@host:port/0", "redis://host/0?db=s3cret"):
        with pytest.raises(ConfigError, match=r"an address that redis\.from_url\(\) accepts") as no:
            open_store("EXECUTOR_STORE", url, instance_path=str(tmp_path))
        assert "s3cret" not in str(no.value)


def test_without_redis_py_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"pip install 'flask-executor-typed\[redis\]'"):
        open_store("EXECUTOR_STORE", "redis://host", instance_path=str(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="sockets of Unix")
def test_a_redis_behind_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with redis_server("--unixsocket", str(path)):
        url = f"unix://{path}?db=1&space=s"
        store, _ = open_store("EXECUTOR_STORE", url, instance_path=str(tmp_path))
        assert store.write([row_of("a")]) == []
        assert set(store.get(["a"])) == {"a"}
        listener = store.listener(SPACE, "o1")
        assert listener.wait(TIMEOUT, Hears.STARTS) is None
        store.write([row_of("a", step=2, status="running")])
        assert listener.wait(TIMEOUT, Hears.STARTS) == {"a": b""}
        listener.close()
        store.close()


# -- faults ----------------------------------------------------------------------------------------


def all_fail(store: Store) -> None:
    for step in (
        lambda: store.write([row_of("z")]),
        lambda: store.claim(row_of("z", key='"z"'), "error"),
        lambda: store.beat("o1"),
        lambda: store.get(["a"]),
        store.owners,
        lambda: store.listener(SPACE, "o1").wait(0.1, Hears.ASKS),
    ):
        with pytest.raises(StoreError):
            step()


def test_a_redis_that_stops_and_is_back_without_its_data() -> None:
    with redis_server() as server:
        store = RedisStore(server.url, "shown", ttl=100.0)
        store.register(owner_of("o1"))
        store.write([row_of("a")])
        listener = store.listener(SPACE, "o1")
        listener.wait(TIMEOUT, Hears.STARTS)
    all_fail(store)
    with pytest.raises(StoreError, match="shown"):
        listener.wait(TIMEOUT, Hears.STARTS)
    listener.close()
    with redis_server(port=server.port):
        assert store.beat("o1") == "gone"
        store.register(owner_of("o1"))
        assert store.write([row_of("a", step=2, status="running")]) == []  # it knows the script
        assert store.get(["a"])["a"].status == "running"
        listener = store.listener(SPACE, "o1")
        assert listener.wait(TIMEOUT, Hears.STARTS) is None
        listener.close()
    store.close()


def test_a_redis_that_is_frozen_holds_up_a_request_for_a_moment(
    store: RedisStore, redis: RedisServer
) -> None:
    store.write([row_of("a")])
    redis.process.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(StoreError):
            store.write([row_of("a", step=2, status="running")])
        assert time.monotonic() - begun < TIMEOUT  # and so it ended by itself
    finally:
        redis.process.send_signal(signal.SIGCONT)
    # What was sent may still be done, after what comes now, and must not undo it.
    limit = time.monotonic() + TIMEOUT
    row = row_of("a", step=3, status="succeeded", finished=1002.0)
    while True:
        try:
            assert store.write([row]) == []
            break
        except StoreError:
            assert time.monotonic() < limit
    store.write([row_of("a", step=2, status="running")])
    assert store.get(["a"])["a"].status == "succeeded"


def test_a_redis_that_forgets_its_scripts_is_told_again(
    store: RedisStore, redis: RedisServer
) -> None:
    store.register(owner_of("o1"))
    client_of(redis).script_flush()
    assert store.beat("o1") == "ok"
    client_of(redis).script_flush()
    assert store.write([row_of(f"job-{number}") for number in range(5)]) == []
    assert store.counts(SPACE, None) == {"pending": 5}


def test_a_full_redis_is_an_error_until_there_is_room() -> None:
    with redis_server("--maxmemory-policy", "noeviction") as server:
        store = RedisStore(server.url, server.url, ttl=100.0)
        for job in ("written", "asked", "taken", "lost"):
            store.claim(row_of(job, key=f'"{job}"', owner="o2" if job == "lost" else None), "error")
        store.write([row_of("done", status="succeeded", finished=1001.0)])
        client_of(server).config_set("maxmemory", "1mb")
        before = snapshot(server)
        for step in (
            lambda: store.register(owner_of("o3")),
            lambda: store.write([row_of("new", key='"new"')]),
            lambda: store.write([row_of("written", owner=None, step=2)]),
            lambda: store.claim(row_of("new", key='"new"'), "error"),
            lambda: store.ask_to_cancel("asked", 1001.0),
            lambda: store.take("taken", 1, owner_of("w1"), 1001.0),
            lambda: store.bury("o2", "why", 1001.0),
            lambda: store.lose("lost", "o2", "why", 1001.0),
        ):
            with pytest.raises(StoreError, match="maxmemory"):
                step()
        assert snapshot(server) == before  # nothing was done by halves
        assert store.purge(SPACE, finished_before=9e9) == 1  # which makes room
        client_of(server).config_set("maxmemory", "100mb")
        assert store.write([row_of("new")]) == []
        store.close()


def snapshot(server: RedisServer) -> dict[bytes, bytes]:
    client = client_of(server)
    return {key: client.dump(key) for key in client.keys()}  # noqa: SIM118  # of Redis


def test_more_threads_than_connections_wait_for_each_other(store: RedisStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(store.write, [[row_of(f"job-{number}")] for number in range(200)]))
    assert store.counts(SPACE, None) == {"pending": 200}
    assert len(store._client.connection_pool._connections) <= 2


# -- what Redis forgets by itself ------------------------------------------------------------------


def test_finished_records_expire_if_no_process_purges_and_others_never(
    store: RedisStore, redis: RedisServer
) -> None:
    client = client_of(redis)
    store.write([row_of("done", status="succeeded", finished=1001.0), row_of("open")])
    store.write(
        [row_of("lost", owner="o2"), row_of("part", listed=0, status="failed", finished=1.0)]
    )
    store.bury("o2", "why", 1001.0)
    lives = {job: client.ttl(f"{{fet1}}:job:{job}") for job in ("done", "open", "lost", "part")}
    assert 100 < lives["done"] <= 200
    assert 100 < lives["lost"] <= 200
    assert 100 < lives["part"] <= 200  # its reader, which withdraws it, may have ended
    assert lives["open"] == -1
    client.delete("{fet1}:job:done")  # as if its time were up
    assert [row.id for row in store.page(SPACE, Query())] == ["lost", "open"]
    assert store.counts(SPACE, None) == {"lost": 1, "pending": 1}
    assert store.purge(SPACE, finished_before=1500.0) == 2
    assert client.zcard(f"{{fet1}}:all:{SPACE}") == 1


def test_nothing_is_left_of_records_that_were_purged(store: RedisStore, redis: RedisServer) -> None:
    store.register(owner_of("o1"))
    store.claim(row_of("a", key='"k"', user="ann", result=b"12", result_size=2), "error")
    store.add_piece("a", "o1", 0, b"piece")
    store.ask_to_cancel("a", 1001.0)
    finished = row_of("a", step=2, status="succeeded", finished=1002.0, user="ann", result_size=2)
    store.write([finished])
    store.purge(SPACE, finished_before=9e9)
    store.retire("o1")
    left = {key.decode() for key in client_of(redis).keys()}  # noqa: SIM118  # of Redis
    assert left == {"{fet1}:seq"}


# -- forks -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_parent_and_child_of_a_fork_have_connections_of_their_own(store: RedisStore) -> None:
    store.write([row_of("before")])

    def write(name: str) -> None:
        for number in range(50):
            store.write([row_of(f"{name}-{number}")])

    child = fork_to(partial(write, "child"))
    write("parent")
    assert exit_code_of(child) == 0
    assert store.counts(SPACE, None) == {"pending": 101}


NOTHING_IS_IMPORTED = """
import sys
from flask import Flask
from flask_executor_typed import Executor

app = Flask("app")
executor = Executor(app)
assert executor.submit(int).result() == 0
sys.exit(len({"redis", "sqlite3"} & set(sys.modules)))
"""


def test_without_a_store_no_database_library_is_imported() -> None:
    command = [sys.executable, "-c", NOTHING_IS_IMPORTED]
    assert subprocess.run(command, timeout=6 * TIMEOUT, check=False).returncode == 0
