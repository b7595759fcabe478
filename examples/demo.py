"""Serves the travel agency under gunicorn, calls it, tells what happened, and stops it.

``python -m examples.demo`` ends with exit code 0 only if every answer was right and the server
stopped cleanly. Everything stays on 127.0.0.1, on free ports.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from .weather import WeatherService, weather_service

ROOT = Path(__file__).resolve().parent.parent
APP = "examples.trips:create_app()"
PROCESSES = 4
PATIENCE = 60.0  # seconds after which anything that is waited for counts as lost


class WrongAnswer(Exception):  # noqa: N818  # it is what the demo prints
    """The app did not do what it should."""


class Demo:
    """One run: the client, what it needs to look behind the scenes, and what it told so far."""

    def __init__(self, http: httpx.Client, weather: WeatherService, log: Path) -> None:
        self.http = http
        self.weather = weather
        self.log = log

    def call(self, method: str, url: str, status: int = 200, **options: Any) -> tuple[Any, float]:
        """The answer's JSON, and the seconds that it took."""
        start = time.perf_counter()
        response = self.http.request(method, url, **options)
        seconds = time.perf_counter() - start
        expect(f"status of {method} {url}", response.status_code, status)
        return response.json(), seconds

    def poll(self, url: str) -> tuple[Any, list[str]]:
        """Ask until the job is done; the last answer, and each status that was seen on the way."""
        seen: list[str] = []
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            answer, _ = self.call("GET", url)
            if answer["status"] not in seen:
                seen.append(answer["status"])
            if answer["status"] not in {"pending", "running"}:
                return answer, seen
            time.sleep(0.02)
        raise WrongAnswer(f"{url} was not done within {PATIENCE:.0f} s")

    def call_afresh(self, method: str, url: str, status: int = 200) -> Any:
        """The answer's JSON, over a connection of its own: any process may accept it."""
        address = self.http.base_url.join(url)
        response = httpx.request(method, address, timeout=PATIENCE, trust_env=False)
        expect(f"status of {method} {url}", response.status_code, status)
        return response.json()

    def call_all_processes(self, method: str, url: str) -> tuple[list[Any], int]:
        """An answer of each process, and how often it was asked for that."""
        answers: dict[int, Any] = {}
        asked = 0
        end = time.monotonic() + PATIENCE
        with ThreadPoolExecutor(12) as pool:
            while len(answers) < PROCESSES and time.monotonic() < end:
                for answer in pool.map(self.call_afresh, [method] * 24, [url] * 24):
                    answers[answer["process"]] = answer
                    asked += 1
        expect("processes that answered", len(answers), PROCESSES)
        return list(answers.values()), asked

    # -- the scenes: each returns the lines that it tells ------------------------------------------

    def answers_at_once(self) -> Iterator[str]:
        """A sync view submits a job and answers at once"""
        order = {"city": "Hanoi"}
        answer, seconds = self.call("POST", "/trips", 202, json=order)
        expect("the job is not done yet", answer["status"] in {"pending", "running"}, True)
        yield f"POST /trips     202 in {ms(seconds)}: job {answer['id']} is {answer['status']}"
        done, _ = self.poll(f"/trips/{answer['id']}")
        expect("ticket", done["result"], {"number": 1, "traveller": "Ada", "city": "Hanoi"})
        yield f"GET  /trips/... {done['status']}: ticket no. 1 to Hanoi for Ada"
        yield f"The job ran for {ms(done['seconds'])}, knew Ada from the view's g, and wrote to"
        yield "SQLite through a g.db of its own, after the view's was closed."

    def awaits_many(self) -> Iterator[str]:
        """An async view awaits 50 coroutine jobs of 100 ms each, at the same time"""
        answer, seconds = self.call("GET", "/offers/Cairo?airlines=50")
        expect("offers", answer["count"], 50)
        expect("the jobs ran side by side", seconds < 50 * 0.1, True)
        best = answer["cheapest"]
        yield f"GET  /offers/Cairo   {seconds:.2f} s, where one after the other takes 5.00 s"
        yield f"The cheapest: {best['airline']}, {best['price']} euros."

    def polls_by_key(self) -> Iterator[str]:
        """A stored job: started once, found by its key"""
        ids = {self.call("PUT", "/brochures/Dakar", 202)[0]["id"] for _ in range(3)}
        expect("jobs that three PUTs started", len(ids), 1)
        done, seen = self.poll("/brochures/Dakar")
        pages = done["result"].splitlines()
        expect("pages", (len(pages), pages[-1]), (5, "Dakar, page 5, for Ada"))
        yield "PUT  /brochures/Dakar  three times: one job, the second and third joined it"
        yield f"GET  /brochures/Dakar  until done: {' -> '.join(seen)}, {len(pages)} pages"

    def maps(self) -> Iterator[str]:
        """A map of 1,000 small jobs, each with contexts of its own"""
        answer, seconds = self.call("GET", "/distances?lat=52.52&lon=13.41&times=100")
        expect("distances", len(answer), 1000)
        expect("order, and Berlin to Edinburgh", answer[994], ["Edinburgh", 1141])
        expect("each hundred alike", answer[:10] * 100, answer)
        yield f"GET  /distances   1,000 in {ms(seconds)}, in order; each job read the request"

    def reuses_connections(self) -> Iterator[str]:
        """An httpx.AsyncClient that lives across jobs"""
        asked, times = 0, list[float]()
        for _ in range(5):
            answer, seconds = self.call("GET", "/weather")
            asked += len(answer)
            times.append(seconds)
        expect("forecasts", (asked, self.weather.requests), (50, 50))
        connections = self.weather.connections
        expect("fewer connections than requests", connections < self.weather.requests, True)
        yield f"GET  /weather   five times, {ms(times[0])}, then {ms(min(times[1:]))} at best"
        yield f"50 jobs sent 50 requests to the weather service over {connections} connections:"
        yield "jobs run on one lasting event loop, so the client's pool stays open between them."

    def is_seen_by_all(self) -> Iterator[str]:
        """One job, seen and cancelled from every server process"""
        started = self.call_afresh("POST", "/tours?days=3000", 202)
        url = f"/tours/{started['id']}"
        answers, asked = self.call_all_processes("GET", url)
        expect("what they say", {answer["status"] for answer in answers}, {"running"})
        first = max(answer["day"] or 0 for answer in answers)
        end = time.monotonic() + PATIENCE
        while (day := self.call_afresh("GET", url)["day"] or 0) <= first:
            expect("progress is made", time.monotonic() < end, True)
            time.sleep(0.02)
        cancelled = self.call_afresh("DELETE", url)
        expect("the answer", cancelled["answer"] in {"cancelled", "asked"}, True)
        while (status := self.call_afresh("GET", url)["status"]) == "running":
            expect("it ends", time.monotonic() < end, True)
            time.sleep(0.02)
        expect("status", status, "cancelled")
        yield f"POST /tours      accepted by process {started['process']}"
        yield f"GET  /tours/...  asked {asked} times over new connections: {PROCESSES} processes"
        yield f"answered, and each knew the job. Its progress: day {first:g}, then day {day:g}."
        yield f"DELETE /tours/... by process {cancelled['process']}: {status}"

    def is_lost_with_its_process(self) -> Iterator[str]:
        """A server process is killed, and its job is lost, not running for ever"""
        started = self.call_afresh("POST", "/tours?days=3000", 202)
        url = f"/tours/{started['id']}"
        end = time.monotonic() + PATIENCE
        while self.call_afresh("GET", url)["status"] == "pending":
            expect("it starts", time.monotonic() < end, True)
        os.kill(started["process"], signal.SIGKILL)
        killed = time.monotonic()
        while (status := self._status_while_one_dies(url)) in {"running", None}:
            expect("the loss is noticed", time.monotonic() < end, True)
        seconds = time.monotonic() - killed
        expect("status", status, "lost")
        line = f"Background job plan_tour [{started['id']}] is lost"
        while line not in self.log.read_text("utf-8"):
            expect("the loss is logged", time.monotonic() < end, True)
            time.sleep(0.02)
        expect(f"{line!r} in the log", self.log.read_text("utf-8").count(line), 1)
        yield f"kill -9 {started['process']}, which ran the job"
        yield f"GET  /tours/...  {status}, {ms(seconds)} later; the server's log says so, once"

    def _status_while_one_dies(self, url: str) -> str | None:
        try:
            status: str = self.call_afresh("GET", url)["status"]
        except httpx.TransportError:  # it was the one that died
            return None
        return status

    def shows_failures(self) -> Iterator[str]:
        """A job that fails is seen"""
        answer, _ = self.call("POST", "/trips", 202, json={"city": "Jakarta"})
        done, _ = self.poll(f"/trips/{answer['id']}")
        expect("status", done["status"], "failed")
        expect("error", done["error"], "no airline flies to Jakarta this week")
        line = f"Exception in background job book [{answer['id']}]"
        expect(f"{line!r} in the log", self.log.read_text("utf-8").count(line), 1)
        yield f"GET  /trips/... {done['status']}: {done['error']}"
        yield "The server's log has the traceback, once, with the job's name and id."


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def expect(what: str, given: object, wanted: object) -> None:
    if given != wanted:
        raise WrongAnswer(f"{what}: expected {wanted!r}, got {given!r}")


