"""Who keeps what, and until when: a pure reading of what was found, as ``policy`` decides on it.

A *keeper* keeps something by itself; a *chain* leads from a keeper, over references, to what was asked about::

    root nightly ─▶ environments/8b06… ─▶ entries/52a0…-numpy-2.4.1
    used 3 days ago ─▶ environments/1f0c… ─▶ entries/52a0…-numpy-2.4.1
    external environment /srv/report/.venv ─▶ entries/52a0…-numpy-2.4.1

What has no chain goes with the next collection, and what a collection without a budget leaves has one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, get_args

from vrfstore.gc.policy import EnvironmentState, Policy, Snapshot, age, limit
from vrfstore.values import dataclass

__all__ = ["Chain", "Graph", "Keeper", "Kind", "Source", "distribution", "packages_of"]

Kind = Literal["root", "external", "lease", "process", "use", "young", "memo", "unreadable", "other"]
"""What a keeper is: the first four are somebody's, the next three end by themselves, ``unreadable`` is something of
which nobody knows what it refers to."""

Source = tuple[Kind, str]
"""Who a keeper is: its kind and name."""

_OF_AGE = frozenset({"use", "young", "memo"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeper:
    """Why something stays that nothing else has to refer to.

    Attributes:
        kind: See ``Kind``.
        name: Who: of a root its name, of an external environment its path, of a lease its file name, of a process its
            number; else what it is about.
        words: The same for people.
        until: When it ends by itself, seconds since the epoch; None where nobody can tell.
    """

    kind: Kind
    name: str
    words: str
    until: float | None = None

    @property
    def source(self) -> Source:
        """Who it is, whatever it keeps."""
        return self.kind, self.name


@dataclass(frozen=True, slots=True)
class Chain:
    """One reason why something stays.

    Attributes:
        keeper: Where it begins.
        names: What the keeper keeps, what that refers to, and so on to what was asked about.
    """

    keeper: Keeper
    names: tuple[str, ...]


def distribution(entry: str) -> tuple[str, str]:
    """Return name and version of the distribution in an entry, as its directory name has them."""
    _, _, readable = entry.partition("-")
    name, _, version = readable.partition("-")
    return name, version


def packages_of(entries: Iterable[str]) -> list[tuple[str, str]]:
    """Return name and version of the distributions in some entries, sorted; a composite is none."""
    return sorted(found for found in map(distribution, entries) if found[0] != "composite")


class Graph:
    """The references that were found, and what keeps things by itself.

    Names are ``environments/<directory>``, ``entries/<directory>`` and ``locks/<digest>``.

    Args:
        snapshot: What was found.
        policy: What the operator wants; a budget has no say here.
        keepers: What roots, leases, processes and external environments keep, by name.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy, keepers: Mapping[str, Sequence[Keeper]]) -> None:
        self._snapshot = snapshot
        self._policy = policy
        self._keepers = {name: tuple(found) for name, found in keepers.items()}
        for name, words in snapshot.kept.items():
            # Whatever a scan knows and the keepers do not; nothing that stays is without a reason.
            if not self._keepers.get(name):
                self._keepers[name] = tuple(Keeper(kind="other", name=each, words=each) for each in words)
        self._blankets = [
            (time, Keeper(kind="unreadable", name=why, words=why))
            for why, time in (*((why, math.inf) for why in snapshot.keep_all), *snapshot.keep_before.items())
        ]
        self._sources: dict[Source, set[str]] = defaultdict(set)
        for name, found in self._keepers.items():
            for keeper in found if name in self else ():
                self._sources[keeper.source].add(name)
        self._referrers: dict[str, list[str]] = defaultdict(list)
        for environment, state in snapshot.environments.items():
            for entry in state.entries or ():
                self._referrers[f"entries/{entry}"].append(environment)
            if state.lock is not None:
                self._referrers[f"locks/{state.lock}"].append(environment)
        self._unread = [item for item in snapshot.environments.items() if not item[1].readable]
        self._inputs: dict[str, list[str]] = defaultdict(list)
        for digest, (environment, _, _) in snapshot.inputs.items():
            self._inputs[environment].append(digest)
        self._memos: dict[str, list[Keeper]] = defaultdict(list)
        for digest, (lock, written) in snapshot.requests.items():
            self._memos[lock].append(self._aging("memo", digest, written, policy.max_age))
        self._due: dict[str, float | None] = {}

    def __iter__(self) -> Iterator[str]:
        """Yield everything that may be asked about."""
        for part, names in self._parts.items():
            yield from (f"{part}/{name}" for name in names)

    def __contains__(self, name: str) -> bool:
        """Whether something was found."""
        part, _, directory = name.partition("/")
        return directory in self._parts.get(part, ())

    @property
    def _parts(self) -> Mapping[str, Mapping[str, object]]:
        found = self._snapshot
        return {"environments": found.environments, "entries": found.entries, "locks": found.locks}

    @property
    def began(self) -> float:
        """When the scan began, seconds since the epoch."""
        return self._snapshot.began

    @property
    def environments(self) -> Mapping[str, EnvironmentState]:
        """The environments that were found, by directory name."""
        return self._snapshot.environments

    def referrers(self, name: str) -> tuple[str, ...]:
        """Return the environments that refer to an entry or a lock, or may do so, sorted."""
        found = set(self._referrers.get(name, ()))
        made = self._made(name)
        for environment, state in self._unread:
            # One without a record may have any lock, and one without anything any entry, that was there before it.
            if (
                (state.entries is None or name.startswith("locks/"))
                and made is not None
                and made <= state.made
            ):
                found.add(environment)
        return tuple(f"environments/{each}" for each in sorted(found))

    def entries_of(self, environment: str) -> tuple[str, ...]:
        """Return the directory names of the entries of an environment by its directory name, sorted."""
        return tuple(sorted(self._snapshot.environments[environment].entries or ()))

    def keepers_of(self, name: str) -> tuple[Keeper, ...]:
        """Return what keeps something by itself, the surest first."""
        order = get_args(Kind).index
        return tuple(sorted((*self._sure(name), *self._aged(name)), key=lambda keeper: order(keeper.kind)))

    def chains(self, name: str) -> tuple[Chain, ...]:
        """Return every reason why something stays; none where the next collection takes it."""
        found = [Chain(keeper, (name,)) for keeper in self.keepers_of(name)]
        for environment in self.referrers(name):
            found += [Chain(keeper, (environment, name)) for keeper in self.keepers_of(environment)]
        return tuple(found)

    def due(self, name: str) -> float | None:
        """Return when a collection takes something, if nobody uses it again.

        Returns:
            Seconds since the epoch, not before ``began``; None where that depends on somebody.
        """
        if name not in self._due:
            times = [keeper.until for keeper in self.keepers_of(name)]
            times += [self.due(environment) for environment in self.referrers(name)]
            known = [time for time in times if time is not None]
            self._due[name] = max([self.began, *known]) if len(known) == len(times) else None
        return self._due[name]

    def sources(self) -> dict[Source, tuple[str, ...]]:
        """Return what everybody keeps; what is unreadable keeps nothing in particular."""
        return {source: tuple(sorted(names)) for source, names in self._sources.items()}

    def closure(self, names: Iterable[str]) -> frozenset[str]:
        """Return what stays with some names: these, and the entries and locks of the environments among them."""
        found = set(names)
        for name in tuple(found):
            part, _, directory = name.partition("/")
            state = self._snapshot.environments.get(directory) if part == "environments" else None
            if state is not None:
                found |= {f"entries/{entry}" for entry in state.entries or ()}
                if state.lock is not None:
                    found.add(f"locks/{state.lock}")
        return frozenset(found)

    def alone(self, *, sources: Collection[Source] = (), environments: Iterable[str] = ()) -> frozenset[str]:
        """Return what goes, once it is of age, when some keepers go, or environments, and everything else stays.

        Args:
            sources: The keepers that go.
            environments: ``environments/<directory>`` that go whatever keeps them.

        Returns:
            Names; of memos as well: ``inputs/<digest>`` and ``requests/<digest>``.
        """
        theirs = set().union(*(self._sources.get(source, ()) for source in sources))
        environments = {
            *environments,
            *(name for name in theirs if name.startswith("environments/") and self._is_free(name, sources)),
        }
        states = {name: self._snapshot.environments.get(name.partition("/")[2]) for name in environments}
        # What cannot be read may have referred to anything.
        unread = any(state is not None and not state.readable for state in states.values())
        gone = {
            name
            for name in (self if unread else self.closure(environments) | theirs)
            if not name.startswith("environments/")
            and environments.issuperset(self.referrers(name))
            and self._is_free(name, sources)
        }
        for name, state in states.items():
            gone |= {f"inputs/{digest}" for digest in self._inputs.get(name.partition("/")[2], ())}
            lock = None if state is None else state.lock
            if lock is not None and environments.issuperset(self._locked(lock)):
                gone |= {f"requests/{memo.name}" for memo in self._memos.get(lock, ())}
        return frozenset(gone | environments)

    def _locked(self, lock: str) -> Iterator[str]:
        """Yield the environments that are known to have a lock."""
        yield from (f"environments/{each}" for each in self._referrers.get(f"locks/{lock}", ()))

    def _is_free(self, name: str, sources: Collection[Source]) -> bool:
        """Whether something is there, and nobody else keeps it by itself."""
        return name in self and all(keeper.source in sources for keeper in self._sure(name))

    def _made(self, name: str) -> float | None:
        part, _, rest = name.partition("/")
        return (self._snapshot.entries if part == "entries" else self._snapshot.locks).get(rest)

    def _sure(self, name: str) -> Iterator[Keeper]:
        """Yield the keepers that time does not end."""
        part, _, directory = name.partition("/")
        made = None if part == "environments" else self._made(name)
        yield from (keeper for time, keeper in self._blankets if made is None or made <= time)
        yield from self._keepers.get(name, ())
        if part == "environments" and not self._snapshot.environments[directory].readable:
            yield Keeper(kind="unreadable", name=name, words="its record cannot be read")

    def _aged(self, name: str) -> Iterator[Keeper]:
        """Yield the keepers that time ends, and that it has not ended."""
        part, _, directory = name.partition("/")
        if part == "environments":
            state = self._snapshot.environments[directory]
            if state.readable:
                keepers = [self._aging("use", directory, state.last_use, limit(state, self._policy), state)]
            else:
                keepers = []
        else:
            made = self._made(name)
            keepers = list(self._memos.get(directory, ())) if part == "locks" else []
            if made is not None:
                keepers.append(self._aging("young", directory, made, self._policy.grace))
        yield from (keeper for keeper in keepers if keeper.until is not None and keeper.until >= self.began)

    def _aging(
        self, kind: Kind, name: str, since: float, seconds: float, state: EnvironmentState | None = None
    ) -> Keeper:
        """Return a keeper that keeps for some seconds."""
        until = since + seconds
        passed = age(self.began - since)
        left = f"due in {age(until - self.began)}"
        if kind == "memo":
            words = f"request memo {name}, written {passed} ago, {left}"
        elif kind == "young":
            words = f"published {passed} ago, {left}"
        else:
            words = f"used {passed} ago, {left}"
            if state is not None and state.superseded:
                words += " (there is a later generation)"
            if self._policy.has_budget and self.began - since > self._policy.grace:
                words += ", or when the budget asks for it"
        return Keeper(kind=kind, name=name, words=words, until=until)
