"""Threads that get in each other's way as often as they can lose nothing and do nothing twice."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, as_completed, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_executor_typed import Executor, ExecutorClosedError, FutureProxy
from flask_executor_typed.futures import begin, succeed
from flask_executor_typed.runtime.loop_inbox import LoopInbox
from flask_executor_typed.runtime.weak import WeakListing

from ..conftest import TIMEOUT
from ..helpers.threads import at_once

STATM = Path("/proc/self/statm")


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let the interpreter switch threads as often as it can, rather than every 5 ms."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


racing = pytest.mark.usefixtures("frequent_switches")


def outcome_of(future: FutureProxy[Any]) -> str:
    """How a future ended, waiting for it; whatever it raised is no error here."""
    wait([future], TIMEOUT)
    return future.status


def settle(future: FutureProxy[int], number: int) -> None:
    """In one of the three ways."""
    if number % 3 == 0:
        future.set_result(number)
    elif number % 3 == 1:
        future.set_exception(LookupError(number))
    else:
        future.cancel()


def note(told: list[int], number: int) -> Callable[[FutureProxy[Any]], None]:
    """A callback that notes that it was called."""
    return lambda _: told.append(number)


# Cancelling


@racing
def test_call_is_either_cancelled_or_run_however_many_cancel_it(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    calls = 4000
    ran, told = list[int](), list[int]()
    futures: list[FutureProxy[None]] = []

    def submit() -> None:
        for number in range(calls):
            future = executor.submit(ran.append, number)
            future.add_done_callback(note(told, number))
            futures.append(future)

    def cancel() -> None:
        for number in range(calls):
            while len(futures) <= number:
                pass
            futures[number].cancel()

    with Executor(app) as executor:
        at_once(submit, cancel, cancel)
    status = [future.status for future in futures]
    assert set(status) == {"succeeded", "cancelled"}, "they did not get in each other's way"
    assert sorted(ran) == [n for n in range(calls) if status[n] == "succeeded"]
    assert sorted(told) == list(range(calls))


@racing
def test_right_to_run_and_to_cancel_is_given_to_one_of_many() -> None:
    futures: list[FutureProxy[int]] = [FutureProxy() for _ in range(20_000)]
    began, cancelled = list[int](), list[int]()

    def begin_all() -> None:
        for number, future in enumerate(futures):
            if begin(future):
                began.append(number)

    def cancel() -> None:
        for number in reversed(range(len(futures))):
            if futures[number].cancel():
                cancelled.append(number)

    at_once(begin_all, begin_all, cancel, cancel)
    assert len(set(began)) == len(began)
    assert sorted({*began, *cancelled}) == list(range(len(futures)))
    assert set(began).isdisjoint(cancelled)


@racing
def test_outcome_is_decided_by_one_of_many() -> None:
    futures: list[FutureProxy[int]] = [FutureProxy() for _ in range(10_000)]
    won: list[list[int]] = [[] for _ in range(4)]

    def settle_all(number: int) -> Callable[[], None]:
        def run() -> None:
            for place, future in enumerate(futures):
                if succeed(future, number):
                    won[number].append(place)

        return run

    at_once(*(settle_all(number) for number in range(4)))
    for number, places in enumerate(won):
        assert {futures[place].result(0) for place in places} <= {number}
    assert sorted(itertools.chain(*won)) == list(range(len(futures)))


@racing
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "waiting"])
def test_coroutine_is_either_cancelled_or_done_and_the_loop_forgets_it(
    app: Flask, waits: bool
) -> None:
    calls = 2000
    began, ended, told = list[int](), list[int](), list[int]()
    futures: list[FutureProxy[None]] = []

    async def job(number: int) -> None:
        began.append(number)
        if waits:
            await asyncio.sleep(0)
        ended.append(number)

    def submit() -> None:
        for number in range(calls):
            future = executor.submit(job, number)
            future.add_done_callback(note(told, number))
            futures.append(future)

    def cancel(delay: int) -> Callable[[], None]:
        def run() -> None:
            for number in range(calls):
                while len(futures) <= number:
                    pass
                for _ in range(number % delay):  # sooner or later after the submission
                    futures[number].running()
                futures[number].cancel()

        return run

    executor = Executor(app)
    at_once(submit, cancel(20), cancel(50))
    at_once(executor.shutdown)
    assert len(set(began)) == len(began)
    assert sorted(told) == list(range(calls))
    for number, future in enumerate(futures):
        assert future.status in {"succeeded", "cancelled"}
        if future.status == "succeeded":
            assert number in ended
        elif future.started_at is None:
            assert number not in began, "cancelled while it was pending"


@racing
def test_coroutine_cancelled_as_soon_as_it_counts_as_running_does_not_keep_its_loop(
    app: Flask,
) -> None:
    executor = Executor(app)
    for _ in range(8):
        begun, release = threading.Event(), threading.Event()

        async def block(begun: Any = begun, release: Any = release) -> None:
            begun.set()
            release.wait(TIMEOUT)

        executor.submit(block)
        assert begun.wait(TIMEOUT)
        futures = [executor.submit(asyncio.sleep, TIMEOUT * 10) for _ in range(200)]

        def cancel(futures: list[FutureProxy[None]] = futures) -> None:
            for future in futures:
                while not future.running() and not future.done():
                    pass
                future.cancel()

        at_once(cancel, cancel, release.set)
    at_once(executor.shutdown)


# Watching


@racing
def test_each_of_many_watchers_is_told_exactly_once() -> None:
    rounds, adders, each = 300, 3, 8

    def settle_and_watch(number: int) -> None:
        future: FutureProxy[int] = FutureProxy()
        told: list[int] = []

        def note(name: int) -> Callable[[FutureProxy[int]], None]:
            return lambda done: told.append(name if done.done() else -1)

        def add(adder: int) -> Callable[[], None]:
            def run() -> None:
                for watcher in range(each):
                    future.add_done_callback(note(adder * each + watcher))

            return run

        def get_result() -> None:
            with suppress(LookupError, CancelledError):
                assert future.result(TIMEOUT) == number

        watching = [add(adder) for adder in range(adders)]
        at_once(lambda: settle(future, number), get_result, *watching)
        assert sorted(told) == list(range(adders * each))
        assert future._watchers == []

    for number in range(rounds):
        settle_and_watch(number)


class Settling(list[Any]):
    """A list of watchers whose future is settled by somebody else just when one is added."""

    future: FutureProxy[int]
    before: bool

    def append(self, watcher: object, /) -> None:
        self.insert(len(self), watcher)

    def insert(self, place: Any, watcher: object, /) -> None:
        if self.before:
            self.future.set_result(42)
        super().insert(place, watcher)
        if not self.before:
            self.future.set_result(42)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("way", ["callback", "result", "await", "wait", "as_completed"])
def test_watcher_added_in_the_very_moment_of_completion_is_told_once(
    way: str, before: bool
) -> None:
    future: FutureProxy[int] = FutureProxy()
    watchers = Settling(future._watchers)
    watchers.future, watchers.before = future, before
    future._watchers = watchers
    told: list[object] = []

    async def awaited() -> None:
        told.append(await future)

    ways: dict[str, Callable[[], object]] = {
        "callback": lambda: future.add_done_callback(told.append),
        "result": lambda: told.append(future.result(TIMEOUT)),
        "await": lambda: asyncio.run(awaited()),
        "wait": lambda: told.extend(wait([future], TIMEOUT).done),
        "as_completed": lambda: told.extend(as_completed([future], TIMEOUT)),
    }
    at_once(ways[way])
    assert told == [42 if way in {"result", "await"} else future]
    assert watchers == []


@racing
def test_who_waits_in_the_moment_of_completion_is_woken() -> None:
    futures: list[FutureProxy[int]] = [FutureProxy() for _ in range(10_000)]

    def settle_all() -> None:
        for number, future in enumerate(futures):
            future.set_result(number)

    def wait_for_all() -> None:
        for number, future in enumerate(futures):
            assert future.result(TIMEOUT) == number

    def give_up() -> None:
        for future in futures:
            with suppress(FutureTimeoutError):
                future.result(0)

    def look() -> None:
        for number, future in enumerate(futures):
            while not future.done():
                pass
            assert future.result(0) == number, "done before it has a result"

    at_once(settle_all, wait_for_all, look, give_up)


@racing
def test_wait_and_as_completed_miss_nothing_that_is_done_meanwhile() -> None:
    for _ in range(60):
        futures: list[FutureProxy[int]] = [FutureProxy() for _ in range(40)]

        def settle_all(futures: list[FutureProxy[int]] = futures) -> None:
            for number, future in enumerate(futures):
                settle(future, number)

        def wait_for_all(futures: list[FutureProxy[int]] = futures) -> None:
            done, not_done = wait(futures, TIMEOUT)
            assert (done, not_done) == (set(futures), set[FutureProxy[int]]())

        def wait_one_by_one(futures: list[FutureProxy[int]] = futures) -> None:
            left: set[FutureProxy[int]] = set(futures)
            while left:
                done = wait(left, TIMEOUT, FIRST_COMPLETED).done
                assert done, "timed out"
                assert all(future.done() for future in done)
                left = left.difference(done)

        def complete(futures: list[FutureProxy[int]] = futures) -> None:
            completed = list(as_completed(futures, TIMEOUT))
            assert len(completed) == len(futures)
            assert set(completed) == set(futures)

        at_once(settle_all, wait_for_all, wait_one_by_one, complete, complete)


@racing
def test_first_to_ask_share_one_condition() -> None:
    for _ in range(150):
        future: FutureProxy[int] = FutureProxy()
        seen: list[object] = []

        def ask(future: FutureProxy[int] = future, seen: list[object] = seen) -> None:
            seen.append(future._condition)

        at_once(ask, ask, ask, partial(future.set_result, 1))
        assert len(set(map(id, seen))) == 1
        assert wait([future], 0).done == {future}


@racing
def test_every_awaiter_on_two_loops_is_woken_by_what_is_done_meanwhile() -> None:
    for _ in range(20):
        futures: list[FutureProxy[int]] = [FutureProxy() for _ in range(150)]

        async def await_all(futures: list[FutureProxy[int]] = futures) -> None:
            async def one(future: FutureProxy[int]) -> object:
                try:
                    return await future
                except (LookupError, asyncio.CancelledError) as error:
                    return type(error)

            everybody = asyncio.gather(*(one(future) for future in futures))
            outcomes = await asyncio.wait_for(everybody, TIMEOUT / 2)
            kinds = [None, LookupError, asyncio.CancelledError]
            assert outcomes == [kinds[n % 3] or n for n in range(len(futures))]

        async def await_one_by_one(futures: list[FutureProxy[int]] = futures) -> None:
            for future in futures:
                with suppress(LookupError, asyncio.CancelledError):
                    await asyncio.wait_for(future, TIMEOUT / 2)

        def settle_all(futures: list[FutureProxy[int]] = futures) -> None:
            for number, future in enumerate(futures):
                settle(future, number)

        at_once(
            settle_all,
            partial(asyncio.run, await_all()),
            partial(asyncio.run, await_one_by_one()),
        )


class Listed:
    pass


@racing
def test_weak_listing_is_listed_while_other_threads_add_to_it() -> None:
    listing, kept, is_over = WeakListing[Listed](), list[Listed](), threading.Event()

    def add() -> None:
        try:
            for number in range(20_000):
                item = Listed()
                listing.add(item)
                if number % 10 == 0:
                    kept.append(item)
        finally:
            is_over.set()

    def list_them() -> None:
        while not is_over.is_set():
            before = kept.copy()
            assert set(before) <= set(listing)

    at_once(add, list_them, list_them)
    gc.collect()
    assert list(listing) == kept
    listing.discard(kept[0])
    listing.discard(kept[0])
    assert list(listing) == kept[1:]


@racing
def test_inbox_runs_once_and_in_order_what_many_threads_post() -> None:
    posters, posts = 3, 8000
    ran: list[list[int]] = [[] for _ in range(posters)]
    loop = asyncio.new_event_loop()
    inbox = LoopInbox(loop)
    left = itertools.count(posters * posts - 1, -1)

    def note(poster: int, number: int) -> None:
        ran[poster].append(number)
        if next(left) == 0:
            loop.stop()

    def post(poster: int) -> Callable[[], None]:
        def run() -> None:
            for number in range(posts):
                inbox.post(note, poster, number)

        return run

    def run_loop() -> None:
        loop.call_later(TIMEOUT / 2, loop.stop)
        loop.run_forever()

    try:
        at_once(run_loop, *(post(poster) for poster in range(posters)))
    finally:
        loop.close()
    assert ran == [list(range(posts))] * posters


# Keys


class SlowKey:
    """A key that lets another thread come in whenever it is looked up."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        time.sleep(0)
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlowKey) and self.number == other.number


