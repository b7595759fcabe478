"""``flask executor list``, ``show``, ``cancel`` and ``purge``: the jobs of the server's processes.

They need ``EXECUTOR_STORE``: a command runs in a process of its own, which has no jobs.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NoReturn, TypeVar, get_args

import click
from flask import current_app
from flask.cli import with_appcontext

from ..errors import StoreError
from ..executor import executors_of, itself
from ..stores import JobRecord, JobStatus
from ..stores.client import StoreClient
from ..stores.protocol import Query
from ..stores.records import record_of
from ..web.schema import document_of

__all__ = ("COMMANDS",)

F = TypeVar("F", bound=Callable[..., Any])

_SHORTEST_PREFIX = 6  # characters of an id
_PAGE = 1000  # records that are read at once to find one by the first characters of its id
_FAILED, _WRONG, _UNKNOWN = 1, 2, 3  # exit codes; the second is click's own for bad arguments


def _end(message: str, code: int) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    raise click.exceptions.Exit(code)


# -- options ---------------------------------------------------------------------------------------


def _seconds(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (value >= 0 and math.isfinite(value)):
        raise click.BadParameter(f"{value} is not a number of seconds, 0 or more.", param=option)
    return value


def _label(_: click.Context, option: click.Parameter, value: str | None) -> tuple[str, str] | None:
    if value is None:
        return None
    name, equals, text = value.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{value!r} is not NAME=VALUE.", param=option)
    return name, text


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _of_executor(help_text: str) -> Callable[[F], F]:
    option: Callable[[F], F] = click.option("--executor", metavar="NAME", help=help_text)
    return option


# -- stores ----------------------------------------------------------------------------------------


def _clients(name: str | None) -> list[StoreClient]:
    """Return a client of each store that the app's executors use, or the one of that name."""
    app = itself(current_app)
    executors = executors_of(app)
    if name is not None and name not in (names := [executor.name for executor in executors]):
        raise click.UsageError(f"No executor is called {name!r}; the app's names: {names}.")
    clients = [
        executor.state_of(app).client
        for executor in executors
        if name is None or executor.name == name
    ]
    found = {(each.store.url, each.settings.space): each for each in clients if each is not None}
    if not found:
        raise click.UsageError(
            "This command runs in a process of its own. Without a store it sees no jobs of the "
            "server's processes. Set EXECUTOR_STORE = 'sqlite:///jobs.db', or the address of a "
            "Redis, in the app's configuration."
        )
    return list(found.values())


@contextlib.contextmanager
def _store_errors() -> Generator[None, None, None]:
    try:
        yield
    except StoreError as error:
        _end(f"{error}.", _FAILED)


def _find(job_id: str, clients: Iterable[StoreClient]) -> tuple[StoreClient, JobRecord]:
    """Return the record with an id, or with one that begins so, and the client that has it."""
    for client in clients:
        if (row := client.read(job_id)) is not None:
            return client, record_of(row)
    found = [(client, each) for client in clients for each in _beginning_with(job_id, client)]
    if not found:
        hint = "" if len(job_id) >= _SHORTEST_PREFIX else f" {_SHORTEST_PREFIX} characters at least"
        _end(f"No job's id is {job_id!r}, or begins so.{hint}", _UNKNOWN)
    if len(found) > 1:
        ids = ", ".join(record.id for _, record in found[:5])
        _end(f"The ids of {len(found)} jobs begin with {job_id!r}: {ids}.", _WRONG)
    return found[0]


def _beginning_with(prefix: str, client: StoreClient) -> Iterator[JobRecord]:
    if len(prefix) < _SHORTEST_PREFIX:
        return
    page = client.page(Query(limit=_PAGE))
    while page:
        yield from (record for record in page if record.id.startswith(prefix))
        page = client.page(Query(limit=_PAGE, before=page[-1].id))


# -- what is printed -------------------------------------------------------------------------------


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def _document(record: JobRecord) -> dict[str, Any]:
    """Return what the routes of the web say of a job, and what is for operators only."""
    document: dict[str, Any] = {**document_of(record, {})}
    del document["links"]
    error = record.error
    return document | {
        "function": record.name,
        "key": None if record.key is None else repr(record.key),
        "user": record.user,
        "labels": dict(record.labels),
        "server": record.server,
        "attempts": record.attempts,
        "result_state": record.result_state,
        "exception": None if error is None else {"type": error.type, "message": error.message},
        "traceback": error.traceback if error else None,
    }


