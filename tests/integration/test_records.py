"""Jobs that each of four server processes knows, by records in SQLite or Redis."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..conftest import until
from .conftest import PATIENCE, ROOT, Server, ServerFactory, stop_cleanly


@pytest.fixture
def server(serve_with_store: Callable[[str], Server]) -> Server:
    return serve_with_store("tests.apps.recorded")


def ask(server: Server, method: str, path: str) -> Any:
    # A connection of its own, so that any of the processes may accept it.
    response = httpx.request(method, server.url + path, timeout=PATIENCE, trust_env=False)
    assert response.is_success, f"{response.status_code}\n{server.log}"
    return response.json()


def ask_each(server: Server, method: str, path: str, *, least: int = 3) -> list[Any]:
    """Ask until ``least`` processes have answered, and many times at once."""
    answers: list[Any] = []

    def enough() -> bool:
        with ThreadPoolExecutor(12) as pool:
            answers.extend(pool.map(partial(ask, server, method), [path] * 24))
        return len({answer["process"] for answer in answers}) >= least

    until(enough, PATIENCE)
    return answers


def test_one_job_is_joined_seen_and_awaited_in_every_process(
    server: Server, tmp_path: Path
) -> None:
    joined = ask_each(server, "POST", "/join/report")
    (job_id,) = {answer["id"] for answer in joined}
    until(lambda: ask(server, "GET", "/poll/report")["message"] == "half", PATIENCE)
    assert all(answer["result"] is None for answer in ask_each(server, "GET", "/poll/report"))
    (tmp_path / "report-may-end").touch()
    results = [answer["result"] for answer in ask_each(server, "GET", f"/wait/{job_id}")]
    assert {result["key"] for result in results} == {"report"}
    assert len({result["process"] for result in results}) == 1
    assert (tmp_path / "runs").read_text("utf-8").splitlines() == ["report"]
    stop_cleanly(server)


def test_a_thousand_jobs_are_each_accounted_for_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(10) as pool:
        batches = list(pool.map(partial(ask, server, "POST"), ["/many/100"] * 10))
    ids = {job_id for batch in batches for job_id in batch["ids"]}
    assert len(ids) == 1000
    until(lambda: ask(server, "GET", "/counts").get("succeeded") == 1000, PATIENCE)
    runs = (tmp_path / "runs").read_text("utf-8").splitlines()
    assert sorted(runs) == sorted(f"number {number}" for number in range(100) for _ in range(10))


def test_job_of_a_killed_process_is_lost_and_this_is_told_once(server: Server) -> None:
    job_id, process = ask(server, "POST", "/join/never").values()
    status: Callable[[], object] = lambda: ask(server, "GET", f"/jobs/{job_id}")["status"]  # noqa: E731
    until(lambda: status() == "running", PATIENCE)
    os.kill(process, signal.SIGKILL)
    until(lambda: status() == "lost", PATIENCE)
    until(lambda: f"[{job_id}] is lost" in server.log, PATIENCE)
    assert {answer["status"] for answer in ask_each(server, "GET", f"/jobs/{job_id}")} == {"lost"}
    assert server.log.count(f"[{job_id}] is lost") == 1
    assert ask(server, "POST", "/join/never")["id"] != job_id  # its key is free


def test_each_job_of_processes_that_are_killed_is_lost_and_told_once(
    server: Server, tmp_path: Path
) -> None:
    owners: dict[str, int] = {}  # by the ids of jobs
    lost: set[str] = set()
    for number in range(3):
        keys = [f"{number}-{each}" for each in range(8)]
        with ThreadPoolExecutor(8) as pool:
            jobs = list(pool.map(partial(ask, server, "POST"), [f"/join/{key}" for key in keys]))
        owners |= {job["id"]: job["process"] for job in jobs}
        killed = jobs[-1]["process"]
        os.kill(killed, signal.SIGKILL)
        for job_id in (each for each, owner in owners.items() if owner == killed):
            until(partial(is_lost, server, job_id), PATIENCE)
            lost.add(job_id)
    for number in range(3):
        for each in range(8):
            (tmp_path / f"{number}-{each}-may-end").touch()
    counts = {"lost": len(lost), "succeeded": len(owners) - len(lost)}
    until(lambda: ask(server, "GET", "/counts") == {k: v for k, v in counts.items() if v}, PATIENCE)
    until(lambda: all(f"[{job_id}] is lost" in server.log for job_id in lost), PATIENCE)
    told = {job_id: server.log.count(f"[{job_id}] is lost") for job_id in owners}
    assert told == {job_id: int(job_id in lost) for job_id in owners}


def is_lost(server: Server, job_id: str) -> bool:
    try:
        status: object = ask(server, "GET", f"/jobs/{job_id}")["status"]
    except httpx.TransportError:  # the process that accepted the request was just killed
        return False
    return status == "lost"


def test_first_example_of_the_readme_is_right_in_every_process(
    serve: ServerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    first, second, *_ = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    tell_process = (
        "import os\n"
        "@app.after_request\n"
        "def tell_process(response):\n"
        "    response.headers['Process'] = os.getpid()\n"
        "    return response\n"
        "@app.get('/counts')\n"
        "def counts():\n"
        "    return dict(executor.jobs.counts())\n"
    )
    (tmp_path / "readme_example.py").write_text(f"{first}\n{second}\n{tell_process}", "utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(tmp_path))))
    server = serve("--workers", "4", "--threads", "8", module="readme_example")
    url = f"{server.url}/reports/2026?name=Ada"
    assert httpx.post(url, timeout=PATIENCE, trust_env=False).status_code == 202, server.log
    answers: dict[str, httpx.Response] = {}

    def all_have_answered() -> bool:
        with ThreadPoolExecutor(12) as pool:
            get = partial(httpx.get, timeout=PATIENCE, trust_env=False)
            for answer in pool.map(get, [url] * 24):
                answers[answer.headers["Process"]] = answer
        return len(answers) >= 3 and {each.status_code for each in answers.values()} == {200}

    until(all_have_answered, PATIENCE)
    report = {"status": "succeeded", "report": "report of 2026 for Ada"}
    assert [each.json() for each in answers.values()] == [report] * len(answers)
    assert ask(server, "GET", "/counts") == {"succeeded": 1}
    stop_cleanly(server)
