"""The app that test_celery_served.py and test_celery_failures.py serve; its jobs run in Celery."""

from __future__ import annotations

import os

from flask import Response, jsonify, request

from flask_executor_typed.web import JobsBlueprint

from . import queued

app = queued.create_app()
jobs = JobsBlueprint(queued.executor, authorize=lambda job: True)
app.register_blueprint(jobs)


@app.after_request
def name_process(response: Response) -> Response:
    response.headers["X-Process"] = str(os.getpid())
    return response


@app.post("/submit/<name>")
def submit(name: str) -> Response:
    asked = request.get_json()
    return jobs.accepted(getattr(queued, name).using(**asked["using"]).submit(*asked["args"]))


@app.get("/sum")
async def sum_in_a_view() -> Response:
    return jsonify([await queued.add.submit(20, 22)])


@app.get("/divided")
def divided() -> Response:
    return jsonify(list(queued.executor.map(queued.divmod_ten, range(20), chunksize=4)))


@app.post("/count/<int:total>")
def count(total: int) -> Response:
    return jobs.accepted(queued.count_to.submit(total))


@app.post("/obey/<name>")
def obey(name: str) -> Response:
    return jobs.accepted(queued.obey.submit(name))
