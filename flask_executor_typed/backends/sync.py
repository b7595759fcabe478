"""Run each call in the thread that submits it, with ``EXECUTOR_TYPE='sync'``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..calls import Call
from .borrowed import BackendInThreads

__all__ = ("SyncBackend",)


class SyncBackend(BackendInThreads):
    """Runs each call when it is submitted, in the thread of the submitter, who waits.

    What the job does to contexts and context variables stays in there, as in another thread. A
    coroutine runs on a loop of ours, and the submitter waits for it, also on a loop of its own.
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
