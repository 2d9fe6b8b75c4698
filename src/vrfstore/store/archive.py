"""Archives: what of entries and environments goes from one store to another, in one file. Pure: names and bytes only.

::

    one zstd frame (RFC 8878) that has its size and a checksum
      └ tar (pax interchange format, POSIX.1-2001); each header is the only one that its member can have
          vrfstore-archive.json              what is in it: ``Contents``
          locks/<digest>.toml                of its environments
          entries/<digest>/manifest.json     path, size, mode and SHA-256 of the wheel's own files, then
          entries/<digest>/<scheme>/…        these files: METADATA and entry_points.txt first, because they decide
          entries/<digest>/<filename>        or, in place of all that, the wheel itself

What a store derives from a wheel (ready-made links, the RECORD of environments, the plan, bytecode) is in no archive:
whoever imports one derives it anew. Nor is anything of the machine: no owner, no time, no path but those of a lock.
So the same entries give the same bytes, on any number of cores; only another libzstd may pack them otherwise.

Of what is in an archive there is one form. Whoever reads one works out what has to come next and compares.
"""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from vrfstore import codec
from vrfstore.store.archive_contents import (
    CONTENTS,
    ArchivedEntry,
    FormatError,
    check_digest,
    check_number,
    name_problem,
)
from vrfstore.store.entry_plan import DATA, HEADERS, SCRIPTS
from vrfstore.store.layout import SITE_PACKAGES
from vrfstore.store.manifest import StoredFile, parents

if TYPE_CHECKING:
    import zstandard

__all__ = [
    "BLOCK",
    "END",
    "FILE",
    "WINDOW_LOG",
    "checked_manifest",
    "compression",
    "describe_header",
    "dist_info_of",
    "in_order",
    "lock_member",
    "manifest_bytes",
    "manifest_member",
    "member_header",
    "member_of",
    "own_files",
    "padding",
    "tar_size",
    "tree_digest",
]

BLOCK = 512
"""Bytes. Everything in a tar begins at a multiple of it."""

END = bytes(2 * BLOCK)
"""What ends a tar; nothing comes after it."""

FILE = 0o444
_PROGRAM = 0o555

_SCHEMES = (SITE_PACKAGES, DATA, SCRIPTS, HEADERS)
_DIST_INFO = ".dist-info"
_NEEDED = ("METADATA", "WHEEL", "RECORD")

WINDOW_LOG = 23
"""8 MiB: how far back zstd looks, and the memory that unpacking takes; RFC 8878 asks every reader to have so much."""

_LEVEL = 9
"""Of 180 MB of entries 3 leaves 47 MB, 9 leaves 41 in twice the time, 19 leaves 36 in 45 times; gzip leaves 50 in 3."""

_JOB = 1 << 23
"""Bytes that one core packs at a time: small enough that many cores have something to do."""


def own_files(files: Iterable[StoredFile]) -> tuple[StoredFile, ...]:
    """Return those files of an entry that its wheel has, sorted by path: without what a store prepared from them."""
    schemes = frozenset(_SCHEMES)
    own = (file for file in files if file.path.partition("/")[0] in schemes)
    return tuple(sorted(own, key=lambda file: file.path))


def manifest_bytes(files: Iterable[StoredFile]) -> bytes:
    """Return what an archive says of the files of an entry; the manifest of a store says more, some of it its own."""
    return codec.dumps([[file.path, file.size, file.mode, file.sha256] for file in own_files(files)])


def tree_digest(files: Iterable[StoredFile]) -> str:
    """Return what names the unpacked form of a wheel: the SHA-256 of its manifest in archives."""
    return codec.hexdigest(manifest_bytes(files))


def checked_manifest(entry: ArchivedEntry, data: bytes) -> tuple[StoredFile, ...]:
    """Return the files that a manifest in an archive lists, sorted by path; checked down to every path and mode.

    Raises:
        FormatError: It is not in the one form there is, not this entry's, or lists what no wheel may have.
    """
    member = manifest_member(entry)
    try:
        files = tuple(
            StoredFile(path=path, size=size, mode=mode, sha256=sha256)
            for path, size, mode, sha256 in codec.loads(data)
        )
        for file in files:
            _check_file(file, entry)
    except (ValueError, TypeError) as error:
        raise FormatError(f"the manifest cannot be read: {type(error).__name__}", member) from error
    if manifest_bytes(files) != data:
        raise FormatError("the manifest is not in the form that vrfstore writes", member)
    _check_paths([file.path for file in files], member)
    if sum(file.size for file in files) != entry.size or tree_digest(files) != entry.tree:
        raise FormatError(f"the manifest is not the one that {CONTENTS} announces", member)
    dist_info_of(entry, files)
    return files


