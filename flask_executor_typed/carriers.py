"""Carriers, which take values along with a job, in addition to contexts and context variables.

The only module that knows Sentry, ddtrace, OpenTelemetry and structlog. A carrier imports its
library on use, so none of them is a dependency.
"""

from __future__ import annotations

import sys
from asyncio import CancelledError
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

from .context import running_call

if TYPE_CHECKING:
    from ddtrace.trace import Context as DatadogContext
    from opentelemetry.context import Context as OtelContext
    from opentelemetry.metrics import CallbackOptions, Histogram, Observation
    from opentelemetry.trace import Span
    from sentry_sdk import Scope

__all__ = ("Carrier", "ddtrace", "opentelemetry", "sentry", "structlog")

V = TypeVar("V")


class Carrier(Protocol[V]):
    """Takes a value from the place where a job is submitted to the place where it runs.

    Any object with these three members is a carrier; there is no base class. Its methods are called
    in any thread. If one raises, that is logged once, and the job runs without this carrier.
    """

    @property
    def name(self) -> str:
        """The carrier's name in messages, and in data sent to other processes."""
        ...

    def capture(self) -> V:
        """Return the value to take along.

        Called when a job is submitted, in the submitter's thread and contexts; once for all calls
        of a ``map``. For worker processes, the value must be picklable.
        """
        ...

    def attach(self, captured: V, /) -> AbstractContextManager[object]:
        """Return a context manager that makes the captured value current.

        It is entered where the job runs, in the job's contexts, before each run of the function,
        retries included. It exits before the teardown functions, with the function's exception,
        which it cannot suppress. Several runs may use a captured value at the same time.
        """
        ...


# -- Sentry ----------------------------------------------------------------------------------------


class _Scopes(NamedTuple):
    """A copy of the submitter's scopes. Pickling keeps the parts that can be rebuilt elsewhere."""

    isolation: Scope
    current: Scope

    def __reduce__(self) -> tuple[Any, ...]:
        with _using(self.isolation, self.current):
            headers = dict(self.current.iter_trace_propagation_headers())
        tags, user = dict[str, Any](), None
        for scope in self:  # Sentry has no public way to read them
            tags.update(scope._tags)  # pyright: ignore[reportPrivateUsage]
            user = scope._user or user  # pyright: ignore[reportPrivateUsage]
        return _RemoteScopes, (tags, user, headers)


class _RemoteScopes(NamedTuple):
    """The parts of the scopes that travel to another process."""

    tags: dict[str, Any]
    user: dict[str, Any] | None
    headers: dict[str, str]


@contextmanager
def _using(isolation: Scope, current: Scope) -> Generator[None, None, None]:
    from sentry_sdk.scope import use_isolation_scope, use_scope

    with use_isolation_scope(isolation), use_scope(current):
        yield


class _Sentry:
    """Sentry's scopes. Each run gets a fork of the submitter's scopes as they were at ``submit``.

    Without it, the copied context variables refer to the submitter's own, mutable scopes.
    """

    name = "sentry"

    def capture(self) -> _Scopes | None:
        import sentry_sdk

        if not sentry_sdk.is_initialized():
            return None
        return _Scopes(
            sentry_sdk.get_isolation_scope().fork(), sentry_sdk.get_current_scope().fork()
        )

    def attach(self, captured: _Scopes | _RemoteScopes | None, /) -> AbstractContextManager[object]:
        if captured is None:
            return nullcontext()
        if isinstance(captured, _Scopes):
            return _using(captured.isolation.fork(), captured.current.fork())
        return self._remade(captured)

    @contextmanager
    def _remade(self, captured: _RemoteScopes) -> Generator[None, None, None]:
        import sentry_sdk

        with sentry_sdk.isolation_scope() as scope:
            scope.set_tags(captured.tags)
            scope.set_user(captured.user)
            sentry_sdk.continue_trace(captured.headers)
            yield


# -- ddtrace ---------------------------------------------------------------------------------------


