"""What a job sees of Flask's contexts and of contextvars, and what it leaves alone.

Of ``g``: test_context_g.py; of the request: test_context_requests.py; how contexts end:
test_context_teardown.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    current_app,
    g,
    has_app_context,
    has_request_context,
    request,
    session,
)

from flask_executor_typed import Executor, FutureProxy

from .conftest import TIMEOUT
from .helpers.contexts import (
    Job,
    both_kinds,
    coroutine,
    in_worker,
    items_of,
    itself,
    names_in_g,
    plain,
    run,
    start,
    teardowns,
    variable,
)

# -- what a job sees -------------------------------------------------------------------------------


@both_kinds
def test_job_submitted_in_a_request_sees_app_g_request_and_session(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def job() -> tuple[Any, ...]:
        return current_app.name, g.user, request.args["id"], session["cart"], in_worker()

    with app.test_request_context("/?id=7"):
        g.user = "me"
        session["cart"] = [1, 2]
        assert run(executor, kind(job)) == ("tests", "me", "7", [1, 2], True)


@both_kinds
def test_job_submitted_in_an_app_context_sees_app_and_g_but_no_request(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    with app.app_context():
        g.user = "me"
        seen = run(executor, kind(lambda: (current_app.name, g.user, has_request_context())))
    assert seen == ("tests", "me", False)


@both_kinds
def test_job_submitted_outside_of_contexts_sees_the_registered_app(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    seen = run(executor, kind(lambda: (itself(current_app), items_of(g), has_request_context())))
    assert seen == (app, {}, False)


@both_kinds
def test_job_belongs_to_the_app_that_is_active_when_it_is_submitted(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    other = Flask("other")
    executor.init_app(other)

    def job() -> tuple[Any, ...]:
        return itself(current_app), g.owner, has_request_context()

    for owner in (app, other, app):
        with owner.app_context():
            g.owner = owner.name
            assert run(executor, kind(job)) == (owner, owner.name, False)
        with owner.test_request_context():
            g.owner = owner.name
            assert run(executor, kind(job)) == (owner, owner.name, True)


@both_kinds
def test_request_of_one_app_does_not_travel_with_a_job_of_another(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    other = Flask("other")
    executor.init_app(other)
    with app.test_request_context("/?id=7"):
        g.user = "of app"
        with other.app_context():
            g.user = "of other"
            seen = run(executor, kind(lambda: (current_app.name, g.user, has_request_context())))
    assert seen == ("other", "of other", False)


def test_request_that_comes_or_goes_between_two_submits_is_for_the_second_job_as_it_is_then(
    app: Flask, executor: Executor
) -> None:
    go_on = threading.Event()

    def job() -> str | None:
        assert go_on.wait(TIMEOUT)
        return request.path if has_request_context() else None

    futures: list[FutureProxy[str | None]] = []
    with app.app_context():
        for path in "/first", "/second":
            futures.append(executor.submit(job))
            with app.test_request_context(path):
                futures.append(executor.submit(job))
        futures.append(executor.submit(job))
        go_on.set()
        paths = [future.result(TIMEOUT) for future in futures]
    assert paths == [None, "/first", None, "/second", None]


@both_kinds
def test_contextvars_travel(app: Flask, executor: Executor, kind: Callable[[Job], Job]) -> None:
    token = variable.set("submitter's")
    try:
        future = start(executor, kind(variable.get))
        variable.set("changed after submit")
        assert future.result(TIMEOUT) == "submitter's"
    finally:
        variable.reset(token)


@both_kinds
def test_nothing_that_a_job_leaves_in_contextvars_or_g_stays_on_the_worker(
    app: Flask, kind: Callable[[Job], Job]
) -> None:
    def look_and_leave(number: int) -> tuple[Any, ...]:
        seen = variable.get(), items_of(g)
        variable.set(f"left by {number}")
        g.left = number
        return seen

    app.config["EXECUTOR_MAX_WORKERS"] = 1
    with Executor(app) as executor:
        futures = [start(executor, kind(look_and_leave), number) for number in range(200)]
        seen = [future.result(TIMEOUT) for future in futures]
    assert [one for one in seen if one != ("unset", {})] == []


# -- the two settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("push_request", [True, False])
@pytest.mark.parametrize("push_app", [True, False])
@pytest.mark.parametrize("where", ["request", "app", "nowhere"])
@both_kinds
def test_settings_say_which_contexts_are_pushed(
    app: Flask, kind: Callable[[Job], Job], where: str, push_app: bool, push_request: bool
) -> None:
    def job() -> tuple[Any, ...]:
        if not has_app_context():
            return False, has_request_context(), None, None
        return (
            True,
            has_request_context(),
            request.args["id"] if has_request_context() else None,
            g.get("user"),
        )

    app.config["EXECUTOR_PUSH_APP_CONTEXT"] = push_app
    app.config["EXECUTOR_PUSH_REQUEST_CONTEXT"] = push_request
    contexts: dict[str, AbstractContextManager[Any]] = {
        "request": app.test_request_context("/?id=7"),
        "app": app.app_context(),
        "nowhere": nullcontext(),
    }
    token = variable.set("travels")
    try:
        with Executor(app) as executor, contexts[where]:
            if where != "nowhere":
                g.user = "me"
            seen = run(executor, kind(job))
            assert run(executor, kind(variable.get)) == "travels"
    finally:
        variable.reset(token)
    with_request = push_request and where == "request"
    assert seen == (
        push_app or with_request,  # Flask has no request without an app context
        with_request,
        "7" if with_request else None,
        "me" if push_app and where != "nowhere" else None,
    )


def test_functions_around_a_request_do_not_run_for_jobs(app: Flask, executor: Executor) -> None:
    ran: list[str] = []
    app.before_request(lambda: ran.append("before"))

    @app.after_request
    def after(response: Response) -> Response:
        ran.append("after")
        return response

    def view() -> str:
        for kind in (plain, coroutine):
            run(executor, kind(lambda: None))
        return ""

    app.add_url_rule("/", view_func=view)
    app.test_client().get("/")
    assert ran == ["before", "after"]


# -- callbacks -------------------------------------------------------------------------------------


@both_kinds
def test_callback_runs_with_contexts_like_those_it_was_added_in(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    seen: list[tuple[Any, ...]] = []
    done, release = threading.Event(), threading.Event()

    def callback(future: FutureProxy[Any]) -> None:
        seen.append((current_app.name, g.user, request.args["id"], variable.get(), in_worker()))
        g.user = "callback's"
        done.set()

    with app.test_request_context("/?id=7"):
        g.user = "at submit"
        future = start(executor, kind(lambda: release.wait(TIMEOUT)))
        g.user = "at add_done_callback"
        future.add_done_callback(callback)
        g.user = "later"
        release.set()
        assert done.wait(TIMEOUT)
        assert g.user == "later"
    assert seen == [("tests", "at add_done_callback", "7", "unset", True)]


@both_kinds
def test_callback_added_outside_of_contexts_runs_with_those_of_the_call(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    seen: list[tuple[Any, ...]] = []
    done, release = threading.Event(), threading.Event()

    def callback(future: FutureProxy[Any]) -> None:
        seen.append((current_app.name, g.user, request.args["id"], in_worker()))
        done.set()

    with app.test_request_context("/?id=7"):
        g.user = "me"
        future = start(executor, kind(lambda: release.wait(TIMEOUT)))
    future.add_done_callback(callback)
    release.set()
    assert done.wait(TIMEOUT)
    assert seen == [("tests", "me", "7", True)]


def test_callback_added_after_the_call_is_done_has_the_app(app: Flask, executor: Executor) -> None:
    future = executor.submit(int)
    future.result(TIMEOUT)
    seen: list[str] = []
    future.add_done_callback(lambda _: seen.append(current_app.name))
    assert seen == ["tests"]


def test_default_callbacks_run_with_contexts_like_the_calls(app: Flask) -> None:
    seen: list[tuple[Any, ...]] = []
    with Executor(app) as executor:
        executor.add_default_done_callback(
            lambda _: seen.append((current_app.name, g.get("user"), has_request_context()))
        )
        with app.test_request_context():
            g.user = "me"
            for _ in range(100):
                executor.submit(int)
        for _ in range(100):
            executor.submit(int)
    assert Counter(seen) == {("tests", "me", True): 100, ("tests", None, False): 100}


def test_contexts_of_a_callback_are_torn_down_after_it(app: Flask) -> None:
    log = teardowns(app)
    with Executor(app) as executor, app.app_context():
        executor.submit(int).add_done_callback(lambda _: log.append(("callback", None, True)))
    of_callback = log[log.index(("callback", None, True)) :]
    assert of_callback[1][0] == "app"


def test_callback_of_a_call_cancelled_in_a_request_leaves_that_request_alone(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    release = threading.Event()
    seen: list[str] = []

    def callback(future: FutureProxy[Any]) -> None:
        seen.append(request.args["id"])
        g.user = "callback's"
        variable.set("callback's")

    with Executor(app) as executor:
        executor.submit(release.wait, TIMEOUT)
        with app.test_request_context("/?id=1"):
            future = executor.submit(int)
            future.add_done_callback(callback)
        with app.test_request_context("/?id=2"):
            g.user = "me"
            assert future.cancel()
            assert (g.user, request.args["id"], variable.get()) == ("me", "2", "unset")
        release.set()
    assert seen == ["1"]


def test_what_carry_g_leaves_out_is_left_out_of_callbacks_too(app: Flask) -> None:
    seen: list[set[str]] = []
    release = threading.Event()
    with Executor(app, carry_g=("user",)) as executor:
        executor.add_default_done_callback(lambda _: seen.append(names_in_g()))
        with app.app_context():
            g.user, g.secret = "me", "connection without a close method"
            future = executor.submit(release.wait, TIMEOUT)
            future.add_done_callback(lambda _: seen.append(names_in_g()))
            release.set()
    assert seen == [{"user"}, {"user"}]


# -- many at once ----------------------------------------------------------------------------------


def test_200_concurrent_requests_of_two_apps_never_mix_up_what_their_jobs_see(app: Flask) -> None:
    other = Flask("other")
    everyone_is_in_a_view = threading.Barrier(200)

    def seen(number: int = 0) -> tuple[str, ...]:
        return request.args["id"], g.id, variable.get(), current_app.name

    async def seen_async(number: int = 0) -> tuple[str, ...]:
        before = seen()
        await asyncio.sleep(0.001)
        assert seen() == before
        return before

    def view() -> str:
        own = request.args["id"]
        g.id = own
        variable.set(own)
        everyone_is_in_a_view.wait(TIMEOUT)
        futures = [executor.submit(seen) for _ in range(20)]
        futures += [executor.submit(seen_async) for _ in range(20)]
        mapped = executor.map(seen, range(5))
        results = [future.result(TIMEOUT * 3) for future in futures]
        return f"{Counter([*results, *mapped])}"

    with Executor(app) as executor:
        executor.init_app(other)
        for each in (app, other):
            each.add_url_rule("/", view_func=view)

        def call(number: int) -> tuple[str, str]:
            target = (app, other)[number % 2]
            answer = target.test_client().get(f"/?id={number}").get_data(as_text=True)
            one = (str(number), str(number), str(number), target.name)
            return answer, f"{Counter({one: 45})}"

        with ThreadPoolExecutor(200) as clients:
            answers = list(clients.map(call, range(200)))
    assert [answer for answer in answers if answer[0] != answer[1]] == []
