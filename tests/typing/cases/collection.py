"""``executor.futures``: futures by key, with the result type of the executor or of the key."""
# ruff: noqa: B018  # a refused statement need not be of use

from __future__ import annotations

import concurrent.futures
from typing import Any, Literal, TypeVar

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, FutureCollection, FutureKey, FutureProxy

X = TypeVar("X")

app = Flask("cases")
default = Executor(app)
of_int = Executor[int](app)
of_object = Executor[object](app)

NUMBER = FutureKey[int]("number")
TEXT = FutureKey[str]("text")

int_future: FutureProxy[int] = FutureProxy()
bool_future: FutureProxy[bool] = FutureProxy()
str_future: FutureProxy[str] = FutureProxy()
foreign: concurrent.futures.Future[int] = concurrent.futures.Future()

Status = Literal["pending", "running", "succeeded", "failed", "cancelled", "lost"]

# -- which collection ------------------------------------------------------------------------------

assert_type(default.futures, FutureCollection[Any])
assert_type(of_int.futures, FutureCollection[int])
assert_type(of_object.futures, FutureCollection[object])
assert_type(of_int.using(key="k").futures, FutureCollection[int])
assert_type(FutureCollection[str](), FutureCollection[str])
assert_type(FutureCollection[str](max_length=None), FutureCollection[str])
assert_type(FutureCollection(), FutureCollection[Any])
assert_type(of_int.futures.max_length, int | None)
assert_type(len(of_int.futures), int)
assert_type(int_future in of_int.futures, bool)
FutureCollection[int]("50")  # error: expected
of_int.futures.max_length = "50"  # error: expected
wrong_collection: FutureCollection[str] = of_int.futures  # error: expected
wrong_wide: FutureCollection[object] = of_int.futures  # error: expected
of_int.futures["k"]  # error: expected
list(of_int.futures)  # error: expected

# -- untyped keys ----------------------------------------------------------------------------------

assert_type(of_int.futures.result("k"), int | None)
assert_type(of_int.futures.result("k", 1), int | None)
assert_type(of_int.futures.result("k", timeout=1.5), int | None)
assert_type(of_int.futures.result(("k", 7)), int | None)
assert_type(of_int.futures.get("k"), FutureProxy[int] | None)
assert_type(of_int.futures.pop("k"), FutureProxy[int] | None)
assert_type(of_int.futures.pop(future_key="k"), FutureProxy[int] | None)
assert_type(of_int.futures.exception("k"), BaseException | None)
assert_type(of_int.futures.exception("k", timeout=1), BaseException | None)
assert_type(of_int.futures.done("k"), bool | None)
assert_type(of_int.futures.running("k"), bool | None)
assert_type(of_int.futures.cancelled("k"), bool | None)
assert_type(of_int.futures.cancel("k"), bool | None)
assert_type(of_int.futures.status("k"), Status | None)
assert_type(of_int.futures.add("k", int_future), None)
assert_type(of_int.futures.add("k", bool_future), None)
assert_type(of_int.futures.add(("k", 1), foreign), None)
assert_type(of_int.futures.add(future_key="k", future=foreign), None)
assert_type(of_object.futures.get("k"), FutureProxy[object] | None)
assert_type(of_object.futures.add("k", str_future), None)
assert_type(default.futures.result("k"), Any | None)
assert_type(default.futures.get("k"), FutureProxy[Any] | None)
assert_type(default.futures.pop("k"), FutureProxy[Any] | None)
assert_type(default.futures.done("k"), bool | None)
assert_type(default.futures.status("k"), Status | None)
assert_type(default.futures.add("k", str_future), None)
assert_type(default.futures.add("k", foreign), None)

of_int.futures.result([])  # error: expected
of_int.futures.get({})  # error: expected
of_int.futures.pop([])  # error: expected
of_int.futures.done([])  # error: expected
of_int.futures.running({})  # error: expected
of_int.futures.cancelled([])  # error: expected
of_int.futures.cancel([])  # error: expected
of_int.futures.exception([])  # error: expected
of_int.futures.status([])  # error: expected
of_int.futures.result()  # error: expected
of_int.futures.done()  # error: expected
of_int.futures.result("k", "1")  # error: expected
of_int.futures.result("k").real  # error: expected
of_int.futures.get("k").result()  # error: expected
of_int.futures.pop("k").result()  # error: expected
of_int.futures.add("k", str_future)  # error: expected
of_int.futures.add("k", 1)  # error: expected
of_int.futures.add([], int_future)  # error: expected
of_int.futures.add(int_future)  # error: expected
of_int.futures["k"]  # error: expected
of_int.futures.unknown("k")  # error: expected
of_int.futures.set_result("k", 1)  # error: expected
default.futures.result([])  # error: expected
default.futures.unknown("k")  # error: expected
default.futures.add("k", 1)  # error: expected
for _ in of_int.futures:  # error: expected
    pass
