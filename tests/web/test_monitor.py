"""Figures of many jobs."""

from __future__ import annotations

from datetime import timedelta

from flask_executor_typed.web.monitor import failures_of, times_of

from ..helpers.records import NOON, record


def test_failures_are_counted_by_function_in_ever_longer_spans() -> None:
    def failed(name: str, hours: float, status: str = "failed") -> object:
        return record(name=name, status=status, finished_at=NOON - timedelta(hours=hours))

    jobs = [failed("a", 0.5), failed("a", 2), failed("a", 100), failed("b", 30, "lost")]
    jobs += [failed("c", 0.1, "succeeded"), failed("c", 0.1, "cancelled"), failed("d", 1000)]
    found = failures_of(jobs, NOON)  # type: ignore[arg-type]
    assert [(each.name, list(each.counts.values())) for each in found] == [
        ("a", [1, 2, 2, 2, 3]),
        ("b", [0, 0, 0, 1, 1]),
        ("d", [0, 0, 0, 0, 0]),
    ]


def test_times_are_of_runs_that_succeeded_and_the_costliest_function_is_first() -> None:
    def ran(name: str, seconds: float, status: str = "succeeded") -> object:
        return record(
            name=name, status=status, started_at=NOON, finished_at=NOON + timedelta(0, seconds)
        )

    jobs = [ran("quick", 1), *(ran("slow", seconds) for seconds in range(1, 101))]
    jobs += [ran("slow", 1000, "failed"), record(name="slow", status="succeeded")]
    slow, quick = times_of(jobs)  # type: ignore[arg-type]
    assert (slow.name, slow.runs, slow.median, slow.slow, slow.slowest) == (
        *("slow", 100, "50 s", "1 min 35 s", "1 min 40 s"),
    )
    assert slow.shares == (50.0, 95.0, 100.0)
    assert (quick.name, quick.runs, quick.median, quick.shares[2]) == ("quick", 1, "1 s", 1.0)


def test_without_jobs_there_are_no_figures() -> None:
    assert failures_of([], NOON) == []
    assert times_of([]) == []
