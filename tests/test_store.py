"""The handle on a store: what it opens and refuses, and that a wheel becomes one entry however many add it."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.crash import (
    NOBODY,
    as_nobody,
    base,
    dangling,
    litter,
    make_environment,
    together,
    tree,
    wheel_digest,
)
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.errors import StoreDamagedError, StoreError, WheelError
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.model import Digest
from vrfstore.store import records
from vrfstore.store.layout import DIGEST_LENGTHS, SUBDIRECTORIES, entry_directory
from vrfstore.store.store import Store, default_root

SPECS = [WheelSpec(name=name) for name in ("one", "two", "three")]


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    """Some wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    return [build_wheel(spec, folder) for spec in SPECS]


@pytest.fixture
def wheel(wheels: list[Path]) -> Path:
    """One of them."""
    return wheels[0]


def identity(store: Store) -> str:
    return str(json.loads(Path(store.layout.marker).read_bytes())["id"])


def test_opening_makes_a_store_and_opening_again_changes_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "deep/store")
    assert set(os.listdir(store.root)) == {"store.json", *SUBDIRECTORIES}
    before = tree(store.root)
    assert Store.open(store.root).root == store.root
    assert tree(store.root) == before


def test_an_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert Store.open(tmp_path / "store").entries() == []


def test_a_missing_part_of_a_store_is_made_anew(store: Store) -> None:
    os.rmdir(store.layout.of("logs"))
    os.unlink(store.layout.of("gc", "spare"))
    before = tree(store.root)
    Store.open(store.root)
    assert tree(store.root).keys() - before.keys() == {"logs", "gc/spare"}


def test_processes_that_make_one_store_at_once_agree_what_it_is(tmp_path: Path) -> None:
    identities = together(*[lambda: identity(Store.open(tmp_path / "store"))] * 8)
    assert len(set(identities)) == 1
    assert identity(Store.open(tmp_path / "store")) == identities[0]
    assert litter(Store.open(tmp_path / "store")) == []


def is_foreign(root: Path) -> None:
    root.mkdir()
    (root / "thesis.txt").write_text("years of work")


def is_a_file(root: Path) -> None:
    root.write_text("")


def is_below_a_file(root: Path) -> None:
    root.parent.mkdir()
    (root.parent / "file").write_text("")
    root.symlink_to(root.parent / "file/store")


