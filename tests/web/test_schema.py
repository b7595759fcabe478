"""A job as JSON."""

from __future__ import annotations

import json
from datetime import timedelta
from math import inf, nan
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from flask_executor_typed import Progress
from flask_executor_typed.stores import JobError, JobProblem
from flask_executor_typed.web import job_schema, problem_schema
from flask_executor_typed.web.schema import document_of

from ..helpers.records import NOON, record


def checked(**changes: Any) -> Any:
    """Return the JSON of a job, which the schema allows."""
    document = document_of(record(**changes), {"self": "/jobs/DAeLzMiduKgIhOlht3ZnBg"})
    text = json.dumps(document, allow_nan=False)
    validator: Any = Draft202012Validator(job_schema(), format_checker=FormatChecker())
    assert [error.message for error in validator.iter_errors(json.loads(text))] == []
    return json.loads(text)


@pytest.mark.parametrize("schema", [job_schema(), problem_schema()])
def test_schemas_are_schemas(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)


def test_schemas_are_the_callers_to_change() -> None:
    job_schema()["properties"].clear()
    assert job_schema()["properties"]


def test_a_job_that_waits() -> None:
    assert checked() == {
        "id": "DAeLzMiduKgIhOlht3ZnBg",
        "name": "build_report",
        "status": "pending",
        "done": False,
        "cancel_requested": False,
        "progress": None,
        "submitted_at": "2026-11-30T12:00:00.250Z",
        "started_at": None,
        "finished_at": None,
        "error": None,
        "links": {"self": "/jobs/DAeLzMiduKgIhOlht3ZnBg"},
    }


def test_users_do_not_see_what_is_for_operators() -> None:
    error = JobError("shop.PriceError", "secret message", "Traceback: secret")
    text = json.dumps(
        checked(
            status="failed",
            error=error,
            labels={"secret": "label"},
            key="secret key",
            user="secret user",
            server="secret server",
            result="secret result",
            log_tail="secret log",
        )
    )
    assert "secret" not in text
    assert "Price" not in text


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("report", "report"),
        ("shop.jobs.report", "report"),
        ("make.<locals>.report", "report"),
        ("make.<locals>.<lambda>", "<lambda>"),
        ("Report no. 7", "Report no. 7"),
        ("march.csv (2)", "march.csv (2)"),
    ],
)
def test_a_job_is_called_as_its_function_or_as_it_was_named(given: str, name: str) -> None:
    assert checked(name=given)["name"] == name


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress(1, 3), [1, 3, 33]),
        (Progress(2.5, 5.0), [2.5, 5.0, 50]),
        (Progress(7), [7, None, None]),
        (Progress(0, 0), [0, 0, None]),
        (Progress(7, 3), [7, 3, 100]),
        (Progress(-1, 3), [-1, 3, 0]),
        (Progress(1, -3), [1, -3, 0]),
        (Progress(nan, inf), [0, 0, None]),
        (Progress(inf, 3), [0, 3, 0]),
        (Progress(1e308, 1e-308), [1e308, 1e-308, 100]),
        (Progress(10**400, 10**400), [0, 0, None]),
        (Progress(True, True), [1, 1, 100]),
    ],
)
def test_progress_is_numbers_that_json_has(progress: Progress, expected: list[Any]) -> None:
    found = checked(progress=progress)["progress"]
    assert [found["done"], found["total"], found["percent"]] == expected


def test_a_long_message_is_cut() -> None:
    assert checked(progress=Progress(1, 2, "a" * 10_000_000))["progress"]["message"] == "a" * 300


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": "succeeded"}, None),
        ({"status": "cancelled"}, None),
        (
            {"status": "failed", "error": JobError("ValueError", "no", "")},
            {"status": 500, "title": "Internal Server Error", "detail": None},
        ),
        (
            {
                "status": "failed",
                "error": JobError("E", "", "", JobProblem(422, "Unprocessable", "No header.")),
            },
            {"status": 422, "title": "Unprocessable", "detail": "No header."},
        ),
        (
            {
                "status": "failed",
                "error": JobError("flask_executor_typed.errors.JobAbandonedError", "", ""),
            },
            {
                "status": 503,
                "title": "Service Unavailable",
                "detail": "The server was stopped while this ran. Please start it again.",
            },
        ),
        (
            {"status": "lost", "error": JobError("E", "the process ended", "")},
            {
                "status": 500,
                "title": "Job Lost",
                "detail": "The server was stopped while this ran. Please start it again.",
            },
        ),
    ],
)
def test_an_error_is_said_in_words_for_users(
    changes: dict[str, Any], error: dict[str, Any] | None
) -> None:
    end = NOON + timedelta(seconds=1)
    document = checked(started_at=NOON, finished_at=end, **changes)
    assert document["error"] == error
    assert document["done"] is True
    assert document["finished_at"] == "2026-11-30T12:00:01.250Z"
