"""Who we are to whom: as an index URL of pip's configuration has it, else as ``~/.netrc`` has."""

from __future__ import annotations

import netrc
import threading
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from vrfstore.requirements.patience import host_of

__all__ = ["Credentials"]


class Credentials:
    """Users and passwords by host; asked from several threads.

    Args:
        indexes: Index URLs, maybe with user and password.
    """

    def __init__(self, indexes: Iterable[str]) -> None:
        self._known: list[tuple[str, tuple[str, int | None], tuple[str, str]]] = []
        for index in indexes:
            try:
                parts = urlsplit(index)
                host = host_of(parts)
            except ValueError:  # pip will have said so
                continue
            user, at, _ = parts.netloc.rpartition("@")
            if at:
                name, _, password = user.partition(":")
                self._known.append((parts.scheme, host, (unquote(name), unquote(password))))
        self._guard = threading.Lock()
        self._netrc: netrc.netrc | None = None
        self._looked = False

    def to(self, url: str) -> tuple[str, str] | None:
        """Return user and password for a URL; None where it has to go without."""
        parts = urlsplit(url)
        host = host_of(parts)
        for scheme, whom, who in self._known:
            # What is for https: is not sent so that anybody could read it.
            if (whom == host or self._same_name(scheme, whom, parts.scheme, host)) and not (
                scheme == "https" and parts.scheme == "http"
            ):
                return who
        found = self._from_netrc(host[0])
        return None if found is None else (found[0], found[2] or "")

    @staticmethod
    def _same_name(
        scheme: str, whom: tuple[str, int | None], other: str, host: tuple[str, int | None]
    ) -> bool:
        """Whether two hosts are one, reached by http: and by https: at the usual ports."""
        return whom[0] == host[0] and {(scheme, whom[1]), (other, host[1])} == {("http", 80), ("https", 443)}

    def _from_netrc(self, name: str) -> tuple[str, str | None, str | None] | None:
        with self._guard:
            if not self._looked:
                self._looked = True
                try:
                    self._netrc = netrc.netrc()
                except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
                    self._netrc = None
            return None if self._netrc is None else self._netrc.authenticators(name)
