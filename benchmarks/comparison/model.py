"""What a run of the comparison has found: plain values, and their JSON.

A *series* is what one tool took in one scenario with one workload, round by round. What a round has is figures by
name, in seconds, bytes or numbers::

    wall        seconds that passed, all commands of the round together
    processor   seconds of all processors, user and system, of the commands and all that they waited for
    peak        bytes that the largest of these processes had in memory
    …           further ones, which the scenario names: wall time of one of several commands, bytes, inodes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

__all__ = ["FORMAT", "Key", "Run", "Series", "Workload"]

FORMAT = 1
"""Of the JSON. Another one means that old results cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Key:
    """What a series is of."""

    scenario: str
    workload: str
    tool: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """What one tool took.

    Attributes:
        key: What it is of.
        rounds: Figures by number of the round; a round that failed is not among them.
        failure: The last line that the tool said when it failed; empty if it never did.
    """

    key: Key
    rounds: Mapping[int, Mapping[str, float]]
    failure: str = ""

    def values(self, figure: str) -> list[float]:
        """Return one figure of all rounds that have it."""
        return [found[figure] for _, found in sorted(self.rounds.items()) if figure in found]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON; numbers of rounds become texts there."""
        rounds = {str(number): dict(found) for number, found in self.rounds.items()}
        return {**asdict(self.key), "rounds": rounds, "failure": self.failure}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what ``to_json`` was made of."""
        return cls(
            key=Key(**{name: value[name] for name in ("scenario", "workload", "tool")}),
            rounds={int(number): found for number, found in value["rounds"].items()},
            failure=value["failure"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """How large a set of wheels is.

    Attributes:
        wheels: How many they are.
        packed: Bytes of the wheel files.
        files: Files in them.
        unpacked: Bytes of these.
    """

    wheels: int
    packed: int
    files: int
    unpacked: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """All that one run has found.

    Attributes:
        name: What the files of the results are called.
        effort: ``quick``, ``usual`` or ``full``.
        began: When, as ISO 8601 in UTC.
        seconds: How long it took, without setting up.
        commit: ``id`` of the commit that was measured, and whether the tree was ``dirty``.
        machine: What it ran on.
        tools: Versions by tool.
        workloads: By name.
        series: In the order in which they were measured.
        left_out: What was not measured, and why.
    """

    name: str
    effort: str
    began: str
    seconds: float
    commit: Mapping[str, Any]
    machine: Mapping[str, Any]
    tools: Mapping[str, str]
    workloads: Mapping[str, Workload]
    series: tuple[Series, ...]
    left_out: tuple[str, ...] = ()
    _by_key: Mapping[Key, Series] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_key", {series.key: series for series in self.series})

    def get(self, key: Key) -> Series | None:
        """Return the series of a key, if that was measured."""
        return self._by_key.get(key)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "format": FORMAT,
            "name": self.name,
            "effort": self.effort,
            "began": self.began,
            "seconds": self.seconds,
            "commit": dict(self.commit),
            "machine": dict(self.machine),
            "tools": dict(self.tools),
            "workloads": {name: asdict(workload) for name, workload in self.workloads.items()},
            "series": [series.to_json() for series in self.series],
            "left_out": list(self.left_out),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what ``to_json`` was made of.

        Raises:
            ValueError: It is of another format.
        """
        if value["format"] != FORMAT:
            raise ValueError(f"results of format {value['format']}, and not {FORMAT}")
        plain = ("name", "effort", "began", "seconds", "commit", "machine", "tools")
        return cls(
            **{name: value[name] for name in plain},
            workloads={name: Workload(**workload) for name, workload in value["workloads"].items()},
            series=tuple(Series.from_json(series) for series in value["series"]),
            left_out=tuple(value["left_out"]),
        )
