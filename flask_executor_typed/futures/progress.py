"""The progress that a job reports."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("Progress",)


class Progress(NamedTuple):
    """How far a job is, as it said itself."""

    done: float
    """So much is done, in whatever unit the job counts."""

    total: float | None = None
    """Of so much; ``None`` if the job does not know."""

    message: str = ""

    @property
    def fraction(self) -> float | None:
        """From 0.0 to 1.0; ``None`` without a total."""
        return self.done / self.total if self.total else None
