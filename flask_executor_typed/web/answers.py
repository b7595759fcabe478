"""Tell a client of a job: as JSON, as a page, as a fragment of one, or as an error."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

from flask import Response, current_app, jsonify, redirect, render_template, request
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    ServiceUnavailable,
    default_exceptions,
)

from ..stores import JobRecord
from ..stores.encoding import clean_text
from .access import Access
from .negotiation import vary, wanted_by
from .pages import ShownJob
from .preferences import Preferences
from .schema import JobDocument, document_of
from .texts import TEXTS, WORDS
from .urls import Urls

__all__ = ("Answers", "asset_versions", "prefer", "retry_after_of", "see_other")

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_STOP_POLLING = 286  # to htmx, which shows no 404; to anything else it is as good as 200
_LONGEST_PAUSE = 30  # seconds, between two polls
_ASSETS = Path(__file__).with_name("static")


@cache
def asset_versions() -> dict[str, str]:
    """Return a part of the address of each asset that changes with its content."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in _ASSETS.iterdir()
    }


class Answers:
    """Makes the answers of one blueprint."""

    def __init__(self, urls: Urls, access: Access, *, retry_after: float, streams: int) -> None:
        self.urls = urls
        self._access = access
        self.retry_after = retry_after
        self._streams = streams

    # -- of one job ------------------------------------------------------------------------------

    def links(self, job: JobRecord) -> dict[str, str]:
        """Return where a job can be asked about; only what can work for it now."""
        url = {"job_id": job.id}
        links = {"self": self.urls.to("job", **url)}
        if job.status == "succeeded" and job.result_state == "stored":
            links["result"] = self.urls.to("result", **url)
        if not job.done and not job.cancel_requested:
            links["cancel"] = self.urls.to("cancel", **url)
        if not job.done and self._streams and request.environ.get("wsgi.multithread"):
            links["events"] = self.urls.to("events", **url)
        return links

    def document(self, job: JobRecord) -> JobDocument:
        return document_of(job, self.links(job))

    def shown(self, job: JobRecord, now: datetime) -> ShownJob:
        return ShownJob(job, self.document(job), now)

    def json(self, job: JobRecord, status: int = 200) -> Response:
        response = jsonify(self.document(job))
        response.status_code = status
        return self._said(response, job)

    def fragment(self, job: JobRecord, status: int = 200) -> Response:
        return self._said(self._html("fragment", status, **self._of(job), is_fragment=True), job)

    def gone(self) -> Response:
        """Tell htmx that a job does not exist, or is not this user's to see."""
        return self.html("gone", _STOP_POLLING)

    def page(self, job: JobRecord, *, follow: bool, reloads: bool) -> Response:
        """Return the page of a job.

        Args:
            job: The job.
            follow: Whether the reader is to be sent to the result.
            reloads: Whether the page reloads itself where there are no scripts.
        """
        query = {"follow": 1} if follow else {}
        here = self.urls.to("job", job_id=job.id, **query)
        still = self.urls.to("job", job_id=job.id, refresh=0, **query)
        context = self._of(job)
        context["links"] |= {"again": here, "still": still}
        refresh = context["retry_after"] if reloads and not job.done else None
        response = self._html("job", **context, follow=follow, refresh=refresh)
        return self._said(response, job)

    def _of(self, job: JobRecord) -> dict[str, Any]:
        now = datetime.now(timezone.utc)
        url = {"job_id": job.id}
        return {
            "job": self.shown(job, now),
            "record": job,
            "is_operator": self._access.is_operator(),
            "retry_after": retry_after_of(job, self.retry_after, now),
            "links": {
                "list": self.urls.to("list"),
                "fragment": self.urls.to("fragment", **url),
                "cancel": self.urls.to("cancel", **url),
            },
        }

    def pending(self, job: JobRecord, preferences: Preferences, longest: float) -> Response:
        """Return what a client gets instead of the answer, which it can ask for later."""
        wanted = wanted_by(request)
        if wanted == "html":
            # A browser ignores the Location of a 202, and a reload would send the form again.
            response = see_other(self.urls.to("job", job_id=job.id, follow=1))
        else:
            response = self.fragment(job, 202) if wanted == "fragment" else self.json(job, 202)
            response.headers["Location"] = self.urls.to("job", job_id=job.id)
            response.autocorrect_location_header = False
        return prefer(response, preferences, longest)

    def _said(self, response: Response, job: JobRecord) -> Response:
        response.headers["Cache-Control"] = "no-store"
        if not job.done:
            now = datetime.now(timezone.utc)
            response.headers["Retry-After"] = str(retry_after_of(job, self.retry_after, now))
        return response

    # -- pages -----------------------------------------------------------------------------------

    def html(self, template: str, status: int = 200, **context: Any) -> Response:
        """Return a page that is not kept by any cache."""
        response = self._html(template, status, **context)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _html(self, template: str, status: int = 200, **context: Any) -> Response:
        text = render_template(
            f"executor/{template}.html", texts=TEXTS, words=WORDS, asset=self._asset, **context
        )
        response: Response = current_app.response_class(clean_text(text), status)
        response.headers["Content-Security-Policy"] = _CSP
        response.headers["Referrer-Policy"] = "same-origin"  # with less, our forms have no Origin
        return response

    def _asset(self, name: str) -> str:
        return self.urls.to("static", filename=name, v=asset_versions()[name])

    # -- errors ----------------------------------------------------------------------------------

    def missing(self) -> HTTPException:
        """Return the error for a job that does not exist, or is not this user's to see."""
        return self.problem(404, "There is no such job.")

    def problem(  # noqa: PLR0913  # an error has so many parts
        self,
        status: int,
        detail: str | None,
        *,
        kind: str = "about:blank",
        title: str | None = None,
        job: JobRecord | None = None,
        cause: BaseException | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> HTTPException:
        """Return an error to raise. It answers itself, unless the app handles such errors.

        Args:
            status: The HTTP status.
            detail: What has happened, for the client.
            kind: A URI for programs.
            title: Instead of the status in words.
            job: The job that it is about.
            cause: What the job has raised.
            headers: More of them, or others.
        """
        error = _exception_for(status, detail, cause)
        document: dict[str, Any] = {
            "type": kind,
            "title": title or error.name,
            "status": status,
            "detail": detail,
        }
        if job is not None:
            document["job"] = self.urls.to("job", job_id=job.id)
        if wanted_by(request) == "json":
            response = jsonify(document)
            response.status_code = status
            response.mimetype = "application/problem+json"
        else:
            links = {"list": self.urls.to("list")}
            response = self._html(
                "problem", status, title=document["title"], detail=detail, links=links
            )
        response.headers.update(MultiDict(headers))
        response.headers["Cache-Control"] = "no-store"
        if status == ServiceUnavailable.code:
            response.headers.setdefault("Retry-After", str(ceil(max(1, self.retry_after))))
        vary(response, "Accept", "HX-Request")
        error.response = response
        return error


def _exception_for(status: int, detail: str | None, cause: BaseException | None) -> HTTPException:
    kind = default_exceptions.get(status)
    if kind is None:
        error = HTTPException(detail)
        error.code = status
        return error
    if kind is InternalServerError:
        return InternalServerError(detail, original_exception=cause)
    return kind(description=detail)


def see_other(url: str) -> Response:
    """Send a browser to another page, which it opens with GET."""
    response = current_app.make_response(redirect(url, 303))
    response.autocorrect_location_header = False  # of Werkzeug 2.0: it would add the Host
    response.headers["Cache-Control"] = "no-store"
    return response


def prefer(response: Response, preferences: Preferences, longest: float) -> Response:
    """Say what was made of a client's preferences."""
    if applied := preferences.applied(longest):
        response.headers["Preference-Applied"] = applied
    return response


def retry_after_of(job: JobRecord, least: float, now: datetime) -> int:
    """Return seconds until a client should ask again: more of them, the longer a job takes."""
    age = (now - job.submitted_at).total_seconds()
    return ceil(min(_LONGEST_PAUSE, max(1, least, age / 10)))
