"""What ``@executor.job`` makes of functions, methods, views and other callables."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import pydoc
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar

import pytest
from flask import Flask, current_app, g, request

from flask_executor_typed import Executor, ExecutorJob, FutureKey, NoAppError

from .conftest import TIMEOUT

declared_early: Executor = Executor()
"""An executor as most apps have it: at the top of a module, without an app so far."""


@declared_early.job
def triple(number: int, *, plus: int = 0) -> int:
    """Three times a number."""
    return number * 3 + plus


@declared_early.job
async def triple_async(number: int, *, plus: int = 0) -> int:
    """Three times a number, in a while."""
    await asyncio.sleep(0)
    return number * 3 + plus


@declared_early.job
def fib(n: int) -> int:
    """The example of Flask-Executor's documentation, which calls itself by its job."""
    return 1 if n <= 2 else fib(n - 1) + fib(n - 2)


@declared_early.job
def fib_in_background(n: int) -> int:
    """Each level submits the next one below."""
    return (
        n if n < 2 else fib_in_background(n - 2) + fib_in_background.submit(n - 1).result(TIMEOUT)
    )


class Account:
    """A class with a job of each kind."""

    count: ClassVar[int] = 7

    def __init__(self, owner: str) -> None:
        self.owner = owner

    @declared_early.job
    def greet(self, greeting: str) -> str:
        """Greet the owner."""
        return f"{greeting}, {self.owner}"

    @declared_early.job
    async def greet_async(self, greeting: str) -> str:
        return f"{greeting}, {self.owner}"

    @staticmethod
    @declared_early.job
    def outside(number: int) -> int:
        return number + 1

    @declared_early.job
    @staticmethod
    def inside(number: int) -> int:
        return number + 2

    @staticmethod
    @declared_early.job
    async def outside_async(number: int) -> int:
        return number + 3

    @declared_early.job
    @staticmethod
    async def inside_async(number: int) -> int:
        return number + 4

    @classmethod
    def total(cls, number: int) -> int:
        return cls.count + number


class Savings(Account):
    """Inherits the jobs."""

    @declared_early.job
    def greet_richly(self, greeting: str) -> str:
        return super().greet(greeting) + " the rich"


class Adder:
    """An object that can be called."""

    def __init__(self, plus: int) -> None:
        self.plus = plus

    def __call__(self, number: int) -> int:
        return number + self.plus


class AsyncAdder:
    """An object whose calls can be awaited."""

    def __init__(self, plus: int) -> None:
        self.plus = plus

    async def __call__(self, number: int) -> int:
        return number + self.plus


@pytest.fixture
def early(app: Flask) -> Iterator[Executor]:
    """The executor of the jobs above, which now serves ``app``; that is active, too."""
    declared_early.init_app(app)
    with app.app_context():
        yield declared_early


# Calling and submitting


def test_job_is_called_like_its_function() -> None:
    assert triple(2) == 6
    assert triple(2, plus=1) == 7
    assert asyncio.run(triple_async(2, plus=1)) == 7
    called_wrongly: Any = triple
    with pytest.raises(TypeError, match=r"triple\(\) missing 1 required positional argument"):
        called_wrongly()


def test_job_declared_before_init_app_can_be_submitted_after_it(early: Executor) -> None:
    assert triple.submit(2, plus=1).result(TIMEOUT) == 7
    assert triple_async.submit(2, plus=1).result(TIMEOUT) == 7


def test_job_submitted_before_init_app_says_what_to_call() -> None:
    job = Executor().job(triple.fn)
    with pytest.raises(NoAppError, match=r"call executor.init_app\(app\) first"):
        job.submit(1)
    assert job(1) == 3


def test_job_is_kept_under_a_key(early: Executor) -> None:
    future = triple.submit_stored("nine", 3)
    assert future.result(TIMEOUT) == 9
    assert early.futures.pop("nine") is future
    nine = FutureKey[int]("nine")
    stored = triple_async.submit_stored(nine, 3)
    assert early.futures.pop(nine) is stored
    assert stored.result(TIMEOUT) == 9


