"""What of its submitter's contexts a job gets."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import NoneType
from typing import Any

__all__ = ("CarryG", "ContextRules", "carried", "with_items", "without_resources")

CarryG = Collection[str] | Callable[[str, object], bool]
"""Which names of ``g`` travel to a job: the names, or a function of name and value."""


def without_resources(name: str, value: object) -> bool:
    """Whether ``g.<name>`` travels to a job by default: unless it is something to be closed.

    A value whose type has ``close`` or ``aclose`` (a database connection, a client, a file)
    belongs to the context that opened it, and often to its thread; that context's teardown
    closes it. A job that finds ``g`` without it opens its own, as the view did.
    """
    kind: type = type(value)
    return kind in _PLAIN or not (hasattr(kind, "close") or hasattr(kind, "aclose"))


_PLAIN = frozenset({NoneType, bool, int, float, str, bytes, list, tuple, dict, set})
"""Types of values that are no resources, told apart in half of the time."""


@dataclass(frozen=True, slots=True)
class ContextRules:
    """What of its submitter's contexts an executor gives to a job."""

    push_app: bool = True
    """An app context, with what ``g`` held."""

    push_request: bool = True
    """A request context, with the request and the session."""

    carry_g: Callable[[str, object], bool] = without_resources
    """Whether a name of ``g``, with this value, is in the job's."""


def carried(values: dict[str, Any], carry_g: Callable[[str, object], bool]) -> dict[str, Any]:
    """What the values of a ``g`` give to a job."""
    items = values.copy().items()  # other threads may change it
    if carry_g is not without_resources:
        return {name: value for name, value in items if carry_g(name, value)}
    return {
        name: value
        for name, value in items
        if type(value) in _PLAIN or without_resources(name, value)
    }


def with_items(g: Any, items: dict[str, Any] | None) -> Any:
    """``g``, with a copy of what another one held."""
    if items:
        g.__dict__.update(items)
    return g
