"""Compiling the modules of entries, by the interpreter that is going to import them.

::

    entry ──modules──▶ interpreter processes ──▶ tmp/<lease>.<random>/ ──sync, rename──▶ __pycache__/, then the record

Compiling protects nothing: it takes no lease on an entry, works on it only by its path, and stops when it is gone.
A kill anywhere leaves an entry without the record, whose pycs are all whole; the next run does it again.

A detached worker does the same after a link has returned, at low priority; see ``start_worker``.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Literal, Self, TypeAlias

from vrfstore import codec, fs
from vrfstore.errors import BusyError, InterpreterError, StoreDamagedError
from vrfstore.model import Event, Interpreter, Watcher
from vrfstore.store import bytecode
from vrfstore.store.bytecode import BytecodeRecord, CompiledFile, is_compiled, pyc_path, record_path
from vrfstore.store.durability import GroupSync
from vrfstore.store.holds import hold, locked, shard
from vrfstore.store.layout import BYTECODE, Layout
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.threads import outcome
from vrfstore.values import asdict, dataclass, replace

__all__ = ["CompiledEntry", "compile_entries", "remove_record", "serve", "start_worker"]

_MOST = 16
"""Processes at most. Each takes some tens of megabytes, a large module some hundreds."""

_AT_A_TIME = 8
"""Entries that are under way together: while some are brought onto the disk, others keep the processes busy."""

_CHUNK_MODULES, _CHUNK_BYTES = 16, 1 << 17
"""How much one process is given at a time; the answers to so many fit into a pipe."""

_LARGEST = 8 << 20
"""Bytes. Compiling takes up to two hundred times the memory of the source."""

_LONGEST_NAME = 255
"""Bytes of a file name, on every Linux file system that matters (NAME_MAX)."""

_DEATHS = 10
"""So many processes that die one after the other are the interpreter's fault, not that of the modules."""

_AGAIN = 0.1
"""Seconds until entries that somebody else compiles are looked at again."""

_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE})
"""What keeps not only one entry from being written."""

_OPEN, _SEALED, _FILE = 0o755, 0o555, 0o444

# Runs inside the interpreter, from Python 3.9 up. It imports nothing of ours and nothing of any site directory,
# reads (source, target, name) after (source, target, name), and answers each with a line of ASCII. What is wrong with
# a module is said of the module; what is wrong with a disk is no module's fault. A module that takes longer than
# anybody would wait ends the process.
_SCRIPT = r"""
import errno, marshal, os, signal, stat, sys, warnings
from hashlib import sha256
from importlib.util import MAGIC_NUMBER, source_hash

def read(source):
    # Of what a shared store lends, its owner decides what it is by now: nothing to wait for, or without an end.
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if found.st_size > LARGEST:
            raise OSError(errno.EFBIG, "too large")
        return stream.readall()

def write(target, data):
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    try:
        os.fchmod(descriptor, 0o444)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view):]
    finally:
        os.close(descriptor)

def answer(source, target, name):
    try:
        data = read(source)
        try:
            code = marshal.dumps(compile(data, name, "exec", dont_inherit=True, optimize=0))
        except Exception as error:
            text = getattr(error, "msg", None) or str(error)
            line = getattr(error, "lineno", None)
            where = " (line %d)" % line if line else ""
            return "failed %s: %s%s" % (type(error).__name__, " ".join(text.split())[:300], where)
        # PEP 552: hash-based, and not to be compared with the source.
        pyc = MAGIC_NUMBER + b"\1\0\0\0" + source_hash(data) + code
        write(target, pyc)
        return "done %d %s" % (len(pyc), sha256(pyc).hexdigest())
    except OSError as error:
        return "error %d" % (error.errno or 0)

def main():
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    say("%s %s" % (MAGIC_NUMBER.hex(), sys.implementation.cache_tag))
    while True:
        try:
            source, target, name = marshal.load(sys.stdin.buffer)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, PATIENCE)
        text = answer(source, target, name)
        signal.setitimer(signal.ITIMER_PROF, 0)
        say(text)

def say(text):
    os.write(1, text.encode("ascii", "backslashreplace") + b"\n")

main()
"""

_PATIENCE = 300.0
"""Seconds of processor time that a module may take."""

