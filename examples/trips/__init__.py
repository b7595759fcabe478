"""A travel agency: an app factory, as the Flask tutorial makes one.

The jobs are in ``jobs.py``, the views that submit and await them in ``views.py``, and the database
connection of the tutorial, ``g.db``, in ``db.py``. With the address of a Redis in ``TRIPS_REDIS``,
the jobs run in Celery, whose workers load ``worker.py``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flask import Flask

from . import db, jobs, views

__all__ = ("create_app",)


def create_app(database: str | None = None, weather_url: str | None = None) -> Flask:
    """Make the app; what is not given comes from ``TRIPS_DATABASE`` and ``TRIPS_WEATHER_URL``."""
    app = Flask(__name__)
    database = database or os.environ["TRIPS_DATABASE"]
    app.config["DATABASE"] = database
    app.config["WEATHER_URL"] = weather_url or os.environ["TRIPS_WEATHER_URL"]
    jobs_file = Path(database).absolute().with_name("jobs.sqlite")
    app.config["EXECUTOR_STORE"] = f"sqlite:///{jobs_file}"  # each process answers for every job
    app.config["EXECUTOR_MAX_WORKERS"] = 8
    if redis := os.environ.get("TRIPS_REDIS"):
        outgrow(app, redis)
    app.config["EXECUTOR_ASYNC_VIEWS"] = True
    db.init_app(app)
    jobs.executor.init_app(app)
    app.register_blueprint(views.blueprint)
    return app


def outgrow(app: Flask, redis: str) -> None:
    """Have the jobs run in Celery. Nothing else changes."""
    from celery import Celery  # pyright: ignore[reportMissingTypeStubs]

    app.config.from_mapping(
        SECRET_KEY=os.environ["TRIPS_SECRET_KEY"],  # the same in servers and workers
        EXECUTOR_TYPE="celery",
        EXECUTOR_STORE=redis,
        EXECUTOR_PUSH_REQUEST_CONTEXT=True,  # distance() reads the request
    )
    celery: Any = Celery(app.name, broker=redis)
    celery.conf.broker_transport_options = {"socket_timeout": 3}
    app.extensions["celery"] = celery
