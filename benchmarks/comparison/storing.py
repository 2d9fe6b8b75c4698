"""The scenario ``store-size``: what a user waits for, by how much else there is in the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from comparison.ground import Ground, remove
from comparison.model import Key
from comparison.planning import Job
from comparison.rounds import Contender
from comparison.tools import PLAIN, TOOLS, Place

__all__ = ["contenders"]

STOCKED = Path(__file__).with_name("stocked.py")


def contenders(ground: Ground, job: Job, name: str, size: int) -> list[Contender]:
    """Return what takes turns on a store of one size: a hit, a link, and a gc that only looks."""
    tool, asked = TOOLS[name], ground.asked()
    cache = ground.fresh("cache")
    standing: list[Place] = []

    def stock() -> Place:
        if not standing:
            place = ground.place(cache)
            words = [ground.box.python, STOCKED, cache / "store", cache, str(size)]
            ground.spawner.run(place.command(*words))
            ground.make(tool, place, asked)
            ground.make(PLAIN, place, asked)
            ground.settle(cache)
            standing.append(place)
        return standing[0]

    def hit(_number: int) -> Mapping[str, float]:
        return ground.make(PLAIN, stock(), asked).figures

    def link(_number: int) -> Mapping[str, float]:
        return ground.make(tool, ground.place(cache), asked).figures

    def look(_number: int) -> Mapping[str, float]:
        words = [ground.box.vrfstore, "--store", cache / "store", "gc", "--grace", "0", "--dry-run"]
        taken = ground.spawner.run(stock().command(*words))
        return {"wall": taken.wall, "processor": taken.processor, "peak": taken.peak}

    actions: dict[str, Callable[[int], Mapping[str, float]]] = {
        "hit": hit, "link": link, "gc --dry-run": look,
    }  # fmt: skip

    def tidy(number: int) -> None:
        if number == job.rounds - 1:
            remove([cache])

    found = [
        Contender(
            key=Key(scenario="store-size", workload=f"{size:,} entries", tool=f"vrfstore {label}"),
            prepare=lambda _: stock(),
            run=action,
        )
        for label, action in actions.items()
    ]
    last = found[-1]
    return [*found[:-1], Contender(key=last.key, prepare=last.prepare, run=last.run, tidy=tidy)]
