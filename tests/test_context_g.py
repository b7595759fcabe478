"""What of ``g`` travels to a job, and that each has a ``g`` of its own."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from flask import Flask, g, has_request_context, request

from flask_executor_typed import Executor, FutureProxy, without_resources

from .conftest import TIMEOUT
from .helpers.contexts import (
    AsyncResource,
    Job,
    Marker,
    both_kinds,
    items_of,
    itself,
    names_in_g,
    run,
    start,
    variable,
)


@both_kinds
def test_g_is_the_submitters_at_the_moment_of_submit(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    release = threading.Event()
    shared: list[str] = []

    def job() -> tuple[Any, ...]:
        assert release.wait(TIMEOUT)
        return g.name, g.shared, "later" in g

    with app.app_context():
        g.name, g.shared = "early", shared
        future = start(executor, kind(job))
        g.name, g.later = "late", 1
        shared.append("seen")  # the names are copied, the values are the same
        release.set()
        assert future.result(TIMEOUT) == ("early", ["seen"], False)


@both_kinds
def test_each_job_of_a_request_gets_what_g_holds_when_it_is_submitted(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    release = threading.Event()
    items_of_last: list[Any] = []
    states: list[dict[str, Any]] = [
        {},
        {"items": [], "flag": 1},
        {"items": [], "flag": 1},  # another list
        {"items": [], "flag": True},  # equal, and another thing
        {"items": []},
        {"flag": True},
        {"flag": True, "items": None},
        {"flag": True, "items": items_of_last},
        {"items": items_of_last},  # one is gone, and the other the same
    ]

    def job() -> dict[str, Any]:
        assert release.wait(TIMEOUT)
        items = items_of(g)
        g.own = 1
        return items

    with app.test_request_context():
        futures: list[FutureProxy[dict[str, Any]]] = []
        for state in states:
            g.__dict__.clear()
            g.__dict__.update(state)
            futures += [start(executor, kind(job)) for _ in range(2)]
        release.set()
        for index, future in enumerate(futures):
            state, items = states[index // 2], future.result(TIMEOUT)
            assert items.keys() == state.keys()
            assert all(items[name] is value for name, value in state.items())


class Torn(dict[str, Any]):
    """Values that other threads change all the time."""

    def items(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")


class TornG:
    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values = Torn(user="me")

    __dict__: Any = property(lambda self: self._values)


def test_g_that_other_threads_change_does_not_keep_jobs_from_being_submitted(
    app: Flask, executor: Executor
) -> None:
    app.app_ctx_globals_class = TornG  # type: ignore[assignment]
    go_on = threading.Event()

    def job() -> str:
        assert go_on.wait(TIMEOUT)
        return str(g.__dict__["user"])

    with app.app_context():
        futures = [executor.submit(job) for _ in range(2)]
        go_on.set()
        assert [future.result(TIMEOUT) for future in futures] == ["me", "me"]


def test_carry_g_function_is_asked_for_each_job(app: Flask) -> None:
    answers = iter([True, False, True])
    go_on = threading.Event()

    def job() -> set[str]:
        assert go_on.wait(TIMEOUT)
        return names_in_g()

    with Executor(app, carry_g=lambda name, value: next(answers)) as executor, app.app_context():
        g.user = "me"
        futures = [executor.submit(job) for _ in range(3)]
        go_on.set()
        assert [future.result(TIMEOUT) for future in futures] == [{"user"}, set(), {"user"}]


def test_what_a_view_deletes_from_g_is_freed_when_its_jobs_are_done(
    app: Flask, executor: Executor
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executor.init_app(app)
    with app.app_context():
        g.marker = Marker()
        alive = weakref.ref(g.marker)
        run(executor, int)
        del g.marker
        with app.app_context():
            run(executor, int)  # the worker has let go of its last call when it does the next
        assert alive() is None


@both_kinds
def test_executors_that_give_their_jobs_different_things_take_turns(
    app: Flask, kind: Callable[[Job], Job]
) -> None:
    app.config["NO_REQUEST_EXECUTOR_PUSH_REQUEST_CONTEXT"] = False
    go_on = threading.Event()

    def job() -> tuple[set[str], bool]:
        assert go_on.wait(TIMEOUT)
        return names_in_g(), has_request_context()

    few, many = Executor(app, carry_g=("user",)), Executor(app, name="many")
    no_request = Executor(app, name="no_request")
    with few, many, no_request, app.test_request_context():
        g.user, g.number = "me", 7
        futures = [start(each, kind(job)) for _ in range(2) for each in (few, many, no_request)]
        go_on.set()
        assert [future.result(TIMEOUT) for future in futures] == 2 * [
            ({"user"}, True),
            ({"user", "number"}, True),
            ({"user", "number"}, False),
        ]


@pytest.mark.parametrize("make_context", [Flask.app_context, Flask.test_request_context])
@both_kinds
def test_job_writing_to_g_leaves_the_submitters_g_alone(
    app: Flask,
    executor: Executor,
    kind: Callable[[Job], Job],
    make_context: Callable[[Flask], AbstractContextManager[Any]],
) -> None:
    def job() -> None:
        g.name = "job's"
        g.new = 1
        g.pop("gone")

    with make_context(app):
        g.name, g.gone = "submitter's", "still here"
        run(executor, kind(job))
        assert items_of(g) == {"name": "submitter's", "gone": "still here"}


@both_kinds
def test_each_run_has_contexts_of_its_own(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    def job(_: int = 0) -> tuple[Any, ...]:
        return itself(g), itself(request), request.environ

    with app.test_request_context():
        mine = job()
        runs = [mine, *executor.map(kind(job), range(8))]
        runs += [run(executor, kind(job)) for _ in range(4)]
    for of_each_run in zip(*runs, strict=True):
        assert len({id(one) for one in of_each_run}) == len(runs)


def test_mapped_calls_that_run_at_once_do_not_see_what_the_others_write(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 4
    barrier = threading.Barrier(4)

    def write_then_read(number: int) -> tuple[Any, ...]:
        g.number = number
        request.environ["number"] = number
        variable.set(str(number))
        barrier.wait(TIMEOUT)
        return g.number, request.environ["number"], variable.get()

    with Executor(app) as executor, app.test_request_context():
        results = list(executor.map(write_then_read, range(4), timeout=TIMEOUT))
    assert results == [(number, number, str(number)) for number in range(4)]


def test_coroutines_that_run_at_once_on_one_loop_do_not_see_what_the_others_write(
    app: Flask, executor: Executor
) -> None:
    everyone = asyncio.Event()
    arrived: list[int] = []

    async def write_then_read(number: int) -> tuple[Any, ...]:
        g.number = number
        request.environ["number"] = number
        variable.set(str(number))
        arrived.append(number)
        if len(arrived) == 20:
            everyone.set()
        await asyncio.wait_for(everyone.wait(), TIMEOUT)
        return g.number, request.environ["number"], variable.get()

    with app.test_request_context():
        results = list(executor.map(write_then_read, range(20), timeout=TIMEOUT))
    assert results == [(number, number, str(number)) for number in range(20)]


class Resource:
    """Something that must be closed by its owner."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def fill_g() -> None:
    g.user, g.number, g.kind = "me", 7, Resource  # a class is no resource
    g.db, g.client = Resource(), AsyncResource()


