"""One executor in one app: its settings, backend, capacity and async views.

The only module that calls ``backend.submit``. The child of a fork gets a new backend, new counts
and new loops.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextvars import Context
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any
from weakref import finalize, ref

from flask import Flask

from . import signals
from .async_views.hook import AsyncViews, check_hook
from .backends import (
    Backend,
    Capabilities,
    ExecutorOf,
    check_route,
    default_max_workers,
    import_backend,
    open_backend,
    worker_settings,
)
from .callables import is_async_callable, name_of
from .calls import (
    Call,
    Capacity,
    Carriers,
    CarryingCall,
    ExecutorStats,
    Limits,
    catch_logs,
    stats_of,
    when_context_is_missed,
)
from .carriers import Carrier, OpenTelemetry, default_carriers
from .config import (
    ExecutorConfig,
    GivenEngine,
    GivenExecutor,
    key_of,
    signing_keys,
    warn_of_unknown_keys,
)
from .context import ContextRules, ContextSnapshot, capture
from .errors import ConfigError, ExecutorClosedError
from .futures import FutureCollection, FutureProxy
from .runtime.exit import Closable, close_at_exit, drain, exit_has_begun
from .runtime.forks import in_child
from .runtime.frames import levels_to_caller
from .runtime.threads import start_thread, threads_are_refused
from .runtime.weak import WeakListing
from .signing import JobSigner
from .stores import JobRecord, LocalRecords, Records, open_store

if TYPE_CHECKING:
    from .engines import Engine, Serving
    from .stores.client import StoreClient
    from .stores.records import Row

_hear_of_submitted = signals.receivers_of(signals.job_submitted)
_hear_of_loss = signals.receivers_of(signals.job_lost)

__all__ = (
    "AppState",
    "Closed",
    "backends_wrapped",
    "close_all",
    "drain_apart",
    "settings_forced",
    "settings_of",
    "states",
)


def settings_of(app: Flask, name: str) -> ExecutorConfig:
    """Return an app's current settings for the executor called ``name``."""
    settings: Mapping[str, Any] = app.config
    if _forced:
        forced = {key_of(field, name=name): value for field, value in _forced.items()}
        settings = {**settings, **forced}
    config = ExecutorConfig.from_mapping(settings, name=name)
    warn_of_unknown_keys(settings, name=name)
    return config


_forced: dict[str, Any] = {}
"""The settings that all executors have in a test, by field."""


@contextlib.contextmanager
def settings_forced(settings: Mapping[str, Any]) -> Generator[None, None, None]:
    """For tests: let ``settings``, by field, count in place of what apps say, until the end."""
    before = _forced.copy()
    _forced.update(settings)
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


