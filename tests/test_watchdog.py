"""A job that blocks its event loop is named, with the place where it does."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from flask_executor_typed import Executor

from .conftest import TIMEOUT, until

SECONDS = 0.2


class Log(logging.Handler):
    """Warnings, and who waits for one.

    ``messages`` has those of a function that blocks, whose name begins so: a loop may be late,
    too, because the machine is busy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []
        self.messages: list[str] = []
        self.logged = threading.Semaphore(0)

    def emit(self, record: logging.LogRecord) -> None:
        assert record.levelno == logging.WARNING
        message = record.getMessage()
        self.all.append(message)
        if ", in block" in message:
            self.messages.append(message)
            self.logged.release()


@pytest.fixture
def log(app: Flask) -> Iterator[Log]:
    """What is logged by ``app`` and by the package."""
    log = Log()
    loggers = [app.logger, logging.getLogger("flask_executor_typed")]
    for logger in loggers:
        logger.addHandler(log)
    yield log
    for logger in loggers:
        logger.removeHandler(log)


@pytest.fixture
def watched(app: Flask, log: Log) -> Iterator[Executor]:
    app.config["EXECUTOR_SLOW_CALLBACK"] = SECONDS
    with Executor(app) as executor:
        yield executor


def block_until_named(log: Log) -> None:
    assert log.logged.acquire(timeout=TIMEOUT)


def test_job_that_blocks_its_loop_is_named_with_the_place_and_the_others_go_on(
    watched: Executor, log: Log
) -> None:
    async def report() -> str:
        await asyncio.sleep(0)
        block_until_named(log)
        return "done"

    future = watched.submit(report)
    other = watched.submit(asyncio.sleep, 0, "other")
    assert future.result(TIMEOUT) == "done"
    assert other.result(TIMEOUT) == "other"
    first, _, stack = log.messages[0].partition("\n")
    assert first == (
        f"Background job {future.name} [{future.id}] has blocked the event loop of executor-loop-0 "
        "for more than 0.2 s, and all other jobs there wait. It is here:"
    )
    lines = [line for line in stack.splitlines() if line.startswith("  File")]
    assert lines[0].endswith(", in report")
    assert any(line.endswith(", in block_until_named") for line in lines)


def test_each_time_is_told_once(watched: Executor, log: Log) -> None:
    async def block() -> None:
        block_until_named(log)
        assert not log.logged.acquire(timeout=SECONDS * 4)

    for count in (1, 2):
        watched.submit(block).result(TIMEOUT)
        assert len(log.messages) == count


def test_jobs_that_take_long_and_block_no_loop_are_not_named(app: Flask, log: Log) -> None:
    app.config["EXECUTOR_SLOW_CALLBACK"] = 1  # more than a busy machine takes for itself
    with Executor(app) as executor:
        coroutine = executor.submit(asyncio.sleep, 1.5)
        function = executor.submit(threading.Event().wait, 1.5)
        coroutine.result(TIMEOUT)
        assert function.result(TIMEOUT) is False
    assert log.all == []


def test_task_that_a_job_has_started_is_named_after_the_job(watched: Executor, log: Log) -> None:
    async def block() -> None:
        block_until_named(log)

    async def job() -> None:
        await asyncio.create_task(block())

    future = watched.submit(job)
    future.result(TIMEOUT)
    assert log.messages[0].startswith(f"Background job {future.name} [{future.id}] has blocked ")


def test_callback_of_the_loop_is_told_without_a_name(watched: Executor, log: Log) -> None:
    async def job() -> None:
        asyncio.get_running_loop().call_soon(block_until_named, log)
        await asyncio.sleep(SECONDS / 10)

    watched.submit(job).result(TIMEOUT)
    assert log.messages[0].startswith("A callback has blocked the event loop of executor-loop-0")


def test_nobody_looks_unless_told_to(app: Flask) -> None:
    with Executor(app) as executor:
        before = set(threading.enumerate())
        executor.submit(asyncio.sleep, 0).result(TIMEOUT)
        started = set(threading.enumerate()) - before
        assert {thread.name for thread in started} == {"executor-loop-0"}


def test_each_loop_has_a_watching_thread_that_ends_with_it(app: Flask) -> None:
    app.config["EXECUTOR_SLOW_CALLBACK"] = 3600  # nobody waits for its next question
    app.config["EXECUTOR_MAX_LOOPS"] = 2
    before = set(threading.enumerate())
    executor = Executor(app)
    futures = [executor.submit(asyncio.Event().wait) for _ in range(4)]
    names = {"executor-loop-0-watchdog", "executor-loop-1-watchdog"}
    until(lambda: names <= {thread.name for thread in threading.enumerate()})
    started = set(threading.enumerate()) - before
    for future in futures:
        future.cancel()
    executor.shutdown()
    for thread in started:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_log_handler_that_raises_does_not_end_the_watch(app: Flask) -> None:
    called = threading.Semaphore(0)

    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            called.release()
            raise OSError("the log is full")

    async def block() -> None:
        assert called.acquire(timeout=TIMEOUT)

    app.config["EXECUTOR_SLOW_CALLBACK"] = SECONDS
    broken: Any = Broken()
    app.logger.addFilter(broken)
    try:
        with Executor(app) as executor:
            for _ in range(2):
                assert executor.submit(block).exception(TIMEOUT) is None
    finally:
        app.logger.removeFilter(broken)
