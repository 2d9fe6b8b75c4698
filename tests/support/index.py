"""A package index on the loopback interface that counts what it serves and misbehaves on request."""

import functools
import hashlib
import html
import io
import json
import os
import re
import socket
import ssl
import struct
import sys
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from support.wheels import WheelSpec, wheel_bytes, wheel_filename

_JSON = "application/vnd.pypi.simple.v1+json"
_HTML = "application/vnd.pypi.simple.v1+html"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How the answer to one request for a file goes wrong.

    Attributes:
        status: Another status than 200, with its phrase for a body.
        headers: Further headers.
        body: Other bytes than those of the file.
        cut: Bytes after which the connection ends.
        in_head: Whether all that is said of the body is true of a head that does not end, and comes instead.
        reset: Whether it ends with a reset, and not in good order.
        longer: Bytes by which the announced length is too large.
        length: Whether there is an announced length; the end of the connection tells the end of the body otherwise.
        chunked: Whether the body comes in chunks instead.
        endless: Whether the body is repeated for ever.
        piece: Bytes that are sent at once; 0 for all of it.
        pause: Seconds before the head and after each piece.
        goodbye: Whether the connection ends after the answer, which has not said so.
    """

    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: int | None = None
    in_head: bool = False
    reset: bool = False
    longer: int = 0
    length: bool = True
    chunked: bool = False
    endless: bool = False
    piece: int = 0
    pause: float = 0.0
    goodbye: bool = False


_LONG_HEAD = b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000


@contextmanager
def silent_index() -> Iterator[str]:
    """Give the URL of an index that takes every connection, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


