"""The request of a job: what the view's was at submit, and shared with nobody."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    after_this_request,
    copy_current_request_context,
    g,
    has_request_context,
    request,
    session,
    stream_with_context,
    url_for,
)
from flask import Request as FlaskRequest
from flask.ctx import AppContext
from werkzeug.datastructures import Headers
from werkzeug.routing import BaseConverter

from flask_executor_typed import Executor, FutureProxy
from flask_executor_typed.context.request import RequestSnapshot

from .conftest import TIMEOUT
from .helpers.contexts import (
    Job,
    both_kinds,
    coroutine,
    items_of,
    itself,
    plain,
    request_context,
    run,
    start,
    teardowns,
    variable,
)

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
def test_job_gets_a_request_context_of_a_class_with_slots(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    from flask.ctx import RequestContext

    class Slotted(RequestContext):
        __slots__ = ("tenant",)

    def make(environ: dict[str, Any]) -> RequestContext:
        return Slotted(app, environ)

    def job() -> tuple[Any, ...]:
        return request.path, isinstance(request_context(), Slotted)

    vars(app)["request_context"] = make
    with app.test_request_context("/x"):
        assert run(executor, kind(job)) == ("/x", True)


@both_kinds
def test_headers_that_the_view_put_in_place_of_the_requests_are_the_jobs(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    with app.test_request_context(headers={"X-From": "client"}):
        vars(itself(request))["headers"] = Headers({"X-From": "view"})
        assert run(executor, kind(lambda: request.headers["X-From"])) == "view"


@both_kinds
def test_context_of_a_job_shows_itself_as_flasks_own(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    with app.test_request_context("/x"):
        view, job = repr(request_context()), run(executor, kind(lambda: repr(request_context())))
    assert job.partition(" ")[0] == view.partition(" ")[0]
    assert "/x" in job


@has_two_contexts
@both_kinds
def test_job_shares_of_its_submitters_request_context_what_flask_sets_there(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def job() -> tuple[Any, ...]:
        context: Any = request_context()
        seen = context.flashes, hasattr(context, "connection")
        context.flashes, context.connection = ["job's"], "job's"
        return *seen, request.path, context.flashes

    with app.test_request_context("/x"):
        context = request_context()
        context.flashes, context.connection = ["view's"], "view's, which a teardown would close"
        for _ in range(2):
            assert run(executor, kind(job)) == (["view's"], False, "/x", ["job's"])
        assert context.flashes == ["view's"]
        assert context.connection.startswith("view's")


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
    app: Flask,
    executor: Executor,
    kind: Callable[[Job], Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(snapshot: RequestSnapshot) -> Any:
        raise AttributeError("request")

    monkeypatch.setattr(RequestSnapshot, "request_copy", fail)
    with app.test_request_context():
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


def test_request_of_a_class_that_guards_its_attributes(executor: Executor, app: Flask) -> None:
    class Guarded(FlaskRequest):
        def __setattr__(self, name: str, value: object) -> None:
            assert name != "__dict__"
            super().__setattr__(name, value)

    app.request_class = Guarded
    with app.test_request_context("/?q=1"):
        assert executor.submit(lambda: request.args["q"]).result(TIMEOUT) == "1"
