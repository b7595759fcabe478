"""A future as ``concurrent.futures.wait()`` and ``as_completed()`` see it.

They lock ``_condition``, read ``_state`` and add to ``_waiters``, and rely on the state not
changing while they hold the lock. So what they see is a state of its own that changes under their
lock, made when they first ask.
"""

from __future__ import annotations

import threading
from concurrent.futures._base import PENDING, RUNNING
from typing import Any
from weakref import WeakSet

from ..runtime.forks import in_child
from .base import ClaimableFuture, shared_lock
from .waiters import SharedState

__all__ = ("shared_state_of", "state_of")

_shared_states: WeakSet[SharedState] = WeakSet()  # guarded by shared_lock()


def state_of(future: ClaimableFuture[Any]) -> str:
    """The standard library's word for the status."""
    if (shared := future._shared) is not None:
        # Not running(), which looks at the record of a job of another process, and may settle its
        # future. The library may hold the lock now, and wait() reads the state twice under it: for
        # a future that has ended in between, it would wait until its time is up.
        running, state = future._started > 0, shared.state
    else:
        running = future.running()  # first: asked last, a call that ends meanwhile would be pending
        state = _state_of(future)
    return RUNNING if state == PENDING and running else state


def _state_of(future: ClaimableFuture[Any]) -> str:
    return future._outcomes[0][0] if future._outcomes else PENDING


def shared_state_of(future: ClaimableFuture[Any]) -> SharedState:
    """What they lock and wait on."""
    if (shared := future._shared) is not None:
        return shared
    with shared_lock():  # two first readers must get one condition
        if (shared := future._shared) is None:
            shared = SharedState()
            if not future._watch(shared, first=True):
                shared.state = _state_of(future)
            _shared_states.add(shared)
            future._shared = shared
        return shared


@in_child
def _forget_parent() -> None:
    for shared in list(_shared_states):
        shared.condition = threading.Condition()
