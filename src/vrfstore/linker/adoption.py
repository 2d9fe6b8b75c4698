"""Taking over what another tool has made: a venv, or a directory of packages. The pure part.

What is read of such a directory may be anything: every function here takes bytes and gives up quietly on what it
cannot read, because what nobody understands is left as it is.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from vrfstore import codec
from vrfstore.store.scripts import trampolined
from vrfstore.values import dataclass

__all__ = [
    "ACTIVATION",
    "UNDO",
    "Configuration",
    "Journal",
    "Kept",
    "Shebang",
    "configuration",
    "journal_from_json",
    "journal_to_json",
    "library_of",
    "library_version",
    "named_directories",
    "retargeted",
    "shebang",
    "topmost",
]

UNDO = ".vrfstore-undo"
"""The directory in an adopted environment that has what was replaced there, and the journal."""

ACTIVATION = ("Activate.ps1", "activate", "activate.csh", "activate.fish", "activate.nu")
"""The activation scripts that are looked into."""

_SCHEMA = 1

_STATES = ("adopting", "adopted", "undoing")

_LONGEST_SHEBANG = 127
"""Bytes of a first line that execve(2) reads on every kernel."""

_LIBRARY = re.compile(r"python3\.(\d{1,3})t?")

_SHEBANG = re.compile(rb"#![ \t]*(/(?:[^\0]*/)?python[\d.]*[tw]?)(?:[ \t]+([^\0]*?))?[ \t\r]*")

# How pip, distlib and uv write a script whose interpreter has a space in its path, or a long one.
_EXEC = re.compile(
    rb"""#![ \t]*/bin/sh\r?\n'''exec' "?(/[^"\0\n$`]*/python[\d.]*[tw]?)"? "\$0" "\$@"\r?\n' '''\r?\n?"""
)

_OPTIONS = re.compile(rb"-[A-Za-z]+")

