"""Jobs that an engine carries, with an engine of the tests: a list, and whoever runs what is in it.

The records are in a real Redis. tests/integration/test_celery.py has the same with Celery.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from flask import Flask, current_app, g

from flask_executor_typed import (
    ConfigError,
    EngineUnreachableError,
    Executor,
    ExecutorClosedError,
    FutureProxy,
    JobAbandonedError,
    JobExpiredError,
    JobFailedError,
    JobLostError,
    JobVersionError,
    Progress,
    SignatureError,
    StoreError,
    UnsupportedError,
    current_job,
    job_lost,
)
from flask_executor_typed.backends import Capabilities
from flask_executor_typed.engines import Message, Route, run_message
from flask_executor_typed.engines.submitter import _Answer
from flask_executor_typed.engines.worker import _find, _Killer, _Runner
from flask_executor_typed.futures import facts_of, future_with_id
from flask_executor_typed.signing import JobSigner
from flask_executor_typed.stores import client as clients
from flask_executor_typed.stores.client import StoreClient
from flask_executor_typed.stores.protocol import Hears, Owner, Query
from flask_executor_typed.stores.records import Row, utc

from .conftest import TIMEOUT, until
from .helpers.services import RedisServer, redis_server
from .helpers.stores import empty_redis


class ListEngine:
    """Keeps messages until the test runs them."""

    name = "ListEngine"
    capabilities = Capabilities(
        contexts=True,
        coroutines=True,
        progress=True,
        cancel_running=True,
        retries=True,
        routing=True,
        delay=True,
    )

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.routes: list[Route] = []
        """Those of all messages that were published."""
        self.error: Exception | None = None

    def publish(self, message: Message, route: Route) -> None:
        if self.error is not None:
            raise self.error
        self.messages.append(message)
        self.routes.append(route)

    def run(self) -> None:
        """Run all messages, in this thread."""
        while self.messages:
            self.run_one()

    def run_one(self) -> None:
        with contextlib.suppress(JobFailedError):
            run_message(*self.messages.pop(0))


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def engine() -> ListEngine:
    return ListEngine()


@pytest.fixture
def app(redis: RedisServer, engine: ListEngine) -> Flask:
    empty_redis(redis)
    app = Flask("engines")
    app.config.from_mapping(SECRET_KEY="secret", EXECUTOR_TYPE=engine, EXECUTOR_STORE=redis.url)
    return app


@pytest.fixture
def executor(app: Flask) -> Iterator[Executor[Any]]:
    executor: Executor[Any] = Executor(app)
    with app.app_context():
        yield executor
    executor.shutdown(timeout=0)


ran: list[object] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()
    looks.clear()


def work(value: object) -> object:
    ran.append(value)
    return value


def read_g() -> tuple[str, str, int]:
    return current_app.name, g.user, current_job.attempt


def fail(text: str) -> None:
    ran.append(current_job.attempt)
    raise ValueError(text)


looks: list[Callable[[str], object]] = []


def fail_and_look() -> None:
    (look,) = looks
    ran.append((current_job.attempt, look(current_job.id)))
    raise ValueError("no")


async def fail_and_look_async() -> None:
    fail_and_look()


def client_of(executor: Executor[Any], app: Flask) -> StoreClient:
    client = executor.state_of(app).client
    assert client is not None
    return client


async def work_async(value: object) -> object:
    return work(value)


def test_a_job_runs_where_its_message_is_run(executor: Executor[Any], engine: ListEngine) -> None:
    future = executor.submit(work, (1, {2}))
    assert future.status == "pending"
    assert ran == []
    (message,) = engine.messages
    assert (message.app, message.executor, message.name) == ("engines", "", "work")
    assert (message.id, message.attempt) == (future.id, 1)
    engine.run()
    assert future.result(TIMEOUT) == (1, {2})
    record = executor.jobs.get(future.id)
    assert record is not None
    assert (record.status, record.result) == ("succeeded", (1, {2}))


@pytest.mark.parametrize("key", [None, "report"])
def test_the_record_of_a_job_is_not_written_beside_its_way_to_the_engine(
    app: Flask,
    executor: Executor[Any],
    engine: ListEngine,
    key: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, written = client_of(executor, app).store, list[Row]()
    write = store.write

    def note(rows: Sequence[Row], *, patient: bool = False) -> list[str]:
        written.extend(rows)
        return write(rows, patient=patient)

    monkeypatch.setattr(store, "write", note)
    future = executor.using(key=key).submit(work, 1)
    engine.run()
    assert future.result(TIMEOUT) == 1
    assert [row.status for row in written if row.status == "pending"] == []


def test_a_coroutine_and_the_contexts_of_its_submitter(
    executor: Executor[Any], engine: ListEngine
) -> None:
    g.user = "ann"
    futures: list[FutureProxy[Any]] = [executor.submit(work_async, 1), executor.submit(read_g)]
    engine.run()
    assert [each.result(TIMEOUT) for each in futures] == [1, ("engines", "ann", 1)]


def test_the_loop_of_a_worker_ends_when_its_app_is_garbage(
    redis: RedisServer, engine: ListEngine
) -> None:
    threads: list[threading.Thread] = []

    def use() -> None:
        app = Flask("gone")
        app.config.from_mapping(SECRET_KEY="secret", EXECUTOR_TYPE=engine, EXECUTOR_STORE=redis.url)
        with app.app_context(), Executor[Any](app) as executor:
            future = executor.submit(work_async, 1)
            engine.run()
            assert future.result(TIMEOUT) == 1
        threads.extend(each for each in threading.enumerate() if "-loop-" in each.name)

    before = [each for each in threading.enumerate() if "-loop-" in each.name]
    use()
    ours = [each for each in threads if each not in before]
    assert ours

    def has_ended() -> bool:
        gc.collect()
        return not any(each.is_alive() for each in ours)

    until(has_ended)


def test_a_message_runs_its_job_once(executor: Executor[Any], engine: ListEngine) -> None:
    future = executor.submit(work, 1)
    engine.messages *= 5
    engine.run()
    assert future.result(TIMEOUT) == 1
    assert ran == [1]


def test_of_threads_that_hear_no_answer_to_their_takes_one_runs_the_job(
    app: Flask, executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(executor, app)
    take = client.store.take
    rivals = 3
    asked = threading.Barrier(rivals)
    heard_nothing = threading.local()

    def take_and_hear_nothing(*args: Any) -> Row | None:
        row = take(*args)
        if not hasattr(heard_nothing, "once"):
            heard_nothing.once = True
            asked.wait(TIMEOUT)
            raise StoreError(client.store.url, "the answer is lost")
        return row

    monkeypatch.setattr(client.store, "take", take_and_hear_nothing)
    for number in range(4):
        future = executor.submit(work, number)  # in the process that runs it, too
        message = engine.messages.pop()
        threads = [threading.Thread(target=run_message, args=message) for _ in range(rivals)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert future.result(TIMEOUT) == number
    assert ran == [0, 1, 2, 3]


def report_and_return() -> int:
    current_job.progress(2, 3)
    return 5


def test_a_job_whose_end_alone_is_seen_has_its_start_and_progress_too(
    executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt = _Answer.adopt

    def adopt_an_end(answer: _Answer, row: Row | None) -> None:
        if row is None or row.done:  # those before it come and go while this process is busy
            adopt(answer, row)

    monkeypatch.setattr(_Answer, "adopt", adopt_an_end)
    future = executor.submit(report_and_return)
    engine.run()
    assert future.result(TIMEOUT) == 5
    record = executor.jobs.get(future.id)
    assert record is not None
    assert record.started_at is not None
    assert (future.started_at, future.progress) == (record.started_at, Progress(2, 3))


def test_a_job_that_was_cancelled_does_not_run(executor: Executor[Any], engine: ListEngine) -> None:
    future = executor.submit(work, 1)
    assert future.cancel()
    engine.run()
    assert future.cancelled()
    assert ran == []
    record = executor.jobs.get(future.id)
    assert record is not None
    assert (record.status, record.cancel_requested) == ("cancelled", True)
    assert future.started_at is None


def test_no_record_is_written_again_that_its_reader_has_removed(
    redis: RedisServer,
    executor: Executor[Any],
    engine: ListEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker_app = Flask("engines")  # which runs the messages, as the newest app of this name
    settings = {"EXECUTOR_TYPE": engine, "EXECUTOR_STORE": redis.url}
    worker_app.config.from_mapping(settings, SECRET_KEY="secret")
    worker: Executor[Any] = Executor(worker_app)
    client = client_of(worker, worker_app)
    write, ids = client.store.write, set[str]()

    def write_late(rows: Sequence[Row], *, patient: bool = False) -> list[str]:
        ids.update(row.id for row in rows)
        if threading.current_thread().name.endswith("-records"):
            time.sleep(0.01)  # meanwhile the worker's thread would write it, and its reader read
        return write(rows, patient=patient)

    monkeypatch.setattr(clients, "_DELAY", 0.0)  # the client's thread writes all the time
    monkeypatch.setattr(client.store, "write", write_late)
    for _ in range(10):
        results = executor.map(work, range(10))
        engine.run()
        assert list(results) == list(range(10))
    worker.shutdown()  # all that it writes is written
    assert len(ids) == 100
    until(lambda: not client.store.get(ids), TIMEOUT)


@pytest.fixture
def listening(app: Flask, executor: Executor[Any], engine: ListEngine) -> StoreClient:
    """A client that has heard of the end of a job, and looks at nothing else for an hour."""
    client = client_of(executor, app)
    client._interval = 3600.0
    future = executor.submit(work, "first")
    engine.run()
    assert future.result(TIMEOUT) == "first"
    until(lambda: client._listener is not None)
    return client


def test_what_was_heard_is_looked_at_again_after_the_store_has_failed(
    executor: Executor[Any],
    engine: ListEngine,
    listening: StoreClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_at = listening._look_at

    def fail_once(heard: Any, *, is_due: bool) -> None:
        monkeypatch.setattr(listening, "_look_at", look_at)
        raise StoreError(listening.store.url, "it does not answer")

    future = executor.submit(work, 1)
    monkeypatch.setattr(listening, "_look_at", fail_once)
    engine.run()
    assert future.result(TIMEOUT) == 1
    assert listening._look_at == look_at


def test_a_listener_is_not_woken_while_the_store_is_down(
    listening: StoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[Hears] = []
    monkeypatch.setattr(listening._listener, "wake", lambda: woken.append(listening._hears))
    monkeypatch.setattr(listening, "_hears", Hears.ASKS)
    with monkeypatch.context() as down:
        down.setattr(listening, "_down_since", time.monotonic())
        listening._hear(Hears.CHANGES)  # nobody waits for a store that does not answer
    listening._hear(Hears.STARTS)
    assert woken == [Hears.STARTS]


def test_a_job_that_ended_while_it_could_not_be_published_is_seen_to_have_ended(
    executor: Executor[Any],
    engine: ListEngine,
    listening: StoreClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages: list[Message] = []
    withdraw = listening.store.withdraw

    def publish(message: Message, route: Route) -> None:  # which arrives, and its answer doesn't
        messages.append(message)
        raise TimeoutError("no answer")

    def run_and_withdraw(job_id: str) -> bool:  # when the end of the job is waited for no more
        run_message(*messages.pop())
        monkeypatch.undo()
        heard = executor.submit(work, "heard")
        engine.run()
        assert heard.result(TIMEOUT) == "heard"  # and so was what came before
        return withdraw(job_id)

    monkeypatch.setattr(engine, "publish", publish)
    monkeypatch.setattr(listening.store, "withdraw", run_and_withdraw)
    assert executor.submit(work, 1).result(TIMEOUT) == 1


def test_a_message_that_cannot_be_understood_ends_no_listener(
    executor: Executor[Any], engine: ListEngine, listening: StoreClient, redis: RedisServer
) -> None:
    future = executor.submit(work, 1)
    garbled = (f"{future.id}\n{{", f'{future.id}\n{{"version": "x"}}')
    messages = (*garbled, "no id", b"", b"\xff\xfe")  # the last one makes it begin again
    client: Any = import_module("redis").Redis(port=redis.port)
    with client:
        for message in messages:
            assert client.publish(f"{{fet1}}:events:{listening.settings.space}", message) == 1
    engine.run()
    assert future.result(TIMEOUT) == 1
    again = executor.submit(work, 2)
    engine.run()
    assert again.result(TIMEOUT) == 2


def take_job(executor: Executor[Any], app: Flask) -> tuple[Row, FutureProxy[Any]]:
    """Submit a job, and take it as a worker does, which then has a future of its own."""
    row = client_of(executor, app).take(executor.submit(work, 1).id, 1)
    assert row is not None
    return row, future_with_id(row.name, row.id, None)


def test_a_job_that_was_taken_is_recorded_as_running_before_it_begins(
    app: Flask, executor: Executor[Any]
) -> None:
    client, (row, taken) = client_of(executor, app), take_job(executor, app)
    client.adopt(taken, row)
    assert client.note_attempt(taken, 0.0)  # which writes the record
    record = executor.jobs.get(row.id)
    assert record is not None
    assert (record.status, record.started_at) == ("running", utc(row.started or 0.0))
    taken.set_result(None)


def test_a_job_that_cannot_run_may_be_cancelled_meanwhile(
    app: Flask, executor: Executor[Any]
) -> None:
    client, (row, taken) = client_of(executor, app), take_job(executor, app)
    assert taken.cancel()  # by a thread that has heard of it
    _find("engines", "").runner()._fail(taken, row, ImportError("no module"))
    client.write_end(taken, TIMEOUT)
    assert taken.status == "cancelled"
    assert executor.jobs.counts()["cancelled"] == 1


def look_for_the_request() -> None:
    until(lambda: current_job.cancel_requested, TIMEOUT)
    current_job.raise_if_cancelled()


def test_a_job_is_cancelled_whose_worker_heard_of_that_while_it_took_the_job(
    app: Flask, executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(executor, app)
    take = client.store.take

    def take_while_it_is_cancelled(job_id: str, *args: Any) -> Row | None:
        row = take(job_id, *args)
        client.store.ask_to_cancel(job_id, time.time())
        until(lambda: job_id in client._asked, TIMEOUT)
        return row

    assert executor.submit(work, "so that this process listens").cancel()
    engine.messages.clear()
    monkeypatch.setattr(client.store, "take", take_while_it_is_cancelled)
    future = executor.submit(look_for_the_request)
    engine.run()
    with pytest.raises(CancelledError):
        future.result(TIMEOUT)


def test_killing_a_running_job_is_refused_if_the_engine_cannot(
    app: Flask, executor: Executor[Any], engine: ListEngine
) -> None:
    future = executor.submit(work, 1)
    assert client_of(executor, app).take(future.id, 1) is not None
    with pytest.raises(UnsupportedError, match="ListEngine cannot kill a running job"):
        future.cancel(kill=True)
    record = executor.jobs.get(future.id)
    assert record is not None
    assert not record.cancel_requested
    assert not facts_of(future).cancel_requested


def test_a_killed_job_has_its_record_before_its_process_ends(
    app: Flask, executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(executor, app)
    ends: list[tuple[str, list[object]]] = []

    def kill(process: int, number: int) -> None:
        ends.append((client.store.get([future.id])[future.id].status, ran.copy()))

    def ask_and_wait(job_id: str) -> None:
        for hard in (False, True):
            client.store.ask_to_cancel(job_id, 1.0, kill=hard)
            until(lambda: current_job.cancel_requested)
        until(lambda: ends)

    monkeypatch.setattr("flask_executor_typed.engines.worker.os.kill", kill)
    looks.append(ask_and_wait)
    future = executor.submit(fail_and_look)
    run_message(*engine.messages.pop(), is_alone=True)
    assert ends == [("cancelled", [])]
    until(future.cancelled)


def test_a_job_that_has_just_returned_does_not_have_its_process_killed(
    app: Flask, executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []

    def kill(process: int, number: int) -> None:
        killed.append(number)

    monkeypatch.setattr("flask_executor_typed.engines.worker.os.kill", kill)
    release = _Killer.release

    def release_and_be_told(killer: _Killer) -> None:  # the order comes when the job is over
        call: Any = None
        release(killer)
        killer.interrupt(call, kill=True)

    monkeypatch.setattr(_Killer, "release", release_and_be_told)
    future = executor.submit(work, 1)
    run_message(*engine.messages.pop(), is_alone=True)
    assert future.result(TIMEOUT) == 1
    assert killed == []


def test_a_job_is_tried_again_as_often_as_it_may(
    executor: Executor[Any], engine: ListEngine
) -> None:
    future = executor.using(retries=2).submit(fail, "no")
    engine.run()
    with pytest.raises(ValueError, match="no"):
        future.result(TIMEOUT)
    assert ran == [1, 2, 3]


def test_the_record_counts_an_attempt_before_that_begins(
    app: Flask, executor: Executor[Any], engine: ListEngine
) -> None:
    client = client_of(executor, app)

    def look(job_id: str) -> int:
        return client.store.get([job_id])[job_id].attempts

    looks.append(look)
    future = executor.using(retries=2).submit(fail_and_look)
    engine.run()
    with pytest.raises(ValueError, match="no"):
        future.result(TIMEOUT)
    # If the process dies in an attempt, that one is counted: see Store.bury().
    assert ran == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("fn", [fail_and_look, fail_and_look_async])
def test_an_attempt_that_cannot_be_counted_does_not_begin(
    app: Flask,
    executor: Executor[Any],
    engine: ListEngine,
    monkeypatch: pytest.MonkeyPatch,
    fn: Callable[[], Any],
) -> None:
    monkeypatch.setattr("flask_executor_typed.engines.worker._PATIENCE", 0.0)
    client = client_of(executor, app)
    is_away = threading.Event()
    write = client.store.write

    def write_unless_away(*args: Any, **options: Any) -> list[str]:
        if is_away.is_set():
            raise StoreError(client.store.url, "it is away")
        return write(*args, **options)

    monkeypatch.setattr(client.store, "write", write_unless_away)
    looks.append(lambda job_id: is_away.set())
    future = executor.using(retries=2).submit(fn)
    engine.run()
    assert ran == [(1, None)]
    is_away.clear()
    with pytest.raises(ValueError, match="no"):
        future.result(TIMEOUT)
    record = executor.jobs.get(future.id)
    assert record is not None
    assert record.attempts == 1


@pytest.mark.parametrize("record", [True, False])
def test_a_dead_worker_loses_its_job_or_has_it_published_again(
    executor: Executor[Any], engine: ListEngine, app: Flask, record: bool
) -> None:
    pytest.importorskip("blinker")
    executor = executor.using(record=record)
    lost, again = executor.submit(work, 1), executor.using(retries=1).submit(work, 2)
    client = executor.state_of(app).client
    assert client is not None
    for message in engine.messages:  # this process takes both, and does nothing with them
        assert client.take(message.id, 1) is not None
    late = engine.messages.copy()
    engine.messages.clear()
    heard: list[object] = []

    def hear(app: Flask, record: Any, **_: object) -> None:
        heard.append(record.id)

    with job_lost.connected_to(hear, app):
        for future in (lost, again):
            client.lose(future.id, 1, "it was killed", has_ended=False)
        with pytest.raises(JobLostError, match="it was killed"):
            lost.result(TIMEOUT)
        until(lambda: heard)
        until(lambda: client.store.untold(client.settings.space) == [])
    assert heard == [lost.id]
    assert lost.status == "lost"
    until(lambda: again.status == "pending")
    # By each that sees it: a message too many does no harm.
    until(lambda: {message.attempt for message in engine.messages} == {2})
    engine.messages[:0] = late  # which come once more
    engine.run()
    assert again.result(TIMEOUT) == 2
    assert ran == [2]


def look_at_record(executor: Executor[Any], job_id: str) -> str:
    record = executor.jobs.get(job_id)
    assert record is not None
    return record.status


def look_at_list(executor: Executor[Any], job_id: str) -> str:
    (record,) = executor.jobs.list()
    return record.status


def look_for_key(executor: Executor[Any], job_id: str) -> str:
    found = executor.futures.get("k")
    assert found is not None
    return "pending"  # to ask the future would be another look


@pytest.mark.parametrize("look", [look_at_record, look_at_list, look_for_key])
def test_a_loss_that_another_executor_has_found_is_published_by_a_process_that_looks(
    executor: Executor[Any],
    engine: ListEngine,
    app: Flask,
    look: Callable[[Executor[Any], str], str],
) -> None:
    future, client = executor.using(retries=1, key="k").submit(work, 1), client_of(executor, app)
    job_id, late = future.id, engine.messages.pop()
    executor.shutdown(timeout=0)  # as if the process that has submitted it had ended
    worker = Owner(id="worker", host="elsewhere", pid=1, born="")
    assert client.store.take(job_id, late.attempt, worker, 1.0) is not None
    client.store.bury(worker.id, "it was killed", 2.0)
    assert engine.messages == []
    with Executor[Any](app) as another:
        for _ in range(3):
            assert look(another, job_id) == "pending"
        until(lambda: engine.messages)
        assert [message.attempt for message in engine.messages] == [2]
        engine.run()
        record = another.jobs.get(job_id)
    assert record is not None
    assert (record.status, ran) == ("succeeded", [1])


def test_a_death_that_is_heard_of_late_ends_no_later_attempt(
    executor: Executor[Any], engine: ListEngine, app: Flask
) -> None:
    future, client = executor.using(retries=2).submit(work, 1), client_of(executor, app)
    client.take(future.id, 1)
    client.lose(future.id, 1, "it was killed", has_ended=False)
    taken = client.take(future.id, 2)  # this process is the healthy one, which has the job now
    assert taken is not None
    for has_ended in (True, False):
        client.lose(future.id, 1, "it was killed", has_ended=has_ended)
    client.lose(future.id, 2, "it was killed", has_ended=True)  # which had the same message
    assert client.store.get([future.id])[future.id] == taken
    client.lose(future.id, 2, "it was killed", has_ended=False)
    assert client.store.get([future.id])[future.id].attempts == 3


def test_a_death_in_a_further_attempt_is_the_loss_of_the_job(
    executor: Executor[Any], app: Flask
) -> None:
    future, client = executor.submit(work, 1), client_of(executor, app)
    script = (
        "import sys; from flask_executor_typed.stores.owners import this_process;"
        "print(this_process(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        worker: Owner = eval(process.stdout.readline(), {"Owner": Owner})
        client.store.register(worker)
        taken = client.store.take(future.id, 1, worker, 1.0)
        assert taken is not None
        assert client.store.write([replace(taken, attempts=2, step=taken.step + 1)]) == []
        client.lose(future.id, 1, "it was killed", has_ended=True)
        assert future.status == "running"
        process.communicate(timeout=TIMEOUT)
    client.lose(future.id, 1, "it was killed", has_ended=True)
    with pytest.raises(JobLostError, match="it was killed"):
        future.result(TIMEOUT)


def test_a_worker_does_not_wait_for_a_record_that_another_has_now(
    executor: Executor[Any],
    engine: ListEngine,
    app: Flask,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("flask_executor_typed.engines.worker._PATIENCE", 0.0)
    client = client_of(executor, app)
    looks.append(lambda job_id: client.lose(job_id, 1, "taken for dead", has_ended=False))
    future = executor.using(retries=1).submit(fail_and_look)
    engine.run_one()
    until(lambda: "another process took this one for dead" in caplog.text)
    assert ran == [(1, None)]  # the retry is that process's
    assert future.cancel()
    over = threading.Thread(target=executor.shutdown)
    over.start()
    over.join(TIMEOUT)
    assert not over.is_alive()


def test_nothing_is_left_of_a_job_that_cannot_be_published(
    executor: Executor[Any], engine: ListEngine
) -> None:
    engine.error = ConnectionRefusedError("no broker")
    with pytest.raises(EngineUnreachableError) as caught:
        executor.using(key="k").submit(work, 1)
    assert str(caught.value) == (
        "work was not submitted: ListEngine cannot be reached: ConnectionRefusedError: no broker"
    )
    assert executor.futures.get("k") is None
    assert executor.jobs.list() == []
    engine.error = None
    future = executor.using(key="k").submit(work, 2)
    engine.run()
    assert future.result(TIMEOUT) == 2


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_job_may_run_that_can_be_neither_published_nor_withdrawn(
    executor: Executor[Any],
    engine: ListEngine,
    app: Flask,
    monkeypatch: pytest.MonkeyPatch,
    is_taken: bool,
) -> None:
    client = client_of(executor, app)

    def be_away(*_: object, **__: object) -> None:
        raise StoreError(client.store.url, "it is away")

    def publish(message: Message, route: Route) -> None:  # which arrives, and its answer doesn't
        if is_taken:
            assert client.take(message.id, 1) is not None
        for name in ("withdraw", "get"):
            away.setattr(client.store, name, be_away)
        raise TimeoutError("no answer")

    monkeypatch.setattr(engine, "publish", publish)
    with monkeypatch.context() as away, pytest.raises(EngineUnreachableError) as caught:
        executor.using(key="k").submit(work, 1)
    assert caught.value.may_run
    assert str(caught.value) == (
        "work may run or not: neither ListEngine nor the store of job records could be reached: "
        "TimeoutError: no answer"
    )
    assert executor.stats().pending == 0
    expected = ["running"] if is_taken else []  # withdrawn as soon as the store can be used

    def has_settled() -> bool:
        rows = client.store.page(client.settings.space, Query())
        return [row.status for row in rows] == expected

    until(has_settled)


def test_a_job_whose_message_is_signed_otherwise_is_not_run(
    executor: Executor[Any], engine: ListEngine
) -> None:
    executor.submit(work, 1)
    message = engine.messages.pop()
    for token in ("", "?", message.token[:-8], message.token.swapcase()):
        with pytest.raises(SignatureError):
            run_message(*message._replace(token=token))
    with pytest.raises(SignatureError):
        run_message(*message._replace(id="another"))
    assert ran == []


def test_a_message_of_another_release_fails_its_job(
    executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_executor_typed.engines.envelope._VERSION", 2)
    future = executor.submit(work, 1)
    monkeypatch.undo()
    engine.run()
    with pytest.raises(TypeError, match="it has version 2, and this worker reads version 1"):
        future.result(TIMEOUT)


def test_a_worker_that_lacks_the_function_says_which_release_it_is(
    app: Flask, engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config["EXECUTOR_RELEASE"] = "1.1"
    with Executor[Any](app) as executor, app.app_context():
        future = executor.using(retries=2).submit(work, 1)
        with monkeypatch.context() as older:
            older.delattr(f"{__name__}.work")
            engine.run()
        with pytest.raises(JobVersionError, match=r"'work'.*is '1\.1', and the worker's is '1\.1'"):
            future.result(TIMEOUT)
        assert future.status == "failed"
    assert ran == []


class Moody:
    """Can be pickled; raises an error of its own when it is unpickled."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getstate__(self) -> Exception:
        return self.error

    def __setstate__(self, error: Exception) -> None:
        raise error


