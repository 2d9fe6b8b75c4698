"""What takes how much: physical bytes, and each inode once, however many links it has.

Bytes are blocks as stat(2) counts them. What comes back when trees go are the blocks of those inodes that lose their
last link. Blocks that a file system shares between files (clones) are not seen.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from vrfstore import fs
from vrfstore.store.layout import Layout

__all__ = ["Freed", "Weighing", "room", "size_of", "walk"]


def walk(path: str) -> Iterator[os.stat_result]:
    """Yield what lstat(2) tells of everything at and below a path; no link is followed, nor into another file system.

    What vanishes meanwhile, or may not be looked at, is left out; only ``path`` itself has to be there.

    Raises:
        OSError: It is not.
    """
    top = os.lstat(path)
    yield top
    waiting = [path] if stat.S_ISDIR(top.st_mode) else []
    while waiting:
        try:
            with os.scandir(waiting.pop()) as children:
                found = list(children)
        except OSError:
            continue
        for child in found:
            try:
                stat_result = child.stat(follow_symlinks=False)
                if stat_result.st_dev != top.st_dev:
                    continue
                yield stat_result
                if stat.S_ISDIR(stat_result.st_mode):
                    waiting.append(child.path)
            except OSError:
                continue


def size_of(path: str) -> int:
    """Return the bytes that everything at and below a path takes, each inode once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for found in walk(path):
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            inode = (found.st_dev, found.st_ino)
            if inode in seen:
                continue
            seen.add(inode)
        total += found.st_blocks * fs.BLOCK
    return total


def room(path: str) -> tuple[int, int]:
    """Return the bytes that are free for us on the file system of a path, and all that it has (statvfs(3))."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


class Freed:
    """Counts what comes back: an inode's blocks, once, when all its links have been seen."""

    def __init__(self) -> None:
        self.bytes = 0
        self._left: dict[tuple[int, int], int] = {}

    def see(self, path: str) -> None:
        """Count everything at and below ``path``, which is to go."""
        for found in walk(path):
            self._see(found)

    def _see(self, found: os.stat_result) -> None:
        # A directory's links are its own `.` and its children's `..`.
        if found.st_blocks and not stat.S_ISDIR(found.st_mode):
            inode = (found.st_dev, found.st_ino)
            # By now there may be fewer links than there were: what was seen before may have gone since.
            left = min(self._left.pop(inode, found.st_nlink), found.st_nlink) - 1
            if left > 0:
                self._left[inode] = left
                return
        self.bytes += found.st_blocks * fs.BLOCK


class Weighing:
    """A ``policy.Ledger`` of what is on disk.

    Args:
        layout: The store's.
        already: What goes in any case: absolute paths.
    """

    def __init__(self, layout: Layout, *, already: Iterable[str] = ()) -> None:
        self._layout = layout
        self._freed = Freed()
        for path in already:
            self.see(path)

    @property
    def freed(self) -> int:
        """Bytes that come back when all that was added goes."""
        return self._freed.bytes

    def add(self, name: str) -> None:
        """Let ``environments/<directory>`` or ``entries/<directory>`` go as well."""
        self.see(f"{self._layout.root}/{name}")

    def see(self, path: str) -> None:
        """Let what is at a path go as well."""
        try:
            self._freed.see(path)
        except OSError:
            return  # it has gone already
