"""Archives: one form for each content, and whatever has another form is refused and leaves the store as it was."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import struct
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from support.crash import litter, tree
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.errors import WheelError
from vrfstore.model import Digest
from vrfstore.runner.exporting import export_archive
from vrfstore.runner.importing import ImportResult, import_archive
from vrfstore.store import archive
from vrfstore.store.archive_read import ArchiveLimits
from vrfstore.store.manifest import Manifest
from vrfstore.store.store import Store

DEMO = WheelSpec(
    name="demo",
    files={
        "demo/__init__.py": "print('demo')\n",
        "demo/empty.txt": "",
        f"demo/{'long' * 30}.txt": "a path that no plain header has room for",
        "demo/naïve.txt": "é",
    },
    data={
        "scripts/tool": "#!python\nprint()\n",
        "data/share/demo.txt": "x",
        "headers/demo.h": "#pragma",
    },
    executable=["demo/empty.txt"],
    entry_points={"console_scripts": {"run": "demo:run", "tool": "demo:tool"}},
)
DIST_INFO = DEMO.dist_info
INIT = "site-packages/demo/__init__.py"
METADATA = f"site-packages/{DIST_INFO}/METADATA"
ENTRY_POINTS = f"site-packages/{DIST_INFO}/entry_points.txt"

Json = dict[str, Any]
Rows = list[list[Any]]
Headed = tuple[bytes, bytes]


@pytest.fixture(autouse=True, scope="module")
def _without_sync() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "_syncfs", lambda _descriptor: None)
        yield


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def plain_header(name: str, size: int, mode: int = 0o444, **fields: Any) -> bytes:
    """A header as tarfile writes it, with whatever else is wanted in it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, mode
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT)


def filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pack(tar: bytes, *, size: int | None = None, **options: Any) -> bytes:
    """One frame, in one go."""
    given: dict[str, Any] = {"write_checksum": True, "write_content_size": True, "window_log": 23} | options
    parameters = zstandard.ZstdCompressionParameters.from_level(1, **given)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj(
        size=len(tar) if size is None else size
    )
    return packer.compress(tar) + packer.flush()


@dataclass(frozen=True)
class Draft:
    """An archive of one entry, from its parts; each part may be rewritten, and the parts above it stay consistent."""

    files: tuple[tuple[str, int, bytes], ...]
    digest: str
    manifest: Callable[[Rows], object] = field(default=list)
    contents: Callable[[Json], object] = field(default=dict)
    members: Callable[[list[Headed]], list[Headed]] = field(default=list)
    end: bytes = bytes(1024)
    extra: Json = field(default_factory=dict)

    def rows(self) -> Rows:
        return sorted([path, len(data), mode, sha256(data)] for path, mode, data in self.files)

    def manifest_bytes(self) -> bytes:
        altered = self.manifest(self.rows())
        return altered if isinstance(altered, bytes) else canonical(altered)

    def contents_bytes(self) -> bytes:
        manifest = self.manifest_bytes()
        # As the manifest has them, where there is a sense in that.
        try:
            rows = json.loads(manifest)
            size, digest = int(sum(row[1] for row in rows)), sha256(canonical(rows))
        except (ValueError, KeyError, TypeError, IndexError, OverflowError):
            size, digest = 0, "0" * 64
        entry = {
            "digest": self.digest,
            "name": "demo",
            "version": "1.0",
            "filename": "demo-1.0-py3-none-any.whl",
            "tree": digest,
            "manifest": len(manifest),
            "size": max(size, 0),
        }
        value = {
            "format": "vrfstore-archive",
            "schema": 2,
            "entries": [entry],
            "environments": [],
            "locks": [],
        }
        altered = self.contents(value)
        return altered if isinstance(altered, bytes) else canonical(altered)

    def headed(self) -> list[Headed]:
        first = ("METADATA", "entry_points.txt")
        ordered = sorted(
            self.files,
            key=lambda file: (*(file[0] != f"site-packages/{DIST_INFO}/{name}" for name in first), file[0]),
        )
        listed = [
            ("vrfstore-archive.json", 0o444, self.contents_bytes()),
            (f"entries/{self.digest}/manifest.json", 0o444, self.manifest_bytes()),
            *((f"entries/{self.digest}/{path}", mode, data) for path, mode, data in ordered),
        ]
        return self.members([(plain_header(name, len(data), mode), data) for name, mode, data in listed])

    def tar(self) -> bytes:
        return b"".join(header + filled(data) for header, data in self.headed()) + self.end

    def data(self) -> bytes:
        return pack(self.tar())


@cache
def demo() -> tuple[Draft, bytes, bytes]:
    """The demonstration entry as a draft, its wheel, and what export makes of it."""
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        wheel = build_wheel(DEMO, folder)
        store = Store.open(folder / "store", durable=False)
        entry = store.add(wheel).plan.reference.directory
        root = Path(store.layout.of("entries", entry))
        own = archive.own_files(store.manifest(entry).files)
        files = tuple((file.path, file.mode, (root / file.path).read_bytes()) for file in own)
        export_archive([entry], str(folder / "demo.tar.zst"), store=store)
        draft = Draft(files=files, digest=sha256(wheel.read_bytes()))
        return draft, wheel.read_bytes(), (folder / "demo.tar.zst").read_bytes()


def draft(**changes: Any) -> Draft:
    return replace(demo()[0], **changes)


