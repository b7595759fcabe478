"""What CPython's own tests of executors and futures say about those of this package.

The only file that says where this package differs on purpose.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from .runner import ROOT, Context, Report, Suite, missing

LIMIT = 240  # seconds for one run; about 35 are usual, most of which are sleeps


class Difference(NamedTuple):
    """Why a test cannot pass here."""

    reason: str
    error: str
    """A part of the failure, so that a failure of another kind is not taken for this one."""


_REPR = "our futures show the function's name and a status in words"
_NAMES = "threads are named after the executor, which takes its name from Executor(name=...)"
_VALUES = "the error's text: ours names the value that was given"
_INITIALIZERS = "there are no initializers; a job has the contexts of its app instead"

DIFFERENCES: dict[str, Difference] = {
    "FutureTests.test_cancel": Difference(
        "_state: cancel() tells the waiters at once, so CANCELLED is never seen without NOTIFIED",
        "'CANCELLED_AND_NOTIFIED' != 'CANCELLED'",
    ),
    "FutureTests.test_done_callback_raises_already_succeeded": Difference(
        "the text that is logged: ours names the callback too",
        "'exception calling callback for' not found in 'exception calling callback <function",
    ),
    "FutureTests.test_multiple_set_exception": Difference(_REPR, 'not match "failed: <Future'),
    "FutureTests.test_multiple_set_result": Difference(_REPR, 'not match "succeeded: <Future'),
    "FutureTests.test_repr": Difference(_REPR, "not found in '<Future pending at"),
    "ThreadPoolExecutorTest.test_max_workers_negative": Difference(
        "the error's text: ours names the setting and its value",
        "EXECUTOR_MAX_WORKERS=0 (int): expected a whole number",
    ),
    "ThreadPoolExecutorTest.test_map_buffersize_type_validation": Difference(
        _VALUES, "buffersize=2.0: expected a whole number"
    ),
    "ThreadPoolExecutorTest.test_map_buffersize_value_validation": Difference(
        _VALUES, "buffersize=-1: expected 1 or more"
    ),
    "ThreadPoolFailingInitializerTest.test_initializer": Difference(
        _INITIALIZERS, "unexpected keyword argument 'initializer'"
    ),
    "ThreadPoolInitializerTest.test_initializer": Difference(
        _INITIALIZERS, "unexpected keyword argument 'initializer'"
    ),
    "ThreadPoolShutdownTest.test_submit_after_interpreter_shutdown": Difference(
        "the error's text: a RuntimeError of ours, or of the thread that Python refuses to start",
        "'RuntimeError: cannot schedule new futures' not found in",
    ),
    "ThreadPoolShutdownTest.test_thread_names_assigned": Difference(_NAMES, "_executor-worker-0'"),
    "ThreadPoolShutdownTest.test_thread_names_default": Difference(_NAMES, "_executor-worker-0'"),
}


def report_of(suite: Suite, context: Context) -> Report:
    """Run a suite in a child: it replaces classes of the standard library."""
    command = [sys.executable, "-m", "tests.conformance.runner", context, suite]
    try:
        child = subprocess.run(
            command, cwd=ROOT, timeout=LIMIT, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"{suite} tests took more than {LIMIT} seconds:\n{error.stderr!r}")
    if child.returncode != 0:
        pytest.fail(f"{suite} tests ended with {child.returncode}:\n{child.stderr[-5000:]}")
    report: Report = json.loads(child.stdout.splitlines()[-1])
    return report


@pytest.mark.parametrize(
    ("suite", "context", "at_least"),
    [
        ("concurrent", "app", 50),
        pytest.param("concurrent", "request", 50, marks=pytest.mark.slow),
        pytest.param("concurrent", "none", 50, marks=pytest.mark.slow),
        pytest.param("asyncio", "app", 40, marks=pytest.mark.slow),
        pytest.param("asyncio", "request", 40, marks=pytest.mark.slow),
        pytest.param("asyncio", "none", 40, marks=pytest.mark.slow),
    ],
)
def test_what_cpython_tests_holds_here_but_for_named_differences(
    suite: Suite, context: Context, at_least: int
) -> None:
    reason = missing(suite)
    if reason is not None:
        pytest.skip(reason)

    report = report_of(suite, context)

    failed = [
        f"{name}\n{text}"
        for name, text in report["failed"].items()
        if name not in DIFFERENCES or DIFFERENCES[name].error not in text
    ]
    assert not failed, "\n".join(failed)
    no_longer = DIFFERENCES.keys() & report["passed"]
    assert not no_longer, "these pass, so take them off the list of differences"
    assert not report["leaked"], "threads that outlived their executors"
    assert len(report["passed"]) >= at_least, "the runner finds fewer tests than there are"
