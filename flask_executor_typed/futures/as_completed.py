"""Yield futures in the order in which they finish, for ``async for``.

The only module that watches many futures at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Protocol, TypeVar, cast

from typing_extensions import Self

from ..runtime.exit import unless_ending
from ..runtime.loop_inbox import LoopInbox, inbox_of_running_loop
from .progress import Progress
from .proxy import FutureProxy

__all__ = ("AsCompleted", "SubmittedFuture")


class SubmittedFuture(Protocol):
    """A :class:`FutureProxy` of any result, as the bound of a type variable.

    With the bound ``FutureProxy[Any]``, pyright would infer no more than that for a future that is
    submitted inside the call: ``as_completed([executor.submit(load, 1)])``.
    """

    def watch(self) -> AsyncIterator[Progress]: ...


F = TypeVar("F", bound=SubmittedFuture)


class AsCompleted(AsyncIterator[F]):
    """Yields each future once, as soon as it is done.

    Not a generator, so that ``break`` ends it at once, and ``anext()`` works again after an
    ``asyncio.wait_for(anext(...))`` has timed out. A generator that is left early is closed by its
    loop some time later, and one that is cancelled while it waits is finished.
    """

    def __init__(self, futures: Iterable[F], timeout: float | None) -> None:
        # An ordered set of the futures not yet returned.
        self._left: dict[FutureProxy[Any], None] = {}
        self._arrivals = _Arrivals()
        self._timeout = timeout
        self._end = None if timeout is None else timeout + time.monotonic()
        given: list[Any] = list(futures)
        for future in given:
            if not isinstance(future, FutureProxy):
                raise TypeError(
                    f"as_completed() got {future!r}: expected futures returned by submit()"
                )
        self._left = dict.fromkeys(given)
        self._count = len(self._left)
        done = [future for future in self._left if not future._watch(self._arrivals, first=True)]
        done.sort(key=lambda future: future._outcomes[0][3], reverse=True)
        self._arrivals.done.extendleft(done)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> F:
        if not self._left:
            raise StopAsyncIteration
        future = await self._next_arrival()
        while future not in self._left:  # it came twice, as waiters may be called twice
            future = await self._next_arrival()
        del self._left[future]
        return cast(F, future)

    async def _next_arrival(self) -> FutureProxy[Any]:
        arrivals = self._arrivals
        while not arrivals.done:
            seconds = None if self._end is None else self._end - time.monotonic()
            if seconds is not None and seconds <= 0:
                left = len(self._left)
                self._forget()
                raise FutureTimeoutError(
                    f"{left} of {self._count} futures are not done after {self._timeout} seconds"
                )
            await arrivals.wait(seconds)
        return arrivals.done.popleft()

    @unless_ending
    def __del__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        for future in self._left:
            future._take(self._arrivals)
        self._left = {}


class _Arrivals:
    """The futures that are done and not yet returned. It watches them without keeping the iterator.

    No lock: a worker adds a future before it looks for a waiting task, and a task registers before
    it looks for a future. So the second of the two always sees the first.
    """

    def __init__(self) -> None:
        self.done: deque[FutureProxy[Any]] = deque()
        self._waiter: tuple[LoopInbox, asyncio.Future[None]] | None = None

    def __call__(self, future: FutureProxy[Any]) -> None:
        self.done.append(future)
        if (waiter := self._waiter) is not None:
            inbox, woken = waiter
            inbox.post(_wake, woken)  # False if the loop is closed: no task waits there any more

    async def wait(self, timeout: float | None) -> None:
        """Wait until a future is done, or for ``timeout`` seconds."""
        if self._waiter is not None:
            raise RuntimeError("another task is already waiting for the next of these futures")
        loop, inbox = inbox_of_running_loop()
        woken = loop.create_future()
        self._waiter = inbox, woken
        try:
            if not self.done:
                await asyncio.wait([woken], timeout=timeout)
        finally:
            self._waiter = None


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
