"""Rows about whole requests: two apps under gunicorn at the same time, asked in turn.

Run as a module of gunicorn it is those apps: ``serving:ours`` and ``serving:stock``.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from flask import Flask

from flask_executor_typed import Executor
from harness import Case, Side

__all__ = ("ours", "serving_cases", "stock")

CLIENTS = 4
REQUESTS = 400  # by each client


def noop() -> str:
    return ""


def _add_views(app: Flask, pool: AnyExecutor) -> Flask:
    @app.get("/plain")
    def plain() -> str:
        return ""

    @app.get("/async")
    async def in_loop() -> str:
        return ""

    @app.get("/job")
    def job() -> str:
        return pool.submit(noop).result()

    return app


def ours() -> Flask:
    app = Flask("ours")
    app.config["EXECUTOR_ASYNC_VIEWS"] = True
    return _add_views(app, Executor(app))


def stock() -> Flask:
    return _add_views(Flask("stock"), ThreadPoolExecutor())


def serving_cases(servers: ExitStack) -> Iterator[Case]:
    """The cases. Their servers start when they are measured, and end with ``servers``."""
    ports: dict[str, int] = {}

    def asking(app: str, path: str) -> Side:
        def side() -> float:
            if app not in ports:
                ports[app] = servers.enter_context(_serve(app))
            return _ask(ports[app], path)

        return side

    for name, path, title in (
        ("served-plain", "/plain", "plain view / stock Flask"),
        ("served-async", "/async", "async view, EXECUTOR_ASYNC_VIEWS / stock Flask"),
        ("served-job", "/job", "view that waits for a job / for a bare pool"),
    ):
        yield Case(
            name=name,
            group=f"gunicorn, 1 process of 4 threads, {CLIENTS} clients",
            title=title,
            unit="us/req",
            ours=asking("ours", path),
            peer=asking("stock", path),
            max_rounds=9,
        )


@contextmanager
def _serve(app: str) -> Generator[int]:
    """gunicorn, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", f"serving:{app}()", "--log-level=error"),
                *("--bind", f"fd://{listening.fileno()}", "--worker-class=gthread"),
                *("--threads=4", "--keep-alive=60"),
            ],
            cwd=Path(__file__).parent,
            pass_fds=[listening.fileno()],
        )
        try:
            yield listening.getsockname()[1]
        finally:
            server.terminate()
            server.wait()


def _ask(port: int, path: str) -> float:
    """Microseconds for each request; the clients keep their connections."""

    def ask_many(_: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(REQUESTS):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise RuntimeError(f"{path}: {response.status}")
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as clients:
        start = time.perf_counter()
        list(clients.map(ask_many, range(CLIENTS)))
        return (time.perf_counter() - start) / (CLIENTS * REQUESTS) * 1e6
