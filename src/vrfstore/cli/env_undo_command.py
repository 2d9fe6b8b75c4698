"""``vrfstore env undo``."""

from __future__ import annotations

import click

from vrfstore.cli import render
from vrfstore.cli.options import PATH, json_option

__all__ = ["command"]


@click.command(
    "undo",
    epilog="""\b
Examples:
  vrfstore env undo .venv
""",
)
@click.argument("path", type=PATH)
@json_option
def command(path: str, *, as_json: bool) -> None:
    """Take back what `vrfstore env heal --adopt` has changed in a directory.

    What was replaced or removed then is put back as it was, and what vrfstore has put there since is taken away.
    What was added or changed by hand since stays, and is named.
    """
    from vrfstore.runner.adopt import undo  # noqa: PLC0415 - not for help

    result = undo(path)
    for warning in result.warnings:
        render.warn(warning)
    if as_json:
        render.print_json({"status": "done", **result.to_json()})
        return
    for state, paths in (("restored", result.restored), ("removed", result.removed), ("stays", result.stays)):
        for each in paths:
            render.plain(render.visible(f"{result.place}: {state}: {each}"))
