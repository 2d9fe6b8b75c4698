"""``vrfstore roots``."""

from __future__ import annotations

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, store_option
from vrfstore.errors import StoreDamagedError
from vrfstore.gc import roots
from vrfstore.store.store import Store

__all__ = ["command"]


@click.group(
    "roots",
    epilog="""\b
Examples:
  vrfstore roots add nightly "$(dirname "$(dirname "$(vrfstore link requirements.vrf)")")"
  vrfstore roots list
  vrfstore roots remove nightly
""",
)
def command() -> None:
    """Pin environments and entries, so that gc keeps them until the pin is removed."""


@command.command("add")
@click.argument("name")
@click.argument("target")
@store_option
@click.pass_obj
def _add(default_store: str | None, name: str, target: str, store: str | None) -> None:
    """Pin TARGET, an environment or an entry, as NAME.

    TARGET is a path, a name as `vrfstore list` shows it, or the beginning of one.
    """
    root = roots.add(Store.open(store or default_store), name, target)
    render.plain(f"{root.name} pins {root.environment or root.entry}")


@command.command("list")
@store_option
@json_option
@click.pass_obj
def _list(default_store: str | None, store: str | None, *, as_json: bool) -> None:
    """Show all pins."""
    found = []
    for root in roots.read(Store.open(store or default_store, to_look=True)):
        if isinstance(root, StoreDamagedError):
            render.warn(str(root))
        else:
            found.append(root)
    if as_json:
        listed = [{"name": root.name, "environment": root.environment, "entry": root.entry} for root in found]
        render.print_json({"status": "done", "roots": listed})
        return
    for root in found:
        render.plain(f"{root.name}  {root.environment or root.entry}")


@command.command("remove")
@click.argument("name")
@store_option
@click.pass_obj
def _remove(default_store: str | None, name: str, store: str | None) -> None:
    """Remove the pin NAME; what it kept goes with the next gc."""
    roots.remove(Store.open(store or default_store), name)
