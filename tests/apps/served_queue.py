"""The app that test_celery_failures.py serves, whose jobs run in Celery."""

from __future__ import annotations

import os

from flask import Response

from flask_executor_typed.web import JobsBlueprint

from . import queued

app = queued.create_app()
jobs = JobsBlueprint(queued.executor, authorize=lambda job: True)
app.register_blueprint(jobs)


@app.after_request
def name_process(response: Response) -> Response:
    response.headers["X-Process"] = str(os.getpid())
    return response


@app.post("/count/<int:total>")
def count(total: int) -> Response:
    return jobs.accepted(queued.count_to.submit(total))


@app.post("/obey/<name>")
def obey(name: str) -> Response:
    return jobs.accepted(queued.obey.submit(name))
