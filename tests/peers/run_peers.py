"""Run the tests of others: asgiref's in jobs, Flask-Shell2HTTP's with our executor.

``python3 dev.py peers [--asgiref CHECKOUT] [--shell2http CHECKOUT] [pytest arguments]``. The tests
are those of the checkout, unmodified. Exit code 0: every test passes but those listed below, and
those fail. Not in CI, which has no checkouts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

IN_JOBS = """
import inspect
import pytest
from flask import Flask
from flask_executor_typed import Executor

ran = []

@pytest.fixture(scope="session", autouse=True)
def jobs():
    app = Flask("peers")
    with Executor(app) as executor:
        ran.append(executor)
        yield

@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    # A plain test is a plain job, a coroutine test a coroutine job.
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    ran[0].using(timeout=60).submit(pyfuncitem.obj, **arguments).result()
    return True

def pytest_configure(config):
    config.addinivalue_line("markers", "asyncio: ours run every coroutine test")
"""

FAILURES = """
import pytest

REASONS = {reasons!r}

def pytest_collection_modifyitems(items):
    for item in items:
        reason = REASONS.get(getattr(item, "originalname", item.name))
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
"""

ALIASES = {
    "__init__.py": "from flask_executor_typed import *",
    "futures.py": "from flask_executor_typed.futures import *",
}

OF_ASGIREF: dict[str, str] = {}
"""Tests of asgiref that fail in a job, and why."""

OF_SHELL2HTTP: dict[str, str] = {}
"""Tests of Flask-Shell2HTTP that fail with the import changed, and why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--asgiref", type=Path, help="a checkout of asgiref")
    parser.add_argument("--shell2http", type=Path, help="a checkout of Flask-Shell2HTTP")
    options, arguments = parser.parse_known_args()
    if not (options.asgiref or options.shell2http):
        parser.error("expected the path of a checkout: --asgiref PATH, --shell2http PATH, or both")
    codes: list[int] = []
    if options.asgiref:
        tests = sorted((options.asgiref / "tests").glob("test_sync*.py"))
        codes.append(run({"in_jobs.py": IN_JOBS}, OF_ASGIREF, tests, arguments))
    if options.shell2http:
        alias = {f"flask_executor/{name}": code + "\n" for name, code in ALIASES.items()}
        tests = [options.shell2http / "tests"]
        codes.append(run(alias, OF_SHELL2HTTP, tests, arguments))
    return max(codes)


def run(
    modules: dict[str, str], reasons: dict[str, str], tests: list[Path], arguments: list[str]
) -> int:
    """Run tests with some modules first on the path, and this package beside them."""
    if not tests or not all(path.exists() for path in tests):
        sys.exit(f"no tests in this checkout: {tests}")
    with tempfile.TemporaryDirectory() as scratch:
        modules = {**modules, "known_failures.py": FAILURES.format(reasons=reasons)}
        for name, code in modules.items():
            file = Path(scratch, name)
            file.parent.mkdir(exist_ok=True)
            file.write_text(code)
        # Only the package of this repository, whose folder has another package called "tests".
        Path(scratch, "flask_executor_typed").symlink_to(ROOT / "flask_executor_typed")
        checkout = tests[0].resolve().parents[0 if tests[0].is_dir() else 1]
        paths = [scratch, str(checkout)]
        plugins = [name.removesuffix(".py") for name in modules if "/" not in name]
        command = [
            *(sys.executable, "-m", "pytest", *(word for name in plugins for word in ("-p", name))),
            *(
                "--rootdir",
                str(checkout),
                "-c",
                os.devnull,
                "-p",
                "no:cacheprovider",
                "-rfxX",
                "-s",
            ),
            *("--import-mode=append", *map(str, (path.resolve() for path in tests)), *arguments),
        ]
        return subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            cwd=scratch,
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
