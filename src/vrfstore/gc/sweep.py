"""Doing what was decided, in batches that users never wait for.

::

    leftovers ─▶ look ─▶ decide ─▶ environments ─▶ entries ─▶ memos ─▶ locks ─▶ what is over budget still?
                                   └─ a batch: condemn ─▶ look again ─▶ rename aside ─▶ take the list back ─▶ delete

Only what nobody has claimed by the second look is renamed, and deleted outside everything. Environments go before the
entries that only they referred to. A collector that is killed leaves a list and dead names; the next one finishes them.
"""

from __future__ import annotations

import contextlib
import errno
import gc as garbage
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack

from vrfstore import fs
from vrfstore.errors import BusyError
from vrfstore.gc import absence, runtime, scan, sizes
from vrfstore.gc.graph import packages_of
from vrfstore.gc.policy import Collection, Policy, Snapshot, decide, excess
from vrfstore.store import ballast, clients, condemned
from vrfstore.store.holds import hold
from vrfstore.store.layout import DEAD_PREFIX, Layout
from vrfstore.store.store import Store, check_parts
from vrfstore.values import dataclass, field, replace

__all__ = ["Report", "batch_size", "collect", "preview"]

_LARGEST_BATCH = 256
_SMALLEST_BATCH = 8

_LONGEST = 0.010
"""Seconds that a list should be up: half of what it may be at most, so that hardly any batch takes longer than that."""

_AGAIN = 1.0
"""Seconds after which processes are looked at again."""

_ROUNDS = 5
"""How often a run decides anew where things were claimed that a budget counted on."""

_TOLD = 16
"""Of how many environments a report says what was in them."""

_SUFFIXES = {"locks": ".toml"}
_LOG_AGE = 7 * 86400.0
"""Seconds that a resolver's words are kept at most, whatever the policy."""

