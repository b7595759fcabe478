"""Job records that all server processes can read.

The only package that talks to SQLite and Redis. Its modules, each of which imports only from those
before it:

- encoding: keys, results and failures as text and bytes
- records: a record as users read it, and as stores keep it
- responses: whole responses as results
- protocol: the operations of a store
- owners: identify this process, and find out which others are alive
- disks: find out whether a file is on a network disk
- memory, sqlite, redis: the stores
- job_records: the records as users query them
- local: the records of an app without a store
- recording: the record of one job of this process
- remote: futures of jobs that run in other processes
- client: the records of one executor in one app
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from ..config import without_password
from ..errors import ConfigError
from .job_records import JobRecords, Records, records_of
from .local import LocalNote, LocalRecords
from .protocol import Store
from .records import CancelAnswer, JobError, JobProblem, JobRecord, JobStatus, ResultState

if TYPE_CHECKING:
    from .redis import RedisStore
    from .sqlite import SqliteStore

__all__ = (
    "CancelAnswer",
    "JobError",
    "JobProblem",
    "JobRecord",
    "JobRecords",
    "JobStatus",
    "LocalNote",
    "LocalRecords",
    "Records",
    "ResultState",
    "Store",
    "open_store",
    "records_of",
)

_EXPECTED = (
    "'sqlite:///jobs.db' (in the instance folder), 'sqlite:////absolute/path.db', "
    "'redis://host:6379/0', 'rediss://...', 'unix:///path/to/redis.sock', or None"
)


def open_store(
    key: str, url: str, *, instance_path: str, ttl: float = 86400.0
) -> tuple[Store, str | None]:
    """Return the store at ``url``, and the name in its ``?space=``, if there is one.

    Does not connect. The instance folder is created if the store is a file in it.

    Args:
        key: The setting that holds ``url``, for error messages.
        url: The store's address.
        instance_path: The folder that relative paths start from.
        ttl: Seconds that finished records are kept.

    Raises:
        ConfigError: there is no such kind of store, its folder does not exist, or its library is
            not installed.
    """
    shown = without_password(url)
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigError(key, shown, _EXPECTED) from None
    space = query.pop("space", [None])[-1]
    if space == "":
        raise ConfigError(key, shown, "a name after '?space='")
    if parts.scheme == "sqlite":
        return _open_sqlite(key, url, shown, query, instance_path), space
    if parts.scheme in {"redis", "rediss", "unix"}:
        return _open_redis(key, url, shown, ttl), space
    raise ConfigError(key, shown, _EXPECTED)


def _open_sqlite(
    key: str, url: str, shown: str, query: dict[str, list[str]], instance_path: str
) -> SqliteStore:
    server, _, name = url.partition("://")[2].partition("?")[0].partition("/")
    if query:
        raise ConfigError(key, shown, "no option but '?space=name'")
    if server:
        raise ConfigError(key, shown, "three slashes before the path, or four if that is absolute")
    if name in {"", ":memory:"}:
        raise ConfigError(
            key, shown, "a file, since processes do not share memory: 'sqlite:///jobs.db'"
        )
    path = Path(instance_path, name)  # an absolute name replaces the folder
    if not Path(name).is_absolute():
        Path(instance_path).mkdir(parents=True, exist_ok=True)
    if not path.parent.is_dir():
        raise ConfigError(key, shown, f"a file in a folder that exists, unlike {path.parent}")
    if path.is_dir():
        raise ConfigError(key, shown, "a file; this is a folder")
    from .sqlite import SqliteStore

    return SqliteStore(path)


def _open_redis(key: str, url: str, shown: str, ttl: float) -> RedisStore:
    try:
        import_module("redis")
    except ImportError:
        raise ConfigError(
            key, shown, "redis-py to be installed: pip install 'flask-executor-typed[redis]'"
        ) from None
    from .redis import RedisStore

    try:
        return RedisStore(url, shown, ttl)
    except (TypeError, ValueError):
        raise ConfigError(key, shown, "an address that redis.from_url() accepts") from None
