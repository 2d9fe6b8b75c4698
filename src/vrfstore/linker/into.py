"""Linking into a directory of the user's: an external environment, made or brought up to date.

The order is that of docs/design.md, "Ordering": the store is told of what the environment is going to refer to,
beside what it refers to now; then the environment's own record says what is going to change; then it is changed; then
the record and the store are told that it was.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vrfstore import fs
from vrfstore.errors import BusyError, StoreDamagedError, UsageError
from vrfstore.linker import external
from vrfstore.linker.composing import composed
from vrfstore.linker.distributions import Distribution, distributions
from vrfstore.linker.external import Changes, Item
from vrfstore.linker.plan import EnvironmentPlan, Merge, plan_environment
from vrfstore.model import EntryPlan, EntryReference, Interpreter, LinkOptions
from vrfstore.store import externals, interpreters
from vrfstore.store.externals import ExternalRecord, Made, Registration
from vrfstore.store.layout import SITE_PACKAGES
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store

__all__ = ["Asked", "Linked", "by_hand", "check_directory", "link_into"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What an external environment is made from, for its record.

    Attributes:
        requirements: The canonical text of the requirements.
        path: The file that they came from.
        python: The interpreter in the words of whoever asked; empty for the default.
        lock: The digest of the lock.
        options: As ``plan.settled`` returns them.
    """

    requirements: str
    path: str
    python: str
    lock: str
    options: LinkOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Linked:
    """What ``link_into`` did.

    Attributes:
        record: The environment's, as it is now.
        changes: What was changed, and where the user's own was left instead of what was planned.
        by_hand: The distributions that the user has put there; those of the same name that were asked for are not.
    """

    record: ExternalRecord
    changes: Changes
    by_hand: tuple[Distribution, ...]


def check_directory(store: Store, path: str, *, force: bool) -> str:
    """Return the real path of a directory that an environment may be linked into.

    Raises:
        UsageError: It is somebody else's, or no place for an environment.
    """
    place = os.path.realpath(path)
    root = os.path.realpath(store.root)
    if place == root or place.startswith(f"{root}/") or root.startswith(f"{place.rstrip('/')}/"):
        raise UsageError(
            f"{place} and the store {root} would be in each other",
            kind="into-store",
            hint="link without --into for an environment in the store",
        )
    if os.pathsep in place or not place.isprintable():
        # Nothing could put it on PATH; venv refuses it too.
        raise UsageError(f"{place!r} is no path for an environment", kind="into-path")
    if os.path.lexists(place) and not os.path.isdir(place):
        raise UsageError(f"{place} is no directory", kind="into-foreign", path=place)
    if place in {"/", os.path.realpath(os.path.expanduser("~"))}:
        raise UsageError(f"{place} is no place for an environment", kind="into-foreign", path=place)
    if (
        not force
        and os.path.isdir(place)
        and external.strangers(place)
        and _record(place, force=False) is None
    ):
        raise UsageError(
            "the directory is not empty, and no environment of vrfstore",
            kind="into-foreign",
            path=place,
            hint="choose another one; with --force, what is in the way is replaced",
        )
    return place


def _record(place: str, *, force: bool) -> ExternalRecord | None:
    try:
        return externals.read(place)
    except StoreDamagedError:
        if not force:
            raise
        return None


def link_into(  # noqa: PLR0913 - as many things decide
    store: Store,
    lease: Lease,
    plans: Sequence[EntryPlan],
    interpreter: Interpreter,
    place: str,
    asked: Asked,
    *,
    again: Collection[str] = (),
    known: ExternalRecord | None = None,
    force: bool = False,
) -> Linked:
    """Make an external environment, or bring it up to date around what the user has put there.

    Args:
        store: The store.
        lease: Of the caller, on the entries and the lock.
        plans: The entries, in any order.
        interpreter: The base.
        place: From ``check_directory``.
        asked: What it is made from.
        again: Paths where what is there is of no use, whoever put it there.
        known: The record that the caller has decided by, if he has.
        force: What is in the way goes, whoever put it there.

    Raises:
        BusyError: The record is another one than ``known`` by now.
        CollisionError: Two wheels have different files at one place.
        StoreDamagedError: A manifest that is needed, or the environment's record, cannot be read.
        OSError: The disk is full, or the directory may not be written.
    """
    # One at a time for each directory, whatever it is called.
    with store.hold_environment(externals.hold_key(place)):
        before = _record(place, force=force)
        if known is not None and before != known:
            raise BusyError(
                "somebody else has just changed the environment", kind="environment-busy", path=place
            )
        external.sweep(place)
        if before is not None and before.store != store.root:
            before = replace(before, token=fs.unique_name())
        theirs = () if force else by_hand(place, before, interpreter.directory_name)
        if before is not None and theirs:
            # What an installer has put in the place of ours may be equal to it, byte for byte.
            paths = installed_files(place, theirs, interpreter.directory_name)
            before = replace(
                before, made={path: made for path, made in before.made.items() if path not in paths}
            )
        names = {found.name for found in theirs}
        wanted = [plan for plan in plans if plan.reference.name not in names]
        linked = {plan.reference.name for plan in wanted}
        options = replace(
            asked.options, materialize=tuple(name for name in asked.options.materialize if name in linked)
        )
        with composed(store, wanted, options) as merged:
            task = _Task(store, lease, place, before, wanted, interpreter, merged, again, force=force)
            return task.run(asked, theirs)


