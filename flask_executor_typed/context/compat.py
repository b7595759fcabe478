"""Flask's active contexts, on every version of Flask.

The lowest module of this package. Flask 2.0 and 2.1 keep two stacks, 2.2 to 3.1 two ContextVars,
3.2 a single one, for a context that is both app and request.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import flask.globals
from flask.ctx import AppContext
from werkzeug.local import release_local

__all__ = (
    "HAS_STACKS",
    "HAS_TOKENS",
    "IS_MERGED",
    "RequestContext",
    "active_app_context",
    "active_request_context",
    "app_slot",
    "has_request",
    "missing_context",
    "request_of",
    "request_slot",
    "session_attribute",
    "without_flask",
)

_names: dict[str, Any] = flask.globals.__dict__

HAS_STACKS = "_cv_app" not in _names
"""Flask 2.0 and 2.1."""

IS_MERGED = hasattr(AppContext, "has_request")
"""Flask 3.2."""

HAS_TOKENS = not (HAS_STACKS or IS_MERGED)
"""Flask 2.2 to 3.1: a context keeps one token for each push."""

# The class of contexts that have a request.
if TYPE_CHECKING or not IS_MERGED:
    from flask.ctx import RequestContext
else:
    RequestContext = AppContext


class _StackSlot:
    """A context stack of Flask 2.0 and 2.1, used like the ContextVar that replaced it."""

    def __init__(self, stack: Any) -> None:
        self.stack = stack

    def get(self, default: None) -> Any:
        return self.stack.top

    def set(self, context: object) -> object:
        return self.stack.push(context)

    def reset(self, token: object) -> None:
        self.stack.pop()


app_slot: Any
request_slot: Any  # the same one on Flask 3.2
if HAS_STACKS:
    app_slot = _StackSlot(_names["_app_ctx_stack"])
    request_slot = _StackSlot(_names["_request_ctx_stack"])
else:
    app_slot = _names["_cv_app"]
    request_slot = app_slot if IS_MERGED else _names["_cv_request"]


active_app_context: Callable[[], Any] = partial(app_slot.get, None)
"""Return the active app context, or ``None``. Its ``app`` is the app itself, never a proxy."""

active_request_context: Callable[[], Any] = partial(request_slot.get, None)
"""Return the active request context; on Flask 3.2, ask :func:`has_request` whether it is one."""


def has_request(context: Any) -> bool:
    """Return whether a context from :func:`active_request_context` has a request."""
    return context is not None and (not IS_MERGED or context.has_request)


_NEEDS_REQUEST = (
    "Working outside of request context",
    "There is no request in this context",  # Flask 3.2, where there is an app context
    "Unable to build URLs outside an active request",
    "Application was not able to create a URL adapter",  # Flask before 2.2, for the same
)


def missing_context(error: BaseException) -> Literal["app", "request"] | None:
    """Return which context an error of Flask's says that it needs."""
    if type(error) is not RuntimeError:  # no subclass, whose __str__ may raise
        return None
    text = str(error)
    if text.startswith("Working outside of application context"):
        return "app"
    return "request" if text.startswith(_NEEDS_REQUEST) else None


def request_of(context: Any) -> Any:
    """Return the request of a context from :func:`active_request_context`, or ``None``.

    ``None`` also in a job that has not looked at its request, which is made when it does.
    """
    return None if context is None else context.__dict__.get("_request" if IS_MERGED else "request")


def session_attribute(context: object) -> str:
    """Return the attribute in which a request context keeps its session.

    From Flask 3.1.3 on, ``session`` is a property that marks the session as accessed.
    """
    return (
        "_session" if isinstance(getattr(type(context), "session", None), property) else "session"
    )


def without_flask() -> Context:
    """Return a copy of the current contextvars in which no Flask context is active."""
    clean = Context()
    for variable, value in copy_context().items():
        if variable is not app_slot and variable is not request_slot:
            clean.run(variable.set, value)
    if HAS_STACKS:  # their variables are hidden inside werkzeug, so empty the stacks instead
        clean.run(release_local, app_slot.stack)
        clean.run(release_local, request_slot.stack)
    return clean