def test_job_maps(early: Executor) -> None:
    assert list(triple.map([1, 2, 3])) == [3, 6, 9]
    assert list(triple.map([1, 2, 3], chunksize=2)) == [3, 6, 9]
    assert list(triple_async.map([1, 2, 3], buffersize=1)) == [3, 6, 9]

    async def listed() -> list[int]:
        numbers = [number async for number in triple.map([1, 2, 3], chunksize=2)]
        return numbers + [number async for number in triple_async.map([1, 2, 3])]

    assert asyncio.run(listed()) == [3, 6, 9, 3, 6, 9]


def test_job_calls_itself() -> None:
    assert fib(10) == 55


def test_job_calls_itself_in_the_background(early: Executor) -> None:
    assert fib.submit(10).result(TIMEOUT) == 55


def test_job_submits_itself_while_there_are_workers(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 16
    declared_early.init_app(app)
    with app.app_context():
        assert fib_in_background.submit(6).result(TIMEOUT) == 8


def test_job_is_its_own_executor_given_to_submit(early: Executor) -> None:
    assert early.submit(triple, 3).result(TIMEOUT) == 9
    assert early.submit(triple_async, 3).result(TIMEOUT) == 9
    assert list(early.map(triple, [1, 2])) == [3, 6]


def test_job_takes_arguments_of_any_name(executor: Executor) -> None:
    @executor.job
    def job(
        self: str, fn: str, key: str, name: str, timeout: float, future: str, executor: str
    ) -> list[object]:
        return [self, fn, key, name, timeout, future, executor]

    arguments: dict[str, Any] = {
        "self": "s",
        "fn": "f",
        "key": "k",
        "name": "n",
        "timeout": 1.5,
        "future": "fu",
        "executor": "e",
    }
    assert job(**arguments) == list(arguments.values())
    assert job.submit(**arguments).result(TIMEOUT) == list(arguments.values())
    stored: Any = job.submit_stored("key", **arguments)
    assert stored.result(TIMEOUT) == list(arguments.values())


# Options


def test_job_with_a_name_gives_it_to_its_futures(executor: Executor) -> None:
    @executor.job(name="nightly")
    def job() -> None: ...

    assert job.submit().name == "nightly"
    assert job.__name__ == "job"


def test_job_with_empty_parentheses_is_an_ordinary_job(executor: Executor) -> None:
    @executor.job()
    def job() -> int:
        return 1

    future = job.submit()
    assert future.result(TIMEOUT) == 1
    assert future.name.endswith("<locals>.job")


def test_name_of_a_job_stays_when_other_options_are_given(executor: Executor) -> None:
    @executor.job(name="nightly")
    def job() -> None: ...

    future = job.using(key="k").submit()
    assert (future.name, future.key) == ("nightly", "k")
    assert job.using(name="daily").submit().name == "daily"


def test_using_gives_a_job_options_and_leaves_the_job_as_it_was(early: Executor) -> None:
    future = triple.using(key="nine", name="thrice").submit(3)
    assert (future.key, future.name) == ("nine", "thrice")
    assert early.futures.pop("nine") is future
    plain = triple.submit(3)
    assert (plain.key, plain.name) == (None, "triple")
    assert triple.using(name="thrice")(3) == 9
    assert list(triple.using(name="thrice").map([3])) == [9]


def test_using_works_on_the_job_of_an_instance(early: Executor) -> None:
    future = Account("Ann").greet.using(key="greeting").submit("Hello")
    assert future.result(TIMEOUT) == "Hello, Ann"
    assert early.futures.pop("greeting") is future


# Methods


def test_method_job_binds_its_instance(early: Executor) -> None:
    ann, bob = Account("Ann"), Savings("Bob")
    assert ann.greet("Hello") == "Hello, Ann"
    assert ann.greet.submit("Hello").result(TIMEOUT) == "Hello, Ann"
    assert bob.greet.submit("Hello").result(TIMEOUT) == "Hello, Bob"
    assert bob.greet_richly.submit("Hello").result(TIMEOUT) == "Hello, Bob the rich"
    assert asyncio.run(ann.greet_async("Hello")) == "Hello, Ann"
    assert bob.greet_async.submit("Hello").result(TIMEOUT) == "Hello, Bob"
    assert list(ann.greet.map(["Hello", "Bye"])) == ["Hello, Ann", "Bye, Ann"]
    assert ann.greet.submit("Hello").name == "Account.greet"


def test_method_job_is_read_off_its_class_as_a_function(early: Executor) -> None:
    ann = Account("Ann")
    assert Account.greet(ann, "Hello") == "Hello, Ann"
    assert Account.greet.submit(ann, "Hello").result(TIMEOUT) == "Hello, Ann"
    assert Account.greet_async.submit(ann, greeting="Hello").result(TIMEOUT) == "Hello, Ann"


def test_static_job_is_the_same_through_class_and_instance(early: Executor) -> None:
    ann = Account("Ann")
    assert (Account.outside(1), ann.outside(1)) == (2, 2)
    assert (Account.inside(1), ann.inside(1)) == (3, 3)
    for job, result in (
        (Account.outside, 2),
        (ann.outside, 2),
        (Account.inside, 3),
        (ann.inside, 3),
    ):
        assert job.submit(1).result(TIMEOUT) == result
    for async_job, result in (
        (Account.outside_async, 4),
        (ann.outside_async, 4),
        (Account.inside_async, 5),
        (ann.inside_async, 5),
    ):
        assert async_job.submit(1).result(TIMEOUT) == result


def test_static_coroutine_job_runs_on_the_loop_and_holds_no_worker(executor: Executor) -> None:
    class Holder:
        @executor.job
        @staticmethod
        async def inside() -> str:
            return threading.current_thread().name

        @staticmethod
        @executor.job
        async def outside() -> str:
            return threading.current_thread().name

    before = set(threading.enumerate())
    for job in (Holder.inside, Holder.outside, Holder().inside, Holder().outside):
        assert job.submit().result(TIMEOUT) == "executor-loop-0"
    started = {thread.name for thread in set(threading.enumerate()) - before}
    assert started == {"executor-loop-0"}


def test_job_above_a_class_method_is_bound_to_the_class_it_is_looked_up_in(
    executor: Executor,
) -> None:
    class Report:
        """A class method in each order, and one that Python binds."""

        @executor.job
        @classmethod
        def build(cls, number: int = 0) -> tuple[type[Report], int]:
            """Build it."""
            return cls, number

        @executor.job
        @classmethod
        async def abuild(cls, number: int = 0) -> tuple[type[Report], int]:
            return cls, number

    class Yearly(Report): ...

    for kind in (Report, Yearly):
        assert kind.build(7) == kind().build(7) == (kind, 7)
        assert kind.build.__doc__ == "Build it."
        for job in (kind.build, kind().build, kind.abuild, kind().abuild):
            assert job.submit(7).result(TIMEOUT) == (kind, 7)
            assert job.using(name="x").submit().result(TIMEOUT) == (kind, 0)
        assert list(kind.build.map([1, 2])) == [(kind, 1), (kind, 2)]
    assert asyncio.run(Yearly.abuild(7)) == (Yearly, 7)


def test_job_below_a_class_method_is_bound_or_refused_but_never_loses_the_class(
    executor: Executor,
) -> None:
    class Report:
        @classmethod
        @executor.job
        def build(cls, number: int = 0) -> tuple[type[Report], int]:
            return cls, number

    assert Report.build(7) == (Report, 7)
    is_bound = sys.version_info < (3, 13)
    if is_bound:
        assert Report.build.submit(7).result(TIMEOUT) == (Report, 7)
        return
    build: Any = Report.build
    submits: list[Callable[[], object]] = [
        lambda: build.submit(7),
        lambda: build.submit_stored("key", 7),
        lambda: build.map([7]),
        lambda: build.using(name="x"),
    ]
    for submit in submits:
        with pytest.raises(TypeError) as caught:
            submit()
        assert str(caught.value) == (
            f"{Report.__qualname__}.build is a job below @classmethod, which binds no class to it "
            "on Python 3.13 and later; put @executor.job above @classmethod"
        )
    assert len(executor.futures) == 0


def test_what_cannot_be_called_is_refused_where_it_is_decorated(executor: Executor) -> None:
    not_a_function: Any = 5
    with pytest.raises(TypeError) as caught:
        executor.job(not_a_function)
    assert str(caught.value) == "@executor.job got 5, which cannot be called"


def test_name_in_place_of_the_function_is_refused_with_the_right_form(executor: Executor) -> None:
    name: Any = "report"
    with pytest.raises(TypeError) as caught:
        executor.job(name)
    assert str(caught.value) == (
        "@executor.job got 'report', which cannot be called; "
        "options are named: @executor.job(name='report')"
    )


def test_generator_function_is_refused_where_it_is_decorated(executor: Executor) -> None:
    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="rows is a generator function: none of its body would run"):
        executor.job(rows)
    with pytest.raises(TypeError, match="is a generator function"):
        executor.job(name="rows")(staticmethod(rows))


