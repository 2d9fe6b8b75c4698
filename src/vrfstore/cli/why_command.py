"""``vrfstore why``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from vrfstore.gc.graph import Chain
    from vrfstore.runner.explaining import Answer, Explained

__all__ = ["command"]


@click.command(
    "why",
    epilog="""\b
Examples:
  vrfstore why numpy                       every entry of a package
  vrfstore why 52a0f3                      an entry, environment or lock, by the beginning of its name
  vrfstore why "$(vrfstore link requirements.vrf)"
  vrfstore why nightly                     what a root keeps
""",
)
@click.argument("target", metavar="ENTRY|ENVIRONMENT|NAME")
@store_option
@json_option
@click.pass_obj
def command(default_store: str | None, target: str, store: str | None, *, as_json: bool) -> None:
    """Show what keeps something from gc, and until when.

    Below what was asked about stand those that refer to it, and at the ends what keeps these: roots, leases,
    processes, external environments, a recent use. NAME may be that of a package, a root or a lock, or the path of an
    environment. What counts as recent vrfstore.toml says, as for a gc to which nothing is said.
    """
    from vrfstore.runner import explaining  # noqa: PLC0415 - not for help
    from vrfstore.store.store import Store  # noqa: PLC0415

    opened = Store.open(store or default_store, to_look=True)
    answer = explaining.why(opened, target, explaining.policy(os.environ))
    for problem in answer.problems:
        render.warn(problem)
    if as_json:
        render.print_json(_to_json(answer))
        return
    for line in _lines(answer):
        render.plain(render.visible(line))


def _to_json(answer: Answer) -> dict[str, object]:
    return {
        "status": "done",
        "targets": [
            {
                "name": found.name,
                "kept": bool(found.chains),
                "due": None if found.due is None else render.moment(found.due),
                "chains": [_chain_to_json(chain) for chain in found.chains],
                "going": list(found.going),
                "members": list(found.members),
                "composites": list(found.composites),
            }
            for found in answer.explained
        ],
        "keepers": [{"name": name, "keeps": list(names)} for name, names in answer.keepers.items()],
        "problems": list(answer.problems),
    }


def _chain_to_json(chain: Chain) -> dict[str, object]:
    keeper = chain.keeper
    return {
        "kind": keeper.kind,
        "name": keeper.name,
        "words": keeper.words,
        "until": None if keeper.until is None else render.moment(keeper.until),
        "path": list(chain.names),
    }


def _lines(answer: Answer) -> Iterator[str]:
    for name, kept in answer.keepers.items():
        yield f"{name} keeps"
        yield from _tree({_shown(each, answer.packages): {} for each in kept})
    for found in answer.explained:
        yield _title(found, answer)
        yield from _tree(_branches(found, answer.packages))


def _title(found: Explained, answer: Answer) -> str:
    from vrfstore.gc.policy import age  # noqa: PLC0415 - not for help

    title = _shown(found.name, answer.packages)
    if not found.chains:
        return f"{title}: nothing keeps it, the next gc takes it"
    if found.due is None or found.due <= answer.began:
        return title
    return f"{title}, due in {age(found.due - answer.began)}"


_Branches = dict[str, "_Branches"]


def _branches(found: Explained, packages: Mapping[str, Sequence[str]]) -> _Branches:
    """Return who keeps something, with below each who keeps that, in words."""
    branches: _Branches = {}
    for chain in found.chains:
        below = branches
        for name in reversed(chain.names[:-1]):
            below = below.setdefault(_shown(name, packages), {})
        below[chain.keeper.words] = {}
    for name in found.going:
        branches[f"{_shown(name, packages)}: nothing keeps it, the next gc takes it"] = {}
    if found.members:
        branches["made of, and not keeping"] = {f"entry {member}": {} for member in found.members}
    for composite in found.composites:
        branches[f"part of, and not kept by, the composite {composite}"] = {}
    return branches


def _tree(branches: _Branches, indent: str = "") -> Iterator[str]:
    for number, (text, below) in enumerate(branches.items(), 1):
        last = number == len(branches)
        yield f"{indent}{'└── ' if last else '├── '}{text}"
        yield from _tree(below, f"{indent}{'    ' if last else '│   '}")


def _shown(name: str, packages: Mapping[str, Sequence[str]]) -> str:
    part, _, directory = name.partition("/")
    kind = {"environments": "environment", "entries": "entry", "locks": "lock"}[part]
    return render.with_some(f"{kind} {directory}", packages.get(name, ()))
