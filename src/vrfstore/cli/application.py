"""The click application: which commands there are, and what every one of them does with an error."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from vrfstore import __version__
from vrfstore.cli import render
from vrfstore.cli.lazy import LazyGroup
from vrfstore.errors import DiskFullError, StoreDamagedError, StoreError, UsageError, VrfstoreError

__all__ = ["application", "run"]

_COMMANDS = {
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
    subcommands=_COMMANDS,
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
    20 over budget with all that is left in use, 21 store cannot be used, 22 interpreter unsuitable, 23 drift found, 70
    internal error, 130 interrupted, 141 the reader of stdout went away.
    """
    context.obj = store


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; every error is rendered here."""
    _fill_standard_descriptors()
    as_json = "--json" in arguments[: arguments.index("--")] if "--" in arguments else "--json" in arguments
    try:
        code = application.main(list(arguments), prog_name="vrfstore", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort:
        return render.interrupted(as_json=as_json)
    except click.ClickException as error:
        return render.usage(error, as_json=as_json)
    except VrfstoreError as error:
        return render.error(error, as_json=as_json)
    except SystemExit:
        # The one thing that click still ends by itself in this mode, with 1: EPIPE on stdout.
        return _broken_pipe()
    except OSError as error:
        code = render.error(_translate(error), as_json=as_json)
        if error.filename == render.STDOUT:
            _drop_output()
        return code
    except Exception as error:  # noqa: BLE001 - the last resort: a bug, which must not look like a command's 1
        if sys.stderr is not None:
            traceback.print_exc(file=sys.stderr)
        return render.error(
            VrfstoreError(
                f"this is a bug in vrfstore: {error!r}", hint="please report it with the lines above"
            ),
            as_json=as_json,
        )
    return code if isinstance(code, int) else 0


def _fill_standard_descriptors() -> None:
    """Let no file of ours become stdin, stdout or stderr, where the caller closed one of these."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _broken_pipe() -> int:
    """Whoever read our output has seen enough. End as SIGPIPE would have ended us."""
    _drop_output()
    return 128 + signal.SIGPIPE


def _drop_output() -> None:
    """Let what is still buffered go nowhere: it would fail again when Python flushes at exit, with exit code 120."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _translate(error: OSError) -> VrfstoreError:
    """Say what the operating system refused in the terms of the exit codes."""
    place = None if error.filename is None else str(error.filename)
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = (
            "free some space" if place == render.STDOUT else "free some space, for instance with: vrfstore gc"
        )
        return DiskFullError(reason, path=place, hint=hint)
    if place is not None and place != render.STDOUT and not _is_in_a_store(place):
        found = _translate_of_user(error.errno, reason, place)
        if found is not None:
            return found
    if error.errno == errno.ENAMETOOLONG:
        return StoreError(reason, kind="store-path", path=place, hint="choose a shorter path for the store")
    if error.errno in {errno.EISDIR, errno.ENOTDIR, errno.ELOOP}:
        return StoreDamagedError(
            reason, path=place, hint="something else is in the place of a file; remove it"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return StoreError(reason, kind="store-access", path=place)
    if error.errno == errno.EIO:
        return StoreDamagedError(reason, kind="input-output", path=place, hint="check the disk")
    return VrfstoreError(reason, path=place)


def _translate_of_user(number: int | None, reason: str, place: str) -> VrfstoreError | None:
    """Say what is wrong with a path that the user has given; None where it is not the path."""
    match number:
        case errno.ENAMETOOLONG:
            return UsageError(reason, kind="path", path=place, hint="choose a shorter path")
        case errno.ELOOP:
            return UsageError(reason, kind="path", path=place, hint="links there lead to each other")
        case errno.ENOTDIR | errno.EISDIR | errno.EEXIST:
            return UsageError(reason, kind="path", path=place, hint="something else is in the way there")
        case errno.ENOENT:
            return UsageError(reason, kind="path", path=place, hint="check the path")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return StoreError(reason, kind="access", path=place, hint="choose a place that you may write")
        case _:
            return None


def _is_in_a_store(place: str) -> bool:
    """Whether a path is below the directory of a store."""
    above = os.path.abspath(place)
    while not os.path.lexists(f"{above}/store.json"):
        if above == (above := os.path.dirname(above)):
            return False
    return True
