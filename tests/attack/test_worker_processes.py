"""Worker processes that die, hang, fork and start slowly, at the worst moments."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from flask_executor_typed import (
    ConfigError,
    Executor,
    FutureProxy,
    JobLostError,
    JobTimeoutError,
)
from flask_executor_typed.backends import process
from flask_executor_typed.backends.process import ProcessBackend
from flask_executor_typed.backends.wire import Message, Reader, dump
from flask_executor_typed.backends.worker_process import Trouble, WorkerProcess
from flask_executor_typed.runtime.threads import start_thread

from ..apps import attacked, working
from ..apps.working import serving
from ..helpers.scripts import run_python
from ..helpers.workers import START, is_alive, run_main, until, until_dead

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
has_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")


def backend_of(executor: Executor) -> ProcessBackend:
    backend = next(iter(executor._states.values())).backend(next(iter(executor._states)))
    assert isinstance(backend, ProcessBackend)
    return backend


@contextmanager
def serving_slowly(folder: Path, **settings: object) -> Generator[Executor, None, None]:
    """Only the first of the workers is up before there is a file ``go``."""
    app = f"tests.apps.attacked:create_app_slowly({str(folder)!r})"
    with serving(EXECUTOR_APP=app, **settings) as executor:
        yield executor


def starting_in(folder: Path) -> list[int]:
    """The processes that wait in :func:`attacked.create_app_slowly`."""
    return [int(path.name.split("-")[1]) for path in folder.glob("waits-*") if not path.suffix]


def in_time(fn: Callable[[], object]) -> None:
    thread = threading.Thread(target=fn, daemon=True)
    thread.start()
    thread.join(START)
    assert not thread.is_alive(), f"{fn!r} hangs"


# -- calls and workers that are not up (rows E, E2, F) ---------------------------------------------


def test_calls_begin_in_order_by_the_one_worker_that_is_up(tmp_path: Path) -> None:
    with serving_slowly(tmp_path, EXECUTOR_MAX_WORKERS=5) as executor:
        futures = [executor.submit(working.append, tmp_path / "runs", str(n)) for n in range(9)]
        assert [future.result(START) for future in futures] == [str(n) for n in range(9)]
        assert (tmp_path / "runs").read_text().split() == [str(n) for n in range(9)]
        assert executor.stats().workers == 5
        starting = starting_in(tmp_path)
        in_time(executor.shutdown)  # which does not wait for the other four: there is no call
    for each in starting:
        until_dead(each)


def test_each_worker_takes_calls_when_it_is_up(tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    with serving_slowly(tmp_path, EXECUTOR_MAX_WORKERS=3) as executor:
        paths = [tmp_path / name for name in "abc"]
        futures = [
            executor.submit(working.write_and_wait, path, tmp_path / "end") for path in paths
        ]
        until(lambda: len(starting_in(tmp_path)) == 3)
        assert [future.status for future in futures] == ["pending"] * 3
        (tmp_path / "go").touch()
        until(lambda: all(path.exists() for path in paths))
        (tmp_path / "end").touch()
        assert len({future.result(START) for future in futures}) == 3


@pytest.mark.parametrize("how", ["cancel", "kill", "cancel_futures", "key"])
def test_call_whose_worker_starts_is_cancelled_and_nothing_waits_for_the_start(
    tmp_path: Path, how: str
) -> None:
    (tmp_path / "first").touch()
    with serving_slowly(tmp_path) as executor:
        future = executor.using(key="key").submit(working.pid)
        until(lambda: starting_in(tmp_path))
        if how == "key":
            assert executor.futures.cancel("key")
        elif how != "cancel_futures":
            assert future.cancel(kill=how == "kill")
        in_time(lambda: executor.shutdown(cancel_futures=how == "cancel_futures"))
    assert future.cancelled()
    until_dead(starting_in(tmp_path)[0])


def test_exit_does_not_wait_for_a_worker_for_which_there_is_no_call(tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    app = f"tests.apps.attacked:create_app_slowly({str(tmp_path)!r})"
    ended = run_main(
        tmp_path,
        "forkserver",
        f"""
        app.config["EXECUTOR_APP"] = {app!r}
        executor.init_app(app)
        future = executor.submit(working.pid)
        from tests.attack.test_worker_processes import starting_in
        while not starting_in(working.Path({str(tmp_path)!r})):
            time.sleep(0.01)
        print(future.cancel())
        """,
    )
    assert ended == (0, "True\n", "")


def test_time_limit_is_kept_while_another_worker_starts(tmp_path: Path) -> None:
    with serving_slowly(tmp_path) as executor:
        lost = executor.using(timeout=1, retries=1)
        future = lost.submit(attacked.attempt_and_die, tmp_path / "attempts")
        assert isinstance(future.exception(START), JobTimeoutError)
        assert (tmp_path / "attempts").read_text() == "1\n"
        (tmp_path / "go").touch()
        assert executor.submit(working.squared, 3).result(START) == 9


def test_lost_call_that_waits_for_another_worker_can_be_cancelled(tmp_path: Path) -> None:
    with serving_slowly(tmp_path) as executor:
        lost = executor.using(timeout=3600, retries=1)
        future = lost.submit(attacked.attempt_and_die, tmp_path / "attempts")
        until(lambda: starting_in(tmp_path))
        assert future.cancel()
        in_time(executor.shutdown)  # nor does anything wait for the time limit


def test_lost_call_is_run_again_by_a_worker_that_is_up(tmp_path: Path) -> None:
    app = f"tests.apps.attacked:create_app_slowly({str(tmp_path)!r})"
    with serving(EXECUTOR_APP=app, EXECUTOR_MAX_WORKERS=2) as executor:
        paths = [tmp_path / name for name in "ab"]
        (tmp_path / "go").touch()
        waiting = [
            executor.submit(working.write_and_wait, path, tmp_path / "end") for path in paths
        ]
        until(lambda: all(path.exists() for path in paths))
        (tmp_path / "go").unlink()
        (tmp_path / "end").touch()
        wait(waiting, START)
        assert executor.using(retries=1).submit(working.die_once, tmp_path / "runs").result(START)
        assert not (tmp_path / "go").exists()


def test_start_that_takes_too_long_is_named_and_ended_and_its_calls_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "first").touch()
    monkeypatch.setattr(process, "_WARN_AFTER", 0.0)
    with serving_slowly(
        tmp_path, EXECUTOR_START_TIMEOUT=3, EXECUTOR_LOG_EXCEPTIONS=False
    ) as executor:
        futures = [executor.submit(working.pid) for _ in range(2)]
        for future in futures:
            error = future.exception(START)
            assert isinstance(error, JobLostError)
            assert (str(error), error.begun) == (
                "pid is lost: no worker process was up after EXECUTOR_START_TIMEOUT = 3 s",
                False,
            )
        for each in starting_in(tmp_path):
            until_dead(each)
    assert (
        "Worker process executor-worker-1 is not up after 0 s; it will be killed after 3 s "
        "(EXECUTOR_START_TIMEOUT)"
    ) in [record.getMessage() for record in caplog.records]


# -- starts that fail (rows M, S) ------------------------------------------------------------------


def test_start_that_fails_costs_no_call_while_a_worker_is_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = f"tests.apps.attacked:create_app_once({str(tmp_path)!r})"
    with serving(EXECUTOR_APP=app, EXECUTOR_MAX_WORKERS=2) as executor:
        first = executor.submit(working.write_and_wait, tmp_path / "pid", tmp_path / "end")
        until((tmp_path / "pid").exists)
        second = executor.submit(working.pid)
        until(lambda: caplog.records)
        assert not second.done()
        (tmp_path / "end").touch()
        assert first.result(START) == second.result(START)
    assert caplog.records[0].getMessage() == (
        "Worker processes of executor do not start: it could not load the app"
    )


def test_app_that_cannot_be_loaded_fails_all_that_waits_and_what_comes_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").touch()
    app = f"tests.apps.attacked:create_app_once({str(tmp_path)!r})"
    monkeypatch.setattr(process, "_LOAD_AGAIN_AFTER", 3600.0)
    with serving(EXECUTOR_APP=app, EXECUTOR_LOG_EXCEPTIONS=False) as executor:
        futures = [executor.submit(working.pid) for _ in range(3)]
        for future in futures:
            assert isinstance(future.exception(START), ConfigError)
        late = executor.submit(working.pid)
        assert late.done()
        assert isinstance(late.exception(), ConfigError)
        assert executor.stats().failed == 4
        backend_of(executor)._no_start_before = 0.0
        (tmp_path / "first").unlink()
        assert executor.submit(working.squared, 3).result(START) == 9


@pytest.mark.parametrize("error", [EOFError("no fork server"), OSError("no descriptors")])
def test_start_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failures = [error, error]

    def fail_twice(*args: Any) -> WorkerProcess:
        if failures:
            raise failures.pop()
        return WorkerProcess(*args)

    monkeypatch.setattr(process, "WorkerProcess", fail_twice)
    with serving() as executor:
        assert executor.submit(working.squared, 3).result(START) == 9
    assert failures == []


def test_starts_that_always_fail_fail_one_call_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[object] = []

    def fail(*args: object) -> WorkerProcess:
        starts.append(args)
        raise OSError("no descriptors")

    monkeypatch.setattr(process, "WorkerProcess", fail)
    with serving(EXECUTOR_LOG_EXCEPTIONS=False) as executor:
        futures = [executor.submit(working.pid) for _ in range(2)]
        for future in futures:
            assert str(future.exception(START)) == (
                "pid is lost: no worker process could be started (OSError: no descriptors)"
            )
    assert len(starts) == 6


@on_linux
def test_workers_that_end_before_they_read_a_call_count_as_starts_that_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or there would be one after the other, for ever."""

    def send(worker: WorkerProcess, message: Message, end: float = 0.0) -> Trouble:
        worker.kill()
        return Trouble.UNREAD

    monkeypatch.setattr(process, "_KILLS", 2)
    monkeypatch.setattr(WorkerProcess, "send", send)
    with serving(EXECUTOR_LOG_EXCEPTIONS=False) as executor:
        assert str(executor.submit(working.pid).exception(START)) == (
            "pid is lost: each of 2 worker processes was killed by SIGKILL when it started"
        )
        monkeypatch.undo()
        assert executor.submit(working.squared, 3).result(START) == 9


