"""The rules for what a job gets of its submitter's contexts: ``carry_g``, and its default."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import NoneType, SimpleNamespace
from typing import Any

from flask import current_app, has_request_context, session

__all__ = ("CarryG", "ContextRules", "carried", "with_items", "without_resources")

CarryG = Collection[str] | Callable[[str, object], bool]
"""The names of ``g`` that travel to a job: the names, or a function of name and value."""


def without_resources(name: str, value: object) -> bool:
    """Return whether ``g.<name>`` travels to a job by default: unless it must be closed.

    A value whose type has ``close`` or ``aclose`` (a database connection, a client, a file)
    belongs to the context that opened it, and often to its thread; that context's teardown
    closes it. A job that finds ``g`` without it opens its own, as the view did. The user of
    Flask-Login stays behind too, if a database session owns it and the request identifies it.
    """
    kind: type = type(value)
    return kind in _PLAIN or not (
        hasattr(kind, "close")
        or hasattr(kind, "aclose")
        or (name == "_login_user" and _is_loaded_again(value))
    )


def _is_loaded_again(user: Any) -> bool:
    """Return whether Flask-Login's user belongs to a database session and can be loaded again."""
    state: Any = getattr(user, "_sa_instance_state", None)  # of any class that SQLAlchemy maps
    if getattr(state, "session", None) is None or not has_request_context():
        return False
    logged_in: object = session.get("_user_id")
    if logged_in is None:
        manager = getattr(current_app, "login_manager", None)
        return getattr(manager, "_request_callback", None) is not None
    # Not get_id(), which after a commit is a query. If the ids differ, the app may have replaced
    # the user who is logged in, and loading would bring that one back.
    return logged_in == str(next(iter(state.identity or ()), None))


_PLAIN = frozenset({NoneType, bool, int, float, str, bytes, list, tuple, dict, set})
"""Types that are never resources. Checking them first takes half of the time."""


@dataclass(frozen=True, slots=True)
class ContextRules:
    """The parts of its submitter's contexts that an executor gives to a job."""

    push_app: bool = True
    """Whether it gets an app context, with the values of ``g``."""

    push_request: bool = True
    """Whether it gets a request context, with the request and the session."""

    carry_g: Callable[[str, object], bool] = without_resources
    """Return whether a name of ``g``, with this value, travels."""


def carried(values: dict[str, Any], carry_g: Callable[[str, object], bool]) -> dict[str, Any]:
    """Return the values of a ``g`` that travel to a job."""
    items = values.copy().items()  # other threads may change it
    if carry_g is not without_resources:
        return _own({name: value for name, value in items if carry_g(name, value)})
    return _own(
        {
            name: value
            for name, value in items
            if type(value) in _PLAIN or without_resources(name, value)
        }
    )


def with_items(g: Any, items: dict[str, Any] | None) -> Any:
    """Return ``g`` with the given values added."""
    if items:
        g.__dict__.update(_own(items))
    return g


def _own(items: dict[str, Any]) -> dict[str, Any]:
    """Return the items of a ``g``, with copies of the containers that extensions keep there.

    Extensions change them in place, and their names begin with an underscore. What the app keeps
    is shared, as in Flask-Executor.
    """
    return {name: _copied(value) if name[:1] == "_" else value for name, value in items.items()}


def _copied(value: object) -> object:
    copy = _COPIES.get(type(value))
    return value if copy is None else copy(value)


_COPIES: dict[type, Callable[[Any], object]] = {
    list: list[Any].copy,
    dict: dict[Any, Any].copy,
    set: set[Any].copy,
    SimpleNamespace: lambda value: SimpleNamespace(**vars(value)),
}
