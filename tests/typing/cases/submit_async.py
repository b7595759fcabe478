"""``Executor.submit`` with what gives awaitables: the future has the type they resolve to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from asgiref.sync import async_to_sync, sync_to_async
from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, FutureProxy

X = TypeVar("X")

executor = Executor(Flask("cases"))


@dataclass
class Ok:
    value: int


@dataclass
class Err:
    error: str


class Cat: ...


class Dog: ...


class Lazy:
    """Awaitable, and not a coroutine."""

    def __await__(self) -> Generator[Any, None, bytes]:
        raise NotImplementedError


async def fetch(url: str, *, retries: int = 3) -> bytes:
    return b""


async def nothing() -> None: ...
async def anything() -> Any: ...
async def with_any(d: dict[str, Any]) -> str:
    return ""


async def gradual(*args: Any, **kwargs: Any) -> str:
    return ""


async def gives_any() -> dict[str, Any]:
    return {}


async def optional() -> int | None:
    return None


async def union() -> int | str:
    return 1


async def letter() -> Literal["a", "b"]:
    return "a"


async def result() -> Ok | Err:
    return Ok(1)


async def cat_or_dog() -> Cat | Dog:
    return Cat()


async def nested() -> list[dict[str, tuple[int, ...]]]:
    return []


async def stream(n: int) -> AsyncIterator[int]:
    yield n


def coroutine(a: int) -> Coroutine[Any, Any, str]:
    return with_any({})


def awaitable(a: int) -> Awaitable[str]:
    return with_any({})


def lazy() -> Lazy:
    return Lazy()


def future() -> asyncio.Future[int]:
    raise NotImplementedError


def task() -> asyncio.Task[int]:
    raise NotImplementedError


def proxy() -> FutureProxy[int]:
    return executor.submit(int)


def maybe_async(a: int) -> int | Coroutine[Any, Any, int]:
    return a


def maybe_awaitable(a: int) -> int | Awaitable[int]:
    return a


def same_or_none(a: int) -> Awaitable[str] | None:
    return None


# row: async def, Awaitable, sync_to_async
assert_type(executor.submit(fetch, ""), FutureProxy[bytes])
assert_type(executor.submit(fetch, "", retries=1), FutureProxy[bytes])
assert_type(executor.submit(fetch, url=""), FutureProxy[bytes])
assert_type(executor.submit(nothing), FutureProxy[None])
assert_type(executor.submit(anything), FutureProxy[Any])
assert_type(executor.submit(with_any, {}), FutureProxy[str])
assert_type(executor.submit(gradual, 1, 2, x=3), FutureProxy[str])
assert_type(executor.submit(gives_any), FutureProxy[dict[str, Any]])
assert_type(executor.submit(optional), FutureProxy[int | None])
assert_type(executor.submit(union), FutureProxy[int | str])
assert_type(executor.submit(letter), FutureProxy[Literal["a", "b"]])
assert_type(executor.submit(result), FutureProxy[Ok | Err])
assert_type(executor.submit(cat_or_dog), FutureProxy[Cat | Dog])
assert_type(executor.submit(nested), FutureProxy[list[dict[str, tuple[int, ...]]]])
assert_type(executor.submit(coroutine, 1), FutureProxy[str])
assert_type(executor.submit(awaitable, 1), FutureProxy[str])
assert_type(executor.submit(lazy), FutureProxy[bytes])
assert_type(executor.submit(Lazy), FutureProxy[bytes])
assert_type(executor.submit(future), FutureProxy[int])
assert_type(executor.submit(task), FutureProxy[int])
assert_type(executor.submit(proxy), FutureProxy[int])
assert_type(executor.submit(maybe_async, 1), FutureProxy[int])
assert_type(executor.submit(maybe_awaitable, 1), FutureProxy[int])
# an async generator is not awaited
assert_type(executor.submit(stream, 1), FutureProxy[AsyncIterator[int]])
assert_type(executor.submit(same_or_none, 1), FutureProxy[str | None])

executor.submit(fetch)  # error: expected
executor.submit(fetch, 1)  # error: expected
executor.submit(fetch, "", 3)  # error: expected
executor.submit(fetch, "", retries="3")  # error: expected
executor.submit(fetch, "", timeout=1.0)  # error: expected
executor.submit(fetch(""))  # error: expected
executor.submit(with_any, [])  # error: expected
executor.submit(with_any)  # error: expected
executor.submit(coroutine, "1")  # error: expected
executor.submit(awaitable, "1")  # error: expected
executor.submit(Lazy, 1)  # error: expected
executor.submit(Lazy())  # error: expected
executor.submit(maybe_async, "")  # error: expected

wrong: FutureProxy[str] = executor.submit(fetch, "")  # error: expected
# error: expected
# except mypy: goes on to the last overload when the declared type does not fit the first
wrong_raw: FutureProxy[Coroutine[Any, Any, bytes]] = executor.submit(fetch, "")
# error: expected
# except mypy: as above
wrong_lazy: FutureProxy[Lazy] = executor.submit(lazy)
executor.submit(fetch, "").result().encode()  # error: expected


# -- callables of every kind -----------------------------------------------------------------------


class Client:
    async def __call__(self, url: str) -> int:
        return 200

    async def get(self, url: str) -> str:
        return ""

    @classmethod
    async def connect(cls, url: str) -> Client:
        return cls()

    @staticmethod
    async def resolve(host: str) -> list[str]:
        return []


client = Client()


def plain(a: int, b: str) -> float:
    return 1.0


# row: async def, Awaitable, sync_to_async
assert_type(executor.submit(client, ""), FutureProxy[int])
assert_type(executor.submit(client.get, ""), FutureProxy[str])
assert_type(executor.submit(Client.get, client, ""), FutureProxy[str])
assert_type(executor.submit(Client.connect, ""), FutureProxy[Client])
assert_type(executor.submit(Client.resolve, ""), FutureProxy[list[str]])
assert_type(executor.submit(client.resolve, ""), FutureProxy[list[str]])
assert_type(executor.submit(partial(fetch, "")), FutureProxy[bytes])
assert_type(executor.submit(partial(fetch, retries=1), ""), FutureProxy[bytes])
assert_type(executor.submit(lambda: fetch("")), FutureProxy[bytes])
assert_type(executor.submit(sync_to_async(plain), 1, ""), FutureProxy[float])
assert_type(executor.submit(async_to_sync(fetch), ""), FutureProxy[bytes])

# row: submit(fn), fn generic
# except ty: gives a type variable that has escaped, `_T@sleep`
assert_type(executor.submit(asyncio.sleep, 1, "done"), FutureProxy[str])

executor.submit(client, 1)  # error: expected
executor.submit(client.get, 1)  # error: expected
executor.submit(client.get)  # error: expected
executor.submit(Client.get, "")  # error: expected
executor.submit(Client.connect)  # error: expected
executor.submit(Client.resolve, 1)  # error: expected
executor.submit(sync_to_async(plain), "")  # error: expected
executor.submit(async_to_sync(fetch), 1)  # error: expected


def callback(
    fn: Callable[[int], Awaitable[str]], gradual: Callable[..., Coroutine[Any, Any, str]]
) -> None:
    assert_type(executor.submit(fn, 1), FutureProxy[str])
    assert_type(executor.submit(gradual, 1, x=2), FutureProxy[str])
    executor.submit(fn, "1")  # error: expected


async def same(x: X) -> X:
    return x


# except ty: gives a type variable that has escaped, `X@same`
assert_type(executor.submit(same, 1), FutureProxy[int])


def later(executor: Executor, fn: Callable[[], Awaitable[X]]) -> FutureProxy[X]:
    return executor.submit(fn)


assert_type(later(executor, nothing), FutureProxy[None])
assert_type(later(executor, optional), FutureProxy[int | None])
