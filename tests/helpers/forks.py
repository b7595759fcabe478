"""Functions that run in the child of a fork."""

from __future__ import annotations

import os
from collections.abc import Callable


def fork_to(work: Callable[[], object]) -> int:
    """Run ``work`` in the child of a fork; return the child's process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def exit_code_of(pid: int) -> int:
    """Wait for a child; return its exit code, which is 0 unless its work has raised."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