_SERVE = "import sys; sys.path[:] = {path!r}; from vrfstore.store.compiling import serve; serve({job})"

# The shell ends at once, so that the worker is nobody's child and nobody's zombie.
_DETACH = '"$@" &'

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


@dataclass(frozen=True, slots=True)
class _Module:
    """A module to compile: its path relative to the entry, its own, and where the pyc is staged."""

    path: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of a module: a pyc (``failure`` is None), or why there is none."""

    size: int = 0
    sha256: str = ""
    failure: str | None = None


class _StoppedError(Exception):
    """Something else went wrong for good."""


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
            _Compilers(self._interpreter, processes) as compilers,
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
        self, tasks: Sequence[_Task], compilers: _Compilers, threads: ThreadPoolExecutor
    ) -> list[_Task]:
        """Try each entry once; return those that somebody else holds."""
        futures = [(task, threads.submit(self._attempt, task, compilers)) for task in tasks]
        stopped: _StoppedError | None = None
        held = []
        for task, future in futures:
            try:
                if not outcome(future):
                    held.append(task)
            except _StoppedError as error:  # by another one, whose error says why
                stopped = error
        if stopped is not None:
            raise stopped
        return held

    def _attempt(self, task: _Task, compilers: _Compilers) -> bool:
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

    def _compile_held(self, task: _Task, compilers: _Compilers) -> CompiledEntry:
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

    def _stage(self, task: _Task, staging: str, compilers: _Compilers) -> BytecodeRecord:
        """Compile into a staged directory, where the pycs are numbered; return the record."""
        root = self._layout.of("entries", task.directory)
        answers: dict[str, _Answer] = {}
        modules: list[tuple[_Module, int]] = []
        for number, (path, size) in enumerate(task.modules):
            refusal = self._refusal(path, size)
            if refusal is not None:
                answers[path] = _Answer(failure=refusal)
                self._count(task, 1)
            else:
                modules.append((_Module(path, f"{root}/{path}", f"{staging}/{number}"), size))
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
        if size > _LARGEST:
            return f"it is larger than {_LARGEST >> 20} MiB"
        name = os.path.basename(pyc_path(path, self._interpreter.cache_tag))
        if len(os.fsencode(name)) > _LONGEST_NAME:
            return "the name of its pyc would be too long"
        return None

    def _record(self, answers: dict[str, _Answer]) -> BytecodeRecord:
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


def _chunks(modules: Iterable[tuple[_Module, int]]) -> Iterator[list[_Module]]:
    chunk: list[_Module] = []
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


class _Compilers:
    """A few interpreter processes that compile; use it in a ``with`` statement, from any number of threads."""

    def __init__(self, interpreter: Interpreter, processes: int) -> None:
        self._interpreter = interpreter
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="compile")
        self._guard = threading.Lock()
        self._idle: list[_Compiler] = []
        self._busy: list[_Compiler] = []
        self._stopped = False

    def submit(self, modules: Sequence[_Module]) -> Future[list[_Answer]]:
        """Have modules compiled; the answers come in their order."""
        return self._threads.submit(self._compile, modules)

    def _compile(self, modules: Sequence[_Module]) -> list[_Answer]:
        with self._guard:
            if self._stopped:
                raise _StoppedError
            compiler = self._idle.pop() if self._idle else _Compiler(self._interpreter)
            self._busy.append(compiler)
        try:
            return compiler.compile(modules)
        except BaseException:
            # Answers that nobody reads any more must not get between those to the next modules.
            compiler.kill()
            raise
        finally:
            with self._guard:
                self._busy.remove(compiler)
                self._idle.append(compiler)

    def stop(self) -> None:
        """Begin nothing more, and end what is under way."""
        with self._guard:
            self._stopped = True
            for compiler in self._busy:
                compiler.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        for compiler in self._idle:
            compiler.end()


class _Compiler:
    """One interpreter that compiles what it is given, in a process that is started when it is needed."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._stopped = False

    def compile(self, modules: Sequence[_Module]) -> list[_Answer]:
        """Compile modules. One that the process dies of is noted, and a new process goes on with the next.

        Raises:
            InterpreterError: It does not start, is not what it was, or keeps dying.
            FileNotFoundError: A source is not there any more.
            OSError: A source cannot be read, or a pyc not be written.
        """
        answers: list[_Answer] = []
        while len(answers) < len(modules):
            process = self._process or self._start()
            stdin, stdout = _pipes(process)
            rest = modules[len(answers) :]
            # It may die before it has read them all; what it answered until then counts.
            with contextlib.suppress(BrokenPipeError):
                stdin.write(b"".join(map(_request, rest)))
                stdin.flush()
            for module in rest:
                line = stdout.readline()
                if self._stopped:
                    raise _StoppedError
                if not line.endswith(b"\n"):
                    answers.append(self._dead())
                    break
                self._deaths = 0
                answers.append(_answer(line, module))
        return answers

    def _start(self) -> subprocess.Popen[bytes]:
        asked = self._interpreter
        script = _SCRIPT.replace("PATIENCE", str(_PATIENCE)).replace("LARGEST", str(_LARGEST))
        try:
            # Neither the caller's environment variables nor `site` nor the current directory have a say. A signal
            # to our process group, such as that of Ctrl-C, is not to look as if a module had killed it.
            process = subprocess.Popen(
                [asked.real, "-I", "-S", "-B", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                process_group=0,
            )
        except OSError as error:
            raise InterpreterError(
                f"{asked.real} does not start: {error.strerror}", kind="interpreter-broken"
            ) from error
        self._process = process
        greeting = _pipes(process)[1].readline().decode(errors="replace").strip()
        if greeting != f"{asked.magic} {asked.cache_tag}":
            self.end()
            if self._stopped:
                raise _StoppedError
            raise InterpreterError(
                f"{asked.real} is not the Python {asked.version} that it was"
                if greeting
                else f"{asked.real} does not start",
                kind="interpreter-broken",
                hint="link again",
            )
        return process

    def _dead(self) -> _Answer:
        self._deaths += 1
        code = self.end()
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        if self._deaths >= _DEATHS:
            raise InterpreterError(
                f"{self._interpreter.real} keeps dying ({how})",
                kind="interpreter-broken",
                hint="is there enough memory?",
            )
        if code == -signal.SIGPROF:
            return _Answer(failure="compiling it takes too long")
        return _Answer(failure=f"the interpreter died of it ({how})")

    def stop(self) -> None:
        """End the process now, from another thread than the one that waits for its answers."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def kill(self) -> None:
        """End the process now."""
        if self._process is not None:
            self._process.kill()
            self.end()

    def end(self) -> int:
        """Let the process end by itself, and wait for that; return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in _pipes(process):
            with contextlib.suppress(OSError):
                pipe.close()
        return process.wait()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise AssertionError
    return stdin, stdout


def _request(module: _Module) -> bytes:
    # The path of a traceback comes from where a module is imported (`_fix_co_filename`); this one is the same for
    # everybody, so that equal sources give equal pycs. Version 2 is what every Python 3 reads.
    return marshal.dumps((os.fsencode(module.source), os.fsencode(module.target), module.path), 2)


def _answer(line: bytes, module: _Module) -> _Answer:
    kind, _, rest = line.decode("ascii").rstrip("\n").partition(" ")
    if kind == "done":
        size, _, sha256 = rest.partition(" ")
        return _Answer(size=int(size), sha256=sha256)
    if kind == "failed":
        return _Answer(failure=rest)
    raise OSError(int(rest), os.strerror(int(rest)), module.source)


def _environment() -> dict[str, str]:
    """Return the variables that a process of ours gets.

    A variable that names an environment would make the process look as if it used that.
    """
    kept = ("LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE")  # to start at all, and to read paths as we do
    return {name: os.environ[name] for name in kept if name in os.environ}


def start_worker(store: Store, interpreter: Interpreter, directories: Sequence[str], *, lease: Lease) -> bool:
    """Have entries compiled by a process that outlives this one, at low priority; return at once.

    It is in a session of its own, has no lease of ours, and is nobody's child. For one set of entries there is one
    worker, however often it is asked for: it holds its log, ``logs/compile-<digest>.log``.

    Args:
        store: The store.
        interpreter: The one that compiles.
        directories: The entries' directory names, such as those of an environment.
        lease: Names what is on its way until the worker has it.

    Returns:
        Whether one was started. Compiling is a matter of speed: what stands in the way of it is no error.
    """
    wanted = [name for name in directories if not is_compiled(store.layout, name, interpreter)]
    if not wanted or not sys.executable:
        return False
    identity = [interpreter.cache_tag, interpreter.magic, sorted(directories)]
    path = store.layout.of("logs", f"compile-{codec.digest_of(identity)[:32]}.log")
    with contextlib.suppress(OSError):
        log = _open_log(path)
        if log is None:
            return False
        try:
            job = {
                "root": store.root,
                "durable": store.durable,
                "interpreter": asdict(replace(interpreter, base=(), site_directories=())),
                "directories": wanted,
                "log": path,
            }
            return _detach(_hand_over(store.layout, lease, codec.dumps(job)), log)
        finally:
            os.close(log)
    return False


def _open_log(path: str) -> int | None:
    """Open a log to append to it, flocked; None where its worker is at work."""
    while True:
        with contextlib.suppress(FileExistsError):
            fs.write_file(path, b"")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        ours = locked(descriptor)
        # The last worker may just have removed it, as it had nothing to say.
        if ours and os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)
        if not ours:
            return None


