"""Encode keys, results and failures of jobs as text and bytes that every process can read.

A decoded value is equal to the original and of the same type. Values for which that is impossible
are refused. Types are compared exactly: a subclass would lose its behaviour, so it is refused too.
"""

from __future__ import annotations

import json
import traceback
from base64 import b64decode, b64encode
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

from markupsafe import Markup
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Response

from ..errors import JobFailedError

__all__ = (
    "Failure",
    "clean_text",
    "decode_key",
    "decode_plain",
    "encode_key",
    "encode_plain",
    "failure_of",
    "full_name",
)

_MAX_MESSAGE = 10_000  # characters of an exception's message; a guess, like the next one
_MAX_TRACEBACK = 100_000  # characters at the end, which is nearest to the error


_type_of: Callable[[object], type[object]] = type  # for type checkers


# -- results ---------------------------------------------------------------------------------------

_TAG = "!"
"""Marks a JSON object that stands for a value of another type."""


def encode_plain(value: object) -> bytes | None:
    """Return a value as JSON; ``None`` if decoding would not restore it exactly."""
    try:
        text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # ValueError: an int with too many digits
        return None
    return text.encode("utf-8", "surrogatepass")


def decode_plain(data: bytes) -> Any:
    """Return the value that :func:`encode_plain` was given."""
    return json.loads(data.decode("utf-8", "surrogatepass"), object_hook=_untagged)


def _plain(value: Any) -> Any:
    kind = _type_of(value)
    if kind in _AS_THEY_ARE:
        return value
    return _TO_JSON[kind](value) if kind in _TO_JSON else _refuse(value)


def _refuse(value: object) -> Any:
    raise TypeError(f"{full_name(type(value))} is not plain data")


def _tagged(name: str, content: Any) -> dict[str, Any]:
    return {_TAG: name, "v": content}


def _untagged(found: dict[str, Any]) -> Any:
    return _FROM_JSON[found[_TAG]](found["v"]) if _TAG in found else found


def _list(value: list[Any]) -> list[Any]:
    return [_plain(item) for item in value]


def _dict(value: dict[Any, Any]) -> dict[str, Any]:
    if all(type(key) is str for key in value) and _TAG not in value:
        return {key: _plain(item) for key, item in value.items()}
    return _tagged("dict", [[_plain(key), _plain(item)] for key, item in value.items()])


def _float(value: float) -> Any:
    return value if isfinite(value) else _tagged("float", str(value))


def _datetime(value: datetime) -> Any:
    # Another zone would not be restored: only its offset is stored.
    is_exact = value.tzinfo is None or value.tzinfo is timezone.utc
    return _tagged("datetime", [value.isoformat(), value.fold]) if is_exact else _refuse(value)


def _time(value: time) -> Any:
    is_exact = value.tzinfo is None
    return _tagged("time", [value.isoformat(), value.fold]) if is_exact else _refuse(value)


def _items_as(name: str) -> Callable[[Any], Any]:
    return lambda value: _tagged(name, [_plain(item) for item in value])


_AS_THEY_ARE = frozenset({str, int, bool, type(None)})
_TO_JSON: dict[type, Callable[[Any], Any]] = {
    list: _list,
    dict: _dict,
    float: _float,
    tuple: _items_as("tuple"),
    set: _items_as("set"),
    frozenset: _items_as("frozenset"),
    bytes: lambda value: _tagged("bytes", b64encode(value).decode()),
    datetime: _datetime,
    date: lambda value: _tagged("date", value.isoformat()),
    time: _time,
    timedelta: lambda value: _tagged("timedelta", [value.days, value.seconds, value.microseconds]),
    Decimal: lambda value: _tagged("Decimal", str(value)),
    UUID: lambda value: _tagged("UUID", value.hex),
    Markup: lambda value: _tagged("Markup", str(value)),
}
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "float": float,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": b64decode,
    "datetime": lambda parts: datetime.fromisoformat(parts[0]).replace(fold=parts[1]),
    "date": date.fromisoformat,
    "time": lambda parts: time.fromisoformat(parts[0]).replace(fold=parts[1]),
    "timedelta": lambda parts: timedelta(*parts),
    "Decimal": Decimal,
    "UUID": UUID,
    "Markup": Markup,
}


