"""``import``: from an archive to entries, and from those to environments of an interpreter here, without network.

::

    archive ──store.archive_read, archive_entries──▶ entries ──composites, linker.link──▶ environments
       ╰─ vouched for by its SHA-256: first copied into tmp/ and compared
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from vrfstore import fs
from vrfstore import interpreter as probing
from vrfstore.errors import RequirementsError, VrfstoreError, WheelError
from vrfstore.linker.compatibility import check_compatible
from vrfstore.linker.composing import composed
from vrfstore.linker.link import environment_key
from vrfstore.linker.link import link as link_environment
from vrfstore.model import Digest, EntryPlan, Event, Interpreter, Lock, Watcher, nobody
from vrfstore.needs import described, needs
from vrfstore.requirements import lock as locks
from vrfstore.store import interpreters, leases
from vrfstore.store.archive import lock_member
from vrfstore.store.archive_contents import ArchivedEnvironment, ArchivedLock, Target
from vrfstore.store.archive_entries import ImportedEntry, import_entries
from vrfstore.store.archive_read import ArchiveLimits, ArchiveReader
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.store.zip_structure import Limits
from vrfstore.target import marker_environment
from vrfstore.values import dataclass, field

__all__ = ["ImportResult", "ImportedEnvironment", "import_archive"]

_CHUNK = 1 << 18

_STANDARD = "-"
"""In place of a path: stdin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedEnvironment:
    """What became of an environment of an archive.

    Attributes:
        status: ``linked``, ``hit`` (it was there) or ``skipped``.
        python: The absolute path of its python; None where it was skipped, as the next two.
        environment: The absolute path of the environment.
        lock: The absolute path of its ``pylock.toml``.
        kind: Why it was skipped: ``not-wanted``, ``interpreter-mismatch`` or ``wheel-unsupported``; else None.
    """

    status: str
    python: str | None = None
    environment: str | None = None
    lock: str | None = None
    kind: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportResult:
    """What ``import_archive`` found and made.

    Attributes:
        sha256: The SHA-256 of the archive.
        packed: Its bytes.
        entries: All entries of the archive.
        environments: What became of its environments, in its order.
        warnings: What the caller should know.
        timings: Seconds by step: ``unpack``, ``link``, ``total``.
    """

    sha256: str
    packed: int
    entries: tuple[ImportedEntry, ...]
    environments: tuple[ImportedEnvironment, ...]
    warnings: tuple[str, ...]
    timings: dict[str, float]


def import_archive(
    source: str,
    *,
    store: Store,
    python: str | None = None,
    sha256: Digest | None = None,
    trust: bool = False,
    link: bool = True,
    limits: ArchiveLimits | None = None,
    watch: Watcher | None = None,
) -> ImportResult:
    """Bring the entries of an archive into a store, and link its environments there.

    What comes without its wheel is a claim that serves the environments of this archive only, unless somebody vouches
    for the archive with ``sha256`` or ``trust``. Each entry is imported whole or not at all; those that are there
    already are read past, so that running it again goes on where it ended.

    Args:
        source: The archive, or ``-`` for stdin.
        store: Where to.
        python: The interpreter to link for, as ``runner.link.link`` takes it.
        sha256: What the archive's SHA-256 has to be, from somebody who is trusted. Compared before anything is read.
        trust: Take the archive as it is.
        link: Link its environments.
        limits: What is too much; by default what ``ArchiveLimits`` says.
        watch: Is told what long steps do.

    Raises:
        WheelError: The archive, or an entry of it, was refused. Entries before it stay.
        InterpreterError: ``python`` is missing or unsuitable.
        CollisionError: Two wheels of an environment have different files at one place.
        OSError: The disk is full, or worse.
    """
    executable = probing.find(python)
    allowed = limits or ArchiveLimits()
    with store.session() as session, _opened(source) as stream:
        if sha256 is None:
            reading: contextlib.AbstractContextManager[BinaryIO] = contextlib.nullcontext(stream)
        else:
            reading = _spooled(store, session, stream, source, sha256, allowed)
        with reading as checked:
            reader = ArchiveReader(checked, source, allowed)
            digests = [entry.digest for entry in reader.contents.entries]
            with leases.take(store.layout, digests=digests) as lease:
                return _Import(
                    store,
                    lease,
                    reader,
                    python or "",
                    executable,
                    wanted=link,
                    trusted=trust or sha256 is not None,
                ).run(allowed, watch or nobody)


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    standard = source == _STANDARD
    try:
        # Only opening is translated, not what is done meanwhile.
        stream = open(0 if standard else source, "rb", closefd=not standard)  # noqa: SIM115
    except OSError as error:
        raise WheelError(
            f"the file cannot be read: {error.strerror}", kind="archive-unreadable", path=source
        ) from error
    with stream:
        yield stream


@contextmanager
def _spooled(
    store: Store, lease: Lease, stream: BinaryIO, source: str, sha256: Digest, limits: ArchiveLimits
) -> Iterator[BinaryIO]:
    """Give a private copy of an archive that has been found to have this SHA-256, so that it cannot change after."""
    temporary, found = store.receive(lease, _bounded(stream, source, limits))
    try:
        if found != sha256:
            raise WheelError(
                f"the archive has SHA-256 {found}, expected was {sha256}",
                kind="hash-mismatch",
                path=source,
                hint="do not use it: it is damaged, or not the one that was meant",
            )
        with open(temporary, "rb") as private:
            yield private
    finally:
        fs.remove_file(temporary)


