"""``current_job``, ``cancel()``, time limits, retries and progress."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from flask import Flask, current_app, g

from flask_executor_typed import (
    ConfigError,
    Executor,
    FutureProxy,
    JobTimeoutError,
    NoJobError,
    Progress,
    current_job,
    track,
)

from .conftest import TIMEOUT

# current_job


def seen() -> dict[str, Any]:
    return {
        name: getattr(current_job, name)
        for name in ("id", "key", "name", "attempt", "executor", "cancel_requested")
    }


async def seen_async() -> dict[str, Any]:
    await asyncio.sleep(0)
    return seen()


@pytest.mark.parametrize("fn", [seen, seen_async, partial(seen_async)])
def test_job_knows_itself(executor: Executor, fn: Callable[[], Any]) -> None:
    future = executor.using(key="k", name="report").submit(fn)
    assert future.result(TIMEOUT) == {
        "id": future.id,
        "key": "k",
        "name": "report",
        "attempt": 1,
        "executor": executor,
        "cancel_requested": False,
    }


def test_executor_of_a_job_has_no_options_of_its_call(executor: Executor) -> None:
    def submit_another() -> FutureProxy[str]:
        return current_job.executor.submit(lambda: str(current_job.key))

    assert executor.using(key="k", name="n").using(name="m").submit(submit_another).result(
        TIMEOUT
    ) == ("None")


def test_thread_that_a_job_uses_knows_the_job(executor: Executor) -> None:
    async def job() -> tuple[str, str, str]:
        in_thread = await sync_to_async(lambda: current_job.id, thread_sensitive=False)()
        return current_job.id, in_thread, await asyncio.to_thread(lambda: current_job.id)

    future = executor.submit(job)
    assert set(future.result(TIMEOUT)) == {future.id}


def test_outside_of_a_job_there_is_none() -> None:
    assert not current_job
    assert repr(current_job) == "<current_job: none>"
    for name in ("id", "key", "name", "attempt", "executor", "cancel_requested"):
        with pytest.raises(NoJobError):
            getattr(current_job, name)
    with pytest.raises(NoJobError) as caught:
        current_job.progress(1)
    assert str(caught.value) == (
        "there is no current job here; current_job works in functions that an executor runs"
    )


def test_job_that_is_over_is_not_current_any_more(executor: Executor) -> None:
    over = threading.Event()
    tasks: list[asyncio.Task[bool]] = []

    async def job() -> None:
        async def later() -> bool:
            assert await asyncio.to_thread(over.wait, TIMEOUT)
            return bool(current_job)

        assert current_job
        tasks.append(asyncio.create_task(later()))

    async def left_behind() -> bool:
        return await tasks[0]

    executor.submit(job).result(TIMEOUT)
    over.set()
    assert executor.submit(left_behind).result(TIMEOUT) is False


def test_callback_does_not_run_as_the_job_that_registered_it(executor: Executor) -> None:
    seen: list[bool] = []

    def job() -> bool:
        called = threading.Event()
        future = executor.submit(int)
        future.add_done_callback(lambda _: seen.append(bool(current_job)))
        future.add_done_callback(lambda _: called.set())
        return called.wait(TIMEOUT) and bool(current_job)

    assert executor.submit(job).result(TIMEOUT)
    assert seen == [False]


def test_job_is_shown_with_its_name_and_id(executor: Executor) -> None:
    future = executor.submit(lambda: (bool(current_job), repr(current_job)))
    assert future.result(TIMEOUT) == (True, f"<current_job {future.name} [{future.id}]>")


# cancel()


def test_plain_job_sees_that_it_is_to_end_and_ends(executor: Executor, app: Flask) -> None:
    started, asked, torn_down = threading.Event(), threading.Event(), list[BaseException | None]()
    app.teardown_appcontext(torn_down.append)

    def job() -> None:
        started.set()
        assert asked.wait(TIMEOUT)
        assert current_job.cancel_requested
        try:
            current_job.raise_if_cancelled()
        except Exception:
            raise AssertionError from None  # except Exception: does not stop it
        raise AssertionError

    future = executor.submit(job)
    assert started.wait(TIMEOUT)
    assert not future.cancel()
    assert future.status == "running"
    asked.set()
    with pytest.raises(CancelledError):
        future.result(TIMEOUT)
    assert future.cancelled()
    executor.shutdown()
    assert [type(each) for each in torn_down] == [asyncio.CancelledError]


def test_plain_job_that_ends_itself_without_being_asked_fails(executor: Executor) -> None:
    def job() -> None:
        current_job.raise_if_cancelled()
        raise asyncio.CancelledError

    future = executor.submit(job)
    assert isinstance(future.exception(TIMEOUT), asyncio.CancelledError)
    assert not future.cancelled()


def test_cancelled_plain_job_may_go_on_and_succeed(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    started, asked = threading.Event(), threading.Event()

    def job() -> str:
        started.set()
        assert asked.wait(TIMEOUT)
        return "done"

    future = executor.submit(job)
    assert started.wait(TIMEOUT)
    assert not future.cancel()
    asked.set()
    assert future.result(TIMEOUT) == "done"
    assert not caplog.records


class Steps:
    """A coroutine with many awaits, which notes where it was and what its cleanup saw."""

    def __init__(self, stop_at: int) -> None:
        self.stop_at = stop_at
        self.reached = threading.Event()
        self.cleaned_up = threading.Event()
        self.log: list[Any] = []

    async def at(self, number: int) -> None:
        self.log.append(number)
        if number == self.stop_at:
            self.reached.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    @property
    async def lines(self) -> AsyncIterator[int]:
        try:
            await self.at(3)
            yield 1
            await self.at(4)
            yield 2
        finally:
            await asyncio.sleep(0)
            self.log.append(("generator", g.name))

    async def __aenter__(self) -> None:
        await self.at(1)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)
        self.log.append(("context", current_app.name, current_job.name))
        self.cleaned_up.set()

    async def inner(self) -> None:
        await asyncio.shield(asyncio.gather(self.at(7), asyncio.sleep(0)))

    async def job(self) -> None:
        g.name = "of the job"
        try:
            async with self:
                await self.at(2)
                lines = self.lines
                try:
                    async for _ in lines:
                        await self.at(5)
                finally:
                    await lines.aclose()  # type: ignore[attr-defined] # an async generator has it
                async with asyncio.Lock():
                    await self.at(6)
                await self.inner()
                await asyncio.wait_for(self.at(8), TIMEOUT)
        finally:
            await self.at(9)
            self.log.append(("finally", g.name))


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4, 5, 6, 7, 8])
def test_coroutine_job_is_cancelled_at_every_await_and_cleans_up_in_its_contexts(
    app: Flask, stop_at: int
) -> None:
    torn_down: list[BaseException | None] = []
    app.teardown_appcontext(torn_down.append)
    with Executor(app) as executor:
        steps = Steps(stop_at)
        future = executor.using(name="steps").submit(steps.job)
        assert steps.reached.wait(TIMEOUT)
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(CancelledError):
            future.result()
    assert steps.log[-1] == ("finally", "of the job")
    assert (("context", "tests", "steps") in steps.log) is (stop_at > 1)
    assert (("generator", "of the job") in steps.log) is (stop_at >= 3)
    assert [type(each) for each in torn_down] == [asyncio.CancelledError]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def test_ten_thousand_cancelled_jobs_leave_nothing_behind(executor: Executor) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    executor.using(timeout=60.0).submit(forever).cancel()
    executor.submit(tasks).result(TIMEOUT)
    gc.collect()
    threads, files = threading.active_count(), open_files()
    futures = [executor.using(timeout=60.0).submit(forever) for _ in range(10_000)]
    assert all(future.cancel() for future in futures)
    # The loop answers in order: what was cancelled before has ended, or does so in this turn.
    for _ in range(100):
        if executor.submit(tasks).result(TIMEOUT) == 1:
            break
    assert executor.submit(tasks).result(TIMEOUT) == 1
    assert threading.active_count() <= threads, "some of other tests may be ending"
    assert open_files() <= files


# Time limits


@pytest.mark.parametrize("by", ["using", "job", "config", "environment"])
def test_coroutine_job_is_cancelled_when_its_time_is_up(
    app: Flask, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            assert current_app.name == "tests"
            ended.set()

    if by in {"config", "environment"}:
        app.config["EXECUTOR_JOB_TIMEOUT"] = 0.05 if by == "config" else "0.05"
    with Executor(app) as executor:
        if by == "job":
            future = executor.job(name="slow", timeout=0.05)(job).submit()
        else:
            named = executor.using(name="slow")
            future = (named.using(timeout=0.05) if by == "using" else named).submit(job)
        with pytest.raises(TimeoutError) as caught:
            future.result(TIMEOUT)
        assert ended.wait(TIMEOUT)
    assert isinstance(caught.value, JobTimeoutError)
    assert str(caught.value) == "slow took longer than its time limit of 0.05 s"
    assert (future.status, current_names(caplog)) == ("failed", ["JobTimeoutError"])


def current_names(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of the exceptions that were logged."""
    return [record.exc_info[0].__name__ for record in caplog.records if record.exc_info]  # type: ignore[union-attr]  # never (None, ...)


