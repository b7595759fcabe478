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

__all__ = ("until_response_is_over",)


_KEY = "flask_executor_typed.later"


def until_response_is_over() -> Hold:
    """Hold calls until the server closes, or lets go of, the response of the current request.

    Raises:
        NoRequestError: there is no request here that could have a response.
    """
    # A job has a copy of the request, which is not the one that its environ names.
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
    """The calls that wait for the end of a response. When the request is over, it alone has them.

    A future that somebody keeps refers to the request, which must not keep them alive for ever.
    """

    def __init__(self) -> None:
        self._held: deque[HeldCall] = deque()
        self._process = os.getpid()

    def hold(self, call: HeldCall) -> None:
        self._held.append(call)

    def submit(self) -> None:
        while self._held:
            self._held.popleft().submit()

    def __del__(self) -> None:
        # Whoever served the response is done with it and did not close it: asgiref's WsgiToAsgi
        # closes none, and an after_request function may have sent the body in another response.
        if self._process == os.getpid():  # in the child of a fork it is not over
            self.submit()


class _Follower:
    """Finds the response of a request."""

    def __init__(self, request: Any) -> None:
        self.calls: _CallsOfResponse | None = _CallsOfResponse()
        """``None`` when the request is over."""
        self._responses: weakref.WeakSet[Response] = weakref.WeakSet()
        after_this_request(self._follow)
        # Flask closes a request when it is done with its contexts, whatever has happened: the one
        # thing that tells of a request without a response, and needs no hook in every request.
        request.close = self._close_request
        self._request = weakref.ref(request)

    def _follow(self, response: Response) -> Response:
        # Called once more for the error page, when a later after_request function raises.
        if self.calls is not None:
            self._responses.add(response)
            if response.direct_passthrough:
                # Then Werkzeug gives the server the file, and never closes the response itself.
                body: Any = response.response
                response.response = ClosingIterator(body, self.calls.submit)
            else:
                response.call_on_close(self.calls.submit)
        return response

    def _close_request(self) -> None:
        closing = _request()
        ours = closing is self._request()  # on Flask 3.2 a job closes its copy, with what we set
        if ours:
            if self.calls is not None and not self._responses:
                # An exception went through Flask to the server, or an after_request function put
                # another response in the place of ours. Nothing else will happen.
                self.calls.submit()
            self.calls = None
            del closing.close
        closing.__class__.close(closing)