def test_worker_that_dies_before_there_is_a_call_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    with serving_slowly(tmp_path) as executor:
        future = executor.submit(working.pid)
        until(lambda: starting_in(tmp_path))
        assert future.cancel()
        (tmp_path / "go").touch()
        count = backend_of(executor)._count
        until(lambda: count[process._State.IDLE])
        os.kill(starting_in(tmp_path)[0], signal.SIGTERM)
        until_dead(starting_in(tmp_path)[0])
        assert executor.submit(working.squared, 3).result(START) == 9


@has_fork
def test_killed_fork_server_costs_no_call_that_has_not_begun(tmp_path: Path) -> None:
    ended = run_main(
        tmp_path,
        "forkserver",
        f"""
        from multiprocessing.forkserver import _forkserver
        app.config["EXECUTOR_MAX_WORKERS"] = 2
        executor.init_app(app)
        path, end = working.Path({str(tmp_path / "pid")!r}), working.Path({str(tmp_path / "end")!r})
        running = executor.submit(working.write_and_wait, path, end)
        while not path.exists():
            time.sleep(0.01)
        for _ in range(3):
            os.kill(_forkserver._forkserver_pid, 9)
            process = executor.submit(working.pid).result(25)
            os.kill(process, 9)
        end.touch()
        print(running.result(25) == int(path.read_text()))
        """,
    )
    assert (ended.status, ended.stdout) == (0, "True\n")  # a warning names the failure


