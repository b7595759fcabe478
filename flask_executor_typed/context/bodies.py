"""The body of a request: what a WSGI environ tells of it, and what stands where it was."""

from __future__ import annotations

from typing import Any

from ..errors import BodyNotReadError

__all__ = ("UNREAD_BODY", "announces_body", "holds_form")

_FORM_TYPES = {"multipart/form-data", "application/x-www-form-urlencoded"}


def holds_form(environ: dict[str, Any]) -> bool:
    """Whether parsing the form of a request reads its body."""
    kind: str = environ.get("CONTENT_TYPE", "")
    return kind.partition(";")[0].strip().lower() in _FORM_TYPES


def announces_body(environ: dict[str, Any]) -> bool:
    """Whether a request has a body, as RFC 9112 (6.3) tells it."""
    length = environ.get("CONTENT_LENGTH")
    return length not in {None, "", "0"} or "HTTP_TRANSFER_ENCODING" in environ


class _UnreadBody:
    """Stands where the connection was: reading it says what to do instead."""

    def _refuse(self, *args: object) -> bytes:
        raise BodyNotReadError

    read = readline = readlines = readinto = __iter__ = __next__ = _refuse


UNREAD_BODY: Any = _UnreadBody()
