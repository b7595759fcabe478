"""Mistakes that people make with futures, jobs and executors, and the errors that name the cure."""

from __future__ import annotations

import asyncio
import copy
import functools
import pickle
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import pytest
from flask import Flask, jsonify, session
from markupsafe import escape

from flask_executor_typed import Executor, FutureProxy, UnpicklableError

from .apps import working
from .conftest import TIMEOUT
from .helpers.held import Held

HAS_BLINKER = find_spec("blinker") is not None


async def note(future: FutureProxy[Any], text: str = "") -> None:
    raise AssertionError("nothing awaits this")


class Notes:
    async def __call__(self, future: FutureProxy[Any]) -> None:
        raise AssertionError("nothing awaits this")


@pytest.mark.parametrize("fn", [note, functools.partial(note, text="a secret"), Notes()])
def test_async_callback_is_refused_with_the_cure(executor: Executor, fn: Any) -> None:
    future = executor.submit(int)
    for add in (future.add_done_callback, executor.add_default_done_callback):
        with pytest.raises(TypeError) as raised:
            add(fn)
        text = str(raised.value)
        assert text.startswith("expected a plain function of a future, got ")
        assert text.endswith(
            ", which is async and would never be awaited; submit it in a plain function, or await "
            "the future first"
        )
        assert "secret" not in text


def test_callback_that_cannot_be_called_is_refused(executor: Executor) -> None:
    given: Any = None
    with pytest.raises(TypeError, match=r"^expected a plain function of a future, got None$"):
        executor.submit(int).add_done_callback(given)


def test_asyncio_wait_takes_what_its_own_loop_makes_of_a_future(executor: Executor) -> None:
    async def main() -> int:
        done, _ = await asyncio.wait([asyncio.wrap_future(executor.submit(int, "7"))])
        return done.pop().result()

    assert asyncio.run(main()) == 7


@pytest.mark.skipif(sys.version_info < (3, 11), reason="it makes a task of any awaitable")
def test_future_that_asyncio_wait_is_given_is_refused_with_the_cure(
    executor: Executor,
) -> None:
    async def main() -> None:
        given: Any = executor.submit(int, "7")
        await asyncio.wait([given])

    with pytest.raises(TypeError) as raised:
        asyncio.run(asyncio.wait_for(main(), TIMEOUT))
    assert str(raised.value) == (
        "asyncio.wait() takes tasks and futures of its own loop: give it "
        "asyncio.wrap_future(future), or use asyncio.gather() or executor.as_completed()"
    )


def test_future_in_json_says_to_give_its_result(app: Flask, executor: Executor) -> None:
    def view() -> dict[str, object]:
        return {"total": executor.using(name="count").submit(int)}

    app.add_url_rule("/", view_func=view)
    app.testing = True
    text = "the future of count is not JSON; give its result: await the future, or call result"
    with pytest.raises(TypeError, match=text):
        app.test_client().get("/")
    with app.app_context(), pytest.raises(TypeError, match=text):
        jsonify([executor.using(name="count").submit(int)])


def test_future_in_the_session_says_to_give_its_result(app: Flask, executor: Executor) -> None:
    def view() -> str:
        session["total"] = executor.submit(int)
        return ""

    app.add_url_rule("/", view_func=view)
    app.testing = True
    with pytest.raises(TypeError, match=r"the future of int is not JSON"):
        app.test_client().get("/")


@pytest.mark.skipif(not HAS_BLINKER, reason="Flask sends no signals without blinker")
@pytest.mark.parametrize("with_status", [False, True])
def test_future_that_a_view_returns_says_to_return_its_result(
    app: Flask, executor: Executor, with_status: bool
) -> None:
    def view() -> Any:
        future = executor.submit(int)
        return (future, 200) if with_status else future

    app.add_url_rule("/", view_func=view)
    app.testing = True
    with pytest.raises(TypeError) as raised:
        app.test_client().get("/")
    assert str(raised.value).endswith(
        "but it was a FutureProxy. Return the future's result (future.result(), or 'await future' "
        "in an async view), or answer 202 with jobs.accepted(future) of a JobsBlueprint."
    )


