"""``vrfstore env heal``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from vrfstore.cli import render
from vrfstore.cli.options import PATH, json_option, store_option
from vrfstore.cli.progress import watching
from vrfstore.errors import DriftError, UsageError, VrfstoreError
from vrfstore.store.store import Store

if TYPE_CHECKING:
    from vrfstore.model import Watcher
    from vrfstore.runner.check import Subject
    from vrfstore.runner.heal import Healed

__all__ = ["command"]


@click.command(
    "heal",
    epilog="""\b
Examples:
  vrfstore env heal .venv
  vrfstore env heal --all --no-network
  vrfstore env heal --adopt old-venv
""",
)
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=PATH)
@click.option(
    "--all", "everything", is_flag=True, help="All environments of the store, and all registered there."
)
@click.option("--no-network", "network", is_flag=True, flag_value=False, default=True, help="Fetch nothing.")
@click.option("--adopt", is_flag=True, help="Take over a venv, or a directory of packages; see env undo.")
@click.option("--python", metavar="PYTHON", help="With --adopt: the interpreter that it is to be for.")
@store_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    paths: tuple[str, ...],
    python: str | None,
    store: str | None,
    *,
    everything: bool,
    network: bool,
    adopt: bool,
    as_json: bool,
) -> None:
    """Mend what has drifted in environments, in place, and keep what was put there by hand.

    Links are made anew, and an interpreter that was upgraded is followed. Where another X.Y has taken its place,
    requirements are resolved again and linked beside; when that stands, what vrfstore had put there for the old one
    goes. Nothing is said where there is nothing to do. Exit code 23 if something is left; where one of several
    cannot be mended, the rest is, and the highest exit code is that of all.
    """
    if everything == bool(paths) or (adopt and everything):
        raise UsageError("give paths, or --all without --adopt")
    if python is not None and not adopt:
        raise UsageError("--python is of use with --adopt only")
    given = store or context.obj
    if adopt:
        _adopt(paths, given, python, as_json=as_json)
        return
    from vrfstore.runner.check import subjects  # noqa: PLC0415 - not for help

    with watching(quiet=as_json) as watch:
        outcomes = [
            _heal(subject, network=network, watch=watch, single=len(paths) == 1)
            for subject in subjects(paths, given, everything=everything, to_look=False)
        ]
    _show(outcomes, as_json=as_json)
    code = _exit_code(outcomes)
    if code:
        context.exit(code)


def _heal(subject: Subject, *, network: bool, watch: Watcher, single: bool) -> Healed | VrfstoreError:
    """Mend one environment. One that cannot be mended is in nobody else's way."""
    from vrfstore.runner.check import as_error  # noqa: PLC0415 - not for help
    from vrfstore.runner.heal import Healed, heal  # noqa: PLC0415

    if subject.error is not None:
        return subject.error
    if subject.found is None:
        problem = (subject.problem,) if subject.problem is not None and subject.problem.drifted else ()
        return Healed(place=subject.place, left=problem)
    try:
        return heal(subject.found, network=network, watch=watch)
    except (VrfstoreError, OSError) as error:
        if not os.path.lexists(subject.place):  # collected meanwhile
            return Healed(place=subject.place)
        if single:
            raise
        return as_error(error, subject.place)


def _exit_code(outcomes: list[Healed | VrfstoreError]) -> int:
    codes = [
        each.exit_code if isinstance(each, VrfstoreError) else DriftError.exit_code if each.left else 0
        for each in outcomes
    ]
    return max(codes, default=0)


def _show(outcomes: list[Healed | VrfstoreError], *, as_json: bool) -> None:
    if as_json:
        done = [each for each in outcomes if not isinstance(each, VrfstoreError)]
        failed = [each for each in outcomes if isinstance(each, VrfstoreError)]
        render.print_json(
            {
                "status": "drifted" if failed or any(each.left for each in done) else "healthy",
                "environments": [_to_json(each) for each in done],
                "errors": [
                    {"kind": each.kind, "path": each.path, "message": each.message} for each in failed
                ],
            }
        )
        return
    for each in outcomes:
        if isinstance(each, VrfstoreError):
            render.error(each, as_json=False)
            continue
        for state, drifts in (("mended", each.mended), ("left", each.left)):
            for drift in drifts:
                render.plain(render.visible(f"{each.place}: {state}: {drift.kind}: {drift.message}"))
        for note in each.notes:
            render.plain(render.visible(f"{each.place}: {note}"))


def _to_json(healed: Healed) -> dict[str, object]:
    return {
        "path": healed.place,
        "notes": list(healed.notes),
        **{
            name: [{"kind": each.kind, "path": each.path, "message": each.message} for each in drifts]
            for name, drifts in (("mended", healed.mended), ("left", healed.left))
        },
    }


def _adopt(paths: tuple[str, ...], given: str | None, python: str | None, *, as_json: bool) -> None:
    from vrfstore.runner.adopt import adopt  # noqa: PLC0415 - pip, and much else

    with watching(quiet=as_json) as watch:
        opened = Store.open(given)
        adopted = [adopt(opened, path, python=python, watch=watch) for path in paths]
    if as_json:
        render.print_json({"status": "adopted", "environments": [each.to_json() for each in adopted]})
        return
    for each in adopted:
        for said in each.done:
            render.plain(render.visible(f"{each.place}: {said}"))
        for warning in each.warnings:
            render.warn(f"{each.place}: {warning}")