def take(store: Store, data: bytes, folder: Path, **options: Any) -> ImportResult:
    path = folder / "given.tar.zst"
    path.write_bytes(data)
    return import_archive(str(path), store=store, **options)


def state(store: Store) -> dict[str, tuple[str, bytes]]:
    """All of a store but for mutexes."""
    return tree(store.root, without=("holds",))


def unpacked(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


# The form.


def test_what_export_writes_is_an_ordinary_tar_of_ordinary_parts() -> None:
    assert unpacked(demo()[2]) == draft().tar()
    with tarfile.open(fileobj=io.BytesIO(unpacked(demo()[2]))) as opened:
        members = opened.getmembers()
        assert {(member.type, member.mtime, member.uid, member.gid, member.uname) for member in members} == {
            (tarfile.REGTYPE, 0, 0, 0, "")
        }
        contents = {member.name: opened.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    for path, _, data in draft().files:
        assert contents[f"entries/{draft().digest}/{path}"] == data


def test_the_headers_are_these_bytes_whatever_the_python() -> None:
    """A tarfile of another Python that wrote them otherwise would refuse all archives there are."""
    headers = [
        archive.member_header("vrfstore-archive.json", 5),
        archive.member_header("entries/" + "x" * 150, 1 << 34, 0o555),
        archive.member_header("entries/é", 0),
    ]
    assert [len(header) for header in headers] == [512, 1536, 1536]
    assert sha256(b"".join(headers)) == "1feb9e0c63f5c3c0175b2ae2a85e31c95b36e97498150effe9cf013966a99545"


def test_a_frame_has_its_size_a_checksum_and_a_window_that_is_bounded() -> None:
    frame = zstandard.get_frame_parameters(demo()[2])
    assert (frame.content_size, frame.has_checksum, frame.dict_id) == (len(draft().tar()), True, 0)
    assert frame.window_size <= 1 << 23


@pytest.mark.parametrize("size", [1000, 40_000_000])
def test_the_number_of_threads_does_not_change_a_byte(size: int) -> None:
    block = hashlib.shake_256(b"seed").digest(50_000)
    data = b"".join(block[:number] for number in range(50_000, 0, -50))[:size]
    assert len(data) == size or size > 20_000_000
    packed = {
        zstandard.ZstdCompressor(compression_params=archive.compression(threads)).compress(data)
        for threads in (1, 2, 5)
    }
    assert len(packed) == 1


def test_a_draft_of_these_tests_is_accepted(tmp_path: Path, store: Store) -> None:
    result = take(store, draft().data(), tmp_path)
    assert [(entry.new, bool(entry.plan.claimed)) for entry in result.entries] == [(True, True)]
    assert result.sha256 == sha256(draft().data())
    again = take(store, draft().data(), tmp_path)
    assert [entry.new for entry in again.entries] == [False]


# What is refused.


@dataclass(frozen=True)
class Hostile:
    """An archive that is to be refused: how that is worded for machines, and a part of it for people.

    Attributes:
        published: Whether what came before the offence was whole, and stays.
    """

    label: str
    data: Callable[[], bytes]
    kind: str
    words: str
    published: bool = False
    limits: ArchiveLimits | None = None


def frames() -> list[Hostile]:
    good = draft().data
    tar = draft().tar

    def altered(place: int, value: int) -> Callable[[], bytes]:
        return lambda: good()[:place] + bytes([value]) + good()[place + 1 :]

    def blocks(*parts: bytes, size: int = 1000) -> bytes:
        # RFC 8878: magic, descriptor (8 bytes of size, a checksum, no single segment), window of 1 KiB, size.
        return b"\x28\xb5\x2f\xfd\xc4\x00" + struct.pack("<Q", size) + b"".join(parts)

    return [
        Hostile("empty", lambda: b"", "archive-structure", "not zstd data"),
        Hostile("gzip", lambda: b"\x1f\x8b" + bytes(100), "archive-structure", "not zstd data"),
        Hostile("bare tar", tar, "archive-structure", "not zstd data"),
        Hostile("magic only", lambda: good()[:4], "archive-corrupt", "cut off"),
        Hostile(
            "skippable frame first",
            lambda: b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"abcd" + good(),
            "archive-structure",
            "not zstd data",
        ),
        Hostile(
            "skippable frame last",
            lambda: good() + b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"abcd",
            "archive-structure",
            "after the end of its frame",
            published=True,
        ),
        Hostile(
            "two frames",
            lambda: good() * 2,
            "archive-structure",
            "after the end of its frame",
            published=True,
        ),
        Hostile("garbage last", lambda: good() + b"x", "archive-structure", "after the end", published=True),
        Hostile("no size", lambda: pack(tar(), write_content_size=False), "archive-structure", "has no size"),
        Hostile("no checksum", lambda: pack(tar(), write_checksum=False), "archive-structure", "no checksum"),
        Hostile(
            "window of a gigabyte",
            lambda: b"\x28\xb5\x2f\xfd\xc4" + bytes([20 << 3]) + struct.pack("<Q", 1000) + bytes(100),
            "archive-limit",
            "of memory",
        ),
        Hostile(
            "single segment of a gigabyte",
            lambda: b"\x28\xb5\x2f\xfd\xe4" + struct.pack("<Q", 1 << 30) + bytes(100),
            "archive-limit",
            "of memory",
        ),
        Hostile(
            "dictionary",
            lambda: b"\x28\xb5\x2f\xfd\xc5\x00\x07" + struct.pack("<Q", 1000) + bytes(100),
            "archive-structure",
            "dictionary",
        ),
        Hostile(
            "reserved bit",
            lambda: b"\x28\xb5\x2f\xfd\xcc\x00" + struct.pack("<Q", 1000) + bytes(100),
            "archive-corrupt",
            "cannot be unpacked",
        ),
        Hostile(
            "less than announced", lambda: blocks(b"\x01\x00\x00", bytes(4)), "archive-corrupt", "unpacked"
        ),
        Hostile("reserved block", lambda: blocks(b"\x07\x00\x00"), "archive-corrupt", "no block"),
        Hostile("block too large", lambda: blocks(b"\x01\x00\x20" + bytes(9)), "archive-corrupt", "no block"),
        Hostile("flipped in the middle", altered(200, 0x55), "archive-corrupt", "cannot be unpacked"),
        Hostile(
            "wrong checksum",
            lambda: good()[:-1] + bytes([good()[-1] ^ 1]),
            "archive-corrupt",
            "cannot be unpacked",
        ),
        Hostile(
            "more than it may unpack to",
            good,
            "archive-limit",
            "--max-unpacked",
            limits=ArchiveLimits(unpacked=1000),
        ),
        Hostile(
            "more than it may be", good, "archive-limit", "--max-packed", limits=ArchiveLimits(packed=300)
        ),
        Hostile(
            "a bomb",
            lambda: draft(files=(*draft().files, ("data/zero", 0o444, bytes(100_000_000)))).data(),
            "archive-limit",
            "100 times",
        ),
        Hostile(
            "a bomb in its first member",
            lambda: pack(plain_header("vrfstore-archive.json", 30_000_000) + bytes(200_000_000)),
            "archive-limit",
            "30000000 bytes",
        ),
        Hostile(
            "contents of a terabyte",
            lambda: pack(plain_header("vrfstore-archive.json", 1 << 33)),
            "archive-structure",
            "not an archive",
        ),
        Hostile(
            "contents that are too large",
            lambda: pack(plain_header("vrfstore-archive.json", 100_000_000)),
            "archive-limit",
            "100000000 bytes",
        ),
    ]


def at(place: str, change: Callable[[Headed], list[Headed]]) -> Callable[[list[Headed]], list[Headed]]:
    """Rewrite the one member of this path of the entry, or of the archive."""

    def rewrite(members: list[Headed]) -> list[Headed]:
        rewritten: list[Headed] = []
        for header, data in members:
            rewritten += change((header, data)) if info_of(header).name.endswith(place) else [(header, data)]
        assert rewritten != members
        return rewritten

    return rewrite


def info_of(header: bytes) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024)), mode="r:") as opened:
        found = opened.next()
    assert found is not None
    return found


