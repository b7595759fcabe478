"""Create event loops: uvloop's, asyncio's, or those of ``EXECUTOR_LOOP_FACTORY``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..runtime.forks import around_fork

__all__ = ("make_loop",)

_importing = threading.RLock()  # held while uvloop is imported, and at a fork


def make_loop(new_loop: Callable[[], object] | None) -> asyncio.AbstractEventLoop:
    """Create a loop with ``new_loop``, or the default way.

    Raises:
        TypeError: ``new_loop`` returned something other than a new loop.
    """
    make = new_loop or _new_loop_of_uvloop_or_asyncio
    loop = make()
    if not isinstance(loop, asyncio.AbstractEventLoop) or loop.is_running() or loop.is_closed():
        raise TypeError(
            f"EXECUTOR_LOOP_FACTORY: {make!r} returned {loop!r}: expected a new event loop"
        )
    return loop


def _new_loop_of_uvloop_or_asyncio() -> asyncio.AbstractEventLoop:
    """Create uvloop's loop if it is installed, or else asyncio's."""
    try:
        with _importing:
            uvloop: Any = import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _finish_imports() -> None:
    """Wait before a fork: a child can never import what a thread of its parent was importing."""
    _importing.acquire()


def _go_on() -> None:
    _importing.release()


def _forget_parent() -> None:
    global _importing  # noqa: PLW0603
    _importing = (
        threading.RLock()
    )  # not released: uWSGI calls this without the function that acquires it


around_fork(_finish_imports, _go_on, _forget_parent)
