"""How long fetching keeps at it: what is tried again, after which pause, and what is too slow. Decides only.

::

    answer or failure ──may it pass?──▶ no: the end
                           └─ yes ─▶ pause: 0.25 s, 0.5 s, 1 s …, each up to half shorter by chance;
                                     at least what Retry-After asks for; never more than 10 s
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit

from vrfstore.values import dataclass

__all__ = ["REDIRECTS", "Pace", "Patience", "may_pass", "next_url", "parsed", "retry_after", "same_host"]

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""What a server answers that may answer otherwise in a moment (RFC 9110, RFC 6585)."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""What a server answers that says in ``Location`` where to ask instead (RFC 9110, 15.4)."""

_MOST_DIGITS = 9
"""Of a number of seconds; whatever has more is as good as for ever."""

_MOST_DOUBLED = 30
"""Times that a pause is doubled. No pause is as long as that."""

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How much is put up with for one wheel.

    Attributes:
        attempts: Requests that may fail, redirects not counted.
        first_pause: Seconds after the first failure; each further pause is twice as long.
        longest_pause: Seconds, whatever a server asks for.
        slowest: Bytes for each second of ``window`` that have to come, or the connection is given up.
        window: Seconds of waiting for the network over which that is measured; what we need ourselves to write and
            to hash does not count. At least twice the time-out for one socket operation, if that is longer.
        redirects: How many are followed.
        largest: Bytes of a wheel of which the lock does not say how long it is.
    """

    attempts: int = 4
    first_pause: float = 0.25
    longest_pause: float = 10.0
    slowest: int = 1 << 10
    window: float = 30.0
    redirects: int = 5
    largest: int = 1 << 33

    @classmethod
    def configured(cls, retries: int | None) -> Patience:
        """Return what is put up with where pip is told how often to try again; as usual where it is not.

        To pip that is a number for connecting and for what a server answers, to us for all that may pass.
        """
        return cls() if retries is None else cls(attempts=retries + 1)

    def pause(self, failures: int, asked: float | None, chance: float) -> float:
        """Return how many seconds to wait before the next attempt.

        Args:
            failures: How many attempts have failed; at least 1.
            asked: The seconds that the server asks for, if it does.
            chance: A random number from 0 to 1. Without it, all who failed at once would come back at once.
        """
        own = self.first_pause * 2.0 ** min(failures - 1, _MOST_DOUBLED) * (1 - chance / 2)
        return min(max(own, asked or 0.0), self.longest_pause)


def may_pass(status: int) -> bool:
    """Whether a request that was answered with this status may succeed when it is made again."""
    return status in _PASSING


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` field asks for (RFC 9110, 10.2.3); None where it makes no sense.

    Args:
        value: The field: a number of seconds, or a date.
        now: Seconds since the epoch.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return float(text) if len(text) <= _MOST_DIGITS else float("inf")
    from datetime import UTC  # noqa: PLC0415 - email takes 10 ms to import, and hardly any server sends a date
    from email.utils import parsedate_to_datetime  # noqa: PLC0415

    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    # A date without a zone is in UTC too: HTTP has no other.
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def parsed(url: str) -> SplitResult | None:
    """Return the parts of a URL that can be asked for over HTTP; None for any other."""
    try:
        parts = urlsplit(url)
        asked = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is none, or the address
        return None
    return parts if asked else None


def same_host(one: SplitResult, other: SplitResult) -> bool:
    """Whether two URLs lead to one server: the same name and port, or HTTP and HTTPS at the usual ports."""
    if one.hostname != other.hostname:
        return False
    usual = all(parts.port in {None, _PORTS.get(parts.scheme)} for parts in (one, other))
    return usual or (one.port or _PORTS.get(one.scheme)) == (other.port or _PORTS.get(other.scheme))


def next_url(url: SplitResult, location: str | None) -> SplitResult:
    """Return where a redirect leads, without any credentials that it brings.

    Args:
        url: What was asked for.
        location: The answer's ``Location``.

    Raises:
        ValueError: It leads nowhere that may be followed; what it says is for people, and has nothing secret in it.
    """
    if not location:
        raise ValueError("the server redirects to nowhere")
    try:
        joined = urljoin(url.geturl(), location)
        scheme = urlsplit(joined).scheme
    except ValueError:
        raise ValueError("the server redirects to what is no URL") from None
    if scheme not in _PORTS:
        raise ValueError(f"the server redirects to a {scheme}: URL")
    parts = parsed(joined)
    if parts is None:
        raise ValueError("the server redirects to what is no URL")
    if (url.scheme, scheme) == ("https", "http"):
        raise ValueError("the server redirects from https: to http:, where anybody could read and change it")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")


class Pace:
    """How quickly one answer comes. One thread waits and takes, others may ask meanwhile.

    Args:
        slowest: See ``Patience``.
        window: See ``Patience``.
        now: What time it is, in seconds.
    """

    def __init__(self, slowest: int, window: float, now: Callable[[], float] = time.monotonic) -> None:
        self._slowest = slowest
        self._window = window
        self._now = now
        self._since: float | None = None
        self._waited = 0.0
        self._bytes = 0

    def wait(self) -> None:
        """Begin to wait for the network."""
        self._since = self._now()

    def take(self, size: int) -> None:
        """End to wait: so many bytes have come."""
        if self._since is not None:
            self._waited += self._now() - self._since
            self._since = None
        self._bytes += size
        if self._waited >= self._window and self._bytes >= self._slowest * self._waited:
            self._waited, self._bytes = 0.0, 0

    @property
    def too_slow(self) -> bool:
        """Whether less has come in a whole window, or since then, than has to."""
        since = self._since
        waited = self._waited + (0.0 if since is None else self._now() - since)
        return waited >= self._window and self._bytes < self._slowest * waited
