"""What a job may give back to a request that waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, Response, after_this_request, g, session

from flask_executor_typed import Executor
from flask_executor_typed.context import (
    copy_of_g,
    copy_of_session,
    take_after_request_functions,
    use_session,
    without_resources,
)

from .conftest import TIMEOUT

Job = Callable[[Any], Any]


def plain(copied: Any) -> list[str]:
    use_session(copied)
    session["cart"].append("pen")
    session["job"] = True
    return sorted(session)


async def coroutine(copied: Any) -> list[str]:
    return plain(copied)


@pytest.mark.parametrize("job", [plain, coroutine])
@pytest.mark.parametrize("is_taken", [True, False])
def test_a_job_writes_to_a_session_of_its_own_which_its_request_may_take(
    app: Flask, executor: Executor, job: Job, is_taken: bool
) -> None:
    @app.get("/")
    def view() -> str:
        copied = copy_of_session()
        assert not copied.modified
        seen = executor.submit(job, copied).result(TIMEOUT)
        assert seen == ["cart", "job"]
        assert copied.modified
        assert session["cart"] == ["book"]
        if is_taken:
            use_session(copied)
        return ""

    client = app.test_client()
    with client.session_transaction() as stored:
        stored["cart"] = ["book"]
    answer = client.get("/")
    assert ("Set-Cookie" in answer.headers) is is_taken
    with client.session_transaction() as stored:
        assert dict(stored) == (
            {"cart": ["book", "pen"], "job": True} if is_taken else {"cart": ["book"]}
        )


def test_copying_a_session_is_no_access_to_it(app: Flask) -> None:
    @app.get("/")
    def view() -> str:
        copy_of_session()
        return ""

    assert "Vary" not in app.test_client().get("/").headers


def test_a_session_of_an_app_without_a_key_can_be_copied() -> None:
    app = Flask("keyless")
    with app.test_request_context():
        use_session(copy_of_session())
        with pytest.raises(RuntimeError, match="secret key"):
            session["a"] = 1


def test_after_request_functions_of_a_job_are_taken_once(app: Flask, executor: Executor) -> None:
    def mark(response: Response) -> Response:
        response.headers["X-Job"] = "1"
        return response

    def job() -> list[object]:
        after_this_request(mark)
        return [*take_after_request_functions(), *take_after_request_functions()]

    @app.get("/")
    def view() -> str:
        assert executor.submit(job).result(TIMEOUT) == [mark]
        return ""

    assert "X-Job" not in app.test_client().get("/").headers


class Connection:
    def close(self) -> None: ...


def test_values_of_g_that_may_travel_are_copied(app: Flask) -> None:
    with app.app_context():
        g.user, g.db = "ada", Connection()
        assert copy_of_g(without_resources) == {"user": "ada"}
        assert copy_of_g(lambda name, value: False) == {}
