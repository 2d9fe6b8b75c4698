"""What is known of the bytecode of an entry: a record for each cache tag, written when all its pycs are there.

::

    entries/<directory>/bytecode/<cache tag>-<magic>.json             the record
    entries/<directory>/site-packages/**/__pycache__/<stem>.<cache tag>.pyc

The magic number is in the name, so that one stat tells whether an entry has been compiled. Who compiles is
``store.compiling``; the path of a warm link comes through here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping

from vrfstore import codec, fs
from vrfstore.model import Interpreter
from vrfstore.store.layout import BYTECODE, SITE_PACKAGES, Layout
from vrfstore.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BytecodeRecord",
    "CompiledFile",
    "is_compiled",
    "pyc_path",
    "read_record",
    "read_records",
    "record_path",
    "record_paths",
    "sources",
]

_SCHEMA = 1
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class CompiledFile:
    """One pyc: its path relative to the entry, its bytes, and its SHA-256 (64 hexadecimal digits)."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BytecodeRecord:
    """What was compiled of an entry, and by what.

    Attributes:
        cache_tag: The name that the pycs carry, such as ``cpython-313`` (PEP 3147).
        magic: The magic number that they begin with, 8 hexadecimal digits.
        version: Of the interpreter, ``X.Y.Z``.
        files: The pycs, sorted by path.
        failed: The modules that do not compile: (path relative to the entry, why), sorted.
    """

    cache_tag: str
    magic: str
    version: str
    files: tuple[CompiledFile, ...]
    failed: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, object]:
        """Return the record as its file holds it, with a checksum of itself."""
        return codec.with_checksum(
            {
                "schema": _SCHEMA,
                "cache_tag": self.cache_tag,
                "magic": self.magic,
                "version": self.version,
                "files": [[file.path, file.size, file.sha256] for file in self.files],
                "failed": [list(module) for module in self.failed],
            }
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BytecodeRecord:
        """Return the record that a file holds.

        Raises:
            ValueError: It is of another schema, or not what was written.
            KeyError, TypeError: It is not a record.
        """
        if value["schema"] != _SCHEMA:
            raise ValueError(f"bytecode record of schema {value['schema']!r}")
        codec.check_checksum(value)
        return cls(
            cache_tag=codec.text(value["cache_tag"]),
            magic=codec.text(value["magic"]),
            version=codec.text(value["version"]),
            files=tuple(
                CompiledFile(codec.text(path), int(size), codec.text(sha256))
                for path, size, sha256 in value["files"]
            ),
            failed=tuple((codec.text(path), codec.text(why)) for path, why in value["failed"]),
        )


def record_path(layout: Layout, directory: str, cache_tag: str, magic: str) -> str:
    """Return the path of a record.

    Args:
        layout: The store's.
        directory: The entry's directory name.
        cache_tag: Such as ``cpython-313``.
        magic: 8 hexadecimal digits.
    """
    return f"{layout.of('entries', directory)}/{BYTECODE}/{cache_tag}-{magic}{_SUFFIX}"


def record_paths(layout: Layout, directory: str, cache_tag: str | None = None) -> list[str]:
    """Return the paths of all records of an entry, or of one cache tag with whatever magic number, sorted.

    Raises:
        FileNotFoundError: There is no such entry.
    """
    parent = f"{layout.of('entries', directory)}/{BYTECODE}"
    names = (name for name in os.listdir(parent) if name.endswith(_SUFFIX))
    return [
        f"{parent}/{name}"
        for name in sorted(names)
        if cache_tag is None or name.rpartition("-")[0] == cache_tag
    ]


def is_compiled(layout: Layout, directory: str, interpreter: Interpreter) -> bool:
    """Whether an entry has been compiled for an interpreter: one stat."""
    return os.path.exists(record_path(layout, directory, interpreter.cache_tag, interpreter.magic))


def read_record(layout: Layout, directory: str, cache_tag: str) -> BytecodeRecord | None:
    """Return the record of an entry for a cache tag; None where there is none, or it cannot be read."""
    found = (record for record in read_records(layout, directory) if record.cache_tag == cache_tag)
    return next(found, None)


def read_records(layout: Layout, directory: str) -> list[BytecodeRecord]:
    """Return all records of an entry that can be read, in the order of their names."""
    found = []
    with contextlib.suppress(OSError):
        for path in record_paths(layout, directory):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = BytecodeRecord.from_json(codec.loads(fs.read_file(path)))
                if path == record_path(layout, directory, record.cache_tag, record.magic):
                    found.append(record)
    return found


def pyc_path(source: str, cache_tag: str) -> str:
    """Return where the pyc of a module is (PEP 3147): beside it, so that both paths are relative to the same.

    Args:
        source: Such as ``site-packages/six.py``.
        cache_tag: Such as ``cpython-313``.
    """
    parent, slash, name = source.rpartition("/")
    return f"{parent}{slash}__pycache__/{name.removesuffix('.py')}.{cache_tag}.pyc"


def sources(paths: Iterable[str]) -> list[str]:
    """Return those paths of an entry that are modules to compile, in the order given."""
    return [
        path
        for path in paths
        # A file that is called `.py` is no module, and would have the pyc of `py.py`.
        if path.startswith(f"{SITE_PACKAGES}/") and path.endswith(".py") and not path.endswith("/.py")
    ]
