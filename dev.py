#!/usr/bin/env python3
"""All chores of this repository: ``python3 dev.py demo``, ``python3 dev.py test``, ...

Needs nothing but Python 3.10 or later. Each command creates the virtual environment .venv if there
is none (``DEV_VENV`` names another folder), and installs the dependency groups that it needs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("DEV_VENV") or ROOT / ".venv").absolute()
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
ENGINES = ("celery", "celery_served", "celery_failures", "from_celery", "dask", "rq")


def demo(args: list[str]) -> None:
    """Serve the example app, call it, and print what happens (demo --celery: with Celery)."""
    set_up("examples")
    if "--celery" in args:
        args.remove("--celery")
        run(PYTHON, "-m", "examples.on_celery", *args)
    else:
        run(PYTHON, "-m", "examples.demo", *args)


def test(args: list[str]) -> None:
    """Run the tests; arguments are passed to pytest (test -k map)."""
    set_up("tests", "examples")
    missing = install_services()
    if missing and "CI" not in os.environ:  # in CI, their tests fail
        print(f"Leaving out the tests of {', '.join(missing)}", flush=True)
        os.environ["CI_WITHOUT"] = ",".join([*missing, os.environ.get("CI_WITHOUT", "")])
    run(PYTHON, "-m", "pytest", *args)


def engines(args: list[str]) -> None:
    """Run the tests of Celery and the other engines, each with its real workers and Redis."""
    set_up("tests", "examples")
    install_services()
    names = ("test_engines.py", *(f"integration/test_{name}.py" for name in ENGINES))
    files = [file for name in names if (file := ROOT / "tests" / name).exists()]
    run(PYTHON, "-m", "pytest", *files, *args)


def services(args: list[str]) -> None:
    """Install the services that tests use: Redis, Chromium, axe-core (on Debian, as root)."""
    if missing := install_services():
        sys.exit(f"dev.py: missing: {', '.join(missing)}")


def lint(args: list[str]) -> None:
    """Check style and format; --fix fixes what it can."""
    set_up("lint")
    fix = "--fix" in args
    run(PYTHON, "-m", "ruff", "check", *(["--fix"] if fix else []))
    run(PYTHON, "-m", "ruff", "format", *([] if fix else ["--check"]))


def types(args: list[str]) -> None:
    """Type-check the package, tests and examples with mypy and pyright, both strict."""
    set_up("types")
    run(PYTHON, "-m", "mypy", *args)
    run(PYTHON, "-m", "pyright", "--pythonpath", PYTHON, *args)


def docs(args: list[str]) -> None:
    """Build the documentation into docs/_build/html; warnings are errors."""
    set_up("docs")
    run(PYTHON, "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


def bench(args: list[str]) -> None:
    """Compare speed with the standard library and Flask-Executor; print a table, ratios first."""
    set_up("bench")
    run(PYTHON, "benchmarks/compare.py", *args)


def soak(args: list[str]) -> None:
    """Run under load with gunicorn; check that each job has one outcome (soak --minutes 15)."""
    set_up("examples")
    run(PYTHON, "benchmarks/soak.py", *args)


def attack(args: list[str]) -> None:
    """Interrupt and fork at each place, and kill workers in a storm; takes many minutes."""
    set_up("tests", "examples")
    os.environ["ATTACK_EVERY"] = "1"
    run(PYTHON, "-m", "pytest", "tests/attack", *args)
    run(PYTHON, "-m", "tests.attack.forks")
    run(PYTHON, "-m", "tests.attack.storm")


def peers(args: list[str]) -> None:
    """Run the tests of asgiref and Flask-Shell2HTTP with us (peers --asgiref CHECKOUT; no CI)."""
    set_up("peers")
    run(PYTHON, "tests/peers/run_peers.py", *args)


def ci(args: list[str]) -> None:
    """Run everything that must pass before a change is accepted, on each interpreter found."""
    run("bash", ".ci/run", *args)


COMMANDS: tuple[Callable[[list[str]], None], ...] = (
    *(demo, test, engines, services, lint, types, docs, bench, soak, attack, peers, ci),
)


def install_services() -> list[str]:
    """Install the services that tests use. Return the names of those still missing."""
    from tests.helpers.services import install

    return install()


def set_up(*groups: str) -> None:
    """Create the virtual environment, and install the package and ``groups`` if they changed."""
    if not works(PYTHON):
        print(f"Creating the virtual environment {VENV.name} ...", flush=True)
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False)
        if made.returncode:
            sys.exit(
                f"{sys.executable} cannot create virtual environments. On Debian and Ubuntu: "
                "apt install python3-venv"
            )
    # --group is new in pip 25.1. Groups already installed for this pyproject.toml are skipped.
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamps = [VENV / f".installed-{group}" for group in groups]
    if all(stamp.exists() and stamp.read_text() == wanted for stamp in stamps):
        return
    print(f"Installing the package with {', '.join(groups)} into {VENV.name} ...", flush=True)
    pip = [PYTHON, "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
    run(*pip, "--upgrade", "pip>=25.1")
    run(*pip, "--editable", ".", *(option for group in groups for option in ("--group", group)))
    for stamp in stamps:
        stamp.write_text(wanted)


def works(python: Path) -> bool:
    """Return whether an interpreter is usable; upgrading Python can leave a dead link."""
    check = "import pip, sys; sys.exit(sys.version_info < (3, 10))"
    try:
        tried = subprocess.run([python, "-c", check], stderr=subprocess.DEVNULL, check=False)
        return tried.returncode == 0
    except OSError:
        return False


def run(*command: object) -> None:
    """Run a command in the repository. Exit with its exit code if it fails."""
    words = [str(word) for word in command]
    code = subprocess.run(words, cwd=ROOT, check=False).returncode
    if code:
        print(f"dev.py: exit code {code} from {' '.join(words)}", file=sys.stderr)
        sys.exit(code if code > 0 else 1)


def main() -> None:
    if sys.version_info < (3, 10):  # noqa: UP036  # for users of an older one to read
        sys.exit(f"Python 3.10 or later is needed; this is {sys.version.split()[0]}")
    name, args = [*sys.argv, "--help"][1], sys.argv[2:]
    for command in COMMANDS:
        if command.__name__ == name:
            command(args)
            return
    print(f"{__doc__}\nCommands:")
    for command in COMMANDS:
        print(f"  {command.__name__:8} {command.__doc__}")
    sys.exit(0 if name in {"-h", "--help", "help"} else f"dev.py: no such command: {name}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
