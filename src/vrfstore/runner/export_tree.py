"""``env export-tree``: a copy of an environment that stands alone, for an image or another machine.

::

    environment ──lease──▶ walk (what is there; links into the store are looked behind) ──▶ _Tree
                                 └─▶ RECORDs and scripts for a real tree ─▶ .NAME.<random>.part ──rename──▶ NAME

What is walked is the environment as it is on the disk, not what was linked, so that what its owner has added is there
too. Nothing is followed but links into entries of the store.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import errno
import hashlib
import io
import os
import posixpath
import re
import stat
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NoReturn, TypeAlias

from vrfstore import fs
from vrfstore import interpreter as probing
from vrfstore.errors import BusyError, InterpreterError, StoreDamagedError, UsageError, VrfstoreError
from vrfstore.linker.plan import (
    BASE_PTH,
    ENVIRONMENT_RECORD,
    SENTINEL,
    USER_SITE_PTH,
    Merge,
    plan_environment,
)
from vrfstore.model import Digest, EntryReference, Event, Interpreter, Watcher, nobody
from vrfstore.needs import Described, described, needs
from vrfstore.store import condemned, externals, interpreters, leases, records
from vrfstore.store.entry_plan import INSTALLED
from vrfstore.store.externals import ExternalRecord
from vrfstore.store.layout import SITE_PACKAGES
from vrfstore.store.leases import Lease
from vrfstore.store.record_file import record_bytes
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.scripts import trampolined
from vrfstore.store.store import Store
from vrfstore.values import dataclass, field, replace

__all__ = ["ExportTreeResult", "export_tree", "tree_record"]

_Record: TypeAlias = "EnvironmentRecord | ExternalRecord"

_NAME_LIMIT = 50
"""Characters of the destination's name in that of what is not finished, which has to be a name itself."""

_READ_LIMIT = 1 << 20
"""Bytes: files of the environment's own that are not larger are read, to see whether they name a place."""

_WRITABLE = stat.S_IWUSR
_TRAVERSABLE = stat.S_IRWXU
_PERMISSIONS = 0o777

_CACHE = "__pycache__"
_PYC_HEAD = 8
_HASH_BASED = 1
"""In the fifth byte of a pyc: it holds whatever the times of its module are (PEP 552)."""

_UNFINISHED = re.compile(rf"\.vrfstore-[0-9a-f]+|\.{re.escape(ENVIRONMENT_RECORD)}\.[0-9a-f]+")
"""At the top of an environment: what a killed ``link --into`` may have left."""

_LONG_SHEBANG = re.compile(rb"#!/bin/sh\n'''exec' [\"']?([^\n\"']+)[\"']? \"\$0\" \"\$@\"\n' '''\n")
"""What installers write in place of a ``#!`` line that would be too long, or has a space in its path."""

