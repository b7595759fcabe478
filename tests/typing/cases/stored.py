"""``Executor.submit_stored``: what may be stored in which executor, and under which key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, FutureKey, FutureProxy

X = TypeVar("X")

app = Flask("cases")
default = Executor(app)
of_int = Executor[int](app)
of_object = Executor[object](app)
of_union = Executor[int | str](app)
of_any = Executor[Any](app)


@dataclass
class Report:
    pages: int


REPORT = FutureKey[Report]("report")
NUMBER = FutureKey[int]("number")
TEXT = FutureKey[str]("text")


def number(a: int) -> int:
    return a


def text(a: int, *, sep: str = "") -> str:
    return sep


def zero() -> int:
    return 0


def flag() -> bool:
    return True


def int_or_str() -> int | str:
    return 1


def maybe() -> int | None:
    return None


def report(user: int) -> Report:
    return Report(user)


def takes_key(key: str) -> int:
    return 1


def takes_fn(fn: str, future_key: str) -> int:
    return 1


def maybe_async() -> int | Coroutine[Any, Any, int]:
    return 1


def awaitable() -> Awaitable[int]:
    return anumber(1)


async def anumber(a: int) -> int:
    return a


async def atext(d: dict[str, Any]) -> str:
    return ""


async def areport(user: int) -> Report:
    return Report(user)


# -- typed keys: exact in every executor and every checker -----------------------------------------

# row: submit_stored(KEY, fn) and futures.result(KEY) with a typed key
assert_type(default.submit_stored(NUMBER, number, 1), FutureProxy[int])
assert_type(default.submit_stored(NUMBER["a"], number, 1), FutureProxy[int])
assert_type(default.submit_stored(NUMBER["a"][7], number, a=1), FutureProxy[int])
assert_type(default.submit_stored(NUMBER, anumber, 1), FutureProxy[int])
assert_type(default.submit_stored(NUMBER, awaitable), FutureProxy[int])
assert_type(default.submit_stored(NUMBER, maybe_async), FutureProxy[int])
assert_type(default.submit_stored(TEXT, text, 1, sep=""), FutureProxy[str])
assert_type(default.submit_stored(TEXT, atext, {}), FutureProxy[str])
assert_type(default.submit_stored(REPORT[7], report, 7), FutureProxy[Report])
assert_type(default.submit_stored(REPORT[7], areport, 7), FutureProxy[Report])
assert_type(default.submit_stored(REPORT, partial(report, 7)), FutureProxy[Report])
assert_type(default.submit_stored(TEXT, sync_to_async(text), 1), FutureProxy[str])
assert_type(default.submit_stored(NUMBER, lambda: 1), FutureProxy[int])
assert_type(of_int.submit_stored(NUMBER, number, 1), FutureProxy[int])
assert_type(of_int.submit_stored(TEXT, text, 1), FutureProxy[str])
assert_type(of_int.submit_stored(REPORT, areport, 1), FutureProxy[Report])
assert_type(of_object.submit_stored(REPORT, report, 1), FutureProxy[Report])
assert_type(of_object.submit_stored(TEXT, atext, {}), FutureProxy[str])
assert_type(of_any.submit_stored(REPORT, report, 1), FutureProxy[Report])


default.submit_stored(NUMBER, text, 1)  # error: expected
default.submit_stored(NUMBER["a"], text, 1)  # error: expected
default.submit_stored(NUMBER, atext, {})  # error: expected
default.submit_stored(REPORT, number, 1)  # error: expected
default.submit_stored(REPORT[1], anumber, 1)  # error: expected
default.submit_stored(NUMBER, maybe)  # error: expected
default.submit_stored(NUMBER, number)  # error: expected
default.submit_stored(NUMBER, number, "1")  # error: expected
default.submit_stored(NUMBER, anumber, "1")  # error: expected
default.submit_stored(TEXT, text, 1, sep=2)  # error: expected
default.submit_stored(NUMBER, 1)  # error: expected
default.submit_stored(NUMBER)  # error: expected
of_int.submit_stored(NUMBER, text, 1)  # error: expected
of_int.submit_stored(TEXT, number, 1)  # error: expected
of_object.submit_stored(NUMBER, text, 1)  # error: expected
of_object.submit_stored(REPORT, atext, {})  # error: expected
of_any.submit_stored(NUMBER, text, 1)  # error: expected
wrong_key: FutureProxy[str] = default.submit_stored(NUMBER, number, 1)  # error: expected


# -- Executor[int]: one type of results for all untyped keys ---------------------------------------

assert_type(of_int.submit_stored("k", number, 1), FutureProxy[int])
assert_type(of_int.submit_stored(("k", 7), number, 1), FutureProxy[int])
assert_type(of_int.submit_stored(7, number, a=1), FutureProxy[int])
assert_type(of_int.submit_stored("k", anumber, 1), FutureProxy[int])
assert_type(of_int.submit_stored("k", awaitable), FutureProxy[int])
assert_type(of_int.submit_stored("k", maybe_async), FutureProxy[int])
assert_type(of_int.submit_stored("k", flag), FutureProxy[int])
assert_type(of_int.submit_stored("k", lambda: 1), FutureProxy[int])
assert_type(of_int.submit_stored("k", takes_key, key=""), FutureProxy[int])
assert_type(of_union.submit_stored("k", number, 1), FutureProxy[int | str])
assert_type(of_union.submit_stored("k", text, 1), FutureProxy[int | str])
assert_type(of_union.submit_stored("k", int_or_str), FutureProxy[int | str])
assert_type(of_union.submit_stored("k", atext, {}), FutureProxy[int | str])

of_int.submit_stored("k", text, 1)  # error: expected
of_int.submit_stored("k", atext, {})  # error: expected
of_int.submit_stored("k", maybe)  # error: expected
of_int.submit_stored("k", int_or_str)  # error: expected
of_int.submit_stored("k", report, 1)  # error: expected
of_int.submit_stored("k", number)  # error: expected
of_int.submit_stored("k", number, "1")  # error: expected
of_int.submit_stored("k", number, 1, 2)  # error: expected
of_int.submit_stored("k", anumber, "1")  # error: expected
of_int.submit_stored("k", number, 1, timeout=2.0)  # error: expected
of_int.submit_stored([], number, 1)  # error: expected
of_int.submit_stored({}, number, 1)  # error: expected
of_int.submit_stored("k", 1)  # error: expected
of_int.submit_stored("k")  # error: expected
of_int.submit_stored(number, 1)  # error: expected
of_union.submit_stored("k", report, 1)  # error: expected


# -- Executor[object]: anything, and each future has the type of its function ----------------------

assert_type(of_object.submit_stored("k", number, 1), FutureProxy[int])
assert_type(of_object.submit_stored("k", text, 1, sep=""), FutureProxy[str])
assert_type(of_object.submit_stored("k", int_or_str), FutureProxy[int | str])
assert_type(of_object.submit_stored("k", maybe), FutureProxy[int | None])
assert_type(of_object.submit_stored("k", report, 1), FutureProxy[Report])
assert_type(of_object.submit_stored("k", anumber, 1), FutureProxy[int])
# except mypy: gives `FutureProxy[Any]`: an ``Any`` parameter makes the overloads ambiguous for it
# except pyrefly: gives `Unknown`, probably so too
assert_type(of_object.submit_stored("k", atext, {}), FutureProxy[str])
assert_type(of_object.submit_stored("k", awaitable), FutureProxy[int])
# except mypy: gives `FutureProxy[Any]`, for the same reason
assert_type(of_object.submit_stored("k", maybe_async), FutureProxy[int])
assert_type(of_object.submit_stored("k", partial(report, 7)), FutureProxy[Report])

of_object.submit_stored("k", number)  # error: expected
of_object.submit_stored("k", number, "1")  # error: expected
of_object.submit_stored("k", atext, 1)  # error: expected
of_object.submit_stored([], number, 1)  # error: expected
wrong_object: FutureProxy[str] = of_object.submit_stored("k", number, 1)  # error: expected


# -- the default, Executor[Any] --------------------------------------------------------------------

# row: submit_stored("key", fn) of a plain Executor(app)
# except pyright: gives `Any`: an ``Any`` in the receiver makes the overloads ambiguous
# except ty: gives `FutureProxy[Unknown]`, for the same reason
assert_type(default.submit_stored("k", number, 1), FutureProxy[int])
# except ty: gives `FutureProxy[Unknown]`
assert_type(default.submit_stored("k", anumber, 1), FutureProxy[int])
default_is_gradual: FutureProxy[int] = default.submit_stored("k", number, 1)

default.submit_stored("k", number)  # error: expected
default.submit_stored("k", number, "1")  # error: expected
default.submit_stored("k", anumber, "1")  # error: expected
default.submit_stored("k", number, 1, a=1)  # error: expected
default.submit_stored([], number, 1)  # error: expected
default.submit_stored("k", 1)  # error: expected


# -- the names that public code uses ---------------------------------------------------------------

# row: submit_stored(future_key=..., fn=...), by keyword
# except pyrefly: gives `Unknown`: finds no overload with a ParamSpec by keyword
assert_type(default.submit_stored(future_key=NUMBER, fn=zero), FutureProxy[int])
# except pyrefly: gives `Unknown`, as above
assert_type(of_int.submit_stored(future_key="k", fn=zero), FutureProxy[int])
# except pyrefly: gives `Unknown`, as above
assert_type(of_int.submit_stored(future_key="k", fn=number, a=1), FutureProxy[int])
# except pyrefly: gives `Unknown`, as above
assert_type(of_object.submit_stored(future_key="k", fn=zero), FutureProxy[int])
of_int.submit_stored(key="k", fn=zero)  # error: expected
of_int.submit_stored(future_key="k", fn=text)  # error: expected
# and therefore cannot be the names of a function's arguments
assert_type(of_int.submit_stored("k", takes_fn, "", ""), FutureProxy[int])
of_int.submit_stored("k", takes_fn, fn="", future_key="")  # error: expected


# -- in a function of the user's own ---------------------------------------------------------------


def keep(executor: Executor[X], key: str, fn: Callable[[], X]) -> FutureProxy[X]:
    return executor.submit_stored(key, fn)


def keep_typed(executor: Executor, key: FutureKey[X], fn: Callable[[], X]) -> FutureProxy[X]:
    return executor.submit_stored(key, fn)


assert_type(keep(of_int, "k", zero), FutureProxy[int])
assert_type(keep_typed(default, NUMBER, zero), FutureProxy[int])
keep(of_int, "k", str)  # error: expected
keep_typed(default, NUMBER, str)  # error: expected
