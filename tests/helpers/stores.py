"""Rows and owners for the tests of stores."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flask_executor_typed.stores.protocol import Owner
from flask_executor_typed.stores.records import Row

from .services import RedisServer

SPACE = "app"


def row_of(job_id: str, **values: Any) -> Row:
    """Return the row of a pending job of owner "o1", with ``values`` replaced."""
    given: dict[str, Any] = {
        "space": SPACE,
        "executor": "executor",
        "name": "report",
        "owner": "o1",
        "server": "host:1",
        "step": 1,
        "submitted": 1000.0,
        **values,
    }
    return Row(id=job_id, **given)


def owner_of(owner_id: str = "o1", **values: Any) -> Owner:
    given: dict[str, Any] = {"host": "h", "pid": 1, "born": "1", "server": "host:1", **values}
    return Owner(id=owner_id, **given)


def empty_redis(server: RedisServer) -> None:
    """Remove all data from a Redis."""
    client: Any = import_module("redis").Redis(port=server.port)
    client.flushall()
    client.close()
