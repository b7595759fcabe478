"""Jobs on Celery, submitted to one of two server processes and asked of either.

As most apps run: gunicorn with two processes, and one Celery worker with two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..conftest import until
from ..helpers.services import redis_server, skip_without
from .conftest import PATIENCE, PREFORK, Program, Server, celery_worker

skip_without("celery")
pytest.importorskip("celery", reason="Celery is not installed beside the oldest Flask")
pytest.importorskip("gunicorn")

from ..apps import queued  # noqa: E402


class Processes:
    """The two processes of a server, each with a connection of its own."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack
        self._clients: dict[str, httpx.Client] = {}
        until(self._have_two, PATIENCE)
        self.one, self.other = self._clients.values()

    def _have_two(self) -> bool:
        url = self._server.url
        limits = httpx.Limits(keepalive_expiry=None)
        client = httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False, limits=limits)
        self._stack.callback(client.close)
        self._clients.setdefault(client.get("/jobs/").headers["X-Process"], client)
        return len(self._clients) == 2

    def submit(self, name: str, *args: object, **using: object) -> str:
        """Submit a job of tests/apps/queued.py to one of them; returns the job's address."""
        return address_of(self.one, name, *args, **using)

    def ended(self, address: str) -> str:
        """Return the status of a job at its end, on which both agree."""
        one, other = (end_of(client, address) for client in (self.one, self.other))
        assert one == other
        return str(one["status"])

    def result_of(self, address: str) -> Any:
        assert self.ended(address) == "succeeded"
        one, other = (client.get(f"{address}/result") for client in (self.one, self.other))
        assert (one.status_code, one.json()) == (other.status_code, other.json())
        return one.json()


def address_of(client: httpx.Client, name: str, *args: object, **using: object) -> str:
    late = {"Prefer": "respond-async"}  # also if the job is done already
    answer = client.post(f"/submit/{name}", json={"args": args, "using": using}, headers=late)
    assert answer.status_code == 202, answer.text
    return str(answer.headers["Location"])


def has_progress(client: httpx.Client, address: str) -> bool:
    return client.get(address).json()["progress"] is not None


def end_of(client: httpx.Client, address: str) -> dict[str, Any]:
    while True:
        document: dict[str, Any] = client.get(address, headers={"Prefer": "wait=10"}).json()
        if document["done"]:
            return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("served")
    with redis_server() as redis, pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUED_REDIS", redis.url)
        patch.setenv("QUEUED_FOLDER", str(folder))
        yield folder


@pytest.fixture(scope="module")
def celery(folder: Path) -> Iterator[Program]:
    with celery_worker(folder, "celery", "--disable-prefetch", *PREFORK) as worker:
        yield worker


@pytest.fixture(scope="module")
def processes(folder: Path, celery: Program) -> Iterator[Processes]:
    # Kept alive, so that each connection goes to the same process all the time.
    options = ("--workers", "2", "--threads", "8", "--keep-alive", "3600")
    server = Server(folder / "server.log", "gunicorn", "tests.apps.served_queue", *options)
    try:
        with ExitStack() as stack:
            yield Processes(server, stack)
    finally:
        server.kill()


def test_each_process_gives_the_result_of_a_function_and_of_a_coroutine(
    processes: Processes,
) -> None:
    assert processes.result_of(processes.submit("add", 20, 22)) == 42
    total, loop = processes.result_of(processes.submit("add_async", 20, 22))
    assert (total, type(loop)) == (42, int)


def test_an_async_view_awaits_a_job_and_a_view_maps_over_jobs(processes: Processes) -> None:
    for client in processes.one, processes.other:
        assert client.get("/sum").json() == [42]
        assert client.get("/divided").json() == [list(divmod(n, 10)) for n in range(20)]


def test_each_process_shows_the_progress_of_a_running_job(processes: Processes) -> None:
    address = processes.submit("count_to", 5)
    for client in processes.one, processes.other:
        until(partial(has_progress, client, address), PATIENCE)
        job = client.get(address).json()
        assert (job["status"], job["progress"]["percent"]) == ("running", 80)
    queued.let_end("count")
    assert processes.result_of(address) == 5


def test_a_key_is_one_for_both_processes(processes: Processes) -> None:
    join = {"key": "both", "on_duplicate": "join"}
    one, other = (
        address_of(client, "wait", "joined", **join) for client in (processes.one, processes.other)
    )
    assert one == other
    queued.let_end("joined")
    assert processes.result_of(one) == "joined"
    assert queued.count_of("joined") == 1


def test_each_process_tells_of_a_failure(processes: Processes, celery: Program) -> None:
    assert processes.ended(processes.submit("fail", "no such trip")) == "failed"
    assert "no such trip" not in processes.one.get("/jobs/").text  # which is the operator's
    assert processes.ended(processes.submit("wait_for_another")) == "failed"
    assert "DeadlockError" in celery.log


def test_a_job_is_tried_again_and_has_a_time_limit(processes: Processes) -> None:
    assert processes.result_of(processes.submit("fail_twice", retries=2)) == 3
    assert queued.count_of("attempt") == 3
    assert processes.ended(processes.submit("obey", "limited", timeout=0.1)) == "failed"


def test_a_job_has_a_queue_a_priority_a_delay_and_an_expiry(processes: Processes) -> None:
    # No worker serves that queue, so each process finds that the job was not taken in time.
    assert processes.ended(processes.submit("add", 1, 2, queue="none", expires=0.2)) == "failed"
    assert processes.result_of(processes.submit("add", 1, 2, priority=9, delay=0.2)) == 3


def test_the_other_process_cancels_what_waits_and_what_runs(processes: Processes) -> None:
    waiting = processes.submit("add", 1, 2, delay=3600)
    running = processes.submit("wait_async", "stopped")
    until(lambda: queued.count_of("stopped"), PATIENCE)
    for address in waiting, running:
        assert processes.other.delete(address).status_code in {200, 202}
        assert processes.ended(address) == "cancelled"
    until(lambda: "stopped cancelled" in queued.notes(), PATIENCE)


def test_a_job_whose_worker_dies_is_lost_or_repeated_and_its_neighbour_lives(
    processes: Processes,
) -> None:
    neighbour = processes.submit("wait", "next")
    until(lambda: queued.count_of("next"), PATIENCE)
    assert processes.ended(processes.submit("die", "dead")) == "lost"
    assert processes.result_of(processes.submit("die_once", "again", retries=1)) == 2
    queued.let_end("next")
    assert processes.result_of(neighbour) == "next"
    begun = [line for line in queued.notes() if line.startswith(("dead", "again"))]
    assert begun == ["dead 1", "again 1", "again 2"]
