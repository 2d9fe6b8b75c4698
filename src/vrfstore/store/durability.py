"""Bringing many entries onto the disk with few syncs."""

from __future__ import annotations

import os
import threading

from vrfstore import fs

__all__ = ["GroupSync"]


class GroupSync:
    """One syncfs(2) for all who wait for one.

    A sync that is under way may have begun before the caller's last write, so it does not count; all who come while
    it runs share the next one. Where a sync fails, it fails for all who wait: the kernel says only once that something
    was not written, whoever wrote it, and the next sync would succeed without that (syncfs(2)).
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._begun = 0
        self._finished = 0
        self._running = False
        self._failed = 0
        self._failure = OSError()
        self._descriptor: int | None = None
        self._tickets: dict[str, int] = {}

    def begin(self, path: str, name: str) -> None:
        """Note that something is going to be written.

        Its ``sync`` fails for whatever cannot be written to the file system of ``path`` from now on, also if somebody
        else's sync is told so before.

        Args:
            path: A directory there.
            name: What it is called when it is synced.
        """
        with self._changed:
            self._tickets[name] = self._begun
            if self._descriptor is None:
                import weakref  # noqa: PLC0415 - for who adds something

                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                weakref.finalize(self, os.close, self._descriptor)

    def sync(self, path: str, name: str = "") -> None:
        """Return when everything written so far to the file system of ``path`` is on its disk.

        Args:
            path: A directory there.
            name: What the caller has called it at ``begin``, if he did.

        Raises:
            OSError: The disk failed, or is full.
        """
        with self._changed:
            ticket = self._tickets.pop(name, self._begun)
            if self._failed > ticket:
                raise OSError(*self._failure.args) from self._failure
            wanted = self._begun + 1
            while self._running:
                self._changed.wait()
                # The one that was under way counts: it may have been our bytes that it could not write.
                if self._failed >= wanted - 1:
                    raise OSError(*self._failure.args) from self._failure
                if self._finished >= wanted:
                    return
            self._begun += 1
            number = self._begun
            self._running = True
        finished, failure = False, None
        try:
            fs.sync_filesystem(path, self._descriptor)
            finished = True
        except OSError as error:
            failure = error
            raise
        finally:
            with self._changed:
                self._running = False
                if finished:
                    self._finished = number
                if failure is not None:
                    self._failed, self._failure = number, failure
                self._changed.notify_all()
