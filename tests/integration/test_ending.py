"""Servers that are told to stop while jobs run: what is done, what is not, and what is logged."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import httpx
import pytest

from .conftest import PATIENCE, Server, ServerFactory, leaves_nothing_behind, stop_cleanly

SERVERS: dict[str, tuple[str, ...]] = {
    "gunicorn sync": ("--worker-class", "sync"),
    "gunicorn gthread": ("--threads", "4"),
    "gunicorn preload": ("--threads", "4", "--preload"),
    "waitress": (),
    "hypercorn": (),
    "uvicorn": ("exits",),
}

# Of each kind one is a quick one, for whoever runs the tests while working.
QUICK = {("gunicorn gthread", signal.SIGTERM), ("hypercorn", signal.SIGINT)}
CASES = [
    pytest.param(name, by, marks=() if (name, by) in QUICK else pytest.mark.slow)
    for name in SERVERS
    for by in (signal.SIGTERM, signal.SIGINT)
]


def start(serve: ServerFactory, name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("ENDING_FILE", str(file))
    module = "tests.apps.ending"
    return serve(*SERVERS[name], server=name.partition(" ")[0], module=module)


def get(server: Server, path: str) -> None:
    url = f"{server.url}{path}"
    headers = {"Connection": "close"}
    response = httpx.get(url, timeout=PATIENCE, trust_env=False, headers=headers)
    assert response.is_success, server.log


@pytest.mark.parametrize(("name", "by"), CASES)
def test_jobs_have_their_time_when_a_server_stops_and_the_rest_is_logged(
    serve: ServerFactory,
    name: str,
    by: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start(serve, name, tmp_path / "file", monkeypatch)
    get(server, "/begin")
    begun = time.monotonic()
    status = server.stop(by)
    seconds = time.monotonic() - begun
    assert leaves_nothing_behind(server), server.log
    assert status == 0, server.log
    assert seconds < 25, server.log  # gunicorn kills after 30
    lines = (tmp_path / "file").read_text("utf-8").split("\n")[:-1]
    wanted = ["cleaned up", "coroutine", *["pending"] * 10, "plain", "plain", "process"]
    assert sorted(lines) == sorted(wanted), server.log
    abandoned = re.findall(r"Background job (\w+) \[[-\w]{22}\] is abandoned", server.log)
    assert sorted(abandoned) == ["block", "block_in_a_process", "endless"], server.log
    assert "Traceback" not in server.log, server.log


@pytest.mark.parametrize("name", ["gunicorn sync", "gunicorn gthread"])
def test_200_of_200_jobs_run_once_although_workers_are_recycled(
    serve: ServerFactory, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDING_FILE", str(tmp_path / "file"))
    options = ("--max-requests", "20", *SERVERS[name])
    server = serve(*options, module="tests.apps.ending")
    for number in range(200):
        get(server, f"/numbered/{number}")
    stop_cleanly(server)
    lines = (tmp_path / "file").read_text("utf-8").split("\n")[:-1]
    assert sorted(lines, key=int) == [str(number) for number in range(200)], server.log


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_uvicorn_kills_itself_by_sigterm_unless_the_program_handles_that(
    serve: ServerFactory, by: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDING_FILE", str(tmp_path / "file"))
    server = serve(server="uvicorn", module="tests.apps.ending")
    get(server, "/plain")
    status = server.stop(by)
    assert leaves_nothing_behind(server), server.log
    if by == signal.SIGTERM:
        assert status == -signal.SIGTERM
        assert not (tmp_path / "file").exists()  # what is documented; the job is lost
    else:
        assert status == 0
        assert (tmp_path / "file").read_text("utf-8") == "plain\n"
