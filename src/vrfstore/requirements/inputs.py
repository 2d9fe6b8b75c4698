"""Everything that can be asked for, from files: requirements texts, projects, scripts and locks, by their names.

============================  =========================================  ==============================
name                          what it is                                 may say where code comes from
============================  =========================================  ==============================
``pylock[.NAME].toml``        a lock (PEP 751)                           has to
``pyproject.toml``            a project (PEP 621), its groups (PEP 735)  yes
``*.py``                      a script with metadata (PEP 723)           only if the caller says so
``*.txt``, ``*.in``           a requirements text                        yes
anything else, as ``*.vrf``   a requirements text                        only if the caller says so
============================  =========================================  ==============================

docs/requirements.md has the whole of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from packaging.utils import canonicalize_name

from vrfstore.errors import RequirementsError, ResolutionError, UsageError
from vrfstore.model import Interpreter, LockFile, Requirement, Requirements
from vrfstore.requirements import files, parse
from vrfstore.requirements.files import Kind, is_trusted, kind_of
from vrfstore.requirements.gathering import Gathering
from vrfstore.requirements.parse import decode, shown, unique
from vrfstore.requirements.places import beside
from vrfstore.requirements.texts import read_text
from vrfstore.tags import allows_python
from vrfstore.values import dataclass, replace

__all__ = ["check_python", "read", "read_beside", "read_recorded"]

_BESIDE = "requirements.vrf"
"""What a script's project has where the script itself says nothing."""

_SHOWN = 20
"""Names that an error repeats."""

_LARGEST: dict[Kind, int] = {
    "lock": 16 << 20,
    "project": files.LARGEST,
    "script": 16 << 20,
    "text": files.LARGEST,
}
"""Bytes. Locks name every wheel of every package for all platforms; scripts may be notebooks with their data."""


