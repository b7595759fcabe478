"""Coroutine jobs: the loops that they run on, asgiref's bridges, cancellation, and the end."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import wait
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from flask import Flask, current_app, g, request, session

from flask_executor_typed import Executor, ExecutorClosedError, FutureProxy
from flask_executor_typed.loops import LoopPool
from flask_executor_typed.loops import current as here
from flask_executor_typed.loops import thread as loop_thread

from .conftest import TIMEOUT, until
from .helpers.scripts import Ended, in_time, run_script

variable: ContextVar[str] = ContextVar("variable", default="unset")


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def this_thread() -> threading.Thread:
    return threading.current_thread()


async def this_thread_async() -> threading.Thread:
    return threading.current_thread()


class Gate:
    """Coroutines of one loop wait here; any thread lets them all go, and knows how many wait."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived = threading.Semaphore(0)

    async def wait(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived.release()
        await asyncio.wait_for(self._event.wait(), TIMEOUT)

    def until_waited_for(self, times: int = 1) -> None:
        for _ in range(times):
            assert self._arrived.acquire(timeout=TIMEOUT)

    def open(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._event.set)


# The loops


def test_coroutine_jobs_run_on_one_loop_that_lives_as_long_as_the_executor(app: Flask) -> None:
    with Executor(app) as executor:
        loops = {executor.submit(running_loop).result(TIMEOUT) for _ in range(500)}
        (loop,) = loops
        assert loop.is_running()
    assert loop.is_closed()


def test_lock_made_outside_of_any_loop_serves_all_jobs(executor: Executor) -> None:
    lock = asyncio.Lock()
    inside: list[int] = []
    crowd: list[int] = []

    async def work(number: int) -> None:
        async with lock:
            inside.append(number)
            await asyncio.sleep(0)
            crowd.append(len(inside))
            inside.pop()

    results = [executor.submit(work, number) for number in range(500)]
    assert [future.result(TIMEOUT) for future in results] == [None] * 500
    assert crowd == [1] * 500


def test_queue_made_outside_of_any_loop_serves_all_jobs(executor: Executor) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
    consumers = [executor.submit(queue.get) for _ in range(100)]
    producers = [executor.submit(queue.put, number) for number in range(100)]
    assert [future.result(TIMEOUT) for future in producers] == [None] * 100
    assert sorted(future.result(TIMEOUT) for future in consumers) == list(range(100))


@pytest.mark.parametrize("max_loops", [1, 2, 4])
def test_there_are_never_more_loops_than_allowed(app: Flask, max_loops: int) -> None:
    app.config["COUNTED_EXECUTOR_MAX_LOOPS"] = max_loops
    app.config["COUNTED_EXECUTOR_MAX_WORKERS"] = 8
    before = set(threading.enumerate())
    release = threading.Event()

    async def hold() -> asyncio.AbstractEventLoop:
        while not release.is_set():
            await asyncio.sleep(0.001)
        return asyncio.get_running_loop()

    with Executor(app, name="counted") as executor:
        futures = [executor.submit(hold) for _ in range(40)]
        bridged = executor.map(lambda _: async_to_sync(running_loop)(), range(40))
        loops = set(bridged)
        started = [t.name for t in set(threading.enumerate()) - before if "-loop-" in t.name]
        release.set()
        loops |= {future.result(TIMEOUT) for future in futures}
    assert len(loops) == max_loops
    assert sorted(started) == [f"counted_executor-loop-{i}" for i in range(max_loops)]


def test_second_loop_starts_only_when_the_first_is_busy(app: Flask) -> None:
    app.config["EXECUTOR_MAX_LOOPS"] = 2
    gate = Gate()
    with Executor(app) as executor:
        first = executor.submit(running_loop).result(TIMEOUT)
        for _ in range(20):
            wait_until_idle(executor)
            assert executor.submit(running_loop).result(TIMEOUT) is first
        held = executor.submit(gate.wait)
        gate.until_waited_for()
        assert executor.submit(running_loop).result(TIMEOUT) is not first
        gate.open()
        held.result(TIMEOUT)


def test_calls_go_to_the_least_busy_loop(app: Flask) -> None:
    app.config["EXECUTOR_MAX_LOOPS"] = 3
    arrived, release = threading.Semaphore(0), threading.Event()

    async def hold() -> asyncio.AbstractEventLoop:
        arrived.release()
        while not release.is_set():
            await asyncio.sleep(0.001)
        return asyncio.get_running_loop()

    with Executor(app) as executor:
        futures: list[FutureProxy[asyncio.AbstractEventLoop]] = []
        for _ in range(30):
            futures.append(executor.submit(hold))
            assert arrived.acquire(timeout=TIMEOUT)
        release.set()
        counts = Counter(future.result(TIMEOUT) for future in futures)
    assert sorted(counts.values()) == [10, 10, 10]


def test_job_that_blocks_its_loop_holds_up_no_more_than_its_share(app: Flask) -> None:
    app.config["EXECUTOR_MAX_LOOPS"] = 2
    begun, release = threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        release.wait(TIMEOUT)

    with Executor(app) as executor:
        blocked = executor.submit(block)
        assert begun.wait(TIMEOUT)
        futures = [executor.submit(double, number) for number in range(40)]
        done = 0
        limit = time.monotonic() + TIMEOUT
        while done < 20 and time.monotonic() < limit:
            done = len(wait(futures, timeout=0.05).done)
        assert done >= 20
        assert blocked.running()
        release.set()
        assert [future.result(TIMEOUT) for future in futures] == [n * 2 for n in range(40)]


@pytest.mark.slow
def test_twenty_thousand_sleepers_need_one_thread(app: Flask) -> None:
    before = set(threading.enumerate())
    with Executor(app) as executor:
        start = time.monotonic()
        futures = [executor.submit(asyncio.sleep, 1, number) for number in range(20_000)]
        started = set(threading.enumerate()) - before
        results = [future.result(TIMEOUT * 3) for future in futures]
        seconds = time.monotonic() - start
    assert results == list(range(20_000))
    assert [thread.name for thread in started] == ["executor-loop-0"]
    assert seconds < 20


def test_loop_that_cannot_be_made_is_an_error_for_the_submitter_and_no_hang(
    app: Flask,
) -> None:
    no_more_files = True

    def new_loop() -> asyncio.AbstractEventLoop:
        if no_more_files:
            raise OSError(24, "Too many open files")
        return asyncio.new_event_loop()

    app.config["EXECUTOR_LOOP_FACTORY"] = new_loop
    ran: list[int] = []
    with Executor(app) as executor:
        with pytest.raises(OSError, match="Too many open files"):
            executor.submit(double, 1)
        with pytest.raises(OSError, match="Too many open files"):
            executor.submit(ran.append, 1)
        no_more_files = False
        assert executor.submit(double, 1).result(TIMEOUT) == 2
        assert executor.submit(this_thread).result(TIMEOUT).name == "executor-worker-0"
    assert ran == []


@pytest.mark.parametrize("lack", ["files", "threads"])
def test_first_loop_serves_all_when_a_second_cannot_be_made(
    app: Flask, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    def no_more_files(new_loop: Callable[[], object]) -> asyncio.AbstractEventLoop:
        raise OSError(24, "Too many open files")

    def no_more_threads(name: str, target: Callable[[], object]) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    def give_awaitable() -> Awaitable[int]:
        return double(21)

    app.config["EXECUTOR_MAX_LOOPS"] = 2
    gate = Gate()
    with Executor(app) as executor:
        first = executor.submit(running_loop).result(TIMEOUT)
        executor.submit(this_thread).result(TIMEOUT)
        held = executor.submit(gate.wait)
        gate.until_waited_for()
        with monkeypatch.context() as patch:
            if lack == "files":
                patch.setattr(loop_thread, "make_loop", no_more_files)
            else:
                patch.setattr(loop_thread, "start_thread", no_more_threads)
            assert executor.submit(running_loop).result(TIMEOUT) is first
            assert executor.submit(give_awaitable).result(TIMEOUT) == 42
        assert executor.submit(running_loop).result(TIMEOUT) is not first
        assert not any(loop.is_closed() for loop in list(here.loop_threads)), "kept for ever"
        gate.open()
        held.result(TIMEOUT)


def test_worker_that_starts_when_no_second_loop_can_be_made_uses_the_first(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more_files(new_loop: Callable[[], object]) -> asyncio.AbstractEventLoop:
        raise OSError(24, "Too many open files")

    app.config["EXECUTOR_MAX_LOOPS"] = 2
    gate = Gate()
    executor = Executor(app)
    first = executor.submit(running_loop).result(TIMEOUT)
    executor.submit(gate.wait)
    gate.until_waited_for()
    monkeypatch.setattr(loop_thread, "make_loop", no_more_files)
    future = executor.submit(async_to_sync(running_loop))
    assert future.result(TIMEOUT) is first
    monkeypatch.undo()
    gate.open()
    in_time(executor.shutdown)


def test_pool_that_has_ended_starts_no_loop_that_nobody_would_end() -> None:
    pool = LoopPool("ended", 1)
    pool.refuse(cancel_pending=False)
    pool.end()
    with pytest.raises(ExecutorClosedError):
        pool.start_one()
    pool.end()
    pool.join()


made: list[asyncio.AbstractEventLoop] = []


def make_loop() -> asyncio.AbstractEventLoop:
    made.append(asyncio.SelectorEventLoop())
    return made[-1]


@pytest.fixture
def _nothing_made() -> Iterator[None]:
    made.clear()
    yield
    made.clear()


@pytest.mark.usefixtures("_nothing_made")
@pytest.mark.parametrize("factory", [make_loop, f"{__name__}:make_loop"], ids=["function", "name"])
def test_loops_are_made_by_the_loop_factory_and_closed_at_the_end(
    app: Flask, factory: object
) -> None:
    app.config["EXECUTOR_LOOP_FACTORY"] = factory
    app.config["EXECUTOR_MAX_LOOPS"] = 2
    gate = Gate()
    with Executor(app) as executor:
        assert made == []  # no loop before the first call
        waiting = executor.submit(gate.wait)
        gate.until_waited_for()
        assert executor.submit(running_loop).result(TIMEOUT) is made[1]
        gate.open()
        waiting.result(TIMEOUT)
        assert executor.submit(async_to_sync(running_loop)).result(TIMEOUT) in made
    assert len(made) == 2
    assert all(loop.is_closed() for loop in made)


def test_loops_are_those_of_uvloop_where_it_is_installed(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("uvloop") is None:
        installed = ModuleType("uvloop")
        monkeypatch.setattr(installed, "new_event_loop", asyncio.SelectorEventLoop, raising=False)
        monkeypatch.setitem(sys.modules, "uvloop", installed)
        kind: type = asyncio.SelectorEventLoop
        monkeypatch.setattr(asyncio, "new_event_loop", None)
    else:
        kind = importlib.import_module("uvloop").Loop
    with Executor(app) as executor:
        assert type(executor.submit(running_loop).result(TIMEOUT)) is kind


@pytest.mark.parametrize("asked", [False, True], ids=["not installed", "asked for asyncio's"])
def test_loops_are_those_of_asyncio_otherwise(
    app: Flask, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    if asked:
        app.config["EXECUTOR_LOOP_FACTORY"] = "asyncio:new_event_loop"
    else:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    with Executor(app) as executor:
        loop = executor.submit(running_loop).result(TIMEOUT)
    assert type(loop).__module__.startswith("asyncio.")


@pytest.mark.parametrize("given", [None, "running", "closed"])
def test_factory_that_makes_no_new_loop_is_an_error_of_submit_and_no_hang(
    app: Flask, given: object
) -> None:
    closed = asyncio.new_event_loop()
    closed.close()
    with Executor(app, name="other") as other:
        running = other.submit(running_loop).result(TIMEOUT)
        loop = {"running": running, "closed": closed}.get(str(given))

        def factory() -> object:
            return loop

        app.config["EXECUTOR_LOOP_FACTORY"] = factory
        with Executor(app) as executor:
            for fn in (running_loop, this_thread):
                with pytest.raises(TypeError, match="expected a new event loop") as caught:
                    executor.submit(fn)
                assert str(caught.value) == (
                    f"EXECUTOR_LOOP_FACTORY: {factory!r} returned {loop!r}: "
                    "expected a new event loop"
                )
        assert other.submit(double, 1).result(TIMEOUT) == 2


# asgiref's bridges


def test_blocking_parts_of_two_jobs_run_side_by_side(executor: Executor) -> None:
    meeting = threading.Barrier(2)

    async def meet() -> int:
        return await sync_to_async(meeting.wait)(TIMEOUT)

    futures = [executor.submit(meet) for _ in range(2)]
    assert sorted(future.result(TIMEOUT) for future in futures) == [0, 1]


def test_blocking_parts_of_jobs_that_jobs_submit_run_side_by_side(executor: Executor) -> None:
    meeting = threading.Barrier(3)

    async def meet() -> int:
        return await sync_to_async(meeting.wait)(TIMEOUT)

    async def outer() -> list[int]:
        inner = [executor.submit(meet) for _ in range(2)]
        return [await sync_to_async(meeting.wait)(TIMEOUT), *[await future for future in inner]]

    assert sorted(executor.submit(outer).result(TIMEOUT)) == [0, 1, 2]


def test_thread_sensitive_parts_of_one_job_share_a_thread_of_its_own(executor: Executor) -> None:
    async def threads_of_job() -> list[threading.Thread]:
        return [await sync_to_async(this_thread)() for _ in range(5)]

    for _ in range(3):
        first, *others = executor.submit(threads_of_job).result(TIMEOUT)
        assert set(others) == {first}
        assert not first.name.startswith(("executor-worker", "executor-loop"))
        if sys.version_info < (3, 11):  # asgiref's frames are a cycle there
            gc.collect()
        first.join(TIMEOUT)
        assert not first.is_alive()  # it ends with the job


def test_sensitive_contexts_in_a_job_have_a_thread_each(executor: Executor) -> None:
    meeting = threading.Barrier(2)

    def meet() -> threading.Thread:
        meeting.wait(TIMEOUT)  # both are here at once
        return threading.current_thread()

    async def apart() -> threading.Thread:
        async with ThreadSensitiveContext():
            return await sync_to_async(meet)()

    async def both() -> set[threading.Thread]:
        own = await sync_to_async(this_thread)()
        threads = await asyncio.gather(apart(), apart())
        assert await sync_to_async(this_thread)() is own
        return {own, *threads}

    assert len(executor.submit(both).result(TIMEOUT)) == 3


@pytest.mark.parametrize("plain", [False, True])
def test_job_uses_no_sensitive_context_of_its_submitter(executor: Executor, plain: bool) -> None:
    async def own_and_inner() -> list[threading.Thread]:
        own = await sync_to_async(this_thread)()
        async with ThreadSensitiveContext():
            return [own, await sync_to_async(this_thread)()]

    def not_marked_as_async() -> Awaitable[list[threading.Thread]]:
        return own_and_inner()

    async def submit() -> list[threading.Thread]:
        async with ThreadSensitiveContext():
            theirs = await sync_to_async(this_thread)()
            future = executor.submit(not_marked_as_async if plain else own_and_inner)
            return [theirs, *await future]

    assert len(set(asyncio.run(submit()))) == 3


def test_async_to_sync_in_a_job_runs_on_the_loop_of_the_executor(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1  # no other starts while a job counts the threads
    executor = Executor(app)
    loop = executor.submit(running_loop).result(TIMEOUT)
    loop_thread = executor.submit(this_thread_async).result(TIMEOUT)

    def bridge() -> tuple[asyncio.AbstractEventLoop, threading.Thread, set[threading.Thread]]:
        before = set(threading.enumerate())
        used = [(async_to_sync(running_loop)(), async_to_sync(this_thread_async)()) for _ in "abc"]
        assert len(set(used)) == 1
        return *used[0], set(threading.enumerate()) - before

    for _ in range(20):
        assert executor.submit(bridge).result(TIMEOUT) == (loop, loop_thread, set())
    executor.shutdown()


def test_thread_whose_loop_has_ended_gets_one_of_asgirefs_and_counts_as_going_on() -> None:
    pool = LoopPool("tests", 1)
    noted: list[str] = []
    used: list[asyncio.AbstractEventLoop] = []

    def worker() -> None:
        pool.bridge_this_thread(lambda: noted.append("waits"), lambda: noted.append("goes on"))
        used.append(async_to_sync(running_loop)())
        pool.end()
        pool.join()
        used.append(async_to_sync(running_loop)())

    thread = threading.Thread(target=worker, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    first, second = used
    assert first is not second
    assert noted == ["waits", "goes on"] * 2


def test_coroutine_function_wrapped_by_async_to_sync_is_a_job(executor: Executor) -> None:
    loop = executor.submit(running_loop).result(TIMEOUT)
    assert executor.submit(async_to_sync(running_loop)).result(TIMEOUT) is loop


def descend(depth: int) -> int:
    """From a thread to a loop to a thread, and so on."""
    return depth if depth == 0 else 1 + async_to_sync(descend_async)(depth - 1)


async def descend_async(depth: int) -> int:
    return depth if depth == 0 else 1 + await sync_to_async(descend)(depth - 1)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("fn", [descend, descend_async])
def test_bridges_may_be_nested(
    app: Flask, fn: Callable[[int], int | Awaitable[int]], depth: int
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    with Executor(app) as executor:
        futures: list[FutureProxy[int]] = [executor.submit(fn, depth) for _ in range(20)]
        assert [future.result(TIMEOUT) for future in futures] == [depth] * 20


def test_thread_sensitive_parts_below_a_plain_job_run_in_its_worker(executor: Executor) -> None:
    async def back() -> threading.Thread:
        return await sync_to_async(this_thread)()

    def there_and_back() -> bool:
        return async_to_sync(back)() is threading.current_thread()

    assert executor.submit(there_and_back).result(TIMEOUT)


def test_async_part_of_a_plain_job_may_await_other_jobs(executor: Executor) -> None:
    async def total() -> int:
        futures = [executor.submit(double, number) for number in range(10)]
        futures.append(executor.submit(int, 10))
        return sum(await asyncio.gather(*futures))

    def job() -> int:
        return async_to_sync(total)()

    assert executor.submit(job).result(TIMEOUT) == 100


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
def test_job_submitted_from_the_async_part_of_a_plain_job_has_threads_of_its_own(
    executor: Executor, ended: bool
) -> None:
    parent_ended = Gate()
    submitted: list[FutureProxy[threading.Thread]] = []

    async def child() -> threading.Thread:
        if ended:
            await parent_ended.wait()
        return await sync_to_async(this_thread)()

    async def submit_child() -> None:
        submitted.append(executor.submit(child))

    def parent() -> threading.Thread:
        async_to_sync(submit_child)()
        if not ended:
            submitted[0].result(TIMEOUT)
        return threading.current_thread()

    worker = executor.submit(parent).result(TIMEOUT)
    if ended:
        parent_ended.until_waited_for()
        parent_ended.open()
    assert submitted[0].result(TIMEOUT) is not worker


def test_job_of_an_async_view_uses_bridges_after_the_view_has_returned(
    app: Flask, executor: Executor
) -> None:
    view_ended = threading.Event()
    kept: list[FutureProxy[str]] = []

    async def job() -> str:
        await sync_to_async(view_ended.wait)(TIMEOUT)
        return await sync_to_async(lambda: request.args["id"])()

    def plain_job() -> str:
        view_ended.wait(TIMEOUT)
        return async_to_sync(job)()

    @app.route("/")
    async def view() -> str:
        kept.extend([executor.submit(job), executor.submit(plain_job)])
        return ""

    app.test_client().get("/?id=7")
    view_ended.set()
    assert [future.result(TIMEOUT) for future in kept] == ["7", "7"]


def seen() -> tuple[str, str, str, str, str]:
    return current_app.name, g.id, request.args["id"], session["id"], variable.get()


async def seen_async() -> tuple[str, str, str, str, str]:
    await asyncio.sleep(0)
    return seen()


async def through_sync_to_async() -> tuple[str, ...]:
    return await sync_to_async(seen)()


def through_async_to_sync() -> tuple[str, ...]:
    return async_to_sync(seen_async)()


async def through_to_thread() -> tuple[str, ...]:
    return await asyncio.to_thread(seen)


def through_asyncio_run() -> tuple[str, ...]:
    return asyncio.run(seen_async())


async def through_a_task() -> tuple[str, ...]:
    return await asyncio.get_running_loop().create_task(seen_async())


def through_an_awaitable() -> Awaitable[tuple[str, ...]]:
    return through_sync_to_async()


def test_contexts_are_intact_on_the_other_side_of_every_bridge(
    app: Flask, executor: Executor
) -> None:
    bridges: list[Callable[[], Any]] = [
        through_sync_to_async,
        through_async_to_sync,
        through_to_thread,
        through_asyncio_run,
        through_a_task,
        through_an_awaitable,
    ]
    futures: list[tuple[str, FutureProxy[tuple[str, ...]]]] = []
    for number in range(20):
        mark = str(number)
        with app.test_request_context(f"/?id={mark}"):
            g.id = session["id"] = mark
            token = variable.set(mark)
            futures += [(mark, executor.submit(bridge)) for bridge in bridges]
            variable.reset(token)
    intact = [future.result(TIMEOUT) == ("tests", *[mark] * 4) for mark, future in futures]
    assert intact == [True] * 120


def test_context_variable_set_beyond_a_bridge_is_seen_and_stays_within_the_job(
    executor: Executor,
) -> None:
    async def set_there() -> str:
        await sync_to_async(variable.set)("set beyond")
        return variable.get()

    def set_there_sync() -> str:
        async_to_sync(set_there)()
        return variable.get()

    async def look() -> str:
        return variable.get()

    for setter in (set_there, set_there_sync):
        assert executor.submit(setter).result(TIMEOUT) == "set beyond"
        assert executor.submit(variable.get).result(TIMEOUT) == "unset"
        assert executor.submit(look).result(TIMEOUT) == "unset"


# Jobs that misbehave


def test_job_that_stops_the_loop_stops_nothing(executor: Executor) -> None:
    gate = Gate()

    async def stop() -> None:
        asyncio.get_running_loop().stop()

    held = executor.submit(gate.wait)
    gate.until_waited_for()
    futures = [executor.submit(fn) for fn in [stop, running_loop] * 20]
    loops = {future.result(TIMEOUT) for future in futures} - {None}
    assert len(loops) == 1
    gate.open()
    assert held.result(TIMEOUT) is None


def test_job_that_stops_the_loop_after_its_own_end_stops_nothing(executor: Executor) -> None:
    async def stop_soon() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.stop)

    executor.submit(stop_soon).result(TIMEOUT)
    assert executor.submit(double, 21).result(TIMEOUT) == 42
    in_time(executor.shutdown)


def test_loop_whose_files_a_job_has_closed_says_so_less_and_less_often() -> None:
    ended = run_script(
        """
        import logging

        class Counts(logging.Handler):
            def emit(self, record):
                if record.getMessage().startswith("the loop of executor failed"):
                    times.append(time.monotonic())
                if len(times) == 5:
                    enough.set()

        times, enough = [], threading.Event()
        logging.getLogger().addHandler(Counts())
        nothing = os.open(os.devnull, os.O_RDONLY)

        async def close():
            # Its number is taken, or another file would get it, and the loop close that one.
            os.dup2(nothing, asyncio.get_running_loop()._selector.fileno())

        app.config["EXECUTOR_LOOP_FACTORY"] = "asyncio:new_event_loop"
        executor.init_app(app)
        executor.submit(close)
        enough.wait(10)
        print(times[4] - times[0] >= 0.15)
        executor.shutdown(timeout=0)
        """
    )
    assert ended == Ended(0, "True\n", "")


def test_job_that_cancels_all_tasks_of_its_loop_leaves_the_loop_working(app: Flask) -> None:
    gate = Gate()

    async def cancel_everybody() -> None:
        for task in asyncio.all_tasks():
            task.cancel()

    executor = Executor(app)
    held = [executor.submit(gate.wait) for _ in range(5)]
    gate.until_waited_for(5)
    culprit = executor.submit(cancel_everybody)
    wait([*held, culprit], TIMEOUT)
    assert [future.status for future in held] == ["cancelled"] * 5
    assert executor.submit(double, 21).result(TIMEOUT) == 42
    in_time(executor.shutdown)


def test_task_left_behind_runs_on_and_is_cancelled_at_shutdown(app: Flask) -> None:
    log: list[str] = []

    async def left_behind() -> None:
        log.append("runs")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    async def leave() -> None:
        tasks.append(asyncio.get_running_loop().create_task(left_behind()))

    tasks: list[asyncio.Task[None]] = []
    executor = Executor(app)
    for _ in range(40):
        executor.submit(leave).result(TIMEOUT)
    executor.submit(double, 1).result(TIMEOUT)
    assert log == ["runs"] * 40
    in_time(executor.shutdown)
    assert log == ["runs"] * 40 + ["cleaned up"] * 40
    assert all(task.cancelled() for task in tasks)


def test_task_left_behind_that_cleans_up_badly_does_not_keep_the_loop_from_ending(
    app: Flask,
) -> None:
    async def raise_at_the_end(error: BaseException) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    async def stop_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.get_running_loop().stop()

    async def leave() -> None:
        loop = asyncio.get_running_loop()
        tasks.append(loop.create_task(raise_at_the_end(LookupError())))
        tasks.append(loop.create_task(raise_at_the_end(SystemExit())))
        tasks.append(loop.create_task(stop_at_the_end()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    executor = Executor(app)
    executor.submit(leave).result(TIMEOUT)
    loop = executor.submit(running_loop).result(TIMEOUT)
    in_time(executor.shutdown)
    assert loop.is_closed()
    assert all(task.done() for task in tasks)


def test_asynchronous_generators_are_closed_at_shutdown(app: Flask) -> None:
    closed: list[int] = []

    async def numbers(mark: int) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(mark)

    async def begin(mark: int) -> int:
        generators.append(numbers(mark))
        return await generators[-1].__anext__()

    generators: list[AsyncIterator[int]] = []
    executor = Executor(app)
    assert [executor.submit(begin, mark).result(TIMEOUT) for mark in range(40)] == [1] * 40
    assert closed == []
    in_time(executor.shutdown)
    assert sorted(closed) == list(range(40))


def test_threads_of_to_thread_end_at_shutdown(app: Flask) -> None:
    async def use_a_thread() -> threading.Thread:
        return await asyncio.to_thread(this_thread)

    executor = Executor(app)
    thread = executor.submit(use_a_thread).result(TIMEOUT)
    assert thread.is_alive()
    in_time(executor.shutdown)
    assert not thread.is_alive()


# Cancellation


class Cancellable:
    """A coroutine that waits for ever and notes how it ends."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.log: list[str] = []

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            self.log.append("cleaned up")
            self.ended.set()


def test_cancelling_a_running_coroutine_runs_its_cleanup_and_logs_nothing(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    coroutine = Cancellable()
    future = executor.submit(coroutine)
    assert coroutine.begun.wait(TIMEOUT)
    assert future.cancel()
    assert future.cancelled()
    assert coroutine.ended.wait(TIMEOUT)
    assert coroutine.log == ["cancelled", "cleaned up"]
    in_time(executor.shutdown)
    assert caplog.records == []


def test_shutdown_waits_for_the_cleanup_of_a_cancelled_coroutine(app: Flask) -> None:
    executor = Executor(app)
    coroutine = Cancellable()
    future = executor.submit(coroutine)
    assert coroutine.begun.wait(TIMEOUT)
    future.cancel()
    in_time(executor.shutdown)
    assert coroutine.log == ["cancelled", "cleaned up"]


def test_context_of_a_cancelled_coroutine_is_torn_down_after_its_cleanup(app: Flask) -> None:
    coroutine = Cancellable()

    @app.teardown_appcontext
    def tear_down(error: BaseException | None) -> None:
        coroutine.log.append(f"torn down with {type(error).__name__}")

    executor = Executor(app)
    future = executor.submit(coroutine)
    assert coroutine.begun.wait(TIMEOUT)
    future.cancel()
    in_time(executor.shutdown)
    assert coroutine.log == ["cancelled", "cleaned up", "torn down with CancelledError"]


def test_coroutine_that_refuses_to_be_cancelled_runs_on_and_its_future_is_cancelled(
    app: Flask,
) -> None:
    begun, refused, gate = threading.Event(), threading.Event(), Gate()

    async def refuse() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            refused.set()
        await gate.wait()
        log.append("to its end")
        return "ignored"

    log: list[str] = []
    executor = Executor(app)
    future = executor.submit(refuse)
    assert begun.wait(TIMEOUT)
    assert future.cancel()
    assert refused.wait(TIMEOUT)
    gate.until_waited_for()
    gate.open()
    in_time(executor.shutdown)
    assert log == ["to its end"]
    assert future.status == "cancelled"


def test_coroutine_cancelled_before_it_starts_never_runs(executor: Executor) -> None:
    begun, release = threading.Event(), threading.Event()
    ran: list[int] = []

    async def block() -> None:
        begun.set()
        release.wait(TIMEOUT)

    async def note(number: int) -> None:
        ran.append(number)

    executor.submit(block)
    assert begun.wait(TIMEOUT)
    futures = [executor.submit(note, number) for number in range(100)]
    assert all(future.cancel() for future in futures)
    release.set()
    in_time(executor.shutdown)
    assert ran == []


def test_coroutine_that_cancels_its_own_future_as_its_last_act_does_not_hold_up_shutdown(
    app: Flask,
) -> None:
    begun, shut_down = threading.Event(), threading.Event()
    own: list[FutureProxy[None]] = []

    async def cancel_itself() -> None:
        begun.set()
        shut_down.wait(TIMEOUT)
        own[0].cancel()

    executor = Executor(app)
    own.append(executor.submit(cancel_itself))
    assert begun.wait(TIMEOUT)
    executor.shutdown(wait=False)
    shut_down.set()
    in_time(executor.shutdown)


def test_coroutine_cancelled_while_it_is_about_to_run_leaves_nothing_behind(app: Flask) -> None:
    interval = sys.getswitchinterval()
    executor = Executor(app)
    try:
        sys.setswitchinterval(1e-6)
        for _ in range(15):
            begun, release = threading.Event(), threading.Event()

            async def block(begun: Any = begun, release: Any = release) -> None:
                begun.set()
                release.wait(TIMEOUT)

            executor.submit(block)
            assert begun.wait(TIMEOUT)
            futures = [executor.submit(asyncio.sleep, TIMEOUT * 10) for _ in range(300)]
            release.set()
            for future in futures[::8]:
                limit = time.monotonic() + TIMEOUT
                while future.status == "pending":
                    assert time.monotonic() < limit
                future.cancel()
            for future in futures:
                future.cancel()
    finally:
        sys.setswitchinterval(interval)
    in_time(executor.shutdown)


# The end


def test_shutdown_waits_for_running_coroutines(app: Flask) -> None:
    gate = Gate()
    executor = Executor(app)
    futures = [executor.submit(gate.wait) for _ in range(10)]
    gate.until_waited_for(10)
    threading.Timer(0.05, gate.open).start()
    in_time(executor.shutdown)
    assert {future.status for future in futures} == {"succeeded"}


def test_running_coroutine_can_still_use_its_bridges_after_shutdown(app: Flask) -> None:
    gate = Gate()

    async def job() -> int:
        await gate.wait()
        return await sync_to_async(descend)(2) + await asyncio.to_thread(int, "40")

    executor = Executor(app)
    future = executor.submit(job)
    gate.until_waited_for()
    executor.shutdown(wait=False)
    gate.open()
    assert future.result(TIMEOUT) == 42
    in_time(executor.shutdown)


def test_running_coroutine_cannot_submit_after_shutdown(app: Flask) -> None:
    gate = Gate()

    async def job() -> str:
        await gate.wait()
        for fn in (this_thread, running_loop):
            with pytest.raises(ExecutorClosedError):
                executor.submit(fn)
        return "refused"

    executor = Executor(app)
    future = executor.submit(job)
    gate.until_waited_for()
    executor.shutdown(wait=False)
    gate.open()
    assert future.result(TIMEOUT) == "refused"
    in_time(executor.shutdown)


def test_plain_job_may_shut_its_executor_down_on_a_loop_of_its_own(app: Flask) -> None:
    async def shut_down() -> str:
        executor.shutdown()
        return "did not wait for itself"

    def job() -> str:
        return asyncio.run(shut_down())

    executor = Executor(app)
    assert executor.submit(job).result(TIMEOUT) == "did not wait for itself"
    in_time(executor.shutdown)


def test_loop_that_starts_after_shutdown_for_a_plain_job_refuses_calls(app: Flask) -> None:
    app.config["EXECUTOR_MAX_LOOPS"] = 2
    gate, begun, release = Gate(), threading.Event(), threading.Event()

    async def on_the_second_loop() -> asyncio.AbstractEventLoop:
        with pytest.raises(ExecutorClosedError):
            executor.submit(double, 1)
        return asyncio.get_running_loop()

    def plain() -> Awaitable[asyncio.AbstractEventLoop]:
        begun.set()
        assert release.wait(TIMEOUT)
        return on_the_second_loop()

    executor = Executor(app)
    first = executor.submit(running_loop).result(TIMEOUT)
    future = executor.submit(plain)
    assert begun.wait(TIMEOUT)
    executor.submit(gate.wait)
    gate.until_waited_for()
    executor.shutdown(wait=False)
    release.set()
    try:
        assert future.result(TIMEOUT) is not first
    finally:
        gate.open()
    in_time(executor.shutdown)


def test_debug_mode_of_python_and_asyncio_finds_nothing_to_complain_about() -> None:
    ended = run_script(
        """
        import logging
        from asgiref.sync import async_to_sync, sync_to_async

        app.config.update(EXECUTOR_LOG_EXCEPTIONS=False, EXECUTOR_MAX_LOOPS=2)
        app.config["SECRET_KEY"] = "secret"
        executor.init_app(app)
        # How long a step takes on a slow machine is not what this looks for.
        logging.getLogger("asyncio").addFilter(lambda record: "took" not in record.getMessage())

        async def sync_inside(i):
            return await sync_to_async(double)(i)

        async def to_thread(i):
            return await asyncio.to_thread(double, i)

        def async_inside(i):
            return async_to_sync(double_async)(i)

        def awaitable(i):
            return double_async(i)

        async def fail(i):
            raise LookupError(i)

        async def sleep(i):
            await asyncio.sleep(60)

        async def leave_a_task(i):
            tasks.append(asyncio.create_task(asyncio.sleep(60)))

        async def numbers(i):
            yield i
            yield i

        async def leave_a_generator(i):
            generators.append(numbers(i))
            return await generators[-1].__anext__()

        async def mapped():
            return [i async for i in executor.map(double_async, range(10))]

        tasks, generators = [], []
        kinds = [double, double_async, sync_inside, to_thread, async_inside, awaitable]
        kinds += [fail, sleep, leave_a_task, leave_a_generator]

        @app.route("/")
        async def view():
            futures = [executor.submit(kind, i) for i in range(20) for kind in kinds]
            await asyncio.sleep(0.05)
            for future in futures:
                if future.name == "sleep":
                    future.cancel()
            await asyncio.gather(*futures, return_exceptions=True)
            return {status: [f.status for f in futures].count(status)
                    for status in ("succeeded", "failed", "cancelled")}

        print(app.test_client().get("/").get_json())
        print(asyncio.run(mapped()), list(executor.map(double_async, range(10), buffersize=2)))
        executor.shutdown()
        executor.init_app(app)
        print(executor.submit(double_async, 1).result(), executor.submit(double, 1).result())
        """,
        "-X",
        "dev",
        PYTHONASYNCIODEBUG="1",
    )
    evens = list(range(0, 20, 2))
    counts = {"cancelled": 20, "failed": 20, "succeeded": 160}
    assert ended.stdout.splitlines() == [str(counts), f"{evens} {evens}", "2 2"]
    assert (ended.status, ended.stderr) == (0, "")


def wait_until_idle(executor: Executor) -> None:
    """A future is done a moment before its loop has nothing left to do."""
    state: Any = next(iter(executor._states.values()))
    until(lambda: not any(thread.busy for thread in state.opened._loops._threads))
