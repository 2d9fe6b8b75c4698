"""Composites: made once, whole or not at all, sound as long as their members are, and gone when nobody needs them."""

from __future__ import annotations

import errno
import functools
import json
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from support.crash import (
    LOCK,
    base,
    dangling,
    die,
    each_kill,
    killed_at,
    litter,
    together,
    tree,
    wheel_digest,
)
from support.elf import elf_bytes
from support.wheels import WheelSpec, build_wheel
from vrfstore import codec, fs
from vrfstore.cli import render
from vrfstore.cli.running import run
from vrfstore.errors import BusyError, CollisionError, StoreDamagedError, UsageError
from vrfstore.gc import roots, sweep
from vrfstore.gc.policy import Policy
from vrfstore.linker import plan as planning
from vrfstore.linker.composing import composed
from vrfstore.linker.coupling import Coupling
from vrfstore.linker.link import environment_key, link
from vrfstore.linker.plan import settled
from vrfstore.model import LinkOptions, Lock, LockedWheel
from vrfstore.requirements import lock as locks
from vrfstore.runner.compile import compile_store
from vrfstore.runner.exporting import export_archive
from vrfstore.runner.importing import import_archive
from vrfstore.runner.verify import VerifyReport, verify
from vrfstore.store import composites, condemned, leases, records
from vrfstore.store.bytecode import is_compiled
from vrfstore.store.entry_plan import composite_reference
from vrfstore.store.holds import hold
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

TOP = WheelSpec(
    name="top",
    files={
        "top/__init__.py": "import ctypes, os\nX = 'good'\n",
        "top/_core.so": elf_bytes(needed=["libbottom.so.1"], runpath="$ORIGIN/../bottom/lib"),
        "top/data.txt": "good data\n",
        "top.py.txt": "good\n",
    },
    data={"scripts/tool": "#!python\nprint('good')\n"},
)
BOTTOM = WheelSpec(
    name="bottom",
    files={
        "bottom/__init__.py": "Y = 'good'\n",
        "bottom/lib/libbottom.so.1": elf_bytes(soname="libbottom.so.1"),
        "single.py": "Z = 'good'\n",
    },
)
ALONE = WheelSpec(name="alone", files={"alone.py": "A = 'good'\n"})
EVERYTHING = Policy(max_age=0, grace=0)
LEFTOVERS_ONLY = Policy(max_age=3600, grace=3600)
SHOW = "import top, bottom, single, alone; print(top.X, bottom.Y, single.Z, alone.A)"
MODULE = "site-packages/top/__init__.py"

