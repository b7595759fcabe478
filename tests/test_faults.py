"""Whatever a job does, it alone fails: the workers live on, and the next jobs are done.

Of the promises of reliability, with their figures, these tests hold the eleventh and twelfth in
every kind of worker. The others are held elsewhere:

- conformance (1, 2): conformance/, test_futures.py
- isolation (3 to 6): test_context*.py, integration/test_gunicorn.py, test_uploads.py
- nothing is lost (7 to 9): stress/test_races.py, stress/test_overload.py, test_stateful.py
- no deadlock (10): test_deadlocks.py, test_calls.py
- coroutines (13 to 16): test_loops.py, test_resources.py, test_watchdog.py
- exit, fork and shutdown (17 to 21): test_threads.py, test_executor.py, integration/
- leaks (22, 23): test_leaks.py
- processes (24): test_process.py, test_workers.py
- errors and settings (25 to 27): test_config.py, test_executor.py, test_context.py
"""

from __future__ import annotations

import concurrent.futures
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from flask import Flask

from flask_executor_typed import (
    Executor,
    FutureProxy,
    UnpicklableError,
    job_failed,
    job_started,
    job_submitted,
    job_succeeded,
)

from .apps import faulty
from .conftest import TIMEOUT, until

SECONDS = 5.0
"""A job that fails has an outcome by then: a limit for hangs."""

AFTER = 20
"""Jobs that are done after each fault."""


class Place(NamedTuple):
    """Where jobs run, with one worker."""

    app: Flask
    is_elsewhere: bool
    """In another process."""
    executor: Executor
    call: Callable[[str], Any]
    fail_in_teardown: Callable[[str], Any]
    where: Callable[[], Any]
    worker: object
    """What ``where`` returns, as long as it is the same worker."""

    def submit(self, name: str) -> FutureProxy[Any]:
        return self.executor.submit(self.call, name)

    def check(self) -> None:
        """Have jobs done, by the worker that has always been there."""
        futures = [self.executor.submit(self.where) for _ in range(AFTER)]
        assert [future.result(TIMEOUT) for future in futures] == [self.worker] * AFTER


@pytest.fixture(
    scope="module",
    params=["thread", "loop", "process", "loop of a process"],
)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """One for all tests: each finds the worker as the others have left it."""
    kind: str = request.param
    settings: dict[str, Any] = {}
    if "process" in kind:
        settings = {"EXECUTOR_TYPE": "process", "EXECUTOR_APP": "tests.apps.faulty:create_app"}
    app = faulty.create_app(**settings)
    executor = faulty.executor
    with executor:
        if kind.startswith("loop"):
            where: Callable[[], Any] = faulty.where_async
            yield Place(
                app,
                bool(settings),
                executor,
                faulty.misbehave_async,
                faulty.fail_in_teardown_async,
                where,
                executor.submit(where).result(60),
            )
        else:
            where = faulty.where
            yield Place(
                app,
                bool(settings),
                executor,
                faulty.misbehave,
                faulty.fail_in_teardown,
                where,
                executor.submit(where).result(60),
            )


@pytest.mark.parametrize("name", faulty.FAULTS)
def test_job_fails_alone_and_its_worker_lives_on(place: Place, name: str) -> None:
    before = place.executor.stats()
    begun = time.monotonic()
    try:
        error = place.submit(name).exception(TIMEOUT)
    except concurrent.futures.CancelledError:
        assert name == "CancelledError"
        error = None
    else:
        assert error is not None
    assert time.monotonic() - begun < SECONDS
    after = place.executor.stats()
    assert after.failed + after.cancelled == before.failed + before.cancelled + 1
    place.check()
    del error


@pytest.mark.parametrize("name", [*faulty.MISBEHAVIOURS, *faulty.LOOP_MISBEHAVIOURS])
def test_job_that_leaves_a_mess_has_an_outcome_and_its_worker_lives_on(
    place: Place, name: str
) -> None:
    if name in faulty.LOOP_MISBEHAVIOURS and place.call is not faulty.misbehave_async:
        pytest.skip("there is no loop here")
    if name == "loop run again" and sys.version_info >= (3, 13):
        pytest.skip("asyncio of Python 3.13 then forgets that its loop runs")
    future = place.submit(name)
    concurrent.futures.wait([future], SECONDS)
    assert future.done()
    place.check()


@pytest.mark.parametrize("name", [name for name in faulty.MISBEHAVIOURS if "result" in name])
def test_result_that_cannot_be_sent_is_blamed_whatever_its_pickling_raises(
    place: Place, name: str
) -> None:
    error = place.submit(name).exception(TIMEOUT)
    assert isinstance(error, UnpicklableError) == place.is_elsewhere


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "memory"])
def test_teardown_that_raises_leaves_the_result_and_the_worker_alone(
    place: Place, name: str
) -> None:
    future = place.executor.submit(place.fail_in_teardown, name)
    assert future.result(TIMEOUT) == 42
    place.check()


@pytest.mark.parametrize("name", [name for name in faulty.FAULTS if name != "memory"])
def test_callback_that_raises_harms_neither_the_others_nor_the_worker(
    place: Place, name: str
) -> None:
    called: list[str] = []

    def broken(future: FutureProxy[Any]) -> None:
        called.append("broken")
        faulty.FAULTS[name]()

    def last(future: FutureProxy[Any]) -> None:
        called.append("last")

    future = place.executor.submit(place.where)
    future.add_done_callback(broken)
    future.add_done_callback(last)
    place.check()
    until(lambda: called == ["broken", "last"])  # a loop's thread does not run them itself


@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_receiver_of_a_signal_that_raises_harms_neither_job_nor_worker(
    place: Place, error: type[BaseException]
) -> None:
    pytest.importorskip("blinker")
    heard: list[str] = []

    def broken(sender: Flask, future: FutureProxy[Any]) -> None:
        heard.append(future.status)
        raise error("in a receiver")

    with (
        job_submitted.connected_to(broken),
        job_started.connected_to(broken),
        job_succeeded.connected_to(broken),
        job_failed.connected_to(broken),
    ):
        assert place.executor.submit(place.where).result(TIMEOUT) == place.worker
        assert place.submit("BaseException").exception(TIMEOUT) is not None
        place.check()
    assert {"running", "succeeded", "failed"} <= set(heard)


def test_jobs_that_fail_in_every_way_at_once_have_one_outcome_each(place: Place) -> None:
    before = place.executor.stats()
    futures = [place.submit(name) for _ in range(5) for name in faulty.FAULTS]
    done = [place.executor.submit(place.where) for _ in range(AFTER)]
    assert [future.result(60) for future in done] == [place.worker] * AFTER
    assert not concurrent.futures.wait(futures, 60).not_done
    after = place.executor.stats()
    ended = after.failed + after.cancelled - before.failed - before.cancelled
    assert ended == len(futures)
    assert (after.pending, after.running) == (0, 0)
