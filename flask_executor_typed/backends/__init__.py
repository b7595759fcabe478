"""Where calls run. Here: threads for plain functions, loop threads for coroutine functions.

The only package that makes pools. Another kind of backend is a module beside this one, imported
when an app is configured for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from ..calls import Call
from ..config import ExecutorConfig
from ..errors import ExecutorClosedError
from ..futures import FutureProxy
from ..loops import LoopPool, is_async_callable
from ..threads import close_at_exit, start_thread

__all__ = ("Backend", "ThreadBackend", "open_backend")

R = TypeVar("R")


class Backend(Protocol):
    """Runs calls somewhere. Every method may be called from any thread."""

    def submit(self, call: Call[Any]) -> None:
        """Run ``call``, or raise ``ExecutorClosedError``; an accepted call settles its future."""

    def shutdown(self, *, wait: bool, cancel_pending: bool) -> None:
        """Refuse calls from now on and end the workers when what was accepted is done."""


def open_backend(config: ExecutorConfig, name: str) -> Backend:
    """The backend that ``config`` asks for; its threads are called after ``name``."""
    max_workers = config.max_workers or default_max_workers(config.type)
    backend: Backend
    if config.type == "process":
        from .process import ProcessBackend  # multiprocessing is slow to import

        backend = ProcessBackend(name, max_workers)
    else:
        backend = ThreadBackend(name, max_workers, config.max_loops, config.loop_factory)
    close_at_exit(backend)
    return backend


def default_max_workers(kind: str) -> int:
    """As many workers as the standard library's pools: of processes, one for each processor."""
    processors = int(getattr(os, "process_cpu_count", os.cpu_count)() or 1)
    if kind == "process":
        return min(processors, 61) if sys.platform == "win32" else processors  # its limit
    return min(32, processors + 4)


class ThreadBackend:
    """Threads of this process. A job's contexts, arguments and result never leave it."""

    def __init__(
        self,
        name: str,
        max_workers: int,
        max_loops: int,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._loops = LoopPool(name, max_loops, loop_factory)
        self._pool = _ThreadPool(name, max_workers, self._loops)

    @property
    def queue(self) -> SimpleQueue[Call[Any] | None]:
        """The calls of plain functions that no worker has taken yet."""
        return self._pool.queue

    def submit(self, call: Call[Any]) -> None:
        if is_async_callable(call.fn):
            self._loops.submit(call)
        else:
            self._pool.submit(call)

    def shutdown(self, *, wait: bool, cancel_pending: bool) -> None:
        self._loops.refuse(cancel_pending)
        self._pool.shutdown(cancel_pending)
        if wait and not self._loops.serves_this_thread():  # a job cannot wait for itself to end
            self._pool.join()
            self._loops.join()


class _ThreadPool:
    """Workers on one queue, started one by one while all of them are busy."""

    def __init__(self, name: str, max_workers: int, loops: LoopPool) -> None:
        self._name = name
        self._max_workers = max_workers
        self._loops = loops
        self.queue: SimpleQueue[Call[Any] | None] = SimpleQueue()
        self._lock = threading.RLock()  # reentrant: a finalizer may shut down while it is held
        self._workers: list[threading.Thread] = []  # guarded by _lock; only grows
        self._ended = 0  # workers that have; guarded by _lock
        # While workers may grow: as many items as there are more workers than calls, queued or
        # running; and if it is the other way round, because no thread could be started, _owed.
        self._idle: deque[None] = deque()
        self._owed = 0  # guarded by _lock
        self._closed = False  # set under _lock

    def submit(self, call: Call[Any]) -> None:
        future = call.future  # the call forgets it when it is done, which may be any moment now
        if not self._closed:
            self.queue.put(call)
            if len(self._workers) < self._max_workers:
                self._start_worker_if_none_is_idle(future)
            if not self._closed:
                return
        # No lock is held over put(), so shutdown() may have come in between. Its end marker may
        # be before our call, which then nobody gets, or behind it. Whoever takes the right to
        # start decides: if a worker has, the call was accepted and runs; if we have, it was not.
        if future._refuse():
            raise ExecutorClosedError(self._name)

    def _start_worker_if_none_is_idle(self, future: FutureProxy[Any]) -> None:
        # No lock, which a submitter holds while it starts a thread: a worker that had to wait for
        # it would count as busy. Of two submitters only one can pop the same item.
        with contextlib.suppress(IndexError):
            self._idle.pop()
            return
        with self._lock:
            if self._closed or len(self._workers) >= self._max_workers:
                return
            try:
                # Here rather than by the worker: by then the interpreter may be ending, and Python
                # 3.12 starts no thread any more.
                self._loops.start_one()
                worker = start_thread(f"{self._name}-worker-{len(self._workers)}", self._work)
            except Exception:
                # The system has no more threads or files, or the interpreter is ending, or
                # EXECUTOR_LOOP_FACTORY does not give a loop.
                if not self._workers and future._refuse():
                    raise
                self._owed += 1
            else:
                self._workers.append(worker)

    def _work(self) -> None:
        wait_for = self._loops.wait_for
        get = self.queue.get
        self._loops.bridge_this_thread()
        while (call := get()) is not None:
            call.run(wait_for)
            del call  # an idle worker keeps nothing alive
            if len(self._workers) < self._max_workers and not self._pays_back():
                self._idle.append(None)
        self.queue.put(None)  # the end marker goes round
        with self._lock:
            self._ended += 1
            last = self._ended == len(self._workers)
        if last:
            self._loops.end()

    def _pays_back(self) -> bool:
        """Whether a worker that has done a call is wanted by another call, which got none."""
        if not self._owed:
            return False
        with self._lock:
            self._owed = max(0, self._owed - 1)
        return True

    def shutdown(self, cancel_pending: bool) -> None:
        with self._lock:
            self._closed = True  # no worker starts from now on
        if cancel_pending:
            self._cancel_pending()
        self.queue.put(None)
        if not self._workers:
            self._loops.end()

    def join(self) -> None:
        """Wait until the workers have ended."""
        for worker in self._workers:
            worker.join()

    def _cancel_pending(self) -> None:
        try:
            while True:
                call = self.queue.get_nowait()
                if call is not None:
                    call.future.cancel()
        except Empty:
            pass
