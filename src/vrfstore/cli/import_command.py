"""``vrfstore import``. The module is not called after it: ``import`` is a word of Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vrfstore.cli import render
from vrfstore.cli.options import SIZE, json_option, store_option, sync_option
from vrfstore.cli.progress import watching
from vrfstore.errors import UsageError
from vrfstore.model import parse_digest
from vrfstore.store.store import Store

if TYPE_CHECKING:
    from vrfstore.runner.importing import ImportResult

__all__ = ["command"]


@click.command(
    "import",
    epilog="""\b
Examples:
  vrfstore import report.tar.zst
  vrfstore import report.tar.zst --sha256 9f86d0…     as vrfstore export printed it
  vrfstore import report.tar.zst --python 3.12
  ssh elsewhere vrfstore export da926acf -o - | vrfstore import -
""",
)
@click.argument("archive", metavar="FILE")
@click.option(
    "--sha256",
    metavar="HEX",
    help="Refuse any other archive, and vouch for this one: its entries serve everybody, as if their wheels had come.",
)
@click.option("--trust", is_flag=True, help="Vouch for the archive, whatever it is.")
@click.option(
    "--python",
    envvar="VRFSTORE_PYTHON",
    metavar="PYTHON",
    help="Link environments for this interpreter: a path, a version or a command on PATH. "
    "[default: the Python that vrfstore stands on]",
)
@click.option(
    "--no-link", "link", is_flag=True, flag_value=False, default=True, help="Import the entries only."
)
@click.option(
    "--max-packed", type=SIZE, metavar="SIZE", help="Refuse an archive of more bytes. [default: 34G]"
)
@click.option(
    "--max-unpacked", type=SIZE, metavar="SIZE", help="Refuse one that unpacks to more bytes. [default: 68G]"
)
@click.option(
    "--max-files", type=click.IntRange(1), metavar="N", help="Refuse one with more files. [default: 1000000]"
)
@click.option(
    "--max-ratio",
    type=click.IntRange(1),
    metavar="N",
    help="Refuse a large one that unpacks to more than so many times its size. [default: 100]",
)
@sync_option
@store_option
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings on stderr.")
@click.pass_obj
def command(  # noqa: PLR0913 - one for each option
    default_store: str | None,
    /,
    archive: str,
    sha256: str | None,
    python: str | None,
    store: str | None,
    *,
    trust: bool,
    link: bool,
    durable: bool,
    as_json: bool,
    quiet: bool,
    **limits: int | None,
) -> None:
    """Bring the entries of an archive into the store, link its environments, and print their pythons.

    Needs no network. FILE may be - for stdin. Nothing in it is believed: every file is compared with its manifest, and
    what an archive says that a wheel unpacks to serves only the environments of that archive, unless the wheel itself
    is in it, or --sha256 or --trust vouch for it. Each entry is imported whole or not at all; running it again goes on
    where it ended.

    An environment is linked for an interpreter of the same implementation, version X.Y, ABI and platform; for any
    other, a warning says so.
    """
    from vrfstore.runner.importing import import_archive  # noqa: PLC0415 - zstandard, installer, packaging
    from vrfstore.store.archive_read import ArchiveLimits  # noqa: PLC0415

    if sha256 is not None and trust:
        raise UsageError(
            "--sha256 and --trust exclude each other", hint="--sha256 vouches for the archive already"
        )
    given = {name.removeprefix("max_"): value for name, value in limits.items() if value is not None}
    with watching(quiet=quiet) as watch:
        result = import_archive(
            archive,
            store=Store.open(store or default_store, durable=durable),
            python=python,
            sha256=None if sha256 is None else parse_digest(sha256),
            trust=trust,
            link=link,
            limits=ArchiveLimits(**given),
            watch=watch,
        )
    if not quiet:
        for warning in result.warnings:
            render.warn(warning)
    if as_json:
        render.print_json(_to_json(result))
        return
    for environment in result.environments:
        if environment.python is not None:
            render.plain(environment.python)
    if not result.environments:
        for entry in result.entries:
            render.plain(entry.plan.reference.directory + ("" if entry.new else "  (was there)"))


def _to_json(result: ImportResult) -> dict[str, object]:
    return {
        "status": "done",
        "sha256": result.sha256,
        "bytes": {"packed": result.packed},
        "entries": [
            {
                "name": entry.plan.reference.name,
                "version": entry.plan.reference.version,
                "digest": entry.plan.reference.digest,
                "entry": entry.plan.reference.directory,
                "new": entry.new,
                "claimed": bool(entry.plan.claimed),
            }
            for entry in result.entries
        ],
        "environments": [
            {
                "status": environment.status,
                "python": environment.python,
                "environment": environment.environment,
                "lock": environment.lock,
                "kind": environment.kind,
            }
            for environment in result.environments
        ],
        "timings_ms": {name: round(seconds * 1000, 3) for name, seconds in result.timings.items()},
        "warnings": list(result.warnings),
    }
