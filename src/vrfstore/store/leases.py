"""Leases: roots that end by themselves, because their owner does.

A lease is a small file in ``leases/``. Its name says how it ends and what it protects, so that one readdir
tells almost everything::

    held.<id>.<environment key, or "-">     content: JSON {"digests": [...], "lock": …}

``held`` means: the owner keeps it flocked, and it is dead as soon as the flock can be had. It is made in
``tmp/``, flocked, and only then renamed into place, so that nobody ever sees it without its owner; it is never
rewritten. Everything that one run stages carries the ``<id>`` of its lease, which is how leftovers are told
from work under way. A lease of any other kind belongs to a newer vrfstore, and counts as alive.

Leases live in the store's layer, not in gc's: links take them, gc reads them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from vrfstore import codec, fs
from vrfstore.model import Digest
from vrfstore.store.layout import Layout

__all__ = ["Lease", "LeaseRecord", "is_free", "read", "take"]

_NOTHING = "-"
_HELD_FIELDS = 3


@dataclass(slots=True)
class Lease:
    """A lease of ours. It ends with ``release``, or with the last process that has its descriptor.

    ``descriptor`` is -1 once it has been released.
    """

    id: str
    path: str
    descriptor: int

    def release(self) -> None:
        """End it now. The file goes first: a lease that is gone is as dead as one that is not flocked."""
        if self.descriptor < 0:
            return
        with contextlib.suppress(OSError):
            fs.remove_file(self.path)
        os.close(self.descriptor)
        self.descriptor = -1

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
    """

    name: str
    id: str
    environment: str | None
    digests: frozenset[Digest] | None
    lock: str | None
    alive: bool


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
    from filelock import lock_descriptor  # noqa: PLC0415 - 20 ms that a hit does not pay

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
            if lock_descriptor(descriptor, blocking=False):
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


def is_free(path: str) -> bool:
    """Whether nobody has the file flocked. A file that is gone is free; one that cannot be read is not."""
    from filelock import lock_descriptor  # noqa: PLC0415

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return lock_descriptor(descriptor, blocking=False)
    finally:
        os.close(descriptor)


def read(layout: Layout) -> list[LeaseRecord]:
    """Return all leases of the store, dead ones too, in the order of their names."""
    return [_read_one(layout, name) for name in sorted(os.listdir(layout.of("leases")))]


def _read_one(layout: Layout, name: str) -> LeaseRecord:
    fields = name.split(".", _HELD_FIELDS - 1)
    if len(fields) != _HELD_FIELDS or fields[0] != "held":
        return LeaseRecord(name=name, id="", environment=None, digests=None, lock=None, alive=True)
    _, identity, environment = fields
    path = layout.of("leases", name)
    digests: frozenset[Digest] | None = frozenset()
    lock = None
    try:
        value = codec.loads(fs.read_file(path))
        digests, lock = frozenset(map(Digest, value["digests"])), value["lock"]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError):
        digests = None
    return LeaseRecord(
        name=name,
        id=identity,
        environment=None if environment == _NOTHING else environment,
        digests=digests,
        lock=lock,
        alive=not is_free(path),
    )
