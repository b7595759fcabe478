"""All exceptions of this package.

The only module that defines exceptions. Each derives from :class:`ExecutorError` *and* from the
builtin that a caller would expect, keeps its facts as attributes, and survives pickling.
"""

from __future__ import annotations

import builtins
import functools
import queue
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError
from typing import Any

from werkzeug.exceptions import ServiceUnavailable

__all__ = (
    "BodyNotReadError",
    "ConfigError",
    "DeadlockError",
    "DuplicateKeyError",
    "EngineUnreachableError",
    "ExecutorBusyError",
    "ExecutorClosedError",
    "ExecutorError",
    "ForkedFutureError",
    "GreenThreadsError",
    "JobAbandonedError",
    "JobExpiredError",
    "JobFailedError",
    "JobLostError",
    "JobTimeoutError",
    "JobVersionError",
    "NestedProcessError",
    "NoAppError",
    "NoJobError",
    "NoRequestError",
    "NotRegisteredError",
    "OutsideContextError",
    "OutsideLoopError",
    "QueueFullError",
    "RemoteTracebackError",
    "RequestArgumentError",
    "ResponseTooLargeError",
    "ResultNotSharedError",
    "SignatureError",
    "StoreError",
    "UnpicklableError",
    "UnstorableError",
    "UnsupportedError",
    "UploadsLeftBehindError",
    "WorkerError",
    "job_failed",
)


class ExecutorError(Exception):
    """Base of every error that this package defines."""


class ConfigError(ExecutorError, ValueError):
    """A value in ``app.config`` cannot be used. Raised by ``init_app``."""

    def __init__(self, key: str, value: object, expected: str) -> None:
        super().__init__(key, value, expected)  # facts are the args: pickle calls type(*args)
        self.key: str = key
        self.value: object = value
        self.expected: str = expected

    def __str__(self) -> str:
        given = f"{self.key}={self.value!r} ({type(self.value).__name__})"
        return f"{given}: expected {self.expected}; set it before init_app()"


class NoAppError(ExecutorError, RuntimeError):
    """A call was submitted, but the executor found no app for it."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason, cure)
        self.reason: str = reason
        self.cure: str = cure

    def __str__(self) -> str:
        return f"{self.reason}; {self.cure}"


class NoRequestError(ExecutorError, RuntimeError):
    """A call of ``after_response()`` was submitted without a request, or after its end."""

    def __str__(self) -> str:
        return (
            "after_response() needs a request that is not over: outside of one, in a job, "
            "and in a stream that has begun, submit without it"
        )


class NotRegisteredError(ExecutorError, RuntimeError):
    """A view needs the addresses of jobs, and its app has no ``JobsBlueprint``."""

    def __init__(self, blueprint: str, app: str) -> None:
        super().__init__(blueprint, app)
        self.blueprint: str = blueprint
        self.app: str = app

    def __str__(self) -> str:
        return (
            f"the blueprint {self.blueprint!r} is not registered with the app {self.app!r}; "
            "call app.register_blueprint() first"
        )


class ResponseTooLargeError(ExecutorError, ValueError):
    """A view that runs in the background has answered with more than is kept."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit: int = limit
        """Bytes."""

    def __str__(self) -> str:
        return (
            f"the response is larger than {self.limit} bytes; see EXECUTOR_STORE_MAX_RESULT_BYTES, "
            "or write it to a file and answer with its address"
        )


class ExecutorClosedError(ExecutorError, RuntimeError):
    """A call was submitted after ``shutdown()``, or while the interpreter is exiting."""

    def __init__(self, name: str, at_exit: bool = False) -> None:
        super().__init__(name, at_exit)
        self.name: str = name
        self.at_exit: bool = at_exit
        """Whether the interpreter is exiting."""

    def __str__(self) -> str:
        if self.at_exit:
            return (
                f"cannot submit to {self.name} while the interpreter exits; "
                "only what was accepted before is done"
            )
        return (
            f"cannot submit to {self.name} after shutdown; "
            "init_app() makes the executor accept calls again"
        )


