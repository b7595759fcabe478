"""Rebuild a snapshot in another process from its plain data."""

from __future__ import annotations

import sys
from contextlib import suppress
from io import BytesIO
from typing import Any

from flask import Flask
from flask.sessions import SecureCookieSession
from werkzeug.datastructures import MultiDict

from .carry import ContextRules
from .compat import session_attribute
from .portable import PortableContext, PortableRequest
from .request import UNREAD_BODY
from .snapshot import ContextSnapshot
from .uploads import uploads_left_behind

__all__ = ("rebuild",)


def rebuild(context: PortableContext, app: Flask, rules: ContextRules) -> ContextSnapshot:
    """Return the snapshot, for the app of this process."""
    request = None if context.request is None else _RebuiltRequest(app, context.request)
    return ContextSnapshot(app, rules, context.g_items, request)


class _RebuiltRequest:
    """A request that came from another process. No request context was captured here."""

    def __init__(self, app: Flask, portable: PortableRequest) -> None:
        self._app = app
        self._portable = portable

    def make_context(self, captured: None) -> Any:
        context: Any = self._app.request_context(self._environ())
        self._fill(context.request)
        setattr(context, session_attribute(context), self._session())
        return context

    def make_parts(self, captured: None) -> tuple[Any, Any, Any]:
        app: Any = self._app
        request = app.request_class(self._environ())
        request.json_module = app.json
        self._fill(request)
        return request, self._session(), app.create_url_adapter(request)

    def portable(self, captured: None) -> PortableRequest:
        return self._portable

    def is_of(self, context: Any) -> bool:
        return False

    def _environ(self) -> dict[str, Any]:
        body = self._portable.body
        stream = UNREAD_BODY if body is None else BytesIO(body)
        return {**self._portable.environ, "wsgi.input": stream, "wsgi.errors": sys.stderr}

    def _fill(self, request: Any) -> None:
        portable, attributes = self._portable, request.__dict__
        if portable.body is not None:
            attributes["_cached_data"] = portable.body
        if portable.form is not None:
            if portable.body is not None:
                attributes["stream"] = BytesIO()
            attributes["form"] = request.parameter_storage_class(portable.form)
            attributes["files"] = uploads_left_behind() if portable.has_uploads else MultiDict()
        if portable.rule is not None:
            endpoint, text = portable.rule
            with suppress(KeyError):  # an endpoint that the app does not have here
                rules = self._app.url_map.iter_rules(endpoint)
                request.url_rule = next((rule for rule in rules if rule.rule == text), None)
        request.view_args = portable.view_args

    def _session(self) -> Any:
        portable = self._portable
        try:
            return portable.session_kind(portable.session)
        except Exception:  # an extension's own class, created differently: only the values matter
            return SecureCookieSession(portable.session)
