"""Starting a Python once: to ask it something, or to see that it can be started at all."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence

from vrfstore.errors import InterpreterError
from vrfstore.sessions import session

__all__ = ["TIMEOUT", "run", "start", "starting"]

TIMEOUT = 60.0
"""Seconds. A cold start from a slow disk takes a few; more means that something hangs."""

Done = subprocess.CompletedProcess[bytes]


def start(executable: str, code: str, *, seconds: float = TIMEOUT, site: bool = True) -> None:
    """Run a few lines of Python once, to see that they can be run.

    Args:
        executable: The interpreter.
        code: The lines.
        seconds: How long that may take.
        site: Whether it sees what is installed there. Files of that (``.pth``, ``sitecustomize``) are run then.

    Raises:
        InterpreterError: It does not start, they fail, or they take longer.
    """
    with starting(executable, code, seconds=seconds, site=site):
        pass


@contextlib.contextmanager
def starting(
    executable: str, code: str, *, seconds: float = TIMEOUT, site: bool = True, called: str = ""
) -> Iterator[None]:
    """Do as ``start``, beside what is done in the block; at its end the interpreter is waited for.

    Args:
        executable: The interpreter.
        code: The lines.
        seconds: How long that may take.
        site: Whether it sees what is installed there.
        called: What an error calls it, where its path will be gone by then.

    Raises:
        InterpreterError: See ``start``.
    """
    called = called or executable
    command = [executable, "-I", *([] if site else ["-S"]), "-B", "-c", code]
    with _running(command, seconds, called) as await_end:
        yield
        done = await_end()
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").split("\n")
        last = next(
            (line.strip()[:200] for line in reversed(lines) if line.strip()), f"exit {done.returncode}"
        )
        raise InterpreterError(f"{called} fails: {last}", kind="interpreter-broken")


def run(command: Sequence[str], seconds: float = TIMEOUT) -> Done:
    """Run a program, and end it with all that it has started if it takes longer, or if we are ended.

    Raises:
        InterpreterError: It cannot be started, or takes longer.
    """
    with _running(command, seconds, command[0]) as await_end:
        return await_end()


@contextlib.contextmanager
def _running(command: Sequence[str], seconds: float, called: str) -> Iterator[Callable[[], Done]]:
    """Run a program, and give what waits for it; see ``run``."""

    def fault(reason: object) -> InterpreterError:
        return InterpreterError(f"{called} does not start: {reason}", kind="interpreter-broken")

    with contextlib.ExitStack() as stack:
        # In a session: what selects a Python may be a shell, which has it as a child.
        try:
            process = stack.enter_context(session(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        except OSError as error:
            raise fault(error) from error

        def await_end() -> Done:
            try:
                stdout, stderr = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired as error:
                raise fault(f"nothing came of it within {seconds:g} s") from error
            except OSError as error:
                raise fault(error) from error
            return Done(command, process.returncode, stdout, stderr)

        yield await_end
