"""The event loop that runs in this thread, if one does.

The only module that hides a running loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator

__all__ = ("no_running_loop", "running_loop")

running_loop: Callable[[], asyncio.AbstractEventLoop | None] = asyncio._get_running_loop
"""Return the loop that runs in this thread, or ``None``; ``asyncio.get_running_loop`` raises."""


@contextlib.contextmanager
def no_running_loop() -> Generator[None, None, None]:
    """Let plain code use ``async_to_sync`` and the like inside a running loop."""
    loop = running_loop()
    try:
        asyncio._set_running_loop(None)
        yield
    finally:
        asyncio._set_running_loop(loop)
