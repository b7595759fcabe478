"""Calls that wait for the end of the response, or for a commit."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from asgiref.wsgi import WsgiToAsgi
from flask import (
    Flask,
    Request,
    Response,
    after_this_request,
    g,
    request,
    send_file,
    stream_with_context,
)
from werkzeug.test import EnvironBuilder, run_wsgi_app

from flask_executor_typed import (
    DuplicateKeyError,
    Executor,
    ExecutorClosedError,
    FutureProxy,
    NoRequestError,
    UnpicklableError,
    job_submitted,
)

from .conftest import TIMEOUT

TEXT_OF_NO_REQUEST = (
    "after_response() needs a request that is not over: outside of one, in a job, "
    "and in a stream that has begun, submit without it"
)

TEXT_OF_NO_MAP = (
    "map() does not go with after_response() and after_commit(): its results are read before that; "
    "submit the calls one by one"
)

TEXT_OF_NO_JOIN = (
    "on_duplicate='join' does not go with after_response() and after_commit(): the existing "
    "job may have begun before this response or commit, and not see what it needs; "
    "use 'replace' or 'error'"
)


class Answer:
    """What an app gives to its server, which takes it piece by piece."""

    def __init__(self, app: Flask, path: str, method: str = "GET") -> None:
        environ = EnvironBuilder(path=path, method=method).get_environ()
        body, self.status, _ = run_wsgi_app(app, environ)
        self._body: Any = body

    def read(self) -> bytes:
        return b"".join(self._body)

    def close(self) -> None:
        self._body.close()


Views = dict[str, Callable[[], Any]]


def add_views(app: Flask, views: Views) -> None:
    for path, view in views.items():
        app.add_url_rule(f"/{path}", path, view)


# -- after the response ----------------------------------------------------------------------------


def add_view(
    app: Flask, executor: Executor, respond: Callable[[], Any] = str
) -> list[FutureProxy[int]]:
    """A view at ``/`` that submits ``int("1")`` after its response. Returns the futures."""
    futures: list[FutureProxy[int]] = []

    @app.route("/")
    def view() -> Any:
        futures.append(executor.after_response().submit(int, "1"))
        return respond()

    return futures


def fail() -> str:
    raise KeyError("view")


def visitor() -> tuple[str, str]:
    return request.args["name"], g.name


async def visitor_async() -> tuple[str, str]:
    return visitor()


@pytest.mark.parametrize("fn", [visitor, visitor_async])
def test_call_starts_when_the_response_is_closed_with_the_contexts_of_the_view(
    app: Flask, executor: Executor, fn: Callable[[], Any]
) -> None:
    futures: list[FutureProxy[Any]] = []

    @app.route("/")
    def view() -> str:
        g.name = "Bob"
        futures.append(executor.after_response().submit(fn))
        return "done"

    answer = Answer(app, "/?name=Ann")
    assert answer.read() == b"done"
    executor.submit(int).result(TIMEOUT)
    assert futures[0].status == "pending"
    answer.close()
    assert futures[0].result(TIMEOUT) == ("Ann", "Bob")


def test_calls_start_in_the_order_in_which_they_were_submitted(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    order: list[int] = []
    with Executor(app) as executor:

        @app.route("/")
        def view() -> str:
            for number in range(10):
                executor.after_response().submit(order.append, number)
            return ""

        Answer(app, "/").close()
    assert order == list(range(10))


def test_call_waits_for_the_end_of_a_streamed_response(app: Flask, executor: Executor) -> None:
    def pieces() -> Iterator[str]:
        for number in range(3):
            yield f"{number}{request.args['name']}{futures[0].status} "

    futures = add_view(app, executor, lambda: Response(stream_with_context(pieces())))
    answer = Answer(app, "/?name=Ann")
    assert answer.read() == b"0Annpending 1Annpending 2Annpending "
    assert futures[0].status == "pending"
    answer.close()
    assert futures[0].result(TIMEOUT) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_call_waits_for_the_end_of_a_sent_file(
    app: Flask, executor: Executor, method: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    futures = add_view(app, executor, lambda: send_file(file))
    answer = Answer(app, "/", method)
    assert answer.read() == (b"content" if method == "GET" else b"")
    assert futures[0].status == "pending"
    answer.close()
    assert futures[0].result(TIMEOUT) == 1


def test_call_waits_for_the_end_of_an_error_page(app: Flask, executor: Executor) -> None:
    futures = add_view(app, executor, fail)
    answer = Answer(app, "/")
    assert answer.status.startswith("500")
    assert futures[0].status == "pending"
    answer.close()
    assert futures[0].result(TIMEOUT) == 1


def test_call_starts_at_the_end_of_the_request_when_the_server_gets_no_response(
    app: Flask, executor: Executor
) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = True
    futures = add_view(app, executor, fail)
    with pytest.raises(KeyError):
        Answer(app, "/")
    assert futures[0].result(TIMEOUT) == 1
    with app.test_request_context():
        future = executor.after_response().submit(int, "2")
        assert future.status == "pending"
    assert future.result(TIMEOUT) == 2


def test_call_starts_at_the_end_of_the_request_when_another_response_took_the_place(
    app: Flask, executor: Executor
) -> None:
    futures = add_view(app, executor, lambda: "first")

    @app.after_request
    def replace(response: Response) -> Response:
        return app.response_class("second")

    answer = Answer(app, "/")
    assert answer.read() == b"second"
    assert futures[0].result(TIMEOUT) == 1
    answer.close()


def test_call_waits_for_a_response_that_has_no_hash(app: Flask, executor: Executor) -> None:
    class Comparable(Response):  # pytest-flask's responses are like that
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Response) and self.data == other.data

        __hash__ = None  # type: ignore[assignment]  # as Python makes it for such a class

    app.response_class = Comparable
    futures = add_view(app, executor, lambda: "done")
    answer = Answer(app, "/")
    assert answer.status == "200 OK"
    assert futures[0].status == "pending"
    answer.close()
    assert futures[0].result(TIMEOUT) == 1


def test_call_of_a_failed_after_request_function_waits_for_its_error_page(
    app: Flask, executor: Executor
) -> None:
    def respond() -> str:
        @after_this_request
        def fail_once(response: Response) -> Response:
            if response.status_code == 200:
                raise KeyError("after")
            return response

        return "fine"

    futures = add_view(app, executor, respond)
    answer = Answer(app, "/")
    assert answer.status.startswith("500")
    answer.close()
    assert futures[0].result(TIMEOUT) == 1


def test_request_that_submits_is_closed_once_like_any_other(app: Flask, executor: Executor) -> None:
    closed: list[str] = []

    class ClosedRequest(Request):
        def close(self) -> None:
            closed.append(self.path)
            super().close()

    app.request_class = ClosedRequest
    futures: list[FutureProxy[int]] = []

    def view() -> str:
        futures.append(executor.after_response().submit(int, "1"))
        return ""

    add_views(app, {"one": view, "none": str})
    for path in ("/one", "/none"):
        Answer(app, path).close()
    futures[0].result(TIMEOUT)
    executor.shutdown()
    assert [path for path in closed if path == "/none"] == ["/none"]
    assert [path for path in closed if path == "/one"][:1] == ["/one"]


@pytest.mark.parametrize("in_job", [False, True], ids=["outside", "in a job"])
def test_where_no_response_will_follow_it_is_an_error(
    app: Flask, executor: Executor, in_job: bool
) -> None:
    def late() -> object:
        return executor.using(key="key").after_response().submit(int)

    context = app.test_request_context() if in_job else app.app_context()
    with context, pytest.raises(NoRequestError) as caught:
        _ = executor.submit(late).result(TIMEOUT) if in_job else late()
    assert str(caught.value) == TEXT_OF_NO_REQUEST
    assert len(executor.futures) == 0


def test_cancelled_call_never_starts(app: Flask, executor: Executor) -> None:
    ran: list[int] = []

    @app.route("/")
    def view() -> str:
        assert executor.after_response().submit(ran.append, 1).cancel()
        executor.after_response().submit(ran.append, 2)
        return ""

    Answer(app, "/").close()
    executor.shutdown()
    assert ran == [2]


def test_key_is_taken_at_once(app: Flask, executor: Executor) -> None:
    @app.route("/")
    def view() -> str:
        once = executor.using(key="report")
        first = once.after_response().submit(int, "1")
        assert first is executor.futures.get("report")
        assert first.key == "report"
        with pytest.raises(DuplicateKeyError):
            once.after_response().submit(int, "2")
        return ""

    Answer(app, "/").close()
    assert executor.futures.result("report", TIMEOUT) == 1


def test_call_that_waits_for_its_response_joins_nothing(app: Flask, executor: Executor) -> None:
    with app.test_request_context(), pytest.raises(TypeError) as caught:
        executor.using(key="key", on_duplicate="join").after_response().submit(int)
    assert str(caught.value) == TEXT_OF_NO_JOIN
    assert len(executor.futures) == 0


def test_call_that_waits_for_its_response_is_replaced_and_not_joined(
    app: Flask, executor: Executor
) -> None:
    go_on = threading.Event()
    futures: list[FutureProxy[Any]] = []

    def job() -> bool:
        return go_on.wait(TIMEOUT)

    @app.route("/")
    def view() -> str:
        futures.append(executor.using(key="key").after_response().submit(job))
        return ""

    once = executor.using(key="key", on_duplicate="join")
    answer = Answer(app, "/")
    replacement = once.submit(int, "1")
    assert replacement is not futures[0]
    assert replacement.result(TIMEOUT) == 1
    answer.close()
    executor.futures.pop("key")
    Answer(app, "/").close()
    assert once.submit(int) is futures[1]  # which does not wait for its response any more
    go_on.set()
    assert [future.result(TIMEOUT) for future in futures] == [True, True]


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_call_whose_response_is_never_closed_starts_when_the_response_is_gone(
    app: Flask, executor: Executor, *, streams: bool
) -> None:
    def respond() -> Any:
        return Response(stream_with_context(iter("body"))) if streams else "body"

    futures = add_view(app, executor, respond)
    answer = Answer(app, "/")
    assert answer.read() == b"body"
    assert futures[0].status == "pending"
    del answer
    gc.collect()
    assert futures[0].result(TIMEOUT) == 1


def test_call_starts_when_its_response_is_sent_inside_of_another_one(
    app: Flask, executor: Executor
) -> None:
    futures = add_view(app, executor, lambda: "body")

    @app.after_request
    def shout(response: Response) -> Response:
        def pieces() -> Iterator[bytes]:
            for piece in response.iter_encoded():
                yield piece.upper()

        return Response(pieces())

    answer = Answer(app, "/")
    assert futures[0].status == "pending"
    assert answer.read() == b"BODY"
    answer.close()
    del answer
    gc.collect()
    assert futures[0].result(TIMEOUT) == 1


def test_call_starts_when_a_bridge_to_asgi_has_sent_the_response(
    app: Flask, executor: Executor
) -> None:
    bridge: Any = cast(Any, WsgiToAsgi)(app)
    futures = add_view(app, executor, lambda: "body")
    sent: list[tuple[bytes, str]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        sent.append((message.get("body", b""), futures[0].status))

    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [],
    }
    asyncio.run(bridge(scope, receive, send))
    assert (b"body", "pending") in sent
    gc.collect()
    assert futures[0].result(TIMEOUT) == 1


def test_response_that_is_garbage_together_with_its_app_fails_its_calls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    futures: list[FutureProxy[int]] = []

    def serve_one() -> None:
        app = Flask(__name__)
        executor = Executor(app)

        @app.route("/")
        def view() -> str:
            futures.append(executor.after_response().submit(int))
            return ""

        answer = Answer(app, "/")
        app.extensions["answer"] = answer
        futures[0].add_done_callback(lambda future: errors.append(future.exception()))
        futures.clear()

    errors: list[BaseException | None] = []
    serve_one()
    gc.collect()
    (error,) = errors
    assert isinstance(error, ExecutorClosedError)
    assert len(caplog.records) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it may be multi-threaded
def test_response_that_is_gone_in_a_fork_starts_nothing_there(
    app: Flask, executor: Executor
) -> None:
    held = add_view(app, executor)
    answer: Answer | None = Answer(app, "/")
    child = os.fork()
    if child == 0:  # pragma: no cover
        answer = None
        gc.collect()
        os._exit(0 if held[0].status == "pending" and held[0]._held else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    del answer
    gc.collect()
    assert held[0].result(TIMEOUT) == 1


def test_call_of_a_stream_starts_after_it_or_is_refused_where_flask_has_ended_the_request(
    app: Flask, executor: Executor
) -> None:
    futures: list[FutureProxy[int]] = []

    @app.route("/")
    def view() -> Response:
        def pieces() -> Iterator[str]:
            yield "begun, "
            try:
                futures.append(executor.after_response().submit(int, "1"))
            except NoRequestError as error:
                yield str(error)
            else:
                yield futures[0].status

        return Response(stream_with_context(pieces()))

    answer = Answer(app, "/")
    text = answer.read().decode()
    answer.close()
    if futures:
        assert text == "begun, pending"
        assert futures[0].result(TIMEOUT) == 1
    else:
        assert text == "begun, " + TEXT_OF_NO_REQUEST


def test_call_of_a_teardown_function_starts_when_the_contexts_end(
    app: Flask, executor: Executor
) -> None:
    futures: list[FutureProxy[int]] = []

    @app.teardown_request
    def submit(error: BaseException | None) -> None:
        futures.append(executor.after_response().submit(int, "1"))

    with app.test_request_context():
        pass
    assert futures[0].result(TIMEOUT) == 1


def test_executor_that_is_closed_by_then_is_an_error_of_the_future_that_is_logged(
    app: Flask, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    futures = add_view(app, executor)
    answer = Answer(app, "/")
    executor.shutdown()
    with caplog.at_level(logging.ERROR, app.logger.name):
        answer.close()
    assert isinstance(futures[0].exception(TIMEOUT), ExecutorClosedError)
    (record,) = caplog.records
    assert record.getMessage().startswith("background job <FutureProxy int")
    assert record.getMessage().endswith("could not be submitted")


@pytest.mark.parametrize(
    ("kind", "fn", "error"),
    [("thread", int, ExecutorClosedError), ("process", lambda: 0, UnpicklableError)],
)
def test_call_that_could_not_be_submitted_is_freed_with_its_future(
    app: Flask,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    fn: Callable[[], int],
    error: type[Exception],
) -> None:
    app.config["EXECUTOR_TYPE"] = kind
    monkeypatch.setattr(app.logger, "disabled", True)  # what is logged is kept for the report
    gc.disable()  # a cycle would stay
    try:
        with Executor(app) as executor, app.test_request_context():
            future = executor.after_response().submit(fn)
            executor.shutdown()
        assert isinstance(future.exception(TIMEOUT), error)
        gone = weakref.ref(future)
        del future
        assert gone() is None
    finally:
        gc.enable()


def test_job_submitted_is_announced_when_the_call_is_handed_over(
    app: Flask, executor: Executor
) -> None:
    pytest.importorskip("blinker")
    announced: list[FutureProxy[Any]] = []

    def hear(sender: object, future: FutureProxy[Any], **extra: object) -> None:
        announced.append(future)

    futures = add_view(app, executor)
    with job_submitted.connected_to(hear, app):
        answer = Answer(app, "/")
        assert announced == []
        answer.close()
    assert announced == futures


def test_call_that_was_cancelled_while_it_was_held_is_never_announced_as_submitted(
    app: Flask, executor: Executor
) -> None:
    pytest.importorskip("blinker")
    announced: list[FutureProxy[Any]] = []

    def hear(sender: object, future: FutureProxy[Any], **extra: object) -> None:
        announced.append(future)

    with job_submitted.connected_to(hear, app), app.test_request_context():
        assert executor.after_response().submit(int).cancel()
        kept = executor.after_response().submit(int)
    assert announced == [kept]


def test_job_submits_itself_after_the_response(app: Flask, executor: Executor) -> None:
    futures: list[FutureProxy[str]] = []

    class Report:
        @executor.job
        def plain(self, text: str, *, end: str = "") -> str:
            return text + end

        @executor.job
        async def coroutine(self, text: str, *, end: str = "") -> str:
            return text + end

    @app.route("/")
    def view() -> str:
        futures.extend(
            job.using(name="report").after_response().submit("a", end="b")
            for job in (Report().plain, Report().coroutine)
        )
        return ""

    answer = Answer(app, "/")
    assert [future.status for future in futures] == ["pending", "pending"]
    answer.close()
    assert [future.result(TIMEOUT) for future in futures] == ["ab", "ab"]
    assert [future.name for future in futures] == ["report", "report"]


def test_call_waits_in_an_async_view_too(app: Flask, executor: Executor) -> None:
    futures: list[FutureProxy[int]] = []

    @app.route("/")
    async def view() -> str:
        futures.append(executor.after_response().submit(int, "1"))
        return ""

    answer = Answer(app, "/")
    assert futures[0].status == "pending"
    answer.close()
    assert futures[0].result(TIMEOUT) == 1


@pytest.mark.parametrize("fn", [int, lambda: 0], ids=["fine", "unpicklable"])
def test_processes_get_the_call_after_the_response(
    app: Flask, fn: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    app.config["EXECUTOR_TYPE"] = "process"
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    futures: list[FutureProxy[int]] = []
    with Executor(app) as executor:

        @app.route("/")
        def view() -> str:
            futures.append(executor.after_response().submit(fn))
            return ""

        answer = Answer(app, "/")
        assert futures[0].status == "pending"
        answer.close()
        if fn is int:
            assert futures[0].result(6 * TIMEOUT) == 0
        else:
            assert isinstance(futures[0].exception(TIMEOUT), UnpicklableError)
            assert len(caplog.records) == 1


def test_requests_that_submitted_after_their_response_leave_nothing_behind(
    app: Flask, executor: Executor
) -> None:
    class Thing:
        """Something that a request and its call hold."""

    @app.route("/")
    def view() -> str:
        g.thing = Thing()
        executor.after_response().submit(int)
        return ""

    for _ in range(5):
        Answer(app, "/").close()
    executor.shutdown()
    gc.collect()
    assert not any(type(each) is Thing for each in gc.get_objects())


# -- after the commit ------------------------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[Any]:
    """A session of plain SQLAlchemy with one table, ``notes``."""
    pytest.importorskip("sqlalchemy")
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import StaticPool

    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (text TEXT)"))
    session = Session(engine, future=True)
    yield session
    session.close()
    engine.dispose()


def write(session: Any, text: str = "note") -> None:
    from sqlalchemy import text as sql

    session.execute(sql("INSERT INTO notes VALUES (:text)"), {"text": text})


@pytest.fixture
def ran() -> list[str]:
    """What the calls of a test have appended."""
    return []


def test_call_starts_when_the_session_commits(
    executor: Executor, app: Flask, session: Any, ran: list[str]
) -> None:
    with app.test_request_context("/?name=Ann"):
        g.name = "Bob"
        write(session)
        future = executor.after_commit(session).submit(visitor)
        coroutine = executor.after_commit(session).submit(visitor_async)
        session.flush()
    executor.submit(int).result(TIMEOUT)
    assert (future.status, coroutine.status) == ("pending", "pending")
    session.commit()
    assert future.result(TIMEOUT) == coroutine.result(TIMEOUT) == ("Ann", "Bob")


def test_call_sees_what_was_committed(executor: Executor, session: Any, tmp_path: Path) -> None:
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import NullPool

    engine = create_engine(f"sqlite:///{tmp_path / 'notes.db'}", poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (text TEXT)"))

    def count() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM notes")).scalar() or 0)

    with Session(engine, future=True) as own:
        write(own)
        future = executor.after_commit(own).submit(count)
        own.commit()
        assert future.result(TIMEOUT) == 1


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
@pytest.mark.parametrize("end", ["rollback", "close", "error"])
def test_nothing_is_submitted_when_the_transaction_is_not_committed(
    executor: Executor, session: Any, ran: list[str], end: str, begun: bool
) -> None:
    if begun:
        write(session)
    future = executor.using(key="key").after_commit(session).submit(ran.append, "it")
    if not begun:
        write(session)
    assert executor.futures.get("key") is future
    if end == "error":
        with pytest.raises(KeyError), session:
            raise KeyError
    else:
        getattr(session, end)()
    assert future.status == "cancelled"
    assert executor.futures.get("key") is None
    write(session)
    session.commit()
    executor.shutdown()
    assert ran == []


@pytest.mark.parametrize("end", ["rollback", "close"])
def test_end_of_a_transaction_that_has_not_begun_leaves_the_call_to_the_next_one(
    executor: Executor, session: Any, end: str
) -> None:
    future = executor.after_commit(session).submit(int, "1")
    getattr(session, end)()
    assert future.status == "pending"
    with session.begin():
        write(session)
    assert future.result(TIMEOUT) == 1


def test_commit_never_joins_a_call_that_may_not_see_it(executor: Executor, session: Any) -> None:
    once = executor.using(key="key", on_duplicate="join")
    write(session)
    with pytest.raises(TypeError) as caught:
        once.after_commit(session).submit(int)
    assert str(caught.value) == TEXT_OF_NO_JOIN
    held = executor.using(key="key").after_commit(session).submit(int)
    replacement = once.submit(int, "1")
    session.rollback()
    assert held.status == "cancelled"
    assert executor.futures.get("key") is replacement
    assert replacement.result(TIMEOUT) == 1


def test_session_can_be_used_for_one_transaction_after_the_other(
    executor: Executor, session: Any
) -> None:
    futures: list[FutureProxy[int]] = []
    for number in range(6):
        write(session)
        futures.append(executor.after_commit(session).submit(int, number))
        if number % 2:
            session.rollback()
        else:
            session.commit()
    assert [future.cancelled() for future in futures] == [False, True] * 3
    assert [future.result(TIMEOUT) for future in futures[::2]] == [0, 2, 4]


def test_calls_of_two_sessions_do_not_mix(executor: Executor, session: Any) -> None:
    from sqlalchemy.orm import Session

    with Session(session.get_bind(), future=True) as other:
        write(session)
        first = executor.after_commit(session).submit(int, "1")
        second = executor.after_commit(other).submit(int, "2")
        session.commit()
        assert first.result(TIMEOUT) == 1
        assert second.status == "pending"
        write(other)
        other.commit()
        assert second.result(TIMEOUT) == 2


def test_call_of_a_savepoint_waits_for_the_outermost_commit(
    executor: Executor, session: Any
) -> None:
    write(session)
    outer = executor.after_commit(session).submit(int, "1")
    with session.begin_nested():
        write(session)
        inner = executor.after_commit(session).submit(int, "2")
        with session.begin_nested():
            innermost = executor.after_commit(session).submit(int, "3")
    executor.submit(int).result(TIMEOUT)
    assert [f.status for f in (outer, inner, innermost)] == ["pending"] * 3
    session.commit()
    assert [f.result(TIMEOUT) for f in (outer, inner, innermost)] == [1, 2, 3]


def test_savepoint_that_is_rolled_back_takes_its_calls_with_it(
    executor: Executor, session: Any
) -> None:
    write(session)
    outer = executor.after_commit(session).submit(int, "1")
    savepoint = session.begin_nested()
    inner = executor.using(key="inner").after_commit(session).submit(int, "2")
    with session.begin_nested():  # released into the one that is rolled back
        innermost = executor.after_commit(session).submit(int, "3")
    savepoint.rollback()
    assert [f.status for f in (outer, inner, innermost)] == ["pending", "cancelled", "cancelled"]
    assert executor.futures.get("inner") is None
    after = executor.after_commit(session).submit(int, "4")
    session.commit()
    assert [f.result(TIMEOUT) for f in (outer, after)] == [1, 4]


def test_outermost_rollback_takes_the_calls_of_released_savepoints_with_it(
    executor: Executor, session: Any
) -> None:
    write(session)
    with session.begin_nested():
        inner = executor.after_commit(session).submit(int, "2")
    session.rollback()
    assert inner.status == "cancelled"


def test_commit_with_an_open_savepoint_submits_its_calls(executor: Executor, session: Any) -> None:
    write(session)
    session.begin_nested()
    inner = executor.after_commit(session).submit(int, "2")
    session.get_transaction().commit()
    assert inner.result(TIMEOUT) == 2


def test_failed_commit_submits_nothing(executor: Executor, session: Any) -> None:
    from sqlalchemy import event

    write(session)
    future = executor.after_commit(session).submit(int)

    def fail(session: object) -> None:
        raise KeyError("flush")

    event.listen(session, "before_commit", fail)
    with pytest.raises(KeyError):
        session.commit()
    assert not future.done()
    session.rollback()
    assert future.status == "cancelled"


def test_session_that_is_dropped_without_a_commit_cancels_its_calls(
    executor: Executor, session: Any
) -> None:
    from sqlalchemy.orm import Session

    futures: list[FutureProxy[int]] = []

    def drop_one(*, begun: bool) -> None:
        dropped = Session(session.get_bind(), future=True)
        if begun:
            write(dropped)
        futures.append(executor.using(key=begun).after_commit(dropped).submit(int))

    drop_one(begun=True)
    drop_one(begun=False)
    gc.collect()
    assert [future.status for future in futures] == ["cancelled", "cancelled"]
    assert len(executor.futures) == 0


def test_sessions_that_committed_leave_nothing_behind(executor: Executor, session: Any) -> None:
    from sqlalchemy.orm import Session

    class Thing:
        """Something that a call holds."""

    bind = session.get_bind()

    def commit_one() -> None:
        with Session(bind, future=True) as own:
            write(own)
            executor.after_commit(own).submit(id, Thing())
            own.commit()

    for _ in range(5):
        commit_one()
    executor.shutdown()
    gc.collect()
    assert not any(type(each) is Thing for each in gc.get_objects())


def test_cancelled_call_never_starts_after_the_commit(
    executor: Executor, session: Any, ran: list[str]
) -> None:
    write(session)
    assert executor.after_commit(session).submit(ran.append, "no").cancel()
    executor.after_commit(session).submit(ran.append, "yes")
    session.commit()
    executor.shutdown()
    assert ran == ["yes"]


def test_job_submits_itself_after_the_commit(executor: Executor, session: Any) -> None:
    class Report:
        @executor.job
        def plain(self, text: str, *, end: str = "") -> str:
            return text + end

        @executor.job
        async def coroutine(self, text: str, *, end: str = "") -> str:
            return text + end

    write(session)
    futures = [
        job.using(name="report").after_commit(session).submit("a", end="b")
        for job in (Report().plain, Report().coroutine)
    ]
    assert [future.status for future in futures] == ["pending", "pending"]
    session.commit()
    assert [future.result(TIMEOUT) for future in futures] == ["ab", "ab"]


def test_scoped_session_is_the_session_of_this_thread(executor: Executor, session: Any) -> None:
    from sqlalchemy.orm import scoped_session, sessionmaker

    scoped: Any = scoped_session(sessionmaker(session.get_bind(), future=True))
    write(scoped)
    future = executor.after_commit(scoped).submit(int, "1")

    def commit_elsewhere() -> None:
        write(scoped)
        scoped.commit()
        scoped.remove()

    other = threading.Thread(target=commit_elsewhere)
    other.start()
    other.join(TIMEOUT)
    assert future.status == "pending"
    scoped.commit()
    assert future.result(TIMEOUT) == 1
    scoped.remove()


@pytest.mark.parametrize("commits", [True, False])
def test_session_of_flask_sqlalchemy_in_a_view(
    app: Flask, executor: Executor, tmp_path: Path, commits: bool
) -> None:
    pytest.importorskip("flask_sqlalchemy")
    from flask_sqlalchemy import SQLAlchemy

    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'notes.db'}"
    app.config["SQLALCHEMY_TRACK_MODIFICATIONS"] = False
    db: Any = SQLAlchemy(app)

    column = db.Column(db.Integer, primary_key=True)
    Note: Any = type("Note", (db.Model,), {"id": column})

    def find(id_: int) -> bool:
        return db.session.get(Note, id_) is not None

    futures: list[FutureProxy[bool]] = []

    @app.route("/")
    def view() -> str:
        note = Note()
        db.session.add(note)
        db.session.flush()
        futures.append(executor.using(key="key").after_commit(db.session).submit(find, note.id))
        assert not futures[0].done()
        if commits:
            db.session.commit()
        return ""

    with app.app_context():
        db.create_all()
    app.test_client().get("/")
    if commits:
        assert futures[0].result(TIMEOUT) is True
    else:
        assert futures[0].status == "cancelled"
        assert executor.futures.get("key") is None
    executor.shutdown()
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


@pytest.mark.parametrize("given", [None, "session", object])
def test_what_is_no_session_is_refused_with_the_cure(executor: Executor, given: Any) -> None:
    with pytest.raises(TypeError) as caught:
        executor.after_commit(given)
    assert str(caught.value) == (
        f"after_commit() got {given!r} ({type(given).__name__}): expected a Session or "
        "a scoped_session of SQLAlchemy, such as db.session; of an AsyncSession, its sync_session"
    )


def test_scoped_session_of_something_else_is_refused_before_the_key_is_taken(
    executor: Executor,
) -> None:
    orm = pytest.importorskip("sqlalchemy.orm", reason="SQLAlchemy is not installed")
    other_session = type("OtherSession", (), {"_is_asyncio": False})
    later = executor.using(key="key").after_commit(orm.scoped_session(other_session))
    with pytest.raises(TypeError, match=r"after_commit\(\) got <sqlalchemy.*scoped_session"):
        later.submit(int)
    assert len(executor.futures) == 0


# -- both ------------------------------------------------------------------------------------------


def test_map_has_no_results_to_give_after_the_response_or_commit(
    executor: Executor, session: Any
) -> None:
    @executor.job
    def job(number: int) -> int:
        return number

    for submit in (
        executor.after_response().map,
        executor.after_commit(session).map,
        executor.using(name="n").after_response().map,
    ):
        with pytest.raises(TypeError) as caught:
            submit(job, [1])
        assert str(caught.value) == TEXT_OF_NO_MAP
    for later in (job.after_response(), job.after_commit(session)):
        with pytest.raises(TypeError) as caught:
            later.map([1])
        assert str(caught.value) == TEXT_OF_NO_MAP


def test_call_waits_for_one_event_only(executor: Executor, session: Any) -> None:
    after_response, after_commit = executor.after_response(), executor.after_commit(session)
    for both in (
        after_response.after_response,
        partial(after_response.after_commit, session),
        after_commit.after_response,
        partial(after_commit.after_commit, session),
    ):
        with pytest.raises(TypeError) as caught:
            both()
        assert str(caught.value) == (
            "a call waits for one event: use after_response() or one after_commit(), not both"
        )


def test_options_go_before_or_behind_the_event_to_wait_for(
    app: Flask, executor: Executor, session: Any
) -> None:
    job = executor.job(abs)
    futures: list[FutureProxy[int]] = []
    named = executor.using(name="one", key="one").after_response()
    behind = executor.after_response().using(name="two", key="two")

    @app.route("/")
    def view() -> str:
        futures.append(named.submit(abs, -1))
        futures.append(behind.submit(abs, -2))
        futures.append(job.using(name="three", key="three").after_response().submit(-3))
        futures.append(job.after_response().using(name="four", key="four").submit(-4))
        return ""

    with app.test_client() as client:
        client.get("/").close()
    write(session)
    futures.append(executor.after_commit(session).using(name="five", key="five").submit(abs, -5))
    futures.append(job.using(name="six", key="six").after_commit(session).submit(-6))
    session.commit()
    assert [future.result(TIMEOUT) for future in futures] == [1, 2, 3, 4, 5, 6]
    names = ["one", "two", "three", "four", "five", "six"]
    assert [future.name for future in futures] == names
    assert [executor.futures.get(name) for name in names] == futures


def test_join_goes_neither_before_nor_behind_the_event_to_wait_for(
    executor: Executor, session: Any
) -> None:
    joining = executor.using(key="key", on_duplicate="join")
    for later in (
        joining.after_response,
        partial(joining.after_commit, session),
        partial(executor.after_response().using, on_duplicate="join"),
        partial(executor.after_commit(session).using, on_duplicate="join"),
    ):
        with pytest.raises(TypeError) as caught:
            later()
        assert str(caught.value) == TEXT_OF_NO_JOIN


def test_future_is_kept_under_a_key_by_submit_stored(
    app: Flask, executor: Executor, session: Any
) -> None:
    job = executor.job(abs)

    @app.route("/")
    def view() -> str:
        executor.after_response().submit_stored("plain", abs, -1)
        job.after_response().submit_stored("job", -2)
        assert executor.futures.status("plain") == "pending"
        return ""

    app.test_client().get("/").close()
    write(session)
    executor.after_commit(session).submit_stored("commit", abs, -3)
    job.after_commit(session).submit_stored("rollback", -4)
    assert executor.futures.status("commit") == "pending"
    session.commit()
    results = [executor.futures.result(key, TIMEOUT) for key in ("plain", "job", "commit")]
    assert results == [1, 2, 3]


def test_executor_that_waits_for_the_response_is_made_once_and_used_in_each_request(
    app: Flask, executor: Executor
) -> None:
    later = executor.after_response()
    ran: list[str] = []

    @app.route("/<name>")
    def view(name: str) -> str:
        later.submit(ran.append, name)
        return name

    answers = [Answer(app, "/one"), Answer(app, "/two")]
    answers[1].close()
    executor.submit(int).result(TIMEOUT)
    assert ran == ["two"]
    answers[0].close()
    executor.shutdown()
    assert ran == ["two", "one"]
