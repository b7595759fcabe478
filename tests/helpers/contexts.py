"""Helpers for test_context*.py: both kinds of jobs, and the objects behind Flask's proxies."""

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
    """Return ``fn`` as a coroutine function, which lets other tasks run before and after it."""

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
    """Return the object behind ``g`` or ``request``."""
    return proxy._get_current_object()


def items_of(proxy: Any) -> dict[str, Any]:
    """Return a copy of the attributes set on ``g`` or ``request``."""
    return {**vars(itself(proxy))}


def request_context() -> Any:
    """Return the context that has ``request``; in Flask 2.0 and 2.1, it is on a stack."""
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
        """Do nothing; named as in an httpx client."""


def names_in_g() -> set[str]:
    return set(items_of(g))


def teardowns(app: Flask) -> list[tuple[str, BaseException | None, bool]]:
    """Record the teardowns of ``app``: which context, its exception, and whether in a worker."""
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
    """An object that can be watched with a weak reference."""
