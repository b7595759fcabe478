"""A snapshot as it travels to another process: plain data. rebuilt.py makes a snapshot of it."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ("PortableContext", "PortableRequest")


class PortableRequest(NamedTuple):
    """A request and its session."""

    environ: dict[str, Any]
    body: bytes | None
    """What the view has read of it; ``None`` if there is one that it has not read."""

    form: list[tuple[str, str]] | None
    """The form, if the view had it parsed."""

    has_uploads: bool
    rule: tuple[str, str] | None
    """The endpoint and the URL rule that matched."""

    view_args: dict[str, Any] | None
    session_kind: type
    session: dict[str, Any]


class PortableContext(NamedTuple):
    """What ``g`` held, and the request. Some values may be such as cannot be pickled."""

    g_items: dict[str, Any]
    request: PortableRequest | None