def read(
    paths: Sequence[str],
    *,
    trusted: bool | None = None,
    extras: Iterable[str] = (),
    groups: Iterable[str] = (),
    service: str = "",
    contents: Mapping[str, bytes] | None = None,
    before_reading: Callable[[str], object] | None = None,
) -> Requirements:
    """Return what one or several files ask for, together.

    Args:
        paths: The files; which of them say the same, or the opposite, is for the resolver to find out.
        trusted: Whether they may say where code comes from; None to decide by the name of each.
        extras: Of projects and locks: which extras are wanted.
        groups: Of projects and locks: which dependency groups.
        service: The NAME of the ``pylock.NAME.toml`` that is meant for us.
        contents: The bytes of those files that have been read already, by path.
        before_reading: Called with the absolute path of each further file that has a say, before it is read.

    Raises:
        RequirementsError: All that is wrong with the files, the first with its path and line.
        UsageError: There is no file.
    """
    if not paths:
        raise UsageError("no file says what is wanted")
    gathering = Gathering(before_reading=before_reading or (lambda _: None))
    asked = _Asked(
        gathering=gathering,
        trusted=trusted,
        extras=_names(extras),
        groups=_names(groups),
        service=service,
        contents=contents or {},
    )
    for path in dict.fromkeys(paths):
        try:
            asked.read(path)
        except RequirementsError as error:
            gathering.faults.append(error)
    if not gathering.faults:
        gathering.faults += asked.unknown(paths[0])
    if gathering.faults:
        raise parse.together(gathering.faults)
    given = {beside("", path) for path in paths}
    return Requirements(
        path=paths[0],
        items=_of_first(gathering.items, paths[0]),
        constraints=_of_first(gathering.constraints, paths[0]),
        locks=tuple(sorted(gathering.locks, key=lambda lock: lock.path)),
        files=tuple(sorted(gathering.files - given)),
        extras=asked.extras,
        groups=asked.groups,
        requires_python=tuple(sorted(gathering.requires_python)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """One call of ``read``: where it all goes, and what was said beside the files."""

    gathering: Gathering
    trusted: bool | None
    extras: tuple[str, ...]
    groups: tuple[str, ...]
    service: str
    contents: Mapping[str, bytes]

    def read(self, path: str) -> None:
        """Read one file.

        Raises:
            RequirementsError: It is nothing that can be read; other faults are gathered.
        """
        kind = kind_of(path, self.service)
        data = self.contents.get(path)
        if data is None:
            data = files.read(path, _LARGEST[kind])
        trusted = is_trusted(path) if self.trusted is None else self.trusted
        match kind:
            case "lock":
                _read_lock(self.gathering, data, path, trusted=trusted)
            case "project":
                from vrfstore.requirements.project import read_project  # noqa: PLC0415 - 2 ms, for projects

                read_project(
                    self.gathering, data, path, extras=self.extras, groups=self.groups, trusted=trusted
                )
            case "script":
                from vrfstore.requirements.script import read_script  # noqa: PLC0415 - for scripts

                read_script(self.gathering, data, path, trusted=trusted)
            case "text":
                read_text(self.gathering, data, path, trusted=trusted)

    def unknown(self, path: str) -> Iterator[RequirementsError]:
        """Yield what is wrong with the extras and groups that are wanted, if no file has them."""
        for what, wanted, known in (
            ("extra", self.extras, self.gathering.extras),
            ("group", self.groups, self.gathering.groups),
        ):
            missing = [shown(name) for name in wanted if name not in known]
            if missing:
                yield RequirementsError(
                    f"there is no {what} {', '.join(missing[:_SHOWN])}",
                    kind=f"{what}-missing",
                    path=path,
                    hint=f"there are: {', '.join(sorted(known)[:_SHOWN])}"
                    if known
                    else f"give a pyproject.toml or a lock that has one, or leave out --{what}",
                )


def read_beside(
    script: str,
    *,
    trusted: bool | None = None,
    contents: Mapping[str, bytes] | None = None,
    before_reading: Callable[[str], object] | None = None,
) -> Requirements:
    """Return what a script asks for: itself, or else the ``requirements.vrf`` beside it.

    Args:
        script: The script.
        trusted: See ``read``.
        contents: See ``read``.
        before_reading: See ``read``; the file beside it is a further file.

    Raises:
        RequirementsError: See ``read``; or neither says anything.
    """
    from vrfstore.requirements.script import NO_BLOCK  # noqa: PLC0415 - for scripts

    try:
        return read((script,), trusted=trusted, contents=contents, before_reading=before_reading)
    except RequirementsError as error:
        if error.kind != NO_BLOCK:
            raise
        missing = error
    theirs = os.path.join(os.path.dirname(script), _BESIDE)
    absolute = beside(script, _BESIDE)
    if before_reading is not None:
        before_reading(absolute)
    try:
        found = read((theirs,), trusted=trusted, before_reading=before_reading)
    except RequirementsError as error:
        if (error.kind, error.path) != ("requirements-missing", theirs):
            raise
        raise RequirementsError(
            f"{missing.message}, and there is no {_BESIDE} beside it",
            kind=NO_BLOCK,
            path=script,
            hint=f"{missing.hint}; or write a {_BESIDE} with one package a line",
        ) from error
    # The script was given, and its file beside it is one that it led to.
    return replace(
        found,
        path=script,
        items=tuple(replace(item, path=item.path or theirs) for item in found.items),
        constraints=tuple(replace(item, path=item.path or theirs) for item in found.constraints),
        files=tuple(sorted({*found.files, absolute})),
    )


def read_recorded(text: str, path: str) -> Requirements:
    """Return what a record of ours says that was asked for: a canonical text, maybe with wheels by URL.

    Args:
        text: See ``Requirements.canonical``.
        path: What to call it in errors.

    Raises:
        RequirementsError: A wheel that it names cannot be read any more, or it is not what we wrote.
    """
    gathering = Gathering(before_reading=lambda _: None)
    read_text(gathering, text.encode(), path, trusted=True)
    if gathering.faults:
        raise parse.together(gathering.faults)
    return Requirements(
        path=path, items=_of_first(gathering.items, path), files=tuple(sorted(gathering.files))
    )


def check_python(requirements: Requirements, interpreter: Interpreter) -> None:
    """Make sure that an interpreter is one of those that files say they are for.

    Raises:
        ResolutionError: It is not, ``requires-python``.
    """
    for path, specifier in requirements.requires_python:
        if not allows_python(specifier, interpreter.version):
            raise ResolutionError(
                f"this is for Python {shown(specifier)[1:-1]}, and {interpreter.executable} is {interpreter.version}",
                kind="requires-python",
                path=path,
                hint="choose another interpreter with --python",
            )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({str(canonicalize_name(name)) for name in names}))


def _of_first(items: Iterable[Requirement], first: str) -> tuple[Requirement, ...]:
    return unique(replace(item, path="" if item.path == first else item.path) for item in items)


def _read_lock(gathering: Gathering, data: bytes, path: str, *, trusted: bool) -> None:
    if not trusted:
        raise parse.forbidden(
            "a lock says where code comes from, which is not for this one to say",
            path,
            None,
            "give requirements instead, or say that the file is trusted",
        )
    from vrfstore.requirements import lockfile  # noqa: PLC0415 - 5 ms, for locks

    lock = LockFile(path, decode(data, path))
    extras, groups = lockfile.offered(lock)
    gathering.extras |= extras
    gathering.groups |= groups
    gathering.locks.append(lock)
