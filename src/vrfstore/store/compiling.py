"""Compiling the modules of entries, by the interpreter that is going to import them.

::

    entry ──modules──▶ interpreter processes ──▶ tmp/<lease>.<random>/ ──sync, rename──▶ __pycache__/, then the record

Compiling protects nothing: it takes no lease on an entry, works on it only by its path, and stops when it is gone.
A kill anywhere leaves an entry without the record, whose pycs are all whole; the next run does it again.

A detached worker does the same after a link has returned, at low priority; see ``store.compile_worker``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeAlias

from vrfstore import codec, fs
from vrfstore.errors import BusyError, StoreDamagedError
from vrfstore.model import Event, Interpreter, Watcher
from vrfstore.store import bytecode, compilers
from vrfstore.store.bytecode import BytecodeRecord, CompiledFile, is_compiled, pyc_path, record_path
from vrfstore.store.compilers import Answer, Compilers, Module, StoppedError
from vrfstore.store.durability import GroupSync
from vrfstore.store.holds import hold, shard
from vrfstore.store.layout import BYTECODE, Layout
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.threads import outcome
from vrfstore.values import dataclass

__all__ = ["CompiledEntry", "compile_entries", "remove_record"]

_MOST = 16
"""Processes at most. Each takes some tens of megabytes, a large module some hundreds."""

_AT_A_TIME = 8
"""Entries that are under way together: while some are brought onto the disk, others keep the processes busy."""

_CHUNK_MODULES, _CHUNK_BYTES = 16, 1 << 17
"""How much one process is given at a time; the answers to so many fit into a pipe."""

_LONGEST_NAME = 255
"""Bytes of a file name, on every Linux file system that matters (NAME_MAX)."""

_AGAIN = 0.1
"""Seconds until entries that somebody else compiles are looked at again."""

_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE})
"""What keeps not only one entry from being written."""

_OPEN, _SEALED, _FILE = 0o755, 0o555, 0o444


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

    Returns:
        What became of each entry, in the order given.

    Raises:
        InterpreterError: It does not start, or is not any more what it was.
        OSError: The disk is full, or worse.
    """
    wanted = list(dict.fromkeys(directories))
    run = _Run(store, interpreter, lease, watch, report or _nobody)
    missing = [name for name in wanted if not is_compiled(store.layout, name, interpreter)]
    tasks = [task for name in missing if (task := run.look(name)) is not None]
    if tasks:
        run.compile(tasks, processes or min(len(os.sched_getaffinity(0)), _MOST))
    for name in wanted:
        if name not in run.results:
            run.seal(name)
            run.settle(CompiledEntry(directory=name, state="present"))
    return [run.results[name] for name in wanted]


def _nobody(result: CompiledEntry) -> None:
    del result


@dataclass(frozen=True, slots=True)
class _Task:
    """An entry to compile.

    Attributes:
        directory: Its directory name.
        modules: The path of each, relative to the entry, with its size in bytes.
        token: Of its manifest; what tells it from another entry that gets the same name later.
    """

    directory: str
    modules: tuple[tuple[str, int], ...]
    token: str

    @property
    def size(self) -> int:
        return sum(size for _, size in self.modules)


