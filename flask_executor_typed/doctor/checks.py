"""Check a deployment for what will go wrong, and say what to do about it.

The only module that judges settings together with the server that they are used in.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any

from flask import Flask

from ..backends import ThreadBackend
from ..callables import is_async_callable
from ..config import ExecutorConfig, GivenExecutor, key_of, keys_of_others, unknown_keys
from ..errors import ConfigError, GreenThreadsError, StoreError
from ..executor import Executor, executors_of, itself
from ..loops.watchdog import stack_of
from ..runtime.frames import PACKAGE_FOLDER
from ..runtime.greenlets import check_patched_before_import, patched_by
from .server import Deployment, look

__all__ = ("ExecutorStatus", "Finding", "check", "examine", "status")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that goes wrong, or may."""

    code: str
    """Its name, such as ``"threads-disabled"``, which is the same in every version."""

    must_mend: bool
    """Whether something does not work; else it is a hint."""

    executor: str
    """The name of the executor that has it, or ``""`` if all of the process has."""

    what: str
    """What happens, in a sentence."""

    cure: str
    """What to do about it, in a sentence."""


@dataclass(frozen=True, slots=True)
class ExecutorStatus:
    """One executor of an app, as far as this process knows it."""

    name: str
    """Its name in messages, ``"executor"`` or ``"mail_executor"``."""

    settings: dict[str, Any]
    """Its settings by key, such as ``"EXECUTOR_TYPE"``, with what the defaults come to."""

    figures: dict[str, Any]
    """What this process has of it. Those of other processes are theirs alone."""


def check(app: Flask, *, seconds: float = 1.0) -> list[Finding]:
    """Find what is wrong with the executors of ``app`` in this process, the gravest first.

    Made for a view that tells whether the app is well, in the process that serves it. It starts
    nothing, and returns at once unless a loop is blocked. Safe in any thread.

    Args:
        app: The app.
        seconds: How long an event loop may take to answer before it counts as blocked.
    """
    return examine(app, look(), seconds=seconds)


def examine(
    app: Flask, deployment: Deployment, *, seconds: float = 1.0, load_app: bool = False
) -> list[Finding]:
    """What :func:`check` does, for a server that may be another.

    Args:
        app: The app.
        deployment: What is known of the server.
        seconds: As for :func:`check`.
        load_app: Start a worker process of each executor that has any, and see whether it loads
            the app.
    """
    app = itself(app)
    executors = executors_of(app)
    library = patched_by() or deployment.library
    findings = [*_of_server(app, executors, deployment, library), *_of_stores(app, executors)]
    for executor in executors:
        findings += _of_executor(app, executor, library, seconds, load_app)
    return sorted(findings, key=lambda finding: not finding.must_mend)


def status(app: Flask) -> list[ExecutorStatus]:
    """The executors of ``app``: their settings, and what this process knows of them."""
    app = itself(app)
    return [
        ExecutorStatus(
            executor.label,
            _settings_of(executor.state_of(app), executor.name),
            _figures_of(app, executor),
        )
        for executor in executors_of(app)
    ]


def _settings_of(state: Any, name: str) -> dict[str, Any]:
    config: ExecutorConfig = state.config
    settings = {field.name: _plain(getattr(config, field.name)) for field in fields(config)}
    if config.type in ("thread", "process"):  # it may not be hashable
        settings["max_workers"] = state.max_workers
    return {key_of(field, name=name): value for field, value in settings.items()}


def _plain(value: Any) -> Any:
    """The value of a setting; of an executor, class or function its name."""
    if isinstance(value, GivenExecutor):
        value = type(value.executor)
    if value is None or isinstance(value, (str, int, float)):
        return value
    return getattr(value, "__qualname__", type(value).__name__)


def _figures_of(app: Flask, executor: Executor[Any]) -> dict[str, Any]:
    state = executor.state_of(app)
    return {
        "state": "shut down" if state.closed else "in use" if state.opened else "not used yet",
        "futures_kept": len(executor.futures),
        **asdict(state.stats()),
    }


# -- what concerns all executors -----------------------------------------------------------------


