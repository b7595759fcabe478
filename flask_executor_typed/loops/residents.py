"""What lives on a loop until the loop ends."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Protocol

__all__ = ("Resident", "resident_here", "running_resident", "runs_resident_of")


class Resident(Protocol):
    """What lives on a loop until the loop ends. The tasks that it starts do so too."""

    loop: asyncio.AbstractEventLoop

    async def close(self) -> None: ...


running_resident: ContextVar[Resident | None] = ContextVar("resident", default=None)
"""Whose the running code is, if it is a resident's. Elsewhere than on its loop it means nothing."""


def resident_here() -> Resident | None:
    """The resident that runs this code, if one does."""
    return running_resident.get()


def runs_resident_of(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a resident of ``loop``, on which this code runs, runs it."""
    resident = running_resident.get()
    return resident is not None and resident.loop is loop
