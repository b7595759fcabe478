"""Flask's contexts and the contextvars of one moment: captured here, pushed in a worker.

The only module that knows Flask's private context names and how its versions differ.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Collection
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from io import BufferedReader, BytesIO, RawIOBase
from itertools import chain
from types import NoneType, TracebackType
from typing import IO, TYPE_CHECKING, Any, ClassVar, NamedTuple, ParamSpec, Protocol, TypeVar
from weakref import ref

import flask.globals
from flask import Flask, Request
from flask.ctx import AppContext, _AppCtxGlobals
from flask.sessions import SecureCookieSession
from flask.signals import (
    appcontext_popped,
    appcontext_pushed,
    appcontext_tearing_down,
    request_tearing_down,
)
from werkzeug.datastructures import EnvironHeaders, FileStorage, MultiDict
from werkzeug.local import release_local

from .errors import BodyNotReadError, UploadsLeftBehindError
from .logs import log_exception
from .signals import receivers_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = (
    "CarryG",
    "ContextRules",
    "ContextSnapshot",
    "PortableContext",
    "PortableRequest",
    "PushedContexts",
    "PushedInTask",
    "active_app_context",
    "capture",
    "running_call",
    "without_resources",
)

P = ParamSpec("P")
R = TypeVar("R")

running_call: ContextVar[Any] = ContextVar("flask_executor_typed_call", default=None)
"""The ``Call`` that runs here, or ``None``; one that is over has no ``future`` any more."""

CarryG = Collection[str] | Callable[[str, object], bool]
"""Which names of ``g`` travel to a job: the names, or a function of name and value."""


def without_resources(name: str, value: object) -> bool:
    """Whether ``g.<name>`` travels to a job by default: unless it is something to be closed.

    A value whose type has ``close`` or ``aclose`` (a database connection, a client, a file)
    belongs to the context that opened it, and often to its thread; that context's teardown
    closes it. A job that finds ``g`` without it opens its own, as the view did.
    """
    kind: type = type(value)
    return kind in _PLAIN or not (hasattr(kind, "close") or hasattr(kind, "aclose"))


_PLAIN = frozenset({NoneType, bool, int, float, str, bytes, list, tuple, dict, set})
"""Types of values that are no resources, told apart in half of the time."""


@dataclass(frozen=True, slots=True)
class ContextRules:
    """What of its submitter's contexts an executor gives to a job."""

    push_app: bool = True
    """An app context, with what ``g`` held."""

    push_request: bool = True
    """A request context, with the request and the session."""

    carry_g: Callable[[str, object], bool] = without_resources
    """Whether a name of ``g``, with this value, is in the job's."""


class _StackSlot:
    """A context stack of Flask 2.0 and 2.1, used as the ContextVar that followed it."""

    def __init__(self, stack: Any) -> None:
        self.stack = stack

    def get(self, default: None) -> Any:
        return self.stack.top

    def set(self, context: object) -> object:
        return self.stack.push(context)

    def reset(self, token: object) -> None:
        self.stack.pop()


# Flask 2.0 and 2.1 keep two stacks, 2.2 to 3.1 two ContextVars, 3.2 one for both contexts.
_names: dict[str, Any] = flask.globals.__dict__
_MERGED = hasattr(AppContext, "has_request")
if TYPE_CHECKING or not _MERGED:
    from flask.ctx import RequestContext
else:
    RequestContext = object
_HAS_STACKS = "_cv_app" not in _names
_HAS_TOKENS = not _MERGED and not _HAS_STACKS
_app_slot: Any = _StackSlot(_names["_app_ctx_stack"]) if _HAS_STACKS else _names["_cv_app"]
_request_slot: Any = (
    _app_slot
    if _MERGED
    else _StackSlot(_names["_request_ctx_stack"])
    if _HAS_STACKS
    else _names["_cv_request"]
)


_app_context = Flask.app_context


