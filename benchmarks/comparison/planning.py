"""Which scenario is run with which tools on which workload, and how often. Pure.

A plan is in the order of what matters most: where the time is up, what comes last is left out. Slow tools get the small
workloads, and of large ones a round or two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comparison.tools import BARE, FROM_LOCK, IN_PROCESS, NODE

__all__ = ["EFFORTS", "Job", "plan", "seconds_for"]

EFFORTS = ("quick", "usual", "full")

OURS, UV = "vrfstore", "uv"
OFF, EAGER = "vrfstore --compile off", "vrfstore --compile eager"
COMPILED, SYMLINKS, PYLOCK = "uv --compile-bytecode", "uv, symlinks", "uv, pylock.toml"
PIP, NOT_COMPILED, VIRTUALENV = "venv + pip", "venv + pip --no-compile", "virtualenv + pip"
PDM, PEX = "PDM, symlinks", "pex --venv"
OTHERS = (PIP, NOT_COMPILED, VIRTUALENV, PDM, PEX)

_SECONDS: Mapping[str, float | None] = {"quick": 110, "usual": 1560, "full": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One scenario on one workload.

    Attributes:
        scenario: Its name.
        workload: That of the wheels.
        tools: Those that take turns.
        rounds: How many turns each gets.
        fewer: How many those get that get fewer.
        sizes: Numbers of environments or entries, where the scenario is about such.
        seconds: After so many, no further round is begun.
    """

    scenario: str
    workload: str
    tools: Sequence[str]
    rounds: int
    fewer: Mapping[str, int] = field(default_factory=dict)
    sizes: Sequence[int] = ()
    seconds: float = 300.0


def seconds_for(effort: str) -> float | None:
    """Return how long the measuring may take, setting up apart; None for no limit."""
    return _SECONDS[effort]


def plan(effort: str) -> list[Job]:
    """Return what is run, the most important first."""
    return {"quick": _quick, "usual": _usual, "full": _full}[effort]()


def _job(scenario: str, workload: str, rounds: int, *tools: str, **more: Any) -> Job:
    return Job(scenario=scenario, workload=workload, rounds=rounds, tools=tools, **more)


def _quick() -> list[Job]:
    once = {PIP: 1, COMPILED: 2, EAGER: 2}
    return [
        _job("hit", "flask", 9, BARE, OURS, FROM_LOCK, UV, NODE, seconds=15),
        _job("install-warm", "flask", 5, OURS, IN_PROCESS, UV, COMPILED, PIP, fewer=once, seconds=15),
        _job("install-cold", "flask", 3, OFF, OURS, EAGER, UV, COMPILED, PIP, fewer=once, seconds=15),
        _job("first-import-warm", "flask", 5, OURS, UV, seconds=10),
        _job("store-size", "flask", 5, OURS, sizes=(10, 100), seconds=10),
        _job("install-warm", "trio", 5, OURS, IN_PROCESS, UV, seconds=10),
        _job("install-cold", "trio", 2, OFF, UV, seconds=10),
        _job("install-incremental", "trio", 3, OURS, UV, seconds=10),
        _job("at-once", "trio", 2, OURS, UV, sizes=(8,), seconds=10),
        _job("disk", "trio", 1, OFF, UV, sizes=(1, 10)),
    ]


def _usual() -> list[Job]:
    return [
        *_small("flask", rounds=7),
        *_document(),
        *_trio(),
        *_pairs(),
        _stocked(),
    ]


def _document() -> list[Job]:
    """Return what is measured of the stack that most of the floors are about."""
    on, colds = "document", (OFF, OURS, EAGER, UV, PYLOCK, COMPILED, PIP)
    once = {PIP: 1, COMPILED: 1, EAGER: 1}
    twice = {COMPILED: 2, SYMLINKS: 2}
    return [
        _job("install-warm", on, 9, OURS, IN_PROCESS, UV, COMPILED, SYMLINKS, fewer=twice),
        _job("install-cold", on, 4, *colds, fewer={**twice, EAGER: 2, PIP: 1}, seconds=240),
        _job("first-import-warm", on, 5, OURS, UV, COMPILED, fewer=once, seconds=120),
        _job("first-import-cold", on, 3, OURS, OFF, UV, EAGER, COMPILED, fewer=once, seconds=180),
        _job("disk", on, 1, OFF, UV, sizes=(1, 10)),
        _job("install-noop", on, 9, OURS, UV),
        _job("install-incremental", on, 5, OURS, UV, seconds=60),
        _job("at-once", on, 3, OURS, UV, sizes=(1, 8), seconds=60),
        _job("delete", on, 5, OURS, UV, seconds=60),
    ]


