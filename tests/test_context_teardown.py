"""How the contexts of a job end: what is torn down, closed and freed, and when."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sqlite3
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import flask.globals
import pytest
from flask import (
    Blueprint,
    Flask,
    Request,
    current_app,
    g,
    has_app_context,
    has_request_context,
    request,
)
from flask.ctx import AppContext, _AppCtxGlobals
from flask.signals import (
    appcontext_popped,
    appcontext_pushed,
    appcontext_tearing_down,
    request_tearing_down,
)

from flask_executor_typed import Executor, FutureProxy, current_job
from flask_executor_typed.context import ContextRules, PushedContexts, active_app_context, capture

from .conftest import TIMEOUT, until
from .helpers.contexts import (
    AsyncResource,
    Job,
    Marker,
    app_context,
    both_kinds,
    coroutine,
    in_worker,
    items_of,
    itself,
    plain,
    request_context,
    run,
    start,
    teardowns,
)

# -- teardown that submits -------------------------------------------------------------------------


def audit(number: int) -> int:
    return number


async def audit_async(number: int) -> int:
    return number


@pytest.mark.parametrize("when", ["teardown_request", "teardown_appcontext"])
@pytest.mark.parametrize("fn", [audit, audit_async])
def test_submit_in_a_jobs_own_teardown_is_warned_of_once_with_the_cure(
    app: Flask, caplog: pytest.LogCaptureFixture, when: str, fn: Callable[[int], Any]
) -> None:
    futures: list[FutureProxy[Any]] = []
    enough = threading.Event()

    def submit(error: BaseException | None) -> None:
        if len(futures) < 20:  # or else without end
            futures.append(executor.submit(fn, 1))  # the line
        else:
            enough.set()

    getattr(app, when)(submit)
    app.add_url_rule("/", view_func=lambda: "ok")
    with Executor(app) as executor:
        assert app.test_client().get("/").get_data(as_text=True) == "ok"
        assert enough.wait(TIMEOUT)
    (record,) = caplog.records
    lines, first = inspect.getsourcelines(submit)
    number = first + next(index for index, line in enumerate(lines) if "the line" in line)
    assert record.getMessage() == (
        f"{__file__}:{number} submits a job in a teardown function, which runs after each job too: "
        "one request may start jobs without end; begin it with 'if current_job: return'"
    )
    assert (record.levelname, record.module, record.lineno) == (
        "WARNING", "test_context_teardown", number
    )  # fmt: skip


def test_submit_in_the_teardown_of_a_view_is_no_reason_for_a_warning(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    futures: list[FutureProxy[int]] = []

    @app.teardown_request
    def submit(error: BaseException | None) -> None:
        if current_job:
            return
        futures.append(executor.submit(audit, 1))

    app.add_url_rule("/", view_func=lambda: "ok")
    with Executor(app) as executor:
        app.test_client().get("/")
    assert [future.result() for future in futures] == [1]
    assert caplog.records == []


def test_submit_in_a_job_before_its_teardown_is_no_reason_for_a_warning(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    @app.teardown_appcontext
    def do_nothing(error: BaseException | None) -> None: ...

    def outer() -> int:
        with current_app.app_context():
            assert executor.submit(audit, 2).result(TIMEOUT) == 2
        return executor.submit(audit, 1).result(TIMEOUT)

    with Executor(app) as executor, app.app_context():
        future = executor.submit(outer)
        future.add_done_callback(lambda done: executor.submit(audit, 3))
        assert future.result(TIMEOUT) == 1
    assert caplog.records == []


# -- teardown --------------------------------------------------------------------------------------


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
def test_job_has_no_more_of_a_request_in_its_teardown_than_a_view_has(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    seen: list[tuple[bool, str | None]] = []  # before Flask 3.2, no request in both

    @app.teardown_appcontext
    def look(error: BaseException | None) -> None:
        seen.append((in_worker(), request.path if has_request_context() else None))

    @app.get("/view")
    def view() -> str:
        return str(run(executor, kind(lambda: request.path)))

    assert app.test_client().get("/view").get_data(as_text=True) == "/view"
    ((of_job, job), (of_view, views)) = seen
    assert (of_job, of_view) == (True, False)
    assert job == views


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
        executor.wait_idle(TIMEOUT)  # for the callback too
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


@both_kinds
def test_job_does_not_close_the_request_as_the_view_does(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    closed: list[bool] = []

    class OwnRequest(Request):
        def close(self) -> None:
            closed.append(in_worker())

    app.request_class = OwnRequest
    log = teardowns(app)
    with app.test_request_context():
        run(executor, kind(lambda: request.path))
    assert len(log) == 4
    assert closed == [False]


@pytest.mark.parametrize("name", ["do_teardown_appcontext", "do_teardown_request"])
@both_kinds
def test_teardown_that_a_test_watches_is_called(
    app: Flask, executor: Executor, kind: Callable[[Job], Job], name: str
) -> None:
    with (
        app.test_request_context(),
        patch.object(app, name, wraps=getattr(app, name)) as teardown,
    ):
        run(executor, kind(lambda: None))
        assert teardown.call_count == 1


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


# -- nothing stays ---------------------------------------------------------------------------------


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
    snapshot, variables = capture(ContextRules(), app, active_app_context())

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
