"""``vrfstore list --unused``: what the next gc takes, and when the rest becomes due."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vrfstore.cli import render
from vrfstore.cli.gc_report import counted
from vrfstore.gc.policy import age

if TYPE_CHECKING:
    from vrfstore.runner.explaining import Unused
    from vrfstore.store.store import Store

__all__ = ["show"]

_SHOWN = 20
"""How many of each kind are named; machines get all."""


def show(store: Store, *, as_json: bool) -> None:
    """Print it."""
    from vrfstore.runner import explaining  # noqa: PLC0415 - a plain list does not need it

    found = explaining.unused(store, explaining.policy(os.environ))
    for problem in found.report.problems:
        render.warn(problem)
    if as_json:
        render.print_json(_to_json(found))
        return
    for line in _lines(found):
        render.plain(render.visible(line))


def _to_json(found: Unused) -> dict[str, object]:
    report = found.report
    return {
        "status": "done",
        "next": {
            "environments": [
                {
                    "environment": name,
                    "last_use": None if name not in found.last_use else render.moment(found.last_use[name]),
                    "packages": list(found.packages.get(name, ())),
                }
                for name in report.environments
            ],
            "entries": list(report.entries),
            "leftovers": report.leftovers,
            "records": report.records,
            "bytes": report.freed,
        },
        "rest": [
            {
                "name": each.name,
                "due": None if each.due is None else render.moment(each.due),
                "why": list(each.why),
            }
            for each in found.rest
        ],
        "problems": list(report.problems),
    }


def _lines(found: Unused) -> Iterator[str]:
    report = found.report
    yield f"the next gc takes {counted(report)}, and frees {render.size(report.freed)}"
    yield from _capped(_going(found))
    later = [each for each in found.rest if each.due is not None]
    if later:
        yield "due later, unless it is used again"
        yield from _capped(
            [
                f"in {age(each.due - found.began)}: {_shown(each.name, found)}"
                for each in later
                if each.due is not None
            ]
        )
    kept = [each for each in found.rest if each.due is None]
    if kept:
        yield "kept until somebody lets it go"
        yield from _capped([f"{_shown(each.name, found)}: {'; '.join(each.why)}" for each in kept])


def _going(found: Unused) -> list[str]:
    lines = []
    for name in found.report.environments:
        shown = _shown(f"environments/{name}", found)
        used = found.last_use.get(name)
        lines.append(shown if used is None else f"{shown}: used {render.age(found.began - used)}")
    return lines + [f"entry {name}" for name in found.report.entries]


def _capped(lines: list[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"  and {len(lines) - _SHOWN} more; see --json"


def _shown(name: str, found: Unused) -> str:
    part, _, directory = name.partition("/")
    if part == "entries":
        return f"entry {directory}"
    return render.with_some(f"environment {directory}", found.packages.get(directory, ()))
