"""Parse ``app.config`` into one typed, frozen object.

The only module that reads ``app.config``. All settings are checked here, during ``init_app``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import difflib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from importlib import import_module
from math import inf
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

from .errors import ConfigError
from .runtime.exit import AtExit
from .runtime.frames import levels_to_caller
from .runtime.greenlets import check_setting

__all__ = (
    "CARRIERS_EXPECTED",
    "ExecutorConfig",
    "GivenEngine",
    "GivenExecutor",
    "Secret",
    "find_carriers",
    "key_of",
    "keys_of_others",
    "signing_keys",
    "unknown_keys",
    "warn_of_unknown_keys",
    "without_password",
)

# Booleans as spelled in environment files. Anything else is refused: "flase" must not silently mean
# true or false.
_BOOLEANS = {
    "true": True, "yes": True, "on": True, "1": True, "t": True, "y": True,
    "false": False, "no": False, "off": False, "0": False, "f": False, "n": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GivenExecutor:
    """An executor object set as ``EXECUTOR_TYPE``. The application owns it and shuts it down."""

    executor: concurrent.futures.Executor
    process: int
    """The process that first saw it: in the child of a fork, its threads do not exist."""


@dataclass(frozen=True, slots=True)
class GivenEngine:
    """An engine set as ``EXECUTOR_TYPE``, or a class or function without arguments for one."""

    given: Any

    def open(self) -> Any:
        """Return the engine, which is unchecked. Raises what the class or function raises."""
        is_engine = hasattr(self.given, "publish") and not isinstance(self.given, type)
        return self.given if is_engine else self.given()


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A value that never appears in messages."""

    value: Any
    shown: str = "***"

    def __repr__(self) -> str:
        return self.shown


