"""Run calls in threads: workers for plain functions, loop threads for coroutine functions.

Here a job may wait for jobs of its own pool without a deadlock.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from ..callables import is_async_callable
from ..calls import Call, pending_call_of
from ..errors import DeadlockError, ExecutorClosedError
from ..futures import (
    FutureProxy,
    block_until_done,
    call_back_by,
    following_apart,
    wait_here_with,
)
from ..loops import LoopPool
from ..loops.greenlets import NoLoops
from ..runtime.exit import ClosableThreads, exit_has_begun
from ..runtime.frames import line_of_caller, stack_is_deep
from ..runtime.greenlets import check_patched_before_import, patched_by
from ..runtime.threads import DaemonPool, start_thread
from .capabilities import IN_A_THREAD

__all__ = ("ThreadBackend",)


class ThreadBackend(ClosableThreads):
    """Threads of this process. A job's contexts, arguments and result stay in its memory."""

    capabilities = IN_A_THREAD

    def __init__(
        self,
        name: str,
        max_workers: int,
        max_loops: int,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        slow_callback: float | None = None,
    ) -> None:
        check_patched_before_import()
        library = patched_by()
        if library is None:
            self._loops = LoopPool(name, max_loops, loop_factory, slow_callback)
        else:
            self._loops = NoLoops(name, library)
        self._pool = _ThreadPool(name, max_workers, self._loops)

    @property
    def queue(self) -> SimpleQueue[Call[Any] | None]:
        """The calls of plain functions that no worker has taken yet."""
        return self._pool.queue

    def sizes(self) -> tuple[int, int]:
        return self._pool.size(), self._loops.size()

    def submit(self, call: Call[Any]) -> None:
        if is_async_callable(call.fn):
            self._loops.submit(call)
        else:
            self._pool.submit(call)

    def close(self, *, cancel_pending: bool) -> None:
        self._loops.refuse(cancel_pending)
        self._pool.close(cancel_pending)

    def runs_here(self) -> bool:
        return super().runs_here() or self._loops.serves_this_thread()

    def threads(self) -> list[threading.Thread]:
        return self._pool.threads() + self._loops.threads()

    def abandon(self, seconds: float) -> None:
        self._pool.abandon(seconds)
        self._loops.abandon(seconds)

    def kill(self) -> bool:
        return False

    def blocked_loops(self, seconds: float) -> list[threading.Thread]:
        """Return the threads whose event loops do not answer within ``seconds``."""
        return self._loops.blocked(seconds)


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.calls: list[Call[Any]] = []
        """The calls on this thread's stack. Only the last runs; each other waits for the next."""


_this_thread = _ThisThread()
_MAX_CALLS = 30
_CALLBACK_THREADS = 4  # a guess
_LOOK_AGAIN_AFTER = 1.0  # seconds


