"""``vrfstore add``."""

from __future__ import annotations

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, limit_options, store_option, sync_option
from vrfstore.errors import VrfstoreError
from vrfstore.store.store import Added, Store

__all__ = ["command"]


@click.command(
    "add",
    epilog="""\b
Examples:
  pip download --no-deps --dest wheels six && vrfstore add wheels/*.whl
  vrfstore add --max-unpacked 200M untrusted/*.whl
""",
)
@click.argument("wheels", nargs=-1, required=True, metavar="WHEEL...")
@limit_options
@sync_option
@store_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    wheels: tuple[str, ...],
    store: str | None,
    *,
    durable: bool,
    as_json: bool,
    **limits: int | None,
) -> None:
    """Unpack wheel files into the store, each once and several at a time.

    Prints the name of each entry. A wheel that is refused does not keep the others out; the exit code is that of
    the first one.
    """
    from vrfstore.store.zip_structure import Limits  # noqa: PLC0415 - zipfile, which help does not need

    given = {name.removeprefix("max_"): value for name, value in limits.items() if value is not None}
    opened = Store.open(store or context.obj, durable=durable)
    results = opened.add_all(wheels, Limits(**given))
    added = [result for result in results if isinstance(result, Added)]
    refused = [result for result in results if isinstance(result, VrfstoreError)]
    for result in added:
        for warning in result.warnings:
            render.warn(f"{result.plan.reference.directory}: {warning}")
    if as_json:
        _print_json(added, refused)
    else:
        for result in added:
            render.plain(result.plan.reference.directory + ("" if result.new else "  (was there)"))
    for error in refused:
        render.error(error, as_json=False)
    if refused:
        context.exit(refused[0].exit_code)


def _print_json(added: list[Added], refused: list[VrfstoreError]) -> None:
    answer: dict[str, object] = {
        "status": "error" if refused else "done",
        "entries": list(map(_entry, added)),
    }
    if refused:
        answer["error"] = refused[0].fields()
        answer["errors"] = [each.fields() for each in refused]
    render.print_json(answer)


def _entry(result: Added) -> dict[str, object]:
    reference = result.plan.reference
    return {
        "name": reference.name,
        "version": reference.version,
        "digest": reference.digest,
        "entry": reference.directory,
        "new": result.new,
        "warnings": list(result.warnings),
    }