def headed(place: str, **fields: Any) -> Callable[[list[Headed]], list[Headed]]:
    """Give a member other fields in its header."""

    def change(member: Headed) -> list[Headed]:
        info = info_of(member[0])
        given: dict[str, Any] = {"name": info.name, "size": info.size, "mode": info.mode} | fields
        return [(plain_header(**given), member[1])]

    return at(place, change)


def raw(place: str, offset: int, value: bytes) -> Callable[[list[Headed]], list[Headed]]:
    """Overwrite bytes of a header, and mend its checksum."""

    def change(member: Headed) -> list[Headed]:
        header = bytearray(member[0][-512:])
        header[offset : offset + len(value)] = value
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return [(member[0][:-512] + bytes(header), member[1])]

    return at(place, change)


def tars() -> list[Hostile]:
    plain, long = "/share/demo.txt", f"/{INIT}"

    def refused(label: str, words: str, **changes: Any) -> Hostile:
        return Hostile(label, lambda: draft(**changes).data(), "archive-structure", words)

    def before(header: bytes, data: bytes = b"") -> Callable[[list[Headed]], list[Headed]]:
        return at(plain, lambda member: [(header, data), member])

    def instead(header: bytes, data: bytes = b"") -> Callable[[list[Headed]], list[Headed]]:
        return at(plain, lambda _: [(header, data)])

    gnu = tarfile.TarInfo("x" * 150)
    cases = [
        refused("symlink with a long name", "a symlink", members=raw(long, 156, b"2")),
        refused("long name that is another", "an extended header", members=headed(long, name="x" * 150)),
        refused("another size behind a long name", "another size", members=raw(long, 124, b"00000000077\0")),
        refused(
            "symlink",
            "a symlink",
            members=headed(plain, type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0),
        ),
        refused(
            "hard link", "a hard link", members=headed(plain, type=tarfile.LNKTYPE, linkname="x", size=0)
        ),
        refused("device", "a device", members=headed(plain, type=tarfile.CHRTYPE, size=0)),
        refused("block device", "a device", members=headed(plain, type=tarfile.BLKTYPE, size=0)),
        refused("pipe", "a pipe", members=headed(plain, type=tarfile.FIFOTYPE, size=0)),
        refused("directory", "a directory", members=headed(plain, type=tarfile.DIRTYPE, size=0)),
        refused("directory first", "a directory", members=before(plain_header("d", 0, type=tarfile.DIRTYPE))),
        refused("old kind of file", "a file", members=headed(plain, type=tarfile.AREGTYPE)),
        refused("contiguous file", "unknown type", members=headed(plain, type=tarfile.CONTTYPE)),
        refused("sparse file", "a sparse file", members=raw(plain, 156, b"S")),
        refused("absolute name", "'/etc/passwd'", members=headed(plain, name="/etc/passwd")),
        refused("name that leads out", "'../x'", members=headed(plain, name="../x")),
        refused("other name", "'entries/x'", members=headed(plain, name="entries/x")),
        refused("twice", "a file", members=at(plain, lambda member: [member, member])),
        refused("missing", "in its place", members=at(plain, lambda _: [])),
        refused(
            "other order", "in its place", members=lambda members: [*members[:3], members[4], members[3]]
        ),
        refused(
            "pax path",
            "an extended header",
            members=headed(plain, pax_headers={"path": "../../x"}),
        ),
        refused("pax size", "an extended header", members=headed(plain, pax_headers={"size": "0"})),
        refused("pax of no use", "an extended header", members=headed(plain, pax_headers={"comment": "x"})),
        refused(
            "global header",
            "a global header",
            members=before(tarfile.TarInfo.create_pax_global_header({"path": "x"})),
        ),
        refused(
            "long name of GNU tar", "a long name of GNU tar", members=instead(gnu.tobuf(tarfile.GNU_FORMAT))
        ),
        refused("another size", "another size", members=headed(plain, size=2)),
        refused("another mode", "another size, mode", members=headed(plain, mode=0o4555)),
        refused("another time", "another size, mode", members=headed(plain, mtime=1)),
        refused("an owner", "another size, mode", members=headed(plain, uid=1000)),
        refused("an owner's name", "another size, mode", members=headed(plain, uname="root")),
        refused("size in binary", "another size", members=raw(plain, 124, b"\x80" + bytes(10) + b"\1")),
        refused(
            "first size in binary", "not an archive", members=raw("archive.json", 124, b"\x80" + bytes(11))
        ),
        refused(
            "first size of no digits", "not an archive", members=raw("archive.json", 124, b"9" * 11 + b"\0")
        ),
        refused("not the first member", "not an archive", members=headed("archive.json", name="other.json")),
        refused(
            "nothing in its last block",
            "not zero",
            members=at(plain, lambda member: [(member[0], filled(member[1])[:-1] + b"x")]),
        ),
        refused("end too early", "the end", members=lambda members: [*members[:4], (bytes(1024), b"")]),
        refused("cut off within the tar", "ends", members=lambda members: members[:4], end=b""),
        refused("bytes that are no header", "no header", members=before(b"x" * 512)),
    ]
    late: list[tuple[str, Json]] = [
        ("one more member", {"end": plain_header("x", 0) + bytes(1024)}),
        ("no end", {"end": b""}),
        ("half an end", {"end": bytes(512)}),
        ("long end", {"end": bytes(10240)}),
        ("something in the end", {"end": bytes(1023) + b"x"}),
    ]
    return cases + [
        Hostile(label, draft(**changes).data, "archive-structure", "more in it", published=True)
        for label, changes in late
    ]


