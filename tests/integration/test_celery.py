"""Jobs that run in the workers of a real Celery, with records and messages in a real Redis."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g

from flask_executor_typed import (
    DeadlockError,
    Executor,
    JobExpiredError,
    JobFailedError,
    JobLostError,
    JobTimeoutError,
    JobVersionError,
    job_lost,
)
from flask_executor_typed.engines import Message

from ..conftest import until
from ..helpers.services import RedisServer, redis_server, skip_without
from .conftest import PATIENCE, PREFORK, THREADS, Program, celery_worker

skip_without("celery")
pytest.importorskip("celery", reason="Celery is not installed beside the oldest Flask")

from ..apps import queued  # noqa: E402


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("celery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUED_REDIS", redis.url)
        patch.setenv("QUEUED_FOLDER", str(folder))
        yield folder


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[Flask]:
    with queued.opened() as app:
        yield app


@pytest.fixture(scope="module", params=[PREFORK, THREADS], ids=["prefork", "threads"])
def celery(request: pytest.FixtureRequest, app: Flask, folder: Path) -> Iterator[Program]:
    with celery_worker(folder, request.param[1], *request.param) as started:
        yield started
        assert started.stop() == 0, started.log


@pytest.fixture
def is_prefork(request: pytest.FixtureRequest) -> bool:
    return "prefork" in request.node.callspec.id


@pytest.fixture
def context(app: Flask, folder: Path) -> Iterator[None]:
    for file in folder.iterdir():  # what another test has left
        if file.suffix != ".log":
            file.unlink()
    with app.app_context():
        g.user = "ann"
        yield


pytestmark = pytest.mark.usefixtures("context")


def count_records(redis: RedisServer) -> int:
    client: Any = import_module("redis").Redis(port=redis.port)
    with client:
        return len(client.keys("{fet1}:job:*"))


# -- with workers of their own: first, since one that others share would take their jobs -----------


def test_a_worker_with_another_secret_key_runs_nothing(app: Flask, folder: Path) -> None:
    with celery_worker(
        folder, "other-key", "--pool", "solo", QUEUED_SECRET_KEY="other"
    ) as stranger:
        future = queued.add.submit(1, 2)
        until(lambda: "every process needs the same EXECUTOR_SIGNING_KEY" in stranger.log, PATIENCE)
        assert future.status == "pending"
        assert future.cancel()


def test_a_job_that_is_cancelled_before_it_begins_never_runs(app: Flask, folder: Path) -> None:
    future = queued.add.using(key="early").submit(1, 2)
    assert future.status == "pending"
    assert future.cancel()
    record = queued.executor.jobs.get(future.id)
    assert record is not None
    assert record.status == "cancelled"
    with celery_worker(folder, "late", "--pool", "solo") as late:
        assert queued.add.submit(3, 4).result(PATIENCE) == 7
        loops = {queued.add_async.submit(n, n).result(PATIENCE)[1] for n in range(5)}
        assert len(loops) == 1  # which lasts
        assert late.stop() == 0, late.log
    assert queued.notes().count("add") == 1


def test_killed_workers_lose_what_they_ran_and_nothing_else(app: Flask, folder: Path) -> None:
    with celery_worker(folder, "first", "--disable-prefetch", *PREFORK) as first:
        neighbour = queued.start("neighbour")
        dead = queued.die.submit("dead")
        again = queued.die_once.using(retries=1).submit("again")
        with pytest.raises(JobLostError, match=r"its worker has died|has ended"):
            dead.result(PATIENCE)
        assert dead.status == "lost"
        assert again.result(PATIENCE) == 2
        queued.let_end("neighbour")
        assert neighbour.result(PATIENCE) == "neighbour"
        doomed = [queued.start(f"doomed-{number}") for number in range(2)]
        until(lambda: queued.count_of("doomed") == 2, PATIENCE)
        waiting = [queued.add.submit(number, number) for number in range(4)]
        first.kill()
    for future in doomed:
        with pytest.raises(JobLostError, match="has ended"):
            future.result(PATIENCE)
    with celery_worker(folder, "second", "--disable-prefetch", *PREFORK):
        assert [future.result(PATIENCE) for future in waiting] == [0, 2, 4, 6]
    begun = [line for line in queued.notes() if line.startswith(("dead", "again"))]
    assert begun == ["dead 1", "again 1", "again 2"]
    assert queued.count_of("doomed") == 2


def test_queue_priority_delay_and_expires(app: Flask, folder: Path) -> None:
    gpu = queued.wait.using(queue="gpu")
    options = ("--pool", "prefork", "--concurrency", "1", "--disable-prefetch", "-Q", "gpu")
    with celery_worker(folder, "gpu", *options):
        elsewhere = queued.add.using(expires=0.5).submit(1, 2)  # a queue that has no worker
        first = gpu.submit("first")
        until(lambda: first.status == "running", PATIENCE)
        delayed = gpu.using(delay=1.5, priority=0).submit("delayed")
        never = gpu.using(delay=3600).submit("never")
        late = gpu.using(expires=0).submit("late")
        waiting = [gpu.using(priority=number).submit(f"{number}") for number in (9, 6, 3, 0)]
        assert never.cancel()
        for name in ("first", "9", "6", "3", "0", "delayed"):
            queued.let_end(name)
        assert [future.result(PATIENCE) for future in waiting] == ["9", "6", "3", "0"]
        assert delayed.result(PATIENCE) == "delayed"
        for future in (late, elsewhere):
            with pytest.raises(JobExpiredError):
                future.result(PATIENCE)
            assert future.status == "failed"
    begun = [line.split()[0] for line in queued.notes()]
    assert [name for name in begun if name != "delayed"] == ["first", "0", "3", "6", "9"]
    assert delayed.started_at is not None
    assert (delayed.started_at - delayed.submitted_at).total_seconds() > 1.4
    assert never.status == "cancelled"


def test_a_delay_beyond_the_visibility_timeout_brings_the_message_again_and_runs_the_job_once(
    app: Flask, folder: Path
) -> None:
    impatient = {
        "visibility_timeout": 1,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
    with celery_worker(folder, "impatient", *PREFORK, QUEUED_TRANSPORT=json.dumps(impatient)) as it:
        queued.let_end("far-off")
        future = queued.wait.using(delay=10).submit("far-off")
        assert future.result(PATIENCE) == "far-off"
        received = it.log.count("received")
        assert received > 1
        until(lambda: it.log.count("succeeded in") >= received, PATIENCE)
    assert future.started_at is not None
    assert (future.started_at - future.submitted_at).total_seconds() >= 10
    assert queued.count_of("far-off") == 1


# -- what works in a worker ------------------------------------------------------------------------


def test_a_job_gives_its_result_to_its_submitter(celery: Program) -> None:
    future = queued.add.submit(20, 22)
    assert future.result(PATIENCE) == 42
    assert future.status == "succeeded"
    record = queued.executor.jobs.get(future.id)
    assert record is not None
    assert (record.status, record.result, record.name) == ("succeeded", 42, "add")
    assert record.server != ""


def test_a_job_is_awaited(celery: Program) -> None:
    async def view() -> tuple[tuple[int, int], tuple[int, int]]:
        return await asyncio.gather(queued.add_async.submit(1, 2), queued.add_async.submit(3, 4))

    assert [total for total, _ in asyncio.run(view())] == [3, 7]


def test_a_job_has_its_app_g_and_current_job(celery: Program, context: None) -> None:
    future = queued.describe.using(key="who", labels={"kind": "test"}, user="ann").submit()
    assert future.result(PATIENCE) == {
        "app": "queued",
        "user": "ann",
        "name": "describe",
        "id": future.id,
        "key": "who",
        "attempt": 1,
        "is ours": True,
        "process": future.result()["process"],
    }
    assert future.result()["process"] != os.getpid()
    record = queued.executor.jobs.get(future.id)
    assert record is not None
    assert (record.key, record.user, record.labels) == ("who", "ann", {"kind": "test"})
    assert queued.executor.futures.pop("who") is future


def test_a_job_is_known_in_every_process(celery: Program, folder: Path) -> None:
    future = queued.wait.using(key="shared").submit("shared")
    assert queued.wait.using(key="shared", on_duplicate="join").submit("shared") is future
    # A store client of its own, so another process as far as records are concerned.
    app = Flask("queued")
    app.config.from_mapping(SECRET_KEY="secret", EXECUTOR_STORE=os.environ["QUEUED_REDIS"])
    with Executor(app) as other, app.app_context():
        found = other.futures.get("shared")
        assert found is not None
        assert found.id == future.id
        queued.let_end("shared")
        assert found.result(PATIENCE) == "shared"
        by_id = other.jobs.future(future.id)
        assert by_id is not None
        assert by_id.result(PATIENCE) == "shared"
    assert queued.count_of("shared") == 1
    queued.executor.futures.pop("shared")


def test_an_error_is_raised_as_its_class_with_the_remote_traceback(celery: Program) -> None:
    future = queued.fail.submit("no such trip")
    with pytest.raises(queued.TripError, match="no such trip") as caught:
        future.result(PATIENCE)
    assert "raise TripError(message)" in str(caught.value.__cause__)
    assert future.status == "failed"
    line = f"Exception in background job fail [{future.id}]"
    until(lambda: "raised expected" in celery.log, PATIENCE)
    assert celery.log.count(line) == 1
    assert celery.log.count("Traceback") == celery.log.count("Exception in background job")


def test_results_of_map_come_in_order_and_leave_no_record(
    celery: Program, redis: RedisServer
) -> None:
    before = queued.executor.jobs.counts()
    assert list(queued.executor.map(queued.divmod_ten, range(20))) == [
        divmod(n, 10) for n in range(20)
    ]
    assert list(queued.executor.map(queued.divmod_ten, range(9), chunksize=4)) == [
        divmod(n, 10) for n in range(9)
    ]
    assert queued.executor.jobs.counts() == before
    until(lambda: count_records(redis) == sum(before.values()), PATIENCE)


def test_callbacks_and_signals_come_in_the_process_that_submits(celery: Program) -> None:
    over: list[object] = []
    future = queued.add.submit(1, 2)
    future.add_done_callback(lambda done: over.append(done.result()))
    until(lambda: over == [3], PATIENCE)


def test_progress_is_seen_while_the_job_runs(celery: Program, folder: Path) -> None:
    future = queued.count_to.submit(5)
    until(lambda: future.progress is not None and future.progress.done == 4, PATIENCE)
    assert future.status == "running"
    assert future.started_at is not None
    queued.let_end("count")
    assert future.result(PATIENCE) == 5


def test_a_running_coroutine_is_cancelled(celery: Program) -> None:
    future = queued.wait_async.submit("cancelled-coroutine")
    until(lambda: any("cancelled-coroutine " in line for line in queued.notes()), PATIENCE)
    until(future.cancel, PATIENCE)
    assert future.cancelled()
    until(lambda: "cancelled-coroutine cancelled" in queued.notes(), PATIENCE)


def test_a_running_function_is_asked_to_end(celery: Program) -> None:
    future = queued.obey.submit("obeying")
    until(lambda: "obeying" in queued.notes(), PATIENCE)
    future.cancel()
    until(lambda: future.status == "cancelled", PATIENCE)


def test_a_running_job_is_killed_in_a_process_of_its_own_and_else_asked(
    celery: Program, folder: Path, is_prefork: bool
) -> None:
    pytest.importorskip("blinker")
    heard: list[object] = []

    def hear(app: Flask, **_: object) -> None:
        heard.append(app)

    with job_lost.connected_to(hear):
        neighbour = queued.start("neighbour")
        future = queued.wait.using(retries=1).submit("doomed")
        until(lambda: queued.count_of("doomed"), PATIENCE)
        assert not future.cancel()  # which it does not look for
        future.cancel(kill=True)
        if is_prefork:
            until(lambda: future.status == "cancelled", PATIENCE)
            process = int(queued.notes()[-1].split()[1])
            until(lambda: not Path(f"/proc/{process}").exists(), PATIENCE)
            assert queued.add.submit(1, 2).result(PATIENCE) == 3  # in another process
        else:
            assert future.status == "running"
            queued.let_end("doomed")
            assert future.result(PATIENCE) == "doomed"
        queued.let_end("neighbour")
        assert neighbour.result(PATIENCE) == "neighbour"
    assert queued.count_of("doomed") == 1
    assert future.status == ("cancelled" if is_prefork else "succeeded")
    assert heard == []


def test_a_job_that_raises_is_tried_again(celery: Program) -> None:
    future = queued.fail_twice.using(retries=2).submit()
    assert future.result(PATIENCE) == 3
    record = queued.executor.jobs.get(future.id)
    assert record is not None
    assert record.attempts == 3


def test_a_time_limit_fails_the_job(celery: Program, folder: Path) -> None:
    future = queued.wait.using(timeout=0.2).submit("limited")
    with pytest.raises(JobTimeoutError):
        future.result(PATIENCE)
    queued.let_end("limited")  # it goes on, and keeps its worker
    until(lambda: f"[{future.id}] raised expected" in celery.log, PATIENCE)


def test_jobs_submit_jobs_and_may_not_wait_for_them(celery: Program) -> None:
    inner = queued.executor.jobs.future(queued.submit_another.submit().result(PATIENCE))
    assert inner is not None
    assert inner.result(PATIENCE) == 42
    with pytest.raises(DeadlockError, match="needs a worker, of which this job keeps one"):
        queued.wait_for_another.submit().result(PATIENCE)


# -- delivery --------------------------------------------------------------------------------------


def message_of(app: Flask, job_id: str) -> Message:
    """Return the message of a job that is not done."""
    client = queued.executor.state_of(app).client
    assert client is not None
    token = client.store.get([job_id])[job_id].token
    assert token is not None
    return Message(app.name, "", "wait", job_id, 1, base64.b64encode(token).decode())


def send(app: Flask, message: Message) -> None:
    app.extensions["celery"].send_task("flask_executor_typed.run", args=tuple(message))


def test_a_message_that_comes_many_times_runs_its_job_once(
    app: Flask, celery: Program, folder: Path
) -> None:
    future = queued.start("repeated")
    message = message_of(app, future.id)
    for _ in range(5):
        send(app, message)
    queued.let_end("repeated")
    assert future.result(PATIENCE) == "repeated"
    for attempt in range(5):
        send(app, message._replace(attempt=attempt))
    until(lambda: celery.log.count("succeeded in") >= 11, PATIENCE)
    assert queued.count_of("repeated") == 1


class Explosive:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_message_that_is_not_genuine_is_not_unpickled(
    app: Flask, celery: Program, folder: Path
) -> None:
    future = queued.start("genuine")
    message = message_of(app, future.id)
    explosive = pickle.dumps(Explosive(folder / "exploded"))
    signature, _, _ = base64.b64decode(message.token).partition(b".")
    for content in (signature + b"." + explosive, explosive):
        send(app, message._replace(token=base64.b64encode(content).decode()))
    send(app, message._replace(id="of another job"))
    send(app, message._replace(token="no Base64"))
    wrong = "the signature of the message of job {} is wrong"
    until(lambda: celery.log.count(wrong.format(message.id)) == 3, PATIENCE)
    until(lambda: celery.log.count(wrong.format("of another job")) == 1, PATIENCE)
    assert not (folder / "exploded").exists()
    queued.let_end("genuine")
    assert future.result(PATIENCE) == "genuine"


def test_a_function_that_the_worker_lacks_fails_its_job(
    celery: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new_in_this_release() -> None: ...

    new_in_this_release.__module__ = queued.__name__
    new_in_this_release.__qualname__ = new_in_this_release.__name__
    monkeypatch.setattr(queued, new_in_this_release.__name__, new_in_this_release, raising=False)
    future = queued.executor.submit(new_in_this_release)
    expected = r".*new_in_this_release.*submitted it is 'new', and the worker's is 'old'"
    with pytest.raises(JobVersionError, match=expected) as caught:
        future.result(PATIENCE)
    assert isinstance(caught.value, JobFailedError)
    until(lambda: f"[{future.id}] cannot run in this worker" in celery.log, PATIENCE)
