"""Wait for worker processes, and look whether they are alive."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .. import conftest
from ..conftest import TIMEOUT

START = 6 * TIMEOUT
"""Seconds for what may have to start a process, on a busy machine."""


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so that only another process tells."""
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
    # Not by fork, which the standard library of Python 3.12 warns of.
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
