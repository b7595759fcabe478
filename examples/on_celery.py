"""Runs the travel agency with its jobs in Celery, and replaces the server while a job runs.

``python -m examples.on_celery`` starts Redis, a Celery worker and gunicorn, each on a free port of
127.0.0.1, and stops them all. Its exit code is 0 only if every answer was right. With ``--stay`` it
serves until Ctrl-C instead. It needs ``redis-server``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from .demo import ROOT, Demo, WrongAnswer, expect, gunicorn, ms
from .weather import WeatherService, weather_service

__all__ = ("celery_worker", "main", "redis_server")

PATIENCE = 180.0  # seconds after which a program that starts, or a job, counts as hung


@contextmanager
def process(log: Path, is_ready: str, *command: str, **environment: str) -> Generator[None]:
    """Run a program from the line of its log that says that it is ready to the end of the block.

    Raises:
        WrongAnswer: it does not start, or does not end at SIGTERM. The error has its log.
    """
    with log.open("wb") as output:
        started = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for this script, which stops one after the other
        )
    try:
        end = time.monotonic() + PATIENCE
        while is_ready not in log.read_text("utf-8", errors="replace"):
            if started.poll() is not None or time.monotonic() > end:
                raise WrongAnswer(f"{command} did not start:\n{log.read_text('utf-8')}")
            time.sleep(0.02)
        yield
        started.terminate()
        with suppress(subprocess.TimeoutExpired):
            started.wait(PATIENCE)
        expect(f"exit code of {command}", started.poll(), 0)
    finally:
        started.kill()
        started.wait()


@contextmanager
def redis_server(folder: Path) -> Generator[str]:
    """Run an empty Redis; gives its address."""
    program = shutil.which("redis-server")
    if program is None:
        raise WrongAnswer("redis-server is not installed; on Debian: apt install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    options = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "")
    with process(folder / "redis.log", "Ready to accept connections", program, *options):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def celery_worker(log: Path, app: str, *options: str, **environment: str) -> Generator[None]:
    """Run Celery's own command, with the Celery app of the module ``app``."""
    command = (sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "INFO")
    with process(log, " ready.", *command, "--concurrency", "2", *options, **environment):
        yield


def play(folder: Path, weather: WeatherService, *, stays: bool) -> None:
    """Start everything, tell what happens, and stop everything."""
    settings = {
        "TRIPS_DATABASE": str(folder / "trips.sqlite"),
        "TRIPS_WEATHER_URL": weather.url,
        "TRIPS_SECRET_KEY": secrets.token_hex(),
        "WEB_CONCURRENCY": "2",
    }
    log = folder / "celery.log"
    with redis_server(folder) as redis:
        settings["TRIPS_REDIS"] = redis
        with celery_worker(log, "examples.trips.worker", "--disable-prefetch", **settings):
            if stays:
                stay(folder, settings)
                return
            print("Redis, a Celery worker of 2 processes, and gunicorn with 2 processes")
            with server(folder, settings) as http:
                demo = Demo(http, weather, log)
                book_trip(demo)
                tour, day = start_tour(demo)
            print("The server is stopped, as for a deploy. The tour goes on without one.")
            with server(folder, settings) as http:
                expect_to_go_on(Demo(http, weather, log), tour, day)


@contextmanager
def server(folder: Path, settings: dict[str, str]) -> Generator[httpx.Client]:
    with (
        gunicorn(folder / "server.log", **settings) as url,
        httpx.Client(
            base_url=url, headers={"X-Traveller": "Ada"}, timeout=PATIENCE, trust_env=False
        ) as http,
    ):
        http.get("/")  # answered when the server is up
        yield http


def book_trip(demo: Demo) -> None:
    answer, seconds = demo.call("POST", "/trips", 202, json={"city": "Hanoi"})
    print(f"    POST /trips      202 in {ms(seconds)}")
    done, _ = demo.poll(f"/trips/{answer['id']}")
    expect("ticket", done["result"], {"number": 1, "traveller": "Ada", "city": "Hanoi"})
    print(f"    GET  /trips/...  {done['status']}: a worker wrote ticket no. 1, for Ada")


def start_tour(demo: Demo) -> tuple[str, float]:
    """Start a long job; its address, and how far it is."""
    tour = f"/tours/{demo.call('POST', '/tours?days=3000', 202)[0]['id']}"
    return tour, wait_for_day(demo, tour, 1)


def wait_for_day(demo: Demo, tour: str, day: float) -> float:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        answer, _ = demo.call("GET", tour)
        if answer["day"] is not None and answer["day"] >= day:
            expect("status", answer["status"], "running")
            reached: float = answer["day"]
            return reached
        time.sleep(0.02)
    raise WrongAnswer(f"{tour} did not get to day {day:g} within {PATIENCE:.0f} s")


def expect_to_go_on(demo: Demo, tour: str, day: float) -> None:
    later = wait_for_day(demo, tour, day + 1)
    print(f"    GET  /tours/...  from the new server: day {day:g} before, day {later:g} now")
    demo.call("DELETE", tour)
    answer, _ = demo.poll(tour)
    expect("status", answer["status"], "cancelled")
    print("    DELETE /tours/... cancels it in its worker")


def stay(folder: Path, settings: dict[str, str]) -> None:
    with server(folder, settings) as http:
        print(f"Serving on {http.base_url} until Ctrl-C. Try:", flush=True)
        print(f"    curl -X POST {http.base_url}/tours", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def main(*args: str) -> int:
    with tempfile.TemporaryDirectory() as name, weather_service() as weather:
        folder = Path(name)
        try:
            play(folder, weather, stays="--stay" in args)
        except (WrongAnswer, httpx.HTTPError, KeyError) as error:
            print(f"WRONG  {type(error).__name__}: {error}")
            for log in sorted(folder.glob("*.log")):
                print(f"\n{log.name}:\n{log.read_text('utf-8', errors='replace')}")
            return 1
    print("All went right, and all is stopped.")
    return 0


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.default_int_handler)  # which lets everything be stopped
    sys.exit(main(*sys.argv[1:]))
