"""The future of one call: a real one of the standard library, which can be awaited as well."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import re
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, as_completed, wait
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, TypeVar

import pytest
from flask import Flask

from flask_executor_typed import Executor, FutureProxy, UnsupportedError
from flask_executor_typed.futures import Status, facts_of, follow, last_followed, succeed
from flask_executor_typed.runtime.loop_inbox import LoopInbox

from .conftest import TIMEOUT, until
from .helpers.held import HeldOnce
from .helpers.scripts import in_time

R = TypeVar("R")


class Failure(Exception):
    """An exception that can be watched, as the builtin ones cannot."""


class Forever:
    """A coroutine that waits until it is cancelled, as good as for ever, and tells."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cancelled = threading.Event()

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.wait_for(asyncio.Event().wait(), TIMEOUT)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def double(number: int) -> int:
    return number * 2


async def double_async(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def fail() -> int:
    raise Failure("no such row")


def pending() -> FutureProxy[int]:
    return FutureProxy()


def succeeded(result: int = 42) -> FutureProxy[int]:
    future = pending()
    future.set_result(result)
    return future


def failed(error: BaseException) -> FutureProxy[int]:
    future = pending()
    future.set_exception(error)
    return future


def cancelled() -> FutureProxy[int]:
    future = pending()
    assert future.cancel()
    return future


async def awaited(awaitable: Awaitable[R]) -> R:
    return await awaitable


def in_thread(fn: Callable[[], R]) -> Future[R]:
    """Call what blocks in a thread of its own; the test takes the result from there."""
    outcome: Future[R] = Future()

    def run() -> None:
        try:
            outcome.set_result(fn())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def watchers(future: FutureProxy[Any]) -> int:
    return len(future._watchers)


def on_one_worker(app: Flask) -> Executor:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    return Executor(app)


def settle_with_failure(future: FutureProxy[int]) -> None:
    future.set_exception(Failure())


def settle_with_raised_failure(future: FutureProxy[int]) -> None:
    # Elsewhere: a traceback refers to the frames of all callers, and ours refers to the future.
    future.set_exception(in_thread(fail).exception(TIMEOUT))


def settle_with_result(future: FutureProxy[int]) -> None:
    future.set_result(42)


def settle_by_cancelling(future: FutureProxy[int]) -> None:
    future.cancel()


# In the standard library


def test_future_is_one_of_the_standard_library(executor: Executor) -> None:
    future = executor.submit(double, 21)
    assert isinstance(future, Future)
    standard: Future[int] = future
    assert standard.result(TIMEOUT) == 42


@pytest.mark.parametrize(
    ("settle", "return_when"),
    [
        (settle_with_result, concurrent.futures.FIRST_COMPLETED),
        (settle_by_cancelling, concurrent.futures.FIRST_COMPLETED),
        (settle_with_failure, concurrent.futures.FIRST_COMPLETED),
        (settle_with_failure, concurrent.futures.FIRST_EXCEPTION),
    ],
    ids=["result", "cancel", "exception", "first exception"],
)
def test_wait_returns_when_the_first_of_ours_or_theirs_is_done(
    settle: Callable[[FutureProxy[int]], object], return_when: str
) -> None:
    ours, others, theirs = pending(), [pending() for _ in range(3)], Future[int]()
    everybody: list[Future[int]] = [ours, *others, theirs]
    waiting = in_thread(lambda: wait(everybody, TIMEOUT, return_when))
    until(lambda: watchers(ours) > 0)
    settle(ours)
    done, not_done = waiting.result(TIMEOUT)
    assert done == {ours}
    assert not_done == {*others, theirs}


def test_wait_for_the_first_exception_goes_on_after_a_result() -> None:
    futures = [pending(), pending()]
    waiting = in_thread(lambda: wait(futures, TIMEOUT, concurrent.futures.FIRST_EXCEPTION))
    until(lambda: watchers(futures[1]) > 0)
    futures[0].set_result(1)
    assert not waiting.done()
    futures[1].set_exception(Failure())
    assert waiting.result(TIMEOUT).done == set(futures)


def test_wait_sees_what_was_done_before_it_and_gives_up_in_time() -> None:
    done = {succeeded(), failed(Failure()), cancelled()}
    not_done = {pending(), pending()}
    assert wait([*done, *not_done], timeout=0) == (done, not_done)
    assert wait(done, TIMEOUT) == (done, set[FutureProxy[int]]())


def test_wait_takes_a_future_as_running_while_it_runs(executor: Executor) -> None:
    held = HeldOnce()
    future = executor.submit(held)
    assert held.begun.wait(TIMEOUT)
    assert wait([future], timeout=0).not_done == {future}
    held.release.set()
    assert wait([future], TIMEOUT).done == {future}


def test_as_completed_gives_futures_in_the_order_in_which_they_are_done() -> None:
    ours, theirs = [pending() for _ in range(3)], Future[int]()
    completed = as_completed([*ours, theirs, done := succeeded()], TIMEOUT)
    assert next(completed) is done
    for future in (ours[2], theirs, ours[0]):
        future.set_result(1)
        assert next(completed) is future
    ours[1].cancel()
    assert list(completed) == [ours[1]]


def test_as_completed_gives_up_in_time() -> None:
    futures = [pending(), succeeded()]
    completed = as_completed(futures, timeout=0.01)
    assert next(completed) is futures[1]
    with pytest.raises(concurrent.futures.TimeoutError):
        next(completed)


def test_many_threads_wait_for_the_same_futures_in_every_way() -> None:
    futures = [pending() for _ in range(3)]
    ways: list[Callable[[], set[int]]] = [
        lambda: {future.result() for future in wait(futures, TIMEOUT).done},
        lambda: {future.result() for future in as_completed(futures, TIMEOUT)},
        lambda: {future.result(TIMEOUT) for future in futures},
    ]
    waiting = [in_thread(way) for way in ways * 4]
    for number, future in enumerate(futures):
        future.set_result(number)
    assert [each.result(TIMEOUT) for each in waiting] == [{0, 1, 2}] * 12


def test_wrap_future_gives_result_and_exception() -> None:
    async def wrapped(future: FutureProxy[int]) -> int:
        return await asyncio.wrap_future(future)

    assert asyncio.run(wrapped(succeeded(42))) == 42
    with pytest.raises(Failure):
        asyncio.run(wrapped(failed(Failure())))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(wrapped(cancelled()))


def test_cancelling_a_wrapped_future_cancels_the_call_unlike_an_awaiter(executor: Executor) -> None:
    coroutine = Forever()
    future = executor.submit(coroutine)
    assert coroutine.begun.wait(TIMEOUT)

    async def wrap_and_cancel() -> None:
        wrapped = asyncio.wrap_future(future)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped

    asyncio.run(wrap_and_cancel())
    assert coroutine.cancelled.wait(TIMEOUT)
    assert future.status == "cancelled"


def test_cancelling_run_in_executor_cancels_the_call_that_is_pending(app: Flask) -> None:
    held, ran = HeldOnce(), list[int]()

    async def run_and_cancel() -> None:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(executor, ran.append, 1)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    with on_one_worker(app) as executor:
        executor.submit(held)
        asyncio.run(run_and_cancel())
        held.release.set()
    assert ran == []


# Waiting for the result


def test_result_and_exception_are_what_the_call_gave() -> None:
    assert succeeded(42).result() == 42
    assert succeeded(42).exception() is None
    error = Failure("no such row")
    assert failed(error).exception() is error
    with pytest.raises(Failure, match="no such row") as caught:
        failed(error).result()
    assert caught.value is error


@pytest.mark.parametrize("method", ["result", "exception"])
def test_waiting_for_a_cancelled_call_is_an_error_and_not_a_hang(method: str) -> None:
    future = pending()
    waiting = in_thread(getattr(future, method))
    until(lambda: watchers(future) > 0)
    future.cancel()
    for outcome in (waiting, in_thread(getattr(future, method))):
        with pytest.raises(concurrent.futures.CancelledError):
            outcome.result(TIMEOUT)


@pytest.mark.parametrize("timeout", [0, 0.0, 0.01, -1, -0.5, float("-inf")])
@pytest.mark.parametrize("method", ["result", "exception"])
def test_waiting_gives_up_in_time_and_a_time_in_the_past_is_no_time(
    method: str, timeout: float
) -> None:
    future = pending()
    with pytest.raises(concurrent.futures.TimeoutError):
        getattr(future, method)(timeout)
    assert watchers(future) == watchers(pending()), "who gave up is still on the list"
    future.set_result(42)
    assert future.result(timeout) == 42
    assert future.exception(timeout) is None


@pytest.mark.parametrize("timeout", [None, 1e9, 1e300, float("inf")])
def test_waiting_may_last_longer_than_the_system_can_count(timeout: float | None) -> None:
    future = pending()
    waiting = in_thread(lambda: future.result(timeout))
    until(lambda: watchers(future) > 0)
    future.set_result(42)
    assert waiting.result(TIMEOUT) == 42


def test_many_threads_wait_and_some_give_up() -> None:
    future = pending()
    waiting = [in_thread(lambda: future.result(TIMEOUT)) for _ in range(8)]
    impatient = [in_thread(lambda: future.exception(0.001)) for _ in range(8)]
    for outcome in impatient:
        assert isinstance(outcome.exception(TIMEOUT), concurrent.futures.TimeoutError)
    future.set_result(42)
    assert [outcome.result(TIMEOUT) for outcome in waiting] == [42] * 8


def test_waiters_of_every_kind_are_woken_before_a_callback_runs() -> None:
    future, held = pending(), HeldOnce()
    future.add_done_callback(lambda _: held())
    waiting = [
        in_thread(lambda: future.result(TIMEOUT)),
        in_thread(lambda: next(as_completed([future], TIMEOUT)).result()),
        in_thread(lambda: asyncio.run(awaited(future))),
    ]
    until(lambda: watchers(future) == watchers(pending()) + 4)
    settling = in_thread(lambda: future.set_result(42))
    assert [outcome.result(TIMEOUT) for outcome in waiting] == [42] * 3
    assert not settling.done()
    held.release.set()
    settling.result(TIMEOUT)


# What an executor does with it


@pytest.mark.parametrize("settled", [succeeded, lambda: failed(Failure()), cancelled])
def test_outcome_cannot_be_set_twice(settled: Callable[[], FutureProxy[int]]) -> None:
    future = settled()
    before = (future.status, future.finished_at)
    ways = [partial(future.set_result, 7), partial(future.set_exception, Failure("late"))]
    for settle in ways:
        with pytest.raises(concurrent.futures.InvalidStateError) as caught:
            settle()
        assert str(caught.value) == f"{future.status}: {future!r}"
    assert (future.status, future.finished_at) == before
    assert future.cancel() is (before[0] == "cancelled")


def test_right_to_run_is_given_once() -> None:
    future = pending()
    assert future.set_running_or_notify_cancel()
    assert future.running()
    with pytest.raises(concurrent.futures.InvalidStateError) as caught:
        future.set_running_or_notify_cancel()
    assert str(caught.value) == f"running: {future!r}"
    assert not future.cancel()
    future.set_result(42)
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_running_or_notify_cancel()
    assert not cancelled().set_running_or_notify_cancel()


def test_future_that_was_settled_without_being_run_cannot_be_run() -> None:
    with pytest.raises(concurrent.futures.InvalidStateError):
        succeeded().set_running_or_notify_cancel()


# await


@pytest.mark.parametrize("fn", [double, double_async])
def test_call_is_awaited_before_and_after_it_is_done(
    executor: Executor, fn: Callable[[int], Any]
) -> None:
    async def twice() -> tuple[int, int]:
        future: FutureProxy[int] = executor.submit(fn, 21)
        return await future, await future

    assert asyncio.run(twice()) == (42, 42)


def test_awaiting_raises_what_the_call_raised() -> None:
    error = Failure("no such row")
    with pytest.raises(Failure) as caught:
        asyncio.run(awaited(failed(error)))
    assert caught.value is error
    future = pending()
    waiting = in_thread(lambda: asyncio.run(awaited(future)))
    until(lambda: watchers(future) > 0)
    future.set_exception(error)
    assert waiting.exception(TIMEOUT) is error


def test_awaiting_a_cancelled_call_raises_the_cancelled_error_of_asyncio() -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(awaited(cancelled()))

    async def cancel_while_awaited() -> None:
        future = pending()
        task = asyncio.ensure_future(awaited(future))
        await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(cancel_while_awaited())


def test_awaiting_a_call_that_raised_stop_iteration_does_not_end_the_awaiter_quietly() -> None:
    with pytest.raises(RuntimeError) as caught:
        asyncio.run(awaited(failed(StopIteration(1))))
    assert isinstance(caught.value.__cause__, StopIteration)


def test_call_that_is_not_done_can_be_awaited_on_a_loop_only() -> None:
    future = pending()
    coroutine = awaited(future)
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)
    assert watchers(future) == watchers(pending())


