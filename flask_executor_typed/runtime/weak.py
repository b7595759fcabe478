"""A set of weak references that is listed while other threads change it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar
from weakref import ref

__all__ = ("WeakListing",)

T = TypeVar("T")


class WeakListing(Generic[T]):
    """The objects added that are not garbage, the oldest first. Thread-safe.

    Before Python 3.14, to list a ``WeakSet`` raises if another thread adds to it meanwhile. This
    needs no lock, which a fork might leave locked.
    """

    def __init__(self) -> None:
        # Copied, and its items set and removed, atomically, with the GIL and without it.
        self._refs: dict[ref[T], None] = {}

    def add(self, item: T) -> None:
        refs = self._refs
        refs[ref(item, lambda gone: refs.pop(gone, None))] = None

    def discard(self, item: T) -> None:
        self._refs.pop(ref(item), None)

    def __iter__(self) -> Iterator[T]:
        return iter([item for each in list(self._refs) if (item := each()) is not None])