Wheels = tuple[Path, ...]


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def wheels(tmp_path: Path) -> Wheels:
    """Two that belong together, and one that does not."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    # Unlike those of any other test: in /proc, a name counts for every store that has it.
    own = f"Keywords: {fs.unique_name()}\n"
    return tuple(build_wheel(replace(spec, metadata_extra=own), folder) for spec in (TOP, BOTTOM, ALONE))


def linked(
    store: Store, *wheels: Path, options: LinkOptions | None = None, lock: str = LOCK
) -> EnvironmentRecord:
    """Link some wheels as ``runner.link`` does, without asking any index."""
    names = [wheel.name.split("-")[0].replace("_", "-") for wheel in wheels]
    how = settled(options or LinkOptions(), names)
    digests = [wheel_digest(wheel) for wheel in wheels]
    key = environment_key(digests, base(), how)
    with leases.take(store.layout, environment=key, digests=digests, lock=lock) as lease:
        store.await_entries((digest, name, "1.0") for digest, name in zip(digests, names, strict=True))
        plans = [store.add(wheel).plan for wheel in wheels]
        with composed(store, plans, how) as merged:
            return link(store, lease, plans, base(), key=key, lock=lock, merged=merged)[0]


def entry(store: Store, wheel: Path) -> Path:
    return Path(store.layout.of("entries", store.add(wheel).plan.reference.directory))


def composite(store: Store, record: EnvironmentRecord | None = None) -> Path:
    """Return the one composite of a store, or of an environment."""
    if record is not None:
        (reference,) = record.composites
        return Path(store.layout.of("entries", reference.directory))
    (name,) = filter(composites.is_called_so, store.entries())
    return Path(store.layout.of("entries", name))


def environment_of(store: Store, record: EnvironmentRecord) -> Path:
    return Path(store.layout.of("environments", record.directory))


def said(store: Store, record: EnvironmentRecord, program: str = SHOW) -> str:
    python = environment_of(store, record) / "bin/python"
    # Without writing bytecode, which root may: it would be taken for what the changed source says.
    done = subprocess.run([python, "-B", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def spoil(path: Path) -> None:
    """Change a file in place, at equal length, as a bad disk would."""
    data = path.read_bytes()
    assert b"good" in data
    path.chmod(0o644)
    path.write_bytes(data.replace(b"good", b"evil"))
    path.chmod(0o444)


def found_in(report: VerifyReport) -> set[tuple[str, str]]:
    return {(finding.place, finding.problem.kind) for finding in report.findings}


def mended(store: Store, *targets: str, **options: object) -> VerifyReport:
    """Repair, and hold that to what it says."""
    report = verify(store, targets, mend=True, **options)  # type: ignore[arg-type]
    assert report.sound, report.findings
    assert verify(store).findings == ()
    assert os.listdir(store.layout.of("repairs")) == []
    assert litter(store) == []
    return report


def collected(store: Store, policy: Policy = EVERYTHING) -> sweep.Report:
    return sweep.collect(store, policy)


# What it is.


def test_an_environment_links_to_the_composite_of_those_that_belong_together(
    store: Store, wheels: Wheels
) -> None:
    record = linked(store, *wheels)
    root = composite(store, record)
    assert store.plan(root.name).members == tuple(
        entry(store, wheel).name for wheel in (wheels[1], wheels[0])
    )
    assert root.name in record.entries
    site = environment_of(store, record) / f"lib/{record.library}/site-packages"
    assert (
        (site / "top").resolve() == (site / "bottom").resolve().parent / "top" == root / "site-packages/top"
    )
    assert (site / "alone.py").samefile(entry(store, wheels[2]) / "site-packages/alone.py")
    assert said(store, record) == "good good good good"
    assert dangling(str(environment_of(store, record))) == []
    assert verify(store).findings == ()
    manifest = store.manifest(root.name)
    assert (manifest.filename, manifest.origin) == ("", "")
    paths = [file.path for file in manifest.files]
    assert "site-packages/top/data.txt" in paths
    assert not any("dist-info" in path or path.startswith(("scripts/", "links/")) for path in paths)


def test_its_files_are_those_of_its_members_and_as_sealed(store: Store, wheels: Wheels) -> None:
    root = composite(store, linked(store, *wheels))
    member = entry(store, wheels[0])
    assert (root / MODULE).samefile(member / MODULE)
    for place in (root, *root.rglob("*")):
        if not place.is_symlink():
            assert stat.S_IMODE(place.stat().st_mode) in {0o444, 0o555}, place
    # Bytecode is its own: what a member is compiled to is not shared.
    assert (root / "site-packages/top/__pycache__").is_dir()
    assert not (root / "site-packages/top/__pycache__").samefile(member / "site-packages/top/__pycache__")


def test_a_composite_that_root_wrote_into_through_a_link_is_not_linked_again(
    store: Store, wheels: Wheels
) -> None:
    place = composite(store, linked(store, *wheels)) / "site-packages/top"
    assert place.stat().st_mtime_ns == fs.SEALED_AT
    place.chmod(0o755)
    (place / "plugin.py").touch()
    place.chmod(0o555)
    with pytest.raises(StoreDamagedError, match=r"top/plugin\.py does not belong"):
        linked(store, *wheels[:2])
    assert verify(store, mend=True).sound
    linked(store, *wheels[:2])


def test_equal_members_share_one_composite(store: Store, wheels: Wheels) -> None:
    first, second = linked(store, *wheels), linked(store, *wheels[:2])
    assert first.directory != second.directory
    assert first.composites == second.composites
    assert len([name for name in store.entries() if composites.is_called_so(name)]) == 1


def test_what_is_copied_is_in_no_composite(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels, options=LinkOptions(materialize=("top",)))
    assert record.composites == ()
    assert said(store, record) == "good good good good"


def test_it_is_sealed_and_synced_before_it_has_its_name(
    store: Store, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wheel in wheels:
        store.add(wheel)
    seen: list[str] = []
    monkeypatch.setattr(fs, "_syncfs", lambda _descriptor: seen.append("sync"))

    def watch(effect: str, path: str) -> None:
        if "/entries/" in path:
            seen.append("published" if effect == "rename" else "written")

    monkeypatch.setattr(fs, "on_effect", watch)
    linked(store, *wheels)
    # All but the mode of its own top, which a rename needs to be open until then.
    assert (seen.count("sync"), seen.count("published"), seen[-3:]) == (
        1,
        1,
        ["sync", "written", "published"],
    )


def test_a_store_that_nobody_would_miss_waits_for_no_disk(
    tmp_path: Path, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "hasty", durable=False)
    seen: list[int] = []
    monkeypatch.setattr(fs, "_syncfs", seen.append)
    linked(store, *wheels)
    assert seen == []


@pytest.mark.parametrize("code", [errno.EMLINK, errno.EPERM, errno.EXDEV])
def test_where_no_further_link_is_possible_it_has_a_copy_and_never_a_symlink(
    store: Store, tmp_path: Path, wheels: Wheels, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    large = replace(TOP, files={**(TOP.files or {}), "top/large.bin": os.urandom(200_000)})
    top = build_wheel(large, tmp_path)
    plans = [store.add(wheel).plan for wheel in (wheels[1], top)]
    reference = composite_reference(plans)
    real = os.link

    def refuse(source: str, path: str, **options: bool) -> None:
        if "/entries/.new-" in path:
            raise OSError(code, os.strerror(code), source)
        real(source, path, **options)

    monkeypatch.setattr(os, "link", refuse)
    with store.session() as lease:
        assert composites.ensure(store, lease, reference, plans)
    root = Path(store.layout.of("entries", reference.directory))
    copied = root / "site-packages/top/large.bin"
    original = Path(store.layout.of("entries", plans[1].reference.directory)) / "site-packages/top/large.bin"
    assert copied.read_bytes() == original.read_bytes()
    assert not copied.is_symlink()
    assert not copied.samefile(original)
    assert not any(path.is_symlink() for path in (root / "site-packages").rglob("*"))
    assert verify(store).findings == ()
    # What is damaged of the original is no damage of a copy, and a repair leaves the copy alone.
    inode = root.stat().st_ino
    spoil_bytes(original)
    assert {place for place, _ in found_in(mended(store))} == {f"entries/{plans[1].reference.directory}"}
    assert root.stat().st_ino == inode


def spoil_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


# Collisions inside.


def colliding(tmp_path: Path, one: str = "shared/x.py", other: str = "shared/x.py") -> Wheels:
    """Return two wheels that belong together, each with one more file."""
    return tuple(
        build_wheel(replace(spec, files={**(spec.files or {}), path: content}), tmp_path)
        for spec, path, content in ((TOP, one, "top's"), (BOTTOM, other, "bottom's"))
    )


def test_different_files_at_one_place_are_a_collision(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CollisionError, match=r"bottom 1\.0 and top 1\.0 both bring .*shared/x\.py"):
        linked(store, *colliding(tmp_path))
    assert store.environments() == litter(store) == []


def test_where_collisions_are_allowed_the_last_wins_in_both(store: Store, tmp_path: Path) -> None:
    record = linked(store, *colliding(tmp_path), options=LinkOptions(allow_collisions=True))
    root = composite(store, record)
    site = environment_of(store, record) / f"lib/{record.library}/site-packages"
    assert (site / "shared/x.py").read_text() == (root / "site-packages/shared/x.py").read_text() == "top's"
    assert verify(store).findings == ()


def test_a_file_where_another_has_a_directory_is_a_collision_whatever_is_allowed(
    store: Store, tmp_path: Path
) -> None:
    wheels = colliding(tmp_path, one="top/place", other="top/place/inside.txt")
    for allowed in (False, True):
        with pytest.raises(CollisionError, match=r"bottom 1\.0 and top 1\.0 both bring top/place") as caught:
            linked(store, *wheels, options=LinkOptions(allow_collisions=allowed))
        assert caught.value.exit_code == 19
    assert litter(store) == []


# Many, and killed.


def test_many_that_link_at_once_make_it_once(store: Store, wheels: Wheels) -> None:
    plans = [store.add(wheel).plan for wheel in wheels[:2]]
    reference = composite_reference(sorted(plans, key=lambda plan: plan.reference.name))

    def make() -> tuple[bool, str]:
        with leases.take(store.layout, digests=[reference.digest]) as lease:
            made = composites.ensure(
                store, lease, reference, sorted(plans, key=lambda plan: plan.reference.name)
            )
        return made, linked(store, *wheels).directory

    results = together(*[make] * 16)
    assert sorted(made for made, _ in results) == [False] * 15 + [True]
    assert len({directory for _, directory in results}) == 1
    assert len(store.environments()) == 1
    assert verify(store).findings == ()
    assert litter(store) == []


@pytest.mark.slow
def test_killed_anywhere_it_leaves_a_usable_store_and_the_next_is_whole(
    tmp_path: Path, wheels: Wheels
) -> None:
    numbers = iter(range(10_000))

    def prepare() -> Store:
        store = Store.open(tmp_path / f"store{next(numbers)}")
        for wheel in wheels:
            store.add(wheel)
        return store

    def published(store: Store) -> list[str]:
        names = [*store.entries(), *store.environments()]
        return sorted(names)

    expected: list[str] = []
    for _, store in each_kill(prepare, lambda store: linked(store, *wheels)):
        assert verify(store).findings == ()
        record = linked(store, *wheels)
        expected = expected or published(store)
        assert published(store) == expected
        assert verify(store).findings == ()
        collected(store, LEFTOVERS_ONLY)
        assert litter(store) == []
        assert composite(store, record).name in store.entries()


def test_a_member_that_is_exchanged_meanwhile_does_not_get_into_it(
    store: Store, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wheel in wheels:
        store.add(wheel)
    member = entry(store, wheels[0])
    spoil(member / MODULE)
    begun, proceed = threading.Event(), threading.Event()

    def wait(effect: str, path: str) -> None:
        # When all files of the composite are linked, and before it has a name by which the repair could know it.
        if effect == "write" and "/entries/.new-" in path and threading.current_thread() is linking:
            begun.set()
            proceed.wait(30)

    made: list[EnvironmentRecord] = []
    results: list[bool] = []
    linking = threading.Thread(target=lambda: made.append(linked(store, *wheels)))
    repairing = threading.Thread(target=lambda: results.append(verify(store, [member.name], mend=True).sound))
    monkeypatch.setattr(fs, "on_effect", wait)
    linking.start()
    assert begun.wait(30)
    repairing.start()
    repairing.join(2)  # in vain: it waits for the composite
    proceed.set()
    linking.join()
    repairing.join()
    assert results == [True]
    assert said(store, made[0]) == "good good good good"
    assert verify(store).findings == ()


def test_one_that_no_environment_has_files_of_is_made_anew_after_its_member(
    store: Store, wheels: Wheels
) -> None:
    record = linked(store, *wheels)
    fs.remove_tree(str(environment_of(store, record)))
    member, root = entry(store, wheels[0]), composite(store, record)
    spoil(member / MODULE)
    assert b"evil" in (root / MODULE).read_bytes()
    mended(store, member.name)
    assert b"good" in (root / MODULE).read_bytes()


# Bytecode.


def test_it_is_compiled_for_its_environment_and_its_members_are_not(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    root = composite(store, record)
    report = compile_store(store, [record.directory], watch=lambda _: None)
    done = {result.directory for each in report.compiled for result in each.entries}
    assert done == {root.name, entry(store, wheels[2]).name}
    assert is_compiled(store.layout, root.name, base())
    assert not is_compiled(store.layout, entry(store, wheels[0]).name, base())
    assert verify(store).findings == ()
    program = "import top, single; print(top.__cached__, single.__cached__)"
    top, single = said(store, record, program).split()
    assert Path(top).samefile(next((root / "site-packages/top/__pycache__").iterdir()))
    # Modules in directories that are real get theirs with the next environment.
    other = linked(store, *wheels[:2])
    single = said(store, other, "import single; print(single.__cached__)")
    assert Path(single).samefile(next((root / "site-packages/__pycache__").glob("single.*.pyc")))


def test_it_is_compiled_with_everything_where_all_its_members_fit(
    store: Store, tmp_path: Path, wheels: Wheels
) -> None:
    elsewhere = build_wheel(replace(BOTTOM, tag="cp38-cp38-any"), tmp_path)
    for pair in (wheels[:2], (wheels[0], elsewhere)):
        plans = sorted((store.add(wheel).plan for wheel in pair), key=lambda plan: plan.reference.name)
        with store.session() as lease:
            composites.ensure(store, lease, composite_reference(plans), plans)
    report = compile_store(store, everything=True, watch=lambda _: None)
    done = {result.directory for each in report.compiled for result in each.entries}
    assert {name for name in done if composites.is_called_so(name)} == {
        composite_reference([store.add(wheel).plan for wheel in wheels[:2]]).directory
    }
    assert report.warnings == ()


# Collected.


def test_gc_keeps_it_for_an_environment_and_takes_it_with_the_last(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    name = composite(store, record).name
    roots.add(store, "pin", record.directory)
    assert collected(store).entries == ()
    roots.remove(store, "pin")
    preview = sweep.preview(store, EVERYTHING)
    report = collected(store)
    assert name in report.entries
    assert len(report.entries) == 4
    assert store.entries() == []
    assert litter(store) == []
    assert report.freed >= preview.freed > 0


def test_what_it_shares_is_freed_with_its_members(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    name = composite(store, record).name
    for wheel in wheels:
        roots.add(store, f"keep-{wheel.name.split('-')[0]}", entry(store, wheel).name)
    alone = sweep.preview(store, EVERYTHING)
    assert alone.entries == (name,)
    report = collected(store)
    assert report.entries == (name,)
    assert report.freed == alone.freed
    assert verify(store).findings == ()
    # Members that nobody keeps are not kept by a composite, which has files of its own right.
    record = linked(store, *wheels)
    roots.add(store, "pin", composite(store, record).name)
    for wheel in wheels:
        roots.remove(store, f"keep-{wheel.name.split('-')[0]}")
    collected(store)
    assert store.entries() == [name]
    assert verify(store).findings == ()


def test_a_lease_and_a_process_keep_it(store: Store, wheels: Wheels) -> None:
    plans = sorted((store.add(wheel).plan for wheel in wheels[:2]), key=lambda plan: plan.reference.name)
    reference = composite_reference(plans)
    with leases.take(store.layout, digests=[reference.digest]) as lease:
        composites.ensure(store, lease, reference, plans)
        collected(store)
        assert store.entries() == [reference.directory]
    path = store.layout.of("entries", reference.directory)
    with subprocess.Popen(["sleep", "60"], cwd=f"{path}/site-packages/top") as process:
        try:
            assert collected(store).entries == ()
        finally:
            process.kill()
    assert collected(store).entries == (reference.directory,)


def test_linking_and_gc_at_once_do_not_harm_each_other(store: Store, wheels: Wheels) -> None:
    def link_often() -> None:
        for number in range(8):
            record = linked(store, *wheels, options=LinkOptions(prompt=f"p{number % 2}"))
            with leases.take(store.layout, environment=record.key):
                if os.path.lexists(store.layout.record(record.directory)):
                    store.await_entries([])

    def collect_often() -> None:
        for _ in range(8):
            try:
                sweep.collect(store, EVERYTHING)
            except Exception as error:  # noqa: BLE001 - another collector is at work
                assert "gc" in str(error)  # noqa: PT017

    together(link_often, link_often, collect_often)
    assert verify(store).findings == ()
    for directory in store.environments():
        assert dangling(store.layout.of("environments", directory)) == []
        assert store.record(directory).entries <= set(store.entries())
    record = linked(store, *wheels)
    assert said(store, record) == "good good good good"


def test_gc_leaves_it_alone_until_its_environment_is_there(
    store: Store, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[tuple[str, ...]] = []

    def collect(effect: str, path: str) -> None:
        if effect == "rename" and os.path.dirname(path) == store.layout.of("environments"):
            monkeypatch.setattr(fs, "on_effect", None)
            met.append(collected(store).entries)

    monkeypatch.setattr(fs, "on_effect", collect)
    record = linked(store, *wheels)
    assert met == [()]
    assert said(store, record) == "good good good good"


def test_a_composite_that_is_condemned_is_made_again(
    store: Store, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link finds it there, and gc takes it away just then: the lease of the link came too late or in time."""
    record = linked(store, *wheels)
    name = composite(store, record).name
    for wheel in wheels:
        roots.add(store, wheel.name.split("-")[0], entry(store, wheel).name)
    fs.remove_tree(store.layout.of("environments", record.directory))
    met: list[tuple[str, ...]] = []

    def collect(effect: str, path: str) -> None:
        if effect == "rename" and "/leases/" in path and not met:
            met.append(())
            met[0] = collected(store).entries

    monkeypatch.setattr(fs, "on_effect", collect)
    again = linked(store, *wheels)
    monkeypatch.setattr(fs, "on_effect", None)
    assert met == [(name,)]
    assert composite(store, again).name == name
    assert said(store, again) == "good good good good"