def has_marker(content: bytes) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        root.mkdir()
        (root / "store.json").write_bytes(content)

    return make


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "foreign": (is_foreign, "store-foreign"),
    "file": (is_a_file, "store-access"),
    "newer": (has_marker(b'{"format":999,"id":"x"}'), "store-format"),
    "other-format": (has_marker(b'{"format":"1","id":"x"}'), "store-format"),
    "empty-marker": (has_marker(b""), "store-format"),
    "torn-marker": (has_marker(b'{"format":1,'), "store-format"),
    "marker-not-text": (has_marker(b"\xff"), "store-format"),
    "marker-no-object": (has_marker(b"[1]"), "store-format"),
    "marker-no-format": (has_marker(b"{}"), "store-format"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_is_no_store_of_ours_is_refused_and_left_alone(tmp_path: Path, case: str) -> None:
    make, kind = UNUSABLE[case]
    root = tmp_path / "store"
    make(root)
    before = tree(tmp_path)
    with pytest.raises(StoreError) as caught:
        Store.open(root)
    assert (caught.value.exit_code, caught.value.kind) == (21, kind)
    assert caught.value.path in {str(root), str(root / "store.json")}
    assert caught.value.hint
    assert tree(tmp_path) == before


@pytest.mark.parametrize("part", ["store.json", "entries"])
def test_a_store_whose_parts_are_of_another_kind_is_refused(store: Store, part: str) -> None:
    path = Path(store.root, part)
    if path.is_dir():
        path.rmdir()
        path.touch()
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(StoreError):
        Store.open(store.root)


@pytest.mark.parametrize("below", ["file/store", "dangling/store"])
def test_a_store_that_cannot_be_made_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(StoreError) as caught:
        Store.open(tmp_path / below)
    assert (caught.value.exit_code, caught.value.kind) == (21, "store-access")


def test_the_store_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VRFSTORE_HOME", "here")
    assert default_root() == str(tmp_path / "here")
    assert Store.open().root == str(tmp_path / "here")
    monkeypatch.setenv("VRFSTORE_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_root() == str(tmp_path / "data/vrfstore")


def test_adding_twice_makes_one_entry(store: Store, wheel: Path) -> None:
    first, second = store.add(wheel), store.add(str(wheel))
    assert (first.new, second.new) == (True, False)
    assert first.plan == second.plan
    assert store.entries() == [first.plan.reference.directory]
    assert store.entry(wheel_digest(wheel), "one", "1.0") == first.plan


def test_an_entry_is_called_after_its_digest_name_and_version(store: Store, wheel: Path) -> None:
    assert store.add(wheel).plan.reference.directory == f"{wheel_digest(wheel)[:20]}-one-1.0"


def test_the_same_bytes_in_another_spelling_of_the_name_are_the_same_entry(
    store: Store, tmp_path: Path
) -> None:
    wheel = build_wheel(WheelSpec(name="some-name"), tmp_path)
    first = store.add(wheel)
    again = store.add(shutil.copy(wheel, tmp_path / "Some.Name-1.0-py3-none-any.whl"))
    assert (again.new, again.plan) == (False, first.plan)


def test_adding_leaves_the_wheel_alone(store: Store, wheel: Path) -> None:
    before = fs.stat_token(str(wheel))
    store.add(wheel)
    assert fs.stat_token(str(wheel)) == before
    assert litter(store) == []


def test_the_expected_digest_is_accepted_and_another_leaves_nothing(store: Store, wheel: Path) -> None:
    before = tree(store.root)
    with pytest.raises(WheelError) as caught:
        store.add(wheel, Digest("0" * 64))
    assert (caught.value.exit_code, caught.value.kind, caught.value.path) == (18, "hash-mismatch", str(wheel))
    assert tree(store.root) == before
    assert store.add(wheel, wheel_digest(wheel)).new


def test_a_wheel_that_cannot_be_read_leaves_nothing(store: Store, tmp_path: Path) -> None:
    before = tree(store.root)
    for path in (tmp_path / "absent-1.0-py3-none-any.whl", tmp_path):
        with pytest.raises(WheelError) as caught:
            store.add(path)
        assert (caught.value.kind, caught.value.path) == ("wheel-unreadable", str(path))
    assert tree(store.root) == before


@pytest.mark.parametrize("effect", ["mkdir", "write", "symlink", "chmod", "sync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_fails_leaves_nothing(
    store: Store, wheel: Path, monkeypatch: pytest.MonkeyPatch, effect: str, code: int
) -> None:
    before = tree(store.root, without=("holds",))

    def fail(name: str, path: str) -> None:
        if name == effect and "/entries" in path:
            raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(fs, "on_effect", fail)
    with pytest.raises(OSError, match=os.strerror(code)):
        store.add(wheel)
    assert tree(store.root, without=("holds",)) == before
    monkeypatch.setattr(fs, "on_effect", None)
    assert store.add(wheel).new


def test_an_entry_is_on_disk_before_it_is_published(
    store: Store, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effects = []
    monkeypatch.setattr(fs, "on_effect", lambda name, path: effects.append((name, path)))
    directory = store.layout.of("entries", store.add(wheel).plan.reference.directory)
    published = effects.index(("rename", directory))
    synced = effects.index(("sync", store.layout.of("entries")))
    staged = [
        number
        for number, (name, path) in enumerate(effects)
        if name in {"write", "symlink", "mkdir"} and "/.new-" in path
    ]
    assert max(staged) < synced < published


def occupied(store: Store, wheel: Path, *lengths: int) -> list[str]:
    """Give the shorter names of a wheel's entry to wheels of other digests."""
    taken = []
    for length in lengths:
        directory = entry_directory(wheel_digest(wheel), "one", "1.0", length=length)
        path = Path(store.layout.of("entries", directory))
        path.mkdir()
        other = store.add(wheel.parent / "two-1.0-py3-none-any.whl").plan.reference.directory
        plan = Path(store.layout.of("entries", other), "plan.json").read_text()
        (path / "plan.json").write_text(plan.replace(other, directory))
        taken.append(directory)
    return taken


@pytest.mark.parametrize("clashes", [1, 2, 3])
def test_a_clash_of_the_short_digest_gets_a_longer_one(
    store: Store, wheels: list[Path], clashes: int
) -> None:
    wheel = wheels[0]
    taken = occupied(store, wheel, *DIGEST_LENGTHS[:clashes])
    before = {name: tree(store.layout.of("entries", name)) for name in taken}
    added = store.add(wheel)
    length = DIGEST_LENGTHS[clashes]
    assert added.plan.reference.directory == f"{wheel_digest(wheel)[:length]}-one-1.0"
    assert store.entry(wheel_digest(wheel), "one", "1.0") == added.plan
    assert not store.add(wheel).new
    assert {name: tree(store.layout.of("entries", name)) for name in taken} == before
    record = make_environment(store, wheel)
    assert dangling(store.layout.of("environments", record.directory)) == []


@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "newer"])
def test_an_entry_whose_plan_cannot_be_read_is_damaged_not_absent(
    store: Store, wheel: Path, damage: str
) -> None:
    directory = store.add(wheel).plan.reference.directory
    path = Path(store.layout.of("entries", directory), "plan.json")
    content = path.read_bytes()
    path.parent.chmod(0o755)
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "torn": content[:-9], "newer": b'{"schema":9}'}[damage])
    for ask in (
        lambda: store.plan(directory),
        lambda: store.entry(wheel_digest(wheel), "one", "1.0"),
        lambda: store.add(wheel),
    ):
        with pytest.raises(StoreDamagedError) as caught:
            ask()
        assert (caught.value.exit_code, caught.value.path) == (17, str(path))


