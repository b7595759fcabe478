"""Threads that each keep one event loop alive, for coroutine jobs and async views.

The only module that creates event loops or imports asgiref.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context, ContextVar, copy_context
from functools import partial
from importlib import import_module
from types import FunctionType
from typing import Any, Generic, Protocol, TypeVar, cast
from weakref import ref

import asgiref.sync
from asgiref.current_thread_executor import CurrentThreadExecutor
from asgiref.sync import (
    AsyncToSync,
    SyncToAsync,
    ThreadSensitiveContext,
    iscoroutinefunction,
)

from .callers import line_of_caller
from .calls import Call, name_of
from .context import running_call
from .errors import DeadlockError, ExecutorClosedError, JobAbandonedError
from .futures import FutureProxy, LoopInbox, wait_here_with
from .threads import CLEANUP, DaemonPool, exit_has_begun, start_thread
from .watchdog import Watchdog

__all__ = (
    "LoopPool",
    "Resident",
    "ViewLoop",
    "has_loop_of_asgirefs",
    "is_async_callable",
    "loop_thread_here",
    "resident_here",
    "serves_this_thread",
    "stock_async_to_sync",
)

R = TypeVar("R")

_logger = logging.getLogger("flask_executor_typed")


_CO_COROUTINE = inspect.CO_COROUTINE


def is_async_callable(fn: Callable[..., object]) -> bool:
    """Whether calling ``fn`` gives a coroutine, as far as that can be told without calling it.

    It can for ``async def`` functions and methods, partials of them, objects with an ``async``
    ``__call__``, and what is marked as such (``asgiref.sync.sync_to_async``, for one).
    """
    if type(fn) is FunctionType and not fn.__dict__:  # the usual case, in a tenth of the time
        return bool(fn.__code__.co_flags & _CO_COROUTINE)
    # asgiref's function is inspect's on Python 3.12 and later; before, it knows its own mark too.
    return iscoroutinefunction(fn) or iscoroutinefunction(getattr(fn, "__call__", fn))  # noqa: B004


class LoopPool:
    """Loop threads, started one by one as they are needed. Every method is thread-safe."""

    def __init__(
        self,
        name: str,
        max_loops: int,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
        slow_callback: float | None = None,
    ) -> None:
        self._name = name
        self._new_loop = new_loop
        self._slow_callback = slow_callback
        self._max_loops = max_loops
        self._lock = threading.RLock()  # reentrant: a finalizer may shut down while it is held
        self._threads: list[_LoopThread] = []  # guarded by _lock; only grows
        self._only: _LoopThread | None = None  # the one there is, if there can be no more
        self._refusing = self._ended = False  # guarded by _lock

    def size(self) -> int:
        """How many loops run."""
        return sum(thread.alive for thread in list(self._threads))

    def submit(self, call: Call[Any]) -> None:
        """Run the coroutine function of ``call`` on the least busy loop. Never blocks.

        Raises:
            ExecutorClosedError: the pool was shut down.
        """
        (self._only or self._least_busy()).submit(call)

    def wait_for(self, awaitable: Awaitable[R]) -> R:
        """Await ``awaitable`` on a loop, for a plain thread, which blocks until it is done."""
        return self._least_busy().wait_for(awaitable)

    def call_later(self, seconds: float, fn: Callable[[], object]) -> Callable[[], object]:
        """Call ``fn`` on a loop after ``seconds``. Returns a function that prevents it."""
        return self._threads[0].call_later(seconds, fn)  # started before any worker

    def start_one(self) -> None:
        """Start a loop unless there is one."""
        if not self._threads:
            self._least_busy()

    def bridge_this_thread(
        self, waits: Callable[[], object], goes_on: Callable[[], object]
    ) -> None:
        """Make ``async_to_sync`` in this thread use a loop of the pool, not a new one per call."""
        # Where SyncToAsync notes the loop that called a thread, and AsyncToSync looks for it.
        bridge = _Bridge(self._least_busy().loop, waits, goes_on)
        SyncToAsync.threadlocal.main_event_loop = bridge
        SyncToAsync.threadlocal.main_event_loop_pid = os.getpid()

    def _least_busy(self) -> _LoopThread:
        threads = self._threads
        if len(threads) < self._max_loops and all(thread.busy for thread in threads):
            with self._lock:
                if self._ended:
                    raise ExecutorClosedError(self._name, exit_has_begun())
                if len(threads) < self._max_loops:
                    self._start_another()
        if len(threads) == 1:
            return threads[0]
        return min(threads, key=lambda thread: thread.busy)

    def _start_another(self) -> None:
        try:
            thread_name = f"{self._name}-loop-{len(self._threads)}"
            thread = _LoopThread(thread_name, self._name, self._new_loop, self._slow_callback)
        except Exception:  # no more threads or files, it is the end, or EXECUTOR_LOOP_FACTORY fails
            if not self._threads:
                raise
        else:
            self._threads.append(thread)
            self._only = thread if self._max_loops == 1 else None
            if self._refusing:  # it is for a plain job that still runs, not for calls
                thread.refuse(cancel_pending=False)

    def refuse(self, cancel_pending: bool) -> None:
        """Refuse calls from now on. The loops go on for what was accepted, until :meth:`end`."""
        with self._lock:
            self._refusing = True
        for thread in self._threads:
            thread.refuse(cancel_pending)

    def end(self) -> None:
        """End each loop when the calls that it has are done."""
        with self._lock:
            self._ended = True
        for thread in self._threads:
            thread.end()

    def abandon(self, seconds: float) -> None:
        """Fail the calls that are not done after ``seconds``, cancel them, and end each loop."""
        with self._lock:
            self._ended = True
            threads = self._threads.copy()
        for thread in threads:
            thread.abandon(seconds)

    def threads(self) -> list[threading.Thread]:
        """Those of the loops, and those that block for their coroutines."""
        return [each for thread in self._threads for each in thread.threads()]

    def join(self) -> None:
        """Wait until the loops have ended."""
        for thread in self._threads:
            thread.join()

    def blocked(self, seconds: float) -> list[threading.Thread]:
        """The threads whose loops do not get to anything new within ``seconds``. Blocks so long."""
        end = time.monotonic() + seconds
        asked = [(thread, thread.ask()) for thread in list(self._threads)]
        return [
            thread.thread
            for thread, answered in asked
            if not answered.wait(max(0.0, end - time.monotonic())) and thread.thread.is_alive()
        ]

    def serves_this_thread(self) -> bool:
        """Whether a call of the pool runs here: on a loop, or in a thread bridged to one."""
        here = _loops_here()
        return any(thread.loop in here for thread in self._threads)


class _Bridge:
    """A loop as asgiref uses it in a worker, which waits for each coroutine that it gives it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        waits: Callable[[], object],
        goes_on: Callable[[], object],
    ) -> None:
        self.loop = loop
        self.create_task = loop.create_task
        self._waits = waits
        self._goes_on = goes_on

    def call_soon_threadsafe(
        self, create_task: Callable[[Coroutine[Any, Any, None]], object], awaitable: Awaitable[None]
    ) -> None:
        run = self._run(awaitable)
        self._waits()
        try:
            self.loop.call_soon_threadsafe(create_task, run)
        except BaseException:  # the loop is closed, and asgiref makes another
            run.close()
            self._goes_on()
            raise

    async def _run(self, awaitable: Awaitable[None]) -> None:
        try:
            await awaitable
        finally:
            self._goes_on()


