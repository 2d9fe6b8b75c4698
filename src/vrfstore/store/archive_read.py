"""Reading an archive that nobody has vouched for: one pass, bounded memory, and one meaning or none.

::

    bytes ──_Frame──▶ the tar's bytes ──ArchiveReader──▶ contents, locks, manifests, files
      one zstd frame, block by block       each header compared with the only one that may stand there

No tar reader looks at the bytes, so that there is nothing to be led astray by links, devices, sparse files or headers
that override headers. Whatever is not as it has to be is a ``WheelError`` that names the archive and the member.
"""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO, NoReturn

import zstandard

from vrfstore.errors import WheelError
from vrfstore.store import archive
from vrfstore.store.archive_contents import CONTENTS, ArchivedEntry, ArchivedLock, Contents, FormatError
from vrfstore.store.manifest import StoredFile, parents
from vrfstore.values import dataclass

__all__ = ["ArchiveLimits", "ArchiveReader", "Member"]

_CHUNK = 1 << 18

_LARGEST_MANIFEST = 1 << 24
"""Bytes. That of 100,000 files is smaller."""

_LARGEST_TABLE = 1 << 21
"""Bytes of the contents and of a lock. A thousand wheels take a third of that; parsing takes thirty times as much."""

_SIZE = slice(124, 136)
"""Where a header has the size of its member, as octal digits (pax interchange format)."""

_RATIO_FROM = 1 << 26
"""Bytes unpacked up to which no ratio is a bomb."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_LARGEST_BLOCK = 1 << 17
_RUN, _RESERVED = 1, 3
"""RFC 8878, 3.1.1.2: types of blocks. A run is one byte, whatever its size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveLimits:
    """What is too much.

    Attributes:
        packed: Bytes of the archive.
        unpacked: Bytes of all that is in it.
        files: Files of all entries together, and the directories above them.
        ratio: Bytes unpacked for one byte of the archive, beyond 64 MiB. Real ones stay below 10.
        depth: Directories above a file, in its entry.
    """

    packed: int = 1 << 35
    unpacked: int = 1 << 36
    files: int = 1_000_000
    ratio: int = 100
    depth: int = 60


