"""Comparing an entry with what its manifest says of it.

``look`` reads, ``compare`` decides. The quick way looks at what lstat(2) tells: presence, kind, size, mode and where
links lead. The full way reads every byte as well. Nothing is changed.

Bytecode is additive and not in the manifest: what a record names has to be as recorded, and a pyc that no record
names was written by an interpreter, which is worth a note and no damage.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError
from vrfstore.store.bytecode import CompiledFile, read_records, record_paths
from vrfstore.store.entry_plan import DAMAGED
from vrfstore.store.layout import BYTECODE
from vrfstore.store.manifest import Manifest, StoredFile
from vrfstore.store.store import Store
from vrfstore.values import dataclass

__all__ = ["EntryReport", "Problem", "Seen", "check_entry", "compare", "look"]

_CHUNK = 1 << 20
_MANIFEST = "manifest.json"
_FILE = 0o444
_SEALED = 0o555
_OPEN = 0o755
"""The mode of a directory for bytecode while something is put into it, or where a kill came in between."""

_PYC = re.compile(r".+\.pyc(\.\d+)?")
"""A pyc, or what an interpreter leaves that is killed while it writes one."""

_PYC_PLACE = re.compile(r"/__pycache__/[^/]+\.pyc\Z")
"""Where pycs are. Whatever else a record may name is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is not as it was published.

    Attributes:
        kind: ``changed`` (other bytes of the same size), ``size``, ``mode``, ``type``, ``missing``, ``added``,
            ``link``, ``manifest``, ``bytecode``, ``marked`` or ``unreadable``; of an environment ``dangling``,
            ``repointed``, ``changed``, ``record`` or ``unchecked``.
        path: Relative to the entry or environment.
        message: What is wrong, for people.
    """

    kind: str
    path: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One name below an entry.

    Attributes:
        kind: ``file``, ``directory``, ``link`` or ``other``.
        size: Bytes of a file.
        mode: Permission bits.
        target: Of a link.
    """

    kind: str
    size: int = 0
    mode: int = 0
    target: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryReport:
    """What was found of one entry.

    Attributes:
        directory: Its directory name.
        problems: What is wrong.
        written: The pycs that an interpreter wrote itself, relative to the entry.
        read: Bytes that were read.
    """

    directory: str
    problems: tuple[Problem, ...]
    written: tuple[str, ...] = ()
    read: int = 0


def look(root: str) -> dict[str, Seen]:
    """Return everything below a directory by relative path, without following a link.

    What goes while we look, such as a pyc on its way to its name, is not there.

    Raises:
        OSError: Something cannot be looked at.
    """
    found: dict[str, Seen] = {}
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(f"{root}/{parent}") as children:
            for child in children:
                path = f"{parent}/{child.name}" if parent else child.name
                with contextlib.suppress(FileNotFoundError):
                    found[path] = _seen(child)
                    if found[path].kind == "directory":
                        waiting.append(path)
    return found


