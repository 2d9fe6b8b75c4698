"""Deciding what goes: a pure function from what was found to what is to be removed, and why the rest stays.

The references are edges, derived by reading::

    root ─▶ environment ─▶ entries          lease ─▶ environment, entries, lock
    root ─▶ entry, lock      │  └▶ lock     process ─▶ environment, entries
                             ◀─ input memo  request memo ─▶ lock

What nothing keeps goes first. Where that is not enough for a budget, environments go that were used not long ago, least
recently used first, each with the entries that only it refers to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from vrfstore.values import dataclass, field

__all__ = [
    "Collection",
    "EnvironmentState",
    "Ledger",
    "Policy",
    "Room",
    "Snapshot",
    "age",
    "decide",
    "excess",
    "limit",
]

_WEEK = 7 * 86400.0
"""Seconds that an environment stays unused at most which is not handed out any more."""

_MEMOS = 100
"""How many input memos may lead to one environment, and recipes to one lock; the newest stay."""


@dataclass(frozen=True, slots=True)
class Room:
    """So much of a file system: a number of bytes, or a part of all of it.

    Attributes:
        amount: Bytes, or percent.
        relative: Whether it is percent.
    """

    amount: float
    relative: bool = False

    def of(self, total: int) -> int:
        """Return bytes, of a file system of so many."""
        return int(total * self.amount / 100) if self.relative else int(self.amount)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the operator wants.

    Attributes:
        max_age: Seconds; an environment that nothing keeps goes when it has not been used for so long.
        grace: Seconds; an entry that nothing refers to goes when it is so old. For a budget no environment goes that
            was used more recently.
        max_size: Bytes that the store may occupy.
        min_free: What has to be free on its file system, or environments go.
        target_free: What is to be free then, if that is more.
        keep_last: How many environments of each project root stay, the newest ones.
        max_freed: Bytes after which a run stops.
        max_seconds: Seconds after which a run stops.
    """

    max_age: float
    grace: float
    max_size: int | None = None
    min_free: Room | None = None
    target_free: Room | None = None
    keep_last: int = 1
    max_freed: int | None = None
    max_seconds: float | None = None

    @property
    def has_budget(self) -> bool:
        """Whether what is in the store, or free beside it, has a say."""
        return self.max_size is not None or self.min_free is not None


