"""Waiting for somebody else who is building the same: who that is and how far, and not for ever.

A hold is asked for by many; what it is held for, only a ``store.building`` tells. Names of holds are shared by many
digests, so that who holds one need not build the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vrfstore.errors import BusyError
from vrfstore.model import Event, Watcher
from vrfstore.requirements.budget import Budget
from vrfstore.store.building import Builder, builder_of
from vrfstore.store.layout import Layout
from vrfstore.values import dataclass, field

__all__ = ["Waiting"]

_REPEATED = 2.0
"""Seconds between two sayings of how far somebody else is."""

_UNKNOWN = 1.0
"""Seconds after which somebody of whom nothing is known counts as building the same."""


@dataclass(slots=True)
class Waiting:
    """What one call does while it waits; shared by its threads.

    Attributes:
        layout: The store's.
        budget: Whose time it takes.
        watch: Is told how far others are.
        patient: Whether to wait at all.
        path: The file that asks, for an error.
        own: The id of the lease that names what this call builds itself.
    """

    layout: Layout
    budget: Budget
    watch: Watcher
    patient: bool
    path: str
    own: str
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _said: str = ""
    _said_at: float = 0.0

    def attending(self, subject: str) -> Callable[[], None]:
        """Return what to call a few times a second while somebody else builds something (``holds.hold``).

        It raises CapError when the time is over, and BusyError (``building``) where there is no patience.

        Args:
            subject: What is waited for: see ``store.building.Building.begin``.
        """
        began = time.monotonic()

        def attend() -> None:
            self.budget.check()
            now = time.monotonic()
            with self._guard:
                due = now - self._said_at >= _REPEATED
            if self.patient and not due:
                return
            builder = builder_of(self.layout, subject, but=self.own)
            if not self.patient and (builder is not None or now - began >= _UNKNOWN):
                raise self._busy(builder)
            if builder is not None:
                self._say(str(builder), now)

        return attend

    def _say(self, text: str, now: float) -> None:
        with self._guard:
            if text == self._said or now - self._said_at < _REPEATED:
                return
            self._said, self._said_at = text, now
        self.watch(Event(kind="waiting", subject=text))

    def _busy(self, builder: Builder | None) -> BusyError:
        who = "somebody else builds this" if builder is None else str(builder)
        return BusyError(
            who,
            kind="building",
            path=self.path,
            hint="ask again in a while; what has been fetched by then is there. To wait for it, leave out --no-wait",
        )
