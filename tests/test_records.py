"""Executors with a store: each change of a job is seen by the executor of another app."""

from __future__ import annotations

import enum
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, session

from flask_executor_typed import (
    DuplicateKeyError,
    Executor,
    ExecutorClosedError,
    JobLostError,
    current_job,
    job_failed,
    job_lost,
)
from flask_executor_typed.stores import JobRecord

from .apps import working
from .conftest import TIMEOUT, until
from .helpers.services import RedisServer, redis_server
from .helpers.workers import START

# Each app has an executor of its own, with a client of its own, as in two server processes.


def make_app(folder: Path, **settings: Any) -> Flask:
    app = Flask("shop", instance_path=str(folder))
    app.secret_key = "tests"
    app.config.from_mapping({"EXECUTOR_STORE": "sqlite:///jobs.db", **settings})
    return app


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Executor]:
    app = make_app(tmp_path)  # kept: an executor does not keep its apps
    with Executor(app) as executor:
        yield executor


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Executor]:
    app = make_app(tmp_path)  # kept: an executor does not keep its apps
    with Executor(app) as executor:
        yield executor


class Steps:
    """A job that waits at its first line until it is let go."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def run(self, result: Any = None) -> Any:
        self.began.set()
        assert self.go_on.wait(TIMEOUT)
        return result

    async def run_async(self, result: Any = None) -> Any:
        return self.run(result)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "redis"])
def two_of_one_worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Executor]]:
    """Two executors that share a store; without one, the same executor twice."""
    url = "sqlite:///jobs.db" if request.param == "sqlite" else None
    if request.param == "redis":
        url = request.getfixturevalue("redis").url
    number = 1 if url is None else 2
    apps = [make_app(tmp_path, EXECUTOR_STORE=url, EXECUTOR_MAX_WORKERS=1) for _ in range(number)]
    with ExitStack() as stack:
        executors = [stack.enter_context(Executor(app)) for app in apps]
        yield [executors[0], executors[-1]]


def seen(executor: Executor, job_id: str) -> JobRecord:
    record = executor.jobs.get(job_id)
    assert record is not None
    return record


def test_a_kill_from_elsewhere_asks_a_function_that_cannot_be_killed(
    here: Executor, there: Executor
) -> None:
    began = threading.Event()

    def work() -> None:
        began.set()
        until(lambda: current_job.cancel_requested)

    future = here.submit(work)
    assert began.wait(TIMEOUT)
    remote = there.jobs.future(future.id)
    assert remote is not None
    assert not remote.cancel(kill=True)
    future.result(TIMEOUT)


@pytest.mark.parametrize("kind", ["run", "run_async"])
def test_a_start_and_an_end_are_seen_elsewhere(here: Executor, there: Executor, kind: str) -> None:
    steps = Steps()
    future = here.submit(getattr(steps, kind), (1, 2))
    assert steps.began.wait(TIMEOUT)
    until(lambda: seen(there, future.id).status == "running")
    assert seen(there, future.id).started_at is not None
    assert there.jobs.counts() == {"running": 1}
    steps.go_on.set()
    remote = there.jobs.future(future.id)
    assert remote is not None
    assert remote.result(TIMEOUT) == (1, 2)
    record = seen(there, future.id)
    assert (record.status, record.result, record.done) == ("succeeded", (1, 2), True)


def test_attempts_and_progress_are_seen_elsewhere(here: Executor, there: Executor) -> None:
    steps = Steps()

    def second_time() -> Any:
        current_job.progress(current_job.attempt, 2, "again")
        if current_job.attempt == 1:
            raise ConnectionError
        return steps.run("done")

    future = here.using(retries=1, backoff=0.0).submit(second_time)
    assert steps.began.wait(TIMEOUT)
    until(lambda: seen(there, future.id).attempts == 2)
    until(lambda: (seen(there, future.id).progress or (0, 0))[0] == 2)
    steps.go_on.set()
    assert future.result(TIMEOUT) == "done"


def test_users_and_labels_of_records_narrow_a_list(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    with Executor(app, user=lambda: session.get("user")) as executor:
        with app.test_request_context():
            session["user"] = "ada"
            hers = executor.using(labels={"shop": "7"}).submit(int, "1").id
        given = executor.using(user="bob").submit(int, "2").id
        nobodys = executor.submit(int, "3").id
        assert [each.id for each in executor.jobs.list(user="ada")] == [hers]
        assert [each.id for each in executor.jobs.list(user="bob")] == [given]
        assert [each.id for each in executor.jobs.list(label=("shop", "7"))] == [hers]
        assert [each.id for each in executor.jobs.list(limit=2)] == [nobodys, given]
        assert [each.id for each in executor.jobs.list(before=given)] == [hers]


def test_a_job_without_a_record_is_known_to_its_own_process_alone(
    here: Executor, there: Executor
) -> None:
    future = here.using(record=False).submit(int, "7")
    assert future.result(TIMEOUT) == 7
    assert there.jobs.get(future.id) is None


def test_a_key_is_one_for_all(here: Executor, there: Executor) -> None:
    steps, runs = Steps(), list[int]()

    def count() -> Any:
        runs.append(1)
        return steps.run(len(runs))

    first = here.using(key="report").submit(count)
    with pytest.raises(DuplicateKeyError, match="report"):
        there.using(key="report").submit(count)
    joined = there.using(key="report", on_duplicate="join").submit(count)
    assert joined.id == first.id
    assert "report" in there.futures
    steps.go_on.set()
    assert joined.result(TIMEOUT) == 1
    popped = there.futures.pop("report")
    assert popped is not None
    assert popped.result(TIMEOUT) == 1
    assert "report" not in here.futures
    assert runs == [1]


class Kind(enum.Enum):
    REPORT = 1


def test_a_call_that_joins_under_a_key_of_this_process_leaves_no_record(
    here: Executor, there: Executor
) -> None:
    steps = Steps()
    under_key = here.using(key=Kind.REPORT, on_duplicate="join")  # which no other process can know
    first = under_key.submit(steps.run)
    assert under_key.submit(steps.run) is first
    steps.go_on.set()
    first.result(TIMEOUT)
    until(lambda: there.jobs.counts() == {"succeeded": 1})


def test_what_a_job_reports_does_not_keep_records_from_being_written(
    here: Executor, there: Executor
) -> None:
    def report() -> int:
        odd: Any = current_job
        odd.progress(Decimal("0.5"), Fraction(2), None)
        return 7

    future = here.using(name="odd").submit(report)
    assert future.result(TIMEOUT) == 7
    until(lambda: seen(there, future.id).done)
    record = seen(there, future.id)
    assert (record.name, record.result) == ("odd", 7)


def test_a_plain_function_of_another_process_is_asked_to_end(
    here: Executor, there: Executor
) -> None:
    steps = Steps()

    def until_asked() -> None:
        steps.began.set()
        until(lambda: current_job.cancel_requested)
        assert steps.go_on.wait(TIMEOUT)

    future = here.submit(until_asked)
    assert steps.began.wait(TIMEOUT)
    assert there.jobs.cancel(future.id, timeout=0.01) == "asked"
    steps.go_on.set()
    future.exception(TIMEOUT)
    until(lambda: seen(there, future.id).done)
    assert seen(there, future.id).cancel_requested
    assert there.jobs.cancel(future.id) == "cannot"
    assert there.jobs.cancel("unknown") is None


@pytest.mark.parametrize("by", ["its future", "its process", "the other process"])
def test_a_job_cancelled_before_it_begins_was_asked_to_end(
    two_of_one_worker: list[Executor], by: str
) -> None:
    here, there = two_of_one_worker
    steps = Steps()
    here.submit(steps.run)
    pending = here.submit(int)
    assert not seen(there, pending.id).cancel_requested
    if by == "its future":
        assert pending.cancel()
    else:
        canceller = here if by == "its process" else there
        assert canceller.jobs.cancel(pending.id, timeout=TIMEOUT) == "cancelled"
    until(lambda: seen(there, pending.id).done)
    record = seen(there, pending.id)
    assert (record.status, record.cancel_requested) == ("cancelled", True)
    steps.go_on.set()


def test_a_job_cancelled_with_the_future_that_it_returned_was_asked_to_end(
    two_of_one_worker: list[Executor],
) -> None:
    here, there = two_of_one_worker
    first, second = Steps(), Steps()
    pending: Callable[[], object] = lambda: last  # noqa: E731
    outer = here.submit(lambda: first.run() or pending())
    here.submit(second.run)
    last = here.submit(int)
    first.go_on.set()
    assert second.began.wait(TIMEOUT)  # by the worker that has run the outer job
    assert outer.cancel()
    until(lambda: seen(there, outer.id).done)
    record = seen(there, outer.id)
    assert (record.status, record.cancel_requested) == ("cancelled", True)
    second.go_on.set()


def test_a_job_that_was_refused_leaves_neither_record_nor_key(tmp_path: Path) -> None:
    first, second = make_app(tmp_path), make_app(tmp_path)
    with Executor(first) as executor:
        pass
    with pytest.raises(ExecutorClosedError):
        executor.using(key="report").submit(int)
    with Executor(second) as executor:
        assert "report" not in executor.futures
        assert executor.jobs.list() == []


def test_finished_records_are_purged_and_others_are_not(here: Executor, there: Executor) -> None:
    steps = Steps()
    runs = here.submit(steps.run)
    done = here.submit(int)
    assert done.result(TIMEOUT) == 0
    kept = runs.id
    until(lambda: seen(there, done.id).done)
    assert there.jobs.purge(older_than=3600) == 0
    assert there.jobs.purge() == 1
    assert [each.id for each in there.jobs.list()] == [kept]
    steps.go_on.set()


@pytest.mark.skipif(find_spec("blinker") is None, reason="blinker is not installed")
def test_a_job_whose_worker_process_was_killed_is_lost_and_told_of_once(tmp_path: Path) -> None:
    told: list[tuple[str, JobRecord]] = []
    failed: list[Any] = []

    def hear(app: Flask, future: Any, record: JobRecord) -> None:
        told.append((future.id, record))

    def hear_failure(app: Flask, future: Any) -> None:
        failed.append(future)

    with (
        working.serving(EXECUTOR_STORE=f"sqlite:///{tmp_path}/jobs.db") as executor,
        job_lost.connected_to(hear),
        job_failed.connected_to(hear_failure),
    ):
        process = executor.submit(working.pid).result(START)
        future = executor.submit(working.write_and_wait, tmp_path / "began")
        until((tmp_path / "began").exists, START)
        os.kill(process, signal.SIGKILL)
        with pytest.raises(JobLostError):
            future.result(START)
        assert future.status == "lost"
        until(lambda: told)
        assert [(each, record.status) for each, record in told] == [(future.id, "lost")]
        until(lambda: seen(executor, future.id).status == "lost")
        assert failed == []