def _has_plain_contexts(app: Flask) -> bool:
    """Whether contexts of ``app`` are Flask's own, so that nobody sees when one is made or ends."""
    kind = type(app)
    return (
        app.app_ctx_globals_class is _AppCtxGlobals
        and getattr(app.app_context, "__func__", None) is _app_context
        and kind.do_teardown_appcontext is Flask.do_teardown_appcontext
        and kind.do_teardown_request is Flask.do_teardown_request
    )


# They change in place when somebody connects.
_hear_of_push = receivers_of(appcontext_pushed)
_hear_of_requests_end = receivers_of(request_tearing_down)
_hear_of_apps_end = receivers_of(appcontext_tearing_down)
_hear_of_pop = receivers_of(appcontext_popped)


# Bound once: each job sets them.
_set_app_context, _set_request_context = _app_slot.set, _request_slot.set


active_app_context: Callable[[], Any] = partial(_app_slot.get, None)
"""The app context of here and now, or ``None``. Its ``app`` is the app itself, never a proxy."""


def _has_request(context: Any) -> bool:
    return context is not None and (not _MERGED or context.has_request)


class ContextSnapshot:
    """One moment's app, request and ``g``.

    It is never changed, so any thread may push it, many at once. Each push makes contexts of its
    own: two runs never share ``g``, a request or a database session that an extension keeps by
    context.
    """

    __slots__ = (
        "__weakref__",
        "_has_request",
        "app",
        "g_items",
        "is_plain",
        "parent",
        "pushes_app",
        "request",
        "rules",
        "shows_flask",
    )

    app: Flask
    """The app itself, never a proxy."""

    def __init__(
        self,
        app: Flask,
        rules: ContextRules,
        g_items: dict[str, Any] | None = None,
        request: _JobsRequest | None = None,
        parent: Any = None,
        *,
        has_request: bool = False,
    ) -> None:
        self.app = app
        self.rules: ContextRules = rules
        self.g_items: dict[str, Any] | None = g_items
        self.request: _JobsRequest | None = request
        self.parent: Any = parent
        """The request context that was captured."""
        # Flask has no request without an app context.
        self.pushes_app: bool = rules.push_app or request is not None
        self.is_plain: bool = _HAS_TOKENS and self.pushes_app and _has_plain_contexts(app)
        """Whether what is pushed can be made when somebody looks at it."""
        # What a job is not to see its contextvars must not hold.
        self.shows_flask: bool = self.pushes_app and (request is not None or not has_request)
        """Whether they may hold contexts of Flask, which those of the job hide."""
        self._has_request = has_request  # whether there was one

    @classmethod
    def of(
        cls, app: Flask, rules: ContextRules, app_context: Any, request_context: Any
    ) -> ContextSnapshot:
        """What these contexts hold for jobs of ``app``, whose the app context is, if there is one.

        The values of ``g`` are shared, its names copied.
        """
        g_items = request = parent = None
        if rules.push_app and app_context is not None:
            values = getattr(app_context.g, "__dict__", None)  # it may be anybody's class
            g_items = None if values is None else _carried(values, rules.carry_g)
        has_request = _has_request(request_context)
        if rules.push_request and has_request and request_context.app is app:
            request, parent = _RequestSnapshot.of(request_context), request_context
        return cls(app, rules, g_items, request, parent, has_request=has_request)

    def is_of(self, rules: ContextRules, app_context: Any, request_context: Any) -> bool:
        """Whether :meth:`of` would certainly give the same."""
        if self.rules is not rules or not self._carries(app_context):
            return False
        if self.request is not None:
            return self.parent is request_context and self.request.is_of(request_context)
        has_request = _has_request(request_context)
        return has_request is self._has_request and not (has_request and rules.push_request)

    def _carries(self, app_context: Any) -> bool:
        """Whether the items are those that ``g`` would give to a job now."""
        items = self.g_items
        if items is None:
            return True
        if self.rules.carry_g is not without_resources:  # it may answer differently next time
            return False
        left = len(items)
        try:
            for name, value in app_context.g.__dict__.items():
                if items.get(name, _missing) is value:
                    left -= 1
                elif without_resources(name, value):
                    return False
        except RuntimeError:  # another thread has changed it meanwhile
            return False
        return not left

    def run(
        self, variables: Context, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call ``fn`` with this snapshot pushed, in a copy of contextvars."""
        return variables.copy().run(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., R], args: Any, kwargs: Any) -> R:
        running_call.set(None)  # not the job that was there when the snapshot was taken
        with PushedContexts(self):
            return fn(*args, **kwargs)

    def portable(self, *, with_request: bool) -> PortableContext:
        """What of this snapshot can be made anew in another process, as plain data."""
        request = self.request if with_request else None
        portable = None if request is None else request.portable(self.parent)
        return PortableContext(dict(self.g_items or {}), portable)


def capture(app: Flask, rules: ContextRules, app_context: Any) -> tuple[ContextSnapshot, Context]:
    """What is current in this thread, for jobs of ``app``: contexts of Flask, and contextvars.

    ``app_context`` is the active one, which is one of ``app``, or ``None``. Jobs that are submitted
    while nothing changes share a snapshot.
    """
    request_context = _request_slot.get(None)
    known = None if app_context is None else app_context.__dict__.get(_LAST)
    snapshot: ContextSnapshot | None = None if known is None else known()
    if snapshot is None or not snapshot.is_of(rules, app_context, request_context):
        snapshot = ContextSnapshot.of(app, rules, app_context, request_context)
        if app_context is not None:
            # Only jobs keep it, so what the view deletes from g goes when they are done.
            app_context.__dict__[_LAST] = ref(snapshot)
    return snapshot, copy_context() if snapshot.shows_flask else _without_flask()


class PushedContexts:
    """Makes a snapshot current in a ``with`` block, once.

    Use it in contextvars of its own, which nobody uses afterwards, as :meth:`ContextSnapshot.run`
    does: if nobody hears of the end of its contexts, they stay there. Flask's teardown functions
    run when the block ends, with the block's exception; what they raise is logged.
    """

    # A class, not a generator: this runs for every job.

    __slots__ = ("_app_context", "_app_token", "_request_context", "_request_token", "_snapshot")

    _app_context: Any
    _app_token: Any  # if the context is one that is made when somebody looks at it
    _request_context: Any
    _request_token: Any

    variables_live_on: ClassVar[bool] = False

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self._snapshot = snapshot

    def __enter__(self) -> None:
        # A new context goes on top although the copied contextvars already resolve current_app:
        # what they hold is the submitter's own, and a job would write to a g still in use there.
        snapshot = self._snapshot
        if not snapshot.is_plain or _hear_of_push:
            self._push()
            return
        self._app_context = app_context = _UnusedAppContext(snapshot)
        self._app_token = _set_app_context(app_context)
        if snapshot.request is None:
            self._request_context = self._request_token = None
        else:
            self._request_context = request_context = _UnusedRequestContext(snapshot)
            self._request_token = _set_request_context(request_context)

    def _push(self) -> None:
        snapshot, request = self._snapshot, self._snapshot.request
        self._app_context = self._app_token = self._request_context = self._request_token = None
        if snapshot.pushes_app:
            self._app_context = app_context = snapshot.app.app_context()
            _filled(app_context.g, snapshot.g_items)
            if _MERGED and request is not None:
                request.push_with(app_context, snapshot.parent)
            else:
                app_context.push()
        if request is not None and not _MERGED:
            self._request_context = _UnusedRequestContext(snapshot)
            self._request_token = _set_request_context(self._request_context)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        app = self._snapshot.app
        if (
            self._app_token is not None
            and active_app_context() is self._app_context
            and not (app.teardown_appcontext_funcs or app.teardown_request_funcs)
            and not (_hear_of_requests_end or _hear_of_apps_end or _hear_of_pop)
        ):
            # No code would run, and most contextvars go.
            if self.variables_live_on:
                if self._request_token is not None:
                    _request_slot.reset(self._request_token)
                _app_slot.reset(self._app_token)
            return
        # A coroutine whose loop is gone is freed in the middle of something else.
        is_elsewhere = exc_type is GeneratorExit and active_app_context() is not self._app_context
        if self._app_context is not None and not is_elsewhere:
            self._pop(exc)

    def _pop(self, exc: BaseException | None) -> None:
        # On a loop's thread: Flask calls async teardown functions through asgiref, which refuses
        # in a thread whose loop runs. Like any teardown function they hold up the loop.
        loop = asyncio._get_running_loop()
        if loop is not None and not _has_async_teardown(self._snapshot.app):
            loop = None
        try:
            if loop is not None:
                asyncio._set_running_loop(None)
            if _app_slot.get(None) is not self._app_context:
                self._pop_what_is_left()
            if self._app_token is not None:
                self._app_context._cv_tokens = [self._app_token]
            if self._request_token is None:
                self._app_context.pop(exc)
            else:
                self._pop_both(exc)
        except BaseException:
            # The job is over and its result stands; a worker must survive any teardown.
            log_exception(self._snapshot.app.logger, "teardown after a background job failed")
        finally:
            if loop is not None:
                asyncio._set_running_loop(loop)

    def _pop_both(self, exc: BaseException | None) -> None:
        # As Flask's own pop of a request context, but for closing the request, which is a copy;
        # and when nobody wants to hear of its end, nobody is looked for: that is half of the cost.
        app: Any = self._snapshot.app
        try:
            if (
                app.teardown_request_funcs
                or _hear_of_requests_end
                or type(self._snapshot.app).do_teardown_request is not Flask.do_teardown_request
            ):
                app.do_teardown_request(exc)
        finally:
            _request_slot.reset(self._request_token)
            if _HAS_TOKENS:  # whoever pushes it from now on is the first again
                self._request_context._cv_tokens = []
            self._app_context.pop(exc)

    def _pop_what_is_left(self) -> None:
        """Pop what the job pushed and did not pop, so that our own teardown sees our own ``g``."""
        ours = {_request_slot: self._request_context, _app_slot: self._app_context}
        for slot, context in ours.items():
            while (left := slot.get(None)) is not context and left is not None:
                try:
                    left.pop(None)
                except BaseException:
                    log_exception(
                        self._snapshot.app.logger, "teardown after a background job failed"
                    )
                    break


class PushedInTask(PushedContexts):
    """The same in contextvars that live on for a while, as those of a task do."""

    __slots__ = ()

    variables_live_on = True


def _has_async_teardown(app: Flask) -> bool:
    of_requests = chain.from_iterable(app.teardown_request_funcs.values())
    return any(map(iscoroutinefunction, chain(app.teardown_appcontext_funcs, of_requests)))


def _without_flask() -> Context:
    """A copy of the current contextvars in which no Flask context is active."""
    clean = Context()
    for variable, value in copy_context().items():
        if variable is not _app_slot and variable is not _request_slot:
            clean.run(variable.set, value)
    if _HAS_STACKS:  # their variables are buried in werkzeug, so empty them instead
        clean.run(release_local, _app_slot.stack)
        clean.run(release_local, _request_slot.stack)
    return clean


class PortableRequest(NamedTuple):
    """A request and its session as they travel to another process."""

    environ: dict[str, Any]
    body: bytes | None
    """What the view has read of it; ``None`` if there is one that it has not read."""

    form: list[tuple[str, str]] | None
    """The form, if the view had it parsed."""

    has_uploads: bool
    rule: tuple[str, str] | None
    """The endpoint and the URL rule that matched."""

    view_args: dict[str, Any] | None
    session_kind: type
    session: dict[str, Any]


class PortableContext(NamedTuple):
    """A snapshot as it travels to another process. Its values may still be what cannot."""

    g_items: dict[str, Any]
    request: PortableRequest | None

    def bind(self, app: Flask, rules: ContextRules) -> ContextSnapshot:
        """The snapshot, for the app of this process."""
        request = None if self.request is None else _RebuiltRequest(app, self.request)
        return ContextSnapshot(app, rules, self.g_items, request)


class _JobsRequest(Protocol):
    """What makes request contexts for jobs."""

    def make_context(self, parent: Any) -> Any: ...

    def push_with(self, app_context: Any, parent: Any) -> None: ...

    def portable(self, parent: Any) -> PortableRequest: ...

    def is_of(self, context: Any) -> bool:
        """Whether this is certainly how the request of a context is now."""
        ...


class _RequestSnapshot:
    """What a request held, from which a job gets a request of its own.

    A shallow copy: what the view had read (form, JSON, data) is there, attributes set on it too;
    ``session`` is the same object, as in Flask-Executor. It does not refer to the request context,
    which keeps it for the next job that the request submits.
    """

    __slots__ = ("_can_be_compared", "_environ", "_kind", "_uploads", "_values", "_was_read")

    @classmethod
    def of(cls, context: Any) -> _RequestSnapshot:
        """The snapshot of the last job if nothing has changed since, or a new one."""
        if type(context) is _UnusedRequestContext:
            context.complete()
        last: _RequestSnapshot | None = context.__dict__.get(_LAST_REQUEST)
        if last is None or not last.is_of(context):
            # ``_request`` on Flask 3.2, where ``request`` is a property that cannot be set
            request = context._request if _MERGED else context.request
            last = context.__dict__[_LAST_REQUEST] = cls(request)
        return last

    def __init__(self, request: Any) -> None:
        self._kind: type[Request] = type(request)
        self._uploads = _shared_uploads(request) if request.__dict__.get("files") else None
        self._values: dict[str, Any] = request.__dict__.copy()
        self._environ: dict[str, Any] = self._values["environ"].copy()
        self._can_be_compared: bool | None = None
        self._was_read = getattr(self._values.get("stream"), "is_exhausted", False)

    def is_of(self, context: Any) -> bool:
        request: Any = context._request if _MERGED else context.request
        values: dict[str, Any] = request.__dict__
        try:
            if self._can_be_compared is None:  # not before: most requests submit one job
                kinds: set[Any] = set(map(type, self._environ.values()))
                self._can_be_compared = _is_flasks_own(self._values) and all(
                    kind in _IMMUTABLE or kind.__eq__ is object.__eq__ for kind in kinds
                )
            return (
                self._can_be_compared
                and values == self._values
                and values["environ"] == self._environ
            )
        except Exception:  # what came into the environ, or its type, cannot be compared
            return False

    def request_copy(self) -> Request:
        """A request for one run."""
        request: Request = object.__new__(self._kind)
        values, environ = self._values.copy(), self._environ.copy()
        # The connection belongs to the server. Werkzeug reads the body through ``stream``, made
        # anew from the environ when it is missing; one that was read to its end stays so.
        environ["wsgi.input"] = _UNREAD_BODY if _announces_body(environ) else BytesIO()
        environ.pop("werkzeug.request", None)  # the view's
        values["environ"], values["headers"] = environ, EnvironHeaders(environ)
        if "_cached_data" in values or ("form" in values and _holds_form(environ)):
            values["stream"] = BytesIO()
        elif not self._was_read:
            values.pop("stream", None)
        if self._uploads is not None:
            values["files"] = MultiDict((name, upload.open()) for name, upload in self._uploads)
        object.__setattr__(request, "__dict__", values)  # it may guard its own
        return request

    def make_context(self, parent: Any) -> Any:
        """A request context for one run, to be made current by hand, on Flask before 3.2.

        Flask's own push would match the URL again and build another URL adapter for every job:
        most of what a job costs in Flask-Executor.
        """
        context: Any = object.__new__(parent.__class__)
        values = parent.__dict__.copy()
        values["request"] = self.request_copy()
        values["_after_request_functions"] = []
        object.__setattr__(context, "__dict__", values)
        return context

    def push_with(self, app_context: Any, parent: Any) -> None:
        """Push ``app_context`` as the one context that Flask 3.2 has for app and request."""
        app_context._request = self.request_copy()
        app_context._session = parent._session
        app_context.url_adapter = None  # push() matches the URL only if there is one
        app_context.push()
        app_context.url_adapter = parent.url_adapter

    def portable(self, parent: Any) -> PortableRequest:
        """The request as plain data. Attributes that the view had set on it stay behind."""
        values, environ = self._values, self._environ
        form: MultiDict[str, str] | None = values.get("form")
        body: bytes | None = values.get("_cached_data")
        has_parsed_all = self._was_read or (form is not None and _holds_form(environ))
        if body is None and (has_parsed_all or not _announces_body(environ)):
            body = b""
        rule = values.get("url_rule")
        session = getattr(parent, _session_of(parent))
        return PortableRequest(
            {name: value for name, value in environ.items() if _is_plain(name, value)},
            body,
            None if form is None else list(form.items(multi=True)),
            self._uploads is not None,
            None if rule is None else (rule.endpoint, rule.rule),
            values.get("view_args"),
            type(session),
            dict(session or {}),
        )


def _is_flasks_own(values: dict[str, Any]) -> bool:
    """Whether attributes of a request are only such as Flask sets, each once.

    A list that a view puts on the request for each of its jobs is another one each time, although
    both are empty and so equal. And a stream changes as it is read.
    """
    return "stream" not in values and _FLASKS_OWN.issuperset(values)


_FLASKS_OWN = frozenset({*dir(Request), *vars(Request({})), "url_rule", "view_args", "json_module"})

_IMMUTABLE = frozenset({bool, int, float, str, bytes, tuple, NoneType})

_LAST = "flask_executor_typed.snapshot"
_LAST_REQUEST = "flask_executor_typed.request"
"""What a context calls, among its attributes, the last snapshots of it and of its request."""


# Most jobs look at neither of their contexts, and to make them costs more than all else that a job
# needs. So what is pushed gets its values when somebody looks, one by one: of two threads that are
# the first to look, both see the same ones, and what was set meanwhile stays.


class _Later:
    """A value of a context that is made when somebody looks at it."""

    def __init__(self, make: Callable[[Any], object]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, context: Any, owner: type) -> Any:
        return context.__dict__.setdefault(self._name, self._make(context))


def _later(make: Callable[[Any], object]) -> Any:
    return _Later(make)


class _UnusedAppContext(AppContext):
    """A pushed app context of Flask 2.2 to 3.1, of which there is only the app at first."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self.app = snapshot.app
        self._g_items = snapshot.g_items

    @_later
    def g(self) -> object:
        return _filled(self.app.app_ctx_globals_class(), self._g_items)

    @_later
    def url_adapter(self) -> object:
        return self.app.create_url_adapter(None)

    @_later
    def _cv_tokens(self) -> object:
        return _Tokens([_app_token])


class _Tokens(list[Any]):
    """With what a context was pushed. The first is made when it is needed: it keeps too much."""

    def pop(self, *index: Any) -> Any:
        item = super().pop(*index)
        return item() if callable(item) else item


def _app_token() -> object:
    return _app_slot.set(_app_slot.get())


def _request_token() -> object:
    return _request_slot.set(_request_slot.get()), None


def _carried(values: dict[str, Any], carry_g: Callable[[str, object], bool]) -> dict[str, Any]:
    """What a ``g`` gives to a job."""
    if carry_g is not without_resources:
        return {name: value for name, value in values.copy().items() if carry_g(name, value)}
    return {
        name: value
        for name, value in values.copy().items()  # other threads may change it
        if type(value) in _PLAIN or without_resources(name, value)
    }


_missing = object()


def _filled(g: Any, items: dict[str, Any] | None) -> Any:
    """``g``, with a copy of what another one held."""
    if items:
        g.__dict__.update(items)
    return g


class _UnusedRequestContext(RequestContext):
    """A pushed request context of Flask before 3.2, of which there is nothing at first."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self._snapshot: Any = snapshot
        if type(snapshot.parent) is not RequestContext:
            object.__setattr__(self, "__class__", _UnknownRequestContext)

    @_later
    def request(self) -> object:
        snapshot = self._snapshot
        # Without one another thread has completed this: then there is a request, and it stays.
        return None if snapshot is None else snapshot.request.request_copy()

    @_later
    def _after_request_functions(self) -> object:
        return []

    # As if pushed by its own push(): what the job pushes once more is not the last to go.

    @_later
    def _cv_tokens(self) -> object:
        return _Tokens([_request_token])

    @_later
    def _implicit_app_ctx_stack(self) -> object:  # of Flask 2.0 and 2.1
        return [None]

    @_later
    def _parents(self) -> object:  # all at once, as the submitter may change them meanwhile
        return {} if self._snapshot is None else self._snapshot.parent.__dict__.copy()

    def __getattr__(self, name: str) -> Any:
        # What could not be made is not to be replaced by the submitter's.
        if name == "_snapshot" or name in _UnusedRequestContext.__dict__:
            return object.__getattribute__(self, name)
        parents: dict[str, Any] = getattr(self, "_parents", {})  # {}: completed by another
        if name not in parents:
            return object.__getattribute__(self, name)
        return self.__dict__.setdefault(name, parents[name])

    def copy(self) -> Any:
        self.complete()
        return self.copy()  # of the class that it has now

    def complete(self) -> None:
        """Let go of the context of the submitter, or a job would keep all before it."""
        snapshot = self._snapshot
        if snapshot is not None:
            for name in tuple(self._parents):
                getattr(self, name)
            object.__setattr__(self, "__class__", RequestContext)
            self._snapshot = None
            self.__dict__.pop("_parents", None)


class _UnknownRequestContext:
    """A pushed request context of a class of its own, which it becomes when somebody looks."""

    def __getattribute__(self, name: str) -> Any:
        values: dict[str, Any] = object.__getattribute__(self, "__dict__")
        snapshot: ContextSnapshot | None = values.get("_snapshot")
        if snapshot is None or snapshot.request is None:  # another thread was first, and is done
            return getattr(self, name)
        context = snapshot.request.make_context(snapshot.parent)
        # As if pushed by its own push(): what the job pushes once more is not the last to go.
        if _HAS_STACKS:
            context._implicit_app_ctx_stack = [None]
        else:
            context._cv_tokens = _Tokens([_request_token])
        for key, value in context.__dict__.items():
            values.setdefault(key, value)
        self.__class__ = context.__class__
        values.pop("_snapshot", None)  # or a job would keep all before it
        return getattr(self, name)

    # Python looks these up in the class, and then they are those of the class that it becomes.

    def __enter__(self) -> Any:
        return self.__enter__()

    def __exit__(self, *error: object) -> Any:
        return self.__exit__(*error)


def _session_of(context: object) -> str:
    """Where a request context keeps its session; of Flask 3.1.3 on the other name is a property."""
    return (
        "_session" if isinstance(getattr(type(context), "session", None), property) else "session"
    )


def _is_plain(name: str, value: object) -> bool:
    """Whether a value of a WSGI environ describes the request, rather than serves it."""
    return name == "wsgi.version" or type(value) in {str, bytes, int, float, bool}


class _RebuiltRequest:
    """A request that came from another process."""

    def __init__(self, app: Flask, portable: PortableRequest) -> None:
        self._app = app
        self._portable = portable

    def is_of(self, context: Any) -> bool:
        return False

    def portable(self, parent: Any) -> PortableRequest:
        return self._portable

    def make_context(self, parent: Any) -> Any:
        context: Any = self._app.request_context(self._environ())
        self._fill(context.request)
        setattr(context, _session_of(context), self._session())
        return context

    def push_with(self, app_context: Any, parent: Any) -> None:
        app: Any = self._app
        request = app.request_class(self._environ())
        request.json_module = app.json
        self._fill(request)
        app_context._request = request
        app_context._session = self._session()
        app_context.url_adapter = None  # push() matches the URL only if there is one
        app_context.push()
        app_context.url_adapter = app.create_url_adapter(request)

    def _environ(self) -> dict[str, Any]:
        body = self._portable.body
        stream = _UNREAD_BODY if body is None else BytesIO(body)
        return {**self._portable.environ, "wsgi.input": stream, "wsgi.errors": sys.stderr}

    def _fill(self, request: Any) -> None:
        portable, values = self._portable, request.__dict__
        if portable.body is not None:
            values["_cached_data"] = portable.body
        if portable.form is not None:
            if portable.body is not None:
                values["stream"] = BytesIO()
            values["form"] = request.parameter_storage_class(portable.form)
            values["files"] = _UploadsLeftBehind() if portable.has_uploads else MultiDict()
        if portable.rule is not None:
            endpoint, text = portable.rule
            rules = self._app.url_map._rules_by_endpoint.get(endpoint, ())
            request.url_rule = next((rule for rule in rules if rule.rule == text), None)
        request.view_args = portable.view_args

    def _session(self) -> Any:
        portable = self._portable
        try:
            return portable.session_kind(portable.session)
        except Exception:  # of an extension, and made in another way: the values are what counts
            return SecureCookieSession(portable.session)


class _UploadsLeftBehind(MultiDict[str, FileStorage]):
    """Stands where the uploads were: looking for one says what to do instead."""

    def _refuse(self, *args: object, **kwargs: object) -> Any:
        raise UploadsLeftBehindError

    __getitem__ = __contains__ = __iter__ = __len__ = get = getlist = _refuse
    items = lists = listvalues = keys = values = to_dict = _refuse


_FORM_TYPES = {"multipart/form-data", "application/x-www-form-urlencoded"}


def _holds_form(environ: dict[str, Any]) -> bool:
    """Whether parsing the form of a request reads its body."""
    kind: str = environ.get("CONTENT_TYPE", "")
    return kind.partition(";")[0].strip().lower() in _FORM_TYPES


def _announces_body(environ: dict[str, Any]) -> bool:
    """Whether a request has a body, as RFC 9112 (6.3) tells it."""
    length = environ.get("CONTENT_LENGTH")
    return length not in {None, "", "0"} or "HTTP_TRANSFER_ENCODING" in environ


class _UnreadBody:
    """Stands where the connection was: reading it says what to do instead."""

    def _refuse(self, *args: object) -> bytes:
        raise BodyNotReadError

    read = readline = readlines = readinto = __iter__ = __next__ = _refuse


_UNREAD_BODY = _UnreadBody()


class _Upload:
    """One uploaded file, readable many times at once and after its request closed it."""

    def __init__(self, upload: FileStorage) -> None:
        self._upload = upload
        self._content: bytes | None = None
        self._file: _Descriptor | None = None
        stream: Any = upload.stream
        try:
            position = stream.tell()
            size = stream.seek(0, os.SEEK_END)
            stream.seek(position)
            if size > _SMALL_UPLOAD:
                self._file = _Descriptor(stream.fileno())
        except (AttributeError, OSError):  # Windows has no pread, and some streams no descriptor
            pass
        except ValueError:  # the view has closed it: so it is for the job
            return
        if self._file is None:
            position = stream.tell()
            stream.seek(0)
            self._content = stream.read()
            stream.seek(position)

    def open(self) -> FileStorage:
        upload = self._upload
        if self._content is not None:
            stream: IO[bytes] = BytesIO(self._content)
        elif self._file is not None:
            stream = BufferedReader(_SharedFile(self._file))
        else:
            stream = upload.stream
        return FileStorage(stream, upload.filename, upload.name, headers=upload.headers)


_SMALL_UPLOAD = 512 * 1024  # bytes; about where werkzeug moves an upload from memory to a file


class _Descriptor:
    """A file descriptor of our own for a file of somebody else; closed with its last user."""

    def __init__(self, descriptor: int) -> None:
        os.pread(descriptor, 0, 0)
        self.number = os.dup(descriptor)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _SharedFile(RawIOBase):
    """A reader with a position of its own, which pread leaves alone for all others."""

    def __init__(self, file: _Descriptor) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.number

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = (0, self._position, os.fstat(self._file.number).st_size)[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self._file.number, len(view), self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def _shared_uploads(request: Any) -> list[tuple[str, _Upload]]:
    """The uploads of a request, opened once for all jobs that the request submits."""
    key = "flask_executor_typed.uploads"
    if key not in request.environ:
        request.environ[key] = [
            (name, _Upload(file)) for name, file in request.files.items(multi=True)
        ]
    uploads: list[tuple[str, _Upload]] = request.environ[key]
    return uploads
