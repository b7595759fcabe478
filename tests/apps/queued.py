"""An app whose jobs run in Celery or Dask, with the settings of a test in the environment.

The tests submit in their own process. ``celery -A tests.apps.queued worker``, with Flask's own
recipe, runs the jobs; or ``dask worker``, which loads the app.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from flask import Flask, current_app, g

from flask_executor_typed import Executor, FutureProxy, current_job

PATIENCE = 120.0

executor: Executor[Any] = Executor()


def celery_init_app(app: Flask) -> Any:
    """Flask's recipe, from "Background Tasks with Celery" in its documentation."""
    celery: Any = import_module("celery")

    def call(task: Any, *args: object, **kwargs: object) -> object:
        with app.app_context():
            return task.run(*args, **kwargs)

    flask_task = type("FlaskTask", (celery.Task,), {"__call__": call})
    celery_app = celery.Celery(app.name, task_cls=flask_task)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app


def create_app(**config: Any) -> Flask:
    app = Flask("queued")
    url = os.environ["QUEUED_REDIS"]
    app.config.from_mapping(
        SECRET_KEY=os.environ.get("QUEUED_SECRET_KEY", "secret"),
        EXECUTOR_TYPE="dask" if "QUEUED_DASK" in os.environ else "celery",
        EXECUTOR_DASK_ADDRESS=os.environ.get("QUEUED_DASK"),
        EXECUTOR_APP=os.environ.get("QUEUED_APP", "tests.apps.queued:create_app"),
        EXECUTOR_STORE=url,
        EXECUTOR_STORE_LEASE=3.0,
        EXECUTOR_RELEASE=os.environ.get("QUEUED_RELEASE", "new"),
        CELERY={
            "broker_url": url,
            "task_ignore_result": True,
            "broker_connection_retry_on_startup": True,
            "task_acks_late": True,  # which must not matter
            "task_reject_on_worker_lost": True,
            "broker_transport_options": json.loads(os.environ.get("QUEUED_TRANSPORT", "{}")),
        },
    )
    app.config.from_mapping(config)
    if app.config["EXECUTOR_TYPE"] == "celery":
        celery_init_app(app)
    executor.init_app(app)
    return app


@contextmanager
def opened(**config: Any) -> Generator[Flask]:
    """Create the app, and close its executor when the block ends; queued jobs stay queued."""
    app = create_app(**config)
    try:
        yield app
    finally:
        executor.shutdown(timeout=0, app=app)


def folder() -> Path:
    return Path(os.environ["QUEUED_FOLDER"])


def note(line: object) -> None:
    """Append a line to the file of what has run: in one write, so that processes do not mix."""
    with (folder() / "runs").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def notes() -> list[str]:
    """Return the lines that :func:`note` has written."""
    file = folder() / "runs"
    return file.read_text("utf-8").splitlines() if file.exists() else []


def count_of(prefix: str) -> int:
    """Return how many of them begin like this."""
    return sum(line.startswith(prefix) for line in notes())


def start(name: str) -> FutureProxy[str]:
    """Submit a job that waits for :func:`let_end`, and wait until it runs."""
    future = wait.submit(name)
    _until(lambda: count_of(name) > 0)
    return future


def let_end(*names: str) -> None:
    """Let those jobs end that wait for that."""
    for name in names:
        (folder() / f"{name}-may-end").touch()


def wait_for(name: str) -> None:
    """Wait until the test says so."""
    _until((folder() / name).exists)


def _until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < limit:
        time.sleep(0.01)


class TripError(Exception):
    """An error of the app's own."""


def divmod_ten(number: int) -> tuple[int, int]:
    return divmod(number, 10)


@executor.job
def add(a: int, b: int) -> int:
    note("add")
    return a + b


@executor.job
async def add_async(a: int, b: int) -> tuple[int, int]:
    await asyncio.sleep(0)
    return a + b, id(asyncio.get_running_loop())


@executor.job
def describe() -> dict[str, Any]:
    return {
        "app": current_app.name,
        "user": g.user,
        "name": current_job.name,
        "id": current_job.id,
        "key": current_job.key,
        "attempt": current_job.attempt,
        "is ours": current_job.executor is executor,
        "process": os.getpid(),
    }


@executor.job
def fail(message: str) -> None:
    raise TripError(message)


@executor.job
def count_to(total: int) -> int:
    current_job.progress(total - 1, total, "nearly")
    wait_for("count-may-end")
    return total


@executor.job
def wait(name: str) -> str:
    note(f"{name} {os.getpid()}")
    wait_for(f"{name}-may-end")
    return name


@executor.job
async def wait_async(name: str) -> str:
    note(f"{name} {os.getpid()}")
    try:
        await asyncio.sleep(PATIENCE)
    except asyncio.CancelledError:
        note(f"{name} cancelled")
        raise
    return name


@executor.job
def obey(name: str) -> str:
    note(name)
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        current_job.raise_if_cancelled()
        time.sleep(0.01)
    return name


@executor.job
def die(name: str) -> None:
    note(f"{name} {current_job.attempt}")
    os.kill(os.getpid(), signal.SIGKILL)


@executor.job
def die_once(name: str) -> int:
    note(f"{name} {current_job.attempt}")
    if current_job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return current_job.attempt


@executor.job
def fail_twice() -> int:
    note(f"attempt {current_job.attempt}")
    if current_job.attempt < 3:
        raise TripError("not yet")
    return current_job.attempt


@executor.job
def submit_another() -> str:
    return add.submit(20, 22).id


@executor.job
def wait_for_another() -> int:
    return add.submit(20, 22).result()


if "QUEUED_CELERY" in os.environ:  # what "celery -A" finds
    celery_app = create_app().extensions["celery"]
