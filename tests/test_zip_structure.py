"""The structure of an archive: what two readers could take for two things is refused, and real ones are not."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.wheels import Member, WheelSpec, wheel_bytes, zip_wheel
from vrfstore.store.wheel import _UNREADABLE
from vrfstore.store.zip_structure import Limits, StructureError, check_structure, read_headers

LIMITS = Limits()
MARKER = 0xFFFFFFFF
LOCAL = ("needed", "flags", "method", "time", "date", "crc", "packed", "unpacked", "name_size", "extra_size")
CENTRAL = (
    "made",
    *LOCAL,
    "comment_size",
    "disk",
    "internal",
    "external",
    "offset",
)
END = ("disk", "first_disk", "here", "count", "size", "offset", "comment_size")


@dataclass(frozen=True)
class Entry:
    """One member, true until something is said otherwise.

    Attributes:
        before: Bytes in front of its local header.
        local: Fields of the local header, by name, that say something else; so for `central`.
        local_name: The name in the local header, where it is another one.
        descriptor: What follows the data; None for what the flags ask for.
        packing: The data as it lies in the archive, where that is not what the method makes of it.
    """

    name: bytes = b"a.py"
    data: bytes = b"a = 1\n"
    method: int = 8
    flags: int = 0
    before: bytes = b""
    local: Mapping[str, int] = field(default_factory=dict)
    central: Mapping[str, int] = field(default_factory=dict)
    local_name: bytes | None = None
    local_extra: bytes = b""
    central_extra: bytes = b""
    descriptor: bytes | None = None
    signature: bytes = b"PK\3\4"
    packing: bytes | None = None

    @property
    def packed(self) -> bytes:
        """The data as it lies in the archive."""
        if self.packing is not None:
            return self.packing
        if self.method != 8:
            return self.data
        deflater = zlib.compressobj(wbits=-15)
        return deflater.compress(self.data) + deflater.flush()

    @property
    def crc(self) -> int:
        return zlib.crc32(self.data)


def archive(
    entries: Sequence[Entry] = (Entry(),),
    *,
    before_directory: bytes = b"",
    before_end: bytes = b"",
    comment: bytes = b"",
    after: bytes = b"",
    backwards: bool = False,
    end64: Mapping[str, int] | None = None,
    locator: Mapping[str, int] | None = None,
    **end: int,
) -> bytes:
    """Write an archive; `end`, `end64` and `locator` have fields by name that say something else."""
    body = b""
    headers = []
    for entry in entries:
        body += entry.before
        headers.append(central_header(entry, len(body)))
        body += local_header(entry) + entry.packed + descriptor(entry)
    body += before_directory
    directory = b"".join(reversed(headers) if backwards else headers)
    offset = len(body)
    body += directory
    truth = dict.fromkeys(("disk", "first_disk", "comment_size"), 0)
    truth |= {"here": len(entries), "count": len(entries), "size": len(directory), "offset": offset}
    if end64 is not None or locator is not None:
        body += zip64_end(truth, len(body), end64 or {}, locator or {})
    body += before_end
    said = truth | {"comment_size": len(comment)} | end
    return body + b"PK\5\6" + struct.pack("<4H2LH", *(said[key] for key in END)) + comment + after


def local_header(entry: Entry) -> bytes:
    name = entry.name if entry.local_name is None else entry.local_name
    said = fields(entry) | {"extra_size": len(entry.local_extra), "name_size": len(name)}
    if entry.flags & 8:
        said |= dict.fromkeys(("crc", "packed", "unpacked"), 0)
    said |= entry.local
    return entry.signature + struct.pack("<5H3L2H", *(said[key] for key in LOCAL)) + name + entry.local_extra


def central_header(entry: Entry, offset: int) -> bytes:
    said = fields(entry) | {"made": 0x314, "comment_size": 0, "disk": 0, "internal": 0}
    said |= {"external": 0o100644 << 16, "offset": offset, "extra_size": len(entry.central_extra)}
    if entry.name.endswith(b"/"):
        said |= {"external": 0o40755 << 16 | 0x10}
    said |= entry.central
    return (
        b"PK\1\2"
        + struct.pack("<6H3L5H2L", *(said[key] for key in CENTRAL))
        + entry.name
        + entry.central_extra
        + b"c" * said["comment_size"]
    )


def fields(entry: Entry) -> dict[str, int]:
    """What both headers say of a member."""
    return {
        "needed": 20,
        "flags": entry.flags,
        "method": entry.method,
        "time": 0,
        "date": 0x21,
        "crc": entry.crc,
        "packed": len(entry.packed),
        "unpacked": len(entry.data),
        "name_size": len(entry.name),
    }


def descriptor(entry: Entry) -> bytes:
    if entry.descriptor is not None:
        return entry.descriptor
    if not entry.flags & 8:
        return b""
    return b"PK\7\x08" + struct.pack("<3L", entry.crc, len(entry.packed), len(entry.data))


def zip64_end(
    truth: Mapping[str, int], place: int, end64: Mapping[str, int], locator: Mapping[str, int]
) -> bytes:
    said = {**truth, "rest": 44, **end64}
    where = {"disk": 0, "place": place, "disks": 1, **locator}
    keys = ("disk", "first_disk", "here", "count", "size", "offset")
    record = struct.pack("<Q2H", said["rest"], 45, 45) + struct.pack("<2L4Q", *(said[key] for key in keys))
    return (
        b"PK\6\6" + record + (b"PK\6\7" + struct.pack("<LQL", where["disk"], where["place"], where["disks"]))
    )


def extra(identifier: int, data: bytes) -> bytes:
    return struct.pack("<2H", identifier, len(data)) + data


def zip64(*numbers: int) -> bytes:
    return extra(1, struct.pack(f"<{len(numbers)}Q", *numbers))


def unicode_path(shown: bytes, name: bytes, *, version: int = 1) -> bytes:
    return extra(0x7075, struct.pack("<BL", version, zlib.crc32(name)) + shown)


def check(data: bytes, limits: Limits = LIMITS) -> list[str]:
    """Do what whoever reads a wheel does before anything of it is believed."""
    stream = io.BytesIO(data)
    headers = read_headers(stream, limits)
    with zipfile.ZipFile(stream) as opened:
        return check_structure(stream, headers, opened, limits)


A = Entry()
B = Entry(b"b.py", b"b = 2\n" * 40)
STORED = Entry(method=0)
DESCRIBED = Entry(flags=8)
SIZES = (len(A.data), len(A.packed))
"""Of a.py, in the order of a zip64 field."""
LONG = extra(0x9999, bytes(100))


@dataclass(frozen=True)
class Refusal:
    """An archive and what is said of it: the kind, a phrase, and the member that is blamed."""

    label: str
    data: bytes
    phrase: str
    member: str | None = None
    kind: str = "wheel-archive"
    limits: Limits = LIMITS


def with_end_record() -> Entry:
    """An archive as a member, whose end record has all that follows it for its comment."""
    inner = archive([B])
    first = Entry(b"x.zip", inner, method=0)
    rest = len(archive([first])) - len(local_header(first)) - len(inner)
    return replace(first, data=archive([B], comment_size=rest))


A_SIZE = len(local_header(A)) + len(A.packed)
TAIL = archive([A])[A_SIZE:]

ENDS = [
    Refusal("nothing", b"", "no end record"),
    Refusal("no zip", b"#!/bin/sh\n" * 10, "no end record"),
    Refusal("cut off", archive()[:-1], "no end record"),
    Refusal("bytes after the end", archive(after=b"\0"), "1 bytes after the end record"),
    Refusal("newline after the end", archive(after=b"\r\n"), "2 bytes after the end record"),
    Refusal("comment", archive(comment=b"hello"), "has a comment"),
    Refusal("comment that is not there", archive(comment_size=5), "has a comment"),
    Refusal("end record in the comment", archive(comment=archive([])), "several end records"),
    Refusal("half an end record in the comment", archive(comment=b"PK\5\6"), "no end record"),
    Refusal("two archives", archive() + archive([B]), "does not lead to its end"),
    Refusal("end record twice", archive() + archive()[-22:], "does not lead to its end"),
    Refusal("end record in the data", archive([with_end_record()]), "several end records"),
    Refusal("another disk", archive(disk=1), "one part of several"),
    Refusal("directory on another disk", archive(first_disk=1), "one part of several"),
    Refusal("some members on another disk", archive(here=0), "one part of several"),
    Refusal("count too high", archive(count=2, here=2), "counts 2 members, the central directory has 1"),
    Refusal(
        "count too low", archive([A, B], count=1, here=1), "counts 1 members, the central directory has 2"
    ),
    Refusal("count of none", archive(count=0, here=0), "counts 0 members, the central directory has 1"),
    Refusal("size too small", archive(size=len(TAIL) - 22 - 1), "does not lead to its end"),
    Refusal("size too large", archive(size=1 << 30), "does not lead to its end"),
    Refusal("offset too small", archive(offset=0), "does not lead to its end"),
    Refusal("offset too large", archive(offset=1 << 30), "does not lead to its end"),
    Refusal(
        "size and offset elsewhere",
        archive(size=len(TAIL) - 22 + 1, offset=A_SIZE - 1),
        "something else than headers",
    ),
    Refusal("bytes before the end", archive(before_end=b"\0"), "does not lead to its end"),
    Refusal("bytes in front of it all", b"#!" + archive(), "does not lead to its end"),
    Refusal(
        "digital signature",
        archive(before_end=b"PK\5\5\0\0", size=len(TAIL) - 22 + 6),
        "something else than headers",
    ),
    Refusal(
        "last header too long",
        archive([replace(A, central={"comment_size": 9})])[:-22][:-9]
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(TAIL) - 22, A_SIZE, 0),
        "reaches beyond its end",
    ),
]

ENDS_64 = [
    Refusal("count by marker without a zip64 record", archive(count=0xFFFF), "refers to a zip64 end record"),
    Refusal("offset by marker without one", archive(offset=MARKER), "refers to a zip64 end record"),
    Refusal(
        "locator after other bytes",
        archive(end64={}, before_end=b"\0", offset=MARKER),
        "refers to a zip64 end record",
    ),
    Refusal("locator elsewhere", archive(locator={"place": 0}), "the zip64 locator leads elsewhere"),
    Refusal("locator far away", archive(locator={"place": 1 << 63}), "the zip64 locator leads elsewhere"),
    Refusal("locator on another disk", archive(locator={"disk": 1}), "one part of several"),
    Refusal("locator of several disks", archive(locator={"disks": 2}), "one part of several"),
    Refusal("locator of no disk", archive(locator={"disks": 0}), "one part of several"),
    Refusal("extensible data", archive(end64={"rest": 45}), "not one of the usual size"),
    Refusal(
        "locator without a record",
        archive(before_end=bytes(56) + b"PK\6\7" + struct.pack("<LQL", 0, len(archive()) - 22, 1)),
        "not one of the usual size",
    ),
    Refusal("counts differ", archive(end64={"count": 2}), "says 1 where the zip64 end record says 2"),
    Refusal("counts here differ", archive(end64={"here": 2}), "says 1 where the zip64 end record says 2"),
    Refusal(
        "sizes differ",
        archive(end64={"size": 46}),
        f"says {len(TAIL) - 22} where the zip64 end record says 46",
    ),
    Refusal(
        "offsets differ", archive(end64={"offset": 0}), f"says {A_SIZE} where the zip64 end record says 0"
    ),
    Refusal("disks differ", archive(end64={"disk": 1}), "says 0 where the zip64 end record says 1"),
    Refusal("disk by marker", archive(end64={"disk": 1}, disk=0xFFFF), "one part of several"),
    Refusal(
        "size by marker, too large",
        archive(end64={"size": 1 << 40}, size=MARKER),
        "does not lead to its end",
    ),
]

PLACES = [
    Refusal(
        "bytes before the first member",
        archive([replace(A, before=b"#!/bin/sh\n")]),
        "10 bytes before the first member",
        "a.py",
    ),
    Refusal(
        "spanning marker", archive([replace(A, before=b"PK00")]), "4 bytes before the first member", "a.py"
    ),
    Refusal(
        "bytes between members", archive([A, replace(B, before=b"\0")]), "1 bytes between it and", "b.py"
    ),
    Refusal(
        "member that the directory does not name",
        archive([A, replace(B, before=local_header(STORED) + STORED.data)]),
        "bytes between it and the member before",
        "b.py",
    ),
    Refusal(
        "bytes after the last member",
        archive([A, B], before_directory=b"x" * 7),
        "7 bytes before the central",
    ),
    Refusal("nothing but bytes", archive([], before_directory=b"x"), "1 bytes before the central"),
    Refusal(
        "archive extra data record",
        archive([A], before_directory=b"PK\6\x08" + bytes(4)),
        "8 bytes before the central",
    ),
    Refusal(
        "two headers for one member",
        archive([A, replace(A, name=b"b.py", before=b"", central={"offset": 0})]),
        "overlaps the member before it",
        "b.py",
    ),
    Refusal(
        "member inside another one",
        archive([Entry(b"big", local_header(A) + A.packed, method=0), replace(A, central={"offset": 33})]),
        "overlaps the member before it",
        "a.py",
    ),
    Refusal(
        "member inside another one, named before it",
        archive(
            [Entry(b"big", local_header(A) + A.packed, method=0), replace(A, central={"offset": 33})],
            backwards=True,
        ),
        "overlaps the member before it",
        "a.py",
    ),
    Refusal(
        "offsets exchanged",
        archive([replace(A, central={"offset": A_SIZE}), replace(B, central={"offset": 0})]),
        "another name in its local header",
        "b.py",
        "wheel-member-name",
    ),
    Refusal(
        "member longer than the file",
        archive(
            [replace(STORED, local={"packed": 99, "unpacked": 99}, central={"packed": 99, "unpacked": 99})]
        ),
        "reaches into the central directory",
        "a.py",
    ),
    Refusal("no local header", archive([replace(A, signature=b"PK\1\2")]), "has no local header", "a.py"),
    Refusal(
        "offset beyond the file",
        archive([replace(A, central={"offset": 1 << 31})]),
        "bytes before the first member",
        "a.py",
    ),
    Refusal(
        "extra field longer than the file",
        archive([replace(A, local={"extra_size": 0xFFFF})]),
        "reaches into the central directory",
        "a.py",
    ),
    Refusal(
        "on another disk",
        archive([replace(A, central={"disk": 1})]),
        "in another part of the archive",
        "a.py",
    ),
]


def differing(label: str, phrase: str, entry: Entry, kind: str = "wheel-archive") -> Refusal:
    return Refusal(label, archive([B, entry]), phrase, entry.name.decode(), kind)


LOCALS = [
    differing("name", "another name", replace(A, local_name=b"b.py"), "wheel-member-name"),
    differing("longer name", "another name", replace(A, local_name=b"a.pyc"), "wheel-member-name"),
    differing("shorter name", "another name", replace(A, local_name=b"a.p"), "wheel-member-name"),
    differing("case of the name", "another name", replace(A, local_name=b"A.py"), "wheel-member-name"),
    differing("flags", "other flags", replace(A, local={"flags": 2})),
    differing("descriptor flag in the local header", "other flags", replace(A, local={"flags": 8})),
    differing("descriptor flag in the directory", "other flags", replace(A, central={"flags": 8})),
    differing("encrypted in the local header", "other flags", replace(A, local={"flags": 1})),
    differing("method", "another compression", replace(A, local={"method": 0})),
    differing("CRC", "another CRC in its local", replace(A, local={"crc": 1})),
    differing("no CRC", "another CRC in its local", replace(A, local={"crc": 0})),
    differing("packed size", "other sizes in its local", replace(A, local={"packed": 1})),
    differing("no sizes", "other sizes in its local", replace(A, local={"packed": 0, "unpacked": 0})),
    differing("unpacked size", "other sizes in its local", replace(A, local={"unpacked": 1})),
    differing(
        "markers without field", "other sizes", replace(A, local={"packed": MARKER, "unpacked": MARKER})
    ),
    differing("zip64 unpacked size", "other sizes", replace(A, local_extra=zip64(SIZES[0] + 1, SIZES[1]))),
    differing("zip64 packed size", "other sizes", replace(A, local_extra=zip64(SIZES[0], SIZES[1] + 1))),
    differing("zip64 zeros", "other sizes", replace(A, local_extra=zip64(0, 0))),
    differing("zip64 header", "other sizes", replace(A, local_extra=zip64(*SIZES), local={"packed": MARKER})),
    differing("one zip64 size", "does not fit its local", replace(A, local_extra=zip64(SIZES[0]))),
    differing("three zip64 sizes", "does not fit its local", replace(A, local_extra=zip64(*SIZES, 0))),
    differing("two zip64 fields", "0x0001 twice", replace(A, local_extra=zip64(*SIZES) + zip64(1, 1))),
    differing("field cut off", "cut off", replace(A, local_extra=b"\1\0\x10\0\0")),
    differing("field of three bytes", "cut off", replace(A, local_extra=b"\1\0\0")),
    differing("long field cut off", "cut off", replace(A, local_extra=LONG + b"\0")),
    differing(
        "path in a local field",
        "has 'evil.py' as another name",
        replace(A, local_extra=LONG + unicode_path(b"evil.py", A.name)),
        "wheel-member-name",
    ),
    differing("AES in the local header", "is encrypted", replace(A, local_extra=extra(0x9901, bytes(7)))),
    differing("stored with a descriptor", "only after its data", replace(STORED, flags=8)),
    differing("descriptor missing", "has no descriptor", replace(DESCRIBED, descriptor=b"")),
    differing(
        "descriptor without signature",
        "has no descriptor",
        replace(DESCRIBED, descriptor=descriptor(DESCRIBED)[4:]),
    ),
    differing("zeros as a descriptor", "has no descriptor", replace(DESCRIBED, descriptor=bytes(16))),
    differing("CRC in the header", "another CRC in its local", replace(DESCRIBED, local={"crc": 1})),
    differing("size in the header", "other sizes in its local", replace(DESCRIBED, local={"packed": 1})),
    differing("one size in the header", "other sizes", replace(DESCRIBED, local={"packed": SIZES[1]})),
    differing(
        "zip64 descriptor by the field only",
        "does not fit its local",
        replace(DESCRIBED, local_extra=zip64(*SIZES), local={"unpacked": SIZES[0], "packed": SIZES[1]}),
    ),
    *(
        differing(
            f"descriptor with another {what}",
            "in its descriptor",
            replace(DESCRIBED, descriptor=b"PK\7\x08" + struct.pack("<3L", *numbers)),
        )
        for what, numbers in {
            "CRC": (1, SIZES[1], SIZES[0]),
            "packed size": (A.crc, 1, SIZES[0]),
            "unpacked size": (A.crc, SIZES[1], 1),
        }.items()
    ),
    Refusal(
        "descriptor and bytes after it",
        archive([replace(DESCRIBED, descriptor=descriptor(DESCRIBED) + bytes(8)), B]),
        "8 bytes between it",
        "b.py",
    ),
    Refusal(
        "zip64 descriptor without the field",
        archive([replace(DESCRIBED, descriptor=b"PK\7\x08" + struct.pack("<LQQ", A.crc, *SIZES[::-1])), B]),
        "in its descriptor",
        "a.py",
    ),
]

MEMBERS = [
    differing("encrypted", "is encrypted", replace(A, flags=1)),
    differing("strongly encrypted", "is encrypted", replace(A, flags=0x41)),
    differing("strong encryption alone", "is encrypted", replace(A, flags=0x40)),
    differing("masked headers", "is encrypted", replace(A, flags=0x2000)),
    differing("strong encryption by field", "is encrypted", replace(A, central_extra=extra(0x17, bytes(8)))),
    differing("patch", "flags 0x0020", replace(A, flags=0x20)),
    differing("enhanced deflating", "flags 0x0010", replace(A, flags=0x10)),
    differing("reserved flag", "flags 0x8000", replace(A, flags=0x8000)),
    *(
        differing(f"method {method}", f"unknown compression {method}", replace(A, method=method))
        for method in (1, 6, 9, 12, 14, 93, 95, 99)
    ),
    differing("stored of two sizes", "is stored, but", replace(STORED, central={"unpacked": 5})),
    differing("field cut off", "cut off", replace(A, central_extra=b"\x99\x99\x10\0")),
    differing("field of three bytes", "cut off", replace(A, central_extra=b"\0\0\0")),
    differing("field twice", "0x9999 twice", replace(A, central_extra=LONG + LONG)),
    differing("zip64 field for nothing", "zip64 field", replace(A, central_extra=zip64(*SIZES))),
    differing("empty zip64 field twice", "0x0001 twice", replace(A, central_extra=zip64() + zip64())),
    differing("marker without a field", "zip64 field", replace(A, central={"packed": MARKER})),
    differing(
        "zip64 field of too few sizes",
        "zip64 field",
        replace(A, central={"packed": MARKER, "unpacked": MARKER}, central_extra=zip64(SIZES[0])),
    ),
    differing(
        "zip64 field with a disk",
        "zip64 field",
        replace(A, central={"packed": MARKER}, central_extra=extra(1, struct.pack("<QL", SIZES[1], 0))),
    ),
    differing(
        "disk in a zip64 field",
        "another part of the archive",
        replace(A, central={"disk": 0xFFFF}, central_extra=extra(1, bytes(4))),
    ),
    differing(
        "another path",
        "has 'evil.py' as another name",
        replace(A, central_extra=unicode_path(b"evil.py", A.name)),
        "wheel-member-name",
    ),
    differing(
        "another path, of another CRC",
        "has 'evil.py' as another name",
        replace(A, central_extra=unicode_path(b"evil.py", b"")),
        "wheel-member-name",
    ),
    differing(
        "path of another version",
        "as another name",
        replace(A, central_extra=unicode_path(b"a.py", A.name, version=2)),
        "wheel-member-name",
    ),
    differing(
        "empty path field",
        "has '' as another name",
        replace(A, central_extra=extra(0x7075, b"")),
        "wheel-member-name",
    ),
    Refusal(
        "bytes that are no UTF-8",
        archive([Entry(b"\xff.py", flags=0x800)]),
        "in different ways",
        "\\xff.py",
        "wheel-member-name",
    ),
    Refusal(
        "UTF-8 that does not say so",
        archive([Entry("ä.py".encode())]),
        "in different ways",
        "├ñ.py",
        "wheel-member-name",
    ),
    differing("NUL in the name", "has a NUL", Entry(b"a.py\0.txt"), "wheel-member-name"),
    Refusal(
        "equal up to a NUL",
        archive([A, Entry(b"a.py\0")]),
        "has a NUL",
        "a.py\0",
        "wheel-member-name",
    ),
    Refusal(
        "twice",
        archive([A, B, replace(A, data=b"other")]),
        "is there twice",
        "a.py",
        "wheel-member-duplicate",
    ),
    Refusal(
        "directory twice",
        archive([Entry(b"a/", b"", 0), Entry(b"a/", b"", 0)]),
        "is there twice",
        "a/",
        "wheel-member-duplicate",
    ),
    differing("directory with content", "has content", Entry(b"a/", b"x", 0), "wheel-member-type"),
    differing(
        "directory packed into bytes",
        "has content",
        Entry(b"a/", b"", packing=b"\1\0\0\xff\xff"),
        "wheel-member-type",
    ),
    differing("stored directory with bytes", "is stored, but", Entry(b"a/", b"", 0, packing=b"\3\0")),
    differing(
        "directory with a CRC", "has content", Entry(b"a/", b"", 0, central={"crc": 1}), "wheel-member-type"
    ),
    differing(
        "directory by mode",
        "a directory by its mode",
        replace(A, central={"external": 0o40755 << 16}),
        "wheel-member-type",
    ),
    differing(
        "directory by DOS attribute",
        "a directory by its mode",
        replace(A, central={"external": 0o100644 << 16 | 0x10}),
        "wheel-member-type",
    ),
    differing(
        "directory with the mode of a file",
        "none by its mode",
        Entry(b"a/", b"", 0, central={"external": 0o100644 << 16}),
        "wheel-member-type",
    ),
]

FEW = Limits(files=3)
HUGE = {"packed": 1 << 20, "unpacked": 200 << 20}

BOMBS = [
    Refusal(
        "members",
        archive([Entry(b"%d" % number) for number in range(4)], end64={}),
        "has 4 members, more than 3",
        kind="wheel-bomb",
        limits=FEW,
    ),
    Refusal(
        "members that are only said to be there",
        archive(end64={"here": 1 << 60, "count": 1 << 60}, here=0xFFFF, count=0xFFFF),
        f"has {1 << 60} members",
        kind="wheel-bomb",
    ),
    Refusal(
        "members that are not counted",
        archive([Entry(b"%d" % number) for number in range(4)], here=2, count=2),
        "counts 2 members",
        limits=FEW,
    ),
    Refusal(
        "central directory",
        archive([Entry(b"%d" % n, central_extra=extra(0x9999, bytes(65_000))) for n in range(20)]),
        "the central directory has 1301",
        kind="wheel-bomb",
        limits=Limits(files=20),
    ),
    Refusal(
        "unpacked",
        archive([replace(A, central={"unpacked": 3 << 30}), replace(B, central={"unpacked": 3 << 30})]),
        f"have {6 << 30} bytes unpacked, more than {5 << 30}",
        kind="wheel-bomb",
        limits=Limits(unpacked=5 << 30),
    ),
    Refusal(
        "unpacked, by zip64",
        archive([replace(A, central={"unpacked": MARKER}, central_extra=zip64((1 << 64) - 1))]),
        f"have {(1 << 64) - 1} bytes unpacked",
        kind="wheel-bomb",
    ),
    Refusal(
        "ratio",
        archive([replace(A, central={"unpacked": 65 << 20})]),
        "more than 100 to one",
        kind="wheel-bomb",
    ),
    Refusal(
        "real ratio",
        archive([Entry(b"zeros", bytes(65 << 20))]),
        "more than 100 to one",
        kind="wheel-bomb",
    ),
    Refusal(
        "directories that are no members",
        archive([Entry(b"a/b/c/d")]),
        "in so many directories that there are more than 3 files",
        kind="wheel-bomb",
        limits=FEW,
    ),
    Refusal(
        "depth",
        archive([Entry(b"a/" * 4 + b"a.py")]),
        "more than 3 directories deep",
        "a/a/a/a/a.py",
        "wheel-member-name",
        Limits(depth=3),
    ),
    Refusal(
        "depth of a directory",
        archive([Entry(b"a/" * 5, b"", 0)]),
        "more than 3 directories deep",
        "a/a/a/a/a/",
        "wheel-member-name",
        Limits(depth=3),
    ),
]


@pytest.mark.parametrize(
    "refusal", [*ENDS, *ENDS_64, *PLACES, *LOCALS, *MEMBERS, *BOMBS], ids=lambda refusal: refusal.label
)
def test_refused(refusal: Refusal) -> None:
    with pytest.raises(StructureError) as caught:
        check(refusal.data, refusal.limits)
    error = caught.value
    assert refusal.phrase in error.message
    assert (error.kind, error.member) == (refusal.kind, refusal.member)
    assert refusal.member is None or repr(refusal.member) in error.message
    assert str(error) == error.message


def test_an_archive_that_zipfile_sees_otherwise() -> None:
    stream = io.BytesIO(archive([A, B]))
    for other, phrase, member in (
        ([A], "zipfile sees 1 members", None),
        ([A, replace(B, data=b"b = 3\n" * 40)], "another one to zipfile", "b.py"),
        ([replace(A, name=b"c.py"), B], "another one to zipfile", "a.py"),
    ):
        with zipfile.ZipFile(io.BytesIO(archive(other))) as opened, pytest.raises(StructureError) as caught:
            check_structure(stream, read_headers(stream, LIMITS), opened, LIMITS)
        assert phrase in caught.value.message
        assert caught.value.member == member


# --- what is accepted ------------------------------------------------------------------------------------------

CONTENT = {
    "demo/__init__.py": b"",
    "demo/a.py": b"a = 1\n" * 99,
    "demo/\u00e4.txt": b"\0\xff" * 9,
    "demo/data/": b"",
}


class Pipe(io.RawIOBase):
    """What zipfile can only write forwards to, so that it has to put sizes after the data."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)

    def writable(self) -> bool:
        return True