class Resident(Protocol):
    """What lives on a loop until the loop ends. The tasks that it starts do so too."""

    loop: asyncio.AbstractEventLoop

    async def close(self) -> None: ...


_resident: ContextVar[Resident | None] = ContextVar("resident", default=None)
"""Whose the running code is, if it is a resident's. Elsewhere than on its loop it means nothing."""


_BLOCKING_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""For ``asyncio.to_thread``, on each loop; as many as asyncio has."""


class _LoopThread:
    """One event loop and the thread that runs it."""

    def __init__(
        self,
        name: str,
        pool_name: str,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None,
        slow_callback: float | None = None,
    ) -> None:
        # In a context of its own: the loop keeps the one that it is made in as long as it lives,
        # and we are called from a view.
        self.loop: asyncio.AbstractEventLoop = Context().run(
            _made_by, new_loop or _new_loop_of_uvloop_or_asyncio
        )
        self._pool_name = pool_name
        self._slow_callback = slow_callback
        self._inbox = LoopInbox(self.loop)
        self._refusing = False  # these two are set once, and never unset
        self._cancels_pending = False
        # Only the loop's thread touches what follows.
        self._calls: set[Call[Any]] = set()  # that run; asyncio keeps only weak references to tasks
        self._ending = False
        self._finishing: asyncio.Task[None] | None = None
        self._patience: float | None = None  # seconds for what is cancelled, if not for ever
        self._ended = False
        self.residents: dict[object, Resident] = {}  # by what they were made for, oldest first
        self._residents_tasks: set[asyncio.Task[Any]] = set()
        self._blocking = DaemonPool(f"{name}-blocking", _BLOCKING_THREADS)
        self.loop.set_default_executor(self._blocking)
        self._sensitive_pools: set[ref[DaemonPool]] = set()  # for whose tasks still live
        _loop_threads[self.loop] = self
        try:
            self._thread = start_thread(name, self._main)
        except BaseException:
            del _loop_threads[self.loop]
            self.loop.close()
            raise

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def busy(self) -> int:
        """Calls that run here or are about to; exact only in the loop's own thread."""
        return len(self._calls) + len(self._inbox)

    def submit(self, call: Call[Any]) -> None:
        future = call.future  # the call forgets it when it is done, which may be any moment now
        call.inbox, future._interruptible = self._inbox, call
        if not self._refusing:
            self._inbox.post(self._start, call)
            if not self._refusing:
                return
        # refuse() came in between, and the loop may or may not get to what was posted just now.
        # Whoever takes the right to start decides: if the loop has, the call was accepted.
        if future._refuse():
            raise ExecutorClosedError(self._pool_name, exit_has_begun())

    def wait_for(self, awaitable: Awaitable[R]) -> R:
        outcome: FutureProxy[R] = FutureProxy()
        # asyncio keeps only weak references to tasks; this one lives as long as we wait for it.
        tasks: list[asyncio.Task[None]] = []
        run = _settle(outcome, awaitable)
        starts = [partial(_create_task, run, loop=self.loop, context=copy_context())]
        self._inbox.post(lambda: tasks.append(starts.pop()()))
        try:
            return outcome.result()
        finally:
            # See FutureProxy.result(). And the task has contexts.
            del outcome
            tasks.clear()

    def call_later(self, seconds: float, fn: Callable[[], object]) -> Callable[[], object]:
        when = self.loop.time() + seconds
        handles: list[asyncio.Handle] = []  # only the loop's thread touches it

        def cancel() -> None:
            handles.pop().cancel()

        self._inbox.post(lambda: handles.append(self.loop.call_at(when, fn, context=Context())))
        return lambda: self._inbox.post(cancel)  # posts come in order

    @property
    def thread(self) -> threading.Thread:
        return self._thread

    def ask(self) -> threading.Event:
        """An event that is set when the loop gets to it; at once in its own thread."""
        answered = threading.Event()
        if threading.current_thread() is self._thread:
            answered.set()
        else:
            self._inbox.post(answered.set)
        return answered

    def refuse(self, cancel_pending: bool) -> None:
        self._cancels_pending |= cancel_pending
        self._refusing = True

    def end(self) -> None:
        self._inbox.post(self._end)

    def abandon(self, seconds: float) -> None:
        """Fail the calls that are not done after ``seconds``, and end when they have cleaned up."""
        # Here, for a loop that is blocked. What the loop begins while we look it finds itself.
        posted = [args[0] for fn, args in self._inbox.waiting() if fn == self._start]
        for call in [*posted, *self._calls.copy()]:
            call.abandon(seconds)
        self._inbox.post(self._hurry, seconds)

    def threads(self) -> list[threading.Thread]:
        return [self._thread, *(thread for pool in self._pools() for thread in pool.threads())]

    def _pools(self) -> list[DaemonPool]:
        pools = (reference() for reference in self._sensitive_pools.copy())
        return [self._blocking, *(pool for pool in pools if pool is not None)]

    def sensitive_pool(self) -> DaemonPool:
        """A thread for what one task here runs in ``sync_to_async``."""
        pool = DaemonPool(f"{self._pool_name}-sensitive", 1)
        self._sensitive_pools.add(ref(pool, self._sensitive_pools.discard))
        return pool

    def join(self) -> None:
        self._thread.join()

    def _start(self, call: Call[Any]) -> None:
        if self._cancels_pending:
            call.future.cancel()
        if call.begin():
            self._calls.add(call)
            run = call.run_async(self, _use_own_sensitive_thread)
            # No name for the context, which what the job raises would keep by way of this frame.
            _create_task(run, loop=self.loop, context=call.variables.copy())

    def call_is_over(self, call: Call[Any]) -> None:
        self._calls.discard(call)
        if self._ending:
            self._finish_when_idle()

    def _end(self) -> None:
        # What was accepted was posted before this, and has started.
        self._ending = True
        self._finish_when_idle()

    def _finish_when_idle(self) -> None:
        if self._ending and not self._calls:
            self._finish_if_none_does()

    def _hurry(self, seconds: float) -> None:
        for call in self._calls.copy():
            call.abandon(seconds)
        self._ending = True
        self._patience = CLEANUP / 8
        self._finish_when_idle()
        # Those that refuse to be cancelled do not keep the others' resources from being closed.
        self.loop.call_later(CLEANUP / 4, self._finish_if_none_does, context=Context())

    def _finish_if_none_does(self) -> None:
        if self._finishing is None:
            # Not by the loop, whose factory would take it for a task of the view that runs. And in
            # a context of its own: it stays, and the last job's has an app.
            self._finishing = Context().run(lambda: asyncio.Task(self._finish(), loop=self.loop))

    def _has_blocking_threads(self) -> bool:
        """Whether the pool of ``asyncio.to_thread`` has any, or is another that a job has set."""
        pool = getattr(self.loop, "_default_executor", self._blocking)  # uvloop does not tell
        return pool is not self._blocking or bool(self._blocking.threads())

    async def _finish(self) -> None:
        """Cancel what jobs left behind on the loop and let it clean up, as ``asyncio.run`` does."""
        try:
            # First what may still use a resident: a pool waits until it has its connections back.
            await _cancel_and_wait(asyncio.all_tasks() - self._residents_tasks, self._patience)
            while self.residents:
                _, newest = self.residents.popitem()
                closing = asyncio.Task(newest.close(), loop=self.loop)
                await asyncio.wait([closing], timeout=self._patience)
            await _cancel_and_wait(asyncio.all_tasks(), self._patience)
            await self.loop.shutdown_asyncgens()
            if self._patience is None and self._has_blocking_threads():
                with contextlib.suppress(RuntimeError):  # Python 3.12 starts no thread at exit
                    await self.loop.shutdown_default_executor()
        finally:
            for pool in self._pools():
                pool.shutdown(wait=False)
            self._ended = True
            self.loop.stop()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._forbid_blocking()
        watchdog = None
        if self._slow_callback is not None:
            name = threading.current_thread().name
            watchdog = Watchdog(self.loop, name, self._slow_callback, self._running)
        pause = 0.01
        try:
            while not self._ended:
                # Neither a job that stops the loop ends it for the others, nor a task of a job's
                # own that raises SystemExit or KeyboardInterrupt.
                try:
                    self.loop.run_forever()
                except (SystemExit, KeyboardInterrupt):
                    _logger.exception("a task ended the loop of %s; it goes on", self._pool_name)
                except BaseException:
                    # Of the loop itself, whose files a job has closed, say: perhaps each time.
                    _logger.exception("the loop of %s failed; it goes on", self._pool_name)
                    time.sleep(pause)
                    pause = min(2 * pause, 60)
        finally:
            asyncio.set_event_loop(None)
            _loop_threads.pop(self.loop, None)
            self.loop.set_task_factory(None)  # it refers to us
            self.loop.close()
            if watchdog is not None:
                watchdog.end()

    def _forbid_blocking(self) -> None:
        wait_here_with(_refuse_to_block)

    def _running(self) -> FutureProxy[Any] | None:
        """The future of the job that keeps the loop busy, for another thread to see."""
        task = asyncio.current_task(self.loop)
        call = next((call for call in list(self._calls) if call.task is task), None)
        if call is None and task is not None and sys.version_info >= (3, 12):
            call = task.get_context().get(running_call)  # of a task that a job has started
        return getattr(call, "future", None)  # it may be over by now

    # -- residents, all in the loop's thread -----------------------------------------------------

    def admit(
        self, key: object, resident: Resident, living: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        """Let ``resident`` live here as long as the coroutine runs, in contexts of its own."""
        self.loop.set_task_factory(self._make_task)
        self.residents[key] = resident
        context = Context()  # not the view's or the job's, which would live as long
        context.run(_resident.set, resident)
        context.run(_use_own_sensitive_thread)
        return context.run(self.loop.create_task, living)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        if self._runs_resident():
            self._note_residents(task)
        else:
            self._note(task)
        return task

    def _runs_resident(self) -> bool:
        resident = _resident.get()
        return resident is not None and resident.loop is self.loop

    def _note_residents(self, task: asyncio.Task[Any]) -> None:
        self._residents_tasks.add(task)
        task.add_done_callback(self._residents_tasks.discard)

    def _note(self, task: asyncio.Task[Any]) -> None:
        """A task was started that is no resident's."""


class _WaitingThread(Generic[R]):
    """A thread that waits for a view, which is a future to asgiref.

    Few views have thread-sensitive code, so the thread waits on a plain lock, and with asgiref's
    executor only from the moment when somebody wants that.
    """

    __slots__ = (
        "_callback",
        "_error",
        "_executor",
        "_lock",
        "_over",
        "_result",
        "_wanted",
        "_woken",
        "context",
        "task",
    )

    def __init__(self, lock: threading.Lock) -> None:
        self.task: asyncio.Task[None] | None = None  # asyncio keeps only weak references
        self.context: Context | None = None  # as the view left it
        self._result: Any = None
        self._error: BaseException | None = None
        self._callback: Callable[[Any], object] | None = None
        self._lock = lock
        self._over = self._wanted = False  # guarded by _lock; never unset
        self._woken = threading.Lock()  # released with the first of these two
        self._woken.acquire()
        self._executor = _this_thread.spare or CurrentThreadExecutor(None)
        _this_thread.spare = None

    def wait(self) -> R:
        """Block until the view is over, and return or raise what it did."""
        self._woken.acquire()
        if self._wanted:
            self._run_code()
        else:
            _this_thread.spare = self._executor
        try:
            if self._error is not None:
                raise self._error
            result: R = self._result
            return result
        finally:
            self._error = None  # its traceback refers to us

    def _run_code(self) -> None:
        here = SyncToAsync.threadlocal
        before = getattr(here, "main_event_loop", None), getattr(here, "task_context", None)
        try:
            self._executor.run_until_future(cast("Future[R]", self))
        finally:
            here.main_event_loop, here.task_context = before  # the code has left these behind

    def set_result(self, result: R) -> None:
        self._result = result

    def set_exception(self, error: BaseException) -> None:
        self._error = error

    def announce(self) -> None:
        with self._lock:
            self._over = True
        if not self._wanted:
            self._woken.release()
        elif self._callback is not None:
            self._callback(self)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        # In another thread than announce(), so perhaps both call it; asgiref's does not mind.
        self._callback = fn
        if self._over:
            fn(self)

    def executor(self) -> CurrentThreadExecutor | None:
        """What runs code in this thread, or ``None`` if it has not waited with one."""
        # The view may end meanwhile, if this is not its loop. Whoever is first takes the lock: then
        # the thread runs what the caller submits, or nobody would ever run it.
        with self._lock:
            if not self._wanted:
                if self._over:
                    return None
                self._wanted = True
                self._woken.release()
        return self._executor


class _ThreadOfView:
    """To asgiref, the executor for thread-sensitive code of all views of a loop.

    It is that of the thread that waits for the view that runs.
    """

    def __init__(self) -> None:
        self.waiting: _WaitingThread[Any] | None = None
        self.running: set[int] = set()  # numbers of views; a view may outlive its thread's wait

    def __getattr__(self, name: str) -> Any:
        """``submit``, and what the executor of a nested ``async_to_sync`` looks at."""
        number, waiting, executor = _view_number.get(), self.waiting, None
        # If the view is over whose code this is, another request's thread waits.
        if waiting is not None and (number is None or number in self.running):
            executor = waiting.executor()
        if executor is None:
            raise RuntimeError("the async view is over in whose thread this code was to run")
        return getattr(executor, name)


_view_numbers = itertools.count()
_view_number: ContextVar[int | None] = ContextVar("flask_executor_typed_view", default=None)
"""Of the view whose code runs here. A number, which keeps nothing in contexts that outlive it."""


class _ThisThread(threading.local):
    spare: CurrentThreadExecutor | None = None
    """One that nobody has looked at, so that it is as good as new."""


_this_thread = _ThisThread()


class ViewLoop(_LoopThread):
    """A loop for coroutines that other threads wait for, one at a time: async views."""

    def __init__(
        self, name: str, pool_name: str, new_loop: Callable[[], asyncio.AbstractEventLoop] | None
    ) -> None:
        # What the view has started. Only the loop's thread touches the tasks.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._generators: dict[int, ref[AsyncGenerator[Any, Any]]] = {}  # by id
        # Generators that nothing refers to any more, and whether they are the view's; and the tasks
        # that close those of the view.
        self._dropped: deque[tuple[AsyncGenerator[Any, Any], bool]] = deque()
        self._closing: set[asyncio.Task[Any]] = set()
        self._loops_firstiter: Callable[[AsyncGenerator[Any, Any]], object] | None = None
        self._abandoned: float | None = None  # after so many seconds of a shutdown; set once
        self._lock = threading.Lock()  # of threads that wait
        self._context = Context()  # for what starts views; entered by the loop's thread only
        self._thread_of_view: Any = _ThreadOfView()
        self._value_for_views: Any = None  # of the context variable by which code finds that
        super().__init__(name, pool_name, new_loop)
        self.loop.set_task_factory(self._make_task)

    def _forbid_blocking(self) -> None:
        """A view that blocks delays only itself."""

    def runs_here(self) -> bool:
        """Whether its view runs this code."""
        return self.loop in _loops_here()

    def abandon(self, seconds: float) -> None:
        if self._abandoned is None:
            self._abandoned = seconds
        super().abandon(seconds)

    def run(self, fn: Callable[..., Awaitable[R]], args: Any, kwargs: Any) -> R:
        """Call ``fn`` on the loop, and serve its thread-sensitive code until it is done.

        What ``async_to_sync`` does, and in such a way that asgiref's other parts know where they
        are. By itself it takes three turns of the loop; that was half of the overhead.
        """
        coroutine, error = fn(*args, **kwargs), sys.exc_info()[1]
        waiting = _WaitingThread[R](self._lock)
        before, self._thread_of_view.waiting = self._thread_of_view.waiting, waiting
        # For tasks without our context.
        AsyncToSync.loop_thread_executors[self.loop] = self._thread_of_view
        try:
            self.loop.call_soon_threadsafe(
                self._start_view,
                self._run_view(coroutine, waiting, error),
                waiting,
                copy_context(),
                context=self._context,
            )
            return waiting.wait()
        except asyncio.CancelledError as cancelled:
            if self._abandoned is None:
                raise
            # No server expects a CancelledError, and gunicorn's worker would end with it.
            raise JobAbandonedError(name_of(fn), self._abandoned, begun=True) from cancelled
        finally:
            AsyncToSync.loop_thread_executors.pop(self.loop, None)
            self._thread_of_view.waiting = before
            if waiting.context is not None:
                _adopt(waiting.context)

    def _start_view(
        self, view: Coroutine[Any, Any, None], waiting: _WaitingThread[Any], context: Context
    ) -> None:
        self._watch_generators()
        waiting.task = _create_task(view, loop=self.loop, context=context)

    async def _run_view(
        self, coroutine: Awaitable[R], waiting: _WaitingThread[R], error: BaseException | None
    ) -> None:
        number = next(_view_numbers)
        self._thread_of_view.running.add(number)
        try:
            try:
                _adopt(copy_context())
                _view_number.set(number)
                self._let_code_find_its_thread()
                if error is None:
                    result = await coroutine
                else:
                    try:
                        raise error  # so that the view finds it in sys.exc_info()
                    except BaseException:
                        result = await coroutine
            except BaseException as raised:
                waiting.set_exception(raised)
            else:
                waiting.set_result(result)
            waiting.context = copy_context()
            if self._tasks or self._generators or self._dropped or self._closing:
                await self._clean_up()
        finally:
            self._thread_of_view.running.discard(number)
            waiting.announce()

    def _let_code_find_its_thread(self) -> None:
        if self._value_for_views is None:
            AsyncToSync.executors.current = self._thread_of_view
            self._value_for_views = _waiting_thread.get()  # which is for this thread
        else:
            _waiting_thread.set(self._value_for_views)  # the same, but costs a tenth

    async def _clean_up(self) -> None:
        """End what a view left behind as ``asyncio.run`` does in stock Flask: tasks go first.

        But what closes a generator is not cancelled, which before Python 3.13 cuts it short.
        """
        await _cancel_and_wait(self._tasks)
        generators, self._generators = self._generators, {}
        left = [generator for each in list(generators.values()) if (generator := each())]
        self._close_dropped()  # those that the view dropped in its last moment, and those tasks
        results = await asyncio.gather(*(each.aclose() for each in left), return_exceptions=True)
        for generator, error in zip(left, results, strict=True):
            if isinstance(error, Exception):
                self.loop.call_exception_handler(
                    {
                        "message": f"closing {generator!r}, which a view left open, failed",
                        "exception": error,
                        "asyncgen": generator,
                    }
                )
        if self._closing:
            await asyncio.wait(self._closing)

    def _note(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- asynchronous generators -----------------------------------------------------------------

    def _watch_generators(self) -> None:
        hooks = sys.get_asyncgen_hooks()
        if hooks.firstiter != self._generator_begins:  # the loop sets its own when it (re)starts
            self._loops_firstiter = hooks.firstiter
            sys.set_asyncgen_hooks(self._generator_begins, self._generator_is_dropped)

    def _generator_begins(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._runs_resident():
            self._generators.pop(id(generator), None)  # of one that is gone
        else:
            self._generators[id(generator)] = ref(generator)
        if self._loops_firstiter is not None:
            self._loops_firstiter(generator)

    def _generator_is_dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        # The loop's own hook would start a task that looks like one of the view that runs by then.
        # Garbage is collected in any thread and between any two lines, so only take a note here.
        if not self.loop.is_closed():
            of_view = self._generators.pop(id(generator), None) is not None
            self._dropped.append((generator, of_view))
            self.loop.call_soon_threadsafe(self._close_dropped)

    def _close_dropped(self) -> None:
        while self._dropped:
            generator, of_view = self._dropped.popleft()
            closing = asyncio.Task(generator.aclose(), loop=self.loop)
            if of_view:
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            else:  # a resident's, or of a view that is over
                self._note_residents(closing)


async def _cancel_and_wait(tasks: set[asyncio.Task[Any]], timeout: float | None = None) -> None:
    """Cancel tasks, but for the one that runs this, and let them clean up, until time is up.

    What they raise is theirs to report.
    """
    others = {task for task in tasks if task is not asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=timeout)


_loop_threads: dict[asyncio.AbstractEventLoop, _LoopThread] = {}  # until the loop ends
_importing = threading.RLock()  # held while uvloop is imported, and at a fork


def _finish_imports() -> None:
    """Before a fork: a child cannot import what another thread of its parent was importing."""
    _importing.acquire()


def _go_on() -> None:
    _importing.release()


def _forget_parent() -> None:
    global _importing  # noqa: PLW0603
    _loop_threads.clear()
    _importing = threading.RLock()  # not released: uWSGI calls this without what comes before


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_finish_imports, after_in_parent=_go_on, after_in_child=_forget_parent
    )


def loop_thread_here() -> _LoopThread | None:
    """What runs this code, if it runs on a loop of this package."""
    loop = asyncio._get_running_loop()
    return None if loop is None else _loop_threads.get(loop)


def resident_here() -> Resident | None:
    """The resident that runs this code, if one does."""
    return _resident.get()


def _loops_here() -> tuple[asyncio.AbstractEventLoop | None, asyncio.AbstractEventLoop | None]:
    """The loop that runs in this thread, and the one that ``async_to_sync`` would use."""
    of_asgiref = getattr(SyncToAsync.threadlocal, "main_event_loop", None)
    bridged = of_asgiref.loop if isinstance(of_asgiref, _Bridge) else of_asgiref
    return asyncio._get_running_loop(), bridged


def serves_this_thread() -> bool:
    """Whether any loop of this package runs this code, or waits for it."""
    return any(loop in _loop_threads for loop in _loops_here() if loop is not None)


def has_loop_of_asgirefs() -> bool:
    """Whether ``async_to_sync`` is to find the loop itself: this code was called by one.

    Or it is to refuse, because a loop runs in this very thread.
    """
    running, bridged = _loops_here()
    if running is not None or AsyncToSync.async_single_thread_context.get(None) is not None:
        return True
    if bridged is None or not bridged.is_running():
        return False
    # Code of an async view, in the thread that waits for it, or of a job. But not a whole request
    # that an ASGI server handed to a thread: its loop is the server's, and serves all requests.
    return bridged in _loop_threads or getattr(AsyncToSync.executors, "current", None) is not None


def stock_async_to_sync(fn: Callable[..., Awaitable[R]]) -> Callable[..., R]:
    """What ``Flask.async_to_sync`` returns."""
    return AsyncToSync(fn)


def _refuse_to_block(future: FutureProxy[Any], timeout: float | None) -> None:
    # Even if the call needs no loop: nobody can know, and all the other jobs here would wait too.
    raise DeadlockError(
        line_of_caller(),
        future.name,
        "which would stop the event loop that runs this job and may have to run that one; "
        "use 'await future'",
    )


def _new_loop_of_uvloop_or_asyncio() -> asyncio.AbstractEventLoop:
    """What makes event loops unless ``EXECUTOR_LOOP_FACTORY`` says otherwise."""
    try:
        with _importing:
            uvloop: Any = import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _made_by(new_loop: Callable[[], object]) -> asyncio.AbstractEventLoop:
    loop = new_loop()
    if not isinstance(loop, asyncio.AbstractEventLoop) or loop.is_running() or loop.is_closed():
        raise TypeError(
            f"EXECUTOR_LOOP_FACTORY: {new_loop!r} returned {loop!r}: expected a new event loop"
        )
    return loop


async def _settle(outcome: FutureProxy[R], awaitable: Awaitable[R]) -> None:
    _use_own_sensitive_thread()
    try:
        result = await awaitable
    except BaseException as error:  # SystemExit too: asyncio would end the loop with it
        outcome._fail(error)
    else:
        outcome._succeed(result)
    finally:
        del outcome  # see FutureProxy.result()


def _variable_of_waiting_thread() -> tuple[ContextVar[Any], type[object]]:
    """The variable by which ``sync_to_async`` finds the thread that waits in ``async_to_sync``.

    And the type of its value, which that of any ``Local`` of asgiref has.
    """
    context = Context()
    context.run(setattr, AsyncToSync.executors, "current", None)
    variable: ContextVar[object] = next(iter(context))
    return variable, type(context[variable])


_waiting_thread, _TypeOfLocals = _variable_of_waiting_thread()


def _adopt(context: Context) -> None:
    """Give the context variables here the values that they have in ``context``.

    But for those that tell whose code runs here, and which thread waits for it.
    """
    missing = object()
    for variable, value in context.items():
        if variable is _waiting_thread or variable is _view_number:
            continue
        if type(value) is _TypeOfLocals:
            waiting, number = _waiting_thread.get(None), _view_number.get()
            asgiref.sync._restore_context(context)
            _waiting_thread.set(waiting)
            _view_number.set(number)
            return
        if variable.get(missing) is not value:
            variable.set(value)


class _OwnThread(ThreadSensitiveContext):
    """Stands for a task's thread. A shutdown can leave it behind, which asgiref's own it cannot."""

    def __init__(self) -> None:
        """Nothing, for the many jobs whose thread nobody asks for."""

    def __getattr__(self, name: str) -> Any:
        if not self.__dict__:  # somebody does now
            super().__init__()
        return object.__getattribute__(self, name)

    def __bool__(self) -> bool:
        # asgiref asks whether there is a context, and then for its executor. If it asks in some
        # other way one day, it makes the executor itself.
        pools: Any = SyncToAsync.context_to_thread_executor
        thread = loop_thread_here()
        if thread is not None and self not in pools:
            pools[self] = thread.sensitive_pool()
        return True


def _use_own_sensitive_thread() -> None:
    """Give the current task a thread of its own for thread-sensitive ``sync_to_async``.

    Otherwise all tasks of the process share one, or a job uses that of the view which submitted it,
    and which may have returned. asgiref makes the thread when it is first used, and ends it when
    the variable's value is freed with the task's context.
    """
    SyncToAsync.thread_sensitive_context.set(_OwnThread())
    if _waiting_thread.get(None) is not None:
        AsyncToSync.executors.current = None


# Tasks of our own are not made by the loop, whose factory is for those that a view or a job starts.
if sys.version_info >= (3, 12):
    # Eager: a coroutine that never waits is done here and now, without a turn of the loop.
    _create_task: Callable[..., asyncio.Task[None]] = partial(asyncio.Task, eager_start=True)

elif sys.version_info >= (3, 11):

    def _create_task(
        coroutine: Coroutine[Any, Any, None], *, loop: asyncio.AbstractEventLoop, context: Context
    ) -> asyncio.Task[None]:
        return asyncio.Task(coroutine, loop=loop, context=context)

else:

    def _create_task(
        coroutine: Coroutine[Any, Any, None], *, loop: asyncio.AbstractEventLoop, context: Context
    ) -> asyncio.Task[None]:
        return context.run(lambda: asyncio.Task(coroutine, loop=loop))  # which copies it
