"""``JobsBlueprint``: views keep their parameters, and what it is given is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, redirect
from flask.typing import ResponseReturnValue
from typing_extensions import assert_type

from flask_executor_typed import Executor
from flask_executor_typed.stores import JobRecord
from flask_executor_typed.web import JobsBlueprint, job_schema, problem_schema

app = Flask("cases")
executor = Executor(app, user=lambda: "ada")
jobs = JobsBlueprint(executor)


# -- making ----------------------------------------------------------------------------------------


def may_see(job: JobRecord) -> bool:
    return job.user == "ada"


def is_operator() -> bool:
    return True


JobsBlueprint(executor, authorize=may_see, operator=is_operator, streams=3, url_prefix="/tasks")
JobsBlueprint(Executor[int](app), authorize=jobs.is_mine, trusted_origins=["https://a.example"])
JobsBlueprint()  # error: expected
JobsBlueprint(app)  # error: expected
JobsBlueprint(executor, may_see)  # error: expected
JobsBlueprint(executor, authorize=is_operator)  # error: expected
JobsBlueprint(executor, operator=may_see)  # error: expected
JobsBlueprint(executor, authorize=lambda job: job.owner)  # error: expected
JobsBlueprint(executor, streams="3")  # error: expected
app.register_blueprint(jobs)
assert_type(job_schema(), dict[str, Any])
assert_type(problem_schema(), dict[str, Any])

# -- respond_async ---------------------------------------------------------------------------------


@jobs.respond_async(wait=2.0)
def report(month: str, *, year: int = 2026) -> str:
    return month * year


@app.post("/reports/<int:number>")
@jobs.respond_async(wait=None, max_wait=60, keep_cookies=True)
async def areport(number: int) -> ResponseReturnValue:
    return {"number": number}, 201


@jobs.respond_async()
def moved() -> Any:
    return redirect("/elsewhere")


@jobs.respond_async()
async def response() -> Response:
    return Response("")


def plain() -> dict[str, int]:
    return {}


def wrong(month: str) -> object:
    return object()


assert_type(report("may"), Response)
assert_type(report("may", year=2025), Response)
assert_type(areport(1), Response)
assert_type(moved(), Response)
assert_type(response(), Response)
assert_type(jobs.respond_async()(plain), Callable[[], Response])
report()  # error: expected
report(5)  # error: expected
report("may", 2025)  # error: expected
report("may", month="june")  # error: expected
report("may", yeer=2025)  # error: expected
areport("1")  # error: expected
jobs.respond_async(plain)  # error: expected
jobs.respond_async(wait="2")  # error: expected
jobs.respond_async(keep_cookies=1)  # error: expected
jobs.respond_async(waits=2.0)  # error: expected
jobs.respond_async()(wrong)  # error: expected
jobs.respond_async()("view")  # error: expected

# -- accepted --------------------------------------------------------------------------------------


@executor.job
def build(rows: int) -> bytes:
    return bytes(rows)


def start() -> Response:
    assert_type(jobs.accepted(build.submit(1)), Response)
    assert_type(jobs.accepted(executor.submit(plain), wait=1), Response)
    jobs.accepted()  # error: expected
    jobs.accepted(build)  # error: expected
    jobs.accepted(build(1))  # error: expected
    jobs.accepted("a-job's-id")  # error: expected
    jobs.accepted(build.submit(1), 1.0)  # error: expected
    jobs.accepted(build.submit(1), wait=None)  # error: expected
    return jobs.accepted(build.submit(1), wait=0.5)
