"""A call that waits for an event, such as the end of a response or a commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..futures import FutureCollection, release_key
from .call import Call

__all__ = (
    "HeldCall",
    "Hold",
    "Until",
)


class Submitter(Protocol):
    """What a held call needs of its executor."""

    futures: FutureCollection[Any]

    def hand_over(self, call: Call[Any]) -> None: ...


class HeldCall:
    """A call with a future, and with its key, that no worker knows of yet."""

    __slots__ = ("_call", "_submitter")

    def __init__(self, submitter: Submitter, call: Call[Any]) -> None:
        self._submitter = submitter
        self._call = call
        call.future._held = True

    def submit(self) -> None:
        """Hand the call to the workers, unless it was cancelled. Raises nothing."""
        if not self._call.future.done():
            self._call.end_hold()
            self._submitter.hand_over(self._call)

    def drop(self) -> None:
        """Cancel the call and free its key."""
        future = self._call.future
        if not future.done():
            release_key(self._submitter.futures, future)
            future.cancel()


Hold = Callable[[HeldCall], object]
"""Takes a call and keeps it until the event."""

Until = Callable[[], Hold]
"""Finds the event to wait for, each time that a call is submitted."""
