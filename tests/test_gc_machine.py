"""A state machine drives a real store; whatever it does, gc leaves what the model calls live, and takes the rest."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from support import figures
from support.crash import killed_at, litter, reachable
from support.gc_model import Environment, Model, Rules
from support.supplies import Supplies
from support.wheels import WheelSpec
from vrfstore import fs
from vrfstore.gc import roots, scan, sizes, sweep
from vrfstore.gc.policy import Policy, Room
from vrfstore.runner.link import link
from vrfstore.runner.result import LinkResult
from vrfstore.runner.verify import verify
from vrfstore.store import externals, leases, machine
from vrfstore.store.externals import ExternalRecord, Registration
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

DAY = 86400
DISK = 1_000_000
"""Bytes of the file system that the store seems to be on."""

SPECS = (
    WheelSpec(name="ash", files={"ash/__init__.py": "", "ash/deep/leaf.txt": "leaf", "wood/ash.py": ""}),
    WheelSpec(
        name="elm", files={"elm/__init__.py": "", "wood/elm.py": ""}, data={"data/share/elm.txt": "elm"}
    ),
    WheelSpec(name="oak", entry_points={"console_scripts": {"oak": "oak:main"}}),
)
"""Two with directories that are merged, and that share a namespace; one that is folded, with a script."""

ROUND = settings(
    max_examples=5,
    # Where CI is set, hypothesis would do the same in every round.
    derandomize=False,
    database=None,
    stateful_step_count=40,
    phases=[phase for phase in Phase if phase is not Phase.explain],
    suppress_health_check=list(HealthCheck),
)

steps: Counter[str] = Counter()
"""How often each rule was run, of all machines of this process."""

TURNS = frozenset({"collect", "collect_killed", "link", "link_into", "repair"})
"""Rules that have to have been run."""

_PATIENCE = 4
"""How many times as long as it should take the machine goes on until they have."""

wheel_sets = st.sets(st.sampled_from(range(len(SPECS))), min_size=1).map(lambda found: tuple(sorted(found)))
days = st.sampled_from([0, 1, 2, 4])
points = st.integers(1, 150)
"""At which of its steps something is killed; what has fewer ends by itself."""


def step(
    when: Callable[[Machine], object] = lambda _: True,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a rule of something that is only done, and counted, when it can be.

    No precondition: what is there depends on the moment of a kill, and hypothesis wants to draw the same again.
    """

    def decorate(act: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(act)
        def run(self: Machine, *arguments: object, **named: object) -> None:
            if when(self):
                steps[act.__name__] += 1
                act(self, *arguments, **named)

        return run

    return decorate


class Machine(RuleBasedStateMachine):
    """A store, and what its users and its operator do to it."""

    supplies: Supplies

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.supplies.folder))
        self.store = self.supplies.store(self.folder / "store")
        self.model = Model()
        self.contents: dict[str, frozenset[str]] = {}
        self.held: dict[str, leases.Lease] = {}
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.owners: dict[str, subprocess.Popen[bytes]] = {}
        self.absent: set[str] = set()
        self.began = time.time()
        self.patched = pytest.MonkeyPatch()
        usual = scan.now
        self.patched.setattr(scan, "now", lambda: usual() + self.model.today * DAY)
        # A file system on which nobody else writes.
        self.patched.setattr(sizes, "room", lambda path: (DISK - sizes.size_of(path), DISK))

    def teardown(self) -> None:
        for lease in self.held.values():
            lease.release()
        for process in (*self.running.values(), *self.owners.values()):
            end(process)
        self.patched.undo()
        fs.remove_tree(str(self.folder))

    # What links do.

    @rule(chosen=wheel_sets, keep=st.booleans(), project=st.booleans())
    @step()
    def link(self, chosen: tuple[int, ...], keep: bool, project: bool) -> None:
        result = link(self.supplies.lock(*chosen), store=self.store, lease=keep)
        self._linked(result)
        if project:
            directory = os.path.basename(result.environment)
            roots.record(self.store, "project", directory)
            name = f"environments/{directory}"
            self.model.project = [name, *(each for each in self.model.project if each != name)]

    def _linked(self, result: LinkResult) -> None:
        directory = os.path.basename(result.environment)
        if result.lease is not None:
            self.held[result.lease.id] = result.lease
            self.model.leases[result.lease.id] = directory.partition(".")[0]
        used = os.stat(self.store.layout.record(directory)).st_mtime
        assert used >= self.began + (time.time() - self.began) - 60, "the last use was not refreshed"
        today = time.time() + self.model.today * DAY
        os.utime(self.store.layout.record(directory), (today, today))
        self._observe()
        # What is the same set of wheels is the same in every file.
        expected = self.contents.setdefault(result.lock, reachable(Path(result.environment)))
        assert reachable(Path(result.environment)) == expected

    @rule(chosen=wheel_sets, point=points)
    @step()
    def link_killed(self, chosen: tuple[int, ...], point: int) -> None:
        killed_at(point, lambda: link(self.supplies.lock(*chosen), store=self.store))
        self._observe()

    @rule(place=st.sampled_from(["x", "y"]), chosen=wheel_sets)
    @step()
    def link_into(self, place: str, chosen: tuple[int, ...]) -> None:
        link(self.supplies.lock(*chosen), store=self.store, into=self.folder / place)
        record = externals.read(str(self.folder / place))
        assert record is not None
        known = externals.read_registration(self.store.layout, record.token)
        assert known is not None
        assert registered(known) == needs(record)
        assert not list((self.folder / place).glob(".vrfstore-*"))
        self.contents[place] = reachable(self.folder / place)
        self._observe()

    @rule(place=st.sampled_from(["x", "y"]), chosen=wheel_sets, point=points)
    @step()
    def link_into_killed(self, place: str, chosen: tuple[int, ...], point: int) -> None:
        into = self.folder / place
        killed_at(point, lambda: link(self.supplies.lock(*chosen), store=self.store, into=into))
        self.contents.pop(place, None)
        self._observe()

    @rule(number=st.integers(0, 9))
    @step(when=lambda self: self.model.externals)
    def remove_an_external_environment(self, number: int) -> None:
        places = list(self.model.externals)
        fs.remove_tree(str(self.folder / places[number % len(places)]))
        self._observe()

    @rule(number=st.integers(0, 9))
    @step(when=lambda self: self.model.environments)
    def change_an_environment_by_hand(self, number: int) -> None:
        os.utime(self._environment(number) / "pyvenv.cfg")

    # What keeps things.

    @rule()
    @step(when=lambda self: self.model.project)
    def forget_the_project(self) -> None:
        roots.remove(self.store, "project")
        self.model.project = []

    @rule(name=st.sampled_from(["p", "q"]), number=st.integers(0, 30))
    @step(when=lambda self: self.model.published)
    def pin(self, name: str, number: int) -> None:
        target = self._names()[number % len(self.model.published)]
        part, _, directory = target.partition("/")
        # Of a lock that a kill has left the model does not know what it names.
        if part != "locks" or target in self.model.locked:
            roots.add(
                self.store, name, directory if part == "locks" else self.store.layout.of(part, directory)
            )
            self.model.pins[name] = target

    @rule()
    @step(when=lambda self: self.model.pins)
    def unpin(self) -> None:
        name, _ = self.model.pins.popitem()
        roots.remove(self.store, name)

    @rule(number=st.integers(0, 9), kind=st.sampled_from(["held", "until", "process"]))
    @step(when=lambda self: self.model.environments)
    def lease(self, number: int, kind: str) -> None:
        key = self._environment(number).name.partition(".")[0]
        if kind == "held":
            lease = leases.take(self.store.layout, environment=key)
        elif kind == "until":
            lease = leases.take_until(self.store.layout, 3600, environment=key)
        else:
            owner = subprocess.Popen(["sleep", "3600"], cwd="/")
            found = machine.Machine().process(owner.pid)
            assert found is not None
            lease = leases.take_for_process(self.store.layout, found, environment=key)
            self.owners[lease.id] = owner
        self.held[lease.id], self.model.leases[lease.id] = lease, key

    @rule()
    @step(when=lambda self: self.held)
    def end_a_lease(self) -> None:
        identity, lease = self.held.popitem()
        if identity in self.owners:
            end(self.owners.pop(identity))  # which is all that ends it
        else:
            lease.release()
        del self.model.leases[identity]

    @rule(number=st.integers(0, 9))
    @step(when=lambda self: self.model.environments)
    def take_a_lease_whose_time_is_over(self, number: int) -> None:
        key = self._environment(number).name.partition(".")[0]
        leases.take_until(self.store.layout, 1, environment=key, machine=AtItsStart())

    @rule(number=st.integers(0, 9))
    @step(when=lambda self: self.model.environments and len(self.running) < 2)
    def start_a_process(self, number: int) -> None:
        place = self._environment(number)
        process = subprocess.Popen(["sleep", "3600"], cwd=place / "lib")
        self.running[process.pid] = process
        self.model.processes[process.pid] = f"environments/{place.name}"

    @rule()
    @step(when=lambda self: self.running)
    def end_a_process(self) -> None:
        pid, process = self.running.popitem()
        end(process)
        del self.model.processes[pid]

    @rule()
    @step()
    def write_or_remove_a_root_that_nobody_can_read(self) -> None:
        place = Path(self.store.layout.of("roots", "odd.json"))
        if self.model.unread is None:
            place.write_bytes(b'{"schema":999}')
            self.model.unread = self.model.published
        else:
            place.unlink()
            self.model.unread = None

    @rule(by=st.sampled_from([-3, -1, 1, 2]))
    @step()
    def move_the_clock(self, by: int) -> None:
        self.model.today += by

    # What the operator does.

    @rule(number=st.integers(0, 9), point=st.none() | points)
    @step(when=lambda self: any(name.startswith("entries/") for name in self.model.published))
    def repair(self, number: int, point: int | None) -> None:
        entries = [name for name in self._names() if name.startswith("entries/")]
        entry = Path(self.store.layout.of(*entries[number % len(entries)].split("/")))
        module = next(entry.glob("site-packages/*/METADATA"))
        module.chmod(0o644)
        module.write_bytes(b"spoilt")
        if point is not None:
            killed_at(point, lambda: verify(self.store, mend=True))
        assert verify(self.store, mend=True).sound
        if self.model.unread is not None:
            # Entries are younger now, and nobody can tell which were there before.
            self.model.unread = self.model.published

    @rule(max_age=days, grace=days, keep_last=st.integers(0, 2))
    @step()
    def collect(self, max_age: int, grace: int, keep_last: int) -> None:
        rules = Rules(max_age=max_age, grace=grace, keep_last=keep_last)
        self._collect(policy(rules), rules)

    @rule(
        max_age=days,
        grace=days,
        max_size=st.sampled_from([None, 0, 200_000]),
        min_free=st.sampled_from([None, Room(0), Room(80, relative=True), Room(DISK)]),
        max_freed=st.sampled_from([None, None, 0, 20_000]),
        max_seconds=st.sampled_from([None, None, None, 0.0]),
    )
    @step()
    def collect_within_a_budget(self, max_age: int, grace: int, **limits: Any) -> None:
        rules = Rules(max_age=max_age, grace=grace, budget=True)
        self._collect(replace(policy(rules), **limits), rules)

    @rule(max_age=days, grace=days, point=points)
    @step()
    def collect_killed(self, max_age: int, grace: int, point: int) -> None:
        rules = Rules(max_age=max_age, grace=grace)
        live = self.model.live(rules)
        killed_at(point, lambda: sweep.collect(self.store, policy(rules)))
        self._observe()
        self._all_there(live)

    def _all_there(self, live: frozenset[str]) -> None:
        lost = sorted(live - self.model.published)
        assert not lost, f"live, and gone: {lost}; {self.model}"

    def _collect(self, policy: Policy, rules: Rules) -> None:
        before = self.model.published
        live, dead = self.model.live(rules), self.model.dead(replace(rules, budget=False))
        last_to_go = self.model.dead(rules)
        absent = set(self._places("absent"))
        # On the day that they began, and on any before it, they may just be being made, for all that gc can tell.
        half_made = list(self._places("half made")) if self.model.today > 0 else []
        expected = sweep.preview(self.store, policy)
        report = sweep.collect(self.store, policy)
        self._observe()
        self._all_there(live)
        # What is absent has been since day 0, for all that the notes say.
        assert not (self.absent & absent and self.model.today >= rules.grace) or report.forgotten
        self.absent = set(self._places("absent"))
        if not report.stopped:
            self._all_gone(dead - self.model.registered, report)
            if report.missing:
                self._all_gone(last_to_go - self.model.registered, report)
        removed = {f"environments/{name}" for name in report.environments}
        removed |= {f"entries/{name}" for name in report.entries}
        assert removed == {name for name in before - self.model.published if not name.startswith("locks/")}
        assert (report.problems != ()) == (self.model.unread is not None or half_made != [])
        if report.stopped != "time":
            assert said(expected) == said(report), f"{policy}: {said(expected)}, {said(report)}"
            assert {os.path.basename(path).split(".")[1] for path in litter(self.store)} == self.held.keys()

    def _places(self, state: str) -> Iterator[str]:
        """Yield the tokens of the environments of users that are registered, and absent or half made."""
        for known in externals.registrations(self.store.layout):
            assert isinstance(known, Registration)
            there = os.path.lexists(known.path)
            if not there and state == "absent":
                yield known.token
            if there and state == "half made" and externals.read(known.path) is None:
                yield known.token

    def _all_gone(self, dead: frozenset[str], report: sweep.Report) -> None:
        left = sorted(dead & self.model.published)
        assert not left, f"dead, and still there: {left}; {report}; {self.model}"

    # What always holds.

    @invariant()
    def every_environment_is_whole(self) -> None:
        """Not only those that are live: an environment goes before anything that it needs."""
        for directory in self.store.environments():
            place = Path(self.store.layout.of("environments", directory))
            found = reachable(place)
            lock = self.store.layout.of("locks", f"{self.store.record(directory).lock}.toml")
            assert found == self.contents.get(lock, found)
        for name in self.model.externals:
            found = reachable(self.folder / name)
            assert found == self.contents.get(name, found)

    # Looking.

    def _environment(self, number: int) -> Path:
        names = [name for name in self._names() if name.startswith("environments/")]
        return Path(self.store.root, names[number % len(names)])

    def _names(self) -> list[str]:
        """What is published, in an order that is the same whatever the digests are."""

        def order(name: str) -> tuple[object, ...]:
            found = self.model.environments.get(name)
            needs = sorted(need.partition("-")[2] for need in found.needs) if found else []
            return (name.partition("-")[2], needs, name.partition(".")[2])

        return sorted(self.model.published, key=order)

    def _observe(self) -> None:
        """Tell the model what is there now: what may be there, or may be gone, a kill has decided."""
        self.model.published = frozenset(published(self.store))
        self.model.environments = {
            f"environments/{directory}": self._seen(directory) for directory in self.store.environments()
        }
        records = {place: externals.read(str(self.folder / place)) for place in ("x", "y")}
        self.model.externals = {place: needs(record) for place, record in records.items() if record}
        known = [
            found for found in externals.registrations(self.store.layout) if isinstance(found, Registration)
        ]
        self.model.registered = frozenset().union(*map(registered, known))

    def _seen(self, directory: str) -> Environment:
        record = self.store.record(directory)
        used = os.stat(self.store.layout.record(directory)).st_mtime
        return Environment(key=record.key, needs=needs(record), used=round((used - self.began) / DAY))


