"""``vrfstore link``: the contract with whoever renders documents is docs/linking.md."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from vrfstore.cli import linking
from vrfstore.cli.asking import input_options, policy_options
from vrfstore.cli.options import (
    DURATION,
    PATH,
    check_into,
    json_option,
    link_options,
    root_option,
    store_option,
    target_option,
)
from vrfstore.errors import UsageError

__all__ = ["command"]


@click.command(
    "link",
    epilog="""\b
Examples:
  vrfstore link requirements.vrf
  vrfstore link requirements.vrf --python 3.12
  vrfstore link pylock.toml --offline
  vrfstore link pyproject.toml --group test --extra plot
  vrfstore link requirements.vrf --into .venv && . .venv/bin/activate
  vrfstore link requirements.vrf --target image.json --into /srv/venv
  vrfstore link requirements.vrf --root report
  vrfstore link requirements.vrf --lease-pid $$
  vrfstore link requirements.vrf --json --log render.log --no-install --fallback
  QUARTO_PYTHON=$(vrfstore link requirements.vrf) quarto render report.qmd
""",
)
@click.argument("requirements", metavar="FILE...", type=PATH, nargs=-1, required=True)
@link_options
@target_option
@input_options
@policy_options
@click.option(
    "--into",
    type=PATH,
    metavar="DIRECTORY",
    help="Make an environment of your own there, or bring it up to date; what you have installed there stays.",
)
@click.option(
    "--force",
    is_flag=True,
    help="With --into: replace what is in the way, in any directory that is not empty.",
)
@root_option
@click.option(
    "--lease-pid",
    type=click.IntRange(1),
    metavar="PID",
    help="Keep the environment from gc until this process has ended.",
)
@click.option(
    "--lease-ttl",
    type=DURATION,
    metavar="TIME",
    help="Keep the environment from gc for so long, such as 12h; a bare number is days. With --lease-pid: how long "
    "that counts where the process cannot be seen. [default there: 7d]",
)
@click.option(
    "--log",
    type=PATH,
    metavar="FILE",
    help="Add what is done, in words for the author of the document, to this file or FIFO, line by line.",
)
@click.option(
    "--fallback",
    is_flag=True,
    help="Where there is no environment to be had, print the base interpreter's python, and end with 0.",
)
@click.option(
    "--no-wait",
    "wait",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Do not wait for another vrfstore that is building the same: say how far it is, and end with 15.",
)
@store_option
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings on stderr.")
@click.pass_obj
def command(
    default_store: str | None,
    /,
    requirements: tuple[str, ...],
    store: str | None,
    *,
    log: str | None,
    fallback: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Make the environment of what a file asks for, and print its python.

    FILE is a requirements file as pip's, a pylock.toml, a pyproject.toml or a script with inline metadata; several
    count together. What the base interpreter already has is not installed again. The second time this takes
    milliseconds and no network. With --json, all that there is to say of it is printed as one object, whatever happens.
    """
    _check(options, fallback=fallback)
    linking.answer(
        requirements,
        store or default_store,
        log=log,
        fallback=fallback,
        as_json=as_json,
        quiet=quiet,
        **options,
    )


def _check(options: dict[str, Any], *, fallback: bool) -> None:
    """Refuse options that make no sense together, and what cannot be made where it is to be."""
    if options["force"] and options["into"] is None:
        raise UsageError(
            "--force is of use with --into only", kind="options-conflict", hint="give --into, or leave it out"
        )
    if fallback and options["target"] is not None:
        raise UsageError(
            "--fallback is of no use with --target",
            kind="options-conflict",
            hint="leave it out: an interpreter that is not here cannot be fallen back on",
        )
    check_into(options["into"])
    source = click.get_current_context().get_parameter_source("python")
    if options["target"] is not None and source is ParameterSource.ENVIRONMENT:
        options["python"] = None  # what is usual gives way to what is asked for here
