"""What a job sees of Flask's contexts and of contextvars, and what it leaves alone."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from contextvars import ContextVar, copy_context
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import flask.globals
import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    after_this_request,
    copy_current_request_context,
    current_app,
    g,
    has_app_context,
    has_request_context,
    request,
    session,
    stream_with_context,
    url_for,
)
from flask import Request as FlaskRequest
from flask.ctx import AppContext, _AppCtxGlobals
from flask.signals import (
    appcontext_popped,
    appcontext_pushed,
    appcontext_tearing_down,
    request_tearing_down,
)
from werkzeug.routing import BaseConverter

from flask_executor_typed import Executor, FutureProxy, without_resources
from flask_executor_typed.context import (
    ContextRules,
    PushedContexts,
    active_app_context,
    capture,
)

from .conftest import TIMEOUT, until

Job = Callable[..., Any]

variable: ContextVar[str] = ContextVar("variable", default="unset")


def plain(fn: Job) -> Job:
    return fn


def coroutine(fn: Job) -> Job:
    """The same as a coroutine function, which lets others run before and after ``fn``."""

    async def job(*args: Any) -> Any:
        await asyncio.sleep(0)
        result = fn(*args)
        await asyncio.sleep(0)
        return result

    return job


both_kinds = pytest.mark.parametrize("kind", [plain, coroutine])

has_two_contexts = pytest.mark.skipif(
    hasattr(AppContext, "has_request"), reason="Flask 3.2 has one context for app and request"
)


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Threads that take turns as often as they can, to meet each other's races."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def start(executor: Executor, fn: Job, *args: Any) -> FutureProxy[Any]:
    return executor.submit(fn, *args)


def run(executor: Executor, fn: Job, *args: Any) -> Any:
    return start(executor, fn, *args).result(TIMEOUT)


def itself(proxy: Any) -> Any:
    """What stands behind ``g`` or ``request``."""
    return proxy._get_current_object()


def items_of(proxy: Any) -> dict[str, Any]:
    """A copy of what is set on ``g`` or ``request``."""
    return {**vars(itself(proxy))}


def request_context() -> Any:
    """The context that ``request`` is found in; of Flask 2.0 and 2.1 it is on a stack."""
    names: dict[str, Any] = {**vars(flask.globals)}
    proxy = names.get("request_ctx") or names.get("app_ctx")
    return names["_request_ctx_stack"].top if proxy is None else itself(proxy)


def app_context() -> Any:
    names: dict[str, Any] = {**vars(flask.globals)}
    proxy = names.get("app_ctx")
    return names["_app_ctx_stack"].top if proxy is None else itself(proxy)


def in_worker() -> bool:
    return threading.current_thread().name.startswith("executor-")


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


# -- g ---------------------------------------------------------------------------------------------


@both_kinds
def test_g_is_the_submitters_at_the_moment_of_submit(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    release = threading.Event()
    shared: list[str] = []

    def job() -> tuple[Any, ...]:
        assert release.wait(TIMEOUT)
        return g.name, g.shared, "later" in g

    with app.app_context():
        g.name, g.shared = "early", shared
        future = start(executor, kind(job))
        g.name, g.later = "late", 1
        shared.append("seen")  # the names are copied, the values are the same
        release.set()
        assert future.result(TIMEOUT) == ("early", ["seen"], False)


@both_kinds
def test_each_job_of_a_request_gets_what_g_holds_when_it_is_submitted(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    release = threading.Event()
    items_of_last: list[Any] = []
    states: list[dict[str, Any]] = [
        {},
        {"items": [], "flag": 1},
        {"items": [], "flag": 1},  # another list
        {"items": [], "flag": True},  # equal, and another thing
        {"items": []},
        {"flag": True},
        {"flag": True, "items": None},
        {"flag": True, "items": items_of_last},
        {"items": items_of_last},  # one is gone, and the other the same
    ]

    def job() -> dict[str, Any]:
        assert release.wait(TIMEOUT)
        items = items_of(g)
        g.own = 1
        return items

    with app.test_request_context():
        futures: list[FutureProxy[dict[str, Any]]] = []
        for state in states:
            g.__dict__.clear()
            g.__dict__.update(state)
            futures += [start(executor, kind(job)) for _ in range(2)]
        release.set()
        for index, future in enumerate(futures):
            state, items = states[index // 2], future.result(TIMEOUT)
            assert items.keys() == state.keys()
            assert all(items[name] is value for name, value in state.items())


class Torn(dict[str, Any]):
    """Values that other threads change all the time."""

    def items(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")


class TornG:
    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values = Torn(user="me")

    __dict__: Any = property(lambda self: self._values)


def test_g_that_other_threads_change_does_not_keep_jobs_from_being_submitted(
    app: Flask, executor: Executor
) -> None:
    app.app_ctx_globals_class = TornG  # type: ignore[assignment]
    go_on = threading.Event()

    def job() -> str:
        assert go_on.wait(TIMEOUT)
        return str(g.__dict__["user"])

    with app.app_context():
        futures = [executor.submit(job) for _ in range(2)]
        go_on.set()
        assert [future.result(TIMEOUT) for future in futures] == ["me", "me"]


def test_carry_g_function_is_asked_for_each_job(app: Flask) -> None:
    answers = iter([True, False, True])
    go_on = threading.Event()

    def job() -> set[str]:
        assert go_on.wait(TIMEOUT)
        return names_in_g()

    with Executor(app, carry_g=lambda name, value: next(answers)) as executor, app.app_context():
        g.user = "me"
        futures = [executor.submit(job) for _ in range(3)]
        go_on.set()
        assert [future.result(TIMEOUT) for future in futures] == [{"user"}, set(), {"user"}]


def test_what_a_view_deletes_from_g_is_freed_when_its_jobs_are_done(
    app: Flask, executor: Executor
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executor.init_app(app)
    with app.app_context():
        g.marker = Marker()
        alive = weakref.ref(g.marker)
        run(executor, int)
        del g.marker
        with app.app_context():
            run(executor, int)  # the worker has let go of its last call when it does the next
        assert alive() is None


@both_kinds
def test_executors_that_give_their_jobs_different_things_take_turns(
    app: Flask, kind: Callable[[Job], Job]
) -> None:
    app.config["NO_REQUEST_EXECUTOR_PUSH_REQUEST_CONTEXT"] = False
    go_on = threading.Event()

    def job() -> tuple[set[str], bool]:
        assert go_on.wait(TIMEOUT)
        return names_in_g(), has_request_context()

    few, many = Executor(app, carry_g=("user",)), Executor(app, name="many")
    no_request = Executor(app, name="no_request")
    with few, many, no_request, app.test_request_context():
        g.user, g.number = "me", 7
        futures = [start(each, kind(job)) for _ in range(2) for each in (few, many, no_request)]
        go_on.set()
        assert [future.result(TIMEOUT) for future in futures] == 2 * [
            ({"user"}, True),
            ({"user", "number"}, True),
            ({"user", "number"}, False),
        ]


@pytest.mark.parametrize("make_context", [Flask.app_context, Flask.test_request_context])
@both_kinds
def test_job_writing_to_g_leaves_the_submitters_g_alone(
    app: Flask,
    executor: Executor,
    kind: Callable[[Job], Job],
    make_context: Callable[[Flask], AbstractContextManager[Any]],
) -> None:
    def job() -> None:
        g.name = "job's"
        g.new = 1
        g.pop("gone")

    with make_context(app):
        g.name, g.gone = "submitter's", "still here"
        run(executor, kind(job))
        assert items_of(g) == {"name": "submitter's", "gone": "still here"}


@both_kinds
def test_each_run_has_contexts_of_its_own(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def job(_: int = 0) -> tuple[Any, ...]:
        return itself(g), itself(request), request.environ

    with app.test_request_context():
        mine = job()
        runs = [mine, *executor.map(kind(job), range(8))]
        runs += [run(executor, kind(job)) for _ in range(4)]
    for of_each_run in zip(*runs, strict=True):
        assert len({id(one) for one in of_each_run}) == len(runs)


def test_mapped_calls_that_run_at_once_do_not_see_what_the_others_write(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 4
    barrier = threading.Barrier(4)

    def write_then_read(number: int) -> tuple[Any, ...]:
        g.number = number
        request.environ["number"] = number
        variable.set(str(number))
        barrier.wait(TIMEOUT)
        return g.number, request.environ["number"], variable.get()

    with Executor(app) as executor, app.test_request_context():
        results = list(executor.map(write_then_read, range(4), timeout=TIMEOUT))
    assert results == [(number, number, str(number)) for number in range(4)]


def test_coroutines_that_run_at_once_on_one_loop_do_not_see_what_the_others_write(
    app: Flask, executor: Executor
) -> None:
    everyone = asyncio.Event()
    arrived: list[int] = []

    async def write_then_read(number: int) -> tuple[Any, ...]:
        g.number = number
        request.environ["number"] = number
        variable.set(str(number))
        arrived.append(number)
        if len(arrived) == 20:
            everyone.set()
        await asyncio.wait_for(everyone.wait(), TIMEOUT)
        return g.number, request.environ["number"], variable.get()

    with app.test_request_context():
        results = list(executor.map(write_then_read, range(20), timeout=TIMEOUT))
    assert results == [(number, number, str(number)) for number in range(20)]


class Resource:
    """Something that must be closed by its owner."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class AsyncResource:
    async def aclose(self) -> None:
        """As an httpx client has it."""


