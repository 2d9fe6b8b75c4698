"""Who we are to whom: as an index URL of pip's configuration has it, else as ``~/.netrc`` has."""

from __future__ import annotations

import netrc
import threading
from collections.abc import Iterable
from urllib.parse import SplitResult, unquote

from vrfstore.requirements.patience import parsed, same_host

__all__ = ["Credentials"]


class Credentials:
    """Users and passwords by host; asked from several threads.

    Args:
        indexes: Index URLs, maybe with user and password.
    """

    def __init__(self, indexes: Iterable[str]) -> None:
        self._known: list[tuple[SplitResult, tuple[str, str]]] = []
        for parts in map(parsed, indexes):
            user, at, _ = ("", "", "") if parts is None else parts.netloc.rpartition("@")
            if parts is not None and at:
                name, _, password = user.partition(":")
                self._known.append((parts, (unquote(name), unquote(password))))
        self._guard = threading.Lock()
        self._netrc: netrc.netrc | None = None
        self._looked = False

    def to(self, url: SplitResult) -> tuple[str, str] | None:
        """Return user and password for a URL; None where it has to go without."""
        for index, who in self._known:
            # What is for https: is not sent so that anybody could read it.
            if same_host(index, url) and (index.scheme, url.scheme) != ("https", "http"):
                return who
        found = self._from_netrc(url.hostname or "")
        return None if found is None else (found[0], found[2] or "")

    def _from_netrc(self, name: str) -> tuple[str, str | None, str | None] | None:
        with self._guard:
            if not self._looked:
                self._looked = True
                try:
                    self._netrc = netrc.netrc()
                except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
                    self._netrc = None
            return None if self._netrc is None else self._netrc.authenticators(name)
