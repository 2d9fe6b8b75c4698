"""Deciding what goes: a pure function from what was found to what is to be removed, and why the rest stays.

The references are edges, derived by reading::

    root ─▶ environment ─▶ entries          lease ─▶ environment, entries, lock
    root ─▶ entry            │  └▶ lock     process ─▶ environment, entries
                             ◀─ input memo  request memo ─▶ lock
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Collection", "EnvironmentState", "Policy", "Snapshot", "decide"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the operator wants.

    Attributes:
        max_age: Seconds; an environment that nothing keeps goes when it has not been used for so long.
        grace: Seconds; an entry that nothing refers to goes when it is so old.
    """

    max_age: float
    grace: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentState:
    """An environment on disk.

    Attributes:
        last_use: Seconds since the epoch.
        entries: The directory names of the entries it links to; None where its record cannot be read.
        lock: The digest of its lock.
    """

    last_use: float
    entries: frozenset[str] | None
    lock: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What was found. Times are seconds since the epoch.

    Attributes:
        began: When the scan began; whatever is younger stays.
        environments: By directory name.
        entries: When each was published, by directory name.
        locks: When each was written, by digest.
        requests: (lock digest, when it was written) of each request memo, by its digest.
        inputs: The environment of each input memo, by its digest.
        kept: Why ``environments/<directory>``, ``entries/<directory>`` and ``locks/<digest>`` have to stay:
            what says so, in words.
        keep_all: Why nothing that is published may go, where something is unreadable that may refer to it.
    """

    began: float
    environments: Mapping[str, EnvironmentState]
    entries: Mapping[str, float]
    locks: Mapping[str, float]
    requests: Mapping[str, tuple[str, float]]
    inputs: Mapping[str, str]
    kept: Mapping[str, tuple[str, ...]]
    keep_all: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """What is to be removed, in the order in which that has to happen, and why the rest is not.

    Attributes:
        environments: Directory names, least recently used first.
        entries: Directory names.
        inputs: Digests of input memos.
        requests: Digests of request memos.
        locks: Digests.
        reasons: For each environment that stays, by directory name: why.
    """

    environments: tuple[str, ...]
    entries: tuple[str, ...]
    inputs: tuple[str, ...]
    requests: tuple[str, ...]
    locks: tuple[str, ...]
    reasons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def decide(snapshot: Snapshot, policy: Policy, *, settled: bool = False) -> Collection:
    """Decide what a collection removes.

    Args:
        snapshot: What was found.
        policy: What the operator wants.
        settled: The environments have had their turn: all that are still on disk stay, whatever has set one of
            them free meanwhile, because what one links to may not go before it.
    """
    reasons: dict[str, tuple[str, ...]] = {}
    dead: list[str] = []
    for name, state in snapshot.environments.items():
        why = _why_environment_stays(name, state, snapshot, policy)
        if settled and not why:
            why = ("its turn comes with the next gc",)
        if why:
            reasons[name] = why
        else:
            dead.append(name)
    staying = {name: snapshot.environments[name] for name in reasons}
    referred = {entry for state in staying.values() for entry in state.entries or ()}
    unreadable = any(state.entries is None for state in staying.values())

    def unprotected(name: str, made: float) -> bool:
        """Whether nothing but a reference could still keep what was made at that time."""
        everything_stays = bool(snapshot.keep_all) or unreadable
        return not everything_stays and name not in snapshot.kept and made + policy.grace < snapshot.began

    entries = (
        name
        for name, published in snapshot.entries.items()
        if name not in referred and unprotected(f"entries/{name}", published)
    )
    locks_in_use = {state.lock for state in staying.values()}
    requests = [
        digest
        for digest, (lock, written) in snapshot.requests.items()
        if lock not in locks_in_use and written + policy.max_age < snapshot.began
    ]
    locks_in_use |= {lock for digest, (lock, _) in snapshot.requests.items() if digest not in requests}
    return Collection(
        environments=tuple(sorted(dead, key=lambda name: (snapshot.environments[name].last_use, name))),
        entries=tuple(sorted(entries)),
        inputs=tuple(sorted(digest for digest, name in snapshot.inputs.items() if name not in staying)),
        requests=tuple(sorted(requests)),
        locks=tuple(
            sorted(
                digest
                for digest, written in snapshot.locks.items()
                if digest not in locks_in_use and unprotected(f"locks/{digest}", written)
            )
        ),
        reasons=reasons,
    )


def _why_environment_stays(
    name: str, state: EnvironmentState, snapshot: Snapshot, policy: Policy
) -> tuple[str, ...]:
    if state.entries is None:
        return ("its record cannot be read",)
    why = (*snapshot.keep_all, *snapshot.kept.get(f"environments/{name}", ()))
    if why:
        return why
    unused = snapshot.began - state.last_use
    # Not younger than the scan itself: that was stamped after it began, maybe by somebody who uses it now.
    if unused <= policy.max_age:
        return (f"used {_age(unused)} ago",)
    return ()


def _age(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} seconds"
