"""What becomes of jobs on Celery when a process ends, or their Redis stops, empties or freezes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from flask_executor_typed import EngineUnreachableError, JobLostError, StoreError

from ..conftest import until
from ..helpers.services import RedisServer, redis_server, skip_without
from .conftest import PATIENCE, PREFORK, ROOT, Program, Server, ServerFactory, celery_worker

skip_without("celery")
pytest.importorskip("celery", reason="Celery is not installed beside the oldest Flask")

from ..apps import queued  # noqa: E402

pytestmark = pytest.mark.slow


class Redis:
    """A Redis that keeps its data when it is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._options = ("--appendonly", "yes", "--dir", str(folder))
        self._running = ExitStack()
        self.server: RedisServer = self._running.enter_context(redis_server(*self._options))

    @contextmanager
    def stopped(self) -> Generator[None]:
        self._running.close()
        yield
        again = redis_server(*self._options, port=self.server.port)
        self.server = self._running.enter_context(again)

    @contextmanager
    def frozen(self) -> Generator[None]:
        self.server.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        client: Any = import_module("redis").Redis(port=self.server.port)
        with client:
            client.flushall()

    def end(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    redis = Redis(tmp_path_factory.mktemp("redis"))
    yield redis
    redis.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, redis: Redis) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("failures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUED_REDIS", redis.server.url)
        patch.setenv("QUEUED_FOLDER", str(folder))
        yield folder


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[Flask]:
    with queued.opened() as app:
        yield app


@pytest.fixture(scope="module", autouse=True)
def celery(app: Flask, folder: Path) -> Iterator[Program]:
    with celery_worker(folder, "failures", "--disable-prefetch", *PREFORK) as started:
        yield started


