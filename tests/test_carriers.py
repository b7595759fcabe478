"""What carriers do, when, and what becomes of a job when they fail; and the four of the package.

Those need their libraries, which change the process that they are in: tests/carriers.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask

from flask_executor_typed import ConfigError, Executor, carriers
from flask_executor_typed.backends.pickling import load_carried
from flask_executor_typed.calls import Carriers

from .apps import carrying
from .apps.carrying import FAILING, JOBS, Broken, Value, create_app, happened, see, value
from .conftest import TIMEOUT

ROOT = Path(__file__).parent.parent
START = 60.0
"""Seconds for worker processes to start, on a busy machine."""


@pytest.fixture(autouse=True)
def _nothing_has_happened() -> Iterator[None]:
    happened.clear()
    token = value.set("mine")
    yield
    value.reset(token)
    happened.clear()


@pytest.fixture
def served(app: Flask) -> Iterator[Callable[..., Executor]]:
    """Make executors of an app, with carriers; all are shut down after the test."""
    made: list[Executor] = []

    def serve(*given: Any, **settings: object) -> Executor:
        for name, setting in settings.items():
            app.config[f"EXECUTOR_{name}"] = setting
        made.append(Executor(app, carriers=given))
        return made[-1]

    yield serve
    for executor in made:
        executor.shutdown()


# -- when ------------------------------------------------------------------------------------------

in_this_process = pytest.mark.parametrize(
    "kind", ["thread", "sync", lambda: ThreadPoolExecutor(2)], ids=["thread", "sync", "borrowed"]
)
every_job = pytest.mark.parametrize("job", JOBS)
every_failing_job = pytest.mark.parametrize("job", FAILING)


@in_this_process
@every_job
def test_a_value_is_captured_at_submit_and_attached_in_the_contexts_of_the_job(
    kind: object, job: Callable[..., str]
) -> None:
    app = create_app(EXECUTOR_TYPE=kind)
    with carrying.executor as executor, app.app_context():
        future = executor.submit(job)
        assert happened[0] == "capture value mine"
        value.set("later")
        assert future.result(TIMEOUT) == "attached mine"
        executor.shutdown()
        assert happened == [
            "capture value mine",
            "attach value mine",
            "job in carrying",
            "detach value mine",
            "teardown mine",
        ]


def test_carriers_are_attached_in_their_order_and_left_in_the_opposite_one(
    served: Callable[..., Executor],
) -> None:
    executor = served(Value("a"), Value("b"))
    assert executor.submit(see).result(TIMEOUT) == "attached mine"
    executor.shutdown()
    assert happened == [
        "capture a mine",
        "capture b mine",
        "attach a mine",
        "attach b mine",
        "job in tests",
        "detach b mine",
        "detach a mine",
    ]


@in_this_process
@every_failing_job
def test_the_exception_of_a_job_passes_through_its_carriers(
    kind: object, job: Callable[..., object], served: Callable[..., Executor]
) -> None:
    executor = served(Value(), TYPE=kind)
    assert isinstance(executor.submit(job).exception(TIMEOUT), ZeroDivisionError)
    executor.shutdown()
    assert happened[-2:] == ["value saw ZeroDivisionError('no')", "detach value mine"]


@every_failing_job
def test_each_attempt_has_its_carriers_attached_anew(
    job: Callable[..., object], served: Callable[..., Executor]
) -> None:
    executor = served(Value())
    assert executor.using(retries=2).submit(job).exception(TIMEOUT) is not None
    executor.shutdown()
    attempt = [
        "attach value mine",
        "job in tests",
        "value saw ZeroDivisionError('no')",
        "detach value mine",
    ]
    assert happened == ["capture value mine", *attempt * 3]


@every_job
def test_the_calls_of_a_map_share_what_was_captured(
    job: Callable[..., str], served: Callable[..., Executor]
) -> None:
    executor = served(Value())
    results = executor.map(job, range(3), timeout=TIMEOUT, buffersize=1)
    value.set("later")  # what is submitted from now on has the context of the map
    assert list(results) == ["attached mine"] * 3
    executor.shutdown()
    assert sorted(happened).count("attach value mine") == 3
    assert sorted(happened).count("capture value mine") == 1


def test_a_chunk_of_a_map_has_its_carriers_attached_once(served: Callable[..., Executor]) -> None:
    executor = served(Value())
    assert list(executor.map(see, range(6), chunksize=3)) == ["attached mine"] * 6
    executor.shutdown()
    assert happened.count("attach value mine") == 2


def test_a_job_that_waits_for_the_response_was_captured_before(
    app: Flask, served: Callable[..., Executor]
) -> None:
    executor = served(Value())

    @app.get("/")
    def view() -> str:
        value.set("the view's")
        executor.after_response().submit(see)
        value.set("later")
        assert happened == ["capture value the view's"]
        return ""

    app.test_client().get("/")
    executor.shutdown()
    assert "attach value the view's" in happened


def test_a_cancelled_coroutine_leaves_its_carriers(served: Callable[..., Executor]) -> None:
    began = threading.Event()

    async def sleep() -> None:
        began.set()
        await asyncio.sleep(TIMEOUT)

    executor = served(Value())
    future = executor.submit(sleep)
    assert began.wait(TIMEOUT)
    assert future.cancel()
    executor.shutdown()
    assert happened[-2:] == ["value saw CancelledError()", "detach value mine"]


def test_a_job_of_an_executor_without_carriers_has_none_of_the_job_around_it(
    app: Flask, served: Callable[..., Executor]
) -> None:
    executor = served(Value())
    with Executor(app, name="other", carriers=()) as other:
        assert executor.submit(lambda: other.submit(see).result(TIMEOUT)).result(TIMEOUT) == (
            "attached mine"  # by way of the context variables
        )
    executor.shutdown()
    assert [each for each in happened if each.startswith("attach")] == ["attach value mine"]


def test_a_done_callback_runs_without_carriers(served: Callable[..., Executor]) -> None:
    executor = served(Value())
    seen: list[str] = []
    executor.add_default_done_callback(lambda future: seen.append(value.get()))
    executor.submit(see).result(TIMEOUT)
    executor.shutdown()
    assert seen == ["mine"]


# -- in other processes ----------------------------------------------------------------------------

_PROCESSES: dict[str, object] = {"process": "process", "loky": "loky:get_reusable_executor"}


@pytest.fixture(params=_PROCESSES)
def elsewhere(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(request.param) is None and request.param != "process":
        pytest.skip(f"{request.param} is not installed")
    name: str = request.param
    return name


def what_happened() -> list[str]:
    """A job: what has happened so far in this worker process."""
    return happened.copy()


def test_a_captured_value_travels_to_worker_processes(elsewhere: str) -> None:
    app = create_app(EXECUTOR_TYPE=_PROCESSES[elsewhere], EXECUTOR_MAX_WORKERS=1)
    with carrying.executor as executor, app.app_context():
        for job in JOBS:
            assert executor.submit(job).result(START) == "attached mine"
        assert list(executor.map(see, range(2), timeout=START)) == ["attached mine"] * 2
    assert happened == [*["capture value mine"] * 4, "teardown mine"]


def test_in_a_worker_process_carriers_are_attached_in_the_contexts_of_the_job() -> None:
    app = create_app(EXECUTOR_TYPE="process", EXECUTOR_MAX_WORKERS=1)
    with carrying.executor as executor, app.app_context():
        assert executor.submit(see).result(START) == "attached mine"
        assert executor.submit(what_happened).result(START) == [
            "attach value mine",
            "job in carrying",
            "detach value mine",
            "teardown none",  # context variables do not travel
            "attach value mine",  # of this job
        ]


@every_failing_job
def test_in_a_worker_process_each_attempt_has_its_carriers_attached(
    job: Callable[..., object],
) -> None:
    app = create_app(EXECUTOR_TYPE="process", EXECUTOR_MAX_WORKERS=1)
    with carrying.executor as executor, app.app_context():
        assert isinstance(executor.using(retries=1).submit(job).exception(START), ZeroDivisionError)
        there = executor.submit(what_happened).result(START)
    attempt = [
        "attach value mine",
        "job in carrying",
        "value saw ZeroDivisionError('no')",
        "detach value mine",
        "teardown none",
    ]
    assert there == [*attempt * 2, "attach value mine"]


def test_a_failure_in_a_worker_process_is_logged_with_its_carriers_attached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(f"{record.getMessage().split()[0]} with value {value.get()}")

    app = create_app(EXECUTOR_TYPE="process", EXECUTOR_MAX_WORKERS=1)
    app.logger.addHandler(handler := Handler())
    try:
        with carrying.executor as executor, app.app_context():
            executor.using(retries=1).submit(carrying.fail).exception(START)
    finally:
        app.logger.removeHandler(handler)
    assert seen == ["Attempt with value attached mine", "Exception with value attached mine"]


def test_what_does_not_pickle_is_logged_once_and_the_job_runs(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    app.config["EXECUTOR_TYPE"] = "process"
    with Executor(app, carriers=[Broken("pickle"), Value()]) as executor:
        for _ in range(2):
            assert executor.submit(abs, -1).result(START) == 1
    (record,) = caplog.records
    assert record.getMessage() == (
        "pickling for a worker process of carrier 'broken' failed: jobs run without it, and this "
        "is not logged again"
    )


def test_a_worker_process_that_does_not_know_a_carrier_runs_the_job_without_it(app: Flask) -> None:
    app.config["EXECUTOR_TYPE"] = "process"  # without EXECUTOR_APP
    with Executor(app, carriers=[Value()]) as executor:
        assert executor.submit(see).result(START) == "none"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("value", "this process has no carrier 'value'; give it to the executor of EXECUTOR_APP"),
        ("broken", "broken load"),
    ],
)
def test_what_a_worker_process_cannot_load_is_logged_there_once(
    app: Flask, caplog: pytest.LogCaptureFixture, name: str, reason: str
) -> None:
    broken, good = Broken("load"), Value("good")
    pickled = {
        name: pickle.dumps(broken.capture() if name == "broken" else "mine"),
        "good": pickle.dumps("mine"),
    }
    there = Carriers([broken, good])
    for _ in range(2):
        assert load_carried(there, pickled, app).values == ((good, "mine"),)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"loading in a worker process of carrier {name!r} failed: jobs run without it, and this "
        "is not logged again"
    )
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == reason


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("capture", "capture()"),
        ("attach", "attach()"),
        ("enter", "attach()"),
        ("exit", "the end of attach()"),
    ],
)
@every_job
def test_a_carrier_that_fails_is_logged_once_and_the_job_runs_without_it(
    step: str,
    words: str,
    job: Callable[..., str],
    served: Callable[..., Executor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = served(Value("a"), Broken(step), Value("b"))
    for _ in range(2):
        assert executor.submit(job).result(TIMEOUT) == "attached mine"
    executor.shutdown()
    (record,) = caplog.records
    assert record.name == "tests"
    assert record.levelname == "ERROR"
    assert record.getMessage() == (
        f"{words} of carrier 'broken' failed: jobs run without it, and this is not logged again"
    )
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == f"broken {step}"
    for name in "ab":  # the others were attached and left all the same
        assert happened.count(f"attach {name} mine") == happened.count(f"detach {name} mine") == 2


@every_failing_job
@pytest.mark.parametrize("step", ["none", "exit"])
def test_a_carrier_cannot_suppress_or_replace_what_the_job_raises(
    step: str, job: Callable[..., object], served: Callable[..., Executor]
) -> None:
    executor = served(Value("a"), Broken(step))
    assert isinstance(executor.submit(job).exception(TIMEOUT), ZeroDivisionError)
    executor.shutdown()
    assert "a saw ZeroDivisionError('no')" in happened


# -- which -----------------------------------------------------------------------------------------


def test_the_argument_replaces_the_setting(app: Flask) -> None:
    app.config["EXECUTOR_CARRIERS"] = [Value("of the setting")]
    for given, names in (
        (None, ["of the setting"]),
        ([Value("of the argument")], ["of the argument"]),
        ([], []),
    ):
        happened.clear()
        with Executor(app, carriers=given) as executor:
            executor.submit(see).result(TIMEOUT)
        assert [each for each in happened if "capture" in each] == [
            f"capture {name} mine" for name in names
        ]


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        (["tests.apps.carrying:carrier", Value("b")], ["value", "b"]),
        (("tests.apps.carrying:carrier",), ["value"]),
        ("tests.apps.carrying:carrier", ["value"]),
        (" tests.apps.carrying:carrier , tests.apps.carrying:other,", ["value", "other"]),
        ("", []),
        ([], []),
    ],
)
def test_the_setting_lists_carriers_or_names_them(
    app: Flask, setting: object, names: list[str]
) -> None:
    app.config["EXECUTOR_CARRIERS"] = setting
    with Executor(app) as executor:
        executor.submit(see).result(TIMEOUT)
    assert [each for each in happened if "capture" in each] == [
        f"capture {name} mine" for name in names
    ]


EXPECTED = (
    "expected a list of carriers, each with a name, capture() and attach(), or with "
    "'package.module:carrier' for one"
)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (7, "this is not a list"),
        ([7], "7 is not a carrier"),
        ([Value("a"), Value("a")], "two have the name 'a'"),
        (
            ["tests.none:it"],
            "'tests.none:it' names nothing that can be imported (No module named 'tests.none')",
        ),
    ],
)
def test_what_is_no_list_of_carriers_is_refused_with_the_reason(
    app: Flask, given: Any, problem: str
) -> None:
    message = f"carriers={given!r}: {EXPECTED}; {problem}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Executor(app, carriers=given)
    app.config["EXECUTOR_CARRIERS"] = given
    with pytest.raises(ConfigError) as refused:
        Executor(app)
    kind = type(given).__name__
    assert str(refused.value) == (
        f"EXECUTOR_CARRIERS={given!r} ({kind}): {EXPECTED} ({problem}); set it before init_app()"
    )


def test_one_name_as_an_argument_is_refused(app: Flask) -> None:
    given: Any = "tests.apps.carrying:carrier"
    with pytest.raises(ValueError, match="this is not a list"):
        Executor(app, carriers=given)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A library that takes part by default, as soon as it is imported."""
    monkeypatch.setattr(carriers, "_BUILT_IN", {"a_library": Value("library")})
    return ModuleType("a_library")


