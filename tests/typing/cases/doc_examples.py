"""The examples of docs/typing.rst.

Checked like any case file, and run by the tests of the documentation: calls that a checker refuses
stand in functions that nobody calls.
"""

from __future__ import annotations

# [submit]
import asyncio
from typing import Any, overload

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, ExecutorJob, FutureKey, FutureProxy, Results

app = Flask(__name__)
executor = Executor(app)


def label(price: float, *, currency: str = "EUR") -> str:
    return f"{price:.2f} {currency}"


future = executor.submit(label, 1.5, currency="CHF")
assert_type(future, FutureProxy[str])
assert_type(future.result(), str)


def refused() -> None:
    executor.submit(label, "1.50")  # error: expected
    executor.submit(label, 1.5, "CHF")  # error: expected
    executor.submit(label, 1.5, timeout=3)  # error: expected
    executor.submit(label(1.5))  # error: expected


# [end]


# [async]
async def fetch(shop: str) -> float:
    await asyncio.sleep(0)
    return 1.5


async def cheapest() -> float:
    future = executor.submit(fetch, "north")
    assert_type(future, FutureProxy[float])
    assert_type(await future, float)
    north, label_of_it = await asyncio.gather(future, executor.submit(label, 1.5))
    assert_type(north, float)
    assert_type(label_of_it, str)
    return north


# [end]


# [job]
@executor.job
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@executor.job
async def price(shop: str) -> float:
    return await fetch(shop)


assert_type(fibonacci(10), int)
assert_type(fibonacci.submit(10), FutureProxy[int])
assert_type(price.submit("north"), FutureProxy[float])
assert_type(fibonacci.map(range(10)), Results[int])
assert_type(price.map(["north", "south"]), Results[float])
assert_type(fibonacci.using(name="fib").submit(10), FutureProxy[int])


def refused_by_jobs() -> None:
    fibonacci("10")  # error: expected
    fibonacci.submit("10")  # error: expected
    fibonacci.submit(10, timeout=3)  # error: expected
    price.map([1, 2])  # error: expected


# [end]


# [methods]
class Mailer:
    @executor.job
    def send(self, to: str) -> int:
        return len(to)

    @staticmethod
    @executor.job
    def check(address: str) -> bool:
        return "@" in address

    @executor.job
    @classmethod
    def from_address(cls) -> str:
        return f"{cls.__name__}@example.org"


assert_type(Mailer().send.submit("ada@example.org"), FutureProxy[int])
assert_type(Mailer.check.submit("ada@example.org"), FutureProxy[bool])
assert_type(Mailer.from_address.submit(), FutureProxy[str])
# [end]


# [store]
numbers = Executor[int](app, "numbers")

numbers.submit_stored("answer", fibonacci, 10)
assert_type(numbers.futures.result("answer"), int | None)
assert_type(numbers.futures.pop("answer"), FutureProxy[int] | None)


def refused_by_the_store() -> None:
    numbers.submit_stored("label", label, 1.5)  # error: expected


# [end]


# [keys]
FIBONACCI = FutureKey[int]("fibonacci")
LABEL = FutureKey[str]("label")

assert_type(executor.submit_stored(FIBONACCI[10], fibonacci, 10), FutureProxy[int])
assert_type(fibonacci.submit_stored(FIBONACCI[20], 20), FutureProxy[int])
assert_type(executor.futures.result(FIBONACCI[10]), int | None)


def refused_by_keys() -> None:
    executor.submit_stored(FIBONACCI[10], label, 1.5)  # error: expected
    fibonacci.submit_stored(LABEL, 10)  # error: expected
    executor.futures.add(LABEL, fibonacci.submit(10))  # error: expected


# [end]


# [map]
prices = [1.5, 2.5]
codes = ["EUR", "CHF"]


def tag(price: float, currency: str) -> str:
    return label(price, currency=currency)


assert_type(executor.map(tag, prices, codes), Results[str])
assert_type(executor.map(fetch, codes), Results[float])


def refused_by_map() -> None:
    executor.map(tag, codes, prices)  # error: expected
    executor.map(tag, prices)  # error: expected


# [end]


# [annotations]
def report_all(executor: Executor, job: ExecutorJob[..., int, Any]) -> list[int]:
    executor.add_default_done_callback(log)
    futures = [job.submit(n) for n in range(3)]
    return [future.result() for future in futures]


def log(future: FutureProxy[Any]) -> None:
    print(future.name, future.status)


assert_type(report_all(numbers, fibonacci), list[int])
# [end]


# [declared]
class Cat: ...


class Dog: ...


def adopt() -> Cat | Dog:
    return Cat()


pet: FutureProxy[Cat | Dog] = executor.submit(adopt)
# [end]


# [overloaded]
@overload
def read(text: str) -> str: ...
@overload
def read(text: bytes) -> list[int]: ...
def read(text: str | bytes) -> str | list[int]:
    return text if isinstance(text, str) else list(text)


@executor.job
def read_bytes(text: bytes) -> list[int]:
    return read(text)


assert_type(read_bytes.submit(b"1"), FutureProxy[list[int]])
# [end]


# [gaps]
def not_refused(count: int) -> None:
    executor.using(key=FIBONACCI).submit(label, 1.5)  # the key is an option, and not compared
    executor.submit_stored("label", label, 1.5)  # any type may be kept: T is Any here


# [end]