class _Datadog:
    """Datadog's trace: the submitter's, even if its span ends before the job begins.

    Without it, the copied context variables refer to that span, and ddtrace ignores an ended one.
    """

    name = "ddtrace"

    def capture(self) -> DatadogContext | None:
        import ddtrace.trace

        tracer: Any = ddtrace.trace.tracer  # its annotations are incomplete
        context: DatadogContext | None = tracer.current_trace_context()
        if context is None or context.trace_id is None or context.span_id is None:
            return None
        return context.copy(context.trace_id, context.span_id)  # its baggage is mutable

    @contextmanager
    def attach(self, captured: DatadogContext | None, /) -> Generator[None, None, None]:
        from ddtrace.trace import tracer

        provider = tracer.context_provider
        before = provider.active()
        provider.activate(captured)
        try:
            yield
        finally:
            provider.activate(before)


# -- OpenTelemetry ---------------------------------------------------------------------------------


class _TraceContext(NamedTuple):
    """OpenTelemetry's context. The configured propagators decide what is pickled of it."""

    context: OtelContext

    def __reduce__(self) -> tuple[Any, ...]:
        from opentelemetry.propagate import inject

        headers: dict[str, str] = {}
        inject(headers, self.context)
        return _extracted, (headers,)


def _extracted(headers: dict[str, str]) -> _TraceContext:
    from opentelemetry.propagate import extract

    return _TraceContext(extract(headers))


class OpenTelemetry:
    """OpenTelemetry's context. In threads, it travels with the context variables.

    Call it to get a carrier that also records jobs: ``opentelemetry(spans=True)``.
    """

    name = "opentelemetry"

    def __init__(self, *, spans: bool = False, metrics: bool = False) -> None:
        self._spans = spans
        self._metrics = _Metrics() if metrics else None

    def __call__(self, *, spans: bool = False, metrics: bool = False) -> OpenTelemetry:
        """Return a carrier that also records jobs.

        Args:
            spans: Record a span for each run of a job, under the job's name, with the attributes
                ``job.id``, ``job.key``, ``job.attempt``, and ``job.outcome``: ``succeeded``,
                ``failed`` or ``cancelled``. The span is a child of the submitter's span if that
                is still open. Otherwise, it begins a new trace, with a link to the submitter's.
            metrics: Report how many jobs are pending, running and finished, and how many seconds
                their runs take. Create one such carrier and share it among all executors.
        """
        return OpenTelemetry(spans=spans, metrics=metrics)

    def capture(self) -> _TraceContext:
        from opentelemetry.context import get_current

        return _TraceContext(get_current())

    @contextmanager
    def attach(self, captured: _TraceContext, /) -> Generator[None, None, None]:
        from opentelemetry.context import attach, detach

        token = attach(captured.context)
        try:
            if self._spans or self._metrics is not None:
                with self._recorded(running_call.get()):
                    yield
            else:
                yield
        finally:
            detach(token)

    @contextmanager
    def _recorded(self, call: Any) -> Generator[None, None, None]:
        """Record one run of a call."""
        future = call.future
        began = perf_counter()
        with _span_of(future, call.attempt) if self._spans else nullcontext() as span:
            outcome = "succeeded"
            try:
                yield
            except BaseException as error:
                outcome = "cancelled" if isinstance(error, CancelledError) else "failed"
                raise
            finally:
                if future.done():  # cancelled, or out of time, while it ran
                    outcome = future.status
                if span is not None:
                    span.set_attribute("job.outcome", outcome)
                if self._metrics is not None:
                    attributes = {"job.name": future.name, "job.outcome": outcome}
                    self._metrics.duration.record(perf_counter() - began, attributes)
                del future, call  # the traceback of an exception refers to this frame

    def observe(self, executor: _HasStats, attributes: dict[str, str]) -> None:
        """Report an executor's job counts for as long as it is alive."""
        if self._metrics is not None:
            self._metrics.executors[executor] = attributes


