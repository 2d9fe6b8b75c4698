"""``vrfstore add``."""

from __future__ import annotations

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, store_option
from vrfstore.store.store import Store

__all__ = ["command"]


@click.command(
    "add",
    epilog="""\b
Example:
  pip download --no-deps --dest wheels six && vrfstore add wheels/*.whl
""",
)
@click.argument("wheels", nargs=-1, required=True, metavar="WHEEL...")
@store_option
@json_option
@click.pass_obj
def command(default_store: str | None, wheels: tuple[str, ...], store: str | None, *, as_json: bool) -> None:
    """Unpack wheel files into the store, each once.

    Prints the name of each entry. A wheel that is refused ends the command; those before it stay.
    """
    opened = Store.open(store or default_store)
    entries: list[dict[str, object]] = []
    for wheel in wheels:
        added = opened.add(wheel)
        reference = added.plan.reference
        entries.append(
            {
                "name": reference.name,
                "version": reference.version,
                "digest": reference.digest,
                "entry": reference.directory,
                "new": added.new,
            }
        )
        if not as_json:
            render.plain(reference.directory + ("" if added.new else "  (was there)"))
    if as_json:
        render.print_json({"status": "done", "entries": entries})
