"""The result of a job as a response: a view's own answer, or a value as JSON."""

from __future__ import annotations

import json
import unicodedata
from typing import Any
from urllib.parse import quote

from flask import Response, current_app, jsonify, request
from markupsafe import Markup
from werkzeug.datastructures import Headers
from werkzeug.http import dump_options_header
from werkzeug.wrappers import Response as BaseResponse

from ..stores import JobRecord
from ..stores.encoding import clean_text
from ..stores.responses import RecordedResponse
from .schema import name_of

__all__ = ("conditional", "response_of")

_OK = 200
_SHARED_CACHES = ("public", "max_age", "s_maxage")


def response_of(job: JobRecord, result: Any) -> Response:
    """Return what ``GET .../result`` answers.

    A value never is HTML, unless the app says so by ``Markup``: it may hold what a user has typed.

    Raises:
        TypeError: ``result`` is a value that the app's JSON cannot hold.
        ValueError: it has a number that no JSON can hold.
    """
    if isinstance(result, RecordedResponse):
        response = result.response(current_app.response_class)
    else:
        response = _response_with(job, result)
        response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.headers["X-Content-Type-Options"] = "nosniff"
    _keep_from_shared_caches(response)
    response.headers.setdefault("ETag", f'"{job.id}"')
    return conditional(response)


def _response_with(job: JobRecord, value: Any) -> Response:
    if isinstance(value, BaseResponse):
        body: Any = value.response
        value.direct_passthrough = False
        data = value.get_data()  # which keeps what it reads
        if hasattr(body, "close"):
            body.close()
        return current_app.response_class(data, value.status, Headers(value.headers))  # not its own
    if isinstance(value, Markup):
        return current_app.response_class(clean_text(value), mimetype="text/html")
    if isinstance(value, bytes):
        response: Response = current_app.response_class(value, mimetype="application/octet-stream")
        response.headers["Content-Disposition"] = _attachment(f"{name_of(job)}.bin")
        return response
    return _json_of(value)


def _json_of(value: Any) -> Response:
    response = jsonify(value)
    text = response.get_data(as_text=True)
    if "NaN" in text or "Infinity" in text:  # perhaps a text: then it is JSON
        json.loads(text, parse_constant=_refuse)
    return response


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def _attachment(name: str) -> str:
    """Return a ``Content-Disposition`` with a file's name, as ``send_file`` writes it.

    A job's name may be any text, so what cannot be in a header or a file's name is replaced.
    """
    name = "".join(each if each.isprintable() and each not in r"\/" else "_" for each in name)
    simple = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    names = {"filename": simple}
    if simple != name:
        names["filename*"] = f"UTF-8''{quote(name, safe='')}"  # RFC 5987
    return dump_options_header("attachment", names)


def _keep_from_shared_caches(response: Response) -> None:
    """Leave the answer to one user's browser, which asks again each time."""
    control = response.cache_control
    for directive in _SHARED_CACHES:
        setattr(control, directive, None)
    control.private = True
    if not control.no_store:
        control.no_cache = True
    response.headers.pop("Expires", None)


def conditional(response: Response) -> Response:
    """Answer the conditions of this request, and send the range that it asks for.

    Raises:
        RequestedRangeNotSatisfiable: there is no such range.
    """
    has_validator = "ETag" in response.headers or "Last-Modified" in response.headers
    if response.status_code != _OK or not has_validator:
        return response
    length = response.calculate_content_length()
    if length is None:
        length = response.content_length
    response.make_conditional(request.environ, accept_ranges=True, complete_length=length)
    return response
