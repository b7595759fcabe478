"""Calls that are submitted when something has happened: the response is over, a session committed.

The only module that follows responses and SQLAlchemy's transactions.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from flask import Response, after_this_request, has_request_context, request
from werkzeug.wsgi import ClosingIterator

from .calls import Call
from .errors import NoRequestError
from .futures import FutureCollection

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

__all__ = ("HeldCall", "Hold", "SessionLike", "until_commit", "until_response_is_over")


class SessionLike(Protocol):
    """What type checkers take for a session of SQLAlchemy, which need not be installed."""

    def commit(self) -> None: ...
    def rollback(self) -> None: ...


class _Submitter(Protocol):
    """What a held call needs of its executor."""

    futures: FutureCollection[Any]

    def _hand_over(self, call: Call[Any]) -> None: ...


class HeldCall:
    """A call with a future, and with its key, that no worker knows of yet."""

    __slots__ = ("_call", "_submitter")

    def __init__(self, submitter: _Submitter, call: Call[Any]) -> None:
        self._submitter = submitter
        self._call = call

    def submit(self) -> None:
        """Hand the call to the workers, unless it was cancelled. Raises nothing."""
        if not self._call.future.done():
            self._submitter._hand_over(self._call)

    def drop(self) -> None:
        """Cancel the call and free its key."""
        future = self._call.future
        if not future.done():
            self._submitter.futures._forget(future)
            future.cancel()


Hold = Callable[[HeldCall], object]
"""Takes a call and keeps it until the event."""


# -- responses -------------------------------------------------------------------------------------

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


# -- transactions ----------------------------------------------------------------------------------


def until_commit(session: object) -> Hold:
    """Hold calls until the outermost transaction of a session is committed.

    Raises:
        TypeError: ``session`` is no ``Session`` or ``scoped_session`` of SQLAlchemy.
    """
    plain = _plain_session(session)
    calls = plain.info.get(_KEY)
    if calls is None:
        calls = plain.info[_KEY] = _CallsOfSession()
        from sqlalchemy import event

        event.listen(plain, "after_commit", calls.after_commit)
        event.listen(plain, "after_transaction_end", calls.after_transaction_end)
    transaction = plain.get_nested_transaction() or plain.get_transaction()

    def hold(call: HeldCall) -> None:
        calls.hold(call, transaction)

    return hold


def _plain_session(session: object) -> Session:
    try:
        from sqlalchemy.orm import Session, scoped_session
    except ImportError:  # then it is certainly none
        pass
    else:
        given: Any = session
        scoped: type = scoped_session
        if isinstance(session, scoped):
            given = given()
        if isinstance(given, Session):
            return given
    raise TypeError(
        f"submit_after_commit() got {session!r} ({type(session).__name__}): expected a Session or "
        "a scoped_session of SQLAlchemy, such as db.session; of an AsyncSession, its sync_session"
    )


class _CallsOfSession:
    """The calls that wait for a commit of one session, which keeps this in its ``info``."""

    def __init__(self) -> None:
        # Each with the transaction or SAVEPOINT that it depends on; None for the outermost, when
        # it had not begun.
        self._held: list[tuple[SessionTransaction | None, HeldCall]] = []

    def hold(self, call: HeldCall, transaction: SessionTransaction | None) -> None:
        self._held.append((transaction, call))

    def after_commit(self, session: Session) -> None:
        savepoint = session.get_nested_transaction()
        held, self._held = self._held, []
        if savepoint is None:
            for _, call in held:
                call.submit()
        else:  # released: what it held depends on what is around it now
            around = _around(savepoint)
            self._held = [(around if on is savepoint else on, call) for on, call in held]

    def after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        # After a commit nothing depends on it any more: it was rolled back, or closed.
        outermost = transaction.parent is None
        held, self._held = self._held, []
        for on, call in held:
            if outermost or on is transaction:
                call.drop()
            else:
                self._held.append((on, call))

    def __del__(self) -> None:
        for _, call in self._held:  # the session is gone, and never committed
            call.drop()


def _around(savepoint: SessionTransaction) -> SessionTransaction | None:
    """The SAVEPOINT or outermost transaction that a SAVEPOINT is in."""
    around = savepoint.parent
    while around is not None and not around.nested and around.parent is not None:
        around = around.parent  # past subtransactions, of SQLAlchemy 1.4
    return around