class ArchiveReader:
    """An archive, read from its beginning to its end, in the order that its contents say.

    Args:
        stream: Its bytes; a buffered stream, whose ``read`` returns less than asked only at the end.
        path: What to call it.
        limits: What is too much.

    Attributes:
        path: What to call it.
        contents: All that is in it.
    """

    def __init__(self, stream: BinaryIO, path: str, limits: ArchiveLimits) -> None:
        self.path = path
        self._limits = limits
        self._frame = _Frame(stream, path, limits)
        self._files = 0
        self.contents = self._read_contents()

    @property
    def packed(self) -> int:
        """Bytes of the archive read so far."""
        return self._frame.packed

    @property
    def sha256(self) -> str:
        """The SHA-256 of the archive, as far as it has been read."""
        return self._frame.sha256.hexdigest()

    def refuse(
        self, message: str, *, kind: str, member: str | None = None, hint: str | None = None
    ) -> NoReturn:
        """Raise the ``WheelError`` for this archive."""
        where = f"{member}: " if member else ""
        raise WheelError(f"{where}{message}", kind=kind, path=self.path, member=member, hint=hint)

    def lock(self, lock: ArchivedLock) -> bytes:
        """Return the text of the lock that comes next; it is what it is called after."""
        name = archive.lock_member(lock.digest)
        data = self._text(name, lock.size, _LARGEST_TABLE)
        if hashlib.sha256(data).hexdigest() != lock.digest:
            self.refuse("the lock is not what it is called after", kind="archive-mismatch", member=name)
        return data

    def manifest(self, entry: ArchivedEntry) -> tuple[StoredFile, ...]:
        """Return the files of an entry that the manifest, which comes next, lists; checked."""
        name = archive.manifest_member(entry)
        try:
            files = archive.checked_manifest(entry, self._text(name, entry.manifest, _LARGEST_MANIFEST))
        except FormatError as error:
            self.refuse(error.message, kind="archive-manifest", member=error.member)
        self._files += len(files) + len(parents(file.path for file in files))
        if self._files > self._limits.files:
            self.refuse(
                f"it has more than {self._limits.files} files and directories",
                kind="archive-limit",
                member=name,
                hint="if you trust it, allow more with --max-files",
            )
        for file in files:
            if file.path.count("/") > self._limits.depth:
                self.refuse(
                    f"{file.path!r} is below more than {self._limits.depth} directories",
                    kind="archive-limit",
                    member=name,
                )
        return files

    def file(self, entry: ArchivedEntry, file: StoredFile, *, largest: int | None = None) -> Member:
        """Return the file of an entry that comes next; whoever reads it compares its hash.

        Args:
            entry: The entry.
            file: The file.
            largest: Bytes; a larger one is refused. For what is going to be read as a whole.
        """
        return self._member(archive.member_of(entry, file), file.size, file.mode, largest=largest)

    def wheel(self, entry: ArchivedEntry) -> Member:
        """Return the wheel that comes next; whoever reads it compares its hash."""
        return self._member(entry.wheel_member, entry.size)

    def end(self) -> None:
        """Check that this is the end: of the tar, of the frame, and of the stream."""
        if self._frame.read(len(archive.END)) != archive.END or self._frame.read(1):
            self.refuse("there is more in it than it announces", kind="archive-structure")
        self._frame.end()

    def _read_contents(self) -> Contents:
        begin = self._frame.read(archive.BLOCK)
        # The one size that is not known beforehand: what it is taken for has to give the same header again.
        digits = begin[_SIZE].rstrip(b"\0")
        size = int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else 0
        if begin != archive.member_header(CONTENTS, size):
            self.refuse(
                "this is not an archive of vrfstore",
                kind="archive-structure",
                hint="give a file that vrfstore export wrote",
            )
        data = self._content(CONTENTS, size, _LARGEST_TABLE).read()
        try:
            return Contents.from_bytes(data)
        except FormatError as error:
            self.refuse(error.message, kind="archive-contents", member=error.member)

    def _text(self, name: str, size: int, largest: int) -> bytes:
        return self._member(name, size, largest=largest).read()

    def _member(
        self, name: str, size: int, mode: int = archive.FILE, *, largest: int | None = None
    ) -> Member:
        expected = archive.member_header(name, size, mode)
        found = self._frame.read(len(expected))
        if found != expected:
            # Behind an extended header that is as it should be, it is the header itself that is not.
            same = found[: -archive.BLOCK] == expected[: -archive.BLOCK]
            self._refuse_header(name, found[-archive.BLOCK :] if same else found)
        return self._content(name, size, largest)

    def _content(self, name: str, size: int, largest: int | None) -> Member:
        if largest is not None and size > largest:
            self.refuse(f"it has {size} bytes; {largest} are allowed", kind="archive-limit", member=name)
        return Member(self._frame, self, name, size)

    def _refuse_header(self, name: str, found: bytes) -> NoReturn:
        if len(found) < archive.BLOCK:
            self.refuse("the archive ends before it", kind="archive-structure", member=name)
        self.refuse(
            f"in its place, or with another size, mode, owner or time, there is {archive.describe_header(found)}",
            kind="archive-structure",
            member=name,
        )


