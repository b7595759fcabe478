"""Work that keeps a processor busy, in worker processes: the web process answers meanwhile.

``python -m examples.crunch`` serves this app and measures how fast a plain view answers while such
jobs run: in threads of the web process, and in processes of their own.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, abort
from flask.typing import ResponseReturnValue

from flask_executor_typed import Executor

__all__ = ("count_primes", "create_app", "processes", "threads")

processes = Executor[int](name="processes")
threads = Executor[int](name="threads")  # to compare with
EXECUTORS = {"processes": processes, "threads": threads}


def count_primes(limit: int) -> int:
    """How many primes there are below ``limit``, found the slow way."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, limit))


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["PROCESSES_EXECUTOR_TYPE"] = "process"
    app.config["PROCESSES_EXECUTOR_MAX_WORKERS"] = 2
    app.config["THREADS_EXECUTOR_MAX_WORKERS"] = 2
    for executor in EXECUTORS.values():
        executor.init_app(app)

    @app.post("/primes/<where>/<int:limit>")
    def start(where: str, limit: int) -> ResponseReturnValue:
        future = EXECUTORS[where].submit(count_primes, limit)
        EXECUTORS[where].futures.add(future.id, future)
        return {"id": future.id}, 202

    @app.get("/primes/<where>/<job>")
    def primes(where: str, job: str) -> ResponseReturnValue:
        future = EXECUTORS[where].futures.get(job)
        if future is None:
            abort(404)
        answer: dict[str, Any] = {"status": future.status}
        if future.status == "succeeded":
            answer["primes"] = future.result()
        return answer

    @app.get("/ping")
    def ping() -> ResponseReturnValue:
        return {"pong": True}

    return app
