"""Measure jobs on engines beside their own tasks: the latency of one, and many at once.

``python benchmarks/engines.py`` takes about two minutes. It starts a Redis, which must be
installed, two Celery workers of two processes each, one for tasks and one for jobs, with
``--disable-prefetch`` as the documentation says, and a Dask scheduler with a worker of two
processes. All end with it.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from examples.on_celery import PATIENCE, celery_worker, process, redis_server
from harness import Case, latency, measure, print_header, print_result, throughput

APP = "benchmarks.engines_app"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--jobs", type=int, default=500, help="of a round that are submitted at once"
    )
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["BENCH_REDIS"] = stack.enter_context(redis_server(folder))
        os.environ["BENCH_DASK"] = f"tcp://127.0.0.1:{free_port()}"
        for queue, also in (("celery", ()), ("jobs", ("--disable-prefetch",))):
            options_of_worker = ("-n", queue, "-Q", queue, *also)
            log = folder / f"{queue}.log"
            stack.enter_context(celery_worker(log, f"{APP}:celery_app", *options_of_worker))
        stack.enter_context(dask(folder, os.environ["BENCH_DASK"]))
        app = import_module(APP)  # which reads the addresses
        for group, rows in (
            ("Celery", cases(app.task, Task, app.nothing, options.jobs)),
            ("Dask", cases(app.do_nothing, dask_client(stack), app.nothing_on_dask, options.jobs)),
        ):
            print_header(group)
            for case in rows:
                print_result(measure(case, options.rounds))
        app.on_celery.shutdown()
        app.on_dask.shutdown()
    print(f"load average {os.getloadavg()[0]:.1f}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def dask(folder: Path, address: str) -> Generator[None]:
    """Run a scheduler and a worker of two processes, with one thread each."""
    port = address.rpartition(":")[2]
    here = ("--host", "127.0.0.1", "--no-dashboard")
    python = (sys.executable, "-m")
    scheduler = (*python, "distributed.cli.dask_scheduler", "--port", port, *here)
    worker = (*python, "distributed.cli.dask_worker", address, *here)
    processes = ("--nworkers", "2", "--nthreads", "1")
    with (
        process(folder / "scheduler.log", "Scheduler at:", *scheduler),
        process(folder / "worker.log", "Registered to:", *worker, *processes),
    ):
        yield


def dask_client(stack: ExitStack) -> Callable[[Any], Any]:
    """Return what submits a function to Dask and nothing else."""
    client: Any = import_module("distributed").Client(os.environ["BENCH_DASK"])
    stack.callback(client.close)

    def submit(function: Any) -> Any:
        return client.submit(function, pure=False)  # otherwise it would run once

    return submit


class Task(Future[Any]):
    """A task of Celery, whose ``get`` is called ``result`` here."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self._task = task.delay()

    def result(self, timeout: float | None = None) -> Any:
        task, self._task = (
            self._task,
            None,
        )  # which, left to the end, would ask a Redis that is gone
        return task.get(timeout=timeout or PATIENCE)


def cases(task: Any, submit: Any, job: Any, count: int) -> list[Case]:
    """Return the rows of one engine: its own tasks, as ``submit`` submits them, beside a job."""

    def ours(job: Any) -> Any:
        return job.submit()

    def case(name: str, title: str, goal: float, side: Any, jobs: int) -> Case:
        return Case(
            name=name,
            group="engines",
            title=title,
            goal=goal,
            unit="us",
            ours=side(ours, job, jobs=jobs),
            peer=side(submit, task, jobs=jobs),
        )

    return [
        case("latency", "one at a time, from submit to its result", 0.83, latency, 100),
        case("many", f"{count} at once, until all results are there", 1.0, throughput, count),
    ]


if __name__ == "__main__":
    main()
