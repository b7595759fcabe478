"""Record the jobs that a test starts, hold them, run them in its thread, and check them.

The pytest plugin is built on it; nothing here needs pytest.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import secrets
from collections.abc import (
    Awaitable,
    Callable,
    Generator,
    Hashable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from flask import Flask
from typing_extensions import Self

from .app_state import AppState, backends_wrapped
from .backends import Backend
from .backends.capabilities import Capabilities
from .backends.pickling import dump_function, dump_result
from .backends.sync import SyncBackend
from .callables import check_function, name_of
from .calls import Call, Capacity, wait_until_idle
from .config import key_of
from .context import ContextRules, ContextSnapshot, active_app_context, capture
from .errors import ExecutorClosedError
from .executor import Executor, itself
from .futures import (
    FutureProxy,
    Progress,
    failure_of,
    future_with_id,
    note_asked,
    observe,
    result_of,
    telling,
    was_asked,
)
from .jobs import ExecutorJob
from .map import calls_in
from .runtime.weak import WeakListing

__all__ = ("ExecutorCalls", "JobEnvironment", "SubmittedCall", "override", "record")

P = ParamSpec("P")
R = TypeVar("R")

_TIMEOUT = 5.0  # seconds; what a test's jobs take is far less


@dataclass(frozen=True, slots=True)
class SubmittedCall:
    """One call that an executor has accepted."""

    executor: str
    """The label of the executor, ``"executor"`` or, with the name ``mail``, ``"mail_executor"``."""

    fn: Callable[..., Any]
    """The function, without ``@executor.job``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    future: FutureProxy[Any]

    def __str__(self) -> str:
        return _described(self.fn, self.args, self.kwargs)


