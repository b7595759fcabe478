"""The agency's tests: what its views submit, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_executor_typed.testing import ExecutorCalls, JobEnvironment

from . import create_app
from .jobs import (
    NoFlightError,
    ask_airline,
    book,
    city_names,
    distance,
    executor,
    plan_tour,
    print_brochure,
)

TIMEOUT = 60.0  # seconds; enough for any machine


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = create_app(str(tmp_path / "trips.sqlite"), "http://weather.invalid")
    yield app
    executor.shutdown(app=app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def test_a_trip_is_booked_for_the_traveller_who_asks(
    client: FlaskClient, executor_calls: ExecutorCalls
) -> None:
    order = client.post("/trips", json={"city": "Hanoi"}, headers={"X-Traveller": "Grace"})
    executor_calls.assert_submitted(book, "Hanoi")
    executor_calls.wait(TIMEOUT)
    answer = client.get(order.headers["Location"]).get_json()
    assert answer["result"] == {"number": 1, "traveller": "Grace", "city": "Hanoi"}


def test_a_trip_that_no_airline_offers_is_refused(
    client: FlaskClient, executor_calls: ExecutorCalls
) -> None:
    with executor_calls.expect_failure(NoFlightError, match="no airline flies to Jakarta"):
        order = client.post("/trips", json={"city": "Jakarta"})
    answer = client.get(order.headers["Location"]).get_json()
    assert answer["error"] == "no airline flies to Jakarta this week"


def test_no_trip_is_booked_to_a_city_that_is_unknown(
    client: FlaskClient, executor_calls: ExecutorCalls
) -> None:
    assert client.post("/trips", json={"city": "Atlantis"}).status_code == 404
    executor_calls.assert_not_submitted(book)


def test_every_airline_is_asked(client: FlaskClient, executor_calls: ExecutorCalls) -> None:
    assert client.get("/offers/Cairo?airlines=3").get_json()["count"] == 3
    assert len(executor_calls.of(ask_airline)) == 3
    executor_calls.assert_submitted(ask_airline, "airline 2", city="Cairo")


def test_a_brochure_is_printed_once_however_often_it_is_ordered(
    client: FlaskClient, executor_held: ExecutorCalls
) -> None:
    for _ in range(3):
        client.put("/brochures/Dakar")
    assert client.get("/brochures/Dakar").get_json()["status"] == "pending"
    assert len(executor_held.of(print_brochure)) == 1
    executor_held.run(TIMEOUT)
    assert client.get("/brochures/Dakar").get_json()["status"] == "succeeded"


def test_a_tour_has_the_days_that_were_asked_for(
    client: FlaskClient, executor_calls: ExecutorCalls
) -> None:
    tour_id = client.post("/tours?days=3").get_json()["id"]
    executor_calls.assert_submitted(plan_tour, days=3)
    executor_calls.wait(TIMEOUT)
    assert client.get(f"/tours/{tour_id}").get_json()["status"] == "succeeded"


def test_a_tour_is_cancelled(client: FlaskClient, executor_held: ExecutorCalls) -> None:
    tour_id = client.post("/tours?days=3").get_json()["id"]
    client.delete(f"/tours/{tour_id}")
    assert client.get(f"/tours/{tour_id}").get_json()["status"] == "cancelled"


def test_distances_are_counted_from_the_traveller(
    client: FlaskClient, executor_calls: ExecutorCalls
) -> None:
    answer = client.get("/distances?lat=52.52&lon=13.41").get_json()
    assert answer[:2] == [["Athens", 1803], ["Berlin", 0]]
    assert len(executor_calls.of(distance)) == len(answer)
    executor_calls.assert_submitted(distance, 37.98, ANY)


def test_a_tour_tells_each_day() -> None:
    with JobEnvironment() as job:
        assert job.run(plan_tour, 2) == 2
    assert [progress.message for progress in job.progress] == ["day 1", "day 2"]


@pytest.mark.executor(type="sync")
def test_the_cities_are_in_order(app: Flask) -> None:
    with app.app_context():
        assert city_names.submit().result()[:3] == ["Athens", "Berlin", "Cairo"]
