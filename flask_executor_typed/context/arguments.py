"""Handle arguments that end with the request: uploads get readers, all others are refused.

Looks at the arguments themselves, at uploads in lists, tuples and dicts, and at the values that a
generator, a partial or a method refers to, but no further.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import TextIOWrapper
from types import AsyncGeneratorType, GeneratorType, MethodType, NoneType
from typing import Any

from flask import Flask
from flask.ctx import AppContext
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.wrappers import Response

from ..errors import RequestArgumentError
from ..runtime.frames import levels_to_caller
from .compat import RequestContext, active_request_context, request_of
from .uploads import reader_of, rewind

__all__ = ("carried_function", "job_arguments", "rewind_uploads")

_type_of: Callable[[object], type[object]] = type  # for type checkers

_SCALARS = frozenset({NoneType, bool, int, float, str, bytes})


def job_arguments(
    app: Flask, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of the call ``name`` as its job gets them.

    Raises:
        RequestArgumentError: the job cannot use an argument, because it ends with the request.
    """
    if not _are_scalars(args):
        carry = _Arguments(app, name).carried
        args = tuple(carry(f"argument {number}", value) for number, value in enumerate(args, 1))
    if kwargs and not _are_scalars(kwargs.values()):
        carry = _Arguments(app, name).carried
        kwargs = {key: carry(f"argument {key!r}", value) for key, value in kwargs.items()}
    return args, kwargs


def carried_function(app: Flask, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Do the same for the arguments in a partial, and for the object of a method."""
    if isinstance(fn, partial):
        args, kwargs = job_arguments(app, name, fn.args, fn.keywords)
        return partial(carried_function(app, name, fn.func), *args, **kwargs)
    owner: object = getattr(fn, "__self__", None)
    carried = _Arguments(app, name).carried("the object of the method", owner)
    return fn if carried is owner else MethodType(getattr(fn, "__func__", fn), carried)


def rewind_uploads(*values: Any, depth: int = 3) -> None:
    """Rewind the uploads in a function and its arguments, so that they can be read again."""
    for value in values:
        if issubclass(_type_of(value), FileStorage):
            rewind(value)
        elif depth:
            rewind_uploads(*_parts_of(value), depth=depth - 1)


def _parts_of(value: Any) -> Iterable[Any]:
    """Return the values that a value contains."""
    kind = _type_of(value)
    if issubclass(kind, partial):
        return (value.func, *value.args, *value.keywords.values())
    if kind is MethodType:
        return (value.__self__,)
    if issubclass(kind, MultiDict):
        return [item for _, item in value.items(multi=True)]
    return value.values() if kind is dict else value if kind in {list, tuple} else ()


def _are_scalars(values: Iterable[object]) -> bool:
    try:
        return _SCALARS.issuperset(map(type, values))
    except TypeError:  # a metaclass may create unhashable types
        return False


class _Arguments:
    """The arguments of one call, and the current request, which they may belong to."""

    def __init__(self, app: Flask, name: str) -> None:
        self._app = app
        self._name = name
        self._request = request_of(active_request_context())

    def carried(self, part: str, value: Any, depth: int = 2) -> Any:
        """Return ``value`` as the job gets it; uploads may be nested in ``depth`` containers."""
        # type(), not isinstance(), which would look through a proxy such as flask.request. In a
        # job, a proxy stands for the job's own object.
        kind = _type_of(value)
        if issubclass(kind, FileStorage):
            if getattr(value, "closed", False):
                self._refuse(part, "an upload that is closed", "submit the job before you close it")
            return reader_of(value)
        if kind in {list, tuple, dict} or issubclass(kind, MultiDict):
            holds_uploads = depth > 0 and self._request_has_uploads()
            return self._carried_items(part, value, depth) if holds_uploads else value
        if (reason := self._reason_to_refuse(value)) is not None:
            self._refuse(part, *reason)
        if self._app.debug and _is_in_session(value):
            warnings.warn(
                f"{self._name}: {part} is a {kind.__name__} of a database session, which belongs "
                "to this thread, and which expires it at the next commit; pass its primary key, "
                "and load it in the job",
                stacklevel=levels_to_caller(),
            )
        return value

    def _request_has_uploads(self) -> bool:
        return self._request is not None and bool(self._request.__dict__.get("files"))

    def _carried_items(self, part: str, values: Any, depth: int) -> Any:
        kind, entries = _type_of(values), list[tuple[Any, Any]]()
        if issubclass(kind, MultiDict):
            entries += values.items(multi=True)
        else:
            entries += values.items() if kind is dict else enumerate(values)
        carried = [(key, self.carried(part, value, depth - 1)) for key, value in entries]
        if all(new is old for (_, new), (_, old) in zip(carried, entries, strict=True)):
            return values
        if issubclass(kind, MultiDict):
            return MultiDict(carried)
        return dict(carried) if kind is dict else type(values)(value for _, value in carried)

    def _refuse(self, part: str, what: str, cure: str) -> None:
        raise RequestArgumentError(self._name, part, what, cure)

    def _reason_to_refuse(self, value: Any) -> tuple[str, str] | None:
        kind = _type_of(value)
        if kind is GeneratorType or kind is AsyncGeneratorType:
            return self._reason_to_refuse_generator(value)
        if issubclass(kind, Response) and value.is_streamed:
            cure = "pass what the job needs of it, such as response.status_code"
            return "a response whose body the server reads", cure
        if issubclass(kind, TextIOWrapper):
            value = value.buffer
        found = (reason for bound, *reason in self._bound() if bound is value is not None)
        return next(((what, cure) for what, cure in found), None)

    def _bound(self) -> Iterator[tuple[object, str, str]]:
        """Yield objects that end with the request, each with its description and the cure."""
        if self._request is None:
            return
        yield self._request, "the view's own request", "use flask.request in the job, a copy of it"
        attributes = self._request.__dict__
        for stream in (attributes.get("stream"), attributes["environ"].get("wsgi.input")):
            yield stream, "the body that the client sends", "pass what request.get_data() gives"
        for upload in attributes.get("files", {}).values():
            cure = "pass the upload itself: the job gets a reader of its own"
            # The iterator of a temporary file is the file that it wraps.
            for stream in (upload.stream, getattr(upload.stream, "_file", None)):
                yield stream, "the stream of an upload", cure

    def _reason_to_refuse_generator(self, generator: Any) -> tuple[str, str] | None:
        asynchronous = isinstance(generator, AsyncGeneratorType)
        frame = generator.ag_frame if asynchronous else generator.gi_frame
        for value in () if frame is None else frame.f_locals.values():
            if isinstance(value, AppContext | RequestContext):
                cure = "pass the generator without it: the job has contexts of its own"
                return "a generator in stream_with_context(), which holds the view's contexts", cure
            if issubclass(type(value), FileStorage) or self._reason_to_refuse(value) is not None:
                cure = "pass what it reads, and make the generator in the job"
                return "a generator that reads what ends with the request", cure
        return None


def _is_in_session(value: object) -> bool:
    """Return whether a value is an instance that belongs to a SQLAlchemy session."""
    if not hasattr(type(value), "_sa_class_manager"):
        return False
    state: Any = getattr(value, "_sa_instance_state", None)
    return getattr(state, "session_id", None) is not None
