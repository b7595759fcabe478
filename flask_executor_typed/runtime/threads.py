"""Daemon threads that the interpreter waits for when it exits.

The only module that starts threads. Daemons, because an exit deadline could not leave a
non-daemon thread behind; waited for, because accepted calls are to run, as with the standard
library's pools.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from typing import Any

__all__ = (
    "DaemonPool",
    "DaemonThread",
    "SpareThreads",
    "refuse_threads",
    "running_threads",
    "seconds_until",
    "start_thread",
    "threads_are_refused",
    "wait_for_thread",
)


_SPARE = 1.0  # seconds that a spare thread waits for another call


class DaemonThread(threading.Thread):
    """A thread of this package. The class marks it among all running threads."""

    def __init__(self, name: str, target: Callable[[], object]) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._over = threading.Event()  # set when the thread ends or is left behind
        self.left_behind: bool = False  # set once; from then on, nothing waits for it

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._over.set()

    def leave_behind(self) -> None:
        self.left_behind = True
        self._over.set()

    def wait(self, end: float = inf) -> bool:
        # Not join(): another thread may leave this one behind meanwhile, and then it never ends.
        if not self._over.wait(seconds_until(end)):
            return False
        if not self.left_behind:
            self.join()
        return True


class DaemonPool(ThreadPoolExecutor):
    """A ``ThreadPoolExecutor`` that a shutdown can leave behind.

    The interpreter always waits for the threads of the standard library's own pool, whatever
    blocks them.
    """

    def __init__(self, name: str, size: int) -> None:
        # First: __del__ needs it, wherever an interrupt ends the rest.
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        super().__init__(size)
        self._name = name
        self._size = size
        self._free = threading.Semaphore(0)
        self._guard = threading.RLock()  # reentrant: a finalizer may come back
        self._daemons: list[threading.Thread] = []  # guarded by _guard
        self._refusing = False  # guarded by _guard

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._guard:
            if self._refusing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._calls.put((future, partial(fn, *args, **kwargs)))
            if self._free.acquire(blocking=False) or len(self._daemons) >= self._size:
                return future
            try:
                name = f"{self._name}-{len(self._daemons)}"
                # Not a method: the threads must end when the last reference to the pool is gone.
                run = partial(_run_calls, self._calls, self._free)
                start_thread(name, run, self._daemons)
            except RuntimeError:
                if not self._daemons:
                    future.cancel()  # otherwise the next call's thread would run it, refused or not
                    raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._guard:
            self._refusing = True
        while cancel_futures:
            try:
                item = self._calls.get_nowait()
            except Empty:
                break
            if item is not None:
                item[0].cancel()
        self._calls.put(None)
        if wait:
            for thread in self.threads():
                wait_for_thread(thread)

    def threads(self) -> list[threading.Thread]:
        # Without the guard, like all that a shutdown looks at while it waits: a signal handler that
        # interrupts it may shut down as well, and wait for a thread that submits here.
        return self._daemons.copy()

    def __del__(self) -> None:
        self._calls.put(None)  # nothing here that the end of the interpreter could have taken apart


def _run_calls(
    calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None], free: threading.Semaphore
) -> None:
    while (item := calls.get()) is not None:
        future, call = item
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
        del item, future, call  # an idle thread keeps nothing alive
        free.release()
    calls.put(None)  # pass the end marker on to the next thread


class SpareThreads:
    """Runs each function at once, in a thread that has nothing else to do, or in a new one.

    Each in an empty context of its own.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)  # who acquires it may put one item into the queue
        self._is_closed = False

    def run(self, call: Callable[[], object]) -> None:
        """Run a function, which logs its own errors. Raises what :func:`start_thread` raises."""
        if self._idle.acquire(blocking=False):
            self._calls.put(call)
        else:
            start_thread(self._name, partial(self._serve, [call]))

    def close(self) -> None:
        """Have the threads end once they have nothing to do."""
        self._is_closed = True
        while self._idle.acquire(blocking=False):
            self._calls.put(None)

    def _serve(self, first: list[Callable[[], object]]) -> None:
        # An idle thread keeps no call alive, and a thread keeps what it was started with.
        call: Callable[[], object] | None = first.pop()
        while call is not None:
            Context().run(call)
            del call
            self._idle.release()
            if self._is_closed:  # after the release: close() has seen that, or we see this
                self.close()
            call = self._next()

    def _next(self) -> Callable[[], object] | None:
        while True:
            try:
                return self._calls.get(timeout=_SPARE)
            except Empty:
                if self._idle.acquire(blocking=False):  # else another thread has just put an item
                    return None


_refusing = False  # set when interpreter exit has stopped waiting for threads


def start_thread(
    name: str, target: Callable[[], object], among: list[threading.Thread] | None = None
) -> threading.Thread:
    """Start a daemon thread that interpreter exit waits for.

    ``among`` gets the thread before it runs: code that asks whether it runs in one of the threads
    of that list may be the first that the thread calls.

    Raises:
        RuntimeError: the exit is past waiting, or the system has no more threads.
    """
    if _refusing:
        raise RuntimeError("cannot start a thread: the interpreter is ending")
    thread = DaemonThread(name, target)
    if among is not None:
        among.append(thread)
    try:
        # Free-threaded Python gives a thread the context of its starter.
        Context().run(thread.start)
    except BaseException:
        if among is not None and thread.ident is None:  # it does not run
            among.remove(thread)
            thread.leave_behind()  # a shutdown may be waiting for it
        raise
    return thread


def refuse_threads(refuse: bool) -> None:
    """Refuse to start threads from now on, or allow it again. The exit waits for no new ones."""
    global _refusing  # noqa: PLW0603
    _refusing = refuse


def threads_are_refused() -> bool:
    """Return whether interpreter exit is past waiting for threads."""
    return _refusing


def wait_for_thread(thread: threading.Thread, end: float = inf) -> bool:
    """Wait until a thread ends or is left behind. Return ``False`` if ``end`` comes first."""
    return thread.wait(end) if isinstance(thread, DaemonThread) else True


def seconds_until(end: float) -> float | None:
    """Return the seconds left until ``end``, as a timeout; ``None`` means forever."""
    left = end - time.monotonic()
    return None if left > threading.TIMEOUT_MAX else max(0.0, left)


def running_threads() -> list[DaemonThread]:
    """Return the threads that interpreter exit must wait for, except the current one."""
    # Except the current one: when a job forks, its thread becomes the child's main thread.
    here = threading.current_thread()
    threads = [thread for thread in threading.enumerate() if isinstance(thread, DaemonThread)]
    return [
        each for each in threads if each.is_alive() and each is not here and not each.left_behind
    ]
