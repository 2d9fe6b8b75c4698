"""What may be wrong with a store, its file system, or the tools around it.

One half looks and decides nothing; its answer is ``Facts``. The other half, ``judge``, is pure::

    look ──Facts──▶ judge ──▶ Finding …

Works where a store cannot be opened, and never makes one. The one thing it writes is a directory of probes under
a random name, in the store's ``tmp/`` or, where there is no store yet, in the nearest directory above its place.
Nothing is written where the format is unknown, where something else has the place, or where one may only read.
No program that somebody else's store names is started.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from vrfstore import codec, fs
from vrfstore.errors import InterpreterError, StoreDamagedError
from vrfstore.gc import scan
from vrfstore.store import leases
from vrfstore.store.layout import FORMAT, SUBDIRECTORIES, Layout
from vrfstore.store.store import Store, default_root

__all__ = [
    "Base",
    "Clock",
    "Disk",
    "Facts",
    "Finding",
    "Leftover",
    "Mount",
    "Place",
    "Probes",
    "Tools",
    "examine",
    "judge",
    "look",
    "mount_of",
    "store_root",
]

State = Literal["good", "note", "bad"]

_OLDEST_PIP = (26, 0)
"""From here on a dry run reads metadata instead of downloading wheels."""

_BYTES_BAD, _BYTES_NOTE = 100 * 10**6, 2 * 10**9
"""Free bytes. One large wheel needs the first; a usual set of wheels for data analysis half of the second."""

_INODES_BAD, _INODES_NOTE = 5_000, 50_000
"""Free inodes. A hundred wheels take some 25,000."""

_FUTURE = 60.0
"""Seconds ahead of the clock from which a file counts as one from the future."""

_SKEW = 2.0
"""Seconds that a file system may stamp beside this machine's clock."""

_EARLIEST = 1_735_689_600.0
"""2025-01-01. No clock that is right shows less."""

_COARSE = 10_000_000
"""Nanoseconds. Stamps coarser than a kernel's tick let a change go unnoticed."""

_NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "smb3", "smbfs", "virtiofs",
    }
)  # fmt: skip

