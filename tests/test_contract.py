"""What every backend promises: one suite, run over each of them.

A backend declares what more it can do. What it declares must work, and all else must be refused
with a reason.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g

from flask_executor_typed import (
    DuplicateKeyError,
    Executor,
    ExecutorClosedError,
    FutureProxy,
    JobTimeoutError,
    OutsideContextError,
    Progress,
    RemoteTracebackError,
    Results,
    UnpicklableError,
    UnsupportedError,
)
from flask_executor_typed.backends import Capabilities
from flask_executor_typed.engines.celery import CeleryEngine
from flask_executor_typed.engines.dask import DaskEngine
from flask_executor_typed.futures import facts_of

from .apps import working
from .conftest import TIMEOUT
from .helpers.workers import START, until


def make_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2)


def make_loky() -> Any:
    loky: Any = pytest.importorskip("loky")
    return loky.ProcessPoolExecutor(2)


TYPES: dict[str, object] = {
    "thread": "thread",
    "sync": "sync",
    "process": "process",
    "interpreter": "interpreter",
    "ThreadPoolExecutor": make_threads,
    "ProcessPoolExecutor": "tests.helpers.workers:make_processes",
    "loky": make_loky,
}
"""Each backend, as ``EXECUTOR_TYPE`` gives it."""

_OF_ENGINES = {"routing", "delay"}
_OF_THREADS = {field.name for field in fields(Capabilities)} - {"kill"} - _OF_ENGINES
_OF_PROCESSES = {field.name for field in fields(Capabilities)} - {"shared_memory"} - _OF_ENGINES
DECLARED: dict[str, set[str]] = {
    "thread": _OF_THREADS,
    "sync": _OF_THREADS,
    "process": _OF_PROCESSES,
    "interpreter": {"contexts"},
    "ThreadPoolExecutor": _OF_THREADS,
    "ProcessPoolExecutor": {"contexts", "coroutines"},
    "loky": {"contexts", "coroutines"},
}
"""What each can do."""

QUEUEING = [name for name in TYPES if name != "sync"]
"""Those with which a call may be pending."""


@dataclass
class Contract:
    name: str
    app: Flask
    executor: Executor

    @property
    def capabilities(self) -> Capabilities:
        return self.executor._current()[1].backend(self.app).capabilities

    def start(self, path: Path, fn: Callable[..., object], *args: Any) -> FutureProxy[Any]:
        """Submit in another thread, which may have to wait, and return when ``path`` is there."""
        key = f"started {path}"
        call = threading.Thread(target=self.executor.submit_stored, args=(key, fn, path, *args))
        call.start()
        until(lambda: path.exists() and path.read_text())
        future = self.executor.futures.get(key)
        assert future is not None
        return future


def open_contract(name: str, **settings: object) -> Contract:
    if name == "interpreter" and sys.version_info < (3, 14):
        pytest.skip("interpreter pools are new in Python 3.14")
    if name == "loky" and importlib.util.find_spec("loky") is None:
        pytest.skip("loky is not installed")
    given = {"EXECUTOR_TYPE": TYPES[name], "EXECUTOR_MAX_WORKERS": 2, **settings}
    app = working.create_app(**given)
    return Contract(name, app, Executor(app))


@pytest.fixture(scope="module", params=TYPES)
def contract(request: pytest.FixtureRequest) -> Iterator[Contract]:
    """One pool of each kind for the module: starting processes is slow."""
    contract = open_contract(request.param)
    yield contract
    contract.executor.shutdown()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Jobs wait until this file is there; it is when the test is over, however that ends."""
    yield tmp_path / "end"
    (tmp_path / "end").touch()


def on(names: list[str]) -> pytest.MarkDecorator:
    """Run a test over these backends only."""
    return pytest.mark.parametrize("contract", names, indirect=True, scope="module")


def having(*capabilities: str) -> pytest.MarkDecorator:
    return on([name for name in TYPES if DECLARED[name].issuperset(capabilities)])