def _of_server(
    app: Flask, executors: list[Executor[Any]], deployment: Deployment, library: str | None
) -> Iterator[Finding]:
    def finding(code: str, what: str, cure: str, *, must_mend: bool = True) -> Finding:
        return Finding(code, must_mend, "", what, cure)

    if not executors:
        yield finding(
            "no-executor",
            f"The app {app.name!r} has no executor.",
            "Call executor.init_app(app) where the app is made.",
        )
    if not deployment.threads:
        yield finding(
            "threads-disabled",
            "uWSGI runs no Python threads, so jobs stand still or only run during requests.",
            "Set enable-threads = true for uWSGI.",
        )
    configs = [executor.state_of(app).config for executor in executors]
    if not deployment.tells_of_forks:
        of_store = any(each.store for each in configs)
        yield finding(
            "silent-forks",
            "uWSGI does not tell Python that it forks: an executor that was used while the app was "
            "imported stands still in the workers"
            + (", and a store that was used then cannot be used there." if of_store else "."),
            "Submit nothing at import, or set py-call-osafterfork = true or lazy-apps = true for "
            "uWSGI.",
            must_mend=False,
        )
    processes = deployment.processes
    if processes is not None and processes > 1 and not all(each.store for each in configs):
        views = sorted(_views_that_keep_futures(app))
        named = ", ".join(views)
        yield finding(
            "several-processes",
            f"{processes} server processes, but keys live in one process's memory. A poll that "
            "reaches another process won't find its job."
            + (f" These views use keys: {named}." if views else ""),
            "Set EXECUTOR_STORE = 'sqlite:///jobs.db', which the processes of one machine share, "
            "or a Redis; or use one process with threads (gunicorn --threads 16).",
            must_mend=bool(views),
        )
    try:
        check_patched_before_import()
    except GreenThreadsError as error:
        yield finding(
            "patched-too-late", f"{error.library} {error.reason}.", f"{_sentence(error.cure)}."
        )
    if library is not None:
        if deployment.preload and deployment.library and patched_by() is None:
            yield finding(
                "patched-too-late",
                f"With preload the app is imported before {library} patches the process.",
                f"Patch in gunicorn.conf.py as {library} says, or do without preload.",
            )
        yield finding(
            "greenlets",
            f"{library} runs threads as greenlets: coroutine jobs are refused, and a job that "
            "computes holds up everything else.",
            "Use plain functions that wait, or a server with threads, such as gunicorn "
            "--worker-class gthread.",
            must_mend=False,
        )
        asynchronous = sorted(
            name for name, view in app.view_functions.items() if is_async_callable(view)
        )
        if asynchronous:
            yield finding(
                "async-views-in-greenlets",
                f"With {library} an async view fails while another one runs, in any Flask app. "
                f"These are asynchronous: {', '.join(asynchronous)}.",
                "Make them plain functions, or use a server with threads, such as gunicorn "
                "--worker-class gthread.",
            )
    names = [executor.name for executor in executors]
    for key in keys_of_others(app.config, names):
        yield finding(
            "setting-of-nobody",
            f"{key} belongs to an executor of that name, and the app has none.",
            "Remove it, or give the executor its name: Executor(app, name=...).",
            must_mend=False,
        )


def _of_stores(app: Flask, executors: list[Executor[Any]]) -> Iterator[Finding]:
    """What may go wrong with the records of jobs; once for executors that share a store."""
    clients = {
        client.store.url: (executor, client.store)
        for executor in reversed(executors)
        if (client := executor.state_of(app).client) is not None
    }
    for executor, store in clients.values():
        label = executor.label
        try:
            for each in store.hazards():
                yield Finding(each.code, each.must_mend, label, each.what, each.cure)
        except StoreError as error:
            effect = (
                "Jobs run, but other processes do not see them."
                if executor.state_of(app).engine is None
                else "submit() refuses jobs with an EngineUnreachableError."
            )
            yield Finding(
                "store-unusable",
                "locked" not in error.reason,  # by a process that may be done in a moment
                label,
                f"{_sentence(str(error)).rstrip('.')}. {effect}",
                "See that the address is right, that the database is up and whole, and that the "
                "server's user may write to it.",
            )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


_NAMES_FOR_KEYS = {"submit_stored", "futures"}


def _views_that_keep_futures(app: Flask) -> Iterator[str]:
    """Views whose own code uses the keys of an executor. What they call is not looked into."""
    for name, view in app.view_functions.items():
        function: Any = view
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType) and not _NAMES_FOR_KEYS.isdisjoint(_names_in(code)):
            yield name


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


# -- what concerns one ---------------------------------------------------------------------------


