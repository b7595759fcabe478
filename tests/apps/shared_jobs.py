"""The app that test_web_workers.py serves with four processes, whose records are in a store."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flask import Flask, Response, request, send_file
from flask.typing import ResponseReturnValue

from flask_executor_typed import Executor, current_job
from flask_executor_typed.web import JobsBlueprint

app = Flask("shared", instance_path=os.environ["RECORDED_FOLDER"])
app.config["EXECUTOR_STORE"] = os.environ["RECORDED_STORE"]
app.config["EXECUTOR_MAX_WORKERS"] = 16
executor = Executor(app, user=lambda: request.args.get("user", "ada"))
jobs = JobsBlueprint(executor, operator=lambda: "root" in request.args, streams=3, retry_after=1.0)
app.register_blueprint(jobs)


@app.after_request
def name_process(response: Response) -> Response:
    response.headers["X-Process"] = str(os.getpid())
    return response


@app.get("/")
def form() -> str:
    return '<form method="post" action="/start/a"><button>Start</button></form>'


@app.post("/start/<gate>")
def start(gate: str) -> Response:
    return jobs.accepted(executor.submit(until_let_go, gate))


@app.get("/view/<gate>")
@jobs.respond_async(wait=0.1)
def view(gate: str) -> ResponseReturnValue:
    until_let_go(gate)
    return "a line\n" * 50_000, 203, {"X-Rows": "50000"}


@app.get("/file/<gate>")
@jobs.respond_async(wait=0.1)
def file(gate: str) -> Response:
    until_let_go(gate)
    return send_file(__file__, as_attachment=True)


def until_let_go(gate: str) -> dict[str, object]:
    """Tell of progress, and wait until a file says that the job may end."""
    current_job.progress(2, 5, "Rows are written")
    while not Path(app.instance_path, f"{gate}-may-end").exists():
        current_job.raise_if_cancelled()
        time.sleep(0.01)
    return {"gate": gate, "process": os.getpid()}
