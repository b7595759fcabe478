"""A shutdown with a time limit: who ends in time, what becomes of the others, and what is logged.

That of the interpreter is in test_threads.py.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from flask import Flask

from flask_executor_typed import (
    Executor,
    ExecutorClosedError,
    FutureProxy,
    JobAbandonedError,
    current_job,
)
from flask_executor_typed.loops import thread as loop_thread
from flask_executor_typed.runtime import exit as exit_module
from flask_executor_typed.runtime.exit import CLEANUP

from .apps import working
from .conftest import TIMEOUT
from .helpers.held import Held
from .helpers.scripts import in_time, run_python
from .helpers.workers import START, is_alive, until, until_dead


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Threads that were left behind end when what they run has ended."""
    yield
    until(lambda: threads_of_executors() == [])


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time to clean up for what does so, however busy the machine is."""
    for module in (loop_thread, exit_module):
        monkeypatch.setattr(module, "CLEANUP", TIMEOUT)


@pytest.fixture
def messages(app: Flask) -> list[str]:
    """What the app logs."""
    records: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            records.append(f"{record.levelname} {record.getMessage()}: {error}")

    app.logger.addHandler(Collect())
    app.logger.propagate = False
    return records


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.let_go()


def error_of(future: FutureProxy[Any]) -> JobAbandonedError:
    error = future.exception(0)
    assert isinstance(error, JobAbandonedError)
    return error


def threads_of_executors() -> list[str]:
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith(("executor-", "hasty_", "other_"))]


def double(number: int) -> int:
    return number * 2


async def sleep_forever() -> None:
    await asyncio.sleep(3600)


# -- threads ---------------------------------------------------------------------------------------


def test_calls_that_end_in_time_are_done_and_the_threads_end(
    app: Flask, messages: list[str]
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    before = set(threading.enumerate())
    executor = Executor(app)
    futures: list[FutureProxy[Any]] = [executor.submit(time.sleep, 0.01) for _ in range(20)]
    futures += [executor.submit(asyncio.sleep, 0.01) for _ in range(20)]
    executor.shutdown(timeout=TIMEOUT)
    assert {future.status for future in futures} == {"succeeded"}
    assert set(threading.enumerate()) <= before
    assert messages == []


def loop_until_asked(begun: threading.Event) -> str:
    while not current_job.cancel_requested:
        begun.set()
        time.sleep(0.001)
    return "ended"


async def loop_until_asked_async(begun: threading.Event) -> None:
    while not current_job.cancel_requested:
        begun.set()
        await asyncio.sleep(3600)


@pytest.mark.usefixtures("patience")
def test_job_that_ends_when_asked_is_not_abandoned_and_keeps_its_result(
    app: Flask, messages: list[str]
) -> None:
    executor = Executor(app)
    begun = threading.Event()
    future = executor.submit(loop_until_asked, begun)
    assert begun.wait(TIMEOUT)
    in_time(lambda: executor.shutdown(timeout=0))
    assert future.result(TIMEOUT) == "ended"
    assert messages == []
    assert threads_of_executors() == []


def test_coroutine_that_looks_whether_to_end_is_cancelled_and_not_abandoned(
    app: Flask, messages: list[str]
) -> None:
    executor = Executor(app)
    begun = threading.Event()
    future = executor.submit(loop_until_asked_async, begun)
    assert begun.wait(TIMEOUT)
    in_time(lambda: executor.shutdown(timeout=0))
    assert future.status == "cancelled"
    assert messages == []


def test_job_that_looks_whether_to_end_and_does_not_is_abandoned_later(
    app: Flask, held: Held, messages: list[str]
) -> None:
    def look_and_go_on() -> None:
        assert not current_job.cancel_requested
        held()

    executor = Executor(app)
    future = executor.submit(look_and_go_on)
    held.until_begun()
    in_time(lambda: executor.shutdown(timeout=0))
    assert isinstance(error_of(future), JobAbandonedError)
    (message,) = messages
    assert "is abandoned" in message


ENDLESS_APP = """
import time
from flask import Flask
from flask_executor_typed import Executor, current_job

loops = Executor(name="loops")


@loops.job
def refresh_prices():
    while not current_job.cancel_requested:
        time.sleep(0.1)


