"""Threads of this process: workers for plain functions, loop threads for coroutine functions."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any

from ..callers import line_of_caller
from ..calls import Call, running_call
from ..errors import DeadlockError, ExecutorClosedError
from ..futures import FutureProxy, wait_here_with
from ..loops import LoopPool, is_async_callable
from ..threads import start_thread

__all__ = ("ThreadBackend",)


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
    def queue(self) -> SimpleQueue[Call[Any] | _Marker]:
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


class _Marker(Enum):
    """What a worker may find in the queue in place of a call."""

    END = "end"
    """No calls come any more."""

    SURPLUS = "surplus"
    """There may be more workers than there should be."""


class _CallsBelow(threading.local):
    def __init__(self) -> None:
        self.futures: list[FutureProxy[Any] | None] = []
        """Of the calls in this thread that wait while it runs another, the outermost first."""


_calls_below = _CallsBelow()
_MAX_CALLS_BELOW = 30  # of about ten frames each, of the 1,000 that Python allows


class _ThreadPool:
    """Workers on one queue, started one by one while all of them are busy."""

    def __init__(self, name: str, max_workers: int, loops: LoopPool) -> None:
        self._name = name
        self._max_workers = max_workers
        self._loops = loops
        self.queue: SimpleQueue[Call[Any] | _Marker] = SimpleQueue()
        self._lock = threading.RLock()  # reentrant: a finalizer may shut down while it is held
        self._workers: list[threading.Thread] = []  # guarded by _lock
        self._ended = 0  # how many of them have; guarded by _lock
        self._blocked = 0  # how many of them wait for a future; guarded by _lock
        # While workers may grow: as many items as there are more workers than calls, queued or
        # running; and if it is the other way round, because no thread could be started, _owed.
        self._idle: deque[None] = deque()
        self._owed = 0  # guarded by _lock
        self._closed = False  # set under _lock

    def submit(self, call: Call[Any]) -> None:
        future = call.future  # the call forgets it when it is done, which may be any moment now
        if not self._closed:
            call.pool, future._queued = self, call
            self.queue.put(call)
            if len(self._workers) < self._max_workers:
                self._start_worker_if_none_is_idle(future)
            if self._blocked:
                self._start_spare_if_all_wait()
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
        loops = self._loops
        get = self.queue.get
        loops.bridge_this_thread(self._note_waiting, self._note_going_on)
        wait_here_with(self._wait)
        while (call := get()) is not _Marker.END:
            if call is _Marker.SURPLUS:
                if self._retires():
                    return
                continue
            if call.begin():
                call.run(loops)
            del call  # an idle worker keeps nothing alive
            if len(self._workers) < self._max_workers and not self._pays_back():
                self._idle.append(None)
        self.queue.put(_Marker.END)  # it goes round
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

    # A job that waits for a call of its own pool must not wait for a worker to get free: each may
    # be waiting, for such a call. So the job's worker runs the call itself, which costs nothing
    # and can block nobody that does not wait for it anyway. What else may be waited for, such as a
    # coroutine job that awaits a call of this pool, or a call below very many others, gets a spare
    # worker once all of them wait: at any time there is one that does not.

    def _wait(self, future: FutureProxy[Any], timeout: float | None) -> None:
        """Wait for a future in a worker."""
        while timeout is None and not future.done() and self._runs_it_here(future):
            pass
        if future.done():
            return
        self._note_waiting()
        try:
            future._block(timeout)
        finally:
            self._note_going_on()

    def _note_waiting(self) -> None:
        """A worker waits from now on, for a future or in ``async_to_sync``."""
        with self._lock:
            self._blocked += 1
        # A submitter puts its call into the queue before it looks for who waits; here it is the
        # other way round. So one of the two sees the other, or both do.
        self._start_spare_if_all_wait()

    def _note_going_on(self) -> None:
        with self._lock:
            self._blocked -= 1
            if self._has_surplus():
                self.queue.put(_Marker.SURPLUS)

    def _runs_it_here(self, future: FutureProxy[Any]) -> bool:
        """Run the pending call that ``future`` depends on, if there is one of this pool."""
        last = future._last_followed()
        below = _calls_below.futures
        call = running_call.get()
        waiting = None if call is None else getattr(call, "future", None)
        if last is waiting or last in below:
            reason = "which waits for this line: neither can ever be done"
            raise DeadlockError(line_of_caller(), future.name, reason)
        queued = last._queued if isinstance(last, FutureProxy) else None
        if (
            not isinstance(queued, Call)
            or queued.pool is not self
            or len(self._workers) < self._max_workers  # then one has been started for the call
            or len(below) >= _MAX_CALLS_BELOW
            or not queued.begin()
        ):
            return False
        below.append(waiting)
        try:
            queued.run(self._loops)
        finally:
            below.pop()
        return True

    def _start_spare_if_all_wait(self) -> None:
        with self._lock:
            if self._blocked < len(self._workers) - self._ended or self.queue.empty():
                return
            # If the system has no more threads, the next who submits or waits tries again.
            with contextlib.suppress(RuntimeError, OSError):
                worker = start_thread(f"{self._name}-worker-{len(self._workers)}", self._work)
                self._workers.append(worker)

    def _has_surplus(self) -> bool:
        return len(self._workers) - self._ended > max(self._max_workers, self._blocked + 1)

    def _retires(self) -> bool:
        with self._lock:
            if not self._has_surplus():
                return False
            self._workers.remove(threading.current_thread())
            return True

    def shutdown(self, cancel_pending: bool) -> None:
        with self._lock:
            self._closed = True  # no worker starts from now on, but for spare ones
        if cancel_pending:
            self._cancel_pending()
        self.queue.put(_Marker.END)
        if not self._workers:
            self._loops.end()

    def join(self) -> None:
        """Wait until the workers have ended."""
        for worker in list(self._workers):
            worker.join()

    def _cancel_pending(self) -> None:
        try:
            while True:
                call = self.queue.get_nowait()
                if isinstance(call, Call):
                    call.future.cancel()
        except Empty:
            pass
