"""How many instructions a job that does nothing costs: to submit it, and to run it for its result.

They are nearly the same on a busy machine as on an idle one, so that a regression of the hot path
is seen where nobody can measure time. Those of the processor are counted by valgrind; this is the
only module that runs it. Those of the interpreter are counted by Python 3.12 and later itself.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flask import Flask, g

from flask_executor_typed import Executor
from flask_executor_typed.futures import FutureProxy

JOBS = 300
MARGIN = 1.25
"""How many times what is recorded is no regression yet: builds of Python and Flask differ too."""

NOTHING_COMPARED = 77
"""The exit code that says so."""

BUDGETS = Path(__file__).with_name("instructions.json")
"""Instructions for one job, by version of Python, who executes them, kind of job and stage."""

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
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    budgets: dict[str, dict[str, Figures]] = json.loads(BUDGETS.read_text(encoding="utf-8"))
    recorded = budgets.setdefault(python, {})
    over: list[str] = []
    compared = 0
    for executes, measure in counters():
        measured = measure()
        if show(executes, measured, recorded.get(executes)):
            over.append(executes)
        if options.record:
            recorded[executes] = measured
        elif executes in recorded:
            compared += 1
        else:
            print(f"nothing is recorded for Python {python}; --record does that")
    if options.record:
        BUDGETS.write_text(json.dumps(budgets, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    elif over:
        sys.exit(f"more than {MARGIN:g} times what is recorded in {BUDGETS.name}: {over}")
    elif not compared:
        print("nothing was compared")
        sys.exit(NOTHING_COMPARED)


def counters() -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Who executes instructions, and how they are counted for one job."""
    if sys.version_info >= (3, 12):
        yield "interpreter", lambda: {kind: bytecodes(kind) for kind in KINDS}
    else:
        print("instructions of the interpreter: skipped, Python counts them since 3.12")
    if shutil.which("valgrind"):
        yield "processor", instructions
    else:
        print("instructions of the processor: skipped, no valgrind here (apt install valgrind)")


def show(executes: str, measured: Figures, budget: Figures | None) -> bool:
    """Print a table; whether anything is over its budget."""
    is_over = False
    print(f"{f'by the {executes}, for one job':<32}{'measured':>10}{'recorded':>10}{'ratio':>8}")
    for kind, figures in measured.items():
        for stage, figure in figures.items():
            row = f"{kind + ', ' + stage:<32}{figure:>10,}"
            if budget is not None:
                recorded = budget[kind][stage]
                is_over |= figure > recorded * MARGIN
                row += f"{recorded:>10,}{figure / recorded:>8.2f}"
            print(row)
    return is_over


# -- of the processor ------------------------------------------------------------------------------


def instructions() -> Figures:
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
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stdout)
    assert found is not None, done.stdout
    return int(found[1])


def run_until(kind: str, stage: str, jobs: int) -> None:
    """In a process whose instructions are counted: end when all jobs have come to ``stage``."""
    gc.disable()  # what is imported decides whether it runs meanwhile: a tenth more, or not
    with busy_executor(kind) as (submit, go_on):
        futures = [submit() for _ in range(jobs)]
        if stage == "result":
            finish(futures, go_on)
        os._exit(0)


# -- of the interpreter ----------------------------------------------------------------------------


def bytecodes(kind: str) -> dict[str, int]:
    with busy_executor(kind) as (submit, go_on):
        with counting() as submitted:
            futures = [submit() for _ in range(JOBS)]
        with counting() as ran:
            finish(futures, go_on)
    return {"submit": sum(submitted) // JOBS, "result": sum(ran) // JOBS}


if sys.version_info >= (3, 12):

    @contextlib.contextmanager
    def counting() -> Generator[list[int], None, None]:
        """Count what all threads execute. The list has the number when the block is over."""
        monitoring, counted = sys.monitoring, list[int]()
        tool, executed, events = monitoring.PROFILER_ID, itertools.count(), monitoring.events
        monitoring.use_tool_id(tool, "instructions")
        monitoring.register_callback(tool, events.INSTRUCTION, lambda *_: next(executed))
        monitoring.set_events(tool, events.INSTRUCTION)
        try:
            yield counted
        finally:
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)
            counted.append(next(executed))

else:

    def counting() -> contextlib.AbstractContextManager[list[int]]:
        raise NotImplementedError


# -- what is counted -------------------------------------------------------------------------------


@contextlib.contextmanager
def busy_executor(
    kind: str,
) -> Generator[tuple[Callable[[], FutureProxy[None]], threading.Event], None, None]:
    """An executor that runs nothing until an event is set; and what submits a job."""
    app = Flask("instructions")
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    app.config["EXECUTOR_LOOP_FACTORY"] = "asyncio:new_event_loop"
    app.add_url_rule("/items/<int:item>", "item")
    fn: Any = noop if kind == "plain" else anoop
    with Executor(app) as executor, app.test_request_context("/items/7?q=benchmark"):
        g.user, g.locale, g.roles = "ada", "en", ["admin"]
        executor.submit(fn).result()
        began, go_on = threading.Event(), threading.Event()
        executor.submit(hold if kind == "plain" else ahold, began, go_on)
        began.wait()
        yield lambda: executor.submit(fn), go_on


def finish(futures: list[FutureProxy[None]], go_on: threading.Event) -> None:
    go_on.set()
    for future in reversed(futures):  # this waits once, for the last
        future.result()


def noop() -> None: ...


async def anoop() -> None: ...


def hold(began: threading.Event, go_on: threading.Event) -> None:
    began.set()
    go_on.wait()


async def ahold(began: threading.Event, go_on: threading.Event) -> None:
    hold(began, go_on)


if __name__ == "__main__":
    main()