@both_kinds
def test_what_must_be_closed_stays_with_the_submitter(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    with app.app_context():
        fill_g()
        assert run(executor, kind(names_in_g)) == {"user", "number", "kind"}
        assert set(names_in_g()) == {"user", "number", "kind", "db", "client"}


@pytest.mark.parametrize("names", [("user", "db"), ["user", "db"], {"user", "db", "other"}])
def test_carry_g_as_names(app: Flask, names: Any) -> None:
    with Executor(app, carry_g=names) as executor, app.app_context():
        fill_g()
        assert run(executor, names_in_g) == {"user", "db"}


def test_carry_g_of_no_names_carries_nothing(app: Flask) -> None:
    with Executor(app, carry_g=()) as executor, app.app_context():
        fill_g()
        assert run(executor, names_in_g) == set()


def test_carry_g_as_a_function_of_name_and_value(app: Flask) -> None:
    def carry(name: str, value: object) -> bool:
        return name == "db" or (without_resources(name, value) and isinstance(value, str))

    with Executor(app, carry_g=carry) as executor, app.app_context():
        fill_g()
        assert run(executor, names_in_g) == {"db", "user"}


def test_carry_g_as_a_string_is_refused_with_the_cure() -> None:
    with pytest.raises(TypeError) as raised:
        Executor(carry_g="user")
    assert str(raised.value) == "carry_g='user': expected names; for one, use ('user',)"


def test_what_carry_g_raises_reaches_the_submitter(app: Flask) -> None:
    def carry(name: str, value: object) -> bool:
        raise LookupError(name)

    with Executor(app, carry_g=carry) as executor:
        assert run(executor, names_in_g) == set()  # not asked without a g
        with app.app_context():
            g.user = "me"
            with pytest.raises(LookupError, match="user"):
                executor.submit(int)


class LazyG:
    """As Flask's documentation suggests: with a property."""

    @property
    def shout(self) -> str:
        return str(vars(self)["user"]).upper()


class ControlledG:
    """Takes what it knows and nothing else."""

    __slots__ = ("user",)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [(LazyG, "shout", "ME"), (ControlledG, "user", None)],  # slots do not travel
)
def test_g_of_a_class_of_the_apps_own(
    app: Flask, executor: Executor, kind: Any, name: str, expected: object
) -> None:
    def job() -> tuple[bool, object]:
        return isinstance(itself(g), kind), getattr(g, name, None)

    app.app_ctx_globals_class = kind
    with app.app_context():
        g.user = "me"
        assert run(executor, job) == (True, expected)
