"""The lock of all futures of this process."""

from __future__ import annotations

import threading

from ..runtime.forks import in_child

__all__ = ("shared_lock",)

_shared_lock = threading.RLock()  # reentrant: a finalizer may run while it is held


def shared_lock() -> threading.RLock:
    """For what is rare. The child of a fork has another one: a thread may have held this."""
    return _shared_lock


@in_child
def _forget_parent() -> None:
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.RLock()
