"""The tests of a slow view: what it makes of a file, and what a browser is told meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from io import BytesIO
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import UnprocessableEntity
from werkzeug.test import TestResponse

from flask_executor_typed.testing import ExecutorCalls, JobEnvironment

from . import create_app
from .views import executor, totals_of

TIMEOUT = 60.0  # seconds; enough for any machine


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = create_app(f"sqlite:///{tmp_path}/jobs.db", "tests")
    yield app
    executor.shutdown(app=app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def upload(client: FlaskClient, orders: str) -> TestResponse:
    return client.post("/exports", data={"orders": (BytesIO(orders.encode()), "orders.csv")})


def test_an_export_is_waited_for_in_the_background(
    client: FlaskClient, executor_held: ExecutorCalls
) -> None:
    late = upload(client, "customer,amount\nAda,1.50\nGrace,2\nAda,1\n")
    assert late.status_code == 202
    job = late.headers["Location"]
    assert client.get(job).get_json()["status"] == "pending"
    executor_held.run(TIMEOUT)
    assert client.get(job).get_json()["progress"]["percent"] == 100
    result = client.get(f"{job}/result").get_data(as_text=True)
    assert result == "customer,total\r\nAda,2.50\r\nGrace,2\r\n"


def test_a_wrong_file_is_refused(client: FlaskClient, executor_calls: ExecutorCalls) -> None:
    client.get("/")  # the browser's cookie
    answer = upload(client, "name,price\nAda,1\n")
    executor_calls.wait(TIMEOUT)
    if answer.status_code == 202:  # on a slow machine
        answer = client.get(f"{answer.headers['Location']}/result")
    assert answer.status_code == 422


def test_the_customer_with_the_highest_total_is_the_first() -> None:
    with JobEnvironment() as job:
        totals = job.run(
            totals_of, [{"customer": "Ada", "amount": "1"}, {"customer": "Grace", "amount": "2"}]
        )
    assert totals == "customer,total\r\nGrace,2\r\nAda,1\r\n"
    assert job.progress[-1].done == 2


def test_an_amount_that_is_no_number_is_named_by_its_line() -> None:
    with JobEnvironment() as job, pytest.raises(UnprocessableEntity, match="line 2"):
        job.run(totals_of, [{"customer": "Ada", "amount": "many"}])


def test_totals_end_when_they_are_cancelled() -> None:
    with JobEnvironment() as job:
        job.cancel()
        with pytest.raises(CancelledError):
            job.run(totals_of, [{"customer": "Ada", "amount": "1"}])