_NO_FORMAT = "no format"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What it is about, such as ``file system``.
        state: ``good``, ``note`` (works, but worth knowing) or ``bad`` (something will fail, or has).
        message: What was found, one sentence without a full stop.
        advice: What to do; always there where the state is ``bad``.
    """

    subject: str
    state: State
    message: str
    advice: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What is where the store should be.

    Attributes:
        kind: ``store``; ``absent`` or ``empty`` (one can be made); ``foreign`` (a directory with other things);
            ``obstructed`` (no directory at all, ``complaint`` says what); ``hidden`` (may not be looked at);
            ``unreadable`` (store.json cannot be read).
        format: What ``store.json`` says, for a store.
        complaint: What the system said.
        owner: The user id of the directory, or of ``parent``.
        mode: Its permission bits.
        parent: The nearest directory that is there; for a store, its own.
        parent_writable: Whether we may make something there.
        missing: Parts that are not there.
        unusable: Parts that are no directories, or links to some.
        unreadable: Parts that we may not list.
        unwritable: Parts that we may not write to.
        strangers: For each other user id, how many names in the store are theirs, and one of them.
        open_to_all: Paths in the store that everybody may write to.
        exposed: The directory above the store, if everybody may rename what is in it.
    """

    kind: Literal["store", "absent", "empty", "foreign", "obstructed", "hidden", "unreadable"]
    format: object = None
    complaint: str = ""
    owner: int = 0
    mode: int = 0o755
    parent: str = "/"
    parent_writable: bool = True
    missing: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    unwritable: tuple[str, ...] = ()
    strangers: tuple[tuple[int, int, str], ...] = ()
    open_to_all: tuple[str, ...] = ()
    exposed: str | None = None

    @property
    def known(self) -> bool:
        """Whether it is a store whose format we know."""
        return self.kind == "store" and self.format == FORMAT


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A line of ``/proc/self/mountinfo`` (proc(5)): mount point, file system type, all options."""

    point: str
    type: str
    options: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """The file system that the store is on, or would be.

    Attributes:
        mount: Where it is mounted, if that can be told.
        free: Bytes that an ordinary user can still write.
        inodes: How many; ``None`` where the file system makes them as they are needed.
        elsewhere: Parts that are on another file system, or mounted for themselves.
    """

    mount: Mount | None
    free: int
    inodes: int | None
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """What the file system does, tried out.

    Attributes:
        untried: Why nothing was tried; empty where it was.
        failed: For each feature of ``_CONSEQUENCES`` that does not work, what happened instead.
        resolution: Nanoseconds between two time stamps that can be told apart.
        skew: Seconds by which the file system stamps ahead of this machine's clock.
    """

    untried: str = ""
    failed: Mapping[str, str]
    resolution: int = 1
    skew: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """Times, in seconds since the epoch.

    Attributes:
        now: What the machine says.
        made: When ``store.json`` was last changed, if there is one.
        future: How many names in the store are from the future.
        latest: The latest of all.
    """

    now: float
    made: float | None = None
    future: int = 0
    latest: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """An interpreter that environments on disk stand on.

    Attributes:
        real: Its path.
        version: What it was when they were linked.
        environments: How many they are.
        found: What it is now; ``None`` where it was not started.
        complaint: Why it cannot be used; empty where it can.
    """

    real: str
    version: str
    environments: int
    found: str | None = None
    complaint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What vrfstore stands on or could use: versions, ``None`` for what is not there.

    ``python`` is the default interpreter's path, ``python_version`` what it is, ``python_complaint`` why not.
    """

    python: str
    python_version: str | None
    python_complaint: str = ""
    pip: str | None
    uv: str | None
    isal: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """What killed runs left behind.

    Attributes:
        count: How many trees and files.
        bytes: What they take, each inode once.
        stale_list: Whether there is a condemned list although no gc is at work.
        complaint: Why it cannot be told; empty where it can.
    """

    count: int = 0
    bytes: int = 0
    stale_list: bool = False
    complaint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything that ``judge`` needs to know.

    Attributes:
        root: Where the store is, or would be.
        user: Our effective user id.
        umask: The mask of permissions for new files, if it can be told.
        bases: The interpreters of the environments on disk.
        unread: Environments whose record cannot be read.
        leftover: ``None`` where there is no store.
    """

    root: str
    user: int
    umask: int | None
    place: Place
    disk: Disk
    probes: Probes
    clock: Clock
    tools: Tools
    bases: tuple[Base, ...] = ()
    unread: int = 0
    leftover: Leftover | None = None


def examine(root: str | None, variables: Mapping[str, str]) -> tuple[Finding, ...]:
    """Look at everything that a store needs, and say what is good and what is not.

    Args:
        root: The store's directory; ``None`` for the usual one.
        variables: The environment variables that decide: ``VRFSTORE_HOME``, ``VRFSTORE_PYTHON``, ``PATH``.
    """
    return judge(look(store_root(root, variables), variables))


def store_root(root: str | None, variables: Mapping[str, str]) -> str:
    """Return the absolute path of the store that is meant."""
    asked = root or variables.get("VRFSTORE_HOME")
    return os.path.abspath(asked) if asked else default_root()


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Say of each fact whether it is good. Pure."""
    return (
        *_judge_place(facts),
        *_judge_permissions(facts),
        *_judge_mount(facts),
        *_judge_probes(facts),
        *_judge_space(facts),
        *_judge_clock(facts),
        *_judge_interpreters(facts),
        *_judge_tools(facts.tools),
        *_judge_leftovers(facts),
    )


def _judge_place(facts: Facts) -> Iterator[Finding]:
    place, root = facts.place, facts.root
    choose = "choose another directory with --store or VRFSTORE_HOME"
    if place.known:
        yield Finding("store", "good", f"{root}, format {FORMAT}")
        yield from _judge_parts(facts)
    elif place.kind == "store":
        message = f"{root} has format {place.format!r}; this version of vrfstore knows {FORMAT}"
        yield Finding("store", "bad", message, "use the vrfstore that made it, or another --store")
    elif place.kind in {"absent", "empty"}:
        if place.parent_writable:
            yield Finding("store", "good", f"{root} is not there yet; the first use makes it")
        else:
            message = f"{root} is not there, and cannot be made: {place.parent} may not be written"
            yield Finding("store", "bad", message, choose)
    elif place.kind == "foreign":
        yield Finding("store", "bad", f"{root} is not empty and not a store", choose)
    elif place.kind == "unreadable":
        message = f"{root}/store.json cannot be read: {place.complaint}"
        yield Finding("store", "bad", message, "restore it from a backup, or see who may read it")
    else:
        yield Finding("store", "bad", f"{root} cannot be reached: {place.complaint}", choose)


