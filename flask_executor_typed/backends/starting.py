"""Start processes with multiprocessing: one at a time, and never during a fork.

The only module that knows what is inside of multiprocessing, and what a fork does to it.
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
"""Not ``fork``, which copies locks that threads of the server may hold just then."""

_FORKS_WAIT = 10.0
"""Seconds for which a fork waits for the start of a process. A start that hangs holds up no fork
for longer; the child makes its own of what it then copies half done. A guess."""

_start_method_modules = [
    import_module(f"multiprocessing.{name}")
    for name in (
        ("popen_spawn_win32",)
        if sys.platform == "win32"
        else ("popen_fork", "popen_spawn_posix", "popen_forkserver", "resource_tracker")
    )
]
"""Imported now: the child of a fork can never import what another thread was importing."""

_process_module: Any = import_module("multiprocessing.process")

_starting = threading.RLock()
"""Held by the thread that starts a process, from before its sockets are made until the ends that
it inherits are closed here; by the thread that asks how a process has ended, since multiprocessing
asks so at each start, and two cannot ask at once; and by a thread that forks. So no fork copies a
lock of multiprocessing that is held, or the end of a socket that belongs to another process, whose
death that would hide. Reentrant: with the start method "fork", the start itself forks."""


def forks_wait() -> threading.RLock:
    """Have other threads wait with their forks, ``with forks_wait():``."""
    return _starting


def start_process(
    start_method: str, name: str, target: Callable[..., object], args: tuple[object, ...]
) -> BaseProcess:
    """Start a process that calls ``target(*args)``.

    Raises:
        Exception: there is no memory, no descriptor or no fork server for it.
    """
    context: Any = multiprocessing.get_context(start_method)
    _finish_before_multiprocessing_does()
    with _starting, _as_no_daemon():
        process: BaseProcess = context.Process(target=target, args=args, name=name)
        try:
            process.start()
        except ChildProcessError:
            # Python asks the system how its fork server is, and something in this process has
            # waited for all children. The next start has a fork server of its own.
            _forget_fork_server()
            raise
    return process


def exit_code_of(process: BaseProcess) -> int | None:
    """How a process ended; ``None`` if it has not. Negative: the signal that killed it."""
    with _starting:
        code = process.exitcode
        if code is not None:
            process.join()  # at once; multiprocessing forgets the process
    return code


def disown(process: object) -> None:
    """Have multiprocessing forget a process of our parent: it would wait for it at exit."""
    getattr(_process_module, "_children", set[object]()).discard(process)


@contextmanager
def _as_no_daemon() -> Generator[None, None, None]:
    """Let a daemon of multiprocessing, such as a process of hypercorn, start processes.

    It may not, because they would outlive it when it is terminated. Ours notice that themselves.
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
    """See to it that workers end in a process that is a child of multiprocessing itself.

    There it waits for all processes that were started, before threads are told of the exit.
    """
    global _finishes  # noqa: PLW0603
    if not _finishes:
        _finishes = True
        Finalize(None, finish_at_exit, exitpriority=100)  # before those of queues and pools


# -- forks ----------------------------------------------------------------------------------------


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.held: list[bool] = []
        """Whether each fork that is going on here holds the lock. One, as a rule."""


_this_thread = _ThisThread()


def _finish_starting() -> None:
    """Before a fork."""
    _this_thread.held.append(_starting.acquire(timeout=_FORKS_WAIT))


def _go_on() -> None:
    if _this_thread.held.pop():
        _starting.release()


def _forget_parent() -> None:
    """In the child of a fork: its locks are its own, and its fork server is not the parent's.

    After each fork, whether or not it has waited for us: uWSGI forks without telling before.
    """
    global _starting, _this_thread, _finishes  # noqa: PLW0603
    _starting = threading.RLock()
    _this_thread = _ThisThread()
    _finishes = False
    _forget_fork_server()
    # The tracker stays, since it knows of what the parent shares with us. Its lock may be held by a
    # thread of the parent.
    tracker = getattr(
        sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None
    )
    lock = getattr(tracker, "_lock", None)
    if tracker is not None and lock is not None:
        # A plain lock on older versions of Python, whose type cannot be called.
        is_reentrant = isinstance(lock, type(threading.RLock()))
        tracker._lock = threading.RLock() if is_reentrant else threading.Lock()


def _forget_fork_server() -> None:
    """Have multiprocessing start a fork server of its own for this process.

    A later Python may not have the private names. Then the child of a fork may complain at its exit
    of processes that are not its own, no more.
    """
    server: Any = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    preloaded = getattr(server, "_preload_modules", None)
    if server is None or preloaded is None:
        return
    alive = getattr(server, "_forkserver_alive_fd", None)
    if isinstance(alive, int):
        with contextlib.suppress(OSError):  # or the parent's would live as long as we do
            os.close(alive)
    server.__init__()  # in place: functions of the module are its methods
    server._preload_modules = preloaded


around_fork(_finish_starting, _go_on, _forget_parent)
