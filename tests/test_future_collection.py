"""Futures by key: what is kept and what goes, keys in use, unknown keys, and typed keys."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import pytest
from flask import Flask

from flask_executor_typed import (
    DuplicateKeyError,
    Executor,
    FutureCollection,
    FutureKey,
    FutureProxy,
)

from .conftest import TIMEOUT
from .helpers.held import HeldOnce
from .helpers.threads import at_once


def double(number: int) -> int:
    return number * 2


def pending() -> FutureProxy[int]:
    return FutureProxy()


def done(result: int = 42) -> FutureProxy[int]:
    future = pending()
    future.set_result(result)
    return future


def keys_of(futures: FutureCollection[Any], candidates: str) -> str:
    return "".join(key for key in candidates if futures.get(key) is not None)


def filled(max_length: int | None, keys: str) -> FutureCollection[int]:
    """A collection of futures that are done where the key is in capitals."""
    futures = FutureCollection[int](max_length)
    for key in keys:
        futures.add(key, future := pending())
        if key.isupper():
            future.set_result(42)
    return futures


# What is kept


def test_fifty_futures_are_kept_unless_told_otherwise(app: Flask) -> None:
    futures = FutureCollection[int]()
    for number in range(60):
        futures.add(number, pending())
    assert len(futures) == futures.max_length == 50
    assert Executor(app).futures.max_length == 50


def test_executor_keeps_as_many_futures_as_its_settings_say(app: Flask) -> None:
    app.config["EXECUTOR_FUTURES_MAX_LENGTH"] = 3
    with Executor(app) as executor:
        for key in "abcde":
            executor.submit_stored(key, double, 1).result(TIMEOUT)
        assert keys_of(executor.futures, "abcde") == "cde"


@pytest.mark.parametrize(
    ("max_length", "keys", "kept"),
    [
        (3, "abc", "abc"),
        (3, "abcd", "bcd"),
        (3, "aBcd", "acd"),
        (3, "abCDe", "abe"),
        (2, "ABCd", "Cd"),
        (2, "AbCdEf", "df"),
        (1, "abc", "c"),
        (1, "ABC", "C"),
        (None, "aBcDeFgH", "aBcDeFgH"),
    ],
)
def test_oldest_finished_future_goes_first_and_else_the_oldest(
    max_length: int | None, keys: str, kept: str
) -> None:
    # Each is settled after it was added, before the next is.
    assert keys_of(filled(max_length, keys), keys) == kept


@pytest.mark.parametrize("kind", ["failed", "cancelled"])
def test_failed_and_cancelled_futures_count_as_finished(kind: str) -> None:
    futures = filled(2, "ab")
    future = futures.get("b")
    assert future is not None
    if kind == "failed":
        future.set_exception(LookupError())
    else:
        future.cancel()
    futures.add("c", pending())
    assert keys_of(futures, "abc") == "ac"


def test_finished_future_is_kept_when_it_is_added_although_all_others_are_unfinished() -> None:
    futures = filled(2, "ab")
    futures.add("c", done())
    assert keys_of(futures, "abc") == "bc"


def test_future_that_goes_is_forgotten_and_its_call_runs_on(app: Flask) -> None:
    app.config["EXECUTOR_FUTURES_MAX_LENGTH"] = 1
    held = HeldOnce()
    with Executor(app) as executor:
        first = executor.submit_stored("first", held)
        executor.submit_stored("second", double, 1)
        assert executor.futures.get("first") is None
        assert not first.cancelled()
        held.release.set()
        assert first.result(TIMEOUT) == "held"


def test_smaller_bound_holds_from_the_next_future_on() -> None:
    futures = filled(5, "abcde")
    futures.max_length = 2
    assert len(futures) == 5
    futures.add("f", pending())
    assert keys_of(futures, "abcdef") == "ef"


def test_replaced_future_is_as_old_as_its_replacement(executor: Executor) -> None:
    executor.futures.max_length = 2
    held, replacing = HeldOnce(), executor.using(on_duplicate="replace")
    for key in ("a", "b", "a", "c"):
        replacing.submit_stored(key, held)
    assert keys_of(executor.futures, "abc") == "ac"
    held.release.set()


# Keys in use


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("report", "'report'"),
        (("report", 7), "('report', 7)"),
        (None, "None"),
        (FutureKey[int]("report"), "'report'"),
        (FutureKey[int]("report")[7], "('report', 7)"),
    ],
)
def test_key_in_use_is_an_error_that_names_it_and_the_kept_future_stays(
    key: Any, shown: str
) -> None:
    futures = FutureCollection[int]()
    futures.add(key, first := pending())
    with pytest.raises(DuplicateKeyError) as caught:
        futures.add(key, pending())
    assert str(caught.value) == (
        f"future_key {shown} already exists; pop it first, "
        "or submit with using(key=..., on_duplicate='join' or 'replace')"
    )
    assert isinstance(caught.value, ValueError)
    assert futures.get(key) is first
    assert len(futures) == 1


def test_key_is_in_use_until_it_is_popped_whether_its_future_is_done_or_not() -> None:
    futures = FutureCollection[int]()
    futures.add("report", first := done())
    with pytest.raises(DuplicateKeyError):
        futures.add("report", pending())
    assert futures.pop("report") is first
    futures.add("report", second := pending())
    assert futures.get("report") is second


def test_duplicate_that_is_an_error_runs_nothing(executor: Executor) -> None:
    ran: list[int] = []
    executor.submit_stored("report", double, 1)
    with pytest.raises(DuplicateKeyError):
        executor.submit_stored("report", ran.append, 1)
    executor.shutdown()
    assert ran == []


def test_joining_gives_the_kept_future_while_it_is_not_done_and_else_replaces_it(
    executor: Executor,
) -> None:
    held, ran = HeldOnce(), list[int]()
    joining = executor.using(on_duplicate="join")
    first: FutureProxy[Any] = joining.submit_stored("report", held)
    assert joining.submit_stored("report", ran.append, 1) is first
    assert held.begun.wait(TIMEOUT)
    assert joining.submit_stored("report", ran.append, 1) is first
    held.release.set()
    first.result(TIMEOUT)
    second: FutureProxy[Any] = joining.submit_stored("report", ran.append, 2)
    assert second is not first
    assert executor.futures.get("report") is second
    second.result(TIMEOUT)
    assert ran == [2]


def test_joining_a_future_of_another_executor_gives_one_that_is_settled_with_it(
    executor: Executor,
) -> None:
    theirs, ran = Future[Any](), list[int]()
    executor.futures.add("report", theirs)
    joined: FutureProxy[Any] = executor.using(on_duplicate="join").submit_stored(
        "report", ran.append, 1
    )
    theirs.set_result(42)
    assert joined.result(TIMEOUT) == 42
    assert ran == []


def test_replacing_forgets_the_old_future_and_leaves_its_call_alone(executor: Executor) -> None:
    held, replacing = HeldOnce(), executor.using(on_duplicate="replace")
    first = replacing.submit_stored("report", held)
    assert held.begun.wait(TIMEOUT)
    second = replacing.submit_stored("report", double, 21)
    assert executor.futures.get("report") is second
    assert (first in executor.futures, second in executor.futures) == (False, True)
    held.release.set()
    assert first.result(TIMEOUT) == "held"
    assert len(executor.futures) == 1


# Asking by key


def test_every_question_about_an_unknown_key_is_answered_with_none() -> None:
    futures = FutureCollection[int]()
    called: list[object] = []
    for key in ("unknown", ("unknown", 7), None, 0):
        answers: list[object] = [
            futures.get(key),
            futures.pop(key),
            futures.result(key),
            futures.result(key, 0),
            futures.exception(key),
            futures.done(key),
            futures.running(key),
            futures.cancelled(key),
            futures.cancel(key),
            futures.status(key),
            futures._state(key),
        ]
        assert answers == [None] * len(answers)
        futures.add_done_callback(key, called.append)
    typed = FutureKey[int]("unknown")[7]
    assert [futures.get(typed), futures.result(typed), futures.done(typed)] == [None] * 3
    assert called == []


def test_every_question_goes_to_the_future_of_the_key(executor: Executor) -> None:
    futures, held, called = executor.futures, HeldOnce(), list[object]()
    future = executor.submit_stored("report", held)
    assert held.begun.wait(TIMEOUT)
    assert futures.get("report") is future
    assert (futures.done("report"), futures.running("report")) == (False, True)
    assert (futures.cancelled("report"), futures.cancel("report")) == (False, False)
    assert (futures.status("report"), futures._state("report")) == ("running", "RUNNING")
    with pytest.raises(FutureTimeoutError):
        futures.result("report", 0)
    futures.add_done_callback("report", called.append)
    held.release.set()
    assert futures.result("report", TIMEOUT) == "held"
    assert futures.exception("report", TIMEOUT) is None
    assert (futures.status("report"), futures._state("report")) == ("succeeded", "FINISHED")
    executor.shutdown()
    assert called == [future]
    assert futures.pop("report") is future
    assert futures.get("report") is None


def test_future_that_is_cancelled_by_its_key_stays_there() -> None:
    futures = FutureCollection[int]()
    futures.add("report", future := pending())
    assert futures.cancel("report")
    assert futures.cancelled("report")
    assert futures.get("report") is future


def test_in_asks_for_a_future_or_for_a_key() -> None:
    futures = FutureCollection[int]()
    futures.add("report", future := pending())
    assert future in futures
    assert "report" in futures
    assert "other" not in futures
    assert pending() not in futures
    futures.pop("report")
    assert future not in futures


def test_key_that_cannot_be_hashed_is_refused_as_by_a_dict() -> None:
    key: Any = ["report"]
    futures = FutureCollection[int]()
    text = "['report']: expected a hashable value, such as text, a number or a tuple of them"
    with pytest.raises(TypeError, match=re.escape(text)):
        futures.add(key, pending())
    with pytest.raises(TypeError, match=re.escape(text)):
        futures.get(key)
    part: Any = ["pdf"]
    with pytest.raises(TypeError, match=re.escape("('report', ['pdf'])")):
        futures.get(FutureKey[int]("report")[part])
    assert len(futures) == 0


def test_index_is_refused_with_the_methods_to_use() -> None:
    futures: Any = FutureCollection[int]()
    futures.add("report", done())
    with pytest.raises(TypeError) as raised:
        futures["report"]
    assert str(raised.value) == (
        "a FutureCollection has no items; use get('report'), or result('report'), which is None "
        "for an unknown key"
    )
    with pytest.raises(TypeError, match="not iterable"):
        iter(futures)


def test_repr_says_how_many_futures_are_kept_and_run() -> None:
    futures = FutureCollection[int]()
    assert repr(futures) == "<FutureCollection of 0, 0 running>"
    for key, future in [("a", done()), ("b", pending()), ("c", pending())]:
        futures.add(key, future)
    future.set_running_or_notify_cancel()
    assert repr(futures) == "<FutureCollection of 3, 1 running>"


def test_key_whose_comparison_uses_the_collection_does_not_hang() -> None:
    futures = FutureCollection[int]()

    class Key:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            return futures.get("other") is None

    futures.add(Key(), future := pending())
    assert futures.get(Key()) is future


# Typed keys


def test_typed_key_has_the_parts_that_it_was_made_of() -> None:
    report = FutureKey[int]("report")
    assert report.parts == ("report",)
    assert report[7].parts == ("report", 7)
    assert report[7]["pdf"].parts == ("report", 7, "pdf")
    assert report[7, "pdf"].parts == ("report", (7, "pdf"))
    assert report.parts == ("report",), "a key of its own"
    assert repr(report[7]["pdf"]) == "FutureKey('report')[7]['pdf']"


def test_typed_keys_are_equal_if_their_parts_are_and_never_to_bare_ones() -> None:
    report = FutureKey[int]("report")
    same: FutureKey[int] = FutureKey("report")
    bare: Any = "report"
    parts: Any = ("report", 7)
    assert report == same
    assert report[7] == same[7]
    assert report != report[7]
    assert report[7] != same[8]
    assert report != bare
    assert report[7] != parts


def test_typed_key_cannot_be_hashed_and_so_is_no_bare_key_by_mistake() -> None:
    key: Any = FutureKey[int]("report")
    with pytest.raises(TypeError, match="unhashable"):
        hash(key)
    with pytest.raises(TypeError, match="unhashable"):
        assert not {key: 1}


def test_typed_key_names_the_same_future_as_its_parts_do() -> None:
    report, futures = FutureKey[int]("report"), FutureCollection[int]()
    futures.add(report, one := pending())
    futures.add(report[7], two := pending())
    assert futures.get("report") is one
    assert futures.get(("report", 7)) is two
    assert futures.get(report[8]) is None
    assert (one.key, two.key) == ("report", ("report", 7))
    assert futures.pop(report) is one
    assert futures.get(report[7]) is two


def test_every_method_takes_a_typed_key() -> None:
    report, futures = FutureKey[int]("report")[7], FutureCollection[str]()
    called: list[object] = []
    futures.add(report, future := done(42))
    assert futures.get(report) is future
    assert futures.result(report) == 42
    assert futures.exception(report) is None
    assert (futures.done(report), futures.running(report)) == (True, False)
    assert (futures.cancelled(report), futures.cancel(report)) == (False, False)
    assert (futures.status(report), futures._state(report)) == ("succeeded", "FINISHED")
    futures.add_done_callback(report, called.append)
    assert called == [future]
    assert futures.pop(report) is future


# Futures of the standard library


def test_future_of_another_pool_is_given_back_awaitable() -> None:
    futures, held = FutureCollection[str](), HeldOnce()
    with ThreadPoolExecutor(1) as pool:
        futures.add("report", theirs := pool.submit(held))
        assert theirs in futures
        ours = futures.get("report")
        assert isinstance(ours, FutureProxy)
        assert held.begun.wait(TIMEOUT)
        assert (ours.status, futures.status("report")) == ("running", "running")
        assert not ours.cancel()

        async def awaited() -> str:
            asyncio.get_running_loop().call_soon(held.release.set)
            return await ours

        assert asyncio.run(awaited()) == "held"
        assert futures.result("report") == "held"
        popped = futures.pop("report")
    assert popped is not None
    assert popped.result(0) == "held"


def test_cancelling_what_is_given_back_cancels_the_future_of_the_other_pool() -> None:
    futures, theirs = FutureCollection[int](), Future[int]()
    futures.add("report", theirs)
    ours = futures.get("report")
    assert ours is not None
    assert ours.status == "pending"
    assert ours.cancel()
    assert theirs.cancelled()
    assert ours.cancelled()
    assert futures.cancelled("report")


def test_failure_in_another_pool_is_given_back() -> None:
    futures, theirs, error = FutureCollection[int](), Future[int](), LookupError("no such row")
    futures.add("report", theirs)
    theirs.set_exception(error)
    ours = futures.get("report")
    assert ours is not None
    assert ours.exception(0) is error
    assert futures.exception("report") is error


def test_callback_by_key_gets_an_awaitable_future_for_one_of_another_pool_too() -> None:
    futures, theirs, called = FutureCollection[int](), Future[int](), list[FutureProxy[int]]()
    futures.add("report", theirs)
    futures.add_done_callback("report", called.append)
    theirs.set_result(42)
    (future,) = called
    assert isinstance(future, FutureProxy)
    assert future.result(0) == 42


# Threads


def hammer(times: int, fns: list[Callable[[int], object]]) -> None:
    """Call each function in a thread of its own, many times, all at once."""

    def repeat(fn: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [fn(number) for number in range(times)]

    at_once(*map(repeat, fns))


def test_many_threads_may_use_one_collection() -> None:
    futures = FutureCollection[int](20)
    numbers, longest = itertools.count(), 0

    def add(_: int) -> None:
        futures.add(next(numbers), done())

    def add_unfinished(_: int) -> None:
        futures.add(next(numbers), pending())

    def look(number: int) -> None:
        nonlocal longest
        longest = max(longest, len(futures))
        assert pending() not in futures
        future = futures.get(number)
        assert future is None or future.key == number

    def pop(number: int) -> None:
        futures.pop(number)

    hammer(500, [add, add, add_unfinished, look, look, pop])
    assert longest <= 21  # one too many while room is made
    assert len(futures) <= 20


def test_of_many_threads_that_add_one_key_one_wins_and_of_many_that_pop_it_one_gets_it() -> None:
    futures, won, got = FutureCollection[int](None), list[int](), list[int]()

    def add(number: int) -> None:
        try:
            futures.add(number, pending())
        except DuplicateKeyError:
            return
        won.append(number)

    def pop(number: int) -> None:
        if futures.pop(number) is not None:
            got.append(number)

    hammer(500, [add] * 4)
    assert sorted(won) == list(range(500))
    hammer(500, [pop] * 4)
    assert sorted(got) == list(range(500))
