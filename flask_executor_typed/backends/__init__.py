"""Where calls run. The only package that makes pools; each kind of backend is a module in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from flask import Flask

from ..calls import Call
from ..config import ExecutorConfig, key_of
from ..threads import Closable, close_at_exit
from .thread import ThreadBackend

__all__ = ("Backend", "ThreadBackend", "default_max_workers", "open_backend")


class Backend(Closable, Protocol):
    """Runs calls somewhere. Every method may be called from any thread."""

    def submit(self, call: Call[Any]) -> None:
        """Run ``call``, or raise ``ExecutorClosedError``; an accepted call settles its future."""


def open_backend(
    config: ExecutorConfig, name: str, label: str, executor_of: Callable[[Flask], object]
) -> Backend:
    """The backend that ``config`` asks for.

    Args:
        config: The settings.
        name: The executor's, as in its settings.
        label: What threads and messages call it.
        executor_of: Finds the executor of another process in its app; can be pickled.
    """
    max_workers = config.max_workers or default_max_workers(config.type)
    backend: Backend
    if config.type == "process":
        from .process import ProcessBackend, Settings  # multiprocessing is slow to import

        settings = Settings(
            label,
            config.app,
            config.push_app_context,
            config.push_request_context is True,
            key_of("app", name=name),
            key_of("push_app_context", name=name),
            key_of("push_request_context", name=name),
            executor_of,
        )
        backend = ProcessBackend(settings, max_workers, config.start_method)
    else:
        backend = ThreadBackend(label, max_workers, config.max_loops, config.loop_factory)
    close_at_exit(backend, config.at_exit)
    return backend


def default_max_workers(kind: str) -> int:
    """As many workers as the standard library's pools: of processes, one for each processor."""
    processors = int(getattr(os, "process_cpu_count", os.cpu_count)() or 1)
    if kind == "process":
        return min(processors, 61) if sys.platform == "win32" else processors  # its limit
    return min(32, processors + 4)
