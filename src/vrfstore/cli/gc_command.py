"""``vrfstore gc``."""

from __future__ import annotations

import os
from typing import Any

import click

from vrfstore.cli import gc_report, render
from vrfstore.cli.asking import TIME
from vrfstore.cli.failures import as_error
from vrfstore.cli.options import DURATION, PATH, ROOM, SIZE, json_option, store_option
from vrfstore.errors import VrfstoreError
from vrfstore.gc.sweep import Report
from vrfstore.runner import collecting, configuration
from vrfstore.store.store import Store

__all__ = ["command"]


@click.command(
    "gc",
    epilog="""\b
Examples:
  vrfstore gc                                remove what has not been used for 30 days
  vrfstore gc --dry-run                      show what that would be
  vrfstore gc --max-age 12h                  be stricter
  vrfstore gc --max-age 0                    remove everything that is not in use
  vrfstore gc --max-size 50G                 and whatever is beyond 50 GB, least recently used first
  vrfstore gc --min-free 10% --target-free 20%
  vrfstore gc --no-wait --max-seconds 300 --prometheus /var/lib/node_exporter/vrfstore.prom
""",
)
@click.option(
    "--max-age",
    type=DURATION,
    metavar="TIME",
    help="Remove environments that have not been used for so long: 90s, 12h, 30d, 4w; a bare number is days. "
    "[default: 30d]",
)
@click.option(
    "--max-size",
    type=SIZE,
    metavar="SIZE",
    help="Remove further environments, least recently used first, until the store takes no more than this.",
)
@click.option(
    "--min-free",
    type=ROOM,
    metavar="SIZE|%",
    help="Remove further environments where less than this is free on the file system.",
)
@click.option(
    "--target-free",
    type=ROOM,
    metavar="SIZE|%",
    help="With --min-free: until so much is free. [default: as much]",
)
@click.option(
    "--keep-last",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Of each project root, keep so many environments, the newest, of the 100 that are remembered. [default: 1]",
)
@click.option(
    "--grace",
    type=DURATION,
    metavar="TIME",
    help="Keep entries that are younger than this, and for --max-size and --min-free environments that were used "
    "since. [default: a day, but never more than --max-age]",
)
@click.option("--max-freed", type=SIZE, metavar="SIZE", help="Stop when so much has come back.")
@click.option(
    "--max-seconds", type=TIME, metavar="SECONDS", help="Stop after so long; the next gc goes on from there."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--no-wait",
    "wait",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Fail where another gc is at work.",
)
@click.option(
    "--prometheus",
    type=PATH,
    metavar="FILE",
    help="Write metrics there, for the text file collector of the node exporter.",
)
@store_option
@json_option
@click.pass_obj
def command(
    default_store: str | None,
    /,
    store: str | None,
    *,
    dry_run: bool,
    wait: bool,
    prometheus: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Remove what nothing refers to, and what is beyond the budget.

    An environment stays while a root pins it, a lease or a process uses it, or it was used within --max-age. An
    entry stays while an environment, a root or a lease refers to it. Leftovers of killed runs always go. What is in
    use stays whatever the budget is; where that alone is more, the exit code is 20.

    What is not given, vrfstore.toml says (docs/configuration.md).
    """
    # Where there is no store, the path is wrong, and one that is made in its place would hide that.
    opened = Store.open(store or default_store, to_look=dry_run, to_make=False)
    configured = configuration.read(os.environ).collecting
    wanted = collecting.policy(configured, **given)
    metrics = collecting.metrics_path(prometheus, configured, dry_run=dry_run)
    report = collecting.run(
        opened,
        wanted,
        dry_run=dry_run,
        wait=wait,
        on_wait=lambda: render.warn("another gc is at work; waiting for it"),
        host=configured.host,
    )
    unwritten = None if metrics is None else _write_metrics(metrics, opened, report)
    for problem in report.problems:
        render.warn(problem)
    over = collecting.over_budget(report)
    failure = over or unwritten
    if over is not None and unwritten is not None:
        render.warn(str(unwritten))
    holders = () if over is None else collecting.holders(opened, wanted, report)
    if as_json:
        document = gc_report.to_json(report, holders)
        render.print_json(document if failure is None else document | {"error": failure.fields()})
    else:
        render.plain(
            gc_report.to_text(report, max_age=wanted.max_age, holders=holders, packages=report.contents)
        )
    if failure is not None:
        if not as_json:
            render.error(failure, as_json=False)
        click.get_current_context().exit(failure.exit_code)


def _write_metrics(path: str, store: Store, report: Report) -> VrfstoreError | None:
    """Write the metrics; return why that failed, if it did: what was collected is told of all the same."""
    try:
        collecting.write_metrics(path, store, report)
    except VrfstoreError as error:
        return error
    except OSError as error:
        # Not with the name that the file has while it is written.
        return as_error(OSError(error.errno, f"the metrics cannot be written: {error.strerror}", path))
    return None
