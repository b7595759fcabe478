"""An app that worker processes load, and what runs there; see test_workers.py."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from secrets import token_hex
from typing import Any

from flask import Flask, current_app, g, request, session, url_for
from typing_extensions import Self

from flask_executor_typed import Executor, LoopResource, current_job

executor = Executor()
teardowns: list[str] = []
loads: list[int] = []


def create_app(**settings: object) -> Flask:
    """The factory: in the test's process and in each worker."""
    app = Flask("working")
    app.secret_key = "working"
    config: dict[str, object] = {
        "GREETING": "hello",
        "EXECUTOR_TYPE": "process",
        "EXECUTOR_APP": "tests.apps.working:create_app",
        "EXECUTOR_MAX_WORKERS": 1,
        "EXECUTOR_PUSH_REQUEST_CONTEXT": True,
    }
    app.config.from_mapping({**config, **settings})
    executor.init_app(app)
    loads.append(os.getpid())

    @app.teardown_appcontext
    def note(error: BaseException | None) -> None:
        teardowns.append(f"{g.get('name')} {error!r}")

    @app.route("/<lang>/things/<int:number>", methods=["GET", "POST"])
    def thing(lang: str, number: int) -> str:
        return f"{lang} {number}"

    return app


@contextmanager
def serving(**settings: object) -> Generator[Executor, None, None]:
    """An executor with other settings, and an app and workers of its own."""
    app = create_app(**settings)
    try:
        with Executor(app) as apart:
            try:
                yield apart
            except BaseException:  # a job may wait for what the failed test has not done
                apart.shutdown(timeout=0, cancel_futures=True)
                raise
    finally:
        executor.shutdown(app=app)  # which the factory has it serve


def create_no_app() -> Flask:
    raise RuntimeError("there is no database")


def create_app_forever() -> Flask:
    write_pid(Path(os.environ["LOADS_FOREVER"]))
    time.sleep(3600)
    raise AssertionError


def create_no_app_and_a_thread() -> Flask:
    threading.Thread(target=time.sleep, args=(600,)).start()
    raise RuntimeError("there is no database")


def exit_and_create_no_app() -> Flask:
    raise SystemExit("DATABASE is not set")


def close_all() -> None:
    logging.disable()  # if the loop of the worker breaks before its process ends, it says so
    os.closerange(3, 256)


def close_all_and_stay() -> None:
    close_all()
    time.sleep(600)


def greeting() -> str:
    return f"{current_app.config['GREETING']} from {current_app.name}"


def names_of_g() -> dict[str, object]:
    return dict(vars(g))


def set_g(name: str, value: object) -> object:
    before = g.get(name)
    setattr(g, name, value)
    return before


def loads_and_teardowns() -> tuple[int, list[str]]:
    return len(loads), list(teardowns)


def fail_with_name(name: str) -> None:
    g.name = name
    raise ValueError(name)


def seen_request() -> dict[str, object]:
    return {
        "method": request.method,
        "url": request.url,
        "agent": request.headers["User-Agent"],
        "cookie": request.cookies.get("taste"),
        "endpoint": request.endpoint,
        "rule": str(request.url_rule),
        "view_args": request.view_args,
        "args": request.args.to_dict(),
        "form": request.form.to_dict(flat=False),
        "session": dict(session),
        "link": url_for("thing", lang="fr", number=8),
    }


def read(name: str) -> Any:
    """An attribute of the request, or what a method without parameters returns."""
    value: Any = getattr(request, name)
    return value() if callable(value) else value


def first_upload() -> str | None:
    return request.files["file"].filename


def write_session() -> object:
    session["written"] = True
    return session["written"]


def log(message: str) -> None:
    current_app.logger.warning(message)


def pid() -> int:
    return os.getpid()


def parent_of_parent() -> int:
    return os.getppid()


def die(how: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), how)


def fork(path: Path, raises: bool) -> str:
    """Come back twice: the job of a careless author."""
    if os.fork():
        return "parent"
    write_pid(path)
    current_job.progress(1, 2, "of the child")
    if raises:
        raise ValueError("in the child")
    return "child"


def append(path: Path, line: str, seconds: float = 0.0) -> str:
    """One line in a file, whole and at once, whoever else writes."""
    with path.open("a") as file:
        file.write(f"{line}\n")
    time.sleep(seconds)
    return line


def write_pid(path: Path) -> None:
    """At once: who sees the file can read it."""
    new = path.with_suffix(".new")
    new.write_text(str(os.getpid()))
    new.replace(path)


