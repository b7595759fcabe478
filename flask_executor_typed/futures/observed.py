"""Futures that note whether a caller has asked how their calls ended, for tests."""

from __future__ import annotations

from typing import Any, TypeVar

from .callbacks import default_callback_runs_here
from .proxy import FutureProxy

__all__ = ("failure_of", "note_asked", "observe", "result_of", "was_asked")

R = TypeVar("R")


class _ObservedFuture(FutureProxy[R]):
    __slots__ = ()

    _was_asked: bool = False

    def result(self, timeout: float | None = None) -> R:
        try:
            return super().result(timeout)
        finally:
            self._note()
            del self  # see FutureProxy.result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        try:
            return super().exception(timeout)
        finally:
            self._note()
            del self

    def _note(self) -> None:
        # Default callbacks ask on behalf of the app, which reports all failures that way.
        if self.done() and not default_callback_runs_here():
            self._was_asked = True


_ObservedFuture.__name__ = FutureProxy.__name__  # in tests a repr() is what it is elsewhere


def observe(future: FutureProxy[Any]) -> None:
    """Note from now on whether a caller asks how the call of ``future`` ended."""
    future.__class__ = _ObservedFuture


def was_asked(future: FutureProxy[Any]) -> bool:
    """Return whether a caller has asked for the outcome since :func:`observe`."""
    return isinstance(future, _ObservedFuture) and future._was_asked


def note_asked(future: FutureProxy[Any]) -> None:
    if isinstance(future, _ObservedFuture):
        future._was_asked = True


def failure_of(future: FutureProxy[Any]) -> BaseException | None:
    """Return what a call that is over raised, if anything, without asking for it."""
    if not future.done() or future.cancelled():
        return None
    unobserved: Any = FutureProxy
    failure: BaseException | None = unobserved.exception(future)
    return failure


def result_of(future: FutureProxy[Any]) -> object:
    """Return the result of a call that is over, without asking for it."""
    unobserved: Any = FutureProxy
    result: object = unobserved.result(future)
    return result
