"""Draws what was measured: an SVG for each group of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness import Result

__all__ = ("draw",)

OURS, PEER, GOAL = "#2a6f97", "#b0b0b0", "#c44536"


def draw(folder: Path, about: dict[str, str], results: Iterable[Result]) -> None:
    """Write ``folder/GROUP.svg`` for each group; what could not be measured is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "flask_executor_typed"  # the same figures, the same file
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.failure is None:
            groups.setdefault(result.group, []).append(result)
    for group, rows in groups.items():
        is_curve = all(row.x is not None for row in rows)
        figure = Figure(figsize=(9, 3.5 if is_curve else 1.4 + 0.55 * len(rows)))
        axes = figure.subplots()
        (_draw_curve if is_curve else _draw_bars)(axes, rows)
        axes.set_title(group, loc="left")
        figure.text(0.01, 0.01, f"{about['ours']}, {about['python']}", fontsize=7, color="gray")
        figure.tight_layout(rect=(0, 0.04, 1, 1))
        name = re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def _draw_bars(axes: Axes, rows: list[Result]) -> None:
    """The ratios, with their quartiles, and the goals."""
    for place, row in enumerate(rows):
        low, high = row.quartiles
        errors = [[row.figure - low], [high - row.figure]]
        axes.barh(place, row.figure, xerr=errors, color=OURS, height=0.6)
        if row.goal is not None:
            label = "goal" if not axes.get_legend_handles_labels()[1] else None
            axes.vlines(row.goal, place - 0.4, place + 0.4, color=GOAL, label=label)
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.invert_yaxis()
    ratio = (
        "ours / peer, less is better" if rows[0].lower_is_better else "times as fast as the peer"
    )
    axes.set_xlabel(ratio if rows[0].has_peer else rows[0].unit)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


def _draw_curve(axes: Axes, rows: list[Result]) -> None:
    """What one job costs, ours and the peer: a flat line is linear growth."""
    places = [row.x or 0 for row in rows]
    axes.plot(places, [median(row.ours) for row in rows], "o-", color=OURS, label="ours")
    axes.plot(places, [median(row.peer) for row in rows], "o-", color=PEER, label="peer")
    axes.set_xscale("log", base=10 if places[-1] > 100 else 2)
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.set_ylim(bottom=0)
    axes.set_ylabel(rows[0].unit)
    axes.legend()
