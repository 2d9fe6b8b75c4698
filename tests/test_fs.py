"""The effects: hard links where there can be none, removal that follows nothing, modes to the bit."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from support.crash import NOBODY, as_nobody, stats, tree
from support.faults import mounted
from vrfstore import fs

NO_LINKS_HERE = [errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EACCES, errno.ENOTSUP]
LARGE = b"x" * (64 * 1024 + 1)


def refuse_links(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(source: str, _path: str, **_options: bool) -> None:
        raise OSError(code, os.strerror(code), source)

    monkeypatch.setattr(os, "link", refuse)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A program as an entry has it, for links in a sibling directory."""
    path = tmp_path / "store/entry/program"
    for directory in (path.parent, tmp_path / "store/environment"):
        directory.mkdir(parents=True)
    path.write_bytes(b"content")
    path.chmod(0o555)
    return path


@pytest.fixture
def target(source: Path) -> Path:
    """Where the link goes."""
    return source.parent.parent / "environment/program"


def test_a_hard_link_shares_the_inode_of_a_file_and_of_a_symlink_itself(source: Path, target: Path) -> None:
    link = source.with_name("link")
    link.symlink_to("nowhere")
    fs.hard_link(str(source), str(target))
    fs.hard_link(str(link), f"{target}-link")
    assert target.stat().st_ino == source.stat().st_ino
    assert os.lstat(f"{target}-link").st_ino == link.lstat().st_ino


