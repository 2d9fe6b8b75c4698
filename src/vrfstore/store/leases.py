"""Leases: roots that end by themselves, with their owner or at a time.

A lease is a small file in ``leases/``. Its name says how it ends and what it protects, so that one readdir
tells almost everything::

    held.<id>.<key>
    process.<id>.<key>.<pid>.<start>.<boot>.<namespace>.<expires>
    until.<id>.<key>.<boot>.<deadline>.<wall>

    <id>                   16 hexadecimal digits, like no other's
    <key>                  of the environment that it protects, 32 hexadecimal digits; or "-" for none
    <pid> <start>          the process, and field 22 of its /proc/PID/stat: clock ticks since boot
    <boot>                 the boot id, 32 hexadecimal digits
    <namespace>            the inode of the pid namespace in which <pid> is meant
    <expires> <deadline>   whole seconds of CLOCK_BOOTTIME
    <wall>                 whole seconds since the epoch

The content is JSON, ``{"digests": [...], "lock": …}``: the wheels and the lock that it protects as well.

``held`` ends with its owner, who keeps it flocked: it is dead as soon as the flock can be had. It is made in ``tmp/``,
flocked, and only then renamed into place, so that nobody ever sees it without its owner; it is never rewritten.
Everything that one run stages carries the ``<id>`` of its lease, which is how leftovers are told from work under way.

``process`` ends with a process, whoever took it: when that is gone or a zombie, when another one has its number, or
with the boot. From another pid namespace nobody can tell; there it holds until ``<expires>``. ``until`` ends at
``<deadline>``, or, after a reboot, at ``<wall>``. Both are made in their place (O_CREAT, O_EXCL), by the name alone:
empty, they protect their environment. So a client can take them that knows neither flock(2) nor Python.

A lease of any other kind, or with another name than these, belongs to a newer vrfstore, and counts as alive.

Leases live in the store's layer, not in gc's: links take them, gc reads them.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable

from vrfstore import codec, fs
from vrfstore.model import Digest
from vrfstore.store.holds import locked
from vrfstore.store.layout import Layout, lease_until
from vrfstore.store.machine import Machine, Process
from vrfstore.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, Self, TypeAlias

__all__ = [
    "UNSEEN",
    "Lease",
    "LeaseKind",
    "LeaseRecord",
    "is_free",
    "read",
    "session_name",
    "take",
    "take_for_process",
    "take_until",
]

LeaseKind: TypeAlias = "Literal['held', 'process', 'until', 'unknown']"

UNSEEN = 7 * 86400.0
"""Seconds that a lease of a process holds where nobody can see that, unless it is said otherwise."""

_NOTHING = "-"
_HELD_FIELDS = 3

# Numbers as they are written: one name for each lease, and none that a reader of another language cannot hold.
_NUMBER = r"(0|[1-9]\d{0,14})"
_COMMON = rf"([0-9a-f]{{16}})\.([0-9a-f]{{32}}|{_NOTHING})"
_PROCESS = re.compile(
    rf"process\.{_COMMON}\.{_NUMBER}\.{_NUMBER}\.([0-9a-f]{{32}})\.{_NUMBER}\.{_NUMBER}", re.ASCII
)
_UNTIL = re.compile(rf"until\.{_COMMON}\.([0-9a-f]{{32}})\.{_NUMBER}\.{_NUMBER}", re.ASCII)

_MACHINE = Machine()


@dataclass(slots=True)
class Lease:
    """A lease of ours. It ends with ``release``, or by itself.

    Attributes:
        id: What names it.
        path: Its file.
        descriptor: Of a held one: it ends with the last process that has this. Else, and once it has been released, -1.
        expires: When it ends, or is not believed any more where its process cannot be seen: seconds since the epoch.
            None for a held one.
        released: Whether it has been.
    """

    id: str
    path: str
    descriptor: int = -1
    expires: float | None = None
    released: bool = False

    def release(self) -> None:
        """End it now. The file goes first: a lease that is gone is as dead as one that is not flocked."""
        if self.released:
            return
        with contextlib.suppress(OSError):
            fs.remove_file(self.path)
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1
        self.released = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseRecord:
    """A lease as a reader sees it.

    Attributes:
        name: Its file name.
        id: What staged things of its owner are called after; empty where the kind is unknown.
        environment: The key of the environment it protects, if any, in all its generations.
        digests: The wheels it protects. ``None`` where that cannot be read: then it may be any.
        lock: The digest of the lock it protects, if any.
        alive: Whether it still counts.
        kind: How it ends.
        process: The number of the process that it ends with, in the pid namespace of whoever took it.
        expires: See ``Lease``.
    """

    name: str
    id: str
    environment: str | None
    digests: frozenset[Digest] | None
    lock: str | None
    alive: bool
    kind: LeaseKind
    process: int | None = None
    expires: float | None = None


def take(
    layout: Layout, *, environment: str | None = None, digests: Iterable[Digest] = (), lock: str | None = None
) -> Lease:
    """Take a held lease.

    Args:
        layout: The store's.
        environment: The key of an environment to protect.
        digests: Wheels to protect. With nothing to protect, the lease is for the staging of one run.
        lock: The digest of a lock to protect.
    """
    identity = fs.unique_name()
    name = f"held.{identity}.{environment or _NOTHING}"
    content = codec.dumps({"digests": sorted(digests), "lock": lock})
    while True:
        temporary = layout.of("tmp", f"{identity}.lease")
        try:
            fs.write_file(temporary, content)
        except OSError:
            fs.remove_file(temporary)  # on a full disk, an empty one
            raise
        # Until it is flocked, a gc that sweeps tmp/ may take it for litter, or have it flocked itself: begin again.
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if locked(descriptor):
                fs.rename(temporary, layout.of("leases", name))
                return Lease(identity, layout.of("leases", name), descriptor)
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            fs.remove_file(temporary)
            raise
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def take_for_process(
    layout: Layout,
    process: Process,
    *,
    environment: str | None = None,
    unseen: float = UNSEEN,
    machine: Machine = _MACHINE,
) -> Lease:
    """Take a lease that ends with a process, which need not be ours.

    Args:
        layout: The store's.
        process: It, as ``machine`` has it.
        environment: The key of an environment to protect.
        unseen: Seconds that the lease holds for those who cannot see the process.
        machine: Where it runs.

    Raises:
        OSError: The store cannot be written; or which boot or which pid namespace this is cannot be read.
    """
    now = machine.since_boot()
    expires = math.ceil(now + unseen)
    where = f"{machine.boot()}.{machine.namespace()}"
    identity = fs.unique_name()
    name = f"process.{identity}.{environment or _NOTHING}.{process.pid}.{process.start}.{where}.{expires}"
    return _put(layout, identity, name, machine.wall() + expires - now)


def take_until(
    layout: Layout, seconds: float, *, environment: str | None = None, machine: Machine = _MACHINE
) -> Lease:
    """Take a lease that ends after so many seconds, whoever is there then.

    Args:
        layout: The store's.
        seconds: More than none.
        environment: The key of an environment to protect.
        machine: Whose clocks count.

    Raises:
        OSError: The store cannot be written; or which boot this is cannot be read.
    """
    now, wall = machine.since_boot(), machine.wall()
    deadline = math.ceil(now + seconds)
    identity = fs.unique_name()
    ends = deadline, math.ceil(wall + seconds)
    name = lease_until(identity, environment or _NOTHING, machine.boot(), *ends)
    return _put(layout, identity, name, wall + deadline - now)


def _put(layout: Layout, identity: str, name: str, expires: float) -> Lease:
    path = layout.of("leases", name)
    fs.write_file(path, b"")
    return Lease(identity, path, expires=expires)


def session_name(identity: str) -> str:
    """Return the name of a held lease that protects no environment, such as that of a session."""
    return f"held.{identity}.{_NOTHING}"


def is_free(path: str) -> bool:
    """Whether nobody has the file flocked. A file that is gone is free; one of which nobody can tell is not."""
    from filelock import lock_descriptor  # noqa: PLC0415 - see holds.locked

    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    """Open a file to flock it: for writing if we may, because NFS locks nothing else exclusively (flock(2))."""
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, os.O_RDWR | flags)
    except FileNotFoundError:
        raise
    except OSError:
        return os.open(path, os.O_RDONLY | flags)


def read(layout: Layout, machine: Machine = _MACHINE) -> list[LeaseRecord]:
    """Return all leases of the store, dead ones too, in the order of their names."""
    return [_read_one(layout, name, machine) for name in sorted(os.listdir(layout.of("leases")))]


def _read_one(layout: Layout, name: str, machine: Machine) -> LeaseRecord:
    path = layout.of("leases", name)
    held = name.split(".", _HELD_FIELDS - 1)
    kind: LeaseKind
    process = expires = None
    if match := _PROCESS.fullmatch(name):
        kind, process = "process", int(match[3])
        alive, expires = _until_process_ends(match, machine)
    elif match := _UNTIL.fullmatch(name):
        kind = "until"
        alive, expires = _until_time(match, machine)
    elif len(held) == _HELD_FIELDS and held[0] == "held":
        kind, alive = "held", True
    else:
        return LeaseRecord(
            name=name, id="", environment=None, digests=None, lock=None, alive=True, kind="unknown"
        )
    identity, environment = match.group(1, 2) if match else held[1:]
    digests, lock = _content(path, may_be_empty=kind != "held")
    return LeaseRecord(
        name=name,
        id=identity,
        environment=None if environment == _NOTHING else environment,
        digests=digests,
        lock=lock,
        alive=not is_free(path) if kind == "held" else alive,
        kind=kind,
        process=process,
        expires=expires,
    )


def _content(path: str, *, may_be_empty: bool) -> tuple[frozenset[Digest] | None, str | None]:
    """Return the wheels and the lock that a lease protects; None for wheels that nobody can tell."""
    try:
        data = fs.read_file(path)
        if may_be_empty and not data:
            return frozenset(), None
        value = codec.loads(data)
        lock = value["lock"]
        digests = frozenset(Digest(codec.text(digest)) for digest in value["digests"])
        return digests, None if lock is None else codec.text(lock)
    except FileNotFoundError:
        return frozenset(), None
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _until_process_ends(match: re.Match[str], machine: Machine) -> tuple[bool, float]:
    """Return whether a lease of a process counts, and when it ends for those who cannot see that."""
    pid, start, boot, namespace, expires = (
        int(match[3]), int(match[4]), match[5], int(match[6]), int(match[7]),
    )  # fmt: skip
    now = machine.since_boot()
    ends = machine.wall() + expires - now
    try:
        if machine.boot() != boot:
            return False, ends
    except OSError:
        return True, ends
    try:
        is_ours = machine.namespace() == namespace
    except OSError:
        is_ours = False
    if not is_ours:
        return now < expires, ends
    try:
        found = machine.process(pid)
    except OSError:
        return True, ends  # it is there, and hidden from us
    return found is not None and found.start == start and not found.ended, ends


def _until_time(match: re.Match[str], machine: Machine) -> tuple[bool, float]:
    """Return whether a lease until a time counts, and when that is, seconds since the epoch."""
    boot, deadline, wall = match[3], int(match[4]), int(match[5])
    now, today = machine.since_boot(), machine.wall()
    try:
        is_ours = machine.boot() == boot
    except OSError:
        return now < deadline or today < wall, max(today + deadline - now, wall)
    return (now < deadline, today + deadline - now) if is_ours else (today < wall, wall)
