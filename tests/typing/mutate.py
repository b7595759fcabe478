"""Make the signatures wrong, one by one, and see that the case files notice.

``python tests/typing/mutate.py [--every-checker] [NAME ...]`` prints a table of the mutations, with
how many cases each checker judges differently, and exits with 1 if one survives. A checker is asked
only while none before it has noticed, unless ``--every-checker`` is given.

Before the mutations of the package, the assertions themselves are made false: a checker that has
not looked at one, because it takes the code for unreachable, say, would accept it all the same.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.typing import check

TARGET = "3.12"


@dataclass(frozen=True)
class Mutation:
    """A replacement in a file of the package, wherever ``pattern`` matches (``within`` a part)."""

    name: str
    file: str
    pattern: str
    replacement: str
    within: str = r"(?s).*"

    def apply(self, source: str) -> str:
        """Raises ValueError if it changes nothing: the signatures are other ones by now."""
        part = re.search(self.within, source)
        if part is None:
            raise ValueError(f"{self.name}: nothing in {self.file} is like {self.within}")
        mutated = re.sub(self.pattern, self.replacement, part[0])
        if mutated == part[0]:
            raise ValueError(f"{self.name}: nothing in {self.file} is like {self.pattern}")
        return source[: part.start()] + mutated + source[part.end() :]


def _method(name: str) -> str:
    """From the first overload of a method up to its body."""
    return rf'(?s)(?:    @overload\n)?    def {name}\(.*?\n        """'


def _overload(name: str, part: str) -> str:
    """An overload of a method with ``part`` in its signature."""
    within = r"(?:(?!: \.\.\.\n)(?:.|\n))*"
    return rf"    @overload\n    def {name}\({within}{part}{within}: \.\.\.\n"


_AWAITABLE = r"Callable\[P, Awaitable\[R\]\]"
_CLASS_OF_KEY = r"(?s)@final\nclass FutureKey.*?\n\n\n"
_CLASS_OF_FUTURE = r"(?s)class FutureProxy\(.*?\n\n\n"
_CLASS_OF_COLLECTION = r"(?s)class FutureCollection.*?\n\n\n"

