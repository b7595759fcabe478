"""EXECUTOR_TYPE = "sync": calls that run when they are submitted, where they are submitted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from flask import Flask, current_app, g

from flask_executor_typed import Executor, ExecutorClosedError, JobTimeoutError, current_job

from .conftest import TIMEOUT
from .helpers.scripts import in_time


@pytest.fixture
def executor(app: Flask) -> Iterator[Executor]:
    app.config["EXECUTOR_TYPE"] = "sync"
    with Executor(app) as executor:
        yield executor


def _itself(proxy: Any) -> object:
    found: object = proxy._get_current_object()
    return found


async def one() -> int:
    await asyncio.sleep(0)
    return 1


def test_function_runs_in_the_submitters_thread_and_is_done_when_submit_returns(
    executor: Executor,
) -> None:
    before = threading.active_count()
    future = executor.submit(threading.get_ident)
    assert future.done()
    assert future.result() == threading.get_ident()
    assert threading.active_count() <= before  # one of another test may end meanwhile


def test_coroutine_is_done_when_submit_returns(executor: Executor) -> None:
    future = executor.submit(one)
    assert future.done()
    assert future.result() == 1


def test_job_is_no_job_of_its_submitter_afterwards(app: Flask, executor: Executor) -> None:
    def job() -> str:
        g.mine = current_job.name
        app.app_context().push()  # and never popped
        return current_app.name

    with app.test_request_context():
        g.theirs = 1
        context = _itself(g)
        assert executor.submit(job).result() == "tests"
        assert not current_job
        assert _itself(g) is context
        assert vars(g) == {"theirs": 1}


def test_submit_works_where_a_loop_runs(executor: Executor) -> None:
    def bridged() -> int:
        return async_to_sync(one)()

    def returns_awaitable() -> Awaitable[int]:
        return one()

    async def submit() -> list[object]:
        loop = asyncio.get_running_loop()
        futures: list[Future[int]] = [
            executor.submit(bridged),
            executor.submit(one),
            executor.submit(returns_awaitable),
        ]
        assert asyncio.get_running_loop() is loop
        return [future.done() and future.result() for future in futures]

    assert asyncio.run(submit()) == [1, 1, 1]


def test_coroutine_may_submit_coroutines_and_functions(executor: Executor) -> None:
    async def outer(depth: int) -> int:
        if depth == 0:
            return 0
        inner = executor.submit(outer, depth - 1)
        assert inner.done()
        return await inner + executor.submit(lambda: depth).result()

    future: list[Future[int]] = []
    in_time(lambda: future.append(executor.submit(outer, 4)))
    assert future[0].result(0) == 10


def test_coroutines_share_one_loop(executor: Executor) -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert len({executor.submit(loop).result() for _ in range(5)}) == 1


def test_function_that_is_late_fails_with_its_time_limit_and_submit_waits_for_its_end(
    executor: Executor,
) -> None:
    ended = threading.Event()

    def late() -> None:
        while not current_job.cancel_requested:
            ended.wait(0.001)
        ended.set()

    future = executor.using(timeout=0.05).submit(late)
    assert ended.is_set()
    assert isinstance(future.exception(), JobTimeoutError)


def test_time_limit_of_a_function_within_a_coroutine_is_kept(executor: Executor) -> None:
    def late() -> None:
        while not current_job.cancel_requested:
            threading.Event().wait(0.001)

    async def outer() -> BaseException | None:
        return executor.using(timeout=0.05).submit(late).exception()

    assert isinstance(executor.submit(outer).result(), JobTimeoutError)


def test_time_limits_need_no_loop(app: Flask) -> None:
    def make_loop() -> asyncio.AbstractEventLoop:
        raise OSError("no more files")

    app.config["EXECUTOR_TYPE"] = "sync"
    app.config["EXECUTOR_LOOP_FACTORY"] = make_loop
    with Executor(app) as plain:
        assert plain.using(timeout=TIMEOUT).submit(int, "7").result(TIMEOUT) == 7


def test_shutdown_waits_for_what_runs_in_other_threads(executor: Executor) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def job() -> bool:
        begun.set()
        return go_on.wait(TIMEOUT)

    future: list[Future[bool]] = []
    submitter = threading.Thread(target=lambda: future.append(executor.submit(job)))
    submitter.start()
    assert begun.wait(TIMEOUT)
    closer = threading.Thread(target=executor.shutdown)
    closer.start()
    assert closer.is_alive()
    go_on.set()
    closer.join(TIMEOUT)
    submitter.join(TIMEOUT)
    assert not closer.is_alive()
    assert future[0].result(0) is True


def test_shutdown_in_a_job_or_its_callback_does_not_wait_for_itself(executor: Executor) -> None:
    returned: list[str] = []

    def shut_down(where: str) -> None:
        executor.shutdown()
        returned.append(where)

    executor.add_default_done_callback(lambda _: shut_down("callback"))
    in_time(lambda: executor.submit(shut_down, "job"))
    assert returned == ["job", "callback"]
    with pytest.raises(ExecutorClosedError):
        executor.submit(int)


def test_sync_is_never_chosen_by_itself(app: Flask) -> None:
    app.testing = app.debug = True
    with Executor(app) as executor:
        assert executor.submit(threading.get_ident).result() != threading.get_ident()
