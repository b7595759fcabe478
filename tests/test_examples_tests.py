"""The tests of the examples pass, and notice the mistakes that tests of jobs are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("httpx", reason="the examples need httpx, which is not installed")

ROOT = Path(__file__).resolve().parent.parent

OPTIONS = "-q -x -W error -p no:cacheprovider -p no:ddtrace -p no:flask -p no:asyncio"

MISTAKES = {
    "a job that is not submitted": (
        *("trips/views.py", "ask_airline.submit(airline", "ask_airline.fn(airline"),
        "FAILED examples/trips/test_trips.py::test_every_airline_is_asked",
    ),
    "a wrong argument": (
        *("trips/views.py", 'plan_tour.submit(request.args.get("days", 10, type=int))'),
        *("plan_tour.submit(10)", "plan_tour(days=3) was not submitted"),
    ),
    "a failure that is swallowed": (
        *("trips/jobs.py", "raise NoFlightError(", "print("),
        "expected a job to fail with NoFlightError",
    ),
    "a failure that is not looked at": (
        *("trips/jobs.py", "cosine =", "cosine = 1 / 0 if lat < -6 else", "ZeroDivisionError"),
    ),
    "a job that leaks": (
        *(
            "trips/views.py",
            "found = await",
            "executor.submit(asyncio.sleep, 3600)\n    found = await",
        ),
        "1 jobs are not over at the end of the test",
    ),
    "a slow view that does not answer in time": (
        *(
            "exports/views.py",
            "@jobs.respond_async(wait=0.2)\n",
            "",
            "FAILED examples/exports/test_exports.py::test_an_export_is",
        ),
    ),
    "a cancellation that is not heard of": (
        *("exports/views.py", "current_job.raise_if_cancelled()", "pass", "DID NOT RAISE"),
    ),
}


def run_tests(folder: Path) -> str:
    """Run the tests of the examples in ``folder``, and return what pytest says."""
    command = [sys.executable, "-m", "pytest", *OPTIONS.split(), "-c", os.devnull]
    ran = subprocess.run(
        [*command, "--rootdir", str(folder), "examples/trips", "examples/exports"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    return ran.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=ignored)
    return tmp_path


def test_the_tests_of_the_examples_pass(folder: Path) -> None:
    assert "15 passed" in run_tests(folder)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_tests_of_the_examples_notice(mistake: str, folder: Path) -> None:
    name, right, wrong, says = MISTAKES[mistake]
    file = folder / "examples" / name
    code = file.read_text("utf-8")
    assert code.count(right) == 1
    file.write_text(code.replace(right, wrong), "utf-8")
    assert says in run_tests(folder)
