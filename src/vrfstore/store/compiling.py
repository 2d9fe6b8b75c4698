"""Compiling the modules of entries, by the interpreter that is going to import them.

::

    entries ──in waves, or each at once──▶ parts ──``bytecode_parts``──▶ __pycache__/, then the record

Compiling protects nothing: it takes no lease on an entry, works on it only by its path, and stops when it is gone.
A kill anywhere leaves an entry without the record, whose pycs are all whole; the next run does it again.

A detached worker does the same after a link has returned, at low priority; see ``store.compile_worker``. It compiles
in waves, those modules of all entries first that are likely to be imported first; see ``store.first_needed``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, TypeAlias

from vrfstore import fs
from vrfstore.errors import BusyError, StoreDamagedError
from vrfstore.model import Event, Interpreter, Watcher
from vrfstore.store import bytecode
from vrfstore.store.bytecode import is_compiled, pyc_path
from vrfstore.store.bytecode_parts import (
    SEALED,
    Compilation,
    Parts,
    ReplacedError,
    is_published,
    manifest_token,
    remove_records,
    unsealed,
)
from vrfstore.store.compilers import LARGEST, Compilers, StoppedError
from vrfstore.store.holds import hold, shard
from vrfstore.store.layout import BYTECODE
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.threads import outcome
from vrfstore.values import dataclass

__all__ = ["CompiledEntry", "compile_entries", "remove_record"]

_MOST = 16
"""Processes at most. Each takes some tens of megabytes, a large module some hundreds."""

_AT_A_TIME = 8
"""Parts that are under way together: while some are brought onto the disk, others keep the processes busy."""

_AGAIN = 0.1
"""Seconds until entries that somebody else compiles are looked at again."""

_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE})
"""What keeps not only one entry from being written."""

State: TypeAlias = Literal["compiled", "present", "gone", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledEntry:
    """What became of one entry.

    Attributes:
        directory: Its directory name.
        state: ``compiled`` now, ``present`` before, ``gone`` meanwhile, or ``failed`` as a whole.
        modules: How many modules have been compiled now.
        failed: Those that do not compile: (path relative to the entry, why).
        problem: Where it failed as a whole: why.
    """

    directory: str
    state: State
    modules: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    problem: StoreDamagedError | None = None


def compile_entries(
    store: Store,
    interpreter: Interpreter,
    directories: Iterable[str],
    *,
    lease: Lease,
    watch: Watcher,
    report: Callable[[CompiledEntry], None] | None = None,
    processes: int | None = None,
    in_waves: bool = False,
) -> list[CompiledEntry]:
    """Compile all modules of some entries, each entry once however many processes want it.

    Modules that do not compile are noted. What somebody else is compiling is waited for.

    Args:
        store: The store.
        interpreter: The one that compiles.
        directories: The entries' directory names.
        lease: Names what is staged; it protects no entry.
        watch: Is told ``compiling`` (total: modules), ``compiled`` (subject: the entry, size: modules since the
            last event), and ``waiting``.
        report: Is told what became of each entry, as soon as that is known, from several threads.
        processes: How many at most; by default one for each processor that we may use.
        in_waves: Bring first to its place, of all entries, what is likely to be imported first. This is for those who
            do not wait for all of it: sources have to be read for it, and an entry that two compile in waves at the
            same time may be compiled twice.

    Returns:
        What became of each entry, in the order given.

    Raises:
        InterpreterError: It does not start, or is not any more what it was.
        OSError: The disk is full, or worse.
    """
    wanted = list(dict.fromkeys(directories))
    run = _Run(store, interpreter, lease, watch, report or _nobody)
    missing = [name for name in wanted if not is_compiled(store.layout, name, interpreter)]
    entries = [entry for name in missing if (entry := run.look(name)) is not None]
    if entries:
        run.compile(entries, processes or min(len(os.sched_getaffinity(0)), _MOST), in_waves=in_waves)
    for name in wanted:
        if name not in run.results:
            run.seal(name)
            run.settle(CompiledEntry(directory=name, state="present"))
    return [run.results[name] for name in wanted]


def _nobody(result: CompiledEntry) -> None:
    del result


class _Run:
    """One call of ``compile_entries``."""

    def __init__(
        self,
        store: Store,
        interpreter: Interpreter,
        lease: Lease,
        watch: Watcher,
        report: Callable[[CompiledEntry], None],
    ) -> None:
        self.results: dict[str, CompiledEntry] = {}
        self._store = store
        self._layout = store.layout
        self._interpreter = interpreter
        self._watch = watch
        self._report = report
        self._parts = Parts(store, interpreter, lease, watch)

    def settle(self, result: CompiledEntry) -> None:
        """Note what became of an entry."""
        self.results[result.directory] = result
        self._report(result)

    def seal(self, directory: str) -> None:
        """Seal an entry that has been compiled, where a kill came between its record and that."""
        path = f"{self._layout.of('entries', directory)}/{BYTECODE}"
        with contextlib.suppress(FileNotFoundError, BusyError):
            if stat.S_IMODE(os.stat(path).st_mode) != SEALED:
                with hold(self._layout.of("holds", shard("compile", directory)), timeout=0):
                    fs.change_mode(path, SEALED)

    def look(self, directory: str) -> Compilation | None:
        """Return what there is to do for an entry; None, and the result noted, where it is gone or damaged."""
        token = manifest_token(self._layout, directory)
        try:
            self._store.plan(directory)  # nothing is compiled of what is marked as damaged
            files = self._store.manifest(directory).files
        except FileNotFoundError:
            self.settle(CompiledEntry(directory=directory, state="gone"))
            return None
        except StoreDamagedError as error:
            self.settle(self._failure(directory, error))
            return None
        sizes = {file.path: file.size for file in files}
        return Compilation(directory, {path: sizes[path] for path in bytecode.sources(sizes)}, token)

    def _failure(self, directory: str, error: StoreDamagedError | OSError) -> CompiledEntry:
        path = self._layout.of("entries", directory)
        if not os.path.lexists(path):
            return CompiledEntry(directory=directory, state="gone")
        if isinstance(error, OSError):
            error = StoreDamagedError(
                f"it cannot be compiled: {error.strerror}",
                path=error.filename or path,
                hint=f"mend it with: vrfstore verify --repair {directory}",
            )
        return CompiledEntry(directory=directory, state="failed", problem=error)

    def compile(self, entries: list[Compilation], processes: int, *, in_waves: bool) -> None:
        """Compile, the largest first; what is held by somebody else comes last."""
        total = sum(len(entry.sizes) for entry in entries)
        self._watch(Event(kind="compiling", subject=f"Python {self._interpreter.version}", total=total))
        waiting = sorted(entries, key=lambda entry: (-entry.size, entry.directory))
        with (
            Compilers(self._interpreter, processes) as compilers,
            ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="compile-entry") as threads,
        ):
            try:
                if in_waves:
                    waiting = self._in_waves(waiting, compilers, threads)
                waiting = self._round(waiting, compilers, threads)
                if waiting:
                    subject = f"another vrfstore that compiles {waiting[0].directory}"
                    self._watch(Event(kind="waiting", subject=subject))
                while waiting:
                    time.sleep(_AGAIN)
                    waiting = self._round(waiting, compilers, threads)
            except BaseException:
                compilers.stop()
                raise

    def _in_waves(
        self, entries: Sequence[Compilation], compilers: Compilers, threads: ThreadPoolExecutor
    ) -> list[Compilation]:
        """Try the part that each entry has in each wave; return the entries of which something is left."""
        from vrfstore.store import first_needed  # noqa: PLC0415 - only who does not wait for it

        modules = {entry.directory: entry.sizes for entry in entries}
        futures: list[Future[bool]] = []
        for wave in first_needed.waves(modules, self._source):
            for entry in entries:
                if entry.directory in wave:
                    entry.parts.append(wave[entry.directory])
                    futures.append(threads.submit(self._attempt, entry, compilers, all_of_it=False))
        self._await(futures)
        return [entry for entry in entries if not entry.over]

    def _source(self, directory: str, path: str) -> bytes | None:
        try:
            return fs.read_file(f"{self._layout.of('entries', directory)}/{path}", LARGEST)
        except OSError:  # which whoever compiles it is going to say
            return None

    def _round(
        self, entries: Sequence[Compilation], compilers: Compilers, threads: ThreadPoolExecutor
    ) -> list[Compilation]:
        """Try each entry once, with all that is left of it; return those that somebody else holds."""
        known = self._await([threads.submit(self._attempt, entry, compilers) for entry in entries])
        return [entry for entry, done in zip(entries, known, strict=True) if not done]

    @staticmethod
    def _await(futures: Iterable[Future[bool]]) -> list[bool]:
        stopped: StoppedError | None = None
        results = []
        for future in futures:
            try:
                results.append(outcome(future))
            except StoppedError as error:  # by another one, whose error says why
                stopped = error
        if stopped is not None:
            raise stopped
        return results

    def _attempt(self, entry: Compilation, compilers: Compilers, *, all_of_it: bool = True) -> bool:
        """Compile all that is left of an entry, or its next part, unless somebody else is at it.

        Returns:
            Whether the entry's result is known.
        """
        with entry.turn:
            # Threads do not get their turn in the order in which they have asked for it; parts have to keep theirs.
            part = None if all_of_it else entry.parts.popleft()
            if entry.over or (part is not None and entry.last):
                return entry.over
            try:
                with hold(self._layout.of("holds", shard("compile", entry.directory)), timeout=0):
                    result = self._compile_held(entry, compilers, part)
            except BusyError:
                result = None
                entry.last = True
            except ReplacedError:
                result = CompiledEntry(directory=entry.directory, state="gone")
            except (FileNotFoundError, NotADirectoryError) as error:
                result = self._failure(entry.directory, error)
            except OSError as error:
                if error.errno in _HOPELESS:
                    compilers.stop()
                    raise
                result = self._failure(entry.directory, error)
            except BaseException:
                compilers.stop()
                raise
            if result is not None:
                entry.over = True
                self.settle(result)
        return entry.over

    def _compile_held(
        self, entry: Compilation, compilers: Compilers, part: Sequence[str] | None
    ) -> CompiledEntry | None:
        """Compile a part of an entry, or all that is left; return what became of the entry when that is known."""
        if is_compiled(self._layout, entry.directory, self._interpreter):
            entry.count(self._watch, len(entry.sizes))
            return CompiledEntry(directory=entry.directory, state="present")
        if part is not None and not entry.answers and self._is_begun(entry, part):
            entry.last = True
            return None
        record = self._parts.make(entry, entry.left() if part is None else part, compilers)
        if record is None:
            return None
        return CompiledEntry(
            directory=entry.directory, state="compiled", modules=len(record.files), failed=record.failed
        )

    def _is_begun(self, entry: Compilation, part: Sequence[str]) -> bool:
        """Whether what is needed first is there: somebody else is between two parts of the entry, or was killed."""
        root, tag = self._layout.of("entries", entry.directory), self._interpreter.cache_tag
        return any(is_published(f"{root}/{pyc_path(path, tag)}") for path in part)


def remove_record(store: Store, directory: str, cache_tag: str) -> None:
    """Take away the pycs of an entry for a cache tag, whoever wrote them, and first the record.

    Waits for whoever is compiling the entry. Does nothing where it is gone.

    Raises:
        StoreDamagedError: Its manifest cannot be read.
    """
    root = store.layout.of("entries", directory)
    with (
        contextlib.suppress(FileNotFoundError),
        hold(store.layout.of("holds", shard("compile", directory))),
    ):
        remove_records(store.layout, directory, cache_tag)
        places: dict[str, list[str]] = {}
        for path in bytecode.sources(file.path for file in store.manifest(directory).files):
            pyc = f"{root}/{pyc_path(path, cache_tag)}"
            if os.path.lexists(pyc):
                places.setdefault(os.path.dirname(pyc), []).append(pyc)
        for place, pycs in places.items():
            with unsealed(place):
                for pyc in pycs:
                    fs.remove_tree(pyc)
