"""Who takes how much: what is said to come back comes back, to the byte, and the sum is what is really occupied."""

from __future__ import annotations

import itertools
import os
import stat
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.crash import base, compile_entry, make_environment, wheel_digest
from support.elf import elf_bytes
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.gc import keepers, roots, sizes, sweep, usage
from vrfstore.gc.policy import Policy
from vrfstore.gc.usage import By, Row, Table, Usage
from vrfstore.linker.composing import composed
from vrfstore.linker.link import environment_key, link
from vrfstore.linker.plan import settled
from vrfstore.model import LinkOptions
from vrfstore.store import externals, leases
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

EVERYTHING = Policy(max_age=0, grace=0)
FILLING = "x = 1\n" * 2000


pytestmark = pytest.mark.usefixtures("without_sync")


def couple(store: Store, folder: Path) -> EnvironmentRecord:
    """Make an environment of two wheels and their composite."""
    specs = (
        WheelSpec(
            name="top",
            files={"top/_core.so": elf_bytes(needed=["libbottom.so.1"], runpath="$ORIGIN/../bottom/lib")},
        ),
        WheelSpec(name="bottom", files={"bottom/lib/libbottom.so.1": elf_bytes(soname="libbottom.so.1")}),
    )
    wheels = [build_wheel(spec, folder) for spec in specs]
    digests = [wheel_digest(wheel) for wheel in wheels]
    key = environment_key(digests, base())
    with leases.take(store.layout, environment=key, digests=digests) as lease:
        plans = [store.add(wheel).plan for wheel in wheels]
        names = [plan.reference.name for plan in plans]
        with composed(store, plans, settled(LinkOptions(), names)) as merged:
            record, _ = link(store, lease, plans, base(), key=key, lock="0" * 64, merged=merged)
    assert len(record.composites) == 1
    return record


class World:
    """A store in which everything is pinned, so that what goes is what a test lets go."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder

    def wheel(self, name: str, *, version: str = "1.0", size: int = 1) -> Path:
        files = {f"{name}.py": FILLING * size, f"{name}_data/__init__.py": FILLING}
        return build_wheel(
            WheelSpec(
                name=name,
                version=version,
                files=files,
                metadata_extra=f"Keywords: {fs.unique_name()}\n",
                entry_points={"console_scripts": {name: f"{name}:main"}},
            ),
            self.folder,
        )

    def environment(self, root: str | None, *wheels: Path) -> str:
        directory = make_environment(self.store, *wheels).directory
        if root is not None:
            roots.add(self.store, root, directory)
        return directory

    def entry(self, root: str, wheel: Path) -> str:
        directory = self.store.add(wheel).plan.reference.directory
        roots.add(self.store, root, directory)
        return directory

    def coupled(self, root: str) -> str:
        directory = couple(self.store, self.folder).directory
        roots.add(self.store, root, directory)
        return directory

    def collect(self, *, linked_outside: int = 0) -> int:
        """Let everything go that nothing keeps; return the bytes that came back."""
        before = sizes.size_of(self.store.root)
        report = sweep.collect(self.store, EVERYTHING)
        assert report.problems == ()
        assert before - sizes.size_of(self.store.root) == report.freed + linked_outside
        return report.freed

    def table(self, by: By) -> Table:
        graph = keepers.read(keepers.look(self.store, EVERYTHING), EVERYTHING)
        found = usage.table(graph, usage.measure(self.store), by)
        exclusive = sum(row.exclusive for row in found.rows)
        assert found.total == sizes.size_of(self.store.root)
        assert found.total == exclusive + found.shared + found.others + sum(found.itself.values())
        assert min(found.shared, found.others, *found.itself.values()) >= 0
        return found

    def row(self, by: By, name: str) -> Row:
        (row,) = (row for row in self.table(by).rows if row.name == name)
        return row


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    """An empty store that has been collected."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    world = World(store, folder)
    world.collect()
    return world


