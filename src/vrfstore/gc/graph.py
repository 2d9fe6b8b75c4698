"""Who keeps what, and until when: a pure reading of what was found, as ``policy`` decides on it.

A *claim* keeps something by itself; a *chain* leads from a claim, over references, to what was asked about::

    root nightly ─▶ environments/8b06… ─▶ entries/52a0…-numpy-2.4.1
    used 3 days ago ─▶ environments/1f0c… ─▶ entries/52a0…-numpy-2.4.1
    environment elsewhere /srv/report/.venv ─▶ entries/52a0…-numpy-2.4.1

What has no chain goes with the next collection, and what a collection without a budget leaves has one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from vrfstore.gc.policy import EnvironmentState, Policy, Snapshot, age, limit

__all__ = ["Chain", "Claim", "Graph", "Kind", "Source", "distribution"]

Kind = Literal[
    "root", "environment-elsewhere", "lease", "process", "use", "young", "memo", "unreadable", "other"
]
"""What a claim is: the first four are somebody's, the next three end by themselves, ``unreadable`` is something of
which nobody knows what it refers to."""

Source = tuple[Kind, str]
"""Whose a claim is: its kind and name."""

_OF_AGE = frozenset({"use", "young", "memo"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """Why something stays that nothing else has to refer to.

    Attributes:
        kind: See ``Kind``.
        name: Who: of a root its name, of an environment elsewhere its path, of a lease its file name, of a process its
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
        """Whose it is."""
        return self.kind, self.name


@dataclass(frozen=True, slots=True)
class Chain:
    """One reason why something stays.

    Attributes:
        claim: Where it begins.
        names: What the claim keeps, what that refers to, and so on to what was asked about.
    """

    claim: Claim
    names: tuple[str, ...]


def distribution(entry: str) -> tuple[str, str]:
    """Return name and version of the distribution in an entry, as its directory name has them."""
    _, _, readable = entry.partition("-")
    name, _, version = readable.partition("-")
    return name, version


class Graph:
    """The references that were found, and the claims on them.

    Names are ``environments/<directory>``, ``entries/<directory>`` and ``locks/<digest>``.

    Args:
        snapshot: What was found.
        policy: What the operator wants; a budget has no say here.
        claims: What roots, leases, processes and environments elsewhere keep, by name.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy, claims: Mapping[str, Sequence[Claim]]) -> None:
        self._snapshot = snapshot
        self._policy = policy
        self._claims = {name: tuple(found) for name, found in claims.items()}
        for name, words in snapshot.kept.items():
            # Whatever a scan knows and the claims do not; nothing that stays is without a reason.
            if not self._claims.get(name):
                self._claims[name] = tuple(Claim(kind="other", name=each, words=each) for each in words)
        self._blankets = [
            (time, Claim(kind="unreadable", name=why, words=why))
            for why, time in (*((why, math.inf) for why in snapshot.keep_all), *snapshot.keep_before.items())
        ]
        self._sources: dict[Source, set[str]] = defaultdict(set)
        for name, found in self._claims.items():
            for claim in found if name in self else ():
                self._sources[claim.source].add(name)
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
        self._memos: dict[str, list[Claim]] = defaultdict(list)
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

    def claims_on(self, name: str) -> tuple[Claim, ...]:
        """Return what keeps something by itself, the surest first."""
        order = get_args(Kind).index
        return tuple(sorted((*self._sure(name), *self._aged(name)), key=lambda claim: order(claim.kind)))

    def chains(self, name: str) -> tuple[Chain, ...]:
        """Return every reason why something stays; none where the next collection takes it."""
        found = [Chain(claim, (name,)) for claim in self.claims_on(name)]
        for environment in self.referrers(name):
            found += [Chain(claim, (environment, name)) for claim in self.claims_on(environment)]
        return tuple(found)

    def due(self, name: str) -> float | None:
        """Return when a collection takes something, if nobody uses it again.

        Returns:
            Seconds since the epoch, not before ``began``; None where that depends on somebody.
        """
        if name not in self._due:
            times = [claim.until for claim in self.claims_on(name)]
            times += [self.due(environment) for environment in self.referrers(name)]
            known = [time for time in times if time is not None]
            self._due[name] = max([self.began, *known]) if len(known) == len(times) else None
        return self._due[name]

    def sources(self) -> dict[Source, tuple[str, ...]]:
        """Return for everybody who claims something what that is; what is unreadable claims nothing in particular."""
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
        """Return what goes, once it is of age, when some claims go, or environments, and everything else stays.

        Args:
            sources: Whose claims go.
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
        """Whether nobody else's claim is on something that is there."""
        return name in self and all(claim.source in sources for claim in self._sure(name))

    def _made(self, name: str) -> float | None:
        part, _, rest = name.partition("/")
        return (self._snapshot.entries if part == "entries" else self._snapshot.locks).get(rest)

    def _sure(self, name: str) -> Iterator[Claim]:
        """Yield the claims that time does not end."""
        part, _, directory = name.partition("/")
        made = None if part == "environments" else self._made(name)
        yield from (claim for time, claim in self._blankets if made is None or made <= time)
        yield from self._claims.get(name, ())
        if part == "environments" and not self._snapshot.environments[directory].readable:
            yield Claim(kind="unreadable", name=name, words="its record cannot be read")

    def _aged(self, name: str) -> Iterator[Claim]:
        """Yield the claims that time ends, and that it has not ended."""
        part, _, directory = name.partition("/")
        if part == "environments":
            state = self._snapshot.environments[directory]
            if state.readable:
                claims = [self._aging("use", directory, state.last_use, limit(state, self._policy), state)]
            else:
                claims = []
        else:
            made = self._made(name)
            claims = list(self._memos.get(directory, ())) if part == "locks" else []
            if made is not None:
                claims.append(self._aging("young", directory, made, self._policy.grace))
        yield from (claim for claim in claims if claim.until is not None and claim.until >= self.began)

    def _aging(
        self, kind: Kind, name: str, since: float, seconds: float, state: EnvironmentState | None = None
    ) -> Claim:
        """Return a claim that counts for some seconds."""
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
        return Claim(kind=kind, name=name, words=words, until=until)