def test_thread_that_does_not_start_costs_no_worker_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [0]

    def fail(*args: Any) -> threading.Thread:
        if failures[0]:
            failures[0] -= 1
            raise RuntimeError("can't start new thread")
        return start_thread(*args)

    monkeypatch.setattr(f"{process.__name__}.start_thread", fail)
    with serving(EXECUTOR_MAX_WORKERS=3) as executor:
        paths = [tmp_path / name for name in "abc"]
        futures: list[FutureProxy[int]] = []
        for path, failures[0] in zip(paths, (0, 1, 0), strict=True):
            futures.append(executor.submit(working.write_and_wait, path, tmp_path / "end"))
        assert failures == [0]
        until(lambda: all(path.exists() for path in paths))  # all three run at once
        (tmp_path / "end").touch()
        wait(futures, START)


def test_call_is_refused_if_no_thread_can_be_started_and_the_next_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for error in RuntimeError("can't start new thread"), KeyboardInterrupt():

        def fail(*args: Any, error: BaseException = error) -> threading.Thread:
            raise error

        with serving() as executor:
            monkeypatch.setattr(f"{process.__name__}.start_thread", fail)
            with pytest.raises(type(error)):
                executor.submit(working.squared, 2)
            monkeypatch.setattr(f"{process.__name__}.start_thread", start_thread)
            assert executor.submit(working.squared, 3).result(START) == 9
            assert executor.stats().pending == 0


# -- workers that die (rows B, C) ------------------------------------------------------------------


@on_linux
@pytest.mark.parametrize("how", ["multiprocessing", "libc"])
@pytest.mark.parametrize("kill", [False, True])
def test_death_of_a_worker_is_seen_though_its_child_lives(
    tmp_path: Path, how: str, kill: bool
) -> None:
    with serving(EXECUTOR_LOG_EXCEPTIONS=False) as executor:
        future = executor.submit(attacked.leave_a_child, tmp_path / "pids", how)
        until((tmp_path / "pids").exists)
        worker, child = map(int, (tmp_path / "pids").read_text().split())
        try:
            if kill:
                assert future.cancel(kill=True)
            else:
                os.kill(worker, signal.SIGKILL)
                assert isinstance(future.exception(START), JobLostError)
            assert executor.submit(working.pid).result(START) != worker
            assert is_alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


