"""Jobs under the real OpenTelemetry SDK; test_carriers.py runs this in a process of its own.

Worker processes import this module too, and so have an exporter as the server process has.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
from flask import Flask
from opentelemetry import baggage, context, metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from flask_executor_typed import Executor, FutureProxy, current_job
from flask_executor_typed.carriers import opentelemetry
from tests.carriers import shop
from tests.conftest import TIMEOUT

START = 60.0

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("tests")
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))

recorder = opentelemetry(spans=True)


def create_app(**settings: object) -> Flask:
    spans = {"CARRIERS": f"{__name__}:recorder", "LOG_EXCEPTIONS": False}
    return shop.create_app(**{**spans, **settings})


def create_app_without_spans() -> Flask:
    return create_app(CARRIERS=None)


@pytest.fixture(autouse=True)
def no_spans() -> Iterator[None]:
    exporter.clear()
    yield
    exporter.clear()


def finished(name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def asked(
    view: Callable[[Executor], object], **settings: object
) -> AbstractContextManager[Executor]:
    """Ask for a view within a span, which ends with it; return the executor."""
    traced = tracer.start_as_current_span("view")(view)
    return shop.view_was_asked(create_app(**settings), traced)


# -- jobs ------------------------------------------------------------------------------------------


def plain(name: str) -> str:
    trace.get_current_span().set_attribute("name", name)
    return name


async def coroutine(name: str) -> str:
    await asyncio.sleep(0)
    return plain(name)


def unlucky(name: str) -> None:
    raise ValueError(name)


async def unlucky_coroutine(name: str) -> None:
    raise ValueError(name)


both_kinds = pytest.mark.parametrize("job", [plain, coroutine])
in_threads = pytest.mark.parametrize(
    "kind", ["thread", "sync", lambda: ThreadPoolExecutor(2)], ids=["threads", "sync", "borrowed"]
)


# -- spans -----------------------------------------------------------------------------------------


@in_threads
@both_kinds
def test_each_job_of_a_view_that_waits_has_a_span_below_the_views(
    kind: object, job: Callable[[str], Any]
) -> None:
    ids: list[str] = []

    def view(executor: Executor) -> None:
        keyed = executor.using(key="report")
        futures = [executor.submit(job, "a"), keyed.submit(job, "b")]
        for future in futures:
            future.result(TIMEOUT)
        ids.extend(future.id for future in futures)

    with asked(view, TYPE=kind):
        pass
    (of_view,), jobs = finished("view"), finished(job.__name__)
    assert [span.parent for span in jobs] == [of_view.context] * 2
    assert not any(span.links for span in jobs)
    a, b = sorted((attributes_of(span) for span in jobs), key=lambda each: each["name"])
    common = {"job.attempt": 1, "job.outcome": "succeeded"}
    assert a == {"job.id": ids[0], "name": "a", **common}
    assert b == {"job.id": ids[1], "name": "b", "job.key": "report", **common}
    assert attributes_of(of_view) == {}


@both_kinds
def test_a_job_that_begins_when_the_view_is_over_has_a_trace_of_its_own_with_a_link(
    job: Callable[[str], Any],
) -> None:
    def view(executor: Executor) -> None:
        executor.after_response().submit(job, "a")

    with asked(view):
        pass
    (of_view,), (of_job,) = finished("view"), finished(job.__name__)
    assert of_view.context is not None
    assert of_job.context is not None
    assert of_job.parent is None
    assert of_job.context.trace_id != of_view.context.trace_id
    assert [link.context for link in of_job.links] == [of_view.context]


def test_the_calls_of_a_map_have_spans_of_their_own() -> None:
    def view(executor: Executor) -> None:
        assert list(executor.map(plain, "abc", timeout=TIMEOUT)) == ["a", "b", "c"]

    with asked(view):
        pass
    assert sorted(attributes_of(span)["name"] for span in finished("plain")) == ["a", "b", "c"]


@pytest.mark.parametrize("job", [unlucky, unlucky_coroutine])
def test_each_failed_attempt_has_a_failed_span(job: Callable[[str], Any]) -> None:
    def view(executor: Executor) -> None:
        executor.using(retries=1).submit(job, "a").exception(TIMEOUT)

    with asked(view):
        pass
    spans = finished(job.__name__)
    assert [attributes_of(span)["job.attempt"] for span in spans] == [1, 2]
    for span in spans:
        assert attributes_of(span)["job.outcome"] == "failed"
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "ValueError: a"
        assert [event.name for event in span.events] == ["exception"]


def test_a_cancelled_job_says_so() -> None:
    began = threading.Event()

    async def sleep() -> None:
        began.set()
        await asyncio.sleep(TIMEOUT)

    def stop() -> None:
        began.set()
        while not current_job.cancel_requested:
            threading.Event().wait(0.001)
        current_job.raise_if_cancelled()

    for job in sleep, stop:
        began.clear()

        def view(executor: Executor, job: Callable[[], Any] = job) -> None:
            future = executor.using(name="job").submit(job)
            assert began.wait(TIMEOUT)
            future.cancel()

        with asked(view):
            pass
    assert [attributes_of(span)["job.outcome"] for span in finished("job")] == ["cancelled"] * 2
    assert [span.status.status_code for span in finished("job")] == [StatusCode.UNSET] * 2


def test_a_job_that_is_out_of_time_is_failed() -> None:
    async def sleep() -> None:
        await asyncio.sleep(TIMEOUT)

    def view(executor: Executor) -> None:
        executor.using(name="job", timeout=0.01).submit(sleep).exception(TIMEOUT)

    with asked(view):
        pass
    (span,) = finished("job")
    assert attributes_of(span)["job.outcome"] == "failed"


# -- without spans, and in worker processes --------------------------------------------------------


@both_kinds
def test_in_threads_the_current_span_travels_with_the_context_variables(
    job: Callable[[str], Any],
) -> None:
    def view(executor: Executor) -> None:
        executor.submit(job, "a").result(TIMEOUT)

    with asked(view, CARRIERS=None) as executor:
        assert executor._current()[1].call_type.__name__ == "Call"
    (of_view,) = finished("view")
    assert attributes_of(of_view) == {"name": "a"}


def what_is_current(name: str) -> tuple[int, int, object]:
    """Return trace, span and baggage of a worker process."""
    current = trace.get_current_span().get_span_context()
    return current.trace_id, current.span_id, baggage.get_baggage("tenant")


async def what_is_current_soon(name: str) -> tuple[int, int, object]:
    return what_is_current(name)


def spans_there() -> list[tuple[str, int | None, dict[str, Any]]]:
    """Return the spans of a worker process: name, parent, and attributes but for the id."""
    return [
        (
            span.name,
            span.parent and span.parent.span_id,
            {name: value for name, value in attributes_of(span).items() if name != "job.id"},
        )
        for span in exporter.get_finished_spans()
    ]


PROCESSES = [("process", True), ("process", False), ("loky:get_reusable_executor", True)]


@pytest.mark.parametrize(("kind", "has_app"), PROCESSES)
def test_in_worker_processes_jobs_have_the_submitters_context(kind: str, has_app: bool) -> None:
    seen: list[Any] = []
    path = f"{__name__}:create_app_without_spans" if has_app else None

    def view(executor: Executor) -> None:
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        futures = [executor.submit(job, "a") for job in (what_is_current, what_is_current_soon)]
        context.detach(token)
        seen.extend(future.result(START) for future in futures)

    with asked(view, TYPE=kind, APP=path, CARRIERS=None, MAX_WORKERS=1):
        pass
    (of_view,) = finished("view")
    assert of_view.context is not None
    assert seen == [(of_view.context.trace_id, of_view.context.span_id, "acme")] * 2


def test_in_a_worker_process_each_run_has_a_span() -> None:
    futures: list[FutureProxy[Any]] = []

    def view(executor: Executor) -> None:
        futures.append(executor.submit(plain, "a"))
        futures.append(executor.using(retries=1).submit(unlucky, "b"))

    settings = {"TYPE": "process", "APP": f"{__name__}:create_app", "MAX_WORKERS": 1}
    with asked(view, **settings) as executor:
        for future in futures:
            future.exception(START)
        there = executor.submit(spans_there).result(START)
    (of_view,) = finished("view")
    assert of_view.context is not None
    parent = of_view.context.span_id
    failed = {"job.outcome": "failed"}
    assert there == [
        ("plain", parent, {"job.attempt": 1, "job.outcome": "succeeded", "name": "a"}),
        ("unlucky", parent, {"job.attempt": 1, **failed}),
        ("unlucky", parent, {"job.attempt": 2, **failed}),
    ]


# -- metrics ---------------------------------------------------------------------------------------


def measured() -> dict[tuple[str, str | None], tuple[Any, dict[str, Any]]]:
    """Each figure, by its name and outcome: the value or count, and the other attributes."""
    found: dict[tuple[str, str | None], tuple[Any, dict[str, Any]]] = {}
    data = reader.get_metrics_data()
    assert data is not None
    for of_resource in data.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                for point in metric.data.data_points:
                    attributes: dict[str, Any] = dict(point.attributes or {})
                    outcome = attributes.pop("job.outcome", None)
                    figure = getattr(point, "count", None) or getattr(point, "value", None)
                    found[metric.name, outcome] = figure, attributes
    return found


def test_metrics_tell_how_many_jobs_there_are_and_how_long_they_run() -> None:
    app = Flask("shop")
    app.config["EXECUTOR_MAX_WORKERS"] = 1
    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
    began, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert go_on.wait(TIMEOUT)

    with Executor(app, carriers=[opentelemetry(metrics=True)]) as executor:
        executor.submit(unlucky, "a").exception(TIMEOUT)
        futures = [executor.using(name="hold").submit(hold) for _ in range(3)]
        assert began.wait(TIMEOUT)
        mine = {"executor": "executor", "app": "shop"}
        figures = measured()
        assert figures["jobs.pending", None] == (2, mine)
        assert figures["jobs.running", None] == (1, mine)
        assert figures["jobs.finished", "failed"] == (1, mine)
        assert figures["jobs.finished", "succeeded"] == (0, mine)
        assert figures["job.duration", "failed"] == (1, {"job.name": "unlucky"})
        go_on.set()
        for future in futures:
            future.result(TIMEOUT)
    figures = measured()
    assert figures["jobs.finished", "succeeded"] == (3, mine)
    assert figures["job.duration", "succeeded"] == (3, {"job.name": "hold"})
