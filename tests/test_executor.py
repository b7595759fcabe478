"""The extension: its apps, the options of a submission, map, and the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import inspect
import itertools
import logging
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, cast

import pytest
from flask import Flask, current_app, g, request

from flask_executor_typed import (
    DuplicateKeyError,
    Executor,
    ExecutorClosedError,
    ExecutorError,
    FutureKey,
    FutureProxy,
    NoAppError,
    Results,
)

from .conftest import TIMEOUT
from .helpers.held import HeldOnce

CLOSED = (
    "cannot submit to executor after shutdown; init_app() makes the executor accept calls again"
)


class HeldAsync:
    """The same for a coroutine, which leaves its loop free."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._released: asyncio.Event | None = None

    async def __call__(self) -> str:
        self._loop = asyncio.get_running_loop()
        self._released = asyncio.Event()
        self.begun.set()
        await asyncio.wait_for(self._released.wait(), TIMEOUT)
        return "held"

    def let_go(self) -> None:
        assert self._loop is not None
        assert self._released is not None
        self._loop.call_soon_threadsafe(self._released.set)


def double(number: int) -> int:
    return number * 2


async def double_async(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def add(a: int, b: int) -> int:
    return a + b


async def add_async(a: int, b: int) -> int:
    return a + b


def name_of_current_app() -> str:
    return current_app.name


async def name_of_current_app_async() -> str:
    return current_app.name


def this_thread() -> threading.Thread:
    return threading.current_thread()


async def this_loop_thread() -> threading.Thread:
    return threading.current_thread()


def join_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), f"{thread.name} did not end"


both_kinds = pytest.mark.parametrize(
    "fn", [name_of_current_app, name_of_current_app_async], ids=["sync", "async"]
)
doubles = pytest.mark.parametrize("fn", [double, double_async], ids=["sync", "async"])


# Apps


@both_kinds
def test_executor_given_an_app_serves_it_with_and_without_a_context(
    app: Flask, fn: Callable[[], Any]
) -> None:
    with Executor(app) as executor:
        assert executor.submit(fn).result(TIMEOUT) == "tests"
        with app.app_context():
            assert executor.submit(fn).result(TIMEOUT) == "tests"
        with app.test_request_context():
            assert executor.submit(fn).result(TIMEOUT) == "tests"


def test_executor_made_without_an_app_serves_the_one_that_a_factory_makes() -> None:
    executor = Executor()

    def create_app() -> Flask:
        app = Flask("factory_made")
        app.config["EXECUTOR_MAX_WORKERS"] = 1
        executor.init_app(app)
        return app

    app = create_app()
    with executor, app.app_context():
        assert executor.submit(name_of_current_app).result(TIMEOUT) == "factory_made"


def test_job_sees_the_app_itself_and_no_proxy_of_it(app: Flask, executor: Executor) -> None:
    def get_app() -> Any:
        proxy: Any = current_app
        return proxy._get_current_object()

    with app.app_context():
        assert executor.submit(get_app).result(TIMEOUT) is app


def test_app_lists_its_executors_under_their_names(app: Flask) -> None:
    plain, mail = Executor(app), Executor(app, name="mail")
    assert app.extensions["executor"] is plain
    assert app.extensions["mailexecutor"] is mail
    assert (plain.name, mail.name) == ("", "mail")


def test_named_executor_reads_settings_and_names_threads_after_itself(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    app.config["MAIL_EXECUTOR_MAX_WORKERS"] = 3
    with Executor(app) as plain, Executor(app, name="mail") as mail:
        everybody = threading.Barrier(3)

        def meet() -> str:
            everybody.wait(TIMEOUT)
            return threading.current_thread().name

        names = {future.result(TIMEOUT) for future in [mail.submit(meet) for _ in range(3)]}
        assert names == {f"mail_executor-worker-{i}" for i in range(3)}
        assert mail.submit(this_loop_thread).result(TIMEOUT).name == "mail_executor-loop-0"
        assert plain.submit(this_thread).result(TIMEOUT).name == "executor-worker-0"
        assert plain.submit(this_loop_thread).result(TIMEOUT).name == "executor-loop-0"


def test_name_that_cannot_be_part_of_a_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="name='e-mail'") as caught:
        Executor(name="e-mail")
    assert str(caught.value) == (
        "name='e-mail': expected letters, digits and underscores only; "
        "the name becomes part of configuration keys"
    )


def test_executor_can_be_shown_and_tested_before_it_has_an_app() -> None:
    executor = Executor()
    assert repr(executor) == "<Executor 'executor' of no app yet>"
    assert bool(executor)
    assert repr(Executor(name="mail")) == "<Executor 'mail_executor' of no app yet>"


def test_executor_shows_the_apps_that_it_serves() -> None:
    one, two = Flask("one"), Flask("two")
    executor = Executor(one)
    assert repr(executor) == "<Executor 'executor' of one>"
    executor.init_app(two)
    assert repr(executor) == "<Executor 'executor' of one, two>"


def submit_one(executor: Executor) -> object:
    return executor.submit(double, 1)


def submit_one_async(executor: Executor) -> object:
    return executor.submit(double_async, 1)


def submit_one_stored(executor: Executor) -> object:
    return executor.submit_stored("key", double, 1)


def submit_one_job(executor: Executor) -> object:
    return executor.job(double).submit(1)


def map_one(executor: Executor) -> object:
    return executor.map(double, [1])


every_way_to_submit = pytest.mark.parametrize(
    "submit",
    [submit_one, submit_one_async, submit_one_stored, submit_one_job, map_one],
)


@every_way_to_submit
def test_submitting_before_init_app_says_what_to_call(submit: Callable[[Executor], object]) -> None:
    executor = Executor()
    with pytest.raises(NoAppError) as caught:
        submit(executor)
    assert str(caught.value) == (
        "this executor has no app, or its app is gone; "
        "call executor.init_app(app) first, and keep a reference to the app"
    )
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value, ExecutorError)
    assert len(executor.futures) == 0


@every_way_to_submit
def test_submitting_under_an_app_that_has_no_executor_names_the_app(
    executor: Executor, submit: Callable[[Executor], object]
) -> None:
    with Flask("other").app_context(), pytest.raises(NoAppError) as caught:
        submit(executor)
    assert str(caught.value) == (
        "the active app 'other' does not use this executor; "
        "call executor.init_app(app) for it first"
    )
    assert len(executor.futures) == 0


