"""Flask-Executor's ``helpers`` module, and other names that only code written for it uses.

This package itself needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, ParamSpec, TypeVar

from flask import current_app, g

from .context import active_app_context as get_current_app_context

__all__ = (
    "PROXIED_OBJECT",
    "InstanceProxy",
    "get_current_app_context",
    "push_app_context",
    "str2bool",
)

P = ParamSpec("P")
R = TypeVar("R")

PROXIED_OBJECT = "__proxied_object"


def str2bool(v: object) -> bool:
    """Return whether a setting means yes. Anything else means no, even a typo."""
    return str(v).lower() in {"yes", "true", "t", "1"}


class InstanceProxy:
    """An object with the attributes of ``_self``, except those that its class defines.

    The executors and futures of this package are not instances of it.
    """

    def __init__(self, proxied_obj: object) -> None:
        self._self = proxied_obj

    @property
    def _self(self) -> Any:
        return vars(self).get(PROXIED_OBJECT)

    @_self.setter
    def _self(self, proxied_obj: object) -> None:
        vars(self)[PROXIED_OBJECT] = proxied_obj

    def __getattribute__(self, attr: str) -> Any:
        # Attributes of the proxy's base classes, such as Future, also come from the object.
        get = object.__getattribute__
        if any(attr in names.__dict__ for names in (get(self, "__class__"), InstanceProxy)):
            return get(self, attr)
        own = get(self, "__dict__")
        return own[attr] if attr in own else getattr(own[PROXIED_OBJECT], attr)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}( {self._self!r} )>"


def push_app_context(fn: Callable[P, R]) -> Callable[P, R]:
    """Return ``fn`` with an app context around each call, which has a copy of the current ``g``.

    For your own threads: jobs of an executor have all contexts without it.
    """
    app, values = current_app, copy(g)
    app = getattr(app, "_get_current_object", lambda: app)()

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with app.app_context() as context:
            context.g = copy(values)  # in the original, all calls share one
            return fn(*args, **kwargs)

    return wrapper
