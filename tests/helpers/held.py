"""Calls that last as long as a test wants."""

from __future__ import annotations

import threading

from ..conftest import TIMEOUT


def worker_name() -> str:
    return threading.current_thread().name


class Held:
    """Calls that do not end before the test releases them."""

    def __init__(self) -> None:
        self._begun = threading.Semaphore(0)
        self._release = threading.Event()

    def __call__(self) -> str:
        self._begun.release()
        assert self._release.wait(TIMEOUT)
        return worker_name()

    def until_begun(self, calls: int = 1) -> None:
        for _ in range(calls):
            assert self._begun.acquire(timeout=TIMEOUT)

    def let_go(self) -> None:
        self._release.set()


class HeldOnce:
    """One call that has begun and does not end before the test lets it go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.release.wait(TIMEOUT)
        return "held"

    async def on_the_loop(self) -> str:
        """The same for a loop, which does nothing else meanwhile."""
        return self()