class ExecutorBusyError(ExecutorError, TimeoutError):
    """The jobs were not over when the time of ``wait_idle()`` was up."""

    def __init__(self, executor: str, seconds: float, running: list[str]) -> None:
        super().__init__(executor, seconds, running)
        self.executor: str = executor
        self.seconds: float = seconds
        self.running: list[str] = running
        """A description of each call and done callback that was not over."""

    def __str__(self) -> str:
        shown = "; ".join(self.running[:_SHOWN]) or "what ran then is over by now"
        more = len(self.running) - _SHOWN
        also = f"; and {more} more" if more > 0 else ""
        return f"{self.executor} is not idle after {self.seconds:g} s: {shown}{also}"


_SHOWN = 10  # of what still runs


class QueueFullError(ExecutorError, queue.Full, ServiceUnavailable):
    """A call was submitted while ``EXECUTOR_MAX_PENDING`` calls were already waiting.

    Also a ``ServiceUnavailable``: a view that doesn't catch it answers 503 with ``Retry-After``.
    """

    description: str = "The server has too much to do at the moment. Please try again soon."
    response = None
    retry_after = 2  # seconds; a guess: a full queue has room again when one job ends

    def __init__(self, executor: str, key: str, max_pending: int, line: str = "") -> None:
        # Werkzeug's __init__ would take the first of these for the text that clients get.
        Exception.__init__(self, executor, key, max_pending, line)
        self.executor: str = executor
        self.key: str = key
        """The setting. An executor with a name has its own."""
        self.max_pending: int = max_pending
        self.line: str = line
        """File and number of the line that submits."""

    def __str__(self) -> str:
        where = self.line and f"; submitted at {self.line}"
        return (
            f"{self.executor} is full: {self.key}={self.max_pending}; submit again later, or wait "
            f"for room with using(block=seconds){where}"
        )


class JobTimeoutError(ExecutorError, TimeoutError):
    """A call took longer than its time limit."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(name, seconds)
        self.name: str = name
        self.seconds: float = seconds

    def __str__(self) -> str:
        return f"{self.name} took longer than its time limit of {self.seconds:g} s"


class JobAbandonedError(ExecutorError, RuntimeError):
    """A call was not done when a shutdown's time was up; see ``EXECUTOR_SHUTDOWN_TIMEOUT``.

    A coroutine is cancelled. A worker process is killed if it doesn't end the call itself. A plain
    function in a thread keeps running for as long as the process lives; its outcome is lost. The
    job of an engine, such as Celery, goes on: its record has its outcome.
    """

    def __init__(self, name: str, seconds: float, begun: bool, goes_on: bool = False) -> None:
        super().__init__(name, seconds, begun, goes_on)
        self.name: str = name
        self.seconds: float = seconds
        """Seconds that the shutdown waited."""
        self.begun: bool = begun
        """Whether it was running. If not, it never will, unless :attr:`goes_on`."""
        self.goes_on: bool = goes_on
        """Whether an engine has it, so that it goes on without this process, or is yet to begin."""

    def __str__(self) -> str:
        if self.goes_on:
            return (
                f"{self.name} was not done when the {self.seconds:g} s of the shutdown were over; "
                "it goes on in the workers of its engine, and executor.jobs has its outcome"
            )
        how = "was still running" if self.begun else "had not begun"
        return f"{self.name} {how} when the {self.seconds:g} s of the shutdown were over"


class ForkedFutureError(ExecutorError, RuntimeError):
    """Code waits for a call that was submitted before this process was forked.

    The call runs in the parent process, and only the parent learns its outcome.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name: str = name

    def __str__(self) -> str:
        return (
            f"{self.name} was submitted before this process was forked, and runs in the parent; "
            "submit it here, or wait for it there"
        )


class JobLostError(ExecutorError, BrokenExecutor):
    """The process that was to run a call, or was running it, has ended: killed or out of memory.

    How far the call got is unknown. It is not run again, unless it was given retries.
    """

    def __init__(self, name: str, reason: str, begun: bool | None = None) -> None:
        super().__init__(name, reason, begun)
        self.name: str = name
        self.reason: str = reason
        self.begun: bool | None = begun
        """Whether the call had started; ``None`` if that is unknown too."""

    def __str__(self) -> str:
        return f"{self.name} is lost: {self.reason}"


