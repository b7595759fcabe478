"""The app of engines.py: one function that does nothing, as a task and as a job."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from flask import Flask

from flask_executor_typed import Executor

__all__ = ("celery_app", "executor", "flask_app", "nothing", "task")

REDIS = os.environ["BENCH_REDIS"]

flask_app = Flask("bench")
flask_app.config.from_mapping(
    SECRET_KEY="bench", EXECUTOR_TYPE="celery", EXECUTOR_STORE=REDIS, EXECUTOR_STORE_MAX_JOBS=10**6
)
celery_app: Any = Celery("bench", broker=REDIS, backend=REDIS)
celery_app.conf.task_routes = {"flask_executor_typed.run": "jobs"}  # for a worker of its own
flask_app.extensions["celery"] = celery_app
executor = Executor(flask_app)


@executor.job
def nothing() -> None:
    """Do nothing."""


@celery_app.task
def task() -> None:
    """Do nothing."""
