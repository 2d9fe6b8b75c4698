"""``vrfstore doctor``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, store_option
from vrfstore.errors import StoreError
from vrfstore.runner.doctor import examine, store_root
from vrfstore.runner.doctor.facts import Finding, State
from vrfstore.values import asdict

__all__ = ["command"]

_RESET = "\x1b[0m"

_MARKS: Mapping[State, tuple[str, str]] = {
    "good": ("ok", "\x1b[32m"),
    "note": ("note", "\x1b[33m"),
    "bad": ("BAD", "\x1b[31m"),
}

_WIDTH = 4


@click.command(
    "doctor",
    epilog="""\b
Examples:
  vrfstore doctor
  vrfstore doctor --store /srv/wheels       before a store is made there
  vrfstore doctor --json | jq -r '.findings[] | select(.state == "bad").advice'
""",
)
@store_option
@json_option
@click.pass_context
def command(context: click.Context, store: str | None, *, as_json: bool) -> None:
    """Look at the store, its file system and the tools around it.

    Says of each thing whether it is good, and what to do where it is not. Makes no store and changes nothing; what the
    file system can do is tried out in files that are removed again. Exits with 0 if nothing is bad, else with 21.
    """
    root = store or context.obj
    findings = examine(root, os.environ)
    bad = sum(finding.state == "bad" for finding in findings)
    if as_json:
        render.print_json(
            {
                "status": "done",
                "store": store_root(root, os.environ),
                "bad": bad,
                "findings": [asdict(finding) for finding in findings],
            }
        )
    else:
        render.plain("\n".join(_line(finding) for finding in findings))
    if bad:
        context.exit(StoreError.exit_code)


def _line(finding: Finding) -> str:
    mark, colour = _MARKS[finding.state]
    padded = mark.ljust(_WIDTH)
    shown = f"{colour}{padded}{_RESET}" if _is_coloured() else padded
    line = f"{shown}  {render.visible(f'{finding.subject}: {finding.message}')}"
    return line if finding.advice is None else f"{line}\n{' ' * (_WIDTH + 2)}{render.visible(finding.advice)}"


def _is_coloured() -> bool:
    stream = sys.stdout
    # https://no-color.org: any value that is not empty.
    dumb = os.environ.get("TERM") == "dumb"
    return stream is not None and stream.isatty() and not dumb and not os.environ.get("NO_COLOR")
