"""Warn about jobs that block an event loop.

The only module that looks into the stack of another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Callable

from ..futures import FutureProxy, app_of, id_of
from ..runtime.frames import PACKAGE_FOLDER
from ..runtime.threads import start_thread

__all__ = ("Watchdog", "stack_of")

_logger = logging.getLogger("flask_executor_typed")

_ASKED_EVERY = 0.25
"""The share of the allowed seconds between two checks. A warning is late by at most that much."""


class Watchdog:
    """Keep asking the current thread's event loop for a sign of life, from a thread of its own.

    Args:
        loop: The loop that this thread is about to run.
        name: The name of the loop's thread, for the warning.
        seconds: Seconds an answer may take.
        running: Returns the future of the job that the loop is running; called in the watching
            thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        seconds: float,
        running: Callable[[], FutureProxy[object] | None],
    ) -> None:
        self._loop = loop
        self._name = name
        self._seconds = seconds
        self._running = running
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._answered = threading.Event()
        with contextlib.suppress(RuntimeError):  # no more threads: jobs run unwatched
            start_thread(f"{name}-watchdog", self._watch)

    def end(self) -> None:
        """Stop watching: the loop is closed."""
        # A question that was asked before the loop closed is never answered. Its event existed
        # before the question did, so this one is it; and asking a closed loop is an error.
        self._ended.set()
        self._answered.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds * _ASKED_EVERY):
            answered = self._answered = threading.Event()
            try:
                self._loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # closed
                return
            if not answered.wait(self._seconds):
                with contextlib.suppress(BaseException):  # a log handler may raise anything
                    self._warn()
                answered.wait()  # warn once for each block

    def _warn(self) -> None:
        future = self._running()
        stack = stack_of(self._watched)
        app = None if future is None else app_of(future)
        logger = _logger if app is None else app.logger
        logger.warning(
            "%s has blocked the event loop of %s for more than %g s, and all other jobs there "
            "wait. It is here:\n%s",
            "A callback" if future is None else f"Background job {future.name} [{id_of(future)}]",
            self._name,
            self._seconds,
            "".join(_below_this_package(stack).format()).rstrip(),
        )


def stack_of(thread: int | None) -> traceback.StackSummary:
    """Return the stack of the thread with that ident, outermost call first; empty if it ended."""
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
    frame = None if thread is None else frames.get(thread)
    return traceback.StackSummary() if frame is None else traceback.extract_stack(frame)


def _below_this_package(stack: traceback.StackSummary) -> traceback.StackSummary:
    """Return the part of a stack that the job itself called."""
    ours = PACKAGE_FOLDER
    inner = [number for number, frame in enumerate(stack, 1) if frame.filename.startswith(ours)]
    return traceback.StackSummary.from_list(stack[inner[-1] if inner else 0 :])
