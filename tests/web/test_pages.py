"""Jobs in words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from flask_executor_typed import Progress
from flask_executor_typed.web.pages import ShownJob, duration, time_ago, time_tag
from flask_executor_typed.web.schema import document_of

from ..helpers.records import NOON, record


def shown(links: tuple[str, ...] = (), **changes: Any) -> ShownJob:
    job = record(**changes)
    urls = {"self": "/", **{link: f"/{link}" for link in links}}
    return ShownJob(job, document_of(job, urls), NOON + timedelta(seconds=60))


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("shop.jobs.build_report", "Build report"),
        ("exportCSV", "ExportCSV"),
        ("_hidden_", "Hidden"),
        ("__", "__"),
        ("<lambda>", "<lambda>"),
        ("Report for March", "Report for March"),
    ],
)
def test_a_title_is_made_of_the_functions_name(name: str, title: str) -> None:
    assert shown(name=name).title == title


@pytest.mark.parametrize(
    ("progress", "figure", "headline", "announcement"),
    [
        (None, "", "Running · Build report", "Running"),
        (Progress(1240, 2000), "62 %", "62 % · Build report", "Running, 60 %"),
        (Progress(1240), "1,240", "1,240 · Build report", "Running"),
        (Progress(0), "", "Running · Build report", "Running"),
    ],
)
def test_progress_is_shown_and_announced_in_tenths(
    progress: Progress | None, figure: str, headline: str, announcement: str
) -> None:
    job = shown(status="running", started_at=NOON, progress=progress)
    assert (job.figure, job.headline, job.announcement) == (figure, headline, announcement)


def test_what_is_done_is_shown_by_its_state() -> None:
    job = shown(status="succeeded", progress=Progress(1, 2), finished_at=NOON)
    assert (job.figure, job.headline, job.announcement) == ("", "Done · Build report", "Done")


@pytest.mark.parametrize(
    ("changes", "links", "says"),
    [
        ({}, ("cancel",), "It starts as soon as there is a free worker."),
        ({"status": "running"}, ("cancel",), ""),
        ({"status": "running", "progress": Progress(1, 2, "Rows are read")}, (), "Rows are read"),
        ({"status": "running", "cancel_requested": True}, (), "It was asked to stop."),
        (
            {"status": "succeeded", "started_at": NOON, "finished_at": NOON + timedelta(0, 41)},
            ("result",),
            "It took 41 s.",
        ),
        ({"status": "succeeded"}, (), "The result is no longer kept."),
        ({"status": "cancelled"}, (), "It was cancelled."),
        (
            {"status": "failed"},
            (),
            "Something went wrong on our side. If it happens again, tell us the number below.",
        ),
        ({"status": "lost"}, (), "The server was stopped while this ran. Please start it again."),
    ],
)
def test_a_sentence_says_what_to_expect(
    changes: dict[str, Any], links: tuple[str, ...], says: str
) -> None:
    assert shown(links, **changes).says == says


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (0.05, "< 0.1 s"),
        (0.25, "0.2 s"),
        (9.96, "10.0 s"),
        (3, "3 s"),
        (41.4, "41 s"),
        (59.9, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (180_000, "2 d 2 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_times_are_in_utc_and_for_machines_too() -> None:
    assert time_tag(NOON) == (
        '<time datetime="2026-11-30T12:00:00Z">2026-11-30 12:00:00 UTC</time>'
    )
    assert time_ago(NOON, NOON + timedelta(minutes=61, seconds=30)) == (
        '<time datetime="2026-11-30T12:00:00Z" data-ex-ago>1 h ago</time>'
    )


def test_a_time_of_another_day_says_which() -> None:
    job = shown(started_at=NOON + timedelta(minutes=1), finished_at=NOON + timedelta(days=1))
    assert job.started is not None
    assert job.finished is not None
    assert ">12:01:00 UTC<" in job.started
    assert ">2026-12-01 12:00:00 UTC<" in job.finished