def test_by_default_libraries_take_part_that_are_imported_at_the_first_submit(
    app: Flask, library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carriers, "_IN_THREADS", frozenset({"library"}))
    with Executor(app) as executor:
        executor.submit(see).result(TIMEOUT)
        monkeypatch.setitem(sys.modules, library.__name__, library)
        executor.submit(see).result(TIMEOUT)
        assert happened == ["job in tests"] * 2  # too late for this app
    with Executor(app) as executor:
        executor.submit(see).result(TIMEOUT)
        assert "capture library mine" in happened


def test_a_library_that_uses_context_variables_takes_part_in_other_processes_only(
    app: Flask, library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library.__name__, library)
    with Executor(app) as executor:
        executor.submit(see).result(TIMEOUT)
    assert happened == ["job in tests"]
    app.config["EXECUTOR_TYPE"] = "process"
    with Executor(app) as executor:
        executor.submit(abs, -1).result(START)
    assert happened[1:] == ["capture library mine"]


def test_without_carriers_a_call_is_a_plain_one(
    app: Flask, executor: Executor, library: ModuleType
) -> None:
    executor.submit(see).result(TIMEOUT)
    state = executor._current()[1]
    assert state.call_type.__name__ == "Call"


# -- the four of the package -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "library"),
    [
        ("sentry", "sentry_sdk"),
        ("ddtrace", "ddtrace"),
        ("opentelemetry", "opentelemetry.sdk"),
        ("structlog", "structlog"),
    ],
)
def test_under_the_library_itself(program: str, library: str) -> None:
    pytest.importorskip(library.partition(".")[0])
    path = ROOT / "tests" / "carriers" / f"run_{program}.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1000,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
