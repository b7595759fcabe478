"""What is compared with what: one case for each row of the table.

Ours always runs inside a request with ``g`` filled, so that contexts are captured, pushed and torn
down for every job. The bare peers know nothing of contexts; Flask-Executor copies them as we do.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
import time
import tracemalloc
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import flask_executor
import loky
from asgiref.sync import async_to_sync
from flask import Flask, current_app, g, request

from flask_executor_typed import Executor
from harness import Case, Side, latency, throughput
from serving import serving_cases
from views import slow_view_case, view_cases

__all__ = ("open_cases",)

WORKERS = 4
PROCESSES = 2
JOBS = 4000
SLOW_JOBS = 100  # of a peer that needs half a millisecond for one
SLEEPERS = 20_000
SLEEP = 2.0  # seconds
TRACED_SLEEPERS = 2000
PENDING = 10_000


def noop(_: object = None) -> None: ...


async def anoop() -> None: ...


def worker_app() -> Flask:
    """What our worker processes load."""
    return Flask("benchmark")


def read_contexts() -> tuple[str, str, str]:
    return request.args["q"], g.user, current_app.name


@contextmanager
def open_cases() -> Generator[list[Case]]:
    """All cases, with their executors open and a request active in this thread."""
    app = Flask("benchmark")
    app.config["OURS_EXECUTOR_MAX_WORKERS"] = app.config["PEER_EXECUTOR_MAX_WORKERS"] = WORKERS
    app.config["PROCESS_EXECUTOR_TYPE"] = "process"
    app.config["PROCESS_EXECUTOR_APP"] = "cases:worker_app"
    app.config["PROCESS_EXECUTOR_MAX_WORKERS"] = PROCESSES
    app.add_url_rule("/items/<int:item>", "item")
    with (
        Executor(app, name="ours") as ours,
        Executor(app, name="process") as processes,
        flask_executor.Executor(app, name="peer") as original,
        ThreadPoolExecutor(WORKERS) as bare,
        _loop_in_thread() as loop,
        ExitStack() as servers,
        app.test_request_context("/items/7?q=benchmark"),
    ):
        g.user, g.locale, g.roles = "ada", "en", ["admin"]
        read_contexts()  # as a view would, before it submits; the request keeps what it parsed
        yield [
            *_submit_cases(ours, original, bare),
            *_coroutine_cases(ours, original, loop),
            *_map_cases(ours, bare),
            *_process_cases(processes),
            *_latency_cases(ours, bare, loop),
            *view_cases(bare, loop),
            slow_view_case(),
            *_sleeper_cases(ours, loop),
            *_pending_cases(ours, bare),
            *serving_cases(servers),
            *_scaling_cases(),
        ]


# -- the rows ------------------------------------------------------------------------------------


def _submit_cases(
    ours: Executor, original: flask_executor.Executor, bare: ThreadPoolExecutor
) -> Iterator[Case]:
    yield Case(
        name="submit",
        group="submit, plain function",
        title="submit with contexts / bare pool without any",
        goal=1.7,
        unit="us/job",
        ours=throughput(ours.submit, noop, jobs=JOBS),
        peer=throughput(bare.submit, noop, jobs=JOBS),
    )
    yield Case(
        name="submit-flask-executor",
        group="submit, plain function",
        title="submit with contexts / Flask-Executor",
        goal=10,
        unit="us/job",
        ours=throughput(ours.submit, noop, jobs=JOBS),
        peer=throughput(original.submit, noop, jobs=JOBS // 4),
    )
    yield Case(
        name="read-flask-executor",
        group="submit, plain function",
        title="job reads request, g, current_app / Flask-Executor",
        goal=8,
        unit="us/job",
        ours=throughput(ours.submit, read_contexts, jobs=JOBS),
        peer=throughput(original.submit, read_contexts, jobs=JOBS // 4),
    )


def _coroutine_cases(
    ours: Executor, original: flask_executor.Executor, loop: asyncio.AbstractEventLoop
) -> Iterator[Case]:
    yield Case(
        name="coroutine",
        group="submit, coroutine function",
        title="submit with contexts / run_coroutine_threadsafe",
        goal=4,
        unit="us/job",
        ours=throughput(ours.submit, anoop, jobs=JOBS),
        peer=throughput(_submit_to(loop), anoop, jobs=JOBS),
    )
    yield Case(
        name="coroutine-flask-executor",
        group="submit, coroutine function",
        title="submit with contexts / Flask-Executor + async_to_sync",
        goal=60,
        unit="us/job",
        ours=throughput(ours.submit, anoop, jobs=JOBS),
        peer=throughput(original.submit, async_to_sync(anoop), jobs=SLOW_JOBS),
    )


def _map_cases(ours: Executor, bare: ThreadPoolExecutor) -> Iterator[Case]:
    yield Case(
        name="map",
        group="map",
        title="map with contexts / bare pool's map",
        goal=1.7,
        unit="us/item",
        ours=_mapping(ours, chunksize=1),
        peer=_mapping(bare, chunksize=1),
    )
    yield Case(
        name="map-chunks",
        group="map",
        title="map(chunksize=100) with contexts / bare pool's map",
        goal=20,
        unit="us/item",
        ours=_mapping(ours, chunksize=100),
        peer=_mapping(bare, chunksize=100),
    )


def _process_cases(ours: Executor) -> Iterator[Case]:
    context = multiprocessing.get_context("forkserver")
    bare = _warm(ProcessPoolExecutor(PROCESSES, context))
    of_loky: Any = loky.get_reusable_executor(PROCESSES, timeout=None)
    _warm(ours)
    _warm(of_loky)
    yield Case(
        name="process",
        group="processes",
        title="submit with app context and g / bare ProcessPoolExecutor",
        goal=0.8,
        unit="us/job",
        ours=throughput(ours.submit, noop, jobs=JOBS),
        peer=throughput(bare.submit, noop, jobs=JOBS),
    )
    yield Case(
        name="process-map-chunks",
        group="processes",
        title="map(chunksize=100) with app context / bare ProcessPoolExecutor",
        goal=1,
        unit="us/item",
        ours=_mapping(ours, chunksize=100),
        peer=_mapping(bare, chunksize=100),
    )
    yield Case(
        name="process-loky",
        group="processes",
        title="submit with app context and g / loky",
        goal=0.8,
        unit="us/job",
        ours=throughput(ours.submit, noop, jobs=JOBS),
        peer=throughput(of_loky.submit, noop, jobs=JOBS),
    )


def _latency_cases(
    ours: Executor, bare: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop
) -> Iterator[Case]:
    yield Case(
        name="latency",
        group="latency, p50",
        title="submit to result / bare pool",
        goal=1.5,
        unit="us",
        ours=latency(ours.submit, noop, jobs=JOBS // 4),
        peer=latency(bare.submit, noop, jobs=JOBS // 4),
    )
    yield Case(
        name="latency-coroutine",
        group="latency, p50",
        title="coroutine, submit to result / run_coroutine_threadsafe",
        goal=1.2,
        unit="us",
        ours=latency(ours.submit, anoop, jobs=JOBS // 4),
        peer=latency(_submit_to(loop), anoop, jobs=JOBS // 4),
    )


def _sleeper_cases(ours: Executor, loop: asyncio.AbstractEventLoop) -> Iterator[Case]:
    yield Case(
        name="memory",
        group="sleeping coroutines",
        title="memory of a sleeping job / plain asyncio task",
        goal=2.5,
        unit="bytes",
        ours=_memory_of_jobs(ours),
        peer=_memory_of_tasks(loop),
        lower_is_better=True,
        max_rounds=3,
    )
    yield Case(
        name="sleepers",
        group="sleeping coroutines, wall time",
        title=f"{SLEEPERS:,} jobs asleep for {SLEEP:g} s on one loop thread, in seconds",
        goal=3,
        unit="s",
        ours=_sleeping(ours),
        peer=None,
        lower_is_better=True,
        max_rounds=5,
    )


def _pending_cases(ours: Executor, bare: ThreadPoolExecutor) -> Iterator[Case]:
    yield Case(
        name="submit-alone",
        group="submit alone",
        title="submit alone, which the request pays / bare pool",
        unit="us/job",
        ours=_submitting(ours),
        peer=_submitting(bare),
    )
    yield Case(
        name="memory-pending",
        group="jobs that wait for a worker",
        title="memory of a job that waits / bare pool",
        unit="bytes",
        ours=_memory_of_pending(ours),
        peer=_memory_of_pending(bare),
        lower_is_better=True,
        max_rounds=3,
    )


def _scaling_cases() -> Iterator[Case]:
    for workers in (1, 2, 4, 8, 16):
        yield Case(
            name=f"workers-{workers}",
            group="submit as workers go up",
            title=f"{workers} workers / bare pool",
            unit="us/job",
            ours=_with_workers(workers, JOBS),
            peer=_bare_with_workers(workers, JOBS),
            x=workers,
            slow=True,
        )
    for jobs in (10, 100, 1000, 10_000, 100_000, 1_000_000):
        yield Case(
            name=f"jobs-{jobs}",
            group="submit as jobs go up",
            title=f"{jobs:,} jobs / bare pool",
            unit="us/job",
            ours=_with_workers(WORKERS, jobs),
            peer=_bare_with_workers(WORKERS, jobs),
            x=jobs,
            slow=True,
            max_rounds=3 if jobs > 100_000 else None,
        )


# -- their sides ---------------------------------------------------------------------------------


@contextmanager
def _loop_in_thread() -> Generator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _submit_to(
    loop: asyncio.AbstractEventLoop,
) -> Callable[[Callable[..., Any]], Future[Any]]:
    return lambda fn: asyncio.run_coroutine_threadsafe(fn(), loop)


def _warm(pool: AnyExecutor) -> AnyExecutor:
    """Have a pool start all its processes: each is kept busy until the others are."""
    for nap in [pool.submit(time.sleep, 0.5) for _ in range(PROCESSES)]:
        nap.result()
    return pool


def _mapping(pool: AnyExecutor, *, chunksize: int) -> Side:
    def side() -> float:
        start = time.perf_counter()
        for _ in pool.map(noop, range(JOBS), chunksize=chunksize):
            pass
        return (time.perf_counter() - start) / JOBS * 1e6

    return side


def _sleeping(ours: Executor) -> Side:
    def side() -> float:
        start = time.perf_counter()
        futures = [ours.submit(asyncio.sleep, SLEEP) for _ in range(SLEEPERS)]
        for future in futures:
            future.result()
        seconds = time.perf_counter() - start
        loops = [thread for thread in threading.enumerate() if "ours_executor-loop-" in thread.name]
        assert len(loops) == 1, loops
        return seconds

    return side


async def sleep_long() -> None:
    await asyncio.sleep(3600)


def _memory_of_jobs(ours: Executor) -> Side:
    def side() -> float:
        with _traced() as traced:
            futures = [ours.submit(sleep_long) for _ in range(TRACED_SLEEPERS)]
            ours.submit(anoop).result()  # one loop, first in, first out: all are asleep now
            size = traced()
        for future in futures:
            future.cancel()
        ours.submit(anoop).result()
        return size / TRACED_SLEEPERS

    return side


def _memory_of_tasks(loop: asyncio.AbstractEventLoop) -> Side:
    async def run() -> float:
        with _traced() as traced:
            tasks = [asyncio.create_task(sleep_long()) for _ in range(TRACED_SLEEPERS)]
            await asyncio.sleep(0)  # all are asleep now
            size = traced()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return size / TRACED_SLEEPERS

    return lambda: asyncio.run_coroutine_threadsafe(run(), loop).result()


@contextmanager
def _all_busy(pool: AnyExecutor) -> Generator[None]:
    """Keeps all workers of a pool busy, so that what is submitted meanwhile waits."""
    go_on = threading.Event()
    started = [threading.Event() for _ in range(WORKERS)]

    def work(event: threading.Event) -> None:
        event.set()
        go_on.wait()

    futures = [pool.submit(work, event) for event in started]
    for event in started:
        event.wait()
    try:
        yield
    finally:
        go_on.set()
        for future in futures:
            future.result()


def _submitting(pool: AnyExecutor) -> Side:
    def side() -> float:
        with _all_busy(pool):
            start = time.perf_counter()
            futures = [pool.submit(noop) for _ in range(JOBS)]
            seconds = time.perf_counter() - start
        for future in futures:
            future.result()
        return seconds / JOBS * 1e6

    return side


def _memory_of_pending(pool: AnyExecutor) -> Side:
    def side() -> float:
        with _all_busy(pool), _traced() as traced:
            futures = [pool.submit(noop) for _ in range(PENDING)]
            size = traced()
        for future in futures:
            future.result()
        return size / PENDING

    return side


def _with_workers(workers: int, jobs: int) -> Side:
    app = Flask("scaling")
    app.config["EXECUTOR_MAX_WORKERS"] = workers

    def side() -> float:
        with Executor(app) as ours, app.test_request_context("/?q=benchmark"):
            g.user, g.locale, g.roles = "ada", "en", ["admin"]
            throughput(ours.submit, noop, jobs=JOBS)()  # its threads have started then
            return throughput(ours.submit, noop, jobs=jobs)()

    return side


def _bare_with_workers(workers: int, jobs: int) -> Side:
    def side() -> float:
        with ThreadPoolExecutor(workers) as bare:
            throughput(bare.submit, noop, jobs=JOBS)()
            return throughput(bare.submit, noop, jobs=jobs)()

    return side


@contextmanager
def _traced() -> Generator[Callable[[], int]]:
    """Gives a function that tells how many bytes were allocated since, and are still in use."""

    def traced() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        yield traced
    finally:
        tracemalloc.stop()