def test_many_await_one_call_on_several_loops() -> None:
    future = pending()

    async def many() -> list[int]:
        return await asyncio.gather(*(awaited(future) for _ in range(50)))

    loops = [in_thread(lambda: asyncio.run(many())) for _ in range(4)]
    until(lambda: watchers(future) == watchers(pending()) + 200)
    future.set_result(42)
    assert [loop.result(TIMEOUT) for loop in loops] == [[42] * 50] * 4


def test_asyncio_takes_futures_where_it_takes_awaitables(executor: Executor) -> None:
    async def use() -> list[int]:
        futures = [executor.submit(double, number) for number in range(3)]
        gathered = await asyncio.gather(*futures)
        assert await asyncio.wait_for(futures[0], TIMEOUT) == 0
        assert await asyncio.shield(futures[1]) == 2
        assert await asyncio.ensure_future(futures[2]) == 4
        return gathered

    assert asyncio.run(use()) == [0, 2, 4]


async def cancel_task(task: asyncio.Task[int]) -> None:
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def time_task_out(task: asyncio.Task[int]) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(task, 0.001)


@pytest.mark.parametrize("give_up", [cancel_task, time_task_out])
def test_call_goes_on_when_an_awaiter_gives_up(
    app: Flask, give_up: Callable[[asyncio.Task[int]], Coroutine[Any, Any, None]]
) -> None:
    held = HeldOnce()

    async def one_gives_up_and_one_does_not() -> int:
        stays = asyncio.ensure_future(awaited(future))
        await give_up(asyncio.ensure_future(awaited(future)))
        assert future.status == "pending"
        assert watchers(future) == watchers(pending()) + 1
        held.release.set()
        return await stays

    with on_one_worker(app) as executor:
        executor.submit(held)
        future = executor.submit(double, 21)
        assert asyncio.run(one_gives_up_and_one_does_not()) == 42


