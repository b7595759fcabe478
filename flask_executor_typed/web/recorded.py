"""Read a response to its end in the job, while the contexts of its generators are active."""

from __future__ import annotations

from collections.abc import Callable
from tempfile import SpooledTemporaryFile
from typing import Any

from werkzeug.wrappers import Response

from ..context import SharedContent
from ..errors import ResponseTooLargeError
from ..stores.responses import IN_MEMORY, set_body

__all__ = ("read_body",)


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
    with SpooledTemporaryFile(IN_MEMORY) as spool:
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
        set_body(response, SharedContent(spool), size)