_SHEBANG = re.compile(rb"#! *([^\n]+?) *\r?\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportTreeResult:
    """What ``export_tree`` made.

    Attributes:
        path: Where the copy is, absolute.
        python: The absolute path of its python.
        files: How many regular files it has.
        size: Their bytes.
        warnings: What the caller should know.
        timings: Seconds by step: ``scan``, ``copy``, ``total``.
    """

    path: str
    python: str
    files: int
    size: int
    warnings: tuple[str, ...]
    timings: Mapping[str, float]


def export_tree(
    target: str,
    destination: str,
    *,
    store: Store,
    python: str | None = None,
    watch: Watcher | None = None,
) -> ExportTreeResult:
    """Make a copy of an environment that has no link into the store and can be moved.

    Packages of the base are not copied; what is needed of them is a warning. Neither the store nor the environment
    is changed. A kill leaves nothing but ``.NAME.<random>.part`` beside the destination.

    Args:
        target: A managed environment: its path, its directory name, or the beginning of one; or the path of an
            external environment.
        destination: Where the copy goes: nothing is there yet, or an empty directory.
        store: Where the environment's entries are; opened to look is enough.
        python: The absolute path of the base interpreter where the copy is going to be; by default that of the
            environment.
        watch: Is told how much is there to copy (``missing``), and of each file (``received``, ``unpacked``).

    Raises:
        UsageError: The target is no environment, or the destination cannot be had.
        StoreDamagedError: An entry is gone or damaged.
        BusyError: The environment was changed meanwhile.
        OSError: The disk is full.
    """
    began = time.perf_counter()
    if python is not None and not (python.startswith("/") and python.isprintable()):
        raise UsageError(
            f"{python!r} is not an absolute path of a python",
            kind="python-path",
            hint="such as /usr/bin/python3",
        )
    with ExitStack() as stack:
        source = _find(store, stack, target)
        output = _Output(destination, (source.real, os.path.realpath(store.root)))
        base = _base(source, python)
        tree = _Scan(source, base).run(_fresh(source, base, output.path))
        warnings = [*tree.warnings, *_needs_of_base(source, tree)]
        scanned = time.perf_counter()
        output.write(tree, source, watch or nobody)
        copied = time.perf_counter()
    return ExportTreeResult(
        path=output.path,
        python=f"{output.path}/bin/python",
        files=len(tree.files) + len(tree.texts),
        size=tree.size,
        warnings=tuple(warnings),
        timings={"scan": scanned - began, "copy": copied - scanned, "total": time.perf_counter() - began},
    )


@dataclass(slots=True)
class _Source:
    """An environment that is being read, and what of the store is leased for that.

    Attributes:
        store: The store.
        root: The environment's absolute path.
        record: Its record.
        stack: Ends the leases.
        lease: Of all that the record names; None where the store may only be read.
        leased: The directory names of the entries that are known to stay.
        state: What tells that somebody has put something there, or removed it, since it was found.
    """

    store: Store
    root: str
    record: _Record
    stack: ExitStack
    lease: Lease | None = None
    leased: set[str] = field(default_factory=set)
    state: tuple[str, ...] = ()

    @property
    def real(self) -> str:
        """Its real path."""
        return os.path.realpath(self.root)

    @property
    def site(self) -> str:
        """Its site-packages, relative to it."""
        return f"lib/{self.record.library}/{SITE_PACKAGES}"

    @property
    def places(self) -> tuple[str, ...]:
        """The paths that nothing in a copy may name."""
        return tuple({self.root, self.real, self.store.root, os.path.realpath(self.store.root)})

    def keep(self, directories: Collection[str], digests: Iterable[Digest], key: str | None = None) -> None:
        """Lease entries and the environment; whichever is there after that stays.

        Raises:
            BusyError: A collector is at work on one of them.
        """
        names = {f"entries/{directory}" for directory in directories}
        names |= {f"environments/{os.path.basename(self.root)}"} if key else set()
        if _may_write(self.store):
            # Looking needs no room on the disk; at worst something is collected while it is looked at.
            with contextlib.suppress(OSError):
                self.lease = self.stack.enter_context(
                    leases.take(self.store.layout, environment=key, digests=digests)
                )
                # In this order: see store.condemned.
                condemned.wait_until_clear(self.store.layout, names)
        for directory in directories:
            if not os.path.isdir(self.store.layout.of("entries", directory)):
                raise _gone(self.store, directory)
        self.leased |= set(directories)

    def keep_entry(self, directory: str) -> None:
        """Lease an entry that the record does not name, but a link leads to."""
        if directory not in self.leased:
            try:
                digest = self.store.plan(directory, even_marked=True).reference.digest
            except FileNotFoundError:
                raise _gone(self.store, directory) from None
            before = self.lease
            self.keep([directory], [digest])
            self.lease = before or self.lease

    def remember(self) -> None:
        """Remember how the environment is, for ``check_unchanged``.

        Raises:
            StoreDamagedError: One of its directories is none.
        """
        self.state = self._state()

    def check_unchanged(self) -> None:
        """Raise where the environment is not what it was when it was found."""
        try:
            now = _record(self.store, self.root, managed=isinstance(self.record, EnvironmentRecord))
            unchanged = now == self.record and self._state() == self.state
        except (FileNotFoundError, VrfstoreError):
            unchanged = False
        if not unchanged:
            raise _changed(self.root)

    def _state(self) -> tuple[str, ...]:
        """Return the tokens of the directories that tools put things into.

        Raises:
            StoreDamagedError: One is not there, or somebody has made it a link, which would lead a copy elsewhere.
        """
        tokens = []
        for path in ("", "/bin", "/lib", f"/lib/{self.record.library}", f"/{self.site}"):
            place = f"{self.real}{path}"
            if os.path.islink(place) or not os.path.isdir(place):
                raise StoreDamagedError(
                    f"{path[1:]} is no directory",
                    kind="environment-damaged",
                    path=place,
                    hint="link it again",
                )
            tokens.append(records.own_token(place))
        return tuple(tokens)


def _find(store: Store, stack: ExitStack, target: str) -> _Source:
    """Return the environment that is meant, with all that it refers to leased.

    Raises:
        UsageError: It is none.
        StoreDamagedError: Its record cannot be read, or something that it refers to is gone.
    """
    place = _external(store, target)
    managed = place is None
    if place is None:
        real = os.path.realpath(target)
        inside = os.path.dirname(real) == os.path.realpath(store.layout.of("environments"))
        part, directory = store.find(real if inside else target)
        if part != "environments":
            raise UsageError(
                f"{target!r} is an entry, and no environment",
                kind="target-unknown",
                hint="see: vrfstore list",
            )
        place = store.layout.of("environments", directory)
    try:
        record = _record(store, place, managed=managed)
        source = _Source(store, place, record, stack)
        references = (*record.wheels, *record.composites)
        source.keep(
            [reference.directory for reference in references],
            [reference.digest for reference in references],
            record.key if isinstance(record, EnvironmentRecord) else None,
        )
        if _record(store, place, managed=managed) != record:
            raise _changed(place)
        source.remember()
    except FileNotFoundError:
        raise UsageError(
            f"{target!r} has just been collected", kind="target-unknown", hint="see: vrfstore list"
        ) from None
    return source


def _external(store: Store, target: str) -> str | None:
    """Return the absolute path of the external environment that is meant, if one is.

    Raises:
        UsageError: It is a managed one of another store.
    """
    place = os.path.abspath(target)
    if not target or not os.path.lexists(f"{place}/{ENVIRONMENT_RECORD}"):
        return None
    above = os.path.dirname(os.path.realpath(place))
    owner = os.path.dirname(above)
    if not os.path.isfile(f"{owner}/store.json") or os.path.basename(above) != "environments":
        return place
    if not os.path.samefile(owner, store.root):
        raise _of_another_store(place, owner)
    return None


def _of_another_store(path: str, store: str) -> UsageError:
    return UsageError(
        f"the environment belongs to the store at {store}",
        kind="store-other",
        path=path,
        hint=f"give it with --store {store}",
    )


def _record(store: Store, path: str, *, managed: bool) -> _Record:
    """Return the record of an environment.

    Raises:
        FileNotFoundError: It is not there any more.
        StoreDamagedError: It cannot be read, or the environment was left unfinished.
        UsageError: It belongs to another store.
    """
    if managed:
        return store.record(os.path.basename(path))
    record = externals.read(path)
    if record is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if not record.finished:
        raise StoreDamagedError(
            "the environment was left unfinished",
            kind="environment-unfinished",
            path=path,
            hint="link it again with: vrfstore link FILE --into PATH",
        )
    if os.path.isdir(record.store) and not os.path.samefile(record.store, store.root):
        raise _of_another_store(path, record.store)
    return record


def _may_write(store: Store) -> bool:
    # Root may write into everybody's store, and must not: what it makes is of no use to the owner.
    owner = os.stat(store.layout.marker).st_uid
    return os.access(store.layout.of("leases"), os.W_OK) and os.geteuid() == owner


def _gone(store: Store, directory: str) -> StoreDamagedError:
    return StoreDamagedError(
        "the entry is gone",
        kind="entry-missing",
        path=store.layout.of("entries", directory),
        hint=f"mend it with: vrfstore verify --repair {directory}",
    )


def _changed(path: str) -> BusyError:
    return BusyError(
        "the environment was changed while it was read",
        kind="environment-changed",
        path=path,
        hint="try again",
    )


def _base(source: _Source, python: str | None) -> Interpreter:
    """Return the interpreter of the copy as far as a plan asks.

    Raises:
        StoreDamagedError: The record says nothing sensible of it.
    """
    record = source.record
    try:
        base = Interpreter.of_identity(record.interpreter, record.executable)
        if python is not None:
            # Nobody knows here whether what is at the other end is a venv.
            base = replace(base, executable=python, real=python, virtual=False, site_directories=())
    except KeyError as error:
        raise _senseless(source) from error
    if base.directory_name != record.library or "/" in record.library:
        raise _senseless(source)
    return base


def _senseless(source: _Source) -> StoreDamagedError:
    return StoreDamagedError(
        "the record makes no sense",
        kind="record-unreadable",
        path=f"{source.root}/{ENVIRONMENT_RECORD}",
        hint="link it again",
    )


def _fresh(source: _Source, base: Interpreter, place: str) -> dict[str, bytes]:
    """Return the files that belong to no wheel, for the place where the copy is going to be."""
    plan = plan_environment(
        (),
        base,
        Merge(replace(source.record.options, materialize=())),
        place=place,
        interpreter_links="",
        hashes_of=lambda _: {},
    )
    return dict(plan.files)


@dataclass(frozen=True, slots=True)
class _File:
    """A file to copy: from where, with which permission bits, its bytes, and the entry that it is in, or nothing."""

    source: str
    mode: int
    size: int
    entry: str


@dataclass(slots=True)
class _Tree:
    """What a copy consists of, by path below it."""

    directories: dict[str, int] = field(default_factory=dict)
    files: dict[str, _File] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    texts: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files.values()) + sum(
            len(text) for text, _ in self.texts.values()
        )


