"""Verifying a store, and repairing what is damaged from where it came.

::

    entries ──look, compare──▶ problems ──▶ wheel: given, origin, lock's source ──▶ staged ──exchange──▶ sound entry
                                    ╰─▶ of a composite: its members ──────────────╯
    environments ──compare──▶ problems ──▶ links made anew
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from vrfstore.errors import StoreDamagedError, UsageError, VrfstoreError
from vrfstore.linker import check
from vrfstore.model import Digest, Event, Watcher, nobody
from vrfstore.runner.mending import Mending, gone_report, readable, relink
from vrfstore.store import leases, repair
from vrfstore.store.composites import is_called_so
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store
from vrfstore.store.verify import EntryReport, Problem, check_entry
from vrfstore.threads import outcomes
from vrfstore.values import dataclass, field

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
    return _Verification(store, full, mend, tuple(sources), watch or nobody).run(targets, sample, max_seconds)


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
    telling: dict[str, bool] = field(default_factory=dict)

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
                # Looking needs no room on the disk; at worst an entry is collected while it is looked at.
                with contextlib.nullcontext() if self.mend else contextlib.suppress(OSError):
                    lease = stack.enter_context(leases.take(self.store.layout, digests=digests))
            mending = stack.enter_context(self._mending(lease)) if self.mend and lease is not None else None
            if mending is not None:
                self._finish_pending(mending)
            reports, unread = self._check_entries(entries, deadline)
            missing = self._missing(environments)
            # Composites last: mending what they are made of mends them too.
            ordered = sorted((*reports, *missing), key=lambda report: is_called_so(report.directory))
            damaged = {report.directory for report in ordered if not self._entry(mending, report)}
            if mending is not None:
                self._finish_pending(mending)
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
    def _mending(self, lease: Lease) -> Iterator[Mending]:
        from vrfstore.runner.unpacked import UnpackedArchives  # noqa: PLC0415 - installer, zstandard

        with UnpackedArchives(self.store, lease, self.watch) as archives:
            yield Mending(self.store, lease, self.sources, self.watch, archives)

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
        for record in readable(self.store, environments):
            missing = {
                name for name in record.entries if not os.path.lexists(self.store.layout.of("entries", name))
            }
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
            reports = [report for report in outcomes(pool, check, entries) if report is not None]
        return reports, len(late)

    def _missing(self, environments: Sequence[str]) -> list[EntryReport]:
        """Return a report for each entry that an environment refers to and that is not there."""
        return [gone_report(directory) for directory in sorted(self.gone.union(self._gone(environments)))]

    def _note(self, place: str, *problems: Problem, mended: bool = False, hint: str | None = None) -> None:
        self.findings += [
            Finding(place=place, problem=problem, mended=mended, hint=hint) for problem in problems
        ]

    def _entry(self, mending: Mending | None, report: EntryReport) -> bool:
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

    def _finish_pending(self, mending: Mending) -> None:
        for directory in repair.pending(self.store):
            mending.finish(directory)

    def _environment(
        self, mending: Mending | None, directory: str, damaged: Collection[str], looked: Collection[str]
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
        for directory in record.entries.difference(looked):
            if directory not in self.telling:
                self.telling[directory] = self._tells(directory)
            if not self.telling[directory]:
                yield directory

    def _tells(self, directory: str) -> bool:
        # What was not meant to be read, or not in time, is only looked at.
        with contextlib.suppress(FileNotFoundError):
            return _is_telling(check_entry(self.store, directory, full=False))
        return False

    def _link_anew(
        self, lease: Lease, record: EnvironmentRecord, unsound: Collection[str]
    ) -> Collection[Problem]:
        """Mend the links of an environment; return what is still wrong."""
        try:
            relink(self.store, lease, record, wanted=lambda linked: linked.entry not in unsound)
            record = self.store.record(record.directory)
        except FileNotFoundError:  # collected meanwhile
            return ()
        except (VrfstoreError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _HOPELESS:
                raise
        return check.check_environment(self.store, record, damaged=unsound)


def _is_telling(report: EntryReport) -> bool:
    return all(problem.kind in _HARMLESS for problem in report.problems)


def _advice(record: EnvironmentRecord, left: Collection[Problem], unsound: Collection[str]) -> str:
    real = str(record.interpreter.get("real"))
    if not record.entries.isdisjoint(unsound):
        return "mend its entries first"
    if check.leads_nowhere(real) and any(problem.kind == "dangling" for problem in left):
        return f"bring back {real}, or link its requirements again for another Python"
    return "link its requirements again, which makes a new environment"