class _ReplacedError(Exception):
    """There is another entry under the name by now."""


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
        self._lease = lease
        self._watch = watch
        self._report = report
        self._group = GroupSync()

    def settle(self, result: CompiledEntry) -> None:
        """Note what became of an entry."""
        self.results[result.directory] = result
        self._report(result)

    def seal(self, directory: str) -> None:
        """Seal an entry that has been compiled, where a kill came between its record and that."""
        path = f"{self._layout.of('entries', directory)}/{BYTECODE}"
        with contextlib.suppress(FileNotFoundError, BusyError):
            if stat.S_IMODE(os.stat(path).st_mode) != _SEALED:
                with hold(self._layout.of("holds", shard("compile", directory)), timeout=0):
                    fs.change_mode(path, _SEALED)

    def look(self, directory: str) -> _Task | None:
        """Return what there is to do for an entry; None, and the result noted, where it is gone or damaged."""
        token = self._token(directory)
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
        return _Task(directory, tuple((path, sizes[path]) for path in bytecode.sources(sizes)), token)

    def _token(self, directory: str) -> str:
        return fs.stat_token(f"{self._layout.of('entries', directory)}/manifest.json")

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

    def compile(self, tasks: list[_Task], processes: int) -> None:
        """Compile, the largest first; what is held by somebody else comes last."""
        total = sum(len(task.modules) for task in tasks)
        self._watch(Event(kind="compiling", subject=f"Python {self._interpreter.version}", total=total))
        waiting = sorted(tasks, key=lambda task: (-task.size, task.directory))
        with (
            Compilers(self._interpreter, processes) as compilers,
            ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="compile-entry") as threads,
        ):
            try:
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

    def _round(
        self, tasks: Sequence[_Task], compilers: Compilers, threads: ThreadPoolExecutor
    ) -> list[_Task]:
        """Try each entry once; return those that somebody else holds."""
        futures = [(task, threads.submit(self._attempt, task, compilers)) for task in tasks]
        stopped: StoppedError | None = None
        held = []
        for task, future in futures:
            try:
                if not outcome(future):
                    held.append(task)
            except StoppedError as error:  # by another one, whose error says why
                stopped = error
        if stopped is not None:
            raise stopped
        return held

    def _attempt(self, task: _Task, compilers: Compilers) -> bool:
        """Compile an entry, unless somebody else is at it; returns whether its result is known."""
        try:
            with hold(self._layout.of("holds", shard("compile", task.directory)), timeout=0):
                result = self._compile_held(task, compilers)
        except BusyError:
            return False
        except _ReplacedError:
            result = CompiledEntry(directory=task.directory, state="gone")
        except (FileNotFoundError, NotADirectoryError) as error:
            result = self._failure(task.directory, error)
        except OSError as error:
            if error.errno in _HOPELESS:
                compilers.stop()
                raise
            result = self._failure(task.directory, error)
        except BaseException:
            compilers.stop()
            raise
        self.settle(result)
        return True

    def _compile_held(self, task: _Task, compilers: Compilers) -> CompiledEntry:
        if is_compiled(self._layout, task.directory, self._interpreter):
            self._count(task, len(task.modules))
            return CompiledEntry(directory=task.directory, state="present")
        staging = self._layout.of("tmp", f"{self._lease.id}.{fs.unique_name()}")
        if self._store.durable:
            self._group.begin(self._layout.of("tmp"), staging)
        fs.make_directory(staging)
        try:
            record = self._stage(task, staging, compilers)
            self._publish(task, staging, record)
        finally:
            fs.remove_tree(staging)
        return CompiledEntry(
            directory=task.directory, state="compiled", modules=len(record.files), failed=record.failed
        )

    def _count(self, task: _Task, modules: int) -> None:
        self._watch(Event(kind="compiled", subject=task.directory, size=modules))

    def _stage(self, task: _Task, staging: str, compilers: Compilers) -> BytecodeRecord:
        """Compile into a staged directory, where the pycs are numbered; return the record."""
        root = self._layout.of("entries", task.directory)
        answers: dict[str, Answer] = {}
        modules: list[tuple[Module, int]] = []
        for number, (path, size) in enumerate(task.modules):
            refusal = self._refusal(path, size)
            if refusal is not None:
                answers[path] = Answer(failure=refusal)
                self._count(task, 1)
            else:
                modules.append((Module(path, f"{root}/{path}", f"{staging}/{number}"), size))
        chunks = list(_chunks(modules))
        futures = [compilers.submit(chunk) for chunk in chunks]
        try:
            for chunk, future in zip(chunks, futures, strict=True):
                compiled = outcome(future)
                answers |= zip((module.path for module in chunk), compiled, strict=True)
                self._count(task, len(chunk))
        finally:
            # Whatever went wrong, nobody writes into the directory any more when it is removed.
            for future in futures:
                future.cancel()
            for future in futures:
                if not future.cancelled():
                    future.exception()
        return self._record(answers)

    def _refusal(self, path: str, size: int) -> str | None:
        """Return why a module is not even tried."""
        if size > compilers.LARGEST:
            return f"it is larger than {compilers.LARGEST >> 20} MiB"
        name = os.path.basename(pyc_path(path, self._interpreter.cache_tag))
        if len(os.fsencode(name)) > _LONGEST_NAME:
            return "the name of its pyc would be too long"
        return None

    def _record(self, answers: dict[str, Answer]) -> BytecodeRecord:
        tag = self._interpreter.cache_tag
        files = (
            CompiledFile(pyc_path(path, tag), answer.size, answer.sha256)
            for path, answer in answers.items()
            if answer.failure is None
        )
        failed = ((path, answer.failure) for path, answer in answers.items() if answer.failure is not None)
        return BytecodeRecord(
            cache_tag=tag,
            magic=self._interpreter.magic,
            version=self._interpreter.version,
            files=tuple(sorted(files, key=lambda file: file.path)),
            failed=tuple(sorted(failed)),
        )

    def _publish(self, task: _Task, staging: str, record: BytecodeRecord) -> None:
        """Bring pycs to their places, and last the record."""
        layout, directory = self._layout, task.directory
        root = layout.of("entries", directory)
        fs.write_file(f"{staging}/record", codec.dumps(record.to_json()), mode=_FILE)
        if self._store.durable and record.files:
            # A pyc that a power cut leaves cut short would fail an import.
            self._group.sync(layout.of("tmp"), staging)
        if self._token(directory) != task.token:
            raise _ReplacedError
        _remove_records(layout, directory, record.cache_tag)
        written = {file.path for file in record.files}
        places: dict[str, list[tuple[str, str]]] = {}
        for number, (path, _) in enumerate(task.modules):
            pyc = pyc_path(path, record.cache_tag)
            if pyc in written:
                places.setdefault(os.path.dirname(pyc), []).append((f"{staging}/{number}", pyc))
        for place, pycs in places.items():
            with _unsealed(f"{root}/{place}"):
                for staged, pyc in pycs:
                    fs.rename(staged, f"{root}/{pyc}")
        with _unsealed(f"{root}/{BYTECODE}"):
            fs.rename(f"{staging}/record", record_path(layout, directory, record.cache_tag, record.magic))


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


@contextlib.contextmanager
def _unsealed(path: str) -> Iterator[None]:
    """Let a directory of an entry be written to."""
    fs.change_mode(path, _OPEN)
    try:
        yield
    finally:
        fs.change_mode(path, _SEALED)


def _remove_records(layout: Layout, directory: str, cache_tag: str) -> None:
    """Remove what says that an entry has been compiled for a cache tag; the caller has its hold."""
    paths = bytecode.record_paths(layout, directory, cache_tag)
    if paths:
        with _unsealed(os.path.dirname(paths[0])):
            for path in paths:
                fs.remove_file(path)


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
        _remove_records(store.layout, directory, cache_tag)
        places: dict[str, list[str]] = {}
        for path in bytecode.sources(file.path for file in store.manifest(directory).files):
            pyc = f"{root}/{pyc_path(path, cache_tag)}"
            if os.path.lexists(pyc):
                places.setdefault(os.path.dirname(pyc), []).append(pyc)
        for place, pycs in places.items():
            with _unsealed(place):
                for pyc in pycs:
                    fs.remove_tree(pyc)
