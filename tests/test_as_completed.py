"""Futures in the order in which they are done."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from weakref import ref

import pytest
from flask import Flask

from flask_executor_typed import Executor, FutureProxy

from .conftest import TIMEOUT


async def listed(futures: AsyncIterator[FutureProxy[int]]) -> list[FutureProxy[int]]:
    return [future async for future in futures]


async def soon(futures: AsyncIterator[FutureProxy[Any]]) -> FutureProxy[Any]:
    """The next of the futures, or an error where it does not come."""
    return await asyncio.wait_for(futures.__anext__(), TIMEOUT)


class Gate:
    """Calls that return their numbers, each when it is let through."""

    def __init__(self, executor: Executor) -> None:
        self._open: list[asyncio.Event] = []
        self.executor = executor
        self.futures = [executor.submit(self._wait, number) for number in range(4)]

    async def _wait(self, number: int) -> int:
        event = asyncio.Event()
        self._open.append(event)
        await event.wait()
        return number

    def let_through(self, number: int) -> None:
        async def let() -> None:
            self._open[number].set()

        self.executor.submit(let).result(TIMEOUT)


@pytest.fixture
def gate(executor: Executor) -> Iterator[Gate]:
    gate = Gate(executor)
    yield gate
    for future in gate.futures:
        future.cancel()


def test_futures_come_in_the_order_in_which_they_are_done(executor: Executor, gate: Gate) -> None:
    async def main() -> None:
        completed = executor.as_completed(gate.futures)
        for number in (2, 0, 3, 1):
            waiting = asyncio.ensure_future(soon(completed))
            await asyncio.sleep(0)  # it waits now
            await asyncio.to_thread(gate.let_through, number)
            assert await waiting is gate.futures[number]
        assert await listed(completed) == []

    asyncio.run(main())


def test_futures_that_are_done_already_come_first_and_in_their_order(
    executor: Executor, gate: Gate
) -> None:
    for number in (1, 3, 0):  # neither as they were submitted nor the other way round
        gate.let_through(number)
        gate.futures[number].result(TIMEOUT)

    async def main() -> list[FutureProxy[int]]:
        completed = executor.as_completed(gate.futures, TIMEOUT)
        gate.let_through(2)
        return await listed(completed)

    assert [future.result() for future in asyncio.run(main())] == [1, 3, 0, 2]


def test_each_future_comes_once_although_it_was_given_twice(executor: Executor) -> None:
    done, other = executor.submit(int, 1), executor.submit(int, 2)
    done.result(TIMEOUT)
    futures = asyncio.run(listed(executor.as_completed([done, other, done, other], TIMEOUT)))
    assert sorted(future.result() for future in futures) == [1, 2]


def test_no_futures_end_at_once(executor: Executor) -> None:
    assert asyncio.run(listed(executor.as_completed([]))) == []


def test_futures_of_several_executors_that_failed_or_were_cancelled_come_too(app: Flask) -> None:
    with Executor(app) as one, Executor(app, name="other") as other:
        failed = one.submit(int, "x")
        succeeded = other.submit(int, "1")
        cancelled = other.submit(asyncio.sleep, TIMEOUT, 0)
        cancelled.cancel()
        futures = [failed, succeeded, cancelled]
        completed = asyncio.run(listed(one.as_completed(futures, TIMEOUT)))
    assert {future.status for future in completed} == {"failed", "succeeded", "cancelled"}
    assert set(completed) == set(futures)


def test_ten_thousand_futures_that_end_while_the_loop_takes_them(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 4

    async def main(executor: Executor) -> None:
        futures = [executor.submit(int, number) for number in range(10_000)]
        seen = [future.result() async for future in executor.as_completed(futures, TIMEOUT * 3)]
        assert sorted(seen) == list(range(10_000))

    with Executor(app) as executor:
        asyncio.run(main(executor))


def test_waiting_does_not_block_the_loop(executor: Executor) -> None:
    release = threading.Event()

    async def main() -> bool:
        waiting = asyncio.ensure_future(
            soon(executor.as_completed([executor.submit(release.wait, TIMEOUT)]))
        )
        for _ in range(10):
            await asyncio.sleep(0)  # the loop is free: otherwise nobody would ever set the event
        assert not waiting.done()
        release.set()
        result: bool = (await waiting).result()
        return result

    assert asyncio.run(main())


def test_what_is_done_comes_before_the_error_that_time_is_up(
    executor: Executor, gate: Gate
) -> None:
    gate.let_through(1)
    gate.futures[1].result(TIMEOUT)

    async def main() -> None:
        completed = executor.as_completed(gate.futures, 0.01)
        assert await soon(completed) is gate.futures[1]
        with pytest.raises(concurrent.futures.TimeoutError) as caught:
            await soon(completed)
        assert str(caught.value) == "3 of 4 futures are not done after 0.01 seconds"
        assert await listed(completed) == []  # it is over

    asyncio.run(main())
    assert [future.done() for future in gate.futures] == [False, True, False, False]


def test_who_gave_up_waiting_for_the_next_may_wait_again_and_misses_none(
    executor: Executor,
    gate: Gate,
) -> None:
    async def main() -> list[int]:
        completed = executor.as_completed(gate.futures, TIMEOUT)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(completed.__anext__(), 0.01)
        for number in (1, 0, 3, 2):
            gate.let_through(number)
            gate.futures[number].result(TIMEOUT)
        return [future.result() for future in await listed(completed)]

    assert asyncio.run(main()) == [1, 0, 3, 2]


def test_two_tasks_that_wait_for_the_same_next_future_are_an_error(
    executor: Executor, gate: Gate
) -> None:
    async def main() -> None:
        completed = executor.as_completed(gate.futures[:1], TIMEOUT)
        first = asyncio.ensure_future(soon(completed))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # on Python 3.11 and before, wait_for() makes a task
        with pytest.raises(RuntimeError, match="another task is already waiting for the next"):
            await completed.__anext__()
        await asyncio.to_thread(gate.let_through, 0)
        assert await first is gate.futures[0]

    asyncio.run(main())


def test_loop_that_is_left_early_lets_the_calls_go_on_and_keeps_nothing(
    executor: Executor, gate: Gate
) -> None:
    async def main() -> None:
        async for future in executor.as_completed(gate.futures):
            assert future is gate.futures[0]
            break
        gc.collect()

    gate.let_through(0)  # now all have begun
    watching = [list(future._watchers) for future in gate.futures[1:]]
    asyncio.run(main())
    assert [list(future._watchers) for future in gate.futures[1:]] == watching
    assert not gate.futures[1].done()
    gate.let_through(1)
    assert gate.futures[1].result(TIMEOUT) == 1


def test_a_future_that_came_is_not_kept_by_the_iterator(executor: Executor, gate: Gate) -> None:
    completed = executor.as_completed(gate.futures)
    gate.let_through(0)
    first = ref(gate.futures[0])

    async def main() -> None:
        assert (await soon(completed)).result() == 0

    gate.futures[0].result(TIMEOUT)
    del gate.futures[0]
    asyncio.run(main())
    gc.collect()
    assert first() is None


@pytest.mark.parametrize("given", [5, asyncio.sleep, concurrent.futures.Future[int]()])
def test_what_is_no_future_of_an_executor_is_refused_at_once(
    executor: Executor, given: Any
) -> None:
    with pytest.raises(TypeError) as caught:
        executor.as_completed([executor.submit(int), given])
    assert str(caught.value) == (
        f"as_completed() got {given!r}: expected futures returned by submit()"
    )
