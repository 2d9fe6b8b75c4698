"""A proxy on the loopback interface: forwards and tunnels (RFC 9110, 9.3.6) to servers with made-up names."""

import http.client
import select
import socket
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self
from urllib.parse import quote, urlsplit

__all__ = ["Proxy"]

_OF_THE_CONNECTION = {
    "connection",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
}


class Proxy:
    """A proxy, while used as a context manager.

    Attributes:
        requests: Method and target of every request so far, refused ones included.

    Args:
        routes: Ports of this machine, by the name that they go by; there is nothing else to be reached.
        credentials: User and password without which every request is answered 407.
    """

    def __init__(self, routes: Mapping[str, int], credentials: tuple[str, str]) -> None:
        self.requests: list[tuple[str, str]] = []
        self._routes = routes
        self._credentials = credentials

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.proxy = self  # type: ignore[attr-defined]
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where clients find it, with user and password."""
        user, password = (quote(part, safe="") for part in self._credentials)
        return f"http://{user}:{password}@127.0.0.1:{self._server.server_port}"

    def route(self, target: str, authorization: str | None) -> int:
        """Return the port that a target leads to; the status to fail with if there is none, as a negative number."""
        if authorization != "Basic " + b64encode(":".join(self._credentials).encode()).decode():
            return -HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
        parts = urlsplit(target if "://" in target else f"//{target}")
        return self._routes.get(parts.hostname or "", -HTTPStatus.BAD_GATEWAY)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _port(self) -> int:
        proxy: Proxy = self.server.proxy  # type: ignore[attr-defined]
        proxy.requests.append((self.command, self.path))
        port = proxy.route(self.path, self.headers["Proxy-Authorization"])
        if port < 0:
            self.send_response(-port)
            self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        return port

    def do_CONNECT(self) -> None:
        port = self._port()
        if port < 0:
            return
        self.close_connection = True
        with socket.create_connection(("127.0.0.1", port)) as server:
            self.send_response(HTTPStatus.OK)
            self.end_headers()
            with suppress(OSError):  # either end may go at any time
                _tunnel(self.connection, server)

    def do_GET(self) -> None:
        port = self._port()
        if port < 0:
            return
        parts = urlsplit(self.path)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        sent = {name: value for name, value in self.headers.items() if name.lower() not in _OF_THE_CONNECTION}
        connection.request(self.command, parts._replace(scheme="", netloc="").geturl(), headers=sent)
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OF_THE_CONNECTION:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        connection.close()

    do_HEAD = do_GET  # noqa: N815 (the base class looks for this name)

    def log_message(self, *_: object) -> None:
        """Says nothing, where the base class writes to stderr."""


def _tunnel(client: Any, server: socket.socket) -> None:
    while True:
        for ready in select.select([client, server], [], [])[0]:
            data = ready.recv(1 << 16)
            if not data:
                return
            (server if ready is client else client).sendall(data)
