"""Complete responses: read to the end where their generators work, kept, and sent many times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Any, TypeVar

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response
from werkzeug.wsgi import FileWrapper

from ..context import SharedContent
from ..errors import ResponseTooLargeError

__all__ = ("RecordedResponse", "read_body")

R = TypeVar("R", bound=Response)

_IN_MEMORY = 256 * 1024
"""Bytes of a body above which it is read into a temporary file."""

_PIECE = 64 * 1024


def read_body(response: Response, limit: Callable[[], int]) -> None:
    """Read the body of a response to its end, here, so that it can be sent anywhere.

    A generator ends, and a file is closed. What ``response.call_on_close`` was given is not
    called: that is for the end of the response.

    Args:
        response: The response, which then has the same body.
        limit: Returns how many bytes it may have; asked for each piece.

    Raises:
        ResponseTooLargeError: it has more.
    """
    if response.is_sequence:
        return
    source: Any = response.response
    with SpooledTemporaryFile(_IN_MEMORY) as spool:
        try:
            size = 0
            for piece in response.iter_encoded():
                size += len(piece)
                if size > (most := limit()):
                    raise ResponseTooLargeError(most)
                spool.write(piece)
        finally:
            close: Callable[[], object] | None = getattr(source, "close", None)
            if close is not None:
                close()
        _set_body(response, SharedContent(spool), size)


def _set_body(response: Response, content: SharedContent, size: int) -> None:
    # Not the server's own wrapper of files: gunicorn's moves the position of the descriptor, which
    # all readers share.
    response.response = FileWrapper(content.open(), _PIECE)
    response.direct_passthrough = False
    response.content_length = size


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """What a view has answered, to be sent at any time, by any number of requests at once."""

    status: str
    headers: tuple[tuple[str, str], ...]
    size: int
    """Bytes of the body."""
    content: SharedContent

    @classmethod
    def of(cls, response: Response) -> RecordedResponse:
        """Record a response that :func:`read_body` has read, and close it."""
        with SpooledTemporaryFile(_IN_MEMORY) as spool:
            spool.writelines(response.iter_encoded())
            size = spool.tell()
            content = SharedContent(spool)
        response.close()
        return cls(response.status, tuple(response.headers), size, content)

    def response(self, kind: type[R]) -> R:
        """Return the response once more."""
        response = kind(status=self.status)
        response.headers = Headers(self.headers)
        _set_body(response, self.content, self.size)
        return response
