"""``vrfstore run``."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from vrfstore.cli import render
from vrfstore.cli.asking import input_options, policy_options
from vrfstore.cli.ending import limited
from vrfstore.cli.options import PATH, check_into, link_options, root_option, store_option
from vrfstore.cli.progress import watching
from vrfstore.errors import RequirementsError, UsageError, VrfstoreError
from vrfstore.runner.link import link
from vrfstore.runner.run import Prepared, mend, named, prepare, replace_process, stay_beside
from vrfstore.store.store import Store

if TYPE_CHECKING:
    from vrfstore.runner.runnable import Runnable

__all__ = ["command"]

_ALWAYS = frozenset({"requirements", "words", "store", "heal", "hint"})
"""Parameters that make sense for an environment that is there already."""

_EXPLICIT = "vrfstore.run.explicit"
"""Where click's context says whether a command is given after ``--``."""


class _Run(click.Command):
    """Takes what follows a script without ``--`` for the script's own arguments, options of it among them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether there is a ``--``, of which click leaves no trace, and put one behind a script."""
        ctx.meta[_EXPLICIT] = "--" in args
        script = None if "--" in args else self._script(ctx, args)
        if script is not None:
            args = [*args[: script + 1], "--", *args[script + 1 :]]
        return super().parse_args(ctx, args)

    def _script(self, ctx: click.Context, args: list[str]) -> int | None:
        """Return which argument is a script: the first that is no option, nor an option's value."""
        options = (param for param in self.get_params(ctx) if isinstance(param, click.Option))
        takes_value = {name for option in options if not option.is_flag for name in option.opts}
        for position, word in enumerate(args):
            if not word.startswith("-") and (position == 0 or args[position - 1] not in takes_value):
                return position if _is_script(word) else None
        return None


def _is_script(path: str) -> bool:
    return path.endswith(".py") and not os.path.isdir(path)


@click.command(
    "run",
    cls=_Run,
    context_settings={"ignore_unknown_options": False},
    epilog="""\b
Examples:
  vrfstore run requirements.vrf -- python report.py
  vrfstore run requirements.vrf -- jupyter nbconvert --execute notebook.ipynb
  vrfstore run .venv -- python report.py
  vrfstore run --hint requirements.vrf -- python report.py
  vrfstore run script.py argument          with the packages that its own metadata names
""",
)
@click.argument("requirements", metavar="FILE|ENVIRONMENT|SCRIPT.py", type=PATH)
@click.argument("words", nargs=-1, metavar="[-- COMMAND] [ARGUMENT]...", type=click.UNPROCESSED)
@click.option(
    "--and",
    "further",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="A further file of requirements that counts together with FILE.",
)
@link_options
@input_options
@policy_options
@click.option(
    "--into",
    type=PATH,
    metavar="DIRECTORY",
    help="Make an environment of your own there, or bring it up to date, and run in that one.",
)
@click.option(
    "--no-heal",
    "heal",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Do not mend an environment of your own before.",
)
@root_option
@click.option(
    "--hint/--no-hint",
    "hint",
    envvar="VRFSTORE_HINT",
    default=False,
    help="Stay beside the command, and if it fails because of an import, say on stderr what to do; see vrfstore hint. "
    "[default: $VRFSTORE_HINT, else become the command]",
)
@store_option
@click.pass_obj
def command(
    default_store: str | None,
    /,
    requirements: str,
    words: tuple[str, ...],
    store: str | None,
    *,
    durable: bool,
    heal: bool,
    hint: bool,
    further: tuple[str, ...],
    **options: Any,
) -> None:
    """Run a command in the environment of a requirements file, or in one that is there, or run a script in its own.

    ENVIRONMENT is a directory; or, where there is no file of that name, one of the store by its name or the
    beginning of it. The environment comes first on PATH; VIRTUAL_ENV and QUARTO_PYTHON name it. It stays as long as
    the command runs, whatever gc does. What has drifted in an ENVIRONMENT is mended before, as far as that goes
    without the network. A pip or pip3 that it does not have is run as python -m pip. The exit code is the command's
    own.

    A SCRIPT.py is run with the packages that it asks for in its inline metadata, or else with those of a
    requirements.vrf beside it; what follows are its arguments. After --, a command is run there instead.
    """
    script = _is_script(requirements)
    own = script and not click.get_current_context().meta[_EXPLICIT]
    if not words and not own:
        raise UsageError("no command is given", hint="write it after --, as in: run FILE -- python report.py")
    given = store or default_store
    place = _there_already(requirements, given)
    if place is not None:
        _check_options(place)
        prepared = _prepare(place, given, heal=heal)
        _run(prepared, words, hint=(given, "") if hint else None)
    check_into(options["into"])
    with watching() as watch, limited(options["policy"]):
        opened = Store.open(given, durable=durable)
        mended = _mended(options["into"], given, watch) if heal and options["into"] else ()
        result = link(
            (requirements, *further),
            store=opened,
            lease=True,
            watch=watch,
            # With further files there is no need for one beside it.
            script=script and not further,
            **options,
        )
    if own:
        words = (result.python, requirements, *words)
    for warning in (*mended, *result.warnings):
        render.warn(warning)
    about = (given, os.path.abspath(requirements)) if hint else None
    _run(result, words, hint=about)


def _run(where: Runnable, words: tuple[str, ...], *, hint: tuple[str | None, str] | None) -> NoReturn:
    """Become the command; or stay beside it, where hints are wanted for a store and a requirements file."""
    if hint is None:
        replace_process(where, words)
    from vrfstore.runner import hinting  # noqa: PLC0415 - most commands need none

    def tell(tail: bytes) -> None:
        # The command has failed, which is what counts: nothing that goes wrong here may come before it.
        with contextlib.suppress(VrfstoreError, OSError):
            found = hinting.after_command(tail, where.environment, *hint)
            if found is not None:
                render.hint(found.message, found.advice)

    click.get_current_context().exit(stay_beside(where, words, tell))


def _there_already(meant: str, given: str | None) -> str | None:
    """Return the directory of the environment that is meant; None for a requirements file."""
    if os.path.isdir(meant):
        return meant
    if os.path.lexists(meant):
        return None
    place = named(meant, given)
    if place is None:
        raise RequirementsError(
            "there is no file or environment of that name",
            kind="requirements-missing",
            path=meant,
            hint="check the path; for the environments of the store, see: vrfstore list",
        )
    return place


def _check_options(place: str) -> None:
    """Refuse options that say how an environment is linked, where one is there."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in _ALWAYS and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"{parameter.opts[0]} is of no use with an environment that is there",
                kind="options-conflict",
                path=place,
                hint="give a requirements file, or leave the option out",
            )


def _prepare(place: str, given: str | None, *, heal: bool) -> Prepared:
    with watching() as watch:
        prepared = prepare(place, given, heal=heal, watch=watch)
    for warning in prepared.warnings:
        render.warn(warning)
    return prepared


def _mended(place: str, given: str | None, watch: Any) -> tuple[str, ...]:
    """Mend an environment before it is brought up to date: re-pointed links would pass for somebody's own."""
    from vrfstore.runner import inspection  # noqa: PLC0415 - for an environment of one's own only
    from vrfstore.store import externals  # noqa: PLC0415

    if externals.read(os.path.realpath(place)) is None:
        return ()
    return mend(inspection.find(place, given, to_look=False), watch)
