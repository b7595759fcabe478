"""Jobs that wait for jobs of their own executor: they get a result, or an error, and never hang."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Callable, Iterator
from itertools import product
from queue import SimpleQueue
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from flask import Flask, current_app, g

from flask_executor_typed import DeadlockError, Executor, FutureProxy, current_job
from flask_executor_typed.backends import thread as thread_backend
from flask_executor_typed.calls import pending_call_of
from flask_executor_typed.runtime import threads

from .conftest import TIMEOUT, until
from .helpers.scripts import Ended, run_script
from .helpers.steps import at_each_step


@pytest.fixture
def one_worker(app: Flask) -> Iterator[Executor]:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    with Executor(app) as executor:
        yield executor


def threads_of(executor: Executor) -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(executor.label)]


def workers_of(executor: Executor) -> int:
    return sum("-worker-" in name for name in threads_of(executor))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_recursive_job_is_done_by_however_few_workers(app: Flask, workers: int) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = workers
    with Executor(app) as executor:

        @executor.job
        def fib(n: int) -> int:
            assert current_app.name == "tests"
            return n if n < 2 else fib.submit(n - 1).result() + fib.submit(n - 2).result()

        assert fib.submit(20).result(6 * TIMEOUT) == 6765


def test_chain_of_waiting_jobs_is_as_long_as_it_likes(one_worker: Executor) -> None:
    deepest = threading.local()
    depths: list[int] = []

    @one_worker.job
    def count(n: int) -> int:
        deepest.now = getattr(deepest, "now", 0) + 1
        depths.append(deepest.now)
        try:
            return 0 if n == 0 else 1 + count.submit(n - 1).result()
        finally:
            deepest.now -= 1

    assert count.submit(300).result(TIMEOUT) == 300
    assert max(depths) <= 31, "of the calls in one thread"


def test_spare_workers_end(one_worker: Executor) -> None:
    spares: list[threading.Thread] = []

    @one_worker.job
    def count(n: int) -> int:
        if "-spare-" in threading.current_thread().name:
            spares.append(threading.current_thread())
        return 0 if n == 0 else 1 + count.submit(n - 1).result()

    assert count.submit(300).result(TIMEOUT) == 300
    assert spares
    for spare in spares:
        spare.join(TIMEOUT)
        assert not spare.is_alive()
    assert workers_of(one_worker) == 1
    assert one_worker.submit(count, 300).result(TIMEOUT) == 300


def test_spare_takes_no_further_call_once_a_worker_does_not_wait_any_more(
    one_worker: Executor,
) -> None:
    may_go_on, goes_on, may_end, first_may_end = (threading.Event() for _ in "1234")
    spares: SimpleQueue[threading.Thread] = SimpleQueue()

    async def until_it_may_go_on() -> None:
        await asyncio.to_thread(may_go_on.wait, TIMEOUT)

    def outer() -> bool:
        one_worker.submit(until_it_may_go_on).result()
        goes_on.set()
        return may_end.wait(TIMEOUT)

    def first() -> bool:
        spares.put(threading.current_thread())
        return first_may_end.wait(TIMEOUT)

    async def both() -> tuple[bool, str]:
        one, two = one_worker.submit(first), one_worker.submit(thread_name)
        first_result, second_result = await asyncio.gather(one, two)
        return first_result, second_result

    waiting = one_worker.submit(outer)
    futures = one_worker.submit(both)
    spare = spares.get(timeout=TIMEOUT)
    may_go_on.set()
    assert goes_on.wait(TIMEOUT)
    first_may_end.set()
    spare.join(TIMEOUT)
    assert not spare.is_alive()
    may_end.set()
    assert waiting.result(TIMEOUT)
    assert futures.result(TIMEOUT) == (True, "executor-worker-0")


def test_no_spare_is_started_while_a_worker_is_only_busy(
    one_worker: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = list[str](), threading.Event()

    def start_thread(name: str, target: Callable[[], object]) -> threading.Thread:
        started.append(name)
        return threads.start_thread(name, target)

    monkeypatch.setattr(thread_backend, "start_thread", start_thread)
    wanted = threading.Event()

    one_worker.submit(release.wait, TIMEOUT)
    future = one_worker.submit(awaited_and_wanted, one_worker.submit(int, "7"), wanted)
    assert wanted.wait(TIMEOUT)
    release.set()
    assert future.result(TIMEOUT) == 7
    assert started == ["executor-worker-0"]


WAITS: list[Callable[[Executor, FutureProxy[Any]], object]] = [
    lambda executor, future: future.result(),
    lambda executor, future: executor.submit(awaited, future).result(),
    lambda executor, future: async_to_sync(awaited)(future),
    lambda executor, future: executor.submit(lambda: awaited(future)).result(),
]


@pytest.mark.parametrize("wait", WAITS)
def test_jobs_that_wait_let_no_others_begin_but_those_they_wait_for(
    one_worker: Executor, wait: Callable[[Executor, FutureProxy[Any]], object]
) -> None:
    release = threading.Event()
    inside = threading.Lock()
    waiting = threading.Event()

    async def until_released() -> None:
        waiting.set()
        await asyncio.to_thread(release.wait, TIMEOUT)

    def one_at_a_time() -> int:
        assert inside.acquire(blocking=False), "two at once"
        try:
            wait(one_worker, one_worker.submit(until_released))
            return one_worker.submit(int, "7").result()
        finally:
            inside.release()

    futures = [one_worker.submit(one_at_a_time) for _ in range(6)]
    assert waiting.wait(TIMEOUT)
    release.set()
    assert [future.result(TIMEOUT) for future in futures] == [7] * 6


def test_helped_call_fails_when_its_time_is_up(one_worker: Executor) -> None:
    release = threading.Event()

    def outer() -> str:
        future = one_worker.using(timeout=0.05).submit(release.wait, TIMEOUT)
        try:
            return str(future.exception())
        finally:
            release.set()

    assert "time limit of 0.05 s" in one_worker.submit(outer).result(TIMEOUT)


def test_deep_calls_are_not_run_where_the_stack_would_overflow(one_worker: Executor) -> None:
    def deeper(levels: int, n: int) -> int:
        return deeper(levels - 1, n) if levels else count(n)

    def count(n: int) -> int:
        return 0 if n == 0 else 1 + one_worker.submit(deeper, 25, n - 1).result()

    assert one_worker.submit(count, 60).result(TIMEOUT) == 60


def test_call_that_waits_for_its_next_attempt_is_not_run_by_who_waits(one_worker: Executor) -> None:
    running: list[int] = []

    def flaky() -> str:
        running.append(current_job.attempt)
        if current_job.attempt < 3:
            raise OSError
        return "done"

    def outer() -> str:
        return one_worker.using(retries=2, backoff=0.01).submit(flaky).result()

    futures = [one_worker.submit(outer) for _ in range(5)]
    assert [future.result(TIMEOUT) for future in futures] == ["done"] * 5
    assert running == [1, 2, 3] * 5


def test_calls_that_are_tried_again_run_once_at_a_time_whoever_waits(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    with Executor(app) as executor:
        retrying = executor.using(retries=2, backoff=0.0005)

        def flaky(number: int) -> int:
            if current_job.attempt < 3:
                raise OSError
            return number

        def outer(futures: list[FutureProxy[int]]) -> int:
            return sum(future.result() for future in futures)

        for _ in range(30):
            flakies = [retrying.submit(flaky, number) for number in range(10)]
            waiting = [executor.submit(outer, flakies) for _ in range(5)]
            assert [future.result(TIMEOUT) for future in waiting] == [45] * 5


def test_callback_may_wait_for_a_job_that_registered_it(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    with Executor(app) as executor:
        mine, submitted, registered = list[FutureProxy[Any]](), threading.Event(), threading.Event()
        seen: list[object] = []

        def inner() -> None:
            assert registered.wait(TIMEOUT)

        def outer() -> str:
            assert submitted.wait(TIMEOUT)
            future = executor.submit(inner)
            future.add_done_callback(lambda _: seen.append(mine[0].result()))
            future.add_done_callback(lambda _: seen.append(bool(current_job)))
            registered.set()
            return "outer"

        mine.append(executor.submit(outer))
        submitted.set()
        mine[0].result(TIMEOUT)
        executor.shutdown()
        assert seen == ["outer", False]


def test_shutdown_cancels_what_is_queued_behind_a_call_that_a_job_ran_itself(
    one_worker: Executor,
) -> None:
    ran, release = threading.Event(), threading.Event()

    def outer() -> bool:
        one_worker.submit(int).result()  # its entry stays in the queue
        ran.set()
        return release.wait(TIMEOUT)

    future = one_worker.submit(outer)
    assert ran.wait(TIMEOUT)
    pending = one_worker.submit(int)
    one_worker.shutdown(wait=False, cancel_futures=True)
    release.set()
    assert future.result(TIMEOUT)
    assert pending.cancelled()
    one_worker.shutdown()


def test_callback_may_wait_for_a_job_that_returns_a_future(one_worker: Executor) -> None:
    seen: list[int] = []
    registered, called = threading.Event(), threading.Event()

    def call_back(_: FutureProxy[Any]) -> None:
        seen.append(one_worker.submit(lambda: one_worker.submit(int, "7")).result())
        called.set()

    def outer() -> FutureProxy[int]:
        assert registered.wait(TIMEOUT)
        return one_worker.submit(int, "1")

    future = one_worker.submit(outer)
    future.add_done_callback(call_back)
    registered.set()
    assert called.wait(TIMEOUT)
    assert (future.result(TIMEOUT), seen) == (1, [7])


def test_job_that_waits_with_a_time_limit_gives_up_in_time(one_worker: Executor) -> None:
    release = threading.Event()

    def outer() -> bool:
        future = one_worker.submit(release.wait, TIMEOUT)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0.05)
        release.set()
        return future.result(TIMEOUT)

    assert one_worker.submit(outer).result(TIMEOUT)


def test_call_of_another_executor_is_run_by_that_one(app: Flask, one_worker: Executor) -> None:
    with Executor(app, name="other") as other:

        def outer() -> str:
            return other.submit(lambda: threading.current_thread().name).result()

        assert one_worker.submit(outer).result(TIMEOUT) == "other_executor-worker-0"


def test_pending_call_of_another_executor_waits_for_a_worker_of_that_one(
    app: Flask, one_worker: Executor
) -> None:
    app.config["OTHER_EXECUTOR_MAX_WORKERS"] = 1
    release = threading.Event()
    with Executor(app, name="other") as other:
        one_worker.submit(int).result(TIMEOUT)  # so that its worker has certainly been started
        other.submit(release.wait, TIMEOUT)
        pending = other.submit(thread_name)
        outer = one_worker.submit(pending.result)
        # A spare does this as soon as the only worker waits.
        assert one_worker.submit(awaited, one_worker.submit(int, "7")).result(TIMEOUT) == 7
        release.set()
        assert outer.result(TIMEOUT) == "other_executor-worker-0"


def test_call_whose_worker_could_not_be_started_is_run_by_who_waits_though_others_are_busy(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    release = threading.Event()
    with Executor(app) as executor:

        def outer() -> tuple[bool, str]:
            with monkeypatch.context() as patch:
                patch.setattr(thread_backend, "start_thread", no_more_threads)
                inner = executor.submit(thread_name)
            return inner.result() == thread_name(), inner.result()

        busy = executor.submit(release.wait, TIMEOUT)
        assert executor.submit(outer).result(TIMEOUT) == (True, "executor-worker-1")
        assert not busy.done()
        release.set()


def no_more_threads(name: str, target: Callable[[], object]) -> threading.Thread:
    raise RuntimeError("can't start new thread")


def thread_name() -> str:
    return threading.current_thread().name


def test_jobs_that_wait_while_the_interpreter_exits_are_done() -> None:
    ended = run_script("""
        app.config["EXECUTOR_MAX_WORKERS"] = 1
        executor.init_app(app)

        async def awaited(future):
            await asyncio.sleep(0.2)
            return await future

        def outer():
            inner = executor.submit(double, 21)
            middle = executor.submit(awaited, inner)
            submitted.set()
            until_the_exit_has_begun()
            print(middle.result(), flush=True)

        submitted = threading.Event()
        executor.submit(outer)
        submitted.wait(10)
    """)
    assert ended == Ended(0, "42\n", "")


async def awaited_and_wanted(future: FutureProxy[int], wanted: threading.Event) -> int:
    waiting = asyncio.ensure_future(awaited(future))
    await asyncio.sleep(0)  # it waits now
    wanted.set()
    return await waiting


def test_wanted_call_is_found_although_others_come_and_go_meanwhile(
    app: Flask, executor: Executor
) -> None:
    class Changing(dict[Any, None]):
        """Another thread adds an item between ``iter()`` and ``next()``, twice."""

        times = 2

        def __iter__(self) -> Iterator[Any]:
            iterator = super().__iter__()
            if self.times:
                self.times -= 1
                self[object()] = None
            return iterator

    backend: Any = executor._states[app].backend(app)
    pool, first = backend._pool, object()
    pool._wanted = Changing({first: None})
    assert pool._first_wanted() is first
    pool._wanted = {}


def test_calls_that_jobs_wait_for_are_forgotten_when_they_run(app: Flask) -> None:
    with Executor(app) as executor:

        async def outer() -> int:
            return sum([await executor.submit(int, "1") for _ in range(200)])

        assert executor.submit(outer).result(TIMEOUT) == 200
        state = executor._states[app]
        pool: Any = state.backend(app)
        assert not pool._pool._wanted


def test_job_that_waits_runs_the_call_itself_in_contexts_of_its_own(one_worker: Executor) -> None:
    @one_worker.job
    def inner() -> tuple[int, object, str]:
        g.value = "inner"
        return threading.get_ident(), current_job.id, current_app.name

    @one_worker.job
    def outer() -> bool:
        g.value = "outer"
        future = inner.submit()
        same = future.result() == (threading.get_ident(), future.id, "tests")
        return same and g.value == "outer" and current_job.id != future.id

    assert outer.submit().result(TIMEOUT)


def test_exception_of_a_call_that_ran_in_the_waiting_worker_is_raised(one_worker: Executor) -> None:
    def inner() -> None:
        raise LookupError("inner")

    def outer() -> str:
        with pytest.raises(LookupError, match="inner"):
            one_worker.submit(inner).result()
        return str(one_worker.submit(inner).exception())

    assert one_worker.submit(outer).result(TIMEOUT) == "inner"


def test_cancelled_call_is_not_run_by_who_waits(one_worker: Executor) -> None:
    ran: list[str] = []

    def outer() -> None:
        future = one_worker.submit(ran.append, "inner")
        assert future.cancel()
        future.result()

    with pytest.raises(concurrent.futures.CancelledError):
        one_worker.submit(outer).result(TIMEOUT)
    one_worker.submit(int).result(TIMEOUT)
    assert not ran


def test_other_calls_are_not_run_by_who_waits_while_another_worker_is_free(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    with Executor(app) as executor:
        idents: list[int] = []

        def outer() -> None:
            others = [executor.submit(lambda: idents.append(threading.get_ident())) for _ in "123"]
            executor.submit(asyncio.sleep, 0.01).result()
            for other in others:
                other.result()
            assert workers_of(executor) == 2

        executor.submit(outer).result(TIMEOUT)
        assert len(idents) == 3


async def awaited(future: FutureProxy[int]) -> int:
    return await future


WAYS: list[Callable[[Executor, FutureProxy[int]], int]] = [
    lambda executor, future: future.result(),
    lambda executor, future: future.result(TIMEOUT),
    lambda executor, future: executor.submit(awaited, future).result(),
    lambda executor, future: executor.submit(lambda: future).result(),
    lambda executor, future: executor.submit(lambda: future).result(TIMEOUT),
    lambda executor, future: executor.submit(lambda: awaited(future)).result(),
    lambda executor, future: next(executor.map(lambda number: awaited(future), [1])),
    lambda executor, future: executor.submit(future.result).result(),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("outside", [False, True])
def test_job_may_wait_in_any_way_on_the_only_worker(
    one_worker: Executor, way: Callable[[Executor, FutureProxy[int]], int], outside: bool
) -> None:
    submitted, given = threading.Event(), list[FutureProxy[int]]()

    def outer() -> int:
        if not outside:
            return way(one_worker, one_worker.submit(int, "7"))
        assert submitted.wait(TIMEOUT)
        return way(one_worker, given[0])

    future = one_worker.submit(outer)
    given.append(one_worker.submit(int, "7"))
    submitted.set()
    assert future.result(TIMEOUT) == 7


def test_jobs_that_all_wait_for_one_another_s_calls_are_done(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 4
    with Executor(app) as executor:
        barrier = threading.Barrier(4)

        def outer(number: int) -> int:
            barrier.wait(TIMEOUT)
            futures = [executor.submit(awaited, executor.submit(int, n)) for n in range(number)]
            return sum(future.result() for future in futures)

        futures = [executor.submit(outer, number) for number in (5, 10, 15, 20)]
        assert [future.result(TIMEOUT) for future in futures] == [10, 45, 105, 190]


def test_job_that_waits_for_itself_is_told_the_line(one_worker: Executor) -> None:
    submitted, mine = threading.Event(), list[FutureProxy[Any]]()

    def inner() -> object:
        return mine[0].result()  # the line

    def outer(fn: Callable[[], object]) -> object:
        assert submitted.wait(TIMEOUT)
        return fn()

    for fn in (inner, lambda: one_worker.submit(inner).result()):
        submitted.clear()
        mine[:] = [one_worker.submit(outer, fn)]
        submitted.set()
        with pytest.raises(DeadlockError) as caught:
            mine[0].result(TIMEOUT)
        line = inner.__code__.co_firstlineno + 1
        assert str(caught.value) == (
            f"{__file__}:{line} waits for {outer.__qualname__}, which waits for this line: "
            "neither can ever be done"
        )


def test_coroutine_job_that_would_block_its_loop_is_told_the_line(executor: Executor) -> None:
    async def inner() -> int:
        return 1

    async def outer() -> object:
        return executor.submit(inner).result()  # the line

    with pytest.raises(DeadlockError) as caught:
        executor.submit(outer).result(TIMEOUT)
    assert str(caught.value) == (
        f"{__file__}:{outer.__code__.co_firstlineno + 1} waits for {inner.__qualname__}, which "
        "would stop the event loop that runs this job and may have to run that one; "
        "use 'await future'"
    )


def test_coroutine_job_may_read_what_is_done_and_look_without_waiting(executor: Executor) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def inner() -> int:
        started.set()
        await release.wait()
        return 7

    async def outer() -> int:
        future = executor.submit(inner)
        await started.wait()
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0)
        release.set()
        await future
        return future.result()

    assert executor.submit(outer).result(TIMEOUT) == 7


def test_thread_of_a_coroutine_job_may_wait(executor: Executor) -> None:
    async def outer() -> int:
        future = executor.submit(int, "7")
        return await sync_to_async(future.result)()

    assert executor.submit(outer).result(TIMEOUT) == 7


# asgiref's bridges, in every order, four deep


def nested(executor: Executor, steps: str) -> Callable[[], Any]:
    """A function that does each step inside of the one before.

    ``a``: async_to_sync, ``s``: sync_to_async, ``t``: sync_to_async, not thread-sensitive,
    ``j``: another job of the kind that is due.
    """
    if not steps:
        return lambda: (current_app.name, current_job.name)
    inner = nested(executor, steps[1:])
    step, inner_is_async = steps[0], inspect.iscoroutinefunction(inner)
    if step == "a":

        async def coroutine() -> Any:
            return await inner() if inner_is_async else inner()

        return async_to_sync(coroutine)

    if step in "st":

        async def bridge() -> Any:
            call = async_to_sync(inner) if inner_is_async else inner
            return await sync_to_async(call, thread_sensitive=step == "s")()

        return bridge

    async def job() -> Any:
        return await executor.using(name="outer").submit(inner)

    return job


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    "steps",
    ["jaja", "sjas"]
    + [steps for steps in map("".join, product("astj", repeat=3)) if "aa" not in steps],
)
def test_bridges_nest_in_every_order(app: Flask, steps: str, workers: int) -> None:
    # Not "aa": asgiref refuses to call async_to_sync on a loop.
    app.config["EXECUTOR_MAX_WORKERS"] = workers
    with Executor(app) as executor:
        fn = nested(executor, steps)
        assert executor.using(name="outer").submit(fn).result(TIMEOUT) == ("tests", "outer")


# -- what a job runs while it waits ----------------------------------------------------------------


def test_callback_of_a_call_that_a_job_ran_itself_may_wait_for_that_job(
    one_worker: Executor,
) -> None:
    goes_on = threading.Event()
    waited: SimpleQueue[bool] = SimpleQueue()

    def outer() -> bool:
        future = one_worker.submit(threading.get_ident)
        future.add_done_callback(lambda _: waited.put(goes_on.wait(TIMEOUT)))
        ran_here = future.result() == threading.get_ident()
        goes_on.set()
        return ran_here

    assert one_worker.submit(outer).result(TIMEOUT)
    assert waited.get(timeout=TIMEOUT)


def test_shutdown_waits_for_the_callbacks_of_a_call_that_a_job_ran_itself(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    began, may_end = threading.Event(), threading.Event()
    over: list[int] = []

    def callback(_: object) -> None:
        began.set()
        assert may_end.wait(TIMEOUT)
        over.append(1)

    def outer() -> None:
        future = executor.submit(int)
        future.add_done_callback(callback)
        future.result()

    with Executor(app) as executor:
        executor.submit(outer).result(TIMEOUT)
        assert began.wait(TIMEOUT)
        closing = threading.Thread(target=executor.shutdown)
        closing.start()
        may_end.set()
        closing.join(TIMEOUT)
        assert over == [1]


def test_call_that_a_job_waits_for_runs_in_a_worker_that_is_idle(app: Flask) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 2
    both = threading.Barrier(2)

    def outer() -> tuple[int, int]:
        return threading.get_ident(), executor.submit(threading.get_ident).result(None)

    with Executor(app) as executor:
        for future in [executor.submit(both.wait, TIMEOUT) for _ in range(2)]:
            future.result(TIMEOUT)
        backend = executor._states[app].backend(app)
        assert isinstance(backend, thread_backend.ThreadBackend)
        running = backend._pool._running
        for _ in range(20):
            until(lambda: not any(running.values()))  # a future is done before its worker is free
            outer_thread, inner_thread = executor.submit(outer).result(TIMEOUT)
            assert inner_thread != outer_thread


def test_worker_counts_as_idle_for_a_call_only_if_no_other_call_is_queued_before_it(
    app: Flask,
) -> None:
    with Executor(app) as executor:
        backend = executor._states[app].backend(app)
        assert isinstance(backend, thread_backend.ThreadBackend)
        pool, busy = backend._pool, list[Any]("a call")
        pool._running = {1: busy, 2: []}
        pool.queue.put(None)
        assert pool._has_idle_worker()
        pool.queue.put(None)
        assert not pool._has_idle_worker()


def test_job_that_waits_with_a_time_limit_for_what_needs_its_worker_gets_a_spare(
    one_worker: Executor,
) -> None:
    wanted = threading.Event()

    def outer() -> int:
        future = one_worker.submit(awaited_and_wanted, one_worker.submit(int, "7"), wanted)
        assert wanted.wait(TIMEOUT)  # no spare is needed yet: this worker is only busy
        return future.result(TIMEOUT)

    assert one_worker.submit(outer).result(2 * TIMEOUT) == 7


def test_call_that_begins_while_a_job_comes_to_wait_for_it_is_not_wanted(
    app: Flask, one_worker: Executor
) -> None:
    release = threading.Event()
    one_worker.submit(release.wait, TIMEOUT)
    backend = one_worker._states[app].backend(app)
    assert isinstance(backend, thread_backend.ThreadBackend)
    begun: list[bool] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        call = pending_call_of(one_worker.submit(int))
        assert call is not None
        begins = call.begin  # as a worker does, where the job that waits is stopped
        return call.on_wanted, lambda: begun.append(begins())

    for number, raised in enumerate(at_each_step(prepare, "calls", "backends"), 1):
        assert raised is None
        if len(begun) == number:
            assert backend._pool._wanted == {}
    assert len(begun) > 10
    assert all(begun)
    release.set()
