"""What runs in a worker process: it loads the app once, and runs calls one after the other.

The only module whose code runs in worker processes alone.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ..futures import FutureProxy, Progress
from ..runtime.forks import in_child
from ..runtime.threads import start_thread
from .pickling import Settings, Work, dump_error
from .runner import FAILED, Runner, become_worker

__all__ = ("END", "PROGRESS", "READY", "Message", "load_message", "work")

READY, PROGRESS = b"+", b"p"
"""Kinds of messages to the server process that are not answers."""


class Message(NamedTuple):
    """What a worker sends to the server process: a progress report or the answer to a call."""

    kind: bytes
    """One byte."""

    number: int
    """The number of the call; 0 before the first."""

    content: bytes

    def dump(self) -> bytes:
        return b"%b%b%b" % (self.kind, self.number.to_bytes(8, "big"), self.content)


def load_message(message: bytes) -> Message:
    return Message(message[:1], int.from_bytes(message[1:9], "big"), message[9:])


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
        self._sending = threading.Lock()  # a job may tell of its progress in any thread
        self._lock = threading.Lock()
        self._running: tuple[int, FutureProxy[Any]] | None = None  # guarded by _lock
        self._to_cancel = 0  # the number of a call; guarded by _lock
        self._process = os.getpid()
        in_child(self._close_pipes)

    def work(self) -> None:
        start_thread(f"{self._settings.name}-orders", self._take_orders)
        try:
            app = self.load_app()
        except BaseException as error:
            self._send(FAILED, 0, dump_error(self._settings.name, error))
            return
        self._loops.bridge_this_thread(_nothing, _nothing)
        self._send(READY, 0)
        while (message := self._calls.recv_bytes()) != END:
            work: Work = Work(*pickle.loads(message))
            kind, content = self.answer_to(work, app)
            self._end_if_forked(work.name)
            self._send(kind, work.number, content)
            del work, message, content  # an idle worker keeps nothing alive
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

    def _send(self, kind: bytes, number: int, content: bytes = b"") -> None:
        with self._sending:
            self._calls.send_bytes(Message(kind, number, content).dump())

    # A job may fork, and its child may come back from the job: it raises before its os._exit(),
    # say. It must not go on as if it were the worker. Of the pipes it could only take calls that
    # are the worker's, and give answers to calls that it does not run; and a pipe that it holds
    # open would hide the worker's death.

    def _close_pipes(self) -> None:
        """In the child of a fork: it is no worker."""
        self._calls.close()
        self._orders.close()

    def _end_if_forked(self, name: str) -> None:
        if os.getpid() != self._process:
            print(
                f"{name} forked, and the child returned from the job: it ends here; "
                "end it with os._exit()",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)

    def _note_start(self, number: int, future: FutureProxy[Any]) -> bool:
        with self._lock:
            self._running = number, future
            return self._to_cancel == number

    def _note_end(self) -> None:
        with self._lock:
            self._running = None

    def _report(self, future: FutureProxy[Any]) -> None:
        done, total, message = future.progress or Progress(0.0)
        if os.getpid() != self._process:
            return  # the child of a fork: the pipe is closed there
        # Plain values, which the server process can surely make anew.
        plain = _plain(done), None if total is None else _plain(total), str(message)
        with self._sending:
            # A thread of a job may outlive it: what it tells then is not the next job's.
            with self._lock:
                running = self._running
            if running is not None and running[1] is future:
                report = Message(PROGRESS, running[0], pickle.dumps(plain))
                self._calls.send_bytes(report.dump())


def _plain(number: float) -> float:
    return number if type(number) in {int, float} else float(number)


def _nothing() -> None: ...
