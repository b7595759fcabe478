"""The job's view of itself: ``current_job`` and ``track``.

The only module for users' code inside of jobs.
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
from .futures import FutureProxy, Progress

if TYPE_CHECKING:
    from .executor import Executor

__all__ = ("CurrentJob", "current_job", "track")

A = TypeVar("A")

_TOLD_EVERY = 0.05  # seconds, between two reports of track()


@final
class CurrentJob:
    """The job that runs here: use the one instance, ``current_job``.

    It is found through a context variable, so it works in whatever the job calls, awaits, or hands
    to ``sync_to_async``, ``async_to_sync`` and ``asyncio.to_thread``. It is true in a job and false
    outside of one, where every attribute raises ``NoJobError``, a ``RuntimeError``. Everything may
    be used from any thread.
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
        """1 when the job runs for the first time, 2 after one failure, and so on."""
        return _call().attempt

    @property
    def executor(self) -> Executor[Any]:
        """The executor that runs the job."""
        return cast("Executor[Any]", _call().executor)

    @property
    def cancel_requested(self) -> bool:
        """Whether ``future.cancel()`` was called, or the job's time is up.

        A job in a thread that looks here is asked to end when the time of a shutdown is up, and has
        two seconds for it before it counts as abandoned.
        """
        return _call().look_for_cancel()

    def raise_if_cancelled(self) -> None:
        """End the job here if :attr:`cancel_requested`; its future is then cancelled.

        Raises:
            asyncio.CancelledError: derives from ``BaseException``, so that ``except Exception:``
                does not catch it.
        """
        if self.cancel_requested:
            raise asyncio.CancelledError

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell whoever looks at ``future.progress`` how far the job is. Does not block."""
        _call().report(Progress(done, total, message))


current_job: CurrentJob = CurrentJob()
"""The job that runs here."""


def _call() -> Call[Any]:
    call: Call[Any] | None = running_call.get()
    if call is None or call.is_over:
        raise NoJobError
    return call


def _future() -> FutureProxy[Any]:
    call = _call()
    future: FutureProxy[Any] = call.future
    if call.is_over:  # just now
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
    """Iterate, and report the job's progress, 20 times a second at most.

    ``for row in track(rows):`` in a plain job, ``async for row in track(rows):`` in a coroutine.
    Outside of a job it only iterates.

    Args:
        rows: What to iterate over.
        total: How many there are; ``len(rows)`` if that is known.
        message: Goes with every report.
    """
    if total is None and isinstance(rows, Sized):
        total = len(rows)
    if isinstance(rows, AsyncIterable):
        return _track_async(rows, total, message)
    return _track(rows, total, message)


def _report(done: int, total: float | None, message: str) -> None:
    with suppress(NoJobError):  # the iteration goes on after the job
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
