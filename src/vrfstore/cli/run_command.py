"""``vrfstore run``."""

from __future__ import annotations

from typing import Any

import click

from vrfstore.cli import render
from vrfstore.cli.options import link_options, store_option
from vrfstore.cli.progress import watching
from vrfstore.errors import UsageError
from vrfstore.runner.link import link
from vrfstore.runner.run import replace_process
from vrfstore.store.store import Store

__all__ = ["command"]


@click.command(
    "run",
    context_settings={"ignore_unknown_options": False},
    epilog="""\b
Examples:
  vrfstore run requirements.vrf -- python report.py
  vrfstore run requirements.vrf -- jupyter nbconvert --execute notebook.ipynb
""",
)
@click.argument("requirements", metavar="FILE")
@click.argument("words", nargs=-1, metavar="-- COMMAND [ARGUMENT]...", type=click.UNPROCESSED)
@link_options
@store_option
@click.pass_obj
def command(
    default_store: str | None,
    /,
    requirements: str,
    words: tuple[str, ...],
    store: str | None,
    *,
    durable: bool,
    **options: Any,
) -> None:
    """Run a command in the environment of a requirements file.

    The environment comes first on PATH; VIRTUAL_ENV and QUARTO_PYTHON name it. It stays as long as the command
    runs, whatever gc does. The exit code is the command's own.
    """
    if not words:
        raise UsageError("no command is given", hint="write it after --, as in: run FILE -- python report.py")
    with watching() as watch:
        opened = Store.open(store or default_store, durable=durable)
        result = link(requirements, store=opened, lease=True, watch=watch, **options)
    for warning in result.warnings:
        render.warn(warning)
    replace_process(result, words)
