"""Executors and jobs that programs hand around: behind a protocol, in a dict, as lambdas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, ExecutorJob, FutureProxy

P = ParamSpec("P")
R = TypeVar("R")

executor = Executor(Flask("cases"))


@executor.job
def price(amount: float, currency: str) -> str:
    return f"{amount} {currency}"


@executor.job
def count(amount: float, currency: str) -> int:
    return len(currency)


@executor.job
async def fetch(url: str) -> bytes:
    return url.encode()


# -- a protocol in place of the executor -----------------------------------------------------------


class Submits(Protocol):
    def submit(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> FutureProxy[R]: ...


class Runs(Protocol):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> FutureProxy[Any]: ...


class Stops(Protocol):
    def shutdown(self, wait: bool = True) -> None: ...


class Misses(Protocol):
    def submit_all(self) -> None: ...


def through_protocol(anything: Submits) -> None:
    assert_type(anything.submit(len, "a"), FutureProxy[int])
    anything.submit(len, 1)  # error: expected


# row: an executor behind a Protocol
runs: Runs = executor
stops: Stops = executor
misses: Misses = executor  # error: expected
through_protocol(executor)


class Priced(Protocol):
    def submit(self, amount: float, currency: str) -> FutureProxy[str]: ...


priced: Priced = price
assert_type(priced.submit(1.5, currency="EUR"), FutureProxy[str])
priced = count  # error: expected
priced = fetch  # error: expected

# -- jobs in a dict, a list, a variable ------------------------------------------------------------

same_result: dict[str, ExecutorJob[..., str, Any]] = {"price": price}
# row: a job from a dict[str, ExecutorJob[..., str, Any]]
# except pyrefly: gives `FutureProxy[Unknown]`
assert_type(same_result["price"].submit(1.5, "EUR"), FutureProxy[str])

same_result["count"] = count  # error: expected
any_result: dict[str, ExecutorJob[..., Any, Any]] = {"price": price, "count": count}
any_result["fetch"] = fetch
# except ty: gives `FutureProxy[int]`: it keeps what was assigned
assert_type(any_result["count"].submit(1.5, "EUR"), FutureProxy[Any])
any_result["len"] = len  # error: expected
plain: list[Callable[[float, str], object]] = [price, count]
plain.append(fetch)  # error: expected
by_protocol: dict[str, Priced] = {"price": price}
assert_type(by_protocol["price"].submit(1.5, "EUR"), FutureProxy[str])
inferred = {"price": price}
assert_type(inferred["price"].submit(1.5, "EUR"), FutureProxy[str])
inferred["price"].submit("EUR", 1.5)  # error: expected

# -- lambdas ---------------------------------------------------------------------------------------

amount = 1.5
assert_type(executor.submit(lambda: price(amount, "EUR")), FutureProxy[str])
assert_type(executor.submit(lambda: fetch("a")), FutureProxy[bytes])

# row: submit(lambda x: ..., 1.5)
# except pyright, pyrefly: exact, but in strict mode the `x` of a lambda has an unknown type
assert_type(executor.submit(lambda x: 1, amount), FutureProxy[int])

executor.submit(lambda: price("EUR", amount))  # error: expected
# error: expected
# except pyrefly: does not compare the arguments with those of a lambda
executor.submit(lambda: 1, 2)
