"""A kill at any instant leaves a usable store: tried before every change, and in the middle of every write."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.crash import (
    LOCK,
    base,
    count_kill,
    count_steps,
    dangling,
    each_kill,
    litter,
    make_environment,
    sampled,
    tree,
    wheel_digest,
)
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.errors import VrfstoreError
from vrfstore.gc import roots, sweep
from vrfstore.gc.policy import Policy
from vrfstore.linker.link import environment_key, link
from vrfstore.model import EntryReference
from vrfstore.store import leases, unpacking
from vrfstore.store.ingest import Job, stage
from vrfstore.store.store import Added, Store
from vrfstore.store.zip_structure import Limits

SHARED = WheelSpec(
    name="shared",
    files={
        "shared/__init__.py": "",
        "shared/deep/data.txt": "data",
        "space/one.py": "",
        "pile/__init__.py": "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n",
    },
    data={"scripts/tool": "#!python\nprint()\n", "data/share/x.txt": "x", "data/etc/x.conf": "x"},
    entry_points={"console_scripts": {"run": "shared:run"}},
)
PINNED = WheelSpec(name="pinned")
OTHER = WheelSpec(
    name="other", files={"other.py": "", "space/two.py": ""}, data={"headers/other.h": "#pragma"}
)

LEFTOVERS_ONLY = Policy(max_age=3600, grace=3600)
EVERYTHING = Policy(max_age=0, grace=0)


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def wheels(tmp_path: Path) -> tuple[Path, Path, Path]:
    """What is pinned, what goes, and what both need."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    pinned, other, shared = (build_wheel(spec, folder) for spec in (PINNED, OTHER, SHARED))
    return pinned, other, shared


@pytest.fixture
def kills(
    request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]
) -> Iterator[list[int]]:
    """Collect the steps at which something was killed, to note how many there were."""
    points: list[int] = []
    yield points
    record_testsuite_property(f"kill points: {request.node.name}", len(points) - 1)
    assert len(points) > 20, "nearly nothing was killed"


def collect(store: Store, policy: Policy) -> sweep.Report:
    return sweep.collect(store, policy)


def test_a_creation_killed_anywhere_is_made_good_by_the_next(tmp_path: Path, kills: list[int]) -> None:
    whole = tree(Store.open(tmp_path / "whole").root, without=("store.json",))
    whole["gc/run"] = ("-rw-r--r--", b"")
    wrong = {}
    for point, root in each_kill(lambda: tmp_path / "store", Store.open):
        kills.append(point)
        store = Store.open(root)
        assert not collect(store, EVERYTHING).problems, point
        made = tree(root, without=("store.json",))
        wrong[point] = sorted(place for place in made | whole if made.get(place) != whole.get(place))
        fs.remove_tree(str(root))
    assert {point: places for point, places in wrong.items() if places} == {}


@pytest.mark.slow
def test_an_addition_killed_anywhere_is_made_good_by_the_next(
    tmp_path: Path, store: Store, wheels: tuple[Path, Path, Path], kills: list[int]
) -> None:
    whole = Store.open(tmp_path / "whole")
    expected = whole.add(wheels[2]).plan
    entry = expected.reference.directory
    for point, _ in each_kill(lambda: store, lambda store: store.add(wheels[2])):
        kills.append(point)
        assert store.entries() in ([], [entry]), point
        assert store.add(wheels[2]).plan == expected, point
        assert not collect(store, LEFTOVERS_ONLY).problems, point
        assert litter(store) == [], point
        assert tree(f"{store.root}/entries") == tree(f"{whole.root}/entries"), point
        fs.remove_tree(store.layout.of("entries", entry))


def two_large(folder: Path) -> list[Path]:
    """Wheels that are unpacked in processes of their own."""
    noise = random.Random(1).randbytes(1 << 18)
    specs = [WheelSpec(name=name, files={f"{name}.py": "", f"{name}.bin": noise}) for name in ("elm", "oak")]
    return [build_wheel(spec, folder) for spec in specs]


def unpacked(wheel: Path, staging: Path) -> None:
    reference = EntryReference(digest=wheel_digest(wheel), name="elm", version="1.0", directory="elm")
    job = Job(
        path=str(wheel), filename=wheel.name, origin="", size=0, reference=reference, staging=str(staging),
        limits=Limits(),
    )  # fmt: skip
    stage(job)


def collect_when_nobody_is_left(store: Store) -> None:
    """Collect once the processes of a killed caller have ended, which they do by themselves."""
    while any(lease.alive for lease in leases.read(store.layout)):
        time.sleep(0.001)
    assert not collect(store, LEFTOVERS_ONLY).problems


