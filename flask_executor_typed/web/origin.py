"""Refuse unsafe requests that another site makes in a browser, without tokens."""

from __future__ import annotations

from collections.abc import Collection

from werkzeug.wrappers import Request

__all__ = ("comes_from_elsewhere",)


def comes_from_elsewhere(request: Request, trusted: Collection[str]) -> bool:
    """Return whether a page of another origin has sent this request.

    Browsers say so themselves, and no page can make them lie: by ``Sec-Fetch-Site``, or over
    plain HTTP, where they leave that out, by ``Origin``. A client that sends neither is no browser,
    so there is no user whose cookies it could abuse.

    Args:
        request: A request with an unsafe method.
        trusted: Origins that may send requests for their users: ``"https://app.example.com"``.
    """
    origin = request.headers.get("Origin")
    if origin is not None and origin in trusted:
        return False
    # "same-site" is another origin too: a subdomain that others write to.
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"same-origin", "none"}
    # The scheme is not compared: behind a proxy that ends TLS it is often not known here.
    return origin is not None and origin.partition("://")[2] != request.host
