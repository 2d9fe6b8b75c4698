"""The handle on a store: open it, add wheels to it, look at what is there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError, StoreError, WheelError
from vrfstore.model import Digest, EntryPlan, EntryReference
from vrfstore.store import condemned, leases, records
from vrfstore.store.entry_plan import plan_from_json
from vrfstore.store.holds import hold, shard
from vrfstore.store.layout import (
    DEAD_PREFIX,
    DIGEST_LENGTHS,
    FORMAT,
    STAGING_PREFIX,
    SUBDIRECTORIES,
    Layout,
    entry_directory,
    environment_directory,
)
from vrfstore.store.leases import Lease

__all__ = ["Added", "Store", "default_root"]

_CHUNK = 1 << 18


def default_root() -> str:
    """Return where the store is when nothing is said: ``$VRFSTORE_HOME``, else the user's data directory."""
    home = os.environ.get("VRFSTORE_HOME")
    if home:
        return os.path.abspath(home)
    from platformdirs import user_data_dir  # noqa: PLC0415 - not needed where VRFSTORE_HOME is set

    return user_data_dir("vrfstore", appauthor=False)


@dataclass(frozen=True, slots=True)
class Added:
    """What ``Store.add`` did.

    Attributes:
        plan: The entry.
        new: Whether it was unpacked now, or there already.
    """

    plan: EntryPlan
    new: bool


