"""Find the user's line of code that led into this package."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ("PACKAGE_FOLDER", "levels_to_caller", "line_of_caller", "stack_is_deep")

PACKAGE_FOLDER = str(Path(__file__).parents[1])
"""The folder of this package. Code outside of it is the user's or another library's."""


_frame_at = sys._getframe  # pyright: ignore[reportPrivateUsage]


def levels_to_caller() -> int:
    """Count the frames from the caller up to the first one outside of this package."""
    levels, frame = 1, _frame_at(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
        levels += 1
    return levels


def line_of_caller() -> str:
    """Return the innermost line outside of this package, as ``/path/to/views.py:12``."""
    frame = _frame_at(levels_to_caller() - 1)  # the first level is this function
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def stack_is_deep() -> bool:
    """Return whether a third of the recursion limit is used up."""
    try:
        _frame_at(sys.getrecursionlimit() // 3)
    except ValueError:
        return False
    return True


_PACKAGE = __name__.partition(".")[0]


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == _PACKAGE
