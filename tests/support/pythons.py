"""The CPythons of this machine that environments can be linked for."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["pythons"]

_OLDEST = (3, 9)
_QUESTION = "import sys; print(sys.version_info[:2] >= (3, 9), sys.implementation.name, sys.prefix == sys.base_prefix)"


@functools.cache
def pythons() -> tuple[str, ...]:
    """Return the path of one python for each installation found: pyenv's versions, PATH, and the system's own."""
    roots = [Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")]
    candidates = [path for root in roots for path in sorted(root.glob("versions/3.*/bin/python"))]
    places = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if "shims" not in place]
    for place in [*places, Path("/usr/bin"), Path("/usr/local/bin")]:
        candidates += [place / f"python3.{minor}" for minor in range(_OLDEST[1], 20)]
    candidates.append(Path(getattr(sys, "_base_executable", sys.executable)))
    found: dict[str, str] = {}
    for candidate in candidates:
        if candidate.exists() and _suitable(candidate):
            found.setdefault(os.path.realpath(candidate), str(candidate))
    return tuple(found.values())


def _suitable(python: Path) -> bool:
    done = subprocess.run([python, "-I", "-c", _QUESTION], capture_output=True, text=True, check=False)
    return done.stdout.split() == ["True", "cpython", "True"]