@every_way_to_submit
def test_submitting_with_two_apps_and_no_context_says_that_it_is_not_clear_which(
    executor: Executor, submit: Callable[[Executor], object]
) -> None:
    other = Flask("other")
    executor.init_app(other)
    with pytest.raises(NoAppError) as caught:
        submit(executor)
    assert str(caught.value) == (
        "this executor serves 2 apps and no app context tells which is meant; "
        "submit inside 'with app.app_context():', or let go of apps that are over, such as those "
        "of earlier tests, with executor.shutdown(app=app)"
    )
    assert len(executor.futures) == 0


@every_way_to_submit
def test_after_the_shutdown_of_all_apps_but_one_no_context_is_needed(
    executor: Executor, app: Flask, submit: Callable[[Executor], object]
) -> None:
    # Earlier tests' apps live on in the traceback of one that failed, say.
    others = [Flask(f"other {number}") for number in range(3)]
    for other in others:
        executor.init_app(other)
        executor.shutdown(app=other)
    submit(executor)
    assert executor._current()[0] is app


def test_shutdown_of_one_app_waits_for_its_jobs_and_leaves_the_others(
    executor: Executor, app: Flask
) -> None:
    other = Flask("other")
    executor.init_app(other)
    with other.app_context():
        future = executor.submit(double, 2)
        executor.shutdown(app=current_app)
        assert future.done()
        with pytest.raises(ExecutorClosedError):
            executor.submit(double, 2)
    with app.app_context():
        assert executor.submit(double, 2).result(TIMEOUT) == 4
    executor.init_app(other)
    with other.app_context():
        assert executor.submit(double, 2).result(TIMEOUT) == 4


def test_ashutdown_of_one_app_leaves_the_others(executor: Executor, app: Flask) -> None:
    other = Flask("other")
    executor.init_app(other)
    with other.app_context():
        executor.submit(double, 2)
    asyncio.run(executor.ashutdown(app=other))
    assert executor.submit(double, 2).result(TIMEOUT) == 4


def test_shutdown_of_an_app_that_has_no_executor_names_the_app(executor: Executor) -> None:
    with pytest.raises(NoAppError) as caught:
        executor.shutdown(app=Flask("other"))
    assert str(caught.value) == (
        "the app 'other' does not use this executor, so it cannot be let go of; "
        "give one that executor.init_app(app) was called with"
    )
    assert executor.submit(double, 2).result(TIMEOUT) == 4


@both_kinds
def test_each_call_belongs_to_the_app_that_is_active(fn: Callable[[], Any]) -> None:
    apps = [Flask(name) for name in ("one", "two", "three")]
    with Executor() as executor:
        for app in apps:
            executor.init_app(app)
        for app in apps:
            with app.app_context():
                assert executor.submit(fn).result(TIMEOUT) == app.name
            with app.test_request_context():
                assert executor.submit(fn).result(TIMEOUT) == app.name


def test_apps_share_an_executor_and_neither_settings_nor_workers() -> None:
    one, two = Flask("one"), Flask("two")
    one.config["EXECUTOR_MAX_WORKERS"] = 1
    two.config["EXECUTOR_MAX_WORKERS"] = 2
    held, meeting = HeldOnce(), threading.Barrier(2)
    with Executor(one) as executor:
        executor.init_app(two)
        with one.app_context():
            executor.submit(held)
            waiting = executor.submit(this_thread)
        with two.app_context():
            pair = [executor.submit(meeting.wait, TIMEOUT) for _ in range(2)]
        assert sorted(future.result(TIMEOUT) for future in pair) == [0, 1]
        assert waiting.status == "pending"
        held.release.set()


def test_nested_call_belongs_to_the_app_of_the_job_that_makes_it() -> None:
    one, two = Flask("one"), Flask("two")
    with Executor(one) as executor:
        executor.init_app(two)

        def outer() -> str:
            return executor.submit(name_of_current_app).result(TIMEOUT)

        for app in (one, two):
            with app.app_context():
                assert executor.submit(outer).result(TIMEOUT) == app.name


def test_executor_that_lives_on_lets_an_app_go_and_ends_its_threads() -> None:
    executor = Executor()
    app = Flask("short_lived")
    executor.init_app(app)
    threads = [
        executor.submit(this_thread).result(TIMEOUT),
        executor.submit(this_loop_thread).result(TIMEOUT),
    ]
    gone = threading.Event()
    weakref.finalize(app, gone.set)
    del app
    gc.collect()
    assert gone.wait(TIMEOUT)
    join_all(threads)
    assert repr(executor) == "<Executor 'executor' of no app yet>"


def test_app_and_executor_dropped_without_shutdown_leave_no_thread() -> None:
    app = Flask("short_lived")
    executor = Executor(app)
    threads = [
        executor.submit(this_thread).result(TIMEOUT),
        executor.submit(this_loop_thread).result(TIMEOUT),
    ]
    gone = [threading.Event(), threading.Event()]
    weakref.finalize(app, gone[0].set)
    weakref.finalize(executor, gone[1].set)
    del app, executor
    gc.collect()
    assert all(event.wait(TIMEOUT) for event in gone)
    join_all(threads)


def test_executor_that_is_dropped_is_freed_without_the_collector() -> None:
    app = Flask("tests")
    executor = Executor(app)
    del app.extensions["executor"]
    thread = executor.submit(this_thread).result(TIMEOUT)
    gone = weakref.ref(executor)
    gc.disable()
    try:
        del executor
        assert gone() is None
        join_all([thread])
    finally:
        gc.enable()


def test_calls_of_a_dropped_app_are_done_all_the_same() -> None:
    executor = Executor()
    app = Flask("short_lived")
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executor.init_app(app)
    held = HeldOnce()
    futures = [executor.submit(held), *(executor.submit(name_of_current_app) for _ in range(20))]
    del app
    gc.collect()
    held.release.set()
    assert [future.result(TIMEOUT) for future in futures] == ["held"] + ["short_lived"] * 20


# Settings that change


