"""The app that test_records.py serves with four processes: its jobs have records in a store."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from flask import Flask, abort

from flask_executor_typed import Executor, current_job

app = Flask("recorded", instance_path=os.environ["RECORDED_FOLDER"])
app.config["EXECUTOR_STORE"] = os.environ["RECORDED_STORE"]
app.config["EXECUTOR_MAX_WORKERS"] = 16
executor = Executor(app)
runs = Path(app.instance_path, "runs")


@executor.job
def until_let_go(key: str) -> dict[str, Any]:
    """Count the run in a file, tell of progress, and wait until a file says that it may end."""
    with runs.open("a", encoding="utf-8") as file:
        file.write(f"{key}\n")
    current_job.progress(1, 2, "half")
    while not Path(app.instance_path, f"{key}-may-end").exists():
        time.sleep(0.01)
    return {"key": key, "process": os.getpid()}


@executor.job
def count_run(number: int) -> int:
    with runs.open("a", encoding="utf-8") as file:
        file.write(f"number {number}\n")
    return number


@app.post("/join/<key>")
def join(key: str) -> dict[str, Any]:
    future = until_let_go.using(key=key, on_duplicate="join").submit(key)
    return {"id": future.id, "process": os.getpid()}


@app.get("/poll/<key>")
def poll(key: str) -> dict[str, Any]:
    if key not in executor.futures:
        abort(404)
    progress = executor.futures.progress(key)
    result: Any = executor.futures.result(key) if executor.futures.done(key) else None
    message = None if progress is None else progress.message
    return {"message": message, "result": result, "process": os.getpid()}


@app.post("/many/<int:count>")
def many(count: int) -> dict[str, Any]:
    return {"ids": [count_run.submit(number).id for number in range(count)]}


@app.get("/jobs/<job_id>")
def job(job_id: str) -> dict[str, Any]:
    record = executor.jobs.get(job_id)
    status = None if record is None else record.status
    return {"status": status, "process": os.getpid(), "threads": threading.active_count()}


@app.get("/wait/<job_id>")
def wait(job_id: str) -> dict[str, Any]:
    future = executor.jobs.future(job_id)
    result: Any = None if future is None else future.result(60)
    return {"result": result, "process": os.getpid()}


@app.get("/counts")
def counts() -> dict[str, int]:
    return {str(status): count for status, count in executor.jobs.counts().items()}
