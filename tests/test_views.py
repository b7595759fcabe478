"""Async views: what they do in stock Flask they do on loops that last, and that the loops do."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar, copy_context
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from asgiref.local import Local
from asgiref.sync import AsyncSingleThreadContext, AsyncToSync, async_to_sync, sync_to_async
from asgiref.wsgi import WsgiToAsgi
from flask import Flask, Response, g, request, session, stream_with_context
from flask.testing import FlaskClient

from flask_executor_typed import ConfigError, Executor

from .conftest import TIMEOUT, until
from .helpers.scripts import Ended, in_time, run_python, run_script

variable: ContextVar[str] = ContextVar("variable", default="unset")

FLASK = tuple(int(part) for part in version("flask").split(".")[:3] if part.isdigit())

View = Callable[[], Awaitable[Any]]


def make_app(name: str = "views", *, lasting: bool = True) -> Flask:
    app = Flask(name)
    app.secret_key = "views"
    app.config["EXECUTOR_ASYNC_VIEWS"] = lasting
    app.testing = True  # exceptions of views get through to the test
    return app


@pytest.fixture(params=[False, True], ids=["stock", "lasting"])
def either_app(request: pytest.FixtureRequest) -> Iterator[Flask]:
    """Whatever holds for one holds for the other."""
    app = make_app(lasting=request.param)
    with Executor(app):
        yield app


@pytest.fixture
def app() -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask, executor: Executor) -> FlaskClient:
    return app.test_client()


def call(app: Flask, view: View) -> Any:
    """What an async function returns to Flask, in this thread."""
    return app.ensure_sync(view)()


def call_in_thread(app: Flask, view: View) -> Any:
    """The same in a new thread, which is over when this returns."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call(app, view)))
    thread.start()
    thread.join(TIMEOUT)
    (result,) = results
    return result


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def this_thread() -> threading.Thread:
    return threading.current_thread()


def view_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "-view-loop-" in thread.name}


def until_left(number: int) -> None:
    """Wait until no more than so many loops are left."""
    until(lambda: len(view_threads()) <= number)


# As in stock Flask


def test_async_functions_of_a_request_run_in_their_order_and_see_its_contexts(
    either_app: Flask,
) -> None:
    seen: list[tuple[str, str, str | None]] = []

    def see(name: str) -> None:
        seen.append((name, request.path, session.get("user")))

    @either_app.before_request
    async def before() -> None:
        session["user"] = "ada"
        see("before")
        g.value = 1

    @either_app.get("/")
    async def view() -> str:
        await asyncio.sleep(0)
        see("view")
        raise LookupError

    @either_app.errorhandler(LookupError)
    async def handle(error: LookupError) -> tuple[str, int]:
        see(f"handler {sys.exc_info()[1] is error}")
        return str(g.value), 418

    @either_app.after_request
    async def after(response: Response) -> Response:
        see("after")
        return response

    @either_app.teardown_request
    async def teardown(_: BaseException | None) -> None:
        see("teardown")

    response = either_app.test_client().get("/")
    assert (response.status_code, response.get_data()) == (418, b"1")
    names = ["before", "view", "handler True", "after", "teardown"]
    assert seen == [(name, "/", "ada") for name in names]


def test_variables_set_in_an_async_function_are_seen_after_it(either_app: Flask) -> None:
    async def view() -> str:
        variable.set("of the view")
        await asyncio.sleep(0)
        return variable.get()

    variable.set("before")
    assert call(either_app, view) == "of the view"
    assert variable.get() == "of the view"
    variable.set("unset")


def test_view_that_sets_no_variable_leaves_none(app: Flask, executor: Executor) -> None:
    def variables() -> list[ContextVar[Any]]:
        call(app, this_thread)
        return list(copy_context())

    assert Context().run(variables) == []


def test_exception_of_a_view_keeps_its_traceback_and_its_context(either_app: Flask) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("lost")

    try:
        raise KeyError("first")
    except KeyError as error:
        first = error
        with pytest.raises(LookupError, match="lost") as caught:
            call(either_app, fail)
    assert caught.value.__context__ is first
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "fail"


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
def test_base_exceptions_of_a_view_reach_the_caller(
    either_app: Flask, kind: type[BaseException]
) -> None:
    async def leave() -> None:
        raise kind

    with pytest.raises(kind):
        call(either_app, leave)
    assert call(either_app, this_thread) is not threading.current_thread()  # it goes on