# -- keys ------------------------------------------------------------------------------------------


def encode_key(key: Hashable) -> str | None:
    """Return a key as text, the same for equal keys.

    ``None`` for a type not listed here, whose values might equal a key of another type.
    """
    try:
        text = json.dumps(_key(key), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()  # a lone surrogate cannot be stored as text
    except (TypeError, ValueError, RecursionError):
        return None
    return text


def decode_key(text: str) -> Hashable:
    """Return a key that is equal to the one that :func:`encode_key` was given."""
    return _from_key(json.loads(text))


def _key(key: Any) -> Any:
    kind = _type_of(key)
    return _KEYS_TO_JSON[kind](key) if kind in _KEYS_TO_JSON else _refuse(key)


def _as_it_is(key: Any) -> Any:
    return key


_KEYS_TO_JSON: dict[type, Callable[[Any], Any]] = {
    type(None): _as_it_is,
    str: _as_it_is,
    int: _as_it_is,
    bool: int,  # True == 1 == 1.0
    float: lambda key: int(key) if key.is_integer() else key,
    tuple: lambda key: [_key(part) for part in key],
    bytes: lambda key: {"bytes": b64encode(key).decode()},
    UUID: lambda key: {"UUID": key.hex},
    date: lambda key: {"date": key.isoformat()},
}


def _from_key(found: Any) -> Hashable:
    kind = _type_of(found)
    if kind is list:
        return tuple(map(_from_key, found))
    if kind is dict:
        ((name, content),) = found.items()
        found = _FROM_JSON[name](content)
    key: Hashable = found
    return key


# -- failures --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as text."""

    type: str
    message: str
    traceback: str
    problem: str | None = None
    """The answer for the user, if the job raised an ``HTTPException``: the fields of ``JobProblem``
    as a JSON object."""


def failure_of(error: BaseException) -> Failure:
    """Return an exception as text, even if printing it fails."""
    try:
        lines = "".join(traceback.format_exception(error))
    except Exception:
        lines = "(the traceback could not be printed)"
    if isinstance(error, JobFailedError):  # raised by a job that this one waited for
        kind, message = error.args[1:3]
    else:
        kind, message = full_name(type(error)), _text(error)
    return Failure(
        kind,
        clean_text(message[:_MAX_MESSAGE]),
        clean_text(lines[-_MAX_TRACEBACK:]),
        _problem_of(error),
    )


def _problem_of(error: BaseException) -> str | None:
    if not isinstance(error, HTTPException):
        return None
    own: object = error.response
    # The exception that abort(response) raises has no code.
    status = own.status_code if isinstance(own, Response) else error.code
    if not isinstance(status, int):
        return None
    detail = None if error.description is None else clean_text(_text(error.description))
    title = error.name if status == error.code else HTTP_STATUS_CODES.get(status, "Unknown Error")
    problem: dict[str, Any] = {"status": status, "title": title, "detail": detail}
    if own is None and (headers := _headers_of(error)):
        problem["headers"] = headers
    return json.dumps(problem)


def _headers_of(error: HTTPException) -> list[tuple[str, str]]:
    """Return ``Retry-After``, ``WWW-Authenticate`` and the like, which any representation needs."""
    try:
        headers = [(name, _line(str(value))) for name, value in error.get_headers()]
    except Exception:  # a class may have a method of its own
        return []
    return [each for each in headers if each[0].lower() not in {"content-type", "set-cookie"}]


def _line(text: str) -> str:
    return clean_text(" ".join(text.splitlines()))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"(a {full_name(type(value))} that cannot be printed)"


# -- both ------------------------------------------------------------------------------------------


def full_name(kind: type) -> str:
    """Return a class's name with its module; builtin classes have none."""
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def clean_text(text: str) -> str:
    """Return text without the characters that databases refuse: NUL and lone surrogates."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
