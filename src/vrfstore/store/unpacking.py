"""Unpacking many wheels at once, in processes, because Python's part of it does not run in parallel threads.

::

    thread ─┐                       ┌─▶ process ─▶ staged entry
    thread ─┼─ the largest waiting ─┤
    thread ─┘                       └─▶ process ─▶ staged entry

The processes are started when there is something for them. They inherit the lease of whoever wants the wheels, so
that what they stage is nobody's leftover as long as one of them is alive; they end when their stdin does.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from vrfstore.errors import VrfstoreError
from vrfstore.store.leases import Lease

if TYPE_CHECKING:
    from vrfstore.store.ingest import Job, Staged

__all__ = ["Unpackers", "serve"]

_MOST = 16
"""Processes at most. Beyond that the disk decides."""

_SMALL = 1 << 18
"""Bytes of a wheel that is unpacked where it is asked for: sooner than a process starts."""

_ALONE = 1 << 24
"""The same where there is one process only, which is no quicker, but can be ended in the middle."""

_PATIENCE = 5.0
"""Seconds for a process that has stopped talking to end, before it is ended."""

_GREETING = b"ready"

_SERVE = """\
import sys
sys.path[:] = {path!r}
from vrfstore.store.unpacking import serve
serve()
"""


class Unpackers:
    """A few processes that unpack; use it in a ``with`` statement, from any number of threads.

    An error in the block ends what is being unpacked, in threads that are still at it as well.

    Args:
        lease: Of whoever wants the wheels; the processes inherit it.
        processes: How many at most; by default one for each processor that we may use.
    """

    def __init__(self, lease: Lease, processes: int | None = None) -> None:
        self._lease = lease
        self._most = min(processes or len(os.sched_getaffinity(0)), _MOST)
        self._changed = threading.Condition()
        self._idle: list[_Process] = []
        self._all: list[_Process] = []
        self._waiting: list[tuple[int, int]] = []
        self._numbers = itertools.count()
        self._stopped = False

    def stage(self, job: Job) -> Staged:
        """Do as ``ingest.stage``, in one of the processes; the largest wheel that waits comes first.

        Raises:
            WheelError: The wheel is not acceptable.
            VrfstoreError: The process died, or was stopped.
            OSError: The store cannot be written.
        """
        small = _SMALL if self._most > 1 else _ALONE
        process = None if job.size < small else self._take(job)
        if process is None:
            from vrfstore.store.ingest import stage  # noqa: PLC0415 - installer, packaging, zipfile

            return stage(job)
        try:
            process.await_greeting(job)
            answer = process.ask(job)
        except _UnusableError:
            with self._changed:
                self._most = 0
            self._discard(process)
            if self._stopped:
                raise _stopped(job) from None
            return self.stage(job)
        except BaseException:
            self._discard(process)
            raise
        with self._changed:
            self._idle.append(process)
            self._changed.notify_all()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self) -> None:
        """End what is being unpacked; whoever waits for it, or comes later, gets an error."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            for process in self._all:
                process.stop()

    def _take(self, job: Job) -> _Process | None:
        """Wait for a process; None where none can be started, for want of memory for instance."""
        turn = (-job.size, next(self._numbers))
        with self._changed:
            heapq.heappush(self._waiting, turn)
            try:
                while (
                    not self._stopped
                    and self._most
                    and (self._waiting[0] != turn or not (self._idle or len(self._all) < self._most))
                ):
                    self._changed.wait()
            finally:
                self._waiting.remove(turn)
                heapq.heapify(self._waiting)
                self._changed.notify_all()
            if self._stopped:
                raise _stopped(job)
            if not self._most:
                return None
            if self._idle:
                return self._idle.pop()
            try:
                process = _Process(self._lease.descriptor)
            except OSError:
                return None
            self._all.append(process)
            return process

    def _discard(self, process: _Process) -> None:
        process.stop()
        process.end()
        with self._changed:
            self._all.remove(process)
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.stop()
        for process in tuple(self._all):
            process.end()


class _UnusableError(Exception):
    """A process ended before it began: it cannot import what we can, for instance."""


