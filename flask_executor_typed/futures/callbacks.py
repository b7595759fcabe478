"""A done callback: the contexts it is called with, and the thread.

The only module that calls what users ask to be called when a future is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures._base import LOGGER
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from flask import Flask

from .. import signals
from ..callables import is_async_callable, name_of
from ..context import ContextRules, ContextSnapshot, active_app_context, capture, run_pushed
from ..runtime.forks import in_child
from ..runtime.logs import log_exception, without_data
from ..runtime.running_loop import running_loop
from ..runtime.threads import start_thread

if TYPE_CHECKING:
    from blinker import NamedSignal

__all__ = (
    "Callback",
    "DefaultCallback",
    "announce",
    "app_of",
    "call_back_by",
    "callbacks_of",
    "check_callback",
    "contexts_for_callback",
    "default_callback_runs_here",
)

_Submit = Callable[[Callable[[], object]], object]
"""Runs a function in another thread, or raises ``RuntimeError`` if there is none for it."""


class _HasContexts(Protocol):
    """What is needed of a future."""

    _app: Flask | None
    _rules: ContextRules
    _snapshot: ContextSnapshot | None
    _variables: Context | None
    _watchers: list[Any]

    def _take(self, item: Any) -> bool: ...


class _ThisThread(threading.local):
    submit: _Submit | None = None
    default_callbacks = 0  # that run here, one in the other


_this_thread = _ThisThread()


def call_back_by(submit: _Submit | None) -> None:
    """Have the callbacks of futures that are settled in this thread run by ``submit``.

    For threads that serve many jobs, such as that of an event loop. ``None``: here, as usual.
    """
    _this_thread.submit = submit


@in_child
def _forget_parent() -> None:
    _this_thread.submit = None  # the threads behind it are the parent's


def _where_callbacks_may_block() -> _Submit | None:
    """Return what runs the callbacks of a future that is settled here; ``None``: this thread."""
    if (submit := _this_thread.submit) is not None:
        return submit
    if running_loop() is not None:  # not one of ours: a call was cancelled on it, say
        return partial(start_thread, "flask_executor_typed-callbacks")
    return None


def check_callback(fn: Callable[[Any], object]) -> None:
    """Refuse what cannot be called back.

    Raises:
        TypeError: ``fn`` is no function, is asynchronous, or belongs to ``asyncio.wait()``.
    """
    given: Any = fn  # whatever the annotation says
    if not callable(given):
        raise TypeError(f"expected a plain function of a future, got {given!r}")
    if is_async_callable(fn):
        raise TypeError(
            f"expected a plain function of a future, got {without_data(fn)!r}, which is async and "
            "would never be awaited; submit it in a plain function, or await the future first"
        )
    # It would set a future of its loop in a thread of ours, and the loop might not wake up.
    if getattr(fn, "__module__", "") == "asyncio.tasks" and name_of(fn).startswith("_wait."):
        raise TypeError(
            "asyncio.wait() takes tasks and futures of its own loop: give it "
            "asyncio.wrap_future(future), or use asyncio.gather() or executor.as_completed()"
        )


class _HasWatchers(Protocol):
    _watchers: Any


class CallbackCounter(Protocol):
    """Counts the done callbacks that are not over."""

    def expect(self, callback: Callback, /) -> None: ...

    def callback_is_over(self, callback: Callback, /) -> None: ...


class Callback:
    """A done callback with the contexts it runs in."""

    __slots__ = ("_fn", "_snapshot", "_variables", "counter", "is_over")

    def __init__(
        self,
        fn: Callable[[Any], object],
        snapshot: ContextSnapshot | None,
        variables: Context | None,
    ) -> None:
        self._fn = fn
        self._snapshot = snapshot
        self._variables = variables
        self.counter: CallbackCounter | None = None
        """What counts the callback until it is over, wherever it runs."""
        self.is_over: bool = False

    @property
    def name(self) -> str:
        return name_of(self._fn)

    def __call__(self, future: _HasContexts) -> None:
        """Call it as a watcher of ``future``, unless another thread has.

        With the callbacks after it, and in another thread, if it must not block here.
        """
        submit = _where_callbacks_may_block()
        if submit is not None:
            _run_by(submit, future)
            return
        try:
            if future._take(self):
                self.run(future)
        except BaseException:
            # No caller can catch what a callback raises, and the worker that runs it must live on.
            self._log_exception(future)

    def run(self, future: _HasContexts) -> None:
        """Call it for ``future``, which is done and has not called it."""
        try:
            self._call(future)
        except BaseException:
            self._log_exception(future)
        finally:
            self.is_over = True
            if self.counter is not None:
                self.counter.callback_is_over(self)

    def _call(self, future: _HasContexts) -> None:
        if self._snapshot is None or self._variables is None:
            self._fn(future)
        else:
            run_pushed(self._snapshot, self._variables, self._fn, future)

    def _log_exception(self, future: _HasContexts) -> None:
        app = app_of(future)
        logger = LOGGER if app is None else app.logger
        log_exception(
            logger, "exception calling callback %r for %r", without_data(self._fn), future
        )


class DefaultCallback(Callback):
    """A callback that the executor, and not the caller, has added."""

    __slots__ = ()

    def run(self, future: _HasContexts) -> None:
        _this_thread.default_callbacks += 1
        try:
            super().run(future)
        finally:
            _this_thread.default_callbacks -= 1


def default_callback_runs_here() -> bool:
    """Return whether code here was called by a default callback."""
    return _this_thread.default_callbacks > 0


def callbacks_of(future: _HasWatchers) -> Iterable[Callback]:
    """Return the callbacks that a future has."""
    return [watcher for watcher in list(future._watchers) if isinstance(watcher, Callback)]


def announce(
    signal: NamedSignal,
    future: _HasContexts,
    snapshot: ContextSnapshot | None,
    variables: Context | None,
    **facts: object,
) -> None:
    """Send a signal about the call of ``future``, with contexts like those of the call."""
    if signal.receivers and snapshot is not None:
        send = partial(signals.announce, signal, snapshot.app, **facts)
        Callback(send, snapshot, variables).run(future)


def _run_by(submit: _Submit, future: _HasContexts) -> None:
    """Have all callbacks that ``future`` has left run by ``submit``, together: in their order."""
    # A callback that is being added meanwhile is run by the thread that removes it from the list:
    # this one, or the one that settles the future and comes to it next, or the one that adds it,
    # takes it back and runs it at once.
    callbacks = [each for each in callbacks_of(future) if future._take(each)]
    try:
        submit(partial(_run_all, callbacks, future))
    except (RuntimeError, OSError):
        # No thread can be started: the system has no more, or Python 3.12 is exiting. To hold up
        # what this thread serves is better than to lose them.
        _run_all(callbacks, future)


def _run_all(callbacks: list[Callback], future: _HasContexts) -> None:
    for each in callbacks:
        each.run(future)


def app_of(future: _HasContexts) -> Flask | None:
    """Return the app whose call it is; ``None`` for a future that no executor made."""
    return future._app


def contexts_for_callback(
    future: _HasContexts,
) -> tuple[ContextSnapshot | None, Context | None]:
    """Return contexts like the ones active here; outside of any, like those of the call.

    Once the call is done, its own are gone: then there is the app, and nothing else.
    """
    app_context = active_app_context()
    if app_context is not None:
        return capture(future._rules, app_context.app, app_context)
    # A worker may settle the future in between. It forgets the snapshot first: look at it last.
    variables, snapshot = future._variables, future._snapshot
    if snapshot is not None:
        return snapshot, variables
    if future._app is None:
        return None, None
    return ContextSnapshot(future._app, future._rules), Context()