def test_class_method_can_be_submitted_as_the_error_says(early: Executor) -> None:
    assert early.submit(Account.total, 1).result(TIMEOUT) == 8


# Other callables


def test_partials_objects_builtins_and_classes_can_be_jobs(executor: Executor) -> None:
    assert executor.job(functools.partial(triple.fn, plus=1)).submit(2).result(TIMEOUT) == 7
    assert executor.job(functools.partial(triple_async.fn, plus=1)).submit(2).result(TIMEOUT) == 7
    assert executor.job(Adder(10)).submit(1).result(TIMEOUT) == 11
    assert executor.job(AsyncAdder(10)).submit(1).result(TIMEOUT) == 11
    assert executor.job(len).submit("four").result(TIMEOUT) == 4
    assert executor.job(Account).submit("Ann").result(TIMEOUT).owner == "Ann"


def test_job_made_of_a_job_belongs_to_the_executor_that_made_it(executor: Executor) -> None:
    nobodys = Executor()
    inner = nobodys.job(triple.fn)
    job = executor.job(inner)
    assert job.executor is executor
    assert job.submit(2).result(TIMEOUT) == 6
    assert job.map([2]).__next__() == 6


def test_attributes_of_a_callable_do_not_become_the_jobs_function_or_executor(
    executor: Executor,
) -> None:
    class Task:
        def __init__(self, fn: Callable[[int], int]) -> None:
            self.fn = fn
            self.executor = None

        def __call__(self, number: int) -> int:
            return self.fn(number) + 1

    task = Task(triple.fn)
    job = executor.job(task)
    assert job(2) == 7
    assert job.submit(2).result(TIMEOUT) == 7


