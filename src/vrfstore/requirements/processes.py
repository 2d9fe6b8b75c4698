"""Running a resolver or a build, and ending all of it: what it has started too."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

from vrfstore.requirements.budget import Budget

__all__ = ["run"]

_TICK = 0.25
"""Seconds between two calls of a ``check``."""


def run(
    command: Sequence[str],
    *,
    variables: Mapping[str, str],
    budget: Budget | None = None,
    directory: str | None = None,
    check: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program in a session of its own, without a terminal, and return how it ended.

    Args:
        command: The program and its arguments.
        variables: Its environment.
        budget: Whose time it has; without one it has all the time it wants.
        directory: Where it runs; by default where we do.
        check: Is called a few times a second; what it raises ends the program.

    Raises:
        CapError: The time is over. Its whole process group has been killed.
        OSError: It cannot be started.
        Exception: What ``check`` raises.
    """
    remaining = None if budget is None else budget.remaining()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=variables,
        cwd=directory,
        # What it starts cannot ask at the terminal either, and wait there for ever in the background.
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = (
                process.communicate(timeout=remaining) if check is None else _attended(process, check)
            )
        except BaseException as error:
            # Ctrl-C too: it reaches only the group in the foreground, which is ours.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired) and budget is not None:
                raise budget.out_of_time() from None
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _attended(process: subprocess.Popen[str], check: Callable[[], None]) -> tuple[str, str]:
    while True:
        try:
            return process.communicate(timeout=_TICK)
        except subprocess.TimeoutExpired:
            check()
