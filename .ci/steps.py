"""All checks that must pass before a change is accepted. ``bash .ci/run`` runs this module.

``bash .ci/run WORD ...`` runs only the steps with one of the words in their names, and the steps
that must come before them. Other interpreters are used if they are found; the summary names the
missing ones. All environments are created from scratch, under .ci/work.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from interpreters import find_python
from lanes import Limits, Shell, Skipped, Step, Work, run_steps

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".ci" / "work"
PYTHON = Path(sys.executable)
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.14t")
LIMITS = Limits(command=3000, total=5000)

QUICK = ("-m", "not slow")
"""Options for all but the default interpreter, which leave out the slowest tests."""

LOOP_TESTS = tuple(
    f"tests/test_{name}.py"
    for name in (
        *("loops", "calls", "futures", "as_completed", "later", "leaks", "backends"),
        *("current_job", "deadlocks", "views", "resources", "sync", "contract", "shutdown"),
        *("watchdog", "capacity"),
    )
)
DEBUG_TESTS = tuple(
    f"tests/test_{name}.py"
    for name in ("executor", "context", "jobs", "threads", "faults", "stateful")
)


# -- parts of steps --------------------------------------------------------------------------------


def environment(name: str, python: Path, *wanted: str | Path) -> Work:
    """Create the virtual environment .ci/work/NAME and install into it."""

    def work(shell: Shell) -> None:
        shell.run(python, "-m", "venv", WORK / name)
        pip = (WORK / name / "bin" / "python", "-m", "pip", "install")
        shell.run(*pip, "--upgrade", "pip>=25.1")
        shell.run(*pip, *wanted)

    return work


def within(name: str, *command: str | Path, cwd: Path = ROOT, **variables: str) -> Work:
    """Run a command with an environment active."""
    path = f"{WORK / name / 'bin'}{os.pathsep}{os.environ['PATH']}"
    active = {"VIRTUAL_ENV": str(WORK / name), "PATH": path, **variables}
    return lambda shell: shell.run(*command, cwd=cwd, env=active)


def dev(name: str, python: Path, *command: str) -> Work:
    """Run a command of dev.py, in its own environment."""
    return lambda shell: shell.run(
        python, "dev.py", *command, cwd=ROOT, env={"DEV_VENV": str(WORK / name)}
    )


def skip(reason: str) -> Work:
    def work(_: Shell) -> None:
        raise Skipped(reason)

    return work


def wheel(shell: Shell) -> None:
    """Install the built wheel into an empty environment."""
    environment("wheel", PYTHON, *(WORK / "dist").glob("*.whl"))(shell)


# -- the steps -------------------------------------------------------------------------------------


@dataclass
class Plan:
    steps: list[Step] = field(default_factory=list[Step])

    def step(self, name: str, *work: Work, after: tuple[Step, ...] = ()) -> Step:
        """Add a step. Of the steps that may begin, the one added first does."""
        self.steps.append(Step(name, work, after))
        return self.steps[-1]


def plan() -> list[Step]:
    """Return all steps. The longest chains come first, so that neither lane is idle at the end."""
    plan = Plan()
    services = plan.step(
        "Services are installed", lambda shell: shell.run(PYTHON, "dev.py", "services", cwd=ROOT)
    )
    tools = plan.step(
        "Tools are installed",
        environment(
            *("tools", PYTHON, "--editable", "."),
            *("--group", "lint", "--group", "types", "--group", "docs"),
        ),
    )
    plan.step("Format: ruff format", within("tools", "ruff", "format", "--check"), after=(tools,))
    plan.step("Style: ruff check", within("tools", "ruff", "check"), after=(tools,))
    demo = plan.step("README: python3 dev.py demo", dev("default", PYTHON, "demo"))
    default = plan.step(
        "README: python3 dev.py test", dev("default", PYTHON, "test"), after=(demo, services)
    )
    add_types(plan, tools)
    add_wheel(plan, tools)
    add_tests(plan, services, default)
    return plan.steps


def add_types(plan: Plan, tools: Step) -> None:
    mypy = plan.step("Types: mypy, strict", within("tools", "mypy"), after=(tools,))
    plan.step("Types: pyright, strict", within("tools", "pyright"), after=(tools,))
    plan.step(
        "Types: what four checkers must accept and refuse",
        within("tools", "python", "tests/typing/check.py"),
        after=(tools,),
    )
    plan.step(
        "Types: the cases notice signatures that are wrong",
        within("tools", "python", "tests/typing/mutate.py"),
        after=(tools,),
    )
    stubtest = ("python", "-m", "mypy.stubtest")
    # One after the other, because all three write to mypy's cache.
    package = plan.step(
        "Types: stubtest of the package",
        within(
            *("tools", *stubtest, "flask_executor_typed", "--ignore-unused-allowlist"),
            *("--allowlist", "stubs/flask_executor_typed.allowlist"),
        ),
        after=(mypy,),
    )
    plan.step(
        "Types: stubtest of the stubs for Flask-Executor",
        within(
            *("tools", *stubtest, "flask_executor"),
            *("--allowlist", "stubs/flask_executor.allowlist"),
            MYPYPATH="stubs",
        ),
        after=(package,),
    )


def add_wheel(plan: Plan, tools: Step) -> None:
    plan.step(
        "Documentation builds without a warning",
        within(
            *("tools", "python", "-m", "sphinx", "-W", "--keep-going", "-b", "html"),
            *("docs", WORK / "html"),
        ),
        after=(tools,),
    )
    built = plan.step(
        "The wheel is built",
        within("tools", "pip", "wheel", "--no-deps", "--wheel-dir", WORK / "dist", "."),
        after=(tools,),
    )
    installed = plan.step("The wheel is installed, alone", wheel, after=(built,))
    # Outside the repository, so that the installed package is checked.
    plan.step(
        "The wheel is used",
        within(
            *("wheel", "python", "-I", "-W", "error", ROOT / ".ci" / "use_wheel.py"),
            cwd=WORK / "empty",
        ),
        after=(installed,),
    )
    plan.step(
        "Types: all that the installed wheel exports has one",
        within(
            *("wheel", WORK / "tools" / "bin" / "pyright"),
            *("--verifytypes", "flask_executor_typed", "--ignoreexternal"),
            cwd=WORK / "empty",
        ),
        after=(installed,),
    )
    plan.step(
        "Dependencies have no known vulnerabilities",
        environment("audit", PYTHON, "--group", "audit"),
        within("audit", "python", ".ci/audit.py", WORK / "wheel" / "bin" / "python"),
        after=(installed,),
    )


def add_tests(plan: Plan, services: Step, default: Step) -> None:
    pytest = ("python", "-m", "pytest")
    found = {version: find_python(version) for version in VERSIONS}
    oldest = next(filter(None, found.values()), PYTHON)  # gets the oldest Flask below
    counting, counted_after = "default", default  # if possible, a Python that counts instructions
    for version, python in found.items():
        if python is None:
            plan.step(f"Tests on Python {version}", skip("no such interpreter here"))
        elif python != oldest and not platform.python_version().startswith(f"{version}."):
            name = f"python{version}"
            tests = plan.step(
                f"Tests on Python {version}, with the newest Flask",
                dev(name, python, "test", *QUICK),
                after=(services,),
            )
            if version != "3.14t":
                counting, counted_after = name, tests
    plan.step(
        "Instructions of one job, compared with what is recorded",
        within(counting, "python", "benchmarks/instructions.py"),
        after=(counted_after,),
    )
    version_of_flask = "import importlib.metadata as m; print('Flask', m.version('flask'))"
    for name, flask, python, wanted in (
        (
            "flask2.0",
            "the oldest Flask, 2.0, and the oldest Python here",
            oldest,
            ("tests-oldest",),
        ),
        ("flask2.3", "Flask 2.3", PYTHON, ("tests", "flask==2.3.*", "werkzeug<3.1")),
    ):
        plan.step(
            f"Tests on {flask}",
            environment(name, python, "--editable", ".", "--group", *wanted),
            within(name, "python", "-c", version_of_flask),
            within(name, *pytest, *QUICK),
            after=(services,),
        )
    plan.step(
        "Tests in asyncio's debug mode",
        within("default", *pytest, *QUICK, *LOOP_TESTS, *DEBUG_TESTS, PYTHONASYNCIODEBUG="1"),
        after=(default,),
    )
    plan.step(  # not configured: uvloop is used wherever it is installed
        "Tests of all that uses event loops, on uvloop",
        environment(
            *("uvloop", PYTHON, "--editable", ".[uvloop]"),
            *("--group", "tests", "--group", "examples"),
        ),
        within("uvloop", *pytest, *QUICK, *LOOP_TESTS, "tests/integration"),
        after=(services,),
    )
    plan.step(  # with gunicorn 23, because 27 has no worker for eventlet
        "Tests with gevent and eventlet",
        environment("green", PYTHON, "--editable", ".", "--group", "green"),
        within("green", *pytest, "tests/test_green.py", "tests/integration/test_green.py"),
        after=(services,),
    )


def chosen(steps: Sequence[Step], words: Sequence[str]) -> list[Step]:
    """Return the steps with one of the words in their names, and those that must come before."""
    wanted = {step for step in steps if any(word.lower() in step.name.lower() for word in words)}
    for step in reversed(steps):  # a step can only come after steps added before it
        if step in wanted:
            wanted.update(step.after)
    return [step for step in steps if step in wanted]


def main(*words: str) -> int:
    steps = plan()
    if words and not (steps := chosen(steps, words)):
        print("no step has one of these words in its name:", *words)
        return 2
    for name in ("PYTHONDEVMODE", "PYTHONASYNCIODEBUG", "PYTEST_ADDOPTS", "PYTHON_GIL"):
        os.environ.pop(name, None)
    os.environ |= dict.fromkeys(
        ("CI", "PYRIGHT_PYTHON_IGNORE_WARNINGS", "PYTHONUNBUFFERED", "NO_COLOR"), "true"
    )
    os.environ |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_QUIET": "2"}
    os.environ["PYTHONWARNINGS"] = ""
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "empty").mkdir(parents=True)
    print("Default interpreter: Python", platform.python_version(), flush=True)
    return run_steps(steps, LIMITS, WORK / "logs")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
