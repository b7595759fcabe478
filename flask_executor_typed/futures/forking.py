"""What the child of a fork must not go on with: locks that a thread of its parent may have held.

The only module of this room that asks to be told of forks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

__all__ = ("in_child", "shared_lock")


def in_child(forget: Callable[[], None]) -> Callable[[], None]:
    """Have a function called in the child of each fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)
    return forget


_shared_lock = threading.RLock()  # reentrant: a finalizer may run while it is held


def shared_lock() -> threading.RLock:
    """The lock of all futures of this process, for what is rare."""
    return _shared_lock


@in_child
def _forget_parent() -> None:
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.RLock()
