"""Contexts whose values are made when somebody looks at them, one by one.

Most jobs look at neither of their contexts, and to make them costs more than all else that a job
needs. Of two threads that are the first to look, both see the same value, and what was set
meanwhile stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask.ctx import AppContext

from .rules import with_items
from .slots import HAS_STACKS, RequestContext, app_slot, request_slot
from .snapshot import ContextSnapshot

__all__ = ("UnusedAppContext", "UnusedRequestContext")


class _Later:
    """A value of a context that is made when somebody looks at it."""

    def __init__(self, make: Callable[[Any], object]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, context: Any, owner: type) -> Any:
        return context.__dict__.setdefault(self._name, self._make(context))


def _later(make: Callable[[Any], object]) -> Any:  # whatever Flask says that the attribute is
    return _Later(make)


class UnusedAppContext(AppContext):
    """A pushed app context of Flask 2.2 to 3.1, of which there is only the app at first."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self.app = snapshot.app
        self._g_items = snapshot.g_items

    @_later
    def g(self) -> object:
        return with_items(self.app.app_ctx_globals_class(), self._g_items)

    @_later
    def url_adapter(self) -> object:
        return self.app.create_url_adapter(None)

    @_later
    def _cv_tokens(self) -> object:
        return _Tokens([_token_of_app])


class _Tokens(list[Any]):
    """The tokens of a context, as if its own ``push()`` had made it current.

    So a job may push it once more, and the ``pop()`` of that does not end it. A function stands for
    the first token until that is popped: a token keeps alive what was there before.
    """

    def pop(self, *index: Any) -> Any:
        item = super().pop(*index)
        return item() if callable(item) else item


def _token_of_app() -> object:
    return app_slot.set(app_slot.get())


def _token_of_request() -> object:
    return request_slot.set(request_slot.get()), None


class UnusedRequestContext(RequestContext):
    """A pushed request context of Flask before 3.2, of which there is nothing at first."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self._snapshot: Any = snapshot  # None when all is made
        if type(snapshot.request_context) is not RequestContext:
            object.__setattr__(self, "__class__", _UnknownRequestContext)

    @_later
    def request(self) -> object:
        snapshot = self._snapshot
        # Without one another thread has completed this: then there is a request, and it stays.
        return None if snapshot is None else snapshot.request.request_copy()

    @_later
    def _after_request_functions(self) -> object:
        return []

    @_later
    def _cv_tokens(self) -> object:
        return _Tokens([_token_of_request])

    @_later
    def _implicit_app_ctx_stack(self) -> object:  # what Flask 2.0 and 2.1 have instead of tokens
        return [None]

    @_later
    def _submitters_values(self) -> object:
        """The values of the submitter's context, all of one moment, as they may change."""
        return {} if self._snapshot is None else self._snapshot.request_context.__dict__.copy()

    def __getattr__(self, name: str) -> Any:
        # What could not be made is not to be replaced by the submitter's.
        if name == "_snapshot" or name in UnusedRequestContext.__dict__:
            return object.__getattribute__(self, name)
        # None of them, if another thread has completed this.
        submitters: dict[str, Any] = getattr(self, "_submitters_values", {})
        if name not in submitters:
            return object.__getattribute__(self, name)
        return self.__dict__.setdefault(name, submitters[name])

    def copy(self) -> Any:
        self.complete()
        return self.copy()  # of the class that it has now

    def complete(self) -> None:
        """Let go of the context of the submitter, or a job would keep all before it."""
        snapshot = self._snapshot
        if snapshot is not None:
            for name in tuple(self._submitters_values):
                getattr(self, name)
            object.__setattr__(self, "__class__", RequestContext)
            self._snapshot = None
            self.__dict__.pop("_submitters_values", None)


class _UnknownRequestContext:
    """A pushed request context of a class of its own, which it becomes when somebody looks."""

    def __getattribute__(self, name: str) -> Any:
        values: dict[str, Any] = object.__getattribute__(self, "__dict__")
        snapshot: ContextSnapshot | None = values.get("_snapshot")
        if snapshot is None or snapshot.request is None:  # another thread was first, and is done
            return getattr(self, name)
        context = snapshot.request.make_context(snapshot.request_context)
        # As if its own push() had made it current: see _Tokens.
        if HAS_STACKS:
            context._implicit_app_ctx_stack = [None]
        else:
            context._cv_tokens = _Tokens([_token_of_request])
        for key, value in context.__dict__.items():
            values.setdefault(key, value)
        self.__class__ = context.__class__
        values.pop("_snapshot", None)  # or a job would keep all before it
        return getattr(self, name)

    # Python looks these up in the class, and then they are those of the class that it becomes.

    def __enter__(self) -> Any:
        return self.__enter__()

    def __exit__(self, *error: object) -> Any:
        return self.__exit__(*error)
