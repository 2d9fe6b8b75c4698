"""Who we are to whom, in pip's order: an index URL of its configuration, netrc, a keyring.

::

    first     password in an index URL ─▶ netrc ─▶ user in an index URL, without password ─▶ nobody
    after 401 (not if the index URL has a password) keyring: by index URL ─▶ keyring: by host

What a keyring said is kept for that host, so that it is asked once, and the next request begins with it.
"""

from __future__ import annotations

import netrc
import os
import threading
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import SplitResult, unquote, urlunsplit

from vrfstore.requirements.keyring import Keyring, Login
from vrfstore.requirements.patience import parsed, same_host
from vrfstore.values import dataclass

__all__ = ["Credentials", "authorization", "netrc_file"]

_NETRC = ("~/.netrc", "~/_netrc")


@dataclass(frozen=True, slots=True)
class _Index:
    """An index as it is configured.

    Attributes:
        url: Where it is, without user and password, with a slash at its end.
        user: None without one.
        password: None without one, which is not the empty one.
    """

    url: SplitResult
    user: str | None
    password: str | None


class Credentials:
    """Users and passwords by host; asked from several threads.

    Args:
        indexes: Index URLs, maybe with user and password.
        keyring: Who is asked where an index refuses us; without one, nobody.
    """

    def __init__(self, indexes: Iterable[str], keyring: Keyring | None = None) -> None:
        self._indexes = [_index(parts) for parts in map(parsed, indexes) if parts is not None]
        self._keyring = keyring
        self._found: dict[tuple[str, str], Login] = {}
        self._guard = threading.Lock()
        self._netrc: netrc.netrc | None = None
        self._looked = False

    def to(self, url: SplitResult) -> Login | None:
        """Return user and password for a URL; None where it has to go without, at first."""
        found = self.told(url)
        if found is not None:
            return found
        known = [index for index in self._near(url) if index.user is not None]
        for index in known:
            if index.user is not None and index.password is not None:
                return index.user, index.password
        written = self._from_netrc(url.hostname or "")
        if written is not None:
            return written
        return next(((index.user or "", "") for index in known), None)

    def told(self, url: SplitResult) -> Login | None:
        """Return what a keyring has said for the host of a URL; None where it has not."""
        return self._found.get(_place(url))

    def instead_of(self, refused: Login | None, url: SplitResult) -> Login | None:
        """Return who else we are to a URL, by a keyring; None where nothing else is known.

        Args:
            refused: As whom we were refused (RFC 9110, 401).
            url: Where.

        Raises:
            Exception: What ends the waiting for the keyring; see there.
        """
        near = self._near(url)
        # Where a password is written down for it, that one counts, and nobody is asked for another.
        if self._keyring is None or any(index.password is not None for index in near):
            return None
        if url.scheme == "http" and any(
            index.url.scheme == "https" and same_host(index.url, url) for index in self._indexes
        ):
            return None
        user = next((index.user for index in near if index.user is not None), None)
        services = [urlunsplit(index.url) for index in near[:1]]
        for service in (*services, url.netloc.rpartition("@")[2]):
            found = self._keyring.ask(service, user)
            if found is not None and found != refused:
                self._found[_place(url)] = found
                return found
        return None

    def _near(self, url: SplitResult) -> list[_Index]:
        """Return the indexes of the host that a URL leads to, those first that share most of its path."""
        # What is for https: is not sent so that anybody could read it.
        there = [
            index
            for index in self._indexes
            if same_host(index.url, url) and (index.url.scheme, url.scheme) != ("https", "http")
        ]
        return sorted(there, key=lambda index: -len(os.path.commonpath([index.url.path, url.path or "/"])))

    def _from_netrc(self, name: str) -> Login | None:
        with self._guard:
            if not self._looked:
                self._looked = True
                path = netrc_file()
                try:
                    self._netrc = None if path is None else netrc.netrc(path)
                except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
                    self._netrc = None
            found = None if self._netrc is None else self._netrc.authenticators(name)
        return None if found is None or not any(found) else (found[0] or found[1] or "", found[2] or "")


def netrc_file() -> str | None:
    """Return the file that pip reads as netrc: ``$NETRC`` and no other, else the first of the usual ones."""
    named = os.environ.get("NETRC")
    places = map(os.path.expanduser, _NETRC if named is None else (named,))
    return next(filter(os.path.exists, places), None)


def authorization(who: Login) -> dict[str, str]:
    """Return the header that says who we are (RFC 7617), in Latin-1 as pip sends it, else in UTF-8."""
    text = ":".join(who)
    try:
        sent = text.encode("latin-1")
    except UnicodeEncodeError:
        sent = text.encode()
    return {"Authorization": f"Basic {b64encode(sent).decode()}"}


def _index(parts: SplitResult) -> _Index:
    login, at, host = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    return _Index(
        # As pip names the service to a keyring.
        parts._replace(netloc=host, path=f"{parts.path.rstrip('/')}/"),
        unquote(user) if at else None,
        unquote(password) if colon else None,
    )


def _place(url: SplitResult) -> tuple[str, str]:
    return url.scheme, url.netloc.rpartition("@")[2]