def test_awaiter_cancelled_in_the_moment_of_completion_is_cancelled_and_no_error() -> None:
    async def both() -> None:
        future = pending()
        task = asyncio.ensure_future(awaited(future))
        await asyncio.sleep(0)
        future.set_result(42)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await future == 42

    asyncio.run(both(), debug=True)


def test_awaiter_whose_loop_has_closed_does_not_keep_the_others_from_hearing() -> None:
    future = pending()
    gone = asyncio.new_event_loop()
    task: Any = gone.create_task(awaited(future))
    task._log_destroy_pending = False  # or asyncio logs it, in whatever test runs by then
    gone.run_until_complete(asyncio.sleep(0))
    waiting = in_thread(lambda: asyncio.run(awaited(future)))
    until(lambda: watchers(future) == watchers(pending()) + 2)
    gone.close()
    future.set_result(42)
    assert waiting.result(TIMEOUT) == 42
    assert not task.done()


def test_loops_that_come_and_go_in_one_thread_can_all_await() -> None:
    for _ in range(20):
        future = pending()

        async def settle_and_await(future: FutureProxy[int] = future) -> int:
            asyncio.get_running_loop().call_soon(future.set_result, 42)
            return await future

        assert asyncio.run(settle_and_await()) == 42


# Callbacks


