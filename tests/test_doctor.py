"""``flask executor doctor`` and ``status``, and the functions behind them."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask, current_app

from flask_executor_typed import Executor
from flask_executor_typed.doctor import Finding, check, examine, status
from flask_executor_typed.doctor.server import Deployment
from flask_executor_typed.runtime import greenlets as green

from .conftest import TIMEOUT
from .helpers.greenlets import patch
from .helpers.services import RedisServer, redis_server
from .helpers.stores import url_of_user

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder and an environment that tell nothing of a server."""
    for name in os.environ:
        if name.startswith(("WEB_CONCURRENCY", "GUNICORN_", "UWSGI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def without_hint_of_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is installed where the tests run is one test's business."""
    monkeypatch.setattr("flask_executor_typed.doctor.checks._could_have_uvloop", lambda: False)


def found(app: Flask, deployment: Deployment | None = None, **options: Any) -> dict[str, Finding]:
    findings = examine(app, deployment or Deployment(), **options)
    return {finding.code: finding for finding in findings}


def mends(findings: dict[str, Finding]) -> set[str]:
    return {code for code, finding in findings.items() if finding.must_mend}


def test_app_that_is_well_gets_no_finding(app: Flask, executor: Executor) -> None:
    assert check(app) == []
    assert executor.submit(int).result(TIMEOUT) == 0
    assert executor.submit(asyncio.sleep, 0).result(TIMEOUT) is None
    assert check(app) == []
    app.extensions["alias"] = executor
    assert len(status(app)) == 1


def test_app_without_an_executor_is_told_how_to_get_one(app: Flask) -> None:
    app.extensions["other"] = object()
    app.extensions["executor"] = Executor(Flask("another"))
    assert check(app) == [
        Finding(
            "no-executor",
            True,
            "",
            "The app 'tests' has no executor.",
            "Call executor.init_app(app) where the app is made.",
        )
    ]


@pytest.mark.usefixtures("executor")
def test_several_processes_must_be_mended_if_a_view_uses_keys_and_are_a_hint_otherwise(
    app: Flask, executor: Executor
) -> None:
    four = Deployment(processes=4)
    assert "several-processes" not in found(app, Deployment(processes=1))
    assert not found(app, four)["several-processes"].must_mend

    @app.get("/<key>")
    def poll(key: str) -> str:
        def status() -> str:
            return str(executor.futures.status(key))

        return status()

    def logged(view: Callable[[str], str]) -> Callable[[str], str]:
        @functools.wraps(view)
        def log_and_call(key: str) -> str:
            return view(key)

        return log_and_call

    @app.post("/<key>")
    @logged
    def start(key: str) -> str:
        executor.submit_stored(key, int)
        return "started"

    finding = found(app, four)["several-processes"]
    assert finding.must_mend
    assert finding.what == (
        "4 server processes, but keys live in one process's memory. A poll that reaches another "
        "process won't find its job. These views use keys: poll, start."
    )


def test_several_processes_that_share_a_store_are_fine(app: Flask, tmp_path: Path) -> None:
    app.config["EXECUTOR_STORE"] = f"sqlite:///{tmp_path}/jobs.db"
    with Executor(app):
        assert "several-processes" not in found(app, Deployment(processes=4))


# -- stores ----------------------------------------------------------------------------------------


@pytest.fixture
def stored(app: Flask, tmp_path: Path) -> Iterator[Executor]:
    """An executor with a store, ``jobs.db`` in ``tmp_path``."""
    app.config["EXECUTOR_STORE"] = f"sqlite:///{tmp_path}/jobs.db"
    with Executor(app) as executor:
        yield executor


def test_old_sqlite_is_a_hint_and_a_new_one_is_fine(
    app: Flask, stored: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("flask_executor_typed.stores.sqlite._CHECKPOINTS_ARE_SAFE", False)
    monkeypatch.setattr("sqlite3.sqlite_version", "3.40.1")
    (finding,) = check(app)
    assert (finding.code, finding.must_mend, finding.executor) == ("old-sqlite", False, "executor")
    assert finding.what == (
        "This Python has SQLite 3.40.1. Before 3.51.3 it can, very rarely, damage a file that "
        "several processes write. Executors avoid that; other programs that write to the same "
        "file do not."
    )
    monkeypatch.setattr("flask_executor_typed.stores.sqlite._CHECKPOINTS_ARE_SAFE", True)
    assert check(app) == []
    assert not (tmp_path / "jobs.db").exists()  # root may look, and the server could not write it


def test_file_on_a_network_disk_must_be_mended(
    app: Flask, stored: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"45 22 0:40 / {tmp_path} rw shared:7 - nfs4 files:/export rw,vers=4.2\n",
        "utf-8",
    )
    monkeypatch.setattr("flask_executor_typed.stores.disks._MOUNTS", mounts)
    findings = found(app)
    assert mends(findings) == {"store-on-network-disk"}
    assert (
        f"{tmp_path}/jobs.db is on a network disk (nfs4)" in findings["store-on-network-disk"].what
    )


def test_file_that_is_no_database_must_be_mended(
    app: Flask, stored: Executor, tmp_path: Path
) -> None:
    (tmp_path / "jobs.db").write_text("this is no database, and long enough to see that", "utf-8")
    findings = found(app)
    assert mends(findings) == {"store-unusable"}
    assert findings["store-unusable"].what == (
        f"The job store sqlite:///{tmp_path}/jobs.db cannot be used: file is not a database. Jobs "
        "run, but other processes do not see them."
    )


def test_damaged_database_must_be_mended(app: Flask, stored: Executor, tmp_path: Path) -> None:
    job_id = stored.submit(int).id
    assert stored.jobs.get(job_id) is not None
    assert "store-unusable" not in found(app)
    stored.shutdown()
    file = tmp_path / "jobs.db"
    file.write_bytes(file.read_bytes()[:100] + b"\xff" * 10_000)
    stored.init_app(app)
    assert mends(found(app)) == {"store-unusable"}


def test_locked_file_is_a_hint(app: Flask, stored: Executor, tmp_path: Path) -> None:
    stored.submit(int).result(TIMEOUT)
    stored.jobs.counts()
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    finding = found(app)["store-unusable"]
    other.execute("ROLLBACK")
    other.close()
    assert not finding.must_mend
    assert "database is locked" in finding.what


def test_redis_that_is_down_or_evicts_records_must_be_mended(app: Flask) -> None:
    with redis_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as redis:
        app.config["EXECUTOR_STORE"] = redis.url
        with Executor(app), Executor(app, name="mail"):
            (finding,) = check(app)  # one, for both
            assert (finding.code, finding.must_mend) == ("store-evicts", True)
            assert "(maxmemory-policy allkeys-lru)" in finding.what
            configure(redis, "maxmemory", "0")
            assert not found(app)["store-evicts"].must_mend
            configure(redis, "maxmemory-policy", "volatile-lru")
            assert check(app) == []
            assert keys_of(redis) == []  # it has written nothing
            configure(redis, "maxmemory-policy", "noeviction")
            configure(redis, "maxmemory", "1")
            finding = found(app)["store-unusable"]
            assert "used memory > 'maxmemory'. Jobs run, but other processes do not" in finding.what
            redis.process.kill()
            redis.process.wait(TIMEOUT)
            findings = found(app)
            assert mends(findings) == {"store-unusable"}
            assert findings["store-unusable"].what.startswith(f"The job store {redis.url} cannot")


@pytest.mark.parametrize(
    ("rights", "what"),
    [
        (["resetchannels"], ["access .*channel.* Jobs cannot be recorded"]),
        (["resetkeys"], ["access .*key.* Jobs cannot be recorded"]),
        (["-info"], ["'info' command.* Whether Redis drops records is unknown"]),
        (["-@all"], ["'setrange' command.* Jobs cannot", "'info' command.* Whether"]),
        ([], []),
    ],
    ids=["channels", "keys", "info", "all", "none"],
)
def test_rights_that_the_user_of_redis_lacks(
    app: Flask, rights: list[str], what: list[str]
) -> None:
    with redis_server() as redis:
        app.config["EXECUTOR_STORE"] = url_of_user(redis, *rights)
        with Executor(app):
            findings = check(app)
    assert len(findings) == len(what)
    for finding, text in zip(findings, what, strict=True):
        assert finding.code == "store-forbids"
        assert re.search(text, finding.what)
        assert finding.must_mend == ("Jobs" in text)
        page = Path(__file__, "../../docs/records.rst").resolve().read_text()
        assert finding.cure.partition("ACL SETUSER: ")[2] in page


def keys_of(server: RedisServer) -> list[bytes]:
    client: Any = import_module("redis").Redis(port=server.port)
    keys: list[bytes] = client.keys()
    client.close()
    return keys


def configure(server: RedisServer, name: str, value: str) -> None:
    client: Any = import_module("redis").Redis(port=server.port)
    client.config_set(name, value)
    client.close()


def test_server_that_does_not_tell_of_forks_takes_the_store_from_its_workers(
    app: Flask, stored: Executor
) -> None:
    finding = found(app, Deployment(server="uWSGI", tells_of_forks=False))["silent-forks"]
    assert finding.what.endswith(", and a store that was used then cannot be used there.")


# -- servers ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("executor")
def test_threads_that_the_server_does_not_run_must_be_mended(app: Flask) -> None:
    findings = found(app, Deployment(server="uWSGI", threads=False))
    assert mends(findings) == {"threads-disabled"}
    assert findings["threads-disabled"].cure == "Set enable-threads = true for uWSGI."


@pytest.mark.usefixtures("executor")
def test_server_that_does_not_tell_of_forks_is_a_hint(app: Flask) -> None:
    finding = found(app, Deployment(server="uWSGI", tells_of_forks=False))["silent-forks"]
    assert not finding.must_mend
    assert "py-call-osafterfork = true" in finding.cure


@pytest.mark.usefixtures("executor")
def test_greenlets_are_a_hint_and_a_mistake_with_async_views(app: Flask) -> None:
    gevent = Deployment(library="gevent")
    findings = found(app, gevent)
    assert set(findings) == {"greenlets"}
    assert not findings["greenlets"].must_mend

    @app.get("/")
    async def slow() -> str:
        return "slow"

    findings = found(app, gevent)
    assert mends(findings) == {"async-views-in-greenlets"}
    assert "These are asynchronous: slow." in findings["async-views-in-greenlets"].what


@pytest.mark.usefixtures("executor")
def test_greenlets_of_this_process_are_found_without_knowing_the_server(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch(monkeypatch, "gevent")
    monkeypatch.setattr(green, "_patched_at_import", "gevent")
    assert set(found(app)) == {"greenlets"}


@pytest.mark.usefixtures("executor")
def test_patching_after_the_import_must_be_mended(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = found(app, Deployment(library="eventlet", preload=True))
    assert mends(findings) == {"patched-too-late"}
    assert "With preload" in findings["patched-too-late"].what
    patch(monkeypatch, "gevent")
    findings = found(app)
    assert mends(findings) == {"patched-too-late"}
    assert findings["patched-too-late"].what == (
        "gevent patched the process when flask_executor_typed had already been imported."
    )
    assert findings["patched-too-late"].cure.startswith("Begin the program")


@pytest.mark.parametrize(
    ("key", "value"),
    [("EXECUTOR_TYPE", "process"), ("EXECUTOR_TYPE", "sync"), ("EXECUTOR_ASYNC_VIEWS", True)],
)
def test_settings_that_greenlets_refuse_are_found_where_there_are_none(
    app: Flask, key: str, value: object
) -> None:
    app.config[key] = value
    with Executor(app):
        findings = found(app, Deployment(library="gevent"))
        assert mends(findings) == {"not-with-greenlets"}
        assert findings["not-with-greenlets"].what.startswith(f"{key} is refused by init_app()")
        assert not mends(found(app))


def test_worker_processes_without_an_app_are_a_hint(app: Flask) -> None:
    app.config["CRUNCH_EXECUTOR_TYPE"] = "process"
    with Executor(app, name="crunch"):
        assert check(app) == [
            Finding(
                "no-app-in-workers",
                False,
                "crunch_executor",
                "Worker processes have no app: current_app, g and the app's extensions do not work "
                "in jobs.",
                "Set CRUNCH_EXECUTOR_APP = 'package.module:create_app', unless no job needs them.",
            )
        ]


def test_app_that_workers_cannot_load_is_found_by_starting_one(app: Flask) -> None:
    app.config["EXECUTOR_TYPE"] = "process"
    app.config["EXECUTOR_APP"] = "tests.apps.processes:missing"
    with Executor(app):
        assert not found(app)  # check() starts nothing
        findings = found(app, load_app=True)
        assert mends(findings) == {"app-not-loadable"}
        assert "EXECUTOR_APP='tests.apps.processes:missing'" in findings["app-not-loadable"].what
    app.config["EXECUTOR_APP"] = "tests.apps.processes:app"
    with Executor(app):
        assert not found(app, load_app=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_fork_must_be_mended(app: Flask) -> None:
    app.config["EXECUTOR_START_METHOD"] = "fork"
    with Executor(app):
        assert not found(app)  # threads do not mind
    app.config["EXECUTOR_TYPE"] = "process"
    with Executor(app):
        assert mends(found(app)) == {"fork-with-threads"}


def test_setting_that_changed_after_init_app_must_be_mended(app: Flask, executor: Executor) -> None:
    app.config["EXECUTOR_MAX_WORKERS"] = 3
    findings = found(app)
    assert mends(findings) == {"changed-after-init"}
    assert findings["changed-after-init"].what == (
        "Settings changed after init_app(): max_workers: None -> 3. Once calls have been made, "
        "they are not used."
    )
    executor.init_app(app)
    assert not found(app)
    app.config["EXECUTOR_MAX_WORKERS"] = "many"
    findings = found(app)
    assert mends(findings) == {"bad-setting"}
    assert findings["bad-setting"].what.startswith("EXECUTOR_MAX_WORKERS='many' (str): expected")


def test_unknown_settings_must_be_mended_and_those_of_no_executor_are_a_hint(
    app: Flask, executor: Executor
) -> None:
    with Executor(app, name="mail"):
        app.config["EXECUTOR_MAX_WORKER"] = 3
        app.config["MAIL_EXECUTOR_MAX_LOOPS"] = 1
        app.config["MAIL_EXECUTOR_MAX_LOPS"] = 1
        app.config["CRUNCH_EXECUTOR_MAX_WORKERS"] = 2
        app.config["MY_EXECUTOR"] = "something else"
        findings = examine(app, Deployment())
    assert [(each.code, each.executor, each.what, each.cure) for each in findings] == [
        (
            "unknown-setting",
            "executor",
            "EXECUTOR_MAX_WORKER is not a setting, so it does nothing.",
            "Did you mean EXECUTOR_MAX_WORKERS?",
        ),
        (
            "unknown-setting",
            "mail_executor",
            "MAIL_EXECUTOR_MAX_LOPS is not a setting, so it does nothing.",
            "Did you mean MAIL_EXECUTOR_MAX_LOOPS?",
        ),
        (
            "setting-of-nobody",
            "",
            (
                "CRUNCH_EXECUTOR_MAX_WORKERS belongs to an executor of that name, and the app has "
                "none."
            ),
            "Remove it, or give the executor its name: Executor(app, name=...).",
        ),
    ]


def test_executor_that_was_shut_down_must_be_mended(app: Flask, executor: Executor) -> None:
    executor.shutdown()
    assert mends(found(app)) == {"shut-down"}


def test_uvloop_that_is_missing_is_a_hint_unless_the_loop_was_chosen(
    app: Flask, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_executor_typed.doctor.checks._could_have_uvloop", lambda: True)
    findings = found(app)
    assert set(findings) == {"uvloop-missing"}
    assert not mends(findings)
    assert set(found(app, Deployment(library="gevent"))) == {"greenlets"}
    app.config["EXECUTOR_LOOP_FACTORY"] = asyncio.new_event_loop
    executor.init_app(app)
    assert not found(app)


def test_loop_that_a_job_blocks_is_found_with_the_line_of_the_job(
    app: Flask, executor: Executor
) -> None:
    blocks, go_on = threading.Event(), threading.Event()

    async def block() -> None:
        blocks.set()
        go_on.wait(TIMEOUT)

    future = executor.submit(block)
    assert blocks.wait(TIMEOUT)
    findings = found(app, seconds=0.05)
    go_on.set()
    assert mends(findings) == {"loop-blocked"}
    line = block.__code__.co_firstlineno + 2
    assert findings["loop-blocked"].what == (
        "The event loop in the thread executor-loop-0 did not answer within 0.05 s: a job blocks "
        f"it, at {__file__}:{line} in block. All other coroutine jobs wait."
    )
    future.result(TIMEOUT)
    assert not found(app)


def test_current_app_can_be_given_in_place_of_the_app(app: Flask, executor: Executor) -> None:
    with app.app_context():
        assert check(current_app) == check(app)
        assert status(current_app) == status(app)
        assert [each.name for each in status(current_app)] == ["executor"]


def test_check_on_the_loop_itself_does_not_wait_for_it(app: Flask, executor: Executor) -> None:
    async def check_here() -> list[Finding]:
        return check(app, seconds=TIMEOUT)

    start = time.monotonic()
    assert executor.submit(check_here).result(2 * TIMEOUT) == []
    assert time.monotonic() - start < TIMEOUT


# -- the commands --------------------------------------------------------------------------------


@pytest.mark.usefixtures("executor")
def test_doctor_says_what_it_has_not_seen(app: Flask) -> None:
    ran = app.test_cli_runner().invoke(args=["executor", "doctor"])
    assert ran.exit_code == 0, ran.output
    assert ran.output == (
        "No problems found.\n"
        "\n"
        "This command runs in its own process. It sees the app and its settings, but not the "
        "processes that\n"
        "serve it.\n"
        "The server is unknown. Pass its command line with --server, or set WEB_CONCURRENCY to its "
        "number of\n"
        "processes.\n"
        "Blocked event loops, and settings changed later, can only be found in the server's own "
        "process: call\n"
        "flask_executor_typed.doctor.check(app) there.\n"
    )


@pytest.mark.usefixtures("executor")
def test_doctor_prints_what_must_be_mended_first_and_ends_with_1(app: Flask) -> None:
    server = "uwsgi --processes 2 --lazy-apps --ini none.ini"
    ran = app.test_cli_runner().invoke(args=["executor", "doctor", "--server", server])
    assert ran.exit_code == 1, ran.output
    assert ran.output.startswith(
        "error:   uWSGI runs no Python threads, so jobs stand still or only run during requests.\n"
        "         Set enable-threads = true for uWSGI. [threads-disabled]\n"
        "warning: 2 server processes, but keys live in one process's memory. A poll that reaches "
        "another\n"
        "         process won't find its job.\n"
        "         Set EXECUTOR_STORE = 'sqlite:///jobs.db', which the processes of one machine "
        "share, or a\n"
        "         Redis; or use one process with threads (gunicorn --threads 16). "
        "[several-processes]\n"
        "\n"
    )
    assert "Server: uWSGI, processes: 2, from --server.\n" in ran.output
    assert "Not understood: none.ini, which cannot be read here.\n" in ran.output


def test_hints_alone_end_with_0(app: Flask) -> None:
    app.config["EXECUTOR_TYPE"] = "process"
    with Executor(app):
        ran = app.test_cli_runner().invoke(args=["executor", "doctor"])
    assert ran.exit_code == 0, ran.output
    assert ran.output.startswith("warning: executor: Worker processes have no app: ")


@pytest.mark.usefixtures("executor")
def test_doctor_and_status_print_json(app: Flask) -> None:
    args = ["executor", "doctor", "--json", "--server", "uwsgi"]
    ran = app.test_cli_runner().invoke(args=args)
    assert ran.exit_code == 1
    told = json.loads(ran.output)
    assert [(each["code"], each["must_mend"]) for each in told["findings"]] == [
        ("threads-disabled", True),
        ("silent-forks", False),
    ]
    assert (told["server"]["server"], told["server"]["processes"]) == ("uWSGI", 1)

    ran = app.test_cli_runner().invoke(args=["executor", "status", "--json"])
    assert ran.exit_code == 0
    told = json.loads(ran.output)
    assert told["process"] == os.getpid()
    (shown,) = told["executors"]
    assert shown["name"] == "executor"
    assert shown["settings"]["EXECUTOR_TYPE"] == "thread"
    assert shown["figures"]["state"] == "not used yet"


def make_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def test_status_shows_each_executor_with_its_settings_and_figures(app: Flask) -> None:
    app.config["MAIL_EXECUTOR_MAX_WORKERS"] = "2"
    app.config["MAIL_EXECUTOR_LOOP_FACTORY"] = make_loop
    with Executor(app) as executor, Executor(app, name="mail") as mail:
        mail.submit_stored("key", int).result(TIMEOUT)
        ran = app.test_cli_runner().invoke(args=["executor", "status"])
        assert ran.exit_code == 0, ran.output
        both, _, note = ran.output.partition("\n\n")
        first, _, second = both.partition("mail_executor\n")
        assert first.startswith("executor\n  EXECUTOR_TYPE = 'thread'\n")
        assert "  state: not used yet\n  futures kept: 0\n  pending: 0\n" in first
        assert "  MAIL_EXECUTOR_MAX_WORKERS = 2\n" in second
        assert "  MAIL_EXECUTOR_LOOP_FACTORY = 'make_loop'\n" in second
        assert "  state: in use\n  futures kept: 1\n  pending: 0\n" in second
        assert "  succeeded: 1\n" in second
        assert " ".join(note.split()) == (
            f"These are the statistics of this process ({os.getpid()}), which was started for this "
            "command and has run no jobs. For those of the server, call "
            "flask_executor_typed.doctor.status(app) in its processes."
        )
        executor.shutdown()
        states = {each.name: each.figures["state"] for each in status(app)}
        assert states == {"executor": "shut down", "mail_executor": "in use"}


def test_status_names_executors_and_classes_of_others(app: Flask) -> None:
    with ThreadPoolExecutor(1) as pool:
        app.config["EXECUTOR_TYPE"] = pool
        app.config["OWN_EXECUTOR_TYPE"] = ThreadPoolExecutor
        with Executor(app) as executor, Executor(app, name="own"):
            assert executor.submit(int).result(TIMEOUT) == 0
            assert not found(app, load_app=True)
            given, made = status(app)
    assert given.settings["EXECUTOR_TYPE"] == "ThreadPoolExecutor"
    assert made.settings["OWN_EXECUTOR_TYPE"] == "ThreadPoolExecutor"
    json.dumps([given.settings, made.settings])


def test_command_of_the_app_that_has_the_name_is_left_alone(app: Flask) -> None:
    @app.cli.command("executor")
    def own() -> None:
        print("the app's own")

    with Executor(app):
        assert app.test_cli_runner().invoke(args=["executor"]).output == "the app's own\n"


Flask_ = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def flask(tmp_path: Path) -> Flask_:
    """Run the real command, in a folder with an app of a factory."""
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\n"
        "from flask_executor_typed import Executor\n"
        "executor, crunch = Executor(), Executor(name='crunch')\n"
        "def create_app():\n"
        "    app = Flask('shop')\n"
        "    app.config['EXECUTOR_LOOP_FACTORY'] = 'asyncio:new_event_loop'\n"
        "    app.config['CRUNCH_EXECUTOR_TYPE'] = 'process'\n"
        "    app.config['CRUNCH_EXECUTOR_APP'] = 'shop:create_app'\n"
        "    executor.init_app(app)\n"
        "    crunch.init_app(app)\n"
        "    return app\n",
        "utf-8",
    )

    def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flask", *args],
            cwd=tmp_path,
            env={**os.environ, "FLASK_APP": "shop", "PYTHONPATH": str(ROOT), **environ},
            capture_output=True,
            text=True,
            timeout=6 * TIMEOUT,
            check=False,
        )

    return run


def test_the_real_command_examines_the_app_of_a_factory_and_loads_it_in_a_worker(
    flask: Flask_, tmp_path: Path
) -> None:
    ran = flask("executor", "doctor")
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert ran.stdout.startswith("No problems found.\n")

    (tmp_path / "gunicorn.conf.py").write_text("workers = 2\n", "utf-8")
    shop = tmp_path / "shop.py"
    shop.write_text(shop.read_text("utf-8").replace("'shop:create_app'", "'shop:made'"), "utf-8")
    ran = flask("executor", "doctor")
    assert (ran.returncode, ran.stderr) == (1, ""), ran.stdout
    assert ran.stdout.startswith(
        "error:   crunch_executor: Worker processes do not start: CRUNCH_EX"
    )
    assert "warning: 2 server processes" in ran.stdout
    assert "Server: gunicorn, processes: 2, from gunicorn.conf.py.\n" in ran.stdout


def test_the_real_command_shows_named_executors_and_explains_itself(
    flask: Flask_, tmp_path: Path
) -> None:
    ran = flask("executor", "status")
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert "\ncrunch_executor\n  CRUNCH_EXECUTOR_TYPE = 'process'\n" in ran.stdout
    ran = flask("executor", "--help")
    assert "doctor  Find what will go wrong in this deployment.\n" in ran.stdout
    assert "status  Show the app's executors, their settings" in ran.stdout
    (tmp_path / "wsgi.py").write_text("from shop import create_app\n", "utf-8")
    # Where Flask 2.3 looks for the app, which does not read FLASK_APP for its own help.
    assert "\n  executor  Inspect the executors of this app" in flask("--help").stdout


def test_commands_are_imported_when_they_are_wanted() -> None:
    program = (
        "import sys\n"
        "from flask import Flask\n"
        "from flask_executor_typed import Executor\n"
        "app = Flask('app')\n"
        "with Executor(app) as executor: executor.submit(int).result(10)\n"
        "print([name for name in ('doctor', 'doctor.checks', 'doctor.server')\n"
        "       if 'flask_executor_typed.' + name in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=6 * TIMEOUT,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


@pytest.fixture
def queued(app: Flask) -> Flask:
    celery: Any = pytest.importorskip("celery", reason="Celery is not installed beside old Flasks")
    app.config.from_mapping(
        SECRET_KEY="secret", EXECUTOR_TYPE="celery", EXECUTOR_STORE="redis://127.0.0.1:1/0"
    )
    app.extensions["celery"] = celery.Celery("tests", broker="redis://127.0.0.1:1/0")
    Executor(app)
    return app


def test_celery_that_fetches_ahead_or_waits_for_ever_is_named(queued: Flask) -> None:
    conf: Any = queued.extensions["celery"].conf
    findings = found(queued)
    codes = {"celery-prefetches", "broker-without-timeout"}
    assert findings.keys() == {*codes, "store-unusable"}
    assert "submit() refuses jobs with an Eng" in findings["store-unusable"].what
    assert not any(findings[code].must_mend for code in codes)
    assert "worker_disable_prefetch = True" in findings["celery-prefetches"].cure
    assert "'socket_timeout': 3" in findings["broker-without-timeout"].cure
    conf.worker_disable_prefetch = True
    assert "celery-prefetches" not in found(queued)
    conf.broker_transport_options = {"socket_timeout": 3}
    assert found(queued).keys() == {"store-unusable"}


def test_celery_with_another_broker_is_not_told_of_redis(queued: Flask) -> None:
    queued.extensions["celery"].conf.broker_url = "amqp://localhost"
    assert found(queued).keys() == {"store-unusable"}


def test_a_missing_celery_app_is_found(queued: Flask) -> None:
    del queued.extensions["celery"]
    finding = found(queued)["bad-setting"]
    assert finding.must_mend
    assert "EXECUTOR_CELERY_APP=None" in finding.what


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tcp://127.0.0.1:8786", set[str]()),
        ("localhost:8786", set[str]()),
        ("tcp://[::1]:8786", set[str]()),
        ("tls://scheduler:8786", set[str]()),
        ("tcp://scheduler:8786", {"dask-without-tls"}),
        ("10.0.0.1:8786", {"dask-without-tls"}),
    ],
)
def test_a_dask_scheduler_that_others_may_reach_is_a_hint(
    app: Flask, monkeypatch: pytest.MonkeyPatch, address: str, expected: set[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", ModuleType("distributed"))
    app.config.from_mapping(
        SECRET_KEY="secret",
        EXECUTOR_TYPE="dask",
        EXECUTOR_APP="shop",
        EXECUTOR_DASK_ADDRESS=address,
        EXECUTOR_STORE="redis://127.0.0.1:1/0",
    )
    with Executor(app):
        findings = found(app)
    assert findings.keys() == {"store-unusable", *expected}
    assert mends(findings) <= {"store-unusable"}
