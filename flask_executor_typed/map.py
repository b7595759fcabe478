"""``map`` and ``amap``: calls that are submitted ahead of their results, which come in order.

A chunk is one call, which makes many of the user's function.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from .callables import is_async_callable
from .calls import can_be_awaited, is_of_another_call
from .errors import QueueFullError
from .futures import FutureProxy

__all__ = ("Window", "end_after", "window_of")

Submit = Callable[[Callable[..., Any], tuple[Any, ...]], FutureProxy[Any]]
"""Submits one of the calls, of a function and its arguments."""


def window_of(
    submit: Submit,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    chunksize: int,
    buffersize: int | None,
) -> Window:
    """Submit calls for the items of the iterables: for ``buffersize`` of them, or for all.

    Raises:
        QueueFullError: there is no room for one; then all are cancelled.
    """
    arguments: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
    if chunksize > 1 and not is_async_callable(fn):
        chunks = iter(lambda: tuple(itertools.islice(arguments, chunksize)), ())
        calls = (submit(_run_chunk, (fn, chunk)) for chunk in chunks)
        return Window(calls, buffersize and -(-buffersize // chunksize), chunked=True)
    calls = (submit(fn, args) for args in arguments)
    return Window(calls, buffersize, chunked=False)


def end_after(timeout: float | None) -> float | None:
    """When so many seconds are over, by ``time.monotonic()``."""
    return None if timeout is None else timeout + time.monotonic()


class Window:
    """The calls of a ``map``: those that are submitted, and those still to be."""

    def __init__(
        self, calls: Iterator[FutureProxy[Any]], size: int | None, *, chunked: bool
    ) -> None:
        self._calls = calls
        self._has_more = size is not None
        self._chunked = chunked
        self._futures: deque[FutureProxy[Any]] = deque()
        try:
            self._futures.extend(itertools.islice(calls, size))
        except QueueFullError:
            self._cancel()  # nobody will ask for their results
            raise

    def results(self, end: float | None) -> Iterator[Any]:
        """The results, each waited for until ``end``."""
        try:
            while self._futures:
                # No name for a result, under which it would live until the next is asked for.
                if not self._chunked:
                    yield self._take(end)
                    continue
                chunk = deque(self._take(end))
                if any(issubclass(kind, FutureProxy) for kind in _types_of(chunk)):
                    while chunk:
                        yield _value_of(chunk.popleft(), end)
                while chunk:
                    yield chunk.popleft()
        finally:
            self._cancel()

    async def aresults(self, end: float | None) -> AsyncIterator[Any]:
        """The same without blocking the loop, of calls that are no chunks."""
        try:
            while self._futures:
                if end is None:
                    await self._futures[0]
                else:
                    # _take() tells whether it is done; wait_for() may give up before it looks,
                    # and raises something of its own on Python 3.10.
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._futures[0], end - time.monotonic())
                yield self._take(time.monotonic())
        finally:
            self._cancel()

    def _take(self, end: float | None) -> Any:
        """Give the next result away, and submit another call if one is left."""
        result = self._futures[0].result(None if end is None else end - time.monotonic())
        self._futures.popleft()
        if self._has_more:
            self._futures.extend(itertools.islice(self._calls, 1))
        return result

    def _cancel(self) -> None:
        while self._futures:
            self._futures.popleft().cancel()


def _value_of(item: Any, end: float | None) -> Any:
    """An item of a chunk's results, awaited until ``end`` if it is the future of another call."""
    try:
        if is_of_another_call(item):
            return item.result(None if end is None else end - time.monotonic())
        return item
    finally:
        del item  # see FutureProxy.result()


# -- in the worker ---------------------------------------------------------------------------------


def _run_chunk(fn: Callable[..., Any], chunk: tuple[tuple[Any, ...], ...]) -> Any:
    results = list(itertools.starmap(fn, chunk))
    return _awaited(results) if any(map(_must_be_awaited, _types_of(results))) else results


def _types_of(results: Iterable[Any]) -> Iterable[type[object]]:
    """The types of many results, of which there are few."""
    try:
        return set(map(type, results))
    except TypeError:  # a metaclass may make types that have no hash
        return map(type, results)


async def _awaited(results: list[Any]) -> list[Any]:
    return [
        await result if _must_be_awaited(type(result)) and can_be_awaited(result) else result
        for result in results
    ]


def _must_be_awaited(kind: Any) -> bool:
    return hasattr(kind, "__await__") and not issubclass(kind, FutureProxy)