def test_job_made_of_what_is_no_method_is_none_either(executor: Executor) -> None:
    class Holder:
        add = executor.job(Adder(10))
        measure = executor.job(len)

    assert Holder().add.submit(1).result(TIMEOUT) == 11
    assert Holder().measure.submit("four").result(TIMEOUT) == 4


# Views


def test_job_can_be_a_view_and_is_still_a_job(app: Flask, executor: Executor) -> None:
    @app.route("/<name>")
    @executor.job
    def hello(name: str) -> str:
        return f"Hello, {name}: {request.args['q']}"

    @app.route("/submit/<name>")
    def submit(name: str) -> str:
        return hello.submit(name).result(TIMEOUT)

    client = app.test_client()
    assert client.get("/Ann?q=1").get_data(as_text=True) == "Hello, Ann: 1"
    assert client.get("/submit/Ann?q=2").get_data(as_text=True) == "Hello, Ann: 2"


def test_coroutine_job_can_be_a_view_and_is_still_a_job(app: Flask, executor: Executor) -> None:
    @app.route("/<name>")
    @executor.job
    async def hello(name: str) -> str:
        await asyncio.sleep(0)
        return f"Hello, {name}: {request.args['q']}"

    @app.route("/submit/<name>")
    async def submit(name: str) -> str:
        return await hello.submit(name)

    client = app.test_client()
    assert client.get("/Ann?q=1").get_data(as_text=True) == "Hello, Ann: 1"
    assert client.get("/submit/Ann?q=2").get_data(as_text=True) == "Hello, Ann: 2"


