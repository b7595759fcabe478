"""What the executor announces, when, where, and what a receiver may do wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from flask import Flask, current_app, g, has_app_context, request

from flask_executor_typed import (
    DuplicateKeyError,
    Executor,
    ExecutorClosedError,
    FutureProxy,
    job_cancelled,
    job_failed,
    job_started,
    job_submitted,
    job_succeeded,
    signals,
)

from .conftest import TIMEOUT

if TYPE_CHECKING:
    from blinker import NamedSignal

SIGNALS = (job_submitted, job_started, job_succeeded, job_failed, job_cancelled)

HAS_BLINKER = find_spec("blinker") is not None
needs_blinker = pytest.mark.skipif(
    not HAS_BLINKER, reason="blinker is not installed, and Flask below 2.3 does not require it"
)


class Heard(NamedTuple):
    signal: str
    sender: Flask
    future: FutureProxy[Any]
    status: str
    """The future's, at that moment."""
    thread: str
    app: str
    """The name of ``current_app`` in the receiver, ``""`` if there is none."""


@pytest.fixture
def heard() -> Iterator[list[Heard]]:
    """Everything that is announced while the test runs."""
    log: list[Heard] = []

    def listen(signal: NamedSignal) -> Any:
        def receiver(sender: Flask, future: FutureProxy[Any]) -> None:
            app = current_app.name if has_app_context() else ""
            thread = threading.current_thread().name
            log.append(Heard(signal.name, sender, future, future.status, thread, app))

        return signal.connected_to(receiver)

    with ExitStack() as listening:
        for signal in SIGNALS:
            listening.enter_context(listen(signal))
        yield log


def names(heard: list[Heard]) -> list[str]:
    """The names of the signals as workers sent them, after that of the submitter's thread.

    The submitter announces a call when it is accepted; by then a worker may have finished it.
    """
    submitted = [one.signal for one in heard if one.signal == "job-submitted"]
    return submitted + [one.signal for one in heard if one.signal != "job-submitted"]


async def answer() -> int:
    return 42


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


def fail() -> None:
    raise LookupError("no such row")


async def fail_async() -> None:
    fail()


def ignore(sender: Flask, future: FutureProxy[Any]) -> None:
    """A receiver."""


def test_signals_are_named_after_what_happened_and_are_public() -> None:
    assert [signal.name for signal in SIGNALS] == [
        "job-submitted",
        "job-started",
        "job-succeeded",
        "job-failed",
        "job-cancelled",
    ]


@needs_blinker
@pytest.mark.parametrize("fn", [int, answer])
def test_call_that_returns_is_submitted_started_and_succeeded(
    app: Flask, heard: list[Heard], fn: Any
) -> None:
    with Executor(app) as executor:
        future: FutureProxy[int] = executor.submit(fn)
    assert names(heard) == ["job-submitted", "job-started", "job-succeeded"]
    assert all(one.future is future and one.sender is app for one in heard)
    assert [one.status for one in heard if one.signal != "job-submitted"] == [
        "running",
        "succeeded",
    ]


@needs_blinker
@pytest.mark.parametrize("fn", [fail, fail_async])
def test_call_that_raises_is_submitted_started_and_failed(
    app: Flask, heard: list[Heard], fn: Any
) -> None:
    with Executor(app) as executor:
        future: FutureProxy[None] = executor.submit(fn)
    assert names(heard) == ["job-submitted", "job-started", "job-failed"]
    assert [one.status for one in heard if one.signal == "job-failed"] == ["failed"]
    assert isinstance(future.exception(), LookupError)


