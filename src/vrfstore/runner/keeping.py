"""What keeps an environment from gc once it is linked: a lease, and its place as the newest of a project.

In the order of docs/design.md, "Use, leases and collection": ``keep`` writes, and whoever called it looks afterwards
whether the environment is there, or has had a lease on it all the time.
"""

from __future__ import annotations

from vrfstore.errors import UsageError
from vrfstore.store import leases
from vrfstore.store.leases import UNSEEN, Lease
from vrfstore.store.machine import Machine, Process
from vrfstore.store.store import Store
from vrfstore.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["LONGEST", "Keeping"]

LONGEST = 3650 * 86400.0
"""Seconds that a lease until a time may be asked for: ten years. What is to stay for longer is pinned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeping:
    """What is wanted.

    Attributes:
        held: A lease that ends with this process and all that inherit its descriptor.
        process: One that ends with this other process.
        seconds: One that ends after so long; with ``process``, how long that one holds where it cannot be seen.
        root: The project to record the environment under.
    """

    held: bool = False
    process: Process | None = None
    seconds: float | None = None
    root: str | None = None

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        lease: bool,
        pid: int | None,
        seconds: float | None,
        root: str | None,
        into: bool,
    ) -> Self:
        """Check what is asked for, before anything is done for it.

        Args:
            store: The store.
            lease: Whether a held lease is wanted.
            pid: The number of the process of another one.
            seconds: How long another one is to last.
            root: The name of a project.
            into: Whether the environment is one of the caller's own.

        Raises:
            UsageError: It makes no sense: there is no such process or time; the name is no name or a pin's; nothing
                but a held lease is for an environment of one's own, or goes together with one.
            StoreDamagedError: The record of the project cannot be read.
        """
        others = pid is not None or seconds is not None
        if into and (others or root is not None):
            raise UsageError(
                "--root and --lease-… are for environments of the store",
                kind="options-conflict",
                hint="leave them out: an environment of your own stays until you remove it",
            )
        if lease and others:
            raise UsageError(
                "one lease at a time: lease, or lease_pid and lease_ttl", kind="options-conflict"
            )
        if seconds is not None and not 0 < seconds <= LONGEST:
            raise UsageError(
                f"a lease cannot last for {seconds:.0f} seconds",
                kind="lease-ttl",
                hint="more than none, and up to 3650 days; to keep it for longer, use --root NAME",
            )
        process = None if pid is None else _process(pid)
        if root is not None:
            from vrfstore.gc import roots  # noqa: PLC0415 - only who asks for it pays

            roots.check_project(store, root)
        return cls(held=lease, process=process, seconds=seconds, root=root)

    @property
    def nothing(self) -> bool:
        """Whether nothing is wanted."""
        return not self.held and self.process is None and self.seconds is None and self.root is None

    def keep(self, store: Store, directory: str) -> Lease | None:
        """Keep an environment; return its lease, if one is wanted, which is the caller's to release.

        Args:
            store: The store.
            directory: The environment's directory name.

        Raises:
            UsageError: Its project's name has become a pin's.
            OSError: The store cannot be written.
        """
        kept = self._lease(store, directory.partition(".")[0])
        try:
            if self.root is not None:
                from vrfstore.gc import roots  # noqa: PLC0415

                roots.record(store, self.root, directory)
        except BaseException:
            if kept is not None:
                kept.release()
            raise
        return kept

    def _lease(self, store: Store, key: str) -> Lease | None:
        if self.held:
            return leases.take(store.layout, environment=key)
        if self.process is not None:
            unseen = UNSEEN if self.seconds is None else self.seconds
            return leases.take_for_process(store.layout, self.process, environment=key, unseen=unseen)
        return (
            None if self.seconds is None else leases.take_until(store.layout, self.seconds, environment=key)
        )


def _process(pid: int) -> Process:
    """Return a process that runs.

    Raises:
        UsageError: There is none of this number, or it cannot be told which one it is.
    """
    try:
        found = Machine().process(pid)
    except OSError as error:
        raise UsageError(
            f"which process {pid} is cannot be told: {error.strerror}",
            kind="lease-process",
            path=error.filename,
            hint="use --lease-ttl alone",
        ) from error
    if found is None or found.ended:
        raise UsageError(
            f"there is no process {pid}", kind="lease-process", hint="give the number of one that runs"
        )
    return found
