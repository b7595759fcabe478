"""The main job under a real server: gunicorn with threads, called by a real HTTP client."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import PATIENCE, Server, ServerFactory, leaves_nothing_behind, stop_cleanly

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


crunching = pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])


@pytest.mark.parametrize(
    "options",
    [(), ("--preload",), ("--preload", "--env", "SERVED_WARM=1")],
    ids=["", "preload", "warm"],
)
@crunching
def test_requests_get_the_answers_of_their_own_worker_processes(
    serve: ServerFactory, method: str, options: tuple[str, ...]
) -> None:
    environment = ("--env", f"SERVED_START_METHOD={method}")
    server = serve("--workers", "2", "--threads", "8", *environment, *options)

    async def call_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
            url = f"{server.url}/crunched"
            return await asyncio.gather(
                *[client.get(url, params={"id": str(n)}) for n in range(24)]
            )

    parents: dict[str, set[int]] = {}
    for id_, response in enumerate(asyncio.run(call_all())):
        assert response.is_success, server.log
        answers = [answer[:4] for answer in response.json()]
        assert answers == [[number, str(id_), str(id_), "served"] for number in range(20)]
        seen = parents.setdefault(response.headers["X-Process"], set())
        seen.update(answer[4] for answer in response.json())
    starters = [starter for seen in parents.values() for starter in seen]
    assert len(starters) == len(set(starters)) == len(parents)  # each has its own
    stop_cleanly(server)


@crunching
def test_no_worker_process_outlives_a_killed_server(serve: ServerFactory, method: str) -> None:
    server = serve("--workers", "2", "--threads", "8", "--env", f"SERVED_START_METHOD={method}")
    process = int(get(server, "/crunched", id="1").headers["X-Process"])
    worker = get(server, "/spin", seconds="0.01").json()
    os.kill(process, signal.SIGKILL)
    os.kill(int(get(server, "/crunched", id="2").headers["X-Process"]), signal.SIGKILL)
    limit = time.monotonic() + PATIENCE
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert get(server, "/crunched", id="3").json()[0][:2] == [0, "3"]
    server.stop()
    assert leaves_nothing_behind(server)


def test_server_answers_while_worker_processes_compute(serve: ServerFactory, say: Say) -> None:
    server = serve("--threads", "4")
    get(server, "/crunched", id="1")  # the workers have started

    async def call_both() -> list[float]:
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
            spinning = asyncio.create_task(
                client.get(f"{server.url}/spin", params={"seconds": "2.0"})
            )
            seconds: list[float] = []
            while not spinning.done():
                begun = time.perf_counter()
                await client.get(f"{server.url}/async-naps")
                seconds.append(time.perf_counter() - begun)
            assert (await spinning).is_success
            return seconds

    seconds = asyncio.run(call_both())
    say(f"a view of 100 ms beside a job that computes: {max(seconds):.3f} s at most")
    assert len(seconds) >= 3
    stop_cleanly(server)
