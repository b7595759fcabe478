"""A captured request, and a copy of it for each run of a job."""

from __future__ import annotations

from io import BytesIO
from types import NoneType
from typing import Any

from flask import Request
from werkzeug.datastructures import EnvironHeaders, MultiDict

from ..errors import BodyNotReadError
from .compat import IS_MERGED, session_attribute
from .lazy import complete
from .portable import PortableRequest
from .uploads import captured_uploads

__all__ = ("UNREAD_BODY", "RequestSnapshot")

_LAST_REQUEST = "flask_executor_typed.request"
"""The attribute in which a context keeps the last snapshot of its request."""


class RequestSnapshot:
    """The contents of a request, from which each job gets a request of its own.

    A shallow copy: it has what the view has read (form, JSON, data) and the attributes set on the
    request. ``session`` is the same object, as in Flask-Executor. It doesn't refer to the request
    context, which keeps it for the next job that the request submits.
    """

    __slots__ = ("_attributes", "_can_be_compared", "_environ", "_kind", "_uploads", "_was_read")

    @classmethod
    def of(cls, context: Any) -> RequestSnapshot:
        """Return the previous job's snapshot if nothing has changed since, or else a new one."""
        complete(context)
        last: RequestSnapshot | None = context.__dict__.get(_LAST_REQUEST)
        if last is None or not last.is_of(context):
            # ``_request`` on Flask 3.2, where ``request`` is a property that cannot be set
            request = context._request if IS_MERGED else context.request
            last = context.__dict__[_LAST_REQUEST] = cls(request)
        return last

    def __init__(self, request: Any) -> None:
        self._kind: type[Request] = type(request)
        self._uploads = captured_uploads(request) if request.__dict__.get("files") else None
        self._attributes: dict[str, Any] = request.__dict__.copy()
        self._environ: dict[str, Any] = self._attributes["environ"].copy()
        self._can_be_compared: bool | None = None  # unknown so far
        self._was_read = getattr(self._attributes.get("stream"), "is_exhausted", False)

    def is_of(self, context: Any) -> bool:
        attributes: dict[str, Any] = (context._request if IS_MERGED else context.request).__dict__
        try:
            if self._can_be_compared is None:  # only now: most requests submit one job
                kinds: set[Any] = set(map(type, self._environ.values()))
                self._can_be_compared = _are_flasks_own(self._attributes) and all(
                    kind in _IMMUTABLE or kind.__eq__ is object.__eq__ for kind in kinds
                )
            return (
                self._can_be_compared
                and attributes == self._attributes
                and attributes["environ"] == self._environ
            )
        except Exception:  # a value in the environ, or its type, cannot be compared
            return False

    def request_copy(self) -> Request:
        """Return a request for one run."""
        request: Request = object.__new__(self._kind)
        attributes, environ = self._attributes.copy(), self._environ.copy()
        # The connection belongs to the server. Werkzeug reads the body through ``stream``, which it
        # recreates from the environ when missing; an exhausted one stays exhausted.
        environ["wsgi.input"] = UNREAD_BODY if announces_body(environ) else BytesIO()
        environ.pop("werkzeug.request", None)  # the view's
        attributes["environ"] = environ
        if type(attributes.get("headers")) is EnvironHeaders:  # otherwise they are the view's own
            attributes["headers"] = EnvironHeaders(environ)
        if "_cached_data" in attributes or ("form" in attributes and holds_form(environ)):
            attributes["stream"] = BytesIO()
        elif not self._was_read:
            attributes.pop("stream", None)
        if self._uploads is not None:
            attributes["files"] = MultiDict((upload.key, upload.open()) for upload in self._uploads)
        if IS_MERGED:
            attributes["close"] = _close_nothing  # Flask 3.2 does so when it pops the context
        object.__setattr__(request, "__dict__", attributes)  # the class may guard its own
        return request

    def make_context(self, captured: Any) -> Any:
        # Flask's own way would match the URL again and build a URL adapter for every job, which is
        # most of what a job costs in Flask-Executor.
        context: Any = object.__new__(captured.__class__)
        values = captured.__dict__.copy()
        values["request"] = self.request_copy()
        values["_after_request_functions"] = []
        object.__setattr__(context, "__dict__", values)
        return context

    def make_parts(self, captured: Any) -> tuple[Any, Any, Any]:
        return self.request_copy(), captured._session, captured.url_adapter

    def portable(self, captured: Any) -> PortableRequest:
        # Attributes that the view has set on the request stay behind.
        attributes, environ = self._attributes, self._environ
        form: MultiDict[str, str] | None = attributes.get("form")
        body: bytes | None = attributes.get("_cached_data")
        has_parsed_all = self._was_read or (form is not None and holds_form(environ))
        if body is None and (has_parsed_all or not announces_body(environ)):
            body = b""
        rule = attributes.get("url_rule")
        session = getattr(captured, session_attribute(captured))
        return PortableRequest(
            environ={name: value for name, value in environ.items() if _is_plain(name, value)},
            body=body,
            form=None if form is None else list(form.items(multi=True)),
            has_uploads=self._uploads is not None,
            rule=None if rule is None else (rule.endpoint, rule.rule),
            view_args=attributes.get("view_args"),
            session_kind=type(session),
            session=dict(session or {}),
        )


def _close_nothing() -> None:
    """Do nothing: a job's request is a copy, and its files are the view's to close."""


def _are_flasks_own(attributes: dict[str, Any]) -> bool:
    """Return whether a request has only attributes that Flask sets, each once.

    Others can't be compared: two empty lists that a view sets for two jobs are equal but distinct,
    and a stream changes as it is read.
    """
    return "stream" not in attributes and _FLASKS_OWN.issuperset(attributes)


_FLASKS_OWN = frozenset({*dir(Request), *vars(Request({})), "url_rule", "view_args", "json_module"})

_IMMUTABLE = frozenset({bool, int, float, str, bytes, tuple, NoneType})


def _is_plain(name: str, value: object) -> bool:
    """Return whether a value of a WSGI environ describes the request rather than serves it."""
    return name == "wsgi.version" or type(value) in {str, bytes, int, float, bool}


# -- the body -------------------------------------------------------------------------------------

_FORM_TYPES = {"multipart/form-data", "application/x-www-form-urlencoded"}


def holds_form(environ: dict[str, Any]) -> bool:
    """Return whether parsing a request's form reads its body."""
    kind: str = environ.get("CONTENT_TYPE", "")
    return kind.partition(";")[0].strip().lower() in _FORM_TYPES


def announces_body(environ: dict[str, Any]) -> bool:
    """Return whether a request has a body, by RFC 9112, section 6.3."""
    length = environ.get("CONTENT_LENGTH")
    return length not in {None, "", "0"} or "HTTP_TRANSFER_ENCODING" in environ


class _UnreadBody:
    """A stand-in for the connection. Reading it raises an error that says what to do instead."""

    def _refuse(self, *args: object) -> bytes:
        raise BodyNotReadError

    read = readline = readlines = readinto = __iter__ = __next__ = _refuse


UNREAD_BODY: Any = _UnreadBody()