@dataclass(frozen=True, slots=True)
class Store:
    """A store that has been opened. Make one with ``Store.open``; it needs no closing."""

    layout: Layout

    @property
    def root(self) -> str:
        """The store's absolute path."""
        return self.layout.root

    @classmethod
    def open(cls, root: str | os.PathLike[str] | None = None) -> Store:
        """Open the store at ``root``, and make it where there is none yet.

        Args:
            root: Its directory; by default ``$VRFSTORE_HOME``, else the user's data directory.

        Raises:
            StoreError: It cannot be made, read or written, is of an unknown format, or the directory is
                somebody else's.
        """
        layout = Layout(os.path.abspath(os.fspath(root)) if root is not None else default_root())
        try:
            _prepare(layout)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}:
                raise
            raise StoreError(
                f"the store at {layout.root} cannot be used: {error.strerror}",
                kind="store-access",
                path=layout.root,
                hint="choose a directory that you may write with --store or VRFSTORE_HOME",
            ) from error
        return cls(layout)

    def session(self) -> Lease:
        """Take a lease that protects nothing but what its holder stages; use it in a ``with`` statement."""
        return leases.take(self.layout)

    def add(
        self,
        wheel: str | os.PathLike[str],
        expected_digest: Digest | None = None,
    ) -> Added:
        """Unpack a wheel file into its entry, unless it is there.

        The file is copied while its digest is computed, so that it cannot change between that and unpacking.

        Raises:
            WheelError: It cannot be read, is not acceptable, or not the one expected. Nothing is left behind.
            OSError: The store cannot be written.
        """
        source = os.fspath(wheel)
        with self.session() as lease:
            with _open_wheel(source) as stream:
                temporary, digest = self.receive(lease, iter(lambda: stream.read(_CHUNK), b""))
            try:
                if expected_digest is not None and digest != expected_digest:
                    raise WheelError(
                        f"the file has SHA-256 {digest}, expected was {expected_digest}",
                        kind="hash-mismatch",
                        path=source,
                    )
                return self.ingest(lease, temporary, os.path.basename(source), digest)
            finally:
                fs.remove_file(temporary)

    def receive(self, lease: Lease, chunks: Iterable[bytes]) -> tuple[str, Digest]:
        """Write bytes to a file in tmp/ as they come; return its path and its SHA-256.

        Whatever goes wrong while they come, nothing is left behind.
        """
        temporary = self.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
        sha256 = hashlib.sha256()
        try:
            with fs.NewFile(temporary) as file:
                for chunk in chunks:
                    sha256.update(chunk)
                    file.write(chunk)
        except BaseException:
            fs.remove_file(temporary)
            raise
        return temporary, Digest(sha256.hexdigest())

    def ingest(self, lease: Lease, path: str, filename: str, digest: Digest) -> Added:
        """Unpack the private file at ``path``, known to have this digest, unless its entry is there.

        Raises:
            WheelError: The wheel is not acceptable. Nothing is left behind.
        """
        with self.hold_entry(digest):
            return self.ingest_held(lease, path, filename, digest)

    def hold_entry(
        self,
        digest: Digest,
        on_wait: Callable[[], None] | None = None,
        stopped: Callable[[], bool] | None = None,
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the making of one entry, so that it is fetched and unpacked once. Never hold two at a time."""
        return hold(self.layout.of("holds", shard("entry", digest)), on_wait=on_wait, stopped=stopped)

    def ingest_held(self, lease: Lease, path: str, filename: str, digest: Digest) -> Added:
        """Do as ``ingest``; the caller has ``hold_entry``."""
        from vrfstore.store.ingest import stage  # noqa: PLC0415 - installer, packaging and zipfile: only ingest pays
        from vrfstore.store.wheel import parse_filename  # noqa: PLC0415

        name, version = (str(part) for part in parse_filename(filename)[:2])
        present = self.entry(digest, name, version)
        if present is not None:
            return Added(present, new=False)
        directory = next(
            candidate
            for candidate in _candidates(digest, name, version)
            if not os.path.lexists(self.layout.of("entries", candidate))
        )
        staging = self.layout.of("entries", f"{STAGING_PREFIX}{lease.id}.{fs.unique_name()}")
        reference = EntryReference(digest=digest, name=name, version=version, directory=directory)
        try:
            plan = stage(path, filename, reference, staging)
            fs.sync_filesystem(self.layout.of("entries"))
            fs.change_mode(staging, 0o555)
            fs.rename(staging, self.layout.of("entries", directory))
        except BaseException:
            fs.remove_tree(staging)
            raise
        return Added(plan, new=True)

    def await_entries(self, wheels: Iterable[tuple[Digest, str, str]]) -> None:
        """Return when none of these entries (digest, name, version) is condemned; the caller has leased them.

        Whichever of them is there after that stays as long as the lease.

        Raises:
            BusyError: A collector has been at work on one of them for two seconds.
        """
        names = {f"entries/{candidate}" for wheel in wheels for candidate in _candidates(*wheel)}
        condemned.wait_until_clear(self.layout, names)

    def entry(self, digest: Digest, name: str, version: str) -> EntryPlan | None:
        """Return the plan of an entry, if that is in the store.

        Raises:
            StoreDamagedError: It is there, but its plan cannot be read.
        """
        for directory in _candidates(digest, name, version):
            try:
                plan = self.plan(directory)
            except FileNotFoundError:
                return None
            if plan.reference.digest == digest:
                return plan
        return None

    def plan(self, directory: str) -> EntryPlan:
        """Return the plan of the entry with this directory name.

        Raises:
            FileNotFoundError: There is no such entry.
            StoreDamagedError: Its plan is missing or cannot be read.
        """
        path = f"{self.layout.of('entries', directory)}/plan.json"
        try:
            try:
                data = fs.read_file(path)
            except FileNotFoundError:
                # Where the entry has been published since we looked, the second look finds its plan.
                data = fs.read_file(path)
            return plan_from_json(codec.loads(data))
        except FileNotFoundError:
            if os.path.isdir(os.path.dirname(path)):
                raise _damaged("the plan is missing", path) from None
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(f"the plan cannot be read: {error}", path) from error

    def manifest_hashes(self, directory: str) -> dict[str, str]:
        """Return the SHA-256 of each file of an entry by its path.

        Raises:
            StoreDamagedError: The manifest is missing or cannot be read.
        """
        path = f"{self.layout.of('entries', directory)}/manifest.json"
        return {str(file[0]): str(file[3]) for file in self._manifest(path)["files"]}

    def _manifest(self, path: str) -> dict[str, list[list[object]]]:
        try:
            value: dict[str, list[list[object]]] = codec.loads(fs.read_file(path))
        except (OSError, ValueError) as error:
            raise _damaged(f"the manifest cannot be read: {error}", path) from error
        return value

    def entries(self) -> list[str]:
        """Return the directory names of all published entries, sorted."""
        return _published(self.layout.of("entries"))

    def environments(self) -> list[str]:
        """Return the directory names of all published environments, sorted."""
        return _published(self.layout.of("environments"))

    def record(self, directory: str) -> records.EnvironmentRecord:
        """Return the record of an environment; see ``records.read``."""
        return records.read(self.layout, directory)

    def usable_environment(self, key: str) -> tuple[records.EnvironmentRecord | None, int]:
        """Return the environment of a key that may be handed out, and the generation to make where there is none.

        The caller has a lease on the key. Generations that somebody changed by hand, or whose record cannot be
        read, are passed over.
        """
        for generation in itertools.count():
            directory = environment_directory(key, generation)
            # In this order: see store.condemned.
            fs.stamp(self.layout.record(directory))
            condemned.wait_until_clear(self.layout, {f"environments/{directory}"})
            try:
                record = self.record(directory)
            except FileNotFoundError:
                return None, generation
            except StoreDamagedError:
                continue
            if records.unchanged(self.layout, record):
                return record, generation
        raise AssertionError

    @contextlib.contextmanager
    def hold_request(self, digest: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the resolving of one request, so that it is resolved once however many ask."""
        with hold(self.layout.of("holds", shard("request", digest)), on_wait=on_wait):
            yield

    @contextlib.contextmanager
    def hold_environment(self, key: str) -> Iterator[None]:
        """Hold the making of one environment."""
        with hold(self.layout.of("holds", shard("environment", key))):
            yield


def _open_wheel(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise WheelError(
            f"the file cannot be read: {error.strerror}", kind="wheel-unreadable", path=path
        ) from error


def _candidates(digest: Digest, name: str, version: str) -> Iterator[str]:
    for length in DIGEST_LENGTHS:
        yield entry_directory(digest, name, version, length=length)


def _published(path: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if not name.startswith((STAGING_PREFIX, DEAD_PREFIX)))


def _damaged(message: str, path: str) -> StoreDamagedError:
    directory = os.path.dirname(path)
    return StoreDamagedError(
        message,
        path=path,
        hint=f"remove it with: chmod -R u+w {directory} && rm -r {directory}; then link again",
    )


def _prepare(layout: Layout) -> None:
    """Make what of a store is not there yet, and refuse what is not ours.

    Raises:
        StoreError: Unknown format, or a directory of somebody else's.
    """
    if not os.path.lexists(layout.marker):
        os.makedirs(layout.root, exist_ok=True)
        strangers = [
            name
            for name in os.listdir(layout.root)
            if not name.startswith(("store.json", ".store.", "lost+found"))
        ]
        # Another process may just be making this very store: then the marker came before the strangers.
        if strangers and not os.path.lexists(layout.marker):
            raise StoreError(
                f"{layout.root} is not empty and not a store",
                kind="store-foreign",
                path=layout.root,
                hint="choose an empty or a new directory",
            )
        temporary = f"{layout.root}/.store.{fs.unique_name()}"
        marker = codec.dumps({"format": FORMAT, "id": fs.unique_name()})
        fs.write_file(temporary, marker, sync=True)
        # link(2), not rename(2): whoever is first has made the store, and its id stays. Where there is a store
        # by now, a gc may have taken our file for a leftover.
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.link(temporary, layout.marker)
        fs.remove_file(temporary)
    _check_format(layout)
    for part in SUBDIRECTORIES:
        try:
            os.mkdir(layout.of(part))
        except FileExistsError:
            if not os.path.isdir(layout.of(part)):
                raise
    if not os.access(layout.of("tmp"), os.W_OK):
        raise PermissionError(errno.EACCES, "it may only be read", layout.root)
    condemned.preallocate(layout)


def _check_format(layout: Layout) -> None:
    try:
        found = codec.loads(fs.read_file(layout.marker))["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            "store.json cannot be read",
            kind="store-format",
            path=layout.marker,
            hint="restore it from a backup",
        ) from error
    if found != FORMAT:
        raise StoreError(
            f"the store has format {found!r}; this version of vrfstore knows {FORMAT}",
            kind="store-format",
            path=layout.marker,
            hint="use the vrfstore that made it, or another --store",
        )
