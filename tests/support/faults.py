"""Disks that are full or broken: injected at any one call, or really."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.crash import together
from vrfstore import fs
from vrfstore.cli.failures import as_error
from vrfstore.errors import VrfstoreError

CALLS = ("fsync", "ftruncate", "link", "mkdir", "open", "pwrite", "rename", "symlink", "write")
"""What needs room on a disk, or brings something onto it; of ``open``, where a file is made."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A disk that fails.

    Attributes:
        code: The error, from ``errno``.
        point: With which of the calls above it fails, counted from 1; 0 for none.
        lasting: Whether all later calls fail as well.
    """

    code: int = errno.ENOSPC
    point: int = 0
    lasting: bool = False

    @property
    def exit_code(self) -> int:
        """How a command ends because of it."""
        return 17 if self.code == errno.EIO else 16


@dataclass(frozen=True)
class Outcome:
    """How something ended.

    Attributes:
        exit_code: That of the command, or the one that its error gives a command.
        error: What was said.
        calls: How many calls there were that a fault could have hit.
        hit: Whether it has hit one.
    """

    exit_code: int
    error: str
    calls: int
    hit: bool


class Injection:
    """A fault in this process, which is to end soon: nothing takes it out again."""

    def __init__(self, fault: Fault) -> None:
        self.calls = 0
        self.hit = False
        self._fault = fault
        self._guard = threading.Lock()
        for name in CALLS:
            setattr(os, name, self._failing(name, getattr(os, name)))
        for name in ("_syncfs", "exchange"):
            setattr(fs, name, self._failing(name, getattr(fs, name)))

    def _failing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*arguments: Any, **options: Any) -> Any:
            makes = name != "open" or arguments[1] & os.O_CREAT
            # A pipe, or the terminal, is on no disk.
            on_disk = name != "write" or stat.S_ISREG(os.fstat(arguments[0]).st_mode)
            if makes and on_disk and self._next():
                raise OSError(self._fault.code, os.strerror(self._fault.code), None)
            return call(*arguments, **options)

        return failing

    def _next(self) -> bool:
        with self._guard:
            self.calls += 1
            fails = self.calls == self._fault.point or (
                self._fault.lasting and 0 < self._fault.point < self.calls
            )
            self.hit = self.hit or fails
            return fails


def ending_of(action: Callable[[], int | None]) -> tuple[int, str]:
    """Run an action; return how a command that does just that would end, and what it would say."""
    try:
        return action() or 0, ""
    except VrfstoreError as error:
        return error.exit_code, str(error)
    except OSError as error:
        translated = as_error(error)
        return translated.exit_code, str(translated)


def with_fault(fault: Fault, action: Callable[[], int | None]) -> Outcome:
    """Run an action in a process whose disk fails; it may return an exit code."""

    def doomed() -> Outcome:
        injection = Injection(fault)
        code, error = ending_of(action)
        return Outcome(code, error, injection.calls, injection.hit)

    return together(doomed)[0]


def mounted(command: str, folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program where ``command`` has mounted something at ``folder``, for nobody else to see."""
    shell = f'mount --make-rprivate / && {command} && exec "$0" -c "$1" "$2"'
    return subprocess.run(
        ["unshare", "-m", "/bin/sh", "-c", shell, sys.executable, program, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))},
    )
