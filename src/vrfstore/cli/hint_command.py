"""``vrfstore hint``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from vrfstore.cli import render
from vrfstore.cli.asking import TIME
from vrfstore.cli.options import PATH, json_option, python_option, store_option
from vrfstore.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vrfstore.requirements.budget import Budget
    from vrfstore.runner.hint import Hint
    from vrfstore.runner.import_failure import ImportFailure
    from vrfstore.store.store import Store

__all__ = ["command", "lines", "to_json"]


@click.command(
    "hint",
    epilog="""\b
Examples:
  vrfstore hint cv2
  vrfstore hint google.cloud.storage --requirements requirements.vrf
  vrfstore hint --traceback render.log --json
  python report.py 2>&1 | vrfstore hint --traceback -
  vrfstore hint acme --online              ask the index whether it has a package of that name
""",
)
@click.argument("module", required=False)
@click.option(
    "--traceback",
    type=PATH,
    metavar="FILE",
    help="Read there which import failed: the last exception counts, of Python or of a notebook; - is stdin.",
)
@click.option(
    "--requirements",
    type=PATH,
    metavar="FILE",
    help="The file to edit. [default: the nearest requirements.vrf above the file that imports, or above here]",
)
@click.option("--online", is_flag=True, help="Ask the index whether it has the name. Nothing is fetched.")
@click.option("--index-url", type=PATH, metavar="URL", help="With --online: ask this index and no other.")
@click.option(
    "--timeout",
    type=TIME,
    default="30",
    metavar="TIME",
    help="With --online: for so long at most. [default: 30]",
)
@python_option
@store_option
@json_option
@click.pass_obj
def command(  # noqa: PLR0913 - one for each option
    default_store: str | None,
    module: str | None,
    traceback: str | None,
    requirements: str | None,
    index_url: str | None,
    timeout: float,
    python: str | None,
    store: str | None,
    *,
    online: bool,
    as_json: bool,
) -> None:
    """Say which package provides a module that cannot be imported, and which line to add where.

    MODULE is what is imported, as in: import MODULE. Looked at are, in this order, the files of the project, Python
    itself, the packages of the base interpreter, all wheels that this store has ever had, a table that comes with
    vrfstore, and at last the same name. Of other failed imports a traceback tells more: a name that a module does not
    have, a file that is called like a package, a shared library that the system lacks. Nothing is installed.
    """
    from vrfstore.runner import hinting, import_failure  # noqa: PLC0415 - not for help

    if (module is None) == (traceback is None):
        raise UsageError(
            "either MODULE or --traceback is needed",
            kind="options-conflict",
            hint="as in: vrfstore hint cv2",
        )
    if index_url and not online:
        raise UsageError(
            "--index-url is of use with --online only",
            kind="options-conflict",
            hint="add --online, or leave it out",
        )
    if traceback is None:
        failure: ImportFailure | None = hinting.of_module(module or "")
    else:
        failure = import_failure.find(hinting.read_traceback(traceback))
    given = "" if requirements is None else hinting.check_requirements(requirements)
    found = None
    if failure is not None:
        opened, keep = _store(store or default_store, online=online)
        found = hinting.hint(
            failure,
            hinting.Around(
                store=opened,
                keep=keep,
                interpreter=hinting.base_of(opened, _find(python), keep=keep),
                requirements=given,
                directory=os.getcwd(),
                budget=_budget(timeout) if online else None,
                index_url=index_url or "",
            ),
        )
    if as_json:
        render.print_json({"status": "done", "hint": None if found is None else to_json(found)})
    elif found is None:
        render.plain("no import has failed there")
    else:
        for line in lines(found):
            render.plain(render.visible(line))


def to_json(found: Hint) -> dict[str, object]:
    """Return a hint as an object of JSON."""
    return {
        "kind": found.kind,
        "module": found.module,
        "source": found.source or None,
        "message": found.message,
        "advice": found.advice or None,
        "distributions": list(found.distributions),
        "exists": found.exists,
        "requirements": found.requirements or None,
        "line": found.line or None,
        "system": {"debian": found.debian or None, "fedora": found.fedora or None},
    }


def lines(found: Hint) -> Iterator[str]:
    """Yield a hint for people."""
    yield found.message
    if found.advice:
        yield f"  hint: {found.advice}"


def _store(given: str | None, *, online: bool) -> tuple[Store | None, bool]:
    """Return the store, if there is one, and whether it may be written. Only asking an index needs one."""
    from vrfstore.runner.inspection import may_write  # noqa: PLC0415 - not for help
    from vrfstore.store.store import Store  # noqa: PLC0415

    if online:
        return Store.open(given), True
    try:
        opened = Store.open(given, to_look=True)
    except StoreError as error:
        if error.kind != "store-missing":
            raise
        return None, False
    return opened, may_write(opened)


def _find(python: str | None) -> str:
    from vrfstore.interpreter import find  # noqa: PLC0415 - not for help

    return find(python)


def _budget(seconds: float) -> Budget:
    from vrfstore.requirements.budget import Budget, Caps  # noqa: PLC0415 - not for help

    return Budget(Caps(seconds=seconds))
