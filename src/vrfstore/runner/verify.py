"""Verifying a store, and repairing what is damaged from where it came.

::

    entries ──look, compare──▶ problems ──▶ wheel: given, origin, lock's source ──▶ staged ──exchange──▶ sound entry
    environments ──compare──▶ problems ──▶ links made anew
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import random
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from vrfstore import codec, fs
from vrfstore.errors import PackageIndexError, StoreDamagedError, UsageError, VrfstoreError, WheelError
from vrfstore.linker import check
from vrfstore.model import Digest, EntryReference, Event, LockedWheel, Watcher
from vrfstore.requirements import lock as locks
from vrfstore.store import leases, repair
from vrfstore.store.bytecode import read_records, record_path, record_paths
from vrfstore.store.compiling import remove_record
from vrfstore.store.layout import BYTECODE
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord, unchanged
from vrfstore.store.store import Store
from vrfstore.store.verify import EntryReport, Problem, check_entry

if TYPE_CHECKING:
    from vrfstore.runner.unpacked import UnpackedArchives

__all__ = ["Finding", "VerifyReport", "verify"]

_CHUNK = 1 << 18

_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})
"""What keeps not only one entry from being mended."""

_HARMLESS = frozenset({"added", "bytecode", "mode"})
"""What may be wrong with an entry while all that environments link to is as it was published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A problem, where it is, and what became of it.

    Attributes:
        place: ``entries/<directory>`` or ``environments/<directory>``.
        problem: What is wrong.
        mended: Whether it is right again.
        hint: What to do about it, where it is not.
    """

    place: str
    problem: Problem
    mended: bool = False
    hint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What ``verify`` found.

    Attributes:
        entries: How many entries were looked at.
        unread: How many were not, or not wholly, because there was no time or only a sample was wanted.
        environments: How many environments were looked at.
        read: Bytes that were read.
        seconds: How long that took.
        findings: What is wrong, or was.
        written: For each entry the pycs that some interpreter wrote itself: no damage.
    """

    entries: int
    unread: int
    environments: int
    read: int
    seconds: float
    findings: tuple[Finding, ...]
    written: Mapping[str, tuple[str, ...]]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong any more."""
        return all(finding.mended for finding in self.findings)


def verify(
    store: Store,
    targets: Sequence[str] = (),
    *,
    full: bool = True,
    sample: int | None = None,
    max_seconds: float | None = None,
    mend: bool = False,
    sources: Sequence[str] = (),
    watch: Watcher | None = None,
) -> VerifyReport:
    """Compare entries and environments with what was published, and mend them if that is wanted.

    Args:
        store: The store; opened to look is enough, unless something is to be mended.
        targets: Entries and environments, by path, directory name or its beginning; by default everything.
        full: Read every byte; otherwise look at presence, kinds, sizes, modes and links only.
        sample: Only so many entries, chosen at random.
        max_seconds: Read no further after so many seconds; the order is then a random one.
        mend: Repair.
        sources: Wheels, directories of wheels, and archives of ``export``, from which to repair.
        watch: Is told of each entry that has been ``verified``; called from several threads.

    Raises:
        UsageError: A target is nothing or several things.
        OSError: The disk is full.
    """
    return _Verification(store, full, mend, tuple(sources), watch or _nobody).run(
        targets, sample, max_seconds
    )


def _nobody(event: Event) -> None:
    del event


@dataclass(slots=True)
class _Verification:
    """One run."""

    store: Store
    full: bool
    mend: bool
    sources: tuple[str, ...]
    watch: Watcher
    findings: list[Finding] = field(default_factory=list)
    gone: frozenset[str] = frozenset()

    def run(self, targets: Sequence[str], sample: int | None, max_seconds: float | None) -> VerifyReport:
        began = time.monotonic()
        entries, environments = self._select(targets)
        total = len(entries)
        if sample is not None or max_seconds is not None:
            random.shuffle(entries)
        if sample is not None:
            entries = entries[:sample]
        deadline = None if max_seconds is None else began + max_seconds
        with contextlib.ExitStack() as stack:
            lease = None
            if self._may_write():
                digests = [Digest(name.partition("-")[0]) for name in entries]
                lease = stack.enter_context(leases.take(self.store.layout, digests=digests))
            mending = stack.enter_context(self._mending(lease)) if self.mend and lease is not None else None
            if mending is not None:
                self._finish_pending(mending.lease)
            reports, unread = self._check_entries(entries, deadline)
            missing = self._missing(environments)
            damaged = {
                report.directory for report in (*reports, *missing) if not self._entry(mending, report)
            }
            if mending is not None:
                self._finish_pending(mending.lease)
            looked = {report.directory for report in reports} | damaged
            for directory in environments:
                self._environment(mending, directory, damaged, looked)
        return VerifyReport(
            entries=len(reports),
            unread=total - len(entries) + unread,
            environments=len(environments),
            read=sum(report.read for report in reports),
            seconds=time.monotonic() - began,
            findings=tuple(self.findings),
            written={report.directory: report.written for report in reports if report.written},
        )

    @contextlib.contextmanager
    def _mending(self, lease: Lease) -> Iterator[_Mending]:
        from vrfstore.runner.unpacked import UnpackedArchives  # noqa: PLC0415 - installer, zstandard

        with UnpackedArchives(self.store, lease, self.watch) as archives:
            yield _Mending(self.store, lease, self.sources, self.watch, archives)

    def _may_write(self) -> bool:
        # Root may write into everybody's store, and must not: what it makes is of no use to the owner.
        owner = os.stat(self.store.layout.marker).st_uid
        return os.access(self.store.layout.of("leases"), os.W_OK) and os.geteuid() == owner

    def _select(self, targets: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the directory names of the entries and environments that are meant."""
        if not targets:
            return self.store.entries(), self.store.environments()
        found = {self._find(target) for target in targets}
        self.gone = frozenset(name for part, name in found if part == "gone")
        return (
            sorted(name for part, name in found if part == "entries"),
            sorted(name for part, name in found if part == "environments"),
        )

    def _find(self, target: str) -> tuple[str, str]:
        try:
            return self.store.find(target)
        except UsageError:
            # An entry that is not there can still be meant: it is what its environments ask to be mended.
            wanted = os.path.basename(target.rstrip("/"))
            gone = [
                name for name in self._gone(self.store.environments()) if wanted and name.startswith(wanted)
            ]
            if len(gone) != 1:
                raise
            return "gone", gone[0]

    def _gone(self, environments: Sequence[str]) -> list[str]:
        """Return the entries that environments refer to and that are not there."""
        gone: set[str] = set()
        for record in _readable(self.store, environments):
            wheels = {wheel.directory for wheel in record.wheels}
            missing = {name for name in wheels if not os.path.lexists(self.store.layout.of("entries", name))}
            # An environment that is collected goes before its entries.
            if missing and os.path.lexists(self.store.layout.record(record.directory)):
                gone |= missing
        return sorted(gone)

    def _check_entries(self, entries: list[str], deadline: float | None) -> tuple[list[EntryReport], int]:
        """Look at entries in parallel; hashing and reading leave Python's lock to the others."""
        late: set[str] = set()

        def check(directory: str) -> EntryReport | None:
            def stopped() -> bool:
                if deadline is not None and time.monotonic() >= deadline:
                    late.add(directory)
                    return True
                return False

            if stopped():
                return None
            try:
                report = check_entry(self.store, directory, full=self.full, stopped=stopped)
            except FileNotFoundError:  # collected meanwhile
                return None
            self.watch(Event(kind="verified", subject=directory, size=report.read, total=len(entries)))
            return report

        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="verify") as pool:
            reports = [report for report in pool.map(check, entries) if report is not None]
        return reports, len(late)

    def _missing(self, environments: Sequence[str]) -> list[EntryReport]:
        """Return a report for each entry that an environment refers to and that is not there."""
        return [_gone_report(directory) for directory in sorted(self.gone.union(self._gone(environments)))]

    def _note(self, place: str, *problems: Problem, mended: bool = False, hint: str | None = None) -> None:
        self.findings += [
            Finding(place=place, problem=problem, mended=mended, hint=hint) for problem in problems
        ]

    def _entry(self, mending: _Mending | None, report: EntryReport) -> bool:
        """Mend a damaged entry, if that is wanted, and note what was wrong.

        Returns:
            Whether it tells what environments have to be, and they may be linked from it.
        """
        if not report.problems:
            return True
        place = f"entries/{report.directory}"
        if mending is None:
            advice = f"mend it with: vrfstore verify --repair {report.directory}"
            self._note(place, *report.problems, hint=advice)
            return _is_telling(report)
        try:
            hint = mending.mend(report)
        except OSError as error:
            if error.errno in _HOPELESS:
                raise
            hint = f"it could not be mended: {error}"
        self._note(place, *report.problems, mended=hint is None, hint=hint)
        return hint is None

    def _finish_pending(self, lease: Lease) -> None:
        for directory in repair.pending(self.store):
            # The hold needs no more of the digest than an entry's name has.
            with self.store.hold_entry(Digest(directory.partition("-")[0])):
                unfinished = repair.read(self.store, directory)
                if unfinished is not None:
                    _link_anew(self.store, lease, unfinished)

    def _environment(
        self, mending: _Mending | None, directory: str, damaged: Collection[str], looked: Collection[str]
    ) -> None:
        """Look at an environment, mend it if that is wanted, and note what was wrong."""
        place = f"environments/{directory}"
        try:
            record = self.store.record(directory)
        except FileNotFoundError:
            return
        except StoreDamagedError as error:
            problem = Problem(kind="record", path="vrfstore.json", message=error.message)
            hint = "link its requirements again, which makes a new environment, and remove this one"
            self._note(place, problem, hint=hint)
            return
        problems = check.check_environment(self.store, record, damaged=damaged)
        if not problems:
            return
        unsound = {*damaged, *self._unsound(record, looked)}
        problems = check.check_environment(self.store, record, damaged=unsound)
        left: Collection[Problem] = problems
        hint = f"mend it with: vrfstore verify --repair {directory}"
        if mending is not None:
            left = self._link_anew(mending.lease, record, unsound)
            hint = _advice(record, left, unsound)
        for problem in problems:
            mended = problem not in left
            self._note(place, problem, mended=mended, hint=None if mended else hint)

    def _unsound(self, record: EnvironmentRecord, looked: Collection[str]) -> Iterator[str]:
        """Yield the entries of an environment that nothing may be linked from, of those not yet looked at."""
        for wheel in record.wheels:
            if wheel.directory not in looked:
                with contextlib.suppress(FileNotFoundError):
                    if _is_telling(check_entry(self.store, wheel.directory, full=self.full)):
                        continue
                yield wheel.directory

    def _link_anew(
        self, lease: Lease, record: EnvironmentRecord, unsound: Collection[str]
    ) -> Collection[Problem]:
        """Mend the links of an environment; return what is still wrong."""
        trusted = unchanged(self.store.layout, record)
        try:
            check.relink(
                self.store,
                lease,
                record,
                trusted=trusted,
                wanted=lambda linked: linked.entry not in unsound,
            )
            record = self.store.record(record.directory)
        except FileNotFoundError:  # collected meanwhile
            return ()
        except (VrfstoreError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _HOPELESS:
                raise
        return check.check_environment(self.store, record, damaged=unsound)


def _is_telling(report: EntryReport) -> bool:
    return all(problem.kind in _HARMLESS for problem in report.problems)


def _gone_report(directory: str) -> EntryReport:
    problem = Problem(kind="missing", path="", message="the entry is gone, and environments link to it")
    return EntryReport(directory=directory, problems=(problem,))


def _advice(record: EnvironmentRecord, left: Collection[Problem], unsound: Collection[str]) -> str:
    real = str(record.interpreter.get("real"))
    if any(wheel.directory in unsound for wheel in record.wheels):
        return "mend its entries first"
    if check.leads_nowhere(real) and any(problem.kind == "dangling" for problem in left):
        return f"bring back {real}, or link its requirements again for another Python"
    return "link its requirements again, which makes a new environment"


def _readable(store: Store, environments: Sequence[str]) -> Iterator[EnvironmentRecord]:
    for directory in environments:
        with contextlib.suppress(StoreDamagedError, FileNotFoundError):
            yield store.record(directory)


def _link_anew(store: Store, lease: Lease, unfinished: repair.Pending) -> None:
    """Link those environments anew that share inodes with an entry that has been replaced."""
    whole = True
    for record in _readable(store, store.environments()):
        if all(wheel.directory != unfinished.directory for wheel in record.wheels):
            continue
        try:
            check.relink(
                store,
                lease,
                record,
                trusted=record.directory in unfinished.environments,
                wanted=lambda linked: linked.entry == unfinished.directory,
                replaced=unfinished.inodes,
            )
        except FileNotFoundError:
            # The environment is gone. An entry that is gone would be a StoreDamagedError.
            continue
        except VrfstoreError:
            whole = False  # another of its entries is damaged, and has its turn first
    if whole:
        repair.finish(store, unfinished.directory)


@dataclass(slots=True)
class _Mending:
    """Repairs of one run."""

    store: Store
    lease: Lease
    sources: tuple[str, ...]
    watch: Watcher
    archives: UnpackedArchives

    def mend(self, report: EntryReport) -> str | None:
        """Mend one entry; return what to do about it where that cannot be done."""
        reference = self._reference(report.directory)
        if reference is None:
            return (
                "nothing tells which wheel it was; give the wheel: "
                f"vrfstore verify --repair --from WHEEL {report.directory}"
            )
        with self.store.hold_entry(reference.digest):
            return self._mend_held(reference, report.directory)

    def _mend_held(self, reference: EntryReference, directory: str) -> str | None:
        repair.make_readable(self.store, directory)
        report = self._look(directory)
        if any(problem.kind == "bytecode" for problem in report.problems):
            self._remove_bytecode(report)
            report = self._look(directory)
        if repair.mend_in_place(self.store, self.lease, report):
            return None
        refused: list[str] = []
        for staging in self._staged(reference, directory, refused):
            unfinished = repair.Pending(
                directory=directory,
                environments=self._untouched(directory),
                inodes=repair.shared_inodes(self.store, directory),
            )
            repair.swap(self.store, self.lease, staging, unfinished)
            _link_anew(self.store, self.lease, unfinished)
            return None
        repair.mark(self.store, self.lease, report)
        tried = f" (tried: {'; '.join(refused)})" if refused else ""
        return (
            f"there is no source for it{tried}; give its wheel: "
            f"vrfstore verify --repair --from {reference.name}-{reference.version}-….whl {directory}"
        )

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
            referred = any(
                wheel.directory == directory
                for record in _readable(self.store, self.store.environments())
                for wheel in record.wheels
            )
            return _gone_report(directory) if referred else EntryReport(directory=directory, problems=())

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
            yield self.store.plan(directory).reference
        for record in _readable(self.store, self.store.environments()):
            yield from record.wheels
        for wheel in self._locked():
            yield EntryReference(
                digest=wheel.digest, name=wheel.name, version=wheel.version, directory=directory
            )
        from vrfstore.store.wheel import parse_filename  # noqa: PLC0415 - installer, packaging, zipfile

        for path in self._files():
            with contextlib.suppress(WheelError):
                name, version, _ = parse_filename(os.path.basename(path))
                digest = Digest(_digest(path))
                yield EntryReference(digest=digest, name=name, version=str(version), directory=directory)

    def _untouched(self, directory: str) -> tuple[str, ...]:
        """Return the environments that link to an entry and that nobody changed by hand."""
        return tuple(
            record.directory
            for record in _readable(self.store, self.store.environments())
            if any(wheel.directory == directory for wheel in record.wheels)
            and unchanged(self.store.layout, record)
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
        try:
            self.store.settle(staging)
        except BaseException:
            fs.remove_tree(staging)
            raise
        return staging

    def _wheels(
        self, reference: EntryReference, directory: str
    ) -> Iterator[tuple[str, str, Callable[[], Iterator[bytes]]]]:
        """Yield file name, origin and content of what may be the wheel of an entry."""
        filename, origin = self._noted(directory)
        for path in self._files():
            if _digest(path) == reference.digest:
                called = filename if _is_called(filename, reference) else os.path.basename(path)
                yield called, os.path.abspath(path), partial(_read, path)
        seen = {""}
        if os.path.isabs(origin):
            seen.add(origin)
            yield filename, origin, partial(_read, origin)
        for wheel in (*self._locked(), _wheel_at(origin, filename, reference)):
            if wheel.digest == reference.digest and wheel.url not in seen:
                seen.add(wheel.url)
                yield wheel.filename, wheel.url, partial(self._fetched, wheel)

    def _noted(self, directory: str) -> tuple[str, str]:
        """Return file name and origin of an entry's wheel, also from a manifest that is damaged.

        That does not matter here: the digest tells whether it is the wheel.
        """
        path = f"{self.store.layout.of('entries', directory)}/manifest.json"
        try:
            data = fs.read_file(path)
        except OSError:
            return "", ""
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
        try:
            yield from fetch.chunks(wheel, settings, self.watch)
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
        url=origin if "://" in origin else "",
    )


def _read(path: str) -> Iterator[bytes]:
    try:
        with _open(path) as stream:
            yield from iter(lambda: stream.read(_CHUNK), b"")
    except OSError as error:
        raise WheelError(
            f"the file cannot be read: {error.strerror}", kind="wheel-unreadable", path=path
        ) from error


def _open(path: str) -> BinaryIO:
    """Open a regular file; never waits, as for a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return open(descriptor, "rb")


@functools.cache
def _digest(path: str) -> str:
    """Return the SHA-256 of a file; nothing where it cannot be read."""
    sha256 = hashlib.sha256()
    with contextlib.suppress(WheelError):
        for chunk in _read(path):
            sha256.update(chunk)
        return sha256.hexdigest()
    return ""