def excess(policy: Policy, *, used: int, free: int, total: int) -> int:
    """Return how many bytes have to come back.

    Args:
        policy: What the operator wants.
        used: Bytes that the store occupies.
        free: Bytes that are free on its file system.
        total: Bytes of that file system.
    """
    wanted = 0 if policy.max_size is None else used - policy.max_size
    if policy.min_free is not None:
        least = policy.min_free.of(total)
        if free < least:
            target = least if policy.target_free is None else max(least, policy.target_free.of(total))
            wanted = max(wanted, target - free)
    return max(wanted, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentState:
    """An environment on disk.

    Attributes:
        last_use: Seconds since the epoch.
        made: When its directory was last changed, which was not before it was published; seconds since the epoch.
        entries: The directory names of the entries it links to; None where neither record nor links can be read.
        lock: The digest of its lock.
        readable: Whether its record can be read; its entries are those that its links lead to otherwise.
        superseded: Whether there is a later generation, so that it is not handed out any more.
    """

    last_use: float
    made: float = 0.0
    entries: frozenset[str] | None
    lock: str | None
    readable: bool = True
    superseded: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What was found. Times are seconds since the epoch.

    Attributes:
        began: When the scan began; whatever is younger stays.
        environments: By directory name.
        entries: When each was published, by directory name.
        locks: When each was written, by digest.
        requests: (lock digest, when it was written) of each request memo, by its digest.
        recipes: Digests of those of them that are recipes.
        inputs: (environment, when it was written, when it is stale or 0) of each input memo, by its digest.
        probes: When each was written, by its name, of those that nobody can use any more.
        kept: Why ``environments/<directory>``, ``entries/<directory>`` and ``locks/<digest>`` have to stay:
            what says so, in words.
        keep_before: Why whatever was published up to a time has to stay, and that time: something is unreadable that
            may refer to it.
        keep_all: Why nothing that is published may go, where something is unreadable that may refer to it.
    """

    began: float
    environments: Mapping[str, EnvironmentState]
    entries: Mapping[str, float]
    locks: Mapping[str, float]
    requests: Mapping[str, tuple[str, float]]
    recipes: frozenset[str] = frozenset()
    inputs: Mapping[str, tuple[str, float, float]]
    probes: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, tuple[str, ...]]
    keep_before: Mapping[str, float] = field(default_factory=dict)
    keep_all: tuple[str, ...] = ()

    def keeps(self, name: str, published: float | None) -> tuple[str, ...]:
        """Return what keeps ``environments/<directory>``, ``entries/<directory>`` or ``locks/<digest>``, in words.

        Args:
            name: Which.
            published: When it was published; None where that is not known well enough.
        """
        unread = tuple(
            why for why, time in self.keep_before.items() if published is None or published <= time
        )
        return (*self.keep_all, *unread, *self.kept.get(name, ()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """What is to be removed, in the order in which that has to happen, and why the rest is not.

    Attributes:
        environments: Directory names, least recently used first.
        entries: Directory names.
        inputs: Digests of input memos.
        requests: Digests of request memos.
        locks: Digests.
        probes: Names.
        reasons: For each environment that stays, by directory name: why.
        enough: Whether more would go, if a run might free more.
    """

    environments: tuple[str, ...]
    entries: tuple[str, ...]
    inputs: tuple[str, ...]
    requests: tuple[str, ...]
    locks: tuple[str, ...]
    probes: tuple[str, ...] = ()
    reasons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    enough: bool = False


class Ledger(Protocol):
    """Says what comes back when things go."""

    @property
    def freed(self) -> int:
        """Bytes that come back when all that was added goes."""

    def add(self, name: str) -> None:
        """Let ``environments/<directory>`` or ``entries/<directory>`` go as well."""


def decide(
    snapshot: Snapshot, policy: Policy, *, ledger: Ledger | None = None, wanted: int = 0
) -> Collection:
    """Decide what a collection removes.

    Args:
        snapshot: What was found.
        policy: What the operator wants.
        ledger: Needed where bytes have a say: with ``wanted``, or ``policy.max_freed``.
        wanted: Bytes that have to come back, as ``excess`` says.
    """
    deciding = _Deciding(snapshot, policy, ledger)
    deciding.collect()
    deciding.evict(wanted)
    return deciding.collection()


class _Deciding:
    """One decision, on its way."""

    def __init__(self, snapshot: Snapshot, policy: Policy, ledger: Ledger | None) -> None:
        self._snapshot = snapshot
        self._policy = policy
        self._ledger = ledger
        self._enough = False
        self._reasons: dict[str, tuple[str, ...]] = {}
        self._dead: list[str] = []
        self._evictable: list[str] = []
        for name, state in snapshot.environments.items():
            why, evictable = _why_environment_stays(name, state, snapshot, policy)
            if why:
                self._reasons[name] = why
            else:
                self._dead.append(name)
            if evictable:
                self._evictable.append(name)
        self._gone: list[str] = []
        self._entries: list[str] = []
        # Those of every environment on disk: one that is dead keeps its entries until it has gone itself.
        self._referrers = Counter(
            entry for state in snapshot.environments.values() for entry in state.entries or ()
        )
        # An environment that refers to nobody knows what.
        self._dark = max(
            (state.made for state in snapshot.environments.values() if state.entries is None), default=None
        )

    def collect(self) -> None:
        """Let go what nothing keeps."""
        loose = ((made, name) for name, made in self._snapshot.entries.items() if not self._referrers[name])
        for _, name in sorted(loose):
            self._let_go((), (name,))
        for name in self._in_order(self._dead):
            self._let_go((name,), self._only(name))

    def evict(self, wanted: int) -> None:
        """Let go what was used not long ago, until enough comes back."""
        for name in self._in_order(self._evictable):
            if self._ledger is None or self._ledger.freed >= wanted:
                return
            self._let_go((name,), self._only(name))

    def _in_order(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: (self._snapshot.environments[name].last_use, name))

    def _only(self, environment: str) -> Iterator[str]:
        """Yield the entries to which nobody refers once this environment goes."""
        for entry in sorted(self._snapshot.environments[environment].entries or ()):
            if self._referrers[entry] == 1 and entry in self._snapshot.entries:
                yield entry

    def _let_go(self, environments: Iterable[str], entries: Iterable[str]) -> None:
        going = [name for name in entries if self._is_free("entries", name, self._snapshot.entries[name])]
        if not environments and not going:
            return
        if self._is_enough():
            self._enough = True
            return
        for name in environments:
            self._gone.append(name)
            self._reasons.pop(name, None)
            self._referrers.subtract(self._snapshot.environments[name].entries or ())
            self._count("environments", name)
        self._entries += going
        for name in going:
            self._count("entries", name)

    def _is_enough(self) -> bool:
        limit = self._policy.max_freed
        return limit is not None and self._ledger is not None and self._ledger.freed >= limit

    def _count(self, part: str, name: str) -> None:
        if self._ledger is not None:
            self._ledger.add(f"{part}/{name}")

    def _is_free(self, part: str, name: str, made: float) -> bool:
        """Whether nothing but a reference could still keep what was made at that time."""
        if self._dark is not None and made <= self._dark:
            return False
        young = made + self._policy.grace >= self._snapshot.began
        return not young and not self._snapshot.keeps(f"{part}/{name}", made)

    def collection(self) -> Collection:
        """Return what was decided, and what follows from it."""
        snapshot, policy = self._snapshot, self._policy
        gone = set(self._gone)
        staying = {name: state for name, state in snapshot.environments.items() if name not in gone}
        for name in staying.keys() - self._reasons.keys():
            self._reasons[name] = ("its turn comes with the next gc",)
        linked = {state.lock for state in staying.values()}
        requests = {
            digest
            for digest, (lock, written) in snapshot.requests.items()
            if lock not in linked and written + policy.max_age < snapshot.began
        }
        requests.update(_excess_recipes(snapshot))
        in_use = linked | {lock for digest, (lock, _) in snapshot.requests.items() if digest not in requests}
        unread = max((state.made for state in staying.values() if not state.readable), default=None)
        locks = (
            digest
            for digest, written in snapshot.locks.items()
            if digest not in in_use
            and (unread is None or written > unread)
            and self._is_free("locks", digest, written)
        )
        return Collection(
            environments=tuple(self._gone),
            entries=tuple(sorted(self._entries)),
            inputs=tuple(sorted(_useless_inputs(snapshot, staying))),
            requests=tuple(sorted(requests)),
            locks=tuple(sorted(locks)),
            probes=tuple(
                sorted(
                    name
                    for name, written in snapshot.probes.items()
                    if written + policy.grace < snapshot.began
                )
            ),
            reasons=self._reasons,
            enough=self._enough,
        )


def _excess_recipes(snapshot: Snapshot) -> Iterator[str]:
    """Yield the recipes that are too many: there is one for each way to write down what comes to the same."""
    leading: dict[str, list[tuple[float, str]]] = {}
    for digest in snapshot.recipes:
        lock, written = snapshot.requests[digest]
        leading.setdefault(lock, []).append((written, digest))
    for recipes in leading.values():
        yield from (digest for _, digest in sorted(recipes)[:-_MEMOS])


def _useless_inputs(snapshot: Snapshot, staying: Iterable[str]) -> Iterator[str]:
    """Yield the input memos that lead nowhere, or nowhere any more, or that are too many."""
    there = set(staying)
    useful: dict[str, list[tuple[float, str]]] = {}
    for digest, (environment, written, until) in snapshot.inputs.items():
        if environment not in there or 0 < until < snapshot.began:
            yield digest
        else:
            useful.setdefault(environment, []).append((written, digest))
    for memos in useful.values():
        yield from (digest for _, digest in sorted(memos)[:-_MEMOS])


def _why_environment_stays(
    name: str, state: EnvironmentState, snapshot: Snapshot, policy: Policy
) -> tuple[tuple[str, ...], bool]:
    """Return why an environment stays, in words, and whether it may go all the same where there is a budget."""
    if not state.readable:
        return ("its record cannot be read",), False
    # Many things change the change time of its directory, and none the time before which it was there.
    why = snapshot.keeps(f"environments/{name}", None)
    if why:
        return why, False
    unused = snapshot.began - state.last_use
    # Not younger than the scan itself: that was stamped after it began, maybe by somebody who uses it now.
    if unused <= limit(state, policy):
        return (f"used {age(unused)} ago",), unused > max(policy.grace, 0)
    return (), False


def limit(state: EnvironmentState, policy: Policy) -> float:
    """Return the seconds after its last use that an environment stays."""
    return min(policy.max_age, _WEEK) if state.superseded else policy.max_age


def age(seconds: float) -> str:
    """Return a length of time in words."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    whole = round(max(seconds, 0))
    return f"{whole} second{'' if whole == 1 else 's'}"
