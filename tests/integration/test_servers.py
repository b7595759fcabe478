"""Async views on lasting loops, under real servers: with threads, and behind an ASGI bridge."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from .conftest import PATIENCE, Server, ServerFactory, leaves_nothing_behind

# Each with one thread, so that all requests meet on one loop; asgiref's bridge has no more.
ONE_THREAD: dict[str, tuple[str, ...]] = {
    "gunicorn": ("--threads", "1"),
    "waitress": ("1",),
    "uvicorn": (),
}
THREADS: dict[str, tuple[str, ...]] = {"gunicorn": ("--threads", "4"), "waitress": ("4",)}


def get_all(server: Server, url: str, times: int) -> list[Any]:
    # On a connection that is kept, asgiref's bridge fails now and then under uvicorn ("executor
    # already quit"), with plain views and without this package too.
    headers = {"Connection": "close"}
    with httpx.Client(
        base_url=server.url, timeout=PATIENCE, trust_env=False, headers=headers
    ) as client:
        responses = [client.get(url, params={"id": str(number)}) for number in range(times)]
    for response in responses:
        assert response.is_success, server.log
    return [response.json() for response in responses]


@pytest.mark.parametrize("name", ONE_THREAD)
def test_1000_requests_use_one_client_that_is_closed_on_its_loop_when_the_server_stops(
    serve: ServerFactory, name: str
) -> None:
    server = serve(*ONE_THREAD[name], server=name)
    answers = get_all(server, "/client", 1000)
    for number, answer in enumerate(answers, 1):
        assert answer == {
            "loops": 1,
            "clients": 1,
            "uses": number,
            "on_its_loop": True,
            "thread": "executor-view-loop-0",
        }
    # After SIGTERM uvicorn shuts down, and then kills itself before Python can exit.
    server.stop(signal.SIGINT if name == "uvicorn" else signal.SIGTERM)
    assert leaves_nothing_behind(server), server.log
    assert "Traceback" not in server.log
    assert server.log.count("closed on its loop") == 1
    assert "closed on another" not in server.log


@pytest.mark.parametrize("name", ONE_THREAD)
def test_bridges_of_a_view_end_in_the_thread_of_the_request_and_its_tasks_with_it(
    serve: ServerFactory, name: str
) -> None:
    server = serve(*ONE_THREAD[name], server=name)
    answers = get_all(server, "/bridges", 10)
    assert [answer["same"] for answer in answers] == [True] * 10
    assert [answer["id"] for answer in answers] == [str(number) for number in range(10)]
    assert answers[-1]["cancelled"] == [True] * 9


@pytest.mark.parametrize("how", ["plain", "stream"])
def test_call_starts_after_the_response_under_a_bridge_that_closes_none(
    serve: ServerFactory, how: str
) -> None:
    server = serve(server="uvicorn")
    url = f"{server.url}/small/{how}"
    response = httpx.get(url, timeout=PATIENCE, trust_env=False, headers={"Connection": "close"})
    assert response.text == "body"
    assert get_all(server, f"/large/{how}/end", 1) == [{"status": "succeeded"}]


@pytest.mark.parametrize("name", THREADS)
def test_views_that_block_delay_only_themselves(serve: ServerFactory, name: str) -> None:
    server = serve(*THREADS[name], server=name)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(get_all, server, "/block", 1) for _ in range(3)]
        assert [answer.result() for answer in answers] == [[{}]] * 3
