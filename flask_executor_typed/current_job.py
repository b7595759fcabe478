"""The running job, as its own code sees it: ``current_job`` and ``track``.

The only module meant for code inside jobs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Hashable, Iterable, Iterator, Sized
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast, final, overload

from .calls import Call
from .context import running_call
from .errors import NoJobError
from .futures import FutureProxy, plain_progress

if TYPE_CHECKING:
    from .executor import Executor

__all__ = ("CurrentJob", "current_job", "track")

A = TypeVar("A")

_TOLD_EVERY = 0.05  # seconds between two reports of track()


@final
class CurrentJob:
    """The running job. Use the only instance, ``current_job``.

    It is found through a context variable, so it works in all code that the job calls, awaits, or
    passes to ``sync_to_async``, ``async_to_sync`` and ``asyncio.to_thread``. It is true in a job.
    Outside of one, it is false, and every attribute raises ``NoJobError``, a ``RuntimeError``.
    Thread-safe.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        call = running_call.get()
        return call is not None and not call.is_over

    def __repr__(self) -> str:
        return f"<current_job {self.name} [{self.id}]>" if self else "<current_job: none>"

    @property
    def id(self) -> str:
        """The ``id`` of the job's future."""
        return _future().id

    @property
    def key(self) -> Hashable | None:
        """The ``key`` of the job's future."""
        return _future().key

    @property
    def name(self) -> str:
        """The ``name`` of the job's future."""
        return _future().name

    @property
    def attempt(self) -> int:
        """The number of the attempt. The first is 1, and each retry adds one."""
        return _call().attempt

    @property
    def executor(self) -> Executor[Any]:
        """The executor that runs the job."""
        return cast("Executor[Any]", _call().executor)

    @property
    def cancel_requested(self) -> bool:
        """Whether ``future.cancel()`` was called, or the job's time is up.

        When the time of a shutdown is up, a job that checks this has two seconds to end before it
        counts as abandoned.
        """
        return _call().look_for_cancel()

    def raise_if_cancelled(self) -> None:
        """End the job here if :attr:`cancel_requested`. Its future is then cancelled.

        Raises:
            asyncio.CancelledError: derives from ``BaseException``, so that ``except Exception:``
                does not catch it.
        """
        if self.cancel_requested:
            raise asyncio.CancelledError

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Report progress, for ``future.progress`` and ``future.watch()``. Never blocks.

        Raises:
            TypeError: ``done`` or ``total`` is not a number.
        """
        _call().report(plain_progress(done, total, message))


current_job: CurrentJob = CurrentJob()
"""The running job."""


def _call() -> Call[Any]:
    call: Call[Any] | None = running_call.get()
    if call is None or call.is_over:
        raise NoJobError
    return call


def _future() -> FutureProxy[Any]:
    call = _call()
    future: FutureProxy[Any] = call.future
    if call.is_over:  # since _call() looked
        raise NoJobError
    return future


@overload
def track(rows: Iterable[A], total: float | None = None, message: str = "") -> Iterator[A]: ...
@overload
def track(
    rows: AsyncIterable[A], total: float | None = None, message: str = ""
) -> AsyncIterator[A]: ...
def track(
    rows: Iterable[A] | AsyncIterable[A], total: float | None = None, message: str = ""
) -> Iterator[A] | AsyncIterator[A]:
    """Iterate, and report the job's progress at most 20 times a second.

    Write ``for row in track(rows):`` in a plain job, ``async for row in track(rows):`` in a
    coroutine. Outside of a job, it only iterates.

    Args:
        rows: The items to iterate over.
        total: The number of items; ``len(rows)`` if not given, where that works.
        message: The message of every report.
    """
    if total is None and isinstance(rows, Sized):
        total = len(rows)
    if isinstance(rows, AsyncIterable):
        return _track_async(rows, total, message)
    return _track(rows, total, message)


def _report(done: int, total: float | None, message: str) -> None:
    with suppress(NoJobError):  # the iteration may outlive the job
        current_job.progress(done, total, message)


def _track(rows: Iterable[A], total: float | None, message: str) -> Iterator[A]:
    if not current_job:
        yield from rows
        return
    clock, done, tell_at = time.monotonic, 0, 0.0
    for row in rows:
        if clock() >= tell_at:
            _report(done, total, message)
            tell_at = clock() + _TOLD_EVERY
        yield row
        done += 1
    _report(done, total, message)


async def _track_async(
    rows: AsyncIterable[A], total: float | None, message: str
) -> AsyncIterator[A]:
    tell_at, done, is_job = 0.0, 0, bool(current_job)
    async for row in rows:
        if is_job and time.monotonic() >= tell_at:
            _report(done, total, message)
            tell_at = time.monotonic() + _TOLD_EVERY
        yield row
        done += 1
    if is_job:
        _report(done, total, message)
