"""Looking at a store: everything that a collection has to know, read in an order that makes races harmless.

Of what is on its way, the listing comes before the leases: whoever stages something has had a lease since before
that. Of what is published it is the other way round: see ``_Protections``.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError
from vrfstore.gc import roots
from vrfstore.gc.policy import EnvironmentState, Snapshot
from vrfstore.store import externals, leases
from vrfstore.store.layout import DEAD_PREFIX, DIGEST_LENGTHS, MEMO_SCHEMA, STAGING_PREFIX, Layout
from vrfstore.store.store import Store

__all__ = ["LEASED", "Leftovers", "leftovers", "now", "snapshot"]


LEASED = "leased"

_CLOCK_REALTIME_COARSE = 5
"""clock_gettime(2) on Linux; Python has no name for it."""


def now() -> float:
    """Return the time that files are stamped with, seconds since the epoch.

    The kernel stamps with the time of its last tick, which is up to 4 ms behind ``time.time()``. Compared with
    that, a stamp made after a scan began could look as if it had been made before. Kernels with multigrain stamps may
    be ahead of it instead, which keeps more.
    """
    return time.clock_gettime(_CLOCK_REALTIME_COARSE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftovers:
    """What killed runs left behind: absolute paths of trees and files, all of which may go."""

    trees: tuple[str, ...]
    files: tuple[str, ...]


def leftovers(store: Store) -> Leftovers:
    """Find what is being made by nobody, what is dead already, and leases that have ended."""
    layout = store.layout
    staged = [
        (part, name)
        for part, prefix in (("entries", STAGING_PREFIX), ("environments", STAGING_PREFIX), ("tmp", ""))
        for name in os.listdir(layout.of(part))
        if name.startswith(prefix)
    ]
    dead = [
        layout.of(part, name)
        for part in ("entries", "environments", "locks")
        for name in os.listdir(layout.of(part))
        if name.startswith(DEAD_PREFIX)
    ]
    found = leases.read(layout)
    alive = {lease.id for lease in found if lease.alive}
    for part, name in staged:
        path = layout.of(part, name)
        owner = name.removeprefix(STAGING_PREFIX).partition(".")[0]
        # A lease that is just being made is in tmp/, and flocked, but not in leases/ yet.
        in_the_making = name.endswith(".lease") and not leases.is_free(path)
        if owner not in alive and not in_the_making:
            dead.append(path)
    # Of a run that was killed while it made the store; since there is one, nobody needs it any more.
    dead += [f"{layout.root}/{name}" for name in os.listdir(layout.root) if name.startswith(".store.")]
    ended = [layout.of("leases", lease.name) for lease in found if not lease.alive]
    trees = [path for path in dead if os.path.isdir(path) and not os.path.islink(path)]
    return Leftovers(
        trees=tuple(sorted(trees)), files=tuple(sorted(ended + [path for path in dead if path not in trees]))
    )


def snapshot(
    store: Store,
    *,
    began: float | None = None,
    in_use: Callable[[], Mapping[str, Iterable[int]]],
    leased_before: frozenset[str] = frozenset(),
) -> tuple[Snapshot, list[str]]:
    """Read everything that ``decide`` needs.

    Args:
        store: The store.
        began: When the run began, seconds since the epoch; by default now.
        in_use: Gives what processes use, as ``runtime.names_in_use`` does.
        leased_before: Names that were leased at an earlier look of the same run. They stay: who has just given
            up a lease may have left a process behind that was not there when processes were looked at.

    Returns:
        The snapshot, and problems in words: what could not be read, and is therefore kept.
    """
    layout = store.layout
    problems: list[str] = []
    when = now() if began is None else began
    protections = _Protections(store, problems)
    used = in_use()
    environments = dict(_environments(store, problems))
    entries = dict(_times(layout, "entries", store.entries()))
    kept = protections.of(environments, entries)
    for name, pids in used.items():
        kept[name].append(f"in use by process {', '.join(map(str, sorted(pids)))}")
    for name in leased_before:
        kept[name].append(LEASED)
    return (
        Snapshot(
            began=when,
            environments=environments,
            entries=entries,
            locks={
                name.removesuffix(".toml"): age
                for name, age in _times(layout, "locks")
                if not name.startswith(DEAD_PREFIX)
            },
            requests=dict(_requests(layout)),
            inputs=dict(_inputs(layout)),
            kept={name: tuple(dict.fromkeys(why)) for name, why in kept.items()},
            keep_all=tuple(protections.keep_all),
        ),
        problems,
    )


def _environments(store: Store, problems: list[str]) -> Iterator[tuple[str, EnvironmentState]]:
    for name in store.environments():
        try:
            last_use = os.stat(store.layout.record(name)).st_mtime
            record = store.record(name)
        except FileNotFoundError as error:
            if os.path.isdir(store.layout.of("environments", name)):
                problems.append(f"environments/{name} is kept: {error.strerror} ({error.filename})")
                yield name, EnvironmentState(last_use=0, entries=None, lock=None)
        except (OSError, StoreDamagedError) as error:
            problems.append(f"environments/{name} is kept: {error}")
            yield name, EnvironmentState(last_use=0, entries=None, lock=None)
        else:
            yield name, EnvironmentState(last_use=last_use, entries=record.entries, lock=record.lock)


def _times(layout: Layout, part: str, names: Iterable[str] | None = None) -> Iterator[tuple[str, float]]:
    for name in os.listdir(layout.of(part)) if names is None else names:
        try:
            # The change time: for an entry, that of the rename which published it.
            yield name, os.lstat(layout.of(part, name)).st_ctime
        except FileNotFoundError:
            continue


def _requests(layout: Layout) -> Iterator[tuple[str, tuple[str, float]]]:
    for name, written in _times(layout, "requests"):
        memo = _memo(layout.of("requests", name))
        if memo is not None:
            yield name.removesuffix(".json"), (str(memo.get("lock")), written)


def _inputs(layout: Layout) -> Iterator[tuple[str, str]]:
    for name in os.listdir(layout.of("inputs")):
        memo = _memo(layout.of("inputs", name))
        if memo is not None:
            yield name.removesuffix(".json"), str(memo.get("environment"))


def _memo(path: str) -> Mapping[str, object] | None:
    """Return a memo; an empty one for what is no memo at all; None for what another version may understand."""
    try:
        value = codec.loads(fs.read_file(path))
    except OSError:
        return None
    except ValueError:
        return {}
    if isinstance(value, dict):
        return value if value.get("schema") == MEMO_SCHEMA else None
    return {}


class _Protections:
    """Leases and roots, as they were when this was made: before environments and entries are listed.

    A lease ends only after what it protected can be seen. Read in the other order, a link that publishes after the
    listing and ends before its lease is read would not be seen at all.
    """

    def __init__(self, store: Store, problems: list[str]) -> None:
        self.keep_all: list[str] = []
        self._leases = [lease for lease in leases.read(store.layout) if lease.alive]
        self._roots: list[roots.Root] = []
        for lease in self._leases:
            if lease.digests is None:
                problems.append(f"everything is kept: the lease {lease.name} cannot be read")
                self.keep_all.append("a lease cannot be read")
        for root in roots.read(store):
            if isinstance(root, StoreDamagedError):
                problems.append(f"everything is kept: {root}")
                self.keep_all.append("a root cannot be read")
            else:
                self._roots.append(root)
        self._external: list[externals.Registration] = []
        for found in externals.registrations(store.layout):
            if isinstance(found, StoreDamagedError):
                problems.append(f"everything is kept: {found}")
                self.keep_all.append("an external environment's registration cannot be read")
            else:
                self._external.append(found)

    def _pinned(self) -> Iterator[tuple[str, str]]:
        """Yield what roots and external environments name, and what says so."""
        for root in self._roots:
            pinned = f"environments/{root.environment}" if root.environment else f"entries/{root.entry}"
            yield pinned, f"pinned by root {root.name}"
        for found in self._external:
            why = f"used by the environment {found.path}"
            yield from ((f"entries/{reference.directory}", why) for reference in found.references)
            yield from ((f"locks/{lock}", why) for lock in found.locks)

    def of(self, environments: Iterable[str], entries: Iterable[str]) -> dict[str, list[str]]:
        """Return why which names stay; leases know keys and digests, but not what directories are called."""
        kept: dict[str, list[str]] = defaultdict(list)
        for name, why in self._pinned():
            kept[name].append(why)
        by_key: dict[str, list[str]] = defaultdict(list)
        by_digits: dict[str, list[str]] = defaultdict(list)
        for name in environments:
            by_key[name.partition(".")[0]].append(f"environments/{name}")
        for name in entries:
            by_digits[name.partition("-")[0]].append(f"entries/{name}")
        for lease in self._leases:
            names = list(by_key.get(lease.environment or "", ()))
            for digest in lease.digests or ():
                for length in DIGEST_LENGTHS:
                    names += by_digits.get(digest[:length], ())
            if lease.lock is not None:
                names.append(f"locks/{lease.lock}")
            for name in names:
                kept[name].append(LEASED)
        return kept
