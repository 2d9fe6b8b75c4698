"""From a lock to entries: many wheels at once, each checked while it arrives, each fetched and unpacked once.

However many processes want a wheel, the first to hold its entry fetches it; the others find the entry there. What
one wheel costs in requests is for ``download``, what ends all of them early for ``source``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from threading import Semaphore
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from vrfstore import fs
from vrfstore.errors import WheelError
from vrfstore.model import Digest, EntryPlan, Event, LockedWheel, Watcher
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.patience import Patience
from vrfstore.requirements.pip import PipSettings
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.values import dataclass, field

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vrfstore.requirements.source import Source
    from vrfstore.store.ingest import Job, Staged
    from vrfstore.store.unpacking import Unpackers

__all__ = ["Fetched", "chunks", "fetch", "present"]

_CONNECTIONS = 8
"""Wheels that are received at a time."""

_WORKERS = 32
"""Wheels that are anywhere between being asked for and being published: while some are received, others are unpacked
or wait for the disk, of which one sync serves all that wait."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A wheel of a lock that is an entry now.

    Attributes:
        plan: The entry.
        size: Bytes that were fetched; 0 where the entry was there.
        warnings: What is odd about the wheel, in words.
    """

    plan: EntryPlan
    size: int
    warnings: tuple[str, ...] = ()


def present(store: Store, wheels: Sequence[LockedWheel]) -> tuple[list[EntryPlan], list[LockedWheel]]:
    """Return the plans of those wheels that are entries already, and those that are not; the caller has leased all.

    Raises:
        BusyError: A collector has been at work on one of them for two seconds.
        StoreDamagedError: One is there, but its plan cannot be read.
    """
    store.await_entries((wheel.digest, wheel.name, wheel.version) for wheel in wheels)
    plans: list[EntryPlan] = []
    missing: list[LockedWheel] = []
    for wheel in wheels:
        plan = store.entry(wheel.digest, wheel.name, wheel.version)
        if plan is None:
            missing.append(wheel)
        else:
            plans.append(plan)
    return plans, missing


def fetch(
    store: Store,
    lease: Lease,
    wheels: Sequence[LockedWheel],
    settings: PipSettings,
    watch: Watcher,
    budget: Budget | None = None,
    patience: Patience | None = None,
    attending: Callable[[Digest], Callable[[], None]] | None = None,
) -> list[Fetched]:
    """Make every wheel an entry; those that came whole stay, whatever becomes of the others.

    Args:
        store: The store.
        lease: Protects the wheels' digests, and names what is on its way.
        wheels: What is missing.
        settings: How to reach the indexes.
        watch: Is told how many are ``missing``, and ``fetching``, ``received``, ``fetched`` and ``unpacked`` of each.
        budget: What may be taken; without one, as much as it takes.
        patience: What is put up with; by default what the settings say.
        attending: Returns what is called while somebody else fetches the wheel of a digest (``holds.hold``).

    Raises:
        CapError: It takes more than the budget has.
        PackageIndexError: A wheel could not be fetched.
        WheelError: One is not what the lock says, or not acceptable.
    """
    budget = budget or Budget()
    budget.check()
    sizes = [wheel.size for wheel in wheels]
    known = sum(size or 0 for size in sizes)
    budget.foresee(known)
    watch(Event(kind="missing", total=len(wheels), size=0 if None in sizes else known))
    # urllib3 takes 60 ms to import, which only fetching pays.
    from vrfstore.requirements.source import Source  # noqa: PLC0415
    from vrfstore.store.unpacking import Unpackers  # noqa: PLC0415

    with (
        Source(settings, budget, patience, workers=_CONNECTIONS) as source,
        Unpackers(lease, min(len(wheels), len(os.sched_getaffinity(0)))) as unpackers,
    ):
        return _fetch_all(_Work(store, lease, source, unpackers, watch, attending), wheels, budget)


def _fetch_all(work: _Work, wheels: Sequence[LockedWheel], budget: Budget) -> list[Fetched]:
    """Make every wheel an entry, in threads; see ``fetch``."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - as above

    with ThreadPoolExecutor(min(_WORKERS, max(len(wheels), 1)), thread_name_prefix="fetch") as pool:
        # The largest takes longest: the others come while it does.
        order = sorted(range(len(wheels)), key=lambda number: -(wheels[number].size or 0))
        futures = {number: pool.submit(work.obtain, wheels[number]) for number in order}
        try:
            _await(futures.values(), budget)
        except BaseException:
            # What is half-way would be fetched for nothing, and whoever pressed Ctrl-C waits for it.
            work.source.stop()
            work.unpackers.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return [futures[number].result() for number in range(len(wheels))]


