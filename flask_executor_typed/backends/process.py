"""Calls in other processes, for work that needs a processor of its own.

The only module that starts processes. Each has a thread here that sends it one call after the
other, through a pipe of its own: so whoever dies, it is known which call was lost, and no other is.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from importlib import import_module
from math import inf
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple
from weakref import WeakSet

from .. import signals
from ..callables import is_async_callable
from ..calls import Call
from ..errors import ExecutorClosedError, JobLostError, NestedProcessError
from ..futures import Progress
from ..runtime.exit import ClosableThreads, exit_has_begun, finish_at_exit
from ..runtime.forks import in_child
from ..runtime.threads import start_thread
from .capabilities import Capabilities
from .pickling import (
    ContextDumper,
    Settings,
    Work,
    dump_error,
    dump_function,
    dump_key,
    load_error,
)
from .runner import CANCELLED, FAILED, is_worker, settle_like
from .worker import END, PROGRESS, READY, Message, load_message, work

__all__ = ("ProcessBackend",)

_START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Not ``fork``, which copies locks that threads of the server may hold just then."""

_STARTS = 3
"""Workers in turn that may end before they run anything, until their calls are given up."""

_LOAD_AGAIN_AFTER = 1.0
"""Seconds for which an app that a worker could not load is not tried again; a guess."""


class _Item(NamedTuple):
    """A call in the queue, pickled by its submitter."""

    call: Call[Any]
    function: bytes
    context: bytes | None


