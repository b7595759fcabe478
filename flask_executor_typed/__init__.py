"""Typed, async-aware background jobs for Flask, on threads and event loops.

This module has the public names, and nothing else. The way of a call through the package:

- executor, jobs: ``submit`` takes a snapshot of Flask's contexts (context) and builds a call
- app_state: what an executor has for one app; its ``submit`` is the only way to the workers
- calls: the call, from its start to its end; a full executor refuses it in calls/capacity
- backends: the threads and processes that run calls; loops: the event loops of coroutine calls
- engines: Celery, or another queue, whose workers run calls on any machine
- futures: the handle; futures/base decides the outcome, futures/proxy has what users do with it

Beside it: async_views, after_response and after_commit, stores (records of jobs that all server
processes share), web (what browsers and clients see of them), doctor and cli, testing, and at the
bottom runtime (threads, forks, exit).

PYTEST_DONT_REWRITE: pytest marks the packages of its plugins for rewriting, and warns of those that
were imported before it, as by a command that runs tests. There is nothing to rewrite here.
"""

from collections.abc import Mapping as _Mapping

from click import Command as _Command

from .calls import ExecutorStats
from .cli import load_commands_with as _load_commands_with
from .context import CarryG, without_resources
from .current_job import CurrentJob, current_job, track
from .errors import (
    BodyNotReadError,
    ConfigError,
    DeadlockError,
    DuplicateKeyError,
    EngineUnreachableError,
    ExecutorBusyError,
    ExecutorClosedError,
    ExecutorError,
    ForkedFutureError,
    GreenThreadsError,
    JobAbandonedError,
    JobExpiredError,
    JobFailedError,
    JobLostError,
    JobTimeoutError,
    JobVersionError,
    NestedProcessError,
    NoAppError,
    NoJobError,
    NoRequestError,
    NotRegisteredError,
    OutsideContextError,
    OutsideLoopError,
    QueueFullError,
    RemoteTracebackError,
    RequestArgumentError,
    ResponseTooLargeError,
    ResultNotSharedError,
    SignatureError,
    StoreError,
    UnpicklableError,
    UnstorableError,
    UnsupportedError,
    UploadsLeftBehindError,
    WorkerError,
)
from .executor import Executor
from .futures import FutureCollection, FutureKey, FutureProxy, Progress
from .jobs import ExecutorJob
from .loops import LoopResource
from .map import Results
from .signals import (
    job_cancelled,
    job_failed,
    job_lost,
    job_started,
    job_submitted,
    job_succeeded,
)
from .stores import (
    CancelAnswer,
    JobError,
    JobProblem,
    JobRecord,
    JobRecords,
    JobStatus,
    ResultState,
)

__all__ = (
    "BodyNotReadError",
    "CancelAnswer",
    "CarryG",
    "ConfigError",
    "CurrentJob",
    "DeadlockError",
    "DuplicateKeyError",
    "EngineUnreachableError",
    "Executor",
    "ExecutorBusyError",
    "ExecutorClosedError",
    "ExecutorError",
    "ExecutorJob",
    "ExecutorStats",
    "ForkedFutureError",
    "FutureCollection",
    "FutureKey",
    "FutureProxy",
    "GreenThreadsError",
    "JobAbandonedError",
    "JobError",
    "JobExpiredError",
    "JobFailedError",
    "JobLostError",
    "JobProblem",
    "JobRecord",
    "JobRecords",
    "JobStatus",
    "JobTimeoutError",
    "JobVersionError",
    "LoopResource",
    "NestedProcessError",
    "NoAppError",
    "NoJobError",
    "NoRequestError",
    "NotRegisteredError",
    "OutsideContextError",
    "OutsideLoopError",
    "Progress",
    "QueueFullError",
    "RemoteTracebackError",
    "RequestArgumentError",
    "ResponseTooLargeError",
    "ResultNotSharedError",
    "ResultState",
    "Results",
    "SignatureError",
    "StoreError",
    "UnpicklableError",
    "UnstorableError",
    "UnsupportedError",
    "UploadsLeftBehindError",
    "WorkerError",
    "current_job",
    "job_cancelled",
    "job_failed",
    "job_lost",
    "job_started",
    "job_submitted",
    "job_succeeded",
    "track",
    "without_resources",
)


def _commands() -> _Mapping[str, _Command]:
    from .doctor.commands import COMMANDS

    return COMMANDS


_load_commands_with(_commands)

__version__: str = "0.1.0"