def names_in_g() -> set[str]:
    return set(items_of(g))


def fill_g() -> None:
    g.user, g.number, g.kind = "me", 7, Resource  # a class is no resource
    g.db, g.client = Resource(), AsyncResource()


@both_kinds
def test_what_must_be_closed_stays_with_the_submitter(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    with app.app_context():
        fill_g()
        assert run(executor, kind(names_in_g)) == {"user", "number", "kind"}
        assert set(names_in_g()) == {"user", "number", "kind", "db", "client"}


@pytest.mark.parametrize("names", [("user", "db"), ["user", "db"], {"user", "db", "other"}])
def test_carry_g_as_names(app: Flask, names: Any) -> None:
    with Executor(app, carry_g=names) as executor, app.app_context():
        fill_g()
        assert run(executor, names_in_g) == {"user", "db"}


def test_carry_g_of_no_names_carries_nothing(app: Flask) -> None:
    with Executor(app, carry_g=()) as executor, app.app_context():
        fill_g()
        assert run(executor, names_in_g) == set()


def test_carry_g_as_a_function_of_name_and_value(app: Flask) -> None:
    def carry(name: str, value: object) -> bool:
        return name == "db" or (without_resources(name, value) and isinstance(value, str))

    with Executor(app, carry_g=carry) as executor, app.app_context():
        fill_g()
        assert run(executor, names_in_g) == {"db", "user"}


def test_carry_g_as_a_string_is_refused_with_the_cure() -> None:
    with pytest.raises(TypeError) as raised:
        Executor(carry_g="user")
    assert str(raised.value) == "carry_g='user': expected names; for one, use ('user',)"


def test_what_carry_g_raises_reaches_the_submitter(app: Flask) -> None:
    def carry(name: str, value: object) -> bool:
        raise LookupError(name)

    with Executor(app, carry_g=carry) as executor:
        assert run(executor, names_in_g) == set()  # not asked without a g
        with app.app_context():
            g.user = "me"
            with pytest.raises(LookupError, match="user"):
                executor.submit(int)


class LazyG:
    """As Flask's documentation suggests: with a property."""

    @property
    def shout(self) -> str:
        return str(vars(self)["user"]).upper()


class ControlledG:
    """Takes what it knows and nothing else."""

    __slots__ = ("user",)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [(LazyG, "shout", "ME"), (ControlledG, "user", None)],  # slots do not travel
)
def test_g_of_a_class_of_the_apps_own(
    app: Flask, executor: Executor, kind: Any, name: str, expected: object
) -> None:
    def job() -> tuple[bool, object]:
        return isinstance(itself(g), kind), getattr(g, name, None)

    app.app_ctx_globals_class = kind
    with app.app_context():
        g.user = "me"
        assert run(executor, job) == (True, expected)


# -- the request -----------------------------------------------------------------------------------


