"""``export`` and ``import``: entries and environments from one store to another, in one file and without network.

::

    entries, environments ──lease──▶ archive ═══▶ entries ──link──▶ environments of an interpreter there
                              (store.archive_write)  (store.archive_entries)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Self, TypeVar
from urllib.parse import unquote, urlsplit

from vrfstore import fs
from vrfstore import interpreter as probing
from vrfstore.errors import RequirementsError, StoreDamagedError, UsageError, VrfstoreError, WheelError
from vrfstore.linker.link import environment_key
from vrfstore.linker.link import link as link_environment
from vrfstore.model import Digest, EntryPlan, EntryReference, Event, Interpreter, Lock, Watcher
from vrfstore.requirements import lock as locks
from vrfstore.store import condemned, interpreters, leases
from vrfstore.store.archive import ArchivedEnvironment, ArchivedLock, Target, lock_member
from vrfstore.store.archive_entries import ImportedEntry, import_entries
from vrfstore.store.archive_read import ArchiveLimits, ArchiveReader
from vrfstore.store.archive_write import Source, tree_source, wheel_source, write
from vrfstore.store.leases import Lease
from vrfstore.store.manifest import Manifest
from vrfstore.store.records import EnvironmentRecord, unchanged
from vrfstore.store.store import Store
from vrfstore.store.zip_structure import Limits

__all__ = [
    "ExportResult",
    "ImportResult",
    "ImportedEnvironment",
    "export_archive",
    "import_archive",
]

_CHUNK = 1 << 18

STANDARD = "-"
"""In place of a path: stdout or stdin."""

_T = TypeVar("_T")

_EXTRA = re.compile(r"\bextra\s*==")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """What ``export_archive`` wrote.

    Attributes:
        path: Where the archive is; ``-`` for stdout.
        sha256: Its SHA-256; whoever imports it with that takes it as it was written here.
        packed: Its bytes.
        unpacked: The bytes of what is in it.
        entries: The entries in it.
        environments: The directory names of the environments in it.
        warnings: What the caller should know.
    """

    path: str
    sha256: str
    packed: int
    unpacked: int
    entries: tuple[EntryReference, ...]
    environments: tuple[str, ...]
    warnings: tuple[str, ...]


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


def export_archive(
    targets: Sequence[str],
    output: str,
    *,
    store: Store,
    wheels: bool = False,
    wheel_directories: Sequence[str] = (),
    force: bool = False,
    threads: int | None = None,
) -> ExportResult:
    """Write entries and environments, with all that they refer to, into one file.

    Args:
        targets: Entries and environments: paths, directory names as ``vrfstore list`` shows them, or the beginning
            of one.
        output: The file, or ``-`` for stdout.
        store: Where they are.
        wheels: Put the wheels themselves in, which prove what they are, in place of what they unpack to.
        wheel_directories: Where wheels are that are not where they came from any more.
        force: Replace a file that is there.
        threads: How many cores pack; by default all that we may use. The bytes do not depend on it.

    Raises:
        UsageError: A target is nothing or several things, the file is there or cannot be written, or a wheel is not
            to be found.
        StoreDamagedError: Something is not what its manifest says.
        OSError: The disk is full.
    """
    named = [_find(store, target) for target in targets]
    with ExitStack() as stack:
        records = [
            _leased_environment(store, stack, directory)
            for part, directory in dict.fromkeys(named)
            if part == "environments"
        ]
        plans = [
            _leased_entry(store, stack, directory)
            for part, directory in dict.fromkeys(named)
            if part == "entries"
        ]
        references = {wheel.directory: wheel for record in records for wheel in record.wheels}
        references |= {plan.reference.directory: plan.reference for plan in plans}
        finder = _wheel_finder(wheel_directories) if wheels or wheel_directories else None
        sources = _sources(store, sorted(references), finder)
        texts = {record.lock: _lock_text(store, record) for record in records}
        environments = [
            ArchivedEnvironment(
                target=Target.of(record.interpreter),
                lock=record.lock,
                wheels=tuple(sorted({wheel.digest for wheel in record.wheels})),
            )
            for record in records
        ]
        warnings = list(_export_warnings(store, records, references, finder))
        with _Output(output, force=force) as sink:
            written = write(
                sources, environments, texts, sink, threads=threads or len(os.sched_getaffinity(0))
            )
    return ExportResult(
        path=output,
        sha256=written.sha256,
        packed=written.packed,
        unpacked=written.unpacked,
        entries=tuple(sorted(references.values(), key=lambda reference: reference.name)),
        environments=tuple(record.directory for record in records),
        warnings=tuple(warnings),
    )


def _find(store: Store, target: str) -> tuple[str, str]:
    """Return which part of the store a target is in, and its directory name."""
    wanted = os.path.basename(target.rstrip("/"))
    found = [
        (part, name)
        for part, names in (("environments", store.environments()), ("entries", store.entries()))
        for name in names
        if wanted and name.startswith(wanted)
    ]
    exact = [(part, name) for part, name in found if name == wanted]
    if len(exact or found) != 1:
        problem = (
            f"{target!r} may be any of {len(found)} things" if found else f"{target!r} is not in the store"
        )
        raise UsageError(problem, kind="target-unknown", hint="see: vrfstore list")
    return (exact or found)[0]


def _leased_environment(store: Store, stack: ExitStack, directory: str) -> EnvironmentRecord:
    """Return the record of an environment that stays, with all it refers to, until the stack is closed."""
    record = store.record(directory)
    digests = [wheel.digest for wheel in record.wheels]
    stack.enter_context(leases.take(store.layout, environment=record.key, digests=digests, lock=record.lock))
    # In this order: see store.condemned.
    condemned.wait_until_clear(store.layout, {f"environments/{directory}", f"locks/{record.lock}"})
    store.await_entries((wheel.digest, wheel.name, wheel.version) for wheel in record.wheels)
    return _still(directory, lambda: store.record(directory))


def _leased_entry(store: Store, stack: ExitStack, directory: str) -> EntryPlan:
    reference = store.plan(directory).reference
    stack.enter_context(leases.take(store.layout, digests=[reference.digest]))
    store.await_entries([(reference.digest, reference.name, reference.version)])
    return _still(directory, lambda: store.plan(directory))


def _still(directory: str, look: Callable[[], _T]) -> _T:
    try:
        return look()
    except FileNotFoundError:
        raise UsageError(
            f"{directory!r} has just been collected", kind="target-unknown", hint="see: vrfstore list"
        ) from None


def _sources(
    store: Store, directories: Iterable[str], finder: Callable[[Manifest], str] | None
) -> list[Source]:
    """Return where each entry of an archive comes from; the same wheel comes once."""
    sources: dict[Digest, Source] = {}
    for directory in directories:
        if finder is None:
            source = tree_source(store, directory)
        else:
            manifest = store.manifest(directory)
            source = wheel_source(store, manifest, finder(manifest))
        first = sources.setdefault(source.entry.digest, source)
        if first.entry != source.entry:
            raise UsageError(
                f"{first.directory} and {source.directory} are the same wheel with other files",
                kind="archive-conflict",
                hint="one of them came with an archive that nobody vouched for; export them separately",
            )
    return list(sources.values())


def _wheel_finder(directories: Sequence[str]) -> Callable[[Manifest], str]:
    """Return what finds the file of an entry's wheel, by its digest."""

    def find(manifest: Manifest) -> str:
        places = [os.path.join(directory, manifest.filename) for directory in directories]
        origin = manifest.origin
        places.append(unquote(urlsplit(origin).path) if origin.startswith("file:") else origin)
        for path in places:
            if _file_digest(path) == manifest.reference.digest:
                return path
        raise UsageError(
            f"the wheel {manifest.filename} is not to be found",
            kind="wheel-missing",
            path=manifest.origin or None,
            hint="give the directory where it is with --wheel-dir, or leave --wheels out",
        )

    return find


