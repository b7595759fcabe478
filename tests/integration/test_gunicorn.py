"""The main job under a real server: gunicorn with threads, called by a real HTTP client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import PATIENCE, Server, ServerFactory

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Print a figure for whoever runs the tests, although they pass."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n    {line}", end=" ")

    return say


def get(server: Server, url: str, **params: str) -> httpx.Response:
    response = httpx.get(server.url + url, params=params, timeout=PATIENCE, trust_env=False)
    assert response.is_success, server.log
    return response


def stop_cleanly(server: Server) -> None:
    assert server.stop() == 0, server.log
    assert not server.processes_are_left()
    assert "Traceback" not in server.log


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_fifty_async_jobs_of_100_ms_awaited_in_one_async_view_take_little_more_than_100_ms(
    serve: ServerFactory, options: tuple[str, ...], say: Say
) -> None:
    server = serve("--threads", "4", *options)
    answers = [get(server, "/async-naps").json() for _ in range(3)]
    for answer in answers:
        assert answer["numbers"] == list(range(50))  # the jobs met: all ran at the same time
    say(f"50 async jobs of 100 ms in one view: {seconds(answers)}")
    stop_cleanly(server)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_eight_sync_jobs_of_100_ms_on_eight_workers_take_little_more_than_100_ms(
    serve: ServerFactory, options: tuple[str, ...], say: Say
) -> None:
    server = serve("--threads", "4", *options)
    answers = [get(server, "/sync-naps").json() for _ in range(3)]
    for answer in answers:
        assert answer["numbers"] == list(range(8))
    say(f"8 sync jobs of 100 ms in one view: {seconds(answers)}")
    stop_cleanly(server)


def seconds(answers: list[dict[str, Any]]) -> str:
    return ", ".join(f"{answer['seconds']:.3f} s" for answer in answers)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_200_concurrent_requests_with_40_jobs_each_never_see_each_others_contexts(
    serve: ServerFactory, options: tuple[str, ...]
) -> None:
    server = serve("--workers", "2", "--threads", "16", *options)

    async def call_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(limits=limits, timeout=PATIENCE, trust_env=False) as client:
            url = f"{server.url}/identities"
            ids = map(str, range(200))
            return await asyncio.gather(*[client.get(url, params={"id": id_}) for id_ in ids])

    responses = asyncio.run(call_all())

    for id_, response in enumerate(responses):
        assert response.is_success, server.log
        assert response.json() == [[str(id_), str(id_), str(id_), "served"]] * 80
    for response in responses:
        forked_after_use = response.headers["X-Imported-In"] != response.headers["X-Process"]
        assert forked_after_use == ("--preload" in options)
    stop_cleanly(server)


def test_a_map_of_1000_items_in_a_request_gives_each_job_its_context(serve: ServerFactory) -> None:
    server = serve("--threads", "4")
    expected = [[number * number, "7"] for number in range(1000)]
    assert get(server, "/squares", id="7").json() == expected
    stop_cleanly(server)


def test_accepted_jobs_run_to_their_end_when_the_server_is_told_to_stop(
    serve: ServerFactory, tmp_path: Path
) -> None:
    server = serve("--threads", "4")
    get(server, "/write", seconds="1.5", path=str(tmp_path / "file"))
    assert not (tmp_path / "file.sync").exists()  # else this would test nothing
    stop_cleanly(server)
    assert (tmp_path / "file.sync").read_text("utf-8") == "written"
    assert (tmp_path / "file.async").read_text("utf-8") == "written"


@pytest.mark.parametrize("how", ["plain", "streamed"])
def test_job_submitted_after_the_response_starts_when_the_client_has_the_whole_answer(
    serve: ServerFactory, how: str
) -> None:
    server = serve("--threads", "4")
    received = 0
    url = f"{server.url}/large/{how}"
    with httpx.stream("GET", url, timeout=PATIENCE, trust_env=False) as answer:
        assert get(server, f"/large/{how}/status").json() == {"status": "pending"}
        for piece in answer.iter_bytes():
            received += len(piece)
    assert received == 64 * 1024 * 1024
    assert get(server, f"/large/{how}/end").json() == {"status": "succeeded"}
    stop_cleanly(server)
