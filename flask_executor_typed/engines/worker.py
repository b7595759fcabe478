"""Take the jobs that an engine's messages name, and run them with the app of this process.

An engine's task, or function, calls :func:`run_message`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakValueDictionary, finalize, ref

from flask import Flask

from ..backends.pickling import Settings, Work, load_function
from ..backends.runner import ClosableRunner, WorkersCall
from ..callables import is_async_callable
from ..calls import Call
from ..errors import (
    DeadlockError,
    JobFailedError,
    JobVersionError,
    SignatureError,
)
from ..futures import (
    FutureProxy,
    block_until_done,
    fail,
    future_with_id,
    keep_log,
    recorder_of,
    waiting_here_by,
)
from ..runtime.forks import in_child
from ..runtime.frames import line_of_caller
from ..runtime.logs import log_exception
from ..signing import JobSigner
from ..stores.client import StoreClient
from ..stores.recording import Recording
from ..stores.records import Row
from ..stores.remote import RemoteFuture
from .envelope import Envelope, open_envelope
from .protocol import Engine

__all__ = ("EngineSetup", "Serving", "lose", "run_message")

WhileWaiting = Callable[[], AbstractContextManager[object]]

_PATIENCE = 30.0
"""Seconds that a worker tries to reach the store, before and after a job. A guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetup:
    """What an executor has in one app for its engine, on both sides."""

    engine: Engine
    settings: Settings
    client: StoreClient
    signer: JobSigner
    app: ref[Flask]
    app_name: str
    logs_exceptions: bool
    keeps_logs: bool
    release: str | None


class Serving:
    """An executor of an app in this process that runs what an engine brings. Thread-safe."""

    def __init__(self, setup: EngineSetup) -> None:
        self.setup: EngineSetup = setup
        self._lock = threading.Lock()
        self._runner: _Runner | None = None  # set under _lock
        _serving[setup.app_name, setup.client.settings.executor] = self

    def runner(self) -> _Runner:
        with self._lock:
            if self._runner is None:
                self._runner = _Runner(self.setup)
            return self._runner

    def forget_parent(self) -> None:
        """In the child of a fork: the threads of the loops are the parent's."""
        self._lock = threading.Lock()
        self._runner = None


_serving: WeakValueDictionary[tuple[str, str], Serving] = WeakValueDictionary()
"""By the names of the app and of the executor. The newest counts, as in ``app.extensions``."""


@in_child
def _forget_parent() -> None:
    for serving in list(_serving.values()):
        serving.forget_parent()


def run_message(  # noqa: PLR0913  # the parts of a message
    app: str,
    executor: str,
    name: str,
    job_id: str,
    attempt: int,
    token: str,
    *,
    is_alone: bool = False,
    while_waiting: WhileWaiting | None = None,
) -> None:
    """Run the job of a message, unless that was done. For the workers of engines; it blocks.

    Returns when the end of the job is recorded, or after half a minute in which it cannot be.

    Args:
        app: This and the next ones are the message.
        executor: See :class:`Message`.
        name: See :class:`Message`.
        job_id: See :class:`Message`.
        attempt: See :class:`Message`.
        token: See :class:`Message`.
        is_alone: Whether this process runs this one job and nothing else, and is replaced when it
            ends, so that ``cancel(kill=True)`` may kill it.
        while_waiting: Returns a context manager that gives this worker to other jobs while a plain
            function waits in it for another job; ``None``: such a wait raises ``DeadlockError``.

    Raises:
        JobFailedError: the job failed, which its record says and this process has logged.
        SignatureError: the message is not genuine. Nothing of it was unpickled.
        StoreError: the store could not be reached, so that the job has not begun.
        LookupError: this process has no such app.
    """
    wait = partial(_wait, while_waiting)
    with waiting_here_by(wait):
        _find(app, executor).runner().run(name, job_id, attempt, token, is_alone=is_alone)


def lose(
    app: str, executor: str, job_id: str, attempt: int, reason: str, *, has_ended: bool
) -> None:
    """Note that the process that was running a job has died. For what watches over workers.

    On the machine of that process. See :meth:`StoreClient.lose`.
    """
    _find(app, executor).setup.client.lose(job_id, attempt, reason, has_ended=has_ended)


def _find(app: str, executor: str) -> Serving:
    serving = _serving.get((app, executor))
    if serving is None:
        here = ", ".join(repr(each) for each, _ in list(_serving)) or "none"
        raise LookupError(
            f"this worker has no app {app!r} with an executor {executor!r} that uses an engine; "
            f"apps here: {here}"
        )
    return serving


class _Call(WorkersCall):
    """A call that reports for itself: the submitter's process may be gone."""

    __slots__ = ("client",)

    client: StoreClient

    def pause_after(self, error: BaseException) -> float | None:
        pause = super().pause_after(error)
        if pause is None:
            return None
        # If this process dies in the next attempt, the record must count that one too. A coroutine
        # does not wait for a store that is away: it would stop the loop of all others.
        patience = 0.0 if is_async_callable(self.fn) else _PATIENCE
        if self.client.note_attempt(self.future, patience):
            return pause
        self.set_attempt(self.attempt - 1)  # it is not begun, and the job fails
        self.give_up()
        return None

    def _announce_start(self) -> None:
        super(WorkersCall, self)._announce_start()

    def explain(self, error: BaseException) -> None:
        super(WorkersCall, self).explain(error)

    @property
    def keeps_log(self) -> bool:
        return super(WorkersCall, self).keeps_log

    def add_log(self, lines: Iterable[str]) -> None:
        super(WorkersCall, self).add_log(lines)


