"""Run pickled calls in a worker process or another interpreter.

The only module that loads the app there and rebuilds its contexts.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable
from contextvars import Context
from functools import partial
from typing import Any

from flask import Flask

from ..callables import is_async_callable
from ..calls import Call, Carriers, CarryingCall, LoopServices, catch_logs
from ..context import (
    ContextRules,
    ContextSnapshot,
    PortableContext,
    missing_context,
    rebuild,
)
from ..errors import ConfigError, JobVersionError, OutsideContextError, UnpicklableError
from ..futures import (
    FutureProxy,
    block_until_done,
    future_with_id,
    telling,
)
from ..loops import LoopPool
from ..runtime.exit import AtExit, ClosableThreads, close_at_exit
from .pickling import Settings, Work, dump_error, dump_result, load_carried, load_error

__all__ = (
    "CANCELLED",
    "FAILED",
    "RETURNED",
    "ClosableRunner",
    "Runner",
    "WorkersCall",
    "become_worker",
    "is_worker",
    "load_app",
    "settle_like",
)

RETURNED, FAILED, CANCELLED = b"r", b"f", b"c"
"""Kinds of answers to the submitting process."""

_is_worker = False


def is_worker() -> bool:
    """Return whether this process or interpreter is a worker."""
    return _is_worker


def become_worker() -> None:
    """Mark this process or interpreter as a worker."""
    global _is_worker  # noqa: PLW0603
    _is_worker = True


def settle_like(call: Call[Any], kind: bytes, content: bytes) -> BaseException | None:
    """Settle a call by a worker's answer, or return the error that the call failed with."""
    try:
        if kind == CANCELLED:
            call.end_cancelled()
        elif kind == RETURNED:
            call.succeed(pickle.loads(content))
        else:
            return load_error(content)
    except BaseException as error:  # it could be unpickled in the worker, but not here
        name = call.future.name
        return UnpicklableError(name, "its outcome", f"{type(error).__name__}: {error}")
    return None


