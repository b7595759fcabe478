"""Hold calls until the server has closed the response of the current request."""

from __future__ import annotations

import os
import weakref
from collections import deque
from typing import Any

from flask import Response, after_this_request, has_request_context, request
from werkzeug.wsgi import ClosingIterator

from .calls import HeldCall, Hold
from .errors import NoRequestError
from .runtime.exit import unless_ending

__all__ = ("until_response_is_over",)


_KEY = "flask_executor_typed.later"


def until_response_is_over() -> Hold:
    """Hold calls until the server closes or drops the response of the current request.

    Raises:
        NoRequestError: there is no current request that could have a response.
    """
    # A job has a copy of the request, which is not the one in its environ.
    if not has_request_context() or request.environ.get("werkzeug.request") is not _request():
        raise NoRequestError
    environ = request.environ
    if _KEY not in environ:
        environ[_KEY] = _Follower(_request())
    follower: _Follower = environ[_KEY]
    if follower.calls is None:
        raise NoRequestError
    return follower.calls.hold


def _request() -> Any:
    current: Any = request
    return current._get_current_object()


class _CallsOfResponse:
    """The calls that wait for the end of a response, which alone keeps them after the request.

    The request must not keep them: a kept future refers to it, so they might never be submitted.
    """

    def __init__(self) -> None:
        self._held: deque[HeldCall] = deque()
        self._process = os.getpid()

    def hold(self, call: HeldCall) -> None:
        self._held.append(call)

    def submit(self) -> None:
        while self._held:
            # Removed afterwards: if a signal handler raises, the call is submitted again when the
            # response is gone, which does no harm to one that has begun.
            self._held[0].submit()
            self._held.popleft()

    @unless_ending
    def __del__(self) -> None:
        # The server has dropped the response without closing it: asgiref's WsgiToAsgi closes none,
        # and an after_request function may have put the body into another response.
        if self._process == os.getpid():  # in the child of a fork, it is not over
            self.submit()


class _Follower:
    """Finds the response of a request."""

    def __init__(self, request: Any) -> None:
        self.calls: _CallsOfResponse | None = _CallsOfResponse()
        """``None`` once the request is over."""
        # No WeakSet: a class of responses may have __eq__ and no __hash__, as pytest-flask's has.
        self._responses: list[weakref.ref[Response]] = []
        after_this_request(self._follow)
        # Flask always closes a request when it is done with its contexts. Nothing else detects a
        # request without a response, except a hook in every request.
        request.close = self._close_request
        self._request = weakref.ref(request)

    def _follow(self, response: Response) -> Response:
        # Called once more for the error page, when a later after_request function raises.
        if self.calls is not None:
            self._responses.append(weakref.ref(response))
            if response.direct_passthrough:
                # Then Werkzeug passes the file to the server, and never closes the response.
                body: Any = response.response
                response.response = ClosingIterator(body, self.calls.submit)
            else:
                response.call_on_close(self.calls.submit)
        return response

    def _close_request(self) -> None:
        closing = _request()
        ours = closing is self._request()  # on Flask 3.2, a job closes its copy, method included
        if ours:
            try:
                if self.calls is not None and all(each() is None for each in self._responses):
                    # An exception has passed through Flask to the server, or an after_request
                    # function has replaced the response. No other event will come.
                    self.calls.submit()
            finally:  # also if a signal handler raises: then the rest is submitted when it is freed
                self.calls = None
                del closing.close
        closing.__class__.close(closing)