@needs_blinker
def test_call_cancelled_while_pending_never_starts(app: Flask, heard: list[Heard]) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    release = threading.Event()
    with Executor(app) as executor:
        first = executor.submit(release.wait, TIMEOUT)
        second = executor.submit(int)
        assert second.cancel()
        assert second.cancel()  # once more: nothing to announce
        release.set()
    of_first = [one for one in heard if one.future is first]
    assert names(of_first) == ["job-submitted", "job-started", "job-succeeded"]
    of_second = [one for one in heard if one.future is second]
    assert names(of_second) == ["job-submitted", "job-cancelled"]
    assert of_second[-1].thread == threading.current_thread().name  # the one that cancels
    assert of_second[-1].status == "cancelled"


@needs_blinker
def test_coroutine_cancelled_while_running_is_announced_once(
    app: Flask, heard: list[Heard]
) -> None:
    started = threading.Event()

    async def job() -> None:
        started.set()
        await wait_for_ever()

    with Executor(app) as executor:
        future = executor.submit(job)
        assert started.wait(TIMEOUT)
        assert future.cancel()
    assert names(heard) == ["job-submitted", "job-started", "job-cancelled"]


@needs_blinker
def test_coroutine_that_cancels_itself_is_announced_as_cancelled(
    app: Flask, heard: list[Heard]
) -> None:
    async def job() -> None:
        raise asyncio.CancelledError

    with Executor(app) as executor:
        executor.submit(job)
    assert names(heard) == ["job-submitted", "job-started", "job-cancelled"]


@needs_blinker
@pytest.mark.parametrize(
    ("signal", "announced"),
    [
        (job_submitted, {"succeeds", "fails", "cancels itself"}),
        (job_started, {"succeeds", "fails", "cancels itself"}),
        (job_succeeded, {"succeeds"}),
        (job_failed, {"fails"}),
        (job_cancelled, {"cancels itself"}),
    ],
    ids=lambda given: getattr(given, "name", ""),
)
def test_signal_is_sent_although_nobody_hears_the_others(
    app: Flask, signal: Any, announced: set[str]
) -> None:
    heard: list[str] = []

    def listen(sender: Flask, future: FutureProxy[object]) -> None:
        heard.append(future.name)

    async def end(error: BaseException | None) -> None:
        if error is not None:
            raise error

    ends = {"succeeds": None, "fails": LookupError(), "cancels itself": asyncio.CancelledError()}
    with signal.connected_to(listen, app), Executor(app) as executor:
        for name, error in ends.items():
            executor.using(name=name).submit(end, error)
        executor.shutdown()
    assert sorted(heard) == sorted(announced)


@needs_blinker
def test_every_mapped_call_is_announced(app: Flask, heard: list[Heard]) -> None:
    with Executor(app) as executor:
        assert list(executor.map(str, range(5))) == ["0", "1", "2", "3", "4"]
    counts = {signal.name: names(heard).count(signal.name) for signal in SIGNALS}
    assert counts == {
        "job-submitted": 5,
        "job-started": 5,
        "job-succeeded": 5,
        "job-failed": 0,
        "job-cancelled": 0,
    }
    assert len({one.future for one in heard}) == 5


@needs_blinker
def test_refused_calls_are_not_announced(app: Flask, heard: list[Heard]) -> None:
    with Executor(app) as executor:
        executor.submit_stored("key", int).result(TIMEOUT)
        with pytest.raises(DuplicateKeyError):
            executor.submit_stored("key", int)
    with pytest.raises(ExecutorClosedError):
        executor.submit(int)
    assert names(heard) == ["job-submitted", "job-started", "job-succeeded"]


@needs_blinker
def test_receivers_run_in_the_thread_where_it_happens(app: Flask, heard: list[Heard]) -> None:
    with Executor(app, name="mail") as executor:
        executor.submit(int).result(TIMEOUT)
        executor.submit(answer).result(TIMEOUT)
    threads = {(one.signal, one.thread) for one in heard}
    here = threading.current_thread().name
    assert threads == {
        ("job-submitted", here),
        ("job-started", "mail_executor-worker-0"),
        ("job-succeeded", "mail_executor-worker-0"),
        ("job-started", "mail_executor-loop-0"),
        ("job-succeeded", "mail_executor-loop-0"),
    }


