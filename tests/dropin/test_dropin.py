"""What code written for Flask-Executor relies on; docs/migrating.rst says what is different."""

from __future__ import annotations

import concurrent.futures
import logging
import threading

import pytest
from flask import Flask, g

from flask_executor_typed import Executor, NoAppError
from flask_executor_typed.executor import ExecutorJob, propagate_exceptions_callback
from flask_executor_typed.futures import FutureCollection, FutureProxy

from ..conftest import TIMEOUT


def one() -> int:
    return 1


def fail() -> None:
    raise LookupError("lost")


def test_modules_export_the_names_that_were_imported_from_them(executor: Executor) -> None:
    assert isinstance(executor.job(one), ExecutorJob)
    assert isinstance(executor.futures, FutureCollection)
    future = executor.submit(fail)
    assert isinstance(future, FutureProxy)
    with pytest.raises(LookupError):
        propagate_exceptions_callback(future)


def test_submit_stored_takes_its_parameters_by_keyword(executor: Executor) -> None:
    future = executor.submit_stored(future_key="key", fn=one)
    assert future.result(TIMEOUT) == 1
    assert executor.futures.pop("key") is future


def test_collection_is_one_object_before_and_after_init_app(app: Flask) -> None:
    executor = Executor()
    futures = executor.futures
    executor.init_app(app)
    assert executor.futures is futures
    executor.submit_stored("key", one)
    assert futures.result("key", timeout=TIMEOUT) == 1
    executor.shutdown()


def test_state_is_the_word_of_concurrent_futures(executor: Executor) -> None:
    started, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        go_on.wait(TIMEOUT)

    future = executor.submit_stored("key", wait)
    assert started.wait(TIMEOUT)
    assert executor.futures._state("key") == "RUNNING"
    go_on.set()
    concurrent.futures.wait([future], TIMEOUT)
    assert executor.futures._state("key") == future._state == "FINISHED"
    assert executor.futures._state("unknown") is None
    with pytest.raises(KeyError):
        executor.futures._futures["unknown"]


def test_length_none_does_not_lift_the_bound(app: Flask) -> None:
    app.config["EXECUTOR_FUTURES_MAX_LENGTH"] = None
    assert Executor(app).futures.max_length == 50


def test_attributes_set_by_a_default_callback_are_seen_on_the_future(executor: Executor) -> None:
    called = threading.Event()

    def mark(future: FutureProxy[int]) -> None:
        future.test = "hi"  # type: ignore[attr-defined]
        called.set()

    executor.add_default_done_callback(mark)
    future = executor.submit(one)
    assert called.wait(TIMEOUT)
    assert future.test == "hi"  # type: ignore[attr-defined]


def test_propagate_exceptions_logs_the_exception_once(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    app.config["EXECUTOR_PROPAGATE_EXCEPTIONS"] = "true"
    with caplog.at_level(logging.ERROR), Executor(app) as executor:
        executor.submit(fail)
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [LookupError]


def test_pool_attributes_that_public_code_reads_are_there(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = "3"
    executor = Executor(app)
    assert executor._max_workers == executor._self._max_workers == 3
    assert executor._work_queue.qsize() == 0
    assert executor._shutdown is False
    executor.shutdown()
    assert executor._shutdown is True


def test_executor_is_true_and_has_a_repr_before_init_app() -> None:
    executor = Executor()
    assert bool(executor) is True
    assert repr(executor) == "<Executor 'executor' of no app yet>"
    with pytest.raises(NoAppError, match="init_app"):
        executor.submit(one)


def test_settings_made_after_init_app_are_used_and_said(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    executor = Executor(app)
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    with caplog.at_level(logging.WARNING), executor:
        executor.submit(one).result(TIMEOUT)
        executor.submit(one).result(TIMEOUT)
    assert executor._max_workers == 1
    expected = (
        "settings of executor changed after init_app(), and are used now: "
        "max_workers: None -> 1; set them before"
    )
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_submit_works_within_a_test_request_context(app: Flask, executor: Executor) -> None:
    with app.test_request_context("/?id=7"):
        g.user = "me"
        future = executor.submit(lambda: g.user)
    assert future.result(TIMEOUT) == "me"
