"""How a command ends that is told to, or that takes too long: as an error like any other, with an answer.

A signal becomes an exception in the main thread, as Ctrl-C does. So processes that were started are ended, what is
half-way is dropped, and whoever asked for JSON gets an object.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from vrfstore.requirements.budget import Budget, Caps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from vrfstore.requirements.policy import Policy

__all__ = ["ENDING", "TerminatedError", "answering", "deadline", "limited", "terminable"]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

ENDING = (*_SIGNALS, signal.SIGINT)
"""Signals that end a command; for the last of these Python has an exception itself."""

_GRACE = 0.25
"""Seconds that steps have which look at the clock themselves, and stop in better order."""


class TerminatedError(BaseException):
    """A signal told us to end. Like KeyboardInterrupt nobody catches it who only wants to go on.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_under_way: list[None] = []
"""One for each ``terminable`` that has not ended; of the main thread."""


@contextmanager
def terminable(*, lasting: bool = False) -> Iterator[None]:
    """Let signals that end a process raise ``TerminatedError`` here; what is ignored stays so (nohup(1)).

    Whatever else somebody has them do (a tool that measures us) waits until then. The second one ends it at once.

    Args:
        lasting: The process is ours, and ends after that: what comes then comes too late.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        signal.signal(number, signal.SIG_DFL)
        raise TerminatedError(number)

    # None is what was not set from Python, and what Python cannot set again.
    before = {number: found for number in ENDING if (found := signal.getsignal(number)) is not None}
    for number in _SIGNALS:
        if before.get(number, signal.SIG_IGN) is not signal.SIG_IGN:
            signal.signal(number, end)
    _under_way.append(None)
    try:
        yield
    finally:
        if lasting:
            answering()
        _under_way.pop()
        if not lasting:
            for number, found in before.items():
                if signal.getsignal(number) in {end, _come_too_late}:
                    signal.signal(number, found)


def answering() -> None:
    """Let a signal that would raise an exception come too late: whoever asked gets an answer, and no second one.

    The first one of a kind does nothing any more, the second one ends us at once, as ever: nobody may be reading.
    Outside of ``terminable`` signals are somebody else's.
    """
    if _under_way and threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if callable(signal.getsignal(number)):
                signal.signal(number, _come_too_late)


def _come_too_late(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """End what is done inside when its time is over, whatever it is: waiting, a hanging interpreter, a file system.

    Most steps look at the clock themselves; this is for those that cannot.

    Args:
        seconds: How long it may take; None for as long as it takes.

    Raises:
        CapError: It takes longer (``max-time``).
    """
    if (
        seconds is None
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL
    ):
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        raise Budget(Caps(seconds=seconds)).out_of_time()

    signal.signal(signal.SIGALRM, end)
    try:
        # Beyond some years setitimer(2) refuses.
        signal.setitimer(signal.ITIMER_REAL, min(seconds + _GRACE, threading.TIMEOUT_MAX))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def limited(policy: Policy) -> AbstractContextManager[None]:
    """Return a block that ends with an error when the time of a policy, or what is configured, is over."""
    from vrfstore.runner import configuration  # noqa: PLC0415 - for links

    return deadline(configuration.applied(policy, configuration.read(os.environ)).caps.seconds)
