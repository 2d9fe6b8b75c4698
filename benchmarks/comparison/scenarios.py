"""What is made ready, what is timed, and what is looked at afterwards, by the names of the scenarios.

====================  ================================================================================================
scenario              measured
====================  ================================================================================================
install-cold          an environment is made, with caches that are empty
install-warm          the same, with caches that have everything; ``venv`` and ``install`` apart
install-noop          the same again, where there is nothing to do
install-incremental   one package more; vrfstore links another environment, the others change the one that is there
first-import-cold     an environment is made from empty caches, then the stack is imported, then once more
first-import-warm     the same, with caches that have everything
hit                   what a caller waits for who asks for an environment that stands
at-once-N             N environments, all begun at the same moment, with caches that have everything
disk                  what is on the disk after so many environments that differ in a package or two
delete                one environment is removed; vrfstore's gc looks for it, for the others ``rm -rf`` is told
gc                    everything is removed
store-size            a hit, a link and a gc in stores of so many entries
====================  ================================================================================================
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from comparison import storing
from comparison.ground import Ground, Made, remove
from comparison.model import Key
from comparison.planning import Job
from comparison.processes import Command
from comparison.rounds import Contender
from comparison.tools import BARE, FROM_LOCK, IN_PROCESS, NODE, PLAIN, TOOLS, Asked, Place, Tool
from comparison.workloads import without

__all__ = ["SCENARIOS", "contenders"]

HITS = Path(__file__).parent.parent.parent / "clients/node/bench/hits.js"
INSIDE = Path(__file__).with_name("inside.py")
OURS = "vrfstore"
LONG_AGO = 90 * 86400.0


def contenders(ground: Ground, job: Job) -> list[Contender]:
    """Return who takes turns in a job."""
    return [
        contender
        for size in (job.sizes if job.scenario in {"at-once", "store-size"} else (0,))
        for tool in job.tools
        for contender in SCENARIOS[job.scenario](ground, job, tool, size)
    ]


def _key(job: Job, tool: str, scenario: str = "") -> Key:
    return Key(scenario=scenario or job.scenario, workload=job.workload, tool=tool)


def _cold(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    tool, asked, used = TOOLS[name], ground.asked(), []

    def run(_number: int) -> Mapping[str, float]:
        place = ground.place(ground.fresh("cache"))
        used.extend((place.cache, place.environment))
        return ground.make(tool, place, asked).figures

    return [
        Contender(
            key=_key(job, name), run=run, tidy=lambda _: _tidy(ground, used), rounds=job.fewer.get(name)
        )
    ]


def _tidy(ground: Ground, used: list[Path]) -> None:
    """Wait for what is still at work there, and remove it."""
    if used:
        ground.settle(used[0])
        remove(used)
        used.clear()


def _warm(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    if name == IN_PROCESS:
        return [Contender(key=_key(job, name), run=_inside(ground, ground.asked()))]
    tool, asked = TOOLS[name], ground.asked()
    return [
        Contender(
            key=_key(job, name),
            prepare=lambda _: _ignored(ground.warmed(tool)),
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


def _ignored(_value: object) -> None:
    """Take a value that nobody needs, where a function is to return nothing."""


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


def _noop(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    return _again(ground, job, name, TOOLS[name])


def _again(ground: Ground, job: Job, name: str, tool: Tool) -> list[Contender]:
    """Return a contender that asks a tool again and again for what is there."""
    asked = ground.asked()
    standing = _Standing(ground, tool, asked)

    def run(_number: int) -> Mapping[str, float]:
        place = standing()
        return ground.run(tool, place, tool.again(place, asked)).figures

    def prepare(_number: int) -> None:
        standing()

    return [Contender(key=_key(job, name), prepare=prepare, run=run, rounds=job.fewer.get(name))]


def _incremental(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    tool, asked, more = TOOLS[name], ground.asked(), ground.asked(added=True)
    places: dict[int, Place] = {}

    def prepare(number: int) -> None:
        places[number] = ground.place(ground.warmed(tool))
        ground.make(tool, places[number], asked)

    def run(number: int) -> Mapping[str, float]:
        return ground.run(tool, places[number], tool.again(places[number], more)).figures

    return [Contender(key=_key(job, name), prepare=prepare, run=run, rounds=job.fewer.get(name))]


def _first_import(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    tool, asked, used = TOOLS[name], ground.asked(), []
    cold = job.scenario == "first-import-cold"

    def run(_number: int) -> Mapping[str, float]:
        place = ground.place(ground.fresh("cache") if cold else ground.warmed(tool))
        if cold:
            used.extend((place.cache, place.environment))
        made = ground.make(tool, place, asked)
        starts = [
            ground.spawner.run(_start(place, tool, made, ground.wheels.set.program)) for _ in range(2)
        ]
        ready = {"wall": made.figures["wall"] + starts[0].wall}
        return {**made.figures, **ready, "first": starts[0].wall, "second": starts[1].wall}

    return [
        Contender(
            key=_key(job, name),
            prepare=lambda _: None if cold else _ignored(ground.warmed(tool)),
            run=run,
            tidy=lambda _: _tidy(ground, used),
            rounds=job.fewer.get(name),
        )
    ]


def _start(place: Place, tool: Tool, made: Made, program: str) -> Command:
    """Return a start of the stack.

    Root could write bytecode into sealed entries, which nobody else can; so it is told what ``vrfstore run`` tells it.
    """
    more = {"PYTHONDONTWRITEBYTECODE": "1"} if tool.managed and os.geteuid() == 0 else {}
    return place.command(made.python, "-c", program, **more)


def _hit(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    if name == NODE:
        return [Contender(key=_key(job, name), run=_from_node(ground), rounds=3)]
    if name == BARE:
        place = ground.place(ground.fresh("cache"))
        bare = place.command(ground.box.python, "-c", "pass")
        return [Contender(key=_key(job, name), run=lambda _: _figures(ground, bare))]
    return _again(ground, job, name, {OURS: PLAIN, FROM_LOCK: TOOLS[OURS]}.get(name) or TOOLS[name])


def _figures(ground: Ground, *commands: Command) -> dict[str, float]:
    """Return the figures of commands that are started at once."""
    taken = ground.spawner.run(*commands)
    return {"wall": taken.wall, "processor": taken.processor, "peak": taken.peak}


def _from_node(ground: Ground) -> Callable[[int], Mapping[str, float]]:
    """Return a round of hits in one process of Node: the median of hundreds, one after another."""
    cache, asked = ground.fresh("cache"), ground.asked()

    def run(_number: int) -> Mapping[str, float]:
        place = ground.place(cache)
        words = [ground.box.node or "node", HITS, asked.pins, "--isolated", "--json", "--python", ground.box.base]
        options = ["--store", cache / "store", "--command", ground.box.vrfstore]
        taken = ground.spawner.run(place.command(*words, *options, VRFSTORE_COMPILE="off"))
        times = sorted(json.loads(taken.output)["sequential"])
        return {"wall": times[len(times) // 2] / 1000}

    return run


def _at_once(ground: Ground, job: Job, name: str, size: int) -> list[Contender]:
    tool, asked = TOOLS[name], ground.asked()

    def run(_number: int) -> Mapping[str, float]:
        cache = ground.warmed(tool)
        return _figures(ground, *(_chain(tool, ground.place(cache), asked) for _ in range(size)))

    return [
        Contender(
            key=_key(job, name, f"at-once-{size}"),
            prepare=lambda _: _ignored(ground.warmed(tool)),
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
    return Command(words=("/bin/sh", "-c", text), variables=steps[-1].variables, directory=steps[-1].directory)


def _disk(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
    tool, used = TOOLS[name], []

    def run(_number: int) -> Mapping[str, float]:
        cache = ground.fresh("cache")
        used.append(cache)
        found: dict[str, float] = {}
        for number in range(max(job.sizes)):
            # All of it is below the directory of the caches, so that it is counted together.
            place = ground.place(cache)
            inside = Place(box=place.box, index=place.index, cache=cache, environment=cache / f"environment-{number}")
            ground.make(tool, inside, ground.asked(pins=without(ground.pins, number)))
            if number + 1 in job.sizes:
                for what, amount in _occupied(cache).items():
                    found[f"{what} of {number + 1}"] = amount
        first, last = min(job.sizes), max(job.sizes)
        if last > first:
            for what in ("bytes", "inodes"):
                more = found[f"{what} of {last}"] - found[f"{what} of {first}"]
                found[f"{what} each"] = more / (last - first)
        return found

    return [Contender(key=_key(job, name), run=run, tidy=lambda _: _tidy(ground, used), rounds=1)]


def _occupied(directory: Path) -> dict[str, float]:
    """Return the bytes of blocks and the number of inodes of a tree, each inode once."""
    seen: dict[tuple[int, int], int] = {}
    for top, folders, files in os.walk(directory):
        for name in (".", *folders, *files):
            found = os.lstat(os.path.join(top, name))
            seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return {"bytes": float(sum(seen.values())), "inodes": float(len(seen))}


def _delete(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
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
        return _figures(ground, place.command(*words))

    return [Contender(key=_key(job, name), prepare=prepare, run=run, rounds=job.fewer.get(name))]


def _gc(ground: Ground, job: Job, name: str, _size: int) -> list[Contender]:
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
            words = [ground.box.vrfstore, "--store", place.cache / "store", "gc", "--max-age", "0", "--grace", "0"]
            return _figures(ground, place.command(*words))
        chain = f"{shlex.quote(ground.box.uv)} cache clean --quiet && rm -rf {shlex.quote(str(place.environment))}"
        return _figures(ground, place.command("/bin/sh", "-c", chain))

    return [Contender(key=_key(job, name), prepare=prepare, run=run, tidy=lambda _: _tidy(ground, used))]


SCENARIOS: Mapping[str, Callable[[Ground, Job, str, int], Sequence[Contender]]] = {
    "at-once": _at_once,
    "delete": _delete,
    "disk": _disk,
    "first-import-cold": _first_import,
    "first-import-warm": _first_import,
    "gc": _gc,
    "hit": _hit,
    "install-cold": _cold,
    "install-incremental": _incremental,
    "install-noop": _noop,
    "install-warm": _warm,
    "store-size": storing.contenders,
}
