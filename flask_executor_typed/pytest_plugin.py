"""The checks of the pytest plugin: each test's jobs are recorded, and none leaks or fails unseen.

``pytest_flask_executor_typed`` registers this module when a test was collected that uses it.
"""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Generator, Iterable
from typing import Any, Protocol
from weakref import WeakSet

import pytest
from flask import Flask

from pytest_flask_executor_typed import is_watched, uses_plugin

from .app_state import backends_wrapped, settings_forced, states
from .errors import ConfigError, ExecutorBusyError
from .executor import Executor, open_executors
from .testing import ExecutorCalls, Recording

__all__ = ("OverrideSync", "calls_of")

_GRACE = 5.0  # seconds that jobs have to end when the test is over


class _Watch:
    """What is done for one test."""

    def __init__(self, item: pytest.Item) -> None:
        settings: dict[str, Any] = {}
        for marker in item.iter_markers("executor"):  # the closest first
            if marker.args:
                given = ", ".join(map(repr, marker.args))
                raise pytest.UsageError(
                    f"@pytest.mark.executor({given}): expected settings by name, such as "
                    'type="sync"'
                )
            settings = {**marker.kwargs, **settings}
        self._allows_failures: bool = settings.pop("allow_failures", False)
        names: tuple[str, ...] = getattr(item, "fixturenames", ())
        self.recording: Recording = Recording(runs="executor_held" not in names, portable=False)
        self._settings = settings
        self._uses_plugin = uses_plugin(item)
        self._config = item.config
        self._stack = contextlib.ExitStack()

    def begin(self) -> None:
        self._apps = _apps_in_use()
        if self._settings:
            self._stack.enter_context(_settings(self._settings))
        # In the end: when no more are held, and also if a fixture fails and there is no test.
        self._stack.callback(self.recording.end)
        self._stack.enter_context(backends_wrapped(self.recording.wrap))

    def close(self) -> None:
        """Put everything back, and see that the apps of this test are in the way of no other."""
        self._stack.close()
        lasting = [self._apps, *_lasting.values()]
        _set_aside(app for app in _apps_in_use() if not any(app in each for each in lasting))

    def problems(self) -> list[str]:
        """Wait for the jobs, and return what is wrong with them."""
        self.recording.drop_held()
        with contextlib.suppress(ExecutorBusyError):
            self.recording.wait(_GRACE)
        return [*self._leaks(), *self._failures()]

    def _checks(self, what: str) -> str:
        """Return ``"error"`` or ``"warn"``, or ``""`` if nothing is to be checked."""
        mode: str = self._config.getini(f"executor_{what}")
        if mode:
            return "" if mode == "off" else mode
        return "error" if self._uses_plugin else ""

    def _leaks(self) -> list[str]:
        leaks = self.recording.leaks()
        texts = [f"{call} still {'runs' if call.future.running() else 'waits'}" for call in leaks]
        for call in leaks:
            call.future.cancel()  # a plain function in a thread goes on
        return self._report(
            "leaks",
            "jobs are not over at the end of the test; wait for them with executor_calls.wait(), "
            "or cancel them",
            texts,
        )

    def _failures(self) -> list[str]:
        if self._allows_failures:
            return []
        texts = [
            f"{call} failed:\n" + "".join(traceback.format_exception(failure)).rstrip()
            for call, failure in self.recording.unseen_failures()
        ]
        return self._report(
            "failures",
            "jobs failed, and the test has not asked how they ended; use "
            "executor_calls.expect_failure(), future.result(), or "
            "@pytest.mark.executor(allow_failures=True)",
            texts,
        )

    def _report(self, what: str, problem: str, texts: list[str]) -> list[str]:
        mode = self._checks(what)
        if not texts or not mode:
            return []
        text = "\n\n".join([f"{len(texts)} {problem}", *texts])
        if mode == "error":
            return [text]
        warnings.warn(pytest.PytestWarning(text), stacklevel=2)
        return []


@contextlib.contextmanager
def _settings(settings: dict[str, Any]) -> Generator[None, None, None]:
    """Let all executors have these settings, those that serve an app already included."""
    try:
        with settings_forced(settings):
            _read_settings()
            yield
    finally:
        _read_settings()  # also those of apps that came in between


def _read_settings() -> None:
    """Let all executors read their settings again."""
    for app, executor in open_executors():
        if not executor.state_of(app).is_set_aside:
            executor.init_app(app)
            continue
        # A later test may use this app again, or it is about to go: then no error is of interest.
        with contextlib.suppress(ConfigError):
            executor.init_app(app)
        executor.state_of(app).is_set_aside = True


def _apps_in_use() -> WeakSet[Flask]:
    """Return the apps that executors serve, but for those that are set aside."""
    in_use = [state for state in states() if not (state.closed or state.is_set_aside)]
    return WeakSet(app for state in in_use if (app := state.app) is not None)


def _set_aside(apps: Iterable[Flask]) -> None:
    """Let no later test mean one of these apps when it submits outside of an app context."""
    apps = list(apps)
    for state in states():
        if state.app in apps:
            state.is_set_aside = True


_watch = pytest.StashKey["_Watch"]()


def _watch_of(item: pytest.Item) -> _Watch:
    """Return the watch of a test, which begins now unless it has begun."""
    if _watch not in item.stash:
        item.stash[_watch] = watch = _Watch(item)
        watch.begin()
    return item.stash[_watch]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    # Before the fixtures: what they submit belongs to the test.
    if is_watched(item):
        _watch_of(item)
    yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    # Around the test alone: when the fixtures have gone, their executors would have waited for a
    # job that leaks.
    try:
        yield
    except BaseException:
        if _watch in item.stash:
            for problem in item.stash[_watch].problems():
                item.add_report_section("call", "jobs", problem)
        raise
    if _watch in item.stash and (problems := item.stash[_watch].problems()):
        pytest.fail("\n\n".join(problems), pytrace=False)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    try:
        yield
    finally:
        if _watch in item.stash:
            item.stash[_watch].close()
            del item.stash[_watch]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any],
) -> Generator[None, object, object]:
    if fixturedef.scope == "function":
        return (yield)
    before = _apps_in_use()
    try:
        return (yield)
    finally:
        # Of a wider scope: they are in use when the test that came first is over.
        _lasting.setdefault(id(fixturedef), WeakSet()).update(_apps_in_use() - before)


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[Any]) -> None:
    _set_aside(_lasting.pop(id(fixturedef), ()))


_lasting: dict[int, WeakSet[Flask]] = {}
"""The apps that fixtures of a wider scope have made, by fixture."""


def calls_of(item: pytest.Item, *, runs: bool) -> ExecutorCalls:
    """Return the calls of a test, for its fixtures. Without ``runs`` they are held."""
    recording = _watch_of(item).recording
    recording.runs = recording.runs and runs
    return ExecutorCalls(recording)


class OverrideSync(Protocol):
    """What the fixture ``executor_sync`` gives."""

    def __call__(self, executor: Executor[Any], app: Flask, /) -> Executor[Any]:
        """Run the jobs of ``executor`` in ``submit()``, until the test is over."""
        ...
