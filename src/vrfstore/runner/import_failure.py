"""What a traceback says of an import that failed: from text to a value, purely. The text is anybody's.

Read are what Python prints (3.9 and newer), what IPython makes of it, coloured or not, inside of what nbclient says of
a notebook or alone, and the one line of ``python -m``. What counts is the last exception of the text, which is the one
that nobody caught; where that is none of an import, the one that it was raised *from*, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from vrfstore.values import dataclass, replace

__all__ = ["LARGEST", "ImportFailure", "Kind", "find", "from_message", "is_name"]

Kind = Literal["module", "name", "shadowed", "library", "symbol"]
"""``module``: there is none of that name. ``name``: it has no such thing in it. ``shadowed``: a file with the name of
another is in its place, or imports itself. ``library``: a shared library is missing. ``symbol``: one is too old."""

LARGEST = 1 << 20
"""Bytes of a text that are looked at: its last ones."""

_LONGEST_LINE = 4096
"""Characters of a line that are looked at. No import has a longer name."""

_MOST_FILES = 200
"""Files of a traceback that are kept, the innermost ones."""

_LONGEST_NAME = 200

# ECMA-48: control sequences (colours among them), and strings such as titles and links.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-Z\\^_])")

_PLAIN_HEAD = "Traceback (most recent call last):"
_NOTEBOOK_HEAD = re.compile(r"([A-Za-z_][\w.]{0,200}) +Traceback \(most recent call last\)")
_GROUP = re.compile(r"^ *[|+] ?")
_EXCEPTION = re.compile(r"((?:\w{1,100}\.){0,20}[A-Za-z_]\w{0,100})(?:: (.*))?")
_FILES = (re.compile(r' *File "([^"]+)", line \d+'), re.compile(r"File (/[^:]+):\d+"))

# A line of source as Python shows it, or IPython with an arrow and its number.
_SOURCE = re.compile(r"(?:-+>)? *(?:\d+ )? *((?:import|from) .*)")
_STATEMENT = re.compile(r"(?:from ([\w.]+) )?import \(?([\w., ]*)\)?.*")

_FROM = "The above exception was the direct cause of the following exception:"

_PATH = r"(?P<path>/[^()']*|<[^<>]*>|unknown location)"
_MESSAGES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("shadowed", re.compile(r"No module named '(?P<module>[^']+)'; '(?P<package>[^']+)' is not a package")),
    ("module", re.compile(r"No module named '(?P<module>[^']+)'")),
    ("module", re.compile(r"Missing optional dependency '(?P<module>[^']+)'")),
    (
        "shadowed",
        re.compile(
            r"(?:cannot import name '(?P<name>[^']+)' from|module) '(?P<module>[^']+)'(?: has no attribute "
            r"'(?P<attribute>[^']+)')? \(consider renaming '(?P<path>[^']+)'"
        ),
    ),
    (
        "shadowed",
        re.compile(
            r"cannot import name '(?P<name>[^']+)' from partially initialized module '(?P<module>[^']+)' \(most likely "
            r"due to a circular import\)(?: \(" + _PATH + r"\))?"
        ),
    ),
    (
        "shadowed",
        re.compile(
            r"(?:partially initialized )?module '(?P<module>[^']+)' (?:from '(?P<path>[^']+)' )?has no attribute "
            r"'(?P<name>[^']+)' \((?:most likely due to a circular import|consider renaming)"
        ),
    ),
    (
        "name",
        re.compile(r"cannot import name '(?P<name>[^']+)' from '(?P<module>[^']+)'(?: \(" + _PATH + r"\))?"),
    ),
    ("library", re.compile(r"(?P<library>[\w.+-]+\.so(?:\.\d+)*): cannot open shared object file")),
    ("symbol", re.compile(r"(?P<path>/\S+): version `(?P<library>[A-Z]+_[\d.]+)' not found")),
)  # fmt: skip

_OF_IMPORTS = frozenset(["ModuleNotFoundError", "ImportError", "OSError", "AttributeError"])

_DASH_M = re.compile(r"\S*python[\w.]*: (?:Error while finding module specification for '\S+' \(ModuleNotFoundError: )?"
                     r"No module named '?(?P<module>[\w.]+)'?\)?")  # fmt: skip

_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportFailure:
    """An import that failed.

    Attributes:
        kind: See ``Kind``.
        module: The dotted name that is not there, or not as it should be; empty for libraries.
        name: What was wanted from it, if it was there.
        wanted: The dotted name that the statement names, where that is longer: Python tells the first part that is
            missing, which of a namespace says little.
        path: The file of the module, or of the library, where the message tells.
        library: The shared library (its SONAME), or the version of a symbol.
        files: The files of the traceback, the innermost last.
    """

    kind: Kind
    module: str = ""
    name: str = ""
    wanted: str = ""
    path: str = ""
    library: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Raised:
    """One exception of a text: what it is called, what it says, where, and whether the one before is its cause."""

    name: str
    message: str
    files: tuple[str, ...]
    statement: str
    has_cause: bool


def is_name(module: str) -> bool:
    """Whether a text is the dotted name of a module."""
    return len(module) <= _LONGEST_NAME and _NAME.fullmatch(module) is not None


def find(data: bytes) -> ImportFailure | None:
    """Return the failed import that a text ends with; None where there is none."""
    raised = list(_raised(_lines(data[-LARGEST:])))
    for position in range(len(raised) - 1, -1, -1):
        found = _judge(raised[position])
        if found is not None or not raised[position].has_cause:
            return found
    return None


def from_message(message: str) -> ImportFailure | None:
    """Return what the message of an exception says; None where it is none of an import."""
    for kind, pattern in _MESSAGES:
        match = pattern.match(message) or (pattern.search(message) if kind in {"library", "symbol"} else None)
        if match is None:
            continue
        told = {name: value or "" for name, value in match.groupdict().items()}
        module = told.get("package") or told.get("module", "")
        if module and not is_name(module):
            return None
        path = told.get("path", "")
        below = told.get("module", "").removeprefix(f"{module}.") if told.get("package") else ""
        return ImportFailure(
            kind=kind,
            module=module,
            name=told.get("name") or told.get("attribute") or below,
            path=path if path.startswith("/") else "",
            library=told.get("library", ""),
        )
    return None


def _judge(raised: _Raised) -> ImportFailure | None:
    if raised.name.rpartition(".")[2] not in _OF_IMPORTS:
        return None
    found = from_message(raised.message)
    if found is None or (raised.name == "AttributeError" and found.kind != "shadowed"):
        return None
    return replace(found, files=raised.files, wanted=_wanted(raised.statement, found.module))


def _wanted(statement: str, module: str) -> str:
    """Return the dotted name of an import statement that begins with a module; empty where none is longer."""
    match = _STATEMENT.fullmatch(statement)
    if match is None or not module:
        return ""
    package, names = match[1], [word.split()[0] for word in match[2].split(",") if word.split()]
    dotted = [f"{package}.{name}" for name in names] if package else names
    return next((name for name in dotted if is_name(name) and name.startswith(f"{module}.")), "")


def _lines(data: bytes) -> Iterator[str]:
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    for line in filter(None, _CONTROL.sub("", text).split("\n")):
        yield line[:_LONGEST_LINE].rstrip()


def _raised(lines: Iterable[str]) -> Iterator[_Raised]:
    """Yield the exceptions of a text in their order."""
    inside: str | None = None  # the name that ends a traceback of IPython; empty for one of Python
    files: list[str] = []
    statement = ""
    cause = False
    for given in lines:
        line = _GROUP.sub("", given) if given.lstrip().startswith(("|", "+")) else given
        head = _NOTEBOOK_HEAD.fullmatch(line)
        if line.strip() == _PLAIN_HEAD or head is not None:
            inside, files, statement = ("" if head is None else head[1]), [], ""
        elif line == _FROM:
            cause = True
        elif (path := _file(line)) is not None:
            files = [*files[1 - _MOST_FILES :], path]
        elif (dashed := _DASH_M.fullmatch(line)) is not None:
            yield _Raised("ImportError", f"No module named '{dashed['module']}'", (), "", has_cause=False)
        elif (match := _EXCEPTION.fullmatch(line)) is not None:
            name, message = match[1], match[2] or ""
            expected = name == inside if inside else inside is not None
            # Without a head it may have been cut off, or a user pasted the one line that matters.
            if expected or name in {"ModuleNotFoundError", "ImportError"}:
                yield _Raised(name, message, tuple(files), statement, has_cause=cause)
                inside, files, statement, cause = None, [], "", False
        elif (found := _SOURCE.fullmatch(line)) is not None:
            statement = found[1]


def _file(line: str) -> str | None:
    for pattern in _FILES:
        match = pattern.match(line)
        if match is not None:
            return match[1]
    return None
