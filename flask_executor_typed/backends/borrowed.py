"""Backends whose threads are not this package's: the submitter's, or those of an adapted pool."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from ..callables import is_async_callable
from ..calls import Call
from ..errors import ExecutorClosedError
from ..futures import block_until_done
from ..loops import LoopPool
from ..runtime.exit import ClosableThreads, exit_has_begun
from ..runtime.threads import seconds_until, start_thread
from ..runtime.timers import Timers
from .capabilities import IN_A_THREAD

__all__ = ("BackendInThreads", "BorrowingBackend", "Unreachable")

R = TypeVar("R")


class BorrowingBackend(ClosableThreads):
    """Knows the calls that are not over, for a backend whose workers are not its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Reentrant: a finalizer may shut down while it is held.
        self._changed = threading.Condition(threading.RLock())
        self._accepted: set[Call[Any]] = set()  # guarded by _changed, as what follows
        self._working: list[int] = []  # threads that run calls or their callbacks now
        self._closed = False
        self._ender: threading.Thread | None = None

    def accept(self, call: Call[Any]) -> None:
        """A call will be run, or given up: :meth:`release` must follow."""
        with self._changed:
            if self._closed:
                raise ExecutorClosedError(self._name, exit_has_begun())
            self._accepted.add(call)

    def release(self, call: Call[Any]) -> None:
        with self._changed:
            self._accepted.discard(call)
            self._end_if_idle()
            self._changed.notify_all()

    @contextlib.contextmanager
    def working_here(self) -> Generator[None, None, None]:
        """What runs in the block cannot wait for all calls: it may be one, or its callback."""
        here = threading.get_ident()
        with self._changed:
            self._working.append(here)
        try:
            yield
        finally:
            with self._changed:
                self._working.remove(here)

    def close(self, *, cancel_pending: bool) -> None:
        with self._changed:
            self._closed = True
            self._end_if_idle()
        if cancel_pending:
            self._cancel_pending()

    def runs_here(self) -> bool:
        with self._changed:
            return threading.get_ident() in self._working or super().runs_here()

    def wait(self, end: float) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: not self._accepted, seconds_until(end)):
                return False
        return super().wait(end)

    def threads(self) -> list[threading.Thread]:
        with self._changed:
            return [] if self._ender is None else [self._ender]

    def abandon(self, seconds: float) -> None:
        """Fail the calls that are not over. Those that run go on, and nobody looks after them."""
        with self._changed:
            calls = self._accepted.copy()
        self._cancel_pending()
        for call in calls:
            call.abandon(seconds)

    def kill(self) -> bool:
        return False

    def _end_if_idle(self) -> None:
        """Give back what was borrowed, once no call is left and none will come."""
        if not self._closed or self._accepted or self._ender is not None:
            return
        try:  # in a thread of its own, since it waits for the workers, and this may be one
            self._ender = start_thread(f"{self._name}-end", self._give_back)
        except RuntimeError:  # the interpreter exits, and its exit waits for them
            self._give_back(wait=False)

    def _give_back(self, *, wait: bool = True) -> None:
        """Shut down what is to be shut down."""

    def _cancel_pending(self) -> None:
        """Cancel what has not begun."""

    def sizes(self) -> tuple[int, int]:
        """How many threads run calls or their callbacks now, as far as this knows; and loops."""
        with self._changed:
            return len(set(self._working)), 0


class BackendInThreads(BorrowingBackend):
    """Runs calls in whatever thread it is called. What they need of loops, it has."""

    capabilities = IN_A_THREAD

    def __init__(
        self, name: str, backend: str, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
    ) -> None:
        super().__init__(name)
        self._in_thread = Unreachable(backend)
        self._loop_factory = loop_factory
        self._pools: list[LoopPool] = []  # each of one loop; guarded by _changed, as what follows
        self._free: list[LoopPool] = []  # those on which no call runs
        self._timers = Timers(name)

    def run(self, call: Call[Any]) -> None:
        """Run a call that was accepted, unless it was cancelled."""
        future = call.future
        with self.working_here():
            if is_async_callable(call.fn):
                with self._loop() as loops:
                    loops.submit(call)
                    block_until_done(future)
                return
            call.set_interrupter(self._in_thread)
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
        return self._timers.call_later(seconds, fn)

    def sizes(self) -> tuple[int, int]:
        return super().sizes()[0], sum(pool.size() for pool in self._pools)

    def runs_here(self) -> bool:
        return super().runs_here() or any(pool.serves_this_thread() for pool in self._pools)

    def threads(self) -> list[threading.Thread]:
        with self._changed:
            loops = [thread for pool in self._pools for thread in pool.threads()]
        return [*super().threads(), *loops, *self._timers.threads()]

    def abandon(self, seconds: float) -> None:
        super().abandon(seconds)
        with self._changed:
            pools = self._pools.copy()
        for pool in pools:
            pool.abandon(seconds)

    def _give_back(self, *, wait: bool = True) -> None:
        self._timers.end()
        for pool in self._pools:  # no call can add one any more
            pool.end()


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