def _judge_parts(facts: Facts) -> Iterator[Finding]:
    place, root = facts.place, shlex.quote(facts.root)
    if place.missing:
        message = f"not there: {_several(place.missing)}"
        yield Finding("store", "note", message, "the next use makes them; look where they have gone")
    if place.unusable:
        message = f"not directories of the store's own: {_several(place.unusable)}"
        advice = (
            "links in environments lead through them: put real directories there, and move the whole store"
        )
        yield Finding("store", "bad", message, advice)
    if place.unreadable:
        yield Finding(
            "store",
            "bad",
            f"may not be listed: {_several(place.unreadable)}",
            f"run as user {place.owner}, or let others look: chmod -R go+rX {root}",
        )
    if place.owner != facts.user and place.unwritable:
        message = f"made by user {place.owner}; as user {facts.user} you get hits from it, and nothing else"
        yield Finding("store", "note", message, f"run as user {place.owner}, or use a store of your own")
    elif place.owner != facts.user:
        message = f"made by user {place.owner}, who may not be able to use what user {facts.user} makes in it"
        yield Finding("store", "note", message, f"run vrfstore as user {place.owner}")
    elif place.unwritable and "ro" not in _options(facts):
        advice = f"chmod u+rwx on them, in {root}"
        yield Finding("store", "bad", f"may not be written: {_several(place.unwritable)}", advice)
    for user, count, example in place.strangers:
        message = (
            f"{count} of the names in it {'is' if count == 1 else 'are'} user {user}'s, such as {example}; "
            f"the store is user {place.owner}'s"
        )
        yield Finding("store", "bad", message, f"as root: chown -hR {place.owner} {root}")


def _judge_permissions(facts: Facts) -> Iterator[Finding]:
    place, umask = facts.place, facts.umask
    before = len(place.open_to_all) + bool(place.exposed)
    if place.open_to_all:
        message = f"everybody may write to {_several(place.open_to_all)}"
        yield Finding("permissions", "bad", message, f"chmod -R o-w {shlex.quote(facts.root)}")
    if place.exposed is not None:
        message = f"everybody may put another store in the place of this one, in {place.exposed}"
        yield Finding("permissions", "bad", message, f"chmod o-w or +t {shlex.quote(place.exposed)}")
    if umask is not None and umask & 0o700:
        message = f"umask {umask:03o} keeps you from what you make yourself"
        yield Finding("permissions", "bad", message, "set it to 022")
    elif umask is not None and not umask & 0o002:
        message = f"umask {umask:03o} makes new directories that everybody may write to"
        yield Finding("permissions", "bad", message, "set it to 022")
    elif umask is not None and umask & 0o005:
        message = f"umask {umask:03o} makes what is new unreadable for other users"
        yield Finding("permissions", "note", message, "set it to 022 if others are to use the environments")
    elif place.known and not place.mode & 0o001:
        message = f"only user {place.owner} and their group may look into the store"
        yield Finding(
            "permissions", "note", message, "chmod o+rx on it if others are to use the environments"
        )
    elif not before:
        yield Finding("permissions", "good", "nothing is writable for everybody")


def _judge_mount(facts: Facts) -> Iterator[Finding]:
    mount = facts.disk.mount
    if mount is None:
        message = "its type is unknown: /proc/self/mountinfo does not tell"
        yield Finding("file system", "note", message, "mount /proc, which gc needs too")
    else:
        yield _judge_type(mount)
    if "ro" in _options(facts):
        if facts.place.known:
            message = "mounted read-only: hits work, and nothing else"
            yield Finding("file system", "note", message, "mount it read-write to link what is new")
        else:
            message = "mounted read-only: no store can be made"
            yield Finding("file system", "bad", message, "mount it read-write, or choose another --store")
    if "noexec" in _options(facts):
        message = "mounted noexec: " + _CONSEQUENCES["programs"][1]
        yield Finding("file system", "bad", message, "mount it without noexec, or choose another --store")
    if facts.disk.elsewhere:
        message = f"not on the same file system as the store: {_several(facts.disk.elsewhere)}"
        advice = "nothing can be renamed into or out of them: mount the store as a whole"
        yield Finding("file system", "bad", message, advice)


def _judge_type(mount: Mount) -> Finding:
    told = f"{mount.type} on {mount.point}"
    if mount.type in _NETWORK:
        message = f"{told}: over a network, where leases and holds need not count on other machines"
        return Finding(
            "file system",
            "bad",
            message,
            "put the store on a local disk, or let only one machine write to it and run gc there",
        )
    if mount.type == "overlay":
        message = f"{told}: gc cannot remove what came with the image, and a first link to it copies"
        return Finding("file system", "note", message, "put the store on a volume of its own")
    if mount.type in {"tmpfs", "ramfs"}:
        message = f"{told}: the store is in memory, and gone after a restart"
        return Finding("file system", "note", message, "put it on a disk if it is to stay")
    if mount.type.startswith("fuse"):
        message = f"{told}: what it can do depends on the program behind it; see what was tried"
        return Finding("file system", "note", message, "prefer a file system of the kernel")
    return Finding("file system", "good", told)


_ELSEWHERE = "put the store on another file system, such as ext4, XFS or Btrfs"

