"""``manifest.json``: all that an entry consists of, so that any change of it can be found. Pure: values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vrfstore import codec
from vrfstore.model import Digest, EntryReference
from vrfstore.store.layout import BYTECODE, SITE_PACKAGES
from vrfstore.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Manifest", "StoredFile", "bytecode_directories", "parents"]

_SCHEMA = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """One regular file of an entry.

    Attributes:
        path: Relative to the entry, such as ``site-packages/six.py``.
        size: Bytes.
        mode: 0o444 or 0o555.
        sha256: 64 hexadecimal digits.
    """

    path: str
    size: int
    mode: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What an entry holds, but for the manifest itself and bytecode.

    Attributes:
        reference: Which entry it is, and the directory name that its ready-made links lead to.
        filename: The wheel's file name.
        origin: Where the wheel came from, for a repair: a URL without credentials, an absolute path, or nothing.
        files: The regular files, sorted by path.
        links: The target of each symlink by its path, such as ``links/0``. A path that is among the files as well is a
            link to such a file in the entry of a shared store (``store.shared``).
    """

    reference: EntryReference
    filename: str
    origin: str
    files: tuple[StoredFile, ...]
    links: Mapping[str, str]

    @property
    def directories(self) -> frozenset[str]:
        """Every directory below the entry, those for bytecode among them."""
        paths = [*(file.path for file in self.files), *self.links]
        return parents(paths) | bytecode_directories(paths) | {"links", BYTECODE}

    @property
    def own_files(self) -> tuple[StoredFile, ...]:
        """The files that are here, and not in a shared store."""
        return tuple(file for file in self.files if file.path not in self.links)

    @property
    def lender(self) -> str:
        """The entry of a shared store that has the other files, an absolute path; empty where there are none."""
        lent = (file.path for file in self.files if file.path in self.links)
        return next((self.links[path].removesuffix(f"/{path}") for path in lent), "")

    def to_json(self) -> dict[str, object]:
        """Return the manifest as ``manifest.json`` holds it, with a checksum of itself."""
        return codec.with_checksum(
            {
                "schema": _SCHEMA,
                "digest": self.reference.digest,
                "name": self.reference.name,
                "version": self.reference.version,
                "directory": self.reference.directory,
                "filename": self.filename,
                "origin": self.origin,
                "files": [[file.path, file.size, file.mode, file.sha256] for file in self.files],
                "links": dict(self.links),
            }
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        """Return the manifest that ``manifest.json`` holds.

        Raises:
            ValueError: It is of another schema, or not what was written.
            KeyError, TypeError: It is not a manifest.
        """
        if value["schema"] != _SCHEMA:
            raise ValueError(f"manifest of schema {value['schema']!r}")
        codec.check_checksum(value)
        files = (
            StoredFile(path=codec.text(path), size=int(size), mode=int(mode), sha256=codec.text(sha256))
            for path, size, mode, sha256 in value["files"]
        )
        return cls(
            reference=EntryReference(
                digest=Digest(codec.text(value["digest"])),
                name=codec.text(value["name"]),
                version=codec.text(value["version"]),
                directory=codec.text(value["directory"]),
            ),
            filename=codec.text(value["filename"]),
            origin=codec.text(value["origin"]),
            files=tuple(files),
            links={codec.text(path): codec.text(target) for path, target in value["links"].items()},
        )


def parents(paths: Iterable[str]) -> frozenset[str]:
    """Return all directories above some relative paths."""
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return frozenset(found)


def bytecode_directories(paths: Iterable[str]) -> frozenset[str]:
    """Return the ``__pycache__`` directories that an entry of these files has: one beside every module's source."""
    return frozenset(
        f"{path.rpartition('/')[0]}/__pycache__"
        for path in paths
        if path.startswith(f"{SITE_PACKAGES}/") and path.endswith(".py")
    )
