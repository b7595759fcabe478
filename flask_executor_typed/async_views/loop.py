"""The lasting event loop for the async views of one server thread."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar
from weakref import ref

from asgiref.sync import AsyncToSync

from ..callables import name_of
from ..errors import JobAbandonedError
from ..loops.asgiref_bridge import adopt, loops_here, view_number, waiting_thread
from ..loops.current import runs_resident_of
from ..loops.tasks import cancel_and_wait, create_task
from ..loops.thread import LoopThread
from ..runtime.exit import CLEANUP
from .waiting_thread import ThreadOfView, WaitingThread

__all__ = ("ViewLoop",)

R = TypeVar("R")

_view_numbers = itertools.count()

# Bound once: see loops/thread_sensitive.py.
_set_view_number, _set_waiting_thread = view_number.set, waiting_thread.set


class ViewLoop(LoopThread):
    """A loop that runs async views, one at a time, while a server thread waits for each."""

    def __init__(
        self, name: str, pool_name: str, new_loop: Callable[[], asyncio.AbstractEventLoop] | None
    ) -> None:
        # Started by the view. Only the loop's thread touches them.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._generators: dict[int, ref[AsyncGenerator[Any, Any]]] = {}  # by id
        # Generators that have become garbage, each with whether it is the view's, and the tasks
        # that close the view's.
        self._dropped: deque[tuple[AsyncGenerator[Any, Any], bool]] = deque()
        self._closing: set[asyncio.Task[Any]] = set()
        self._loops_firstiter: Callable[[AsyncGenerator[Any, Any]], object] | None = None
        self._abandoned: float | None = None  # seconds that the shutdown waited; set once
        self.lost_its_thread: bool = False
        """Whether a view may still run that no thread waits for. Set once; such a loop must end."""
        self._lock = threading.Lock()  # of the waiting threads
        self._context = Context()  # in which views are started; entered by the loop's thread only
        self._thread_of_view: Any = ThreadOfView()
        self._value_for_views: Any = None  # of the context variable that leads to _thread_of_view
        super().__init__(name, pool_name, new_loop)
        self.loop.set_task_factory(self._make_task)

    def _forbid_blocking(self) -> None:
        """Do nothing: a view that blocks delays only itself."""

    def runs_here(self) -> bool:
        """Return whether this loop's view is running the current code."""
        return self.loop in loops_here()

    def abandon(self, seconds: float) -> None:
        if self._abandoned is None:
            self._abandoned = seconds
        super().abandon(seconds)

    def run(self, fn: Callable[..., Awaitable[R]], args: Any, kwargs: Any) -> R:
        """Call ``fn`` on the loop, and serve its thread-sensitive code until it is done.

        The equivalent of ``async_to_sync``, compatible with the rest of asgiref. The original takes
        three turns of the loop, which was half of the overhead.
        """
        coroutine, error = fn(*args, **kwargs), sys.exc_info()[1]
        waiting = WaitingThread[R](self._lock)
        before, self._thread_of_view.waiting = self._thread_of_view.waiting, waiting
        self._sensitive.of_others = self._thread_of_view  # for tasks that do not have our context
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
            # Servers do not expect a CancelledError; it would end a gunicorn worker.
            raise JobAbandonedError(name_of(fn), self._abandoned, begun=True) from cancelled
        finally:
            if not waiting.is_over:  # a signal handler raised in the thread that waits
                self._cancel_view(waiting)
            if before is None:  # otherwise a signal handler's view has interrupted a view
                self._sensitive.of_others = None
            self._thread_of_view.waiting = before
            if waiting.context is not None:
                adopt(waiting.context)

    def _start_view(
        self, view: Coroutine[Any, Any, None], waiting: WaitingThread[Any], context: Context
    ) -> None:
        self._watch_generators()
        waiting.task = create_task(view, loop=self.loop, context=context)

    def _cancel_view(self, waiting: WaitingThread[Any]) -> None:
        """Cancel a view that its thread has stopped waiting for, and let it clean up for a moment.

        Neither the view nor anything it has started may meet the thread's next request.
        """
        self.lost_its_thread = True
        self.loop.call_soon_threadsafe(lambda: waiting.task and waiting.task.cancel())
        waiting.wait_for_cleanup(CLEANUP / 4)

    async def _run_view(
        self, coroutine: Awaitable[R], waiting: WaitingThread[R], error: BaseException | None
    ) -> None:
        number = next(_view_numbers)
        self._thread_of_view.running.add(number)
        try:
            try:
                adopt(copy_context())
                _set_view_number(number)
                self._let_code_find_its_thread()
                if error is None:
                    result = await coroutine
                else:
                    try:
                        raise error  # makes it visible to the view, in sys.exc_info()
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
            self._value_for_views = waiting_thread.get()  # which belongs to this thread
        else:
            _set_waiting_thread(self._value_for_views)  # the same at a tenth of the cost

    async def _clean_up(self) -> None:
        """Clean up after a view as ``asyncio.run`` does in stock Flask: tasks, then generators.

        Tasks that close a generator are not cancelled, which cuts them short before Python 3.13.
        """
        await cancel_and_wait(self._tasks)
        generators, self._generators = self._generators, {}
        left = [generator for each in list(generators.values()) if (generator := each())]
        self._close_dropped()  # those that the view dropped in its last moment
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
        if (
            hooks.firstiter != self._generator_begins
        ):  # the loop sets its own when it starts or restarts
            self._loops_firstiter = hooks.firstiter
            sys.set_asyncgen_hooks(self._generator_begins, self._generator_is_dropped)

    def _generator_begins(self, generator: AsyncGenerator[Any, Any]) -> None:
        if runs_resident_of(self.loop):
            self._generators.pop(id(generator), None)  # of an earlier one that is gone
        else:
            self._generators[id(generator)] = ref(generator)
        if self._loops_firstiter is not None:
            self._loops_firstiter(generator)

    def _generator_is_dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        # The loop's own hook would start a task that looks like one of the view running by then.
        # Garbage is collected in any thread, between any two lines: here, only take a note.
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
            else:  # a resident's, or that of a view that is over
                self._note_residents(closing)
