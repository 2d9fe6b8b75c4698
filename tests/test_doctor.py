"""``vrfstore doctor``: what is said of made-up facts, of real stores, and what it leaves behind: nothing."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from support.crash import NOBODY, as_nobody, base, litter, make_environment, tree
from support.wheels import WheelSpec, build_wheel
from vrfstore import codec, fs
from vrfstore.cli.doctor_command import command
from vrfstore.runner import doctor
from vrfstore.runner.doctor import examine
from vrfstore.runner.doctor import judge as judging
from vrfstore.runner.doctor import look as looking
from vrfstore.runner.doctor.facts import (
    Base,
    Clock,
    Disk,
    Facts,
    Finding,
    Leftover,
    Mount,
    Place,
    Probes,
    Tools,
)
from vrfstore.runner.doctor.judge import judge
from vrfstore.runner.doctor.look import look, mount_of
from vrfstore.store import leases
from vrfstore.store.layout import FORMAT, SUBDIRECTORIES
from vrfstore.store.store import Store

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

NOW = 1_800_000_000.0
EXT4 = Mount(point="/", type="ext4", options=frozenset({"rw", "relatime"}))
STORE = Place(kind="store", format=FORMAT, owner=1000, parent="/s")
GOOD = Facts(
    root="/s",
    user=1000,
    umask=0o022,
    place=STORE,
    disk=Disk(mount=EXT4, free=10**11, inodes=10**7),
    probes=Probes(failed={}),
    clock=Clock(now=NOW, made=NOW - 86400, latest=NOW - 60),
    tools=Tools(python="/p", python_version="3.11.7", pip="26.3", uv="0.9.0", isal="1.7.0"),
    leftover=Leftover(),
)


def changed(part: str, **values: Any) -> Facts:
    """Good facts, but for some fields of one part."""
    return dataclasses.replace(GOOD, **{part: dataclasses.replace(getattr(GOOD, part), **values)})


def mounted(type_: str, *options: str) -> Facts:
    return changed("disk", mount=Mount(point="/m", type=type_, options=frozenset(options)))


def based(**values: Any) -> Facts:
    known: dict[str, Any] = {"real": "/p", "version": "3.11.7", "environments": 2, "found": "3.11.7"}
    return dataclasses.replace(GOOD, bases=(Base(**(known | values)),))


def not_good(facts: Facts) -> list[Finding]:
    return [finding for finding in judge(facts) if finding.state != "good"]


def test_of_good_facts_nothing_but_good_is_said() -> None:
    findings = judge(GOOD)
    assert {finding.state for finding in findings} == {"good"}
    assert {finding.subject for finding in findings} == {
        "store", "permissions", "file system", "space", "clock", "python", "pip", "uv", "isal", "leftovers",
    }  # fmt: skip
    assert all(finding.advice is None for finding in findings)


JUDGED: Mapping[str, tuple[Facts, str, str, str]] = {
    "absent, cannot be made": (
        changed("place", kind="absent", parent_writable=False), "store", "bad", "cannot be made"
    ),
    "foreign": (changed("place", kind="foreign"), "store", "bad", "not a store"),
    "a file": (changed("place", kind="obstructed", complaint="a file"), "store", "bad", "a file"),
    "hidden": (changed("place", kind="hidden", complaint="denied"), "store", "bad", "denied"),
    "marker unreadable": (changed("place", kind="unreadable", complaint="denied"), "store", "bad", "store.json"),
    "unknown format": (changed("place", format=99), "store", "bad", "format 99"),
    "no format": (changed("place", format="no format"), "store", "bad", "no format"),
    "part missing": (changed("place", missing=("tmp",)), "store", "note", "not there: tmp"),
    "part a file": (changed("place", unusable=("tmp",)), "store", "bad", "tmp"),
    "part unreadable": (changed("place", unreadable=("leases",)), "store", "bad", "listed: leases"),
    "part unwritable": (changed("place", unwritable=("holds",)), "store", "bad", "written: holds"),
    "somebody else's, read": (changed("place", owner=7, unwritable=("tmp",)), "store", "note", "hits"),
    "somebody else's, written": (changed("place", owner=7), "store", "note", "user 7"),
    "root's files": (changed("place", strangers=((0, 3, "holds/x"),)), "store", "bad", "3 of the names in it are"),
    "one file of somebody": (changed("place", strangers=((7, 1, "x"),)), "store", "bad", "is user 7's, such as x"),
    "world-writable": (changed("place", open_to_all=("tmp",)), "permissions", "bad", "everybody may write to tmp"),
    "replaceable": (changed("place", exposed="/open"), "permissions", "bad", "/open"),
    "private umask": (dataclasses.replace(GOOD, umask=0o077), "permissions", "note", "umask 077"),
    "open umask": (dataclasses.replace(GOOD, umask=0), "permissions", "bad", "umask 000"),
    "blocking umask": (dataclasses.replace(GOOD, umask=0o222), "permissions", "bad", "umask 222"),
    "private store": (changed("place", mode=0o750), "permissions", "note", "user 1000 and their group"),
    "no mountinfo": (changed("disk", mount=None), "file system", "note", "unknown"),
    "nfs": (mounted("nfs4"), "file system", "bad", "nfs4 on /m: over a network"),
    "sshfs": (mounted("fuse.sshfs"), "file system", "bad", "over a network"),
    "other fuse": (mounted("fuse.x"), "file system", "note", "program behind it"),
    "overlay": (mounted("overlay"), "file system", "note", "image"),
    "tmpfs": (mounted("tmpfs"), "file system", "note", "in memory"),
    "noexec": (mounted("ext4", "noexec"), "file system", "bad", "noexec"),
    "read-only": (mounted("ext4", "ro"), "file system", "note", "hits work"),
    "parts elsewhere": (changed("disk", elsewhere=("tmp",)), "file system", "bad", "tmp"),
    "untried": (changed("probes", untried="no leave"), "file system", "note", "no leave"),
    "coarse": (changed("probes", resolution=2 * 10**9), "file system", "note", "2 s apart"),
    "skew ahead": (changed("probes", skew=5.0), "clock", "bad", "5 s ahead of"),
    "skew behind": (changed("probes", skew=-9.0), "clock", "bad", "9 s behind"),
    "little space": (changed("disk", free=10**9), "space", "note", "1.0 GB"),
    "no space": (changed("disk", free=0), "space", "bad", "0.0 MB"),
    "few inodes": (changed("disk", inodes=20_000), "space", "note", "20,000"),
    "no inodes": (changed("disk", inodes=10), "space", "bad", "10 inodes"),
    "clock unset": (changed("clock", now=0.0, made=None), "clock", "bad", "1970-01-01"),
    "clock before the store": (changed("clock", made=NOW + 3600), "clock", "bad", "the store was made"),
    "future files": (changed("clock", future=2, latest=NOW + 7200), "clock", "note", "2 names"),
    "no python": (changed("tools", python_version=None, python_complaint="none"), "python", "bad", "none"),
    "python gone": (based(complaint="gone", found=None), "python", "bad", "2 environments stand on /p: gone"),
    "python of another line": (based(found="3.12.1", environments=1), "python", "bad", "1 environment stands"),
    "python patched": (based(found="3.11.9"), "python", "note", "3.11.9 now"),
    "records": (dataclasses.replace(GOOD, unread=1), "python", "note", "1 environment cannot"),
    "no pip": (changed("tools", pip=None), "pip", "bad", "not there"),
    "old pip": (changed("tools", pip="25.3.1"), "pip", "bad", "25.3.1 is too old"),
    "strange pip": (changed("tools", pip="of my own"), "pip", "bad", "of my own"),
    "no uv": (changed("tools", uv=None), "uv", "note", "does not need it"),
    "no isal": (changed("tools", isal=None), "isal", "note", "zlib"),
    "leftovers": (
        dataclasses.replace(GOOD, leftover=Leftover(count=3, bytes=2_500_000)), "leftovers", "note", "3 of killed"
    ),
    "stale list": (dataclasses.replace(GOOD, leftover=Leftover(stale_list=True)), "leftovers", "note", "condemned"),
    "leftovers unknown": (
        dataclasses.replace(GOOD, leftover=Leftover(complaint="denied")), "leftovers", "note", "denied"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("facts", "subject", "state", "part"), JUDGED.values(), ids=JUDGED)
def test_each_fact_that_is_not_good_is_said_once_and_nothing_else(
    facts: Facts, subject: str, state: str, part: str
) -> None:
    (finding,) = not_good(facts)
    assert (finding.subject, finding.state) == (subject, state)
    assert part in finding.message
    assert finding.advice is not None or state == "note"


@pytest.mark.parametrize("feature", judging._CONSEQUENCES)
def test_each_feature_that_fails_is_judged(feature: str) -> None:
    (finding,) = not_good(changed("probes", failed={feature: "refused"}))
    assert finding.state == judging._CONSEQUENCES[feature][0]
    assert finding.message.startswith(f"{feature}: refused; ")
    assert finding.advice


def test_what_follows_from_one_cause_is_said_once() -> None:
    facts = dataclasses.replace(mounted("ext4", "noexec"), probes=Probes(failed={"programs": "refused"}))
    assert len(not_good(facts)) == 1


def test_on_a_read_only_mount_parts_that_may_not_be_written_are_no_surprise() -> None:
    facts = dataclasses.replace(mounted("ext4", "ro"), place=dataclasses.replace(STORE, unwritable=("tmp",)))
    assert [finding.state for finding in not_good(facts)] == ["note"]
    absent = dataclasses.replace(facts, place=dataclasses.replace(STORE, kind="absent"), leftover=None)
    assert [finding.state for finding in not_good(absent)] == ["bad"]


def test_an_interpreter_that_was_not_started_is_good_as_long_as_it_is_there() -> None:
    assert not_good(based(found=None)) == []


def test_a_file_system_that_makes_inodes_as_needed_has_no_line_about_them() -> None:
    assert sum(finding.subject == "space" for finding in judge(changed("disk", inodes=None))) == 1


TABLE = r"""
22 1 8:1 / / rw,relatime - ext4 /dev/a rw
23 22 8:2 / /srv rw,nosuid shared:1 master:2 - xfs /dev/b rw,noexec
24 22 8:3 / /srv/a\040b ro - nfs4 host:/x rw
25 22 8:4 / /srv/a\040b rw - btrfs /dev/d rw
broken line
26 22
""".strip()


@pytest.mark.parametrize(
    ("path", "type_", "point"),
    [
        ("/", "ext4", "/"),
        ("/srvother/x", "ext4", "/"),
        ("/srv", "xfs", "/srv"),
        ("/srv/x", "xfs", "/srv"),
        ("/srv/a b/store", "btrfs", "/srv/a b"),
    ],
)
def test_a_path_is_on_the_innermost_and_last_mount_above_it(path: str, type_: str, point: str) -> None:
    found = mount_of(TABLE, path)
    assert found is not None
    assert (found.type, found.point) == (type_, point)


def test_options_are_those_of_the_mount_and_of_the_file_system() -> None:
    found = mount_of(TABLE, "/srv")
    assert found is not None
    assert found.options == {"rw", "nosuid", "noexec"}
    assert mount_of("", "/srv") is None


@pytest.mark.parametrize(
    ("times", "step"),
    [
        ([4 * 10**9, 6 * 10**9], 2 * 10**9),
        ([3 * 10**9, 6 * 10**9], 10**9),
        ([10**9 + 10**7, 10**9], 10**7),
        ([123_456_789, 10**9], 1),
    ],
)
def test_the_resolution_is_the_largest_step_that_all_stamps_are_multiples_of(
    times: list[int], step: int
) -> None:
    assert looking._resolution(times) == step


# Real stores.


def looked(root: str | os.PathLike[str]) -> Facts:
    return look(os.fspath(root), os.environ)


def bad(root: str | os.PathLike[str]) -> list[str]:
    return [finding.message for finding in examine(os.fspath(root), os.environ) if finding.state == "bad"]


def bad_of_store(root: str | os.PathLike[str]) -> list[str]:
    """What is bad, but for the default python, which another user may not be able to reach."""
    findings = examine(os.fspath(root), os.environ)
    return [finding.message for finding in findings if finding.state == "bad" and finding.subject != "python"]


def test_a_fresh_store_is_good_and_is_left_as_it_was(store: Store) -> None:
    before = tree(store.root)
    facts = looked(store.root)
    assert bad(store.root) == []
    assert facts.probes == Probes(failed={}, resolution=facts.probes.resolution)
    assert facts.place.known
    assert facts.leftover == Leftover()
    assert facts.tools.python_version == base().version
    assert tree(store.root) == before
    assert litter(store) == []


def test_everything_on_a_disk_is_changed_through_fs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(fs, "on_effect", lambda _, path: seen.append(path))
    looked(store.root)
    assert seen
    assert all(path.startswith(store.layout.of("tmp") + "/") for path in seen)


@pytest.mark.parametrize("below", ["new", "deep/er/new"])
def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, below: str) -> None:
    before = tree(tmp_path)
    facts = looked(tmp_path / below)
    assert facts.place.kind == "absent"
    assert facts.place.parent == str(tmp_path)
    assert facts.probes.untried == ""
    assert bad(tmp_path / below) == []
    assert tree(tmp_path) == before


def test_an_empty_directory_is_where_a_store_can_be_made(tmp_path: Path) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    (root / "lost+found").mkdir()
    assert looked(root).place.kind == "empty"
    assert bad(root) == []
    assert os.listdir(root) == ["lost+found"]


def test_a_directory_of_somebody_else_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "foreign"
    root.mkdir()
    (root / "thesis.txt").write_text("mine")
    monkeypatch.setattr(fs, "on_effect", lambda *_: pytest.fail("something was changed"))
    assert bad(root) == [f"{root} is not empty and not a store"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (codec.dumps({"format": FORMAT + 1}), f"has format {FORMAT + 1}"),
        (codec.dumps({"id": "x"}), "has format 'no format'"),
        (codec.dumps([1]), "has format 'no format'"),
        (b"{", "it is not JSON"),
    ],
)
def test_a_store_of_another_format_is_named_and_not_touched(
    store: Store, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    Path(store.layout.marker).write_bytes(content)
    monkeypatch.setattr(fs, "on_effect", lambda *_: pytest.fail("something was changed"))
    (found,) = bad(store.root)
    assert message in found


@pytest.mark.parametrize("kind", ["file", "below a file", "dangling", "loop"])
def test_what_is_no_directory_is_said(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "store"
    if kind == "dangling":
        root.symlink_to("nowhere")
    elif kind == "loop":
        root.symlink_to("store")
    else:
        root.write_text("x")
    facts = looked(root / "below" if kind == "below a file" else root)
    assert facts.place.kind == "obstructed"
    assert facts.place.complaint
    assert facts.probes.untried


def test_parts_that_are_gone_or_something_else_are_named(store: Store, tmp_path: Path) -> None:
    shutil.rmtree(store.layout.of("logs"))
    shutil.rmtree(store.layout.of("roots"))
    Path(store.layout.of("roots")).write_text("x")
    os.rename(store.layout.of("holds"), tmp_path / "moved")
    os.symlink(tmp_path / "moved", store.layout.of("holds"))
    place = looked(store.root).place
    assert place.missing == ("logs",)
    assert set(place.unusable) == {"roots", "holds"}


def test_without_entries_leftovers_cannot_be_looked_for_and_the_rest_goes_on(store: Store) -> None:
    shutil.rmtree(store.layout.of("entries"))
    facts = looked(store.root)
    assert facts.leftover is not None
    assert "entries" in facts.leftover.complaint
    assert facts.probes.untried == ""


def test_what_everybody_may_write_to_is_found_but_not_symlinks(store: Store, tmp_path: Path) -> None:
    Path(store.layout.of("entries")).chmod(0o777)
    Path(store.layout.of("roots", "x.json")).touch()
    Path(store.layout.of("roots", "x.json")).chmod(0o666)
    os.symlink("x.json", store.layout.of("roots", "link"))
    assert looked(store.root).place.open_to_all == ("entries", "roots/x.json")
    tmp_path.chmod(0o777)
    assert looked(store.root).place.exposed == str(tmp_path)
    tmp_path.chmod(0o1777)
    assert looked(store.root).place.exposed is None


def test_the_umask_is_told_without_being_changed(store: Store) -> None:
    before = os.umask(0o027)
    try:
        assert looked(store.root).umask == 0o027
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_names_from_the_future_are_counted(store: Store) -> None:
    later = time.time() + 7200
    Path(store.layout.of("roots", "x.json")).touch()
    os.utime(store.layout.of("roots", "x.json"), (later, later))
    clock = looked(store.root).clock
    assert clock.future == 1
    assert clock.latest == pytest.approx(later, abs=1)


def leave_things_behind(store: Store) -> None:
    """As runs do that are killed: something staged, something dead, a file on its way, an ended lease."""
    dead = "0" * 16
    for name in (f"entries/.new-{dead}.1", f"environments/.dead-{dead}"):
        directory = Path(store.root, name)
        directory.mkdir()
        (directory / "file").write_bytes(b"x" * 100_000)
    Path(store.layout.of("tmp", f"{dead}.2")).touch()
    Path(store.layout.of("leases", f"held.{dead}.-")).write_bytes(codec.dumps({"digests": [], "lock": None}))


def test_leftovers_are_counted_and_those_of_the_living_are_not(store: Store) -> None:
    leave_things_behind(store)
    with leases.take(store.layout) as lease:
        Path(store.layout.of("entries", f".new-{lease.id}.1")).mkdir()
        leftover = looked(store.root).leftover
    assert leftover is not None
    assert leftover.count == 4
    assert 200_000 <= leftover.bytes < 300_000


def test_a_condemned_list_is_stale_only_while_no_gc_is_at_work(store: Store) -> None:
    from vrfstore.store.holds import hold

    Path(store.layout.condemned).write_text("entries/x\n")
    with hold(store.layout.of("gc", "run")):
        assert looked(store.root).leftover == Leftover()
    assert looked(store.root).leftover == Leftover(stale_list=True)


def test_probes_are_removed_even_where_one_of_them_fails(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: str) -> str:
        Path(directory, "half").touch()
        raise PermissionError(1, "not here")

    def full(directory: str) -> str:
        Path(directory, "half").touch()
        raise OSError(28, "no space")

    def broken(directory: str) -> str:
        raise KeyboardInterrupt

    def use(attempt: object) -> None:
        monkeypatch.setattr(looking, "_FEATURES", {"flock": attempt})

    use(refuse)
    assert looked(store.root).probes.failed == {"flock": "not here"}
    use(full)
    assert looked(store.root).probes.untried == "no space"
    use(broken)
    with pytest.raises(KeyboardInterrupt):
        looked(store.root)
    assert litter(store) == []


def test_a_gc_that_takes_the_probes_for_leftovers_is_not_a_fault_of_the_file_system(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    def swept(directory: str) -> str:
        if len(taken) < 2:
            taken.append(directory)
            shutil.rmtree(directory)
        Path(directory, "left").touch()
        return ""

    monkeypatch.setattr(looking, "_FEATURES", {"flock": swept})
    assert looked(store.root).probes.failed == {}
    assert looked(store.root).probes.untried == ""
    assert len(set(taken)) == 2
    assert litter(store) == []


def test_interpreters_of_environments_are_asked_what_they_are(store: Store, tmp_path: Path) -> None:
    wheel = build_wheel(WheelSpec(name="pear"), tmp_path)
    record = make_environment(store, wheel)
    facts = looked(store.root)
    real = base().real
    assert facts.bases == (Base(real=real, version=base().version, environments=1, found=base().version),)
    path = Path(store.layout.record(record.directory))
    value = json.loads(path.read_bytes())
    value["interpreter"]["real"] = str(tmp_path / "gone")
    path.write_bytes(codec.dumps(value))
    (gone,) = looked(store.root).bases
    assert gone.complaint == "it is not there any more"
    path.write_bytes(b"{")
    facts = looked(store.root)
    assert (facts.bases, facts.unread) == ((), 1)


@root_only
def test_nothing_that_somebody_elses_store_names_is_started(store: Store, tmp_path: Path) -> None:
    record = make_environment(store, build_wheel(WheelSpec(name="pear"), tmp_path))
    program, proof = tmp_path / "python", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch {proof}\n")
    program.chmod(0o755)
    path = Path(store.layout.record(record.directory))
    value = json.loads(path.read_bytes())
    value["interpreter"]["real"] = str(program)
    path.write_bytes(codec.dumps(value))
    os.chown(store.root, NOBODY, NOBODY)
    (found,) = looked(store.root).bases
    assert (found.found, found.complaint) == (None, "")
    assert not proof.exists()
    os.chown(store.root, 0, 0)
    (found,) = looked(store.root).bases
    assert found.complaint
    assert proof.exists()


def test_a_default_python_that_is_not_there_is_said(store: Store) -> None:
    facts = look(store.root, {**os.environ, "VRFSTORE_PYTHON": "/nowhere/python"})
    assert facts.tools.python_version is None
    assert "/nowhere/python" in facts.tools.python_complaint


@pytest.mark.parametrize(
    ("script", "version"), [("echo uv 9.8.7", "9.8.7"), ("exit 3", None), ("echo uv", None)]
)
def test_uv_on_path_is_asked_for_its_version(tmp_path: Path, script: str, version: str | None) -> None:
    (tmp_path / "uv").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "uv").chmod(0o755)
    assert looking._uv_on_path(str(tmp_path)) == version
    assert looking._uv_on_path(str(tmp_path / "home")) is None


def test_what_is_not_installed_has_no_version() -> None:
    assert looking._distribution("pip")
    assert looking._distribution("no-such-distribution-here") is None


# Users.


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A directory that every user can reach."""
    for directory in (tmp_path, *tmp_path.parents):
        if not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o055)
    return tmp_path


