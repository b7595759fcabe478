"""Measures ours beside a peer, round by round, and prints what came out.

The only module that takes the time, makes statistics or formats a table. What is measured stands in
cases.py.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = (
    "Case",
    "Result",
    "latency",
    "load",
    "measure",
    "print_comparison",
    "print_header",
    "print_result",
    "save",
    "throughput",
)

Side = Callable[[], float]
"""One measurement of ours or of the peer: runs the jobs, returns what one of them cost."""

Submit = Callable[[Callable[..., Any]], Future[Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table: ours, beside a peer that does the same work."""

    name: str
    """What ``--only`` selects."""

    group: str
    """Rows of a group stand together; their figures are comparable."""

    title: str
    goal: float | None = None
    """``None``: the row is for information."""

    unit: str
    """Of what a side returns: the columns "ours" and "peer"."""

    ours: Side
    peer: Side | None
    """``None``: the figure of the row is what ours returns, and not a ratio."""

    lower_is_better: bool = False
    """The ratio is ours / peer, as for memory, and not how many times as fast ours is."""

    max_rounds: int | None = None
    """For what takes seconds, or is the same in every round."""

    slow: bool = False
    """Whether it is measured only when asked for."""

    x: int | None = None
    """Where the row stands on the axis of its group's plot, if that is a curve."""


@dataclass
class Result:
    """What a case gave, one value for each round. As it stands in the JSON file."""

    name: str
    group: str
    title: str
    goal: float | None
    unit: str
    lower_is_better: bool
    has_peer: bool
    x: int | None = None
    ours: list[float] = field(default_factory=list[float])
    peer: list[float] = field(default_factory=list[float])
    failure: str | None = None
    """Why the case could not be measured: which side failed, and how."""

    @property
    def figures(self) -> list[float]:
        """The ratio of each round. Of one round: side by side, so that noise hits both sides."""
        if not self.has_peer:
            return self.ours
        if self.lower_is_better:
            return [ours / peer for ours, peer in zip(self.ours, self.peer, strict=True)]
        return [peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)]

    @property
    def figure(self) -> float:
        return statistics.median(self.figures)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Half of the rounds were between these two."""
        if len(self.figures) < 2:
            return self.figure, self.figure
        low, _, high = statistics.quantiles(self.figures, n=4, method="inclusive")
        return low, high

    @property
    def reached(self) -> bool:
        if self.failure is not None or self.goal is None:
            return False
        return self.figure <= self.goal if self.lower_is_better else self.figure >= self.goal


# -- one side ------------------------------------------------------------------------------------


def throughput(submit: Submit, fn: Callable[..., Any], *, jobs: int) -> Side:
    """Microseconds for each of ``jobs`` jobs, from the first ``submit`` to the last result."""

    def side() -> float:
        start = time.perf_counter()
        futures = [submit(fn) for _ in range(jobs)]
        for future in futures:
            future.result()
        return (time.perf_counter() - start) / jobs * 1e6

    return side


def latency(submit: Submit, fn: Callable[..., Any], *, jobs: int) -> Side:
    """Median microseconds from ``submit`` to the result, one job at a time."""

    def side() -> float:
        seconds: list[float] = []
        for _ in range(jobs):
            start = time.perf_counter()
            submit(fn).result()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds) * 1e6

    return side


# -- rounds --------------------------------------------------------------------------------------


class _SideError(Exception):
    """One side raised; the other is not to blame."""


def measure(case: Case, rounds: int) -> Result:
    """Run both sides in turn. Who is first changes with every round; a warm-up does not count."""
    result = Result(
        name=case.name,
        group=case.group,
        title=case.title,
        goal=case.goal,
        unit=case.unit,
        lower_is_better=case.lower_is_better,
        has_peer=case.peer is not None,
        x=case.x,
    )
    sides = [("ours", case.ours, result.ours)]
    if case.peer is not None:
        sides.append(("the peer", case.peer, result.peer))
    try:
        for who, side, _ in sides:
            _run(who, side)
        for _ in range(min(rounds, case.max_rounds or rounds)):
            for who, side, values in sides:
                values.append(_run(who, side))
            sides.reverse()
    except _SideError as error:
        result.failure = str(error)
        result.ours.clear()
        result.peer.clear()
    return result


def _run(who: str, side: Side) -> float:
    gc.collect()  # what the other side left behind is not to be paid for here
    try:
        return side()
    except Exception as error:
        raise _SideError(f"{who} fails: {type(error).__name__}: {error}") from error


# -- files ---------------------------------------------------------------------------------------


def save(path: Path, about: dict[str, str], results: Iterable[Result]) -> None:
    """Write all that was measured, for ``--compare`` and for plots."""
    content = {"about": about, "results": [asdict(result) for result in results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> tuple[dict[str, str], list[Result]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["about"], [Result(**result) for result in content["results"]]


# -- tables --------------------------------------------------------------------------------------

_ROW = "  {:<57} {:>6}  {:<14}  {:<7} {:<3} {:>7} {:>7}  {}"
_COMPARISON = "  {:<57} {:>6}  {:<14}  {:>6}  {:<14}  {:>5}  {}"


def print_header(group: str) -> None:
    print(_ROW.format(group, "ratio", "quartiles", "goal", "", "ours", "peer", "")[2:].rstrip())


def print_result(result: Result) -> None:
    if result.failure is not None:
        print(f"  {result.title:<57} {result.failure}", flush=True)
        return
    row = _ROW.format(
        result.title,
        _short(result.figure),
        _range(result),
        *_goal(result),
        _short(statistics.median(result.ours)),
        _short(statistics.median(result.peer)) if result.has_peer else "-",
        result.unit,
    )
    print(row, flush=True)


def _goal(result: Result) -> tuple[str, str]:
    if result.goal is None:
        return "-", ""
    sign = "<=" if result.lower_is_better else ">="
    return f"{sign} {result.goal:g}", "ok" if result.reached else "no"


def print_comparison(before: Iterable[Result], after: Iterable[Result]) -> None:
    """Two runs, A and B. It is a change if the quartiles of the two do not overlap."""
    header = _COMPARISON.format("", "A", "quartiles", "B", "quartiles", "B / A", "")
    print(header.rstrip())
    old_results = {result.name: result for result in before}
    for new in after:
        old = old_results.get(new.name)
        if old is None or old.failure is not None or new.failure is not None:
            print(f"  {new.title:<57} not measured in both")
            continue
        row = _COMPARISON.format(
            new.title,
            _short(old.figure),
            _range(old),
            _short(new.figure),
            _range(new),
            f"{new.figure / old.figure:.2f}",
            _verdict(old, new),
        )
        print(row.rstrip())


def _verdict(old: Result, new: Result) -> str:
    (old_low, old_high), (new_low, new_high) = old.quartiles, new.quartiles
    if new_low <= old_high and old_low <= new_high:
        return ""
    return "better" if (new.figure > old.figure) != new.lower_is_better else "worse"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _range(result: Result) -> str:
    low, high = result.quartiles
    return f"{_short(low)} .. {_short(high)}"
