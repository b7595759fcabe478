"""The part of the pytest plugin that pytest imports at the start of every run.

It is no part of the package: to import a module of a package, Python imports the package, and that
one imports Flask, long before a test suite patches threads or measures what it imports. The rest,
``flask_executor_typed.pytest_plugin``, is registered when a test was collected that uses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flask_executor_typed.pytest_plugin import OverrideSync
    from flask_executor_typed.testing import ExecutorCalls

_FIXTURES = frozenset({"executor_calls", "executor_held", "executor_sync"})

_MODES = ("error", "warn", "off")


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, what in (("leaks", "jobs that still run"), ("failures", "jobs that failed unseen")):
        parser.addini(
            f"executor_{name}",
            f"{what} at the end of a test: error, warn or off; default: error for tests that use "
            "a fixture or the marker of flask-executor-typed, off for others",
        )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "executor(type=, allow_failures=, **settings): settings of the executors in this test, as "
        "EXECUTOR_... in lower case; allow_failures=True: jobs may fail unseen",
    )
    for name in ("executor_leaks", "executor_failures"):
        if config.getini(name) not in ("", *_MODES):
            raise pytest.UsageError(
                f"{name} = {config.getini(name)}: expected {', '.join(_MODES[:-1])} or {_MODES[-1]}"
            )


def pytest_collection_finish(session: pytest.Session) -> None:
    if any(is_watched(item) for item in session.items):
        _plugin_of(session.config)


def is_watched(item: pytest.Item) -> bool:
    """Return whether the jobs of a test are recorded."""
    modes = {item.config.getini("executor_leaks"), item.config.getini("executor_failures")}
    return uses_plugin(item) or not modes <= {"", "off"}


def uses_plugin(item: pytest.Item) -> bool:
    """Return whether a test uses a fixture of this plugin, or its marker."""
    names: tuple[str, ...] = getattr(item, "fixturenames", ())
    return not _FIXTURES.isdisjoint(names) or item.get_closest_marker("executor") is not None


def _plugin_of(config: pytest.Config) -> Any:
    from flask_executor_typed import pytest_plugin

    if not config.pluginmanager.is_registered(pytest_plugin):
        config.pluginmanager.register(pytest_plugin)
    return pytest_plugin


@pytest.fixture
def executor_calls(request: pytest.FixtureRequest) -> ExecutorCalls:
    """The calls that executors accept during the test. They run at once."""
    return _calls_of(request, runs=True)


@pytest.fixture
def executor_held(request: pytest.FixtureRequest) -> ExecutorCalls:
    """The calls that executors accept during the test. They run in ``executor_held.run()``."""
    return _calls_of(request, runs=False)


def _calls_of(request: Any, *, runs: bool) -> ExecutorCalls:
    calls: ExecutorCalls = _plugin_of(request.config).calls_of(request.node, runs=runs)
    return calls


@pytest.fixture
def executor_sync() -> Generator[OverrideSync, None, None]:
    """A function that makes an executor run its jobs in ``submit()``, until the test is over."""
    from flask_executor_typed.testing import override

    with contextlib.ExitStack() as stack:
        yield lambda executor, app: stack.enter_context(override(executor, app))
