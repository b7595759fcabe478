"""The app that test_green.py serves, with greenlets in place of threads."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

from flask import Flask, current_app, g, jsonify, request
from flask.typing import ResponseReturnValue

from flask_executor_typed import Executor, FutureProxy

app = Flask("greened")
app.config["EXECUTOR_MAX_WORKERS"] = 8
app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
executor = Executor(app)


@app.before_request
def remember_visitor() -> None:
    g.id = request.args.get("id", "")


@app.errorhandler(Exception)
def tell(error: Exception) -> ResponseReturnValue:
    return f"{type(error).__name__}: {error}", 500


def identity() -> tuple[str, str, str]:
    before = request.args["id"]
    time.sleep(0.001)  # lets others run in between
    return before, g.id, current_app.name


@app.get("/identities")
def identities() -> ResponseReturnValue:
    futures = [executor.submit(identity) for _ in range(20)]
    return jsonify([future.result() for future in futures])


def meet(barrier: threading.Barrier) -> int:
    time.sleep(0.1)
    return barrier.wait(30)


@app.get("/naps")
def naps() -> ResponseReturnValue:
    barrier = threading.Barrier(8)
    futures = [executor.submit(meet, barrier) for _ in range(8)]
    return jsonify(sorted(future.result() for future in futures))


arrived, released = threading.Event(), threading.Event()


def wait_for_release() -> bool:
    arrived.set()
    return released.wait(30)


@app.get("/held")
def held() -> ResponseReturnValue:
    return jsonify(executor.submit(wait_for_release).result())


@app.get("/release")
def release() -> ResponseReturnValue:
    assert arrived.wait(30)
    released.set()
    return jsonify(True)


def nested(depth: int) -> int:
    return depth if depth == 0 else 1 + executor.submit(nested, depth - 1).result()


@app.get("/nested")
def nest() -> ResponseReturnValue:
    futures = [executor.submit(nested, 3) for _ in range(16)]
    return jsonify([future.result() for future in futures])


@app.get("/late")
def late() -> ResponseReturnValue:
    in_time = executor.using(timeout=60).submit(int).result()
    future = executor.using(timeout=0.05).submit(time.sleep, 0.2)
    return jsonify(in_time, str(future.exception()))


@app.get("/coroutine")
def coroutine() -> ResponseReturnValue:
    executor.submit(asyncio.sleep, 0)
    return "accepted"


def give_coroutine() -> Any:
    return asyncio.sleep(0)


@app.get("/hidden-coroutine")
def hidden_coroutine() -> ResponseReturnValue:
    future: FutureProxy[None] = executor.submit(give_coroutine)
    return jsonify(future.result())


@app.get("/await")
async def await_job() -> ResponseReturnValue:
    return jsonify(await asyncio.gather(*[executor.submit(abs, -n) for n in range(3)]))


@app.get("/setting/<key>/<value>")
def setting(key: str, value: str) -> ResponseReturnValue:
    other = Flask("other")
    other.config[key] = value
    Executor(other)
    return "accepted"


@app.get("/write")
def write() -> ResponseReturnValue:
    executor.submit(write_after, request.args["path"])
    return {}, 202


def write_after(path: str) -> None:
    time.sleep(1.5)
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
