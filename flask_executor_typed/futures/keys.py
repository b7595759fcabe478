"""Keys for futures. A ``FutureKey`` also knows the type of the result."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, Generic, TypeVar, final

from typing_extensions import Self

__all__ = ("FutureKey", "plain_key")

R = TypeVar("R")


@final
class FutureKey(Generic[R]):
    """A key that knows the type of its results: ``REPORT = FutureKey[Report]("report")``.

    ``REPORT[user_id]`` is a key of the same type for one user. Keys with equal parts are the same
    key; a key with one part names the same future as the bare part.
    """

    __slots__ = ("parts",)

    # Hashable to Python, but not to type checkers: otherwise a FutureKey[int] would also match
    # the overloads for untyped keys, and a job that returns str could be stored under it.
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, name: Hashable, /) -> None:
        self.parts: tuple[Hashable, ...] = (name,)

    def __getitem__(self, item: Hashable, /) -> Self:
        key = type(self)(self.parts[0])
        key.parts = (*self.parts, item)
        return key

    def __eq__(self, other: object, /) -> bool:
        return isinstance(other, FutureKey) and plain_key(self) == plain_key(other)

    def __repr__(self) -> str:
        first, *rest = self.parts
        return f"FutureKey({first!r})" + "".join(f"[{item!r}]" for item in rest)


def plain_key(key: Any) -> Hashable:
    """Return the plain value that a future is kept under.

    Raises:
        TypeError: it is not hashable.
    """
    plain: Hashable = key
    if isinstance(key, FutureKey):
        plain = key.parts[0] if len(key.parts) == 1 else key.parts
    try:
        hash(plain)
    except TypeError:
        raise TypeError(
            f"key={plain!r}: expected a hashable value, such as text, a number or a tuple of them"
        ) from None
    return plain
