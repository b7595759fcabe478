"""What the tests of contexts share: two kinds of jobs, and a look behind the proxies of Flask.

Their files: test_context*.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import flask.globals
import pytest
from flask import Flask, g, has_app_context, has_request_context

from flask_executor_typed import Executor, FutureProxy

from ..conftest import TIMEOUT

Job = Callable[..., Any]

variable: ContextVar[str] = ContextVar("variable", default="unset")


def plain(fn: Job) -> Job:
    return fn


def coroutine(fn: Job) -> Job:
    """The same as a coroutine function, which lets others run before and after ``fn``."""

    async def job(*args: Any) -> Any:
        await asyncio.sleep(0)
        result = fn(*args)
        await asyncio.sleep(0)
        return result

    return job


both_kinds = pytest.mark.parametrize("kind", [plain, coroutine])


def start(executor: Executor, fn: Job, *args: Any) -> FutureProxy[Any]:
    return executor.submit(fn, *args)


def run(executor: Executor, fn: Job, *args: Any) -> Any:
    return start(executor, fn, *args).result(TIMEOUT)


def itself(proxy: Any) -> Any:
    """What stands behind ``g`` or ``request``."""
    return proxy._get_current_object()


def items_of(proxy: Any) -> dict[str, Any]:
    """A copy of what is set on ``g`` or ``request``."""
    return {**vars(itself(proxy))}


def request_context() -> Any:
    """The context that ``request`` is found in; of Flask 2.0 and 2.1 it is on a stack."""
    names: dict[str, Any] = {**vars(flask.globals)}
    proxy = names.get("request_ctx") or names.get("app_ctx")
    return names["_request_ctx_stack"].top if proxy is None else itself(proxy)


def app_context() -> Any:
    names: dict[str, Any] = {**vars(flask.globals)}
    proxy = names.get("app_ctx")
    return names["_app_ctx_stack"].top if proxy is None else itself(proxy)


def in_worker() -> bool:
    return threading.current_thread().name.startswith("executor-")


class AsyncResource:
    async def aclose(self) -> None:
        """As an httpx client has it."""


def names_in_g() -> set[str]:
    return set(items_of(g))


def teardowns(app: Flask) -> list[tuple[str, BaseException | None, bool]]:
    """What is torn down in ``app`` from now on: which context, with what, and if in a worker."""
    log: list[tuple[str, BaseException | None, bool]] = []

    @app.teardown_request
    def of_request(error: BaseException | None) -> None:
        assert has_request_context()
        log.append(("request", error, in_worker()))

    @app.teardown_appcontext
    def of_app(error: BaseException | None) -> None:
        assert has_app_context()
        log.append(("app", error, in_worker()))

    return log


class Marker:
    """Something whose end can be seen."""
