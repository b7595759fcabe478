"""The last lines that a job logs, kept with its record: ``EXECUTOR_STORE_LOGS``."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app

from flask_executor_typed import Executor, current_job
from flask_executor_typed.calls.logs import catch_logs
from flask_executor_typed.futures.log_tail import LogTail
from flask_executor_typed.stores import JobRecord

from .apps.working import log, serving
from .conftest import TIMEOUT, until
from .helpers.scripts import run_script
from .helpers.services import redis_server
from .helpers.workers import START

logger = logging.getLogger("shop.mails")


@pytest.fixture(params=[None, "sqlite", "redis"])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Executor]:
    with ExitStack() as stack:
        store: str | None = None
        if request.param == "redis":
            store = stack.enter_context(redis_server()).url
        elif request.param == "sqlite":
            store = f"sqlite:///{tmp_path}/jobs.db"
        app = Flask("shop")
        app.config.from_mapping(EXECUTOR_STORE=store, EXECUTOR_STORE_LOGS=True)
        yield stack.enter_context(Executor(app))


def record_of(executor: Executor, job_id: str) -> JobRecord:
    record = executor.jobs.get(job_id)
    assert record is not None
    return record


def texts_of(executor: Executor, job_id: str) -> list[str]:
    """Return the lines of a job's log without their times, which are in UTC."""
    lines = (record_of(executor, job_id).log_tail or "").splitlines()
    return [line.partition("Z ")[2] for line in lines]


def texts_at_end(executor: Executor, future: Any) -> list[str]:
    future.exception(TIMEOUT)
    until(lambda: record_of(executor, future.id).done)
    return texts_of(executor, future.id)


def test_what_a_job_logs_is_in_its_record_and_in_no_other(executor: Executor) -> None:
    both = threading.Barrier(2)

    def job(number: int) -> None:
        both.wait(TIMEOUT)
        logger.warning("number %d", number)
        current_app.logger.error("to the app")
        both.wait(TIMEOUT)

    logger.warning("outside")
    futures = [executor.submit(job, number) for number in range(2)]
    for number, future in enumerate(futures):
        assert texts_at_end(executor, future) == [
            f"WARNING shop.mails: number {number}",
            "ERROR shop: to the app",
        ]
    assert [record.log_tail for record in executor.jobs.list()] == [None, None]


def test_coroutines_on_one_loop_and_threads_of_theirs_are_told_apart(executor: Executor) -> None:
    begun: list[int] = []

    async def job(number: int) -> None:
        begun.append(number)
        logger.warning("begins %d", number)
        while len(begun) < 2:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(logger.warning, "in a thread %d", number)

    futures = [executor.submit(job, number) for number in range(2)]
    for number, future in enumerate(futures):
        assert texts_at_end(executor, future) == [
            f"WARNING shop.mails: begins {number}",
            f"WARNING shop.mails: in a thread {number}",
        ]


def test_lines_are_seen_while_the_job_runs(executor: Executor) -> None:
    go_on = threading.Event()

    def job() -> None:
        logger.warning("begun")
        assert go_on.wait(TIMEOUT)

    future = executor.submit(job)
    until(lambda: texts_of(executor, future.id) == ["WARNING shop.mails: begun"])
    go_on.set()
    future.result(TIMEOUT)


def test_failures_are_in_the_log_with_the_tracebacks_that_are_nowhere_else(
    executor: Executor,
) -> None:
    def job() -> None:
        raise ValueError(f"attempt {current_job.attempt}")

    future = executor.using(name="odd", retries=1).submit(job)
    lines = texts_at_end(executor, future)
    record = record_of(executor, future.id)
    assert lines[0].startswith("WARNING shop: Attempt 1 of 2 of background job odd [")
    tail = record.log_tail or ""
    assert (tail.count("\nValueError: attempt 1"), tail.count("attempt 2")) == (1, 0)
    assert lines[-1] == f"ERROR shop: Exception in background job odd [{future.id}]"
    assert record.error is not None
    assert "ValueError: attempt 2" in record.error.traceback


def test_a_message_that_cannot_be_made_is_left_out(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", False)  # pytest's own handler would raise

    def job() -> None:
        logger.warning("%d", "text")
        logger.warning("next\n and its second line")

    future = executor.submit(job)
    future.result(TIMEOUT)
    until(lambda: record_of(executor, future.id).done)
    first, second = (record_of(executor, future.id).log_tail or "").splitlines()
    assert first.endswith("Z WARNING shop.mails: next")
    assert second == " and its second line"


def test_log_is_bounded_in_lines_and_bytes() -> None:
    tail = LogTail()
    tail.add(str(number) for number in range(300))
    assert tail.text().splitlines() == [str(number) for number in range(100, 300)]
    tail.add(["x" * 3000])
    assert tail.text().splitlines()[-1] == "x" * 2000 + "..."
    tail.add(["\N{SNOWMAN}" * 1999] * 200)
    text = tail.text()
    assert text.splitlines() == ["\N{SNOWMAN}" * 1999] * 10
    assert len(text.encode()) <= 64 * 1024
    tail.add(["\ud800"])  # which no store takes
    assert tail.text().splitlines()[-1] == "?"


def test_many_threads_add_lines_while_others_read() -> None:
    tail = LogTail()

    def add(name: str) -> None:
        for number in range(5000):
            tail.add([f"{name}{number}"])
            if number % 50 == 0:
                assert len(tail.text().splitlines()) <= 200

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, "abcd"))
    assert len(tail.text().splitlines()) == 200


