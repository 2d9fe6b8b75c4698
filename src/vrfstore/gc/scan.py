"""Looking at a store: everything that a collection has to know, read in an order that makes races harmless.

Of what is on its way, the listing comes before the leases: whoever stages something has had a lease since before
that. Of what is published it is the other way round. A lease ends only after what it protected can be seen; read in
the other order, a link that publishes after the listing and ends before its lease is read would not be seen at all.

A ``View`` is read once. While a batch is condemned it is refreshed, which costs as much as there are leases, roots and
names of environments, and not what a whole scan costs.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError
from vrfstore.gc import roots, runtime
from vrfstore.gc.policy import EnvironmentState, Policy, Snapshot
from vrfstore.model import Digest
from vrfstore.store import clients, externals, interpreters, leases, records
from vrfstore.store.layout import DEAD_PREFIX, DIGEST_LENGTHS, MEMO_SCHEMA, STAGING_PREFIX, Layout
from vrfstore.store.locked import locked_digests
from vrfstore.store.store import Store
from vrfstore.values import dataclass, field, replace

__all__ = ["LEASED", "Leftovers", "View", "leftovers", "look", "now"]


LEASED = "leased"

_CLOCK_REALTIME_COARSE = 5
"""clock_gettime(2) on Linux; Python has no name for it."""

_MOST_LINKS = 1 << 20
"""Links of an environment without a readable record that are looked at."""

_INTO_ENTRY = re.compile(r"(?:^|/)entries/([^/]+)(?:/|$)")


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
        for part in ("entries", "environments", "locks", "interpreters")
        for name in os.listdir(layout.of(part))
        if name.startswith(DEAD_PREFIX)
    ]
    dead += _repairs(layout)
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


def _repairs(layout: Layout) -> Iterator[str]:
    """Yield the notes of repairs of entries that are not there any more."""
    for name in os.listdir(layout.of("repairs")):
        if not os.path.lexists(layout.of("entries", name.removesuffix(".json"))):
            yield layout.of("repairs", name)


@dataclass(slots=True)
class _Protections:
    """What leases, roots, external environments and other stores say at one moment."""

    leases: list[leases.LeaseRecord] = field(default_factory=list)
    roots: list[roots.Root] = field(default_factory=list)
    external: list[externals.Registration] = field(default_factory=list)
    clients: list[clients.Client] = field(default_factory=list)
    locked: dict[str, frozenset[Digest]] = field(default_factory=dict)
    keep_all: dict[str, None] = field(default_factory=dict)
    keep_before: dict[str, float] = field(default_factory=dict)


class View:
    """What is known of a store; read when it is made, and refreshed as often as wanted.

    Attributes:
        began: When the scan began, seconds since the epoch.
        problems: What could not be read, and is therefore kept, in words.

    Args:
        store: The store.
        began: See above; by default now.
        in_use: Gives what processes use, as ``runtime.names_in_use`` does.
        keep_last: See ``Policy``.
        forgotten: Tokens of external environments that keep nothing any more.
    """

    def __init__(
        self,
        store: Store,
        *,
        began: float | None = None,
        in_use: Callable[[], Mapping[str, Iterable[int]]],
        keep_last: int = 1,
        forgotten: Iterable[str] = (),
    ) -> None:
        self.began = now() if began is None else began
        self.problems: dict[str, None] = {}
        self._store = store
        self._layout = store.layout
        self._keep_last = keep_last
        self._forgotten = frozenset(forgotten)
        self._environments: dict[str, EnvironmentState] = {}
        self._referrers: Counter[str] = Counter()
        self._dark: dict[str, float] = {}
        """When each environment was made of which nobody can tell what it refers to."""
        self._by_key: dict[str, list[str]] = defaultdict(list)
        self._leased: set[str] = set()
        self._requests: Mapping[str, tuple[str, float, bool]] = {}
        # In this order: see above.
        self._protections = self._protect()
        self._in_use = dict(in_use())
        self._look_at_environments()
        self._entries = dict(_times(self._layout, "entries", store.entries()))
        self._by_digits: dict[str, list[str]] = defaultdict(list)
        for name in self._entries:
            self._by_digits[name.partition("-")[0]].append(f"entries/{name}")
        self._kept = self._say_what_is_kept()

    @property
    def environments(self) -> tuple[str, ...]:
        """The directory names of all environments that are there, sorted."""
        return tuple(sorted(self._environments))

    @property
    def in_use(self) -> Mapping[str, Iterable[int]]:
        """``environments/<directory>`` and ``entries/<directory>`` names with the processes that use them."""
        return self._in_use

    @property
    def registered(self) -> tuple[externals.Registration, ...]:
        """The environments elsewhere that keep something."""
        return tuple(self._protections.external)

    @property
    def clients(self) -> tuple[clients.Client, ...]:
        """The stores that borrow entries of this one."""
        return tuple(self._protections.clients)

    def rooted(self) -> Iterator[tuple[roots.Root, tuple[str, ...]]]:
        """Yield each root with the names that it keeps, in their order."""
        for root in self._protections.roots:
            yield root, root.kept(self._keep_last, self._environments)

    def locked(self, name: str) -> tuple[str, ...]:
        """Return the entries that stay with a pinned lock, by its name ``locks/<digest>``."""
        return tuple(self._entries_of(self._protections.locked.get(name, ())))

    def leased(self) -> Iterator[tuple[leases.LeaseRecord, tuple[str, ...]]]:
        """Yield each lease that counts with the names that it protects."""
        for lease in self._protections.leases:
            yield lease, tuple(self._leased_by(lease))

    def refresh(
        self, in_use: Mapping[str, Iterable[int]] | None = None, *, environments: bool = True
    ) -> None:
        """Look again at whatever may keep something that nothing kept before.

        Args:
            in_use: What processes use by now, where that was looked at again.
            environments: Look for new environments as well, to which entries and locks matter, but no environment.
        """
        self._protections = self._protect()
        if in_use is not None:
            self._in_use |= in_use
        if environments:
            self._look_at_environments()
        self._kept = self._say_what_is_kept()

    def snapshot(self) -> Snapshot:
        """Return all that ``decide`` needs."""
        layout = self._layout
        highest: dict[str, int] = {}
        for name in self._environments:
            key, generation = _generation(name)
            highest[key] = max(highest.get(key, 0), generation)
        environments = {
            name: replace(state, superseded=self._was_changed(name))
            if _generation(name)[1] < highest[_generation(name)[0]]
            else state
            for name, state in self._environments.items()
        }
        requests = self._read_requests()
        return Snapshot(
            began=self.began,
            environments=environments,
            entries=dict(self._entries),
            locks={
                name.removesuffix(".toml"): age
                for name, age in _times(layout, "locks")
                if name.endswith(".toml") and not name.startswith(DEAD_PREFIX)
            },
            requests={digest: (lock, written) for digest, (lock, written, _) in requests.items()},
            recipes=frozenset(digest for digest, (_, _, recipe) in requests.items() if recipe),
            inputs=dict(_inputs(layout)),
            probes=dict(_probes(layout)),
            kept={name: tuple(dict.fromkeys(why)) for name, why in self._kept.items()},
            keep_before=dict(self._protections.keep_before),
            keep_all=tuple(self._protections.keep_all),
        )

    def _was_changed(self, environment: str) -> bool:
        """Whether somebody changed an environment, so that it is not handed out any more."""
        try:
            return not records.unchanged(self._layout, self._store.record(environment))
        except (OSError, StoreDamagedError):
            return True

    def unclaimed(self, part: str, names: Iterable[str]) -> list[str]:
        """Return those of the names, which were dead when they were decided on, that nobody has claimed since.

        Args:
            part: ``environments``, ``entries`` or ``locks``.
            names: Of that part.
        """
        free = {
            "environments": self._environment_is_unclaimed,
            "entries": self._entry_is_unclaimed,
            "locks": self._lock_is_unclaimed,
        }[part]
        wanted = self._wanted_locks() if part == "locks" else frozenset()
        return [
            name for name in names if f"{part}/{name}" not in self._kept and name not in wanted and free(name)
        ]

    def _wanted_locks(self) -> frozenset[str | None]:
        """Return the digests of the locks that environments and memos of requests have by now."""
        linked = (state.lock for state in self._environments.values())
        return frozenset((*linked, *(lock for lock, _, _ in self._read_requests().values())))

    def _read_requests(self) -> Mapping[str, tuple[str, float, bool]]:
        """Return the memos of requests; those that are as they were are not read again."""
        # One that was written in the tick in which the scan began may have been written again in that same tick.
        known = {digest: memo for digest, memo in self._requests.items() if memo[1] < self.began}
        self._requests = dict(_requests(self._layout, known))
        return self._requests

    def gone(self, part: str, name: str) -> None:
        """Hear that a name has been renamed aside."""
        if part == "environments":
            self._drop(name)
        elif part == "entries":
            self._entries.pop(name, None)

    def why(self, environment: str) -> tuple[str, ...]:
        """Return what keeps an environment at this moment but for its age, in words."""
        return tuple(dict.fromkeys(self._kept.get(f"environments/{environment}", ())))

    def _environment_is_unclaimed(self, name: str) -> bool:
        state = self._environments.get(name)
        if state is None or self._protections.keep_all or self._protections.keep_before:
            return False
        try:
            last_use = os.stat(self._layout.record(name)).st_mtime
        except OSError:
            return False
        self._environments[name] = replace(state, last_use=last_use)
        return last_use == state.last_use

    def _entry_is_unclaimed(self, name: str) -> bool:
        made = self._entries.get(name)
        if made is None or self._referrers[name] or self._is_kept_unseen(made):
            return False
        try:
            return os.lstat(self._layout.of("entries", name)).st_ctime == made
        except OSError:
            return False

    def _lock_is_unclaimed(self, name: str) -> bool:
        try:
            return not self._is_kept_unseen(os.lstat(self._layout.of("locks", f"{name}.toml")).st_ctime)
        except OSError:
            return False

    def _is_kept_unseen(self, made: float) -> bool:
        """Whether something that cannot be read may refer to what was published at a time."""
        protections = self._protections
        times = (*protections.keep_before.values(), *self._dark.values())
        return bool(protections.keep_all) or any(made <= time for time in times)

    def _look_at_environments(self) -> None:
        """See environments that were not there before, and that some are not there any more."""
        there = set(os.listdir(self._layout.of("environments")))
        for name in [name for name in self._environments if name not in there]:
            self._drop(name)
        for name in there.difference(self._environments):
            if name.startswith((STAGING_PREFIX, DEAD_PREFIX)):
                continue
            state = self._state_of(name)
            if state is not None:
                self._environments[name] = state
                self._by_key[_generation(name)[0]].append(f"environments/{name}")
                self._referrers.update(state.entries or ())
                if state.entries is None:
                    self._dark[name] = state.made

    def _drop(self, environment: str) -> None:
        state = self._environments.pop(environment, None)
        self._dark.pop(environment, None)
        if state is not None:
            self._referrers.subtract(state.entries or ())
            self._by_key[_generation(environment)[0]].remove(f"environments/{environment}")

    def _state_of(self, name: str) -> EnvironmentState | None:
        """Return what is known of an environment; None where it is none, or has just gone."""
        layout = self._layout
        directory = layout.of("environments", name)
        try:
            made = os.lstat(directory).st_ctime
            last_use = os.stat(layout.record(name)).st_mtime
            record = self._store.record(name)
        except (OSError, StoreDamagedError) as error:
            if not os.path.isdir(directory):
                return None
            why = f"{error.strerror} ({error.filename})" if isinstance(error, OSError) else str(error)
            entries = _links_into_entries(directory)
            self.problems[f"environments/{name} is kept, with {_what(entries)}: {why}"] = None
            # Whatever it refers to was published before; again, where it has been repaired since.
            made = max(_changed(directory), self._repaired)
            return EnvironmentState(last_use=0, made=made, entries=entries, lock=None, readable=False)
        return EnvironmentState(last_use=last_use, made=made, entries=record.entries, lock=record.lock)

    def _protect(self) -> _Protections:
        """Read leases, roots, external environments and what other stores borrow, in this order."""
        found = _Protections()
        found.leases = [lease for lease in leases.read(self._layout) if lease.alive]
        for lease in found.leases:
            if lease.digests is None:
                self.problems[f"everything is kept: the lease {lease.name} cannot be read"] = None
                found.keep_all["a lease cannot be read"] = None
        for root in roots.read(self._store):
            if isinstance(root, StoreDamagedError):
                self._keep_what_is_older(found, root, "a root cannot be read")
            else:
                found.roots.append(root)
                self._read_locks(found, root)
        for registration in externals.registrations(self._layout):
            if isinstance(registration, StoreDamagedError):
                self._keep_what_is_older(
                    found, registration, "an external environment's registration cannot be read"
                )
            elif registration.token not in self._forgotten:
                found.external.append(registration)
        for client in clients.read(self._layout):
            if isinstance(client, StoreDamagedError):
                self._keep_what_is_older(found, client, "what another store borrows cannot be read")
            else:
                found.clients.append(client)
        return found

    def _read_locks(self, found: _Protections, root: roots.Root) -> None:
        """Read what the locks name that a root pins."""
        for name in root.names:
            if not name.startswith("locks/"):
                continue
            try:
                digests = locked_digests(self._layout, name.removeprefix("locks/"))
            except StoreDamagedError as error:
                # It was there before it was pinned, and what it names may have come later.
                self.problems[f"everything is kept: {error}"] = None
                found.keep_all["a pinned lock cannot be read"] = None
            else:
                found.locked[name] = digests

    def _keep_what_is_older(self, found: _Protections, error: StoreDamagedError, why: str) -> None:
        """Keep whatever a record that cannot be read may refer to: what was there when it was written."""
        self.problems[f"whatever is older is kept: {error}"] = None
        written = max(_changed(error.path or ""), self._repaired)
        found.keep_before[why] = max(found.keep_before.get(why, 0.0), written)

    @property
    def _repaired(self) -> float:
        """When an entry was last published anew, seconds since the epoch."""
        if os.listdir(self._layout.of("repairs")):
            return now()  # one may be exchanged at this moment
        try:
            return os.lstat(self._layout.repaired).st_mtime
        except OSError:
            return 0.0

    def _say_what_is_kept(self) -> dict[str, list[str]]:
        """Return why which names stay; leases know keys and digests, but not what directories are called."""
        kept: dict[str, list[str]] = defaultdict(list)
        for root in self._protections.roots:
            why = f"pinned by root {root.name}"
            for name in root.kept(self._keep_last, self._environments):
                for each in (name, *self._entries_of(self._protections.locked.get(name, ()))):
                    kept[each].append(why)
        for name, why in self._kept_from_elsewhere():
            kept[name].append(why)
        for lease in self._protections.leases:
            self._leased |= set(self._leased_by(lease))
        # What was leased at an earlier look stays as well: who has just given up a lease may have left a process
        # behind that was not there when processes were looked at.
        for name in self._leased:
            kept[name].append(LEASED)
        for name, pids in self._in_use.items():
            kept[name].append(f"in use by process {', '.join(map(str, sorted(pids)))}")
        return kept

    def _kept_from_elsewhere(self) -> Iterator[tuple[str, str]]:
        """Yield each name that something outside of the store refers to, and what that is, in words."""
        for found in self._protections.external:
            why = f"used by the environment {found.path}"
            yield from ((f"entries/{reference.directory}", why) for reference in found.references)
            yield from ((f"locks/{lock}", why) for lock in found.locks)
        for client in self._protections.clients:
            why = f"borrowed by the store {client.store}"
            yield from ((f"entries/{directory}", why) for directory in client.entries)

    def _leased_by(self, lease: leases.LeaseRecord) -> Iterator[str]:
        yield from self._by_key.get(lease.environment or "", ())
        yield from self._entries_of(lease.digests or ())
        if lease.lock is not None:
            yield f"locks/{lease.lock}"

    def _entries_of(self, digests: Iterable[str]) -> Iterator[str]:
        """Yield the entries that may be of some digests."""
        for digest in digests:
            for length in DIGEST_LENGTHS:
                yield from self._by_digits.get(digest[:length], ())


def look(store: Store, policy: Policy, forgotten: Iterable[externals.Registration] = ()) -> View:
    """Look at a store as a collection does.

    Args:
        store: The store.
        policy: What the operator wants.
        forgotten: External environments that keep nothing any more.
    """
    return View(
        store,
        forgotten=(known.token for known in forgotten),
        in_use=lambda: runtime.names_in_use(store.root),
        keep_last=policy.keep_last,
    )


def _generation(environment: str) -> tuple[str, int]:
    """Return the key and the number of a generation, by its directory name."""
    key, _, generation = environment.partition(".")
    return key, int(generation) if generation.isdecimal() else 0


def _what(entries: frozenset[str] | None) -> str:
    return "every entry that is older" if entries is None else f"the {len(entries)} entries it links to"


def _links_into_entries(environment: str) -> frozenset[str] | None:
    """Return the directory names of the entries that the links of an environment lead to; None where that is unknown.

    A file of an entry that the environment has as a link of its own stays without the entry.
    """
    found: set[str] = set()
    waiting, seen = [environment], 0
    try:
        while waiting:
            with os.scandir(waiting.pop()) as children:
                for child in children:
                    seen += 1
                    if child.is_symlink():
                        match = _INTO_ENTRY.search(os.readlink(child.path))
                        found |= {match[1]} if match else set()
                    elif child.is_dir(follow_symlinks=False):
                        waiting.append(child.path)
            if seen > _MOST_LINKS:
                return None
    except OSError:
        return None
    # Without any there may be nothing left of it, and nobody knows what there was.
    return frozenset(found) or None


def _changed(path: str) -> float:
    """Return when a path was last changed in any way, seconds since the epoch.

    What cannot be looked at was changed just now, and so was what a link leads to, of which nobody can tell.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return now()
    return now() if stat.S_ISLNK(found.st_mode) else found.st_ctime


