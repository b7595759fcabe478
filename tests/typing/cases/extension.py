"""The extension itself: making, configuring, options, callbacks, shutting down."""
# ruff: noqa: B018, F841  # a refused statement need not be of use

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any, TypeVar

from flask import Flask, current_app
from typing_extensions import assert_type

import flask_executor_typed
from flask_executor_typed import (
    BodyNotReadError,
    CarryG,
    ConfigError,
    DuplicateKeyError,
    Executor,
    ExecutorClosedError,
    ExecutorError,
    ExecutorJob,
    FutureKey,
    FutureProxy,
    JobLostError,
    NestedProcessError,
    NoAppError,
    OutsideContextError,
    RemoteTracebackError,
    RequestArgumentError,
    UnpicklableError,
    UnsupportedError,
    UploadsLeftBehindError,
    WorkerError,
    job_cancelled,
    job_failed,
    job_started,
    job_submitted,
    job_succeeded,
    without_resources,
)
from flask_executor_typed.executor import propagate_exceptions_callback

X = TypeVar("X")

app = Flask("cases")

# -- making ----------------------------------------------------------------------------------------

assert_type(Executor(), Executor[Any])
assert_type(Executor(app), Executor[Any])
assert_type(Executor(app, "mail"), Executor[Any])
assert_type(Executor(app, name="mail"), Executor[Any])
assert_type(Executor(name="mail"), Executor[Any])
assert_type(Executor(app=app), Executor[Any])
assert_type(Executor[int](), Executor[int])
assert_type(Executor[int | str](app, "mail"), Executor[int | str])
executor = Executor(app)
of_int = Executor[int]()
assert_type(of_int.init_app(app), None)
assert_type(of_int.init_app(app=app), None)
assert_type(executor.name, str)

Executor("mail")  # error: expected
Executor(app, 1)  # error: expected
Executor(app, "mail", "more")  # error: expected
Executor(app, workers=3)  # error: expected
of_int.init_app()  # error: expected
of_int.init_app("app")  # error: expected
of_int.init_app(None)  # error: expected

# current_app is declared as a Flask, so no checker sees that it is a proxy
assert_type(Executor(current_app), Executor[Any])


# -- carry_g ---------------------------------------------------------------------------------------


def carries(name: str, value: object) -> bool:
    return name != "db"


def carries_str(name: str, value: str) -> bool:
    return True


def carries_name(name: str) -> bool:
    return True


assert_type(Executor(app, carry_g=("user", "locale")), Executor[Any])
assert_type(Executor(app, carry_g={"user"}), Executor[Any])
assert_type(Executor(app, carry_g=[]), Executor[Any])
assert_type(Executor(app, carry_g=carries), Executor[Any])
assert_type(Executor(app, carry_g=without_resources), Executor[Any])
assert_type(Executor(app, carry_g=lambda name, value: name == "user"), Executor[Any])
assert_type(without_resources("db", object()), bool)
names: CarryG = ("user",)
Executor(app, carry_g=1)  # error: expected
Executor(app, carry_g=[1])  # error: expected
Executor(app, carry_g=None)  # error: expected
Executor(app, carry_g=carries_str)  # error: expected
Executor(app, carry_g=carries_name)  # error: expected
Executor(app, "mail", ("user",))  # error: expected


# -- using -----------------------------------------------------------------------------------------


def number(a: int) -> int:
    return a


async def text(a: int) -> str:
    return ""


assert_type(executor.using(), Executor[Any])
assert_type(executor.using(key="k"), Executor[Any])
assert_type(of_int.using(key="k", on_duplicate="join", name="n"), Executor[int])
assert_type(executor.using(key=FutureKey[int]("k")), Executor[Any])
assert_type(executor.using(key=None, name=None, on_duplicate=None), Executor[Any])
assert_type(executor.using(key=("k", 1)).submit(number, 1), FutureProxy[int])
assert_type(executor.using(key="k").submit(text, a=1), FutureProxy[str])
assert_type(of_int.using(on_duplicate="replace").submit_stored("k", number, 1), FutureProxy[int])
assert_type(of_int.using(name="n").using(key="k").submit(number, 1), FutureProxy[int])
assert_type(executor.using(name="n").job(number).submit(1), FutureProxy[int])
executor.using("k")  # error: expected
executor.using(key=[])  # error: expected
executor.using(on_duplicate="ignore")  # error: expected
executor.using(name=1)  # error: expected
executor.using(unknown=1)  # error: expected
executor.using(key="k").submit(number, "1")  # error: expected
executor.using(key="k").submit(number)  # error: expected
of_int.using(name="n").submit_stored("k", text, 1)  # error: expected


class Mine(Executor[int]):
    """A subclass stays one."""

    def twice(self, fn: Callable[[], int]) -> FutureProxy[int]:
        return self.submit(fn)


assert_type(Mine(app).using(key="k"), Mine)
assert_type(Mine(app).using(key="k").twice(int), FutureProxy[int])
assert_type(Mine(app).submit_stored("k", number, 1), FutureProxy[int])
Mine(app).submit_stored("k", text, 1)  # error: expected


# -- default callbacks -----------------------------------------------------------------------------