@on_linux
def test_worker_that_dies_in_the_middle_of_a_message_is_seen(tmp_path: Path) -> None:
    with serving(EXECUTOR_LOG_EXCEPTIONS=False) as executor:
        future = executor.submit(attacked.die_in_the_middle_of_an_answer, tmp_path / "pid")
        error = future.exception(START)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        assert isinstance(error, JobLostError)
        assert (error.reason, error.begun) == (
            "its worker process was killed by SIGKILL while it ran",
            True,
        )
        assert executor.submit(working.squared, 3).result(START) == 9


@on_linux
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_workers_have_their_own_sockets_and_no_others(tmp_path: Path) -> None:
    """Even those that start at the same time."""
    ended = run_main(
        tmp_path,
        "fork",
        f"""
        import threading
        from contextlib import suppress
        from flask_executor_typed.backends import worker_process
        from tests.apps import attacked

        start, all_are_here = worker_process.start_process, threading.Barrier(4)

        def start_process(*args):
            with suppress(threading.BrokenBarrierError):  # one after the other, as it should be
                all_are_here.wait(0.3)
            return start(*args)

        worker_process.start_process = start_process
        app.config["EXECUTOR_MAX_WORKERS"] = 4
        executor.init_app(app)
        folder = working.Path({str(tmp_path)!r})
        waiting = [executor.submit(working.write_and_wait, folder / str(n), folder / "end")
                   for n in range(4)]
        while not all((folder / str(n)).exists() for n in range(4)):
            time.sleep(0.01)
        counts = [executor.submit(attacked.count_sockets) for _ in range(8)]
        (folder / "end").touch()
        print({{count.result(25) for count in counts}})
        """,
    )
    # Two of ours, and two of the event loop of the worker.
    assert (ended.status, ended.stdout) == (0, "{4}\n")


