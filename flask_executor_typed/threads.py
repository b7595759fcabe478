"""The threads of this package: daemons that the interpreter waits for when it exits.

The only module that starts threads. Daemons, because an exit deadline could not leave a
non-daemon thread behind; waited for, because accepted calls are to run, as with the standard
library's pools.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import Context
from importlib import import_module
from typing import Protocol
from weakref import WeakSet

__all__ = ("Closable", "close_at_exit", "start_thread")


class Closable(Protocol):
    """What refuses new work from now on, and ends its threads when it has none left."""

    def shutdown(self, *, wait: bool, cancel_pending: bool) -> None: ...


class _Thread(threading.Thread):
    """A thread of this package, to be found among all that run."""


_closables: WeakSet[Closable] = WeakSet()  # guarded by _lock
_lock = threading.RLock()  # reentrant: a finalizer may come back
_finished = False  # set once: from then on the interpreter's exit waits for no thread any more


def start_thread(name: str, target: Callable[[], object]) -> threading.Thread:
    """Start a daemon thread that interpreter exit waits for.

    Raises:
        RuntimeError: the exit is past waiting, or the system has no more threads.
    """
    if _finished:
        raise RuntimeError("cannot start a thread: the interpreter is ending")
    thread = _Thread(target=target, name=name, daemon=True)
    Context().run(thread.start)  # free-threaded Python gives a thread the context of its starter
    return thread


def close_at_exit(closable: Closable) -> None:
    """Shut ``closable`` down when the interpreter exits, unless it is gone by then."""
    with _lock:
        _closables.add(closable)


def _running_threads() -> list[threading.Thread]:
    # Not this one: a job may fork, and its thread is the child's main thread.
    here = threading.current_thread()
    threads = [thread for thread in threading.enumerate() if isinstance(thread, _Thread)]
    return [thread for thread in threads if thread.is_alive() and thread is not here]


def _finish_at_exit() -> None:
    global _finished  # noqa: PLW0603
    # Again and again: a job that runs now may be the first to use another executor.
    while running := _running_threads():
        with _lock:
            closables = list(_closables)
        for closable in closables:
            closable.shutdown(wait=False, cancel_pending=False)
        for thread in running:
            thread.join()
    with _lock:
        closables = list(_closables)
    for closable in closables:  # calls may be left that run in threads or processes of others
        closable.shutdown(wait=True, cancel_pending=False)
    _finished = True


# Private, and without a public equal: atexit functions run after the standard library's pools
# have shut down, and jobs that are still to run may use those pools. Handlers run in reverse
# order of registration, and the standard library's module registers its own.
import_module("concurrent.futures.thread")
threading._register_atexit(_finish_at_exit)  # type: ignore[attr-defined]


def _forget_parent() -> None:
    """In the child of a fork: the threads, and what they serve, are the parent's."""
    global _finished, _closables, _lock  # noqa: PLW0603
    _finished = False
    _closables = WeakSet()
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
