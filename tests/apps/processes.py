"""Functions that worker processes import; see test_process.py."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

from flask import Flask, current_app, request

from flask_executor_typed import Executor

app = Flask("processes")
app.config["EXECUTOR_TYPE"] = "process"
app.config["EXECUTOR_MAX_WORKERS"] = 2
executor = Executor(app)


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def pid() -> int:
    return os.getpid()


async def add_soon(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@executor.job
def cube(n: int) -> int:
    return n**3


@executor.job
async def cube_soon(n: int) -> int:
    return n**3


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @executor.job
    def times(self, n: int) -> int:
        return self.factor * n


class TwoArgumentsError(Exception):
    """Cannot be unpickled: pickle calls it with ``args``, which has one item."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def raise_value_error() -> None:
    raise ValueError("no")


def raise_two_arguments() -> None:
    raise TwoArgumentsError(7, "odd")


def name_of_app() -> str:
    return current_app.name


def path_of_request() -> str:
    return request.path


def give_lock() -> Any:
    return threading.Lock()


def echo(*args: object, **kwargs: object) -> tuple[object, object]:
    return args, kwargs


class TakesTwo(Exception):
    """Can be pickled, and not be rebuilt from its args."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def result_that_unpickles_badly() -> dict[str, object]:
    return {"error": TakesTwo(1, "x")}


def unpicklable_result() -> object:
    return threading.Lock()


def overtime() -> None:
    raise RuntimeError("Working outside of hours")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
