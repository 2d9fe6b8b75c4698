"""Bringing many entries onto the disk with few syncs."""

from __future__ import annotations

import threading

from vrfstore import fs

__all__ = ["GroupSync"]


class GroupSync:
    """One syncfs(2) for all who wait for one.

    A sync that is under way may have begun before the caller's last write, so it does not count; all who come while
    it runs share the next one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._begun = 0
        self._finished = 0
        self._running = False

    def sync(self, path: str) -> None:
        """Return when everything written so far to the file system of ``path`` is on its disk.

        Raises:
            OSError: The disk failed, or is full.
        """
        with self._changed:
            wanted = self._begun + 1
            while self._running:
                self._changed.wait()
                if self._finished >= wanted:
                    return
            self._begun += 1
            number = self._begun
            self._running = True
        try:
            fs.sync_filesystem(path)
        except BaseException:
            number = 0  # whoever waits tries again, and gets the error for himself
            raise
        finally:
            with self._changed:
                self._running = False
                self._finished = max(self._finished, number)
                self._changed.notify_all()
