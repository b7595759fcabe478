"""Push a snapshot where a job runs, and pop it afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import Context, ContextVar
from inspect import iscoroutinefunction
from itertools import chain
from types import TracebackType
from typing import Any, ClassVar, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from flask import Flask
from flask.signals import (
    appcontext_popped,
    appcontext_pushed,
    appcontext_tearing_down,
    request_tearing_down,
)

from ..runtime.frames import levels_to_caller, line_of_caller
from ..runtime.logs import log_exception
from ..runtime.running_loop import no_running_loop, running_loop
from ..signals import receivers_of
from .capture import stop_telling, tell_of_capture
from .carry import with_items
from .compat import HAS_STACKS, HAS_TOKENS, IS_MERGED, active_app_context, app_slot, request_slot
from .lazy import LazyAppContext, LazyRequestContext, give_token, request_context_of
from .snapshot import ContextSnapshot, has_flasks_own

__all__ = ("PushedContexts", "PushedInTask", "run_pushed", "running_call")

P = ParamSpec("P")
R = TypeVar("R")

running_call: ContextVar[Any] = ContextVar("flask_executor_typed_call", default=None)
"""The ``Call`` that is running here, or ``None``. Once it is over it has no ``future``."""

_push_receivers = receivers_of(appcontext_pushed)
_request_teardown_receivers = receivers_of(request_tearing_down)
_app_teardown_receivers = receivers_of(appcontext_tearing_down)
_pop_receivers = receivers_of(appcontext_popped)

_warned: WeakKeyDictionary[Flask, set[str]] = WeakKeyDictionary()
"""The lines that submit in a job's own teardown, of which the log of an app has a warning."""

# Bound once: every job uses them, and looking up a method costs more.
_set_app_context, _reset_app_context = app_slot.set, app_slot.reset
_set_request_context, _reset_request_context = request_slot.set, request_slot.reset