def _lenders(store: Store, wheels: Iterable[EntryReference]) -> Iterator[tuple[str, str]]:
    """Yield the real path of each entry in a shared store with the directory name of the one here that borrows it."""
    for wheel in wheels:
        with contextlib.suppress(FileNotFoundError, StoreDamagedError):
            plan = store.plan(wheel.directory, even_marked=True)
            if plan.shared:
                yield os.path.realpath(plan.shared), wheel.directory


@dataclass(slots=True)
class _Scan:
    """Looks at an environment, and behind its links into the store; changes nothing."""

    source: _Source
    base: Interpreter
    tree: _Tree = field(default_factory=_Tree)
    found: dict[str, bytes] = field(default_factory=dict)
    """The RECORDs of the environment, by their paths."""
    claimed: set[str] = field(default_factory=set)
    """The files that some RECORD has a hash of."""
    fresh: Mapping[str, bytes] = field(default_factory=dict)
    _store: str = ""
    _real: str = ""
    _places: tuple[bytes, ...] = ()
    _lenders: Mapping[str, str] = field(default_factory=dict)
    _waiting: list[tuple[str, str, str]] = field(default_factory=list)
    """Directories that have yet to be walked: where, path in the environment, entry."""

    def run(self, fresh: Mapping[str, bytes]) -> _Tree:
        """Return what a copy consists of.

        Args:
            fresh: The files that belong to no wheel. An activation script that a wheel brings comes first.
        """
        self._store = os.path.realpath(self.source.store.root)
        self._real = self.source.real
        self._places = tuple(map(os.fsencode, self.source.places))
        self._lenders = dict(_lenders(self.source.store, self.source.record.wheels))
        try:
            self._read_records()
            self.fresh = {path: text for path, text in fresh.items() if path not in self.claimed}
            self._waiting.append((self.source.real, "", ""))
            while self._waiting:
                self._walk(*self._waiting.pop())
        except FileNotFoundError as error:
            self._vanished(error)
        for path, text in self.fresh.items():
            self.tree.texts[path] = text, 0o644
        self.tree.links |= {
            "bin/python": self.base.real,
            "bin/python3": "python",
            f"bin/{self.base.directory_name}": "python",
        }
        for path, data in self.found.items():
            self._write_record(path, data)
        return self.tree

    def _vanished(self, error: FileNotFoundError) -> NoReturn:
        """Say whose fault it is that something is not there that was."""
        path = str(error.filename)
        if _is_below(os.path.realpath(path), f"{self._store}/entries"):
            raise _damaged(self._store, path, "a file of an entry is gone") from error
        raise _changed(self.source.root) from error

    def _read_records(self) -> None:
        """Find out which files belong to a distribution."""
        site = f"{self._real}/{self.source.site}"
        for name in sorted(os.listdir(site)):
            path = f"{site}/{name}/RECORD"
            if name.endswith(".dist-info") and os.path.realpath(path) == path and os.path.isfile(path):
                rows = _rows(fs.read_file(path)) or ()
                places = (_row_place(row[0], self.source.site, ()) for row in rows if len(row) > 1 and row[1])
                self.claimed |= {place for place in places if place is not None}

    def _walk(self, directory: str, path: str, entry: str) -> None:
        """Take what is in a directory, ``path`` in the environment; ``entry`` has it, or nobody else."""
        with os.scandir(directory) as found:
            # What was compiled after what it was compiled from.
            names = sorted((child.name for child in found), key=lambda name: (name == _CACHE, name))
        for name in names:
            place = f"{path}/{name}" if path else name
            if entry or not self._is_ours(place):
                self._take(f"{directory}/{name}", place, entry)

    def _is_ours(self, place: str) -> bool:
        """Whether something is there for the links, is made anew, or is of no use in a copy."""
        parent, _, name = place.rpartition("/")
        site = self.source.site
        return (
            place in self.fresh
            or place in {f"{site}/{BASE_PTH}", f"{site}/{USER_SITE_PTH}"}
            or (parent == "bin" and name in {"python", "python3", self.base.directory_name})
            or (not parent and (name == ENVIRONMENT_RECORD or _UNFINISHED.fullmatch(name) is not None))
            or (name == SENTINEL and place not in self.claimed)
        )

    def _take(self, source: str, place: str, entry: str) -> None:
        found = os.lstat(source)
        if stat.S_ISDIR(found.st_mode):
            self._directory(source, place, found, entry)
        elif stat.S_ISREG(found.st_mode):
            self._file(source, place, found, entry)
        elif entry and stat.S_ISLNK(found.st_mode) and self._borrower_of(end := os.path.realpath(source)):
            self._file(end, place, os.stat(end), entry)
        elif entry:
            raise _damaged(self._store, source, "something else is in the place of a file")
        elif stat.S_ISLNK(found.st_mode):
            self._link(source, place)
        else:
            self.tree.warnings.append(f"{place} is neither file, directory nor link; it was left out")

    def _directory(self, source: str, place: str, found: os.stat_result, entry: str) -> None:
        mode = stat.S_IMODE(found.st_mode) & _PERMISSIONS | _TRAVERSABLE
        if place.rpartition("/")[2] == _CACHE:
            self._bytecode(source, place, mode, entry)
            return
        self.tree.directories[place] = mode
        self._waiting.append((source, place, entry))

    def _bytecode(self, source: str, place: str, mode: int, entry: str) -> None:
        """Take the pycs of this interpreter that hold in another place too."""
        suffix = f".{self.base.cache_tag}.pyc"
        taken = False
        for name in sorted(os.listdir(source)):
            path = f"{source}/{name}"
            end, home = path, entry
            if os.path.islink(path):  # where no hard link could be made
                end = os.path.realpath(path)
                home = self._entry_of(end) or self._borrower_of(end)
            if (
                (home or end == path)
                and os.path.isfile(end)
                and self._is_wanted(end, place, name, suffix, home)
            ):
                if not taken:
                    self.tree.directories[place] = mode
                taken = True
                self._copy(end, f"{place}/{name}", os.stat(end), home)

    def _is_wanted(self, end: str, place: str, name: str, suffix: str, entry: str) -> bool:
        module = f"{posixpath.dirname(place)}/{name.removesuffix(suffix)}.py"
        if not name.endswith(suffix) or not (module in self.tree.files or module in self.tree.links):
            return False
        with fs.open_regular(end) as stream:
            head = stream.read(_PYC_HEAD)
        hash_based = len(head) == _PYC_HEAD and head[4] & _HASH_BASED == _HASH_BASED
        return hash_based and (bool(entry) or not self._mentions(fs.read_file(end)))

    def _file(self, source: str, place: str, found: os.stat_result, entry: str) -> None:
        if self._is_record(place):
            self.found[place] = fs.read_file(source)
            return
        own = not entry and found.st_nlink == 1 and found.st_size <= _READ_LIMIT
        script = not entry and place.startswith("bin/") and found.st_size <= _READ_LIMIT
        if own or script:
            data = fs.read_file(source)
            changed = self._relocated(data) if script else None
            if changed is not None:
                self.tree.texts[place] = changed, _mode(found)
            if self._mentions(data if changed is None else changed):
                self.tree.warnings.append(f"{place} has a path in it that will not be there")
            if changed is not None:
                return
        self._copy(source, place, found, entry)

    def _is_record(self, place: str) -> bool:
        directory, _, name = place.rpartition("/")
        parent, _, dist_info = directory.rpartition("/")
        return name == "RECORD" and parent == self.source.site and dist_info.endswith(".dist-info")

    def _copy(self, source: str, place: str, found: os.stat_result, entry: str) -> None:
        self.tree.files[place] = _File(source, _mode(found), found.st_size, entry)

    def _relocated(self, data: bytes) -> bytes | None:
        """Return a script that finds its python beside itself, where it now names that of the environment."""
        found = _LONG_SHEBANG.match(data)
        rest = b"#!python\n" + data[found.end() :] if found else data
        found = found or _SHEBANG.match(data)
        pythons = {place + b"/bin/python" for place in self._places}
        if found is None or not any(
            re.fullmatch(re.escape(python) + rb"[0-9.]*t?", found[1]) for python in pythons
        ):
            return None
        return trampolined(rest)

    def _mentions(self, data: bytes) -> bool:
        return any(place in data for place in self._places)

    def _link(self, source: str, place: str) -> None:
        target = os.readlink(source)
        inside = self._inside(place, target)
        end = os.path.realpath(source)
        if inside is not None:
            self.tree.links[place] = inside
        elif _is_within(end, self._real):
            self.tree.links[place] = _relative(end[len(self._real) + 1 :], place)
        elif borrower := self._borrower_of(end):
            self._take(end, place, borrower)
        elif _is_within(end, self._store) or self._was_ours(target):
            self._behind(source, place, end)
        else:
            self.tree.links[place] = target
            self.tree.warnings.append(f"{place} is a link to {target}; it was not followed")

    def _inside(self, place: str, target: str) -> str | None:
        """Return the target of a link that stays in the environment, relative; None for any other."""
        if not target.startswith("/"):
            end = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
            return None if end == ".." or end.startswith("../") else target
        end = posixpath.normpath(target)
        for root in (self.source.root, self._real):
            if _is_within(end, root):
                return _relative(end[len(root) + 1 :], place)
        return None

    def _was_ours(self, target: str) -> bool:
        """Whether a link would lead to an entry, if the store were still where it was."""
        return any(f"/entries/{directory}/" in f"{target}/" for directory in self.source.leased)

    def _entry_of(self, end: str) -> str:
        """Return the entry that has what is at a real path, which is then leased; empty where that is no such part."""
        parts = end[len(self._store) + 1 :].split("/") if _is_below(end, self._store) else []
        if len(parts) < 3 or parts[0] != "entries" or parts[1].startswith("."):  # noqa: PLR2004
            return ""
        ready = parts[2] == "links" and os.path.isfile(end)
        if not ready and parts[2] not in INSTALLED:
            return ""
        self.source.keep_entry(parts[1])
        return parts[1]

    def _borrower_of(self, end: str) -> str:
        """Return the entry that has a link to a real path in a shared store, which is then leased; empty for others."""
        found = (name for lender, name in self._lenders.items() if _is_below(end, lender))
        borrower = next(found, "")
        if borrower:
            self.source.keep_entry(borrower)
        return borrower

    def _behind(self, source: str, place: str, end: str) -> None:
        """Take what a link into the store leads to."""
        entry = self._entry_of(end)
        if not os.path.exists(end) or not _is_within(end, self._store):
            raise StoreDamagedError(
                f"{place} leads to {os.readlink(source)}, which is not there",
                kind="dangling",
                path=source,
                hint="see: vrfstore verify",
            )
        if not entry:
            self.tree.warnings.append(
                f"{place} is a link to {end}, which is part of no entry; it was left out"
            )
            return
        self._take(end, place, entry)

    def _write_record(self, path: str, data: bytes) -> None:
        tree = self.tree
        changed = {place: text for place, (text, _) in tree.texts.items()}
        present = {*tree.files, *tree.texts, *tree.links, path}
        text = tree_record(
            data, site=self.source.site, present=present, changed=changed, roots=self.source.places
        )
        if text is None:
            tree.warnings.append(f"{path} cannot be read; it was copied as it is")
        tree.texts[path] = data if text is None else text, 0o644