def test_plain_job_is_asked_to_stop_when_its_time_is_up(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    failed, ended = threading.Event(), threading.Event()

    def job() -> None:
        assert failed.wait(TIMEOUT)
        try:
            current_job.raise_if_cancelled()
        finally:
            ended.set()

    future = executor.using(timeout=0.05).submit(job)
    assert isinstance(future.exception(TIMEOUT), JobTimeoutError)
    assert future.done()
    assert not ended.is_set(), "it fails at the deadline, not when the function gives up"
    failed.set()
    assert ended.wait(TIMEOUT)
    executor.shutdown()
    assert current_names(caplog) == ["JobTimeoutError"]


@pytest.mark.parametrize("fn", [int, lambda: asyncio.sleep(0, 0)])
def test_time_limit_of_a_job_that_is_quick_is_lifted(
    executor: Executor, fn: Callable[[], Any]
) -> None:
    futures = [executor.using(timeout=3600).submit(fn) for _ in range(50)]
    assert [future.result(TIMEOUT) for future in futures] == [0] * 50
    # A timer that is still to go off would refer to its future.
    freed = [threading.Event() for _ in futures]
    while futures:
        weakref.finalize(futures.pop(), freed[len(futures)].set)
    executor.submit(int).result(TIMEOUT)
    executor.submit(asyncio.sleep, 0).result(TIMEOUT)
    gc.collect()
    assert all(event.wait(TIMEOUT) for event in freed)  # a worker may be about to forget its last


def test_time_limit_counts_from_the_start(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    app.config["EXECUTOR_JOB_TIMEOUT"] = 0.5  # enough for int(), on a busy machine
    with Executor(app) as executor:
        busy = threading.Event()
        first = executor.using(timeout=math.inf).submit(busy.wait, TIMEOUT)
        second = executor.submit(int)
        executor.using(timeout=math.inf).submit(asyncio.sleep, 0.6).result(TIMEOUT)
        busy.set()
        assert (first.result(TIMEOUT), second.result(TIMEOUT)) == (True, 0)


@pytest.mark.parametrize("value", [0, -1, "soon", True, float("nan"), "nan"])
def test_time_limit_that_makes_no_sense_is_refused_at_init_app(app: Flask, value: object) -> None:
    app.config["EXECUTOR_JOB_TIMEOUT"] = value
    with pytest.raises(ConfigError, match="expected seconds, more than 0, or None for no limit"):
        Executor(app)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"timeout": 0}, ValueError, "timeout=0: expected seconds, more than 0"),
        ({"timeout": "1"}, TypeError, "timeout='1': expected seconds, more than 0"),
        ({"retries": -1}, ValueError, "retries=-1: expected a whole number, 0 or more"),
        ({"retries": 1.5}, ValueError, "retries=1.5: expected a whole number, 0 or more"),
        ({"retries": True}, TypeError, "retries=True: expected a whole number, 0 or more"),
        (
            {"backoff": -1},
            ValueError,
            "backoff=-1: expected seconds, 0 or more, or a function that returns them",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(
    executor: Executor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        executor.using(**options)
    assert str(caught.value) == message
    with pytest.raises(error):
        executor.job(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"queue": ""}, ValueError, "queue='': expected the name of a queue, which is not empty"),
        ({"queue": b"q"}, TypeError, "queue=b'q': expected the name of a queue"),
        ({"priority": 10}, ValueError, "priority=10: expected a whole number from 0 to 9"),
        ({"priority": -1}, ValueError, "priority=-1: expected a whole number from 0 to 9"),
        ({"priority": 1.0}, TypeError, "priority=1.0: expected a whole number from 0 to 9"),
        ({"priority": True}, TypeError, "priority=True: expected a whole number from 0 to 9"),
        ({"delay": -1}, ValueError, "delay=-1: expected seconds, 0 or more, and finite"),
        ({"delay": math.inf}, ValueError, "delay=inf: expected seconds, 0 or more, and finite"),
        ({"delay": "1"}, TypeError, "delay='1': expected seconds, 0 or more, and finite"),
        ({"expires": math.nan}, ValueError, "expires=nan: expected seconds, 0 or more, and finite"),
        (
            {"delay": 2, "expires": 1},
            ValueError,
            "expires=1 with delay=2: the call would expire before it may begin",
        ),
    ],
)
def test_options_for_engines_that_make_no_sense_are_refused(
    executor: Executor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        executor.using(**options)
    assert str(caught.value) == message
    with pytest.raises(error):
        executor.job(seen).using(**options)


# Retries


def flaky(fails: int) -> Callable[[], int]:
    def job() -> int:
        g.attempts = g.get("attempts", 0) + 1
        assert g.attempts == 1, "each attempt has contexts of its own"
        if current_job.attempt <= fails:
            raise OSError(current_job.attempt)
        return current_job.attempt

    return job


def flaky_async(fails: int) -> Callable[[], Any]:
    plain = flaky(fails)

    async def job() -> int:
        await asyncio.sleep(0)
        return plain()

    return job


@pytest.mark.parametrize("kind", [flaky, flaky_async])
def test_job_that_fails_is_tried_again(
    executor: Executor, kind: Callable[[int], Callable[[], int]], caplog: pytest.LogCaptureFixture
) -> None:
    three_times = executor.using(retries=2, name="flaky")
    assert three_times.submit(kind(2)).result(TIMEOUT) == 3
    assert [record.getMessage().partition(" [")[0] for record in caplog.records] == [
        "Attempt 1 of 3 of background job flaky",
        "Attempt 2 of 3 of background job flaky",
    ]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    caplog.clear()
    error = three_times.submit(kind(3)).exception(TIMEOUT)
    assert (type(error), str(error)) == (OSError, "3")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2 + [logging.ERROR]


@pytest.mark.parametrize("kind", [flaky, flaky_async])
def test_backoff_doubles_or_is_what_a_function_says(
    executor: Executor, kind: Callable[[int], Callable[[], int]]
) -> None:
    asked: list[int] = []

    def backoff(attempt: int) -> float:
        asked.append(attempt)
        return 0.001

    executor.using(retries=3, backoff=backoff).submit(kind(3)).result(TIMEOUT)
    assert asked == [1, 2, 3]
    future = executor.using(retries=2, backoff=0.01).submit(kind(2))
    future.result(TIMEOUT)
    assert future.started_at
    assert future.finished_at
    assert (future.finished_at - future.started_at).total_seconds() >= 0.03


def test_backoff_that_fails_ends_the_attempts(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    def backoff(attempt: int) -> float:
        raise LookupError(attempt)

    future = executor.using(retries=3, backoff=backoff).submit(flaky(1))
    assert isinstance(future.exception(TIMEOUT), OSError)
    assert "LookupError" in current_names(caplog)


@pytest.mark.parametrize("kind", [flaky, flaky_async])
@pytest.mark.parametrize("pause", ["1", None, float("nan"), -1, SystemExit()])
def test_backoff_that_gives_no_seconds_ends_the_attempts(
    executor: Executor, kind: Callable[[int], Callable[[], int]], pause: Any
) -> None:
    def backoff(attempt: int) -> Any:
        if isinstance(pause, SystemExit):
            raise pause
        return pause

    future = executor.using(retries=3, backoff=backoff).submit(kind(1))
    assert isinstance(future.exception(TIMEOUT), OSError)
    assert executor.submit(int).result(TIMEOUT) == 0


@pytest.mark.parametrize("kind", [flaky, flaky_async])
def test_job_that_waits_for_its_next_attempt_can_be_cancelled(
    executor: Executor, kind: Callable[[int], Callable[[], int]]
) -> None:
    failed = threading.Event()

    def backoff(attempt: int) -> float:
        failed.set()
        return 3600

    future = executor.using(retries=1, backoff=backoff).submit(kind(1))
    assert failed.wait(TIMEOUT)
    while not future.cancel():  # it is about to wait
        pass
    assert future.cancelled()
    executor.shutdown()


def test_cancelled_or_late_job_is_not_tried_again(executor: Executor) -> None:
    attempts: list[int] = []
    started, asked = threading.Event(), threading.Event()

    def job() -> None:
        attempts.append(current_job.attempt)
        started.set()
        assert asked.wait(TIMEOUT)
        raise OSError

    future = executor.using(retries=5).submit(job)
    assert started.wait(TIMEOUT)
    assert not future.cancel()
    asked.set()
    assert isinstance(future.exception(TIMEOUT), OSError)
    assert attempts == [1]
    asked.clear()
    late = executor.using(retries=5, timeout=0.05).submit(job)
    assert isinstance(late.exception(TIMEOUT), JobTimeoutError)
    asked.set()
    executor.shutdown()
    assert attempts == [1, 1]


def test_system_exit_is_not_tried_again(executor: Executor) -> None:
    attempts: list[int] = []

    def job() -> None:
        attempts.append(current_job.attempt)
        raise SystemExit

    assert isinstance(executor.using(retries=5).submit(job).exception(TIMEOUT), SystemExit)
    assert attempts == [1]


# Progress


def test_progress_is_what_the_job_said_last(executor: Executor) -> None:
    def job() -> None:
        current_job.progress(1, 4, "first")
        current_job.progress(2, 4)

    future = executor.submit(job)
    future.result(TIMEOUT)
    assert future.progress == Progress(2, 4, "")
    assert (Progress(2, 4).fraction, Progress(1).fraction) == (0.5, None)
    assert executor.submit(int).progress is None


@pytest.mark.parametrize(
    ("given", "plain"),
    [(2, 2), (True, 1.0), (Decimal("0.5"), 0.5), (Fraction(1, 4), 0.25), (-(10**400), -math.inf)],
)
def test_progress_is_in_plain_numbers(executor: Executor, given: Any, plain: float) -> None:
    future = executor.submit(lambda: current_job.progress(given, 10**400))
    future.result(TIMEOUT)
    progress = future.progress
    assert progress == Progress(plain, math.inf, "")
    assert progress is not None
    assert type(progress.done) is type(plain)


def test_progress_that_is_no_number_is_an_error_where_it_is_reported(executor: Executor) -> None:
    def job(*progress: Any) -> None:
        with pytest.raises(TypeError) as raised:
            current_job.progress(*progress)
        errors.append(str(raised.value))

    errors: list[str] = []
    executor.submit(job, "12", 20).result(TIMEOUT)
    executor.submit(job, 12, [20]).result(TIMEOUT)
    assert errors == [
        "progress() got done='12': expected a number",
        "progress() got total=[20]: expected a number",
    ]


def test_track_counts_what_it_gives(executor: Executor) -> None:
    def job() -> list[Progress | None]:
        mine = future_of_this_job()
        return [mine.progress for _ in track("abc", message="letters")]

    def unsized() -> None:
        for _ in track(iter("ab")):
            pass

    given = threading.Event()
    futures: list[FutureProxy[Any]] = []

    def future_of_this_job() -> FutureProxy[Any]:
        assert given.wait(TIMEOUT)
        return futures[0]

    futures.append(executor.submit(job))
    given.set()
    assert futures[0].result(TIMEOUT)[0] == Progress(0, 3, "letters")
    assert futures[0].progress == Progress(3, 3, "letters")
    future = executor.submit(unsized)
    future.result(TIMEOUT)
    assert future.progress == Progress(2, None, "")


async def letters() -> AsyncIterator[str]:
    for letter in "abc":
        await asyncio.sleep(0)
        yield letter


def test_track_follows_async_iterables(executor: Executor) -> None:
    async def job() -> str:
        return "".join([letter async for letter in track(letters(), total=3)])

    future = executor.submit(job)
    assert future.result(TIMEOUT) == "abc"
    assert future.progress == Progress(3, 3, "")


def test_track_is_silent_outside_of_a_job() -> None:
    async def collect() -> list[str]:
        return [letter async for letter in track(letters())]

    assert list(track("abc")) == ["a", "b", "c"]
    assert asyncio.run(collect()) == ["a", "b", "c"]


def test_track_goes_on_when_its_job_is_over(executor: Executor) -> None:
    rows = executor.submit(lambda: iter(track("abc")))
    first = executor.submit(lambda: next(rows.result(TIMEOUT))).result(TIMEOUT)
    assert [first, *rows.result()] == ["a", "b", "c"]


def test_track_reports_a_million_rows_few_times(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Progress] = []

    def report(future: FutureProxy[Any], progress: Progress) -> None:
        reports.append(progress)

    monkeypatch.setattr(FutureProxy, "_report", report)
    executor.submit(lambda: sum(1 for _ in track(range(1_000_000)))).result(TIMEOUT)
    assert reports[0] == Progress(0, 1_000_000, "")
    assert reports[-1] == Progress(1_000_000, 1_000_000, "")
    assert len(reports) < 1000


def test_watch_gives_each_step_and_ends_with_the_job(executor: Executor) -> None:
    go_on = threading.Semaphore(0)

    def job() -> str:
        for step in range(3):
            assert go_on.acquire(timeout=TIMEOUT)
            current_job.progress(step, 3)
        return "done"

    async def watch() -> list[float]:
        future = executor.submit(job)
        go_on.release()
        steps: list[float] = []
        async for progress in future.watch():
            steps.append(progress.done)
            go_on.release()
        assert future.done()
        return steps

    assert asyncio.run(watch()) == [0, 1, 2]


@pytest.mark.parametrize("outcome", ["fails", "is cancelled", "is done"])
def test_watch_ends_however_the_job_does(executor: Executor, outcome: str) -> None:
    async def watch() -> list[Progress]:
        reported, end = threading.Event(), threading.Event()

        def job() -> None:
            current_job.progress(1)
            reported.set()
            assert end.wait(TIMEOUT)
            current_job.progress(2)
            if outcome == "fails":
                raise OSError
            current_job.raise_if_cancelled()

        future = executor.submit(job)
        await asyncio.to_thread(reported.wait, TIMEOUT)
        if outcome == "is cancelled":
            future.cancel()
        if outcome == "is done":
            end.set()
            await future
        seen: list[Progress] = []
        async for progress in future.watch():
            end.set()
            seen.append(progress)
        assert not future._progress_watchers
        return seen

    last = [Progress(2)]
    assert asyncio.run(watch()) == (last if outcome == "is done" else [Progress(1), *last])


def test_watcher_that_gives_up_is_forgotten(executor: Executor) -> None:
    end = threading.Event()

    async def watch(future: FutureProxy[Any]) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(future.watch()), 0.01)

    future = executor.submit(end.wait, TIMEOUT)
    watchers = len(future._watchers)
    asyncio.run(watch(future))
    assert not future._progress_watchers
    assert len(future._watchers) <= watchers
    end.set()
    assert future.result(TIMEOUT)


def test_many_watchers_of_a_busy_job_each_get_the_last_step(executor: Executor) -> None:
    def job() -> None:
        for step in range(20_000):
            current_job.progress(step)

    async def last(future: FutureProxy[Any]) -> float:
        done = -1.0
        async for progress in future.watch():
            assert progress.done > done
            done = progress.done
        return done

    async def watch() -> list[float]:
        future = executor.submit(job)
        return await asyncio.gather(*(last(future) for _ in range(20)))

    for _ in range(5):
        assert asyncio.run(watch()) == [19_999] * 20


# The end


@pytest.mark.parametrize("clone", [False, True])
def test_shutdown_in_a_thread_of_a_job_does_not_wait_for_the_job(app: Flask, clone: bool) -> None:
    executor = Executor(app)

    async def job() -> str:
        await asyncio.to_thread((executor.using(name="n") if clone else executor).shutdown)
        return "done"

    assert executor.submit(job).result(TIMEOUT) == "done"
    executor.shutdown()