def test_thread_sensitive_code_runs_in_the_thread_of_the_request(either_app: Flask) -> None:
    async def view() -> list[int]:
        ident = sync_to_async(threading.get_ident)
        in_task = asyncio.create_task(ident())
        in_bare_task = Context().run(asyncio.get_running_loop().create_task, ident())
        return [await ident(), await in_task, await in_bare_task]

    assert call(either_app, view) == [threading.get_ident()] * 3


def test_thread_sensitive_code_of_some_views_leaves_the_others_alone(either_app: Flask) -> None:
    async def with_it() -> int:
        return await sync_to_async(threading.get_ident)()

    async def without_it() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    here = threading.get_ident()
    views = [without_it, with_it, with_it, without_it, without_it, with_it]
    assert [call(either_app, view) == here for view in views] == [view is with_it for view in views]


def test_task_that_outlives_nested_bridges_still_finds_the_thread_of_the_request(
    either_app: Flask,
) -> None:
    tasks: list[asyncio.Task[int]] = []

    async def late() -> int:
        await asyncio.sleep(0.001)
        return await sync_to_async(threading.get_ident)()

    async def nested() -> None:
        tasks.append(asyncio.create_task(late()))

    async def view() -> int:
        await sync_to_async(async_to_sync(nested))()
        return await tasks.pop()

    assert [call(either_app, view) for _ in range(2)] == [threading.get_ident()] * 2


def test_bridges_do_not_look_for_the_loop_of_a_view_that_is_over(either_app: Flask) -> None:
    async def view() -> asyncio.AbstractEventLoop:
        await sync_to_async(int)()
        return asyncio.get_running_loop()

    loop = call(either_app, view)
    assert async_to_sync(running_loop)() is not loop


def test_locals_of_asgiref_are_those_of_the_request(either_app: Flask) -> None:
    data = Local()
    data.before = "request"

    async def view() -> str:
        data.inside = "view"
        await asyncio.sleep(0)
        return str(data.before)

    assert call(either_app, view) == "request"
    assert (data.before, data.inside) == ("request", "view")


def test_other_code_of_sync_to_async_runs_beside_it(either_app: Flask) -> None:
    async def view() -> int:
        return await sync_to_async(threading.get_ident, thread_sensitive=False)()

    assert call(either_app, view) != threading.get_ident()


def test_tasks_that_a_view_left_behind_are_cancelled_and_cleaned_up_when_it_ends(
    either_app: Flask,
) -> None:
    events: list[str] = []

    async def linger(started: asyncio.Event) -> None:
        try:
            started.set()
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            events.append(await sync_to_async(lambda: "cleaned up")())

    async def view() -> str:
        started = asyncio.Event()
        task = asyncio.create_task(linger(started))
        await started.wait()
        assert not task.done()
        return "returned"

    async def fail() -> None:
        await view()
        raise LookupError

    assert call(either_app, view) == "returned"
    assert events == ["cleaned up"]
    with pytest.raises(LookupError):
        call(either_app, fail)
    assert events == ["cleaned up"] * 2


class Rows:
    """Opens generators that take a while to close, and refers to itself like many a cursor."""

    def __init__(self, events: list[str]) -> None:
        self.me = self
        self.events = events

    async def read(self) -> AsyncGenerator[int]:
        try:
            for number in range(9):
                yield number
        finally:
            await asyncio.sleep(0.01)
            self.events.append(await sync_to_async(lambda: "generator closed")())

    async def start(self) -> AsyncGenerator[int]:
        generator = self.read()
        await generator.__anext__()
        return generator


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Stock's loop cancels the closing of a generator that the collector finds as the loop ends."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["referred to", "in a cycle", "of a task"])
def test_generators_that_a_view_left_open_are_closed_when_it_ends(
    either_app: Flask, kind: str, no_collection: None
) -> None:
    events: list[str] = []
    kept: list[object] = []

    async def linger(started: asyncio.Event) -> None:
        rows = await Rows(events).start()
        try:
            started.set()
            await asyncio.sleep(3600)
        finally:
            events.append("task cancelled")
            kept.append(rows)

    async def view() -> str:
        if kind == "of a task":
            started = asyncio.Event()
            kept.append(asyncio.create_task(linger(started)))
            await started.wait()
            return "returned"
        rows: Any = Rows(events)
        rows.generator = await rows.start()
        if kind == "referred to":
            kept.append(rows)
        return "returned"

    async def fail() -> None:
        await view()
        raise LookupError

    expected = ["task cancelled"] * (kind == "of a task") + ["generator closed"]
    assert call(either_app, view) == "returned"
    assert events == expected
    with pytest.raises(LookupError):
        call(either_app, fail)
    assert events == expected * 2


