"""Mending one entry: finding out which wheel it is, where that is to be had, and putting a sound entry in its place.

A composite has no wheel: it is made anew from its members, which are mended first. And where an entry was exchanged,
the composites that still have files of the old one are made anew from the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from vrfstore import codec, fs
from vrfstore.errors import PackageIndexError, StoreDamagedError, VrfstoreError, WheelError
from vrfstore.linker import check
from vrfstore.linker.plan import merge
from vrfstore.model import Digest, EntryPlan, EntryReference, LockedWheel, Watcher
from vrfstore.requirements import lock as locks
from vrfstore.store import composites, leases, repair
from vrfstore.store.bytecode import read_records, record_path, record_paths
from vrfstore.store.compiling import remove_record
from vrfstore.store.entry_plan import composite_reference
from vrfstore.store.layout import BYTECODE
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord, unchanged
from vrfstore.store.store import Store
from vrfstore.store.verify import EntryReport, Problem, check_entry
from vrfstore.values import dataclass, field

if TYPE_CHECKING:
    from vrfstore.runner.unpacked import UnpackedArchives


__all__ = ["Mending", "gone_report", "link_anew", "readable", "relink"]

_CHUNK = 1 << 18

_LARGEST_WHEEL = 1 << 33
"""Bytes of a wheel that is fetched for a repair. What a lock names may never end."""


def gone_report(directory: str) -> EntryReport:
    """Return the report of an entry that is not there."""
    problem = Problem(kind="missing", path="", message="the entry is gone, and environments link to it")
    return EntryReport(directory=directory, problems=(problem,))


def readable(store: Store, environments: Sequence[str]) -> Iterator[EnvironmentRecord]:
    """Yield the records of those environments that are there and have one that can be read."""
    for directory in environments:
        with contextlib.suppress(StoreDamagedError, FileNotFoundError):
            yield store.record(directory)


def link_anew(store: Store, lease: Lease, unfinished: repair.Pending) -> None:
    """Link those environments anew that share inodes with an entry that has been replaced."""
    whole = True
    if not repair.took_place(store, unfinished):
        # What is there is the damaged one still; its own repair begins anew.
        repair.finish(store, unfinished.directory)
        return
    for record in readable(store, store.environments()):
        if unfinished.directory not in record.entries:
            continue
        try:
            relink(
                store,
                lease,
                record,
                wanted=lambda linked: linked.entry == unfinished.directory,
                replaced=unfinished.inodes,
                begun=record.directory in unfinished.environments,
            )
        except FileNotFoundError:
            # The environment is gone. An entry that is gone would be a StoreDamagedError.
            continue
        except VrfstoreError:
            whole = False  # another of its entries is damaged, and has its turn first
    if whole:
        repair.finish(store, unfinished.directory)


def relink(
    store: Store,
    lease: Lease,
    record: EnvironmentRecord,
    *,
    wanted: Callable[[check.Linked], bool],
    replaced: Collection[str] = (),
    begun: bool = False,
) -> None:
    """Link anew what of an environment is not as it was linked, while nobody makes a generation of it.

    What nobody has changed by hand until then can be handed out afterwards as before. ``begun`` says that a repair
    may have been killed in the middle of it: then it can be if it has just what it was linked as, and nothing more.

    Raises:
        StoreDamagedError: An entry that it refers to is gone or cannot be read.
        FileNotFoundError: The environment is gone.
    """
    with store.hold_environment(record.key):
        now = store.record(record.directory)
        trusted = unchanged(store.layout, now)
        check.relink(store, lease, now, trusted=trusted, wanted=wanted, replaced=replaced)
        if begun and not trusted and check.is_as_linked(store, now):
            check.remember(store, lease, now)


@dataclass(slots=True)
class Mending:
    """Repairs of one run."""

    store: Store
    lease: Lease
    sources: tuple[str, ...]
    watch: Watcher
    archives: UnpackedArchives
    digests: dict[str, str] = field(default_factory=dict)

    def mend(self, report: EntryReport) -> str | None:
        """Mend one entry; return what to do about it where that cannot be done."""
        repair.make_readable(self.store, report.directory)
        reference = self._reference(report.directory)
        if reference is None:
            return (
                "nothing tells which wheel it was; give the wheel: "
                f"vrfstore verify --repair --from WHEEL {report.directory}"
            )
        if composites.is_called_so(report.directory):
            return self._mend_composite(reference)
        with self.store.hold_entry(reference.digest):
            hint = self._mend_held(reference, report.directory)
        if hint is None:
            self.finish(report.directory)
        return hint

    def finish(self, directory: str) -> None:
        """Finish the repair of an entry that has been exchanged, in this run or before; the caller has no hold."""
        unfinished = repair.read(self.store, directory)
        if unfinished is None:
            return
        if repair.took_place(self.store, unfinished):
            for name in composites.with_member(self.store, directory):
                self._renew(name, unfinished)
        # The hold needs no more of the digest than an entry's name has.
        with self.store.hold_entry(Digest(directory.partition("-")[0])):
            # Somebody else may have finished it meanwhile, and even begun another one.
            if repair.read(self.store, directory) == unfinished:
                link_anew(self.store, self.lease, unfinished)

    def _mend_held(self, reference: EntryReference, directory: str) -> str | None:
        report = self._look_again(directory)
        if repair.mend_in_place(self.store, self.lease, report):
            return None
        refused: list[str] = []
        for staging in self._staged(reference, directory, refused):
            with composites.hold_members(self.store, [directory]):
                repair.swap(self.store, self.lease, staging, directory, self._untouched(directory))
            return None
        repair.mark(self.store, self.lease, report)
        tried = f" (tried: {'; '.join(refused)})" if refused else ""
        return (
            f"there is no source for it{tried}; give its wheel: "
            f"vrfstore verify --repair --from {reference.name}-{reference.version}-….whl {directory}"
        )

    def _look_again(self, directory: str) -> EntryReport:
        """Look at an entry that is held, and take away bytecode that is not what was compiled."""
        repair.make_readable(self.store, directory)
        report = self._look(directory)
        if any(problem.kind == "bytecode" for problem in report.problems):
            self._remove_bytecode(report)
            report = self._look(directory)
        return report

    def _mend_composite(self, reference: EntryReference) -> str | None:
        """Mend a composite from its members; return what to do about it where that cannot be done."""
        directory = reference.directory
        with leases.take(self.store.layout, digests=[reference.digest]):
            with self.store.hold_entry(reference.digest):
                report = self._look_again(directory)
                if repair.mend_in_place(self.store, self.lease, report):
                    return None
            merged = self._members(reference)
            unsound = [name for name in merged if not self._is_mended(name)]
            if merged and not unsound:
                self._make_anew(reference, merged)
                return None
            with self.store.hold_entry(reference.digest):
                repair.mark(self.store, self.lease, report)
        if not merged:
            return "nothing tells what it was made of; link its requirements again, which makes another one"
        return f"mend first what it was made of: vrfstore verify --repair {' '.join(unsound)}"

    def _is_mended(self, member: str) -> bool:
        """Whether an entry is sound, or could be mended; the caller has no hold."""
        # What of a digest is in its name is enough for a lease, too.
        with leases.take(self.store.layout, digests=[Digest(member.partition("-")[0])]):
            try:
                report = check_entry(self.store, member, full=True)
            except FileNotFoundError:
                report = gone_report(member)
            return not report.problems or self.mend(report) is None

    def _renew(self, directory: str, unfinished: repair.Pending) -> None:
        """Make a composite anew if it shares files with what a member was before that was exchanged."""
        digest = Digest(directory.partition("-")[0])
        with leases.take(self.store.layout, digests=[digest]):
            try:
                plan = self.store.plan(directory, even_marked=True)
            except (FileNotFoundError, StoreDamagedError):  # collected, or has its own turn
                return
            # All of them: what it shared with the damaged member alone has no further link any more.
            found = repair.inodes(self.store, directory)
            if unfinished.sound is not None and found.isdisjoint(unfinished.inodes):
                return
            with contextlib.suppress(StoreDamagedError, FileNotFoundError):
                self._make_anew(plan.reference, plan.members)
                return
            self._mend_composite(plan.reference)

    def _make_anew(self, reference: EntryReference, members: Sequence[str]) -> None:
        """Put a composite of members as they are now in the place of what is there.

        Raises:
            StoreDamagedError, FileNotFoundError: A member is gone or cannot be read.
        """
        directory = reference.directory
        digests = [Digest(name.partition("-")[0]) for name in members]
        with (
            leases.take(self.store.layout, digests=[reference.digest, *digests]),
            self.store.hold_entry(reference.digest),
        ):
            with composites.hold_members(self.store, members):
                plans = [self.store.plan(name, even_marked=True) for name in members]
                staging = composites.stage(self.store, self.lease, reference, plans)
                self._settle(staging)
                unfinished = repair.swap(
                    self.store, self.lease, staging, directory, self._untouched(directory)
                )
            link_anew(self.store, self.lease, unfinished)

    def _members(self, reference: EntryReference) -> tuple[str, ...]:
        """Return the directory names of what a composite was made of; none where nothing tells."""
        own = composites.members(self.store, reference.directory)
        plans: list[EntryPlan] = []
        with contextlib.suppress(StoreDamagedError, FileNotFoundError):
            plans = [self.store.plan(name, even_marked=True) for name in own]
        if plans and composite_reference(plans) == reference:
            return own
        # It may be damaged itself; what its environments are made of tells as well.
        for record in readable(self.store, self.store.environments()):
            if reference not in record.composites:
                continue
            with contextlib.suppress(StoreDamagedError, FileNotFoundError):
                plans = [self.store.plan(wheel.directory, even_marked=True) for wheel in record.wheels]
                for composite in merge(plans, record.options).composites:
                    if composite.reference == reference:
                        return tuple(member.reference.directory for member in composite.members)
        return own

    def _staged(self, reference: EntryReference, directory: str, refused: list[str]) -> Iterator[str]:
        """Stage an entry anew from the first source that is the right one; note the others."""
        for filename, origin, chunks in self._wheels(reference, directory):
            try:
                staging = self._stage(reference, filename, origin, chunks)
            except VrfstoreError as error:
                refused.append(f"{origin}: {error.message}")
                continue
            if staging is None:
                refused.append(f"{origin} is another file now")
                continue
            yield staging
        from vrfstore.runner.unpacked import is_archive  # noqa: PLC0415

        published = None
        with contextlib.suppress(StoreDamagedError):
            published = self.store.manifest(directory)
        for path in filter(is_archive, self.sources):
            try:
                taken = self.archives.take(path, reference, published)
            except WheelError as error:
                refused.append(f"{path}: {error.message}")
                continue
            if taken is None:
                refused.append(f"{path} has it not, or does not prove it")
                continue
            yield taken

    def _look(self, directory: str) -> EntryReport:
        try:
            return check_entry(self.store, directory, full=True)
        except FileNotFoundError:
            # Where nothing refers to it, it has been collected.
            records = readable(self.store, self.store.environments())
            referred = any(directory in record.entries for record in records)
            return gone_report(directory) if referred else EntryReport(directory=directory, problems=())

    def _remove_bytecode(self, report: EntryReport) -> None:
        """Take away bytecode that is not what was compiled, so that it is compiled again."""
        layout, directory = self.store.layout, report.directory
        known = read_records(layout, directory)
        sound = {record_path(layout, directory, record.cache_tag, record.magic) for record in known}
        wrong = {problem.path for problem in report.problems if problem.kind == "bytecode"}
        tags = {
            record.cache_tag for record in known if wrong.intersection(file.path for file in record.files)
        }
        for path in record_paths(layout, directory) if BYTECODE in wrong else ():
            if path not in sound:
                repair.remove(path)
                tags.add(os.path.basename(path).rpartition("-")[0])
        for tag in tags - {""}:
            remove_record(self.store, directory, tag)

    def _reference(self, directory: str) -> EntryReference | None:
        """Find out which wheel an entry is: from itself, from environments, from locks, or from a wheel given."""
        prefix = directory.partition("-")[0]
        for reference in self._references(directory):
            # An entry may hold what belongs to another one; its name tells.
            if reference.directory == directory and reference.digest.startswith(prefix):
                return reference
        return None

    def _references(self, directory: str) -> Iterator[EntryReference]:
        with contextlib.suppress(StoreDamagedError):
            yield self.store.manifest(directory).reference
        with contextlib.suppress(StoreDamagedError, FileNotFoundError):
            yield self.store.plan(directory, even_marked=True).reference
        for record in readable(self.store, self.store.environments()):
            yield from (*record.wheels, *record.composites)
        for wheel in self._locked():
            yield EntryReference(
                digest=wheel.digest, name=wheel.name, version=wheel.version, directory=directory
            )
        from vrfstore.store.wheel import parse_filename  # noqa: PLC0415 - installer, packaging, zipfile

        for path in self._files():
            with contextlib.suppress(WheelError):
                name, version, _ = parse_filename(os.path.basename(path))
                digest = Digest(self._digest(path))
                yield EntryReference(digest=digest, name=name, version=str(version), directory=directory)

    def _untouched(self, directory: str) -> tuple[str, ...]:
        """Return the environments that link to an entry and that nobody changed by hand."""
        return tuple(
            record.directory
            for record in readable(self.store, self.store.environments())
            if directory in record.entries and unchanged(self.store.layout, record)
        )

    def _stage(
        self, reference: EntryReference, filename: str, origin: str, chunks: Callable[[], Iterator[bytes]]
    ) -> str | None:
        """Stage a wheel anew; None where it is not the one."""
        temporary, digest = self.store.receive(self.lease, chunks())
        try:
            if digest != reference.digest:
                return None
            staging, _ = self.store.stage(self.lease, temporary, filename, reference, origin=origin)
        finally:
            fs.remove_file(temporary)
        self._settle(staging)
        return staging

    def _settle(self, staging: str) -> None:
        try:
            self.store.settle(staging)
        except BaseException:
            fs.remove_tree(staging)
            raise

    def _wheels(
        self, reference: EntryReference, directory: str
    ) -> Iterator[tuple[str, str, Callable[[], Iterator[bytes]]]]:
        """Yield file name, origin and content of what may be the wheel of an entry."""
        filename, origin = self._noted(directory)
        for path in self._files():
            if self._digest(path) == reference.digest:
                called = filename if _is_called(filename, reference) else os.path.basename(path)
                yield called, os.path.abspath(path), partial(_read, path)
        seen = {""}
        for wheel in (_wheel_at(origin, filename, reference), *self._locked()):
            if wheel.digest != reference.digest or wheel.url in seen:
                continue
            seen.add(wheel.url)
            local = _local_path(wheel.url)
            if local is None:
                yield wheel.filename, wheel.url, partial(self._fetched, wheel)
            else:
                # A lock may have come from anywhere; only what is the wheel is copied.
                same = self._digest(local) == reference.digest
                yield wheel.filename, local, partial(_read, local) if same else partial(iter, ())

    def _digest(self, path: str) -> str:
        """Return the SHA-256 of a file; nothing where it cannot be read."""
        if path not in self.digests:
            sha256 = hashlib.sha256()
            self.digests[path] = ""
            with contextlib.suppress(WheelError):
                for chunk in _read(path):
                    sha256.update(chunk)
                self.digests[path] = sha256.hexdigest()
        return self.digests[path]

    def _noted(self, directory: str) -> tuple[str, str]:
        """Return file name and origin of an entry's wheel, from manifest or plan, even if those are damaged.

        That does not matter here: the digest tells whether it is the wheel.
        """
        data = b""
        for name in ("manifest.json", "plan.json"):
            with contextlib.suppress(OSError):
                data += fs.read_file(f"{self.store.layout.of('entries', directory)}/{name}")
        found = []
        for key in (b"filename", b"origin"):
            match = re.search(rb'"%s":("(?:[^"\\]|\\.)*")' % key, data)
            value: object = None
            if match is not None:
                with contextlib.suppress(ValueError):
                    value = codec.loads(match[1])
            found.append(value if isinstance(value, str) and "\0" not in value else "")
        return found[0], found[1]

    def _files(self) -> Iterator[str]:
        """Yield the wheels that were given, and those in directories that were given."""
        for source in self.sources:
            if not os.path.isdir(source):
                yield source
                continue
            with contextlib.suppress(OSError):
                yield from (
                    os.path.join(source, name) for name in sorted(os.listdir(source)) if name.endswith(".whl")
                )

    def _locked(self) -> Iterator[LockedWheel]:
        """Yield the wheels of all locks of the store."""
        for name in sorted(os.listdir(self.store.layout.of("locks"))):
            lock = locks.read(self.store.layout, name.removesuffix(".toml"))
            yield from lock.wheels if lock is not None else ()

    def _fetched(self, wheel: LockedWheel) -> Iterator[bytes]:
        from vrfstore import interpreter  # noqa: PLC0415 - for what has to be fetched only
        from vrfstore.requirements import fetch, pip  # noqa: PLC0415

        settings = pip.settings(self.store, interpreter.probe(interpreter.default_executable()))
        left = _LARGEST_WHEEL
        try:
            for chunk in fetch.chunks(wheel, settings, self.watch):
                left -= len(chunk)
                if left < 0:
                    raise PackageIndexError(f"what comes for {wheel.filename} has no end")
                yield chunk
        except OSError as error:
            raise PackageIndexError(f"{wheel.filename} could not be read: {error.strerror}") from error


def _is_called(filename: str, reference: EntryReference) -> bool:
    from vrfstore.store.wheel import parse_filename  # noqa: PLC0415

    with contextlib.suppress(WheelError):
        return parse_filename(filename)[0] == reference.name
    return False


def _wheel_at(origin: str, filename: str, reference: EntryReference) -> LockedWheel:
    """Return a wheel as a lock would have it; its URL is empty where it did not come from one."""
    return LockedWheel(
        name=reference.name,
        version=reference.version,
        filename=filename,
        digest=reference.digest,
        url=origin,
    )


def _local_path(url: str) -> str | None:
    """Return the path that a URL of this machine, or a path, leads to; None for what has to be fetched."""
    if os.path.isabs(url):
        return url
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme == "file" else None


def _read(path: str) -> Iterator[bytes]:
    try:
        with fs.open_regular(path) as stream:
            yield from iter(lambda: stream.read(_CHUNK), b"")
    except OSError as error:
        raise WheelError(
            f"the file cannot be read: {error.strerror}", kind="wheel-unreadable", path=path
        ) from error
