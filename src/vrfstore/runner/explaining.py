"""``why``, ``du`` and ``list --unused``: a store is looked at as a gc does, and nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping

from packaging.utils import canonicalize_name

from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.gc import outlook, sweep, usage
from vrfstore.gc.graph import Chain, Graph, distribution, packages_of
from vrfstore.gc.keepers import look, read
from vrfstore.gc.outlook import Prospect
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import Report
from vrfstore.gc.usage import By, Table
from vrfstore.runner import collecting, configuration
from vrfstore.store.store import Store
from vrfstore.values import dataclass

__all__ = ["Answer", "Explained", "Occupied", "Unused", "packages", "policy", "unused", "usage_of", "why"]

_LISTED = 5
"""How many of the things that a word may mean are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """Why something stays, or that it does not.

    Attributes:
        name: ``environments/<directory>``, ``entries/<directory>`` or ``locks/<digest>``.
        chains: Every reason; none where the next gc takes it.
        due: When a gc takes it if nobody uses it again, seconds since the epoch; None where that depends on somebody.
        going: The environments that refer to it and that the next gc takes.
        members: Of a composite, the directory names of the entries that it is made of.
        composites: The directory names of the composites of which it is a member; they do not keep it.
    """

    name: str
    chains: tuple[Chain, ...]
    due: float | None
    going: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    composites: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What ``why`` says.

    Attributes:
        explained: Everything that was meant.
        keepers: What was meant and is no part of the store, in words, with all that it keeps: roots, environments
            elsewhere.
        packages: Of each environment that is named, the packages in it: name and version.
        began: When the store was looked at, seconds since the epoch.
        problems: What could not be read, in words.
    """

    explained: tuple[Explained, ...]
    keepers: Mapping[str, tuple[str, ...]]
    packages: Mapping[str, tuple[str, ...]]
    began: float
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unused:
    """What the next gc takes, and when the rest becomes due.

    Attributes:
        report: What it takes.
        last_use: When each environment was last used, by directory name; seconds since the epoch.
        packages: The packages in each environment: name and version.
        rest: What it leaves, the soonest due first.
        began: When the store was looked at, seconds since the epoch.
    """

    report: Report
    last_use: Mapping[str, float]
    packages: Mapping[str, tuple[str, ...]]
    rest: tuple[Prospect, ...]
    began: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Occupied:
    """Who takes how much.

    Attributes:
        table: It.
        packages: Of each environment in it, the packages: name and version.
        problems: What could not be read, in words.
    """

    table: Table
    packages: Mapping[str, tuple[str, ...]]
    problems: tuple[str, ...]


def policy(variables: Mapping[str, str]) -> Policy:
    """Return the policy of a gc to which nothing is said."""
    return collecting.policy(configuration.read(variables).collecting)


def why(store: Store, target: str, wanted: Policy) -> Answer:
    """Explain what keeps something.

    Args:
        store: The store.
        target: An environment, an entry or a lock: its path, its name, or the beginning of one; a distribution, for all
            its entries; a root; or the path of an external environment.
        wanted: The policy of the gc that is to be explained.

    Raises:
        UsageError: It is nothing, or the beginning of several things.
    """
    view = look(store, wanted)
    graph = read(view, wanted)
    keepers, names = _find(store, graph, target)
    members = _members(store, graph)
    explained = tuple(_explained(graph, name, members) for name in names)
    mentioned = {step for found in explained for chain in found.chains for step in chain.names}
    mentioned |= {step for found in explained for step in (found.name, *found.going)}
    mentioned |= {name for names in keepers.values() for name in names}
    return Answer(
        explained=explained,
        keepers=keepers,
        packages={
            name: packages(graph, name) for name in sorted(mentioned) if name.startswith("environments/")
        },
        began=graph.began,
        problems=tuple(view.problems),
    )


def usage_of(store: Store, by: By, wanted: Policy) -> Occupied:
    """Return who takes how much."""
    view = look(store, wanted)
    graph = read(view, wanted)
    table = usage.table(graph, usage.measure(store), by)
    return Occupied(
        table=table,
        packages={row.name: packages(graph, row.name) for row in table.rows if by == "environment"},
        problems=tuple(view.problems),
    )


def unused(store: Store, wanted: Policy) -> Unused:
    """Return what the next gc takes, and when the rest becomes due."""
    view = look(store, wanted)
    report = sweep.preview(store, wanted, view)
    graph = read(view, wanted)
    environments = graph.environments
    going = {f"environments/{name}" for name in report.environments}
    going |= {f"entries/{name}" for name in report.entries}
    return Unused(
        report=report,
        last_use={name: state.last_use for name, state in environments.items()},
        packages={name: packages(graph, f"environments/{name}") for name in environments},
        rest=outlook.due(graph, going),
        began=graph.began,
    )


def packages(graph: Graph, environment: str) -> tuple[str, ...]:
    """Return name and version of each package in an environment that is there, as its entries are called."""
    if environment not in graph:
        return ()
    found = packages_of(graph.entries_of(environment.partition("/")[2]))
    return tuple(f"{name} {version}" for name, version in found)


def _explained(graph: Graph, name: str, members: Mapping[str, tuple[str, ...]]) -> Explained:
    directory = name.partition("/")[2]
    return Explained(
        name=name,
        chains=graph.chains(name),
        due=graph.due(name),
        going=tuple(each for each in graph.referrers(name) if not graph.keepers_of(each)),
        members=members.get(directory, ()),
        composites=tuple(sorted(each for each, found in members.items() if directory in found)),
    )


def _members(store: Store, graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return the members of each composite whose plan can be read, by directory name."""
    found = {}
    for name in graph:
        part, _, directory = name.partition("/")
        if part == "entries" and distribution(directory)[0] == "composite":
            try:
                found[directory] = store.plan(directory, even_marked=True).members
            except (OSError, StoreDamagedError):
                continue
    return found