MUTATIONS = (
    # -- while a job runs
    Mutation(
        "track: gives Any",
        "current_job.py",
        r"rows: Iterable\[A\], total: float \| None = None, message: str = \"\"\) -> Iterator\[A\]",
        'rows: Iterable[A], total: float | None = None, message: str = "") -> Iterator[Any]',
    ),
    Mutation(
        "track: no overload for what is asynchronous",
        "current_job.py",
        r"@overload\ndef track\(\n    rows: AsyncIterable\[A\],(?:.|\n)+?: \.\.\.\n",
        "@overload\ndef track(rows: int) -> int: ...\n",
    ),
    Mutation(
        "progress: is Any",
        "futures/proxy.py",
        r"def progress\(self\) -> Progress \| None:",
        "def progress(self) -> Any:",
    ),
    Mutation(
        "watch: gives Any",
        "futures/proxy.py",
        r"def watch\(self\) -> AsyncIterator\[Progress\]:",
        "def watch(self) -> AsyncIterator[Any]:",
    ),
    Mutation(
        "as_completed: takes anything",
        "executor.py",
        r'F = TypeVar\("F", bound=SubmittedFuture\)',
        'F = TypeVar("F")',
    ),
    Mutation(
        "as_completed: gives Any for a future that is submitted within the call",
        "executor.py",
        r'F = TypeVar\("F", bound=SubmittedFuture\)',
        'F = TypeVar("F", bound=FutureProxy[Any])',
    ),
    Mutation(
        "using: timeout takes anything",
        "executor.py",
        r"timeout: float \| None = None,\n        retries",
        "timeout: Any = None,\n        retries",
    ),
    Mutation(
        "using: backoff takes anything",
        "executor.py",
        r"backoff: Backoff \| None = None",
        "backoff: Any = None",
    ),
    Mutation(
        "using: queue takes anything",
        "executor.py",
        r"queue: str \| None = None",
        "queue: Any = None",
    ),
    Mutation(
        "current_job.executor: is Any",
        "current_job.py",
        r"def executor\(self\) -> Executor\[Any\]:",
        "def executor(self) -> Any:",
    ),
    # -- Executor.submit
    Mutation(
        "submit: no overload for what is awaitable",
        "executor.py",
        _overload("submit", _AWAITABLE),
        "",
    ),
    Mutation(
        "submit: the overload for what is awaitable comes last",
        "executor.py",
        f"({_overload('submit', _AWAITABLE)})" + r"((?:    @overload\n(?:.|\n)+?: \.\.\.\n)+)",
        r"\2\1",
        _method("submit"),
    ),
    Mutation(
        "submit: no overload for plain data",
        "executor.py",
        _overload("submit", r"Callable\[P, D\]"),
        "",
    ),
    Mutation(
        "submit: no overload for what may be awaitable",
        "executor.py",
        _overload("submit", r"Callable\[P, R \| Awaitable\[R\]\]"),
        "",
    ),
    Mutation(
        "submit: returns FutureProxy[Any]",
        "executor.py",
        r"FutureProxy\[[RD]\]",
        "FutureProxy[Any]",
        _method("submit"),
    ),
    Mutation(
        "submit: returns Any",
        "executor.py",
        r"FutureProxy\[[RD]\]",
        "Any",
        _method("submit"),
    ),
    Mutation(
        "submit: loses the parameters",
        "executor.py",
        r"P\.k?w?args",
        "Any",
        _method("submit"),
    ),
    Mutation(
        "submit: fn is no longer positional-only",
        "executor.py",
        r" /,",
        "",
        _method("submit"),
    ),
    # -- Executor.after_response and after_commit
    Mutation(
        "after_response: forgets what it was called on",
        "executor.py",
        r"-> Self",
        "-> Executor[Any]",
        _method("after_response"),
    ),
    Mutation(
        "after_commit: forgets what it was called on",
        "executor.py",
        r"-> Self",
        "-> Executor[Any]",
        _method("after_commit"),
    ),
    Mutation(
        "after_commit: anything is a session",
        "executor.py",
        r"session: SessionLike",
        "session: object",
        _method("after_commit"),
    ),
    # -- Executor.as_completed
    Mutation(
        "as_completed: gives futures of anything",
        "executor.py",
        r"-> AsyncIterator\[F\]",
        "-> AsyncIterator[FutureProxy[Any]]",
        _method("as_completed"),
    ),
    # -- Executor.submit_stored
    Mutation(
        "submit_stored: no overload for typed keys",
        "executor.py",
        _overload("submit_stored", r"FutureKey\[R\]"),
        "",
    ),
    Mutation(
        "submit_stored: a typed key's type is not compared",
        "executor.py",
        r"FutureKey\[R\]",
        "FutureKey[Any]",
        _method("submit_stored"),
    ),
    Mutation(
        "submit_stored: anything is a key",
        "executor.py",
        r"future_key: Hashable",
        "future_key: object",
        _method("submit_stored"),
    ),
    Mutation(
        "submit_stored: no overloads for Executor[object]",
        "executor.py",
        _overload("submit_stored", r"self: Executor\[object\]"),
        "",
    ),
    Mutation(
        "submit_stored: stores any result",
        "executor.py",
        r"(Callable\[P, |\| |)Awaitable\[T\]",
        r"\1Awaitable[Any]",
        _method("submit_stored"),
    ),
    Mutation(
        "submit_stored: future_key has another name",
        "executor.py",
        r"future_key:",
        "key:",
        _method("submit_stored"),
    ),
    # -- the rest of Executor
    Mutation(
        "Executor: T is covariant",
        "executor.py",
        r'TypeVarWithDefault\("T", default',
        'TypeVarWithDefault("T", covariant=True, default',
    ),
    Mutation(
        "Executor: T is object by default",
        "executor.py",
        r"default=Any\)",
        "default=object)",
    ),
    Mutation(
        "Executor: is none of concurrent.futures",
        "executor.py",
        r"class Executor\(concurrent\.futures\.Executor, ",
        "class Executor(",
    ),
    Mutation(
        "Executor: futures keep anything",
        "executor.py",
        r"futures: FutureCollection\[T\]",
        "futures: FutureCollection[Any]",
    ),
    Mutation(
        "using: forgets what it was called on",
        "executor.py",
        r"-> Self",
        "-> Executor[Any]",
        _method("using"),
    ),
    Mutation(
        "using: on_duplicate is any text",
        "executor.py",
        r"on_duplicate: OnDuplicate",
        "on_duplicate: str",
        _method("using"),
    ),
    Mutation(
        "add_default_done_callback: takes any callback",
        "executor.py",
        r"Callable\[\[FutureProxy\[Any\]\], object\]",
        "Callable[..., object]",
        _method("add_default_done_callback"),
    ),
    Mutation(
        "shutdown: cancel_futures is positional",
        "executor.py",
        r" \*,\s+cancel_futures",
        " cancel_futures",
    ),
    Mutation(
        "__init__: carry_g is anything",
        "executor.py",
        r"carry_g: CarryG",
        "carry_g: Any",
    ),
    # -- map
    Mutation(
        "map: the last overloads take every function",
        "executor.py",
        r"Concatenate\[(?:Any, ){6}\.\.\.\]",
        "...",
        _method("map"),
    ),
    Mutation(
        "map: no overload for two iterables and what is awaitable",
        "executor.py",
        _overload("map", r"Callable\[\[A1, A2\], Awaitable\[R\]\]"),
        "",
    ),
    Mutation(
        "map: the second iterable is not compared",
        "executor.py",
        r"i2: Iterable\[A2\]",
        "i2: Iterable[Any]",
        _method("map"),
    ),
    Mutation(
        "map: returns an iterator",
        "executor.py",
        r"Results\[R\]",
        "AsyncIterator[R]",
        _method("map"),
    ),
    Mutation(
        "map: timeout takes anything",
        "map.py",
        r"timeout: float \| None\n",
        "timeout: Any\n",
    ),
    Mutation(
        "map: chunksize takes anything",
        "map.py",
        r"chunksize: int\n",
        "chunksize: Any\n",
    ),
    Mutation(
        "map: buffersize takes anything",
        "map.py",
        r"buffersize: int \| None\n",
        "buffersize: Any\n",
    ),
    Mutation(
        "map: options are not declared",
        "executor.py",
        r"Unpack\[MapOptions\]",
        "Any",
        _method("map"),
    ),
    # -- Results
    Mutation(
        "Results: is no iterator",
        "map.py",
        r"class Results\(Iterator\[R_co\], ",
        "class Results(",
    ),
    Mutation(
        "Results: is no async iterator",
        "map.py",
        r", AsyncIterator\[R_co\]\):",
        "):",
    ),
    Mutation(
        "Results: is invariant",
        "map.py",
        r'TypeVar\("R_co", covariant=True\)',
        'TypeVar("R_co")',
    ),
    Mutation(
        "Results: next() gives Any",
        "map.py",
        r"def __next__\(self\) -> R_co",
        "def __next__(self) -> Any",
    ),
    Mutation(
        "Results: anext() gives Any",
        "map.py",
        r"async def __anext__\(self\) -> R_co",
        "async def __anext__(self) -> Any",
    ),
    Mutation(
        "Results: cannot be closed",
        "map.py",
        r"    def close\(",
        "    def end(",
    ),
    Mutation(
        "Results: cannot be closed in a coroutine",
        "map.py",
        r"    async def aclose\(",
        "    async def aend(",
    ),
    # -- ExecutorJob
    Mutation(
        "job: loses the parameters",
        "executor.py",
        r"-> ExecutorJob\[P, R, T\]: \.\.\.",
        "-> ExecutorJob[..., R, T]: ...",
    ),
    Mutation(
        "job: loses the type of the store",
        "executor.py",
        r"-> ExecutorJob\[P, R, T\]: \.\.\.",
        "-> ExecutorJob[P, R, Any]: ...",
    ),
    Mutation(
        "job(name=...): gives a job of anything",
        "jobs.py",
        r"\) -> ExecutorJob\[P, R, T_contra\]: \.\.\.",
        ") -> ExecutorJob[..., Any, Any]: ...",
        r"(?s)class JobDecorator.*",
    ),
    Mutation(
        "a job: the plain call returns Any",
        "jobs.py",
        r"(def __call__\(self, .*) -> R_co:",
        r"\1 -> Any:",
    ),
    Mutation(
        "a job: is invariant",
        "jobs.py",
        r'TypeVar\("R_co", covariant=True\)',
        'TypeVar("R_co")',
    ),
    Mutation(
        "a job's submit: no overload for what is awaitable",
        "jobs.py",
        _overload("submit", r"Awaitable\[V\]") + "|" + _overload("submit", r"_Async\[P2, V\]"),
        "",
    ),
    Mutation(
        "a job's submit: loses the keyword arguments",
        "jobs.py",
        r"\*\*kwargs: P\d?\.kwargs",
        "**kwargs: Any",
        r"(?s)class ExecutorJob\(.*",
    ),
    Mutation(
        "a job's after_response: forgets the job",
        "jobs.py",
        r"(def after_response\(self\)) -> Self",
        r"\1 -> ExecutorJob[..., Any, Any]",
    ),
    Mutation(
        "a job's after_commit: forgets the job",
        "jobs.py",
        r"(def after_commit\(self, session: SessionLike\)) -> Self",
        r"\1 -> ExecutorJob[..., Any, Any]",
    ),
    Mutation(
        "a job's after_commit: anything is a session",
        "jobs.py",
        r"session: SessionLike",
        "session: object",
        r"(?s)class ExecutorJob\(.*",
    ),
    Mutation(
        "a job's submit_stored: a typed key's type is not compared",
        "jobs.py",
        r"future_key: FutureKey\[V\]",
        "future_key: FutureKey[Any]",
    ),
    Mutation(
        "a job's submit_stored: the type of the store is not compared",
        "jobs.py",
        r"(self: ExecutorJob\[P, .*), V\]",
        r"\1, Any]",
    ),
    Mutation(
        "a job's using: forgets the job",
        "jobs.py",
        r"-> Self",
        "-> ExecutorJob[..., Any, Any]",
        r'(?s)class ExecutorJob\(.*?    def using\(.*?\n        """',
    ),
    Mutation(
        "a job in a class: is not bound",
        "jobs.py",
        _overload("__get__", r"Concatenate\[S, P2\]"),
        "",
    ),
    Mutation(
        "a job in a class: no overload for staticmethod",
        "jobs.py",
        _overload("__get__", r"instance: object"),
        "",
    ),
    Mutation(
        "a job's map: no overloads for what is awaitable",
        "jobs.py",
        _overload("map", r"self: _Async\d"),
        "",
    ),
    Mutation(
        "a job's map: items are not compared",
        "jobs.py",
        r"i1: Iterable\[A1\]",
        "i1: Iterable[Any]",
        r"(?s)    def map\(.*",
    ),
    # -- FutureProxy
    Mutation(
        "a future: cannot be awaited",
        "futures/proxy.py",
        r"def __await__",
        "def _await",
    ),
    Mutation(
        "a future: awaiting gives Any",
        "futures/proxy.py",
        r"Generator\[Any, None, R\]",
        "Generator[Any, None, Any]",
    ),
    Mutation(
        "a future: result() may be None",
        "futures/proxy.py",
        r"(def result\(self, timeout: float \| None = None\)) -> R:",
        r"\1 -> R | None:",
        _CLASS_OF_FUTURE,
    ),
    Mutation(
        "a future: callbacks take anything",
        "futures/proxy.py",
        r"(def add_done_callback\(self, fn: )Callable\[\[FutureProxy\[R\]\], object\]",
        r"\1Callable[[Any], object]",
        _CLASS_OF_FUTURE,
    ),
    Mutation(
        "a future: callbacks get the standard library's future",
        "futures/proxy.py",
        r"(def add_done_callback\(self, fn: )Callable\[\[FutureProxy\[R\]\], object\]",
        r"\1Callable[[Future[R]], object]",
        _CLASS_OF_FUTURE,
    ),
    Mutation(
        "a future: the status is any text",
        "futures/proxy.py",
        r"def status\(self\) -> Status",
        "def status(self) -> str",
        _CLASS_OF_FUTURE,
    ),
    # -- FutureCollection
    Mutation(
        "futures.result: is never None",
        "futures/collection.py",
        r"-> ([RT]) \| None: \.\.\.",
        r"-> \1: ...",
        _CLASS_OF_COLLECTION,
    ),
    Mutation(
        "futures.pop and get: return the standard library's future",
        "futures/collection.py",
        r"-> FutureProxy\[([RT])\] \| None: \.\.\.",
        r"-> Future[\1] | None: ...",
        _CLASS_OF_COLLECTION,
    ),
    Mutation(
        "futures.add: takes a future of anything",
        "futures/collection.py",
        r"future: ReadableFuture\[[RT]\]",
        "future: ReadableFuture[Any]",
        _CLASS_OF_COLLECTION,
    ),
    Mutation(
        "futures.add: takes only futures of exactly the type",
        "futures/collection.py",
        r"future: ReadableFuture\[([RT])\]",
        r"future: Future[\1]",
        _CLASS_OF_COLLECTION,
    ),
    Mutation(
        "futures.done: takes no typed keys",
        "futures/collection.py",
        r"def done\(self, future_key: FutureKey\[Any\] \| Hashable",
        "def done(self, future_key: Hashable",
    ),
    Mutation(
        "futures.add_done_callback: the key's type is not compared",
        "futures/collection.py",
        r"future_key: FutureKey\[R\], fn: Callable\[\[FutureProxy\[R\]\], object\]",
        "future_key: FutureKey[R], fn: Callable[[Any], object]",
    ),
    # -- FutureKey
    Mutation(
        "FutureKey: is hashable",
        "futures/keys.py",
        r"    __hash__: ClassVar\[None\].*\n",
        "    def __hash__(self) -> int: ...\n",
        _CLASS_OF_KEY,
    ),
    Mutation("FutureKey: is not final", "futures/keys.py", r"@final\n", "", _CLASS_OF_KEY),
    Mutation("FutureKey: is covariant", "futures/keys.py", r"\[R\]", "[R_co]", _CLASS_OF_KEY),
    Mutation(
        "FutureKey: key[item] is of no type",
        "futures/keys.py",
        r"-> Self",
        "-> FutureKey[Any]",
        _CLASS_OF_KEY,
    ),
    Mutation(
        "FutureKey: anything is an item",
        "futures/keys.py",
        r"item: Hashable",
        "item: object",
        _CLASS_OF_KEY,
    ),
)


