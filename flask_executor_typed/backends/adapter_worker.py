"""Run a call in a worker of a third-party executor: another process or interpreter.

The only module that such a worker imports by name. Except for coroutines, it must work without
daemon threads and signals, which subinterpreters don't have.
"""

from __future__ import annotations

import os
import pickle
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from flask import Flask

from ..errors import ConfigError, UnsupportedError
from ..futures import FutureProxy
from .pickling import Settings, Work, dump_error
from .runner import FAILED, ClosableRunner, become_worker

__all__ = ("Told", "home", "run_call")

R = TypeVar("R")

_token = secrets.token_hex(8)  # differs between the interpreters of one process


class Told(NamedTuple):
    """Facts that all calls of an executor share."""

    settings: Settings
    backend: str
    """The name of the backend in messages."""

    coroutines: bool
    """Whether the executor can run coroutines."""

    home: tuple[int, str]
    """The process and interpreter that submit the calls."""

    key_of_type: str


def home() -> tuple[int, str]:
    """Return what identifies this process and interpreter."""
    return os.getpid(), _token


def run_call(told: bytes, message: bytes) -> tuple[bytes, bytes, float]:
    """Run a call. Return the kind of answer, the answer, and when the call began."""
    started = time.time()
    work: Work = Work(*pickle.loads(message))
    try:
        runner, app = _runner_of(told)
    except BaseException as error:
        return FAILED, dump_error(work.name, error), started
    return *runner.answer_to(work, app), started


_runners: dict[bytes, tuple[_Runner, Flask | None]] = {}  # guarded by _lock
_lock = threading.Lock()


def _runner_of(pickled: bytes) -> tuple[_Runner, Flask | None]:
    with _lock:  # the app is loaded once
        if pickled not in _runners:
            told = Told(*pickle.loads(pickled))
            if told.home == home():
                expected = (
                    "an executor whose workers are other processes: this one runs calls in the "
                    "process that submits them; give it an attribute in_this_process = True"
                )
                raise ConfigError(told.key_of_type, told.backend, expected)
            become_worker()
            runner = _Runner(told)
            _runners[pickled] = runner, runner.load_app()
        return _runners[pickled]


class _Runner(ClosableRunner):
    def __init__(self, told: Told) -> None:
        super().__init__(told.settings)
        self._told = told
        if not told.coroutines:
            self._loop_services = _NoLoops(told.backend)

    def _report(self, future: FutureProxy[Any]) -> None:
        cure = "use EXECUTOR_TYPE='process' or 'thread', or remove progress() and track()"
        raise UnsupportedError(future.name, self._told.backend, "report progress", cure)


class _NoLoops:
    """A stand-in for event loops, where none can be kept alive."""

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def wait_for(self, awaitable: Awaitable[R], /) -> R:
        close = getattr(awaitable, "close", None)
        if close is not None:
            close()  # otherwise Python warns that it was never awaited
        cure = "use EXECUTOR_TYPE='thread', or a plain function that calls asyncio.run()"
        name = "a function that returned an awaitable"
        raise UnsupportedError(name, self._backend, "await what it returned", cure)

    def call_later(self, seconds: float, fn: Callable[[], object], /) -> Callable[[], object]:
        raise NotImplementedError  # submit() refuses calls with a time limit
