"""Fixtures that every test file may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from flask_executor_typed import Executor

TIMEOUT = 10.0
"""Seconds after which a wait in a test counts as a hang; nothing here takes nearly as long."""


@pytest.fixture
def app() -> Flask:
    app = Flask("tests")
    app.secret_key = "tests"
    return app


@pytest.fixture
def executor(app: Flask) -> Iterator[Executor]:
    """An executor that serves ``app``; its threads end with the test."""
    with Executor(app) as executor:
        yield executor
