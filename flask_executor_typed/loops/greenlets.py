"""A stand-in for loops in a process whose threads are greenlets of gevent or eventlet.

All greenlets run in one system thread, and Python keeps one running event loop per system thread.
All the others, views included, would take a loop in one greenlet for their own, and no second loop
could run.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

from ..calls import Call
from ..errors import GreenThreadsError
from ..runtime.exit import finish_at_atexit
from .pool import LoopPool

__all__ = ("NoLoops",)

R = TypeVar("R")


class NoLoops(LoopPool):
    """A pool without loops: asking for one raises an error that explains why there is none."""

    def __init__(self, name: str, library: str) -> None:
        super().__init__(name, 0)
        self._library = library
        self._here = threading.local()
        if library == "eventlet":
            finish_at_atexit()  # eventlet makes ``threading._shutdown`` do nothing

    def submit(self, call: Call[Any]) -> None:
        self._refuse_coroutine(call.future.name)

    def wait_for(self, awaitable: Awaitable[R]) -> R:
        if inspect.iscoroutine(awaitable):
            awaitable.close()  # otherwise Python warns that it was never awaited
        self._refuse_coroutine("what the job returned")

    def start_one(self) -> None:
        """Do nothing: plain functions need no loop."""

    def bridge_this_thread(
        self, waits: Callable[[], object], goes_on: Callable[[], object]
    ) -> None:
        self._here.works = True

    def serves_this_thread(self) -> bool:
        return getattr(self._here, "works", False)

    def _refuse_coroutine(self, name: str) -> NoReturn:
        raise GreenThreadsError(
            self._library,
            f"runs the threads of this process as greenlets, among which no event loop can run; "
            f"{name} is asynchronous",
            "use plain functions, which wait in greenlets as well, or a server with threads, such "
            "as gunicorn --worker-class gthread",
        )
