"""Full disks: a store keeps a megabyte for its gc, which then needs nothing that it could be refused."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import shutil
import string
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.crash import dangling, litter, make_environment
from support.faults import mounted
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.cli.running import run
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.store import ballast, leases
from vrfstore.store.holds import hold
from vrfstore.store.layout import DEAD_PREFIX, STAGING_PREFIX
from vrfstore.store.store import Store

EVERYTHING = Policy(max_age=0, grace=0)


def room(monkeypatch: pytest.MonkeyPatch, *, free: int, files: int = 1000, of: int = 2000) -> None:
    """Let file systems say that so many bytes, and so many of so many files, are free."""
    told = SimpleNamespace(f_bavail=free // 1024, f_frsize=1024, f_files=of, f_favail=files)
    monkeypatch.setattr(os, "statvfs", lambda _path: told)


def test_a_store_has_ballast_that_takes_room(store: Store) -> None:
    found = os.lstat(store.layout.ballast)
    assert (found.st_size, found.st_blocks * 512 >= ballast.SIZE) == (ballast.SIZE, True)
    Store.open(store.root)
    assert os.lstat(store.layout.ballast).st_ino == found.st_ino


def test_looking_at_a_store_makes_no_ballast(store: Store) -> None:
    os.unlink(store.layout.ballast)
    Store.open(store.root, to_look=True)
    assert not os.path.exists(store.layout.ballast)


def test_no_ballast_is_made_while_a_gc_is_at_work(store: Store) -> None:
    os.unlink(store.layout.ballast)
    with hold(store.layout.of("gc", "run")):
        Store.open(store.root)
        assert not os.path.exists(store.layout.ballast)
    Store.open(store.root)
    assert os.path.exists(store.layout.ballast)


def test_all_that_a_gc_writes_is_there_before_it_is_needed(store: Store) -> None:
    before = set(os.listdir(store.layout.of("gc")))
    made: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fs, "on_effect", lambda name, path: made.append(path) if name in {"write", "mkdir"} else None
        )
        sweep.collect(store, EVERYTHING)
    assert made == []
    assert set(os.listdir(store.layout.of("gc"))) == before == {"run", "spare", "ballast"}


@pytest.mark.parametrize(
    ("free", "files", "of", "given"),
    [
        (ballast.SIZE - 1024, 1000, 2000, True),
        (0, 1000, 2000, True),
        (1 << 30, 0, 2000, True),
        (ballast.SIZE, 1, 2000, False),
        (1 << 30, 0, 0, False),
    ],
    ids=["little", "nothing", "no inode", "enough", "inodes are not counted"],
)
def test_ballast_is_given_back_when_almost_nothing_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch, free: int, files: int, of: int, given: bool
) -> None:
    room(monkeypatch, free=free, files=files, of=of)
    assert ballast.free(store.layout) is given
    assert os.path.exists(store.layout.ballast) is not given
    assert not ballast.free(store.layout)


def test_ballast_is_given_back_to_who_was_refused_room_whatever_the_disk_says(store: Store) -> None:
    assert not ballast.free(store.layout)
    assert ballast.free(store.layout, refused=True)
    assert not ballast.free(store.layout, refused=True)


@pytest.mark.parametrize(
    ("free", "files", "made"),
    [(8 * ballast.SIZE, 1, True), (8 * ballast.SIZE - 1024, 1, False), (1 << 30, 0, False)],
)
def test_ballast_is_made_again_only_where_it_is_in_nobodys_way(
    store: Store, monkeypatch: pytest.MonkeyPatch, free: int, files: int, made: bool
) -> None:
    ballast.free(store.layout, refused=True)
    room(monkeypatch, free=free, files=files)
    ballast.refill(store.layout)
    assert os.path.exists(store.layout.ballast) is made


def test_who_has_no_room_for_ballast_is_not_taken_for_a_gc(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast.free(store.layout, refused=True)
    held: list[str] = []

    def noted(path: str, *, timeout: float) -> contextlib.AbstractContextManager[None]:
        held.append(path)
        return hold(path, timeout=timeout)

    monkeypatch.setattr(ballast, "hold", noted)
    room(monkeypatch, free=8 * ballast.SIZE - 1024)
    Store.open(store.root)
    assert held == []
    room(monkeypatch, free=8 * ballast.SIZE)
    Store.open(store.root)
    assert held == [store.layout.of("gc", "run")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_where_there_is_less_room_than_was_said_nothing_is_left_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    ballast.free(store.layout, refused=True)

    def refuse(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    ballast.refill(store.layout)
    assert not os.path.exists(store.layout.ballast)


def test_a_disk_that_is_broken_is_no_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ballast.free(store.layout, refused=True)

    def refuse(*_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        ballast.refill(store.layout)
    assert caught.value.filename == store.layout.ballast


STRANGE: dict[str, Callable[[Path, Path], object]] = {
    "half": lambda path, _: path.write_bytes(b"x" * 1000),
    "a symlink": lambda path, outside: path.symlink_to(outside),
    "a hard link": lambda path, outside: path.hardlink_to(outside),
    "a directory": lambda path, _: (path / "deep/er").mkdir(parents=True),
    "a pipe": lambda path, _: os.mkfifo(path),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_whatever_is_in_its_place_is_replaced_and_nothing_outside_touched(
    store: Store, tmp_path: Path, strange: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"k" * (2 * ballast.SIZE))
    path = Path(store.layout.ballast)
    path.unlink()
    STRANGE[strange](path, outside)
    ballast.refill(store.layout)
    found = path.lstat()
    assert (found.st_size, found.st_nlink, path.is_symlink()) == (ballast.SIZE, 1, False)
    assert outside.read_bytes() == b"k" * (2 * ballast.SIZE)


def fill_bytes(place: Path) -> None:
    """Leave not a single free block."""
    for number, size in enumerate(itertools.chain(*([1 << power] * 2 for power in range(26, 8, -1)))):
        with contextlib.suppress(OSError), open(place / f"full-{number}", "wb") as stream:
            while True:
                os.posix_fallocate(stream.fileno(), os.fstat(stream.fileno()).st_size, size)
    for number in itertools.count():
        try:
            (place / f"small-{number}").write_bytes(b"x" * 4096)
        except OSError:
            break
    found = os.statvfs(place)
    # xfs keeps some blocks of each allocation group for itself, which it counts as free.
    assert found.f_bavail * found.f_frsize <= 1 << 16, found


def fill_inodes(place: Path) -> None:
    """Leave not a single free inode, but bytes."""
    with contextlib.suppress(OSError):
        for number in itertools.count():
            (place / f"full-{number}").touch()
    found = os.statvfs(place)
    assert (found.f_favail, found.f_bavail > 0) == (0, True)


FILL = {"bytes": fill_bytes, "inodes": fill_inodes}


def fill_directory(store: Store, part: str) -> None:
    """Leave no room in the blocks of a directory for another name; a live lease keeps those that fill it."""
    lease = leases.take(store.layout)
    fill_bytes(Path(store.root).parent)
    source = store.layout.of("gc", "run")
    letters = string.ascii_letters + string.digits
    for suffixes in (itertools.product(letters, letters, letters, "x" * 8), itertools.product(letters)):
        with contextlib.suppress(OSError):
            for suffix in suffixes:
                name = f"{STAGING_PREFIX}{lease.id}.{''.join(suffix)}"
                os.link(source, store.layout.of(part, name))


def collect_on_a_full_disk(folder: str, what: str) -> None:
    """Fill a disk with a store on it, and collect."""
    wheels = sorted(Path(f"{folder}.wheels").iterdir())
    store = Store.open(f"{folder}/store")
    make_environment(store, *wheels)
    assert os.path.exists(store.layout.ballast)
    time.sleep(0.01)
    FILL[what](Path(folder))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        Path(folder, "more").write_text("x")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(["--store", store.root, "gc", "--json", "--max-age", "0"]) == 0
    report = json.loads(out.getvalue())
    assert report["problems"] == []
    assert report["bytes_freed"] > 0
    assert [*store.environments(), *store.entries(), *litter(store)] == []
    # Of one of them: what is made on the way, as leases, has not been there before.
    record = make_environment(Store.open(store.root), wheels[0])
    assert dangling(store.layout.of("environments", record.directory)) == []


def collect_in_a_full_directory(folder: str) -> None:
    """Collect where renaming aside needs a block, and there is none but for the ballast."""
    store = Store.open(f"{folder}/store")
    directory = make_environment(store, *Path(f"{folder}.wheels").iterdir()).directory
    time.sleep(0.01)
    fill_directory(store, "environments")
    path = store.layout.of("environments", directory)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        fs.rename(path, store.layout.of("environments", f"{DEAD_PREFIX}{fs.unique_name()}"))
    report = sweep.collect(store, EVERYTHING)
    assert (report.environments, report.problems) == ((directory,), ())
    assert not os.path.lexists(store.layout.ballast)


DISKS = {
    ("ext4", "bytes"): "mkfs.ext4 -q -m 0 -O ^dir_index",
    ("ext4", "inodes"): "mkfs.ext4 -q -m 0 -N 512",
    ("tmpfs", "bytes"): "size=24m",
    ("tmpfs", "inodes"): "size=24m,nr_inodes=512",
    ("xfs", "bytes"): "mkfs.xfs -q",
    ("btrfs", "bytes"): "mkfs.btrfs -q",
}

SIZES = {"xfs": "320M", "btrfs": "128M"}
"""What the smallest file systems of these kinds take."""


def on_disk(folder: Path, kind: tuple[str, str], program: str) -> None:
    """Run a program where a small disk is mounted; skip where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    name, options = kind[0], DISKS[kind]
    if name == "tmpfs":
        command = f'mount -t tmpfs -o {options} none "$2"'
    else:
        if shutil.which(f"mkfs.{name}", path="/sbin:/usr/sbin:/bin:/usr/bin") is None:
            pytest.skip(f"there is no mkfs.{name}")
        size = SIZES.get(name, "24M")
        command = f'truncate -s {size} "$2.image" && {options} "$2.image" && mount -o loop "$2.image" "$2"'
    trial = mounted(command, folder, "")
    if trial.returncode:
        pytest.skip(f"nothing may be mounted here: {trial.stderr.strip()}")
    (folder.parent / f"{folder.name}.image").unlink(missing_ok=True)
    ran = mounted(command, folder, f"import sys; from test_ballast import *; {program}")
    assert ran.returncode == 0, ran.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a disk can be mounted, and wheels beside it."""
    (tmp_path / "disk.wheels").mkdir()
    for name in ("ant", "bee"):
        spec = WheelSpec(name=name, files={f"{name}/__init__.py": "", f"{name}/data": os.urandom(1 << 17)})
        build_wheel(spec, tmp_path / "disk.wheels")
    path = tmp_path / "disk"
    path.mkdir()
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", DISKS, ids=" ".join)
def test_a_gc_on_a_disk_without_a_free_block_or_inode_frees_and_then_a_link_works(
    folder: Path, kind: tuple[str, str]
) -> None:
    on_disk(folder, kind, f"collect_on_a_full_disk(sys.argv[1], {kind[1]!r})")


@pytest.mark.slow
def test_the_ballast_is_what_a_full_directory_on_a_full_disk_needs(folder: Path) -> None:
    on_disk(folder, ("ext4", "bytes"), "collect_in_a_full_directory(sys.argv[1])")
