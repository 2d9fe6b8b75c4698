"""Programs in sessions of their own (setsid(2)), so that all they have started can be ended with them.

A signal that ends us raises an exception wherever we are (``cli.ending``, or Python's own for Ctrl-C). While a process
is being started nobody knows its number yet, and it would be left running: there the signal has to wait.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["session"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


@contextlib.contextmanager
def session(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a program without a terminal; where the block ends by an exception, end it and all that it has started.

    Args:
        command: The program and its arguments.
        options: Of ``subprocess.Popen``.

    Raises:
        OSError: It cannot be started.
    """
    later = _Later()
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
    except BaseException:
        later.end()
        raise
    with process:
        try:
            later.end()
            yield process
        except BaseException:
            # Ctrl-C too: it reaches only the group in the foreground, which is ours.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


class _Later:
    """Keeps signals that have a handler waiting, until ``end``. In other threads than the main one none arrives."""

    def __init__(self) -> None:
        self._came: list[int] = []
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if callable(signal.getsignal(number)):
                    self._handlers[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._came.append(number)

    def end(self) -> None:
        """Let them come."""
        while self._handlers:
            signal.signal(*self._handlers.popitem())
        while self._came:
            signal.raise_signal(self._came.pop())
