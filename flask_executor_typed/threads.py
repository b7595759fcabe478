"""The threads of this package: daemons that the interpreter waits for when it exits.

The only module that starts threads. Daemons, because an exit deadline could not leave a
non-daemon thread behind; waited for, because accepted calls are to run, as with the standard
library's pools.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import inf
from queue import Empty, SimpleQueue
from typing import Any, Protocol
from weakref import WeakKeyDictionary

__all__ = (
    "CLEANUP",
    "AtExit",
    "Closable",
    "ClosableThreads",
    "DaemonPool",
    "close_at_exit",
    "drain",
    "exit_has_begun",
    "finish_at_exit",
    "in_child",
    "seconds_until",
    "start_thread",
    "wait_for_thread",
)

CLEANUP = 2.0
"""Seconds for which what a shutdown cancels when its time is up may clean up; a guess."""


class Closable(Protocol):
    """What runs calls, and may have to be waited for. Any thread may call each of the methods."""

    def close(self, *, cancel_pending: bool) -> None:
        """Refuse calls from now on; the threads end when what was accepted is done."""

    def runs_here(self) -> bool:
        """Whether this thread would wait for itself if it waited for the end."""
        ...

    def wait(self, end: float) -> bool:
        """Wait until all that was accepted is over; ``False`` if that is after ``end``.

        ``end`` is a time of ``time.monotonic()``.
        """
        ...

    def abandon(self, seconds: float) -> None:
        """Fail the calls that are not done after ``seconds``, and have them end if that is
        possible. May be called again."""

    def kill(self) -> bool:
        """End by force what can be ended so, and say whether that is anything."""
        ...

    def leave_behind(self) -> None:
        """Let threads go on that do not end. Nothing waits for them any more."""


class ClosableThreads(ABC):
    """What a :class:`Closable` of threads does about them."""

    @abstractmethod
    def threads(self) -> list[threading.Thread]:
        """Those of this module that are to end; some may have."""

    def wait(self, end: float) -> bool:
        waited: set[threading.Thread] = set()
        # Again and again: a job that runs may have others started.
        while running := [each for each in self.threads() if each not in waited]:
            for thread in running:
                if not wait_for_thread(thread, end):
                    return False
            waited.update(running)
        return True

    def leave_behind(self) -> None:
        for thread in self.threads():
            if isinstance(thread, _Thread) and thread.is_alive():
                thread.leave_behind()


@dataclass(frozen=True, slots=True)
class AtExit:
    """What becomes of accepted calls when the interpreter exits."""

    timeout: float = inf
    """Seconds that they have from then on."""

    cancel_pending: bool = False
    """Whether those that have not begun are cancelled."""


class _Thread(threading.Thread):
    """A thread of this package, to be found among all that run."""

    def __init__(self, name: str, target: Callable[[], object]) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._over = threading.Event()  # it has ended, or was left behind
        self.left_behind = False  # set once; from then on nobody waits for it

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._over.set()

    def leave_behind(self) -> None:
        self.left_behind = True
        self._over.set()

    def wait(self, end: float = inf) -> bool:
        # Not join(): another thread may leave it behind while we wait, and then it does not end.
        if not self._over.wait(seconds_until(end)):
            return False
        if not self.left_behind:
            self.join()
        return True


class DaemonPool(ThreadPoolExecutor):
    """A pool that a shutdown can leave behind, for what insists on one of the standard library.

    For threads of the standard library's own pool the interpreter waits, whatever blocks them.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__(size)
        self._name = name
        self._size = size
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
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
                # Not a method: the threads are to end with the pool, when nobody refers to it.
                run = partial(_run_calls, self._calls, self._free)
                self._daemons.append(start_thread(name, run))
            except RuntimeError:
                if not self._daemons:
                    future.cancel()  # or the next call's thread would run it, although refused
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
        with self._guard:
            return self._daemons.copy()

    def __del__(self) -> None:
        self._calls.put(None)


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
    calls.put(None)  # the end marker goes round


_closables: WeakKeyDictionary[Closable, AtExit] = WeakKeyDictionary()  # guarded by _lock
_lock = threading.RLock()  # reentrant: a finalizer may come back
_exiting = False  # set once, and _finished after it
_finished = False  # from then on the interpreter's exit waits for no thread any more


