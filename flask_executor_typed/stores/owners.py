"""Identify the process that owns a job, and tell whether another one is still alive."""

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
    """Return a new owner for this process: after a fork or a burial it is another one."""
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
    """Return whether the process has ended, by the kernel's word; ``None`` if it is not this one's.

    Only for processes with the same boot and the same namespace of ids as ``here``. A process that
    is stopped, swapped out or busy is alive, whatever it has missed.
    """
    if not owner.host or owner.host != here.host:
        return None
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's
        pass
    stat = _stat_of(owner.pid)
    if stat is None:  # /proc may hide the processes of other users
        return False
    state, born = stat
    return state in {"Z", "X"} or born != owner.born  # ids are used again within minutes


def _stat_of(pid: int) -> tuple[str, str] | None:
    """Return a process's state and start, where the kernel shows them."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], fields[19]


def _host() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


class Leases:
    """Find the processes of other machines that have stopped beating. For one thread.

    No clock is compared with another's: what counts is how long this process, while it was looking,
    has seen no beat.

    Args:
        seconds: How long that may be.
        interval: Seconds between two looks. A longer pause, in which this process itself may have
            been stopped, counts as little more than one.
    """

    def __init__(self, seconds: float, interval: float) -> None:
        self._seconds = seconds
        self._longest = 1.5 * interval
        self._last_look: float | None = None
        self._seen: dict[str, tuple[int, float]] = {}
        """By owner: its beats, and the seconds since they changed."""

    def overdue(self, owners: Iterable[Owner], now: float) -> list[Owner]:
        """Return those whose time is up. ``now`` is a time of ``time.monotonic()``."""
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