class AppState:
    """The state of one executor in one app. Keeps neither of them alive."""

    def __init__(  # noqa: PLR0913  # everything that an executor passes on for its app
        self,
        config: ExecutorConfig,
        *,
        name: str,
        label: str,
        futures: FutureCollection[Any],
        carry_g: Callable[[str, object], bool],
        carriers: Iterable[Carrier[Any]] | None,
        executor_of: ExecutorOf,
        celery_of: Callable[[Flask], object],
        app: Flask,
        capacities: WeakListing[Capacity],
        has_users: bool = False,
    ) -> None:
        self.name = name
        self.label = label
        self._app = ref(app)
        self._has_users = has_users
        self.capacities: WeakListing[Capacity] = capacities
        """The capacities of the executor, for all its apps."""
        self.client: StoreClient | None = None
        """Writes and reads the records of jobs, if ``EXECUTOR_STORE`` is set."""
        self.records: Records = LocalRecords(app)
        """The records of the jobs of all processes, or of this process."""
        self.notes: bool = has_users
        """Whether facts about each call are noted, for its record or for debugging."""
        self.notes_lines: bool = False
        """Whether the line that submits a call is noted: in debug mode."""
        self.lines_wanted: set[str] = set()
        """The functions whose calls have it noted in production too: one has missed a context."""
        self._futures = futures
        self._carry_g = carry_g
        self._given_carriers = carriers
        self._executor_of = executor_of
        self._celery_of = celery_of
        self._engine: Engine | None = None
        self._serving: Serving | None = None
        self.views: AsyncViews | None = None
        self.opened: Backend | None = None  # set under _lock
        """The backend of this process, once a call has needed it."""
        self._finalizer: finalize[Any, Any] | None = None
        self._closed = False  # set under _lock
        self.ignores_routes: bool = False
        """Whether what only an engine does is left out: a test has something else run its jobs."""
        self.is_set_aside = False
        """Whether the app is left over from a test, and is meant only if there is no other."""
        self._lock = threading.RLock()  # reentrant: a finalizer may submit while it is held
        self._use(config)
        _states.add(self)

    def _use(self, config: ExecutorConfig) -> None:
        import_backend(config)
        self.config = config
        self.propagates_exceptions: bool = config.propagate_exceptions
        # A callback that raises them is logged as well.
        self.logs_exceptions: bool = config.log_exceptions and not self.propagates_exceptions
        seconds = config.job_timeout
        self.limits: Limits | None = None if seconds is None else Limits(timeout=seconds)
        push_request = config.push_request_context is not False
        self.rules: ContextRules = ContextRules(
            config.push_app_context, push_request, self._carry_g
        )
        if config.futures_max_length is not None:
            self._futures.max_length = config.futures_max_length
        self._carry_with(self.given_carriers or ())
        self._count_anew()
        self._keep_records()

    def _keep_records(self) -> None:
        """Open the store, if there is one, without connecting to it."""
        app, old = self._app(), self.client
        if app is None:
            return
        self._engine = self._open_engine(app)
        self.client = client = self._open_client(app)
        self.records = (
            LocalRecords(app, self.config.store_max_result_bytes) if client is None else client
        )
        self.notes = self._has_users or client is not None or self.config.store_logs
        if self.config.store_logs:
            catch_logs()
        self._serve_engine(app)
        if client is not None:
            close_at_exit(client, self.config.at_exit)
            finalize(self, client.close).atexit = False
        if old is not None:
            old.close()

    @property
    def engine(self) -> Engine | None:
        """What carries the calls, if an engine does."""
        return self._engine

    def _open_engine(self, app: Flask) -> Engine | None:
        """Open the engine, if calls run in one, without connecting to it."""
        config, name = self.config, self.name
        if not config.is_engine:
            return None
        key, shown = key_of("type", name=name), config.type
        engine: Engine | None = None
        if isinstance(config.type, GivenEngine):
            engine = _open_given_engine(key, config.type)
            shown = type(engine).__qualname__
        url = "" if config.store is None else config.store.value
        if not url.startswith(("redis:", "rediss:", "unix:")):
            expected = f"{key_of('store', name=name)} to be 'redis://...', where its jobs are kept"
            raise ConfigError(key, shown, expected)
        if not signing_keys(app.config, config):
            expected = "SECRET_KEY, or EXECUTOR_SIGNING_KEY, to be set, which signs its messages"
            raise ConfigError(key, shown, expected)
        if engine is not None:
            return engine
        if config.type == "dask":
            return _open_dask(key, name, config)
        from .engines.celery import CeleryEngine

        return CeleryEngine(
            key_of("celery_app", name=name),
            key,
            config.celery_app,
            partial(_celery_of, self._app, self._celery_of),
        )

    def _serve_engine(self, app: Flask) -> None:
        """Run what the engine brings to this process, in which the app may be a worker's."""
        engine, client = self._engine, self.client
        if engine is None or client is None:
            self._serving = None
            return
        from .engines import EngineSetup, Serving

        settings = worker_settings(self.config, self.name, self.label, self._executor_of)
        setup = EngineSetup(
            engine=engine,
            settings=settings._replace(app=app.import_name),  # its contexts travel
            client=client,
            signer=JobSigner(signing_keys(app.config, self.config)),
            app=self._app,
            app_name=app.name,
            logs_exceptions=self.logs_exceptions,
            keeps_logs=self.config.store_logs,
            release=self.config.release,
        )
        self._serving = Serving(setup)

    def _publisher(self, app_name: str) -> Callable[[Row], object] | None:
        # Must not refer to this object, which would never be collected.
        return None if self._engine is None else partial(_publish_again, self._engine, app_name)

    def _open_backend(self) -> Backend:
        if self._serving is None:
            return open_backend(self.config, self.name, self.label, self._executor_of)
        from .engines import EngineBackend

        backend = EngineBackend(self._serving.setup)
        close_at_exit(backend, self.config.at_exit)
        return backend

    def _open_client(self, app: Flask) -> StoreClient | None:
        config = self.config
        if config.store is None:
            return None
        from .stores.client import Settings, StoreClient
        from .stores.recording import Codec

        key = key_of("store", name=self.name)
        store, space = open_store(
            key, config.store.value, instance_path=app.instance_path, ttl=config.store_ttl
        )
        signer = None
        if config.store_results == "pickle":
            keys = signing_keys(app.config, config)
            if not keys:
                raise ConfigError(
                    key_of("store_results", name=self.name),
                    "pickle",
                    "SECRET_KEY, or EXECUTOR_SIGNING_KEY, to be set, which signs results",
                )
            signer = JobSigner(keys)
        settings = Settings(
            space=space or app.name,
            executor=self.name,
            ttl=config.store_ttl,
            max_jobs=config.store_max_jobs,
            max_bytes=config.store_max_bytes,
            lease=config.store_lease,
            strict=config.store_strict,
            records_all=config.store_record == "all",
            keeps=self._futures.max_length,
        )
        return StoreClient(
            store,
            settings,
            Codec(config.store_max_result_bytes, signer),
            label=self.label,
            logger=partial(_logger_of, self._app),
            tell=partial(_tell_of_loss, self._app),
            publish_again=self._publisher(app.name),
        )

    @property
    def given_carriers(self) -> Iterable[Carrier[Any]] | None:
        """The configured carriers; ``None``: those of the libraries imported at the first call."""
        given = self._given_carriers
        return self.config.carriers if given is None else given

    def _carry_with(self, carriers: Iterable[Carrier[Any]]) -> None:
        """Choose how contexts are captured, and the type of the calls."""
        # Bound here, so that submitting without carriers costs nothing extra.
        self.capture: Callable[[Flask, Any], tuple[ContextSnapshot, Context]]
        self.call_type: type[Call[Any]]
        carriers = tuple(carriers)
        if carriers:
            self.capture = partial(Carriers(carriers).capture, self.rules)
            self.call_type = CarryingCall
        else:
            self.capture = partial(capture, self.rules)
            self.call_type = Call

    def _count_anew(self) -> None:
        key, bound = key_of("max_pending", name=self.name), self.config.max_pending
        self.capacity: Capacity = Capacity(self.label, key, bound, self.max_workers)
        # Coroutines start at once and then wait, so the limit applies to unfinished ones.
        self._counts_apart: bool = bound is not None and self.config.type == "thread"
        self._capacity_of_loops = (
            Capacity(self.label, key, bound) if self._counts_apart else self.capacity
        )
        self.capacities.add(self.capacity)
        self.capacities.add(self._capacity_of_loops)

    def _capacity_for(self, fn: Callable[..., object]) -> Capacity:
        """Return the capacity that counts a call of ``fn``, if there are two."""
        return self._capacity_of_loops if is_async_callable(fn) else self.capacity

    @property
    def app(self) -> Flask | None:
        """The app, unless it is gone."""
        return self._app()

    # -- calls -----------------------------------------------------------------------------------

    def submit(
        self, call: Call[Any], block: float | None = None, *, admitted: bool = False
    ) -> None:
        """Send a call to the workers. There is no other way to them.

        The order is: capacity, backend, signal. A refused call leaves no trace here.

        Args:
            call: The call. It may be over when this returns.
            block: Seconds to wait for room; ``None``: not at all.
            admitted: Whether room was already found; if so, the call counts even if there is none.

        Raises:
            ExecutorClosedError: the executor was shut down.
            QueueFullError: there is no room.
            UnsupportedError: the backend cannot do what the call asks for.
        """
        future = call.future
        capacity = self._capacity_for(call.fn) if self._counts_apart else self.capacity
        announce = call.announcement(signals.job_submitted) if _hear_of_submitted else None
        try:
            if admitted:
                capacity.add(future)
            else:
                capacity.admit(future, block)
            (self.opened or self.backend(call.snapshot.app)).submit(call)
        except BaseException as error:
            capacity.remove(future)
            del future  # the error's cause may keep this frame: see FutureProxy.result()
            if exit_has_begun() and type(error) is RuntimeError:
                # No more threads can be started, by this package or, from Python 3.12 on, at all.
                raise ExecutorClosedError(self.label, at_exit=True) from error
            raise
        if announce is not None:
            announce()

    def look_for_room(self, call: Call[Any], block: float | None) -> None:
        """Refuse a call that is about to be held, if there is no room; see :meth:`submit`."""
        capacity = self._capacity_for(call.fn) if self._counts_apart else self.capacity
        capacity.admit(call.future, block, now=False)

    def stats(self) -> ExecutorStats:
        backend = self.opened
        workers, loops = (0, 0) if backend is None else backend.sizes()
        return stats_of({self.capacity, self._capacity_of_loops}, workers, loops)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def max_workers(self) -> int:
        return self.config.max_workers or default_max_workers(self.config.type)

    def limits_with(self, given: Limits, name: str, app: Flask) -> Limits:
        """Complete the limits given for a call with those of the settings.

        Raises:
            UnsupportedError: they are for an engine, and this executor has none, or a lesser one.
        """
        if given.need_engine and not (self.ignores_routes or "type" in _forced):
            # Here, and not in the backend: one that is no engine need not know of it, and a call
            # that waits for a response is refused before it waits.
            check_route(name, given, self.backend(app).capabilities, self._shown_type())
        return replace(given, timeout=self.config.job_timeout) if given.timeout is None else given

    def _shown_type(self) -> str:
        kind: Any = self.config.type
        if self._engine is not None:
            return self._engine.name
        if isinstance(kind, GivenExecutor):
            kind = type(kind.executor)
        shown = repr(kind) if isinstance(kind, str) else getattr(kind, "__qualname__", kind)
        return f"{key_of('type', name=self.name)}={shown}"

    def backend(self, app: Flask) -> Backend:
        """Return the backend of this process, which is created when it is first needed."""
        if self.opened is not None:
            return self.opened
        changes, opens = "", False
        with self._lock:
            if self._closed or threads_are_refused():
                raise ExecutorClosedError(self.label, exit_has_begun())
            if self.opened is None:
                changes = self._adopt_late_settings(app)
                backend = self._open_backend()
                self._find_carriers(app, backend)  # before other threads find the backend
                self.notes_lines = app.debug  # not in init_app(): app.run(debug=True) comes later
                self.notes = self.notes or self.notes_lines
                # An executor or app that is dropped without shutdown() must leave no thread behind.
                self._finalizer = finalize(self, backend.close, cancel_pending=False)
                self._finalizer.atexit = False  # runtime/exit.py sees to that
                for wrap, replaced in _wraps:
                    wrapped = wrap(self, backend)
                    replaced.append((self, backend, wrapped))
                    backend = wrapped
                self.opened = backend
                opens = True
            backend = self.opened
        if changes:  # after the lock: a log handler may submit
            with contextlib.suppress(BaseException):
                app.logger.warning(
                    "settings of %s changed after init_app(), and are used now: %s; "
                    "set them before",
                    self.label,
                    changes,
                )
        if opens and self._has_namesake():
            with contextlib.suppress(BaseException):
                app.logger.warning(
                    "the app %r has two executors called %r, and jobs run in both; app.extensions, "
                    "doctor and the commands know only the newer: give one a name, such as "
                    "Executor(app, name='mail')",
                    app.name,
                    self.label,
                    stacklevel=levels_to_caller(),
                )
        return backend

    def _has_namesake(self) -> bool:
        """Return whether another executor of this name runs jobs of this app."""
        # Not looked for in init_app(): a second executor that replaces one that is never used does
        # no harm. Both are opened before either looks, so one of two threads finds the other.
        return any(
            state is not self
            and state.name == self.name
            and state._app() is self._app()
            and state.opened is not None
            and not state.closed
            for state in _states
        )

    def _find_carriers(self, app: Flask, backend: Backend) -> None:
        carriers = self.given_carriers
        if carriers is None:
            carriers = default_carriers(shared_memory=backend.capabilities.shared_memory)
        self._carry_with(carriers)
        for carrier in carriers:
            if isinstance(carrier, OpenTelemetry):
                carrier.observe(self, {"executor": self.label, "app": app.name})

    def _adopt_late_settings(self, app: Flask) -> str:
        """Apply settings changed since init_app(), and describe them: it usually works by luck."""
        config = settings_of(app, self.name)
        changes = self.config.changes(config)
        if changes:
            if config.async_views:
                check_hook(app, key_of("async_views", name=self.name), self.views)
            self._use(config)
            self.serve_views(app)
        return changes

    def serve_views(self, app: Flask) -> None:
        """Run the app's async views, or leave them to Flask, as the settings say."""
        views = self.views
        if self.config.async_views:
            if views is None:
                views = self.views = AsyncViews(self.label, self.config.loop_factory)
                views.install(app)
            close_at_exit(views, self.config.at_exit)
        elif views is not None:
            self.views = None
            views.close(cancel_pending=False)

    def close(self, cancel_pending: bool) -> list[Closable]:
        """Refuse calls from now on. Return the parts that can be waited for."""
        with self._lock:
            self._closed = True
            # The client last: it ends when the others have settled what they accepted.
            possible: tuple[Closable | None, ...] = (self.opened, self.views, self.client)
            parts: list[Closable] = [part for part in possible if part is not None]
        for part in parts:
            part.close(cancel_pending=cancel_pending)
        self.capacity.close()
        self._capacity_of_loops.close()
        return parts

    def forget_parent(self) -> None:
        """Drop the backend in the child of a fork, because its threads are the parent's."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self.opened = None
        self._lock = threading.RLock()  # the parent may have held it
        self.capacities.discard(self.capacity)
        self.capacities.discard(self._capacity_of_loops)
        self._count_anew()
        if self.views is not None:
            self.views.forget_parent()
            close_at_exit(self.views, self.config.at_exit)
        if self.client is not None:
            close_at_exit(self.client, self.config.at_exit)


_states: WeakListing[AppState] = WeakListing()


@when_context_is_missed
def _note_lines_of(app: Flask, fn: Callable[..., object]) -> None:
    # Too late for this call. To note the line of every call would cost each submit 11 bytecodes and
    # 90 bytes, of some 540 and 670; a call that misses a context is seldom the last.
    for state in _states:
        if state.app is app:
            state.lines_wanted.add(name_of(fn))
            state.notes = True


# -- for tests ------------------------------------------------------------------------------------


def states() -> list[AppState]:
    """Return what executors keep for the apps of this process that are not garbage."""
    return list(_states)


Wrap = Callable[[AppState, Backend], Backend]

Replaced = list[tuple[AppState, Backend, Backend]]
"""States with their backends before and after."""

_wraps: list[tuple[Wrap, Replaced]] = []


@contextlib.contextmanager
def backends_wrapped(wrap: Wrap) -> Generator[None, None, None]:
    """Replace each backend of this process with what ``wrap(state, backend)`` returns.

    The replacement sees each accepted call, with its arguments, on its way to the workers; calls of
    ``after_response()`` and ``after_commit()`` after their event. A ``submit()`` that has already
    begun in another thread may still reach the backend itself.
    """
    replaced: Replaced = []  # also what opens until the end
    _wraps.append((wrap, replaced))
    try:
        for state in _states:
            if (backend := state.opened) is not None:
                state.opened = wrapped = wrap(state, backend)
                replaced.append((state, backend, wrapped))
        yield
    finally:
        _wraps.remove((wrap, replaced))
        for state, backend, wrapped in replaced:
            if state.opened is wrapped:  # not None, in the child of a fork
                state.opened = backend


@in_child
def _forget_parent() -> None:
    for state in _states:
        state.forget_parent()


def _logger_of(app: ref[Flask]) -> logging.Logger:
    found = app()
    return logging.getLogger("flask_executor_typed") if found is None else found.logger


def _celery_of(app: ref[Flask], celery_of: Callable[[Flask], object]) -> object:
    found = app()
    return None if found is None else celery_of(found)


def _open_given_engine(key: str, given: GivenEngine) -> Engine:
    engine: Any = given.open()
    if (
        isinstance(getattr(engine, "name", None), str)
        and isinstance(getattr(engine, "capabilities", None), Capabilities)
        and callable(getattr(engine, "publish", None))
    ):
        found: Engine = engine
        return found
    shown = getattr(given.given, "__qualname__", type(engine).__qualname__)
    expected = "an engine, or what returns one: an object with a name, capabilities and publish()"
    raise ConfigError(key, shown, f"{expected}, and not one of {type(engine)}")


def _open_dask(key: str, name: str, config: ExecutorConfig) -> Engine:
    key_of_address, key_of_app = key_of("dask_address", name=name), key_of("app", name=name)
    if config.dask_address is None:
        expected = f"{key_of_address} to be 'tcp://...', where its scheduler is"
        raise ConfigError(key, config.type, expected)
    if config.app is None:
        expected = f"{key_of_app} to be 'package.module:create_app', which its workers load"
        raise ConfigError(key, config.type, expected)
    from .engines.dask import DaskEngine

    return DaskEngine(key, config.dask_address, key_of_app, config.app)


def _publish_again(engine: Engine, app_name: str, row: Row) -> None:
    from .engines import publish

    publish(engine, app_name, row)


def _tell_of_loss(app: ref[Flask], future: FutureProxy[Any], record: JobRecord) -> None:
    found = app()
    if found is not None and _hear_of_loss:
        with found.app_context():
            signals.announce(signals.job_lost, found, future, record=record)


# -- the end --------------------------------------------------------------------------------------

Closed = list[tuple[Closable, float]]
"""The closed parts, each with the seconds that its accepted calls may take to end."""


def close_all(
    states: Iterable[AppState], label: str, wait: bool, cancel_pending: bool, timeout: float | None
) -> Closed:
    """Refuse calls from now on, and return the parts that the caller must wait for.

    Another thread waits for the rest if its time is limited: for the parts that would wait for
    themselves here, and without ``wait`` for all. ``timeout=None``: as in the settings of each app.
    """
    here: Closed = []
    elsewhere: Closed = []
    for state in states:
        seconds = state.config.at_exit.timeout if timeout is None else timeout
        for part in state.close(cancel_pending):
            waits = wait and not part.runs_here()
            (here if waits else elsewhere).append((part, seconds))
    limited = [(part, seconds) for part, seconds in elsewhere if seconds < inf]
    if limited:
        drain_apart(limited, label, FutureProxy())
    return here


def drain_apart(closed: Closed, label: str, over: FutureProxy[None]) -> bool:
    """Wait in another thread, then settle ``over``. ``False`` if no thread can be started."""
    begun = time.monotonic()

    def run() -> None:
        try:
            drain(closed, begun)
        finally:
            over.set_result(None)

    try:
        start_thread(f"{label}-shutdown", run)
    except (RuntimeError, OSError):
        return False  # most likely the interpreter is exiting, which waits by itself
    return True