def start_thread(name: str, target: Callable[[], object]) -> threading.Thread:
    """Start a daemon thread that interpreter exit waits for.

    Raises:
        RuntimeError: the exit is past waiting, or the system has no more threads.
    """
    if _finished:
        raise RuntimeError("cannot start a thread: the interpreter is ending")
    thread = _Thread(name, target)
    Context().run(thread.start)  # free-threaded Python gives a thread the context of its starter
    return thread


def exit_has_begun() -> bool:
    """Whether the interpreter exits, so that executors in use accept nothing any more."""
    return _exiting


def wait_for_thread(thread: threading.Thread, end: float = inf) -> bool:
    """Wait until a thread has ended or is left behind; ``False`` if that is after ``end``."""
    return thread.wait(end) if isinstance(thread, _Thread) else True


def close_at_exit(closable: Closable, how: AtExit) -> None:
    """Close ``closable`` when the interpreter exits, unless it is gone by then."""
    with _lock:
        _closables[closable] = how


def drain(closables: Iterable[tuple[Closable, float]], begun: float) -> None:
    """Wait for the threads of what was closed, each for its own number of seconds after ``begun``.

    When these are over, what is not done fails. Then it has :data:`CLEANUP` seconds, after which
    its threads are left behind: they go on, but nothing waits for them.
    """
    late: deque[tuple[Closable, float, float]] = deque()
    # Whose time is up first, first. A call that the others wait for fails before they go on.
    for closable, seconds in sorted(closables, key=lambda item: item[1]):
        while late and late[0][2] <= begun + seconds:
            _end_by_force(*late.popleft())
        if not closable.wait(begun + seconds):
            closable.abandon(seconds)
            late.append((closable, seconds, time.monotonic() + CLEANUP))
    for each in late:
        _end_by_force(*each)


def _end_by_force(closable: Closable, seconds: float, end: float) -> None:
    if closable.wait(end):
        return
    closable.abandon(seconds)  # what a worker was about to begin when it was called before
    if not (closable.kill() and closable.wait(time.monotonic() + CLEANUP)):
        closable.leave_behind()


def seconds_until(end: float) -> float | None:
    """From now on, for what takes a time to wait; ``None``: for ever."""
    left = end - time.monotonic()
    return None if left > threading.TIMEOUT_MAX else max(0.0, left)


def _running_threads() -> list[_Thread]:
    # Not this one: a job may fork, and its thread is the child's main thread.
    here = threading.current_thread()
    threads = [thread for thread in threading.enumerate() if isinstance(thread, _Thread)]
    return [
        each for each in threads if each.is_alive() and each is not here and not each.left_behind
    ]


def finish_at_exit() -> None:
    """Close everything, and wait as long as the settings say."""
    global _exiting, _finished  # noqa: PLW0603
    _exiting = True
    begun = time.monotonic()
    # Again and again: a job that runs now may be the first to use another executor.
    while True:
        running = _running_threads()  # before the executors that they may use are looked up
        with _lock:
            closables = list(_closables.items())
        for closable, how in closables:
            closable.close(cancel_pending=how.cancel_pending)
        try:
            drain(((closable, how.timeout) for closable, how in closables), begun)
        except BaseException:  # a second Ctrl-C, or a handler of a signal that calls sys.exit()
            for closable, _ in closables:
                closable.abandon(round(time.monotonic() - begun, 1))
            raise
        for thread in running:
            thread.wait()
        if not running:
            break
    _finished = True


# Private, and without a public equal: atexit functions run after the standard library's pools
# have shut down, and jobs that are still to run may use those pools. Handlers run in reverse
# order of registration, and the standard library's module registers its own.
import_module("concurrent.futures.thread")
threading._register_atexit(finish_at_exit)  # type: ignore[attr-defined]


def in_child(forget: Callable[[], object]) -> Callable[[], object]:
    """Have a function called in the child of each fork, where the system has forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)
    return forget


@in_child
def _forget_parent() -> None:
    """In the child of a fork: the threads, and what they serve, are the parent's."""
    global _exiting, _finished, _closables, _lock  # noqa: PLW0603
    _exiting = _finished = False
    _closables = WeakKeyDictionary()
    _lock = threading.RLock()
