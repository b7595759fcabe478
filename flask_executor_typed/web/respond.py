"""Run a view in the background, and decide whether its answer is in time or late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from flask import Response, current_app, g, has_request_context, request

from ..context import (
    copy_of_g,
    copy_of_session,
    running_call,
    take_after_request_functions,
    use_session,
)
from ..errors import ResponseTooLargeError, UnsupportedError
from ..futures import FutureProxy
from ..stores.responses import RecordedResponse
from .recorded import read_body

__all__ = ("InTime", "Visit", "is_done", "read_request")

_CONDITIONS = (
    "HTTP_IF_NONE_MATCH",
    "HTTP_IF_MODIFIED_SINCE",
    "HTTP_IF_RANGE",
    "HTTP_RANGE",
)
"""What must not change the answer of a view, which is for more than one request."""

_FORMS = {"application/x-www-form-urlencoded", "multipart/form-data"}


def read_request() -> None:
    """Read the body of this request, which is the server's again when it is answered.

    Raises:
        HTTPException: there is too much of it, or it cannot be read.
    """
    if request.mimetype in _FORMS:
        _ = request.form, request.files
    else:
        request.get_data(cache=True)


def is_done(future: FutureProxy[Any], seconds: float | None) -> bool:
    """Wait for a future; ``False`` if it takes longer."""
    try:
        future.exception(seconds)
    except FutureTimeoutError:
        return False
    except CancelledError:
        pass
    return True


@dataclass(slots=True)
class InTime:
    """What a view has done for a request that waits for it."""

    response: Response
    session: Any
    g_items: dict[str, Any]

    def hand_over(self) -> Response:
        """Give session and ``g`` to this request, and return the response."""
        use_session(self.session)
        for name, value in self.g_items.items():
            setattr(g, name, value)
        return self.response


class Visit:
    """One request to a view that runs in the background: in the request, and in the job.

    Args:
        view: The view, with its arguments.
        name: What the view is called.
        limit: Bytes that a response may have to be kept. One in time may have ten times as many.
        keep_cookies: Whether a late response keeps its cookies.
    """

    def __init__(
        self, view: Callable[[], Any], name: str, *, limit: int, keep_cookies: bool
    ) -> None:
        self._view = view
        self.name = name
        self._max_bytes = limit
        self._keep_cookies = keep_cookies
        # A session of the job's own: with one for both, the request would save what the job is
        # writing.
        self._session = copy_of_session()
        # The job that has an answer and the request that stops waiting both take this lock once,
        # and the first decides. So no complete answer is thrown away, and a late one knows it.
        self._lock = threading.Lock()
        self._is_late: bool | None = None  # guarded by _lock
        self.has_raised: bool = False
        """Whether the future has an exception that is this request's to raise, and is not logged.

        Written before the future is settled.
        """

    # -- in the request --------------------------------------------------------------------------

    def leave(self) -> bool:
        """Stop waiting; ``False`` if there is an answer, which the future has in a moment."""
        with self._lock:
            if self._is_late is None:
                self._is_late = True
            return self._is_late

    # -- in the job ------------------------------------------------------------------------------

    def run(self) -> InTime | RecordedResponse:
        """Call the view, and return its whole answer."""
        self._begin()
        return self._finish(self._view)

    async def run_async(self) -> InTime | RecordedResponse:
        """Call an ``async def`` view, and return its whole answer."""
        self._begin()
        answer: Any = None
        error: Exception | None = None
        try:
            answer = await self._view()
        except Exception as raised:
            error = raised

        def outcome() -> Any:
            if error is not None:
                raise error
            return answer

        try:
            # In a thread: files and generators block, and the app's functions may be of any kind.
            return await asyncio.to_thread(self._finish, outcome)
        finally:
            error = None  # its traceback has this frame

    def _begin(self) -> None:
        if not has_request_context():
            raise UnsupportedError(
                self.name,
                "EXECUTOR_PUSH_REQUEST_CONTEXT=False",
                "run a view",
                "leave it at True",
            )
        use_session(self._session)
        copied: Any = request
        for name in _CONDITIONS:
            copied.environ.pop(name, None)
        if "_cached_data" in vars(copied._get_current_object()):
            # It was read here; a view may read it as a stream all the same.
            vars(copied._get_current_object())["stream"] = BytesIO(copied.get_data())

    def _finish(self, outcome: Callable[[], Any]) -> InTime | RecordedResponse:
        app: Any = current_app
        response: Response
        try:
            try:
                answer = outcome()
            except Exception as error:
                answer = app.handle_user_exception(error)
            response = app.make_response(answer)
            for function in take_after_request_functions():
                response = app.ensure_sync(function)(response)
            read_body(response, self._limit)
        except BaseException:
            if self._arrives_in_time():
                running_call.get().mute()  # Flask logs it
                self.has_raised = True
            raise
        if self._arrives_in_time():
            carry_g = running_call.get().snapshot.rules.carry_g
            return InTime(response, self._session, copy_of_g(carry_g))
        return self._record(response)

    def _limit(self) -> int:
        # Without the lock: it may become late at any moment, and the next piece finds out.
        return self._max_bytes if self._is_late else 10 * self._max_bytes

    def _arrives_in_time(self) -> bool:
        with self._lock:
            if self._is_late is None:
                self._is_late = False
            return not self._is_late

    def _record(self, response: Response) -> RecordedResponse:
        lost: list[str] = []
        if getattr(self._session, "modified", False):
            lost.append("what it changed in the session")
        if "Set-Cookie" in response.headers and not self._keep_cookies:
            response.headers.remove("Set-Cookie")
            lost.append("its cookies")
        if lost:
            current_app.logger.warning(
                "the answer of %s is late, so %s cannot reach the client",
                request.endpoint,
                " and ".join(lost),
            )
        recorded = RecordedResponse.of(response)
        if recorded.size > self._max_bytes:
            raise ResponseTooLargeError(self._max_bytes)
        return recorded
