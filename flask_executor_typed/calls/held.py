"""Hold a call back until an event, such as the end of a response or a commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..futures import FutureCollection, hold, release_key
from .call import Call

__all__ = (
    "HeldCall",
    "Hold",
    "Until",
)


class Submitter(Protocol):
    """The part of an executor that a held call needs."""

    futures: FutureCollection[Any]

    def hand_over(self, call: Call[Any]) -> None: ...


class HeldCall:
    """A call that has its future and key, but has not been handed to the workers."""

    __slots__ = ("_call", "_submitter")

    def __init__(self, submitter: Submitter, call: Call[Any]) -> None:
        self._submitter = submitter
        self._call = call
        hold(call.future)

    def submit(self) -> None:
        """Hand the call to the workers, unless it was cancelled. Never raises."""
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
"""Takes a call and holds it until the event."""

Until = Callable[[], Hold]
"""Finds the event to wait for. Called for each submitted call."""
