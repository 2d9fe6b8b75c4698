"""``vrfstore compile``."""

from __future__ import annotations

import click

from vrfstore.cli import render
from vrfstore.cli.options import json_option, store_option
from vrfstore.cli.progress import watching
from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.runner.compile import Compiled, CompileReport, compile_store
from vrfstore.store.compiling import CompiledEntry
from vrfstore.store.store import Store

__all__ = ["command"]

_SHOWN = 5


@click.command(
    "compile",
    epilog="""\b
Examples:
  vrfstore compile                          what environments link to
  vrfstore compile --all                    everything in the store
  vrfstore compile --python 3.12 5d1f6a     one environment or entry
""",
)
@click.argument("targets", nargs=-1, metavar="[TARGET...]")
@click.option(
    "--all", "everything", is_flag=True, help="Every entry, whether an environment links to it or not."
)
@click.option(
    "--python",
    metavar="PYTHON",
    help="Compile with this interpreter: a path, a version or a command on PATH. [default: those of environments]",
)
@store_option
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings on stderr.")
@click.pass_context
def command(
    context: click.Context,
    targets: tuple[str, ...],
    python: str | None,
    store: str | None,
    *,
    everything: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compile modules to bytecode now, so that no import has to.

    Each entry is compiled once for each version of Python. A TARGET is an environment or an entry: its path, its name,
    or the beginning of one. Without any, it is every environment. Modules that do not compile are named, and no error.
    """
    if everything and targets:
        raise UsageError("--all leaves nothing to name", hint="see: vrfstore compile --help")
    opened = Store.open(store or context.obj)
    with watching(quiet=quiet) as watch:
        report = compile_store(opened, targets, everything=everything, python=python, watch=watch)
    if not quiet:
        for warning in report.warnings:
            render.warn(warning)
    problems = [entry.problem for done in report.compiled for entry in done.entries if entry.problem]
    if as_json:
        render.print_json(_to_json(report, problems))
    else:
        render.plain(_to_text(report))
    for problem in problems:
        render.error(problem, as_json=False)
    if problems:
        context.exit(problems[0].exit_code)


def _to_json(report: CompileReport, problems: list[StoreDamagedError]) -> dict[str, object]:
    answer: dict[str, object] = {
        "status": "error" if problems else "done",
        "interpreters": [
            {
                "python": done.interpreter.real,
                "version": done.interpreter.version,
                "cache_tag": done.interpreter.cache_tag,
                "magic": done.interpreter.magic,
                "entries": [_entry(entry) for entry in done.entries],
            }
            for done in report.compiled
        ],
        "warnings": list(report.warnings),
    }
    if problems:
        answer["error"] = problems[0].fields()
        answer["errors"] = [each.fields() for each in problems]
    return answer


def _entry(entry: CompiledEntry) -> dict[str, object]:
    return {
        "entry": entry.directory,
        "state": entry.state,
        "modules": entry.modules,
        "failed": [{"path": path, "message": message} for path, message in entry.failed],
    }


def _to_text(report: CompileReport) -> str:
    if not any(done.entries for done in report.compiled):
        return "nothing to compile"
    return "\n".join(line for done in report.compiled for line in _lines(done))


def _lines(done: Compiled) -> list[str]:
    new = [entry for entry in done.entries if entry.state == "compiled"]
    present = sum(entry.state == "present" for entry in done.entries)
    failed = [(entry.directory, *module) for entry in new for module in entry.failed]
    counted = [
        f"compiled {render.count(len(new), 'entry', 'entries')}",
        render.count(sum(entry.modules for entry in new), "module", "modules"),
    ]
    if present:
        counted.append(f"{present} were compiled before" if present > 1 else "1 was compiled before")
    lines = [f"Python {done.interpreter.version}: {', '.join(counted)}"]
    if failed:
        count = render.count(len(failed), "module does", "modules do")
        lines.append(f"  {count} not compile:")
        lines += [f"  {entry}: {path}: {why}" for entry, path, why in failed[:_SHOWN]]
        if len(failed) > _SHOWN:
            lines.append(f"  and {len(failed) - _SHOWN} more; see --json")
    return lines