class ProcessBackend(ClosableThreads):
    """Worker processes, started one by one while all of them are busy."""

    def __init__(self, settings: Settings, max_workers: int, start_method: str | None) -> None:
        self.capabilities: Capabilities = Capabilities(
            contexts=settings.app is not None,
            coroutines=True,
            progress=True,
            cancel_running=True,
            kill=True,
            time_limits=True,
            retries=True,
        )
        self._settings = settings
        self._max_workers = max_workers
        self._start_method = start_method or _START_METHOD
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.RLock()  # reentrant: a finalizer may shut down while it is held
        self._threads: list[threading.Thread] = []  # guarded by _lock
        self._closed = False  # guarded by _lock
        self._contexts = ContextDumper(settings)
        self._running: set[Call[Any]] = set()  # that threads have taken from the queue
        self._workers: set[_Worker] = set()  # that were started, and may live
        self._killed = threading.Event()  # set once: no worker lives on
        self._unloadable: tuple[float, bytes] | None = None  # until when, and the error

    def submit(self, call: Call[Any]) -> None:
        if is_worker():
            raise NestedProcessError(call.future.name)
        # Pickled here, so that the submitter hears of errors.
        item = _Item(call, dump_function(call), self._contexts.dump(call))
        with self._lock:
            if self._closed:
                raise ExecutorClosedError(self._settings.name, exit_has_begun())
            self._queue.put(item)
            if len(self._threads) >= self._max_workers or self._idle.acquire(blocking=False):
                return
            try:
                thread_name = f"{self._settings.name}-process-{len(self._threads)}"
                self._threads.append(start_thread(thread_name, self._serve))
            except RuntimeError:  # the system has no more threads, or the interpreter is ending
                if not self._threads and call.refuse():
                    raise

    def sizes(self) -> tuple[int, int]:
        return sum(thread.is_alive() for thread in list(self._threads)), 0

    def close(self, *, cancel_pending: bool) -> None:
        with self._lock:
            self._closed = True
        if cancel_pending:
            for item in self._take_pending():
                item.call.future.cancel()
        self._queue.put(None)

    def runs_here(self) -> bool:
        return threading.current_thread() in self.threads()  # in a callback

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            return self._threads.copy()

    def abandon(self, seconds: float) -> None:
        """Fail what is pending and what runs, which worker processes are told."""
        for item in self._take_pending():
            item.call.abandon(seconds)
        self._queue.put(None)
        for call in self._running.copy():
            call.abandon(seconds)

    def kill(self) -> bool:
        self._killed.set()  # before we look: who starts another one from now on sees it
        workers = self._workers.copy()
        for worker in workers:
            worker.kill()
        return bool(workers)

    def try_to_start(self) -> None:
        """Start a worker process, which loads the app, and end it.

        Raises:
            ConfigError: it could not load the app.
            JobLostError: no process can be started, or each ends before it has.
        """
        self._start_worker(self._settings.name).end()

    def _take_pending(self) -> Iterator[_Item]:
        with contextlib.suppress(Empty):
            while True:
                item = self._queue.get_nowait()
                if item is not None:
                    yield item

    # -- in a thread of one worker process --------------------------------------------------------

    def _serve(self) -> None:
        worker: _Worker | None = None
        try:
            while (item := self._queue.get()) is not None:
                worker = self._work_off(item, worker)
                del item  # an idle worker keeps nothing alive
                self._idle.release()
        finally:
            self._queue.put(None)  # it goes round
            if worker is not None:
                worker.end()

    def _work_off(self, item: _Item, worker: _Worker | None) -> _Worker | None:
        """Settle a call, by ``worker`` or a new one. Returns the one for the next call."""
        call = item.call
        future = call.future
        self._running.add(call)
        try:
            if future.done():  # cancelled
                return worker
            try:
                worker = worker or self._start_worker(future.name)
            except BaseException as error:
                if call.begin():
                    call.fail(error)
                return None
            running = _Running(is_async_callable(call.fn))
            call.set_interrupter(running)
            if not call.begin():
                return worker
            if signals.job_started.receivers:
                call.announcement(signals.job_started)()
            try:
                return self._run(item, worker, running)
            except BaseException as error:  # no memory for the answer, say; other calls go on
                call.fail(error)
                running.interrupt(kill=True)
                return None
        finally:
            self._running.discard(call)
            call.release()
            del future  # see FutureProxy.result()

    def _run(self, item: _Item, worker: _Worker | None, running: _Running) -> _Worker | None:
        """Run a call that has begun, as often as its retries allow."""
        call, future = item.call, item.call.future
        seconds = None if call.limits is None else call.limits.timeout
        end = inf if seconds is None else time.monotonic() + seconds
        try:
            while True:
                worker, kind, content = self._ask(item, worker, running, end)
                if kind == _LATE:
                    call.deadline(end if seconds is None else seconds)()
                    if worker is not None and running.is_running():
                        worker.kill()
                        worker.bury()
                        worker = None
                    return worker
                error: BaseException | None
                if kind == _ENDED:
                    error = JobLostError(future.name, content.decode())
                else:
                    error = settle_like(call, kind, content)
                if error is None or future.done():
                    return worker
                call.log(error)
                pause = call.pause_after(error)
                if pause is None:
                    call.fail(error)
                    return worker
                left = max(0.0, end - time.monotonic())
                if not call.wait_unless_settled(min(pause, left)):
                    if not future.done():  # asked to end, while it waited
                        call.fail(error)
                    return worker
        finally:
            error = None  # its traceback refers to this frame
            del call, future

    def _ask(
        self, item: _Item, worker: _Worker | None, running: _Running, end: float
    ) -> tuple[_Worker | None, bytes, bytes]:
        """Have a call run once. Returns the worker, if it lives, and the answer."""
        call, future = item.call, item.call.future
        for _ in range(_STARTS):
            if future.done():
                return worker, CANCELLED, b""
            if time.monotonic() >= end:
                return worker, _LATE, b""
            try:
                worker = worker or self._start_worker(future.name)
            except BaseException as error:
                return None, FAILED, dump_error(future.name, error)
            message = Work(
                worker.next_number(),
                future.name,
                future.id,
                dump_key(future.key),
                call.attempt,
                item.function,
                item.context,
            )
            kind, content = running.run(worker, message, call, end)
            if kind not in {_ENDED, _NOT_RUN, _CONFUSED}:
                return worker, kind, content
            if kind == _CONFUSED:
                worker.kill()
            how = worker.bury()
            worker = None
            if kind != _NOT_RUN:
                what = "answered another call" if kind == _CONFUSED else f"{how} while it ran"
                return None, _ENDED, f"its worker process {what}".encode()
        return None, _ENDED, b"one worker process after the other ended before it could run"

    def _start_worker(self, name: str) -> _Worker:
        """Start a process, for the call of that name, and wait until it has loaded the app.

        Raises:
            ConfigError: it could not load the app.
            JobLostError: no process can be started, or each ends before it has.
        """
        how = "would be killed"
        for _ in range(_STARTS):
            unloadable = self._unloadable
            if unloadable is not None and time.monotonic() < unloadable[0]:
                raise load_error(unloadable[1])
            if self._killed.is_set():
                break
            try:
                worker = _Worker(self._start_method, self._settings, self._workers)
            except OSError as error:  # no memory, no descriptors, or no fork server
                reason = f"no worker process could be started ({type(error).__name__}: {error})"
                raise JobLostError(name, reason) from error
            if self._killed.is_set():
                worker.kill()
            kind, _, content = worker.receive(inf)
            if kind == READY:
                return worker
            if kind == FAILED:
                worker.order(END)
                worker.bury()  # not end(): the app may have started a thread that never ends
                self._unloadable = time.monotonic() + _LOAD_AGAIN_AFTER, content
            else:
                how = worker.bury()
        raise JobLostError(name, f"each of {_STARTS} worker processes {how} when it started")