def without_password(url: str) -> str:
    """Return a URL for messages, without the parts that may hold a secret."""
    return re.sub(r"://.*@", "://***@", url.partition("?")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorConfig:
    """The settings of one executor in one app. Read once, by ``init_app``.

    The key for ``field`` is ``EXECUTOR_FIELD``, or ``NAME_EXECUTOR_FIELD`` for a named executor.
    Values are Python objects, or strings as they come from the environment.
    """

    type: str | GivenEngine | GivenExecutor | Callable[[], concurrent.futures.Executor] = "thread"
    """Where calls run: ``"thread"``, ``"process"`` for work that needs its own processor,
    ``"interpreter"``, ``"sync"``, an executor of ``concurrent.futures``, or a factory for one;
    ``"celery"``, ``"dask"``, or another engine, for workers on any machine."""

    app: str | None = None
    """The app that worker processes load, as in ``flask --app``: ``"myapp:create_app"``."""

    start_method: str | None = None
    """How worker processes start; ``None``: ``"forkserver"`` if available, else ``"spawn"``."""

    start_timeout: float = 120.0
    """Seconds that a worker process may take to load the app, before it is killed."""

    max_workers: int | None = None
    """Workers at most; ``None``: the processors plus 4, up to 32 (processes: the processors)."""

    max_loops: int = 1
    """Event loop threads for ``async def`` jobs at most."""

    max_pending: int | None = None
    """Calls that may be pending; ``None``: any number."""

    job_timeout: float | None = None
    """Seconds that a call may take from its start, if not set per call; ``None``: no limit."""

    slow_callback: float | None = None
    """Seconds that code may block a loop before a warning names the line; ``None``: no warning."""

    shutdown_timeout: float | None = None
    """Seconds that accepted calls may take to finish after the interpreter has begun to exit or
    ``shutdown()`` was called; ``None``: no limit."""

    cancel_pending_at_exit: bool = False
    """Whether calls that have not begun are cancelled when the interpreter exits, or still run."""

    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    """Creates those event loops; ``None``: uvloop's if it is installed, else asyncio's own."""

    futures_max_length: int | None = None
    """Futures kept by key at most; ``None`` keeps the current bound, initially 50."""

    push_app_context: bool = True
    """Whether a job runs in an app context of its own, with a copy of the submitter's ``g``."""

    push_request_context: bool | None = None
    """Whether a job submitted in a request also sees ``request`` and ``session``; ``None``: in
    threads, but not in other processes."""

    log_exceptions: bool = True
    """Whether a job's exception is logged, once, on ``app.logger``."""

    propagate_exceptions: bool = False
    """Whether a job's exception is also raised in a done callback, as in Flask-Executor."""

    carriers: tuple[Any, ...] | None = None
    """The carriers of what else travels with each job; ``None``: those of the libraries that are
    imported before the first job."""

    async_views: bool = False
    """Whether async views run on lasting loops instead of a new loop each."""

    # For a named executor, the settings below fall back on those without a name.

    store: Secret | None = None
    """The address of job records that all server processes share: ``"sqlite:///jobs.db"``, or
    ``"redis://..."``; ``None``: records stay in this process."""

    store_record: str = "all"
    """Which jobs have a record there: ``"all"``, or ``"keyed"`` for those with a key or
    ``using(record=True)``."""

    store_ttl: float = 86400.0
    """Seconds that the record of a finished job is kept."""

    store_max_jobs: int = 10_000
    """Finished jobs whose records are kept at most."""

    store_max_result_bytes: int = 8 * 2**20
    """Bytes of one encoded result at most; of a larger one, only the record is kept."""

    store_max_bytes: int = 256 * 2**20
    """Bytes of all results together at most. The oldest are deleted first; their records stay."""

    store_lease: float = 15.0
    """Seconds without a sign of life after which the jobs of another machine's process are lost."""

    store_results: str = "json"
    """How results are stored: ``"json"`` stores those that JSON can restore exactly; ``"pickle"``
    also stores the others, pickled and signed."""

    store_logs: bool = False
    """Whether the last lines that a job logs are kept with its record, for operators. Also without
    a store, for the jobs of this process."""

    store_strict: bool = False
    """Whether ``submit`` with a key raises ``StoreError`` while the store cannot be used. If not,
    only this process knows the key until the store is back."""

    signing_key: Secret | None = None
    """The key that signs pickled data for other processes; ``None``: ``SECRET_KEY``."""

    signing_key_fallbacks: Secret | None = None
    """Other keys whose signatures are accepted, in a list. They never sign."""

    celery_app: Any = None
    """The Celery app that carries jobs, or ``"package.module:name"``; ``None``: that of Flask's
    recipe, in ``app.extensions``."""

    release: str | None = None
    """The version of the app, which messages of an engine name; for errors only."""

    dask_address: str | None = None
    """The address of the Dask scheduler that carries jobs: ``"tcp://127.0.0.1:8786"``."""

    @property
    def is_engine(self) -> bool:
        """Whether calls run in the workers of an engine, such as Celery."""
        return self.type in ("celery", "dask") or isinstance(self.type, GivenEngine)

    @property
    def at_exit(self) -> AtExit:
        """What happens to accepted calls when the interpreter exits."""
        timeout = inf if self.shutdown_timeout is None else self.shutdown_timeout
        return AtExit(timeout, self.cancel_pending_at_exit)

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any], *, name: str = "") -> ExecutorConfig:
        """Parse the settings of the executor called ``name``.

        Raises:
            ConfigError: a value cannot be used; the error names its key.
        """
        values: dict[str, Any] = {
            field: _PARSERS[field](key, config[key])
            for field, key in _keys_with_values(config, name)
        }
        parsed = cls(**values)
        if parsed.is_engine and "store_results" not in values:
            # The arguments are pickled anyway, so that plain data alone would be no promise.
            parsed = replace(parsed, store_results="pickle")
        for field, expected in _NOT_WITH_GREENLETS.items():
            value = getattr(parsed, field)
            if value != getattr(_DEFAULTS, field):
                check_setting(key_of(field, name=name), value, expected)
        return parsed

    def changes(self, other: ExecutorConfig) -> str:
        """Return the differences from ``other`` in words for users: ``max_workers: 4 -> 8``."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return ", ".join(f"{name}: {old!r} -> {new!r}" for name, old, new in pairs if old != new)


def _keys_with_values(config: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Yield each field that is set, with the key that sets it."""
    for key, field in _keys(name).items():
        shared = key_of(field, name="") if field.startswith(_SHARED) else key
        for each in dict.fromkeys((key, shared)):
            # None is "not set" for every setting, so that config can be built with .get()
            if config.get(each) is not None:
                yield field, each
                break


