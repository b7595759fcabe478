"""Requests with a form and uploads, as clients send them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from flask import Flask, request
from werkzeug.datastructures import FileStorage

BOUNDARY = "----boundary"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
FORM = "application/x-www-form-urlencoded"


def multipart(*files: bytes) -> bytes:
    """Return the body of a form with a field ``title`` and the files ``file0``, ``file1``, ..."""
    body = io.BytesIO()
    body.write(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="title"\r\n\r\nx\r\n'.encode()
    )
    for number, content in enumerate(files):
        head = f'form-data; name="file{number}"; filename="{number}.bin"'
        body.write(f"--{BOUNDARY}\r\nContent-Disposition: {head}\r\n".encode())
        body.write(b"Content-Type: application/x-test\r\n\r\n" + content + b"\r\n")
    body.write(f"--{BOUNDARY}--\r\n".encode())
    return body.getvalue()


def upload(name: str = "file0") -> FileStorage:
    return request.files[name]


def post(
    app: Flask,
    view: Callable[[], object],
    body: bytes,
    content_type: str,
    environ: dict[str, Any] | None = None,
) -> None:
    """Handle one request with ``view``, to its end. The view's exceptions are raised here."""

    def respond() -> str:
        view()
        return "fine"

    app.testing = True
    app.add_url_rule("/", view_func=respond, methods=["POST"])
    response = app.test_client().post(
        "/", data=body, content_type=content_type, environ_overrides=environ or {}
    )
    assert response.data == b"fine"
    response.close()