def test_an_environment_that_goes_alone_gives_back_what_it_is_said_to(world: World) -> None:
    own, shared, others = world.wheel("own", size=5), world.wheel("shared"), world.wheel("others")
    directory = world.environment(None, own, shared)
    kept = world.environment("kept", shared, others)
    compile_entry(world.store, world.store.record(directory).wheels[0].directory)
    row, other = (world.row("environment", f"environments/{each}") for each in (directory, kept))
    assert row.exclusive > 5 * len(FILLING)
    assert 0 < row.shared == other.shared
    assert world.collect() == row.exclusive
    left = world.row("environment", f"environments/{kept}")
    assert (left.exclusive, left.shared) == (other.exclusive + other.shared, 0)


def test_an_environment_that_is_removed_by_hand_as_well(world: World) -> None:
    own, shared = world.wheel("own"), world.wheel("shared")
    directory = world.environment("own", own, shared)
    world.environment("kept", shared)
    row = world.row("environment", f"environments/{directory}")
    before = sizes.size_of(world.store.root)
    roots.remove(world.store, "own")
    pin = before - sizes.size_of(world.store.root)
    fs.remove_tree(world.store.layout.of("environments", directory))
    world.collect()
    assert before - pin - sizes.size_of(world.store.root) == row.exclusive


def test_what_a_composite_shares_with_its_members_comes_back_with_all_of_them(world: World) -> None:
    directory = world.coupled("coupled")
    members = [reference.directory for reference in world.store.record(directory).wheels]
    alone = world.row("environment", f"environments/{directory}")
    roots.add(world.store, "member", members[0])
    row = world.row("environment", f"environments/{directory}")
    assert row.exclusive < alone.exclusive
    assert row.shared > 0
    roots.remove(world.store, "coupled")
    assert world.collect() == row.exclusive
    assert world.store.entries() == [members[0]]


def test_a_root_that_goes_alone_gives_back_what_only_it_keeps(world: World) -> None:
    own, shared, single = world.wheel("own"), world.wheel("shared"), world.wheel("single")
    world.environment("first", own, shared)
    world.environment("second", shared)
    world.entry("third", single)
    rows = {row.name: row for row in world.table("root").rows}
    assert set(rows) == {"first", "second", "third"}
    assert rows["first"].shared == rows["second"].shared > 0
    for name in ("first", "third"):
        roots.remove(world.store, name)
        assert world.collect() == rows[name].exclusive > 0


def test_a_package_takes_what_its_entries_do_in_all_versions(world: World) -> None:
    for number, version in enumerate(("1.0", "2.0")):
        world.entry(f"tool-{number}", world.wheel("tool", version=version))
    world.entry("other", world.wheel("other"))
    row = world.row("package", "tool")
    assert row.shared == 0
    for number in range(2):
        roots.remove(world.store, f"tool-{number}")
    assert world.collect() == row.exclusive


def test_members_of_a_composite_share_with_it(world: World) -> None:
    world.coupled("coupled")
    rows = {row.name: row for row in world.table("package").rows}
    assert set(rows) == {"top", "bottom", "composite"}
    assert rows["composite"].shared == rows["top"].shared + rows["bottom"].shared > 0


def test_an_environment_elsewhere_has_what_only_it_refers_to(world: World, tmp_path: Path) -> None:
    wheel, shared = world.wheel("own"), world.wheel("shared")
    world.environment("kept", shared)
    references = tuple(world.store.add(each).plan.reference for each in (wheel, shared))
    known = externals.Registration(
        token="a" * 16, path=str(tmp_path / "mine"), device=0, references=references, locks=()
    )
    with world.store.session() as lease:
        externals.register(world.store.layout, lease, known)
    row = world.row("environment", str(tmp_path / "mine"))
    externals.forget(world.store.layout, "a" * 16)
    assert world.collect() == row.exclusive > 0
    assert row.shared > 0


def test_what_is_linked_from_outside_is_occupied_and_does_not_come_back(world: World, tmp_path: Path) -> None:
    directory = world.environment(None, world.wheel("own"))
    before = world.row("environment", f"environments/{directory}")
    entry = world.store.record(directory).wheels[0].directory
    os.link(world.store.layout.of("entries", f"{entry}/site-packages/own.py"), tmp_path / "mine.py")
    size = os.lstat(tmp_path / "mine.py").st_blocks * 512
    row = world.row("environment", f"environments/{directory}")
    assert row.exclusive + row.shared == before.exclusive + before.shared
    assert row.exclusive == before.exclusive - size
    assert world.collect(linked_outside=size) == row.exclusive


