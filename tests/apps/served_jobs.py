"""An app whose users follow their jobs, for real servers and browsers."""

from __future__ import annotations

import threading

from flask import Flask, Response, request
from werkzeug.exceptions import UnprocessableEntity

from flask_executor_typed import Executor, current_job
from flask_executor_typed.web import JobsBlueprint

app = Flask("jobs")
app.secret_key = "tests"
app.config["EXECUTOR_STORE_LOGS"] = True
executor = Executor(app, user=lambda: request.args.get("user", "ada"))
jobs = JobsBlueprint(executor, operator=lambda: "root" in request.args, streams=3, retry_after=1.0)
app.register_blueprint(jobs)

ATTACK = (
    "<script>window.attacked = alert(1)</script><img src=x onerror=alert(1)><svg onload=alert(1)>"
)

gates: dict[str, threading.Event] = {}


@app.get("/")
def form() -> str:
    return '<form method="post" action="/start/a"><button>Start</button></form>'


@app.post("/start/<gate>")
def start(gate: str) -> Response:
    gates[gate] = threading.Event()
    return jobs.accepted(executor.using(name="<script>alert(1)</script>").submit(work, gate))


@app.post("/open/<gate>")
def open_gate(gate: str) -> str:
    gates[gate].set()
    return ""


@app.post("/attack")
def attack() -> Response:
    job = executor.using(name=ATTACK, key=ATTACK, labels={"<b>": ATTACK})
    return jobs.accepted(job.submit(attacked), wait=10)


def attacked() -> None:
    current_job.progress(1, 2, ATTACK)
    app.logger.warning("log %s", ATTACK)
    raise UnprocessableEntity(ATTACK)


@app.get("/ping")
def ping() -> str:
    return "pong"


@app.get("/view/<gate>")
@jobs.respond_async(wait=0.1)
def view(gate: str) -> str:
    work(gate)
    return "<h1>The answer</h1>"


def work(gate: str) -> dict[str, str]:
    current_job.progress(2, 5, "Rows are written")
    event = gates.setdefault(gate, threading.Event())
    while not event.wait(0.01):
        current_job.raise_if_cancelled()
    if "fail" in gate:
        raise UnprocessableEntity("The file has no header row.")
    return {"gate": gate}
