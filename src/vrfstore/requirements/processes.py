"""Running a resolver or a build, and ending all of it: what it has started too."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence

from vrfstore.requirements.budget import Budget
from vrfstore.sessions import session

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
    try:
        with session(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=variables,
            cwd=directory,
        ) as process:
            stdout, stderr = (
                process.communicate(timeout=remaining) if check is None else _attended(process, check)
            )
    except subprocess.TimeoutExpired:
        if budget is None:
            raise
        raise budget.out_of_time() from None
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _attended(process: subprocess.Popen[str], check: Callable[[], None]) -> tuple[str, str]:
    while True:
        try:
            return process.communicate(timeout=_TICK)
        except subprocess.TimeoutExpired:
            check()