_CONSEQUENCES: Mapping[str, tuple[State, str]] = {
    "hard links": ("bad", "a store cannot be made without them"),
    "symlinks": ("bad", "environments are made of them"),
    "hard links of symlinks": ("note", "linking makes each anew, which takes longer"),
    "rename over a file": ("bad", "memos cannot be renewed"),
    "flock": ("bad", "leases and holds protect nothing, and gc could remove what is in use"),
    "exchange of two names": ("note", "an entry cannot be replaced in one step"),
    "case": ("bad", "files of a wheel whose names differ in case only become one"),
    "programs": ("bad", "scripts of environments do not run and extension modules do not load"),
}
"""For each feature: how bad it is not to have it, and what follows."""


def _judge_probes(facts: Facts) -> Iterator[Finding]:
    probes = facts.probes
    if probes.untried:
        yield Finding("file system", "note", f"what it can do was not tried: {probes.untried}")
        return
    for feature, problem in probes.failed.items():
        if feature == "programs" and "noexec" in _options(facts):
            continue  # said already, with its cause
        state, consequence = _CONSEQUENCES[feature]
        yield Finding("file system", state, f"{feature}: {problem}; {consequence}", _ELSEWHERE)
    if probes.resolution >= _COARSE:
        apart = f"time stamps are {probes.resolution / 1e9:g} s apart"
        message = f"{apart}: a file changed twice within that counts as unchanged"
        yield Finding("file system", "note", message, _ELSEWHERE)
    if abs(probes.skew) > _SKEW:
        side = "ahead of" if probes.skew > 0 else "behind"
        message = f"files are stamped {abs(probes.skew):.0f} s {side} this machine's clock"
        yield Finding("clock", "bad", message, "set both clocks by the same source (NTP)")
    if not probes.failed:
        yield Finding("file system", "good", "links, renames, locks and programs work")


def _judge_space(facts: Facts) -> Iterator[Finding]:
    advice = "free some, for instance with: vrfstore gc"
    free, inodes = facts.disk.free, facts.disk.inodes
    state: State = "bad" if free < _BYTES_BAD else "note" if free < _BYTES_NOTE else "good"
    yield Finding("space", state, f"{_size(free)} free", None if state == "good" else advice)
    if inodes is not None:
        state = "bad" if inodes < _INODES_BAD else "note" if inodes < _INODES_NOTE else "good"
        yield Finding("space", state, f"{inodes:,} inodes free", None if state == "good" else advice)


def _judge_clock(facts: Facts) -> Iterator[Finding]:
    clock = facts.clock
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(clock.now))
    if clock.now < _EARLIEST:
        yield Finding("clock", "bad", f"it shows {shown}, which is past", "set it (NTP)")
    elif clock.made is not None and clock.made > clock.now + _FUTURE:
        made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(clock.made))
        message = f"it shows {shown}, but the store was made {made}"
        yield Finding(
            "clock", "bad", message, "set it (NTP); until then gc takes everything for younger than it is"
        )
    elif clock.future:
        ahead = (clock.latest - clock.now) / 3600
        message = f"{clock.future} names in the store are from the future, up to {ahead:.1f} hours"
        yield Finding("clock", "note", message, "check the clock (NTP); gc keeps them until then")
    else:
        yield Finding("clock", "good", shown)


def _judge_interpreters(facts: Facts) -> Iterator[Finding]:
    tools = facts.tools
    if tools.python_version is None:
        message = f"the default one cannot be used: {tools.python_complaint}"
        yield Finding("python", "bad", message, "name another with --python or VRFSTORE_PYTHON")
    else:
        yield Finding("python", "good", f"{tools.python} is {tools.python_version}")
    for base in facts.bases:
        yield _judge_base(base)
    if facts.unread:
        count = f"the record of {facts.unread} environment{'s' if facts.unread > 1 else ''}"
        advice = "gc keeps them, and all entries: look at them, and remove by hand what is broken"
        yield Finding("python", "note", f"{count} cannot be read", advice)


def _judge_base(base: Base) -> Finding:
    stand = (
        f"{base.environments} environment{' stands' if base.environments == 1 else 's stand'} on {base.real}"
    )
    again = "link again with a Python that is there; gc removes what is no longer used"
    if base.complaint:
        return Finding("python", "bad", f"{stand}: {base.complaint}", again)
    if base.found is None:
        return Finding(
            "python", "good", f"{stand}, which is there; somebody else's store, so it was not started"
        )
    if base.found.split(".")[:2] != base.version.split(".")[:2]:
        return Finding("python", "bad", f"{stand}, which was {base.version} and is {base.found} now", again)
    if base.found != base.version:
        return Finding("python", "note", f"{stand}, which was {base.version} and is {base.found} now", again)
    return Finding("python", "good", f"{stand}, still {base.version}")