@pytest.fixture(autouse=True)
def context(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


# -- processes that end ----------------------------------------------------------------------------

SUBMITTER = """
import json, sys
from tests.apps import queued
with queued.create_app().app_context():
    futures = [queued.wait.using(key=f"orphan-{n}").submit(f"orphan-{n}") for n in range(4)]
    print(json.dumps([future.id for future in futures]), flush=True)
    sys.stdin.read()
"""


def test_the_jobs_of_a_killed_submitter_end_and_are_found(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUBMITTER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as submitter:
        assert submitter.stdout is not None
        ids: list[str] = json.loads(submitter.stdout.readline())
        until(lambda: queued.count_of("orphan") == 2, PATIENCE)  # and two wait
        submitter.kill()
    for number in range(4):
        queued.let_end(f"orphan-{number}")
    for number, job_id in enumerate(ids):
        by_id = queued.executor.jobs.future(job_id)
        by_key = queued.executor.futures.get(f"orphan-{number}")
        assert by_id is not None
        assert by_id is by_key
        assert by_id.result(PATIENCE) == f"orphan-{number}"
    assert queued.count_of("orphan") == 4


@pytest.fixture
def server(serve: ServerFactory) -> Server:
    pytest.importorskip("gunicorn")
    return serve("--workers", "2", "--threads", "8", module="tests.apps.served_queue")


def other_than(process: str, server: Server) -> httpx.Client:
    """Return a client with a connection to another process of the server."""
    found: list[httpx.Client] = []

    def connect() -> bool:
        client = httpx.Client(base_url=server.url, timeout=PATIENCE, trust_env=False)
        if client.get("/jobs/").headers["X-Process"] == process:
            client.close()
            return False
        found.append(client)
        return True

    until(connect, PATIENCE)
    return found[0]


def test_each_server_process_answers_for_a_job_even_if_one_is_killed(
    server: Server, folder: Path
) -> None:
    begun = httpx.post(f"{server.url}/count/5", timeout=PATIENCE, trust_env=False)
    assert begun.status_code == 202, server.log
    address, process = begun.headers["Location"], begun.headers["X-Process"]
    with closing(other_than(process, server)) as other:
        until(lambda: other.get(address).json()["progress"] is not None, PATIENCE)
        job = other.get(address).json()
        assert (job["status"], job["progress"]["percent"]) == ("running", 80)
        os.kill(int(process), signal.SIGKILL)
        queued.let_end("count")
        until(lambda: other.get(address).json()["status"] == "succeeded", PATIENCE)
        assert other.get(f"{address}/result").json() == 5


def test_each_server_process_cancels_a_job(server: Server) -> None:
    begun = httpx.post(f"{server.url}/obey/told", timeout=PATIENCE, trust_env=False)
    assert begun.status_code == 202, server.log
    address, process = begun.headers["Location"], begun.headers["X-Process"]
    until(lambda: queued.count_of("told"), PATIENCE)
    with closing(other_than(process, server)) as other:
        assert other.delete(address).status_code in {200, 202}
        until(lambda: other.get(address).json()["status"] == "cancelled", PATIENCE)


def test_a_time_limit_of_celery_loses_the_job(folder: Path) -> None:
    queue = ("-Q", "limited", "--time-limit", "1")
    with celery_worker(folder, "limited", *PREFORK, *queue):
        limited = queued.wait.using(queue="limited").submit("limited")
        with pytest.raises(JobLostError, match="its worker has died: TimeLimitExceeded"):
            limited.result(PATIENCE)
        assert limited.status == "lost"
        assert queued.add.using(queue="limited").submit(1, 2).result(PATIENCE) == 3
    assert queued.count_of("limited") == 1


# -- Redis -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "refused"])
def test_a_frozen_redis_refuses_jobs_and_loses_none(
    redis: Redis, folder: Path, key: str | None
) -> None:
    name = f"frozen-{key}"
    future = queued.start(name)
    with redis.frozen():
        with pytest.raises(EngineUnreachableError) as caught:
            queued.add.using(key=key).submit(1, 2)
        assert not caught.value.may_run
        queued.let_end(name)
    assert future.result(PATIENCE) == name

    def is_withdrawn() -> bool:
        try:
            counts, kept = queued.executor.jobs.counts(), queued.executor.futures.get("refused")
        except StoreError:  # until the client tries it again
            return False
        return counts.get("pending", 0) == 0 and kept is None

    until(is_withdrawn, PATIENCE)  # what was sent to the frozen Redis may have been done
    assert queued.add.submit(3, 4).result(PATIENCE) == 7
    assert queued.count_of(name) == 1


def test_a_redis_that_is_stopped_and_started_loses_no_job(redis: Redis, folder: Path) -> None:
    future = queued.start("stopped")
    with redis.stopped():
        with pytest.raises(EngineUnreachableError) as caught:
            queued.add.submit(1, 2)
        assert not caught.value.may_run
        queued.let_end("stopped")
    assert future.result(PATIENCE) == "stopped"
    assert future.status == "succeeded"

    def is_served() -> bool:
        try:
            return queued.add.submit(3, 4).result(PATIENCE) == 7
        except EngineUnreachableError:  # until the client tries it again
            return False

    until(is_served, PATIENCE)
    assert queued.count_of("stopped") == 1


def test_an_emptied_redis_loses_what_waits(redis: Redis, folder: Path) -> None:
    running = [queued.start(f"emptied-{number}") for number in range(2)]
    waiting = [queued.wait.submit(f"waiting-{number}") for number in range(3)]
    redis.empty()
    for future in waiting:
        with pytest.raises(JobLostError, match="its record is gone"):
            future.result(PATIENCE)
    for number, future in enumerate(running):
        queued.let_end(f"emptied-{number}")
        # Its worker may have written the record anew before this process looked for it.
        error = future.exception(PATIENCE)
        assert error is None or isinstance(error, JobLostError)
    assert queued.add.submit(1, 2).result(PATIENCE) == 3
    assert queued.count_of("waiting") == 0
    assert queued.count_of("emptied") == 2
