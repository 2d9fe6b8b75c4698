"""Who takes how much: every byte that a store occupies, counted once, and what would come back without whom.

An inode belongs to the first of these that has a link to it: entries, interpreters, environments, everything else. So
an environment has its fresh files, and of a file of an entry nothing. What several entries have, as a composite and its
members do, is common to them: it comes back when all of them have gone. The sum of everything is ``sizes.size_of``.

Remembered are only inodes that take blocks and have links that have not been seen yet; of 100,000 entries that nobody
refers to, none.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal

from vrfstore import fs
from vrfstore.gc import sizes
from vrfstore.gc.graph import Graph, distribution
from vrfstore.store.store import Store
from vrfstore.values import dataclass, field

__all__ = ["By", "Holder", "Row", "Table", "Usage", "holders", "measure", "table"]

By = Literal["environment", "root", "package"]

_MASK = 0xFFFFFFFF
_NOBODY = 0
_LEFTOVERS = "leftovers"
_MEMBERS = frozenset({"entries", "environments", "inputs", "locks", "requests"})
"""Parts of which every member counts by itself; another part counts as a whole."""

_FILES = _MEMBERS - {"entries", "environments"}
"""Those whose members are files, with an ending that is no part of the name."""

_LABELS = {
    "interpreters": "interpreters",
    "locks": "locks",
    "inputs": "memos",
    "requests": "memos",
    "logs": "logs",
    "holds": "holds",
    "gc": "ballast",
    "tmp": "leftovers",
    _LEFTOVERS: "leftovers",
}
"""What the parts of the store itself are called where its bytes are listed; all others are records."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What everything in a store occupies, in bytes.

    Attributes:
        own: What comes back when something goes, by its name: ``entries/<directory>`` and so on, or a part of the
            store.
        common: What comes back when all of several things have gone, by their names.
        outside: What something occupies that does not come back, because there is a hard link outside of the store.
    """

    own: Mapping[str, int]
    common: Mapping[frozenset[str], int] = field(default_factory=dict)
    outside: Mapping[str, int] = field(default_factory=dict)
    _groups: Mapping[str, tuple[frozenset[str], ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        groups: dict[str, list[frozenset[str]]] = defaultdict(list)
        for group in self.common:
            for name in group:
                groups[name].append(group)
        object.__setattr__(self, "_groups", {name: tuple(found) for name, found in groups.items()})

    @property
    def total(self) -> int:
        """All that the store occupies."""
        return sum(self.own.values()) + sum(self.common.values()) + sum(self.outside.values())

    def freed(self, names: Collection[str]) -> int:
        """Return what comes back when exactly these things go."""
        gone = frozenset(names)
        together = (self.common[group] for group in self._touched(gone) if group <= gone)
        return sum(self.own.get(name, 0) for name in gone) + sum(together)

    def taken(self, names: Collection[str]) -> int:
        """Return what these things occupy together, with what they have in common with others."""
        return sum(self.own.get(name, 0) + self.outside.get(name, 0) for name in names) + sum(
            self.common[group] for group in self._touched(names)
        )

    def _touched(self, names: Iterable[str]) -> set[frozenset[str]]:
        return {group for name in names for group in self._groups.get(name, ())}


def measure(store: Store) -> Usage:
    """Return what everything in a store occupies by now; no link is followed."""
    meter = _Meter()
    directories = [store.root]
    leftovers = []
    for part in sorted(os.listdir(store.root), key=lambda part: (_rank(part), part)):
        path = f"{store.root}/{part}"
        if part not in _MEMBERS or os.path.islink(path) or not os.path.isdir(path):
            found = sizes.walk(path)
            # Every store has the directory, whatever is in it.
            meter.see(_rank(""), "", itertools.islice(found, 1))
            meter.see(_rank(part), part, found)
            continue
        directories.append(path)
        for member in os.listdir(path):
            if member.startswith("."):
                leftovers.append(f"{path}/{member}")
            else:
                name = member.removesuffix(".json").removesuffix(".toml") if part in _FILES else member
                meter.see(_rank(part), f"{part}/{name}", sizes.walk(f"{path}/{member}"))
    for path in leftovers:
        meter.see(_rank(_LEFTOVERS), _LEFTOVERS, sizes.walk(path))
    for path in directories:
        meter.see(_rank(""), "", [os.lstat(path)])
    return meter.usage()


def _rank(part: str) -> int:
    order = ("entries", "interpreters", "environments")
    return order.index(part) if part in order else len(order) + (part == _LEFTOVERS)


class _Meter:
    """Sums up what it is shown. Owners are numbers: of one thing, or of some and one more."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, str], int] = {}
        # Rank, number of all owners but the last, and the last: what a thousand entries have costs no million names.
        self._owners: list[tuple[int, int, str]] = [(0, _NOBODY, "")]
        self._bytes: dict[int, int] = defaultdict(int)
        self._outside: dict[int, int] = defaultdict(int)
        # Links that have not been seen, owner and blocks in one number: a tuple would take four times the memory.
        self._open: dict[int | tuple[int, int], int] = {}
        self._device: int | None = None

    def see(self, rank: int, name: str, found: Iterable[os.stat_result]) -> None:
        """Count what is something's; what has gone meanwhile is nobody's."""
        owner = self._number(rank, _NOBODY, name)
        with contextlib.suppress(FileNotFoundError):
            for each in found:
                self._count(owner, each)

    def _count(self, owner: int, found: os.stat_result) -> None:
        if found.st_nlink == 1 or not found.st_blocks or stat.S_ISDIR(found.st_mode):
            self._bytes[owner] += found.st_blocks * fs.BLOCK
            return
        self._device = found.st_dev if self._device is None else self._device
        inode = found.st_ino if found.st_dev == self._device else (found.st_dev, found.st_ino)
        known = self._open.pop(inode, None)
        left = found.st_nlink
        if known is not None:
            owner = self._together(known >> 32 & _MASK, owner)
            left = min(known & _MASK, left)
        if left > 1:
            self._open[inode] = found.st_blocks << 64 | owner << 32 | left - 1
        else:
            self._bytes[owner] += found.st_blocks * fs.BLOCK

    def _number(self, rank: int, others: int, name: str) -> int:
        number = self._numbers.setdefault((others, name), len(self._owners))
        if number == len(self._owners):
            self._owners.append((rank, others, name))
        return number

    def _together(self, first: int, second: int) -> int:
        """Return whose an inode is that two have: the first's, or where both are of a kind, that of both."""
        rank, _, last = self._owners[first]
        other_rank, _, name = self._owners[second]
        # All that something has is seen in one go, so that looking at the last one is enough.
        return first if rank < other_rank or last == name else self._number(rank, first, name)

    def usage(self) -> Usage:
        """Return the sums."""
        for packed in self._open.values():
            self._outside[packed >> 32 & _MASK] += (packed >> 64) * fs.BLOCK
        own: dict[str, int] = defaultdict(int)
        common: dict[frozenset[str], int] = defaultdict(int)
        outside: dict[str, int] = defaultdict(int)
        for number, count in self._bytes.items():
            names = frozenset(self._names(number))
            if len(names) > 1:
                common[names] += count
            else:
                own[next(iter(names))] += count
        for number, count in self._outside.items():
            outside[min(self._names(number))] += count
        return Usage(own, common, outside)

    def _names(self, number: int) -> Iterator[str]:
        while number != _NOBODY:
            _, number, name = self._owners[number]
            yield name


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Something, and what it takes.

    Attributes:
        name: Which: ``environments/<directory>``, the path of an external environment, or what a root or package is
            called.
        exclusive: Bytes that come back when it goes alone, once what it leaves behind is of age.
        shared: Bytes of what it uses together with others.
    """

    name: str
    exclusive: int
    shared: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """All that a store occupies. Exclusive bytes, shared ones, the others and the store's own are the total.

    Attributes:
        rows: The largest first.
        shared: Bytes that several rows use.
        others: Bytes of entries and environments that are in no row.
        itself: Bytes of the store itself, by what they are for.
        total: Bytes.
    """

    rows: tuple[Row, ...]
    shared: int
    others: int
    itself: Mapping[str, int]
    total: int


def table(graph: Graph, usage: Usage, by: By) -> Table:
    """Return who takes how much.

    Args:
        graph: Who refers to what.
        usage: What everything takes, measured at about the same time.
        by: What a row is; external environments are environments.
    """
    rows = []
    used: set[str] = set()
    for name, alone, everything in _of_each(graph, by):
        used |= alone | everything
        exclusive = usage.freed(alone)
        rows.append(Row(name=name, exclusive=exclusive, shared=usage.taken(alone | everything) - exclusive))
    things = {name for name in _names(usage) if name.startswith(("entries/", "environments/"))}
    shared = usage.taken(used) - sum(row.exclusive for row in rows)
    others = usage.taken(things | used) - usage.taken(used)
    itself: dict[str, int] = defaultdict(int)
    for name in _names(usage) - things - used:
        itself[_LABELS.get(name.partition("/")[0], "records")] += usage.taken((name,))
    return Table(
        rows=tuple(sorted(rows, key=lambda row: (-row.exclusive - row.shared, row.name))),
        shared=shared,
        others=others,
        itself=dict(sorted(itself.items(), key=lambda item: -item[1])),
        total=usage.total,
    )


def _names(usage: Usage) -> set[str]:
    return {*usage.own, *usage.outside, *(name for group in usage.common for name in group)}


def _of_each(graph: Graph, by: By) -> Iterator[tuple[str, frozenset[str], frozenset[str]]]:
    """Yield for each row its name, what goes when it goes alone, and all that it uses."""
    if by == "package":
        packages: dict[str, set[str]] = defaultdict(set)
        for name in graph:
            part, _, directory = name.partition("/")
            if part == "entries":
                packages[distribution(directory)[0]].add(name)
        for package, entries in packages.items():
            yield package, frozenset(entries), frozenset(entries)
        return
    if by == "environment":
        for name in graph:
            if name.startswith("environments/"):
                yield name, graph.alone(environments=(name,)), graph.closure((name,))
    kind = "root" if by == "root" else "external"
    for source, names in graph.sources().items():
        if source[0] == kind:
            yield source[1], graph.alone(sources=(source,)), graph.closure(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Something that stays, why, and what it holds.

    Attributes:
        what: ``environments/<directory>``, ``entries/<directory>``, or the path of an external environment.
        why: In words.
        exclusive: Bytes that would come back without it alone.
        shared: Bytes of what it uses together with others.
    """

    what: str
    why: tuple[str, ...]
    exclusive: int
    shared: int


