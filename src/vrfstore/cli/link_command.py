"""``vrfstore link``."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from vrfstore.cli import render
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
from vrfstore.cli.progress import watching
from vrfstore.errors import UsageError
from vrfstore.runner.link import LinkResult, link
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store

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
    durable: bool,
    as_json: bool,
    quiet: bool,
    target: str | None,
    python: str | None,
    **options: Any,
) -> None:
    """Make the environment of what a file asks for, and print its python.

    FILE is a requirements file as pip's, a pylock.toml, a pyproject.toml or a script with inline metadata; several
    count together. What the base interpreter already has is not installed again. The second time this takes
    milliseconds and no network.
    """
    if options["force"] and options["into"] is None:
        raise UsageError(
            "--force is of use with --into only", kind="options-conflict", hint="give --into, or leave it out"
        )
    check_into(options["into"])
    source = click.get_current_context().get_parameter_source("python")
    if target is not None and source is ParameterSource.ENVIRONMENT:
        python = None  # what is usual gives way to what is asked for here
    with watching(quiet=quiet) as watch:
        opened = Store.open(store or default_store, durable=durable)
        result = link(requirements, store=opened, python=python, target=target, watch=watch, **options)
    if not quiet:
        for warning in result.warnings:
            render.warn(warning)
    if as_json:
        render.print_json(_to_json(result))
    else:
        render.plain(result.python)


def _to_json(result: LinkResult) -> dict[str, object]:
    return {
        "status": result.status,
        "python": result.python,
        "environment": result.environment,
        "lock": result.lock,
        "packages": [
            {
                "name": package.name,
                "version": package.version,
                "digest": package.digest,
                "reused": package.reused,
            }
            for package in result.packages
        ],
        "lease": None if result.lease is None else _lease_json(result.lease),
        "by_hand": [{"name": name, "version": version} for name, version in result.by_hand],
        "bytes": {"downloaded": result.downloaded},
        "timings_ms": {name: round(seconds * 1000, 3) for name, seconds in result.timings.items()},
        "warnings": list(result.warnings),
    }


def _lease_json(lease: Lease) -> dict[str, object]:
    return {"id": lease.id, "expires": None if lease.expires is None else render.moment(lease.expires)}
