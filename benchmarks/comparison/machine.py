"""What a run was measured on, and which commit was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["commit", "machine"]

_ROOT = Path(__file__).parent.parent.parent


def commit() -> dict[str, Any]:
    """Return the commit of the checkout, and whether anything that git watches differs from it."""
    identity = _git("rev-parse", "HEAD")
    return {"id": identity or "unknown", "dirty": bool(_git("status", "--porcelain"))}


def machine(scratch: Path) -> dict[str, Any]:
    """Return what is known of the machine, and of the file system of a directory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "kernel": platform.release(),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "memory": memory,
        "file_system": _file_system(scratch),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _processor() -> str:
    """Return the model of the first processor (proc(5))."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _file_system(directory: Path) -> str:
    """Return the type of the file system that a directory is on: of the longest mount point above it (proc(5))."""
    real = os.path.realpath(directory)
    found = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        inside = point in {"/", real} or real.startswith(f"{point}/")
        if inside and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]
