"""Figures of many jobs, for operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from ..stores import JobRecord
from .pages import duration

__all__ = ("SPANS", "Failures", "Times", "failed_since", "failures_of", "times_of")

SPANS: Mapping[str, timedelta] = {
    "1 h": timedelta(hours=1),
    "3 h": timedelta(hours=3),
    "1 d": timedelta(days=1),
    "3 d": timedelta(days=3),
    "7 d": timedelta(days=7),
}
"""The last hour, and so on: where failures are counted."""


def failed_since(job: JobRecord, since: datetime) -> bool:
    """Return whether a job has failed, or was lost, since then."""
    end = _end_of_failed(job)
    return end is not None and end >= since


def _end_of_failed(job: JobRecord) -> datetime | None:
    return job.finished_at if job.status in {"failed", "lost"} else None


@dataclass(frozen=True, slots=True)
class Failures:
    """How often one function failed, or was lost."""

    name: str
    counts: Mapping[str, int]
    """By the names of the spans."""


def failures_of(jobs: Iterable[JobRecord], now: datetime) -> list[Failures]:
    """Return the functions that failed, the one that failed last first."""
    ends: defaultdict[str, list[datetime]] = defaultdict(list)
    for job in jobs:
        if (end := _end_of_failed(job)) is not None:
            ends[job.name].append(end)
    return [
        Failures(
            name, {each: sum(end >= now - span for end in times) for each, span in SPANS.items()}
        )
        for name, times in sorted(ends.items(), key=lambda item: max(item[1]), reverse=True)
    ]


@dataclass(frozen=True, slots=True)
class Times:
    """How long one function takes, as texts, and in percent of the longest of all."""

    name: str
    runs: int
    median: str
    slow: str
    """95 % of the runs took no longer."""
    slowest: str
    shares: tuple[float, float, float]


def times_of(jobs: Iterable[JobRecord]) -> list[Times]:
    """Return the times of functions that succeeded, the one that took most time first."""
    runs: defaultdict[str, list[float]] = defaultdict(list)
    for job in jobs:
        if job.status == "succeeded" and job.started_at is not None and job.finished_at is not None:
            runs[job.name].append((job.finished_at - job.started_at).total_seconds())
    longest = max((max(seconds) for seconds in runs.values()), default=0.0) or 1.0
    return [
        _times(name, sorted(seconds), longest)
        for name, seconds in sorted(runs.items(), key=lambda item: sum(item[1]), reverse=True)
    ]


def _times(name: str, seconds: Sequence[float], longest: float) -> Times:
    figures = _within(seconds, 0.5), _within(seconds, 0.95), seconds[-1]
    median, slow, slowest = map(duration, figures)
    first, second, third = (round(100 * each / longest, 1) for each in figures)
    return Times(name, len(seconds), median, slow, slowest, (first, second, third))


def _within(seconds: Sequence[float], share: float) -> float:
    """Return the time in which this share of the runs was done; of a sorted list."""
    return seconds[ceil(share * len(seconds)) - 1]