def zipped(target: io.BytesIO | Pipe, method: int, *, force_zip64: bool = False) -> bytes:
    """What zipfile makes of CONTENT."""
    with zipfile.ZipFile(target, "w", method) as opened:
        for name, content in CONTENT.items():
            if name.endswith("/"):
                opened.mkdir(name)
                continue
            with opened.open(_described(name, method), "w", force_zip64=force_zip64) as member:
                member.write(content)
    return target.getvalue() if isinstance(target, io.BytesIO) else target.data


def _described(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = method
    info.external_attr = 0o100644 << 16
    return info


def streamed(data: bytes) -> dict[str, bytes]:
    """Read an archive as whoever cannot go back does: by local headers only, until something else comes."""
    found: dict[str, bytes] = {}
    position = 0
    while data.startswith(b"PK\3\4", position):
        _, flags, method, _, _, _, packed, unpacked, name_size, extra_size = struct.unpack_from(
            "<5H3L2H", data, position + 4
        )
        position += 30
        name = data[position : position + name_size].decode("utf-8" if flags & 0x800 else "cp437")
        position += name_size
        long = data[position : position + extra_size].find(struct.pack("<2H", 1, 16))
        if long >= 0:
            unpacked, packed = struct.unpack_from("<2Q", data, position + long + 4)
        position += extra_size
        if flags & 8:
            inflater = zlib.decompressobj(wbits=-15)
            content = inflater.decompress(data[position:])
            position = len(data) - len(inflater.unused_data) + (24 if long >= 0 else 16)
        else:
            content = data[position : position + packed]
            content = zlib.decompress(content, wbits=-15) if method == 8 else content
            position += packed
            assert len(content) == unpacked
        assert name not in found
        found[name] = content
    return found


def central(data: bytes) -> dict[str, bytes]:
    """Read an archive as zipfile does, and the data of members as wheel.py does: to its end and not beyond."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        for info in opened.infolist():
            found[info.orig_filename] = opened.read(info)
            begin = info.header_offset + 30 + sum(struct.unpack_from("<26x2H", data, info.header_offset))
            content = data[begin : begin + info.compress_size]
            if info.compress_type == zipfile.ZIP_DEFLATED:
                inflater = zlib.decompressobj(wbits=-15)
                content = inflater.decompress(content)
                if not inflater.eof or inflater.unused_data:
                    raise zipfile.BadZipFile("the compressed data ends elsewhere")
            if len(content) != info.file_size or content != found[info.orig_filename]:
                raise zipfile.BadZipFile("there is more or less than zipfile has read")
    return found


def zip64_everywhere(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What zipfile would write of members beyond 4 GiB, and of more than 65,535 of them."""
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 1)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        return zipped(io.BytesIO(), zipfile.ZIP_DEFLATED, force_zip64=True)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("force_zip64", [False, True])
def test_zipfile_writes_what_is_accepted(method: int, force_zip64: bool) -> None:
    data = zipped(io.BytesIO(), method, force_zip64=force_zip64)
    assert check(data) == []
    assert central(data) == streamed(data) == CONTENT