def _mode(found: os.stat_result) -> int:
    return stat.S_IMODE(found.st_mode) & _PERMISSIONS | _WRITABLE


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(f"{directory}/")


def _is_within(path: str, directory: str) -> bool:
    return path == directory or _is_below(path, directory)


def _relative(end: str, place: str) -> str:
    return posixpath.relpath(end or ".", posixpath.dirname(place) or ".")


def _damaged(store: str, path: str, message: str) -> StoreDamagedError:
    directory = path[len(store) + 1 :].split("/")[1] if _is_below(path, f"{store}/entries") else ""
    hint = f"mend it with: vrfstore verify --repair {directory}" if directory else "see: vrfstore verify"
    return StoreDamagedError(message, path=path, hint=hint)


def _rows(data: bytes) -> list[list[str]] | None:
    """Return the rows of a RECORD; None where it is none."""
    try:
        return [row for row in csv.reader(io.StringIO(data.decode(), newline=""), strict=True) if row]
    except (ValueError, csv.Error):
        return None


def _row_place(row: str, site: str, roots: Collection[str]) -> str | None:
    """Return the path in the environment that a row of a RECORD names; None where that is outside."""
    for root in roots:
        if _is_below(row, root):
            return posixpath.normpath(row[len(root) + 1 :])
    place = posixpath.normpath(posixpath.join(site, row))
    return None if place.startswith(("/", "../")) or place in {".", ".."} else place


