"""Rows about async views: what they cost, and what it costs them to wait for jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from flask import Flask

from flask_executor_typed import Executor
from flask_executor_typed.web import JobsBlueprint
from harness import Case, Side

__all__ = ("slow_view_case", "view_cases")

VIEWS = 300
AWAITS = 300
FAN_OUTS = 20
FAN = 50


def noop() -> None: ...


async def anoop() -> None: ...


async def return_nothing() -> str:
    return ""


def view_cases(bare: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop) -> Iterator[Case]:
    """The cases; ``loop`` runs in a thread."""
    app, ours = _make_app(lasting=True)
    stock, _ = _make_app(lasting=False)
    yield Case(
        name="async-view",
        group="async view, what it costs more than a plain one",
        title="EXECUTOR_ASYNC_VIEWS / stock Flask",
        goal=10,
        unit="us/call",
        ours=_view_overhead(app),
        peer=_view_overhead(stock),
    )
    yield Case(
        name="await",
        group="async view, waiting for jobs",
        title="await one job / run_in_executor of a bare pool",
        unit="us",
        ours=_in_view(app, _awaiting(lambda: ours.submit(noop))),
        peer=_in_view(stock, _awaiting(lambda: _run_in(bare))),
    )
    yield Case(
        name="await-coroutine",
        group="async view, waiting for jobs",
        title="await one coroutine job / run_coroutine_threadsafe",
        unit="us",
        ours=_in_view(app, _awaiting(lambda: ours.submit(anoop))),
        peer=_in_view(stock, _awaiting(lambda: _run_on(loop))),
    )
    yield Case(
        name="fan-out",
        group="async view, waiting for jobs",
        title=f"gather {FAN} jobs / run_in_executor of a bare pool",
        unit="us",
        ours=_in_view(app, _gathering(lambda: ours.submit(noop))),
        peer=_in_view(stock, _gathering(lambda: _run_in(bare))),
    )


def slow_view_case() -> Case:
    """A view that runs as a job, and is done in time."""
    app = Flask("slow views")
    executor = Executor(app, user=lambda: "ada")
    jobs = JobsBlueprint(executor)
    app.register_blueprint(jobs)
    app.add_url_rule("/waits", "waits", lambda: executor.submit(return_text).result())
    app.add_url_rule("/responds", "responds", jobs.respond_async()(return_text))
    return Case(
        name="respond-async",
        group="view that runs as a job, processor time of a request",
        title="respond_async / a view that does submit().result()",
        goal=2,
        unit="us/req",
        ours=_processor_time(app, "/responds"),
        peer=_processor_time(app, "/waits"),
        lower_is_better=True,
    )


def return_text() -> str:
    return ""


def _processor_time(app: Flask, path: str) -> Side:
    client = app.test_client()

    def side() -> float:
        start = time.process_time()
        for _ in range(VIEWS):
            client.get(path)
        return (time.process_time() - start) / VIEWS * 1e6

    return side


def _make_app(*, lasting: bool) -> tuple[Flask, Executor]:
    app = Flask("views")
    app.config["EXECUTOR_ASYNC_VIEWS"] = lasting
    executor = Executor(app)
    app.add_url_rule("/plain", "plain", lambda: "")
    app.add_url_rule("/async", "async", return_nothing)
    return app, executor


def _view_overhead(app: Flask) -> Side:
    def microseconds(endpoint: str) -> float:
        with app.test_request_context():
            times: list[float] = []
            for _ in range(VIEWS):
                start = time.perf_counter()
                app.ensure_sync(app.view_functions[endpoint])()  # as Flask calls it
                times.append(time.perf_counter() - start)
        return median(times) * 1e6

    return lambda: microseconds("async") - microseconds("plain")


def _in_view(app: Flask, work: Callable[[], Awaitable[float]]) -> Side:
    """Run ``work`` as an async view of ``app`` would run it, in a request."""

    def side() -> float:
        with app.test_request_context("/async"):
            return app.ensure_sync(work)()

    return side


def _awaiting(start_job: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[float]]:
    async def work() -> float:
        times: list[float] = []
        for _ in range(AWAITS):
            start = time.perf_counter()
            await start_job()
            times.append(time.perf_counter() - start)
        return median(times) * 1e6

    return work


def _gathering(start_job: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[float]]:
    async def work() -> float:
        times: list[float] = []
        for _ in range(FAN_OUTS):
            start = time.perf_counter()
            await asyncio.gather(*[start_job() for _ in range(FAN)])
            times.append(time.perf_counter() - start)
        return median(times) * 1e6

    return work


def _run_in(bare: ThreadPoolExecutor) -> Awaitable[object]:
    return asyncio.get_running_loop().run_in_executor(bare, noop)


def _run_on(loop: asyncio.AbstractEventLoop) -> Awaitable[object]:
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(anoop(), loop))