@needs_blinker
def test_every_receiver_has_an_app_context(app: Flask, heard: list[Heard]) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    with Executor(app) as executor:
        executor.submit(int)  # outside of any context, as in a script
        executor.submit(fail)
        release = threading.Event()
        executor.submit(release.wait, TIMEOUT)
        executor.submit(int).cancel()
        release.set()
    assert {one.signal for one in heard} == {signal.name for signal in SIGNALS}
    assert [one for one in heard if one.app != app.name] == []


@needs_blinker
@pytest.mark.parametrize("signal", [job_submitted, job_started, job_succeeded])
def test_receiver_sees_the_contexts_that_the_call_was_submitted_in(
    app: Flask, signal: NamedSignal
) -> None:
    seen: list[tuple[str, str]] = []

    def receiver(sender: Flask, future: FutureProxy[Any]) -> None:
        seen.append((request.args["id"], g.user))

    contexts = app.test_request_context("/?id=7")
    with signal.connected_to(receiver), Executor(app) as executor, contexts:
        g.user = "me"
        executor.submit(int)
    assert seen == [("7", "me")]


@needs_blinker
def test_receiver_for_one_app_hears_nothing_of_the_others(app: Flask) -> None:
    other = Flask("other")
    senders: list[str] = []

    def receiver(sender: Flask, future: FutureProxy[Any]) -> None:
        senders.append(sender.name)

    with job_succeeded.connected_to(receiver, sender=other), Executor(app) as executor:
        executor.init_app(other)
        for each in (app, other):
            with each.app_context():
                executor.submit(int)
    assert senders == ["other"]


@needs_blinker
@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("signal", [job_submitted, job_started, job_succeeded])
def test_what_a_receiver_raises_is_logged_and_changes_nothing(
    app: Flask, caplog: pytest.LogCaptureFixture, signal: NamedSignal, error: BaseException
) -> None:
    def receiver(sender: Flask, future: FutureProxy[Any]) -> None:
        raise error

    with signal.connected_to(receiver), Executor(app) as executor:
        future = executor.submit(int)
        assert future.result(TIMEOUT) == 0
        assert executor.submit(answer).result(TIMEOUT) == 42
    assert len(caplog.records) == 2
    record = caplog.records[0]
    assert record.name == app.name
    assert record.getMessage().startswith(
        f"a receiver of {signal.name} raised for <FutureProxy int"
    )
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@needs_blinker
def test_raising_receiver_does_not_keep_the_signal_from_the_others(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []

    def listen(number: int) -> Any:
        def receiver(sender: Flask, future: FutureProxy[Any]) -> None:
            heard.append(number)
            raise ValueError(number)

        return job_succeeded.connected_to(receiver)

    with ExitStack() as listening:
        for number in range(4):
            listening.enter_context(listen(number))
        with Executor(app) as executor:
            executor.submit(int)
    assert sorted(heard) == [0, 1, 2, 3]
    assert len(caplog.records) == 4


@needs_blinker
def test_nothing_is_announced_while_nobody_listens(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[str] = []

    def announce(signal: NamedSignal, app: Flask, future: object) -> None:
        announced.append(signal.name)

    def run_one_of_each() -> None:
        with Executor(app) as executor:
            executor.submit(int)
            executor.submit(answer)
            executor.submit(fail)
            executor.submit(wait_for_ever).cancel()

    monkeypatch.setattr(signals, "announce", announce)
    run_one_of_each()
    assert announced == []
    with job_failed.connected_to(ignore):
        run_one_of_each()
    assert announced == ["job-failed"]


@pytest.mark.skipif(HAS_BLINKER, reason="blinker is installed")
def test_jobs_run_without_blinker_and_connecting_says_what_is_missing(
    executor: Executor,
) -> None:
    assert executor.submit(int).result(TIMEOUT) == 0
    with pytest.raises(RuntimeError, match="blinker"):
        job_succeeded.connect(ignore)