def test_what_a_thread_logs_after_the_end_of_its_job_is_not_kept(executor: Executor) -> None:
    go_on, logged = threading.Event(), threading.Event()

    def late() -> None:
        assert go_on.wait(TIMEOUT)
        logger.warning("late")
        logged.set()

    def job() -> None:
        threading.Thread(target=copy_context().run, args=(late,)).start()

    future = executor.submit(job)
    assert texts_at_end(executor, future) == []
    go_on.set()
    assert logged.wait(TIMEOUT)
    assert texts_of(executor, future.id) == []


def test_what_a_coroutine_logs_after_it_was_cancelled_is_not_kept(executor: Executor) -> None:
    begun, cleaned_up = threading.Event(), threading.Event()

    async def job() -> None:
        logger.warning("begun")
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            logger.warning("cleaned up")
            cleaned_up.set()

    future = executor.submit(job)
    assert begun.wait(TIMEOUT)
    assert future.cancel()
    assert cleaned_up.wait(TIMEOUT)
    until(lambda: record_of(executor, future.id).done)
    assert texts_of(executor, future.id) == ["WARNING shop.mails: begun"]


def test_without_the_setting_nothing_is_caught_and_nothing_is_kept(tmp_path: Path) -> None:
    ended = run_script(
        f"""
        import logging
        from flask import Flask
        from flask_executor_typed import Executor

        app = Flask("shop", instance_path={str(tmp_path)!r})
        app.config["EXECUTOR_STORE"] = "sqlite:///jobs.db"
        executor = Executor(app)
        future = executor.submit(logging.getLogger("shop").warning, "logged")
        future.result(60)
        print(logging.getLogRecordFactory() is logging.LogRecord)
        print(executor.jobs.get(future.id).log_tail, vars(future).get("_log"))
        """
    )
    assert ended.stdout.splitlines() == ["True", "None None"], ended


def test_logging_of_the_app_is_as_it_was() -> None:
    ended = run_script(
        """
        import logging
        from flask import Flask
        from flask_executor_typed import Executor

        app = Flask("shop")
        app.config["EXECUTOR_STORE_LOGS"] = True
        executor = Executor(app)
        print(logging.getLogger().handlers, app.logger.handlers)
        executor.submit(logging.getLogger("other").warning, "to the last resort").result()
        logging.basicConfig(format="%(message)s", force=False)
        print(len(logging.getLogger().handlers))
        """
    )
    first, second = ended.stdout.splitlines()
    assert first.startswith("[] [<StreamHandler"), ended
    assert second == "1"
    assert ended.stderr == "to the last resort\n"


def test_factories_that_are_set_later_are_called_as_well(executor: Executor) -> None:
    catch_logs()
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.extra = "extra"
        return record

    logging.setLogRecordFactory(factory)
    try:
        future = executor.submit(logger.warning, "with extra")
        assert texts_at_end(executor, future) == ["WARNING shop.mails: with extra"]
    finally:
        logging.setLogRecordFactory(before)


def test_a_worker_process_sends_the_lines_that_its_job_logs(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/jobs.db"
    with serving(EXECUTOR_STORE_LOGS=True, EXECUTOR_STORE=store) as executor:
        futures = [executor.submit(log, f"line {number}") for number in range(2)]
        for number, future in enumerate(futures):
            future.result(START)
            assert texts_at_end(executor, future) == [f"WARNING working: line {number}"]


def test_show_prints_the_log_if_it_is_asked_to(tmp_path: Path) -> None:
    app = Flask("shop", instance_path=str(tmp_path))
    app.config.from_mapping(EXECUTOR_STORE="sqlite:///jobs.db", EXECUTOR_STORE_LOGS=True)
    run: Callable[..., Any] = app.test_cli_runner().invoke
    with Executor(app) as executor:
        future = executor.submit(logger.warning, "red: \x1b[31m")
        silent = executor.submit(int)
        for each in (future, silent):
            texts_at_end(executor, each)
        assert "x1b" not in run(args=["executor", "show", future.id]).output
        shown = run(args=["executor", "show", future.id, "--log"]).output
        assert shown.splitlines()[-2] == "  log:"
        assert shown.splitlines()[-1].endswith("Z WARNING shop.mails: red: \\x1b[31m")
        document = json.loads(run(args=["executor", "show", future.id, "--log", "--json"]).output)
        assert document["log"].endswith("WARNING shop.mails: red: \x1b[31m")
        assert "log" not in json.loads(run(args=["executor", "show", future.id, "--json"]).output)
        assert "  log: none is kept" in run(args=["executor", "show", silent.id, "--log"]).output
