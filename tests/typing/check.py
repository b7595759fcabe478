"""Check the signatures of the package with four type checkers, for three versions of Python.

``python tests/typing/check.py [FILE ...] [--checker mypy ...] [--target 3.12 ...] [--available]``
prints a table, case file by checker, and exits with 1 if anything differs from what the files in
``cases/`` say. A case is a statement there:

* one with ``assert_type``, which every checker must accept;
* one marked ``# error: expected``, behind it or in the comment above, in which every checker must
  find an error.

Where a checker is known to differ, the comment above the case says so and why::

    # except ty: gives `FutureProxy[Unknown]`, since it does not solve overloads in a ParamSpec
    # except mypy, pyrefly on 3.10: ...

What stands in backquotes must then occur in that checker's message, and an exception that is no
longer needed is reported like any other surprise. An error outside of the cases is one, too.

``# row: TEXT`` says that what follows, up to an empty line, is what docs/typing.rst promises in the
row of that name; tests/test_docs.py compares.
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tokenize
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ("CHECKERS", "TARGETS", "Report", "Workplace", "check", "read_cases", "read_rows")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGE = "flask_executor_typed"

CHECKERS = ("mypy", "pyright", "ty", "pyrefly")
TARGETS = ("3.10", "3.12", "3.14")

# Pyright in strict mode complains about whatever follows from a wrong call, and sometimes only
# about that: the error itself was not found then.
_FOLLOWS_FROM_ERRORS = re.compile(r"reportUnknown\w+")


# -- cases -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exemption:
    """What checkers are known to do otherwise, and the words of theirs that show it."""

    checkers: tuple[str, ...]
    targets: tuple[str, ...]
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A statement: ``fails`` if every checker must find an error in it, else in none of it."""

    lines: range
    fails: bool
    assertions: int
    exemptions: tuple[Exemption, ...] = ()

    def exemption(self, checker: str, target: str) -> Exemption | None:
        for exemption in self.exemptions:
            if checker in exemption.checkers and target in exemption.targets:
                return exemption
        return None


_EXCEPT = re.compile(r"except ([\w, ]+?)(?: on ([\d., ]+))?: (.+)")
_SHOWN = re.compile("(?<!`)`([^`]+)`(?!`)")
_FAILS = "error: expected"


def read_cases(path: Path) -> list[Case]:
    """The cases of a file, in order.

    Raises:
        ValueError: a mark is misspelt, or belongs to no statement.
    """
    source = path.read_text(encoding="utf-8")
    comments = _comments(source)
    alone = {n for n, line in enumerate(source.splitlines(), 1) if line.lstrip().startswith("#")}
    marks = {line for line, text in comments.items() if text.startswith(("error:", "except "))}
    for line in marks:
        if comments[line].startswith("error:") and comments[line] != _FAILS:
            raise ValueError(f"{path.name}:{line}: expected {_FAILS!r}, got {comments[line]!r}")
    cases: list[Case] = []
    for statement in _statements(ast.parse(source)):
        lines = _header(statement)
        above = itertools.takewhile(alone.__contains__, itertools.count(lines.start - 1, -1))
        own = [*reversed(list(above)), *(line for line in lines if line in comments)]
        marks.difference_update(own)
        fails = any(comments[line] == _FAILS for line in own)
        assertions = 0 if isinstance(statement, _COMPOUND) else _assertions(statement)
        exemptions = tuple(_exemptions(comments[line] for line in own))
        if fails or assertions:
            cases.append(Case(lines, fails, assertions, exemptions))
        elif exemptions:
            raise ValueError(f"{path.name}:{lines.start}: an exception, but nothing to check")
        if fails and assertions:
            raise ValueError(f"{path.name}:{lines.start}: an assertion that is to fail")
    if marks:
        raise ValueError(f"{path.name}:{min(marks)}: this mark belongs to no statement")
    return cases


def read_rows(path: Path) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the rows of docs/typing.rst that the file has cases for, with the exempt checkers."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for start, line in enumerate(lines, 1):
        if line.startswith("# row: "):
            end = next(n for n, line in enumerate([*lines[start:], ""], start) if not line)
            cases = [case for case in read_cases(path) if start < case.lines.start <= end]
            exempt = [
                checker for case in cases for one in case.exemptions for checker in one.checkers
            ]
            yield line.removeprefix("# row: "), frozenset(exempt)


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


_COMPOUND = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If, ast.For, ast.AsyncFor, ast.While,
    ast.With, ast.AsyncWith, ast.Try,
)  # fmt: skip


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.stmt))


def _header(statement: ast.stmt) -> range:
    """The lines of a statement, without those of the statements in it."""
    first, last = statement.lineno, statement.end_lineno or statement.lineno
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        first = min([first, *(decorator.lineno for decorator in statement.decorator_list)])
    if isinstance(statement, _COMPOUND):
        last = max(first, statement.body[0].lineno - 1)
    return range(first, last + 1)


def _assertions(statement: ast.stmt) -> int:
    calls = (node.func for node in ast.walk(statement) if isinstance(node, ast.Call))
    return sum(isinstance(fn, ast.Name) and fn.id == "assert_type" for fn in calls)


