"""A worker process as the server process sees it: its start, its two sockets, and its end.

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
"""Seconds from the end of its socket to the end of a process; a guess."""

_LOOKS_EVERY = 1.0
"""Seconds between two looks at whether a process lives, where no descriptor tells for certain."""


class Trouble(Enum):
    """What a worker may do instead of answering a call."""

    LATE = "it takes too long"
    DIED = "it has ended"
    UNREAD = "it has ended, and had not read all that was sent to it"
    CONFUSED = "it has answered another call"


class WorkerProcess:
    """A worker process, and our ends of the sockets to it.

    One thread sends and receives. Any thread may order the end of a call, or kill the process.
    """

    # A process is dead when the system says so of the process, not when its socket is closed: what
    # it has forked may hold the socket open for ever. And nothing here waits for the socket alone:
    # a process that is stopped, or killed in the middle of a message, must hold up nothing.

    def __init__(self, start_method: str, settings: Settings, name: str) -> None:
        """Start the process.

        Raises:
            Exception: there is no memory, no descriptor or no fork server for it.
        """
        self.name = name
        self.is_used = False  # whether it has read a call
        self.is_gone: bool = False
        self.exit_code: int | None = None  # once it is gone, if it is known
        self._numbers = itertools.count(1)
        self._reader = Reader()
        self._is_dead = False
        self._lock = threading.Lock()  # held for what cannot block
        self._is_open = True  # whether descriptors are ours still; guarded by _lock
        self._pidfd: int | None = None
        with forks_wait(), contextlib.ExitStack() as theirs:
            self._calls, calls = socket.socketpair()
            theirs.callback(calls.close)
            self._orders, orders = socket.socketpair()
            theirs.callback(orders.close)
            self._calls.setblocking(False)
            self._orders.setblocking(False)
            _workers.add(self)  # before a fork, which copies our ends
            try:
                self._process = start_process(start_method, name, work, (calls, orders, settings))
            except BaseException:
                self.forget()
                raise
        self._pidfd = _open_pidfd(self._process.pid)
        # The sentinel of multiprocessing is a pipe as well, which tells too late if a child of the
        # process holds it, and too early if the fork server has ended.
        self._death: int = self._process.sentinel if self._pidfd is None else self._pidfd
        if sys.platform != "win32":
            self._poll = select.poll()
            self._poll.register(self._calls, select.POLLIN)
            self._poll.register(self._death, select.POLLIN)

    def next_number(self) -> int:
        """A number for a call, which no other call of this process has."""
        return next(self._numbers)

    def send(self, message: Message, end: float = inf) -> Trouble | None:
        """Send a message; ``None`` if that is done before ``end``, and the process lives."""
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
                # Part of it may have been read, but nothing runs a part.
                return Trouble.UNREAD
        return None

    def receive(self, number: int, end: float) -> Message | Trouble:
        """Wait for the next message about the call of that number, until ``end``."""
        while (message := self._reader.message()) is None:
            if not self._is_dead and not self._wait(end):
                return Trouble.LATE
            try:
                piece = self._calls.recv(self._reader.wants())
            except BlockingIOError:
                if self._is_dead:  # and something else holds the socket open
                    return Trouble.DIED
            except ConnectionResetError:
                # Linux tells so of a socket if its other end is gone and has not read all of ours.
                return Trouble.UNREAD
            except OSError:
                return Trouble.DIED
            else:
                if not piece:
                    return Trouble.DIED
                self._reader.feed(piece)
        return message if message.number == number else Trouble.CONFUSED

    def is_ready(self) -> bool:
        """Whether the process, which has no call, can take one: it lives, and says nothing."""
        return not self._is_dead and not self._wait(0.0)

    def order(self, number: int) -> None:
        """Order the end of the call of that number; 0: of the process, in its own time.

        Never blocks. If the socket is full, the process has not looked at its orders for long, and
        will not look now.
        """
        with self._lock:
            if self._is_open:
                with contextlib.suppress(OSError):
                    write_order(self._orders, number)

    def kill(self) -> None:
        """End the process by force, unless it is gone."""
        with self._lock:  # or the number might be another process's by now
            if self._is_open:
                with contextlib.suppress(OSError, ValueError):
                    if sys.platform == "linux" and self._pidfd is not None:
                        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                    else:
                        self._process.kill()

    def end(self) -> None:
        """Let the process end in its own time, and wait until it has."""
        if self.is_gone:
            return
        self.order(0)
        self.send(Message(END))
        self._wait_for_death(inf)
        self.bury()

    def bury(self) -> str:
        """See to it that the process is gone; returns how it ended, for a person."""
        if self.is_gone:
            return _how_it_ended(self.exit_code)
        if not self._wait_for_death(time.monotonic() + _DIES_WITHIN):
            # A job may have closed the sockets, and live on.
            self.kill()
            self._wait_for_death(time.monotonic() + _DIES_WITHIN)
        # The fork server tells a moment after the system.
        code, end = exit_code_of(self._process), time.monotonic() + _DIES_WITHIN
        while code is None and time.monotonic() < end:
            wait([self._process.sentinel], 0.01)
            code = exit_code_of(self._process)
        self.forget()
        self.exit_code, self.is_gone = code, True
        return _how_it_ended(code)

    def forget(self) -> None:
        """Close our ends. The process ends by itself, if it lives."""
        with self._lock:
            self._is_open = False
            _workers.discard(self)
            self._calls.close()
            self._orders.close()
            if self._pidfd is not None:
                os.close(self._pidfd)

    def forget_parents(self) -> None:
        """In the child of a fork: the process is the parent's."""
        self._lock = threading.Lock()  # a thread of the parent may hold it
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
    """How a process with that exit code has ended, for a person."""
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def _open_pidfd(pid: int | None) -> int | None:
    """A descriptor of a process, where the system has them and lets us have one.

    It becomes readable when the process has ended, and a signal that is sent through it reaches no
    other process, even if one has the same number by then.
    """
    if sys.platform == "linux" and pid is not None and hasattr(signal, "pidfd_send_signal"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return None


_workers: WeakSet[WorkerProcess] = WeakSet()


@in_child
def _forget_parent() -> None:
    """In the child of a fork: workers would not hear of the end of their server while we live."""
    for worker in list(_workers):
        worker.forget_parents()
