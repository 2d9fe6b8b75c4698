"""Running a resolver or a build, and ending all of it: what it has started too."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from vrfstore.requirements.budget import Budget

__all__ = ["run"]


def run(
    command: Sequence[str],
    *,
    variables: Mapping[str, str],
    budget: Budget | None = None,
    directory: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program in a process group of its own, and return how it ended.

    Args:
        command: The program and its arguments.
        variables: Its environment.
        budget: Whose time it has; without one it has all the time it wants.
        directory: Where it runs; by default where we do.

    Raises:
        CapError: The time is over. Its whole process group has been killed.
        OSError: It cannot be started.
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
        process_group=0,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=remaining)
        except BaseException as error:
            # Ctrl-C too: it reaches only the group in the foreground, which is ours.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired) and budget is not None:
                raise budget.out_of_time() from None
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
