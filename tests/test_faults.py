"""A disk that is full or broken, at any write: a clear error, and a store that is as sound as before."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import itertools
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import crash
from support.crash import base, litter, make_environment, tree
from support.faults import Fault, Outcome, ending_of, mounted, with_fault
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.cli.running import run
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.runner.verify import verify
from vrfstore.store import unpacking
from vrfstore.store.store import Store

LEFTOVERS_ONLY = Policy(max_age=3600, grace=3600)
EVERYTHING = Policy(max_age=0, grace=0)

SPECS = [
    WheelSpec(name="ant", files={"ant/__init__.py": "", "ant/deep/data.txt": "x", "space/one.py": ""}),
    WheelSpec(
        name="bee",
        files={"bee.py": "", "space/two.py": ""},
        data={"scripts/buzz": "#!python\n", "data/etc/bee.conf": "x"},
        entry_points={"console_scripts": {"hum": "bee:hum"}},
    ),
    WheelSpec(name="cat"),
]

pytestmark = pytest.mark.slow


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    """Some wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    return [build_wheel(spec, folder) for spec in SPECS]


@dataclass(frozen=True)
class Scenario:
    """Something that writes.

    Attributes:
        prepare: Makes a store at a path, in the state to begin with.
        action: What is done to it; may return an exit code.
        outcome: What it is to have led to, in any form that can be compared.
    """

    prepare: Callable[[str, list[Path]], Store]
    action: Callable[[Store, list[Path]], int | None]
    outcome: Callable[[Store], object]


