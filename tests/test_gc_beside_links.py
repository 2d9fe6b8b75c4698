"""A gc and a link beside each other, one of them stopped at every step, then killed or let go on: nothing is lost."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.crash import Paused, count_kill, events_of, litter, paused_at, reachable, sampled
from support.supplies import Supplies
from support.wheels import WheelSpec
from vrfstore import fs
from vrfstore.errors import BusyError
from vrfstore.gc import roots, sweep
from vrfstore.gc.policy import Policy
from vrfstore.runner.link import link
from vrfstore.runner.result import LinkResult
from vrfstore.store import condemned
from vrfstore.store.store import Store

SPECS = (
    WheelSpec(name="ash", files={"ash/__init__.py": "", "wood/ash.py": ""}),
    WheelSpec(
        name="elm", files={"elm/__init__.py": "", "wood/elm.py": ""}, data={"data/share/elm.txt": "elm"}
    ),
    WheelSpec(name="oak", entry_points={"console_scripts": {"oak": "oak:main"}}),
    WheelSpec(name="fir", files={"fir/__init__.py": "", "wood/fir.py": ""}),
)
LIVE, DEAD, NEW, OWN = (0, 1), (1, 3), (0, 3), (2,)
"""Which wheels a pinned environment has, one that gc takes with a wheel that nobody else has, one that is linked beside
it and wants that wheel, and one of the user's."""

EVERYTHING = Policy(max_age=0, grace=0)

SAMPLE = 6
"""At about how many of its steps each is stopped, where not at every one; there are twelve of these tests."""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class World:
    """A store with an environment that is pinned, one that nobody wants any more, and one outside.

    Attributes:
        store: It.
        folder: Where it is, and the environment of the user's.
        supplies: Where wheels come from.
        expected: What is to be found in each environment that has to stay, by its path.
    """

    store: Store
    folder: Path
    supplies: Supplies
    expected: dict[str, frozenset[str]]

    def link(self, chosen: tuple[int, ...], into: str | None = None, *, lease: bool = False) -> LinkResult:
        place = None if into is None else self.folder / into
        return link(self.supplies.lock(*chosen), store=self.store, into=place, lease=lease)

    def use(self, how: str) -> LinkResult:
        """Link, and keep what was linked: by a lease, or because it is the user's."""
        chosen, into = LINKS[how]
        return self.link(chosen, into, lease=into is None)

    def assert_whole(self) -> None:
        """Nothing that has to stay has lost anything; whatever else there is dangles nowhere."""
        for place, expected in self.expected.items():
            assert reachable(place) == expected
        for directory in self.store.environments():
            reachable(self.store.layout.of("environments", directory))

    def collect(self) -> sweep.Report:
        return sweep.collect(self.store, EVERYTHING)

    def names(self) -> set[str]:
        """The names of the distributions that have an entry."""
        return {entry.split("-")[1] for entry in self.store.entries()}


LINKS: dict[str, tuple[tuple[int, ...], str | None]] = {
    "what gc takes": (DEAD, None),
    "what was not there": (NEW, None),
    "into a directory of the user's": (DEAD, "another"),
}


@pytest.fixture(scope="module")
def supplies(tmp_path_factory: pytest.TempPathFactory) -> Supplies:
    return Supplies(tmp_path_factory.mktemp("supplies"), *SPECS)


@pytest.fixture
def worlds(
    tmp_path: Path, supplies: Supplies, monkeypatch: pytest.MonkeyPatch, without_sync: None
) -> Callable[[], World]:
    """Make a world; each time in a directory of its own, and all of them alike."""
    # Who waits for a collector that has been stopped waits in vain.
    monkeypatch.setattr(condemned, "_PATIENCE", 0.02)
    made: list[World] = []

    def make() -> World:
        while made:
            fs.remove_tree(str(made.pop().folder))
        folder = tmp_path / "world"
        folder.mkdir()
        world = World(supplies.store(folder / "store"), folder, supplies, {})
        made.append(world)
        live = world.link(LIVE)
        roots.add(world.store, "pin", live.environment)
        own = world.link(OWN, "own")
        world.link(DEAD)
        for place in (live.environment, own.environment):
            world.expected[place] = reachable(place)
        time.sleep(0.01)
        return world

    return make


