"""What runs in a worker process: it loads the app once, and runs calls one after the other.

The only module whose code runs in worker processes alone.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from ..futures import FutureProxy, Progress
from ..threads import start_thread
from .pickling import Settings, Work, dump_error
from .running import FAILED, Runner, become_worker

__all__ = ("END", "PROGRESS", "READY", "work")

READY, PROGRESS = b"+", b"p"
"""What a message to the server process is, by its first byte, if it is no answer."""

END = b""
"""In place of a call: the worker is to end. Sent through the other pipe as well."""


def work(calls: Connection, orders: Connection, settings: Settings) -> None:
    """The whole life of a worker process.

    Args:
        calls: Where calls come from, and answers go to.
        orders: Where the server process asks for the end of a call, or of this process. If that
            pipe is closed, the server process is gone.
        settings: What all calls have in common.
    """
    become_worker()
    _be_deaf_to_signals_of_the_server()
    try:
        _Worker(calls, orders, settings).work()
    except (EOFError, OSError):  # of a pipe: nobody is there any more, or a job has closed it
        os._exit(1)
    except BaseException:
        # No memory, say. The server process hears of it by the end of the pipe, so at once: the
        # interpreter's own exit waits for the thread that takes orders.
        traceback.print_exc()
        os._exit(1)


def _be_deaf_to_signals_of_the_server() -> None:
    """Undo what a fork has copied, and what Ctrl+C does to all processes of a terminal."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The server process decides, and tells us. A function, since what is ignored stays so in
    # programs that a job starts.
    signal.signal(signal.SIGINT, lambda signum, frame: None)


class _Worker(Runner):
    def __init__(self, calls: Connection, orders: Connection, settings: Settings) -> None:
        super().__init__(settings)
        self._calls = calls
        self._orders = orders
        self._answering = threading.Lock()  # a job may tell of its progress in any thread
        self._lock = threading.Lock()
        self._running: tuple[int, FutureProxy[Any]] | None = None  # guarded by _lock
        self._to_cancel = 0  # the number of a call; guarded by _lock

    def work(self) -> None:
        start_thread(f"{self._settings.name}-orders", self._take_orders)
        try:
            app = self.load_app()
        except BaseException as error:
            self._answer(FAILED, dump_error(self._settings.name, error))
            return
        self._loops.bridge_this_thread(_nothing, _nothing)
        self._answer(READY)
        while (message := self._calls.recv_bytes()) != END:
            work: Work = Work(*pickle.loads(message))
            self._answer(*self.answer_to(work, app))
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

    def _answer(self, kind: bytes, content: bytes = b"") -> None:
        with self._answering:
            self._calls.send_bytes(kind + content)

    def _note_start(self, number: int, future: FutureProxy[Any]) -> bool:
        with self._lock:
            self._running = number, future
            return self._to_cancel == number

    def _note_end(self) -> None:
        with self._lock:
            self._running = None

    def _report(self, future: FutureProxy[Any]) -> None:
        done, total, message = future.progress or Progress(0.0)
        # Plain values, which the server process can surely make anew.
        plain = _plain(done), None if total is None else _plain(total), str(message)
        with self._answering:
            # A thread of a job may outlive it: what it tells then is not the next job's.
            with self._lock:
                running = self._running
            if running is not None and running[1] is future:
                self._calls.send_bytes(PROGRESS + pickle.dumps(plain))


def _plain(number: float) -> float:
    return number if type(number) in {int, float} else float(number)


def _nothing() -> None: ...
