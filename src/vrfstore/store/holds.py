"""Holds: exclusive mutexes on files that are never unlinked.

A hold is flock(2) on a descriptor, so it ends with its process whatever kills it. The files are few and
stay: a mutex whose file can be removed lets two owners lock two inodes of one name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vrfstore.errors import BusyError

__all__ = ["hold", "locked", "shard"]

_POLL = 0.02
"""Seconds between attempts."""

_ATTEND = 0.25
"""Seconds between two calls of ``attend``."""


def shard(kind: str, digest: str) -> str:
    """Return the name of the hold for one digest: 4,096 files a kind, so that they need no collector.

    Two digests may share one. That only costs waiting, as long as nobody takes a second hold of the same kind.
    """
    return f"{kind}-{digest[:3]}"


@contextmanager
def hold(
    path: str,
    *,
    timeout: float | None = None,
    on_wait: Callable[[], None] | None = None,
    stopped: Callable[[], bool] | None = None,
    attend: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold the file at ``path`` exclusively, across threads and processes.

    Args:
        path: The file; made where it is not there.
        timeout: Seconds to wait; ``None`` for as long as it takes, 0 for not at all.
        on_wait: Called once, when somebody else is found to hold it.
        stopped: Asked while waiting whether that has become pointless.
        attend: Called at once and a few times a second while waiting; what it raises ends that.

    Raises:
        BusyError: Somebody else still holds it, or waiting was stopped.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        if not locked(descriptor):
            if on_wait is not None:
                on_wait()
            _await(descriptor, path, timeout, stopped, attend)
        yield
    finally:
        os.close(descriptor)


def locked(descriptor: int) -> bool:
    """Take the lock of an open file where it is free: flock(2), as filelock does it.

    For files that hardly anybody else wants at this moment. filelock itself takes 14 ms to import, which is a tenth of
    a link; who has to wait, or looks at locks of others, can afford it.
    """
    import fcntl  # noqa: PLC0415 - not on the path of a hit

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter where NFS has it be a lock of fcntl(2)
        return False
    return True


def _await(
    descriptor: int,
    path: str,
    timeout: float | None,
    stopped: Callable[[], bool] | None,
    attend: Callable[[], None] | None,
) -> None:
    from filelock import lock_descriptor  # noqa: PLC0415 - see locked

    deadline = None if timeout is None else time.monotonic() + timeout
    attended = 0.0
    while True:
        if attend is not None and time.monotonic() - attended >= _ATTEND:
            attend()
            attended = time.monotonic()
        over = deadline is not None and time.monotonic() >= deadline
        if over or (stopped is not None and stopped()):
            raise BusyError(f"somebody else holds {os.path.basename(path)}")
        time.sleep(_POLL)
        if lock_descriptor(descriptor, blocking=False):
            return
