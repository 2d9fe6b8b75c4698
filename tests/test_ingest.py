"""Unpacking: what is not a sound wheel leaves no trace, and what is one becomes an entry to the letter."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import posixpath
import signal
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.crash import tree
from support.wheels import Member, Row, WheelSpec, build_wheel, wheel_bytes, wheel_filename, zip_wheel
from vrfstore.errors import WheelError
from vrfstore.model import Digest, EntryPlan, EntryReference, Node
from vrfstore.store.entry_plan import INSTALLED, link_target
from vrfstore.store.ingest import Job, stage
from vrfstore.store.store import Store
from vrfstore.store.wheel import problem_with_name
from vrfstore.store.zip_structure import Limits

DEMO = WheelSpec(name="demo")
MODULE = "demo/__init__.py"
DIST_INFO = DEMO.dist_info
RECORD = f"{DIST_INFO}/RECORD"
REFERENCE = EntryReference(digest=Digest("0" * 64), name="demo", version="1.0", directory="demo-entry")
FILENAME = wheel_filename(DEMO)


@dataclass(frozen=True)
class Hostile:
    """A wheel that is to be refused, and how the refusal is worded for machines.

    Attributes:
        member: The end of what the refusal names: a member, or the place in the entry that two of them want.
    """

    label: str
    data: bytes
    kind: str
    member: str | None = None
    filename: str = FILENAME


def job(wheel: Path, folder: str) -> Job:
    """What to do to unpack a wheel into a folder."""
    return Job(
        path=str(wheel),
        filename=wheel.name,
        origin="",
        size=wheel.stat().st_size,
        reference=REFERENCE,
        staging=f"{folder}/entry",
        limits=Limits(),
    )


def with_file(name: str) -> bytes:
    """A wheel whose RECORD is right, with one more file."""
    return wheel_bytes(replace(DEMO, files={MODULE: "", name: "x"}))


def with_mode(mode: int) -> bytes:
    return wheel_bytes(
        DEMO, members=lambda members: [replace(members[0], mode=mode, data=b"/etc/passwd"), *members[1:]]
    )


def with_rows(change: Callable[[Row], Row | None]) -> bytes:
    """A wheel with RECORD rewritten row by row."""

    def record(rows: list[Row]) -> list[Row]:
        return [row for row in map(change, rows) if row is not None]

    return wheel_bytes(DEMO, record=record)


def with_record(change: Callable[[bytes], bytes]) -> bytes:
    """A wheel with the text of RECORD rewritten."""
    return wheel_bytes(
        DEMO, members=lambda members: [*members[:-1], replace(members[-1], data=change(members[-1].data))]
    )


def of_module(**fields: str) -> Callable[[Row], Row]:
    return lambda row: replace(row, **fields) if row.path == MODULE else row


def with_text(name: str, data: str | bytes | None) -> bytes:
    """A wheel with another file in its dist-info directory, or without it; its RECORD is right."""
    with zipfile.ZipFile(io.BytesIO(wheel_bytes(DEMO))) as archive:
        files = {path: archive.read(path) for path in archive.namelist() if path != RECORD}
    path = f"{DIST_INFO}/{name}"
    if data is None:
        del files[path]
    else:
        files[path] = data.encode() if isinstance(data, str) else data
    members = [Member(path, data) for path, data in files.items()]
    rows = [*map(true_row, members), Row(RECORD)]
    text = "".join(f"{row.path},{row.digest},{row.size}\n" for row in rows)
    return zip_wheel([*members, Member(RECORD, text.encode())])


def true_row(member: Member) -> Row:
    digest = urlsafe_b64encode(hashlib.sha256(member.data).digest()).decode().rstrip("=")
    return Row(member.name, f"sha256={digest}", str(len(member.data)))


def with_entry_points(text: str) -> bytes:
    return with_text("entry_points.txt", text)


def with_bits(data: bytes, offsets: tuple[int, int], value: int) -> bytes:
    """Change a 16-bit field of the first member, at its offset in the local and in the central header."""
    changed = bytearray(data)
    for signature, offset in zip((b"PK\x03\x04", b"PK\x01\x02"), offsets, strict=True):
        at = data.index(signature) + offset
        changed[at : at + 2] = value.to_bytes(2, "little")
    return bytes(changed)


def with_stored_module(content: bytes, swapped: bytes) -> bytes:
    """A wheel in which an uncompressed module was overwritten after the fact."""
    spec = replace(DEMO, files={MODULE: content})
    data = wheel_bytes(
        spec, members=lambda members: [replace(members[0], compression=zipfile.ZIP_STORED), *members[1:]]
    )
    assert content in data
    return data.replace(content, swapped)


def by_hand(
    *,
    packed: Callable[[bytes], bytes] = bytes,
    size: int | None = None,
    name: str = MODULE,
    crc: int | None = None,
    shift: int = 0,
    second: int | None = None,
    prepended: bytes = b"",
    gap: bytes = b"",
    appended: bytes = b"",
) -> bytes:
    """A wheel whose archive was written by hand, oddly.

    Args:
        packed: Changes the compressed bytes of the module; the headers have their true length.
        size: The uncompressed size of the module that all headers declare.
        name: The module's name in its local header.
        crc: The module's CRC in its local header.
        shift: What the central directory adds to all offsets.
        second: The offset of the second member, as the central directory has it.
        prepended: Bytes before the first member.
        gap: Bytes after it.
        appended: Bytes after everything.
    """
    with zipfile.ZipFile(io.BytesIO(wheel_bytes(DEMO))) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    body, directory = prepended, b""
    for number, (member, data) in enumerate(contents.items()):
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        stream = deflater.compress(data) + deflater.flush()
        true, length, local_name = zlib.crc32(data), len(data), member
        local = true
        if not number:
            stream, length = packed(stream), length if size is None else size
            local, local_name = true if crc is None else crc, name
        offset = second if number == 1 and second is not None else len(body) + shift
        body += struct.pack(
            "<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0x21, local, len(stream), length, len(local_name), 0
        )
        body += local_name.encode() + stream + (b"" if number else gap)
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 0x314, 20, 0, 8, 0, 0x21, true, len(stream), length, len(member), 0, 0,
            0, 0, 0o100644 << 16, offset,
        )  # fmt: skip
        directory += member.encode()
    counts = (0, 0, len(contents), len(contents), len(directory), len(body) + shift, 0)
    return body + directory + struct.pack("<4s4H2LH", b"PK\5\6", *counts) + appended


def renamed_dist_info(name: str) -> bytes:
    spec = replace(DEMO, files={MODULE: ""})
    return wheel_bytes(spec, members=lambda members: [_moved(member, name) for member in members])


def _moved(member: Member, name: str) -> Member:
    return replace(
        member,
        name=member.name.replace(DIST_INFO, name),
        data=member.data.replace(DIST_INFO.encode(), name.encode()),
    )


MEMBER_NAMES = {
    "absolute": "/absolute.py",
    "parent": "../outside.py",
    "parent-inside": "demo/../../outside.py",
    "backslash": "demo\\module.py",
    "drive": "C:/module.py",
    "drive-relative": "c:module.py",
    "bell": "demo/bell\x07.py",
    "newline": "demo/line\nline.py",
    "delete": "demo/delete\x7f.py",
    "long-part": f"demo/{'x' * 256}",
    "long-part-in-bytes": f"demo/{'é' * 128}",
    "long-path": "/".join(["d" * 200] * 25),
    "deep": "d/" * 1200 + "module.py",
    "double-slash": "demo//module.py",
    "leading-dot": "./demo/module.py",
    "inner-dot": "demo/./module.py",
}

ENTRY_POINTS = {
    "multiplies": "[console_scripts]\n" + "".join(f"a{n} = " + f"%(a{n + 1})s" * 10 + "\n" for n in range(9)),
    "slash": "[console_scripts]\ndemo/run = demo:run\n",
    "dots": "[console_scripts]\n.. = demo:run\n",
    "control": "[console_scripts]\ndemo\x07 = demo:run\n",
    "long": f"[console_scripts]\n{'x' * 256} = demo:run\n",
    "no-function": "[console_scripts]\nrun = demo\n",
    "code": "[gui_scripts]\nrun = demo; import os:run\n",
    "empty-target": "[console_scripts]\nrun =\n",
    "no-target": "[console_scripts]\nrun\n",
    "no-name": "[console_scripts]\n= demo:run\n",
    "no-section": "run = demo:run\n",
    "twice": "[console_scripts]\nrun = demo:run\nrun = demo:walk\n",
    "percent": "[console_scripts]\nrun = demo:%(function)s\n",
}

HOSTILE = [
    *(
        Hostile(f"name-{label}", with_file(name), "wheel-member-name", name)
        for label, name in MEMBER_NAMES.items()
    ),
    *(
        Hostile(f"mode-{label}", with_mode(mode), "wheel-member-type", "demo/__init__.py")
        for label, mode in {
            "symlink": stat.S_IFLNK | 0o777,
            "character-device": stat.S_IFCHR | 0o666,
            "block-device": stat.S_IFBLK | 0o666,
            "fifo": stat.S_IFIFO | 0o666,
            "socket": stat.S_IFSOCK | 0o666,
            "setuid": stat.S_IFREG | stat.S_ISUID | 0o755,
            "setgid": stat.S_IFREG | stat.S_ISGID | 0o755,
        }.items()
    ),
    Hostile(
        "member-twice",
        wheel_bytes(DEMO, members=lambda members: [members[0], *members]),
        "wheel-member-duplicate",
        MODULE,
    ),
    # zipfile cuts the name at the NUL, and so would agree with this RECORD.
    Hostile(
        "name-nul",
        wheel_bytes(
            replace(DEMO, files={"demo/x": ""}),
            members=lambda members: [replace(members[0], name="demo/x\0.py"), *members[1:]],
        ),
        "wheel-member-name",
        "demo/x\0.py",
    ),
    Hostile(
        "two-members-one-place",
        with_file(f"demo-1.0.data/purelib/{MODULE}"),
        "wheel-member-duplicate",
        f"site-packages/{MODULE}",
    ),
    Hostile(
        "second-record",
        with_file(f"demo-1.0.data/purelib/{DIST_INFO}/RECORD"),
        "wheel-member-duplicate",
        f"site-packages/{DIST_INFO}/RECORD",
    ),
    Hostile("file-then-directory", with_file(f"{MODULE}/x.py"), "wheel-member-duplicate", MODULE),
    Hostile("directory-then-file", with_file("demo"), "wheel-member-duplicate", "demo"),
    Hostile(
        "directory-then-file-elsewhere",
        with_file("demo-1.0.data/purelib/demo"),
        "wheel-member-duplicate",
        "demo",
    ),
    Hostile("record-missing", wheel_bytes(DEMO, members=lambda members: members[:-1]), "wheel-invalid"),
    Hostile(
        "record-lacks-a-file",
        with_rows(lambda row: None if row.path == MODULE else row),
        "wheel-record",
        MODULE,
    ),
    Hostile(
        "record-names-an-absent-file",
        wheel_bytes(DEMO, record=lambda rows: [*rows, Row("absent.py", "sha256=x", "1")]),
        "wheel-record",
        "absent.py",
    ),
    Hostile("record-weak-hash", with_rows(of_module(digest="md5=x")), "wheel-record", MODULE),
    Hostile("record-no-hash", with_rows(of_module(digest="")), "wheel-record", MODULE),
    Hostile("record-empty-hash", with_rows(of_module(digest="sha256=")), "wheel-record", MODULE),
    Hostile("record-no-size", with_rows(of_module(size="")), "wheel-record", MODULE),
    Hostile("record-negative-size", with_rows(of_module(size="-1")), "wheel-record", MODULE),
    Hostile("record-huge-size", with_rows(of_module(size="9" * 5000)), "wheel-record", MODULE),
    Hostile("record-malformed", with_record(lambda text: text + b"one column\n"), "wheel-record"),
    Hostile("record-not-text", with_record(lambda text: text + b"\xff,,\n"), "wheel-invalid", RECORD),
    Hostile("record-huge-field", with_record(lambda text: text + b"x" * 200_000 + b",,\n"), "wheel-record"),
    Hostile(
        "record-wrong-hash",
        with_rows(of_module(digest=f"sha256={'A' * 43}")),
        "wheel-record-mismatch",
        MODULE,
    ),
    Hostile("record-wrong-size", with_rows(of_module(size="1")), "wheel-record-mismatch", MODULE),
    Hostile("metadata-name", with_text("METADATA", "Name: other\nVersion: 1.0\n"), "wheel-metadata"),
    Hostile("metadata-no-name", with_text("METADATA", "Version: 1.0\n"), "wheel-metadata"),
    Hostile("metadata-version", with_text("METADATA", "Name: demo\nVersion: 2.0\n"), "wheel-metadata"),
    Hostile("metadata-no-version", with_text("METADATA", "Name: demo\n"), "wheel-metadata"),
    Hostile("metadata-bad-version", with_text("METADATA", "Name: demo\nVersion: one\n"), "wheel-metadata"),
    Hostile("metadata-missing", with_text("METADATA", None), "wheel-invalid"),
    Hostile("metadata-not-text", with_text("METADATA", b"Name: \xff\n"), "wheel-invalid", "METADATA"),
    Hostile("metadata-huge", with_text("METADATA", b"X: y\n" * (1 << 20)), "wheel-bomb", "METADATA"),
    Hostile("wheel-file-huge", with_text("WHEEL", b"X: y\n" * (1 << 14)), "wheel-bomb", "WHEEL"),
    Hostile(
        "entry-points-huge", with_entry_points("[a]\n" + "x" * (1 << 18)), "wheel-bomb", "entry_points.txt"
    ),
    Hostile("wheel-file-missing", with_text("WHEEL", None), "wheel-invalid"),
    Hostile("wheel-version-2", with_text("WHEEL", "Wheel-Version: 2.0\n"), "wheel-invalid"),
    Hostile("wheel-version-missing", with_text("WHEEL", "Root-Is-Purelib: true\n"), "wheel-invalid"),
    Hostile("dist-info-none", renamed_dist_info("demo"), "wheel-invalid"),
    Hostile("dist-info-two", with_file("other-1.0.dist-info/METADATA"), "wheel-invalid"),
    Hostile("dist-info-of-another", renamed_dist_info("other-1.0.dist-info"), "wheel-invalid"),
    Hostile("dist-info-is-a-file", with_file(DIST_INFO), "wheel-member-duplicate", DIST_INFO),
    *(
        Hostile(f"data-{label}", with_file(name), "wheel-invalid", name)
        for label, name in {
            "another-dist-info": "demo-1.0.data/purelib/other-2.0.dist-info/METADATA",
            "is-a-file": "demo-1.0.data",
            "without-scheme": "demo-1.0.data/file",
            "scheme-is-a-file": "demo-1.0.data/scripts",
            "unknown-scheme": "demo-1.0.data/unknown/file",
        }.items()
    ),
    *(
        Hostile(f"filename-{label}", wheel_bytes(DEMO), "wheel-filename", None, filename)
        for label, filename in {
            "no-tags": "demo-1.0.whl",
            "extension": "demo-1.0-py3-none-any.zip",
            "bad-version": "demo-one-py3-none-any.whl",
            "bad-name": "de mo-1.0-py3-none-any.whl",
            "no-name": "-1.0-py3-none-any.whl",
            "dots-for-a-name": "..-1.0-py3-none-any.whl",
            "another-script": "dèmo-1.0-py3-none-any.whl",
            "newline": "demo-1.0\n-py3-none-any.whl",
            "not-text": "demo-1.0-1\udcff-py3-none-any.whl",
            "too-long": f"{'demo' * 47}-1.0-py3-none-any.whl",
        }.items()
    ),
    Hostile("empty", b"", "wheel-archive"),
    Hostile("not-a-zip", b"no zip at all" * 100, "wheel-archive"),
    Hostile("truncated", wheel_bytes(DEMO)[:-30], "wheel-archive"),
    Hostile("headless", wheel_bytes(DEMO)[30:], "wheel-archive"),
    Hostile("bad-crc", with_stored_module(b"honest = True", b"honest = 4444"), "wheel-archive", MODULE),
    Hostile("encrypted", with_bits(wheel_bytes(DEMO), (6, 8), 1), "wheel-archive", MODULE),
    *(
        Hostile(f"{label}-compression", with_bits(wheel_bytes(DEMO), (8, 10), code), "wheel-archive", MODULE)
        for label, code in {"unknown": 97, "not-bzip2": 12, "not-lzma": 14}.items()
    ),
    Hostile("inflates-to-more", by_hand(size=10), "wheel-archive", MODULE),
    Hostile("inflates-to-less", by_hand(size=30), "wheel-archive", MODULE),
    Hostile("deflated-data-and-more", by_hand(packed=lambda data: data + b"more"), "wheel-archive", MODULE),
    Hostile("deflated-data-cut-off", by_hand(packed=lambda data: data[:-4]), "wheel-archive", MODULE),
    Hostile("deflated-data-is-none", by_hand(packed=lambda _: b"\xff" * 9), "wheel-archive", MODULE),
    Hostile("another-local-name", by_hand(name="demo/__main__.py"), "wheel-member-name", MODULE),
    Hostile("another-local-crc", by_hand(crc=1), "wheel-archive", MODULE),
    Hostile("overlapping-members", by_hand(second=0), "wheel-archive", f"{DIST_INFO}/METADATA"),
    Hostile("prepended", by_hand(prepended=b"#!/bin/sh\n"), "wheel-archive", MODULE),
    Hostile("prepended-unseen", by_hand(prepended=b"#!/bin/sh\n", shift=-10), "wheel-archive"),
    Hostile("gap", by_hand(gap=b"PK\3\4 hidden"), "wheel-archive", f"{DIST_INFO}/METADATA"),
    Hostile("appended", by_hand(appended=b"more"), "wheel-archive"),
    Hostile("appended-archive", wheel_bytes(DEMO) * 2, "wheel-archive"),
    Hostile("bomb", by_hand(size=1 << 31), "wheel-bomb"),
    Hostile("nested-too-deep", with_file("d/" * 61 + "module.py"), "wheel-member-name", "module.py"),
    Hostile(
        "record-says-two-things",
        wheel_bytes(DEMO, record=lambda rows: [*rows, replace(rows[0], size="1")]),
        "wheel-record",
        MODULE,
    ),
    Hostile("record-shake", with_rows(of_module(digest="shake_128=x")), "wheel-record", MODULE),
    *(
        Hostile(
            f"signature-{label}",
            wheel_bytes(
                DEMO,
                members=lambda members: [*members, Member(f"{DIST_INFO}/RECORD.jws", b"signed")],
                record=lambda rows, row=row: [*rows, Row(f"{DIST_INFO}/RECORD.jws", *row)],  # type: ignore[misc]
            ),
            "wheel-record",
            f"{DIST_INFO}/RECORD.jws",
        )
        for label, row in {"shake": ("shake_128=x", "6"), "weak": ("md5=x", "6"), "size": ("", "x")}.items()
    ),
    *(
        Hostile(f"metadata-two-{label}", with_text("METADATA", text), "wheel-metadata")
        for label, text in {
            "names": "Name: demo\nName: other\nVersion: 1.0\n",
            "versions": "Name: demo\nVersion: 1.0\nVersion: 2.0\n",
        }.items()
    ),
    *(
        Hostile(f"entry-point-{label}", with_entry_points(text), "wheel-entry-point")
        for label, text in ENTRY_POINTS.items()
    ),
]


@pytest.fixture
def _within_seconds() -> Iterator[None]:
    """Fail, rather than hang and fill the memory."""

    def expire(_number: int, _frame: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, 3)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.usefixtures("_within_seconds")
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.label)
def test_a_hostile_wheel_is_refused_by_name_and_leaves_no_trace(
    store: Store, tmp_path: Path, hostile: Hostile
) -> None:
    store.add(build_wheel(WheelSpec(name="bystander"), tmp_path))
    wheel = tmp_path / hostile.filename
    wheel.write_bytes(hostile.data)
    outside = tree(tmp_path, without=("store", "home"))
    before = tree(store.root, without=("holds",))
    with pytest.raises(WheelError) as caught:
        store.add(wheel)
    error = caught.value
    assert (error.kind, error.path, error.exit_code) == (hostile.kind, hostile.filename, 18)
    assert (error.member or "").endswith(hostile.member or "")
    assert (error.member is None) == (hostile.member is None)
    assert error.member is None or repr(error.member) in error.message
    assert tree(store.root, without=("holds",)) == before
    assert tree(tmp_path, without=("store", "home")) == outside


@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 8), st.binary(max_size=8)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=300)
def test_a_wheel_damaged_anywhere_is_refused_or_whole(edits: list[tuple[float, int, bytes]]) -> None:
    data = bytearray(wheel_bytes(DEMO))
    for place, removed, inserted in edits:
        start = int(place * len(data))
        data[start : start + removed] = inserted
    with TemporaryDirectory() as folder:
        wheel = Path(folder, FILENAME)
        wheel.write_bytes(data)
        try:
            stage(job(wheel, folder))
        except WheelError:
            return
        module = Path(folder, "entry/site-packages", MODULE)
        assert module.read_bytes() == b'__version__ = "1.0"\n'


@given(
    st.text(st.sampled_from("a.é/\\:\x00\x1f\x7f \n"), max_size=12)
    | st.lists(st.sampled_from(["x" * 253 + "é", "x" * 254 + "é", "é", "xy"]), max_size=6).map("/".join)
)
def test_what_is_accepted_as_a_name_is_one_path_below_where_it_is_put(name: str) -> None:
    path = name.removesuffix("/")
    assert (problem_with_name(name) is None) == (
        posixpath.normpath(f"/top/{path}") == f"/top/{path}"
        and not ("\\" in name or name.startswith("a:"))
        and all(" " <= character != "\x7f" for character in name)
        and all(len(part.encode()) <= 255 for part in path.split("/"))
        and len(name.encode()) <= 1000
    )


@pytest.mark.parametrize(
    "label", ["data-without-scheme", "dist-info-two", "truncated", "entry-point-percent"]
)
def test_a_refusal_speaks_of_the_wheel_and_not_of_our_own_affairs(
    store: Store, tmp_path: Path, label: str
) -> None:
    hostile = next(hostile for hostile in HOSTILE if hostile.label == label)
    wheel = tmp_path / hostile.filename
    wheel.write_bytes(hostile.data)
    with pytest.raises(WheelError) as caught:
        store.add(wheel)
    assert "object at 0x" not in str(caught.value)
    assert store.root not in str(caught.value)


def test_the_sound_wheel_that_the_hostile_ones_are_made_from_is_accepted(
    store: Store, tmp_path: Path
) -> None:
    assert store.add(build_wheel(DEMO, tmp_path)).new
    # The helpers that rewrite it must not be what makes a wheel hostile.
    rewritten = tmp_path / FILENAME
    for data in (with_text("METADATA", "Name: demo\nVersion: 1.0\n"), by_hand()):
        rewritten.write_bytes(data)
        assert store.add(rewritten).plan.reference.name == "demo"


RICH = WheelSpec(
    name="Demo.Kit",
    version="1.2",
    files={
        "demo_kit/__init__.py": "import sys\n\ndef main():\n    print(*sys.argv[1:])\n",
        "demo_kit/data/table.csv": "1,2\n",
        "demo_kit/native.so": b"\x7fELF",
        "demo_kit/empty.txt": b"",
        "space/part/__init__.py": "",
        "space/part/module.py": "value = 1\n",
        "pile/__init__.py": "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n",
        "pile/piece/__init__.py": "",
        "single.py": "",
        "demo_kit/__pycache__/__init__.cpython-311.pyc": b"never looked at",
    },
    data={
        "scripts/helper": "#!python\nimport sys\nprint('helper', *sys.argv[1:])\n",
        "scripts/windowed": "#!pythonw\n",
        "scripts/shell": "#!/bin/sh\necho shell\n",
        "data/share/demo/notes.txt": "notes",
        "data/etc/demo.conf": "on",
        "headers/demo.h": "#pragma once\n",
        "purelib/pure.py": "",
        "platlib/plat.py": "",
    },
    executable=["demo_kit/native.so"],
    entry_points={
        "console_scripts": {"demo-run": "demo_kit:main"},
        "gui_scripts": {"demo-show": "demo_kit:main"},
        "demo.plugins": {"not/a/script": "demo_kit:main"},
    },
)
INFO = f"site-packages/{RICH.dist_info}"

UNPACKED = {
    "site-packages/demo_kit/__init__.py": "demo_kit/__init__.py",
    "site-packages/demo_kit/data/table.csv": "demo_kit/data/table.csv",
    "site-packages/demo_kit/native.so": "demo_kit/native.so",
    "site-packages/demo_kit/empty.txt": "demo_kit/empty.txt",
    "site-packages/space/part/__init__.py": "space/part/__init__.py",
    "site-packages/space/part/module.py": "space/part/module.py",
    "site-packages/pile/__init__.py": "pile/__init__.py",
    "site-packages/pile/piece/__init__.py": "pile/piece/__init__.py",
    "site-packages/single.py": "single.py",
    "site-packages/pure.py": "demo_kit-1.2.data/purelib/pure.py",
    "site-packages/plat.py": "demo_kit-1.2.data/platlib/plat.py",
    "scripts/helper": "demo_kit-1.2.data/scripts/helper",
    "scripts/windowed": "demo_kit-1.2.data/scripts/windowed",
    "scripts/shell": "demo_kit-1.2.data/scripts/shell",
    "data/share/demo/notes.txt": "demo_kit-1.2.data/data/share/demo/notes.txt",
    "data/etc/demo.conf": "demo_kit-1.2.data/data/etc/demo.conf",
    "headers/demo-kit/demo.h": "demo_kit-1.2.data/headers/demo.h",
    **{
        f"{INFO}/{name}": f"{RICH.dist_info}/{name}"
        for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")
    },
}
"""Where each file of RICH goes: everything but the pyc."""

PREPARED = {
    "links/INSTALLER",
    "links/RECORD",
    "links/bin/helper",
    "links/bin/windowed",
    "links/bin/demo-run",
    "links/bin/demo-show",
    "plan.json",
}


@dataclass(frozen=True)
class Entry:
    """An entry on disk."""

    plan: EntryPlan
    path: Path

    @property
    def manifest(self) -> Any:
        return json.loads((self.path / "manifest.json").read_bytes())

    def files(self) -> set[str]:
        """All regular files but the manifest."""
        return {
            str(path.relative_to(self.path))
            for path in self.path.rglob("*")
            if not path.is_symlink() and path.is_file()
        } - {"manifest.json"}


@pytest.fixture
def rich(store: Store, tmp_path: Path) -> Entry:
    """The entry of RICH."""
    plan = store.add(build_wheel(RICH, tmp_path)).plan
    return Entry(plan, Path(store.layout.of("entries", plan.reference.directory)))


def test_every_file_of_a_wheel_lies_by_its_scheme_byte_for_byte(rich: Entry) -> None:
    with zipfile.ZipFile(io.BytesIO(wheel_bytes(RICH))) as archive:
        expected = {place: archive.read(member) for place, member in UNPACKED.items()}
    assert rich.files() - PREPARED == set(UNPACKED)
    assert {place: (rich.path / place).read_bytes() for place in UNPACKED} == expected


def test_what_environments_need_prepared_is_prepared(rich: Entry) -> None:
    assert rich.files() - set(UNPACKED) == PREPARED
    assert (rich.path / "links/INSTALLER").read_text() == "vrfstore\n"


def test_an_entry_is_sealed(rich: Entry) -> None:
    executable = {place for place in rich.files() if place.startswith(("scripts/", "links/bin/"))}
    executable.add("site-packages/demo_kit/native.so")
    for path in [rich.path, *rich.path.rglob("*")]:
        if path.is_symlink():
            continue
        program = path.is_dir() or str(path.relative_to(rich.path)) in executable
        assert stat.S_IMODE(path.stat().st_mode) == (0o555 if program else 0o444), path


def test_a_manifest_is_what_is_on_disk(rich: Entry) -> None:
    described = {}
    for place in rich.files():
        path = rich.path / place
        content = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
        described[place] = [place, len(content), mode, hashlib.sha256(content).hexdigest()]
    assert rich.manifest["files"] == [described[place] for place in sorted(described)]
    links = {
        f"links/{path.name}": os.readlink(path)
        for path in (rich.path / "links").iterdir()
        if path.is_symlink()
    }
    assert rich.manifest["links"] == links
    assert links


def test_a_plan_says_what_the_wheel_is(rich: Entry, store: Store) -> None:
    assert store.plan(rich.plan.reference.directory) == rich.plan
    assert (rich.plan.reference.name, rich.plan.reference.version) == ("demo-kit", "1.2")
    assert rich.plan.tags == ("py3-none-any",)
    described = rich.files() - {"plan.json"}
    assert rich.plan.unpacked == sum((rich.path / place).stat().st_size for place in described)


def test_a_plan_does_not_grow_with_the_modules_of_a_package(store: Store, tmp_path: Path) -> None:
    sizes = []
    for count in (1, 500):
        files = {MODULE: "", **{f"demo/module_{number}.py": "" for number in range(count)}}
        wheel = build_wheel(replace(DEMO, version=f"1.{count:03}", files=files), tmp_path)
        directory = store.add(wheel).plan.reference.directory
        sizes.append(os.path.getsize(store.layout.of("entries", f"{directory}/plan.json")))
    assert abs(sizes[0] - sizes[1]) < 16
    assert max(sizes) < 1024


def folded(tree: Node, place: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the place in the entry of every directory that a plan can link as a whole."""
    if isinstance(tree, int):
        yield tree, place
    elif isinstance(tree, dict):
        for name, node in tree.items():
            yield from folded(node, f"{place}/{name}" if name else place)


