"""Waiting for threads so that a signal is heard meanwhile.

Python runs the handler of a signal in the main thread, when that next looks. A signal that comes after its last look
and before it waits for a lock does not end the wait (python.org, library/signal: execution of Python signal handlers).
Beside busy threads that is no rare case: whoever gives up the interpreter in order to wait first has to see another
thread take it. So nothing here waits longer than a moment without looking.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from time import monotonic
from typing import TypeVar

__all__ = ["await_all", "outcome", "outcomes"]

T = TypeVar("T")
R = TypeVar("R")

_MOMENT = 0.1
"""Seconds between two looks."""


def outcome(future: Future[R]) -> R:
    """Wait for what somebody else does; return or raise what came of it."""
    while not wait((future,), _MOMENT).done:
        pass
    return future.result()


def outcomes(executor: Executor, function: Callable[[T], R], arguments: Iterable[T]) -> list[R]:
    """Call a function for each argument; return what came of it, in order.

    What has not begun when one fails, or when we are told to end, is left out.
    """
    futures = [executor.submit(function, argument) for argument in arguments]
    try:
        return [outcome(future) for future in futures]
    finally:
        for future in futures:
            future.cancel()


def await_all(futures: Collection[Future[R]], seconds: float | None = None) -> bool:
    """Wait until all is done, one has failed, or the time is over.

    Returns:
        Whether all is done.

    Raises:
        Exception: What one of them failed with.
    """
    end = None if seconds is None else monotonic() + seconds
    while True:
        moment = _MOMENT if end is None else max(0.0, min(_MOMENT, end - monotonic()))
        done, waiting = wait(futures, moment, FIRST_EXCEPTION)
        for future in done:
            future.result()
        if not waiting or (end is not None and monotonic() >= end):
            return not waiting
