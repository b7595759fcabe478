"""The apps of engines.py: a function that does nothing, as a task and as a job of each engine."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from flask import Flask

from flask_executor_typed import Executor

__all__ = (
    "celery_app",
    "dask_app",
    "do_nothing",
    "flask_app",
    "nothing",
    "nothing_on_dask",
    "on_celery",
    "on_dask",
    "task",
)

REDIS = os.environ["BENCH_REDIS"]
SETTINGS = {"SECRET_KEY": "bench", "EXECUTOR_STORE": REDIS, "EXECUTOR_STORE_MAX_JOBS": 10**6}

flask_app = Flask("bench")
flask_app.config.from_mapping(SETTINGS, EXECUTOR_TYPE="celery")
celery_app: Any = Celery("bench", broker=REDIS, backend=REDIS)
celery_app.conf.task_routes = {"flask_executor_typed.run": "jobs"}  # for a worker of its own
flask_app.extensions["celery"] = celery_app
on_celery = Executor(flask_app)

dask_app = Flask("bench-dask")
dask_app.config.from_mapping(
    SETTINGS,
    EXECUTOR_TYPE="dask",
    EXECUTOR_DASK_ADDRESS=os.environ.get("BENCH_DASK", "tcp://127.0.0.1:1"),
    EXECUTOR_APP="benchmarks.engines_app:dask_app",
)
on_dask = Executor(dask_app)


@on_celery.job
def nothing() -> None:
    """Do nothing."""


@on_dask.job
def nothing_on_dask() -> None:
    """Do nothing."""


@celery_app.task
def task() -> None:
    """Do nothing."""


def do_nothing() -> None:
    """Do nothing."""
