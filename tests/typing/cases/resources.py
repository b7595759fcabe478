"""Resources of a loop: what the factory opens is what ``get()`` gives."""
# ruff: noqa: F841  # a refused statement need not be of use

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from flask import Flask
from typing_extensions import Self, assert_type

from flask_executor_typed import Executor, LoopResource, OutsideLoopError

executor = Executor(Flask("cases"))
of_int = Executor[int]()


class Client:
    """As httpx has one: a context manager of itself, with options that have defaults."""

    def __init__(self, url: str = "", *, timeout: float = 5) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


class NeedsUrl(Client):
    def __init__(self, url: str) -> None: ...


@asynccontextmanager
async def open_pool() -> AsyncGenerator[list[str], None]:
    yield []


@asynccontextmanager
async def open_pool_of(size: int) -> AsyncGenerator[list[str], None]:
    yield []


@contextmanager
def open_file() -> Generator[int, None, None]:
    yield 1


async def make_client() -> Client:
    return Client()


def manager() -> AbstractAsyncContextManager[bytes]:
    raise NotImplementedError


# -- making ----------------------------------------------------------------------------------------

assert_type(executor.loop_resource(Client), LoopResource[Client])
assert_type(executor.loop_resource(lambda: Client("url")), LoopResource[Client])
assert_type(executor.loop_resource(open_pool), LoopResource[list[str]])
assert_type(executor.loop_resource(manager), LoopResource[bytes])
assert_type(of_int.loop_resource(manager), LoopResource[bytes])

executor.loop_resource(NeedsUrl)  # error: expected
executor.loop_resource(open_pool_of)  # error: expected
executor.loop_resource(open_pool())  # error: expected
executor.loop_resource(open_file)  # error: expected
executor.loop_resource(make_client)  # error: expected
executor.loop_resource()  # error: expected

# -- getting ---------------------------------------------------------------------------------------

clients = executor.loop_resource(Client)
pools: LoopResource[list[str]] = executor.loop_resource(open_pool)
wrong: LoopResource[int] = executor.loop_resource(open_pool)  # error: expected


async def use() -> None:
    assert_type(await clients.get(), Client)
    assert_type(await pools.get(), list[str])
    assert_type(await asyncio.wait_for(clients.get(), 1), Client)
    number: int = await pools.get()  # error: expected
    await clients.get(1)  # error: expected


assert_type(executor.submit(clients.get).result(), Client)

# -- the error -------------------------------------------------------------------------------------

assert_type(OutsideLoopError("make_client").name, str)
error: RuntimeError = OutsideLoopError("make_client")
