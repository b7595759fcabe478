"""How many instructions a job that does nothing costs: to submit it, and to run it for its result.

They are nearly the same on a busy machine as on an idle one, so that a regression of the hot path
is seen where nobody can measure time. The only module that runs valgrind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flask import Flask, g

from flask_executor_typed import Executor

JOBS = 300
MARGIN = 1.25
"""How many times what is recorded is no regression yet: builds of Python and Flask differ too."""

BUDGETS = Path(__file__).with_name("instructions.json")
"""Instructions for one job, by version of Python, kind of job and stage."""

STAGES = ("submit", "result")
KINDS = ("plain", "coroutine")

Figures = dict[str, dict[str, int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="make what is measured the budget")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        kind, stage, jobs = options.inside
        run_until(kind, stage, int(jobs))
    if shutil.which("valgrind") is None:
        print("skipped: there is no valgrind here (apt install valgrind)")
        return
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    budgets: dict[str, Figures] = json.loads(BUDGETS.read_text(encoding="utf-8"))
    measured = measure()
    is_regression = show(measured, budgets.get(python))
    if options.record:
        budgets[python] = measured
        BUDGETS.write_text(json.dumps(budgets, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    elif python not in budgets:
        print(f"no budget is recorded for Python {python}; --record does that")
    elif is_regression:
        sys.exit(f"more than {MARGIN:g} times what is recorded in {BUDGETS.name}")


def show(measured: Figures, budget: Figures | None) -> bool:
    """Print a table; whether anything is over its budget."""
    is_over = False
    print(f"{'instructions for one job':<26}{'measured':>10}{'recorded':>10}{'ratio':>8}")
    for kind, figures in measured.items():
        for stage, figure in figures.items():
            row = f"{kind + ', ' + stage:<26}{figure:>10,}"
            if budget is not None:
                recorded = budget[kind][stage]
                is_over |= figure > recorded * MARGIN
                row += f"{recorded:>10,}{figure / recorded:>8.2f}"
            print(row)
    return is_over


def measure() -> Figures:
    """What is counted up to a stage, less what is counted up to the one before, for each job."""
    tasks = [
        (kind, stage, jobs)
        for kind in KINDS
        for stage, jobs in [(STAGES[0], 0), *((stage, JOBS) for stage in STAGES)]
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = list(pool.map(count, tasks))
    figures: Figures = {}
    for number, kind in enumerate(KINDS):
        so_far = counts[3 * number : 3 * number + 3]
        steps = zip(STAGES, so_far, so_far[1:], strict=False)
        figures[kind] = {stage: (upto - before) // JOBS for stage, before, upto in steps}
    return figures


def count(task: tuple[str, str, int]) -> int:
    """The instructions of a whole process that runs jobs up to a stage."""
    command: Sequence[object] = (
        *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"),
        *(sys.executable, __file__, "--inside", *task),
    )
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stdout)
    assert found is not None, done.stdout
    return int(found[1])


# -- in a process whose instructions are counted ---------------------------------------------------


def run_until(kind: str, stage: str, jobs: int) -> None:
    """Submit jobs, and end this process at once when all have come to ``stage``."""
    app = Flask("instructions")
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    app.config["EXECUTOR_LOOP_FACTORY"] = "asyncio:new_event_loop"
    app.add_url_rule("/items/<int:item>", "item")
    executor = Executor(app)
    fn: Any = noop if kind == "plain" else anoop
    with app.test_request_context("/items/7?q=benchmark"):
        g.user, g.locale, g.roles = "ada", "en", ["admin"]
        executor.submit(fn).result()
        # The worker, or the loop, is busy until all jobs are submitted.
        began, go_on = threading.Event(), threading.Event()
        executor.submit(hold if kind == "plain" else ahold, began, go_on)
        began.wait()
        futures = [executor.submit(fn) for _ in range(jobs)]
        if stage == "result":
            go_on.set()
            for future in reversed(futures):  # this waits once, for the last
                future.result()
    os._exit(0)


def noop() -> None: ...


async def anoop() -> None: ...


def hold(began: threading.Event, go_on: threading.Event) -> None:
    began.set()
    go_on.wait()


async def ahold(began: threading.Event, go_on: threading.Event) -> None:
    hold(began, go_on)


if __name__ == "__main__":
    main()
