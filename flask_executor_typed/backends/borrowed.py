"""Base classes of backends that do not own their threads: the submitter's, or an adapted pool's."""

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
from ..runtime.running_loop import no_running_loop
from ..runtime.threads import seconds_until, start_thread
from ..runtime.timers import Timers
from .capabilities import IN_A_THREAD

__all__ = ("BackendInThreads", "BorrowingBackend", "Unreachable")

R = TypeVar("R")


class BorrowingBackend(ClosableThreads):
    """Tracks unfinished calls, for a backend that does not own its workers."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Reentrant: a finalizer may shut down while it is held.
        self._changed = threading.Condition(threading.RLock())
        self._accepted: set[Call[Any]] = set()  # guarded by _changed, like everything below
        self._working: list[int] = []  # threads that are running calls or their callbacks
        self._closed = False
        self._ender: threading.Thread | None = None

    def accept(self, call: Call[Any]) -> None:
        """Note a call that will be run or given up. :meth:`release` must follow."""
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
        """Mark this thread as running a call or its callback, which cannot wait for all calls."""
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
        """Fail the unfinished calls. Functions that are running continue; their outcome is lost."""
        with self._changed:
            calls = self._accepted.copy()
        self._cancel_pending()
        for call in calls:
            call.abandon(seconds)

    def kill(self) -> bool:
        return False

    def _end_if_idle(self) -> None:
        """Release the borrowed resources, once no call is left and none will come."""
        if not self._closed or self._accepted or self._ender is not None:
            return
        try:  # in a new thread, since it waits for the workers, and this thread may be one
            self._ender = start_thread(f"{self._name}-end", self._give_back)
        except RuntimeError:  # the interpreter is exiting, and its exit waits for the workers
            self._give_back(wait=False)

    def _give_back(self, *, wait: bool = True) -> None:
        """Shut down the resources that this backend owns."""

    def _cancel_pending(self) -> None:
        """Cancel the calls that have not begun."""

    def sizes(self) -> tuple[int, int]:
        """Return how many threads are known to be running calls or callbacks; and no loops."""
        with self._changed:
            return len(set(self._working)), 0


class BackendInThreads(BorrowingBackend):
    """Runs calls in the thread that calls :meth:`run`, and owns the loops that they need."""

    capabilities = IN_A_THREAD

    def __init__(
        self, name: str, backend: str, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
    ) -> None:
        super().__init__(name)
        self._in_thread = Unreachable(backend)
        self._loop_factory = loop_factory
        self._pools: list[LoopPool] = []  # one loop each; guarded by _changed, like _free
        self._free: list[LoopPool] = []  # those that run no call
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
            call.interrupter = self._in_thread
            if call.begin():
                with no_running_loop():
                    call.run(self)

    # A call may block the loop that runs it: a coroutine may submit to this very backend. So each
    # call gets a loop of its own, and there are as many loops as calls nested in each other.

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
        for pool in self._pools:  # no call is left that could add one
            pool.end()


class Unreachable:
    """The interrupter of a call that cannot be stopped."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def can_interrupt(self, call: Call[Any], *, kill: bool) -> bool:
        return False

    def interrupt(self, call: Call[Any], *, kill: bool = False) -> None:
        """Do nothing: a function in a thread of this process sees the request itself."""

    def ask_to_end(self, call: Call[Any]) -> None:
        """Do nothing, for the same reason."""