def lacking(capability: str) -> pytest.MarkDecorator:
    return on([name for name in TYPES if capability not in DECLARED[name]])


def refusal(contract: Contract, name: str, capability: str) -> str:
    """The beginning of the message, as a pattern: what was asked, of which backend."""
    setting = TYPES[contract.name]
    backend = f"EXECUTOR_TYPE='{setting}'" if contract.name == setting else f".*{contract.name}"
    return rf"^{name}: {backend}.* cannot {capability}; "


# -- every backend ---------------------------------------------------------------------------------


def test_backend_declares_what_it_can_do(contract: Contract) -> None:
    assert contract.capabilities.names() == DECLARED[contract.name]


DECLARED_BY_ENGINES = {
    "celery": CeleryEngine.capabilities.names(),
    "dask": DaskEngine.capabilities.names(),
}


def test_documentation_has_the_same_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "backends.rst"
    row = r"^    \* - (.+)\n((?:      - (?:yes|no)\n)+)"
    rows = re.findall(row, page.read_text("utf-8"), re.MULTILINE)
    shown = {name.strip("`'"): re.findall("yes|no", cells) for name, cells in rows}
    wanted = {
        name: ["yes" if field.name in declared else "no" for field in fields(Capabilities)]
        for name, declared in {**DECLARED, **DECLARED_BY_ENGINES}.items()
    }
    assert shown == wanted


def test_call_gives_its_result(contract: Contract) -> None:
    assert contract.executor.submit(working.add, 2, b=3).result(START) == 5


