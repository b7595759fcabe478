"""Calls that start after the response or the commit, and futures in the order they are done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, FutureKey, FutureProxy

executor = Executor(Flask("cases"))
of_int = Executor[int](Flask("cases"))

NUMBER = FutureKey[int]("number")
TEXT = FutureKey[str]("text")


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

assert_type(executor.after_response().submit(plain, 1), FutureProxy[float])
assert_type(executor.after_response().submit(plain, a=1, b="", c=True), FutureProxy[float])
assert_type(executor.after_response().submit(coroutine, 1, b=""), FutureProxy[bytes])
assert_type(executor.after_response().submit(nothing), FutureProxy[None])
assert_type(executor.after_response().submit(optional), FutureProxy[int | None])
assert_type(executor.after_response().submit(untyped, 1), FutureProxy[Any])
assert_type(executor.after_response().submit(proxy), FutureProxy[int])
assert_type(executor.after_response().submit(afuture), FutureProxy[int])
assert_type(executor.after_response().submit(job, 1), FutureProxy[float])
assert_type(executor.after_response().submit(ajob, 1), FutureProxy[bytes])
assert_type(executor.after_response().submit(anything, 1), FutureProxy[Any])
assert_type(executor.using(key="k").after_response().submit(plain, 1), FutureProxy[float])
assert_type(job.after_response().submit(1, "", c=True), FutureProxy[float])
assert_type(ajob.after_response().submit(1, b=""), FutureProxy[bytes])
assert_type(job.using(key="k").after_response().submit(1), FutureProxy[float])
assert_type(Mailer().send.after_response().submit("a"), FutureProxy[int])
assert_type(Mailer().asend.after_response().submit("a"), FutureProxy[str])

assert_type(executor.after_response(), Executor[Any])
assert_type(of_int.after_response(), Executor[int])
assert_type(executor.after_response().using(key="k"), Executor[Any])
assert_type(executor.after_response().submit_stored(NUMBER, len, ""), FutureProxy[int])
assert_type(of_int.after_response().submit_stored("k", len, ""), FutureProxy[int])
assert_type(Mailer().send.after_response().submit_stored(NUMBER, "a"), FutureProxy[int])
assert_type(Mailer().asend.after_response().submit_stored(TEXT, "a"), FutureProxy[str])

executor.after_response(plain)  # error: expected
executor.after_response(1).submit(plain, 1)  # error: expected
of_int.after_response().submit_stored("k", plain, 1)  # error: expected
executor.after_response().submit_stored(NUMBER, coroutine, 1)  # error: expected
Mailer().asend.after_response().submit_stored(NUMBER, "a")  # error: expected
job.after_response(1)  # error: expected
executor.after_response().submit(plain)  # error: expected
executor.after_response().submit(plain, "1")  # error: expected
executor.after_response().submit(plain, 1, d=1)  # error: expected
executor.after_response().submit(coroutine, "1")  # error: expected
executor.after_response().submit(5)  # error: expected
job.after_response().submit("1")  # error: expected
ajob.after_response().submit()  # error: expected
Mailer().send.after_response().submit(1)  # error: expected


# -- after the commit ------------------------------------------------------------------------------

assert_type(executor.after_commit(session).submit(plain, 1), FutureProxy[float])
assert_type(executor.after_commit(session).submit(plain, a=1, c=True), FutureProxy[float])
assert_type(executor.after_commit(session).submit(coroutine, 1, b=""), FutureProxy[bytes])
assert_type(executor.after_commit(session).submit(nothing), FutureProxy[None])
assert_type(executor.after_commit(session).submit(optional), FutureProxy[int | None])
assert_type(executor.after_commit(session).submit(untyped, 1), FutureProxy[Any])
assert_type(executor.after_commit(session).submit(proxy), FutureProxy[int])
assert_type(executor.after_commit(session).submit(afuture), FutureProxy[int])
assert_type(executor.after_commit(session).submit(job, 1), FutureProxy[float])
assert_type(executor.after_commit(session).submit(ajob, 1), FutureProxy[bytes])
assert_type(executor.after_commit(session).submit(anything, 1), FutureProxy[Any])
assert_type(job.after_commit(session).submit(1, "", c=True), FutureProxy[float])
assert_type(ajob.after_commit(session).submit(1, b=""), FutureProxy[bytes])
assert_type(Mailer().send.after_commit(session).submit("a"), FutureProxy[int])
assert_type(Mailer().asend.after_commit(session).submit("a"), FutureProxy[str])

assert_type(executor.after_commit(session), Executor[Any])
assert_type(of_int.after_commit(session), Executor[int])
assert_type(executor.using(key="k").after_commit(session).submit(plain, 1), FutureProxy[float])
assert_type(job.after_commit(session).using(key="k").submit(1), FutureProxy[float])
assert_type(executor.after_commit(session).submit_stored(NUMBER, len, ""), FutureProxy[int])
assert_type(Mailer().send.after_commit(session).submit_stored(NUMBER, "a"), FutureProxy[int])

executor.after_commit()  # error: expected
executor.after_commit(plain)  # error: expected
executor.after_commit("session")  # error: expected
executor.after_commit(session, plain, 1)  # error: expected
of_int.after_commit(session).submit_stored("k", plain, 1)  # error: expected
executor.after_commit(session).submit(plain)  # error: expected
executor.after_commit(session).submit(plain, "1")  # error: expected
job.after_commit()  # error: expected
job.after_commit("session")  # error: expected
job.after_commit(session).submit("1")  # error: expected
ajob.after_commit(session).submit(1, 2)  # error: expected


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
