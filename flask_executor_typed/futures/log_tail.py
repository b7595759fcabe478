"""Keep the last lines that a job logs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

__all__ = ("LogTail",)

_LINES = 200
_LENGTH = 2000  # characters of a line
_BYTES = 64 * 1024  # of all lines together, as a record keeps them


class LogTail:
    """The last lines that a job has logged. Any thread may add some while others read."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        # Each operation on the deque is one step, with the GIL and without it.
        self._lines: deque[str] = deque(maxlen=_LINES)

    def add(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._lines.append(line if len(line) <= _LENGTH else f"{line[:_LENGTH]}...")

    def text(self) -> str:
        data = "\n".join(self._lines.copy()).encode("utf-8", "replace")
        if len(data) > _BYTES:
            data = data[-_BYTES:].partition(b"\n")[2]  # begins with a whole line
        return data.decode()