def _seen(child: os.DirEntry[str]) -> Seen:
    status = child.stat(follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        return Seen(kind="file", size=status.st_size, mode=mode)
    if stat.S_ISDIR(status.st_mode):
        return Seen(kind="directory", mode=mode)
    if stat.S_ISLNK(status.st_mode):
        return Seen(kind="link", target=os.readlink(child.path))
    return Seen(kind="other")


def compare(
    manifest: Manifest, compiled: Mapping[str, CompiledFile], found: Mapping[str, Seen]
) -> tuple[list[Problem], list[str]]:
    """Compare what there is with what there should be, as far as lstat(2) tells.

    Args:
        manifest: What the entry holds.
        compiled: The pycs that records name, by path.
        found: What ``look`` saw.

    Returns:
        The problems, and the pycs that an interpreter wrote itself.
    """
    files = (*manifest.own_files, _own_file(manifest))
    lender = manifest.lender
    problems = [
        *itertools.chain.from_iterable(_compare_file(file, found.get(file.path)) for file in files),
        *itertools.chain.from_iterable(
            _compare_link(path, target, found.get(path)) for path, target in manifest.links.items()
        ),
        *itertools.chain.from_iterable(
            _compare_directory(path, found.get(path)) for path in sorted(manifest.directories)
        ),
        # One that somebody removed is compiled again by whoever imports it.
        *(
            _problem("bytecode", path, "is not what was compiled")
            for path, pyc in compiled.items()
            if path in found
            and found[path] != Seen(kind="file", size=pyc.size, mode=_FILE)
            and not (lender and found[path] == Seen(kind="link", target=f"{lender}/{path}"))
        ),
    ]
    known = {*(file.path for file in manifest.files), *manifest.links, *manifest.directories, _MANIFEST}
    written: list[str] = []
    for path, seen in found.items():
        if path in known or path in compiled:
            continue
        if not _is_bytecode(path, seen):
            problems.append(_problem("added", path, "does not belong to the entry"))
        elif seen.kind == "file" and not path.startswith(f"{BYTECODE}/"):
            written.append(path)
    return problems, sorted(written)


def _own_file(manifest: Manifest) -> StoredFile:
    """Return what the manifest itself has to be: there is one form of each."""
    data = codec.dumps(manifest.to_json())
    return StoredFile(path=_MANIFEST, size=len(data), mode=_FILE, sha256=codec.hexdigest(data))


def _compare_link(path: str, target: str, seen: Seen | None) -> Iterator[Problem]:
    if seen is None:
        yield _problem("missing", path, "is missing")
    elif seen.kind != "link" or seen.target != target:
        yield _problem("link", path, f"does not lead to {target}")


def _compare_directory(path: str, seen: Seen | None) -> Iterator[Problem]:
    if seen is None:
        yield _problem("missing", path, "is missing")
    elif seen.kind != "directory":
        yield _problem("type", path, f"is no directory any more, but a {seen.kind}")
    elif seen.mode != _SEALED and not (_for_bytecode(path) and seen.mode == _OPEN):
        yield _problem("mode", path, f"has the mode {seen.mode:o} instead of {_SEALED:o}")


def _compare_file(file: StoredFile, seen: Seen | None) -> Iterator[Problem]:
    if seen is None:
        yield _problem("missing", file.path, "is missing")
    elif seen.kind != "file":
        yield _problem("type", file.path, f"is no file any more, but a {seen.kind}")
    else:
        if seen.size != file.size:
            yield _problem("size", file.path, f"has {seen.size} bytes instead of {file.size}")
        if seen.mode != file.mode:
            yield _problem("mode", file.path, f"has the mode {seen.mode:o} instead of {file.mode:o}")


def _for_bytecode(path: str) -> bool:
    return path == BYTECODE or path.endswith("/__pycache__")


def _is_bytecode(path: str, seen: Seen) -> bool:
    parent, _, name = path.rpartition("/")
    if seen.kind == "directory":
        # Where it was not made at ingest, as below data/, root's interpreters make it.
        return name == "__pycache__"
    if seen.kind != "file":
        return False
    if parent == BYTECODE:
        return name.endswith(".json")
    return parent.rpartition("/")[2] == "__pycache__" and _PYC.fullmatch(name) is not None


def _problem(kind: str, path: str, message: str) -> Problem:
    return Problem(kind=kind, path=path, message=f"{path or 'its directory'} {message}")


def check_entry(
    store: Store, directory: str, *, full: bool, stopped: Callable[[], bool] = lambda: False
) -> EntryReport:
    """Return what is wrong with an entry.

    Args:
        store: The store.
        directory: The entry's directory name.
        full: Read every byte.
        stopped: Asked before each file whether to leave the rest unread.

    Raises:
        FileNotFoundError: There is no such entry, or it has just been collected.
    """
    while True:
        before = _state(store, directory)
        report = _check(store, directory, full=full, stopped=stopped)
        # What is collected, repaired or compiled meanwhile looks damaged.
        if not report.problems or _state(store, directory) == before:
            return report


def _state(store: Store, directory: str) -> tuple[int, int, tuple[str, ...]]:
    """Return what is another when an entry has been replaced, marked or compiled."""
    root = store.layout.of("entries", directory)
    top = os.lstat(root)
    records: list[str] = []
    with contextlib.suppress(OSError):
        records = record_paths(store.layout, directory)
    # The directory of records as well: one that came and went is seen there alone.
    return top.st_ino, top.st_ctime_ns, tuple(map(fs.stat_token, [f"{root}/{BYTECODE}", *records]))


def _check(store: Store, directory: str, *, full: bool, stopped: Callable[[], bool]) -> EntryReport:
    root = store.layout.of("entries", directory)
    top = os.lstat(root)
    if not stat.S_ISDIR(top.st_mode):
        return _unreadable(directory, _problem("type", "", "is no directory any more"))
    try:
        manifest = _manifest(store, directory)
        found = look(root)
        compiled, problems = _compiled(store, directory)
    except StoreDamagedError as error:
        return _unreadable(directory, Problem(kind="manifest", path=_MANIFEST, message=error.message))
    except OSError as error:
        path = os.path.relpath(str(error.filename), root)
        return _unreadable(directory, _problem("unreadable", path, f"cannot be read: {error.strerror}"))
    compared, written = compare(manifest, compiled, found)
    problems += compared
    if stat.S_IMODE(top.st_mode) != _SEALED:
        problems.append(_problem("mode", "", f"has the mode {stat.S_IMODE(top.st_mode):o} instead of 555"))
    marked = _mark(f"{root}/plan.json")
    if marked is not None:
        # Which is why its size and its bytes are not those of the manifest.
        problems = [problem for problem in problems if problem.path != "plan.json"]
        problems.append(_problem("marked", "plan.json", f"is marked: {marked}"))
    read = 0
    if full:
        # What has another mode may have other bytes too, and a repair that goes by this would leave them.
        wrong = {problem.path for problem in problems if problem.kind != "mode"}
        # What is in a shared store is for its owner to look at.
        here = {path for path, seen in found.items() if seen.kind != "link"}
        contents = {path: pyc.sha256 for path, pyc in compiled.items() if path in here}
        contents |= {file.path: file.sha256 for file in (*manifest.own_files, _own_file(manifest))}
        changed, read = _check_bytes(
            root, {path: sha256 for path, sha256 in contents.items() if path not in wrong}, stopped
        )
        problems += [
            _problem("bytecode" if path in compiled else kind, path, message)
            for path, kind, message in changed
        ]
    return EntryReport(
        directory=directory,
        problems=tuple(sorted(problems, key=lambda problem: problem.path)),
        written=tuple(written),
        read=read,
    )


def _manifest(store: Store, directory: str) -> Manifest:
    manifest = store.manifest(directory)
    if manifest.reference.directory != directory:
        raise StoreDamagedError(f"manifest.json is that of {manifest.reference.directory}")
    return manifest


def _unreadable(directory: str, problem: Problem) -> EntryReport:
    return EntryReport(directory=directory, problems=(problem,))


def _check_bytes(
    root: str, contents: Mapping[str, str], stopped: Callable[[], bool]
) -> tuple[list[tuple[str, str, str]], int]:
    """Return (path, kind, message) of each file whose SHA-256 is another one, and how many bytes were read."""
    changed = []
    read = 0
    for path, sha256 in contents.items():
        if stopped():
            break
        try:
            digest, size = _sha256(f"{root}/{path}")
        except OSError as error:
            changed.append((path, "unreadable", f"cannot be read: {error.strerror}"))
            continue
        read += size
        if digest != sha256:
            changed.append((path, "changed", "has other bytes than were published"))
    return changed, read


def _compiled(store: Store, directory: str) -> tuple[dict[str, CompiledFile], list[Problem]]:
    """Return the pycs that the records of an entry name, and the records that cannot be read."""
    records = read_records(store.layout, directory)
    problems = []
    paths = record_paths(store.layout, directory) if _has_records(store, directory) else []
    if len(records) < len(paths):
        problems.append(_problem("bytecode", BYTECODE, "has a record that cannot be read"))
    return {
        pyc.path: pyc for record in records for pyc in record.files if _PYC_PLACE.search(pyc.path)
    }, problems


def _has_records(store: Store, directory: str) -> bool:
    return os.path.isdir(f"{store.layout.of('entries', directory)}/{BYTECODE}")


def _mark(plan: str) -> str | None:
    """Return what a repair without a source has noted in a plan, if it did."""
    try:
        value = codec.loads(fs.read_file(plan))
        return str(value[DAMAGED]) if DAMAGED in value else None
    except (OSError, ValueError, TypeError):
        return None


def _sha256(path: str) -> tuple[str, int]:
    """Return the SHA-256 of a file and its size; never waits, follows no link."""
    size = 0
    sha256 = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as stream:
        while data := stream.read(_CHUNK):
            sha256.update(data)
            size += len(data)
    return sha256.hexdigest(), size
