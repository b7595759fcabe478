"""A snapshot as plain data, to travel to another process. rebuild.py turns it back into one."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..runtime.logs import fields_of

__all__ = ("PortableContext", "PortableRequest")


class PortableRequest(NamedTuple):
    """A request and its session."""

    environ: dict[str, Any]
    body: bytes | None
    """The body as far as the view has read it; ``None`` if the view has not read it."""

    form: list[tuple[str, str]] | None
    """The form, if the view has parsed it."""

    has_uploads: bool
    rule: tuple[str, str] | None
    """The endpoint and the URL rule that matched."""

    view_args: dict[str, Any] | None
    session_kind: type
    session: dict[str, Any]

    def __repr__(self) -> str:
        return fields_of(self)


class PortableContext(NamedTuple):
    """The values of ``g`` and the request. Some values may not be picklable."""

    g_items: dict[str, Any]
    request: PortableRequest | None
    carried: dict[str, bytes]
    """What carriers captured, pickled, by their names."""

    def __repr__(self) -> str:
        return fields_of(self)
