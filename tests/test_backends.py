"""The workers of plain functions: how many there are, when they start, and how they end."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from flask import Flask

from flask_executor_typed import Executor, ExecutorClosedError, FutureProxy
from flask_executor_typed.backends import default_max_workers
from flask_executor_typed.backends import thread as thread_backend

from .conftest import TIMEOUT, until
from .helpers.held import Held, worker_name
from .helpers.scripts import in_time


def double(number: int) -> int:
    return number * 2


async def double_async(number: int) -> int:
    return number * 2


def double_awaited(number: int) -> Awaitable[int]:
    return double_async(number)


def double_bridged(number: int) -> int:
    return async_to_sync(double_async)(number)


def no_more_threads(name: str, target: Callable[[], object]) -> threading.Thread:
    raise RuntimeError("can't start new thread")


def threads_since(before: set[threading.Thread]) -> list[str]:
    return sorted(thread.name for thread in set(threading.enumerate()) - before)


# How many workers, and when


@pytest.mark.parametrize("max_workers", [1, 2, 8])
def test_there_are_never_more_calls_at_once_than_workers(app: Flask, max_workers: int) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = max_workers
    lock, at_once, most = threading.Lock(), 0, 0

    def count(number: int) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.0005)  # gives the others a chance to come in
        with lock:
            at_once -= 1
        return number

    everybody = threading.Barrier(max_workers)
    with Executor(app) as executor:
        meeting = [executor.submit(everybody.wait, TIMEOUT) for _ in range(max_workers)]
        assert sorted(f.result(TIMEOUT) for f in meeting) == list(range(max_workers))
        futures = [executor.submit(count, number) for number in range(300)]
        assert [future.result(TIMEOUT) for future in futures] == list(range(300))
    assert 1 <= most <= max_workers


def test_one_worker_takes_calls_in_the_order_of_their_submission(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    order: list[int] = []
    with Executor(app) as executor:
        for number in range(5000):
            executor.submit(order.append, number)
    assert order == list(range(5000))


def test_every_call_is_run_once_when_many_threads_submit(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 4
    ran: list[int] = []

    def submit(first: int) -> None:
        for number in range(first, first + 3000):
            executor.submit(ran.append, number)

    with Executor(app) as executor:
        submitters = [threading.Thread(target=submit, args=(n * 3000,)) for n in range(4)]
        for thread in submitters:
            thread.start()
        for thread in submitters:
            thread.join()
    assert sorted(ran) == list(range(12_000))


def test_no_thread_starts_before_the_first_call(app: Flask) -> None:
    before = set(threading.enumerate())
    with Executor(app) as executor:
        executor.init_app(Flask("other"))
        executor.job(double)
        executor.using(key="key")
        assert repr(executor) != ""
        assert executor.futures.get("key") is None
        assert threads_since(before) == []


def test_workers_start_one_by_one_while_all_are_busy(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    before = set(threading.enumerate())
    held = Held()
    with Executor(app) as executor:
        for calls in range(1, 4):
            executor.submit(held)
            held.until_begun()
            assert [name for name in threads_since(before) if "worker" in name] == [
                f"executor-worker-{number}" for number in range(calls)
            ]
        pending = executor.submit(held)
        assert len([name for name in threads_since(before) if "worker" in name]) == 3
        assert pending.status == "pending"
        held.let_go()


def test_idle_worker_is_used_again_before_another_starts(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 8
    with Executor(app) as executor:
        names: set[str] = set()
        for _ in range(200):
            names.add(executor.submit(worker_name).result(TIMEOUT))
            until_idle(executor)
        assert names == {"executor-worker-0"}


def test_two_calls_at_a_time_need_two_workers(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 8
    with Executor(app) as executor:
        names: set[str] = set()
        for _ in range(50):
            held = Held()
            futures = [executor.submit(held) for _ in range(2)]
            held.until_begun(2)
            held.let_go()
            names |= {future.result(TIMEOUT) for future in futures}
            until_idle(executor)
        assert names == {"executor-worker-0", "executor-worker-1"}


def test_coroutine_functions_start_no_worker(app: Flask) -> None:
    before = set(threading.enumerate())
    with Executor(app) as executor:
        assert executor.submit(double_async, 21).result(TIMEOUT) == 42
        assert threads_since(before) == ["executor-loop-0"]


def test_workers_are_daemons_so_that_they_can_be_left_behind(executor: Executor) -> None:
    assert executor.submit(lambda: threading.current_thread().daemon).result(TIMEOUT)


def test_default_number_of_workers_is_that_of_the_standard_library(app: Flask) -> None:
    processors = int(getattr(os, "process_cpu_count", os.cpu_count)() or 1)
    expected = min(32, processors + 4)
    assert default_max_workers("thread") == expected
    held = Held()
    with Executor(app) as executor:
        futures = [executor.submit(held) for _ in range(expected + 1)]
        held.until_begun(expected)
        assert futures[-1].status == "pending"
        held.let_go()


def test_system_without_threads_is_an_error_for_the_submitter_and_no_hang(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Executor(app) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            for fn in (double, double_async):
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    executor.submit(fn, 1)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    executor.submit_stored("key", fn, 1)
        gc.collect()  # a loop that was made and never used would complain now
        assert executor.futures.get("key") is None
        assert executor.submit(double, 1).result(TIMEOUT) == 2
        assert executor.submit(double_async, 1).result(TIMEOUT) == 2


def test_workers_that_there_are_do_all_calls_when_the_system_gives_no_more_threads(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    held = Held()
    with Executor(app) as executor:
        first = executor.submit(held)
        held.until_begun()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            futures = [executor.submit(worker_name) for _ in range(5)]
        assert [future.status for future in futures] == ["pending"] * 5
        held.let_go()
        assert {future.result(TIMEOUT) for future in [first, *futures]} == {"executor-worker-0"}


def test_worker_that_could_not_be_started_is_started_when_the_next_call_needs_one(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 4
    held = Held()
    with Executor(app) as executor:
        first = executor.submit(held)
        held.until_begun()
        with monkeypatch.context() as patch:
            patch.setattr(thread_backend, "start_thread", no_more_threads)
            second = executor.submit(worker_name)
        third = executor.submit(worker_name)
        assert [f.result(TIMEOUT) for f in (second, third)] == ["executor-worker-1"] * 2
        assert first.running()
        held.let_go()
        first.result(TIMEOUT)
        until_idle(executor)
        state: Any = executor._states[app]
        pool = state.opened._pool
        assert (len(pool._idle), len(pool._workers), len(pool._owed)) == (2, 2, 0)


def test_busy_worker_that_does_the_call_of_a_missing_one_does_not_count_as_idle(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 4
    held, held_by_the_same = Held(), Held()
    with Executor(app) as executor:
        executor.submit(held)
        held.until_begun()
        with monkeypatch.context() as patch:
            patch.setattr(thread_backend, "start_thread", no_more_threads)
            executor.submit(held_by_the_same)
        held.let_go()
        held_by_the_same.until_begun()
        third = executor.submit(worker_name)
        try:
            assert third.result(TIMEOUT / 2) == "executor-worker-1"
        finally:
            held_by_the_same.let_go()


def test_pool_that_can_grow_no_more_keeps_no_account_of_idle_workers(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    with Executor(app) as executor:
        for number in range(100):
            assert executor.submit(double, number).result(TIMEOUT) == number * 2
        state: Any = executor._states[app]
        pool = state.opened._pool
        executor.shutdown()
        # One is of a worker that was done before its starter had counted it.
        assert len(pool._idle) <= 1, "it would grow with each call"


def test_windows_has_no_more_than_61_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in ("cpu_count", "process_cpu_count"):
        monkeypatch.setattr(os, count, lambda: 128, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_max_workers("process") == 128
    monkeypatch.setattr(sys, "platform", "win32")
    assert default_max_workers("process") == 61
    assert default_max_workers("thread") == 32
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    assert default_max_workers("process") == 4


# Calls that submit calls


def test_calls_may_wait_for_calls_while_there_are_workers(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 32

    def outer(number: int) -> int:
        return executor.submit(double, number).result(TIMEOUT)

    with Executor(app) as executor:
        futures = [executor.submit(outer, number) for number in range(16)]
        assert [future.result(TIMEOUT) for future in futures] == [n * 2 for n in range(16)]


def test_call_that_waits_for_a_call_gets_a_worker_for_it(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 16

    def nested(depth: int) -> int:
        return 0 if depth == 0 else 1 + executor.submit(nested, depth - 1).result(TIMEOUT)

    with Executor(app) as executor:
        for _ in range(20):
            assert executor.submit(nested, 7).result(TIMEOUT) == 7
            until_idle(executor)


def test_coroutines_await_plain_calls_on_one_worker(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1

    async def outer(number: int) -> int:
        return await executor.submit(double, number)

    with Executor(app) as executor:
        futures = [executor.submit(outer, number) for number in range(50)]
        assert [future.result(TIMEOUT) for future in futures] == [n * 2 for n in range(50)]


def test_callback_submits_the_next_call_two_thousand_times(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    finished = threading.Event()

    def go_on(future: FutureProxy[int]) -> None:
        number = future.result()
        if number == 2000:
            finished.set()
        else:
            kind: Callable[[int], Any] = next_number if number % 3 else next_number_async
            executor.submit(kind, number).add_done_callback(go_on)

    def next_number(number: int) -> int:
        return number + 1

    async def next_number_async(number: int) -> int:
        return number + 1

    with Executor(app) as executor:
        executor.submit(next_number, 0).add_done_callback(go_on)
        assert finished.wait(TIMEOUT * 2)


# The end


@pytest.mark.parametrize("fn", [double, double_async, double_awaited, double_bridged])
def test_shutdown_without_waiting_does_all_accepted_calls(
    app: Flask, fn: Callable[[int], Any]
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    before = set(threading.enumerate())
    executor = Executor(app)
    held = Held()
    executor.submit(held)
    held.until_begun()
    futures: list[FutureProxy[int]] = [executor.submit(fn, number) for number in range(50)]
    threads = set(threading.enumerate()) - before
    executor.shutdown(wait=False)
    held.let_go()
    assert [future.result(TIMEOUT) for future in futures] == [n * 2 for n in range(50)]
    in_time(executor.shutdown)
    assert not any(thread.is_alive() for thread in threads)


def test_cancel_futures_cancels_the_queue_and_not_what_runs(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    executor = Executor(app)
    held, ran = Held(), list[int]()
    running = [executor.submit(held) for _ in range(2)]
    held.until_begun(2)
    told: list[FutureProxy[None]] = []
    pending = [executor.submit(ran.append, number) for number in range(1000)]
    for future in pending:
        future.add_done_callback(told.append)
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in pending)
    assert told == pending
    held.let_go()
    in_time(executor.shutdown)
    assert {future.status for future in running} == {"succeeded"}
    assert ran == []


@pytest.mark.parametrize("wait", [True, False], ids=["wait", "no wait"])
@pytest.mark.parametrize("cancel", [True, False], ids=["cancel", "no cancel"])
def test_plain_job_may_shut_its_executor_down(app: Flask, wait: bool, cancel: bool) -> None:
    executor = Executor(app)
    # Others are idle, and the loop is there.
    in_time(lambda: [executor.submit(double_bridged, n).result(TIMEOUT) for n in range(5)])
    future = executor.submit(executor.shutdown, wait, cancel_futures=cancel)
    assert future.result(TIMEOUT) is None
    with pytest.raises(ExecutorClosedError):
        executor.submit(double, 1)
    in_time(executor.shutdown)


@pytest.mark.parametrize("wait", [True, False], ids=["wait", "no wait"])
@pytest.mark.parametrize("cancel", [True, False], ids=["cancel", "no cancel"])
def test_coroutine_job_may_shut_its_executor_down(app: Flask, wait: bool, cancel: bool) -> None:
    async def shut_down() -> None:
        executor.shutdown(wait, cancel_futures=cancel)

    executor = Executor(app)
    in_time(lambda: [executor.submit(double_bridged, n).result(TIMEOUT) for n in range(5)])
    future = executor.submit(shut_down)
    assert future.result(TIMEOUT) is None
    with pytest.raises(ExecutorClosedError):
        executor.submit(double_async, 1)
    in_time(executor.shutdown)


def test_job_that_shuts_down_leaves_the_others_to_end_in_their_own_time(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    executor = Executor(app)
    held = Held()
    others: list[FutureProxy[Any]] = [executor.submit(held)]
    held.until_begun()
    shutdown = executor.submit(executor.shutdown)
    assert shutdown.result(TIMEOUT) is None
    held.let_go()
    assert others[0].result(TIMEOUT) == "executor-worker-0"
    in_time(executor.shutdown)


def test_blocking_part_of_a_coroutine_job_may_shut_its_executor_down(app: Flask) -> None:
    async def shut_down() -> None:
        await sync_to_async(executor.shutdown)()

    executor = Executor(app)
    assert executor.submit(shut_down).result(TIMEOUT) is None
    in_time(executor.shutdown)


def test_job_that_a_coroutine_job_runs_in_a_thread_of_its_own_may_shut_the_outer_executor_down(
    app: Flask,
) -> None:
    outer = Executor(app)
    app.config["INNER_EXECUTOR_TYPE"] = "sync"
    inner = Executor(app, name="inner")

    with ThreadPoolExecutor(1) as own:  # whose thread neither executor knows

        async def job() -> None:
            in_own_thread = sync_to_async(
                lambda: inner.submit(outer.shutdown), thread_sensitive=False, executor=own
            )
            await in_own_thread()

        assert outer.submit(job).result(TIMEOUT) is None
    in_time(outer.shutdown)


def test_coroutine_job_may_shut_down_while_a_plain_job_needs_its_loop(app: Flask) -> None:
    bridged, go_on = threading.Event(), threading.Event()

    async def on_the_loop() -> str:
        bridged.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        return "done"

    def plain() -> str:
        return async_to_sync(on_the_loop)()

    async def shut_down() -> None:
        executor.shutdown()
        go_on.set()

    executor = Executor(app)
    future = executor.submit(plain)
    assert bridged.wait(TIMEOUT)
    assert executor.submit(shut_down).result(TIMEOUT) is None
    assert future.result(TIMEOUT) == "done"
    in_time(executor.shutdown)


def test_several_jobs_may_shut_down_at_once(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    executor = Executor(app)
    meeting = threading.Barrier(3)

    def shut_down() -> None:
        meeting.wait(TIMEOUT)
        executor.shutdown()

    futures = [executor.submit(shut_down) for _ in range(3)]
    assert [future.result(TIMEOUT) for future in futures] == [None] * 3
    in_time(executor.shutdown)


def test_callback_may_shut_the_executor_down(app: Flask) -> None:
    for fn in (double, double_async):
        executor = Executor(app)
        done = threading.Event()

        def shut_down(
            future: FutureProxy[int], executor: Executor = executor, done: Any = done
        ) -> None:
            executor.shutdown()
            done.set()

        future: FutureProxy[int] = executor.submit(fn, 1)
        future.add_done_callback(shut_down)
        assert done.wait(TIMEOUT)
        in_time(executor.shutdown)


def test_many_threads_may_shut_down_at_once(app: Flask) -> None:
    for _ in range(20):
        executor = Executor(app)
        futures = [executor.submit(fn, n) for n in range(10) for fn in (double, double_async)]
        threads = [threading.Thread(target=executor.shutdown, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        assert {future.status for future in futures} == {"succeeded"}


def test_shutdown_right_after_submit_does_the_call(app: Flask) -> None:
    for number in range(100):
        executor = Executor(app)
        futures = [executor.submit(fn, number) for fn in (double, double_async, double_awaited)]
        in_time(executor.shutdown)
        assert {future.result(0) for future in futures} == {number * 2}


def until_idle(executor: Executor) -> None:
    """A future is done a moment before its worker counts as idle."""
    state: Any = next(iter(executor._states.values()))
    pool = state.opened._pool
    until(lambda: len(pool._idle) >= len(pool._workers))
