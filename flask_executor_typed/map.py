"""The results of ``map``: submit calls ahead, and return their results in order.

A chunk is one call that calls the user's function many times.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypedDict, TypeVar

from .callables import is_async_callable
from .calls import can_be_awaited
from .errors import QueueFullError
from .futures import AsCompleted, FutureProxy
from .options import check_count
from .runtime.exit import unless_ending

__all__ = ("MapOptions", "Results", "calls_in")

R_co = TypeVar("R_co", covariant=True)

Submit = Callable[[Callable[..., Any], tuple[Any, ...]], FutureProxy[Any]]
"""Submits one call of a function, with its arguments."""


class MapOptions(TypedDict, total=False):
    """The options of ``map``, for executors and jobs."""

    timeout: float | None
    chunksize: int
    buffersize: int | None


class Results(Iterator[R_co], AsyncIterator[R_co]):
    """The results of ``map``, in the order of the items.

    ``for`` and ``next()`` block until the next result arrives; ``async for`` and ``anext()`` wait
    without blocking the loop. Only for a single consumer, a thread or a task: if several are to
    read results, submit the calls one by one and share their futures.

    Once iteration has begun, leaving the loop drops the results and cancels the remaining calls, as
    :meth:`close` does. If the results are never read, nothing is cancelled.
    """

    _has_begun = False

    def __init__(
        self,
        submit: Submit,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> None:
        check_count("chunksize", chunksize)
        if buffersize is not None:
            check_count("buffersize", buffersize)
        self._end = None if timeout is None else timeout + time.monotonic()
        self._here: deque[Any] = deque()
        """Results that have arrived; several only if they are a chunk's."""
        self._is_chunked = chunksize > 1 and not is_async_callable(fn)
        arguments: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        self._calls: Iterator[FutureProxy[Any]]
        if self._is_chunked:
            chunks = iter(lambda: tuple(itertools.islice(arguments, chunksize)), ())
            self._calls = (submit(_run_chunk, (fn, chunk)) for chunk in chunks)
            ahead = buffersize and -(-buffersize // chunksize)
        else:
            self._calls = (submit(fn, args) for args in arguments)
            ahead = buffersize
        self._has_more = ahead is not None
        self._futures: deque[FutureProxy[Any]] = deque()
        try:
            self._futures.extend(itertools.islice(self._calls, ahead))
        except QueueFullError:
            self.close()  # no Results will be returned to read them
            raise

    def __next__(self) -> R_co:
        if not self._here:
            if not self._futures:
                raise StopIteration
            self._has_begun = True
            self._take(self._futures.popleft())
        result: R_co = self._here.popleft()
        return result

    async def __anext__(self) -> R_co:
        if not self._here:
            if not self._futures:
                raise StopAsyncIteration
            self._has_begun = True
            self._take(await self._arrived(self._futures.popleft()))
        result: R_co = self._here.popleft()
        return result

    def close(self) -> None:
        """Cancel the calls that have not started, and running coroutines. Ends the iteration."""
        self._calls = iter(())
        self._here.clear()
        while self._futures:
            self._futures.popleft().cancel()

    async def aclose(self) -> None:
        """Like :meth:`close`, for ``contextlib.aclosing``."""
        self.close()

    @unless_ending
    def __del__(self) -> None:
        if self._has_begun:
            self.close()

    async def _arrived(self, future: FutureProxy[Any]) -> FutureProxy[Any]:
        """Return the future once :meth:`_take` does not block: it is done, or the time is up."""
        try:
            with contextlib.suppress(FutureTimeoutError):  # which _take() raises
                async for _ in AsCompleted([future], self._seconds_left()):
                    pass
                if self._is_chunked and future.status == "succeeded":
                    async for _ in AsCompleted(_futures_in(future.result()), self._seconds_left()):
                        pass
        except BaseException:  # this task was cancelled: the next consumer gets the result
            self._futures.appendleft(future)
            raise
        return future

    def _take(self, future: FutureProxy[Any]) -> None:
        """Wait for the results of a call, and submit another one if there are more."""
        try:
            # Results get no name here, under which they would live until the next one is read.
            if not self._is_chunked:
                self._here.append(future.result(self._seconds_left()))
            else:
                self._here.extend(future.result(self._seconds_left()))
                if _futures_in(self._here):
                    self._here = deque(map(self._value_of, self._here))
            if self._has_more:
                self._futures.extend(itertools.islice(self._calls, 1))
        except BaseException:
            self._futures.appendleft(future)
            self.close()
            raise
        finally:
            del future  # see FutureProxy.result()

    def _value_of(self, item: Any) -> Any:
        """Return an item of a chunk's results, or the result of an item that is a future."""
        try:
            return item.result(self._seconds_left()) if _is_future(type(item)) else item
        finally:
            del item  # see FutureProxy.result()

    def _seconds_left(self) -> float | None:
        return None if self._end is None else self._end - time.monotonic()


def _futures_in(results: Iterable[Any]) -> list[FutureProxy[Any]]:
    """Return the futures among the results of a chunk, which belong to other calls."""
    if not any(map(_is_future, _types_of(results))):
        return []
    return [result for result in results if _is_future(type(result))]


def calls_in(
    fn: Callable[..., Any], args: tuple[Any, ...]
) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return the calls of the user's function in one call: several if it is a chunk."""
    return [(args[0], each) for each in args[1]] if fn is _run_chunk else [(fn, args)]


# -- in the worker ---------------------------------------------------------------------------------


def _run_chunk(fn: Callable[..., Any], chunk: tuple[tuple[Any, ...], ...]) -> Any:
    results = list(itertools.starmap(fn, chunk))
    return _awaited(results) if any(map(_must_be_awaited, _types_of(results))) else results


async def _awaited(results: list[Any]) -> list[Any]:
    return [
        await result if _must_be_awaited(type(result)) and can_be_awaited(result) else result
        for result in results
    ]


# -- in both ---------------------------------------------------------------------------------------


def _types_of(results: Iterable[Any]) -> Iterable[type[object]]:
    """Return the types of results; usually there are few."""
    try:
        return set(map(type, results))
    except TypeError:  # a metaclass may create unhashable types
        return map(type, results)


def _is_future(kind: Any) -> bool:
    return issubclass(kind, FutureProxy)


def _must_be_awaited(kind: Any) -> bool:
    return hasattr(kind, "__await__") and not _is_future(kind)