def _judge_tools(tools: Tools) -> Iterator[Finding]:
    oldest = ".".join(map(str, _OLDEST_PIP))
    install = f'install it where vrfstore is: python -m pip install "pip>={oldest}"'
    if tools.pip is None:
        yield Finding("pip", "bad", "not there; nothing can be resolved", install)
    elif _release(tools.pip) < _OLDEST_PIP:
        message = f"{tools.pip} is too old: its dry run downloads every wheel; {oldest} is needed"
        yield Finding("pip", "bad", message, install)
    else:
        yield Finding("pip", "good", tools.pip)
    if tools.uv is None:
        yield Finding("uv", "note", "not there; vrfstore does not need it")
    else:
        yield Finding("uv", "good", tools.uv)
    if tools.isal is None:
        yield Finding("isal", "note", "not there; wheels are inflated by zlib, at about half the speed")
    else:
        yield Finding("isal", "good", tools.isal)


def _release(version: str) -> tuple[int, ...]:
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    try:
        return Version(version).release
    except InvalidVersion:
        return ()


def _judge_leftovers(facts: Facts) -> Iterator[Finding]:
    found = facts.leftover
    if found is None:
        return
    if found.complaint:
        advice = "see what is said of the store and its permissions"
        yield Finding("leftovers", "note", f"cannot be looked for: {found.complaint}", advice)
        return
    if found.stale_list:
        message = "a gc was killed; its list of condemned names holds up whoever wants one of them"
        yield Finding("leftovers", "note", message, "finish it with: vrfstore gc")
    if found.count:
        message = f"{found.count} of killed runs, {_size(found.bytes)}"
        yield Finding("leftovers", "note", message, "remove them with: vrfstore gc")
    elif not found.stale_list:
        yield Finding("leftovers", "good", "none")


def _options(facts: Facts) -> frozenset[str]:
    return frozenset() if facts.disk.mount is None else facts.disk.mount.options


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def _several(names: Iterable[str], shown: int = 5) -> str:
    """Return names for a sentence; of many, the first."""
    everything = list(names)
    more = f" and {len(everything) - shown} more" if len(everything) > shown else ""
    return ", ".join(everything[:shown]) + more


# From here on: looking, and deciding nothing.


def look(root: str, variables: Mapping[str, str]) -> Facts:
    """Find out everything that ``judge`` needs.

    Args:
        root: Where the store is, or would be, an absolute path.
        variables: The environment variables that decide.
    """
    now = time.time()
    layout = Layout(root)
    names = _Names(layout)
    place = _place(layout, names)
    there = place.known
    # Before the probes, which would count as leftovers themselves.
    leftover = _leftover(layout) if there else None
    tools = _tools(variables)
    bases, unread = _bases(layout, place, tools) if there else ((), 0)
    return Facts(
        root=root,
        user=os.geteuid(),
        umask=_umask(),
        place=place,
        disk=_disk(root, place),
        probes=_probes(layout, place),
        clock=names.clock(now) if there else Clock(now=now),
        tools=tools,
        bases=bases,
        unread=unread,
        leftover=leftover,
    )


