"""Load for minutes or hours under gunicorn, and whether every accepted job had exactly one outcome.

``python benchmarks/soak.py --minutes 15``. The server runs this module's ``app``; the client is in
here too. Each job writes its outcome to a file, which is held against what the client was told when
the server has ended. Needs gunicorn, httpx and Linux, whose /proc has the figures of processes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from flask import Flask

from flask_executor_typed import Executor, FutureProxy

# -- the app -------------------------------------------------------------------------------------

app = Flask("soak")
app.config["EXECUTOR_MAX_WORKERS"] = 4
app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
app.config["EXECUTOR_ASYNC_VIEWS"] = True
executor = Executor(app)

if "SOAK_OUTCOMES" in os.environ:
    # One write() for each outcome, at the end of the file: they do not mix, from any process.
    outcomes = os.open(os.environ["SOAK_OUTCOMES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write_outcome(future: FutureProxy[Any]) -> None:
        if future.cancelled():
            outcome: object = "cancelled"
        else:
            error = future.exception()
            outcome = future.result() if error is None else repr(error)
        os.write(outcomes, f"{future.name} {outcome}\n".encode())

    executor.add_default_done_callback(write_outcome)


def double(number: int) -> int:
    time.sleep(0.002)
    return 2 * number


async def triple(number: int) -> int:
    await asyncio.sleep(0.002)
    return 3 * number


def fail(number: int) -> int:
    raise ValueError(number)


async def sleep_long(number: int) -> int:
    await asyncio.sleep(3600)
    return number


def nest(number: int) -> int:
    return named(number, 1).submit(triple, number).result()


def named(number: int, part: int = 0) -> Executor[Any]:
    return executor.using(name=f"{number}.{part}")


@app.get("/wait/sync/<int:number>")
def wait_sync(number: int) -> str:
    return str(named(number).submit(double, number).result())


@app.get("/wait/async/<int:number>")
def wait_async(number: int) -> str:
    return str(named(number).submit(triple, number).result())


@app.get("/await/<int:number>")
async def await_both(number: int) -> str:
    futures = named(number).submit(double, number), named(number, 1).submit(triple, number)
    return str(sum(await asyncio.gather(*futures)))


@app.get("/leave/sync/<int:number>")
def leave_sync(number: int) -> str:
    named(number).submit(double, number)
    return "left"


@app.get("/leave/async/<int:number>")
def leave_async(number: int) -> str:
    named(number).submit(triple, number)
    return "left"


@app.get("/after/<int:number>")
def after(number: int) -> str:
    named(number).after_response().submit(double, number)
    return "later"


@app.get("/fail/<int:number>")
def fails(number: int) -> str:
    return repr(named(number).submit(fail, number).exception())


@app.get("/cancel/<int:number>")
def cancel(number: int) -> str:
    future = named(number).submit(sleep_long, number)
    return str(future.cancel())


@app.get("/nest/<int:number>")
def nests(number: int) -> str:
    return str(named(number).submit(nest, number).result())


@app.get("/store/<int:number>")
def store(number: int) -> str:
    named(number).submit_stored(number, double, number)
    return str(executor.futures.pop(number).result())


def expected(number: int) -> tuple[str, str, list[str]]:
    """The URL of a request, its answer, and the outcomes of its jobs."""
    twice, thrice = str(2 * number), str(3 * number)
    error = f"ValueError({number})"
    kinds: list[tuple[str, str, list[str]]] = [
        ("wait/sync", twice, [twice]),
        ("wait/async", thrice, [thrice]),
        ("await", str(5 * number), [twice, thrice]),
        ("leave/sync", "left", [twice]),
        ("leave/async", "left", [thrice]),
        ("after", "later", [twice]),
        ("fail", error, [error]),
        ("cancel", "True", ["cancelled"]),
        ("nest", thrice, [thrice, thrice]),
        ("store", twice, [twice]),
    ]
    path, answer, outcomes = kinds[number % len(kinds)]
    return f"/{path}/{number}", answer, outcomes


# -- the client ----------------------------------------------------------------------------------


class Load:
    """Requests, a bounded number of them at a time and at most ``rate`` in a second."""

    def __init__(self, url: str, clients: int, rate: float) -> None:
        self._url = url
        self._clients = clients
        self._pause = clients / rate
        self._numbers = itertools.count()
        self.accepted: list[int] = []
        self.broken: dict[int, str] = {}
        """Requests without an answer, or with a wrong one, and what came instead."""

    async def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        async with httpx.AsyncClient(base_url=self._url, timeout=60, trust_env=False) as client:
            await asyncio.gather(*(self._call(client, end) for _ in range(self._clients)))

    async def _call(self, client: httpx.AsyncClient, end: float) -> None:
        due = time.monotonic()
        while (now := time.monotonic()) < end:
            due = max(due + self._pause, now - 1)  # what a slow second missed comes later
            await asyncio.sleep(max(0.0, due - now))
            number = next(self._numbers)
            path, answer, _ = expected(number)
            try:
                # Now and then another connection, which another process may get.
                headers = {"Connection": "close"} if number % 19 == 0 else None
                response = await client.get(path, headers=headers)
            except httpx.HTTPError as error:
                self.broken[number] = f"{path}: {error!r}"
                continue
            if response.status_code == 200 and response.text == answer:
                self.accepted.append(number)
            else:
                self.broken[number] = f"{path}: {response.status_code} {response.text[:200]}"


def judge(load: Load, outcomes: Path) -> Iterator[str]:
    """What is wrong with the outcomes."""
    seen: Counter[str] = Counter(outcomes.read_text("utf-8").splitlines())
    for number in load.accepted:
        _, _, values = expected(number)
        for part, value in enumerate(values):
            times = seen.pop(f"{number}.{part} {value}", 0)
            if times != 1:
                yield f"job {number}.{part} had the outcome {value} {times} times"
    for line, times in seen.items():
        if int(line.partition(".")[0]) not in load.broken:
            yield f"{times} times an outcome that was not expected: {line}"
    yield from load.broken.values()


# -- the server ----------------------------------------------------------------------------------


def children_of(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()))


def figures_of(pid: int) -> str:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    )
    kib = int(status["VmRSS"].split()[0])
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    threads = int(status["Threads"])
    return f"{pid}: {kib / 1024:.1f} MiB, {threads} threads, {descriptors} descriptors"


def tell(what: str, server: int, load: Load) -> None:
    processes = "; ".join(map(figures_of, children_of(server)))
    print(f"{what}, {len(load.accepted)} requests accepted | {processes}", flush=True)


async def watch(load: Load, server: int, minutes: float) -> None:
    async def report() -> None:
        await asyncio.sleep(min(20.0, minutes * 30))
        tell("warm", server, load)
        for minute in itertools.count(1):
            await asyncio.sleep(60)
            tell(f"minute {minute}", server, load)

    reporting = asyncio.create_task(report())
    await load.run(minutes * 60)
    reporting.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--workers", type=int, default=2, help="processes of gunicorn")
    parser.add_argument("--threads", type=int, default=4, help="of each process")
    parser.add_argument("--clients", type=int, default=4, help="requests at a time, at most")
    parser.add_argument("--rate", type=float, default=200, help="requests in a second, at most")
    options = parser.parse_args()

    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
    ):
        outcomes = Path(folder, "outcomes")
        outcomes.touch()
        load = Load(f"http://127.0.0.1:{listener.getsockname()[1]}", options.clients, options.rate)
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--chdir", str(Path(__file__).parent)),
                *("--no-control-socket", "--log-level", "warning", "--worker-class", "gthread"),
                *("--workers", str(options.workers), "--threads", str(options.threads)),
                *("--bind", f"fd://{listener.fileno()}", "soak:app"),
            ],
            env={**os.environ, "SOAK_OUTCOMES": str(outcomes)},
            pass_fds=[listener.fileno()],
        )
        try:
            asyncio.run(watch(load, server.pid, options.minutes))
            tell("end", server.pid, load)
        finally:
            server.send_signal(signal.SIGTERM)  # accepted jobs are still to run
            code = server.wait(90)
        wrong = list(judge(load, outcomes))
        count = len(outcomes.read_text("utf-8").splitlines())
    print(
        f"{len(load.accepted)} requests accepted, {len(load.broken)} not; {count} outcomes of jobs,"
        f" {len(wrong)} wrong; gunicorn ended with exit code {code}"
    )
    print("\n".join(wrong[:20]))
    return 1 if wrong or code else 0


if __name__ == "__main__":
    sys.exit(main())
