"""What keeps things by itself, read from a look at a store, for ``graph``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from vrfstore.gc import absence, runtime, scan
from vrfstore.gc.graph import Graph, Keeper
from vrfstore.gc.policy import Policy, age
from vrfstore.gc.roots import Root
from vrfstore.gc.scan import View
from vrfstore.store.leases import LeaseRecord
from vrfstore.store.store import Store, check_whole
from vrfstore.values import replace

__all__ = ["keepers", "look", "read"]

_State = TypeVar("_State")


def look(store: Store, policy: Policy) -> View:
    """Look at a store as a collection with this policy does.

    Raises:
        StoreError: A part of it is missing.
    """
    check_whole(store.layout)
    lost = absence.look(store.layout, now=scan.now(), grace=policy.grace)
    return scan.look(store, policy, forgotten=lost.gone)


def read(view: View, policy: Policy, *, without: Collection[str] = ()) -> Graph:
    """Return who keeps what, as a look at a store has found it.

    Args:
        view: The look.
        policy: The policy that counts.
        without: ``environments/<directory>`` and ``entries/<directory>`` that are to be taken for gone.
    """
    found = view.snapshot()
    if without:
        found = replace(
            found,
            environments=_left(found.environments, "environments", without),
            entries=_left(found.entries, "entries", without),
        )
    return Graph(found, policy, keepers(view))


def _left(found: Mapping[str, _State], part: str, without: Collection[str]) -> dict[str, _State]:
    return {name: state for name, state in found.items() if f"{part}/{name}" not in without}


def keepers(view: View) -> Mapping[str, Sequence[Keeper]]:
    """Return what roots, external environments, other stores, leases and processes keep, by name."""
    found: dict[str, list[Keeper]] = defaultdict(list)
    for root, names in view.rooted():
        for position, name in enumerate(names):
            found[name].append(_root(root, position))
            for entry in view.locked(name):
                found[entry].append(_root(root, position, f" of lock {name.removeprefix('locks/')[:12]}"))
    for name, keeper in _elsewhere(view):
        found[name].append(keeper)
    for lease, names in view.leased():
        for name in names:
            found[name].append(_lease(lease, view.began))
    commands: dict[int, str] = {}
    for name, pids in view.in_use.items():
        for pid in sorted(pids):
            command = commands.setdefault(pid, runtime.command_of(pid))
            words = f"process {pid} ({command})" if command else f"process {pid}"
            found[name].append(Keeper(kind="process", name=str(pid), words=words))
    return found


def _elsewhere(view: View) -> Iterator[tuple[str, Keeper]]:
    """Yield what something outside of the store keeps, by name."""
    for external in view.registered:
        keeper = Keeper(kind="external", name=external.path, words=f"external environment {external.path}")
        references = {f"entries/{reference.directory}" for reference in external.references}
        yield from ((name, keeper) for name in (*references, *{f"locks/{lock}" for lock in external.locks}))
    for client in view.clients:
        keeper = Keeper(kind="other", name=client.store, words=f"the store {client.store}, which borrows it")
        yield from ((f"entries/{directory}", keeper) for directory in client.entries)


def _root(root: Root, position: int, what: str = "") -> Keeper:
    if root.project:
        number = "the newest" if position == 0 else f"number {position + 1}"
        words = f"root {root.name} (project, {number} of {len(root.names)})"
    else:
        words = f"root {root.name} (pin{what})"
    return Keeper(kind="root", name=root.name, words=words)


def _lease(lease: LeaseRecord, now: float) -> Keeper:
    until = None
    if lease.kind == "process":
        words = f"lease {lease.id} of process {lease.process}"
    elif lease.kind == "until" and lease.expires is not None:
        until = lease.expires
        words = f"lease {lease.id}, due in {age(until - now)}"
    elif lease.kind == "held":
        words = f"lease {lease.id} of a link or a run that is at work"
    else:
        words = f"lease {lease.name}, of a kind that this version does not know"
    return Keeper(kind="lease", name=lease.name, words=words, until=until)
