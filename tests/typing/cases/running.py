"""What a job knows of itself, its limits, and what others see of it while it runs."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Hashable, Iterator
from typing import Any

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import (
    CurrentJob,
    Executor,
    ExecutorStats,
    FutureProxy,
    JobTimeoutError,
    Progress,
    current_job,
    track,
)

executor = Executor(Flask("cases"))

# -- the current job

assert_type(current_job, CurrentJob)
assert_type(current_job.id, str)
assert_type(current_job.name, str)
assert_type(current_job.key, Hashable | None)
assert_type(current_job.attempt, int)
assert_type(current_job.executor, Executor[Any])
assert_type(current_job.cancel_requested, bool)
current_job.raise_if_cancelled()
current_job.progress(1)
current_job.progress(1, 2, "message")
current_job.progress(0.5, total=None, message="half")
current_job.progress("1")  # error: expected
current_job.progress(1, 2, 3)  # error: expected
current_job.progress()  # error: expected
current_job.id = "other"  # error: expected
current_job.attempt = 2  # error: expected
current_job.result()  # error: expected

# -- how much there is to do

stats = executor.stats()
assert_type(stats, ExecutorStats)
assert_type(stats.pending + stats.running, int)
assert_type(stats.succeeded + stats.failed + stats.cancelled, int)
assert_type(stats.workers + stats.loops, int)
assert_type(stats.oldest_pending_age, float)
stats.pending = 0  # error: expected
assert_type(executor.using(block=1.5).submit(len, "a"), FutureProxy[int])
executor.using(block="1")  # error: expected

# -- limits


@executor.job(timeout=1.5, retries=3, backoff=0.5)
def limited(number: int) -> str:
    return str(number)


@executor.job(timeout=math.inf, backoff=lambda attempt: attempt * 2.0)
async def alimited(number: int) -> str:
    return str(number)


assert_type(limited(1), str)
assert_type(limited.submit(1), FutureProxy[str])
assert_type(limited.using(block=1).submit(1), FutureProxy[str])
assert_type(alimited.submit(1), FutureProxy[str])
assert_type(limited.using(timeout=1, retries=2, backoff=1).submit(1), FutureProxy[str])
assert_type(executor.using(timeout=1, retries=2, backoff=1), Executor[Any])
assert_type(executor.using(timeout=1).submit(len, "a"), FutureProxy[int])
routed = executor.using(queue="gpu", priority=5, delay=1, expires=2.5)
assert_type(routed, Executor[Any])
assert_type(limited.using(queue="gpu", delay=None).submit(1), FutureProxy[str])
executor.using(queue=1)  # error: expected
executor.using(priority=1.5)  # error: expected
executor.using(delay="1")  # error: expected
executor.using(queu="gpu")  # error: expected
limited.using(expires="1")  # error: expected
limited.using(queu="gpu")  # error: expected
limited.submit("1")  # error: expected
alimited.submit("1")  # error: expected
limited.submit(1, timeout=1)  # error: expected
executor.using(timeout="1")  # error: expected
executor.using(retries=1.5)  # error: expected
executor.using(backoff="1")  # error: expected
executor.using(backoff=lambda: 1.0)  # error: expected
executor.using(backoff=lambda attempt: "1")  # error: expected
limited.using(timeout="1")  # error: expected
limited.using(retries=1.5)  # error: expected
executor.job(timeout="1")  # error: expected
executor.job(retries="1")  # error: expected
executor.job(limited, timeout=1)  # error: expected
executor.using(1.0)  # error: expected


def is_late(future: FutureProxy[str]) -> float:
    try:
        future.result()
    except JobTimeoutError as error:
        assert_type(error.seconds, float)
        assert_type(error.name, str)
        return error.seconds
    return 0.0


# -- progress


def rows() -> Iterator[bytes]:
    yield b""


async def arows() -> AsyncIterator[bytes]:
    yield b""


assert_type(track([1, 2]), Iterator[int])
assert_type(track(rows(), 10, "rows"), Iterator[bytes])
assert_type(track(arows(), total=10.0, message="rows"), AsyncIterator[bytes])
track(1)  # error: expected
track([1], "10")  # error: expected
track([1], 10, 5)  # error: expected


@executor.job
def count(numbers: list[int]) -> int:
    for number in track(numbers):
        assert_type(number, int)
    return 1


@executor.job
async def acount() -> int:
    async for row in track(arows()):
        assert_type(row, bytes)
    return 1


async def follow(future: FutureProxy[int]) -> None:
    assert_type(future.progress, Progress | None)
    assert_type(future.watch(), AsyncIterator[Progress])
    async for progress in future.watch():
        assert_type(progress, Progress)
        assert_type(progress.done, float)
        assert_type(progress.total, float | None)
        assert_type(progress.message, str)
        assert_type(progress.fraction, float | None)
        progress.done = 1  # error: expected
    print(future.progress.done)  # error: expected
    future.progress = Progress(1)  # error: expected
    await future.watch()  # error: expected
    for _ in future.watch():  # error: expected
        pass


Progress()  # error: expected
Progress("1")  # error: expected