@contextmanager
def gunicorn(log: Path, app: str = "", **environment: str) -> Generator[str]:
    """Serve an app on a free port of the loopback until the block ends; gives the URL.

    Without ``app`` it is the travel agency.

    Raises:
        WrongAnswer: the server did not stop cleanly.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # The server inherits a socket that listens already: no port to guess, nothing to poll. What
        # connects before the server has its say gets the option that the server would have set.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port: int = listener.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "--config", "examples/gunicorn_conf.py"]
        command += ["--bind", f"fd://{listener.fileno()}", app or APP]
        with log.open("wb") as output:
            server = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[listener.fileno()],
            )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            code = server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise WrongAnswer(f"the server did not stop within {PATIENCE:.0f} s") from None
    expect("the server's exit code", code, 0)


def tell(scene: Callable[[], Iterator[str]]) -> bool:
    """Play one scene and print what it tells; whether its answers were right."""
    print(f"\n{scene.__doc__}")
    try:
        for line in scene():
            print(f"    {line}")
    except (WrongAnswer, httpx.HTTPError, KeyError) as error:
        print(f"    WRONG  {type(error).__name__}: {error}")
        return False
    return True


def main() -> int:
    from .exports.scene import follows_a_slow_view  # which uses what is above

    if sys.platform == "win32":
        print("The demo serves the app under gunicorn, which does not run on Windows.")
        return 1
    with tempfile.TemporaryDirectory() as folder, weather_service() as weather:
        log = Path(folder, "server.log")
        settings = {
            "TRIPS_DATABASE": str(Path(folder, "trips.sqlite")),
            "TRIPS_WEATHER_URL": weather.url,
            "WEB_CONCURRENCY": str(PROCESSES),
        }
        try:
            with gunicorn(log, **settings) as url:
                headers = {"X-Traveller": "Ada"}
                with httpx.Client(
                    base_url=url, headers=headers, timeout=PATIENCE, trust_env=False
                ) as http:
                    http.get("/")  # answered when the server is up
                    print(
                        f"A travel agency under gunicorn: {PROCESSES} processes of 8 threads, {url}"
                    )
                    demo = Demo(http, weather, log)
                    scenes = (
                        demo.answers_at_once,
                        demo.awaits_many,
                        demo.polls_by_key,
                        demo.maps,
                        demo.reuses_connections,
                        demo.shows_failures,
                        demo.is_seen_by_all,
                        demo.is_lost_with_its_process,
                    )
                    right = [tell(scene) for scene in scenes]
                start = time.perf_counter()
            print(f"\nThe server stopped cleanly, {ms(time.perf_counter() - start)} after SIGTERM.")
            right.append(tell(follows_a_slow_view))
        except (WrongAnswer, httpx.HTTPError) as error:
            print(f"\nWRONG  {error}")
            right = [False]
        if all(right):
            print(f"All {len(right)} scenes went right.")
            return 0
        print(f"\nNot every answer was right. The server's log:\n{log.read_text('utf-8')}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
