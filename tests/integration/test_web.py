"""Jobs over HTTP, under real servers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ..conftest import until
from .conftest import PATIENCE, Server, ServerFactory

STREAMS = 3
"""Of the app; its servers have eight threads."""

WITH_THREADS: dict[str, tuple[str, ...]] = {
    "gunicorn": ("--workers", "1", "--threads", "8"),
    "waitress": ("8",),
    "uvicorn": (),
}


def client_of(server: Server) -> httpx.Client:
    headers = {"Connection": "close"}
    limits = httpx.Limits(max_connections=None)
    return httpx.Client(
        base_url=server.url, timeout=PATIENCE, trust_env=False, headers=headers, limits=limits
    )


@pytest.fixture(params=WITH_THREADS)
def server(request: pytest.FixtureRequest, serve: ServerFactory) -> Iterator[Server]:
    name: str = request.param
    module = "tests.apps.served_jobs"
    if name == "uvicorn":
        pytest.importorskip("a2wsgi", reason="which adapts the app to uvicorn")
        module += "_asgi"
    server = serve(*WITH_THREADS[name], server=name, module=module)
    yield server
    assert "Traceback" not in server.log


def test_a_job_is_followed_by_events_and_its_result_fetched(server: Server) -> None:
    with client_of(server) as client:
        answer = client.post("/start/a")
        assert answer.status_code == 202
        address = answer.headers["Location"]
        with client.stream("GET", f"{address}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            seen: list[str] = []
            for line in lines:
                if line.startswith("data: "):
                    seen.append(line)
                    if '"percent": 40' in line:
                        client.post("/open/a")
        assert '"succeeded"' in seen[-1]
        assert client.get(f"{address}/result").json() == {"gate": "a"}


def test_a_client_stays_connected_from_request_to_request(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE, trust_env=False) as client:
        address = client.post("/start/k").headers["Location"]
        assert {client.get(address).status_code for _ in range(60)} == {200}
        client.post("/open/k")


def test_many_clients_of_events_leave_the_server_answering(server: Server) -> None:
    with client_of(server) as client:
        address = client.post("/start/b").headers["Location"]

        def listen(_: int) -> int:
            with client.stream("GET", f"{address}/events") as stream:
                stream.read()
                return stream.status_code

        with ThreadPoolExecutor(50) as pool:
            found = [pool.submit(listen, number) for number in range(1000)]

            def all_but_the_streams_are_answered() -> bool:
                assert client.get("/ping").text == "pong"
                return sum(each.done() for each in found) >= 1000 - STREAMS

            until(all_but_the_streams_are_answered, PATIENCE)
            client.post("/open/b")
            statuses = [each.result() for each in found]
        assert sorted(statuses) == [200] * STREAMS + [503] * (1000 - STREAMS)
        again = [listen(0) for _ in range(5)]
        assert again == [200] * 5  # every place has come back


def test_a_slow_view_is_late_and_cancelled(server: Server) -> None:
    with client_of(server) as client:
        late = client.get("/view/c")
        assert late.status_code == 202
        address = late.headers["Location"]
        assert client.delete(address).status_code in {200, 202}
        done = client.get(address, headers={"Prefer": "wait=10"}).json()
        assert done["status"] == "cancelled"
        late = client.get("/view/d")
        client.post("/open/d")
        client.get(late.headers["Location"], headers={"Prefer": "wait=10"})
        result = client.get(f"{late.headers['Location']}/result")
        assert (result.status_code, result.text) == (200, "<h1>The answer</h1>")


def test_a_worker_that_answers_one_request_at_a_time_refuses_events(serve: ServerFactory) -> None:
    options = ("--workers", "1", "--worker-class", "sync")
    server = serve(*options, module="tests.apps.served_jobs")
    with client_of(server) as client:
        address = client.post("/start/e").headers["Location"]
        assert client.get(f"{address}/events").status_code == 503
        client.post("/open/e")
        assert client.get(address, headers={"Prefer": "wait=10"}).json()["done"]
