"""One process's side of a store: several clients share one, as several processes would."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait as wait_for
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from flask import Flask, Response, send_file

from flask_executor_typed import FutureProxy, Progress
from flask_executor_typed.errors import (
    DuplicateKeyError,
    JobFailedError,
    JobLostError,
    ResultNotSharedError,
    StoreError,
    UnstorableError,
)
from flask_executor_typed.signing import JobSigner
from flask_executor_typed.stores import client as module
from flask_executor_typed.stores.client import Settings, StoreClient
from flask_executor_typed.stores.memory import MemoryStore
from flask_executor_typed.stores.protocol import Query
from flask_executor_typed.stores.recording import Codec
from flask_executor_typed.stores.records import COLUMNS, JobRecord, Row
from flask_executor_typed.stores.remote import RemoteFuture
from flask_executor_typed.stores.responses import RecordedResponse

from .conftest import TIMEOUT, until
from .helpers.stores import SPACE, row_of

SETTINGS = Settings(space=SPACE, executor="executor", lease=0.3)


class Faulty(MemoryStore):
    """A store that cannot be used when it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.refuses = ""
        self.writes = 0

    def write(self, rows: Any, *, patient: bool = False) -> list[str]:
        self.fail()
        self.writes += 1
        if self.refuses and any(self.refuses in (row.error_message or "") for row in rows):
            raise UnstorableError(self.url, "refused")
        return super().write(rows, patient=patient)

    def fail(self) -> None:
        if self.is_down:
            raise StoreError(self.url, "down")

    def claim(self, row: Row, on_duplicate: Any) -> Row | None:
        self.fail()
        return super().claim(row, on_duplicate)

    def beat(self, owner_id: str) -> Any:
        self.fail()
        return super().beat(owner_id)


class Processes:
    """Clients of one store, each with what it told of."""

    def __init__(self) -> None:
        self.store = Faulty()
        self.clients: list[StoreClient] = []
        self.told: list[JobRecord] = []

    def start(
        self,
        settings: Settings = SETTINGS,
        codec: Codec | None = None,
        publish_again: Callable[[Row], object] | None = None,
    ) -> StoreClient:
        client = StoreClient(
            self.store,
            settings,
            codec or Codec(max_bytes=1000),
            label=f"process-{len(self.clients)}",
            logger=lambda: logging.getLogger("tests.stores"),
            tell=lambda future, record: self.told.append(record),
            publish_again=publish_again,
        )
        self.clients.append(client)
        return client


@pytest.fixture
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.store.is_down = False

    def has_ended(client: StoreClient) -> bool:
        # Again: a write that die() did not wait for opens its job anew.
        for future in list(client._open):  # or the client would wait for its end
            if not future.cancel() and not future.done():
                future.set_result(None)
        client.close()
        return client.wait(time.monotonic() + 0.1)

    until(lambda: all(has_ended(client) for client in processes.clients), TIMEOUT)


@pytest.fixture
def here(processes: Processes) -> StoreClient:
    return processes.start()


@pytest.fixture
def there(processes: Processes, here: StoreClient) -> StoreClient:
    return processes.start()


def job(client: StoreClient, name: str = "report", **options: Any) -> FutureProxy[Any]:
    future: FutureProxy[Any] = FutureProxy(name)
    client.record(future, **options)
    return future


def record(client: StoreClient, future: FutureProxy[Any]) -> JobRecord:
    found = client.get(future.id)
    assert found is not None
    return found


def status(client: StoreClient, future: FutureProxy[Any]) -> str:
    return record(client, future).status


# -- writing ---------------------------------------------------------------------------------------


def test_a_job_whose_id_was_read_is_found_by_every_process(
    here: StoreClient, there: StoreClient
) -> None:
    future = job(here, user="ann", labels={"tenant": "x"})
    found = there.get(future.id)
    assert found is not None
    assert (found.name, found.status, found.user, found.labels) == (
        *("report", "pending", "ann"),
        {"tenant": "x"},
    )
    assert found.server == here.owner.server


