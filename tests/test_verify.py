"""Verifying: every way in which an entry can be damaged is found, and nothing is found that is not damage."""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.crash import as_nobody, base, compile_entry, make_environment, tree
from support.wheels import WheelSpec, build_wheel
from vrfstore import codec, fs
from vrfstore.cli.running import run
from vrfstore.errors import UsageError
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.runner.verify import VerifyReport, verify
from vrfstore.store import leases
from vrfstore.store import verify as verifying
from vrfstore.store.compiling import remove_record
from vrfstore.store.store import Store
from vrfstore.store.verify import check_entry

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
        "single.py": "one = 1\n",
    },
    data={
        "scripts/helper": "#!python\nimport sys\nprint('helper', *sys.argv[1:])\n",
        "data/share/demo/notes.txt": "notes",
        "data/etc/demo.conf": "on",
        "headers/demo.h": "#pragma once\n",
    },
    executable=["demo_kit/native.so"],
    entry_points={"console_scripts": {"demo-run": "demo_kit:main"}},
)
OTHER = WheelSpec(name="other", files={"other.py": "two = 2\n", "space/more.py": ""})

INFO = f"site-packages/{RICH.dist_info}"
MODULE = "site-packages/demo_kit/__init__.py"
SINGLE = "site-packages/single.py"

EVERYTHING = Policy(max_age=0, grace=0)

Corruption = Callable[[Path], object]


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return build_wheel(RICH, tmp_path)


@pytest.fixture
def entry(store: Store, wheel: Path) -> Path:
    """The entry of a wheel that has a bit of everything."""
    return Path(store.layout.of("entries", store.add(wheel).plan.reference.directory))


@pytest.fixture
def other(store: Store, tmp_path: Path) -> Path:
    directory = store.add(build_wheel(OTHER, tmp_path)).plan.reference.directory
    return Path(store.layout.of("entries", directory))


def flip(path: Path, offset: int = 0) -> None:
    """Change one byte; neither size nor mode."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o555 if "/bin/" in str(path) or "/scripts/" in str(path) else 0o444)


def rewrite(path: Path, data: bytes) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(mode)


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else in the place of a file or directory, and leave the directory above as it was."""
    above = path.parent
    above.chmod(0o755)
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        fs.remove_tree(str(path))
    make(path)
    above.chmod(0o555)


def added(path: Path, make: Callable[[Path], object]) -> None:
    path.parent.chmod(0o755)
    make(path)
    path.parent.chmod(0o555)


def nothing(path: Path) -> None:
    del path


