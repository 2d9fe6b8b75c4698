"""Scenarios of many environments: made at once, kept on one disk, and removed again."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from comparison.ground import Ground, Made
from comparison.making import key_of, tidy
from comparison.planning import Job
from comparison.processes import Command
from comparison.rounds import Contender
from comparison.tools import TOOLS, Asked, Place, Tool
from comparison.workloads import without

__all__ = ["at_once", "delete", "disk", "gc"]

LONG_AGO = 90 * 86400.0
"""Seconds since an environment was used that a gc is to find."""


def at_once(ground: Ground, job: Job, name: str, size: int) -> list[Contender]:
    """Return who makes so many environments, all begun at the same moment."""
    tool, asked = TOOLS[name], ground.asked()

    def run(_number: int) -> Mapping[str, float]:
        cache = ground.warmed(tool)
        return ground.figures_of(*(_chain(tool, ground.place(cache), asked) for _ in range(size)))

    return [
        Contender(
            key=key_of(job, name, f"at-once-{size}"),
            prepare=lambda _: ground.warmed(tool),
            run=run,
            rounds=job.fewer.get(name),
        )
    ]


def _chain(tool: Tool, place: Place, asked: Asked) -> Command:
    """Return all steps as one command."""
    steps = list(tool.make(place, asked).values())
    if len(steps) == 1:
        return steps[0]
    text = " && ".join(shlex.join(step.words) for step in steps)
    return Command(
        words=("/bin/sh", "-c", text), variables=steps[-1].variables, directory=steps[-1].directory
    )


def disk(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    """Return who makes environments that differ in a package or two, and looks what they occupy."""
    tool = TOOLS[name]
    used: list[Path] = []

    def run(_number: int) -> Mapping[str, float]:
        cache = ground.fresh("cache")
        used.append(cache)
        found: dict[str, float] = {}
        for number in range(max(job.sizes)):
            # All of it is below the directory of the caches, so that it is counted together.
            place = ground.place(cache)
            inside = Place(
                box=place.box, index=place.index, cache=cache, environment=cache / f"environment-{number}"
            )
            # The first has all of them, so that what later ones need more is only they themselves.
            pins = without(ground.pins, number - 1) if number else ground.pins
            ground.make(tool, inside, ground.asked(pins=pins))
            if number + 1 in job.sizes:
                for what, amount in _occupied(cache).items():
                    found[f"{what} of {number + 1}"] = amount
        first, last = min(job.sizes), max(job.sizes)
        if last > first:
            for what in ("bytes", "inodes"):
                more = found[f"{what} of {last}"] - found[f"{what} of {first}"]
                found[f"{what} each"] = more / (last - first)
        return found

    return [Contender(key=key_of(job, name), run=run, tidy=lambda _: tidy(ground, used), rounds=1)]


def _occupied(directory: Path) -> dict[str, float]:
    """Return the bytes of blocks and the number of inodes of a tree, each inode once."""
    seen: dict[tuple[int, int], int] = {}
    for top, folders, files in os.walk(directory):
        for name in (".", *folders, *files):
            found = os.lstat(os.path.join(top, name))
            seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return {"bytes": float(sum(seen.values())), "inodes": float(len(seen))}


def delete(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    """Return who removes one environment, which a gc has to find by itself."""
    tool, asked = TOOLS[name], ground.asked()
    made: dict[int, tuple[Place, Made]] = {}

    def prepare(number: int) -> None:
        place = ground.place(ground.warmed(tool))
        made[number] = place, ground.make(tool, place, asked)
        if tool.managed:
            past = time.time() - LONG_AGO
            os.utime(f"{made[number][1].environment}/vrfstore.json", (past, past))

    def run(number: int) -> Mapping[str, float]:
        place, environment = made[number]
        words = ["/bin/rm", "-rf", environment.environment]
        if tool.managed:
            words = [ground.box.vrfstore, "--store", str(place.cache / "store"), "gc"]
        return ground.figures_of(place.command(*words))

    return [Contender(key=key_of(job, name), prepare=prepare, run=run, rounds=job.fewer.get(name))]


def gc(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    """Return who removes everything."""
    tool, asked = TOOLS[name], ground.asked()
    made: dict[int, Place] = {}
    used: list[Path] = []

    def prepare(number: int) -> None:
        made[number] = ground.place(ground.fresh("cache"))
        used.append(made[number].cache)
        ground.make(tool, made[number], asked)
        ground.settle(made[number].cache)

    def run(number: int) -> Mapping[str, float]:
        place = made[number]
        if tool.managed:
            words = [
                ground.box.vrfstore,
                "--store",
                place.cache / "store",
                "gc",
                "--max-age",
                "0",
                "--grace",
                "0",
            ]
            return ground.figures_of(place.command(*words))
        chain = f"{shlex.quote(ground.box.uv)} cache clean --quiet && rm -rf {shlex.quote(str(place.environment))}"
        return ground.figures_of(place.command("/bin/sh", "-c", chain))

    return [Contender(key=key_of(job, name), prepare=prepare, run=run, tidy=lambda _: tidy(ground, used))]
