"""gevent and eventlet: what works under gunicorn's workers of these names, and what is refused."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from .conftest import COMMANDS, PATIENCE, ROOT, Server, ServerFactory, stop_cleanly

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}


def skip_unless_installed(library: str, *, worker: str = "") -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    if worker and importlib.util.find_spec(f"gunicorn.workers.{worker}") is None:
        pytest.skip(f"this gunicorn has no worker for {library}")


Serve = Callable[..., Server]


@pytest.fixture(params=["gevent", "eventlet"])
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def serve_green(
    serve: ServerFactory, library: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Server]:
    """Start gunicorn with the worker of ``library``."""
    skip_unless_installed("gunicorn")
    skip_unless_installed(library, worker=f"g{library}")
    command = ("gunicorn", "--config", "tests/integration/green_conf.py", "--bind", "fd://{fd}")
    monkeypatch.setitem(COMMANDS, "gunicorn", (*command, "{options}", "tests.apps.greened:app"))
    # What eventlet itself warns of when it is imported.
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")

    def start(*options: str) -> Server:
        return serve("--worker-class", library, *options)

    return start


def call(server: Server, url: str, **params: str) -> httpx.Response:
    return httpx.get(server.url + url, params=params, timeout=PATIENCE, trust_env=False)


def get(server: Server, url: str, **params: str) -> object:
    response = call(server, url, **params)
    assert response.is_success, response.text + server.log
    return response.json()


def test_plain_jobs_of_50_concurrent_requests_never_see_each_others_contexts(
    serve_green: Serve,
) -> None:
    server = serve_green("--workers", "2")

    async def call_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
            url = f"{server.url}/identities"
            return await asyncio.gather(
                *[client.get(url, params={"id": str(number)}) for number in range(50)]
            )

    for number, response in enumerate(asyncio.run(call_all())):
        assert response.is_success, response.text + server.log
        assert response.json() == [[str(number), str(number), "greened"]] * 20
    stop_cleanly(server)


def test_plain_jobs_wait_side_by_side_nest_and_have_time_limits(serve_green: Serve) -> None:
    server = serve_green()
    assert get(server, "/naps") == list(range(8))  # all eight met
    assert get(server, "/nested") == [3] * 16
    assert get(server, "/late") == [0, "sleep took longer than its time limit of 0.05 s"]
    stop_cleanly(server)


def test_view_that_waits_for_a_job_does_not_hold_up_others(serve_green: Serve) -> None:
    server = serve_green()
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(get(server, "/held")))
    waiting.start()
    assert get(server, "/release") is True
    waiting.join(PATIENCE)
    assert answers == [True]
    stop_cleanly(server)


def test_coroutine_jobs_are_refused_where_they_are_submitted(
    serve_green: Serve, library: str
) -> None:
    server = serve_green()
    answer = call(server, "/coroutine")
    assert answer.status_code == 500
    assert answer.text == (
        f"GreenThreadsError: {library} runs the threads of this process as greenlets, among which "
        "no event loop can run; sleep is asynchronous; use plain functions, which wait in "
        "greenlets as well, or a server with threads, such as gunicorn --worker-class gthread"
    )
    hidden = call(server, "/hidden-coroutine")
    assert "; what the job returned is asynchronous; " in hidden.text
    assert get(server, "/nested") == [3] * 16  # and the rest goes on
    assert "never awaited" not in server.log
    stop_cleanly(server)


def test_future_can_be_awaited_in_an_async_view(serve_green: Serve) -> None:
    server = serve_green()
    assert get(server, "/await") == [0, 1, 2]
    assert get(server, "/nested") == [3] * 16
    assert get(server, "/await") == [0, 1, 2]  # no loop of ours is in the way
    stop_cleanly(server)


def test_settings_that_need_real_threads_are_refused_by_init_app(
    serve_green: Serve, library: str
) -> None:
    server = serve_green()
    assert call(server, "/setting/EXECUTOR_TYPE/process").text == (
        f"ConfigError: EXECUTOR_TYPE='process' (str): expected 'thread', since {library} has "
        "patched this process; set it before init_app()"
    )
    assert call(server, "/setting/EXECUTOR_ASYNC_VIEWS/yes").text == (
        f"ConfigError: EXECUTOR_ASYNC_VIEWS=True (bool): expected False, since {library} has "
        "patched this process; set it before init_app()"
    )
    assert call(server, "/setting/EXECUTOR_TYPE/thread").text == "accepted"
    stop_cleanly(server)


def test_accepted_jobs_run_to_their_end_when_the_server_is_told_to_stop(
    serve_green: Serve, tmp_path: Path
) -> None:
    server = serve_green()
    get(server, "/write", path=str(tmp_path / "file"))
    assert not (tmp_path / "file").exists()  # else this would test nothing
    stop_cleanly(server)
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("library", ["gevent"], indirect=True)
def test_preloaded_app_that_was_patched_too_late_is_told_how_to_patch_first(
    serve_green: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve_green("--preload")
    answer = call(server, "/nested")
    assert answer.text == (
        "GreenThreadsError: gevent patched the process when flask_executor_typed had already been "
        "imported; begin the program, or with --preload gunicorn.conf.py, with 'from gevent import "
        "monkey; monkey.patch_all()'"
    )
    server.stop()

    monkeypatch.setenv("GREENED_PATCH", "1")
    server = serve_green("--preload")
    assert get(server, "/nested") == [3] * 16
    stop_cleanly(server)


def run(library: str, program: str) -> subprocess.CompletedProcess[str]:
    skip_unless_installed(library)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_patched_program_runs_all_its_jobs_before_it_ends(library: str) -> None:
    ran = run(
        library,
        f"{PATCHES[library]}\n"
        "import time\n"
        "from tests.apps.greened import executor\n"
        "def nap(number): time.sleep(0.05); print(number)\n"
        "for number in range(20): executor.submit(nap, number)\n",
    )
    assert ran.returncode == 0, ran.stderr
    assert sorted(map(int, ran.stdout.split())) == list(range(20))
    assert not ran.stderr


def test_program_that_patches_only_sockets_keeps_its_coroutine_jobs() -> None:
    ran = run(
        "gevent",
        "from gevent import monkey; monkey.patch_all(thread=False)\n"
        "from tests.apps.greened import asyncio, executor\n"
        "print(executor.submit(asyncio.sleep, 0, 7).result(30))\n",
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "7\n"
