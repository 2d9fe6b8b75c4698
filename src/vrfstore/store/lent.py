"""What is believed of an entry in a shared store: its files and what its wheel says of itself, and nothing derived.

Whoever writes a shared store has his code run by those who borrow, once they run something. Before that, and with
whatever rights they link, he gets nothing: no name leads out of the entry that is made, no file of it has more
permissions than one of a wheel, and trees, ready-made links and RECORD are derived here, as they are of a wheel.
Pure: values only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType

from vrfstore import codec
from vrfstore.errors import WheelError
from vrfstore.model import EntryPlan, EntryReference, Libraries, Node
from vrfstore.store.archive_contents import name_problem
from vrfstore.store.entry_plan import HEADERS, INSTALLED, SCRIPTS, ready_links, scheme_trees
from vrfstore.store.layout import BYTECODE, SITE_PACKAGES
from vrfstore.store.manifest import Manifest, StoredFile, bytecode_directories, parents
from vrfstore.store.record_file import ready_record
from vrfstore.store.wheel import parse_filename
from vrfstore.values import dataclass, replace

__all__ = ["RECORD", "Lent", "UnbelievableError", "is_pyc", "lent", "stored"]

RECORD = "links/RECORD"
_INSTALLER = "links/INSTALLER"
_SCRIPT = "links/bin/"
_PLAN = "plan.json"
_FILE, _PROGRAM = 0o444, 0o555

_MOST_COPIED = 1 << 26
"""Bytes of all that is copied, which are read as a whole: scripts of some hundred bytes each."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PYC = re.compile(rf"{SITE_PACKAGES}/(.+/)?__pycache__/[^/]+\.pyc", re.DOTALL)


