"""What there is to know of a store and of what it stands on, and what may be said of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vrfstore.store.layout import FORMAT
from vrfstore.values import dataclass

__all__ = [
    "NETWORK",
    "Base",
    "Clock",
    "Disk",
    "Facts",
    "Finding",
    "Leftover",
    "Mount",
    "Place",
    "Probes",
    "State",
    "Tools",
]

State = Literal["good", "note", "bad"]

NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "smb3", "smbfs", "virtiofs",
    }
)  # fmt: skip
"""Types of file systems that other machines may have mounted as well."""


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
class Lender:
    """A shared store that the store borrows from, or is to.

    Attributes:
        root: Where it is.
        asked: Whether links of now are to borrow from it.
        complaint: Why it cannot be used, in words.
        borrowed: How many entries are borrowed from it.
        gone: How many of these are not there any more.
        told: Whether its gc can be told what is borrowed.
    """

    root: str
    asked: bool = False
    complaint: str = ""
    borrowed: int = 0
    gone: int = 0
    told: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Borrowers:
    """The place where other stores leave what they borrow from this one.

    Attributes:
        guarded: Whether nobody can take away what another has left.
        known: How many stores have left something.
        unread: What has been left and cannot be read, by path.
    """

    guarded: bool
    known: int = 0
    unread: tuple[str, ...] = ()


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
        lenders: The shared stores that it borrows from.
        borrowers: Who borrows from it; ``None`` where nobody could say so.
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
    lenders: tuple[Lender, ...] = ()
    borrowers: Borrowers | None = None
