"""From an archive to entries: each whole or not at all, and nothing that is there already is written.

::

    ArchiveReader ──▶ EntryWriter, as of a wheel ──▶ staged entry ──▶ published, in threads that share their syncs
                  ╰─▶ the wheel itself in tmp/ ──▶ unpacked and published as by add

A digest names a wheel, and a tree without its wheel proves nothing: any archive could say that its files are those of
numpy. So what comes without its wheel becomes a *claimed* entry, which serves nobody but the environments of archives
with the very same files; unless somebody vouches for the archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, cast

from installer.utils import Scheme, parse_metadata_file
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from vrfstore import fs
from vrfstore.errors import WheelError
from vrfstore.model import EntryPlan, EntryReference, Event, Watcher
from vrfstore.store import archive, modules
from vrfstore.store.archive_contents import ArchivedEntry
from vrfstore.store.archive_read import ArchiveReader, Member
from vrfstore.store.entry_plan import DATA, HEADERS, SCRIPTS
from vrfstore.store.ingest import EntryWriter, WheelFacts
from vrfstore.store.layout import DIGEST_LENGTHS, SITE_PACKAGES
from vrfstore.store.leases import Lease
from vrfstore.store.manifest import StoredFile
from vrfstore.store.scripts import entry_points
from vrfstore.store.store import Store
from vrfstore.store.wheel import parse_filename
from vrfstore.store.zip_structure import Limits
from vrfstore.threads import outcome
from vrfstore.values import dataclass, replace

if TYPE_CHECKING:
    from installer.scripts import ScriptSection

__all__ = ["ImportedEntry", "import_entries"]

_CHUNK = 1 << 18
_LARGEST_METADATA, _LARGEST_ENTRY_POINTS = 1 << 22, 1 << 18
"""Bytes. As in a wheel."""

_MOST_STAGED = 8
"""Entries that wait for their publication while the next one is read."""

_PUBLISHERS = 4

_SCHEMES = {
    SITE_PACKAGES: Scheme("purelib"),
    DATA: Scheme("data"),
    SCRIPTS: Scheme("scripts"),
    HEADERS: Scheme("headers"),
}


@dataclass(frozen=True, slots=True)
class ImportedEntry:
    """An entry of an archive that is in the store.

    Attributes:
        plan: The entry; its ``claimed`` says whether only the archive says what it is.
        new: Whether it was made now, or there already.
        warnings: What is odd about its wheel, in words.
    """

    plan: EntryPlan
    new: bool
    warnings: tuple[str, ...] = ()


def import_entries(
    store: Store, lease: Lease, reader: ArchiveReader, *, trusted: bool, limits: Limits, watch: Watcher
) -> list[ImportedEntry]:
    """Make every entry of an archive one of the store, in the order of the archive.

    Args:
        store: The store.
        lease: Protects their digests, and names what is on its way.
        reader: The archive, whose entries come next.
        trusted: Whether somebody vouches for the archive, so that what comes as files is proven too.
        limits: What is too much for all wheels that are in the archive as such.
        watch: Is told how many are ``missing``, and of each when it is ``unpacked``.

    Raises:
        WheelError: An entry was refused. Those before it stay.
        OSError: The store cannot be written.
    """
    watch(Event(kind="missing", subject="importing", total=len(reader.contents.entries)))
    importer = _Importer(store, lease, reader, trusted, limits, watch)
    with ThreadPoolExecutor(_PUBLISHERS, thread_name_prefix="publish") as pool:
        imported: list[ImportedEntry] = []
        waiting: deque[Future[None]] = deque()
        for entry in reader.contents.entries:
            if len(waiting) == _MOST_STAGED:
                outcome(waiting.popleft())
            result, publish = importer.take(entry)
            imported.append(result)
            if publish is not None:
                waiting.append(pool.submit(publish))
            watch(Event(kind="unpacked", subject=entry.filename, size=entry.size))
        for future in waiting:
            outcome(future)
    return imported


@dataclass(slots=True)
class _Importer:
    """What takes the entries of one archive; ``limits`` are what is left of them for further wheels."""

    store: Store
    lease: Lease
    reader: ArchiveReader
    trusted: bool
    limits: Limits
    watch: Watcher

    def take(self, entry: ArchivedEntry) -> tuple[ImportedEntry, Callable[[], None] | None]:
        """Read one entry; returns what it is, and what is left to do to publish it.

        Until that is done, the making of the entry is held. Whoever does it waits for no other hold meanwhile, so
        that nobody can wait in a circle.
        """
        with contextlib.ExitStack() as stack:
            if not entry.tree:
                return self._from_wheel(entry), None
            files = self._in_order(entry)
            stack.enter_context(self._hold(entry))
            present = self._present(entry)
            if present is not None:
                for file in files:
                    self.reader.file(entry, file).skip()
                return ImportedEntry(present, new=False), None
            staging = self.store.new_staging(self.lease)
            reference = EntryReference(
                digest=entry.digest,
                name=entry.name,
                version=entry.version,
                directory=self._free_directory(entry),
            )
            try:
                fs.make_directory(staging)
                plan = self._write(entry, files, reference, staging)
            except BaseException:
                fs.remove_tree(staging)
                raise
            held = stack.pop_all()
        return ImportedEntry(plan, new=True), lambda: self._publish(held, staging, plan)

    def _hold(self, entry: ArchivedEntry) -> contextlib.AbstractContextManager[None]:
        waiting = Event(kind="waiting", subject=f"another vrfstore that makes {entry.filename}")
        return self.store.hold_entry(entry.digest, on_wait=lambda: self.watch(waiting))

    def _publish(self, held: contextlib.ExitStack, staging: str, plan: EntryPlan) -> None:
        with held:
            self.store.publish(staging, plan.reference.directory)
            modules.note(self.store.layout, plan)

    def _present(self, entry: ArchivedEntry) -> EntryPlan | None:
        """Return the entry that is there already and will do.

        Raises:
            WheelError: There is a proven one, and it has other files.
        """
        proven = self.store.entry(entry.digest, entry.name, entry.version)
        if proven is not None:
            directory = proven.reference.directory
            if archive.tree_digest(self.store.manifest(directory).files) != entry.tree:
                self.reader.refuse(
                    f"its files are not those of {self.store.layout.of('entries', directory)}, "
                    "which was unpacked from the wheel itself",
                    kind="archive-conflict",
                    member=archive.manifest_member(entry),
                    hint="do not use this archive, or export it anew",
                )
            return proven
        if self.trusted:
            return None
        return self.store.entry(entry.digest, entry.name, entry.version, claimed=entry.tree)

    def _free_directory(self, entry: ArchivedEntry) -> str:
        """Return the directory name of a new entry; claims never take the last one that a wheel may have."""
        directory = self.store.free_directory(entry.digest, entry.name, entry.version)
        if not self.trusted and directory.startswith(entry.digest[: DIGEST_LENGTHS[-1]]):
            self.reader.refuse(
                f"{len(DIGEST_LENGTHS) - 1} other archives have said already what {entry.filename} unpacks to",
                kind="archive-conflict",
                member=archive.manifest_member(entry),
                hint="give the archive's --sha256, or remove what is not used with vrfstore gc",
            )
        return directory

    def _in_order(self, entry: ArchivedEntry) -> list[StoredFile]:
        """Return the files of the entry that comes next, METADATA first."""
        files = self.reader.manifest(entry)
        return archive.in_order(files, archive.dist_info_of(entry, files))

    def _write(
        self, entry: ArchivedEntry, files: list[StoredFile], reference: EntryReference, staging: str
    ) -> EntryPlan:
        """Write the files of an entry as those of a wheel are, so that all else is derived in the same way."""
        first, *rest = files
        dist_info = archive.dist_info_of(entry, files)
        metadata = self._whole(entry, first)
        with self._named(entry, archive.member_of(entry, first)):
            facts = WheelFacts(
                filename=entry.filename,
                dist_info=dist_info,
                tags=tuple(sorted(map(str, parse_filename(entry.filename)[2]))),
                requires_python=self._checked_metadata(entry, first, metadata),
            )
            writer = EntryWriter(staging, facts, reference, claimed="" if self.trusted else entry.tree)
            self._write_file(writer, entry, first, cast("BinaryIO", io.BytesIO(metadata)))
        for file in rest:
            decides = file.path == f"{SITE_PACKAGES}/{dist_info}/entry_points.txt"
            member = self.reader.file(entry, file, largest=_LARGEST_ENTRY_POINTS if decides else None)
            with self._named(entry, member.name):
                if not decides:
                    self._write_file(writer, entry, file, cast("BinaryIO", member))
                    continue
                text = member.read()
                for name, module, attribute, section in self._entry_points(entry, file, text):
                    writer.write_script(name, module, attribute, section)
                self._write_file(writer, entry, file, io.BytesIO(text))
        with self._named(entry, archive.manifest_member(entry)):
            return writer.finish()

    def _write_file(
        self, writer: EntryWriter, entry: ArchivedEntry, file: StoredFile, stream: BinaryIO
    ) -> None:
        directory, _, path = file.path.partition("/")
        if directory == HEADERS:  # below the name of the wheel, which the writer puts there
            path = path.partition("/")[2]
        written = writer.write_file(
            _SCHEMES[directory], path, stream, is_executable=file.mode != archive.FILE
        )
        found = (written.size, written.hash_ and written.hash_.value)
        if found != (file.size, file.sha256):
            self._refuse_content(archive.member_of(entry, file))

    def _whole(self, entry: ArchivedEntry, file: StoredFile) -> bytes:
        """Return the content of METADATA."""
        member = self.reader.file(entry, file, largest=_LARGEST_METADATA)
        data = member.read()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            self._refuse_content(member.name)
        return data

    def _refuse_content(self, member: str) -> None:
        self.reader.refuse(
            "its content is not what the manifest says", kind="archive-mismatch", member=member
        )

    @contextlib.contextmanager
    def _named(self, entry: ArchivedEntry, member: str) -> Iterator[None]:
        """Name the archive and the member in a refusal that was meant for a wheel."""
        try:
            yield
        except WheelError as error:
            if error.path == self.reader.path:
                raise
            self.reader.refuse(f"{entry.filename}: {error.message}", kind=error.kind, member=member)

    def _checked_metadata(self, entry: ArchivedEntry, file: StoredFile, data: bytes) -> str | None:
        """Return Requires-Python of METADATA, which is of the right name and version."""
        member = archive.member_of(entry, file)
        try:
            metadata = parse_metadata_file(data.decode())
            same = canonicalize_name(metadata["Name"] or "") == entry.name and Version(
                metadata["Version"] or ""
            ) == Version(entry.version)
        except (UnicodeDecodeError, InvalidVersion):
            same = False
        if not same:
            self.reader.refuse(
                f"this is not the METADATA of {entry.name} {entry.version}",
                kind="wheel-metadata",
                member=member,
            )
        requires_python: str | None = metadata["Requires-Python"]
        return requires_python

    def _entry_points(
        self, entry: ArchivedEntry, file: StoredFile, data: bytes
    ) -> list[tuple[str, str, str, ScriptSection]]:
        try:
            return entry_points(data.decode())
        except ValueError as error:
            member = archive.member_of(entry, file)
            self.reader.refuse(f"it cannot be used: {error}", kind="wheel-entry-point", member=member)

    def _from_wheel(self, entry: ArchivedEntry) -> ImportedEntry:
        """Unpack the wheel that comes next as ``add`` does; its digest proves what it is."""
        member = self.reader.wheel(entry)
        present = self.store.entry(entry.digest, entry.name, entry.version)
        if present is not None:
            member.skip()
            return ImportedEntry(present, new=False)
        temporary, digest = self.store.receive(self.lease, _chunks(member))
        try:
            if digest != entry.digest:
                self.reader.refuse(
                    f"it has SHA-256 {digest} and not the one it is called after",
                    kind="hash-mismatch",
                    member=member.name,
                )
            with self._named(entry, member.name), self._hold(entry):
                added = self.store.ingest_held(
                    self.lease, temporary, entry.filename, digest, limits=self.limits
                )
        finally:
            fs.remove_file(temporary)
        files = len(self.store.manifest(added.plan.reference.directory).files)
        self.limits = replace(
            self.limits,
            unpacked=max(0, self.limits.unpacked - added.plan.unpacked),
            files=max(0, self.limits.files - files),
        )
        return ImportedEntry(added.plan, new=added.new, warnings=added.warnings)


def _chunks(member: Member) -> Iterator[bytes]:
    yield from iter(lambda: member.read(_CHUNK), b"")