def _bounded(stream: BinaryIO, source: str, limits: ArchiveLimits) -> Iterator[bytes]:
    left = limits.packed
    while True:
        try:
            data = stream.read(_CHUNK)
        except OSError as error:
            raise WheelError(
                f"the file cannot be read: {error.strerror}", kind="archive-unreadable", path=source
            ) from error
        if not data:
            return
        left -= len(data)
        if left < 0:
            raise WheelError(f"it has more than {limits.packed} bytes", kind="archive-limit", path=source)
        yield data


@dataclass(frozen=True, slots=True)
class _Lock:
    """A lock, and the digest that it has as we write it; another version may have written another text."""

    lock: Lock
    digest: str


@dataclass(slots=True)
class _Import:
    """One import, from the archive's contents on."""

    store: Store
    lease: Lease
    reader: ArchiveReader
    python: str
    executable: str
    wanted: bool
    trusted: bool
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    def run(self, limits: ArchiveLimits, watch: Watcher) -> ImportResult:
        began = time.perf_counter()
        contents = self.reader.contents
        # Before anything is made, which may take long: a base that does not start, and a lock that is none.
        base = None
        if contents.environments and self.wanted:
            base, _ = interpreters.known(self.store.layout, self.lease, self.executable)
        kept = {lock.digest: self._lock(lock) for lock in contents.locks}
        for environment in contents.environments:
            if {wheel.digest for wheel in kept[environment.lock].lock.wheels} != set(environment.wheels):
                self.reader.refuse(
                    "it is not the lock of its environment",
                    kind="archive-lock",
                    member=lock_member(environment.lock),
                )
        self.store.await_entries((entry.digest, entry.name, entry.version) for entry in contents.entries)
        entries = import_entries(
            self.store,
            self.lease,
            self.reader,
            trusted=self.trusted,
            limits=Limits(
                unpacked=limits.unpacked, files=limits.files, ratio=limits.ratio, depth=limits.depth
            ),
            watch=watch,
        )
        self.reader.end()
        self.timings["unpack"] = time.perf_counter() - began
        for entry in entries:
            name = f"{entry.plan.reference.name} {entry.plan.reference.version}"
            self.warnings += [f"{name}: {warning}" for warning in entry.warnings]
        watch(Event(kind="linking", total=len(entries)))
        plans = {entry.plan.reference.digest: entry.plan for entry in entries}
        environments = [
            self._environment(environment, kept[environment.lock], plans, base)
            for environment in contents.environments
        ]
        self.timings["total"] = time.perf_counter() - began
        return ImportResult(
            sha256=self.reader.sha256,
            packed=self.reader.packed,
            entries=tuple(entries),
            environments=tuple(environments),
            warnings=tuple(dict.fromkeys(self.warnings)),
            timings=self.timings,
        )

    def _lock(self, lock: ArchivedLock) -> _Lock:
        text = self.reader.lock(lock)
        try:
            found = locks.loads(text.decode(), self.reader.path)
            digest = locks.lock_digest(locks.dumps(found))
        except (VrfstoreError, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = error.message if isinstance(error, RequirementsError) else "it cannot be read"
            self.reader.refuse(reason, kind="archive-lock", member=lock_member(lock.digest))
        return _Lock(found, digest)

    def _environment(
        self,
        environment: ArchivedEnvironment,
        kept: _Lock,
        plans: dict[Digest, EntryPlan],
        base: Interpreter | None,
    ) -> ImportedEnvironment:
        if base is None:
            return ImportedEnvironment(status="skipped", kind="not-wanted")
        mine = [plans[digest] for digest in environment.wheels]
        found = Target.of(base.identity)
        if found != environment.target:
            self.warnings.append(
                f"not linked: the environment is for {environment.target}, and {base.executable} is {found}; "
                f"give another interpreter with --python, such as --python {environment.target.python}"
            )
            return ImportedEnvironment(status="skipped", kind="interpreter-mismatch")
        try:
            check_compatible(mine, base)
        except WheelError as error:
            self.warnings.append(f"not linked: {error.message}")
            return ImportedEnvironment(status="skipped", kind="wheel-unsupported")
        began = time.perf_counter()
        options = environment.options
        key = environment_key([plan.identity for plan in mine], base, options)
        layout = self.store.layout
        with (
            leases.take(layout, environment=key, digests=environment.wheels, lock=kept.digest) as working,
            composed(self.store, mine, options) as merged,
        ):
            locks.write(layout, working, kept.lock)
            record, made = link_environment(
                self.store, working, mine, base, key=key, lock=kept.digest, merged=merged, asked=self.python
            )
        self.timings["link"] = self.timings.get("link", 0.0) + time.perf_counter() - began
        self.warnings += [
            f"{base.executable} does not have {missing}, which the environment needs from its base"
            for missing in _lacking(self.store, mine, base, isolated=options.isolated)
        ]
        path = layout.of("environments", record.directory)
        return ImportedEnvironment(
            status="linked" if made else "hit",
            python=f"{path}/bin/python",
            environment=path,
            lock=layout.lock(record.lock),
        )


def _lacking(store: Store, plans: Sequence[EntryPlan], base: Interpreter, *, isolated: bool) -> list[str]:
    """Return what wheels of an environment require that neither it nor its base has: the first base may have had it."""
    variables = marker_environment(base)
    names = {plan.reference.name for plan in plans}
    there = {} if isolated else dict(base.base)
    missing: set[str] = set()
    for plan in plans:
        path = store.layout.of("entries", plan.reference.directory)
        metadata = fs.read_file(f"{path}/site-packages/{plan.dist_info}/METADATA")
        for need in needs(described(metadata, plan.reference.name), variables):
            if need.name not in names and need.complaint(there.get(need.name)) is not None:
                missing.add(f"{need.written}{need.specifier}")
    return sorted(missing)
