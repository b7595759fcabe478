"""The options of :meth:`Executor.using`, and their validation.

Whether a backend can do what they ask for is checked by its capabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from .calls import Backoff, Limits, Route, Until
from .carriers import Carrier
from .config import CARRIERS_EXPECTED, find_carriers
from .context import CarryG
from .futures import OnDuplicate, plain_key

__all__ = (
    "NO_OPTIONS",
    "carriers_given",
    "carry_predicate",
    "check_count",
    "check_seconds",
    "user_of",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one executor, as returned by :meth:`Executor.using` and its like."""

    key: Any = None
    on_duplicate: OnDuplicate = "error"
    name: str | None = None
    timeout: float | None = None
    retries: int = 0
    backoff: Backoff = 0.0
    block: float | None = None
    until: Until | None = None
    """The event that calls wait for before they are handed to the workers."""
    user: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    record: bool | None = None
    queue: str | None = None
    priority: int | None = None
    delay: float = 0.0
    expires: float | None = None

    notes: bool = False
    """Whether ``user``, ``labels`` or ``record`` was given."""
    is_plain: bool = True
    """Whether a call without a key goes straight to the workers: nothing notes, holds or joins it.
    """

    @property
    def limits(self) -> Limits | None:
        limits = Limits(
            timeout=self.timeout,
            retries=int(self.retries),  # 2.0 is a whole number too, but no text of one
            backoff=self.backoff,
            route=Route(queue=self.queue, priority=self.priority, delay=self.delay),
            expires=self.expires,
        )
        return None if limits == Limits(backoff=self.backoff) else limits

    def changed(self, **given: Any) -> Options:
        """Return a copy with the given options replaced; ``None`` leaves an option as it is.

        Raises:
            TypeError: an option has the wrong type, or cannot be combined with another.
            ValueError: an option has an unusable value.
        """
        given = {name: value for name, value in given.items() if value is not None}
        for name, check in _CHECKS.items():
            if name in given:
                check(name, given[name])
        if self.until is not None and "until" in given:
            raise TypeError(
                "a call waits for one event: use after_response() or one after_commit(), not both"
            )
        changed = replace(self, **given)
        if changed.expires is not None and changed.expires < changed.delay:
            raise ValueError(
                f"expires={changed.expires!r} with delay={changed.delay!r}: the call would expire "
                "before it may begin"
            )
        if given.keys() & {"user", "labels", "record"}:
            changed = replace(changed, notes=True, labels=dict(changed.labels))
        waits = changed.until is not None
        is_plain = not (changed.notes or waits or changed.on_duplicate != "error")
        if waits and changed.on_duplicate == "join":
            raise TypeError(
                "on_duplicate='join' does not go with after_response() and after_commit(): the "
                "existing job may have begun before this response or commit, and not see what "
                "it needs; use 'replace' or 'error'"
            )
        return replace(changed, is_plain=is_plain)


NO_OPTIONS = Options()


def carry_predicate(carry_g: CarryG) -> Callable[[str, object], bool]:
    """Return a function that decides whether a name of ``g``, with its value, travels to a job."""
    if isinstance(carry_g, str):
        raise TypeError(f"carry_g={carry_g!r}: expected names; for one, use ({carry_g!r},)")
    if callable(carry_g):
        return carry_g
    names = frozenset(carry_g)
    return lambda name, value: name in names


def carriers_given(given: Iterable[Carrier[Any] | str]) -> tuple[Carrier[Any], ...]:
    """Return the carriers passed to an executor.

    Raises:
        ValueError: they cannot be used.
    """
    found, problem = find_carriers(given)
    if problem:
        raise ValueError(f"carriers={given!r}: expected {CARRIERS_EXPECTED}; {problem}")
    return found


def user_of(ask: Callable[[], object]) -> str | None:
    """Return the user of this request, whom an executor's ``user`` function knows.

    Raises:
        TypeError: it returned neither text nor ``None``.
    """
    user = ask()
    if user is None or type(user) is str:
        return user
    raise TypeError(f"the executor's user function returned {user!r}: expected text, or None")


def check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: expected a whole number")
    if value < 1:
        raise ValueError(f"{name}={value!r}: expected 1 or more")


def check_seconds(name: str, value: object) -> None:
    _check_number(name, value, lambda seconds: seconds >= 0, "seconds, 0 or more")


def _check_on_duplicate(name: str, value: object) -> None:
    if value not in {"error", "join", "replace"}:
        raise ValueError(f"{name}={value!r}: expected 'error', 'join' or 'replace'")


def _check_key(name: str, value: object) -> None:
    plain_key(value)  # an unhashable key is an error here, where it is given


def _check_user(name: str, value: object) -> None:
    if type(value) is not str:
        raise TypeError(f"{name}={value!r}: expected text")


def _check_labels(name: str, value: Any) -> None:
    given: object = value
    items = list(value.items()) if isinstance(given, Mapping) else [(None, None)]
    if not all(type(text) is str for item in items for text in item):
        raise TypeError(f"{name}={value!r}: expected a mapping of text to text")


def _check_record(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: expected True or False")


def _check_timeout(name: str, value: object) -> None:
    _check_number(name, value, lambda seconds: seconds > 0, "seconds, more than 0")


def _check_retries(name: str, value: object) -> None:
    whole = "a whole number, 0 or more"
    _check_number(name, value, lambda number: number >= 0 and number % 1 == 0, whole)


def _check_backoff(name: str, value: Any) -> None:
    if not callable(value):
        seconds_or_function = "seconds, 0 or more, or a function that returns them"
        _check_number(name, value, lambda seconds: 0 <= seconds < inf, seconds_or_function)


_PRIORITIES = range(10)  # as in Celery


def _check_queue(name: str, value: object) -> None:
    if type(value) is not str:
        raise TypeError(f"{name}={value!r}: expected the name of a queue")
    if not value:
        raise ValueError(f"{name}={value!r}: expected the name of a queue, which is not empty")


def _check_priority(name: str, value: object) -> None:
    expected = f"a whole number from {_PRIORITIES[0]} to {_PRIORITIES[-1]}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: expected {expected}")
    if value not in _PRIORITIES:
        raise ValueError(f"{name}={value!r}: expected {expected}")


def _check_finite_seconds(name: str, value: object) -> None:
    _check_number(name, value, lambda seconds: 0 <= seconds < inf, "seconds, 0 or more, and finite")


def _check_number(
    name: str, value: object, is_right: Callable[[float], bool], expected: str
) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r}: expected {expected}")
    if not is_right(value):
        raise ValueError(f"{name}={value!r}: expected {expected}")


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "on_duplicate": _check_on_duplicate,
    "key": _check_key,
    "timeout": _check_timeout,
    "retries": _check_retries,
    "backoff": _check_backoff,
    "block": check_seconds,
    "user": _check_user,
    "labels": _check_labels,
    "record": _check_record,
    "queue": _check_queue,
    "priority": _check_priority,
    "delay": _check_finite_seconds,
    "expires": _check_finite_seconds,
}
"""The check of each option, in the order in which they are made."""
