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
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3
import urllib3.connection
import urllib3.exceptions

from vrfstore.requirements.pip import PipSettings, own_authorities

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


class _TrustingAttaching(_SecureAttaching):
    def connect(self) -> None:
        super().connect()
        # As much as is wanted: urllib3 would warn of each request, and the user has said that he knows.
        self.is_verified = True


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Attaching


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureAttaching


class _TrustingPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TrustingAttaching


_Security = Literal["none", "verified", "trusting"]
"""What TLS is there for a connection: none, with certificates that are looked at, or that are not."""


class Connections:
    """Connections as pip's configuration wants them; used from several threads.

    Args:
        settings: Certificates, trusted hosts and proxy.
        most: How many are kept for one host.
    """

    def __init__(self, settings: PipSettings, most: int) -> None:
        self._settings = settings
        self._most = most
        self._proxies = {} if settings.no_proxy_env else urllib.request.getproxies()
        self._trusted = frozenset(filter(None, map(_host_and_port, settings.trusted_hosts)))
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._pools: dict[tuple[str, _Security], urllib3.PoolManager] = {}
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
        place = parts.scheme, parts.netloc
        with self._guard:
            # Whether a host is asked past the proxy takes a walk through all variables.
            way = self._ways.get(place)
            if way is None:
                way = self._ways[place] = self._new_way(parts)
            return way

    def _new_way(self, parts: SplitResult) -> urllib3.PoolManager:
        proxy = self._proxy(parts)
        key = (proxy, self._security(parts, proxy))
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._new_pool(*key)
        return pool

    def _proxy(self, parts: SplitResult) -> str:
        """Return the proxy for a URL; empty for none. One that is configured has no exceptions, as for pip."""
        if self._settings.proxy:
            return self._settings.proxy
        host = parts.hostname or ""
        if urllib.request.proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
            return ""
        return self._proxies.get(parts.scheme) or self._proxies.get("all", "")

    def _security(self, parts: SplitResult, proxy: str) -> _Security:
        if self._is_trusted(parts):
            return "trusting"
        # Reading the system's certificates takes as long as fetching ten small wheels.
        return "verified" if "https" in {parts.scheme, urlsplit(proxy).scheme} else "none"

    def _is_trusted(self, parts: SplitResult) -> bool:
        """Whether no certificate is looked at: the host is named without a port, or with the one that is written."""
        host = parts.hostname or ""
        return parts.scheme == "https" and not self._trusted.isdisjoint({(host, None), (host, parts.port)})

    def _new_pool(self, proxy: str, security: _Security) -> urllib3.PoolManager:
        trusting = security == "trusting"
        options: dict[str, Any] = {"maxsize": self._most}
        if security != "none":
            options["ssl_context"] = self._context(trusted=trusting)
        if proxy:
            if urlsplit(proxy).scheme == "https":
                # Whom a host is trusted for says nothing of the way to it.
                options["proxy_ssl_context"] = self._context(trusted=False)
            pool: urllib3.PoolManager = _proxy_manager(proxy, options)
        else:
            pool = urllib3.PoolManager(**options)
        pool.pool_classes_by_scheme = {"http": _Pool, "https": _TrustingPool if trusting else _SecurePool}
        return pool

    def _context(self, *, trusted: bool) -> ssl.SSLContext:
        """Return what TLS is done with, made once: reading some hundred authorities takes a while."""
        if trusted not in self._contexts:
            self._contexts[trusted] = self._new_context(trusted=trusted)
        return self._contexts[trusted]

    def _new_context(self, *, trusted: bool) -> ssl.SSLContext:
        # As pip has it: the system's (or SSL_CERT_FILE's) authorities, pip's own, and those that are configured.
        context = ssl.create_default_context()
        if trusted:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            with contextlib.suppress(OSError):
                context.load_verify_locations(cafile=own_authorities())
            chosen = self._settings.certificate
            if chosen and os.path.isdir(chosen):
                context.load_verify_locations(capath=chosen)
            elif chosen:
                context.load_verify_locations(cafile=chosen)
        if self._settings.client_certificate:
            context.load_cert_chain(self._settings.client_certificate)
        return context


def _host_and_port(text: str) -> tuple[str, int | None] | None:
    """Return what a ``trusted-host`` names, maybe an IPv6 address without brackets; None where that is nothing."""
    bare = text.count(":") > 1 and "[" not in text
    try:
        parts = urlsplit(f"//[{text}]" if bare else f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (host, port) if host else None


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