def a_socket(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    above = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may have 108 bytes only
    try:
        listener.bind(path.name)
    finally:
        os.chdir(above)
        listener.close()


def a_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(path, 0o444 | stat.S_IFCHR, os.makedev(1, 5))  # as /dev/zero, which never ends


def a_file(path: Path) -> None:
    path.write_text("x")
    path.chmod(0o444)


def a_directory(path: Path) -> None:
    path.mkdir()
    path.chmod(0o555)


def a_twin(path: Path) -> None:
    """A symlink in place of a file, to the same bytes."""
    twin = path.parents[4] / "elsewhere"
    twin.write_text("one = 1\n")
    path.symlink_to(twin)


def moved_directory(path: Path) -> None:
    """A symlink in place of a directory, which now is elsewhere."""
    aside = path.parents[4] / "aside"
    aside.mkdir()
    path.symlink_to(aside)


@dataclass(frozen=True)
class Damage:
    """A way to damage an entry: what to do, and what is found of it by which look."""

    name: str
    corrupt: Corruption
    kind: str
    path: str
    quick: bool = True


def of_file(place: str) -> list[Damage]:
    def to(action: Callable[[Path], object]) -> Corruption:
        return lambda entry: action(entry / place)

    def with_(make: Callable[[Path], object]) -> Corruption:
        return lambda entry: replaced(entry / place, make)

    return [
        Damage(f"{place} flipped", to(flip), "changed", place, quick=False),
        Damage(f"{place} truncated", to(lambda p: rewrite(p, p.read_bytes()[:-1])), "size", place),
        Damage(f"{place} emptied", to(lambda p: rewrite(p, b"")), "size", place),
        Damage(f"{place} grown", to(lambda p: rewrite(p, p.read_bytes() + b"\n")), "size", place),
        Damage(f"{place} missing", with_(nothing), "missing", place),
        Damage(f"{place} writable", to(lambda p: p.chmod(0o644)), "mode", place),
        Damage(f"{place} setuid", to(lambda p: p.chmod(p.stat().st_mode | stat.S_ISUID)), "mode", place),
        Damage(f"{place} a directory", with_(a_directory), "type", place),
    ]


ODD: list[tuple[str, Callable[[Path], object]]] = [
    ("FIFO", os.mkfifo), ("socket", a_socket), ("device", a_device), ("link to the same bytes", a_twin),
    ("dangling link", lambda path: path.symlink_to("nowhere")),
    ("link to itself", lambda path: path.symlink_to(path.name)),
]  # fmt: skip


def a_number(entry: Path) -> str:
    """A ready-made link whose target is a package."""
    return next(
        f"links/{name}"
        for name in sorted(os.listdir(entry / "links"))
        if (entry / "links" / name).is_symlink()
    )


def edited_manifest(entry: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a manifest says, and leave it JSON."""
    value = json.loads((entry / "manifest.json").read_bytes())
    change(value)
    rewrite(entry / "manifest.json", codec.dumps(value))


def flip_in_manifest(entry: Path) -> None:
    """One digit of one file's digest becomes another one."""
    data = (entry / "manifest.json").read_bytes()
    offset = data.index(b'"files":[["') + data[data.index(b'"files":[["') :].index(b'"]') - 1
    rewrite(
        entry / "manifest.json",
        data[:offset] + (b"0" if data[offset : offset + 1] != b"0" else b"1") + data[offset + 1 :],
    )


def manifest_elsewhere(entry: Path) -> None:
    copy = entry.parents[2] / "copy"
    shutil.copy(entry / "manifest.json", copy)
    replaced(entry / "manifest.json", lambda path: path.symlink_to(copy))


def entry_elsewhere(entry: Path) -> None:
    aside = entry.parents[2] / "aside"
    entry.rename(aside)
    entry.symlink_to(aside)


def instead(entry: Path, make: Corruption) -> None:
    """Put something else in the place of the whole entry."""
    fs.remove_tree(str(entry))
    make(entry)


def single_replaced(make: Corruption, entry: Path) -> None:
    replaced(entry / SINGLE, make)


DAMAGES = [
    *of_file(MODULE),
    *of_file(SINGLE),
    *of_file(f"{INFO}/RECORD"),
    *of_file(f"{INFO}/METADATA"),
    *of_file("plan.json"),
    *of_file("links/RECORD"),
    *of_file("links/INSTALLER"),
    *of_file("links/bin/demo-run"),
    *of_file("links/bin/helper"),
    *of_file("scripts/helper"),
    *of_file("data/etc/demo.conf"),
    *of_file("data/share/demo/notes.txt"),
    *of_file("headers/demo-kit/demo.h"),
    *(
        Damage(f"{SINGLE} a {name}", functools.partial(single_replaced, make), "type", SINGLE)
        for name, make in ODD
    ),
    Damage("empty file with bytes", lambda e: rewrite(e / "site-packages/demo_kit/empty.txt", b"x"), "size",
           "site-packages/demo_kit/empty.txt"),
    Damage("program not to be run", lambda e: (e / "site-packages/demo_kit/native.so").chmod(0o444), "mode",
           "site-packages/demo_kit/native.so"),
    Damage("package missing", lambda e: replaced(e / "site-packages/demo_kit", nothing), "missing", MODULE),
    Damage("package a file", lambda e: replaced(e / "site-packages/demo_kit", a_file), "type",
           "site-packages/demo_kit"),
    Damage("package a link", lambda e: replaced(e / "site-packages/demo_kit", moved_directory), "type",
           "site-packages/demo_kit"),
    Damage("package writable", lambda e: (e / "site-packages/demo_kit").chmod(0o755), "mode", "site-packages/demo_kit"),
    Damage("package setgid", lambda e: (e / "site-packages/demo_kit").chmod(0o2555), "mode", "site-packages/demo_kit"),
    Damage("scheme writable", lambda e: (e / "data").chmod(0o777), "mode", "data"),
    Damage("entry writable", lambda e: e.chmod(0o755), "mode", ""),
    Damage("__pycache__ missing", lambda e: replaced(e / "site-packages/demo_kit/__pycache__", nothing), "missing",
           "site-packages/demo_kit/__pycache__"),
    Damage("bytecode/ missing", lambda e: replaced(e / "bytecode", nothing), "missing", "bytecode"),
    Damage("bytecode/ a file", lambda e: replaced(e / "bytecode", a_file), "type", "bytecode"),
    Damage("links/ missing", lambda e: replaced(e / "links", nothing), "missing", "links/RECORD"),
    Damage("link missing", lambda e: replaced(e / a_number(e), nothing), "missing", "links/0"),
    Damage("link elsewhere", lambda e: replaced(e / a_number(e), lambda p: p.symlink_to("/etc")), "link", "links/0"),
    Damage("link a file", lambda e: replaced(e / a_number(e), a_file), "link", "links/0"),
    Damage("added module", lambda e: added(e / "site-packages/evil.py", a_file), "added", "site-packages/evil.py"),
    Damage("added directory", lambda e: added(e / "site-packages/evil", a_directory), "added", "site-packages/evil"),
    Damage("added link", lambda e: added(e / "links/99", lambda p: p.symlink_to("/etc")), "added", "links/99"),
    Damage("added scheme", lambda e: added(e / "more", a_directory), "added", "more"),
    Damage("added FIFO", lambda e: added(e / "site-packages/pipe", os.mkfifo), "added", "site-packages/pipe"),
    Damage("added to __pycache__", lambda e: added(e / "site-packages/demo_kit/__pycache__/x.so", a_file), "added",
           "site-packages/demo_kit/__pycache__/x.so"),
    Damage("pyc a link", lambda e: added(e / "site-packages/demo_kit/__pycache__/x.pyc", lambda p: p.symlink_to("y")),
           "added", "site-packages/demo_kit/__pycache__/x.pyc"),
    Damage("manifest missing", lambda e: replaced(e / "manifest.json", nothing), "manifest", "manifest.json"),
    Damage("manifest emptied", lambda e: rewrite(e / "manifest.json", b""), "manifest", "manifest.json"),
    Damage("manifest truncated", lambda e: rewrite(e / "manifest.json", (e / "manifest.json").read_bytes()[:-9]),
           "manifest", "manifest.json"),
    Damage("manifest no JSON", lambda e: flip(e / "manifest.json"), "manifest", "manifest.json"),
    Damage("manifest flipped", flip_in_manifest, "manifest", "manifest.json"),
    Damage("manifest without links", lambda e: edited_manifest(e, lambda v: v.pop("links")), "manifest",
           "manifest.json"),
    Damage("manifest a list", lambda e: rewrite(e / "manifest.json", b"[]\n"), "manifest", "manifest.json"),
    Damage("manifest a FIFO", lambda e: replaced(e / "manifest.json", os.mkfifo), "manifest", "manifest.json"),
    Damage("manifest a directory", lambda e: replaced(e / "manifest.json", a_directory), "manifest", "manifest.json"),
    Damage("manifest grown", lambda e: rewrite(e / "manifest.json", (e / "manifest.json").read_bytes() + b"\n"),
           "size", "manifest.json"),
    Damage("manifest writable", lambda e: (e / "manifest.json").chmod(0o644), "mode", "manifest.json"),
    Damage("manifest a link", manifest_elsewhere, "type", "manifest.json"),
    Damage("entry a file", lambda e: instead(e, a_file), "type", ""),
    Damage("entry a link", entry_elsewhere, "type", ""),
    Damage("entry an empty directory", lambda e: instead(e, a_directory), "manifest", "manifest.json"),
]  # fmt: skip

by_name = pytest.mark.parametrize(
    "damage", DAMAGES, ids=lambda damage: damage.name.replace("site-packages/", "")
)


def findings(report: VerifyReport) -> list[tuple[str, str, str]]:
    return [(finding.place, finding.problem.kind, finding.problem.path) for finding in report.findings]


def kinds(report: VerifyReport) -> set[str]:
    return {finding.problem.kind for finding in report.findings}


@by_name
def test_every_damage_is_found_by_a_full_look_and_by_a_quick_one_if_lstat_tells(
    store: Store, entry: Path, damage: Damage
) -> None:
    damage.corrupt(entry)
    before = tree_of(entry)
    full, quick = verify(store), verify(store, full=False)
    wanted = (f"entries/{entry.name}", damage.kind, damage.path)
    assert wanted in findings(full)
    assert not full.sound
    assert (wanted in findings(quick)) == damage.quick
    assert quick.sound != damage.quick
    assert tree_of(entry) == before, "looking changes nothing"


def tree_of(entry: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mode) for path in [entry, *entry.rglob("*")])


@pytest.mark.parametrize("full", [True, False])
def test_a_sound_store_is_sound_and_left_alone(
    store: Store, entry: Path, other: Path, tmp_path: Path, *, full: bool
) -> None:
    make_environment(store, *tmp_path.glob("*.whl"))
    before = tree(store.root, without=("holds",))
    report = verify(store, full=full)
    assert findings(report) == []
    assert (report.entries, report.environments, report.unread, report.written) == (2, 1, 0, {})
    files = [
        path
        for root in (entry, other)
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    assert report.read == (sum(path.stat().st_size for path in files) if full else 0)
    assert tree(store.root, without=("holds",)) == before


def test_damage_is_told_of_the_entry_that_has_it(store: Store, entry: Path, other: Path) -> None:
    flip(other / "site-packages/other.py")
    assert findings(verify(store)) == [(f"entries/{other.name}", "changed", "site-packages/other.py")]
    assert verify(store, [entry.name]).sound
    assert not verify(store, [other.name[:8]]).sound


def test_the_manifest_of_another_entry_is_none(store: Store, entry: Path, other: Path) -> None:
    data = (other / "manifest.json").read_bytes()
    rewrite(entry / "manifest.json", data)
    (finding,) = verify(store).findings
    assert (finding.place, finding.problem.kind) == (f"entries/{entry.name}", "manifest")
    assert other.name in finding.problem.message


def test_an_entry_that_environments_link_to_and_that_is_gone_is_missing(store: Store, wheel: Path) -> None:
    record = make_environment(store, wheel)
    (entry,) = record.wheels
    fs.remove_tree(store.layout.of("entries", entry.directory))
    assert (f"entries/{entry.directory}", "missing", "") in findings(verify(store, full=False))
    assert (f"entries/{entry.directory}", "missing", "") in findings(verify(store, [record.directory]))
    assert findings(verify(store, [entry.directory])) == [(f"entries/{entry.directory}", "missing", "")]


# Bytecode


@pytest.fixture
def compiled(store: Store, entry: Path) -> Path:
    """The same entry with all its modules compiled."""
    compile_entry(store, entry.name)
    assert verify(store).sound
    return entry


def pyc_of(entry: Path) -> Path:
    return entry / f"site-packages/demo_kit/__pycache__/__init__.{base().cache_tag}.pyc"


@pytest.mark.parametrize(
    ("corrupt", "quick"),
    [
        (flip, False),
        (lambda path: rewrite(path, b""), True),
        (lambda path: rewrite(path, path.read_bytes() + b"x"), True),
        (lambda path: path.chmod(0o666), True),
        (lambda path: replaced(path, os.mkfifo), True),
        (lambda path: replaced(path, a_directory), True),
        (lambda path: replaced(path, lambda p: p.symlink_to("/dev/zero")), True),
    ],
    ids=["flipped", "emptied", "grown", "writable", "FIFO", "directory", "link"],
)
def test_a_recorded_pyc_that_is_wrong_is_found(
    store: Store, compiled: Path, corrupt: Corruption, *, quick: bool
) -> None:
    pyc = pyc_of(compiled)
    corrupt(pyc)
    wanted = (f"entries/{compiled.name}", "bytecode", str(pyc.relative_to(compiled)))
    assert findings(verify(store)) == [wanted]
    assert findings(verify(store, full=False)) == ([wanted] if quick else [])
    assert verify(store, mend=True).sound
    assert not pyc.exists(), "it is compiled again by whoever wants it"
    assert findings(verify(store)) == []


@pytest.mark.parametrize("name", ["cpython-311-0000.json", "garbage.json", "RECORD"])
@pytest.mark.parametrize("make", [a_file, os.mkfifo, a_directory], ids=["file", "FIFO", "directory"])
def test_a_record_of_bytecode_that_cannot_be_read_is_found_and_taken_away(
    store: Store, compiled: Path, wheel: Path, name: str, make: Callable[[Path], object]
) -> None:
    wheel.unlink()  # without any source
    records = compiled / "bytecode"
    path = records / name if name != "RECORD" else next(records.iterdir())
    if path.exists():
        replaced(path, make)
    else:
        added(path, make)
    assert kinds(verify(store, full=False)) <= {"bytecode", "added"}
    assert not verify(store, full=False).sound
    assert verify(store, mend=True).sound
    assert findings(verify(store)) == []
    store.plan(compiled.name)  # which is not marked


def test_bytecode_that_is_wrong_beside_an_odd_mode_needs_no_source(
    store: Store, compiled: Path, wheel: Path
) -> None:
    wheel.unlink()
    flip(pyc_of(compiled))
    (compiled / SINGLE).chmod(0o644)
    assert verify(store, mend=True).sound
    assert findings(verify(store)) == []


def test_a_record_cannot_vouch_for_what_is_no_pyc(store: Store, compiled: Path) -> None:
    flip(compiled / SINGLE)
    record = next((compiled / "bytecode").iterdir())
    value = json.loads(record.read_bytes())
    data = (compiled / SINGLE).read_bytes()
    value["files"].append([SINGLE, len(data), codec.hexdigest(data)])
    rewrite(record, codec.dumps(value))
    assert (f"entries/{compiled.name}", "changed", SINGLE) in findings(verify(store))


def test_what_an_interpreter_wrote_itself_is_listed_and_no_damage(store: Store, entry: Path) -> None:
    cache = entry / "site-packages/demo_kit/__pycache__"
    added(cache / "__init__.cpython-38.pyc", a_file)
    added(cache / "__init__.cpython-38.pyc.140000", a_file)
    added(entry / "data/share/demo/__pycache__", a_directory)
    report = verify(store)
    assert report.sound
    assert report.written == {
        entry.name: tuple(
            f"site-packages/demo_kit/__pycache__/{name}"
            for name in ("__init__.cpython-38.pyc", "__init__.cpython-38.pyc.140000")
        )
    }


def test_a_recorded_pyc_that_somebody_removed_is_no_damage(store: Store, compiled: Path) -> None:
    replaced(pyc_of(compiled), nothing)
    assert verify(store).sound


def test_bytecode_that_came_and_went_meanwhile_is_no_damage(
    store: Store, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_look, original_check = verifying.look, verifying._check_bytes
    came, went = threading.Event(), threading.Event()

    def look(root: str) -> dict[str, verifying.Seen]:
        if not came.is_set():
            compile_entry(store, entry.name)
            came.set()
        return original_look(root)

    def check_bytes(*arguments: Any) -> Any:
        if not went.is_set():
            remove_record(store, entry.name, base().cache_tag)
            went.set()
        return original_check(*arguments)

    monkeypatch.setattr(verifying, "look", look)
    monkeypatch.setattr(verifying, "_check_bytes", check_bytes)
    assert check_entry(store, entry.name, full=True).problems == ()
    assert went.is_set()


@pytest.mark.slow
def test_compiling_meanwhile_is_no_damage(store: Store, entry: Path) -> None:
    stop = threading.Event()
    wrong: list[tuple[str, str, str]] = []

    def look() -> None:
        while not stop.is_set():
            wrong.extend(findings(verify(store)))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(8):
            compile_entry(store, entry.name)
            remove_record(store, entry.name, base().cache_tag)
            added(entry / "site-packages/demo_kit/__pycache__/x.cpython-38.pyc.1", a_file)
            replaced(entry / "site-packages/demo_kit/__pycache__/x.cpython-38.pyc.1", nothing)
    finally:
        stop.set()
        watcher.join()
    assert wrong == []


# Who may look, and at how much


def test_a_store_that_may_only_be_read_is_verified(tmp_path: Path, wheel: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs another user")
    open_up(tmp_path, wheel)
    store = Store.open(tmp_path / "store")
    entry = store.add(wheel).plan.reference.directory
    before = tree(store.root)
    sound = as_nobody(lambda: verify(Store.open(store.root, to_look=True)).sound)
    assert sound
    flip(Path(store.layout.of("entries", entry)) / SINGLE)
    found = as_nobody(lambda: findings(verify(Store.open(store.root, to_look=True))))
    assert found == [(f"entries/{entry}", "changed", SINGLE)]
    after = tree(store.root)
    assert {path for path in before | after if before.get(path) != after.get(path)} == {
        f"entries/{entry}/{SINGLE}"
    }


def test_root_leaves_nothing_in_the_store_of_an_ordinary_user(tmp_path: Path, wheel: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs another user")
    open_up(tmp_path, wheel)
    home = tmp_path / "nobody"
    home.mkdir()
    home.chmod(0o777)
    as_nobody(lambda: Store.open(home / "store").add(wheel).plan.reference.directory)
    store = Store.open(home / "store", to_look=True)
    before = owners(store)
    assert verify(store).sound
    assert run(["--store", store.root, "verify"]) == 0
    assert run(["--store", store.root, "verify", "--repair"]) == 21
    assert owners(store) == before


def open_up(folder: Path, wheel: Path) -> None:
    """Let everybody come through to a directory of the test's; load what he may not read from where it is."""
    warm = Store.open(folder / "warm")
    record = make_environment(warm, wheel)
    flip(Path(warm.layout.of("entries", record.wheels[0].directory)) / SINGLE)
    verify(warm, mend=True)
    sweep.collect(warm, EVERYTHING)
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)


def owners(store: Store) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.lstat().st_uid, path.lstat().st_mtime_ns) for path in Path(store.root).rglob("*")
    }


def test_a_sample_is_so_many_entries_and_each_has_its_turn(store: Store, entry: Path, other: Path) -> None:
    flip(entry / SINGLE)
    reports = [verify(store, sample=1) for _ in range(40)]
    assert {(report.entries, report.unread) for report in reports} == {(1, 1)}
    assert {report.sound for report in reports} == {True, False}
    everything = verify(store, sample=9)
    assert (everything.entries, everything.unread) == (2, 0)
    assert other.is_dir()


def test_without_time_nothing_is_read_and_that_is_said(store: Store, entry: Path, other: Path) -> None:
    flip(entry / SINGLE)
    report = verify(store, max_seconds=0)
    assert (report.entries, report.unread, report.read, report.sound) == (0, 2, 0, True)
    assert verify(store, max_seconds=3600).unread == 0
    assert other.is_dir()


def test_time_that_runs_out_within_an_entry_leaves_that_entry_unread(store: Store, entry: Path) -> None:
    answers = iter([False, False, True])
    report = check_entry(store, entry.name, full=True, stopped=lambda: next(answers, True))
    sizes = {path.stat().st_size for path in entry.rglob("*") if path.is_file()}
    assert 0 <= report.read <= 2 * max(sizes)
    assert report.problems == ()


@pytest.mark.parametrize("target", ["", "/", "nothing", "../entries"])
def test_a_target_that_is_nothing_is_refused(store: Store, entry: Path, target: str) -> None:
    with pytest.raises(UsageError) as caught:
        verify(store, [target])
    assert caught.value.kind == "target-unknown"
    assert entry.is_dir()


def test_targets_are_paths_names_and_beginnings_each_once(store: Store, entry: Path, wheel: Path) -> None:
    record = make_environment(store, wheel)
    by_path = verify(store, [str(entry), f"{entry}/", entry.name, entry.name[:6]])
    assert (by_path.entries, by_path.environments) == (1, 0)
    environment = verify(store, [record.directory[:6]])
    assert (environment.entries, environment.environments) == (0, 1)


# While others are at work


def test_an_entry_that_vanishes_is_no_damage(
    store: Store, entry: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = store.manifest

    def vanishing(self: Store, directory: str) -> Any:
        found = looked(directory)
        if directory == entry.name:
            fs.remove_tree(str(entry))
        return found

    monkeypatch.setattr(Store, "manifest", vanishing)
    report = verify(store)
    assert (findings(report), report.entries) == ([], 1)
    assert other.is_dir()


def test_what_goes_while_it_is_looked_at_is_not_there(
    store: Store, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pyc on its way to its name; and the rest of the entry is looked at all the same."""
    cache = entry / "site-packages/demo_kit/__pycache__"
    added(cache / "a.cpython-38.pyc.1", a_file)
    added(cache / "b.cpython-38.pyc", a_file)
    added(entry / "data/share/__pycache__", a_directory)
    flip(entry / SINGLE)
    seen = verifying._seen

    def vanishing(child: os.DirEntry[str]) -> verifying.Seen:
        if child.name.endswith(".1"):
            os.unlink(child.path)
        found = seen(child)
        if child.path.endswith("share/__pycache__"):
            os.rmdir(child.path)
        return found

    monkeypatch.setattr(verifying, "_seen", vanishing)
    report = verify(store)
    assert findings(report) == [(f"entries/{entry.name}", "changed", SINGLE)]
    assert report.written == {entry.name: ("site-packages/demo_kit/__pycache__/b.cpython-38.pyc",)}


@pytest.mark.parametrize("make", [os.mkfifo, a_twin, nothing], ids=["FIFO", "link", "nothing"])
def test_what_takes_the_place_of_a_file_after_it_was_looked_at_is_not_waited_for(
    store: Store, entry: Path, monkeypatch: pytest.MonkeyPatch, make: Corruption
) -> None:
    looked = verifying.look

    def swapping(root: str) -> dict[str, verifying.Seen]:
        found = looked(root)
        replaced(entry / SINGLE, make)
        return found

    monkeypatch.setattr(verifying, "look", swapping)
    reports: list[VerifyReport] = []
    reading = threading.Thread(target=lambda: reports.append(verify(store)), daemon=True)
    reading.start()
    reading.join(60)
    assert [findings(report)[0][2] for report in reports] == [SINGLE]


def test_gc_leaves_what_is_being_verified(store: Store, entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time.sleep(0.01)
    collected: list[str] = []
    looked = store.manifest

    def collecting(self: Store, directory: str) -> Any:
        collected.extend(sweep.collect(store, EVERYTHING).entries)
        return looked(directory)

    monkeypatch.setattr(Store, "manifest", collecting)
    assert (verify(store).entries, collected) == (1, [])
    monkeypatch.undo()
    assert sweep.collect(store, EVERYTHING).entries == (entry.name,)
    assert leases.read(store.layout) == []


@pytest.mark.slow
def test_collections_meanwhile_are_no_damage(store: Store, tmp_path: Path) -> None:
    wheels = [build_wheel(WheelSpec(name=f"w{number}"), tmp_path) for number in range(4)]
    stop = threading.Event()
    wrong: list[tuple[str, str, str]] = []

    def look() -> None:
        while not stop.is_set():
            wrong.extend(findings(verify(Store.open(store.root, to_look=True))))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(15):
            make_environment(store, *wheels)
            time.sleep(0.01)
            sweep.collect(store, EVERYTHING)
    finally:
        stop.set()
        watcher.join()
    assert wrong == []


# The command


@pytest.fixture
def _home(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRFSTORE_HOME", store.root)


@pytest.mark.usefixtures("_home")
def test_the_command_ends_with_17_and_says_what_and_what_to_do(
    entry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify"]) == 0
    assert "all is well\n" in capsys.readouterr().out
    flip(entry / SINGLE)
    assert run(["verify", "--quick"]) == 0
    capsys.readouterr()
    assert run(["verify", "--full"]) == 17
    out = capsys.readouterr().out
    assert f"damaged: entries/{entry.name}: {SINGLE} has other bytes than were published\n" in out
    assert f"vrfstore verify --repair {entry.name}\n" in out
    assert run(["verify", "--repair"]) == 0
    out = capsys.readouterr().out
    assert f"mended: entries/{entry.name}: {SINGLE} has" in out
    assert "all is well again\n" in out
    assert run(["verify"]) == 0


@pytest.mark.usefixtures("_home")
def test_json_is_one_object_with_everything(entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(entry / SINGLE)
    added(entry / "site-packages/__pycache__/single.cpython-38.pyc", a_file)
    assert run(["verify", "--json"]) == 17
    out, err = capsys.readouterr()
    assert err == ""
    value = json.loads(out)
    seconds = value.pop("seconds")
    assert seconds >= 0
    assert value.pop("bytes_read") > 0
    assert value == {
        "schema_version": 1,
        "status": "damaged",
        "entries": 1,
        "entries_unread": 0,
        "environments": 0,
        "problems": [
            {
                "place": f"entries/{entry.name}",
                "kind": "changed",
                "path": SINGLE,
                "message": f"{SINGLE} has other bytes than were published",
                "mended": False,
                "hint": f"mend it with: vrfstore verify --repair {entry.name}",
            }
        ],
        "written_by_interpreters": {entry.name: ["site-packages/__pycache__/single.cpython-38.pyc"]},
    }
    assert run(["verify", "--json", "--repair"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["status"], again["problems"][0]["mended"]) == ("done", True)


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--quick", "--full"],
        ["--from", "."],
        ["--repair", "--from", "not-there"],
        ["--sample", "0"],
        ["--sample", "some"],
        ["--max-seconds", "-1"],
        ["no-such-entry"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_a_usage_error(arguments: list[str]) -> None:
    assert run(["verify", *arguments]) == 2


@pytest.mark.usefixtures("_home")
def test_many_problems_are_shown_in_part(entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(60):
        added(entry / f"more{number}", a_file)
    assert run(["verify"]) == 17
    out = capsys.readouterr().out
    assert out.count("damaged: ") == 50
    assert "and 10 more; see --json\n" in out
    assert out.endswith("60 problems left\n")