def test_view_can_be_submitted_like_any_function(app: Flask, executor: Executor) -> None:
    @app.route("/")
    async def view() -> str:
        return f"{current_app.name} {g.get('user')}"

    with app.app_context():
        g.user = "Ann"
        assert executor.submit(view).result(TIMEOUT) == "tests Ann"


# What inspect, help() and people see


def test_job_looks_like_its_function() -> None:
    assert triple.__name__ == "triple"
    assert triple.__qualname__ == "triple"
    assert triple.__module__ == __name__
    assert triple.__doc__ == "Three times a number."
    assert triple.__wrapped__ is triple.fn
    assert inspect.unwrap(triple) is triple.fn
    assert Account.greet.__qualname__ == "Account.greet"
    assert Account("Ann").greet.__name__ == "greet"
    assert Account("Ann").greet.__doc__ == "Greet the owner."


def test_job_has_the_signature_of_its_function() -> None:
    assert inspect.signature(triple) == inspect.signature(triple.fn)
    assert str(inspect.signature(triple)) == "(number: 'int', *, plus: 'int' = 0) -> 'int'"
    assert str(inspect.signature(Account.greet)) == "(self, greeting: 'str') -> 'str'"
    assert str(inspect.signature(Account("Ann").greet)) == "(greeting: 'str') -> 'str'"
    assert str(inspect.signature(Account.inside)) == "(number: 'int') -> 'int'"


def test_job_keeps_the_attributes_of_its_function(executor: Executor) -> None:
    def function() -> None: ...

    marked: Any = function
    marked.label = "mine"
    job: Any = executor.job(marked)
    assert job.label == "mine"


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (triple, False),
        (triple_async, True),
        (Account.greet, False),
        (Account.greet_async, True),
        (Account("Ann").greet, False),
        (Account("Ann").greet_async, True),
        (Account.outside_async, True),
        (Account("Ann").outside_async, True),
        (triple_async.using(name="other"), True),
    ],
)
def test_inspect_tells_which_jobs_are_coroutine_functions(
    job: Callable[..., object], expected: bool
) -> None:
    assert inspect.iscoroutinefunction(job) is expected


def test_call_of_a_coroutine_job_is_awaitable_and_that_of_another_is_not() -> None:
    coroutine: Awaitable[int] = triple_async(1)
    assert inspect.iscoroutine(coroutine)
    assert asyncio.run(as_coroutine(coroutine)) == 3


async def as_coroutine(awaitable: Awaitable[int]) -> int:
    return await awaitable


def test_help_shows_the_documentation_of_the_function() -> None:
    assert "Three times a number." in pydoc.plain(pydoc.render_doc(triple))


def test_job_shows_its_function() -> None:
    assert repr(triple) == f"<ExecutorJob {triple.fn!r}>"


def test_job_knows_its_function_and_its_executor(executor: Executor) -> None:
    job = executor.job(triple.fn)
    assert type(job) is ExecutorJob
    assert job.fn is triple.fn
    assert job.executor is executor


def test_job_is_pickled_by_its_name_as_a_function_is() -> None:
    for job in (triple, triple_async, Account.greet):
        assert pickle.loads(pickle.dumps(job)) is job
        assert copy.deepcopy(job) is job


def test_job_that_cannot_be_found_by_its_name_cannot_be_pickled() -> None:
    for job in (Account("Ann").greet, triple.using(name="other")):
        with pytest.raises(pickle.PicklingError, match="not the same object"):
            pickle.dumps(job)
