"""``run``: a command in an environment, which stays as long as the command does."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import NoReturn

from vrfstore.errors import UsageError
from vrfstore.runner.link import LinkResult

__all__ = ["command_environment", "replace_process"]


def command_environment(result: LinkResult, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for a command that runs in a linked environment.

    Args:
        result: The linked environment.
        variables: Those of the caller.
    """
    kept = {name: value for name, value in variables.items() if name != "PYTHONHOME"}
    path = f"{result.environment}/bin"
    if variables.get("PATH"):
        path += os.pathsep + variables["PATH"]
    return kept | {
        "PATH": path,
        "VIRTUAL_ENV": result.environment,
        "QUARTO_PYTHON": result.python,
        # A kernelspec in the user's own directory would otherwise come before the environment's.
        "JUPYTER_PREFER_ENV_PATH": "1",
        # Resolving did not see the user's site; with it, other versions might come first.
        "PYTHONNOUSERSITE": "1",
    }


def replace_process(result: LinkResult, command: Sequence[str]) -> NoReturn:
    """Become the command (execve(2)); the lease goes with it, through its descriptor.

    Raises:
        UsageError: There is no such command, or it cannot be executed.
    """
    if result.lease is not None:
        os.set_inheritable(result.lease.descriptor, True)
    variables = command_environment(result, os.environ)
    # Python ignores these; the command expects them as they usually are.
    usual = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    try:
        os.execvpe(command[0], list(command), variables)  # noqa: S606 - no shell is what is wanted
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no command {command[0]!r} in the environment or on PATH", kind="command-missing"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{command[0]!r} cannot be executed: {error.strerror}", kind="command-not-executable"
        ) from error
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
