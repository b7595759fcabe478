"""Responses that are read once and sent many times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask, send_file
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder, run_wsgi_app
from werkzeug.wrappers import Response

from flask_executor_typed.errors import ResponseTooLargeError
from flask_executor_typed.stores.responses import RecordedResponse
from flask_executor_typed.web.recorded import read_body

SMALL = b"small " * 10
LARGE = os.urandom(3_000_000)


def unlimited() -> int:
    return 10**9


def sent(response: Response, **headers: str) -> tuple[bytes, str, dict[str, str]]:
    environ = EnvironBuilder(headers=Headers(headers)).get_environ()
    body, status, sent_headers = run_wsgi_app(response, environ, buffered=True)
    return b"".join(body), status, dict(sent_headers)


class Pieces:
    """A body that notes what happens to it."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_a_stream_is_read_and_closed_and_sent_with_its_length(content: bytes) -> None:
    body = Pieces(content[:1000], content[1000:])
    ends: list[str] = []
    response = Response(body)
    response.call_on_close(lambda: ends.append("sent"))
    read_body(response, unlimited)
    assert (body.closed, ends) == (1, [])
    found, _, headers = sent(response)
    assert found == content
    assert headers["Content-Length"] == str(len(content))
    assert (body.closed, ends) == (1, ["sent"])


def test_a_generator_that_fails_is_closed_and_its_error_raised() -> None:
    ended: list[bool] = []

    def generate() -> Iterator[bytes]:
        try:
            yield b"a"
            raise LookupError("broken")
        finally:
            ended.append(True)

    with pytest.raises(LookupError, match="broken"):
        read_body(Response(generate()), unlimited)
    assert ended == [True]


def test_an_endless_stream_is_ended_at_the_limit_and_closed() -> None:
    ended: list[bool] = []

    def generate() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            ended.append(True)

    limits = iter([10**6] * 5 + [2000] * 10**6)  # it may become lower on the way
    with pytest.raises(ResponseTooLargeError) as raised:
        read_body(Response(generate()), lambda: next(limits))
    assert raised.value.limit == 2000
    assert ended == [True]


def test_a_file_is_read_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(LARGE)
    app = Flask("files")
    with app.test_request_context():
        response = send_file(path, mimetype="text/csv")
        file = response.response
        read_body(response, unlimited)
        assert getattr(file, "file").closed  # noqa: B009
    assert sent(response)[0] == LARGE


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_recorded_response_is_sent_as_it_was_by_many_at_once(content: bytes) -> None:
    ends: list[str] = []
    response = Response([content], 201, {"X-Part": "1"}, mimetype="text/csv")
    response.headers.add("X-Part", "2")
    response.call_on_close(lambda: ends.append("recorded"))
    recorded = RecordedResponse.of(response)
    assert ends == ["recorded"]
    assert recorded.size == len(content)
    del response

    def read(start: int) -> bytes:
        again = recorded.response(Response)
        assert (again.status, again.headers.getlist("X-Part")) == ("201 CREATED", ["1", "2"])
        assert again.mimetype == "text/csv"
        again.status_code = 200
        again.make_conditional(
            EnvironBuilder(headers=[("Range", f"bytes={start}-")]).get_environ(),
            accept_ranges=True,
            complete_length=recorded.size,
        )
        return sent(again, Range=f"bytes={start}-")[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(16))) == [content[start:] for start in range(16)]


def test_a_response_without_a_type_gets_none() -> None:
    response = Response(status=204)
    del response.headers["Content-Type"]
    again = RecordedResponse.of(response).response(Response)
    assert again.status_code == 204
    assert "Content-Type" not in again.headers