@pytest.mark.parametrize("error", [AttributeError("no mood"), ImportError("no mood")])
def test_an_error_of_an_argument_that_is_unpickled_is_not_that_of_another_release(
    executor: Executor[Any], engine: ListEngine, error: Exception
) -> None:
    future = executor.submit(work, Moody(error))
    engine.run()
    expected = rf"an argument cannot be sent.*in the worker: {type(error).__name__}: no mood"
    with pytest.raises(TypeError, match=expected) as caught:
        future.result(TIMEOUT)
    assert not isinstance(caught.value, JobVersionError)
    assert ran == []


def test_a_job_may_be_getattr_whose_error_is_not_that_of_another_release(
    executor: Executor[Any], engine: ListEngine
) -> None:
    found, missing = executor.submit(getattr, 1, "real"), executor.submit(getattr, 1, "mood")
    executor.submit(work, getattr)
    engine.run()
    assert (found.result(TIMEOUT), ran) == (1, [getattr])
    with pytest.raises(AttributeError, match="mood"):
        missing.result(TIMEOUT)
    assert not isinstance(missing.exception(0), JobVersionError)


class Kit:
    """Has a method that a worker may lack."""

    def work(self) -> None:
        work(self)


def work_of_a_job() -> None:
    """Is replaced by its job in the next test."""


