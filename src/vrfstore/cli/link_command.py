"""``vrfstore link``: the contract with whoever renders documents is docs/linking.md."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import ExitStack
from typing import Any

import click
from click.core import ParameterSource

from vrfstore.cli import render
from vrfstore.cli.asking import input_options, limited, policy_options
from vrfstore.cli.failures import as_error, is_bug
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
from vrfstore.errors import UsageError, VrfstoreError
from vrfstore.model import Watcher, both
from vrfstore.requirements.policy import Policy
from vrfstore.runner import outcome
from vrfstore.runner.link import LinkResult, link
from vrfstore.runner.log import Log, packages_text
from vrfstore.runner.outcome import Outcome
from vrfstore.runner.run import base_variables, changed_variables
from vrfstore.store.store import Store
from vrfstore.values import replace

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
    with Log() if log is None else Log.open(log) as author, ExitStack() as noting:
        noting.callback(lambda: author.say("ended before it was done"))
        try:
            with watching(quiet=quiet) as watch:
                found = _linked(requirements, store or default_store, author, watch, **options)
        except Exception as error:
            noting.pop_all()
            reason = as_error(error)
            author.fail(reason)
            base = _base(reason, options["python"], author) if fallback else None
            if base is None:
                raise
            if is_bug(error) and sys.stderr is not None:
                traceback.print_exception(error, file=sys.stderr)
            render.explain(reason)
            found = base
        noting.pop_all()
        author.warn(found.warnings)
        author.say(f"python: {found.python}")
    if not quiet:
        for warning in found.warnings:
            render.warn(warning)
    if as_json:
        render.print_json(found.to_json())
    else:
        render.plain(found.python or "")


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


def _linked(
    requirements: tuple[str, ...],
    place: str | None,
    author: Log,
    watch: Watcher,
    *,
    durable: bool,
    policy: Policy,
    wait: bool,
    **options: Any,
) -> Outcome:
    """Link, in the time that there is, and tell the author of the document."""
    with limited(policy):
        store = Store.open(place, durable=durable)
        author.say(f"linking {' '.join(requirements)}")
        result = link(
            requirements, store=store, policy=replace(policy, wait=wait), watch=both(watch, author), **options
        )
    author.say(_in_words(result))
    return outcome.of_result(result, changed_variables(result, os.environ))


def _in_words(result: LinkResult) -> str:
    """Return what became of a link, for the author of a document."""
    packages = packages_text(len(result.packages))
    if result.status == "hit":
        return f"using cached environment ({packages})"
    new = sum(not package.reused for package in result.packages)
    return (
        f"linked environment ({packages}, {new} of them new)" if new else f"linked environment ({packages})"
    )


def _base(reason: VrfstoreError, python: str | None, author: Log) -> Outcome | None:
    """Return the outcome with the base in the place of an environment.

    None where the error is the caller's own, or there is nothing to fall back on.
    """
    if isinstance(reason, UsageError):
        return None
    from vrfstore.runner import fallback  # noqa: PLC0415 - for failures only

    base = fallback.find(python)
    if base is None:
        author.say("there is no Python to fall back on either")
        return None
    author.say(f"using the base interpreter, without the packages of the document: {base.python}")
    return outcome.fallen_back(reason, base.python, base_variables(base.python, os.environ), base.warnings)
