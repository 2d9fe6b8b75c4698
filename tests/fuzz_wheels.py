"""Feed mutated wheels to a store, and fail where it does anything but add one entry, or refuse and leave no trace.

usage: tools/fuzz (or, where atheris is installed: python tests/fuzz_wheels.py CORPUS [libFuzzer's options])

Some mutations are libFuzzer's own, on the bytes; most take the wheel apart, change the name, mode or content of a
member, and put it together again, mostly with a RECORD that is true, so as to come past the first checks.
pytest does not collect this.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import resource
import stat
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import atheris  # type: ignore[import-untyped] # tools/fuzz installs it; no test needs it

with atheris.instrument_imports(include=["vrfstore.store", "installer", "zipfile", "csv", "email"]):
    import vrfstore.store.ingest  # noqa: F401 - the store imports it when it is needed, uninstrumented
    from vrfstore import fs
    from vrfstore.errors import WheelError
    from vrfstore.store.layout import STAGING_PREFIX
    from vrfstore.store.store import Added, Store

from support.wheels import (
    Member,
    Row,
    WheelSpec,
    _record_text,
    _row,
    build_wheel,
    wheel_bytes,
    wheel_filename,
    zip_wheel,
)

DEMO = WheelSpec(name="demo")
RECORD = f"{DEMO.dist_info}/RECORD"
SEEDS = [
    DEMO,
    WheelSpec(
        name="demo", files={}, data={"scripts/tool": "#!python\nprint()\n", "data/share/man/man1/x.1": "x"}
    ),
    WheelSpec(
        name="demo",
        files={
            "demo/__init__.py": "__import__('pkg_resources').declare_namespace(__name__)\n",
            "demo/a/b.py": "",
        },
        data={"headers/x.h": "", "purelib/y.py": "", "platlib/z.so": b"\x7fELF"},
        entry_points={"console_scripts": {"demo": "demo:main"}, "gui_scripts": {"demo-gui": "demo.a.b:main"}},
        requires=["other>=1"],
        extras={"more": ["another"]},
        requires_python=">=3.9",
    ),
    WheelSpec(
        name="demo",
        files={"top.py": "x = 1\n" * 50, "pkg/data.bin": bytes(range(256))},
        root_is_purelib=False,
    ),
]
NAMES = (
    "../x",
    "/etc/x",
    "a/../../x",
    "demo",
    "demo/",
    "DEMO/__init__.py",
    "demo-1.0.data/",
    "demo-1.0.data/scripts/a/b",
    "demo-1.0.data/data/../x",
    "demo-1.0.data/purelib/demo/__init__.py",
    "demo-1.0.data/nothing/x",
    "demo-2.0.dist-info/METADATA",
    "demo-1.0.dist-info/INSTALLER",
    "demo-1.0.dist-info/direct_url.json",
    "demo-1.0.dist-info/entry_points.txt",
    "demo/__pycache__/x.cpython-311.pyc",
    "links/0",
    "plan.json",
    "x\n.py",
    'x",.py',
    "a" * 300,
    "d/" * 70 + "x",
    "\N{LATIN SMALL LETTER E WITH ACUTE}.py",
    "e\N{COMBINING ACUTE ACCENT}.py",
    "\udcff.py".encode("utf-8", "surrogateescape").decode("cp437"),
)
MODES = (0o644, 0o755, 0o4755, 0o000, 0o777, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFIFO | 0o644)
NUMBERS = (0, 1, 2, 8, 0x14, 0x800, 0x7075, 0xFFFE, 0xFFFF, 0xFFFFFFFE, 0xFFFFFFFF)

MOST_CONTENT = 1 << 22
"""Bytes that the members of a mutated wheel may have together, so that most of the time goes into small ones."""

MOST_SECONDS = 10.0
"""Processor time of one wheel. Those of the corpus need some milliseconds."""

MOST_MEMORY = 512 << 20
"""Bytes that the largest size of this process may grow by once it is warm."""

WARM = 1000
"""Wheels after which it is."""

# --- mutation --------------------------------------------------------------------------------------------------


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Return another wheel, for libFuzzer."""
    chance = random.Random(seed)
    # Several mutations come one after the other, and what is broken once can no longer be taken apart.
    if chance.random() < 0.08:
        return bytes(atheris.Mutate(data, max_size))
    if chance.random() < 0.08:
        return header_changed(data, chance)
    with contextlib.suppress(Exception):  # whatever zipfile says of what is no archive any more
        rebuilt = rezipped(data, chance)
        if len(rebuilt) <= max_size:
            return rebuilt
    return bytes(atheris.Mutate(data, max_size))


