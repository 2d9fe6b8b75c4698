"""Where wheels come from: what the downloads of one call share, and what ends them early.

A thread looks at every request that is being made. It cuts the line of what comes too slowly, and all lines once the
time is over; ``Source.stop`` cuts them as well. Whoever was waiting then finds out why.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self
from urllib.parse import SplitResult

import urllib3
import urllib3.exceptions

from vrfstore.errors import PackageIndexError
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.connections import Connections, Line, describe
from vrfstore.requirements.credentials import Credentials, authorization
from vrfstore.requirements.keyring import Keyring, Login
from vrfstore.requirements.patience import Pace, Patience
from vrfstore.requirements.pip import PipSettings

__all__ = ["BrokenError", "Source"]

_CHUNK = 1 << 18
_SMALL_CHUNK = 1 << 14
"""Bytes read at once where they are limited: eight threads together then take less than one chunk too many."""

_UNAUTHORIZED = 401

_OURSELVES = {"User-Agent": "vrfstore"}

_TICK = 0.25
"""Seconds between two looks at what is too slow."""

_SHORTEST = 0.001
"""Seconds of a time-out; none at all would mean something else."""

TRY_AGAIN = "try again; what has been fetched is kept"


class BrokenError(Exception):
    """An attempt did not bring the rest of a wheel.

    Args:
        reason: Why, in words.
        again: Whether another attempt may.
        asked: The seconds that the server asks to wait, if it does.
        kind: See ``VrfstoreError``.
        hint: What to do about it.
    """

    def __init__(
        self,
        reason: str,
        *,
        again: bool,
        asked: float | None = None,
        kind: str = "download-failed",
        hint: str = TRY_AGAIN,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.asked = asked
        self.kind = kind
        self.hint = hint


class Source:
    """What downloads take from; use it in a ``with`` statement, from several threads.

    Attributes:
        budget: What may be taken.
        patience: What is put up with.
        keyring: Who knows that too.
        connections: Those that are kept.
        chunk: Bytes to read at once, at most.

    Args:
        settings: How to reach the indexes.
        budget: See above.
        patience: See above; by default what the settings say.
        workers: How many threads there are.
    """

    def __init__(
        self, settings: PipSettings, budget: Budget, patience: Patience | None = None, *, workers: int = 1
    ) -> None:
        self.budget = budget
        self.patience = patience = patience or Patience.configured(settings.retries)
        self.keyring = Keyring(settings.keyring, self.check)
        self.connections = Connections(settings, workers)
        self.chunk = _CHUNK if budget.caps.received is None else _SMALL_CHUNK
        self._credentials = Credentials(settings.indexes, self.keyring)
        self._timeout = max(settings.timeout, _SHORTEST)
        self._window = max(patience.window, 2 * self._timeout)
        self._stopped = threading.Event()
        self._ended = threading.Event()
        self._guard = threading.Lock()
        self._lines: dict[Line, Pace] = {}
        self._looking: threading.Thread | None = None

    def stopped(self) -> bool:
        """Whether ``stop`` has been called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let everything that is under way, or begins later, fail at once."""
        with self._guard:
            self._stopped.set()
            lines = list(self._lines)
        for line in lines:
            line.cut()

    def check(self) -> None:
        """Look whether there is a reason to go on.

        Raises:
            PackageIndexError: ``stop`` has been called.
            CapError: The time is over.
        """
        if self._stopped.is_set():
            raise PackageIndexError("fetching was stopped", kind="download-stopped")
        self.budget.check()

    def timeout(self) -> float:
        """Return the seconds for one operation of a socket: as configured, or what is left of all time."""
        left = self.budget.remaining()
        return self._timeout if left is None else max(min(self._timeout, left), _SHORTEST)

    def pause(self, seconds: float) -> None:
        """Wait before another attempt.

        Raises:
            PackageIndexError: ``stop`` has been called.
            CapError: There is not that much time.
        """
        left = self.budget.remaining()
        if left is not None and seconds >= left:
            raise self.budget.out_of_time()
        self._stopped.wait(seconds)
        self.check()

    @contextmanager
    def attending(self) -> Iterator[tuple[Line, Pace]]:
        """Give the line and the pace of one attempt, which ends early where it is stopped, too slow or too late.

        Raises:
            BrokenError: The network failed in the block, or was too slow.
            PackageIndexError, CapError: See ``check``.
        """
        line = Line()
        pace = Pace(self.patience.slowest, self._window)
        with self._guard:
            self.check()
            self._lines[line] = pace
            if self._looking is None:
                self._looking = threading.Thread(target=self._look, name="fetch-pace", daemon=True)
                self._looking.start()
        try:
            yield line, pace
        except (urllib3.exceptions.HTTPError, OSError) as error:
            # Whoever cut the line had a reason, and what came of it is none.
            self.check()
            if pace.too_slow:
                raise self.too_slow() from error
            reason, again = describe(error)
            raise BrokenError(reason, again=again) from error
        finally:
            with self._guard:
                del self._lines[line]

    def ask(
        self,
        url: SplitResult,
        headers: dict[str, str],
        line: Line,
        pace: Pace,
        *,
        known: bool = True,
        method: str = "GET",
    ) -> urllib3.BaseHTTPResponse:
        """Ask for a URL; where it refuses us (RFC 9110, 401) and a keyring knows better, once more.

        Args:
            url: An ``http:`` or ``https:`` URL.
            headers: What is sent beside who we are, as a program and as a user.
            line: Is told the socket.
            pace: Is told when the network is waited for, which a keyring is not.
            known: Whether it may learn who we are.
            method: See ``Connections.request``.

        Raises:
            urllib3.exceptions.HTTPError, OSError: There is no answer.
            PackageIndexError, CapError: See ``check``.
        """

        def once(who: Login | None) -> urllib3.BaseHTTPResponse:
            pace.wait()
            sent = _OURSELVES | headers | ({} if who is None else authorization(who))
            answer = self.connections.request(url.geturl(), sent, line, self.timeout(), method=method)
            pace.take(0)
            return answer

        who = self._credentials.to(url) if known else None
        answer = once(who)
        if answer.status != _UNAUTHORIZED or not known:
            return answer
        try:
            other = self._credentials.instead_of(who, url)
        except BaseException:
            answer.close()
            raise
        if other is None:
            return answer
        # Its connection is not worth reading for: the answer may be of any length.
        answer.close()
        answer.release_conn()
        return once(other)

    def told(self, url: SplitResult) -> Login | None:
        """Return what a keyring has said of us to whom a URL leads; None where none was asked, or knew."""
        return self._credentials.told(url)

    def too_slow(self) -> BrokenError:
        """Return the error of what comes too slowly."""
        return BrokenError(
            f"less than {self.patience.slowest} bytes came in each second of {self._window:g}", again=True
        )

    def _look(self) -> None:
        """Cut what is too slow, and everything once the time is over; those who read from it say so."""
        while not self._ended.wait(_TICK):
            over = self.budget.remaining() == 0
            with self._guard:
                lines = list(self._lines.items())
            for line, pace in lines:
                if over or pace.too_slow:
                    line.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._looking is not None:
            self._looking.join()
        self.connections.close()
