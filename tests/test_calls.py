"""How one call is run: what is awaited, what it is called, and how its failure is seen."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any
from unittest.mock import Mock

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from flask import Flask, current_app, request
from werkzeug.local import LocalProxy

from flask_executor_typed import Executor, FutureProxy
from flask_executor_typed.callables import name_of

from .conftest import TIMEOUT
from .helpers.scripts import in_time


async def coroutine(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def plain(number: int) -> int:
    return number * 2


class Thenable:
    """An awaitable of somebody's own making, which is no coroutine."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __await__(self) -> Generator[Any, None, int]:
        yield from asyncio.sleep(0).__await__()
        return self.number * 2


class Callable_:
    """An object that can be called, and gives a coroutine."""

    async def __call__(self, number: int) -> int:
        return await coroutine(number)

    async def method(self, number: int) -> int:
        return await coroutine(number)

    @classmethod
    async def class_method(cls, number: int) -> int:
        return await coroutine(number)

    @staticmethod
    async def static_method(number: int) -> int:
        return await coroutine(number)


def returning_a_coroutine(number: int) -> Awaitable[int]:
    return coroutine(number)


def returning_a_thenable(number: int) -> Thenable:
    return Thenable(number)


async def coroutine_of_an_awaitable(number: int) -> Thenable:
    return Thenable(number)


def returning_a_partial_call(number: int) -> Awaitable[int]:
    return functools.partial(coroutine, number)()


through_a_lambda: Callable[[int], Awaitable[int]] = lambda number: coroutine(number)  # noqa: E731, PLW0108


def decorated(fn: Callable[[int], Awaitable[int]]) -> Callable[[int], Awaitable[int]]:
    @functools.wraps(fn)
    def wrapper(number: int) -> Awaitable[int]:
        return fn(number)

    return wrapper


def on_the_running_loop(number: int) -> asyncio.Future[int]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(number * 2)
    return future


async def asyncio_future(number: int) -> int:
    return await on_the_running_loop(number)


# What is awaited


@pytest.mark.parametrize(
    "fn",
    [
        plain,
        coroutine,
        through_a_lambda,
        functools.partial(coroutine),
        functools.partial(functools.partial(coroutine)),
        Callable_(),
        functools.partial(Callable_()),
        Callable_().method,
        Callable_.class_method,
        Callable_.static_method,
        returning_a_coroutine,
        returning_a_thenable,
        Thenable,
        returning_a_partial_call,
        decorated(coroutine),
        sync_to_async(plain),
        functools.partial(sync_to_async(plain)),
        sync_to_async(plain, thread_sensitive=False),
        async_to_sync(coroutine),
        asyncio_future,
    ],
    ids=lambda fn: getattr(fn, "__qualname__", type(fn).__name__),
)
def test_whatever_a_call_returns_that_can_be_awaited_is_awaited(
    executor: Executor, fn: Callable[..., Any]
) -> None:
    future: FutureProxy[int] = executor.submit(fn, 21)
    assert future.result(TIMEOUT) == 42


def test_future_of_another_call_is_awaited_as_well(executor: Executor) -> None:
    def outer() -> FutureProxy[int]:
        return executor.submit(coroutine, 21)

    assert executor.submit(outer).result(TIMEOUT) == 42


def test_what_the_awaited_gives_is_not_awaited_once_more(executor: Executor) -> None:
    result: Any = executor.submit(coroutine_of_an_awaitable, 21).result(TIMEOUT)
    assert isinstance(result, Thenable)


def test_awaitable_of_a_plain_function_sees_its_contexts(app: Flask, executor: Executor) -> None:
    async def name_of_app() -> str:
        await asyncio.sleep(0)
        return current_app.name

    def plain_function() -> Awaitable[str]:
        return name_of_app()

    assert executor.submit(plain_function).result(TIMEOUT) == "tests"


