"""Run each call in the thread that submits it, with ``EXECUTOR_TYPE='sync'``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..calls import Call
from .borrowed import BackendInThreads

__all__ = ("SyncBackend",)


class SyncBackend(BackendInThreads):
    """Runs each call inside ``submit()``, in the submitting thread.

    Contexts and context variables are isolated as in another thread: the submitter sees none of the
    job's changes. A coroutine runs on one of the backend's own loops, and ``submit()`` blocks until
    it is done, even when called from a running loop.
    """

    def __init__(
        self, name: str, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
    ) -> None:
        super().__init__(name, "EXECUTOR_TYPE='sync'", loop_factory)

    def submit(self, call: Call[Any]) -> None:
        self.accept(call)
        try:
            self.run(call)
        finally:
            self.release(call)
