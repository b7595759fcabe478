"""Find the kind of answer that a client wants."""

from __future__ import annotations

from typing import Literal

from flask import Request, Response, after_this_request, request

from .preferences import Preferences

__all__ = ("Wanted", "read_preferences", "vary", "wanted_by")

Wanted = Literal["json", "html", "fragment"]
"""``"fragment"``: a part of a page, for htmx."""

_FOR_WHOLE_PAGES = ("HX-Boosted", "HX-History-Restore-Request")


def wanted_by(request: Request) -> Wanted:
    """Return what to answer: JSON, unless HTML is preferred to it.

    htmx accepts anything. It wants a fragment, unless it opens a page in place of the browser.
    """
    if request.headers.get("HX-Request") == "true":
        is_for_page = any(request.headers.get(name) == "true" for name in _FOR_WHOLE_PAGES)
        return "html" if is_for_page else "fragment"
    accepted = request.accept_mimetypes
    html = accepted.quality("text/html")
    json = max(accepted.quality("application/json"), accepted.quality("application/problem+json"))
    return "html" if html > json else "json"


def read_preferences() -> Preferences:
    """Return the preferences of this request, and say of its answer, or error, that they count."""
    after_this_request(_vary_by_preferences)
    return Preferences.parse(request.headers.get("Prefer", ""))


def _vary_by_preferences(response: Response) -> Response:
    vary(response, "Prefer", "Accept", "HX-Request")
    return response


def vary(response: Response, *headers: str) -> None:
    """Say on which headers of the request an answer depends, besides those that it names."""
    response.vary.update(headers)
