"""A worker process as the server process sees it: its start, its two sockets and its end.

The only module that kills processes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import sys
import threading
import time
from enum import Enum
from math import inf
from multiprocessing.connection import wait
from weakref import WeakSet

from ..runtime.forks import in_child
from .pickling import Settings
from .starting import disown, exit_code_of, forks_wait, start_process
from .wire import END, Message, Reader, dump, write_order
from .worker import work

__all__ = ("Trouble", "WorkerProcess")

_DIES_WITHIN = 5.0
"""Seconds that a process may take to end after its socket was closed; a guess."""

_LOOKS_EVERY = 1.0
"""Seconds between checks whether a process is alive, where no descriptor says so reliably."""


class Trouble(Enum):
    """The ways in which a worker may fail to answer a call."""

    LATE = "it takes too long"
    DIED = "it has ended"
    UNREAD = "it has ended, and had not read all that was sent to it"
    CONFUSED = "it has answered another call"


class WorkerProcess:
    """A worker process, and our ends of the sockets to it.

    One thread sends and receives. Any thread may order it to cancel a call, or kill the process.
    """

    # A process is dead when the system says so, not when its socket is closed: a child that it has
    # forked may hold the socket open for ever. And nothing here waits for the socket alone: a
    # process that is stopped, or killed in the middle of a message, must not block anything.

    def __init__(self, start_method: str, settings: Settings, name: str) -> None:
        """Start the process.

        Raises:
            Exception: there is no memory, no file descriptor or no fork server for it.
        """
        self.name = name
        self.is_used = False  # whether it has read a call
        self.is_gone: bool = False
        self.exit_code: int | None = None  # set once the process is gone, if known
        self._numbers = itertools.count(1)
        self._reader = Reader()
        self._is_dead = False
        self._lock = threading.Lock()  # held for what cannot block
        self._is_open = True  # whether our descriptors are open; guarded by _lock
        self._pidfd: int | None = None
        with forks_wait(), contextlib.ExitStack() as theirs:
            self._calls, calls = socket.socketpair()
            theirs.callback(calls.close)
            self._orders, orders = socket.socketpair()
            theirs.callback(orders.close)
            self._calls.setblocking(False)
            self._orders.setblocking(False)
            _workers.add(self)  # before a fork can copy our ends
            try:
                self._process = start_process(start_method, name, work, (calls, orders, settings))
            except BaseException:
                self.forget()
                raise
        self._pidfd = _open_pidfd(self._process.pid)
        # multiprocessing's sentinel is a pipe: it reports the death too late if a child of the
        # process holds it, and too early if the fork server has ended.
        self._death: int = self._process.sentinel if self._pidfd is None else self._pidfd
        if sys.platform != "win32":
            self._poll = select.poll()
            self._poll.register(self._calls, select.POLLIN)
            self._poll.register(self._death, select.POLLIN)

    def next_number(self) -> int:
        """Return a number for a call, unique within this process."""
        return next(self._numbers)

    def send(self, message: Message, end: float = inf) -> Trouble | None:
        """Send a message. Return ``None`` if it was sent before ``end`` and the process lives."""
        left = memoryview(dump(message))
        while left:
            try:
                left = left[self._calls.send(left) :]
            except BlockingIOError:
                if self._is_dead:
                    return Trouble.UNREAD
                if not self._wait(end, to_write=True):
                    return Trouble.LATE
            except OSError:
                # The worker may have read a part, but does not run a partial call.
                return Trouble.UNREAD
        return None

    def receive(self, number: int, end: float) -> Message | Trouble:
        """Wait until ``end`` for the next message about the call with this number."""
        while (message := self._reader.message()) is None:
            if not self._is_dead and not self._wait(end):
                return Trouble.LATE
            try:
                piece = self._calls.recv(self._reader.wants())
            except BlockingIOError:
                if self._is_dead:  # another process holds the socket open
                    return Trouble.DIED
            except ConnectionResetError:
                # Linux's way to say that the other end is gone and has not read everything.
                return Trouble.UNREAD
            except OSError:
                return Trouble.DIED
            else:
                if not piece:
                    return Trouble.DIED
                self._reader.feed(piece)
        return message if message.number == number else Trouble.CONFUSED

    def is_ready(self) -> bool:
        """Return whether the idle process can take a call: it lives, and has sent nothing."""
        return not self._is_dead and not self._wait(0.0)

    def order(self, number: int) -> None:
        """Order the process to cancel the call with this number; with 0, to exit in its own time.

        Never blocks. If the socket is full, the process has long stopped reading its orders, so
        another one would change nothing.
        """
        with self._lock:
            if self._is_open:
                with contextlib.suppress(OSError):
                    write_order(self._orders, number)

    def kill(self) -> None:
        """Kill the process, unless it is gone."""
        with self._lock:  # otherwise another process might have its number by now
            if self._is_open:
                with contextlib.suppress(OSError, ValueError):
                    if sys.platform == "linux" and self._pidfd is not None:
                        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                    else:
                        self._process.kill()

    def end(self) -> None:
        """Ask the process to exit, and wait until it has."""
        if self.is_gone:
            return
        self.order(0)
        self.send(Message(END))
        self._wait_for_death(inf)
        self.bury()

    def bury(self) -> str:
        """Make sure that the process is gone. Return how it ended, in words for users."""
        if self.is_gone:
            return _how_it_ended(self.exit_code)
        if not self._wait_for_death(time.monotonic() + _DIES_WITHIN):
            # A job may have closed the sockets without ending the process.
            self.kill()
            self._wait_for_death(time.monotonic() + _DIES_WITHIN)
        # The fork server reports the exit code a moment after the system reports the end.
        code, end = exit_code_of(self._process), time.monotonic() + _DIES_WITHIN
        while code is None and time.monotonic() < end:
            wait([self._process.sentinel], 0.01)
            code = exit_code_of(self._process)
        self.forget()
        self.exit_code, self.is_gone = code, True
        return _how_it_ended(code)

    def forget(self) -> None:
        """Close our ends of the sockets. If the process lives, it ends by itself."""
        with self._lock:
            self._is_open = False
            _workers.discard(self)
            self._calls.close()
            self._orders.close()
            if self._pidfd is not None:
                os.close(self._pidfd)

    def forget_parents(self) -> None:
        """Let go of the parent's process in the child of a fork."""
        self._lock = threading.Lock()  # a thread of the parent may have held it
        if self._is_open:
            self.forget()
        disown(getattr(self, "_process", None))

    def _wait(self, end: float, *, to_write: bool = False) -> bool:
        """Wait until the socket is ready or the process is dead; ``False`` at ``end``."""
        while True:
            seconds = min(_LOOKS_EVERY if self._pidfd is None else 3600.0, end - time.monotonic())
            if self._is_ready_within(max(0.0, seconds), to_write) or self._is_dead:
                return True
            if self._pidfd is None and exit_code_of(self._process) is not None:
                self._is_dead = True
                return True
            if time.monotonic() >= end:
                return False

    def _is_ready_within(self, seconds: float, to_write: bool) -> bool:
        if sys.platform == "win32":
            if to_write:
                return bool(select.select([], [self._calls], [], min(seconds, _LOOKS_EVERY))[1])
            ready = wait([self._calls, self._death], seconds)
            self._is_dead = self._death in ready
            return bool(ready)
        if to_write:
            self._poll.modify(self._calls, select.POLLOUT)
        ready = self._poll.poll(seconds * 1000.0)
        if to_write:
            self._poll.modify(self._calls, select.POLLIN)
        self._is_dead = any(descriptor == self._death for descriptor, _ in ready)
        return bool(ready)

    def _wait_for_death(self, end: float) -> bool:
        while not self._is_dead:
            seconds = max(0.0, end - time.monotonic())
            if self._pidfd is None:
                wait([self._death], min(seconds, _LOOKS_EVERY))
                self._is_dead = exit_code_of(self._process) is not None
            else:
                self._is_dead = bool(wait([self._death], None if seconds == inf else seconds))
            if time.monotonic() >= end:
                break
        return self._is_dead


def _how_it_ended(code: int | None) -> str:
    """Describe for users how a process with this exit code has ended."""
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def _open_pidfd(pid: int | None) -> int | None:
    """Return a descriptor of a process, if the system provides one.

    It becomes readable when the process ends. A signal sent through it never reaches another
    process that has got the same number since.
    """
    if sys.platform == "linux" and pid is not None and hasattr(signal, "pidfd_send_signal"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return None


_workers: WeakSet[WorkerProcess] = WeakSet()


@in_child
def _forget_parent() -> None:
    """Close inherited sockets, which would keep workers from noticing their server's end."""
    for worker in list(_workers):
        worker.forget_parents()