class _Killer:
    """The interrupter of a plain function: kills this process, which runs nothing else."""

    def __init__(self, setup: EngineSetup, future: FutureProxy[Any]) -> None:
        self.backend = setup.engine.name
        self._client = setup.client
        self._lock = threading.Lock()
        self._future: FutureProxy[Any] | None = future  # set under _lock

    def can_interrupt(self, call: Call[Any], *, kill: bool) -> bool:
        return kill

    def interrupt(self, call: Call[Any], *, kill: bool = False) -> None:
        """Kill this process, in a thread of the store. The job is settled as cancelled already."""
        if not kill:
            return
        # The function may return meanwhile. If its thread takes the lock first, in release(), it
        # may take another job, and the process lives on. Else it waits there for its end.
        with self._lock:
            # The record comes first: the end of a process whose job has one loses nothing.
            if self._future is not None and self._client.wait_until_written(
                self._future, _PATIENCE
            ):
                os.kill(os.getpid(), signal.SIGKILL)

    def ask_to_end(self, call: Call[Any]) -> None:
        """Do nothing: the function sees the request itself."""

    def release(self) -> None:
        """Let the process live, because the job is over."""
        with self._lock:
            self._future = None


class _Runner(ClosableRunner):
    def __init__(self, setup: EngineSetup) -> None:
        super().__init__(setup.settings)
        self._setup = setup
        self._call_type = _Call
        app = setup.app()
        if app is None:
            raise LookupError(f"the app {setup.app_name!r} is gone")
        self._serve(app)
        # With an app that is garbage its loops end: the exit waits for their threads.
        finalize(self, self._loops.end).atexit = False

    def run(
        self, name: str, job_id: str, attempt: int, token: str, *, is_alone: bool = False
    ) -> None:
        client = self._setup.client
        error: BaseException | None = None
        envelope: Envelope | None = None
        try:
            envelope = open_envelope(self._setup.signer, token, job_id=job_id, name=name)
        except SignatureError:
            raise
        except Exception as raised:  # of another release, say: the record says so
            error = raised
        # The message is acknowledged: nothing else would run the job.
        row = client.take(job_id, attempt, _PATIENCE)
        if row is None:  # it was begun, cancelled, or withdrawn
            return
        if envelope is not None:
            future, error = self._run_job(envelope, row, is_alone=is_alone)
        else:
            future = future_with_id(name, job_id, None)
        if error is not None and not future.done():
            self._fail(future, row, error)
        client.write_end(future, _PATIENCE)
        if not future.cancelled() and (failure := future.exception(0)) is not None:
            raise JobFailedError(name, type(failure).__qualname__, _text_of(failure), "")

    def _run_job(
        self, envelope: Envelope, row: Row, *, is_alone: bool
    ) -> tuple[FutureProxy[Any], BaseException | None]:
        """Run a job that was taken. Return its future, and why it could not be run."""
        work, limits, release = envelope
        try:
            call = self._load(work, self._setup.app())
        except BaseException as error:
            if isinstance(error, JobVersionError):
                error = JobVersionError(work.name, error.reason, release, self._setup.release)
            return future_with_id(work.name, work.id, None), error
        future = call.future
        call.limits = limits
        call.logs = self._setup.logs_exceptions
        if self._setup.keeps_logs:
            keep_log(future)
        assert isinstance(call, _Call)
        call.client = self._setup.client
        call.set_attempt(row.attempts)
        killer = _Killer(self._setup, future)
        if is_alone:
            call.interrupter = killer  # unless a loop runs it
        self._setup.client.adopt(future, row)
        if row.cancel:  # while it was on its way
            future.cancel()
        try:
            self._run_call(call, 0)
        except BaseException as error:  # no thread can be started, or this worker is ending
            if not future.done():
                call.fail(error)
                call.release()
            if not isinstance(error, Exception):
                self._setup.client.write_end(future, _PATIENCE)
                raise
        finally:
            killer.release()
        return future, None

    def _load_function(self, work: Work) -> Any:
        return load_function(work.name, work.function)

    def _fail(self, future: FutureProxy[Any], row: Row, error: BaseException) -> None:
        self._setup.client.adopt(future, row)
        if not fail(future, error):  # it was cancelled meanwhile
            return
        if (app := self._setup.app()) is not None:
            message = "background job %s [%s] cannot run in this worker"
            log_exception(app.logger, message, future.name, row.id, error=error)

    def _variables(self) -> Context:
        # With what the engine has set for its task: OpenTelemetry's and Sentry's spans, say.
        return copy_context()


def _wait(
    while_waiting: WhileWaiting | None, future: FutureProxy[Any], timeout: float | None
) -> None:
    """Wait for a job that needs a worker like the one that this job keeps, but not for ever."""
    recorder = recorder_of(future)
    is_elsewhere = isinstance(recorder, Recording) and recorder.is_elsewhere
    if not is_elsewhere and not isinstance(future, RemoteFuture):
        block_until_done(future, timeout)
    elif while_waiting is not None:
        with while_waiting():
            block_until_done(future, timeout)
    elif timeout is not None:
        block_until_done(future, timeout)
    else:
        reason = (
            "and needs a worker, of which this job keeps one: if all waited, none would be left; "
            "submit what follows from the job itself, or use a done callback where you submit"
        )
        raise DeadlockError(line_of_caller(), future.name, reason)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # of a user's class
        return ""
