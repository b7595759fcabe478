"""What tests of a program say of its jobs: the arguments that they expect are checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, FutureProxy, Progress
from flask_executor_typed.pytest_plugin import OverrideSync
from flask_executor_typed.testing import (
    ExecutorCalls,
    JobEnvironment,
    SubmittedCall,
    override,
    record,
)

app = Flask("cases")
executor = Executor(app)


def plain(to: str, subject: str = "") -> int:
    return len(to + subject)


@executor.job
def job(to: str, subject: str = "") -> int:
    return len(to + subject)


@executor.job
async def ajob(to: str) -> bytes:
    return to.encode()


def calls_are_checked(executor_calls: ExecutorCalls) -> None:
    assert_type(executor_calls[0], SubmittedCall)
    assert_type(executor_calls[0].future, FutureProxy[Any])
    assert_type(executor_calls.of(job), list[SubmittedCall])
    assert_type(executor_calls.runs, bool)
    assert_type(executor_calls.assert_submitted(plain, "a", subject="b"), SubmittedCall)
    assert_type(executor_calls.assert_submitted(job, "a"), SubmittedCall)
    assert_type(executor_calls.assert_submitted(ajob, to=ANY), SubmittedCall)
    executor_calls.assert_submitted(plain)  # error: expected
    executor_calls.assert_submitted(plain, 1)  # error: expected
    executor_calls.assert_submitted(plain, "a", subjekt="b")  # error: expected
    executor_calls.assert_submitted(job, b"a")  # error: expected
    executor_calls.assert_submitted(ajob, "a", "b")  # error: expected
    executor_calls.assert_not_submitted(job)
    executor_calls.assert_not_submitted(job, "a")  # error: expected
    executor_calls.assert_not_submitted("job")  # error: expected
    executor_calls.wait(timeout=1.5)
    executor_calls.run("1")  # error: expected
    with executor_calls.expect_failure(ValueError, match="a") as errors:
        assert_type(errors, list[BaseException])
    executor_calls.expect_failure((ValueError, KeyError))
    executor_calls.expect_failure(ValueError())  # error: expected
    executor_calls[0].fn = plain  # error: expected


def executors_are_overridden(executor_sync: OverrideSync) -> Iterator[Executor[Any]]:
    assert_type(executor_sync(executor, app), Executor[Any])
    executor_sync(app, executor)  # error: expected
    with override(executor, app, type="thread", max_workers=1) as overridden:
        assert_type(overridden, Executor[Any])
        yield overridden
    override(executor, app, type="celery")  # error: expected
    override(executor)  # error: expected


with record(runs=False, portable=True) as calls:
    assert_type(calls, ExecutorCalls)
record(False)  # error: expected

with JobEnvironment(attempt=2, key="k") as environment:
    assert_type(environment.run(plain, "a"), int)
    assert_type(environment.run(job, "a", subject="b"), int)
    assert_type(environment.run(ajob, "a"), bytes)
    environment.run(plain, 1)  # error: expected
    environment.run(ajob)  # error: expected
    assert_type(environment.progress, list[Progress])
JobEnvironment(attempt="2")  # error: expected
