"""Pickle everything that travels between the server process and its worker processes.

The only module that decides how functions, contexts, results and errors are pickled.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from types import FunctionType
from typing import Any, NamedTuple

from flask import Flask
from flask.sessions import SecureCookieSession
from werkzeug.datastructures import FileStorage
from werkzeug.local import LocalProxy

from ..calls import Call, Carried, Carriers, CarryingCall
from ..carriers import Carrier
from ..context import PortableContext
from ..errors import (
    JobVersionError,
    RemoteTracebackError,
    UnpicklableError,
    UploadsLeftBehindError,
    WorkerError,
)
from ..futures import id_of
from ..runtime.logs import fields_of

__all__ = (
    "ContextDumper",
    "ExecutorOf",
    "Settings",
    "Work",
    "dump_context",
    "dump_error",
    "dump_function",
    "dump_result",
    "load_carried",
    "load_error",
    "load_function",
)


ExecutorOf = Callable[[Flask], tuple[object, Iterable[Carrier[Any]]]]
"""Finds the executor and its carriers in the app of a worker process."""


class Settings(NamedTuple):
    """The settings that a worker process receives when it starts."""

    name: str
    """The executor's name in messages and thread names."""

    app: str | None
    push_app: bool
    push_request: bool
    key_of_app: str
    """The name of the setting in the config of this executor, as are the next two."""

    key_of_push_app: str
    key_of_push_request: str
    executor_of: ExecutorOf


class Work(NamedTuple):
    """One call, as it is sent to a worker process."""

    number: int
    """Among the calls of its worker process; 0 where a worker knows only one."""

    name: str
    id: str
    key: bytes | None
    attempt: int
    function: bytes
    """The function with its arguments, pickled."""

    context: bytes | None
    keeps_log: bool = False
    """Whether the worker is to send the lines that the call logs."""

    def __repr__(self) -> str:
        return fields_of(self)

    @classmethod
    def of(cls, call: Call[Any], context: bytes | None) -> Work:
        """Pickle the function of a call, with its arguments and its key.

        Raises:
            UnpicklableError: names the part that cannot be pickled.
        """
        # No variable holds the future: with the traceback of an error, that would be a cycle.
        return cls(
            0,
            call.future.name,
            id_of(call.future),
            _dump_key(call.future.key),
            call.attempt,
            dump_function(call),
            context,
        )


class _Pickler(pickle.Pickler):
    """Pickles functions that ``@executor.job`` has replaced under their own names."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, FunctionType) and "<locals>" not in obj.__qualname__:
            named: object = sys.modules.get(obj.__module__)
            for part in obj.__qualname__.split("."):
                named = getattr(named, part, None)
            function: object = getattr(named, "fn", None)
            if function is obj:
                return _function_of_job, (obj.__module__, obj.__qualname__)
        if isinstance(obj, FileStorage):  # only small ones can be pickled
            raise UploadsLeftBehindError
        return NotImplemented


def _function_of_job(module: str, qualname: str) -> Any:
    found: Any = import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found.fn


class _Unpickler(pickle.Unpickler):
    """Distinguishes a name that is missing from errors of the user's own code."""

    def __init__(self, job: str, pickled: bytes) -> None:
        super().__init__(io.BytesIO(pickled))
        self._job = job

    def find_class(self, module: str, name: str) -> Any:
        found = self._find(super().find_class, module, name)
        return partial(self._find, found) if found is _function_of_job else found

    def _find(self, find: Callable[..., Any], *where: Any) -> Any:
        try:
            return find(*where)
        except (AttributeError, ImportError) as error:
            raise JobVersionError(self._job, str(error)) from error


