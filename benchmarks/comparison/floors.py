"""What the figures have to be, at least, and whether they are. Pure.

A floor compares one figure of ours with one of somebody else's, in the same run. The factor that was found is the
median of the ratios round by round, theirs divided by ours: more is better, and it has to reach what is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comparison.figures import ratio
from comparison.model import Key, Run
from comparison.tools import BARE, IN_PROCESS, NODE

__all__ = ["FLOORS", "Floor", "Judged", "judge"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """What one figure has to be.

    Attributes:
        what: Of ours, in words.
        against: Of somebody else's, in words.
        wanted: In words.
        factor: What theirs divided by ours has to reach.
        scenario: The scenario that both are of.
        workload: The wheels.
        ours: The tool that is ours.
        theirs: The other.
        figure: The name of the figure.
    """

    what: str
    against: str
    wanted: str
    factor: float
    scenario: str
    workload: str
    ours: str
    theirs: str
    figure: str = "wall"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A floor, and what was found.

    Attributes:
        floor: The floor.
        found: Theirs divided by ours; None if either was not measured.
        why: Why it was not; empty otherwise.
    """

    floor: Floor
    found: float | None
    why: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None if that is not known."""
        return None if self.found is None else self.found >= self.floor.factor


def _floor(what: str, against: str, wanted: str, factor: float, *key: str, figure: str = "wall") -> Floor:
    scenario, workload, ours, theirs = key
    return Floor(
        what=what, against=against, wanted=wanted, factor=factor,
        scenario=scenario, workload=workload, ours=ours, theirs=theirs, figure=figure,
    )  # fmt: skip


_HARD_LINKS = "`uv venv` + `uv pip sync`, hard links, document stack"
_OFF, _COMPILED = "vrfstore --compile off", "uv --compile-bytecode"

FLOORS: Sequence[Floor] = (
    _floor("new environment, warm store, whole process", _HARD_LINKS, "5 times faster", 5.0,
           "install-warm", "document", "vrfstore", "uv"),
    _floor("the same, in process", _HARD_LINKS, "12 times faster", 12.0,
           "install-warm", "document", IN_PROCESS, "uv"),
    _floor("the same with bytecode there, whole process", "uv with `--compile-bytecode`", "100 times faster", 100.0,
           "install-warm", "document", "vrfstore", _COMPILED),
    _floor("hit from Node, no process", "uv's no-op sync, `flask` set", "20 times faster", 20.0,
           "hit", "flask", NODE, "uv"),
    _floor("hit from the CLI", "bare python of the same venv", "at most 1.5 times its time", 1 / 1.5,
           "hit", "flask", "vrfstore", BARE),
    _floor("cold from a lock, loopback index, no bytecode", "uv, the same", "no slower; aim at 1.5 times faster", 1.0,
           "install-cold", "document", _OFF, "uv, pylock.toml"),
    _floor("the same", "uv from pins, without hashes", "no slower", 1.0,
           "install-cold", "document", _OFF, "uv"),
    _floor("cold with bytecode (eager)", "uv with `--compile-bytecode`", "no slower", 1.0,
           "install-cold", "document", "vrfstore --compile eager", _COMPILED),
    _floor("second start of the stack after a cold link, defaults", "uv, defaults, its second", "no slower", 1.0,
           "first-import-cold", "document", "vrfstore", "uv", figure="second"),
    _floor("first import after a warm link", "uv, defaults", "1.8 times faster", 1.8,
           "first-import-warm", "document", "vrfstore", "uv", figure="first"),
    _floor("cold, defaults", "venv + pip", "6 times faster", 6.0,
           "install-cold", "document", "vrfstore", "venv + pip"),
    _floor("one environment more: new inodes", "uv", "a tenth", 10.0,
           "disk", "document", _OFF, "uv", figure="inodes each"),
    _floor("one environment more: new bytes", "uv", "no more", 1.0,
           "disk", "document", _OFF, "uv", figure="bytes each"),
)  # fmt: skip


def judge(run: Run, floors: Sequence[Floor] = FLOORS) -> list[Judged]:
    """Return what was found of each floor."""
    return [_judge(run, floor) for floor in floors]


def _judge(run: Run, floor: Floor) -> Judged:
    both = []
    for tool in (floor.ours, floor.theirs):
        series = run.get(Key(scenario=floor.scenario, workload=floor.workload, tool=tool))
        if series is None:
            return Judged(floor=floor, found=None, why="not measured")
        if series.failure:
            return Judged(floor=floor, found=None, why=f"{tool} failed")
        both.append(series)
    found = ratio(both[0], both[1], floor.figure)
    return Judged(floor=floor, found=found.median if found else None, why="" if found else "not measured")