def write_and_wait(path: Path, until: Path | None = None) -> int:
    """Tell our process, and wait for ever, or until a file is there."""
    write_pid(path)
    while until is None or not until.exists():
        time.sleep(0.005)
    return os.getpid()


async def write_and_wait_async(path: Path, end: Path) -> None:
    write_pid(path)
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.2)
        end.write_text(f"{current_app.name} {os.getpid()}")


class Late:
    """Is made anew when a file that says so has been removed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.path.touch()
        while self.path.exists():
            time.sleep(0.001)


async def block_loop(path: Path, until: Path) -> None:
    """Afterwards."""
    asyncio.get_running_loop().call_soon(write_and_wait, path, until)


async def sleep(argument: object) -> None:
    await asyncio.sleep(60)


def wait_until_asked(path: Path, path_of_end: Path) -> str:
    write_pid(path)
    while not current_job.cancel_requested:
        time.sleep(0.005)
    path_of_end.touch()
    return "asked"


def look_until_asked() -> str:
    while not current_job.cancel_requested:
        current_job.progress(1)
        time.sleep(0.005)
    return "asked"


def is_asked(path: Path, until: Path) -> bool:
    write_and_wait(path, until)
    return current_job.cancel_requested


def raise_if_asked(path: Path) -> None:
    write_pid(path)
    while True:
        time.sleep(0.005)
        current_job.raise_if_cancelled()


async def loop_and_thread() -> tuple[int, int, str]:
    await asyncio.sleep(0)
    return id(asyncio.get_running_loop()), threading.get_ident(), current_app.name


def returns_a_coroutine() -> Any:
    return loop_and_thread()


class Client:
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *args: object) -> None:
        pass


clients: LoopResource[Client] = executor.loop_resource(Client)


async def client() -> int:
    return id(await clients.get())


def about_current_job() -> dict[str, object]:
    return {
        "bool": bool(current_job),
        "id": current_job.id,
        "name": current_job.name,
        "key": current_job.key,
        "attempt": current_job.attempt,
        "executor": current_job.executor is executor,
    }


def report(steps: int) -> int:
    for step in range(steps):
        current_job.progress(step + 1, steps, f"step {step + 1}")
    return steps


class OddNumber(float):
    """Can be made anew in a worker, and nowhere else."""

    def __reduce__(self) -> tuple[Callable[[int, str], object], tuple[int, str]]:
        return _only_there, (os.getpid(), _interpreter)


def report_odd_number() -> None:
    current_job.progress(OddNumber(0.5))


class OddRuntimeError(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("no words")


def raise_odd_error() -> None:
    raise OddRuntimeError


def fail_until(path: Path, attempts: int) -> int:
    append(path, str(current_job.attempt))
    if current_job.attempt < attempts:
        raise OSError(f"attempt {current_job.attempt}")
    return current_job.attempt


def die_once(path: Path) -> int:
    append(path, "ran")
    if current_job.attempt == 1:
        die()
    return current_job.attempt


def submit_here() -> None:
    executor.submit(pid)


@executor.job
def squared(number: int) -> int:
    assert current_app.name
    return number * number


@executor.job
async def squared_soon(number: int) -> int:
    await asyncio.sleep(0)
    assert current_app.name
    return number * number


class OnlyThere:
    """Its instances can be made anew in a worker, and nowhere else."""

    def __reduce__(self) -> tuple[Callable[[int, str], object], tuple[int, str]]:
        return _only_there, (os.getpid(), _interpreter)


_interpreter = token_hex()


def _only_there(process: int, interpreter: str) -> OnlyThere:
    if (process, interpreter) != (os.getpid(), _interpreter):
        raise RuntimeError("far from home")
    return OnlyThere()


def only_there() -> OnlyThere:
    return OnlyThere()


class Unpicklable:
    def __reduce__(self) -> str:
        raise TypeError("never to be pickled")


def children() -> list[int]:
    """Of this process, by what the system says."""
    own = Path(f"/proc/{os.getpid()}/task")
    return [
        int(child)
        for task in own.iterdir()
        for child in (task / "children").read_text("ascii").split()
    ]


def write_to_g(name: str, value: object) -> object:
    """Write to whatever of the submitter's a job could reach."""
    setattr(g, name, value)
    variable.set("the job's")
    return g.get("submitters")


variable: ContextVar[str] = ContextVar("variable", default="nobody's")


def give_lock() -> object:
    return threading.Lock()


def add(a: int, b: int = 0) -> int:
    return a + b


def echo(value: object) -> object:
    return value


def fail(text: str) -> None:
    raise LookupError(text)
