"""Resources that belong to an event loop, such as HTTP clients and connection pools."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar, final

from ..callables import name_of
from ..errors import OutsideLoopError
from ..runtime.logs import log_exception
from .current import loop_thread_here, resident_here

__all__ = ("LoopResource",)

V = TypeVar("V")

_logger = logging.getLogger("flask_executor_typed")


@final
class LoopResource(Generic[V]):
    """One ``V`` for each event loop, opened on first use there and closed with the loop.

    Created by :meth:`Executor.loop_resource`.
    """

    def __init__(self, factory: Callable[[], AbstractAsyncContextManager[V]]) -> None:
        given: Any = factory
        if not callable(given) or inspect.iscoroutinefunction(given):
            raise TypeError(
                f"expected a function that returns an async context manager, got {given!r}"
            )
        self._factory = factory
        self._name = name_of(factory)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._name}>"

    async def get(self) -> V:
        """Return this loop's resource, opening it first if necessary. Do not close it.

        Concurrent callers wait for the same resource. If it cannot be opened, all of them get the
        exception, and the next caller tries again.

        Raises:
            OutsideLoopError: the running loop is not this package's, so its end is unknown; a
                ``RuntimeError``.
        """
        thread = loop_thread_here()
        if thread is None:
            raise OutsideLoopError(self._name)
        held: Any = thread.residents.get(self)
        if held is None:
            held = _Held(self._factory, self._name)
            held.task = thread.admit(self, held, held.live(self, thread.residents))
        opened: asyncio.Future[V] = held.opened
        if opened.done():
            return opened.result()
        if resident_here() is held:
            raise RuntimeError(f"{self._name}() asks for the very resource that it is to open")
        return await asyncio.shield(opened)  # the others still want it if this one is cancelled


class _Held(Generic[V]):
    """The resource of one loop, and the task that opens it and finally closes it.

    One task for both, because task groups and cancel scopes require it.
    """

    task: asyncio.Task[None]

    def __init__(self, factory: Callable[[], AbstractAsyncContextManager[V]], name: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[V] = self.loop.create_future()
        self._factory = factory
        self._name = name
        self._closing = asyncio.Event()

    async def live(self, key: object, residents: dict[object, Any]) -> None:
        try:
            async with self._manager() as value:
                if residents.get(key) is self:
                    # To the end: resources that it uses were opened meanwhile and must close later.
                    residents[key] = residents.pop(key)
                self.opened.set_result(value)
                await self._closing.wait()
        except asyncio.CancelledError:
            self.opened.cancel()
        except BaseException as error:
            if self.opened.done():
                log_exception(_logger, "closing what %s() opened failed", self._name, error=error)
            else:
                if isinstance(error, StopIteration):  # a future of asyncio refuses it
                    error = RuntimeError(f"{self._name}() raised {error!r}")
                self.opened.set_exception(error)
        finally:
            if residents.get(key) is self:
                del residents[key]

    def _manager(self) -> AbstractAsyncContextManager[V]:
        manager = self._factory()
        given: object = manager
        if not hasattr(given, "__aenter__"):
            raise TypeError(f"{self._name}() returned {given!r}: expected an async context manager")
        return manager

    async def close(self) -> None:
        self._closing.set()
        if not self.opened.done():
            self.task.cancel()
        await asyncio.wait([self.task])
