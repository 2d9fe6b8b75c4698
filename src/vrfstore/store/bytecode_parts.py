"""The bytecode of an entry on its way into it, part by part.

::

    modules ──▶ interpreter processes ──▶ tmp/<lease>.<random>/ ──sync, rename──▶ __pycache__/     once for each part
                                                                               the record          with the last part

A part is whole when it is published, and can be imported from then on. The record says that the entry is compiled, and
names what is in place at that moment: whatever somebody else has put there since our earlier parts is compiled again.
So the hold of the entry is needed for one part at a time, and nobody waits for all of them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from vrfstore import codec, fs
from vrfstore.model import Event, Interpreter, Watcher
from vrfstore.store import bytecode, compilers
from vrfstore.store.bytecode import BytecodeRecord, CompiledFile, pyc_path, record_path
from vrfstore.store.compilers import Answer, Compilers, Module
from vrfstore.store.durability import GroupSync
from vrfstore.store.layout import BYTECODE, Layout
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.threads import outcome

__all__ = [
    "SEALED",
    "Compilation",
    "Parts",
    "ReplacedError",
    "is_published",
    "manifest_token",
    "remove_records",
    "unsealed",
]

_CHUNK_MODULES, _CHUNK_BYTES = 16, 1 << 17
"""How much one process is given at a time; the answers to so many fit into a pipe."""

_LONGEST_NAME = 255
"""Bytes of a file name, on every Linux file system that matters (NAME_MAX)."""

_OPEN, SEALED, _FILE = 0o755, 0o555, 0o444


class ReplacedError(Exception):
    """There is another entry under the name by now."""


class Compilation:
    """One entry that is to be compiled, and how far it has come.

    Attributes:
        directory: Its directory name.
        sizes: Bytes of each module, by its path relative to the entry.
        token: Of its manifest; what tells it from another entry that gets the same name later.
        parts: What is to be compiled next, part after part, where that is not all at once.
        turn: Whoever works at it has this, so that its parts come one after the other.
        over: Its result is known.
        last: It waits until all other entries have had their turn.
        answers: What became of the modules of the parts that have been compiled.
    """

    def __init__(self, directory: str, sizes: dict[str, int], token: str) -> None:
        self.directory = directory
        self.sizes = sizes
        self.token = token
        self.parts: deque[Sequence[str]] = deque()
        self.turn = threading.Lock()
        self.over = False
        self.last = False
        self.answers: dict[str, Answer] = {}
        self._published: dict[str, tuple[int, int]] = {}
        self._told = 0

    @property
    def size(self) -> int:
        """Bytes of all modules."""
        return sum(self.sizes.values())

    def left(self) -> list[str]:
        """Return the modules that have not been compiled."""
        return [path for path in self.sizes if path not in self.answers]

    def publish(self, staged: str, path: str, pyc: str) -> None:
        """Bring the pyc of a module to its place."""
        fs.rename(staged, pyc)
        self._published[path] = _identity(pyc)

    def forget_strange(self, root: str, cache_tag: str) -> None:
        """Have those modules compiled again whose pycs are not those any more that were published."""
        for path, identity in list(self._published.items()):
            if _identity(f"{root}/{pyc_path(path, cache_tag)}") != identity:
                del self._published[path], self.answers[path]

    def count(self, watch: Watcher, modules: int) -> None:
        """Tell of modules that are done, of each once: some are compiled again."""
        modules = min(modules, len(self.sizes) - self._told)
        if modules:
            self._told += modules
            watch(Event(kind="compiled", subject=self.directory, size=modules))


def _identity(path: str) -> tuple[int, int]:
    """Return what tells a file from any other; links that are made to it change none of this."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