def _await(futures: Collection[Future[Fetched]], budget: Budget) -> None:
    """Wait until all is done.

    Raises:
        CapError: The time is over, whatever it is that takes so long.
        Exception: The first thing that failed.
    """
    from vrfstore.threads import await_all  # noqa: PLC0415 - concurrent.futures, as above

    if not await_all(futures, budget.remaining()):
        raise budget.out_of_time()


def chunks(
    wheel: LockedWheel,
    settings: PipSettings,
    watch: Watcher,
    budget: Budget | None = None,
    patience: Patience | None = None,
) -> Iterator[bytes]:
    """Yield the bytes of one wheel as they come; nobody has checked them.

    Args:
        wheel: Where it is; what else is known of it, but for its size, may be wrong.
        settings: How to reach the indexes.
        watch: Is told what is ``received``.
        budget: What may be taken; without one, as much as it takes.
        patience: What is put up with; by default what the settings say.

    Raises:
        CapError: It takes more than the budget has.
        PackageIndexError: It could not be fetched.
        WheelError: It is longer than its size says.
        OSError: A local file cannot be read.
    """
    from vrfstore.requirements.download import Download  # noqa: PLC0415 - as above
    from vrfstore.requirements.source import Source  # noqa: PLC0415

    with Source(settings, budget or Budget(), patience) as source:
        yield from Download(source, wheel, watch).chunks()


@dataclass(frozen=True, slots=True)
class _Work:
    """What the threads of one call share."""

    store: Store
    lease: Lease
    source: Source
    unpackers: Unpackers
    watch: Watcher
    attending: Callable[[Digest], Callable[[], None]] | None = None
    connections: Semaphore = field(default_factory=lambda: Semaphore(_CONNECTIONS))

    def obtain(self, wheel: LockedWheel) -> Fetched:
        """Make one wheel an entry."""

        def waiting() -> None:
            self.watch(Event(kind="waiting", subject=f"another vrfstore that fetches {wheel.filename}"))

        attend = None if self.attending is None else self.attending(wheel.digest)
        with self.store.hold_entry(wheel.digest, on_wait=waiting, stopped=self.source.stopped, attend=attend):
            present = self.store.entry(wheel.digest, wheel.name, wheel.version)
            if present is not None:
                self.watch(Event(kind="unpacked", subject=wheel.filename))
                return Fetched(present, 0)
            with self.connections:
                temporary = self._receive(wheel)
            try:
                size = os.path.getsize(temporary)
                self.watch(Event(kind="fetched", subject=wheel.filename, size=size))
                added = self.store.ingest_held(
                    self.lease,
                    temporary,
                    wheel.filename,
                    wheel.digest,
                    # As a lock has it: what gives access is not written down.
                    origin=urlunsplit(urlsplit(wheel.url)._replace(query="")),
                    unpack=self._unpack,
                )
            finally:
                fs.remove_file(temporary)
            self.watch(Event(kind="unpacked", subject=wheel.filename))
            return Fetched(added.plan, size, added.warnings)

    def _receive(self, wheel: LockedWheel) -> str:
        """Fetch a wheel into tmp/ and check its digest.

        Raises:
            WheelError: It is another file.
        """
        from vrfstore.requirements.download import Download  # noqa: PLC0415 - as above

        for last in (False, True):
            download = Download(self.source, wheel, self.watch)
            temporary, digest = self.store.receive(self.lease, download.chunks())
            if digest == wheel.digest:
                return temporary
            fs.remove_file(temporary)
            # Parts may have come of two files: that says nothing of either.
            if last or not download.joined:
                break
        raise WheelError(
            f"what the index sent has SHA-256 {digest}, the lock says {wheel.digest}",
            kind="hash-mismatch",
            path=wheel.filename,
            hint="the index or something on the way changed the file; do not use it",
        )

    def _unpack(self, job: Job) -> Staged:
        budget = self.source.budget
        if budget.caps.unpacked is not None:
            budget.unpack(_declared(job))
        return self.unpackers.stage(job)


def _declared(job: Job) -> int:
    """Return the bytes that a wheel says it unpacks to; whoever unpacks it sees to it that it is not more."""
    from vrfstore.store.zip_structure import StructureError, unpacked_size  # noqa: PLC0415 - zipfile

    try:
        with open(job.path, "rb") as stream:
            return unpacked_size(stream, job.limits)
    except StructureError:
        return 0  # it will be refused