class JobExpiredError(ExecutorError, TimeoutError):
    """No worker started a call within the seconds of ``using(expires=...)``, and none will.

    If a worker has died in an earlier attempt, that one may have done anything.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name: str = name

    def __str__(self) -> str:
        return f"{self.name} expired: no worker started it in time"


class JobVersionError(ExecutorError, LookupError):
    """A worker of another release lacks the function of a job, or something in its arguments.

    The job has not begun.
    """

    def __init__(
        self, name: str, reason: str, submitted_by: str | None = None, worker: str | None = None
    ) -> None:
        super().__init__(name, reason, submitted_by, worker)
        self.name: str = name
        self.reason: str = reason
        self.submitted_by: str | None = submitted_by
        """``EXECUTOR_RELEASE`` of the process that has submitted the job."""
        self.worker: str | None = worker
        """That of the worker."""

    def __str__(self) -> str:
        one, other = (repr(each) if each else "unknown" for each in self.args[2:])
        name_them = "" if self.submitted_by and self.worker else ", and set EXECUTOR_RELEASE"
        return (
            f"{self.name} has not begun, since its worker cannot load it ({self.reason}); the "
            f"release that submitted it is {one}, and the worker's is {other}; restart the workers "
            f"first if a release adds jobs{name_them}"
        )


class JobFailedError(ExecutorError, RuntimeError):
    """A job raised an exception in another process.

    If that exception's class exists here, what is raised is also an instance of that class, so
    ``except ValueError:`` works in every process, and its text is the exception's own. Only the
    type, the message and the traceback travel: other attributes of the exception are missing.
    """

    name: str
    type: str
    """The exception's class, such as ``"ValueError"`` or ``"myapp.errors.PaymentError"``."""
    message: str
    traceback: str

    def __init__(self, name: str, type_name: str, message: str, traceback: str) -> None:
        # Not super(): the next class may be the exception's own, with other parameters.
        Exception.__init__(self, name, type_name, message, traceback)
        # Nor by assignment: it may have properties of these names, as Werkzeug's exceptions do.
        vars(self).update(zip(_FACTS, self.args, strict=True))
        self.__cause__: BaseException | None = RemoteTracebackError(traceback)

    def __str__(self) -> str:
        if type(self) is not JobFailedError:
            return self.message
        return f"{self.name} failed with {self.type}: {self.message}"

    def __reduce__(self) -> tuple[Callable[..., JobFailedError], tuple[Any, ...], dict[str, Any]]:
        others = {name: value for name, value in vars(self).items() if name not in _FACTS}
        return job_failed, self.args, others


_FACTS = ("name", "type", "message", "traceback")


def job_failed(name: str, type_name: str, message: str, traceback: str) -> JobFailedError:
    """Return a ``JobFailedError`` that can be caught as the class called ``type_name``."""
    known: Any = _loaded_class(type_name)
    if known is not None:
        try:
            return _catchable_as(known)(name, type_name, message, traceback)
        except Exception:  # noqa: S110  # a class may refuse to be derived from, or made like this
            pass
    return JobFailedError(name, type_name, message, traceback)


def _loaded_class(type_name: str) -> type[Exception] | None:
    """Return the exception class of that name, without importing or running anything."""
    *modules, name = type_name.split(".")
    parts = [*(modules or ["builtins"]), name]
    found: Any = None
    for length in range(len(parts) - 1, 0, -1):  # of "module.Outer.Inner" the module comes first
        found = sys.modules.get(".".join(parts[:length]))
        if found is not None:
            for part in parts[length:]:
                # Not getattr(found, part), which would run the __getattr__ of a user's module.
                found = getattr(found, "__dict__", {}).get(part)
            break
    kind: type = found if isinstance(found, type) else object
    return kind if issubclass(kind, Exception) and not issubclass(kind, _NEVER_RAISED_AS) else None


_NEVER_RAISED_AS = (
    JobFailedError,
    CancelledError,
    StopIteration,  # a generator or coroutine that raised it would raise something else
    StopAsyncIteration,
    getattr(builtins, "BaseExceptionGroup", JobFailedError),  # its parts do not travel
)


