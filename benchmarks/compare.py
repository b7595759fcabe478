"""The comparison with our peers as one command: ``python benchmarks/compare.py``.

The only module that reads the command line. README.md, next to this file, says what the rows mean.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import flask_executor_typed
from harness import (
    Case,
    Result,
    load,
    measure,
    print_comparison,
    print_header,
    print_result,
    save,
)

PEERS = ("flask", "werkzeug", "asgiref", "flask-executor")


def main() -> None:
    options = _parse()
    if options.compare:
        _compare(*options.compare)
    else:
        _measure(options)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure flask_executor_typed beside its peers.")
    parser.add_argument("--only", metavar="NAME", action="append", help="this case; repeatable")
    parser.add_argument("--all", action="store_true", help="the slow cases too")
    parser.add_argument("--rounds", metavar="N", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there too")
    parser.add_argument("--plots", metavar="DIR", type=Path, help="draw each group there, as SVG")
    parser.add_argument(
        "--compare",
        metavar=("A.json", "B.json"),
        nargs=2,
        type=Path,
        help="measure nothing; show two such files side by side",
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    return options


def _measure(options: argparse.Namespace) -> None:
    from cases import open_cases  # needs the peers, which --compare does not

    about = _about(options.rounds)
    _print_about(about)
    with open_cases() as cases:
        chosen = _select(cases, options.only, slow=options.all)
        results = [_show(case, options.rounds, is_first) for case, is_first in chosen]
    goals = [result for result in results if result.goal is not None]
    print(f"\n{sum(result.reached for result in goals)} of {len(goals)} goals reached")
    if options.json is not None:
        save(options.json, about, results)
    if options.plots is not None:
        from plots import draw  # matplotlib takes a second to import

        draw(options.plots, about, results)


def _select(cases: list[Case], only: list[str] | None, *, slow: bool) -> list[tuple[Case, bool]]:
    """The cases that were asked for, each with whether it is the first of its group."""
    names = [case.name for case in cases]
    for name in only or ():
        if name not in names:
            raise SystemExit(f"no case is called {name!r}; there are: {', '.join(names)}")
    if only is None:
        chosen = [case for case in cases if slow or not case.slow]
    else:
        chosen = [case for case in cases if case.name in only]
    groups = [None, *(case.group for case in chosen)]
    return [(case, case.group != group) for case, group in zip(chosen, groups, strict=False)]


def _show(case: Case, rounds: int, is_first: bool) -> Result:
    if is_first:
        print_header(case.group)
    result = measure(case, rounds)
    print_result(result)
    return result


def _compare(file_a: Path, file_b: Path) -> None:
    results: list[list[Result]] = []
    for title, file in (("A", file_a), ("B", file_b)):
        about, measured = load(file)
        print(f"{title}: {file}")
        _print_about(about)
        results.append(measured)
    print_comparison(*results)


# -- what the figures were measured on -----------------------------------------------------------


def _about(rounds: int) -> dict[str, str]:
    return {
        "ours": f"flask_executor_typed {flask_executor_typed.__version__} ({_commit()})",
        "peers": ", ".join(f"{name} {_version(name)}" for name in PEERS),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{os.cpu_count()} x {_processor()}, {platform.platform()}",
        "rounds": str(rounds),
    }


def _print_about(about: dict[str, str]) -> None:
    for name, value in about.items():
        print(f"{name:>9}  {value}")
    print()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its source tree
        return "of unknown version"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    folder = Path(flask_executor_typed.__file__).parent
    try:
        output = subprocess.check_output(command, cwd=folder, text=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return "no git commit"
    return output.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