def load_app(key: str, path: str) -> Flask:
    """Load the app that the setting ``key`` names, as in ``flask --app``.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from flask.cli import ScriptInfo  # imports click, which only the command line needs

    try:
        # Flask's own way of loading --app. It must not change app.debug, which the app's
        # factory sets here as it did in the server process.
        return ScriptInfo(app_import_path=path, set_debug_flag=False).load_app()
    except (Exception, SystemExit) as error:  # SystemExit would end the worker silently
        expected = (
            "an app that a worker process can load, as 'flask --app' does "
            f"({type(error).__name__}: {error})"
        )
        raise ConfigError(key, path, expected) from error


class Runner:
    """Loads the app and runs calls in its contexts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._call_type: type[WorkersCall] = WorkersCall
        self._rules = ContextRules(settings.push_app, settings.push_request)
        self._loops = LoopPool(settings.name, 1)
        self._loop_services: LoopServices = self._loops
        self._executor: object = None
        self._carriers = Carriers()
        self._no_app: Flask | None = None

    def load_app(self) -> Flask | None:
        settings = self._settings
        if settings.app is None:
            return None
        app = load_app(settings.key_of_app, settings.app)
        self._serve(app)
        return app

    def _serve(self, app: Flask) -> None:
        """Run calls of ``app`` from now on."""
        self._executor, carriers = self._settings.executor_of(app)
        self._carriers = Carriers(carriers)

    def answer_to(self, work: Work, app: Flask | None) -> tuple[bytes, bytes]:
        """Run a call. Whatever happens, return an answer that the server process can read."""
        try:
            future = self._run(work, app)
            self._note_end()
            if future.cancelled():
                return CANCELLED, b""
            error = future.exception()
            if error is None:
                return RETURNED, dump_result(work.name, future.result())
        except BaseException as raised:
            error = raised
        try:
            return FAILED, dump_error(work.name, self._explained(error, work.name))
        finally:
            del error  # its traceback refers to this frame

    def _run(self, work: Work, app: Flask | None) -> FutureProxy[Any]:
        call = self._load(work, app)
        future = call.future
        self._run_call(call, work.number)
        return future

    def _load(self, work: Work, app: Flask | None) -> WorkersCall:
        """Build the call that has arrived.

        Raises:
            UnpicklableError: this worker lacks the function, say.
            JobVersionError: the same, in a worker that may be of another release.
        """
        try:
            fn, args, kwargs = self._load_function(work)
        except JobVersionError:
            raise
        except Exception as error:
            reason = f"in the worker: {type(error).__name__}: {error}"
            raise UnpicklableError(work.name, "its function or an argument", reason) from error
        key = None if work.key is None else pickle.loads(work.key)
        future = future_with_id(work.name, work.id, key)
        context: PortableContext | None = None
        if work.context is not None:
            context = pickle.loads(work.context)
        snapshot, variables = self._snapshot(context, app), self._variables()
        if context is not None:
            load_carried(self._carriers, context.carried, snapshot.app).put_into(variables)
        call = self._call_type(
            *(fn, args, kwargs, snapshot, variables, future, False, self._executor)
        )
        call.note_over = partial(self._note_over, work.name)
        call.note_look = partial(self._note_look, future)
        call.attempt = work.attempt
        if work.keeps_log:
            catch_logs()
            call.send_log = partial(self._send_log, future)
        return call

    def _load_function(self, work: Work) -> Any:
        """Return the function of a call, its positional and its keyword arguments."""
        return pickle.loads(work.function)

    def _run_call(self, call: WorkersCall, number: int) -> None:
        """Run a call until it is over."""
        future = call.future
        is_async = is_async_callable(call.fn)
        is_cancelled = self._note_start(number, future)
        with telling(future, lambda: self._report(future)):
            if is_async:
                self._loops.submit(call)
                if is_cancelled:
                    future.cancel()
                call.over.wait()
            elif call.begin():
                if is_cancelled:  # the function cannot be stopped, but sees the request
                    future.cancel()
                call.run(self._loop_services)
            block_until_done(future)  # in case it returned another call's future

    def _variables(self) -> Context:
        """Return the context variables that a call begins with."""
        return Context()

    def _snapshot(self, context: PortableContext | None, app: Flask | None) -> ContextSnapshot:
        if app is None or context is None:
            if self._no_app is None:
                self._no_app = app or Flask("flask_executor_typed")
            rules = ContextRules(push_app=False, push_request=False)
            return ContextSnapshot(self._no_app, rules)
        return rebuild(context, app, self._rules)

    def _note_start(self, number: int, future: FutureProxy[Any]) -> bool:
        """Note that a call is about to run. Return whether it must be cancelled at once."""
        return False

    def _note_end(self) -> None: ...

    def _note_over(self, name: str) -> None:
        """Note, in the thread that has run it, that the call of that name is over."""

    def _note_look(self, future: FutureProxy[Any]) -> None:
        """Note that the job has checked whether it is to end. It may do so from any thread."""

    def _report(self, future: FutureProxy[Any]) -> None:
        """Send the progress that the job has reported."""

    def _send_log(self, future: FutureProxy[Any], lines: Iterable[str]) -> None:
        """Send lines that the job has logged."""

    def _explained(self, error: BaseException, name: str) -> BaseException:
        """Add the cure to an error if the job used a context that this executor does not push."""
        settings = self._settings
        missing = missing_context(error)
        if missing == "app" or (missing == "request" and settings.app is None):
            if settings.app is not None and settings.push_app:
                return error
            cure = (
                f"set {settings.key_of_app} = 'package.module:create_app' to have it load the app"
                if settings.app is None
                else f"set {settings.key_of_push_app} = True"
            )
        elif missing == "request" and not settings.push_request:
            cure = f"set {settings.key_of_push_request} = True to have the request travel there"
        else:
            return error
        kind = "request" if missing == "request" else "application"
        reason = f"Working outside of {kind} context"
        explained = OutsideContextError(name, reason, cure)
        explained.__cause__ = error
        return explained


class ClosableRunner(Runner, ClosableThreads):
    """A runner in a process that is not ours to end: its loops end when the interpreter exits."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        close_at_exit(self, AtExit())

    def close(self, *, cancel_pending: bool) -> None:
        """End the loops, because the process is ending."""
        self._loops.end()

    def runs_here(self) -> bool:
        return self._loops.serves_this_thread()

    def threads(self) -> list[threading.Thread]:
        return self._loops.threads()

    def abandon(self, seconds: float) -> None:
        self._loops.abandon(seconds)

    def kill(self) -> bool:
        return False


class WorkersCall(CarryingCall[Any]):
    """A call in a worker process. Signals, cures and logs are left to the server process."""

    __slots__ = ("note_look", "note_over", "over", "send_log")

    note_over: Callable[[], object]
    note_look: Callable[[], object]
    send_log: Callable[[Iterable[str]], object] | None
    """What takes the lines that it logs, if they are kept."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.send_log = None
        self.over: threading.Event = threading.Event()

    def begin(self) -> bool:
        begins = super().begin()
        if not begins:  # cancelled first, so the loop will not run it
            self.over.set()
        return begins

    def look_for_cancel(self) -> bool:
        if not self.looks:  # once is enough
            self.note_look()
        return super().look_for_cancel()

    @property
    def keeps_log(self) -> bool:
        return self.send_log is not None and not self.is_over

    def add_log(self, lines: Iterable[str]) -> None:
        if self.send_log is not None:
            self.send_log(lines)

    def _announce_start(self) -> None: ...

    def explain(self, error: BaseException) -> None: ...

    def release(self) -> None:
        self.note_over()
        super().release()
        self.over.set()