def test_init_app_again_with_the_same_settings_changes_nothing(
    app: Flask, executor: Executor
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executor.init_app(app)
    before = executor.submit(this_thread).result(TIMEOUT)
    executor.init_app(app)
    assert executor.submit(this_thread).result(TIMEOUT) is before


def test_init_app_with_changed_settings_uses_them_and_drops_no_call(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    held, held_async, meeting = HeldOnce(), HeldAsync(), threading.Barrier(3)
    with Executor(app) as executor:
        before = [executor.submit(held), executor.submit(held_async)]
        before += [executor.submit(name_of_current_app) for _ in range(50)]
        assert held.begun.wait(TIMEOUT)
        assert held_async.begun.wait(TIMEOUT)
        app.config["EXECUTOR_MAX_WORKERS"] = 3
        executor.init_app(app)
        # Three at once, while the only old worker is busy: these are new ones.
        after = [executor.submit(meeting.wait, TIMEOUT) for _ in range(3)]
        assert sorted(future.result(TIMEOUT) for future in after) == [0, 1, 2]
        held.release.set()
        held_async.let_go()
        results = [future.result(TIMEOUT) for future in before]
    assert results == ["held", "held"] + ["tests"] * 50


def test_call_submitted_while_init_app_changes_the_settings_is_not_refused(app: Flask) -> None:
    refused: list[Exception] = []

    def flood(fn: Callable[[int], Any], futures: list[FutureProxy[int]]) -> None:
        try:
            futures.extend(executor.submit(fn, number) for number in range(300))
        except Exception as error:
            refused.append(error)

    with Executor(app) as executor:
        batches: list[list[FutureProxy[int]]] = [[], [], [], []]
        submitters = [
            threading.Thread(target=flood, args=(fn, batch))
            for fn, batch in zip([double, double_async] * 2, batches, strict=True)
        ]
        for thread in submitters:
            thread.start()
        for workers in itertools.count(1):
            if not any(thread.is_alive() for thread in submitters):
                break
            app.config["EXECUTOR_MAX_WORKERS"] = 1 + workers % 8
            executor.init_app(app)
        assert refused == []
        expected = [double(number) for number in range(300)]
        for batch in batches:
            assert [future.result(TIMEOUT) for future in batch] == expected


def test_map_in_chunks_gives_results_of_types_that_have_no_hash(executor: Executor) -> None:
    class Meta(type):
        __hash__ = None  # type: ignore[assignment]

    class Result(metaclass=Meta):
        pass

    assert len(list(executor.map(lambda _: Result(), range(4), chunksize=2))) == 4


def test_map_that_submits_as_it_goes_survives_a_change_of_settings(
    app: Flask, executor: Executor
) -> None:
    results = executor.map(double, range(20), buffersize=2)
    assert next(results) == 0
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    executor.init_app(app)
    assert list(results) == [double(number) for number in range(1, 20)]


# Options


def describe(
    key: str, name: str, timeout: float, fn: str, self: str, future_key: str, on_duplicate: str
) -> list[object]:
    return [key, name, timeout, fn, self, future_key, on_duplicate]


async def describe_async(
    key: str, name: str, timeout: float, fn: str, self: str, future_key: str, on_duplicate: str
) -> list[object]:
    return [key, name, timeout, fn, self, future_key, on_duplicate]


FOR_DESCRIBE: dict[str, Any] = {
    "key": "k",
    "name": "n",
    "timeout": 3.0,
    "fn": "f",
    "self": "s",
    "future_key": "fk",
    "on_duplicate": "od",
}


@pytest.mark.parametrize("fn", [describe, describe_async], ids=["sync", "async"])
def test_no_option_takes_a_name_from_the_arguments_of_the_function(
    executor: Executor, fn: Callable[..., Any]
) -> None:
    everything = ["k", "n", 3.0, "f", "s", "fk", "od"]
    assert executor.submit(fn, **FOR_DESCRIBE).result(TIMEOUT) == everything
    with_options = executor.using(key="report", name="an option")
    future: FutureProxy[Any] = with_options.submit(fn, **FOR_DESCRIBE)
    assert future.result(TIMEOUT) == everything
    assert (future.key, future.name) == ("report", "an option")


def test_using_a_key_keeps_the_future_under_it(executor: Executor) -> None:
    future = executor.using(key="answer").submit(double, 21)
    assert future.key == "answer"
    assert executor.futures.get("answer") is future
    assert executor.futures.result("answer", TIMEOUT) == 42


def test_using_a_typed_key_keeps_the_future_under_it(executor: Executor) -> None:
    answer = FutureKey[int]("answer")
    future = executor.using(key=answer[7]).submit(double, 21)
    assert executor.futures.get(answer[7]) is future


def test_using_on_duplicate_says_what_happens_to_a_key_in_use(
    app: Flask, executor: Executor
) -> None:
    held = HeldOnce()
    first: FutureProxy[Any] = executor.using(key="report").submit(held)
    with pytest.raises(DuplicateKeyError):
        executor.using(key="report").submit(double, 1)
    assert executor.using(key="report", on_duplicate="join").submit(held) is first
    second = executor.using(key="report", on_duplicate="replace").submit(double, 1)
    assert second is not first
    assert executor.futures.get("report") is second
    held.release.set()


def test_using_an_unknown_way_to_treat_duplicates_is_refused(executor: Executor) -> None:
    unknown: Any = "ignore"
    with pytest.raises(ValueError, match="on_duplicate='ignore'") as caught:
        executor.using(on_duplicate=unknown)
    assert str(caught.value) == "on_duplicate='ignore': expected 'error', 'join' or 'replace'"


def test_using_a_name_calls_the_future_by_it(executor: Executor) -> None:
    assert executor.using(name="nightly").submit(double, 1).name == "nightly"
    assert executor.submit(double, 1).name == "double"


def test_using_leaves_the_executor_itself_as_it_was(executor: Executor) -> None:
    clone = executor.using(key="report", name="nightly")
    assert type(clone) is Executor
    assert clone.futures is executor.futures
    future = executor.submit(double, 1)
    assert (future.key, future.name) == (None, "double")
    assert clone.submit(this_thread).result(TIMEOUT) is not None


def test_submit_stored_takes_its_own_arguments_by_name(executor: Executor) -> None:
    future = executor.submit_stored(future_key="report", fn=add, a=1, b=2)
    assert future.result(TIMEOUT) == 3
    assert executor.futures.get("report") is future


def test_refused_submission_leaves_no_key_behind(executor: Executor) -> None:
    executor.shutdown()
    with pytest.raises(ExecutorClosedError):
        executor.submit_stored("report", double, 1)
    assert executor.futures.get("report") is None


# Default callbacks


@doubles
def test_default_callbacks_run_in_order_for_every_later_call(
    executor: Executor, fn: Callable[[int], Any]
) -> None:
    seen: list[tuple[str, FutureProxy[Any], str]] = []

    def note(name: str) -> Callable[[FutureProxy[Any]], None]:
        return lambda future: seen.append((name, future, current_app.name))

    earlier = executor.submit(fn, 0)
    earlier.result(TIMEOUT)
    executor.add_default_done_callback(note("first"))
    executor.add_default_done_callback(note("second"))
    future = executor.using(key="k").submit(fn, 1)
    list(executor.map(fn, [2]))
    executor.shutdown()
    # One after the other for each future; two futures may call theirs in two threads.
    of_future = [(name, app) for name, which, app in seen if which is future]
    of_map = [(name, app) for name, which, app in seen if which is not future]
    assert of_future == of_map == [("first", "tests"), ("second", "tests")]
    assert all(which is not earlier for _, which, _ in seen)


def test_default_callback_that_raises_is_logged_and_stops_nothing(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[FutureProxy[Any]] = []

    def broken(future: FutureProxy[Any]) -> None:
        raise SystemExit("a broken callback")

    executor.add_default_done_callback(broken)
    executor.add_default_done_callback(seen.append)
    futures = [executor.submit(double, 1), executor.submit(double_async, 1)]
    executor.shutdown()
    assert {future.status for future in futures} == {"succeeded"}
    assert sorted(map(id, seen)) == sorted(map(id, futures))
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


# map


@doubles
def test_map_gives_results_in_the_order_of_the_items(
    executor: Executor, fn: Callable[[int], Any]
) -> None:
    assert list(executor.map(fn, range(100))) == [double(number) for number in range(100)]


def test_map_gives_results_in_order_when_later_calls_are_done_first(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    done = [threading.Event() for _ in range(4)]
    done[3].set()

    def after_the_next(index: int) -> int:
        assert done[index + 1].wait(TIMEOUT)
        done[index].set()
        return index

    with Executor(app) as executor:
        assert list(executor.map(after_the_next, range(3))) == [0, 1, 2]


def test_map_begins_at_once_and_not_when_the_results_are_asked_for(executor: Executor) -> None:
    begun = threading.Barrier(3)
    results = executor.map(begun.wait, [TIMEOUT, TIMEOUT])
    begun.wait(TIMEOUT)
    assert sorted(results) in ([0, 1], [0, 2], [1, 2])


@pytest.mark.parametrize("buffersize", [None, 1], ids=["eager", "lazy"])
def test_map_can_be_read_after_the_view_has_returned(
    app: Flask, executor: Executor, buffersize: int | None
) -> None:
    kept: list[Iterator[str]] = []

    def who(greeting: str) -> str:
        return f"{greeting}, {request.args['name']} and {g.user}"

    async def who_async(greeting: str) -> str:
        return who(greeting)

    @app.route("/")
    def view() -> str:
        g.user = "Bob"
        kept.append(executor.map(who, ["Hello", "Bye"], buffersize=buffersize))
        kept.append(executor.map(who_async, ["Hello", "Bye"], buffersize=buffersize))
        g.user = "Eve"
        return ""

    assert app.test_client().get("/?name=Ann").status_code == 200
    for results in kept:
        assert list(results) == ["Hello, Ann and Bob", "Bye, Ann and Bob"]


def test_map_takes_several_iterables_and_ends_with_the_shortest(executor: Executor) -> None:
    assert list(executor.map(add, [1, 2, 3], itertools.count(10))) == [11, 13, 15]
    assert list(executor.map(add_async, itertools.count(10), [1, 2])) == [11, 13]
    assert list(executor.map(add, [1, 2, 3], [10, 20], chunksize=2)) == [11, 22]


@pytest.mark.parametrize("chunksize", [1, 5])
@doubles
def test_map_over_nothing_gives_nothing(
    executor: Executor, fn: Callable[[int], Any], chunksize: int
) -> None:
    nothing: list[int] = []
    assert list(executor.map(fn, nothing, chunksize=chunksize)) == []


@pytest.mark.parametrize("chunksize", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("buffersize", [None, 1, 3, 50])
@doubles
def test_map_gives_the_same_for_every_chunksize_and_buffersize(
    executor: Executor, fn: Callable[[int], Any], chunksize: int, buffersize: int | None
) -> None:
    results = executor.map(fn, range(10), chunksize=chunksize, buffersize=buffersize)
    assert list(results) == [double(number) for number in range(10)]


def test_chunk_is_one_call_with_one_set_of_contexts(app: Flask) -> None:
    contexts: list[object] = []

    @app.teardown_appcontext
    def count(error: BaseException | None) -> None:
        contexts.append(error)

    with Executor(app) as executor:
        assert list(executor.map(double, range(10), chunksize=4)) == [2 * i for i in range(10)]
    assert len(contexts) == 3


def test_map_awaits_what_a_plain_function_returns_in_chunks_too(executor: Executor) -> None:
    def later(number: int) -> Any:
        return double_async(number)

    assert list(executor.map(later, range(5))) == [0, 2, 4, 6, 8]
    assert list(executor.map(later, range(5), chunksize=2)) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_raises_what_a_call_raised_in_place_of_its_result(
    executor: Executor, chunksize: int
) -> None:
    def refuse_three(number: int) -> int:
        if number == 3:
            raise LookupError(number)
        return number

    async def refuse_three_async(number: int) -> int:
        return refuse_three(number)

    results = executor.map(refuse_three_async, range(5), chunksize=chunksize)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError, match="3"):
        next(results)
    assert list(results) == []
    results = executor.map(refuse_three, range(5), chunksize=chunksize)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(LookupError, match="3"):
        list(results)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_times_out_when_a_result_is_not_there_in_time(app: Flask, chunksize: int) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    release = threading.Event()
    with Executor(app) as executor:
        results = executor.map(release.wait, [TIMEOUT] * 4, timeout=0.05, chunksize=chunksize)
        with pytest.raises(concurrent.futures.TimeoutError):
            next(results)
        release.set()


def test_map_counts_its_timeout_from_the_call_and_gives_what_is_there_when_it_is_over(
    executor: Executor,
) -> None:
    results = executor.map(double, range(3), timeout=0)
    for _ in executor.map(double, range(10)):
        pass  # the first three are done, too, or will be in a moment
    executor.shutdown()
    assert list(results) == [0, 2, 4]


def test_map_with_a_buffersize_never_submits_further_ahead(executor: Executor) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = executor.map(double, endless(), buffersize=3)
    assert taken == [0, 1, 2]
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]
    assert next(results) == 2
    assert taken == [0, 1, 2, 3, 4]


def test_map_with_a_buffersize_counts_calls_and_not_chunks(executor: Executor) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    executor.map(double, endless(), buffersize=6, chunksize=3)
    assert len(taken) == 6


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"chunksize": 0}, ValueError, "chunksize=0: expected 1 or more"),
        ({"chunksize": 2.5}, TypeError, "chunksize=2.5: expected a whole number"),
        ({"buffersize": 0}, ValueError, "buffersize=0: expected 1 or more"),
        ({"buffersize": "3"}, TypeError, "buffersize='3': expected a whole number"),
    ],
)
@doubles
def test_map_refuses_counts_that_are_none(
    executor: Executor,
    fn: Callable[[int], Any],
    options: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error) as caught:
        executor.map(fn, [1], **options)
    assert str(caught.value) == text