class _Names:
    """The names in a store down to one below its parts, with what lstat(2) says of them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def each(self) -> Iterator[tuple[str, os.stat_result]]:
        for name in ("", "store.json", *SUBDIRECTORIES, *map("/".join, self._inside())):
            with contextlib.suppress(OSError):
                yield name or ".", os.lstat(f"{self._layout.root}/{name}")

    def _inside(self) -> Iterator[tuple[str, str]]:
        for part in SUBDIRECTORIES:
            with contextlib.suppress(OSError):
                for name in os.listdir(self._layout.of(part)):
                    yield part, name

    def strangers(self, owner: int) -> tuple[tuple[int, int, str], ...]:
        counted: Counter[int] = Counter()
        examples: dict[int, str] = {}
        for name, found in self.each():
            if found.st_uid != owner:
                counted[found.st_uid] += 1
                examples.setdefault(found.st_uid, name)
        return tuple((user, count, examples[user]) for user, count in sorted(counted.items()))

    def open_to_all(self) -> tuple[str, ...]:
        return tuple(name for name, found in self.each() if _everybody_writes(found))

    def clock(self, now: float) -> Clock:
        times = {name: max(found.st_mtime, found.st_ctime) for name, found in self.each()}
        made: float | None = None
        with contextlib.suppress(OSError):
            made = os.lstat(self._layout.marker).st_ctime
        future = [when for when in times.values() if when > now + _FUTURE]
        return Clock(now=now, made=made, future=len(future), latest=max(times.values(), default=0.0))


def _everybody_writes(found: os.stat_result) -> bool:
    # The mode of a symlink says nothing.
    return not stat.S_ISLNK(found.st_mode) and bool(found.st_mode & stat.S_IWOTH)


def _place(layout: Layout, names: _Names) -> Place:
    root = layout.root
    parent = _nearest(root)
    try:
        found = os.stat(root)
    except FileNotFoundError:
        if os.path.lexists(root):
            return Place(kind="obstructed", complaint="it is a symlink that leads nowhere", parent=parent)
        return Place(
            kind="absent",
            parent=parent,
            parent_writable=_may(parent, os.W_OK | os.X_OK),
            owner=os.stat(parent).st_uid,
        )
    except PermissionError as error:
        return Place(kind="hidden", complaint=str(error.strerror), parent=parent)
    except OSError as error:
        return Place(kind="obstructed", complaint=str(error.strerror), parent=parent)
    if not stat.S_ISDIR(found.st_mode):
        return Place(kind="obstructed", complaint="it is not a directory", parent=parent)
    kind, format_, complaint = _marker(layout)
    if kind != "store" or format_ != FORMAT:
        return Place(
            kind=kind,
            format=format_,
            complaint=complaint,
            parent=root,
            parent_writable=_may(root, os.W_OK | os.X_OK),
            owner=found.st_uid,
            mode=stat.S_IMODE(found.st_mode),
        )
    real = [part for part in SUBDIRECTORIES if _is_directory(layout.of(part))]
    return Place(
        kind=kind,
        format=format_,
        parent=root,
        missing=tuple(part for part in SUBDIRECTORIES if not os.path.lexists(layout.of(part))),
        unusable=tuple(
            part for part in SUBDIRECTORIES if part not in real and os.path.lexists(layout.of(part))
        ),
        unreadable=tuple(part for part in real if not _may(layout.of(part), os.R_OK | os.X_OK)),
        unwritable=tuple(part for part in real if not _may(layout.of(part), os.W_OK | os.X_OK)),
        strangers=names.strangers(found.st_uid),
        open_to_all=names.open_to_all(),
        exposed=_exposed(os.path.dirname(root)),
        owner=found.st_uid,
        mode=stat.S_IMODE(found.st_mode),
    )


def _marker(
    layout: Layout,
) -> tuple[Literal["store", "empty", "foreign", "hidden", "unreadable"], object, str]:
    """Return what a directory is, its format, and a complaint."""
    try:
        value = codec.loads(fs.read_file(layout.marker))
    except FileNotFoundError:
        try:
            inside = os.listdir(layout.root)
        except OSError as error:
            return "hidden", None, str(error.strerror)
        # What Store.open overlooks too.
        others = [name for name in inside if not name.startswith((".store.", "lost+found"))]
        return ("foreign" if others else "empty"), None, ""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        return "unreadable", None, str(reason)
    return "store", value.get("format", _NO_FORMAT) if isinstance(value, dict) else _NO_FORMAT, ""


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _exposed(parent: str) -> str | None:
    with contextlib.suppress(OSError):
        found = os.stat(parent)
        if _everybody_writes(found) and not found.st_mode & stat.S_ISVTX:
            return parent
    return None


def _nearest(path: str) -> str:
    """Return the nearest directory at or above a path that is there."""
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _may(path: str, what: int) -> bool:
    return os.access(path, what, effective_ids=True)


def _umask() -> int | None:
    # umask(2) only tells it by setting another one, for all threads.
    with contextlib.suppress(OSError, ValueError):
        for line in fs.read_file("/proc/self/status").decode(errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return None


def _disk(root: str, place: Place) -> Disk:
    found = os.statvfs(place.parent)
    try:
        table = fs.read_file("/proc/self/mountinfo").decode(errors="surrogateescape")
    except OSError:
        table = ""
    elsewhere: list[str] = []
    if place.kind == "store":
        device = os.stat(root).st_dev
        points = {mount.point for mount in _mounts(table)}
        for part in SUBDIRECTORIES:
            path = f"{root}/{part}"
            with contextlib.suppress(OSError):
                if os.stat(path).st_dev != device or os.path.realpath(path) in points:
                    elsewhere.append(part)
    return Disk(
        mount=mount_of(table, os.path.realpath(place.parent)),
        free=found.f_bavail * found.f_frsize,
        inodes=found.f_favail if found.f_files else None,
        elsewhere=tuple(elsewhere),
    )


def mount_of(table: str, path: str) -> Mount | None:
    """Return the mount that a path is on.

    Args:
        table: The text of ``/proc/self/mountinfo``.
        path: An absolute path without symlinks.
    """
    found: Mount | None = None
    for mount in _mounts(table):
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        # Of several on one point, the last one hides the others.
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _mounts(table: str) -> Iterator[Mount]:
    for line in table.splitlines():
        ours, separator, theirs = line.partition(" - ")
        fields, more = ours.split(" "), theirs.split(" ")
        if not separator or len(fields) < 6 or len(more) < 3:  # noqa: PLR2004 - see proc(5)
            continue
        options = frozenset(fields[5].split(",")) | frozenset(more[2].split(","))
        yield Mount(point=_unescaped(fields[4]), type=more[0], options=options)


def _unescaped(text: str) -> str:
    r"""Undo what proc(5) does to blanks and backslashes: ``\040`` and its like."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


