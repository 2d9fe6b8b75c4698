"""Reading TOML that others wrote: bounded in what it may cost, errors with the line in the file that holds it."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from vrfstore.errors import RequirementsError

__all__ = ["lines_of", "loads", "table", "texts"]

_LONGEST_HEADER = 100
"""Dots in a table's header. ``tomllib`` goes through all parts of it again for every line below."""

_MOST_DOTS = 10**8
"""Sum of the squares of the dots in each line. ``tomllib`` takes a time that grows with the square of a dotted key:
one of 40,000 parts, in 80 KB, is 25 seconds. What is a key and what a text is not asked; 10,000 dots in one line, or
100 in each of 10,000 lines, are fine."""

_LITERAL = re.compile(r"\"([^\"\\\n]*)\"|'([^'\n]*)'")
_WHERE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def loads(text: str, path: str, kind: str, *, first_line: int = 1) -> dict[str, Any]:
    """Return the document that a text holds.

    Args:
        text: TOML.
        path: The file that has it.
        kind: The kind of an error.
        first_line: The line of the file that is the first of the text.

    Raises:
        RequirementsError: It is not TOML, or nested too deeply, or its keys are endless.
    """
    try:
        _check_keys(text)
        return tomllib.loads(text)
    except RecursionError:
        message, line = "it is nested too deeply", None
    except ValueError as error:
        where = _WHERE.search(str(error))
        message = _WHERE.sub("", str(error))
        last = text.count("\n") + 1
        line = first_line - 1 + int(where[1] or last) if where is not None else None
    raise RequirementsError(f"this is not TOML: {message}", kind=kind, path=path, line=line)


def _check_keys(text: str) -> None:
    """Refuse endless keys.

    Raises:
        ValueError: There may be one.
    """
    dots = 0
    for number, line in enumerate(text.split("\n"), start=1):
        here = line.count(".")
        dots += here * here
        if dots > _MOST_DOTS or (here > _LONGEST_HEADER and line.lstrip(" \t").startswith("[")):
            raise ValueError(f"a key may be endless (at line {number}, column 1)")


def table(document: dict[str, Any], key: str, path: str, kind: str) -> dict[str, Any] | None:
    """Return a table of a document; None where there is none.

    Args:
        document: A table.
        key: A bare key of it.
        path: The file.
        kind: The kind of an error.

    Raises:
        RequirementsError: Something else is there.
    """
    value = document.get(key)
    if value is None or isinstance(value, dict):
        return value
    raise RequirementsError(f"{key} is not a table", kind=kind, path=path)


def texts(value: object, place: str, path: str, kind: str) -> list[str]:
    """Return an array of texts.

    Args:
        value: What is there.
        place: What to call it in an error, as ``project.dependencies``.
        path: The file.
        kind: The kind of an error.

    Raises:
        RequirementsError: Something else is there.
    """
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise RequirementsError(
        f"{place} is not an array of texts", kind=kind, path=path, hint='write it as in: ["pandas>=2"]'
    )


def lines_of(text: str, first_line: int = 1) -> dict[str, int]:
    """Return where each text stands between quotes that does so on one line only; ``tomllib`` does not tell.

    Args:
        text: TOML.
        first_line: The line of the file that is the first of the text.
    """
    found: dict[str, int] = {}
    twice: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=first_line):
        for literal in _LITERAL.finditer(line):
            value = literal[1] or literal[2] or ""
            if found.setdefault(value, number) != number:
                twice.add(value)
    return {value: number for value, number in found.items() if value not in twice}