def test_error_in_closing_a_generator_goes_to_the_exception_handler(either_app: Flask) -> None:
    reported: list[dict[str, Any]] = []
    kept: list[AsyncGenerator[None]] = []

    async def read() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            raise LookupError("lost")

    async def view() -> str:
        asyncio.get_running_loop().set_exception_handler(lambda _, found: reported.append(found))
        kept.append(read())
        await kept[0].__anext__()
        return "returned"

    assert call(either_app, view) == "returned"
    ((found,), (generator,)) = reported, kept
    assert repr(found["exception"]) == "LookupError('lost')"
    assert found["asyncgen"] is generator
    assert repr(generator) in found["message"]


def test_bridges_may_be_nested_in_a_view_and_stay_on_its_loop(either_app: Flask) -> None:
    async def innermost() -> tuple[object, int]:
        loop = asyncio.get_running_loop()
        return loop, await sync_to_async(threading.get_ident)()

    def with_asgiref() -> tuple[object, int]:
        return async_to_sync(innermost)()

    def with_flask() -> tuple[object, int]:
        result: tuple[object, int] = either_app.ensure_sync(innermost)()
        return result

    async def view() -> list[bool]:
        here = (asyncio.get_running_loop(), await sync_to_async(threading.get_ident)())
        found = [
            await sync_to_async(fn, thread_sensitive=sensitive)()
            for fn in (with_asgiref, with_flask)
            for sensitive in (True, False)
        ]
        return [loop is here[0] for loop, _ in found] + [found[0] == found[2] == here]

    assert call(either_app, view) == [True] * 5


def test_ensure_sync_refuses_where_a_loop_runs(either_app: Flask) -> None:
    async def view() -> None:
        either_app.ensure_sync(running_loop)()

    expected = (
        "You cannot use AsyncToSync in the same thread as an async event loop - "
        "just await the async function directly."
    )
    with pytest.raises(RuntimeError) as caught:
        call(either_app, view)
    assert str(caught.value) == expected
    with pytest.raises(RuntimeError) as caught:
        asyncio.run(view())
    assert str(caught.value) == expected


@pytest.mark.skipif(
    (2, 2) <= FLASK < (3, 1, 2), reason="no stream_with_context in async views of this Flask"
)
def test_streams_see_the_request_of_their_async_view(either_app: Flask) -> None:
    async def word() -> str:
        await asyncio.sleep(0)
        return request.args["word"]

    @either_app.get("/")
    async def view() -> Response:
        def stream() -> Iterator[str]:
            yield request.path
            yield either_app.ensure_sync(word)()

        return Response(stream_with_context(stream()))

    assert either_app.test_client().get("/?word=hello").get_data(as_text=True) == "/hello"


def test_jobs_can_be_awaited_in_a_view(either_app: Flask) -> None:
    executor: Executor = either_app.extensions["executor"]

    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    async def view() -> list[int]:
        return [await executor.submit(double, 1), await executor.submit(max, 3, 4)]

    assert call(either_app, view) == [2, 4]


@pytest.mark.parametrize("debug", [False, True])
def test_blocking_the_loop_of_a_view_is_a_warning_in_debug_mode_that_names_the_line(
    either_app: Flask, debug: bool
) -> None:
    either_app.debug = debug
    executor: Executor = either_app.extensions["executor"]
    release = threading.Event()

    async def wait() -> str:
        future = executor.using(name="report").submit(release.wait, TIMEOUT)
        with pytest.raises(FutureTimeoutError):
            future.result(0.01)
        release.set()
        await future
        assert future.result()  # it is done, so this does not block
        return "over"

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert call(either_app, wait) == "over"
    ours = [each for each in caught if "await future" in str(each.message)]
    if not debug:
        assert ours == []
        return
    (warning,) = ours
    assert str(warning.message) == (
        "waiting for report here blocks the event loop, and whatever else runs on it; "
        "use 'await future'"
    )
    lines = Path(warning.filename).read_text().splitlines()
    assert lines[warning.lineno - 1].strip() == "future.result(0.01)"


