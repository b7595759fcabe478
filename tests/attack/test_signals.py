"""Signal handlers that shut down wherever they interrupt a submit."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from flask import Flask

from flask_executor_typed import Executor, ExecutorClosedError, FutureProxy

from ..conftest import TIMEOUT
from ..helpers.steps import at_each_call


async def none() -> None:
    pass


@pytest.mark.parametrize("fn", [bool, none], ids=["plain", "async"])
def test_handler_that_shuts_down_while_a_submit_starts_threads_returns(
    app: Flask, fn: Callable[[], object]
) -> None:
    executors: list[Executor] = []
    futures: list[FutureProxy[object]] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        executor = Executor(app, name=f"number{len(executors)}")
        executors.append(executor)
        return lambda: futures.append(executor.submit(fn)), executor.shutdown

    raised: list[BaseException | None] = []

    def explore() -> None:
        for each in at_each_call(prepare, "backends", "loops"):
            raised.append(each)
            executors[-1].shutdown()

    # Not in this thread, which would hang as well.
    exploring = threading.Thread(target=explore, daemon=True)
    exploring.start()
    exploring.join(10 * TIMEOUT)
    assert not exploring.is_alive(), f"shutdown hangs at the {len(executors)}th place"
    assert {type(each) for each in raised} <= {type(None), ExecutorClosedError}
    assert all(future.result() in {None, False} for future in futures)  # accepted: it runs
    assert len(executors) > 20
