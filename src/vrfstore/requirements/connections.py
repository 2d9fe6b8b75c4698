"""Connections to servers and proxies: kept for the next request, and such as another thread can cut off.

A thread that waits for a server cannot look at anything else. So that it can be stopped at once, and neither a head
nor a chunk that comes byte by byte can keep it for ever, each request has a ``Line`` that somebody else may cut. Until
there is a connection, the time-out bounds the waiting: for each address of the host, and for TLS.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
import urllib3.connection
import urllib3.exceptions

from vrfstore.requirements.pip import PipSettings

__all__ = ["Connections", "Line", "describe"]


class Line:
    """What one request is made over. Cut before there is a connection, it is cut as soon as there is one."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def attach(self, connected: Any) -> None:
        """Say which socket it is: a ``socket.socket``, or a layer of TLS over one."""
        while not isinstance(connected, socket.socket):
            connected = connected.socket  # TLS inside of the TLS of a proxy
        with self._guard:
            self._socket = connected
            if self._is_cut:
                _shut(connected)

    def cut(self) -> None:
        """End it: whoever reads from it, or is going to, gets to its end at once."""
        with self._guard:
            self._is_cut = True
            if self._socket is not None:
                _shut(self._socket)


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed
        # Not SSLSocket's own, which takes apart what another thread is using.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


_here = threading.local()
"""``line`` is that of the request which this thread is making."""


class _Attaching(urllib3.connection.HTTPConnection):
    """Tells the line of a request its socket, a new one as well as one that was kept."""

    def request(self, *arguments: Any, **options: Any) -> None:
        if self.sock is None:
            self.connect()
        _here.line.attach(self.sock)
        super().request(*arguments, **options)


class _SecureAttaching(_Attaching, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Attaching


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureAttaching


class Connections:
    """Connections as pip's configuration wants them; used from several threads.

    Args:
        settings: Certificates, proxy and time-out.
        most: How many are kept for one host.
    """

    def __init__(self, settings: PipSettings, most: int) -> None:
        self._settings = settings
        self._most = most
        self._proxies = urllib.request.getproxies()
        self._pools: dict[tuple[str, bool], urllib3.PoolManager] = {}
        self._ways: dict[tuple[str, str], urllib3.PoolManager] = {}
        self._guard = threading.Lock()

    def request(
        self, url: str, headers: dict[str, str], line: Line, timeout: float, *, method: str = "GET"
    ) -> urllib3.BaseHTTPResponse:
        """Ask for a URL once; return the answer, whatever it is, with its body still to be read.

        Args:
            url: An ``http:`` or ``https:`` URL.
            headers: What else is sent.
            line: Is told the socket.
            timeout: Seconds for connecting, and for one operation of the socket.
            method: What is asked; the answer to ``HEAD`` has no body.

        Raises:
            urllib3.exceptions.HTTPError, OSError: There is no answer.
        """
        pool = self._pool(url)
        _here.line = line
        try:
            return pool.urlopen(
                method,
                url,
                headers=headers,
                timeout=urllib3.Timeout(connect=timeout, read=timeout),
                # What is tried again, and where a redirect may lead, is decided in one place, and not here.
                retries=False,
                redirect=False,
                preload_content=False,
            )
        finally:
            del _here.line

    def close(self) -> None:
        """Close those that are kept."""
        with self._guard:
            for pool in self._pools.values():
                pool.clear()

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        place = parts.scheme, parts.hostname or ""
        with self._guard:
            # Whether a host is asked past the proxy takes a walk through all variables.
            way = self._ways.get(place)
            if way is None:
                way = self._ways[place] = self._new_way(*place)
            return way

    def _new_way(self, scheme: str, host: str) -> urllib3.PoolManager:
        bypass = urllib.request.proxy_bypass(host)
        proxy = "" if bypass else self._settings.proxy or self._proxies.get(scheme, "")
        # Reading the system's certificates takes as long as fetching ten small wheels.
        secure = "https" in {scheme, urlsplit(proxy).scheme}
        pool = self._pools.get((proxy, secure))
        if pool is None:
            pool = self._pools[proxy, secure] = self._new_pool(proxy, secure=secure)
        return pool

    def _new_pool(self, proxy: str, *, secure: bool) -> urllib3.PoolManager:
        options: dict[str, Any] = {"maxsize": self._most, "ssl_context": self._ssl() if secure else None}
        pool = _proxy_manager(proxy, options) if proxy else urllib3.PoolManager(**options)
        pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return pool

    def _ssl(self) -> ssl.SSLContext:
        chosen = self._settings.certificate or os.environ.get("REQUESTS_CA_BUNDLE", "")
        if not chosen:
            context = ssl.create_default_context()
        elif os.path.isdir(chosen):
            context = ssl.create_default_context(capath=chosen)
        else:
            context = ssl.create_default_context(cafile=chosen)
        if self._settings.client_certificate:
            context.load_cert_chain(self._settings.client_certificate)
        return context


def _proxy_manager(proxy: str, options: dict[str, Any]) -> urllib3.ProxyManager:
    """Return the pool for a proxy as pip takes it: with credentials in its URL, and maybe without a scheme."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    user, at, _ = parts.netloc.rpartition("@")
    headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if at else None
    return urllib3.ProxyManager(parts.geturl(), proxy_headers=headers, **options)


def describe(error: BaseException) -> tuple[str, bool]:
    """Say why there was no answer, or no more of it, and whether that may pass.

    In words of our own, because those of others may have in them what was sent.
    """
    certificate = next(
        (found for found in _causes(error) if isinstance(found, ssl.SSLCertVerificationError)), None
    )
    if certificate is not None:
        return f"the server's certificate is not accepted: {certificate.verify_message}", False
    reason = next(
        (found.strerror for found in _causes(error) if isinstance(found, OSError) and found.strerror), ""
    )
    match error:
        case urllib3.exceptions.LocationValueError():
            return "it has no URL that can be asked for", False
        case urllib3.exceptions.NameResolutionError():
            return "the name of the host is not known", True
        case urllib3.exceptions.NewConnectionError():
            return f"there is no connection: {reason}", True
        case urllib3.exceptions.TimeoutError() | TimeoutError():
            return "the server did not answer in time", True
        case urllib3.exceptions.ProxyError():
            return "the proxy gives no connection", True
        case urllib3.exceptions.SSLError():
            return "TLS failed", True
        case _:
            return f"the connection broke{reason and f': {reason}'}", True


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error, and what it came from, in its different ways of saying so."""
    found = [error]
    for known in found:
        given = (known.__cause__, known.__context__, getattr(known, "original_error", None), *known.args)
        found += [cause for cause in given if isinstance(cause, BaseException) and cause not in found]
    return found