class Index:
    """A package index, served while used as a context manager.

    Attributes:
        requests: Method and decoded path of every request so far, refused ones included.
        headers: The headers of every request so far, in the same order.
        without_hashes: Whether pages leave out hashes.
        ranges: Whether a part of a file can be asked for.
        tags: Whether files have entity tags.
        sizes: Sizes that pages lie about, by file name.
        status: Status to fail with, by prefix of the path.
        delay: Seconds to wait before serving a file, by file name.
    """

    _server: "_Server"
    _thread: Thread

    def __init__(
        self,
        sources: Path | Iterable[Path | WheelSpec] = (),
        *,
        credentials: tuple[str, str] | None = None,
        certificate: Path | None = None,
    ) -> None:
        """Publishes wheels and sdists.

        Args:
            sources: A directory, of which what is there now is published, or each file or wheel to be.
            credentials: User and password without which every request is answered 401.
            certificate: A file with a certificate for 127.0.0.1 and its key; with one, all goes over TLS.
        """
        # Shared with the threads of the server without a lock: each use is one atomic operation.
        self.requests: list[tuple[str, str]] = []
        self.headers: list[Message] = []
        self.without_hashes = False
        self.ranges = False
        self.tags = True
        self.sizes: dict[str, int] = {}
        self.status: dict[str, int] = {}
        self.delay: dict[str, float] = {}
        self._files: dict[str, _File] = {}
        self._corrupt: set[str] = set()
        self._faults: dict[str, list[Fault]] = {}
        self._guard = Lock()
        self._credentials = credentials
        self._certificate = certificate
        self._closing = Event()
        if isinstance(sources, Path):
            sources = [path for path in sorted(sources.iterdir()) if path.name.endswith((".whl", ".tar.gz"))]
        for source in sources:
            self.add(source)

    def __enter__(self) -> Self:
        self._server = _Server(self._answer, self._closing, self._certificate)
        # The default interval would make each close take half a second.
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where clients find the index."""
        return f"{self._root}/simple/"

    @property
    def _root(self) -> str:
        return f"http{'s' if self._certificate else ''}://127.0.0.1:{self._server.server_port}"

    @property
    def url_with_credentials(self) -> str:
        """The same, with the user and the password in it if there are any."""
        if self._credentials is None:
            return self.url
        user, password = (quote(part, safe="") for part in self._credentials)
        return self.url.replace("//", f"//{user}:{password}@", 1)

    def file_url(self, filename: str) -> str:
        """Where clients find a file."""
        return f"{self._root}{_file_path(filename)}"

    def add(self, source: Path | bytes | WheelSpec, filename: str = "") -> str:
        """Publishes a wheel or an sdist and returns its file name, which bytes cannot do without."""
        match source:
            case WheelSpec():
                filename, content = filename or wheel_filename(source), wheel_bytes(source)
            case Path():
                filename, content = filename or source.name, source.read_bytes()
            case _:
                content = source
        self._files[filename] = _File.of(filename, content)
        return filename

    @property
    def connections(self) -> int:
        """How many connections clients have made so far."""
        return self._server.accepted

    def misbehave(self, filename: str, *faults: Fault) -> None:
        """Answers the next requests for a file, one each, as said; the last of them goes on for ever."""
        with self._guard:
            self._faults[filename] = list(faults)

    def behave(self, filename: str) -> None:
        """From now on serves a file as it is."""
        with self._guard:
            self._faults.pop(filename, None)

    def corrupt(self, filename: str) -> None:
        """From now on serves other bytes than the hash of the file announces, as many of them."""
        self._corrupt.add(filename)

    def warm(self) -> None:
        """Computes all hashes now, and not in the time of whoever asks first."""
        for file in self._files.values():
            _ = file.sha256

    def downloads(self, filename: str) -> int:
        """How often the file itself was asked for, refused or not."""
        return self.requests.count(("GET", f"/files/{filename}"))

    def _answer(self, method: str, path: str, headers: Message) -> "_Response":
        with self._guard:
            self.requests.append((method, path))
            self.headers.append(headers)
        if self._credentials and headers.get("Authorization") != _basic(*self._credentials):
            return _failure(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="index"'})
        for prefix, status in list(self.status.items()):
            if path.startswith(prefix):
                return _failure(status)
        accept = headers.get("Accept", "")
        match path.strip("/").split("/"):
            case ["simple"]:
                return self._root_page(accept)
            case ["simple", project]:
                return self._project_page(canonicalize_name(project), accept)
            case ["files", filename]:
                return self._file_or_metadata(filename, headers)
        return _failure(HTTPStatus.NOT_FOUND)

    def _root_page(self, accept: str) -> "_Response":
        projects = sorted({file.project for file in list(self._files.values())})
        document = {
            "meta": {"api-version": "1.1"},
            "projects": [{"name": project} for project in projects],
        }
        anchors = [f'<a href="/simple/{project}/">{project}</a>' for project in projects]
        return _page(accept, document, anchors)

    def _project_page(self, project: str, accept: str) -> "_Response":
        files = [file for file in list(self._files.values()) if file.project == project]
        if not files:
            return _failure(HTTPStatus.NOT_FOUND)
        hashed = not self.without_hashes
        document = {
            "meta": {"api-version": "1.1"},
            "name": project,
            "versions": sorted({file.version for file in files}),
            "files": [file.entry(hashed=hashed, size=self.sizes.get(file.filename)) for file in files],
        }
        return _page(accept, document, [file.anchor(hashed=hashed) for file in files])

    def _file_or_metadata(self, filename: str, headers: Message) -> "_Response":
        if file := self._files.get(filename):
            self._closing.wait(self.delay.get(filename, 0))
            corrupt = filename in self._corrupt
            content = _corrupted(file.content) if corrupt else file.content
            digest = _sha256(content) if corrupt else file.sha256
            return self._with_fault(filename, self._whole_or_part(content, digest, headers))
        described = self._files.get(filename.removesuffix(".metadata"))
        if described is None or described.metadata is None:
            return _failure(HTTPStatus.NOT_FOUND)
        return _Response(HTTPStatus.OK, described.metadata, "application/octet-stream")

    def _whole_or_part(self, content: bytes, digest: str, headers: Message) -> "_Response":
        """The file, or what is asked for of it."""
        tag = f'"{digest[:16]}"'
        given = ({"ETag": tag} if self.tags else {}) | ({"Accept-Ranges": "bytes"} if self.ranges else {})
        part = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        if not self.ranges or part is None or headers.get("If-Range", tag) != tag:
            return _Response(HTTPStatus.OK, content, "application/octet-stream", given)
        start, size = int(part[1]), len(content)
        if start >= size:
            return _failure(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{size}"})
        given |= {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        return _Response(HTTPStatus.PARTIAL_CONTENT, content[start:], "application/octet-stream", given)

    def _with_fault(self, filename: str, response: "_Response") -> "_Response":
        with self._guard:
            faults = self._faults.get(filename)
            if not faults:
                return response
            fault = faults.pop(0) if len(faults) > 1 else faults[0]
        if fault.status != HTTPStatus.OK:
            response = _failure(fault.status)
        body = response.body if fault.body is None else fault.body
        headers = {**response.headers, **fault.headers}
        return replace(response, body=body, headers=headers, fault=fault)


@dataclass(frozen=True)
class _File:
    filename: str
    content: bytes
    project: str
    version: str
    metadata: bytes | None
    requires_python: str | None

    # Computed once: real wheels are large, and pages are asked for again and again while something is measured.
    @functools.cached_property
    def sha256(self) -> str:
        return _sha256(self.content)

    @classmethod
    def of(cls, filename: str, content: bytes) -> Self:
        if not filename.endswith(".whl"):
            project, version = parse_sdist_filename(filename)
            return cls(filename, content, project, str(version), metadata=None, requires_python=None)
        project, version, _, _ = parse_wheel_filename(filename)
        metadata = _read_metadata(content)
        requires_python = message_from_bytes(metadata or b"")["Requires-Python"]
        return cls(filename, content, project, str(version), metadata, requires_python)

    def entry(self, *, hashed: bool, size: int | None = None) -> dict[str, object]:
        """The file in a JSON page."""
        entry: dict[str, object] = {
            "filename": self.filename,
            "url": _file_path(self.filename),
            "size": len(self.content) if size is None else size,
            "hashes": {"sha256": self.sha256} if hashed else {},
        }
        if self.requires_python is not None:
            entry["requires-python"] = self.requires_python
        if self.metadata is not None:
            entry["core-metadata"] = {"sha256": _sha256(self.metadata)} if hashed else True
        return entry

    def anchor(self, *, hashed: bool) -> str:
        """The file in an HTML page."""
        fragment = f"#sha256={self.sha256}" if hashed else ""
        attributes = {"href": _file_path(self.filename) + fragment}
        if self.requires_python is not None:
            attributes["data-requires-python"] = self.requires_python
        if self.metadata is not None:
            attributes["data-core-metadata"] = f"sha256={_sha256(self.metadata)}" if hashed else "true"
        written = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
        return f"<a {written}>{html.escape(self.filename)}</a>"


@dataclass(frozen=True)
class _Response:
    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Fault = Fault()


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"
    # Headers and body are sent apart: without this the body would wait for the client's delayed
    # acknowledgement of the headers.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        response = self.server.answer(self.command, path, self.headers)
        fault = response.fault
        self.server.closing.wait(fault.pause)
        if fault.in_head:
            self._send(_LONG_HEAD, response)
            return
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", response.content_type)
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif fault.length:
            self.send_header("Content-Length", str(len(response.body) + fault.longer))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self._send(response.body, response)

    do_HEAD = do_GET  # noqa: N815 (the base class looks for this name)

    def _send(self, body: bytes, response: _Response) -> None:
        fault = response.fault
        body = body if fault.cut is None else body[: fault.cut]
        while True:
            for start in range(0, len(body), fault.piece or len(body) or 1):
                piece = body[start : start + (fault.piece or len(body))]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if fault.chunked else piece)
                if fault.pause and self.server.closing.wait(fault.pause):
                    return
            if not fault.endless:
                break
        if fault.cut is not None or fault.goodbye:
            self._hang_up(reset=fault.reset)
        elif fault.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # The files that the base class has of it would keep it open.
            os.close(self.connection.detach())

    def log_message(self, *_: object) -> None:
        """Says nothing, where the base class writes to stderr."""


class _Server(ThreadingHTTPServer):
    # Closing waits for the threads of non-daemon handlers only.
    daemon_threads = False
    # The default of 5 drops connections of a client that downloads from many threads.
    request_queue_size = 128

    def __init__(
        self,
        answer: Callable[[str, str, Message], _Response],
        closing: Event,
        certificate: Path | None = None,
    ) -> None:
        self.answer = answer
        self.closing = closing
        self.accepted = 0
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def close(self) -> None:
        """Stops serving, ends the connections that clients keep alive, and waits for their threads."""
        self.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        self.accepted += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client may hang up at any time; anything else is a defect of this module and is reported.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _page(accept: str, document: Mapping[str, object], anchors: Iterable[str]) -> _Response:
    if _JSON in accept:
        return _Response(HTTPStatus.OK, json.dumps(document).encode(), _JSON)
    lines = ["<!DOCTYPE html>", "<html><body>", *(f"{anchor}<br>" for anchor in anchors), "</body></html>"]
    return _Response(HTTPStatus.OK, "\n".join(lines).encode(), _HTML if _HTML in accept else "text/html")


def _failure(status: int, headers: Mapping[str, str] | None = None) -> _Response:
    return _Response(status, HTTPStatus(status).phrase.encode(), "text/plain", headers or {})


def _file_path(filename: str) -> str:
    return f"/files/{quote(filename)}"


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_metadata(wheel: bytes) -> bytes | None:
    """The METADATA of a wheel; None if it cannot be read, for hostile wheels are published too."""
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            return archive.read(names[0]) if names else None
    except (zipfile.BadZipFile, zlib.error, RuntimeError):
        return None


def _corrupted(content: bytes) -> bytes:
    # Byte 10 is in the time stamp of a wheel's first member: nothing but the hash tells that it changed.
    position = min(10, len(content) - 1)
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]
