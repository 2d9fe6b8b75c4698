"""``vrfstore du``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from vrfstore.gc.usage import By, Row, Table
    from vrfstore.runner.explaining import Occupied

__all__ = ["command"]

_SHOWN = 20
_PLURALS = {"environment": "environments", "root": "roots", "package": "packages"}


@click.command(
    "du",
    epilog="""\b
Examples:
  vrfstore du                       by environment, the largest first
  vrfstore du --by package --all
  vrfstore du --by root --json | jq '.rows[0]'
""",
)
@click.option(
    "--by",
    type=click.Choice(sorted(_PLURALS)),
    default="environment",
    show_default=True,
    help="What is in a row.",
)
@click.option("--all", "everything", is_flag=True, help=f"Show all rows, not only the {_SHOWN} largest.")
@store_option
@json_option
@click.pass_obj
def command(default_store: str | None, by: By, store: str | None, *, everything: bool, as_json: bool) -> None:
    """Show who takes how much of the disk.

    What is exclusive comes back when the row goes alone, once the grace is over; what is shared is used by others too.
    Every inode counts once, by its blocks; the total is what the store occupies. External environments count for
    what they use of the store.
    """
    from vrfstore.runner import explaining  # noqa: PLC0415 - not for help
    from vrfstore.store.store import Store  # noqa: PLC0415

    opened = Store.open(store or default_store, to_look=True)
    found = explaining.usage_of(opened, by, explaining.policy(os.environ))
    for problem in found.problems:
        render.warn(problem)
    if as_json:
        render.print_json(_to_json(found, by))
        return
    for line in _lines(found, by, shown=len(found.table.rows) if everything else _SHOWN):
        render.plain(line)


def _to_json(found: Occupied, by: By) -> dict[str, object]:
    table = found.table
    return {
        "status": "done",
        "by": by,
        "rows": [
            {"name": row.name, "bytes_exclusive": row.exclusive, "bytes_shared": row.shared}
            for row in table.rows
        ],
        "bytes_shared": table.shared,
        "bytes_of_others": table.others,
        "bytes_of_the_store": dict(table.itself),
        "bytes_total": table.total,
        "problems": list(found.problems),
    }


def _lines(occupied: Occupied, by: By, *, shown: int) -> Iterator[str]:
    found = occupied.table
    listed, left = found.rows[:shown], found.rows[shown:]
    cells = [
        (render.size(row.exclusive), render.size(row.shared), render.visible(_shown(row, occupied)))
        for row in listed
    ]
    if left:
        exclusive = render.size(sum(row.exclusive for row in left))
        cells.append((exclusive, "", f"and {len(left)} more; see --all"))
    if cells:
        yield render.table(("EXCLUSIVE", "SHARED", by.upper()), cells)
        yield ""
    several = _PLURALS[by]
    sums = [
        (sum(row.exclusive for row in found.rows), f"exclusive, all {several} together"),
        (found.shared, "shared with composites" if by == "package" else "shared with others"),
        (found.others, _OTHERS[by]),
        (sum(found.itself.values()), f"the store itself: {_parts(found)}"),
    ]
    width = max(len(render.size(count)) for count, _ in [*sums, (found.total, "")])
    for count, what in sums:
        if count:
            yield f"{render.size(count):>{width}}  {what}"
    yield f"{render.size(found.total):>{width}}  total"


_OTHERS = {
    "environment": "entries that no environment refers to",
    "root": "environments and entries without a root",
    "package": "environments' own files",
}


def _parts(found: Table) -> str:
    return ", ".join(f"{name} {render.size(count)}" for name, count in found.itself.items() if count)


def _shown(row: Row, occupied: Occupied) -> str:
    return render.with_some(row.name.removeprefix("environments/"), occupied.packages.get(row.name, ()))