def _dumps(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def dump_function(call: Call[Any]) -> bytes:
    """Pickle the function of a call and its arguments.

    Raises:
        UnpicklableError: names the part that cannot be pickled.
    """
    try:
        return _dumps((call.fn, call.args, call.kwargs))
    except Exception:
        # Find out which part it was; the pickler's own message rarely says so.
        parts: dict[str, object] = {"the function itself": call.fn}
        parts.update((f"argument {i}", value) for i, value in enumerate(call.args, 1))
        parts.update((f"argument {name!r}", value) for name, value in call.kwargs.items())
        for what, value in parts.items():
            try:
                _dumps(value)
            except Exception as error:
                reason = _describe(error)
                if type(value) is LocalProxy:
                    reason = "it is a Flask proxy, such as request or current_app"
                raise UnpicklableError(call.future.name, what, reason) from error
        raise


def load_function(job: str, pickled: bytes) -> Any:
    """Load what :func:`dump_function` has pickled, in a worker that may be of another release.

    Raises:
        JobVersionError: this worker lacks a module, function, class or method.
    """
    try:
        return _Unpickler(job, pickled).load()
    except AttributeError as error:
        # pickle itself looks for a method; an error of the user's own code has that code's frames.
        if (frames := error.__traceback__) is not None and frames.tb_next is None:
            raise JobVersionError(job, str(error)) from error
        raise


def dump_context(context: PortableContext) -> tuple[bytes, list[str]]:
    """Pickle a context. Also return the names of what cannot be pickled: ``g.lock``, say."""
    try:
        return _dumps(context), []
    except Exception:
        left_behind: list[str] = []
        g_items = _picklable("g", context.g_items, left_behind)
        request = context.request
        if request is not None:
            view_args = request.view_args
            kind = request.session_kind
            request = request._replace(
                view_args=view_args and _picklable("request.view_args", view_args, left_behind),
                session_kind=kind if _can_be_pickled(kind) else SecureCookieSession,
                session=_picklable("session", request.session, left_behind),
            )
        return _dumps(context._replace(g_items=g_items, request=request)), left_behind


class ContextDumper:
    """Pickles the contexts of an executor's calls, and warns once about each unpicklable value."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._left_behind: set[str] = set()  # names already warned about

    def dump(self, call: Call[Any]) -> bytes | None:
        """Pickle a call's contexts and what carriers captured; ``None`` if there is neither."""
        snapshot = call.snapshot
        context = _NO_CONTEXT
        if self._settings.app is not None:
            context = snapshot.portable(with_request=self._settings.push_request)
        if isinstance(call, CarryingCall) and call.carried is not None:
            context = context._replace(carried=_dump_carried(call.carried, snapshot.app))
        if context == _NO_CONTEXT:
            return None if self._settings.app is None else _NO_CONTEXT_PICKLED
        pickled, left_behind = dump_context(context)
        for name in set(left_behind) - self._left_behind:
            self._left_behind.add(name)
            with contextlib.suppress(BaseException):
                snapshot.app.logger.warning(
                    "%s cannot be pickled, so jobs in worker processes of %s do not have it; "
                    "carry_g selects what travels from g",
                    name,
                    self._settings.name,
                )
        return pickled


def _dump_carried(carried: Carried, app: Flask) -> dict[str, bytes]:
    pickled: dict[str, bytes] = {}
    for carrier, captured in carried.values:
        try:
            pickled[carrier.name] = _dumps(captured)
        except Exception as error:
            carried.carriers.report(carrier.name, "pickling for a worker process", error, app)
    return pickled


def load_carried(carriers: Carriers, pickled: dict[str, bytes], app: Flask) -> Carried:
    """Load what :class:`ContextDumper` has pickled, each value for its carrier."""
    values: list[tuple[Carrier[Any], Any]] = []
    for name, captured in pickled.items():
        try:
            values.append((carriers.named(name), pickle.loads(captured)))
        except Exception as error:
            carriers.report(name, "loading in a worker process", error, app)
    return Carried(carriers, tuple(values))


def _picklable(where: str, items: dict[str, Any], left_behind: list[str]) -> dict[str, Any]:
    picklable = {name: value for name, value in items.items() if _can_be_pickled(value)}
    left_behind += (f"{where}.{name}" for name in items if name not in picklable)
    return picklable


def _can_be_pickled(value: object) -> bool:
    try:
        _dumps(value)
    except Exception:
        return False
    return True


_PLAIN = {type(None), bool, int, float, str, bytes}


def dump_result(name: str, result: object) -> bytes:
    """Pickle a result, and make sure that it can be unpickled.

    Raises:
        UnpicklableError: it cannot be pickled or unpickled.
    """
    try:
        pickled = _dumps(result)
        if type(result) not in _PLAIN:
            pickle.loads(pickled)
    except BaseException as error:  # SystemExit too, which would silently end the worker
        raise UnpicklableError(name, "its result", _describe(error)) from error
    return pickled


def _dump_key(key: object) -> bytes | None:
    """Pickle the key of a call; ``None`` if there is none, or it cannot be pickled."""
    if key is not None:
        with contextlib.suppress(Exception):
            return pickle.dumps(key)
    return None


def dump_error(name: str, error: BaseException) -> bytes:
    """Pickle an exception with its traceback as text, for :func:`load_error`."""
    text = "".join(traceback.format_exception(error))
    try:
        pickled = pickle.dumps((error, text))
        pickle.loads(pickled)
    except BaseException:
        return pickle.dumps((WorkerError(name, text), None))
    return pickled


def load_error(pickled: bytes) -> BaseException:
    """Return the exception, with its traceback in the worker as its cause."""
    error: BaseException
    error, text = pickle.loads(pickled)
    if text is not None:
        error.__cause__ = RemoteTracebackError(text)
    return error


_NO_CONTEXT = PortableContext({}, None, {})
_NO_CONTEXT_PICKLED = dump_context(_NO_CONTEXT)[0]


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # its __str__ raised
        return type(error).__name__
