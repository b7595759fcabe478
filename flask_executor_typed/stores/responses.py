"""Whole responses as results of jobs: kept, stored, and sent many times.

That of a late view is a :class:`RecordedResponse`; what a job returns is Flask's own ``Response``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Any, TypeVar

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response
from werkzeug.wsgi import FileWrapper

from ..context import SharedContent

__all__ = ("IN_MEMORY", "RecordedResponse", "encode_response", "set_body")

R = TypeVar("R", bound=Response)

IN_MEMORY = 256 * 1024
"""Bytes of a body above which it is read into a temporary file."""

_PIECE = 64 * 1024


def set_body(response: Response, content: SharedContent, size: int) -> None:
    """Make a file of ``size`` bytes the body of a response."""
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
        """Record a response, whose body was read to its end, and close it."""
        with SpooledTemporaryFile(IN_MEMORY) as spool:
            spool.writelines(response.iter_encoded())
            size = spool.tell()
            content = SharedContent(spool)
        response.close()
        return cls(response.status, tuple(response.headers), size, content)

    def response(self, kind: type[R]) -> R:
        """Return the response once more."""
        response = kind(status=self.status)
        response.headers = Headers(self.headers)
        set_body(response, self.content, self.size)
        return response

    def encoded(self) -> bytes:
        """Return the response as stores keep it: a line of JSON, and the body."""
        head = json.dumps({"status": self.status, "headers": self.headers})
        with self.content.open() as body:
            return b"%s\n%s" % (head.encode(), body.read())

    @classmethod
    def decoded(cls, data: bytes) -> RecordedResponse:
        """Return the response that :meth:`encoded` has made these bytes of."""
        head, _, body = data.partition(b"\n")
        found = json.loads(head)
        headers = tuple((name, value) for name, value in found["headers"])
        return cls(found["status"], headers, len(body), SharedContent(BytesIO(body)))


def encode_response(response: Response, most: int) -> bytes | None:
    """Return a response as stores keep it; ``None`` if its body is made while it is sent.

    A file is read into the response, unless it has more than ``most`` bytes.
    """
    if not response.is_sequence:
        size = response.headers.get("Content-Length", type=int)
        if not response.direct_passthrough or size is None or size > most:
            return None
        source: Any = response.response
        response.set_data(b"".join(response.iter_encoded()))
        response.direct_passthrough = False
        source.close()
    data = response.get_data()
    content = SharedContent(BytesIO(data))
    recorded = RecordedResponse(response.status, tuple(response.headers), len(data), content)
    return recorded.encoded()
