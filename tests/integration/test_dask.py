"""Jobs that run in the workers of a real Dask, with records in a real Redis.

What these share with any engine, tests/test_engines.py and test_celery.py hold in detail.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g

from flask_executor_typed import (
    EngineUnreachableError,
    JobFailedError,
    JobLostError,
    JobTimeoutError,
    UnsupportedError,
)

from ..conftest import until
from ..helpers.services import redis_server, skip_without
from .conftest import PATIENCE, ROOT, Program, running

skip_without("dask")
distributed: Any = pytest.importorskip(
    "distributed", reason="Dask is not installed beside the oldest Flask"
)

from ..apps import queued  # noqa: E402

LOCAL = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")


def scheduler(folder: Path, address: str) -> AbstractContextManager[Program]:
    """Run a scheduler until the block ends."""
    command = (sys.executable, "-m", "distributed.cli.dask_scheduler")
    port = ("--port", address.rpartition(":")[2])
    return running("Scheduler at:", folder / "scheduler.log", *command, *port, *LOCAL)


def worker(folder: Path, name: str, **environment: str) -> AbstractContextManager[Program]:
    """Run a worker until the block ends."""
    command = (sys.executable, "-m", "distributed.cli.dask_worker", os.environ["QUEUED_DASK"])
    size = ("--nworkers", "1", "--nthreads", "2")
    log = folder / f"{name}.log"
    return running("Registered to:", log, *command, *size, *LOCAL, **environment)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("dask")
    with redis_server() as redis, pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUED_REDIS", redis.url)
        patch.setenv("QUEUED_FOLDER", str(folder))
        patch.setenv("QUEUED_DASK", free_address())
        patch.setenv("DASK_TEMPORARY_DIRECTORY", str(folder))
        yield folder


@contextmanager
def opened(**config: str) -> Generator[Flask]:
    with queued.opened(**config) as app, app.app_context():
        g.user = "ann"
        yield app


@pytest.fixture(scope="module")
def dask(folder: Path) -> Iterator[Program]:
    """A worker of a scheduler."""
    with scheduler(folder, os.environ["QUEUED_DASK"]) as central:
        with worker(folder, "worker") as started:
            yield started
            assert started.stop() == 0, started.log
        assert central.stop() == 0, central.log


@pytest.fixture
def app(folder: Path) -> Iterator[Flask]:
    for file in folder.glob("runs"):  # what another test has left
        file.unlink()
    with opened() as app:
        yield app


pytestmark = pytest.mark.usefixtures("app")


# -- what works in a worker ------------------------------------------------------------------------


def test_a_job_gives_its_result_and_knows_its_contexts(dask: Program) -> None:
    future = queued.describe.using(key="who", user="ann").submit()
    described = future.result(PATIENCE)
    assert described.pop("process") != os.getpid()
    assert described == {
        "app": "queued",
        "user": "ann",
        "name": "describe",
        "id": future.id,
        "key": "who",
        "attempt": 1,
        "is ours": True,
    }
    record = queued.executor.jobs.get(future.id)
    assert record is not None
    assert (record.status, record.key, record.user) == ("succeeded", "who", "ann")
    assert queued.executor.futures.pop("who") is future


def test_coroutines_share_one_loop_that_lasts(dask: Program) -> None:
    async def view() -> list[tuple[int, int]]:
        return [await queued.add_async.submit(number, number) for number in range(4)]

    given = asyncio.run(view())
    assert [total for total, _ in given] == [0, 2, 4, 6]
    assert len({loop for _, loop in given}) == 1


def test_equal_calls_are_jobs_of_their_own(dask: Program) -> None:
    futures = [queued.add.submit(1, 2) for _ in range(20)]
    assert [future.result(PATIENCE) for future in futures] == [3] * 20
    assert queued.notes() == ["add"] * 20


def test_an_error_is_logged_once_and_raised_as_its_class(dask: Program) -> None:
    future = queued.fail.submit("no such trip")
    with pytest.raises(queued.TripError, match="no such trip") as caught:
        future.result(PATIENCE)
    assert "raise TripError(message)" in str(caught.value.__cause__)
    until(lambda: f"Exception in background job fail [{future.id}]" in dask.log, PATIENCE)
    assert queued.add.submit(1, 2).result(PATIENCE) == 3  # so Dask has noted the end of the other
    assert dask.log.count("TripError: no such trip") == 1
    assert "Compute Failed" not in dask.log


def test_map_progress_retries_and_a_time_limit(dask: Program, folder: Path) -> None:
    counting = queued.count_to.submit(5)
    until(lambda: counting.progress is not None and counting.progress.done == 4, PATIENCE)
    queued.let_end("count")
    assert counting.result(PATIENCE) == 5
    assert list(queued.executor.map(queued.divmod_ten, range(9), chunksize=4)) == [
        divmod(n, 10) for n in range(9)
    ]
    assert queued.fail_twice.using(retries=2).submit().result(PATIENCE) == 3
    limited = queued.wait.using(timeout=0.2).submit("limited")
    with pytest.raises(JobTimeoutError):
        limited.result(PATIENCE)
    queued.let_end("limited")


def test_cancelling(dask: Program, folder: Path) -> None:
    coroutine, function = queued.wait_async.submit("coroutine"), queued.obey.submit("function")
    until(lambda: len(queued.notes()) == 2, PATIENCE)
    until(coroutine.cancel, PATIENCE)
    until(lambda: "coroutine cancelled" in queued.notes(), PATIENCE)
    with pytest.raises(UnsupportedError, match="EXECUTOR_TYPE='dask' cannot kill a running job"):
        function.cancel(kill=True)
    function.cancel()
    until(lambda: function.status == "cancelled", PATIENCE)
    busy = [queued.start(f"busy-{number}") for number in range(2)]
    pending = queued.add.submit(1, 2)
    assert pending.cancel()
    queued.let_end("busy-0", "busy-1")
    assert [future.result(PATIENCE) for future in busy] == ["busy-0", "busy-1"]
    assert queued.add.submit(3, 4).result(PATIENCE) == 7
    assert queued.notes().count("add") == 1


def test_more_jobs_wait_for_others_than_there_are_threads(dask: Program) -> None:
    futures = [queued.wait_for_another.submit() for _ in range(6)]
    assert [future.result(PATIENCE) for future in futures] == [42] * 6


# -- delivery --------------------------------------------------------------------------------------


def test_a_message_that_comes_many_times_runs_its_job_once(
    app: Flask, dask: Program, folder: Path
) -> None:
    future = queued.start("repeated")
    state = queued.executor.state_of(app)
    assert state.client is not None
    row = state.client.store.get([future.id])[future.id]
    publish: Any = import_module("flask_executor_typed.engines").publish
    engine: Any = state._engine
    for attempt in range(5):  # another attempt is another task to Dask
        publish(engine, app.name, replace(row, attempts=attempt))
    queued.let_end("repeated")
    assert future.result(PATIENCE) == "repeated"
    assert queued.add.submit(1, 2).result(PATIENCE) == 3
    assert sum(line.startswith("repeated") for line in queued.notes()) == 1


def test_a_killed_worker_process_loses_its_job_or_runs_it_again(dask: Program) -> None:
    dead = queued.die.submit("dead")
    with pytest.raises(JobLostError, match=r"has ended"):
        dead.result(PATIENCE)
    assert dead.status == "lost"
    # Dask's nanny has started another process.
    assert queued.die_once.using(retries=1).submit("again").result(PATIENCE) == 2
    assert [line for line in queued.notes() if line != "add"] == ["dead 1", "again 1", "again 2"]


SUBMITTER = """
import os, signal, sys
from tests.apps import queued
app = queued.create_app()
with app.app_context():
    for number in range(4):
        print(queued.wait.submit(f"orphan-{number}").id, flush=True)
    queued.add.submit(1, 2).result()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_jobs_outlive_a_submitter_that_is_killed(dask: Program, folder: Path) -> None:
    queued.let_end("orphan-0")
    done = subprocess.run(
        [sys.executable, "-c", SUBMITTER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    futures = [queued.executor.jobs.future(job_id) for job_id in done.stdout.split()]
    queued.let_end(*(f"orphan-{number}" for number in range(4)))
    given = [future.result(PATIENCE) for future in futures if future is not None]
    assert given == [f"orphan-{number}" for number in range(4)]
    assert sum(line.startswith("orphan") for line in queued.notes()) == 4


def test_an_app_that_workers_cannot_load_is_named(
    dask: Program, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(EXECUTOR_APP="tests.apps.nowhere:app"):
        future = queued.add.submit(1, 2)
        expected = (
            f"Dask cannot run the background job add [{future.id}], which stays pending: "
            "ConfigError: EXECUTOR_APP='tests.apps.nowhere:app' (str): expected an app that a "
        )
        until(lambda: expected in caplog.text, PATIENCE)
        assert "an app that a worker process can load" in dask.log
        assert future.status == "pending"
        assert future.cancel()


def test_a_process_that_has_submitted_jobs_exits_and_forks(dask: Program, folder: Path) -> None:
    script = """
import os
from tests.apps import queued
app = queued.create_app()
with app.app_context():
    assert queued.add.submit(1, 2).result() == 3
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
    assert queued.add.submit(3, 4).result() == 7
    queued.wait.submit(f"left-{bool(child)}")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    # Dask may log, at exit, that its connection is closed, or that it can start no thread.
    ours = [line for line in done.stderr.splitlines() if "flask_executor_typed" in line]
    assert (done.returncode, done.stdout, ours) == (0, "", []), done.stderr
    queued.let_end("left-True", "left-False")
    until(lambda: sum(line.startswith("left") for line in queued.notes()) == 2, PATIENCE)


# -- with a scheduler and workers of their own -----------------------------------------------------


def test_without_a_scheduler_a_job_is_refused() -> None:
    threads = {each for each in threading.enumerate() if each.name == "IO loop"}
    with opened(EXECUTOR_DASK_ADDRESS=free_address()):
        for _ in range(3):
            with pytest.raises(EngineUnreachableError, match="='dask' cannot be reached"):
                queued.add.submit(1, 2)
        assert queued.executor.jobs.list(limit=1, status="pending") == []
    assert {each for each in threading.enumerate() if each.name == "IO loop"} <= threads


@pytest.mark.slow
def test_killed_schedulers_and_workers_lose_what_ran_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = free_address()
    monkeypatch.setenv("QUEUED_DASK", address)
    with opened():
        with scheduler(folder, address) as first:
            with worker(folder, "stranger", QUEUED_SECRET_KEY="other") as stranger:
                refused = queued.add.submit(1, 2)
                until(lambda: stranger.says("SignatureError("), PATIENCE)
                assert refused.status == "pending"
                assert refused.cancel()
                assert stranger.stop() == 0, stranger.log
            with worker(folder, "first") as lost:
                doomed = [queued.start(f"doomed-{number}") for number in range(2)]
                waiting = [queued.add.submit(number, number) for number in range(4)]
                lost.kill()
            for future in doomed:
                with pytest.raises(JobLostError, match="has ended"):
                    future.result(PATIENCE)
            with worker(folder, "second") as second:
                assert [future.result(PATIENCE) for future in waiting] == [0, 2, 4, 6]
                survivors = [queued.start(f"survivor-{number}") for number in range(2)]
                waiting = [queued.add.submit(number, number) for number in range(4)]
                first.kill()
                queued.let_end("survivor-0", "survivor-1")
                given = [future.result(PATIENCE) for future in survivors]
                assert given == ["survivor-0", "survivor-1"]
                second.kill()
        with scheduler(folder, address), worker(folder, "third"):
            assert [future.result(PATIENCE) for future in waiting] == [0, 2, 4, 6]
            assert queued.add.submit(20, 22).result(PATIENCE) == 42
    assert queued.notes().count("add") == 9
    names = [line.partition(" ")[0] for line in queued.notes() if line != "add"]
    assert sorted(names) == ["doomed-0", "doomed-1", "survivor-0", "survivor-1"]


def test_a_job_that_fails_is_no_failure_of_its_task(dask: Program) -> None:
    future = queued.fail.submit("no such trip")
    with pytest.raises(JobFailedError):
        future.result(PATIENCE)
    with distributed.Client(os.environ["QUEUED_DASK"], set_as_default=False) as client:
        until(lambda: not client.run_on_scheduler(_has_task, future.id), PATIENCE)


def _has_task(job_id: str, dask_scheduler: Any) -> bool:
    return any(job_id in key for key in dask_scheduler.tasks)
