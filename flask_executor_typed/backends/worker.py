"""What runs in a worker process: it loads the app once, and runs calls one after the other.

The only module whose code runs in worker processes alone.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from flask import Flask

from ..calls import Call
from ..context import ContextRules, ContextSnapshot, PortableContext
from ..errors import ConfigError, OutsideContextError
from ..futures import FutureProxy
from ..loops import LoopPool, is_async_callable
from ..threads import start_thread
from .pickling import Settings, Work, dump_error, dump_result

__all__ = ("CANCELLED", "END", "FAILED", "PROGRESS", "READY", "RETURNED", "is_worker", "work")

READY, RETURNED, FAILED, CANCELLED, PROGRESS = b"+", b"r", b"f", b"c", b"p"
"""What a message to the server process is, by its first byte."""

END = b""
"""In place of a call: the worker is to end. Sent through the other pipe as well."""

_is_worker = False


def is_worker() -> bool:
    """Whether this is a worker process."""
    return _is_worker


def work(calls: Connection, orders: Connection, settings: Settings) -> None:
    """The whole life of a worker process.

    Args:
        calls: Where calls come from, and answers go to.
        orders: Where the server process asks for the end of a call, or of this process. If that
            pipe is closed, the server process is gone.
        settings: What all calls have in common.
    """
    global _is_worker  # noqa: PLW0603
    _is_worker = True
    _be_deaf_to_signals_of_the_server()
    _Worker(calls, orders, settings).work()


def _be_deaf_to_signals_of_the_server() -> None:
    """Undo what a fork has copied, and what Ctrl+C does to all processes of a terminal."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The server process decides, and tells us. A function, since what is ignored stays so in
    # programs that a job starts.
    signal.signal(signal.SIGINT, lambda signum, frame: None)


class _Worker:
    def __init__(self, calls: Connection, orders: Connection, settings: Settings) -> None:
        self._calls = calls
        self._orders = orders
        self._settings = settings
        self._rules = ContextRules(settings.push_app, settings.push_request)
        self._loops = LoopPool(settings.name, 1)
        self._answering = threading.Lock()  # a job may tell of its progress in any thread
        self._lock = threading.Lock()
        self._running: tuple[int, FutureProxy[Any]] | None = None  # guarded by _lock
        self._to_cancel = 0  # the number of a call; guarded by _lock
        self._executor: object = None
        self._no_app: Flask | None = None

    def work(self) -> None:
        start_thread(f"{self._settings.name}-orders", self._take_orders)
        try:
            app = self._load_app()
        except BaseException as error:
            self._answer(FAILED, dump_error(self._settings.name, error))
            return
        self._loops.bridge_this_thread(_nothing, _nothing)
        self._answer(READY)
        while (message := self._calls.recv_bytes()) != END:
            work: Work = Work(*pickle.loads(message))
            self._answer(*self._answer_to(work, app))
            del work, message  # an idle worker keeps nothing alive
        self._loops.refuse(cancel_pending=False)
        self._loops.end()
        self._loops.join()

    def _take_orders(self) -> None:
        while True:
            try:
                order = self._orders.recv_bytes()
            except (EOFError, OSError):
                os._exit(1)  # whatever runs here: nobody is there any more to hear of it
            if order == END:
                return
            number = int(order)
            with self._lock:
                self._to_cancel = number
                running = self._running
            if running is not None and running[0] == number:
                running[1].cancel()

    def _load_app(self) -> Flask | None:
        settings = self._settings
        if settings.app is None:
            return None
        from flask.cli import ScriptInfo  # it needs click, which only the command line does

        try:
            # Flask's own way of reading --app. It is never asked to change app.debug, which the
            # factory of the app sets here as it did in the server process.
            app = ScriptInfo(app_import_path=settings.app, set_debug_flag=False).load_app()
        except Exception as error:
            expected = (
                "an app that a worker process can load, as 'flask --app' does "
                f"({type(error).__name__}: {error})"
            )
            raise ConfigError(settings.key_of_app, settings.app, expected) from error
        self._executor = settings.executor_of(app)
        return app

    def _answer(self, kind: bytes, content: bytes = b"") -> None:
        with self._answering:
            self._calls.send_bytes(kind + content)

    def _answer_to(self, work: Work, app: Flask | None) -> tuple[bytes, bytes]:
        """Run a call. Whatever it does, there is an answer that the server process can read."""
        try:
            future = self._run(work, app)
            with self._lock:
                self._running = None
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
        fn, args, kwargs = pickle.loads(work.function)
        future: FutureProxy[Any] = FutureProxy(work.name)
        future._id = work.id
        future.key = None if work.key is None else pickle.loads(work.key)
        future._progress_watchers = (lambda: self._tell_progress(future),)
        snapshot = self._snapshot(work, app)
        call = _WorkersCall(fn, args, kwargs, snapshot, future, False, self._executor)
        call.attempt = work.attempt
        is_async = is_async_callable(fn)
        with self._lock:
            self._running = work.number, future
            is_cancelled = self._to_cancel == work.number
        if is_async:
            self._loops.submit(call)
            if is_cancelled:
                future.cancel()
            call.over.wait()
        elif call.begin():
            future._cancel_requested |= is_cancelled
            call.run(self._loops)
        future._block(None)  # if it returned the future of another call
        future._progress_watchers = ()
        return future

    def _snapshot(self, work: Work, app: Flask | None) -> ContextSnapshot:
        if app is None or work.context is None:
            if self._no_app is None:
                self._no_app = app or Flask("flask_executor_typed")
            rules = ContextRules(push_app=False, push_request=False)
            return PortableContext({}, None).bind(self._no_app, rules)
        portable: PortableContext = pickle.loads(work.context)
        return portable.bind(app, self._rules)

    def _tell_progress(self, future: FutureProxy[Any]) -> None:
        self._answer(PROGRESS, pickle.dumps(future.progress))

    def _explained(self, error: BaseException, name: str) -> BaseException:
        """What to do, if a job looked for a context that this executor's jobs do not have."""
        settings = self._settings
        # Of a class that is not ours to trust, even str() may raise.
        reason = str(error).split(".")[0] if type(error) is RuntimeError else ""
        if reason == "Working outside of application context" or (
            reason == "Working outside of request context" and settings.app is None
        ):
            if settings.app is not None and settings.push_app:
                return error
            cure = (
                f"set {settings.key_of_app} = 'package.module:create_app' to have it load the app"
                if settings.app is None
                else f"set {settings.key_of_push_app} = True"
            )
        elif reason == "Working outside of request context" and not settings.push_request:
            cure = f"set {settings.key_of_push_request} = True to have the request travel there"
        else:
            return error
        explained = OutsideContextError(name, reason, cure)
        explained.__cause__ = error
        return explained


class _WorkersCall(Call[Any]):
    """A call in a worker process. The server process sends the signals, and logs."""

    __slots__ = ("over",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.over = threading.Event()

    def _announce_start(self) -> None: ...

    def _let_go(self) -> None:
        super()._let_go()
        self.over.set()


def _nothing() -> None: ...