@pytest.mark.parametrize("code", NO_LINKS_HERE, ids=errno.errorcode.get)
def test_where_no_hard_link_can_be_a_symlink_is_made_anew(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse_links(monkeypatch, code)
    link = source.with_name("link")
    link.symlink_to("../anywhere")
    fs.hard_link(str(link), str(target))
    assert os.readlink(target) == "../anywhere"


@pytest.mark.parametrize("code", NO_LINKS_HERE, ids=errno.errorcode.get)
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_where_no_hard_link_can_be_a_small_file_is_copied_with_its_mode(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, code: int, umask: int
) -> None:
    refuse_links(monkeypatch, code)
    before = os.umask(umask)
    fs.hard_link(str(source), str(target))
    os.umask(before)
    assert (target.is_symlink(), target.read_bytes()) == (False, b"content")
    assert stat.S_IMODE(target.stat().st_mode) == 0o555
    assert target.stat().st_ino != source.stat().st_ino


@pytest.mark.parametrize("code", NO_LINKS_HERE, ids=errno.errorcode.get)
def test_where_no_hard_link_can_be_a_large_file_is_linked_to_relatively(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    refuse_links(monkeypatch, code)
    large = source.with_name("large")
    large.write_bytes(LARGE)
    fs.hard_link(str(large), str(target))
    assert os.readlink(target) == "../entry/large"
    moved = (tmp_path / "store").rename(tmp_path / "moved")
    assert (moved / "environment/program").read_bytes() == LARGE


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_other_failures_of_a_hard_link_are_not_hidden(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse_links(monkeypatch, code)
    with pytest.raises(OSError, match=os.strerror(code)):
        fs.hard_link(str(source), str(target))
    assert not os.path.lexists(target)


def test_links_to_one_inode_run_out_and_then_copies_are_made(source: Path, target: Path) -> None:
    limit = os.pathconf(source, "PC_LINK_MAX")
    if not 0 < limit <= 70_000:
        pytest.skip(f"the file system allows {limit} links, which takes too long to use up")
    for number in range(limit + 1):
        fs.hard_link(str(source), f"{target}{number}")
    assert source.stat().st_nlink == limit
    assert Path(f"{target}{limit}").read_bytes() == b"content"


@pytest.mark.parametrize("code", [None, *NO_LINKS_HERE])
def test_a_hard_link_replaces_nothing(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    if code is not None:
        refuse_links(monkeypatch, code)
    target.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        fs.hard_link(str(source), str(target))
    assert target.read_bytes() == b"mine"


def test_removal_takes_a_sealed_tree_with_everything_in_it(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for place in ("a/b/c", "a/empty"):
        (root / place).mkdir(parents=True)
    (root / "a/b/c/file").write_text("")
    (root / "a/link").symlink_to("nowhere")
    os.mkfifo(root / "a/fifo")
    for path in [*root.rglob("*"), root]:
        if not path.is_symlink():
            path.chmod(0o000 if path.is_file() else 0o555)
    fs.remove_tree(str(root))
    assert not os.path.lexists(root)


@pytest.mark.parametrize("kind", ["file", "link", "absent"])
def test_removal_takes_what_is_no_tree_too(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    before = tree(tmp_path)
    path = tmp_path / "name"
    if kind == "file":
        path.touch()
    if kind == "link":
        path.symlink_to(outside)
    fs.remove_tree(str(path))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["", "sub", "sub/sub"])
@pytest.mark.parametrize("absolute", [True, False])
def test_removal_never_follows_a_symlink(tmp_path: Path, place: str, absolute: bool) -> None:
    outside = tmp_path / "outside"
    (outside / "directory").mkdir(parents=True)
    (outside / "file").write_text("kept")
    outside.chmod(0o555)
    before = tree(tmp_path)
    root = tmp_path / "tree"
    (root / place).mkdir(parents=True)
    for name in ("", "/file", "/directory"):
        path = f"{outside}{name}"
        link = root / place / f"link{name.replace('/', '-')}"
        link.symlink_to(path if absolute else os.path.relpath(path, root / place))
    fs.remove_tree(str(root))
    assert tree(tmp_path) == before
    assert stat.S_IMODE(outside.stat().st_mode) == 0o555


def test_a_directory_swapped_for_a_link_while_it_is_removed_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    victim = tmp_path / "tree/victim"
    victim.mkdir(parents=True)
    open_ = os.open

    def swap(path: str, flags: int, *mode: int, dir_fd: int | None = None) -> int:
        if path == "victim" and not victim.is_symlink():
            victim.rename(tmp_path / "elsewhere")
            victim.symlink_to(outside)
        return open_(path, flags, *mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swap)
    fs.remove_tree(str(tmp_path / "tree"))
    assert (outside / "file").read_text() == "kept"
    assert not (tmp_path / "tree").exists()


ODD_NAMES = [
    b"\n",
    b"two\nlines",
    b"\xff\xfe\x80",
    b"\x1b[31m",
    b" ",
    b"...",
    b"-rf",
    b"*",
    b"x" * 255,
    "\u00e4\U0001f40d".encode(),
    b"mnt_id:\t0",
]


def test_names_may_be_anything_that_a_file_system_allows(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "tree")
    for name in ODD_NAMES:
        for child in ODD_NAMES:
            os.makedirs(b"%b/%b/%b" % (root, name, child))
            Path(os.fsdecode(b"%b/%b/%b/%b" % (root, name, child, name))).touch()
    fs.remove_tree(os.fsdecode(root))
    assert not os.path.lexists(root)


def test_a_tree_whose_paths_are_too_long_for_any_call_goes_all_the_same(tmp_path: Path) -> None:
    name, depth = "x" * 255, 3 * 64 + 1
    (tmp_path / "tree").mkdir()
    here = os.open(tmp_path / "tree", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    fs.remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()


def bushy(root: Path) -> None:
    """Make a tree with directories in it on several levels, and files in all of them."""
    for place in ("", "one", "one/two", "one/two/three", "four"):
        (root / place).mkdir(parents=True)
        for name in ("file", "other"):
            (root / place / name).write_text("kept")


def swap_all(root: Path, outside: Path, aside: Path) -> None:
    """Put links to directories outside, with the same names in them, in the place of the directories of a tree."""
    for place in ("one/two/three", "one/two", "one", "four"):
        if not (root / place).is_symlink() and (root / place).is_dir():
            (root / place).rename(aside / place.replace("/", "-"))
            (root / place).symlink_to(outside / place)


def test_directories_swapped_for_links_at_any_moment_of_a_removal_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    bushy(outside)
    before = stats(outside)
    open_, moments = os.open, 0

    def attack(at: int) -> int:
        """Remove a tree of which the directories are swapped at a moment: an effect, or a file that is opened."""
        nonlocal moments
        root, aside = tmp_path / f"tree-{at}", tmp_path / f"aside-{at}"
        bushy(root)
        aside.mkdir()
        moments = 0

        def moment(*_: object) -> None:
            nonlocal moments
            moments += 1
            if moments == at:
                swap_all(root, outside, aside)

        def watched(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            moment()
            return open_(path, flags, mode, dir_fd=dir_fd)

        with monkeypatch.context() as patch:
            patch.setattr(fs, "on_effect", moment)
            patch.setattr(os, "open", watched)
            try:
                fs.remove_tree(str(root))
            except NotADirectoryError:  # a directory that was empty, and is a link by now
                assert at
        fs.remove_tree(str(root))
        assert not os.path.lexists(root)
        return moments

    for at in range(1, attack(0) + 1):
        attack(at)
        assert stats(outside) == before, at


def test_what_cannot_be_removed_is_named_and_all_the_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bushy(tmp_path / "tree")
    unlink = os.unlink

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if path == "other" and os.path.basename(os.readlink(f"/proc/self/fd/{dir_fd}")) == "two":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        unlink(path, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
            fs.remove_tree(str(tmp_path / "tree"))
    assert caught.value.filename == str(tmp_path / "tree/one/two/other")
    assert list(tree(tmp_path / "tree")) == ["one", "one/two", "one/two/other"]
    fs.remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()


def test_what_a_removal_says_it_freed_is_what_has_lost_its_last_link(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    bushy(root)
    (root / "one/large").write_bytes(b"x" * 100_000)
    (root / "four/again").hardlink_to(root / "one/large")
    (root / "one/shared").write_bytes(b"x" * 50_000)
    (tmp_path / "outside").hardlink_to(root / "one/shared")
    (root / "link").symlink_to("x" * 100)
    deep = root.joinpath(*["d"] * 100)
    deep.mkdir(parents=True)
    inodes = {found.st_ino: found for found in (path.lstat() for path in [root, *root.rglob("*")])}
    del inodes[(tmp_path / "outside").stat().st_ino]
    freed: list[int] = []
    fs.remove_tree(str(root), freed=freed.append)
    assert sum(freed) == sum(found.st_blocks * 512 for found in inodes.values())


def test_what_is_left_is_not_said_to_be_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("stays", "goes"):
        (root / name).write_bytes(b"x" * 4096)
    expected = (root / "goes").stat().st_blocks * 512
    unlink = os.unlink

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if path == "stays":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    freed: list[int] = []
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        fs.remove_tree(str(root), freed=freed.append)
    assert freed == [expected]


def test_what_somebody_else_removes_meanwhile_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bushy(tmp_path / "tree")
    unlink = os.unlink

    def race(path: str, *, dir_fd: int | None = None) -> None:
        unlink(path, dir_fd=dir_fd)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", race)
    fs.remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
def test_a_directory_of_somebody_else_stays_unless_it_is_empty() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "tree")
        bushy(root)
        (root / "empty").mkdir()
        for path in [Path(name), root, *root.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
        for path in (root / "one/two", root / "empty"):
            os.chown(path, 0, 0)

        def remove() -> str:
            with pytest.raises(PermissionError) as caught:
                fs.remove_tree(str(root))
            return str(caught.value.filename)

        assert as_nobody(remove) in {str(root / f"one/two/{left}") for left in ("file", "other", "three")}
        # Whose files they are does not matter, whose directory they are in does.
        assert sorted(tree(root)) == ["one", "one/two", "one/two/file", "one/two/other", "one/two/three"]


MOUNTS = {
    "another file system": 'mount -t tmpfs none "$2/tree/one/two"',
    "another file system, without proc": 'mount -t tmpfs none "$2/tree/one/two" && umount -l /proc',
    "the same one once more": 'mount --bind "$2/outside" "$2/tree/one/two"',
    "the same one once more, without statx": 'mount --bind "$2/outside" "$2/tree/one/two"',
    "a part of itself": 'mount --bind "$2/tree/four" "$2/tree/one/two"',
    "below what is too deep": 'mkdir -p "$2/tree/one/two$(printf "/d%.0s" $(seq 200))" && '
    'mount --bind "$2/outside" "$2/tree/one/two$(printf "/d%.0s" $(seq 200))"',
    "one file": 'mount --bind "$2/outside/file" "$2/tree/one/two/other"',
    "the tree": 'mount --bind "$2/outside" "$2/tree"',
    "one that is shut": 'chmod 0 "$2/outside/four" && mount --bind "$2/outside/four" "$2/tree/one/two"',
}


def remove_what_has_a_mount_in_it(folder: str, mount: str) -> None:
    """Try to remove a tree, and say what is left and why."""
    if mount.endswith("without statx"):
        fs._Statx._loaded = True
    outside = stats(Path(folder, "outside"))
    with pytest.raises(OSError, match=r".") as caught:
        fs.remove_tree(f"{folder}/tree")
    assert str(caught.value.filename).startswith(f"{folder}/tree")
    assert stats(Path(folder, "outside")) == outside
    print(json.dumps([caught.value.errno, sorted(os.listdir(f"{folder}/tree"))]))  # noqa: T201 - for the test


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("mount", MOUNTS)
def test_what_is_mounted_in_a_tree_is_not_gone_into_and_the_rest_goes(tmp_path: Path, mount: str) -> None:
    for name in ("tree", "outside"):
        bushy(tmp_path / name)
    program = f"import sys; from test_fs import *; remove_what_has_a_mount_in_it(sys.argv[1], {mount!r})"
    trial = mounted(MOUNTS[mount], tmp_path, "")
    if trial.returncode:
        pytest.skip(f"nothing may be mounted here: {trial.stderr.strip()}")
    if mount == "below what is too deep":
        fs.remove_tree(str(tmp_path / "tree"))
        bushy(tmp_path / "tree")
    ran = mounted(MOUNTS[mount], tmp_path, program)
    assert ran.returncode == 0, ran.stderr
    code, left = json.loads(ran.stdout)
    assert code == (errno.EBUSY if mount == "one file" else errno.EXDEV)
    if mount == "the tree":
        assert left == ["file", "four", "one", "other"]
    else:
        assert not {"file", "other", "four"} & set(left)
    # In the namespace that has no such mount there is nothing in the way.
    fs.remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize("size", [4096, 1 << 20])
def test_allocated_room_is_really_taken(tmp_path: Path, size: int) -> None:
    with fs.NewFile(str(tmp_path / "file")) as file:
        file.allocate(size)
    found = (tmp_path / "file").stat()
    assert found.st_size == size
    assert found.st_blocks * 512 >= size


@pytest.mark.parametrize("promise", ["refused", "empty"])
def test_where_room_cannot_be_allocated_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promise: str
) -> None:
    def fake(descriptor: int, _offset: int, size: int) -> None:
        if promise == "refused":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        os.truncate(descriptor, size)

    monkeypatch.setattr(os, "posix_fallocate", fake)
    with fs.NewFile(str(tmp_path / "file")) as file:
        file.allocate(1 << 16)
    found = (tmp_path / "file").stat()
    assert (found.st_size, found.st_blocks * 512 >= 1 << 16) == (1 << 16, True)


CHANGES: dict[str, Callable[[Path], object]] = {
    "longer": lambda path: path.write_text("longer"),
    "as long": lambda path: path.write_text("other"),
    "touched": lambda path: os.utime(path, (1, 1)),
    "mode": lambda path: path.chmod(0o600),
    "replaced": lambda path: (path.rename(path.with_name("old")), path.write_text("first")),
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_token_changes_with_its_file(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    path.write_text("first")
    os.utime(path, (0, 0))
    before = fs.stat_token(str(path))
    assert fs.stat_token(str(path)) == before
    CHANGES[change](path)
    assert fs.stat_token(str(path)) != before


def test_a_token_names_device_inode_size_and_times_of_what_a_link_leads_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("12345")
    (tmp_path / "link").symlink_to(path)
    found = path.stat()
    token = f"{found.st_dev}:{found.st_ino}:5:{found.st_mtime_ns}:{found.st_ctime_ns}"
    assert fs.stat_token(str(path)) == fs.stat_token(str(tmp_path / "link")) == token


def test_what_is_not_there_has_a_token_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("absent", "absent/deeper", "file/below", "link"):
        assert fs.stat_token(str(tmp_path / name)) == "-"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o444, 0o555, 0o644, 0o755])
def test_a_new_file_has_exactly_its_mode_and_content(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "file"
    before = os.umask(umask)
    fs.write_file(str(path), b"content", mode=mode, sync=True)
    os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"content"


def test_a_new_file_counts_what_it_was_given(tmp_path: Path) -> None:
    with fs.NewFile(str(tmp_path / "file")) as file:
        for data in (b"", b"one", LARGE):
            file.write(data)
    assert file.size == (tmp_path / "file").stat().st_size == 3 + len(LARGE)


def test_a_new_file_that_was_not_finished_is_nobody_elses(tmp_path: Path) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(TypeError), fs.NewFile(str(tmp_path / "file"), mode=0o644) as file:
        file.write(None)  # type: ignore[arg-type]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link", "link"])
def test_a_new_file_replaces_nothing_and_follows_no_link(tmp_path: Path, kind: str) -> None:
    path, outside = tmp_path / "name", tmp_path / "outside"
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(outside)
        if kind == "link":
            outside.write_text("kept")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError):
        fs.write_file(str(path), b"content")
    assert tree(tmp_path) == before


def test_partial_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:7], offset))
    path = str(tmp_path / "file")
    fs.write_file(path, b"0123456789" * 3)
    assert Path(path).read_bytes() == b"0123456789" * 3
    with open(path, "r+b") as stream:
        fs.overwrite(stream.fileno(), path, b"abcdefghij" * 2)
    assert Path(path).read_bytes() == b"abcdefghij" * 2 + b"0123456789"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS], ids=errno.errorcode.get)
def test_a_stamp_that_is_not_allowed_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "record"
    path.touch()

    def refuse(path: str) -> None:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(os, "utime", refuse)
    assert fs.stamp(str(path))
    assert not fs.stamp(str(tmp_path / "absent"))


def test_a_stamp_is_now_and_says_whether_there_is_something_to_stamp(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.touch()
    os.utime(path, (0, 0))
    (tmp_path / "now").touch()
    assert fs.stamp(str(path))
    assert path.stat().st_mtime >= (tmp_path / "now").stat().st_mtime
    assert not fs.stamp(str(tmp_path / "absent"))


def test_removing_a_file_says_whether_it_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert fs.remove_file(str(tmp_path / "file"))
    assert not fs.remove_file(str(tmp_path / "file"))


def test_syncing_reports_what_the_disk_says(tmp_path: Path) -> None:
    fs.sync_filesystem(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        fs.sync_filesystem(str(tmp_path / "absent"))


def test_every_effect_is_announced_before_it_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str, bool]] = []
    monkeypatch.setattr(fs, "on_effect", lambda name, path: told.append((name, path, os.path.lexists(path))))
    root = str(tmp_path / "root")
    fs.make_directory(root)
    fs.write_file(f"{root}/file", b"")
    fs.symlink("file", f"{root}/link")
    fs.hard_link(f"{root}/file", f"{root}/hard")
    fs.rename(f"{root}/hard", f"{root}/moved")
    fs.change_mode(f"{root}/file", 0o444)
    fs.stamp(f"{root}/file")
    fs.remove_file(f"{root}/moved")
    fs.sync_filesystem(root)
    fs.remove_file(f"{root}/link")
    fs.remove_tree(root)
    assert told == [
        ("mkdir", root, False),
        ("write", f"{root}/file", False),
        ("symlink", f"{root}/link", False),
        ("link", f"{root}/hard", False),
        ("rename", f"{root}/moved", False),
        ("chmod", f"{root}/file", True),
        ("stamp", f"{root}/file", True),
        ("unlink", f"{root}/moved", True),
        ("sync", root, True),
        ("unlink", f"{root}/link", True),
        ("unlink", f"{root}/file", True),
        ("rmdir", root, True),
    ]


def test_a_tree_goes_into_which_somebody_is_still_putting_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    late = [tree / "inner/late", tree / "later"]

    def put(effect: str, _path: str) -> None:
        if effect == "rmdir" and late:
            late.pop(0).touch()

    monkeypatch.setattr(fs, "on_effect", put)
    fs.remove_tree(str(tree))
    assert not tree.exists()
    assert late == []
