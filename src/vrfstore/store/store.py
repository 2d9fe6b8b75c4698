"""The handle on a store: open it, add wheels to it, look at what is there."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError, StoreError, UsageError, VrfstoreError, WheelError
from vrfstore.model import Digest, EntryPlan, EntryReference
from vrfstore.store import ballast, condemned, leases, records
from vrfstore.store.durability import GroupSync
from vrfstore.store.entry_plan import DAMAGED, plan_from_json
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
from vrfstore.store.manifest import Manifest
from vrfstore.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from vrfstore.store.ingest import Job, Staged
    from vrfstore.store.zip_structure import Limits

__all__ = ["Added", "Store", "check_parts", "check_whole", "default_root"]

_CHUNK = 1 << 18

_COLLECTED = 8
"""How many generations that are not there are passed over in search of one that stands."""

_LOCK = re.compile(r"[0-9a-f]{64}\.toml", re.ASCII)


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
        warnings: What is odd about the wheel, in words; empty where it was there already.
    """

    plan: EntryPlan
    new: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Store:
    """A store that has been opened. Make one with ``Store.open``; it needs no closing.

    Attributes:
        layout: Where everything is.
        durable: Whether entries are brought onto the disk before they are published.
    """

    layout: Layout
    durable: bool = True
    _group: GroupSync = field(default_factory=GroupSync, repr=False, compare=False)

    @property
    def root(self) -> str:
        """The store's absolute path."""
        return self.layout.root

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str] | None = None,
        *,
        durable: bool = True,
        to_look: bool = False,
        to_make: bool = True,
    ) -> Store:
        """Open the store at ``root``, and make it where there is none yet.

        Args:
            root: Its directory; by default ``$VRFSTORE_HOME``, else the user's data directory.
            durable: Bring entries onto the disk before they are published; without, a power cut may leave
                damaged ones.
            to_look: Nothing will be changed: there has to be a store, which may be one that may only be read, or
                another user's.
            to_make: Where there is no store, one is wanted.

        Raises:
            StoreError: It cannot be made, read or written, is of an unknown format, or the directory is
                somebody else's.
        """
        layout = Layout(os.path.abspath(os.fspath(root)) if root is not None else default_root())
        try:
            if (to_look or not to_make) and not os.path.lexists(layout.marker):
                raise _missing(layout)
            _prepare(layout, to_look=to_look)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}:
                raise
            raise StoreError(
                f"the store at {layout.root} cannot be used: {error.strerror}",
                kind="store-access",
                path=layout.root,
                hint="choose a directory that you may write with --store or VRFSTORE_HOME",
            ) from error
        return cls(layout, durable)

    def session(self) -> Lease:
        """Take a lease that protects nothing but what its holder stages; use it in a ``with`` statement."""
        return leases.take(self.layout)

    def add(
        self,
        wheel: str | os.PathLike[str],
        expected_digest: Digest | None = None,
        limits: Limits | None = None,
    ) -> Added:
        """Unpack a wheel file into its entry, unless it is there.

        The file is copied while its digest is computed, so that it cannot change between that and unpacking.

        Args:
            wheel: The file.
            expected_digest: What its SHA-256 has to be.
            limits: What is too much; by default what ``Limits`` says.

        Raises:
            WheelError: It cannot be read, is not acceptable, or not the one expected. Nothing is left behind.
            OSError: The store cannot be written.
        """
        with self.session() as lease:
            return self._add(lease, os.fspath(wheel), expected_digest, limits)

    def add_all(
        self, wheels: Sequence[str | os.PathLike[str]], limits: Limits | None = None
    ) -> list[Added | VrfstoreError]:
        """Unpack many wheel files, in parallel and the largest first.

        Returns:
            What became of each, in the order given: a refused wheel does not keep the others out.

        Raises:
            OSError: The store cannot be written.
        """
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for many wheels only

        from vrfstore.store.unpacking import Unpackers  # noqa: PLC0415
        from vrfstore.threads import outcomes  # noqa: PLC0415 - as above

        def add(number: int) -> Added | VrfstoreError:
            try:
                return self._add(lease, os.fspath(wheels[number]), None, limits, unpackers.stage)
            except VrfstoreError as error:
                return error

        def size(number: int) -> int:
            with contextlib.suppress(OSError):
                return os.path.getsize(wheels[number])
            return 0

        processors = len(os.sched_getaffinity(0))
        with (
            self.session() as lease,
            # One reads while the others unpack.
            ThreadPoolExecutor(processors + 1, thread_name_prefix="add") as pool,
            Unpackers(lease, min(processors, len(wheels))) as unpackers,
        ):
            order = sorted(range(len(wheels)), key=size, reverse=True)
            done = dict(zip(order, outcomes(pool, add, order), strict=True))
        return [done[number] for number in range(len(wheels))]

    def _add(
        self,
        lease: Lease,
        source: str,
        expected_digest: Digest | None,
        limits: Limits | None,
        unpack: Callable[[Job], Staged] | None = None,
    ) -> Added:
        with _open_wheel(source) as stream:
            temporary, digest = self.receive(lease, _chunks(stream, source))
        try:
            if expected_digest is not None and digest != expected_digest:
                raise WheelError(
                    f"the file has SHA-256 {digest}, expected was {expected_digest}",
                    kind="hash-mismatch",
                    path=source,
                )
            with self.hold_entry(digest):
                return self.ingest_held(
                    lease,
                    temporary,
                    os.path.basename(source),
                    digest,
                    origin=os.path.abspath(source),
                    limits=limits,
                    unpack=unpack,
                )
        finally:
            fs.remove_file(temporary)

    def receive(self, lease: Lease, chunks: Iterable[bytes]) -> tuple[str, Digest]:
        """Write bytes to a file in tmp/ as they come; return its path and its SHA-256.

        Whatever goes wrong while they come, nothing is left behind.
        """
        temporary = self.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
        import hashlib  # noqa: PLC0415 - OpenSSL, for what comes from outside

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

    def hold_entry(
        self,
        digest: Digest,
        on_wait: Callable[[], None] | None = None,
        stopped: Callable[[], bool] | None = None,
        attend: Callable[[], None] | None = None,
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the making of one entry, so that it is fetched and unpacked once. Never hold two at a time."""
        path = self.layout.of("holds", shard("entry", digest))
        return hold(path, on_wait=on_wait, stopped=stopped, attend=attend)

    def ingest_held(
        self,
        lease: Lease,
        path: str,
        filename: str,
        digest: Digest,
        *,
        origin: str = "",
        limits: Limits | None = None,
        unpack: Callable[[Job], Staged] | None = None,
    ) -> Added:
        """Unpack the private file at ``path``, known to have this digest, unless its entry is there.

        Args:
            lease: Names what is on its way.
            path: The wheel; nobody else changes it.
            filename: Its file name.
            digest: Its SHA-256; the caller has ``hold_entry`` for it.
            origin: Where it came from; see ``Manifest``.
            limits: What is too much; by default what ``Limits`` says.
            unpack: What stages the wheel; by default ``ingest.stage``, here and now.

        Raises:
            WheelError: The wheel is not acceptable. Nothing is left behind.
        """
        from vrfstore.store import modules  # noqa: PLC0415 - it imports this
        from vrfstore.store.wheel import parse_filename  # noqa: PLC0415 - installer, packaging, zipfile

        name, version = (str(part) for part in parse_filename(filename)[:2])
        present = self.entry(digest, name, version)
        if present is not None:
            return Added(present, new=False)
        directory = self.free_directory(digest, name, version)
        reference = EntryReference(digest=digest, name=name, version=version, directory=directory)
        staging, staged = self.stage(
            lease, path, filename, reference, origin=origin, limits=limits, unpack=unpack
        )
        self.publish(staging, directory)
        modules.note(self.layout, staged.plan)
        return Added(staged.plan, new=True, warnings=staged.warnings)

    def stage(
        self,
        lease: Lease,
        path: str,
        filename: str,
        reference: EntryReference,
        *,
        origin: str = "",
        limits: Limits | None = None,
        unpack: Callable[[Job], Staged] | None = None,
    ) -> tuple[str, Staged]:
        """Unpack a wheel beside its place; return the path of what was staged, and what it is.

        Raises:
            WheelError: The wheel is not acceptable. Nothing is left behind.
        """
        from vrfstore.store.ingest import Job, stage  # noqa: PLC0415 - installer, packaging, zipfile
        from vrfstore.store.zip_structure import Limits  # noqa: PLC0415

        staging = self.new_staging(lease)
        job = Job(
            path=path,
            filename=filename,
            origin=origin,
            size=os.path.getsize(path),
            reference=reference,
            staging=staging,
            limits=limits or Limits(),
        )
        try:
            return staging, (unpack or stage)(job)
        except BaseException:
            fs.remove_tree(staging)
            raise

    def new_staging(self, lease: Lease) -> str:
        """Return a path beside the entries for what is being made under a lease; nothing is there yet."""
        staging = self.layout.of("entries", f"{STAGING_PREFIX}{lease.id}.{fs.unique_name()}")
        if self.durable:
            self._group.begin(self.layout.of("entries"), staging)
        return staging

    def free_directory(self, digest: Digest, name: str, version: str) -> str:
        """Return the directory name that a new entry gets; the caller has ``hold_entry``."""
        return next(
            candidate
            for candidate in _candidates(digest, name, version)
            if not os.path.lexists(self.layout.of("entries", candidate))
        )

    def publish(self, staging: str, directory: str) -> None:
        """Give a staged entry its name, once it is on the disk; where that fails, it is removed."""
        try:
            self.settle(staging)
            fs.rename(staging, self.layout.of("entries", directory))
        except BaseException:
            fs.remove_tree(staging)
            raise

    def settle(self, staging: str) -> None:
        """Bring a staged entry onto the disk, and seal its top directory."""
        if self.durable:
            self._group.sync(self.layout.of("entries"), staging)
        fs.change_mode(staging, 0o555)

    def await_entries(self, wheels: Iterable[tuple[Digest, str, str]]) -> None:
        """Return when none of these entries (digest, name, version) is condemned; the caller has leased them.

        Whichever of them is there after that stays as long as the lease.

        Raises:
            BusyError: A collector has been at work on one of them for two seconds.
        """
        names = {f"entries/{candidate}" for wheel in wheels for candidate in _candidates(*wheel)}
        condemned.wait_until_clear(self.layout, names)

    def await_composite(self, reference: EntryReference) -> None:
        """Return when a composite is not condemned; the caller has leased its digest. See ``await_entries``."""
        condemned.wait_until_clear(self.layout, {f"entries/{reference.directory}"})

    def entry(
        self, digest: Digest, name: str, version: str, *, claimed: str = "", shared: str = ""
    ) -> EntryPlan | None:
        """Return the plan of an entry, if that is in the store.

        Args:
            digest: The wheel's.
            name: Its normalised name.
            version: Its version.
            claimed: Of an entry that came with an archive and without its wheel; see ``EntryPlan``.
            shared: Of an entry whose files are in a shared store; see ``EntryPlan``.

        Raises:
            StoreDamagedError: It is there, but its plan cannot be read.
        """
        damaged = None
        for directory in _candidates(digest, name, version):
            try:
                plan = self.plan(directory)
            except FileNotFoundError:
                # A longer name is only there where the shorter one was, when it was made.
                continue
            except StoreDamagedError as error:
                damaged = damaged or error  # maybe another one's, or a mere claim
                continue
            if (plan.reference.digest, plan.claimed, plan.shared) == (digest, claimed, shared):
                return plan
        if damaged is not None:
            raise damaged
        return None

    def plan(self, directory: str, *, even_marked: bool = False) -> EntryPlan:
        """Return the plan of the entry with this directory name.

        Args:
            directory: The entry's directory name.
            even_marked: Also of an entry that a repair has marked as damaged.

        Raises:
            FileNotFoundError: There is no such entry.
            StoreDamagedError: Its plan is missing or cannot be read.
        """
        path = f"{self.layout.of('entries', directory)}/plan.json"
        try:
            value = codec.loads(_plan_data(path))
            if even_marked:
                value = {key: value[key] for key in value if key != DAMAGED}
            return plan_from_json(value)
        except StoreDamagedError as error:
            raise _damaged(error.message, path, kind=error.kind) from error
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(f"the plan cannot be read: {error}", path) from error

    def manifest(self, directory: str) -> Manifest:
        """Return the manifest of an entry.

        Raises:
            StoreDamagedError: It is missing or cannot be read.
        """
        path = f"{self.layout.of('entries', directory)}/manifest.json"
        try:
            return Manifest.from_json(codec.loads(fs.read_file(path)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(f"the manifest cannot be read: {error}", path) from error

    def manifest_hashes(self, directory: str) -> dict[str, str]:
        """Return the SHA-256 of each file of an entry by its path.

        Raises:
            StoreDamagedError: The manifest is missing or cannot be read.
        """
        return {file.path: file.sha256 for file in self.manifest(directory).files}

    def entries(self) -> list[str]:
        """Return the directory names of all published entries, sorted."""
        return _published(self.layout.of("entries"))

    def environments(self) -> list[str]:
        """Return the directory names of all published environments, sorted."""
        return _published(self.layout.of("environments"))

    def locks(self) -> list[str]:
        """Return the digests of all locks, sorted."""
        files = _published(self.layout.of("locks"))
        return [file.removesuffix(".toml") for file in files if _LOCK.fullmatch(file)]

    def find(self, target: str, *, or_lock: bool = False) -> tuple[str, str]:
        """Return what a user means: ``environments``, ``entries`` or ``locks``, and the name there.

        Args:
            target: An environment or entry: its path, its directory name, or the beginning of one.
            or_lock: It may be a lock as well: its path, its digest, or the beginning of one.

        Raises:
            UsageError: It is nothing, or several things.
        """
        wanted = os.path.basename(target.rstrip("/"))
        parts = [("environments", self.environments()), ("entries", self.entries())]
        if or_lock:
            parts.append(("locks", self.locks()))
            wanted = wanted.removesuffix(".toml")
        found = [
            (part, name) for part, names in parts for name in names if wanted and name.startswith(wanted)
        ]
        exact = [(part, name) for part, name in found if name == wanted]
        if len(exact or found) != 1:
            problem = f"may be any of {len(found)} things" if found else "is not in the store"
            raise UsageError(f"{target!r} {problem}", kind="target-unknown", hint="see: vrfstore list")
        return (exact or found)[0]

    def record(self, directory: str) -> records.EnvironmentRecord:
        """Return the record of an environment; see ``records.read``."""
        return records.read(self.layout, directory)

    def usable_environment(self, key: str) -> tuple[records.EnvironmentRecord | None, int]:
        """Return the environment of a key that may be handed out, and the generation to make where there is none.

        The caller has a lease on the key. Generations that somebody changed by hand, or whose record cannot be
        read, are passed over, and are not used thereby: they become due. So are some that have been collected, after
        which a later one may stand.
        """
        free: int | None = None
        for generation in itertools.count():
            directory = environment_directory(key, generation)
            # Whatever is there after this stays as long as the lease: see store.condemned.
            condemned.wait_until_clear(self.layout, {f"environments/{directory}"})
            try:
                record = self.record(directory)
            except FileNotFoundError:
                free = generation if free is None else free
                if generation - free >= _COLLECTED:
                    return None, free
                continue
            except StoreDamagedError:
                continue
            if records.unchanged(self.layout, record):
                fs.stamp(self.layout.record(directory))
                return record, generation
        raise AssertionError

    @contextlib.contextmanager
    def hold_request(
        self, digest: str, on_wait: Callable[[], None], attend: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Hold the resolving of one request, so that it is resolved once however many ask."""
        with hold(self.layout.of("holds", shard("request", digest)), on_wait=on_wait, attend=attend):
            yield

    def hold_building(
        self, key: str, on_wait: Callable[[], None], attend: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the fetching of all that an environment needs. Only before any hold of an entry, a request or it."""
        return hold(self.layout.of("holds", shard("building", key)), on_wait=on_wait, attend=attend)

    @contextlib.contextmanager
    def hold_environment(self, key: str) -> Iterator[None]:
        """Hold the making of one environment."""
        with hold(self.layout.of("holds", shard("environment", key))):
            yield


def _open_wheel(path: str) -> BinaryIO:
    try:
        return fs.open_regular(path)
    except OSError as error:
        raise WheelError(
            f"the file cannot be read: {error.strerror}", kind="wheel-unreadable", path=path
        ) from error


def _chunks(stream: BinaryIO, path: str) -> Iterator[bytes]:
    try:
        yield from iter(lambda: stream.read(_CHUNK), b"")
    except OSError as error:
        raise WheelError(
            f"the file cannot be read: {error.strerror}", kind="wheel-unreadable", path=path
        ) from error


def _candidates(digest: Digest, name: str, version: str) -> Iterator[str]:
    for length in DIGEST_LENGTHS:
        yield entry_directory(digest, name, version, length=length)


def _published(path: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if not name.startswith((STAGING_PREFIX, DEAD_PREFIX)))


def _plan_data(path: str) -> bytes:
    """Return what is in a plan.

    Raises:
        FileNotFoundError: There is no such entry.
        StoreDamagedError: There is one, without a plan.
    """
    entry = os.path.dirname(path)
    try:
        return fs.read_file(path)
    except FileNotFoundError:
        if not os.path.isdir(entry):
            raise
    # Either it has been published since we looked, and its plan with it, or it has none.
    try:
        return fs.read_file(path)
    except FileNotFoundError:
        if os.path.isdir(entry):
            raise StoreDamagedError("the plan is missing") from None
        raise


def _damaged(message: str, path: str, kind: str | None = None) -> StoreDamagedError:
    directory = os.path.dirname(path)
    return StoreDamagedError(
        message,
        kind=kind,
        path=path,
        hint=f"mend it with: vrfstore verify --repair {os.path.basename(directory)}",
    )


def _missing(layout: Layout) -> StoreError:
    return StoreError(
        f"there is no store at {layout.root}",
        kind="store-missing",
        path=layout.root,
        hint="the first vrfstore link makes one",
    )


def _prepare(layout: Layout, *, to_look: bool) -> None:
    """Make what of a store is not there yet, and refuse what is not ours.

    Raises:
        StoreError: Unknown format, or a directory of somebody else's.
    """
    if to_look:
        _check_format(layout)
        return
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
    _check_owner(layout)
    for part in SUBDIRECTORIES:
        try:
            os.mkdir(layout.of(part))
        except FileExistsError:
            if not os.path.isdir(layout.of(part)):
                raise
    if not os.access(layout.of("tmp"), os.W_OK):
        raise PermissionError(errno.EACCES, "it may only be read", layout.root)
    condemned.preallocate(layout)
    ballast.preallocate(layout)


def check_whole(layout: Layout) -> None:
    """Refuse a store of which a part is not there: whoever made it was killed, or somebody has removed it.

    Raises:
        StoreError: One of them is missing.
    """
    for part in SUBDIRECTORIES:
        if not os.path.lexists(layout.of(part)):
            raise StoreError(
                f"{part} is missing",
                kind="store-part",
                path=layout.of(part),
                hint="the next vrfstore link makes the directory",
            )


def check_parts(layout: Layout) -> None:
    """Refuse a store of which a part is not a directory of its own: behind a link, a gc would be elsewhere.

    The store itself may be behind a link, and a part may be a mount point.

    Raises:
        StoreError: One of them is missing, a symlink, or no directory at all.
        OSError: One cannot be looked at.
    """
    check_whole(layout)
    for part in SUBDIRECTORIES:
        path = layout.of(part)
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            raise StoreError(
                f"{part} is a symlink, and gc does not leave the store",
                kind="store-part",
                path=path,
                hint=f"put the directory itself in its place, or mount it at {path}",
            )
        if not stat.S_ISDIR(mode):
            raise StoreError(
                f"{part} is no directory",
                kind="store-part",
                path=path,
                hint="move it away; the next vrfstore link makes the directory",
            )


def _check_owner(layout: Layout) -> None:
    """Refuse to let root write into the store of another user, who could not use what root makes there.

    Raises:
        StoreError: We are root, and the store is not root's.
    """
    owner = os.stat(layout.marker).st_uid
    if os.geteuid() == 0 and owner != 0:
        raise StoreError(
            f"the store at {layout.root} belongs to user {owner}, who could not use what root makes in it",
            kind="store-owner",
            path=layout.root,
            hint=f"run it as that user, as in: sudo -u '#{owner}' vrfstore …",
        )


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
