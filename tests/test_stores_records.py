"""Records as users read them."""

from __future__ import annotations

import pytest
from werkzeug.exceptions import UnprocessableEntity

from flask_executor_typed.stores import JobProblem
from flask_executor_typed.stores.encoding import failure_of
from flask_executor_typed.stores.records import Row, record_of


def row_of(error: Exception) -> Row:
    failure = failure_of(error)
    return Row(
        id="a",
        space="tests",
        executor="executor",
        name="report",
        submitted=0.0,
        status="failed",
        error_type=failure.type,
        error_message=failure.message,
        error_traceback=failure.traceback,
        problem=failure.problem,
    )


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ValueError("secret"), None),
        (
            UnprocessableEntity("There is no header row."),
            JobProblem(
                status=422, title=UnprocessableEntity().name, detail="There is no header row."
            ),
        ),
    ],
)
def test_what_a_failed_job_tells_its_user_is_apart_from_its_exception(
    error: Exception, problem: JobProblem | None
) -> None:
    record = record_of(row_of(error))
    assert record.error is not None
    assert record.error.problem == problem
    assert record.error.message == str(error)


def test_a_record_says_what_it_is_of_and_which_version_it_is() -> None:
    row = row_of(ValueError("wrong"))
    row.kind, row.version, row.log_tail = "view", 7, "one line"
    record = record_of(row)
    assert (record.kind, record.version, record.log_tail) == ("view", 7, "one line")