def run_pushed(
    snapshot: ContextSnapshot,
    variables: Context,
    fn: Callable[P, R],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Call ``fn`` with a snapshot pushed, in a copy of the contextvars."""

    def run() -> R:
        running_call.set(None)  # not the job that took the snapshot
        with PushedContexts(snapshot):
            return fn(*args, **kwargs)

    return variables.copy().run(run)


class PushedContexts:
    """Make a snapshot current for a ``with`` block, once.

    Enter it in a copy of the contextvars that is dropped afterwards, as :func:`run_pushed` does: if
    the app has no teardown functions or receivers, the contexts are left there. Flask's teardown
    functions run at the end of the block, with its exception; what they raise is logged.
    """

    # A class rather than a generator, because it runs for every job.

    __slots__ = ("_app_context", "_app_token", "_request_context", "_request_token", "_snapshot")

    _app_context: Any
    _app_token: Any  # if the context is a lazy one
    _request_context: Any
    _request_token: Any

    variables_live_on: ClassVar[bool] = HAS_STACKS  # each keeps the previous value
    """Whether the contextvars are still used after the block."""

    def __init__(self, snapshot: ContextSnapshot) -> None:
        self._snapshot = snapshot

    def __enter__(self) -> None:
        # Always a new context, although the copied contextvars already resolve current_app: theirs
        # is the submitter's, and the job would write to a g that is still in use there.
        snapshot = self._snapshot
        if not snapshot.is_plain or _push_receivers:
            self._push()
            return
        self._app_context = app_context = LazyAppContext(snapshot)
        self._app_token = _set_app_context(app_context)
        if snapshot.pushes_request:
            self._request_context = request_context = LazyRequestContext(snapshot)
            self._request_token = _set_request_context(request_context)
        else:
            self._request_context = self._request_token = None

    def _push(self) -> None:
        snapshot, request = self._snapshot, self._snapshot.request
        self._app_context = self._app_token = self._request_context = self._request_token = None
        if snapshot.pushes_app:
            app_context: Any = snapshot.app.app_context()
            self._app_context = app_context
            with_items(app_context.g, snapshot.g_items)
            if IS_MERGED and request is not None:
                parts = request.make_parts(snapshot.request_context)
                app_context._request, app_context._session, url_adapter = parts
                app_context.url_adapter = None  # push() matches the URL only if there is an adapter
                app_context.push()
                app_context.url_adapter = url_adapter
            else:
                app_context.push()
        if snapshot.pushes_request:
            self._request_context = request_context = request_context_of(snapshot)
            self._request_token = _set_request_context(request_context)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        app = self._snapshot.app
        if (
            self._app_token is not None
            and active_app_context() is self._app_context
            and not (app.teardown_appcontext_funcs or app.teardown_request_funcs)
            and not (_request_teardown_receivers or _app_teardown_receivers or _pop_receivers)
        ):
            # The app has nothing to run, and the contextvars take the contexts with them.
            if self.variables_live_on:
                if self._request_token is not None:
                    _reset_request_context(self._request_token)
                _reset_app_context(self._app_token)
            return
        # When a loop is gone, its coroutines are closed when they are freed, in the middle of
        # other code whose contexts are not ours to pop.
        is_elsewhere = exc_type is GeneratorExit and active_app_context() is not self._app_context
        if self._app_context is not None and not is_elsewhere:
            self._pop(exc)

    def _pop(self, exc: BaseException | None) -> None:
        # In a loop's thread: Flask calls async teardown functions through asgiref, which refuses
        # to run while a loop does. Like every teardown function, they hold up the loop.
        if running_loop() is not None and _has_async_teardown(self._snapshot.app):
            with no_running_loop():
                self._pop(exc)
            return
        try:
            if active_app_context() is not self._app_context:
                self._pop_what_is_left()
            tell_of_capture(self._app_context, self._warn_of_submit)
            if self._app_token is not None:
                give_token(self._app_context, self._app_token)
            if self._request_token is None:
                self._app_context.pop(exc)
            else:
                self._pop_both(exc)
        except BaseException:
            # The job is over and its result stands; a worker must survive any teardown.
            self._log_failed_teardown()
        finally:
            stop_telling(self._app_context)

    def _warn_of_submit(self) -> None:
        """Say, once for each line of code, that a job's own teardown submits a job."""
        if running_call.get() is None:  # the teardown of a done callback, which starts no storm
            return
        app, line = self._snapshot.app, line_of_caller()
        warned = _warned.setdefault(app, set())  # two threads may both warn
        if line not in warned:
            warned.add(line)
            with contextlib.suppress(BaseException):  # of a log handler
                app.logger.warning(
                    "%s submits a job in a teardown function, which runs after each job too: one "
                    "request may start jobs without end; begin it with 'if current_job: return'",
                    line,
                    stacklevel=levels_to_caller(),
                )

    def _pop_both(self, exc: BaseException | None) -> None:
        # Like Flask's own pop of a request context, except that it doesn't close the request, which
        # is a copy, nor look for teardown functions if there are none: half of the cost.
        app: Any = self._snapshot.app
        try:
            if (
                app.teardown_request_funcs
                or _request_teardown_receivers
                or not has_flasks_own(app, "do_teardown_request")
            ):
                app.do_teardown_request(exc)
        finally:
            _reset_request_context(self._request_token)
            if HAS_TOKENS:  # the next push is the first again
                self._request_context._cv_tokens = []
            self._app_context.pop(exc)

    def _pop_what_is_left(self) -> None:
        """Pop the contexts that the job left pushed, so that its teardown sees its own ``g``."""
        # On Flask 3.2 there is one slot; the app context comes last.
        ours = {request_slot: self._request_context, app_slot: self._app_context}
        for slot, context in ours.items():
            while (left := slot.get(None)) is not context and left is not None:
                try:
                    left.pop(None)
                except BaseException:
                    self._log_failed_teardown()
                    break

    def _log_failed_teardown(self) -> None:
        log_exception(self._snapshot.app.logger, "teardown after a background job failed")


class PushedInTask(PushedContexts):
    """The same in contextvars that live on for a while, such as those of a task."""

    __slots__ = ()

    variables_live_on = True


def _has_async_teardown(app: Flask) -> bool:
    of_requests = chain.from_iterable(app.teardown_request_funcs.values())
    return any(map(iscoroutinefunction, chain(app.teardown_appcontext_funcs, of_requests)))
