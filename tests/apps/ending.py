"""The app that test_ending.py serves: with jobs of every kind, for the server to be stopped among.

Each job leaves a line in the file that ``ENDING_FILE`` names when it has come to its end.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any, cast

from asgiref.wsgi import WsgiToAsgi
from flask import Flask
from flask.typing import ResponseReturnValue

from flask_executor_typed import Executor

TIME = 2.5
"""Seconds that jobs have."""

app = Flask("ending")
app.config["EXECUTOR_MAX_WORKERS"] = 2
app.config["EXECUTOR_SHUTDOWN_TIMEOUT"] = TIME
app.config["DROPS_EXECUTOR_MAX_WORKERS"] = 1
app.config["DROPS_EXECUTOR_CANCEL_PENDING_AT_EXIT"] = True
app.config["CRUNCH_EXECUTOR_TYPE"] = "process"
app.config["CRUNCH_EXECUTOR_MAX_WORKERS"] = 2
app.config["CRUNCH_EXECUTOR_SHUTDOWN_TIMEOUT"] = TIME
executor = Executor(app)
drops = Executor(app, name="drops")
crunch = Executor(app, name="crunch")
asgi_app: Any = cast(Any, WsgiToAsgi)(app)


def note(line: str) -> None:
    file = os.open(os.environ["ENDING_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def work(seconds: float, line: str) -> None:
    time.sleep(seconds)
    note(line)


async def work_async(seconds: float, line: str) -> None:
    await asyncio.sleep(seconds)
    note(line)


def block() -> None:
    begun.release()
    time.sleep(3600)


async def endless() -> None:
    begun.release()
    try:
        while True:
            await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.05)
        note("cleaned up")


def block_in_a_process(path: str) -> None:
    Path(path).touch()
    time.sleep(3600)


begun = threading.Semaphore(0)


@app.get("/begin")
def begin() -> ResponseReturnValue:
    for future in [crunch.submit(time.sleep, 0.2) for _ in range(2)]:
        future.result()  # both processes have started
    path = Path(os.environ["ENDING_FILE"] + ".begun")
    crunch.submit(block_in_a_process, str(path))
    executor.submit(block)
    executor.submit(endless)
    for _ in range(2):
        begun.acquire()
    while not path.exists():
        time.sleep(0.01)
    crunch.submit(work, 0.5, "process")
    executor.submit(work, 0.5, "plain")
    executor.submit(work_async, 0.5, "coroutine")
    for _ in range(10):
        executor.submit(work, 0, "pending")
    drops.submit(work, 0.5, "plain")
    for _ in range(10):
        drops.submit(work, 0, "dropped")
    return {}


@app.get("/numbered/<int:number>")
def numbered(number: int) -> ResponseReturnValue:
    (
        executor.submit(work, 0.01, str(number))
        if number % 2
        else executor.submit(work_async, 0.01, str(number))
    )
    return {}


@app.get("/plain")
def plain() -> ResponseReturnValue:
    drops.submit(work, 0.5, "plain")
    return {}