def _file_digest(path: str) -> str | None:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _lock_text(store: Store, record: EnvironmentRecord) -> bytes:
    """Return the text of an environment's lock.

    Raises:
        StoreDamagedError: It is gone, or not what it is called after.
    """
    path = locks.lock_path(store.layout, record.lock)
    with contextlib.suppress(OSError):
        text = fs.read_file(path)
        if hashlib.sha256(text).hexdigest() == record.lock:
            return text
    raise StoreDamagedError(
        f"the lock of the environment {record.directory} is gone or damaged",
        kind="lock-damaged",
        path=path,
        hint="link its requirements again with --refresh, or export its entries alone",
    )


def _export_warnings(
    store: Store,
    records: Iterable[EnvironmentRecord],
    references: Iterable[str],
    finder: Callable[[Manifest], str] | None,
) -> Iterator[str]:
    for record in records:
        if not unchanged(store.layout, record):
            yield (
                f"somebody has changed the environment {record.directory} by hand; "
                "the archive has the wheels that it was linked from"
            )
    for directory in sorted(references) if finder is None else ():
        if store.plan(directory).claimed:
            yield (
                f"{directory} came with an archive that nobody vouched for; "
                "whoever vouches for this archive vouches for that too"
            )


class _Output:
    """Takes the bytes of an archive; the file appears whole or not at all.

    Args:
        path: The file, or ``-`` for stdout.
        force: Replace a file that is there.
    """

    def __init__(self, path: str, *, force: bool) -> None:
        self._path = path
        self._force = force
        self._temporary = f"{os.path.abspath(path)}.{fs.unique_name()}.part"
        self._stack = ExitStack()
        self._file: fs.NewFile | None = None

    def __call__(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
        else:
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]

    def __enter__(self) -> Self:
        if self._path == STANDARD:
            return self
        self._check_free()
        try:
            self._file = self._stack.enter_context(fs.NewFile(self._temporary))
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                raise
            raise UsageError(
                f"{self._path} cannot be written: {error.strerror}", kind="output-unwritable", path=self._path
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._file is None:
            return
        try:
            if kind is None:
                self._file.sync()
                self._stack.close()
                self._check_free()
                fs.rename(self._temporary, os.path.abspath(self._path))
        finally:
            self._stack.close()
            fs.remove_file(self._temporary)

    def _check_free(self) -> None:
        if os.path.isdir(self._path) or (os.path.lexists(self._path) and not self._force):
            raise UsageError(
                f"{self._path} is there already",
                kind="output-exists",
                path=self._path,
                hint="choose another name, or replace it with --force",
            )


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
                    store, lease, reader, executable, wanted=link, trusted=trust or sha256 is not None
                ).run(allowed, watch or _nobody)