def test_context_of_a_plain_function_lasts_until_its_awaitable_is_done(app: Flask) -> None:
    order: list[str] = []

    @app.teardown_appcontext
    def tear_down(error: BaseException | None) -> None:
        order.append("torn down")

    async def later() -> None:
        await asyncio.sleep(0)
        order.append("done")

    def plain_function() -> Awaitable[None]:
        order.append("called")
        return later()

    with Executor(app) as executor:
        executor.submit(plain_function)
    assert order == ["called", "done", "torn down"]


def test_blocking_parts_of_awaitables_of_plain_functions_run_side_by_side(
    executor: Executor,
) -> None:
    meeting = threading.Barrier(2)

    async def meet() -> int:
        return await sync_to_async(meeting.wait)(TIMEOUT)

    def plain_function() -> Awaitable[int]:
        return meet()

    futures = [executor.submit(plain_function) for _ in range(2)]
    assert sorted(future.result(TIMEOUT) for future in futures) == [0, 1]


# Where it runs


def thread_name() -> str:
    return threading.current_thread().name


async def thread_name_async() -> str:
    return thread_name()


through_a_lambda_without_arguments: Callable[[], str] = lambda: thread_name()  # noqa: E731, PLW0108


class Anything:
    """Has every attribute one asks for, as proxies of remote objects do."""

    def __getattr__(self, name: str) -> Anything:
        return self

    def __call__(self) -> str:
        return thread_name()


class AsyncNamed:
    """An object with an ``async`` ``__call__``."""

    async def __call__(self) -> str:
        return thread_name()


@pytest.mark.parametrize(
    "fn",
    [
        thread_name_async,
        functools.partial(thread_name_async),
        functools.partial(functools.partial(thread_name_async)),
        AsyncNamed(),
        AsyncNamed().__call__,
        sync_to_async(thread_name),
    ],
)
def test_coroutine_function_needs_no_worker(app: Flask, fn: Callable[[], Any]) -> None:
    before = set(threading.enumerate())
    with Executor(app, name="async_only") as executor:
        executor.submit(fn).result(TIMEOUT)
        started = {thread.name for thread in set(threading.enumerate()) - before}
        assert "async_only_executor-loop-0" in started
        assert "async_only_executor-worker-0" not in started


@pytest.mark.parametrize(
    "fn",
    [
        thread_name,
        through_a_lambda_without_arguments,
        functools.partial(thread_name),
        async_to_sync(sync_to_async(thread_name)),
        Anything(),
        Mock(side_effect=thread_name),
    ],
    ids=["function", "lambda", "partial", "async_to_sync", "remote object", "mock"],
)
def test_anything_else_runs_in_a_worker(executor: Executor, fn: Callable[[], Any]) -> None:
    assert executor.submit(fn).result(TIMEOUT) == "executor-worker-0"


@pytest.mark.parametrize("proxy", [current_app, request], ids=["of the app", "of nothing"])
@pytest.mark.parametrize("chunksize", [1, 2])
def test_proxy_can_be_returned_although_its_type_can_be_awaited(
    executor: Executor, proxy: Any, chunksize: int
) -> None:
    def give(_: object = None) -> Any:
        return proxy

    assert hasattr(LocalProxy, "__await__")
    assert executor.submit(give).result(TIMEOUT) is proxy
    for result in executor.map(give, range(2), chunksize=chunksize):
        assert result is proxy


# What it is called


class Named:
    def method(self) -> None: ...

    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (plain, "plain"),
        (coroutine, "coroutine"),
        (len, "len"),
        (Named, "Named"),
        (Named(), "Named"),
        (Named().method, "Named.method"),
        (Named.method, "Named.method"),
        (functools.partial(plain), "plain"),
        (functools.partial(functools.partial(Named())), "Named"),
        ("".join, "str.join"),
        (sync_to_async(plain), "plain"),
        (async_to_sync(coroutine), "AsyncToSync"),
        (functools.lru_cache(plain), "plain"),
    ],
)
def test_call_is_named_after_its_function(
    executor: Executor, fn: Callable[..., Any], name: str
) -> None:
    assert name_of(fn) == name
    future: FutureProxy[Any] = executor.submit(fn)
    assert future.name == name
    future.cancel()


