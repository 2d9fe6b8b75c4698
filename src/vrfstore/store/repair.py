"""Putting a sound entry in the place of a damaged one, so that nobody ever finds it missing.

::

    stage the wheel anew ─▶ note which inodes are shared (repairs/<entry>.json) ─▶ exchange ─▶ remove the old
                                                       ─▶ link environments anew that have them ─▶ forget

A kill before the exchange leaves a staged tree, which gc removes; one after it leaves the note, by which the next
repair finishes.
"""

from __future__ import annotations

import contextlib
import os
import stat

from vrfstore import codec, fs
from vrfstore.store.entry_plan import DAMAGED
from vrfstore.store.holds import hold, shard
from vrfstore.store.layout import DEAD_PREFIX
from vrfstore.store.leases import Lease
from vrfstore.store.manifest import Manifest
from vrfstore.store.store import Store
from vrfstore.store.verify import EntryReport
from vrfstore.values import dataclass

__all__ = [
    "Pending",
    "finish",
    "inodes",
    "make_readable",
    "mark",
    "mend_in_place",
    "pending",
    "read",
    "remove",
    "swap",
    "took_place",
]

_SCHEMA = 1
_SEALED = 0o555
_OPEN = 0o755
_FILE = 0o444
_SEARCHABLE = 0o500
_MENDABLE = frozenset(["mode", "added", "marked"])
"""What can be put right without the wheel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A repair that has yet to link environments anew.

    Attributes:
        directory: The entry's directory name.
        environments: Directory names of environments that nobody had changed by hand before.
        inodes: ``device:inode`` of the files of the damaged entry that had further links.
        sound: The inode of the sound entry's directory; None where that is not known.
    """

    directory: str
    environments: tuple[str, ...] = ()
    inodes: frozenset[str] = frozenset()
    sound: int | None = None


def pending(store: Store) -> list[str]:
    """Return the directory names of the entries whose repair was not finished."""
    return sorted(name.removesuffix(".json") for name in os.listdir(store.layout.of("repairs")))