@root_only
def test_a_store_that_one_may_only_read_is_not_written_to(store: Store, public: Path) -> None:
    before = tree(store.root)

    def ask() -> tuple[Facts, list[tuple[str, str, str]]]:
        fs.on_effect = lambda *_: pytest.fail("something was changed")
        facts = looked(store.root)
        return facts, [(f.subject, f.state, f.message) for f in judge(facts) if f.subject == "store"]

    facts, said = as_nobody(ask)
    assert set(facts.place.unwritable) == set(SUBDIRECTORIES)
    assert facts.probes.untried == f"{store.layout.of('tmp')} may not be written"
    assert said == [
        ("store", "good", f"{store.root}, format {FORMAT}"),
        ("store", "note", f"made by user 0; as user {NOBODY} you get hits from it, and nothing else"),
    ]
    assert tree(store.root) == before


@root_only
def test_a_store_that_one_may_not_look_into_is_said(store: Store, public: Path) -> None:
    Path(store.root).chmod(0o700)
    assert as_nobody(lambda: bad_of_store(store.root)) == [
        f"{store.root}/store.json cannot be read: Permission denied"
    ]
    Path(store.root).chmod(0o755)
    Path(store.layout.of("leases")).chmod(0o700)
    assert as_nobody(lambda: bad_of_store(store.root)) == ["may not be listed: leases"]
    inner = public / "inner"
    inner.mkdir(mode=0o700)
    assert as_nobody(lambda: looked(inner / "store").place.kind) == "hidden"
    assert as_nobody(lambda: bad_of_store(public / "new")) == [
        f"{public / 'new'} is not there, and cannot be made: {public} may not be written"
    ]