def test_name_that_is_no_text_is_not_used() -> None:
    assert name_of(Anything()) == "Anything"
    assert name_of(Mock()) == "Mock"


# How a failure is seen


def fail() -> None:
    raise LookupError("no such row")


async def fail_async() -> None:
    await asyncio.sleep(0)
    fail()


def fail_awaited() -> Awaitable[None]:
    return fail_async()


every_failure = pytest.mark.parametrize("fn", [fail, fail_async, fail_awaited])


def records_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name != "asyncio"]


@every_failure
def test_failure_is_logged_once_with_name_id_and_traceback(
    app: Flask, caplog: pytest.LogCaptureFixture, fn: Callable[[], Any]
) -> None:
    with Executor(app) as executor:
        future: FutureProxy[None] = executor.submit(fn)
    (record,) = caplog.records
    assert record.name == app.logger.name
    assert record.levelno == logging.ERROR
    assert record.getMessage() == f"Exception in background job {fn.__name__} [{future.id}]"
    assert record.exc_info is not None
    assert record.exc_info[1] is future.exception()
    assert "in fail\n" in caplog.text
    assert "LookupError: no such row" in caplog.text


@every_failure
def test_failure_that_somebody_waits_for_is_logged_all_the_same(
    executor: Executor, caplog: pytest.LogCaptureFixture, fn: Callable[[], Any]
) -> None:
    with pytest.raises(LookupError, match="no such row"):
        executor.submit(fn).result(TIMEOUT)
    executor.shutdown()
    assert len(caplog.records) == 1