def read(store: Store, directory: str) -> Pending | None:
    """Return what is left of the repair of an entry; None where it has been finished.

    A note that cannot be read names nothing: whatever it named is then looked at like the rest.
    """
    try:
        value = codec.loads(fs.read_file(_note(store, directory)))
        return Pending(
            directory=directory,
            environments=tuple(map(str, value["environments"])),
            inodes=frozenset(map(str, value["inodes"])),
            sound=int(value["sound"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, OverflowError, KeyError, TypeError):
        return Pending(directory=directory)


def inodes(store: Store, directory: str, *, least_links: int = 1) -> frozenset[str]:
    """Return ``device:inode`` of the files of an entry that have at least so many links."""
    found = set()
    waiting = [store.layout.of("entries", directory)]
    while waiting:
        # What is no directory shares nothing.
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(waiting.pop()) as children,
        ):
            for child in children:
                status = child.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(child.path)
                elif stat.S_ISREG(status.st_mode) and status.st_nlink >= least_links:
                    found.add(f"{status.st_dev}:{status.st_ino}")
    return frozenset(found)


def took_place(store: Store, repair: Pending) -> bool:
    """Whether the sound entry is there by now; a kill may have come before that."""
    try:
        found = os.lstat(store.layout.of("entries", repair.directory)).st_ino
    except FileNotFoundError:
        return False
    return repair.sound is None or repair.sound == found


def swap(store: Store, lease: Lease, staging: str, directory: str, environments: tuple[str, ...]) -> Pending:
    """Let a staged entry take the place of the damaged one; the caller has ``hold_entry``.

    The environments are the caller's to link anew, and then to call ``finish``.
    """
    # Who compiles the damaged entry would put its pycs into the sound one.
    with hold(store.layout.of("holds", shard("compile", directory))):
        repair = Pending(
            directory=directory,
            environments=environments,
            inodes=inodes(store, directory, least_links=2),
            sound=os.lstat(staging).st_ino,
        )
        _swap(store, lease, staging, repair)
    return repair


def _swap(store: Store, lease: Lease, staging: str, repair: Pending) -> None:
    place = store.layout.of("entries", repair.directory)
    value = {
        "schema": _SCHEMA,
        "environments": list(repair.environments),
        "inodes": sorted(repair.inodes),
        "sound": repair.sound,
    }
    temporary = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    fs.write_file(temporary, codec.dumps(value), sync=True)
    fs.rename(temporary, _note(store, repair.directory))
    if not os.path.lexists(place):
        fs.rename(staging, place)
        return
    fs.exchange(staging, place)
    dead = store.layout.of("entries", f"{DEAD_PREFIX}{fs.unique_name()}")
    fs.rename(staging, dead)
    fs.remove_tree(dead)


def finish(store: Store, directory: str) -> None:
    """Forget a repair whose environments have been linked anew."""
    # The entry is younger now than many things that refer to it: see gc.scan.
    if not fs.stamp(store.layout.repaired):
        with contextlib.suppress(FileExistsError):
            fs.write_file(store.layout.repaired, b"")
    fs.remove_file(_note(store, directory))


def _note(store: Store, directory: str) -> str:
    return store.layout.of("repairs", f"{directory}.json")


def make_readable(store: Store, directory: str) -> None:
    """Let what the owner of an entry may not look into be looked at; what has another mode then is mended after."""
    waiting = [store.layout.of("entries", directory)]
    while waiting:
        path = waiting.pop()
        with contextlib.suppress(FileNotFoundError):
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and not mode & stat.S_IRUSR:
                fs.change_mode(path, _FILE)
            if not stat.S_ISDIR(mode):
                continue
            if mode & _SEARCHABLE != _SEARCHABLE:
                fs.change_mode(path, _SEALED)
            with os.scandir(path) as children:
                waiting += [child.path for child in children]


def mend_in_place(store: Store, lease: Lease, report: EntryReport) -> bool:
    """Put right what needs no source: modes, what does not belong there, and a mark where nothing else is wrong.

    Only after a full look: where the bytes are as published, they are sound whatever their mode.

    Returns:
        Whether the entry is sound now.
    """
    found = {problem.kind for problem in report.problems}
    if not found & _MENDABLE:
        return not found
    root = store.layout.of("entries", report.directory)
    manifest = store.manifest(report.directory)
    modes = {file.path: file.mode for file in manifest.files} | {"manifest.json": _FILE}
    for problem in report.problems:
        path = f"{root}/{problem.path}" if problem.path else root
        if problem.kind == "mode":
            fs.change_mode(path, modes.get(problem.path, _SEALED))
        elif problem.kind == "added":
            remove(path)
    if not found <= _MENDABLE:
        return False
    return "marked" not in found or _unmark(store, lease, manifest)


def remove(path: str) -> None:
    """Remove what does not belong into a directory of an entry."""
    if not os.path.lexists(path):  # with a directory above it, by an earlier round
        return
    parent = os.path.dirname(path)
    fs.change_mode(parent, _OPEN)
    try:
        fs.remove_tree(path)
    finally:
        fs.seal_directory(parent)


def _unmark(store: Store, lease: Lease, manifest: Manifest) -> bool:
    """Take the mark from a plan; returns whether that is then as it was published."""
    directory = manifest.reference.directory
    path = f"{store.layout.of('entries', directory)}/plan.json"
    value = codec.loads(fs.read_file(path))
    data = codec.dumps({key: value[key] for key in value if key != DAMAGED})
    published = next(file.sha256 for file in manifest.files if file.path == "plan.json")
    if codec.hexdigest(data) != published:
        return False
    _replace_plan(store, lease, directory, data)
    return True


def mark(store: Store, lease: Lease, report: EntryReport) -> None:
    """Let no new link use an entry that is damaged and could not be repaired; the caller has ``hold_entry``.

    What is wrong is noted in its plan, which every link reads anyway. An entry whose plan cannot be read needs no
    mark: it is refused as it is.
    """
    root = store.layout.of("entries", report.directory)
    if os.path.islink(root):  # it may lead to an entry that is sound
        return
    path = f"{root}/plan.json"
    try:
        value = dict(codec.loads(fs.read_file(path)))
    except (OSError, ValueError, TypeError):
        return
    if DAMAGED not in value:
        value[DAMAGED] = "; ".join(problem.message for problem in report.problems[:3])
        _replace_plan(store, lease, report.directory, codec.dumps(value))


def _replace_plan(store: Store, lease: Lease, directory: str, data: bytes) -> None:
    root = store.layout.of("entries", directory)
    temporary = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    fs.write_file(temporary, data, mode=_FILE)
    fs.change_mode(root, _OPEN)
    try:
        fs.rename(temporary, f"{root}/plan.json")
    finally:
        fs.change_mode(root, _SEALED)