def _trio() -> list[Job]:
    """Return what is measured of a set between the small and the large; of slow tools, pip once."""
    on, once = "trio", {PIP: 1, COMPILED: 2}
    return [
        _job("hit", on, 9, BARE, OURS, FROM_LOCK, UV, NODE, seconds=30),
        _job("install-warm", on, 7, OURS, IN_PROCESS, UV, PYLOCK, COMPILED, PIP, fewer=once, seconds=60),
        _job("install-cold", on, 3, OFF, OURS, EAGER, UV, PYLOCK, COMPILED, PIP, fewer=once, seconds=90),
        _job("install-noop", on, 5, OURS, UV, seconds=30),
        _job("install-incremental", on, 5, OURS, UV, seconds=30),
        _job("first-import-warm", on, 3, OURS, UV, seconds=30),
        _job("delete", on, 5, OURS, UV, seconds=30),
        _job("at-once", on, 3, OURS, UV, sizes=(1, 8, 32), seconds=60),
        _job("disk", on, 1, OFF, UV, sizes=(1, 10, 100)),
        _job("gc", on, 3, OURS, UV, seconds=40),
    ]


def _small(on: str, *, rounds: int) -> list[Job]:
    """Return all that is quick enough for every tool."""
    few = dict.fromkeys(OTHERS, 2)
    uvs = (UV, COMPILED, SYMLINKS, PYLOCK)
    return [
        _job("hit", on, 3 * rounds, BARE, OURS, FROM_LOCK, UV, NODE),
        _job("install-warm", on, rounds, OURS, IN_PROCESS, *uvs, *OTHERS, fewer=few, seconds=120),
        _job("install-cold", on, rounds, OFF, OURS, EAGER, *uvs, *OTHERS, fewer=few, seconds=120),
        _job("install-noop", on, rounds, OURS, UV, PIP, PDM, fewer=few),
        _job("install-incremental", on, rounds, OURS, UV, PIP, fewer=few, seconds=90),
        _job("first-import-warm", on, rounds, OURS, UV, COMPILED, PIP, fewer=few, seconds=90),
        _job("first-import-cold", on, rounds, OURS, OFF, EAGER, UV, COMPILED, seconds=90),
        _job("delete", on, rounds, OURS, UV, PIP, fewer=few, seconds=60),
    ]


def _pairs() -> list[Job]:
    """Return the least that is known of a workload, for those of which no more is measured."""
    return [
        job
        for on in ("coupled", "jupyter", "boto3")
        for job in (
            _job("install-warm", on, 5, OURS, IN_PROCESS, UV, seconds=20),
            _job("install-cold", on, 2, OFF, UV, PYLOCK, seconds=40),
            _job("first-import-warm", on, 3, OURS, UV, seconds=20),
        )
    ]


def _stocked() -> Job:
    """Return what is measured of large stores."""
    return _job("store-size", "flask", 7, OURS, sizes=(10, 1_000, 10_000), seconds=120)


def _full() -> list[Job]:
    """Return what the usual plan has, with more rounds, more tools on the large workloads, and larger numbers.

    What only this plan has comes before workloads of which little more is measured than usual.
    """
    jobs = [
        *_small("flask", rounds=7),
        *_document(),
        _job("gc", "document", 1, OURS, UV),
        *_trio(),
        _stocked(),
        *_pairs(),
    ]
    numbers = {"at-once": (1, 8, 32), "disk": (1, 10, 100), "store-size": (10, 100, 1_000, 10_000, 100_000)}
    return [
        Job(
            scenario=job.scenario,
            workload=job.workload,
            tools=(*job.tools, *(tool for tool in _wider(job) if tool not in job.tools)),
            rounds=job.rounds if job.scenario == "disk" else job.rounds + 2,
            fewer=dict.fromkeys(OTHERS, 2) | {tool: rounds + 1 for tool, rounds in job.fewer.items()},
            sizes=numbers.get(job.scenario, job.sizes),
            seconds=math.inf,
        )
        for job in jobs
    ]


def _wider(job: Job) -> tuple[str, ...]:
    """Return the tools that there is time for without a limit."""
    match job.scenario:
        case "install-cold" | "install-warm":
            return OTHERS
        case "at-once" if job.workload == "document":
            # 32 environments that share nothing would need some 40 GB.
            return ()
        case "at-once" | "first-import-cold":
            return (PIP,)
    return ()
