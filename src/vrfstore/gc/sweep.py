"""Collecting: hold, scan, decide, then remove in batches so short that nobody notices.

A batch: put the list of names in place (``gc/condemned``) → look at everything again → rename what is still
dead aside → take the list back → delete what was renamed, outside everything. Environments go before the
entries that only they referred to, and a later look finds those unreferenced. A collector that is killed leaves
a list and dead names; the next one finishes them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vrfstore import fs
from vrfstore.errors import BusyError
from vrfstore.gc import runtime, scan
from vrfstore.gc.policy import Collection, Policy, Snapshot, decide
from vrfstore.store import condemned
from vrfstore.store.holds import hold
from vrfstore.store.layout import DEAD_PREFIX
from vrfstore.store.store import Store

__all__ = ["Report", "collect", "preview"]

_BATCH = 256
_SUFFIXES = {"locks": ".toml"}
_LOG_AGE = 7 * 86400.0
"""Seconds that a resolver's words are kept at most, whatever the policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a collection removed, or would remove.

    Attributes:
        dry_run: Whether nothing was done.
        environments: Directory names.
        entries: Directory names.
        leftovers: How many remains of killed runs.
        records: How many memos, locks and logs.
        freed: Bytes: the blocks of inodes that lost their last link.
        kept: For each environment that stays, by directory name: why.
        entries_kept: How many entries stay.
        problems: What could not be read, or removed, in words.
    """

    dry_run: bool
    environments: tuple[str, ...]
    entries: tuple[str, ...]
    leftovers: int
    records: int
    freed: int
    kept: Mapping[str, tuple[str, ...]]
    entries_kept: int
    problems: tuple[str, ...]


@dataclass(slots=True)
class _Freed:
    """Counts what comes back: an inode's blocks, once, when all its links have been seen."""

    inodes: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def see(self, path: str) -> None:
        """Count everything at and below ``path``, before it is removed."""
        self._inode(os.lstat(path))
        waiting = [path] if os.path.isdir(path) and not os.path.islink(path) else []
        while waiting:
            with os.scandir(waiting.pop()) as children:
                for child in children:
                    self._inode(child.stat(follow_symlinks=False))
                    if child.is_dir(follow_symlinks=False):
                        waiting.append(child.path)

    def _inode(self, found: os.stat_result) -> None:
        # A directory's links are its own `.` and its children's `..`.
        links = 1 if stat.S_ISDIR(found.st_mode) else found.st_nlink
        counted = self.inodes.setdefault((found.st_dev, found.st_ino), [0, links, found.st_blocks * 512])
        counted[0] += 1

    @property
    def bytes(self) -> int:
        return sum(blocks for seen, links, blocks in self.inodes.values() if seen >= links)


def preview(store: Store, policy: Policy) -> Report:
    """Return what ``collect`` would do now; nothing is changed and no hold is taken."""
    left = scan.leftovers(store)
    found, problems = scan.snapshot(store, in_use=lambda: runtime.names_in_use(store.root))
    plan = decide(found, policy)
    freed = _Freed()
    files = list(_files(store, plan, policy))
    for path in (*left.trees, *left.files, *_paths(store, plan), *files):
        _quietly(freed.see, path, problems)
    return Report(
        dry_run=True,
        environments=plan.environments,
        entries=plan.entries,
        leftovers=len(left.trees) + len(left.files),
        records=len(files) + len(plan.locks),
        freed=freed.bytes,
        kept=plan.reasons,
        entries_kept=len(found.entries) - len(plan.entries),
        problems=tuple(problems),
    )


def collect(store: Store, policy: Policy) -> Report:
    """Remove what the policy lets go.

    Raises:
        BusyError: Another collection is at work.
    """
    try:
        with hold(store.layout.of("gc", "run"), timeout=0):
            return _Sweep(store, policy).run()
    except BusyError as error:
        raise BusyError("another gc is at work", kind="gc-running", hint="let it finish") from error