def _hand_over(layout: Layout, lease: Lease, data: bytes) -> int:
    """Return a descriptor to read the data from, of a file that has no name any more.

    On a command line, names of entries would be taken for their use, and many of them are too long for one.
    """
    path = layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    fs.write_file(path, data)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    fs.remove_file(path)
    return descriptor


def _detach(job: int, log: int) -> bool:
    """Start the worker; it has both descriptors from here on, and with the log its flock."""
    try:
        path = [os.path.abspath(place) for place in sys.path]
        shell = subprocess.Popen(
            ["/bin/sh", "-c", _DETACH, "sh", sys.executable, "-I", "-S", "-c",
             _SERVE.format(path=path, job=job)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[job],
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )  # fmt: skip
        return shell.wait() == 0
    finally:
        os.close(job)


def serve(job: int) -> None:
    """Be the worker: compile what a descriptor says, and print what became of it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _step_back()
    with open(job, "rb") as stream:
        value = codec.loads(stream.read())
    fields = value["interpreter"]
    interpreter = Interpreter(**{**fields, "base": (), "site_directories": ()})
    store = Store(Layout(value["root"]), value["durable"])
    try:
        with store.session() as lease:
            compile_entries(
                store, interpreter, value["directories"], lease=lease, watch=lambda _: None, report=_log
            )
    except (OSError, InterpreterError) as error:
        _print(f"error: {error}")
    log = os.fstat(1)
    if log.st_size == 0 and log.st_nlink:
        fs.remove_file(value["log"])


def _log(result: CompiledEntry) -> None:
    """Print a line for an entry that something was done for, and one for each module that does not compile."""
    if result.state == "compiled":
        _print(f"{result.directory}: compiled {result.modules}, failed {len(result.failed)}")
        for path, why in result.failed:
            _print(f"{result.directory}: {path}: {why}")
    elif result.problem is not None:
        _print(f"{result.directory}: error: {result.problem}")


def _print(text: str) -> None:
    line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n"
    # In one write(2), since several threads print; and a full disk is not the worker's business.
    with contextlib.suppress(OSError):
        os.write(1, line.encode(errors="backslashreplace"))


_IOPRIO_SET = {
    "x86_64": 251,
    "i386": 289,
    "i686": 289,
    "aarch64": 30,
    "riscv64": 30,
    "ppc64le": 273,
    "s390x": 282,
}
"""The number of ioprio_set(2), which no libc has a function for, by ``os.uname().machine``."""

_WHO_PROCESS, _CLASS_IDLE = 1, 3 << 13


def _step_back() -> None:
    """Give way to everybody else: for processors, disks and memory. Where that may not be had, go on."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    for name, value in (
        # sched(7): between sessions, only the niceness of the session's group counts.
        ("autogroup", b"19"),
        # proc_pid_oom_score_adj(5): where memory runs out, it is the worker that goes.
        ("oom_score_adj", b"1000"),
    ):
        with contextlib.suppress(OSError):
            descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, value)
            finally:
                os.close(descriptor)
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        import ctypes  # noqa: PLC0415 - 5 ms, which only the worker pays

        with contextlib.suppress(OSError):
            ctypes.CDLL(None).syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE)
