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
from collections.abc import Collection, Iterator, Mapping

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError
from vrfstore.store import leases
from vrfstore.store.holds import hold
from vrfstore.store.layout import Layout
from vrfstore.store.store import Store
from vrfstore.values import dataclass

__all__ = ["Client", "is_open", "lenders", "read", "register", "renew"]

_SCHEMA = 1
_PART = "clients"
_SUFFIX = ".json"
_LARGEST = 1 << 24
"""Bytes of one registration: of some 250,000 entries."""

_MOST = 1 << 26
"""Bytes that are read of all of them; what is beyond keeps everything, as what cannot be read does."""

_EACH = 1 << 10
"""Bytes that an empty one counts for, so that there is an end to these too."""

_LONGEST = 4096
"""Characters of the path of a store (PATH_MAX), and of what is said of a registration that cannot be read."""

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
    something stays. Of what a store refers to, what is not there (any more) is left out.
    """
    try:
        # Before they are read: what a gc has chosen is there, and its second look finds it here.
        there = frozenset(os.listdir(layout.of("entries")))
        names = sorted(os.listdir(layout.of(_PART)))
    except FileNotFoundError:
        return
    except OSError as error:
        yield _unreadable(layout.of(_PART), error.strerror)
        return
    left = _MOST
    for name in names:
        if not name.endswith(_SUFFIX):
            continue  # on its way to its name
        path = layout.of(_PART, name)
        try:
            data = _data(path)
            left -= len(data) + _EACH
            if left < 0:
                yield _unreadable(layout.of(_PART), f"there are more than {_MOST >> 20} MiB of it")
                return
            client = _client(data)
            yield Client(store=client.store, entries=client.entries & there)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            left -= _EACH
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
            borrowed = _by_lender({own.plan(directory).shared for directory in own.entries()} - {""})
        except (FileNotFoundError, StoreDamagedError):
            return  # what cannot be read may be borrowed
        if None in leased:
            return
        digests = {digest for found in leased for digest in found or ()}
        left = {root for root in lenders(layout) if _is_needed(layout, Layout(root), borrowed, digests)}
        _note(layout, left)


def _by_lender(places: Collection[str]) -> dict[str, set[str]]:
    """Return the directory names of what is borrowed by the real path of the store that lends it.

    However that was spelt, as by a link that leads there: what it is told, it is told in one place.
    """
    found: dict[str, set[str]] = {}
    for place in places:
        parent, _, directory = place.rpartition("/")
        found.setdefault(os.path.dirname(parent), set()).add(directory)
    merged: dict[str, set[str]] = {}
    for root, directories in found.items():
        merged.setdefault(os.path.realpath(root), set()).update(directories)
    return merged


def _is_needed(
    own: Layout, shared: Layout, borrowed: Mapping[str, Collection[str]], leased: Collection[str]
) -> bool:
    """Write the registration in one shared store anew; returns whether there is anything to look after there."""
    wanted = set(borrowed.get(os.path.realpath(shared.root), ()))
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
    """Return where our registration is, or will be.

    It is called after our store's id, its place, since a copy has the same id, and the user. Anybody could come to know
    that name and take it before us; then it has another one, which nobody can know.
    """
    marker = codec.loads(fs.read_file(own.marker))
    place = codec.hexdigest(os.fsencode(os.path.realpath(own.root)))
    name = f"{codec.text(marker['id'])}-{place[:16]}-{os.geteuid()}"
    usual = shared.of(_PART, f"{name}{_SUFFIX}")
    if _is_ours(usual):
        return usual
    with contextlib.suppress(OSError):
        for other in sorted(os.listdir(shared.of(_PART))):
            path = shared.of(_PART, other)
            if other.startswith(f"{name}-") and other.endswith(_SUFFIX) and _is_ours(path):
                return path
    return shared.of(_PART, f"{name}-{fs.unique_name()}{_SUFFIX}") if os.path.lexists(usual) else usual


def _is_ours(path: str) -> bool:
    """Whether a file is one that only we, and root, can take away again."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _told(path: str) -> frozenset[str]:
    """Return what a registration of ours says; nothing where there is none, or nobody could read it."""
    try:
        return _client(_data(path)).entries
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


def _data(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        data = stream.read(_LARGEST + 1) if found.st_size <= _LARGEST else b""
    if max(len(data), found.st_size) > _LARGEST:
        raise ValueError("it is too large")
    return data


def _client(data: bytes) -> Client:
    value = codec.loads(data)
    if value["schema"] != _SCHEMA:
        raise ValueError("it is of another schema")
    names = [codec.text(name) for name in value["entries"]]
    if not all(map(_ENTRY.fullmatch, names)):
        raise ValueError("it names what is no entry")
    store = codec.text(value["store"])
    if len(store) > _LONGEST:
        raise ValueError("it is of a store whose path nobody can have")
    return Client(store=store, entries=frozenset(names))


def _unreadable(path: str, why: str | None) -> StoreDamagedError:
    return StoreDamagedError(
        f"what another store borrows cannot be read: {(why or '')[:_LONGEST]}",
        kind="client-unreadable",
        path=path,
        hint="remove it if you know that nobody needs it",
    )