def _find(store: Store, graph: Graph, target: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the keepers and the names that somebody means."""
    sources = graph.sources()
    place = os.path.abspath(target)
    keepers = {}
    for (kind, name), kept in sources.items():
        if kind == "root" and name == target:
            keepers[f"root {name}"] = kept
        elif kind == "external" and name in {place, os.path.realpath(target)}:
            keepers[f"external environment {name}"] = kept
    inside = _inside(store.root, place)
    if inside is not None:
        names = [inside] if inside in graph else []
    else:
        word = target.rstrip("/").rpartition("/")[2]
        names = _exact(graph, word, target) or ([] if keepers else _beginning(graph, word, target))
    if not keepers and not names:
        raise UsageError(
            f"{target!r} is no environment, entry, lock, root or package of the store",
            kind="target-unknown",
            hint="see: vrfstore list, vrfstore roots list",
        )
    return keepers, names


def _inside(root: str, place: str) -> str | None:
    """Return the name of that in which a path of the store is, by whatever way it leads there; None elsewhere."""
    above, names = os.path.dirname(place), [os.path.basename(place)]
    while above != os.path.dirname(above):
        if os.path.isdir(above) and os.path.samefile(above, root):
            part, *rest = names
            name = rest[0] if rest else ""
            return f"{part}/{name.removesuffix('.toml') if part == 'locks' else name}"
        names.insert(0, os.path.basename(above))
        above = os.path.dirname(above)
    return None


def _exact(graph: Graph, word: str, target: str) -> list[str]:
    return sorted(name for name in graph if word == name.partition("/")[2] or _is_of(name, target))


def _is_of(name: str, package: str) -> bool:
    """Whether something is an entry of a distribution."""
    part, _, directory = name.partition("/")
    return part == "entries" and canonicalize_name(distribution(directory)[0]) == canonicalize_name(package)


def _beginning(graph: Graph, word: str, target: str) -> list[str]:
    found = sorted(name for name in graph if word and name.partition("/")[2].startswith(word))
    if len(found) > 1:
        several = ", ".join(found[:_LISTED]) + (", …" if len(found) > _LISTED else "")
        raise UsageError(
            f"{target!r} may be any of {len(found)} things: {several}",
            kind="target-unknown",
            hint="write more of its name",
        )
    return found
