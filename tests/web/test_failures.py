"""Jobs that speak to their users by raising an ``HTTPException``, in every process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Response, abort, redirect, send_file
from flask.testing import FlaskClient
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import (
    Conflict,
    HTTPException,
    MethodNotAllowed,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
)

from ..conftest import TIMEOUT
from ..helpers.services import redis_server
from .shop import HTML, Shop, json_of


class Shops:
    """A shop, and another process that has its store."""

    def __init__(self, store: str | None, **config: object) -> None:
        self.all = [Shop(store)] if store is None else [Shop(store), Shop(store)]
        self.here = self.all[0]
        for shop in self.all:
            shop.app.config.from_mapping(config)
            shop.executor.init_app(shop.app)
            shop.app.register_blueprint(shop.jobs)

    def close(self) -> None:
        for shop in self.all:
            shop.go.set()
            shop.executor.shutdown()

    @property
    def clients(self) -> list[FlaskClient]:
        return [shop.client for shop in self.all]

    def fail(self, job: Callable[[], object]) -> str:
        """Have a job fail, and return its address."""

        def work() -> object:
            self.here.work()
            return job()

        with self.here.app.test_request_context():
            address = self.here.jobs.accepted(self.here.executor.submit(work)).headers["Location"]
        assert self.here.finish(address)["status"] == "failed"
        return address


@pytest.fixture(params=["memory", "sqlite", "redis"])
def shops(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shops]:
    def opened(store: str | None) -> Iterator[Shops]:
        shops = Shops(store)
        yield shops
        shops.close()

    if request.param == "redis":
        with redis_server() as server:
            yield from opened(server.url)
    else:
        yield from opened(None if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db")


def fails_with(error: Exception) -> Callable[[], object]:
    def job() -> object:
        raise error

    return job


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (TooManyRequests("Too fast.", retry_after=60), "Retry-After", "60"),
        (ServiceUnavailable("Too fast.", retry_after=70), "Retry-After", "70"),
        (MethodNotAllowed(["GET"], "Too fast."), "Allow", "GET"),
        (
            Unauthorized("Too fast.", www_authenticate=WWWAuthenticate("basic", {"realm": "x"})),
            "WWW-Authenticate",
            None,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_headers_of_a_jobs_exception_are_those_of_its_result(
    shops: Shops, error: HTTPException, name: str, value: str | None
) -> None:
    address = shops.fail(fails_with(error))
    for client in shops.clients:
        answer = client.get(f"{address}/result")
        assert json_of(answer, error.code or 0)["detail"] == "Too fast."
        assert answer.headers[name] == (value or dict(error.get_headers())[name])
        page = client.get(f"{address}/result", headers=HTML)
        assert (page.mimetype, name in page.headers) == ("text/html", True)


@pytest.mark.parametrize("how", ["abort", "conflict", "file", "redirect"])
def test_a_response_that_a_jobs_exception_has_is_its_result(
    shops: Shops, tmp_path: Path, how: str
) -> None:
    path = tmp_path / "sorry.html"
    path.write_text("<h1>Sorry</h1>")
    headers = {"X-Rows": "3", "Cache-Control": "public", "Set-Cookie": "a=b"}

    def job() -> object:
        if how == "redirect":
            abort(redirect("/elsewhere"))
        response = send_file(path) if how == "file" else Response(path.read_bytes())
        response.status_code = 409
        response.headers.update(headers)
        if how == "conflict":
            raise Conflict("The file is there.", response=response)
        abort(response)

    address = shops.fail(job)
    for client in shops.clients * 2:  # a body is read once, and sent each time
        document = json_of(client.get(address))
        answer = client.get(f"{address}/result")
        assert document["error"]["status"] == answer.status_code
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        if how == "redirect":
            assert answer.status_code == 302
            assert answer.headers["Location"].endswith("/elsewhere")  # Werkzeug 2.0 adds the host
            continue
        assert (answer.status_code, answer.get_data()) == (409, b"<h1>Sorry</h1>")
        assert (answer.mimetype, answer.headers["X-Rows"]) == ("text/html", "3")
        assert set(answer.headers["Cache-Control"].split(", ")) == {"private", "no-cache"}
        assert answer.headers["Set-Cookie"] == "a=b"
        assert document["error"]["title"] == "Conflict"
        by_operator = client.get(f"{address}/result?user=root")
        assert (by_operator.status_code, "Set-Cookie" in by_operator.headers) == (409, False)


def test_a_future_raises_in_every_process_what_flask_can_answer_with(shops: Shops) -> None:
    errors: list[Any] = [
        TooManyRequests("Too fast.", retry_after=60),
        HTTPException("", Response("sorry", 418)),
    ]
    found: list[list[tuple[int, str | None]]] = []
    for error in errors:
        shops.here.go.clear()
        job_id = shops.fail(fails_with(error)).rpartition("/")[2]
        answers: list[tuple[int, str | None]] = []
        for shop in shops.all:
            with shop.app.test_request_context():
                future = shop.executor.jobs.future(job_id)
                assert future is not None
                raised: Any = future.exception(TIMEOUT)
                response = shop.app.make_response(shop.app.handle_user_exception(raised))
            answers.append((response.status_code, response.headers.get("Retry-After")))
        found.append(answers)
    several = len(shops.all)
    assert found == [[(429, "60")] * several, [(418, None)] * several]


def test_a_response_that_is_too_large_to_be_kept_leaves_its_status(tmp_path: Path) -> None:
    shops = Shops(f"sqlite:///{tmp_path}/jobs.db", EXECUTOR_STORE_MAX_RESULT_BYTES=1000)
    try:
        address = shops.fail(fails_with(Conflict("Large.", Response("x" * 1001, 409))))
        here, elsewhere = (client.get(f"{address}/result") for client in shops.clients)
        assert here.get_data() == b"x" * 1001
        assert json_of(elsewhere, 409)["detail"] == "Large."
    finally:
        shops.close()


def test_an_exception_with_broken_headers_still_speaks(shops: Shops) -> None:
    class BrokenError(Conflict):
        def get_headers(self, *_: Any, **__: Any) -> list[tuple[str, str]]:
            raise LookupError

    class ForgedError(Conflict):
        def get_headers(self, *_: Any, **__: Any) -> list[tuple[str, str]]:
            return [("X-Note", "one\r\nSet-Cookie: a=b"), ("Set-Cookie", "a=b")]

    for kind in (BrokenError, ForgedError):
        shops.here.go.clear()
        address = shops.fail(fails_with(kind("There is one.")))
        for client in shops.clients:
            answer = client.get(f"{address}/result")
            assert json_of(answer, 409)["detail"] == "There is one."
            assert "Set-Cookie" not in answer.headers
