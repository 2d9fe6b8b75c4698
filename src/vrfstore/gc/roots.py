"""Roots that stay until somebody removes them: pins, and the environments of projects.

``roots/<name>.json`` is one record::

    {"schema": 2, "kind": "pin", "names": ["environments/<directory>"]}       or entries/<directory>, locks/<digest>
    {"schema": 2, "kind": "project", "names": ["environments/<directory>", …]}    the newest first

A pin keeps what it names; with a lock, the entries that the lock names (``store.locked``), so that it can be linked
again without network. A project is linked under its name time and again; of its environments a collection keeps so
many of the newest as its policy says. Schema 1 was ``{"schema": 1, "environment": …, "entry": …}``, a pin.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.store import condemned
from vrfstore.store.holds import hold, shard
from vrfstore.store.layout import DIGEST_LENGTHS
from vrfstore.store.locked import locked_digests
from vrfstore.store.memos import replace
from vrfstore.store.store import Store
from vrfstore.values import dataclass

__all__ = ["MOST", "Root", "add", "check_project", "read", "record", "remove"]

MOST = 100
"""How many environments of a project are remembered."""

_SCHEMA = 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_NAMED = re.compile(
    r"environments/[0-9a-f]{32}(\.[1-9][0-9]*)?|entries/[0-9a-f]{20,64}-[^/\0\n]+|locks/[0-9a-f]{64}",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """A pin or a project.

    Attributes:
        name: What people call it.
        project: Whether it is a project.
        names: What it names: ``environments/<directory>``, ``entries/<directory>`` or ``locks/<digest>``; of a project
            its environments, the newest first.
    """

    name: str
    project: bool = False
    names: tuple[str, ...]

    def kept(self, keep_last: int, there: Container[str]) -> tuple[str, ...]:
        """Return the names that stay: all of a pin, and of a project the newest environments that are there.

        Args:
            keep_last: How many of a project.
            there: The directory names of the environments that are there.
        """
        if not self.project:
            return self.names
        found = tuple(name for name in self.names if name.removeprefix("environments/") in there)
        return found[: max(keep_last, 0)]

    @property
    def kind(self) -> str:
        """``pin`` or ``project``."""
        return "project" if self.project else "pin"

    @property
    def environment(self) -> str | None:
        """The directory name of the environment that it names, of a project the newest; None where there is none."""
        return self._first("environments")

    @property
    def entry(self) -> str | None:
        """The directory name of the entry that it pins; None where that is something else."""
        return self._first("entries")

    @property
    def lock(self) -> str | None:
        """The digest of the lock that it pins; None where that is something else."""
        return self._first("locks")

    def _first(self, part: str) -> str | None:
        of_part = (name.removeprefix(f"{part}/") for name in self.names if name.startswith(f"{part}/"))
        return next(of_part, None)


def add(store: Store, name: str, target: str) -> Root:
    """Pin an environment, an entry or a lock under a name, in place of what that name pinned before.

    Args:
        store: The store.
        name: 1 to 100 letters, digits, dots, dashes and underscores.
        target: An environment or entry: its path, its directory name, or the beginning of one. Or a lock of the store:
            its path, its digest, or the beginning of one.

    Raises:
        UsageError: The name is no name, or a project's; or the target is nothing or several things.
        StoreDamagedError: The record of that name is another version's.
        BusyError: A collection has been at work on it for two seconds.
    """
    _check_name(name)
    root = Root(name=name, names=(_find(store, target),))
    with _held(store, name):
        known = _known(store, name)
        if known is not None and known.project:
            raise _taken(name, known)
        before = _write(store, root)
        try:
            _look(store, root.names[0], target)
        except BaseException:
            _restore(store, name, before)
            raise
    return root


def check_project(store: Store, name: str) -> None:
    """Make sure that environments can be recorded under a name, before one is made.

    Raises:
        UsageError: It is no name, or a pin's.
        StoreDamagedError: The record of that name cannot be read.
    """
    _check_name(name)
    known = _known(store, name)
    if known is not None and not known.project:
        raise _taken(name, known)


def record(store: Store, name: str, directory: str) -> Root:
    """Make an environment the newest of a project; nothing is written where it is that already.

    The caller looks afterwards whether it is there, or has a lease on it since before he looked.

    Args:
        store: The store.
        name: As for ``add``.
        directory: The environment's directory name.

    Raises:
        UsageError: The name is no name, or a pin's.
        StoreDamagedError: The record of that name cannot be read.
    """
    _check_name(name)
    newest = f"environments/{directory}"
    with _held(store, name):
        known = _known(store, name)
        if known is not None and not known.project:
            raise _taken(name, known)
        earlier = () if known is None else known.names
        if known is not None and earlier[:1] == (newest,):
            return known
        names = (newest, *(each for each in earlier if each != newest))[:MOST]
        root = Root(name=name, project=True, names=names)
        _write(store, root)
        return root


def remove(store: Store, name: str) -> None:
    """Remove a pin or a project.

    Raises:
        UsageError: There is none of this name.
    """
    _check_name(name)
    with _held(store, name):
        if not fs.remove_file(_path(store, name)):
            raise UsageError(
                f"there is no root {name!r}", kind="root-missing", hint="see: vrfstore roots list"
            )


def read(store: Store) -> Iterator[Root | StoreDamagedError]:
    """Yield every root, and an error for each record that cannot be read."""
    for file in sorted(os.listdir(store.layout.of("roots"))):
        try:
            found = _read(store.layout.of("roots", file), file.removesuffix(".json"))
        except StoreDamagedError as error:
            yield error
        else:
            if found is not None:
                yield found


def _read(path: str, name: str) -> Root | None:
    """Return the root of a record; None where there is none.

    Raises:
        StoreDamagedError: It cannot be read, or is of another version.
    """
    try:
        value = codec.loads(fs.read_file(path))
        if value["schema"] not in {1, _SCHEMA}:
            raise StoreDamagedError(
                "the root is of another version",
                kind="root-unknown",
                path=path,
                hint=f"use the vrfstore that made it; or {_how_to_remove(name)}",
            )
        return _first_schema(name, value) if value["schema"] == 1 else _root(name, value)
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Removed since we looked; a link that leads nowhere is still there, and may lead somewhere tomorrow.
        if isinstance(error, FileNotFoundError) and not os.path.lexists(path):
            return None
        raise StoreDamagedError(
            f"the root cannot be read: {error}",
            kind="root-unreadable",
            path=path,
            hint=_how_to_remove(name),
        ) from error


def _how_to_remove(name: str) -> str:
    return f"remove it with: vrfstore roots remove {name}" if _NAME.fullmatch(name) else "remove the file"


def _root(name: str, value: Mapping[str, Any]) -> Root:
    """Return the root that a record holds.

    Raises:
        ValueError: It is no root.
    """
    names = tuple(map(codec.text, value["names"]))
    kind = codec.text(value["kind"])
    if kind not in {"pin", "project"}:
        raise ValueError(f"{kind!r} is no kind of root")
    for each in names:
        # It becomes part of a path.
        if not _NAMED.fullmatch(each) or (kind == "project" and not each.startswith("environments/")):
            raise ValueError(f"{each!r} is nothing that a {kind} may name")
    if not names:
        raise ValueError("it names nothing")
    return Root(name=name, project=kind == "project", names=names)


def _first_schema(name: str, value: Mapping[str, Any]) -> Root:
    """Return the pin that a record of schema 1 holds; it may name what is in no store.

    Raises:
        ValueError: It pins nothing, or two things.
    """
    targets = value["environment"], value["entry"]
    environment, entry = (target if isinstance(target, str) else None for target in targets)
    if (environment is None) is (entry is None):
        raise ValueError("it pins neither one environment nor one entry")
    pinned = f"entries/{entry}" if environment is None else f"environments/{environment}"
    return Root(name=name, names=(pinned,))


def _known(store: Store, name: str) -> Root | None:
    return _read(_path(store, name), name)


def _write(store: Store, root: Root) -> bytes | None:
    """Put a record in its place; return what was there before."""
    path = _path(store, root.name)
    before = None
    with contextlib.suppress(FileNotFoundError):
        before = fs.read_file(path)
    _put(store, path, codec.dumps({"schema": _SCHEMA, "kind": root.kind, "names": list(root.names)}))
    return before


def _restore(store: Store, name: str, before: bytes | None) -> None:
    if before is None:
        fs.remove_file(_path(store, name))
    else:
        _put(store, _path(store, name), before)


def _put(store: Store, path: str, data: bytes) -> None:
    with store.session() as lease:
        replace(store.layout, lease, path, data)


def _path(store: Store, name: str) -> str:
    return store.layout.of("roots", f"{name}.json")


def _held(store: Store, name: str) -> contextlib.AbstractContextManager[None]:
    return hold(store.layout.of("holds", shard("root", codec.hexdigest(name.encode()))))


def _find(store: Store, target: str) -> str:
    """Return the name of what a user means.

    Raises:
        UsageError: It is nothing that could be pinned, or several things.
    """
    locks = os.path.realpath(store.layout.of("locks"))
    if os.path.isfile(target) and os.path.realpath(os.path.dirname(target)) != locks:
        raise UsageError(
            "only a lock of the store can be pinned, and this file is elsewhere",
            kind="root-file",
            path=target,
            hint="link it under a name, which keeps its environment: vrfstore link FILE --root NAME",
        )
    part, found = store.find(target, or_lock=True)
    return f"{part}/{found}"


def _look(store: Store, name: str, target: str) -> None:
    """Look whether what a root names is there, now that this is written; see ``store.condemned``.

    Raises:
        UsageError: It has just been collected.
        StoreDamagedError: It is a lock that cannot be read.
    """
    path, wanted = f"{store.root}/{name}", {name}
    part, _, lock = name.partition("/")
    if part == "locks":
        path += ".toml"
        named = {
            digest[:length] for digest in locked_digests(store.layout, lock) for length in DIGEST_LENGTHS
        }
        wanted |= {f"entries/{entry}" for entry in store.entries() if entry.partition("-")[0] in named}
    condemned.wait_until_clear(store.layout, wanted)
    if not os.path.lexists(path):
        raise UsageError(f"{target!r} has just been collected", kind="target-unknown", hint="link it again")


def _taken(name: str, known: Root) -> UsageError:
    what = "the environments of a project" if known.project else "a pin"
    return UsageError(
        f"{name!r} is the name of {what} already",
        kind="root-taken",
        hint=f"choose another name, or remove it with: vrfstore roots remove {name}",
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name for a root",
            kind="root-name",
            hint="use up to 100 letters, digits, dots, dashes and underscores",
        )