def _check_file(file: StoredFile, entry: ArchivedEntry) -> None:
    member = manifest_member(entry)
    problem = name_problem(file.path) or _misplaced(file.path, entry.name)
    if problem is not None:
        raise FormatError(f"the manifest lists {file.path!r}, which {problem}", member)
    check_number(file.size)
    check_digest(file.sha256)
    script = file.path.startswith(f"{SCRIPTS}/")
    if type(file.mode) is not int or (file.mode != _PROGRAM and (file.mode != FILE or script)):
        raise FormatError(f"the manifest gives {file.path!r} the mode {file.mode!r}", member)


def _misplaced(path: str, name: str) -> str | None:
    """Say why no wheel of this name has a file there, if none has."""
    scheme, _, rest = path.partition("/")
    if scheme not in _SCHEMES or not rest:
        return "is in no scheme directory"
    if scheme == HEADERS and not rest.startswith(f"{name}/"):
        return "is not below the headers of its own name"
    # It would be run without its source ever being looked at.
    return "is bytecode" if "__pycache__" in rest.split("/") else None


def _check_paths(paths: Sequence[str], member: str) -> None:
    for path in sorted(parents(paths) & frozenset(paths)):
        raise FormatError(f"the manifest has {path!r} as a file and as a directory", member)
    for first, second in itertools.pairwise(paths):
        if first == second:
            raise FormatError(f"the manifest lists {first!r} twice", member)


def dist_info_of(entry: ArchivedEntry, files: Iterable[StoredFile]) -> str:
    """Return the name of the one dist-info directory of an entry.

    Raises:
        FormatError: There is none, or another one; or a file is missing there that every wheel has.
    """
    member = manifest_member(entry)
    paths = {file.path for file in files}
    tops = {path.split("/")[1] for path in paths if path.startswith(f"{SITE_PACKAGES}/")}
    found = sorted(top for top in tops if top.endswith(_DIST_INFO))
    if len(found) != 1:
        raise FormatError(f"the manifest has {len(found)} dist-info directories", member)
    if canonicalize_name(found[0].removesuffix(_DIST_INFO).rpartition("-")[0]) != entry.name:
        raise FormatError(f"the manifest has the dist-info of another wheel, {found[0]!r}", member)
    for name in _NEEDED:
        if f"{SITE_PACKAGES}/{found[0]}/{name}" not in paths:
            raise FormatError(f"the manifest lists no {name}", member)
    return found[0]


def in_order(files: Iterable[StoredFile], dist_info: str) -> list[StoredFile]:
    """Return the files of an entry as they come: what decides about the entry first, then by path."""
    first = [f"{SITE_PACKAGES}/{dist_info}/{name}" for name in ("METADATA", "entry_points.txt")]
    return sorted(files, key=lambda file: (*(file.path != path for path in first), file.path))


def lock_member(digest: str) -> str:
    """Return the name of the member that is a lock."""
    return f"locks/{digest}.toml"


def manifest_member(entry: ArchivedEntry) -> str:
    """Return the name of the member that is an entry's manifest."""
    return f"entries/{entry.digest}/manifest.json"


def member_of(entry: ArchivedEntry, file: StoredFile) -> str:
    """Return the name of the member that is a file of an entry."""
    return f"entries/{entry.digest}/{file.path}"


def member_header(name: str, size: int, mode: int = FILE) -> bytes:
    """Return the one header that a member can have: of nobody, from 1970, with a pax record for a long name."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = mode
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """Return the zeros that fill up the last block of so many bytes."""
    return bytes(-size % BLOCK)


def compression(threads: int) -> zstandard.ZstdCompressionParameters:
    """Return how archives are packed.

    libzstd gives the same bytes for any number of threads from 1 on, but others where it starts none at all. All that
    it would else choose by itself, maybe otherwise in its next release, is said here.

    Args:
        threads: How many; at least 1.
    """
    import zstandard  # noqa: PLC0415 - 20 ms that only archives pay

    return zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        threads=max(1, threads),
        window_log=WINDOW_LOG,
        job_size=_JOB,
        overlap_log=6,
        write_checksum=True,
        write_content_size=True,
        write_dict_id=False,
    )


def tar_size(members: Iterable[tuple[str, int, int]]) -> int:
    """Return the bytes of a tar with members of such names, sizes and modes."""
    return sum(_member_size(*member) for member in members) + len(END)


def _member_size(name: str, size: int, mode: int) -> int:
    return len(member_header(name, size, mode)) + size + len(padding(size))


_KINDS = {
    tarfile.SYMTYPE: "a symlink",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a directory",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "a global header",
    tarfile.GNUTYPE_LONGNAME: "a long name of GNU tar",
    tarfile.GNUTYPE_LONGLINK: "a long name of GNU tar",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.REGTYPE: "a file",
    tarfile.AREGTYPE: "a file",
}


def describe_header(found: bytes) -> str:
    """Say what the block of a tar is that stands where another was expected."""
    if not found.strip(b"\0"):
        return "the end"
    try:
        info = tarfile.TarInfo.frombuf(found[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return "no header"
    kind = _KINDS.get(info.type, "a member of an unknown type")
    return f"{kind}, {info.name!r}" + (f" to {info.linkname!r}" if info.linkname else "")