class ExecutorCalls(Sequence[SubmittedCall]):
    """The calls that executors of this process have accepted, the oldest first.

    Each item of an ``executor.map`` is a call. A call of ``after_response()`` or ``after_commit()``
    is one when its event has come. Every method may be called from any thread.
    """

    runs: bool
    """Whether calls run at once, or when :meth:`run` is called."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.runs = recording.runs

    @overload
    def __getitem__(self, index: int) -> SubmittedCall: ...
    @overload
    def __getitem__(self, index: slice) -> list[SubmittedCall]: ...
    def __getitem__(self, index: int | slice) -> SubmittedCall | list[SubmittedCall]:
        return self._recording.calls[index]

    def __len__(self) -> int:
        return len(self._recording.calls)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(map(str, self)) or 'none'}>"

    def of(self, fn: Callable[..., object]) -> list[SubmittedCall]:
        """Return the calls of a function, or of a job."""
        function = _function_of(fn)
        return [call for call in self if call.fn == function]

    def assert_submitted(
        self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> SubmittedCall:
        """Return the first call of ``fn`` with these arguments.

        It does not matter which of them are named, nor which defaults are left out. For an argument
        of any value use ``unittest.mock.ANY``.

        Raises:
            AssertionError: there is none; the message lists what was submitted.
        """
        function = _function_of(fn)
        wanted = _bound(function, args, kwargs)
        for call in self.of(fn):
            # What is wanted first: of ANY and of matchers, ``==`` is what decides.
            if wanted == _bound(function, call.args, call.kwargs):
                return call
        raise AssertionError(
            f"{_described(function, args, kwargs)} was not submitted; {self._list()}"
        )

    def assert_not_submitted(self, fn: Callable[..., object], /) -> None:
        """Check that no call of ``fn`` was submitted, whatever its arguments.

        Raises:
            AssertionError: there was one.
            TypeError: ``fn`` is no function, and was not submitted for that reason alone.
        """
        check_function(_function_of(fn))
        if self.of(fn):
            raise AssertionError(f"{name_of(_function_of(fn))} was submitted; {self._list()}")

    def run(self, timeout: float = _TIMEOUT) -> None:
        """Run the calls that are held, and wait for them and for all that they submit.

        Args:
            timeout: Seconds.

        Raises:
            ExecutorBusyError: calls are left when time is up; a ``TimeoutError`` that names them.
        """
        self._recording.run(timeout)

    def wait(self, timeout: float = _TIMEOUT) -> None:
        """Wait for all calls, their done callbacks, and what both submit.

        Raises:
            ExecutorBusyError: calls are left when time is up; a ``TimeoutError`` that names them.
            RuntimeError: calls are held, and would never end; use :meth:`run`.
        """
        self._recording.wait(timeout)

    def expect_failure(
        self, error: type[BaseException] | tuple[type[BaseException], ...], match: str = ""
    ) -> AbstractContextManager[list[BaseException]]:
        """Check that a call which is submitted in the block fails with ``error``.

        At its end the block runs what is held, and waits for the calls. Then the list that it gives
        holds the errors, and these failures are no surprise to the pytest plugin.

        Args:
            error: The class of the error, or several.
            match: A regular expression to be found in its text.

        Raises:
            AssertionError: no call failed like that.
        """
        return self._expect_failure(error, match)

    @contextlib.contextmanager
    def _expect_failure(
        self, error: type[BaseException] | tuple[type[BaseException], ...], match: str
    ) -> Generator[list[BaseException], None, None]:
        first = len(self)
        errors: list[BaseException] = []
        yield errors
        if self.runs:
            self.wait()
        else:
            self.run()
        others: list[BaseException] = []
        for future in dict.fromkeys(call.future for call in self[first:]):
            failure = failure_of(future)
            if isinstance(failure, error) and re.search(match, str(failure)):
                errors.append(failure)
                note_asked(future)
            elif failure is not None:
                others.append(failure)
        if not errors:
            classes = error if isinstance(error, tuple) else (error,)
            expected = " or ".join(each.__name__ for each in classes)
            matching = f" that matches {match!r}" if match else ""
            happened = ", ".join(map(repr, others)) or "none has failed"
            raise AssertionError(
                f"expected a job to fail with {expected}{matching}: {happened}"
            ) from next(iter(others), None)

    def _list(self) -> str:
        if not self:
            return "nothing was"
        return "\n  ".join(["these calls were:", *map(str, self)])


def record(*, runs: bool = True, portable: bool = False) -> AbstractContextManager[ExecutorCalls]:
    """Record the calls of all executors of this process, until the block ends.

    Args:
        runs: ``False``: hold the calls until :meth:`ExecutorCalls.run`. What is still held at the
            end is cancelled.
        portable: Refuse what worker processes could not take, although threads can. ``submit``
            raises ``UnpicklableError`` for a function or an argument, and the end of the block for
            a result.
    """
    return _record(runs, portable)


@contextlib.contextmanager
def _record(runs: bool, portable: bool) -> Generator[ExecutorCalls, None, None]:
    with recording(runs=runs, portable=portable) as record:
        yield ExecutorCalls(record)
    record.raise_unportable()


class Recording:
    """What was submitted while it was on, and what is held."""

    def __init__(self, *, runs: bool, portable: bool) -> None:
        self.runs: bool = runs
        self.calls: list[SubmittedCall] = []
        self._portable = portable
        self._unportable: list[BaseException] = []
        self._held: list[tuple[Backend, Call[Any]]] = []
        self._is_releasing = False
        self._is_over = False
        self._labels: dict[str, None] = {}
        self._capacities: list[WeakListing[Capacity]] = []

    def wrap(self, state: AppState, backend: Backend) -> Backend:
        """Return a backend that records what it passes on to ``backend``."""
        self._labels[state.label] = None
        if not any(each is state.capacities for each in self._capacities):
            self._capacities.append(state.capacities)
        return _RecordingBackend(self, state.label, backend)

    def submit(self, label: str, backend: Backend, call: Call[Any]) -> None:
        """Record a call, and pass it on or hold it.

        Raises:
            UnpicklableError: it could not be sent to a worker process, and must be portable.
        """
        if self._is_over:
            # In a recording that began later: that one passes its calls on to this one.
            backend.submit(call)
            return
        future, name = call.future, call.future.name
        if self._portable:
            try:
                dump_function(call)
            except BaseException as error:
                self._unportable.append(error)
                raise
            call.watch(lambda future: self._check_result(name, future))
        made = [
            SubmittedCall(label, fn, args, call.kwargs, future)
            for fn, args in calls_in(call.fn, call.args)
        ]
        observe(future)
        # Before the workers know of it: a job may look for its own call.
        self.calls += made
        if not self.runs and not self._is_releasing:
            self._held.append((backend, call))
            return
        try:
            backend.submit(call)
        except BaseException:
            self.calls[:] = [each for each in self.calls if each.future is not future]
            raise

    def _check_result(self, name: str, future: FutureProxy[Any]) -> None:
        if not future.cancelled() and failure_of(future) is None:
            try:
                dump_result(name, result_of(future))
            except BaseException as error:
                self._unportable.append(error)

    def raise_unportable(self) -> None:
        """Raise the first error of a call that worker processes could not take, if there is one."""
        if self._unportable:
            raise self._unportable[0]

    def run(self, timeout: float) -> None:
        self._is_releasing = True  # so that a job which waits for its own jobs does not wait ever
        try:
            while True:
                self._release()
                self._wait(timeout)
                if not self._held:  # another thread may have been about to hold one
                    return
        finally:
            self._is_releasing = False

    def _release(self) -> None:
        while self._held:
            backend, call = self._held.pop(0)
            if not call.future.done():
                try:
                    backend.submit(call)
                except BaseException as error:
                    call.fail(error)
                    if not isinstance(error, ExecutorClosedError):
                        raise

    def wait(self, timeout: float) -> None:
        if self._held:
            raise RuntimeError(
                f"{len(self._held)} calls are held, the first is {self._held[0][1].future.name}: "
                "use run() instead of wait()"
            )
        self._wait(timeout)

    def _wait(self, timeout: float) -> None:
        capacities = [capacity for each in self._capacities for capacity in each]
        wait_until_idle(capacities, timeout, ", ".join(self._labels))

    def end(self) -> None:
        """Record and hold no more, and cancel the calls that are held."""
        self._is_over = True
        self.drop_held()

    def drop_held(self) -> None:
        """Cancel the calls that are held."""
        while self._held:
            _, call = self._held.pop()
            call.cancel()

    def leaks(self) -> list[SubmittedCall]:
        """Return the calls that are not over."""
        return [call for call in _each_once(self.calls) if not call.future.done()]

    def unseen_failures(self) -> list[tuple[SubmittedCall, BaseException]]:
        """Return the calls that failed and whose outcome no caller has asked for."""
        failures = [(call, failure_of(call.future)) for call in _each_once(self.calls)]
        return [
            (call, failure)
            for call, failure in failures
            if failure is not None and not was_asked(call.future)
        ]


@contextlib.contextmanager
def recording(*, runs: bool, portable: bool = False) -> Generator[Recording, None, None]:
    """Record until the block ends, and cancel then what is held."""
    record = Recording(runs=runs, portable=portable)
    try:
        with backends_wrapped(record.wrap):
            yield record
    finally:
        record.end()


class _RecordingBackend:
    """A backend that has its calls recorded, or held."""

    def __init__(self, record: Recording, label: str, backend: Backend) -> None:
        self._record = record
        self._label = label
        self._backend = backend

    def submit(self, call: Call[Any]) -> None:
        self._record.submit(self._label, self._backend, call)

    @property
    def capabilities(self) -> Capabilities:
        return self._backend.capabilities

    def sizes(self) -> tuple[int, int]:
        return self._backend.sizes()

    def close(self, *, cancel_pending: bool) -> None:
        self._backend.close(cancel_pending=cancel_pending)

    def runs_here(self) -> bool:
        return self._backend.runs_here()

    def wait(self, end: float) -> bool:
        return self._backend.wait(end)

    def abandon(self, seconds: float) -> None:
        self._backend.abandon(seconds)

    def kill(self) -> bool:
        return self._backend.kill()

    def leave_behind(self) -> None:
        self._backend.leave_behind()


def _each_once(calls: Iterable[SubmittedCall]) -> Iterator[SubmittedCall]:
    """Yield the first call of each future: those of a chunk share one."""
    seen: dict[FutureProxy[Any], SubmittedCall] = {}
    for call in list(calls):
        seen.setdefault(call.future, call)
    return iter(seen.values())


def _function_of(fn: Callable[..., object]) -> Callable[..., object]:
    return cast("ExecutorJob[..., object]", fn).fn if isinstance(fn, ExecutorJob) else fn


def _bound(fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Return arguments by their names, whichever were named."""
    try:
        bound = inspect.signature(fn).bind(*args, **kwargs)
    except (TypeError, ValueError):  # it has no signature, or does not take them
        return args, kwargs
    bound.apply_defaults()
    return bound.arguments