@pytest.mark.parametrize("what", ["function", "class", "method", "job"])
def test_whatever_a_worker_lacks_it_is_of_another_release(
    executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "work_of_a_job", executor.job(work_of_a_job))
    calls: dict[str, tuple[object, str, Callable[[], FutureProxy[Any]]]] = {
        "function": (here, "work", lambda: executor.submit(work, 1)),
        "class": (here, "Kit", lambda: executor.submit(work, Kit())),
        "method": (Kit, "work", lambda: executor.submit(Kit().work)),
        "job": (here, "work_of_a_job", lambda: cast("Any", work_of_a_job).submit()),
    }
    owner, name, submit = calls[what]
    future = submit()
    with monkeypatch.context() as older:
        older.delattr(owner, name)
        engine.run()
    with pytest.raises(JobVersionError, match=f"'{name}'.* restart the workers first"):
        future.result(TIMEOUT)
    assert ran == []


def run_across(
    app: Flask,
    engine: ListEngine,
    servers: tuple[str, ...],
    workers: tuple[str, ...],
    setting: str = "SECRET_KEY",
) -> object:
    """Run a job of a server in a worker. The first key of each signs; the others are fallbacks."""
    with contextlib.ExitStack() as stack:
        apps: list[Flask] = []
        for key, *others in (servers, workers):  # the newest app of that name runs messages
            apps.append(Flask(app.name))
            apps[-1].config.from_mapping(
                app.config, **{setting: key, f"{setting}_FALLBACKS": others}
            )
            stack.enter_context(Executor[Any](apps[-1]))
        stack.enter_context(apps[0].app_context())
        executor: Executor[Any] = apps[0].extensions["executor"]
        future = executor.submit(work, 1j)  # which is pickled, and so signed
        engine.run()
        return future.result(TIMEOUT)