_NAMED = re.compile(
    rb"""VIRTUAL_ENV["']?[ \t]*[= \t:][ \t]*(?:r\#+)?["']?(/[^"'\n;)]*)""",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """What a ``pyvenv.cfg`` says (PEP 405, and what venv, virtualenv and uv add).

    Attributes:
        home: The directory of the base interpreter; empty where it says nothing.
        executable: The base interpreter; empty where it says nothing.
        version: ``X.Y``, or empty.
        system: Whether packages of the base are seen.
        prompt: What prompts show, if it says so.
    """

    home: str = ""
    executable: str = ""
    version: str = ""
    system: bool = False
    prompt: str | None = None


def configuration(data: bytes) -> Configuration:
    """Read a ``pyvenv.cfg`` as ``site`` does: one key a line, the last one counts, anything else is passed over."""
    found: dict[str, str] = {}
    for line in os.fsdecode(data).splitlines():
        key, equals, value = line.partition("=")
        if equals and "\0" not in value:
            found[key.strip().lower()] = value.strip()
    version = re.match(r"(3\.\d{1,3})(?!\d)", found.get("version", found.get("version_info", "")))
    return Configuration(
        home=_absolute(found.get("home", "")),
        executable=_absolute(found.get("executable", "")),
        version=version[1] if version else "",
        system=found.get("include-system-site-packages", "").lower() == "true",
        prompt=_prompt(found.get("prompt", "")),
    )


def _absolute(path: str) -> str:
    return path if os.path.isabs(path) else ""


def _prompt(text: str) -> str | None:
    """Return a prompt, which venv writes as Python does and the others as it is; None for one that cannot be kept."""
    if text[:1] in {"'", '"'} and text[-1:] == text[:1]:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        text = value if isinstance(value, str) else ""
    return text if text and text.isprintable() else None


def library_of(name: str) -> bool:
    """Whether that is the name of a library directory of a CPython 3, such as ``python3.11``."""
    return _LIBRARY.fullmatch(name) is not None


def library_version(name: str) -> tuple[int, bool]:
    """Return what orders library directories, the newest last; free-threaded ones before others of one version."""
    match = _LIBRARY.fullmatch(name)
    return (int(match[1]), not name.endswith("t")) if match else (-1, False)


@dataclass(frozen=True, slots=True)
class Shebang:
    """How a script says what it is run by.

    Attributes:
        interpreter: The absolute path of a python.
        options: What it is given, as written.
        rest: The script without this.
        ended: Whether there was an end of line.
    """

    interpreter: bytes
    options: bytes
    rest: bytes
    ended: bool = True


def shebang(data: bytes) -> Shebang | None:
    """Return how a text script names its python by path; None for everything else.

    Not for programs, for what a zip file follows, or for ``/usr/bin/env python``, which is what PATH says.
    """
    if not data.startswith(b"#!") or b"\0" in data:
        return None
    match = _EXEC.match(data)
    if match is not None:
        return Shebang(match[1], b"", data[match.end() :])
    first, end, rest = data.partition(b"\n")
    match = _SHEBANG.fullmatch(first)
    return None if match is None else Shebang(match[1], match[2] or b"", rest, ended=bool(end))


def retargeted(found: Shebang, python: str) -> bytes:
    """Return a script that is run by another python, which lies beside it.

    Args:
        found: The script.
        python: The absolute path of ``python`` in the script's own directory.
    """
    options = b" " + found.options if found.options else b""
    line = b"#!" + os.fsencode(python) + options
    if len(line) < _LONGEST_SHEBANG and not re.search(rb"\s", os.fsencode(python)):
        return line + (b"\n" if found.ended else b"") + found.rest
    script = trampolined(b"#!python\n" + found.rest)
    if _OPTIONS.fullmatch(found.options):
        script = script.replace(b'/python" "$0"', b'/python"' + options + b' "$0"', 1)
    return script


def named_directories(data: bytes) -> list[str]:
    """Return the directories that an activation script takes for its environment, as far as it spells them out."""
    return [os.fsdecode(match[1].rstrip()) for match in _NAMED.finditer(data) if b"\0" not in match[1]]


def topmost(paths: Iterable[str]) -> list[str]:
    """Return the paths that are not inside another one of them, sorted."""
    found: list[str] = []
    for path in sorted(set(paths), key=lambda path: path.split("/")):
        if not found or not path.startswith(f"{found[-1]}/"):
            found.append(path)
    return found


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that is kept while an environment is adopted.

    Attributes:
        path: Where it was, below the environment.
        name: What it is called in ``UNDO``.
        how: ``copy``: a further name of the same file, which is then replaced. ``move``: it makes way.
            ``remove``: it goes when all the rest is done.
    """

    path: str
    name: str
    how: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """What adopting an environment is about to do, and has done; written before anything is changed.

    Attributes:
        state: ``adopting``, ``adopted`` or ``undoing``.
        store: The absolute path of the store.
        kept: What is kept, in the order in which it is.
        scripts: What becomes of scripts that are run by another python from now on, as ``Made.what``.
        there: All that was there before, but for bytecode.
        made: Once it is adopted: what was put there, as ``Made.what``.
    """

    state: str
    store: str
    kept: tuple[Kept, ...]
    scripts: Mapping[str, str]
    there: Collection[str]
    made: Mapping[str, str]


def journal_to_json(journal: Journal) -> bytes:
    """Return a journal as it is written down."""
    return codec.dumps(
        codec.with_checksum(
            {
                "schema": _SCHEMA,
                "state": journal.state,
                "store": journal.store,
                "kept": [[kept.path, kept.name, kept.how] for kept in journal.kept],
                "scripts": dict(journal.scripts),
                "there": sorted(journal.there),
                "made": dict(journal.made),
            }
        )
    )


def journal_from_json(data: bytes) -> Journal:
    """Return the journal that was written down.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is none.
    """
    value = codec.loads(data)
    codec.check_checksum(value)
    if value["schema"] != _SCHEMA or value["state"] not in _STATES:
        raise ValueError("it is of another version")
    if b"\0" in os.fsencode(codec.text(value["store"])):
        raise ValueError("its store is no path")
    return Journal(
        state=value["state"],
        store=codec.text(value["store"]),
        kept=tuple(_kept(*found) for found in value["kept"]),
        scripts=_whats(value["scripts"]),
        there=frozenset(map(codec.text, value["there"])),
        made=_whats(value["made"]),
    )


def _kept(path: object, name: object, how: object) -> Kept:
    if how not in {"copy", "move", "remove"} or not codec.text(name).isdecimal():
        raise ValueError("it keeps something in a way that nobody knows")
    return Kept(_inside(path), codec.text(name), codec.text(how))


def _whats(value: Mapping[str, Any]) -> dict[str, str]:
    return {_inside(path): codec.text(what) for path, what in value.items()}


def _inside(path: object) -> str:
    """Return a path of a journal, which somebody may have written who means to lead us out of the environment."""
    parts = codec.text(path).split("/")
    if {"", ".", ".."}.intersection(parts) or b"\0" in os.fsencode(codec.text(path)):
        raise ValueError(f"{path!r} is no path in an environment")
    return codec.text(path)
