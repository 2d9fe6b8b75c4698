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
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from vrfstore import fs
from vrfstore.errors import BusyError, StoreDamagedError, UsageError
from vrfstore.linker import drift, external
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
from vrfstore.values import dataclass, replace

__all__ = [
    "Asked",
    "Linked",
    "behind_links",
    "by_hand",
    "check_directory",
    "installed_files",
    "left_behind",
    "link_into",
]

_ATTEMPTS = 5


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
        warnings: What the user should know of what he had changed.
    """

    record: ExternalRecord
    changes: Changes
    by_hand: tuple[Distribution, ...]
    warnings: tuple[str, ...] = ()


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
    _check_owner(place)
    if not force:
        _check_store(store, place)
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


def _check_owner(place: str) -> None:
    """Let root make nothing that the owner of a directory cannot use, nor follow what he has put there."""
    with contextlib.suppress(FileNotFoundError):
        owner = os.stat(place).st_uid
        if os.geteuid() == 0 and owner != 0:
            raise UsageError(
                f"the directory belongs to user {owner}, who could not use what root makes in it",
                kind="into-owner",
                path=place,
                hint=f"run it as that user, as in: sudo -u '#{owner}' vrfstore …",
            )


def _check_store(store: Store, place: str) -> None:
    """Let no environment go from one store to another by mistake. A store that was moved is the same one."""
    known = _record(place, force=False)
    if (
        known is not None
        and os.path.realpath(known.store) != os.path.realpath(store.root)
        and os.path.lexists(f"{known.store}/store.json")
    ):
        raise UsageError(
            f"the environment is of another store, {known.store}",
            kind="into-other-store",
            path=place,
            hint=f"link it with: vrfstore --store {shlex.quote(known.store)} link …; or bring it here with --force",
        )


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
    for _ in range(_ATTEMPTS):
        # Composites are made before the environment is held: whoever mends one holds it, and then what is linked to it.
        theirs = () if force else by_hand(place, _record(place, force=force), interpreter.directory_name)
        names = {found.name for found in theirs}
        wanted = [plan for plan in plans if plan.reference.name not in names]
        linked = {plan.reference.name for plan in wanted}
        options = replace(
            asked.options, materialize=tuple(name for name in asked.options.materialize if name in linked)
        )
        # One at a time for each directory, whatever it is called.
        with composed(store, wanted, options) as merged, store.hold_environment(externals.hold_key(place)):
            before = _record(place, force=force)
            if known is not None and before != known:
                break
            now = () if force else by_hand(place, before, interpreter.directory_name)
            if {found.name for found in now} != names:
                continue
            external.sweep(place)
            foreign = _foreign(place, before, wanted, interpreter.directory_name, force=force)
            token = "" if before is None else before.token
            if before is not None and (before.store != store.root or _is_copy(store, place, before.token)):
                before = replace(before, token=fs.unique_name())
            earlier = before
            if before is not None and now:
                # What an installer has put in the place of ours may be equal to it, byte for byte.
                paths = installed_files(place, now, interpreter.directory_name)
                before = replace(
                    before, made={path: made for path, made in before.made.items() if path not in paths}
                )
            task = _Task(
                store,
                lease,
                place,
                before,
                wanted,
                interpreter,
                merged,
                again,
                force=force,
                foreign=foreign,
                is_new=earlier is None or not earlier.finished or earlier.token != token,
            )
            result = task.run(asked, now)
            return replace(result, warnings=(*result.warnings, *_elsewhere(place, earlier, interpreter)))
    raise BusyError("somebody else has just changed the environment", kind="environment-busy", path=place)


def _foreign(
    place: str, record: ExternalRecord | None, plans: Sequence[EntryPlan], library: str, *, force: bool
) -> tuple[Distribution, ...]:
    """Return the distributions that were installed by hand, and that ours take the place of all the same."""
    behind = behind_links(place, record, library)
    if not force:
        return behind
    names = {plan.reference.name for plan in plans} | {each.name for each in behind}
    return tuple(each for each in _installed(place, record, library) if each.name in names)


def _elsewhere(place: str, record: ExternalRecord | None, interpreter: Interpreter) -> tuple[str, ...]:
    """Say what was installed by hand for another interpreter, which stays there and is not seen any more."""
    if record is None or record.library == interpreter.directory_name:
        return ()
    theirs = by_hand(place, record, record.library)
    return (left_behind(place, theirs, record.library, interpreter),) if theirs else ()


def left_behind(place: str, theirs: Iterable[Distribution], library: str, interpreter: Interpreter) -> str:
    """Say where distributions of an environment's user are left, and how they are had for another interpreter.

    Args:
        place: The environment.
        theirs: The distributions.
        library: The name of the library directory that has them.
        interpreter: The other interpreter.
    """
    names = " ".join(shlex.quote(f"{each.name}=={each.version}") for each in theirs)
    python = shlex.quote(f"{place}/bin/python")
    return (
        f"what was installed by hand stays in lib/{library}; for {interpreter.directory_name}, install it "
        f"again with: {python} -m pip install {names}"
    )


def by_hand(place: str, record: ExternalRecord | None, library: str) -> tuple[Distribution, ...]:
    """Return the distributions of an environment that are not as vrfstore has put them there.

    Those whose modules lie behind links of ours are not among them, see ``behind_links``.

    Args:
        place: The environment.
        record: Its record; None where vrfstore has put nothing there.
        library: The name of the library directory to look into.
    """
    found = _installed(place, record, library)
    behind = set(_behind(place, record, library, found))
    return tuple(each for each in found if each not in behind)


def behind_links(place: str, record: ExternalRecord | None, library: str) -> tuple[Distribution, ...]:
    """Return the distributions whose dist-info is not ours, while their modules are behind links of ours.

    That is what root's ``pip install --ignore-installed`` leaves: it writes through the links, into the store. Without
    the links there would be nothing of such a distribution but its dist-info.

    Args:
        place: The environment.
        record: Its record; None where vrfstore has put nothing there.
        library: The name of the library directory to look into.
    """
    return _behind(place, record, library, _installed(place, record, library))


def _behind(
    place: str, record: ExternalRecord | None, library: str, installed: Iterable[Distribution]
) -> tuple[Distribution, ...]:
    if record is None:
        return ()
    # A link of another distribution's is no reason to take this one for ours.
    merged = tuple(f"{record.store}/entries/{each.directory}/" for each in record.composites)
    own = {each.name: (f"{record.store}/entries/{each.directory}/", *merged) for each in record.wheels}

    def is_behind(found: Distribution) -> bool:
        paths = installed_files(place, [found], library) if found.name in own else ()
        ours = {
            above
            for path in paths
            for above in (path, *external.parents(path))
            if above in record.made and record.made[above].what[2:].startswith(own[found.name])
        }
        there = external.found_at(place, ours, {})
        return any(
            there[path] == record.made[path].what and os.path.isdir(f"{place}/{path}") for path in ours
        )

    return tuple(found for found in installed if is_behind(found))


def _installed(place: str, record: ExternalRecord | None, library: str) -> tuple[Distribution, ...]:
    """Return the distributions whose dist-info is not ours."""
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
    foreign: tuple[Distribution, ...]
    is_new: bool

    def run(self, asked: Asked, theirs: tuple[Distribution, ...]) -> Linked:
        made = {} if self.before is None else self.before.made
        items, found, stays = self._items(made)
        again = {*self.again, *self._frame(items, found)}
        infos = [
            f"lib/{self.interpreter.directory_name}/{SITE_PACKAGES}/{each.directory}" for each in self.foreign
        ]
        for path in found:
            if any(f"{path}/".startswith(f"{info}/") for info in infos):
                found[path] = None
        changes = external.decide(
            made,
            {path: item.what for path, item in items.items()},
            found,
            again=again,
            stays=stays,
            force=self.force,
        )
        record = self._record(asked)
        if (
            changes.nothing
            and not infos
            and self.before is not None
            and self._is_same(record, items, changes)
        ):
            self._register(record)
            self._forget_others(record)
            return Linked(record=self.before, changes=changes, by_hand=theirs)
        self._register(record, self.before)
        os.makedirs(self.place, exist_ok=True)
        kept = [] if self.force else [*self._keep(changes, made, found)]
        useless = {path: found.get(path) for path in again}
        externals.write(self.place, external.changing(record, self.before, items, useless))
        for info in infos:
            fs.remove_tree(f"{self.place}/{info}")
        external.apply(self.place, changes, items, made, found, force=self.force)
        record = external.finished(record, self.place, items, self._theirs(changes))
        externals.write(self.place, record)
        self._register(record)
        self._forget_others(record)
        return Linked(
            record=record,
            changes=changes,
            by_hand=theirs,
            warnings=(*kept, *map(self._replaced, self.foreign)),
        )

    def _frame(self, items: Mapping[str, Item], found: Mapping[str, str | None]) -> set[str]:
        """Return the paths of the frame that are not as they are to be; a directory in the way is no frame."""
        if self.before is None:
            return set()
        frame = drift.frame(self.interpreter.directory_name)
        return {path for path in frame & items.keys() if found[path] not in (None, "d", items[path].what)}

    def _theirs(self, changes: Changes) -> set[str]:
        """Return what stays the user's; what he has put in the place of the frame stays wrong."""
        return set(changes.kept) - drift.frame(self.interpreter.directory_name)

    def _keep(
        self, changes: Changes, made: Mapping[str, Made], found: Mapping[str, str | None]
    ) -> Iterator[str]:
        """Keep beside what somebody has made of the frame; say where."""
        for path in changes.put:
            mine, there = made.get(path), found[path]
            is_ours = mine is not None and there in (mine.what, *mine.before)
            empty = there is None or there.endswith(f":{drift.EMPTY}")
            theirs = not is_ours and not empty and path not in self.again
            if theirs and path in drift.frame(self.interpreter.directory_name):
                beside = external.keep_beside(self.place, path)
                if beside:
                    yield f"{path} had been changed by hand; what it was is {beside}"

    def _replaced(self, found: Distribution) -> str:
        if self.force:
            return f"{found.name} {found.version}, installed by hand, was replaced"
        return (
            f"{found.name} {found.version} had been installed through a link into the store; its "
            f"{found.directory} was replaced. See what it changed with: vrfstore verify"
        )

    def _forget_others(self, record: ExternalRecord) -> None:
        """Forget what was at this path before; only where there is a new one, because all have to be read for it."""
        if not self.is_new:
            return
        for known in externals.registrations(self.store.layout):
            if isinstance(known, Registration) and known.path == self.place and known.token != record.token:
                externals.forget(self.store.layout, known.token)

    def _items(self, made: Mapping[str, Made]) -> tuple[dict[str, Item], dict[str, str | None], set[str]]:
        """Return what is wanted, what is there, and the directories that cannot make way for something else.

        A directory that the user has put something into is left real, where a link to a whole one was planned.
        """
        hashes = functools.cache(self.store.manifest_hashes)
        interpreters.ready_links(self.store.layout, self.lease, self.interpreter)
        ready = interpreters.ready_links_name(self.interpreter)
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
            if self.before is not None and "pyvenv.cfg" not in self.again and not self.force:
                prompt = self.before.options.prompt
                items["pyvenv.cfg"] = external.configured(self.place, items["pyvenv.cfg"], prompt)
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
        ours = items.keys() - self._theirs(changes)
        return replace(record, made={}) == replace(self.before, made={}) and ours == self.before.made.keys()

    def _register(self, record: ExternalRecord, before: ExternalRecord | None = None) -> None:
        """Tell the store what the environment refers to, and what it may still refer to."""
        records = [record] if before is None else [record, before]
        references = {
            reference.directory: reference
            for each in records
            for reference in (*each.wheels, *each.composites)
        }
        locks = {each.lock for each in records}
        earlier = _read(self.store, record.token)
        if before is not None and not before.finished and earlier is not None:
            # Whoever was killed before may have left links to what an even earlier record named.
            references = {reference.directory: reference for reference in earlier.references} | references
            locks |= set(earlier.locks)
        known = Registration(
            token=record.token,
            path=self.place,
            device=externals.device_of(self.place),
            references=_sorted(references.values()),
            locks=tuple(sorted(locks)),
            namespace=externals.mount_namespace(),
        )
        externals.register(self.store.layout, self.lease, known)


def _is_copy(store: Store, place: str, token: str) -> bool:
    """Whether the environment of a token is at another place still, so that this one is a copy of it."""
    known = _read(store, token)
    if known is None or known.path == place:
        return False
    try:
        there = externals.read(known.path)
    except StoreDamagedError:
        return True
    return there is not None and there.token == token


def _read(store: Store, token: str) -> Registration | None:
    try:
        return externals.read_registration(store.layout, token)
    except StoreDamagedError:
        return None


def _sorted(references: Iterable[EntryReference]) -> tuple[EntryReference, ...]:
    return tuple(sorted(references, key=lambda reference: (reference.name, reference.directory)))