def by_hand(place: str, record: ExternalRecord | None, library: str) -> tuple[Distribution, ...]:
    """Return the distributions of an environment that are not as vrfstore has put them there.

    Args:
        place: The environment.
        record: Its record; None where vrfstore has put nothing there.
        library: The name of the library directory to look into.
    """
    site = f"lib/{library}/{SITE_PACKAGES}"
    made: Mapping[str, Made] = {} if record is None else record.made
    found = distributions(f"{place}/{site}")
    paths = {f"{site}/{each.directory}/{name}" for each in found for name in ("METADATA", "INSTALLER")}
    there = external.found_at(place, paths, made)
    return tuple(
        each
        for each in found
        if not all(
            # What is missing there may be still to come, where a link was killed.
            (mine := made.get(path)) is not None and there[path] in (None, mine.what, *mine.before)
            for path in (f"{site}/{each.directory}/{name}" for name in ("METADATA", "INSTALLER"))
        )
    )


def installed_files(place: str, installed: Iterable[Distribution], library: str) -> set[str]:
    """Return the paths in an environment that the RECORDs of some distributions name, as far as they can be read."""
    site = f"lib/{library}/{SITE_PACKAGES}"
    found: set[str] = set()
    for each in installed:
        with contextlib.suppress(OSError, ValueError, csv.Error):
            text = fs.read_file(f"{place}/{site}/{each.directory}/RECORD").decode()
            found |= {os.path.normpath(f"{site}/{row[0]}") for row in csv.reader(text.splitlines()) if row}
    return found


@dataclass(frozen=True, slots=True)
class _Task:
    """One environment to be made what it is to be."""

    store: Store
    lease: Lease
    place: str
    before: ExternalRecord | None
    plans: Sequence[EntryPlan]
    interpreter: Interpreter
    merged: Merge
    again: Collection[str]
    force: bool

    def run(self, asked: Asked, theirs: tuple[Distribution, ...]) -> Linked:
        made = {} if self.before is None else self.before.made
        items, found, stays = self._items(made)
        changes = external.decide(
            made,
            {path: item.what for path, item in items.items()},
            found,
            again=self.again,
            stays=stays,
            force=self.force,
        )
        record = self._record(asked)
        if changes.nothing and self.before is not None and self._is_same(record, items, changes):
            self._register(record)
            return Linked(record=self.before, changes=changes, by_hand=theirs)
        self._register(record, self.before)
        os.makedirs(self.place, exist_ok=True)
        useless = {path: found.get(path) for path in self.again}
        externals.write(self.place, external.changing(record, self.before, items, useless))
        external.apply(self.place, changes, items, made, force=self.force)
        record = external.finished(record, self.place, items, changes.kept)
        externals.write(self.place, record)
        self._register(record)
        return Linked(record=record, changes=changes, by_hand=theirs)

    def _items(self, made: Mapping[str, Made]) -> tuple[dict[str, Item], dict[str, str | None], set[str]]:
        """Return what is wanted, what is there, and the directories that cannot make way for something else.

        A directory that the user has put something into is left real, where a link to a whole one was planned.
        """
        hashes = functools.cache(self.store.manifest_hashes)
        ready = interpreters.ready_links(self.store.layout, self.lease, self.interpreter)
        ready = ready[len(self.store.root) + 1 :]
        real: set[str] = set()
        while True:
            plan: EnvironmentPlan = plan_environment(
                self.plans,
                self.interpreter,
                self.merged,
                place=self.place,
                interpreter_links=ready,
                hashes_of=lambda entry: hashes(entry.reference.directory),
                real=real,
            )
            items = external.wanted(plan, self.store.root, self.interpreter, ready=ready)
            found = external.found_at(self.place, {*made, *items}, made)
            occupied = set() if self.force else external.occupied(self.place, items, made, found)
            more = {path for path in occupied if items[path].folded} - real
            if not more:
                return items, found, occupied - real
            real |= more

    def _record(self, asked: Asked) -> ExternalRecord:
        return ExternalRecord(
            token=fs.unique_name() if self.before is None else self.before.token,
            place=self.place,
            store=self.store.root,
            asked=asked.python,
            executable=self.interpreter.executable,
            interpreter=self.interpreter.identity,
            options=asked.options,
            library=self.interpreter.directory_name,
            requirements=asked.requirements,
            path=asked.path,
            wheels=_sorted(plan.reference for plan in self.plans),
            composites=_sorted(composite.reference for composite in self.merged.composites),
            lock=asked.lock,
            made={},
            finished=True,
        )

    def _is_same(self, record: ExternalRecord, items: Mapping[str, Item], changes: Changes) -> bool:
        """Whether nothing at all would be written anew."""
        if self.before is None or not self.before.finished:
            return False
        ours = items.keys() - set(changes.kept)
        return replace(record, made={}) == replace(self.before, made={}) and ours == self.before.made.keys()

    def _register(self, record: ExternalRecord, before: ExternalRecord | None = None) -> None:
        """Tell the store what the environment refers to, and what it may still refer to."""
        records = [record] if before is None else [record, before]
        references = {
            reference.directory: reference
            for each in records
            for reference in (*each.wheels, *each.composites)
        }
        parent = os.path.dirname(self.place)
        known = Registration(
            token=record.token,
            path=self.place,
            device=os.stat(parent).st_dev if os.path.isdir(parent) else 0,
            references=_sorted(references.values()),
            locks=tuple(sorted({each.lock for each in records})),
        )
        if _read(self.store, record.token) != known:
            externals.register(self.store.layout, self.lease, known)


def _read(store: Store, token: str) -> Registration | None:
    try:
        return externals.read_registration(store.layout, token)
    except StoreDamagedError:
        return None


def _sorted(references: Iterable[EntryReference]) -> tuple[EntryReference, ...]:
    return tuple(sorted(references, key=lambda reference: (reference.name, reference.directory)))
