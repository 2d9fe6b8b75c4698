"""Putting a sound entry in the place of a damaged one, so that nobody ever finds it missing.

::

    stage the wheel anew ─▶ note which environments share inodes (repairs/<entry>.json) ─▶ exchange ─▶ remove the old
                                                                                        ─▶ link those anew ─▶ forget

A kill before the exchange leaves a staged tree, which gc removes; one after it leaves the note, by which the next
repair finishes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from vrfstore import codec, fs
from vrfstore.store.entry_plan import DAMAGED
from vrfstore.store.layout import DEAD_PREFIX
from vrfstore.store.leases import Lease
from vrfstore.store.memos import replace
from vrfstore.store.store import Store
from vrfstore.store.verify import EntryReport

__all__ = ["Pending", "finish", "mark", "mend_in_place", "pending", "swap"]

_SCHEMA = 1
_SEALED = 0o555
_OPEN = 0o755
_MENDABLE = frozenset(["mode", "added"])
"""What can be put right without the wheel, as long as nothing else is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A repair that has yet to link environments anew.

    Attributes:
        directory: The entry's directory name.
        environments: Directory names of environments that nobody had changed by hand before.
    """

    directory: str
    environments: tuple[str, ...]


def pending(store: Store) -> list[Pending]:
    """Return the repairs that were not finished. A note that cannot be read names every environment there is."""
    found = []
    for name in sorted(os.listdir(store.layout.of("repairs"))):
        environments: Sequence[str]
        try:
            value = codec.loads(fs.read_file(store.layout.of("repairs", name)))
            environments = [str(environment) for environment in value["environments"]]
        except (OSError, ValueError, KeyError, TypeError):
            environments = store.environments()
        found.append(Pending(directory=name.removesuffix(".json"), environments=tuple(environments)))
    return found


def swap(store: Store, lease: Lease, staging: str, repair: Pending) -> None:
    """Let a staged entry take the place of the damaged one; the caller has ``hold_entry``.

    The environments are the caller's to link anew, and then to call ``finish``.
    """
    place = store.layout.of("entries", repair.directory)
    value = {"schema": _SCHEMA, "environments": list(repair.environments)}
    replace(store.layout, lease, _note(store, repair.directory), codec.dumps(value))
    if not os.path.lexists(place):
        fs.rename(staging, place)
        return
    fs.exchange(staging, place)
    dead = store.layout.of("entries", f"{DEAD_PREFIX}{fs.unique_name()}")
    fs.rename(staging, dead)
    fs.remove_tree(dead)


def finish(store: Store, repair: Pending) -> None:
    """Forget a repair whose environments have been linked anew."""
    fs.remove_file(_note(store, repair.directory))


def _note(store: Store, directory: str) -> str:
    return store.layout.of("repairs", f"{directory}.json")


def mend_in_place(store: Store, report: EntryReport) -> bool:
    """Put right what needs no source: modes, and what does not belong there; returns whether that was all.

    Only after a full look: where the bytes are as published, they are sound whatever their mode.
    """
    if not report.problems or any(problem.kind not in _MENDABLE for problem in report.problems):
        return False
    root = store.layout.of("entries", report.directory)
    manifest = store.manifest(report.directory)
    modes = {file.path: file.mode for file in manifest.files} | {"manifest.json": 0o444}
    for problem in report.problems:
        path = f"{root}/{problem.path}" if problem.path else root
        if problem.kind == "mode":
            fs.change_mode(path, modes.get(problem.path, _SEALED))
        elif os.path.lexists(path):  # not with a directory above it, by an earlier round
            parent = os.path.dirname(path)
            fs.change_mode(parent, _OPEN)
            fs.remove_tree(path)
            fs.change_mode(parent, _SEALED)
    return True


def mark(store: Store, lease: Lease, report: EntryReport) -> None:
    """Let no new link use an entry that is damaged and could not be repaired; the caller has ``hold_entry``.

    What is wrong is noted in its plan, which every link reads anyway. An entry whose plan cannot be read needs no
    mark: it is refused as it is.
    """
    root = store.layout.of("entries", report.directory)
    path = f"{root}/plan.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        value = dict(codec.loads(fs.read_file(path)))
        if DAMAGED in value:
            return
        value[DAMAGED] = "; ".join(problem.message for problem in report.problems[:3])
        temporary = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
        fs.write_file(temporary, codec.dumps(value), mode=0o444)
        fs.change_mode(root, _OPEN)
        try:
            fs.rename(temporary, path)
        finally:
            fs.change_mode(root, _SEALED)