@functools.lru_cache(maxsize=256)
def _catchable_as(known: Any) -> type[JobFailedError]:
    name = f"{JobFailedError.__name__}[{known.__name__}]"
    return type(name, (JobFailedError, known), {"__module__": __name__, "__doc__": known.__doc__})


class DeadlockError(ExecutorError, RuntimeError):
    """Waiting here for this call would never end, or block every job of an event loop."""

    def __init__(self, line: str, name: str, reason: str) -> None:
        super().__init__(line, name, reason)
        self.line: str = line
        """File and number of the line that waits."""
        self.name: str = name
        self.reason: str = reason

    def __str__(self) -> str:
        return f"{self.line} waits for {self.name}, {self.reason}"


class NoJobError(ExecutorError, RuntimeError):
    """``current_job`` was used outside of a job, or after the job was over."""

    def __str__(self) -> str:
        return "there is no current job here; current_job works in functions that an executor runs"


class DuplicateKeyError(ExecutorError, ValueError):
    """A future is already kept under this key."""

    def __init__(self, key: object) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"future_key {self.key!r} already exists; pop it first, "
            "or submit with using(key=..., on_duplicate='join' or 'replace')"
        )


class BodyNotReadError(ExecutorError, RuntimeError):
    """A job read a request body that the view had not read before it submitted the job.

    By then the body belongs to the server: reading it from a job would race with the view, or
    take bytes of the next request on the same connection.
    """

    def __str__(self) -> str:
        return (
            "the body of this request was not read before the job was submitted; read it in the "
            "view first (request.form, request.files, request.get_data() or request.get_json())"
        )


class RequestArgumentError(ExecutorError, TypeError):
    """A job was given an argument that ends with the request in which it was submitted."""

    def __init__(self, name: str, part: str, reason: str, cure: str) -> None:
        super().__init__(name, part, reason, cure)
        self.name: str = name
        self.part: str = part
        """Which argument it is."""
        self.reason: str = reason
        self.cure: str = cure

    def __str__(self) -> str:
        return f"{self.name}: {self.part} is {self.reason}; {self.cure}"


class UnpicklableError(ExecutorError, TypeError):
    """A part of a call cannot be sent to a worker process, or its result cannot be sent back."""

    def __init__(self, name: str, part: str, reason: str) -> None:
        super().__init__(name, part, reason)
        self.name: str = name
        self.part: str = part
        self.reason: str = reason

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.part} cannot be sent between processes ({self.reason}); "
            "pass and return plain data and functions that a module defines at its top level, or "
            "use EXECUTOR_TYPE='thread'"
        )


class UnsupportedError(ExecutorError, NotImplementedError):
    """A call asked for something that its backend cannot do."""

    def __init__(self, name: str, backend: str, capability: str, cure: str) -> None:
        super().__init__(name, backend, capability, cure)
        self.name: str = name
        self.backend: str = backend
        """The backend: the value of ``EXECUTOR_TYPE``, or the class of the executor given there."""
        self.capability: str = capability
        """What it cannot do."""
        self.cure: str = cure

    def __str__(self) -> str:
        return f"{self.name}: {self.backend} cannot {self.capability}; {self.cure}"


class UploadsLeftBehindError(ExecutorError, RuntimeError):
    """A job in a worker process looked for an uploaded file. They stay in the server process."""

    def __str__(self) -> str:
        return (
            "uploaded files do not travel to worker processes; read the file in the view and pass "
            "its content as an argument, or save it and pass the path"
        )


class OutsideContextError(ExecutorError, RuntimeError):
    """A job in a worker process used ``current_app``, ``g``, ``request`` or ``session``."""

    def __init__(self, name: str, reason: str, cure: str) -> None:
        super().__init__(name, reason, cure)
        self.name: str = name
        self.reason: str = reason
        self.cure: str = cure

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.reason}: it runs in a worker process; {self.cure}, "
            "or pass what the job needs as arguments"
        )


class NestedProcessError(ExecutorError, RuntimeError):
    """A job in a worker process submitted to an executor of processes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name: str = name

    def __str__(self) -> str:
        return (
            f"{self.name} is called in a worker process, which would start worker processes of its "
            "own; submit in the server process, or use an executor of threads here"
        )


class GreenThreadsError(ExecutorError, RuntimeError):
    """This doesn't work in a process whose threads gevent or eventlet has replaced."""

    def __init__(self, library: str, reason: str, cure: str) -> None:
        super().__init__(library, reason, cure)
        self.library: str = library
        self.reason: str = reason
        self.cure: str = cure

    def __str__(self) -> str:
        return f"{self.library} {self.reason}; {self.cure}"


