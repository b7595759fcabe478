"""Find the user's line of code that led into this package, or that a job failed in."""

from __future__ import annotations

import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..callables import code_of, name_of
from ..errors import RemoteTracebackError, WorkerError

__all__ = (
    "PACKAGE_FOLDER",
    "Place",
    "levels_to_caller",
    "line_of_caller",
    "name_of_caller",
    "place_of",
    "stack_is_deep",
)

PACKAGE_FOLDER = str(Path(__file__).parents[1])
"""The folder of this package. Code outside of it is the user's or another library's."""


class Place(NamedTuple):
    """A line of code, as a log record shows it."""

    file: str
    line: int
    function: str


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


def name_of_caller() -> str:
    """Return the name of the module that called the caller of this."""
    return str(_frame_at(2).f_globals.get("__name__", ""))


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


def place_of(fn: Callable[..., object], error: BaseException | None = None) -> Place:
    """Return the line of ``fn`` that ``error`` went through; else the first line of ``fn``."""
    code = _code_below_decorators(fn)
    passed = () if error is None else tuple(_places_in(error))
    if code is None or _is_in_package(code.co_filename):  # a builtin, or our chunk of a map()
        users = (place for place in passed if not _is_in_package(place.file))
        module = getattr(fn, "__module__", None) or type(fn).__module__
        return next(users, Place(str(module), 0, name_of(fn)))
    same = (
        each for each in passed if (each.file, each.function) == (code.co_filename, code.co_name)
    )
    return next(same, Place(code.co_filename, code.co_firstlineno, code.co_name))


def _code_below_decorators(fn: Any) -> Any:
    with suppress(ValueError):  # a cycle
        fn = inspect.unwrap(fn)
    return code_of(fn)


def _places_in(error: BaseException) -> Iterator[Place]:
    """Yield the lines of its traceback, and of one that came as text from another process."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        yield Place(frame.f_code.co_filename, line, frame.f_code.co_name)
    text = ""
    if isinstance(error, WorkerError):
        text = error.remote_traceback
    elif isinstance(error.__cause__, RemoteTracebackError):
        text = error.__cause__.text
    for file, line_in_text, function in _LINE_IN_TEXT.findall(text):
        yield Place(file, int(line_in_text), function)


_LINE_IN_TEXT = re.compile(r'^ +File "(.+)", line (\d+), in (.+)$', re.MULTILINE)


def _is_in_package(file: str) -> bool:
    return file.startswith(PACKAGE_FOLDER + os.sep)
