"""The addresses of a blueprint's routes, wherever each app has put it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

from flask import current_app, request, url_for
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import HTTPException

from ..errors import NotRegisteredError

__all__ = ("Urls",)


class Urls:
    """Makes addresses without a host, which no ``Host`` header can change."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Of each app, the names of the blueprint: nested in others, or registered more than once.
        self._names: MutableMapping[Any, list[str]] = WeakKeyDictionary()

    def note(self, state: BlueprintSetupState) -> None:
        """Note where an app registers the blueprint."""
        own_name = getattr(state, "name", self._name)  # missing in Flask 2.0.0
        name = f"{state.name_prefix}.{own_name}".lstrip(".")
        self._names.setdefault(state.app, []).append(name)

    def check(self) -> None:
        """Raise an error unless the current app has the blueprint.

        Raises:
            NotRegisteredError: it has not.
        """
        self._registered()

    def to(self, route: str, **values: Any) -> str:
        """Return the address of a route, below the blueprint of this request if that is ours."""
        names = self._registered()
        current = request.blueprint
        name = current if current in names else names[0]
        return url_for(f"{name}.{route}", **values)

    def matches(self, method: str) -> bool:
        """Return whether the address of this request is that of a route, with another method."""
        adapter = current_app.create_url_adapter(request)
        if adapter is None:
            return False
        try:
            endpoint, _ = adapter.match(method=method)
        except HTTPException:
            return False
        return endpoint.rpartition(".")[0] in self._registered()

    def _registered(self) -> list[str]:
        app: Any = current_app
        names = self._names.get(app._get_current_object())
        if not names:
            raise NotRegisteredError(self._name, app.name)
        return names
