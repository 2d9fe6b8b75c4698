"""Which environments and entries running processes use, as far as ``/proc`` tells (proc(5)).

This only ever adds protection: what cannot be read protects nothing, and nothing is removed because a process
was not found. It is how a kernel that outlives the command that started it keeps its environment: descendants do
not inherit the lease's descriptor.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

__all__ = ["names_in_use"]

# A path that may lie in a store: the part before, then a name that is unlike anything else.
_PATH = re.compile(
    rb"([^\0\n:='\"]*?)(environments/[0-9a-f]{32}(?:\.\d+)?|entries/[0-9a-f]{20,64}-[^/\0\n:\"' ]+)"
)


def names_in_use(root: str, proc: str = "/proc") -> Mapping[str, frozenset[int]]:
    """Return ``environments/<directory>`` and ``entries/<directory>`` names with the processes that use them.

    Args:
        root: The store.
        proc: Where the proc file system is mounted.
    """
    found: dict[str, set[int]] = defaultdict(set)
    for pid in _processes(proc):
        for text in _texts(f"{proc}/{pid}"):
            for match in _PATH.finditer(text):
                name = os.fsdecode(match[2])
                if pid not in found[name] and not _elsewhere(f"{proc}/{pid}", match[1], name, root):
                    found[name].add(pid)
    return {name: frozenset(pids) for name, pids in found.items() if pids}


def _elsewhere(process: str, before: bytes, name: str, root: str) -> bool:
    """Whether a path that a process knows certainly leads to another store than ours.

    It is looked up as the process would, in its own mount namespace: there, the store may be somewhere else.
    """
    slash = before.find(b"/")
    if slash < 0:
        return False
    try:
        theirs = os.stat(f"{process}/root{os.fsdecode(before[slash:])}{name}")
        ours = os.stat(f"{root}/{name}")
    except OSError:
        return False
    return (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino)


def _processes(proc: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(proc) if name.isdecimal()]
    except OSError:
        return []


def _texts(process: str) -> Iterator[bytes]:
    """Yield all that may name a path: command line, variables, mapped files, program and working directory."""
    for name in ("cmdline", "environ", "maps"):
        try:
            with open(f"{process}/{name}", "rb") as stream:
                # NUL ends each argument and variable; for the pattern it is a beginning like any other.
                yield stream.read()
        except OSError:
            continue
    for name in ("exe", "cwd"):
        try:
            yield os.fsencode(os.readlink(f"{process}/{name}"))
        except OSError:
            continue
