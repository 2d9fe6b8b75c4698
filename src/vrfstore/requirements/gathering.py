"""What is put together while files that ask for something are read: what they ask for, and what is wrong with them.

::

    given files ──texts, project, script──▶ Gathering ──inputs──▶ Requirements

Wheels that are named by path are read here, because what they are called in a request covers their bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from packaging.utils import canonicalize_name

from vrfstore import fs
from vrfstore.errors import RequirementsError
from vrfstore.model import LockFile, Requirement
from vrfstore.requirements.parse import canonical, forbidden
from vrfstore.requirements.places import LocalWheel, file_url
from vrfstore.values import dataclass, field, replace

__all__ = ["Gathering"]


@dataclass(kw_only=True, slots=True)
class Gathering:
    """What has been read so far; faults are kept until all is read, so that they are told at once.

    Attributes:
        before_reading: Called with the absolute path of each further file just before it is read.
        items: Requirements, in the order of the files, each with its ``path``.
        constraints: The same of what only limits.
        locks: Locks that were given.
        files: Absolute paths of what was read beside the files that were given.
        faults: What is wrong.
        extras: Which of the extras exist, normalised.
        groups: Which dependency groups exist, normalised.
        requires_python: (path, specifier) of each file that has one.
    """

    before_reading: Callable[[str], object]
    items: list[Requirement] = field(default_factory=list)
    constraints: list[Requirement] = field(default_factory=list)
    locks: list[LockFile] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    faults: list[RequirementsError] = field(default_factory=list)
    extras: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    requires_python: set[tuple[str, str]] = field(default_factory=set)
    _digests: dict[str, str] = field(default_factory=dict)

    def add(self, found: Requirement | LocalWheel, path: str, *, constraint: bool = False) -> None:
        """Take one more requirement.

        Args:
            found: The requirement.
            path: The file that has it.
            constraint: Whether it limits versions only.

        Raises:
            RequirementsError: It is a wheel that cannot be read or is not the one that is meant, or a constraint that
                has extras.
        """
        item = self._requirement(found, path) if isinstance(found, LocalWheel) else found
        if constraint and item.text[len(item.name) :].startswith("["):
            raise forbidden(
                f"{item.name} has extras, which a constraint cannot ask for",
                path,
                item.line,
                "write the name without them here, and with them among the requirements",
            )
        (self.constraints if constraint else self.items).append(replace(item, path=path))

    def note(self, path: str) -> None:
        """Remember that a further file has a say; to be called before it is read."""
        if path not in self.files:
            self.before_reading(path)
            self.files.add(path)

    def _requirement(self, wheel: LocalWheel, path: str) -> Requirement:
        """Return the requirement that only a wheel with just these bytes fulfils."""
        name = wheel.path.rpartition("/")[2]
        try:
            digest = self._digest(wheel.path)
        except OSError as error:
            raise RequirementsError(
                f"the wheel {name} cannot be read: {error.strerror}",
                kind="wheel-unreadable",
                path=path,
                line=wheel.line,
                hint=f"it is looked for at {wheel.path}",
            ) from error
        if wheel.digest not in {"", digest}:
            raise RequirementsError(
                f"the wheel {name} has SHA-256 {digest}, and another one is asked for",
                kind="requirement-hash",
                path=path,
                line=wheel.line,
                hint="if the wheel was changed on purpose, write its own hash",
            )
        text = canonical(wheel.parsed, (), f"{file_url(wheel.path)}#sha256={digest}")
        return Requirement(name=canonicalize_name(wheel.parsed.name), text=text, line=wheel.line)

    def _digest(self, path: str) -> str:
        if path not in self._digests:
            self.note(path)
            with fs.open_regular(path) as stream:
                self._digests[path] = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._digests[path]
