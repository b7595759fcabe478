"""Calls that run with values captured by carriers.

An executor without carriers uses none of this.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, TypeVar

from flask import Flask

from ..carriers import Carrier, carrier_named
from ..context import ContextRules, ContextSnapshot, PushedContexts, capture, running_call
from ..runtime.logs import log_exception
from .call import Call

__all__ = ("Carried", "Carriers", "CarryingCall")

R = TypeVar("R")


class Carriers:
    """The carriers of one executor in one app, and the names of those reported as broken."""

    def __init__(self, carriers: Iterable[Carrier[Any]] = ()) -> None:
        self._carriers: tuple[Carrier[Any], ...] = tuple(carriers)
        self._reported: set[str] = set()  # without a lock: two threads may both log

    def capture(
        self, rules: ContextRules, app: Flask, app_context: Any
    ) -> tuple[ContextSnapshot, Context]:
        """Capture the current contexts, like :func:`context.capture`, and call each carrier."""
        values: list[tuple[Carrier[Any], Any]] = []
        for carrier in self._carriers:
            try:
                values.append((carrier, carrier.capture()))
            except Exception as error:
                self.report(carrier.name, "capture()", error, app)
        snapshot, variables = capture(rules, app, app_context)
        Carried(self, tuple(values)).put_into(variables)
        return snapshot, variables

    def named(self, name: str) -> Carrier[Any]:
        """Return the carrier of that name, which another process used.

        Raises:
            LookupError: there is no such carrier here.
        """
        here = {carrier.name: carrier for carrier in self._carriers}
        return here[name] if name in here else carrier_named(name)

    def report(self, name: str, step: str, error: BaseException, app: Flask) -> None:
        """Log that a carrier failed, once per carrier."""
        if name not in self._reported:
            self._reported.add(name)
            message = "%s of carrier %r failed: jobs run without it, and this is not logged again"
            log_exception(app.logger, message, step, name, error=error)


class Carried(NamedTuple):
    """The values captured for a call, or for all calls of a ``map``."""

    carriers: Carriers
    values: tuple[tuple[Carrier[Any], Any], ...]

    def put_into(self, variables: Context) -> None:
        """Store these values in the context variables of a :class:`CarryingCall`."""
        variables.run(_carried.set, self)


# Those of the current call or, if that was submitted without carriers, of a call around it.
_carried: ContextVar[Carried | None] = ContextVar("flask_executor_typed_carried", default=None)


class _Attached:
    """A ``with`` block in which the captured values are attached. Neither end raises."""

    __slots__ = ("_app", "_carriers", "_entered")

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __enter__(self) -> None:
        self._entered: list[tuple[str, AbstractContextManager[object]]] = []
        carried = _carried.get()
        if carried is None:  # in a worker process whose server process has no carriers
            return
        self._carriers, values = carried
        for carrier, captured in values:
            try:
                manager = carrier.attach(captured)
                manager.__enter__()
            except Exception as error:
                self._carriers.report(carrier.name, "attach()", error, self._app)
            else:
                self._entered.append((carrier.name, manager))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._entered:
            name, manager = self._entered.pop()
            try:
                manager.__exit__(exc_type, exc, traceback)  # whose result cannot suppress exc
            except BaseException as error:
                if error is not exc:
                    self._carriers.report(name, "the end of attach()", error, self._app)


class _CarryingContexts(PushedContexts):
    """Contexts that attach the captured values after the push and detach them before the pop."""

    __slots__ = ("_attached",)

    def __enter__(self) -> None:
        super().__enter__()
        self._attached = _Attached(self._snapshot.app)
        self._attached.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._attached.__exit__(exc_type, exc, traceback)
        super().__exit__(exc_type, exc, traceback)


class _CarryingInTask(_CarryingContexts):
    __slots__ = ()

    variables_live_on = True


class CarryingCall(Call[R]):
    """A call that runs with the values that carriers have captured."""

    __slots__ = ()

    contexts: ClassVar[type[PushedContexts]] = _CarryingContexts
    contexts_in_task: ClassVar[type[PushedContexts]] = _CarryingInTask

    @property
    def carried(self) -> Carried | None:
        """The values that carriers have captured for the call."""
        return self.variables.get(_carried)

    def log(self, error: BaseException) -> None:
        """Log with the captured values attached, so that an error report includes them.

        In the thread that runs the function they already are. A worker process's error is logged in
        the server process, where they must be attached.
        """
        if running_call.get() is self:
            super().log(error)
        elif self.logs:
            self.variables.copy().run(self._log_attached, error)

    def _log_attached(self, error: BaseException) -> None:
        running_call.set(None)
        with _Attached(self.snapshot.app):
            super().log(error)
