"""An app whose view submits jobs, for each of the libraries."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from flask import Flask

from flask_executor_typed import Executor

__all__ = ("create_app", "view_was_asked")


def create_app(**settings: object) -> Flask:
    app = Flask("shop")
    for name, value in settings.items():
        app.config[f"EXECUTOR_{name}"] = value
    Executor(app)
    return app


@contextmanager
def view_was_asked(app: Flask, view: Callable[[Executor], object]) -> Generator[Executor]:
    """Ask for a view; yield the executor, which is shut down in the end."""
    executor: Executor = app.extensions["executor"]

    def index() -> str:
        view(executor)
        return ""

    app.add_url_rule("/", view_func=index)
    with executor:
        with app.test_client() as web:
            assert web.get("/").status_code == 200
        yield executor
