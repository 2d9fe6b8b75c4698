"""``vrfstore verify``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, store_option
from vrfstore.cli.progress import watching
from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.store.store import Store

if TYPE_CHECKING:
    from vrfstore.runner.verify import VerifyReport

__all__ = ["command"]

_SHOWN = 50


@click.command(
    "verify",
    epilog="""\b
Examples:
  vrfstore verify                            read everything
  vrfstore verify --quick                    sizes, modes, links; no bytes
  vrfstore verify --max-seconds 600          as far as that goes, in random order
  vrfstore verify --repair                   mend what is damaged
  vrfstore verify --repair --from wheels/    from wheels on disk as well
""",
)
@click.argument("targets", nargs=-1, metavar="[ENTRY|ENVIRONMENT]...")
@click.option("--quick", is_flag=True, help="Look at presence, kinds, sizes, modes and links only.")
@click.option("--full", is_flag=True, help="Read every byte. [default]")
@click.option(
    "--sample", type=click.IntRange(1), metavar="N", help="Look at N entries only, chosen at random."
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Stop reading after so many seconds; entries come in random order then.",
)
@click.option("--repair", is_flag=True, help="Mend what is damaged, from where it came.")
@click.option(
    "--from",
    "sources",
    multiple=True,
    type=click.Path(exists=True),
    metavar="PATH",
    help="A wheel, a directory of wheels, or an archive of export, to repair from. May be given several times.",
)
@store_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    targets: tuple[str, ...],
    sources: tuple[str, ...],
    store: str | None,
    *,
    quick: bool,
    full: bool,
    repair: bool,
    as_json: bool,
    **amount: Any,
) -> None:
    """Find whatever is not as it was published, and mend it if asked to.

    A repair takes the wheel from --from, from where it was added, or from where a lock found it; checks its digest;
    and puts a sound entry in the place of the damaged one, which nobody ever finds missing. Without a source the
    entry stays, marked, and no new link uses it. Exit code 17 if anything is wrong and was not mended.
    """
    from vrfstore.runner.verify import verify  # noqa: PLC0415 - not for help

    if amount["max_seconds"] is not None and math.isnan(amount["max_seconds"]):
        raise UsageError("--max-seconds is no number")
    if quick and full:
        raise UsageError("--quick and --full exclude each other")
    if sources and not repair:
        raise UsageError("--from is of use with --repair only")
    opened = Store.open(store or context.obj, to_look=not repair)
    with watching(quiet=as_json) as watch:
        report = verify(
            opened,
            targets,
            full=not quick,
            sample=amount["sample"],
            max_seconds=amount["max_seconds"],
            mend=repair,
            sources=sources,
            watch=watch,
        )
    if as_json:
        render.print_json(_to_json(report))
    else:
        _print_text(report)
    if not report.sound:
        context.exit(StoreDamagedError.exit_code)


def _to_json(report: VerifyReport) -> dict[str, object]:
    return {
        "status": "done" if report.sound else "damaged",
        "entries": report.entries,
        "entries_unread": report.unread,
        "environments": report.environments,
        "bytes_read": report.read,
        "seconds": round(report.seconds, 3),
        "problems": [
            {
                "place": finding.place,
                "kind": finding.problem.kind,
                "path": finding.problem.path,
                "message": finding.problem.message,
                "mended": finding.mended,
                "hint": finding.hint,
            }
            for finding in report.findings
        ],
        "written_by_interpreters": {name: list(paths) for name, paths in sorted(report.written.items())},
    }


def _print_text(report: VerifyReport) -> None:
    hints = []
    for finding in report.findings[:_SHOWN]:
        state = "mended" if finding.mended else "damaged"
        render.plain(render.visible(f"{state}: {finding.place}: {finding.problem.message}"))
        if finding.hint and finding.hint not in hints:
            hints.append(finding.hint)
    if len(report.findings) > _SHOWN:
        render.plain(f"and {len(report.findings) - _SHOWN} more; see --json")
    for hint in hints:
        render.plain(f"  {hint}")
    rate = report.read / max(report.seconds, 0.001)
    looked = render.count(report.entries, "entry", "entries")
    environments = render.count(report.environments, "environment", "environments")
    amount = f", {render.size(report.read)} at {render.size(rate)}/s" if report.read else ""
    render.plain(f"looked at {looked} and {environments}{amount}")
    if report.unread:
        render.plain(f"not looked at, or not wholly: {render.count(report.unread, 'entry', 'entries')}")
    written = sum(map(len, report.written.values()))
    if written:
        render.plain(f"{render.count(written, 'pyc was', 'pycs were')} written by an interpreter: no damage")
    wrong = sum(not finding.mended for finding in report.findings)
    if wrong:
        render.plain(f"{render.count(wrong, 'problem', 'problems')} left")
    else:
        render.plain("all is well" if not report.findings else "all is well again")
