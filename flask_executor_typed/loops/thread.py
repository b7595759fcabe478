"""A thread that keeps one event loop alive, starts jobs on it, cancels them, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

from ..calls import Call
from ..context import running_call
from ..errors import DeadlockError, ExecutorClosedError
from ..futures import FutureProxy, call_back_by, wait_here_with
from ..runtime.exit import CLEANUP, exit_has_begun
from ..runtime.frames import line_of_caller
from ..runtime.loop_inbox import LoopInbox
from ..runtime.threads import DaemonPool, start_thread
from .current import Resident, loop_threads, running_resident, runs_resident_of
from .factory import make_loop
from .tasks import cancel_and_wait, create_task
from .thread_sensitive import (
    SensitiveThreads,
    outside_of_sensitive_contexts,
    use_own_sensitive_thread,
)
from .watchdog import Watchdog

__all__ = ("LoopThread",)

R = TypeVar("R")

_logger = logging.getLogger("flask_executor_typed")

_BLOCKING_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""For ``asyncio.to_thread``, on each loop; as many as asyncio has. As many again for callbacks."""


class LoopThread:
    """One event loop and the thread that runs it."""

    def __init__(
        self,
        name: str,
        pool_name: str,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None,
        slow_callback: float | None = None,
    ) -> None:
        # In an empty context: a loop keeps the context it is created in for as long as it lives,
        # and this may be called from a view.
        self.loop: asyncio.AbstractEventLoop = Context().run(make_loop, new_loop)
        self._pool_name = pool_name
        self._slow_callback = slow_callback
        self._inbox = LoopInbox(self.loop)
        self._refusing = False  # both are set once and never unset
        self._cancels_pending = False
        # Only the loop's thread changes the following, except for garbage; others take copies.
        self._calls: set[Call[Any]] = set()  # running; asyncio keeps only weak references to tasks
        self._ending = False
        self._finishing: asyncio.Task[None] | None = None
        self._patience: float | None = None  # seconds for cancelled tasks to end; None: forever
        self._ended = False
        # The call behind each task that a job started; the watchdog's thread looks them up.
        self._calls_of_tasks: WeakKeyDictionary[asyncio.Task[Any], Any] = WeakKeyDictionary()
        self.residents: dict[object, Resident] = {}  # by their resource, oldest first
        self._residents_tasks: set[asyncio.Task[Any]] = set()
        self._blocking = DaemonPool(f"{name}-blocking", _BLOCKING_THREADS)
        self.loop.set_default_executor(self._blocking)
        # Apart from those, which jobs can fill with code that waits for a callback.
        self._callbacks = DaemonPool(f"{name}-callbacks", _BLOCKING_THREADS)
        self._sensitive = SensitiveThreads(self._sensitive_pool)
        self._sensitive_pools: set[ref[DaemonPool]] = set()  # of tasks that are still alive
        loop_threads[self.loop] = self
        try:
            self._thread = start_thread(name, self._main)
        except BaseException:
            del loop_threads[self.loop]
            self.loop.close()
            raise

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def busy(self) -> int:
        """The number of calls running here or about to; exact only in the loop's own thread."""
        return len(self._calls) + len(self._inbox)

    def submit(self, call: Call[Any]) -> None:
        call.interrupter = self
        try:
            if not self._refusing and self._inbox.post(self._start, call) and not self._refusing:
                return
        except BaseException:
            call.refuse()  # it may have been posted, although submit() raises
            raise
        # Either the loop is closed, or refuse() was called in between and the loop may or may not
        # get to the call. The right to start decides: if the loop has it, the call was accepted.
        if call.refuse():
            raise ExecutorClosedError(self._pool_name, exit_has_begun())

    def wait_for(self, awaitable: Awaitable[R]) -> R:
        outcome: FutureProxy[R] = FutureProxy()
        # asyncio keeps only weak references to tasks; this keeps ours alive while we wait.
        tasks: list[asyncio.Task[None]] = []
        run = _settle(outcome, awaitable)
        starts = [
            partial(
                create_task,
                run,
                loop=self.loop,
                context=outside_of_sensitive_contexts(copy_context()),
            )
        ]
        self._inbox.post(lambda: tasks.append(starts.pop()()))
        try:
            return outcome.result()
        finally:
            # See FutureProxy.result(). The task also keeps contexts alive.
            del outcome
            tasks.clear()

    @property
    def thread(self) -> threading.Thread:
        return self._thread

    def ask(self) -> threading.Event:
        """Return an event that is set as soon as the loop is free; at once in its own thread."""
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
        """Fail the calls that are not done after ``seconds``; end once they have cleaned up."""
        # In this thread, since the loop may be blocked. _hurry() finds what it starts meanwhile.
        posted = [args[0] for fn, args in self._inbox.waiting() if fn == self._start]
        for call in [*posted, *self._calls.copy()]:
            call.abandon(seconds)
        self._inbox.post(self._hurry, seconds)

    def threads(self) -> list[threading.Thread]:
        return [self._thread, *(thread for pool in self._pools() for thread in pool.threads())]

    def _pools(self) -> list[DaemonPool]:
        pools = (reference() for reference in self._sensitive_pools.copy())
        own = (self._blocking, self._callbacks)
        return [*own, *(pool for pool in pools if pool is not None)]

    def _sensitive_pool(self) -> DaemonPool:
        """Return a pool of one thread, for what one task runs in ``sync_to_async``."""
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
            run = call.run_async(self, use_own_sensitive_thread)
            # No name for the context: a job's exception would keep it alive through this frame.
            create_task(
                run,
                loop=self.loop,
                context=outside_of_sensitive_contexts(call.variables.copy()),
            )

    # -- for cancel() ----------------------------------------------------------------------------

    backend = "a loop"

    def can_interrupt(self, call: Call[Any], *, kill: bool) -> bool:
        return True

    def interrupt(self, call: Call[Any], *, kill: bool = False) -> None:
        self._inbox.post(_cancel_task, call)

    def ask_to_end(self, call: Call[Any]) -> None:
        """Do nothing: a coroutine can always be stopped."""

    def call_is_over(self, call: Call[Any]) -> None:
        self._calls.discard(call)
        if self._ending:
            self._finish_when_idle()

    def _end(self) -> None:
        # Accepted calls were posted before this, so they have started.
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
        # Jobs that resist cancellation must not keep the resources of others open.
        self.loop.call_later(CLEANUP / 4, self._finish_if_none_does, context=Context())

    def _finish_if_none_does(self) -> None:
        if self._finishing is None:
            # Not created by the loop, whose factory would attribute it to the running view. In an
            # empty context, because the task stays and the last job's context refers to an app.
            self._finishing = Context().run(lambda: asyncio.Task(self._finish(), loop=self.loop))

    def _has_blocking_threads(self) -> bool:
        """Return whether ``asyncio.to_thread`` has used a thread, or a pool set by a job."""
        pool = getattr(
            self.loop, "_default_executor", self._blocking
        )  # uvloop has no such attribute
        return pool is not self._blocking or bool(self._blocking.threads())

    async def _finish(self) -> None:
        """Cancel the tasks that jobs left behind and let them clean up, as ``asyncio.run`` does."""
        try:
            # First the tasks that may still use a resident: a pool waits for its connections.
            await cancel_and_wait(asyncio.all_tasks() - self._residents_tasks, self._patience)
            while self.residents:
                _, newest = self.residents.popitem()
                closing = asyncio.Task(newest.close(), loop=self.loop)
                await asyncio.wait([closing], timeout=self._patience)
            await cancel_and_wait(asyncio.all_tasks(), self._patience)
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
        call_back_by(self._callbacks.submit)
        self._sensitive.serve(self.loop)
        watchdog = None
        if self._slow_callback is not None:
            self.loop.set_task_factory(self._make_task)
            name = threading.current_thread().name
            watchdog = Watchdog(self.loop, name, self._slow_callback, self._running)
        pause = 0.01
        try:
            while not self._ended:
                # A job may stop the loop, or start a task that raises SystemExit or
                # KeyboardInterrupt. Neither may end it for the other jobs.
                try:
                    self.loop.run_forever()
                except (SystemExit, KeyboardInterrupt):
                    _logger.exception("a task ended the loop of %s; it continues", self._pool_name)
                except BaseException:
                    # The loop itself failed, possibly for good: a job may have closed its files.
                    _logger.exception("the loop of %s failed; it continues", self._pool_name)
                    time.sleep(pause)
                    pause = min(2 * pause, 60)
        finally:
            asyncio.set_event_loop(None)
            loop_threads.pop(self.loop, None)
            self._sensitive.stop_serving(self.loop)
            self.loop.set_task_factory(None)  # it refers to us
            self.loop.close()
            if watchdog is not None:
                watchdog.end()

    def _forbid_blocking(self) -> None:
        wait_here_with(_refuse_to_block)

    def _running(self) -> FutureProxy[Any] | None:
        """Return the future of the job that occupies the loop. Called by the watchdog's thread."""
        task = asyncio.current_task(self.loop)
        if task is None:
            return None
        calls = list(self._calls)
        call = next((call for call in calls if getattr(call, "task", None) is task), None)
        if call is None:
            call = self._calls_of_tasks.get(task)
        return None if call is None or call.is_over else call.future

    # -- residents, all in the loop's thread -----------------------------------------------------

    def admit(
        self, key: object, resident: Resident, living: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        """Let ``resident`` live here while the coroutine runs, in contexts of its own."""
        self.loop.set_task_factory(self._make_task)
        self.residents[key] = resident
        context = Context()  # not the view's or the job's, which it would keep alive
        context.run(running_resident.set, resident)
        context.run(use_own_sensitive_thread)
        return context.run(self.loop.create_task, living)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        if runs_resident_of(self.loop):
            self._note_residents(task)
        else:
            self._note(task)
        return task

    def _note_residents(self, task: asyncio.Task[Any]) -> None:
        self._residents_tasks.add(task)
        task.add_done_callback(self._residents_tasks.discard)

    def _note(self, task: asyncio.Task[Any]) -> None:
        """Note the job that started a task, unless a resident did."""
        # Now, because the watchdog's thread must not look into a running task's context later:
        # that crashes a free-threaded interpreter (CPython 3.14).
        if self._slow_callback is not None and (call := running_call.get()) is not None:
            self._calls_of_tasks[task] = call


def _cancel_task(call: Call[Any]) -> None:
    task = getattr(call, "task", None)  # not there before the call's first step
    if task is not None:
        task.cancel()


def _refuse_to_block(future: FutureProxy[Any], timeout: float | None) -> None:
    # Even if the call needs no loop: that cannot be known, and all other jobs here would wait too.
    raise DeadlockError(
        line_of_caller(),
        future.name,
        "which would stop the event loop that runs this job and may have to run that one; "
        "use 'await future'",
    )


async def _settle(outcome: FutureProxy[R], awaitable: Awaitable[R]) -> None:
    use_own_sensitive_thread()
    try:
        result = await awaitable
    except BaseException as error:  # SystemExit too: asyncio would end the loop with it
        outcome.set_exception(error)
    else:
        outcome.set_result(result)
    finally:
        del outcome  # see FutureProxy.result()
