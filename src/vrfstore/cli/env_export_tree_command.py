"""``vrfstore env export-tree``."""

from __future__ import annotations

import click

from vrfstore.cli import render
from vrfstore.cli.options import PATH, json_option, store_option
from vrfstore.cli.progress import watching
from vrfstore.store.store import Store

__all__ = ["command"]


@click.command(
    "export-tree",
    epilog="""\b
Examples:
  vrfstore env export-tree .venv /srv/image/venv
  vrfstore env export-tree da926acf venv --python /usr/bin/python3.12
  vrfstore env export-tree "$(vrfstore link --json requirements.vrf | jq -r .environment)" venv
""",
)
@click.argument("environment", type=PATH)
@click.argument("destination", type=PATH)
@click.option(
    "--python",
    metavar="PATH",
    help="Where the base interpreter will be. [default: where that of the environment is here]",
)
@store_option
@json_option
@click.pass_obj
def command(
    default_store: str | None,
    environment: str,
    destination: str,
    python: str | None,
    store: str | None,
    *,
    as_json: bool,
) -> None:
    """Write a copy of an environment that stands alone.

    ENVIRONMENT is a path, a name as `vrfstore list` shows it, or the beginning of one. DESTINATION is not there yet,
    or an empty directory. The copy has no link into the store and can be moved, to another machine too, where the
    same Python has to be; packages of the base are not copied. It appears whole or not at all: a kill leaves only
    .DESTINATION.<random>.part beside it.
    """
    from vrfstore.runner.export_tree import export_tree  # noqa: PLC0415 - not for help

    with watching() as watch:
        result = export_tree(
            environment,
            destination,
            store=Store.open(store or default_store, to_look=True),
            python=python,
            watch=watch,
        )
    for warning in result.warnings:
        render.warn(warning)
    if as_json:
        render.print_json(
            {
                "status": "done",
                "path": result.path,
                "python": result.python,
                "files": result.files,
                "bytes": result.size,
                "warnings": list(result.warnings),
                "timings_ms": {name: round(seconds * 1000, 3) for name, seconds in result.timings.items()},
            }
        )
    else:
        render.plain(result.python)