_GONE = {errno.ENOENT, errno.ENOTDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EIO}
"""What says nothing of a feature: nothing can be tried."""

_ATTEMPTS = 3


def _probes(layout: Layout, place: Place) -> Probes:
    if place.known:
        parent, prefix = layout.of("tmp"), ""
    elif place.kind in {"absent", "empty"}:
        # Store.open overlooks this prefix in a new directory, and gc clears it should we be killed.
        parent, prefix = place.parent, ".store."
    else:
        return Probes(untried="this is no store that may be touched", failed={})
    if not _is_directory(parent) or not _may(parent, os.W_OK | os.X_OK):
        return Probes(untried=f"{parent} may not be written", failed={})
    complaint = ""
    for _ in range(_ATTEMPTS):
        directory = f"{parent}/{prefix}{fs.unique_name()}"
        try:
            fs.make_directory(directory, 0o700)
            return _tried(directory)
        except OSError as error:
            complaint = str(error.strerror)
            # A gc takes it for a leftover, because no lease protects it: whether leases work is not known yet.
            if error.errno not in _GONE:
                break
        finally:
            with contextlib.suppress(OSError):
                fs.remove_tree(directory)
    return Probes(untried=complaint, failed={})


def _tried(directory: str) -> Probes:
    """Try every feature in a new directory.

    Raises:
        OSError: Nothing can be tried: the directory is gone, or the disk is full.
    """
    # The kernel stamps with the time of its last tick, or with the exact one.
    before = scan.now()
    fs.write_file(f"{directory}/file", b"file")
    after = time.time()
    stamped = os.stat(f"{directory}/file").st_mtime
    failed: dict[str, str] = {}
    for feature, attempt in _FEATURES.items():
        try:
            problem = attempt(directory)
        except OSError as error:
            if error.errno in _GONE | _FULL:
                raise
            problem = str(error.strerror)
        if problem:
            failed[feature] = problem
    times = [os.lstat(f"{directory}/{name}").st_mtime_ns for name in os.listdir(directory)]
    return Probes(
        failed=failed,
        resolution=_resolution(times),
        skew=stamped - after if stamped > after else min(0.0, stamped - before),
    )


def _resolution(times: Iterable[int]) -> int:
    """Return the largest usual step, in nanoseconds, that all of these are multiples of."""
    found = list(times)
    steps = (2 * 10**9, *(10**power for power in range(9, 0, -1)))
    return next((step for step in steps if not any(when % step for when in found)), 1)


def _try_hard_link(directory: str) -> str:
    return _linked(f"{directory}/file", f"{directory}/hard")


def _linked(source: str, path: str) -> str:
    fs.hard_link(source, path)
    # fs.hard_link makes do with a copy or a fresh symlink where it has to.
    return (
        ""
        if os.path.samestat(os.lstat(source), os.lstat(path))
        else "the kernel or the file system refuses them"
    )


def _try_symlink(directory: str) -> str:
    fs.symlink("file", f"{directory}/symlink")
    return "" if os.readlink(f"{directory}/symlink") == "file" else "they are not kept as they were made"


def _try_hard_link_of_symlink(directory: str) -> str:
    if not os.path.islink(f"{directory}/symlink"):
        return "there are no symlinks"
    return _linked(f"{directory}/symlink", f"{directory}/symlink.hard")


def _try_rename(directory: str) -> str:
    fs.write_file(f"{directory}/old", b"old")
    fs.write_file(f"{directory}/new", b"new")
    fs.rename(f"{directory}/new", f"{directory}/old")
    kept = fs.read_file(f"{directory}/old") == b"new" and not os.path.lexists(f"{directory}/new")
    return "" if kept else "the old file is still there"


