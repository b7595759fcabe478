"""``flask executor list``, ``show``, ``cancel`` and ``purge``."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from flask_executor_typed import Executor

from .conftest import TIMEOUT, until

ROOT = Path(__file__).resolve().parents[1]


def make_app(folder: Path) -> tuple[Flask, Executor, Executor]:
    app = Flask("shop", instance_path=str(folder))
    app.config["EXECUTOR_STORE"] = "sqlite:///jobs.db"
    return app, Executor(app), Executor(app, name="mail")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Executor, Executor]]:
    """The executors of the app that a server runs."""
    _, executor, mail = make_app(tmp_path)
    with executor, mail:
        yield executor, mail


Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """Run a command in an app of its own, which runs no jobs."""
    app, executor, mail = make_app(tmp_path)

    def run(*args: str, code: int = 0) -> Result:
        ran = app.test_cli_runner().invoke(args=["executor", *args])
        assert ran.exit_code == code, ran.output
        return ran

    with executor, mail:
        yield run


def ids(ran: Result) -> list[str]:
    return [each["id"] for each in json.loads(ran.output)]


def fail() -> None:
    raise ValueError("no such \x1b[31mshop\x1b[0m")


def job_of(executor: Executor, fn: Callable[[], object] = int, **options: Any) -> str:
    """Run a job to its end, and return its id once its record says so."""
    future = executor.using(**options).submit(fn)
    future.exception(TIMEOUT)
    job_id = future.id

    def is_written() -> bool:
        record = executor.jobs.get(job_id)
        return record is not None and record.done

    until(is_written)
    return job_id


def test_jobs_of_other_processes_are_listed_newest_first_and_narrowed(
    served: tuple[Executor, Executor], command: Command
) -> None:
    executor, mail = served
    first = job_of(executor, user="ada", labels={"city": "Hanoi"})
    second = job_of(executor, fail, user="bob")
    third = job_of(mail, user="ada")
    assert ids(command("list", "--json")) == [third, second, first]
    assert ids(command("list", "--json", "--limit", "2")) == [third, second]
    assert ids(command("list", "--json", "--user", "ada")) == [third, first]
    assert ids(command("list", "--json", "--status", "failed")) == [second]
    assert ids(command("list", "--json", "--label", "city=Hanoi")) == [first]
    assert ids(command("list", "--json", "--executor", "mail")) == [third]
    assert ids(command("list", "--json", "--executor", "")) == [second, first]
    assert ids(command("list", "--json", "--name", "fail")) == [second]
    lines = command("list").output.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [third, "succeeded"],
        [second, "failed"],
        [first, "succeeded"],
    ]
    assert lines[0].endswith("Z  int  ada")


def test_show_tells_all_that_is_known_and_nothing_that_a_terminal_would_obey(
    served: tuple[Executor, Executor], command: Command
) -> None:
    executor, _ = served
    job_id = job_of(executor, fail, key=("report", 7), user="ada", labels={"city": "Hanoi"})
    shown = command("show", job_id).output
    assert shown.startswith(f"{job_id}\n  function: ")
    assert "\n  status: failed\n  key: ('report', 7)\n  user: ada\n  labels: city=Hanoi\n" in shown
    assert f":{os.getpid()}\n" in shown
    assert "\n  error: ValueError: no such \\x1b[31mshop\\x1b[0m\n  traceback:\n" in shown
    assert "\x1b" not in shown
    assert 'raise ValueError("no such' in shown

    told = json.loads(command("show", job_id[:6], "--json").output)
    assert (told["id"], told["status"], told["done"]) == (job_id, "failed", True)
    assert (told["user"], told["key"]) == ("ada", "('report', 7)")
    assert told["exception"]["type"] == "ValueError"
    assert "Traceback (most recent call last)" in told["traceback"]
    assert told["submitted_at"].endswith("Z")
    assert "links" not in told


@pytest.mark.parametrize("job_id", ["-jNuKgIhOlht3ZnBgDAeLzM", "--NuKgIhOlht3ZnBgDAeLzM"])
@pytest.mark.parametrize("name", ["show", "cancel"])
def test_an_id_that_begins_with_a_dash_is_no_option(
    command: Command, name: str, job_id: str
) -> None:
    for options in ((), ("--json",)):
        ran = command(name, job_id, *options, code=3)
        assert f"No job's id is {job_id!r}" in ran.output


def test_unknown_and_ambiguous_ids_have_exit_codes_of_their_own(
    served: tuple[Executor, Executor], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, _ = served
    job_id = job_of(executor)
    for name in ("show", "cancel"):
        ran = command(name, "no-such-job", code=3)
        assert "Error: No job's id is 'no-such-job', or begins so.\n" in ran.output
        ran = command(name, job_id[:5], code=3)
        assert "or begins so. 6 characters at least" in ran.output
    job_of(executor)
    monkeypatch.setattr("flask_executor_typed.doctor.jobs._SHORTEST_PREFIX", 0)
    ran = command("show", "", code=2)
    assert "The ids of 2 jobs begin with ''" in ran.output
    assert job_id in ran.output


def test_prefix_is_found_behind_the_first_page(
    served: tuple[Executor, Executor], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, _ = served
    oldest, *_ = [job_of(executor) for _ in range(5)]
    monkeypatch.setattr("flask_executor_typed.doctor.jobs._PAGE", 2)
    assert command("show", oldest[:12]).output.startswith(oldest)


def test_cancel_reaches_the_process_that_runs_the_job(
    served: tuple[Executor, Executor], command: Command
) -> None:
    executor, _ = served
    begun = threading.Event()

    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    future = executor.submit(never)
    assert begun.wait(TIMEOUT)
    answer = json.loads(command("cancel", future.id, "--json").output)
    assert answer["id"] == future.id
    assert answer["answer"] in {"asked", "cancelled"}  # the first on a busy machine
    with pytest.raises(CancelledError):
        future.result(TIMEOUT)
    until(lambda: (record := executor.jobs.get(future.id)) is not None and record.done)
    ran = command("cancel", future.id, code=1)
    assert ran.output.endswith(": It was over before.\n")


def test_purge_removes_finished_records_and_has_to_be_told_which(
    served: tuple[Executor, Executor], command: Command
) -> None:
    executor, _ = served
    done = [job_of(executor) for _ in range(3)]
    release = threading.Event()
    runs = executor.submit(release.wait, TIMEOUT)
    assert executor.jobs.get(runs.id) is not None
    assert "Say either --older-than SECONDS or --all." in command("purge", code=2).output
    both = command("purge", "--all", "--older-than", "1", code=2)
    assert "Say either" in both.output
    assert json.loads(command("purge", "--older-than", "3600", "--json").output) == {"removed": 0}
    assert len(ids(command("list", "--json"))) == 4
    removed = command("purge", "--all").output
    assert removed.startswith("3 records of shop removed from sqlite:///")
    assert ids(command("list", "--json")) == [runs.id]
    assert all(executor.jobs.get(job_id) is None for job_id in done)
    release.set()


@pytest.mark.parametrize("as_json", [False, True])
def test_purge_counts_each_of_two_spaces_in_one_file(tmp_path: Path, as_json: bool) -> None:
    app = Flask("shop", instance_path=str(tmp_path))
    app.config["EXECUTOR_STORE"] = "sqlite:///jobs.db"
    app.config["MAIL_EXECUTOR_STORE"] = "sqlite:///jobs.db?space=mail"
    with Executor(app) as executor, Executor(app, name="mail") as mail:
        for each in (executor, executor, mail):
            each.submit(int)
    # Closed, they have written all that there is to write.
    with Executor(app), Executor(app, name="mail"):
        args = ["executor", "purge", "--all", *(["--json"] if as_json else [])]
        output = app.test_cli_runner().invoke(args=args).output
    if as_json:
        assert json.loads(output) == {"removed": 3}
    else:
        assert output.splitlines() == [
            f"2 records of shop removed from sqlite:///{tmp_path}/jobs.db",
            f"1 records of mail removed from sqlite:///{tmp_path}/jobs.db",
        ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("purge", "--older-than", "nan"), "nan is not a number of seconds, 0 or more."),
        (("purge", "--older-than", "-1"), "-1.0 is not a number of seconds, 0 or more."),
        (("purge", "--older-than", "soon"), "is not a valid float"),
        (("list", "--limit", "0"), "--limit"),
        (("list", "--label", "city"), "'city' is not NAME=VALUE."),
        (("list", "--status", "done"), "--status"),
        (("list", "--executor", "post"), "No executor is called 'post'; the app's names: ['', "),
    ],
)
def test_bad_arguments_are_refused_with_the_reason(
    command: Command, args: tuple[str, ...], message: str
) -> None:
    assert message in command(*args, code=2).output


@pytest.mark.parametrize("args", [("list",), ("show", "x"), ("cancel", "x"), ("purge", "--all")])
def test_without_a_store_each_command_says_why_it_sees_no_jobs(
    app: Flask, executor: Executor, args: tuple[str, ...]
) -> None:
    ran = app.test_cli_runner().invoke(args=["executor", *args])
    assert ran.exit_code == 2
    assert (
        "This command runs in a process of its own. Without a store it sees no jobs of the server's"
        " processes. Set EXECUTOR_STORE = 'sqlite:///jobs.db'"
    ) in " ".join(ran.output.split())


def test_store_that_cannot_be_used_is_an_error_and_no_traceback(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "jobs.db").write_text("this is no database, and long enough to see that", "utf-8")
    ran = command("list", code=1)
    assert "Error: the job store sqlite:///" in ran.output
    assert "file is not a database" in ran.output
    assert "Traceback" not in ran.output


def test_the_real_command_tells_that_the_job_of_a_dead_server_is_lost(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import os, threading\n"
        "from flask import Flask\n"
        "from flask_executor_typed import Executor\n"
        f"app = Flask('shop', instance_path={str(tmp_path)!r})\n"
        "app.config['EXECUTOR_STORE'] = 'sqlite:///jobs.db'\n"
        "executor = Executor(app)\n"
        "def serve_and_die():\n"
        "    begun = threading.Event()\n"
        "    future = executor.submit(lambda: begun.set() or threading.Event().wait(60))\n"
        "    begun.wait(60)\n"
        "    print(future.id, flush=True)\n"
        "    os._exit(1)\n",
        "utf-8",
    )

    def run(*words: str) -> str:
        ran = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, "FLASK_APP": "shop", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=6 * TIMEOUT,
            check=False,
        )
        return ran.stdout + ran.stderr

    job_id = run("-c", "import shop; shop.serve_and_die()").strip()
    listed = run("-m", "flask", "executor", "list")
    assert f"{job_id}  lost " in listed
    assert f"[{job_id}] is lost: the process that was to run it has ended" in listed
    assert f"[{job_id}] is lost" not in run("-m", "flask", "executor", "show", job_id)