def _exemptions(comments: Iterable[str]) -> Iterator[Exemption]:
    text = ""
    for line in [*comments, "except "]:
        if line.startswith(("except ", "error:")):
            if text:
                yield _exemption(text)
            text = ""
        if text or line.startswith("except "):
            text += f"{line} "


def _exemption(text: str) -> Exemption:
    match = _EXCEPT.match(text)
    if match is None:
        raise ValueError(f"expected 'except CHECKER [on TARGET]: reason', got {text!r}")
    checkers = tuple(match[1].split(", "))
    targets = tuple(match[2].split(", ")) if match[2] else TARGETS
    unknown = {*checkers, *targets}.difference(CHECKERS, TARGETS)
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)} in {text!r}")
    return Exemption(checkers, targets, tuple(_SHOWN.findall(match[3])))


# -- checkers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Complaint:
    file: str
    line: int
    rule: str
    message: str


class Workplace:
    """A folder with the case files and the package, and nothing else that a checker might read."""

    def __init__(self, folder: Path, cases: Sequence[Path], package: Path) -> None:
        self.folder = folder
        self.files = [folder / case.name for case in cases]
        for case in cases:
            shutil.copy(case, folder)
        shutil.copytree(package, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        self._cache = folder / ".cache"

    def run(self, checker: str, target: str) -> list[Complaint]:
        """What ``checker`` says about the case files."""
        run = {
            "mypy": self._mypy, "pyright": self._pyright, "ty": self._ty, "pyrefly": self._pyrefly,
        }[checker]  # fmt: skip
        return list(run(target))

    def _output(self, *command: str | Path) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout

    def _mypy(self, target: str) -> Iterator[Complaint]:
        flags = ("--config-file=", "--strict", "--warn-unreachable", "--output=json")
        version = f"--python-version={target}"
        cache = f"--cache-dir={self._cache}"
        out = self._output(executable("mypy"), *flags, version, cache, *self.files)
        for entry in map(json.loads, out.splitlines()):
            if entry["severity"] == "error":
                file = Path(entry["file"]).name
                yield Complaint(file, entry["line"], entry["code"], entry["message"])

    def _pyright(self, target: str) -> Iterator[Complaint]:
        settings = {
            "typeCheckingMode": "strict",
            "pythonVersion": target,
            "include": [file.name for file in self.files],
            "reportUnusedExpression": False,  # a must-fail line need not use what it makes
            "reportUnusedCoroutine": False,
            "reportUnusedFunction": False,
            "reportUnusedClass": False,
            "reportUnusedVariable": False,
        }
        config = self.folder / f"pyright-{target}.json"
        config.write_text(json.dumps(settings), encoding="utf-8")
        python = f"--pythonpath={sys.executable}"
        out = self._output(executable("pyright"), f"--project={config}", python, "--outputjson")
        for entry in json.loads(out)["generalDiagnostics"]:
            if entry["severity"] in ("error", "warning"):
                line = entry["range"]["start"]["line"] + 1
                rule = entry.get("rule", "syntax")
                yield Complaint(Path(entry["file"]).name, line, rule, entry["message"])

    def _ty(self, target: str) -> Iterator[Complaint]:
        where = (f"--project={self.folder}", f"--python={sys.executable}")
        how = (f"--python-version={target}", "--output-format=gitlab", "--error-on-warning")
        out = self._output(executable("ty"), "check", *where, *how, *self.files)
        for entry in json.loads(out):
            at = entry["location"]
            line = at["positions"]["begin"]["line"]
            yield Complaint(Path(at["path"]).name, line, entry["check_name"], entry["description"])

    def _pyrefly(self, target: str) -> Iterator[Complaint]:
        where = (f"--search-path={self.folder}", f"--python-interpreter-path={sys.executable}")
        how = (f"--python-version={target}", "--preset=strict", "--output-format=json")
        out = self._output(executable("pyrefly"), "check", *where, *how, *self.files)
        for entry in json.loads(out)["errors"]:
            yield Complaint(
                Path(entry["path"]).name, entry["line"], entry["name"], entry["description"]
            )


def executable(checker: str) -> Path:
    """The program, of this interpreter's environment if it is there.

    Raises:
        FileNotFoundError: it is not installed.
    """
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", "")))
    found = shutil.which(checker, path=path)
    if found is None:
        raise FileNotFoundError(f"{checker} is not installed")
    return Path(found)


# -- verdicts --------------------------------------------------------------------------------------


@dataclass
class Report:
    """What one checker made of the case files, for one target."""

    checker: str
    target: str
    right: Counter[str] = field(default_factory=Counter[str])
    caught: Counter[str] = field(default_factory=Counter[str])
    exempt: Counter[str] = field(default_factory=Counter[str])
    unexpected: Counter[str] = field(default_factory=Counter[str])
    surprises: list[str] = field(default_factory=list[str])

    def judge(self, file: str, cases: Sequence[Case], complaints: Sequence[Complaint]) -> None:
        at = {line: case for case in cases for line in case.lines}
        by_case: dict[Case, list[Complaint]] = {case: [] for case in cases}
        for complaint in complaints:
            case = at.get(complaint.line)
            if case is None:
                self.unexpected[file] += 1
                self._surprise(file, complaint.line, f"unexpected error: {_text(complaint)}")
            else:
                by_case[case].append(complaint)
        for case, found in by_case.items():
            self._judge_case(file, case, found)

    def _judge_case(self, file: str, case: Case, found: Sequence[Complaint]) -> None:
        line = case.lines.start
        if case.fails:
            found = [one for one in found if not _FOLLOWS_FROM_ERRORS.fullmatch(one.rule)]
        exemption = case.exemption(self.checker, self.target)
        as_every_checker_should = bool(found) == case.fails
        if exemption is not None:
            said = " ".join(one.message for one in found)
            missing = [] if case.fails else [text for text in exemption.shown if text not in said]
            if as_every_checker_should:
                self._surprise(file, line, "the declared exception is not needed (any more)")
            elif missing:
                self._surprise(file, line, f"expected {missing} in {said!r}")
            else:
                self.exempt[file] += 1
        elif not as_every_checker_should:
            texts = "; ".join(map(_text, found))
            self._surprise(file, line, f"refused: {texts}" if found else "an error was expected")
        elif case.fails:
            self.caught[file] += 1
        else:
            self.right[file] += case.assertions

    def _surprise(self, file: str, line: int, text: str) -> None:
        self.surprises.append(f"{file}:{line}: {self.checker} for {self.target}: {text}")

    def cell(self, file: str) -> str:
        exempt = f" {self.exempt[file]}" if self.exempt[file] else ""
        text = f"{self.right[file]} {self.caught[file]}{exempt}"
        return text + (f" !{self.unexpected[file]}" if self.unexpected[file] else "")


def _text(complaint: Complaint) -> str:
    first, _, _ = complaint.message.partition("\n")
    return f"{first} [{complaint.rule}]"


def check(
    workplace: Workplace,
    checkers: Sequence[str] = CHECKERS,
    targets: Sequence[str] = TARGETS,
) -> list[Report]:
    """Run every checker for every target, two at a time; one report each, in that order."""
    cases = {file.name: read_cases(file) for file in workplace.files}
    pairs = [(checker, target) for target in targets for checker in checkers]

    def report(pair: tuple[str, str]) -> Report:
        checker, target = pair
        complaints = workplace.run(checker, target)
        result = Report(checker, target)
        for file, in_file in cases.items():
            result.judge(file, in_file, [one for one in complaints if one.file == file])
        return result

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(report, pairs))