def _try_flock(directory: str) -> str:
    # As leases do it: the owner opens for writing, who looks opens for reading only.
    owner = os.open(f"{directory}/file", os.O_RDWR | os.O_CLOEXEC)
    try:
        looker = os.open(f"{directory}/file", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(looker, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return "two have the same file locked at once"
            fcntl.flock(owner, fcntl.LOCK_UN)
            fcntl.flock(looker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(looker)
    finally:
        os.close(owner)
    return ""


_RENAME_EXCHANGE = 2
"""rename(2), of linux/fs.h."""

_AT_FDCWD = -100


def _try_exchange(directory: str) -> str:
    import ctypes  # noqa: PLC0415

    fs.write_file(f"{directory}/left", b"left")
    fs.write_file(f"{directory}/right", b"right")
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return "the C library has no renameat2"
    left, right = os.fsencode(f"{directory}/left"), os.fsencode(f"{directory}/right")
    if call(_AT_FDCWD, left, _AT_FDCWD, right, ctypes.c_uint(_RENAME_EXCHANGE)) != 0:
        return os.strerror(ctypes.get_errno())
    return "" if fs.read_file(f"{directory}/left") == b"right" else "nothing is exchanged"


def _try_case(directory: str) -> str:
    fs.write_file(f"{directory}/Case", b"")
    return "upper and lower case are the same" if os.path.lexists(f"{directory}/cASE") else ""


def _try_program(directory: str) -> str:
    fs.write_file(f"{directory}/program", b"#!/bin/sh\n", mode=0o755)
    # access(2) says no on a mount without exec, also to root.
    return "" if _may(f"{directory}/program", os.X_OK) else "they may not be run"


_FEATURES: Mapping[str, Callable[[str], str]] = {
    "hard links": _try_hard_link,
    "symlinks": _try_symlink,
    "hard links of symlinks": _try_hard_link_of_symlink,
    "rename over a file": _try_rename,
    "flock": _try_flock,
    "exchange of two names": _try_exchange,
    "case": _try_case,
    "programs": _try_program,
}
"""Each is tried in a directory of its own making that has a ``file``; says what is wrong, or nothing."""


def _tools(variables: Mapping[str, str]) -> Tools:
    from vrfstore import interpreter  # noqa: PLC0415

    executable, version, complaint = "", None, ""
    try:
        executable = interpreter.find(variables.get("VRFSTORE_PYTHON"))
        version = interpreter.probe(executable).version
    except InterpreterError as error:
        complaint = error.message
    return Tools(
        python=executable,
        python_version=version,
        python_complaint=complaint,
        pip=_distribution("pip"),
        uv=_distribution("uv") or _uv_on_path(variables.get("PATH")),
        isal=_distribution("isal"),
    )


def _distribution(name: str) -> str | None:
    """Return the version of a distribution that the running Python has."""
    import importlib.metadata  # noqa: PLC0415

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _uv_on_path(path: str | None) -> str | None:
    import shutil  # noqa: PLC0415
    import subprocess  # noqa: PLC0415

    program = shutil.which("uv", path=path or os.defpath)
    if program is None:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
        )
        words = done.stdout.split()
        if done.returncode == 0 and len(words) > 1:
            return words[1]
    return None


def _bases(layout: Layout, place: Place, tools: Tools) -> tuple[tuple[Base, ...], int]:
    """Return the interpreters of the environments on disk, and how many records cannot be read."""
    store = Store(layout)
    counted: Counter[tuple[str, str]] = Counter()
    unread = 0
    with contextlib.suppress(OSError):
        for directory in store.environments():
            try:
                identity = store.record(directory).interpreter
                counted[str(identity["real"]), str(identity["version"])] += 1
            except FileNotFoundError:
                continue
            except (StoreDamagedError, KeyError, TypeError):
                unread += 1
    # Whoever owns the store could name any program.
    trusted = place.owner in {0, os.geteuid()}
    asked: dict[str, tuple[str | None, str]] = {}
    if tools.python_version is not None:
        asked[os.path.realpath(tools.python)] = (tools.python_version, "")
    bases = []
    for (real, version), environments in sorted(counted.items()):
        if real not in asked:
            asked[real] = _asked(real, trusted=trusted)
        found, complaint = asked[real]
        bases.append(
            Base(real=real, version=version, environments=environments, found=found, complaint=complaint)
        )
    return tuple(bases), unread


def _asked(real: str, *, trusted: bool) -> tuple[str | None, str]:
    """Return the version of an interpreter, and a complaint."""
    from vrfstore import interpreter  # noqa: PLC0415

    if not os.path.isfile(real):
        return None, "it is not there any more"
    if not trusted:
        return None, ""
    try:
        return interpreter.probe(real).version, ""
    except InterpreterError as error:
        return None, error.message


def _leftover(layout: Layout) -> Leftover:
    try:
        found = scan.leftovers(Store(layout))
    except OSError as error:
        return Leftover(complaint=f"{error.strerror} ({error.filename})")
    stale = os.path.lexists(layout.condemned) and leases.is_free(layout.of("gc", "run"))
    paths = (*found.trees, *found.files)
    return Leftover(count=len(paths), bytes=_bytes(paths), stale_list=stale)


def _bytes(paths: Iterable[str]) -> int:
    inodes: dict[tuple[int, int], int] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            inodes[found.st_dev, found.st_ino] = found.st_blocks * 512
            if stat.S_ISDIR(found.st_mode):
                waiting += [f"{path}/{name}" for name in os.listdir(path)]
    return sum(inodes.values())