class OutsideLoopError(ExecutorError, RuntimeError):
    """A loop resource was requested on an event loop that is not this package's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name: str = name

    def __str__(self) -> str:
        return (
            f"what {self.name}() opens belongs to a loop of an executor, and this is another loop; "
            "use it in an async job, or in an async view with EXECUTOR_ASYNC_VIEWS=True"
        )


class StoreError(ExecutorError, RuntimeError):
    """The store of job records cannot be used now: it is locked, down, full or damaged."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)
        self.store: str = store
        """``EXECUTOR_STORE``, without a password."""
        self.reason: str = reason

    def __str__(self) -> str:
        return f"the job store {self.store} cannot be used: {self.reason}"


class EngineUnreachableError(ExecutorError, ConnectionError):
    """An engine, or the store of job records that it needs, did not accept a job.

    It never runs, unless ``may_run`` says so.
    """

    def __init__(self, name: str, engine: str, reason: str, may_run: bool = False) -> None:
        super().__init__(name, engine, reason, may_run)
        self.name: str = name
        self.engine: str = engine
        self.reason: str = reason
        self.may_run: bool = may_run
        """Whether a worker may have the job all the same, because the engine did not say that it
        had accepted it, and the store, which would know, could not be reached either."""

    def __str__(self) -> str:
        if self.may_run:
            return (
                f"{self.name} may run or not: neither {self.engine} nor the store of job records "
                f"could be reached: {self.reason}"
            )
        return f"{self.name} was not submitted: {self.engine} cannot be reached: {self.reason}"


class UnstorableError(StoreError):
    """The store works, but refuses the content of a record."""


class ResultNotSharedError(ExecutorError, LookupError):
    """A job succeeded, and its result is not in the store."""

    def __init__(self, name: str, state: str, type_name: str) -> None:
        super().__init__(name, state, type_name)
        self.name: str = name
        self.state: str = state
        """The record's ``result_state``."""
        self.type: str = type_name
        """The class of the result."""

    def __str__(self) -> str:
        result = f"{self.name} succeeded, but its result ({self.type or 'unknown type'})"
        if self.state == "local":
            return (
                f"{result} stays in the process that ran it, since it is not plain data; return "
                "plain data, or set EXECUTOR_STORE_RESULTS='pickle'"
            )
        if self.state == "too_large":
            return (
                f"{result} is larger than EXECUTOR_STORE_MAX_RESULT_BYTES; write it to a file, "
                "say, and return its name"
            )
        return f"{result} is no longer kept; see EXECUTOR_STORE_MAX_BYTES"


class SignatureError(ExecutorError, ValueError):
    """Signed data was changed, belongs to another job, or was signed with another key."""

    def __init__(self, kind: str, job_id: str) -> None:
        super().__init__(kind, job_id)
        self.kind: str = kind
        """The kind of data that was signed, such as ``"result"``."""
        self.job_id: str = job_id

    def __str__(self) -> str:
        return (
            f"the signature of the {self.kind} of job {self.job_id} is wrong, so it is not read; "
            "every process needs the same EXECUTOR_SIGNING_KEY, or SECRET_KEY"
        )


class WorkerError(ExecutorError, RuntimeError):
    """A job in a worker process raised an exception that cannot be sent back.

    :attr:`remote_traceback` is the traceback as text.
    """

    def __init__(self, name: str, remote_traceback: str) -> None:
        super().__init__(name, remote_traceback)
        self.name: str = name
        self.remote_traceback: str = remote_traceback

    def __str__(self) -> str:
        return (
            f"{self.name} raised an exception that cannot be pickled; its traceback in the "
            f"worker process:\n{self.remote_traceback}"
        )


class RemoteTracebackError(ExecutorError):
    """The traceback of an exception in another process. It is that exception's ``__cause__``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text: str = text

    def __str__(self) -> str:
        return f"\n{self.text}"