@contextmanager
def workplace(
    cases: Sequence[Path] = (), package: Path = ROOT / PACKAGE
) -> Generator[Workplace, None, None]:
    """A temporary workplace with these case files, or with all of them."""
    with tempfile.TemporaryDirectory(prefix="typing-cases-") as folder:
        yield Workplace(
            Path(folder).resolve(), cases or sorted((HERE / "cases").glob("*.py")), package
        )


# -- the table -------------------------------------------------------------------------------------


def _print_tables(files: Sequence[Path], reports: Sequence[Report], targets: Sequence[str]) -> None:
    width = max(12, *(len(file.name) for file in files))
    cases = {file.name: read_cases(file) for file in files}
    for target in targets:
        columns = [report for report in reports if report.target == target]
        heads = "".join(f"{report.checker:>14}" for report in columns)
        print(f"Python {target:<{width - 7}}{'cases':>10}{heads}")
        for file, in_file in cases.items():
            asserted = sum(case.assertions for case in in_file)
            all_cases = f"{asserted} {sum(case.fails for case in in_file)}"
            cells = "".join(f"{report.cell(file):>14}" for report in columns)
            print(f"{file:<{width}}{all_cases:>10}{cells}")
        print()
    print("right assertions, caught errors, known exceptions if any, !unexpected errors if any")


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="case files; all by default")
    parser.add_argument("--checker", nargs="+", choices=CHECKERS, default=list(CHECKERS))
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument(
        "--available", action="store_true", help="skip the checkers that are not installed"
    )
    return parser.parse_args()


def _is_installed(checker: str) -> bool:
    try:
        executable(checker)
    except FileNotFoundError:
        return False
    return True


def main() -> int:
    options = _arguments()
    checkers: list[str] = options.checker
    if options.available:
        checkers = [checker for checker in checkers if _is_installed(checker)]
    missing = [checker for checker in checkers if not _is_installed(checker)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}; --available skips them")
    with workplace(options.files) as place:
        reports = check(place, checkers, options.target)
        _print_tables(place.files, reports, options.target)
    surprises = [surprise for report in reports for surprise in report.surprises]
    print(*surprises, sep="\n")
    judged = sum(counter.total() for r in reports for counter in (r.right, r.caught, r.exempt))
    print(f"{judged} passed, {len(surprises)} failed")
    return 1 if surprises or not reports else 0


if __name__ == "__main__":
    sys.exit(main())
