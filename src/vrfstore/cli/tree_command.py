"""``vrfstore tree``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from vrfstore.cli import render
from vrfstore.cli.asking import input_options, policy_options
from vrfstore.cli.options import PATH, json_option, link_options, names, store_option
from vrfstore.cli.progress import watching
from vrfstore.errors import UsageError

if TYPE_CHECKING:
    from vrfstore.runner.tree import Branch, Package

__all__ = ["command"]


@click.command(
    "tree",
    epilog="""\b
Examples:
  vrfstore tree requirements.vrf
  vrfstore tree requirements.vrf --why numpy      who brought it
  vrfstore tree .venv --json
""",
)
@click.argument("given", metavar="FILE...|ENVIRONMENT", type=PATH, nargs=-1, required=True)
@click.option(
    "--why",
    multiple=True,
    metavar="NAME[,NAME]",
    help="Show the other way round what needs these packages.",
)
@link_options
@input_options
@policy_options
@store_option
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings on stderr.")
@click.pass_obj
def command(
    default_store: str | None,
    /,
    given: tuple[str, ...],
    store: str | None,
    *,
    why: tuple[str, ...],
    durable: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Show which package of an environment needs which.

    FILE is linked first, if that has not been done. What stands behind a name are the versions that whoever is above
    asks for; (base) is a package of the base interpreter, and what was shown before ends in an ellipsis.
    """
    from vrfstore.runner import configuration, inspection, tree  # noqa: PLC0415 - not for help
    from vrfstore.runner import given as files  # noqa: PLC0415
    from vrfstore.runner.link import link  # noqa: PLC0415
    from vrfstore.store.store import Store  # noqa: PLC0415

    chosen = names(why, "--why")
    place, asked = given[0], None
    if len(given) > 1 or not os.path.isdir(place):
        with watching(quiet=quiet) as watch:
            opened = Store.open(store or default_store, durable=durable)
            result = link(given, store=opened, watch=watch, **options)
        asked = tree.wanted(
            files.take(
                given,
                trusted=options["trusted"],
                extras=options["extras"],
                groups=options["groups"],
                service=configuration.read(os.environ).lock_name,
            )
        )
        if not quiet:
            for warning in result.warnings:
                render.warn(warning)
        place = result.environment
    found = tree.packages(inspection.find(place, store or default_store, to_look=False), asked)
    missing = [name for name in chosen if name not in found]
    if missing:
        raise UsageError(
            f"the environment does not see {', '.join(missing)}", kind="package-unknown", path=place
        )
    branches = tree.grow(found, chosen, inverted=bool(chosen), asked=asked)
    if as_json:
        render.print_json({"environment": place, "packages": _to_json(found)})
    else:
        for branch in branches:
            for line in _lines(branch):
                render.plain(render.visible(line))


def _to_json(found: Mapping[str, Package]) -> list[dict[str, object]]:
    return [
        {
            "name": package.name,
            "version": package.version,
            "origin": package.origin,
            "needs": [
                {"name": need.name, "specifier": need.specifier, "extras": list(need.extras)}
                for need in package.needs
            ],
        }
        for _, package in sorted(found.items())
    ]


def _lines(branch: Branch, first: str = "", rest: str = "") -> Iterator[str]:
    yield f"{first}{_text(branch)}"
    for number, each in enumerate(branch.branches, 1):
        last = number == len(branch.branches)
        yield from _lines(each, f"{rest}{'└── ' if last else '├── '}", f"{rest}{'    ' if last else '│   '}")


def _text(branch: Branch) -> str:
    package = branch.package
    extras = f"[{','.join(branch.extras)}]" if branch.extras else ""
    words: Sequence[str] = (
        f"{package.name}{extras}",
        package.version,
        f"({branch.asked})" if branch.asked else "",
        {"environment": "", "base": "(base)", "missing": "(missing)"}[package.origin],
        "…" if branch.shown else "",
    )
    return " ".join(filter(None, words))