def judged_differently(workplace: check.Workplace, checker: str, baseline: set[str]) -> set[str]:
    (report,) = check.check(workplace, [checker], [TARGET])
    return set(report.surprises) ^ baseline


@contextmanager
def edited(path: Path, text: str) -> Generator[None, None, None]:
    """Replace a file's content until the block ends."""
    original = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(original, encoding="utf-8")


def assertions_that_may_be_false(workplace: check.Workplace, checker: str) -> list[str]:
    """The assertions that ``checker`` accepts even when they name a type that nothing here has."""
    accepted: list[str] = []
    originals = {file: file.read_text(encoding="utf-8") for file in workplace.files}
    try:
        for file, source in originals.items():
            file.write_text(_with_false_assertions(source), encoding="utf-8")
        refused = {(one.file, one.line) for one in workplace.run(checker, TARGET)}
        for file in workplace.files:
            accepted += [
                f"{file.name}:{case.lines.start}: {checker} accepts it false"
                for case in check.read_cases(file)
                if case.assertions and not any((file.name, n) in refused for n in case.lines)
            ]
    finally:
        for file, source in originals.items():
            file.write_text(source, encoding="utf-8")
    return accepted


def _with_false_assertions(source: str) -> str:
    """``assert_type(value, memoryview)`` for each assertion, on the same lines."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    text = source.encode()
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    types = [
        call.args[1]
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "assert_type"
    ]
    for node in sorted(types, key=lambda node: node.lineno, reverse=True):
        end_line = node.end_lineno or node.lineno
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[end_line - 1] + (node.end_col_offset or 0)
        text = text[:start] + b"memoryview" + b"\n" * (end_line - node.lineno) + text[end:]
    return text.decode()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="words in the names of mutations; all by default")
    parser.add_argument("--checker", nargs="+", choices=check.CHECKERS, default=["mypy", "pyright"])
    parser.add_argument("--every-checker", action="store_true", help="ask all, for each mutation")
    return parser.parse_args()


def main() -> int:
    options = _arguments()
    checkers: Sequence[str] = options.checker
    names: Sequence[str] = options.names
    chosen = [one for one in MUTATIONS if not names or any(name in one.name for name in names)]
    width = max(len(mutation.name) for mutation in MUTATIONS)
    survivors: list[str] = []
    with check.workplace() as place:
        for checker in checkers:
            survivors += assertions_that_may_be_false(place, checker)
        print(*(survivors or ["Every assertion is refused when it is made false."]), sep="\n")
        baseline = {r.checker: set(r.surprises) for r in check.check(place, checkers, [TARGET])}
        print(f"{'cases judged differently':<{width}}" + "".join(f"{c:>10}" for c in checkers))
        for mutation in chosen:
            path = place.folder / check.PACKAGE / mutation.file
            counts: list[int | None] = []
            with edited(path, mutation.apply(path.read_text(encoding="utf-8"))):
                for checker in checkers:
                    asked = options.every_checker or not any(counts)
                    counts.append(
                        len(judged_differently(place, checker, baseline[checker]))
                        if asked
                        else None
                    )
            cells = "".join(f"{'' if count is None else count:>10}" for count in counts)
            print(f"{mutation.name:<{width}}{cells}", flush=True)
            if not any(counts):
                survivors.append(f"{mutation.name}: nothing noticed")
    print(*survivors, sep="\n")
    print(f"{len(chosen) + len(checkers) - len(survivors)} passed, {len(survivors)} failed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