def header_changed(data: bytes, chance: random.Random) -> bytes:
    """Put a number into one of the headers."""
    places = [place for place in range(len(data)) if data.startswith(b"PK", place)]
    if not places:
        return data
    place = chance.choice(places) + chance.randrange(4, 46)
    width = chance.choice((2, 4))
    number = (chance.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return data[:place] + number + data[place + width :]


def rezipped(data: bytes, chance: random.Random) -> bytes:
    """Change one member, and write a sound archive again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(info.file_size for info in archive.infolist()) > MOST_CONTENT:
            raise ValueError("too much to mutate")
        members = [
            Member(info.filename, archive.read(info), info.external_attr >> 16, info.compress_type)
            for info in archive.infolist()
        ]
    number = chance.randrange(len(members))
    change = chance.choice(
        (renamed, renamed, with_other_mode, with_other_content, with_other_content, with_other_content)
    )
    changed = change(members[number], chance)
    match chance.randrange(6):
        case 0:
            members.insert(number, changed)
        case 1 if members[number].name != RECORD:
            del members[number]
        case _:
            members[number] = changed
    if changed.name != RECORD and chance.random() < 0.9:
        members = with_true_record(members)
    return zip_wheel(members)


def renamed(member: Member, chance: random.Random) -> Member:
    """Give a member a name that is hard to get right, or a mutated one."""
    name = chance.choice(NAMES)
    if chance.random() < 0.5:
        name = bytes(atheris.Mutate(member.name.encode(), len(member.name) + 8)).decode("utf-8", "replace")
    return Member(name, b"" if name.endswith("/") else member.data, 0, member.compression)


def with_other_mode(member: Member, chance: random.Random) -> Member:
    """Give a member another mode."""
    return Member(member.name, member.data, chance.choice(MODES), member.compression)


def with_other_content(member: Member, chance: random.Random) -> Member:
    """Let libFuzzer change what is in a member, repeat it, or put a long run of one byte into it."""
    data = bytes(atheris.Mutate(member.data, len(member.data) + 256))
    if data and chance.random() < 0.05:
        data *= min(chance.randrange(2, 5000), MOST_CONTENT // len(data))
    if chance.random() < 0.05:
        place = chance.randrange(len(data) + 1)
        run = data[place : place + 1] or b"\n"
        data = data[:place] + run * chance.randrange(MOST_CONTENT // 8) + data[place:]
    compression = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    return Member(member.name, data, member.mode, compression)


def with_true_record(members: Sequence[Member]) -> list[Member]:
    """Return the members with a RECORD that is true of them, where there is one at all."""
    others = [member for member in members if member.name != RECORD]
    if len(others) == len(members):
        return others
    rows = [_row(member) for member in others if not member.name.endswith("/")]
    return [*others, Member(RECORD, _record_text([*rows, Row(RECORD)]).encode())]


# --- what has to hold ------------------------------------------------------------------------------------------


class Target:
    """A store in a scratch directory, with an entry beside which others come and go."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._store = Store.open(scratch / "store", durable=False)
        self._entries = Path(self._store.layout.of("entries"))
        wheels = scratch / "wheels"
        wheels.mkdir()
        self._store.add(build_wheel(WheelSpec(name="neighbour"), wheels))
        self._wheel = wheels / wheel_filename(DEMO)
        self._wheel.touch()
        self._escapes: list[str] = []
        self._watching = False
        self._outcomes: Counter[str] = Counter()
        self._largest: int | None = None
        self._before = self._snapshot()
        sys.addaudithook(self._watch)

    def __call__(self, data: bytes) -> None:
        """Add a wheel.

        Raises:
            AssertionError: Something happened that must not, whatever the bytes are.
        """
        self._wheel.write_bytes(data)
        began = time.process_time()
        added = self._add()
        spent = time.process_time() - began
        assert not self._escapes, f"changed something else: {self._escapes}"
        if added is not None:
            directory = self._entries / added.plan.reference.directory
            self._check_entry(directory, data)
            fs.remove_tree(str(directory))
        after = self._snapshot()
        assert after == self._before, f"left a trace: {sorted(after.items() ^ self._before.items())}"
        assert spent < MOST_SECONDS, f"took {spent:.1f} s"
        self._check_memory()

    def _add(self) -> Added | None:
        self._watching = True
        try:
            added = self._store.add(self._wheel)
        except WheelError as error:
            self._count(error.kind)
            return None
        finally:
            self._watching = False
        self._count("accepted")
        return added

    def _count(self, outcome: str) -> None:
        self._outcomes[outcome] += 1
        if self._outcomes.total() % 5000 == 0:
            sys.stderr.write(f"outcomes: {dict(self._outcomes.most_common())}\n")

    def _watch(self, event: str, arguments: tuple[object, ...]) -> None:
        """Note every change that is announced for a path where nothing is staged (sys.audit)."""
        if not self._watching:
            return
        if event == "open":
            flags = arguments[2]
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            paths = arguments[:1] if changes else ()
        elif event in {"os.rename", "os.link"}:
            paths = arguments[:2]
        elif event == "os.symlink":
            paths = arguments[1:2]
        elif event in {"os.chmod", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime"}:
            # By a name in an open directory: a tree that is removed, from a path that was seen here before.
            paths = () if event != "os.truncate" and arguments[-1] != -1 else arguments[:1]
        else:
            return
        for path in paths:
            if isinstance(path, int) or (isinstance(path, str) and self._is_ours(path, event)):
                continue
            self._escapes.append(f"{event} {path!r}")

    def _is_ours(self, path: str, event: str) -> bool:
        if os.path.normpath(path) != path or not path.startswith(f"{self._store.root}/"):
            return False
        part, name, *below = path.removeprefix(f"{self._store.root}/").split("/")
        if part != "entries":
            return part in {"tmp", "leases", "holds"}
        return name.startswith(STAGING_PREFIX) or (event == "os.rename" and not below)

    def _check_entry(self, directory: Path, data: bytes) -> None:
        """Check that an entry is what its manifest says, is sealed, and lacks nothing of the wheel."""
        manifest = self._store.manifest(directory.name)
        files: dict[str, str] = {}
        links: dict[str, str] = {}
        for path in directory.rglob("*"):
            name = path.relative_to(directory).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                links[name] = os.readlink(path)
                continue
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), f"{name} is neither file nor directory"
            # Into directories for bytecode its compiler writes.
            assert not mode & 0o222 or path.is_dir(), f"{name} can be written"
            if stat.S_ISREG(mode):
                files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        assert links == manifest.links
        assert all(name.startswith("links/") for name in links)
        for target in links.values():
            inside = target.partition(f"/{directory.name}/")[2]
            assert inside, f"a link leads to {target}"
            assert ".." not in inside.split("/"), f"a link leads to {target}"
        del files["manifest.json"]
        assert files == {file.path: file.sha256 for file in manifest.files}
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                if not name.endswith("/") and "__pycache__" not in name.split("/"):
                    content = hashlib.sha256(archive.read(name)).hexdigest()
                    assert content in files.values(), f"{name} is not in the entry"

    def _snapshot(self) -> dict[str, tuple[object, ...]]:
        """Return what is in the scratch directory, but for holds, which stay, and the wheel itself."""
        found: dict[str, tuple[object, ...]] = {}
        pending = [str(self._scratch)]
        while pending:
            with os.scandir(pending.pop()) as children:
                for child in children:
                    state = child.stat(follow_symlinks=False)
                    if child.path == str(self._wheel):
                        continue
                    if child.is_dir(follow_symlinks=False):
                        found[child.path] = (state.st_mode, state.st_ino)
                        if child.name != "holds":
                            pending.append(child.path)
                    else:
                        found[child.path] = (state.st_mode, state.st_ino, state.st_size, state.st_mtime_ns)
        return found

    def _check_memory(self) -> None:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        if self._outcomes.total() < WARM:
            return
        if self._largest is None:
            self._largest = largest
        assert largest - self._largest < MOST_MEMORY, f"grew by {largest - self._largest} bytes"


def main() -> None:
    """Write the seeds into the corpus, the first argument, and let libFuzzer go on from there."""
    corpus = Path(sys.argv[1])
    for number, spec in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(wheel_bytes(spec))
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    target = Target(scratch)
    atheris.Setup(sys.argv, target, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
