"""Reading a wheel that nobody has vouched for: installer's source port, with every doubt an error.

``CheckedWheel`` checks names, modes, METADATA and RECORD before anything is written, and the content of each
member against its RECORD row while it is read, so that a wheel is inflated once and not twice.
"""

from __future__ import annotations

import base64
import hashlib
import io
import posixpath
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NoReturn, cast

from installer.exceptions import InstallerError
from installer.records import InvalidRecordEntry, parse_record_file
from installer.sources import WheelContentElement, WheelFile, WheelSource
from installer.utils import parse_metadata_file
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from vrfstore.errors import WheelError

__all__ = ["CheckedWheel", "checked_wheel"]

_HASHES = {"sha256", "sha384", "sha512"}
"""What RECORD may use; the binary distribution format asks for sha256 or better."""

_LONGEST_PART = 255
"""Bytes of one name on the usual file systems (NAME_MAX)."""

_CHUNK = 1 << 18


@contextmanager
def checked_wheel(path: str, filename: str) -> Iterator[CheckedWheel]:
    """Open the wheel at ``path``, whose file name is, or was, ``filename``; every fault is a ``WheelError``.

    Errors of reading inside the ``with`` block are translated as well.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield CheckedWheel(archive, filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # NotImplementedError: unknown compression. RuntimeError: encrypted.
        raise WheelError(
            f"not a readable zip archive: {error}", kind="wheel-archive", path=filename
        ) from error
    except InvalidRecordEntry as error:
        raise WheelError(f"RECORD cannot be read: {error}", kind="wheel-record", path=filename) from error
    except (InstallerError, UnicodeDecodeError, KeyError, ValueError, AssertionError) as error:
        # installer asserts where entry_points.txt is malformed, and raises KeyError for absent dist-info files.
        text = str(error) or "malformed metadata"
        raise WheelError(f"not a valid wheel: {text}", kind="wheel-invalid", path=filename) from error


class CheckedWheel(WheelFile):
    """A wheel, checked. Construct it through ``checked_wheel``.

    Attributes:
        filename: The wheel's file name.
        tags: Its tags, sorted.
        requires_python: From METADATA.
    """

    def __init__(self, archive: zipfile.ZipFile, filename: str) -> None:
        # WheelFile takes the name from the archive's path, which is a temporary one here.
        self.filename = filename
        try:
            name, version, _, tags = parse_wheel_filename(filename)
        except InvalidWheelFilename as error:
            raise WheelError(
                f"{filename!r} is not the file name of a wheel",
                kind="wheel-filename",
                path=filename,
                hint="a wheel is called NAME-VERSION-PYTHON-ABI-PLATFORM.whl",
            ) from error
        raw_name, raw_version = filename.split("-")[:2]
        WheelSource.__init__(self, raw_name, raw_version)
        self._zipfile = archive
        self._name = name
        self.tags = tuple(sorted(map(str, tags)))
        self._check_members()
        self._check_metadata(version)
        self._rows = self._checked_record()

    @property
    def data_dir(self) -> str:
        """Name of the data directory; named like the dist-info directory, whose spelling may be its own."""
        return self.dist_info_dir.removesuffix(".dist-info") + ".data"

    def refuse(self, message: str, *, kind: str, member: str | None = None) -> NoReturn:
        """Raise the ``WheelError`` for this wheel."""
        raise WheelError(message, kind=kind, path=self.filename, member=member)

    def _check_members(self) -> None:
        seen: set[str] = set()
        for item in self._zipfile.infolist():
            name = item.filename
            problem = _problem_with_name(name)
            if problem:
                self.refuse(f"member {name!r} {problem}", kind="wheel-member-name", member=name)
            if name in seen:
                self.refuse(f"member {name!r} is there twice", kind="wheel-member-duplicate", member=name)
            seen.add(name)
            mode = item.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR) or mode & (
                stat.S_ISUID | stat.S_ISGID
            ):
                self.refuse(
                    f"member {name!r} is neither a plain file nor a directory",
                    kind="wheel-member-type",
                    member=name,
                )

    def _check_metadata(self, version: Version) -> None:
        metadata = parse_metadata_file(self.read_dist_info("METADATA"))
        named, versioned = metadata["Name"] or "", metadata["Version"] or ""
        if canonicalize_name(named) != self._name:
            self.refuse(f"METADATA names {named!r}", kind="wheel-metadata")
        try:
            same = Version(versioned) == version
        except InvalidVersion:
            same = False
        if not same:
            self.refuse(f"METADATA has version {versioned!r}", kind="wheel-metadata")
        self.requires_python = metadata["Requires-Python"]

    def _checked_record(self) -> dict[str, tuple[str, str, str]]:
        rows: dict[str, tuple[str, str, str]] = {}
        for row in parse_record_file(self.read_dist_info("RECORD").splitlines()):
            rows[row[0]] = row
        unsigned = {f"{self.dist_info_dir}/{name}" for name in ("RECORD", "RECORD.jws", "RECORD.p7s")}
        members = {name for name in self._zipfile.namelist() if not name.endswith("/")}
        for member in sorted(members - unsigned):
            _, hash_, size = rows.get(member, ("", "", ""))
            algorithm, _, value = hash_.partition("=")
            if member not in rows:
                self.refuse(f"RECORD does not name {member!r}", kind="wheel-record", member=member)
            if algorithm not in _HASHES or not value or not size.isdecimal():
                self.refuse(
                    f"RECORD has no size and strong hash for {member!r}", kind="wheel-record", member=member
                )
        for absent in sorted(rows.keys() - members - unsigned):
            if not absent.endswith("/"):
                self.refuse(
                    f"RECORD names {absent!r}, which is not there", kind="wheel-record", member=absent
                )
        return rows

    def get_contents(self) -> Iterator[WheelContentElement]:
        """Yield every file with a stream that checks itself against RECORD when it is read to its end."""
        for item in self._zipfile.infolist():
            name = item.filename
            # A pyc in a wheel would be run without its source ever being looked at.
            if name.endswith("/") or "__pycache__" in name.split("/"):
                continue
            row = self._rows.get(name, (name, "", ""))
            mode = item.external_attr >> 16
            executable = bool(stat.S_ISREG(mode) and mode & 0o111)
            with self._zipfile.open(item) as stream:
                checked = _CheckedStream(cast("BinaryIO", stream), self, row)
                yield row, cast("BinaryIO", checked), executable


class _CheckedStream(io.RawIOBase):
    """A member's bytes; at the end they are what RECORD says, or a ``WheelError`` is raised."""

    def __init__(self, stream: BinaryIO, wheel: CheckedWheel, row: tuple[str, str, str]) -> None:
        super().__init__()
        self._stream = stream
        self._wheel = wheel
        self._member, hash_, size = row
        self._algorithm, _, self._expected = hash_.partition("=")
        self._size = int(size) if size else None
        self._seen = 0
        self._hash = hashlib.new(self._algorithm) if self._algorithm else None

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes; all for -1."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        data = self._stream.read(size)
        if data:
            self._seen += len(data)
            if self._hash is not None:
                self._hash.update(data)
        else:
            self._check()
        return data

    def _check(self) -> None:
        if self._hash is None:
            return
        value = base64.urlsafe_b64encode(self._hash.digest()).decode().rstrip("=")
        if value != self._expected.rstrip("=") or self._seen != self._size:
            self._wheel.refuse(
                f"{self._member!r} is not what RECORD says", kind="wheel-record-mismatch", member=self._member
            )


def _problem_with_name(name: str) -> str | None:
    """Say what is wrong with the name of a member, if anything is."""
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if "\\" in name:
        return "has a backslash in its name"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):  # noqa: PLR2004 - C0 and DEL
        return "has control characters in its name"
    if ".." in parts:
        return "leads out of the wheel"
    if "." in parts or "" in parts or posixpath.normpath(name.removesuffix("/")) != name.removesuffix("/"):
        return "has a path that is not normalised"
    if any(len(part.encode()) > _LONGEST_PART for part in parts):
        return "has a name of more than 255 bytes"
    return None