_AUDIT_SIZE = 8 << 20
"""Bytes of the log of audits beyond which a new one is begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a collection removed, or would remove.

    Attributes:
        dry_run: Whether nothing was done.
        environments: Directory names.
        entries: Directory names.
        leftovers: How many remains of killed runs.
        records: How many memos, locks, probes and logs.
        freed: Bytes: the blocks of inodes that lost their last link.
        kept: For each environment that stays, by directory name: why.
        entries_kept: How many entries stay.
        problems: What could not be read, or removed, in words.
        forgotten: Paths of environments of people's own that are gone for good, and keep nothing any more.
        contents: The names of the distributions that were in the first environments that went, by directory name.
        missing: Bytes over budget that are in use.
        stopped: ``time`` or ``freed`` where the run ended before its work, by ``max_seconds`` or ``max_freed``.
        used: Bytes that the store occupies; None where nobody asked.
        seconds: How long it took.
        pauses: Seconds for each batch that a list was up.
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
    forgotten: tuple[str, ...] = ()
    contents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: int = 0
    stopped: str = ""
    used: int | None = None
    seconds: float = field(default=0.0, compare=False)
    pauses: tuple[float, ...] = field(default=(), compare=False)


def preview(store: Store, policy: Policy, view: scan.View | None = None) -> Report:
    """Return what ``collect`` would do now; nothing is changed and no hold is taken.

    Args:
        store: The store.
        policy: What the operator wants.
        view: As ``keepers.look`` gives it, if the caller has one.

    Raises:
        StoreError: A part of the store is a link that leads elsewhere.
    """
    check_parts(store.layout)
    began = time.monotonic()
    left = scan.leftovers(store)
    lost = absence.look(store.layout, now=scan.now(), grace=policy.grace)
    if view is None:
        view = scan.look(store, policy, forgotten=lost.gone)
    used, wanted = _measure(store, policy)
    ledger = sizes.Weighing(store.layout, already=(*left.trees, *left.files))
    found = view.snapshot()
    plan = decide(found, policy, ledger=ledger, wanted=wanted)
    files = list(_files(store, plan, policy))
    locks = [store.layout.of("locks", f"{name}{_SUFFIXES['locks']}") for name in plan.locks]
    for path in (*files, *locks):
        ledger.see(path)
    return Report(
        dry_run=True,
        environments=plan.environments,
        entries=plan.entries,
        leftovers=len(left.trees) + len(left.files),
        records=len(files) + len(locks),
        forgotten=tuple(known.path for known in lost.gone),
        contents=dict(_contents(found, plan.environments)),
        freed=ledger.freed,
        kept=plan.reasons,
        entries_kept=len(found.entries) - len(plan.entries),
        problems=(*view.problems, *_untold(lost), *_unseen()),
        missing=0 if plan.enough else max(wanted - ledger.freed, 0),
        stopped="freed" if plan.enough else "",
        used=None if used is None else used - ledger.freed,
        seconds=time.monotonic() - began,
    )


def collect(
    store: Store, policy: Policy, *, timeout: float | None = 0, on_wait: Callable[[], None] | None = None
) -> Report:
    """Remove what the policy lets go.

    Args:
        store: The store.
        policy: What the operator wants.
        timeout: Seconds to wait for another collection; None for as long as that takes.
        on_wait: Called once, if there is one.

    Raises:
        BusyError: Another collection is at work.
        StoreError: A part of the store is a link that leads elsewhere.
    """
    check_parts(store.layout)
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(store.layout.of("gc", "run"), timeout=timeout, on_wait=on_wait))
        except BusyError as error:
            raise BusyError("another gc is at work", kind="gc-running", hint="let it finish") from error
        # With the ballast, which is made again: room that it gives back only for now would count as free.
        used, wanted = _measure(store, policy)
        ballast.free(store.layout)
        stack.callback(ballast.refill, store.layout)
        return _Sweep(store, policy).run(used, wanted)


def _untold(lost: absence.Absence) -> Iterator[str]:
    """Yield the environments of which nobody can tell whether they are there, so that they keep what they need."""
    for known in lost.unknown:
        yield (
            f"what the environment {known.path} refers to is kept: nobody can tell from here whether it is there; if "
            f"it is gone: vrfstore env forget {known.token}"
        )


def _unseen() -> Iterator[str]:
    """Yield what to say where no process can be seen, so that none protects what it uses."""
    if not runtime.can_be_seen():
        yield (
            "what running processes use is not kept for that: /proc does not show them here; mount it, or keep "
            "environments with leases or roots"
        )


def _contents(found: Snapshot, environments: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in environments[:_TOLD]:
        packages = packages_of(found.environments[name].entries or ())
        yield name, tuple(package for package, _ in packages)


def _measure(store: Store, policy: Policy) -> tuple[int | None, int]:
    """Return the bytes that the store occupies, where they have a say, and those that have to come back."""
    used = None if policy.max_size is None else sizes.size_of(store.root)
    free, total = sizes.room(store.root)
    return used, excess(policy, used=used or 0, free=free, total=total)


class _Sweep:
    """One collection, under the hold."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy
        self._started = time.monotonic()
        self._freed = 0
        self._problems: dict[str, None] = {}
        self._pauses: list[float] = []
        self._batch = 2 * _SMALLEST_BATCH
        self._looked = 0.0
        self._stopped = ""

    def run(self, used: int | None, wanted: int) -> Report:
        store, policy = self._store, self._policy
        if os.path.lexists(store.layout.condemned):
            condemned.withdraw(store.layout)
        left = scan.leftovers(store)
        cleared = self._remove((*left.trees, *left.files))
        lost = absence.look(store.layout, now=scan.now(), grace=policy.grace)
        forgotten = absence.settle(store.layout, lost)
        view = scan.look(store, policy)
        self._looked = time.monotonic()
        environments: list[str] = []
        entries: list[str] = []
        records = 0
        contents: dict[str, tuple[str, ...]] = {}
        for _ in range(_ROUNDS):
            found = view.snapshot()
            plan = self._decide(found, wanted)
            contents |= _contents(found, plan.environments)
            gone = self._batches(view, "environments", plan.environments)
            went = self._batches(view, "entries", plan.entries)
            records += self._remove(self._out_of_reach(_files(store, plan, policy)))
            self._put_audit_aside()
            records += len(self._batches(view, "locks", plan.locks))
            environments += gone
            entries += went
            claimed = len(plan.environments) + len(plan.entries) - len(gone) - len(went)
            if self._stopped or not claimed or not policy.has_budget:
                break
        # What cannot be taken back keeps too much elsewhere, until the next gc does it.
        with contextlib.suppress(OSError):
            clients.renew(store)
        view.refresh()
        reasons = {
            name: view.why(name) or plan.reasons.get(name) or ("its turn comes with the next gc",)
            for name in view.environments
        }
        stopped = self._stopped or ("freed" if plan.enough else "")
        return Report(
            dry_run=False,
            environments=tuple(environments),
            entries=tuple(entries),
            leftovers=cleared,
            records=records,
            forgotten=tuple(known.path for known in forgotten),
            contents=contents,
            freed=self._freed,
            kept=reasons,
            entries_kept=len(store.entries()),
            problems=(*view.problems, *self._problems, *_untold(lost), *_unseen()),
            missing=0 if stopped else max(wanted - self._freed, 0),
            stopped=stopped,
            used=None if used is None else used - self._freed,
            seconds=time.monotonic() - self._started,
            pauses=tuple(self._pauses),
        )

    def _decide(self, found: Snapshot, wanted: int) -> Collection:
        """Decide what goes beside that which has gone already."""
        policy, freed = self._policy, self._freed
        if not policy.has_budget and policy.max_freed is None:
            return decide(found, policy)
        if policy.max_freed is not None:
            policy = replace(policy, max_freed=policy.max_freed - freed)
        ledger = sizes.Weighing(self._store.layout)
        return decide(found, policy, ledger=ledger, wanted=wanted - freed)

    def _out_of_time(self) -> bool:
        limit = self._policy.max_seconds
        if limit is not None and time.monotonic() - self._started >= limit:
            self._stopped = "time"
        return bool(self._stopped)

    def _batches(self, view: scan.View, part: str, names: Sequence[str]) -> list[str]:
        removed: list[str] = []
        position = 0
        while position < len(names) and not self._out_of_time():
            batch = names[position : position + self._batch]
            position += len(batch)
            removed += self._one_batch(view, part, batch)
        return removed

    def _one_batch(self, view: scan.View, part: str, names: Sequence[str]) -> list[str]:
        layout = self._store.layout
        in_use = None
        if time.monotonic() - self._looked > _AGAIN:
            # Not while the list is up: there may be many processes, and each that uses something has stamped it.
            in_use = runtime.names_in_use(self._store.root)
            self._looked = time.monotonic()
        aside: list[str] = []
        removed: list[str] = []
        collecting = garbage.isenabled()
        condemned.publish(layout, [f"{part}/{name}" for name in names])
        began = looked = time.monotonic()
        try:
            # Of a large store the view has so many objects that Python's collector would take longer than all the rest.
            garbage.disable()
            view.refresh(in_use, environments=part != "environments")
            looked = time.monotonic()
            for name in view.unclaimed(part, names):
                # Never longer than the name it replaces, so that a full directory block does not matter.
                dead = layout.of(part, f"{DEAD_PREFIX}{fs.unique_name()}")
                try:
                    self._rename(layout.of(part, f"{name}{_SUFFIXES.get(part, '')}"), dead)
                except OSError as error:
                    self._problems[f"{part}/{name} cannot be removed: {error.strerror}"] = None
                    continue
                view.gone(part, name)
                aside.append(dead)
                removed.append(name)
        finally:
            condemned.withdraw(layout)
            ended = time.monotonic()
            if collecting:
                garbage.enable()
            self._pauses.append(ended - began)
            self._batch = batch_size(looked - began, (ended - looked) / len(names))
        self._remove(aside)
        return removed

    def _rename(self, path: str, dead: str) -> None:
        try:
            fs.rename(path, dead)
        except OSError as error:
            # What statvfs(3) does not know of, such as a quota, may have kept the ballast until now.
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            if not full or not ballast.free(self._store.layout, refused=True):
                raise
            fs.rename(path, dead)

    def _out_of_reach(self, paths: Iterable[str]) -> Iterator[str]:
        """Yield paths; a directory under a dead name, since nobody could tell that it had gone by half."""
        for path in paths:
            if os.path.islink(path) or not os.path.isdir(path):
                yield path
                continue
            dead = f"{os.path.dirname(path)}/{DEAD_PREFIX}{fs.unique_name()}"
            try:
                self._rename(path, dead)
            except OSError as error:
                self._problems[f"{path} cannot be removed: {error.strerror}"] = None
            else:
                yield dead

    def _remove(self, paths: Iterable[str]) -> int:
        """Remove what nobody can reach any more; what there is no time for, the next run finishes."""
        count = 0
        for path in paths:
            if self._out_of_time():
                break
            try:
                fs.remove_tree(path, freed=self._count)
            except FileNotFoundError:
                pass
            except OSError as error:
                # Never stops a run; the next one tries again.
                self._problems[f"{error.filename or path}: {error.strerror}"] = None
                continue
            count += 1
        return count

    def _put_audit_aside(self) -> None:
        """Begin a new log of audits where it is large; the one before has gone by now."""
        layout = self._store.layout
        if _is_audit_full(layout) and not self._out_of_time():
            try:
                fs.rename(layout.audit, layout.audit_before)
            except OSError as error:
                self._problems[f"{layout.audit}: {error.strerror}"] = None

    def _count(self, size: int) -> None:
        self._freed += size


