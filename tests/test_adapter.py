"""Executors of others: whose they are, where they run, and what is told when they break."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g

from flask_executor_typed import ConfigError, Executor, JobLostError

from .apps import working
from .conftest import TIMEOUT
from .helpers.scripts import run_script
from .helpers.workers import START, make_processes


class ThreadForEach(concurrent.futures.Executor):
    """An executor that nobody knows: a thread for each call."""

    def __init__(self) -> None:
        self.ended = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ended = True


class Declared(ThreadForEach):
    in_this_process = True


def test_factory_is_called_at_the_first_submit_and_its_executor_is_shut_down(app: Flask) -> None:
    made: list[ThreadPoolExecutor] = []

    def make() -> ThreadPoolExecutor:
        made.append(ThreadPoolExecutor(1, thread_name_prefix="theirs"))
        return made[-1]

    app.config["EXECUTOR_TYPE"] = make
    with Executor(app) as executor:
        assert made == []
        names = {executor.submit(lambda: threading.current_thread().name).result() for _ in "ab"}
        assert names == {"theirs_0"}
        assert len(made) == 1
    with pytest.raises(RuntimeError, match="after shutdown"):
        made[0].submit(print)


def test_given_executor_stays_its_givers(app: Flask) -> None:
    with ThreadPoolExecutor(1) as given:
        app.config["EXECUTOR_TYPE"] = given
        executor = Executor(app)
        begun, go_on = threading.Event(), threading.Event()

        def job() -> bool:
            begun.set()
            return go_on.wait(TIMEOUT)

        running, pending = executor.submit(job), executor.submit(job)
        assert begun.wait(TIMEOUT)
        executor.shutdown(wait=False, cancel_futures=True)
        assert pending.cancelled()
        go_on.set()
        executor.shutdown()
        assert running.result(0) is True
        assert given.submit(abs, -1).result(TIMEOUT) == 1


def test_threads_of_an_executor_that_declares_them_have_contexts(app: Flask) -> None:
    app.config["EXECUTOR_TYPE"] = Declared
    with Executor(app) as executor, app.app_context():
        g.lock = threading.Lock()  # nothing is pickled
        assert executor.submit(lambda: g.lock).result(TIMEOUT) is g.lock


def test_threads_of_an_executor_that_does_not_declare_them_are_noticed(app: Flask) -> None:
    app.config["EXECUTOR_TYPE"] = ThreadForEach
    with Executor(app) as executor:
        error = executor.submit(working.add, 1).exception(TIMEOUT)
    assert isinstance(error, ConfigError)
    assert str(error).startswith(
        "EXECUTOR_TYPE='tests.test_adapter.ThreadForEach' (str): expected an executor whose "
        "workers are other processes: this one runs calls in the process that submits them; "
        "give it an attribute in_this_process = True; "
    )


def test_what_makes_no_executor_is_told_at_the_first_submit(app: Flask) -> None:
    def make() -> dict[str, int]:
        return {}

    app.config["EXECUTOR_TYPE"] = make
    executor = Executor(app)
    with pytest.raises(ConfigError, match=r"returns an executor of concurrent\.futures, not \{\}"):
        executor.submit(abs, -1)


def test_name_of_a_factory_is_imported_by_init_app(app: Flask) -> None:
    app.config["EXECUTOR_TYPE"] = "tests.test_adapter:Declared"
    with Executor(app) as executor:
        assert executor.submit(abs, -1).result(TIMEOUT) == 1
    app.config["EXECUTOR_TYPE"] = "tests.test_adapter:Missing"
    with pytest.raises(ConfigError, match="has no attribute 'Missing'"):
        executor.init_app(app)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("library", ["standard", "loky"])
def test_jobs_of_a_pool_that_broke_are_lost_and_the_next_call_gets_another_pool(
    library: str,
) -> None:
    make: Any = make_processes if library == "standard" else None
    if make is None:
        loky = pytest.importorskip("loky")
        make = partial(loky.ProcessPoolExecutor, 1)
    app = working.create_app(EXECUTOR_TYPE=make)
    with Executor(app) as executor:
        lost = executor.submit(working.die, signal.SIGKILL)
        with pytest.raises(JobLostError, match=r"^die is lost: its executor broke: "):
            lost.result(START)
        assert isinstance(lost.exception(), BrokenExecutor)
        assert executor.submit(working.add, 1).result(START) == 1


def test_app_that_cannot_be_loaded_is_told_by_each_job() -> None:
    app = working.create_app(
        EXECUTOR_TYPE=make_processes, EXECUTOR_APP="tests.apps.working:create_no_app"
    )
    with Executor(app) as executor:
        for _ in range(2):
            with pytest.raises(ConfigError, match="there is no database"):
                executor.submit(working.add, 1).result(START)


class CancelsWhenPickled:
    """An argument through which somebody cancels the call while it is being submitted."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        future = self.executor.futures.get("key")
        assert future is not None
        future.cancel()
        return str, ("line",)


