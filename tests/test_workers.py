"""Worker processes that load the app: contexts, lost workers, time limits, cancelling, progress."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import math
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g, request, session

from flask_executor_typed import (
    BodyNotReadError,
    ConfigError,
    Executor,
    ExecutorClosedError,
    FutureProxy,
    JobLostError,
    JobTimeoutError,
    NestedProcessError,
    OutsideContextError,
    Progress,
    RemoteTracebackError,
    UnpicklableError,
    UploadsLeftBehindError,
    job_started,
)
from flask_executor_typed.backends.runner import RETURNED
from flask_executor_typed.backends.wire import PROGRESS, Message, Reader
from flask_executor_typed.runtime import exit as exit_module
from flask_executor_typed.runtime.exit import drain

from .apps import working
from .apps.working import serving
from .conftest import TIMEOUT
from .helpers.workers import START, is_alive, run_main, until, until_dead


@pytest.fixture(scope="module")
def app() -> Iterator[Flask]:
    """One worker for the module: starting it is slow. It has one process, so jobs meet there."""
    for other in list(working.executor._states):  # of other tests, if something still refers to it
        working.executor.shutdown(app=other)
    app = working.create_app()
    yield app
    working.executor.shutdown()


@pytest.fixture
def executor(app: Flask) -> Executor:
    if len(working.executor._states) > 1:
        gc.collect()  # apps of other tests: an app refers to itself
    return working.executor


def in_view(app: Flask, fn: Callable[[], Any], path: str = "/en/things/7", **given: Any) -> Any:
    """What ``fn`` returns when it is called in a request, in the place of the view."""
    seen: list[Any] = []

    def view(lang: str, number: int) -> str:
        seen.append(fn())
        return ""

    app.view_functions["thing"] = view
    response = app.test_client(use_cookies=False).open(path, **given)
    assert response.status_code == 200
    return seen[0]


# -- the app and its contexts ----------------------------------------------------------------------


def test_job_has_the_app_that_its_process_has_loaded_once(app: Flask, executor: Executor) -> None:
    assert executor.submit(working.greeting).result(START) == "hello from working"
    with app.app_context():
        assert executor.submit(working.greeting).result(TIMEOUT) == "hello from working"
    loads, _ = executor.submit(working.loads_and_teardowns).result(TIMEOUT)
    assert loads == 1


def test_job_has_a_copy_of_g_of_its_own(app: Flask, executor: Executor) -> None:
    with app.app_context():
        g.name = "submitter"
        assert executor.submit(working.set_g, "name", "job").result(TIMEOUT) == "submitter"
        assert g.name == "submitter"
        g.name = "second"
        assert executor.submit(working.set_g, "name", "job").result(TIMEOUT) == "second"
    assert executor.submit(working.set_g, "name", "job").result(TIMEOUT) is None


def test_what_of_g_cannot_be_pickled_stays_behind_and_is_named_once(
    app: Flask, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    with app.app_context():
        g.name, g.lock, g.odd = "kept", threading.Lock(), working.Unpicklable()
        for _ in range(2):
            assert executor.submit(working.names_of_g).result(START) == {"name": "kept"}
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"g.{name} cannot be pickled, so jobs in worker processes of executor do not have it; "
        "carry_g selects what travels from g"
        for name in ("lock", "odd")
    ]


def test_carry_g_decides_what_travels() -> None:
    app = working.create_app()
    with app.app_context(), Executor(app, carry_g=["wanted"]) as executor:
        g.wanted, g.other = 1, 2
        assert executor.submit(working.names_of_g).result(START) == {"wanted": 1}


def test_teardown_functions_run_after_each_job_with_its_exception(
    app: Flask, executor: Executor
) -> None:
    _, before = executor.submit(working.loads_and_teardowns).result(START)
    executor.submit(working.set_g, "name", "first").result(TIMEOUT)
    with pytest.raises(ValueError, match="second"):
        executor.submit(working.fail_with_name, "second").result(TIMEOUT)
    _, after = executor.submit(working.loads_and_teardowns).result(TIMEOUT)
    assert after[len(before) :] == ["None None", "first None", "second ValueError('second')"]


def test_request_and_session_travel(app: Flask, executor: Executor) -> None:
    def submit() -> FutureProxy[dict[str, object]]:
        assert request.form["a"] == "1"
        assert request.view_args is not None
        request.view_args.pop("lang")  # as a url_value_preprocessor does
        session["user"] = 5
        return executor.submit(working.seen_request)

    client_cookie = {"Cookie": "taste=sweet", "User-Agent": "test"}
    future: FutureProxy[dict[str, object]] = in_view(
        app,
        submit,
        "/en/things/7?q=x",
        method="POST",
        data={"a": ["1", "2"]},
        headers=client_cookie,
        base_url="https://example.com/",
    )
    assert future.result(START) == {
        "method": "POST",
        "url": "https://example.com/en/things/7?q=x",
        "agent": "test",
        "cookie": "sweet",
        "endpoint": "thing",
        "rule": "/<lang>/things/<int:number>",
        "view_args": {"number": 7},
        "args": {"q": "x"},
        "form": {"a": ["1", "2"]},
        "session": {"user": 5},
        "link": "/fr/things/8",
    }


def test_job_may_write_to_its_session_and_the_views_stays_as_it_is(
    app: Flask, executor: Executor
) -> None:
    def submit() -> bool:
        assert executor.submit(working.write_session).result(START) is True
        return "written" in session

    assert in_view(app, submit) is False


def test_body_that_the_view_has_read_travels(app: Flask, executor: Executor) -> None:
    def read(name: str) -> Callable[[], Any]:
        def submit() -> Any:
            working.read(name)
            return executor.submit(working.read, name).result(START)

        return submit

    post: dict[str, Any] = {"method": "POST", "json": {"a": [1]}}
    assert in_view(app, read("get_json"), **post) == {"a": [1]}
    assert in_view(app, read("get_data"), **post).replace(b" ", b"") == b'{"a":[1]}'
    assert in_view(app, read("get_data")) == b""


@pytest.mark.parametrize(
    ("posted", "names", "expected"),
    [
        ({"json": [1]}, ["form", "get_json"], [1]),
        ({"json": [1]}, ["get_json", "form", "get_json"], [1]),
        ({"json": [1]}, ["form", "get_data"], b"[1]"),
        ({"data": {"x": "1"}}, ["get_data", "form", "get_data"], b"x=1"),
        ({"data": {"x": "1"}}, ["form", "get_data"], b""),
    ],
)
def test_form_that_the_view_has_asked_for_does_not_hide_the_body(
    app: Flask, executor: Executor, posted: dict[str, Any], names: list[str], expected: object
) -> None:
    """Something may ask for it in every request: a check of a token in forms, say."""

    def submit() -> Any:
        for name in names:
            working.read(name)
        return executor.submit(working.read, names[-1]).result(START)

    answer = in_view(app, submit, method="POST", **posted)
    assert (answer.strip() if isinstance(answer, bytes) else answer) == expected


def test_form_of_json_does_not_pass_for_a_body_that_was_read(
    app: Flask, executor: Executor
) -> None:
    def submit() -> BaseException | None:
        working.read("form")
        return executor.submit(working.read, "get_json").exception(START)

    assert isinstance(in_view(app, submit, method="POST", json=[1]), BodyNotReadError)


def test_body_that_the_view_has_not_read_is_an_error_that_says_so(
    app: Flask, executor: Executor
) -> None:
    def submit() -> BaseException | None:
        return executor.submit(working.read, "get_data").exception(START)

    assert isinstance(in_view(app, submit, method="POST", data=b"x"), BodyNotReadError)


def test_uploads_stay_behind_and_looking_for_one_says_what_to_do(
    app: Flask, executor: Executor
) -> None:
    def submit() -> tuple[BaseException | None, Any]:
        assert request.files["file"].filename == "x.txt"
        error = executor.submit(working.first_upload).exception(START)
        return error, executor.submit(working.read, "form").result(TIMEOUT)

    data = {"file": (BytesIO(b"x"), "x.txt"), "a": "1"}
    error, form = in_view(app, submit, method="POST", data=data)
    assert isinstance(error, UploadsLeftBehindError)
    assert form.to_dict() == {"a": "1"}


def test_without_the_setting_the_request_does_not_travel_and_the_error_says_so() -> None:
    app = working.create_app(EXECUTOR_PUSH_REQUEST_CONTEXT=None)

    def submit() -> tuple[Any, BaseException | None]:
        g.name = "kept"
        name = working.executor.submit(working.set_g, "name", "").result(START)
        return name, working.executor.submit(working.read, "path").exception(TIMEOUT)

    try:
        name, error = in_view(app, submit)
    finally:
        drain([(part, math.inf) for part in working.executor._states[app].close(False)], 0)
    assert name == "kept"
    assert isinstance(error, OutsideContextError)
    assert str(error) == (
        "read: Working outside of request context: it runs in a worker process; set "
        "EXECUTOR_PUSH_REQUEST_CONTEXT = True to have the request travel there, or pass what the "
        "job needs as arguments"
    )


def test_job_that_wants_a_request_where_there_was_none_gets_flasks_own_error(
    app: Flask, executor: Executor
) -> None:
    error = executor.submit(working.read, "path").exception(START)
    assert type(error) is RuntimeError
    assert str(error).startswith(
        ("Working outside of request context", "There is no request in this context")
    )


def test_without_push_app_context_the_error_names_the_setting() -> None:
    app = working.create_app()
    app.config["PLAIN_EXECUTOR_TYPE"] = "process"
    app.config["PLAIN_EXECUTOR_APP"] = app.config["EXECUTOR_APP"]
    app.config["PLAIN_EXECUTOR_MAX_WORKERS"] = 1
    app.config["PLAIN_EXECUTOR_PUSH_APP_CONTEXT"] = False
    with Executor(app, name="plain") as executor:
        error = executor.submit(working.greeting).exception(START)
        second = executor.submit(working.greeting).exception(START)
    assert isinstance(error, OutsideContextError)
    assert error.cure == "set PLAIN_EXECUTOR_PUSH_APP_CONTEXT = True"
    (note,) = getattr(second, "__notes__", [])
    assert note.startswith(f"submitted at {__file__}:")


def test_request_travels_without_g_if_the_app_context_is_not_to() -> None:
    """As for threads: Flask has no request without an app context."""
    with serving(EXECUTOR_PUSH_APP_CONTEXT=False) as executor:

        def submit() -> tuple[object, object]:
            g.name = "view"
            name = executor.submit(working.set_g, "name", "job").result(START)
            return executor.submit(working.read, "path").result(TIMEOUT), name

        app = next(iter(executor._states))
        assert in_view(app, submit) == ("/en/things/7", None)


def test_logger_of_the_app_works_in_the_worker(capfd: pytest.CaptureFixture[str]) -> None:
    # Others have the standard error of the process that is forked for them, which is older.
    with serving(EXECUTOR_START_METHOD="spawn") as executor:
        executor.submit(working.log, "from the worker").result(START)
    assert "from the worker" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no.such.module:app", "Could not import 'no.such.module'"),
        ("tests.apps.working:no_such_name", "no_such_name"),
        ("tests.apps.working:create_no_app", "RuntimeError: there is no database"),
        ("tests.apps.working:create_no_app_and_a_thread", "RuntimeError: there is no database"),
        ("tests.apps.working:exit_and_create_no_app", "SystemExit: DATABASE is not set"),
    ],
)
def test_app_that_cannot_be_loaded_is_told_to_each_job_at_once(name: str, reason: str) -> None:
    app = Flask("unloadable")
    app.config["EXECUTOR_TYPE"] = "process"
    app.config["EXECUTOR_APP"] = name
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    with Executor(app) as executor:
        for future in [executor.submit(working.pid) for _ in range(50)]:
            error = future.exception(START)
            assert isinstance(error, ConfigError)
            assert (error.key, error.value) == ("EXECUTOR_APP", name)
            assert "an app that a worker process can load, as 'flask --app' does" in str(error)
            assert reason in str(error)


# -- start methods, forks, the end -----------------------------------------------------------------


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_every_start_method_works_and_leaves_no_process(method: str) -> None:
    with serving(EXECUTOR_START_METHOD=method) as executor:
        assert executor.submit(working.greeting).result(START) == "hello from working"
        processes = [executor.submit(working.pid).result(TIMEOUT) for _ in range(5)]
        assert len(set(processes)) == 1
    assert not is_alive(processes[0])


methods = pytest.mark.parametrize(
    "method", [method for method in ("forkserver", "spawn", "fork") if hasattr(os, "fork")]
)


@methods
def test_each_process_of_a_fork_has_workers_of_its_own(tmp_path: Path, method: str) -> None:
    ended = run_main(
        tmp_path,
        method,
        """
        first = executor.submit(working.pid).result(20)
        child = os.fork()
        ours = executor.submit(working.pid).result(20)
        if not child:
            print("child", ours != first, executor.submit(working.greeting).result(20), flush=True)
            sys.exit()
        _, status = os.waitpid(child, 0)
        print("parent", ours == first, executor.submit(working.greeting).result(20), status)
        """,
    )
    assert ended == (0, "child True hello from working\nparent True hello from working 0\n", "")


@methods
def test_no_worker_outlives_a_killed_server_process(tmp_path: Path, method: str) -> None:
    """Neither one that is idle nor one that is busy."""
    path = tmp_path / "pid"
    status, stdout, _ = run_main(
        tmp_path,
        method,
        f"""
        from pathlib import Path
        app.config["EXECUTOR_MAX_WORKERS"] = 2
        executor.init_app(app)
        busy = executor.submit(working.write_and_wait, Path({str(path)!r}))
        idle = executor.submit(working.pid).result(20)
        while not Path({str(path)!r}).exists():
            time.sleep(0.005)
        print(idle, flush=True)
        os.kill(os.getpid(), 9)
        """,
    )
    assert status == -signal.SIGKILL
    for process in (int(stdout), int(path.read_text())):
        until_dead(process)


def test_job_that_closes_all_descriptors_is_lost_and_holds_nobody_up(tmp_path: Path) -> None:
    """As daemons do when they start. Among them is what tells that the process has ended."""
    ended = run_main(
        tmp_path,
        "spawn",
        """
        import logging
        logging.disable()
        app.config["EXECUTOR_MAX_WORKERS"] = 2
        executor.init_app(app)
        stays = executor.submit(working.close_all_and_stay)
        ends = executor.submit(working.close_all)
        print(type(ends.exception(20)).__name__, executor.submit(working.greeting).result(20))
        print(type(stays.exception(20)).__name__, executor.submit(working.greeting).result(20))
        """,
    )
    assert ended == (
        0,
        "JobLostError hello from working\nJobLostError hello from working\n",
        "",
    )


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the open descriptors")
def test_system_that_lets_no_process_start_loses_the_job_and_says_why(tmp_path: Path) -> None:
    ended = run_main(
        tmp_path,
        "spawn",
        """
        import logging, resource
        logging.disable()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), limits[1]))
        error = executor.submit(working.greeting).exception(20)
        print(type(error).__name__, error)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        print(executor.submit(working.greeting).result(20))
        """,
    )
    why = "no worker process could be started (OSError: [Errno 24] Too many open files)"
    assert ended == (0, f"JobLostError greeting is lost: {why}\nhello from working\n", "")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits its memory")
def test_answer_for_which_there_is_no_memory_fails_its_own_call_alone(tmp_path: Path) -> None:
    ended = run_main(
        tmp_path,
        "spawn",
        """
        import logging, resource
        logging.disable()
        process = executor.submit(working.pid).result(20)
        limits = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limits[1]))
        print(type(executor.submit(bytes, 128 << 20).exception(20)).__name__)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        print(executor.submit(working.greeting).result(20))
        """,
    )
    assert (ended.status, ended.stdout) == (0, "MemoryError\nhello from working\n")


def test_processes_that_end_when_they_start_are_told_of_and_not_started_for_ever(
    tmp_path: Path,
) -> None:
    path = tmp_path / "starts"
    ended = run_main(
        tmp_path,
        "spawn",
        """
        import logging
        logging.disable()
        app.config["EXECUTOR_APP"] = None
        error = executor.submit(working.pid).exception(20)
        print(type(error).__name__, error)
        """,
        start=f"""
        if __name__ != "__main__":
            working.append(working.Path({str(path)!r}), "start")
            os._exit(3)
        """,
    )
    assert ended.stdout == (
        "JobLostError pid is lost: each of 3 worker processes ended with exit code 3 when it "
        "started\n"
    )
    assert path.read_text() == "start\n" * 3


def test_function_that_the_worker_cannot_find_is_an_error_that_says_where(tmp_path: Path) -> None:
    ended = run_main(
        tmp_path,
        "spawn",
        """
        import logging
        logging.disable()

        def here():
            pass

        here.__module__, here.__qualname__ = "__main__", "here"
        sys.modules["__main__"].here = here
        error = executor.submit(here).exception(20)
        print(type(error).__name__, error)
        """,
    )
    assert ended.stdout.startswith(
        "UnpicklableError here: its function or an argument cannot be sent between processes (in "
        "the worker: AttributeError: "
    )


def test_pending_calls_are_cancelled_at_shutdown_if_that_is_wanted(tmp_path: Path) -> None:
    with serving() as executor:
        running = executor.submit(working.write_and_wait, tmp_path / "pid", tmp_path / "end")
        pending = executor.submit(working.pid)
        until((tmp_path / "pid").exists)
        executor.shutdown(wait=False, cancel_futures=True)
        assert pending.cancelled()
        (tmp_path / "end").touch()
        assert running.result(TIMEOUT) == int((tmp_path / "pid").read_text())
        with pytest.raises(ExecutorClosedError):
            executor.submit(working.pid)


def test_callback_may_shut_the_executor_down_and_wait() -> None:
    app = working.create_app()
    executor, told = Executor(app), threading.Event()

    def shut_down(future: FutureProxy[int]) -> None:
        executor.shutdown()
        told.set()

    executor.submit(working.pid).add_done_callback(shut_down)
    assert told.wait(START)


def test_job_in_a_worker_cannot_start_workers_of_workers(app: Flask, executor: Executor) -> None:
    with pytest.raises(NestedProcessError):
        executor.submit(working.submit_here).result(START)


def test_interrupt_from_the_terminal_does_not_end_a_worker(executor: Executor) -> None:
    """Ctrl+C reaches all processes of a terminal; the server's decides what it means to a job."""
    process = executor.submit(working.pid).result(START)
    executor.submit(working.die, signal.SIGINT).result(TIMEOUT)
    assert executor.submit(working.pid).result(TIMEOUT) == process