def _nobody(event: Event) -> None:
    del event


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    standard = source == STANDARD
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


@dataclass(slots=True)
class _Import:
    """One import, from the archive's contents on."""

    store: Store
    lease: Lease
    reader: ArchiveReader
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
        texts = {lock.digest: self._lock(lock) for lock in contents.locks}
        for environment in contents.environments:
            if {wheel.digest for wheel in texts[environment.lock].wheels} != set(environment.wheels):
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
            self._environment(environment, texts[environment.lock], plans, base)
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

    def _lock(self, lock: ArchivedLock) -> Lock:
        text = self.reader.lock(lock)
        try:
            found = locks.loads(text.decode(), self.reader.path)
            locks.dumps(found)
        except (VrfstoreError, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = error.message if isinstance(error, RequirementsError) else "it cannot be read"
            self.reader.refuse(reason, kind="archive-lock", member=lock_member(lock.digest))
        return found

    def _environment(
        self,
        environment: ArchivedEnvironment,
        lock: Lock,
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
        supported = _supported(base)
        unsupported = sorted(plan.reference.name for plan in mine if supported.isdisjoint(plan.tags))
        if unsupported:
            self.warnings.append(
                f"not linked: this machine cannot run {', '.join(unsupported)}; its C library may be too old"
            )
            return ImportedEnvironment(status="skipped", kind="wheel-unsupported")
        began = time.perf_counter()
        key = environment_key([plan.identity for plan in mine], base)
        digest = locks.lock_digest(locks.dumps(lock))
        layout = self.store.layout
        with leases.take(layout, environment=key, digests=environment.wheels, lock=digest) as working:
            locks.write(layout, working, lock)
            record, made = link_environment(self.store, working, mine, base, key=key, lock=digest)
        self.timings["link"] = self.timings.get("link", 0.0) + time.perf_counter() - began
        self.warnings += [
            f"{base.executable} does not have {missing}, which the environment needs from its base"
            for missing in _lacking(self.store, mine, base)
        ]
        path = layout.of("environments", record.directory)
        return ImportedEnvironment(
            status="linked" if made else "hit",
            python=f"{path}/bin/python",
            environment=path,
            lock=locks.lock_path(layout, record.lock),
        )


def _supported(base: Interpreter) -> frozenset[str]:
    """Return the tags of wheels that an interpreter of this machine can use (platform compatibility tags)."""
    from packaging import tags  # noqa: PLC0415 - only environments pay

    major, minor = (int(part) for part in base.short_version.split("."))
    interpreter = f"cp{major}{minor}"
    platforms = list(tags.platform_tags())
    free_threaded = "t" if "t" in base.abi_flags else ""
    native = tags.cpython_tags((major, minor), abis=[f"{interpreter}{free_threaded}"], platforms=platforms)
    pure = tags.compatible_tags((major, minor), interpreter=interpreter, platforms=platforms)
    return frozenset(map(str, (*native, *pure)))


def _lacking(store: Store, plans: Sequence[EntryPlan], base: Interpreter) -> list[str]:
    """Return what wheels of an environment require that neither it nor its base has: the first base may have had it."""
    from email.parser import HeaderParser  # noqa: PLC0415 - only environments pay

    from packaging.markers import default_environment  # noqa: PLC0415
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415
    from packaging.utils import canonicalize_name  # noqa: PLC0415

    variables = {str(name): str(value) for name, value in default_environment().items()} | {
        "extra": "",
        "implementation_version": base.version,
        "python_full_version": base.version,
        "python_version": base.short_version,
    }
    names = {plan.reference.name for plan in plans}
    there = dict(base.base)
    missing: set[str] = set()
    for plan in plans:
        path = store.layout.of("entries", plan.reference.directory)
        metadata = fs.read_file(f"{path}/site-packages/{plan.dist_info}/METADATA")
        for line in HeaderParser().parsestr(metadata.decode(errors="replace")).get_all("Requires-Dist", ()):
            with contextlib.suppress(InvalidRequirement):
                wanted = Requirement(str(line)) if not _EXTRA.search(str(line)) else None
                if wanted is None or canonicalize_name(wanted.name) in names:
                    continue
                version = there.get(canonicalize_name(wanted.name))
                satisfied = version is not None and wanted.specifier.contains(version, prereleases=True)
                if not satisfied and (wanted.marker is None or wanted.marker.evaluate(variables)):
                    missing.add(f"{wanted.name}{wanted.specifier}")
    return sorted(missing)
