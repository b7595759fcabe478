"""Threads that are interrupted or stopped at each instruction while they decide about a future."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from contextlib import suppress
from typing import Any

import pytest
from flask import Flask

from flask_executor_typed import Executor, FutureProxy
from flask_executor_typed.calls import Capacity
from flask_executor_typed.futures import begin, facts_of, follow, succeed

from ..conftest import TIMEOUT
from ..helpers.held import Held
from ..helpers.steps import at_each_call, at_each_step

Action = Callable[[FutureProxy[int]], object]


def set_result(future: FutureProxy[int]) -> None:
    future.set_result(42)


def set_exception(future: FutureProxy[int]) -> None:
    future.set_exception(ValueError(42))


def cancel(future: FutureProxy[int]) -> None:
    future.cancel()


def cancel_a_follower(future: FutureProxy[int]) -> None:
    outer: FutureProxy[int] = FutureProxy("outer")
    follow(outer, future)
    outer.cancel()


ACTIONS = [set_result, set_exception, cancel, cancel_a_follower]


class Watched:
    """A future with one of all that may watch it."""

    def __init__(self) -> None:
        self.future: FutureProxy[int] = FutureProxy("watched")
        self.capacity = Capacity("executor", "EXECUTOR_MAX_PENDING", None)
        self.capacity.admit(self.future, None)
        self.woken: list[object] = []
        self.called: list[object] = []
        self.follower: FutureProxy[int] = FutureProxy("follower")
        assert self.future._watch(self.woken.append, first=True)
        self.future.add_done_callback(self.called.append)
        follow(self.follower, self.future)
        self.last: FutureProxy[int] = FutureProxy("last")
        follow(self.last, self.follower)

    def check(self, failed_callbacks: int) -> None:
        """Nothing is lost, whatever has happened."""
        if not self.future._outcomes:  # not done(), which would go on for an interrupted thread
            assert self.future.cancel()
        assert self.follower._outcomes
        assert self.last._outcomes
        assert self.future in self.woken
        assert len(self.called) == 1 or (failed_callbacks == 1 and not self.called)
        assert self.future._watchers == []
        assert self.capacity.calls() == []
        assert sum(self.capacity.ended()) <= 1  # an interrupt may lose the count, no more


def interrupt() -> None:
    raise KeyboardInterrupt


def failed_callbacks(caplog: pytest.LogCaptureFixture) -> int:
    count = sum("exception calling callback" in record.message for record in caplog.records)
    caplog.clear()
    return count


@pytest.mark.parametrize("action", ACTIONS)
def test_interrupt_at_any_instruction_leaves_a_future_that_is_done_or_can_be(
    action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    watched: list[Watched] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        watched.append(Watched())
        return lambda: action(watched[-1].future), interrupt

    interrupted = 0
    for raised in at_each_call(prepare, "futures", "calls"):
        interrupted += isinstance(raised, KeyboardInterrupt)
        watched[-1].check(failed_callbacks(caplog))
    assert interrupted > 20


@pytest.mark.parametrize("action", ACTIONS)
def test_future_that_was_settled_at_the_recursion_limit_is_done_or_can_be(
    action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    def call_deep_down(levels: int, future: FutureProxy[int]) -> None:
        if levels:
            call_deep_down(levels - 1, future)
        else:
            action(future)

    refused = 0
    for distance in range(60):
        watched = Watched()
        try:
            call_deep_down(sys.getrecursionlimit() - stack_depth() - distance, watched.future)
        except RecursionError:
            refused += 1
        watched.check(failed_callbacks(caplog))
    assert 0 < refused < 60


def stack_depth() -> int:
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


def test_watchers_that_two_interrupts_left_are_called_by_the_next_thread_that_looks() -> None:
    watched, interrupts = Watched(), [KeyboardInterrupt(), KeyboardInterrupt()]

    def interrupted_twice(_: object) -> None:
        if interrupts:
            raise interrupts.pop()

    watched.future._watch(interrupted_twice, first=True)
    with pytest.raises(KeyboardInterrupt):
        watched.future.set_result(42)
    assert watched.woken == watched.called == []
    assert watched.future.done()  # goes on for the interrupted thread
    watched.check(0)


def test_worker_finishes_a_cancel_that_was_interrupted(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    with Executor(app) as executor:
        held, ran = Held(), list[int]()
        executor.submit(held)
        futures: list[FutureProxy[None]] = []

        def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
            futures.append(executor.submit(ran.append, len(futures)))
            return futures[-1].cancel, interrupt

        for _ in at_each_call(prepare, "futures"):
            pass
        held.let_go()
        executor.submit(int).result(TIMEOUT)
        assert all(future.done() for future in futures)
        assert ran == [n for n, future in enumerate(futures) if not future.cancelled()]
        assert all(facts_of(future).cancel_requested for future in futures if future.cancelled())
        stats = executor.stats()
        assert (stats.pending, stats.running) == (0, 0)
        assert stats.cancelled == len(futures) - len(ran)


def test_submit_with_a_key_that_is_interrupted_leaves_no_key_without_a_call(
    executor: Executor,
) -> None:
    executor.submit(int).result(TIMEOUT)  # the worker is not started while we interrupt
    executor.futures.max_length = None
    keys: list[int] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        keys.append(len(keys))
        return lambda: executor.using(key=keys[-1]).submit(int), interrupt

    for _ in at_each_call(prepare, "executor.py", "app_state.py", "futures", "calls"):
        with suppress(CancelledError):
            executor.using(key=keys[-1], on_duplicate="join").submit(int).result(TIMEOUT)
    assert len(keys) > 20


# -- two threads -----------------------------------------------------------------------------------


def run(future: FutureProxy[int]) -> None:
    if begin(future):
        succeed(future, 1)


@pytest.mark.parametrize("first", [run, cancel, set_result])
@pytest.mark.parametrize("second", [run, cancel])
def test_thread_that_is_stopped_at_any_instruction_and_another_agree(
    first: Action, second: Action
) -> None:
    watched: list[Watched] = []

    def act(action: Action, future: FutureProxy[int]) -> None:
        with suppress(InvalidStateError):  # set_result() of a future that is done
            action(future)

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        new = Watched()
        watched.append(new)

        def meanwhile() -> None:
            thread = threading.Thread(target=act, args=(second, new.future), daemon=True)
            thread.start()
            thread.join(TIMEOUT)

        return lambda: act(first, new.future), meanwhile

    for raised in at_each_step(prepare, "futures", "calls"):
        assert raised is None
        watched[-1].check(0)


def test_two_futures_that_follow_each_other_at_once_make_no_ring() -> None:
    pairs: list[tuple[FutureProxy[int], FutureProxy[int]]] = []
    threads: list[threading.Thread] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        one, other = FutureProxy[int]("one"), FutureProxy[int]("other")
        pairs.append((one, other))

        def meanwhile() -> None:
            threads.append(threading.Thread(target=follow, args=(other, one), daemon=True))
            threads[-1].start()
            threads[-1].join(0.02)  # or it waits for the lock, until the other thread goes on

        return lambda: follow(one, other), meanwhile

    for _ in at_each_step(prepare, "futures"):
        for thread in threads:
            thread.join(TIMEOUT)
        one, other = pairs[-1]
        if len(pairs) > len(threads):  # the last time the other thread was not started
            break
        for future in (one, other):
            assert isinstance(future.exception(TIMEOUT), RuntimeError)
            assert future.cancel() is False
    assert len(pairs) > 20


def test_jobs_that_return_each_others_future_fail(executor: Executor) -> None:
    held = Held(), Held()
    futures: list[FutureProxy[Any]] = []

    def return_future(number: int) -> FutureProxy[Any]:
        held[number]()
        return futures[1 - number]

    futures += [executor.submit(return_future, number) for number in range(2)]
    for each in held:
        each.until_begun()
    for each in held:
        each.let_go()
    for future in futures:
        with pytest.raises((RuntimeError, CancelledError), match="its own future"):
            future.result(TIMEOUT)