def command(store: Store, *arguments: object) -> int:
    """Run the command, and keep what it prints to itself."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return run(["--store", store.root, *map(str, arguments)])


def empty(root: str, _: list[Path]) -> Store:
    return Store.open(root)


def added(root: str, wheels: list[Path]) -> Store:
    store = Store.open(root)
    for wheel in wheels:
        store.add(wheel)
    return store


def dead(root: str, wheels: list[Path]) -> Store:
    """With an environment and entries that nothing refers to, and rubbish."""
    store = Store.open(root)
    make_environment(store, *wheels)
    Path(store.layout.of("tmp", "left.over")).touch()
    time.sleep(0.01)
    return store


def damaged(root: str, wheels: list[Path]) -> Store:
    store = Store.open(root)
    make_environment(store, *wheels[:2])
    entry = next(name for name in store.entries() if "-ant-" in name)
    path = Path(store.layout.of("entries", entry), "site-packages/ant/deep/data.txt")
    path.chmod(0o644)
    path.write_text("y")
    path.chmod(0o444)
    return store


def add_one(store: Store, wheels: list[Path]) -> int:
    return command(store, "add", wheels[1])


def add_many(store: Store, wheels: list[Path]) -> int:
    return command(store, "add", *wheels)


def link(store: Store, wheels: list[Path]) -> None:
    make_environment(store, *wheels)


def collect(store: Store, _: list[Path]) -> int:
    return command(store, "gc", "--max-age", "0")


def repair(store: Store, _: list[Path]) -> int:
    return command(store, "verify", "--repair")


def compile_all(store: Store, _: list[Path]) -> int:
    return command(store, "compile", "--all", "--python", base().executable)


def entries(store: Store) -> object:
    return tree(store.layout.of("entries"))


def everything(store: Store) -> object:
    return entries(store), [
        tree(store.layout.of("environments", name), without=("vrfstore.json",))
        for name in store.environments()
    ]


SCENARIOS = {
    "add": Scenario(empty, add_one, entries),
    "add-many": Scenario(empty, add_many, entries),
    "link": Scenario(empty, link, everything),
    "link-known": Scenario(added, link, everything),
    "gc": Scenario(dead, collect, everything),
    "repair": Scenario(damaged, repair, everything),
    "compile": Scenario(added, compile_all, entries),
}
KINDS = {
    "full": (errno.ENOSPC, True),
    "broken-for-a-moment": (errno.EIO, False),
    "full-for-a-moment": (errno.ENOSPC, False),
    "broken": (errno.EIO, True),
}


def points(calls: int) -> list[int]:
    """Return at which of so many calls to fail: a third of those that a process would be killed at."""
    found = crash.sampled(calls)
    return found if crash.every_step else sorted({*found[::3], calls})


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fails_at_any_write_is_named_and_harms_nothing(
    tmp_path: Path, wheels: list[Path], scenario: str, kind: str
) -> None:
    if kind.endswith("moment") == (scenario in {"add", "link", "gc"}) and not crash.every_step:
        pytest.skip("this one only with --kill-all")
    code, lasting = KINDS[kind]
    chosen = SCENARIOS[scenario]
    root = str(tmp_path / "store")

    def attempt(fault: Fault) -> tuple[Store, Outcome]:
        fs.remove_tree(root)
        store = chosen.prepare(root, wheels)
        return store, with_fault(fault, functools.partial(chosen.action, store, wheels))

    store, whole = attempt(Fault())
    assert (whole.exit_code, whole.hit) == (0, False), whole.error
    expected = chosen.outcome(store)
    for point in points(whole.calls):
        fault = Fault(code=code, point=point, lasting=lasting)
        store, outcome = attempt(fault)
        assert outcome.hit or scenario in {"add-many", "compile"}, point
        assert outcome.exit_code in {0, fault.exit_code}, (point, outcome)
        if outcome.exit_code == 0 and scenario != "gc":
            assert chosen.outcome(store) == expected, (point, outcome)
        time.sleep(0.01)
        assert not sweep.collect(store, LEFTOVERS_ONLY).problems, point
        assert litter(store) == [], (point, outcome)
        if scenario != "repair" or outcome.exit_code == 0:
            assert verify(store).findings == (), (point, outcome)
        assert ending_of(functools.partial(chosen.action, store, wheels)) == (0, ""), point
        assert verify(store).sound, point
        assert chosen.outcome(store) == expected, point


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="with one processor there are no other processes"
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_fails_where_processes_unpack_is_named_and_harms_nothing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    noise = random.Random(1).randbytes(1 << 18)
    specs = [WheelSpec(name=name, files={f"{name}.py": "", f"{name}.bin": noise}) for name in ("elm", "oak")]
    wheels = [build_wheel(spec, tmp_path) for spec in specs]
    whole = Store.open(tmp_path / "whole")
    calls = with_fault(Fault(), lambda: add_one(whole, wheels)).calls
    assert add_many(whole, wheels) == 0
    # The memo of modules outlives the entries that are removed below.
    lasting = ("holds", "modules.jsonl")
    before = tree(store.root, without=lasting)
    program = unpacking._SERVE
    for point in points(calls)[::2]:
        injected = (
            f"from support.faults import Fault, Injection\nInjection(Fault(code={code}, point={point}))"
        )
        monkeypatch.setattr(unpacking, "_SERVE", program.replace("\nserve()", f"\n{injected}\nserve()"))
        ended = add_many(store, wheels)
        if ended:
            assert ended == Fault(code=code).exit_code, point
            assert litter(store) == [], point
            assert tree(store.root, without=lasting) == before or store.entries(), point
        else:  # the caller makes the last calls
            assert point > calls // 2, point
        assert verify(store).findings == (), point
        monkeypatch.setattr(unpacking, "_SERVE", program)
        assert add_many(store, wheels) == 0
        assert entries(store) == entries(whole), point
        for entry in store.entries():
            fs.remove_tree(store.layout.of("entries", entry))


def fill(folder: str) -> None:
    """Add, link and collect on a real disk with room for nothing, then for a little more, until all goes well.

    Prints how often which exit code was met.
    """
    wheels = [build_wheel(spec, Path(folder)) for spec in SPECS]
    store = Store.open(f"{folder}/store")
    ballast = f"{folder}/ballast"
    link(store, wheels)
    expected = everything(store)
    endings: Counter[str] = Counter()
    for room in itertools.count(0, 4096):
        weigh(ballast, None)
        time.sleep(0.01)
        assert not sweep.collect(store, EVERYTHING).problems
        assert store.entries() == []
        weigh(ballast, room)
        code, error = ending_of(functools.partial(link, store, wheels))
        endings[str(code)] += 1
        assert code in {0, 16}, error
        # Now, while it is as full as that.
        time.sleep(0.01)
        assert not sweep.collect(store, LEFTOVERS_ONLY).problems, room
        assert litter(store) == [], room
        if room // 4096 % 2:
            # Collecting needs no room, whatever is there.
            assert not sweep.collect(store, EVERYTHING).problems
            assert store.entries() == []
        weigh(ballast, None)
        assert verify(store).findings == (), room
        if code == 0:
            break
    link(store, wheels)
    assert everything(store) == expected
    sys.stdout.write(json.dumps(endings))


def weigh(ballast: str, room: int | None) -> None:
    """Fill the disk up to some bytes of room; or, for None, take the ballast away."""
    with open(ballast, "wb") as stream:
        if room is None:
            return
        os.fsync(stream.fileno())  # what was taken away before counts as room only then
        found = os.statvfs(ballast)
        # The ballast itself may need a block or two beside its own bytes.
        for size in range(found.f_bavail * found.f_frsize - room, 0, -4096):
            with contextlib.suppress(OSError):
                os.posix_fallocate(stream.fileno(), 0, size)
                return


DISKS = {
    "tmpfs": 'mount -t tmpfs -o size=1m none "$2"',
    "ext4": 'truncate -s 16M "$2.image" && mkfs.ext4 -q -m 0 "$2.image" && mount -o loop "$2.image" "$2"',
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("disk", DISKS)
def test_a_disk_that_is_really_full_is_named_and_collecting_makes_room(tmp_path: Path, disk: str) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    if disk == "ext4" and shutil.which("mkfs.ext4", path="/sbin:/usr/sbin:/bin:/usr/bin") is None:
        pytest.skip("there is no mkfs.ext4")
    trial = mounted(DISKS[disk], folder, "")
    if trial.returncode:
        pytest.skip(f"nothing may be mounted here: {trial.stderr.strip()}")
    ran = mounted(DISKS[disk], folder, "import sys; from test_faults import fill; fill(sys.argv[1])")
    assert ran.returncode == 0, ran.stderr
    endings = json.loads(ran.stdout)
    assert endings["0"] == 1
    assert endings["16"] > 5