def _of_executor(
    app: Flask,
    executor: Executor[Any],
    library: str | None,
    seconds: float,
    load_app: bool,
) -> Iterator[Finding]:
    state = executor.state_of(app)
    name = executor.name

    def finding(code: str, what: str, cure: str, *, must_mend: bool = True) -> Finding:
        return Finding(code, must_mend, executor.label, what, cure)

    def key(field: str) -> str:
        return key_of(field, name=name)

    config = state.config
    try:
        late = ExecutorConfig.from_mapping(app.config, name=name)
    except ConfigError as error:
        yield finding("bad-setting", f"{error}.", "Set it right, and before init_app().")
    else:
        changes = config.changes(late)
        if changes:
            yield finding(
                "changed-after-init",
                f"Settings changed after init_app(): {changes}. Once calls have been made, they "
                "are not used.",
                "Set them before init_app(), or call it again.",
            )
    for unknown, near in unknown_keys(app.config, name=name).items():
        yield finding(
            "unknown-setting",
            f"{unknown} is not a setting, so it does nothing.",
            f"Did you mean {near}?",
        )
    if state.closed:
        yield finding(
            "shut-down",
            "It was shut down, and refuses calls.",
            "Call init_app() again, or do not shut it down before the end.",
        )
    if library is not None:
        refused = {"type": config.type != "thread", "async_views": config.async_views}
        for field in (field for field, is_refused in refused.items() if is_refused):
            yield finding(
                "not-with-greenlets",
                f"{key(field)} is refused by init_app() in a process that {library} has patched.",
                "Leave it unset, or use a server with threads, such as gunicorn --worker-class "
                "gthread.",
            )
    yield from _of_engine(state.engine, finding)
    if config.type == "process":
        yield from _of_processes(app, executor, key, finding, load_app)
    elif (
        library is None
        and state.engine is None
        and config.loop_factory is None
        and _could_have_uvloop()
    ):
        yield finding(
            "uvloop-missing",
            "Coroutine jobs run on asyncio's own event loop; uvloop is a faster one.",
            "pip install 'flask-executor-typed[uvloop]', or set "
            f"{key('loop_factory')} = 'asyncio:new_event_loop' to keep it so.",
            must_mend=False,
        )
    backend = state.opened
    if isinstance(backend, ThreadBackend):
        for thread in backend.blocked_loops(seconds):
            yield finding(
                "loop-blocked",
                f"The event loop in the thread {thread.name} did not answer within {seconds:g} s: "
                f"a job blocks it, at {_place_of(thread)}. All other coroutine jobs wait.",
                "Await in coroutine jobs, and give what blocks to asyncio.to_thread() or to a job "
                "that is a plain function.",
            )


def _of_engine(engine: object, finding: Callable[..., Finding]) -> Iterator[Finding]:
    """What an engine says of its configuration, if it has a method for that."""
    hazards: Any = getattr(engine, "hazards", None)
    if hazards is None:
        return
    try:
        for each in hazards():
            yield finding(each.code, each.what, each.cure, must_mend=each.must_mend)
    except ConfigError as error:
        yield finding("bad-setting", f"{error}.", "Set it right, and before the first job.")


def _of_processes(
    app: Flask,
    executor: Executor[Any],
    key: Callable[[str], str],
    finding: Callable[..., Finding],
    load_app: bool,
) -> Iterator[Finding]:
    state = executor.state_of(app)
    if state.config.start_method == "fork":
        yield finding(
            "fork-with-threads",
            f"{key('start_method')} = 'fork' copies a process that has threads, and with it any "
            "lock that one of them holds: the copy can hang.",
            f"Set {key('start_method')} = 'forkserver', or leave it unset.",
        )
    if state.config.app is None:
        yield finding(
            "no-app-in-workers",
            "Worker processes have no app: current_app, g and the app's extensions do not work in "
            "jobs.",
            f"Set {key('app')} = 'package.module:create_app', unless no job needs them.",
            must_mend=False,
        )
    elif load_app and not state.closed:
        from ..backends.process import ProcessBackend  # multiprocessing is slow to import

        try:
            backend = state.backend(app)
            if isinstance(backend, ProcessBackend):
                backend.try_to_start()
        except Exception as error:
            yield finding(
                "app-not-loadable",
                f"Worker processes do not start: {error}.",
                f"Set {key('app')} to what 'flask --app' finds in the server's folder.",
            )


def _could_have_uvloop() -> bool:
    possible = sys.platform != "win32" and sys.implementation.name == "cpython"
    return possible and find_spec("uvloop") is None


_NOT_OF_JOBS = (PACKAGE_FOLDER, str(Path(threading.__file__).parent / "asyncio"))


def _place_of(thread: threading.Thread) -> str:
    """The line of the job that runs in a thread: ``jobs.py:7 in nap``."""
    stack = stack_of(thread.ident)
    lines = [f"{line.filename}:{line.lineno} in {line.name}" for line in stack]
    ours = [i for i, line in enumerate(stack) if line.filename.startswith(_NOT_OF_JOBS)]
    if ours:
        lines = lines[ours[-1] + 1 :] or lines[-1:]
    return lines[0] if lines else "a line that is unknown"
