"""Export and import: what one store had, another has, whoever and wherever; and what goes wrong leaves nothing half."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from support.crash import (
    NOBODY,
    as_nobody,
    base,
    each_kill,
    litter,
    make_environment,
    together,
    tree,
    wheel_digest,
)
from support.index import Index
from support.pythons import pythons
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs, interpreter
from vrfstore.cli import render
from vrfstore.cli.running import run
from vrfstore.errors import PackageIndexError, StoreDamagedError, UsageError, VrfstoreError, WheelError
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.linker import link as linking
from vrfstore.model import Digest, Event, Lock, LockedWheel
from vrfstore.requirements import lock as locks
from vrfstore.runner.exporting import export_archive
from vrfstore.runner.importing import import_archive
from vrfstore.runner.link import link
from vrfstore.runner.verify import verify
from vrfstore.store import archive, archive_write, leases
from vrfstore.store.archive_contents import Target
from vrfstore.store.archive_read import ArchiveLimits
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

PEAR = WheelSpec(
    name="pear",
    files={
        "pear/__init__.py": "import apple\n\ndef run():\n    print('pear', apple.name)\n",
        "space/one.py": "",
    },
    data={
        "scripts/tool": "#!python\nprint('tool')\n",
        "data/etc/pear.conf": "x",
        "headers/pear.h": "#pragma",
    },
    entry_points={"console_scripts": {"pear": "pear:run"}},
    requires=["apple"],
)
APPLE = WheelSpec(name="apple", files={"apple.py": "name = 'apple'\n", "space/two.py": ""})
LEFTOVERS_ONLY = Policy(max_age=3600, grace=3600)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.fixture
def wheels(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return build_wheel(PEAR, folder), build_wheel(APPLE, folder)


@pytest.fixture
def environment(store: Store, wheels: tuple[Path, Path]) -> EnvironmentRecord:
    return linked(store, *wheels)


@pytest.fixture
def exported(store: Store, environment: EnvironmentRecord, tmp_path: Path) -> Path:
    """The archive of an environment."""
    path = tmp_path / "pear.tar.zst"
    export_archive([environment.directory], str(path), store=store)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "some where" / "else" / "store")


def linked(store: Store, *wheels: Path) -> EnvironmentRecord:
    """Link some wheels, with the lock that they have."""
    found = []
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        found.append(
            LockedWheel(
                name=name,
                version=version,
                filename=wheel.name,
                digest=wheel_digest(wheel),
                url=f"file://{wheel}",
            )
        )
    lock = Lock(wheels=tuple(sorted(found, key=lambda wheel: wheel.name)), python=base().short_version)
    with store.session() as lease:
        digest = locks.write(store.layout, lease, lock)
    return make_environment(store, *wheels, lock=digest)


def said(python: str | None, *words: str) -> str:
    assert python is not None
    done = subprocess.run([python, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def environment_tree(store: Store, directory: str) -> dict[str, tuple[str, bytes]]:
    """An environment without its record, which has inodes and times, without bytecode and its own path."""
    found = tree(store.layout.of("environments", directory), without=("vrfstore.json",))
    here = store.root.encode()
    return {
        place: (mode, content.replace(here, b"STORE"))
        for place, (mode, content) in found.items()
        if "__pycache__" not in place
    }


# What arrives.


def test_many_entries_large_and_small(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    """More than wait to be published at a time, and more bytes than one core packs at a time."""
    data = hashlib.shake_256(b"seed").digest(20_000_000)
    specs = [WheelSpec(name=f"number{number}") for number in range(15)]
    specs.append(WheelSpec(name="large", files={"large.bin": data, "large.py": ""}))
    record = linked(store, *(build_wheel(spec, tmp_path) for spec in specs))
    archives = []
    for threads in (1, 2):
        archives.append(tmp_path / f"{threads}")
        export_archive([record.directory], str(archives[-1]), store=store, threads=threads)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    result = import_archive(str(archives[0]), store=elsewhere, trust=True)
    assert len(result.entries) == len(elsewhere.entries()) == 16
    assert os.path.basename(result.environments[0].environment or "") == record.key
    assert verify(elsewhere).findings == ()


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("trust", [False, True])
def test_an_environment_is_linked_elsewhere_without_network_and_works(
    store: Store, environment: EnvironmentRecord, exported: Path, elsewhere: Store, *, trust: bool
) -> None:
    result = import_archive(str(exported), store=elsewhere, trust=trust)
    shutil.rmtree(store.root, onerror=lambda _, path, __: _unlock(path))
    (made,) = result.environments
    assert made.status == "linked"
    assert made.python == f"{made.environment}/bin/python"
    assert result.warnings == ()
    assert said(made.python, "-c", "import pear; pear.run()") == "pear apple"
    assert said(f"{made.environment}/bin/pear") == "pear apple"
    assert said(f"{made.environment}/bin/tool") == "tool"
    assert said(made.python, "-c", "import space.one, space.two; print(1)") == "1"
    assert (
        Path(made.lock or "").read_bytes()
        == (Path(elsewhere.root) / "locks" / f"{environment.lock}.toml").read_bytes()
    )
    assert {bool(entry.plan.claimed) for entry in result.entries} == {not trust}
    # What is proven is what any link of these wheels gets; what is claimed is not.
    assert (os.path.basename(made.environment or "") == environment.key) is trust
    assert litter(elsewhere) == []
    assert verify(elsewhere).findings == ()


def _unlock(path: str) -> None:
    os.chmod(os.path.dirname(path), 0o700)
    (os.rmdir if os.path.isdir(path) else os.unlink)(path)


def test_the_second_import_finds_everything_there(exported: Path, elsewhere: Store) -> None:
    first = import_archive(str(exported), store=elsewhere)
    before = tree(elsewhere.root, without=("interpreters",))
    second = import_archive(str(exported), store=elsewhere)
    assert [entry.new for entry in first.entries + second.entries] == [True, True, False, False]
    assert [made.status for made in first.environments + second.environments] == ["linked", "hit"]
    assert first.environments[0].python == second.environments[0].python
    assert tree(elsewhere.root, without=("interpreters",)) == before


def test_an_environment_that_arrives_is_the_one_that_left(
    store: Store, environment: EnvironmentRecord, exported: Path, elsewhere: Store
) -> None:
    made = import_archive(str(exported), store=elsewhere, trust=True).environments[0]
    directory = os.path.basename(made.environment or "")
    assert environment_tree(elsewhere, directory) == environment_tree(store, environment.directory)
    # And goes on from there as the very same bytes.
    again = exported.with_name("again.tar.zst")
    export_archive([directory], str(again), store=elsewhere)
    assert again.read_bytes() == exported.read_bytes()


def test_what_only_an_archive_says_leaves_with_a_warning(exported: Path, elsewhere: Store) -> None:
    import_archive(str(exported), store=elsewhere)
    again = exported.with_name("again.tar.zst")
    result = export_archive(elsewhere.environments(), str(again), store=elsewhere)
    assert again.read_bytes() == exported.read_bytes()
    assert len(result.warnings) == 2
    assert all("nobody vouched for" in warning for warning in result.warnings)


def test_the_same_input_gives_the_same_bytes(
    store: Store, environment: EnvironmentRecord, exported: Path, tmp_path: Path, wheels: tuple[Path, Path]
) -> None:
    expected = exported.read_bytes()
    entries = store.entries()
    for number, (threads, targets) in enumerate(
        [
            (1, [environment.directory]),
            (2, [environment.directory[:8]] * 2),
            (5, [*entries, environment.directory]),
        ]
    ):
        path = tmp_path / f"{number}"
        result = export_archive(targets, str(path), store=store, threads=threads)
        assert path.read_bytes() == expected
        assert (result.sha256, result.packed) == (hashlib.sha256(expected).hexdigest(), len(expected))
    # At another time, from wheels elsewhere, at another path: what differs is the path in the lock.
    other = Store.open(tmp_path / "other")
    record = linked(other, *reversed(wheels))
    export_archive([record.directory], str(tmp_path / "other.tar.zst"), store=other)
    assert (tmp_path / "other.tar.zst").read_bytes() == expected


def test_entries_alone(
    store: Store, environment: EnvironmentRecord, elsewhere: Store, tmp_path: Path
) -> None:
    entry = next(wheel.directory for wheel in environment.wheels if wheel.name == "apple")
    result = export_archive([store.layout.of("entries", entry)], str(tmp_path / "x"), store=store)
    assert ([wheel.name for wheel in result.entries], result.environments) == (["apple"], ())
    imported = import_archive(str(tmp_path / "x"), store=elsewhere)
    assert ([item.plan.reference.name for item in imported.entries], imported.environments) == (["apple"], ())


def test_wheels_themselves_prove_what_they_are(
    store: Store, environment: EnvironmentRecord, elsewhere: Store, tmp_path: Path
) -> None:
    export_archive([environment.directory], str(tmp_path / "x"), store=store, wheels=True)
    result = import_archive(str(tmp_path / "x"), store=elsewhere)
    assert [bool(entry.plan.claimed) for entry in result.entries] == [False, False]
    assert os.path.basename(result.environments[0].environment or "") == environment.key
    assert said(result.environments[0].python, "-c", "import pear; pear.run()") == "pear apple"
    assert [entry.new for entry in import_archive(str(tmp_path / "x"), store=elsewhere).entries] == [
        False,
        False,
    ]


def test_wheels_are_looked_for_where_one_says(
    store: Store, environment: EnvironmentRecord, wheels: tuple[Path, Path], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    wheels[0].parent.rename(moved)
    output = tmp_path / "x"
    with pytest.raises(UsageError, match="not to be found") as refusal:
        export_archive([environment.directory], str(output), store=store, wheels=True)
    assert refusal.value.kind == "wheel-missing"
    assert not output.exists()
    (moved / wheels[0].name).write_bytes(b"another file of this name")
    with pytest.raises(UsageError, match=wheels[0].name):
        export_archive([environment.directory], str(output), store=store, wheel_directories=[str(moved)])
    build_wheel(PEAR, moved)
    assert export_archive(
        [environment.directory], str(output), store=store, wheel_directories=[str(moved)]
    ).packed


def test_wheels_are_fetched_again_from_where_they_came_from(
    store: Store, elsewhere: Store, index: Index, tmp_path: Path
) -> None:
    index.add(APPLE)
    (tmp_path / "requirements.vrf").write_text("apple\n")
    made = link(tmp_path / "requirements.vrf", store=store)
    export_archive([made.environment], str(tmp_path / "x"), store=store, wheels=True)
    assert litter(store) == []
    result = import_archive(str(tmp_path / "x"), store=elsewhere)
    assert [bool(entry.plan.claimed) for entry in result.entries] == [False]
    index.corrupt("apple-1.0-py3-none-any.whl")
    with pytest.raises(UsageError, match="not to be found"):
        export_archive([made.environment], str(tmp_path / "y"), store=store, wheels=True)
    index.status["/files"] = 404
    with pytest.raises(PackageIndexError):
        export_archive([made.environment], str(tmp_path / "y"), store=store, wheels=True)
    assert not (tmp_path / "y").exists()
    assert litter(store) == []


@root_only
def test_another_user_imports_at_another_path_for_another_python(exported: Path) -> None:
    target = Target.of(base().identity)
    found = pythons()
    startable = as_nobody(lambda: [path for path in found if os.access(os.path.realpath(path), os.X_OK)])
    matching = [path for path in startable if Target.of(interpreter.probe(path).identity) == target]
    if not matching:
        pytest.skip("no python of this version that everybody may start")
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, NOBODY, NOBODY)
        data = exported.read_bytes()

        def use() -> tuple[str, str, list[str]]:
            copy = Path(name, "given.tar.zst")
            copy.write_bytes(data)
            theirs = Store.open(f"{name}/store")
            result = import_archive(str(copy), store=theirs, python=matching[0])
            made = result.environments[0]
            return made.status, said(made.python, "-c", "import pear; pear.run()"), litter(theirs)

        assert as_nobody(use) == ("linked", "pear apple", [])


# What is not linked, and why.


@pytest.mark.parametrize("field", ["implementation", "version", "cache_tag", "abi_flags", "platform"])
def test_for_another_interpreter_entries_come_and_a_warning(
    exported: Path, elsewhere: Store, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    changes: dict[str, Any] = {field: "3.99.1" if field == "version" else "other"}
    other = replace(base(), **changes)
    monkeypatch.setattr("vrfstore.store.interpreters.known", lambda *_: (other, None))
    result = import_archive(str(exported), store=elsewhere)
    assert [(made.status, made.kind) for made in result.environments] == [("skipped", "interpreter-mismatch")]
    assert f"--python {base().short_version}" in result.warnings[0]
    assert [entry.new for entry in result.entries] == [True, True]
    assert elsewhere.environments() == []


def test_another_patch_release_will_do(
    exported: Path, elsewhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(base(), version=f"{base().short_version}.99")
    monkeypatch.setattr("vrfstore.store.interpreters.known", lambda *_: (other, None))
    assert import_archive(str(exported), store=elsewhere).environments[0].status == "linked"


def test_a_wheel_that_this_machine_cannot_run_is_not_linked(
    store: Store, elsewhere: Store, tmp_path: Path
) -> None:
    record = linked(store, build_wheel(replace(APPLE, tag="cp311-cp311-manylinux_9_99_x86_64"), tmp_path))
    export_archive([record.directory], str(tmp_path / "x"), store=store)
    result = import_archive(str(tmp_path / "x"), store=elsewhere)
    assert [(made.status, made.kind) for made in result.environments] == [("skipped", "wheel-unsupported")]
    assert "apple" in result.warnings[0]


def test_what_the_base_lacks_is_said(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    requires = [
        "nowhere-to-be-found>=2",
        "not-here; python_version < '3'",
        "apple>=1",
        "extra-only; extra == 'more'",
    ]
    spec = replace(PEAR, requires=requires, extras={"more": ["also-not"]})
    record = linked(store, build_wheel(spec, tmp_path), build_wheel(APPLE, tmp_path))
    export_archive([record.directory], str(tmp_path / "x"), store=store)
    result = import_archive(str(tmp_path / "x"), store=elsewhere)
    assert result.environments[0].status == "linked"
    assert [warning.split()[4] for warning in result.warnings] == ["nowhere-to-be-found>=2,"]


def test_without_link_there_is_no_environment(exported: Path, elsewhere: Store) -> None:
    result = import_archive(str(exported), store=elsewhere, link=False)
    assert [(made.status, made.kind) for made in result.environments] == [("skipped", "not-wanted")]
    assert (elsewhere.environments(), result.warnings) == ([], ())


# What is refused.


def test_a_damaged_entry_is_not_exported(
    store: Store, environment: EnvironmentRecord, tmp_path: Path
) -> None:
    output = tmp_path / "x.tar.zst"
    entry = next(wheel.directory for wheel in environment.wheels if wheel.name == "apple")
    victim = Path(store.layout.of("entries", entry), "site-packages/apple.py")
    good = victim.read_bytes()

    def attempt() -> VrfstoreError:
        with pytest.raises(StoreDamagedError, match=r"apple\.py") as refusal:
            export_archive([environment.directory], str(output), store=store)
        assert list(tmp_path.glob("x*")) == []
        return refusal.value

    os.chmod(victim.parent, 0o700)
    for bad in (good[:-1] + b"#", good[:-1], good + b"x"):
        os.chmod(victim, 0o644)
        victim.write_bytes(bad)
        assert attempt().exit_code == 17
    victim.unlink()
    assert attempt().exit_code == 17
    victim.symlink_to("/etc/hostname")
    assert attempt().exit_code == 17
    victim.unlink()
    victim.mkdir()
    assert attempt().exit_code == 17
    assert litter(store) == []


def test_an_environment_without_its_lock_is_not_exported(
    store: Store, environment: EnvironmentRecord, tmp_path: Path
) -> None:
    path = Path(store.layout.lock(environment.lock))
    for change in (lambda: path.write_bytes(b"x"), path.unlink):
        change()
        with pytest.raises(StoreDamagedError, match="lock") as refusal:
            export_archive([environment.directory], str(tmp_path / "x"), store=store)
        assert refusal.value.kind == "lock-damaged"


def test_targets_that_are_nothing_or_several_things(
    store: Store, environment: EnvironmentRecord, tmp_path: Path
) -> None:
    for target in ("nothing", "", "/"):
        with pytest.raises(UsageError, match="not in the store"):
            export_archive([target], str(tmp_path / "x"), store=store)
    make_environment(
        store, *(build_wheel(replace(APPLE, version=f"{number}"), tmp_path) for number in range(17))
    )
    first = [name[:1] for name in store.entries()]
    shared = next(letter for letter in first if first.count(letter) > 1)
    with pytest.raises(UsageError, match="may be any of"):
        export_archive([shared], str(tmp_path / "x"), store=store)


def test_a_file_that_is_there_stays_unless_one_insists(
    store: Store, environment: EnvironmentRecord, exported: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for make in (lambda: other.write_text("precious"), lambda: other.symlink_to("nowhere"), other.mkdir):
        make()
        with pytest.raises(UsageError, match=r"there already|no regular file") as refusal:
            export_archive([environment.directory], str(other), store=store)
        assert refusal.value.kind == "output-exists"
        (other.rmdir if other.is_dir() else other.unlink)()
    other.write_text("not so precious")
    export_archive([environment.directory], str(other), store=store, force=True)
    assert other.read_bytes() == exported.read_bytes()
    with pytest.raises(UsageError, match="cannot be written") as refusal:
        export_archive([environment.directory], str(tmp_path / "no/where"), store=store)
    assert refusal.value.kind == "output-unwritable"


def test_one_wheel_with_two_trees_does_not_go_into_one_archive(store: Store, tmp_path: Path) -> None:
    wheel = build_wheel(APPLE, tmp_path)
    forger = Store.open(tmp_path / "forger")
    entry = forger.add(wheel).plan.reference.directory
    forge(forger, entry, "site-packages/apple.py", b"import evil\n")
    export_archive([entry], str(tmp_path / "forged"), store=forger)
    import_archive(str(tmp_path / "forged"), store=store)
    store.add(wheel)
    with pytest.raises(UsageError, match="same wheel with other files") as refusal:
        export_archive(store.entries(), str(tmp_path / "x"), store=store)
    assert refusal.value.kind == "archive-conflict"


def forge(store: Store, entry: str, place: str, data: bytes) -> None:
    """Change a file of an entry, and its manifest with it."""
    root = Path(store.layout.of("entries", entry))
    manifest = store.manifest(entry)
    files = tuple(
        replace(file, size=len(data), sha256=hashlib.sha256(data).hexdigest()) if file.path == place else file
        for file in manifest.files
    )
    for path, content in (
        (root / place, data),
        (root / "manifest.json", json.dumps(replace(manifest, files=files).to_json()).encode()),
    ):
        os.chmod(path, 0o644)
        path.write_bytes(content)


def test_a_lock_that_is_not_that_of_the_environment_is_refused(
    store: Store, environment: EnvironmentRecord, elsewhere: Store, tmp_path: Path
) -> None:
    for text, words in (
        (b"x", "not a lock"),
        (b"a = " + b"[" * 5000, "cannot be read"),
        (b"\xff", "cannot be read"),
        (locks.dumps(Lock(wheels=(), python="3.11")).encode(), "not the lock of its environment"),
    ):
        digest = hashlib.sha256(text).hexdigest()
        Path(store.layout.lock(digest)).write_bytes(text)
        path = store.layout.record(environment.directory)
        record = json.loads(Path(path).read_bytes()) | {"lock": digest}
        Path(path).write_bytes(json.dumps(record).encode())
        export_archive([environment.directory], str(tmp_path / "x"), store=store, force=True)
        with pytest.raises(WheelError, match=words) as refusal:
            import_archive(str(tmp_path / "x"), store=elsewhere)
        assert (refusal.value.kind, refusal.value.path) == ("archive-lock", str(tmp_path / "x"))
        assert elsewhere.entries() == os.listdir(elsewhere.layout.of("locks")) == litter(elsewhere) == []


def test_another_lock_than_it_is_called_after_is_refused(
    exported: Path, elsewhere: Store, environment: EnvironmentRecord
) -> None:
    tar = zstandard.ZstdDecompressor().decompress(exported.read_bytes())
    changed = tar.replace(b"created-by", b"created_by")
    assert changed != tar
    packer = zstandard.ZstdCompressor(compression_params=archive.compression(1))
    exported.write_bytes(packer.compress(changed))
    with pytest.raises(WheelError, match="called after") as refusal:
        import_archive(str(exported), store=elsewhere)
    assert (refusal.value.kind, refusal.value.member) == (
        "archive-mismatch",
        f"locks/{environment.lock}.toml",
    )
    assert elsewhere.entries() == []


def test_an_entry_that_no_store_would_take_is_not_exported(
    store: Store, environment: EnvironmentRecord, tmp_path: Path
) -> None:
    entry = environment.wheels[0].directory
    manifest = store.manifest(entry)
    stray = replace(manifest.files[0], path="site-packages/__pycache__/x.pyc")
    path = Path(store.layout.of("entries", entry), "manifest.json")
    path.chmod(0o644)
    path.write_bytes(json.dumps(replace(manifest, files=(*manifest.files, stray)).to_json()).encode())
    with pytest.raises(StoreDamagedError, match="is bytecode") as refusal:
        export_archive([entry], str(tmp_path / "x"), store=store)
    assert refusal.value.path == str(path)


@pytest.mark.parametrize("change", [b"other bytes after", b""])
def test_a_wheel_that_changes_while_it_is_read_is_no_archive(
    store: Store,
    environment: EnvironmentRecord,
    wheels: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: bytes,
) -> None:
    def late(*arguments: Any, **options: Any) -> Any:
        data = wheels[1].read_bytes()
        wheels[1].write_bytes(data + change if change else data[::-1])
        return archive_write.write(*arguments, **options)

    monkeypatch.setattr("vrfstore.runner.exporting.write", late)
    with pytest.raises(WheelError, match="changed while") as refusal:
        export_archive([environment.directory], str(tmp_path / "x"), store=store, wheels=True)
    assert refusal.value.path == str(wheels[1])
    assert list(tmp_path.glob("x*")) == []


@pytest.mark.parametrize("part", ["environments", "entries"])
def test_what_goes_before_it_is_leased_is_not_exported(
    store: Store, environment: EnvironmentRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    target = environment.directory if part == "environments" else environment.wheels[0].directory
    original = leases.take

    def late(*arguments: Any, **options: Any) -> leases.Lease:
        monkeypatch.undo()
        time.sleep(0.01)
        sweep.collect(store, Policy(max_age=0, grace=0))
        return original(*arguments, **options)

    monkeypatch.setattr("vrfstore.store.leases.take", late)
    with pytest.raises(UsageError, match="just been collected"):
        export_archive([target], str(tmp_path / "x"), store=store)


def test_an_environment_changed_by_hand_leaves_with_a_warning(
    store: Store, environment: EnvironmentRecord, exported: Path, tmp_path: Path
) -> None:
    Path(store.layout.of("environments", environment.directory), "bin/mine").write_text("")
    result = export_archive([environment.directory], str(tmp_path / "x"), store=store)
    assert "by hand" in result.warnings[0]
    assert (tmp_path / "x").read_bytes() == exported.read_bytes()


# Interruptions.


@dataclass
class Attempt:
    store: Store
    archive: str


@pytest.mark.slow
@pytest.mark.parametrize("how", ["trees", "wheels", "sha256"])
def test_an_import_killed_anywhere_is_completed_by_the_next(store: Store, tmp_path: Path, how: str) -> None:
    archive = tmp_path / "pear.tar.zst"
    environment = linked(store, build_wheel(replace(APPLE, data={"scripts/x": "#!python"}), tmp_path))
    sha256 = export_archive([environment.directory], str(archive), store=store, wheels=how == "wheels").sha256
    options: dict[str, Any] = {"sha256": Digest(sha256)} if how == "sha256" else {}
    whole = Store.open(tmp_path / "whole")
    key = os.path.basename(
        import_archive(str(archive), store=whole, **options).environments[0].environment or ""
    )
    expected = tree(whole.layout.of("entries")), environment_tree(whole, key), tree(whole.layout.of("locks"))

    def prepare() -> Attempt:
        fs.remove_tree(str(tmp_path / "theirs"))
        theirs = Store.open(tmp_path / "theirs")
        # What the interpreter is is known already, or most of the time would go into asking it.
        for memo in Path(whole.layout.of("interpreters")).glob("*.json"):
            shutil.copy(memo, theirs.layout.of("interpreters"))
        return Attempt(theirs, str(archive))

    def action(attempt: Attempt) -> None:
        import_archive(attempt.archive, store=attempt.store, **options)

    points = 0
    for point, attempt in each_kill(prepare, action):
        points = point
        theirs = attempt.store
        # What is there is whole, before anybody mends anything.
        for entry in theirs.entries():
            assert tree(theirs.layout.of("entries", entry)) == tree(whole.layout.of("entries", entry)), point
        result = import_archive(str(archive), store=theirs, **options)
        assert [os.path.basename(made.environment or "") for made in result.environments] == [key], point
        time.sleep(0.005)
        assert not sweep.collect(theirs, LEFTOVERS_ONLY).problems, point
        assert litter(theirs) == [], point
        assert verify(theirs).findings == (), point
        found = (
            tree(theirs.layout.of("entries")),
            environment_tree(theirs, key),
            tree(theirs.layout.of("locks")),
        )
        assert found == expected, point
    assert points > 50


@pytest.mark.slow
def test_an_export_killed_anywhere_leaves_no_archive_or_a_whole_one(
    store: Store, environment: EnvironmentRecord, exported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    output = folder / "x.tar.zst"

    def prepare() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return output

    points = 0
    for point, path in each_kill(
        prepare, lambda path: export_archive([environment.directory], str(path), store=store)
    ):
        points = point
        assert not path.exists() or path.read_bytes() == exported.read_bytes(), point
        assert {name.name for name in folder.glob("*") if name != path} == {
            name.name for name in folder.glob("x.tar.zst.*.part")
        }, point
        time.sleep(0.005)
        assert not sweep.collect(store, LEFTOVERS_ONLY).problems, point
        assert litter(store) == [], point
    assert points > 5


@pytest.mark.parametrize("effect", ["mkdir", "write", "symlink", "chmod", "sync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_fails_leaves_nothing_half_done(
    exported: Path, elsewhere: Store, monkeypatch: pytest.MonkeyPatch, effect: str, code: int
) -> None:
    whole = Store.open(elsewhere.root + "-whole")
    import_archive(str(exported), store=whole)

    def fail(name: str, path: str) -> None:
        if name == effect and "/entries" in path:
            raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(fs, "on_effect", fail)
    with pytest.raises(OSError, match=os.strerror(code)):
        import_archive(str(exported), store=elsewhere)
    # What came before it stays, whole.
    for entry in elsewhere.entries():
        assert tree(elsewhere.layout.of("entries", entry)) == tree(whole.layout.of("entries", entry))
    assert len(elsewhere.entries()) < 2
    assert (elsewhere.environments(), litter(elsewhere)) == ([], [])
    monkeypatch.setattr(fs, "on_effect", None)
    assert import_archive(str(exported), store=elsewhere).environments[0].status == "linked"


@pytest.mark.parametrize("effect", ["write", "link"])
def test_a_disk_that_fails_leaves_no_archive(
    store: Store, environment: EnvironmentRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effect: str
) -> None:
    def fail(name: str, path: str) -> None:
        if name == effect and "/x.tar.zst" in path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(fs, "on_effect", fail)
    with pytest.raises(OSError, match="No space"):
        export_archive([environment.directory], str(tmp_path / "x.tar.zst"), store=store)
    assert list(tmp_path.glob("x*")) == []
    assert litter(store) == []


def test_an_entry_that_is_refused_leaves_those_before_it(
    store: Store, environment: EnvironmentRecord, exported: Path, elsewhere: Store
) -> None:
    """apple comes before pear; pear's last file is cut off."""
    data = exported.read_bytes()
    cut = exported.with_name("cut.tar.zst")
    published = set()
    for length in range(len(data) - 5, 0, -97):
        cut.write_bytes(data[:length])
        with pytest.raises(WheelError):
            import_archive(str(cut), store=elsewhere)
        published |= set(elsewhere.entries())
        assert litter(elsewhere) == []
    assert import_archive(str(exported), store=elsewhere).environments[0].status == "linked"


