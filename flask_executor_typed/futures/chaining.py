"""Settle a future with the outcome of another. Chains of futures may be of any length.

The only module that copies an outcome from one future to another.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from ..errors import ForkedFutureError
from .base import (
    ClaimableFuture,
    end_cancelled,
    fail,
    last_followed,
    shared_lock,
    succeed,
)

__all__ = ("delegate", "follow", "following_apart")

R = TypeVar("R")


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.followers: deque[tuple[ClaimableFuture[Any], Future[Any]]] = deque()
        """Pairs of a future to settle and the settled future to copy, oldest first."""


_this_thread = _ThisThread()


@contextlib.contextmanager
def following_apart() -> Generator[None, None, None]:
    """Settle followers at once here, even if a frame below that settles others waits for this."""
    outer, _this_thread.followers = _this_thread.followers, deque()
    try:
        yield
    finally:
        _this_thread.followers = outer


def delegate(follower: ClaimableFuture[R], future: Future[R]) -> None:
    """Have ``future`` answer whether ``follower`` runs, and cancel it with ``follower``.

    Another thread settles ``follower``.
    """
    follower._followed = future


def follow(follower: ClaimableFuture[R], future: Future[R]) -> None:
    """Settle ``follower`` with the outcome of ``future``, and cancel ``future`` with it."""
    settle = partial(_settle_like, follower)  # unlike a callback, it needs no contexts
    if not isinstance(future, ClaimableFuture):
        follower._followed = future
        future.add_done_callback(settle)
        return
    with shared_lock():  # two futures that follow each other at once would be a ring
        is_ring = last_followed(future) is follower
        if not is_ring:
            follower._followed = future
    if is_ring:
        fail(
            follower,
            RuntimeError(f"{follower.name} returned its own future, and can never be done"),
        )
    elif future._is_of_parent():
        fail(follower, ForkedFutureError(future.name))
    else:
        if (call := future._call) is not None:
            call.on_wanted()  # by the job that waits for the follower
        if not future._watch(settle):
            settle(future)


def _settle_like(follower: ClaimableFuture[Any], followed: Future[Any]) -> None:
    followers = _this_thread.followers
    if followers:  # a frame below settles this one: long chains must not become deep stacks
        followers.append((follower, followed))
        return
    try:
        followers.append((follower, followed))
        _settle_all(followers)
    except BaseException:  # of a signal handler, say: the others must not wait for ever
        _settle_all(followers)
        raise
    finally:
        followers.clear()


def _settle_all(followers: deque[tuple[ClaimableFuture[Any], Future[Any]]]) -> None:
    while followers:
        follower, followed = followers[0]
        if followed.cancelled():
            end_cancelled(follower)
        elif (exception := followed.exception()) is not None:
            fail(follower, exception)
        else:
            succeed(follower, followed.result())
        followers.popleft()
