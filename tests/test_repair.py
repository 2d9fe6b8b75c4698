"""Repairing: what is damaged is made anew from where it came, and nobody ever finds it missing."""

from __future__ import annotations

import errno
import functools
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import vrfstore
from support.crash import (
    LOCK,
    as_nobody,
    base,
    dangling,
    each_kill,
    killed_at,
    litter,
    make_environment,
    tree,
)
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from test_verify import (
    DAMAGES,
    EVERYTHING,
    MODULE,
    OTHER,
    RICH,
    SINGLE,
    Damage,
    a_directory,
    a_file,
    added,
    findings,
    flip,
    kinds,
    nothing,
    open_up,
    replaced,
    rewrite,
)
from vrfstore import codec, fs
from vrfstore.cli.running import run
from vrfstore.errors import StoreDamagedError
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.runner.exporting import export_archive
from vrfstore.runner.verify import VerifyReport, verify
from vrfstore.store import records, repair
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

LEFTOVERS_ONLY = Policy(max_age=3600, grace=3600)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return build_wheel(RICH, tmp_path)


@pytest.fixture
def other_wheel(tmp_path: Path) -> Path:
    return build_wheel(OTHER, tmp_path)


@pytest.fixture
def entry(store: Store, wheel: Path) -> Path:
    return entry_of(store, wheel)


def entry_of(store: Store, wheel: Path) -> Path:
    return Path(store.layout.of("entries", store.add(wheel).plan.reference.directory))


def environment_of(store: Store, record: EnvironmentRecord) -> Path:
    return Path(store.layout.of("environments", record.directory))


def site_of(store: Store, record: EnvironmentRecord) -> Path:
    return environment_of(store, record) / f"lib/{record.library}/site-packages"


def mended(store: Store, *, sources: tuple[str, ...] = (), targets: tuple[str, ...] = ()) -> VerifyReport:
    """Repair, and hold that to what it says."""
    report = verify(store, targets, mend=True, sources=sources)
    assert report.sound, report.findings
    assert findings(verify(store)) == []
    assert os.listdir(store.layout.of("repairs")) == []
    assert litter(store) == []
    return report


def handed_out(store: Store, record: EnvironmentRecord, *wheels: Path) -> bool:
    """Whether the next link of the same wheels gets the same environment."""
    return make_environment(store, *wheels).directory == record.directory


# Every damage


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name.replace("site-packages/", ""))
def test_every_damage_is_mended_from_the_wheel_that_was_added(
    store: Store, entry: Path, wheel: Path, other_wheel: Path, damage: Damage
) -> None:
    record = make_environment(store, wheel, other_wheel)
    whole = tree(entry)
    environment = tree(environment_of(store, record), without=("vrfstore.json",))
    damage.corrupt(entry)
    report = verify(store, mend=True, sources=_lost_origin(entry, wheel))
    assert report.sound, report.findings
    assert findings(verify(store)) == []
    assert {path: value for path, value in tree(entry).items() if path != "manifest.json"} == {
        path: value for path, value in whole.items() if path != "manifest.json"
    }
    assert tree(environment_of(store, record), without=("vrfstore.json",)) == environment
    assert records.unchanged(store.layout, store.record(record.directory))
    assert handed_out(store, record, wheel, other_wheel)
    assert litter(store) == []
    assert os.listdir(store.layout.of("repairs")) == []


def _lost_origin(entry: Path, wheel: Path) -> tuple[str, ...]:
    """Give the wheel where the entry does not tell any more where it came from."""
    try:
        told = (
            b'"origin":' in (entry / "manifest.json").read_bytes()
            if _is_file(entry / "manifest.json")
            else False
        )
    except OSError:
        told = False
    return () if told else (str(wheel),)


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(path.stat().st_mode) if path.exists() else False


@pytest.mark.parametrize(
    "damage",
    [damage for damage in DAMAGES if damage.kind in {"mode", "added"}],
    ids=lambda damage: damage.name,
)
def test_modes_and_what_was_added_are_put_right_without_any_source(
    store: Store, entry: Path, wheel: Path, damage: Damage
) -> None:
    whole = tree(entry)
    wheel.unlink()
    inode = entry.stat().st_ino
    damage.corrupt(entry)
    mended(store)
    assert tree(entry) == whole
    assert entry.stat().st_ino == inode