def with_entry(**changes: Any) -> Callable[[Json], Json]:
    return lambda value: value | {"entries": [value["entries"][0] | changes]}


TARGET = {"implementation": "cpython", "python": "3.11", "cache_tag": "x", "abi_flags": "", "platform": "x"}
OPTIONS: Json = {
    "isolated": False,
    "user_site": False,
    "prompt": None,
    "allow_collisions": False,
    "materialize": [],
}


def contents() -> list[Hostile]:
    def refused(label: str, words: str, change: Callable[[Json], object]) -> Hostile:
        return Hostile(label, lambda: draft(contents=change).data(), "archive-contents", words)

    environment = {"target": TARGET, "lock": "0" * 64, "wheels": [draft().digest], "options": OPTIONS}
    lock = {"digest": "0" * 64, "size": 1}

    def linked_with(label: str, words: str, **options: object) -> Hostile:
        made = environment | {"options": OPTIONS | options}
        return refused(label, words, lambda value: value | {"locks": [lock], "environments": [made]})

    return [
        refused("no JSON", "cannot be read", lambda _: b"{"),
        refused("no UTF-8", "cannot be read", lambda _: b'"\xff"\n'),
        refused("nested", "cannot be read", lambda _: b"[" * 100_000 + b"\n"),
        refused("a list", "cannot be read", lambda _: []),
        refused("another format", "not in the form", lambda value: value | {"format": "x"}),
        refused("another schema", "schema 1", lambda value: value | {"schema": 1}),
        refused("white space", "not in the form", lambda value: canonical(value).replace(b",", b", ", 1)),
        refused("one more key", "not in the form", lambda value: value | {"x": 1}),
        refused("one more field", "cannot be read", with_entry(x=1)),
        refused(
            "a key twice", "not in the form", lambda value: canonical(value).replace(b"{", b'{"schema":2,', 1)
        ),
        refused(
            "infinity",
            "cannot be read",
            lambda value: canonical(with_entry(size=123456)(value)).replace(b"123456", b"1e999"),
        ),
        refused("a size that is true", "no size", with_entry(size=True)),
        refused("a size with a point", "no size", with_entry(size=1.5)),
        refused("a size below zero", "no size", with_entry(size=-1)),
        refused("a size of no end", "no size", with_entry(manifest=1 << 80)),
        refused("a digest that is none", "no SHA-256", with_entry(digest="../" * 21 + "x")),
        refused("a tree that is none", "no SHA-256", with_entry(tree="x")),
        refused("a tree that is false", "no SHA-256", with_entry(tree=False, manifest=0)),
        refused("neither files nor wheel", "neither", with_entry(tree="")),
        refused("files without a manifest", "neither", with_entry(manifest=0)),
        refused("a name that is not the file's", "is not the wheel of", with_entry(name="numpy")),
        refused("a name not normalised", "is not the wheel of", with_entry(name="Demo")),
        refused("a version that is not the file's", "is not the wheel of", with_entry(version="2.0")),
        refused("a version that is a path", "is not the wheel of", with_entry(version="../x")),
        refused("no wheel's name", "not the file name of a wheel", with_entry(filename="demo.zip")),
        refused("a file name that is a path", "is none", with_entry(filename="x/demo-1.0-py3-none-any.whl")),
        refused(
            "a file name that leads out", "leads out", with_entry(filename="../demo-1.0-py3-none-any.whl")
        ),
        refused("a file name that is none", "no text", with_entry(filename=7)),
        refused("half a character", "half a character", with_entry(filename="\ud800-1.0-py3-none-any.whl")),
        refused("twice", "twice", lambda value: value | {"entries": value["entries"] * 2}),
        refused(
            "one wheel with two trees",
            "one wheel twice",
            lambda value: (
                value
                | {
                    "entries": [
                        value["entries"][0],
                        value["entries"][0] | {"name": "demo2", "filename": "demo2-1.0-py3-none-any.whl"},
                    ]
                }
            ),
        ),
        refused("a lock of nobody", "not those of", lambda value: value | {"locks": [lock]}),
        refused("no lock", "not those of", lambda value: value | {"environments": [environment]}),
        refused(
            "an unknown wheel",
            "not in the archive",
            lambda value: value | {"locks": [lock], "environments": [environment | {"wheels": ["1" * 64]}]},
        ),
        refused(
            "an environment for no interpreter",
            "no interpreter",
            lambda value: (
                value | {"locks": [lock], "environments": [environment | {"target": TARGET | {"python": 3}}]}
            ),
        ),
        linked_with("a flag that is a number", "make no sense", isolated=1),
        linked_with("a flag that is nothing", "make no sense", user_site=None),
        linked_with("a flag that is a word", "make no sense", allow_collisions="no"),
        linked_with("options that contradict each other", "make no sense", isolated=True, user_site=True),
        linked_with("a prompt of nothing", "cannot be shown", prompt=""),
        linked_with("a prompt that is a number", "cannot be shown", prompt=7),
        linked_with("a prompt of two lines", "cannot be shown", prompt="a\nhome = /tmp"),
        linked_with("a prompt that moves the cursor", "cannot be shown", prompt="\x1b[2J"),
        linked_with("a prompt of half a character", "cannot be shown", prompt="\ud800"),
        linked_with("a prompt without end", "cannot be shown", prompt="x" * 1001),
        linked_with("copies of another wheel", "does not have", materialize=["numpy"]),
        linked_with("copies of everything", "does not have", materialize=["*"]),
        linked_with("copies of a number", "does not have", materialize=[7]),
        linked_with("copies of a list", "does not have", materialize=[["demo"]]),
        linked_with("copies twice", "not in order", materialize=["demo", "demo"]),
        linked_with("copies that are a word", "not in the form", materialize="demo"),
        linked_with("copies that are none", "cannot be read", materialize=None),
        linked_with("an unknown option", "cannot be read", sudo=True),
        refused(
            "no options",
            "cannot be read",
            lambda value: (
                value
                | {
                    "locks": [lock],
                    "environments": [{key: environment[key] for key in ("target", "lock", "wheels")}],
                }
            ),
        ),
        refused(
            "locks in no order",
            "not in order",
            lambda value: value | {"locks": [lock, lock], "environments": [environment]},
        ),
    ]


