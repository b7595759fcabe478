"""Calls that start after the response or the commit, and futures in the order they are done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, FutureProxy

executor = Executor(Flask("cases"))


class Session:
    """As far as a session of SQLAlchemy looks like one."""

    def commit(self) -> None: ...
    def rollback(self) -> None: ...


session = Session()


def plain(a: int, b: str = "", *, c: bool = False) -> float:
    return a


async def coroutine(a: int, b: str = "") -> bytes:
    return b""


async def optional() -> int | None:
    return None


async def untyped(*args: Any) -> Any: ...


def proxy() -> FutureProxy[int]:
    return executor.submit(int)


def afuture() -> asyncio.Future[int]:
    raise NotImplementedError


def nothing() -> None: ...
def anything(a: int) -> Any: ...


@executor.job
def job(a: int, b: str = "", *, c: bool = False) -> float:
    return a


@executor.job
async def ajob(a: int, b: str = "") -> bytes:
    return b""


class Mailer:
    @executor.job
    def send(self, to: str) -> int:
        return 1

    @executor.job
    async def asend(self, to: str) -> str:
        return to


# -- after the response ----------------------------------------------------------------------------

assert_type(executor.submit_after_response(plain, 1), FutureProxy[float])
assert_type(executor.submit_after_response(plain, a=1, b="", c=True), FutureProxy[float])
assert_type(executor.submit_after_response(coroutine, 1, b=""), FutureProxy[bytes])
assert_type(executor.submit_after_response(nothing), FutureProxy[None])
assert_type(executor.submit_after_response(optional), FutureProxy[int | None])
assert_type(executor.submit_after_response(untyped, 1), FutureProxy[Any])
assert_type(executor.submit_after_response(proxy), FutureProxy[int])
assert_type(executor.submit_after_response(afuture), FutureProxy[int])
assert_type(executor.submit_after_response(job, 1), FutureProxy[float])
assert_type(executor.submit_after_response(ajob, 1), FutureProxy[bytes])
assert_type(executor.submit_after_response(anything, 1), FutureProxy[Any])
assert_type(executor.using(key="k").submit_after_response(plain, 1), FutureProxy[float])
assert_type(job.submit_after_response(1, "", c=True), FutureProxy[float])
assert_type(ajob.submit_after_response(1, b=""), FutureProxy[bytes])
assert_type(job.using(key="k").submit_after_response(1), FutureProxy[float])
assert_type(Mailer().send.submit_after_response("a"), FutureProxy[int])
assert_type(Mailer().asend.submit_after_response("a"), FutureProxy[str])

executor.submit_after_response(plain)  # error: expected
executor.submit_after_response(plain, "1")  # error: expected
executor.submit_after_response(plain, 1, d=1)  # error: expected
executor.submit_after_response(coroutine, "1")  # error: expected
executor.submit_after_response(5)  # error: expected
job.submit_after_response("1")  # error: expected
ajob.submit_after_response()  # error: expected
Mailer().send.submit_after_response(1)  # error: expected


# -- after the commit ------------------------------------------------------------------------------

assert_type(executor.submit_after_commit(session, plain, 1), FutureProxy[float])
assert_type(executor.submit_after_commit(session, plain, a=1, c=True), FutureProxy[float])
assert_type(executor.submit_after_commit(session, coroutine, 1, b=""), FutureProxy[bytes])
assert_type(executor.submit_after_commit(session, nothing), FutureProxy[None])
assert_type(executor.submit_after_commit(session, optional), FutureProxy[int | None])
assert_type(executor.submit_after_commit(session, untyped, 1), FutureProxy[Any])
assert_type(executor.submit_after_commit(session, proxy), FutureProxy[int])
assert_type(executor.submit_after_commit(session, afuture), FutureProxy[int])
assert_type(executor.submit_after_commit(session, job, 1), FutureProxy[float])
assert_type(executor.submit_after_commit(session, ajob, 1), FutureProxy[bytes])
assert_type(executor.submit_after_commit(session, anything, 1), FutureProxy[Any])
assert_type(job.submit_after_commit(session, 1, "", c=True), FutureProxy[float])
assert_type(ajob.submit_after_commit(session, 1, b=""), FutureProxy[bytes])
assert_type(Mailer().send.submit_after_commit(session, "a"), FutureProxy[int])
assert_type(Mailer().asend.submit_after_commit(session, "a"), FutureProxy[str])

executor.submit_after_commit(plain, 1)  # error: expected
executor.submit_after_commit("session", nothing)  # error: expected
executor.submit_after_commit(session, plain)  # error: expected
executor.submit_after_commit(session, plain, "1")  # error: expected
job.submit_after_commit(1)  # error: expected
job.submit_after_commit("session", 1)  # error: expected
job.submit_after_commit(session, "1")  # error: expected
ajob.submit_after_commit(session, 1, 2)  # error: expected


# -- as_completed ----------------------------------------------------------------------------------

floats = [job.submit(1)]
assert_type(executor.as_completed(floats), AsyncIterator[FutureProxy[float]])
assert_type(executor.as_completed(floats, 1.5), AsyncIterator[FutureProxy[float]])
assert_type(executor.as_completed({job.submit(1): ""}), AsyncIterator[FutureProxy[float]])
assert_type(executor.as_completed([job.submit(1)]), AsyncIterator[FutureProxy[float]])
assert_type(
    executor.as_completed([executor.submit(plain, n) for n in range(3)]),
    AsyncIterator[FutureProxy[float]],
)
# except mypy: joins them to `object`
assert_type(
    executor.as_completed([executor.submit(plain, 1), executor.submit(nothing)]),
    AsyncIterator[FutureProxy[float] | FutureProxy[None]],
)


async def results() -> None:
    async for future in executor.as_completed([ajob.submit(1)], timeout=None):
        assert_type(future, FutureProxy[bytes])
        assert_type(await future, bytes)


executor.as_completed([1])  # error: expected
executor.as_completed([plain])  # error: expected
executor.as_completed(floats, timeout="1")  # error: expected
for _ in executor.as_completed(floats):  # error: expected
    pass
