"""Waiting until an executor is idle: no call and no done callback is left."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_executor_typed import (
    DeadlockError,
    Executor,
    ExecutorBusyError,
    FutureProxy,
    QueueFullError,
)
from flask_executor_typed.calls import Capacity, are_idle
from flask_executor_typed.futures.callbacks import Callback

from .conftest import TIMEOUT, until
from .helpers.steps import at_each_step

Wait = Callable[[Executor, float], None]


def wait_in_thread(executor: Executor, timeout: float) -> None:
    executor.wait_idle(timeout)


def wait_on_loop(executor: Executor, timeout: float) -> None:
    async def main() -> None:
        await executor.await_idle(timeout)

    asyncio.run(main())


@pytest.fixture(params=[wait_in_thread, wait_on_loop])
def wait(request: pytest.FixtureRequest) -> Wait:
    found: Wait = request.param
    return found


async def nap(seconds: float = 0.0) -> None:
    await asyncio.sleep(seconds)


def test_an_executor_without_calls_is_idle(executor: Executor, wait: Wait) -> None:
    wait(executor, 0.0)
    executor.submit(int).result(TIMEOUT)
    wait(executor, TIMEOUT)


def test_waits_for_plain_functions_and_coroutines(executor: Executor, wait: Wait) -> None:
    release = threading.Event()

    async def wait_for_release() -> None:
        await asyncio.to_thread(release.wait, TIMEOUT)

    plain, coroutine = executor.submit(release.wait, TIMEOUT), executor.submit(wait_for_release)
    threading.Timer(0.02, release.set).start()
    wait(executor, TIMEOUT)
    assert plain.done()
    assert coroutine.done()


@pytest.mark.parametrize("added", ["before the end", "by default"])
@pytest.mark.parametrize("job", [int, nap])
def test_waits_for_done_callbacks(
    executor: Executor, wait: Wait, added: str, job: Callable[[], object]
) -> None:
    release, ended = threading.Event(), threading.Event()

    def callback(future: FutureProxy[Any]) -> None:
        release.wait(TIMEOUT)
        ended.set()

    if added == "by default":
        executor.add_default_done_callback(callback)
    begin = threading.Event()

    def plain() -> None:
        begin.wait(TIMEOUT)

    async def coroutine() -> None:
        await asyncio.to_thread(begin.wait, TIMEOUT)

    future = executor.submit(plain if job is int else coroutine)
    if added != "by default":
        future.add_done_callback(callback)
    begin.set()
    future.result(TIMEOUT)
    with pytest.raises(ExecutorBusyError, match=r"the done callback .*callback"):
        wait(executor, 0.0)
    threading.Timer(0.02, release.set).start()
    wait(executor, TIMEOUT)
    assert ended.is_set()


def test_a_callback_is_over_when_the_wait_is_in_every_of_many_runs(executor: Executor) -> None:
    for _ in range(300):
        seen: list[object] = []
        executor.submit(int).add_done_callback(seen.append)
        executor.wait_idle(TIMEOUT)
        assert len(seen) == 1


def test_waits_for_what_jobs_and_callbacks_submit(app: Flask, executor: Executor) -> None:
    other = Executor(app, "other")
    seen: list[int] = []

    def job(depth: int) -> None:
        if depth:
            executor.submit(job, depth - 1).add_done_callback(lambda _: seen.append(depth))
            executor.submit(nap).add_done_callback(lambda _: other.submit(seen.append, -depth))

    for _ in range(100):
        seen.clear()
        executor.submit(job, 3)
        executor.wait_idle(TIMEOUT)
        other.wait_idle(TIMEOUT)
        assert sorted(seen) == [-3, -2, -1, 1, 2, 3]
    other.shutdown()


def test_time_up_is_an_error_that_names_what_runs(app: Flask, wait: Wait) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    release = threading.Event()
    with Executor(app) as executor:
        begun = threading.Event()

        def block() -> None:
            begun.set()
            release.wait(TIMEOUT)

        executor.submit(block)
        executor.using(name="mail", key="k").submit(int)
        assert begun.wait(TIMEOUT)
        with pytest.raises(TimeoutError) as caught:
            wait(executor, 0.01)
        release.set()
        error = caught.value
        assert isinstance(error, ExecutorBusyError)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        first, second = error.running
        assert first.startswith(f"{block.__qualname__} (running for 0.")
        assert second == "mail (pending, key 'k')"
        assert str(error) == f"executor is not idle after 0.01 s: {first}; {second}"


def test_ten_calls_are_named_and_the_others_counted() -> None:
    error = ExecutorBusyError("executor", 5.0, [f"job{number}" for number in range(12)])
    assert str(error).endswith("job8; job9; and 2 more")


def test_a_job_cannot_wait_for_its_own_executor(executor: Executor, wait: Wait) -> None:
    with pytest.raises(DeadlockError, match=r"test_idle.* waits for all jobs of its executor"):
        executor.submit(wait, executor, TIMEOUT).result(TIMEOUT)


def test_calls_that_were_refused_or_cancelled_leave_nothing(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = app.config["EXECUTOR_MAX_PENDING"] = 1
    executor = Executor(app)
    executor.add_default_done_callback(lambda _: None)
    release = threading.Event()
    executor.submit(release.wait, TIMEOUT)
    pending = executor.submit(int)
    with pytest.raises(QueueFullError) as caught:
        executor.submit(int)
    assert pending.cancel()
    release.set()
    executor.wait_idle(TIMEOUT)  # while the error's traceback keeps the refused future
    assert caught.value.max_pending == 1
    executor.shutdown()


def test_waits_for_calls_of_settings_that_were_replaced(app: Flask, executor: Executor) -> None:
    release = threading.Event()
    executor.submit(release.wait, TIMEOUT)
    app.config["EXECUTOR_TYPE"] = "sync"
    executor.init_app(app)
    gc.collect()
    with pytest.raises(ExecutorBusyError):
        executor.wait_idle(0.0)
    release.set()
    executor.wait_idle(TIMEOUT)


def test_work_that_moves_between_two_looks_is_not_overlooked() -> None:
    class Moving(Capacity):
        """Its call is over when it was looked for, and has submitted to the other by then."""

        def is_empty(self) -> bool:
            empty = super().is_empty()
            if not empty:
                other.add(FutureProxy())
                future.set_result(None)
            return super().is_empty()

    first, other = Capacity("", "", None), Capacity("", "", None)
    moving = Moving("", "", None)
    future: FutureProxy[None] = FutureProxy()
    moving.add(future)
    assert not are_idle([first, other, moving])


def test_an_awaiting_task_can_be_cancelled(executor: Executor) -> None:
    release = threading.Event()
    executor.submit(release.wait, TIMEOUT)

    async def main() -> None:
        waiting = asyncio.create_task(executor.await_idle())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    release.set()
    executor.wait_idle(TIMEOUT)


def test_many_waiters_are_all_woken(executor: Executor) -> None:
    release = threading.Event()
    executor.submit(release.wait, TIMEOUT)
    waiters = [threading.Thread(target=executor.wait_idle, args=(TIMEOUT,)) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    begun = time.monotonic()
    release.set()
    for waiter in waiters:
        waiter.join(TIMEOUT)
    assert time.monotonic() - begun < TIMEOUT


def test_callback_that_is_added_while_its_call_ends_counts_until_it_is_over() -> None:
    counts: list[tuple[bool, bool]] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        future: FutureProxy[int] = FutureProxy("call")
        capacity = Capacity("", "", None)
        capacity.add(future)

        def add() -> None:  # while the thread that settles the future is stopped
            is_counted = future._counter is not None
            future.add_done_callback(lambda _: counts.append((is_counted, capacity.is_empty())))

        def meanwhile() -> None:
            thread = threading.Thread(target=add, daemon=True)
            thread.start()
            thread.join(TIMEOUT)

        return lambda: future.set_result(1), meanwhile

    for raised in at_each_step(prepare, "futures", "calls"):
        assert raised is None
    assert (True, False) in counts
    assert (True, True) not in counts


def test_callback_that_another_thread_has_run_meanwhile_does_not_count() -> None:
    future: FutureProxy[int] = FutureProxy("call")
    capacity, callback = Capacity("", "", None), Callback(list[object]().append, None, None)
    callback.run(future)
    capacity.expect(callback)
    assert capacity.is_empty()


def test_call_that_is_refused_makes_room_for_a_submitter_that_waits() -> None:
    capacity = Capacity("executor", "EXECUTOR_MAX_PENDING", 1)
    first: FutureProxy[int] = FutureProxy("first")
    second: FutureProxy[int] = FutureProxy("second")
    capacity.admit(first, None)
    waits = threading.Thread(target=capacity.admit, args=(second, 10 * TIMEOUT), daemon=True)
    waits.start()
    until(lambda: capacity._waiting)
    capacity.remove(first)
    waits.join(TIMEOUT)
    assert not waits.is_alive()
    assert capacity.calls() == [second]
