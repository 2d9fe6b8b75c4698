"""Reading what a shared library or program tells the dynamic loader: elf(5), ld.so(8). Only reads.

The file is somebody else's: every offset, count and string is held against the size of the file and against the
limits below, and whatever does not fit is no ELF to us. Little more than the header, one table and the strings that
are asked for is read, however large the file is.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from vrfstore.values import dataclass

__all__ = ["DynamicSection", "is_elf", "read_dynamic"]

_MAGIC = b"\x7fELF"

MOST_SEGMENTS = 512
"""Program headers; real files have about a dozen."""

MOST_ENTRIES = 8192
"""Entries of a dynamic section up to its end; real files have fewer than 200."""

MOST_NEEDED = 512
"""DT_NEEDED entries; few real files have more than thirty."""

MOST_SEARCHED = 4096
"""Directories of DT_RPATH and DT_RUNPATH; Bazel, which keeps each library apart, comes to 700 or so."""

LONGEST_NAME = 4096
"""Bytes of a DT_SONAME or DT_NEEDED: PATH_MAX."""

LONGEST_SEARCH = 1 << 17
"""Bytes of a DT_RPATH or DT_RUNPATH; those of Bazel come to 20,000."""

_CHUNK = 256
_MOST_STRINGS = 16

_EXECUTABLE_OR_SHARED = (2, 3)  # ET_EXEC, ET_DYN
_PT_LOAD = 1
_PT_DYNAMIC = 2
_DT_NULL = 0
_DT_NEEDED = 1
_DT_STRTAB = 5
_DT_STRSZ = 10
_DT_SONAME = 14
_DT_RPATH = 15
_DT_RUNPATH = 29


@dataclass(frozen=True, slots=True)
class DynamicSection:
    """What the dynamic section of an ELF file says about other files.

    Attributes:
        soname: DT_SONAME, if there is one.
        needed: DT_NEEDED, in the order of the file.
        search: The directories of DT_RPATH and DT_RUNPATH as written, ``$ORIGIN`` and all. Empty ones, which
            mean the working directory, are left out.
    """

    soname: str | None
    needed: tuple[str, ...]
    search: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Layout:
    """The shapes of one class and byte order (elf(5)): Ehdr behind e_ident, Phdr, Dyn.

    ``segment_fields`` says where p_type, p_offset, p_vaddr and p_filesz are in a Phdr.
    """

    header: struct.Struct
    segment: struct.Struct
    segment_fields: tuple[int, int, int, int]
    entry: struct.Struct


def _layouts() -> Iterator[tuple[bytes, _Layout]]:
    for data, order in ((1, "<"), (2, ">")):
        yield (
            bytes((1, data, 1)),
            _Layout(
                struct.Struct(f"{order}HHIIIIIHHHHHH"),
                struct.Struct(f"{order}IIIIIIII"),
                (0, 1, 2, 4),
                struct.Struct(f"{order}iI"),
            ),
        )
        yield (
            bytes((2, data, 1)),
            _Layout(
                struct.Struct(f"{order}HHIQQQIHHHHHH"),
                struct.Struct(f"{order}IIQQQQQQ"),
                (0, 2, 3, 5),
                struct.Struct(f"{order}qQ"),
            ),
        )


_LAYOUTS = dict(_layouts())
"""By EI_CLASS, EI_DATA and EI_VERSION."""

_IDENT_SIZE = 16


class _MalformedError(Exception):
    """The file is not what its header says, or beyond our limits; never leaves this module."""


class _File:
    """Bounded reads from a file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = stream.seek(0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly ``size`` bytes; the caller has bounded ``size``."""
        if offset + size > self.size:
            raise _MalformedError
        self._stream.seek(offset)
        data = self._stream.read(size)
        if len(data) != size:
            raise _MalformedError
        return data

    def text(self, offset: int, end: int, limit: int) -> str:
        """Return the string at ``offset``, whose NUL comes before ``end`` and within ``limit`` bytes."""
        found = bytearray()
        step = _CHUNK
        while True:
            size = min(step, end - offset, limit + 1 - len(found))
            if size <= 0:
                raise _MalformedError
            head, nul, _ = self.read(offset, size).partition(b"\0")
            found += head
            if nul:
                # The names of a wheel's files are UTF-8: what is not can match none of them.
                return found.decode(errors="backslashreplace")
            offset += size
            step *= 2


def is_elf(head: bytes) -> bool:
    """Whether a file that begins like this says that it is ELF; four bytes are enough."""
    return head.startswith(_MAGIC)


def read_dynamic(stream: BinaryIO) -> DynamicSection | None:
    """Read the dynamic section of an ELF file, 32 or 64 bits, of either byte order.

    Like the loader it goes by the program headers, so that a file without section headers is as good.

    Args:
        stream: The file, seekable; where it stands does not matter, before or after.

    Returns:
        None for all that is not a well-formed ELF file with a dynamic section, and for what is beyond the limits of
        this module.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        return _read(_File(stream))
    except _MalformedError:
        return None


def _read(file: _File) -> DynamicSection:
    ident = file.read(0, _IDENT_SIZE)
    layout = _LAYOUTS.get(ident[4:7])
    if layout is None or not is_elf(ident):
        raise _MalformedError
    segments = _segments(file, layout)
    dynamic = [segment for segment in segments if segment[0] == _PT_DYNAMIC]
    if not dynamic:
        raise _MalformedError
    _, offset, _, size = dynamic[-1]
    return _section(file, _entries(file, layout, offset, size), segments)


def _segments(file: _File, layout: _Layout) -> list[tuple[int, int, int, int]]:
    """Return type, offset, address and size in the file of each segment."""
    header = layout.header.unpack(file.read(_IDENT_SIZE, layout.header.size))
    kind, table, entry_size, count = header[0], header[4], header[8], header[9]
    if kind not in _EXECUTABLE_OR_SHARED or entry_size != layout.segment.size or count > MOST_SEGMENTS:
        raise _MalformedError
    data = file.read(table, count * entry_size)
    kind_at, offset_at, address_at, size_at = layout.segment_fields
    return [
        (fields[kind_at], fields[offset_at], fields[address_at], fields[size_at])
        for fields in layout.segment.iter_unpack(data)
    ]


def _entries(file: _File, layout: _Layout, offset: int, size: int) -> list[tuple[int, int]]:
    """Return tag and value of each entry up to DT_NULL."""
    count = min(size // layout.entry.size, MOST_ENTRIES)
    found: list[tuple[int, int]] = []
    for tag, value in layout.entry.iter_unpack(file.read(offset, count * layout.entry.size)):
        if tag == _DT_NULL:
            return found
        found.append((tag, value))
    raise _MalformedError


def _section(
    file: _File, entries: list[tuple[int, int]], segments: list[tuple[int, int, int, int]]
) -> DynamicSection:
    needed = [value for tag, value in entries if tag == _DT_NEEDED]
    names = [value for tag, value in entries if tag == _DT_SONAME]
    paths = [value for tag, value in entries if tag in {_DT_RPATH, _DT_RUNPATH}]
    if not (needed or names or paths):
        return DynamicSection(None, (), ())
    if len(needed) > MOST_NEEDED or max(len(names), len(paths)) > _MOST_STRINGS:
        raise _MalformedError
    start, end = _strings(entries, segments)
    if end > file.size:
        raise _MalformedError
    search = [
        directory
        for path in paths
        for directory in file.text(start + path, end, LONGEST_SEARCH).split(":")
        if directory
    ]
    if len(search) > MOST_SEARCHED:
        raise _MalformedError
    return DynamicSection(
        # Of several the loader takes the last.
        soname=file.text(start + names[-1], end, LONGEST_NAME) if names else None,
        needed=tuple(file.text(start + name, end, LONGEST_NAME) for name in needed),
        search=tuple(search),
    )


def _strings(entries: list[tuple[int, int]], segments: list[tuple[int, int, int, int]]) -> tuple[int, int]:
    """Return where the string table begins and ends in the file: its address is one of the loaded program."""
    values = dict(entries)
    address, length = values.get(_DT_STRTAB), values.get(_DT_STRSZ)
    if address is None or length is None:
        raise _MalformedError
    for kind, offset, begin, size in segments:
        # Only the beginning has to be inside: whole pages are mapped, and patchelf leaves tables that go on behind
        # their segment.
        if kind == _PT_LOAD and begin <= address < begin + size:
            start = offset + address - begin
            return start, start + length
    raise _MalformedError