@pytest.mark.skipif(not HAS_BLINKER, reason="Flask sends no signals without blinker")
def test_resource_that_a_view_does_not_await_says_to_await_it(
    app: Flask, executor: Executor
) -> None:
    clients: Any = executor.loop_resource(asynccontextmanager(opened))

    def view() -> Any:
        given = clients.get()
        try:
            return given.stream
        finally:
            given.close()

    app.add_url_rule("/", view_func=view)
    app.testing = True
    with pytest.raises(AttributeError, match=r"LoopResource.get\(\) gives a coroutine; await it"):
        app.test_client().get("/")


async def opened() -> AsyncGenerator[int]:
    yield 1


def test_other_errors_of_views_are_left_alone(app: Flask, executor: Executor) -> None:
    def view() -> Any:
        given: Any = executor
        return given.submti

    number: Any = int
    app.add_url_rule("/", view_func=view, endpoint="typo")
    app.add_url_rule("/number", view_func=number, endpoint="number")
    app.testing = True
    with pytest.raises(AttributeError, match=r"^'Executor' object has no attribute 'submti'$"):
        app.test_client().get("/")
    with pytest.raises(TypeError, match=r"but it was a int\.$"):
        app.test_client().get("/number")


def test_future_in_a_template_shows_what_it_is(executor: Executor) -> None:
    future = executor.submit(int)
    assert escape(future) == escape(repr(future))
    assert not hasattr(future, "__html__")


def test_future_cannot_be_pickled_or_copied_and_says_what_can(executor: Executor) -> None:
    future = executor.submit(int)
    for fn in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(
            TypeError, match=r"^a future cannot be pickled or copied; pass its resu"
        ):
            fn(future)


def test_future_as_the_argument_of_a_job_elsewhere_says_what_can_be_one() -> None:
    with working.serving() as executor:
        future: FutureProxy[Any] = FutureProxy("count")
        with pytest.raises(
            UnpicklableError, match=r"argument 1 .* pass its result, or its id or k"
        ):
            executor.submit(print, future)


def test_time_that_is_up_is_named_with_the_job(executor: Executor) -> None:
    held = Held()
    try:
        future = executor.using(name="count").submit(held)
        with pytest.raises(FutureTimeoutError) as raised:
            future.result(0.25)
        assert str(raised.value) == "count is not done after 0.25 s; it goes on"
        with pytest.raises(FutureTimeoutError, match=r"^the call is not done after 0 s"):
            FutureProxy[int]().exception(-1)
    finally:
        held.let_go()


def test_verbs_of_task_queues_say_which_is_ours(executor: Executor) -> None:
    job: Any = executor.job(working.add)
    anything: Any = executor
    for owner, name in [(job, "delay"), (job, "apply_async"), (anything, "enqueue")]:
        with pytest.raises(AttributeError) as raised:
            getattr(owner, name)
        kind = type(owner).__name__
        assert str(raised.value) == f"{kind!r} object has no attribute {name!r}; use submit()"
        assert (raised.value.name, raised.value.obj) == (name, owner)
        assert not hasattr(owner, name)
    with pytest.raises(AttributeError, match=r"^'Executor' object has no attribute 'submti'$"):
        _ = anything.submti


def test_second_executor_of_a_name_that_runs_jobs_of_an_app_is_warned_of_once(
    app: Flask, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    with Executor(app) as other:
        assert [other.submit(int).result(), executor.submit(int).result()] == [0, 0]
        assert [other.submit(int).result(), executor.submit(int).result()] == [0, 0]
    (record,) = caplog.records
    assert record.getMessage() == (
        "the app 'tests' has two executors called 'executor', and jobs run in both; "
        "app.extensions, doctor and the commands know only the newer: give one a name, such as "
        "Executor(app, name='mail')"
    )
    assert record.pathname == __file__


def test_executors_of_other_names_options_apps_and_times_are_not_warned_of(
    app: Flask, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    executor.submit(int)
    with Executor(app, name="mail") as mail:
        mail.submit(int)
    executor.using(name="count").submit(int)
    other_app = Flask("other")
    with Executor(other_app) as other:
        other.submit(int)
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    executor.init_app(app)
    executor.submit(int)
    executor.shutdown()
    with Executor(app) as later:
        later.submit(int)
    assert caplog.records == []
