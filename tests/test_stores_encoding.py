"""Keys and results come back equal and of the same type, or are refused."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from werkzeug.exceptions import Conflict, HTTPException

from flask_executor_typed.errors import JobTimeoutError, job_failed
from flask_executor_typed.stores.encoding import (
    Failure,
    clean_text,
    decode_key,
    decode_plain,
    encode_key,
    encode_plain,
    failure_of,
)

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st


class Point(NamedTuple):
    x: int
    y: int


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    """A string with a class of its own."""

    __slots__ = ()


@dataclass
class Report:
    rows: int


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types all the way down."""
    return bool(typed(one) == typed(other))


def typed(value: Any) -> Any:
    """A value with the types of all its parts, so that two are equal only if these are."""
    kind = value.__class__
    if kind in {list, tuple}:
        return kind, [typed(item) for item in value]
    if kind in {set, frozenset}:
        return kind, sorted(map(repr, map(typed, value)))
    if kind is dict:
        return kind, [(typed(key), typed(item)) for key, item in value.items()]
    if kind in {datetime, time}:
        return kind, value, value.fold, value.tzinfo
    return kind, repr(value)  # which tells NaN from NaN, and -0.0 from 0.0


hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.datetimes()
    | st.datetimes(timezones=st.just(timezone.utc))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids(),
    lambda values: st.tuples(values, values) | st.frozensets(values, max_size=3),
    max_leaves=5,
)
plain = st.recursive(
    hashable | st.sets(hashable, max_size=3),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.text(), values, max_size=3)
        | st.dictionaries(hashable, values, max_size=3)
    ),
    max_leaves=10,
)


@given(plain)
def test_plain_data_comes_back_equal_and_of_the_same_types(value: object) -> None:
    encoded = encode_plain(value)
    assert encoded is not None
    assert same(decode_plain(encoded), value)


ODD: list[Any] = [
    {"!": "tuple", "v": [1]},
    {"!": 1, 2: "!"},
    "\ud83d\ude00",  # two halves, which are not the same as one whole
    "\ud800",
    math.inf,
    -math.inf,
    math.nan,
    -0.0,
    Decimal("NaN"),
    10**4000,
    [[]] * 3,
]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_come_back_too(value: object) -> None:
    encoded = encode_plain(value)
    assert encoded is not None
    assert same(decode_plain(encoded), value)


class Loop:
    """Makes a list that is in itself."""

    @staticmethod
    def make() -> list[Any]:
        loop: list[Any] = []
        loop.append(loop)
        return loop


NOT_PLAIN: list[Any] = [
    Point(1, 2),
    Number.ONE,
    OrderedDict(a=1),
    Report(1),
    Text("x"),
    [Report(1)],
    {"a": (Point(1, 2),)},
    bytearray(b"x"),
    1j,
    range(3),
    object(),
    datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(0), "other UTC")),
    time(1, tzinfo=timezone.utc),
    ValueError("x"),
    Loop.make(),
]


@pytest.mark.parametrize("value", NOT_PLAIN, ids=lambda value: type(value).__name__)
def test_what_would_come_back_as_something_else_is_refused(value: object) -> None:
    assert encode_plain(value) is None


# -- keys ------------------------------------------------------------------------------------------

key_parts = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-3, 3, width=16)
    | st.sampled_from(["", "a", "1", "\0"])
    | st.binary(max_size=1)
    | st.sampled_from([UUID(int=1), UUID(int=2), date(2026, 1, 1)])
)
keys = st.recursive(key_parts, lambda parts: st.tuples(parts) | st.tuples(parts, parts))


@given(keys, keys)
def test_two_keys_have_the_same_text_if_and_only_if_they_are_equal(one: Any, other: Any) -> None:
    first, second = encode_key(one), encode_key(other)
    assert first is not None
    assert second is not None
    assert (first == second) == (one == other)
    assert decode_key(first) == one


@pytest.mark.parametrize(
    "key",
    [
        frozenset({1}),
        Number.ONE,
        Text("x"),
        Decimal(1),
        1j,
        math.nan,
        math.inf,
        "\ud800",
        datetime.min.replace(tzinfo=timezone.utc),
        ("a", object),
        Point(1, 2),
    ],
    ids=repr,
)
def test_a_key_that_may_equal_one_of_another_type_is_refused(key: Any) -> None:
    assert encode_key(key) is None


# -- failures --------------------------------------------------------------------------------------


def raised(error: BaseException) -> Failure:
    try:
        raise error
    except BaseException as caught:
        return failure_of(caught)


class SilentError(Exception):
    """An exception that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_a_failure_is_type_message_and_traceback() -> None:
    failure = raised(ValueError("no rows"))
    assert (failure.type, failure.message, failure.problem) == ("ValueError", "no rows", None)
    assert failure.traceback.startswith("Traceback (most recent call last):\n")
    assert failure.traceback.endswith("ValueError: no rows\n")
    assert raised(JobTimeoutError("f", 1)).type == "flask_executor_typed.errors.JobTimeoutError"


def test_a_failure_that_cannot_be_printed_is_still_one() -> None:
    failure = raised(SilentError())
    assert failure.type == f"{__name__}.SilentError"
    assert failure.message == f"(a {__name__}.SilentError that cannot be printed)"


def test_the_failure_of_a_job_that_was_waited_for_keeps_its_own_type() -> None:
    failure = raised(job_failed("inner", "app.NoData", "no rows", "Traceback: far away"))
    assert (failure.type, failure.message) == ("app.NoData", "no rows")
    assert "Traceback: far away" in failure.traceback


def test_texts_of_a_failure_are_bounded_and_clean() -> None:
    failure = raised(ValueError("\ud800\0" + "x" * 20_000))
    assert failure.message.startswith("\ufffd\ufffdxxx")
    assert len(failure.message) == 10_000
    assert len(failure.traceback) < 100_001
    failure.traceback.encode()


def test_what_an_http_exception_tells_the_user_is_kept_apart() -> None:
    problem = raised(Conflict("The file has no header row.")).problem
    assert problem == (
        '{"status": 409, "title": "Conflict", "detail": "The file has no header row."}'
    )
    assert raised(HTTPException("no code")).problem is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("\N{SNOWMAN}\U0001f600", "\N{SNOWMAN}\U0001f600"),
        ("a\0b", "a\ufffdb"),
        ("a\ud800b\udc00", "a\ufffdb\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
    ],
)
def test_clean_text_has_no_nul_and_no_half_surrogates(text: str, expected: str) -> None:
    assert clean_text(text) == expected