_HOLD_ENTRIES = frozenset({"root", "lease", "process", "unreadable", "other"})
"""The kinds of keepers that hold an entry without an environment that is listed."""


def holders(graph: Graph, usage: Usage) -> list[Holder]:
    """Return what is live, what keeps it, and how much it holds, the largest first.

    Listed are environments, managed and external, and the entries that something other than an environment keeps.
    """
    found = []
    for name in graph:
        keepers = graph.keepers_of(name)
        if name.startswith("environments/") and keepers:
            words = tuple(keeper.words for keeper in keepers)
            gone = graph.alone(environments=(name,))
            found.append(_holder(usage, name, words, gone, graph.closure((name,))))
        elif name.startswith("entries/"):
            words = tuple(keeper.words for keeper in keepers if keeper.kind in _HOLD_ENTRIES)
            if words:
                gone = frozenset() if graph.referrers(name) else frozenset((name,))
                found.append(_holder(usage, name, words, gone, frozenset((name,))))
    for source, names in graph.sources().items():
        kind, path = source
        if kind == "external":
            gone = graph.alone(sources=(source,))
            found.append(_holder(usage, path, ("an external environment",), gone, graph.closure(names)))
    return sorted(found, key=lambda holder: (-holder.exclusive, -holder.shared, holder.what))


def _holder(
    usage: Usage, what: str, why: tuple[str, ...], gone: frozenset[str], used: frozenset[str]
) -> Holder:
    exclusive = usage.freed(gone)
    return Holder(what=what, why=why, exclusive=exclusive, shared=usage.taken(used | gone) - exclusive)