def test_call_that_fails_gives_its_exception_and_is_logged_once(
    contract: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        future = contract.executor.submit(working.fail, "nothing there")
        error = future.exception(START)
    assert repr(error) == "LookupError('nothing there')"
    assert caplog.messages == [f"Exception in background job fail [{future.id}]"]
    (record,) = caplog.records
    assert (record.module, record.funcName) == ("working", "fail")
    assert record.lineno == working.fail.__code__.co_firstlineno + 1  # where it raises
    facts = {name: vars(record)[name] for name in ("job", "job_id", "job_key", "job_attempt")}
    assert facts == {"job": "fail", "job_id": future.id, "job_key": None, "job_attempt": 1}
    assert "submitted at" not in caplog.text


@pytest.mark.parametrize("name", TYPES)
def test_in_debug_mode_a_failure_names_the_line_that_submitted_the_call(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    contract = open_contract(name)
    contract.app.debug = True
    with contract.executor as executor:
        error = executor.submit(working.fail, "nothing there").exception(START)
    (note,) = getattr(error, "__notes__", [])
    assert re.fullmatch(rf"submitted at {re.escape(__file__)}:\d+", note)
    assert note in caplog.text


def test_future_tells_id_name_status_and_times(contract: Contract) -> None:
    future = contract.executor.using(name="sum").submit(working.add, 1)
    future.result(START)
    failed = contract.executor.submit(working.fail, "no")
    assert isinstance(failed.exception(START), LookupError)
    assert (future.name, future.status, failed.name, failed.status) == (
        "sum",
        "succeeded",
        "fail",
        "failed",
    )
    assert len({future.id, failed.id}) == 2
    for each in (future, failed):
        assert each.started_at is not None
        assert each.finished_at is not None
        assert each.submitted_at <= each.started_at <= each.finished_at
    ids = contract.executor.submit(working.about_current_job)
    assert ids.result(START)["id"] == ids.id


def test_job_is_running_while_it_runs(contract: Contract, tmp_path: Path, gate: Path) -> None:
    future = contract.start(tmp_path / "begun", working.write_and_wait, gate)
    until(future.running)
    assert (future.status, future.done()) == ("running", False)
    gate.touch()
    future.result(TIMEOUT)


def test_callbacks_are_called_once_and_in_order(
    contract: Contract, tmp_path: Path, gate: Path
) -> None:
    called: list[str] = []
    future = contract.start(tmp_path / "begun", working.write_and_wait, gate)
    future.add_done_callback(lambda _: called.append("first"))
    future.add_done_callback(lambda _: called.append("second"))
    over = threading.Event()
    future.add_done_callback(lambda _: over.set())
    gate.touch()
    assert over.wait(TIMEOUT)
    future.add_done_callback(lambda _: called.append("late"))
    assert called == ["first", "second", "late"]


def test_future_is_kept_by_its_key(contract: Contract) -> None:
    executor = contract.executor
    kept = executor.submit_stored("kept", working.add, 1, 1)
    with pytest.raises(DuplicateKeyError):
        executor.submit_stored("kept", working.add, 2, 2)
    assert executor.futures.get("kept") is kept
    assert executor.futures.result("kept", timeout=START) == 2
    replaced = executor.using(key="kept", on_duplicate="replace").submit(working.add, 3)
    assert executor.futures.pop("kept") is replaced
    assert replaced.result(TIMEOUT) == 3
    seen = executor.using(key="mine").submit(working.about_current_job)
    assert seen.result(TIMEOUT)["key"] == "mine"
    executor.futures.pop("mine")


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_gives_all_results_in_order(contract: Contract, chunksize: int) -> None:
    def results() -> Results[int]:
        return contract.executor.map(working.add, range(10), range(10), chunksize=chunksize)

    async def awaited() -> list[int]:
        return [result async for result in results()]

    assert list(results()) == [2 * n for n in range(10)]
    assert asyncio.run(awaited()) == [2 * n for n in range(10)]


def test_results_can_be_awaited_on_any_loop(contract: Contract) -> None:
    async def wait() -> tuple[list[int], list[int]]:
        several = [contract.executor.submit(working.add, n) for n in range(3)]
        mapped = [n async for n in contract.executor.map(working.add, range(5), buffersize=2)]
        return await asyncio.gather(*several), mapped

    assert asyncio.run(wait()) == ([0, 1, 2], [0, 1, 2, 3, 4])


def test_futures_work_with_wait_and_as_completed(contract: Contract) -> None:
    futures = [contract.executor.submit(working.add, n) for n in range(4)]
    assert concurrent.futures.wait(futures, START).done == set(futures)
    completed = concurrent.futures.as_completed(futures, TIMEOUT)
    assert sorted(future.result() for future in completed) == [0, 1, 2, 3]


def test_held_call_can_be_cancelled_and_never_runs(contract: Contract, tmp_path: Path) -> None:
    futures: list[FutureProxy[str]] = []

    def view(lang: str, number: int) -> str:
        later = contract.executor.after_response().submit
        futures.extend(later(working.append, tmp_path / "ran", f"{n}") for n in range(2))
        assert futures[0].status == "pending"
        assert futures[0].cancel() is True
        return ""

    contract.app.view_functions["thing"] = view
    with contract.app.test_client().get("/en/things/7"):
        pass
    assert futures[1].result(START) == "1"
    assert (futures[0].status, (tmp_path / "ran").read_text()) == ("cancelled", "1\n")


@on(QUEUEING)
def test_pending_call_can_be_cancelled_and_never_runs(
    contract: Contract, tmp_path: Path, gate: Path
) -> None:
    ran = tmp_path / "ran"
    ran.touch()
    # Pools of processes fetch a few calls ahead, and those cannot be cancelled any more.
    blocked = [
        contract.start(tmp_path / f"begun {n}", working.write_and_wait, gate) for n in range(2)
    ]
    fetched = [contract.executor.submit(working.append, ran, "fetched") for _ in range(8)]
    last = contract.executor.submit(working.append, ran, "last")
    assert last.cancel() is True
    assert (last.status, last.cancel()) == ("cancelled", True)
    record = contract.executor.jobs.get(last.id)
    assert record is not None
    assert record.cancel_requested
    gate.touch()
    concurrent.futures.wait([*blocked, *fetched], START)
    assert ran.read_text() == "fetched\n" * 8
    with pytest.raises(concurrent.futures.CancelledError):
        last.result(TIMEOUT)


def test_no_call_is_lost_or_run_twice_when_many_threads_submit(
    contract: Contract, tmp_path: Path
) -> None:
    path = tmp_path / "ran"

    def submit(name: str) -> list[FutureProxy[str]]:
        return [contract.executor.submit(working.append, path, f"{name} {n}") for n in range(50)]

    with ThreadPoolExecutor(4) as submitters:
        futures = [future for some in submitters.map(submit, "abcd") for future in some]
    results = [future.result(START) for future in futures]
    assert results == [f"{name} {n}" for name in "abcd" for n in range(50)]
    assert sorted(path.read_text().splitlines()) == sorted(results)


def test_job_leaves_nothing_with_its_submitter(contract: Contract) -> None:
    token = working.variable.set("the submitter's")
    try:
        with contract.app.app_context():
            g.submitters = "g"
            written = contract.executor.submit(working.write_to_g, "written", 1)
            assert written.result(START) == "g"
            assert vars(g) == {"submitters": "g"}
        assert working.variable.get() == "the submitter's"
    finally:
        working.variable.reset(token)


@pytest.mark.parametrize("name", TYPES)
def test_shutdown_waits_for_what_was_accepted_and_refuses_the_rest(name: str) -> None:
    contract = open_contract(name)
    executor = contract.executor
    futures = [executor.submit(working.add, n) for n in range(6)]
    executor.shutdown()
    assert [future.done() for future in futures] == [True] * 6
    assert [future.result() for future in futures] == list(range(6))
    with pytest.raises(ExecutorClosedError):
        executor.submit(working.add, 1)
    executor.init_app(contract.app)
    assert executor.submit(working.add, 7).result(START) == 7
    executor.shutdown()


@pytest.mark.parametrize("name", QUEUEING)
def test_shutdown_with_cancel_futures_ends_every_call_once(
    name: str, tmp_path: Path, gate: Path
) -> None:
    contract = open_contract(name)
    ran = tmp_path / "ran"
    ran.touch()
    blocked = [
        contract.start(tmp_path / f"begun {n}", working.write_and_wait, gate) for n in range(2)
    ]
    futures = [contract.executor.submit(working.append, ran, str(n)) for n in range(10)]
    contract.executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    contract.executor.shutdown()
    assert all(future.done() for future in [*blocked, *futures])
    assert futures[-1].cancelled()
    done = [str(n) for n, future in enumerate(futures) if not future.cancelled()]
    assert sorted(ran.read_text().split()) == done
    for future in futures:
        assert facts_of(future).cancel_requested == future.cancelled()


@pytest.mark.parametrize("name", TYPES)
def test_callback_may_shut_down(name: str) -> None:
    contract = open_contract(name)
    contract.executor.add_default_done_callback(lambda _: contract.executor.shutdown())
    assert contract.executor.submit(working.add, 1).result(START) == 1
    contract.executor.shutdown()


# -- what a backend may declare, and how the lack of it is told ------------------------------------


@having("contexts")
def test_contexts_job_has_the_app_and_a_copy_of_g_and_the_request(contract: Contract) -> None:
    executor = contract.executor
    assert executor.submit(working.greeting).result(START) == "hello from working"
    with contract.app.test_request_context("/en/things/7?colour=red"):
        g.name = "ada"
        assert executor.submit(working.names_of_g).result(TIMEOUT) == {"name": "ada"}
        assert executor.submit(working.read, "url").result(TIMEOUT).endswith("?colour=red")


@pytest.mark.parametrize("name", [n for n in TYPES if "shared_memory" not in DECLARED[n]])
def test_contexts_are_missing_without_the_app_and_the_job_is_told_what_to_set(name: str) -> None:
    contract = open_contract(name, EXECUTOR_APP=None)
    with contract.executor as executor:
        assert "contexts" not in contract.capabilities.names()
        with pytest.raises(OutsideContextError, match="set EXECUTOR_APP = 'package"):
            executor.submit(working.greeting).result(START)


@having("shared_memory")
def test_shared_memory_arguments_and_results_are_the_things_themselves(contract: Contract) -> None:
    lock = threading.Lock()
    assert contract.executor.submit(working.echo, lock).result(TIMEOUT) is lock
    assert contract.executor.submit(lambda: lock).result(TIMEOUT) is lock
    error = contract.executor.submit(working.fail, "here").exception(TIMEOUT)
    assert error is not None
    assert error.__cause__ is None


@lacking("shared_memory")
def test_shared_memory_lack_is_an_error_that_names_what_cannot_travel(contract: Contract) -> None:
    executor = contract.executor
    with pytest.raises(UnpicklableError, match=r"^echo: argument 1 cannot be sent"):
        executor.submit(working.echo, threading.Lock())
    with pytest.raises(UnpicklableError, match="the function itself"):
        executor.submit_stored("lambda", lambda: 1)
    assert executor.futures.get("lambda") is None
    with pytest.raises(UnpicklableError, match="its result cannot be sent"):
        executor.submit(working.give_lock).result(START)
    with pytest.raises(UnpicklableError, match="its outcome cannot be sent"):
        executor.submit(working.only_there).result(START)
    assert executor.submit(working.add, 1).result(START) == 1


@lacking("shared_memory")
def test_shared_memory_lack_means_a_remote_traceback(contract: Contract) -> None:
    error = contract.executor.submit(working.fail, "there").exception(START)
    assert error is not None
    assert isinstance(error.__cause__, RemoteTracebackError)
    assert "in fail" in error.__cause__.text


@having("coroutines")
def test_coroutines_run_in_contexts_on_a_loop_that_lasts(contract: Contract) -> None:
    seen = {contract.executor.submit(working.loop_and_thread).result(START) for _ in range(6)}
    assert len(seen) <= 2  # workers of another process have one each
    assert {name for _, _, name in seen} == {"working"}
    assert contract.executor.submit(working.returns_a_coroutine).result(START)[2] == "working"
    assert list(contract.executor.map(working.squared_soon.fn, range(3))) == [0, 1, 4]


@lacking("coroutines")
def test_coroutines_lack_is_refused_at_submit(contract: Contract) -> None:
    pattern = refusal(contract, "loop_and_thread", "run async def jobs")
    with pytest.raises(UnsupportedError, match=pattern):
        contract.executor.submit(working.loop_and_thread)
    with pytest.raises(UnsupportedError, match="cannot await what it returned"):
        contract.executor.submit(working.returns_a_coroutine).result(START)


@having("progress")
def test_progress_reaches_the_future(contract: Contract) -> None:
    future = contract.executor.submit(working.report, 3)
    assert future.result(START) == 3
    assert future.progress == Progress(3, 3, "step 3")


@lacking("progress")
def test_progress_lack_is_refused_where_it_is_told(contract: Contract) -> None:
    with pytest.raises(UnsupportedError, match=refusal(contract, "report", "report progress")):
        contract.executor.submit(working.report, 3).result(START)


@having("cancel_running")
def test_cancel_running_asks_a_function(contract: Contract, tmp_path: Path) -> None:
    future = contract.start(tmp_path / "begun", working.wait_until_asked, tmp_path / "end")
    assert future.cancel() is False
    assert future.result(TIMEOUT) == "asked"


@having("cancel_running", "coroutines")
def test_cancel_running_stops_a_coroutine(contract: Contract, tmp_path: Path) -> None:
    end = tmp_path / "end"
    future = contract.start(tmp_path / "begun", working.write_and_wait_async, end)
    assert future.cancel() is True
    assert future.cancelled()
    until(lambda: end.exists() and end.read_text())


@lacking("cancel_running")
def test_cancel_running_lack_lets_the_job_go_on(
    contract: Contract, tmp_path: Path, gate: Path
) -> None:
    future = contract.start(tmp_path / "begun", working.write_and_wait, gate)
    until(future.running)
    assert future.cancel() is False
    gate.touch()
    assert future.result(TIMEOUT) == int((tmp_path / "begun").read_text())


@having("kill")
def test_kill_ends_a_running_function(contract: Contract, tmp_path: Path) -> None:
    future = contract.start(tmp_path / "begun", working.write_and_wait)
    assert future.cancel(kill=True) is True
    assert future.status == "cancelled"


@lacking("kill")
def test_kill_lack_is_refused_and_the_job_goes_on(
    contract: Contract, tmp_path: Path, gate: Path
) -> None:
    future = contract.start(tmp_path / "begun", working.write_and_wait, gate)
    until(future.running)
    pattern = refusal(contract, "write_and_wait", "kill a running job")
    with pytest.raises(UnsupportedError, match=pattern):
        future.cancel(kill=True)
    gate.touch()
    future.result(TIMEOUT)
    assert future.cancel(kill=True) is False


@having("time_limits")
def test_time_limits_fail_a_call_that_takes_too_long(contract: Contract, tmp_path: Path) -> None:
    limited = contract.executor.using(timeout=0.3)
    late = limited.submit(working.wait_until_asked, tmp_path / "begun", tmp_path / "end")
    assert isinstance(late.exception(START), JobTimeoutError)


@having("time_limits", "coroutines")
def test_time_limits_end_a_coroutine(contract: Contract, tmp_path: Path) -> None:
    limited = contract.executor.using(timeout=0.3)
    late = limited.submit(working.write_and_wait_async, tmp_path / "pid", tmp_path / "end")
    assert isinstance(late.exception(START), JobTimeoutError)


@lacking("time_limits")
def test_time_limits_lack_is_refused_at_submit(contract: Contract) -> None:
    limited = contract.executor.using(timeout=1)
    with pytest.raises(UnsupportedError, match=refusal(contract, "add", "enforce time limits")):
        limited.submit(working.add, 1)
    with pytest.raises(UnsupportedError):
        limited.submit_stored("limited", working.add, 1)
    assert contract.executor.futures.get("limited") is None
    assert contract.executor.using(timeout=float("inf")).submit(working.add, 1).result(START) == 1


@having("retries")
def test_retries_run_a_failed_call_again(contract: Contract, tmp_path: Path) -> None:
    path = tmp_path / "attempts"
    future = contract.executor.using(retries=2).submit(working.fail_until, path, 3)
    assert future.result(START) == 3
    assert path.read_text() == "1\n2\n3\n"


@lacking("retries")
def test_retries_lack_is_refused_at_submit(contract: Contract, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=refusal(contract, "fail_until", "retry a job")):
        contract.executor.using(retries=2).submit(working.fail_until, tmp_path / "a", 3)


@pytest.mark.parametrize(
    ("options", "capability"),
    [
        ({"queue": "gpu"}, "route a job or let it expire"),
        ({"priority": 0}, "route a job or let it expire"),
        ({"expires": 60}, "route a job or let it expire"),
        ({"delay": 1}, "delay a job"),
    ],
)
def test_what_only_engines_can_do_is_refused_at_submit(
    contract: Contract, options: dict[str, Any], capability: str
) -> None:
    special = contract.executor.using(key="special", **options)
    pattern = rf"^add: EXECUTOR_TYPE=.* cannot {capability}; use EXECUTOR_TYPE='celery', or submit "
    with pytest.raises(UnsupportedError, match=pattern):
        special.submit(working.add, 1)
    with contract.app.test_request_context(), pytest.raises(UnsupportedError):
        special.after_response().submit(working.add, 1)
    assert contract.executor.futures.get("special") is None
    assert contract.executor.using(delay=0).submit(working.add, 1).result(START) == 1
