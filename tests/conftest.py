"""Fixtures that every test file may use."""

from __future__ import annotations

import faulthandler
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from flask_executor_typed import Executor

TIMEOUT = 30.0
"""Seconds after which a wait in a test counts as a hang; nothing here takes nearly as long."""


def until(condition: Callable[[], object], seconds: float = TIMEOUT) -> None:
    """Wait for what comes true in a moment, and of which no event tells."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it has not come true"
        time.sleep(0.001)


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


def pytest_unconfigure() -> None:
    """Show what every thread does, and end, if the interpreter does not exit."""
    faulthandler.dump_traceback_later(900, exit=True, file=2)  # not the captured stderr


def pytest_sessionfinish() -> None:
    """Fail if a free-threaded build got its GIL back, which any extension module can bring."""
    if sysconfig.get_config_var("Py_GIL_DISABLED") and getattr(sys, "_is_gil_enabled")():  # noqa: B009  # since 3.13
        pytest.exit("the GIL is on: a module that was imported has turned it on", returncode=1)