def test_a_quick_look_mends_all_that_is_wrong_with_what_it_finds(store: Store, entry: Path) -> None:
    flip(entry / MODULE)
    (entry / SINGLE).chmod(0o644)
    report = verify(store, full=False, mend=True)
    assert [finding.problem.kind for finding in report.findings] == ["mode"]
    assert findings(verify(store)) == []


@pytest.mark.parametrize("quick", [True, False])
def test_a_mode_does_not_hide_other_bytes(store: Store, wheel: Path, *, quick: bool) -> None:
    entry = damaged(store, wheel)
    (entry / MODULE).chmod(0o644)
    assert kinds(verify(store)) == {"mode", "changed"}
    assert not verify(store, full=not quick, mend=True).sound
    assert kinds(verify(store)) == {"changed", "marked"}
    mended(store, sources=(str(wheel.with_name("kept")),))


# Where it comes from


def damaged(store: Store, wheel: Path) -> Path:
    """An entry with another byte, whose wheel is not where it was added from any more."""
    entry = entry_of(store, wheel)
    wheel.rename(wheel.with_name("kept"))
    flip(entry / MODULE)
    return entry


@pytest.mark.parametrize("form", ["file", "directory", "renamed file"])
def test_a_wheel_can_be_given(
    store: Store, wheel: Path, other_wheel: Path, tmp_path: Path, form: str
) -> None:
    entry = damaged(store, wheel)
    folder = tmp_path / "given"
    folder.mkdir()
    given = folder / ("some.whl" if form == "renamed file" else wheel.name)
    shutil.copy(wheel.with_name("kept"), given)
    shutil.copy(other_wheel, folder / "zzz.whl")
    (folder / "broken.whl").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.whl")
    sources = (str(folder if form == "directory" else given),)
    mended(store, sources=sources)
    manifest = store.manifest(entry.name)
    assert manifest.origin == str(given)
    assert manifest.filename == wheel.name


@pytest.mark.parametrize(
    "filename", ["zope.interface-1.0-py3-none-any.whl", "Zope_Interface-1.0-py3-none-any.whl"]
)
def test_a_wheel_in_a_directory_is_found_however_its_name_is_written(
    store: Store, tmp_path: Path, filename: str
) -> None:
    wheel = build_wheel(WheelSpec(name="zope-interface", files={"demo_kit/__init__.py": "x = 1\n"}), tmp_path)
    wheel = wheel.rename(tmp_path / filename)
    damaged(store, wheel)
    folder = tmp_path / "given"
    folder.mkdir()
    shutil.copy(wheel.with_name("kept"), folder / filename)
    mended(store, sources=(str(folder),))


@pytest.mark.parametrize("origin", ["other bytes", "gone", "FIFO", "directory", "unreadable zip"])
def test_an_origin_that_is_another_file_now_is_refused_and_the_entry_stays_marked(
    store: Store, entry: Path, wheel: Path, other_wheel: Path, origin: str
) -> None:
    kept = wheel.rename(wheel.with_name("kept"))
    match origin:
        case "other bytes":
            shutil.copy(other_wheel, wheel)
        case "FIFO":
            os.mkfifo(wheel)
        case "directory":
            wheel.mkdir()
        case "unreadable zip":
            wheel.write_bytes(b"PK")
    flip(entry / MODULE)
    wrong = (entry / MODULE).read_bytes()
    report = verify(store, mend=True)
    assert not report.sound
    (finding,) = report.findings
    assert finding.problem.kind == "changed"
    assert finding.hint is not None
    assert "vrfstore verify --repair --from demo-kit-1.2-" in finding.hint
    assert (entry / MODULE).read_bytes() == wrong
    assert "marked" in kinds(verify(store, full=False))
    with pytest.raises(StoreDamagedError, match="has other bytes") as caught:
        store.plan(entry.name)
    assert (caught.value.kind, caught.value.exit_code) == ("entry-damaged", 17)
    assert f"verify --repair {entry.name}" in str(caught.value.hint)
    assert litter(store) == []
    mended(store, sources=(str(kept),))
    assert store.plan(entry.name).reference.directory == entry.name


def test_a_marked_entry_is_marked_once_and_collected_when_nothing_refers_to_it(
    store: Store, wheel: Path
) -> None:
    entry = damaged(store, wheel)
    verify(store, mend=True)
    plan = (entry / "plan.json").read_bytes()
    assert not verify(store, mend=True).sound
    assert (entry / "plan.json").read_bytes() == plan
    assert stat.S_IMODE(entry.stat().st_mode) == 0o555
    time.sleep(0.01)
    assert sweep.collect(store, EVERYTHING).entries == (entry.name,)
    assert findings(verify(store)) == []