@both_kinds
def test_url_is_matched_once_per_request_and_not_again_per_job(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    matched: list[str] = []

    class Counted(BaseConverter):
        def to_python(self, value: str) -> str:
            matched.append(value)
            return value

    app.url_map.converters["counted"] = Counted

    def job() -> tuple[Any, ...]:
        return request.endpoint, request.view_args, url_for("view", x="b", _external=True)

    def view(x: str) -> str:
        for _ in range(3):
            assert run(executor, kind(job)) == ("view", {"x": "a"}, "http://localhost/b")
        return x

    app.add_url_rule("/<counted:x>", view_func=view)
    assert app.test_client().get("/a").data == b"a"
    assert matched == ["a"]


@both_kinds
def test_job_sees_what_the_view_put_on_the_request_before_submit_and_not_after(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    release = threading.Event()

    def job() -> tuple[Any, ...]:
        assert release.wait(TIMEOUT)
        mine = items_of(request)
        return (
            mine.get("user"),
            mine.get("later"),
            request.environ.get("REMOTE_USER"),
            request.environ.get("HTTP_LATER"),
            request.headers.get("Later"),
        )

    with app.test_request_context():
        the_request = itself(request)
        the_request.user = "me"
        the_request.environ["REMOTE_USER"] = "me"
        future = start(executor, kind(job))
        the_request.user, the_request.later = "you", 1
        the_request.environ.update(REMOTE_USER="you", HTTP_LATER="1")
        release.set()
        assert future.result(TIMEOUT) == ("me", None, "me", None, None)


@both_kinds
def test_job_leaves_the_views_request_alone(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def job() -> None:
        mine = itself(request)
        mine.user = "job's"
        mine.environ["REMOTE_USER"] = "job's"
        mine.environ.pop("SERVER_NAME")
        after_this_request(refuse)

    def refuse(response: Response) -> Response:
        raise AssertionError("the job's request has no response")

    def view() -> str:
        the_request = itself(request)
        before = items_of(request), {**request.environ}
        run(executor, kind(job))
        assert (items_of(request), {**request.environ}) == before
        assert request.environ["werkzeug.request"] is the_request
        return "fine"

    app.add_url_rule("/", view_func=view)
    assert app.test_client().get("/").data == b"fine"


@pytest.mark.parametrize("where", ["request", "environ"])
def test_each_job_of_a_request_gets_the_list_that_the_view_put_there_for_it(
    app: Flask, executor: Executor, where: str
) -> None:
    def values() -> dict[str, Any]:
        of_request: dict[str, Any] = itself(request).__dict__
        return of_request if where == "request" else request.environ

    with app.test_request_context():
        lists: list[list[int]] = [[]]
        for number in range(3):
            values()["list"] = [*lists[-1]]  # equal to the one that the job before had
            lists.append(values()["list"])
            run(executor, lambda: values()["list"].append(0))
            assert [len(each) for each in lists] == [*range(number + 2)]


@both_kinds
def test_change_of_a_request_between_two_submits_is_seen_by_the_second_job_only(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    go_on = threading.Event()

    def job() -> tuple[Any, ...]:
        assert go_on.wait(TIMEOUT)
        return request.environ.get("step"), request.path

    with app.test_request_context("/first"):
        futures = [start(executor, kind(job)), start(executor, kind(job))]
        request.environ["step"] = 1
        futures += [start(executor, kind(job))]
        itself(request).path = "/second"
        futures += [start(executor, kind(job)), start(executor, kind(job))]
        go_on.set()
        assert [future.result(TIMEOUT) for future in futures] == [
            (None, "/first"),
            (None, "/first"),
            (1, "/first"),
            (1, "/second"),
            (1, "/second"),
        ]


def test_request_of_a_job_is_no_other_jobs_or_views_although_one_before_had_none(
    app: Flask, executor: Executor
) -> None:
    go_on = threading.Event()
    futures: list[FutureProxy[Any]] = []
    with app.app_context():
        futures.append(executor.submit(go_on.wait, TIMEOUT))
        with app.test_request_context():
            futures += [executor.submit(lambda: itself(request)) for _ in range(2)]
            go_on.set()
            requests = [itself(request), *(future.result(TIMEOUT) for future in futures[1:])]
    assert len(set(map(id, requests))) == 3


@pytest.mark.parametrize("of_another_app", [False, True])
def test_job_that_gets_no_request_keeps_none_alive(app: Flask, of_another_app: bool) -> None:
    app.config["EXECUTOR_PUSH_REQUEST_CONTEXT"] = of_another_app
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    other, go_on = Flask("other"), threading.Event()

    def submit() -> tuple[weakref.ref[Any], FutureProxy[bool]]:
        with (other if of_another_app else app).test_request_context():
            alive = weakref.ref(itself(request))
            with app.app_context():
                return alive, executor.submit(has_request_context)

    with Executor(app) as executor:
        executor.submit(go_on.wait, TIMEOUT)
        alive, future = submit()
        gc.collect()  # Flask's own cycles
        assert alive() is None
        go_on.set()
        assert future.result(TIMEOUT) is False


def test_value_that_cannot_be_compared_does_not_keep_a_request_from_submitting(
    app: Flask, executor: Executor
) -> None:
    class Incomparable:
        def __eq__(self, other: object) -> bool:
            raise TypeError("as arrays of numpy do")

        __hash__ = None  # type: ignore[assignment]  # as Python makes it for such a class

    class Unhashable(type):
        __hash__ = None  # type: ignore[assignment]

    class OfUnhashableType(metaclass=Unhashable): ...

    values = ["plain", Incomparable(), OfUnhashableType()]
    go_on = threading.Event()

    def job() -> object:
        assert go_on.wait(TIMEOUT)
        return request.environ["value"]

    with app.test_request_context():
        futures: list[FutureProxy[object]] = []
        for value in values:
            request.environ["value"] = value
            futures += [executor.submit(job), executor.submit(job)]
        go_on.set()
        assert [future.result(TIMEOUT) for future in futures[::2]] == values
        assert [future.result(TIMEOUT) for future in futures[1::2]] == values


@pytest.mark.usefixtures("switching_often")
def test_threads_of_a_job_that_are_the_first_to_use_its_request_get_the_same_one(
    app: Flask, executor: Executor
) -> None:
    together = threading.Barrier(4)

    def use() -> Any:
        together.wait(TIMEOUT)
        return itself(request), itself(session)

    def job() -> set[int]:
        with ThreadPoolExecutor(4) as pool:
            uses = [pool.submit(copy_context().run, use) for _ in range(4)]
            return {id(each) for future in uses for each in future.result(TIMEOUT)}

    with app.test_request_context():
        for _ in range(50):
            assert len(run(executor, job)) == 2


@both_kinds
def test_request_context_of_a_job_is_one_of_flasks_to_whoever_looks_at_it(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def job() -> tuple[bool, str]:
        found = request_context()
        with found:
            path = request.path
        return isinstance(found, context_kind), path + request.path

    with app.test_request_context("/x"):
        context_kind: type[Any] = request_context().__class__
        assert run(executor, kind(job)) == (True, "/x/x")


@both_kinds
def test_function_that_a_job_copies_its_request_context_for_sees_the_jobs_request(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def look() -> tuple[Any, ...]:
        return itself(request), itself(session)

    def job() -> tuple[Any, ...]:
        return copy_current_request_context(look)(), look()

    with app.test_request_context():
        in_copy, in_job = run(executor, kind(job))
        assert in_copy[0] is in_job[0] is not itself(request)
        assert in_copy[1] is in_job[1] is itself(session)


@has_two_contexts
@both_kinds
def test_job_gets_a_request_context_of_the_apps_own_class(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    from flask.ctx import RequestContext

    class OwnContext(RequestContext):
        def copy(self) -> Any:
            return "own"

    def make(environ: dict[str, Any]) -> RequestContext:
        return OwnContext(app, environ)

    def job() -> tuple[Any, ...]:
        return request_context().copy(), request.path, isinstance(request_context(), OwnContext)

    vars(app)["request_context"] = make
    with app.test_request_context("/x"):
        assert run(executor, kind(job)) == ("own", "/x", True)


@has_two_contexts
@both_kinds
def test_what_a_job_sets_on_its_request_context_stays_with_it(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def job() -> tuple[Any, ...]:
        context: Any = request_context()
        context.flashes = ["job's"]  # before it looks at anything
        seen = context.by_view, request.path, context.flashes
        context.by_view = "job's"
        return *seen, hasattr(context, "by_nobody")

    with app.test_request_context("/x"):
        context = request_context()
        context.by_view, context.flashes = "view's", ["view's"]
        for _ in range(2):
            assert run(executor, kind(job)) == ("view's", "/x", ["job's"], False)
        assert (context.by_view, context.flashes) == ("view's", ["view's"])


@has_two_contexts
@both_kinds
def test_job_that_uses_the_session_only_does_without_a_request(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def job() -> tuple[Any, ...]:
        return session["user"], "request" in vars(request_context())

    app.secret_key = "tests"
    with app.test_request_context():
        session["user"] = "me"
        assert run(executor, kind(job)) == ("me", False)


@pytest.mark.usefixtures("switching_often")
def test_threads_of_a_job_that_submit_or_look_first_get_the_same_request(
    app: Flask, executor: Executor
) -> None:
    together = threading.Barrier(4)

    def look() -> Any:
        together.wait(TIMEOUT)
        return itself(request), request_context().url_adapter

    def submit_and_look() -> Any:
        together.wait(TIMEOUT)
        executor.submit(int)
        return itself(request), request_context().url_adapter

    def job() -> set[int]:
        with ThreadPoolExecutor(4) as pool:
            fns = [look, submit_and_look] * 2
            uses = [pool.submit(copy_context().run, fn) for fn in fns]
            return {id(each) for future in uses for each in future.result(TIMEOUT)}

    with app.test_request_context():
        for _ in range(50):
            assert len(run(executor, job)) == 2


@has_two_contexts
def test_thread_that_began_to_look_before_another_submitted_gets_what_is_there(
    app: Flask, executor: Executor
) -> None:
    def job() -> None:
        context = request_context()
        kind = context.__class__
        look_up: dict[str, Any] = {**vars(kind)}
        executor.submit(int)  # by the other thread: now all of the context is there
        assert look_up["request"].__get__(context, kind) is itself(request)
        assert look_up["__getattr__"](context, "url_adapter") is context.url_adapter

    with app.test_request_context():
        run(executor, job)


@both_kinds
def test_job_whose_request_cannot_be_made_does_not_get_the_views(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    with app.test_request_context(method="POST", data={"file": (BytesIO(b"content"), "name")}):
        del request.files["file"].headers  # of which each job gets its own
        error = start(executor, kind(lambda: itself(request))).exception(TIMEOUT)
        assert type(error) is AttributeError


@both_kinds
def test_job_submitted_by_a_job_that_looked_at_nothing_sees_it_all(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def inner() -> tuple[Any, ...]:
        return request.args["id"], session["n"], url_for("view"), itself(request)

    def outer() -> tuple[Any, ...]:
        future = start(executor, kind(inner))
        return future, inner()

    app.secret_key = "tests"
    app.add_url_rule("/view", "view")
    with app.test_request_context("/?id=7"):
        session["n"] = 1
        future, in_outer = run(executor, kind(outer))
        in_inner = future.result(TIMEOUT)
        assert in_inner[:-1] == in_outer[:-1] == ("7", 1, "/view")
        assert in_inner[-1] is not in_outer[-1]


@both_kinds
def test_request_of_a_job_stays_the_same_when_it_submits_another(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def job() -> bool:
        before = itself(request)
        start(executor, int)
        return before is itself(request)

    with app.test_request_context():
        assert run(executor, kind(job))


@pytest.mark.parametrize("data", [None, {"name": "me"}])
@both_kinds
def test_job_that_closes_the_streams_of_its_request_leaves_those_of_the_others_open(
    app: Flask, executor: Executor, kind: Callable[[Job], Job], data: dict[str, str] | None
) -> None:
    def job() -> tuple[Any, ...]:
        seen = request.stream.read(), request.form.get("name")
        request.stream.close()
        if data is None:
            assert request.environ["wsgi.input"].read() == b""
            request.environ["wsgi.input"].close()
        return seen

    with app.test_request_context(method="POST", data=data):
        name = request.form.get("name")
        for _ in range(3):
            assert run(executor, kind(job)) == (b"", name)


@both_kinds
def test_job_gets_a_request_of_the_apps_own_class(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    class Request(FlaskRequest):
        @property
        def shout(self) -> str:
            return self.args["q"].upper()

    app.request_class = Request
    with app.test_request_context("/?q=hello"):
        assert run(executor, kind(lambda: itself(request).shout)) == "HELLO"


@both_kinds
def test_session_is_the_views(app: Flask, executor: Executor, kind: Callable[[Job], Job]) -> None:
    def job() -> str:
        session["seen"] = True
        user: str = session["user"]
        return user

    def view() -> str:
        session["user"] = "me"
        name: str = run(executor, kind(job))
        return f"{name} {session['seen']}"

    app.add_url_rule("/", view_func=view)
    with app.test_client() as client:
        assert client.get("/").data == b"me True"
        with client.session_transaction() as stored:
            assert dict(stored) == {"user": "me", "seen": True}


@both_kinds
def test_job_runs_on_after_the_response_is_sent_and_the_request_is_over(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    sent = threading.Event()
    futures: list[FutureProxy[Any]] = []

    def job() -> tuple[Any, ...]:
        assert sent.wait(TIMEOUT)
        return request.path, request.args["id"], request.headers["X-Name"], g.user, session["n"]

    def view() -> str:
        g.user, session["n"] = "me", 1
        futures.append(start(executor, kind(job)))
        return "accepted"

    app.add_url_rule("/start", view_func=view)
    response = app.test_client().get("/start?id=7", headers={"X-Name": "x"})
    assert response.data == b"accepted"
    response.close()
    sent.set()
    assert futures[0].result(TIMEOUT) == ("/start", "7", "x", "me", 1)


def test_client_that_keeps_the_context_of_its_last_request_can_submit_in_it(
    app: Flask, executor: Executor
) -> None:
    app.add_url_rule("/seen", view_func=lambda: "")
    with app.test_client() as client:
        client.get("/seen?id=7")
        assert run(executor, lambda: (request.path, request.args["id"])) == ("/seen", "7")


def test_submit_in_an_async_view(app: Flask, executor: Executor) -> None:
    def job(number: int) -> tuple[Any, ...]:
        return number, request.args["id"], g.user

    async def view() -> dict[str, Any]:
        g.user = "me"
        kinds = [plain(job), coroutine(job)] * 5
        futures = [start(executor, fn, number) for number, fn in enumerate(kinds)]
        return {"seen": await asyncio.gather(*futures)}

    app.add_url_rule("/", view_func=view)
    response = app.test_client().get("/?id=7")
    assert response.get_json() == {"seen": [[number, "7", "me"] for number in range(10)]}


@both_kinds
def test_jobs_run_while_the_view_streams_with_its_own_context(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def job(number: int) -> str:
        g.user = "job's"
        return f"{request.args['id']}{number} "

    def view() -> Response:
        g.user = "me"

        def pieces() -> Iterator[str]:
            for number in range(3):
                piece: str = run(executor, kind(job), number)
                assert (g.user, request.args["id"]) == ("me", "7")
                yield piece
            yield from executor.map(kind(job), range(3, 6))

        return Response(stream_with_context(pieces()))

    app.add_url_rule("/", view_func=view)
    assert app.test_client().get("/?id=7").data == b"70 71 72 73 74 75 "


@both_kinds
def test_job_may_use_what_keeps_a_request_context_alive(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    torn_down = teardowns(app)

    def job() -> list[str]:
        def pieces() -> Iterator[str]:
            yield request.args["id"]
            yield g.user

        generator: Iterator[str] = stream_with_context(pieces())
        return [*generator, request.args["id"]]

    with app.test_request_context("/?id=7"):
        g.user = "me"
        assert run(executor, kind(job)) == ["7", "me", "7"]
    assert [one for one in torn_down if one[-1]] == [
        ("request", None, True),
        ("app", None, True),
    ]


@both_kinds
def test_job_submitted_by_a_job_sees_what_that_job_sees(
    app: Flask, kind: Callable[[Job], Job]
) -> None:
    seen: list[tuple[Any, ...]] = []

    def job(depth: int) -> None:
        seen.append((request.args["id"], g.user, g.get("set_at"), variable.get()))
        if depth:
            g.set_at = depth
            variable.set(f"set at {depth}")
            start(executor, kind(job), depth - 1).add_done_callback(done)

    def done(future: FutureProxy[Any]) -> None:
        if len(seen) == 3:
            all_done.set()

    all_done = threading.Event()
    with Executor(app) as executor, app.test_request_context("/?id=7"):
        g.user = "me"
        run(executor, kind(job), 2)
        assert all_done.wait(TIMEOUT)
        assert "set_at" not in g
    assert seen == [
        ("7", "me", None, "unset"),
        ("7", "me", 2, "set at 2"),
        ("7", "me", 1, "set at 1"),
    ]


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


# -- teardown --------------------------------------------------------------------------------------


def teardowns(app: Flask) -> list[tuple[str, BaseException | None, bool]]:
    """What is torn down in ``app`` from now on: which context, with what, and if in a worker."""
    log: list[tuple[str, BaseException | None, bool]] = []

    @app.teardown_request
    def of_request(error: BaseException | None) -> None:
        assert has_request_context()
        log.append(("request", error, in_worker()))

    @app.teardown_appcontext
    def of_app(error: BaseException | None) -> None:
        assert has_app_context()
        log.append(("app", error, in_worker()))

    return log


def causes(error: object) -> list[object]:
    """The error, or those that an exception group holds: Flask 3.2 raises groups of groups."""
    held: tuple[object, ...] = getattr(error, "exceptions", ())
    return [cause for one in held for cause in causes(one)] or [error]


@both_kinds
def test_teardown_functions_run_once_per_job_in_its_worker(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    log = teardowns(app)
    with app.test_request_context():
        run(executor, kind(lambda: None))
        assert log == [("request", None, True), ("app", None, True)]
        log.clear()
        list(executor.map(kind(str), range(5)))
        assert Counter(log) == {("request", None, True): 5, ("app", None, True): 5}
        log.clear()
    assert log == [("request", None, False), ("app", None, False)]
    log.clear()
    with app.app_context():
        run(executor, kind(lambda: None))
        assert log == [("app", None, True)]
    log.clear()
    run(executor, kind(lambda: None))
    assert log == [("app", None, True)]


@pytest.mark.parametrize("error", [LookupError("x"), SystemExit(1), KeyboardInterrupt()], ids=repr)
@both_kinds
def test_teardown_functions_get_the_jobs_exception(
    app: Flask, executor: Executor, kind: Callable[[Job], Job], error: BaseException
) -> None:
    log = teardowns(app)

    def job() -> None:
        raise error

    with app.test_request_context():
        assert start(executor, kind(job)).exception(TIMEOUT) is error
        assert log == [("request", error, True), ("app", error, True)]


def test_teardown_functions_of_a_cancelled_coroutine_get_its_cancelled_error(app: Flask) -> None:
    log = teardowns(app)
    started = threading.Event()

    async def job() -> None:
        started.set()
        await asyncio.Event().wait()

    with Executor(app) as executor:
        future = executor.submit(job)
        assert started.wait(TIMEOUT)
        future.cancel()
    [(context, error, worker)] = log
    assert (context, type(error), worker) == ("app", asyncio.CancelledError, True)


def test_job_that_never_starts_has_nothing_to_tear_down(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    log = teardowns(app)
    release = threading.Event()
    with Executor(app) as executor:
        executor.submit(release.wait, TIMEOUT)
        assert executor.submit(int).cancel()
        release.set()
    assert log == [("app", None, True)]


@both_kinds
def test_future_is_not_done_before_teardown_is(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    tearing_down, go_on = threading.Event(), threading.Event()

    @app.teardown_appcontext
    def slow(error: BaseException | None) -> None:
        if in_worker():
            tearing_down.set()
            assert go_on.wait(TIMEOUT)

    future = start(executor, kind(lambda: 1))
    assert tearing_down.wait(TIMEOUT)
    assert not future.done()
    go_on.set()
    assert future.result(TIMEOUT) == 1


@both_kinds
def test_teardown_functions_of_the_requests_blueprint_run(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    ran: list[tuple[str, bool]] = []

    def blueprint(name: str) -> Blueprint:
        made = Blueprint(name, __name__, url_prefix=f"/{name}")
        made.add_url_rule("/", view_func=lambda: str(run(executor, kind(lambda: name))))

        @made.teardown_request
        def torn_down(error: BaseException | None) -> None:
            ran.append((name, in_worker()))

        return made

    app.register_blueprint(blueprint("one"))
    app.register_blueprint(blueprint("two"))
    assert app.test_client().get("/one/").data == b"one"
    assert ran == [("one", True), ("one", False)]


@pytest.mark.skipif(find_spec("blinker") is None, reason="blinker is not installed")
@pytest.mark.parametrize(
    "signal",
    [appcontext_pushed, request_tearing_down, appcontext_tearing_down, appcontext_popped],
    ids=lambda signal: signal.name,
)
@both_kinds
def test_each_of_flasks_own_signals_of_contexts_is_sent_once_per_job(
    app: Flask, executor: Executor, kind: Callable[[Job], Job], signal: Any
) -> None:
    heard: list[bool] = []

    def listen(sender: Flask, **_: object) -> None:
        heard.append(in_worker())

    with app.test_request_context(), signal.connected_to(listen, app):
        run(executor, kind(lambda: None))
        assert heard == [True]


@pytest.mark.skipif(find_spec("blinker") is None, reason="blinker is not installed")
@both_kinds
def test_g_of_a_job_is_freed_with_it_although_somebody_hears_of_its_push(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    alive: list[weakref.ref[Marker]] = []

    def job() -> None:
        g.marker = Marker()
        alive.append(weakref.ref(g.marker))

    def listen(sender: Flask, **_: object) -> None: ...

    gc.disable()
    try:
        with appcontext_pushed.connected_to(listen, app):
            run(executor, kind(job))
            until(lambda: alive[0]() is None)
        assert len(alive) == 1
    finally:
        gc.enable()


@pytest.mark.skipif(find_spec("blinker") is None, reason="blinker is not installed")
@both_kinds
def test_context_of_a_job_is_gone_when_its_pop_is_announced(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    has_context: list[bool] = []

    def listen(sender: Flask, **_: object) -> None:
        has_context.append(has_app_context())

    with appcontext_popped.connected_to(listen, app):
        run(executor, kind(int))
    assert has_context == [False]


@pytest.mark.skipif(
    not hasattr(flask.globals, "_cv_app"), reason="Flask 2.0 and 2.1 cannot pop it afterwards"
)
@both_kinds
def test_request_context_of_a_job_is_torn_down_each_time_it_is_pushed_afterwards(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    torn_down: list[bool] = []

    @app.teardown_request
    def note(error: BaseException | None) -> None:
        torn_down.append(in_worker())

    with app.test_request_context():
        context = run(executor, kind(request_context))
    assert torn_down == [True, False]
    for _ in range(2):
        with context:
            assert request.path == "/"
    assert torn_down == [True, False, False, False]


def test_g_of_a_coroutine_is_freed_before_its_callbacks_and_its_next_attempt(
    app: Flask, executor: Executor
) -> None:
    alive: list[weakref.ref[Marker]] = []
    seen: list[bool] = []

    async def job() -> None:
        seen.extend(marker() is not None for marker in alive)
        g.marker = Marker()
        alive.append(weakref.ref(g.marker))
        if len(alive) == 1:
            raise LookupError

    with app.app_context():
        future = executor.using(retries=1).submit(job)
        future.add_done_callback(lambda _: seen.extend(marker() is not None for marker in alive))
        future.result(TIMEOUT)
        until(lambda: len(seen) == 3)
    assert seen == [False, False, False]


@both_kinds
def test_context_of_another_app_that_a_job_leaves_behind_is_torn_down(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    other, torn_down = Flask("other"), list[str]()

    @other.teardown_appcontext
    def note(error: BaseException | None) -> None:
        torn_down.append(current_app.name)

    with app.test_request_context():
        run(executor, kind(lambda: other.app_context().push()))
    assert torn_down == ["other"]


@pytest.mark.filterwarnings("ignore:The 'do_teardown_appcontext'")  # on Flask 3.2
@both_kinds
def test_app_with_a_teardown_of_its_own_class_tears_down(kind: Callable[[Job], Job]) -> None:
    class OwnFlask(Flask):
        torn_down = 0

        def do_teardown_appcontext(self, *args: Any, **kwargs: Any) -> None:
            self.torn_down += 1
            super().do_teardown_appcontext(*args, **kwargs)

    app = OwnFlask("tests")
    with Executor(app) as executor:
        run(executor, kind(lambda: None))
    assert app.torn_down == 1


@pytest.mark.filterwarnings("ignore:The 'do_teardown_request'")  # on Flask 3.2
@both_kinds
def test_app_with_a_request_teardown_of_its_own_class_tears_down(
    kind: Callable[[Job], Job],
) -> None:
    class OwnFlask(Flask):
        torn_down = 0

        def do_teardown_request(self, *args: Any, **kwargs: Any) -> None:
            self.torn_down += 1
            super().do_teardown_request(*args, **kwargs)

    app = OwnFlask("tests")
    with Executor(app) as executor, app.test_request_context():
        run(executor, kind(lambda: None))
        assert app.torn_down == 1


@pytest.mark.parametrize(
    "error", [ValueError("broken"), SystemExit(3), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize("which", ["request", "app"])
@both_kinds
def test_failing_teardown_is_logged_and_the_result_is_kept(
    app: Flask,
    executor: Executor,
    caplog: pytest.LogCaptureFixture,
    kind: Callable[[Job], Job],
    which: str,
    error: BaseException,
) -> None:
    def broken(_: BaseException | None) -> None:
        if in_worker():
            raise error

    if which == "request":
        app.teardown_request(broken)
    else:
        app.teardown_appcontext(broken)
    log = teardowns(app)  # called first: Flask calls them in reverse, up to one that raises
    with app.test_request_context():
        assert run(executor, kind(lambda: "kept")) == "kept"
        assert run(executor, kind(lambda: request.path)) == "/"  # the worker lives on
    assert [record.getMessage() for record in caplog.records] == (
        ["teardown after a background job failed"] * 2
    )
    logged = caplog.records[0].exc_info
    assert logged is not None
    assert error in causes(logged[1])
    assert ("app", None, True) in log  # a request's teardown does not keep the app's from running


@both_kinds
def test_failing_teardown_does_not_replace_the_exception_of_a_job(
    app: Flask,
    executor: Executor,
    caplog: pytest.LogCaptureFixture,
    kind: Callable[[Job], Job],
) -> None:
    @app.teardown_appcontext
    def broken(_: BaseException | None) -> None:
        raise ValueError("of the teardown")

    def job() -> None:
        raise LookupError("of the job")

    error = start(executor, kind(job)).exception(TIMEOUT)
    assert repr(error) == "LookupError('of the job')"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert messages[0].startswith("Exception in background job ")
    assert messages[1] == "teardown after a background job failed"


@both_kinds
def test_async_teardown_functions_run(
    app: Flask,
    executor: Executor,
    caplog: pytest.LogCaptureFixture,
    kind: Callable[[Job], Job],
) -> None:
    ran: list[Any] = []

    @app.teardown_appcontext
    async def close(error: BaseException | None) -> None:
        await asyncio.sleep(0)
        ran.append(g.get("opened"))

    def job() -> None:
        g.opened = "by the job"

    run(executor, kind(job))
    assert caplog.records == []
    assert ran == ["by the job"]


def test_teardown_function_of_a_coroutine_job_finds_its_loop_running(
    app: Flask, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    closed = threading.Event()

    async def close(client: AsyncResource) -> None:
        await client.aclose()
        closed.set()

    @app.teardown_appcontext
    def begin_to_close(error: BaseException | None) -> None:
        g.task = asyncio.get_running_loop().create_task(close(g.client))

    async def job() -> None:
        g.client = AsyncResource()

    executor.submit(job).result(TIMEOUT)
    assert closed.wait(TIMEOUT)
    assert caplog.records == []


def test_contexts_that_cannot_be_pushed_are_the_jobs_failure_and_logged_as_such(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Flask):
        def app_context(self) -> Any:
            if in_worker():
                raise LookupError("no context today")
            return super().app_context()

    app = Broken("tests")
    with Executor(app) as executor:
        for kind in (plain, coroutine):
            future = start(executor, kind(lambda: 1))
            assert repr(future.exception(TIMEOUT)) == "LookupError('no context today')"
            [record] = caplog.records
            assert record.getMessage() == f"Exception in background job {future.name} [{future.id}]"
            caplog.clear()


@pytest.mark.parametrize("leave", ["app context", "request context", "other app's context"])
@pytest.mark.parametrize("make_context", [Flask.app_context, Flask.test_request_context])
@both_kinds
@pytest.mark.usefixtures("caplog")
def test_job_that_leaves_contexts_pushed_is_torn_down_all_the_same(
    app: Flask,
    kind: Callable[[Job], Job],
    make_context: Callable[[Flask], AbstractContextManager[Any]],
    leave: str,
) -> None:
    closed: list[str] = []

    @app.teardown_appcontext
    def close(error: BaseException | None) -> None:
        if in_worker():
            closed.append(g.pop("opened", "of what was left"))

    def job() -> str:
        g.opened = "the job's"
        if leave == "request context":
            app.test_request_context("/left").push()
        else:
            (app if leave == "app context" else Flask("other")).app_context().push()
        return "kept"

    app.config["EXECUTOR_MAX_WORKERS"] = 1
    with Executor(app) as executor:
        with make_context(app):
            g.user = "me"
            assert run(executor, kind(job)) == "kept"
            assert closed.count("the job's") == 1
            assert len(closed) <= 2  # what was left may be torn down too, before the job's own
            assert run(executor, kind(lambda: (current_app.name, g.user))) == ("tests", "me")
        closed.clear()
        seen = run(executor, kind(lambda: (current_app.name, items_of(g), has_request_context())))
        assert seen == ("tests", {}, False)


# -- databases -------------------------------------------------------------------------------------


class Database:
    """The Flask tutorial's ``db.py``: a connection per context, kept in ``g.db``."""

    def __init__(self, app: Flask, path: Path, *, any_thread: bool = False) -> None:
        self.path = path
        self.any_thread = any_thread
        self.opened: list[int] = []
        """The thread of each connection."""
        self.closed: list[int] = []
        app.teardown_appcontext(self.close)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("create table post (title text)")

    def get(self) -> sqlite3.Connection:
        if "db" not in g:
            g.db = sqlite3.connect(self.path, check_same_thread=not self.any_thread)
            self.opened.append(threading.get_ident())
        db: sqlite3.Connection = g.db
        return db

    def close(self, error: BaseException | None = None) -> None:
        db: sqlite3.Connection | None = g.pop("db", None)
        if db is not None:
            db.close()  # raises in any thread but the one that connected, unless any_thread
            self.closed.append(threading.get_ident())

    def titles(self) -> list[str]:
        return [title for (title,) in self.get().execute("select title from post order by title")]

    def add(self, title: str) -> None:
        with self.get() as transaction:
            transaction.execute("insert into post values (?)", (title,))


@pytest.mark.parametrize("async_view", [False, True])
@both_kinds
def test_tutorials_database_in_g_works_in_view_and_job_at_once(
    app: Flask, tmp_path: Path, kind: Callable[[Job], Job], async_view: bool
) -> None:
    # Flask runs an async view and its teardown in different threads.
    database = Database(app, tmp_path / "db.sqlite", any_thread=async_view)
    both_connected = threading.Barrier(2)

    def job() -> int:
        seen = database.titles()
        both_connected.wait(TIMEOUT)
        database.add("by the job")
        return len(seen)

    def begin() -> FutureProxy[Any]:
        database.add("by the view")  # the connection is open, and in g, when the job is submitted
        future = start(executor, kind(job))
        both_connected.wait(TIMEOUT)
        return future

    def view() -> list[str]:
        seen = begin().result(TIMEOUT)
        return [str(seen), *database.titles()]  # after the job's teardown: still open

    async def view_async() -> list[str]:
        seen = await begin()
        return [str(seen), *database.titles()]

    def respond(answer: list[str]) -> str:
        return " / ".join(answer)

    async def respond_async() -> str:
        return respond(await view_async())

    app.add_url_rule("/", "view", respond_async if async_view else lambda: respond(view()))
    with Executor(app) as executor:
        assert app.test_client().get("/").data == b"1 / by the job / by the view"
    assert len(database.opened) == len(database.closed) == 2
    assert async_view or sorted(database.closed) == sorted(database.opened)


@both_kinds
def test_job_closes_the_connection_that_it_opened_itself(
    app: Flask, tmp_path: Path, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    database = Database(app, tmp_path / "db.sqlite")
    for number in range(5):
        run(executor, kind(database.add), str(number))
    assert run(executor, kind(database.titles)) == ["0", "1", "2", "3", "4"]
    assert len(database.closed) == len(database.opened) == 6


@both_kinds
def test_sqlalchemy_sessions_are_returned_to_the_pool_after_each_job(
    app: Flask, tmp_path: Path, kind: Callable[[Job], Job]
) -> None:
    pytest.importorskip("flask_sqlalchemy", reason="flask-sqlalchemy needs Flask 2.2.5 or newer")
    from flask_sqlalchemy import SQLAlchemy
    from sqlalchemy import event, text

    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'db.sqlite'}"
    # Coroutine jobs have their sessions at the same time; a full pool would block their loop.
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 200}
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
    database = SQLAlchemy(app)
    out: list[int] = []
    with app.app_context():
        engine = database.engine

    def checked_out(*_: object) -> None:
        out.append(1)

    def checked_in(*_: object) -> None:
        out.append(-1)

    event.listen(engine, "checkout", checked_out)
    event.listen(engine, "checkin", checked_in)

    def job(number: int) -> Any:
        value = database.session.execute(text("select :n"), {"n": number}).scalar()
        if number % 3 == 0:
            raise LookupError(number)
        return value

    def view() -> str:
        mine = database.session()
        value = database.session.execute(text("select 7")).scalar()
        futures = [start(executor, kind(job), number) for number in range(60)]
        results = [future.result(TIMEOUT) for future in futures if not future.exception(TIMEOUT)]
        assert database.session() is mine  # a job's end does not remove the view's session
        assert sum(out) == 1  # the view's
        return f"{value} {results == [number for number in range(60) if number % 3]}"

    app.add_url_rule("/", view_func=view)
    with Executor(app) as executor:
        assert app.test_client().get("/").data == b"7 True"
        for number in range(140):
            start(executor, kind(job), number)
    assert (sum(out), out.count(1)) == (0, 201)
    engine.dispose()


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


# -- nothing stays ---------------------------------------------------------------------------------


class Marker:
    """Something whose end can be seen."""


@pytest.mark.parametrize("has_teardown", [False, True])
@pytest.mark.parametrize("make_context", [Flask.app_context, Flask.test_request_context])
def test_job_that_submits_itself_again_and_again_keeps_no_contexts(
    app: Flask,
    executor: Executor,
    make_context: Callable[[Flask], AbstractContextManager[Any]],
    has_teardown: bool,
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executor.init_app(app)
    ends: list[BaseException | None] = []
    if has_teardown:
        app.teardown_appcontext(ends.append)
    markers: list[weakref.ref[Marker]] = []
    alive: list[int] = []

    def job(left: int) -> None:
        for proxy in (g, request) if has_request_context() else (g,):
            vars(itself(proxy))["marker"] = marker = Marker()
            markers.append(weakref.ref(marker))
        if left:
            executor.submit(job, left - 1)
        else:
            gc.collect()
            alive.append(sum(marker() is not None for marker in markers))

    with make_context(app):
        executor.submit(job, 20)
        until(lambda: alive != [])
    assert alive[0] <= 8


def test_coroutine_that_is_freed_elsewhere_pops_nothing_there(app: Flask) -> None:
    """Its loop was closed, say. Garbage is collected in any thread, and in any request."""
    ended: list[BaseException | None] = []
    app.teardown_appcontext(ended.append)
    snapshot, variables = capture(app, ContextRules(), active_app_context())

    def suspended() -> Iterator[None]:
        with PushedContexts(snapshot):
            yield

    job = suspended()
    variables.run(next, job)
    with app.test_request_context():
        g.name = "view's"
        del job
        assert (g.name, has_request_context(), ended) == ("view's", True, [])


def test_context_of_a_job_can_be_pushed_again_when_the_job_is_over(
    app: Flask, executor: Executor
) -> None:
    with app.test_request_context("/?q=1"):
        g.name = "me"
        kept = executor.submit(lambda: [app_context(), request_context()]).result(TIMEOUT)
    for context in kept:
        with context:
            assert current_app.name == app.name
    assert not has_app_context()


def test_contexts_that_an_app_makes_in_its_own_way_are_made_at_once(
    app: Flask, executor: Executor
) -> None:
    class Globals(_AppCtxGlobals):
        def __init__(self) -> None:
            made.append("g")

    made: list[str] = []
    make = app.app_context

    def make_and_note() -> AppContext:
        made.append("context")
        return make()

    vars(app)["app_context"] = make_and_note
    run(executor, int)
    del vars(app)["app_context"]
    app.app_ctx_globals_class = Globals
    run(executor, int)
    assert made == ["context", "g"]


def test_request_of_a_class_that_guards_its_attributes(executor: Executor, app: Flask) -> None:
    class Guarded(FlaskRequest):
        def __setattr__(self, name: str, value: object) -> None:
            assert name != "__dict__"
            super().__setattr__(name, value)

    app.request_class = Guarded
    with app.test_request_context("/?q=1"):
        assert executor.submit(lambda: request.args["q"]).result(TIMEOUT) == "1"


@both_kinds
def test_what_a_request_held_is_freed_without_the_cycle_collector(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    alive: list[weakref.ref[Any]] = []

    def job(argument: Marker) -> Marker:
        g.of_job = Marker()
        alive.append(weakref.ref(g.of_job))
        return Marker()

    def view() -> str:
        g.marker, argument = Marker(), Marker()
        future = start(executor, kind(job), argument)
        alive.extend(map(weakref.ref, (g.marker, argument, future.result(TIMEOUT), future)))
        return ""

    app.add_url_rule("/", view_func=view)
    client = app.test_client()
    gc.disable()
    try:
        client.get("/").close()
        run(executor, kind(int))  # the worker has let go of its last call when it does the next
        assert [reference() for reference in alive] == [None] * 5
    finally:
        gc.enable()


@both_kinds
def test_what_a_failed_job_held_is_freed_with_its_future(
    app: Flask, kind: Callable[[Job], Job]
) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False  # pytest keeps what is logged

    def job(argument: Marker) -> None:
        raise LookupError

    def submit_and_look() -> weakref.ref[Marker]:
        argument = Marker()
        future = start(executor, kind(job), argument)
        assert type(future.exception(TIMEOUT)) is LookupError
        return weakref.ref(argument)

    gc.disable()
    try:
        with Executor(app) as executor, app.test_request_context():
            alive = submit_and_look()
            run(executor, kind(int))
            assert alive() is None
    finally:
        gc.enable()


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