@pytest.mark.parametrize("force_zip64", [False, True])
def test_descriptors_are_accepted(force_zip64: bool) -> None:
    data = zipped(Pipe(), zipfile.ZIP_DEFLATED, force_zip64=force_zip64)
    assert data.count(b"PK\7\x08") == len(CONTENT) - 1
    assert check(data) == []
    assert central(data) == streamed(data) == CONTENT


def test_stored_members_with_descriptors_are_not() -> None:
    with pytest.raises(StructureError, match="only after its data"):
        check(zipped(Pipe(), zipfile.ZIP_STORED))


def test_zip64_as_zipfile_writes_it_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zip64_everywhere(monkeypatch)
    assert data.count(b"PK\6\6") == data.count(b"PK\6\7") == 1
    assert data.count(struct.pack("<L", MARKER)) >= 4 * 2
    assert check(data) == []
    assert central(data) == streamed(data) == CONTENT


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(archive([]), id="nothing in it"),
        pytest.param(archive([A, B, Entry(b"empty", b"", 0), Entry(b"a/", b"", 0)]), id="plain"),
        pytest.param(archive([A, B], backwards=True), id="directory in another order"),
        pytest.param(archive([DESCRIBED, B]), id="descriptor"),
        pytest.param(
            archive(
                [
                    replace(
                        DESCRIBED,
                        local=dict(zip(("crc", "unpacked", "packed"), (A.crc, *SIZES), strict=True)),
                    )
                ]
            ),
            id="descriptor, and sizes in the header",
        ),
        pytest.param(archive([replace(A, local_extra=zip64(*SIZES))]), id="sizes twice and equal"),
        pytest.param(
            archive([replace(A, local_extra=zip64(*SIZES), local={"packed": MARKER, "unpacked": MARKER})]),
            id="sizes in a zip64 field",
        ),
        pytest.param(
            archive(
                [replace(A, central={"packed": MARKER, "unpacked": MARKER}, central_extra=zip64(*SIZES))]
            ),
            id="sizes in a zip64 field of the directory",
        ),
        pytest.param(
            archive([replace(A, central={"offset": MARKER}, central_extra=zip64(0))]),
            id="offset in a zip64 field",
        ),
        pytest.param(archive([A, B], end64={}), id="zip64 end record"),
        pytest.param(
            archive([A, B], end64={}, here=0xFFFF, count=0xFFFF, size=MARKER, offset=MARKER),
            id="zip64 end record with markers",
        ),
        pytest.param(archive([replace(A, flags=6)]), id="flags of compression"),
        pytest.param(archive([Entry("\u00e4.py".encode(), flags=0x800)]), id="UTF-8"),
        pytest.param(
            archive(
                [
                    replace(
                        A,
                        local_extra=unicode_path(b"a.py", b"a.py"),
                        central_extra=unicode_path(b"a.py", b"a.py"),
                    )
                ]
            ),
            id="path field of the same name",
        ),
        pytest.param(
            archive([replace(A, local_extra=LONG, central_extra=LONG), B]), id="unknown extra field"
        ),
        pytest.param(archive([replace(A, central={"external": 0})]), id="no mode"),
        pytest.param(archive([Entry(b"x.zip", archive([B]), method=0)]), id="an archive as a member"),
        pytest.param(archive([Entry(b"a/", b""), B]), id="directory deflated to two bytes"),
        pytest.param(archive([Entry(b"a/", b"", 0, central={"external": 0})]), id="directory without a mode"),
    ],
)
def test_accepted(data: bytes) -> None:
    assert check(data) == []
    assert central(data) == streamed(data)