def test_a_link_waits_for_a_collector_that_is_about_to_take_it(
    store: Store, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = composite(store, linked(store, *wheels)).name
    monkeypatch.setattr(condemned, "_PATIENCE", 0.05)
    with hold(store.layout.of("gc", "run")):
        condemned.publish(store.layout, [f"entries/{name}"])
        with pytest.raises(BusyError, match="gc has been at work"):
            linked(store, *wheels[:2])
        condemned.withdraw(store.layout)
    linked(store, *wheels[:2])


# Verified and mended.


def test_damage_is_reported_for_each_that_shares_it(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    member, root = entry(store, wheels[0]), composite(store, record)
    spoil(member / MODULE)
    assert found_in(verify(store)) == {(f"entries/{name}", "changed") for name in (member.name, root.name)}


@pytest.mark.parametrize("whole", [True, False])
def test_mending_a_member_mends_its_composites_and_their_environments(
    store: Store, wheels: Wheels, *, whole: bool
) -> None:
    record = linked(store, *wheels)
    other = linked(store, *wheels[:2])
    member, root = entry(store, wheels[1]), composite(store, record)
    before = tree(environment_of(store, record), without=("vrfstore.json",))
    inodes = member.stat().st_ino, root.stat().st_ino
    spoil(member / "site-packages/single.py")
    assert said(store, record) == "good good evil good"
    mended(store, *(() if whole else (member.name,)))
    assert all(
        one != other for one, other in zip(inodes, (member.stat().st_ino, root.stat().st_ino), strict=True)
    )
    assert (root / "site-packages/single.py").samefile(member / "site-packages/single.py")
    assert tree(environment_of(store, record), without=("vrfstore.json",)) == before
    assert said(store, record) == "good good good good"
    assert said(store, other, "import top, bottom, single; print(single.Z)") == "good"
    for found in (record, other):
        assert records.unchanged(store.layout, store.record(found.directory))
    assert linked(store, *wheels).directory == record.directory


def test_a_damaged_composite_is_mended_with_the_members_that_share_the_damage(
    store: Store, wheels: Wheels
) -> None:
    record = linked(store, *wheels)
    member, root = entry(store, wheels[0]), composite(store, record)
    spoil(root / MODULE)
    mended(store, root.name)
    assert (root / MODULE).samefile(member / MODULE)
    assert said(store, record) == "good good good good"
    assert records.unchanged(store.layout, store.record(record.directory))


def of_its_own(root: Path, path: str) -> Path:
    """Let a file of an entry be a copy, so that nobody shares it; return it."""
    place = root / path
    data, mode = place.read_bytes(), stat.S_IMODE(place.stat().st_mode)
    place.parent.chmod(0o755)
    place.unlink()
    place.write_bytes(data)
    place.chmod(mode)
    place.parent.chmod(0o555)
    return place


def missing_file(root: Path) -> None:
    (root / "site-packages/top").chmod(0o755)
    (root / MODULE).unlink()
    (root / "site-packages/top").chmod(0o555)


def own_bytes(root: Path) -> None:
    spoil(of_its_own(root, MODULE))


def no_manifest(root: Path) -> None:
    root.chmod(0o755)
    (root / "manifest.json").unlink()
    root.chmod(0o555)


def no_plan(root: Path) -> None:
    root.chmod(0o755)
    (root / "plan.json").unlink()
    root.chmod(0o555)


def neither(root: Path) -> None:
    no_manifest(root)
    no_plan(root)


def gone(root: Path) -> None:
    fs.remove_tree(str(root))


def other_members(root: Path) -> None:
    """A plan that names another member, as a bit that flips may."""
    path = of_its_own(root, "plan.json")
    path.chmod(0o644)
    value = codec.loads(path.read_bytes())
    path.write_bytes(codec.dumps(value | {"members": ["0" * 20 + "-what-1.0", value["members"][1]]}))
    path.chmod(0o444)


def link_elsewhere(root: Path) -> None:
    folder = root / "links/0"
    (path,) = (path for path in folder.iterdir() if os.readlink(path).endswith("/bottom"))
    folder.chmod(0o755)
    path.unlink()
    path.symlink_to("/nowhere")
    folder.chmod(0o555)


@pytest.mark.parametrize(
    "damage",
    [missing_file, own_bytes, no_manifest, no_plan, neither, gone, other_members, link_elsewhere],
    ids=lambda damage: damage.__name__,
)
def test_every_damage_of_a_composite_is_mended_from_its_members_and_they_are_left_alone(
    store: Store, wheels: Wheels, damage: Callable[[Path], None]
) -> None:
    record = linked(store, *wheels)
    root = composite(store, record)
    whole = tree(root)
    environment = tree(environment_of(store, record), without=("vrfstore.json",))
    inodes = [entry(store, wheel).stat().st_ino for wheel in wheels]
    for wheel in wheels:
        wheel.rename(wheel.with_suffix(".kept"))
    damage(root)
    mended(store)
    assert tree(root) == whole
    assert tree(environment_of(store, record), without=("vrfstore.json",)) == environment
    assert records.unchanged(store.layout, store.record(record.directory))
    assert {os.stat(path).st_ino for path in _entries(store)} == set(inodes)


def _entries(store: Store) -> list[str]:
    return [store.layout.of("entries", name) for name in store.entries() if not composites.is_called_so(name)]


def test_a_composite_that_names_another_member_is_mended_though_a_member_is_damaged_too(
    store: Store, wheels: Wheels
) -> None:
    record = linked(store, *wheels)
    root = composite(store, record)
    whole = tree(root)
    other_members(root)
    no_plan(entry(store, wheels[0]))
    mended(store)
    assert tree(root) == whole
    assert records.unchanged(store.layout, store.record(record.directory))


def test_modes_and_strangers_of_a_composite_are_put_right_in_place(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    root = composite(store, record)
    inode = root.stat().st_ino
    (root / "site-packages/top").chmod(0o755)
    (root / "site-packages/top/stranger.py").write_text("")
    (root / MODULE).chmod(0o644)
    for wheel in wheels:
        wheel.unlink()
    mended(store)
    assert root.stat().st_ino == inode


def test_without_its_members_it_is_marked_and_no_new_environment_uses_it(
    store: Store, wheels: Wheels, tmp_path: Path
) -> None:
    record = linked(store, *wheels)
    member, root = entry(store, wheels[0]), composite(store, record)
    kept = [wheel.rename(tmp_path / wheel.name) for wheel in wheels]
    spoil(member / MODULE)
    report = verify(store, mend=True)
    hints = {finding.place: finding.hint for finding in report.findings}
    assert f"vrfstore verify --repair {member.name}" in (hints[f"entries/{root.name}"] or "")
    assert found_in(verify(store)) >= {(f"entries/{name}", "marked") for name in (member.name, root.name)}
    with pytest.raises(StoreDamagedError) as caught:
        linked(store, *kept[:2])
    assert (caught.value.exit_code, caught.value.kind) == (17, "entry-damaged")
    # With the wheel given, all is well again.
    mended(store, sources=[str(kept[0])])
    assert said(store, record) == "good good good good"
    linked(store, *kept[:2])


def test_a_marked_composite_refuses_links_by_itself(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    member, root = entry(store, wheels[0]), composite(store, record)
    roots.add(store, "pin", root.name)
    fs.remove_tree(str(environment_of(store, record)))
    collected(store)
    assert store.entries() == [root.name]
    own_bytes(root)
    report = verify(store, mend=True)
    (hint,) = {finding.hint for finding in report.findings}
    assert member.name in (hint or "")
    with pytest.raises(StoreDamagedError, match="the entry is damaged"):
        linked(store, *wheels)
    mended(store)  # its members are back
    assert said(store, linked(store, *wheels)) == "good good good good"


def test_where_nothing_tells_what_it_was_made_of_that_is_said(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    root = composite(store, record)
    fs.remove_tree(str(environment_of(store, record)))
    neither(root)
    (finding,) = (found for found in verify(store, mend=True).findings if not found.mended)
    assert finding.place == f"entries/{root.name}"
    assert "nothing tells" in (finding.hint or "")


def test_two_damaged_members_are_both_mended_and_it_is_whole(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    for wheel, path in zip(
        wheels, (MODULE, "site-packages/bottom/__init__.py", "site-packages/alone.py"), strict=True
    ):
        spoil(entry(store, wheel) / path)
    assert said(store, record) == "evil evil good evil"
    mended(store)
    assert said(store, record) == "good good good good"
    assert records.unchanged(store.layout, store.record(record.directory))


def test_one_member_mended_while_another_stays_damaged_leaves_no_note(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    spoil(entry(store, wheels[0]) / MODULE)
    spoil(entry(store, wheels[1]) / "site-packages/single.py")
    kept = wheels[1].with_name("kept.whl")
    lost = entry(store, wheels[1]).name
    wheels[1].rename(kept)
    assert not verify(store, mend=True).sound
    assert said(store, record) == "good good evil good"
    assert os.listdir(store.layout.of("repairs")) == []
    kept.rename(wheels[1])
    mended(store, lost)  # which mends the marked composite as well
    assert said(store, record) == "good good good good"


@pytest.mark.slow
def test_a_repair_killed_anywhere_is_finished_by_the_next(tmp_path: Path, wheels: Wheels) -> None:
    numbers = iter(range(10_000))
    made: dict[str, EnvironmentRecord] = {}

    def prepare() -> Store:
        store = Store.open(tmp_path / f"store{next(numbers)}")
        made[store.root] = linked(store, *wheels)
        spoil(entry(store, wheels[1]) / "site-packages/single.py")
        return store

    for point, store in each_kill(prepare, lambda store: verify(store, mend=True)):
        record = made[store.root]
        assert dangling(str(environment_of(store, record))) == [], point
        mended_after_kill = verify(store, mend=True)
        assert mended_after_kill.sound, point
        collected(store, LEFTOVERS_ONLY)
        assert verify(store).findings == (), point
        assert os.listdir(store.layout.of("repairs")) == litter(store) == [], point
        single = f"lib/{record.library}/site-packages/single.py"
        assert (environment_of(store, record) / single).read_text() == "Z = 'good'\n"
        assert linked(store, *wheels).directory == record.directory, point


def test_killed_between_member_and_composite_the_note_of_the_member_finishes_both(
    store: Store, wheels: Wheels
) -> None:
    record = linked(store, *wheels)
    member, root = entry(store, wheels[1]), composite(store, record)
    spoil(member / "site-packages/single.py")

    def until_the_second_exchange() -> None:
        exchanges: list[str] = []

        def watch(effect: str, path: str) -> None:
            if effect == "exchange":
                exchanges.append(path)
                if len(exchanges) == 2:
                    die()

        fs.on_effect = watch
        verify(store, [member.name], mend=True)

    assert killed_at(1 << 30, until_the_second_exchange)
    assert sorted(os.listdir(store.layout.of("repairs"))) == sorted(
        f"{name}.json" for name in (member.name, root.name)
    )
    assert verify(store, [member.name]).sound
    assert not verify(store, [root.name]).sound
    verify(store, [entry(store, wheels[2]).name], mend=True)  # whichever is looked at
    collected(store, LEFTOVERS_ONLY)
    mended(store)
    assert records.unchanged(store.layout, store.record(record.directory))
    assert said(store, record) == "good good good good"


def test_killed_while_environments_are_linked_anew_they_can_be_handed_out_after_the_next(
    store: Store, wheels: Wheels
) -> None:
    root = composite(store, linked(store, *wheels[:2]))
    own = of_its_own(root, "site-packages/single.py")
    spoil(own)
    record = linked(store, *wheels)
    assert said(store, record) == "good good evil good"

    def until_it_remembers() -> None:
        def watch(effect: str, path: str) -> None:
            if effect == "utime":
                die()

        fs.on_effect = watch
        verify(store, mend=True)

    assert killed_at(1 << 30, until_it_remembers)
    assert not records.unchanged(store.layout, store.record(record.directory))
    assert verify(store, mend=True).sound
    assert said(store, record) == "good good good good"
    assert linked(store, *wheels).directory == record.directory


def test_two_repairs_at_once_are_one(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    spoil(entry(store, wheels[0]) / MODULE)
    spoil(entry(store, wheels[1]) / "site-packages/single.py")
    targets: Sequence[Sequence[str]] = ([], [composite(store, record).name], [entry(store, wheels[0]).name])
    repairs = [functools.partial(verify, store, target, mend=True) for target in targets]
    assert all(report.sound for report in together(*repairs))
    mended(store)
    assert said(store, record) == "good good good good"
    assert records.unchanged(store.layout, store.record(record.directory))


def test_a_link_that_meets_the_exchange_of_a_composite_has_the_sound_files(
    store: Store, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked(store, *wheels[:2])
    spoil(entry(store, wheels[1]) / "site-packages/single.py")
    met: list[bool] = []

    def repair(effect: str, path: str) -> None:
        published = effect == "rename" and os.path.dirname(path) == store.layout.of("environments")
        if published and not met:
            met.append(True)
            met.append(verify(store, mend=True).sound)

    monkeypatch.setattr(fs, "on_effect", repair)
    record = linked(store, *wheels)
    assert met == [True, True]
    assert said(store, record) == "good good good good"
    assert records.unchanged(store.layout, store.record(record.directory))
    assert verify(store).findings == ()


def test_its_bytecode_goes_with_what_it_was_compiled_from(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    root = composite(store, record)
    spoil(entry(store, wheels[1]) / "site-packages/single.py")
    compile_store(store, [root.name], watch=lambda _: None)
    other = linked(store, *wheels[:2])
    program = "import single; print(single.Z)"
    assert said(store, other, program) == "evil"
    mended(store)
    assert not is_compiled(store.layout, root.name, base())
    assert said(store, other, program) == "good"
    compile_store(store, [root.name], watch=lambda _: None)
    pyc = next((root / "site-packages/top/__pycache__").iterdir())
    pyc.chmod(0o644)
    pyc.write_bytes(pyc.read_bytes().replace(b"good", b"evil"))
    assert found_in(verify(store)) == {(f"entries/{root.name}", "bytecode")}
    inode = root.stat().st_ino
    mended(store)
    assert root.stat().st_ino == inode


def test_a_note_that_cannot_be_read_has_composites_made_anew(store: Store, wheels: Wheels) -> None:
    record = linked(store, *wheels)
    member, root = entry(store, wheels[1]), composite(store, record)
    inode = root.stat().st_ino
    Path(store.layout.of("repairs", f"{member.name}.json")).write_bytes(b"{")
    mended(store)
    assert root.stat().st_ino != inode
    assert said(store, record) == "good good good good"


def test_a_member_that_no_composite_shares_anything_with_leaves_it_alone(
    store: Store, wheels: Wheels
) -> None:
    record = linked(store, *wheels)
    member, root = entry(store, wheels[1]), composite(store, record)
    for path in ("site-packages/single.py", "site-packages/bottom/__init__.py"):
        of_its_own(member, path)
    of_its_own(member, "site-packages/bottom/lib/libbottom.so.1")
    inode = root.stat().st_ino
    spoil(member / "site-packages/single.py")
    mended(store)
    assert root.stat().st_ino == inode


def test_a_member_with_a_missing_file_is_an_error_that_says_what_to_do(store: Store, wheels: Wheels) -> None:
    member = entry(store, wheels[0])
    missing_file(member)
    # Where dates tell of nothing, it is found while the composite is made.
    os.utime(member / "site-packages/top", ns=(fs.SEALED_AT, fs.SEALED_AT))
    with pytest.raises(StoreDamagedError, match="a file is missing") as caught:
        linked(store, *wheels)
    assert (caught.value.exit_code, caught.value.path) == (17, str(member / MODULE))
    assert member.name in str(caught.value.hint)
    assert litter(store) == []
    mended(store)
    linked(store, *wheels)


def test_what_has_the_name_of_a_composite_and_is_none_is_refused(store: Store, wheels: Wheels) -> None:
    plans = sorted((store.add(wheel).plan for wheel in wheels[:2]), key=lambda plan: plan.reference.name)
    reference = composite_reference(plans)
    Path(store.layout.of("entries", plans[0].reference.directory)).rename(
        store.layout.of("entries", reference.directory)
    )
    with pytest.raises(StoreDamagedError, match="something else"), store.session() as lease:
        composites.ensure(store, lease, reference, plans)


# Shown, exported and imported.


def test_list_says_what_it_is_and_counts_nothing_twice(
    store: Store, wheels: Wheels, capsys: pytest.CaptureFixture[str]
) -> None:
    record = linked(store, *wheels)
    name = composite(store, record).name
    assert run(["list", "--store", store.root]) == 0
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith(name))
    assert "composite of bottom, top" in line
    assert line.rstrip().endswith("shared")
    assert run(["list", "--store", store.root, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    sizes = {each["entry"]: each["bytes"] for each in answer["entries"]}
    (environment,) = answer["environments"]
    assert environment["composites"] == [name]
    assert environment["wheels"] == 3
    assert environment["bytes"] == sum(sizes[wheel.directory] for wheel in record.wheels)
    members = {each["entry"]: each["members"] for each in answer["entries"]}
    assert members.pop(name) == list(store.plan(name).members)
    assert set(map(tuple, members.values())) == {()}
    assert f"{_shown_size(environment['bytes'])} unpacked" in shown


def _shown_size(size: int) -> str:
    return render.size(size)


def test_it_is_found_by_the_beginning_of_its_name(store: Store, wheels: Wheels) -> None:
    name = composite(store, linked(store, *wheels)).name
    assert store.find(name[:8]) == ("entries", name)
    assert verify(store, [name[:8]]).entries == 1


@pytest.mark.parametrize("trust", [True, False])
def test_an_archive_has_its_members_and_who_imports_makes_it_anew(
    store: Store, wheels: Wheels, tmp_path: Path, *, trust: bool
) -> None:
    options = LinkOptions(prompt="it's mine", user_site=True, allow_collisions=True, materialize=("alone",))
    record = linked(store, *wheels, options=options, lock=_lock(store, wheels))
    path = tmp_path / "all.tar.zst"
    done = export_archive([record.directory], str(path), store=store)
    assert sorted(each.name for each in done.entries) == ["alone", "bottom", "top"]
    elsewhere = Store.open(tmp_path / "elsewhere")
    (environment,) = import_archive(str(path), store=elsewhere, trust=trust).environments
    assert environment.status == "linked"
    there = elsewhere.record(os.path.basename(environment.environment or ""))
    assert there.options == options
    assert len(there.composites) == 1
    # What is only claimed gets into no composite that proven entries are in.
    assert (there.composites == record.composites) is trust
    assert said(elsewhere, there) == "good good good good"
    assert verify(elsewhere).findings == ()
    assert (there.key == record.key) is trust
    (again,) = import_archive(str(path), store=elsewhere, trust=trust).environments
    assert (again.status, again.environment) == ("hit", environment.environment)


def test_isolated_travels_and_what_the_base_has_does_not_count(
    store: Store, tmp_path: Path, wheels: Wheels
) -> None:
    (name, version), *_ = base().base
    needy = build_wheel(WheelSpec(name="needy", requires=[f"{name}=={version}"]), tmp_path)
    for isolated in (False, True):
        options = LinkOptions(isolated=isolated)
        record = linked(store, needy, options=options, lock=_lock(store, (needy,)))
        path = tmp_path / f"{isolated}.tar.zst"
        export_archive([record.directory], str(path), store=store)
        elsewhere = Store.open(tmp_path / f"elsewhere-{isolated}")
        done = import_archive(str(path), store=elsewhere, trust=True)
        (environment,) = done.environments
        assert elsewhere.record(os.path.basename(environment.environment or "")).options == options
        assert [name in warning for warning in done.warnings] == [True] * isolated


def test_options_that_no_archive_may_have_are_not_exported(
    store: Store, tmp_path: Path, wheels: Wheels
) -> None:
    record = linked(store, wheels[2], options=LinkOptions(prompt="x" * 1001), lock=_lock(store, wheels[2:]))
    with pytest.raises(UsageError, match="prompt that cannot be shown"):
        export_archive([record.directory], str(tmp_path / "x"), store=store)
    assert sorted(os.listdir(tmp_path)) == ["home", "store", "wheels"]


def _lock(store: Store, wheels: Wheels) -> str:
    found = [
        LockedWheel(
            name=wheel.name.split("-")[0],
            version="1.0",
            filename=wheel.name,
            digest=wheel_digest(wheel),
            url=f"file://{wheel}",
        )
        for wheel in wheels
    ]
    lock = Lock(wheels=tuple(sorted(found, key=lambda wheel: wheel.name)), python=base().short_version)
    with store.session() as lease:
        return locks.write(store.layout, lease, lock)


def test_a_composite_that_is_exported_is_its_members(store: Store, wheels: Wheels, tmp_path: Path) -> None:
    root = composite(store, linked(store, *wheels))
    path = tmp_path / "all.tar.zst"
    done = export_archive([root.name], str(path), store=store)
    assert sorted(each.name for each in done.entries) == ["bottom", "top"]
    elsewhere = Store.open(tmp_path / "elsewhere")
    import_archive(str(path), store=elsewhere, trust=True)
    assert elsewhere.entries() == sorted(entry(store, wheel).name for wheel in wheels[:2])


def entry_of(store: Store, name: str) -> Path:
    (found,) = (each for each in store.entries() if store.plan(each).reference.name == name)
    return Path(store.layout.of("entries", found))


@pytest.mark.parametrize("proof", [True, False])
def test_a_claimed_member_can_be_mended_with_the_archive_that_claims_it_or_with_its_wheel(
    store: Store, wheels: Wheels, tmp_path: Path, *, proof: bool
) -> None:
    record = linked(store, *wheels, lock=_lock(store, wheels))
    path = tmp_path / "all.tar.zst"
    export_archive([record.directory], str(path), store=store)
    elsewhere = Store.open(tmp_path / "elsewhere")
    (environment,) = import_archive(str(path), store=elsewhere).environments
    there = elsewhere.record(os.path.basename(environment.environment or ""))
    member = entry_of(elsewhere, "top")
    given = wheels[0].rename(tmp_path / wheels[0].name)  # where the lock does not have it
    spoil(member / MODULE)
    mended(elsewhere, sources=[str(given if proof else path)])
    # Only the wheel itself proves anything.
    assert bool(elsewhere.plan(member.name).claimed) is not proof
    assert said(elsewhere, there) == "good good good good"
    assert records.unchanged(elsewhere.layout, elsewhere.record(there.directory))


# Loaded.

EXTENSION = r"""
extern int from_other(void);
int answer(void) { return from_other() + 1; }
"""
OTHER = "int from_other(void) { return 41; }\n"
LOAD = "import ctypes, plugin, os; p = os.path.join(os.path.dirname(plugin.__file__), '_plugin.so'); "
LOAD += "print(ctypes.CDLL(p).answer())"


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    """Two wheels: an extension, and the library that it finds through ``$ORIGIN/../provider.libs``."""
    folder = tmp_path_factory.mktemp("native")

    def compiled(name: str, source: str, *options: str) -> bytes:
        (folder / "source.c").write_text(source)
        command = ["cc", "-shared", "-fPIC", "-o", name, "source.c", *options]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("there is no C compiler")
        return (folder / name).read_bytes()

    library = compiled("libother.so.1", OTHER, "-Wl,-soname,libother.so.1")
    search = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../provider.libs"
    extension = compiled("_plugin.so", EXTENSION, "-L.", "-l:libother.so.1", search)
    provider = WheelSpec(
        name="provider", files={"provider/__init__.py": "", "provider.libs/libother.so.1": library}
    )
    plugin = WheelSpec(name="plugin", files={"plugin/__init__.py": "", "plugin/_plugin.so": extension})
    return build_wheel(plugin, folder), build_wheel(provider, folder)


def test_a_library_of_another_wheel_is_found_by_the_loader(store: Store, native: Wheels) -> None:
    record = linked(store, *native)
    assert len(record.composites) == 1
    assert said(store, record, LOAD) == "42"


def test_without_a_composite_it_is_not(store: Store, native: Wheels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "couple", lambda *_, **__: Coupling((), frozenset()))
    record = linked(store, *native)
    assert record.composites == ()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        said(store, record, LOAD)
    assert "libother.so.1" in caught.value.stderr