class UnbelievableError(ValueError):
    """What is said of an entry cannot be true of any that vrfstore has made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lent:
    """An entry as it is taken from a shared store.

    Attributes:
        plan: Ours.
        files: What it consists of, without plan and RECORD.
        links: The targets of the ready-made links, by path.
        record: The ready-made RECORD.
    """

    plan: EntryPlan
    files: tuple[StoredFile, ...]
    links: Mapping[str, str]
    record: bytes

    @property
    def copied(self) -> tuple[StoredFile, ...]:
        """The files that are not linked to: what is ready-made is small, and scripts go by where they are."""
        return tuple(file for file in self.files if file.path.startswith("links/"))


def lent(theirs: EntryPlan, manifest: Manifest, reference: EntryReference, shared: str) -> Lent:
    """Return an entry as it is taken from a shared store.

    Args:
        theirs: What its plan says.
        manifest: What its manifest says.
        reference: Which entry is made of it.
        shared: The absolute path of theirs.

    Raises:
        UnbelievableError: No entry is like that.
    """
    _check_words(theirs, manifest, reference)
    files = {file.path: file for file in manifest.files if file.path not in {_PLAN, RECORD}}
    _check_files(manifest.files, files)
    record = f"{theirs.dist_info}/RECORD"
    if f"{SITE_PACKAGES}/{theirs.dist_info}/METADATA" not in files or _INSTALLER not in files:
        raise UnbelievableError("it has no METADATA, or no INSTALLER")
    ready = {
        f"{SITE_PACKAGES}/{record}": RECORD,
        f"{SITE_PACKAGES}/{theirs.dist_info}/INSTALLER": _INSTALLER,
        **{f"{SCRIPTS}/{path.removeprefix(_SCRIPT)}": path for path in files if path.startswith(_SCRIPT)},
    }
    paths: dict[str, list[str]] = {}
    for place in sorted({*files, *ready}):
        scheme, _, path = place.partition("/")
        paths.setdefault(scheme, []).append(path)
    directories = parents(paths.get(SITE_PACKAGES, ()))
    namespaces = frozenset(_namespaces(theirs.trees.get(SITE_PACKAGES), directories))
    trees, links = scheme_trees(
        paths, dist_info=theirs.dist_info, pkgutil_namespaces=namespaces - {theirs.dist_info}, ready=ready
    )
    data, record_links = ready_record(files.values(), trees, ready=ready, record=record)
    plan = replace(
        theirs,
        reference=reference,
        unpacked=sum(file.size for file in files.values()) + len(data),
        trees=trees,
        record_links=record_links,
        record_ready=HEADERS not in trees,
        members=(),
        shared=shared,
    )
    return Lent(
        plan=plan,
        files=tuple(files.values()),
        links={f"links/{name}": target for name, target in ready_links(reference.directory, links)},
        record=data,
    )


def is_pyc(path: str, known: Iterable[str]) -> bool:
    """Whether this may be the path of bytecode in an entry with these further files."""
    return _PYC.fullmatch(path) is not None and name_problem(path) is None and path not in known


def _check_words(plan: EntryPlan, manifest: Manifest, reference: EntryReference) -> None:
    """Check what is taken as it is said.

    Raises:
        UnbelievableError: It is not what it should be.
    """
    if not _are(dict, [plan.trees]) or not _are(str, [plan.dist_info]) or "/" in plan.dist_info:
        raise UnbelievableError("its plan has no trees, or no dist-info")
    if not _are(str, plan.tags) or not _are(str | None, [plan.requires_python]):
        raise UnbelievableError("its plan does not say what it is for")
    if not _are(str, _words(plan.libraries)):
        raise UnbelievableError("its plan has libraries without names")
    try:
        name, version, *_ = parse_filename(manifest.filename)
    except WheelError as error:
        raise UnbelievableError(error.message) from error
    if (str(name), str(version)) != (reference.name, reference.version):
        raise UnbelievableError(f"{manifest.filename!r} is the file name of another wheel")


def _are(kind: type | UnionType, values: Iterable[object]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _words(libraries: Libraries) -> Iterator[object]:
    for directory, names in libraries.shipped.items():
        yield from (directory, *names)
    for needed in libraries.needs:
        yield from needed
    yield from libraries.escapes


def _check_files(said: tuple[StoredFile, ...], files: Mapping[str, StoredFile]) -> None:
    """Check that all files can be made, each once, and no other than a wheel may have.

    Args:
        said: All that a manifest names.
        files: Those that are taken, by path.

    Raises:
        UnbelievableError: They cannot, or are others.
    """
    if len({file.path for file in said}) < len(said):
        raise UnbelievableError("the manifest names one file twice")
    for file in files.values():
        place, _, path = file.path.partition("/")
        problem = name_problem(path)
        if problem is None and place not in INSTALLED:
            prepared = file.path == _INSTALLER or file.path == f"{_SCRIPT}{path.rpartition('/')[2]}"
            problem = None if prepared else "is in no place for files"
        if problem is not None:
            raise UnbelievableError(f"the manifest names {file.path!r}, which {problem}")
        if file.mode not in {_FILE, _PROGRAM} or file.size < 0 or _SHA256.fullmatch(file.sha256) is None:
            raise UnbelievableError(f"{file.path!r} has a mode, a size or a SHA-256 that no file has")
    directories = {"links", BYTECODE} | parents(files) | bytecode_directories(files)
    if both := sorted(directories & files.keys()):
        raise UnbelievableError(f"the manifest has {both[0]!r} as a file and as a directory")
    if sum(file.size for path, file in files.items() if path.startswith("links/")) > _MOST_COPIED:
        raise UnbelievableError("its scripts are too large")


def _namespaces(tree: Node | None, directories: frozenset[str], path: str = "") -> Iterator[str]:
    """Yield the packages that a plan has unfolded, as it does where they declare a shared namespace.

    Args:
        tree: What is said of a directory.
        directories: Those that there are; no tree is deeper, whatever is said.
        path: Of this one, below site-packages.
    """
    if not isinstance(tree, dict):
        return
    if "__init__.py" in tree and "" not in tree:
        yield path
    for name, node in tree.items():
        below = f"{path}/{name}" if path else name
        if below in directories:
            yield from _namespaces(node, directories, below)


def stored(path: str, data: bytes) -> StoredFile:
    """Return a file that is made here, as a manifest has it."""
    return StoredFile(path=path, size=len(data), mode=_FILE, sha256=codec.hexdigest(data))