wrong_result: str | None = of_int.futures.result("k")  # error: expected

if (kept := of_int.futures.pop("k")) is not None:
    assert_type(kept, FutureProxy[int])
    assert_type(kept.result(), int)


async def await_kept() -> None:
    kept = of_int.futures.get("k")
    if kept is not None:
        assert_type(await kept, int)
    await of_int.futures.get("k")  # error: expected


# -- typed keys ------------------------------------------------------------------------------------

# row: submit_stored(KEY, fn) and futures.result(KEY) with a typed key
assert_type(default.futures.result(NUMBER), int | None)
assert_type(default.futures.result(NUMBER["a"], timeout=1), int | None)
assert_type(default.futures.result(TEXT["a"][1]), str | None)
assert_type(default.futures.get(NUMBER), FutureProxy[int] | None)
assert_type(default.futures.pop(TEXT), FutureProxy[str] | None)
assert_type(default.futures.exception(NUMBER), BaseException | None)
assert_type(default.futures.done(NUMBER), bool | None)
assert_type(default.futures.running(NUMBER), bool | None)
assert_type(default.futures.cancelled(NUMBER), bool | None)
assert_type(default.futures.cancel(NUMBER), bool | None)
assert_type(default.futures.status(NUMBER), Status | None)
assert_type(default.futures.add(NUMBER, int_future), None)
assert_type(default.futures.add(NUMBER, bool_future), None)
assert_type(default.futures.add(NUMBER, foreign), None)
assert_type(of_int.futures.result(TEXT), str | None)
assert_type(of_int.futures.get(TEXT["a"]), FutureProxy[str] | None)
assert_type(of_int.futures.add(TEXT, str_future), None)
assert_type(of_object.futures.pop(TEXT), FutureProxy[str] | None)
default.futures.add(NUMBER, str_future)  # error: expected
default.futures.add(TEXT, foreign)  # error: expected
of_int.futures.add(TEXT, int_future)  # error: expected
default.futures.result(NUMBER, "1")  # error: expected
default.futures.result(NUMBER).real  # error: expected
wrong_typed: str | None = default.futures.result(NUMBER)  # error: expected
wrong_get: FutureProxy[int] | None = default.futures.get(TEXT)  # error: expected

# -- callbacks -------------------------------------------------------------------------------------


def gets_int(future: FutureProxy[int]) -> None: ...
def gets_str(future: FutureProxy[str]) -> None: ...
def gets_any(future: FutureProxy[Any]) -> str:
    return ""


assert_type(of_int.futures.add_done_callback("k", gets_int), None)
assert_type(of_int.futures.add_done_callback("k", gets_any), None)
assert_type(of_int.futures.add_done_callback(TEXT, gets_str), None)
assert_type(default.futures.add_done_callback("k", gets_str), None)
assert_type(default.futures.add_done_callback(NUMBER["a"], gets_int), None)
# except mypy: gives `Any`: it infers no parameters of a lambda for an overloaded method
of_int.futures.add_done_callback("k", lambda future: assert_type(future.result(), int))
# except mypy: gives `Any`, as above
default.futures.add_done_callback(TEXT, lambda future: assert_type(future.result(), str))
of_int.futures.add_done_callback("k", gets_str)  # error: expected
of_int.futures.add_done_callback(NUMBER, gets_str)  # error: expected
default.futures.add_done_callback(TEXT, gets_int)  # error: expected
of_int.futures.add_done_callback("k", print, 1)  # error: expected
of_int.futures.add_done_callback(gets_int)  # error: expected


# -- in a function of the user's own ---------------------------------------------------------------


def finished(futures: FutureCollection[X], key: str) -> X | None:
    return futures.result(key) if futures.done(key) else None


def typed(futures: FutureCollection, key: FutureKey[X]) -> X | None:
    return futures.result(key)


assert_type(finished(of_int.futures, "k"), int | None)
assert_type(typed(default.futures, TEXT), str | None)
assert_type(typed(of_int.futures, TEXT), str | None)
