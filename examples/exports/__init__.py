"""Upload a CSV of orders, watch them being added up, download the totals, or cancel.

The view is slow, and is written as if it were quick: ``respond_async`` runs it in the background
and answers a browser with a page that shows the progress, and an API client with 202.
"""

from __future__ import annotations

import os
import secrets

from flask import Flask

from .views import blueprint, executor, jobs

__all__ = ("create_app",)


def create_app(store: str | None = None, secret_key: str | None = None) -> Flask:
    """Make the app; what is not given comes from ``EXPORTS_STORE`` and ``EXPORTS_SECRET_KEY``.

    With a store, such as ``sqlite:///jobs.db``, and a key, it may be served by several processes.
    """
    app = Flask(__name__)
    app.secret_key = secret_key or os.environ.get("EXPORTS_SECRET_KEY", secrets.token_hex())
    app.config["EXECUTOR_STORE"] = store or os.environ.get("EXPORTS_STORE")
    app.config["MAX_CONTENT_LENGTH"] = 2**20
    executor.init_app(app)
    app.register_blueprint(jobs)
    app.register_blueprint(blueprint)
    return app