class _ThreadPool:
    """Workers on one queue, started one by one while all of them are busy."""

    def __init__(self, name: str, max_workers: int, loops: LoopPool) -> None:
        self._name = name
        self._max_workers = max_workers
        self._loops = loops
        self.queue: SimpleQueue[Call[Any] | None] = SimpleQueue()
        # Two locks, because a signal handler may shut down, and wait for all workers, while the
        # submitter that it interrupts holds _lock: so a worker never takes that one, and submitters
        # never take _in_workers. Both are reentrant: a finalizer may shut down while one is held.
        self._lock = threading.RLock()
        self._in_workers = threading.RLock()
        self._workers: list[threading.Thread] = []  # guarded by _lock; only grows
        self._ended: set[threading.Thread] = set()  # of the workers; guarded by _in_workers
        self._may_grow = True  # whether there are fewer than _max_workers; guarded by _lock
        # Those that have not ended; guarded by _in_workers.
        self._spares: list[threading.Thread] = []
        # The calls on the stack of each worker and spare; only its own thread changes a list.
        self._running: dict[int, list[Call[Any]]] = {}
        self._waiting = 0  # number of workers and spares that wait; guarded by _in_workers
        self._wanted: dict[Call[Any], None] = {}  # pending calls that some job waits for
        # For the callbacks of calls that a waiting job has run itself: the job must not wait for
        # them.
        self._callbacks = DaemonPool(f"{name}-callbacks", _CALLBACK_THREADS)
        # While workers may be added: one item for each worker in excess of the calls, queued or
        # running. And one for each call in excess, whose thread could not be started.
        self._idle: deque[None] = deque()
        self._owed: deque[None] = deque()
        self._closed = False  # set under _lock
        # Calls, and end markers, that were taken from the queue and are not over yet.
        self._taken: deque[Call[Any] | None] = deque()

    def size(self) -> int:
        return sum(thread.is_alive() for thread in [*self._workers, *self._spares])

    def submit(self, call: Call[Any]) -> None:
        if not self._closed:
            call.pool = self
            self.queue.put(call)
            if self._may_grow:
                self._start_worker_if_none_is_idle(call)
            if not self._closed:
                return
        # No lock is held during put(), so close() may have come in between. Its end marker is in
        # front of this call, which no worker then gets, or behind it. The right to start decides:
        # if a worker has taken it, the call is accepted and runs; if refuse() takes it, it is not.
        if call.refuse():
            raise ExecutorClosedError(self._name, exit_has_begun())

    def _start_worker_if_none_is_idle(self, call: Call[Any]) -> None:
        # Without the lock, which a submitter holds while it starts a thread: a worker that had to
        # wait for it would count as busy. Of two submitters, only one can pop the same item.
        with contextlib.suppress(IndexError):
            self._idle.pop()
            return
        with self._lock:
            if self._closed or not self._may_grow:
                return
            try:
                # Here rather than in the worker: by then the interpreter may be ending, and Python
                # 3.12 no longer starts threads.
                self._loops.start_one()
                worker = start_thread(f"{self._name}-worker-{len(self._workers)}", self._work)
            except Exception:
                # The system has no more threads or files, or the interpreter is ending, or
                # EXECUTOR_LOOP_FACTORY does not give a loop.
                if not self._workers and call.refuse():
                    raise
                self._owed.append(None)
            else:
                self._workers.append(worker)
                self._may_grow = len(self._workers) < self._max_workers

    def _work(self) -> None:
        self._prepare_thread()
        loops, calls = self._loops, _this_thread.calls
        get = self.queue.get
        while (call := get()) is not None:
            if call.begin():
                calls.append(call)
                try:
                    call.run(loops)
                except BaseException as error:  # of code around the function: MemoryError, say
                    call.fail(error)  # the worker lives on
                calls.pop()
            del call  # an idle worker keeps nothing alive
            if self._may_grow and not self._pays_back():
                self._idle.append(None)
        self.queue.put(None)  # pass the end marker on to the next worker
        with self._in_workers:
            self._ended.add(threading.current_thread())
            del self._running[threading.get_ident()]
        self._end_others_if_last()

    def _prepare_thread(self) -> None:
        self._loops.bridge_this_thread(self._note_waiting, self._note_going_on)
        wait_here_with(self._wait)
        self._running[threading.get_ident()] = _this_thread.calls

    def _end_others_if_last(self) -> None:
        with self._in_workers:
            last = not self._left()
        if last:
            self._loops.end()
            self._callbacks.shutdown(wait=False)  # after those that were handed over

    def _left(self) -> int:
        """Return the number of workers and spares that have not ended."""
        # Not a number of those that ended: the submitter that starts a worker may be interrupted
        # before it adds it to the list, by a signal handler that waits for its end.
        return len(self._spares) + sum(worker not in self._ended for worker in self._workers)

    def _pays_back(self) -> bool:
        """Return whether a worker that gets free is owed to a call for which no thread started."""
        if self._owed:
            with contextlib.suppress(IndexError):  # another worker was faster
                self._owed.pop()
                return True
        return False

    # A job that waits for a call of its own pool must not wait for a busy worker: every worker may
    # be waiting for such a call. So the job's worker runs the call itself, which costs nothing and
    # blocks only jobs that wait for the call anyway. Where that is not possible, and as long as all
    # workers wait, a spare worker runs the calls that jobs wait for. All other calls start only
    # when a worker is free.

    def _wait(self, future: FutureProxy[Any], timeout: float | None) -> None:
        """Wait for a future in a worker thread. With ``timeout``, return when it has passed."""
        while timeout is None and not future.done() and self._runs_it_here(future):
            pass
        if future.done():
            return
        self._note_waiting()
        try:
            if timeout is not None:
                block_until_done(future, timeout)
            while timeout is None and not future.done():
                if not self._start_spare_if_all_wait():
                    self._run_wanted_until(future)
                # Look again, for a call that is wanted later, when no thread can be started for it.
                block_until_done(future, _LOOK_AGAIN_AFTER)
        finally:
            self._note_going_on()

    def _runs_it_here(self, future: FutureProxy[Any]) -> bool:
        """Run the pending call that ``future`` depends on, if there is one of this pool."""
        calls = _this_thread.calls
        if any(call.settles(future) for call in calls):
            reason = "which waits for this line: neither can ever be done"
            raise DeadlockError(line_of_caller(), future.name, reason)
        call = pending_call_of(future)
        if (
            call is None
            or call.pool is not self
            or call.has_time_limit  # the waiting job could not continue when the time is up
            or (self._may_grow and not self._owed)  # a worker was started for it
            or self._has_idle_worker()
            or len(calls) > _MAX_CALLS
            or stack_is_deep()
            or not call.begin()
        ):
            return False
        self._run(call)
        return True

    def _run(self, call: Call[Any]) -> None:
        """Run a call, possibly on top of others that wait for it."""
        calls = _this_thread.calls
        calls.append(call)
        # Callbacks of a call that a job runs for itself must not hold up that job, which one of
        # them may be waiting for.
        call_back_by(self._callbacks.submit if len(calls) > 1 else None)
        try:
            with following_apart():
                call.run(self._loops)
        except BaseException as error:  # as in _work()
            call.fail(error)
        calls.pop()
        call_back_by(self._callbacks.submit if len(calls) > 1 else None)

    def _has_idle_worker(self) -> bool:
        """Return whether an idle worker is there for every call in the queue, as it seems.

        If one has just taken another call, the job that asks waits for a worker like any other. It
        is no deadlock: if all come to wait, a spare starts.
        """
        idle = sum(not calls for calls in self._running.copy().values())
        return idle > 0 and idle >= self.queue.qsize()

    def _run_wanted_until(self, future: FutureProxy[Any]) -> None:
        """Act as the spare worker that cannot be started: Python 3.12 starts no thread at exit."""
        while not future.done() and (call := self._first_wanted()) is not None:
            if call.begin():
                self._run(call)

    def _note_waiting(self) -> None:
        """Note that a worker starts to wait, for a future or in ``async_to_sync``."""
        with self._in_workers:
            self._waiting += 1
        # want() adds the call first and then looks at who waits; here it is the other way round.
        # So at least one of the two threads sees the other.
        self._start_spare_if_all_wait()

    def _note_going_on(self) -> None:
        with self._in_workers:
            self._waiting -= 1

    def want(self, call: Call[Any]) -> None:
        """Note that a job waits for a pending call."""
        self._wanted[call] = None
        self._start_spare_if_all_wait()

    def unwant(self, call: Call[Any]) -> None:
        """Note that a call is no longer pending."""
        self._wanted.pop(call, None)

    def _first_wanted(self) -> Call[Any] | None:
        while True:
            # Calls are added and removed without a lock, perhaps between iter() and next().
            with contextlib.suppress(RuntimeError):  # changed size during iteration
                return next(iter(self._wanted), None)

    def _start_spare_if_all_wait(self) -> bool:
        """Start a spare worker if needed; ``False`` if the system has no thread for it."""
        with self._in_workers:
            running = self._left()
            if not self._wanted or not 0 < running <= self._waiting:
                return True
            with contextlib.suppress(Exception):  # no more threads, files or memory
                name = f"{self._name}-spare-{len(self._spares)}"
                self._spares.append(start_thread(name, self._work_as_spare))
                return True
            return False

    def _work_as_spare(self) -> None:
        self._prepare_thread()
        while (call := self._next_wanted()) is not None:
            if call.begin():
                self._run(call)
            del call
        self._end_others_if_last()

    def _next_wanted(self) -> Call[Any] | None:
        """Return a call for this spare worker; ``None`` ends the worker."""
        with self._in_workers:
            others = self._left() - 1
            call = self._first_wanted()
            if call is None or self._waiting < others:
                # From here on, a job that wants a call does not count on this spare.
                self._spares.remove(threading.current_thread())
                del self._running[threading.get_ident()]
                return None
            self.unwant(call)
            return call

    def close(self, cancel_pending: bool) -> None:
        with self._lock:
            self._closed = True  # from now on, only spares start
        if cancel_pending:
            self._take_pending()
        self._end_taken(lambda call: call.cancel())
        self.queue.put(None)
        if not self._workers:
            self._loops.end()

    def threads(self) -> list[threading.Thread]:
        return [*self._workers, *self._spares, *self._callbacks.threads()]

    def abandon(self, seconds: float) -> None:
        """Fail pending and running calls."""
        self._take_pending()
        self._end_taken(lambda call: call.abandon(seconds))
        self.queue.put(None)
        for calls in self._running.copy().values():
            for call in calls.copy():
                call.abandon(seconds)

    def _take_pending(self) -> None:
        # The interpreter runs no signal handler in between, which may raise and lose a call.
        with contextlib.suppress(Empty):
            self._taken.extend(iter(self.queue.get_nowait, Empty))

    def _end_taken(self, end: Callable[[Call[Any]], object]) -> None:
        """End the calls taken from the queue, also those that an interrupted thread has taken."""
        for call in self._taken.copy():
            if call is not None:
                end(call)
            with contextlib.suppress(ValueError):  # another thread ends them as well
                self._taken.remove(call)
