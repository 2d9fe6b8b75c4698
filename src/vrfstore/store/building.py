"""Who builds what, and how far that is: told by whoever builds, read by whoever waits, and by nobody else.

::

    <store>/tmp/<lease id>.progress     JSON; replaced with every step, removed at the end

A file is believed as long as the lease in its name is held. What a kill leaves is litter in tmp/, which gc takes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Self

from vrfstore import codec, fs
from vrfstore.model import Event
from vrfstore.store import leases
from vrfstore.store.layout import Layout
from vrfstore.store.leases import Lease
from vrfstore.units import moment_text, size_text
from vrfstore.values import dataclass

__all__ = ["Builder", "Building", "builder_of"]

_SUFFIX = ".progress"
_PERIOD = 0.25
"""Seconds between two tellings of bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Builder:
    """Somebody who builds.

    Attributes:
        process: The number of the process, in its own pid namespace.
        since: When it began, seconds since the epoch.
        step: What it does now: ``resolving``, ``fetching``, ``linking``, …
        done: How many wheels it has fetched and unpacked.
        total: Of how many; 0 where that is not known yet.
        received: Bytes that it has fetched.
    """

    process: int
    since: float
    step: str
    done: int
    total: int
    received: int

    def __str__(self) -> str:
        if self.total:
            wheels = "wheel" if self.total == 1 else "wheels"
            step = f"fetched {self.done} of {self.total} {wheels}, {size_text(self.received)}"
        else:
            step = self.step
        return f"process {self.process}, which builds this since {moment_text(self.since)}: {step}"


class Building:
    """What one call builds; a ``Watcher``, and used in a ``with`` statement. It never fails: it only tells.

    Args:
        layout: The store's.
        lease: Held for as long as that takes; names the file.
    """

    def __init__(self, layout: Layout, lease: Lease) -> None:
        self._layout = layout
        self._id = lease.id
        self._guard = threading.Lock()
        self._told = 0.0
        self._since = time.time()
        self._subjects: set[str] = set()
        self._step = ""
        self._done = self._total = self._received = 0

    def begin(self, *subjects: str) -> None:
        """Tell what else is built from now on.

        Args:
            subjects: The digest of a request or of a wheel, or the key of an environment.
        """
        with self._guard:
            self._subjects.update(subjects)
            self._tell()

    def __call__(self, event: Event) -> None:
        """Take a step into account."""
        with self._guard:
            match event.kind:
                case "missing":
                    self._step, self._total = "fetching", event.total
                case "received":
                    self._received += event.size
                case "unpacked":
                    self._done += 1
                case "resolving" | "building" | "compiling" | "linking":
                    self._step = f"{event.kind} {event.subject}".rstrip()
                case _:
                    return
            # Bytes come often; of what comes seldom, there may be nothing after it for long.
            often = event.kind == "received" and time.monotonic() - self._told < _PERIOD
            if self._told and not often:
                self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        value = {
            "process": os.getpid(),
            "since": int(self._since * 1000),
            "subjects": sorted(self._subjects),
            "step": self._step,
            "done": self._done,
            "total": self._total,
            "received": self._received,
        }
        temporary = self._layout.of("tmp", f"{self._id}.{fs.unique_name()}")
        # Whoever waits does so without it as well.
        try:
            fs.write_file(temporary, codec.dumps(value))
            fs.rename(temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                fs.remove_file(temporary)

    @property
    def _path(self) -> str:
        return self._layout.of("tmp", f"{self._id}{_SUFFIX}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._guard, contextlib.suppress(OSError):
            if self._told:
                fs.remove_file(self._path)


def builder_of(layout: Layout, subject: str, *, but: str) -> Builder | None:
    """Return who builds something, of several the first that began; None where nobody is known to.

    Args:
        layout: The store's.
        subject: See ``Building.begin``.
        but: The id of the lease of whoever asks, who may be waiting to build it.
    """
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(layout.of("tmp")):
            identity, dot, suffix = name.rpartition(".")
            if dot + suffix == _SUFFIX and identity != but:
                builder = _read(layout, name, subject)
                if builder is not None and _is_held(layout, identity):
                    found.append(builder)
    return min(found, key=lambda builder: builder.since, default=None)


def _is_held(layout: Layout, identity: str) -> bool:
    """Whether the lease of a session counts."""
    return not leases.is_free(layout.of("leases", leases.session_name(identity)))


def _read(layout: Layout, name: str, subject: str) -> Builder | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        value = codec.loads(fs.read_file(layout.of("tmp", name)))
        if subject in value["subjects"]:
            return Builder(
                process=int(value["process"]),
                since=int(value["since"]) / 1000,
                step=codec.text(value["step"]),
                done=int(value["done"]),
                total=int(value["total"]),
                received=int(value["received"]),
            )
    return None