class _Process:
    """One process, and the pipes to it."""

    def __init__(self, lease: int) -> None:
        # Neither our environment variables nor `site` have a say in it: it imports what we import.
        program = _SERVE.format(path=list(map(str, sys.path)))
        options = ["-I", "-S", "-X", f"utf8={sys.flags.utf8_mode}", *["-B"] * sys.dont_write_bytecode]
        self._process = subprocess.Popen(
            [sys.executable or "", *options, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[lease],
            # Ctrl-C on a terminal is for the parent, which ends them and says what there is to say.
            process_group=0,
        )
        self._greeted = False
        self._closing = threading.Lock()

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError
        return stdin, stdout

    def await_greeting(self, job: Job) -> None:
        """Return when it is ready to unpack.

        Raises:
            _UnusableError: It never will be.
            VrfstoreError: It was killed.
        """
        if not self._greeted:
            self._greeted = self._pipes[1].read(len(_GREETING)) == _GREETING
            if not self._greeted:
                code = self._await_end()
                raise _UnusableError if code >= 0 else _died(job, code)

    def ask(self, job: Job) -> Staged | Exception:
        """Let it unpack; return what came of it.

        Raises:
            VrfstoreError: It died, or has sent something else than an answer.
        """
        stdin, stdout = self._pipes
        try:
            pickle.dump(job, stdin)
            stdin.flush()
            answer: Staged | Exception = pickle.load(stdout)  # noqa: S301 - from our own process
        except Exception as error:
            raise _died(job, self._await_end()) from error
        return answer

    def _await_end(self) -> int:
        """Return the exit code of a process that has nothing more to say."""
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def end(self) -> None:
        """Let it end by itself, and wait for that."""
        stdin, stdout = self._pipes
        # Whoever it unpacked for ends it, and whoever stops them all: two that close one pipe get in each other's way.
        with self._closing:
            # What was not read or written any more is of no interest.
            with contextlib.suppress(OSError, ValueError):
                # To close it is not enough: some process that was forked off meanwhile may have the pipe open, too.
                pickle.dump(None, stdin)
                stdin.flush()
            for pipe in (stdin, stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()

    def stop(self) -> None:
        """End it now; ``end`` is still to be called."""
        self._process.kill()


def _stopped(job: Job) -> VrfstoreError:
    return VrfstoreError(f"{job.filename} was not unpacked", kind="unpacker-stopped")


def _died(job: Job, code: int) -> VrfstoreError:
    ending = f"signal {-code}" if code < 0 else f"exit {code}"
    return VrfstoreError(
        f"the process that unpacked {job.filename} died ({ending})",
        kind="unpacker-died",
        hint="is there enough memory? try again",
    )


def serve() -> None:
    """Unpack what stdin asks for until it ends; the answers go to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent has the words for it
    answers = os.dup(1)
    # Whatever prints must not get between the answers.
    try:
        os.dup2(2, 1)
    except OSError:  # there is no stderr
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from vrfstore.store.ingest import stage  # noqa: PLC0415 - it imports much, which may print

    with contextlib.suppress(BrokenPipeError):
        os.write(answers, _GREETING)
    while (job := _next_job()) is not None:
        answer: Staged | Exception
        try:
            answer = stage(job)
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            answer = error
        data = memoryview(_pickled(answer))
        try:
            while data:
                data = data[os.write(answers, data) :]
        except BrokenPipeError:
            return


def _next_job() -> Job | None:
    try:
        job: Job | None = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    except (EOFError, pickle.UnpicklingError):  # it is gone
        return None
    return job


def _pickled(answer: Staged | Exception) -> bytes:
    """Return an answer as it is sent. Some exceptions cannot be, or not be read again: of those, what they say."""
    if isinstance(answer, Exception) and not isinstance(answer, VrfstoreError):
        answer.add_note("".join(traceback.format_exception(answer)))
        try:
            pickle.loads(pickle.dumps(answer))  # noqa: S301
        except Exception:  # noqa: BLE001 - anything can happen there
            answer = RuntimeError(repr(answer))
    return pickle.dumps(answer)