def test_everything_else_is_the_stores_own(world: World) -> None:
    layout = world.store.layout
    world.environment("kept", world.wheel("own"))
    for path in (
        "logs/resolve.log", "tmp/litter", "entries/.dead-1", "locks/.dead-2", "holds/strange", "strange",
        "inputs/strange", "requests/strange.json", "locks/strange.toml",
    ):  # fmt: skip
        Path(layout.root, path).write_text(FILLING)
    itself = world.table("environment").itself
    size = os.lstat(f"{layout.root}/strange").st_blocks * 512
    assert itself["leftovers"] == 3 * size
    assert itself["memos"] == 2 * size
    assert itself["locks"] == size
    assert list(itself.values()) == sorted(itself.values(), reverse=True)


def test_holders_are_what_lives_with_why_and_how_much(world: World) -> None:
    own, shared, single = world.wheel("own", size=9), world.wheel("shared"), world.wheel("single")
    first = world.environment("first", own, shared)
    second = world.environment("second", shared)
    entry = world.entry("third", single)
    world.environment(None, world.wheel("dead"))
    time.sleep(0.01)
    graph = keepers.read(keepers.look(world.store, EVERYTHING), EVERYTHING)
    found = usage.holders(graph, usage.measure(world.store))
    assert [(holder.what, holder.why) for holder in found] == [
        (f"environments/{first}", ("root first (pin)",)),
        (f"entries/{entry}", ("root third (pin)",)),
        (f"environments/{second}", ("root second (pin)",)),
    ]
    exclusive = {holder.what: holder.exclusive for holder in found}
    world.collect()
    for name in ("first", "third"):
        roots.remove(world.store, name)
    assert world.collect() == exclusive[f"environments/{first}"] + exclusive[f"entries/{entry}"]


@pytest.mark.parametrize(
    ("names", "freed", "taken"),
    [
        ([], 0, 0),
        (["a"], 1, 101),
        (["a", "b"], 103, 103),
        (["a", "b", "c"], 107, 117),
        (["c"], 4, 14),
    ],
)
def test_what_is_common_comes_back_with_the_last(names: list[str], freed: int, taken: int) -> None:
    found = Usage({"a": 1, "b": 2, "c": 4}, {frozenset("ab"): 100}, {"c": 10})
    assert (found.freed(names), found.taken(names), found.total) == (freed, taken, 117)


def test_what_a_thousand_entries_have_in_common_is_remembered_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = 1000
    for number in range(entries):
        os.mkdir(store.layout.of("entries", f"{number:020}-stand_in-1"))

    def walk(path: str) -> Iterator[os.stat_result]:
        if os.path.basename(path).endswith("-stand_in-1"):
            yield os.stat_result((stat.S_IFREG, 7, 1, entries, 0, 0, 0, 0, 0, 0), {"st_blocks": 8})

    monkeypatch.setattr(sizes, "walk", walk)
    tracemalloc.start()
    try:
        found = usage.measure(store)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ((group, size),) = found.common.items()
    assert (len(group), size) == (entries, 8 * 512)
    assert peak < 2000 * entries, "not as much as there are pairs"


def test_measuring_remembers_only_what_has_links_that_it_has_not_seen(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, inodes = 200, 500
    for number in range(entries):
        os.mkdir(store.layout.of("entries", f"{number:020}-stand_in-1"))
    numbers = itertools.count(1)

    def walk(path: str) -> Iterator[os.stat_result]:
        if os.path.basename(path).endswith("-stand_in-1"):
            first = next(numbers) * inodes
            for number in (*range(first, first + inodes), *range(first, first + inodes)):
                yield os.stat_result((stat.S_IFREG, number, 1, 2, 0, 0, 0, 0, 0, 0), {"st_blocks": 8})

    monkeypatch.setattr(sizes, "walk", walk)
    tracemalloc.start()
    try:
        found = usage.measure(store)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(size for name, size in found.own.items() if name.startswith("entries/")) == (
        entries * inodes * 8 * 512
    )
    assert peak < 16 * entries * inodes, "less than a pointer and an integer for each inode"
