"""Calls in other processes, for work that needs a processor of its own.

The only module that pickles calls. Nothing of Flask travels: a job runs without any context.
"""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import pickle
import sys
import threading
import traceback
from collections.abc import Awaitable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FunctionType
from typing import Any

from werkzeug.local import LocalProxy

from ..calls import Call, is_awaitable
from ..errors import ExecutorClosedError, OutsideContextError, UnpicklableError, WorkerError

__all__ = ("ProcessBackend",)

_START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Not ``fork``, which copies locks that threads of the server may hold just then."""


class ProcessBackend:
    """A pool of processes, each started anew rather than forked from this one."""

    def __init__(self, name: str, max_workers: int) -> None:
        self._name = name
        self._max_workers = max_workers
        self._lock = threading.RLock()  # reentrant: a finalizer may shut down while it is held
        self._pool: ProcessPoolExecutor | None = None  # guarded by _lock
        self._broken_pool: ProcessPoolExecutor | None = None  # guarded by _lock
        self._closed = False  # guarded by _lock

    def submit(self, call: Call[Any]) -> None:
        if call.limits is not None:
            raise TypeError(
                f"{call.future.name} is to run in another process: timeout= and retries= work with "
                "EXECUTOR_TYPE='thread'"
            )
        payload = _pickled(call)  # in this thread, so that the submitter hears what is wrong
        if not call.future._refuse():  # from here on it is cancelled through the pool's future
            return  # cancelled already, by somebody who found it under its key
        name = call.future.name
        pool = self._working_pool()
        try:
            inner = pool.submit(_run, payload, name)
        except BrokenProcessPool:  # a worker was killed: its calls have failed, these need not
            self._drop(pool)
            pool = self._working_pool()
            inner = pool.submit(_run, payload, name)
        except RuntimeError:  # it was shut down in between
            raise ExecutorClosedError(self._name) from None
        # Before any callback of the user's, which may submit: a broken pool is of no use then.
        inner.add_done_callback(lambda done: self._drop_if_broken(pool, done))
        call.follow(inner)

    def _working_pool(self) -> ProcessPoolExecutor:
        # Only this is done under the lock: a pool calls back while it holds a lock of its own.
        with self._lock:
            if self._closed:
                raise ExecutorClosedError(self._name)
            if self._pool is None:
                context = multiprocessing.get_context(_START_METHOD)
                self._pool = ProcessPoolExecutor(self._max_workers, context)
            return self._pool

    def _drop_if_broken(self, pool: ProcessPoolExecutor, done: Future[Any]) -> None:
        if not done.cancelled() and isinstance(done.exception(), BrokenProcessPool):
            self._drop(pool)

    def _drop(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:
                # Kept until another breaks: we may be called back by a thread of the pool that
                # holds the lock which its end as an object wants.
                self._pool, self._broken_pool = None, pool

    def shutdown(self, *, wait: bool, cancel_pending: bool) -> None:
        with self._lock:
            self._closed = True
            pool = self._pool
        if pool is not None:
            pool.shutdown(wait, cancel_futures=cancel_pending)


class _Pickler(pickle.Pickler):
    """Finds a function that ``@executor.job`` has replaced under its own name."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, FunctionType) and "<locals>" not in obj.__qualname__:
            named: object = sys.modules.get(obj.__module__)
            for part in obj.__qualname__.split("."):
                named = getattr(named, part, None)
            function: object = getattr(named, "fn", None)
            if function is obj:
                return _function_of_job, (obj.__module__, obj.__qualname__)
        return NotImplemented


def _function_of_job(module: str, qualname: str) -> Any:
    found: Any = __import__(module, fromlist=["*"])
    for part in qualname.split("."):
        found = getattr(found, part)
    return found.fn


def _dumps(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _pickled(call: Call[Any]) -> bytes:
    try:
        return _dumps((call.fn, call.args, call.kwargs))
    except Exception:
        # Which part it was: the pickler's own message rarely tells.
        parts: dict[str, object] = {"the function itself": call.fn}
        parts.update((f"argument {i}", value) for i, value in enumerate(call.args, 1))
        parts.update((f"argument {name!r}", value) for name, value in call.kwargs.items())
        for what, value in parts.items():
            try:
                _dumps(value)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                if type(value) is LocalProxy:
                    reason = "it is a proxy of Flask, such as request or current_app"
                raise UnpicklableError(call.future.name, what, reason) from error
        raise


class _Sendable:
    """A result, pickled already; what the parent gets is the result.

    One that cannot be rebuilt in the parent would break the whole pool there.
    """

    def __init__(self, result: object, name: str) -> None:
        try:
            self._pickled = pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
            pickle.loads(self._pickled)
        except Exception as error:
            raise UnpicklableError(
                name, "its result", f"{type(error).__name__}: {error}"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._pickled,)


_OUTSIDE = ("Working outside of application context", "Working outside of request context")
"""How Flask's errors begin."""


def _run(payload: bytes, name: str) -> object:
    """In the worker: run a pickled call. What it raises can be sent back."""
    try:
        fn, args, kwargs = pickle.loads(payload)
        result = fn(*args, **kwargs)
        if is_awaitable(result):
            result = asyncio.run(_wait(result))
        return _Sendable(result, name)
    except BaseException as error:
        if isinstance(error, RuntimeError) and str(error).startswith(_OUTSIDE):
            raise OutsideContextError(name, str(error).split(".")[0]) from error
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            # An exception that cannot be rebuilt in the parent would break the whole pool there.
            raise WorkerError(name, "".join(traceback.format_exception(error))) from None
        raise


async def _wait(awaitable: Awaitable[object]) -> object:
    return await awaitable
