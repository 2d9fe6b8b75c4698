"""Writing an archive: what an entry holds is compared with its manifest while it is read."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from vrfstore.errors import StoreDamagedError, WheelError
from vrfstore.model import Digest
from vrfstore.store import archive
from vrfstore.store.archive_contents import (
    CONTENTS,
    ArchivedEntry,
    ArchivedEnvironment,
    ArchivedLock,
    Contents,
    FormatError,
)
from vrfstore.store.manifest import Manifest, StoredFile
from vrfstore.store.store import Store
from vrfstore.values import dataclass

if TYPE_CHECKING:
    import zstandard

__all__ = ["Source", "Written", "tree_source", "wheel_source", "write"]

_CHUNK = 1 << 18

_Member = tuple[str, int, int, Iterator[bytes]]
"""Name, size, mode and content, which is only read where it is wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where an entry of an archive comes from.

    Attributes:
        entry: What it is in the archive.
        directory: The absolute path of the entry in the store.
        manifest: Its manifest as the archive has it; empty where the wheel comes instead.
        files: Its own files in the order of the archive; none where the wheel comes instead.
        wheel: The path of the wheel, where that comes.
        lent: Whether its files are links into a shared store.
    """

    entry: ArchivedEntry
    directory: str
    manifest: bytes = b""
    files: tuple[StoredFile, ...] = ()
    wheel: str | None = None
    lent: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """An archive that has been written: its SHA-256, its bytes, and those of what is in it."""

    sha256: str
    packed: int
    unpacked: int


def tree_source(store: Store, directory: str) -> Source:
    """Return an entry of a store, by its own files.

    Raises:
        StoreDamagedError: Its manifest is missing, cannot be read, or is not that of an entry.
    """
    path = store.layout.of("entries", directory)
    manifest = store.manifest(directory)
    own = archive.own_files(manifest.files)
    data = archive.manifest_bytes(own)
    entry = ArchivedEntry(
        digest=manifest.reference.digest,
        name=manifest.reference.name,
        version=manifest.reference.version,
        filename=manifest.filename,
        tree=archive.tree_digest(own),
        manifest=len(data),
        size=sum(file.size for file in own),
    )
    try:
        # What an import would refuse is not worth exporting.
        Contents(entries=(entry,)).check()
        dist_info = archive.dist_info_of(entry, archive.checked_manifest(entry, data))
    except FormatError as error:
        raise _damaged(error.message, path, "manifest.json") from error
    files = tuple(archive.in_order(own, dist_info))
    return Source(entry=entry, directory=path, manifest=data, files=files, lent=bool(manifest.lender))


def wheel_source(store: Store, manifest: Manifest, wheel: str) -> Source:
    """Return an entry of a store, by the file of its wheel."""
    entry = ArchivedEntry(
        digest=manifest.reference.digest,
        name=manifest.reference.name,
        version=manifest.reference.version,
        filename=manifest.filename,
        tree="",
        manifest=0,
        size=os.path.getsize(wheel),
    )
    directory = store.layout.of("entries", manifest.reference.directory)
    return Source(entry=entry, directory=directory, wheel=wheel)


def write(
    sources: Sequence[Source],
    environments: Sequence[ArchivedEnvironment],
    locks: Mapping[str, bytes],
    sink: Callable[[bytes], object],
    *,
    threads: int,
) -> Written:
    """Write an archive.

    Args:
        sources: The entries, in any order; none twice.
        environments: The environments, whose wheels are all among the entries.
        locks: The texts of their locks by their digests.
        sink: Takes the bytes as they come.
        threads: How many cores pack; the bytes do not depend on it.

    Raises:
        StoreDamagedError: A file is not what the manifest says.
        WheelError: A wheel is not the one that it was.
    """
    import zstandard  # noqa: PLC0415 - 20 ms that only archives pay

    contents = Contents.of(
        (source.entry for source in sources),
        environments,
        (ArchivedLock(digest=digest, size=len(text)) for digest, text in locks.items()),
    )
    by_digest = {source.entry.digest: source for source in sources}
    size = archive.tar_size(member[:3] for member in _members(contents, by_digest, locks))
    packer = zstandard.ZstdCompressor(compression_params=archive.compression(threads)).compressobj(size=size)
    sha256 = hashlib.sha256()
    packed = 0
    for data in _packed(packer, _tar(_members(contents, by_digest, locks))):
        sha256.update(data)
        packed += len(data)
        sink(data)
    return Written(sha256.hexdigest(), packed, size)


def _packed(packer: zstandard.ZstdCompressionObj, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if data := packer.compress(chunk):
            yield data
    yield packer.flush()


def _tar(members: Iterator[_Member]) -> Iterator[bytes]:
    for name, size, mode, content in members:
        yield archive.member_header(name, size, mode)
        yield from content
        yield archive.padding(size)
    yield archive.END


def _members(
    contents: Contents, sources: Mapping[Digest, Source], locks: Mapping[str, bytes]
) -> Iterator[_Member]:
    first = contents.to_bytes()
    yield CONTENTS, len(first), archive.FILE, iter([first])
    for lock in contents.locks:
        yield archive.lock_member(lock.digest), lock.size, archive.FILE, iter([locks[lock.digest]])
    for entry in contents.entries:
        source = sources[entry.digest]
        if source.wheel is not None:
            yield entry.wheel_member, entry.size, archive.FILE, _wheel(entry, source.wheel)
            continue
        yield archive.manifest_member(entry), entry.manifest, archive.FILE, iter([source.manifest])
        for file in source.files:
            yield (
                archive.member_of(entry, file),
                file.size,
                file.mode,
                _file(source.directory, file, lent=source.lent),
            )


def _file(directory: str, file: StoredFile, *, lent: bool) -> Iterator[bytes]:
    """Yield the content of a file of an entry; it is what the manifest says, or an error is raised.

    Args:
        directory: The entry.
        file: What the manifest says.
        lent: It is a link to the file of a shared store.

    Raises:
        StoreDamagedError: It is not.
    """
    sha256 = hashlib.sha256()
    seen = 0
    try:
        for data in _content(f"{directory}/{file.path}", 0 if lent else os.O_NOFOLLOW):
            seen += len(data)
            if seen > file.size:
                break
            sha256.update(data)
            yield data
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise
        raise _damaged("a file is missing", directory, file.path) from error
    if seen != file.size or sha256.hexdigest() != file.sha256:
        raise _damaged("a file is not what the manifest says", directory, file.path)


def _wheel(entry: ArchivedEntry, path: str) -> Iterator[bytes]:
    sha256 = hashlib.sha256()
    left = entry.size
    for data in _content(path):
        left -= len(data)
        if left < 0:
            break
        sha256.update(data)
        yield data
    if left or sha256.hexdigest() != entry.digest:
        raise WheelError("the file was changed while it was read", kind="hash-mismatch", path=path)


def _content(path: str, flags: int = 0) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no regular file", path)
        while data := os.read(descriptor, _CHUNK):
            yield data
    finally:
        os.close(descriptor)


def _damaged(message: str, directory: str, place: str) -> StoreDamagedError:
    return StoreDamagedError(
        message,
        path=f"{directory}/{place}",
        hint=f"mend it with: vrfstore verify --repair {os.path.basename(directory)}",
    )
