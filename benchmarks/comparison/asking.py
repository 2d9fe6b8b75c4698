"""The scenario of a hit: by the command, from Node, by uv, and what starting Python takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from comparison.ground import Ground
from comparison.making import again, key_of
from comparison.planning import Job
from comparison.rounds import Contender
from comparison.tools import BARE, FROM_LOCK, NODE, OURS, PLAIN, TOOLS

__all__ = ["hit"]

HITS = Path(__file__).parent.parent.parent / "clients/node/bench/hits.js"


def hit(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    """Return who asks for an environment that stands."""
    if name == NODE:
        return [Contender(key=key_of(job, name), run=_from_node(ground), rounds=3)]
    if name == BARE:
        place = ground.place(ground.fresh("cache"))
        bare = place.command(ground.box.python, "-c", "pass")
        return [Contender(key=key_of(job, name), run=lambda _: ground.figures_of(bare))]
    return again(ground, job, name, {OURS: PLAIN, FROM_LOCK: TOOLS[OURS]}.get(name) or TOOLS[name])


def _from_node(ground: Ground) -> Callable[[int], Mapping[str, float]]:
    """Return a round of hits in one process of Node: the median of hundreds, one after another."""
    cache, asked = ground.fresh("cache"), ground.asked()

    def run(_number: int) -> Mapping[str, float]:
        place = ground.place(cache)
        words = [
            ground.box.node or "node",
            HITS,
            asked.pins,
            "--isolated",
            "--json",
            "--python",
            ground.box.base,
        ]
        options = ["--store", cache / "store", "--command", ground.box.vrfstore]
        taken = ground.spawner.run(place.command(*words, *options, more={"VRFSTORE_COMPILE": "off"}))
        times = sorted(json.loads(taken.output)["sequential"])
        return {"wall": times[len(times) // 2] / 1000}

    return run
