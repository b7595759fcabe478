"""An app whose jobs wait until the test lets them go."""

from __future__ import annotations

import threading
from typing import Any

from flask import Flask, request
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

from flask_executor_typed import Executor
from flask_executor_typed.web import JobsBlueprint, job_schema, problem_schema

from ..conftest import TIMEOUT

__all__ = ("HTML", "HTMX", "Shop", "json_of")

HTML = {"Accept": "text/html"}
HTMX = {"HX-Request": "true"}


class Shop:
    """An app whose jobs wait until the test lets them go."""

    def __init__(self, store: str | None = None, **options: Any) -> None:
        self.go = threading.Event()
        self.app = Flask("shop")
        self.app.secret_key = "tests"
        self.app.config["EXECUTOR_STORE"] = store
        self.app.config["EXECUTOR_STORE_LOGS"] = True
        self.executor = Executor(self.app, user=lambda: request.args.get("user", "ada"))
        options.setdefault("operator", lambda: request.args.get("user") == "root")
        self.jobs = JobsBlueprint(self.executor, **options)
        self.client: FlaskClient = self.app.test_client()

        def work(result: Any = None) -> Any:
            assert self.go.wait(TIMEOUT)
            if isinstance(result, Exception):
                self.app.logger.warning("logged <b>secret</b>")
                raise result
            return result

        self.work = work

    def start(self, result: Any = None, **options: Any) -> str:
        """Start a job as ada, and return its address."""
        options.setdefault("base_url", "http://localhost")
        with self.app.test_request_context("/start", **options):
            response = self.jobs.accepted(self.executor.submit(self.work, result))
        assert response.status_code == 202
        return response.headers["Location"]

    def finish(self, address: str) -> Any:
        self.go.set()
        return json_of(self.client.get(address, headers={"Prefer": "wait=10"}))


def json_of(response: TestResponse, status: int = 200) -> Any:
    """Return the JSON of an answer with this status, once it is known to fit its schema."""
    text = response.get_data(as_text=True)
    assert response.status_code == status, text
    kind = {"application/json": job_schema(), "application/problem+json": problem_schema()}
    validator: Any = Draft202012Validator(kind[response.mimetype or ""])
    document = response.get_json(force=True)
    assert [error.message for error in validator.iter_errors(document)] == []
    return document
