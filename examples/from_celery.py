"""A shop on its way from Celery: one of its tasks has become a job, and one worker runs both.

``celery -A examples.from_celery:celery_app worker`` in the folder above starts that worker.
"""
# Celery has no types.
# pyright: reportMissingTypeStubs=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportCallIssue=false, reportFunctionMemberAccess=false

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task, shared_task
from celery.result import AsyncResult
from flask import Flask, abort, current_app
from flask.typing import ResponseReturnValue

from flask_executor_typed import Executor, current_job

REDIS = os.environ.get("SHOP_REDIS", "redis://localhost:6379/0")

executor: Executor[object] = Executor()


class FlaskTask(Task):
    """The task class of Flask's recipe. It may stay: the context of a job is above its own."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        with app.app_context():
            return self.run(*args, **kwargs)


def create_app() -> Flask:
    app = Flask("shop")
    app.config.from_mapping(
        SECRET_KEY=os.environ.get("SHOP_SECRET_KEY", "dev"),
        EXECUTOR_TYPE="celery",  # new
        EXECUTOR_STORE=REDIS,  # new
    )
    celery = Celery(app.name, task_cls=FlaskTask, broker=REDIS, backend=REDIS)
    celery.conf.update(broker_transport_options={"socket_timeout": 3}, worker_disable_prefetch=True)
    celery.set_default()
    app.extensions["celery"] = celery
    executor.init_app(app)  # new
    return app


app = create_app()
celery_app = app.extensions["celery"]


# before


class RateLimitedError(Exception):
    """The bank wants to be asked later."""


@shared_task(bind=True, max_retries=3)
def count_orders(self: Any, year: int) -> str:
    try:
        for month in range(1, 13):
            self.update_state(state="PROGRESS", meta={"month": month})
            ask_the_bank(year, month, self.request.retries)
    except RateLimitedError as error:
        raise self.retry(countdown=0.1, exc=error) from None
    return f"the orders of {year} for {current_app.name}"


@app.post("/count/<int:year>")
def start_count(year: int) -> ResponseReturnValue:
    return {"id": count_orders.delay(year).id}, 202


@app.get("/count/<task_id>")
def count(task_id: str) -> ResponseReturnValue:
    result = AsyncResult(task_id, app=celery_app)
    if not result.ready():  # or there never was such a task
        info = result.info  # read once: between two attempts, it is an error
        return {"month": info["month"] if isinstance(info, dict) else 0}, 202
    return {"orders": result.get()}


# after


@executor.job(retries=3, backoff=0.1)
def sum_orders(year: int) -> str:
    for month in range(1, 13):
        current_job.progress(month, 12)
        ask_the_bank(year, month, current_job.attempt - 1)
    return f"the orders of {year} for {current_app.name}"


@app.post("/sum/<int:year>")
def start_sum(year: int) -> ResponseReturnValue:
    return {"id": sum_orders.submit(year).id}, 202


@app.get("/sum/<job_id>")
def sum_of(job_id: str) -> ResponseReturnValue:
    future = executor.jobs.future(job_id)
    if future is None:
        abort(404)
    if not future.done():
        return {"month": future.progress.done if future.progress else 0}, 202
    return {"orders": future.result()}


# together


@shared_task
def send_mail(text: str) -> str:
    return f"sent: {text}"


@executor.job
def report(year: int) -> str:
    """A job that starts a task, which stays one."""
    mail_id: str = send_mail.delay(f"report of {year}").id
    return mail_id


@shared_task
def next_year(year: int) -> int:
    return year + 1


@shared_task
def every_night(year: int) -> str:
    """A task that starts a job: for Celery's beat, or for the end of a chain."""
    return report.submit(year).id


# the rest


def ask_the_bank(year: int, month: int, retries: int) -> None:
    """Fail twice for the year 2000, in March, then succeed."""
    if (year, month) == (2000, 3) and retries < 2:
        raise RateLimitedError