@pytest.mark.parametrize("how", ["sleeps", "stopped"])
def test_cancel_never_blocks_however_often_it_is_called(tmp_path: Path, how: str) -> None:
    """Though the worker does not look at its orders; nor does kill."""
    with serving() as executor:
        future = executor.submit(working.write_and_wait, tmp_path / "pid")
        until((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
        if how == "stopped":
            os.kill(pid, signal.SIGSTOP)
        in_time(lambda: [future.cancel() for _ in range(20_000)])
        in_time(lambda: future.cancel(kill=True))
        assert future.cancelled()
        until_dead(pid)
        assert executor.submit(working.squared, 3).result(START) == 9


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops a process")
@pytest.mark.parametrize("how", ["kill", "time limit"])
def test_call_that_its_worker_does_not_read_can_be_ended(how: str) -> None:
    with serving(EXECUTOR_LOG_EXCEPTIONS=False) as executor:
        pid = executor.submit(working.pid).result(START)
        os.kill(pid, signal.SIGSTOP)
        limited = executor.using(timeout=1) if how == "time limit" else executor
        future = limited.submit(working.echo, b" " * (16 << 20))  # more than a socket holds
        until(future.running)
        if how == "kill":
            assert future.cancel(kill=True)
        else:
            assert isinstance(future.exception(START), JobTimeoutError)
        until_dead(pid)
        assert executor.submit(working.squared, 3).result(START) == 9


def test_large_calls_and_answers_arrive_whole() -> None:
    data = os.urandom(5 << 20)
    with serving() as executor:
        assert executor.submit(working.echo, data).result(START) == data


def test_reader_puts_messages_together_however_they_are_cut() -> None:
    messages = [Message(b"r", n, b"x" * n) for n in (0, 1, 100, 70_000)]
    stream = b"".join(map(dump, messages))
    for size in (1, 7, 17, 4096, len(stream)):
        reader = Reader()
        read: list[Message] = []
        for start in range(0, len(stream), size):
            reader.feed(stream[start : start + size])
            while (message := reader.message()) is not None:
                read.append(message)
        assert read == messages
        assert reader.message() is None


# -- forks (rows A, D) -----------------------------------------------------------------------------


@has_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_of_a_coroutine_ends_with_it(tmp_path: Path) -> None:
    with serving() as executor:
        assert executor.submit(attacked.fork_in_a_coroutine, tmp_path / "pid").result(START) == (
            "parent"
        )
        until((tmp_path / "pid").exists)
        until_dead(int((tmp_path / "pid").read_text()))
        assert executor.submit(working.echo, "after").result(START) == "after"


CHILD = """
import logging, signal, threading
from multiprocessing import forkserver, resource_tracker
from flask_executor_typed.backends import starting


def works_in_the_child():
    signal.alarm(60)
    status = 1
    try:
        assert working.executor.submit(working.squared, 3).result(50) == 9
        working.executor.shutdown()
        status = 0
    finally:
        os._exit(status)


"""


@has_fork
def test_fork_waits_for_the_start_of_a_worker(tmp_path: Path) -> None:
    """The child has no lock that is held, and no socket of the worker."""
    ended = run_main(
        tmp_path,
        "forkserver",
        """
        from multiprocessing.process import BaseProcess
        begun, at_fork = threading.Event(), threading.Event()
        start = BaseProcess.start

        def start_slowly(process):
            with forkserver._forkserver._lock, resource_tracker._resource_tracker._lock:
                begun.set()
                at_fork.wait(20)
                time.sleep(0.2)  # as long as it takes; the fork would be over by now
            start(process)
            started.append(process.pid)

        started = []
        BaseProcess.start = start_slowly
        os.register_at_fork(before=at_fork.set)  # which is called before those of the package
        first = executor.submit(working.pid)
        begun.wait(20)
        child = os.fork()
        if not child:
            BaseProcess.start = start
            works_in_the_child()
        print(len(started), os.waitpid(child, 0)[1], first.result(20) == started[0])
        """,
        CHILD,
    )
    assert ended == (0, "1 0 True\n", "")


@has_fork
def test_start_that_hangs_holds_up_no_fork_for_long_and_the_child_works(tmp_path: Path) -> None:
    """As after a fork of uWSGI, which tells nothing before."""
    ended = run_main(
        tmp_path,
        "forkserver",
        """
        starting._FORKS_WAIT = 0.1
        begun, go_on = threading.Event(), threading.Event()

        def hold():
            with starting.forks_wait(), forkserver._forkserver._lock:
                with resource_tracker._resource_tracker._lock:
                    begun.set()
                    go_on.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        begun.wait(20)
        child = os.fork()
        if not child:
            works_in_the_child()
        print(os.waitpid(child, 0)[1])
        go_on.set()
        holder.join()
        print(executor.submit(working.squared, 3).result(20))
        """,
        CHILD,
    )
    assert ended == (0, "0\n9\n", "")


@has_fork
def test_each_start_has_a_fork_server_though_something_waits_for_all_children(
    tmp_path: Path,
) -> None:
    ended = run_main(
        tmp_path,
        "forkserver",
        """
        from multiprocessing.forkserver import _forkserver
        process = executor.submit(working.pid).result(20)
        os.kill(_forkserver._forkserver_pid, 9)
        os.waitpid(_forkserver._forkserver_pid, 0)
        os.kill(process, 9)
        logging.disable()  # which warns that a start has failed
        print(executor.submit(working.squared, 3).result(20))
        """,
        CHILD,
    )
    assert ended == (0, "9\n", "")


def test_modules_that_a_start_needs_are_imported_when_the_backend_is(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        dedent("""
        import sys
        from tests.apps import working

        if __name__ == "__main__":
            app = working.create_app()
            before = set(sys.modules)
            print(working.executor.submit(working.squared, 3).result(25))
            print({name for name in set(sys.modules) - before if "multiprocessing" in name})
        """)
    )
    assert run_python(str(script)) == (0, "9\nset()\n", "")


# -- names -----------------------------------------------------------------------------------------


def test_each_worker_has_a_name_of_its_own(tmp_path: Path) -> None:
    with serving(EXECUTOR_MAX_WORKERS=2) as executor:
        futures: list[FutureProxy[Any]] = [
            executor.submit(working.write_and_wait, tmp_path / name, tmp_path / "end")
            for name in "ab"
        ]
        until(lambda: all((tmp_path / name).exists() for name in "ab"))
        os.kill(int((tmp_path / "a").read_text()), signal.SIGTERM)
        (tmp_path / "end").touch()
        wait(futures, START)
        seen = {executor.submit(attacked.names).result(START) for _ in range(20)}
    assert len({name for name, _ in seen}) == len({pid for _, pid in seen})
    assert {name for name, _ in seen} <= {f"executor-worker-{n}" for n in (1, 2, 3)}


def test_name_of_the_worker_is_in_its_log(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(EXECUTOR_START_METHOD="spawn") as executor:
        executor.submit(attacked.log_process_name).result(START)
    assert "said by executor-worker-1" in capfd.readouterr().err