def test_callbacks_run_once_in_the_order_in_which_they_were_added() -> None:
    future, order = pending(), list[tuple[int, FutureProxy[int]]]()

    def note(number: int) -> Callable[[FutureProxy[int]], None]:
        return lambda future: order.append((number, future))

    for number in range(5):
        future.add_done_callback(note(number))
    assert order == []
    future.set_result(42)
    assert order == [(number, future) for number in range(5)]


def test_callback_added_twice_runs_twice() -> None:
    future, called = pending(), list[FutureProxy[int]]()
    future.add_done_callback(called.append)
    future.add_done_callback(called.append)
    future.set_result(42)
    assert called == [future, future]


@pytest.mark.parametrize("settled", [succeeded, lambda: failed(Failure()), cancelled])
def test_callback_added_when_the_call_is_done_runs_at_once_and_here(
    settled: Callable[[], FutureProxy[int]],
) -> None:
    future, called = settled(), list[object]()
    future.add_done_callback(lambda done: called.extend([done, threading.current_thread()]))
    assert called == [future, threading.current_thread()]


def test_callback_runs_in_the_thread_that_settles_the_future(app: Flask) -> None:
    held, held_async = HeldOnce(), Forever()
    threads: dict[str, threading.Thread] = {}

    def note(future: FutureProxy[Any]) -> None:
        threads[future.name] = threading.current_thread()

    with on_one_worker(app) as executor:
        futures: list[FutureProxy[Any]] = [
            executor.using(name="worker").submit(held),
            executor.using(name="pending").submit(double, 1),
            executor.using(name="loop").submit(held_async),
        ]
        assert held_async.begun.wait(TIMEOUT)
        for future in futures:
            future.add_done_callback(note)
        futures[1].cancel()
        futures[2].cancel()
        held.release.set()
    assert threads["worker"].name == "executor-worker-0"
    assert threads["pending"] is threads["loop"] is threading.current_thread()


def test_callback_added_by_a_callback_runs_at_once() -> None:
    future, order = pending(), list[str]()

    def outer(future: FutureProxy[int]) -> None:
        order.append("begins")
        future.add_done_callback(lambda _: order.append("inner"))
        order.append("ends")

    future.add_done_callback(outer)
    future.add_done_callback(lambda _: order.append("next"))
    future.set_result(42)
    assert order == ["begins", "inner", "ends", "next"]


def test_callback_may_use_every_method_of_its_future() -> None:
    future, seen = pending(), list[object]()

    def use(future: FutureProxy[int]) -> None:
        seen.extend([future.result(0), future.exception(0), future.done(), future.running()])
        seen.extend([future.cancel(), future.status, wait([future], 0).done == {future}])

    future.add_done_callback(use)
    future.set_result(42)
    assert seen == [42, None, True, False, False, "succeeded", True]


@pytest.mark.parametrize("error", [Failure, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_callback_that_raises_is_logged_and_stops_nothing(
    executor: Executor, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    held, called = HeldOnce(), threading.Event()

    def raise_it(future: FutureProxy[str]) -> None:
        raise error("from a callback")

    future = executor.submit(held)
    future.add_done_callback(raise_it)
    future.add_done_callback(lambda _: called.set())
    held.release.set()
    assert called.wait(TIMEOUT)
    assert future.result() == "held"
    assert executor.submit(double, 21).result(TIMEOUT) == 42
    (record,) = caplog.records
    assert record.name == "tests"
    assert record.getMessage() == f"exception calling callback {raise_it!r} for {future!r}"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], error)


def test_callback_of_a_future_without_an_app_is_logged_where_the_standard_library_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    future = succeeded()
    future.add_done_callback(lambda _: fail())
    assert [record.name for record in caplog.records] == ["concurrent.futures"]


@pytest.mark.parametrize("fn", [HeldOnce, Forever])
def test_log_that_cannot_be_written_stops_neither_callbacks_nor_workers(
    app: Flask, fn: Callable[[], Any]
) -> None:
    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise OSError("the log is full")

    broken, called, job = Broken(), threading.Event(), fn()
    executor = on_one_worker(app)
    app.logger.addFilter(broken)
    try:
        future: FutureProxy[Any] = executor.submit(job)
        assert job.begun.wait(TIMEOUT)
        future.add_done_callback(lambda _: fail())
        future.add_done_callback(lambda _: called.set())
        if isinstance(job, HeldOnce):
            job.release.set()
        else:
            assert future.cancel()
        assert called.wait(TIMEOUT)
        assert executor.submit(double, 21).result(TIMEOUT) == 42
        assert executor.submit(double_async, 21).result(TIMEOUT) == 42
    finally:
        app.logger.removeFilter(broken)
        executor.shutdown(wait=False)


# What it tells


def test_status_goes_from_pending_over_running_to_the_outcome(app: Flask) -> None:
    held, held_async = HeldOnce(), Forever()
    seen = list[Status]()
    with on_one_worker(app) as executor:
        first = executor.submit(held)
        second = executor.submit(fail)
        third = executor.submit(held_async)
        assert held.begun.wait(TIMEOUT)
        assert held_async.begun.wait(TIMEOUT)
        seen += [first.status, second.status, third.status]
        assert [f.running() for f in (first, third)] == [True, True]
        assert (second.running(), second.done(), second.cancelled()) == (False, False, False)
        third.cancel()
        held.release.set()
    seen += [first.status, second.status, third.status]
    assert seen == ["running", "pending", "running", "succeeded", "failed", "cancelled"]
    assert [f.running() for f in (first, second, third)] == [False] * 3
    assert [f.done() for f in (first, second, third)] == [True] * 3
    assert [f.cancelled() for f in (first, second, third)] == [False, False, True]


def test_id_is_unguessable_safe_in_a_url_and_stays() -> None:
    futures = [pending() for _ in range(1000)]
    ids = [future.id for future in futures]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch(r"[\w-]{22}", identity, re.ASCII) for identity in ids)
    futures[0].set_result(42)
    assert futures[0].id == ids[0]


