"""Reading a wheel that nobody has vouched for: installer's source port, with every doubt an error.

``CheckedWheel`` checks structure, names, modes, METADATA and RECORD before anything is written, and the content of
each member against its RECORD row while it is read, so that a wheel is inflated once and not twice.

Members are inflated here and not by ``zipfile``, which stops at the declared size and does not look at what comes
after it; and because ``isal``, where it is installed, inflates about twice as fast as zlib.
"""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, BinaryIO, NoReturn, cast

from installer.exceptions import InstallerError
from installer.records import InvalidRecordEntry, parse_record_file
from installer.sources import WheelContentElement, WheelFile, WheelSource
from installer.utils import SCHEME_NAMES, parse_metadata_file
from packaging.tags import Tag
from packaging.utils import (
    InvalidWheelFilename,
    NormalizedName,
    canonicalize_name,
    is_normalized_name,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from vrfstore.errors import WheelError
from vrfstore.store.manifest import parents
from vrfstore.store.scripts import entry_points
from vrfstore.store.zip_structure import Limits, StructureError, check_structure, read_headers

__all__ = ["CheckedStream", "CheckedWheel", "checked_wheel", "parse_filename", "problem_with_name"]


def _fastest_inflater() -> Any:
    """Return ``isal``, if it is there and says what comes after the end of a stream (from 1.9 on), else zlib."""
    try:
        from isal import isal_zlib  # noqa: PLC0415 - may not be there
    except ImportError:
        return zlib
    inflater = isal_zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(b"\3\0rest", 1)
    return isal_zlib if inflater.unused_data == b"rest" else zlib


_inflate = _fastest_inflater()

_HASHES = {"sha256", "sha384", "sha512"}
"""What RECORD may use; the binary distribution format asks for sha256 or better."""

_LONGEST_PART = 255
"""Bytes of one name on the usual file systems (NAME_MAX)."""

_LONGEST_PATH = 1000
"""Bytes of a whole member name. With the store's own path before it, it has to fit into 4,096 (PATH_MAX)."""

_LONGEST_NAME = _LONGEST_PART - 65
"""Bytes of name and version together. An entry's directory has up to 64 digits and a hyphen before them."""

_LONGEST_NUMBER = 18
"""Digits of a size; more would not fit into 64 bits."""

_LARGEST = {"RECORD": 1 << 26, "METADATA": 1 << 22, "entry_points.txt": 1 << 18, "WHEEL": 1 << 16}
"""Bytes of those files of dist-info that are read as a whole. Parsers of such texts need a multiple of it in memory;
the RECORD of 300,000 files has half of what is allowed, a METADATA with a long manual for its description a tenth."""

_LOCAL_HEADER = struct.Struct("<26xHH")
"""The end of a local header (APPNOTE.TXT 4.3.7): lengths of the name and of the extra field, which follow it."""

_UNREADABLE = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, struct.error, _inflate.error)
"""What a broken archive raises; RuntimeError for encryption, NotImplementedError for features."""

_CHUNK = 1 << 18

