"""The app that test_doctor.py serves: it tells how it is, and a job of it blocks the loop."""

from __future__ import annotations

import threading
from dataclasses import asdict

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

from flask_executor_typed import Executor
from flask_executor_typed.doctor import check, status

app = Flask("doctored")
executor = Executor(app)
begun, released = threading.Event(), threading.Event()


async def block() -> None:
    begun.set()
    released.wait(60)


@app.get("/health")
def health() -> ResponseReturnValue:
    return jsonify([asdict(finding) for finding in check(app, seconds=0.5)])


@app.get("/status")
def tell_status() -> ResponseReturnValue:
    return jsonify([asdict(each) for each in status(app)])


@app.get("/block")
def block_loop() -> ResponseReturnValue:
    executor.submit(block)
    return jsonify(begun.wait(60))


@app.get("/change")
def change_setting() -> ResponseReturnValue:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    return jsonify(True)


@app.get("/release")
def release() -> ResponseReturnValue:
    released.set()
    executor.submit(begun.clear).result()
    return jsonify(True)


@app.get("/poll/<key>")
def poll(key: str) -> ResponseReturnValue:
    return jsonify(executor.futures.status(key))