@pytest.mark.slow
def test_an_addition_of_many_killed_anywhere_is_made_good_by_the_next(
    tmp_path: Path, store: Store, kills: list[int]
) -> None:
    wheels = two_large(tmp_path)
    whole = Store.open(tmp_path / "whole")
    entries = [whole.add(wheel).plan.reference.directory for wheel in wheels]
    for point, _ in each_kill(lambda: store, lambda store: store.add_all(wheels)):
        kills.append(point)
        assert set(store.entries()) <= set(entries), point
        collect_when_nobody_is_left(store)
        assert litter(store) == [], point
        assert all(isinstance(result, Added) for result in store.add_all(wheels)), point
        assert litter(store) == [], point
        assert tree(f"{store.root}/entries") == tree(f"{whole.root}/entries"), point
        for entry in entries:
            fs.remove_tree(store.layout.of("entries", entry))


@pytest.mark.slow
def test_of_processes_killed_at_any_step_of_unpacking_nothing_stays(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = two_large(tmp_path)
    program = unpacking._SERVE
    program = program.replace("\nserve()", "\nfrom support.crash import arm\narm({point})\nserve()")
    assert "arm" in program
    # All that happens in a process for one wheel, and the answer that it writes at the end.
    steps = 1 + count_steps(lambda: unpacked(wheels[0], tmp_path / "counted"))
    for point in sampled(steps):
        monkeypatch.setattr(unpacking, "_SERVE", program.replace("{point}", str(point)))
        before = tree(store.root, without=("holds",))
        results = store.add_all(wheels)
        died = [result for result in results if isinstance(result, VrfstoreError)]
        assert {error.kind for error in died} <= {"unpacker-died"}, point
        assert len(store.entries()) == 2 - len(died), point
        assert litter(store) == [], point
        if len(died) == len(wheels):
            assert tree(store.root, without=("holds",)) == before, point
        assert died, point
        count_kill(steps)
        for entry in store.entries():
            fs.remove_tree(store.layout.of("entries", entry))


@pytest.mark.slow
def test_a_link_killed_anywhere_is_made_good_by_the_next(
    store: Store, wheels: tuple[Path, Path, Path], kills: list[int]
) -> None:
    plans = [store.add(wheel).plan for wheel in wheels]
    digests = [plan.reference.digest for plan in plans]
    key = environment_key(digests, base())
    untouched = tree(f"{store.root}/entries")

    def make(store: Store) -> None:
        with leases.take(store.layout, environment=key, digests=digests) as lease:
            link(store, lease, plans, base(), key=key, lock=LOCK)

    def take_away() -> dict[str, tuple[str, bytes]]:
        # Without what differs each time: inodes and times of its own directories.
        found = tree(store.layout.of("environments", key), without=("vrfstore.json",))
        fs.remove_tree(store.layout.of("environments", key))
        fs.remove_tree(store.layout.of("interpreters"))
        fs.make_directory(store.layout.of("interpreters"))
        return found

    make(store)
    expected = take_away()
    for point, _ in each_kill(lambda: store, make):
        kills.append(point)
        make(store)
        assert store.environments() == [key], point
        assert dangling(store.layout.of("environments", key)) == [], point
        assert not collect(store, LEFTOVERS_ONLY).problems, point
        assert litter(store) == [], point
        assert take_away() == expected, point
    assert tree(f"{store.root}/entries") == untouched


@pytest.mark.slow
def test_a_collection_killed_anywhere_harms_nobody_and_is_finished_by_the_next(
    tmp_path: Path, wheels: tuple[Path, Path, Path], kills: list[int]
) -> None:
    pinned, other, shared = wheels

    def prepare() -> tuple[Store, str, str]:
        store = Store.open(tmp_path / "store")
        live, dead = make_environment(store, pinned, shared), make_environment(store, other, shared)
        roots.add(store, "pin", live.directory)
        time.sleep(0.01)
        return store, live.directory, dead.directory

    for point, (store, live, dead) in each_kill(
        prepare, lambda prepared: sweep.collect(prepared[0], EVERYTHING)
    ):
        kills.append(point)
        assert dangling(store.layout.of("environments", live)) == [], point
        again = make_environment(store, other, shared)
        assert (again.directory, again.wheels) == (dead, store.record(dead).wheels), point
        assert dangling(store.layout.of("environments", dead)) == [], point

        assert not collect(store, EVERYTHING).problems, point
        assert store.environments() == [live], point
        digests = {store.plan(directory).reference.digest for directory in store.entries()}
        assert digests == {wheel_digest(pinned), wheel_digest(shared)}, point
        assert dangling(store.layout.of("environments", live)) == [], point
        assert litter(store) == [], point
        fs.remove_tree(store.root)