def test_limits_are_inclusive() -> None:
    entries = [Entry(b"a/b/c.py"), B]
    # Two files, and two directories that are no members.
    exact = Limits(unpacked=len(A.data) + len(B.data), files=4, ratio=1, depth=2)
    assert check(archive(entries), exact) == []


def test_ratio_is_of_the_whole_and_for_large_ones_only() -> None:
    zeros = Entry(b"zeros", bytes(64 << 20))
    assert check(archive([zeros])) == []
    # A thousandth of it is not zeros, which is enough.
    noise = Entry(b"noise", bytes(range(256)) * 4096, 0)
    assert check(archive([replace(zeros, data=bytes(80 << 20)), noise])) == []


def test_lookalikes_are_named() -> None:
    names = ["README", "readme", "Readme", "\u00e4.txt", "a\u0308.TXT", "stra\u00dfe", "STRASSE", "a", "b"]
    warnings = check(archive([Entry(name.encode(), flags=0x800) for name in names]))
    assert warnings == [
        "members 'README', 'readme', 'Readme' differ in nothing but case or Unicode normalisation",
        "members '\u00e4.txt', 'a\u0308.TXT' differ in nothing but case or Unicode normalisation",
        "members 'stra\u00dfe', 'STRASSE' differ in nothing but case or Unicode normalisation",
    ]


