"""Jobs under the real structlog; test_carriers.py runs this in a process of its own.

Worker processes import this module too, and so have structlog as the server process has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, merge_contextvars

from flask_executor_typed import Executor
from tests.carriers.shop import create_app
from tests.conftest import TIMEOUT

START = 60.0


def entry_of(name: str) -> dict[str, Any]:
    """Return what a log entry of this job has."""
    bind_contextvars(job=name)
    entries: list[dict[str, Any]] = []

    def keep(logger: object, method: str, event: Any) -> Any:
        entries.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[merge_contextvars, keep])
    structlog.get_logger().info("done")
    (entry,) = entries
    return entry


async def coroutine_entry_of(name: str) -> dict[str, Any]:
    return entry_of(name)


both_kinds = pytest.mark.parametrize("job", [entry_of, coroutine_entry_of])


APP = f"{__name__}:create_app"
PROCESSES = [("process", APP), ("process", None), ("loky:get_reusable_executor", APP)]


@pytest.mark.parametrize(("kind", "path"), PROCESSES)
def test_what_is_bound_reaches_worker_processes_and_no_other_job(
    kind: str, path: str | None
) -> None:
    app = create_app(TYPE=kind, APP=path, MAX_WORKERS=1)
    executor: Executor = app.extensions["executor"]
    with executor:
        for job in entry_of, coroutine_entry_of:
            with bound_contextvars(request="r1"):
                results = executor.map(job, "ab", timeout=START)
            assert list(results) == [
                {"event": "done", "request": "r1", "job": name} for name in "ab"
            ]
        assert executor.submit(entry_of, "c").result(START) == {"event": "done", "job": "c"}


@both_kinds
def test_in_threads_it_travels_with_the_context_variables(job: Callable[[str], Any]) -> None:
    app = create_app()
    executor: Executor = app.extensions["executor"]
    with executor:
        with bound_contextvars(request="r1"):
            results = executor.map(job, "ab", timeout=TIMEOUT)
        assert list(results) == [{"event": "done", "request": "r1", "job": name} for name in "ab"]
        assert executor._current()[1].call_type.__name__ == "Call"  # without a carrier


def test_a_value_that_does_not_pickle_leaves_the_others_behind_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = create_app(TYPE="process")
    executor: Executor = app.extensions["executor"]
    with executor, bound_contextvars(lock=threading.Lock(), request="r1"):
        assert executor.submit(entry_of, "a").result(START) == {"event": "done", "job": "a"}
    (record,) = caplog.records
    assert "pickling for a worker process of carrier 'structlog'" in record.getMessage()
