"""The Flask extension: find the app, capture the contexts, build the call and send it.

The only module that touches ``app.extensions``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from datetime import date, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import PurePath
from queue import SimpleQueue
from types import FunctionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeGuard,
    TypeVar,
    overload,
)
from uuid import UUID
from weakref import WeakKeyDictionary

from flask import Flask, copy_current_request_context, current_app, g, has_request_context
from flask.signals import got_request_exception
from typing_extensions import Self, Unpack
from typing_extensions import TypeVar as TypeVarWithDefault
from werkzeug.wrappers import Response

from .after_commit import SessionLike, until_commit
from .after_response import until_response_is_over
from .app_state import AppState, Closed, close_all, drain_apart, settings_of, states
from .async_views.hook import check_hook
from .backends import ThreadBackend
from .callables import GENERATOR, check_function, missing_await, name_of
from .calls import (
    Backoff,
    Call,
    Capacity,
    ExecutorStats,
    HeldCall,
    Limits,
    are_idle,
    wait_until_idle,
    warn_of_generator,
    watching_for_idle,
    what_runs,
)
from .carriers import Carrier
from .cli import add_commands
from .config import key_of
from .context import (
    CarryG,
    ContextSnapshot,
    active_app_context,
    carried_function,
    job_arguments,
    running_call,
    without_resources,
)
from .errors import DeadlockError, ExecutorBusyError, ExecutorClosedError, NoAppError
from .futures import (
    AsCompleted,
    FutureCollection,
    FutureKey,
    FutureProxy,
    OnDuplicate,
    SharedKeys,
    SubmittedFuture,
    add_default_callback,
    check_callback,
    claim_key,
    keep_log,
    note_submitter,
    record_with,
    recorder_of,
    release_key,
    share_keys,
)
from .helpers import InstanceProxy, get_current_app_context, push_app_context, str2bool
from .jobs import ExecutorJob, JobDecorator, no_attribute
from .loops import LoopResource
from .map import MapOptions, Results
from .options import (
    NO_OPTIONS,
    carriers_given,
    carry_predicate,
    check_seconds,
    user_of,
)
from .runtime.exit import drain
from .runtime.frames import line_of_caller
from .runtime.logs import log_exception
from .runtime.loop_inbox import inbox_of_running_loop
from .runtime.weak import WeakListing
from .stores import JobRecords, LocalNote

# The rest is what Flask-Executor's module of this name has, for code that imports it from here.
__all__ = (
    "Executor",
    "ExecutorJob",
    "FutureCollection",
    "FutureProxy",
    "InstanceProxy",
    "copy_current_request_context",
    "current_app",
    "executors_of",
    "g",
    "get_current_app_context",
    "itself",
    "propagate_exceptions_callback",
    "push_app_context",
    "str2bool",
)


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


PlainData = (
    bool | int | float | complex | str | bytes | Iterable[Any] | Enum | date | time_of_day
    | timedelta | Decimal | UUID | PurePath | BaseException | Response | _Dataclass | None
)  # fmt: skip
"""Types that are certainly not awaitable. They help mypy to tell a function that returns a union of
them from one that may return an awaitable."""

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")
D = TypeVar("D", bound=PlainData)
F = TypeVar("F", bound=SubmittedFuture)
T = TypeVarWithDefault("T", default=Any)
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")
A5 = TypeVar("A5")

_Captured = tuple[AppState, tuple[ContextSnapshot, Context]]
"""The app's state, and the contexts that were active at the submit."""


