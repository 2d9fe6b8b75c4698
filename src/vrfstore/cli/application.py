"""The click application: which commands there are."""

from __future__ import annotations

import click

from vrfstore import __version__
from vrfstore.cli.lazy import LazyGroup

__all__ = ["COMMANDS", "application"]

COMMANDS = {
    "add": "Unpack wheel files into the store.",
    "compile": "Compile bytecode, so that nobody has to while importing.",
    "doctor": "Look at the store and what it stands on; say what to do.",
    "du": "Show who takes how much of the disk.",
    "env": "Check, heal and copy environments.",
    "export": "Write entries and environments into an archive.",
    "gc": "Remove what nothing refers to, and what is beyond a budget.",
    "hint": "Say which package provides a module that cannot be imported.",
    "import": "Take over entries and environments from an archive.",
    "link": "Make the environment of a requirements file, and print its python.",
    "list": "Show entries and environments.",
    "lock": "Find the wheels of what a file asks for, and write them down.",
    "roots": "Pin environments and entries.",
    "run": "Run a command in the environment of a requirements file.",
    "tree": "Show which package of an environment needs which.",
    "verify": "Find what is not as it was published, and repair it.",
    "why": "Show what keeps something from gc, and until when.",
}


@click.group(
    cls=LazyGroup,
    subcommands=COMMANDS,
    modules="vrfstore.cli.",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  vrfstore link requirements.vrf            print the python of its environment
  vrfstore run requirements.vrf -- python report.py
  vrfstore gc --dry-run                     show what a gc would remove
""",
)
@click.option(
    "--store",
    envvar="VRFSTORE_HOME",
    metavar="DIRECTORY",
    help="Where the store is. [default: $VRFSTORE_HOME, else the user's data directory]",
)
@click.version_option(__version__, prog_name="vrfstore", message="%(prog)s %(version)s")
@click.pass_context
def application(context: click.Context, store: str | None) -> None:
    """Wheels unpacked once, environments linked in milliseconds, and an exact gc.

    Exit codes: 0 done, 2 usage, 10 bad requirement, 11 cannot be resolved, 12 not there and not permitted, 13 a cap
    was hit, 14 index or network, 15 busy, 16 disk full, 17 store damaged, 18 a wheel was refused, 19 wheels collide,
    20 over budget with all that is left in use or young, 21 store cannot be used, 22 interpreter unsuitable, 23 drift
    found, 70 internal error, 129 hung up, 130 interrupted, 141 the reader of stdout went away, 143 terminated.
    """
    context.obj = store
