"""``flask executor``: the group of commands, which are imported when one of them is wanted.

Flask has imported click already, so that to have the group costs an app nothing.
"""

from __future__ import annotations

from importlib import import_module

import click
from flask import Flask

__all__ = ("add_commands",)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._commands().get(cmd_name)

    def _commands(self) -> dict[str, click.Command]:
        commands: dict[str, click.Command] = import_module(".cli", __package__).COMMANDS
        return commands


_GROUP = _Commands("executor", help="What the executors of this app are, and what may go wrong.")


def add_commands(app: Flask) -> None:
    """Give the app the commands, unless it has others of that name."""
    app.cli.commands.setdefault("executor", _GROUP)