class Parts:
    """Compiles parts of entries, for one call; from any number of threads, each of which has the hold of its entry."""

    def __init__(self, store: Store, interpreter: Interpreter, lease: Lease, watch: Watcher) -> None:
        self._store = store
        self._layout = store.layout
        self._interpreter = interpreter
        self._lease = lease
        self._watch = watch
        self._group = GroupSync()

    def make(self, entry: Compilation, paths: Sequence[str], processes: Compilers) -> BytecodeRecord | None:
        """Compile and publish modules of an entry; with the last of them the record, which is returned.

        Raises:
            ReplacedError: There is another entry under the name by now.
            FileNotFoundError: The entry is gone.
            OSError: A source cannot be read, or the disk is full, or worse.
        """
        if len(entry.answers) + len(paths) == len(entry.sizes):
            entry.forget_strange(self._layout.of("entries", entry.directory), self._interpreter.cache_tag)
            paths = entry.left()
        staging = self._layout.of("tmp", f"{self._lease.id}.{fs.unique_name()}")
        if self._store.durable:
            self._group.begin(self._layout.of("tmp"), staging)
        fs.make_directory(staging)
        try:
            entry.answers |= self._stage(entry, paths, staging, processes)
            record = None if entry.left() else self._record(entry)
            self._publish(entry, paths, staging, record)
        finally:
            fs.remove_tree(staging)
        return record

    def _stage(
        self, entry: Compilation, paths: Sequence[str], staging: str, processes: Compilers
    ) -> dict[str, Answer]:
        """Compile into a staged directory, where the pycs are numbered; return what became of each module."""
        root = self._layout.of("entries", entry.directory)
        answers: dict[str, Answer] = {}
        modules: list[tuple[Module, int]] = []
        for number, path in enumerate(paths):
            refusal = self._refusal(path, entry.sizes[path])
            if refusal is not None:
                answers[path] = Answer(failure=refusal)
                entry.count(self._watch, 1)
            else:
                module = Module(path, f"{root}/{path}", f"{staging}/{number}")
                modules.append((module, entry.sizes[path]))
        chunks = list(_chunks(modules))
        futures = [processes.submit(chunk) for chunk in chunks]
        try:
            for chunk, future in zip(chunks, futures, strict=True):
                compiled = outcome(future)
                answers |= zip((module.path for module in chunk), compiled, strict=True)
                entry.count(self._watch, len(chunk))
        finally:
            # Whatever went wrong, nobody writes into the directory any more when it is removed.
            for future in futures:
                future.cancel()
            for future in futures:
                if not future.cancelled():
                    future.exception()
        return answers

    def _refusal(self, path: str, size: int) -> str | None:
        """Return why a module is not even tried."""
        if size > compilers.LARGEST:
            return f"it is larger than {compilers.LARGEST >> 20} MiB"
        name = os.path.basename(pyc_path(path, self._interpreter.cache_tag))
        if len(os.fsencode(name)) > _LONGEST_NAME:
            return "the name of its pyc would be too long"
        return None

    def _record(self, entry: Compilation) -> BytecodeRecord:
        tag = self._interpreter.cache_tag
        files = (
            CompiledFile(pyc_path(path, tag), answer.size, answer.sha256)
            for path, answer in entry.answers.items()
            if answer.failure is None
        )
        failed = (
            (path, answer.failure) for path, answer in entry.answers.items() if answer.failure is not None
        )
        return BytecodeRecord(
            cache_tag=tag,
            magic=self._interpreter.magic,
            version=self._interpreter.version,
            files=tuple(sorted(files, key=lambda file: file.path)),
            failed=tuple(sorted(failed)),
        )

    def _publish(
        self, entry: Compilation, paths: Sequence[str], staging: str, record: BytecodeRecord | None
    ) -> None:
        """Bring pycs to their places, and last the record."""
        layout, directory, tag = self._layout, entry.directory, self._interpreter.cache_tag
        root = layout.of("entries", directory)
        places: dict[str, list[tuple[str, str, str]]] = {}
        for number, path in enumerate(paths):
            if entry.answers[path].failure is None:
                pyc = f"{root}/{pyc_path(path, tag)}"
                places.setdefault(os.path.dirname(pyc), []).append((f"{staging}/{number}", path, pyc))
        if record is not None:
            fs.write_file(f"{staging}/record", codec.dumps(record.to_json()), mode=_FILE)
        if self._store.durable and (places or (record is not None and record.files)):
            # A pyc that a power cut leaves cut short would fail an import.
            self._group.sync(layout.of("tmp"), staging)
        if manifest_token(layout, directory) != entry.token:
            raise ReplacedError
        remove_records(layout, directory, tag)
        for place, pycs in places.items():
            with unsealed(place):
                for staged, path, pyc in pycs:
                    entry.publish(staged, path, pyc)
        if record is not None:
            with unsealed(f"{root}/{BYTECODE}"):
                fs.rename(f"{staging}/record", record_path(layout, directory, tag, record.magic))


def _chunks(modules: Iterable[tuple[Module, int]]) -> Iterator[list[Module]]:
    chunk: list[Module] = []
    room = _CHUNK_BYTES
    for module, size in modules:
        if chunk and (len(chunk) == _CHUNK_MODULES or size > room):
            yield chunk
            chunk, room = [], _CHUNK_BYTES
        chunk.append(module)
        room -= size
    if chunk:
        yield chunk


def is_published(pyc: str) -> bool:
    """Whether a pyc is one of ours; what root lets an interpreter write stays writable."""
    try:
        return stat.S_IMODE(os.lstat(pyc).st_mode) == _FILE
    except FileNotFoundError:
        return False


def manifest_token(layout: Layout, directory: str) -> str:
    """Return what tells an entry from another one that gets the same name later."""
    return fs.stat_token(f"{layout.of('entries', directory)}/manifest.json")


@contextlib.contextmanager
def unsealed(path: str) -> Iterator[None]:
    """Let a directory of an entry be written to."""
    fs.change_mode(path, _OPEN)
    try:
        yield
    finally:
        fs.change_mode(path, SEALED)


def remove_records(layout: Layout, directory: str, cache_tag: str) -> None:
    """Remove what says that an entry has been compiled for a cache tag; the caller has its hold."""
    paths = bytecode.record_paths(layout, directory, cache_tag)
    if paths:
        with unsealed(os.path.dirname(paths[0])):
            for path in paths:
                fs.remove_file(path)
