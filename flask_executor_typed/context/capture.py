"""Take a snapshot of the active contexts, or reuse the last one if nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from operator import is_
from typing import Any
from weakref import ref

from flask import Flask

from .carry import ContextRules, carried, without_resources
from .compat import active_request_context, has_request, without_flask
from .request import RequestSnapshot
from .snapshot import ContextSnapshot

__all__ = ("capture", "stop_telling", "tell_of_capture")

_LAST_SNAPSHOT = "flask_executor_typed.snapshot"
"""The attribute in which an app context keeps a function that returns its last snapshot."""


def tell_of_capture(app_context: Any, tell: Callable[[], None]) -> None:
    """Have ``tell()`` called before an app context is captured for the first time from now on."""
    # In the place of the last snapshot, of which it says that there is none: so a submit, which
    # looks there anyway, has nothing more to look for.
    app_context.__dict__[_LAST_SNAPSHOT] = tell


def stop_telling(app_context: Any) -> None:
    app_context.__dict__.pop(_LAST_SNAPSHOT, None)


def capture(rules: ContextRules, app: Flask, app_context: Any) -> tuple[ContextSnapshot, Context]:
    """Capture Flask's contexts and the contextvars of this thread, for jobs of ``app``.

    ``app_context`` is the active one, and belongs to ``app``, or is ``None``. Jobs that are
    submitted while nothing changes share a snapshot.
    """
    request_context = active_request_context()
    last = None if app_context is None else app_context.__dict__.get(_LAST_SNAPSHOT)
    snapshot: ContextSnapshot | None = None if last is None else last()
    if snapshot is None or not _is_as_now(snapshot, rules, app_context, request_context):
        snapshot = _snapshot_of(app, rules, app_context, request_context)
        if app_context is not None:
            _keep(snapshot, app_context)
    return snapshot, copy_context() if snapshot.shows_flask else without_flask()


def _keep(snapshot: ContextSnapshot, app_context: Any) -> None:
    """Keep a snapshot for the next job, unless that may need another one in any case."""
    if snapshot.g_items is None or snapshot.rules.carry_g is without_resources:
        # Only jobs keep it alive, so what the view deletes from g goes when they are done.
        app_context.__dict__[_LAST_SNAPSHOT] = ref(snapshot)
    else:  # the app's own carry_g may answer differently next time
        stop_telling(app_context)


def _snapshot_of(
    app: Flask, rules: ContextRules, app_context: Any, request_context: Any
) -> ContextSnapshot:
    """Take a new snapshot of these contexts. It shares the values of ``g``, not the names."""
    g_items = request = captured = None
    if rules.push_app and app_context is not None:
        values = getattr(app_context.g, "__dict__", None)  # its class may be the app's own
        g_items = None if values is None else carried(values, rules.carry_g)
    had_request = has_request(request_context)
    if rules.push_request and had_request and request_context.app is app:
        request, captured = RequestSnapshot.of(request_context), request_context
    return ContextSnapshot(app, rules, g_items, request, captured, had_request=had_request)


def _is_as_now(
    snapshot: ContextSnapshot, rules: ContextRules, app_context: Any, request_context: Any
) -> bool:
    """Return whether a snapshot certainly equals what a new one would hold."""
    if snapshot.rules is not rules or not _has_same_g(snapshot, app_context):
        return False
    if snapshot.request is not None:
        return snapshot.request_context is request_context and snapshot.request.is_of(
            request_context
        )
    has_one = has_request(request_context)
    return has_one is snapshot.had_request and not (has_one and rules.push_request)


def _has_same_g(snapshot: ContextSnapshot, app_context: Any) -> bool:
    """Return whether its items are those that ``g`` would give to a job now."""
    items = snapshot.g_items
    if items is None:
        return True
    values = app_context.g.__dict__
    try:
        if len(values) == len(items):  # then nothing was left out; this is for speed alone
            return all(map(is_, values.values(), items.values())) and [*values] == [*items]
        left = len(items)
        for name, value in values.items():
            if items.get(name, _missing) is value:
                left -= 1
            elif without_resources(name, value):
                return False
    except RuntimeError:  # another thread is changing it
        return False
    return not left


_missing = object()
