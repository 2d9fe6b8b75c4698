"""Running the command line: how a command begins, and how everything that can end it becomes an answer.

click is loaded for what ``usual`` does not understand: it takes as long as linking a dozen wheels.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Collection, Sequence

from vrfstore.cli import render, usual
from vrfstore.cli.ending import ENDING, TerminatedError, terminable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["leave", "run"]


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


def leave(code: int) -> NoReturn:
    """End this process, which is ours, at once.

    The interpreter's own farewell takes 5 ms and would find nothing to do: every thread, file and process has ended
    with its block. And a signal that came meanwhile would put its own code in the place of the one that was answered.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    for stream in (sys.stdout, sys.stderr):
        # There may be none, or nobody who listens: what matters has been said.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run(arguments: Sequence[str], *, as_json: bool, of_link: bool) -> int:
    try:
        words = usual.parse(arguments, os.environ)
        if words is not None:
            from vrfstore.cli import linking  # noqa: PLC0415 - only what is understood needs it

            linking.answer(words.requirements, words.store, **words.options)
            return 0
        return _parsed(arguments, as_json=as_json, of_link=of_link)
    except BrokenPipeError:
        return _broken_pipe()
    except EOFError:  # as with click: who was asked has nothing to say
        return render.ended(signal.SIGINT, as_json=as_json, of_link=of_link)
    except Exception as error:  # noqa: BLE001 - the last resort: a bug must not look like a command's 1
        from vrfstore.cli.failures import as_error, is_bug  # noqa: PLC0415 - for failures only

        found = as_error(error)
        if is_bug(error) and sys.stderr is not None:
            import traceback  # noqa: PLC0415 - 4 ms, for defects

            traceback.print_exc(file=sys.stderr)
        code = render.error(found, as_json=as_json, of_link=of_link)
        if isinstance(error, OSError) and error.filename == render.STDOUT:
            _drop_output()
        return code


def _parsed(arguments: Sequence[str], *, as_json: bool, of_link: bool) -> int:
    """Do what click makes of the arguments."""
    import click  # noqa: PLC0415 - see the module

    from vrfstore.cli.application import application  # noqa: PLC0415

    try:
        code = application.main(list(arguments), prog_name="vrfstore", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort:
        return render.ended(signal.SIGINT, as_json=as_json, of_link=of_link)
    except click.ClickException as error:
        return render.usage(error, as_json=as_json, of_link=of_link)
    except SystemExit as leaving:
        # What click still ends by itself in this mode: a shell's request for words, and with 1 EPIPE on stdout.
        return _broken_pipe() if leaving.code == 1 else 0
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
