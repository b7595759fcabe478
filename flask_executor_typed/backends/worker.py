"""The main program of a worker process: load the app once, then run calls one by one.

The only module whose code runs in nothing but worker processes.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import Any

from ..futures import FutureProxy, Progress
from ..runtime.forks import in_child
from ..runtime.threads import start_thread
from .pickling import Settings, Work, dump_error
from .runner import FAILED, Runner, become_worker
from .wire import END, LOG, LOOKS, PROGRESS, READY, Message, Reader, read_message, read_order, write

__all__ = ("work",)


def work(calls: socket.socket, orders: socket.socket, settings: Settings) -> None:
    """Run a worker process, from its start to its end.

    Args:
        calls: The socket that receives calls and returns answers.
        orders: The socket through which the server process orders this process to cancel a call or
            to exit. When the other end is closed, the server process is gone.
        settings: The settings that all calls share.
    """
    become_worker()
    _be_deaf_to_signals_of_the_server()
    for each in calls, orders:
        each.setblocking(True)  # an imported module may have changed the default
    try:
        _Worker(calls, orders, settings).work()
    except (EOFError, OSError):  # from a socket: the server is gone, or a job closed it
        os._exit(1)
    except BaseException:
        # Out of memory, say. The server process learns of it only when this process ends. So exit
        # at once: the interpreter's own exit would wait for the thread that takes orders.
        traceback.print_exc()
        os._exit(1)


def _be_deaf_to_signals_of_the_server() -> None:
    """Undo the signal handling copied by a fork, and ignore Ctrl+C, which reaches all processes."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The server process decides when to stop, and orders it. A function instead of SIG_IGN, which
    # the programs that a job starts would inherit.
    signal.signal(signal.SIGINT, lambda signum, frame: None)


class _Worker(Runner):
    # A job may fork, and the child may return from the job: it raises before its os._exit(), say.
    # The child must not continue as if it were the worker: it would take the worker's calls, and
    # answer calls that it does not run. So the child's sockets are closed, and it exits instead of
    # answering.

    def __init__(self, calls: socket.socket, orders: socket.socket, settings: Settings) -> None:
        super().__init__(settings)
        self._calls = calls
        self._orders = orders
        self._process = os.getpid()
        # A job may report progress, and log, from any thread. Both locks are reentrant: a finalizer
        # that runs while they are held may log as well.
        self._writing = threading.RLock()
        self._lock = threading.RLock()
        self._running: tuple[int, FutureProxy[Any]] | None = None  # guarded by _lock
        self._to_cancel = 0  # the number of a call; guarded by _lock
        in_child(self._close_sockets)

    def work(self) -> None:
        start_thread(f"{self._settings.name}-orders", self._take_orders)
        try:
            app = self.load_app()
        except BaseException as error:
            self._write(Message(FAILED, 0, dump_error(self._settings.name, error)))
            return
        self._loops.bridge_this_thread(_nothing, _nothing)
        self._write(Message(READY))
        reader = Reader()
        while (message := read_message(self._calls, reader)).kind != END:
            work: Work = Work(*pickle.loads(message.content))
            kind, content = self.answer_to(work, app)
            self._note_over(work.name)
            self._write(Message(kind, message.number, content))
            del work, message, content  # an idle worker keeps nothing alive
        self._loops.refuse(cancel_pending=False)
        self._loops.end()
        self._loops.join()

    def _take_orders(self) -> None:
        while True:
            try:
                number = read_order(self._orders)
            except (EOFError, OSError):
                os._exit(1)  # even while a job runs: no process is left to receive its result
            if number == 0:
                return
            with self._lock:
                self._to_cancel = number
                running = self._running
            if running is not None and running[0] == number:
                running[1].cancel()

    def _write(self, message: Message) -> None:
        with self._writing:
            write(self._calls, message)

    def _note_start(self, number: int, future: FutureProxy[Any]) -> bool:
        with self._lock:
            self._running = number, future
            return self._to_cancel == number

    def _note_end(self) -> None:
        with self._lock:
            self._running = None

    def _note_look(self, future: FutureProxy[Any]) -> None:
        self._tell(future, LOOKS)

    def _send_log(self, future: FutureProxy[Any], lines: Iterable[str]) -> None:
        self._tell(future, LOG, pickle.dumps(list(lines)))

    def _report(self, future: FutureProxy[Any]) -> None:
        # Plain values, which the server process is certain to unpickle.
        plain = tuple(future.progress or Progress(0.0))
        self._tell(future, PROGRESS, pickle.dumps(plain))

    def _tell(self, future: FutureProxy[Any], kind: bytes, content: bytes = b"") -> None:
        """Send a message about a call, if it is the one that runs."""
        if os.getpid() != self._process:
            return  # the child of a job's fork has no socket
        with self._writing:
            # A job's thread may outlive the job. Its messages must not be about the next job.
            with self._lock:
                running = self._running
            if running is not None and running[1] is future:
                write(self._calls, Message(kind, running[0], content))

    def _close_sockets(self) -> None:
        """Close the worker's sockets in the child of a fork."""
        self._calls.close()
        self._orders.close()

    def _note_over(self, name: str) -> None:
        if os.getpid() != self._process:
            print(
                f"{name} forked, and the child returned from the job, so it exits now; "
                "end the child with os._exit()",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)


def _nothing() -> None: ...
