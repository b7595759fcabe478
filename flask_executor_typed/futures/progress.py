"""The progress that a job reports."""

from __future__ import annotations

from math import copysign, inf
from typing import Any, NamedTuple

__all__ = ("Progress", "plain_progress")

_INTEGERS = range(-(2**63), 2**63)
"""Those that every store can keep."""


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


def plain_progress(done: Any, total: Any, message: Any) -> Progress:
    """Return progress that other processes and stores take as it is: plain numbers and a text.

    A number of another library, a ``Decimal`` or a huge integer becomes a float.

    Raises:
        TypeError: ``done`` or ``total`` is not a number.
    """
    plain_total = None if total is None else _plain("total", total)
    return Progress(_plain("done", done), plain_total, str(message))


def _plain(name: str, number: Any) -> float:
    if type(number) is float or (type(number) is int and number in _INTEGERS):
        plain: float = number
        return plain
    try:
        return copysign(number, number)  # unlike float(), this refuses text
    except OverflowError:
        return inf if number > 0 else -inf
    except (TypeError, ValueError):
        raise TypeError(f"progress() got {name}={number!r}: expected a number") from None