_SHARED = ("store", "signing_key", "release")
"""Prefixes of the fields for which a named executor falls back on the settings without a name."""


def signing_keys(config: Mapping[str, Any], parsed: ExecutorConfig) -> list[str | bytes]:
    """Return the keys that check pickled data. The first one also signs. Empty if none signs.

    Args:
        config: The app's config.
        parsed: The settings of the executor.
    """
    if parsed.signing_key is not None:
        keys = [parsed.signing_key.value]
    else:
        keys = [config.get("SECRET_KEY"), *(config.get("SECRET_KEY_FALLBACKS") or ())]
    if not keys[0]:
        return []  # rather than have a fallback sign
    if parsed.signing_key_fallbacks is not None:
        keys += parsed.signing_key_fallbacks.value
    return [key for key in keys if key]


_DEFAULTS = ExecutorConfig()
_NOT_WITH_GREENLETS = {"type": "'thread'", "async_views": "False"}


def warn_of_unknown_keys(config: Mapping[str, Any], *, name: str = "") -> None:
    """Warn about keys that look like settings of the executor ``name``, but are not."""
    for key, near in unknown_keys(config, name=name).items():
        warnings.warn(
            f"{key} is not a setting of flask_executor_typed; did you mean {near}?",
            stacklevel=levels_to_caller(),
        )


def unknown_keys(config: Mapping[str, Any], *, name: str = "") -> dict[str, str]:
    """Map each key that only looks like a setting of the executor ``name`` to the nearest one."""
    prefix = _prefix(name)
    return {
        key: _nearest_key(key, name)
        for key in config
        if key.startswith(prefix) and key not in _keys(name)
    }


def _nearest_key(key: str, name: str) -> str:
    meant = _OTHER_WORDS.get(key.removeprefix(_prefix(name)))
    if meant is not None:
        return key_of(meant, name=name)
    return difflib.get_close_matches(key, _keys(name), n=1, cutoff=0)[0]


_OTHER_WORDS = {
    **dict.fromkeys(("CONCURRENCY", "POOL_SIZE", "PROCESSES", "THREADS"), "max_workers"),
    **dict.fromkeys(("MAX_QUEUE", "MAX_QUEUE_SIZE", "MAX_TASKS", "QUEUE_SIZE"), "max_pending"),
    **dict.fromkeys(("BACKEND", "POOL"), "type"),
    **dict.fromkeys(("BROKER_URL", "DATABASE_URL", "REDIS_URL", "RESULT_BACKEND"), "store"),
    "TASK_TIMEOUT": "job_timeout",
}
"""Other words for settings, mostly those of other libraries, that are not spelled like them."""