_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""C0 and DEL."""


@contextmanager
def checked_wheel(path: str, filename: str, limits: Limits) -> Iterator[CheckedWheel]:
    """Open the wheel at ``path``, whose file name is, or was, ``filename``; every fault is a ``WheelError``.

    Errors of reading inside the ``with`` block are translated as well.
    """
    try:
        with open(path, "rb") as stream:
            headers = read_headers(stream, limits)
            with zipfile.ZipFile(stream) as archive:
                warnings = check_structure(stream, headers, archive, limits)
                yield CheckedWheel(archive, stream.fileno(), filename, tuple(warnings))
    except StructureError as error:
        raise WheelError(error.message, kind=error.kind, path=filename, member=error.member) from error
    except _UNREADABLE as error:
        raise WheelError(
            f"not a readable zip archive: {error}", kind="wheel-archive", path=filename
        ) from error
    except (InvalidRecordEntry, csv.Error) as error:
        raise WheelError(f"RECORD cannot be read: {error}", kind="wheel-record", path=filename) from error
    except (InstallerError, UnicodeDecodeError, KeyError, ValueError) as error:
        # KeyError: a file of dist-info is missing.
        raise WheelError(
            f"not a valid wheel: {_reason(error)}", kind="wheel-invalid", path=filename
        ) from error
    except OSError as error:
        # zipfile seeks to where a broken archive says; a full disk or an unreadable file is not the wheel's fault.
        if error.errno != errno.EINVAL:
            raise
        raise WheelError("not a readable zip archive", kind="wheel-archive", path=filename) from error


def _reason(error: Exception) -> str:
    """Return what an error says of the wheel, without the path and the objects of our own that it mentions."""
    reason = getattr(error, "reason", None)
    return str(reason or (error.args[-1] if error.args else "malformed metadata"))


class CheckedWheel(WheelFile):
    """A wheel, checked. Construct it through ``checked_wheel``.

    Attributes:
        filename: The wheel's file name.
        tags: Its tags, sorted.
        requires_python: From METADATA.
        warnings: What is odd about it, in words.
    """

    def __init__(
        self, archive: zipfile.ZipFile, descriptor: int, filename: str, warnings: tuple[str, ...]
    ) -> None:
        # WheelFile takes the name from the archive's path, which is a temporary one here.
        self.filename = filename
        name, version, tags = parse_filename(filename)
        raw_name, raw_version = filename.split("-")[:2]
        WheelSource.__init__(self, raw_name, raw_version)
        self._zipfile = archive
        self._descriptor = descriptor
        self.warnings = warnings
        self._name = name
        self.tags = tuple(sorted(map(str, tags)))
        self._check_members()
        self._check_metadata(version)
        self._check_entry_points()
        self._rows = self._checked_record()

    @cached_property
    def data_dir(self) -> str:  # asked for once for each file
        """Name of the data directory; named like the dist-info directory, whose spelling may be its own."""
        return self.dist_info_dir.removesuffix(".dist-info") + ".data"

    @cached_property
    def dist_info_filenames(self) -> list[str]:  # installer looks at all files each time
        """The files below the dist-info directory, relative to it."""
        prefix = f"{self.dist_info_dir}/"
        names = (name for name in self._zipfile.namelist() if not name.endswith("/"))
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def refuse(self, message: str, *, kind: str, member: str | None = None) -> NoReturn:
        """Raise the ``WheelError`` for this wheel."""
        raise WheelError(message, kind=kind, path=self.filename, member=member)

    def _check_members(self) -> None:
        """Look at the central directory only: names, types, and what zipfile could not read anyway."""
        for item in self._zipfile.infolist():
            # zipfile cuts a name at NUL; what another reader would see is orig_filename.
            name = item.orig_filename
            problem = problem_with_name(name)
            if problem:
                self.refuse(f"member {name!r} {problem}", kind="wheel-member-name", member=name)
            mode = item.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR) or mode & (
                stat.S_ISUID | stat.S_ISGID
            ):
                self.refuse(
                    f"member {name!r} is neither a plain file nor a directory",
                    kind="wheel-member-type",
                    member=name,
                )
        names = self._zipfile.namelist()
        files = {name for name in names if not name.endswith("/")}
        for name in sorted(files & parents(names)):
            self.refuse(
                f"member {name!r} is a file and a directory", kind="wheel-member-duplicate", member=name
            )
        self._check_data_directory(files)

    def _check_data_directory(self, files: set[str]) -> None:
        """Refuse what lies in ``.data`` but in none of the directories that a wheel may have there.

        And what would become a second dist-info: a distribution that nobody has asked for.
        """
        data = f"{self.data_dir}/"
        for name in sorted(files):
            if name != self.data_dir and not name.startswith(data):
                continue
            scheme, _, rest = name.removeprefix(data).partition("/")
            if scheme not in SCHEME_NAMES or not rest:
                self.refuse(
                    f"member {name!r} is in no directory that .data may have",
                    kind="wheel-invalid",
                    member=name,
                )
            top = rest.partition("/")[0]
            if top.endswith(".dist-info") and top != self.dist_info_dir:
                self.refuse(f"member {name!r} is in a second dist-info", kind="wheel-invalid", member=name)

    def _check_entry_points(self) -> None:
        if "entry_points.txt" not in self.dist_info_filenames:
            return
        try:
            entry_points(self.read_dist_info("entry_points.txt"))
        except ValueError as error:
            self.refuse(f"entry_points.txt cannot be used: {error}", kind="wheel-entry-point")

    def _check_metadata(self, version: Version) -> None:
        metadata = parse_metadata_file(self.read_dist_info("METADATA"))
        for field in ("Name", "Version"):
            # Of several, one reader would take the first and another the last.
            if len(metadata.get_all(field, [])) != 1:
                self.refuse(f"METADATA has not one {field}", kind="wheel-metadata")
        named, versioned = metadata["Name"], metadata["Version"]
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
        unsigned = {f"{self.dist_info_dir}/{name}" for name in ("RECORD", "RECORD.jws", "RECORD.p7s")}
        members = {name for name in self._zipfile.namelist() if not name.endswith("/")}
        rows: dict[str, tuple[str, str, str]] = {}
        for row in parse_record_file(io.StringIO(self.read_dist_info("RECORD"))):
            name = row[0]
            if name in members or name in unsigned:
                if rows.setdefault(name, row) != row:
                    self.refuse(f"RECORD says two things of {name!r}", kind="wheel-record", member=name)
            elif not name.endswith("/"):
                self.refuse(f"RECORD names {name!r}, which is not there", kind="wheel-record", member=name)
        for member in sorted(members):
            _, hash_, size = rows.get(member, ("", "", ""))
            if member in unsigned and not hash_ and not size:
                continue
            algorithm, _, value = hash_.partition("=")
            if member not in rows:
                self.refuse(f"RECORD does not name {member!r}", kind="wheel-record", member=member)
            if algorithm not in _HASHES or not value or not _is_size(size):
                self.refuse(
                    f"RECORD has no size and strong hash for {member!r}", kind="wheel-record", member=member
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
            yield row, cast("BinaryIO", CheckedStream(self, item, row)), executable

    def read_dist_info(self, filename: str) -> str:
        """Return the text of a file of the dist-info directory.

        Raises:
            KeyError: It is not there.
        """
        name = f"{self.dist_info_dir}/{filename}"
        item = self._zipfile.getinfo(name)
        if item.file_size > _LARGEST[filename]:
            self.refuse(
                f"member {name!r} has {item.file_size} bytes; {_LARGEST[filename]} are allowed",
                kind="wheel-bomb",
                member=name,
            )
        data = CheckedStream(self, item, (name, "", "")).read()
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            self.refuse(f"member {name!r} is not UTF-8: {error.reason}", kind="wheel-invalid", member=name)

    def inflated(self, item: zipfile.ZipInfo) -> Iterator[bytes]:
        """Yield the content of a member; it is as long as declared, and nothing is left over."""
        header = os.pread(self._descriptor, _LOCAL_HEADER.size, item.header_offset)
        begin = item.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header))
        packed = self._packed(begin, item.compress_size)
        if item.compress_type == zipfile.ZIP_STORED:
            yield from packed
            return
        inflater: Any = _inflate.decompressobj(-zlib.MAX_WBITS)
        for data in packed:
            if inflater.eof:
                raise zipfile.BadZipFile("bytes come after its compressed data")
            waiting = data
            while waiting and not inflater.eof:
                yield inflater.decompress(waiting, _CHUNK)
                waiting = inflater.unconsumed_tail
        while not inflater.eof:
            rest = inflater.decompress(inflater.unconsumed_tail, _CHUNK)
            if not rest and not inflater.eof:
                raise EOFError("its compressed data ends early")
            yield rest
        if inflater.unused_data:
            raise zipfile.BadZipFile("bytes come after its compressed data")

    def _packed(self, begin: int, size: int) -> Iterator[bytes]:
        while size:
            data = os.pread(self._descriptor, min(size, _CHUNK), begin)
            if not data:
                raise EOFError("the archive is cut off")
            begin, size = begin + len(data), size - len(data)
            yield data


class CheckedStream(io.RawIOBase):
    """A member's bytes; at the end they are what the archive and RECORD say, or a ``WheelError`` is raised.

    Attributes:
        algorithm: The hash that RECORD has of it; empty where it has none.
    """

    def __init__(self, wheel: CheckedWheel, item: zipfile.ZipInfo, row: tuple[str, str, str]) -> None:
        super().__init__()
        self._wheel = wheel
        self._item = item
        # A block of the packed stream may end without having yielded anything yet.
        self._chunks = filter(None, wheel.inflated(item))
        self._member, hash_, size = row
        self.algorithm, _, self._expected = hash_.partition("=")
        self._size = int(size) if size else None
        self._seen = 0
        self._crc = 0
        self._hash = hashlib.new(self.algorithm) if self.algorithm else None

    def read(self, size: int = -1) -> bytes:
        """Return some bytes, about a quarter of a megabyte; all for -1; none at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        try:
            data = self._next()
        except _UNREADABLE as error:
            self._wheel.refuse(
                f"member {self._member!r} cannot be read: {error}", kind="wheel-archive", member=self._member
            )
        if self._hash is not None:
            self._hash.update(data)
            if not data:
                self._check()
        return data

    def _next(self) -> bytes:
        """Return the next bytes, as far as the archive vouches for them; none at the end."""
        data = next(self._chunks, b"")
        self._seen += len(data)
        # In time: what inflates to more than it declares would otherwise fill the disk.
        if self._seen > self._item.file_size or (not data and self._seen < self._item.file_size):
            raise zipfile.BadZipFile(f"it has not the {self._item.file_size} bytes that it declares")
        if data:
            self._crc = _inflate.crc32(data, self._crc)
        elif self._crc != self._item.CRC:
            raise zipfile.BadZipFile("its CRC-32 is another one")
        return data

    def hexdigest(self) -> str:
        """Return what ``algorithm`` gives for all that was read, hexadecimal."""
        return "" if self._hash is None else self._hash.hexdigest()

    def _check(self) -> None:
        digest = b"" if self._hash is None else self._hash.digest()
        value = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if value != self._expected.rstrip("=") or self._seen != self._size:
            self._wheel.refuse(
                f"{self._member!r} is not what RECORD says", kind="wheel-record-mismatch", member=self._member
            )


