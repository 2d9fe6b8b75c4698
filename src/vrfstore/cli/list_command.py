"""``vrfstore list``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, store_option
from vrfstore.errors import StoreDamagedError
from vrfstore.store.store import Store, check_whole

__all__ = ["command"]


@click.command(
    "list",
    epilog="""\b
Examples:
  vrfstore list
  vrfstore list --json | jq '.environments[].python'
  vrfstore list --unused            what the next gc takes, and when the rest becomes due
""",
)
@click.option(
    "--unused",
    "only_unused",
    is_flag=True,
    help="Show what the next gc takes, by vrfstore.toml, and when the rest becomes due.",
)
@store_option
@json_option
@click.pass_obj
def command(default_store: str | None, store: str | None, *, only_unused: bool, as_json: bool) -> None:
    """Show entries and environments, with their sizes.

    The size of an environment is that of the wheels it links to; environments share them. A composite is hard links
    to the files of other entries, and takes next to nothing of its own.
    """
    opened = Store.open(store or default_store, to_look=True)
    if only_unused:
        from vrfstore.cli import unused_listing  # noqa: PLC0415 - a plain list does without gc

        unused_listing.show(opened, as_json=as_json)
        return
    check_whole(opened.layout)
    entries: list[dict[str, Any]] = []
    sizes: dict[str, int] = {}
    names: dict[str, str] = {}
    for entry in _entries(opened):
        entries.append(entry)
        sizes[str(entry["entry"])] = entry["bytes"]
        names[str(entry["entry"])] = entry["name"]
    environments = list(_environments(opened, sizes))
    if as_json:
        render.print_json(
            {"status": "done", "store": opened.root, "entries": entries, "environments": environments}
        )
        return
    render.plain(f"store {opened.root}\n")
    if environments:
        rows = (
            (
                str(environment["environment"]),
                str(environment["python_version"]),
                str(environment["wheels"]),
                render.size(environment["bytes"]),
                render.age(environment["unused_seconds"]),
            )
            for environment in environments
        )
        render.plain(render.table(("ENVIRONMENT", "PYTHON", "WHEELS", "SIZE", "USED"), rows) + "\n")
    if entries:
        listed = ((_shown(entry, names), _size(entry)) for entry in entries)
        render.plain(render.table(("ENTRY", "SIZE"), listed) + "\n")
    total = sum(entry["bytes"] for entry in entries if not entry["members"])
    counted = (
        render.count(len(environments), "environment", "environments"),
        render.count(len(entries), "entry", "entries"),
        f"{render.size(total)} unpacked",
    )
    render.plain(", ".join(counted))


def _entries(store: Store) -> Iterator[dict[str, Any]]:
    for directory in store.entries():
        try:
            plan = store.plan(directory)
        except (FileNotFoundError, StoreDamagedError) as error:
            render.warn(str(error))
            continue
        yield {
            "entry": directory,
            "name": plan.reference.name,
            "version": plan.reference.version,
            "digest": plan.reference.digest,
            "bytes": plan.unpacked,
            "members": list(plan.members),
        }


def _shown(entry: Mapping[str, Any], names: Mapping[str, str]) -> str:
    merged = ", ".join(names.get(member, member) for member in entry["members"])
    return f"{entry['entry']}  (composite of {merged})" if merged else str(entry["entry"])


def _size(entry: Mapping[str, Any]) -> str:
    return "shared" if entry["members"] else render.size(entry["bytes"])


def _environments(store: Store, sizes: dict[str, int]) -> Iterator[dict[str, Any]]:
    for directory in store.environments():
        try:
            record = store.record(directory)
            last_use = os.stat(store.layout.record(directory)).st_mtime
        except (FileNotFoundError, StoreDamagedError) as error:
            render.warn(str(error))
            continue
        root = store.layout.of("environments", directory)
        yield {
            "environment": directory,
            "path": root,
            "python": f"{root}/bin/python",
            "python_version": record.interpreter["version"],
            "wheels": len(record.wheels),
            "composites": [composite.directory for composite in record.composites],
            "bytes": sum(sizes.get(wheel.directory, 0) for wheel in record.wheels),
            "last_use": int(last_use),
            "unused_seconds": max(0, int(time.time() - last_use)),
        }
