"""``vrfstore gc``."""

from __future__ import annotations

import click

from vrfstore.cli import render
from vrfstore.cli.options import DURATION, json_option, store_option
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import Report, collect, preview
from vrfstore.store.store import Store

__all__ = ["command"]

_DAY = 86400.0


@click.command(
    "gc",
    epilog="""\b
Examples:
  vrfstore gc                       remove what has not been used for 30 days
  vrfstore gc --dry-run             show what that would be
  vrfstore gc --max-age 12h         be stricter
  vrfstore gc --max-age 0           remove everything that is not in use
""",
)
@click.option(
    "--max-age",
    type=DURATION,
    default="30d",
    show_default=True,
    metavar="TIME",
    help="Remove environments that have not been used for so long: 90s, 12h, 30d, 4w; a bare number is days.",
)
@click.option(
    "--grace",
    type=DURATION,
    default=None,
    metavar="TIME",
    help="Keep entries that are younger than this. [default: a day, but never more than --max-age]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@store_option
@json_option
@click.pass_obj
def command(
    default_store: str | None,
    max_age: float,
    grace: float | None,
    store: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove what nothing refers to.

    An environment stays while a root pins it, a lease or a process uses it, or it was used within --max-age. An
    entry stays while an environment, a root or a lease refers to it. Leftovers of killed runs always go.
    """
    opened = Store.open(store or default_store, to_look=dry_run)
    policy = Policy(max_age=max_age, grace=min(_DAY, max_age) if grace is None else grace)
    report = preview(opened, policy) if dry_run else collect(opened, policy)
    for problem in report.problems:
        render.warn(problem)
    if as_json:
        render.print_json(_to_json(report))
    else:
        render.plain(_to_text(report))


def _to_json(report: Report) -> dict[str, object]:
    return {
        "status": "done",
        "dry_run": report.dry_run,
        "removed": {
            "environments": list(report.environments),
            "entries": list(report.entries),
            "leftovers": report.leftovers,
            "records": report.records,
        },
        "bytes_freed": report.freed,
        "kept": {
            "environments": {name: list(why) for name, why in sorted(report.kept.items())},
            "entries": report.entries_kept,
        },
        "problems": list(report.problems),
    }


_SHOWN = 20


def _to_text(report: Report) -> str:
    removed, freed = ("would remove", "would free") if report.dry_run else ("removed", "freed")
    counted = (
        render.count(len(report.environments), "environment", "environments"),
        render.count(len(report.entries), "entry", "entries"),
        render.count(report.leftovers, "leftover", "leftovers"),
        render.count(report.records, "record", "records"),
    )
    kept = (
        render.count(len(report.kept), "environment", "environments"),
        render.count(report.entries_kept, "entry", "entries"),
    )
    lines = [
        f"{removed} {', '.join(counted)}",
        f"{freed} {render.size(report.freed)}",
        f"kept {', '.join(kept)}",
    ]
    for name, why in sorted(report.kept.items())[:_SHOWN]:
        lines.append(f"  {name}: {'; '.join(why)}")
    if len(report.kept) > _SHOWN:
        lines.append(f"  and {len(report.kept) - _SHOWN} more; see --json")
    return "\n".join(lines)
