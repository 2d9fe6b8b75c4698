"""What one call may take: packages, bytes and time. Enforced while it is being taken, not afterwards.

A budget is shared by all threads of a call. Whatever reaches for more than is left raises ``CapError``, and from then
on everybody's next step does: a cap that was hit ends the call, and not only the one thread that met it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vrfstore.errors import CapError
from vrfstore.values import dataclass

__all__ = ["Budget", "Caps"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Caps:
    """Limits of one call; None where there is none.

    Attributes:
        seconds: For all of it.
        packages: How many distributions an environment may have beside those of the base.
        received: Bytes that may be fetched.
        unpacked: Bytes that new wheels may unpack to, all together.
    """

    seconds: float | None = None
    packages: int | None = None
    received: int | None = None
    unpacked: int | None = None


class Budget:
    """The caps of a call, and what has been taken of them. Time runs from when this is made."""

    def __init__(self, caps: Caps = Caps(), *, now: Callable[[], float] = time.monotonic) -> None:  # noqa: B008 - frozen
        self._caps = caps
        self._now = now
        self._end = None if caps.seconds is None else now() + caps.seconds
        self._guard = threading.Lock()
        self._received = 0
        self._unpacked = 0

    @property
    def caps(self) -> Caps:
        """The limits."""
        return self._caps

    def remaining(self) -> float | None:
        """Return how many seconds are left, never less than 0; None where time is not limited."""
        return None if self._end is None else max(0.0, self._end - self._now())

    def check(self) -> None:
        """Look at the clock.

        Raises:
            CapError: The time is over (``max-time``).
        """
        if self._end is not None and self._now() >= self._end:
            raise self.out_of_time()

    def out_of_time(self) -> CapError:
        """Return the error for a call that takes too long."""
        return CapError(
            f"it cannot be done within {self._caps.seconds:g} s, which is the limit",
            kind="max-time",
            hint="what has been fetched is kept; try again, or allow more with --timeout",
        )

    def packages(self, number: int) -> None:
        """Take a number of packages.

        Raises:
            CapError: There are too many (``max-packages``).
        """
        limit = self._caps.packages
        if limit is not None and number > limit:
            raise CapError(
                f"{number} packages are needed, and {limit} are allowed",
                kind="max-packages",
                hint="ask for less, or allow more with --max-packages",
            )

    def foresee(self, size: int) -> None:
        """Look whether a number of bytes that are said to come would be too many; takes nothing.

        Raises:
            CapError: They would be (``max-bytes``).
        """
        with self._guard:
            self._check_received(self._received + size)

    def receive(self, size: int) -> None:
        """Take bytes that have arrived.

        Raises:
            CapError: They are too many (``max-bytes``), or the time is over.
        """
        self.check()
        with self._guard:
            self._received += size
            self._check_received(self._received)

    def unpack(self, size: int) -> None:
        """Take bytes that are about to be unpacked.

        Raises:
            CapError: They are too many (``max-unpacked``), or the time is over.
        """
        self.check()
        limit = self._caps.unpacked
        with self._guard:
            self._unpacked += size
            if limit is not None and self._unpacked > limit:
                raise CapError(
                    f"what is needed unpacks to more than {limit} bytes, which is the limit",
                    kind="max-unpacked",
                    hint="ask for less, or allow more with --max-unpacked",
                )

    def _check_received(self, size: int) -> None:
        limit = self._caps.received
        if limit is not None and size > limit:
            raise CapError(
                f"more than {limit} bytes would have to be fetched, which is the limit",
                kind="max-bytes",
                hint="ask for less, or allow more with --max-bytes",
            )
