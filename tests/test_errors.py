"""What the errors say, what they are, and that they survive a trip to another process."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from concurrent.futures import BrokenExecutor
from queue import Full

import pytest
from werkzeug.exceptions import NotFound, ServiceUnavailable

from flask_executor_typed import errors
from flask_executor_typed.errors import (
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
    job_failed,
)

# One of each: the error, the builtin that a caller would expect, its text.
ERRORS: list[tuple[ExecutorError, type[Exception], str]] = [
    (
        ConfigError("EXECUTOR_MAX_WORKERS", "many", "a whole number, 1 or more"),
        ValueError,
        (
            "EXECUTOR_MAX_WORKERS='many' (str): expected a whole number, 1 or more; "
            "set it before init_app()"
        ),
    ),
    (
        NoAppError("this executor has no app", "call executor.init_app(app) first"),
        RuntimeError,
        "this executor has no app; call executor.init_app(app) first",
    ),
    (
        DeadlockError("app.py:12", "report", "which waits for this line"),
        RuntimeError,
        "app.py:12 waits for report, which waits for this line",
    ),
    (
        ExecutorBusyError("executor", 5.0, ["report (pending)", "the done callback tell"]),
        TimeoutError,
        "executor is not idle after 5 s: report (pending); the done callback tell",
    ),
    (
        QueueFullError("executor", "EXECUTOR_MAX_PENDING", 100),
        Full,
        (
            "executor is full: EXECUTOR_MAX_PENDING=100; submit again later, or wait for room "
            "with using(block=seconds)"
        ),
    ),
    (
        QueueFullError("executor", "EXECUTOR_MAX_PENDING", 100, "shop.py:12"),
        ServiceUnavailable,
        (
            "executor is full: EXECUTOR_MAX_PENDING=100; submit again later, or wait for room "
            "with using(block=seconds); submitted at shop.py:12"
        ),
    ),
    (
        NotRegisteredError("jobs", "shop"),
        RuntimeError,
        (
            "the blueprint 'jobs' is not registered with the app 'shop'; "
            "call app.register_blueprint() first"
        ),
    ),
    (
        ResponseTooLargeError(1000),
        ValueError,
        (
            "the response is larger than 1000 bytes; see EXECUTOR_STORE_MAX_RESULT_BYTES, or "
            "write it to a file and answer with its address"
        ),
    ),
    (
        JobTimeoutError("report", 1.5),
        TimeoutError,
        "report took longer than its time limit of 1.5 s",
    ),
    (
        NoJobError(),
        RuntimeError,
        "there is no current job here; current_job works in functions that an executor runs",
    ),
    (
        NoRequestError(),
        RuntimeError,
        (
            "after_response() needs a request that is not over: outside of one, in a job, "
            "and in a stream that has begun, submit without it"
        ),
    ),
    (
        ExecutorClosedError("mail_executor", at_exit=True),
        RuntimeError,
        (
            "cannot submit to mail_executor while the interpreter exits; "
            "only what was accepted before is done"
        ),
    ),
    (
        JobAbandonedError("report", 1.5, begun=True),
        RuntimeError,
        "report was still running when the 1.5 s of the shutdown were over",
    ),
    (
        JobAbandonedError("report", 0.0, begun=False),
        RuntimeError,
        "report had not begun when the 0 s of the shutdown were over",
    ),
    (
        JobAbandonedError("report", 2.0, begun=True, goes_on=True),
        RuntimeError,
        (
            "report was not done when the 2 s of the shutdown were over; it goes on in the workers "
            "of its engine, and executor.jobs has its outcome"
        ),
    ),
    (
        ForkedFutureError("report"),
        RuntimeError,
        (
            "report was submitted before this process was forked, and runs in the parent; "
            "submit it here, or wait for it there"
        ),
    ),
    (
        ExecutorClosedError("mail_executor"),
        RuntimeError,
        (
            "cannot submit to mail_executor after shutdown; "
            "init_app() makes the executor accept calls again"
        ),
    ),
    (
        DuplicateKeyError(("report", 7)),
        ValueError,
        (
            "future_key ('report', 7) already exists; pop it first, "
            "or submit with using(key=..., on_duplicate='join' or 'replace')"
        ),
    ),
    (
        GreenThreadsError("gevent", "makes threads greenlets", "use a server with threads"),
        RuntimeError,
        "gevent makes threads greenlets; use a server with threads",
    ),
    (
        BodyNotReadError(),
        RuntimeError,
        (
            "the body of this request was not read before the job was submitted; read it in the "
            "view first (request.form, request.files, request.get_data() or request.get_json())"
        ),
    ),
    (
        UnpicklableError("app.report", "argument 1", "cannot pickle '_thread.lock' object"),
        TypeError,
        (
            "app.report: argument 1 cannot be sent between processes (cannot pickle "
            "'_thread.lock' object); pass and return plain data and functions that a module "
            "defines at its top level, or use EXECUTOR_TYPE='thread'"
        ),
    ),
    (
        OutsideContextError("app.report", "Working outside of request context", "set X = True"),
        RuntimeError,
        (
            "app.report: Working outside of request context: it runs in a worker process; "
            "set X = True, or pass what the job needs as arguments"
        ),
    ),
    (
        UnsupportedError(
            "report",
            "EXECUTOR_TYPE='interpreter'",
            "enforce time limits",
            "use EXECUTOR_TYPE='process'",
        ),
        NotImplementedError,
        (
            "report: EXECUTOR_TYPE='interpreter' cannot enforce time limits; "
            "use EXECUTOR_TYPE='process'"
        ),
    ),
    (
        JobLostError("app.report", "its worker process was killed by SIGKILL while it ran"),
        BrokenExecutor,
        "app.report is lost: its worker process was killed by SIGKILL while it ran",
    ),
    (
        JobExpiredError("app.report"),
        TimeoutError,
        "app.report expired: no worker started it in time",
    ),
    (
        JobVersionError("report", "No module named 'new'", "1.2", "1.1"),
        LookupError,
        (
            "report has not begun, since its worker cannot load it (No module named 'new'); the "
            "release that submitted it is '1.2', and the worker's is '1.1'; restart the workers "
            "first if a release adds jobs"
        ),
    ),
    (
        JobVersionError("report", "No module named 'new'", "1.2"),
        LookupError,
        (
            "report has not begun, since its worker cannot load it (No module named 'new'); the "
            "release that submitted it is '1.2', and the worker's is unknown; restart the workers "
            "first if a release adds jobs, and set EXECUTOR_RELEASE"
        ),
    ),
    (
        JobFailedError("app.report", "app.NoData", "no rows", "Traceback: ..."),
        RuntimeError,
        "app.report failed with app.NoData: no rows",
    ),
    (
        job_failed("app.report", "FileNotFoundError", "no such file", "Traceback: ..."),
        FileNotFoundError,
        "no such file",
    ),
    (
        StoreError("sqlite:////srv/jobs.db", "database is locked"),
        RuntimeError,
        "the job store sqlite:////srv/jobs.db cannot be used: database is locked",
    ),
    (
        UnstorableError("sqlite:////srv/jobs.db", "int too large"),
        RuntimeError,
        "the job store sqlite:////srv/jobs.db cannot be used: int too large",
    ),
    (
        ResultNotSharedError("app.report", "local", "app.Report"),
        LookupError,
        (
            "app.report succeeded, but its result (app.Report) stays in the process that ran it, "
            "since it is not plain data; return plain data, or set EXECUTOR_STORE_RESULTS='pickle'"
        ),
    ),
    (
        ResultNotSharedError("app.report", "too_large", "bytes"),
        LookupError,
        (
            "app.report succeeded, but its result (bytes) is larger than "
            "EXECUTOR_STORE_MAX_RESULT_BYTES; write it to a file, say, and return its name"
        ),
    ),
    (
        ResultNotSharedError("app.report", "absent", ""),
        LookupError,
        (
            "app.report succeeded, but its result (unknown type) is no longer kept; "
            "see EXECUTOR_STORE_MAX_BYTES"
        ),
    ),
    (
        EngineUnreachableError("f", "CeleryEngine", "no broker"),
        ConnectionError,
        "f was not submitted: CeleryEngine cannot be reached: no broker",
    ),
    (
        EngineUnreachableError("f", "CeleryEngine", "no broker", True),
        ConnectionError,
        (
            "f may run or not: neither CeleryEngine nor the store of job records could be "
            "reached: no broker"
        ),
    ),
    (
        SignatureError("result", "kE4mVfXk0m2N1nq9Yb3x5A"),
        ValueError,
        (
            "the signature of the result of job kE4mVfXk0m2N1nq9Yb3x5A is wrong, so it is not "
            "read; every process needs the same EXECUTOR_SIGNING_KEY, or SECRET_KEY"
        ),
    ),
    (
        NestedProcessError("app.report"),
        RuntimeError,
        (
            "app.report is called in a worker process, which would start worker processes of its "
            "own; submit in the server process, or use an executor of threads here"
        ),
    ),
    (
        RequestArgumentError("app.report", "argument 1", "the view's request", "use ours"),
        TypeError,
        "app.report: argument 1 is the view's request; use ours",
    ),
    (
        UploadsLeftBehindError(),
        RuntimeError,
        (
            "uploaded files do not travel to worker processes; read the file in the view and pass "
            "its content as an argument, or save it and pass the path"
        ),
    ),
    (
        RemoteTracebackError("Traceback: ..."),
        Exception,
        "\nTraceback: ...",
    ),
    (
        OutsideLoopError("make_client"),
        RuntimeError,
        (
            "what make_client() opens belongs to a loop of an executor, and this is another loop; "
            "use it in an async job, or in an async view with EXECUTOR_ASYNC_VIEWS=True"
        ),
    ),
    (
        WorkerError("app.report", "Traceback: ..."),
        RuntimeError,
        (
            "app.report raised an exception that cannot be pickled; its traceback in the "
            "worker process:\nTraceback: ..."
        ),
    ),
]

each_error = pytest.mark.parametrize(
    ("error", "builtin", "text"), ERRORS, ids=[type(error).__name__ for error, _, _ in ERRORS]
)


@each_error
def test_error_says_what_was_given_and_what_to_do(
    error: ExecutorError, builtin: type[Exception], text: str
) -> None:
    assert str(error) == text


@each_error
def test_error_is_caught_as_the_builtin_that_a_caller_would_expect(
    error: ExecutorError, builtin: type[Exception], text: str
) -> None:
    assert isinstance(error, builtin)
    assert isinstance(error, ExecutorError)


@each_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_error_comes_out_of_a_pickle_with_its_text_and_facts(
    error: ExecutorError, builtin: type[Exception], text: str, protocol: int
) -> None:
    loaded = pickle.loads(pickle.dumps(error, protocol))
    assert type(loaded) is type(error)
    assert str(loaded) == text
    assert loaded.args == error.args
    assert vars(loaded) == vars(error)


@each_error
def test_error_can_be_copied(error: ExecutorError, builtin: type[Exception], text: str) -> None:
    for copied in (copy.copy(error), copy.deepcopy(error)):
        assert type(copied) is type(error)
        assert (str(copied), vars(copied)) == (text, vars(error))


def test_facts_are_attributes() -> None:
    config = ConfigError("EXECUTOR_MAX_LOOPS", 0, "1 or more")
    assert (config.key, config.value, config.expected) == ("EXECUTOR_MAX_LOOPS", 0, "1 or more")
    no_app = NoAppError("no app", "make one")
    assert (no_app.reason, no_app.cure) == ("no app", "make one")
    assert ExecutorClosedError("executor").name == "executor"
    assert DuplicateKeyError("k").key == "k"
    unpicklable = UnpicklableError("f", "its result", "why")
    assert (unpicklable.name, unpicklable.part, unpicklable.reason) == ("f", "its result", "why")
    argument = RequestArgumentError("f", "argument 1", "this", "do")
    assert (argument.name, argument.part) == ("f", "argument 1")
    assert (argument.reason, argument.cure) == ("this", "do")
    outside = OutsideContextError("f", "why", "do")
    assert (outside.name, outside.reason, outside.cure) == ("f", "why", "do")
    lost = JobLostError("f", "why", begun=True)
    assert (lost.name, lost.reason, lost.begun) == ("f", "why", True)
    assert JobLostError("f", "why").begun is None
    failed = JobFailedError("f", "app.NoData", "no rows", "Traceback")
    assert (failed.name, failed.type, failed.message) == ("f", "app.NoData", "no rows")
    assert failed.traceback == "Traceback"
    assert JobExpiredError("f").name == "f"
    version = JobVersionError("f", "why", "2", "1")
    assert (version.name, version.reason) == ("f", "why")
    assert (version.submitted_by, version.worker) == ("2", "1")
    store = StoreError("sqlite:///jobs.db", "why")
    assert (store.store, store.reason) == ("sqlite:///jobs.db", "why")
    not_shared = ResultNotSharedError("f", "local", "app.Report")
    assert (not_shared.name, not_shared.state, not_shared.type) == ("f", "local", "app.Report")
    unreachable = EngineUnreachableError("f", "CeleryEngine", "no broker", True)
    assert (unreachable.name, unreachable.engine) == ("f", "CeleryEngine")
    assert (unreachable.reason, unreachable.may_run) == ("no broker", True)
    unsigned = SignatureError("result", "id")
    assert (unsigned.kind, unsigned.job_id) == ("result", "id")
    unregistered = NotRegisteredError("jobs", "shop")
    assert (unregistered.blueprint, unregistered.app) == ("jobs", "shop")
    assert ResponseTooLargeError(1000).limit == 1000
    assert NestedProcessError("f").name == "f"
    assert ForkedFutureError("f").name == "f"
    abandoned = JobAbandonedError("f", 1.5, begun=True)
    assert (abandoned.name, abandoned.seconds, abandoned.begun) == ("f", 1.5, True)
    assert ExecutorClosedError("e", at_exit=True).at_exit
    assert not ExecutorClosedError("e").at_exit
    assert RemoteTracebackError("Traceback").text == "Traceback"
    worker = WorkerError("f", "Traceback")
    assert (worker.name, worker.remote_traceback) == ("f", "Traceback")


def test_every_error_of_the_module_is_tested_here_and_is_public() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    tested = {type(error).__name__ for error, _, _ in ERRORS if "[" not in type(error).__name__}
    assert defined == tested | {"ExecutorError"}
    assert defined == set(errors.__all__) - {"job_failed"}


# -- failures of other processes -------------------------------------------------------------------


class PaymentError(Exception):
    """An exception of a user's app, which needs an argument."""

    class DeclinedError(Exception):
        """One inside of another class."""

    def __init__(self, amount: int) -> None:
        super().__init__(amount)
        self.amount = amount


