"""Identify the process that owns a job, and find out whether another one is alive.

What follows is up to client.py: it buries a dead process, whose jobs the store then has as lost.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

from .protocol import Owner

__all__ = ("Leases", "is_dead", "this_process")

_PROC = Path("/proc")


def this_process() -> Owner:
    """Return a new owner for this process. After a fork or a burial, it needs another one."""
    pid = os.getpid()
    stat = _stat_of(pid)
    host = "" if stat is None else _host()
    return Owner(
        id=secrets.token_urlsafe(12),
        host=host,
        pid=pid,
        born="" if stat is None else stat[1],
        server=f"{socket.gethostname()}:{pid}",
    )


def is_dead(owner: Owner, here: Owner) -> bool | None:
    """Return whether the process has ended, according to the kernel; ``None`` if that is unknown.

    Known only for processes of the same boot and process id namespace as ``here``. A process that
    is stopped, swapped out or busy is alive, however many beats it has missed.
    """
    if not owner.host or owner.host != here.host:
        return None
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's process
        pass
    stat = _stat_of(owner.pid)
    if stat is None:  # /proc may hide the processes of other users
        return False
    state, born = stat
    return state in {"Z", "X"} or born != owner.born  # ids may be reused within minutes


def _stat_of(pid: int) -> tuple[str, str] | None:
    """Return a process's state and start, if the kernel shows them."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return fields[0], fields[19]


def _host() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


class Leases:
    """Find processes of other machines that have stopped beating. Not thread-safe.

    The clocks of machines are never compared. Only the time counts during which this process has
    looked and seen no new beat.

    Args:
        seconds: How long a process may go without a beat.
        interval: Seconds between two looks. A longer pause, in which this process itself may have
            been stopped, counts as little more than that.
    """

    def __init__(self, seconds: float, interval: float) -> None:
        self._seconds = seconds
        self._longest = 1.5 * interval
        self._last_look: float | None = None
        self._seen: dict[str, tuple[int, float]] = {}
        """By owner id: the number of beats, and the seconds since it changed."""

    def overdue(self, owners: Iterable[Owner], now: float) -> list[Owner]:
        """Return the owners whose time is up. ``now`` comes from ``time.monotonic()``."""
        passed = 0.0 if self._last_look is None else min(now - self._last_look, self._longest)
        self._last_look = now
        before, self._seen = self._seen, {}
        overdue: list[Owner] = []
        for owner in owners:
            beats, unchanged = before.get(owner.id, (None, 0.0))
            unchanged = unchanged + passed if beats == owner.beats else 0.0
            self._seen[owner.id] = owner.beats, unchanged
            if unchanged > self._seconds:
                overdue.append(owner)
        return overdue
