"""CPython's own tests of executors and futures, run against those of this package.

The only module that knows how CPython's tests are laid out. They are imported from the interpreter
that runs this, where it has them; nothing of them is kept here. By hand:
``python -m tests.conformance.runner app concurrent test_map``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import faulthandler
import gc
import itertools
import json
import sys
import threading
import unittest
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import _base
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, RUNNING
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from flask import Flask

from flask_executor_typed import Executor, FutureProxy
from flask_executor_typed.runtime.threads import DaemonPool

__all__ = ("ROOT", "Context", "Report", "Suite", "install", "missing", "run")

Suite = Literal["concurrent", "asyncio"]
"""Executors and futures by themselves; or under asyncio, which runs its own on them."""

Context = Literal["app", "request", "none"]
"""What is active where CPython's tests submit: an app context, a request context too, or nothing,
with one app that the executor serves."""

ROOT = Path(__file__).resolve().parents[2]

_MODULES: dict[Suite, tuple[str, ...]] = {
    "concurrent": (
        "test.test_concurrent_futures",  # one module in older versions, else a package
        *(
            f"test.test_concurrent_futures.test_{part}"
            for part in ("future", "thread_pool", "wait", "as_completed", "shutdown", "init")
        ),
    ),
    "asyncio": (
        *(
            f"test.test_asyncio.test_{part}"
            for part in ("futures", "tasks", "threads", "base_events", "events")
        ),
        "test.test_context",
    ),
}

_CHILD_HANGS_AFTER = 20.0  # seconds; the longest sleeps for one
_TEST_HANGS_AFTER = 60.0  # seconds; CPython's own limit for what takes no time is 30
_THREADS_END_WITHIN = 5.0  # seconds


class Report(TypedDict):
    """What one run found. The keys are ``Class.test``."""

    passed: list[str]
    failed: dict[str, str]
    """The traceback of each test that failed."""

    skipped: dict[str, str]
    """The reason of each test that was skipped."""

    leaked: list[str]
    """The names of threads that outlived the tests."""


def missing(suite: Suite) -> str | None:
    """Why ``suite`` cannot run on this interpreter, or ``None`` if it can."""
    package = ".".join(_MODULES[suite][0].split(".")[:2])
    if _exists(package):
        return None
    version = sys.version.split(maxsplit=1)[0]
    return f"this build of Python {version} comes without {package}"


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package that it would be in
        return False


# -- stand-ins: what CPython's tests can do with theirs and not with ours --------------------------

_app = Flask("conformance")
_numbers = itertools.count(1)


class ThreadPoolExecutor(Executor[Any]):
    """The executor, with the arguments and the ``_threads`` of CPython's."""

    def __init__(self, max_workers: int | None = None, thread_name_prefix: str = "") -> None:
        # A name of its own, because settings belong to the app and the name.
        super().__init__(name=f"{thread_name_prefix}{next(_numbers)}")
        if max_workers is not None:
            _app.config[f"{self.name.upper()}_EXECUTOR_MAX_WORKERS"] = max_workers
        self.init_app(_app)
        # An app keeps its executor. These tests drop theirs, and then look for its threads.
        del _app.extensions[self.name + "executor"]

    @property
    def _threads(self) -> list[threading.Thread]:
        backend: Any = self._states[_app].backend(_app)
        threads: list[threading.Thread] = backend._pool._workers
        return threads


class Future(FutureProxy[Any]):
    """The future, put into a state by assignments, which is how CPython's tests make theirs."""

    _is_finishing = False
    _is_untold = False

    if not TYPE_CHECKING:  # the standard library's stubs call it an attribute

        @property
        def _state(self) -> str:
            return CANCELLED if self._is_untold else super()._state

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_state":
            self._become(value)
        elif name == "_exception" and self._is_finishing and value is not None:
            self._is_finishing = False
            self.set_exception(value)
        elif name == "_result" and self._is_finishing:  # which they write last
            self._is_finishing = False
            self.set_result(value)
        else:
            super().__setattr__(name, value)

    def _become(self, state: str) -> None:
        if state == RUNNING:
            self.set_running_or_notify_cancel()
        elif state in {CANCELLED, CANCELLED_AND_NOTIFIED}:
            self.cancel()
            # Ours tells its waiters at once, so it is never just CANCELLED. For wait() and
            # as_completed(), which must call such a future "not done", it can pretend.
            self._is_untold = state == CANCELLED
        self._is_finishing = state == FINISHED


# -- putting them in place -------------------------------------------------------------------------


def _replace(owner: ModuleType | type, name: str, value: object) -> None:
    setattr(owner, name, value)


def install() -> None:
    """Have all that asks ``concurrent.futures`` for an executor or a future get ours."""
    _replace(concurrent.futures, "ThreadPoolExecutor", ThreadPoolExecutor)
    _replace(concurrent.futures, "Future", FutureProxy)
    # It insists on a ThreadPoolExecutor, which our pool for asyncio.to_thread() is not any more.
    _replace(asyncio.BaseEventLoop, "set_default_executor", _set_default_executor)