def tree_record(
    data: bytes,
    *,
    site: str,
    present: Collection[str],
    changed: Mapping[str, bytes],
    roots: Sequence[str] = (),
) -> bytes | None:
    """Return a RECORD for a tree without links. Pure.

    Rows stay that name what is there, in their order; those of directory links, of bytecode that was left out and of
    what lies outside go, so that an uninstaller has the whole truth and can reach nothing else.

    Args:
        data: The RECORD of the environment.
        site: Its site-packages, relative to it.
        present: All files and links of the tree.
        changed: Those with other bytes than in the environment.
        roots: What absolute paths of the environment begin with.

    Returns:
        The bytes; None where ``data`` is no RECORD.
    """
    found = _rows(data)
    if found is None:
        return None
    rows: dict[str, list[str]] = {}
    for path, *rest in found:
        place = _row_place(path, site, roots)
        if place is None or place not in present:
            continue
        named = posixpath.relpath(place, site) if path.startswith("/") else path
        if place in changed and rest and rest[0]:
            digest = base64.urlsafe_b64encode(hashlib.sha256(changed[place]).digest()).decode().rstrip("=")
            rest = [f"sha256={digest}", str(len(changed[place]))]  # noqa: PLW2901
        rows.setdefault(place, [named, *rest])
    return record_bytes(rows.values())


