"""Noticing what was written into an entry through a link: one stat for each directory that environments link whole.

Permissions keep an ordinary user out of entries, and keep nobody out who is root: pip, told to install into another
package's directory or to look at nothing that is there (``-I``), follows the link. Directories of entries are sealed
with a date of their own, so that one in which a name has come or gone since is told by its mtime. That is a reason to
look at the entry, and no proof: a copy of a store has other dates as well. What was written in place, or deeper than
the linked directory itself, is for ``store.verify`` alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from vrfstore import fs
from vrfstore.errors import StoreDamagedError
from vrfstore.model import EntryPlan, Node
from vrfstore.store.store import Store

__all__ = ["look_at_entry", "look_at_members"]


def look_at_entry(store: Store, plan: EntryPlan) -> None:
    """Look at an entry as closely as the dates of its linked directories ask for.

    Raises:
        StoreDamagedError: Something in it is not as it was published.
        FileNotFoundError: There is no such entry.
    """
    _look(store, plan.reference.directory, list(_linked(plan.trees)))


def look_at_members(store: Store, directory: str, members: tuple[EntryPlan, ...]) -> None:
    """Look at a composite in the same way: it has the directories of its members.

    Raises:
        StoreDamagedError: Something in it is not as it was published.
        FileNotFoundError: There is no such composite.
    """
    inside = (path for member in members for path in _linked(member.trees))
    there = f"{store.layout.of('entries', directory)}/"
    _look(store, directory, [path for path in inside if os.path.isdir(there + path)])


def _look(store: Store, directory: str, paths: list[str]) -> None:
    root = store.layout.of("entries", directory)
    odd = [path for path in paths if not _is_as_sealed(f"{root}/{path}")]
    if not odd:
        return
    from vrfstore.store.verify import check_entry  # noqa: PLC0415 - hardly ever

    # What an interpreter compiled, or somebody has removed of that, harms nobody.
    problems = [
        problem
        for problem in check_entry(store, directory, full=False).problems
        if problem.kind != "bytecode"
    ]
    if problems:
        raise StoreDamagedError(
            f"the entry is not as it was published: {problems[0].message}",
            kind="entry-damaged",
            path=f"{root}/{problems[0].path}",
            hint=f"mend it with: vrfstore verify --repair {directory}",
        )
    for path in odd:
        with contextlib.suppress(OSError):  # a store that we may only read
            fs.set_times(f"{root}/{path}", fs.SEALED_AT, fs.SEALED_AT)


def _is_as_sealed(path: str) -> bool:
    try:
        return os.stat(path).st_mtime_ns == fs.SEALED_AT
    except FileNotFoundError:
        return False


def _linked(trees: Mapping[str, Node], parent: str = "") -> Iterator[str]:
    """Yield the directories that are, or may be, one link, by their paths in the entry."""
    for name, node in trees.items():
        path = f"{parent}{name}"
        if isinstance(node, int) and name:
            yield path
        elif isinstance(node, dict):
            if "" in node:
                yield path
            yield from _linked(node, f"{path}/")
