"""Start this package's own tasks, and cancel those that users' code has started.

Cancelling waits for their cleanup: at the end of a loop, or of an async view. A single job is
cancelled in thread.py, and cleans up in its own task, ``Call.run_async``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any

__all__ = ("cancel_and_wait", "create_task")


# Our own tasks bypass the loop's factory, which is for the tasks that views and jobs start.
if sys.version_info >= (3, 12):
    # Eager: a coroutine that never waits finishes at once, without a turn of the loop.
    create_task: Callable[..., asyncio.Task[None]] = partial(asyncio.Task, eager_start=True)

elif sys.version_info >= (3, 11):

    def create_task(
        coroutine: Coroutine[Any, Any, None], *, loop: asyncio.AbstractEventLoop, context: Context
    ) -> asyncio.Task[None]:
        return asyncio.Task(coroutine, loop=loop, context=context)

else:

    def create_task(
        coroutine: Coroutine[Any, Any, None], *, loop: asyncio.AbstractEventLoop, context: Context
    ) -> asyncio.Task[None]:
        return context.run(lambda: asyncio.Task(coroutine, loop=loop))  # which copies it


async def cancel_and_wait(tasks: set[asyncio.Task[Any]], timeout: float | None = None) -> None:
    """Cancel tasks, except the current one, and let them clean up for ``timeout`` seconds.

    They report their own exceptions.
    """
    others = {task for task in tasks if task is not asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=timeout)