class Executor(concurrent.futures.Executor, Generic[T]):
    """Runs functions and coroutine functions in the background, with Flask's contexts.

    A ``concurrent.futures.Executor``, so that it can be used wherever one is expected. ``T`` is
    the type of the results that :attr:`futures` keeps. Every method may be called from any
    thread, and from a running event loop. Only :meth:`shutdown` and the iterator of :meth:`map`
    block; with a store, so do its readers: :attr:`jobs`, :attr:`futures`, ``submit`` with a key.

    Args:
        app: The app to serve; or call :meth:`init_app` later, for as many apps as you like.
        name: A name for the settings (``NAME_EXECUTOR_...``), for the threads, and in
            ``app.extensions``: letters, digits and underscores.
        carry_g: Which values of ``g`` a job finds in its own: their names, or a function of name
            and value. By default all that cannot be closed; see :func:`without_resources`.
        carriers: What else travels with each job: objects like :class:`~.carriers.Carrier`, or
            their names, ``"package.module:name"``. They replace ``EXECUTOR_CARRIERS``.
        user: A function that returns the user of the current request, as text, or ``None``. The
            user owns the request's jobs: ``JobsBlueprint`` shows users their own.
    """

    futures: FutureCollection[T]
    """The futures that were submitted with a key; the same object for every app."""

    name: str

    user: Callable[[], str | None] | None
    """Returns the user of the current request, who owns its jobs; see the arguments."""

    def __init__(
        self,
        app: Flask | None = None,
        name: str = "",
        *,
        carry_g: CarryG = without_resources,
        carriers: Iterable[Carrier[Any] | str] | None = None,
        user: Callable[[], str | None] | None = None,
    ) -> None:
        given: Any = name
        if not isinstance(given, str) or re.fullmatch(r"\w*", given) is None:
            raise ValueError(
                f"name={name!r}: expected letters, digits and underscores only; "
                "the name becomes part of configuration keys"
            )
        self.name = name
        self.futures = FutureCollection()
        share_keys(self.futures, self._shared_keys)
        self._carries_g = carry_predicate(carry_g)
        self._carriers = None if carriers is None else carriers_given(carriers)
        self.user = user
        self._default_done_callbacks: list[Callable[[FutureProxy[Any]], object]] = []
        self._options = NO_OPTIONS
        self._limits: Limits | None = None
        self._without_options: Self | None = None
        self._states: WeakKeyDictionary[Flask, AppState] = WeakKeyDictionary()
        # Also those of apps that are gone and of replaced settings, while calls are left.
        self._capacities: WeakListing[Capacity] = WeakListing()
        if app is not None:
            self.init_app(app)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise no_attribute(self, name)

    def __repr__(self) -> str:
        apps = ", ".join(app.name for app in self._states) or "no app yet"
        return f"<{type(self).__name__} {self.label!r} of {apps}>"

    @property
    def label(self) -> str:
        """The executor's name in messages, in the names of threads, and in ``app.extensions``."""
        return f"{self.name}_executor" if self.name else "executor"

    # -- apps ------------------------------------------------------------------------------------

    def serves(self, app: Flask) -> bool:
        """Return whether :meth:`init_app` was called with ``app``, which must not be a proxy."""
        return app in self._states

    def state_of(self, app: Flask) -> AppState:
        """Return what the executor keeps for an app that it serves. For this package."""
        return self._states[app]

    def init_app(self, app: Flask) -> None:
        """Read the settings of ``app`` and serve it. No thread starts before the first submit.

        A second call for the same app changes nothing while the settings are the same. If they
        changed, or after :meth:`shutdown`, new calls use new workers; earlier calls still finish.

        Raises:
            ConfigError: a setting cannot be used; a ``ValueError`` that names its key.
        """
        app = itself(app)
        config = settings_of(app, self.name)
        old = self._states.get(app)
        if config.async_views:
            check_hook(app, key_of("async_views", name=self.name), old.views if old else None)
        if old is None or old.closed or old.config != config:
            state = self._states[app] = AppState(
                config,
                name=self.name,
                label=self.label,
                futures=self.futures,
                carry_g=self._carries_g,
                carriers=self._carriers,
                executor_of=partial(_executor_of, name=self.name),
                celery_of=_celery_of,
                app=app,
                capacities=self._capacities,
                has_users=self.user is not None,
            )
            state.serve_views(app)
            if old is not None:
                old.close(cancel_pending=False)
        app.extensions[self.name + "executor"] = self
        add_commands(app)
        if hasattr(got_request_exception, "receivers"):  # not Flask's stand-in for blinker
            got_request_exception.connect(_name_cure, app)

    def _current(self) -> tuple[Flask, AppState]:
        return self._of(active_app_context())

    def _of(self, app_context: Any) -> tuple[Flask, AppState]:
        """Return the app that a call belongs to: the active one, else the only one."""
        if app_context is not None:
            app: Flask = app_context.app
            state = self._states.get(app)
            if state is not None:
                return app, state
            raise NoAppError(
                f"the active app {app.name!r} does not use this executor",
                "call executor.init_app(app) for it first",
            )
        apps = [reference() for reference in self._states.keyrefs()]
        states = [(app, self._states[app]) for app in apps if app is not None]
        # An app whose state was shut down counts only if there is no other: it may be about to go.
        # The app of an earlier test may be kept alive by a traceback.
        states = [each for each in states if not each[1].closed] or states
        states = [each for each in states if not each[1].is_set_aside] or states
        if len(states) == 1:
            return states[0]
        if not states:
            raise NoAppError(
                "this executor has no app, or its app is gone",
                "call executor.init_app(app) first, and keep a reference to the app",
            )
        raise NoAppError(
            f"this executor serves {len(states)} apps and no app context tells which is meant",
            "submit inside 'with app.app_context():', or let go of apps that are over, such as "
            "those of earlier tests, with executor.shutdown(app=app)",
        )

    # -- options ---------------------------------------------------------------------------------

    def using(  # noqa: PLR0913  # one for each option
        self,
        *,
        key: Hashable | FutureKey[Any] | None = None,
        on_duplicate: OnDuplicate | None = None,
        name: str | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        backoff: Backoff | None = None,
        block: float | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        record: bool | None = None,
        queue: str | None = None,
        priority: int | None = None,
        delay: float | None = None,
        expires: float | None = None,
    ) -> Self:
        """Return this executor with options for the calls that are submitted through it.

        ``executor.using(key="report", on_duplicate="join").submit(build, 7)``: options have a
        call of their own, so they never clash with the function's arguments. Options that are not
        given stay as they were.

        Args:
            key: Keep the future in :attr:`futures` under this key.
            on_duplicate: What to do if the key is in use. ``"error"``, which is the default: raise
                ``DuplicateKeyError`` and run nothing. ``"join"``: if the kept future is not done,
                return it and run nothing; else, and if it still waits for a response or commit,
                as ``"replace"``. ``"replace"``: keep the new future instead; the old call, which is
                not cancelled, is forgotten here.
            name: The future's ``name``, instead of the function's.
            timeout: Seconds from the start of a call to its end, all attempts together; instead of
                ``EXECUTOR_JOB_TIMEOUT``. ``math.inf``: no limit. When time is up the future fails
                with ``JobTimeoutError``; a coroutine is cancelled, and a plain function goes on
                until it asks ``current_job`` whether it should.
            retries: How often a call that raised an ``Exception`` is tried again.
            backoff: Seconds to wait before the next attempt, doubled each time; or a function that
                takes the number of the attempt that failed and returns the seconds. A plain
                function keeps its worker meanwhile.
            block: Seconds that ``submit`` waits for room when ``EXECUTOR_MAX_PENDING`` is reached.
                Not allowed where an event loop runs. See :doc:`overload`.
            user: The user who owns the job's record, instead of what the executor's ``user``
                returns.
            labels: Texts to find the record by: ``{"tenant": "acme"}``.
            record: Whether the job has a record that other processes can read; instead of
                ``EXECUTOR_STORE_RECORD``.
            queue: The queue that the call waits in. This and the options below are for calls that
                an engine carries, such as Celery; other backends refuse them.
            priority: 0 to 9, as the engine and its broker understand it.
            delay: Seconds before a worker may begin the call.
            expires: Seconds after which no worker begins it any more: it fails with
                ``JobExpiredError``.

        Raises:
            TypeError: an option has the wrong type.
            ValueError: an option has an unusable value.
        """
        return self._with(
            key=key,
            on_duplicate=on_duplicate,
            name=name,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            block=block,
            user=user,
            labels=labels,
            record=record,
            queue=queue,
            priority=priority,
            delay=delay,
            expires=expires,
        )

    def after_response(self) -> Self:
        """Return this executor for calls that start after the response of the current request.

        ``executor.after_response().submit(count, page)``: the contexts are captured and the key is
        taken when you submit. The call starts when the server has sent the whole response and
        closes it; if Flask gives the server no response, when the request's contexts end. Until
        then the future is pending, so do not wait for it in the request; ``cancel()`` works. An
        error at the start, such as :exc:`ExecutorClosedError`, is logged, and raised by the future.

        ``submit`` raises :exc:`NoRequestError` outside of a request, in a job, and when the request
        is over, as it may be in a stream.

        Raises:
            TypeError: the calls already wait for a response or commit, or may join others.
        """
        return self._with(until=until_response_is_over)

    def after_commit(self, session: SessionLike) -> Self:
        """Return this executor for calls that start after ``session`` commits.

        ``executor.after_commit(db.session).submit(welcome, user.id)``: the contexts are captured
        and the key is taken when you submit, in the thread that uses the session. The call starts
        when the outermost transaction is committed; until then the future is pending, and
        ``cancel()`` works. If the transaction, or the SAVEPOINT that was open at ``submit``, is
        rolled back or ends without a commit, the future is cancelled and its key is free again.
        Without an open transaction at ``submit``, all this holds for the next one; ``rollback()``
        and ``close()`` before it begins end nothing.

        Args:
            session: A ``Session`` or ``scoped_session`` of SQLAlchemy 1.4 or later, such as
                ``db.session`` of Flask-SQLAlchemy.

        Raises:
            TypeError: ``session`` is something else, or the calls already wait for a response or
                commit, or may join others.
        """
        return self._with(until=until_commit(session))

    def _with(self, **given: Any) -> Self:
        options = self._options.changed(**given)
        clone = object.__new__(type(self))
        vars(clone).update(vars(self))
        clone._options, clone._limits = options, options.limits
        clone._without_options = self._without_options or self
        return clone

    def add_default_done_callback(self, fn: Callable[[FutureProxy[Any]], object]) -> None:
        """Call ``fn(future)`` when a call is done, for every call submitted from now on.

        Like the callbacks of :meth:`FutureProxy.add_done_callback`, it may block, runs in contexts
        like the call's own, and its exceptions are logged. A function that is added twice is called
        twice, so add it where the executor is created, not in a view.
        """
        check_callback(fn)
        self._default_done_callbacks.append(fn)

    # -- calls -----------------------------------------------------------------------------------

    # The order of the overloads matters. The second looks superfluous; without it mypy infers
    # ``object`` for a function that returns a union, because it must solve the last. The third is
    # for unions such as ``Awaitable[str] | None``, which mypy and ty cannot solve by the last.
    @overload
    def submit(
        self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> FutureProxy[R]: ...
    @overload
    def submit(
        self, fn: Callable[P, D], /, *args: P.args, **kwargs: P.kwargs
    ) -> FutureProxy[D]: ...
    @overload
    def submit(
        self, fn: Callable[P, Awaitable[R] | D], /, *args: P.args, **kwargs: P.kwargs
    ) -> FutureProxy[R | D]: ...
    @overload
    def submit(
        self, fn: Callable[P, R | Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> FutureProxy[R]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> FutureProxy[Any]:
        """Run ``fn(*args, **kwargs)`` in the background, with the contexts that are active now.

        A coroutine function runs on an event loop of the executor, beside other coroutines; any
        other function runs in a worker thread. If its return value can be awaited, it is awaited.

        Returns:
            The call's future; ``future.result()`` waits for it, and so does ``await future``.

        Raises:
            NoAppError: :meth:`init_app` was not called, or several apps could be meant; a
                ``RuntimeError``.
            ExecutorClosedError: :meth:`shutdown` was called; a ``RuntimeError``.
            QueueFullError: ``EXECUTOR_MAX_PENDING`` calls are pending already; a ``queue.Full``.
            UnsupportedError: the workers cannot do what is asked for; a ``NotImplementedError``.
            UnpicklableError: other processes are to run the call, which cannot be sent there; a
                ``TypeError``.
            EngineUnreachableError: Celery's broker, Dask's scheduler or their store does not
                answer; a ``ConnectionError``.
        """
        return self._submit(self._capture(), fn, args, kwargs, self._options.key)

    @overload
    def submit_stored(
        self,
        /,
        future_key: FutureKey[R],
        fn: Callable[P, R | Awaitable[R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FutureProxy[R]: ...
    @overload
    def submit_stored(
        self: Executor[object],
        /,
        future_key: Hashable,
        fn: Callable[P, Awaitable[R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FutureProxy[R]: ...
    @overload
    def submit_stored(
        self: Executor[object],
        /,
        future_key: Hashable,
        fn: Callable[P, D],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FutureProxy[D]: ...
    @overload
    def submit_stored(
        self: Executor[object],
        /,
        future_key: Hashable,
        fn: Callable[P, R | Awaitable[R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FutureProxy[R]: ...
    @overload
    def submit_stored(
        self,
        /,
        future_key: Hashable,
        fn: Callable[P, T | Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> FutureProxy[T]: ...
    def submit_stored(
        self, /, future_key: Any, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> FutureProxy[Any]:
        """Like :meth:`submit`, and keep the future in :attr:`futures` under ``future_key``.

        Raises:
            DuplicateKeyError: the key is in use, and ``on_duplicate`` is ``"error"``, the default.
                The function does not run. A ``ValueError``.
        """
        return self.submit_under(future_key, fn, args, kwargs)

    @staticmethod
    def as_completed(futures: Iterable[F], timeout: float | None = None) -> AsyncIterator[F]:
        """Yield each future once, as soon as it is done, to ``async for``.

        Waiting does not block the loop. The futures may belong to several executors. Leaving the
        loop early, by ``break`` or an exception, only stops the waiting; the jobs keep running.

        Args:
            futures: Futures that ``submit`` returned.
            timeout: The limit of the whole wait, in seconds from now.

        Raises:
            TypeError: ``futures`` contains something else.
            concurrent.futures.TimeoutError: by the iterator, when the time is up and it has yielded
                every future that is done.
        """
        return AsCompleted(futures, timeout)

    def submit_under(
        self, key: Any, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> FutureProxy[Any]:
        if key is None:
            raise TypeError("future_key=None: expected a hashable value, or use submit()")
        if self._options.key is not None and self._options.key != key:
            raise TypeError(f"two keys for one call: using(key={self._options.key!r}) and {key!r}")
        return self._submit(self._capture(), fn, args, kwargs, key)

    def _capture(self) -> _Captured:
        """Capture the active contexts, for calls of the app that they belong to."""
        app_context = active_app_context()
        app, state = self._of(app_context)
        if state.opened is None:
            try:
                state.backend(app)  # before the rules are read: it looks for late settings
            except ExecutorClosedError:
                if self._states.get(app) is state:
                    raise
                return self._capture()  # init_app() has put another state in its place
        return state, state.capture(app, app_context)

    def _submit(
        self,
        captured: _Captured,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: Any = None,
    ) -> FutureProxy[Any]:
        """Build a call, then send it to the workers, or to the hold that delays it.

        Return its future, or the one that it joins under ``key``.
        """
        state, (snapshot, variables) = captured
        options = self._options
        if type(fn) is FunctionType and not fn.__code__.co_flags & GENERATOR:  # the usual case
            name = options.name or fn.__qualname__
        else:
            check_function(fn)
            name = options.name or name_of(fn)
            fn = carried_function(snapshot.app, name, fn)
        if args or kwargs:
            args, kwargs = job_arguments(snapshot.app, name, args, kwargs)
        future: FutureProxy[Any] = FutureProxy(name, snapshot, variables)
        if self._default_done_callbacks or state.propagates_exceptions:
            self._add_default_callbacks(state, future)
        call = state.call_type(
            fn,
            args,
            kwargs,
            snapshot,
            variables,
            future,
            state.logs_exceptions,
            self._without_options or self,
            state.limits
            if self._limits is None
            else state.limits_with(self._limits, name, snapshot.app),
        )
        # From here on, the call may be over at any moment, and a signal handler may raise.
        try:
            if key is None and options.is_plain and not state.notes:
                state.submit(call, options.block)
            elif (joined := self._submit_by_options(state, call, key)) is not None:
                return joined
        except BaseException as error:
            if not call.refuse() and future.running():
                raise  # by a signal handler, when the call was accepted and a worker had begun it
            if future.key is not None or recorder_of(future) is not None:
                release_key(self.futures, future)
                call.end_cancelled()  # another thread may have joined it meanwhile
            elif call.was_accepted:
                call.end_cancelled()
            call.release()
            current = self._states[snapshot.app]
            if isinstance(error, ExecutorClosedError) and current is not state:
                # init_app() has put another state in its place. The right to start this call is
                # spent, so another call is built.
                return self._submit((current, captured[1]), fn, args, kwargs, key)
            raise
        return future

    def _add_default_callbacks(self, state: AppState, future: FutureProxy[Any]) -> None:
        for callback in self._default_done_callbacks:
            add_default_callback(future, callback)
        if state.propagates_exceptions:
            add_default_callback(future, propagate_exceptions_callback)

    def _submit_by_options(
        self, state: AppState, call: Call[Any], key: Any
    ) -> FutureProxy[Any] | None:
        """Note a call, take its key, and hold it or send it to the workers.

        Return the future that it joins instead, or ``None``.
        """
        options = self._options
        if key is None and options.on_duplicate != "error":
            raise TypeError(f"on_duplicate={options.on_duplicate!r} needs a key: using(key=...)")
        if state.notes or options.notes:
            self._note(state, call, key)
        if key is not None or options.until is not None:
            joined = self._claim_or_hold(state, call, key)
            if joined is not None:
                return joined
        if options.until is None:
            state.submit(call, options.block)
        return None

    def _note(self, state: AppState, call: Call[Any], key: object) -> None:
        """Have the call recorded, and note its submitter if that may be asked for."""
        options, future = self._options, call.future
        if state.notes_lines or name_of(call.fn) in state.lines_wanted:
            note_submitter(future, line_of_caller())
        if state.notes_lines:
            call.watch(partial(warn_of_generator, call.snapshot.app.logger))
        if state.config.store_logs:
            keep_log(future)  # whether or not it has a record: it may get one later
        if options.record is False:
            return
        user = options.user
        if user is None and self.user is not None and has_request_context():
            user = user_of(self.user)
        client = state.client
        if client is None:
            if user is not None or options.labels:
                record_with(future, LocalNote(user, options.labels))
        elif options.record or client.settings.records_all or key is not None:
            goes_to_engine = state.config.is_engine and options.until is None
            client.record(
                future,
                user=user,
                labels=options.labels,
                is_written_next=goes_to_engine or key is not None,
            )

    def _shared_keys(self) -> SharedKeys | None:
        """Return the keys that all processes share, if the current app has a store."""
        if all(state.client is None for state in list(self._states.values())):
            return None
        try:
            return self._current()[1].client
        except NoAppError:
            return None

    def _claim_or_hold(self, state: AppState, call: Call[Any], key: Any) -> FutureProxy[Any] | None:
        """Take the key of a call, and hold the call if it has to wait.

        Return the future that the call joins instead, or ``None``.
        """
        until = self._options.until
        # Before the key is taken, because until() raises if there is nothing to wait for. A held
        # call never joins another.
        hold = None if until is None else until()
        held = None if hold is None else HeldCall(self, call)
        if key is not None:
            shared = None if recorder_of(call.future) is None else state.client
            joined = claim_key(self.futures, key, call.future, self._options.on_duplicate, shared)
            if joined is not None:
                if shared is not None:
                    release_key(self.futures, call.future)  # and forget its record
                call.release()
                return joined
        if hold is not None and held is not None:
            state.look_for_room(call, self._options.block)
            hold(held)
        return None

    def hand_over(self, call: Call[Any]) -> None:
        """Submit a call that was held. Its future gets the errors, since no caller is left.

        The executor's capacity is not checked: the call was accepted when it was held.
        """
        future, snapshot = call.future, call.snapshot
        try:
            state = self._states.get(snapshot.app)
            if state is None:  # the app is garbage, together with its last response
                raise ExecutorClosedError(self.label)
            state.submit(call, admitted=True)
        except Exception as error:
            log_exception(snapshot.app.logger, "background job %r could not be submitted", future)
            # The frames of the error's traceback refer to the call, and so to the future. Without
            # the traceback and the call's references there is no cycle left for the collector.
            call.logs = False  # the error is logged above
            call.fail(error.with_traceback(None))
            call.release()
        finally:
            del future  # see FutureProxy.result()

    @overload
    def map(
        self, fn: Callable[[A1], Awaitable[R]], i1: Iterable[A1], /, **options: Unpack[MapOptions]
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1], R | Awaitable[R]],
        i1: Iterable[A1],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2], Awaitable[R]],
        i1: Iterable[A1],
        i2: Iterable[A2],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2], R | Awaitable[R]],
        i1: Iterable[A1],
        i2: Iterable[A2],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3], Awaitable[R]],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3], R | Awaitable[R]],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3, A4], Awaitable[R]],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        i4: Iterable[A4],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3, A4], R | Awaitable[R]],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        i4: Iterable[A4],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3, A4, A5], Awaitable[R]],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        i4: Iterable[A4],
        i5: Iterable[A5],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3, A4, A5], R | Awaitable[R]],
        i1: Iterable[A1],
        i2: Iterable[A2],
        i3: Iterable[A3],
        i4: Iterable[A4],
        i5: Iterable[A5],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[Concatenate[Any, Any, Any, Any, Any, Any, ...], Awaitable[R]],
        *iterables: Iterable[Any],
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    @overload
    def map(
        self,
        fn: Callable[Concatenate[Any, Any, Any, Any, Any, Any, ...], R | Awaitable[R]],
        *iterables: Iterable[Any],
        **options: Unpack[MapOptions],
    ) -> Results[R]: ...
    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], **options: Unpack[MapOptions]
    ) -> Results[Any]:
        """Call ``fn`` with each item (or with one item of each iterable) in the background.

        All calls are submitted now, with the contexts that are active now; each gets contexts of
        its own. Iterate over the results, in the order of the items, by ``for``, or by ``async
        for``, which does not block the loop; even after the view has returned. Leaving the loop
        early cancels the calls that have not started.

        Args:
            fn: The function; for a coroutine function the results are what it resolves to.
            iterables: As for the builtin ``map``; the shortest ends it.
            timeout: The limit for all results together, in seconds from now.
            chunksize: Plain functions only: this many items make up one call to a worker, and
                share one set of contexts. Far faster for small functions.
            buffersize: How many calls may be ahead of the results taken; ``None`` for all.

        Raises:
            concurrent.futures.TimeoutError: by the iterator, when the time is up.
            BaseException: by the iterator, whatever a call raised, in place of its result.
        """
        if self._options.key is not None:
            raise TypeError("a key names one call; map() makes many, so use it without a key")
        if self._options.until is not None:
            raise TypeError(
                "map() does not go with after_response() and after_commit(): its results are read "
                "before that; submit the calls one by one"
            )
        check_function(fn)
        captured, no_kwargs = self._capture(), dict[str, Any]()
        named = self
        if captured[0].notes or self._options.notes:
            named = self.using(record=False)  # 100,000 items would push all others out
        if "chunksize" in options and self._options.name is None:
            named = named.using(name=name_of(fn))  # else chunks would be named after our function

        def submit(fn: Callable[..., Any], args: tuple[Any, ...]) -> FutureProxy[Any]:
            return named._submit(captured, fn, args, no_kwargs)

        return Results(submit, fn, iterables, **options)

    # -- records ---------------------------------------------------------------------------------

    @property
    def jobs(self) -> JobRecords:
        """The records of the current app's jobs.

        With ``EXECUTOR_STORE``, the jobs of all server processes; otherwise those of this process.
        """
        return JobRecords(lambda: self._current()[1].records)

    # -- how much there is to do -----------------------------------------------------------------

    def stats(self) -> ExecutorStats:
        """Return the current app's numbers in this process: calls pending, running and done.

        It looks at each call that is not done: some 20 milliseconds for 100,000 of them.

        Raises:
            NoAppError: as for :meth:`submit`.
        """
        return self._current()[1].stats()

    def wait_idle(self, timeout: float | None = None) -> None:
        """Wait until no call of this executor is left in this process, for any app. For tests.

        Done callbacks have returned by then too, and so have calls that jobs and callbacks
        submitted. Calls that still wait for a response or a commit are not waited for.

        Args:
            timeout: The limit in seconds; ``None`` waits for ever.

        Raises:
            ExecutorBusyError: calls are left when the time is up; it names them. A
                ``TimeoutError``.
            DeadlockError: a job of this executor called this, and would wait for itself.
        """
        self._refuse_to_wait_for_itself()
        wait_until_idle(self._capacities, timeout, self.label)

    async def await_idle(self, timeout: float | None = None) -> None:
        """Like :meth:`wait_idle`, without blocking the loop."""
        self._refuse_to_wait_for_itself()
        capacities = list(self._capacities)
        changed = asyncio.Event()
        inbox = inbox_of_running_loop()[1]
        end = None if timeout is None else time.monotonic() + timeout
        with watching_for_idle(capacities, lambda: inbox.post(changed.set)):
            while not are_idle(capacities):
                seconds = None if end is None else end - time.monotonic()
                if seconds is not None and seconds <= 0:
                    raise ExecutorBusyError(self.label, timeout or 0, what_runs(capacities))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), seconds)
                changed.clear()

    def _refuse_to_wait_for_itself(self) -> None:
        call = running_call.get()
        if call is not None and call.is_of(self._without_options or self):
            reason = "and is one of them: it can never be done"
            raise DeadlockError(line_of_caller(), "all jobs of its executor", reason)

    # -- jobs ------------------------------------------------------------------------------------

    @overload
    def job(self, fn: Callable[P, R], /) -> ExecutorJob[P, R, T]: ...
    @overload
    def job(
        self,
        fn: None = None,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        backoff: Backoff | None = None,
        record: bool | None = None,
    ) -> JobDecorator[T]: ...
    def job(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        backoff: Backoff | None = None,
        record: bool | None = None,
    ) -> Any:
        """Decorate a function with ``submit``, ``submit_stored``, ``map`` and so on.

        The function can be called as before. Works before :meth:`init_app`.

        Args:
            fn: The function; ``@executor.job(name="report")`` takes options instead.
            name: The name of the futures, instead of the function's.
            timeout: Seconds a call may take; this and the others are those of :meth:`using`.
            retries: How often a call that failed is tried again.
            backoff: Seconds before the next attempt.
            record: Whether the job has a record that other processes can read.
        """
        executor = self
        if fn is None:
            executor = self.using(
                name=name, timeout=timeout, retries=retries, backoff=backoff, record=record
            )

        def decorate(fn: Callable[P, R], /) -> ExecutorJob[P, R, T]:
            nested = "<locals>" in getattr(fn, "__qualname__", "")
            configs = [state.config for state in self._states.values()]
            if nested and any(
                each.type in ("process", "interpreter") or each.is_engine for each in configs
            ):
                raise TypeError(
                    f"@executor.job got {fn!r}, which worker processes cannot import; define it "
                    "at the top level of a module, or use EXECUTOR_TYPE='thread'"
                )
            return ExecutorJob(executor, fn)

        return decorate if fn is None else decorate(fn)

    # -- what belongs to a loop ------------------------------------------------------------------

    def loop_resource(
        self, factory: Callable[[], AbstractAsyncContextManager[V]], /
    ) -> LoopResource[V]:
        """Return a resource of which each event loop has its own: an HTTP client, say.

        ``clients = executor.loop_resource(httpx.AsyncClient)``, and then in a coroutine job, or in
        an async view with ``EXECUTOR_ASYNC_VIEWS``: ``client = await clients.get()``. The first
        ``get()`` on a loop opens it. The loop closes it when it ends at :meth:`shutdown`, after
        the jobs, the newest resource first. Works before :meth:`init_app`.

        Args:
            factory: A function without parameters that returns an async context manager, such as a
                class that is one, or a function with ``contextlib.asynccontextmanager``. It runs
                without any context of Flask, since what it opens outlives the request.
        """
        return LoopResource(factory)

    # -- the end ---------------------------------------------------------------------------------

    def shutdown(
        self,
        wait: bool = True,
        *,
        cancel_futures: bool = False,
        timeout: float | None = None,
        app: Flask | None = None,
    ) -> None:
        """Refuse new calls for every app, and end the workers once accepted calls are done.

        Args:
            wait: Block until all accepted calls, and the async views that run on loops of this
                executor, are done and the threads have ended. In a job of this executor, which
                would wait for itself, it does not block.
            cancel_futures: Cancel the calls that have not started.
            timeout: Seconds that accepted calls may take, whether or not this waits for them;
                ``None``: ``EXECUTOR_SHUTDOWN_TIMEOUT``; ``math.inf``: no limit. Then the future of
                each call that is not done fails with ``JobAbandonedError``, which is logged. A
                pending call never starts. A coroutine is cancelled and has two seconds to clean
                up. A worker process has two seconds to end its call, and is killed. A plain
                function in a thread goes on while the process does; this waits two seconds more.
            app: Shut down for this app alone, at the end of a test, say; ``None`` for every app.

        Raises:
            NoAppError: :meth:`init_app` was not called with ``app``.
        """
        waited_for = self._close(wait, cancel_futures, timeout, app)
        drain(waited_for, time.monotonic())

    async def ashutdown(
        self,
        wait: bool = True,
        *,
        cancel_futures: bool = False,
        timeout: float | None = None,
        app: Flask | None = None,
    ) -> None:
        """Like :meth:`shutdown`, without blocking the loop.

        If the task that awaits this is cancelled, the shutdown goes on.
        """
        waited_for = self._close(wait, cancel_futures, timeout, app)
        over: FutureProxy[None] = FutureProxy()
        if waited_for and drain_apart(waited_for, self.label, over):
            await over

    def _close(
        self, wait: bool, cancel_pending: bool, timeout: float | None, app: Flask | None
    ) -> Closed:
        """Close the states; return the workers to wait for."""
        if timeout is not None:
            check_seconds("timeout", timeout)
        call = running_call.get()  # also in threads to which a job has copied its context
        if call is not None and call.is_of(self._without_options or self):
            wait = False
        states = list(self._states.values())
        if app is not None:
            app = itself(app)
            if app not in self._states:
                raise NoAppError(
                    f"the app {app.name!r} does not use this executor, so it cannot be let go of",
                    "give one that executor.init_app(app) was called with",
                )
            states = [self._states[app]]
        return close_all(states, self.label, wait, cancel_pending, timeout)

    # -- what code written for Flask-Executor reads of its pool ----------------------------------

    @property
    def _self(self) -> Self:
        return self

    @property
    def _max_workers(self) -> int:
        return self._current()[1].max_workers

    @property
    def _shutdown(self) -> bool:
        return self._current()[1].closed

    @property
    def _work_queue(self) -> SimpleQueue[Any]:
        app, state = self._current()
        backend = state.backend(app)
        if isinstance(backend, ThreadBackend):
            return backend.queue
        raise AttributeError(f"{type(backend).__name__} has no queue of its own")


