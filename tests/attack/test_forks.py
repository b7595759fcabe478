"""A few forks; ``python -m tests.attack.forks`` makes one at each instruction."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..conftest import TIMEOUT
from ..helpers.scripts import has_fork

ROOT = Path(__file__).parents[2]


@has_fork
def test_child_of_a_fork_works_wherever_another_thread_stood() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.attack.forks", "--every", "400"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=10 * TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count(" 0 failed") == 5