def test_the_mark_goes_when_all_else_is_sound_again(store: Store, wheel: Path) -> None:
    entry = damaged(store, wheel)
    verify(store, mend=True)
    flip(entry / MODULE)  # back
    mended(store)
    store.plan(entry.name)


def test_the_mark_of_a_plan_that_is_damaged_itself_stays(store: Store, wheel: Path) -> None:
    entry = damaged(store, wheel)
    verify(store, mend=True)
    flip(entry / MODULE)
    value = json.loads((entry / "plan.json").read_bytes())
    value["unpacked"] += 1
    rewrite(entry / "plan.json", codec.dumps(value))
    assert not verify(store, mend=True).sound


def test_a_new_link_refuses_a_marked_entry_with_17_and_says_what_to_do(
    index: Index, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filename = index.add(RICH)
    index.add(OTHER)
    one, two = tmp_path / "one.vrf", tmp_path / "two.vrf"
    one.write_text("demo-kit\n")
    two.write_text("demo-kit\nother\n")
    before = vrfstore.link(one, store=store)
    (name,) = store.entries()
    flip(Path(store.layout.of("entries", name)) / MODULE)
    index.status["/files/"] = 404
    assert run(["--store", store.root, "verify", "--repair"]) == 17
    capsys.readouterr()
    index.status.clear()
    assert run(["--store", store.root, "link", str(two)]) == 17
    assert f"vrfstore verify --repair {name}" in capsys.readouterr().err
    assert vrfstore.link(one, store=store).environment == before.environment
    assert run(["--store", store.root, "verify", "--repair"]) == 0
    assert run(["--store", store.root, "link", str(two)]) == 0
    assert index.downloads(filename) >= 2


@pytest.mark.parametrize("broken", ["nothing", "manifest", "manifest and plan", "everything"])
def test_what_came_from_an_index_is_fetched_again(
    index: Index, store: Store, tmp_path: Path, broken: str
) -> None:
    filename = index.add(RICH)
    path = tmp_path / "one.vrf"
    path.write_text("demo-kit\n")
    before = vrfstore.link(path, store=store)
    (name,) = store.entries()
    entry = Path(store.layout.of("entries", name))
    flip(entry / MODULE)
    if "manifest" in broken:
        replaced(entry / "manifest.json", nothing)
    if "plan" in broken:
        replaced(entry / "plan.json", nothing)
    if broken == "everything":
        fs.remove_tree(str(entry))
    mended(store, targets=(name,))
    assert index.downloads(filename) == 2
    after = vrfstore.link(path, store=store)
    assert (after.status, after.environment) == ("hit", before.environment)
    assert subprocess.run([after.python, "-c", "import demo_kit, single"], check=False).returncode == 0


def test_an_entry_without_any_lock_is_fetched_from_where_it_came(
    index: Index, store: Store, tmp_path: Path
) -> None:
    index.add(RICH)
    path = tmp_path / "one.vrf"
    path.write_text("demo-kit\n")
    vrfstore.link(path, store=store)
    for part in ("environments", "locks", "requests", "inputs"):
        fs.remove_tree(store.layout.of(part))
        os.mkdir(store.layout.of(part))
    (name,) = store.entries()
    flip(Path(store.layout.of("entries", name)) / MODULE)
    mended(store)


def test_an_index_that_sends_something_else_is_refused(index: Index, store: Store, tmp_path: Path) -> None:
    filename = index.add(RICH)
    path = tmp_path / "one.vrf"
    path.write_text("demo-kit\n")
    vrfstore.link(path, store=store)
    (name,) = store.entries()
    flip(Path(store.layout.of("entries", name)) / MODULE)
    index.corrupt(filename)
    report = verify(store, mend=True)
    assert not report.sound
    assert "is another file now" in str(report.findings[0].hint)
    assert "marked" in kinds(verify(store))


def test_a_manifest_that_is_another_entrys_does_not_bring_that_ones_wheel(
    store: Store, entry: Path, wheel: Path, other_wheel: Path
) -> None:
    other = entry_of(store, other_wheel)
    make_environment(store, wheel)
    whole = tree(entry)
    rewrite(entry / "manifest.json", (other / "manifest.json").read_bytes())
    mended(store, sources=(str(wheel),))
    assert tree(entry) == whole


def test_where_nothing_tells_what_it_was_the_wheel_itself_does(
    store: Store, entry: Path, wheel: Path
) -> None:
    replaced(entry / "manifest.json", nothing)
    replaced(entry / "plan.json", nothing)
    report = verify(store, mend=True)
    assert not report.sound
    assert f"vrfstore verify --repair --from WHEEL {entry.name}" in str(report.findings[0].hint)
    mended(store, sources=(str(wheel),))


def test_a_disk_that_is_full_is_not_a_source_that_is_missing(store: Store, tmp_path: Path) -> None:
    wheel = build_wheel(
        WheelSpec(name="large", files={"demo_kit/__init__.py": os.urandom(300_000)}), tmp_path
    )
    entry = entry_of(store, wheel)
    flip(entry / MODULE)

    def with_small_files() -> None:
        # EFBIG, the nearest thing to a full disk that a process can have for itself; it says nothing of the wheel.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        report = verify(store, mend=True)
        assert not report.sound
        assert os.strerror(errno.EFBIG) in str(report.findings[0].hint)

    assert not killed_at(10**6, with_small_files)
    assert "marked" not in kinds(verify(store))
    mended(store)


@pytest.mark.parametrize("form", ["files", "wheels"])
def test_an_archive_can_be_given(
    store: Store, wheel: Path, other_wheel: Path, tmp_path: Path, form: str
) -> None:
    archive = str(tmp_path / "archive")
    entry = entry_of(store, wheel)
    other = entry_of(store, other_wheel)
    whole = tree(entry)
    export_archive([entry.name, other.name], archive, store=store, wheels=form == "wheels")
    wheel.unlink()
    flip(entry / MODULE)
    assert not verify(store, mend=True).sound
    mended(store, sources=(archive,))
    # Both say where the wheel came from, which is the archive now.
    with_origin = ("manifest.json", "plan.json")
    assert {path: value for path, value in tree(entry).items() if path not in with_origin} == {
        path: value for path, value in whole.items() if path not in with_origin
    }
    assert store.entries() == sorted([entry.name, other.name])


def test_an_archive_that_says_something_else_of_the_same_wheel_is_refused(
    store: Store, wheel: Path, tmp_path: Path
) -> None:
    """Only what the manifest says, byte by byte, is what was published."""
    archive = str(tmp_path / "archive")
    elsewhere = Store.open(tmp_path / "elsewhere")
    forged = entry_of(elsewhere, wheel)
    manifest = json.loads((forged / "manifest.json").read_bytes())
    flip(forged / MODULE)
    for file in manifest["files"]:
        if file[0] == MODULE:
            file[3] = codec.hexdigest((forged / MODULE).read_bytes())
    del manifest["checksum"]
    rewrite(forged / "manifest.json", codec.dumps({**manifest, "checksum": codec.digest_of(manifest)}))
    export_archive([forged.name], archive, store=elsewhere)
    entry = entry_of(store, wheel)
    wheel.unlink()
    flip(entry / SINGLE)
    before = (entry / MODULE).read_bytes()
    report = verify(store, mend=True, sources=(archive,))
    assert not report.sound
    assert "does not prove it" in str(report.findings[0].hint)
    assert (entry / MODULE).read_bytes() == before
    replaced(entry / "manifest.json", nothing)
    assert not verify(store, mend=True, sources=(archive,)).sound
    assert litter(store) == []


@pytest.mark.parametrize("cut", [4, 40, -1])
def test_an_archive_that_is_broken_is_refused(store: Store, wheel: Path, tmp_path: Path, cut: int) -> None:
    archive = tmp_path / "archive"
    entry = entry_of(store, wheel)
    export_archive([entry.name], str(archive), store=store)
    archive.write_bytes(archive.read_bytes()[:cut])
    wheel.unlink()
    flip(entry / MODULE)
    report = verify(store, mend=True, sources=(str(archive),))
    assert not report.sound
    assert str(archive) in str(report.findings[0].hint)
    assert litter(store) == []


def test_a_full_disk_ends_the_run_and_leaves_everything_as_it_was(
    store: Store, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(entry / MODULE)
    before = tree(store.root, without=("holds",))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fs, "_syncfs", full)
    assert run(["--store", store.root, "verify", "--repair"]) == 16
    assert tree(store.root, without=("holds",)) == before


# Environments


def test_every_environment_that_shares_a_damaged_inode_is_whole_again(
    store: Store, entry: Path, wheel: Path, other_wheel: Path
) -> None:
    one, two = make_environment(store, wheel), make_environment(store, wheel, other_wheel)
    shared: dict[str, Callable[[EnvironmentRecord], Path]] = {
        SINGLE: lambda record: site_of(store, record) / "single.py",
        f"site-packages/{RICH.dist_info}/METADATA": lambda record: (
            site_of(store, record) / RICH.dist_info / "METADATA"
        ),
        "links/INSTALLER": lambda record: site_of(store, record) / RICH.dist_info / "INSTALLER",
        "links/bin/demo-run": lambda record: environment_of(store, record) / "bin/demo-run",
        f"site-packages/{RICH.dist_info}/entry_points.txt": lambda record: (
            site_of(store, record) / RICH.dist_info / "entry_points.txt"
        ),
    }
    expected = {}
    for place, path in shared.items():
        expected[place] = (entry / place).read_bytes()
        for record in (one, two):
            assert path(record).samefile(entry / place)
        flip(entry / place)
        assert path(one).read_bytes() != expected[place]
    used = {
        record.directory: os.stat(store.layout.record(record.directory)).st_mtime_ns for record in (one, two)
    }
    mended(store)
    for place, path in shared.items():
        for record in (one, two):
            assert path(record).read_bytes() == expected[place]
            assert path(record).samefile(entry / place)
    for record, wheels in ((one, [wheel]), (two, [wheel, other_wheel])):
        assert os.stat(store.layout.record(record.directory)).st_mtime_ns == used[record.directory], "no use"
        assert records.unchanged(store.layout, store.record(record.directory))
        assert handed_out(store, record, *wheels)
    python = environment_of(store, one) / "bin/demo-run"
    assert subprocess.run([python, "x"], capture_output=True, check=True).stdout == b"x\n"


def test_an_environment_that_was_changed_by_hand_keeps_that_and_gets_the_sound_inodes(
    store: Store, entry: Path, wheel: Path
) -> None:
    record = make_environment(store, wheel)
    site = site_of(store, record)
    script = environment_of(store, record) / "bin/demo-run"
    replaced_by_hand(site / "single.py", b"mine = 1\n")
    (site / "more.py").write_text("mine = 2\n")
    (environment_of(store, record) / "bin/mine").write_text("mine\n")
    whole = script.read_bytes()
    flip(entry / SINGLE)
    flip(entry / "links/bin/demo-run")
    assert script.read_bytes() != whole
    mended(store)
    assert (site / "single.py").read_bytes() == b"mine = 1\n"
    assert (site / "more.py").read_text() == "mine = 2\n"
    assert script.read_bytes() == whole
    assert not records.unchanged(store.layout, store.record(record.directory))
    assert not handed_out(store, record, wheel), "it is not as it was linked"


def replaced_by_hand(path: Path, data: bytes) -> None:
    mine = path.with_name(".mine")
    mine.write_bytes(data)
    mine.rename(path)


def test_what_somebody_made_of_a_link_stays(store: Store, entry: Path, wheel: Path) -> None:
    record = make_environment(store, wheel, build_wheel(OTHER, wheel.parent))
    site = site_of(store, record)
    # Inside a namespace, which tells nobody that it was changed.
    (site / "space/part").unlink()
    (site / "space/part").mkdir()
    (site / "space/part/own.py").write_text("mine = 1\n")
    flip(entry / SINGLE)
    report = verify(store, mend=True)
    assert report.sound
    assert (site / "space/part/own.py").read_text() == "mine = 1\n"


def test_an_environment_with_two_damaged_entries_has_both_mended(
    store: Store, entry: Path, wheel: Path, other_wheel: Path
) -> None:
    other = entry_of(store, other_wheel)
    record = make_environment(store, wheel, other_wheel)
    for damaged_entry, module in ((entry, SINGLE), (other, "site-packages/other.py")):
        flip(damaged_entry / module)
        replaced(damaged_entry / "plan.json", nothing)
    mended(store)
    site = site_of(store, record)
    assert (site / "single.py").samefile(entry / SINGLE)
    assert (site / "other.py").samefile(other / "site-packages/other.py")
    assert handed_out(store, record, wheel, other_wheel)


def test_beside_an_entry_without_a_source_the_others_are_mended(
    store: Store, entry: Path, wheel: Path, other_wheel: Path
) -> None:
    other = entry_of(store, other_wheel)
    record = make_environment(store, wheel, other_wheel)
    before = tree(environment_of(store, record))
    flip(entry / SINGLE)
    flip(other / "site-packages/other.py")
    replaced(other / "links/0" if (other / "links/0").is_symlink() else other / "links/INSTALLER", nothing)
    kept = other_wheel.rename(other_wheel.with_name("kept"))
    report = verify(store, mend=True)
    assert {finding.place for finding in report.findings if not finding.mended} == {f"entries/{other.name}"}
    assert (site_of(store, record) / "single.py").samefile(entry / SINGLE)
    mended(store, sources=(str(kept),))
    assert tree(environment_of(store, record), without=("vrfstore.json",)) == {
        path: value for path, value in before.items() if path != "vrfstore.json"
    }


def test_a_repair_links_nothing_from_another_entry_that_stays_damaged(
    store: Store, entry: Path, wheel: Path, other_wheel: Path
) -> None:
    other = entry_of(store, other_wheel)
    record = make_environment(store, wheel, other_wheel)
    replaced(other / "site-packages/other.py", a_file)
    other_wheel.unlink()
    flip(entry / SINGLE)
    assert not verify(store, mend=True).sound
    assert (site_of(store, record) / "single.py").samefile(entry / SINGLE)
    assert (site_of(store, record) / "other.py").read_text() == "two = 2\n"


def test_an_environment_that_waits_for_another_entry_is_finished_with_that_one(
    store: Store, entry: Path, wheel: Path, other_wheel: Path
) -> None:
    other = entry_of(store, other_wheel)
    record = make_environment(store, wheel, other_wheel)
    (environment_of(store, record) / "bin/mine").write_text("changed by hand\n")
    kept = other_wheel.rename(other_wheel.with_name("kept"))
    replaced(other / "plan.json", nothing)
    flip(entry / SINGLE)
    assert not verify(store, mend=True).sound
    assert not (site_of(store, record) / "single.py").samefile(entry / SINGLE)
    mended(store, sources=(str(kept),))
    assert (site_of(store, record) / "single.py").samefile(entry / SINGLE)


def test_damage_that_stays_is_not_spread_to_environments(store: Store, entry: Path, wheel: Path) -> None:
    record = make_environment(store, wheel)
    environment = environment_of(store, record)
    before = tree(environment)
    wheel.unlink()
    for name in os.listdir(entry / "links"):
        if (entry / "links" / name).is_symlink():
            replaced(entry / "links" / name, lambda path: path.symlink_to("/etc"))
    replaced(entry / SINGLE, a_file)
    assert not verify(store, mend=True).sound
    assert tree(environment) == before
    assert not verify(store, [record.directory], mend=True).findings


def test_the_end_of_an_environment_does_not_stop_a_repair(
    store: Store, entry: Path, wheel: Path, other_wheel: Path
) -> None:
    one, two = make_environment(store, wheel), make_environment(store, wheel, other_wheel)
    (environment_of(store, one) / "vrfstore.json").write_bytes(b"{")
    flip(entry / SINGLE)
    report = verify(store, mend=True)
    assert {finding.place for finding in report.findings if not finding.mended} == {
        f"environments/{one.directory}"
    }
    assert (site_of(store, two) / "single.py").samefile(entry / SINGLE)


@needs_root
def test_an_ordinary_user_mends_what_he_may_not_look_into(tmp_path: Path, wheel: Path) -> None:
    open_up(tmp_path, wheel)
    home = tmp_path / "nobody"
    home.mkdir()
    home.chmod(0o777)

    def damage_and_mend() -> list[str]:
        store = Store.open(home / "store")
        own = Path(shutil.copy(wheel, home))
        entry = entry_of(store, own)
        record = make_environment(store, own)
        whole = tree(entry)
        (entry / "site-packages/demo_kit").chmod(0)
        (entry / SINGLE).chmod(0)
        own.unlink()  # no source is needed for that
        found = kinds(verify(store))
        mended(store)
        assert tree(entry) == whole
        shutil.copy(wheel, home)
        flip(entry / MODULE)
        flip(entry / SINGLE)
        (entry / "links").chmod(0)
        entry.chmod(0)
        found |= kinds(verify(store))
        mended(store)
        assert tree(entry) == whole
        assert handed_out(store, record, own)
        time.sleep(0.01)
        assert sweep.collect(store, LEFTOVERS_ONLY).problems == ()
        return sorted(found)

    assert as_nobody(damage_and_mend) == ["manifest", "unchecked", "unreadable"]


# At any moment


def prepared(tmp_path: Path, wheels: list[Path]) -> tuple[Store, Path, EnvironmentRecord, EnvironmentRecord]:
    """A store with a damaged entry, an environment of it, and one of it that was changed by hand."""
    store = Store.open(tmp_path / "store")
    one, two = make_environment(store, *wheels), make_environment(store, wheels[0])
    (environment_of(store, two) / "bin/mine").write_text("mine\n")
    (site_of(store, two) / "mine.py").write_text("mine = 1\n")
    entry = Path(store.layout.of("entries", one.wheels[0].directory))
    assert store.plan(entry.name).reference.name == "demo-kit"
    for place in (SINGLE, MODULE, "links/bin/demo-run", f"site-packages/{RICH.dist_info}/METADATA"):
        flip(entry / place)
    replaced(entry / "links/0", lambda path: path.symlink_to("/etc"))
    added(entry / "site-packages/evil.py", a_file)
    return store, entry, one, two


def counted(action: Callable[[], object]) -> None:
    """Let the exchange, a system call that Python has no name for, count as a step."""

    def effect(name: str, path: str) -> None:
        if name == "exchange":
            sys.audit("os.rename", path, path, -1, -1)

    fs.on_effect = effect
    try:
        action()
    finally:
        fs.on_effect = None


@pytest.mark.slow
def test_a_repair_killed_anywhere_is_finished_by_the_next(
    tmp_path: Path, wheel: Path, other_wheel: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    whole = tree(entry_of(Store.open(tmp_path / "whole"), wheel))
    wheels = [wheel, other_wheel]
    exchanged = set()
    point = 0
    for point, (store, entry, one, two) in each_kill(
        lambda: prepared(tmp_path, wheels),
        lambda found: counted(functools.partial(verify, found[0], mend=True)),
    ):
        assert dangling(str(environment_of(store, one))) == [], point
        assert (site_of(store, one) / "demo_kit/__init__.py").is_file(), point
        exchanged.add(
            (entry / "links/INSTALLER").samefile(site_of(store, one) / RICH.dist_info / "INSTALLER")
        )
        report = verify(store, mend=True)
        assert report.sound, (point, report.findings)
        assert findings(verify(store)) == [], point
        assert tree(entry) == whole, point
        for record in (one, two):
            for place, path in (
                (SINGLE, site_of(store, record) / "single.py"),
                ("links/bin/demo-run", environment_of(store, record) / "bin/demo-run"),
                ("links/INSTALLER", site_of(store, record) / RICH.dist_info / "INSTALLER"),
            ):
                assert path.samefile(entry / place), (point, path)
        assert (site_of(store, two) / "mine.py").read_text() == "mine = 1\n", point
        assert handed_out(store, one, *wheels), point
        assert not handed_out(store, two, wheel), point
        time.sleep(0.01)
        assert not sweep.collect(store, LEFTOVERS_ONLY).problems, point
        assert litter(store) == [], point
        assert os.listdir(store.layout.of("repairs")) == [], point
        assert all(environment.isalnum() or "." in environment for environment in store.environments())
        fs.remove_tree(store.root)
    record_testsuite_property("kill points: repair", point - 1)
    assert point > 60, "nearly nothing was killed"
    assert exchanged == {True, False}


@pytest.mark.slow
def test_marking_killed_anywhere_is_made_good(tmp_path: Path, wheel: Path) -> None:
    kept = wheel.with_name("kept")

    def prepare() -> tuple[Store, Path]:
        store = Store.open(tmp_path / "store")
        if kept.exists():
            kept.rename(wheel)
        return store, damaged(store, wheel)

    for point, (store, entry) in each_kill(prepare, lambda found: verify(found[0], mend=True)):
        assert not verify(store, mend=True).sound, point
        assert kinds(verify(store)) == {"changed", "marked"}, point
        with pytest.raises(StoreDamagedError):
            store.plan(entry.name)
        time.sleep(0.01)
        assert not sweep.collect(store, LEFTOVERS_ONLY).problems, point
        assert litter(store) == [], point
        assert verify(store, mend=True, sources=(str(kept),)).sound, point
        fs.remove_tree(store.root)


@pytest.mark.slow
def test_mending_in_place_killed_anywhere_is_finished_by_the_next(tmp_path: Path, wheel: Path) -> None:
    def prepare() -> tuple[Store, Path]:
        store = Store.open(tmp_path / "store")
        entry = entry_of(store, wheel)
        (entry / SINGLE).chmod(0o644)
        entry.chmod(0o755)
        added(entry / "site-packages/evil", a_directory)
        (entry / "site-packages/evil").chmod(0o755)
        (entry / "site-packages/evil/more.py").write_text("x")
        return store, entry

    whole = tree(entry_of(Store.open(tmp_path / "whole"), wheel))
    for point, (store, entry) in each_kill(prepare, lambda found: verify(found[0], mend=True)):
        assert verify(store, mend=True).sound, point
        assert tree(entry) == whole, point
        time.sleep(0.01)
        assert not sweep.collect(store, LEFTOVERS_ONLY).problems, point
        assert litter(store) == [], point
        fs.remove_tree(store.root)


def test_a_note_that_cannot_be_read_harms_nobody(store: Store, entry: Path, wheel: Path) -> None:
    record = make_environment(store, wheel)
    by_hand = make_environment(store, wheel, build_wheel(OTHER, wheel.parent))
    replaced_by_hand(site_of(store, by_hand) / "single.py", b"mine = 1\n")
    Path(store.layout.of("repairs", f"{entry.name}.json")).write_bytes(b"")
    Path(store.layout.of("repairs", "0123-gone.json")).write_bytes(b"[]")
    mended(store)
    assert (site_of(store, by_hand) / "single.py").read_bytes() == b"mine = 1\n"
    assert handed_out(store, record, wheel)


_LOOK = """
import errno, os, sys
path, package, script = sys.argv[1:]
print("looking", flush=True)
count = 0
while os.read(0, 0) == b"" and not os.path.exists(script + ".stop"):
    for name in (path, package):
        os.stat(name)
        with open(name, "rb") as stream:
            stream.read()
    os.listdir(os.path.dirname(package))
    count += 1
print(count)
"""


@pytest.mark.slow
def test_nobody_ever_finds_an_environment_dangling(
    store: Store, entry: Path, wheel: Path, tmp_path: Path
) -> None:
    record = make_environment(store, wheel)
    site = site_of(store, record)
    stop = tmp_path / "script"
    arguments = [str(site / "single.py"), str(site / "demo_kit/__init__.py"), str(stop)]
    with subprocess.Popen(
        [sys.executable, "-c", _LOOK, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as looking:
        assert looking.stdout is not None
        assert looking.stdout.readline() == "looking\n"
        for _ in range(20):
            flip(entry / SINGLE)
            flip(entry / MODULE)
            assert verify(store, mend=True).sound
        Path(f"{stop}.stop").touch()
        out, err = looking.communicate(timeout=60)
    assert err == ""
    assert int(out) > 20


def test_two_repairs_at_once_are_one(store: Store, entry: Path, wheel: Path) -> None:
    record = make_environment(store, wheel)
    flip(entry / SINGLE)
    reports: list[VerifyReport] = []
    repairs = [threading.Thread(target=lambda: reports.append(verify(store, mend=True))) for _ in range(3)]
    for thread in repairs:
        thread.start()
    for thread in repairs:
        thread.join()
    assert [report.sound for report in reports] == [True, True, True]
    mended(store)
    assert (site_of(store, record) / "single.py").samefile(entry / SINGLE)


def test_a_repair_and_gc_do_not_harm_each_other(
    store: Store, entry: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that has been collected between looking and mending is not made anew, and is no damage."""
    flip(entry / SINGLE)
    held = Store.hold_entry

    def collected(self: Store, *arguments: object, **named: object) -> object:
        fs.remove_tree(str(entry))
        return held(self, *arguments, **named)  # type: ignore[arg-type]

    wheel.unlink()
    monkeypatch.setattr(Store, "hold_entry", collected)
    assert verify(store, mend=True).sound
    assert store.entries() == []


def test_what_is_put_in_place_is_on_the_disk_before(
    store: Store, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(
        fs, "on_effect", lambda name, _path: steps.append(name) if name in {"sync", "exchange"} else None
    )
    flip(entry / SINGLE)
    assert verify(store, mend=True).sound
    assert steps == ["sync", "exchange"]


def test_shared_inodes_are_those_with_further_links(store: Store, entry: Path, wheel: Path) -> None:
    assert repair.inodes(store, entry.name, least_links=2) == frozenset()
    record = make_environment(store, wheel)
    found = (site_of(store, record) / "single.py").stat()
    assert f"{found.st_dev}:{found.st_ino}" in repair.inodes(store, entry.name, least_links=2)
    assert repair.inodes(store, "not-there", least_links=2) == frozenset()
    assert base().executable
    assert record.lock == LOCK
