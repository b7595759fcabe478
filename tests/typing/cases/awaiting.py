"""Awaiting futures: every tool of asyncio that takes an awaitable or a future."""
# ruff: noqa: B018, F841, RUF006  # a refused statement need not be of use

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, FutureKey, FutureProxy

X = TypeVar("X")

executor = Executor(Flask("cases"))
NUMBER = FutureKey[int]("number")
plain: concurrent.futures.Future[int] = concurrent.futures.Future()


@executor.job
def number(a: int) -> int:
    return a


@executor.job
async def text(a: int) -> str:
    return ""


@executor.job
def optional() -> bytes | None:
    return None


future = number.submit(1)
other = text.submit(1)
ints = [number.submit(1), number.submit(2)]


async def awaits() -> None:
    assert_type(await future, int)
    assert_type(await other, str)
    assert_type(await optional.submit(), bytes | None)
    assert_type(await number.submit(1), int)
    assert_type(await text.submit(1), str)
    assert_type(await executor.submit(number.fn, 1), int)
    assert_type(await executor.submit_stored(NUMBER, number, 1), int)
    assert_type(await executor.submit_stored(NUMBER, executor.job(number.fn), 1), int)
    assert_type(future.__await__(), Generator[Any, None, int])


async def gathers() -> None:
    assert_type(await asyncio.gather(future, other), tuple[int, str])
    assert_type(await asyncio.gather(future, other, future), tuple[int, str, int])
    assert_type(await asyncio.gather(*ints), list[int])
    assert_type(await asyncio.gather(*[number.submit(n) for n in range(3)]), list[int])
    assert_type(
        await asyncio.gather(future, other, return_exceptions=True),
        tuple[int | BaseException, str | BaseException],
    )
    assert_type(await asyncio.gather(*ints, return_exceptions=True), list[int | BaseException])
    first, second = await asyncio.gather(future, other)
    assert_type(first, int)
    assert_type(second, str)


async def waits() -> None:
    assert_type(await asyncio.wait_for(future, 1), int)
    assert_type(await asyncio.wait_for(other, timeout=None), str)
    assert_type(await asyncio.shield(future), int)
    assert_type(asyncio.wrap_future(future), asyncio.Future[int])
    assert_type(await asyncio.wrap_future(other), str)
    assert_type(await asyncio.ensure_future(future), int)
    for done in asyncio.as_completed(ints):
        assert_type(await done, int)
    loop = asyncio.get_running_loop()
    assert_type(await loop.run_in_executor(executor, number.fn, 1), int)
    assert_type(await loop.run_in_executor(None, future.result), int)
    assert_type(loop.run_until_complete(future), int)


async def first_of(futures: list[FutureProxy[X]]) -> X:
    for future in futures:
        return await future
    raise LookupError


async def any_awaitable(awaitable: Awaitable[X]) -> X:
    return await awaitable


async def generic() -> None:
    assert_type(await first_of(ints), int)
    assert_type(await any_awaitable(other), str)
    as_awaitable: Awaitable[int] = future
    assert_type(await as_awaitable, int)


async def errors() -> None:
    await plain  # error: expected
    await number  # error: expected
    await future.result()  # error: expected
    await number(1)  # error: expected
    asyncio.create_task(future)  # error: expected
    # error: expected
    # except mypy, pyright, ty, pyrefly on 3.10: it took any awaitable then
    await asyncio.wait([future])
    await asyncio.gather(plain)  # error: expected
    await asyncio.gather(future, 1)  # error: expected
    await asyncio.wait_for(future.result, 1)  # error: expected
    asyncio.wrap_future(1)  # error: expected
    wrong: str = await future  # error: expected
    wrong_gather: tuple[str, int] = await asyncio.gather(future, other)  # error: expected
    (await future).upper()  # error: expected
    (await other).real  # error: expected
    wrong_awaitable: Awaitable[str] = future  # error: expected
    for done in concurrent.futures.as_completed(ints):
        await done  # error: expected
    async with future:  # error: expected
        pass
    async for _ in future:  # error: expected
        pass