def test_wrong_arguments_are_an_error_of_the_caller_and_the_next_call_works(
    either_app: Flask,
) -> None:
    async def view(_: int) -> None: ...

    with pytest.raises(TypeError):
        either_app.ensure_sync(view)()
    assert call(either_app, this_thread) is not threading.current_thread()


# The loops


def test_async_functions_of_one_thread_share_one_loop_and_start_no_other_thread(
    app: Flask, client: FlaskClient
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    threads: list[threading.Thread] = []

    @app.before_request
    async def note() -> None:
        loops.append(asyncio.get_running_loop())
        threads.append(threading.current_thread())

    @app.after_request
    async def note_after(response: Response) -> Response:
        await note()
        return response

    @app.get("/view")
    async def view() -> str:
        await note()
        return ""

    for _ in range(100):
        assert client.get("/view").status_code == 200
    assert len(loops) == 300
    assert len(set(loops)) == len(set(threads)) == 1
    assert threads[0].name == "executor-view-loop-0"


def test_view_that_blocks_delays_only_itself(app: Flask, executor: Executor) -> None:
    meeting = threading.Barrier(8)

    async def block() -> threading.Thread:
        await asyncio.sleep(0)
        meeting.wait(TIMEOUT)  # which never ends if one waits for another
        return threading.current_thread()

    seen: list[threading.Thread] = []
    threads = [
        threading.Thread(target=lambda: seen.append(call(app, block)), daemon=True)
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(set(seen)) == 8


def test_loop_of_a_thread_that_has_ended_serves_the_next_one(
    app: Flask, executor: Executor
) -> None:
    loops = {call_in_thread(app, running_loop) for _ in range(20)}
    assert len(loops) == 1


def test_few_loops_stay_when_many_threads_have_ended(app: Flask, executor: Executor) -> None:
    meeting = threading.Barrier(12)

    async def meet() -> None:
        meeting.wait(TIMEOUT)

    threads = [threading.Thread(target=call, args=(app, meet), daemon=True) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    until_left(4)
    assert len({call_in_thread(app, running_loop) for _ in range(20)}) == 1


def test_two_executors_have_loops_of_their_own() -> None:
    one, other = make_app("one"), make_app("other")
    with Executor(one), Executor(other):
        assert call(one, running_loop) is not call(other, running_loop)


def test_view_of_another_app_may_be_called_in_a_view(app: Flask, executor: Executor) -> None:
    other = make_app("other")
    other.add_url_rule("/", "index", this_thread_name)

    async def view() -> tuple[str, str]:
        response = await sync_to_async(other.test_client().get)("/")
        return threading.current_thread().name, response.get_data(as_text=True)

    with Executor(other):
        mine, others = call(app, view)
    assert mine == others  # as in stock Flask: on the loop that waits


async def this_thread_name() -> str:
    return threading.current_thread().name


def test_request_in_a_thread_of_an_asgi_server_does_not_run_on_the_loop_of_the_server(
    app: Flask, executor: Executor
) -> None:
    app.add_url_rule("/", "index", this_thread_name)
    seen: list[str] = []

    async def serve() -> None:
        # The handler as an ASGI server calls it.
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                seen.append(message.get("body", b"").decode())

        scope: Any = {
            "type": "http", "http_version": "1.1", "method": "GET", "path": "/",
            "query_string": b"", "headers": [], "scheme": "http", "server": ("localhost", 80),
        }  # fmt: skip
        wrapper: Any = WsgiToAsgi
        handler = wrapper(app)
        for _ in range(3):
            await asyncio.wait_for(handler(scope, receive, send), TIMEOUT)

    asyncio.run(serve())
    assert "".join(seen) == "executor-view-loop-0" * 3


def test_async_single_thread_context_is_respected(app: Flask, executor: Executor) -> None:
    single_thread: Any = AsyncSingleThreadContext
    with single_thread():
        first, second = call(app, this_thread), call(app, this_thread)
    assert first is second
    assert "view-loop" not in first.name


def test_async_teardown_after_a_coroutine_job_works(app: Flask, executor: Executor) -> None:
    seen: list[str] = []

    @app.teardown_appcontext
    async def teardown(_: BaseException | None) -> None:
        seen.append(threading.current_thread().name)

    assert executor.submit(asyncio.sleep, 0, "done").result(TIMEOUT) == "done"
    executor.shutdown()
    assert seen == ["executor-view-loop-0"]


@pytest.mark.parametrize("sensitive", [False, True])
def test_thread_sensitive_code_of_a_view_that_is_over_is_refused(
    app: Flask, executor: Executor, sensitive: bool
) -> None:
    async def view() -> tuple[asyncio.AbstractEventLoop, Context]:
        if sensitive:
            await sync_to_async(int)()
        return asyncio.get_running_loop(), copy_context()

    loop, context = call(app, view)
    late = sync_to_async(threading.get_ident)()
    future = context.run(asyncio.run_coroutine_threadsafe, late, loop)
    with pytest.raises(RuntimeError) as caught:
        future.result(TIMEOUT)
    assert str(caught.value) == ("the async view is over in whose thread this code was to run")


def test_late_code_of_a_view_does_not_run_in_the_thread_of_the_next_request(
    app: Flask, executor: Executor
) -> None:
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()
    errors: list[str] = []

    def late() -> None:
        begun.set()
        assert go_on.wait(TIMEOUT)
        try:
            asyncio.run(sync_to_async(threading.get_ident)())
        except RuntimeError as error:
            errors.append(str(error))
        over.set()

    async def leave_it_behind() -> None:
        task = asyncio.ensure_future(sync_to_async(late, thread_sensitive=False)())
        await asyncio.to_thread(begun.wait, TIMEOUT)
        task.cancel()

    async def next_view() -> bool:
        go_on.set()
        return await asyncio.to_thread(over.wait, TIMEOUT)

    call(app, leave_it_behind)
    assert call(app, next_view)
    assert errors == ["the async view is over in whose thread this code was to run"]


def test_code_for_the_thread_of_a_view_is_refused_from_the_end_of_the_view_on(
    app: Flask, executor: Executor
) -> None:
    refused: list[str] = []
    seen = threading.Event()

    def submit_late(_: object) -> None:  # perhaps before the thread is awake
        try:
            AsyncToSync.executors.current.submit(int)
        except RuntimeError as error:
            refused.append(str(error))
        seen.set()

    async def view() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(submit_late)

    for number in range(1, 20):
        call(app, view)
        assert seen.wait(TIMEOUT)
        seen.clear()
        assert len(refused) == number
    assert set(refused) == {"the async view is over in whose thread this code was to run"}


def test_exception_of_a_view_is_freed_with_its_last_reference(
    app: Flask, executor: Executor, no_collection: None
) -> None:
    class Error(Exception):
        """One that can be referred to weakly."""

    async def fail() -> None:
        raise Error

    def failure() -> weakref.ref[Exception]:
        try:
            call(app, fail)
        except Error as error:
            return weakref.ref(error)
        raise AssertionError

    assert failure()() is None


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_interrupted_view_is_cancelled_and_the_next_one_gets_another_loop() -> None:
    ended = run_script("""
        import signal
        app.config["EXECUTOR_ASYNC_VIEWS"] = True
        executor.init_app(app)
        armed, log = [True], []

        def interrupt(*_):
            if armed:
                armed.pop()
                raise KeyboardInterrupt

        async def child():
            try:
                await asyncio.Event().wait()
            finally:
                log.append("child cleaned up")

        async def view():
            task = asyncio.create_task(child())
            try:
                while armed:  # Python does not see a signal when it is about to wait
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                    await asyncio.sleep(0.01)
                await task
            finally:
                log.append("view cleaned up")

        async def next_view():
            return threading.current_thread().name

        signal.signal(signal.SIGINT, interrupt)
        try:
            app.ensure_sync(view)()
        except KeyboardInterrupt:
            print("interrupted", log)
        print(app.ensure_sync(next_view)())
        print(app.ensure_sync(next_view)())
    """)
    assert ended == Ended(
        0,
        "interrupted ['view cleaned up', 'child cleaned up']\n"
        "executor-view-loop-1\nexecutor-view-loop-1\n",
        "",
    )


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_view_of_a_signal_handler_leaves_the_thread_to_the_view_that_it_interrupted(
    app: Flask, executor: Executor
) -> None:
    thread = threading.main_thread()
    armed, seen = [True], list[threading.Thread]()

    def handle(*_: object) -> None:
        if armed:
            armed.pop()
            seen.append(call(app, this_thread))

    async def view() -> list[threading.Thread]:
        while not seen:  # Python does not see a signal in the moment when it begins to wait
            signal.pthread_kill(thread.ident or 0, signal.SIGUSR1)
            await asyncio.sleep(0.01)
        in_thread = sync_to_async(threading.current_thread)
        without_context = Context().run(asyncio.get_running_loop().create_task, in_thread())
        return [await in_thread(), await without_context, threading.current_thread()]

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        assert call(app, view) == [thread, thread, *seen]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_view_is_started_in_no_context_of_its_request(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[Context] = []
    thread = threading.current_thread()

    def make_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop()
        call_soon = loop.call_soon_threadsafe

        def note(*args: Any, context: Context | None = None) -> asyncio.Handle:
            if threading.current_thread() is thread:
                contexts.append(copy_context() if context is None else context)
            return call_soon(*args, context=context)

        monkeypatch.setattr(loop, "call_soon_threadsafe", note)
        return loop

    async def view() -> str:
        return variable.get()

    def request() -> str:
        variable.set("of the request")
        result: str = call(app, view)
        return result

    app.config["EXECUTOR_LOOP_FACTORY"] = make_loop
    with Executor(app):
        assert copy_context().run(request) == "of the request"
    assert contexts
    assert "of the request" not in [context.get(variable) for context in contexts]


# The end


def test_shutdown_ends_the_loops_and_views_go_on_as_in_stock_flask(app: Flask) -> None:
    executor = Executor(app)
    loop = call(app, running_loop)
    executor.shutdown()
    assert loop.is_closed()
    assert not view_threads()
    assert call(app, running_loop).is_closed()
    executor.init_app(app)
    assert call(app, running_loop).is_running()
    executor.shutdown()


def test_shutdown_lets_a_view_that_runs_come_to_its_end(app: Flask) -> None:
    executor = Executor(app)
    started, go_on = threading.Event(), threading.Event()

    async def view() -> str:
        started.set()
        while not go_on.is_set():
            await asyncio.sleep(0)
        return "done"

    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(call(app, view)))
    thread.start()
    assert started.wait(TIMEOUT)
    executor.shutdown(wait=False)
    assert len(view_threads()) == 1
    go_on.set()
    in_time(executor.shutdown)
    thread.join(TIMEOUT)
    assert results == ["done"]
    assert not view_threads()


def test_loop_that_was_busy_at_the_shutdown_ends_with_its_view_although_the_thread_lives_on(
    app: Flask,
) -> None:
    executor = Executor(app)

    async def view() -> str:
        executor.shutdown(wait=False)
        return "done"

    assert call(app, view) == "done"
    until_left(0)


@pytest.mark.parametrize("where", ["view", "sync code of a view", "job of a view"])
def test_shutdown_in_a_view_does_not_wait_for_the_view(app: Flask, where: str) -> None:
    executor = Executor(app)

    async def view() -> str:
        if where == "view":
            executor.shutdown()
        elif where == "job of a view":
            await executor.submit(executor.shutdown)
        else:
            await sync_to_async(executor.shutdown)()
        return "done"

    results: list[str] = []
    in_time(lambda: results.append(call(app, view)))
    assert results == ["done"]
    in_time(executor.shutdown)
    assert not view_threads()


def test_views_of_an_app_that_is_gone_leave_no_thread(app: Flask) -> None:
    app = make_app("short-lived")
    executor = Executor(app)
    call(app, running_loop)
    call_in_thread(app, running_loop)
    gone = weakref.ref(app)
    del app, executor
    gc.collect()
    assert gone() is None
    until_left(0)


def test_loop_of_an_app_that_is_gone_is_freed() -> None:
    app = make_app("short-lived")
    executor = Executor(app)
    loop = weakref.ref(call(app, running_loop))
    assert loop() is not None
    del app, executor
    gc.collect()
    until_left(0)
    gc.collect()
    assert loop() is None


def test_interpreter_that_exits_waits_for_no_idle_loop() -> None:
    ended = run_script("""
        app.config["EXECUTOR_ASYNC_VIEWS"] = True
        executor.init_app(app)
        async def view():
            return 7
        print(app.ensure_sync(view)())
    """)
    assert ended == Ended(0, "7\n", "")


ASYNC_VIEWS = """
warnings.simplefilter("ignore")  # of forking a process that has threads
app.config["EXECUTOR_ASYNC_VIEWS"] = True
executor.init_app(app)


async def view():
    return threading.current_thread().name

"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_interpreter_exits_silently_after_an_async_view_in_its_main_thread(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # it depends on the order in which a module loses its names
    script.write_text(
        dedent("""
        from flask import Flask
        from flask_executor_typed import Executor

        app = Flask("script")
        app.config["EXECUTOR_ASYNC_VIEWS"] = True
        Executor(app)

        async def view():
            return "seen"

        f = app.ensure_sync(view)
        with app.test_request_context():
            print(f())
        """)
    )
    assert run_python(str(script)) == Ended(0, "seen\n", "")


def test_child_of_a_fork_has_loops_of_its_own() -> None:
    ended = run_script(
        ASYNC_VIEWS
        + dedent("""
        print(app.ensure_sync(view)(), flush=True)
        other = threading.Thread(target=app.ensure_sync(view))  # whose loop is a spare one now
        other.start()
        other.join()
        child = os.fork()
        if child == 0:
            time_out(8)
            print(app.ensure_sync(view)(), flush=True)
            sys.exit()  # which waits for the loop to end
        os.waitpid(child, 0)
        print(app.ensure_sync(view)())
        """)
    )
    name = "executor-view-loop-0\n"
    assert ended == Ended(0, name * 3, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_child_of_a_fork_leaves_the_loops_of_its_parent_alone() -> None:
    ended = run_script("""
        import os, warnings
        warnings.simplefilter("ignore")

        class Loop(asyncio.SelectorEventLoop):
            # Somebody else's may take a lock here, which nobody releases in the child.
            def call_soon_threadsafe(self, *args, **options):
                if os.getpid() != parent:
                    print("told", flush=True)
                return super().call_soon_threadsafe(*args, **options)

        parent = os.getpid()
        app.config.update(EXECUTOR_ASYNC_VIEWS=True, EXECUTOR_LOOP_FACTORY=Loop)
        executor.init_app(app)
        barrier = threading.Barrier(9)
        async def view():
            pass
        def serve():
            app.ensure_sync(view)()
            barrier.wait(10)
            barrier.wait(10)
        threads = [threading.Thread(target=serve) for _ in range(8)]
        for thread in threads:
            thread.start()
        barrier.wait(10)
        child = os.fork()
        if child == 0:
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        barrier.wait(10)
    """)
    assert ended == Ended(0, "7\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_view_in_the_child_that_a_job_forked_runs_on_a_loop_of_the_child() -> None:
    ended = run_script(
        ASYNC_VIEWS
        + dedent("""
        def job():
            child = os.fork()
            if child == 0:
                time_out(8)
                print(app.ensure_sync(view)(), flush=True)
                os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(executor.submit(job).result(20))
        """)
    )
    assert ended == Ended(0, "executor-view-loop-0\n7\n", "")


# The setting


def test_without_the_setting_flask_is_left_alone(app: Flask) -> None:
    app.config["EXECUTOR_ASYNC_VIEWS"] = False
    with Executor(app):
        assert "async_to_sync" not in vars(app)
        assert call(app, running_loop).is_closed()


def test_setting_can_be_changed_with_init_app(app: Flask) -> None:
    executor = Executor(app)
    assert call(app, running_loop).is_running()
    app.config["EXECUTOR_ASYNC_VIEWS"] = False
    executor.init_app(app)
    assert call(app, running_loop).is_closed()
    app.config["EXECUTOR_ASYNC_VIEWS"] = "yes"
    executor.init_app(app)
    assert call(app, running_loop).is_running()
    executor.shutdown()


def test_generators_that_a_view_dropped_are_closed_when_it_ends(
    app: Flask, executor: Executor
) -> None:  # unlike in stock Flask, which before Python 3.13 cuts that short
    events: list[str] = []

    async def in_its_last_moment() -> None:
        await Rows(events).start()

    async def while_it_runs() -> None:
        await Rows(events).start()
        await asyncio.sleep(0.001)

    call(app, in_its_last_moment)
    assert events == ["generator closed"]
    call(app, while_it_runs)
    assert events == ["generator closed"] * 2


def test_generators_are_closed_on_a_loop_that_a_view_had_stopped(
    app: Flask, executor: Executor
) -> None:
    events: list[str] = []
    kept: list[object] = []

    async def stop() -> None:
        asyncio.get_running_loop().stop()

    async def until_it_has_stopped() -> None:
        for _ in range(10):  # it does so at the end of this turn, or of the next
            await asyncio.sleep(0)

    async def view() -> None:
        kept.append(await Rows(events).start())

    for number in range(1, 4):
        call(app, view)
        assert events == ["generator closed"] * number
        call(app, stop)
        call(app, until_it_has_stopped)


def test_generators_of_a_resource_stay_open_when_a_view_ends(
    app: Flask, executor: Executor
) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def opened() -> AsyncGenerator[AsyncGenerator[int]]:
        yield await Rows(events).start()

    resource = executor.loop_resource(opened)

    async def view() -> int:
        return await (await resource.get()).__anext__()

    assert [call(app, view) for _ in range(3)] == [1, 2, 3]
    assert events == []


def test_closing_of_a_resources_generator_is_not_cancelled_by_views_that_end_meanwhile(
    app: Flask, executor: Executor
) -> None:
    events: list[str] = []
    go_on: list[asyncio.Event] = []
    closed = threading.Event()

    async def read() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            events.append("closing")
            try:
                await go_on[0].wait()
                events.append("closed")
            finally:
                closed.set()

    @asynccontextmanager
    async def opened() -> AsyncGenerator[list[AsyncGenerator[None]]]:
        generator = read()
        await generator.__anext__()
        generators = [generator]
        del generator
        yield generators

    resource = executor.loop_resource(opened)

    async def drop() -> None:
        go_on.append(asyncio.Event())
        (await resource.get()).clear()
        while not events:
            await asyncio.sleep(0)

    async def let_it() -> None:
        go_on[0].set()

    call(app, drop)
    call(app, running_loop)
    assert events == ["closing"]
    call(app, let_it)
    assert closed.wait(TIMEOUT)
    assert events == ["closing", "closed"]


def test_setting_that_is_made_after_init_app_is_used_from_the_first_job_on(app: Flask) -> None:
    app.config["EXECUTOR_ASYNC_VIEWS"] = False
    with Executor(app) as executor:
        app.config["EXECUTOR_ASYNC_VIEWS"] = True
        executor.submit(int).result(TIMEOUT)
        assert call(app, running_loop).is_running()


class WithHook(Flask):
    def async_to_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return super().async_to_sync(func)


def test_app_with_a_hook_of_its_own_is_refused() -> None:
    app = WithHook("views")
    app.config["EXECUTOR_ASYNC_VIEWS"] = True
    with pytest.raises(ConfigError) as caught:
        Executor(app)
    assert str(caught.value) == (
        "EXECUTOR_ASYNC_VIEWS=True (bool): expected False, because WithHook has an "
        "async_to_sync() of its own; set it before init_app()"
    )
    assert not app.extensions


def test_two_executors_for_the_views_of_one_app_are_refused(app: Flask) -> None:
    app.config["MAIL_EXECUTOR_ASYNC_VIEWS"] = True
    with Executor(app) as executor:
        with pytest.raises(ConfigError) as caught:
            Executor(app, name="mail")
        executor.init_app(app)  # again: nothing changes
    assert str(caught.value) == (
        "MAIL_EXECUTOR_ASYNC_VIEWS=True (bool): expected one executor for each app with this "
        "setting; the async views of 'views' run on the loops of executor already; "
        "set it before init_app()"
    )
    with Executor(app, name="mail"):  # the other has been shut down
        assert call(app, this_thread).name == "mail_executor-view-loop-0"
