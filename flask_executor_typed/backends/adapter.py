"""Run calls in any executor of ``concurrent.futures``: the standard library's, loky's, your own.

The only module that knows third-party executors. If their workers are threads of this process, they
get the call itself; otherwise, they get it pickled and rebuild its contexts.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from ..calls import Call
from ..config import ExecutorConfig, GivenExecutor
from ..errors import ConfigError, JobLostError, NestedProcessError
from ..futures import call_back_by
from ..runtime.threads import DaemonPool
from .adapter_worker import Told, home, run_call
from .borrowed import BackendInThreads, BorrowingBackend, Unreachable
from .capabilities import Capabilities, check
from .pickling import ContextDumper, Settings, Work
from .runner import is_worker, settle_like

__all__ = ("LocalBackend", "RemoteBackend", "open_adapter")

_CALLBACK_THREADS = 4  # for done callbacks; a guess

_Factory = Callable[[], concurrent.futures.Executor]


def open_adapter(
    config: ExecutorConfig, key: str, settings: Settings, max_workers: int
) -> LocalBackend | RemoteBackend:
    """Return the backend for a third-party executor.

    Args:
        config: The settings; ``type`` is the executor, or creates it.
        key: The name of the setting that is read as ``type``.
        settings: The settings for workers in other processes.
        max_workers: The size of a pool of interpreters. Other executors know their own.
    """
    if isinstance(config.type, GivenExecutor):
        if config.type.process != os.getpid():
            expected = (
                "a function or class that creates an executor, or the name of one: this executor "
                "was created before the process was forked, and does not work here"
            )
            raise ConfigError(key, config.type.executor, expected)
        pool = _Pool(None, key, config.type.executor)
    elif callable(config.type):
        pool = _Pool(config.type, key)
    else:
        pool = _Pool(partial(_pool_of_interpreters, max_workers), key)
    executor = pool.executor
    label = f"{key}={config.type!r}" if isinstance(config.type, str) else _path_of(type(executor))
    if _is_in_this_process(executor):
        return LocalBackend(pool, settings.name, label, config.loop_factory)
    coroutines = not _is_of_interpreters(executor)  # loops need daemon threads, which they lack
    told = Told(settings, label, coroutines, home(), key)
    return RemoteBackend(pool, told)


def _is_in_this_process(executor: concurrent.futures.Executor) -> bool:
    declared: object = getattr(executor, "in_this_process", None)
    if declared is not None:
        return bool(declared)
    return isinstance(executor, ThreadPoolExecutor) and not _is_of_interpreters(executor)


def _is_of_interpreters(executor: concurrent.futures.Executor) -> bool:
    kind: Any = getattr(concurrent.futures, "InterpreterPoolExecutor", ())  # from Python 3.14 on
    return isinstance(executor, kind)


def _pool_of_interpreters(max_workers: int) -> concurrent.futures.Executor:
    kind: Any = concurrent.futures
    # A new interpreter gets the sys.path that this one had at its start, not the current one.
    path = f"import sys; sys.path[:] = {sys.path!r}"
    pool: concurrent.futures.Executor = kind.InterpreterPoolExecutor(
        max_workers, initializer=exec, initargs=(path, {})
    )
    return pool


class _Pool:
    """The adapted executor. One created here is replaced when it breaks, and shut down."""

    def __init__(
        self, make: _Factory | None, key: str, given: concurrent.futures.Executor | None = None
    ) -> None:
        self._make = make
        self._key = key
        # Reentrant: a finalizer may shut down while it is held.
        self._lock = threading.RLock()
        self._futures: set[Future[Any]] = set()  # those that are not done
        # Set under _lock.
        self.executor: concurrent.futures.Executor = given or self._make_one()

    def _make_one(self) -> concurrent.futures.Executor:
        assert self._make is not None
        made: Any = self._make()  # the factory may ignore its annotation
        if not isinstance(made, concurrent.futures.Executor):
            expected = f"a function that returns an executor of concurrent.futures, not {made!r}"
            raise ConfigError(self._key, self._make, expected)
        _unended.add(made)
        return made

    def _end(self, executor: concurrent.futures.Executor, *, wait: bool) -> None:
        executor.shutdown(wait=wait)
        _unended.discard(executor)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        executor = self.executor
        try:
            future = executor.submit(fn, *args)
        except BrokenExecutor:
            if self._make is None:
                raise
            with self._lock:  # the first thread replaces it; the others use the replacement
                if self.executor is executor:
                    self._end(executor, wait=False)
                    self.executor = self._make_one()
            future = self.executor.submit(fn, *args)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def cancel_pending(self) -> None:
        for future in list(self._futures):
            future.cancel()  # does nothing if the call is running

    def shutdown(self, *, wait: bool) -> None:
        if self._make is not None:
            self._end(self.executor, wait=wait)


_unended: set[concurrent.futures.Executor] = set()
"""The executors created here and not shut down. The child of a fork drops the backends, but must
keep these: a garbage-collected process pool writes to pipes that it shares with its parent."""


class LocalBackend(BackendInThreads):
    """An executor whose workers are threads of this process."""

    def __init__(
        self,
        pool: _Pool,
        name: str,
        backend: str,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    ) -> None:
        super().__init__(name, backend, loop_factory)
        self._pool = pool

    def submit(self, call: Call[Any]) -> None:
        future = call.future
        self.accept(call)
        try:
            running = self._pool.submit(self.run, call)
        except BaseException:
            self.release(call)
            raise
        running.add_done_callback(partial(self._settle, call, future))

    def _settle(self, call: Call[Any], future: Future[Any], running: Future[Any]) -> None:
        """Settle a call that is over or will never run."""
        try:
            with self.working_here():
                if running.cancelled():
                    future.cancel()
                elif (error := running.exception()) is not None and not future.done():
                    call.fail(_lost(call, error))
        finally:
            self.release(call)
            error = None  # its traceback refers to this frame

    def _give_back(self, *, wait: bool = True) -> None:
        super()._give_back()
        self._pool.shutdown(wait=wait)

    def _cancel_pending(self) -> None:
        self._pool.cancel_pending()


class RemoteBackend(BorrowingBackend):
    """An executor whose workers are other processes, or other interpreters of this process."""

    def __init__(self, pool: _Pool, told: Told) -> None:
        super().__init__(told.settings.name)
        self.capabilities: Capabilities = Capabilities(
            contexts=told.settings.app is not None, coroutines=told.coroutines
        )
        self._pool = pool
        self._backend = told.backend
        # A thread of the executor settles the futures, often its only one.
        self._callbacks = DaemonPool(f"{told.settings.name}-callbacks", _CALLBACK_THREADS)
        self._told = pickle.dumps(tuple(told))
        self._contexts = ContextDumper(told.settings)

    def submit(self, call: Call[Any]) -> None:
        if is_worker():
            raise NestedProcessError(call.future.name)
        check(call, self.capabilities, self._backend)
        work = Work.of(call, self._contexts.dump(call))
        self.accept(call)
        try:
            # From here on, cancelling is up to the executor's future, because no message says when
            # a worker begins. If our future has been cancelled before, the call does not run.
            if not call.refuse():
                self.release(call)
                return
            call.interrupter = Unreachable(self._backend)
            running = self._pool.submit(run_call, self._told, pickle.dumps(tuple(work)))
        except BaseException:
            self.release(call)
            raise
        call.delegate_to(running)
        # cancel() sets the request, and then looks for ``running``. So either it has seen that, or
        # this sees the request.
        if call.cancel_requested:
            running.cancel()
        running.add_done_callback(partial(self._settle, call))

    def _settle(self, call: Call[Any], running: Future[tuple[bytes, bytes, float]]) -> None:
        call_back_by(self._callbacks.submit)
        try:
            with self.working_here():
                if running.cancelled():
                    call.end_by_cancel()  # of a shutdown, say, which knows ``running`` only
                elif (error := running.exception()) is not None:
                    call.fail(_lost(call, error))
                else:
                    kind, content, started = running.result()
                    call.set_start(started)
                    error = settle_like(call, kind, content)
                    if error is not None:
                        call.fail(error)
        finally:
            call_back_by(None)
            self.release(call)
            call.release()
            error = None  # its traceback refers to this frame

    def threads(self) -> list[threading.Thread]:
        return [*super().threads(), *self._callbacks.threads()]

    def sizes(self) -> tuple[int, int]:
        return 0, 0  # unknown

    def _give_back(self, *, wait: bool = True) -> None:
        self._callbacks.shutdown(wait=False)  # which runs what was handed over
        self._pool.shutdown(wait=wait)

    def _cancel_pending(self) -> None:
        self._pool.cancel_pending()


def _lost(call: Call[Any], error: BaseException) -> BaseException:
    """Return the error to fail a call with: if its executor broke, a ``JobLostError``."""
    if not isinstance(error, BrokenExecutor):
        return error
    lost = JobLostError(call.future.name, f"its executor broke: {type(error).__name__}: {error}")
    lost.__cause__ = error
    return lost


def _path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
