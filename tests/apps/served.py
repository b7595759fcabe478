"""The app that the tests in this folder serve under gunicorn."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

from asgiref.sync import async_to_sync, sync_to_async
from asgiref.wsgi import WsgiToAsgi
from flask import Flask, Response, current_app, g, jsonify, request, stream_with_context
from flask.typing import ResponseReturnValue
from typing_extensions import Self

from flask_executor_typed import Executor

WORKERS = 8

app = Flask("served")
app.config["EXECUTOR_MAX_WORKERS"] = WORKERS
app.config["EXECUTOR_ASYNC_VIEWS"] = True
app.config["CRUNCH_EXECUTOR_TYPE"] = "process"
app.config["CRUNCH_EXECUTOR_APP"] = "tests.apps.served:app"
app.config["CRUNCH_EXECUTOR_MAX_WORKERS"] = 2
app.config["CRUNCH_EXECUTOR_PUSH_REQUEST_CONTEXT"] = True
app.config["CRUNCH_EXECUTOR_START_METHOD"] = os.environ.get("SERVED_START_METHOD")
executor = Executor(app)
crunch = Executor(app, name="crunch")
asgi_app: Any = cast(Any, WsgiToAsgi)(app)

# Wherever two jobs could be taken for each other: the request, g, a contextvar and the app.
Identity = tuple[str, str, str, str]
visitor: ContextVar[str] = ContextVar("visitor")


def identity() -> Identity:
    return request.args["id"], g.id, visitor.get(), current_app.name


@app.before_request
def remember_visitor() -> None:
    g.id = request.args.get("id", "")
    g.thread = threading.get_ident()
    visitor.set(g.id)


@app.after_request
def tell_process(response: Response) -> Response:
    response.headers["X-Process"] = str(os.getpid())
    response.headers["X-Imported-In"] = str(IMPORTED_IN)
    return response


@executor.job
def sync_identity() -> list[Identity]:
    before = identity()
    time.sleep(0)  # lets other threads run in between
    return [before, identity()]


@executor.job
async def async_identity() -> list[Identity]:
    before = identity()
    await asyncio.sleep(0)  # lets other jobs run in between
    return [before, identity()]


@crunch.job
def crunched(number: int) -> tuple[int, str, str, str, int]:
    return number, request.args["id"], g.id, current_app.name, os.getppid()


@app.get("/crunched")
def crunch_numbers() -> ResponseReturnValue:
    futures = [crunched.submit(number) for number in range(20)]
    return jsonify([future.result() for future in futures])


@crunch.job
def spin(seconds: float) -> int:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return os.getpid()


@app.get("/spin")
def spin_in_a_worker() -> ResponseReturnValue:
    return jsonify(spin.submit(float(request.args["seconds"])).result())


@app.get("/identities")
def identities() -> ResponseReturnValue:
    futures = [job.submit() for _ in range(20) for job in (sync_identity, async_identity)]
    return jsonify([seen for future in futures for seen in future.result()])


class Meeting:
    """Coroutines that go on when all of them have come."""

    def __init__(self, members: int) -> None:
        self._missing = members
        self._complete = asyncio.Event()

    async def join(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._complete.set()
        await self._complete.wait()


@executor.job
async def async_nap(number: int, meeting: Meeting) -> int:
    await asyncio.sleep(0.1)
    await meeting.join()  # which never ends if the jobs run one after the other
    return number


@app.get("/async-naps")
async def async_naps() -> ResponseReturnValue:
    meeting = Meeting(50)
    start = time.perf_counter()
    numbers = await asyncio.gather(*[async_nap.submit(number, meeting) for number in range(50)])
    return jsonify(numbers=numbers, seconds=time.perf_counter() - start)


@executor.job
def sync_nap(number: int, meeting: threading.Barrier) -> int:
    time.sleep(0.1)
    meeting.wait()
    return number


@app.get("/sync-naps")
async def sync_naps() -> ResponseReturnValue:
    meeting = threading.Barrier(WORKERS)
    start = time.perf_counter()
    naps = [sync_nap.submit(number, meeting) for number in range(WORKERS)]
    numbers = await asyncio.gather(*naps)
    return jsonify(numbers=numbers, seconds=time.perf_counter() - start)


def square(number: int) -> tuple[int, str]:
    return number * number, g.id


@app.get("/squares")
def squares() -> ResponseReturnValue:
    return jsonify(list(executor.map(square, range(1000))))


@executor.job
def write_after(seconds: float, path: str) -> None:
    time.sleep(seconds)
    Path(path).write_text("written", encoding="utf-8")


@executor.job
async def write_after_async(seconds: float, path: str) -> None:
    await asyncio.sleep(seconds)
    Path(path).write_text("written", encoding="utf-8")


@app.get("/write")
def write() -> ResponseReturnValue:
    write_after.submit(float(request.args["seconds"]), request.args["path"] + ".sync")
    write_after_async.submit(float(request.args["seconds"]), request.args["path"] + ".async")
    return {}, 202


LARGE = 64 * 1024 * 1024
"""Bytes that no socket takes before its client reads some of them."""


@app.get("/large/<how>")
def large(how: str) -> ResponseReturnValue:
    executor.using(key=how).after_response().submit(time.sleep, 0)
    if how == "plain":
        return bytes(LARGE)
    pieces = (bytes(LARGE // 64) for _ in range(64))
    return Response(stream_with_context(pieces))


@app.get("/large/<how>/status")
def status(how: str) -> ResponseReturnValue:
    executor.submit(time.sleep, 0).result()  # a job that was submitted has begun now
    return {"status": executor.futures.status(how)}


@app.get("/small/<how>")
def small(how: str) -> ResponseReturnValue:
    executor.using(key=how).after_response().submit(time.sleep, 0)
    return "body" if how == "plain" else Response(stream_with_context(iter(["bo", "dy"])))


@app.get("/large/<how>/end")
def end(how: str) -> ResponseReturnValue:
    executor.futures.result(how, timeout=30)
    return {"status": executor.futures.status(how)}


class Client:
    """Belongs to the loop that it was opened on."""

    async def __aenter__(self) -> Self:
        self.loop, self.uses = asyncio.get_running_loop(), 0
        clients_opened.append(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Tell the log of the server that it was closed, and where."""
        print("closed on", "its loop" if asyncio.get_running_loop() is self.loop else "another")