def manifests() -> list[Hostile]:
    def refused(label: str, words: str, change: Callable[[Rows], object], **options: Any) -> Hostile:
        return Hostile(
            label,
            lambda: draft(manifest=change).data(),
            options.pop("kind", "archive-manifest"),
            words,
            **options,
        )

    def with_file(
        path: str, mode: float = 0o444, size: object = 1, digest: object = "0" * 64
    ) -> Callable[[Rows], Rows]:
        return lambda rows: sorted([*rows, [path, size, mode, digest]], key=lambda row: row[0])

    def without(*paths: str) -> Callable[[Rows], Rows]:
        return lambda rows: [row for row in rows if row[0] not in paths]

    def moved(old: str, new: str) -> Callable[[Rows], Rows]:
        return lambda rows: sorted([row[0].replace(old, new), *row[1:]] for row in rows)

    return [
        refused("no JSON", "cannot be read", lambda _: b"{"),
        refused("a number", "cannot be read", lambda _: 1),
        refused("rows of three", "cannot be read", lambda rows: [row[:3] for row in rows]),
        refused("rows of five", "cannot be read", lambda rows: [[*row, 1] for row in rows]),
        refused("a size that is no number", "no size", with_file("data/x", size="x")),
        refused("an endless size", "no size", lambda _: b'[["data/x",1e999,292,"%s"]]\n' % (b"0" * 64)),
        refused("a size that is true", "no size", with_file("data/x", size=True)),
        refused("a size below zero", "no size", with_file("data/x", size=-1)),
        refused("no hash", "no SHA-256", with_file("data/x", digest="x")),
        refused("a path that is none", "no text", lambda rows: [[7, *rows[0][1:]]]),
        refused("white space", "not in the form", lambda rows: canonical(rows) + b"\n"),
        refused("files in no order", "not in the form", lambda rows: rows[::-1]),
        refused("an absolute path", "absolute", with_file("/etc/passwd")),
        refused("a path that leads out", "leads out", with_file("site-packages/../../../x")),
        refused("a path with two slashes", "not normalised", with_file("site-packages//x")),
        refused("a path with a dot", "not normalised", with_file("site-packages/./x")),
        refused("a backslash", "backslash", with_file("site-packages/a\\b")),
        refused("a control character", "control", with_file("site-packages/a\nb")),
        refused("a NUL", "control", with_file("site-packages/a\0b")),
        refused("half a character", "half a character", with_file("site-packages/\ud800")),
        refused("a directory", "a directory", with_file("site-packages/x/")),
        refused("a name that is too long", "more than 255", with_file("site-packages/" + "x" * 256)),
        refused("a path that is too long", "more than 255", with_file("site-packages" + "/xxxxxxxxx" * 100)),
        refused("a ready-made link", "no scheme", with_file("links/0")),
        refused("a plan", "no scheme", with_file("plan.json")),
        refused("another manifest", "no scheme", with_file("manifest.json")),
        refused("bytecode's record", "no scheme", with_file("bytecode/x.json")),
        refused("a scheme itself", "no scheme", with_file("data")),
        refused("bytecode", "bytecode", with_file("site-packages/demo/__pycache__/x.cpython-311.pyc")),
        refused("headers of another wheel", "headers of its own", with_file("headers/numpy/x.h")),
        refused("headers at the top", "headers of its own", with_file("headers/demo")),
        refused("a file that may be written", "mode 420", with_file("data/x", 0o644)),
        refused("a mode with a point", "mode 292.0", with_file("data/x", 292.0)),
        refused("setuid", "mode 2413", with_file("data/x", 0o4555)),
        refused("a script that does not run", "mode 292", with_file("scripts/x")),
        refused("twice", "twice", lambda rows: sorted([*rows, rows[0]])),
        refused("a file and a directory", "as a file and as a directory", with_file("site-packages/demo")),
        refused("no dist-info", "0 dist-info", moved(DIST_INFO, "demo.egg-info")),
        refused("two dist-info", "2 dist-info", with_file("site-packages/numpy-1.0.dist-info/METADATA")),
        refused("another dist-info", "another wheel", moved(DIST_INFO, "numpy-1.0.dist-info")),
        refused("no METADATA", "no METADATA", without(METADATA)),
        refused("no WHEEL", "no WHEEL", without(f"site-packages/{DIST_INFO}/WHEEL")),
        refused("no RECORD", "no RECORD", without(f"site-packages/{DIST_INFO}/RECORD")),
        refused(
            "too deep",
            "more than 3 directories",
            with_file("data/1/2/3/4"),
            kind="archive-limit",
            limits=ArchiveLimits(depth=3),
        ),
        refused(
            "too many",
            "more than 3 files",
            list,
            kind="archive-limit",
            limits=ArchiveLimits(files=3),
        ),
        Hostile(
            "another tree",
            lambda: draft(contents=with_entry(tree="1" * 64)).data(),
            "archive-manifest",
            "announces",
        ),
        Hostile(
            "another sum", lambda: draft(contents=with_entry(size=7)).data(), "archive-manifest", "announces"
        ),
        Hostile(
            "another length",
            lambda: draft(contents=with_entry(manifest=7)).data(),
            "archive-structure",
            "another size",
        ),
    ]


