"""Jobs over HTTP in apps with extensions that have a say in requests and API documents."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator

from flask_executor_typed import Executor
from flask_executor_typed.web import JobsBlueprint, job_schema, problem_schema

from ..conftest import TIMEOUT

SCHEMAS: dict[str, dict[str, Any]] = {"Job": job_schema(), "Problem": problem_schema()}
LATE = {
    "description": "It goes on; ask for the job.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}},
}


@pytest.fixture
def go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def report(go: threading.Event) -> dict[str, int]:
    assert go.wait(TIMEOUT)
    return {"pages": 7}


def check_late_and_in_time(client: FlaskClient, go: threading.Event) -> None:
    late = client.post("/reports")
    assert late.status_code == 202
    validator: Any = Draft202012Validator(job_schema())
    assert list(validator.iter_errors(late.get_json())) == []
    go.set()
    address = late.headers["Location"]
    assert client.get(address, headers={"Prefer": "wait=10"}).get_json()["done"]
    assert client.get(f"{address}/result").get_json() == {"pages": 7}
    in_time = client.post("/reports", headers={"Prefer": "wait=10"})
    assert (in_time.status_code, in_time.get_json()) == (200, {"pages": 7})
    assert client.get("/jobs/unknown").status_code == 404


def check_document(document: Any) -> None:
    assert document["components"]["schemas"].items() >= SCHEMAS.items()
    assert set(document["paths"]["/reports"]["post"]["responses"]) >= {"200", "202"}


def test_flask_smorest_documents_a_slow_view(go: threading.Event) -> None:
    smorest: Any = pytest.importorskip("flask_smorest")
    fields: Any = import_module("marshmallow.fields")
    app = Flask("smorest")
    app.config.from_mapping(API_TITLE="Reports", API_VERSION="1", OPENAPI_VERSION="3.1.0")
    with Executor(app, user=lambda: "ada") as executor:
        jobs = JobsBlueprint(executor)
        app.register_blueprint(jobs)
        api = smorest.Api(app)
        for name, schema in SCHEMAS.items():
            api.spec.components.schema(name, schema)
        api.spec.components.response("Late", LATE)
        reports = smorest.Blueprint("reports", "reports")

        view: Any = jobs.respond_async(wait=0)(partial(report, go))
        for decorate in (  # the lowest first
            reports.alt_response(202, "Late"),
            reports.response(200, {"pages": fields.Integer()}),
            reports.route("/reports", methods=["POST"]),
        ):
            view = decorate(view)
        api.register_blueprint(reports)
        check_late_and_in_time(app.test_client(), go)
        check_document(api.spec.to_dict())


def test_apiflask_documents_a_slow_view(go: threading.Event) -> None:
    apiflask: Any = pytest.importorskip("apiflask")
    fields: Any = import_module("marshmallow.fields")
    app = apiflask.APIFlask("apiflask")
    with Executor(app, user=lambda: "ada") as executor:
        jobs = JobsBlueprint(executor)
        app.register_blueprint(jobs)

        def add_schemas(document: Any) -> Any:
            document["components"].setdefault("schemas", {}).update(SCHEMAS)
            return document

        app.spec_processor(add_schemas)
        view: Any = jobs.respond_async(wait=0)(partial(report, go))
        for decorate in (  # the lowest first
            app.doc(responses={202: LATE}),
            app.output({"pages": fields.Integer()}),
            app.post("/reports"),
        ):
            view = decorate(view)
        client = app.test_client()
        check_late_and_in_time(client, go)
        check_document(client.get("/openapi.json").get_json())


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # SeaSurf's
@pytest.mark.parametrize("settings", [{}, {"FIELD": "checked"}], ids=["default", "renamed"])
@pytest.mark.parametrize(
    ("module", "name", "setting", "refused"),
    [
        ("flask_wtf", "CSRFProtect", "WTF_CSRF_FIELD_NAME", 400),
        ("flask_seasurf", "SeaSurf", "CSRF_COOKIE_NAME", 403),
    ],
)
def test_the_tokens_of_an_extension_are_in_the_pages_and_asked_for(
    go: threading.Event,
    module: str,
    name: str,
    setting: str,
    refused: int,
    settings: dict[str, str],
) -> None:
    extension: Any = pytest.importorskip(module)
    app = Flask("protected")
    app.secret_key = "tests"
    if settings:
        app.config[setting] = settings["FIELD"]
    getattr(extension, name)(app)
    with Executor(app, user=lambda: "ada") as executor:
        jobs = JobsBlueprint(executor)
        app.register_blueprint(jobs)

        @app.get("/start")
        def start() -> Response:
            return jobs.accepted(executor.submit(report, go))

        client = app.test_client()
        address = client.get("/start").headers["Location"]
        assert client.post(f"{address}/cancel").status_code == refused
        assert client.delete(address).status_code == refused
        assert not client.get(address).get_json()["cancel_requested"]
        page = client.get(address, headers={"Accept": "text/html"}).get_data(as_text=True)
        fields = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]+)"', page))
        sent = client.post(f"{address}/cancel", data=fields, headers={"Accept": "text/html"})
        assert sent.status_code == 303
        assert client.get(address).get_json()["cancel_requested"]
        again = client.delete(address, headers={"X-CSRFToken": next(iter(fields.values()))})
        assert again.status_code in {200, 202}
        go.set()