class _Output:
    """A directory that appears whole or not at all.

    Args:
        destination: Its path.
        outside: Real paths that it may not lie in.
    """

    def __init__(self, destination: str, outside: Iterable[str]) -> None:
        if not destination:
            raise UsageError("the name of the destination is empty", kind="output-unwritable")
        self.path = os.path.abspath(destination)
        parent, name = os.path.split(self.path)
        self._staging = f"{parent.rstrip('/')}/.{name[:_NAME_LIMIT]}.{fs.unique_name()}.part"
        self._check_free()
        real = os.path.realpath(parent)
        for place in outside:
            if _is_within(real, place):
                raise UsageError(
                    f"{self.path} is inside of {place}",
                    kind="output-inside",
                    path=self.path,
                    hint="choose a place outside of the store and of the environment",
                )

    def _check_free(self) -> None:
        try:
            free = not stat.S_ISLNK(os.lstat(self.path).st_mode) and not os.listdir(self.path)
        except FileNotFoundError:
            free = True
        except OSError as error:
            if error.errno != errno.ENOTDIR or not os.path.lexists(self.path):
                raise self._unwritable(error) from error
            free = False
        if not free:
            raise UsageError(
                f"{self.path} is there already, and not an empty directory",
                kind="output-exists",
                path=self.path,
                hint="choose another name, or remove it",
            )

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self.path} cannot be written: {error.strerror}",
            kind="output-unwritable",
            path=None if error.filename is None else str(error.filename),
        )

    def write(self, tree: _Tree, source: _Source, watch: Watcher) -> None:
        """Copy everything beside the destination, and put it there.

        Raises:
            UsageError: It cannot be had.
            StoreDamagedError: A file of an entry is gone.
            BusyError: The environment was changed meanwhile.
            OSError: The disk is full.
        """
        try:
            fs.make_directory(self._staging)
            try:
                self._fill(tree, source, watch)
                source.check_unchanged()
                if source.store.durable:
                    fs.sync_filesystem(self._staging)
                self._check_free()
                fs.rename(self._staging, self.path)
            except BaseException:
                fs.remove_tree(self._staging)
                raise
        except OSError as error:
            mine = error.filename is None or str(error.filename).startswith((self._staging, self.path))
            if not mine or error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                raise
            self._check_free()
            raise self._unwritable(error) from error

    def _fill(self, tree: _Tree, source: _Source, watch: Watcher) -> None:
        watch(Event(kind="missing", subject="copying", total=len(tree.files)))
        for path, mode in tree.directories.items():
            fs.make_directory(f"{self._staging}/{path}", mode)
        for path, file in tree.files.items():
            try:
                fs.copy_file(file.source, f"{self._staging}/{path}", mode=file.mode)
            except OSError as error:
                if str(error.filename) != file.source or error.errno not in {errno.ENOENT, errno.EINVAL}:
                    raise
                if file.entry:
                    raise _damaged(
                        os.path.realpath(source.store.root), file.source, "a file of an entry is gone"
                    ) from error
                raise _changed(source.root) from error
            watch(Event(kind="received", subject=path, size=file.size))
            watch(Event(kind="unpacked", subject=path))
        for path, (text, mode) in tree.texts.items():
            fs.write_file(f"{self._staging}/{path}", text, mode=mode)
        # Nothing is written after there are links that lead elsewhere.
        for path, target in tree.links.items():
            fs.symlink(target, f"{self._staging}/{path}")


