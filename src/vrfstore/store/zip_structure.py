"""The structure of a zip archive, read as strictly as it can be: one meaning for every reader, or none.

zipfile goes by the central directory at the end. Others stream through the local headers from the front, take
another end record, or the other of two sizes. An archive on which any two of them could disagree is refused, and so
is one that is too much. After PKWARE's APPNOTE.TXT; numbers of sections in comments are its own.

::

    0 ┌ local header, name, extra │ data │ descriptor, where flagged ┐  exactly one after the other,
      ├ local header …                                               ┤  in any order of the directory
      ├ central directory: one header for each                       ┤  counted, not longer than bounded
      ├ zip64 end record, zip64 locator                              ┤  both or neither
      └ end record, without a comment                                ┘  the last 22 bytes

Only headers are read, never the data of a member. That the data inflates to what its headers declare, with nothing
left over, is for whoever inflates it to see.

Of 78 popular wheels, made by setuptools, hatchling, flit, maturin, meson, scikit-build-core, poetry, bazel and others,
one is not as plain as can be: protobuf's local headers have the sizes in a zip64 field and once more in the header
itself. That is accepted where both agree. In none of them is there a byte between members, a descriptor, a comment, a
flag, a second end record, a directory packed into some bytes, or an extra field in the central directory.
"""

from __future__ import annotations

import io
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, NamedTuple, NoReturn

from vrfstore.values import dataclass

__all__ = ["Headers", "Limits", "StructureError", "check_structure", "read_headers", "unpacked_size"]

_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_DESCRIPTOR: Final = struct.Struct("<4s3L")
_DESCRIPTOR64: Final = struct.Struct("<4sL2Q")
_FIELD: Final = struct.Struct("<2H")

_END_SIGNATURE = b"PK\5\6"
_END64_SIGNATURE = b"PK\6\6"
_LOCATOR_SIGNATURE = b"PK\6\7"
_CENTRAL_SIGNATURE = b"PK\1\2"
_LOCAL_SIGNATURE = b"PK\3\4"
_DESCRIPTOR_SIGNATURE = b"PK\7\x08"

_MARKER16 = 0xFFFF
_MARKER32 = 0xFFFFFFFF
"""In place of a number that is in a zip64 record or field instead (4.4.1.4)."""

_LONGEST_COMMENT = 0xFFFF
"""Bytes before the end record through which readers search for one."""

_END64_REST = _END64.size - 12
"""What the zip64 end record says of its own size, without any extensible data (4.3.14.1)."""

_DESCRIBED = 1 << 3
_UTF_8 = 1 << 11
_HARMLESS_FLAGS = 1 << 1 | 1 << 2 | _DESCRIBED | _UTF_8
"""Bits 1 and 2 say how hard the writer tried (4.4.4)."""

_ENCRYPTED_FLAGS = 1 << 0 | 1 << 6 | 1 << 13
"""Traditional encryption, strong encryption, and masked headers, which go with it."""

_ZIP64_FIELD = 0x0001
_UNICODE_PATH_FIELD = 0x7075
_ENCRYPTED_FIELDS = {0x0017, 0x9901}
"""PKWARE's strong encryption, and WinZip's AES."""

_UNICODE_PATH_HEAD = 5
"""Version and CRC of the name in the header, before the name itself (4.6.9)."""

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""What every reader knows."""

_NOTHING_DEFLATED = 2
"""Bytes that deflate makes of none, as some writers do for directories. More could hide something."""

_DOS_DIRECTORY = 0x10
_FILE_TYPE = 0o170000
_DIRECTORY_TYPE = 0o040000

_DIRECTORY_ROOM = 1 << 20
_DIRECTORY_SHARE = 320
"""Bytes of the central directory, at least and per member allowed. Real wheels have up to 130 per member."""

_RATIO_FROM = 1 << 26
"""Bytes unpacked up to which no ratio is a bomb."""

_LOOK_AHEAD = 64
"""Bytes read after the name of a local header, which mostly hold its extra field."""

_MOST_WARNINGS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What is too much. The largest of 78 popular wheels (several hundred MB) stay below a quarter of each.

    Attributes:
        unpacked: Bytes of all members together, as declared.
        files: Members, and the directories above them whether they are members or not.
        ratio: Bytes unpacked for one byte of the archive. Judged of the whole and beyond 64 MiB only: single
            members of real wheels reach 250, whole wheels 7, and deflate could reach 1,032.
        depth: Directories above a member.
    """

    unpacked: int = 1 << 34
    files: int = 200_000
    ratio: int = 100
    depth: int = 60