def test_a_job_that_shows_no_id_is_written_too_behind_its_submission(
    here: StoreClient, there: StoreClient
) -> None:
    future = job(here)
    until(lambda: there.page(Query()))
    future.set_running_or_notify_cancel()
    until(lambda: there.page(Query())[0].status == "running")
    future.set_result(7)
    until(lambda: there.page(Query())[0].done)
    (found,) = there.page(Query())
    assert there.get(found.id) == dataclasses.replace(found, result=7)


def test_an_end_that_is_written_for_a_reader_is_not_written_again(
    processes: Processes, here: StoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "_start", lambda: None)  # the thread, which has ends to write too
    future = job(here)
    future.set_result(7)
    assert here.get(future.id) is not None
    assert (processes.store.writes, here._open) == (1, {})


def test_an_end_that_is_written_while_the_thread_writes_a_start_is_not_written_again(
    processes: Processes, here: StoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, ended = processes.store.write, threading.Event()
    written: list[tuple[str, str]] = []

    def write_and_end(rows: Any, *, patient: bool = False) -> list[str]:
        refused = write(rows, patient=patient)
        written.extend((row.name, row.status) for row in rows)
        if patient and not ended.is_set():  # the thread's, of the start
            ended.set()
            future.set_result(7)
            here.ensure(future, recording)
        return refused

    monkeypatch.setattr(processes.store, "write", write_and_end)
    future = job(here)
    recording = here._open[future]
    assert ended.wait(TIMEOUT)
    job(here, "next").set_result(None)
    until(lambda: ("next", "succeeded") in written)
    assert written.count(("report", "succeeded")) == 1


def test_ends_share_a_transaction(processes: Processes, here: StoreClient) -> None:
    futures = [job(here) for _ in range(1000)]
    for future in futures:
        future.set_result(None)
    until(lambda: here.counts(None) == {"succeeded": 1000})
    assert processes.store.writes < 200


def test_a_call_that_was_refused_leaves_no_record(here: StoreClient, there: StoreClient) -> None:
    future = job(here)
    here.refuse(future)
    job(here, "other").set_result(None)
    until(lambda: there.page(Query()))
    assert [each.name for each in there.page(Query())] == ["other"]


def test_a_text_that_the_store_refuses_does_not_hold_up_the_others(
    processes: Processes, here: StoreClient, caplog: pytest.LogCaptureFixture
) -> None:
    processes.store.refuses = "poison"
    good, bad = job(here), job(here)
    bad.set_exception(ValueError("poison"))
    good.set_result(1)
    until(lambda: here.counts(None) == {"succeeded": 1, "failed": 1})
    assert "is written without its texts" in caplog.text


def test_half_surrogates_in_an_error_are_written(here: StoreClient, there: StoreClient) -> None:
    future = job(here)
    future.set_exception(ValueError("\ud800\0"))
    until(lambda: status(there, future) == "failed")
    error = record(there, future).error
    assert error is not None
    assert error.message == "\ufffd\ufffd"


@pytest.mark.parametrize("outcome", ["pending", "succeeded", "failed", "cancelled"])
def test_a_job_is_kept_that_was_submitted_without_a_record(
    here: StoreClient, there: StoreClient, outcome: str
) -> None:
    future: FutureProxy[Any] = FutureProxy("view")
    ends: dict[str, Callable[[], object]] = {
        "succeeded": lambda: future.set_result([1]),
        "failed": lambda: future.set_exception(ValueError("wrong")),
        "cancelled": future.cancel,
    }
    if outcome in ends:
        ends[outcome]()
    here.keep(future, kind="view", user="ann")
    kept = record(there, future)
    assert (kept.status, kept.kind, kept.user) == (outcome, "view", "ann")
    if outcome == "pending":
        ends["succeeded"]()
    found = here.get(future.id)  # at once: what its process knows is written before it is read
    assert found is not None
    assert found.result == ([1] if outcome in {"pending", "succeeded"} else None)
    assert (found.error is not None) is (outcome == "failed")
    until(lambda: future not in here._open)


def test_a_job_that_is_kept_while_it_ends_has_its_result(
    here: StoreClient, there: StoreClient
) -> None:
    for number in range(300):
        future: FutureProxy[Any] = FutureProxy("view")
        both = threading.Barrier(2)

        def end(future: FutureProxy[Any], both: threading.Barrier, number: int) -> None:
            both.wait(TIMEOUT)
            future.set_result(number)

        thread = threading.Thread(target=end, args=(future, both, number))
        thread.start()
        both.wait(TIMEOUT)
        here.keep(future, kind="view", user=None)
        thread.join()
        found = here.get(future.id)
        assert found is not None
        assert (found.status, found.result) == ("succeeded", number)
    until(lambda: not here._open)


def test_another_process_hears_of_each_change(here: StoreClient, there: StoreClient) -> None:
    future = job(here)
    version = record(there, future).version
    changes: list[tuple[Callable[[], object], Callable[[JobRecord], object]]] = [
        (future.set_running_or_notify_cancel, lambda seen: seen.status == "running"),
        (lambda: future._report(Progress(1, 2, "half")), lambda seen: seen.progress),
        (lambda: future.set_result(None), lambda seen: seen.done),
    ]
    for change, is_seen in changes:
        change()
        while not is_seen(record(there, future)):
            changed = there.changed(future.id, version, TIMEOUT)
            assert changed > version
            version = changed
    version = record(there, future).version
    assert there.changed(future.id, version, 0) == version
    there.purge(0)
    assert there.changed(future.id, version, TIMEOUT) == 0


def test_a_response_is_stored_whole(here: StoreClient, there: StoreClient) -> None:
    future = job(here)
    response = Response(b"\x00\n\xff" * 100_000, 203, {"X-Part": "1"}, mimetype="text/csv")
    response.headers.add("X-Part", "2")
    future.set_result(RecordedResponse.of(response))
    until(lambda: record(there, future).done)
    again = record(there, future).result.response(Response)
    assert (again.status, again.headers.getlist("X-Part")) == (
        "203 NON AUTHORITATIVE INFORMATION",
        ["1", "2"],
    )
    assert again.mimetype == "text/csv"
    assert again.get_data() == b"\x00\n\xff" * 100_000


# -- results ---------------------------------------------------------------------------------------


def remote(client: StoreClient, future: FutureProxy[Any]) -> FutureProxy[Any]:
    found = client.future(future.id)
    assert found is not None
    assert found is not future
    return found


def test_a_result_comes_back_equal_and_of_the_same_type(
    here: StoreClient, there: StoreClient
) -> None:
    future = job(here)
    future.set_result((1, {"a": {2}}))
    assert remote(there, future).result(TIMEOUT) == (1, {"a": {2}})
    until(lambda: status(there, future) == "succeeded")
    assert record(there, future).result == (1, {"a": {2}})
    assert here.future(future.id) is future


def test_a_result_that_changes_later_is_stored_as_it_was(
    here: StoreClient, there: StoreClient
) -> None:
    future = job(here)
    rows = [1]
    future.set_result(rows)
    rows.append(2)
    assert remote(there, future).result(TIMEOUT) == [1]


@pytest.mark.parametrize(
    ("result", "state", "kind"),
    [(object(), "local", "object"), ("x" * 2000, "too_large", "str")],
    ids=["no plain data", "too large"],
)
def test_a_result_that_is_not_shared_is_an_error_elsewhere(
    here: StoreClient, there: StoreClient, result: object, state: str, kind: str
) -> None:
    future = job(here)
    future.set_result(result)
    elsewhere = remote(there, future)
    with pytest.raises(ResultNotSharedError) as caught:
        elsewhere.result(TIMEOUT)
    assert (caught.value.state, caught.value.type) == (state, kind)
    assert elsewhere.status == "succeeded"
    assert record(there, future).result_state == state
    assert here.future(future.id) is future
    assert future.result() is result


def test_a_pickled_result_is_read_only_with_the_key(processes: Processes) -> None:
    signing = processes.start(codec=Codec(1000, JobSigner(["key"])))
    other = processes.start(codec=Codec(1000, JobSigner(["other"])))
    same = processes.start(codec=Codec(1000, JobSigner(["key"])))
    future = job(signing)
    future.set_result(Progress(1.0, 2.0))
    assert remote(same, future).result(TIMEOUT) == Progress(1.0, 2.0)
    with pytest.raises(ValueError, match="signature"):
        remote(other, future).result(TIMEOUT)


def test_a_response_comes_back_unless_it_is_a_stream(
    here: StoreClient, there: StoreClient, tmp_path: Path
) -> None:
    class Own(Response):
        pass

    def elsewhere(response: Response) -> FutureProxy[Any]:
        future = job(here)
        elsewhere = remote(there, future)
        future.set_result(response)
        return elsewhere

    found = elsewhere(Response("body", 201, {"X-Name": "\xe9"}, mimetype="text/csv")).result(
        TIMEOUT
    )
    assert type(found) is Response
    assert (found.status, found.get_data()) == ("201 CREATED", b"body")
    assert (found.headers["X-Name"], found.mimetype) == ("\xe9", "text/csv")
    large = tmp_path / "large"
    large.write_bytes(b"x" * 1001)
    with Flask("files").test_request_context():
        for response in (Response(iter(["piece"])), Own("body"), send_file(large)):
            with pytest.raises(ResultNotSharedError):
                elsewhere(response).result(TIMEOUT)
            response.close()


def test_a_failure_is_caught_elsewhere_by_its_class(here: StoreClient, there: StoreClient) -> None:
    future = job(here)
    future.set_exception(ValueError("no rows"))
    with pytest.raises(ValueError, match="no rows") as caught:
        remote(there, future).result(TIMEOUT)
    assert isinstance(caught.value, JobFailedError)
    assert remote(there, future).status == "failed"


def test_a_cancelled_job_is_cancelled_elsewhere(here: StoreClient, there: StoreClient) -> None:
    future = job(here)
    future.cancel()
    with pytest.raises(CancelledError):
        remote(there, future).result(TIMEOUT)
    assert remote(there, future).cancelled()


# -- waiting elsewhere -----------------------------------------------------------------------------


def test_waiting_awaiting_and_callbacks_work_elsewhere(
    here: StoreClient, there: StoreClient
) -> None:
    future = job(here)
    elsewhere = remote(there, future)
    assert there.future(future.id) is elsewhere
    called = threading.Event()
    elsewhere.add_done_callback(lambda done: called.set())
    with pytest.raises(FutureTimeoutError):
        elsewhere.result(0)
    assert not elsewhere.done()
    threading.Timer(0.05, future.set_result, [5]).start()

    async def wait() -> int:
        return await asyncio.wait_for(elsewhere, TIMEOUT)

    assert asyncio.run(wait()) == 5
    assert called.wait(TIMEOUT)
    assert elsewhere.finished_at == future.finished_at


def test_the_state_elsewhere_stays_while_the_standard_library_holds_its_lock(
    here: StoreClient, there: StoreClient
) -> None:
    future = job(here)
    elsewhere = remote(there, future)
    with elsewhere._condition:
        state = elsewhere._state
        future.set_result(5)
        until(lambda: record(there, future).done)
        assert elsewhere._state == state  # wait() reads it twice, and counts what is not done
    assert wait_for([elsewhere], TIMEOUT).done == {elsewhere}


def test_a_callback_may_wait_for_another_remote_future(
    here: StoreClient, there: StoreClient
) -> None:
    first, second = job(here), job(here)
    results: list[int] = []
    done = threading.Event()
    other = remote(there, second)

    def wait_for_other(_: object) -> None:
        results.append(other.result(TIMEOUT))
        done.set()

    remote(there, first).add_done_callback(wait_for_other)
    first.set_result(1)
    second.set_result(2)
    assert done.wait(2 * TIMEOUT)
    assert results == [2]


def test_progress_is_seen_elsewhere(here: StoreClient, there: StoreClient) -> None:
    future = job(here)
    elsewhere = remote(there, future)
    future.set_running_or_notify_cancel()

    async def watch() -> list[Progress]:
        seen: list[Progress] = []
        async for progress in elsewhere.watch():
            seen.append(progress)
            if progress.done == 1.0:
                report(future, Progress(2.0, 2.0, "nearly"))
            else:
                future.set_result(None)
        return seen

    report(future, Progress(1.0, 2.0))
    seen = asyncio.run(asyncio.wait_for(watch(), TIMEOUT))
    assert seen == [Progress(1.0, 2.0), Progress(2.0, 2.0, "nearly")]


def test_what_was_reported_and_begun_just_before_the_end_is_seen_with_the_end(
    here: StoreClient, there: StoreClient
) -> None:
    future = job(here)
    elsewhere = remote(there, future)
    future.set_running_or_notify_cancel()
    report(future, Progress(2.0, 2.0))
    future.set_result(5)
    until(lambda: status(there, future) == "succeeded")  # the next look finds the end at once
    assert elsewhere.result(TIMEOUT) == 5
    assert elsewhere.progress == Progress(2.0, 2.0)
    assert elsewhere.started_at == future.started_at


def test_a_record_that_was_read_before_the_end_changes_nothing_after_it(
    here: StoreClient, there: StoreClient
) -> None:
    future = job(here)
    elsewhere = remote(there, future)
    assert isinstance(elsewhere, RemoteFuture)
    late = here.store.get([future.id])[future.id]
    future.set_running_or_notify_cancel()
    report(future, Progress(1.0))
    future.set_result(5)
    assert elsewhere.result(TIMEOUT) == 5
    late.progress_done = 0.5
    elsewhere.adopt(late)  # by another thread, which was slow
    assert (elsewhere.status, elsewhere.progress) == ("succeeded", Progress(1.0))
    assert elsewhere.started_at == future.started_at
    assert elsewhere.finished_at == future.finished_at


def test_the_end_decides_the_progress_while_another_thread_notes_an_older_record(
    here: StoreClient, there: StoreClient
) -> None:
    future = job(here)
    elsewhere = remote(there, future)
    assert isinstance(elsewhere, RemoteFuture)
    late = here.store.get([future.id])[future.id]
    late.progress_done = 0.5
    future.set_running_or_notify_cancel()
    report(future, Progress(1.0))
    future.set_result(5)

    class ReadInTheMiddle(Row):
        """Is noted up to its progress when another thread reads the end."""

        @property
        def progress(self) -> Progress | None:
            assert elsewhere.result(TIMEOUT) == 5
            return super().progress

    elsewhere.adopt(ReadInTheMiddle(**{name: getattr(late, name) for name in COLUMNS}))
    assert (elsewhere.status, elsewhere.progress) == ("succeeded", Progress(1.0))
    assert elsewhere.started_at == future.started_at


def test_a_record_that_is_removed_while_its_end_is_read_is_not_lost(
    here: StoreClient, there: StoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = job(here)
    elsewhere = remote(there, future)
    assert isinstance(elsewhere, RemoteFuture)
    future.set_result(5)
    outcome_of = there.outcome_of

    def outcome_while_another_thread_finds_no_record(row: Row) -> Any:
        monkeypatch.setattr(there, "outcome_of", outcome_of)
        elsewhere.adopt(None)
        return outcome_of(row)

    monkeypatch.setattr(there, "outcome_of", outcome_while_another_thread_finds_no_record)
    assert elsewhere.result(TIMEOUT) == 5


def report(future: FutureProxy[Any], progress: Progress) -> None:
    publish: Callable[[Progress], None] = getattr(future, "_report")  # noqa: B009
    publish(progress)


def test_a_waiter_that_gives_up_is_not_polled_for_any_more(
    here: StoreClient, there: StoreClient
) -> None:
    elsewhere = remote(there, job(here))
    with pytest.raises(FutureTimeoutError):
        elsewhere.result(0.01)
    until(lambda: not there._waiting)


# -- cancelling ------------------------------------------------------------------------------------


def test_a_callback_that_blocks_holds_up_no_records(here: StoreClient, there: StoreClient) -> None:
    future, release, over = job(here), threading.Event(), threading.Event()

    def block(future: FutureProxy[Any]) -> None:
        assert release.wait(TIMEOUT)
        over.set()

    future.add_done_callback(block)
    assert there.cancel(future.id, TIMEOUT) == "cancelled"
    other = job(here)
    other.set_result(1)
    until(lambda: status(there, other) == "succeeded")
    release.set()
    assert over.wait(TIMEOUT)


def test_cancelling_elsewhere_is_confirmed_by_the_owner(
    here: StoreClient, there: StoreClient
) -> None:
    pending, running, done = job(here), job(here), job(here)
    running.set_running_or_notify_cancel()
    done.set_result(1)
    until(lambda: status(there, done) == "succeeded")
    assert there.cancel(pending.id, TIMEOUT) == "cancelled"
    assert pending.cancelled()
    assert there.cancel(running.id, 0.3) == "asked"
    until(lambda: record(there, running).cancel_requested)
    assert there.cancel(done.id, TIMEOUT) == "cannot"
    assert there.cancel("unknown", TIMEOUT) is None
    assert not remote(there, running).cancel()
    running.set_result(None)


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_is_one_for_all_processes(here: StoreClient, there: StoreClient) -> None:
    first = job(here, is_written_next=True)
    second, third = job(there, is_written_next=True), job(there, is_written_next=True)
    assert here.claim(first, "k", "join") == (True, None)
    assert there.count_keys() == 1
    with pytest.raises(DuplicateKeyError):
        there.claim(second, "k", "error")
    is_shared, joined = there.claim(third, "k", "join")
    assert is_shared
    assert joined is not None
    assert joined.id == first.id
    assert here.find("k") is first
    assert there.pop("k") is joined
    assert here.find("k") is None
    first.set_result(1)
    assert joined.result(TIMEOUT) == 1
    assert len(there.page(Query())) == 1


@pytest.mark.parametrize("when", ["pending", "done"])
def test_a_job_can_be_given_a_key_later(here: StoreClient, there: StoreClient, when: str) -> None:
    future = job(here)
    if when == "done":
        future.set_result(7)
        until(lambda: (found := there.get(future.id)) is not None and found.done)
    assert here.add(future, "k")
    found = there.find("k")
    assert found is not None
    assert found.id == future.id
    assert record(there, future).key == "k"
    assert here.add(future, "k")  # it has it already
    with pytest.raises(DuplicateKeyError):
        there.add(job(there), "k")
    assert not here.add(FutureProxy("not recorded"), "other")
    assert not here.add(future, object())
    assert there.find("other") is None


# -- jobs of an engine -----------------------------------------------------------------------------


def test_an_attempt_that_is_lost_while_the_one_before_it_is_published_again_is_published_too(
    processes: Processes,
) -> None:
    published: list[int] = []

    def publish(row: Row) -> None:
        published.append(row.attempts)
        if row.attempts == 2:
            client.again(dataclasses.replace(row, attempts=3))  # its worker has died as well

    client = processes.start(publish_again=publish)
    client.again(row_of("a", attempts=2))
    until(lambda: client._again == {} and not client._is_publishing)
    assert published == [2, 3]


# -- the end of processes --------------------------------------------------------------------------


def die(client: StoreClient, processes: Processes) -> None:
    """Take a client's owner for dead, as if its process had been killed."""
    dead = dataclasses.replace(client.owner, born="another process")
    with processes.store._lock:
        processes.store._owners[client.owner.id] = dead
    client.store = Faulty()  # nothing more comes of it
    client._open.clear()


def test_the_jobs_of_a_dead_process_are_lost_and_told_once(
    processes: Processes, here: StoreClient, there: StoreClient, caplog: pytest.LogCaptureFixture
) -> None:
    third = processes.start()
    futures = [job(here) for _ in range(5)]
    elsewhere = [remote(there, future) for future in futures]
    futures[0].set_running_or_notify_cancel()
    until(lambda: status(there, futures[0]) == "running")
    remote(third, futures[0]).add_done_callback(lambda done: None)  # its thread runs
    die(here, processes)
    for future in elsewhere:
        with pytest.raises(JobLostError, match="the process that was to run it has ended"):
            future.result(TIMEOUT)
        assert future.status == "lost"
    begun = [future.exception() for future in elsewhere]
    assert [error.begun for error in begun if isinstance(error, JobLostError)] == [
        True,
        *[None] * 4,
    ]
    until(lambda: len(processes.told) == 5)
    assert {told.id for told in processes.told} == {future.id for future in elsewhere}
    assert caplog.text.count("is lost: the process") == 5


def test_a_page_shows_the_jobs_of_a_dead_process_as_lost(
    processes: Processes, here: StoreClient, there: StoreClient
) -> None:
    lives = job(there)
    assert lives.id  # so it is written before the other
    dies = job(here)
    ids = [dies.id, lives.id]
    die(here, processes)
    assert [each.status for each in there.page(Query())] == ["lost", "pending"]
    assert [each.id for each in there.page(Query())] == ids
    assert there.page(Query(status="pending"))[0].id == lives.id


def test_a_key_of_a_dead_process_is_free_to_join(
    processes: Processes, here: StoreClient, there: StoreClient
) -> None:
    here.claim(job(here, is_written_next=True), "k", "join")
    die(here, processes)
    future = job(there, is_written_next=True)
    assert there.claim(future, "k", "join") == (True, None)
    assert there.find("k") is future


def test_a_process_that_was_buried_goes_on_under_another_name(
    processes: Processes, here: StoreClient, there: StoreClient, caplog: pytest.LogCaptureFixture
) -> None:
    future = job(here)
    before = here.owner.id
    assert remote(there, future).status == "pending"
    processes.store.bury(before, "why", time.time())
    until(lambda: here.owner.id != before)
    assert "was taken for dead by another" in caplog.text
    future.set_result(1)  # too late
    assert status(there, future) == "lost"
    later = job(here)
    later.set_result(2)
    assert remote(there, later).result(TIMEOUT) == 2


# -- faults ----------------------------------------------------------------------------------------


def test_records_catch_up_when_the_store_is_back(
    processes: Processes, here: StoreClient, there: StoreClient, caplog: pytest.LogCaptureFixture
) -> None:
    before = job(here)
    assert before.id
    processes.store.is_down = True
    during = job(here)
    assert during.id  # no error, and no wait
    before.set_result(1)
    during.set_result(2)
    until(lambda: "their records are written later" in caplog.text)
    with pytest.raises(StoreError):
        here.get(before.id)
    processes.store.is_down = False
    until(lambda: "is written again" in caplog.text)
    assert remote(there, before).result(TIMEOUT) == 1
    assert remote(there, during).result(TIMEOUT) == 2


def test_a_store_that_lost_its_data_gets_what_is_running_again(
    processes: Processes, here: StoreClient, there: StoreClient
) -> None:
    done, running = job(here), job(here)
    here.claim(running, "k", "error")
    done.set_result(1)
    running.set_running_or_notify_cancel()
    until(lambda: here.counts(None) == {"succeeded": 1, "running": 1})
    with processes.store._lock:
        for data in (processes.store._rows, processes.store._owners, processes.store._keys):
            data.clear()
    until(lambda: there.counts(None) == {"running": 1})
    found = there.find("k")
    assert found is not None
    assert found.id == running.id
    running.set_result(2)
    assert found.result(TIMEOUT) == 2


def test_what_waits_for_a_store_is_bounded(
    processes: Processes,
    here: StoreClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_BACKLOG", 10)
    processes.store.is_down = True
    running = job(here)
    for _ in range(50):
        job(here).set_result(None)
    until(lambda: here._down_since and len(here._open) <= 10)
    assert running in here._open
    processes.store.is_down = False
    until(lambda: "records of finished jobs were dropped" in caplog.text)
    running.set_result(None)


def test_a_process_that_ends_writes_everything_and_retires(processes: Processes) -> None:
    client = processes.start()
    future = job(client)
    client.close()
    future.set_result(1)
    assert client.wait(time.monotonic() + TIMEOUT)
    assert processes.store.counts(SPACE, None) == {"succeeded": 1}
    assert processes.store.owners() == []


def test_a_thread_that_ends_leaves_the_store_to_one_that_was_started_meanwhile(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = processes.start()
    steps: list[str] = []

    def announce() -> None:
        if not client._runs:  # the thread ends
            steps.append("announces")
            if len(steps) == 1:
                client._awake()  # which starts the second thread

    monkeypatch.setattr(client, "_announce", announce)
    monkeypatch.setattr(client.store, "close", lambda: steps.append("closes"))
    future = job(client)
    future.set_result(1)
    client.close()
    until(lambda: "closes" in steps)
    for thread in client.threads():
        thread.join(TIMEOUT)
    assert steps == ["announces", "announces", "closes"]


def test_a_process_ends_although_its_store_is_down(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    client = processes.start()
    job(client).set_result(1)
    processes.store.is_down = True
    job(client).set_result(2)
    until(lambda: client._down_since)
    client.close()
    assert client.wait(time.monotonic() + TIMEOUT)
    assert "were not written" in caplog.text


def test_no_thread_runs_before_the_first_record(processes: Processes) -> None:
    client = processes.start()
    assert client.threads() == []
    assert client.get("unknown") is None
    assert client.threads() == []
    job(client).set_result(None)
    assert len(client.threads()) == 1


def test_a_waiter_is_not_lost_when_the_store_fails_as_it_looks(
    processes: Processes, here: StoreClient, there: StoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = job(here)
    elsewhere = remote(there, future)
    failures: list[int] = []
    get = processes.store.get

    def get_or_fail(ids: Any, *, results: bool = False) -> Any:
        if results and not failures:
            failures.append(1)
            raise StoreError(processes.store.url, "down for a moment")
        return get(ids, results=results)

    monkeypatch.setattr(processes.store, "get", get_or_fail)
    results: SimpleQueue[int] = SimpleQueue()
    elsewhere.add_done_callback(lambda each: results.put(each.result()))
    future.set_result(7)
    assert results.get(timeout=TIMEOUT) == 7
    assert failures == [1]


def test_a_held_call_does_not_keep_a_process_that_ends(processes: Processes) -> None:
    here = processes.start()
    held = job(here)
    held._held = True
    until(lambda: here.counts(None) == {"pending": 1})
    here.close()
    assert here.wait(time.monotonic() + TIMEOUT)
    assert held.cancel()  # whose end is written all the same
    assert here.wait(time.monotonic() + TIMEOUT)


def test_what_waits_for_a_client_that_is_closed_is_told(
    here: StoreClient, there: StoreClient
) -> None:
    elsewhere = remote(there, job(here))
    errors: SimpleQueue[Any] = SimpleQueue()
    elsewhere.add_done_callback(lambda each: errors.put(each.exception()))
    there.close()
    assert isinstance(errors.get(timeout=TIMEOUT), StoreError)
