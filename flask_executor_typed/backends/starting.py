"""Start processes with multiprocessing: one at a time, and never during a fork.

The only module that depends on the internals of multiprocessing, and on what a fork does to them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

from ..runtime.exit import finish_at_exit
from ..runtime.forks import around_fork

__all__ = (
    "DEFAULT_START_METHOD",
    "disown",
    "exit_code_of",
    "forks_wait",
    "start_process",
)

DEFAULT_START_METHOD = (
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
"""Not ``fork``, which copies locks that the server's threads may be holding."""

_FORKS_WAIT = 10.0
"""Seconds that a fork waits at most for a process that is being started, so that a hanging start
cannot block forks. The child then replaces the half-finished state that it copies. A guess."""

_start_method_modules = [
    import_module(f"multiprocessing.{name}")
    for name in (
        ("popen_spawn_win32",)
        if sys.platform == "win32"
        else ("popen_fork", "popen_spawn_posix", "popen_forkserver", "resource_tracker")
    )
]
"""Imported now: if a fork interrupts another thread's import, the child can never import it."""

_process_module: Any = import_module("multiprocessing.process")

_starting = threading.RLock()
"""Held by three kinds of threads. One that starts a process, from before it creates the sockets
until it has closed the ends that the process inherits. One that asks for an exit code, which
multiprocessing does at each start too, and two threads cannot do at once. And one that forks. So a
fork never copies a held lock of multiprocessing, nor another process's end of a socket, which would
hide the death of that process. Reentrant: with the start method "fork", the start itself forks."""


def forks_wait() -> threading.RLock:
    """Return a lock that delays the forks of other threads: ``with forks_wait():``."""
    return _starting


def start_process(
    start_method: str, name: str, target: Callable[..., object], args: tuple[object, ...]
) -> BaseProcess:
    """Start a process that calls ``target(*args)``.

    Raises:
        Exception: there is no memory, no file descriptor or no fork server for it.
    """
    context: Any = multiprocessing.get_context(start_method)
    _finish_before_multiprocessing_does()
    with _starting, _as_no_daemon():
        process: BaseProcess = context.Process(target=target, args=args, name=name)
        try:
            process.start()
        except ChildProcessError:
            # Python asked the system about its fork server, but other code in this process has
            # already waited for all children. The next start creates a new fork server.
            _forget_fork_server()
            raise
    return process


def exit_code_of(process: BaseProcess) -> int | None:
    """Return a process's exit code, ``None`` if it runs; negative: the signal that killed it."""
    with _starting:
        code = process.exitcode
        if code is not None:
            process.join()  # at once; multiprocessing forgets the process
    return code


def disown(process: object) -> None:
    """Make multiprocessing forget a process of our parent; it would wait for it at exit."""
    getattr(_process_module, "_children", set[object]()).discard(process)


@contextmanager
def _as_no_daemon() -> Generator[None, None, None]:
    """Let a daemon of multiprocessing, such as a hypercorn process, start processes.

    multiprocessing forbids that, because children would outlive a terminated daemon. Our workers
    notice the end of their server themselves.
    """
    config = _process_module.current_process()._config
    daemon = config.pop("daemon", None)
    try:
        yield
    finally:
        if daemon is not None:
            config["daemon"] = daemon


_finishes = False  # set once in each process


def _finish_before_multiprocessing_does() -> None:
    """Make workers end even in a process that multiprocessing itself has started.

    In such a process, multiprocessing waits for all child processes before threads are told of the
    exit, so the workers must be asked to end before that.
    """
    global _finishes  # noqa: PLW0603
    if not _finishes:
        _finishes = True
        Finalize(None, finish_at_exit, exitpriority=100)  # before those of queues and pools


# -- forks ----------------------------------------------------------------------------------------


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.held: list[bool] = []
        """For each fork in progress in this thread, whether it holds the lock. Usually one."""


_this_thread = _ThisThread()


def _finish_starting() -> None:
    """Wait until no process is being started; called before a fork."""
    _this_thread.held.append(_starting.acquire(timeout=_FORKS_WAIT))


def _go_on() -> None:
    if _this_thread.held.pop():
        _starting.release()


def _forget_parent() -> None:
    """Replace the parent's locks and fork server in the child of a fork.

    Called after every fork, even one that did not wait: uWSGI forks without running the hooks for
    before a fork.
    """
    global _starting, _this_thread, _finishes  # noqa: PLW0603
    _starting = threading.RLock()
    _this_thread = _ThisThread()
    _finishes = False
    _forget_fork_server()
    # The tracker stays, because it tracks what the parent shares with us. But one of the parent's
    # threads may have held its lock.
    tracker = getattr(
        sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None
    )
    lock = getattr(tracker, "_lock", None)
    if tracker is not None and lock is not None:
        # On older versions of Python, a plain lock, whose type cannot be called.
        is_reentrant = isinstance(lock, type(threading.RLock()))
        tracker._lock = threading.RLock() if is_reentrant else threading.Lock()


def _forget_fork_server() -> None:
    """Make multiprocessing start a new fork server for this process.

    A later Python may lack the private names used here. The worst that happens then: the child of a
    fork complains at exit about processes that are not its own.
    """
    server: Any = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    preloaded = getattr(server, "_preload_modules", None)
    if server is None or preloaded is None:
        return
    alive = getattr(server, "_forkserver_alive_fd", None)
    if isinstance(alive, int):
        with contextlib.suppress(OSError):  # otherwise the parent's would live as long as we do
            os.close(alive)
    server.__init__()  # in place, because the module's functions are its methods
    server._preload_modules = preloaded


around_fork(_finish_starting, _go_on, _forget_parent)
