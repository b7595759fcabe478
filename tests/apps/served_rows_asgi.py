"""The app of served_rows.py for an ASGI server."""

from __future__ import annotations

from typing import Any, cast

from a2wsgi import WSGIMiddleware

from .served_rows import app

asgi_app: Any = cast(Any, WSGIMiddleware)(app, workers=8)
