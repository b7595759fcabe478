"""Run scripts in another interpreter, to test exits, forks and signals.

Scripts begin with ``PRELUDE``, which creates an app and an executor.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

import flask_executor_typed

from ..conftest import TIMEOUT

has_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")

IN_THE_CHILD = """
warnings.simplefilter("ignore", DeprecationWarning)  # for forking a process that has threads


def check(where):
    with app.test_request_context("/?id=7"):
        assert executor.submit(double, 21).result(8) == 42
        assert executor.submit(double_async, 21).result(8) == 42
        assert list(executor.map(double, range(5))) == [0, 2, 4, 6, 8]
        executor.submit_stored(where, double, 21)
        assert executor.futures.pop(where).result(8) == 42
    print(where, flush=True)


def in_child():
    time_out(8)
    status = 1
    try:
        check("child")
        executor.shutdown()
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def fork_and_check():
    pid = os.fork()
    if pid == 0:
        in_child()
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"the child ended with {status}"
    check("parent")

"""

PRELUDE = """
import asyncio, faulthandler, os, signal, sys, threading, time, warnings
from flask import Flask
from flask_executor_typed import Executor, ExecutorClosedError

app = Flask("script")
app.config["EXECUTOR_MAX_WORKERS"] = 4
executor = Executor(app)


def time_out(seconds):
    # Kills this process, after it has shown where its threads are. A fork does not inherit it.
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


if hasattr(faulthandler, "register"):
    faulthandler.register(signal.SIGALRM, chain=True)
time_out(30)


def print(*words, flush=False):
    # In one write, so that other threads' lines do not get in between.
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    if flush:
        sys.stdout.flush()


def double(number):
    return number * 2


async def double_async(number):
    await asyncio.sleep(0.001)
    return number * 2


def until_the_exit_has_begun():
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            executor.submit(double, 1)
        except ExecutorClosedError:
            break
        time.sleep(0.001)
    time.sleep(0.1)
"""

SCRIPT_TIMEOUT = 120.0
"""Seconds after which a script counts as hung. Each takes about one."""


class Ended(NamedTuple):
    status: int
    stdout: str
    stderr: str


def run_script(body: str, *options: str, seconds: float = SCRIPT_TIMEOUT, **env: str) -> Ended:
    """Run the prelude and a script in a new interpreter."""
    return run_python(*options, "-c", PRELUDE + dedent(body), seconds=seconds, **env)


def run_python(*arguments: str, seconds: float = SCRIPT_TIMEOUT, **env: str) -> Ended:
    source = Path(flask_executor_typed.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(source), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds + TIMEOUT,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def in_time(fn: Callable[[], object]) -> None:
    """Call a blocking function, such as ``executor.shutdown``, and fail if it hangs."""
    thread = threading.Thread(target=fn, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive(), f"{fn!r} hangs"