@root_only
def test_files_of_root_in_a_store_of_an_ordinary_user_are_found(public: Path) -> None:
    home = public / "theirs"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    root = as_nobody(functools.partial(lambda path: Store.open(path).root, home / "store"))
    assert as_nobody(lambda: bad_of_store(root)) == []
    Path(root, "holds/entry-000").touch()
    place = looked(root).place
    assert place.owner == NOBODY
    assert place.strangers == ((0, 1, "holds/entry-000"),)
    (message,) = as_nobody(lambda: bad_of_store(root))
    assert message.startswith("1 of the names in it is user 0's, such as holds/entry-000")


# The command.


def run(*arguments: str, store: str | None = None) -> Result:
    return CliRunner().invoke(command, list(arguments), obj=store)


def test_the_command_prints_a_line_each_and_the_advice_below(store: Store) -> None:
    leave_things_behind(store)
    done = run("--store", store.root)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"ok    store: {store.root}, format {FORMAT}"
    place = next(
        number for number, line in enumerate(lines) if line.startswith("note  leftovers: 4 of killed")
    )
    assert lines[place + 1] == "      remove them with: vrfstore gc"
    assert "\x1b" not in done.stdout


def test_the_command_ends_with_21_after_all_lines_where_something_is_bad(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    done = run(store=str(tmp_path))
    assert done.exit_code == 21
    assert done.stdout.startswith("BAD   store: ")
    assert "pip: " in done.stdout


def test_json_has_every_finding(store: Store, tmp_path: Path) -> None:
    done = run("--json", store=store.root)
    value = json.loads(done.stdout)
    assert (value["schema_version"], value["status"], value["store"], value["bad"]) == (
        1,
        "done",
        store.root,
        0,
    )
    assert all(set(found) == {"subject", "state", "message", "advice"} for found in value["findings"])
    assert {found["state"] for found in value["findings"]} <= {"good", "note"}
    (tmp_path / "file").touch()
    done = run("--json", "--store", str(tmp_path / "file"))
    assert done.exit_code == 21
    assert json.loads(done.stdout)["bad"] == 1


def test_the_store_is_the_one_of_the_option_then_of_the_variable_then_the_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRFSTORE_HOME", str(tmp_path / "variable"))
    assert doctor.store_root(str(tmp_path / "option"), os.environ) == str(tmp_path / "option")
    assert doctor.store_root(None, os.environ) == str(tmp_path / "variable")
    monkeypatch.delenv("VRFSTORE_HOME")
    assert doctor.store_root(None, os.environ) == str(tmp_path / "home/.local/share/vrfstore")


@pytest.mark.parametrize(("variable", "coloured"), [("", True), ("1", False)])
def test_marks_are_coloured_on_a_terminal_unless_no_color_is_set(
    store: Store, variable: str, coloured: bool
) -> None:
    code = "import sys; from vrfstore.cli.doctor_command import command; command(sys.argv[1:])"
    reader, writer = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--store", store.root],
        stdout=writer,
        env={**os.environ, "NO_COLOR": variable},
    )
    os.close(writer)
    shown = b""
    while True:
        try:
            data = os.read(reader, 1 << 16)
        except OSError:  # EIO: the other end is closed
            break
        shown += data
    os.close(reader)
    assert process.wait() == 0
    assert (b"\x1b[32mok  \x1b[0m  store: " in shown) is coloured
    assert b"ok" in shown
