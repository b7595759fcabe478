"""The threads, processes and foreign executors that run calls.

- thread: worker threads, in which a job may wait for jobs of its own pool without a deadlock
- sync: calls that run in ``submit``
- process: worker processes; process_call is one call of theirs, worker_process one process
- starting: how worker processes start; worker: what runs in them
- wire, pickling: messages, and what is in them; runner: run what has arrived
- adapter: any executor of ``concurrent.futures``; adapter_worker: what runs in its workers
- borrowed: what sync and adapter share, since their threads belong to others
- capabilities: what each can do
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, Protocol

from ..calls import Call
from ..config import ExecutorConfig, key_of
from ..runtime.exit import Closable, close_at_exit
from .capabilities import Capabilities, check_route
from .pickling import ExecutorOf, Settings
from .thread import ThreadBackend

__all__ = (
    "Backend",
    "Capabilities",
    "ExecutorOf",
    "ThreadBackend",
    "check_route",
    "default_max_workers",
    "import_backend",
    "open_backend",
    "worker_settings",
)


class Backend(Closable, Protocol):
    """A place where calls run. Every method may be called from any thread."""

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do. A call that asks for more is refused."""
        ...

    def sizes(self) -> tuple[int, int]:
        """Return how many workers and how many event loops are running now."""
        ...

    def submit(self, call: Call[Any]) -> None:
        """Run ``call``, or raise ``ExecutorClosedError``; an accepted call settles its future.

        Raises:
            UnsupportedError: the call asks for what this backend cannot do.
        """


def import_backend(config: ExecutorConfig) -> None:
    """Import what :func:`open_backend` needs. Slow, and not needed for threads.

    Called early, when the app is created: if a process forks while another thread imports a module,
    the child can never import that module.
    """
    if config.type == "process":
        import_module(f"{__name__}.process")
    elif config.type not in ("thread", "sync") and not config.is_engine:  # it may not be hashable
        import_module(f"{__name__}.adapter")


def open_backend(
    config: ExecutorConfig,
    name: str,
    label: str,
    executor_of: ExecutorOf,
) -> Backend:
    """Return the backend that ``config`` asks for.

    Args:
        config: The settings.
        name: The executor's name, as in its settings.
        label: The executor's name in messages and thread names.
        executor_of: Finds the executor in the app of a worker process. Must be picklable.
    """
    backend: Backend
    if config.type == "thread":
        max_workers = config.max_workers or default_max_workers("thread")
        backend = ThreadBackend(
            label, max_workers, config.max_loops, config.loop_factory, config.slow_callback
        )
    elif config.type == "sync":
        from .sync import SyncBackend

        backend = SyncBackend(label, config.loop_factory)
    else:
        max_workers = config.max_workers or default_max_workers("process")
        settings = worker_settings(config, name, label, executor_of)
        if config.type == "process":
            from .process import ProcessBackend  # multiprocessing is slow to import

            backend = ProcessBackend(
                settings,
                max_workers,
                config.start_method,
                config.start_timeout,
                key_of("start_timeout", name=name),
            )
        else:
            from .adapter import open_adapter

            backend = open_adapter(config, key_of("type", name=name), settings, max_workers)
    close_at_exit(backend, config.at_exit)
    return backend


def worker_settings(
    config: ExecutorConfig, name: str, label: str, executor_of: ExecutorOf
) -> Settings:
    """Return what a worker process is told of an executor; arguments as :func:`open_backend`."""
    return Settings(
        label,
        config.app,
        config.push_app_context,
        config.push_request_context is True,
        key_of("app", name=name),
        key_of("push_app_context", name=name),
        key_of("push_request_context", name=name),
        executor_of,
    )


def default_max_workers(kind: object) -> int:
    """Return the standard library's defaults; for processes, one worker per processor."""
    processors = int(getattr(os, "process_cpu_count", os.cpu_count)() or 1)
    if kind == "sync":
        return 1
    if kind != "thread":
        return min(processors, 61) if sys.platform == "win32" else processors  # Windows' limit
    return min(32, processors + 4)