@racing
def test_of_many_threads_that_join_a_key_one_runs_the_function(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    threads, ran = 4, list[int]()
    with Executor(app) as executor:
        for number in range(120):
            release, joined = threading.Event(), list[FutureProxy[int]]()

            def run(number: int = number, release: threading.Event = release) -> int:
                ran.append(number)
                assert release.wait(TIMEOUT)
                return number

            def join(
                number: int = number, run: Any = run, joined: list[FutureProxy[int]] = joined
            ) -> None:
                joined.append(executor.using(key=SlowKey(number), on_duplicate="join").submit(run))

            at_once(*[join] * threads)
            release.set()
            assert len(joined) == threads
            assert len(set(map(id, joined))) == 1
            assert joined[0].result(TIMEOUT) == number
    assert sorted(ran) == list(range(120))


# The end


@racing
@pytest.mark.parametrize("cancel", [False, True], ids=["finish", "cancel"])
def test_call_submitted_during_shutdown_is_accepted_and_ends_or_is_refused_and_never_runs(
    app: Flask, cancel: bool
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    app.config["EXECUTOR_MAX_LOOPS"] = 2
    for attempt in range(12):
        executor, ran = Executor(app), list[int]()
        accepted: dict[int, FutureProxy[None]] = {}
        refused: list[int] = []
        numbers = itertools.count()

        async def run_async(number: int, ran: list[int] = ran) -> None:
            ran.append(number)

        def submit(
            fn: Callable[[int], Any],
            executor: Executor = executor,
            numbers: Iterator[int] = numbers,
            accepted: dict[int, FutureProxy[None]] = accepted,
            refused: list[int] = refused,
        ) -> None:
            for _ in range(400):
                number = next(numbers)
                try:
                    accepted[number] = executor.submit(fn, number)
                except ExecutorClosedError:
                    refused.append(number)
                    if len(refused) > 20:
                        return

        def shut_down(executor: Executor = executor, after: int = attempt * 10) -> None:
            while len(accepted) < after:  # noqa: B023  # it is called in this round
                pass
            executor.shutdown(cancel_futures=cancel)

        at_once(
            shut_down,
            *[partial(submit, fn) for fn in (ran.append, ran.append, run_async)],
        )
        status = {number: outcome_of(future) for number, future in accepted.items()}
        assert set(status.values()) <= ({"succeeded", "cancelled"} if cancel else {"succeeded"})
        at_once(executor.shutdown)
        assert sorted(ran) == sorted(n for n, outcome in status.items() if outcome == "succeeded")
        assert set(ran).isdisjoint(refused)


# Endurance


def resident() -> float:
    """Megabytes of memory that this process has."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="reads /proc/self/statm")
def test_million_jobs_are_each_run_once_and_need_no_more_memory_than_three_hundred_thousand(
    app: Flask,
) -> None:
    jobs, window = 1_000_000, 2000
    app.config["EXECUTOR_MAX_WORKERS"] = 4
    ran = bytearray(jobs)
    before = 0.0

    def job(number: int) -> int:
        ran[number] += 1
        return number

    async def job_async(number: int) -> int:
        ran[number] += 1
        return number

    with Executor(app) as executor:
        # A window at a time: how much is waiting at once is not what this is about.
        for first in range(0, jobs, window):
            numbers = range(first, first + window)
            futures = [executor.submit(job if n % 2 else job_async, n) for n in numbers]
            assert [future.result(TIMEOUT) for future in futures] == list(numbers)
            if first + window == 300_000:
                before = resident()
        grown = resident() - before
    assert ran.count(1) == jobs
    assert grown < 5, f"{grown:.1f} MB"
