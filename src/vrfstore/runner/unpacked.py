"""Archives unpacked aside, so that a repair can take single entries out of them.

An archive is unpacked once, into a store of its own in ``tmp/``. What comes as files proves nothing by itself: it has
to be, file by file, what the manifest of the damaged entry says. What comes as a wheel is proven by its digest.
"""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Self

from vrfstore import codec, fs
from vrfstore.model import EntryReference, Watcher
from vrfstore.store.archive_entries import import_entries
from vrfstore.store.archive_read import ArchiveLimits, ArchiveReader
from vrfstore.store.leases import Lease
from vrfstore.store.manifest import Manifest
from vrfstore.store.store import Store
from vrfstore.store.zip_structure import Limits

__all__ = ["UnpackedArchives", "is_archive"]

_MAGIC = b"\x28\xb5\x2f\xfd"
_OPEN = 0o755
_PLAN = "plan.json"


def is_archive(path: str) -> bool:
    """Whether a file begins as an archive does (RFC 8878); one that cannot be read does not."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.read(descriptor, len(_MAGIC)) == _MAGIC
    finally:
        os.close(descriptor)


class UnpackedArchives:
    """Archives that have been unpacked; use it in a ``with`` statement.

    Args:
        store: Where entries are repaired.
        lease: Names what is on its way.
        watch: Is told what unpacking does.
    """

    def __init__(self, store: Store, lease: Lease, watch: Watcher) -> None:
        self._store = store
        self._lease = lease
        self._watch = watch
        self._unpacked: dict[tuple[str, bool], tuple[Store, frozenset[str]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for scratch, _ in self._unpacked.values():
            fs.remove_tree(scratch.root)

    def take(self, path: str, reference: EntryReference, published: Manifest | None) -> str | None:
        """Return the path of a staged entry that is the one wanted; None where the archive has none that is proven.

        Args:
            path: The archive.
            reference: The entry wanted.
            published: Its manifest, if that can be read.

        Raises:
            WheelError: The archive is not acceptable.
        """
        # An entry may be a claim or not, which its plan says; one of the two is as published.
        for trusted in (True, False):
            scratch, proven = self._unpack(path, trusted=trusted)
            if reference.directory not in scratch.entries():
                continue
            found = scratch.manifest(reference.directory)
            same = published is not None and _is_published(scratch, found, published)
            if found.reference == reference and (same or reference.digest in proven):
                return self._staged(scratch, reference.directory)
        return None

    def _unpack(self, path: str, *, trusted: bool) -> tuple[Store, frozenset[str]]:
        """Return the store of an archive, and the digests of what is in it as a wheel."""
        if (path, trusted) not in self._unpacked:
            root = self._store.layout.of("tmp", f"{self._lease.id}.{fs.unique_name()}")
            # What is taken from it is brought onto the disk then.
            scratch = Store.open(root, durable=False)
            self._unpacked[path, trusted] = scratch, frozenset()
            with open(path, "rb") as stream, scratch.session() as lease:
                reader = ArchiveReader(stream, path, ArchiveLimits())
                for lock in reader.contents.locks:
                    reader.lock(lock)
                import_entries(scratch, lease, reader, trusted=trusted, limits=Limits(), watch=self._watch)
                reader.end()
            proven = frozenset(entry.digest for entry in reader.contents.entries if not entry.tree)
            self._unpacked[path, trusted] = scratch, proven
        return self._unpacked[path, trusted]

    def _staged(self, scratch: Store, directory: str) -> str:
        path, staging = scratch.layout.of("entries", directory), self._store.new_staging(self._lease)
        # Moving a directory changes its `..`, for which its owner has to be able to write to it.
        fs.change_mode(path, _OPEN)
        fs.rename(path, staging)
        try:
            self._store.settle(staging)
        except BaseException:
            fs.remove_tree(staging)
            raise
        return staging


def _is_published(scratch: Store, found: Manifest, published: Manifest) -> bool:
    """Whether an entry is what a manifest says, down to its plan: else a claim could come back as proven.

    But for where its wheel came from, which its plan says as well.
    """
    one, other = (
        {file.path: file for file in manifest.files if file.path != _PLAN} for manifest in (found, published)
    )
    if one != other or dict(found.links) != dict(published.links):
        return False
    value = codec.loads(fs.read_file(f"{scratch.layout.of('entries', found.reference.directory)}/{_PLAN}"))
    digest = codec.hexdigest(
        codec.dumps({**value, "filename": published.filename, "origin": published.origin})
    )
    return any(file.path == _PLAN and file.sha256 == digest for file in published.files)