def test_all_threads_that_ask_first_see_one_id() -> None:
    for _ in range(50):
        future, start = pending(), threading.Barrier(4)

        def ask(future: FutureProxy[int] = future, start: threading.Barrier = start) -> str:
            start.wait(TIMEOUT)
            return future.id

        asking = [in_thread(ask) for _ in range(4)]
        assert len({outcome.result(TIMEOUT) for outcome in asking}) == 1


def test_times_are_in_utc_and_in_order(executor: Executor) -> None:
    before = datetime.now(timezone.utc)
    futures: list[FutureProxy[Any]] = [executor.submit(double, 1), executor.submit(double_async, 1)]
    futures.append(executor.submit(fail))
    executor.shutdown()
    for future in futures:
        times = [future.submitted_at, future.started_at, future.finished_at]
        assert all(each is not None and each.utcoffset() == timedelta(0) for each in times)
        moments = [before, *(each for each in times if each), datetime.now(timezone.utc)]
        assert [each.timestamp() // 0.01 for each in moments] == sorted(
            each.timestamp() // 0.01 for each in moments
        )


def test_times_are_unknown_until_it_happens() -> None:
    def known(future: FutureProxy[int]) -> list[bool]:
        return [future.started_at is not None, future.finished_at is not None]

    future = pending()
    assert known(future) == [False, False]
    future.set_running_or_notify_cancel()
    assert known(future) == [True, False]
    future.set_result(42)
    assert known(future) == [True, True]
    assert known(cancelled()) == [False, True]


def test_name_and_key_are_those_of_the_submission(executor: Executor) -> None:
    plain = executor.submit(double, 1)
    stored = executor.submit_stored(("report", 7), double, 1)
    assert (plain.name, plain.key) == ("double", None)
    assert (stored.name, stored.key) == ("double", ("report", 7))
    assert (pending().name, pending().key) == ("", None)


def test_future_shows_name_key_and_status(app: Flask) -> None:
    held = HeldOnce()
    with on_one_worker(app) as executor:
        running = executor.submit_stored("report", held)
        waiting = executor.submit(double, 21)
        assert held.begun.wait(TIMEOUT)
        assert repr(running) == f"<FutureProxy HeldOnce key='report' running at {id(running):#x}>"
        assert repr(waiting) == f"<FutureProxy double pending at {id(waiting):#x}>"
        held.release.set()
    assert repr(waiting) == f"<FutureProxy double succeeded at {id(waiting):#x}>"
    assert repr(gone := cancelled()) == f"<FutureProxy cancelled at {id(gone):#x}>"


class EndsMeanwhile(FutureProxy[int]):
    """Its call ends while somebody looks whether it runs."""

    def running(self) -> bool:
        succeed(self, 42)
        return super().running()


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "waited for"])
def test_the_standard_library_sees_each_state_by_its_name(shared: bool) -> None:
    future, gone = pending(), pending()
    if shared:
        assert future._condition is not gone._condition
    states = [future._state]
    assert future.set_running_or_notify_cancel()
    states.append(future._state)
    future.set_result(1)
    assert gone.cancel()
    assert [*states, future._state] == ["PENDING", "RUNNING", "FINISHED"]
    assert gone._state == "CANCELLED_AND_NOTIFIED"


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "waited for"])
def test_call_that_ends_while_it_is_looked_at_is_never_pending(shared: bool) -> None:
    def begun() -> FutureProxy[int]:
        future = EndsMeanwhile()
        assert future.set_running_or_notify_cancel()
        if shared:
            assert future._condition is not None
        return future

    assert begun().status == "succeeded"
    # One that is waited for does not look: the library may hold its lock, and the state must stay.
    assert begun()._state == ("RUNNING" if shared else "FINISHED")


# cancel


def test_pending_call_that_is_cancelled_never_runs(app: Flask) -> None:
    held, ran = HeldOnce(), list[int]()
    with on_one_worker(app) as executor:
        executor.submit(held)
        future = executor.submit(ran.append, 1)
        assert future.cancel()
        assert future.cancelled()
        assert future.cancel(), "it still is"
        held.release.set()
    assert ran == []


