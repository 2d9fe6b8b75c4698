"""Interpreter processes that compile modules into pycs, and what they answer.

::

    modules ──Compilers.submit──▶ a process that has the script below ──a line for each──▶ answers

They know nothing of entries: sources are read and pycs written where the caller says.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Self

from vrfstore.errors import InterpreterError
from vrfstore.model import Interpreter
from vrfstore.values import dataclass

__all__ = ["LARGEST", "Answer", "Compilers", "Module", "StoppedError", "environment"]

LARGEST = 8 << 20
"""Bytes. Compiling takes up to two hundred times the memory of the source."""

_DEATHS = 10
"""So many processes that die one after the other are the interpreter's fault, not that of the modules."""

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


@dataclass(frozen=True, slots=True)
class Module:
    """A module to compile: its path relative to the entry, its own, and where the pyc is staged."""

    path: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a module: a pyc (``failure`` is None), or why there is none."""

    size: int = 0
    sha256: str = ""
    failure: str | None = None


class StoppedError(Exception):
    """Something else went wrong for good."""


class Compilers:
    """A few interpreter processes that compile; use it in a ``with`` statement, from any number of threads."""

    def __init__(self, interpreter: Interpreter, processes: int) -> None:
        self._interpreter = interpreter
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="compile")
        self._guard = threading.Lock()
        self._idle: list[_Compiler] = []
        self._busy: list[_Compiler] = []
        self._stopped = False

    def submit(self, modules: Sequence[Module]) -> Future[list[Answer]]:
        """Have modules compiled; the answers come in their order."""
        return self._threads.submit(self._compile, modules)

    def _compile(self, modules: Sequence[Module]) -> list[Answer]:
        with self._guard:
            if self._stopped:
                raise StoppedError
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

    def compile(self, modules: Sequence[Module]) -> list[Answer]:
        """Compile modules. One that the process dies of is noted, and a new process goes on with the next.

        Raises:
            InterpreterError: It does not start, is not what it was, or keeps dying.
            FileNotFoundError: A source is not there any more.
            OSError: A source cannot be read, or a pyc not be written.
        """
        answers: list[Answer] = []
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
                    raise StoppedError
                if not line.endswith(b"\n"):
                    answers.append(self._dead())
                    break
                self._deaths = 0
                answers.append(_answer(line, module))
        return answers

    def _start(self) -> subprocess.Popen[bytes]:
        asked = self._interpreter
        script = _SCRIPT.replace("PATIENCE", str(_PATIENCE)).replace("LARGEST", str(LARGEST))
        try:
            # Neither the caller's environment variables nor `site` nor the current directory have a say. A signal
            # to our process group, such as that of Ctrl-C, is not to look as if a module had killed it.
            process = subprocess.Popen(
                [asked.real, "-I", "-S", "-B", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment(),
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
                raise StoppedError
            raise InterpreterError(
                f"{asked.real} is not the Python {asked.version} that it was"
                if greeting
                else f"{asked.real} does not start",
                kind="interpreter-broken",
                hint="link again",
            )
        return process

    def _dead(self) -> Answer:
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
            return Answer(failure="compiling it takes too long")
        return Answer(failure=f"the interpreter died of it ({how})")

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


def _request(module: Module) -> bytes:
    # The path of a traceback comes from where a module is imported (`_fix_co_filename`); this one is the same for
    # everybody, so that equal sources give equal pycs. Version 2 is what every Python 3 reads.
    return marshal.dumps((os.fsencode(module.source), os.fsencode(module.target), module.path), 2)


def _answer(line: bytes, module: Module) -> Answer:
    kind, _, rest = line.decode("ascii").rstrip("\n").partition(" ")
    if kind == "done":
        size, _, sha256 = rest.partition(" ")
        return Answer(size=int(size), sha256=sha256)
    if kind == "failed":
        return Answer(failure=rest)
    raise OSError(int(rest), os.strerror(int(rest)), module.source)


def environment() -> dict[str, str]:
    """Return the variables that a process of ours gets.

    A variable that names an environment would make the process look as if it used that.
    """
    kept = ("LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE")  # to start at all, and to read paths as we do
    return {name: os.environ[name] for name in kept if name in os.environ}
