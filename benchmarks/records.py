"""Measure job records: what a store costs, and how soon other processes see a change.

``python benchmarks/records.py`` takes about a minute. Everything runs in a temporary folder; a
Redis is measured too if ``--redis`` gives the address of an empty one. The last column is the goal.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from flask import Flask

from flask_executor_typed import Executor
from flask_executor_typed.stores.protocol import Owner
from flask_executor_typed.stores.records import Row
from flask_executor_typed.stores.sqlite import SqliteStore

SPACE = "records"
ROUNDS, JOBS = 8, 400
RECORDS, USERS = 100_000, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--redis", metavar="URL", help="an empty Redis, such as redis://host:6379/9"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(options.child)
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as folder:
        stores = {"SQLite": f"sqlite:///{folder}/jobs.db"}
        if options.redis:
            stores["Redis"] = options.redis
        measure_submit(stores)
        for name, url in stores.items():
            with other_process(url) as other, open_executor(url) as executor:
                measure_wait(name, executor, other)
                measure_idle(name, executor, other)
                measure_loss(name, executor, other)
        measure_many(Path(folder, "many.db"))


def show(name: str, value: float, unit: str, goal: str = "") -> None:
    print(f"{name:58} {value:10.2f} {unit:8} {goal}", flush=True)


@contextmanager
def open_executor(url: str | None) -> Generator[Executor]:
    app = Flask(SPACE)
    app.config["EXECUTOR_STORE"] = url
    app.config["EXECUTOR_STORE_MAX_JOBS"] = 2 * RECORDS
    with Executor(app) as executor:
        yield executor


# -- submit ----------------------------------------------------------------------------------------


def measure_submit(stores: dict[str, str]) -> None:
    """The median of each round; then of the ratios of rounds, since the machine has moods."""
    bare: list[float] = []
    with open_executor(None) as plain:
        for name, url in stores.items():
            with open_executor(url) as executor:
                sides: dict[str, Callable[[], float]] = {
                    "no store": lambda: submit_time(plain),
                    "id not read": lambda stored=executor: submit_time(stored),
                    "id read": lambda stored=executor: submit_time(stored, read_id=True),
                }
                times: dict[str, list[float]] = {side: [] for side in sides}
                for _ in range(ROUNDS):
                    for side, measure in sides.items():
                        times[side].append(measure())
                bare += times["no store"]
                for side, goal in (("id not read", "<= 3"), ("id read", "<= 6")):
                    pairs = zip(times[side], times["no store"], strict=True)
                    ratio = statistics.median(with_it / without for with_it, without in pairs)
                    show(f"{name}: submit, {side}, p50", statistics.median(times[side]), "us")
                    show(f"{name}: submit, {side}, beside no store", ratio, "times", goal)
    show("submit without a store, p50", statistics.median(bare), "us")


def submit_time(executor: Executor, *, read_id: bool = False) -> float:
    times: list[float] = []
    futures: list[Any] = []
    for _ in range(JOBS):
        start = time.perf_counter()
        future = executor.submit(int)
        if read_id:
            _ = future.id
        times.append(time.perf_counter() - start)
        futures.append(future)
    for future in futures:
        future.result()
    time.sleep(0.2)  # until its records are written: the next side shall not pay for that
    return statistics.median(times) * 1e6


# -- another process -------------------------------------------------------------------------------


def serve(url: str) -> None:
    """Submit a job for each line: a number of seconds. Tell its id."""

    def work(seconds: float) -> float:
        time.sleep(seconds)
        return time.monotonic()  # one clock for all processes of a machine

    with open_executor(url) as executor:
        for line in sys.stdin:
            print(executor.submit(work, float(line)).id, flush=True)


class Other:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._in: IO[str] | None = process.stdin
        self._out: IO[str] | None = process.stdout

    def submit(self, seconds: float) -> str:
        assert self._in is not None
        assert self._out is not None
        self._in.write(f"{seconds}\n")
        self._in.flush()
        return self._out.readline().strip()

    def processor_seconds(self) -> float:
        fields = (
            Path(f"/proc/{self.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def other_process(url: str) -> Generator[Other]:
    command = [sys.executable, __file__, "--child", url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Other(process)
    finally:
        process.kill()
        process.wait()


def measure_wait(name: str, executor: Executor, other: Other) -> None:
    times: list[float] = []
    for _ in range(50):
        future = executor.jobs.future(other.submit(0.05))
        assert future is not None
        ended = future.result(60)
        times.append((time.monotonic() - ended) * 1000)
    show(
        f"{name}: from the end of a job to another process, median",
        statistics.median(times),
        "ms",
        "<= 6",
    )
    show(f"{name}: the same, slowest of {len(times)}", max(times), "ms")


def measure_idle(name: str, executor: Executor, other: Other) -> None:
    for what, seconds in (("nothing runs", 0.0), ("one job runs", 60.0)):
        job_id = other.submit(seconds)
        while (record := executor.jobs.get(job_id)) is None or not (record.done or seconds):
            time.sleep(0.01)
        time.sleep(1)
        before, start = other.processor_seconds(), time.monotonic()
        time.sleep(8)
        used = (other.processor_seconds() - before) / (time.monotonic() - start)
        show(f"{name}: a process while {what}", used * 100, "% of core", "<= 0.3")


def measure_loss(name: str, executor: Executor, other: Other) -> None:
    job_id = other.submit(60)
    while (record := executor.jobs.get(job_id)) is None or record.status != "running":
        time.sleep(0.005)
    other.process.kill()
    start = time.monotonic()
    while (record := executor.jobs.get(job_id)) is None or record.status != "lost":
        time.sleep(0.005)
    show(f"{name}: from kill -9 to lost", (time.monotonic() - start) * 1000, "ms", "<= 1000")


# -- many records ----------------------------------------------------------------------------------


def measure_many(path: Path) -> None:
    store = SqliteStore(path)
    store.register(Owner(id="bench", host="", pid=0, born=""))
    fill(store)
    size = size_of(path)
    with open_executor(f"sqlite:///{path}") as executor:
        numbers = itertools.cycle(range(0, RECORDS, 997))
        get = median_time(lambda: executor.jobs.get(f"job-{next(numbers)}"))
        one = median_time(lambda: executor.jobs.list(user="user-7", limit=1))
        page = median_time(lambda: executor.jobs.list(user="user-7"))
        newest = median_time(executor.jobs.list)
        counts = median_time(lambda: executor.jobs.counts(user="user-7"))
    show(f"{RECORDS:,} records: get", get, "us")
    show("list(user=, limit=1), beside get", one / get, "times", "<= 3")
    show("list(user=), 100 records, beside get", page / get, "times")
    show("list(user=), for each of the 100 records", page / 100, "us")
    show("list(), 100 records, beside get", newest / get, "times")
    show("counts(user=)", counts, "us")
    steps: list[float] = []
    removed = 1
    while removed:
        start = time.perf_counter()
        removed = store.purge(SPACE, finished_before=time.time())
        steps.append((time.perf_counter() - start) * 1000)
    show(f"purge, median of {len(steps)} steps", statistics.median(steps), "ms", "<= 50")
    show("purge, slowest step", max(steps), "ms")
    fill(store)
    show("file after purge and refill, beside before", size_of(path) / size, "times", "<= 1.2")
    store.close()


def fill(store: SqliteStore) -> None:
    ended = time.time() - 60
    for first in range(0, RECORDS, 200):
        store.write(
            [
                Row(
                    id=f"job-{number}",
                    space=SPACE,
                    executor="",
                    name="report",
                    owner="bench",
                    status="succeeded",
                    step=1,
                    submitted=ended,
                    started=ended,
                    finished=ended,
                    user=f"user-{number % USERS}",
                    result_state="stored",
                    result_type="json",
                    result=b'{"rows": [%s]}' % b", ".join([b"1234567"] * 10),
                    result_size=99,
                )
                for number in range(first, first + 200)
            ],
            patient=True,
        )


def size_of(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))


def median_time(call: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(200):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


if __name__ == "__main__":
    main()
