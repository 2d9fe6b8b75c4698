"""``vrfstore env forget``."""

from __future__ import annotations

import click

from vrfstore.cli import render
from vrfstore.cli.options import PATH, json_option, store_option
from vrfstore.store.store import Store

__all__ = ["command"]


@click.command(
    "forget",
    epilog="""\b
Examples:
  vrfstore env forget /srv/old/.venv
  vrfstore env forget 0123456789abcdef
""",
)
@click.argument("target", metavar="PATH|NAME", type=PATH)
@store_option
@json_option
@click.pass_context
def command(context: click.Context, /, target: str, store: str | None, *, as_json: bool) -> None:
    """Let the store know no more of an environment of one's own that is gone.

    Until then, gc keeps what it was linked to: its disk may only not be mounted. PATH is where it was, NAME the name
    of its registration. One that is still there is refused.
    """
    from vrfstore.runner.check import forget  # noqa: PLC0415 - not for help

    forgotten = forget(Store.open(store or context.obj), target)
    if as_json:
        render.print_json({"status": "forgotten", "environments": [each.to_json() for each in forgotten]})
        return
    for each in forgotten:
        render.plain(render.visible(f"{each.path or each.name}: forgotten"))
