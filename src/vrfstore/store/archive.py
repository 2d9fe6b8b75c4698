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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name

from vrfstore import codec
from vrfstore.errors import WheelError
from vrfstore.model import Digest
from vrfstore.store.entry_plan import DATA, HEADERS, SCRIPTS
from vrfstore.store.layout import SITE_PACKAGES
from vrfstore.store.manifest import StoredFile, parents
from vrfstore.store.wheel import _problem_with_name as problem_with_name
from vrfstore.store.wheel import parse_filename

if TYPE_CHECKING:
    import zstandard

__all__ = [
    "BLOCK",
    "CONTENTS",
    "END",
    "FILE",
    "WINDOW_LOG",
    "ArchivedEntry",
    "ArchivedEnvironment",
    "ArchivedLock",
    "Contents",
    "FormatError",
    "Target",
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
    "name_problem",
    "own_files",
    "padding",
    "tar_size",
    "tree_digest",
]

_FORMAT = "vrfstore-archive"
_SCHEMA = 1

CONTENTS = "vrfstore-archive.json"
"""The name of the first member."""

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

_LARGEST = 1 << 60
"""Bytes. A larger number in an archive is nonsense."""


class FormatError(Exception):
    """An archive says what it may not. ``member`` names what is to blame, if it is one member."""

    def __init__(self, message: str, member: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.member = member


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivedEntry:
    """An entry of an archive: either its own files, or its wheel.

    Attributes:
        digest: The wheel's SHA-256.
        name: Its normalised name.
        version: Its version.
        filename: The wheel's file name.
        tree: What all its own files come to, see ``tree_digest``; empty where the wheel comes instead.
        manifest: Bytes of its manifest; 0 where the wheel comes instead.
        size: Bytes of its own files together, or of the wheel.
    """

    digest: Digest
    name: str
    version: str
    filename: str
    tree: str
    manifest: int
    size: int

    @property
    def wheel_member(self) -> str:
        """The name of the member that is the wheel itself, where there is one."""
        return f"entries/{self.digest}/{self.filename}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivedLock:
    """A lock of an archive: the SHA-256 of its text, and bytes."""

    digest: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What an interpreter has to be for an environment: what wheels are built for, and not where it is.

    Attributes:
        implementation: ``cpython``.
        python: ``X.Y``. Releases of one X.Y have one ABI (PEP 387), so that X.Y.Z does not matter.
        cache_tag: Such as ``cpython-313`` (PEP 3147).
        abi_flags: ``t`` for a free-threaded build, else mostly empty.
        platform: As ``sysconfig.get_platform()``.
    """

    implementation: str
    python: str
    cache_tag: str
    abi_flags: str
    platform: str

    @classmethod
    def of(cls, identity: Mapping[str, object]) -> Target:
        """Return what an interpreter's identity, as environments record it, comes to elsewhere."""
        return cls(
            implementation=str(identity["implementation"]),
            python=".".join(str(identity["version"]).split(".")[:2]),
            cache_tag=str(identity["cache_tag"]),
            abi_flags=str(identity["abi_flags"]),
            platform=str(identity["platform"]),
        )

    def __str__(self) -> str:
        return f"{self.implementation} {self.python}{self.abi_flags} on {self.platform}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivedEnvironment:
    """An environment of an archive: what it was linked for, the digest of its lock, and those of its wheels."""

    target: Target
    lock: str
    wheels: tuple[Digest, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """All that is in an archive, each kind in the order of ``sorted``: the first member."""

    entries: tuple[ArchivedEntry, ...]
    environments: tuple[ArchivedEnvironment, ...] = ()
    locks: tuple[ArchivedLock, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the first member's content."""
        return codec.dumps(
            {
                "format": _FORMAT,
                "schema": _SCHEMA,
                "entries": [asdict(entry) for entry in self.entries],
                "environments": [asdict(environment) for environment in self.environments],
                "locks": [asdict(lock) for lock in self.locks],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Contents:
        """Return what the first member of an archive says.

        Raises:
            FormatError: It is of another schema, not in the one form there is, or does not make sense.
        """
        try:
            value = codec.loads(data)
            if value["format"] == _FORMAT and value["schema"] != _SCHEMA:
                raise FormatError(
                    f"it is of schema {value['schema']!r}; this version knows {_SCHEMA}", CONTENTS
                )
            contents = cls(
                entries=tuple(ArchivedEntry(**entry) for entry in value["entries"]),
                environments=tuple(map(_environment, value["environments"])),
                locks=tuple(ArchivedLock(**lock) for lock in value["locks"]),
            )
            # Whatever is there too, twice, or a 1.0 or true for a 1, would be written in another way.
            known = contents.to_bytes() == data
        except (ValueError, KeyError, TypeError, AttributeError, UnicodeError) as error:
            raise FormatError(f"it cannot be read: {type(error).__name__}", CONTENTS) from error
        if not known:
            raise FormatError("it is not in the form that vrfstore writes", CONTENTS)
        contents.check()
        return contents

    def check(self) -> None:
        """Check that everything is of its type, in order, and refers to what is there.

        Raises:
            FormatError: It is not.
        """
        for entry in self.entries:
            _check_entry(entry)
        for lock in self.locks:
            _check_digest(lock.digest)
            _check_number(lock.size)
        _check_order([_entry_order(entry) for entry in self.entries])
        _check_order([lock.digest for lock in self.locks])
        digests = {entry.digest for entry in self.entries}
        if len(digests) != len(self.entries):
            raise FormatError("it has one wheel twice", CONTENTS)
        for environment in self.environments:
            if any(not isinstance(text, str) for text in asdict(environment.target).values()):
                raise FormatError("an environment is for no interpreter", CONTENTS)
            for digest in (environment.lock, *environment.wheels):
                _check_digest(digest)
            _check_order(environment.wheels)
            if not digests.issuperset(environment.wheels):
                raise FormatError("an environment has wheels that are not in the archive", CONTENTS)
        _check_order([_environment_order(environment) for environment in self.environments])
        if {environment.lock for environment in self.environments} != {lock.digest for lock in self.locks}:
            raise FormatError("the locks are not those of the environments", CONTENTS)

    @classmethod
    def of(
        cls,
        entries: Iterable[ArchivedEntry],
        environments: Iterable[ArchivedEnvironment],
        locks: Iterable[ArchivedLock],
    ) -> Contents:
        """Return contents in their order, everything once."""
        return cls(
            entries=tuple(sorted(set(entries), key=_entry_order)),
            environments=tuple(sorted(set(environments), key=_environment_order)),
            locks=tuple(sorted(set(locks), key=lambda lock: lock.digest)),
        )


def _environment(value: Mapping[str, Any]) -> ArchivedEnvironment:
    target, lock, wheels = value["target"], value["lock"], value["wheels"]
    return ArchivedEnvironment(target=Target(**target), lock=lock, wheels=tuple(wheels))


def _entry_order(entry: ArchivedEntry) -> tuple[str, str, str]:
    return entry.name, entry.version, entry.digest


def _environment_order(environment: ArchivedEnvironment) -> tuple[object, ...]:
    return environment.lock, tuple(asdict(environment.target).values()), environment.wheels


def _check_order(keys: Sequence[Any]) -> None:
    if any(first >= second for first, second in itertools.pairwise(keys)):
        raise FormatError("it is not in order, or has something twice", CONTENTS)


def _check_entry(entry: ArchivedEntry) -> None:
    _check_digest(entry.digest)
    _check_number(entry.manifest)
    _check_number(entry.size)
    if entry.tree != "":  # whatever else is false is no digest either
        _check_digest(entry.tree)
    if bool(entry.tree) is not (entry.manifest > 0):
        raise FormatError("an entry comes neither as its files nor as its wheel", CONTENTS)
    problem = name_problem(entry.filename)
    if problem or "/" in entry.filename:
        raise FormatError(f"the file name {entry.filename!r} {problem or 'is none'}", CONTENTS)
    try:
        name, version, _ = parse_filename(entry.filename)
    except WheelError as error:
        raise FormatError(error.message, CONTENTS) from error
    if (entry.name, entry.version) != (str(name), str(version)):
        raise FormatError(f"{entry.filename} is not the wheel of {entry.name!r} {entry.version!r}", CONTENTS)


def _check_digest(text: object) -> None:
    if not isinstance(text, str) or len(text) != 64 or set(text) - set("0123456789abcdef"):  # noqa: PLR2004
        raise FormatError(f"{text!r} is no SHA-256", CONTENTS)


def _check_number(number: object) -> None:
    if type(number) is not int or not 0 <= number <= _LARGEST:  # True is an int
        raise FormatError(f"{number!r} is no size", CONTENTS)


def name_problem(name: object) -> str | None:
    """Say what is wrong with the path of a file, if anything is: what may not be in a wheel may not be here."""
    if not isinstance(name, str):
        return "is no text"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has half a character in its name"
    return "is a directory" if name.endswith("/") else problem_with_name(name)


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
    _check_number(file.size)
    _check_digest(file.sha256)
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