def batch_size(fixed: float, each: float) -> int:
    """Return how many names the next batch has, so that its list is up for about as long as it should be.

    Args:
        fixed: Seconds that looking again took, however many names there are.
        each: Seconds that each name took beside that.
    """
    # Where looking alone takes longer than that, small batches would only make it happen more often.
    left = max(_LONGEST - fixed, _LONGEST / 2)
    return min(max(int(left / each), _SMALLEST_BATCH), _LARGEST_BATCH) if each > 0 else _LARGEST_BATCH


def _is_audit_full(layout: Layout) -> bool:
    """Whether the log of audits is so large that it is put aside."""
    try:
        return os.lstat(layout.audit).st_size > _AUDIT_SIZE
    except FileNotFoundError:
        return False


def _files(store: Store, plan: Collection, policy: Policy) -> Iterator[str]:
    """Yield the memos, probes and logs that go."""
    layout = store.layout
    yield from (layout.of("inputs", f"{name}.json") for name in plan.inputs)
    yield from (layout.of("requests", f"{name}.json") for name in plan.requests)
    yield from (layout.of("interpreters", name) for name in plan.probes)
    if _is_audit_full(layout) and os.path.lexists(layout.audit_before):
        yield layout.audit_before
    limit = scan.now() - min(policy.max_age, _LOG_AGE)
    for name in os.listdir(layout.of("logs")):
        path = layout.of("logs", name)
        if path in {layout.audit, layout.audit_before}:
            continue
        # A worker removes its own log where it had nothing to say.
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_mtime < limit:
                yield path
