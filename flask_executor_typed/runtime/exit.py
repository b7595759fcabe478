"""Close and drain whatever runs calls, at shutdown and at interpreter exit.

The only module that registers an exit hook.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from math import inf
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

from .forks import in_child
from .logs import log_exception
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
    "unless_ending",
)

F = TypeVar("F", bound=Callable[[Any], None])

_logger = logging.getLogger("flask_executor_typed")

CLEANUP = 2.0
"""Seconds that cancelled jobs get to clean up once a shutdown's time is over; a guess."""


class Closable(Protocol):
    """Something that runs calls and must be waited for at shutdown. Thread-safe."""

    def close(self, *, cancel_pending: bool) -> None:
        """Refuse calls from now on. The threads end when the accepted calls are done."""

    def runs_here(self) -> bool:
        """Return whether waiting here would deadlock, because this thread is one of those."""
        ...

    def wait(self, end: float) -> bool:
        """Wait until all accepted calls are done. Return ``False`` if ``end`` comes first.

        ``end`` is a ``time.monotonic()`` time.
        """
        ...

    def abandon(self, seconds: float) -> None:
        """Fail the calls that are not done after ``seconds``, and stop them where possible.

        May be called again.
        """

    def kill(self) -> bool:
        """Kill whatever can be killed. Return whether there was anything."""
        ...

    def leave_behind(self) -> None:
        """Stop waiting for threads that do not end."""


class ClosableThreads(ABC):
    """The part of a :class:`Closable` that waits for its threads."""

    @abstractmethod
    def threads(self) -> list[threading.Thread]:
        """Return the threads that must end; some may have ended already."""

    def runs_here(self) -> bool:
        return threading.current_thread() in self.threads()

    def wait(self, end: float) -> bool:
        waited: set[threading.Thread] = set()
        # Repeated, because a running job may start more threads.
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
    """How accepted calls are treated when the interpreter exits."""

    timeout: float = inf
    """Seconds they get, counted from the beginning of the exit."""

    cancel_pending: bool = False
    """Whether calls that have not started are cancelled."""


_closables: WeakKeyDictionary[Closable, AtExit] = WeakKeyDictionary()  # guarded by _lock
_lock = threading.RLock()  # reentrant: a finalizer may get here while it is held
_exiting = False  # set once


def exit_has_begun() -> bool:
    """Return whether the interpreter is exiting. Executors then refuse new calls."""
    return _exiting


def unless_ending(finalizer: F) -> F:
    """Make a ``__del__`` do nothing once the interpreter takes its modules apart.

    It would find the names of its module gone, and all that it could do is done: everything was
    closed, no call is accepted any more, and the system takes back the rest.
    """
    is_ending = sys.is_finalizing  # bound here, because the name of this module goes as well

    def __del__(self: object) -> None:  # noqa: N807
        if not is_ending():
            finalizer(self)

    return cast("F", __del__)


def close_at_exit(closable: Closable, how: AtExit) -> None:
    """Close ``closable`` when the interpreter exits, unless it is gone by then."""
    with _lock:
        _closables[closable] = how


def drain(closables: Iterable[tuple[Closable, float]], begun: float) -> None:
    """Wait for everything that was closed, each for its own number of seconds after ``begun``.

    Calls that are not done by then fail. They get :data:`CLEANUP` more seconds; after that their
    threads are left behind: they keep running, but nothing waits for them.
    """
    late: deque[tuple[Closable, float, float]] = deque()
    # Earliest deadline first, so that a call which others wait for fails before they continue.
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
    closable.abandon(seconds)  # again: a worker may have been about to start a call the first time
    if not (closable.kill() and closable.wait(time.monotonic() + CLEANUP)):
        closable.leave_behind()


def finish_at_exit() -> None:
    """Close everything and wait for as long as the settings allow."""
    global _exiting  # noqa: PLW0603
    _exiting = True
    begun = time.monotonic()
    # Repeated, because a running job may be the first to use another executor.
    while True:
        running = (
            running_threads()
        )  # listed before the executors, which these threads may still create
        with _lock:
            closables = list(_closables.items())
        for closable, how in closables:
            try:
                closable.close(cancel_pending=how.cancel_pending)
            except Exception:  # the rest has jobs that wait too
                log_exception(_logger, "%r cannot be closed", closable)
        try:
            drain(((closable, how.timeout) for closable, how in closables), begun)
        except BaseException:  # a second Ctrl-C, or a signal handler that calls sys.exit()
            for closable, _ in closables * 2:  # the first may only ask a job: nothing waits for it
                closable.abandon(round(time.monotonic() - begun, 1))
            raise
        for thread in running:
            thread.wait()
        if not running:
            break
    refuse_threads(True)


def finish_at_atexit() -> None:
    """Run :func:`finish_at_exit` as an ordinary atexit function, where nothing else calls it."""
    atexit.unregister(finish_at_exit)  # if it was registered before
    atexit.register(finish_at_exit)


# Private, but there is no public equivalent: atexit functions run after the standard library's
# pools have shut down, and jobs that are still to run may use those pools. Handlers run in reverse
# order of registration, and the standard library's module registers its own.
import_module("concurrent.futures.thread")
threading._register_atexit(finish_at_exit)  # type: ignore[attr-defined]


@in_child
def _forget_parent() -> None:
    """Forget the parent's threads, and what they serve, in the child of a fork."""
    global _exiting, _closables, _lock  # noqa: PLW0603
    _exiting = False
    refuse_threads(False)
    _closables = WeakKeyDictionary()
    _lock = threading.RLock()
