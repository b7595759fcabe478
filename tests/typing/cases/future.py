"""``FutureProxy``: the standard library's future, and what it has more."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Hashable
from datetime import datetime
from typing import Any, Literal, TypeVar

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, FutureProxy

X = TypeVar("X")

executor = Executor(Flask("cases"))


def number() -> int:
    return 1


def optional() -> str | None:
    return None


class Animal: ...


class Cat(Animal): ...


future = executor.submit(number)
maybe = executor.submit(optional)

assert_type(future, FutureProxy[int])
assert_type(future.result(), int)
assert_type(future.result(1), int)
assert_type(future.result(timeout=1.5), int)
assert_type(future.result(None), int)
assert_type(maybe.result(), str | None)
assert_type(future.exception(), BaseException | None)
assert_type(future.exception(timeout=1), BaseException | None)
assert_type(future.done(), bool)
assert_type(future.running(), bool)
assert_type(future.cancelled(), bool)
assert_type(future.cancel(), bool)
assert_type(future.cancel(kill=True), bool)
assert_type(future.id, str)
assert_type(future.name, str)
assert_type(future.key, Hashable | None)
assert_type(future.submitted_at, datetime)
assert_type(future.started_at, datetime | None)
assert_type(future.finished_at, datetime | None)
assert_type(
    future.status, Literal["pending", "running", "succeeded", "failed", "cancelled", "lost"]
)
assert_type(future.set_running_or_notify_cancel(), bool)
assert_type(FutureProxy[int](), FutureProxy[int])
assert_type(FutureProxy[int]("name").result(), int)

future.result("1")  # error: expected
future.result(seconds=1)  # error: expected
future.exception("1")  # error: expected
future.cancel(True)  # error: expected
future.cancel(kill="yes")  # error: expected
future.status()  # error: expected
future.id = "x"  # error: expected
future.status = "failed"  # error: expected
future.submitted_at = None  # error: expected
future.started_at.isoformat()  # error: expected
future.key.upper()  # error: expected
future.unknown()  # error: expected
future.set_result("1")  # error: expected
future.set_exception("failed")  # error: expected
future.result().upper()  # error: expected
maybe.result().upper()  # error: expected
wrong: str = future.result()  # error: expected
wrong_future: FutureProxy[str] = future  # error: expected
wrong_exception: BaseException = future.exception()  # error: expected

if future.status == "failed":
    assert_type(future.exception(), BaseException | None)
# error: expected
# except ty, pyrefly: they compare no literals
misspelt = future.status == "done"


# -- callbacks -------------------------------------------------------------------------------------


def gets_proxy(future: FutureProxy[int]) -> None:
    assert_type(future.status == "failed", bool)


def gets_future(future: concurrent.futures.Future[int]) -> str:
    return ""


def gets_any(future: FutureProxy[Any]) -> None: ...


def gets_object(future: object) -> None: ...


def gets_str(future: FutureProxy[str]) -> None: ...


def gets_result(result: int) -> None: ...


def gets_two(future: FutureProxy[int], more: int) -> None: ...


assert_type(future.add_done_callback(gets_proxy), None)
assert_type(future.add_done_callback(gets_future), None)
assert_type(future.add_done_callback(gets_any), None)
assert_type(future.add_done_callback(gets_object), None)
assert_type(future.add_done_callback(print), None)
future.add_done_callback(lambda future: assert_type(future, FutureProxy[int]))
future.add_done_callback(lambda future: assert_type(future.result(), int))
future.add_done_callback(lambda future: future.id.upper())
future.add_done_callback(gets_str)  # error: expected
future.add_done_callback(gets_result)  # error: expected
future.add_done_callback(gets_two)  # error: expected
future.add_done_callback(number)  # error: expected
future.add_done_callback()  # error: expected
future.add_done_callback(None)  # error: expected
future.add_done_callback(lambda future: future.result().upper())  # error: expected


# -- a concurrent.futures.Future -------------------------------------------------------------------


def no_proxy(future: concurrent.futures.Future[int]) -> FutureProxy[int]:
    return future  # error: expected


def wait_for(future: concurrent.futures.Future[X]) -> X:
    return future.result()


as_future: concurrent.futures.Future[int] = future
assert_type(wait_for(future), int)
done, not_done = concurrent.futures.wait([future], timeout=1)
assert_type(done, set[concurrent.futures.Future[int]])
assert_type(not_done, set[concurrent.futures.Future[int]])
for each in concurrent.futures.as_completed([future, future]):
    assert_type(each.result(), int)
as_wrong_future: concurrent.futures.Future[str] = future  # error: expected

# invariant, as the standard library's: who holds it may call set_result()
cats: FutureProxy[Cat] = FutureProxy()
animals: FutureProxy[Animal] = cats  # error: expected
assert_type({future: 1}, dict[FutureProxy[int], int])
assert_type(future == as_future, bool)
