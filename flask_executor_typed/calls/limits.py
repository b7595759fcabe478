"""The limits of a call, and the way that an engine is to take with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import JobTimeoutError
from ..futures import FutureProxy, facts_of, interrupt
from .reports import explain, log_call

__all__ = (
    "Backoff",
    "Deadline",
    "Limits",
    "Route",
)


Backoff: TypeAlias = float | Callable[[int], float]
"""Seconds between the first two attempts, doubled each time; or a function that returns the seconds
to wait after an attempt, given its number, counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What an engine is asked for one message; ``using()`` has checked the values."""

    queue: str | None = None
    """The queue to put it into; ``None``: the engine's default."""

    priority: int | None = None
    """0 to 9. Which end is served first is up to the engine and its broker."""

    delay: float = 0.0
    """Seconds before a worker may get it. A job that is published again isn't delayed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The time limit of a call, the number of its retries, and what it asks of an engine."""

    timeout: float | None = None
    """Seconds from the call's start to its end, pauses and retries included."""

    retries: int = 0
    """Attempts after the first."""

    backoff: Backoff = 0.0

    route: Route = Route()

    expires: float | None = None
    """Seconds from the submission after which no worker begins the call any more."""

    @property
    def need_engine(self) -> bool:
        return self.expires is not None or self.route != Route()

    def pause_after(self, attempt: int) -> float:
        backoff = self.backoff
        return backoff(attempt) if callable(backoff) else backoff * 2.0 ** (attempt - 1)


class Deadline:
    """Fails a call whose time is up, through its future: the call itself may end at any moment."""

    def __init__(
        self,
        future: FutureProxy[Any],
        seconds: float,
        logger: logging.Logger | None,
        fn: Callable[..., object],
    ) -> None:
        self._future = future
        self._seconds = seconds
        self._logger = logger
        self._fn = fn

    def __call__(self) -> None:
        future = self._future
        error = JobTimeoutError(future.name, self._seconds)
        explain(error, future)
        if interrupt(future, error) and self._logger is not None:
            message = "Background job %s [%s] took too long"
            attempt = facts_of(future).attempts
            log_call(
                self._logger, message, future=future, fn=self._fn, attempt=attempt, error=error
            )
