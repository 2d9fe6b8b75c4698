"""Ballast: room on the disk that a store keeps, so that a gc can begin where there is none left.

Removing needs no room, but renaming aside may: the new name can need another block of its directory before the old
one is gone. A gc that finds the disk full removes ``gc/ballast`` first, and makes it again at its end::

    <store>/gc/ballast      SIZE bytes that belong to nobody

"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from vrfstore import fs
from vrfstore.errors import BusyError
from vrfstore.store.holds import hold
from vrfstore.store.layout import Layout

__all__ = ["SIZE", "free", "preallocate", "refill"]

SIZE = 1 << 20
"""Bytes: a batch renames up to 256 names aside, each of which may need a block of usually 4 KiB. What a batch has
removed makes room for the next."""

_SHARE = 8
"""Ballast is made where it takes no more than one part in so many of what is free."""

_FULL = frozenset([errno.ENOSPC, errno.EDQUOT])


def preallocate(layout: Layout) -> None:
    """Make the ballast while there is room for it. Does nothing while a gc is at work, which makes it at its end."""
    # Where there is none, the hold is not taken either: a gc that does not wait would take each of us for another gc.
    if _is_whole(layout.ballast) or not _has_room_to_spare(layout):
        return
    with contextlib.suppress(BusyError), hold(layout.of("gc", "run"), timeout=0):
        refill(layout)


def free(layout: Layout, *, refused: bool = False) -> bool:
    """Give the ballast back if the file system has almost no room left, for bytes or for files.

    The caller holds ``gc/run``.

    Args:
        layout: The store's.
        refused: Something has just failed for want of room: give it back whatever the file system says, which does
            not know of quotas.

    Returns:
        Whether it was there and was given back.
    """
    if not refused:
        bytes_free, files_free = _room(layout)
        if bytes_free >= SIZE and files_free:
            return False
    if not fs.remove_file(layout.ballast):
        return False
    # What a journal has not committed yet is not free yet.
    fs.sync_filesystem(layout.of("gc"))
    return True


def refill(layout: Layout) -> None:
    """Make the ballast, unless it is there or there is no room to spare. The caller holds ``gc/run``."""
    path = layout.ballast
    if _is_whole(path):
        return
    if not _has_room_to_spare(layout):
        return
    fs.remove_tree(path)  # half of one, or what somebody put there
    try:
        # With the mode that a new file has from its first moment: a kill leaves none that is whole but for its mode.
        with fs.NewFile(path, mode=0o600) as file:
            file.allocate(SIZE)
    except OSError as error:
        fs.remove_file(path)
        if error.errno not in _FULL:
            raise


def _is_whole(path: str) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size >= SIZE


def _has_room_to_spare(layout: Layout) -> bool:
    bytes_free, files_free = _room(layout)
    return bytes_free >= _SHARE * SIZE and files_free


def _room(layout: Layout) -> tuple[int, bool]:
    """Return how many bytes an ordinary user may still write, and whether there can be another file (statvfs(3))."""
    found = os.statvfs(layout.of("gc"))
    # A file system that makes inodes as it needs them counts none at all.
    return found.f_bavail * found.f_frsize, found.f_files == 0 or found.f_favail > 0
