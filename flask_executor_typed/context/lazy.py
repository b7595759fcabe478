"""Flask contexts whose attributes are created on first access.

Why: most jobs never look at their contexts, and creating them costs more than everything else a job
needs. With lazy contexts a job that reads nothing runs at the speed of a bare thread pool's; one
that reads ``request`` pays for ``request`` alone.

If two threads look first at the same time, both see the same value; a value that was set in the
meantime stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.ctx import AppContext

from .carry import with_items
from .compat import (
    HAS_STACKS,
    IS_MERGED,
    RequestContext,
    active_app_context,
    app_slot,
    request_slot,
)
from .snapshot import ContextSnapshot

__all__ = (
    "LazyAppContext",
    "LazyRequestContext",
    "complete",
    "give_token",
    "request_context_of",
)


class _Later:
    """A context attribute that is created on first access."""

    def __init__(self, make: Callable[[Any], object]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, context: Any, owner: type) -> Any:
        return context.__dict__.setdefault(self._name, self._make(context))


def _later(make: Callable[[Any], object]) -> Any:  # Flask's stubs may say anything of the attribute
    return _Later(make)


class _LazySeparateContext(AppContext):
    """A pushed app context, for Flask before 3.2. At first it has only the app."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self.app: Flask = snapshot.app
        self._g_items = snapshot.g_items

    @_later
    def g(self) -> object:
        return with_items(self.app.app_ctx_globals_class(), self._g_items)

    @_later
    def url_adapter(self) -> object:
        return self.app.create_url_adapter(None)

    # As if its own push() had made it current: a second push by the job is not the last to go.

    @_later
    def _cv_tokens(self) -> object:
        return _Tokens([_token_of_app])

    @_later
    def _refcnt(self) -> object:  # Flask 2.0 and 2.1 count instead of keeping tokens
        return 1


class _Tokens(list[Any]):
    """A context's tokens. The first is a function until it is popped.

    A real token would keep the previous value alive.
    """

    def pop(self, *index: Any) -> Any:
        item = super().pop(*index)
        return item() if callable(item) else item


def _token_of_app() -> object:
    return app_slot.set(app_slot.get())


def _token_of_request() -> object:
    return request_slot.set(request_slot.get()), None


class LazyRequestContext(RequestContext):
    """A pushed request context, for Flask before 3.2. At first it is empty."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self._snapshot: Any = snapshot  # None once everything is created

    @_later
    def request(self) -> object:
        snapshot = self._snapshot
        # None: another thread has completed this context. Then its request exists, and stays.
        return None if snapshot is None else snapshot.request.request_copy()

    @_later
    def _after_request_functions(self) -> object:
        return []

    @_later
    def _cv_tokens(self) -> object:
        return _Tokens([_token_of_request])

    @_later
    def _implicit_app_ctx_stack(
        self,
    ) -> object:  # Flask 2.0 and 2.1 count instead of keeping tokens
        return [None]

    def __getattr__(self, name: str) -> Any:
        # An attribute that failed must not be replaced by the submitter's.
        snapshot = None if name not in _SUBMITTERS else self.__dict__.get("_snapshot")
        if snapshot is None:
            return object.__getattribute__(self, name)
        return self.__dict__.setdefault(name, getattr(snapshot.request_context, name))

    def copy(self) -> Any:
        complete(self)
        return self.copy()  # by the class it has now

    def __repr__(self) -> str:
        complete(self)
        return repr(self)


_SUBMITTERS = frozenset(
    {"app", "flashes", "preserved", "_preserved_exc", "session", "_session", "url_adapter"}
)
"""Flask's own attributes that a job's request context shares with its submitter's.

Attributes set by others, such as a connection, are not for the job to close.
"""


class _LazyMergedContext(AppContext):
    """A pushed context of Flask 3.2, for app and request. At first it has only the app."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self.app: Flask = snapshot.app
        self._snapshot: Any = snapshot  # None once everything is created

    # None: another thread has completed this context. Then the value exists, and stays.

    @_later
    def g(self) -> object:
        return with_items(self.app.app_ctx_globals_class(), self._of_snapshot("g_items"))

    @_later
    def url_adapter(self) -> object:
        captured = self._of_snapshot("request_context")
        return self.app.create_url_adapter(None) if captured is None else captured.url_adapter

    @_later
    def _request(self) -> object:
        request = self._of_snapshot("request")
        return None if request is None else request.request_copy()

    @_later
    def _session(self) -> object:
        return getattr(self._of_snapshot("request_context"), "_session", None)

    @_later
    def _flashes(self) -> object:
        return None

    @_later
    def _after_request_functions(self) -> object:
        return []

    # As if its own push() had made it current.

    @_later
    def _push_count(self) -> object:
        return 1 if active_app_context() is self else 0

    @_later
    def _cv_token(self) -> object:
        return _token_of_app() if active_app_context() is self else None

    def _of_snapshot(self, name: str) -> Any:
        return getattr(self._snapshot, name, None)

    def copy(self) -> Any:
        complete(self)
        return self.copy()  # by the class it has now

    def __repr__(self) -> str:
        complete(self)
        return repr(self)


LazyAppContext: Callable[[ContextSnapshot], AppContext] = (
    _LazyMergedContext if IS_MERGED else _LazySeparateContext
)


def complete(context: Any) -> None:
    """Turn one of these contexts into a complete one of Flask's own class.

    Otherwise a job that was submitted by a job would keep the contexts of all jobs before it alive.
    """
    snapshot = context.__dict__.get("_snapshot")
    if snapshot is None:
        return
    values: dict[str, object] = dict(context.__class__.__dict__)
    names = {name for name, value in values.items() if isinstance(value, _Later)}
    if not IS_MERGED:  # the one for this version of Flask
        captured: dict[str, object] = snapshot.request_context.__dict__
        names = (names | _SUBMITTERS).intersection(captured)
    for name in names:
        getattr(context, name)
    object.__setattr__(context, "__class__", RequestContext)
    context._snapshot = None


def request_context_of(snapshot: ContextSnapshot) -> Any:
    """Return the request context for one run, on Flask before 3.2."""
    captured: Any = snapshot.request_context
    if type(captured) is RequestContext:
        return LazyRequestContext(snapshot)
    request: Any = snapshot.request
    context = request.make_context(captured)
    if HAS_STACKS:
        context._implicit_app_ctx_stack = [None]
    else:
        context._cv_tokens = _Tokens([_token_of_request])
    return context


def give_token(context: Any, token: object) -> None:
    """Give an app context the token with which its own ``pop()`` restores the previous one."""
    if IS_MERGED:
        context._cv_token = token
    elif not HAS_STACKS:
        context._cv_tokens = [token]
