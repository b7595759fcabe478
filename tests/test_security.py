"""What SECURITY.md promises: no secret in a log, an error or a repr. Ids: test_futures.py; pickle:
test_layers.py; isolation: test_context*.py.
"""

from __future__ import annotations

import functools
import logging
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask, g, request, session

from flask_executor_typed import Executor, FutureProxy, current_job

from .apps import working
from .conftest import TIMEOUT
from .helpers.workers import START

SECRET = "hunter2-of-the-tests"


@dataclass
class Client:
    """Shows its password in its repr, as a dataclass does."""

    password: str

    def call(self, *_: object) -> None:
        raise LookupError("no such thing")


def fail(*_: object, **__: object) -> None:
    raise LookupError("no such thing")


async def fail_async(*_: object, **__: object) -> None:
    raise LookupError("no such thing")


def give(secret: str) -> str:
    return secret


def show_current_job(secret: str) -> str:
    return repr(current_job)


def take_too_long(secret: str) -> None:
    limit = time.monotonic() + TIMEOUT
    while not current_job.cancel_requested and time.monotonic() < limit:
        time.sleep(0.01)


class Everything(logging.Handler):
    """What is logged, as a file would have it: with tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter().format(record))


@pytest.fixture
def log() -> Iterator[Everything]:
    everything, root = Everything(), logging.getLogger()
    level = root.level
    root.addHandler(everything)
    root.setLevel(logging.DEBUG)
    yield everything
    root.removeHandler(everything)
    root.setLevel(level)


def text_of(error: BaseException | None) -> str:
    return "" if error is None else "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_no_secret_is_in_a_log_an_error_or_a_repr(app: Flask, log: Everything, kind: str) -> None:
    app.secret_key = SECRET
    app.config.from_mapping(
        PASSWORD=SECRET, EXECUTOR_TYPE=kind, EXECUTOR_MAX_WORKERS=1, EXECUTOR_SLOW_CALLBACK=60
    )
    shown: list[str] = []

    with Executor(app) as executor, app.test_request_context("/?token=" + SECRET):
        g.password = SECRET
        session["password"] = SECRET
        calls: list[tuple[Executor, Callable[..., Any]]] = [
            (executor, fail),
            (executor, fail_async),
            (executor, functools.partial(fail, SECRET, password=SECRET)),
            (executor, Client(SECRET).call),
            (executor.using(retries=1), fail),
            (executor.using(timeout=0.05), take_too_long),
            (executor, give),
            (executor, show_current_job),
        ]
        futures: list[FutureProxy[Any]] = []
        for through, fn in calls:
            future = through.submit(fn, SECRET)
            future.add_done_callback(functools.partial(fail, SECRET))
            future.add_done_callback(Client(SECRET).call)
            futures.append(future)
        for future in futures:
            shown += [repr(future), future.name, text_of(future.exception(60))]
        shown.append(futures[-1].result())
        cancelled = executor.submit(fail, SECRET)
        cancelled.cancel()
        shown += [repr(cancelled), repr(executor), repr(executor.stats())]
        shown += [repr(executor.job(functools.partial(fail, SECRET)))]
        shown += [repr(executor.job(Client(SECRET).call))] if kind == "thread" else []
        shown += [repr(state.config) for state in executor._states.values()]
        executor.shutdown()
        with pytest.raises(RuntimeError) as closed:
            executor.submit(fail, SECRET)
        shown.append(str(closed.value))
    assert len(log.lines) > len(calls)  # failures and raising callbacks are logged
    assert [line for line in (*shown, *log.lines) if SECRET in line] == []


def shown_by_frames(given: str) -> list[str]:
    """Return the local variables of the package that show a secret, up the stack from here."""
    assert SECRET in given
    assert SECRET in (g.secret, session["secret"], request.cookies["secret"])
    found: list[str] = []
    frame = sys._getframe().f_back
    while frame is not None:
        if "flask_executor_typed" in frame.f_code.co_filename:
            for name, value in frame.f_locals.items():
                if SECRET in repr(value):
                    found.append(f"{name} in {frame.f_code.co_name}")
        frame = frame.f_back
    return found


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_no_local_variable_on_the_stack_of_a_job_shows_a_secret(kind: str) -> None:
    with working.serving(EXECUTOR_TYPE=kind) as executor:
        (state,) = executor._states.items()
        with state[0].test_request_context(headers={"Cookie": f"secret={SECRET}"}):
            g.secret = session["secret"] = SECRET
            assert executor.submit(shown_by_frames, SECRET).result(START) == []


def test_argument_that_cannot_be_pickled_is_named_and_not_shown(app: Flask) -> None:
    class Local:
        def __repr__(self) -> str:
            return SECRET

    app.config["EXECUTOR_TYPE"] = "process"
    with Executor(app) as executor, pytest.raises(TypeError) as raised:
        executor.submit(fail, SECRET, lock=Local())
    assert "argument 'lock'" in str(raised.value)
    assert SECRET not in text_of(raised.value)


def test_seed_of_random_does_not_tell_the_ids() -> None:
    ids: list[str] = []
    for _ in range(2):
        random.seed(7)
        ids.append(FutureProxy[int]().id)
    assert ids[0] != ids[1]