class StructureError(Exception):
    """An archive was refused.

    Attributes:
        message: What is wrong, one sentence, without a trailing full stop.
        kind: ``wheel-archive``, ``wheel-bomb``, ``wheel-member-duplicate``, ``wheel-member-name`` or
            ``wheel-member-type``.
        member: The name of the member that is to blame, if one is.
    """

    def __init__(self, message: str, *, kind: str = "wheel-archive", member: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.member = member


def read_headers(stream: BinaryIO, limits: Limits) -> Headers:
    """Read what zipfile will read to open the archive, so that it needs bounded memory and sees what is there.

    Args:
        stream: The archive, seekable; its position is lost.
        limits: What is too much.

    Raises:
        StructureError: The end records or the central directory are not acceptable.
    """
    directory = _read_end(stream)
    _check_room(directory, limits)
    return Headers(directory, tuple(_members(stream, directory)))


def check_structure(
    stream: BinaryIO, headers: Headers, archive: zipfile.ZipFile, limits: Limits
) -> list[str]:
    """Check every header of the archive, and that zipfile has understood it in the same way.

    Args:
        stream: The archive, seekable; its position is lost.
        headers: What ``read_headers`` has read of it.
        archive: The same, as opened by zipfile.
        limits: What is too much.

    Returns:
        Warnings, a sentence each: members whose names differ in nothing but case or Unicode normalisation.

    Raises:
        StructureError: The archive is not acceptable.
    """
    directory, members = headers
    _check_bombs(members, directory, limits)
    _check_duplicates(members)
    _check_same(members, archive.infolist())
    _check_places(stream, members, directory)
    return _lookalikes(members)


def unpacked_size(stream: BinaryIO, limits: Limits) -> int:
    """Return how many bytes the members of an archive are declared to have; only its end and directory are read.

    Args:
        stream: The archive, seekable; its position is lost. Nothing of it has been checked.
        limits: What is too much to look at.

    Raises:
        StructureError: The end records or the central directory are not acceptable.
    """
    return sum(member.unpacked for member in read_headers(stream, limits).members)


class _Directory(NamedTuple):
    """Where the central directory is, in bytes from the beginning, and what the end record says of it."""

    offset: int
    size: int
    members: int
    archive_size: int


class _Member(NamedTuple):
    """One header of the central directory, with zip64 taken into account; sizes and offset in bytes."""

    name: str
    raw: bytes
    flags: int
    method: int
    crc: int
    packed: int
    unpacked: int
    offset: int
    attributes: int


class Headers(NamedTuple):
    """The end records and the central directory of an archive, read and each acceptable by itself."""

    directory: _Directory
    members: tuple[_Member, ...]


def _refuse(message: str, *, kind: str = "wheel-archive", member: str | None = None) -> NoReturn:
    raise StructureError(message, kind=kind, member=member)


def _blame(name: str, what: str, *, kind: str = "wheel-archive") -> NoReturn:
    _refuse(f"member {name!r} {what}", kind=kind, member=name)


def _read(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(size)


# --- the end ---------------------------------------------------------------------------------------------------


def _read_end(stream: BinaryIO) -> _Directory:
    """Return what the end records agree on; they are the end, and the directory lies right before them."""
    size = stream.seek(0, io.SEEK_END)
    start = max(0, size - _END.size - _LONGEST_COMMENT)
    tail = _read(stream, start, size - start)
    _check_only_end(tail, start)
    position = size - _END.size
    _, disk, first_disk, here, count, length, offset, _ = _END.unpack_from(tail, len(tail) - _END.size)
    said = (disk, first_disk, here, count, length, offset)
    numbers = _read_end64(stream, position, tail[: -_END.size], said)
    if numbers is not None:
        position -= _END64.size + _LOCATOR.size
        disk, first_disk, here, count, length, offset = numbers
    elif _MARKER16 in said[:4] or _MARKER32 in said[4:]:
        _refuse("the end record refers to a zip64 end record, which is not there")
    if disk or first_disk or here != count:
        _refuse("the archive is one part of several")
    if offset + length != position:
        _refuse(
            f"the central directory is said to be {length} bytes at {offset}, "
            f"which does not lead to its end at {position}"
        )
    return _Directory(offset, length, count, size)


def _check_only_end(tail: bytes, start: int) -> None:
    """Refuse all but one end record, without a comment, as the last bytes of the archive."""
    last = tail.rfind(_END_SIGNATURE)
    if last < 0 or len(tail) - last < _END.size:
        _refuse("there is no end record: not a zip archive, or one that was cut off")
    # An archive that is a member has one too, but only one that leads to the very end is a second one of ours.
    for other in re.finditer(re.escape(_END_SIGNATURE), tail[:last]):
        end = other.start() + _END.size
        if end <= len(tail) and end + _END.unpack_from(tail, other.start())[-1] == len(tail):
            _refuse(f"there are several end records, at {start + other.start()} and at {start + last}")
    comment = _END.unpack_from(tail, last)[-1]
    if comment:
        _refuse("the archive has a comment")
    if rest := len(tail) - last - _END.size:
        _refuse(f"there are {rest} bytes after the end record")


def _read_end64(
    stream: BinaryIO, position: int, before: bytes, said: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Return the numbers of the zip64 end record, which end at ``position``; None where there is none.

    ``said`` has those of the end record itself: each is the same number, or the marker for a larger one.
    """
    if before[-_LOCATOR.size :][:4] != _LOCATOR_SIGNATURE or len(before) < _LOCATOR.size:
        return None
    _, disk, place, disks = _LOCATOR.unpack(before[-_LOCATOR.size :])
    if disk or disks != 1:
        _refuse("the archive is one part of several")
    # A reader that goes by the locator, and one that goes back from the end, have to arrive at the same record.
    if place != position - _LOCATOR.size - _END64.size:
        _refuse("the zip64 locator leads elsewhere than to a zip64 end record right before it")
    signature, rest, _, _, *numbers = _END64.unpack(_read(stream, place, _END64.size))
    if signature != _END64_SIGNATURE or rest != _END64_REST:
        _refuse("the zip64 end record is not one of the usual size")
    markers = (_MARKER16,) * 4 + (_MARKER32,) * 2
    for short, marker, long in zip(said, markers, numbers, strict=True):
        if short not in {long, marker}:
            _refuse(f"the end record says {short} where the zip64 end record says {long}")
    return tuple(numbers)


def _check_room(directory: _Directory, limits: Limits) -> None:
    if directory.members > limits.files:
        _refuse(f"the archive has {directory.members} members, more than {limits.files}", kind="wheel-bomb")
    room = max(_DIRECTORY_ROOM, limits.files * _DIRECTORY_SHARE)
    if directory.size > room:
        _refuse(
            f"the central directory has {directory.size} bytes, more than {room}",
            kind="wheel-bomb",
        )


# --- the central directory -------------------------------------------------------------------------------------


def _members(stream: BinaryIO, directory: _Directory) -> Iterator[_Member]:
    """Yield the members in the order of the central directory, each one acceptable by itself.

    Raises:
        StructureError: One is not, or they are not as many, or not as long, as the end record says.
    """
    data = _read(stream, directory.offset, directory.size)
    position = count = 0
    while position < len(data):
        if len(data) - position < _CENTRAL.size or not data.startswith(_CENTRAL_SIGNATURE, position):
            _refuse(
                f"the central directory holds something else than headers at {directory.offset + position}"
            )
        header = _CENTRAL.unpack_from(data, position)
        name_end = position + _CENTRAL.size + header[10]
        extra_end = name_end + header[11]
        end = extra_end + header[12]
        if end > len(data):
            _refuse("the last header of the central directory reaches beyond its end")
        member = _member(header, data[position + _CENTRAL.size : name_end], data[name_end:extra_end])
        position = end
        count += 1
        yield member
    if count != directory.members:
        _refuse(f"the end record counts {directory.members} members, the central directory has {count}")


def _member(header: tuple[int, ...], raw: bytes, extra: bytes) -> _Member:
    _, _, _, flags, method, _, _, crc, packed, unpacked, _, _, _, disk, _, attributes, offset = header
    name = _decoded(raw, flags)
    fields = _fields(extra, name, raw) if extra else {}
    if disk:
        _blame(name, "is said to be in another part of the archive")
    said = (unpacked, packed, offset)
    if _ZIP64_FIELD in fields or _MARKER32 in said:
        unpacked, packed, offset = _larger(said, fields.get(_ZIP64_FIELD, b""), name)
    member = _Member(name, raw, flags, method, crc, packed, unpacked, offset, attributes)
    _check_features(member)
    _check_type(member)
    return member


def _decoded(raw: bytes, flags: int) -> str:
    """Return the name as everybody reads it: ASCII, or UTF-8 and said to be (appendix D)."""
    try:
        name = raw.decode("utf-8" if flags & _UTF_8 else "ascii")
    except UnicodeDecodeError:
        name = raw.decode("utf-8" if flags & _UTF_8 else "cp437", "backslashreplace")
        _blame(name, "has a name that readers would decode in different ways", kind="wheel-member-name")
    if "\0" in name:
        _blame(
            name,
            "has a NUL in its name, where some readers cut it and others do not",
            kind="wheel-member-name",
        )
    return name


def _fields(extra: bytes, name: str, raw: bytes) -> dict[int, bytes]:
    """Return the extra field by identifier, once nothing in it makes the member another one."""
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(extra):
        if len(extra) - position < _FIELD.size:
            _blame(name, "has an extra field that is cut off")
        identifier, size = _FIELD.unpack_from(extra, position)
        position += _FIELD.size
        if position + size > len(extra):
            _blame(name, "has an extra field that is cut off")
        if identifier in fields:
            _blame(name, f"has the extra field {identifier:#06x} twice")
        fields[identifier] = extra[position : position + size]
        position += size
    if not _ENCRYPTED_FIELDS.isdisjoint(fields):
        _blame(name, "is encrypted")
    path = fields.get(_UNICODE_PATH_FIELD)
    if path is not None and path != struct.pack("<BL", 1, zlib.crc32(raw)) + name.encode():
        other = path[_UNICODE_PATH_HEAD:].decode("utf-8", "backslashreplace")
        _blame(name, f"has {other!r} as another name in an extra field", kind="wheel-member-name")
    return fields


def _larger(said: tuple[int, int, int], field: bytes, name: str) -> tuple[int, ...]:
    """Return sizes and offset, with each marker replaced by its number in the zip64 field (4.5.3)."""
    count = said.count(_MARKER32)
    # A number too many would be a second size of something, and some readers would take that one.
    if len(field) != 8 * count:
        _blame(name, "has a zip64 field that does not fit its header")
    numbers = iter(struct.unpack(f"<{count}Q", field))
    return tuple(next(numbers) if number == _MARKER32 else number for number in said)


def _check_features(member: _Member) -> None:
    name, flags = member.name, member.flags
    if flags & _ENCRYPTED_FLAGS:
        _blame(name, "is encrypted")
    if flags & ~_HARMLESS_FLAGS:
        _blame(name, f"has flags {flags:#06x} that no wheel needs")
    if member.method not in _METHODS:
        _blame(name, f"has the unknown compression {member.method}")
    if member.method == zipfile.ZIP_STORED:
        if member.packed != member.unpacked:
            _blame(name, f"is stored, but has {member.packed} bytes packed and {member.unpacked} unpacked")
        if flags & _DESCRIBED:
            # Who streams would have to guess where the data ends.
            _blame(name, "is stored, but says only after its data how long that is")


def _check_type(member: _Member) -> None:
    """Refuse what is a directory by its name and a file by its content or mode, or the other way round."""
    directory = member.attributes & _DOS_DIRECTORY or member.attributes >> 16 & _FILE_TYPE == _DIRECTORY_TYPE
    if not member.name.endswith("/"):
        if directory:
            _blame(member.name, "is a file by its name and a directory by its mode", kind="wheel-member-type")
    elif member.unpacked or member.packed > _NOTHING_DEFLATED or member.crc:
        _blame(member.name, "is a directory, but has content", kind="wheel-member-type")
    elif not directory and member.attributes >> 16 & _FILE_TYPE:
        _blame(member.name, "is a directory by its name and none by its mode", kind="wheel-member-type")


# --- all members together --------------------------------------------------------------------------------------


def _check_bombs(members: Sequence[_Member], directory: _Directory, limits: Limits) -> None:
    unpacked = sum(member.unpacked for member in members)
    if unpacked > limits.unpacked:
        _refuse(f"the members have {unpacked} bytes unpacked, more than {limits.unpacked}", kind="wheel-bomb")
    if unpacked > max(_RATIO_FROM, limits.ratio * directory.archive_size):
        _refuse(
            f"the members have {unpacked} bytes unpacked in an archive of {directory.archive_size}, "
            f"more than {limits.ratio} to one",
            kind="wheel-bomb",
        )
    for member in members:
        if member.name.rstrip("/").count("/") > limits.depth:
            _blame(member.name, f"lies more than {limits.depth} directories deep", kind="wheel-member-name")
    _check_directories(members, limits)


def _check_directories(members: Sequence[_Member], limits: Limits) -> None:
    """Count what becomes a file or a directory on the disk, and stop where that is too much."""
    directories: set[str] = set()
    room = limits.files - sum(not member.name.endswith("/") for member in members)
    for member in members:
        parent = member.name.rpartition("/")[0]
        # Above one that was seen, all were.
        while parent and parent not in directories:
            directories.add(parent)
            parent = parent.rpartition("/")[0]
        if len(directories) > room:
            _refuse(
                f"the members lie in so many directories that there are more than {limits.files} files",
                kind="wheel-bomb",
            )


def _check_duplicates(members: Sequence[_Member]) -> None:
    seen: set[str] = set()
    for member in members:
        if member.name in seen:
            _blame(member.name, "is there twice", kind="wheel-member-duplicate")
        seen.add(member.name)


def _check_same(members: Sequence[_Member], infos: list[zipfile.ZipInfo]) -> None:
    """Hold what zipfile has made of the central directory against what we have."""
    if len(members) != len(infos):
        _refuse(f"zipfile sees {len(infos)} members, the central directory has {len(members)}")
    for member, info in zip(members, infos, strict=True):
        seen = (info.orig_filename, info.filename, info.flag_bits, info.compress_type, info.CRC)
        sizes = (info.compress_size, info.file_size, info.header_offset)
        if seen != (member.name, member.name, member.flags, member.method, member.crc) or sizes != (
            member.packed,
            member.unpacked,
            member.offset,
        ):
            _blame(member.name, "is another one to zipfile")


def _check_places(stream: BinaryIO, members: Sequence[_Member], directory: _Directory) -> None:
    """Follow the members from the first byte to the central directory, with no byte between them."""
    position = 0
    for member in sorted(members, key=lambda member: member.offset):
        if member.offset > position:
            where = "between it and the member before" if position else "before the first member"
            _blame(member.name, f"has {member.offset - position} bytes {where} that belong to none")
        if member.offset < position:
            _blame(member.name, "overlaps the member before it")
        position = _check_local(stream, member, directory.offset)
    if position != directory.offset:
        _refuse(f"{directory.offset - position} bytes before the central directory belong to no member")


def _lookalikes(members: Sequence[_Member]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for member in members:
        groups.setdefault(_folded(member.name), []).append(member.name)
    alike = [names for names in groups.values() if len(names) > 1]
    warnings = [
        f"members {', '.join(map(repr, names))} differ in nothing but case or Unicode normalisation"
        for names in alike[:_MOST_WARNINGS]
    ]
    if len(alike) > _MOST_WARNINGS:
        warnings.append(f"and so do {len(alike) - _MOST_WARNINGS} more groups of members")
    return warnings


def _folded(name: str) -> str:
    """Return what file systems that ignore case and normalisation take a name for."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


# --- local headers ---------------------------------------------------------------------------------------------


def _check_local(stream: BinaryIO, member: _Member, limit: int) -> int:
    """Check the local header of a member and its descriptor; return where the member ends, at most ``limit``."""
    start = _LOCAL.size + len(member.raw)
    head = _read(stream, member.offset, start + _LOOK_AHEAD)
    if not head.startswith(_LOCAL_SIGNATURE) or len(head) < start:
        _blame(member.name, "has no local header where the central directory says")
    _, _, flags, method, _, _, crc, packed, unpacked, name_size, extra_size = _LOCAL.unpack_from(head)
    if name_size != len(member.raw) or head[_LOCAL.size : start] != member.raw:
        _blame(member.name, "has another name in its local header", kind="wheel-member-name")
    if (flags, method) != (member.flags, member.method):
        _blame(member.name, "has other flags or another compression in its local header")
    data = member.offset + start + extra_size
    if data + member.packed > limit:
        _blame(member.name, "reaches into the central directory")
    field = None
    if extra_size:
        extra = head[start : start + extra_size]
        if extra_size > _LOOK_AHEAD:
            extra = _read(stream, member.offset + start, extra_size)
        field = _fields(extra, member.name, member.raw).get(_ZIP64_FIELD)
    described = bool(flags & _DESCRIBED)
    # With a descriptor, the header may leave open what was not known yet.
    if crc != member.crc and not (described and crc == 0):
        _blame(member.name, "has another CRC in its local header")
    _check_local_sizes(member, (unpacked, packed), field)
    end = data + member.packed
    return _check_descriptor(stream, member, end, zip64=field is not None, limit=limit) if described else end


def _check_local_sizes(member: _Member, said: tuple[int, int], field: bytes | None) -> None:
    """Hold every statement of the sizes in a local header against the central directory."""
    sizes = (member.unpacked, member.packed)
    allowed = {sizes, (0, 0)} if member.flags & _DESCRIBED else {sizes}
    if field is None:
        if said not in allowed or _MARKER32 in said:
            _blame(member.name, "has other sizes in its local header")
        return
    # Both sizes or none (4.5.3).
    if len(field) != 16:  # noqa: PLR2004 - two of eight bytes
        _blame(member.name, "has a zip64 field that does not fit its local header")
    markers = (_MARKER32, _MARKER32)
    if struct.unpack("<2Q", field) not in allowed or said not in {sizes, markers}:
        _blame(member.name, "has other sizes in its local header")
    # The width of the sizes in the descriptor depends on this field for some readers, on the markers for others.
    if member.flags & _DESCRIBED and said != markers:
        _blame(member.name, "has a zip64 field that does not fit its local header")


def _check_descriptor(stream: BinaryIO, member: _Member, end: int, *, zip64: bool, limit: int) -> int:
    """Check the descriptor after the data (4.3.9), and return where it ends.

    Only with its signature, which every writer of today writes: without, readers would have to guess.
    """
    form = _DESCRIPTOR64 if zip64 else _DESCRIPTOR
    if end + form.size > limit:
        _blame(member.name, "has no descriptor after its data")
    found = form.unpack(_read(stream, end, form.size))
    if found[0] != _DESCRIPTOR_SIGNATURE:
        _blame(member.name, "has no descriptor after its data")
    if found[1:] != (member.crc, member.packed, member.unpacked):
        _blame(member.name, "has another CRC or other sizes in its descriptor")
    return end + form.size
