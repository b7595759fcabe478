"""Timers of time limits: none holds up another, cancelled ones are free at once, and all end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any, NoReturn

import pytest

from flask_executor_typed import Executor, JobTimeoutError
from flask_executor_typed.runtime.timers import Timers

from .conftest import TIMEOUT, until


@pytest.fixture
def timers() -> Iterator[Timers]:
    timers = Timers("tests")
    yield timers
    timers.end()
    until(lambda: timers.threads() == [])


def test_timers_come_in_the_order_of_their_times(timers: Timers) -> None:
    came: SimpleQueue[int] = SimpleQueue()
    timers.call_later(0.2, partial(came.put, 2))
    timers.call_later(0.1, partial(came.put, 1))
    timers.call_later(0, partial(came.put, 0))
    assert [came.get(timeout=TIMEOUT) for _ in range(3)] == [0, 1, 2]


def test_timer_that_blocks_holds_up_no_other_and_is_waited_for(timers: Timers) -> None:
    begun, later, over = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        assert later.wait(TIMEOUT)
        over.set()

    timers.call_later(0, block)
    assert begun.wait(TIMEOUT)
    blocking = [each for each in timers.threads() if each.name == "tests-timer"]
    timers.call_later(0.01, later.set)
    assert over.wait(TIMEOUT)
    assert len(blocking) == 1


def test_timer_comes_where_no_thread_can_be_started(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = threading.Event()
    cancel = timers.call_later(3600, came.set)  # starts their thread

    def refuse(name: str, target: object) -> NoReturn:
        raise RuntimeError(f"no thread for {name}")

    monkeypatch.setattr("flask_executor_typed.runtime.timers.start_thread", refuse)
    timers.call_later(0, came.set)
    assert came.wait(TIMEOUT)
    cancel()


def test_cancelled_timer_is_not_called_and_keeps_nothing_alive(timers: Timers) -> None:
    called = threading.Event()

    class Kept:
        def note(self) -> None:
            called.set()

    kept = Kept()
    cancel = timers.call_later(0.05, kept.note)
    gone = weakref.ref(kept)
    del kept
    cancel()
    cancel()  # twice is once
    gc.collect()
    assert gone() is None
    later = threading.Event()
    timers.call_later(0.06, later.set)
    assert later.wait(TIMEOUT)
    assert not called.is_set()


def test_cancelled_timers_of_far_times_do_not_pile_up(timers: Timers) -> None:
    for _ in range(5_000):
        timers.call_later(3600, threading.Event().set)()
    assert len(timers._heap) < 500


def test_timer_that_is_set_after_the_end_is_called_by_another_thread() -> None:
    timers = Timers("tests")
    timers.end()
    first = threading.Event()
    timers.call_later(0, first.set)
    assert first.wait(TIMEOUT)
    until(lambda: timers.threads() == [])
    second = threading.Event()
    timers.call_later(0, second.set)
    assert second.wait(TIMEOUT)


def test_time_limit_of_a_plain_job_is_kept_while_an_event_loop_is_blocked(
    executor: Executor,
) -> None:
    blocks, release = threading.Event(), threading.Event()

    async def block() -> None:
        blocks.set()
        release.wait(TIMEOUT)

    blocking = executor.submit(block)
    assert blocks.wait(TIMEOUT)
    limited = executor.using(timeout=0.05).submit(release.wait, TIMEOUT)
    assert isinstance(limited.exception(TIMEOUT), JobTimeoutError)
    assert not blocking.done()
    release.set()
    blocking.result(TIMEOUT)


def test_timers_end_with_their_executor(executor: Executor) -> None:
    executor.using(timeout=TIMEOUT).submit(int).result(TIMEOUT)
    executor.shutdown()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.endswith("-timers")]


def test_a_frozen_clock_stops_no_timer(timers: Timers) -> None:
    freezegun: Any = pytest.importorskip("freezegun")
    rang = threading.Event()
    with freezegun.freeze_time("2026-01-01"):
        timers.call_later(0.01, rang.set)
        assert rang.wait(TIMEOUT)
