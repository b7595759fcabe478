"""``@executor.job``: the job has the parameters and the result of its function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from flask import Flask
from typing_extensions import assert_type

from flask_executor_typed import Executor, ExecutorJob, FutureKey, FutureProxy, Results
from flask_executor_typed.jobs import JobDecorator

P = ParamSpec("P")
X = TypeVar("X")

app = Flask("cases")
executor = Executor(app)
of_int = Executor[int](app)
of_object = Executor[object](app)


@dataclass
class Ok:
    value: int


class Cat: ...


class Dog: ...


NUMBER = FutureKey[int]("number")
TEXT = FutureKey[str]("text")


@executor.job
def fib(n: int) -> int:
    """Recursion through the plain call."""
    return n if n < 2 else fib(n - 1) + fib(n - 2)


@executor.job
def text(a: int, b: str = "", *, c: bool = False) -> str:
    return b


@executor.job
def nothing() -> None: ...
@executor.job
def optional() -> int | None:
    return None


@executor.job
def union(d: dict[str, Any]) -> int | str:
    return 1


@executor.job
def cat_or_dog() -> Cat | Dog:
    return Cat()


@executor.job
def letter() -> Literal["a", "b"]:
    return "a"


@executor.job
def variadic(a: int, *rest: str, **options: bytes) -> int:
    return a


@executor.job
def takes_key(key: str, future_key: int, timeout: float, name: str, fn: int) -> int:
    return 1


@executor.job
async def fetch(url: str, *, retries: int = 3) -> bytes:
    return b""


@executor.job
async def with_any(d: dict[str, Any]) -> str:
    return ""


@executor.job
async def aunion() -> int | str:
    return 1


@executor.job
async def anone() -> None: ...


@executor.job
def awaitable(a: int) -> Awaitable[str]:
    return with_any({})


@executor.job
async def stream(n: int) -> AsyncIterator[int]:
    yield n


# -- the plain call is the function's --------------------------------------------------------------

assert_type(fib(5), int)
assert_type(text(1), str)
assert_type(text(1, "b", c=True), str)
assert_type(text(a=1), str)
assert_type(optional(), int | None)
assert_type(union({}), int | str)
assert_type(cat_or_dog(), Cat | Dog)
assert_type(fib.fn(5), int)
assert_type(fib.__wrapped__(5), int)
assert_type(fib.__name__, str)
assert_type(fib.__qualname__, str)
assert_type(stream(1), AsyncIterator[int])


async def plain_calls() -> None:
    assert_type(await fetch("u"), bytes)
    assert_type(await fetch("u", retries=1), bytes)
    assert_type(await with_any({}), str)
    assert_type(await awaitable(1), str)
    assert_type(await aunion(), int | str)
    assert_type([n async for n in stream(1)], list[int])
    await fib(5)  # error: expected
    await fetch(1)  # error: expected
    await fetch  # error: expected


fib("5")  # error: expected
fib()  # error: expected
fib(1, 2)  # error: expected
text(1, 2)  # error: expected
text(1, "b", True)  # error: expected
text(1, d=1)  # error: expected
union([])  # error: expected
fib(5).upper()  # error: expected
fetch("u").decode()  # error: expected
wrong_call: str = fib(5)  # error: expected


# -- submit ----------------------------------------------------------------------------------------

assert_type(fib.submit(5), FutureProxy[int])
assert_type(fib.submit(n=5), FutureProxy[int])
assert_type(fib.submit(5).result(), int)
assert_type(text.submit(1, "b", c=True), FutureProxy[str])
assert_type(text.submit(1, b="b"), FutureProxy[str])
assert_type(nothing.submit(), FutureProxy[None])
assert_type(optional.submit(), FutureProxy[int | None])
assert_type(union.submit({}), FutureProxy[int | str])
assert_type(cat_or_dog.submit(), FutureProxy[Cat | Dog])
assert_type(letter.submit(), FutureProxy[Literal["a", "b"]])
assert_type(variadic.submit(1, "a", "b", x=b""), FutureProxy[int])
assert_type(takes_key.submit("", 1, timeout=1.0, name="", fn=1), FutureProxy[int])
assert_type(takes_key.submit(key="", future_key=1, timeout=1.0, name="", fn=1), FutureProxy[int])
assert_type(fetch.submit("u"), FutureProxy[bytes])
assert_type(fetch.submit(url="u", retries=1), FutureProxy[bytes])
assert_type(fetch.submit("u").result(1), bytes)
assert_type(with_any.submit({}), FutureProxy[str])
assert_type(aunion.submit(), FutureProxy[int | str])
assert_type(anone.submit(), FutureProxy[None])
assert_type(awaitable.submit(1), FutureProxy[str])
assert_type(stream.submit(1), FutureProxy[AsyncIterator[int]])

fib.submit("5")  # error: expected
fib.submit()  # error: expected
fib.submit(1, 2)  # error: expected
fib.submit(m=1)  # error: expected
fib.submit(1, timeout=2.0)  # error: expected
fib.submit(1, key="k")  # error: expected
text.submit(1, 2)  # error: expected
text.submit(1, c="yes")  # error: expected
union.submit([])  # error: expected
variadic.submit(1, 2)  # error: expected
variadic.submit(1, "a", x="b")  # error: expected
takes_key.submit("", 1)  # error: expected
nothing.submit(1)  # error: expected
fetch.submit(1)  # error: expected
fetch.submit()  # error: expected
fetch.submit("u", 3)  # error: expected
fetch.submit("u", retries="3")  # error: expected
with_any.submit([])  # error: expected
awaitable.submit("1")  # error: expected
wrong_sync: FutureProxy[str] = fib.submit(5)  # error: expected
wrong_async: FutureProxy[str] = fetch.submit("u")  # error: expected
fetch.submit("u").result().encode()  # error: expected
fib.delay(5)  # error: expected


# -- submit_stored ---------------------------------------------------------------------------------

assert_type(fib.submit_stored(NUMBER, 5), FutureProxy[int])
assert_type(fib.submit_stored(NUMBER["a"], n=5), FutureProxy[int])
assert_type(text.submit_stored(TEXT, 1, c=True), FutureProxy[str])
assert_type(with_any.submit_stored(TEXT, {}), FutureProxy[str])
assert_type(awaitable.submit_stored(TEXT, 1), FutureProxy[str])
fib.submit_stored(TEXT, 5)  # error: expected
text.submit_stored(NUMBER, 1)  # error: expected
with_any.submit_stored(NUMBER, {})  # error: expected
optional.submit_stored(NUMBER)  # error: expected
fib.submit_stored(NUMBER)  # error: expected
fib.submit_stored(NUMBER, "5")  # error: expected
with_any.submit_stored(TEXT, [])  # error: expected

# row: the same of a job
assert_type(fib.submit_stored("k", 5), FutureProxy[int])
assert_type(fib.submit_stored(("k", 5), n=5), FutureProxy[int])
assert_type(text.submit_stored("k", 1, "b", c=True), FutureProxy[str])
# except ty: gives `FutureProxy[Unknown]`: ``Any`` in the receiver makes the overloads ambiguous
assert_type(fetch.submit_stored("k", "u"), FutureProxy[bytes])
fib.submit_stored("k")  # error: expected
fib.submit_stored("k", "5")  # error: expected
fib.submit_stored("k", 5, 6)  # error: expected
fib.submit_stored([], 5)  # error: expected
fib.submit_stored()  # error: expected
fetch.submit_stored("k", 1)  # error: expected
fetch.submit_stored("k")  # error: expected


@of_int.job
def stored_int(a: int) -> int:
    return a


@of_int.job
def stored_bool(a: int) -> bool:
    return True


@of_int.job
def stored_str(a: int) -> str:
    return ""


@of_int.job
async def stored_aint(a: int) -> int:
    return a


@of_int.job
async def stored_astr(a: int) -> str:
    return ""


@of_object.job
def stored_object(a: int) -> str:
    return ""


@of_object.job
async def stored_aobject(a: int) -> str:
    return ""


assert_type(stored_int.submit(1), FutureProxy[int])
assert_type(stored_str.submit(1), FutureProxy[str])
assert_type(stored_int.submit_stored("k", 1), FutureProxy[int])
assert_type(stored_aint.submit_stored("k", 1), FutureProxy[int])
assert_type(stored_bool.submit_stored("k", 1), FutureProxy[bool])
assert_type(stored_str.submit_stored(TEXT, 1), FutureProxy[str])
assert_type(stored_object.submit_stored("k", 1), FutureProxy[str])
assert_type(stored_aobject.submit_stored("k", 1), FutureProxy[str])

# row: job.submit_stored("key") with a result that does not fit Executor[int]
# error: expected
# except mypy: ignores what the type variables of ``self`` have in common; gives FutureProxy[Never]
stored_str.submit_stored("k", 1)
# error: expected
# except mypy: as above
stored_astr.submit_stored("k", 1)
stored_int.submit_stored("k")  # error: expected
stored_int.submit_stored("k", "1")  # error: expected
stored_aint.submit_stored("k", "1")  # error: expected
stored_object.submit_stored("k", "1")  # error: expected


# -- using: options apart from the arguments -------------------------------------------------------

assert_type(fib.using(key="k").submit(5), FutureProxy[int])
assert_type(fib.using(key=NUMBER[1], on_duplicate="join").submit(5), FutureProxy[int])
assert_type(fib.using(name="fib").using(key="k").submit(n=5), FutureProxy[int])
assert_type(fib.using(on_duplicate="replace")(5), int)
assert_type(fetch.using(key=("k", 1)).submit("u", retries=1), FutureProxy[bytes])
# except ty: gives `FutureProxy[Unknown]`, as above
assert_type(fetch.using(key="k").submit_stored("other", "u"), FutureProxy[bytes])
assert_type(fib.using(name="fib").map([1, 2]), Results[int])
assert_type(fetch.using(name="f").map(["u"]), Results[bytes])
assert_type(takes_key.using(key="k").submit("", 1, 1.0, "", 1), FutureProxy[int])
fib.using(key="k").submit("5")  # error: expected
fib.using(key="k").submit()  # error: expected
fib.using(key=[])  # error: expected
fib.using("k")  # error: expected
fib.using(on_duplicate="ignore")  # error: expected
fib.using(name=1)  # error: expected
fib.using(unknown=1)  # error: expected
fetch.using(key="k").submit(1)  # error: expected


# -- the decorator's forms -------------------------------------------------------------------------


@executor.job()
def called(a: int) -> int:
    return a


@executor.job(name="named")
def named(a: int, *, b: str) -> str:
    return b


@executor.job(name="named")
async def anamed(a: int) -> list[int]:
    return [a]


@of_int.job(name="named")
def named_str(a: int) -> str:
    return ""


def undecorated(a: int, /) -> str:
    return ""


class Callme:
    def __call__(self, a: int) -> bytes:
        return b""


assert_type(called.submit(1), FutureProxy[int])
assert_type(called(1), int)
assert_type(named.submit(1, b=""), FutureProxy[str])
assert_type(anamed.submit(1), FutureProxy[list[int]])
assert_type(executor.job(), JobDecorator[Any])
assert_type(of_int.job(name="named"), JobDecorator[int])
assert_type(executor.job(undecorated), ExecutorJob[[int], str, Any])
assert_type(of_int.job(undecorated), ExecutorJob[[int], str, int])
assert_type(of_int.job()(undecorated), ExecutorJob[[int], str, int])
assert_type(executor.job(undecorated).submit(1), FutureProxy[str])
assert_type(executor.job(Callme()).submit(1), FutureProxy[bytes])
assert_type(executor.job(Ok).submit(1), FutureProxy[Ok])
assert_type(executor.job(partial(undecorated, 1)).submit(), FutureProxy[str])
# except ty: gives `FutureProxy[Literal[1]]`
assert_type(executor.job(lambda: 1).submit(), FutureProxy[int])
assert_type(executor.job(len).submit("abc"), FutureProxy[int])
assert_type(ExecutorJob(executor, undecorated).submit(1), FutureProxy[str])
called.submit("1")  # error: expected
named.submit(1)  # error: expected
named.submit(1, b=2)  # error: expected
anamed.submit("1")  # error: expected
# error: expected
# except mypy: as above
named_str.submit_stored("k", 1)
executor.job(1)  # error: expected
executor.job("name")  # error: expected
executor.job(undecorated, name="x")  # error: expected
executor.job(name=1)  # error: expected
executor.job(unknown=1)  # error: expected
executor.job(fn=undecorated)  # error: expected
executor.job(undecorated).submit("1")  # error: expected
executor.job(Callme()).submit("1")  # error: expected


@executor.job(1)  # error: expected
def wrongly_decorated() -> None: ...


# -- generic functions -----------------------------------------------------------------------------


@executor.job
def same(x: X) -> X:
    return x


@executor.job
async def asame(x: X) -> X:
    return x


# except ty: gives `Literal[1]`
# except pyrefly: gives `Unknown`: it solves no type variables of what fills a ParamSpec
assert_type(same(1), int)

# row: a job of a generic function
# except pyrefly: gives `FutureProxy[Unknown]`
assert_type(same.submit(1), FutureProxy[int])
# except pyrefly: gives `FutureProxy[Unknown]`
assert_type(same.submit(""), FutureProxy[str])
# except pyrefly: gives `FutureProxy[Unknown]`
assert_type(asame.submit(1), FutureProxy[int])


# -- functions with several signatures -------------------------------------------------------------


@overload
def load(x: str) -> str: ...
@overload
def load(x: bytes) -> bytes: ...
def load(x: str | bytes) -> str | bytes:
    return x


overloaded = executor.job(load)

# A ParamSpec is filled by one signature: ``executor.submit(load, ...)`` is the cure.
# row: a job of an overloaded function
# except ty: gives `FutureProxy[str | bytes]`, the union of all overloads
# except pyrefly: gives `FutureProxy[Unknown]`
assert_type(overloaded.submit(""), FutureProxy[str])
# except mypy: `incompatible type "bytes"; expected "str"`: knows the first overload only
# except pyright: `cannot be assigned to parameter "x" of type "str"`: as mypy
# except ty: gives `FutureProxy[str | bytes]`
# except pyrefly: gives `FutureProxy[Unknown]`
assert_type(overloaded.submit(b""), FutureProxy[bytes])
# except mypy, pyright: `"bytes"`: as above
# except ty: gives `str`
assert_type(overloaded(b""), bytes)


# The limit itself, in the smallest program: a ParamSpec of a class holds one signature. Only a bare
# callable that is returned keeps the others, and that has no ``submit``.
class Holder(Generic[P, X]):
    def __init__(self, fn: Callable[P, X]) -> None:
        self.fn = fn

    def call(self, *args: P.args, **kwargs: P.kwargs) -> X:
        return self.fn(*args, **kwargs)


def unchanged(fn: Callable[P, X]) -> Callable[P, X]:
    return fn


# except mypy: `incompatible type "bytes"; expected "str"`: the first signature
# except pyright: `cannot be assigned to parameter "x" of type "str"`: as mypy
# except ty: gives `str | bytes`
assert_type(Holder(load).call(b""), bytes)
# except ty: gives `str | bytes`
assert_type(unchanged(load)(b""), bytes)


# -- what gives an awaitable or not ----------------------------------------------------------------


class Base: ...


class Lazy(Base):
    def __await__(self) -> Generator[Any, None, int]:
        raise NotImplementedError


@executor.job
def lazy() -> Lazy:
    return Lazy()


@executor.job
def base() -> Base:
    return Base()


@executor.job
def anything(a: int) -> Any: ...


@executor.job
def thing() -> object: ...


@executor.job
def maybe_cat() -> Cat | Awaitable[Cat]:
    return Cat()


@of_int.job
def stored_maybe(a: int) -> int | Awaitable[int]:
    return a


@executor.job
def maybe_async(a: int) -> int | Coroutine[Any, Any, int]:
    return a


@executor.job
def awaitable_or_none(a: int) -> Awaitable[str] | None:
    return None


assert_type(maybe_async(1), int | Coroutine[Any, Any, int])
# A job that gives an awaitable or something else keeps both in its type, although the awaitable is
# awaited: an overload for it makes mypy give FutureProxy[object] for ``Cat | Dog``. Under a typed
# key, and in executor.submit, it is unwrapped.
# except mypy, pyright, ty: gives `FutureProxy[int | Coroutine[Any, Any, int]]`
# except pyrefly: gives `FutureProxy[Coroutine[Any, Any, int] | int]`
assert_type(maybe_async.submit(1), FutureProxy[int])
assert_type(executor.submit(maybe_async, 1), FutureProxy[int])
assert_type(maybe_async.submit_stored(NUMBER, 1), FutureProxy[int])
assert_type(stored_maybe.submit_stored("k", 1), FutureProxy[int])
assert_type(lazy.submit(), FutureProxy[int])
assert_type(base.submit(), FutureProxy[Base])
assert_type(anything.submit(1), FutureProxy[Any])
assert_type(anything.submit_stored("k", 1), FutureProxy[Any])
assert_type(thing.submit(), FutureProxy[object])
# except mypy, pyright, ty: gives `FutureProxy[Cat | Awaitable[Cat]]`, as above
# except pyrefly: gives `FutureProxy[Awaitable[Cat] | Cat]`
assert_type(maybe_cat.submit(), FutureProxy[Cat])
assert_type(executor.submit(maybe_cat), FutureProxy[Cat])
maybe_async.submit("1")  # error: expected
maybe_async.submit_stored(TEXT, 1)  # error: expected
# except mypy, pyright, ty, pyrefly: gives `FutureProxy[Awaitable[str] | None]`, as above
assert_type(awaitable_or_none.submit(1), FutureProxy[str | None])


# -- in a function of the user's own ---------------------------------------------------------------


def start(job: ExecutorJob[..., int, Any]) -> FutureProxy[int]:
    return job.submit(1)


def call(fn: Callable[[int], X]) -> X:
    return fn(1)


assert_type(start(fib), FutureProxy[int])
assert_type(call(fib), int)
assert_type(list(map(fib, [1, 2])), list[int])
start(text)  # error: expected
covariant: ExecutorJob[..., float, Any] = fib
wrong_variance: ExecutorJob[..., str, Any] = fib  # error: expected
as_function: Callable[[int], int] = fib
wrong_function: Callable[[str], int] = fib  # error: expected