def test_an_entry_that_is_not_there_is_not_found(store: Store) -> None:
    assert store.entry(Digest("0" * 64), "one", "1.0") is None
    with pytest.raises(FileNotFoundError):
        store.plan("0" * 20)


def test_manifest_hashes_are_those_of_the_files(store: Store, wheel: Path) -> None:
    directory = store.add(wheel).plan.reference.directory
    hashes = store.manifest_hashes(directory)
    files = {path for path, _ in tree(store.layout.of("entries", directory)).items() if path in hashes}
    assert files == hashes.keys()
    path = Path(store.layout.of("entries", directory), "manifest.json")
    path.chmod(0o644)
    path.write_bytes(b"{")
    with pytest.raises(StoreDamagedError):
        store.manifest_hashes(directory)


def test_processes_that_add_the_same_wheels_unpack_each_once(store: Store, wheels: list[Path]) -> None:
    def add(order: list[Path]) -> list[tuple[str, bool]]:
        return [(added.plan.reference.directory, added.new) for added in map(store.add, order)]

    orders = [wheels[turn % 3 :] + wheels[: turn % 3] for turn in range(8)]
    answers = [
        answer
        for result in together(*(functools.partial(add, order) for order in orders))
        for answer in result
    ]
    assert len(answers) == 24
    assert sorted(directory for directory, new in answers if new) == store.entries()
    assert {directory for directory, _ in answers} == set(store.entries())
    assert litter(store) == []


def test_an_environment_that_stands_is_handed_out_and_stamped(store: Store, wheel: Path) -> None:
    record = make_environment(store, wheel)
    path = store.layout.record(record.directory)
    os.utime(path, (0, 0))
    assert store.usable_environment(record.key) == (record, 0)
    assert os.stat(path).st_mtime > 0


def touch_site_packages(environment: Path) -> None:
    (environment / "lib" / base().directory_name / "site-packages/new.py").touch()


def edit_configuration(environment: Path) -> None:
    (environment / "pyvenv.cfg").write_text("home = /nowhere\n")


def damage_record(environment: Path) -> None:
    (environment / "vrfstore.json").write_text("{")


def remove_record(environment: Path) -> None:
    (environment / "vrfstore.json").unlink()


@pytest.mark.parametrize("change", [touch_site_packages, edit_configuration, damage_record, remove_record])
def test_an_environment_that_somebody_changed_is_passed_over_for_its_next_generation(
    store: Store, wheel: Path, change: Callable[[Path], None]
) -> None:
    first = make_environment(store, wheel)
    change(Path(store.layout.of("environments", first.directory)))
    assert store.usable_environment(first.key) == (None, 1)
    second = make_environment(store, wheel)
    assert second.directory == f"{first.key}.1"
    assert store.usable_environment(first.key) == (second, 1)
    assert store.environments() == [first.directory, second.directory]


