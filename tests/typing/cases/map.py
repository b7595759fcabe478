"""``Executor.map``: each iterable must fit its parameter."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from contextlib import aclosing, closing
from functools import partial
from typing import Any, TypeVar

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, Results

X = TypeVar("X")

executor = Executor(Flask("cases"))


def none() -> int:
    return 0


def one(a: int) -> str:
    return ""


def two(a: int, b: str) -> float:
    return 1.0


def three(a: int, b: str, c: bytes) -> list[int]:
    return []


def four(a: int, b: str, c: bytes, d: bool) -> int | None:
    return None


def five(a: int, b: str, c: bytes, d: bool, e: float) -> dict[str, Any]:
    return {}


def six(a: int, b: int, c: int, d: int, e: int, f: int) -> bool:
    return True


def seven(a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> bytes:
    return b""


def with_default(a: int, b: str = "") -> str:
    return b


def variadic(*items: int) -> int:
    return len(items)


def keyword_only(a: int, *, b: str) -> str:
    return b


def union(a: int) -> int | str:
    return a


def maybe_async(a: int) -> int | Coroutine[Any, Any, int]:
    return a


def awaitable(a: int) -> Awaitable[bytes]:
    return aone(a)


async def aone(a: int) -> bytes:
    return b""


async def atwo(a: int, b: str) -> str:
    return b


async def athree(a: int, b: str, c: bytes) -> int:
    return a


async def afour(a: int, b: str, c: bytes, d: bool) -> bool:
    return d


async def afive(a: int, b: str, c: bytes, d: bool, e: float) -> float:
    return e


async def asix(a: int, b: int, c: int, d: int, e: int, f: int) -> bool:
    return True


async def with_any(d: dict[str, Any]) -> str:
    return ""


# not literal lists: what a checker makes of those depends on what is expected
ints: list[int] = []
strs: list[str] = []
bytess: tuple[bytes, ...] = ()
bools: set[bool] = set()
floats: Iterator[float] = iter(())
dicts: list[dict[str, Any]] = []


def generated() -> Generator[int, None, None]:
    yield 1


# -- map -------------------------------------------------------------------------------------------

assert_type(executor.map(one, ints), Results[str])
assert_type(executor.map(one, [1, 2, 3]), Results[str])
assert_type(executor.map(one, range(3)), Results[str])
assert_type(executor.map(one, generated()), Results[str])
assert_type(executor.map(one, bools), Results[str])
assert_type(executor.map(two, ints, strs), Results[float])
assert_type(executor.map(two, ints, "abc"), Results[float])
assert_type(executor.map(three, ints, strs, bytess), Results[list[int]])
assert_type(executor.map(four, ints, strs, bytess, bools), Results[int | None])
assert_type(executor.map(five, ints, strs, bytess, bools, floats), Results[dict[str, Any]])
assert_type(executor.map(six, ints, ints, ints, ints, ints, ints), Results[bool])
assert_type(executor.map(seven, ints, ints, ints, ints, ints, ints, ints), Results[bytes])
assert_type(executor.map(with_default, ints), Results[str])
assert_type(executor.map(with_default, ints, strs), Results[str])
assert_type(executor.map(variadic, ints), Results[int])
assert_type(executor.map(variadic, ints, ints, ints), Results[int])
assert_type(executor.map(partial(keyword_only, b=""), ints), Results[str])
assert_type(executor.map(str, ints), Results[str])
assert_type(executor.map(len, strs), Results[int])

assert_type(executor.map(aone, ints), Results[bytes])
assert_type(executor.map(aone, [1, 2, 3]), Results[bytes])
assert_type(executor.map(atwo, ints, strs), Results[str])
assert_type(executor.map(athree, ints, strs, bytess), Results[int])
assert_type(executor.map(afour, ints, strs, bytess, bools), Results[bool])
assert_type(executor.map(afive, ints, strs, bytess, bools, floats), Results[float])
assert_type(executor.map(asix, ints, ints, ints, ints, ints, ints), Results[bool])
assert_type(executor.map(awaitable, ints), Results[bytes])
assert_type(executor.map(maybe_async, ints), Results[int])

# row: map(fn, ...), fn returning a union
# except mypy: gives `Results[object]`: it joins unions
assert_type(executor.map(union, ints), Results[int | str])
assert_type(executor.map(with_any, dicts), Results[str])

assert_type(executor.map(one, ints, timeout=1.0), Results[str])
assert_type(executor.map(one, ints, timeout=None, chunksize=100), Results[str])
assert_type(executor.map(two, ints, strs, buffersize=10), Results[float])
assert_type(executor.map(one, ints, buffersize=None), Results[str])
assert_type(list(executor.map(one, ints)), list[str])
assert_type(next(executor.map(aone, ints)), bytes)
assert_type(dict(zip(strs, executor.map(one, ints), strict=True)), dict[str, str])

for text in executor.map(one, ints):
    assert_type(text, str)

executor.map(one, strs)  # error: expected
executor.map(one, ["a"])  # error: expected
executor.map(one)  # error: expected
executor.map(one, 1)  # error: expected
executor.map(one, ints, ints)  # error: expected
executor.map(two, ints)  # error: expected
executor.map(two, strs, ints)  # error: expected
executor.map(two, ints, strs, strs)  # error: expected
executor.map(three, ints, strs)  # error: expected
executor.map(three, ints, strs, strs)  # error: expected
executor.map(four, ints, strs, bytess, strs)  # error: expected
executor.map(five, ints, strs, bytess, bools, strs)  # error: expected
executor.map(none, ints)  # error: expected
executor.map(keyword_only, ints)  # error: expected
# error: expected
# except mypy, pyright, ty: a variadic function takes the six arguments of the last overloads
executor.map(variadic, strs)
executor.map(with_default, ints, ints)  # error: expected
executor.map(aone, strs)  # error: expected
executor.map(aone)  # error: expected
executor.map(atwo, ints)  # error: expected
executor.map(atwo, ints, ints)  # error: expected
executor.map(afive, ints, strs, bytess, bools, strs)  # error: expected
executor.map(with_any, ints)  # error: expected
executor.map(one, ints, timeout="1")  # error: expected
executor.map(one, ints, chunksize=None)  # error: expected
executor.map(one, ints, chunksize=1.5)  # error: expected
executor.map(one, ints, buffersize="1")  # error: expected

# row: an option that map does not have
# error: expected
# except ty: accepts any keyword where the options are an unpacked TypedDict
executor.map(one, ints, workers=3)

executor.map(1, ints)  # error: expected
executor.map(aone(1), ints)  # error: expected
wrong: Iterator[int] = executor.map(one, ints)  # error: expected
# error: expected
# except mypy: goes on to the next overload when the declared type does not fit the first
wrong_raw: Iterator[Coroutine[Any, Any, bytes]] = executor.map(aone, ints)
executor.map(one, ints)[0]  # error: expected


# -- the results -----------------------------------------------------------------------------------

as_iterator: Iterator[str] = executor.map(one, ints)
as_async_iterator: AsyncIterator[str] = executor.map(one, ints)
lengths = executor.map(len, strs)
covariant: Results[int | None] = lengths


async def consume() -> None:
    async for item in executor.map(aone, ints):
        assert_type(item, bytes)
    assert_type([item async for item in executor.map(one, ints, chunksize=3)], list[str])
    assert_type([item async for item in executor.map(with_any, dicts, timeout=1)], list[str])
    assert_type(await anext(executor.map(one, ints)), str)
    assert_type(await anext_of(executor.map(one, ints)), str)
    async with aclosing(executor.map(aone, ints)) as results:
        assert_type(results, Results[bytes])
    await executor.map(one, ints)  # error: expected


async def anext_of(items: AsyncIterator[X]) -> X:
    async for item in items:
        return item
    raise StopAsyncIteration


with closing(executor.map(one, ints)) as results:
    assert_type(next(results), str)

wrong_async: AsyncIterator[int] = executor.map(one, ints)  # error: expected
wrong_results: Results[int] = executor.map(one, ints)  # error: expected
wrong_kind: AsyncGenerator[str, None] = executor.map(one, ints)  # error: expected


# -- in a function of the user's own ---------------------------------------------------------------


def each(executor: Executor, fn: Callable[[int], X]) -> list[X]:
    return list(executor.map(fn, ints))


assert_type(each(executor, one), list[str])
