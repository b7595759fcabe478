"""Fork while another thread stands at each instruction of what it does with an executor.

``python -m tests.attack.forks [--every N]``: at each, or at each Nth. The child, in which that
thread does not exist, runs jobs of both kinds and shuts down. Exit status 1: some child could not.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable

from flask import Flask

from flask_executor_typed import Executor

from ..helpers.steps import at_each_step

HANGS_AFTER = 60
"""Seconds for a child to do what takes it a few milliseconds."""

HELD_UP_AFTER = 1.0
"""Seconds after which a fork waits for the thread that stands, most likely."""


async def none() -> None:
    pass


def use(executor: Executor) -> None:
    executor.submit(int).result()
    executor.submit(none).result()
    executor.using(key="of the child", on_duplicate="replace").submit(int).result()


def in_child(executor: Executor, app: Flask, forked: threading.Event) -> int:
    """Fork, use the executor in the child, and return its exit status."""
    pid = os.fork()
    if pid:
        forked.set()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        signal.alarm(HANGS_AFTER)  # kills the child
        executor.init_app(app)  # it may have been shut down
        use(executor)
        executor.shutdown()
        status = 0
    finally:
        os._exit(status)


def cancel(executor: Executor) -> None:
    executor.submit(int).cancel()


def wait_for_all(executor: Executor) -> None:
    executor.submit(none).add_done_callback(lambda _: None)
    executor.wait_idle()


def map_some(executor: Executor) -> None:
    list(executor.map(abs, range(3), buffersize=2))


def shut_down(executor: Executor) -> None:
    executor.shutdown()


ACTIONS: list[Callable[[Executor], object]] = [use, cancel, wait_for_all, map_some, shut_down]


def explore(action: Callable[[Executor], object], every: int) -> tuple[int, list[int]]:
    """Return how many children there were, and the exit statuses of those that failed."""
    app = Flask("forks")
    statuses: list[int] = []
    executors: list[Executor] = []
    threads: list[threading.Thread] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        executor = Executor(app, name=f"number{len(executors)}")
        executors.append(executor)

        def fork_elsewhere() -> None:
            forked = threading.Event()
            forks = lambda: statuses.append(in_child(executor, app, forked))  # noqa: E731
            threads.append(threading.Thread(target=forks))
            threads[-1].start()
            # With a lock that forks wait for, as at an import, this thread must go on.
            if forked.wait(HELD_UP_AFTER):
                threads[-1].join()

        return lambda: action(executor), fork_elsewhere

    for raised in at_each_step(prepare, every=every):
        while threads:
            threads.pop().join()
        if raised is not None:
            raise raised
        executors[-1].shutdown()
    return len(statuses), [status for status in statuses if status]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks in a program with threads
    failed = False
    for action in ACTIONS:
        children, statuses = explore(action, given.every)
        print(f"{action.__name__}: {children} children, {len(statuses)} failed {statuses[:5]}")
        failed |= bool(statuses) or not children
    return failed


if __name__ == "__main__":
    sys.exit(main())
