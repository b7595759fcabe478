"""What clients prefer (RFC 7240)."""

from __future__ import annotations

import pytest

from flask_executor_typed.web.preferences import Preferences


@pytest.mark.parametrize(
    ("header", "respond_async", "wait"),
    [
        ("", False, None),
        ("respond-async", True, None),
        ("Respond-Async, WAIT=10", True, 10),
        ("wait = 4 , respond-async", True, 4),
        ('wait="7"', False, 7),
        ("wait=3, wait=5", False, 3),
        ("respond-async;for=me;wait=3", True, None),
        ("wait=3; x=y", False, 3),
        ('x="a, wait=1; \\", wait=2", wait=8', False, 8),
        ('x="not closed, wait=3', False, 3),
        (", ,wait=2,", False, 2),
        ("respond-async=yes", False, None),
        ("wait", False, None),
        ("wait=٣", False, None),
        ("wait=-1", False, None),
        ("wait=1.5", False, None),
        ("wait=1234567", False, None),
        ("wait=ten, wait=2", False, None),
        ("(unreadable), wait=2", False, 2),
        (" " * 1000 + "wait=2", False, None),
    ],
)
def test_a_header_is_read(header: str, respond_async: bool, wait: int | None) -> None:
    assert Preferences.parse(header) == Preferences(respond_async=respond_async, wait=wait)


@pytest.mark.parametrize(
    ("header", "default", "seconds", "applied"),
    [
        ("", 2.0, 2.0, ""),
        ("", None, None, ""),
        ("respond-async", 2.0, 0.0, "respond-async"),
        ("respond-async", None, 0.0, "respond-async"),
        ("wait=5", 2.0, 5, "wait=5"),
        ("wait=5", None, 5, "wait=5"),
        ("wait=0", 2.0, 0, "wait=0"),
        ("wait=60", 2.0, 10.0, ""),
        ("respond-async, wait=5", 2.0, 5, "respond-async, wait=5"),
        ("respond-async, wait=60", 2.0, 10.0, "respond-async"),
    ],
)
def test_a_request_waits_as_the_client_prefers_up_to_a_limit(
    header: str, default: float | None, seconds: float | None, applied: str
) -> None:
    preferences = Preferences.parse(header)
    assert preferences.seconds(default, 10.0) == seconds
    assert preferences.applied(10.0) == applied
