"""The end of an executor: what it keeps for its apps is closed, and waited for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from math import inf

from .futures import FutureProxy
from .runtime.exit import Closable, drain
from .runtime.threads import start_thread
from .states import AppState

__all__ = ("Closed", "close_all", "drain_apart")

Closed = list[tuple[Closable, float]]
"""What refuses calls now, each with the seconds in which those it has accepted are to end."""


def close_all(
    states: Iterable[AppState], label: str, wait: bool, cancel_pending: bool, timeout: float | None
) -> Closed:
    """Refuse calls from now on, and return what is to be waited for here.

    A thread waits for the rest, if its time is limited: what would wait for itself here, and
    everything without ``wait``. ``None`` as ``timeout``: what the settings of each app say.
    """
    here: Closed = []
    elsewhere: Closed = []
    for state in states:
        seconds = state.config.at_exit.timeout if timeout is None else timeout
        for part in state.close(cancel_pending):
            waits = wait and not part.runs_here()
            (here if waits else elsewhere).append((part, seconds))
    limited = [(part, seconds) for part, seconds in elsewhere if seconds < inf]
    if limited:
        drain_apart(limited, label, FutureProxy())
    return here


def drain_apart(closed: Closed, label: str, over: FutureProxy[None]) -> bool:
    """Wait in a thread, and settle ``over`` then. ``False`` if there is no thread for it."""
    begun = time.monotonic()

    def run() -> None:
        try:
            drain(closed, begun)
        finally:
            over._succeed(None)

    try:
        start_thread(f"{label}-shutdown", run)
    except (RuntimeError, OSError):
        return False  # most likely the interpreter exits, and that waits by itself
    return True
