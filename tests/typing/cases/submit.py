"""``Executor.submit``: the future has the type of the function's result, whatever the function."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, NoReturn, TypedDict, TypeVar, overload
from uuid import UUID

from flask import Flask, Response, jsonify
from typing_extensions import assert_type, override

from flask_executor_typed import Executor, ExecutorJob, FutureProxy

X = TypeVar("X")

executor = Executor(Flask("cases"))


# -- results ---------------------------------------------------------------------------------------


class Color(Enum):
    RED = 1


class Row(TypedDict):
    id: int


class Point(NamedTuple):
    x: int


@dataclass
class Ok:
    value: int


@dataclass
class Err:
    error: str


class Cat:
    """Neither a dataclass nor anything else that is plain data."""


class Box(Generic[X]):
    def __init__(self, item: X) -> None:
        self.item = item


def none() -> None: ...
def number() -> int:
    return 1


def text(a: int, b: str = "", *, c: bool = False) -> str:
    return b


def flag() -> bool:
    return True


def rows() -> list[Row]:
    return []


def pairs() -> dict[str, list[int]]:
    return {}


def pair() -> tuple[int, str]:
    return 1, ""


def point() -> Point:
    return Point(1)


def color() -> Color:
    return Color.RED


def money() -> Decimal:
    return Decimal(1)


def when() -> datetime:
    return datetime.now().astimezone()


def day_or_delta() -> date | timedelta:
    return timedelta()


def ident() -> UUID:
    return UUID(int=1)


def path() -> Path:
    return Path()


def ok() -> Ok:
    return Ok(1)


def cat() -> Cat:
    return Cat()


def box() -> Box[int]:
    return Box(1)


def anything() -> Any: ...
def thing() -> object: ...
def view() -> Response:
    return jsonify(1)


def error() -> ValueError:
    return ValueError()


def items() -> Iterator[int]:
    yield 1


def generator() -> Generator[int, str, bytes]:
    yield 1
    return b""


def optional() -> int | None:
    return None


def int_or_str() -> int | str:
    return 1


def letter() -> Literal["a", "b"]:
    return "a"


def result() -> Ok | Err:
    return Ok(1)


def row_or_none() -> Row | None:
    return None


def cat_or_none() -> Cat | None:
    return None


def make() -> Callable[[int], str]:
    return str


def cls() -> type[Cat]:
    return Cat


assert_type(executor.submit(none), FutureProxy[None])
assert_type(executor.submit(number), FutureProxy[int])
assert_type(executor.submit(flag), FutureProxy[bool])
assert_type(executor.submit(rows), FutureProxy[list[Row]])
assert_type(executor.submit(pairs), FutureProxy[dict[str, list[int]]])
assert_type(executor.submit(pair), FutureProxy[tuple[int, str]])
assert_type(executor.submit(point), FutureProxy[Point])
assert_type(executor.submit(color), FutureProxy[Color])
assert_type(executor.submit(money), FutureProxy[Decimal])
assert_type(executor.submit(when), FutureProxy[datetime])
assert_type(executor.submit(day_or_delta), FutureProxy[date | timedelta])
assert_type(executor.submit(ident), FutureProxy[UUID])
assert_type(executor.submit(path), FutureProxy[Path])
assert_type(executor.submit(ok), FutureProxy[Ok])
assert_type(executor.submit(cat), FutureProxy[Cat])
assert_type(executor.submit(box), FutureProxy[Box[int]])
assert_type(executor.submit(anything), FutureProxy[Any])
assert_type(executor.submit(thing), FutureProxy[object])
assert_type(executor.submit(view), FutureProxy[Response])
assert_type(executor.submit(error), FutureProxy[ValueError])
assert_type(executor.submit(items), FutureProxy[Iterator[int]])
assert_type(executor.submit(generator), FutureProxy[Generator[int, str, bytes]])
assert_type(executor.submit(optional), FutureProxy[int | None])
assert_type(executor.submit(int_or_str), FutureProxy[int | str])
assert_type(executor.submit(letter), FutureProxy[Literal["a", "b"]])
assert_type(executor.submit(result), FutureProxy[Ok | Err])
assert_type(executor.submit(row_or_none), FutureProxy[Row | None])
assert_type(executor.submit(cat_or_none), FutureProxy[Cat | None])
assert_type(executor.submit(make), FutureProxy[Callable[[int], str]])
assert_type(executor.submit(cls), FutureProxy[type[Cat]])


class Dog:
    """Not plain data either."""


def cat_or_dog() -> Cat | Dog:
    return Cat()


def any_parameter(d: dict[str, Any]) -> int | str:
    return len(d)


def never() -> NoReturn:
    raise SystemExit


# row: submit(fn), fn returning a union of classes that are not plain data
# except mypy: gives `FutureProxy[object]`: it joins unions, unless all of it is plain data
assert_type(executor.submit(cat_or_dog), FutureProxy[Cat | Dog])

# except mypy: gives `FutureProxy[Any]`: an ``Any`` parameter makes the overloads ambiguous for it
assert_type(executor.submit(any_parameter, {}), FutureProxy[int | str])
# a declared variable tells mypy
declared: FutureProxy[Cat | Dog] = executor.submit(cat_or_dog)
declared_too: FutureProxy[int | str] = executor.submit(any_parameter, {})
assert_type(executor.submit(number).result(), int)
assert_type(executor.submit(optional).result(1.5), int | None)


# -- arguments -------------------------------------------------------------------------------------


def no_positional(*, a: int) -> int:
    return a


def variadic(a: int, *rest: str, **options: bytes) -> int:
    return a


def takes_fn(fn: int, key: str, timeout: float, name: str) -> int:
    return fn


assert_type(executor.submit(text, 1), FutureProxy[str])
assert_type(executor.submit(text, 1, "b"), FutureProxy[str])
assert_type(executor.submit(text, 1, b="b", c=True), FutureProxy[str])
assert_type(executor.submit(text, a=1), FutureProxy[str])
assert_type(executor.submit(no_positional, a=1), FutureProxy[int])
assert_type(executor.submit(variadic, 1, "a", "b", x=b""), FutureProxy[int])
# the executor takes no name from the function
assert_type(executor.submit(takes_fn, fn=1, key="", timeout=1.0, name=""), FutureProxy[int])

executor.submit(text)  # error: expected
executor.submit(text, "1")  # error: expected
executor.submit(text, 1, 2)  # error: expected
executor.submit(text, 1, "b", True)  # error: expected
executor.submit(text, 1, c="yes")  # error: expected
executor.submit(text, 1, d=1)  # error: expected
executor.submit(text, 1, a=1)  # error: expected
executor.submit(text, 1, timeout=1.0)  # error: expected
executor.submit(none, 1)  # error: expected
executor.submit(no_positional, 1)  # error: expected
executor.submit(no_positional)  # error: expected
executor.submit(variadic, 1, 2)  # error: expected
executor.submit(variadic, 1, "a", x="b")  # error: expected
executor.submit(takes_fn, 1)  # error: expected
executor.submit(fn=text, a=1)  # error: expected
executor.submit()  # error: expected
executor.submit(1)  # error: expected
executor.submit(text(1))  # error: expected
executor.submit(None)  # error: expected

wrong: FutureProxy[str] = executor.submit(number)  # error: expected
wrong_union: FutureProxy[int] = executor.submit(optional)  # error: expected
wrong_result: str = executor.submit(number).result()  # error: expected
executor.submit(number).result().upper()  # error: expected
executor.submit(optional).result() + 1  # error: expected


# -- callables of every kind -----------------------------------------------------------------------


class Service:
    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, a: int) -> bytes:
        return b""

    def method(self, a: int) -> str:
        return ""

    @classmethod
    def create(cls, url: str) -> Service:
        return cls(url)

    @staticmethod
    def static(a: int) -> float:
        return a

    @property
    def callback(self) -> Callable[[int], str]:
        return str

    @cached_property
    def cached(self) -> Callable[[], int]:
        return number


class Child(Service):
    @override
    def method(self, a: int, b: int = 0) -> str:
        return ""


service = Service("")

# row: functions, methods, partials, classes, len, lambdas without parameters
assert_type(executor.submit(service, 1), FutureProxy[bytes])
assert_type(executor.submit(service.method, 1), FutureProxy[str])
assert_type(executor.submit(Service.method, service, 1), FutureProxy[str])
assert_type(executor.submit(Service.create, ""), FutureProxy[Service])
assert_type(executor.submit(service.create, ""), FutureProxy[Service])
assert_type(executor.submit(Service.static, 1), FutureProxy[float])
assert_type(executor.submit(service.static, 1), FutureProxy[float])
assert_type(executor.submit(service.callback, 1), FutureProxy[str])
assert_type(executor.submit(service.cached), FutureProxy[int])
assert_type(executor.submit(Service, ""), FutureProxy[Service])
assert_type(executor.submit(Ok, 1), FutureProxy[Ok])
assert_type(executor.submit(Point, x=1), FutureProxy[Point])
assert_type(executor.submit(Cat), FutureProxy[Cat])
assert_type(executor.submit(partial(text, 1)), FutureProxy[str])
assert_type(executor.submit(partial(text, 1), "b"), FutureProxy[str])
assert_type(executor.submit(lambda: 1), FutureProxy[int])
assert_type(executor.submit(lambda: text(1)), FutureProxy[str])
assert_type(executor.submit(len, "abc"), FutureProxy[int])
assert_type(executor.submit(print, "abc", end=""), FutureProxy[None])
assert_type(executor.submit(b"abc".upper), FutureProxy[bytes])
assert_type(executor.submit(Child("").method, 1, 2), FutureProxy[str])

executor.submit(service, "")  # error: expected
executor.submit(service.method)  # error: expected
executor.submit(service.method, "")  # error: expected
executor.submit(Service.method, 1)  # error: expected
executor.submit(Service.create)  # error: expected
executor.submit(Service.static, "")  # error: expected
executor.submit(service.url)  # error: expected
executor.submit(Service)  # error: expected
executor.submit(Ok, value="1")  # error: expected
executor.submit(len, 1)  # error: expected
executor.submit(b"abc".upper, 1)  # error: expected
# error: expected
# except pyrefly: gives the lambda the parameters that the call needs
executor.submit(lambda: 1, 2)


def callback(fn: Callable[[int], str], gradual: Callable[..., str]) -> None:
    assert_type(executor.submit(fn, 1), FutureProxy[str])
    assert_type(executor.submit(gradual, 1, "b", c=1), FutureProxy[str])
    executor.submit(fn, "1")  # error: expected
    executor.submit(fn)  # error: expected


@lru_cache
def cached_text(a: int) -> str:
    return ""


assert_type(executor.submit(cached_text, 1), FutureProxy[str])


# -- functions with several signatures -------------------------------------------------------------


@overload
def convert(a: int) -> int: ...
@overload
def convert(a: str) -> str: ...
def convert(a: int | str) -> int | str:
    return a


@overload
def parse(x: str) -> int: ...
@overload
def parse(x: bytes) -> float: ...
def parse(x: str | bytes) -> float:
    return 1


def same(x: X) -> X:
    return x


def first(xs: list[X]) -> X:
    return xs[0]


# ty does not solve the overloads or type variables of what fills a ParamSpec; the arguments are
# checked all the same. A ``def`` around the call is the cure.

# row: submit(fn), fn overloaded
# except ty: gives `FutureProxy[int | str]`, the union of all overloads
assert_type(executor.submit(convert, 1), FutureProxy[int])
# except ty: gives `FutureProxy[int | str]`
assert_type(executor.submit(convert, ""), FutureProxy[str])
# except ty: `No overload`, where one gives an int and another one a float
assert_type(executor.submit(parse, ""), FutureProxy[int])
# except ty: `No overload`, as above
assert_type(executor.submit(parse, b""), FutureProxy[float])

# row: submit(fn), fn generic
# except ty: gives `FutureProxy[Unknown]`
assert_type(executor.submit(same, 1), FutureProxy[int])
# except ty: gives `FutureProxy[Unknown]`
assert_type(executor.submit(same, ""), FutureProxy[str])
# except ty: gives `FutureProxy[Unknown]`
assert_type(executor.submit(first, [1]), FutureProxy[int])

# except ty, pyrefly: gives `FutureProxy[Unknown]`: overloaded and generic
assert_type(executor.submit(max, 1, 2), FutureProxy[int])
# except ty: gives a type variable that has escaped, `_T@sorted`
assert_type(executor.submit(sorted, [1]), FutureProxy[list[int]])
# error: expected
# except pyrefly: takes the first overload that could match
executor.submit(convert, b"")
executor.submit(first, 1)  # error: expected


def generic_caller(fn: Callable[[X], Box[X]], x: X) -> FutureProxy[Box[X]]:
    return executor.submit(fn, x)


# -- in a function of the user's own ---------------------------------------------------------------


def later(executor: Executor, fn: Callable[[], X]) -> FutureProxy[X]:
    return executor.submit(fn)


assert_type(later(executor, number), FutureProxy[int])


# -- a job is a callable ---------------------------------------------------------------------------


@executor.job
def job(a: int) -> str:
    return ""


@executor.job
def unnamed(a: int, /) -> str:
    return ""


assert_type(unnamed, ExecutorJob[[int], str, Any])
assert_type(executor.submit(job, 1), FutureProxy[str])
assert_type(executor.submit(job, a=1), FutureProxy[str])
executor.submit(job, "")  # error: expected
executor.submit(job)  # error: expected