_original_of_asyncio: Any = asyncio.BaseEventLoop.set_default_executor


def _set_default_executor(loop: Any, executor: object) -> None:
    if isinstance(executor, DaemonPool):
        loop._default_executor = executor
    else:
        _original_of_asyncio(loop, executor)


def pushed(context: Context) -> AbstractContextManager[object]:
    """The context of a run, to be entered where the tests are."""
    if context == "none":
        return nullcontext()
    return _app.app_context() if context == "app" else _app.test_request_context("/?id=7")


def _install_in_children(context: Context) -> None:
    """Some tests run ``assert_python_ok("-c", source)``: give that Python our classes as well."""
    helper = import_module("test.support.script_helper")
    run: Callable[..., Any] = helper.assert_python_ok
    prelude = f"""\
import faulthandler, sys
faulthandler.dump_traceback_later({_CHILD_HANGS_AFTER}, exit=True)
sys.path.insert(0, {str(ROOT)!r})
from tests.conformance import runner
runner.install()
context = runner.pushed({context!r})
context.__enter__()
"""

    def assert_python_ok(option: str, source: str) -> Any:
        return run(option, prelude + source)

    _replace(helper, "assert_python_ok", assert_python_ok)


@contextmanager
def _made_of_ours() -> Generator[None]:
    """While modules are imported that make futures then, and keep the class.

    No longer, because the standard library's pool of processes makes its futures of it.
    """
    theirs = _base.Future
    _replace(_base, "Future", Future)
    try:
        yield
    finally:
        _replace(_base, "Future", theirs)


# -- loading and running ---------------------------------------------------------------------------


def _load(suite: Suite, context: Context) -> list[ModuleType]:
    for name in ("asyncio", "concurrent.futures.process", "concurrent.futures.thread"):
        import_module(name)  # before anything is replaced: they are not what is tested
    install()
    _install_in_children(context)
    # Once for all tests, at the end: before Python 3.13, a thread that needs a moment to end costs
    # each test a second and a hundred garbage collections.
    _replace(import_module("test.support.threading_helper"), "threading_cleanup", _no_cleanup)
    with _made_of_ours():
        modules = [import_module(name) for name in _MODULES[suite] if _exists(name)]
    return [module for module in modules if not hasattr(module, "__path__")]


def _no_cleanup(*_: object) -> None: ...


def _is_meant(suite: Suite, test: unittest.TestCase) -> bool:
    """Whether a test has to do with executors of threads, or with their futures."""
    kind, method = _name(test).split(".")
    if suite == "concurrent":
        pool = getattr(test, "executor_type", None)
        return kind == "FutureTests" if pool is None else pool is ThreadPoolExecutor
    return (
        kind in {"ToThreadTests", "RunCoroutineThreadsafeTests"}
        or "executor" in method
        or "wrap_future" in method
        or method == "test_context_threads_1"  # of contextvars, in the threads of a pool
    )


def _each(tests: unittest.TestSuite | unittest.TestCase) -> Iterator[unittest.TestCase]:
    if isinstance(tests, unittest.TestCase):
        yield tests
    else:
        for test in tests:
            yield from _each(test)


def _name(test: unittest.TestCase) -> str:
    return ".".join(test.id().split(" ")[0].split(".")[-2:])  # without a subtest's arguments


class _Result(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        print(test.id(), file=sys.stderr, flush=True)  # which one it was, should it hang
        faulthandler.dump_traceback_later(_TEST_HANGS_AFTER, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.passed.append(_name(test))


def _leftover_threads() -> list[str]:
    """Threads that do not end by themselves, soon, although nobody refers to their executor."""
    gc.collect()
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in others:
        thread.join(_THREADS_END_WITHIN)
    return [thread.name for thread in others if thread.is_alive()]


def run(suite: Suite, context: Context, *patterns: str) -> Report:
    """Run a suite in this interpreter, which is not good for anything else afterwards.

    Args:
        suite: Which tests.
        context: What is active meanwhile.
        patterns: Parts of names; by default all tests run.
    """
    load = unittest.defaultTestLoader.loadTestsFromModule
    chosen = unittest.TestSuite(
        test
        for module in _load(suite, context)
        for test in _each(load(module))
        if _is_meant(suite, test) and any(part in test.id() for part in patterns or [""])
    )
    result = _Result()
    with pushed(context):
        chosen.run(result)
    return Report(
        passed=result.passed,
        failed={_name(test): text for test, text in (*result.failures, *result.errors)},
        skipped={_name(test): reason for test, reason in result.skipped},
        leaked=_leftover_threads(),
    )


def main(context: Context = "app", suite: Suite = "concurrent", *patterns: str) -> None:
    reason = missing(suite)
    if reason is not None:
        sys.exit(reason)
    report = run(suite, context, *patterns)
    print("\n" + json.dumps(report))  # the last line: tests print too


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]  # which context and suite is the user's word