_ENDED, _NOT_RUN, _LATE, _CONFUSED = b"e", b"n", b"l", b"?"
"""What may come instead of an answer: the worker ended with the call, or without having read it;
the call takes too long; or the answer is to another call."""

_NO_NUMBER = -1


class _Running:
    """What a future knows of the process that runs its call. Used from any thread."""

    backend = "EXECUTOR_TYPE='process'"

    def __init__(self, is_async: bool) -> None:
        self._is_async = is_async
        self._lock = threading.Lock()
        self._worker: _Worker | None = None  # while it has the call; guarded by _lock
        self._number = 0

    def run(
        self, worker: _Worker, message: Work, call: Call[Any], end: float
    ) -> tuple[bytes, bytes]:
        """Have a worker run the call, until ``end``. Returns what is the matter then."""
        with self._lock:
            self._number, self._worker = message.number, worker
        if call.cancel_requested:  # before anybody could tell the worker
            self.interrupt(kill=call.future.done())
        kind, content = worker.send(pickle.dumps(tuple(message))), b""
        while kind == PROGRESS:
            kind, number, content = worker.receive(end)
            if number not in {message.number, _NO_NUMBER}:
                kind = _CONFUSED
            elif kind == PROGRESS:
                call.report(Progress(*pickle.loads(content)))
        if kind != _LATE:
            with self._lock:
                self._worker = None
        return kind, content

    def is_running(self) -> bool:
        with self._lock:
            return self._worker is not None

    def can_interrupt(self, *, kill: bool) -> bool:
        return kill or self._is_async

    def interrupt(self, *, kill: bool = False) -> None:
        with self._lock:  # so that it is this call's worker still
            if self._worker is not None:
                if kill:
                    self._worker.kill()
                else:
                    self._worker.order(str(self._number).encode())

    def ask(self) -> None:
        self.interrupt()


