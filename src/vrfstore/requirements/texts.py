"""Reading requirements texts, and whatever files a trusted one leads to (``-r``, ``-c``).

A nested file is as trusted as the one that leads to it. How deep and how many they may be is bounded, and only regular
files are read, so that nothing a text says keeps us for ever.
"""

from __future__ import annotations

import errno
import os

from vrfstore import fs
from vrfstore.errors import RequirementsError
from vrfstore.requirements.files import LARGEST
from vrfstore.requirements.gathering import Gathering
from vrfstore.requirements.parse import decode, forbidden, logical_lines, parse_line
from vrfstore.requirements.places import Include, trusted_line
from vrfstore.values import dataclass

__all__ = ["read_text"]

_DEEPEST = 20
_MOST = 100
"""Files that one given file may lead to, by whatever ways."""


def read_text(gathering: Gathering, data: bytes, path: str, *, trusted: bool) -> None:
    """Read a requirements text.

    Args:
        gathering: Where requirements, constraints and faults go.
        data: The file's content.
        path: What to call it in errors; what it names is relative to its directory.
        trusted: Whether it may say where code comes from.
    """
    walk = _Walk(gathering, trusted, set())
    walk.read(data, path, (os.path.realpath(path),), constraint=False)


@dataclass(frozen=True, slots=True)
class _Walk:
    """The way through one given file and all that it leads to."""

    gathering: Gathering
    trusted: bool
    seen: set[tuple[str, bool]]

    def read(self, data: bytes, path: str, way: tuple[str, ...], *, constraint: bool) -> None:
        """Read one file; ``way`` has the real paths of those that led to it, and its own."""
        faults = self.gathering.faults
        try:
            text = decode(data, path)
        except RequirementsError as error:
            faults.append(error)
            return
        for line, content in logical_lines(text):
            try:
                self._line(content, path, line, way, constraint=constraint)
            except RequirementsError as error:
                faults.append(error)

    def _line(self, content: str, path: str, line: int, way: tuple[str, ...], *, constraint: bool) -> None:
        found = trusted_line(content, path, line) if self.trusted else parse_line(content, path, line)
        if not isinstance(found, Include):
            self.gathering.add(found, path, constraint=constraint)
        elif constraint and not found.constraint:
            raise forbidden(
                f"{found.words} stands in a file of constraints, which can bring nothing",
                path,
                line,
                "write -c, or name that file where requirements are",
            )
        else:
            self._follow(found, path, way)

    def _follow(self, include: Include, path: str, way: tuple[str, ...]) -> None:
        real = os.path.realpath(include.path)
        if real in way:
            names = [os.path.basename(step) for step in (*way[way.index(real) :], real)]
            raise _too_far(f"files lead in a circle: {' > '.join(names)}", path, include.line)
        if (real, include.constraint) in self.seen:
            return
        if len(way) > _DEEPEST:
            raise _too_far(f"files lead to one another more than {_DEEPEST} deep", path, include.line)
        if len(self.seen) >= _MOST:
            raise _too_far(f"more than {_MOST} files are led to", path, include.line)
        self.seen.add((real, include.constraint))
        self.gathering.note(include.path)
        data = _content(include, path)
        self.read(data, include.path, (*way, real), constraint=include.constraint)


def _content(include: Include, path: str) -> bytes:
    try:
        return fs.read_file(include.path, LARGEST)
    except OSError as error:
        if error.errno == errno.EFBIG:
            kind, reason = "requirements-too-large", "it has more than 1 MiB"
        else:
            missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
            kind = "requirements-missing" if missing else "requirements-unreadable"
            reason = str(error.strerror)
        raise RequirementsError(
            f"{include.words} cannot be read: {reason}",
            kind=kind,
            path=path,
            line=include.line,
            hint=f"it is looked for at {include.path}",
        ) from error


def _too_far(message: str, path: str, line: int) -> RequirementsError:
    return RequirementsError(
        message, kind="requirements-nested", path=path, line=line, hint="put them together into fewer files"
    )