ROTATION = (("old",), ("old", "new"), ("new", "old"), ("new",))


@pytest.mark.parametrize(
    ("servers", "workers"),
    [*itertools.pairwise(ROTATION), *itertools.pairwise(reversed(ROTATION))],
    ids="+".join,
)
@pytest.mark.parametrize("setting", ["SECRET_KEY", "EXECUTOR_SIGNING_KEY"])
def test_jobs_go_on_at_each_step_of_a_rotation_of_keys(
    app: Flask,
    engine: ListEngine,
    setting: str,
    servers: tuple[str, ...],
    workers: tuple[str, ...],
) -> None:
    assert run_across(app, engine, servers, workers, setting) == 1j


def test_a_server_without_the_workers_key_does_not_unpickle_its_result(
    app: Flask, engine: ListEngine
) -> None:
    with pytest.raises(SignatureError, match="signature of the result"):
        run_across(app, engine, ("old",), ("new", "old"))
    assert ran == [1j]


def test_what_the_engine_cannot_do_is_refused(executor: Executor[Any], engine: ListEngine) -> None:
    with pytest.raises(UnsupportedError, match="ListEngine cannot enforce time limits"):
        executor.using(timeout=1.0).submit(work, 1)
    with pytest.raises(TypeError, match="its backoff cannot be sent"):
        executor.using(retries=1, backoff=lambda attempt: 0.0).submit(work, 1)
    assert engine.messages == []