# -- lost workers ----------------------------------------------------------------------------------


def test_killed_worker_loses_the_job_that_it_ran_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(EXECUTOR_MAX_WORKERS=2) as executor:
        paths = [tmp_path / name for name in ("lost", "spared")]
        lost, spared = (
            executor.submit(working.write_and_wait, path, tmp_path / "end") for path in paths
        )
        queued = [executor.submit(working.squared, n) for n in range(20)]
        until(lambda: all(path.exists() and path.read_text() for path in paths))
        os.kill(int(paths[0].read_text()), signal.SIGKILL)
        error = lost.exception(START)
        assert isinstance(error, JobLostError)
        assert str(error) == (
            "write_and_wait is lost: its worker process was killed by SIGKILL while it ran"
        )
        assert [future.result(START) for future in queued] == [n * n for n in range(20)]
        assert spared.running()
        (tmp_path / "end").touch()
        assert spared.result(TIMEOUT) == int(paths[1].read_text())
        assert executor.submit(working.squared, 3).result(TIMEOUT) == 9
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"Exception in background job write_and_wait [{lost.id}]"]


def test_worker_that_died_idle_costs_no_job(executor: Executor) -> None:
    process = executor.submit(working.pid).result(START)
    os.kill(process, signal.SIGKILL)
    until_dead(process)
    assert executor.submit(working.pid).result(START) != process


