"""``env heal``: mending what has drifted in an environment, around what was put there by hand.

::

    look ─▶ drifts ─┬─ its own place, links, interpreter ─▶ linked anew from its record
                    ├─ entries gone ─▶ fetched through its lock, then the same
                    └─ another X.Y ─▶ resolved again, linked beside; then what was ours for the old one goes
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence

from vrfstore import fs
from vrfstore.errors import DriftError
from vrfstore.linker import check as links
from vrfstore.linker import drift
from vrfstore.linker.composing import composed
from vrfstore.linker.drift import Drift
from vrfstore.linker.external import keep_beside
from vrfstore.linker.into import Asked, by_hand, left_behind, link_into
from vrfstore.linker.realise import new_record
from vrfstore.model import Digest, EntryPlan, EntryReference, Interpreter, LockedWheel, Watcher, nobody
from vrfstore.runner import inspection
from vrfstore.runner.inspection import Found, Inspection
from vrfstore.store import condemned, externals, interpreters, leases
from vrfstore.store.externals import ExternalRecord
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord, unchanged
from vrfstore.store.shared import is_lost
from vrfstore.store.store import Store
from vrfstore.values import dataclass, replace

__all__ = ["Healed", "heal"]

_INTERPRETER = frozenset({"interpreter-upgraded", "interpreter-moved"})
_OTHER = "interpreter-changed"
_IN_THE_WAY = frozenset(
    {
        "link-missing",
        "link-dangling",
        "link-repointed",
        "file-missing",
        "directory-missing",
        "frame-changed",
        "unfinished",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Healed:
    """What was done for an environment.

    Attributes:
        place: Its path.
        mended: What was wrong, and is not any more.
        left: What still is.
        notes: What whoever uses it should know.
    """

    place: str
    mended: tuple[Drift, ...] = ()
    left: tuple[Drift, ...] = ()
    notes: tuple[str, ...] = ()


def heal(found: Found, *, network: bool = True, requirements: bool = True, watch: Watcher = nobody) -> Healed:
    """Mend an environment in place; where nothing has drifted, nothing is touched.

    Args:
        found: From ``inspection.find``, not only to look.
        network: Whether what is missing may be fetched, and requirements be resolved again.
        requirements: Whether to name what its distributions require and do not have.
        watch: Is told what long steps do.

    Raises:
        DriftError: What is missing could be had from the network only, or from nowhere.
        VrfstoreError: Resolving or fetching failed.
        OSError: The disk is full, or the environment may not be written.
    """
    before = inspection.inspect(found, requirements=requirements)
    task = _Heal(found, before, network, watch)
    if not before.drifted:
        if isinstance(found.record, EnvironmentRecord):
            task.settle(found.record)
        return Healed(place=found.place)
    notes = (
        task.external(found.record)
        if isinstance(found.record, ExternalRecord)
        else task.managed(found.record)
    )
    after = inspection.inspect(
        inspection.find(found.place, found.store.root, to_look=False), requirements=requirements
    )
    wrong = {(each.kind, each.path) for each in after.drifts if each.drifted}
    return Healed(
        place=found.place,
        mended=tuple(each for each in before.drifts if each.drifted and (each.kind, each.path) not in wrong),
        left=tuple(each for each in after.drifts if each.drifted),
        notes=(*notes, *_next_steps(found, after.drifts)),
    )


def _next_steps(found: Found, drifts: Sequence[Drift]) -> Iterator[str]:
    """Say what whoever uses an environment can do about what is left."""
    if not isinstance(found.record, ExternalRecord):
        return
    kinds = {each.kind for each in drifts if each.drifted}
    if "requirement-unmet" in kinds:
        file = shlex.quote(found.record.path or "FILE")
        yield f"name what is missing in {file}, and then: {_link_again(found.place, found.record)}"
    if kinds & _IN_THE_WAY:
        again = _link_again(found.place, found.record)
        yield f"what is in the way was put there by somebody else; to have it replaced: {again} --force"


def _link_again(place: str, record: ExternalRecord) -> str:
    """Return the command that links an environment again."""
    return f"vrfstore link {shlex.quote(record.path or 'FILE')} --into {shlex.quote(place)}"


@dataclass(frozen=True, slots=True)
class _Heal:
    """One environment that has drifted."""

    found: Found
    looked: Inspection
    network: bool
    watch: Watcher

    @property
    def store(self) -> Store:
        return self.found.store

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(each.kind for each in self.looked.drifts if each.drifted)

    def external(self, record: ExternalRecord) -> Sequence[str]:
        record = self._own_token(record)
        base = self.looked.seen.interpreter
        notes: Sequence[str] = ()
        if base is None:
            again = _link_again(self.found.place, record)
            return (
                f"bring its interpreter back, or link it again for another one with: {again} --python PYTHON",
            )
        if _OTHER in self.kinds:
            notes = self._for_another(record, base)
        elif self.kinds - {"stale-interpreter-link", "requirement-unmet"}:
            notes = self._again(record, base)
        self._remove_stale()
        return notes

    def _own_token(self, record: ExternalRecord) -> ExternalRecord:
        """Tell a copy of an environment from the one that it is a copy of."""
        known = self.looked.seen.registered
        if known is None or not known.copied:
            return record
        with self.store.hold_environment(externals.hold_key(self.found.place)):
            record = replace(record, token=fs.unique_name())
            externals.write(self.found.place, record)
        return record

    def _again(self, record: ExternalRecord, base: Interpreter) -> Sequence[str]:
        """Link it anew as it was, for the interpreter as it is; return what its user should know."""
        gone = drift.removed(self.looked.recorded, self.looked.seen)
        wheels = [wheel for wheel in record.wheels if wheel.name not in gone]
        asked = Asked(
            requirements=record.requirements,
            path=record.path,
            python=record.asked,
            lock=record.lock,
            options=record.options,
        )
        digests = [wheel.digest for wheel in wheels]
        with leases.take(self.store.layout, digests=digests, lock=record.lock) as lease:
            plans = self._plans(lease, wheels, record.lock, base)
            linked = link_into(
                self.store,
                lease,
                plans,
                base,
                self.found.place,
                asked,
                again=self._useless(),
                known=record,
            )
        return linked.warnings

    def _useless(self) -> set[str]:
        """Return the paths where what is there is of no use, whoever put it there."""
        return {
            each.path
            for each in self.looked.drifts
            if each.path and each.kind in {"link-repointed", "file-missing"}
        }

    def _for_another(self, record: ExternalRecord, base: Interpreter) -> Sequence[str]:
        """Resolve again for another X.Y; return what had been installed by hand for the old one, and how to get it."""
        if not self.network:
            raise DriftError(
                f"it has to be resolved again for Python {base.short_version}, which may need the network",
                path=self.found.place,
                hint="heal it without --no-network",
            )
        from vrfstore.requirements import inputs  # noqa: PLC0415 - where another X.Y came only
        from vrfstore.runner.link import link_again  # noqa: PLC0415

        theirs = by_hand(self.found.place, record, record.library)
        asked = inputs.read_recorded(record.requirements, record.path or self.found.place)
        result = link_again(
            self.store,
            asked,
            self.found.place,
            python=record.asked,
            executable=base.executable,
            options=record.options,
            watch=self.watch,
        )
        notes = list(result.warnings)
        if theirs and (said := left_behind(self.found.place, theirs, record.library, base)) not in notes:
            notes.append(said)
        return notes

    def _remove_stale(self) -> None:
        for name in self.looked.seen.stale:
            path = f"{self.found.place}/bin/{name}"
            if os.path.islink(path):
                fs.remove_file(path)

    def _plans(
        self, lease: Lease, wheels: Sequence[EntryReference], lock: str, base: Interpreter
    ) -> list[EntryPlan]:
        """Return the plans of entries, having fetched those that are gone."""
        self.store.await_entries((wheel.digest, wheel.name, wheel.version) for wheel in wheels)
        plans: list[EntryPlan] = []
        missing: list[EntryReference] = []
        for wheel in wheels:
            try:
                plan = self.store.plan(wheel.directory)
            except FileNotFoundError:
                missing.append(wheel)
                continue
            if is_lost(plan):
                missing.append(wheel)
            else:
                plans.append(plan)
        if not missing:
            return plans
        from vrfstore.requirements import fetch, pip  # noqa: PLC0415 - where entries are gone only

        wanted = self._locked(missing, lock)
        fetched = fetch.fetch(self.store, lease, wanted, pip.settings(self.store, base), self.watch)
        return [*plans, *(item.plan for item in fetched)]

    def _locked(self, missing: Sequence[EntryReference], lock: str) -> list[LockedWheel]:
        """Return where wheels are to be had, as their lock says."""
        from vrfstore.requirements import lock as locks  # noqa: PLC0415 - as above

        read = locks.read(self.store.layout, lock)
        known: Mapping[Digest, LockedWheel] = (
            {} if read is None else {wheel.digest: wheel for wheel in read.wheels}
        )
        names = ", ".join(f"{wheel.name} {wheel.version}" for wheel in missing)
        if any(wheel.digest not in known for wheel in missing):
            raise DriftError(
                f"{names} is gone from the store, and no lock says where it was from",
                path=self.found.place,
                hint=self._hint(),
            )
        wanted = [known[wheel.digest] for wheel in missing]
        if not self.network and any(not wheel.url.startswith("file:") for wheel in wanted):
            raise DriftError(
                f"{names} is gone from the store, and has to be fetched",
                path=self.found.place,
                hint="heal it without --no-network",
            )
        return wanted

    def _hint(self) -> str:
        record = self.found.record
        if isinstance(record, ExternalRecord):
            return f"link it again with: {_link_again(self.found.place, record)}"
        return "link its requirements again"

    def managed(self, record: EnvironmentRecord) -> Sequence[str]:
        base = self.looked.seen.interpreter
        if base is None or self.kinds & {_OTHER, *_INTERPRETER}:
            return ("link its requirements again, which makes an environment for the interpreter as it is",)
        if record.shared.intersection(self.looked.seen.gone):
            return ("link its requirements again: what it borrows is gone from the shared store",)
        layout = self.store.layout
        digests = [wheel.digest for wheel in record.wheels]
        with leases.take(layout, environment=record.key, digests=digests, lock=record.lock) as lease:
            condemned.wait_until_clear(layout, {f"environments/{record.directory}"})
            plans = self._plans(lease, record.wheels, record.lock, base)
            with composed(self.store, plans, record.options), self.store.hold_environment(record.key):
                now = inspection.inspect(inspection.find(self.found.place, None, to_look=False))
                trusted = unchanged(layout, record)
                interpreters.ready_links(layout, lease, base)
                links.relink(self.store, lease, record, trusted=trusted, wanted=lambda _: True)
                self._put_back(lease, now)
                if _is_as_linked(inspection.inspect(now.found), record):
                    links.remember(self.store, lease, record)
        self._remove_stale()
        return ()

    def settle(self, record: EnvironmentRecord) -> None:
        """Let a managed environment be handed out again that a kill had left mended, and not written down as such."""
        if unchanged(self.store.layout, record) or not _is_as_linked(self.looked, record):
            return
        with (
            leases.take(self.store.layout, environment=record.key) as lease,
            self.store.hold_environment(record.key),
        ):
            now = inspection.inspect(inspection.find(self.found.place, None, to_look=False))
            if _is_as_linked(now, record):
                links.remember(self.store, lease, record)

    def _put_back(self, lease: Lease, now: Inspection) -> None:
        """Put back what is gone, or empty, of a managed environment; parents first."""
        recorded, seen, plan = now.recorded, now.seen, now.plan
        if plan is None:
            return
        theirs = {each.name for each in seen.by_hand} | drift.removed(recorded, seen)
        files = dict(plan.files)
        root = self.store.root
        for record in plan.records:
            files[record.path] = new_record(record, root, plan.headers)
        copies = {path for _, path in plan.copies}
        top = os.path.realpath(now.found.place)
        frame = drift.frame(recorded.library)
        drifts = {(each.path, each.kind) for each in now.drifts}
        for path in sorted(recorded.expected):
            there = seen.found[path]
            empty = there is not None and there.endswith(f":{drift.EMPTY}")
            differs = there != recorded.expected[path]
            place = f"{now.found.place}/{path}"
            framed = path in frame and there != "d" and (path, "frame-changed") in drifts
            if recorded.owners.get(path) in theirs or not differs or not (there is None or empty or framed):
                continue
            # Behind something of somebody's own nothing can be put.
            parent = os.path.dirname(f"{top}/{path}")
            if not os.path.isdir(parent) or os.path.realpath(parent) != parent:
                continue
            if path in plan.directories:
                fs.make_directory(place)
                continue
            if framed:
                keep_beside(now.found.place, path)
            temporary = self.store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
            if path in files:
                fs.write_file(temporary, files[path])
            elif path in copies:
                fs.copy_file(f"{root}/{now.sources[path]}", temporary, follow=True)
            else:
                fs.hard_link(f"{root}/{now.sources[path]}", temporary, place=place)
            fs.rename(temporary, place)


def _is_as_linked(now: Inspection, record: EnvironmentRecord) -> bool:
    """Whether a managed environment has just what it was linked as, so that it may be handed out again."""
    names: dict[str, set[str]] = {path: set() for path in record.own}
    for path in now.recorded.expected:
        parent, _, name = path.rpartition("/")
        names.setdefault(parent, set()).add(name)
    root = now.found.place
    own = (path for path in record.own if now.recorded.expected.get(path) == "d")
    return (
        now.plan is not None
        and all(now.seen.found[path] == what for path, what in now.recorded.expected.items())
        and all(set(os.listdir(f"{root}/{path}")) == names[path] for path in own)
    )
