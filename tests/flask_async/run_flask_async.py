"""Run Flask's own tests of async views, unmodified, with ``EXECUTOR_ASYNC_VIEWS`` in every app.

``python tests/flask_async/run_flask_async.py CHECKOUT [pytest arguments]``, where CHECKOUT is one
of Flask. Its tests run against the Flask that is installed; ``PYTHONPATH=CHECKOUT/src`` takes that
of the checkout. Exit code 0: they pass, and their async functions ran on our loops.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PLUGIN = """
import pytest
from flask import Flask

from flask_executor_typed import Executor
from flask_executor_typed.loops import ViewLoop

calls = 0
executors = []

@pytest.fixture(autouse=True)
def async_views(monkeypatch):
    make, run = Flask.__init__, ViewLoop.run

    def make_app(app, *args, **kwargs):
        make(app, *args, **kwargs)
        app.config["EXECUTOR_ASYNC_VIEWS"] = True
        executors.append(Executor(app))

    def count(loop, *args):
        global calls
        calls += 1
        return run(loop, *args)

    monkeypatch.setattr(Flask, "__init__", make_app)
    monkeypatch.setattr(ViewLoop, "run", count)
    yield
    while executors:
        executors.pop().shutdown()

def pytest_sessionfinish(session):
    if not calls and session.exitstatus == 0:
        session.exitstatus = 1

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{calls} async functions of Flask's tests ran on our loops")
"""


def main(checkout: str, *arguments: str) -> int:
    tests = Path(checkout).resolve() / "tests" / "test_async.py"
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "async_views.py").write_text(PLUGIN)
        # Only the package of this repository, whose folder has another package called "tests".
        package = Path(__file__).resolve().parents[2] / "flask_executor_typed"
        Path(scratch, package.name).symlink_to(package)
        paths = [scratch, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "pytest", "-p", "async_views", str(tests)]
        command += ["-p", "no:flask", "-p", "no:asyncio"]  # pytest-flask would push requests
        # Not Flask's settings and conftest.py, which belong to another version perhaps.
        options = [
            "-c",
            os.devnull,
            "--noconftest",
            "-p",
            "no:cacheprovider",
            "-W",
            "error::RuntimeWarning",
        ]
        return subprocess.run(
            [*command, *options, "--rootdir", str(tests.parent), *arguments],
            env=environment,
            cwd=scratch,
            check=False,
        ).returncode


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
