"""Serves the app under gunicorn and measures how fast it answers while jobs compute.

``python -m examples.crunch`` ends with exit code 0 if every answer was right, however long it took.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from ..demo import PATIENCE, WrongAnswer, expect, gunicorn, ms

JOBS = 4
LIMIT = 150_000
PRIMES = 13_848  # below LIMIT


@dataclass
class Measured:
    where: str
    seconds: float
    """For all jobs."""

    pings: list[float]
    """Seconds that each answer took, while jobs ran."""

    def __str__(self) -> str:
        return (
            f"{self.where:10} {self.seconds:5.2f} s for {JOBS} jobs; meanwhile {len(self.pings)} "
            f"pings: median {ms(statistics.median(self.pings))}, slowest {ms(max(self.pings))}"
        )


def measure(http: httpx.Client, where: str) -> Measured:
    """Start the jobs, and ping until they are done."""
    start = time.perf_counter()
    jobs = [submit(http, where, LIMIT) for _ in range(JOBS)]
    pings: list[float] = []
    while jobs:
        begun = time.perf_counter()
        expect("ping", http.get("/ping").json(), {"pong": True})
        pings.append(time.perf_counter() - begun)
        answer = http.get(f"/primes/{where}/{jobs[0]}").json()
        if answer["status"] == "succeeded":
            expect("primes", answer["primes"], PRIMES)
            jobs.pop(0)
        elif answer["status"] not in {"pending", "running"}:
            raise WrongAnswer(f"a job in {where} {answer['status']}")
        expect("the jobs end", time.perf_counter() - start < PATIENCE, True)
    return Measured(where, time.perf_counter() - start, pings)


def submit(http: httpx.Client, where: str, limit: int) -> str:
    job: str = http.post(f"/primes/{where}/{limit}").json()["id"]
    return job


def warm_up(http: httpx.Client, where: str) -> None:
    """Start the workers."""
    for job in [submit(http, where, 1000) for _ in range(2)]:
        while http.get(f"/primes/{where}/{job}").json()["status"] in {"pending", "running"}:
            time.sleep(0.01)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "server.log")
        try:
            with (
                gunicorn(log, "examples.crunch:create_app()") as url,
                httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as http,
            ):
                for where in ("threads", "processes"):
                    warm_up(http, where)
                    print(measure(http, where))
        except (WrongAnswer, httpx.HTTPError, KeyError) as error:
            print(f"WRONG  {type(error).__name__}: {error}\n{log.read_text('utf-8')}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
