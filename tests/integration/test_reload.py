"""``flask run --debug``, whose process ends and starts anew whenever a file has changed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from .conftest import PATIENCE, ROOT

RELOADS = 20

APP = """
import asyncio, itertools, os, time
from flask import Flask
from flask_executor_typed import Executor, ExecutorClosedError

VERSION = 0
app = Flask(__name__)
app.config["EXECUTOR_MAX_WORKERS"] = 2
app.config["CRUNCH_EXECUTOR_TYPE"] = "process"
app.config["CRUNCH_EXECUTOR_APP"] = "reloading:app"
app.config["CRUNCH_EXECUTOR_MAX_WORKERS"] = 1
executor = Executor(app)
crunch = Executor(app, name="crunch")
numbers = itertools.count()


def note(line):
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\\n".encode())
    os.close(file)


def work(line):
    time.sleep(0.05)
    note(line)


async def work_async(line):
    await asyncio.sleep(0.05)
    note(line)


@app.errorhandler(ExecutorClosedError)
def retry_later(error):
    return str(error), 503


@app.get("/")
def view():
    for target, fn in ((executor, work), (executor, work_async), (crunch, work)):
        job = f"{VERSION} {next(numbers)} {target.name or 'executor'} {fn.__name__}"
        target.submit(fn, f"done {job}")
        note(f"accepted {job}")
    return {"version": VERSION, "process": os.getpid()}
"""


@contextmanager
def flask_run(folder: Path) -> Generator[subprocess.Popen[bytes], None, None]:
    environment = {
        **os.environ,
        "NOTES": str(folder / "notes"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "PYTHONDONTWRITEBYTECODE": "1",  # it goes by the second, and the file changes sooner
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "reloading", "run", "--debug", "--port", "0"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)


def is_alive(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


@pytest.mark.slow
def test_20_reloads_during_jobs_without_a_hang_a_traceback_a_lost_job_or_a_process_that_stays(
    tmp_path: Path,
) -> None:
    module = tmp_path / "reloading.py"
    module.write_text(APP, "utf-8")
    log = tmp_path / "log"
    processes: set[int] = set()

    with flask_run(tmp_path) as server:
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"Running on (http://[\d.:]+)", log.read_text("utf-8"))):
            assert time.monotonic() < end, log.read_text("utf-8")
            time.sleep(0.01)

        def lines(word: str) -> list[str]:
            """The jobs of which the app has noted that word."""
            notes = (tmp_path / "notes").read_text("utf-8").splitlines()
            return sorted(line.partition(" ")[2] for line in notes if line.startswith(word))

        def until_it_serves(version: int) -> None:
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                # The old process answers until it ends, or refuses because it is about to; the
                # socket outlives it, so what comes meanwhile waits for the new one.
                with suppress(httpx.TransportError):
                    answer = httpx.get(found[1], timeout=PATIENCE, trust_env=False)
                    if answer.status_code != 503:
                        assert answer.is_success, log.read_text("utf-8")
                        processes.add(answer.json()["process"])
                        if answer.json()["version"] == version:
                            return
                time.sleep(0.02)
            raise AssertionError(log.read_text("utf-8"))

        until_it_serves(0)
        for version in range(1, RELOADS + 1):
            module.write_text(APP.replace("VERSION = 0", f"VERSION = {version}"), "utf-8")
            until_it_serves(version)

        # On Ctrl+C the reloader gives its child a quarter of a second, and kills it.
        end = time.monotonic() + PATIENCE
        while len(accepted := lines("accepted")) > len(lines("done")):
            assert time.monotonic() < end
            time.sleep(0.01)
        os.killpg(server.pid, signal.SIGINT)
        server.wait(PATIENCE)
        while any(map(is_alive, processes)) or is_alive_group(server.pid):
            assert time.monotonic() < end, log.read_text("utf-8")
            time.sleep(0.01)

    assert len(processes) == RELOADS + 1
    assert accepted == lines("done")
    assert len(accepted) > 3 * RELOADS
    assert "Traceback" not in log.read_text("utf-8"), log.read_text("utf-8")


def is_alive_group(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False
