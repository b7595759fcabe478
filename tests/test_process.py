"""EXECUTOR_TYPE = "process": calls in other processes. Without EXECUTOR_APP: without contexts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from flask import Flask, current_app

from flask_executor_typed import (
    Executor,
    ExecutorClosedError,
    JobLostError,
    OutsideContextError,
    UnpicklableError,
    WorkerError,
)
from flask_executor_typed.backends.pickling import Work
from flask_executor_typed.calls import Call

from .apps import processes
from .apps.processes import cube, cube_soon
from .conftest import TIMEOUT
from .helpers.scripts import Ended, run_script


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    """One pool for the module: starting processes is slow."""
    yield processes.executor
    processes.executor.shutdown()
    processes.executor.init_app(processes.app)


def test_function_runs_in_another_process(executor: Executor) -> None:
    assert executor.submit(processes.fib, 10).result(TIMEOUT) == 55
    assert executor.submit(processes.pid).result(TIMEOUT) != os.getpid()


def test_call_works_in_a_request_an_app_context_and_none(executor: Executor) -> None:
    assert executor.submit(processes.fib, 5).result(TIMEOUT) == 5
    with processes.app.app_context():
        assert executor.submit(processes.fib, 5).result(TIMEOUT) == 5
    with processes.app.test_request_context():
        assert executor.submit(processes.fib, 5).result(TIMEOUT) == 5


def test_coroutine_function_is_awaited_in_the_worker(executor: Executor) -> None:
    assert executor.submit(processes.add_soon, 1, 2).result(TIMEOUT) == 3


def test_job_at_the_top_level_of_a_module_runs_in_a_worker(executor: Executor) -> None:
    assert cube.submit(3).result(TIMEOUT) == 27
    assert cube_soon.submit(3).result(TIMEOUT) == 27
    assert executor.submit(cube, 4).result(TIMEOUT) == 64
    assert processes.Scale(5).times.submit(2).result(TIMEOUT) == 10


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_gives_the_results_in_order(executor: Executor, chunksize: int) -> None:
    assert list(cube.map(range(7), chunksize=chunksize)) == [n**3 for n in range(7)]


def test_future_can_be_awaited_and_waited_for(executor: Executor) -> None:
    async def both() -> tuple[int, int]:
        one, eight = await asyncio.gather(cube.submit(1), cube.submit(2))
        return one, eight

    assert asyncio.run(both()) == (1, 8)
    futures = [cube.submit(n) for n in range(4)]
    done, pending = concurrent.futures.wait(futures, TIMEOUT)
    assert done == set(futures)
    assert not pending
    assert all(future.status == "succeeded" for future in futures)


def test_job_that_uses_a_context_is_told_what_to_do(executor: Executor) -> None:
    with processes.app.test_request_context():
        future = executor.submit(processes.name_of_app)
        assert str(future.exception(TIMEOUT)) == (
            "name_of_app: Working outside of application context: it runs in a worker process; "
            "set EXECUTOR_APP = 'package.module:create_app' to have it load the app, or pass what "
            "the job needs as arguments"
        )
        with pytest.raises(OutsideContextError, match="Working outside of request context"):
            executor.submit(processes.path_of_request).result(TIMEOUT)


@pytest.mark.parametrize(
    ("args", "kwargs", "part"),
    [
        ((threading.Lock(),), {}, "argument 1"),
        ((1, threading.Lock()), {}, "argument 2"),
        ((1,), {"lock": threading.Lock()}, "argument 'lock'"),
    ],
)
def test_argument_that_cannot_be_pickled_is_named_at_submit(
    executor: Executor, args: tuple[object, ...], kwargs: dict[str, object], part: str
) -> None:
    with pytest.raises(UnpicklableError) as caught:
        executor.submit(processes.echo, *args, **kwargs)
    assert str(caught.value) == (
        f"echo: {part} cannot be sent between processes (TypeError: cannot pickle "
        "'_thread.lock' object); pass and return plain data and functions that a module defines "
        "at its top level, or use EXECUTOR_TYPE='thread'"
    )
    assert isinstance(caught.value, TypeError)


def test_function_that_cannot_be_pickled_is_refused_and_its_key_stays_free(
    executor: Executor,
) -> None:
    with pytest.raises(UnpicklableError, match="the function itself"):
        executor.submit_stored("key", lambda: 1)
    assert executor.futures.get("key") is None


def test_nested_job_is_refused_at_decoration(executor: Executor) -> None:
    def nested() -> None:
        pass

    with pytest.raises(TypeError, match="which worker processes cannot import; define it"):
        executor.job(nested)


def test_exception_arrives_with_its_remote_traceback_and_is_logged_once(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        future = executor.submit(processes.raise_value_error)
        error = future.exception(TIMEOUT)
    assert isinstance(error, ValueError)
    assert "in raise_value_error" in str(error.__cause__)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"Exception in background job raise_value_error [{future.id}]"]


def test_exception_that_cannot_be_unpickled_fails_its_own_job_only(executor: Executor) -> None:
    odd = executor.submit(processes.raise_two_arguments)
    with pytest.raises(WorkerError, match=r"(?s)cannot be pickled.*in raise_two_arguments.*odd"):
        odd.result(TIMEOUT)
    assert cube.submit(2).result(TIMEOUT) == 8


def test_result_that_cannot_be_pickled_fails_its_own_job_only(executor: Executor) -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        executor.submit(processes.give_lock).result(TIMEOUT)
    assert cube.submit(2).result(TIMEOUT) == 8


def test_pool_works_again_after_a_worker_was_killed(executor: Executor) -> None:
    future = executor.submit(processes.die)
    with pytest.raises(concurrent.futures.BrokenExecutor) as caught:
        future.result(TIMEOUT)
    assert isinstance(caught.value, JobLostError)
    assert str(caught.value) == (
        "die is lost: its worker process was killed by SIGKILL while it ran"
    )
    assert cube.submit(2).result(TIMEOUT) == 8


def test_submit_after_shutdown_is_refused() -> None:
    app = Flask("closed")
    app.config["EXECUTOR_TYPE"] = "process"
    executor = Executor(app)
    assert executor.submit(processes.fib, 3).result(TIMEOUT) == 2
    executor.shutdown()
    with pytest.raises(ExecutorClosedError):
        executor.submit(processes.fib, 3)


@pytest.mark.parametrize(
    "fn", [processes.unpicklable_result, processes.result_that_unpickles_badly]
)
def test_result_that_cannot_be_sent_fails_its_own_call_alone(
    executor: Executor, fn: Callable[[], object]
) -> None:
    with pytest.raises(UnpicklableError, match=f"{fn.__name__}: its result cannot be sent"):
        executor.submit(fn).result(TIMEOUT)
    assert executor.submit(processes.echo, 1).result(TIMEOUT) == ((1,), {})


def test_error_that_only_begins_like_flasks_is_left_as_it_is(executor: Executor) -> None:
    with pytest.raises(RuntimeError, match=r"^Working outside of hours$"):
        executor.submit(processes.overtime).result(TIMEOUT)


@pytest.mark.skipif(
    version("flask").startswith(("2.0", "2.1")),
    reason="proxies of this Flask can be pickled, and find what is current in the worker",
)
def test_proxy_as_an_argument_is_named(executor: Executor) -> None:
    with pytest.raises(UnpicklableError, match="it is a Flask proxy"):
        executor.submit(processes.echo, current_app)


# Callbacks run in the thread that serves a process, which may be in no state to take another call.
# Who waits there hangs, so each of these is a script that kills itself.

ON_PROCESSES = """
app.config.update(EXECUTOR_TYPE="process", EXECUTOR_MAX_WORKERS=1, EXECUTOR_LOG_EXCEPTIONS=False)
executor.init_app(app)
time_out(60)
told = threading.Event()
"""


def test_callback_of_a_call_whose_worker_was_killed_gets_a_new_pool_at_once() -> None:
    ended = run_script(
        ON_PROCESSES
        + dedent("""
        def retry(future):
            print(type(future.exception()).__name__)
            retried.append(executor.submit(abs, -42))
            told.set()

        retried = []
        executor.submit(os._exit, 1).add_done_callback(retry)
        print(told.wait(50), retried[0].result(50))
        executor.shutdown()
        """),
        seconds=60,
    )
    assert ended == Ended(0, "JobLostError\nTrue 42\n", "")


def test_caller_who_tries_again_after_a_worker_was_killed_gets_a_new_pool_at_once() -> None:
    ended = run_script(
        ON_PROCESSES
        + dedent("""
        for code in (1, 2, 3):
            for fn, arg in ((os._exit, code), (abs, -code)):
                try:
                    print(executor.submit(fn, arg).result(50))
                except Exception as error:
                    print(type(error).__name__)
        """),
        seconds=60,
    )
    assert ended == Ended(0, "".join(f"JobLostError\n{n}\n" for n in (1, 2, 3)), "")


def test_process_whose_worker_was_killed_can_exit() -> None:
    ended = run_script(
        ON_PROCESSES
        + dedent("""
        futures = [executor.submit(fn, 1) for fn in (os._exit, abs, os._exit)]
        print([type(future.exception(50)).__name__ for future in futures])
        """),
        seconds=60,
    )
    assert ended == Ended(0, "['JobLostError', 'NoneType', 'JobLostError']\n", "")


@pytest.mark.parametrize(("fn", "status"), [("abs", "succeeded"), ("os._exit", "lost")])
def test_callback_may_submit_to_worker_processes_and_shut_them_down(fn: str, status: str) -> None:
    ended = run_script(
        ON_PROCESSES
        + dedent(f"""
        def submit_and_shut_down(future):
            others.append(executor.submit(abs, -42))
            executor.shutdown(wait=False)
            told.set()

        others = []
        future = executor.submit({fn}, 1)
        future.add_done_callback(submit_and_shut_down)
        print(told.wait(50), future.status, others[0].result(50))
        executor.shutdown()
        """),
        seconds=60,
    )
    assert ended == Ended(0, f"True {status} 42\n", "")


def test_call_cancelled_by_its_key_before_it_reaches_the_pool_never_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pickled = Work.of

    def cancel_first(call: Call[Any], context: bytes | None) -> Work:
        cancelled.append(executor.futures.cancel("key"))
        return pickled(call, context)

    cancelled: list[bool | None] = []
    app = Flask("cancelled")
    app.config["EXECUTOR_TYPE"] = "process"
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    with Executor(app) as executor:
        monkeypatch.setattr(Work, "of", cancel_first)
        future = executor.submit_stored("key", (tmp_path / "ran").touch)
        monkeypatch.undo()
        assert executor.submit(processes.fib, 3).result(TIMEOUT) == 2
    assert cancelled == [True]
    assert future.status == "cancelled"
    assert not (tmp_path / "ran").exists()


def test_module_of_the_backend_is_imported_by_init_app_and_not_for_threads() -> None:
    ended = run_script(
        """
        import sys
        from flask import Flask
        from flask_executor_typed import Executor

        app = Flask("imports")
        executor = Executor(app)
        executor.submit(print, "ran").result()
        print("multiprocessing" in sys.modules)
        app.config["EXECUTOR_TYPE"] = "process"
        executor.init_app(app)
        print("flask_executor_typed.backends.process" in sys.modules)
        """
    )
    assert ended == (0, "ran\nFalse\nTrue\n", "")


def test_fork_works_where_python_has_not_the_private_names() -> None:
    ended = run_script(
        """
        import types
        import multiprocessing.forkserver
        from flask_executor_typed.backends import starting

        starting._process_module = types.ModuleType("without")
        starting.disown(None)
        multiprocessing.forkserver._forkserver = object()
        starting._forget_parent()
        del multiprocessing.forkserver._forkserver
        starting._forget_parent()
        del multiprocessing.resource_tracker._resource_tracker
        starting._forget_parent()
        print("ran")
        """
    )
    assert ended == (0, "ran\n", "")
