"""The recipe of an engine of one's own, examples/on_rq.py, with a real RQ and a real Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from flask import current_app, g

from flask_executor_typed import FutureProxy, JobFailedError, JobLostError, current_job

from ..conftest import until
from ..helpers.services import redis_server, skip_without
from .conftest import PATIENCE, ROOT, Program, running

skip_without("rq")
pytest.importorskip("rq", reason="RQ is not installed beside the oldest Flask, nor on Windows")

pytestmark = pytest.mark.slow  # RQ loads the app for each job


# -- jobs, which the worker imports from here ------------------------------------------------------


async def describe() -> tuple[str, str, int]:
    await asyncio.sleep(0)
    return current_app.name, g.user, os.getpid()


def fail() -> None:
    raise LookupError("no such order")


def die(attempts: int) -> int:
    if current_job.attempt <= attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    return current_job.attempt


def obey() -> None:
    for _ in range(int(PATIENCE * 100)):
        current_job.raise_if_cancelled()
        time.sleep(0.01)


# -- the worker ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop() -> Iterator[Any]:
    """The module of the example, with a Redis of the test."""
    with redis_server() as redis, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_REDIS", redis.url)
        patch.delitem(sys.modules, "examples.on_rq", raising=False)
        module: Any = import_module("examples.on_rq")
        with module.app.app_context():
            yield module
        module.executor.shutdown(timeout=0, app=module.app)


@pytest.fixture(scope="module")
def worker(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    command = (str(Path(sys.executable).with_name("rq")), "worker", "--url", shop.REDIS)
    options = ("--path", str(ROOT), "--serializer", "json", "shop")
    with running("Listening on", tmp_path_factory.mktemp("rq") / "log", *command, *options) as one:
        yield one
        assert one.stop() == 0, one.log


def test_a_job_gives_its_result_and_says_how_far_it_is(shop: Any, worker: Program) -> None:
    future: FutureProxy[str] = shop.print_label.submit(7)
    assert future.result(PATIENCE) == "label of order 7"
    record = shop.executor.jobs.get(future.id)
    assert (record.status, record.progress.message) == ("succeeded", "the address")


def test_a_coroutine_has_the_app_and_g_in_a_process_of_its_own(shop: Any, worker: Program) -> None:
    g.user = "ada"
    futures = [shop.executor.submit(describe) for _ in range(2)]
    (name, user, first), (_, _, second) = [each.result(PATIENCE) for each in futures]
    assert (name, user) == ("shop", "ada")
    assert len({first, second, worker.process.pid}) == 3  # RQ forks for each job


def test_an_error_arrives_as_its_class(shop: Any, worker: Program) -> None:
    future = shop.executor.submit(fail)
    with pytest.raises(LookupError, match="no such order") as caught:
        future.result(PATIENCE)
    assert isinstance(caught.value, JobFailedError)
    assert f"Exception in background job fail [{future.id}]" in worker.log


def test_a_killed_job_is_lost_or_runs_again(shop: Any, worker: Program) -> None:
    lost = shop.executor.submit(die, 1)
    again = shop.executor.using(retries=1).submit(die, 1)
    with pytest.raises(JobLostError):
        lost.result(PATIENCE)
    assert lost.status == "lost"
    assert again.result(PATIENCE) == 2


def test_a_running_job_is_asked_to_end(shop: Any, worker: Program) -> None:
    future = shop.executor.submit(obey)
    until(lambda: future.status == "running", PATIENCE)
    future.cancel()
    until(lambda: future.status == "cancelled", PATIENCE)


def test_a_deaf_job_is_killed(shop: Any, worker: Program) -> None:
    future = shop.executor.submit(time.sleep, PATIENCE)
    until(lambda: future.status == "running", PATIENCE)
    until(lambda: future.cancel(kill=True), PATIENCE)
    assert future.cancelled()
    assert shop.executor.submit(abs, -1).result(PATIENCE) == 1  # the worker goes on
