"""Calls in threads of this process that are somebody else's: the submitter's, or an executor's.

The only module that runs calls in threads which this package has not started.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from ..calls import Call
from ..errors import ExecutorClosedError
from ..loops import LoopPool, is_async_callable
from .capabilities import IN_A_THREAD

__all__ = ("AcceptedCalls", "BorrowedThreads", "SyncBackend", "Unreachable")

R = TypeVar("R")


class AcceptedCalls:
    """Counts calls that are not over, for a backend whose workers are not its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Reentrant: a finalizer may shut down while it is held.
        self._changed = threading.Condition(threading.RLock())
        self._count = 0  # guarded by _changed, as what follows
        self._threads: list[int] = []  # that run calls or their callbacks now
        self._closed = False

    def accept(self) -> None:
        """A call will be run, or given up: :meth:`release` must follow."""
        with self._changed:
            if self._closed:
                raise ExecutorClosedError(self._name)
            self._count += 1

    def release(self) -> None:
        with self._changed:
            self._count -= 1
            if self._closed and not self._count:
                self._end()
            self._changed.notify_all()

    @contextlib.contextmanager
    def working_here(self) -> Generator[None, None, None]:
        """What runs in the block cannot wait for all calls: it may be one, or its callback."""
        here = threading.get_ident()
        with self._changed:
            self._threads.append(here)
        try:
            yield
        finally:
            with self._changed:
                self._threads.remove(here)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            if not self._count:
                self._end()

    def join(self) -> bool:
        """Wait until all calls are over; ``False`` if this runs in one, which cannot."""
        with self._changed:
            if threading.get_ident() in self._threads:
                return False
            while self._count:
                self._changed.wait()
        return True

    def _end(self) -> None:
        """No call will come any more, and none is left. May be called again."""

    def sizes(self) -> tuple[int, int]:
        """How many threads run calls or their callbacks now, as far as this knows; and loops."""
        with self._changed:
            return len(set(self._threads)), 0


class BorrowedThreads(AcceptedCalls):
    """Runs calls in whatever thread it is called. What they need of loops, it has."""

    def __init__(
        self, name: str, backend: str, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
    ) -> None:
        super().__init__(name)
        self._in_thread = Unreachable(backend)
        self._loop_factory = loop_factory
        self._pools: list[LoopPool] = []  # each of one loop; guarded by _changed, as what follows
        self._free: list[LoopPool] = []  # those on which no call runs
        self._timers: LoopPool | None = None

    def run(self, call: Call[Any]) -> None:
        """Run a call that was accepted, unless it was cancelled."""
        future = call.future
        with self.working_here():
            if is_async_callable(call.fn):
                with self._loop() as loops:
                    loops.submit(call)
                    future._block(None)
                return
            future._interruptible = self._in_thread
            if call.begin():
                with _no_running_loop():
                    call.run(self)

    # A loop that runs a call may be blocked by it: a coroutine may submit to this very backend. So
    # each call has a loop of its own, and there are as many as there are calls within calls.

    @contextlib.contextmanager
    def _loop(self) -> Generator[LoopPool, None, None]:
        with self._changed:
            pool = self._free.pop() if self._free else self._another_loop()
        try:
            yield pool
        finally:
            with self._changed:
                self._free.append(pool)

    def _another_loop(self) -> LoopPool:
        self._pools.append(LoopPool(self._name, 1, self._loop_factory))
        return self._pools[-1]

    def wait_for(self, awaitable: Awaitable[R]) -> R:
        with self._loop() as loops:
            return loops.wait_for(awaitable)

    def call_later(self, seconds: float, fn: Callable[[], object]) -> Callable[[], object]:
        with self._changed:
            if self._timers is None:
                self._timers = self._another_loop()
                self._timers.start_one()
        return self._timers.call_later(seconds, fn)

    def sizes(self) -> tuple[int, int]:
        return super().sizes()[0], sum(pool.size() for pool in self._pools)

    def join(self) -> bool:
        if any(pool.serves_this_thread() for pool in self._pools) or not super().join():
            return False
        for pool in self._pools:  # no call can add one any more
            pool.join()
        return True

    def _end(self) -> None:
        for pool in self._pools:
            pool.end()


class SyncBackend:
    """Runs each call when it is submitted, in the thread of the submitter, who waits.

    What the job does to contexts and context variables stays in there, as in another thread. A
    coroutine runs on a loop of ours, and the submitter waits for it, also on a loop of its own.
    """

    capabilities = IN_A_THREAD

    def __init__(
        self, name: str, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
    ) -> None:
        self._threads = BorrowedThreads(name, "EXECUTOR_TYPE='sync'", loop_factory)

    def submit(self, call: Call[Any]) -> None:
        self._threads.accept()
        try:
            self._threads.run(call)
        finally:
            self._threads.release()

    def sizes(self) -> tuple[int, int]:
        return self._threads.sizes()

    def shutdown(self, *, wait: bool, cancel_pending: bool) -> None:
        self._threads.close()  # nothing is ever pending
        if wait:
            self._threads.join()


class Unreachable:
    """What a future knows of a call that nobody can stop."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def can_interrupt(self, *, kill: bool) -> bool:
        return False

    def interrupt(self, *, kill: bool = False) -> None:
        """Nothing: a function in a thread of this process sees the request itself."""

    def ask(self) -> None:
        """Nothing, likewise."""


@contextlib.contextmanager
def _no_running_loop() -> Generator[None, None, None]:
    """Let a plain function use ``async_to_sync`` and the like, although a loop runs below it."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
