"""What code written for Flask-Executor relies on; docs/migrating.rst says what is different."""

from __future__ import annotations

import concurrent.futures
import importlib
import logging
import threading
from typing import Any

import pytest
from flask import Flask, current_app, g

from flask_executor_typed import Executor, NoAppError
from flask_executor_typed.executor import (
    ExecutorJob,
    get_current_app_context,
    propagate_exceptions_callback,
    push_app_context,
)
from flask_executor_typed.futures import Future, FutureCollection, FutureProxy
from flask_executor_typed.helpers import InstanceProxy, str2bool

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
    assert isinstance(future, Future)
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


MODULES = ["", ".executor", ".futures", ".helpers"]

NOT_OURS = {
    "contextvars": "a module of the standard library, which the original imports",
    "copy": "a module of the standard library, which the original imports",
    "Executor.EXECUTOR_FUTURES_MAX_LENGTH": "an executor serves many apps",
    "Executor.EXECUTOR_MAX_WORKERS": "an executor serves many apps",
    "Executor.EXECUTOR_PROPAGATE_EXCEPTIONS": "an executor serves many apps",
    "Executor.EXECUTOR_PUSH_APP_CONTEXT": "an executor serves many apps",
    "Executor.EXECUTOR_TYPE": "an executor serves many apps",
    "Executor.app": "an executor serves many apps",
    "Executor._make_executor": "private: there is no pool of the standard library",
    "Executor._prepare_fn": "private: contexts are captured, not wrapped around the function",
    "FutureCollection._check_limits": "private: add() does it",
    "FutureProxy._executor": "private: a future carries its contexts itself",
}
"""Names of Flask-Executor 1.0.0 that are not here, and why."""


@pytest.mark.parametrize("module", MODULES)
def test_every_name_of_the_originals_modules_can_be_imported_from_ours(module: str) -> None:
    original = vars(importlib.import_module(f"flask_executor{module}"))
    ours = vars(importlib.import_module(f"flask_executor_typed{module}"))
    names = {name for name in original if not name.startswith("__") or name == "__version__"}
    assert names - NOT_OURS.keys() <= ours.keys()


def test_every_attribute_of_the_originals_objects_is_one_of_ours(
    app: Flask, executor: Executor
) -> None:
    import flask_executor.executor

    original = flask_executor.executor.Executor(app, "original")
    with app.test_request_context():
        theirs = [original, original.futures, original.job(one), original.submit(one)]
    ours = [executor, executor.futures, executor.job(one), executor.submit(one)]
    missing: set[str] = set()
    for old, new in zip(theirs, ours, strict=True):
        names = {*vars(type(old)), *object.__getattribute__(old, "__dict__")}
        own = {name for name in names if not name.startswith("__")}
        missing |= {f"{type(new).__name__}.{name}" for name in own if not hasattr(new, name)}
    original.shutdown()
    assert missing == {name for name in NOT_OURS if "." in name}


def test_instance_proxy_has_what_its_object_has_but_for_what_its_class_defines() -> None:
    class Loud(InstanceProxy):
        def upper(self) -> str:
            return str(self._self.upper()) + "!"

    proxy: Any = Loud("hi")
    assert (proxy.upper(), proxy.title()) == ("HI!", "Hi")
    assert repr(proxy) == "<Loud( 'hi' )>"
    proxy._self = "bye"
    assert proxy.title() == "Bye"
    with pytest.raises(AttributeError, match="nothing"):
        _ = proxy.nothing


def test_str2bool_knows_four_words() -> None:
    assert all(map(str2bool, [True, "yes", "True", "t", 1]))
    assert not any(map(str2bool, [False, None, "on", 2]))


def test_push_app_context_gives_each_call_a_copy_of_g(app: Flask) -> None:
    seen: list[tuple[str, str]] = []

    def note(word: str) -> None:
        seen.append((current_app.name, g.get("word", "") + g.user))
        g.word = word

    with app.app_context():
        g.user = "ada"
        wrapped = push_app_context(note)
        g.user = "bob"
        context = get_current_app_context()
    assert context is not None
    assert get_current_app_context() is None
    for word in ("one", "two"):
        thread = threading.Thread(target=wrapped, args=(word,))
        thread.start()
        thread.join(TIMEOUT)
    assert seen == [("tests", "ada"), ("tests", "ada")]