def parse_filename(filename: str) -> tuple[NormalizedName, Version, frozenset[Tag]]:
    """Return the normalised name, the version and the tags that the file name of a wheel says.

    Raises:
        WheelError: It is none (binary distribution format).
    """
    try:
        name, version, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise _not_a_filename(filename) from error
    # packaging lets other scripts pass in a name, white space around a version, and anything in a build tag.
    sound = filename.isascii() and filename.isprintable() and " " not in filename and "/" not in filename
    if not sound or not is_normalized_name(name) or len(f"{name}-{version}") > _LONGEST_NAME:
        raise _not_a_filename(filename)
    return name, version, tags


def _not_a_filename(filename: str) -> WheelError:
    return WheelError(
        f"{filename!r} is not the file name of a wheel",
        kind="wheel-filename",
        path=filename,
        hint="a wheel is called NAME-VERSION-PYTHON-ABI-PLATFORM.whl",
    )


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER


def problem_with_name(name: str) -> str | None:
    """Say what is wrong with the name of a member, if anything is."""
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or _DRIVE.match(name):
        return "has an absolute path"
    if "\\" in name:
        return "has a backslash in its name"
    if _CONTROL.search(name):
        return "has control characters in its name"
    if ".." in parts:
        return "leads out of the wheel"
    if "." in parts or "" in parts:
        return "has a path that is not normalised"
    # No part is longer than all of it.
    size = len(name.encode())
    if size > _LONGEST_PART and (
        size > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_PART for part in parts)
    ):
        return f"has a name of more than {_LONGEST_PART} bytes, or a path of more than {_LONGEST_PATH}"
    return None