def test_very_many_lookalikes_are_counted() -> None:
    warnings = check(
        archive([Entry(b"%s%d" % (case, number)) for number in range(25) for case in (b"a", b"A")])
    )
    assert len(warnings) == 21
    assert warnings[-1] == "and so do 5 more groups of members"


# --- what nobody has thought of --------------------------------------------------------------------------------

WHEEL = wheel_bytes(
    WheelSpec(name="demo", files={"demo/__init__.py": "x = 1\n" * 9, "demo/b.bin": bytes(range(64))})
)
UNREADABLE: tuple[type[Exception], ...] = (*cast("tuple[Any, ...]", _UNREADABLE), zlib.error)
"""What wheel.py expects of zipfile; the inflater there may be another one, with an error of its own."""

SEEDS = [
    WHEEL,
    zip_wheel(
        [Member("a/", b"", compression=0), Member("a/b", b"stored", compression=0), Member("c", b"c" * 99)]
    ),
    zipped(Pipe(), zipfile.ZIP_DEFLATED, force_zip64=True),
    archive(
        [DESCRIBED, replace(B, local_extra=zip64(len(B.data), len(B.packed))), replace(STORED, name=b"s")],
        end64={},
    ),
]
NUMBERS = [0, 1, 8, 9, 0x14, 0x7F, 0x800, 0x7075, 0xFFFF, MARKER]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An archive to which a few things have happened."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        place, other = draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))
        size = draw(st.integers(1, 64))
        match draw(st.sampled_from(["flip", "number", "cut", "insert", "repeat", "move"])):
            case "flip":
                data[place : place + 1] = bytes(byte ^ 1 << size % 8 for byte in data[place : place + 1])
            case "number":
                width = draw(st.sampled_from([2, 4, 8]))
                number = draw(st.sampled_from(NUMBERS)) & (1 << 8 * width) - 1
                data[place : place + width] = number.to_bytes(width, "little")
            case "cut":
                del data[place : place + size]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=32))
            case "repeat":
                data[place:place] = data[other : other + size]
            case "move":
                data[place : place + size] = data[other : other + size]
    return bytes(data)


@given(mutated())
@settings(max_examples=400)
@example(WHEEL)
def test_whatever_is_accepted_means_one_thing(data: bytes) -> None:
    with contextlib.suppress(StructureError, *UNREADABLE):
        check(data)
        try:
            seen = central(data)
        except UNREADABLE:
            # The data of a member, which is for whoever inflates it.
            return
        assert streamed(data) == seen
