"""A group of commands whose modules are imported only to run them, or to show their own help."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group that lists its commands without loading them.

    Attributes:
        subcommands: What each command does, in one line, by name.
        modules: What is put before the name, with underscores, and ``_command`` to get the module that has it
            as ``command``.
    """

    def __init__(self, *args: Any, subcommands: Mapping[str, str], modules: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.subcommands = subcommands
        self.modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        del ctx
        return sorted(self.subcommands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        del ctx
        if cmd_name not in self.subcommands:
            return None
        module = importlib.import_module(f"{self.modules}{cmd_name.replace('-', '_')}_command")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without loading them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self.subcommands.items()))
