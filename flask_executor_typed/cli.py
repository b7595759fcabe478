"""The ``flask executor`` group of commands, which are loaded when one of them is asked for.

Flask has imported click already, so the group costs an app nothing. It is added by ``init_app``:
apps of Flask 2.0, and of ``app.test_cli_runner()``, load no entry points, and an entry point would
win over a command of the app's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click
from flask import Flask

__all__ = ("add_commands", "load_commands_with")

Loader = Callable[[], Mapping[str, click.Command]]


class _Commands(click.Group):
    load: Loader

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.load())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.load().get(cmd_name)


_GROUP = _Commands("executor", help="Inspect the executors of this app and their deployment.")


def load_commands_with(load: Loader) -> None:
    """Set the function that imports the commands.

    The commands use executors, and an executor adds this group to its app: a loader that is given
    from above keeps the imports free of a circle.
    """
    _GROUP.load = load


def add_commands(app: Flask) -> None:
    """Add the group to an app, unless the app has a command of that name."""
    app.cli.commands.setdefault("executor", _GROUP)
