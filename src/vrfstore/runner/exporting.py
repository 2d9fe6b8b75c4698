"""``export``: entries and environments, with all that they refer to, into one file.

::

    names ──lease──▶ records, manifests, locks ──store.archive_write──▶ FILE.<random>.part ──rename──▶ FILE
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit

from vrfstore import fs
from vrfstore import interpreter as probing
from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.model import Digest, EntryPlan, EntryReference, Event, LockedWheel, Watcher, nobody
from vrfstore.store import condemned, interpreters, leases
from vrfstore.store.archive_contents import ArchivedEnvironment, FormatError, Target
from vrfstore.store.archive_write import Source, tree_source, wheel_source, write
from vrfstore.store.manifest import Manifest
from vrfstore.store.records import EnvironmentRecord, unchanged
from vrfstore.store.store import Store
from vrfstore.values import dataclass, field

__all__ = ["ExportResult", "export_archive"]

_STANDARD = "-"
"""In place of a path: stdout."""

_T = TypeVar("_T")


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


def export_archive(
    targets: Sequence[str],
    output: str,
    *,
    store: Store,
    wheels: bool = False,
    wheel_directories: Sequence[str] = (),
    force: bool = False,
    threads: int | None = None,
    watch: Watcher | None = None,
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
        watch: Is told which wheels are ``fetched``.

    Raises:
        UsageError: A target is nothing or several things, the file is there or cannot be written, or a wheel is not
            to be found.
        PackageIndexError: A wheel could not be fetched again.
        StoreDamagedError: Something is not what its manifest says.
        OSError: The disk is full.
    """
    named = [store.find(target) for target in targets]
    with ExitStack() as stack:
        records = [
            _leased_environment(store, stack, directory)
            for part, directory in dict.fromkeys(named)
            if part == "environments"
        ]
        plans = [
            plan
            for part, directory in dict.fromkeys(named)
            if part == "entries"
            for plan in _leased_entries(store, stack, directory)
        ]
        references = {wheel.directory: wheel for record in records for wheel in record.wheels}
        references |= {plan.reference.directory: plan.reference for plan in plans}
        finder = None
        if wheels or wheel_directories:
            finder = stack.enter_context(_Wheels(store, wheel_directories, watch or nobody)).find
        sources = _sources(store, sorted(references), finder)
        texts = {record.lock: _lock_text(store, record) for record in records}
        environments = [_archived(record) for record in records]
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
    reference = _still(directory, lambda: store.plan(directory)).reference
    stack.enter_context(leases.take(store.layout, digests=[reference.digest]))
    condemned.wait_until_clear(store.layout, {f"entries/{directory}"})
    return _still(directory, lambda: store.plan(directory))


def _leased_entries(store: Store, stack: ExitStack, directory: str) -> list[EntryPlan]:
    """Return the plan of an entry that stays until the stack is closed; of a composite, those of its members."""
    plan = _leased_entry(store, stack, directory)
    # Whoever imports them makes the composite anew.
    return [_leased_entry(store, stack, member) for member in plan.members] or [plan]


def _archived(record: EnvironmentRecord) -> ArchivedEnvironment:
    """Return an environment as an archive has it.

    Raises:
        UsageError: It was linked with options that no archive may have.
    """
    environment = ArchivedEnvironment(
        target=Target.of(record.interpreter),
        lock=record.lock,
        wheels=tuple(sorted({wheel.digest for wheel in record.wheels})),
        options=record.options,
    )
    try:
        environment.check_options(frozenset(wheel.name for wheel in record.wheels))
    except FormatError as error:
        raise UsageError(
            f"the environment {record.directory} cannot be exported: {error.message}",
            kind="archive-options",
            hint="link it with other options, or export its entries alone",
        ) from error
    return environment


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


@dataclass(slots=True)
class _Wheels:
    """Finds the files of wheels: in directories, where they came from, or, fetched again, in tmp/.

    Use it in a ``with`` statement, at whose end what was fetched goes.
    """

    store: Store
    directories: Sequence[str]
    watch: Watcher
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.close()

    def find(self, manifest: Manifest) -> str:
        """Return the path of the wheel of an entry.

        Raises:
            UsageError: It is nowhere.
            PackageIndexError: It could not be fetched from where it came from.
        """
        origin = manifest.origin
        scheme = urlsplit(origin).scheme
        places = [os.path.join(directory, manifest.filename) for directory in self.directories]
        if scheme not in {"http", "https"}:
            places.append(unquote(urlsplit(origin).path) if scheme == "file" else origin)
        for path in places:
            if _file_digest(path) == manifest.reference.digest:
                return path
        found = self._fetch(manifest) if scheme in {"http", "https"} else None
        if found is None:
            raise UsageError(
                f"the wheel {manifest.filename} is not to be found",
                kind="wheel-missing",
                path=origin or None,
                hint="give the directory where it is with --wheel-dir, or leave --wheels out",
            )
        return found

    def _fetch(self, manifest: Manifest) -> str | None:
        """Return the path of the wheel, fetched; None where something else is there now."""
        from vrfstore.requirements import fetch, pip  # noqa: PLC0415 - only who wants wheels pays

        lease = self.stack.enter_context(self.store.session())
        reference = manifest.reference
        wheel = LockedWheel(
            name=reference.name,
            version=reference.version,
            filename=manifest.filename,
            digest=reference.digest,
            url=manifest.origin,
        )
        base, _ = interpreters.known(self.store.layout, lease, probing.find(None))
        settings = pip.settings(self.store, base)
        path, digest = self.store.receive(lease, fetch.chunks(wheel, settings, self.watch))
        self.stack.callback(fs.remove_file, path)
        self.watch(Event(kind="fetched", subject=manifest.filename, size=os.path.getsize(path)))
        return path if digest == reference.digest else None


def _file_digest(path: str) -> str | None:
    try:
        with fs.open_regular(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _lock_text(store: Store, record: EnvironmentRecord) -> bytes:
    """Return the text of an environment's lock.

    Raises:
        StoreDamagedError: It is gone, or not what it is called after.
    """
    path = store.layout.lock(record.lock)
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
        if not self._path:
            raise UsageError("the name of the archive is empty", kind="output-unwritable")
        if self._path == _STANDARD:
            if sys.stdout is None:  # closed: by now that descriptor may be one of our own files
                raise OSError(errno.EBADF, os.strerror(errno.EBADF), "stdout")
            return self
        self._check_free()
        try:
            self._file = self._stack.enter_context(fs.NewFile(self._temporary, mode=_usual_mode()))
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
                if self._force:
                    fs.rename(self._temporary, os.path.abspath(self._path))
                else:
                    self._publish()
        finally:
            self._stack.close()
            fs.remove_file(self._temporary)

    def _publish(self) -> None:
        # Not a rename, which would replace what has come there since we looked.
        try:
            fs.link_new(self._temporary, self._path)
        except FileExistsError:
            self._check_free()
            raise
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP}:  # no hard links there
                raise
            fs.rename(self._temporary, os.path.abspath(self._path))

    def _check_free(self) -> None:
        if os.path.lexists(self._path) and not os.path.isfile(self._path):
            raise UsageError(f"{self._path} is no regular file", kind="output-exists", path=self._path)
        if os.path.lexists(self._path) and not self._force:
            raise UsageError(
                f"{self._path} is there already",
                kind="output-exists",
                path=self._path,
                hint="choose another name, or replace it with --force",
            )


def _usual_mode() -> int:
    """Return the mode that a new file of this user has (umask(2))."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
