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

from vrfstore import fs

__all__ = ["can_be_seen", "command_of", "names_in_use"]

# Unlike anything else, so that it hardly matters what is before it.
_NAME = re.compile(rb"environments/[0-9a-f]{32}(?:\.\d+)?|entries/[0-9a-f]{20,64}-[^/\0\n:\"' ]+")

_ENDS = (b"\0", b"\n", b":", b"=", b"'", b'"')
"""What may be before a path in a command line, a variable, or a line of maps."""

_LONGEST_PATH = 4096


def names_in_use(root: str, proc: str = "/proc") -> Mapping[str, frozenset[int]]:
    """Return ``environments/<directory>`` and ``entries/<directory>`` names with the processes that use them.

    Args:
        root: The store.
        proc: Where the proc file system is mounted.
    """
    ours = _identity(f"{root}/store.json")
    found: dict[str, set[int]] = defaultdict(set)
    for pid in _processes(proc):
        for text in _texts(f"{proc}/{pid}"):
            for match in _NAME.finditer(text):
                name = os.fsdecode(match[0])
                if pid not in found[name]:
                    # Looked for backwards: in a pattern it would take quadratic time on a long argument.
                    before = text[max(0, match.start() - _LONGEST_PATH) : match.start()]
                    before = before[max(before.rfind(end) for end in _ENDS) + 1 :]
                    if not _elsewhere(f"{proc}/{pid}", before, ours):
                        found[name].add(pid)
    return {name: frozenset(pids) for name, pids in found.items() if pids}


def can_be_seen(proc: str = "/proc") -> bool:
    """Whether any process can be seen; we run ourselves, so that none means that nothing shows them."""
    return bool(_processes(proc))


def command_of(pid: int, proc: str = "/proc") -> str:
    """Return the name of a process's command (``/proc/PID/comm``); empty where that cannot be read.

    A process chooses it itself, and may put any bytes there.
    """
    try:
        return os.fsdecode(fs.read_file(f"{proc}/{pid}/comm", 4096)).removesuffix("\n")
    except OSError:
        return ""


def _elsewhere(process: str, before: bytes, ours: bytes | None) -> bool:
    """Whether a path certainly leads to another store: one that says of itself that it is another.

    It is looked up as the process would, in its own mount namespace, where everything may have other paths,
    devices and inodes.
    """
    slash = before.find(b"/")
    theirs = None if slash < 0 else _identity(f"{process}/root{os.fsdecode(before[slash:])}store.json")
    return theirs is not None and theirs != ours


def _identity(marker: str) -> bytes | None:
    """Return what a store says of itself; None where that cannot be read."""
    try:
        return fs.read_file(marker, 4096)
    except OSError:
        return None


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
