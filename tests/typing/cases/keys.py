"""``FutureKey``: a key that knows the type of its results."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, FutureKey, FutureProxy

X = TypeVar("X")

executor = Executor(Flask("cases"))


@dataclass
class Report:
    pages: int


NUMBER = FutureKey[int]("number")
OPTIONAL = FutureKey[int | None]("optional")
REPORTS = FutureKey[list[Report]](("reports", 1))
declared: FutureKey[str] = FutureKey("declared")

assert_type(NUMBER, FutureKey[int])
assert_type(NUMBER["a"], FutureKey[int])
assert_type(NUMBER["a"][1], FutureKey[int])
assert_type(NUMBER["a", 1], FutureKey[int])
assert_type(REPORTS[Report], FutureKey[list[Report]])
assert_type(NUMBER.parts, tuple[Hashable, ...])
assert_type(NUMBER["a"] == NUMBER, bool)
assert_type(declared["a"], FutureKey[str])


def optional() -> int | None:
    return None


def number() -> int:
    return 1


def reports() -> list[Report]:
    return []


assert_type(executor.submit_stored(OPTIONAL, optional), FutureProxy[int | None])
assert_type(executor.submit_stored(REPORTS, reports), FutureProxy[list[Report]])
assert_type(executor.futures.result(OPTIONAL), int | None)
assert_type(executor.futures.result(REPORTS), list[Report] | None)
assert_type(executor.using(key=REPORTS[1]).submit(reports), FutureProxy[list[Report]])

FutureKey[int]()  # error: expected
FutureKey[int]([])  # error: expected
FutureKey[int](name="number")  # error: expected
FutureKey[int]("a", "b")  # error: expected
NUMBER[[]]  # error: expected
NUMBER[{}]  # error: expected
NUMBER["a"] = 1  # error: expected
executor.submit_stored(NUMBER, optional)  # error: expected
executor.submit_stored(NUMBER, reports)  # error: expected

# a key is no Hashable to the checkers: else it would fit the overloads for untyped keys, too
as_hashable: Hashable = NUMBER  # error: expected
# error: expected
# except mypy, ty, pyrefly: they let anything be the key of a dict
in_dict = {NUMBER: 1}
# error: expected
# except mypy, pyright, pyrefly: to them a tuple is hashable, whatever is in it
executor.submit_stored((NUMBER, 1), number)

# invariant: else a future of bool could be kept as one of int, and be settled with an int
wide: FutureKey[int | str] = NUMBER  # error: expected
narrow: FutureKey[bool] = NUMBER  # error: expected
gradual: FutureKey[Any] = NUMBER


class Special(FutureKey[int]):  # error: expected
    """FutureKey is final."""


def generic(key: FutureKey[X], future: FutureProxy[X]) -> X | None:
    executor.futures.add(key, future)
    return executor.futures.result(key)


assert_type(generic(NUMBER, executor.submit(number)), int | None)
generic(NUMBER, executor.submit(reports))  # error: expected
