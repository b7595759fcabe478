"""The app of ``tests/web/rows.py``: jobs and slow views, each of which waits for a file."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, g, redirect, request, send_file, session
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from werkzeug.exceptions import TooManyRequests, UnprocessableEntity

from flask_executor_typed import Executor, current_job
from flask_executor_typed.web import JobsBlueprint

__all__ = ("LARGE", "SCRIPT", "create_app")

SCRIPT = "<script>alert(1)</script>"
LARGE = 2_000_000
"""Bytes: more than a late answer may have, and less than one in time."""


def create_app(folder: Path, store: str | None) -> Flask:
    app = Flask("rows", instance_path=str(folder))
    app.secret_key = "tests"
    app.config.from_mapping(EXECUTOR_STORE=store, EXECUTOR_STORE_MAX_RESULT_BYTES=1_000_000)
    app.config["EXECUTOR_MAX_WORKERS"] = 8
    executor = Executor[Any](app, user=lambda: request.args.get("user", "ada"))
    jobs = JobsBlueprint(executor, operator=lambda: request.args.get("user") == "root", streams=2)
    app.register_blueprint(jobs)

    def passes(gate: str) -> None:
        while not (folder / gate).exists():
            current_job.raise_if_cancelled()
            time.sleep(0.002)

    @app.after_request
    def name_tenant(response: Response) -> Response:
        response.headers["X-Tenant"] = str(g.get("tenant"))
        response.headers["X-Process"] = str(os.getpid())
        return response

    @app.get("/me")
    def me() -> dict[str, object]:
        return dict(session)

    @app.route("/job/<kind>", methods=["GET", "POST"])
    def job(kind: str) -> Response:
        gate = request.args["gate"]

        def work() -> object:
            passes(gate)
            return RESULTS[kind]()

        named = executor.using(name=SCRIPT, key=f"{SCRIPT}{gate}") if kind == "script" else executor
        return jobs.accepted(named.submit(work))

    def view(kind: str) -> ResponseReturnValue:
        gate = request.args["gate"]
        passes(gate)
        return VIEWS[kind]()

    async def async_view(kind: str) -> ResponseReturnValue:
        while not (folder / request.args["gate"]).exists():
            await asyncio.sleep(0.002)
        return VIEWS[kind]()

    route = app.add_url_rule
    methods = ["GET", "POST"]
    for name, decorate, function in (
        ("view", jobs.respond_async(wait=None), view),
        ("async", jobs.respond_async(wait=None), async_view),
        ("hasty", jobs.respond_async(wait=0.05), view),
        ("keeping", jobs.respond_async(wait=None, keep_cookies=True), view),
    ):
        rule: Any = decorate(function)
        route(f"/{name}/<kind>", name, rule, methods=methods)
    return app


# -- what jobs return ------------------------------------------------------------------------------


def _raise(error: Exception) -> Any:
    raise error


def _wild() -> str:
    current_job.progress(nan, inf, "x" * 10_000_000)
    return "wild"


def _script() -> object:
    current_job.progress(1, 2, SCRIPT)
    raise UnprocessableEntity(SCRIPT)


RESULTS: dict[str, Callable[[], object]] = {
    "text": lambda: "<b>text</b>",
    "bytes": lambda: b"\0\xff",
    "markup": lambda: Markup("<b>bold</b>"),
    "none": lambda: None,
    "response": lambda: Response("a;b\n", 203, {"X-Rows": "1"}, mimetype="text/csv"),
    "digits": lambda: "0123456789",
    "error": lambda: _raise(ValueError("secret")),
    "problem": lambda: _raise(UnprocessableEntity("The file has no header row.")),
    "busy": lambda: _raise(TooManyRequests("Too fast.", retry_after=60)),
    "own": lambda: abort(Response("sorry", 418, {"X-Rows": "2"})),
    "wild": _wild,
    "script": _script,
}


# -- what views answer -----------------------------------------------------------------------------


def _session() -> ResponseReturnValue:
    session["seen"] = "yes"
    return "in the session"


def _cookie() -> ResponseReturnValue:
    response = Response("with a cookie")
    response.set_cookie("seen", "yes")
    return response


def _tenant() -> ResponseReturnValue:
    g.tenant = "north"
    return "of a tenant"


def _form() -> ResponseReturnValue:
    return {"form": request.form.to_dict(), "files": [each.filename for each in _files()]}


def _files() -> list[Any]:
    return list(request.files.values())


VIEWS: dict[str, Callable[[], ResponseReturnValue]] = {
    "plain": lambda: ("plain", 201, {"X-Rows": "3", "Cache-Control": "public, max-age=60"}),
    "session": _session,
    "cookie": _cookie,
    "tenant": _tenant,
    "form": _form,
    "file": lambda: send_file(__file__, as_attachment=True, max_age=60),
    "redirect": lambda: redirect("/elsewhere", 302),
    "empty": lambda: ("", 204),
    "refused": lambda: abort(409, "It exists."),
    "busy": lambda: _raise(TooManyRequests("Too fast.", retry_after=60)),
    "own": lambda: abort(Response("sorry", 418, {"X-Rows": "2"})),
    "error": lambda: _raise(ValueError("secret")),
    "large": lambda: Response("x" * LARGE),
    "stream": lambda: Response((f"{number}\n" for number in range(3)), mimetype="text/csv"),
}

if "ROWS_FOLDER" in os.environ:
    app = create_app(Path(os.environ["ROWS_FOLDER"]), os.environ.get("ROWS_STORE"))
