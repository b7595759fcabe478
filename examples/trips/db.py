"""The Flask tutorial's database: one SQLite connection per context, kept in ``g.db``.

Nothing here knows of jobs. A job has a ``g`` of its own, and what can be closed does not travel
there: the first ``get_db()`` of a job opens another connection, in the job's thread, and
``close_db`` closes it when the job is done, while the view still uses its own.
"""

from __future__ import annotations

import sqlite3
from typing import Any, cast

from flask import Flask, current_app, g

__all__ = ("get_db", "init_app")

CITIES = {  # latitude and longitude, in degrees
    "Athens": (37.98, 23.73),
    "Berlin": (52.52, 13.41),
    "Cairo": (30.04, 31.24),
    "Dakar": (14.69, -17.44),
    "Edinburgh": (55.95, -3.19),
    "Fukuoka": (33.59, 130.40),
    "Geneva": (46.20, 6.14),
    "Hanoi": (21.03, 105.85),
    "Istanbul": (41.01, 28.98),
    "Jakarta": (-6.21, 106.85),
}


def get_db() -> sqlite3.Connection:
    """The connection of this context: of the request in a view, of the job in a job."""
    if "db" not in g:
        config = cast("dict[str, Any]", current_app.config)  # Flask leaves its items untyped
        g.db = sqlite3.connect(config["DATABASE"], timeout=30)
    connection: sqlite3.Connection = g.db
    return connection


def close_db(error: BaseException | None = None) -> None:
    connection: sqlite3.Connection | None = g.pop("db", None)
    if connection is not None:
        connection.close()


def init_app(app: Flask) -> None:
    """Make the tables, if there are none yet, and close each context's connection at its end."""
    app.teardown_appcontext(close_db)
    with app.app_context(), get_db() as db:
        db.execute("CREATE TABLE IF NOT EXISTS city (name TEXT PRIMARY KEY, lat REAL, lon REAL)")
        db.execute(
            "CREATE TABLE IF NOT EXISTS ticket"
            " (number INTEGER PRIMARY KEY, traveller TEXT NOT NULL, city TEXT NOT NULL)"
        )
        db.executemany(
            "INSERT OR IGNORE INTO city VALUES (?, ?, ?)",
            [(name, lat, lon) for name, (lat, lon) in CITIES.items()],
        )