def logs(future: FutureProxy[Any]) -> None: ...
def logs_future(future: concurrent.futures.Future[Any]) -> bool:
    return True


def logs_result(result: int) -> None: ...
def no_argument() -> None: ...


assert_type(executor.add_default_done_callback(logs), None)
assert_type(executor.add_default_done_callback(logs_future), None)
assert_type(executor.add_default_done_callback(print), None)
assert_type(executor.add_default_done_callback(fn=propagate_exceptions_callback), None)
executor.add_default_done_callback(lambda future: future.status)
assert_type(propagate_exceptions_callback(executor.submit(number, 1)), None)
executor.add_default_done_callback(logs_result)  # error: expected
executor.add_default_done_callback(no_argument)  # error: expected
executor.add_default_done_callback()  # error: expected
executor.add_default_done_callback("logs")  # error: expected
executor.add_default_done_callback(lambda: 1)  # error: expected
executor.add_default_done_callback(lambda future: future.unknown)  # error: expected


# -- a concurrent.futures.Executor -----------------------------------------------------------------


def third_party(pool: concurrent.futures.Executor, fn: Callable[[], X]) -> X:
    return pool.submit(fn).result()


assert_type(third_party(executor, dict[str, int]), dict[str, int])
assert_type(third_party(of_int, str), str)
as_pool: concurrent.futures.Executor = of_int
with Executor[int](app) as entered:
    assert_type(entered, Executor[int])
assert_type(executor.shutdown(), None)
assert_type(executor.shutdown(False), None)
assert_type(executor.shutdown(wait=True, cancel_futures=True), None)
assert_type(executor.shutdown(timeout=1), None)
executor.shutdown(True, True)  # error: expected
executor.shutdown(cancel_futures=1.5)  # error: expected
executor.shutdown(timeout="1")  # error: expected


async def shut_down() -> None:
    assert_type(await executor.ashutdown(), None)
    assert_type(await executor.ashutdown(False, cancel_futures=True, timeout=0.5), None)
    await executor.ashutdown(True, True)  # error: expected
    await executor.ashutdown(timeout="1")  # error: expected


# -- annotations of the user's own -----------------------------------------------------------------


def takes_any_executor(executor: Executor) -> None: ...
def takes_int_executor(executor: Executor[int]) -> None: ...
def takes_job(job: ExecutorJob[..., Any, Any]) -> None: ...
def no_executor(pool: concurrent.futures.Executor) -> Executor:
    return pool  # error: expected


assert_type(takes_any_executor(executor), None)
assert_type(takes_any_executor(of_int), None)
assert_type(takes_any_executor(Mine(app)), None)
assert_type(takes_int_executor(executor), None)
assert_type(takes_int_executor(of_int), None)
assert_type(takes_int_executor(Mine(app)), None)
assert_type(takes_job(executor.job(number)), None)
takes_int_executor(Executor[str](app))  # error: expected
takes_int_executor(Executor[bool](app))  # error: expected
takes_any_executor(concurrent.futures.ThreadPoolExecutor())  # error: expected
takes_job(number)  # error: expected


# -- errors and signals ----------------------------------------------------------------------------


def raised(
    error: ExecutorError,
    config: ConfigError,
    duplicate: DuplicateKeyError,
    closed: ExecutorClosedError,
    no_app: NoAppError,
    body: BodyNotReadError,
    argument: RequestArgumentError,
) -> None:
    errors: list[ExecutorError] = [config, duplicate, closed, no_app, body, argument]
    type_error: TypeError = argument
    assert_type((argument.part, argument.cure), tuple[str, str])
    values: list[ValueError] = [config, duplicate]
    runtime: list[RuntimeError] = [closed, no_app]
    no_value: ValueError = closed  # error: expected
    no_runtime: RuntimeError = config  # error: expected


def raised_by_processes(
    unpicklable: UnpicklableError,
    outside: OutsideContextError,
    worker: WorkerError,
    lost: JobLostError,
    uploads: UploadsLeftBehindError,
    nested: NestedProcessError,
    remote: RemoteTracebackError,
    unsupported: UnsupportedError,
) -> None:
    errors: list[ExecutorError] = [unpicklable, outside, worker, lost, uploads, nested, remote]
    not_implemented: NotImplementedError = unsupported
    assert_type((unsupported.backend, unsupported.capability), tuple[str, str])
    types: list[TypeError] = [unpicklable]
    runtime: list[RuntimeError] = [outside, worker, lost, uploads, nested]
    broken: BrokenExecutor = lost
    assert_type((lost.name, lost.reason, outside.cure), tuple[str, str, str])
    assert_type((nested.name, remote.text), tuple[str, str])
    no_value: ValueError = unpicklable  # error: expected


def on_signal(sender: Flask, future: FutureProxy[Any]) -> None: ...


job_submitted.connect(on_signal)
job_started.connect(on_signal, app)
job_succeeded.connect(on_signal)
job_failed.connect(on_signal)
job_cancelled.connect(on_signal)
assert_type(job_submitted.name, str)
assert_type(flask_executor_typed.__version__, str)
job_failed.connect(1)  # error: expected
flask_executor_typed.Unknown  # error: expected
