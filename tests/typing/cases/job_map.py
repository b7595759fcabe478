"""``job.map``: each iterable must fit the parameter of the function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from typing import Any

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, Results

executor = Executor(Flask("cases"))
of_str = Executor[str](Flask("cases"))


@executor.job
def none() -> int:
    return 0


@executor.job
def one(a: int) -> str:
    return ""


@executor.job
def two(a: int, b: str) -> float:
    return 1.0


@executor.job
def three(a: int, b: str, c: bytes) -> list[int]:
    return []


@executor.job
def four(a: int, b: str, c: bytes, d: bool) -> int | None:
    return None


@executor.job
def five(a: int, b: str, c: bytes, d: bool, e: float) -> dict[str, Any]:
    return {}


@executor.job
def with_default(a: int, b: str = "") -> str:
    return b


@executor.job
def positional(a: int, /) -> str:
    return ""


@executor.job
def keyword_only(a: int, *, b: str) -> str:
    return b


@executor.job
def variadic(*items: int) -> int:
    return 1


@executor.job
def union(a: int) -> int | str:
    return a


@executor.job
async def aone(a: int) -> bytes:
    return b""


@executor.job
async def atwo(a: int, b: str) -> str:
    return b


@executor.job
async def athree(a: int, b: str, c: bytes) -> int:
    return a


@executor.job
async def afour(a: int, b: str, c: bytes, d: bool) -> bool:
    return d


@executor.job
async def afive(a: int, b: str, c: bytes, d: bool, e: float) -> float | None:
    return e


@executor.job
async def with_any(d: dict[str, Any]) -> str:
    return ""


@executor.job
def awaitable(a: int) -> Awaitable[bytes]:
    return aone(a)


@executor.job(name="named")
async def named(a: int) -> int:
    return a


@of_str.job
def stored(a: int) -> str:
    return ""


ints: list[int] = []
strs: list[str] = []
bytess: tuple[bytes, ...] = ()
bools: set[bool] = set()
floats: Iterator[float] = iter(())
dicts: list[dict[str, Any]] = []

assert_type(one.map(ints), Results[str])
assert_type(one.map([1, 2]), Results[str])
assert_type(one.map(range(3)), Results[str])
assert_type(one.map(bools), Results[str])
assert_type(two.map(ints, strs), Results[float])
assert_type(two.map(ints, "abc"), Results[float])
assert_type(three.map(ints, strs, bytess), Results[list[int]])
assert_type(four.map(ints, strs, bytess, bools), Results[int | None])
assert_type(five.map(ints, strs, bytess, bools, floats), Results[dict[str, Any]])
assert_type(with_default.map(ints), Results[str])
assert_type(with_default.map(ints, strs), Results[str])
assert_type(positional.map(ints), Results[str])
assert_type(variadic.map(ints, ints), Results[int])
assert_type(union.map(ints), Results[int | str])
assert_type(stored.map(ints), Results[str])
assert_type(one.map(ints, timeout=1.0, chunksize=10, buffersize=100), Results[str])
assert_type(list(one.map(ints)), list[str])

assert_type(aone.map(ints), Results[bytes])
assert_type(atwo.map(ints, strs), Results[str])
assert_type(athree.map(ints, strs, bytess), Results[int])
assert_type(afour.map(ints, strs, bytess, bools), Results[bool])
assert_type(afive.map(ints, strs, bytess, bools, floats), Results[float | None])
assert_type(with_any.map(dicts), Results[str])
assert_type(awaitable.map(ints), Results[bytes])
assert_type(named.map(ints), Results[int])
assert_type(aone.map(ints, timeout=None), Results[bytes])


async def consume() -> None:
    async for item in aone.map(ints):
        assert_type(item, bytes)
    assert_type([item async for item in one.map(ints)], list[str])


none.map(ints)  # error: expected
one.map(strs)  # error: expected
one.map(["a"])  # error: expected
one.map()  # error: expected
one.map(1)  # error: expected
one.map(ints, ints)  # error: expected
two.map(ints)  # error: expected
two.map(strs, ints)  # error: expected
two.map(ints, strs, strs)  # error: expected
three.map(ints, strs, strs)  # error: expected
three.map(ints, strs)  # error: expected
four.map(ints, strs, bytess, strs)  # error: expected
five.map(ints, strs, bytess, bools, strs)  # error: expected
five.map(ints, strs, bytess, bools)  # error: expected
keyword_only.map(ints)  # error: expected
variadic.map(strs)  # error: expected
aone.map(strs)  # error: expected
aone.map()  # error: expected
aone.map(ints, ints)  # error: expected
atwo.map(ints)  # error: expected
atwo.map(ints, ints)  # error: expected
athree.map(ints, strs, strs)  # error: expected
afour.map(ints, strs, bytess, strs)  # error: expected
afive.map(ints, strs, bytess, bools, strs)  # error: expected
with_any.map(ints)  # error: expected
one.map(ints, timeout="1")  # error: expected
one.map(ints, chunksize=1.5)  # error: expected

# row: an option that map does not have
# error: expected
# except ty: accepts any keyword where the options are an unpacked TypedDict
one.map(ints, key="k")

aone.map(ints, buffersize="1")  # error: expected
wrong: Iterator[int] = one.map(ints)  # error: expected
wrong_async: Iterator[str] = aone.map(ints)  # error: expected
wrong_raw: Iterator[Coroutine[Any, Any, bytes]] = aone.map(ints)  # error: expected
wrong_aiter: AsyncIterator[int] = one.map(ints)  # error: expected