def _described(fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    named = [f"{name}={value!r}" for name, value in kwargs.items()]
    return f"{name_of(fn)}({', '.join([*map(repr, args), *named])})"


def override(
    executor: Executor[Any],
    app: Flask,
    /,  # EXECUTOR_APP is a setting too
    *,
    type: Literal["sync", "thread", "process"] | Callable[[], Any] = "sync",  # noqa: A002
    **settings: Any,
) -> AbstractContextManager[Executor[Any]]:
    """Let an executor of an app have other settings until the block ends.

    What was accepted before is done by the workers that there were, and the old settings come back
    at the end, with new workers. What only an engine does, ``using(queue=...)`` and the like, is
    ignored.

    Args:
        executor: The executor.
        app: The app that it serves.
        type: As ``EXECUTOR_TYPE``. ``"sync"`` runs each call in ``submit()``.
        settings: As ``EXECUTOR_...``, in lower case: ``max_workers=1``.

    Raises:
        ConfigError: a setting cannot be used.
    """
    return _override(executor, itself(app), {"type": type, **settings})


@contextlib.contextmanager
def _override(
    executor: Executor[Any], app: Flask, settings: dict[str, Any]
) -> Generator[Executor[Any], None, None]:
    config = cast("dict[str, Any]", app.config)
    given = {key_of(field, name=executor.name): value for field, value in settings.items()}
    before = {key: config[key] for key in given if key in config}
    ignored = executor.serves(app) and executor.state_of(app).ignores_routes
    try:
        config.update(given)
        executor.init_app(app)
        executor.state_of(app).ignores_routes = True
        yield executor
    finally:
        for key in given:
            config.pop(key, None)
        config.update(before)
        executor.init_app(app)  # which keeps the state if no setting has changed
        executor.state_of(app).ignores_routes = ignored


class JobEnvironment:
    """A job around one function, without an executor: ``current_job`` works in it.

    ``with JobEnvironment(attempt=2) as job: result = job.run(fn, *args)``. The function runs in the
    thread that calls :meth:`run`, which waits for it; a coroutine function runs on an event loop of
    its own. It has the app context and the request that are active here, if any.

    Args:
        attempt: The number of the attempt that ``current_job.attempt`` gives.
        key: The key that ``current_job.key`` gives.
    """

    progress: list[Progress]
    """What the job has reported, the oldest first."""

    def __init__(self, *, attempt: int = 1, key: Hashable | None = None) -> None:
        self.progress = []
        self._attempt = attempt
        self._key = key
        self._is_cancelled = False
        self._future: FutureProxy[Any] | None = None
        self._backend = SyncBackend("job_environment", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._backend.close(cancel_pending=True)

    @overload
    def run(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, fn: Callable[P, R | Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` as a job, and return what it returns.

        Raises:
            concurrent.futures.CancelledError: the job has answered :meth:`cancel`.
            BaseException: what the function raised.
        """
        function = _function_of(fn)
        snapshot, variables = _captured()
        future = future_with_id(name_of(function), secrets.token_urlsafe(16), self._key)
        call = _CallOfEnvironment(function, args, kwargs, snapshot, variables, future, False)
        call.attempt = self._attempt
        call.note_begin = self._note_begin
        self._future = future
        with telling(future, lambda: self._report(future)):
            self._backend.submit(call)
        return future.result()

    def cancel(self) -> None:
        """Ask the job to end, as ``future.cancel()`` does, from now on. From any thread."""
        self._is_cancelled = True
        if self._future is not None:
            self._future.cancel()

    def _note_begin(self) -> None:
        if self._is_cancelled and self._future is not None:
            self._future.cancel()

    def _report(self, future: FutureProxy[Any]) -> None:
        if future.progress is not None:
            self.progress.append(future.progress)


class _CallOfEnvironment(Call[Any]):
    __slots__ = ("note_begin",)

    note_begin: Callable[[], None]

    def begin(self) -> bool:
        begins = super().begin()
        if begins:
            self.note_begin()  # cancelled before it began, a plain function runs and sees it
        return begins

    def _announce_start(self) -> None:
        """Send no signal: no executor has submitted the call."""


def _captured() -> tuple[ContextSnapshot, Context]:
    app_context = active_app_context()
    if app_context is not None:
        return capture(ContextRules(), app_context.app, app_context)
    nothing = ContextRules(push_app=False, push_request=False)
    return ContextSnapshot(Flask("flask_executor_typed"), nothing), copy_context()
