"""Contexts whose values are made when somebody looks at them, one by one.

Most jobs look at neither of their contexts, and to make them costs more than all else that a job
needs. Of two threads that are the first to look, both see the same value, and what was set
meanwhile stays.
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
    """A value of a context that is made when somebody looks at it."""

    def __init__(self, make: Callable[[Any], object]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, context: Any, owner: type) -> Any:
        return context.__dict__.setdefault(self._name, self._make(context))


def _later(make: Callable[[Any], object]) -> Any:  # whatever Flask says that the attribute is
    return _Later(make)


class _LazySeparateContext(AppContext):
    """A pushed app context of Flask before 3.2, of which there is only the app at first."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self.app: Flask = snapshot.app
        self._g_items = snapshot.g_items

    @_later
    def g(self) -> object:
        return with_items(self.app.app_ctx_globals_class(), self._g_items)

    @_later
    def url_adapter(self) -> object:
        return self.app.create_url_adapter(None)

    # As if its own push() had made it current: what the job pushes once more is not the last to go.

    @_later
    def _cv_tokens(self) -> object:
        return _Tokens([_token_of_app])

    @_later
    def _refcnt(self) -> object:  # what Flask 2.0 and 2.1 have instead of tokens
        return 1


class _Tokens(list[Any]):
    """The tokens of a context, of which a function stands for the first until that is popped.

    A token keeps alive what was there before.
    """

    def pop(self, *index: Any) -> Any:
        item = super().pop(*index)
        return item() if callable(item) else item


def _token_of_app() -> object:
    return app_slot.set(app_slot.get())


def _token_of_request() -> object:
    return request_slot.set(request_slot.get()), None


class LazyRequestContext(RequestContext):
    """A pushed request context of Flask before 3.2, of which there is nothing at first."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self._snapshot: Any = snapshot  # None when all is made

    @_later
    def request(self) -> object:
        snapshot = self._snapshot
        # Without one another thread has completed this: then there is a request, and it stays.
        return None if snapshot is None else snapshot.request.request_copy()

    @_later
    def _after_request_functions(self) -> object:
        return []

    @_later
    def _cv_tokens(self) -> object:
        return _Tokens([_token_of_request])

    @_later
    def _implicit_app_ctx_stack(self) -> object:  # what Flask 2.0 and 2.1 have instead of tokens
        return [None]

    def __getattr__(self, name: str) -> Any:
        # What could not be made is not to be replaced by the submitter's.
        snapshot = None if name not in _SUBMITTERS else self.__dict__.get("_snapshot")
        if snapshot is None:
            return object.__getattribute__(self, name)
        return self.__dict__.setdefault(name, getattr(snapshot.request_context, name))

    def copy(self) -> Any:
        complete(self)
        return self.copy()  # of the class that it has now

    def __repr__(self) -> str:
        complete(self)
        return repr(self)


_SUBMITTERS = frozenset(
    {"app", "flashes", "preserved", "_preserved_exc", "session", "_session", "url_adapter"}
)
"""What a job's request context shares with its submitter's, of what Flask sets there.

What others have set on it, a connection say, is not the job's to close.
"""


class _LazyMergedContext(AppContext):
    """A pushed context of Flask 3.2, for app and request, of which there is only the app."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self.app: Flask = snapshot.app
        self._snapshot: Any = snapshot  # None when all is made

    # Without a snapshot another thread has completed this: then there is a value, and it stays.

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

    # As if its own push() had made it current, where it is.

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
        return self.copy()  # of the class that it has now

    def __repr__(self) -> str:
        complete(self)
        return repr(self)


LazyAppContext: Callable[[ContextSnapshot], AppContext] = (
    _LazyMergedContext if IS_MERGED else _LazySeparateContext
)


def complete(context: Any) -> None:
    """Let a context that is one of these go of its submitter's, as Flask's own context.

    Or a job that was submitted by a job would keep the contexts of all before it.
    """
    snapshot = context.__dict__.get("_snapshot")
    if snapshot is None:
        return
    values: dict[str, object] = dict(context.__class__.__dict__)
    names = {name for name, value in values.items() if isinstance(value, _Later)}
    if not IS_MERGED:  # what there is on this version of Flask
        captured: dict[str, object] = snapshot.request_context.__dict__
        names = (names | _SUBMITTERS).intersection(captured)
    for name in names:
        getattr(context, name)
    object.__setattr__(context, "__class__", RequestContext)
    context._snapshot = None


def request_context_of(snapshot: ContextSnapshot) -> Any:
    """The request context of a run, on Flask before 3.2."""
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
    """Let the app context's own ``pop()`` make current again what was there before."""
    if IS_MERGED:
        context._cv_token = token
    elif not HAS_STACKS:
        context._cv_tokens = [token]