def create_app():
    app = Flask(__name__)
    app.config["LOOPS_EXECUTOR_SHUTDOWN_TIMEOUT"] = 0
    loops.init_app(app)
    with app.app_context():
        refresh_prices.submit()
    return app
"""


def test_app_that_starts_an_endless_job_in_its_factory_keeps_no_command_alive(
    tmp_path: Path,
) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS_APP, encoding="utf-8")
    ended = run_python("-m", "flask", "routes", FLASK_APP=str(tmp_path / "endless.py"))
    assert ended.status == 0
    assert "static" in ended.stdout
    assert "abandoned" not in ended.stderr


def test_calls_that_are_not_done_in_time_fail_and_are_logged_once_by_name_and_id(
    app: Flask, held: Held, messages: list[str]
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    ran: list[int] = []
    executor = Executor(app)
    running = executor.submit(held)
    held.until_begun()
    pending = executor.submit(ran.append, 1)
    in_time(lambda: executor.shutdown(timeout=0.01))
    assert str(error_of(running)) == (
        "Held was still running when the 0.01 s of the shutdown were over"
    )
    assert str(error_of(pending)) == (
        "list.append had not begun when the 0.01 s of the shutdown were over"
    )
    assert sorted(messages) == sorted(
        f"ERROR Background job {future.name} [{future.id}] is abandoned: {future.exception(0)}"
        for future in (running, pending)
    )
    worker = next(each for each in threading.enumerate() if each.name == "executor-worker-0")
    held.let_go()
    worker.join(TIMEOUT)
    assert not worker.is_alive()  # it goes on, to the end of what it runs
    assert (ran, running.status, len(messages)) == ([], "failed", 2)


def test_waiters_and_callbacks_hear_that_a_call_was_abandoned(app: Flask, held: Held) -> None:
    executor, heard = Executor(app), list[BaseException | None]()
    future = executor.submit(held)
    held.until_begun()
    future.add_done_callback(lambda future: heard.append(future.exception()))

    async def wait_for_it() -> None:
        with pytest.raises(JobAbandonedError):
            await future

    waiter = threading.Thread(target=asyncio.run, args=(wait_for_it(),), daemon=True)
    waiter.start()
    in_time(lambda: executor.shutdown(timeout=0.1))
    waiter.join(TIMEOUT)
    assert not waiter.is_alive()
    assert heard == [future.exception(0)]


def test_shutdown_that_does_not_wait_has_the_time_limit_as_well(app: Flask, held: Held) -> None:
    executor = Executor(app)
    future = executor.submit(held)
    held.until_begun()
    executor.shutdown(wait=False, timeout=0.5)
    assert not future.done()
    assert isinstance(future.exception(TIMEOUT), JobAbandonedError)


def test_another_shutdown_that_waits_without_limit_returns_when_the_thread_is_left_behind(
    app: Flask, held: Held
) -> None:
    executor = Executor(app)
    executor.submit(held)
    held.until_begun()
    waiting = threading.Thread(target=executor.shutdown, daemon=True)
    waiting.start()
    executor.shutdown(wait=False, timeout=0.1)
    waiting.join(TIMEOUT)
    assert not waiting.is_alive()


def test_setting_is_the_limit_unless_shutdown_gets_another(app: Flask, held: Held) -> None:
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = "0.05"
    with Executor(app) as executor:
        future = executor.submit(held)
        held.until_begun()
    assert error_of(future).seconds == 0.05

    executor = Executor(app)
    future = executor.submit(held)
    held.until_begun()
    executor.shutdown(wait=False, timeout=math.inf)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.2)
    held.let_go()
    in_time(lambda: executor.shutdown(timeout=math.inf))
    assert future.status == "succeeded"


@pytest.mark.parametrize("timeout", [-1, math.nan])
def test_a_time_that_is_none_is_refused_and_nothing_is_shut_down(
    executor: Executor, timeout: float
) -> None:
    text = f"timeout={timeout!r}: expected seconds, 0 or more"
    with pytest.raises(ValueError, match=f"^{text}$"):
        executor.shutdown(timeout=timeout)
    given: Any = "5"
    with pytest.raises(TypeError, match=r"^timeout='5': expected seconds, 0 or more$"):
        executor.shutdown(timeout=given)
    assert executor.submit(double, 2).result(TIMEOUT) == 4


def test_new_settings_and_a_dropped_executor_put_no_time_limit_on_what_runs(
    app: Flask, held: Held
) -> None:
    app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0
    executor = Executor(app)
    future = executor.submit(held)
    held.until_begun()
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executor.init_app(app)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.2)
    held.let_go()
    assert future.result(TIMEOUT) == "executor-worker-0"
    in_time(executor.shutdown)


def test_each_app_has_its_own_time(held: Held) -> None:
    patient, hasty = Flask("patient"), Flask("hasty")
    hasty.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.05
    executor = Executor()
    futures: list[FutureProxy[str]] = []
    for app in (patient, hasty):
        executor.init_app(app)
        with app.app_context():
            futures.append(executor.submit(held))
    held.until_begun(2)
    futures[1].add_done_callback(lambda future: held.let_go())
    in_time(executor.shutdown)
    assert futures[0].status == "succeeded"
    assert error_of(futures[1]).seconds == 0.05


def test_job_of_another_executor_that_waits_for_an_abandoned_call_goes_on(
    app: Flask, held: Held
) -> None:
    app.config["HASTY_EXECUTOR_SHUTDOWN_TIMEOUT"] = 0.05
    hasty = Executor(app, name="hasty")
    with Executor(app) as executor:
        future = hasty.submit(held)
        held.until_begun()
        waits = executor.submit(future.exception)
        in_time(hasty.shutdown)
        assert waits.result(TIMEOUT) is future.exception(0)


def test_50_running_jobs_and_50_sleepers_and_1000_pending_ones_are_done_within_5_seconds(
    app: Flask, held: Held, messages: list[str]
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 50
    executor = Executor(app)
    running: list[FutureProxy[Any]] = [executor.submit(held) for _ in range(50)]
    held.until_begun(50)
    running += [executor.submit(sleep_forever) for _ in range(50)]
    until(running[-1].running)
    pending = [executor.submit(double, number) for number in range(1000)]
    begun = time.monotonic()
    executor.shutdown(cancel_futures=True, timeout=0.5)
    assert time.monotonic() - begun < 5
    assert all(future.cancelled() for future in pending)
    assert all(isinstance(future.exception(0), JobAbandonedError) for future in running)
    assert len(messages) == 100


# -- loops -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patience")
def test_coroutine_is_cancelled_and_cleans_up_before_its_loop_closes_what_it_has(
    app: Flask,
) -> None:
    steps: list[str] = []
    loops: set[asyncio.AbstractEventLoop] = set()
    ready = threading.Event()

    def note(step: str) -> None:
        steps.append(step)
        loops.add(asyncio.get_running_loop())

    @asynccontextmanager
    async def open_client() -> AsyncGenerator[str, None]:
        yield "client"
        await asyncio.sleep(0)
        note("client closed")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            note("generator closed")

    async def work() -> None:
        client = await clients.get()
        generators.append(numbers())
        await generators[-1].__anext__()
        ready.set()
        try:
            await asyncio.sleep(3600)
        finally:
            for _ in range(5):
                await asyncio.sleep(0.01)
            note(f"job is done with the {client}")

    generators: list[AsyncIterator[int]] = []
    executor = Executor(app)
    clients = executor.loop_resource(open_client)
    future = executor.submit(work)
    assert ready.wait(TIMEOUT)
    in_time(lambda: executor.shutdown(timeout=0.05))
    assert error_of(future).begun
    assert steps == ["job is done with the client", "client closed", "generator closed"]
    assert len(loops) == 1
    assert threads_of_executors() == []


def test_coroutine_that_refuses_to_be_cancelled_does_not_keep_a_client_of_its_loop_open(
    app: Flask,
) -> None:
    ready, closed = threading.Event(), threading.Event()
    ends: list[asyncio.Event] = []

    @asynccontextmanager
    async def open_client() -> AsyncGenerator[None, None]:
        yield
        closed.set()

    async def refuse() -> None:
        await clients.get()
        end = asyncio.Event()
        ready.set()
        for _ in range(10):
            try:
                await asyncio.wait_for(end.wait(), 3600)
            except asyncio.CancelledError:
                ends.append(end)

    executor = Executor(app)
    clients = executor.loop_resource(open_client)
    future = executor.submit(refuse)
    assert ready.wait(TIMEOUT)
    in_time(lambda: executor.shutdown(timeout=0))
    assert closed.wait(TIMEOUT)
    assert error_of(future).begun


def test_calls_of_a_blocked_loop_fail_too(app: Flask, held: Held) -> None:
    async def block() -> None:
        held()

    executor = Executor(app)
    blocking = executor.submit(block)
    held.until_begun()
    behind = executor.submit(sleep_forever)  # the loop has not looked at it
    in_time(lambda: executor.shutdown(timeout=0.05))
    assert error_of(blocking).begun
    assert not error_of(behind).begun


async def bridged() -> None:
    await sync_to_async(time.sleep)(0)
    await sleep_forever()


def returns_awaitable() -> Awaitable[None]:
    return bridged()


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    "fn", [returns_awaitable, async_to_sync(bridged)], ids=["awaited", "bridged"]
)
def test_thread_that_waits_for_a_coroutine_on_the_loop_ends_with_it(
    app: Flask, fn: Callable[[], Any]
) -> None:
    executor = Executor(app)
    future = executor.submit(fn)
    until(future.running)
    in_time(lambda: executor.shutdown(timeout=0.1))
    assert error_of(future).begun
    # That of sync_to_async() ends when the coroutine has; nobody waits for it.
    assert set(threads_of_executors()) <= {"executor-sensitive-0"}


async def by_asyncio(fn: Callable[[], Any]) -> None:
    await asyncio.to_thread(fn)


async def by_asgiref(fn: Callable[[], Any]) -> None:
    await sync_to_async(fn)()


@pytest.mark.parametrize("bridge", [by_asyncio, by_asgiref])
def test_shutdown_leaves_a_thread_behind_that_blocks_for_a_coroutine(
    app: Flask, held: Held, bridge: Callable[[Callable[[], Any]], Any]
) -> None:
    async def block_in_a_thread() -> None:
        await bridge(held)

    executor = Executor(app)
    future = executor.submit(block_in_a_thread)
    held.until_begun()
    in_time(lambda: executor.shutdown(timeout=0.05))
    assert error_of(future).begun


# -- without blocking a loop -----------------------------------------------------------------------


def test_ashutdown_waits_and_the_loop_goes_on_meanwhile(app: Flask, held: Held) -> None:
    executor = Executor(app)
    futures: list[FutureProxy[Any]] = [executor.submit(held), executor.submit(asyncio.sleep, 0)]
    held.until_begun()

    async def main() -> None:
        ending = asyncio.create_task(executor.ashutdown())
        for _ in range(100):  # which needs the loop
            await asyncio.sleep(0)
        assert not ending.done()
        with pytest.raises(ExecutorClosedError):
            executor.submit(double, 1)
        held.let_go()
        await asyncio.wait_for(ending, TIMEOUT)

    asyncio.run(main())
    assert {future.status for future in futures} == {"succeeded"}
    # The thread that tells the loop so may still be at its last line.
    assert set(threads_of_executors()) <= {"executor-shutdown"}


def test_ashutdown_has_the_options_of_shutdown(app: Flask, held: Held) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executor = Executor(app)
    running = executor.submit(held)
    held.until_begun()
    pending = executor.submit(double, 1)
    asyncio.run(executor.ashutdown(wait=False, timeout=math.inf))
    assert not running.done()
    asyncio.run(executor.ashutdown(cancel_futures=True, timeout=0.05))
    assert error_of(running).seconds == 0.05
    assert pending.cancelled()
    asyncio.run(executor.ashutdown())


def test_shutdown_goes_on_when_the_task_that_awaits_it_is_cancelled(app: Flask, held: Held) -> None:
    executor = Executor(app)
    future = executor.submit(held)
    held.until_begun()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(executor.ashutdown(), 0.01)

    asyncio.run(main())
    held.let_go()
    assert future.result(TIMEOUT) == "executor-worker-0"
    in_time(executor.shutdown)


def test_job_may_await_the_shutdown_of_its_executor_and_of_another(app: Flask) -> None:
    other = Executor(app, name="other")
    slow = other.submit(time.sleep, 0.05)

    async def shut_down() -> str:
        await executor.ashutdown()
        await other.ashutdown()
        return slow.status

    executor = Executor(app)
    assert executor.submit(shut_down).result(TIMEOUT) == "succeeded"
    in_time(executor.shutdown)


def test_async_view_may_await_the_shutdown(app: Flask) -> None:
    app.config["EXECUTOR_ASYNC_VIEWS"] = True
    executor = Executor(app)

    @app.get("/")
    async def view() -> str:
        job = executor.submit(time.sleep, 0.05)
        await executor.ashutdown()
        return job.status

    answers: list[str] = []
    in_time(lambda: answers.append(app.test_client().get("/").get_data(as_text=True)))
    assert answers == ["succeeded"]
    in_time(executor.shutdown)


@pytest.mark.usefixtures("patience")
def test_view_that_runs_when_time_is_up_is_cancelled_on_its_loop(app: Flask) -> None:
    app.config["EXECUTOR_ASYNC_VIEWS"] = True
    app.testing = False
    executor, begun, cleaned = Executor(app), threading.Event(), list[bool]()

    @app.get("/")
    async def view() -> str:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)
        return ""

    answers: list[tuple[int, str]] = []

    @app.errorhandler(JobAbandonedError)
    def busy_ending(error: JobAbandonedError) -> tuple[str, int]:
        return str(error), 503

    def get() -> None:
        response = app.test_client().get("/")
        answers.append((response.status_code, response.get_data(as_text=True)))

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    assert begun.wait(TIMEOUT)
    in_time(lambda: executor.shutdown(timeout=0.05))
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert cleaned == [True]
    [(status, text)] = answers
    assert status == 503
    assert text.endswith("view was still running when the 0.05 s of the shutdown were over")


def test_async_view_that_shuts_down_is_not_cancelled_when_time_is_up(app: Flask) -> None:
    app.config["EXECUTOR_ASYNC_VIEWS"] = True
    executor = Executor(app)

    @app.get("/")
    async def view() -> str:
        job = executor.submit(asyncio.sleep, 3600)
        await executor.ashutdown(timeout=0.05)
        await asyncio.sleep(0)
        return job.status

    answers: list[str] = []
    in_time(lambda: answers.append(app.test_client().get("/").get_data(as_text=True)))
    assert answers == ["failed"]


# -- processes -------------------------------------------------------------------------------------


def test_worker_process_that_does_not_end_its_call_is_killed(tmp_path: Path) -> None:
    app = working.create_app()
    executor = Executor(app)
    running = executor.submit(working.write_and_wait, tmp_path / "pid")
    pending = executor.submit(working.pid)
    until((tmp_path / "pid").exists)
    in_time(lambda: executor.shutdown(timeout=0.05))
    assert error_of(running).begun
    assert not error_of(pending).begun
    until_dead(int((tmp_path / "pid").read_text()))
    until(lambda: threads_of_executors() == [])


@pytest.mark.usefixtures("patience")
def test_coroutine_in_a_worker_process_cleans_up_and_the_process_ends_by_itself(
    tmp_path: Path,
) -> None:
    app = working.create_app()
    executor = Executor(app)
    process = executor.submit(working.pid).result(START)
    future = executor.submit(working.write_and_wait_async, tmp_path / "begun", tmp_path / "end")
    until((tmp_path / "begun").exists)
    begun = time.monotonic()
    in_time(lambda: executor.shutdown(timeout=0.05))
    assert time.monotonic() - begun < 0.05 + CLEANUP  # nobody had to be killed
    assert error_of(future).begun
    assert (tmp_path / "end").exists()
    assert not is_alive(process)


def test_process_that_never_has_loaded_its_app_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADS_FOREVER", str(tmp_path / "pid"))
    app = Flask("loads")
    app.config["EXECUTOR_TYPE"] = "process"
    app.config["EXECUTOR_APP"] = "tests.apps.working:create_app_forever"
    app.config["EXECUTOR_START_METHOD"] = "spawn"  # a fork server has an older environment
    executor = Executor(app)
    future = executor.submit(os.getpid)
    until((tmp_path / "pid").exists)
    in_time(lambda: executor.shutdown(timeout=0.05))
    assert not error_of(future).begun
    until_dead(int((tmp_path / "pid").read_text()))
