"""Run async views on lasting event loops, instead of a new loop and two new threads per call.

The only module that sets Flask's hook for this, ``Flask.async_to_sync``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import MethodType
from typing import Any, TypeVar
from weakref import ref

from flask import Flask

from ..errors import ConfigError
from ..loops import has_loop_of_asgirefs, serves_this_thread, stock_async_to_sync
from ..runtime.exit import ClosableThreads, unless_ending
from .loop import ViewLoop

__all__ = ("AsyncViews", "check_hook")

R = TypeVar("R")

_HOOK = "async_to_sync"

_SPARE_LOOPS = 4
"""Loops kept for new threads: ``flask run`` starts one for each connection."""


def check_hook(app: Flask, key: str, ours: AsyncViews | None) -> None:
    """Refuse an app whose hook is already in use: that code would silently stop being called.

    Raises:
        ConfigError: with ``key``, the setting that asks for the hook.
    """
    hook: object = vars(app).get(_HOOK)
    owner = hook.__self__ if isinstance(hook, MethodType) else None
    if isinstance(owner, AsyncViews):
        if owner is not ours and not owner.closed:
            by = f"the async views of {app.name!r} run on the loops of {owner.name} already"
            raise ConfigError(key, True, f"one executor for each app with this setting; {by}")
    elif hook is not None or type(app).async_to_sync is not Flask.async_to_sync:
        name = type(app).__name__ if hook is None else repr(app)
        raise ConfigError(key, True, f"False, because {name} has an async_to_sync() of its own")


class AsyncViews(ClosableThreads):
    """One loop for each server thread that has run an async view. Thread-safe.

    A thread keeps its loop, so the async functions of one request can share what they open. When
    the thread ends, the next new thread takes over its loop.
    """

    def __init__(
        self, name: str, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
    ) -> None:
        self.name = name
        self._loop_factory = loop_factory
        self.closed: bool = False  # set under _lock
        self._here = threading.local()
        self._spare: list[ViewLoop] = []
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.RLock()  # reentrant: a finalizer may shut down while it is held
        self._loops: list[ViewLoop] = []  # including ended ones; guarded by _lock
        self._busy: set[ViewLoop] = set()  # guarded by _lock
        self._closing: set[ViewLoop] = set()  # their view shuts down; guarded by _lock
        self._numbers = itertools.count()

    def install(self, app: Flask) -> None:
        """Run the async functions of ``app`` here from now on; see :func:`check_hook`."""
        vars(app)[_HOOK] = self.async_to_sync

    def async_to_sync(self, func: Callable[..., Coroutine[Any, Any, R]]) -> Callable[..., R]:
        """Return a function that runs ``func`` on the loop of the thread that calls it."""

        def call(*args: Any, **kwargs: Any) -> R:
            loop = None if has_loop_of_asgirefs() else self._take()
            if loop is None:
                return stock_async_to_sync(func)(*args, **kwargs)
            try:
                return loop.run(func, args, kwargs)
            finally:
                self._give_back(loop)

        return call

    def _take(self) -> ViewLoop | None:
        """Return this thread's loop; ``None`` after a shutdown, when stock Flask takes over."""
        seat: _Seat | None = getattr(self._here, "seat", None)
        with self._lock:
            if self.closed:
                return None
            if seat is None:
                try:
                    seat = self._here.seat = _Seat(self, self._spare_loop() or self._new_loop())
                except (RuntimeError, OSError):  # no more threads or files, or it is the end
                    return None
            self._busy.add(seat.loop)
            return seat.loop

    def _spare_loop(self) -> ViewLoop | None:
        with suppress(IndexError):
            return self._spare.pop()
        return None

    def _new_loop(self) -> ViewLoop:
        self._loops = [loop for loop in self._loops if loop.alive]
        name = f"{self.name}-view-loop-{next(self._numbers)}"
        loop = ViewLoop(name, self.name, self._loop_factory)
        self._loops.append(loop)
        return loop

    def _give_back(self, loop: ViewLoop) -> None:
        with self._lock:
            self._busy.discard(loop)
            self._closing.discard(loop)
            ends = self.closed
        if loop.lost_its_thread:
            # The end cancels the view that still runs there. The next request of this thread gets
            # another loop, or it would run code of this view, whose end would cancel its tasks.
            self._here.seat = None
            ends = True
        if ends:
            loop.end()

    def vacate(self, loop: ViewLoop) -> None:
        """Take back the loop of a thread that has ended. Called by a finalizer: takes no lock."""
        if loop.lost_its_thread or len(self._spare) >= _SPARE_LOOPS:
            loop.end()
        else:
            # A shutdown finds the loop in _loops, before or after this.
            self._spare.append(loop)

    def close(self, *, cancel_pending: bool) -> None:
        """End each loop as soon as its view is done. New views run as in stock Flask."""
        with self._lock:
            self.closed = True
            self._closing.update(loop for loop in self._busy if loop.runs_here())
            idle = [loop for loop in self._loops if loop not in self._busy]
        for loop in idle:
            loop.end()

    def runs_here(self) -> bool:
        # A view, or a job that it awaits, would wait for itself; and so would a callback.
        return serves_this_thread() or super().runs_here()

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            return [thread for loop in self._loops for thread in loop.threads()]

    def abandon(self, seconds: float) -> None:
        """Cancel the running views, except those that are shutting the executor down."""
        with self._lock:
            loops = [loop for loop in self._loops if loop not in self._closing]
        for loop in loops:
            loop.abandon(seconds)

    def kill(self) -> bool:
        return False

    def forget_parent(self) -> None:
        """Forget the parent's loops in the child of a fork."""
        self._here = threading.local()
        self._spare = []
        self._forget()

    @unless_ending
    def __del__(self) -> None:
        for loop in self._spare:  # the others are ended by their threads' seats
            loop.end()


class _Seat:
    """A thread-local value that gives the loop back when its thread ends."""

    def __init__(self, views: AsyncViews, loop: ViewLoop) -> None:
        self.loop = loop
        self._views = ref(views)  # a thread may outlive the app
        self._process = os.getpid()

    @unless_ending
    def __del__(self) -> None:
        if self._process != os.getpid():
            return  # the loop belongs to the parent process
        views = self._views()
        if views is None:
            self.loop.end()
        else:
            views.vacate(self.loop)
