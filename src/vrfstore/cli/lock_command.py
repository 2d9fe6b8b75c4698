"""``vrfstore lock``."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from vrfstore.cli import render
from vrfstore.cli.asking import input_options, policy_options
from vrfstore.cli.ending import limited
from vrfstore.cli.options import PATH, json_option, python_option, store_option, target_option
from vrfstore.cli.progress import watching
from vrfstore.model import LinkOptions
from vrfstore.runner.lock import lock
from vrfstore.store.store import Store

__all__ = ["command"]

_STDOUT = frozenset({None, "-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
"""Where stdout is meant. A file that it leads to is somebody's who has it open, and not for us to replace."""


@click.command(
    "lock",
    epilog="""\b
Examples:
  vrfstore lock requirements.vrf -o pylock.toml
  vrfstore lock requirements.vrf -o pylock.toml --upgrade
  vrfstore lock pyproject.toml --group test --python 3.12
  vrfstore link pylock.toml
""",
)
@click.argument("requirements", metavar="FILE...", type=PATH, nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="FILE",
    help="Where the lock goes, such as pylock.toml. Versions that it names already are kept where they still fit. "
    "[default: stdout]",
)
@click.option(
    "--isolated",
    is_flag=True,
    help="Lock what the base interpreter has as well, as for an isolated environment.",
)
@python_option
@target_option
@input_options
@policy_options
@store_option
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings on stderr.")
@click.pass_obj
def command(  # noqa: PLR0913 - one for each option
    default_store: str | None,
    /,
    requirements: tuple[str, ...],
    store: str | None,
    *,
    output: str | None,
    isolated: bool,
    python: str | None,
    target: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Find the wheels of what a file asks for, and write them down as a pylock.toml (PEP 751).

    Nothing is fetched or linked. The lock is for one interpreter, and leaves out what that has already, unless
    --isolated is given. pip and uv read it too.
    """
    source = click.get_current_context().get_parameter_source("python")
    if target is not None and source is ParameterSource.ENVIRONMENT:
        python = None  # what is usual gives way to what is asked for here
    with watching(quiet=quiet) as watch, limited(options["policy"]):
        result = lock(
            requirements,
            output=None if output in _STDOUT else output,
            python=python,
            target=target,
            store=Store.open(store or default_store),
            options=LinkOptions(isolated=isolated),
            watch=watch,
            **options,
        )
    if not quiet:
        for warning in result.warnings:
            render.warn(warning)
    if as_json:
        render.print_json(
            {
                "output": output,
                "changed": result.changed,
                "packages": [
                    {
                        "name": wheel.name,
                        "version": wheel.version,
                        "filename": wheel.filename,
                        "digest": wheel.digest,
                        "size": wheel.size,
                        "url": wheel.url,
                        "built_from": wheel.built_from or None,
                    }
                    for wheel in result.lock.wheels
                ],
                "warnings": list(result.warnings),
            }
        )
    elif output in _STDOUT:
        render.plain(result.text.removesuffix("\n"))