def test_call_that_is_cancelled_while_it_is_submitted_never_runs(tmp_path: Path) -> None:
    app = working.create_app(EXECUTOR_TYPE=make_processes)
    with Executor(app) as executor:
        line: Any = CancelsWhenPickled(executor)
        future = executor.submit_stored("key", working.append, tmp_path / "ran", line)
        assert future.cancelled()
    assert not (tmp_path / "ran").exists()


class Queue(concurrent.futures.Executor):
    """Keeps what is submitted waiting, and lets the test do something meanwhile."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.meanwhile = meanwhile
        self.waiting: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.waiting.append(Future())
        self.meanwhile()
        return self.waiting[-1]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for future in self.waiting:
            future.cancel()


def test_cancel_while_the_executor_takes_the_call_reaches_it(app: Flask) -> None:
    def cancel() -> None:
        future = executor.futures.get("key")
        assert future is not None
        future.cancel()

    app.config["EXECUTOR_TYPE"] = queue = Queue(cancel)
    with Executor(app) as executor, queue:
        future = executor.submit_stored("key", working.add, 1)
        assert queue.waiting[0].cancelled()
        assert future.cancelled()


def test_cancel_that_begins_before_the_executor_has_taken_the_call_reaches_it(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, is_cancelling, is_taken = (threading.Event() for _ in range(3))

    def can_interrupt(*_: object, kill: bool) -> bool:  # asked before cancel() notes the request
        is_cancelling.set()
        return not is_taken.wait(TIMEOUT)

    def meanwhile() -> None:
        begun.set()
        assert is_cancelling.wait(TIMEOUT)

    monkeypatch.setattr(
        "flask_executor_typed.backends.adapter.Unreachable.can_interrupt", can_interrupt
    )
    app.config["EXECUTOR_TYPE"] = queue = Queue(meanwhile)
    with Executor(app) as executor, queue, ThreadPoolExecutor(1) as submitting:
        submitted = submitting.submit(executor.submit_stored, "key", working.add, 1)
        submitted.add_done_callback(lambda _: is_taken.set())
        assert begun.wait(TIMEOUT)
        future = executor.futures.get("key")
        assert future is not None
        future.cancel()
        assert submitted.result(TIMEOUT) is future
        assert queue.waiting[0].cancelled()
        assert future.cancelled()


def test_app_is_loaded_once_in_each_worker() -> None:
    app = working.create_app(EXECUTOR_TYPE=make_processes)
    with Executor(app) as executor:
        for _ in range(4):
            loads, _ = executor.submit(working.loads_and_teardowns).result(START)
            assert loads == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_given_executor_is_refused_in_the_child_of_a_fork(app: Flask) -> None:
    with ThreadPoolExecutor(1) as given:
        app.config["EXECUTOR_TYPE"] = given
        executor = Executor(app)
        assert executor.submit(abs, -1).result(TIMEOUT) == 1
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                executor.submit(abs, -1)
            except BaseException as error:
                os.write(writer, str(error).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as told:
            message = told.read()
        os.waitpid(child, 0)
        assert "was created before the process was forked, and does not work here" in message


def test_exit_waits_for_calls_in_threads_of_others_that_nobody_waits_for() -> None:
    ended = run_script(
        """
        import concurrent.futures, threading, time
        from flask import Flask
        from flask_executor_typed import Executor

        class Daemons(concurrent.futures.Executor):
            in_this_process = True

            def submit(self, fn, *args):
                future = concurrent.futures.Future()
                run = lambda: (fn(*args), future.set_result(None))
                threading.Thread(target=run, daemon=True).start()
                return future

        app = Flask("exit")
        app.config["EXECUTOR_TYPE"] = Daemons
        executor = Executor(app)
        executor.submit(lambda: (until_the_exit_has_begun(), print("ran")))
        """
    )
    assert ended == (0, "ran\n", "")


def test_executor_that_was_made_is_shut_down_at_exit() -> None:
    ended = run_script(
        """
        import concurrent.futures, threading
        from flask import Flask
        from flask_executor_typed import Executor

        class Waits(concurrent.futures.ThreadPoolExecutor):
            # Its thread is no daemon, and ends when it is told to.
            def __init__(self):
                super().__init__(1)
                self.told = threading.Event()
                threading.Thread(target=self.told.wait).start()

            def shutdown(self, wait=True, *, cancel_futures=False):
                super().shutdown(wait, cancel_futures=cancel_futures)
                self.told.set()

        app = Flask("exit")
        app.config["EXECUTOR_TYPE"] = Waits
        executor = Executor(app)
        executor.submit(print, "ran")
        """
    )
    assert ended == (0, "ran\n", "")