@pytest.mark.usefixtures("_home")
def test_a_full_disk_has_its_exit_code(
    environment: EnvironmentRecord,
    exported: Path,
    elsewhere: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(name: str, path: str) -> None:
        if name == "write" and (path.startswith(elsewhere.layout.of("tmp")) or path.endswith(".part")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    words = ["import", str(exported), "--store", elsewhere.root, "--sha256", "0" * 64]
    monkeypatch.setattr(fs, "on_effect", fail)
    assert run(words) == 16
    assert run(["export", environment.directory, "-o", str(exported.with_name("x"))]) == 16
    assert "vrfstore gc" in capsys.readouterr().err
    monkeypatch.setattr(fs, "on_effect", None)
    assert litter(elsewhere) == []
    assert list(exported.parent.glob("x*")) == []


def test_who_waits_for_another_says_so(
    environment: EnvironmentRecord, exported: Path, elsewhere: Store
) -> None:
    said = []

    def watch(event: Event) -> None:
        said.append((event.kind, event.subject))
        if event.kind == "waiting":
            held.close()

    with ExitStack() as held:
        held.enter_context(elsewhere.hold_entry(environment.wheels[1].digest))
        import_archive(str(exported), store=elsewhere, watch=watch)
    assert ("waiting", "another vrfstore that makes pear-1.0-py3-none-any.whl") in said


def test_imports_at_the_same_time_make_everything_once(exported: Path, elsewhere: Store) -> None:
    def take() -> tuple[list[bool], list[str | None]]:
        result = import_archive(str(exported), store=elsewhere)
        return [entry.new for entry in result.entries], [made.python for made in result.environments]

    results = together(*[take] * 4)
    assert [sum(new[number] for new, _ in results) for number in range(2)] == [1, 1]
    assert len({made[0] for _, made in results}) == 1
    assert len(elsewhere.entries()) == 2
    assert len(elsewhere.environments()) == 1
    assert litter(elsewhere) == []


@pytest.mark.parametrize(
    "limits", [ArchiveLimits(unpacked=1_500_000), ArchiveLimits(files=9)], ids=["bytes", "files"]
)
def test_wheels_in_an_archive_share_its_limits(
    store: Store, elsewhere: Store, tmp_path: Path, limits: ArchiveLimits
) -> None:
    specs = [WheelSpec(name=name, files={f"{name}/x.bin": bytes(1_000_000)}) for name in ("first", "second")]
    entries = [store.add(build_wheel(spec, tmp_path)).plan.reference.directory for spec in specs]
    export_archive(entries, str(tmp_path / "x"), store=store, wheels=True)
    with pytest.raises(WheelError, match="second") as refusal:
        import_archive(str(tmp_path / "x"), store=elsewhere, limits=limits)
    assert (refusal.value.kind, refusal.value.path) == ("wheel-bomb", str(tmp_path / "x"))
    assert [elsewhere.plan(entry).reference.name for entry in elsewhere.entries()] == ["first"]
    assert litter(elsewhere) == []


# What is leased.


def test_what_is_exported_is_leased_meanwhile(
    store: Store, environment: EnvironmentRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def collect(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.01)
        seen.append(sweep.collect(store, Policy(max_age=0, grace=0)))
        return original(*arguments, **options)

    original = archive_write.write
    monkeypatch.setattr("vrfstore.runner.exporting.write", collect)
    export_archive([environment.directory], str(tmp_path / "x"), store=store)
    assert len(seen) == 1
    assert store.environments() == [environment.directory]
    sweep.collect(store, Policy(max_age=0, grace=0))
    assert store.environments() == []


def test_what_is_imported_is_leased_until_it_is_linked(
    exported: Path, elsewhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = linking.link

    def collect(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.01)
        sweep.collect(elsewhere, Policy(max_age=0, grace=0))
        return original(*arguments, **options)

    monkeypatch.setattr("vrfstore.runner.importing.link_environment", collect)
    made = import_archive(str(exported), store=elsewhere).environments[0]
    assert said(made.python, "-c", "import pear; pear.run()") == "pear apple"
    assert os.path.exists(made.lock or "")
    time.sleep(0.01)
    sweep.collect(elsewhere, Policy(max_age=3600, grace=0))
    assert len(elsewhere.entries()) == 2


# The command line.


@pytest.fixture
def _home(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setenv("VRFSTORE_HOME", store.root)


def vrfstore(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    words = (sys.executable, "-m", "vrfstore", *words)
    given: dict[str, Any] = {"stdout": subprocess.PIPE} | options
    return subprocess.run(words, stderr=subprocess.PIPE, check=False, **given)


@pytest.mark.usefixtures("_home")
def test_the_commands_say_what_they_did(
    store: Store,
    environment: EnvironmentRecord,
    elsewhere: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(tmp_path / "x.tar.zst")
    assert run(["export", environment.directory, "-o", path]) == 0
    out, err = capsys.readouterr()
    sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert out.startswith(f"sha256 {sha256}\n1 environment, 2 entries, ")
    assert err == ""
    assert run(["export", environment.directory, "-o", path, "--force", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema_version"], answer["status"], answer["sha256"]) == (
        render.SCHEMA_VERSION,
        "done",
        sha256,
    )
    assert [entry["name"] for entry in answer["entries"]] == ["apple", "pear"]
    assert answer["environments"] == [environment.directory]
    assert answer["bytes"]["packed"] == os.path.getsize(path) < answer["bytes"]["unpacked"]

    there = ["--store", elsewhere.root]
    assert run(["import", path, *there, "--sha256", sha256.upper(), "-q"]) == 0
    out, err = capsys.readouterr()
    assert said(out.strip(), "-c", "import pear; pear.run()") == "pear apple"
    assert err == ""
    assert run(["import", path, *there, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [(entry["name"], entry["new"], entry["claimed"]) for entry in answer["entries"]] == [
        ("apple", False, False), ("pear", False, False),
    ]  # fmt: skip
    assert [made["python"] for made in answer["environments"]] == [out.strip()]
    assert "warning:" not in err
    assert (answer["sha256"], answer["warnings"]) == (sha256, [])
    assert set(answer["timings_ms"]) == {"unpack", "link", "total"}

    assert run(["export", store.entries()[0], "-o", path, "--force"]) == 0
    capsys.readouterr()
    assert run(["import", path, *there]) == 0
    assert capsys.readouterr().out == f"{store.entries()[0]}  (was there)\n"


@pytest.mark.usefixtures("_home")
def test_the_commands_warn(
    store: Store,
    environment: EnvironmentRecord,
    exported: Path,
    elsewhere: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(store.layout.of("environments", environment.directory), "bin/mine").write_text("")
    assert run(["export", environment.directory, "-o", str(tmp_path / "x")]) == 0
    assert "by hand" in capsys.readouterr().err
    other = replace(base(), platform="other")
    monkeypatch.setattr("vrfstore.store.interpreters.known", lambda *_: (other, None))
    assert run(["import", str(exported), "--store", elsewhere.root]) == 0
    out, err = capsys.readouterr()
    assert (out, "not linked" in err) == ("", True)


@pytest.mark.usefixtures("_home")
def test_the_commands_refuse_with_their_codes(
    store: Store,
    environment: EnvironmentRecord,
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(exported)
    there = ["--store", str(tmp_path / "theirs")]
    for code, kind, words in (
        (2, "output-exists", ["export", environment.directory, "-o", path]),
        (2, "target-unknown", ["export", "x", "-o", path]),
        (2, "usage", ["export", environment.directory]),
        (2, "usage", ["export", environment.directory, "-o", "-"]),
        (2, "usage", ["import", path, "--trust", "--sha256", "0" * 64, *there]),
        (2, "bad-digest", ["import", path, "--sha256", "x", *there]),
        (18, "hash-mismatch", ["import", path, "--sha256", "0" * 64, *there]),
        (18, "archive-limit", ["import", path, "--max-unpacked", "1k", *there]),
        (18, "archive-limit", ["import", path, "--max-packed", "10", *there]),
        (18, "archive-limit", ["import", path, "--max-files", "1", *there]),
        (18, "archive-unreadable", ["import", str(tmp_path / "missing"), *there]),
        (22, "interpreter-missing", ["import", path, "--python", "/nowhere", *there]),
    ):
        assert run([*words, "--json"]) == code, words
        assert json.loads(capsys.readouterr().out)["error"]["kind"] == kind, words
    assert Store.open(tmp_path / "theirs").entries() == []


def test_an_archive_goes_through_a_pipe(
    store: Store, environment: EnvironmentRecord, exported: Path, elsewhere: Store
) -> None:
    done = vrfstore("--store", store.root, "export", environment.directory, "-o", "-")
    assert (done.returncode, done.stdout) == (0, exported.read_bytes())
    assert done.stderr.startswith(b"sha256 ")
    sha256 = hashlib.sha256(done.stdout).hexdigest()
    for options in ([], ["--sha256", sha256]):
        got = vrfstore("--store", elsewhere.root, "import", "-", *options, input=done.stdout)
        assert got.returncode == 0, got.stderr
        assert said(got.stdout.decode().strip(), "-c", "import pear; pear.run()") == "pear apple"
    cut = vrfstore("--store", elsewhere.root, "import", "-", input=done.stdout[:-1])
    assert cut.returncode == 18
    assert b"cut off" in cut.stderr


def test_a_stdout_that_is_full_is_a_full_disk(store: Store, environment: EnvironmentRecord) -> None:
    with open("/dev/full", "wb") as full:
        done = vrfstore("--store", store.root, "export", environment.directory, "-o", "-", stdout=full)
    assert done.returncode == 16
    assert b"No space" in done.stderr
    assert litter(store) == []
