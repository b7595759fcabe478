"""The waiters in a future's list of watchers. Each is called once, when the future is done.

Waiters come before callbacks: all of them are woken before any callback runs. How a job waits for
another one without a deadlock is up to its backend: see backends/thread.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from typing import Any

from ..runtime.loop_inbox import LoopInbox

__all__ = ("Awaiter", "Blocked", "SharedState")


class Blocked:
    """A thread waiting in ``result()``: one raw lock, held until the future is done."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> None:
        seconds = -1 if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX)
        self._lock.acquire(timeout=seconds)

    def __call__(self, future: object) -> None:
        with contextlib.suppress(RuntimeError):  # a second time
            self._lock.release()


class Awaiter:
    """A task waiting in ``await future``, on the loop of ``inbox``."""

    __slots__ = ("_inbox", "waiter")

    def __init__(self, inbox: LoopInbox, waiter: asyncio.Future[None]) -> None:
        self._inbox = inbox
        self.waiter: asyncio.Future[None] = waiter

    def __call__(self, future: object) -> None:
        self._inbox.post(self._wake)  # False if the loop is closed: no task waits there any more

    def _wake(self) -> None:
        if not self.waiter.done():
            self.waiter.set_result(None)


class SharedState:
    """The state of a future that ``wait()`` and ``as_completed()`` of the standard library use."""

    __slots__ = ("__weakref__", "condition", "state", "waiters")

    def __init__(self) -> None:
        self.condition: threading.Condition = threading.Condition()
        self.state: str = PENDING  # guarded by condition
        self.waiters: list[Any] = []  # guarded by condition

    def __call__(self, future: Future[Any]) -> None:
        cancelled = future.cancelled()
        with self.condition:
            self.state = CANCELLED_AND_NOTIFIED if cancelled else FINISHED
            for waiter in self.waiters:
                if future in waiter.finished_futures:
                    continue  # told before, and called a second time
                if cancelled:
                    waiter.add_cancelled(future)
                elif future.exception() is not None:
                    waiter.add_exception(future)
                else:
                    waiter.add_result(future)
            self.condition.notify_all()