def files() -> list[Hostile]:
    def content(path: str, data: bytes) -> Callable[[], bytes]:
        """Other content than the manifest says, of the same length."""

        def build() -> bytes:
            def change(member: Headed) -> list[Headed]:
                return [(member[0], data.ljust(len(member[1]), b"#")[: len(member[1])])]

            return draft(members=at(f"/{path}", change)).data()

        return build

    def consistent(path: str, data: bytes) -> Callable[[], bytes]:
        """Other content, and a manifest that says so."""

        def build() -> bytes:
            return draft(
                files=tuple(
                    (place, mode, data if place == path else old) for place, mode, old in draft().files
                )
            ).data()

        return build

    def metadata(label: str, data: bytes) -> Hostile:
        return Hostile(label, consistent(METADATA, data), "wheel-metadata", "not the METADATA of demo 1.0")

    def points(label: str, data: bytes, words: str) -> Hostile:
        return Hostile(label, consistent(ENTRY_POINTS, data), "wheel-entry-point", words)

    huge = b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n\n" + bytes(1 << 22)
    mismatch = "not what the manifest says"
    return [
        Hostile("a changed module", content(INIT, b"import os"), "archive-mismatch", mismatch),
        Hostile("changed METADATA", content(METADATA, b"Name: x"), "archive-mismatch", mismatch),
        Hostile(
            "changed entry points",
            content(ENTRY_POINTS, b"[console_scripts]\nx = y:z\n"),
            "archive-mismatch",
            mismatch,
        ),
        Hostile("huge METADATA", consistent(METADATA, huge), "archive-limit", "4194351 bytes"),
        Hostile("huge entry points", consistent(ENTRY_POINTS, huge), "archive-limit", "4194351 bytes"),
        metadata("METADATA of another", b"Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n"),
        metadata("METADATA of another version", b"Metadata-Version: 2.1\nName: demo\nVersion: 2.0\n"),
        metadata("METADATA of no version", b"Metadata-Version: 2.1\nName: demo\nVersion: x\n"),
        metadata("METADATA of nothing", b""),
        metadata("METADATA of no text", b"Name: demo\nVersion: 1.0\n\n\xff"),
        points("an entry point that is a path", b"[console_scripts]\n../x = demo:x\n", "not a file name"),
        points("an entry point that is a dot", b"[console_scripts]\n.. = demo:x\n", "not a file name"),
        points(
            "entry points that multiply",
            b"[console_scripts]\n"
            + b"".join(b"a%d = %s\n" % (n, b"%%(a%d)s" % (n + 1) * 10) for n in range(9)),
            "per cent sign",
        ),
        points("an entry point with no target", b"[console_scripts]\nx = demo\n", "cannot be used"),
        points("entry points that are none", b"x", "cannot be used"),
        points("entry points of no text", b"\xff", "cannot be used"),
        Hostile(
            "a script below an entry point",
            lambda: draft(files=(*draft().files, ("scripts/run/x", 0o555, b"#!python\n"))).data(),
            "wheel-member-duplicate",
            "two members would become",
        ),
    ]


