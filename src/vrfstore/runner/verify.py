"""Verifying a store, and repairing what is damaged from where it came.

::

    entries ──look, compare──▶ problems ──▶ wheel: given, origin, lock's source ──▶ staged ──exchange──▶ sound entry
    environments ──compare──▶ problems ──▶ links made anew
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from vrfstore import fs
from vrfstore.errors import StoreDamagedError, VrfstoreError
from vrfstore.linker import check
from vrfstore.model import Digest, EntryReference, Event, LockedWheel, Watcher
from vrfstore.requirements import lock as locks
from vrfstore.store import leases, repair
from vrfstore.store.compiling import remove_record
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord, unchanged
from vrfstore.store.store import Store
from vrfstore.store.verify import EntryReport, Problem, check_entry

__all__ = ["Finding", "VerifyReport", "verify"]

_CHUNK = 1 << 18
_DIGITS = 20
"""Of a digest, at the beginning of an entry's name."""


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
        sources: Wheels, and directories of wheels, from which to repair.
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
                if self.mend:
                    self._finish_pending(lease)
            reports, unread = self._check_entries(entries, deadline)
            records = self._records(environments)
            missing = self._missing(records)
            for report in (*(report for report in reports if report.problems), *missing):
                self._entry(lease, report)
            self._environments(lease, records)
        return VerifyReport(
            entries=len(reports),
            unread=total - len(entries) + unread,
            environments=len(environments),
            read=sum(report.read for report in reports),
            seconds=time.monotonic() - began,
            findings=tuple(self.findings),
            written={report.directory: report.written for report in reports if report.written},
        )

    def _may_write(self) -> bool:
        # Root may write into everybody's store, and must not: what it makes is of no use to the owner.
        owner = os.stat(self.store.layout.marker).st_uid
        return os.access(self.store.layout.of("leases"), os.W_OK) and os.geteuid() == owner

    def _select(self, targets: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the directory names of the entries and environments that are meant."""
        if not targets:
            return self.store.entries(), self.store.environments()
        found = [self.store.find(target) for target in targets]
        return (
            [name for part, name in found if part == "entries"],
            [name for part, name in found if part == "environments"],
        )

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

    def _records(self, environments: list[str]) -> list[EnvironmentRecord]:
        records = []
        for directory in environments:
            try:
                records.append(self.store.record(directory))
            except FileNotFoundError:
                continue
            except StoreDamagedError as error:
                self._note(
                    f"environments/{directory}",
                    Problem(kind="record", path="vrfstore.json", message=error.message),
                    hint="link its file again, which makes a new environment, and remove this one",
                )
        return records

    def _missing(self, records: list[EnvironmentRecord]) -> list[EntryReport]:
        """Return a report for each entry that an environment refers to and that is not there."""
        gone = {
            wheel.directory
            for record in records
            for wheel in record.wheels
            if not os.path.lexists(self.store.layout.of("entries", wheel.directory))
        }
        problem = Problem(kind="missing", path="", message="the entry is gone, and environments link to it")
        return [EntryReport(directory=directory, problems=(problem,)) for directory in sorted(gone)]

    def _note(self, place: str, *problems: Problem, mended: bool = False, hint: str | None = None) -> None:
        self.findings += [
            Finding(place=place, problem=problem, mended=mended, hint=hint) for problem in problems
        ]

    def _entry(self, lease: Lease | None, report: EntryReport) -> None:
        """Mend a damaged entry, if that is wanted, and note what was wrong."""
        place = f"entries/{report.directory}"
        if not self.mend or lease is None:
            advice = f"mend it with: vrfstore verify --repair {report.directory}"
            self._note(place, *report.problems, hint=advice)
            return
        hint = _Mending(self.store, lease, self.sources, self.watch).mend(report)
        self._note(place, *report.problems, mended=hint is None, hint=hint)

    def _finish_pending(self, lease: Lease) -> None:
        for unfinished in repair.pending(self.store):
            _link_anew(self.store, lease, unfinished)

    def _environments(self, lease: Lease | None, records: list[EnvironmentRecord]) -> None:
        for record in records:
            problems = check.check_environment(self.store, record)
            if not problems:
                continue
            mended: Sequence[str] = ()
            if self.mend and lease is not None:
                trusted = unchanged(self.store.layout, record)
                with contextlib.suppress(VrfstoreError):
                    mended = check.relink(self.store, lease, record, trusted=trusted)
            hint = None if self.mend else f"mend it with: vrfstore verify --repair {record.directory}"
            for problem in problems:
                right = problem.path in mended
                self._note(f"environments/{record.directory}", problem, mended=right, hint=hint)


def _link_anew(store: Store, lease: Lease, unfinished: repair.Pending) -> None:
    """Link those environments anew that share inodes with an entry that has been replaced."""
    for directory in unfinished.environments:
        # One that is gone, or whose other entries are damaged: that is found by itself.
        with contextlib.suppress(FileNotFoundError, StoreDamagedError):
            check.relink(store, lease, store.record(directory), trusted=True)
    repair.finish(store, unfinished)


@dataclass(slots=True)
class _Mending:
    """Repairs of one run."""

    store: Store
    lease: Lease
    sources: tuple[str, ...]
    watch: Watcher

    def mend(self, report: EntryReport) -> str | None:
        """Mend one entry; return what to do about it where that cannot be done."""
        kinds = {problem.kind for problem in report.problems}
        if kinds == {"bytecode"}:
            for tag in self._tags(report):
                remove_record(self.store, report.directory, tag)
            return self._remaining(report)
        reference = self._reference(report.directory)
        if reference is None:
            return (
                "nothing tells which wheel it was; remove it with: "
                f"chmod -R u+w {self.store.layout.of('entries', report.directory)} && rm -r it"
            )
        with self.store.hold_entry(reference.digest):
            return self._mend_held(reference, report.directory)

    def _mend_held(self, reference: EntryReference, directory: str) -> str | None:
        try:
            report = check_entry(self.store, directory, full=True)
        except FileNotFoundError:
            problem = Problem(kind="missing", path="", message="the entry is gone")
            report = EntryReport(directory=directory, problems=(problem,))
        if not report.problems or repair.mend_in_place(self.store, report):
            return None
        refused: list[str] = []
        for filename, origin, chunks in self._wheels(reference, directory):
            try:
                staging = self._stage(reference, filename, origin, chunks)
            except (VrfstoreError, OSError) as error:
                refused.append(f"{origin}: {error}")
                continue
            if staging is None:
                refused.append(f"{origin} is another file now")
                continue
            unfinished = repair.Pending(directory=directory, environments=self._sharing(directory))
            repair.swap(self.store, self.lease, staging, unfinished)
            _link_anew(self.store, self.lease, unfinished)
            return None
        repair.mark(self.store, self.lease, report)
        tried = f" (tried: {'; '.join(refused)})" if refused else ""
        return (
            f"there is no source for it{tried}; give its wheel: "
            f"vrfstore verify --repair --from {reference.name}-{reference.version}-….whl {directory}"
        )

    def _remaining(self, report: EntryReport) -> str | None:
        found = check_entry(self.store, report.directory, full=False).problems
        return None if not found else "try again"

    def _tags(self, report: EntryReport) -> set[str]:
        """Return the cache tags of the bytecode that is wrong; all that there are, where a record is."""
        tags = {problem.path.removesuffix(".pyc").rpartition(".")[2] for problem in report.problems}
        if any("." not in problem.path.rpartition("/")[2] for problem in report.problems):
            folder = f"{self.store.layout.of('entries', report.directory)}/bytecode"
            tags |= {name.rpartition("-")[0] for name in os.listdir(folder)}
        return {tag for tag in tags if tag and "/" not in tag}

    def _reference(self, directory: str) -> EntryReference | None:
        """Find out which wheel an entry is, from the entry, from environments, or from locks."""
        with contextlib.suppress(StoreDamagedError):
            return self.store.manifest(directory).reference
        with contextlib.suppress(StoreDamagedError, FileNotFoundError):
            return self.store.plan(directory).reference
        for environment in self.store.environments():
            with contextlib.suppress(StoreDamagedError, FileNotFoundError):
                for linked in self.store.record(environment).wheels:
                    if linked.directory == directory:
                        return linked
        for wheel in self._locked():
            if directory.startswith(wheel.digest[:_DIGITS]):
                return EntryReference(
                    digest=wheel.digest, name=wheel.name, version=wheel.version, directory=directory
                )
        return None

    def _sharing(self, directory: str) -> tuple[str, ...]:
        """Return the environments that link to an entry and that nobody changed by hand."""
        found = []
        for environment in self.store.environments():
            with contextlib.suppress(StoreDamagedError, FileNotFoundError):
                record = self.store.record(environment)
                links = any(wheel.directory == directory for wheel in record.wheels)
                if links and unchanged(self.store.layout, record):
                    found.append(environment)
        return tuple(found)

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
        for path in self._given(reference):
            yield os.path.basename(path), os.path.abspath(path), partial(_read, path)
        with contextlib.suppress(StoreDamagedError):
            manifest = self.store.manifest(directory)
            if manifest.origin.startswith("/") and os.path.isfile(manifest.origin):
                yield manifest.filename, manifest.origin, partial(_read, manifest.origin)
        for wheel in self._locked():
            if wheel.digest == reference.digest:
                yield wheel.filename, wheel.url, partial(self._fetched, wheel)

    def _given(self, reference: EntryReference) -> Iterator[str]:
        for source in self.sources:
            if not os.path.isdir(source):
                yield source
                continue
            for name in sorted(os.listdir(source)):
                # Named like it; whether it is the one, its digest tells.
                path = os.path.join(source, name)
                named = name.lower().replace("_", "-").startswith(f"{reference.name}-")
                if named and name.endswith(".whl") and _digest(path) == reference.digest:
                    yield path

    def _locked(self) -> Iterator[LockedWheel]:
        """Yield the wheels of all locks of the store."""
        for name in sorted(os.listdir(self.store.layout.of("locks"))):
            lock = locks.read(self.store.layout, name.removesuffix(".toml"))
            yield from lock.wheels if lock is not None else ()

    def _fetched(self, wheel: LockedWheel) -> Iterator[bytes]:
        from vrfstore import interpreter  # noqa: PLC0415 - for what has to be fetched only
        from vrfstore.requirements import fetch, pip  # noqa: PLC0415

        settings = pip.settings(self.store, interpreter.probe(interpreter.default_executable()))
        yield from fetch.chunks(wheel, settings, self.watch)


def _read(path: str) -> Iterator[bytes]:
    with open(path, "rb") as stream:
        yield from iter(lambda: stream.read(_CHUNK), b"")


def _digest(path: str) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
    return ""