def executors_of(app: Flask) -> list[Executor[Any]]:
    """The executors of this package that serve an app, in the order of their ``init_app``."""
    served = filter(_is_executor, app.extensions.values())
    return list(dict.fromkeys(executor for executor in served if executor.serves(app)))


def open_executors() -> list[tuple[Flask, Executor[Any]]]:
    """Return the executors that were not shut down, each with each app."""
    apps = {state.app: None for state in states() if not state.closed}
    return [
        (app, executor)
        for app in apps
        if app is not None
        for executor in executors_of(app)
        if not executor.state_of(app).closed
    ]


def _is_executor(extension: object) -> TypeGuard[Executor[Any]]:
    return isinstance(extension, Executor)


def _executor_of(app: Flask, name: str) -> tuple[object, Iterable[Carrier[Any]]]:
    """Return the executor called ``name`` in a worker process, and the carriers it was given."""
    found: object = app.extensions.get(name + "executor")
    if not _is_executor(found) or not found.serves(app):
        return found, ()
    return found, found.state_of(app).given_carriers or ()


def _celery_of(app: Flask) -> object:
    """Return the Celery app that Flask's own recipe has put there, if it has."""
    found: object = app.extensions.get("celery")
    return found


def itself(app: Flask) -> Flask:
    """Return the app behind a proxy such as ``current_app``, or the app itself."""
    unwrap: Callable[[], object] = getattr(app, "_get_current_object", lambda: app)
    found = unwrap()
    if not isinstance(found, Flask):
        raise TypeError(f"expected a Flask app, got {found!r} ({type(found).__name__})")
    return found


def _name_cure(sender: Flask, exception: BaseException, **_: object) -> None:
    """Add the cure to an error about a future, or a resource, that a view did not wait for."""
    kind, cure = type(exception), ""
    if kind is TypeError and str(exception).endswith(f"but it was a {FutureProxy.__name__}."):
        cure = (
            "Return the future's result (future.result(), or 'await future' in an async view), or "
            "answer 202 with jobs.accepted(future) of a JobsBlueprint."
        )
    elif (missing := missing_await(exception)).startswith("LoopResource.get("):
        cure = missing
    if cure:
        exception.args = (f"{exception} {cure}",)  # notes are not printed on Python 3.10


def propagate_exceptions_callback(future: FutureProxy[Any]) -> None:
    """Raise a job's exception in its done callback; see ``EXECUTOR_PROPAGATE_EXCEPTIONS``."""
    exception = None if future.cancelled() else future.exception()
    if exception is not None:
        raise exception