clients_opened: list[Client] = []
clients = executor.loop_resource(Client)


@app.get("/client")
async def use_client() -> ResponseReturnValue:
    client = await clients.get()
    client.uses += 1
    await asyncio.sleep(0)
    return {
        "loops": len({each.loop for each in clients_opened}),
        "clients": len(clients_opened),
        "uses": client.uses,
        "on_its_loop": asyncio.get_running_loop() is client.loop,
        "thread": threading.current_thread().name,
    }


blocked = threading.Barrier(3)


@app.get("/block")
async def block() -> ResponseReturnValue:
    """Answer when three such views block at the same time, each a loop."""
    blocked.wait()
    return {}


@app.get("/bridges")
async def bridges() -> ResponseReturnValue:
    left = asyncio.create_task(asyncio.sleep(3600))
    left.add_done_callback(lambda task: cancelled.append(task.cancelled()))
    request_thread = await sync_to_async(threading.get_ident)()
    again = await sync_to_async(async_to_sync(sync_to_async(threading.get_ident)))()
    return {"same": request_thread == again == g.thread, "id": g.id, "cancelled": cancelled[:]}


cancelled: list[bool] = []


# Used before gunicorn forks, if the app is loaded then (--preload): the threads of this executor
# stay behind in the parent, and each worker must get its own.
IMPORTED_IN = os.getpid()
executor.submit(time.sleep, 0).result()
executor.submit(asyncio.sleep, 0).result()