def test_job_that_was_sent_to_a_worker_and_not_read_is_run_by_the_next(
    tmp_path: Path, executor: Executor
) -> None:
    """A stopped process does not read. The kernel tells that something was left unread."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells")
    process = executor.submit(working.pid).result(START)
    os.kill(process, signal.SIGSTOP)
    future = executor.submit(working.append, tmp_path / "runs", "once")
    until(future.running)
    time.sleep(0.1)  # until it is sent, which nothing tells
    os.kill(process, signal.SIGKILL)
    assert future.result(START) == "once"
    assert (tmp_path / "runs").read_text() == "once\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("raises", [False, True])
def test_forked_child_of_a_job_answers_neither_its_own_call_nor_the_next(
    tmp_path: Path, executor: Executor, raises: bool
) -> None:
    process = executor.submit(working.pid).result(START)
    future = executor.submit(working.fork, tmp_path / "pid", raises)
    others = [executor.submit(working.echo, n) for n in range(3)]
    assert future.result(START) == "parent"
    assert [other.result(START) for other in others] == [0, 1, 2]
    until((tmp_path / "pid").exists)
    until_dead(int((tmp_path / "pid").read_text()))
    assert executor.submit(working.echo, "after").result(START) == "after"
    assert future.progress is None
    assert executor.submit(working.pid).result(START) == process


@pytest.mark.parametrize("kind", [RETURNED, PROGRESS])
def test_worker_that_answers_another_call_is_ended_and_its_call_lost(
    monkeypatch: pytest.MonkeyPatch, executor: Executor, kind: bytes
) -> None:
    process = executor.submit(working.pid).result(START)

    def one_too_many(reader: Reader) -> Message | None:
        read = message_of(reader)
        return read and read._replace(kind=kind, number=read.number + 1)

    message_of = Reader.message
    monkeypatch.setattr(Reader, "message", one_too_many)
    future = executor.submit(working.pid)
    error = future.exception(START)
    monkeypatch.undo()
    assert str(error) == "pid is lost: its worker process answered another call"
    assert executor.submit(working.pid).result(START) != process
    until_dead(process)


def test_each_of_500_jobs_has_one_outcome_while_workers_are_killed(tmp_path: Path) -> None:
    path, randomness = tmp_path / "runs", random.Random(5)
    with serving(EXECUTOR_LOG_EXCEPTIONS=False, EXECUTOR_MAX_WORKERS=2) as e:
        e.submit(working.pid).result(START)
        futures = [e.submit(working.append, path, str(n), 0.004) for n in range(500)]
        kills = 0
        while not all(future.done() for future in futures):
            time.sleep(randomness.uniform(0.02, 0.12))
            workers = [process for process in _workers() if is_alive(process)]
            if workers and kills < 25:
                os.kill(randomness.choice(workers), signal.SIGKILL)
                kills += 1
        outcomes = [future.exception(START) or future.result() for future in futures]
    assert kills >= 5
    runs = path.read_text().split()
    assert len(runs) == len(set(runs))  # none twice
    lost = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, JobLostError)]
    assert [str(n) for n in range(500) if n not in lost] == [o for o in outcomes if type(o) is str]
    assert len(lost) <= kills
    assert {str(n) for n in range(500) if n not in lost} <= set(runs)  # none is done and not run


def _workers() -> list[int]:
    return [
        process.pid
        for process in multiprocessing.active_children()
        if process.pid is not None and process.name.startswith("executor-worker")
    ]


def test_result_that_only_the_worker_can_make_anew_fails_its_own_call_alone(
    executor: Executor,
) -> None:
    with pytest.raises(UnpicklableError, match="RuntimeError: far from home"):
        executor.submit(working.only_there).result(START)
    assert executor.submit(working.squared, 2).result(TIMEOUT) == 4


def test_exception_that_has_no_text_fails_its_own_call_alone(executor: Executor) -> None:
    process = executor.submit(working.pid).result(START)
    assert type(executor.submit(working.raise_odd_error).exception(TIMEOUT)) is (
        working.OddRuntimeError
    )
    assert executor.submit(working.pid).result(TIMEOUT) == process


def test_exception_is_caused_by_its_traceback_in_the_worker(executor: Executor) -> None:
    error = executor.submit(working.fail_with_name, "x").exception(START)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, RemoteTracebackError)
    assert "in fail_with_name" in error.__cause__.text


# -- jobs that know themselves ---------------------------------------------------------------------


def test_current_job_works_in_a_worker(executor: Executor) -> None:
    future = executor.using(name="about", key=("k", 1)).submit(working.about_current_job)
    assert future.result(START) == {
        "bool": True,
        "id": future.id,
        "name": "about",
        "key": ("k", 1),
        "attempt": 1,
        "executor": True,
    }


def test_job_started_is_sent_in_the_server_process(app: Flask, executor: Executor) -> None:
    pytest.importorskip("blinker")
    started: list[object] = []

    def note(sender: Flask, future: FutureProxy[Any], **extra: object) -> None:
        started.append((future.name, future.running(), future.started_at is not None))

    with job_started.connected_to(note, app):
        executor.submit(working.pid).result(START)
    assert started == [("pid", True, True)]


def test_progress_reaches_the_server_process(executor: Executor) -> None:
    async def watched() -> list[Progress]:
        future = executor.submit(working.report, 3)
        return [progress async for progress in future.watch()]

    steps = asyncio.run(watched())
    assert steps[-1] == Progress(3, 3, "step 3")
    assert steps == sorted(steps)


def test_progress_travels_as_plain_numbers(executor: Executor) -> None:
    future = executor.submit(working.report_odd_number)
    assert future.result(START) is None
    progress = future.progress
    assert progress is not None
    assert (type(progress.done), *progress) == (float, 0.5, None, "")


def test_async_jobs_share_one_lasting_loop_with_the_contexts_of_each(executor: Executor) -> None:
    first = executor.submit(working.loop_and_thread).result(START)
    assert first[2] == "working"
    assert executor.submit(working.loop_and_thread).result(TIMEOUT) == first
    assert executor.submit(working.returns_a_coroutine).result(TIMEOUT) == first
    client = executor.submit(working.client).result(TIMEOUT)
    assert executor.submit(working.client).result(TIMEOUT) == client


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_runs_in_contexts_too(executor: Executor, chunksize: int) -> None:
    squares = [n * n for n in range(7)]
    assert list(working.squared.map(range(7), chunksize=chunksize)) == squares
    assert list(working.squared_soon.map(range(7), chunksize=chunksize)) == squares


# -- cancelling and time limits --------------------------------------------------------------------


def test_cancel_asks_a_plain_job_to_end(tmp_path: Path, executor: Executor) -> None:
    future = executor.submit(working.wait_until_asked, tmp_path / "pid", tmp_path / "end")
    until((tmp_path / "pid").exists)
    assert future.cancel() is False
    assert future.result(TIMEOUT) == "asked"


def test_job_that_ends_when_a_shutdown_asks_it_to_is_not_abandoned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exit_module, "CLEANUP", TIMEOUT)  # however busy the machine is
    with serving() as executor:
        future = executor.submit(working.look_until_asked)
        until(lambda: future.progress is not None)  # sent after the job has looked
        executor.shutdown(timeout=0)
        assert future.result(TIMEOUT) == "asked"
    assert caplog.messages == []


def test_job_that_ends_because_it_was_asked_to_is_cancelled(
    tmp_path: Path, executor: Executor
) -> None:
    future = executor.submit(working.raise_if_asked, tmp_path / "pid")
    until((tmp_path / "pid").exists)
    assert future.cancel() is False
    assert concurrent.futures.wait([future], TIMEOUT).not_done == set()
    assert future.cancelled()


def test_cancel_reaches_the_job_that_was_meant_and_not_the_next(
    tmp_path: Path, executor: Executor
) -> None:
    first = executor.submit(working.wait_until_asked, tmp_path / "1", tmp_path / "end")
    second = executor.submit(working.is_asked, tmp_path / "2", tmp_path / "done")
    until((tmp_path / "1").exists)
    call: Any = first._call
    interrupter = call.interrupter
    worker, number = interrupter._worker, interrupter._number
    first.cancel()
    until((tmp_path / "2").exists)
    worker.order(number)  # as if it had been on its way
    time.sleep(0.05)  # nothing tells when it has arrived; too early, and the test passes
    (tmp_path / "done").touch()
    assert second.result(TIMEOUT) is False


@pytest.mark.parametrize("kill", [False, True])
def test_cancel_between_the_start_and_the_process_is_not_forgotten(
    tmp_path: Path, app: Flask, executor: Executor, kill: bool
) -> None:
    pytest.importorskip("blinker")
    cancelled: list[bool] = []

    def cancel(sender: Flask, future: FutureProxy[str], **extra: object) -> None:
        cancelled.append(future.cancel(kill=kill))

    paths = tmp_path / "pid", tmp_path / "end"
    with job_started.connected_to(cancel, app):
        future = executor.submit(working.wait_until_asked, *paths)
        assert concurrent.futures.wait([future], START).done
    executor.submit(working.pid).result(START)  # whatever was sent before has been run
    assert (cancelled[0], future.cancelled(), paths[0].exists()) == (kill, kill, not kill)


def test_cancel_stops_a_coroutine_at_its_next_await(tmp_path: Path, executor: Executor) -> None:
    process = executor.submit(working.pid).result(START)
    end = tmp_path / "end"
    future = executor.submit(working.write_and_wait_async, tmp_path / "pid", end)
    until((tmp_path / "pid").exists)
    assert future.cancel() is True
    assert future.cancelled()
    assert executor.submit(working.pid).result(TIMEOUT) == process
    assert end.read_text() == f"working {process}"  # its cleanup ran, before the next job


def test_cancel_of_a_coroutine_that_its_worker_has_not_begun_leaves_the_worker_free(
    tmp_path: Path, executor: Executor
) -> None:
    """Its loop is busy, or it imports what the arguments are made of."""
    blocked, end, late = (tmp_path / name for name in ("blocked", "end", "late"))
    executor.submit(working.block_loop, blocked, end).result(START)
    until(blocked.exists)
    future = executor.submit(working.sleep, working.Late(late))
    until(late.exists)
    assert future.cancel() is True
    late.unlink()
    time.sleep(0.05)  # nothing tells when it has arrived; too early, and the test passes
    end.touch()
    assert executor.submit(working.squared, 3).result(TIMEOUT) == 9


def test_cancel_with_kill_ends_the_process_of_that_job_and_no_other(tmp_path: Path) -> None:
    with serving(EXECUTOR_MAX_WORKERS=2) as executor:
        paths = [tmp_path / name for name in ("killed", "spared")]
        killed, spared = (
            executor.submit(working.write_and_wait, path, tmp_path / "end") for path in paths
        )
        queued = executor.submit(working.squared, 5)
        until(lambda: all(path.exists() and path.read_text() for path in paths))
        assert killed.cancel(kill=True) is True
        assert killed.cancelled()
        until_dead(int(paths[0].read_text()))
        assert queued.result(START) == 25
        assert spared.running()
        assert is_alive(int(paths[1].read_text()))
        (tmp_path / "end").touch()
        spared.result(TIMEOUT)


def test_cancel_with_kill_does_not_touch_a_call_that_is_done(executor: Executor) -> None:
    process = executor.submit(working.pid)
    number = process.result(START)
    assert process.cancel(kill=True) is False
    assert executor.submit(working.pid).result(TIMEOUT) == number


def test_time_limit_ends_the_process_of_that_job_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(EXECUTOR_MAX_WORKERS=2) as executor:
        paths = [tmp_path / name for name in ("late", "spared")]
        spared = executor.submit(working.write_and_wait, paths[1], tmp_path / "end")

        def time_out(seconds: float) -> FutureProxy[int]:
            late = executor.using(timeout=seconds).submit(working.write_and_wait, paths[0])
            assert isinstance(late.exception(START), JobTimeoutError)
            return late

        late = time_out(1)
        if not paths[0].exists():  # on a slow machine the job had not begun
            late = time_out(60)
        until_dead(int(paths[0].read_text()))
        assert executor.submit(working.squared, 5).result(START) == 25
        assert spared.running()
        (tmp_path / "end").touch()
        spared.result(TIMEOUT)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[-1] == f"Background job write_and_wait [{late.id}] took too long"


def test_time_limit_of_the_settings_counts_from_the_start_of_the_call(tmp_path: Path) -> None:
    """Not while it waits for another, or for its process."""
    with serving(EXECUTOR_JOB_TIMEOUT=1) as executor:  # enough for a call, on a busy machine
        endless = executor.using(timeout=math.inf)
        first = endless.submit(working.write_and_wait, tmp_path / "pid", tmp_path / "end")
        second = executor.submit(working.squared, 5)
        until((tmp_path / "pid").exists)
        time.sleep(1.1)  # longer than the limit, which is the point
        (tmp_path / "end").touch()
        assert (first.result(TIMEOUT) > 0, second.result(TIMEOUT)) == (True, 25)
        late = executor.submit(working.write_and_wait_async, tmp_path / "2", tmp_path / "3")
        assert isinstance(late.exception(START), JobTimeoutError)


def test_job_is_tried_again_as_often_as_it_may_be(
    tmp_path: Path, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "attempts"
    patient = executor.using(retries=2, backoff=0.01)
    assert patient.submit(working.fail_until, path, 3).result(START) == 3
    assert path.read_text().split() == ["1", "2", "3"]
    with pytest.raises(OSError, match="attempt 3"):
        patient.submit(working.fail_until, path, 9).result(TIMEOUT)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4 + [logging.ERROR]


def test_lost_job_runs_again_only_if_it_was_given_retries(
    tmp_path: Path, executor: Executor
) -> None:
    with pytest.raises(JobLostError):
        executor.submit(working.die_once, tmp_path / "1").result(START)
    assert (tmp_path / "1").read_text() == "ran\n"
    assert executor.using(retries=1).submit(working.die_once, tmp_path / "2").result(START) == 2
    assert (tmp_path / "2").read_text() == "ran\nran\n"


def test_call_that_waits_for_its_next_attempt_can_be_cancelled(
    tmp_path: Path, executor: Executor
) -> None:
    path = tmp_path / "attempts"
    failed = threading.Event()

    def backoff(attempt: int) -> float:
        failed.set()
        return 60.0

    future = executor.using(retries=1, backoff=backoff).submit(working.fail_until, path, 2)
    assert failed.wait(START)
    until(future.cancel)
    assert future.cancelled()
    assert executor.submit(working.pid).result(START) > 0
    assert path.read_text() == "1\n"


def test_time_limit_ends_the_wait_for_the_next_attempt(tmp_path: Path, executor: Executor) -> None:
    process = executor.submit(working.pid).result(START)
    tried = executor.using(retries=1, backoff=60.0, timeout=3)
    future = tried.submit(working.fail_until, tmp_path / "attempts", 2)
    assert isinstance(future.exception(TIMEOUT), JobTimeoutError)
    assert executor.submit(working.pid).result(TIMEOUT) == process  # it was idle
