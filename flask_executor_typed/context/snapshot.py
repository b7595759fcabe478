"""One moment's app, request and ``g``, as a value.

capture.py takes a snapshot, push.py makes it current in a worker.
"""

from __future__ import annotations

from typing import Any, Protocol

from flask import Flask
from flask.ctx import _AppCtxGlobals  # pyright: ignore[reportPrivateUsage]
from flask.signals import appcontext_popped, appcontext_tearing_down

from ..signals import receivers_of
from .carry import ContextRules
from .compat import IS_MERGED, RequestContext
from .portable import PortableContext, PortableRequest

__all__ = ("ContextSnapshot", "has_flasks_own")

_app_teardown_receivers = receivers_of(appcontext_tearing_down)
_pop_receivers = receivers_of(appcontext_popped)


class JobsRequest(Protocol):
    """The source of each run's request.

    ``captured`` is the :attr:`~ContextSnapshot.request_context` of its snapshot.
    """

    def make_context(self, captured: Any) -> Any:
        """Return a request context for one run, to be made current by hand. Flask before 3.2."""
        ...

    def make_parts(self, captured: Any) -> tuple[Any, Any, Any]:
        """Return request, session and URL adapter for one run's context. Flask 3.2."""
        ...

    def portable(self, captured: Any) -> PortableRequest:
        """Return the request and its session as plain data."""
        ...

    def is_of(self, context: Any) -> bool:
        """Return whether this certainly equals the request of a context now."""
        ...


class ContextSnapshot:
    """One moment's app, request and ``g``.

    Never changes, so any number of threads may push it at once. Each push creates contexts of its
    own: two runs never share ``g``, a request, or a database session that an extension keeps per
    context.
    """

    __slots__ = (
        "__weakref__",
        "app",
        "g_items",
        "had_request",
        "is_plain",
        "pushes_app",
        "pushes_request",
        "request",
        "request_context",
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
        request: JobsRequest | None = None,
        request_context: Any = None,
        *,
        had_request: bool = False,
    ) -> None:
        self.app = app
        self.rules: ContextRules = rules
        self.g_items: dict[str, Any] | None = g_items
        self.request: JobsRequest | None = request
        self.request_context: Any = request_context
        """The submitter's, if ``request`` was captured from one."""
        self.had_request: bool = had_request
        """Whether the submitter had a request, captured or not."""
        # Flask has no request without an app context.
        self.pushes_app: bool = rules.push_app or request is not None
        self.pushes_request: bool = request is not None and not IS_MERGED
        """Whether the request has a context of its own."""
        self.is_plain: bool = (
            self.pushes_app
            and (request is None or type(request_context) is RequestContext)
            and _has_plain_contexts(app)
        )
        """Whether the pushed contexts can be lazy: see lazy.py."""
        # The contextvars must not hold what a job may not see: the submitter's request, if the job
        # has none, and where its own has ended before it is torn down.
        self.shows_flask: bool = self.pushes_app and (
            not had_request if request is None else not (self.pushes_request and _is_watched(app))
        )
        """Whether they may hold Flask contexts, which those of the job hide."""

    def portable(self, *, with_request: bool) -> PortableContext:
        """Return what can be rebuilt of this snapshot in another process, as plain data."""
        request = self.request if with_request else None
        portable = None if request is None else request.portable(self.request_context)
        return PortableContext(dict(self.g_items or {}), portable, {})


# As they were at import: tests may replace them later.
_FLASKS_METHODS = {
    name: vars(Flask)[name]
    for name in ("app_context", "do_teardown_request", "do_teardown_appcontext")
}


def has_flasks_own(app: Flask, method: str) -> bool:
    """Return whether a method of the app is Flask's own, not overridden by its class or a test."""
    return getattr(getattr(app, method), "__func__", None) is _FLASKS_METHODS[method]


def _is_watched(app: Flask) -> bool:
    """Return whether something runs between the end of a job's request and that of its ``g``."""
    return bool(app.teardown_appcontext_funcs or _app_teardown_receivers or _pop_receivers)


def _has_plain_contexts(app: Flask) -> bool:
    """Return whether contexts of ``app`` are Flask's own, so that creating one is unobservable."""
    return app.app_ctx_globals_class is _AppCtxGlobals and all(
        has_flasks_own(app, method) for method in _FLASKS_METHODS
    )
