"""Jobs that misbehave, for threads, loops and worker processes; see test_faults.py."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from flask import Flask, current_app, g

from flask_executor_typed import Executor

executor = Executor()
teardown_raises: list[BaseException] = []


def create_app(**settings: object) -> Flask:
    """The factory: in the test's process and in the worker."""
    app = Flask("faulty")
    config: dict[str, object] = {"EXECUTOR_MAX_WORKERS": 1, "EXECUTOR_LOG_EXCEPTIONS": False}
    app.config.from_mapping({**config, **settings})
    executor.init_app(app)

    @app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        if "teardown_raises" in g:
            raise g.teardown_raises

    return app


def where() -> tuple[int, int | None]:
    """Which worker it is."""
    return os.getpid(), threading.get_native_id()


async def where_async() -> tuple[int, int | None]:
    return where()


# -- exceptions ------------------------------------------------------------------------------------


class BareError(BaseException):
    """Derives from BaseException alone."""


class HoldsALockError(Exception):
    """Cannot be pickled, nor copied."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())


class TwoArgumentsError(Exception):
    """Cannot be unpickled: pickle calls it with ``args``, which has one item."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)


class RaisesInReduceError(Exception):
    def __reduce__(self) -> NoReturn:
        raise SystemExit("when it is pickled")


class RaisesWhenMadeAnewError(Exception):
    def __reduce__(self) -> Any:
        return exit_here, ()


class RaisesInReduceAndReprError(RuntimeError):
    def __reduce__(self) -> NoReturn:
        raise self

    def __repr__(self) -> NoReturn:
        raise SystemExit("in repr")

    __str__ = __repr__


class RaisesInReprError(Exception):
    def __repr__(self) -> NoReturn:
        raise KeyboardInterrupt("in repr")

    __str__ = __repr__


def exit_here() -> NoReturn:
    raise SystemExit("when it is unpickled")


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def use_all_memory() -> int:
    return len([0] * (sys.maxsize // 16))


def raise_with_itself_as_cause() -> None:
    error, other = ValueError("one"), ValueError("two")
    error.__cause__, other.__cause__ = other, error
    raise error


class RaisesWhenPickled:
    """A result that no worker can send."""

    def __reduce__(self) -> NoReturn:
        raise RaisesInReduceAndReprError


def leave_a_context() -> None:
    current_app.app_context().push()
    g.left = True


def leave_a_request_context() -> None:
    app: Any = current_app
    app._get_current_object().test_request_context("/left").push()


def raising(error: Callable[[], BaseException]) -> Callable[[], None]:
    def fail() -> None:
        raise error()

    return fail


FAULTS: dict[str, Callable[[], object]] = {
    "SystemExit": sys.exit,
    "KeyboardInterrupt": raising(KeyboardInterrupt),
    "GeneratorExit": raising(GeneratorExit),
    "StopIteration": raising(StopIteration),
    "StopAsyncIteration": raising(StopAsyncIteration),
    "CancelledError": raising(asyncio.CancelledError),
    "another CancelledError": raising(concurrent.futures.CancelledError),
    "TimeoutError": raising(concurrent.futures.TimeoutError),
    "BaseException": raising(BareError),
    "memory": use_all_memory,
    "recursion": recurse,
    "no copy": raising(HoldsALockError),
    "no unpickling": raising(lambda: TwoArgumentsError(1, "text")),
    "raises in pickle": raising(RaisesInReduceError),
    "raises in unpickle": raising(RaisesWhenMadeAnewError),
    "raises in all": raising(RaisesInReduceAndReprError),
    "raises in repr": raising(RaisesInReprError),
    "is its own cause": raise_with_itself_as_cause,
}
"""What fails its job, by name: functions that are no closures of a test, for worker processes."""

MISBEHAVIOURS: dict[str, Callable[[], object]] = {
    "result that raises when it is pickled": RaisesWhenPickled,
    "result that raises when it is unpickled": RaisesWhenMadeAnewError,
    "app context left": leave_a_context,
    "request context left": leave_a_request_context,
}
"""What leaves something behind, and may or may not fail."""


def close_loop() -> None:
    asyncio.get_running_loop().close()


def stop_loop() -> None:
    asyncio.get_running_loop().stop()


def stop_loop_soon() -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.stop)


def run_loop_again() -> None:
    asyncio.get_running_loop().run_forever()


def raise_in_a_callback_of_the_loop() -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(sys.exit)
    loop.call_soon(raising(KeyboardInterrupt))


def forget_loop() -> None:
    asyncio.set_event_loop(None)


def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


LOOP_MISBEHAVIOURS: dict[str, Callable[[], object]] = {
    "loop closed": close_loop,
    "loop stopped": stop_loop,
    "loop stopped soon": stop_loop_soon,
    "loop run again": run_loop_again,
    "callback raises": raise_in_a_callback_of_the_loop,
    "loop forgotten": forget_loop,
    "cancels itself": cancel_itself,
    "cancels all": cancel_all,
}
"""What only a coroutine can do."""

_ALL = {**FAULTS, **MISBEHAVIOURS, **LOOP_MISBEHAVIOURS}


def misbehave(name: str) -> object:
    return _ALL[name]()


async def misbehave_async(name: str) -> object:
    await asyncio.sleep(0)
    try:
        return _ALL[name]()
    finally:
        if name in LOOP_MISBEHAVIOURS:
            await asyncio.sleep(0)


def fail_in_teardown(name: str) -> int:
    try:
        _ALL[name]()
    except BaseException as error:
        g.teardown_raises = error
    return 42


async def fail_in_teardown_async(name: str) -> int:
    return fail_in_teardown(name)
