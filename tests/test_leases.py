"""Leases: alive exactly as long as somebody has them, and nobody sees one that is not."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from support.crash import together
from vrfstore import fs
from vrfstore.gc import scan
from vrfstore.model import Digest
from vrfstore.store import holds, leases
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store

KEY = "e" * 32
DIGESTS = [Digest(digit * 64) for digit in "21"]


def alive(store: Store) -> list[bool]:
    return [lease.alive for lease in leases.read(store.layout)]


def test_a_lease_says_what_it_protects(store: Store) -> None:
    with leases.take(store.layout, environment=KEY, digests=DIGESTS, lock="a" * 64) as lease:
        (found,) = leases.read(store.layout)
        assert found == leases.LeaseRecord(
            name=f"held.{lease.id}.{KEY}",
            id=lease.id,
            environment=KEY,
            digests=frozenset(DIGESTS),
            lock="a" * 64,
            alive=True,
            kind="held",
        )


def test_a_lease_may_protect_nothing_but_what_its_holder_stages(store: Store) -> None:
    with store.session() as lease:
        (found,) = leases.read(store.layout)
        assert (found.id, found.environment, found.digests, found.lock) == (lease.id, None, frozenset(), None)
        assert found.alive


def open_now() -> list[str]:
    """Return the descriptors that are open, but for those that an earlier test has left to the garbage collector."""
    gc.collect()
    return os.listdir("/proc/self/fd")


def test_a_lease_that_is_released_is_gone(store: Store) -> None:
    descriptors = open_now()
    with leases.take(store.layout):
        assert alive(store) == [True]
    assert leases.read(store.layout) == []
    assert os.listdir(store.layout.of("tmp")) == []
    assert open_now() == descriptors


def test_leases_are_many_and_read_in_the_order_of_their_names(store: Store) -> None:
    taken = [leases.take(store.layout, environment=KEY) for _ in range(5)]
    assert [lease.id for lease in leases.read(store.layout)] == sorted(lease.id for lease in taken)
    for lease in taken:
        lease.release()


def in_child(action: Callable[[], object]) -> int:
    """Run an action in a process that stays until it is killed; returns its pid when the action is done."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        action()
        os.write(write, b"done")
        time.sleep(60)
        os._exit(1)
    os.close(write)
    with open(read, "rb", buffering=0) as stream:
        assert stream.read(4) == b"done"
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_lease_dies_with_its_owner(store: Store) -> None:
    owner = in_child(lambda: leases.take(store.layout))
    assert alive(store) == [True]
    kill(owner)
    assert alive(store) == [False]


def test_a_lease_lives_as_long_as_any_process_has_its_descriptor(store: Store) -> None:
    lease = leases.take(store.layout)
    heir = in_child(lambda: None)
    os.close(lease.descriptor)
    assert alive(store) == [True]
    kill(heir)
    assert alive(store) == [False]


@pytest.mark.parametrize("passed", [True, False])
def test_a_program_that_is_started_has_the_lease_only_if_it_is_given_it(store: Store, passed: bool) -> None:
    lease = leases.take(store.layout)
    with subprocess.Popen(["sleep", "60"], pass_fds=[lease.descriptor] if passed else []) as process:
        os.close(lease.descriptor)
        assert alive(store) == [passed]
        process.kill()
    assert alive(store) == [False]


def test_looking_at_a_lease_does_not_end_it(store: Store) -> None:
    with leases.take(store.layout):
        assert [alive(store) for _ in range(3)] == [[True]] * 3


@pytest.mark.parametrize("name", ["until.1.2", "process.1.2.3", "held", "held.x", "odd", "held2.x.y"])
def test_a_lease_of_an_unknown_kind_counts_as_alive_and_may_protect_anything(store: Store, name: str) -> None:
    Path(store.layout.of("leases", name)).touch()
    (found,) = leases.read(store.layout)
    assert (found.name, found.alive, found.digests) == (name, True, None)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"digests":5,"lock":null}', b"\xff"])
def test_a_lease_whose_content_cannot_be_read_may_protect_anything(store: Store, content: bytes) -> None:
    with leases.take(store.layout, environment=KEY) as lease:
        Path(lease.path).write_bytes(content)
        (found,) = leases.read(store.layout)
    assert (found.environment, found.digests, found.alive) == (KEY, None, True)


def test_what_nobody_has_flocked_is_free_and_what_cannot_be_opened_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert leases.is_free(str(tmp_path / "file"))
    assert leases.is_free(str(tmp_path / "absent"))
    assert not leases.is_free(str(tmp_path / "link"))


@pytest.mark.parametrize("mode", [0o644, 0o444])
def test_where_only_what_may_be_written_can_be_locked_a_lease_is_dead_only_if_it_was_locked(
    store: Store, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    lock = filelock.lock_descriptor
    opened = os.open

    def as_nfs_does(descriptor: int, *, blocking: bool) -> bool:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return lock(descriptor, blocking=blocking)

    def for_an_ordinary_user(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY and mode == 0o444:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, flags, *rest)

    with leases.take(store.layout) as held:
        ended = leases.take(store.layout)
        os.close(ended.descriptor)
        monkeypatch.setattr(filelock, "lock_descriptor", as_nfs_does)
        monkeypatch.setattr(os, "open", for_an_ordinary_user)
        alive = {lease.id for lease in leases.read(store.layout) if lease.alive}
        monkeypatch.undo()
    assert alive == ({held.id} if mode == 0o644 else {held.id, ended.id})


def test_a_lease_is_never_seen_in_its_place_without_its_owner(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(_effect: str, _path: str) -> None:
        seen.append(alive(store))

    monkeypatch.setattr(fs, "on_effect", look)
    leases.take(store.layout).release()
    assert [True] in seen
    assert [False] not in seen


def test_a_gc_that_takes_a_lease_in_the_making_for_litter_only_delays_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = open_now()
    swept: list[str] = []

    def sweep(effect: str, _path: str) -> None:
        if effect == "rename" and not swept:
            swept.extend(os.listdir(store.layout.of("tmp")))
            os.unlink(store.layout.of("tmp", swept[0]))

    monkeypatch.setattr(fs, "on_effect", sweep)
    with leases.take(store.layout, environment=KEY):
        assert len(swept) == 1
        assert alive(store) == [True]
        assert os.listdir(store.layout.of("tmp")) == []
    assert open_now() == descriptors


def test_a_gc_that_has_a_lease_in_the_making_flocked_only_delays_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [False, False]
    try_ = holds.locked
    monkeypatch.setattr(leases, "locked", lambda descriptor: answers.pop() if answers else try_(descriptor))
    with leases.take(store.layout):
        assert answers == []
        assert alive(store) == [True]
        assert os.listdir(store.layout.of("tmp")) == []


def test_leases_are_taken_while_leftovers_are_looked_for_without_pause(store: Store) -> None:
    until = time.monotonic() + 1

    def take() -> int:
        number = 0
        while time.monotonic() < until:
            with leases.take(store.layout) as lease:
                assert isinstance(lease, Lease)
                assert os.path.exists(lease.path)
            number += 1
        return number

    def sweep() -> int:
        number = 0
        while time.monotonic() < until:
            for path in scan.leftovers(store).files:
                fs.remove_tree(path)
            number += 1
        return number

    taken, swept = together(take, sweep)
    assert taken > 10
    assert swept > 10


def test_a_failure_leaves_no_descriptor_open(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptors = open_now()

    def full(_source: str, target: str) -> None:
        raise OSError(28, os.strerror(28), target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        leases.take(store.layout)
    assert open_now() == descriptors