def keys_of_others(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return the settings of named executors whose name is not in ``names``."""
    prefixes = tuple(map(_prefix, names))
    endings = tuple(f"_{key}" for key in _keys(""))
    return [key for key in config if key.endswith(endings) and not key.startswith(prefixes)]


def _prefix(name: str) -> str:
    return f"{name.upper()}_EXECUTOR_" if name else "EXECUTOR_"


def key_of(field: str, *, name: str) -> str:
    """Return the key that sets ``field`` for the executor ``name``."""
    return _prefix(name) + field.upper()


def _keys(name: str) -> dict[str, str]:
    return {key_of(field.name, name=name): field.name for field in fields(ExecutorConfig)}


def _count(key: str, value: object) -> int:
    """Parse a whole number, 1 or more. ``True``, ``2.5`` and ``"2.5"`` are refused, not rounded."""
    try:
        if isinstance(value, (int, str)) and not isinstance(value, bool) and int(value) >= 1:
            return int(value)
    except ValueError:
        pass
    raise ConfigError(key, value, "a whole number, 1 or more, or None for the default")


def _seconds(key: str, value: object) -> float:
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            seconds = float(value)
            if seconds > 0:  # which "nan" is not
                return seconds
    except ValueError:
        pass
    raise ConfigError(key, value, "seconds, more than 0, or None for no limit")


def _seconds_or_none_at_all(key: str, value: object) -> float:
    """Parse seconds, 0 included."""
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            seconds = float(value)
            if seconds >= 0:  # which "nan" is not
                return seconds
    except ValueError:
        pass
    raise ConfigError(key, value, "seconds, 0 or more, or None for no limit")


def _boolean(key: str, value: object) -> bool:
    if isinstance(value, (bool, int, str)):
        parsed = _BOOLEANS.get(str(value).strip().lower())
        if parsed is not None:
            return parsed
    raise ConfigError(key, value, "a boolean (True, False, or 'true', 'yes', 'on', '1' and so on)")


def _type(key: str, value: object) -> object:
    if isinstance(value, str) and value in _TYPES:
        if value == "interpreter" and sys.version_info < (3, 14):
            version = ".".join(map(str, sys.version_info[:3]))
            raise ConfigError(
                key,
                value,
                f"'process' or 'thread' on this Python {version}, since interpreter pools "
                "are new in Python 3.14",
            )
        return value
    is_typo = isinstance(value, str) and ":" not in value
    found, reason = (None, "") if is_typo else _imported(value)
    if callable(getattr(found, "publish", None)) and not isinstance(found, type):
        return GivenEngine(found)
    if isinstance(found, concurrent.futures.Executor):
        return GivenExecutor(found, _given_in.setdefault(found, os.getpid()))
    if not reason and callable(found) and _takes_no_arguments(found):
        kind: Any = found if isinstance(found, type) else _annotated_result(found)
        if callable(getattr(kind, "publish", None)):
            return GivenEngine(found)
        if kind is not found or issubclass(kind, concurrent.futures.Executor):
            return found
    raise ConfigError(
        key,
        value,
        f"{', '.join(map(repr, _TYPES))}, an executor of concurrent.futures, an engine, a function "
        f"without arguments that returns one of these, or 'package.module:name'{reason}",
    )


def _annotated_result(function: Any) -> object:
    """Return the class that a function says to return, without calling it."""
    try:
        return inspect.signature(function, eval_str=True).return_annotation
    except Exception:  # it has no signature, or names in it mean nothing at run time
        return None


_TYPES = ("thread", "process", "interpreter", "sync", "celery", "dask")
_given_in: WeakKeyDictionary[concurrent.futures.Executor, int] = WeakKeyDictionary()
"""The process that first saw each executor: the child of a fork reads the settings again."""


def _store(key: str, value: object) -> Secret:
    if isinstance(value, str):
        return Secret(value, without_password(value))
    raise ConfigError(key, value, "an address, such as 'sqlite:///jobs.db', or None")


def _signing_key(key: str, value: object) -> Secret:
    if isinstance(value, (str, bytes)) and value:
        return Secret(value)
    raise ConfigError(key, Secret(value), "secret text or bytes")


def _signing_key_fallbacks(key: str, value: Any) -> Secret:
    expected = "a list of secret texts or bytes, or None"
    if not isinstance(value, (list, tuple)):  # a text would be a list of its letters
        raise ConfigError(
            key, Secret(value), f"{expected} (this is of type {type(value).__name__})"
        )
    keys: list[Any] = [*value]
    for i, each in enumerate(keys, 1):
        if not isinstance(each, (str, bytes)) or not each:
            kind = type(each).__name__
            problem = f"number {i} is of type {kind}" if each else f"number {i} is empty"
            raise ConfigError(key, Secret(value), f"{expected} ({problem})")
    return Secret(keys)


def _celery_app(key: str, value: object) -> object:
    if callable(getattr(value, "send_task", None)) or (isinstance(value, str) and ":" in value):
        return value
    raise ConfigError(key, value, "a Celery app, or 'package.module:name' of one, or None")


def _release(key: str, value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise ConfigError(key, value, "text that names the version of the app, or None")


def _dask_address(key: str, value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"(\w+://)?[^\s/@]+:\d+", value):
        return value
    raise ConfigError(key, value, "the address of a Dask scheduler: 'tcp://127.0.0.1:8786'")


def _one_of(*values: str) -> Callable[[str, object], object]:
    def parse(key: str, value: object) -> object:
        if isinstance(value, str) and value in values:
            return value
        raise ConfigError(key, value, " or ".join(map(repr, values)))

    return parse


def _app(key: str, value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise ConfigError(
        key,
        value,
        "where worker processes find the app, as for 'flask --app': 'package.module:create_app'",
    )


def _start_method(key: str, value: object) -> str:
    # multiprocessing's methods; asking it would import it into every app.
    methods = ("spawn",) if sys.platform == "win32" else ("forkserver", "spawn", "fork")
    if isinstance(value, str) and value in methods:
        return value
    raise ConfigError(key, value, " or ".join(map(repr, methods)))


def _loop_factory(key: str, value: object) -> object:
    factory, reason = _imported(value)
    if not reason and callable(factory) and _takes_no_arguments(factory):
        return factory
    raise ConfigError(
        key,
        value,
        "a function without arguments that returns an event loop, or "
        f"'package.module:function'{reason}",
    )


def _imported(value: object) -> tuple[Any, str]:
    """Return the object that a string names, and why it cannot be imported, or ""."""
    if not isinstance(value, str):
        return value, ""
    module, _, name = value.partition(":")
    try:
        return attrgetter(name)(import_module(module)), ""
    except Exception as error:  # a module may raise anything
        return None, f" that can be imported ({error})"


def _takes_no_arguments(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # compiled code may have no signature
        pass
    return True


CARRIERS_EXPECTED = (
    "a list of carriers, each with a name, capture() and attach(), or with 'package.module:carrier'"
    " for one"
)


def find_carriers(value: Any) -> tuple[tuple[Any, ...], str]:
    """Return the carriers in a list, and what is wrong with the list, or ""."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return (), "this is not a list"
    found: list[Any] = []
    for item in value:
        carrier, reason = _imported(item)
        if reason:
            return (), f"{item!r} names nothing{reason}"
        if not (
            isinstance(getattr(carrier, "name", None), str)
            and callable(getattr(carrier, "capture", None))
            and callable(getattr(carrier, "attach", None))
        ):
            return (), f"{item!r} is not a carrier"
        if carrier.name in {other.name for other in found}:
            return (), f"two have the name {carrier.name!r}"
        found.append(carrier)
    return tuple(found), ""


def _carriers(key: str, value: object) -> object:
    if isinstance(value, str):  # from an environment variable; if empty, there are no carriers
        value = [part.strip() for part in value.split(",") if part.strip()]
    found, problem = find_carriers(value)
    if problem:
        raise ConfigError(key, value, f"{CARRIERS_EXPECTED} ({problem})")
    return found


_PARSERS: dict[str, Callable[[str, object], object]] = {
    "type": _type,
    "app": _app,
    "start_method": _start_method,
    "start_timeout": _seconds,
    "max_workers": _count,
    "max_loops": _count,
    "max_pending": _count,
    "slow_callback": _seconds,
    "job_timeout": _seconds,
    "shutdown_timeout": _seconds_or_none_at_all,
    "cancel_pending_at_exit": _boolean,
    "loop_factory": _loop_factory,
    "futures_max_length": _count,
    "push_app_context": _boolean,
    "push_request_context": _boolean,
    "log_exceptions": _boolean,
    "propagate_exceptions": _boolean,
    "carriers": _carriers,
    "async_views": _boolean,
    "store": _store,
    "store_record": _one_of("all", "keyed"),
    "store_ttl": _seconds,
    "store_max_jobs": _count,
    "store_max_result_bytes": _count,
    "store_max_bytes": _count,
    "store_lease": _seconds,
    "store_results": _one_of("json", "pickle"),
    "store_logs": _boolean,
    "store_strict": _boolean,
    "signing_key": _signing_key,
    "signing_key_fallbacks": _signing_key_fallbacks,
    "celery_app": _celery_app,
    "release": _release,
    "dask_address": _dask_address,
}
