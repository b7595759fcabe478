"""Recording, holding and overriding, as the tests of an app use them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import unittest
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any, Literal, cast
from unittest.mock import ANY

import pytest
from flask import Flask, current_app, g, request

from flask_executor_typed import (
    ConfigError,
    Executor,
    ExecutorBusyError,
    FutureProxy,
    UnpicklableError,
    UnsupportedError,
    current_job,
    track,
)
from flask_executor_typed.futures import was_asked
from flask_executor_typed.testing import (
    ExecutorCalls,
    JobEnvironment,
    Recording,
    override,
    record,
    recording,
)

from .conftest import TIMEOUT


def mail(to: str, subject: str = "hello", *, copies: int = 0) -> str:
    return f"{subject}, {to}" * (1 + copies)


def fail(text: str = "no") -> None:
    raise ValueError(text)


async def fetch(url: str) -> bytes:
    return url.encode()


@pytest.fixture
def calls(executor: Executor) -> Iterator[ExecutorCalls]:
    with record() as calls:
        yield calls


@pytest.fixture
def held(executor: Executor) -> Iterator[ExecutorCalls]:
    with record(runs=False) as held:
        yield held


# -- what was submitted ----------------------------------------------------------------------------


def test_a_recording_lasts_longer_than_the_one_in_which_it_began(executor: Executor) -> None:
    first, second = record(runs=False), record()
    with first as held:
        executor.submit(mail, "ada")
        calls = second.__enter__()
    try:
        future = executor.submit(mail, "bob")
        assert future.result(TIMEOUT) == "hello, bob"
        assert len(held) == 1
        calls.assert_submitted(mail, "bob")
    finally:
        second.__exit__(None, None, None)


def test_calls_are_recorded_in_order_with_their_arguments(
    executor: Executor, calls: ExecutorCalls
) -> None:
    first = executor.submit(mail, "ada", copies=1)
    second = executor.submit(fetch, "u")
    assert [call.future for call in calls] == [first, second]
    assert (calls[0].fn, calls[0].args, calls[0].kwargs) == (mail, ("ada",), {"copies": 1})
    assert calls[0].executor == "executor"
    assert calls[0:1] == [calls[0]]
    assert repr(calls) == "<ExecutorCalls: mail('ada', copies=1), fetch('u')>"
    assert second.result(TIMEOUT) == b"u"


def test_an_assertion_finds_a_call_whichever_arguments_were_named(
    executor: Executor, calls: ExecutorCalls
) -> None:
    future = executor.submit(mail, to="ada", subject="hello")
    assert calls.assert_submitted(mail, "ada").future is future
    assert calls.assert_submitted(mail, "ada", subject=ANY, copies=0).future is future
    assert [call.future for call in calls.of(mail)] == [future]
    calls.assert_not_submitted(fetch)


def test_an_assertion_that_fails_lists_what_was_submitted(
    executor: Executor, calls: ExecutorCalls
) -> None:
    with pytest.raises(AssertionError, match=r"^mail\('bob'\) was not submitted; nothing was$"):
        calls.assert_submitted(mail, "bob")
    executor.submit(mail, "ada")
    with pytest.raises(AssertionError) as caught:
        calls.assert_submitted(mail, "bob")
    assert str(caught.value) == ("mail('bob') was not submitted; these calls were:\n  mail('ada')")
    with pytest.raises(AssertionError, match=r"^mail was submitted; these calls were:"):
        calls.assert_not_submitted(mail)


def test_what_is_no_function_is_not_taken_for_one_that_was_not_submitted(
    calls: ExecutorCalls,
) -> None:
    with pytest.raises(TypeError, match=r"^expected a function to run, got 'mail' \(str\)"):
        calls.assert_not_submitted(cast("Any", "mail"))


def test_jobs_builtins_and_items_of_map_are_found(executor: Executor, calls: ExecutorCalls) -> None:
    job = executor.job(mail)
    job.submit("ada")
    calls.assert_submitted(job, "ada")
    calls.assert_submitted(mail, "ada")
    assert list(executor.map(abs, [-1, -2, -3], chunksize=2)) == [1, 2, 3]
    calls.assert_submitted(abs, -3)
    assert [call.args for call in calls.of(abs)] == [(-1,), (-2,), (-3,)]


def test_calls_before_and_after_the_block_are_none_of_it(executor: Executor) -> None:
    executor.submit(int).result(TIMEOUT)
    with record() as calls:
        executor.submit(str)
    executor.submit(bytes)
    assert [call.fn for call in calls] == [str]


def test_calls_of_executors_that_come_later_are_recorded() -> None:
    with record() as calls:
        app = Flask("later")
        with Executor(app, "mail") as executor:
            executor.submit(int)
    assert [call.executor for call in calls] == ["mail_executor"]


def test_a_call_that_is_refused_is_not_recorded(executor: Executor, calls: ExecutorCalls) -> None:
    executor.submit(int)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)
    assert len(calls) == 1


def test_calls_after_the_response_are_recorded_when_it_is_over(
    app: Flask, executor: Executor, calls: ExecutorCalls
) -> None:
    @app.get("/")
    def view() -> str:
        executor.after_response().submit(mail, "ada")
        calls.assert_not_submitted(mail)
        return "later"

    with app.test_client() as client:
        client.get("/").close()
    calls.assert_submitted(mail, "ada")
    calls.wait()


# -- holding ---------------------------------------------------------------------------------------


def test_held_calls_run_when_they_are_told_with_all_that_they_submit(
    executor: Executor, held: ExecutorCalls
) -> None:
    seen: list[int] = []

    def job(depth: int) -> None:
        seen.append(depth)
        if depth:
            executor.submit(job, depth - 1).add_done_callback(lambda _: seen.append(-depth))

    future = executor.submit(job, 2)
    executor.submit(fetch, "u")
    assert not held.runs
    assert future.status == "pending"
    assert seen == []
    held.run()
    assert sorted(seen) == [-2, -1, 0, 1, 2]
    executor.submit(job, 0)
    assert len(seen) == 5
    with pytest.raises(RuntimeError, match=r"1 calls are held, .*job: use run\(\)"):
        held.wait()


def test_a_held_job_may_wait_for_its_own_jobs(executor: Executor, held: ExecutorCalls) -> None:
    outer = executor.submit(lambda: executor.submit(mail, "ada").result(TIMEOUT))
    held.run()
    assert outer.result() == "hello, ada"


def test_what_is_still_held_is_cancelled_at_the_end(executor: Executor) -> None:
    with record(runs=False):
        future = executor.submit(int)
        executor.submit(int).cancel()
    assert future.cancelled()
    executor.wait_idle(TIMEOUT)


def test_calls_that_were_cancelled_do_not_run(executor: Executor, held: ExecutorCalls) -> None:
    seen: list[int] = []
    executor.submit(seen.append, 1).cancel()
    executor.submit(seen.append, 2)
    held.run()
    assert seen == [2]


def test_a_call_held_by_an_executor_that_is_shut_down_fails_when_it_is_to_run(
    executor: Executor, held: ExecutorCalls
) -> None:
    future = executor.submit(int)
    executor.shutdown()
    held.run()
    assert type(future.exception()).__name__ == "ExecutorClosedError"


def test_wait_names_what_does_not_end(executor: Executor, calls: ExecutorCalls) -> None:
    release = threading.Event()
    executor.using(name="endless").submit(release.wait, TIMEOUT)
    with pytest.raises(ExecutorBusyError, match=r"executor is not idle after 0\.01 s: endless \("):
        calls.wait(0.01)
    release.set()
    calls.wait(TIMEOUT)


# -- failures --------------------------------------------------------------------------------------


def unseen(record: Recording) -> list[str]:
    return [str(failure) for _, failure in record.unseen_failures()]


def test_a_failure_is_unseen_until_a_caller_asks(executor: Executor) -> None:
    seen: list[object] = []
    executor.add_default_done_callback(lambda future: seen.append(future.exception()))
    with recording(runs=True) as record:
        futures = [executor.submit(fail, str(number)) for number in range(4)]
        futures[3].add_done_callback(lambda future: seen.append(future.exception()))
        executor.wait_idle(TIMEOUT)
        assert unseen(record) == ["0", "1", "2"]
        assert futures[0].exception() is not None
        with pytest.raises(ValueError, match="1"):
            futures[1].result()

        async def main() -> None:
            with pytest.raises(ValueError, match="2"):
                await futures[2]

        assert unseen(record) == ["2"]
        asyncio.run(main())
        assert unseen(record) == []
    assert len(seen) == 5


def test_a_recorded_future_looks_like_others(executor: Executor, calls: ExecutorCalls) -> None:
    future = executor.submit(int)
    assert future.result(TIMEOUT) == 0
    assert was_asked(future)
    assert repr(future).startswith("<FutureProxy int succeeded at ")
    assert isinstance(future, FutureProxy)


def test_expected_failures_are_given_and_seen(executor: Executor) -> None:
    with recording(runs=True) as record:
        calls = ExecutorCalls(record)
        executor.submit(fail, "before")
        with calls.expect_failure(ValueError, match="^n") as errors:
            executor.submit(fail)
            executor.submit(fail, "other")
        assert [str(error) for error in errors] == ["no"]
        assert unseen(record) == ["before", "other"]


def test_a_failure_that_does_not_come_fails_the_test(
    executor: Executor, held: ExecutorCalls
) -> None:
    with pytest.raises(AssertionError) as caught, held.expect_failure((KeyError, OSError), "x"):
        executor.submit(fail)
    assert str(caught.value) == (
        "expected a job to fail with KeyError or OSError that matches 'x': ValueError('no')"
    )
    assert isinstance(caught.value.__cause__, ValueError)
    with (
        pytest.raises(AssertionError, match="fail with KeyError: none has failed"),
        held.expect_failure(KeyError),
    ):
        executor.submit(int)


# -- portable --------------------------------------------------------------------------------------


def test_arguments_functions_and_results_that_no_process_could_take_are_refused(
    executor: Executor,
) -> None:
    with record(portable=True) as calls:
        assert executor.submit(mail, "ada").result(TIMEOUT) == "hello, ada"
    assert len(calls) == 1
    lock: Any = threading.Lock()
    with (
        pytest.raises(UnpicklableError, match="argument 1"),
        record(portable=True),
        pytest.raises(UnpicklableError),  # a view may swallow it
    ):
        executor.submit(mail, lock)
    with pytest.raises(UnpicklableError, match="the function itself"), record(portable=True):
        executor.submit(lambda: 1)
    with pytest.raises(UnpicklableError, match="its result"), record(portable=True):
        executor.submit(threading.Lock).exception(TIMEOUT)


# -- other settings --------------------------------------------------------------------------------


def test_an_executor_is_overridden_and_gets_its_settings_back(
    app: Flask, executor: Executor
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    executor.init_app(app)
    with app.app_context():
        here = threading.get_ident()
        with override(executor, app, max_workers=1) as same:
            assert same is executor
            assert executor.submit(threading.get_ident).result() == here
            assert executor._max_workers == 1
        assert executor.submit(threading.get_ident).result(TIMEOUT) != here
        assert executor._max_workers == 3
    assert app.config["EXECUTOR_MAX_WORKERS"] == 3
    assert "EXECUTOR_TYPE" not in app.config


def test_what_only_an_engine_does_is_ignored_while_something_else_runs_its_jobs(
    app: Flask, executor: Executor
) -> None:
    routed = executor.using(queue="gpu", priority=1, delay=60, expires=120)
    kinds: list[Literal["sync", "thread"]] = ["sync", "thread"]
    for kind in kinds:
        with override(executor, app, type=kind):
            assert routed.submit(int).result(TIMEOUT) == 0
        with pytest.raises(UnsupportedError):
            routed.submit(int)


def test_a_setting_that_cannot_be_used_changes_nothing(app: Flask, executor: Executor) -> None:
    with pytest.raises(ConfigError), override(executor, app, max_workers=0):
        pass
    assert executor.submit(int).result(TIMEOUT) == 0
    assert "EXECUTOR_MAX_WORKERS" not in app.config


def test_calls_of_worker_processes_are_recorded(app: Flask, executor: Executor) -> None:
    with (
        override(executor, app, type="process", max_workers=1),
        record() as calls,
    ):
        future = executor.submit(abs, -1)
        calls.assert_submitted(abs, -1)
        calls.wait(TIMEOUT)
        assert future.result() == 1


# -- sync: as in threads ---------------------------------------------------------------------------

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("kind", ["sync", "thread"])
@pytest.mark.parametrize("is_async", [False, True])
def test_sync_runs_in_contexts_of_its_own_as_threads_do(
    app: Flask, executor: Executor, kind: str, is_async: bool
) -> None:
    app.config["EXECUTOR_TYPE"] = kind
    executor.init_app(app)

    def look() -> tuple[object, ...]:
        seen = g.value, request.args["q"], variable.get(), current_app.name
        g.value = "the job's"
        variable.set("the job's")
        return seen

    async def look_async() -> tuple[object, ...]:
        return look()

    with app.test_request_context("/?q=1"):
        g.value = "the view's"
        token = variable.set("the view's")
        seen = executor.submit(look_async) if is_async else executor.submit(look)
        assert seen.result(TIMEOUT) == ("the view's", "1", "the view's", "tests")
        assert (g.value, variable.get()) == ("the view's", "the view's")
        variable.reset(token)
        future = executor.submit(fail)  # raises nothing here
        assert isinstance(future.exception(TIMEOUT), ValueError)


# -- one job, without an executor ------------------------------------------------------------------


def steps(rows: list[int]) -> str:
    total = sum(track(rows))
    return f"{total} in attempt {current_job.attempt} of {current_job.key}"


def test_a_job_environment_runs_a_function_as_a_job() -> None:
    with JobEnvironment(attempt=2, key="k") as job:
        assert job.run(steps, [1, 2]) == "3 in attempt 2 of k"
        assert [step.done for step in job.progress] == [0, 2]
        assert job.run(fetch, "u") == b"u"
        with pytest.raises(ValueError, match="no"):
            job.run(fail)
    assert not current_job


def test_a_job_environment_uses_the_contexts_that_are_active(app: Flask) -> None:
    def names() -> tuple[str, str, int]:
        return current_app.name, request.path, len(current_job.id)

    with app.test_request_context("/here"), JobEnvironment() as job:
        assert job.run(names) == ("tests", "/here", 22)


def test_a_job_that_is_cancelled_sees_it() -> None:
    def until_cancelled(job: JobEnvironment) -> str:
        seen = current_job.cancel_requested
        job.cancel()
        assert current_job.cancel_requested
        current_job.raise_if_cancelled()
        return f"never {seen}"

    with JobEnvironment() as job, pytest.raises(CancelledError):
        job.run(until_cancelled, job)
    with JobEnvironment() as job:
        job.cancel()
        assert job.run(lambda: current_job.cancel_requested)
        with pytest.raises(CancelledError):
            job.run(fetch, "u")


def test_a_job_environment_works_where_a_loop_runs() -> None:
    async def main() -> bytes:
        with JobEnvironment() as job:
            return job.run(fetch, "u")

    assert asyncio.run(main()) == b"u"


class TestsWithoutPytest(unittest.TestCase):
    def setUp(self) -> None:
        self.app = Flask("unittest")
        self.executor = Executor(self.app)
        self.addCleanup(self.executor.shutdown)

    def test_record(self) -> None:
        with record() as calls:
            self.executor.submit(mail, "ada")
            calls.wait()
        calls.assert_submitted(mail, "ada")