def _plain(text: str) -> str:
    """Return text without characters that a terminal would obey."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _progress(record: JobRecord) -> str:
    if record.progress is None:
        return ""
    done, total, message = record.progress.done, record.progress.total, record.progress.message
    counted = f"{done:g}" if total is None else f"{done:g}/{total:g}"
    return _plain(f"{counted} {message}".strip())


def _print_table(records: Iterable[JobRecord]) -> None:
    for record in records:
        time = f"{record.submitted_at:%Y-%m-%d %H:%M:%S}Z"
        rest = (_plain(record.name), _plain(record.user or ""), _progress(record))
        click.echo("  ".join((record.id, f"{record.status:9}", time, *filter(None, rest))))


def _facts(record: JobRecord) -> Iterator[tuple[str, object]]:
    yield "function", record.name
    yield "status", record.status
    if record.cancel_requested and not record.done:
        yield "cancelling", "it was asked to end"
    yield "progress", _progress(record)
    yield "key", None if record.key is None else repr(record.key)
    yield "user", record.user
    yield "labels", ", ".join(f"{name}={text}" for name, text in record.labels.items())
    yield "server", record.server
    yield "attempts", record.attempts if record.attempts > 1 else None
    yield "submitted", record.submitted_at
    yield "started", record.started_at
    yield "finished", record.finished_at
    yield "result", record.result_state if record.status == "succeeded" else None
    if record.error is not None:
        yield "error", f"{record.error.type}: {record.error.message}"


# -- the commands ----------------------------------------------------------------------------------


@click.command("list")
@click.option("--status", type=click.Choice(get_args(JobStatus)), help="Only jobs of this status.")
@click.option("--name", "function", metavar="FUNCTION", help="Only jobs of this function.")
@click.option("--user", help="Only jobs of this user.")
@click.option("--label", metavar="NAME=VALUE", callback=_label, help="Only jobs with this label.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Jobs at most."
)
@_of_executor("Only jobs of this executor; '' for the one without a name.")
@_as_json
@with_appcontext
def _list(
    executor: str | None, function: str | None, limit: int, *, as_json: bool, **which: Any
) -> None:
    """List the jobs of all server processes, newest first."""
    query = Query(name=function, executor=executor, limit=limit, **which)
    with _store_errors():
        records = [each for client in _clients(executor) for each in client.page(query)]
    records.sort(key=lambda record: record.submitted_at, reverse=True)  # they come from each store
    if as_json:
        _print_json([_document(record) for record in records[:limit]])
    else:
        _print_table(records[:limit])
        if not records:
            click.echo("No jobs.", err=True)


_IDS_BEGIN_WITH_DASHES = {"ignore_unknown_options": True}
"""Of 64 ids, one begins with a dash, and is an argument all the same."""


@click.command("show", context_settings=_IDS_BEGIN_WITH_DASHES)
@click.argument("job_id", metavar="ID")
@click.option("--log", "with_log", is_flag=True, help="Also the last lines that it has logged.")
@_of_executor("Look in the store of this executor only.")
@_as_json
@with_appcontext
def _show(job_id: str, executor: str | None, *, with_log: bool, as_json: bool) -> None:
    """Show one job, with its traceback if it failed.

    ID may be the first characters, 6 or more. The exit code is 3 if there is no such job.
    """
    with _store_errors():
        _, record = _find(job_id, _clients(executor))
    if as_json:
        _print_json(_document(record) | ({"log": record.log_tail} if with_log else {}))
        return
    click.echo(record.id)
    for name, value in _facts(record):
        if value is not None and value != "":
            click.echo(f"  {name}: {_plain(str(value))}")
    if record.error is not None and record.error.traceback:
        _print_lines("traceback", record.error.traceback)
    if with_log and record.log_tail:
        _print_lines("log", record.log_tail)
    elif with_log:
        click.echo("  log: none is kept; see EXECUTOR_STORE_LOGS")


def _print_lines(name: str, text: str) -> None:
    click.echo(f"  {name}:")
    for line in text.splitlines():
        click.echo(f"    {_plain(line)}")


_ANSWERS = {
    "cancelled": "It is cancelled.",
    "asked": "It was asked to end, and has not ended yet.",
    "cannot": "It was over before.",
}


@click.command("cancel", context_settings=_IDS_BEGIN_WITH_DASHES)
@click.argument("job_id", metavar="ID")
@_of_executor("Look in the store of this executor only.")
@_as_json
@with_appcontext
def _cancel(job_id: str, executor: str | None, *, as_json: bool) -> None:
    """Cancel a job, or ask it to end.

    ID may be the first characters, 6 or more. The exit code is 1 if the job was over before, and 3
    if there is no such job.
    """
    with _store_errors():
        client, record = _find(job_id, _clients(executor))
        answer = client.cancel(record.id, timeout=2.0)
    if answer is None:
        _end(f"The record of {record.id} is gone.", _UNKNOWN)
    if as_json:
        _print_json({"id": record.id, "answer": answer})
    else:
        click.echo(f"{record.id}  {_plain(record.name)}: {_ANSWERS[answer]}")
    if answer == "cannot":
        click.get_current_context().exit(_FAILED)


@click.command("purge")
@click.option(
    "--older-than",
    type=float,
    metavar="SECONDS",
    callback=_seconds,
    help="Only records of jobs that finished so long ago.",
)
@click.option("--all", "everything", is_flag=True, help="The records of all finished jobs.")
@_of_executor("Only the store of this executor, and so of all that share it.")
@_as_json
@with_appcontext
def _purge(
    older_than: float | None, executor: str | None, *, everything: bool, as_json: bool
) -> None:
    """Remove the records of finished jobs. Those of unfinished jobs always stay."""
    if (older_than is None) is not everything:
        raise click.UsageError("Say either --older-than SECONDS or --all.")
    with _store_errors():
        removed = [(each, each.purge(older_than or 0.0)) for each in _clients(executor)]
    if as_json:
        _print_json({"removed": sum(count for _, count in removed)})
    else:
        for client, count in removed:  # two spaces may be in one file
            click.echo(
                f"{count} records of {client.settings.space} removed from {client.store.url}"
            )


COMMANDS: dict[str, click.Command] = {
    "list": _list,
    "show": _show,
    "cancel": _cancel,
    "purge": _purge,
}
