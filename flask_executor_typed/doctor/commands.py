"""``flask executor doctor`` and ``flask executor status``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext

from . import jobs
from .checks import Finding, examine, status
from .server import Deployment, look

__all__ = ("COMMANDS",)


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


@click.command("doctor")
@click.option(
    "--server",
    metavar="COMMAND",
    help="The command line that starts your server: 'gunicorn --workers 4 shop:app'.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_appcontext
def _doctor(server: str | None, as_json: bool) -> None:
    """Find what will go wrong in this deployment.

    The exit code is 1 if there are errors, and 0 if there are only warnings.
    """
    deployment = look(server)
    findings = examine(current_app, deployment, load_app=True)
    if as_json:
        _print_json(
            {
                "findings": [asdict(finding) for finding in findings],
                "server": asdict(deployment),
            }
        )
    else:
        for finding in findings:
            _print_finding(finding)
        if not findings:
            click.echo("No problems found.")
        click.echo()
        for line in _extent(deployment):
            _print_wrapped(line)
    if any(finding.must_mend for finding in findings):
        click.get_current_context().exit(1)


def _print_finding(finding: Finding) -> None:
    kind = "error:  " if finding.must_mend else "warning:"
    whose = f"{finding.executor}: " if finding.executor else ""
    _print_wrapped(f"{whose}{finding.what}", f"{kind} ", " " * 9)
    _print_wrapped(f"{finding.cure} [{finding.code}]", " " * 9, " " * 9)


def _print_wrapped(text: str, first_indent: str = "", indent: str = "") -> None:
    click.echo(click.wrap_text(text, 100, first_indent, indent))


def _extent(deployment: Deployment) -> list[str]:
    """Return what the findings are based on, and what they leave out, one line each."""
    here = "This command runs in its own process. It sees the app and its settings, but not "
    lines = [f"{here}the processes that serve it."]
    if deployment.seen:
        server = deployment.server or "unknown server"
        processes = deployment.processes or "unknown"
        lines.append(f"Server: {server}, processes: {processes}, from {_listed(deployment.seen)}.")
    else:
        lines.append(
            "The server is unknown. Pass its command line with --server, or set WEB_CONCURRENCY to "
            "its number of processes."
        )
    if deployment.unseen:
        lines.append(f"Not understood: {'; '.join(deployment.unseen)}.")
    lines.append(
        "Blocked event loops, and settings changed later, can only be found in the server's own "
        "process: call flask_executor_typed.doctor.check(app) there."
    )
    return lines


def _listed(items: tuple[str, ...]) -> str:
    return " and ".join(items)


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_appcontext
def _status(as_json: bool) -> None:
    """Show the app's executors, their settings and their statistics."""
    executors = status(current_app)
    if as_json:
        executors_by_name = [asdict(executor) for executor in executors]
        _print_json({"process": os.getpid(), "executors": executors_by_name})
        return
    for executor in executors:
        click.echo(executor.name)
        for key, value in executor.settings.items():
            click.echo(f"  {key} = {value!r}")
        for figure, value in executor.figures.items():
            click.echo(f"  {figure.replace('_', ' ')}: {value}")
    click.echo()
    _print_wrapped(
        f"These are the statistics of this process ({os.getpid()}), which was started for this "
        "command and has run no jobs. For those of the server, call "
        "flask_executor_typed.doctor.status(app) in its processes."
    )


COMMANDS: dict[str, click.Command] = {"doctor": _doctor, "status": _status, **jobs.COMMANDS}