HOSTILE = {
    f"{group.__name__}: {case.label}": case
    for group in (frames, tars, contents, manifests, files)
    for case in group()
}


@pytest.fixture(scope="module")
def spared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that nothing hostile gets into."""
    return Store.open(tmp_path_factory.mktemp("spared") / "store", durable=False)


@pytest.mark.parametrize("label", HOSTILE)
def test_a_hostile_archive_is_refused_by_name_and_leaves_the_store_as_it_was(
    label: str, spared: Store, tmp_path: Path
) -> None:
    case = HOSTILE[label]
    store = Store.open(tmp_path / "store", durable=False) if case.published else spared
    before = state(store)
    with pytest.raises(WheelError) as refusal:
        take(store, case.data(), tmp_path, limits=case.limits)
    assert refusal.value.kind == case.kind
    assert case.words in f"{refusal.value} ({refusal.value.hint})"
    assert refusal.value.path == str(tmp_path / "given.tar.zst")
    if case.published:
        assert entry_is_whole(store)
        assert litter(store) == []
    else:
        assert state(store) == before


def entry_is_whole(store: Store) -> bool:
    """Whether every entry of a store is what its manifest and its claim say."""
    for directory in store.entries():
        root = Path(store.layout.of("entries", directory))
        plan, manifest = store.plan(directory), store.manifest(directory)
        if not plan.claimed or archive.tree_digest(manifest.files) != plan.claimed:
            return False
        listed = {file.path: (file.size, file.mode, file.sha256) for file in manifest.files}
        found = {}
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                found[str(path.relative_to(root))] = (len(data), path.stat().st_mode & 0o7777, sha256(data))
        del found["manifest.json"]
        if found != listed:
            return False
        links = {
            str(path.relative_to(root)): os.readlink(path) for path in root.rglob("*") if path.is_symlink()
        }
        if links != dict(manifest.links):
            return False
    return True


def test_a_cut_off_archive_is_refused_wherever_it_ends(tmp_path: Path, spared: Store) -> None:
    whole = demo()[2]
    before = state(spared)
    for length in [*range(0, len(whole) - 4, 7), *range(len(whole) - 40, len(whole) - 4)]:
        with pytest.raises(WheelError) as refusal:
            take(spared, whole[:length], tmp_path)
        assert refusal.value.kind in {"archive-structure", "archive-corrupt"}, length
    assert state(spared) == before


def test_a_tar_that_is_cut_off_is_refused_wherever_it_ends(tmp_path: Path, spared: Store) -> None:
    """Whole frames, whose content is not whole."""
    whole = draft().tar()
    before = state(spared)
    for length in range(0, len(whole) - 1024, 200):
        with pytest.raises(WheelError) as refusal:
            take(spared, pack(whole[:length]), tmp_path)
        assert refusal.value.kind == "archive-structure", length
    assert state(spared) == before


@pytest.mark.slow
@settings(max_examples=400)
@given(
    flips=st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=4),
    inside=st.booleans(),
)
def test_whatever_bytes_change_nothing_escapes_and_nothing_false_is_published(
    flips: list[tuple[int, int]], *, inside: bool
) -> None:
    """Flipped in the archive itself, or in the tar before it is packed."""
    data = bytearray(draft().tar() if inside else demo()[2])
    for place, mask in flips:
        data[place % len(data)] ^= mask
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        store = Store.open(folder / "store", durable=False)
        with suppress(WheelError):
            take(store, pack(bytes(data)) if inside else bytes(data), folder)
        assert entry_is_whole(store)
        assert litter(store) == []
        assert sorted(path.name for path in folder.iterdir()) == ["given.tar.zst", "store"]


# Trust.


def forged() -> Draft:
    """An archive that says of the demonstration wheel that it unpacks to something else."""
    return draft(
        files=tuple(
            (path, mode, b"import evil\n" if path == INIT else data) for path, mode, data in draft().files
        )
    )


def test_a_claim_serves_nobody_but_who_asks_for_it(tmp_path: Path, store: Store) -> None:
    wheel = build_wheel(DEMO, tmp_path)
    claimed = take(store, forged().data(), tmp_path).entries[0].plan
    digest = Digest(draft().digest)
    assert store.entry(digest, "demo", "1.0") is None
    assert store.entry(digest, "demo", "1.0", claimed="0" * 64) is None
    assert store.entry(digest, "demo", "1.0", claimed=claimed.claimed) == claimed
    proven = store.add(wheel).plan
    assert store.entry(digest, "demo", "1.0") == proven
    assert store.entry(digest, "demo", "1.0", claimed=claimed.claimed) == claimed
    assert proven.identity != claimed.identity
    assert len(store.entries()) == 2


@pytest.mark.parametrize("trust", [False, True])
def test_an_archive_that_contradicts_a_wheel_is_refused(tmp_path: Path, store: Store, *, trust: bool) -> None:
    proven = store.add(build_wheel(DEMO, tmp_path)).plan
    before = state(store)
    with pytest.raises(WheelError, match=proven.reference.directory) as refusal:
        take(store, forged().data(), tmp_path, trust=trust)
    assert (refusal.value.kind, refusal.value.path) == ("archive-conflict", str(tmp_path / "given.tar.zst"))
    assert state(store) == before
    assert take(store, draft().data(), tmp_path, trust=trust).entries[0].plan == proven
    assert store.entries() == [proven.reference.directory]


def test_claims_leave_a_name_for_the_wheel_itself(tmp_path: Path, store: Store) -> None:
    def claim(number: int) -> bytes:
        return replace(
            forged(),
            files=tuple(
                (path, mode, b"%d" % number if path == INIT else data) for path, mode, data in draft().files
            ),
        ).data()

    for number in range(3):
        assert take(store, claim(number), tmp_path).entries[0].new
    with pytest.raises(WheelError, match="3 other archives") as refusal:
        take(store, claim(3), tmp_path)
    assert refusal.value.kind == "archive-conflict"
    assert store.add(build_wheel(DEMO, tmp_path)).plan.claimed == ""
    assert len(store.entries()) == 4
    assert litter(store) == []


@pytest.mark.parametrize("how", ["trust", "sha256"])
def test_what_somebody_vouches_for_is_byte_for_byte_what_add_makes(
    tmp_path: Path, store: Store, how: str
) -> None:
    data = demo()[2]
    options = {"trust": True} if how == "trust" else {"sha256": Digest(sha256(data))}
    assert [entry.new for entry in take(store, data, tmp_path, **options).entries] == [True]
    whole = Store.open(tmp_path / "whole")
    whole.add(build_wheel(DEMO, tmp_path))
    assert without_origin(store) == without_origin(whole)
    assert litter(store) == []


def without_origin(store: Store) -> dict[str, tuple[str, bytes]]:
    """The entries of a store, but for where their wheels came from, which archives do not say."""
    found = tree(store.layout.of("entries"))
    for place in [place for place in found if place.endswith("manifest.json")]:
        manifest = Manifest.from_json(json.loads(found[place][1]))
        files = tuple(file for file in manifest.files if file.path != "plan.json")
        without = dataclasses.replace(manifest, origin="", files=files)
        found[place] = (found[place][0], canonical(without.to_json()))
    for place in [place for place in found if place.endswith("/plan.json")]:
        plan = json.loads(found[place][1])
        found[place] = (found[place][0], canonical({**plan, "origin": ""}))
    return found


def test_another_sha256_is_refused_before_anything_is_read(tmp_path: Path, store: Store) -> None:
    before = state(store)
    with pytest.raises(WheelError, match="expected was") as refusal:
        take(store, demo()[2], tmp_path, sha256=Digest("0" * 64))
    assert refusal.value.kind == "hash-mismatch"
    with pytest.raises(WheelError, match="more than 10 bytes"):
        take(store, demo()[2], tmp_path, sha256=Digest("0" * 64), limits=ArchiveLimits(packed=10))
    assert state(store) == before


# Wheels.


def with_wheel(data: bytes) -> bytes:
    name = "demo-1.0-py3-none-any.whl"
    digest = draft().digest

    def change(value: Json) -> Json:
        return with_entry(tree="", manifest=0, size=len(data), filename=name)(value)

    def swap(members: list[Headed]) -> list[Headed]:
        return [members[0], (plain_header(f"entries/{digest}/{name}", len(data)), data)]

    return draft(contents=change, members=swap).data()


def test_a_wheel_in_an_archive_proves_itself(tmp_path: Path, store: Store) -> None:
    entry = take(store, with_wheel(demo()[1]), tmp_path).entries[0]
    assert (entry.new, entry.plan.claimed) == (True, "")
    assert store.entry(Digest(draft().digest), "demo", "1.0") == entry.plan
    assert not take(store, with_wheel(demo()[1]), tmp_path).entries[0].new
    assert litter(store) == []


def test_another_wheel_in_an_archive_is_refused(tmp_path: Path, store: Store) -> None:
    before = state(store)
    with pytest.raises(WheelError, match="SHA-256") as refusal:
        take(store, with_wheel(demo()[1] + b"x"), tmp_path, trust=True)
    assert (refusal.value.kind, refusal.value.path) == ("hash-mismatch", str(tmp_path / "given.tar.zst"))
    assert state(store) == before


def test_an_unreadable_archive_is_an_error_that_names_it(tmp_path: Path, store: Store) -> None:
    # The memory of a process begins with a page that nobody may read.
    for path, options in (
        (tmp_path / "missing", {}),
        (tmp_path, {}),
        (Path("/proc/self/mem"), {}),
        (Path("/proc/self/mem"), {"sha256": Digest("0" * 64)}),
    ):
        with pytest.raises(WheelError, match="cannot be read") as refusal:
            import_archive(str(path), store=store, **options)  # type: ignore[arg-type]
        assert (refusal.value.kind, refusal.value.path) == ("archive-unreadable", str(path))
