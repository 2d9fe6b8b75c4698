"""Scenarios of making environments: from empty caches and full ones, again, with one package more, to an import."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from comparison.ground import Ground, Made, remove
from comparison.model import Key
from comparison.planning import Job
from comparison.processes import Command
from comparison.rounds import Contender
from comparison.tools import IN_PROCESS, OURS, TOOLS, Asked, Place, Tool

__all__ = ["again", "cold", "first_import", "incremental", "key_of", "noop", "tidy", "warm"]

INSIDE = Path(__file__).with_name("inside.py")


def key_of(job: Job, tool: str, scenario: str = "") -> Key:
    """Return what the series of a tool in a job is called."""
    return Key(scenario=scenario or job.scenario, workload=job.workload, tool=tool)


def cold(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    """Return who makes environments from empty caches."""
    tool, asked = TOOLS[name], ground.asked()
    used: list[Path] = []

    def run(_number: int) -> Mapping[str, float]:
        place = ground.place(ground.fresh("cache"))
        used.extend((place.cache, place.environment))
        return ground.make(tool, place, asked).figures

    return [
        Contender(
            key=key_of(job, name), run=run, tidy=lambda _: tidy(ground, used), rounds=job.fewer.get(name)
        )
    ]


def tidy(ground: Ground, used: list[Path]) -> None:
    """Kill what is still at work there, and remove it."""
    if used:
        ground.settle(used[0], "kill")
        remove(used)
        used.clear()


def warm(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    """Return who makes environments from full caches."""
    if name == IN_PROCESS:
        return [Contender(key=key_of(job, name), run=_inside(ground, ground.asked()))]
    tool, asked = TOOLS[name], ground.asked()
    return [
        Contender(
            key=key_of(job, name),
            prepare=lambda _: ground.warmed(tool),
            run=lambda _: ground.make(tool, ground.place(ground.warmed(tool)), asked).figures,
            rounds=job.fewer.get(name),
        )
    ]


def _inside(ground: Ground, asked: Asked) -> Callable[[int], Mapping[str, float]]:
    """Return a round of linking in a process that has started already."""
    tool = TOOLS[OURS]

    def run(_number: int) -> Mapping[str, float]:
        place = ground.place(ground.warmed(tool))
        made = ground.make(tool, place, asked)
        store = str(place.cache / "store")
        taken = ground.spawner.run(place.command(ground.box.python, INSIDE, store, made.environment))
        times = sorted(json.loads(taken.output))
        return {"wall": times[len(times) // 2] / 1000}

    return run


class _Standing:
    """An environment that is made once, before the first round."""

    def __init__(self, ground: Ground, tool: Tool, asked: Asked) -> None:
        self._ground, self._tool, self._asked = ground, tool, asked
        self.place: Place | None = None

    def __call__(self) -> Place:
        if self.place is None:
            place = self._ground.place(self._ground.warmed(self._tool))
            self._ground.make(self._tool, place, self._asked)
            self.place = place
        return self.place


def noop(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    """Return who asks for what is there."""
    return again(ground, job, name, TOOLS[name])


def again(ground: Ground, job: Job, name: str, tool: Tool) -> list[Contender]:
    """Return a contender that asks a tool again and again for what is there."""
    asked = ground.asked()
    standing = _Standing(ground, tool, asked)

    def run(_number: int) -> Mapping[str, float]:
        place = standing()
        return ground.run(tool, place, tool.again(place, asked)).figures

    return [
        Contender(key=key_of(job, name), prepare=lambda _: standing(), run=run, rounds=job.fewer.get(name))
    ]


def incremental(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    """Return who adds one package; ours links another environment, the others change the one that is there."""
    tool, asked, more = TOOLS[name], ground.asked(), ground.asked(added=True)
    places: dict[int, Place] = {}

    def prepare(number: int) -> None:
        places[number] = ground.place(ground.warmed(tool))
        ground.make(tool, places[number], asked)

    def run(number: int) -> Mapping[str, float]:
        return ground.run(tool, places[number], tool.again(places[number], more)).figures

    return [Contender(key=key_of(job, name), prepare=prepare, run=run, rounds=job.fewer.get(name))]


def first_import(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    """Return who makes an environment and imports the stack, twice."""
    tool, asked = TOOLS[name], ground.asked()
    used: list[Path] = []
    cold = job.scenario == "first-import-cold"

    def run(_number: int) -> Mapping[str, float]:
        place = ground.place(ground.fresh("cache") if cold else ground.warmed(tool))
        if cold:
            used.extend((place.cache, place.environment))
        made = ground.make(tool, place, asked)
        starts = [ground.spawner.run(_start(place, tool, made, ground.wheels.set.program)) for _ in range(2)]
        ready = {"wall": made.figures["wall"] + starts[0].wall}
        return {**made.figures, **ready, "first": starts[0].wall, "second": starts[1].wall}

    return [
        Contender(
            key=key_of(job, name),
            prepare=lambda _: None if cold else ground.warmed(tool),
            run=run,
            tidy=lambda _: tidy(ground, used),
            rounds=job.fewer.get(name),
        )
    ]


def _start(place: Place, tool: Tool, made: Made, program: str) -> Command:
    """Return a start of the stack.

    Root could write bytecode into sealed entries, which nobody else can; so it is told what ``vrfstore run`` tells it.
    """
    more = {"PYTHONDONTWRITEBYTECODE": "1"} if tool.managed and os.geteuid() == 0 else {}
    return place.command(made.python, "-c", program, more=more)