def _times(layout: Layout, part: str, names: Iterable[str] | None = None) -> Iterator[tuple[str, float]]:
    for name in os.listdir(layout.of(part)) if names is None else names:
        try:
            # The change time: for an entry, that of the rename which published it.
            yield name, os.lstat(layout.of(part, name)).st_ctime
        except FileNotFoundError:
            continue


def _requests(
    layout: Layout, known: Mapping[str, tuple[str, float, bool]]
) -> Iterator[tuple[str, tuple[str, float, bool]]]:
    """Yield the memos of requests by their digests: lock, when it was written, and whether it is a recipe.

    One that was written when a known one was is that one.
    """
    for name, written in _times(layout, "requests"):
        digest = name.removesuffix(".json")
        if digest in known and known[digest][1] == written:
            yield digest, known[digest]
            continue
        memo = _memo(layout, "requests", name)
        if memo is not None:
            yield digest, (str(memo.get("lock")), written, "wheels" in memo)


def _inputs(layout: Layout) -> Iterator[tuple[str, tuple[str, float, float]]]:
    for name, written in _times(layout, "inputs"):
        memo = _memo(layout, "inputs", name)
        if memo is not None:
            until = memo.get("until")
            # As it is: a number that is no float's is as late as never.
            stale = until if isinstance(until, (int, float)) else 0.0
            yield name.removesuffix(".json"), (str(memo.get("environment")), written, stale)


def _probes(layout: Layout) -> Iterator[tuple[str, float]]:
    for name, written in _times(layout, "interpreters"):
        if not name.startswith(DEAD_PREFIX) and not interpreters.is_useful(layout, name):
            yield name, written


def _memo(layout: Layout, part: str, name: str) -> Mapping[str, object] | None:
    """Return a memo; an empty one for what is no memo at all; None for what another version may understand.

    A file whose name is not that of a memo is somebody's, as a copy that an editor keeps, and none of ours.
    """
    if not name.endswith(".json"):
        return None
    try:
        value = codec.loads(fs.read_file(layout.of(part, name)))
    except OSError:
        return None
    except ValueError:
        return {}
    if isinstance(value, dict):
        return value if value.get("schema") == MEMO_SCHEMA else None
    return {}
