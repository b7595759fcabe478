"""Jobs in classes, and as views: what decorators above and below ``@executor.job`` keep."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from flask import Blueprint, Flask
from typing_extensions import Self, assert_type

from flask_executor_typed import Executor, ExecutorJob, FutureKey, FutureProxy, Results

X = TypeVar("X")

app = Flask("cases")
blueprint = Blueprint("cases", __name__)
executor = Executor(app)
of_int = Executor[int](app)

NUMBER = FutureKey[int]("number")
TEXT = FutureKey[str]("text")


class Mailer:
    """Methods."""

    @executor.job
    def send(self, to: str, *, copies: int = 1) -> int:
        return copies

    @executor.job
    async def asend(self, to: str) -> str:
        return to

    @executor.job
    def nothing(self) -> None: ...

    @executor.job(name="named")
    def named(self, to: str, /) -> bytes:
        return b""

    @of_int.job
    def count(self, to: str) -> int:
        return 1

    @executor.job
    def chain(self, to: str) -> FutureProxy[int]:
        return self.send.submit(to)

    @executor.job
    def me(self) -> Self:
        return self

    def plain(self) -> int:
        assert_type(self.send("a"), int)
        assert_type(self.send.submit("a"), FutureProxy[int])
        assert_type(self.asend.submit("a"), FutureProxy[str])
        self.send.submit(1)  # error: expected
        self.send.submit(self, "a")  # error: expected
        return self.send("a", copies=2)


mailer = Mailer()
strs: list[str] = []
ints: list[int] = []
mailers: list[Mailer] = []

assert_type(mailer.send("a"), int)
assert_type(mailer.send("a", copies=2), int)
assert_type(mailer.send(to="a"), int)
assert_type(mailer.send.submit("a"), FutureProxy[int])
assert_type(mailer.send.submit(to="a", copies=2), FutureProxy[int])
assert_type(mailer.nothing.submit(), FutureProxy[None])
assert_type(mailer.asend.submit("a"), FutureProxy[str])
assert_type(mailer.named.submit("a"), FutureProxy[bytes])
assert_type(mailer.named, ExecutorJob[[str], bytes, Any])
assert_type(mailer.count.submit_stored("k", "a"), FutureProxy[int])
assert_type(mailer.send.submit_stored(NUMBER, "a"), FutureProxy[int])
assert_type(mailer.send.submit_stored("k", "a", copies=2), FutureProxy[int])
assert_type(mailer.asend.submit_stored(TEXT["a"], "a"), FutureProxy[str])
assert_type(mailer.send.using(key="k").submit("a"), FutureProxy[int])
assert_type(mailer.send.using(name="n").map(strs), Results[int])
assert_type(mailer.send.map(strs), Results[int])
assert_type(mailer.asend.map(strs), Results[str])
assert_type(mailer.chain.submit("a"), FutureProxy[int])
assert_type(executor.submit(mailer.chain, "a"), FutureProxy[int])
assert_type(mailer.send.fn("a"), int)


async def await_method() -> None:
    assert_type(await mailer.asend("a"), str)
    assert_type(await mailer.asend.submit("a"), str)
    await mailer.send("a")  # error: expected


# through the class, like any function
assert_type(Mailer.send(mailer, "a"), int)
assert_type(Mailer.send.submit(mailer, "a"), FutureProxy[int])
assert_type(Mailer.asend.submit(mailer, "a"), FutureProxy[str])
assert_type(Mailer.send.submit(mailer, to="a", copies=2), FutureProxy[int])
assert_type(Mailer.send.map(mailers, strs), Results[int])

mailer.send(1)  # error: expected
mailer.send()  # error: expected
mailer.send.submit()  # error: expected
mailer.send.submit(1)  # error: expected
mailer.send.submit("a", 2)  # error: expected
mailer.send.submit("a", copies="2")  # error: expected
mailer.send.submit(mailer, "a")  # error: expected
mailer.asend.submit(1)  # error: expected
mailer.nothing.submit(1)  # error: expected
mailer.named.submit(to="a")  # error: expected
mailer.send.submit_stored(TEXT, "a")  # error: expected
mailer.send.submit_stored("k")  # error: expected
mailer.send.map(ints)  # error: expected
mailer.send.map(strs, strs)  # error: expected
mailer.asend.map(ints)  # error: expected
Mailer.send.submit("a")  # error: expected
Mailer.send("a")  # error: expected
Mailer.send.map(strs, strs)  # error: expected
wrong: FutureProxy[str] = mailer.send.submit("a")  # error: expected


class Child(Mailer):
    """Inherits jobs."""


assert_type(Child().send.submit("a"), FutureProxy[int])
assert_type(Child.send.submit(Child(), "a"), FutureProxy[int])
Child().send.submit(1)  # error: expected


class Queue(Generic[X]):
    """Jobs of a generic class."""

    def __init__(self, item: X) -> None:
        self.item = item

    @executor.job
    def put(self, item: X) -> int:
        return 1

    @executor.job
    def take(self) -> X:
        return self.item


queue = Queue("a")
assert_type(queue.put.submit("a"), FutureProxy[int])
assert_type(queue.take.submit(), FutureProxy[str])
assert_type(queue.take(), str)
queue.put.submit(1)  # error: expected


# -- @staticmethod, above or below -----------------------------------------------------------------


class Tools:
    @staticmethod
    @executor.job
    def above(a: int, b: str = "") -> float:
        return a

    @staticmethod
    @executor.job
    async def aabove(a: int) -> float:
        return a

    @executor.job
    @staticmethod
    def below(a: int) -> str:
        return ""


tools = Tools()
assert_type(Tools.above(1), float)
assert_type(Tools.above.submit(1, "b"), FutureProxy[float])
assert_type(Tools.aabove.submit(1), FutureProxy[float])
assert_type(Tools.below.submit(1), FutureProxy[str])
assert_type(Tools.above.map(ints), Results[float])
assert_type(tools.above.submit(1), FutureProxy[float])
assert_type(tools.below.submit(1), FutureProxy[str])
Tools.above.submit("1")  # error: expected
Tools.above.submit()  # error: expected
Tools.below.submit("1")  # error: expected
tools.above.submit("1")  # error: expected
tools.below.submit("1")  # error: expected


# -- @classmethod ----------------------------------------------------------------------------------


class Built:
    @executor.job
    @classmethod
    def above(cls, a: int, b: str = "") -> str:
        return ""

    @executor.job
    @classmethod
    async def aabove(cls, a: int) -> float:
        return a

    @classmethod
    def plain(cls, a: int) -> str:
        return ""


class BuiltToo(Built): ...


assert_type(Built.above(1), str)
assert_type(Built.above.submit(1, "b"), FutureProxy[str])
assert_type(BuiltToo.above.submit(1), FutureProxy[str])
assert_type(BuiltToo().above.submit(1), FutureProxy[str])
assert_type(Built.aabove.submit(1), FutureProxy[float])
assert_type(Built.above.map(ints), Results[str])
assert_type(executor.submit(Built.plain, 1), FutureProxy[str])
Built.above.submit("1")  # error: expected
Built().above.submit()  # error: expected


# -- under @app.route ------------------------------------------------------------------------------


@app.route("/<int:number>")
@executor.job
def view(number: int) -> str:
    return ""


@blueprint.post("/<name>")
@executor.job
def posted(name: str) -> dict[str, Any]:
    return {}


@app.get("/async")
@executor.job
async def aview() -> str:
    return ""


@app.cli.command("report")
@executor.job
def command() -> None: ...


@app.before_request
@executor.job
def before() -> None: ...


assert_type(view(1), str)
assert_type(view.submit(1), FutureProxy[str])
assert_type(view.submit(number=1), FutureProxy[str])
assert_type(posted.submit("a"), FutureProxy[dict[str, Any]])
assert_type(aview.submit(), FutureProxy[str])
assert_type(before.submit(), FutureProxy[None])
view.submit("1")  # error: expected
posted.submit(1)  # error: expected
aview.submit(1)  # error: expected
