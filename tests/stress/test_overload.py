"""Twice the load that can be served needs no more memory than a while of it, and loses no call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc/self/statm")
@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_memory_stays_flat_under_twice_the_load_that_can_be_served(seconds: int) -> None:
    # Ten minutes of it, with figures: python -m tests.stress.overload 600
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.stress.overload", str(seconds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    print(ended.stdout)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
