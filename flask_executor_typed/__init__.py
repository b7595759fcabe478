"""Typed, async-aware background jobs for Flask, on threads and event loops.

The public names, and nothing else.
"""

from .context import CarryG, without_resources
from .errors import (
    BodyNotReadError,
    ConfigError,
    DuplicateKeyError,
    ExecutorClosedError,
    ExecutorError,
    NoAppError,
    OutsideContextError,
    OutsideLoopError,
    UnpicklableError,
    WorkerError,
)
from .executor import Executor
from .futures import FutureCollection, FutureKey, FutureProxy
from .jobs import ExecutorJob
from .resources import LoopResource
from .signals import job_cancelled, job_failed, job_started, job_submitted, job_succeeded

__all__ = (
    "BodyNotReadError",
    "CarryG",
    "ConfigError",
    "DuplicateKeyError",
    "Executor",
    "ExecutorClosedError",
    "ExecutorError",
    "ExecutorJob",
    "FutureCollection",
    "FutureKey",
    "FutureProxy",
    "LoopResource",
    "NoAppError",
    "OutsideContextError",
    "OutsideLoopError",
    "UnpicklableError",
    "WorkerError",
    "job_cancelled",
    "job_failed",
    "job_started",
    "job_submitted",
    "job_succeeded",
    "without_resources",
)

__version__: str = "0.1.0"
