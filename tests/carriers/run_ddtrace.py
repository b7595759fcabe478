"""Jobs under the real ddtrace; test_carriers.py runs this in a process of its own.

Worker processes import this module too, and so have ddtrace as the server process has.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
from ddtrace.trace import Span, TraceFilter, tracer

from flask_executor_typed import Executor, FutureProxy
from tests.carriers.shop import create_app, view_was_asked
from tests.conftest import TIMEOUT

APP = "tests.carriers.run_ddtrace:create_app"
START = 60.0


class Keep(TraceFilter):
    """Keeps finished spans in place of the writer, which would send them to an agent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def process_trace(self, trace: list[Span]) -> None:
        self.spans += trace


kept = Keep()
tracer.configure(trace_processors=[kept])


@pytest.fixture(autouse=True)
def no_spans() -> Iterator[None]:
    kept.spans.clear()
    yield
    kept.spans.clear()


def finished(name: str) -> list[Span]:
    return [span for span in kept.spans if span.name == name]


def asked(
    view: Callable[[Executor], object], **settings: object
) -> AbstractContextManager[Executor]:
    """Ask for a view within a span, which ends with it; return the executor."""
    return view_was_asked(create_app(**settings), tracer.wrap("view")(view))


def assert_all_are_of_the_view(count: int) -> None:
    """Each job has a span, whose parent is the view's."""
    (view,) = finished("view")
    jobs = finished("job")
    assert [(job.trace_id, job.parent_id) for job in jobs] == [
        (view.trace_id, view.span_id)
    ] * count
    assert sorted(str(job.get_tag("name")) for job in jobs) == ["a", "b"][:count]
    assert view.get_tag("name") is None


# -- jobs ------------------------------------------------------------------------------------------


def plain(name: str) -> None:
    with tracer.trace("job") as span:
        span.set_tag("name", name)


async def coroutine(name: str) -> None:
    with tracer.trace("job") as span:
        span.set_tag("name", name)
        await asyncio.sleep(0)


def awaited(name: str) -> Awaitable[None]:
    return coroutine(name)


every_job = pytest.mark.parametrize("job", [plain, coroutine, awaited])
in_threads = pytest.mark.parametrize(
    "kind", ["thread", lambda: ThreadPoolExecutor(2)], ids=["threads", "borrowed pool"]
)


class Gate:
    """Lets jobs begin when the span of the view has ended."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def before(self, job: Callable[[str], Any]) -> Callable[[str], Any]:
        if asyncio.iscoroutinefunction(job):

            async def wait_async(name: str) -> Any:
                await asyncio.to_thread(self._open.wait, TIMEOUT)
                return await job(name)

            return wait_async

        def wait(name: str) -> Any:
            assert self._open.wait(TIMEOUT)
            return job(name)

        return wait


# -- tests -----------------------------------------------------------------------------------------


@in_threads
@every_job
def test_jobs_are_of_the_trace_of_a_view_that_waits_for_them(
    kind: object, job: Callable[[str], Any]
) -> None:
    def view(executor: Executor) -> None:
        for future in [executor.submit(job, name) for name in "ab"]:
            future.result(TIMEOUT)

    with asked(view, TYPE=kind):
        assert_all_are_of_the_view(2)


@in_threads
@every_job
def test_jobs_that_begin_when_the_span_of_the_view_has_ended_are_of_its_trace(
    kind: object, job: Callable[[str], Any]
) -> None:
    gate, futures = Gate(), list[FutureProxy[Any]]()

    def view(executor: Executor) -> None:
        futures.extend(executor.submit(gate.before(job), name) for name in "ab")

    with asked(view, TYPE=kind):
        gate.open()
        for future in futures:
            future.result(TIMEOUT)
    assert_all_are_of_the_view(2)


@every_job
def test_a_map_after_the_end_of_the_view_is_of_its_trace(job: Callable[[str], Any]) -> None:
    gate, results = Gate(), list[Iterator[Any]]()

    def view(executor: Executor) -> None:
        results.append(executor.map(gate.before(job), "ab", timeout=TIMEOUT))

    with asked(view):
        gate.open()
        assert list(results[0]) == [None, None]
    assert_all_are_of_the_view(2)


@every_job
def test_jobs_after_the_response_are_of_the_trace_of_the_view(job: Callable[[str], Any]) -> None:
    def view(executor: Executor) -> None:
        executor.after_response().submit(job, "a")
        executor.after_response().submit(job, "b")

    with asked(view):
        pass
    assert_all_are_of_the_view(2)


def test_each_attempt_is_of_the_trace_of_the_view_and_its_span_is_failed() -> None:
    gate, futures, attempts = Gate(), list[FutureProxy[Any]](), list[int]()

    def job(name: str) -> None:
        attempts.append(1)
        with tracer.trace("job"):
            if len(attempts) < 3:
                raise ValueError(name)

    def view(executor: Executor) -> None:
        futures.append(executor.using(retries=2).submit(gate.before(job), "a"))

    with asked(view):
        gate.open()
        futures[0].result(TIMEOUT)
    (view_span,) = finished("view")
    assert [span.parent_id for span in finished("job")] == [view_span.span_id] * 3
    assert [span.error for span in finished("job")] == [1, 1, 0]


def test_a_job_cannot_tag_the_span_of_the_view() -> None:
    def view(executor: Executor) -> None:
        assert executor.submit(tracer.current_span).result(TIMEOUT) is None
        assert tracer.current_span() is not None

    with asked(view):
        pass


def test_the_submitter_keeps_its_active_span() -> None:
    def view(executor: Executor) -> None:
        span = tracer.current_span()
        executor.submit(plain, "a").result(TIMEOUT)
        assert tracer.current_span() is span

    with asked(view, TYPE="sync"):
        assert_all_are_of_the_view(1)


def test_outside_of_a_trace_a_job_begins_its_own() -> None:
    app = create_app()
    with app.extensions["executor"] as executor:
        executor.submit(plain, "a").result(TIMEOUT)
    (job,) = finished("job")
    assert job.parent_id is None


def test_without_carriers_a_late_job_begins_a_trace_of_its_own() -> None:
    """What the default mends; as in a plain copy of the context variables."""
    gate, futures = Gate(), list[FutureProxy[Any]]()

    def view(executor: Executor) -> None:
        futures.append(executor.submit(gate.before(plain), "a"))

    with asked(view, CARRIERS=[]):
        gate.open()
        futures[0].result(TIMEOUT)
    (view_span,), (job,) = finished("view"), finished("job")
    assert job.trace_id != view_span.trace_id


# -- worker processes ------------------------------------------------------------------------------


def ids_of(name: str) -> tuple[int, int | None]:
    """Return what the span of a worker process says of its trace and its parent."""
    with tracer.trace("job") as span:
        return span.trace_id, span.parent_id


async def coroutine_ids_of(name: str) -> tuple[int, int | None]:
    return ids_of(name)


PROCESSES = [("process", APP), ("process", None), ("loky:get_reusable_executor", APP)]


@pytest.mark.parametrize(("kind", "app"), PROCESSES)
def test_in_worker_processes_jobs_are_of_the_trace_of_the_view(kind: str, app: str | None) -> None:
    futures: list[FutureProxy[Any]] = []

    def view(executor: Executor) -> None:
        futures.extend(executor.submit(job, "a") for job in (ids_of, coroutine_ids_of))

    with asked(view, TYPE=kind, APP=app, MAX_WORKERS=1):
        (view_span,) = finished("view")
        ids = [future.result(START) for future in futures]
    assert ids == [(view_span.trace_id, view_span.span_id)] * 2
