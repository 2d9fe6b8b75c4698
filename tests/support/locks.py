"""Locks of wheels that lie in a directory, so that linking asks no index and starts no resolver."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from support.crash import wheel_digest
from vrfstore import fs
from vrfstore.model import Lock, LockedWheel
from vrfstore.requirements import lock as locks

__all__ = ["write_lock"]


def write_lock(folder: Path, wheels: Sequence[Path]) -> Path:
    """Write the lock of some wheels for our own Python; return its path, which is ``pylock.toml`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pylock.toml"
    lock = Lock(python=f"{sys.version_info[0]}.{sys.version_info[1]}", wheels=tuple(map(_locked, wheels)))
    # In one step: another process may be writing or reading the same.
    fs.replace_file(str(path), locks.dumps(lock).encode())
    return path


def _locked(wheel: Path) -> LockedWheel:
    name, version, *_ = wheel.name.split("-")
    return LockedWheel(
        name=name,
        version=version,
        filename=wheel.name,
        digest=wheel_digest(wheel),
        url=wheel.as_uri(),
        size=wheel.stat().st_size,
    )
