"""How answers and errors look: text for people, one JSON object for machines."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterable, Sequence

from vrfstore.cli.ending import answering
from vrfstore.errors import UsageError, VrfstoreError
from vrfstore.units import moment_text as moment
from vrfstore.units import size_text as size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import click

__all__ = [
    "SCHEMA_VERSION",
    "STDOUT",
    "age",
    "count",
    "ended",
    "error",
    "explain",
    "hint",
    "moment",
    "plain",
    "print_json",
    "size",
    "some",
    "table",
    "usage",
    "visible",
    "warn",
    "with_some",
]

SCHEMA_VERSION = 1

STDOUT = "stdout"
"""The ``filename`` of an ``OSError`` of ours about it."""

_LAST_CONTROL = 0x9F

_RED, _YELLOW, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[0m"


def print_json(value: dict[str, object]) -> None:
    """Print one JSON object on stdout, and nothing else, whatever comes from now on."""
    import json  # noqa: PLC0415 - 5 ms, for machines

    answering()
    plain(json.dumps({"schema_version": SCHEMA_VERSION, **value}, indent=2))


def plain(text: str) -> None:
    """Print a line on stdout, at once: an answer that cannot be delivered is an error, not a surprise at exit.

    Raises:
        OSError: stdout is closed, full or broken.
    """
    stream = sys.stdout
    if stream is None:  # the caller closed it before we began
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), STDOUT)
    try:
        try:
            stream.write(f"{text}\n")
        except UnicodeEncodeError:  # a path in bytes that the terminal's encoding has no characters for
            stream.buffer.write(_bytes(f"{text}\n"))
        stream.flush()
    except OSError as error:
        error.filename = STDOUT
        raise


def _bytes(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:  # half a character, which JSON can spell and no path has
        return text.encode(errors="backslashreplace")


def visible(text: str) -> str:
    """Return a text in which names of files cannot do anything to a terminal."""
    return "".join(
        character if character.isprintable() or ord(character) > _LAST_CONTROL else repr(character)[1:-1]
        for character in text
    )


def count(number: int, singular: str, plural: str) -> str:
    """Return a number with its noun."""
    return f"{number} {singular if number == 1 else plural}"


def warn(text: str) -> None:
    """Print a warning on stderr."""
    _complain(f"{_coloured('warning:', _YELLOW)} {visible(text)}\n")


def hint(message: str, advice: str) -> None:
    """Say on stderr what to do about what somebody else has complained of."""
    lines = [
        f"{_coloured('hint:', _YELLOW)} {visible(message)}",
        *([f"  {visible(advice)}"] if advice else []),
    ]
    _complain("\n".join(lines) + "\n")


def error(found: VrfstoreError, *, as_json: bool, of_link: bool = False) -> int:
    """Show an error: in full on stderr, as an object on stdout where JSON was asked for; return its exit code.

    Args:
        found: The error.
        as_json: Whether JSON was asked for.
        of_link: Whether that is to have all the fields of the outcome of a link.
    """
    explain(found)
    if as_json:
        _answer(found.fields(), of_link=of_link)
    return found.exit_code


def explain(found: VrfstoreError) -> None:
    """Show an error on stderr, in full."""
    lines = [f"{_coloured('error:', _RED)} {visible(str(found))}"]
    lines += [
        f"  {name}: {visible(value)}" for name, value in (("hint", found.hint), ("log", found.log)) if value
    ]
    _complain("\n".join(lines) + "\n")


def ended(number: int, *, as_json: bool, of_link: bool = False) -> int:
    """Answer to a signal that ended the command; return the exit code, which is a shell's for it; see ``error``."""
    code = 128 + number
    kind = "interrupted" if number == signal.SIGINT else "terminated"
    if as_json:
        _answer(VrfstoreError(kind, kind=kind).fields() | {"code": code}, of_link=of_link)
    return code


def _answer(fields: dict[str, object], *, of_link: bool) -> None:
    """Print the fields of an error as an object."""
    document: dict[str, object] = {}
    if of_link:
        from vrfstore.runner.outcome import Outcome  # noqa: PLC0415 - for links only

        document = Outcome(status="error").to_json()
    with contextlib.suppress(OSError):
        print_json({**document, "status": "error", "error": fields})


def usage(found: click.ClickException, *, as_json: bool, of_link: bool = False) -> int:
    """Show what is wrong with the command line; see ``error``."""
    context = getattr(found, "ctx", None)
    hint = f"see: {context.command_path} --help" if context is not None else "see: vrfstore --help"
    return error(UsageError(found.format_message(), hint=hint), as_json=as_json, of_link=of_link)


def _complain(text: str) -> None:
    """Write to stderr, if there is one: some callers close it, and the exit code still counts."""
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _coloured(text: str, colour: str) -> str:
    stream = sys.stderr
    # https://no-color.org: any value that is not empty.
    dumb = os.environ.get("TERM") == "dumb"
    wanted = stream is not None and stream.isatty() and not dumb and not os.environ.get("NO_COLOR")
    return f"{colour}{text}{_RESET}" if wanted else text


def age(seconds: float) -> str:
    """Return a time ago for people: ``3 days``, ``just now``."""
    for name, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {name}{'s' if number > 1 else ''} ago"
    return "just now"


def some(names: Sequence[str], most: int = 3) -> str:
    """Return a list for people, of which only the first few are named: ``a, b, c and 4 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def with_some(name: str, content: Sequence[str]) -> str:
    """Return a name with the first few things that are in it, if any are known: ``environment x (a, b)``."""
    return f"{name} ({some(content)})" if content else name


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows below their headings, in columns; the last one is not padded."""
    everything = [tuple(headings), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in everything) for column in range(len(headings))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in everything
    )
    return "\n".join(line.rstrip() for line in lines)
