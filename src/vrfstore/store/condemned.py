"""The list of names that a gc is about to rename aside, and how those who use things honour it.

Who uses: stamp or lease → read this list → check that the thing is there → use it.
Who collects: put the list in place → read leases, roots and stamps *again* → rename what is still dead.
Either of them made before that second reading is seen by it; one made after sees the list, or that the thing is gone.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Collection

from vrfstore import fs
from vrfstore.errors import BusyError
from vrfstore.store.holds import hold
from vrfstore.store.layout import Layout

__all__ = ["CAPACITY", "names", "preallocate", "publish", "wait_until_clear", "withdraw"]

CAPACITY = 80 * 1024
"""Bytes of the preallocated list: room for 256 names of up to 300 bytes."""

_PATIENCE = 2.0
"""Seconds that a user waits for the batch of a collector that is alive."""


def names(layout: Layout) -> frozenset[str]:
    """Return the condemned names, such as ``environments/<key>`` and ``entries/<directory>``."""
    try:
        # The file is preallocated and may be longer than its list, which ends at the first NUL.
        text = os.fsdecode(fs.read_file(layout.condemned).partition(b"\0")[0])
        return frozenset(name for name in text.split("\n") if name)
    except FileNotFoundError:
        return frozenset()


def wait_until_clear(layout: Layout, wanted: Collection[str]) -> None:
    """Return when none of the wanted names is condemned any more; they may be gone by then.

    Raises:
        BusyError: A collector that is alive still has one on its list after two seconds.
    """
    deadline = time.monotonic() + _PATIENCE
    while os.path.lexists(layout.condemned):
        with contextlib.suppress(BusyError, FileNotFoundError), hold(layout.of("gc", "run"), timeout=0):
            # No collector is alive: whoever left the list did not get to finish. What it had renamed is dead
            # already; the rest is not condemned any more.
            fs.rename(layout.condemned, layout.of("gc", "spare"))
            return
        if names(layout).isdisjoint(wanted):
            return
        if time.monotonic() >= deadline:
            raise BusyError(
                f"gc has been at work on what is wanted for {_PATIENCE:.0f} seconds", kind="gc-busy"
            )
        time.sleep(0.01)


def preallocate(layout: Layout) -> None:
    """Make the file that a list is written into, with all its blocks, while there is still room for it.

    Does nothing while a gc is at work: that one has it, or makes it.
    """
    spare = layout.of("gc", "spare")
    if os.path.lexists(layout.condemned) or _size(spare) >= CAPACITY:
        return
    with contextlib.suppress(BusyError), hold(layout.of("gc", "run"), timeout=0):
        if not os.path.lexists(layout.condemned) and _size(spare) < CAPACITY:
            _fill(spare, b"")


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def _fill(spare: str, data: bytes) -> None:
    _clear_strange(spare)
    descriptor = os.open(spare, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        # A list ends at its first NUL: what is behind that stays as it is, and is not written again.
        whole = os.fstat(descriptor).st_size >= CAPACITY
        fs.overwrite(descriptor, spare, data + b"\0" if whole else data.ljust(CAPACITY, b"\0"))
    finally:
        os.close(descriptor)


def _clear_strange(spare: str) -> None:
    """Remove what is not a file of ours alone: through a link of either kind, another file would be written over."""
    try:
        found = os.lstat(spare)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        fs.remove_tree(spare)


def publish(layout: Layout, condemned: list[str]) -> None:
    """Put the list in place; the caller holds ``gc/run``.

    The preallocated ``gc/spare`` is overwritten and renamed, so that a full disk does not matter.
    """
    spare = layout.of("gc", "spare")
    # A name in two lines would be two others. Nobody wants one like that: keys and digests have none.
    _fill(spare, os.fsencode("".join(f"{name}\n" for name in condemned if "\n" not in name)))
    fs.rename(spare, layout.condemned)


def withdraw(layout: Layout) -> None:
    """Take the list back; the caller holds ``gc/run``."""
    fs.rename(layout.condemned, layout.of("gc", "spare"))
