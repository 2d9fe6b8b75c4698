"""``vrfstore export``."""

from __future__ import annotations

import os

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, store_option
from vrfstore.cli.progress import watching
from vrfstore.errors import UsageError
from vrfstore.store.store import Store

__all__ = ["command"]

_STANDARD = "-"


@click.command(
    "export",
    epilog="""\b
Examples:
  vrfstore export da926acf -o report.tar.zst          an environment, as vrfstore list shows it
  vrfstore export "$(vrfstore link --json requirements.vrf | jq -r .environment)" -o report.tar.zst
  vrfstore export da926acf --wheels --wheel-dir wheels/ -o report.tar.zst
  vrfstore export da926acf -o - | ssh elsewhere vrfstore import -
""",
)
@click.argument("targets", nargs=-1, required=True, metavar="(ENTRY|ENVIRONMENT)...")
@click.option("-o", "--output", required=True, metavar="FILE", help="The archive to write; - for stdout.")
@click.option("--force", is_flag=True, help="Replace FILE where it is there already.")
@click.option(
    "--wheels",
    is_flag=True,
    help="Put the wheels themselves in, which prove what they are, from where they came from.",
)
@click.option(
    "--wheel-dir",
    "wheel_directories",
    multiple=True,
    metavar="DIRECTORY",
    help="Look for the wheels here first; includes --wheels. May be given more than once.",
)
@store_option
@json_option
@click.pass_obj
def command(
    default_store: str | None,
    targets: tuple[str, ...],
    output: str,
    wheel_directories: tuple[str, ...],
    store: str | None,
    *,
    force: bool,
    wheels: bool,
    as_json: bool,
) -> None:
    """Write entries and environments, with all that they refer to, into one archive.

    TARGETS are paths, names as `vrfstore list` shows them, or the beginning of one. The same input gives the same
    bytes. Prints the archive's SHA-256: whoever imports it with that vouches for it.
    """
    from vrfstore.runner.exporting import export_archive  # noqa: PLC0415 - zstandard, installer, packaging

    if output == _STANDARD and (as_json or os.isatty(1)):
        raise UsageError(
            "--json and the archive cannot both go to stdout"
            if as_json
            else "an archive is nothing for a terminal",
            hint="give a file with -o, or a pipe",
        )
    with watching() as watch:
        result = export_archive(
            targets,
            output,
            store=Store.open(store or default_store),
            wheels=wheels,
            wheel_directories=wheel_directories,
            force=force,
            watch=watch,
        )
    for warning in result.warnings:
        render.warn(warning)
    if as_json:
        render.print_json(
            {
                "status": "done",
                "archive": os.path.abspath(result.path),
                "sha256": result.sha256,
                "bytes": {"packed": result.packed, "unpacked": result.unpacked},
                "entries": [
                    {"name": entry.name, "version": entry.version, "digest": entry.digest}
                    for entry in result.entries
                ],
                "environments": list(result.environments),
                "warnings": list(result.warnings),
            }
        )
        return
    counted = (
        render.count(len(result.environments), "environment", "environments"),
        render.count(len(result.entries), "entry", "entries"),
        f"{render.size(result.packed)} ({render.size(result.unpacked)} unpacked)",
    )
    lines = f"sha256 {result.sha256}\n{', '.join(counted)}"
    if output == _STANDARD:
        click.echo(lines, err=True)
    else:
        render.plain(lines)