def test_running_function_cannot_be_cancelled_and_gives_its_result(executor: Executor) -> None:
    held = HeldOnce()
    future = executor.submit(held)
    assert held.begun.wait(TIMEOUT)
    assert not future.cancel()
    assert future.running()
    held.release.set()
    assert future.result(TIMEOUT) == "held"
    assert not future.cancel()


def test_running_coroutine_is_cancelled_at_once_for_all_who_wait(executor: Executor) -> None:
    coroutine = Forever()
    future = executor.submit(coroutine)
    assert coroutine.begun.wait(TIMEOUT)
    waiting: list[Future[Any]] = [
        in_thread(lambda: future.result(TIMEOUT)),
        in_thread(lambda: asyncio.run(awaited(future))),
    ]
    until(lambda: watchers(future) > 1)
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        waiting[0].result(TIMEOUT)
    assert isinstance(waiting[1].exception(TIMEOUT), asyncio.CancelledError)
    assert coroutine.cancelled.wait(TIMEOUT)
    assert future.cancel()


def test_coroutine_cancelled_between_being_taken_up_and_its_first_step_does_not_stay_for_ever(
    app: Flask,
) -> None:
    held, loops = HeldOnce(), list[asyncio.AbstractEventLoop]()

    async def block() -> None:
        loops.append(asyncio.get_running_loop())
        held()

    executor = Executor(app)
    executor.submit(block)
    assert held.begun.wait(TIMEOUT)
    # While the loop is blocked: it takes up the call, hears of the cancellation in the same turn.
    state: Any = executor._states[app]
    (loop_thread,) = state.opened._loops._threads
    future = executor.submit(Forever())
    loop_thread._inbox.post(future.cancel)
    held.release.set()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(TIMEOUT)
    in_time(executor.shutdown)


# A function that returns the future of another call


def test_returned_future_settles_the_outer_one_and_needs_no_worker_for_it(app: Flask) -> None:
    def outer(number: int) -> FutureProxy[int]:
        return executor.submit(double, number)

    with on_one_worker(app) as executor:
        assert executor.submit(outer, 21).result(TIMEOUT) == 42
        futures = [executor.submit(outer, number) for number in range(50)]
        assert [f.result(TIMEOUT) for f in futures] == [n * 2 for n in range(50)]


@pytest.mark.parametrize("wait_in", ["result", "await", "wait", "callback"])
def test_who_waits_for_the_outer_future_hears_of_the_inner_outcome(
    app: Flask, wait_in: str
) -> None:
    held = HeldOnce()
    told = threading.Event()

    def outer() -> FutureProxy[str]:
        return executor.submit(held)

    with on_one_worker(app) as executor:
        future = executor.submit(outer)
        assert held.begun.wait(TIMEOUT)
        assert future.running()
        future.add_done_callback(lambda _: told.set())
        assert not told.is_set()
        outcome: Future[object] = in_thread(
            {
                "result": lambda: future.result(TIMEOUT),
                "await": lambda: asyncio.run(awaited(future)),
                "wait": lambda: wait([future], TIMEOUT).done.pop().result(),
                "callback": lambda: told.wait(TIMEOUT) and future.result(0),
            }[wait_in]
        )
        held.release.set()
        assert outcome.result(TIMEOUT) == "held"


def test_returned_future_that_is_done_settles_the_outer_one_at_once(app: Flask) -> None:
    with on_one_worker(app) as executor:
        assert executor.submit(succeeded, 42).result(TIMEOUT) == 42
        assert executor.submit(cancelled).exception is not None
        with pytest.raises(concurrent.futures.CancelledError):
            executor.submit(cancelled).result(TIMEOUT)