def _needs_of_base(source: _Source, tree: _Tree) -> Iterator[str]:
    """Yield what the copied distributions require that only the base has, as warnings."""
    record = source.record
    if record.options.isolated:
        return
    copied = _copied(source, tree)
    if not any(found.requires for found in copied):
        return
    try:
        base = _known(source)
    except InterpreterError as error:
        yield f"which packages of its base the environment needs is not known: {error}"
        return
    from vrfstore.target import marker_environment  # noqa: PLC0415

    there = dict(base.base)
    names = {found.name for found in copied}
    variables = marker_environment(base)
    needed: dict[str, set[str]] = defaultdict(set)
    for need in (need for found in copied for need in needs(found, variables)):
        if need.name in there and need.name not in names and need.accepts(there[need.name]):
            needed[need.name].add(need.owner.name)
    for name, owners in sorted(needed.items()):
        who = ", ".join(sorted(owners))
        yield f"{name} {there[name]} is in the base only and was not copied; it is needed by {who}"


def _known(source: _Source) -> Interpreter:
    """Return the interpreter of the environment with its packages.

    Raises:
        InterpreterError: It is not there any more, or not ours to start.
    """
    executable = source.record.executable
    if os.stat(source.root).st_uid not in {0, os.geteuid()}:
        raise InterpreterError(f"{executable} was not started, since somebody else says that it is the base")
    if source.lease is None:
        return probing.probe(executable)
    return interpreters.known(source.store.layout, source.lease, executable)[0]


def _copied(source: _Source, tree: _Tree) -> list[Described]:
    """Return what the distributions of the copy say of themselves."""
    pattern = re.compile(rf"{re.escape(source.site)}/([^/]+)-[^-/]+\.dist-info/METADATA")
    named = ((pattern.fullmatch(place), file) for place, file in tree.files.items())
    return [
        described(fs.read_file(file.source), re.sub(r"[-_.]+", "-", match[1]).lower())
        for match, file in named
        if match is not None
    ]
