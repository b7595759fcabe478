"""Done callbacks that block: where they run, and what they hold up, which is nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from flask_executor_typed import Executor, FutureProxy
from flask_executor_typed.loops import thread as loop_thread
from flask_executor_typed.runtime.threads import DaemonPool

from .conftest import TIMEOUT
from .helpers.scripts import run_script
from .helpers.workers import make_processes


class Gate:
    """A callback that blocks until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()
        self.over = threading.Event()
        self.thread = threading.current_thread()

    def __call__(self, future: FutureProxy[Any]) -> None:
        self.thread = threading.current_thread()
        self.begun.set()
        assert self.opened.wait(TIMEOUT)
        self.over.set()


@pytest.fixture
def executor(app: Flask) -> Iterator[Executor]:
    app.config["EXECUTOR_MAX_LOOPS"] = 1
    executor = Executor(app)
    yield executor
    executor.shutdown(wait=False)  # a job or callback of a test that failed may block


class Later:
    """A coroutine job that a thread ends."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self.begun = threading.Event()

    async def __call__(self) -> None:
        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()
        self.begun.set()
        await asyncio.wait_for(self._event.wait(), TIMEOUT)

    def end(self) -> None:
        assert self.begun.wait(TIMEOUT)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._event.set)


async def nothing() -> None:
    pass


def call_back_from_loop(executor: Executor, callback: Callable[[FutureProxy[Any]], object]) -> None:
    """Have ``callback`` called by a coroutine job that ends after it was added."""
    later = Later()
    executor.submit(later).add_done_callback(callback)
    later.end()


def test_callback_of_a_coroutine_may_wait_for_another_coroutine(executor: Executor) -> None:
    waited = threading.Event()

    def wait(future: FutureProxy[Any]) -> None:
        executor.submit(nothing).result(TIMEOUT)
        waited.set()

    call_back_from_loop(executor, wait)
    assert waited.wait(TIMEOUT)


def test_callbacks_of_one_coroutine_run_in_order_and_apart_from_those_of_others(
    executor: Executor,
) -> None:
    gate, other, order = Gate(), threading.Event(), list[int]()
    later = Later()
    future = executor.submit(later)
    future.add_done_callback(gate)

    def note(number: int) -> Callable[[FutureProxy[Any]], object]:
        return lambda _: order.append(number)

    for number in range(3):
        future.add_done_callback(note(number))
    over = threading.Event()
    future.add_done_callback(lambda _: over.set())
    later.end()
    assert gate.begun.wait(TIMEOUT)
    call_back_from_loop(executor, lambda _: other.set())
    assert other.wait(TIMEOUT)
    assert order == []
    gate.opened.set()
    assert over.wait(TIMEOUT)
    assert order == [0, 1, 2]


def test_default_callback_that_blocks_holds_up_no_loop(executor: Executor) -> None:
    gate = Gate()
    executor.add_default_done_callback(gate)
    future = executor.submit(nothing)
    assert gate.begun.wait(TIMEOUT)
    executor.submit(nothing).result(TIMEOUT)
    assert future.done()
    gate.opened.set()


def test_callback_of_a_time_limit_holds_up_no_other(executor: Executor) -> None:
    held, first, second = threading.Event(), Gate(), Gate()
    second.opened.set()
    for gate in (first, second):
        future = executor.using(timeout=0.01).submit(held.wait, TIMEOUT)
        future.add_done_callback(gate)
        assert gate.begun.wait(TIMEOUT)
    assert not first.over.is_set()
    first.opened.set()
    held.set()


@pytest.mark.parametrize("job", [nothing, int])
def test_callback_added_on_a_loop_to_a_future_that_is_done_runs_at_once_and_there(
    executor: Executor, job: Any
) -> None:
    called: list[threading.Thread] = []

    async def add() -> threading.Thread:
        future = executor.submit(job)
        await future
        future.add_done_callback(lambda _: called.append(threading.current_thread()))
        return threading.current_thread()

    assert [executor.submit(add).result(TIMEOUT)] == called


def test_cancelling_on_a_loop_of_somebody_else_calls_back_elsewhere(executor: Executor) -> None:
    gate = Gate()

    async def cancel() -> None:
        later = Later()
        future = executor.submit(later)
        future.add_done_callback(gate)
        assert future.cancel()
        gate.opened.set()  # in the callback's thread, this would never come

    asyncio.run(cancel())
    assert gate.over.wait(TIMEOUT)
    assert gate.thread is not threading.current_thread()


def test_cancelling_in_an_async_view_calls_back_elsewhere(app: Flask) -> None:
    app.config["EXECUTOR_ASYNC_VIEWS"] = True
    executor, gate = Executor(app), Gate()

    @app.get("/")
    async def view() -> str:
        future = executor.submit(Later())
        future.add_done_callback(gate)
        assert future.cancel()
        gate.opened.set()
        return "cancelled"

    assert app.test_client().get("/").get_data(as_text=True) == "cancelled"
    executor.shutdown()
    assert gate.over.is_set()


def test_loop_runs_on_while_all_threads_for_callbacks_block(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_thread, "_BLOCKING_THREADS", 1)
    first, second = Gate(), Gate()
    call_back_from_loop(executor, first)
    assert first.begun.wait(TIMEOUT)
    call_back_from_loop(executor, second)
    executor.submit(nothing).result(TIMEOUT)
    assert not second.begun.is_set()
    first.opened.set()
    second.opened.set()
    assert second.over.wait(TIMEOUT)


def test_shutdown_waits_for_callbacks(executor: Executor) -> None:
    gate = Gate()
    call_back_from_loop(executor, gate)
    assert gate.begun.wait(TIMEOUT)
    executor.shutdown(wait=False)
    gate.opened.set()
    executor.shutdown()
    assert gate.over.is_set()


@pytest.mark.parametrize("limit", [None, 0.01])
def test_callback_may_shut_the_executor_down(executor: Executor, limit: float | None) -> None:
    over, release = threading.Event(), threading.Event()

    def shut_down(future: FutureProxy[Any]) -> None:
        executor.shutdown()
        over.set()

    if limit is None:
        call_back_from_loop(executor, shut_down)
    else:
        future = executor.using(timeout=limit).submit(release.wait, TIMEOUT)
        future.add_done_callback(shut_down)
    assert over.wait(TIMEOUT)
    release.set()


def test_callback_runs_where_no_thread_can_be_started(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: DaemonPool, fn: Any) -> None:
        raise RuntimeError("no thread")

    monkeypatch.setattr(DaemonPool, "submit", refuse)
    gate = Gate()
    gate.opened.set()
    call_back_from_loop(executor, gate)
    assert gate.over.wait(TIMEOUT)
    assert "-loop-" in gate.thread.name


def test_callback_of_a_pool_of_processes_may_wait_for_its_other_jobs(app: Flask) -> None:
    app.config["EXECUTOR_TYPE"] = make_processes
    results: list[int] = []
    over = threading.Event()
    with Executor(app) as executor:

        def wait(future: FutureProxy[int]) -> None:
            results.append(executor.submit(abs, -2).result(TIMEOUT))
            over.set()

        executor.submit(abs, -1).add_done_callback(wait)
        assert over.wait(TIMEOUT)
    assert results == [2]


def test_callback_of_a_thread_of_somebody_else_runs_there(app: Flask) -> None:
    app.config["EXECUTOR_TYPE"] = lambda: ThreadPoolExecutor(1, thread_name_prefix="theirs")
    gate, held = Gate(), threading.Event()
    gate.opened.set()
    with Executor(app) as executor:
        executor.submit(held.wait, TIMEOUT).add_done_callback(gate)
        held.set()
    assert gate.thread.name.startswith("theirs")


def test_callbacks_that_block_are_not_lost_at_exit() -> None:
    done = run_script(
        """
        async def sleep():
            await asyncio.sleep(0.1)

        def note(future):
            time.sleep(0.1)
            print(future.name, future.status)

        executor.submit(double_async, 1).result()
        for _ in range(3):
            executor.submit(sleep).add_done_callback(note)
        executor.using(timeout=0.05).submit(time.sleep, 0.2).add_done_callback(note)
        """
    )
    assert sorted(done.stdout.split()) == sorted(["sleep", "succeeded"] * 3 + ["sleep", "failed"])
    assert done.status == 0