@pytest.mark.parametrize(
    ("options", "route"),
    [
        ({}, Route()),
        ({"queue": "gpu"}, Route(queue="gpu")),
        ({"priority": 0, "delay": 2}, Route(priority=0, delay=2)),
        ({"expires": 60.0}, Route()),
    ],
)
def test_the_engine_is_told_the_route(
    executor: Executor[Any], engine: ListEngine, options: dict[str, Any], route: Route
) -> None:
    future = executor.using(**options).submit(work, 1)
    assert engine.routes == [route]
    engine.run()
    assert future.result(TIMEOUT) == 1


def test_a_route_survives_a_loss_and_the_delay_does_not(
    app: Flask, executor: Executor[Any], engine: ListEngine
) -> None:
    client = client_of(executor, app)
    routed = executor.using(queue="gpu", priority=3, delay=9.0, expires=60.0)
    future = routed.using(retries=1).submit(work, 1)
    expires = client.store.get([future.id])[future.id].expires
    assert expires == future.submitted_at.timestamp() + 60.0
    message = engine.messages.pop()
    assert client.take(message.id, 1) is not None
    client.lose(message.id, 1, "it was killed", has_ended=False)
    assert engine.messages
    assert engine.routes == [
        Route(queue="gpu", priority=3, delay=9.0),
        *[Route(queue="gpu", priority=3)] * (len(engine.routes) - 1),
    ]
    assert client.store.get([future.id])[future.id].expires == expires


def test_a_worker_keeps_the_route_in_the_record(
    app: Flask, executor: Executor[Any], engine: ListEngine
) -> None:
    client = client_of(executor, app)
    rows: list[Row] = []
    looks.append(lambda job_id: rows.append(client.store.get([job_id])[job_id]))
    future = executor.using(retries=1, queue="gpu", expires=60.0).submit(fail_and_look)
    engine.run()
    with pytest.raises(ValueError, match="no"):
        future.result(TIMEOUT)
    assert [(row.attempts, row.route, row.expires) for row in rows] == [
        (1, rows[0].route, rows[0].expires),
        (2, rows[0].route, rows[0].expires),  # which the worker wrote
    ]
    assert rows[0].route is not None
    assert rows[0].expires is not None