class FinalError(Exception):
    """One that cannot be derived from."""

    def __init_subclass__(cls) -> None:
        raise TypeError("final")


def raised_for(type_name: str) -> JobFailedError:
    return job_failed("report", type_name, "why", "Traceback: ...")


@pytest.mark.parametrize(
    ("type_name", "known"),
    [
        ("ValueError", ValueError),
        ("KeyError", KeyError),
        ("FileNotFoundError", FileNotFoundError),
        ("UnicodeDecodeError", UnicodeDecodeError),
        ("SyntaxError", SyntaxError),
        (f"{__name__}.PaymentError", PaymentError),
        (f"{__name__}.PaymentError.DeclinedError", PaymentError.DeclinedError),
        ("flask_executor_typed.errors.JobTimeoutError", JobTimeoutError),
        ("werkzeug.exceptions.NotFound", NotFound),
    ],
)
def test_a_failure_elsewhere_is_caught_as_the_class_that_this_process_knows(
    type_name: str, known: type[Exception]
) -> None:
    error = raised_for(type_name)
    assert isinstance(error, known)
    assert isinstance(error, JobFailedError)
    assert str(error) == "why"
    assert isinstance(error.__cause__, RemoteTracebackError)
    assert str(error.__cause__) == "\nTraceback: ..."
    assert type(pickle.loads(pickle.dumps(error))) is type(error)


@pytest.mark.parametrize(
    "type_name",
    [
        "SystemExit",
        "KeyboardInterrupt",
        "asyncio.exceptions.CancelledError",
        "concurrent.futures._base.CancelledError",
        "StopIteration",
        "StopAsyncIteration",
        "ExceptionGroup",
        "GeneratorExit",
        "print",
        "not.imported.NoSuchError",
        "pickle.NoSuchError",
        f"{__name__}.FinalError",
        f"{__name__}.raised_for",
        "flask_executor_typed.errors.JobFailedError",
        "",
        "..",
    ],
)
def test_a_failure_elsewhere_of_any_other_class_is_a_plain_error_that_names_it(
    type_name: str,
) -> None:
    error = raised_for(type_name)
    assert type(error) is JobFailedError
    assert str(error) == f"report failed with {type_name}: why"


def test_looking_for_the_class_of_a_failure_imports_nothing() -> None:
    assert "this" not in sys.modules
    assert type(raised_for("this.Error")) is JobFailedError
    assert "this" not in sys.modules
