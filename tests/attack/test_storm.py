"""A short storm; ``python -m tests.attack.storm`` is a long one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ..apps.working import serving
from .storm import Storm


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was not read")
def test_kills_lose_no_call_that_has_not_begun_and_mix_up_no_results(tmp_path: Path) -> None:
    with serving(EXECUTOR_MAX_WORKERS=3, EXECUTOR_LOG_EXCEPTIONS=False) as executor:
        storm = Storm(tmp_path, calls=100, kills=10, fork_server=1, seed=5)
        storm.run(executor)
    assert storm.wrong == []
    assert sum(storm.counts[name] for name in ("done", "lost", "cancelled")) >= 100
    assert storm.counts["worker killed"] > 0