def end_clean(world: World, result: LinkResult) -> None:
    """The next run leaves what is in use, the one after that no more than what is pinned, and neither any rubbish."""
    world.assert_whole()
    assert not world.collect().problems
    world.assert_whole()
    managed = result.lease is not None
    if result.lease is not None:
        assert litter(world.store) == [f"leases/{Path(result.lease.path).name}"]
        result.lease.release()
        del world.expected[result.environment]
    assert not world.collect().problems
    world.assert_whole()
    assert litter(world.store) == []
    assert len(world.store.environments()) == 1
    assert world.names() == {"ash", "elm", "oak"} | (set() if managed else {"fir"})


def linked(world: World, how: str, paused: Paused, end: Callable[[Paused], None]) -> LinkResult:
    """Link while a collector is stopped, and again once it has ended where its list was in the way."""
    result = None
    with contextlib.suppress(BusyError):
        result = in_use(world, how)
        world.assert_whole()
    end(paused)
    return in_use(world, how) if result is None else result


def in_use(world: World, how: str) -> LinkResult:
    """Link in this process; from now on that has to stay."""
    result = world.use(how)
    world.expected[result.environment] = reachable(result.environment)
    return result


def moments(action: Callable[[], object]) -> tuple[list[int], int]:
    """Return at which steps of an action to stop it, each rename among them, and how many there are.

    What is decided before a rename, and done after it, is all that can be lost.
    """
    events = events_of(action)
    renames = [step for step, event in enumerate(events, 1) if event == "os.rename"]
    return sorted({*sampled(len(events), SAMPLE), *renames}), len(events)


ENDS = {"killed": Paused.kill, "let go on": Paused.go_on}


@pytest.mark.parametrize("how", LINKS)
@pytest.mark.parametrize("end", ENDS)
def test_a_gc_killed_or_delayed_anywhere_takes_nothing_that_was_linked_meanwhile(
    worlds: Callable[[], World], how: str, end: str
) -> None:
    points, steps = moments(functools.partial(sweep.collect, worlds().store, EVERYTHING))
    tried = 0
    for point in points:
        world = worlds()
        with paused_at(point, functools.partial(sweep.collect, world.store, EVERYTHING)) as paused:
            if paused is not None:
                end_clean(world, linked(world, how, paused, ENDS[end]))
                count_kill(steps)
                tried += 1
    assert tried > len(points) / 2, "hardly anything was stopped"


@pytest.mark.parametrize("how", LINKS)
@pytest.mark.parametrize("end", ENDS)
def test_a_link_killed_or_delayed_anywhere_loses_nothing_to_a_gc_meanwhile(
    worlds: Callable[[], World], how: str, end: str
) -> None:
    points, steps = moments(functools.partial(World.use, worlds(), how))
    tried = busy = 0
    for point in points:
        world = worlds()
        answer = world.folder / "answer"
        with paused_at(point, functools.partial(note, world, how, answer)) as paused:
            if paused is None:
                continue
            try:
                assert all(str(world.folder / "another") in problem for problem in world.collect().problems)
            except BusyError:
                busy += 1  # it makes the list that a collector would need, and holds what collectors hold
            world.assert_whole()
            ENDS[end](paused)
        if end == "let go on":
            assert reachable(answer.read_text())
        end_clean(world, in_use(world, how))
        count_kill(steps)
        tried += 1
    assert tried > len(points) / 2, "hardly anything was stopped"
    assert busy <= tried / 2


def note(world: World, how: str, answer: Path) -> None:
    """Link, and write down where that is."""
    answer.write_text(world.use(how).environment)
