"""What is over is freed: threads and descriptors, arguments, results and requests, memory."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from flask import Flask, g, request
from flask.ctx import AppContext
from werkzeug.test import EnvironBuilder, run_wsgi_app

from flask_executor_typed import Executor, FutureProxy

from .conftest import TIMEOUT, until
from .helpers.scripts import Ended, run_script

DESCRIPTORS = Path("/proc/self/fd")


class Thing:
    """Something big that a caller passes, or a job returns."""


class Failure(Exception):
    """An exception that can be watched, as the builtin ones cannot."""


class Freed:
    """Watches objects and tells when they are gone, each by itself: the cycle collector is off."""

    def __init__(self) -> None:
        self._events: list[tuple[str, threading.Event]] = []

    def watch(self, thing: object) -> None:
        event = threading.Event()
        weakref.finalize(thing, event.set)
        self._events.append((type(thing).__name__, event))

    def check(self, expected: int) -> None:
        assert len(self._events) == expected
        limit = time.monotonic() + TIMEOUT  # a future is done a moment before its call lets go
        left = [
            name
            for name, event in self._events
            if not event.wait(max(0.0, limit - time.monotonic()))
        ]
        assert left == []


@pytest.fixture
def freed() -> Iterator[Freed]:
    gc.collect()
    gc.disable()
    try:
        yield Freed()
    finally:
        gc.enable()


async def double_async(number: int) -> int:
    return number * 2


def descriptors() -> int:
    return len(os.listdir(DESCRIPTORS))


def join_all(threads: set[threading.Thread]) -> None:
    for thread in threads:
        vars(thread)["_started"].wait(TIMEOUT)  # enumerate() tells of it before that
        if sys.version_info < (3, 11):  # what asgiref's bridges leave is a cycle there
            thread.join(TIMEOUT / 50)
            gc.collect()
        thread.join(TIMEOUT)
        assert not thread.is_alive(), f"{thread.name} did not end"


# Threads and descriptors


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="counts descriptors in /proc")
@pytest.mark.parametrize("wait", [True, False], ids=["wait", "no wait"])
def test_hundred_executors_that_were_shut_down_leave_no_thread_and_no_descriptor(
    wait: bool,
) -> None:
    def use_one() -> None:
        app = Flask("short_lived")
        app.config["EXECUTOR_MAX_WORKERS"] = 3
        app.config["EXECUTOR_MAX_LOOPS"] = 2
        executor = Executor(app)
        meeting = threading.Barrier(3)
        for _ in range(3):
            executor.submit(meeting.wait, TIMEOUT)
        executor.submit(asyncio.sleep, 0.001)
        executor.submit(sync_to_async(len), "four")
        executor.submit(async_to_sync(double_async), 1)
        executor.shutdown(wait)

    threads = set(threading.enumerate())
    use_one()
    join_all(set(threading.enumerate()) - threads)
    before = descriptors()
    for _ in range(100):
        use_one()
    join_all(set(threading.enumerate()) - threads)
    assert descriptors() <= before  # what other tests have left may be closed meanwhile


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="counts descriptors in /proc")
def test_hundred_executors_that_were_dropped_leave_no_thread_and_no_descriptor() -> None:
    def use_one() -> None:
        app = Flask("short_lived")
        executor = Executor(app)
        executor.submit(double_async, 1).result(TIMEOUT)
        executor.submit(int).result(TIMEOUT)

    gc.collect()
    threads = set(threading.enumerate())
    use_one()
    gc.collect()
    join_all(set(threading.enumerate()) - threads)
    before = descriptors()
    for _ in range(100):
        use_one()
    gc.collect()
    join_all(set(threading.enumerate()) - threads)
    assert descriptors() <= before  # what other tests have left may be closed meanwhile


def test_threads_of_bridges_end_with_their_jobs(executor: Executor) -> None:
    async def bridge(number: int) -> int:
        return await sync_to_async(int)(number)

    assert executor.submit(bridge, 1).result(TIMEOUT) == 1
    assert executor.submit(int).result(TIMEOUT) == 0
    before = set(threading.enumerate())
    futures = [executor.submit(bridge, number) for number in range(300)]
    assert [future.result(TIMEOUT) for future in futures] == list(range(300))
    others = set(threading.enumerate()) - before
    ours = ("executor-worker-", "executor-loop-")  # which stay as long as the executor
    join_all({thread for thread in others if not thread.name.startswith(ours)})


# Objects


def take(thing: Thing, also: Thing) -> Thing:
    return Thing()


async def take_async(thing: Thing, also: Thing) -> Thing:
    return Thing()


async def take_async_in_two_steps(thing: Thing, also: Thing) -> Thing:
    await asyncio.sleep(0)
    return Thing()


def take_awaited(thing: Thing, also: Thing) -> Awaitable[Thing]:
    return take_async_in_two_steps(thing, also)


def take_bridged(thing: Thing, also: Thing) -> Thing:
    return async_to_sync(take_async_in_two_steps)(thing, also)


def fail(thing: Thing, also: Thing) -> Thing:
    raise Failure(thing)


async def fail_async(thing: Thing, also: Thing) -> Thing:
    raise Failure(thing)


async def fail_async_in_two_steps(thing: Thing, also: Thing) -> Thing:
    await asyncio.sleep(0)
    raise Failure(thing)


def fail_awaited(thing: Thing, also: Thing) -> Awaitable[Thing]:
    return fail_async_in_two_steps(thing, also)


# asgiref's frames are a cycle on Python 3.10, with the pool of the standard library as well.
bridged = pytest.param(
    take_bridged,
    marks=pytest.mark.skipif(
        sys.version_info < (3, 11), reason="what async_to_sync leaves waits for the collector"
    ),
)
succeeding = [take, take_async, take_async_in_two_steps, take_awaited, bridged]
failing = [fail, fail_async, fail_async_in_two_steps, fail_awaited]


@pytest.mark.parametrize("fn", succeeding)
def test_arguments_are_freed_when_the_call_is_done_and_the_result_with_its_future(
    executor: Executor, freed: Freed, fn: Callable[..., Any]
) -> None:
    def submit() -> FutureProxy[Thing]:
        thing, also = Thing(), Thing()
        freed.watch(thing)
        freed.watch(also)
        return executor.submit(fn, thing, also=also)

    future: FutureProxy[Thing] | None = submit()
    assert future is not None
    assert future.exception(TIMEOUT) is None
    freed.check(2)
    freed.watch(future.result())
    freed.watch(future)
    del future
    freed.check(4)


@pytest.mark.parametrize("fn", failing)
def test_exception_is_freed_with_its_future_and_all_that_its_traceback_refers_to(
    app: Flask, freed: Freed, fn: Callable[..., Any]
) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False  # pytest keeps log records

    def submit() -> FutureProxy[Thing]:
        thing, also = Thing(), Thing()
        freed.watch(thing)
        freed.watch(also)
        return executor.submit(fn, thing, also)

    with Executor(app) as executor:
        future: FutureProxy[Thing] | None = submit()
        assert future is not None
        error = future.exception(TIMEOUT)
        assert isinstance(error, Failure)
        freed.watch(error)
        freed.watch(future)
        del future, error
        freed.check(4)


@pytest.mark.parametrize("fn", failing)
def test_exception_that_was_raised_where_it_was_waited_for_is_freed_as_well(
    app: Flask, freed: Freed, fn: Callable[..., Any]
) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False

    def submit() -> FutureProxy[Thing]:
        thing, also = Thing(), Thing()
        freed.watch(thing)
        freed.watch(also)
        future: FutureProxy[Thing] = executor.submit(fn, thing, also)
        freed.watch(future)
        return future

    # No variable here refers to the future: that would be a cycle of the test's own.
    def wait_for_one() -> None:
        try:
            submit().result(TIMEOUT)
        except Failure as error:
            freed.watch(error)

    async def await_one() -> None:
        try:
            await submit()
        except Failure as error:
            freed.watch(error)

    with Executor(app) as executor:
        wait_for_one()
        freed.check(4)
        asyncio.run(await_one())
        freed.check(8)


@pytest.mark.skipif(
    hasattr(AppContext, "has_request"),
    reason="Flask 3.2.0.dev itself keeps a request until the garbage collector runs",
)
@pytest.mark.parametrize("fn", [*succeeding, *failing])
def test_request_and_g_are_freed_when_the_call_is_done_although_its_future_is_kept(
    app: Flask, freed: Freed, fn: Callable[..., Any]
) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
    futures: list[FutureProxy[Thing]] = []

    with Executor(app) as executor:

        @app.route("/")
        def view() -> str:
            g.thing = Thing()
            freed.watch(g.thing)
            proxy: Any = request
            freed.watch(proxy._get_current_object())
            futures.append(executor.submit(fn, Thing(), Thing()))
            return ""

        # Not through a test client, which keeps the context of its last request on old Flasks.
        run_wsgi_app(app, EnvironBuilder().get_environ())
        futures[0].exception(TIMEOUT)
        freed.check(2)  # although the future is still there


def test_arguments_of_a_cancelled_coroutine_are_freed(executor: Executor, freed: Freed) -> None:
    begun = threading.Event()

    async def wait_for_ever(thing: Thing) -> None:
        begun.set()
        await asyncio.Event().wait()

    def submit() -> FutureProxy[None]:
        thing = Thing()
        freed.watch(thing)
        return executor.submit(wait_for_ever, thing)

    future = submit()
    assert begun.wait(TIMEOUT)
    assert future.cancel()
    freed.check(1)


@pytest.mark.parametrize("on_the_loop", [False, True], ids=["sync", "async"])
def test_arguments_of_calls_that_never_ran_are_freed(
    app: Flask, freed: Freed, on_the_loop: bool
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    begun, release = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        release.wait(TIMEOUT)

    async def block_async() -> None:
        block()

    def submit() -> FutureProxy[Thing]:
        thing, also = Thing(), Thing()
        freed.watch(thing)
        freed.watch(also)
        kind: Callable[..., Any] = take_async if on_the_loop else take
        return executor.submit(kind, thing, also)

    with Executor(app) as executor:
        executor.submit(block_async if on_the_loop else block)
        assert begun.wait(TIMEOUT)
        cancelled, shut_down = submit(), submit()
        assert cancelled.cancel()
        executor.shutdown(wait=False, cancel_futures=True)
        release.set()
        freed.check(4)
        assert shut_down.cancelled()


def test_items_and_results_of_map_are_freed_one_by_one(executor: Executor, freed: Freed) -> None:
    def things() -> Iterator[Thing]:
        for _ in range(5):
            thing = Thing()
            freed.watch(thing)
            yield thing
            del thing

    def take_one(thing: Thing) -> Thing:
        return Thing()

    results: Any = executor.map(take_one, things(), buffersize=1)
    for _ in range(4):
        freed.watch(next(results))
    results.close()
    freed.check(9)


def fail_one(number: int) -> int:
    raise Failure(number)


def fail_one_of_another_call(number: int) -> Any:
    future: FutureProxy[int] = FutureProxy()
    future.set_exception(Failure(number))
    return future


@pytest.mark.parametrize("fn", [fail_one, fail_one_of_another_call])
@pytest.mark.parametrize("chunksize", [1, 2])
@pytest.mark.parametrize("items", [1, 2, 3])
def test_exception_that_a_map_raised_is_freed_with_the_futures(
    app: Flask, freed: Freed, fn: Callable[[int], Any], chunksize: int, items: int
) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False  # pytest keeps log records

    def read() -> None:
        try:
            list(executor.map(fn, range(items), chunksize=chunksize))
        except Failure as error:
            freed.watch(error)

    async def read_async() -> None:
        try:
            async for _ in executor.map(fn, range(items), chunksize=chunksize):
                pass
        except Failure as error:
            freed.watch(error)

    with Executor(app) as executor:
        read()
        freed.check(1)
        asyncio.run(read_async())
        freed.check(2)


def test_callbacks_are_freed_when_they_were_called(executor: Executor, freed: Freed) -> None:
    class Callback:
        def __call__(self, future: FutureProxy[Any]) -> None:
            called.release()

    called = threading.Semaphore(0)

    def add(future: FutureProxy[Any]) -> None:
        callback = Callback()
        freed.watch(callback)
        future.add_done_callback(callback)

    futures: list[FutureProxy[Any]] = [executor.submit(int), executor.submit(double_async, 1)]
    for future in futures:
        add(future)
        assert called.acquire(timeout=TIMEOUT)
    freed.check(2)


@pytest.mark.parametrize("fn", failing)
def test_executor_that_is_dropped_ends_its_threads_although_a_failed_future_is_kept(
    fn: Callable[..., Any],
) -> None:
    def use_an_executor() -> tuple[list[threading.Thread], FutureProxy[Any]]:
        app = Flask("short-lived")
        app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
        before = set(threading.enumerate())
        executor: Executor = Executor()
        executor.init_app(app)
        future: FutureProxy[Any] = executor.submit(fn, Thing(), Thing())
        future.exception(TIMEOUT)
        del app.extensions["executor"]  # the future keeps the app
        return list(set(threading.enumerate()) - before), future

    threads, future = use_an_executor()
    gc.collect()
    until(lambda: not any(thread.is_alive() for thread in threads))
    assert future.done()


def test_app_is_freed_when_its_last_job_was_a_coroutine_that_ended_after_shutdown() -> None:
    executor: Executor = Executor()  # it outlives the app
    begun, go_on = threading.Event(), threading.Event()

    async def job() -> None:
        begun.set()
        await asyncio.to_thread(go_on.wait, TIMEOUT)

    def use_an_app() -> weakref.ref[Flask]:
        app = Flask("short-lived")
        executor.init_app(app)
        with app.app_context():
            executor.submit(job)
            assert begun.wait(TIMEOUT)
            executor.shutdown(wait=False)
            go_on.set()
            executor.shutdown()
        return weakref.ref(app)

    app = use_an_app()
    gc.collect()
    assert app() is None


def test_executor_keeps_no_more_futures_by_key_than_it_is_told(app: Flask, freed: Freed) -> None:
    app.config["EXECUTOR_FUTURES_MAX_LENGTH"] = 3
    with Executor(app) as executor:
        for number in range(10):
            future = executor.submit_stored(number, Thing)
            freed.watch(future.result(TIMEOUT))
            del future
        until(lambda: sum(event.is_set() for _, event in freed._events) == 7)
        assert len(executor.futures) == 3


# Memory


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc/self/statm")
@pytest.mark.parametrize(
    "kind",
    [
        "double",
        "double_async",
        "awaited",
        "bridged",
        "fail",
        "fail_async",
        "cancelled",
        "cancelled_pending",
        "mapped",
        "mapped_async",
        "stored",
        "tracked",
        "timed",
        "timed_async",
        "retried",
        "after_response",
        "called_back",
    ],
)
def test_200_000_jobs_leave_no_memory_descriptor_thread_task_or_context_behind(kind: str) -> None:
    jobs = 50_000 if kind in {"awaited", "bridged"} else 200_000  # a tenth as fast as the others
    ended = run_script(
        f"""
        import gc, logging
        from collections import Counter
        from asgiref.sync import async_to_sync

        from flask import g
        from flask_executor_typed import track

        app.logger.disabled = True

        def awaited(number):
            return double_async(number)

        def bridged(number):
            return async_to_sync(double_async)(number)

        def fail(number):
            raise LookupError(number)

        async def fail_async(number):
            await asyncio.sleep(0)
            raise LookupError(number)

        def cancelled():
            futures = [executor.submit(asyncio.sleep, 60) for _ in range(100)]
            for future in futures:
                future.cancel()

        def mapped():
            for _ in executor.map(double, range(100)):
                pass

        def cancelled_pending():
            released.clear()
            blockers = [executor.submit(released.wait) for _ in range(4)]
            futures = [executor.submit(double, number) for number in range(100)]
            for future in futures:
                future.cancel()
            released.set()
            for blocker in blockers:
                blocker.result()

        released = threading.Event()

        def mapped_async():
            for _ in executor.map(double_async, range(100), buffersize=50):
                pass

        def stored():
            futures = [executor.submit_stored((number, time.time()), double, number)
                       for number in range(100)]
            for future in futures:
                future.result()

        def tracked():
            futures = [executor.submit(count, range(number % 5)) for number in range(100)]
            for future in futures:
                future.result()

        def count(rows):
            for _ in track(rows):
                pass

        def timed():
            submitted(double, executor.using(timeout=60))

        def timed_async():
            submitted(double_async, executor.using(timeout=60))

        def retried():
            submitted(fail, executor.using(retries=1))

        def after_response():
            futures = [executor.after_response().submit(double, number) for number in range(100)]
            response = app.process_response(app.make_response("body"))
            response.close()
            for future in futures:
                future.result()

        def called_back():
            futures = [executor.submit(double, number) for number in range(100)]
            for future in futures:
                future.add_done_callback(str)
            for future in futures:
                future.result()

        submitting = {{"double", "double_async", "awaited", "bridged", "fail", "fail_async"}}

        def submitted(fn, executor=executor):
            futures = [executor.submit(fn, number) for number in range(100)]
            for future in futures:
                future.exception()

        def run(jobs):
            # A few at a time: how much is waiting at once is not what this is about.
            for _ in range(jobs // 100):
                with app.test_request_context("/?id=7"):
                    g.thing = bytearray(1000)
                    submitted({kind}) if "{kind}" in submitting else {kind}()

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

        def live():
            names = ("FutureProxy", "Call", "Context", "Task", "ContextSnapshot", "LookupError")
            counts = Counter(type(thing).__name__ for thing in gc.get_objects())
            return sum(counts[name] for name in names)

        time_out(200)
        run(2000)
        before = resident(), len(os.listdir("/proc/self/fd")), threading.active_count()
        run({jobs})
        grown = resident() - before[0]
        # The last few jobs are done a moment before they are gone.
        limit = time.monotonic() + 5
        while live() > 64 and time.monotonic() < limit:
            time.sleep(0.05)
        # asgiref's threads end when their context does, a moment after the job.
        while threading.active_count() > before[2] and time.monotonic() < limit:
            time.sleep(0.05)
        print(grown < 10 or grown, live() <= 64 or live())
        after = len(os.listdir("/proc/self/fd")), threading.active_count()
        print(after <= before[1:] or (before, after))
        stats = executor.stats()
        print((stats.pending, stats.running), stats.succeeded + stats.failed + stats.cancelled)
        """,
        seconds=200,
    )
    calls = jobs + 2000
    if kind == "cancelled_pending":
        calls += calls // 25  # four that hold the workers for each hundred
    assert ended == Ended(0, f"True True\nTrue\n(0, 0) {calls}\n", "")
