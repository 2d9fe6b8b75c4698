"""What went wrong, in the terms of the exit codes: every exception becomes a ``VrfstoreError``."""

from __future__ import annotations

import errno
import os

from vrfstore.cli import render
from vrfstore.errors import DiskFullError, StoreDamagedError, StoreError, UsageError, VrfstoreError

__all__ = ["as_error", "is_bug"]


def as_error(error: Exception) -> VrfstoreError:
    """Return an exception as the error to show. What nobody has foreseen is a bug, and says so."""
    if isinstance(error, VrfstoreError):
        return error
    if isinstance(error, OSError):
        return _translate(error)
    return VrfstoreError(
        f"this is a bug in vrfstore: {error!r}", hint="please report it with the lines that stderr has of it"
    )


def is_bug(error: Exception) -> bool:
    """Whether an exception is none that anybody has foreseen."""
    return not isinstance(error, (VrfstoreError, OSError))


def _translate(error: OSError) -> VrfstoreError:
    """Say what the operating system refused in the terms of the exit codes."""
    # Of two names the second is the one that was wanted, and the first may be a temporary one, unless it is not there.
    first = error.filename2 is None or error.errno == errno.ENOENT
    named = error.filename if first else error.filename2
    place = None if named is None else str(named)
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = (
            "free some space" if place == render.STDOUT else "free some space, for instance with: vrfstore gc"
        )
        return DiskFullError(reason, path=place, hint=hint)
    if place is not None and place != render.STDOUT and not _is_in_a_store(place):
        found = _translate_of_user(error.errno, reason, place)
        if found is not None:
            return found
    if error.errno == errno.ENAMETOOLONG:
        return StoreError(reason, kind="store-path", path=place, hint="choose a shorter path for the store")
    if error.errno in {errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL}:
        return StoreDamagedError(
            reason, path=place, hint="something else is in the place of a file; remove it"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return StoreError(reason, kind="store-access", path=place)
    if error.errno == errno.EIO:
        return StoreDamagedError(reason, kind="input-output", path=place, hint="check the disk")
    return VrfstoreError(reason, path=place)


def _translate_of_user(number: int | None, reason: str, place: str) -> VrfstoreError | None:
    """Say what is wrong with a path that the user has given; None where it is not the path."""
    match number:
        case errno.ENAMETOOLONG:
            return UsageError(reason, kind="path", path=place, hint="choose a shorter path")
        case errno.ELOOP:
            return UsageError(reason, kind="path", path=place, hint="links there lead to each other")
        case errno.ENOTDIR | errno.EISDIR | errno.EEXIST:
            return UsageError(reason, kind="path", path=place, hint="something else is in the way there")
        case errno.ENOENT:
            return UsageError(reason, kind="path", path=place, hint="check the path")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return StoreError(reason, kind="access", path=place, hint="choose a place that you may write")
        case _:
            return None


def _is_in_a_store(place: str) -> bool:
    """Whether a path is below the directory of a store."""
    above = os.path.abspath(place)
    while not os.path.lexists(f"{above}/store.json"):
        if above == (above := os.path.dirname(above)):
            return False
    return True
