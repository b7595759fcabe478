"""Measure jobs on Celery beside tasks of plain Celery: the latency of one, and many at once.

``python benchmarks/engines.py`` takes about a minute. It starts a Redis, which must be installed,
and two Celery workers of two processes each: one for tasks, and one for jobs, with
``--disable-prefetch`` as the documentation says. All end with it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from concurrent.futures import Future
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from examples.on_celery import PATIENCE, celery_worker, redis_server
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
        for queue, also in (("celery", ()), ("jobs", ("--disable-prefetch",))):
            options_of_worker = ("-n", queue, "-Q", queue, *also)
            log = folder / f"{queue}.log"
            stack.enter_context(celery_worker(log, f"{APP}:celery_app", *options_of_worker))
        app = import_module(APP)  # which reads the address of Redis
        print_header("Celery")
        for case in cases(app, options.jobs):
            print_result(measure(case, options.rounds))
        app.executor.shutdown()
    print(f"load average {os.getloadavg()[0]:.1f}")


class Plain(Future[Any]):
    """A task's AsyncResult, whose ``get`` is called ``result``."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task.delay()

    def result(self, timeout: float | None = None) -> Any:
        return self.task.get(timeout=timeout or PATIENCE)


def cases(app: Any, jobs: int) -> list[Case]:
    def ours(job: Any) -> Any:
        return job.submit()

    def case(name: str, title: str, goal: float, side: Any, count: int) -> Case:
        return Case(
            name=name,
            group="Celery",
            title=title,
            goal=goal,
            unit="us",
            ours=side(ours, app.nothing, jobs=count),
            peer=side(Plain, app.task, jobs=count),
        )

    return [
        case("latency", "one job at a time / delay().get()", 0.83, latency, 100),
        case("many", f"{jobs} jobs at once / delay() and get()", 1.0, throughput, jobs),
    ]


if __name__ == "__main__":
    main()
