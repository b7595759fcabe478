"""Jobs over HTTP under four server processes, each of which answers for every job."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from ..conftest import until
from ..helpers.answers import found_the_store_busy
from .conftest import PATIENCE, ROOT, Server, stop_cleanly

Answers = dict[str, httpx.Response]
"""Of each server process, by its id, one answer."""

_ANSWERING = 3  # processes of the four, of which a busy machine may leave one without a request


@pytest.fixture
def server(serve_with_store: Callable[[str], Server]) -> Server:
    return serve_with_store("tests.apps.shared_jobs")


def ask(server: Server, method: str, path: str, **headers: str) -> httpx.Response:
    # A connection of its own, so that any of the processes may accept it.
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = server.url + path
    while True:
        answer = httpx.request(method, url, headers=named, timeout=PATIENCE, trust_env=False)
        if method != "GET" or not found_the_store_busy(answer):
            return answer


def ask_each(server: Server, path: str, **headers: str) -> Answers:
    """Ask, many times at once, until three processes have answered."""
    answers: Answers = {}

    def once(_: int) -> httpx.Response:
        return ask(server, "GET", path, **headers)

    def enough() -> bool:
        with ThreadPoolExecutor(12) as pool:
            for answer in pool.map(once, range(12)):
                assert answer.status_code < 500, f"{answer.text}\n{server.log}"
                answers[answer.headers["X-Process"]] = answer
        return len(answers) >= _ANSWERING

    until(enough, PATIENCE)
    return answers


def has_status(server: Server, address: str, status: str) -> bool:
    return bool(ask(server, "GET", address).json()["status"] == status)


def start(server: Server, path: str, method: str = "GET") -> tuple[str, str]:
    """Start a job; returns its address, and the process that runs it."""
    answer = ask(server, method, path)
    assert answer.status_code == 202, f"{answer.text}\n{server.log}"
    return answer.headers["Location"], answer.headers["X-Process"]


def test_every_process_shows_a_job_and_gives_its_result(server: Server, tmp_path: Path) -> None:
    address, owner = start(server, "/start/a", "POST")
    progress: Callable[[], object] = lambda: ask(server, "GET", address).json()["progress"]  # noqa: E731
    until(lambda: progress() is not None, PATIENCE)
    for answer in ask_each(server, address).values():
        job = answer.json()
        assert (job["status"], job["progress"]["percent"]) == ("running", 40)
        assert job["progress"]["message"] == "Rows are written"
    for answer in ask_each(server, "/jobs/").values():
        assert [job["links"]["self"] for job in answer.json()["jobs"]] == [address]
        assert answer.json()["counts"] == {"running": 1}
    assert all(
        answer.status_code == 202 for answer in ask_each(server, f"{address}/result").values()
    )
    assert all(
        answer.status_code == 404 for answer in ask_each(server, f"{address}?user=bob").values()
    )
    (tmp_path / "a-may-end").touch()
    done = ask(server, "GET", address, Prefer="wait=10").json()
    assert (done["status"], done["links"]["result"]) == ("succeeded", f"{address}/result")
    for answer in ask_each(server, f"{address}/result").values():
        assert answer.json() == {"gate": "a", "process": int(owner)}
    stop_cleanly(server)


def test_every_process_gives_the_answer_of_a_late_view(server: Server, tmp_path: Path) -> None:
    address, _ = start(server, "/view/a")
    path, _ = start(server, "/file/b")
    for gate in "ab":
        (tmp_path / f"{gate}-may-end").touch()
    for each in (address, path):
        assert ask(server, "GET", each, Prefer="wait=10").json()["status"] == "succeeded"
    for answer in ask_each(server, f"{address}/result").values():
        assert (answer.status_code, answer.headers["X-Rows"]) == (203, "50000")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.text == "a line\n" * 50_000
    whole = (ROOT / "tests/apps/shared_jobs.py").read_bytes()
    tags: set[str] = set()
    for answer in ask_each(server, f"{path}/result").values():
        assert answer.content == whole
        assert answer.headers["Content-Disposition"] == "attachment; filename=shared_jobs.py"
        tags.add(answer.headers["ETag"])
    (tag,) = tags
    for answer in ask_each(server, f"{path}/result", Range="bytes=4-9").values():
        assert (answer.status_code, answer.content) == (206, whole[4:10])
    unchanged = ask_each(server, f"{path}/result", If_None_Match=tag)
    assert {answer.status_code for answer in unchanged.values()} == {304}


def test_every_process_streams_the_events_of_a_job(server: Server, tmp_path: Path) -> None:
    address, owner = start(server, "/start/a", "POST")

    is_enough = threading.Event()
    listening = tmp_path / "another-listens"

    def listen(_: int) -> str:
        """Return what a process other than the owner streamed. One may accept many requests."""
        url = f"{server.url}{address}/events"
        while not is_enough.is_set():
            with httpx.stream("GET", url, timeout=PATIENCE, trust_env=False) as stream:
                if stream.status_code != 200 or stream.headers["X-Process"] == owner:
                    continue
                text = ""
                for piece in stream.iter_text():
                    text += piece
                    if '"percent": 40' in text:
                        listening.touch()
                return text
        return ""

    with ThreadPoolExecutor(6) as pool:
        found = [pool.submit(listen, number) for number in range(6)]
        try:
            until(listening.exists, PATIENCE)
        finally:
            is_enough.set()
            (tmp_path / "a-may-end").touch()
        streamed = [text for each in found if (text := each.result())]
    assert streamed
    for text in streamed:
        last = text.strip().split("\n\n")[-1].splitlines()
        assert last[0] == "event: done"
        assert '"succeeded"' in last[2]


def test_a_process_cancels_a_job_of_another(server: Server) -> None:
    cancelled_by_others: list[str] = []

    def cancel() -> bool:
        address, owner = start(server, f"/start/{len(cancelled_by_others)}", "POST")
        answer = ask(server, "DELETE", address)
        assert answer.status_code in {200, 202}, f"{answer.text}\n{server.log}"
        done = ask(server, "GET", address, Prefer="wait=10").json()
        assert (done["status"], done["cancel_requested"]) == ("cancelled", True)
        assert ask(server, "GET", f"{address}/result").status_code == 410
        if answer.headers["X-Process"] != owner:
            cancelled_by_others.append(address)
        return bool(cancelled_by_others)

    until(cancel, PATIENCE)


def test_the_job_of_a_killed_process_says_to_start_it_again(server: Server) -> None:
    address, owner = start(server, "/start/never", "POST")
    late, other = start(server, "/view/never")
    for process in {owner, other}:
        os.kill(int(process), signal.SIGKILL)
    for each in (address, late):
        until(partial(has_status, server, each, "lost"), PATIENCE)
        document = ask(server, "GET", each).json()
        says = "The server was stopped while this ran. Please start it again."
        assert document["error"]["detail"] == says
        assert says in ask(server, "GET", each, Accept="text/html").text
        result = ask(server, "GET", f"{each}/result")
        assert (result.status_code, result.json()["detail"]) == (500, says)
        assert result.json()["type"] == "urn:flask-executor:lost"
        assert "Retry-After" not in result.headers