def test_a_ready_made_link_leads_to_its_directory_from_where_environments_have_it(
    rich: Entry, store: Store
) -> None:
    numbers = {}
    for scheme, nodes in rich.plan.trees.items():
        for number, place in folded(nodes, scheme):
            path = place.removeprefix(scheme).removeprefix("/")
            installed = Path(store.layout.of("environments", "some-key"), INSTALLED[scheme], path)
            installed.parent.mkdir(parents=True, exist_ok=True)
            os.link(rich.path / "links" / str(number), installed, follow_symlinks=False)
            assert os.path.realpath(installed) == str(rich.path / place)
            assert installed.is_dir()
            numbers[f"links/{number}"] = link_target(rich.plan.reference.directory, scheme, path)
    assert numbers == rich.manifest["links"]


def test_the_ready_made_record_names_links_then_files_then_what_was_generated(rich: Entry) -> None:
    with open(rich.path / "links/RECORD", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    links = rows[: rich.plan.record_links]
    described = rows[rich.plan.record_links : -1]
    assert [path for path, *_ in links] == [
        "../../../include/site/pythonX.Y/demo-kit",
        "../../../share/demo",
        "demo_kit",
        "pile/piece",
        "space/part",
    ]
    assert all(rest == ["", ""] for _, *rest in links)
    assert rows[-1] == [f"{RICH.dist_info}/RECORD", "", ""]

    generated = {
        f"{RICH.dist_info}/INSTALLER": "links/INSTALLER",
        **{f"../../../bin/{name}": f"links/bin/{name}" for name in os.listdir(rich.path / "links/bin")},
    }
    own = {installed(place): place for place in UNPACKED if place not in {f"{INFO}/RECORD", *replaced()}}
    assert [path for path, *_ in described] == sorted(own) + sorted(generated)
    for path, digest, size in described:
        content = (rich.path / (own | generated)[path]).read_bytes()
        assert Row(path, digest, size) == true_row(Member(path, content))


def replaced() -> set[str]:
    """The scripts of RICH that environments have in a prepared form."""
    return {"scripts/helper", "scripts/windowed"}


def installed(place: str) -> str:
    scheme, _, path = place.partition("/")
    return path if scheme == "site-packages" else "../../../" + f"{INSTALLED[scheme]}/{path}".lstrip("/")


@pytest.mark.parametrize(
    ("script", "printed"), [("helper", "helper a b\n"), ("demo-run", "a b\n"), ("demo-show", "a b\n")]
)
def test_a_script_runs_the_python_beside_it(rich: Entry, tmp_path: Path, script: str, printed: str) -> None:
    place = tmp_path / "a place with spaces" / "bin"
    place.mkdir(parents=True)
    os.link(rich.path / "links/bin" / script, place / script)
    (place / "python").symlink_to(sys.executable)
    ran = subprocess.run(
        [place / script, "a", "b"],
        env={"PYTHONPATH": str(rich.path / "site-packages"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == printed


def test_an_entry_point_wins_over_a_script_of_its_name(store: Store, tmp_path: Path) -> None:
    spec = replace(
        DEMO,
        data={"scripts/run": "#!python\nscript\n"},
        entry_points={"console_scripts": {"run": "demo:entry"}},
    )
    plan = store.add(build_wheel(spec, tmp_path)).plan
    assert plan.trees["scripts"] == {"run": "links/bin/run"}
    ready = Path(store.layout.of("entries", plan.reference.directory), "links/bin/run").read_text()
    assert "from demo import entry" in ready


def test_namespace_packages_stay_open_and_regular_ones_are_one_link(rich: Entry) -> None:
    site = rich.plan.trees["site-packages"]
    assert isinstance(site["demo_kit"], int)
    assert isinstance(site["pile"], dict)
    assert site["pile"]["__init__.py"] == ""
    assert isinstance(site["pile"]["piece"], int)
    assert isinstance(site["space"], dict)
    assert "" not in site["space"]
    assert site["single.py"] == ""


def test_directories_of_an_archive_need_no_record_and_make_nothing(store: Store, tmp_path: Path) -> None:
    wheel = build_wheel(
        DEMO, tmp_path, members=lambda members: [Member("demo/", b""), Member("empty/", b""), *members]
    )
    plan = store.add(wheel).plan
    site = store.layout.of("entries", f"{plan.reference.directory}/site-packages")
    assert sorted(os.listdir(site)) == ["demo", DIST_INFO]


def test_signatures_need_no_row_in_record(store: Store, tmp_path: Path) -> None:
    signatures = [Member(f"{DIST_INFO}/{name}", b"signed") for name in ("RECORD.jws", "RECORD.p7s")]
    assert store.add(build_wheel(DEMO, tmp_path, members=lambda members: [*members, *signatures])).new


@pytest.mark.parametrize("mode", [0o000, 0o600, 0o644, 0o666, 0o777])
def test_modes_of_a_wheel_count_only_as_far_as_a_file_can_be_run(
    store: Store, tmp_path: Path, mode: int
) -> None:
    wheel = build_wheel(
        DEMO,
        tmp_path,
        members=lambda members: [replace(members[0], mode=stat.S_IFREG | mode), *members[1:]],
    )
    directory = store.add(wheel).plan.reference.directory
    found = os.stat(store.layout.of("entries", f"{directory}/site-packages/{MODULE}"))
    assert stat.S_IMODE(found.st_mode) == (0o555 if mode & 0o111 else 0o444)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_of_an_entry_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    wheel = build_wheel(RICH, tmp_path)
    whole, masked = Store.open(tmp_path / "whole"), Store.open(tmp_path / "masked")
    whole.add(wheel)
    before = os.umask(umask)
    try:
        masked.add(wheel)
    finally:
        os.umask(before)
    assert tree(f"{masked.root}/entries") == tree(f"{whole.root}/entries")


NAMES = st.sampled_from(["a", "b", "lib.so", "c.py", "__init__.py", "d.libs", "e-f"])
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=8, unique=True)


def reached(node: Node, place: str, files: set[str]) -> list[str]:
    """Return the files that an environment gets through a node, each as often as it gets it."""
    if isinstance(node, int) or (isinstance(node, dict) and "" in node):
        return sorted(file for file in files if file.startswith(f"{place}/"))
    if isinstance(node, str):
        return [place]
    return [file for name, child in node.items() for file in reached(child, f"{place}/{name}", files)]


@given(paths=PATHS)
@settings(max_examples=60)
def test_a_plan_reaches_every_file_exactly_once_folded_or_not(paths: list[str]) -> None:
    directories = {path.rpartition("/")[0] for path in paths}
    chosen = [path for path in paths if not any(f"{one}/".startswith(f"{path}/") for one in directories)]
    spec = replace(DEMO, files=dict.fromkeys(chosen, "content"))
    with TemporaryDirectory() as folder:
        wheel = build_wheel(spec, Path(folder))
        plan = stage(job(wheel, folder)).plan
        manifest = Entry(plan, Path(folder, "entry")).manifest
    files = {str(path) for path, *_ in manifest["files"] if str(path).startswith("site-packages/")}
    assert {f"site-packages/{path}" for path in chosen} <= files
    generated = {f"site-packages/{DIST_INFO}/INSTALLER"}
    assert sorted(reached(plan.trees["site-packages"], "site-packages", files)) == sorted(files | generated)
