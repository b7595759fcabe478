"""Job records, for tests that need no job."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from flask_executor_typed.stores import JobRecord

NOON = datetime(2026, 11, 30, 12, 0, 0, 250_999, tzinfo=timezone.utc)


def record(**changes: Any) -> JobRecord:
    """Return the record of a pending job."""
    values: dict[str, Any] = {
        "id": "DAeLzMiduKgIhOlht3ZnBg",
        "name": "shop.jobs.build_report",
        "key": ("report", 7),
        "status": "pending",
        "progress": None,
        "attempts": 1,
        "submitted_at": NOON,
        "started_at": None,
        "finished_at": None,
        "server": "web-1:4711",
        "user": "ada",
        "labels": {},
        "error": None,
        "result": None,
        "result_state": "absent",
        "cancel_requested": False,
    }
    return JobRecord(**(values | changes))
