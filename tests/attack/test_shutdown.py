"""Submits that are stopped at each instruction while another thread shuts down, and the reverse."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress

import pytest
from flask import Flask

from flask_executor_typed import Executor, ExecutorClosedError, FutureProxy

from ..conftest import TIMEOUT
from ..helpers.steps import at_each_step


def elsewhere(fn: Callable[[], object]) -> None:
    thread = threading.Thread(target=fn, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive(), f"{fn!r} hangs"


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("cancel", [False, True], ids=["finish", "cancel"])
@pytest.mark.parametrize("stopped", ["submit", "shutdown"])
def test_call_is_accepted_and_ends_or_is_refused_and_never_runs(
    app: Flask, kind: str, cancel: bool, stopped: str
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executors: list[Executor] = []
    accepted: list[FutureProxy[None]] = []
    ran: list[int] = []

    async def run_async(number: int) -> None:
        ran.append(number)

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        executor = Executor(app, name=f"number{len(executors)}")
        executors.append(executor)
        executor.submit(int).result(TIMEOUT)
        accepted.clear()
        ran.clear()

        def submit() -> None:
            fn = ran.append if kind == "plain" else run_async
            with suppress(ExecutorClosedError):
                accepted.append(executor.submit(fn, 1))

        def shut_down() -> None:
            executor.shutdown(wait=stopped == "submit", cancel_futures=cancel)

        if stopped == "submit":
            return submit, lambda: elsewhere(shut_down)
        return shut_down, lambda: elsewhere(submit)

    for raised in at_each_step(prepare, "backends", "loops"):
        assert raised is None, raised
        assert not wait(accepted, TIMEOUT).not_done
        elsewhere(executors[-1].shutdown)
        outcomes = [future.status for future in accepted]
        assert set(outcomes) <= ({"succeeded", "cancelled"} if cancel else {"succeeded"})
        assert len(ran) == outcomes.count("succeeded")
    assert len(executors) > 10