class _Sweep:
    """One collection, under the hold."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy
        self._began = scan.now()
        self._freed = _Freed()
        self._problems: list[str] = []
        self._leased: frozenset[str] = frozenset()

    def run(self) -> Report:
        if os.path.lexists(self._store.layout.condemned):
            condemned.withdraw(self._store.layout)
        left = scan.leftovers(self._store)
        cleared = self._remove(left.trees) + self._remove(left.files)
        environments = self._batches("environments", self._decide(settled=False).environments)
        entries = self._batches("entries", self._decide(settled=True).entries)
        last = self._decide(settled=True)
        # Memos first, then the locks that only they referred to. A memo that is lost costs time; a lock may just be
        # wanted by a link, so that it goes like an entry.
        records = self._remove(list(_files(self._store, last, self._policy)))
        records += len(self._batches("locks", last.locks))
        found, problems = self._look()
        return Report(
            dry_run=False,
            environments=tuple(environments),
            entries=tuple(entries),
            leftovers=cleared,
            records=records,
            freed=self._freed.bytes,
            kept=decide(found, self._policy, settled=True).reasons,
            entries_kept=len(found.entries),
            problems=tuple(dict.fromkeys([*problems, *self._problems])),
        )

    def _look(self) -> tuple[Snapshot, list[str]]:
        found, problems = scan.snapshot(
            self._store,
            began=self._began,
            in_use=lambda: runtime.names_in_use(self._store.root),
            leased_before=self._leased,
        )
        self._leased |= {name for name, why in found.kept.items() if scan.LEASED in why}
        return found, problems

    def _decide(self, *, settled: bool) -> Collection:
        return decide(self._look()[0], self._policy, settled=settled)

    def _batches(self, part: str, names: Sequence[str]) -> list[str]:
        removed: list[str] = []
        for start in range(0, len(names), _BATCH):
            removed += self._batch(part, names[start : start + _BATCH])
        return removed

    def _batch(self, part: str, names: Sequence[str]) -> list[str]:
        layout = self._store.layout
        aside: list[str] = []
        removed: list[str] = []
        condemned.publish(layout, [f"{part}/{name}" for name in names])
        try:
            again = self._decide(settled=part != "environments")
            still = set(getattr(again, part))
            for name in names:
                if name not in still:
                    continue
                # Never longer than the name it replaces, so that a full directory block does not matter.
                dead = layout.of(part, f"{DEAD_PREFIX}{fs.unique_name()}")
                try:
                    fs.rename(layout.of(part, f"{name}{_SUFFIXES.get(part, '')}"), dead)
                except OSError as error:
                    self._problems.append(f"{part}/{name} cannot be removed: {error.strerror}")
                    continue
                aside.append(dead)
                removed.append(name)
        finally:
            condemned.withdraw(layout)
        self._remove(aside)
        return removed

    def _remove(self, paths: Iterable[str]) -> int:
        count = 0
        for path in paths:
            _quietly(self._freed.see, path, self._problems)
            if _quietly(fs.remove_tree, path, self._problems):
                count += 1
        return count


def _quietly(action: Callable[[str], object], path: str, problems: list[str]) -> bool:
    """Do something to one path; a failure is noted, and never stops a run."""
    try:
        action(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return False
    return True


def _paths(store: Store, plan: Collection) -> Iterator[str]:
    for name in plan.environments:
        yield store.layout.of("environments", name)
    for name in plan.entries:
        yield store.layout.of("entries", name)
    for name in plan.locks:
        yield store.layout.of("locks", f"{name}{_SUFFIXES['locks']}")


def _files(store: Store, plan: Collection, policy: Policy) -> Iterator[str]:
    """Yield the memos and logs that go."""
    layout = store.layout
    yield from (layout.of("inputs", f"{name}.json") for name in plan.inputs)
    yield from (layout.of("requests", f"{name}.json") for name in plan.requests)
    limit = scan.now() - min(policy.max_age, _LOG_AGE)
    for name in os.listdir(layout.of("logs")):
        path = layout.of("logs", name)
        # A worker removes its own log where it had nothing to say.
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_mtime < limit:
                yield path
