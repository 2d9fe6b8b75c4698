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
import subprocess
import sys
import threading
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

_SERVE = "import sys; sys.path[:] = {path!r}; from vrfstore.store.unpacking import serve; serve()"


class Unpackers:
    """A few processes that unpack; use it in a ``with`` statement, from any number of threads.

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

    def stage(self, job: Job) -> Staged:
        """Do as ``ingest.stage``, in one of the processes; the largest wheel that waits comes first."""
        if job.size < _SMALL or self._most < 2:  # noqa: PLR2004 - one process is no help
            from vrfstore.store.ingest import stage  # noqa: PLC0415 - installer, packaging, zipfile

            return stage(job)
        process = self._take(job)
        try:
            answer = process.ask(job)
        except BaseException:
            self._discard(process)
            raise
        with self._changed:
            self._idle.append(process)
            self._changed.notify_all()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _take(self, job: Job) -> _Process:
        turn = (-job.size, next(self._numbers))
        with self._changed:
            heapq.heappush(self._waiting, turn)
            try:
                while self._waiting[0] != turn or not (self._idle or len(self._all) < self._most):
                    self._changed.wait()
            finally:
                self._waiting.remove(turn)
                heapq.heapify(self._waiting)
                self._changed.notify_all()
            if self._idle:
                return self._idle.pop()
            process = _Process(self._lease.descriptor)
            self._all.append(process)
            return process

    def _discard(self, process: _Process) -> None:
        process.kill()
        with self._changed:
            self._all.remove(process)
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._all:
            process.end()


class _Process:
    """One process, and the pipes to it."""

    def __init__(self, lease: int) -> None:
        # Neither our environment variables nor `site` have a say in it: it imports what we import.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SERVE.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[lease],
        )

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError
        return stdin, stdout

    def ask(self, job: Job) -> Staged | Exception:
        """Let it unpack; return what came of it.

        Raises:
            VrfstoreError: It died.
        """
        stdin, stdout = self._pipes
        try:
            pickle.dump(job, stdin)
            stdin.flush()
            answer: Staged | Exception = pickle.load(stdout)  # noqa: S301 - from our own process
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            raise VrfstoreError(
                f"the process that unpacked {job.filename} died ({_ending(code)})",
                kind="unpacker-died",
                hint="is there enough memory? try again",
            ) from error
        return answer

    def end(self) -> None:
        """Let it end by itself, and wait for that."""
        for pipe in self._pipes:
            # What was not read or written any more is of no interest.
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self.end()


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"


def serve() -> None:
    """Unpack what stdin asks for until it ends; the answers go to stdout."""
    from vrfstore.store.ingest import stage  # noqa: PLC0415

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Whatever prints must not get between the answers.
    os.dup2(2, 1)
    while True:
        try:
            job: Job = pickle.load(requests)  # noqa: S301 - from our own parent
        except EOFError:
            return
        answer: Staged | Exception
        try:
            answer = stage(job)
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            answer = error
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:
            return
