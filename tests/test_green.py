"""Processes that gevent or eventlet has patched, as far as a stand-in for them can tell.

tests/integration/test_green.py has the real ones.
"""

from __future__ import annotations

import asyncio
import threading

import pytest
from flask import Flask

from flask_executor_typed import ConfigError, Executor, GreenThreadsError, JobTimeoutError
from flask_executor_typed.runtime import greenlets as green

from .conftest import TIMEOUT
from .helpers.greenlets import patch


@pytest.fixture(params=["gevent", "eventlet"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    patch(monkeypatch, name)
    monkeypatch.setattr(green, "_patched_at_import", name)
    return name


def test_process_that_nobody_has_patched_is_as_it_was() -> None:
    assert green.patched_by() is None


def test_plain_jobs_run_and_start_no_loop(library: str, app: Flask) -> None:
    assert green.patched_by() == library
    with Executor(app, name="green") as executor:
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
        names = [thread.name for thread in threading.enumerate()]
        assert "green_executor-worker-0" in names
        assert not [name for name in names if name.startswith("green_executor-loop")]


def test_coroutine_function_is_refused_and_takes_no_key(library: str, executor: Executor) -> None:
    with pytest.raises(GreenThreadsError, match="no event loop can run; sleep is asynchronous"):
        executor.submit_stored("nap", asyncio.sleep, 0)
    assert "nap" not in executor.futures
    assert executor.submit_stored("nap", int).result(TIMEOUT) == 0


def test_coroutine_that_a_plain_function_returns_is_closed_and_the_error_of_the_job(
    library: str, executor: Executor
) -> None:
    async def never() -> None: ...

    coroutines = [never()]
    future = executor.submit(lambda: coroutines[0])
    with pytest.raises(GreenThreadsError, match="what the job returned is asynchronous"):
        future.result(TIMEOUT)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coroutines[0].send(None)


def test_time_limits_work_without_a_loop(library: str, executor: Executor) -> None:
    never = threading.Event()
    with pytest.raises(JobTimeoutError):
        executor.using(timeout=0.01).submit(never.wait, TIMEOUT).result(TIMEOUT)
    never.set()
    assert executor.using(timeout=TIMEOUT).submit(int).result(TIMEOUT) == 0


def test_shutdown_does_not_wait_for_the_timers_of_jobs_that_are_done(
    library: str, executor: Executor
) -> None:
    assert executor.using(timeout=3600).submit(int).result(TIMEOUT) == 0
    executor.shutdown()
    for thread in threading.enumerate():
        if thread.name == "executor-timer":
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def test_job_that_shuts_its_executor_down_does_not_wait_for_itself(
    library: str, executor: Executor
) -> None:
    shut_down = executor.submit(executor.shutdown)
    assert shut_down.result(TIMEOUT) is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("EXECUTOR_TYPE", "process", "'thread'"), ("EXECUTOR_ASYNC_VIEWS", True, "False")],
)
def test_setting_that_needs_real_threads_is_refused(
    library: str, app: Flask, key: str, value: object, expected: str
) -> None:
    app.config[key] = value
    with pytest.raises(ConfigError) as raised:
        Executor(app)
    assert raised.value.key == key
    assert raised.value.expected == f"{expected}, since {library} has patched this process"


@pytest.mark.usefixtures("library")
def test_defaults_spelled_out_are_accepted(app: Flask) -> None:
    app.config["EXECUTOR_TYPE"] = "thread"
    app.config["EXECUTOR_ASYNC_VIEWS"] = "no"
    with Executor(app) as executor:
        assert executor.submit(int).result(TIMEOUT) == 0


def test_process_patched_after_the_import_is_refused_by_the_first_submit(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch(monkeypatch, "eventlet")
    with pytest.raises(GreenThreadsError) as raised:
        executor.submit(int)
    assert str(raised.value) == (
        "eventlet patched the process when flask_executor_typed had already been imported; begin "
        "the program, or with --preload gunicorn.conf.py, with 'import eventlet; "
        "eventlet.monkey_patch()'"
    )
