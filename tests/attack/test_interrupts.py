"""Interrupts (Ctrl-C, a handler that raises) at each place of what the main thread may be doing."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_executor_typed import Executor, ExecutorClosedError, FutureProxy, current_job
from flask_executor_typed.calls import Call

from ..conftest import TIMEOUT
from ..helpers.steps import EVERY, at_each_call

Action = Callable[[Executor], object]


def double(number: int) -> int:
    return 2 * number


async def double_async(number: int) -> int:
    return 2 * number


def in_time(fn: Callable[[], object]) -> None:
    thread = threading.Thread(target=fn, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive(), f"{fn!r} hangs"


def interrupt() -> None:
    raise KeyboardInterrupt


def submit(executor: Executor) -> None:
    executor.submit(double, 1)


def submit_async(executor: Executor) -> None:
    executor.submit(double_async, 1)


def submit_and_wait(executor: Executor) -> None:
    executor.submit(double, 1).result(TIMEOUT)


def call_back(executor: Executor) -> None:
    executor.submit(double, 1).add_done_callback(lambda _: None)


def submit_with_key(executor: Executor) -> None:
    executor.using(key="key", on_duplicate="replace").submit(double, 1)


def map_all(executor: Executor) -> None:
    assert list(executor.map(double, range(4), buffersize=2)) == [0, 2, 4, 6]


def map_in_chunks(executor: Executor) -> None:
    assert list(executor.map(double_async, range(4), chunksize=2)) == [0, 2, 4, 6]


def leave_map(executor: Executor) -> None:
    executor.map(double, range(4)).close()


@pytest.mark.parametrize(
    ("action", "every"),
    [
        *((each, 1) for each in (submit, submit_async, submit_and_wait)),
        *((each, 1) for each in (submit_with_key, call_back)),
        *((each, EVERY) for each in (map_all, map_in_chunks, leave_map)),
    ],
)
def test_executor_works_after_an_interrupt_at_any_place(
    app: Flask, action: Action, every: int
) -> None:
    with Executor(app) as executor:
        executor.submit(int).result(TIMEOUT)
        interrupted = 0
        for raised in at_each_call(lambda: (lambda: action(executor), interrupt), every=every):
            assert raised is None or isinstance(raised, KeyboardInterrupt), raised
            interrupted += raised is not None
            executor.wait_idle(TIMEOUT)  # nothing counts that is not there
            assert executor.submit(double, 1).result(TIMEOUT) == 2
            assert executor.submit(double_async, 1).result(TIMEOUT) == 2
        assert interrupted > 0


def test_call_that_has_begun_keeps_its_key_if_its_submit_is_interrupted(
    app: Flask, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, released = threading.Event(), threading.Event()
    runs: list[str] = []

    def work() -> int:
        runs.append(current_job.id)
        begun.set()
        assert released.wait(TIMEOUT)
        return len(runs)

    backend = executor.state_of(app).backend(app)
    submit = backend.submit

    def submit_and_interrupt(call: Call[Any]) -> None:
        submit(call)
        assert begun.wait(TIMEOUT)
        interrupt()

    monkeypatch.setattr(backend, "submit", submit_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        executor.using(key="key").submit(work)
    monkeypatch.undo()
    try:
        joined = executor.using(key="key", on_duplicate="join").submit(work)
    finally:
        released.set()
    assert (joined.result(TIMEOUT), runs) == (1, [joined.id])


@pytest.mark.parametrize("fn", [double, double_async])
@pytest.mark.parametrize("cancel", [False, True], ids=["finish", "cancel"])
def test_shutdown_can_be_repeated_after_an_interrupt_at_any_place(
    app: Flask, fn: Callable[[int], object], cancel: bool
) -> None:
    executors: list[Executor] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        executor = Executor(app, name=f"number{len(executors)}")
        executors.append(executor)
        executor.submit(int).result(TIMEOUT)
        futures[:] = [executor.submit(fn, number) for number in range(3)]
        return lambda: executor.shutdown(cancel_futures=cancel), interrupt

    futures: list[FutureProxy[object]] = []
    for raised in at_each_call(prepare):
        executor = executors[-1]
        assert raised is None or isinstance(raised, KeyboardInterrupt), raised
        in_time(executor.shutdown)
        assert all(future.done() for future in futures)
        with pytest.raises(ExecutorClosedError):
            executor.submit(int)
        assert executor.stats().workers == executor.stats().loops == 0
    assert len(executors) > 3


# An object whose __init__ was interrupted may lack what its __del__ looks for.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_call_is_lost_when_a_commit_is_interrupted(app: Flask) -> None:
    pytest.importorskip("sqlalchemy")
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session

    engine = create_engine("sqlite://")
    futures: list[FutureProxy[int]] = []
    with Executor(app) as executor:
        executor.submit(int).result(TIMEOUT)

        def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
            session = Session(engine)
            session.execute(text("SELECT 1"))

            def commit() -> None:
                futures.append(executor.after_commit(session).submit(double, 1))
                session.commit()

            return commit, interrupt

        for raised in at_each_call(prepare):
            assert raised is None or isinstance(raised, KeyboardInterrupt), raised
        gc.collect()  # sessions that did not commit are gone, and cancel their calls
        executor.wait_idle(TIMEOUT)
    engine.dispose()
    assert all(future.done() for future in futures)
    assert {future.status for future in futures} <= {"succeeded", "cancelled"}
    assert futures[-1].result() == 2
