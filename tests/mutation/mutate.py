"""Break the package, line by line, and see that the tests notice.

``python tests/mutation/mutate.py [--module NAME ...] [--sample N] [--seed S] [--jobs J]`` makes
copies of the tree in which one thing is wrong each, runs the tests that fit the broken module, and
prints the score and every mutant that survives, as a diff. ``--list`` runs nothing. With
``--least PERCENT`` it exits with 1 if the score is lower. README.md beside this file says how to
read survivors, and which ones are known.

Not mutmut, which calls each function through another one: code that counts frames, or looks whether
something is a coroutine function, is another code then. Not cosmic-ray, which takes no sample and
knows one list of tests for all modules.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "flask_executor_typed"

TESTS = {
    "futures/as_completed": "as_completed",
    "futures/callbacks": "futures calls",
    "futures/base": (
        "futures calls forking deadlocks threads later signals log_tails stores_client "
        "attack/futures"
    ),
    "futures/collection": "future_collection forking",
    "futures/chaining": "futures calls deadlocks",
    "runtime/loop_inbox": "futures as_completed threads",
    "runtime/running_loop": "context_teardown backends sync",
    "futures/keys": "future_collection",
    "futures/proxy": "futures current_job as_completed calls deadlocks threads",
    "futures/stdlib": "futures forking",
    "futures/waiters": "futures deadlocks threads",
    "futures/watching": "current_job futures",
    "calls/call": "calls current_job futures deadlocks context context_teardown",
    "calls/limits": "calls",
    "calls/capacity": "capacity",
    "calls/held": "later",
    "loops/factory": "loops forking",
    **{
        f"loops/{name}": "loops views resources deadlocks threads"
        for name in (*("asgiref_bridge", "current", "pool", "tasks", "thread", "thread_sensitive"),)
    },
    **{f"async_views/{name}": "views loops threads" for name in ("hook", "loop", "waiting_thread")},
    "callables": "loops calls",
    "after_response": "later",
    "after_commit": "later",
    "loops/resources": "resources",
    "loops/watchdog": "watchdog",
    "backends/thread": "backends deadlocks threads",
    "backends/process": "process workers attack/worker_processes",
    "backends/process_call": "workers process attack/worker_processes",
    "backends/worker_process": "workers process attack/worker_processes",
    "backends/starting": "workers process attack/worker_processes",
    "backends/wire": "workers process attack/worker_processes",
    "backends/worker": "process workers",
    "backends/pickling": "process workers",
}
"""For each module the files of its tests, ``test_NAME.py``; those that find the most come first."""


@dataclass(frozen=True)
class Mutant:
    module: str
    line: int
    what: str
    source: str

    @property
    def path(self) -> str:
        return f"{PACKAGE}/{self.module}.py"

    def diff(self) -> str:
        before = (ROOT / self.path).read_text().splitlines()
        lines = difflib.unified_diff(before, self.source.splitlines(), n=1, lineterm="")
        return "\n".join(list(lines)[3:])


# -- what can be wrong -----------------------------------------------------------------------------

_COMPARED: dict[type[ast.cmpop], ast.cmpop] = {
    ast.Lt: ast.LtE(), ast.LtE: ast.Lt(), ast.Gt: ast.GtE(), ast.GtE: ast.Gt(),
    ast.Eq: ast.NotEq(), ast.NotEq: ast.Eq(), ast.Is: ast.IsNot(), ast.IsNot: ast.Is(),
    ast.In: ast.NotIn(), ast.NotIn: ast.In(),
}  # fmt: skip

_LEFT_OUT = (ast.Import, ast.ImportFrom, ast.AnnAssign, ast.JoinedStr)


def mutants_of(module: str) -> list[Mutant]:
    source = (ROOT / PACKAGE / f"{module}.py").read_text()
    found: dict[str, Mutant] = {}
    for node in _code_of(ast.parse(source)):
        for what, part, new in _changes(node):
            start, end = _span(source, part)
            mutated = source[:start] + new + source[end:]
            with suppress(SyntaxError):
                compile(mutated, module, "exec")
                found.setdefault(mutated, Mutant(module, part.lineno, what, mutated))
    return list(found.values())


def _span(source: str, node: ast.expr | ast.stmt) -> tuple[int, int]:
    lines = source.splitlines(keepends=True)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    # All of the package is ASCII, where columns in bytes are columns in characters.
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    return start, sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset


def _code_of(node: ast.AST, in_function: bool = False) -> Iterator[ast.AST]:
    """What runs in functions: no annotations, docstrings, overloads or tuning constants."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        in_function = True
    descriptions = [getattr(node, name, None) for name in ("annotation", "returns")]
    descriptions += getattr(node, "decorator_list", [])
    for child in ast.iter_child_nodes(node):
        if child not in descriptions and not _only_describes(child, in_function):
            if in_function:
                yield child
            yield from _code_of(child, in_function)


def _only_describes(node: ast.AST, in_function: bool) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        return node.name == "__repr__" or "overload" in decorators
    if isinstance(node, ast.If) and not in_function:
        return any(word in ast.unparse(node.test) for word in ("TYPE_CHECKING", "version_info"))
    return isinstance(node, _LEFT_OUT)


Change = tuple[str, ast.expr | ast.stmt, str]
"""What is wrong, where, and the code that is there then."""