def test_map_refuses_a_key(executor: Executor) -> None:
    with pytest.raises(TypeError) as caught:
        executor.using(key="k").map(double, [1])
    assert str(caught.value) == "a key names one call; map() makes many, so use it without a key"
    assert list(executor.using(name="n").map(double, [1])) == [2]


class Counted:
    """A function of one worker that notes its items, and that the second item occupies."""

    def __init__(self) -> None:
        self.held = HeldOnce()
        self.items: list[int] = []

    def __call__(self, item: int) -> int:
        self.items.append(item)
        if item == 1:
            self.held()
        return item


def test_closing_the_iterator_of_map_cancels_the_calls_that_have_not_started(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    work = Counted()
    with Executor(app) as executor:
        results = executor.map(work, range(20))
        assert next(results) == 0
        assert work.held.begun.wait(TIMEOUT)
        results.close()
        work.held.release.set()
    assert work.items == [0, 1]


def test_leaving_a_loop_over_map_cancels_the_calls_that_have_not_started(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    work = Counted()
    with Executor(app) as executor:
        for result in executor.map(work, range(20)):
            assert result == 0
            assert work.held.begun.wait(TIMEOUT)
            break
        work.held.release.set()
    assert work.items == [0, 1]


def test_leaving_an_async_loop_over_map_cancels_the_calls_that_have_not_started(
    app: Flask,
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    work = Counted()

    async def leave_early() -> None:
        async for result in executor.map(work, range(20)):
            assert result == 0
            assert await asyncio.to_thread(work.held.begun.wait, TIMEOUT)
            break
        work.held.release.set()

    with Executor(app) as executor:
        asyncio.run(leave_early())
    assert work.items == [0, 1]


def test_closing_the_results_of_map_before_they_are_asked_for_cancels_its_calls(
    app: Flask,
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    work = Counted()
    with Executor(app) as executor:
        results = executor.map(work, range(1, 20))
        assert work.held.begun.wait(TIMEOUT)
        results.close()
        results.close()
        work.held.release.set()
        assert list(results) == []
    assert work.items == [1]


def test_closed_results_of_map_submit_no_more_calls(executor: Executor) -> None:
    items = itertools.count()
    results = executor.map(double, items, buffersize=2)
    results.close()
    assert list(results) == []
    assert next(items) == 2


def test_map_whose_results_nobody_asks_for_is_done_all_the_same(executor: Executor) -> None:
    done: list[int] = []
    executor.map(done.append, range(10))
    gc.collect()
    executor.shutdown()
    assert sorted(done) == list(range(10))


@pytest.mark.parametrize("chunksize", [1, 10])
def test_map_of_a_thousand_items_with_eight_workers_in_a_request(
    app: Flask, chunksize: int
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 8

    def work(number: int) -> tuple[int, str, str, str]:
        return number * 2, request.args["id"], g.user, current_app.name

    with Executor(app) as executor:

        @app.route("/")
        def view() -> dict[str, Any]:
            g.user = "Ann"
            return {"results": list(executor.map(work, range(1000), chunksize=chunksize))}

        response: Any = app.test_client().get("/?id=7")
        assert response.get_json() == {
            "results": [[number * 2, "7", "Ann", "tests"] for number in range(1000)]
        }


def test_map_within_a_job_of_the_same_executor(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    with Executor(app) as executor:

        def total() -> int:
            return sum(executor.map(double, range(20)))

        assert executor.submit(total).result(TIMEOUT) == 380


# map, read by a coroutine


async def listed(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


@pytest.mark.parametrize("buffersize", [None, 1, 3])
@doubles
def test_async_for_gives_the_results_of_map_in_the_order_of_the_items(
    executor: Executor, fn: Callable[[int], Any], buffersize: int | None
) -> None:
    results = asyncio.run(listed(executor.map(fn, range(50), buffersize=buffersize)))
    assert results == [double(number) for number in range(50)]


@doubles
def test_async_for_over_map_never_submits_further_ahead_than_buffersize(
    executor: Executor, fn: Callable[[int], Any]
) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    async def main() -> None:
        results = executor.map(fn, endless(), buffersize=3)
        assert taken == [0, 1, 2]
        assert await anext(results) == 0
        assert taken == [0, 1, 2, 3]
        assert await anext(results) == 2
        assert taken == [0, 1, 2, 3, 4]
        await results.aclose()

    asyncio.run(main())


def test_async_for_over_map_waits_without_blocking_the_loop(
    executor: Executor,
) -> None:
    release = threading.Event()

    async def main() -> list[bool]:
        results = executor.map(release.wait, [TIMEOUT])
        waiting = asyncio.ensure_future(listed(results))
        for _ in range(10):
            await asyncio.sleep(0)  # the loop is free: otherwise nobody would ever set the event
        assert not waiting.done()
        release.set()
        return await asyncio.wait_for(waiting, TIMEOUT)

    assert asyncio.run(main()) == [True]


def test_async_for_over_map_raises_what_a_call_raised(
    executor: Executor,
) -> None:
    async def main() -> None:
        results = executor.map(divmod, [1, 2, 3], [1, 0, 3])
        assert await anext(results) == (1, 0)
        with pytest.raises(ZeroDivisionError):
            await anext(results)
        assert await listed(results) == []

    asyncio.run(main())


def test_async_for_over_map_times_out_when_a_result_is_not_there_in_time(
    executor: Executor,
) -> None:
    release = threading.Event()

    async def main() -> None:
        # The same exception as map() raises; on Python 3.10 asyncio has one of its own.
        with pytest.raises(concurrent.futures.TimeoutError):
            await listed(executor.map(release.wait, [TIMEOUT], timeout=0.05))

    asyncio.run(main())
    release.set()


def test_async_for_over_map_gives_what_is_there_when_its_time_is_over(
    executor: Executor,
) -> None:
    results = executor.map(double, range(3), timeout=0)
    executor.shutdown()
    assert asyncio.run(listed(results)) == [0, 2, 4]


@pytest.mark.parametrize("buffersize", [None, 1, 5])
@pytest.mark.parametrize("chunksize", [2, 3, 100])
@doubles
def test_async_for_gives_the_results_of_chunks(
    executor: Executor, fn: Callable[[int], Any], chunksize: int, buffersize: int | None
) -> None:
    results = executor.map(fn, range(10), chunksize=chunksize, buffersize=buffersize)
    assert asyncio.run(listed(results)) == [double(number) for number in range(10)]


def test_async_for_waits_for_a_chunk_without_blocking_the_loop(executor: Executor) -> None:
    release = threading.Event()
    of_other_calls: list[FutureProxy[bool]] = []

    def wait(_: int) -> FutureProxy[bool]:
        of_other_calls.append(executor.submit(release.wait, TIMEOUT))
        return of_other_calls[-1]

    async def main() -> list[Any]:
        waiting = asyncio.ensure_future(listed(executor.map(wait, range(2), chunksize=2)))
        while len(of_other_calls) < 2:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        release.set()
        return await asyncio.wait_for(waiting, TIMEOUT)

    assert asyncio.run(main()) == [True, True]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_async_for_over_map_raises_what_another_call_raised(
    executor: Executor, chunksize: int
) -> None:
    def divide(divisor: int) -> Any:
        return executor.submit(divmod, 1, divisor)

    async def main() -> None:
        results = executor.map(divide, [1, 1, 0, 1], chunksize=chunksize)
        assert [await anext(results), await anext(results)] == [(1, 0), (1, 0)]
        with pytest.raises(ZeroDivisionError):
            await anext(results)
        assert await listed(results) == []

    asyncio.run(main())


def test_results_of_map_can_be_read_by_for_and_then_by_async_for(executor: Executor) -> None:
    async def rest(results: Results[int]) -> list[int]:
        return [result async for result in results]

    results = executor.map(double, range(10), chunksize=3)
    assert [next(results) for _ in range(4)] == [0, 2, 4, 6]
    assert asyncio.run(rest(results)) == [8, 10, 12, 14, 16, 18]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_result_of_map_that_a_cancelled_task_waited_for_is_not_lost(
    executor: Executor, chunksize: int
) -> None:
    release = threading.Event()

    def wait(number: int) -> int:
        assert release.wait(TIMEOUT)
        return number

    async def main() -> list[int]:
        results = executor.map(wait, range(4), chunksize=chunksize)
        waiting = asyncio.ensure_future(anext(results))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        release.set()
        return await listed(results)

    assert asyncio.run(main()) == [0, 1, 2, 3]


def test_two_tasks_that_read_one_map_get_each_result_once(executor: Executor) -> None:
    async def main() -> list[int]:
        results = executor.map(double, range(50))
        first, second = await asyncio.gather(listed(results), listed(results))
        return sorted(first + second)

    assert asyncio.run(main()) == [2 * number for number in range(50)]


def test_aclose_of_a_map_cancels_the_calls_that_have_not_started(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    work = Counted()

    async def main(executor: Executor) -> None:
        results = executor.map(work, range(20))
        assert await anext(results) == 0
        assert await asyncio.to_thread(work.held.begun.wait, TIMEOUT)
        await results.aclose()

    with Executor(app) as executor:
        asyncio.run(main(executor))
        work.held.release.set()
    assert work.items == [0, 1]


def test_map_in_an_async_view(app: Flask, executor: Executor) -> None:
    def who(number: int) -> str:
        return f"{request.args['name']} {number}"

    @app.route("/")
    async def view() -> dict[str, Any]:
        return {"results": await listed(executor.map(who, range(5)))}

    response: Any = app.test_client().get("/?name=Ann")
    assert response.get_json() == {"results": [f"Ann {number}" for number in range(5)]}


# What is no function


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("submit", (5,)), ("submit_stored", ("key", 5)), ("map", (5, [1]))],
)
def test_what_cannot_be_called_is_refused_when_it_is_submitted(
    executor: Executor, method: str, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(TypeError) as caught:
        getattr(executor, method)(*arguments)
    assert str(caught.value) == (
        "expected a function to run, got 5 (int); "
        "pass the function and its arguments apart: submit(fn, 1, 2)"
    )
    assert len(executor.futures) == 0


def test_coroutine_in_place_of_its_function_is_refused_and_closed(executor: Executor) -> None:
    coroutine: Any = double_async(1)
    with pytest.raises(TypeError) as caught:
        executor.submit(coroutine)
    assert str(caught.value) == (
        "expected a function to run, got a coroutine, which is what calling double_async gives; "
        "pass the function and its arguments apart: submit(double_async, 1, 2)"
    )
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


class Rows:
    def listed(self, number: int = 0) -> Iterator[int]:
        yield number

    async def alisted(self, number: int = 0) -> AsyncIterator[int]:
        yield number

    def __call__(self, number: int = 0) -> Iterator[int]:
        yield number


def rows(number: int = 0) -> Iterator[int]:
    yield number


async def arows(number: int = 0) -> AsyncIterator[int]:
    yield number


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (rows, "rows"),
        (arows, "arows"),
        (partial(partial(rows, 1)), "rows"),
        (Rows().listed, "Rows.listed"),
        (partial(Rows().alisted), "Rows.alisted"),
        (Rows(), "Rows"),
    ],
)
def test_generator_function_is_refused_when_it_is_submitted(
    executor: Executor, fn: Any, name: str
) -> None:
    expected = (
        f"{name} is a generator function: none of its body would run in the background, only where "
        "the result is iterated; return a list, or yield nothing and report each step with track() "
        "or current_job.progress()"
    )
    for submit in (
        executor.submit,
        partial(executor.submit_stored, "key"),
        partial(executor.map, chunksize=2),
    ):
        with pytest.raises(TypeError) as caught:
            submit(fn, [])
        assert str(caught.value) == expected
    assert len(executor.futures) == 0


def test_function_that_returns_an_iterator_made_elsewhere_is_a_job(executor: Executor) -> None:
    assert list(executor.submit(iter, [1, 2]).result(TIMEOUT)) == [1, 2]


# As an executor of the standard library


def test_executor_is_one_of_the_standard_library(executor: Executor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    plain: concurrent.futures.Executor = executor
    assert plain.submit(double, 1).result(TIMEOUT) == 2
    assert list(plain.map(double, [1, 2])) == [2, 4]


def test_loop_runs_functions_in_the_executor(app: Flask, executor: Executor) -> None:
    async def main() -> tuple[str, threading.Thread]:
        loop = asyncio.get_running_loop()
        with app.app_context():
            name = await loop.run_in_executor(executor, name_of_current_app)
        return name, await loop.run_in_executor(executor, this_thread)

    name, thread = asyncio.run(main())
    assert name == "tests"
    assert thread.name.startswith("executor-worker-")


@doubles
def test_wait_and_as_completed_give_back_the_futures_that_were_submitted(
    executor: Executor, fn: Callable[[int], Any]
) -> None:
    futures = [executor.submit(fn, number) for number in range(100)]
    assert set(concurrent.futures.as_completed(futures, TIMEOUT)) == set(futures)
    done, not_done = concurrent.futures.wait(futures, TIMEOUT)
    assert (done, not_done) == (set(futures), set())


# The end


def test_shutdown_waits_for_every_accepted_call_and_for_the_threads(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    executor = Executor(app)
    held, held_async = HeldOnce(), HeldAsync()
    futures: list[FutureProxy[Any]] = [executor.submit(held), executor.submit(held_async)]
    threads = [
        executor.submit(this_thread).result(TIMEOUT),
        executor.submit(this_loop_thread).result(TIMEOUT),
    ]
    futures += [executor.submit(double, number) for number in range(100)]
    futures += [executor.submit(double_async, number) for number in range(100)]
    assert held.begun.wait(TIMEOUT)
    assert held_async.begun.wait(TIMEOUT)
    threading.Timer(0.05, held.release.set).start()
    threading.Timer(0.05, held_async.let_go).start()
    executor.shutdown()
    assert {future.status for future in futures} == {"succeeded"}
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("submit_job_on_loop", [False, True], ids=["sync", "async"])
def test_shutdown_without_waiting_returns_at_once_and_all_accepted_calls_are_done(
    app: Flask, submit_job_on_loop: bool
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executor = Executor(app)
    held = HeldOnce()
    future = executor.submit(held.on_the_loop if submit_job_on_loop else held)
    others = [executor.submit(double, 1) for _ in range(20)]
    others += [executor.submit(double_async, 1) for _ in range(20)]
    assert held.begun.wait(TIMEOUT)
    executor.shutdown(wait=False)
    assert future.running()
    held.release.set()
    assert future.result(TIMEOUT) == "held"
    assert {other.result(TIMEOUT) for other in others} == {2}
    executor.shutdown()


def test_leaving_the_with_block_waits_for_the_calls(app: Flask) -> None:
    with Executor(app) as executor:
        futures = [executor.submit(double, 1), executor.submit(double_async, 1)]
    assert [future.status for future in futures] == ["succeeded", "succeeded"]
    with pytest.raises(ExecutorClosedError):
        executor.submit(double, 1)


@pytest.mark.parametrize("on_the_loop", [False, True], ids=["sync", "async"])
def test_cancel_futures_cancels_what_has_not_started_and_nothing_else(
    app: Flask, on_the_loop: bool
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    executor = Executor(app)
    held = HeldOnce()
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    running = executor.submit(held.on_the_loop if on_the_loop else held)
    assert held.begun.wait(TIMEOUT)
    pending: list[FutureProxy[Any]] = [
        executor.submit(note if on_the_loop else ran.append, number) for number in range(20)
    ]
    executor.shutdown(wait=False, cancel_futures=True)
    held.release.set()
    executor.shutdown()
    assert running.result(TIMEOUT) == "held"
    assert all(future.cancelled() for future in pending)
    assert ran == []


def test_shutdown_before_the_first_call_refuses_calls(app: Flask) -> None:
    executor = Executor(app)
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(ExecutorClosedError):
        executor.submit(double, 1)


def test_shutdown_of_an_executor_without_an_app_does_nothing() -> None:
    executor = Executor()
    executor.shutdown()
    assert repr(executor) == "<Executor 'executor' of no app yet>"


@every_way_to_submit
def test_submitting_after_shutdown_says_what_makes_it_possible_again(
    executor: Executor, submit: Callable[[Executor], object]
) -> None:
    executor.submit(double, 1).result(TIMEOUT)
    executor.submit(double_async, 1).result(TIMEOUT)
    executor.shutdown()
    with pytest.raises(ExecutorClosedError) as caught:
        submit(executor)
    assert str(caught.value) == CLOSED
    assert isinstance(caught.value, RuntimeError)


def test_submitting_after_shutdown_names_the_executor(app: Flask) -> None:
    executor = Executor(app, name="mail")
    executor.shutdown()
    with pytest.raises(ExecutorClosedError) as caught:
        executor.submit(double, 1)
    assert str(caught.value) == CLOSED.replace("executor after", "mail_executor after")


def test_init_app_after_shutdown_makes_the_executor_accept_calls_again(
    app: Flask, executor: Executor
) -> None:
    for _ in range(3):
        before = executor.submit(this_thread).result(TIMEOUT)
        loop_before = executor.submit(this_loop_thread).result(TIMEOUT)
        executor.shutdown()
        executor.init_app(app)
        assert executor.submit(this_thread).result(TIMEOUT) is not before
        assert executor.submit(this_loop_thread).result(TIMEOUT) is not loop_before
        assert not before.is_alive()
        assert not loop_before.is_alive()


def test_shutdown_is_for_every_app() -> None:
    one, two = Flask("one"), Flask("two")
    executor = Executor(one)
    executor.init_app(two)
    futures: list[FutureProxy[str]] = []
    for app in (one, two):
        with app.app_context():
            futures.append(executor.submit(name_of_current_app))
    executor.shutdown()
    assert [future.result(0) for future in futures] == ["one", "two"]
    for app in (one, two):
        with app.app_context(), pytest.raises(ExecutorClosedError):
            executor.submit(double, 1)


@doubles
def test_call_submitted_during_shutdown_is_either_refused_or_done(
    app: Flask, fn: Callable[[int], Any]
) -> None:
    for _ in range(20):
        executor = Executor(app)
        start = threading.Barrier(5)
        accepted: list[FutureProxy[int]] = []

        def flood(
            executor: Executor = executor,
            start: threading.Barrier = start,
            accepted: list[FutureProxy[int]] = accepted,
        ) -> None:
            start.wait(TIMEOUT)
            with suppress(ExecutorClosedError):
                accepted.extend(executor.submit(fn, number) for number in itertools.count())

        threads = [threading.Thread(target=flood) for _ in range(4)]
        for thread in threads:
            thread.start()
        start.wait(TIMEOUT)
        executor.shutdown()
        join_all(threads)
        assert {future.exception(TIMEOUT) for future in accepted} <= {None}


def test_two_keys_for_one_call_are_refused(executor: Executor) -> None:
    with pytest.raises(TypeError, match=r"two keys for one call: using\(key='a'\) and 'b'"):
        executor.using(key="a").submit_stored("b", double, 1)
    assert executor.using(key="a").submit_stored("a", double, 1).key == "a"


def test_options_that_make_no_sense_are_refused(executor: Executor) -> None:
    with pytest.raises(TypeError, match=r"on_duplicate='join' needs a key: using\(key=\.\.\.\)"):
        executor.using(on_duplicate="join").submit(double, 1)
    with pytest.raises(TypeError, match="future_key=None: expected a hashable value"):
        executor.submit_stored(None, double, 1)
    wrong: Any = [1]
    with pytest.raises(TypeError, match=r"key=\[1\]: expected a hashable value, such as text"):
        executor.using(key=wrong)
    for wrong in (None, double_async):
        with pytest.raises(TypeError, match="expected a plain function of a future, got"):
            executor.add_default_done_callback(wrong)
    with pytest.raises(TypeError, match="chunksize=True: expected a whole number"):
        executor.map(double, [1], chunksize=True)


def test_current_app_is_as_good_as_the_app(app: Flask) -> None:
    with app.app_context():
        executor = Executor(current_app)
    assert executor.submit(double, 1).result(TIMEOUT) == 2
    executor.shutdown()


def test_what_is_not_an_app_is_refused() -> None:
    given: Any = "mail"
    with pytest.raises(TypeError, match=r"expected a Flask app, got 'mail' \(str\)"):
        Executor(given)
    with pytest.raises(ValueError, match="name=None"):
        Executor(name=cast("str", None))


def test_app_that_was_shut_down_does_not_count_beside_another(app: Flask) -> None:
    other = Flask("other")
    executor = Executor(other)
    executor.shutdown()
    executor.init_app(app)
    assert executor.submit(lambda: current_app.name).result(TIMEOUT) == app.name
    executor.shutdown()


def test_bound_of_the_futures_stays_what_it_was_made(app: Flask) -> None:
    executor = Executor()
    executor.futures.max_length = None
    executor.init_app(app)
    assert executor.futures.max_length is None


# What goes on meanwhile


@pytest.mark.parametrize("in_another_thread", [False, True], ids=["here", "in another thread"])
def test_log_handler_may_submit_when_it_hears_of_late_settings(
    app: Flask, in_another_thread: bool
) -> None:
    class Ship(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if in_another_thread:
                shipping = threading.Thread(target=self.ship, args=(record,), daemon=True)
                shipping.start()
                shipping.join(TIMEOUT)
            else:
                self.ship(record)

        def ship(self, record: logging.LogRecord) -> None:
            shipped.append(executor.submit(record.getMessage))

    shipped: list[FutureProxy[str]] = []
    handler = Ship()
    app.logger.addHandler(handler)
    try:
        with Executor(app) as executor:
            app.config["EXECUTOR_MAX_WORKERS"] = 2
            future = executor.submit(double, 21)
            assert len(shipped) == 1, "the handler's call was accepted when the warning was logged"
            assert future.result(TIMEOUT) == 42
            assert "settings of executor changed" in shipped[0].result(TIMEOUT)
    finally:
        app.logger.removeHandler(handler)


@pytest.mark.parametrize("change", ["comes", "goes"])
def test_app_may_come_or_go_while_the_executor_looks_for_the_only_one(change: str) -> None:
    executor = Executor()
    apps = [Flask(f"app_{number}") for number in range(1 if change == "comes" else 30)]
    for app in apps:
        executor.init_app(app)

    def come_or_go(frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code.co_filename != weakref.__file__ and code.co_name != "_current":
            return None
        frame.f_trace_opcodes = True  # within a line as well
        if event in {"line", "opcode"}:
            if change == "comes":
                apps.append(Flask(f"app_{len(apps)}"))
                executor.init_app(apps[-1])
            elif len(apps) > 2:
                del apps[0]
                gc.collect()
        return come_or_go

    before, had = sys.gettrace(), len(apps)
    sys.settrace(come_or_go)
    try:
        with pytest.raises(NoAppError, match=r"this executor serves \d+ apps"):
            executor.submit(double, 1)
    finally:
        sys.settrace(before)
    assert len(apps) != had


def test_who_joined_a_call_that_is_refused_hears_of_it(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def join_and_fail(thread: threading.Thread) -> None:
        if not joined:
            joined.append(executor.using(key="key", on_duplicate="join").submit(double, 1))
        raise RuntimeError("can't start new thread")

    for fn in (double, double_async):
        joined: list[FutureProxy[int]] = []
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", join_and_fail)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                executor.submit_stored("key", fn, 1)
        with pytest.raises(concurrent.futures.CancelledError):
            joined[0].result(TIMEOUT)
        assert executor.futures.get("key") is None


def test_call_that_is_refused_leaves_alone_what_has_its_key_by_then(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_and_fail(thread: threading.Thread) -> None:
        executor.futures.pop("key")
        executor.futures.add("key", other)
        raise RuntimeError("can't start new thread")

    other: FutureProxy[int] = FutureProxy()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", replace_and_fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            executor.submit_stored("key", double, 1)
    assert executor.futures.get("key") is other
