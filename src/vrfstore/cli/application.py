"""The click application: which commands there are, and what every one of them does with an error."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Collection, Sequence

import click

from vrfstore import __version__
from vrfstore.cli import render
from vrfstore.cli.ending import TerminatedError, terminable
from vrfstore.cli.failures import as_error, is_bug
from vrfstore.cli.lazy import LazyGroup

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
    internal error, 129 hung up, 130 interrupted, 141 the reader of stdout went away, 143 terminated.
    """
    context.obj = store


def run(arguments: Sequence[str], mask: Collection[int] | None = None) -> int:
    """Run the command line and return its exit code; every error is rendered here.

    Args:
        arguments: Without the name of the program.
        mask: Where the process is ours, and ends after that: the signals that were blocked before we blocked those
            that came too early, and come now.
    """
    _fill_standard_descriptors()
    as_json, of_link = _wants_json(arguments), _is_link(arguments)
    # A signal may come while an error is being rendered, and be what is answered to in its place.
    try:
        with terminable(lasting=mask is not None):
            try:
                if mask is not None:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                return _run(arguments, as_json=as_json, of_link=of_link)
            except KeyboardInterrupt:
                return render.ended(signal.SIGINT, as_json=as_json, of_link=of_link)
            except TerminatedError as ended:
                return render.ended(ended.number, as_json=as_json, of_link=of_link)
    except KeyboardInterrupt:
        # While we were about to answer to another signal.
        return 128 + signal.SIGINT
    except TerminatedError as ended:
        return 128 + ended.number


def _run(arguments: Sequence[str], *, as_json: bool, of_link: bool) -> int:
    try:
        code = application.main(list(arguments), prog_name="vrfstore", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort:
        return render.ended(signal.SIGINT, as_json=as_json, of_link=of_link)
    except click.ClickException as error:
        return render.usage(error, as_json=as_json, of_link=of_link)
    except SystemExit:
        # The one thing that click still ends by itself in this mode, with 1: EPIPE on stdout.
        return _broken_pipe()
    except Exception as error:  # noqa: BLE001 - the last resort: a bug must not look like a command's 1
        found = as_error(error)
        if is_bug(error) and sys.stderr is not None:
            import traceback  # noqa: PLC0415 - 4 ms, for defects

            traceback.print_exc(file=sys.stderr)
        code = render.error(found, as_json=as_json, of_link=of_link)
        if isinstance(error, OSError) and error.filename == render.STDOUT:
            _drop_output()
        return code
    return code if isinstance(code, int) else 0


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether an error is to be told to a machine, even one that keeps us from understanding the arguments."""
    return "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)


def _is_link(arguments: Sequence[str]) -> bool:
    """Whether the command is ``link``, whose errors have all the fields that its other outcomes have."""
    words = iter(arguments)
    for word in words:
        if word == "--store":
            next(words, None)
        elif not word.startswith("-"):
            return word == "link"
    return False


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
