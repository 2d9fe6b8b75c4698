"""What other stores borrow from this one: registrations that they leave here, and that keep what they name from gc.

::

    <shared store>/clients/<client>.json     written by the store that borrows, read by the gc of the one that lends
    <own store>/shared.json                  the shared stores that we borrow from

``clients/`` is a drop box: whoever runs the shared store makes it, with mode 1777 as /tmp has, and nothing else in that
store may be written by others. Where it is not there or may not be written, nothing is left, and nobody's gc knows of
what is borrowed; docs/sharing.md says what follows from that.

Who borrows and who collects keep to the order of ``store.condemned``: a registration is written before the list of
condemned names is read, and it is read after that list was put in place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError
from vrfstore.store import leases
from vrfstore.store.holds import hold
from vrfstore.store.layout import Layout
from vrfstore.store.store import Store

__all__ = ["Client", "is_open", "lenders", "read", "register", "renew"]

_SCHEMA = 1
_PART = "clients"
_SUFFIX = ".json"
_LARGEST = 1 << 24
_HOLD = "clients"
_ENTRY = re.compile(r"[^/\n\0]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """A store that borrows.

    Attributes:
        store: Its absolute path, as it says itself.
        entries: The directory names of the entries that it refers to.
    """

    store: str
    entries: frozenset[str]


def is_open(shared: Layout) -> bool:
    """Whether we could leave a registration in a shared store."""
    return os.access(shared.of(_PART), os.W_OK | os.X_OK)


def read(layout: Layout) -> Iterator[Client | StoreDamagedError]:
    """Yield what has been left in this store; in the place of what cannot be read, an error with its path.

    Anybody may have written it: it is bounded, no link is followed, and it is believed in one thing only, that
    something stays.
    """
    try:
        names = sorted(os.listdir(layout.of(_PART)))
    except FileNotFoundError:
        return
    except OSError as error:
        yield _unreadable(layout.of(_PART), error.strerror)
        return
    for name in names:
        if not name.endswith(_SUFFIX):
            continue  # on its way to its name
        path = layout.of(_PART, name)
        try:
            yield _client(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            yield _unreadable(path, str(error))


def register(own: Layout, shared: Layout, entries: Collection[str]) -> bool:
    """Tell a shared store that we refer to some of its entries, beside those that we have told it of.

    Args:
        own: Our store. The caller has leased the wheels of the entries in it, until they are published there.
        shared: The store that lends.
        entries: Directory names there.

    Returns:
        Whether that store knows now.
    """
    path = _path(own, shared)
    # Held even where nothing is new: who renews may just be about to take it back, not having seen our lease.
    with hold(own.of("holds", _HOLD)):
        told = _told(path)
        if told.issuperset(entries):
            return True
        # First the note: after a kill the next gc looks there in vain, and nothing is forgotten.
        _note(own, {*lenders(own), shared.root})
        if not is_open(shared):
            return False
        try:
            _write(own, path, told.union(entries))
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                raise
            return False
    return True


def renew(own: Store) -> None:
    """Let shared stores know what we refer to now, and nothing else. One that cannot be reached is left as it is.

    Raises:
        OSError: Our own store cannot be read.
    """
    layout = own.layout
    if not lenders(layout):
        return
    with hold(layout.of("holds", _HOLD)):
        # A lease ends only after what it protected can be seen, so leases come first.
        leased = [lease.digests for lease in leases.read(layout) if lease.alive]
        try:
            borrowed = {own.plan(directory).shared for directory in own.entries()}
        except (FileNotFoundError, StoreDamagedError):
            return  # what cannot be read may be borrowed
        if None in leased:
            return
        digests = {digest for found in leased for digest in found or ()}
        left = {root for root in lenders(layout) if _is_needed(layout, Layout(root), borrowed, digests)}
        _note(layout, left)


def _is_needed(own: Layout, shared: Layout, borrowed: Collection[str], leased: Collection[str]) -> bool:
    """Write the registration in one shared store anew; returns whether there is anything to look after there."""
    prefix = f"{shared.of('entries')}/"
    wanted = {place.removeprefix(prefix) for place in borrowed if place.startswith(prefix)}
    if not os.path.isdir(shared.of(_PART)):
        # Where the whole store is out of reach, we may be registered there.
        return bool(wanted) or not os.path.exists(shared.marker)
    with contextlib.suppress(OSError):
        path = _path(own, shared)
        told = _told(path)
        # Whoever has leased a wheel may be about to borrow it.
        wanted |= {
            name for name in told if any(digest.startswith(name.partition("-")[0]) for digest in leased)
        }
        if not wanted:
            fs.remove_file(path)
        elif wanted != told:
            _write(own, path, wanted)
        return bool(wanted)
    return True


def lenders(own: Layout) -> frozenset[str]:
    """Return the roots of the shared stores that we borrow from, or may have a registration in."""
    try:
        return frozenset(map(codec.text, codec.loads(fs.read_file(own.lenders))))
    except (OSError, ValueError, TypeError):
        return frozenset()


def _note(own: Layout, roots: Collection[str]) -> None:
    if roots != lenders(own):
        fs.replace_file(own.lenders, codec.dumps(sorted(roots)))


def _path(own: Layout, shared: Layout) -> str:
    """Return where our registration is: by our store's id, by its place, since a copy has the same id, and by user."""
    marker = codec.loads(fs.read_file(own.marker))
    place = codec.hexdigest(os.fsencode(os.path.realpath(own.root)))
    return shared.of(_PART, f"{codec.text(marker['id'])}-{place[:16]}-{os.geteuid()}{_SUFFIX}")


def _told(path: str) -> frozenset[str]:
    """Return what a registration of ours says; nothing where there is none, or nobody could read it."""
    try:
        return _client(path).entries
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return frozenset()


def _write(own: Layout, path: str, entries: Collection[str]) -> None:
    value = {"schema": _SCHEMA, "store": own.root, "entries": sorted(entries)}
    temporary = f"{path}.{fs.unique_name()}"
    try:
        # Readable by the gc of that store, whatever our umask; on the disk, as the entries that it keeps are.
        fs.write_file(temporary, codec.dumps(value), sync=True)
        fs.rename(temporary, path)
    except BaseException:
        fs.remove_file(temporary)
        raise


def _client(path: str) -> Client:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no file")
        data = stream.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError("it is too large")
    value = codec.loads(data)
    if value["schema"] != _SCHEMA:
        raise ValueError(f"it is of schema {value['schema']!r}")
    names = [codec.text(name) for name in value["entries"]]
    if not all(map(_ENTRY.fullmatch, names)):
        raise ValueError("it names what is no entry")
    return Client(store=codec.text(value["store"]), entries=frozenset(names))


def _unreadable(path: str, why: str | None) -> StoreDamagedError:
    return StoreDamagedError(
        f"what another store borrows cannot be read: {why}",
        kind="client-unreadable",
        path=path,
        hint="remove it if you know that nobody needs it",
    )