class AtItsStart(machine.Machine):
    """This machine, as it was, however short that is ago."""

    def since_boot(self) -> float:
        return 0.0


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def policy(rules: Rules) -> Policy:
    return Policy(max_age=rules.max_age * DAY, grace=rules.grace * DAY, keep_last=rules.keep_last)


def said(report: sweep.Report) -> tuple[object, ...]:
    """What a dry run and a run have to agree on."""
    return (
        report.environments,
        sorted(report.entries),
        report.leftovers,
        report.records,
        report.freed,
        report.missing,
    )


def needs(record: EnvironmentRecord | ExternalRecord) -> frozenset[str]:
    """What an environment refers to."""
    return frozenset(
        {f"entries/{wheel.directory}" for wheel in (*record.wheels, *record.composites)}
        | {f"locks/{record.lock}"}
    )


def registered(known: Registration) -> frozenset[str]:
    """What is kept for an environment of a user's."""
    return frozenset(
        {f"entries/{reference.directory}" for reference in known.references}
        | {f"locks/{lock}" for lock in known.locks}
    )


def published(store: Store) -> Iterator[str]:
    """Yield the names of all environments, entries and locks that are there."""
    yield from (f"environments/{name}" for name in store.environments())
    yield from (f"entries/{name}" for name in store.entries())
    locks = os.listdir(store.layout.of("locks"))
    # Others are what a gc had under way that was killed.
    yield from (f"locks/{name.removesuffix('.toml')}" for name in locks if name.endswith(".toml"))


@pytest.mark.slow
@pytest.mark.usefixtures("without_sync")
def test_whatever_is_done_to_a_store_gc_leaves_what_is_live_and_takes_what_is_dead(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "supplies", Supplies(tmp_path, *SPECS), raising=False)
    seconds = request.config.getoption("--machine-seconds")
    began = time.monotonic()
    # On a busy machine a few rounds take all the time, and something has not had its turn.
    while (took := time.monotonic() - began) < seconds or (
        TURNS - steps.keys() and took < _PATIENCE * seconds
    ):
        run_state_machine_as_test(Machine, settings=ROUND)
    took = time.monotonic() - began
    figures.note("state machine of gc", f"{steps.total():,} steps in {took:.0f} s")
    assert steps.keys() >= TURNS