@pytest.mark.parametrize("record", [True, False])
def test_a_job_that_no_worker_takes_in_time_expires(
    executor: Executor[Any], engine: ListEngine, record: bool
) -> None:
    future = executor.using(expires=0, record=record).submit(work, 1)
    engine.run()
    with pytest.raises(JobExpiredError, match="work expired: no worker started it in time"):
        future.result(TIMEOUT)
    assert (future.status, ran) == ("failed", [])


@pytest.mark.parametrize("look", ["future", "record", "list", "another future"])
def test_a_job_that_no_worker_ever_takes_expires_for_whoever_looks(
    executor: Executor[Any], engine: ListEngine, look: str
) -> None:
    future = executor.using(expires=0, key="k").submit(work, 1)
    late = executor.using(expires=3600).submit(work, 2)
    if look == "future":
        with pytest.raises(JobExpiredError):
            future.result(TIMEOUT)
    elif look == "another future":
        found = executor.futures.get("k")
        assert found is not None
        assert isinstance(found.exception(TIMEOUT), JobExpiredError)
    else:
        by_id = {each.id: each for each in executor.jobs.list()}
        record = by_id[future.id] if look == "list" else executor.jobs.get(future.id)
        assert record is not None
        assert record.error is not None
        assert (record.status, record.error.type) == (
            "failed",
            "flask_executor_typed.errors.JobExpiredError",
        )
    assert late.status == "pending"
    engine.run()
    assert late.result(TIMEOUT) == 2
    assert ran == [2]


def test_a_delayed_job_is_pending_and_can_be_cancelled(
    executor: Executor[Any], engine: ListEngine
) -> None:
    future = executor.using(delay=3600.0, retries=3).submit(work, 1)
    assert future.status == "pending"
    assert future.cancel()
    engine.run()
    assert (future.status, ran) == ("cancelled", [])


def test_an_engine_that_has_no_routes_refuses_them(
    executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "capabilities", replace(engine.capabilities, delay=False))
    with pytest.raises(UnsupportedError, match="work: ListEngine cannot delay a job; use EXECUTOR"):
        executor.using(delay=1).submit(work, 1)
    assert engine.messages == []


def test_a_held_job_is_the_submitters_until_it_is_handed_over(
    app: Flask, executor: Executor[Any], engine: ListEngine
) -> None:
    with app.test_request_context():
        future = executor.after_response().using(key="late").submit(work, 1)
        assert engine.messages == []
        record = executor.jobs.get(future.id)
        assert record is not None
        assert (record.status, record.server != "") == ("pending", True)
    until(lambda: engine.messages)
    record = executor.jobs.get(future.id)
    assert record is not None
    assert (record.status, record.server, record.key) == ("pending", "", "late")
    engine.run()
    assert future.result(TIMEOUT) == 1


def test_shutdown_waits_for_jobs(executor: Executor[Any], engine: ListEngine) -> None:
    future = executor.submit(work, 1)
    over = threading.Thread(target=executor.shutdown)
    over.start()
    assert not future.done()
    engine.run()
    over.join(TIMEOUT)
    assert not over.is_alive()
    assert future.done()
    assert future.result() == 1


def test_a_call_that_a_shutdown_abandons_while_it_is_recorded_is_withdrawn(
    app: Flask, executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(executor, app)
    enqueue = client.enqueue
    shutdown = threading.Thread(target=partial(executor.shutdown, timeout=0))

    def enqueue_and_shut_down(future: FutureProxy[Any], **options: Any) -> Row:
        row = enqueue(future, **options)
        shutdown.start()
        until(future.done)
        return row

    monkeypatch.setattr(client, "enqueue", enqueue_and_shut_down)
    future = executor.submit(work, 1)
    shutdown.join(TIMEOUT)
    with pytest.raises(JobAbandonedError):
        future.result(TIMEOUT)
    assert engine.messages == []
    assert client.store.get([future.id]) == {}


@pytest.mark.parametrize("record", [True, False])
def test_a_shutdown_whose_time_is_up_leaves_jobs_to_the_engine(
    app: Flask, executor: Executor[Any], engine: ListEngine, record: bool
) -> None:
    future = executor.using(record=record).submit(work, 1)
    executor.shutdown(timeout=0)
    with pytest.raises(JobAbandonedError, match="it goes on in the workers of its engine") as no:
        future.result(TIMEOUT)
    assert no.value.goes_on
    with Executor[Any](app):  # another process, say
        engine.run()
    assert ran == [1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"EXECUTOR_STORE": None}, "EXECUTOR_STORE to be 'redis://...', where its jobs are kept"),
        ({"EXECUTOR_STORE": "sqlite:///jobs.db"}, "EXECUTOR_STORE to be 'redis://...'"),
        ({"SECRET_KEY": None}, "SECRET_KEY, or EXECUTOR_SIGNING_KEY, to be set"),
    ],
)
@pytest.mark.parametrize("kind", ["celery", ListEngine()])
def test_what_is_missing_is_named_at_init_app(
    app: Flask, settings: dict[str, Any], expected: str, kind: object
) -> None:
    app.config.from_mapping(settings, EXECUTOR_TYPE=kind)
    shown = "celery" if kind == "celery" else "ListEngine"
    with pytest.raises(ConfigError, match=f"EXECUTOR_TYPE='{shown}' .str.: expected {expected}"):
        Executor(app)


def make_engine() -> ListEngine:
    return ListEngine()


def make_no_engine() -> ListEngine:
    return None  # type: ignore[return-value]  # the mistake


@pytest.mark.parametrize("given", [ListEngine, make_engine, f"{__name__}:make_engine"])
def test_an_engine_may_be_made_by_a_class_or_a_function(app: Flask, given: object) -> None:
    app.config["EXECUTOR_TYPE"] = given
    with Executor[Any](app) as executor, app.app_context():
        future = executor.submit(work, 1)
        engine = executor.state_of(app)._engine
        assert isinstance(engine, ListEngine)
        engine.run()
        assert future.result(TIMEOUT) == 1


class Incomplete:
    """An engine that does not say what it can do."""

    name = "Incomplete"

    def publish(self, message: Message, route: Route) -> None: ...