def test_a_generation_that_is_passed_over_is_not_used_thereby(store: Store, wheel: Path) -> None:
    first = make_environment(store, wheel)
    touch_site_packages(Path(store.layout.of("environments", first.directory)))
    second = make_environment(store, wheel)
    for record in (first, second):
        os.utime(store.layout.record(record.directory), (0, 0))
    assert store.usable_environment(first.key) == (second, 1)
    used = [os.stat(store.layout.record(record.directory)).st_mtime for record in (first, second)]
    assert used[0] == 0 < used[1]


def test_where_earlier_generations_were_collected_the_one_that_stands_is_handed_out(
    store: Store, wheel: Path
) -> None:
    made = []
    for _ in range(3):
        made.append(make_environment(store, wheel))
        touch_site_packages(Path(store.layout.of("environments", made[-1].directory)))
    last = make_environment(store, wheel)
    for record in made:
        fs.remove_tree(store.layout.of("environments", record.directory))
    assert store.usable_environment(last.key) == (last, 3)
    touch_site_packages(Path(store.layout.of("environments", last.directory)))
    assert store.usable_environment(last.key) == (None, 0)


def test_using_an_environment_does_not_count_as_changing_it(store: Store, wheel: Path) -> None:
    record = make_environment(store, wheel)
    environment = store.layout.of("environments", record.directory)
    for program in ("import one", "import one, json"):
        subprocess.run([f"{environment}/bin/python", "-c", program], check=True)
    assert records.unchanged(store.layout, record)


def test_a_record_says_what_is_wrong_with_it(store: Store, wheel: Path) -> None:
    record = make_environment(store, wheel)
    assert store.record(record.directory) == record
    path = Path(store.layout.record(record.directory))
    content = json.loads(path.read_bytes())
    for damaged, kind in (
        (b"{", "record-unreadable"),
        (json.dumps(content | {"wheels": [[1]]}).encode(), "record-unreadable"),
        (json.dumps(content | {"schema": content["schema"] + 1}).encode(), "record-unknown"),
        (None, "record-missing"),
    ):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(StoreDamagedError) as caught:
            store.record(record.directory)
        assert (caught.value.kind, caught.value.path) == (kind, str(path))
        path.touch()
    with pytest.raises(FileNotFoundError):
        store.record("0" * 32)


root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="an ordinary user runs the tests, so that all of them are about one"
)


@pytest.fixture
def public(wheels: list[Path]) -> Iterator[Path]:
    """A directory of a user without privileges, with the wheels; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for wheel in wheels:
            shutil.copy(wheel, folder)
        os.chown(folder, NOBODY, NOBODY)
        base()  # which this user might not be able to start
        yield folder


@root_only
def test_an_ordinary_user_adds_links_and_removes_sealed_trees(public: Path) -> None:
    def use() -> tuple[int, list[str], list[str], list[str]]:
        store = Store.open(public / "store")
        wheels = sorted(public.glob("*.whl"))
        assert all(store.add(wheel).new for wheel in wheels)
        record = make_environment(store, *wheels)
        broken = dangling(store.layout.of("environments", record.directory))
        modes = {stat.S_IMODE(os.stat(store.layout.of("entries", name)).st_mode) for name in store.entries()}
        assert modes == {0o555}
        time.sleep(0.01)
        report = sweep.collect(store, Policy(max_age=0, grace=0))
        assert report.problems == ()
        return len(report.entries), broken, store.entries(), litter(store)

    assert as_nobody(use) == (3, [], [], [])


@root_only
def test_a_store_of_somebody_else_is_refused(public: Path) -> None:
    os.chown(public, 0, 0)
    public.chmod(0o755)
    store = Store.open(public / "store")

    def ask(root: Path) -> tuple[int, str, str | None]:
        with pytest.raises(StoreError) as caught:
            Store.open(root)
        return caught.value.exit_code, caught.value.kind, caught.value.path

    for root in (Path(store.root), public / "new"):
        assert as_nobody(functools.partial(ask, root)) == (21, "store-access", str(root))
