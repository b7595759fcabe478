"""How much an executor has to do: the figures, the bound, and what happens over it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError
from dataclasses import FrozenInstanceError
from functools import partial
from typing import Any

import pytest
from flask import Flask, Response

from flask_executor_typed import (
    DeadlockError,
    Executor,
    ExecutorClosedError,
    ExecutorStats,
    FutureProxy,
    JobTimeoutError,
    NoAppError,
    QueueFullError,
)
from flask_executor_typed.calls import Capacity

from .apps import processes
from .conftest import TIMEOUT, until
from .helpers.scripts import Ended, has_fork, run_script


class Held:
    """An executor whose workers are busy until they are released."""

    def __init__(self, app: Flask, workers: int = 1, max_pending: int | None = 2) -> None:
        app.config["EXECUTOR_MAX_WORKERS"] = workers
        app.config["EXECUTOR_MAX_PENDING"] = max_pending
        self.executor = Executor(app)
        self.release = threading.Event()
        begun = threading.Semaphore(0)

        def block() -> bool:
            begun.release()
            return self.release.wait(TIMEOUT)

        self.blockers = [self.executor.submit(block) for _ in range(workers)]
        for _ in self.blockers:
            assert begun.acquire(timeout=TIMEOUT)


@contextlib.contextmanager
def held(app: Flask, workers: int = 1, max_pending: int | None = 2) -> Generator[Held, None, None]:
    busy = Held(app, workers, max_pending)
    try:
        yield busy
    finally:
        busy.release.set()
        busy.executor.shutdown()


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let the interpreter switch threads as often as it can, rather than every 5 ms."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def fail() -> None:
    raise LookupError


async def never() -> None:
    await asyncio.Event().wait()


# -- figures ---------------------------------------------------------------------------------------


def test_stats_of_an_executor_that_was_not_used_are_zeros_and_start_nothing(
    executor: Executor,
) -> None:
    before = threading.active_count()
    assert executor.stats() == ExecutorStats(
        pending=0,
        running=0,
        succeeded=0,
        failed=0,
        cancelled=0,
        workers=0,
        loops=0,
        oldest_pending_age=0.0,
    )
    assert threading.active_count() <= before  # one of another test may end meanwhile


def test_stats_cannot_be_changed(executor: Executor) -> None:
    stats, field = executor.stats(), "pending"
    with pytest.raises(FrozenInstanceError):
        setattr(stats, field, 1)


def test_stats_count_calls_by_what_their_futures_say(app: Flask) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
    with held(app, workers=2, max_pending=None) as busy:
        executor = busy.executor
        pending = [executor.submit(int) for _ in range(3)]
        coroutine = executor.submit(never)
        until(coroutine.running)
        stats = executor.stats()
        assert (stats.pending, stats.running) == (3, 3)
        assert (stats.workers, stats.loops) == (2, 1)
        assert pending[0].cancel()
        assert coroutine.cancel()
        stats = executor.stats()
        assert (stats.pending, stats.running, stats.cancelled) == (2, 2, 2)
        failing = executor.submit(fail)
        busy.release.set()
        assert isinstance(failing.exception(TIMEOUT), LookupError)
        ended: list[FutureProxy[Any]] = [*pending[1:], *busy.blockers]
        for future in ended:
            future.result(TIMEOUT)
        stats = executor.stats()
        assert (stats.pending, stats.running) == (0, 0)
        assert (stats.succeeded, stats.failed, stats.cancelled) == (4, 1, 2)
    stats = executor.stats()  # after shutdown
    assert (stats.workers, stats.loops, stats.succeeded) == (0, 0, 4)


def test_call_is_counted_before_anybody_hears_that_it_is_done(executor: Executor) -> None:
    seen: list[int] = []

    def look(future: FutureProxy[Any]) -> None:
        seen.append(executor.stats().succeeded)

    for number in range(200):
        future: FutureProxy[int] = executor.submit(int)
        future.result(TIMEOUT)
        assert executor.stats().succeeded == number + 1
    executor.add_default_done_callback(look)
    executor.submit(int)
    until(lambda: bool(seen))
    assert seen == [201]


def test_oldest_pending_age_is_that_of_the_call_that_waits_longest(app: Flask) -> None:
    with held(app) as busy:
        first = busy.executor.submit(int)
        begun = time.time()
        until(lambda: time.time() >= begun + 0.05)
        second = busy.executor.submit(int)
        age = busy.executor.stats().oldest_pending_age
        assert 0.05 <= age <= time.time() - first.submitted_at.timestamp()
        assert first.cancel()
        assert busy.executor.stats().oldest_pending_age < age
        assert second.cancel()
        assert busy.executor.stats().oldest_pending_age == 0.0


def test_call_whose_time_is_up_has_failed_although_its_thread_goes_on(app: Flask) -> None:
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
    with Executor(app) as executor:
        release = threading.Event()
        future = executor.using(timeout=0.01).submit(release.wait, TIMEOUT)
        assert isinstance(future.exception(TIMEOUT), JobTimeoutError)
        stats = executor.stats()
        assert (stats.running, stats.failed) == (0, 1)
        release.set()


def test_call_that_waits_for_its_response_is_not_pending_before(app: Flask) -> None:
    with Executor(app) as executor:
        counts: list[int] = []

        @app.route("/")
        def view() -> str:
            executor.after_response().submit(int)
            counts.append(executor.stats().pending)
            return ""

        app.test_client().get("/")
        until(lambda: executor.stats().succeeded == 1)
        assert counts == [0]


def test_stats_are_those_of_the_app_that_is_active(app: Flask) -> None:
    other = Flask("other")
    with Executor(app) as executor:
        executor.init_app(other)
        with app.app_context():
            executor.submit(int).result(TIMEOUT)
            assert executor.stats().succeeded == 1
        with other.app_context():
            assert executor.stats().succeeded == 0
        with pytest.raises(NoAppError):
            executor.stats()


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("threads", [8])
def test_no_call_is_lost_by_the_counters_however_many_threads_submit_and_cancel(
    app: Flask, threads: int
) -> None:
    jobs = 500
    with Executor(app) as executor:

        def submit() -> None:
            for number in range(jobs):
                future: FutureProxy[Any] = executor.submit(asyncio.sleep if number % 2 else int, 0)
                assert executor.stats().pending <= threads * jobs
                if number % 3 == 0:
                    future.cancel()

        workers = [threading.Thread(target=submit) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(TIMEOUT)
    stats = executor.stats()
    assert stats.succeeded + stats.cancelled == threads * jobs
    assert (stats.pending, stats.running, stats.failed) == (0, 0, 0)
    assert stats.cancelled > 0


def test_stats_of_worker_processes() -> None:
    app = Flask("counting")
    app.config.from_mapping(
        EXECUTOR_TYPE="process", EXECUTOR_MAX_WORKERS=1, EXECUTOR_LOG_EXCEPTIONS=False
    )
    with Executor(app) as executor:
        assert executor.submit(processes.cube.fn, 2).result(60) == 8
        failing = executor.submit(int, "no number")
        running = executor.submit(time.sleep, 60)
        pending = executor.submit(int)
        assert isinstance(failing.exception(60), ValueError)
        until(running.running)
        stats = executor.stats()
        assert (stats.pending, stats.running) == (1, 1)
        assert (stats.succeeded, stats.failed, stats.cancelled) == (1, 1, 0)
        assert (stats.workers, stats.loops) == (1, 0)
        assert 0 < stats.oldest_pending_age < 60
        assert pending.cancel()
        assert running.cancel(kill=True)
        assert executor.stats().cancelled == 2


def test_call_that_is_not_accepted_is_not_counted() -> None:
    app = Flask("counting")
    app.config.from_mapping(EXECUTOR_TYPE="process", EXECUTOR_MAX_PENDING=1)
    with Executor(app) as executor:
        for _ in range(20):
            with pytest.raises(TypeError, match="cannot be sent"):
                executor.submit(print, threading.Lock())
        stats = executor.stats()
        assert (stats.pending, stats.failed, stats.cancelled) == (0, 0, 0)


# -- the bound -------------------------------------------------------------------------------------


def test_submit_over_the_bound_says_which_setting_and_what_to_do(app: Flask) -> None:
    with held(app) as busy:
        accepted = [busy.executor.submit(int) for _ in range(2)]
        with pytest.raises(QueueFullError) as raised:
            busy.executor.submit(int)
        assert str(raised.value).startswith(
            "executor is full: EXECUTOR_MAX_PENDING=2; submit again later, or wait for room with "
            "using(block=seconds); submitted at "
        )
        assert isinstance(raised.value, queue.Full)
        busy.release.set()
        assert [future.result(TIMEOUT) for future in accepted] == [0, 0]
        assert busy.executor.submit(int).result(TIMEOUT) == 0
        assert busy.executor.stats().succeeded == 4


def test_error_names_the_setting_of_an_executor_with_a_name(app: Flask) -> None:
    app.config["MAIL_EXECUTOR_MAX_PENDING"] = 1
    with Executor(app, name="mail") as executor:
        executor.submit(never)
        with pytest.raises(QueueFullError) as raised:
            executor.submit(never)
        executor.shutdown(wait=False)
        assert raised.value.key == "MAIL_EXECUTOR_MAX_PENDING"
        assert (raised.value.executor, raised.value.max_pending) == ("mail_executor", 1)
        for call in executor._states[app]._capacity_of_loops.calls():
            assert isinstance(call, FutureProxy)
            call.cancel()


def test_workers_that_have_not_started_count_as_room(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    app.config["EXECUTOR_MAX_PENDING"] = 2
    release = threading.Event()
    with Executor(app) as executor:
        futures = [executor.submit(release.wait, TIMEOUT) for _ in range(5)]
        with pytest.raises(QueueFullError):
            executor.submit(int)
        release.set()
        assert [future.result(TIMEOUT) for future in futures] == [True] * 5


def test_bound_counts_coroutines_until_they_are_done_and_apart_from_functions(app: Flask) -> None:
    with held(app) as busy:
        executor = busy.executor
        coroutines = [executor.submit(never) for _ in range(2)]
        until(coroutines[1].running)
        with pytest.raises(QueueFullError):
            executor.submit(never)
        functions = [executor.submit(int) for _ in range(2)]
        assert coroutines[0].cancel()
        coroutines.append(executor.submit(never))
        with pytest.raises(QueueFullError):
            executor.submit(int)
        futures: list[FutureProxy[Any]] = [*coroutines, *functions]
        for future in futures:
            future.cancel()


def test_cancelling_makes_room_at_once(app: Flask) -> None:
    with held(app) as busy:
        for _ in range(20):
            futures = [busy.executor.submit(int) for _ in range(2)]
            assert all(future.cancel() for future in futures)


@pytest.mark.usefixtures("frequent_switches")
def test_bound_is_never_passed_however_many_threads_submit(app: Flask) -> None:
    with held(app, max_pending=50) as busy:
        refused: list[QueueFullError] = []
        start = threading.Barrier(8)

        def submit() -> None:
            start.wait(TIMEOUT)
            for _ in range(25):
                try:
                    busy.executor.submit(int)
                except QueueFullError as error:
                    refused.append(error)

        threads = [threading.Thread(target=submit) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert len(refused) == 8 * 25 - 50
        assert busy.executor.stats().pending == 50


def test_refused_call_leaves_its_key_free_and_whoever_joined_it_is_cancelled(app: Flask) -> None:
    with held(app) as busy:
        executor = busy.executor
        for _ in range(2):
            executor.submit(int)
        with pytest.raises(QueueFullError):
            executor.submit_stored("report", int)
        assert executor.futures.get("report") is None


def test_joining_a_call_needs_no_room(app: Flask) -> None:
    with held(app) as busy:
        first = busy.executor.submit_stored("report", int)
        busy.executor.submit(int)
        joined = busy.executor.using(key="report", on_duplicate="join").submit(int)
        assert joined is first


def test_bound_counts_calls_in_worker_processes() -> None:
    app = Flask("counting")
    app.config.from_mapping(EXECUTOR_TYPE="process", EXECUTOR_MAX_WORKERS=1, EXECUTOR_MAX_PENDING=2)
    with Executor(app) as executor:
        running = executor.submit(time.sleep, 60)
        pending: list[FutureProxy[Any]] = [
            executor.submit(int),
            executor.submit(asyncio.sleep, 0),
        ]
        with pytest.raises(QueueFullError):
            executor.submit(int)
        until(running.running)
        assert running.cancel(kill=True)
        assert [future.result(60) for future in pending] == [0, None]
        executor.submit(int).result(60)


# -- waiting for room ------------------------------------------------------------------------------


def test_submit_waits_for_room_as_long_as_it_may(app: Flask) -> None:
    with held(app) as busy:
        executor = busy.executor.using(block=0.05)
        accepted = [executor.submit(int) for _ in range(2)]
        begun = time.monotonic()
        with pytest.raises(QueueFullError):
            executor.submit(int)
        assert time.monotonic() - begun >= 0.05
        assert [future.cancel() for future in accepted] == [True, True]


@pytest.mark.parametrize("seconds", [TIMEOUT, float("inf")])
def test_who_waits_for_room_gets_it_when_a_call_is_done(app: Flask, seconds: float) -> None:
    with held(app) as busy:
        executor = busy.executor
        for _ in range(2):
            executor.submit(int)
        results: list[int] = []

        def submit() -> None:
            results.append(executor.using(block=seconds).submit(int, "7").result(TIMEOUT))

        threads = [threading.Thread(target=submit) for _ in range(5)]
        for thread in threads:
            thread.start()
        until(lambda: executor._states[app].capacity._waiting == 5)
        busy.release.set()
        for thread in threads:
            thread.join(TIMEOUT)
        assert results == [7] * 5


def test_who_waits_for_room_gets_that_of_a_cancelled_call(app: Flask) -> None:
    with held(app) as busy:
        executor = busy.executor
        pending = [executor.submit(int) for _ in range(2)]
        futures: list[FutureProxy[int]] = []
        thread = threading.Thread(
            target=lambda: futures.append(executor.using(block=TIMEOUT).submit(int))
        )
        thread.start()
        until(lambda: executor._states[app].capacity._waiting == 1)
        assert pending[0].cancel()
        thread.join(TIMEOUT / 2)
        assert [future.status for future in futures] == ["pending"]


def test_room_that_is_only_looked_for_goes_to_the_next_who_waits() -> None:
    load = Capacity("executor", "EXECUTOR_MAX_PENDING", 1)
    first: FutureProxy[None] = FutureProxy()
    load.admit(first, None)
    threads: list[threading.Thread] = []

    def waiting(number: int) -> bool:
        return load._waiting == number

    for number, now in enumerate([False, True], 1):
        future: FutureProxy[None] = FutureProxy()
        threads.append(
            threading.Thread(target=load.admit, args=(future, TIMEOUT), kwargs={"now": now})
        )
        threads[-1].start()
        until(partial(waiting, number))
    load.remove(first)
    for thread in threads:
        thread.join(TIMEOUT / 2)
    assert [thread.is_alive() for thread in threads] == [False, False]


def test_waiting_for_room_is_refused_where_an_event_loop_runs(app: Flask) -> None:
    with held(app) as busy:
        for _ in range(2):
            busy.executor.submit(int)

        async def submit() -> None:
            busy.executor.using(block=TIMEOUT).submit(int)

        with pytest.raises(DeadlockError) as raised:
            asyncio.run(submit())
        assert str(raised.value).endswith(
            "waits for room for int, which would stop the event loop here; use 'await "
            "asyncio.to_thread(executor.using(block=...).submit, ...)'"
        )


def test_coroutine_waits_for_room_in_a_thread(app: Flask) -> None:
    with held(app) as busy:
        executor = busy.executor
        for _ in range(2):
            executor.submit(int)

        async def submit() -> int:
            waiting = asyncio.create_task(
                asyncio.to_thread(executor.using(block=TIMEOUT).submit, int, "7")
            )
            while not executor._states[app].capacity._waiting:
                await asyncio.sleep(0.001)
            busy.release.set()
            return await (await waiting)

        assert asyncio.run(submit()) == 7


@pytest.mark.parametrize(("block", "error"), [(-1, ValueError), ("1", TypeError)])
def test_block_is_seconds(executor: Executor, block: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"block=.*: expected seconds, 0 or more"):
        executor.using(block=block)


def test_executor_that_is_shut_down_while_full_is_closed_and_not_full(app: Flask) -> None:
    with held(app) as busy:
        pending = [busy.executor.submit(int) for _ in range(2)]
        with pytest.raises(QueueFullError):
            busy.executor.submit(int)
        busy.executor.shutdown(wait=False)
        with pytest.raises(ExecutorClosedError):
            busy.executor.submit(int)
        busy.executor.init_app(app)
        assert busy.executor.submit(int).result(TIMEOUT) == 0
    assert [future.result(TIMEOUT) for future in pending] == [0, 0]


@pytest.mark.parametrize("cancel_futures", [False, True])
def test_shutdown_ends_the_wait_for_room(app: Flask, cancel_futures: bool) -> None:
    with held(app) as busy:
        executor = busy.executor
        for _ in range(2):
            executor.submit(int)
        errors: list[Exception] = []

        def submit() -> None:
            try:
                executor.using(block=TIMEOUT).submit(int)
            except ExecutorClosedError as error:
                errors.append(error)

        thread = threading.Thread(target=submit)
        thread.start()
        until(lambda: executor._states[app].capacity._waiting == 1)
        executor.shutdown(wait=False, cancel_futures=cancel_futures)
        thread.join(TIMEOUT / 2)
        assert len(errors) == 1
        assert executor.stats().cancelled == 2 * cancel_futures


# -- other ways to submit --------------------------------------------------------------------------


def test_map_that_finds_no_room_cancels_what_it_has_submitted(app: Flask) -> None:
    with held(app, max_pending=5) as busy:
        with pytest.raises(QueueFullError):
            busy.executor.map(int, range(6))
        stats = busy.executor.stats()
        assert (stats.pending, stats.cancelled) == (0, 5)


def test_map_with_a_smaller_buffersize_never_meets_the_bound(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    app.config["EXECUTOR_MAX_PENDING"] = 3
    with Executor(app) as executor:
        assert list(executor.map(abs, range(-50, 0), buffersize=3)) == [*range(50, 0, -1)]


def test_map_waits_for_room_if_it_is_told_to(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    app.config["EXECUTOR_MAX_PENDING"] = 3
    with Executor(app) as executor:
        results = executor.using(block=TIMEOUT).map(abs, range(-50, 0))
        assert list(results) == [*range(50, 0, -1)]


def test_call_after_the_response_needs_room_when_it_is_made_and_then_runs_in_any_case(
    app: Flask,
) -> None:
    with held(app) as busy:
        executor = busy.executor
        futures: list[FutureProxy[int]] = []

        @app.route("/")
        def view() -> str:
            futures.append(executor.after_response().submit(int))
            futures.extend(executor.submit(int) for _ in range(2))
            with pytest.raises(QueueFullError):
                executor.after_response().submit(int)
            return ""

        app.test_client().get("/")
        busy.release.set()
        assert [future.result(TIMEOUT) for future in futures] == [0] * 3


@pytest.mark.parametrize("handled", [True, False])
def test_view_that_finds_no_room_answers_503_with_retry_after(app: Flask, handled: bool) -> None:
    def busy_answer(error: QueueFullError) -> Response:
        return Response("busy", 503, {"Retry-After": "5"})

    if handled:
        app.register_error_handler(QueueFullError, busy_answer)
    with held(app) as busy:

        @app.post("/")
        def view() -> tuple[str, int]:
            busy.executor.submit(int)
            return "", 202

        client = app.test_client()
        answers = [client.post("/") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 503]
        assert answers[2].headers["Retry-After"] == ("5" if handled else "2")
        text = answers[2].get_data(as_text=True)
        assert text == "busy" if handled else "too much to do" in text
        assert "EXECUTOR" not in text
        busy.release.set()
        until(lambda: busy.executor.stats().pending == 0)
        assert client.post("/").status_code == 202


def test_bound_can_be_changed_for_later_calls(app: Flask) -> None:
    with held(app) as busy:
        executor = busy.executor
        pending = [executor.submit(int) for _ in range(2)]
        app.config["EXECUTOR_MAX_PENDING"] = 10
        executor.init_app(app)
        assert executor.submit(int).result(TIMEOUT) == 0
        assert executor.stats().succeeded == 1  # by the new workers
        assert not any(future.done() for future in pending)
        busy.release.set()
        assert [future.result(TIMEOUT) for future in pending] == [0, 0]


def test_bound_that_is_set_after_init_app_holds(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    executor = Executor(app)
    app.config["EXECUTOR_MAX_PENDING"] = 1
    with executor:
        future = executor.submit(never)
        with pytest.raises(QueueFullError):
            executor.submit(never)
        future.cancel()
    assert "max_pending: None -> 1" in caplog.text


@has_fork
def test_child_of_a_fork_counts_its_own_calls() -> None:
    ended = run_script(
        """
        release = threading.Event()
        waiting = [executor.submit(release.wait) for _ in range(6)]
        executor.submit(double_async, 1).result()
        child = os.fork()
        if not child:
            before = executor.stats()
            executor.submit(double, 1).result()
            after = executor.stats()
            print(before.pending + before.running + before.succeeded, after.succeeded, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        release.set()
        executor.shutdown()
        print(executor.stats().succeeded)
        """,
        "-W",
        "ignore::DeprecationWarning",  # of a fork with threads
    )
    assert ended == Ended(0, "0 1\n7\n", "")


def test_job_that_submits_too_much_hears_of_it_and_its_worker_lives_on(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    app.config["EXECUTOR_MAX_PENDING"] = 2
    with Executor(app) as executor:

        def submit_many() -> int:
            count = 0
            with contextlib.suppress(QueueFullError):
                for count in range(100):  # noqa: B007
                    executor.submit(int)
            return count

        assert executor.submit(submit_many).result(TIMEOUT) == 2
        until(lambda: executor.stats().succeeded == 3)


def test_cancelled_waiter_of_a_refused_key_hears_of_it(app: Flask) -> None:
    with held(app) as busy:
        executor = busy.executor
        for _ in range(2):
            executor.submit(int)
        refused: list[QueueFullError] = []

        def submit() -> None:
            try:
                executor.using(block=1).submit_stored("report", int)
            except QueueFullError as error:
                refused.append(error)

        thread = threading.Thread(target=submit)
        thread.start()
        while (joined := executor.futures.get("report")) is None:
            assert thread.is_alive()
        with pytest.raises(CancelledError):
            joined.result(TIMEOUT)
        thread.join(TIMEOUT)
        assert len(refused) == 1
        assert executor.stats().cancelled == 0