class _Worker:
    """A worker process, and the two pipes to it."""

    def __init__(self, start_method: str, settings: Settings, fellows: set[_Worker]) -> None:
        context: Any = multiprocessing.get_context(start_method)
        self._numbers = itertools.count(1)
        self._calls, calls = multiprocessing.Pipe()
        orders, self._orders = multiprocessing.Pipe(duplex=False)
        _finish_before_multiprocessing_does()
        self._process = context.Process(
            target=work, args=(calls, orders, settings), name=f"{settings.name}-worker"
        )
        _workers.add(self)  # before a fork, which copies our ends of the pipes
        try:
            with _lock, _as_no_daemon():
                self._process.start()
        except BaseException:
            self.forget()
            raise
        finally:
            calls.close()
            orders.close()
        self._fellows = fellows
        fellows.add(self)

    def next_number(self) -> int:
        return next(self._numbers)

    def send(self, message: bytes) -> bytes:
        """Returns PROGRESS, or what is the matter."""
        try:
            self._calls.send_bytes(message)
        except OSError:
            # Part of it may have been read, but nobody runs a part.
            return _NOT_RUN
        return PROGRESS

    def receive(self, end: float) -> Message:
        try:
            if end != inf and not self._calls.poll(max(0.0, end - time.monotonic())):
                return Message(_LATE, _NO_NUMBER, b"")
            return load_message(self._calls.recv_bytes())
        except ConnectionResetError:
            # Linux tells so of a pipe if its other end is gone and has not read all of ours.
            return Message(_NOT_RUN, _NO_NUMBER, b"")
        except (EOFError, OSError):
            return Message(_ENDED, _NO_NUMBER, b"")

    def order(self, order: bytes) -> None:
        with contextlib.suppress(OSError):  # it is gone
            self._orders.send_bytes(order)

    def kill(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._process.kill()

    def end(self) -> None:
        """Let the process end in its own time, and wait until it has."""
        self.order(END)
        with contextlib.suppress(OSError):
            self._calls.send_bytes(END)
        wait([self._process.sentinel])
        self.bury()

    def bury(self) -> str:
        """See to it that the process is gone; returns how it ended, for a person."""
        dies_at = time.monotonic() + _DIES_WITHIN
        wait([self._process.sentinel], _DIES_WITHIN)
        # A job may have closed the pipes, the sentinel's among them, and live on.
        while (code := self._exit_code()) is None:
            if time.monotonic() >= dies_at:
                self.kill()
            time.sleep(0.01)
        self._fellows.discard(self)
        self.forget()
        if code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    def _exit_code(self) -> int | None:
        with _lock:
            code: int | None = self._process.exitcode
            if code is not None:
                self._process.join()  # at once; it forgets the process
        return code

    def disown(self) -> None:
        """Have multiprocessing not wait for the process at exit."""
        getattr(_process_module, "_children", set[object]()).discard(self._process)

    def forget(self) -> None:
        """Close the pipes."""
        _workers.discard(self)
        self._calls.close()
        self._orders.close()


_DIES_WITHIN = 5.0
"""Seconds from the end of its pipe to the end of a process; a guess."""

_process_module: Any = import_module("multiprocessing.process")


@contextlib.contextmanager
def _as_no_daemon() -> Generator[None, None, None]:
    """Let a daemon of multiprocessing, such as a process of hypercorn, start processes.

    It may not, because nobody would end them when it is terminated. Ours notice that themselves.
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


_workers: WeakSet[_Worker] = WeakSet()
_lock = threading.Lock()
"""Starting a process looks after all that have ended, which two threads cannot do at once."""


@in_child
def _forget_parent() -> None:
    """In the child of a fork: its workers and its fork server are the parent's.

    A later Python may not have the private names. Then the child may complain at its exit of
    processes that are not its own, no more.
    """
    global _lock, _finishes  # noqa: PLW0603
    _lock = threading.Lock()
    _finishes = False
    for worker in list(_workers):
        worker.forget()  # or workers would not hear of the end of their parent while we live
        # Python would wait for it at exit, and fail.
        worker.disown()
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    alive: object = getattr(server, "_forkserver_alive_fd", None)
    if isinstance(alive, int) and getattr(server, "_forkserver_pid", None) is not None:
        # Python would ask the system how its child is, and fail. Without one it starts another.
        with contextlib.suppress(OSError):
            os.close(alive)
        for name in ("_forkserver_pid", "_forkserver_alive_fd", "_forkserver_address"):
            setattr(server, name, None)
