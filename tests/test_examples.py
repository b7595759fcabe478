"""The examples, the demo and the README do what they say."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_executor_typed.testing import ExecutorCalls

from .conftest import TIMEOUT
from .helpers.services import redis_path, skip_without

pytest.importorskip("httpx", reason="the examples need httpx, which is not installed")

import httpx

from examples import demo, on_celery
from examples.crunch import __main__ as crunch
from examples.exports import create_app as create_exports
from examples.exports import views as exports
from examples.trips import create_app, jobs
from examples.weather import WeatherService, weather_service

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def weather() -> Iterator[WeatherService]:
    with weather_service() as service:
        yield service


@pytest.fixture
def trips(tmp_path: Path, weather: WeatherService) -> Iterator[Flask]:
    app = create_app(str(tmp_path / "trips.sqlite"), weather.url)
    yield app
    jobs.executor.shutdown()
    for key in list(jobs.executor.futures._futures):
        jobs.executor.futures.pop(key)


@pytest.fixture
def client(trips: Flask) -> FlaskClient:
    return trips.test_client()


def json_of(response: TestResponse, status: int = 200) -> Any:
    assert response.status_code == status, response.get_data(as_text=True)
    return response.get_json()


def test_a_booking_is_answered_before_the_job_is_done_and_found_by_its_id(
    client: FlaskClient, executor_held: ExecutorCalls
) -> None:
    order = client.post("/trips", json={"city": "Hanoi"}, headers={"X-Traveller": "Grace"})
    answer = json_of(order, 202)
    assert answer["status"] == "pending"
    executor_held.run(TIMEOUT)
    done = json_of(client.get(order.headers["Location"]))
    assert done["id"] == answer["id"]
    assert done["result"] == {"number": 1, "traveller": "Grace", "city": "Hanoi"}


def test_a_booking_that_fails_tells_why(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, executor_calls: ExecutorCalls
) -> None:
    with executor_calls.expect_failure(jobs.NoFlightError):
        answer = json_of(client.post("/trips", json={"city": "Jakarta"}), 202)
    done = json_of(client.get(f"/trips/{answer['id']}"))
    assert (done["status"], done["error"]) == ("failed", "no airline flies to Jakarta this week")
    assert caplog.messages == [f"Exception in background job book [{answer['id']}]"]


def test_what_nobody_asked_for_is_not_found(client: FlaskClient) -> None:
    assert client.post("/trips", json={"city": "Atlantis"}).status_code == 404
    assert client.get("/trips/unknown").status_code == 404
    assert client.get("/brochures/Geneva").status_code == 404


def test_all_airlines_are_asked_and_the_cheapest_is_told(client: FlaskClient) -> None:
    answer = json_of(client.get("/offers/Cairo"))
    assert answer == {"count": 50, "cheapest": {"airline": "airline 4", "price": 112}}


def test_a_brochure_is_printed_once_however_often_it_is_ordered(
    client: FlaskClient, executor_calls: ExecutorCalls
) -> None:
    ids = {json_of(client.put("/brochures/Dakar"), 202)["id"] for _ in range(3)}
    executor_calls.wait(TIMEOUT)
    done = json_of(client.get("/brochures/Dakar"))
    assert ids == {done["id"]}
    assert done["result"].splitlines()[-1] == "Dakar, page 5, for somebody"
    assert done["seconds"] >= 0.3


def test_distances_come_in_the_order_of_the_cities(client: FlaskClient) -> None:
    answer = json_of(client.get("/distances?lat=52.52&lon=13.41&times=2"))
    assert answer[:2] == [["Athens", 1803], ["Berlin", 0]]
    assert answer[:10] == answer[10:]


def test_the_http_client_keeps_its_connections_from_job_to_job(
    client: FlaskClient, weather: WeatherService
) -> None:
    first = json_of(client.get("/weather"))
    assert first[0] == {"city": "Athens", "weather": "wind"}
    connections = weather.connections
    assert json_of(client.get("/weather")) == first
    assert (weather.requests, weather.connections) == (20, connections)


def test_the_http_client_keeps_its_connection_from_request_to_request(
    client: FlaskClient, weather: WeatherService
) -> None:
    answers = [json_of(client.get("/weather/Athens")) for _ in range(20)]
    assert answers == [{"city": "Athens", "weather": "wind"}] * 20
    assert (weather.requests, weather.connections) == (20, 1)


@pytest.fixture
def exports_client(tmp_path: Path) -> Iterator[FlaskClient]:
    app = create_exports(f"sqlite:///{tmp_path}/jobs.db", "tests")
    yield app.test_client()
    exports.executor.shutdown()


def upload(client: FlaskClient, orders: str, **headers: str) -> TestResponse:
    data = {"orders": (BytesIO(orders.encode()), "orders.csv")}
    return client.post("/exports", data=data, headers=headers)


def test_totals_are_watched_and_downloaded(exports_client: FlaskClient) -> None:
    client = exports_client
    assert b"<form" in client.get("/").get_data()
    late = upload(client, "customer,amount\n" + "Ada,0.10\n" * 30)
    address = late.headers["Location"]
    assert json_of(late, 202)["name"] == "export"
    done = json_of(client.get(address, headers={"Prefer": "wait=10"}))
    assert (done["status"], done["progress"]["percent"]) == ("succeeded", 100)
    result = client.get(f"{address}/result")
    assert result.get_data(as_text=True) == "customer,total\r\nAda,3.00\r\n"
    assert result.headers["Content-Disposition"] == "attachment; filename=totals.csv"
    stranger = client.application.test_client()
    assert stranger.get(address).status_code == 404


def test_an_export_is_cancelled(exports_client: FlaskClient) -> None:
    late = upload(exports_client, "customer,amount\n" + "Ada,1\n" * 3000)
    address = late.headers["Location"]
    assert exports_client.delete(address).status_code in {200, 202}
    done = json_of(exports_client.get(address, headers={"Prefer": "wait=10"}))
    assert done["status"] == "cancelled"


@pytest.mark.parametrize(
    ("orders", "says"),
    [
        ("name,price\nAda,1\n", "must name the columns"),
        ("customer,amount\nAda,1\nAda,many\n", "amount in line 3"),
        ("", "must name the columns"),
    ],
)
def test_a_file_that_cannot_be_read_tells_its_user_why(
    exports_client: FlaskClient, orders: str, says: str
) -> None:
    wrong = upload(exports_client, orders, Prefer="wait=10")
    assert wrong.status_code == 422
    assert says in wrong.get_data(as_text=True)


needs_gunicorn = pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
)


@needs_gunicorn
def test_the_demo_finds_every_answer_right(capsys: pytest.CaptureFixture[str]) -> None:
    code = demo.main()
    told = capsys.readouterr().out
    assert code == 0, told
    assert "50 jobs sent 50 requests" in told
    assert "4 processes answered, and each knew the job." in " ".join(told.split())
    assert "GET  /tours/...  lost, " in told
    assert told.endswith("All 9 scenes went right.\n")


@needs_gunicorn
def test_the_demo_fails_when_one_answer_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(self: demo.Demo) -> Iterator[str]:
        """A scene"""
        answer, _ = self.call("GET", "/distances?lat=0&lon=0&times=1")
        demo.expect("cities", len(answer), 11)
        yield "never told"

    monkeypatch.setattr(demo.Demo, "maps", wrong)
    assert demo.main() == 1
    told = capsys.readouterr().out
    assert "A scene\n    WRONG  WrongAnswer: cities: expected 11, got 10\n" in told
    assert "Listening at" in told  # the server's log
    assert "went right" not in told


@needs_gunicorn
def test_the_demo_fails_with_the_servers_log_when_the_app_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "APP", "examples.trips:no_such_factory()")
    assert demo.main() == 1
    assert "no_such_factory" in capsys.readouterr().out


def need_celery() -> None:
    skip_without("celery")
    pytest.importorskip("celery", reason="Celery is not installed beside the oldest Flask")
    redis_path()


@pytest.mark.slow
@needs_gunicorn
def test_the_agency_runs_its_jobs_in_celery(capsys: pytest.CaptureFixture[str]) -> None:
    need_celery()
    code = on_celery.main()
    told = capsys.readouterr().out
    assert code == 0, told
    assert re.search(r"from the new server: day \d+ before, day \d+ now", told), told
    assert told.endswith("All went right, and all is stopped.\n")


@pytest.mark.slow
@needs_gunicorn
def test_the_agency_on_celery_stays_until_it_is_interrupted() -> None:
    need_celery()
    command = [sys.executable, "-m", "examples.on_celery", "--stay"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        try:
            serving = script.stdout.readline()
            found = re.fullmatch(r"Serving on (\S+) until Ctrl-C\. Try:\n", serving)
            assert found is not None, serving + script.stdout.read()
            answer = httpx.post(f"{found[1]}/tours?days=1", timeout=TIMEOUT, trust_env=False)
            assert answer.status_code == 202
        finally:
            script.send_signal(signal.SIGINT)
            said = script.stdout.read()
        assert script.wait(TIMEOUT) == 0, said
    with pytest.raises(httpx.ConnectError):
        httpx.get(found[1], timeout=TIMEOUT, trust_env=False)


@needs_gunicorn
def test_views_answer_right_while_jobs_keep_the_processors_busy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = crunch.main()
    told = capsys.readouterr().out
    assert code == 0, told
    lines = re.findall(
        r"^(threads|processes) +[\d.]+ s for 4 jobs; meanwhile \d+ pings", told, re.MULTILINE
    )
    assert lines == ["threads", "processes"]
    with capsys.disabled():
        print(f"\n{told}", end="")


@needs_gunicorn
def test_a_wrong_count_of_primes_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crunch, "LIMIT", 1000)
    assert crunch.main() == 1
    assert "WRONG  WrongAnswer: primes: expected 13848, got 168" in capsys.readouterr().out


def test_the_readme_code_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def price_of(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=str(10.0 + len(request.url.host)))

    client_class, opened = httpx.AsyncClient, list[Any]()

    def open_client() -> Any:
        opened.append(client_class(transport=httpx.MockTransport(price_of)))
        return opened[-1]

    monkeypatch.setattr(httpx, "AsyncClient", open_client)
    monkeypatch.chdir(tmp_path)  # where its instance folder will be
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    exec(compile("\n".join(blocks), "README.md", "exec"), vars(module))
    client: FlaskClient = module.app.test_client()
    with module.executor:
        assert json_of(client.get("/reports/1999?name=Ada"), 404) == {"status": "unknown"}
        assert json_of(client.post("/reports/1999?name=Ada"), 202)["status"] != "failed"
        module.executor.futures.result(("report", 1999, "Ada"), timeout=TIMEOUT)
        expected = {"status": "succeeded", "report": "report of 1999 for Ada"}
        assert json_of(client.get("/reports/1999?name=Ada")) == expected
        assert json_of(client.get("/reports/1999?name=Bob"), 404) == {"status": "unknown"}
        for _ in range(2):
            assert json_of(client.get("/prices")) == {"lowest": 22.0}  # of east.example
    (shared,) = opened
    assert shared.is_closed


def test_every_file_that_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text("utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []
