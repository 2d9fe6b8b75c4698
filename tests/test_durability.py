"""What is published is on the disk, with as few syncs as will do, and never on the word of one that failed."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.store.durability import GroupSync
from vrfstore.store.store import Store


@dataclass
class Disk:
    """A disk whose syncs last until the test ends them; each has a number, from 1."""

    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    proceed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    syncs: int = 0
    finished: int = 0
    failing: BaseException | None = None

    def sync(self, _descriptor: int) -> None:
        self.syncs += 1
        failing = self.failing
        self.begun.release()
        self.proceed.acquire(timeout=20)  # rather than hang
        if failing is not None:
            raise failing
        self.finished += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk that everything is synced to."""
    disk = Disk()
    monkeypatch.setattr(fs, "_syncfs", disk.sync)
    return disk


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Callers."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


def arrive(group: GroupSync, pool: ThreadPoolExecutor, folder: Path, count: int = 1) -> list[Future[None]]:
    """Let some callers come, and wait until they wait."""
    before = len(group._changed._waiters)  # type: ignore[attr-defined]
    futures = [pool.submit(group.sync, str(folder)) for _ in range(count)]
    while len(group._changed._waiters) < before + count:  # type: ignore[attr-defined]
        time.sleep(0.001)
    return futures


def test_a_sync_that_was_under_way_counts_for_nobody_who_came_later(
    disk: Disk, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    group = GroupSync()
    first = pool.submit(group.sync, str(tmp_path))
    disk.begun.acquire(timeout=20)
    later = arrive(group, pool, tmp_path, 5)
    disk.proceed.release()
    first.result()
    disk.begun.acquire(timeout=20)
    assert not any(future.done() for future in later)
    # These come while the second one runs, which serves the five; they need a third.
    last = arrive(group, pool, tmp_path, 3)
    disk.proceed.release()
    for future in later:
        future.result()
    assert disk.finished == 2
    disk.begun.acquire(timeout=20)
    assert not any(future.done() for future in last)
    disk.proceed.release()
    for future in last:
        future.result()
    assert (disk.syncs, disk.finished) == (3, 3)


def test_one_after_the_other_each_syncs(disk: Disk, tmp_path: Path) -> None:
    group = GroupSync()
    disk.proceed.release(3)
    for number in (1, 2, 3):
        group.sync(str(tmp_path))
        assert disk.finished == number


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_sync_that_fails_fails_for_all_who_wait_and_for_nobody_after(
    disk: Disk, pool: ThreadPoolExecutor, tmp_path: Path, code: int
) -> None:
    group = GroupSync()
    disk.failing = OSError(code, "failed")
    futures = [pool.submit(group.sync, str(tmp_path))]
    disk.begun.acquire(timeout=20)
    # The kernel says it once. A further sync would succeed, without what these have written.
    futures += arrive(group, pool, tmp_path, 4)
    disk.failing = None
    disk.proceed.release()
    errors = [future.exception() for future in futures]
    assert [isinstance(error, OSError) and error.errno for error in errors] == [code] * 5
    assert len(set(map(id, errors))) == 5
    disk.proceed.release()
    group.sync(str(tmp_path))
    assert (disk.syncs, disk.finished) == (2, 1)


def test_whoever_waits_for_one_that_is_interrupted_tries_for_himself(
    disk: Disk, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    group = GroupSync()
    disk.failing = KeyboardInterrupt()
    first = pool.submit(group.sync, str(tmp_path))
    disk.begun.acquire(timeout=20)
    (other,) = arrive(group, pool, tmp_path)
    disk.failing = None
    disk.proceed.release()
    assert isinstance(first.exception(), KeyboardInterrupt)
    disk.proceed.release()
    other.result()
    assert (disk.syncs, disk.finished) == (2, 1)


def test_nobody_returns_before_a_sync_that_began_after_he_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A logical clock: every event has its own number.
    guard = threading.Lock()
    events: list[tuple[str, int]] = []
    under_way: list[int] = []

    def note(kind: str, number: int) -> None:
        with guard:
            events.append((kind, number))

    def sync(_descriptor: int) -> None:
        with guard:
            under_way.append(len(under_way))
            number = under_way[-1]
            events.append(("begin", number))
        time.sleep(0.0005)
        note("end", number)

    monkeypatch.setattr(fs, "_syncfs", sync)
    group = GroupSync()

    def call(number: int) -> None:
        note("call", number)
        group.sync(str(tmp_path))
        note("return", number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(400)))
    place = {event: at for at, event in enumerate(events)}
    for number in range(400):
        assert any(
            place["call", number] < place["begin", one] and place["end", one] < place["return", number]
            for one in under_way
        ), number
    assert len(under_way) < 200


def effects_of(store: Store, wheels: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    effects: list[tuple[str, str]] = []
    monkeypatch.setattr(fs, "on_effect", lambda name, path: effects.append((name, path)))
    store.add_all(wheels)
    return effects


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    """Twelve small ones, all of which are unpacked in this process, where effects are seen."""
    return [build_wheel(WheelSpec(name=f"crate{number}"), tmp_path) for number in range(12)]


def test_of_many_each_is_synced_after_it_is_staged_and_before_it_is_published(
    store: Store, wheels: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    effects = effects_of(store, wheels, monkeypatch)
    entries = store.layout.of("entries")
    syncs = [at for at, effect in enumerate(effects) if effect == ("sync", entries)]
    # Its last step before the sync; the top directory is sealed after that.
    tops = [path for name, path in effects if name == "chmod" and path.rpartition("/")[0] == entries]
    published = [
        at for at, (name, path) in enumerate(effects) if name == "rename" and path.startswith(entries)
    ]
    assert len(tops) == len(published) == len(wheels)
    for top in tops:
        staged = max(at for at, (_, path) in enumerate(effects) if path.startswith(f"{top}/"))
        sealed = effects.index(("chmod", top))
        assert any(staged < at < sealed for at in syncs), top
    assert len(syncs) <= len(wheels)


def test_without_sync_there_is_none(
    store: Store, wheels: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    effects = effects_of(Store.open(store.root, durable=False), wheels, monkeypatch)
    assert [path for name, path in effects if name == "sync"] == []
    assert len(store.entries()) == len(wheels)


def test_an_entry_that_could_not_be_synced_is_not_published(
    store: Store, wheels: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fs, "_syncfs", fail)
    with pytest.raises(OSError, match="Input/output"):
        store.add(wheels[0])
    with pytest.raises(OSError, match="Input/output"):
        store.add_all(wheels)
    assert store.entries() == []
