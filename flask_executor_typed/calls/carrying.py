"""Calls with which carriers take something along.

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
    """The carriers of one executor in one app, and which of them were reported as broken."""

    def __init__(self, carriers: Iterable[Carrier[Any]] = ()) -> None:
        self._carriers: tuple[Carrier[Any], ...] = tuple(carriers)
        self._reported: set[str] = set()  # two threads may both add a name: it is logged twice

    def capture(
        self, rules: ContextRules, app: Flask, app_context: Any
    ) -> tuple[ContextSnapshot, Context]:
        """Capture what is current, like :func:`context.capture`, and with each carrier."""
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
            LookupError: there is none here.
        """
        here = {carrier.name: carrier for carrier in self._carriers}
        return here[name] if name in here else carrier_named(name)

    def report(self, name: str, step: str, error: BaseException, app: Flask) -> None:
        """Log that a carrier failed, unless that was logged before."""
        if name not in self._reported:
            self._reported.add(name)
            message = "%s of carrier %r failed: jobs run without it, and this is not logged again"
            log_exception(app.logger, message, step, name, error=error)


class Carried(NamedTuple):
    """What was captured for a call, or for all of a ``map``."""

    carriers: Carriers
    values: tuple[tuple[Carrier[Any], Any], ...]

    def put_into(self, variables: Context) -> None:
        """Make it what a :class:`CarryingCall` with these context variables carries."""
        variables.run(_carried.set, self)


# Of the call or, in what that submits without carriers, of a call around it.
_carried: ContextVar[Carried | None] = ContextVar("flask_executor_typed_carried", default=None)


class _Attached:
    """A ``with`` block in which what was captured is current. Neither end of it raises."""

    __slots__ = ("_app", "_carriers", "_entered")

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __enter__(self) -> None:
        self._entered: list[tuple[str, AbstractContextManager[object]]] = []
        carried = _carried.get()
        if carried is None:  # in a worker process: its server process has no carriers
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
                manager.__exit__(exc_type, exc, traceback)  # it cannot suppress the exception
            except BaseException as error:
                if error is not exc:
                    self._carriers.report(name, "the end of attach()", error, self._app)


class _CarryingContexts(PushedContexts):
    """Contexts in which what was captured is attached: after the push, until before the pop."""

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
    """A call that runs with what carriers captured."""

    __slots__ = ()

    contexts: ClassVar[type[PushedContexts]] = _CarryingContexts
    contexts_in_task: ClassVar[type[PushedContexts]] = _CarryingInTask

    @property
    def carried(self) -> Carried | None:
        """What carriers captured for the call."""
        return self.variables.get(_carried)

    def log(self, error: BaseException) -> None:
        """Log within what was captured, so that an error report bears it.

        Where the function runs it is attached; the error of a worker process is logged elsewhere.
        """
        if running_call.get() is self:
            super().log(error)
        elif self.logs:
            self.variables.copy().run(self._log_attached, error)

    def _log_attached(self, error: BaseException) -> None:
        running_call.set(None)
        with _Attached(self.snapshot.app):
            super().log(error)
