"""Rows and owners for the tests of stores."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
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


def url_of_user(server: RedisServer, *other_rights: str) -> str:
    """Create the user of the documentation in a Redis, with other rights last. Return its URL."""
    page = Path(__file__, "../../../docs/records.rst").resolve().read_text()
    (rule,) = re.findall(r"^ +ACL SETUSER (\S+ .*)$", page, re.MULTILINE)
    client: Any = import_module("redis").Redis(port=server.port)
    client.execute_command("ACL", "SETUSER", *rule.split(), *other_rights)
    client.close()
    user, password = rule.split()[0], rule.split(">")[1].split()[0]
    return server.url.replace("//", f"//{user}:{password}@")


def empty_redis(server: RedisServer) -> None:
    """Remove all data from a Redis."""
    client: Any = import_module("redis").Redis(port=server.port)
    client.flushall()
    client.close()
