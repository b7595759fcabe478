"""Settings: how each is read, what is refused, and what the refusal says."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from flask import Flask, has_app_context

from flask_executor_typed import ConfigError, Executor
from flask_executor_typed.config import (
    ExecutorConfig,
    GivenExecutor,
    Secret,
    signing_keys,
    warn_of_unknown_keys,
)

COUNTS = (
    *("max_workers", "max_loops", "max_pending", "futures_max_length"),
    *("store_max_jobs", "store_max_result_bytes", "store_max_bytes"),
)
BOOLEANS = (
    "push_app_context",
    "push_request_context",
    "log_exceptions",
    "propagate_exceptions",
    "async_views",
    "cancel_pending_at_exit",
    "store_logs",
    "store_strict",
)
OTHERS = (
    "type",
    "app",
    "carriers",
    "start_method",
    "start_timeout",
    "job_timeout",
    "slow_callback",
    "shutdown_timeout",
    "loop_factory",
    "store",
    "store_record",
    "store_ttl",
    "store_lease",
    "store_results",
    "signing_key",
    "signing_key_fallbacks",
    "celery_app",
    "dask_address",
    "release",
)


def key_of(field: str, name: str = "") -> str:
    return f"{name}_EXECUTOR_{field}".upper().removeprefix("_")


def parsed(field: str, value: object, name: str = "") -> object:
    """What a setting becomes; ``name`` is that of the executor."""
    config = ExecutorConfig.from_mapping({key_of(field, name): value}, name=name)
    result: object = getattr(config, field)
    return result


def test_defaults() -> None:
    assert ExecutorConfig.from_mapping({}) == ExecutorConfig(
        type="thread",
        app=None,
        start_method=None,
        start_timeout=120.0,
        max_workers=None,
        max_loops=1,
        max_pending=None,
        job_timeout=None,
        slow_callback=None,
        shutdown_timeout=None,
        cancel_pending_at_exit=False,
        carriers=None,
        loop_factory=None,
        futures_max_length=None,
        push_app_context=True,
        push_request_context=None,
        log_exceptions=True,
        propagate_exceptions=False,
        async_views=False,
        store=None,
        store_record="all",
        store_ttl=86400.0,
        store_max_jobs=10_000,
        store_max_result_bytes=8 * 2**20,
        store_max_bytes=256 * 2**20,
        store_lease=15.0,
        store_results="json",
        store_logs=False,
        store_strict=False,
        signing_key=None,
        signing_key_fallbacks=None,
        celery_app=None,
        dask_address=None,
        release=None,
    )


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("store", 7, "an address, such as 'sqlite:///jobs.db', or None"),
        ("store_record", "some", "'all' or 'keyed'"),
        ("store_results", "yaml", "'json' or 'pickle'"),
        ("signing_key", "", "secret text or bytes"),
        ("celery_app", "celery", "a Celery app, or 'package.module:name' of one, or None"),
        ("celery_app", object, "a Celery app, or 'package.module:name' of one, or None"),
        ("dask_address", "scheduler", "the address of a Dask scheduler: 'tcp://127.0.0.1:8786'"),
        ("dask_address", "tcp://a b:1", "the address of a Dask scheduler: 'tcp://127.0.0.1:8786'"),
        ("dask_address", 8786, "the address of a Dask scheduler: 'tcp://127.0.0.1:8786'"),
        ("release", 7, "text that names the version of the app, or None"),
        ("release", "", "text that names the version of the app, or None"),
        ("signing_key", 7, "secret text or bytes"),
        *(
            (
                "signing_key_fallbacks",
                value,
                f"a list of secret texts or bytes, or None ({problem})",
            )
            for value, problem in [
                ("old", "this is of type str"),
                (7, "this is of type int"),
                (["old", 7], "number 2 is of type int"),
                ([["old"]], "number 1 is of type list"),
                (["old", b""], "number 2 is empty"),
                ([None], "number 1 is empty"),
            ]
        ),
        ("store_ttl", 0, "seconds, more than 0"),
        ("store_lease", "-1", "seconds, more than 0"),
    ],
)
def test_a_setting_of_the_store_that_cannot_be_used(
    field: str, value: object, expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"expected {re.escape(expected)}"):
        parsed(field, value)


def test_settings_of_the_store_may_be_strings() -> None:
    assert parsed("store_ttl", "60") == 60.0
    assert parsed("store_lease", "1.5") == 1.5
    assert parsed("store_record", "keyed") == "keyed"
    assert parsed("store_results", "pickle") == "pickle"


def test_no_message_shows_a_secret() -> None:
    config = ExecutorConfig.from_mapping(
        {
            "EXECUTOR_STORE": "redis://me:s3cret@host/0?a=s3cret",
            "EXECUTOR_SIGNING_KEY": "s3cret",
            "EXECUTOR_SIGNING_KEY_FALLBACKS": ["s3cret"],
        }
    )
    assert config.store is not None
    assert config.store.value == "redis://me:s3cret@host/0?a=s3cret"
    assert "redis://***@host/0" in repr(config)
    assert "s3cret" not in repr(config) + str(config.store) + ExecutorConfig().changes(config)
    for field in ("signing_key", "signing_key_fallbacks"):
        for value in (["s3cret", 7], {"s3cret"}):
            with pytest.raises(ConfigError) as caught:
                parsed(field, value)
            assert "s3cret" not in str(caught.value)


def test_an_executor_with_a_name_has_the_store_of_the_one_without_unless_it_has_its_own() -> None:
    given = {
        "EXECUTOR_STORE": "sqlite:///a.db",
        "EXECUTOR_STORE_TTL": 60,
        "EXECUTOR_MAX_WORKERS": 3,
        "MAIL_EXECUTOR_STORE_TTL": 5,
    }
    mail = ExecutorConfig.from_mapping(given, name="mail")
    assert mail.store is not None
    assert (mail.store.value, mail.store_ttl, mail.max_workers) == ("sqlite:///a.db", 5.0, None)


def test_signing_keys_are_the_secret_key_and_older_ones_unless_one_is_given() -> None:
    app = {"SECRET_KEY": "new", "SECRET_KEY_FALLBACKS": ["old"]}
    assert signing_keys(app, ExecutorConfig()) == ["new", "old"]
    assert signing_keys(app, ExecutorConfig(signing_key=Secret("own"))) == ["own"]
    assert signing_keys({}, ExecutorConfig()) == []


@pytest.mark.parametrize("fallbacks", [["older", b"oldest"], ("older", b"oldest")])
def test_fallbacks_of_the_signing_key_come_after_the_key_that_signs(fallbacks: object) -> None:
    given = {"EXECUTOR_SIGNING_KEY_FALLBACKS": fallbacks}
    without = ExecutorConfig.from_mapping(given)
    app = {"SECRET_KEY": "new", "SECRET_KEY_FALLBACKS": ["old"]}
    assert signing_keys(app, without) == ["new", "old", "older", b"oldest"]
    with_key = ExecutorConfig.from_mapping({**given, "EXECUTOR_SIGNING_KEY": "own"}, name="mail")
    assert signing_keys(app, with_key) == ["own", "older", b"oldest"]


def test_a_fallback_never_signs() -> None:
    fallbacks = {"EXECUTOR_SIGNING_KEY_FALLBACKS": ["old"]}
    assert signing_keys({}, ExecutorConfig.from_mapping(fallbacks)) == []
    assert signing_keys({"SECRET_KEY_FALLBACKS": ["old"]}, ExecutorConfig()) == []


def test_every_setting_is_tested_here() -> None:
    fields = {field.name for field in dataclasses.fields(ExecutorConfig)}
    assert fields == {*OTHERS, *COUNTS, *BOOLEANS}


def test_config_cannot_be_changed() -> None:
    config, field = ExecutorConfig(), "max_loops"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, 2)


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize(
    ("value", "count"), [(1, 1), (7, 7), (10**6, 10**6), ("1", 1), ("16", 16), (" 4\n", 4)]
)
def test_count_is_a_whole_number_or_its_string(field: str, value: object, count: int) -> None:
    assert parsed(field, value) == count


@pytest.mark.parametrize("field", BOOLEANS)
@pytest.mark.parametrize("value", [True, 1, "true", "True", " TRUE ", "yes", "on", "1", "t", "Y"])
def test_spellings_of_true(field: str, value: object) -> None:
    assert parsed(field, value) is True


@pytest.mark.parametrize("field", BOOLEANS)
@pytest.mark.parametrize("value", [False, 0, "false", "False", " no\n", "off", "0", "F", "n"])
def test_spellings_of_false(field: str, value: object) -> None:
    assert parsed(field, value) is False


@pytest.mark.parametrize("value", ["thread", "process", "sync"])
def test_types(value: str) -> None:
    assert parsed("type", value) == value


def test_type_may_be_an_executor_or_what_makes_one_or_its_name() -> None:
    assert parsed("type", ThreadPoolExecutor) is ThreadPoolExecutor
    assert parsed("type", "concurrent.futures:ThreadPoolExecutor") is ThreadPoolExecutor
    with ThreadPoolExecutor() as given:
        assert parsed("type", given) == GivenExecutor(given, os.getpid())


@pytest.mark.parametrize(
    "value", ["asyncio:sleep", "os:sep", len, ":", "os:", asyncio.sleep, dict, "builtins:object"]
)
def test_what_makes_no_executor_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^EXECUTOR_TYPE="):
        parsed("type", value)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="it has interpreter pools")
def test_interpreters_are_refused_where_there_are_no_pools_of_them() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    with pytest.raises(ConfigError) as caught:
        parsed("type", "interpreter")
    assert str(caught.value) == (
        "EXECUTOR_TYPE='interpreter' (str): expected 'process' or 'thread' on this Python "
        f"{version}, since interpreter pools are new in Python 3.14; set it before init_app()"
    )


def test_app_is_where_flask_would_find_it() -> None:
    assert parsed("app", " myapp:create_app\n", "mail") == "myapp:create_app"


@pytest.mark.parametrize("value", ["forkserver", "spawn", "fork"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has spawn only")
def test_start_methods(value: str) -> None:
    assert parsed("start_method", value) == value


def test_windows_has_one_start_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert parsed("start_method", "spawn") == "spawn"
    with pytest.raises(ConfigError, match="expected 'spawn'; set it"):
        parsed("start_method", "fork")


@pytest.mark.parametrize("field", [*OTHERS, *COUNTS, *BOOLEANS])
def test_none_means_not_set(field: str) -> None:
    assert parsed(field, None) == getattr(ExecutorConfig(), field)


# The eleven that Flask-Executor accepted, or refused without naming the key.
WHOLE_NUMBER = "a whole number, 1 or more, or None for the default"
LOOP_FACTORY = (
    "a function without arguments that returns an event loop, or 'package.module:function'"
)
TYPE = (
    "'thread', 'process', 'interpreter', 'sync', 'celery', 'dask', an executor of "
    "concurrent.futures, an engine, a function without arguments that returns one of these, or "
    "'package.module:name'"
)
BOOLEAN = "a boolean (True, False, or 'true', 'yes', 'on', '1' and so on)"
BAD: list[tuple[str, object, str]] = [
    ("max_workers", 0, f"EXECUTOR_MAX_WORKERS=0 (int): expected {WHOLE_NUMBER}"),
    ("max_workers", -1, f"EXECUTOR_MAX_WORKERS=-1 (int): expected {WHOLE_NUMBER}"),
    ("max_workers", 2.5, f"EXECUTOR_MAX_WORKERS=2.5 (float): expected {WHOLE_NUMBER}"),
    ("max_workers", "many", f"EXECUTOR_MAX_WORKERS='many' (str): expected {WHOLE_NUMBER}"),
    ("max_loops", "0", f"EXECUTOR_MAX_LOOPS='0' (str): expected {WHOLE_NUMBER}"),
    ("futures_max_length", 0, f"EXECUTOR_FUTURES_MAX_LENGTH=0 (int): expected {WHOLE_NUMBER}"),
    (
        "futures_max_length",
        "2.5",
        f"EXECUTOR_FUTURES_MAX_LENGTH='2.5' (str): expected {WHOLE_NUMBER}",
    ),
    ("type", "threads", f"EXECUTOR_TYPE='threads' (str): expected {TYPE}"),
    ("type", 5, f"EXECUTOR_TYPE=5 (int): expected {TYPE}"),
    (
        "type",
        "no_such_module:make",
        (
            f"EXECUTOR_TYPE='no_such_module:make' (str): expected {TYPE} that can be imported "
            "(No module named 'no_such_module')"
        ),
    ),
    (
        "app",
        5,
        (
            "EXECUTOR_APP=5 (int): expected where worker processes find the app, as for "
            "'flask --app': 'package.module:create_app'"
        ),
    ),
    (
        "app",
        " ",
        (
            "EXECUTOR_APP=' ' (str): expected where worker processes find the app, as for "
            "'flask --app': 'package.module:create_app'"
        ),
    ),
    (
        "start_method",
        "forks",
        (
            "EXECUTOR_START_METHOD='forks' (str): expected "
            + ("'spawn'" if sys.platform == "win32" else "'forkserver' or 'spawn' or 'fork'")
        ),
    ),
    ("loop_factory", 5, f"EXECUTOR_LOOP_FACTORY=5 (int): expected {LOOP_FACTORY}"),
    (
        "loop_factory",
        "no_such_module:make",
        (
            "EXECUTOR_LOOP_FACTORY='no_such_module:make' (str): expected "
            f"{LOOP_FACTORY} that can be imported (No module named 'no_such_module')"
        ),
    ),
    (
        "push_app_context",
        "maybe",
        f"EXECUTOR_PUSH_APP_CONTEXT='maybe' (str): expected {BOOLEAN}",
    ),
    ("log_exceptions", 2, f"EXECUTOR_LOG_EXCEPTIONS=2 (int): expected {BOOLEAN}"),
    (
        "propagate_exceptions",
        "flase",
        f"EXECUTOR_PROPAGATE_EXCEPTIONS='flase' (str): expected {BOOLEAN}",
    ),
    ("async_views", "flase", f"EXECUTOR_ASYNC_VIEWS='flase' (str): expected {BOOLEAN}"),
]


@pytest.mark.parametrize(("field", "value", "text"), BAD)
def test_init_app_refuses_a_bad_value_and_names_key_value_and_cure(
    app: Flask, field: str, value: object, text: str
) -> None:
    app.config[key_of(field)] = value
    with pytest.raises(ConfigError) as raised:
        Executor(app)
    assert str(raised.value) == f"{text}; set it before init_app()"
    assert (raised.value.key, raised.value.value) == (key_of(field), value)
    assert isinstance(raised.value, ValueError)
    assert app.extensions == {}  # a refused executor leaves nothing behind


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize(
    "value",
    [True, False, 1.0, Decimal(3), "", " ", "0x10", "1e3", "-3", b"4", [4], object(), "9" * 5000],
)
def test_counts_that_are_not_plain_whole_numbers_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{key_of(field)}="):
        parsed(field, value)


@pytest.mark.parametrize("field", BOOLEANS)
@pytest.mark.parametrize("value", [2, -1, 1.0, "", "2", "tru", "none", b"true", [], object()])
def test_ambiguous_booleans_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{key_of(field)}="):
        parsed(field, value)


@pytest.mark.parametrize("value", ["Thread", "", "gevent", 1, True, ["thread"]])
def test_unknown_types_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^EXECUTOR_TYPE="):
        parsed("type", value)


class Factories:
    @staticmethod
    def make() -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()


@pytest.mark.parametrize(
    ("value", "seconds"), [(1, 1.0), (0.5, 0.5), ("2.5", 2.5), ("inf", float("inf"))]
)
def test_time_limit_is_a_number_of_seconds(value: object, seconds: float) -> None:
    assert parsed("job_timeout", value) == seconds


@pytest.mark.parametrize(("value", "seconds"), [(0, 0.0), ("0", 0.0), (2.5, 2.5), ("25", 25.0)])
def test_shutdown_timeout_is_a_number_of_seconds_or_0(value: object, seconds: float) -> None:
    assert parsed("shutdown_timeout", value) == seconds


@pytest.mark.parametrize("value", [-1, "-0.5", "", "soon", True, float("nan"), [1]])
def test_what_is_no_number_of_seconds_is_refused_as_shutdown_timeout(value: object) -> None:
    text = "expected seconds, 0 or more, or None for no limit; set it before init_app"
    with pytest.raises(ConfigError, match=rf"^EXECUTOR_SHUTDOWN_TIMEOUT=.*: {text}"):
        parsed("shutdown_timeout", value)


def test_loop_factory_is_a_function_or_its_name() -> None:
    assert parsed("loop_factory", asyncio.new_event_loop) is asyncio.new_event_loop
    assert parsed("loop_factory", "asyncio:new_event_loop") is asyncio.new_event_loop
    assert parsed("loop_factory", "asyncio:SelectorEventLoop") is asyncio.SelectorEventLoop
    named = f"{__name__}:Factories.make"
    assert parsed("loop_factory", named) is Factories.make


@pytest.mark.parametrize(
    "value",
    [
        "",
        "asyncio",
        "asyncio:",
        ":new_event_loop",
        "asyncio:no_such_name",
        "asyncio.new_event_loop",
        "asyncio:sleep",  # it needs an argument
        "os:sep",
        asyncio.sleep,
        5,
        True,
        ["asyncio:new_event_loop"],
    ],
)
def test_what_makes_no_loop_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^EXECUTOR_LOOP_FACTORY="):
        parsed("loop_factory", value)


def test_named_executor_reads_keys_with_its_name_and_no_others() -> None:
    config: dict[str, object] = {
        "EXECUTOR_MAX_LOOPS": 2,
        "MAIL_EXECUTOR_MAX_LOOPS": "3",
        "WEB_EXECUTOR_MAX_LOOPS": 4,
    }
    loops = {
        name: ExecutorConfig.from_mapping(config, name=name).max_loops
        for name in ("", "mail", "Mail", "web", "other")
    }
    assert loops == {"": 2, "mail": 3, "Mail": 3, "web": 4, "other": 1}


def test_bad_value_of_a_named_executor_is_reported_under_its_own_key(app: Flask) -> None:
    app.config["MAIL_EXECUTOR_MAX_WORKERS"] = "many"
    with pytest.raises(ConfigError, match=r"^MAIL_EXECUTOR_MAX_WORKERS='many' \(str\): expected "):
        Executor(app, name="mail")
    Executor(app)  # is not concerned


@pytest.mark.parametrize(
    ("given", "name", "nearest"),
    [
        ("EXECUTOR_MAX_WORKER", "", "EXECUTOR_MAX_WORKERS"),
        ("EXECUTOR_MAX_THREADS", "", "EXECUTOR_MAX_WORKERS"),
        ("EXECUTOR_THREADS", "", "EXECUTOR_MAX_WORKERS"),
        ("MAIL_EXECUTOR_POOL_SIZE", "mail", "MAIL_EXECUTOR_MAX_WORKERS"),
        ("EXECUTOR_QUEUE_SIZE", "", "EXECUTOR_MAX_PENDING"),
        ("EXECUTOR_BACKEND", "", "EXECUTOR_TYPE"),
        ("EXECUTOR_REDIS_URL", "", "EXECUTOR_STORE"),
        ("EXECUTOR_TASK_TIMEOUT", "", "EXECUTOR_JOB_TIMEOUT"),
        ("EXECUTOR_PUSH_APP_CONTEX", "", "EXECUTOR_PUSH_APP_CONTEXT"),
        ("EXECUTOR_PROPAGATE_EXCEPTION", "", "EXECUTOR_PROPAGATE_EXCEPTIONS"),
        ("MAIL_EXECUTOR_LOOPS", "mail", "MAIL_EXECUTOR_MAX_LOOPS"),
    ],
)
def test_unknown_key_is_a_warning_that_names_the_nearest_known_one(
    app: Flask, given: str, name: str, nearest: str
) -> None:
    app.config[given] = 3
    with pytest.warns(UserWarning, match="is not a setting") as caught:
        Executor(app, name=name)
    assert [str(warning.message) for warning in caught] == [
        f"{given} is not a setting of flask_executor_typed; did you mean {nearest}?"
    ]


def init_app(app: Flask) -> int:
    executor = Executor()
    executor.init_app(app)
    return line_above()


def constructor(app: Flask) -> int:
    Executor(app)
    return line_above()


def line_above() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno - 1


@pytest.mark.parametrize("use", [init_app, constructor])
def test_warning_points_at_the_line_that_gave_the_app(
    app: Flask, use: Callable[[Flask], int]
) -> None:
    app.config["EXECUTOR_MAX_WORKER"] = 3
    with pytest.warns(UserWarning, match="is not a setting") as caught:
        line = use(app)
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, line)]


@pytest.mark.parametrize("key", ["MAIL_EXECUTOR_MAX_WORKER", "EXECUTORS", "MY_EXECUTOR", "FOO"])
def test_keys_of_others_are_no_concern_of_this_executor(app: Flask, key: str) -> None:
    app.config[key] = 3
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warn_of_unknown_keys(app.config)
    assert warned == []


@pytest.mark.parametrize("name", ["a b", "a-b", "a.b", "é!", " "])
def test_name_that_cannot_be_part_of_a_key_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected letters, digits and underscores only") as raised:
        Executor(name=name)
    assert str(raised.value) == (
        f"name={name!r}: expected letters, digits and underscores only; "
        "the name becomes part of configuration keys"
    )


def test_settings_of_several_apps_are_kept_apart(app: Flask) -> None:
    other = Flask("other")
    app.config["EXECUTOR_PUSH_APP_CONTEXT"] = "false"
    with Executor(app) as executor:
        executor.init_app(other)
        with app.app_context():
            assert executor.submit(has_app_context).result(10) is False
        with other.app_context():
            assert executor.submit(has_app_context).result(10) is True


def test_max_length_none_does_not_lift_the_bound(app: Flask) -> None:
    app.config["EXECUTOR_FUTURES_MAX_LENGTH"] = None
    assert Executor(app).futures.max_length == 50
    app.config["EXECUTOR_FUTURES_MAX_LENGTH"] = "2"
    assert Executor(app).futures.max_length == 2


def test_late_settings_are_used_with_a_warning_that_names_them(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    with Executor(app) as executor:
        app.config["EXECUTOR_PUSH_APP_CONTEXT"] = "no"
        assert executor.submit(has_app_context).result(10) is False  # by the first call already
        assert executor.submit(has_app_context).result(10) is False
    assert [record.getMessage() for record in caplog.records] == [
        (
            "settings of executor changed after init_app(), and are used now: "
            "push_app_context: True -> False; set them before"
        )
    ]


@pytest.mark.usefixtures("caplog")
def test_late_max_length_is_used(app: Flask) -> None:
    with Executor(app) as executor:
        app.config["EXECUTOR_FUTURES_MAX_LENGTH"] = 2
        for key in range(4):
            executor.submit_stored(key, int).result(10)
        assert len(executor.futures) == 2


def test_bad_late_setting_is_an_error_of_submit(app: Flask) -> None:
    with Executor(app) as executor:
        app.config["EXECUTOR_MAX_WORKERS"] = 0
        with pytest.raises(ConfigError, match=r"^EXECUTOR_MAX_WORKERS=0 \(int\)"):
            executor.submit(int)
        app.config["EXECUTOR_MAX_WORKERS"] = 1
        assert executor.submit(int).result(10) == 0
