"""Run Flask-Executor's own tests, unmodified, against this package.

``python tests/dropin/run_original_suite.py FOLDER [pytest arguments]``, where FOLDER holds the
tests of a checkout of Flask-Executor 1.0.0. They import ``flask_executor``; here that name leads to
this package. Exit code 0: every test passes but those listed below, and those fail.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

REASONS = {
    "test_thread_executor_init": "asks for the class of the private pool; ours is our own",
    "test_process_executor_init": "asks for the class of the private pool; it starts lazily",
    "test_default_executor_init": "asks for the class of the private pool; ours is our own",
}
if importlib.util.find_spec("sqlalchemy") and version("sqlalchemy") >= "2":
    REASONS["test_sqlalchemy"] = "its SQL is a plain string, which only SQLAlchemy 1 executes"
"""Tests that fail, and why."""

ALIASES = {
    "__init__.py": "from flask_executor_typed import *",
    "executor.py": "from flask_executor_typed.executor import *",
    "futures.py": "from flask_executor_typed.futures import *",
    "helpers.py": "from flask_executor_typed.helpers import *",
}

PLUGIN = """
import pytest

REASONS = {reasons!r}

def pytest_collection_modifyitems(items):
    for item in items:
        reason = REASONS.get(getattr(item, "originalname", item.name))
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
"""


def main(folder: str, *arguments: str) -> int:
    tests = Path(folder).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        # A package on the path rather than an entry in sys.modules: worker processes import the
        # tests too.
        alias = Path(scratch, "flask_executor")
        alias.mkdir()
        for name, code in ALIASES.items():
            (alias / name).write_text(code + "\n")
        Path(scratch, "known_failures.py").write_text(PLUGIN.format(reasons=REASONS))
        # Only the package of this repository, whose folder has another package called "tests".
        package = Path(__file__).resolve().parents[2] / "flask_executor_typed"
        Path(scratch, package.name).symlink_to(package)
        environment = {**os.environ, "PYTHONPATH": scratch}
        command = [sys.executable, "-m", "pytest", "-p", "known_failures", "-rxX", str(tests)]
        command += ["-p", "no:flask", "-p", "no:asyncio"]  # pytest-flask would push requests
        options = ["--rootdir", str(tests.parent), "-c", os.devnull, "-p", "no:cacheprovider"]
        # Behind our alias on the path, because the checkout holds the original package as well.
        options.append("--import-mode=append")
        return subprocess.run(
            [*command, *options, *arguments], env=environment, cwd=scratch, check=False
        ).returncode


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