class Member(io.RawIOBase):
    """The content of one member; to be read to its end before the next one. It is as long as announced."""

    def __init__(self, frame: _Frame, reader: ArchiveReader, name: str, size: int) -> None:
        super().__init__()
        self._frame = frame
        self._reader = reader
        self.name = name
        self._left = size
        self._padding = archive.padding(size)

    def read(self, size: int = -1) -> bytes:
        """Return some bytes; all for -1; none at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        data = self._frame.some(min(size, self._left))
        self._left -= len(data)
        if not data and self._left:
            self._reader.refuse("the archive ends within it", kind="archive-structure", member=self.name)
        if not self._left and self._padding:
            if self._frame.read(len(self._padding)) != self._padding:
                self._reader.refuse(
                    "what fills up its last block is not zero", kind="archive-structure", member=self.name
                )
            self._padding = b""
        return data

    def skip(self) -> None:
        """Read it to its end."""
        while self.read(_CHUNK):
            pass


class _Frame:
    """The content of the one zstd frame that a stream has to be, unpacked as it is wanted.

    Fed block by block, none of which can give more than 128 KiB, and the last of which is known: so neither memory
    nor the place where the frame ends depend on what is in it.
    """

    def __init__(self, stream: BinaryIO, path: str, limits: ArchiveLimits) -> None:
        self._stream = stream
        self._path = path
        self._limits = limits
        self._buffer = memoryview(b"")
        self._last = False
        self.packed = 0
        self.unpacked = 0
        self.sha256 = hashlib.sha256()
        self._decompressor = zstandard.ZstdDecompressor(
            max_window_size=1 << archive.WINDOW_LOG
        ).decompressobj()
        self._begin()

    def read(self, size: int) -> bytes:
        """Return so many bytes, less at the end of the frame."""
        parts = []
        while size and (part := self.some(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def some(self, size: int) -> bytes:
        """Return up to so many bytes; none at the end of the frame, or where none are asked for."""
        while size and not self._buffer and not self._last:
            self._next_block()
        data, self._buffer = bytes(self._buffer[:size]), self._buffer[size:]
        return data

    def end(self) -> None:
        """Check that nothing comes after the frame, which has been read to its end."""
        if self._packed_bytes(1):
            self._refuse("something comes after the end of its frame", kind="archive-structure")

    def _begin(self) -> None:
        head = self._packed_bytes(5)
        if head[:4] != _MAGIC:
            self._refuse(
                "this is not zstd data",
                kind="archive-structure",
                hint="give a file that vrfstore export wrote",
            )
        # RFC 8878, 3.1.1.1: the descriptor says how many bytes follow.
        descriptor = head[4] if len(head) > len(_MAGIC) else 0
        single = bool(descriptor & 0x20)
        size = (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + (int(single), 2, 4, 8)[descriptor >> 6]
        head += self._exactly(size)
        try:
            frame = zstandard.get_frame_parameters(head)
        except zstandard.ZstdError as error:
            self._refuse(f"it cannot be unpacked: {error}", kind="archive-corrupt")
        if not frame.has_checksum or frame.content_size == zstandard.CONTENTSIZE_UNKNOWN or frame.dict_id:
            self._refuse(
                "its frame has no size, no checksum, or needs a dictionary", kind="archive-structure"
            )
        if frame.window_size > 1 << archive.WINDOW_LOG:
            self._refuse(
                f"it would take {frame.window_size} bytes of memory to unpack it", kind="archive-limit"
            )
        if frame.content_size > self._limits.unpacked:
            self._refuse(
                f"it unpacks to {frame.content_size} bytes, more than {self._limits.unpacked}",
                kind="archive-limit",
                hint="if you trust it, allow more with --max-unpacked",
            )
        self._feed(head)

    def _next_block(self) -> None:
        head = self._exactly(3)
        number = int.from_bytes(head, "little")
        self._last, kind, size = bool(number & 1), number >> 1 & 3, number >> 3
        if kind == _RESERVED or size > _LARGEST_BLOCK:
            self._refuse("it cannot be unpacked: a block is no block", kind="archive-corrupt")
        body = self._exactly(1 if kind == _RUN else size)
        checksum = self._exactly(4) if self._last else b""
        self._feed(head + body + checksum)

    def _feed(self, data: bytes) -> None:
        try:
            unpacked = self._decompressor.decompress(data)
        except zstandard.ZstdError as error:
            self._refuse(f"it cannot be unpacked: {error}", kind="archive-corrupt")
        self._buffer = memoryview(unpacked)
        self.unpacked += len(unpacked)
        if self.unpacked > max(_RATIO_FROM, self._limits.ratio * self.packed):
            self._refuse(
                f"it unpacks to more than {self._limits.ratio} times its size",
                kind="archive-limit",
                hint="if you trust it, allow more with --max-ratio",
            )

    def _exactly(self, size: int) -> bytes:
        data = self._packed_bytes(size)
        if len(data) < size:
            self._refuse("it is cut off", kind="archive-corrupt", hint="copy it again, as a whole")
        return data

    def _packed_bytes(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise WheelError(
                f"the file cannot be read: {error.strerror}", kind="archive-unreadable", path=self._path
            ) from error
        self.packed += len(data)
        self.sha256.update(data)
        if self.packed > self._limits.packed:
            self._refuse(
                f"it has more than {self._limits.packed} bytes",
                kind="archive-limit",
                hint="if you trust it, allow more with --max-packed",
            )
        return data

    def _refuse(self, message: str, *, kind: str, hint: str | None = None) -> NoReturn:
        raise WheelError(message, kind=kind, path=self._path, hint=hint)
