"""``vrfstore env check``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vrfstore.cli import render
from vrfstore.cli.options import PATH, json_option, store_option
from vrfstore.errors import UsageError

if TYPE_CHECKING:
    from vrfstore.runner.check import Checked

__all__ = ["command"]


@click.command(
    "check",
    epilog="""\b
Examples:
  vrfstore env check .venv
  vrfstore env check --all --json
""",
)
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=PATH)
@click.option(
    "--all", "everything", is_flag=True, help="All environments of the store, and all registered there."
)
@click.option(
    "--pip-check/--no-pip-check",
    "requirements",
    default=True,
    help="Also what distributions require and do not have. [default: yes]",
)
@store_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    paths: tuple[str, ...],
    store: str | None,
    *,
    everything: bool,
    requirements: bool,
    as_json: bool,
) -> None:
    """Say what has drifted in environments: links, files, interpreters, packages.

    PATH is an environment of one's own, or one of the store by path or name. What was added, changed or removed by
    hand is shown, and is no drift. One that was moved is registered where it is now; nothing else is changed, and
    nothing is started but an interpreter of which nothing is known yet. Exit code 23 if anything has drifted; where
    one of several cannot be looked at, the rest is, and the highest exit code is that of all.
    """
    from vrfstore.runner.check import check, subjects  # noqa: PLC0415 - not for help

    if everything == bool(paths):
        raise UsageError("give either paths or --all")
    given = store or context.obj
    found = [
        check(subject, requirements=requirements, alone=len(paths) == 1)
        for subject in subjects(paths, given, everything=everything, to_look=True)
    ]
    drifted = any(each.drifted for each in found)
    if as_json:
        render.print_json(
            {
                "status": "drifted" if drifted else "healthy",
                "environments": [_to_json(each) for each in found],
            }
        )
    else:
        _print_text(found)
    code = max((each.exit_code for each in found), default=0)
    if code:
        context.exit(code)


def _to_json(checked: Checked) -> dict[str, object]:
    return {
        "path": checked.place,
        "managed": checked.managed,
        "python": checked.python,
        "registered": checked.registered,
        "problems": [
            {"kind": each.kind, "path": each.path, "message": each.message, "drift": each.drifted}
            for each in checked.drifts
        ],
    }


def _print_text(found: list[Checked]) -> None:
    for checked in found:
        for each in checked.drifts:
            done = "; registered anew" if each.kind == "moved" and checked.registered else ""
            render.plain(render.visible(f"{checked.place}: {each.kind}: {each.message}{done}"))
    wrong = sum(each.drifted for checked in found for each in checked.drifts)
    if wrong:
        render.plain(f"{render.count(wrong, 'problem', 'problems')}; mend with: vrfstore env heal")
