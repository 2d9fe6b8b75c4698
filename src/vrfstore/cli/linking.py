"""What ``link`` does, and how it answers, whoever has understood its arguments: click, or ``usual``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from vrfstore.cli import render
from vrfstore.cli.ending import limited
from vrfstore.cli.failures import as_error, is_bug
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["answer"]


def answer(
    requirements: Sequence[str],
    store: str | None,
    *,
    log: str | None,
    fallback: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Make the environment of what files ask for, and print its python, or all that there is to say.

    Args:
        requirements: The files.
        store: The directory of the store; None for the usual one.
        log: The file for the author of a document.
        fallback: Answer with the base interpreter where there is no environment to be had.
        as_json: Whether JSON was asked for.
        quiet: Neither progress nor warnings.
        options: The rest, as ``runner.link.link`` takes it, with ``durable`` and ``wait``.
    """
    with Log() if log is None else Log.open(log) as author, ExitStack() as noting:
        noting.callback(lambda: author.say("ended before it was done"))
        try:
            with watching(quiet=quiet) as watch:
                found = _linked(requirements, store, author, watch, **options)
        except Exception as error:
            noting.pop_all()
            reason = as_error(error)
            author.fail(reason)
            base = _base(reason, options["python"], author) if fallback else None
            if base is None:
                raise
            if is_bug(error) and sys.stderr is not None:
                import traceback  # noqa: PLC0415 - 4 ms, for defects

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


def _linked(
    requirements: Sequence[str],
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