@pytest.mark.parametrize(
    ("given", "shown", "found"),
    [
        (make_no_engine, "make_no_engine", "NoneType"),
        (Incomplete, "Incomplete", "Incomplete"),
        (Incomplete(), "Incomplete", "Incomplete"),
    ],
)
def test_what_is_no_engine_is_refused_at_init_app(
    app: Flask, given: object, shown: str, found: str
) -> None:
    app.config["EXECUTOR_TYPE"] = given
    expected = (
        f"EXECUTOR_TYPE='{shown}' .str.: expected an engine, or what returns one: an object with a "
        rf"name, capabilities and publish\(\), and not one of <class '.*{found}'>"
    )
    with pytest.raises(ConfigError, match=expected):
        Executor(app)


def test_a_missing_celery_is_named_at_init_app(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("celery", reason="Celery is not installed beside the oldest Flask")
    monkeypatch.setattr("flask_executor_typed.engines.celery._is_registered", False)
    monkeypatch.setitem(sys.modules, "celery", None)
    app.config["EXECUTOR_TYPE"] = "celery"
    with pytest.raises(ConfigError, match=r"pip install 'flask-executor-typed\[celery\]'"):
        Executor(app)


def test_a_missing_celery_app_is_named_at_the_first_job(app: Flask) -> None:
    pytest.importorskip("celery", reason="Celery is not installed beside the oldest Flask")
    app.config["EXECUTOR_TYPE"] = "celery"
    with Executor(app) as executor, app.app_context():
        with pytest.raises(
            ConfigError, match=r"EXECUTOR_CELERY_APP=None .*: expected a Celery app"
        ):
            executor.submit(work, 1)
        assert executor.jobs.list() == []
        executor.shutdown(timeout=0)


# -- Dask, without Dask ----------------------------------------------------------------------------


class FakeDask(ModuleType):
    """Stands in for ``distributed``, with clients that do nothing but connect."""

    def __init__(self) -> None:
        super().__init__("distributed")
        self.is_up = True
        self.clients: list[FakeDaskClient] = []
        self.futures: list[SimpleNamespace] = []
        self.connects: Callable[[], object] = int  # nothing

    def Client(self, address: str, **options: Any) -> FakeDaskClient:
        self.connects()
        client = FakeDaskClient(self)
        self.clients.append(client)
        if not self.is_up:
            raise OSError(f"nothing listens at {address}")
        return client

    def fire_and_forget(self, future: SimpleNamespace) -> None:
        self.futures.append(future)


class FakeDaskClient:
    def __init__(self, dask: FakeDask) -> None:
        self.dask = dask
        self.status = "running"

    def submit(self, function: Any, where: Any, *message: Any, **options: Any) -> SimpleNamespace:
        future = SimpleNamespace(message=Message(*message), options=options, status="pending")
        future.add_done_callback = partial(setattr, future, "callback")
        return future

    def close(self) -> None:
        self.status = "closed"


@pytest.fixture
def dask(monkeypatch: pytest.MonkeyPatch) -> FakeDask:
    fake = FakeDask()
    monkeypatch.setitem(sys.modules, "distributed", fake)
    monkeypatch.setattr("flask_executor_typed.engines.dask._check_port", str)
    return fake


@pytest.fixture
def on_dask(app: Flask, dask: FakeDask) -> Iterator[Executor[Any]]:
    app.config.from_mapping(
        EXECUTOR_TYPE="dask", EXECUTOR_APP="shop", EXECUTOR_DASK_ADDRESS="tcp://127.0.0.1:1"
    )
    executor: Executor[Any] = Executor(app)
    with app.app_context():
        yield executor
    executor.shutdown(timeout=0)


@pytest.mark.parametrize("field", ["DASK_ADDRESS", "APP"])
def test_what_dask_needs_is_named_at_init_app(app: Flask, dask: FakeDask, field: str) -> None:
    app.config.from_mapping(
        EXECUTOR_TYPE="dask", EXECUTOR_APP="shop", EXECUTOR_DASK_ADDRESS="tcp://127.0.0.1:1"
    )
    app.config[f"EXECUTOR_{field}"] = None
    with pytest.raises(ConfigError, match=f"EXECUTOR_TYPE='dask' .*: expected EXECUTOR_{field} to"):
        Executor(app)


def test_a_missing_dask_is_named_at_init_app(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    app.config.from_mapping(
        EXECUTOR_TYPE="dask", EXECUTOR_APP="shop", EXECUTOR_DASK_ADDRESS="tcp://127.0.0.1:1"
    )
    with pytest.raises(ConfigError, match=r"pip install 'flask-executor-typed\[dask\]'"):
        Executor(app)


def test_dask_is_connected_to_by_the_first_job_and_again_after_a_loss(
    on_dask: Executor[Any], dask: FakeDask
) -> None:
    assert on_dask.jobs.list() == []
    assert on_dask.futures.get("k") is None
    assert dask.clients == []
    future = on_dask.submit(work, 1)
    on_dask.using(queue="gpu", priority=3).submit(work, 2)
    assert [each.status for each in dask.clients] == ["running"]
    first, second = dask.futures
    assert first.options["key"] == ("work", future.id, 1)
    assert (first.options["resources"], first.options["priority"]) == (None, 0)
    assert (second.options["resources"], second.options["priority"]) == ({"gpu": 1}, 3)
    dask.clients[0].status = "closed"  # it could not connect again
    on_dask.submit(work, 3)
    assert [each.status for each in dask.clients] == ["closed", "running"]
    with pytest.raises(UnsupportedError, match="EXECUTOR_TYPE='dask' cannot delay a job"):
        on_dask.using(delay=1.0).submit(work, 4)


def test_what_a_dask_scheduler_forgets_is_published_again(
    on_dask: Executor[Any], dask: FakeDask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_executor_typed.engines.dask._PAUSES", (0.01, 0.01))
    on_dask.using(queue="gpu").submit(work, 1)
    on_dask.submit(work, 2)
    lost = dask.futures.copy()
    dask.is_up, dask.clients[0].status = False, "closed"
    for future in lost:
        future.status = "cancelled"
        future.callback(future)
    until(lambda: len(dask.clients) > 3)  # it goes on trying
    dask.is_up = True
    until(lambda: len(dask.futures) == 4)
    for again, before in zip(dask.futures[2:], lost, strict=True):
        assert (again.message, again.options) == (before.message, before.options)


def test_a_shutdown_ends_the_search_for_a_dask_scheduler(
    on_dask: Executor[Any], dask: FakeDask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_executor_typed.engines.dask._PAUSES", (0.01, 3600.0))
    on_dask.submit(work, 1)
    (lost,) = dask.futures
    dask.is_up, dask.clients[0].status = False, "closed"
    lost.status = "cancelled"
    lost.callback(lost)
    until(lambda: len(dask.clients) > 3)
    on_dask.shutdown(timeout=0)
    until(lambda: not [each for each in threading.enumerate() if each.name == "executor-dask"])
    lost.callback(lost)
    assert not [each for each in threading.enumerate() if each.name == "executor-dask"]


def test_of_jobs_that_find_no_dask_scheduler_at_the_same_time_one_waits_for_it(
    app: Flask, on_dask: Executor[Any], dask: FakeDask
) -> None:
    engine: Any = on_dask.state_of(app)._engine
    lock, others = engine._connecting, threading.Semaphore(0)

    class Lock:
        def __enter__(self) -> None:
            others.release()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    def submit() -> None:
        with app.app_context(), pytest.raises(EngineUnreachableError):
            on_dask.submit(work, 1)

    def wait_for_others() -> None:
        for _ in range(3):
            assert others.acquire(timeout=TIMEOUT)

    engine._connecting, dask.is_up, dask.connects = Lock(), False, wait_for_others
    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(dask.clients) == 1
    dask.connects = int
    submit()  # which tries for itself
    assert len(dask.clients) == 2


def test_an_app_without_an_engine_imports_nothing_of_one() -> None:
    script = (
        "import sys; from flask import Flask; from flask_executor_typed import Executor;"
        "app = Flask('plain'); executor = Executor(app);"
        "assert executor.submit(abs, -1).result() == 1;"
        "names = ('celery', 'kombu', 'distributed', 'flask_executor_typed.engines');"
        "print([each for each in sys.modules if each.startswith(names)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=TIMEOUT
    )
    assert done.stdout == "[]\n"


def test_signer_is_bound_to_messages() -> None:
    signer = JobSigner(["secret"])
    with pytest.raises(SignatureError):
        signer.loads(signer.dumps(1, kind="result", job_id="a"), kind="message", job_id="a")


# -- what goes wrong between the store, the engine and the worker ----------------------------------


def test_whole_numbers_of_retries_are_stored_as_such(
    executor: Executor[Any], engine: ListEngine
) -> None:
    future = executor.using(retries=cast("int", 2.0)).submit(work, 1)
    assert future.status == "pending"
    assert [record.id for record in executor.jobs.list()] == [future.id]
    engine.run()
    assert future.result(TIMEOUT) == 1


def test_a_store_that_is_away_stops_no_shutdown(
    executor: Executor[Any],
    app: Flask,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor.submit(work, 1)
    client = client_of(executor, app)

    def fail_to_get(*_: object, **__: object) -> Any:
        raise StoreError("redis://", "it is away")

    monkeypatch.setattr(client.store, "get", fail_to_get)
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(ExecutorClosedError):
        executor.submit(work, 1)
    assert "waiting jobs cannot be cancelled" in caplog.messages


def test_a_job_fails_if_its_worker_can_start_no_thread(
    executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = executor.submit(work_async, 1)

    def start_none(*_: object, **__: object) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("flask_executor_typed.loops.pool.LoopThread", start_none)
    with pytest.raises(JobFailedError, match="can't start new thread"):
        run_message(*engine.messages.pop())
    with pytest.raises(RuntimeError, match="can't start new thread"):
        future.result(TIMEOUT)
    assert ran == []


def test_a_worker_that_is_ending_writes_the_end_of_its_job(
    app: Flask, executor: Executor[Any], engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exit_instead(*_: object) -> None:
        raise SystemExit(1)

    future = executor.submit(work, 1)
    client_of(executor, app)._flushed = math.inf  # the thread that writes records comes too late
    monkeypatch.setattr(_Runner, "_run_call", exit_instead)
    with pytest.raises(SystemExit):
        run_message(*engine.messages.pop())
    with pytest.raises(JobFailedError, match="SystemExit: 1"):
        future.result(TIMEOUT)


def test_a_cancel_while_a_job_is_being_recorded_is_not_lost(
    executor: Executor[Any], app: Flask, engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client_of(executor, app).store
    enqueue = store.enqueue
    answers: list[bool] = []

    def enqueue_and_cancel(row: Any, owner_id: str) -> bool:
        done = enqueue(row, owner_id)
        answers.append(future.cancel())
        return done

    with app.test_request_context():
        future = executor.after_response().submit(work, 1)
        monkeypatch.setattr(store, "enqueue", enqueue_and_cancel)
        app.process_response(app.make_response("")).close()
    assert answers == [False]  # it cannot be known yet
    engine.run()
    assert (future.status, ran) == ("cancelled", [])


def test_an_exit_in_publish_is_no_answer_of_the_engine(
    executor: Executor[Any], app: Flask, engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(executor, app)

    def publish_and_exit(message: Message, route: Route) -> None:
        assert client.take(message.id, 1) is not None
        raise SystemExit(1)

    monkeypatch.setattr(engine, "publish", publish_and_exit)
    with pytest.raises(SystemExit):
        executor.submit(work, 1)


def test_a_broker_that_does_not_answer_is_asked_once(
    app: Flask, engine: ListEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config["EXECUTOR_STORE_LEASE"] = 1.0
    released, asked, beats = (threading.Event(), *(threading.Semaphore(0) for _ in range(2)))
    executor: Executor[Any] = Executor(app)
    client = client_of(executor, app)
    beat = client.store.beat

    def publish_late(message: Message, route: Route) -> None:
        asked.release()
        released.wait(TIMEOUT)

    def count_beat(owner_id: str) -> Any:
        beats.release()
        return beat(owner_id)

    with app.app_context():
        future = executor.using(retries=1).submit(work, 1)
        assert client.take(future.id, 1) is not None
        monkeypatch.setattr(engine, "publish", publish_late)
        client.store.lose(future.id, client.owner.id, "it was killed", time.time())
        assert asked.acquire(timeout=TIMEOUT)
        monkeypatch.setattr(client.store, "beat", count_beat)
        for _ in range(4):
            assert beats.acquire(timeout=TIMEOUT)
        assert not asked.acquire(blocking=False)
        released.set()
        executor.shutdown(timeout=0)


def test_the_last_attempt_is_no_warning_if_the_next_one_cannot_be_noted(
    executor: Executor[Any],
    app: Flask,
    engine: ListEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = client_of(executor, app)

    def note_none(*_: object) -> bool:
        return False

    monkeypatch.setattr(client, "note_attempt", note_none)
    executor.using(retries=1).submit(fail, "no")
    engine.run()
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert ran == [1]


def test_a_burial_passes_over_a_record_that_is_gone(executor: Executor[Any], app: Flask) -> None:
    client = client_of(executor, app)
    gone, future = (executor.using(expires=60).submit(work, number) for number in range(2))
    store: Any = client.store
    assert client.take(future.id, 1) is not None
    assert client.take(gone.id, 1) is not None
    waiting = executor.using(expires=60).submit(work, 3)
    prefix = "{fet1}:job:"
    for each in gone, waiting:
        assert store._client.delete(prefix + each.id) == 1
    store.expire(client.settings.space, time.time() + 120)
    store.bury(client.owner.id, "it was killed", time.time())
    assert store.get([future.id])[future.id].status == "lost"