def _changes(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.If() | ast.While() | ast.IfExp():
            yield "condition negated", node.test, f"(not ({ast.unparse(node.test)}))"
        case ast.comprehension():
            for condition in node.ifs:
                yield "condition negated", condition, f"(not ({ast.unparse(condition)}))"
        case ast.With() | ast.AsyncWith():
            for item in node.items:
                if item.optional_vars is None:
                    yield "with dropped", item.context_expr, _NO_CONTEXT
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield "statement dropped", node, "pass"
        case ast.Expr() | ast.AugAssign() | ast.Delete() | ast.Raise() | ast.Break():
            yield "statement dropped", node, "pass"
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield "returns None", value, "None"
        case ast.expr():
            for what, code in _changes_of_expression(node):
                yield what, node, code
        case _:
            pass


def _changes_of_expression(node: ast.expr) -> Iterator[tuple[str, str]]:
    match node:
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "and / or", f"({ast.unparse(ast.BoolOp(other, node.values))})"
            for dropped in node.values:
                rest = [value for value in node.values if value is not dropped]
                kept = ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0]
                yield "operand dropped", f"({ast.unparse(kept)})"
        case ast.Compare():
            for number, op in enumerate(node.ops):
                ops = [*node.ops[:number], _COMPARED[type(op)], *node.ops[number + 1 :]]
                changed = ast.Compare(node.left, ops, node.comparators)
                yield "comparison", f"({ast.unparse(changed)})"
        case ast.UnaryOp(op=ast.Not()):
            yield "not removed", f"({ast.unparse(node.operand)})"
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            operator = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            yield "+ / -", f"({ast.unparse(ast.BinOp(node.left, operator, node.right))})"
        case ast.Constant(value=bool(value)):
            yield "True / False", repr(not value)
        case ast.Constant(value=int(value)):
            yield "number", repr(value + 1)
        case _:
            pass


_NO_CONTEXT = '__import__("contextlib").nullcontext()'

# -- who notices -----------------------------------------------------------------------------------


class Tree:
    """A copy of what the tests need, in which one thing at a time is wrong."""

    def __init__(self, folder: Path, python: str) -> None:
        self._folder = folder
        self._python = python
        for part in (PACKAGE, "tests", "examples", "docs", "benchmarks", "stubs"):
            ignored = shutil.ignore_patterns("__pycache__", "_build")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        for file in ("pyproject.toml", "README.md", "CHANGELOG.md", "dev.py"):
            shutil.copy(ROOT / file, folder / file)

    def passes(self, module: str, limit: float) -> bool:
        """Whether all tests of a module pass, in ``limit`` seconds."""
        names = [Path("tests", name) for name in TESTS[module].split()]
        tests = [str(name.with_name(f"test_{name.name}.py")) for name in names]
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
        # A test that hangs ends the run, as one that fails does; pytest can do that since 9.0.
        options += ["-o", "faulthandler_timeout=60", "-o", "faulthandler_exit_on_timeout=true"]
        # Without .pyc files: a mutant may be as old and as long as the one before.
        process = subprocess.Popen(
            [self._python, "-m", "pytest", *options, *tests],
            cwd=self._folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(self._folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(limit) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            with suppress(ProcessLookupError):  # the usual case: nothing was left behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def survives(self, mutant: Mutant, limit: float) -> bool:
        file = self._folder / mutant.path
        sound = file.read_text()
        file.write_text(mutant.source)
        try:
            return self.passes(mutant.module, limit)
        finally:
            file.write_text(sound)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--module", action="append", choices=TESTS, help="default: all of them")
    parser.add_argument("--sample", type=int, help="of so many mutants, not of all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--line", type=int, action="append", help="only mutants of these lines")
    parser.add_argument("--jobs", type=int, default=2, help="test runs at a time")
    parser.add_argument(
        "--least", type=float, default=0.0, help="exit with 1 below this percentage"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants, and run nothing")
    options = parser.parse_args(arguments)

    modules: list[str] = options.module or list(TESTS)
    mutants = [mutant for module in modules for mutant in mutants_of(module)]
    if options.line:
        mutants = [mutant for mutant in mutants if mutant.line in options.line]
    total = len(mutants)
    if options.sample is not None and options.sample < total:
        mutants = random.Random(options.seed).sample(mutants, options.sample)
    print(f"{len(mutants)} of {total} mutants of {', '.join(modules)}", flush=True)
    if options.list:
        for mutant in mutants:
            print(_titled(mutant))
        return 0

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees: SimpleQueue[Tree] = SimpleQueue()
        for number in range(options.jobs):
            trees.put(Tree(Path(folder, str(number)), sys.executable))
        survivors: list[Mutant] = []

        def run(mutant: Mutant) -> None:
            with _one_of(trees) as tree:
                if tree.survives(mutant, limits[mutant.module]):
                    survivors.append(mutant)
                    print(_titled(mutant), flush=True)

        with ThreadPoolExecutor(options.jobs) as runners:
            used = sorted({mutant.module for mutant in mutants})
            limits = dict(zip(used, runners.map(partial(_limit, trees), used), strict=True))
            for _ in runners.map(run, mutants):
                pass
    killed = len(mutants) - len(survivors)
    score = 100 * killed / max(1, len(mutants))
    print(f"{killed} of {len(mutants)} mutants were noticed: {score:.1f} %")
    return int(score < options.least)


def _titled(mutant: Mutant) -> str:
    return f"\n{mutant.path}:{mutant.line}: {mutant.what}\n{mutant.diff()}"


def _limit(trees: SimpleQueue[Tree], module: str) -> float:
    """Seconds after which we do not wait for the tests of a module; sound, they must pass."""
    with _one_of(trees) as tree:
        start = time.monotonic()
        if not tree.passes(module, 600):
            sys.exit(f"the tests of {module} fail without any mutation")
        return 60 + 2 * (time.monotonic() - start)


@contextmanager
def _one_of(trees: SimpleQueue[Tree]) -> Generator[Tree]:
    tree = trees.get()
    try:
        yield tree
    finally:
        trees.put(tree)


if __name__ == "__main__":
    sys.exit(main())