def test_failures_of_map_are_logged_one_by_one(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    executor.map(divmod, [1, 2, 3], [0, 1, 0])
    executor.shutdown()
    assert [record.getMessage().partition(" [")[0] for record in caplog.records] == [
        "Exception in background job divmod"
    ] * 2


@every_failure
def test_failure_is_logged_with_the_contexts_of_the_call(app: Flask, fn: Callable[[], Any]) -> None:
    seen: list[str] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(current_app.name)

    handler = Note()
    app.logger.addHandler(handler)
    try:
        with Executor(app) as executor:
            executor.submit(fn)
    finally:
        app.logger.removeHandler(handler)
    assert seen == ["tests"]


@every_failure
def test_log_exceptions_off_logs_nothing(
    app: Flask, caplog: pytest.LogCaptureFixture, fn: Callable[[], Any]
) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
    with Executor(app) as executor:
        future: FutureProxy[None] = executor.submit(fn)
    assert isinstance(future.exception(), LookupError)
    assert caplog.records == []


@pytest.mark.parametrize("log_exceptions", [True, False])
@every_failure
def test_propagate_exceptions_raises_in_a_callback_which_is_logged_once(
    app: Flask, caplog: pytest.LogCaptureFixture, fn: Callable[[], Any], log_exceptions: bool
) -> None:
    app.config["EXECUTOR_PROPAGATE_EXCEPTIONS"] = True
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = log_exceptions
    with Executor(app) as executor:
        future: FutureProxy[None] = executor.submit(fn)
    (record,) = caplog.records
    assert record.name == app.logger.name
    assert "propagate_exceptions_callback" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is future.exception()


@pytest.mark.parametrize("propagate", [False, True], ids=["logged", "propagated"])
def test_cancelled_calls_are_not_logged(
    app: Flask, caplog: pytest.LogCaptureFixture, propagate: bool
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    app.config["EXECUTOR_PROPAGATE_EXCEPTIONS"] = propagate
    begun, release = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        begun.set()
        await asyncio.Event().wait()

    with Executor(app) as executor:
        executor.submit(release.wait, TIMEOUT)
        pending, running = executor.submit(fail), executor.submit(wait_for_ever)
        assert begun.wait(TIMEOUT)
        assert pending.cancel()
        assert running.cancel()
        release.set()
    assert (pending.status, running.status) == ("cancelled", "cancelled")
    assert caplog.records == []


def test_coroutine_that_gives_itself_up_is_cancelled_and_not_logged(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def cancel_own_task() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    futures = [executor.submit(give_up), executor.submit(cancel_own_task)]
    executor.shutdown()
    assert [future.status for future in futures] == ["cancelled", "cancelled"]
    assert caplog.records == []


class CustomBaseError(BaseException):
    """Derives from BaseException alone."""


CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)
TIMED_OUT = (asyncio.TimeoutError, concurrent.futures.TimeoutError)  # two on 3.10

ENDINGS = [
    LookupError,
    MemoryError,
    RecursionError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    concurrent.futures.CancelledError,
    concurrent.futures.TimeoutError,
    asyncio.CancelledError,
    CustomBaseError,
]


def in_a_function(error: type[BaseException]) -> None:
    raise error("from a job")


async def in_a_coroutine(error: type[BaseException]) -> None:
    await asyncio.sleep(0)
    raise error("from a job")


async def in_a_coroutine_at_once(error: type[BaseException]) -> None:
    raise error("from a job")


def in_an_awaitable(error: type[BaseException]) -> Awaitable[None]:
    return in_a_coroutine(error)


def in_async_to_sync(error: type[BaseException]) -> None:
    async_to_sync(in_a_coroutine)(error)


async def in_sync_to_async(error: type[BaseException]) -> None:
    await sync_to_async(in_a_function)(error)


@pytest.mark.parametrize("error", ENDINGS)
@pytest.mark.parametrize(
    "fn",
    [
        in_a_function,
        in_a_coroutine,
        in_a_coroutine_at_once,
        in_an_awaitable,
        in_async_to_sync,
        in_sync_to_async,
    ],
)
def test_every_kind_of_exception_is_delivered_and_the_workers_live_on(
    app: Flask, fn: Callable[[type[BaseException]], Any], error: type[BaseException]
) -> None:
    if fn is in_sync_to_async and error is StopIteration:
        pytest.skip("asyncio refuses StopIteration in its own futures, and waits for ever")
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executor = Executor(app)
    future: FutureProxy[None] = executor.submit(fn, error)
    try:
        raised = future.exception(TIMEOUT)
    except concurrent.futures.CancelledError:
        assert error in CANCELLED
    else:
        # asyncio turns exceptions of concurrent.futures into its own of that name, and Python the
        # StopIteration of a coroutine into a RuntimeError.
        same = next((kinds for kinds in (CANCELLED, TIMED_OUT) if error in kinds), (error,))
        assert isinstance(raised, (*same, RuntimeError))
    futures = [executor.submit(kind, number) for number in range(20) for kind in (plain, coroutine)]
    assert [other.result(TIMEOUT) for other in futures] == [n * 2 for n in range(20) for _ in "ab"]
    in_time(executor.shutdown)


def test_failure_of_a_task_that_a_job_left_alone_does_not_end_the_loop(executor: Executor) -> None:
    async def leave() -> None:
        tasks.append(asyncio.get_running_loop().create_task(in_a_coroutine(SystemExit)))

    tasks: list[asyncio.Task[None]] = []
    executor.submit(leave).result(TIMEOUT)
    assert executor.submit(coroutine, 21).result(TIMEOUT) == 42
    assert executor.submit(coroutine, 21).result(TIMEOUT) == 42


def test_logger_that_raises_does_not_harm_the_worker(app: Flask) -> None:
    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise OSError("the log is full")

    app.config["EXECUTOR_MAX_WORKERS"] = 1
    broken = Broken()
    app.logger.addFilter(broken)
    try:
        with Executor(app) as executor:
            futures: list[FutureProxy[Any]] = [executor.submit(fail), executor.submit(fail_async)]
            for future in futures:
                assert isinstance(future.exception(TIMEOUT), (LookupError, OSError))
            assert executor.submit(plain, 21).result(TIMEOUT) == 42
            assert executor.submit(coroutine, 21).result(TIMEOUT) == 42
    finally:
        app.logger.removeFilter(broken)
