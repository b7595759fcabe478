"""Wait for worker processes, check whether they are alive, and run scripts that start them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from textwrap import dedent

from .. import conftest
from ..conftest import TIMEOUT
from .scripts import Ended, run_python

START = 6 * TIMEOUT
"""Seconds to wait for something that may have to start a process, on a busy machine."""


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that depends on another process."""
    conftest.until(condition, START)


def until_dead(process: int) -> None:
    until(lambda: not is_alive(process))


def is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text("ascii")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def make_processes() -> ProcessPoolExecutor:
    # Not by fork, which Python 3.12 warns about.
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


SCRIPT = """
import os, sys, time, warnings
from flask import Flask
from flask_executor_typed import Executor
from tests.apps import working

warnings.simplefilter("ignore", DeprecationWarning)  # for forking a process that has threads


def main(method):
    app = working.create_app(EXECUTOR_START_METHOD=method)
    executor = working.executor
"""


def run_main(path: Path, method: str, body: str, start: str = "") -> Ended:
    """Run ``body`` as the main function of a script, with an executor of worker processes."""
    script = path / "script.py"
    main = dedent(body).replace("\n", "\n    ")
    guarded = f'if __name__ == "__main__":\n    main({method!r})\n'
    script.write_text(f"{SCRIPT}{main}\n\n{dedent(start)}\n\n{guarded}")
    return run_python(str(script))