def _span_of(future: Any, attempt: int) -> AbstractContextManager[Span]:
    """Start a span for a run, and end it with the block."""
    from opentelemetry import trace
    from opentelemetry.context import get_current

    context, links = get_current(), list[trace.Link]()
    submitters = trace.get_current_span(context)
    if getattr(submitters, "end_time", None) is not None:  # an SDK span that has ended
        context = trace.set_span_in_context(trace.INVALID_SPAN, context)
        links.append(trace.Link(submitters.get_span_context()))
    attributes: dict[str, str | int] = {"job.id": future.id, "job.attempt": attempt}
    if future.key is not None:
        attributes["job.key"] = str(future.key)
    tracer = trace.get_tracer("flask_executor_typed")
    return tracer.start_as_current_span(future.name, context, links=links, attributes=attributes)


class _HasStats(Protocol):
    def stats(self) -> Any: ...


class _Metrics:
    """The instruments of one carrier."""

    def __init__(self) -> None:
        from opentelemetry.metrics import get_meter

        self.executors: WeakKeyDictionary[_HasStats, dict[str, str]] = WeakKeyDictionary()
        """The observed executors, with their attributes."""
        meter = get_meter("flask_executor_typed")
        meter.create_observable_up_down_counter(
            "jobs.pending", [self._count("pending")], "{job}", "Jobs that have not started."
        )
        meter.create_observable_up_down_counter(
            "jobs.running", [self._count("running")], "{job}", "Jobs that have started."
        )
        meter.create_observable_counter(
            "jobs.finished",
            [self._count(outcome, outcome) for outcome in ("succeeded", "failed", "cancelled")],
            "{job}",
            "Jobs that are done, by outcome.",
        )
        self.duration: Histogram = meter.create_histogram(
            "job.duration", "s", "Seconds that one run of a job took."
        )

    def _count(
        self, field: str, outcome: str | None = None
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """Return a callback that reports one of the counts of each executor."""
        from opentelemetry.metrics import Observation

        more = {} if outcome is None else {"job.outcome": outcome}

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for executor, attributes in list(self.executors.items()):
                yield Observation(getattr(executor.stats(), field), attributes | more)

        return observe


# -- structlog -------------------------------------------------------------------------------------


class _Structlog:
    """structlog's bound values. In threads, they travel with the context variables."""

    name = "structlog"

    def capture(self) -> dict[str, Any]:
        from structlog.contextvars import get_contextvars

        return get_contextvars()

    def attach(self, captured: dict[str, Any], /) -> AbstractContextManager[object]:
        from structlog.contextvars import bound_contextvars

        return bound_contextvars(**captured)


# -- which of them ---------------------------------------------------------------------------------

sentry: Carrier[Any] = _Sentry()
ddtrace: Carrier[Any] = _Datadog()
opentelemetry: OpenTelemetry = OpenTelemetry()
structlog: Carrier[Any] = _Structlog()

_BUILT_IN: dict[str, Carrier[Any]] = {
    "sentry_sdk": sentry,
    "ddtrace": ddtrace,
    "opentelemetry.trace": opentelemetry,
    "structlog": structlog,
}
"""The built-in carriers, by the module that each is for."""

_IN_THREADS = frozenset({sentry.name, ddtrace.name})
"""The carriers that threads need too; the others travel with the context variables there."""


def carrier_named(name: str) -> Carrier[Any]:
    """Return the built-in carrier of that name.

    Raises:
        LookupError: there is none.
    """
    for carrier in _BUILT_IN.values():
        if carrier.name == name:
            return carrier
    cure = "give it to the executor of EXECUTOR_APP"
    raise LookupError(f"this process has no carrier {name!r}; {cure}")


def default_carriers(*, shared_memory: bool) -> list[Carrier[Any]]:
    """Return the carriers that jobs need for the libraries imported in this process.

    Args:
        shared_memory: Whether the backend passes on context variables itself.
    """
    return [
        carrier
        for module, carrier in _BUILT_IN.items()
        if module in sys.modules and (carrier.name in _IN_THREADS or not shared_memory)
    ]
