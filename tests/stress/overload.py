"""Twice the load that can be served. Ten minutes: ``python -m tests.stress.overload 600``.

Requests with 20 kB each submit a plain job and a coroutine, at twice the rate at which the workers
and the limit for coroutines let them be done. Prints what became of them and how the memory of this
process has grown since the first tenth of the time. Exit code 1 if a call was lost, or if it has
grown by more than 10 MiB.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from flask import Flask, Response

from flask_executor_typed import Executor, QueueFullError

JOB_SECONDS = 0.005
WORKERS = 2
MAX_PENDING = 20
REQUESTS = int(2 * WORKERS / JOB_SECONDS)
"""Each second: twice what the workers can do."""

GROWTH = 10.0
"""MiB."""

app = Flask("overload")
app.config["EXECUTOR_MAX_WORKERS"] = WORKERS
app.config["EXECUTOR_MAX_PENDING"] = MAX_PENDING
executor = Executor(app)
accepted = refused = 0


@app.errorhandler(QueueFullError)
def busy(error: QueueFullError) -> Response:
    return Response(status=503, headers={"Retry-After": "1"})


@app.post("/plain")
def plain() -> str:
    executor.submit(time.sleep, JOB_SECONDS)
    return ""


@app.post("/coroutine")
def coroutine() -> str:
    # As many at a time as wait take so long that they, too, can do half of what is asked.
    executor.submit(asyncio.sleep, MAX_PENDING * 2 / REQUESTS)
    return ""


def resident() -> float:
    """MiB of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def offer(seconds: float) -> None:
    global accepted, refused  # noqa: PLW0603
    client = app.test_client()
    begun = time.monotonic()
    offered = 0
    while (passed := time.monotonic() - begun) < seconds:
        if offered >= passed * REQUESTS:
            time.sleep(0.005)
            continue
        offered += 1
        for path in ("/plain", "/coroutine"):
            status = client.post(path, data=bytes(20_000)).status_code
            accepted += status == 200
            refused += status == 503


def main(seconds: float) -> int:
    offer(seconds / 10)
    before = peak = resident()
    for _ in range(9):
        offer(seconds / 10)
        peak = max(peak, resident())
    pending = executor.stats().pending
    executor.shutdown()
    stats = executor.stats()
    print(
        f"{seconds:g} s: {accepted + refused} calls ({(accepted + refused) / seconds:.0f} a "
        f"second), {accepted} accepted, {refused} refused, {stats.succeeded} done, {pending} "
        f"pending at the end; {before:.1f} MiB before, {peak - before:+.1f} MiB since"
    )
    lost = accepted - stats.succeeded
    return int(lost != 0 or peak - before > GROWTH or not refused)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 600.0))