def test_outer_future_fails_with_the_exception_of_the_inner_one_which_is_logged_once(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    inner: list[FutureProxy[int]] = []

    def outer() -> FutureProxy[int]:
        inner.append(executor.submit(fail))
        return inner[0]

    with on_one_worker(app) as executor:
        future = executor.submit(outer)
        error = future.exception(TIMEOUT)
    assert isinstance(error, Failure)
    assert error is inner[0].exception()
    assert future.status == "failed"
    (record,) = caplog.records
    assert record.getMessage() == f"Exception in background job fail [{inner[0].id}]"


def test_cancelling_the_outer_future_cancels_the_inner_call_if_that_is_possible(
    app: Flask,
) -> None:
    held, coroutine, ran = HeldOnce(), Forever(), list[int]()
    inner: list[FutureProxy[Any]] = []
    first = HeldOnce()

    def outer(fn: Callable[..., Any], *args: object) -> FutureProxy[Any]:
        inner.append(executor.submit(fn, *args))
        return inner[-1]

    with on_one_worker(app) as executor:
        executor.submit(first)
        of_coroutine: FutureProxy[Any] = executor.submit(outer, coroutine)
        of_running: FutureProxy[Any] = executor.submit(outer, held)
        of_pending: FutureProxy[Any] = executor.submit(outer, ran.append, 1)
        first.release.set()
        # The outer functions have all returned before the worker takes the first inner call.
        assert held.begun.wait(TIMEOUT)
        assert coroutine.begun.wait(TIMEOUT)
        assert not of_running.cancel()
        assert of_running.running()
        assert of_coroutine.cancel()
        assert of_pending.cancel()
        assert coroutine.cancelled.wait(TIMEOUT)
        held.release.set()
        assert of_running.result(TIMEOUT) == "held"
    assert [f.status for f in inner] == ["cancelled", "succeeded", "cancelled"]
    assert [f.status for f in (of_coroutine, of_pending)] == ["cancelled", "cancelled"]
    assert ran == []


def test_cancelling_the_inner_call_cancels_the_outer_future(app: Flask) -> None:
    coroutine, inner = Forever(), list[FutureProxy[None]]()

    def outer() -> FutureProxy[None]:
        inner.append(executor.submit(coroutine))
        return inner[0]

    with on_one_worker(app) as executor:
        future = executor.submit(outer)
        assert coroutine.begun.wait(TIMEOUT)
        until(lambda: bool(inner))  # it may begin before submit() has returned
        assert inner[0].cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(TIMEOUT)


def test_two_thousand_calls_may_each_return_the_next(app: Flask) -> None:
    def countdown(number: int) -> Any:
        return executor.submit(countdown, number - 1) if number else "the last"

    executor = on_one_worker(app)
    try:
        future: FutureProxy[str] = executor.submit(countdown, 2000)
        assert future.result(TIMEOUT) == "the last"
        assert executor.submit(double, 21).result(TIMEOUT) == 42
    finally:
        executor.shutdown(wait=False)


@pytest.mark.parametrize("chunksize", [1, 2, 10])
def test_map_of_a_function_that_returns_futures_needs_no_second_worker(
    app: Flask, chunksize: int
) -> None:
    def outer(number: int) -> FutureProxy[int]:
        return executor.submit(double, number)

    executor = on_one_worker(app)
    try:
        results = executor.map(outer, range(10), chunksize=chunksize, timeout=TIMEOUT)
        assert list(results) == [number * 2 for number in range(10)]
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def test_future_that_an_awaited_result_turns_out_to_be_is_the_result_in_every_way_to_call(
    executor: Executor,
) -> None:
    async def inner() -> FutureProxy[int]:
        return executor.submit(double, 21)

    def through_a_function() -> Awaitable[FutureProxy[int]]:
        return inner()

    results: list[object] = [
        executor.submit(inner).result(TIMEOUT),
        executor.submit(through_a_function).result(TIMEOUT),
    ]
    assert [type(result) for result in results] == [FutureProxy, FutureProxy]


def test_call_that_returns_its_own_future_fails_rather_than_wait_for_itself(app: Flask) -> None:
    held, own = HeldOnce(), list[FutureProxy[Any]]()

    def return_itself() -> FutureProxy[Any]:
        held()
        return own[0]

    with on_one_worker(app) as executor:
        own.append(executor.submit(return_itself))
        held.release.set()
        assert isinstance(own[0].exception(TIMEOUT), RuntimeError)


def test_future_interrupted_while_it_is_settled_like_another_holds_up_no_later_one() -> None:
    class Interrupted(FutureProxy[int]):
        def _settle(self, *outcome: Any, **more: Any) -> bool:
            raise KeyboardInterrupt

    inner, outer = pending(), Interrupted()
    follow(outer, inner)
    with pytest.raises(KeyboardInterrupt):
        inner.set_result(1)
    inner, later = pending(), pending()
    follow(later, inner)
    inner.set_result(42)
    assert later.result(0) == 42


# What is freed without the garbage collector


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# Each takes the future out of a list: a variable for it, in a frame that the traceback refers to,
# would be a cycle of the test's own.
Box = list[FutureProxy[int]]


def give_to_result(box: Box) -> None:
    with contextlib.suppress(Failure, concurrent.futures.CancelledError):
        box.pop().result(TIMEOUT)


def give_to_exception(box: Box) -> None:
    with contextlib.suppress(concurrent.futures.CancelledError):
        box.pop().exception(TIMEOUT)


def give_to_await(box: Box) -> None:
    async def await_one() -> int:
        return await box.pop()

    with contextlib.suppress(Failure, asyncio.CancelledError):
        asyncio.run(await_one())


def give_to_wait(box: Box) -> None:
    wait([box.pop()], TIMEOUT)


def give_to_as_completed(box: Box) -> None:
    for _ in as_completed([box.pop()], TIMEOUT):
        pass


def give_to_callback(box: Box) -> None:
    box.pop().add_done_callback(lambda _: None)


def give_to_another_future(box: Box) -> None:
    outer = [pending()]
    follow(outer[0], box.pop())
    give_to_result(outer)


def leave_alone(box: Box) -> None:
    box.clear()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize(
    "give",
    [
        leave_alone,
        give_to_result,
        give_to_exception,
        give_to_await,
        give_to_wait,
        give_to_as_completed,
        give_to_callback,
        give_to_another_future,
    ],
)
@pytest.mark.parametrize(
    "settle",
    [settle_with_failure, settle_with_raised_failure, settle_with_result, settle_by_cancelling],
)
@pytest.mark.parametrize("early", [True, False], ids=["before", "after"])
def test_future_is_freed_when_nobody_refers_to_it(
    give: Callable[[Box], None], settle: Callable[[FutureProxy[int]], None], early: bool
) -> None:
    def use() -> weakref.ref[FutureProxy[int]]:
        future = pending()
        box, watched = [future], future._watchers
        if early:
            thread = threading.Thread(target=give, args=(box,), daemon=True)
            thread.start()
            until(lambda: not thread.is_alive() or len(watched) > 0)
            settle(future)
            thread.join(TIMEOUT)
        else:
            settle(future)
            give(box)
        reference = weakref.ref(future)
        del future  # this frame may be kept as well
        return reference

    reference = use()
    until(lambda: reference() is None)
    assert reference() is None


@pytest.mark.usefixtures("without_collector")
def test_future_of_a_failed_call_that_returned_a_failed_one_is_freed(app: Flask) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False  # pytest keeps log records

    def outer() -> FutureProxy[int]:
        return executor.submit(fail)

    def use() -> list[weakref.ref[Any]]:
        future = executor.submit(outer)
        return [weakref.ref(future.exception(TIMEOUT)), weakref.ref(future)]

    with on_one_worker(app) as executor:
        references = use()
        until(lambda: not any(reference() for reference in references))
        assert [reference() for reference in references] == [None, None]


# LoopInbox


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def run_what_is_ready(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(asyncio.sleep(0))


def count_wake_ups(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> list[object]:
    wake_ups: list[object] = []
    wake = loop.call_soon_threadsafe

    def count(fn: Callable[..., object], *args: Any, **kwargs: Any) -> object:
        wake_ups.append(fn)
        return wake(fn, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    return wake_ups


def test_inbox_runs_what_is_posted_in_order_and_on_the_loop(
    loop: asyncio.AbstractEventLoop,
) -> None:
    inbox, ran = LoopInbox(loop), list[object]()

    def note(number: int) -> None:
        ran.append((number, asyncio.get_running_loop()))

    for number in range(5):
        assert inbox.post(note, number)
    assert len(inbox) == 5
    assert ran == []
    run_what_is_ready(loop)
    assert ran == [(number, loop) for number in range(5)]
    assert len(inbox) == 0


def test_inbox_wakes_the_loop_once_for_all_that_is_posted_meanwhile(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, ran = LoopInbox(loop), list[int]()
    wake_ups = count_wake_ups(loop, monkeypatch)
    for _ in range(2):
        wake_ups.clear()
        ran.clear()
        for number in range(500):
            inbox.post(ran.append, number)
        assert len(wake_ups) == 1
        run_what_is_ready(loop)
        assert ran == list(range(500))


def test_inbox_lets_the_loop_do_its_other_work_in_between(loop: asyncio.AbstractEventLoop) -> None:
    inbox, ran = LoopInbox(loop), list[int]()
    for number in range(10_000):
        inbox.post(ran.append, number)
    run_what_is_ready(loop)
    assert 0 < len(ran) < 10_000
    for _ in range(20):
        run_what_is_ready(loop)
    assert ran == list(range(10_000))


def test_inbox_runs_what_its_callbacks_post(loop: asyncio.AbstractEventLoop) -> None:
    inbox, ran = LoopInbox(loop), list[int]()

    def post_next(number: int) -> None:
        ran.append(number)
        if number:
            inbox.post(post_next, number - 1)
        else:
            loop.stop()

    inbox.post(post_next, 3000)
    loop.run_forever()
    assert ran == list(range(3000, -1, -1))


@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt, SystemExit])
def test_inbox_loses_nothing_when_a_callback_raises(
    loop: asyncio.AbstractEventLoop, error: type[BaseException]
) -> None:
    inbox, ran, heard = LoopInbox(loop), list[int](), list[object]()
    loop.set_exception_handler(lambda _, context: heard.append(context["exception"]))

    def raise_it() -> None:
        raise error

    for number in range(5):
        inbox.post(ran.append, number)
        inbox.post(raise_it)
    for _ in range(10):
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            run_what_is_ready(loop)
    assert ran == list(range(5))
    assert len(heard) == (5 if error is Failure else 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RecursionError])
def test_inbox_wakes_the_loop_after_a_wake_up_that_was_interrupted(
    error: type[BaseException],
    loop: asyncio.AbstractEventLoop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inbox, ran = LoopInbox(loop), list[int]()

    def interrupted(*args: object, **kwargs: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon_threadsafe", interrupted)
        with pytest.raises(error):
            inbox.post(ran.append, 1)
    assert inbox.post(ran.append, 2)
    run_what_is_ready(loop)
    assert ran == [1, 2]


def test_inbox_of_a_closed_loop_says_so_every_time() -> None:
    loop = asyncio.new_event_loop()
    inbox = LoopInbox(loop)
    loop.close()
    assert not inbox.post(fail)
    assert not inbox.post(fail)


def test_inbox_of_a_loop_that_is_gone_says_so_every_time() -> None:
    loop = asyncio.new_event_loop()
    inbox = LoopInbox(loop)
    assert inbox.is_of(loop)
    loop.close()
    del loop
    gc.collect()
    assert not inbox.post(fail)
    assert not inbox.post(fail)


def test_a_job_whose_kill_was_refused_by_the_future_that_it_follows_was_not_asked_to_end(
    executor: Executor,
) -> None:
    gate = threading.Event()
    followed = executor.submit(gate.wait, TIMEOUT)
    follower = executor.submit(lambda: followed)
    until(lambda: followed.running() and last_followed(follower) is followed)
    with pytest.raises(UnsupportedError):
        follower.cancel(kill=True)
    assert not facts_of(follower).cancel_requested
    assert not follower.cancel()  # a plain function that runs
    assert facts_of(follower).cancel_requested
    gate.set()
    assert follower.result(TIMEOUT)
