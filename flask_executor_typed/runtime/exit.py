"""Close and drain whatever runs calls, at shutdown and at interpreter exit.

The only module that registers an exit hook.
"""

from __future__ import annotations

import atexit
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from math import inf
from typing import Protocol
from weakref import WeakKeyDictionary

from .forks import in_child
from .threads import DaemonThread, refuse_threads, running_threads, wait_for_thread

__all__ = (
    "CLEANUP",
    "AtExit",
    "Closable",
    "ClosableThreads",
    "close_at_exit",
    "drain",
    "exit_has_begun",
    "finish_at_atexit",
    "finish_at_exit",
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
            if isinstance(thread, DaemonThread) and thread.is_alive():
                thread.leave_behind()


@dataclass(frozen=True, slots=True)
class AtExit:
    """What becomes of accepted calls when the interpreter exits."""

    timeout: float = inf
    """Seconds that they have from then on."""

    cancel_pending: bool = False
    """Whether those that have not begun are cancelled."""


_closables: WeakKeyDictionary[Closable, AtExit] = WeakKeyDictionary()  # guarded by _lock
_lock = threading.RLock()  # reentrant: a finalizer may come back
_exiting = False  # set once


def exit_has_begun() -> bool:
    """Whether the interpreter exits, so that executors in use accept nothing any more."""
    return _exiting


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


def finish_at_exit() -> None:
    """Close everything, and wait as long as the settings say."""
    global _exiting  # noqa: PLW0603
    _exiting = True
    begun = time.monotonic()
    # Again and again: a job that runs now may be the first to use another executor.
    while True:
        running = running_threads()  # before the executors that they may use are looked up
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
    refuse_threads(True)


def finish_at_atexit() -> None:
    """Call :func:`finish_at_exit` among the atexit functions, where nothing else would."""
    atexit.unregister(finish_at_exit)  # once is enough
    atexit.register(finish_at_exit)


# Private, and without a public equal: atexit functions run after the standard library"s pools
# have shut down, and jobs that are still to run may use those pools. Handlers run in reverse
# order of registration, and the standard library"s module registers its own.
import_module("concurrent.futures.thread")
threading._register_atexit(finish_at_exit)  # type: ignore[attr-defined]


@in_child
def _forget_parent() -> None:
    """In the child of a fork: the threads, and what they serve, are the parent"s."""
    global _exiting, _closables, _lock  # noqa: PLW0603
    _exiting = False
    refuse_threads(False)
    _closables = WeakKeyDictionary()
    _lock = threading.RLock()
