"""The progress that a job reports."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("Progress",)


class Progress(NamedTuple):
    """The progress of a job, as reported by the job."""

    done: float
    """The amount done, in any unit of the job's choice."""

    total: float | None = None
    """The amount in total; ``None`` if the job does not know it."""

    message: str = ""

    @property
    def fraction(self) -> float | None:
        """The fraction done, from 0.0 to 1.0; ``None`` without a total."""
        return self.done / self.total if self.total else None
