"""One wheel on its way: one attempt after the other until it is whole, or hopeless.

::

    attempt ─▶ broke off ─▶ pause ─▶ attempt, from where it broke off ─▶ … ─▶ whole
       └─ request ─▶ redirect ─▶ request ─▶ answer ─▶ chunks

All that is done again is done here, urllib3 makes single requests: nobody else has a say in how long it takes.
"""

from __future__ import annotations

import http
import itertools
import os
import random
import re
import time
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import urllib3

from vrfstore.errors import PackageIndexError, WheelError
from vrfstore.model import Event, LockedWheel, Watcher
from vrfstore.requirements.connections import Line
from vrfstore.requirements.patience import REDIRECTS, Pace, may_pass, next_url, parsed, retry_after, same_host
from vrfstore.requirements.source import TRY_AGAIN, BrokenError, Source

__all__ = ["Download"]

_SMALL_BODY = 1 << 16
"""Bytes of an answer that is no wheel which are read, so that the connection can be kept."""

_DENIED = frozenset({401, 403, 407})
_GONE = frozenset({404, 410})
_OK, _PARTIAL, _NO_SUCH_PART = 200, 206, 416
_PART = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")

_NOT_SET_UP = "the index, or something on the way, is not set up well"


class Download:
    """The bytes of one wheel.

    Attributes:
        joined: Whether they came in several parts, which may be parts of different files.
    """

    def __init__(self, source: Source, wheel: LockedWheel, watch: Watcher) -> None:
        self.joined = False
        self._source = source
        self._wheel = wheel
        self._watch = watch
        self._have = 0
        self._announced = wheel.size
        self._in_parts = True
        self._tag = ""

    def chunks(self) -> Iterator[bytes]:
        """Yield them as they come; nobody has checked them, but for how many they are.

        Raises:
            PackageIndexError: The server says no, or what may pass did not in several attempts.
            WheelError: The file is longer than the lock says (``size-mismatch``).
            CapError: More would be taken than is allowed.
            OSError: A local file cannot be read.
        """
        if urlsplit(self._wheel.url).scheme == "file":
            yield from self._local()
            return
        for failures in itertools.count(1):
            try:
                yield from self._attempt()
            except BrokenError as error:
                if not error.again or failures == self._source.patience.attempts:
                    raise self._failed(error, failures) from error.__cause__
                self._source.pause(
                    self._source.patience.pause(failures, error.asked, random.random())  # noqa: S311 - no secret
                )
            else:
                return

    def _local(self) -> Iterator[bytes]:
        try:
            stream = open(unquote(urlsplit(self._wheel.url).path), "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError as error:
            raise PackageIndexError(
                f"{self._wheel.filename} is not at {self._wheel.url} any more", kind="wheel-missing"
            ) from error
        with stream:
            self._expect(os.fstat(stream.fileno()).st_size)
            while data := stream.read(self._source.chunk):
                self._source.check()
                self._take(data, self._have + len(data))
                yield self._new(data)

    def _attempt(self) -> Iterator[bytes]:
        """Yield what one answer has of what is still missing.

        Raises:
            BrokenError: That is not all.
        """
        with self._source.attending() as (line, pace):
            answer = self._request(line, pace)
            whole = False
            try:
                yield from self._body(answer, pace)
                whole = True
            finally:
                if not whole:
                    # Nobody knows what would come next on this connection.
                    answer.close()
                answer.release_conn()

    def _request(self, line: Line, pace: Pace) -> urllib3.BaseHTTPResponse:
        """Return the answer that has the wheel, wherever that is."""
        url, at_home = parsed(self._wheel.url), True
        if url is None:
            raise BrokenError("it has no URL that can be asked for", again=False)
        for _ in range(self._source.patience.redirects + 1):
            answer = self._source.ask(url, self._headers(), line, pace, known=at_home)
            if answer.status not in REDIRECTS:
                self._check_status(answer, pace)
                return answer
            try:
                target = next_url(url, answer.headers.get("Location"))
            except ValueError as error:
                answer.close()
                raise BrokenError(
                    str(error), again=False, kind="redirect-refused", hint=_NOT_SET_UP
                ) from None
            self._spend(answer, pace)
            # Once elsewhere, nobody learns who we are any more, whatever is written down of him.
            at_home, url = at_home and same_host(url, target), target
        raise BrokenError(
            f"the server redirects more than {self._source.patience.redirects} times",
            again=False,
            kind="redirect-refused",
            hint=_NOT_SET_UP,
        )

    def _headers(self) -> dict[str, str]:
        # The wheel as it is, never packed: the digest is over these bytes.
        headers = {"Accept-Encoding": "identity"}
        if self._have and self._in_parts:
            headers["Range"] = f"bytes={self._have}-"
            if self._tag:
                headers["If-Range"] = self._tag
        return headers

    def _check_status(self, answer: urllib3.BaseHTTPResponse, pace: Pace) -> None:
        """Refuse an answer that is not the wheel, or not the rest of it.

        Raises:
            BrokenError: It is not.
        """
        if answer.status == _OK:
            return
        if self._have and answer.status in {_PARTIAL, _NO_SUCH_PART}:
            part = _PART.fullmatch(answer.headers.get("Content-Range", ""))
            if answer.status == _PARTIAL and part is not None and int(part[1]) == self._have:
                return
            # It has no parts, or not those that were asked for: from the beginning then.
            self._in_parts = False
            answer.close()
            raise BrokenError("the server does not send the part that is missing", again=True)
        asked = retry_after(answer.headers.get("Retry-After"), time.time())
        self._spend(answer, pace)
        raise BrokenError(
            f"the server answers {_status(answer.status)}",
            again=may_pass(answer.status),
            asked=asked,
            hint=self._hint(answer.status, asked),
        )

    def _hint(self, status: int, asked: float | None) -> str:
        if status in _DENIED:
            return self._source.keyring.hint
        if status in _GONE:
            return "the file is gone from the index; resolve again with --refresh"
        if asked is not None and asked > self._source.patience.longest_pause:
            when = f"in {asked:.0f} s" if asked < float("inf") else "much later"
            return f"the server asks to try again {when}; what has been fetched is kept"
        return TRY_AGAIN

    def _spend(self, answer: urllib3.BaseHTTPResponse, pace: Pace) -> None:
        """Read an answer that is no wheel where that is quickly done, so that its connection can be used again."""
        if answer.length_remaining is None or answer.length_remaining > _SMALL_BODY:
            answer.close()
        else:
            try:
                while data := self._read(answer, pace):
                    self._source.budget.receive(len(data))
            except BaseException:
                answer.close()
                raise
        answer.release_conn()

    def _read(self, answer: urllib3.BaseHTTPResponse, pace: Pace) -> bytes:
        """Return what has come, as soon as something has; nothing at the end."""
        pace.wait()
        data = answer.read1(self._source.chunk, decode_content=False)
        pace.take(len(data))
        if pace.too_slow:
            raise self._source.too_slow()
        return data

    def _body(self, answer: urllib3.BaseHTTPResponse, pace: Pace) -> Iterator[bytes]:
        """Yield what of a body is not there yet."""
        position = self._have if answer.status == _PARTIAL else 0
        self.joined = self.joined or bool(self._have)
        self._tag = _strong(answer.headers.get("ETag", ""))
        length = answer.length_remaining
        whole = None if length is None else position + length
        if whole is not None:
            self._expect(whole)
        while data := self._read(answer, pace):
            self._source.check()
            position += len(data)
            self._take(data, position)
            # A server that knows no parts begins again; what is there already is not wanted twice.
            if position > self._have:
                yield self._new(data[self._have - position :])
        # A body in chunks says itself where it ends.
        expected = self._wheel.size if whole is None and not answer.chunked else whole
        if expected is not None and position < expected:
            raise BrokenError(f"it ended after {position} of {expected} bytes", again=True)

    def _expect(self, size: int) -> None:
        """Hear how long the wheel is.

        Raises:
            WheelError: The lock says less.
            CapError: It is more than is allowed.
        """
        if self._wheel.size is not None and size > self._wheel.size:
            raise self._too_long(f"{size} bytes")
        self._check_length(size)
        if self._announced is None:
            self._announced = size
            self._source.budget.foresee(size)
        if not self._have:
            self._watch(Event(kind="fetching", subject=self._wheel.filename, total=size))

    def _take(self, data: bytes, position: int) -> None:
        """Take bytes that have come, which end at a position of the wheel."""
        self._source.budget.receive(len(data))
        if self._wheel.size is not None and position > self._wheel.size:
            raise self._too_long("more")
        self._check_length(position)

    def _check_length(self, size: int) -> None:
        """Refuse what is longer than any wheel, where nobody has said how long this one is."""
        if self._wheel.size is None and size > self._source.patience.largest:
            raise PackageIndexError(
                f"{self._wheel.filename} could not be fetched: more than {self._source.patience.largest} bytes come",
                kind="download-endless",
                hint="the server, or something on the way, is out of order",
            )

    def _new(self, data: bytes) -> bytes:
        self._have += len(data)
        self._watch(Event(kind="received", subject=self._wheel.filename, size=len(data)))
        return data

    def _too_long(self, came: str) -> WheelError:
        return WheelError(
            f"what the index sends has {came}, the lock says {self._wheel.size} bytes",
            kind="size-mismatch",
            path=self._wheel.filename,
            hint="the index or something on the way changed the file; do not use it",
        )

    def _failed(self, error: BrokenError, failures: int) -> PackageIndexError:
        tried = f" (tried {failures} times)" if failures > 1 else ""
        return PackageIndexError(
            f"{self._wheel.filename} could not be fetched: {error.reason}{tried}",
            kind=error.kind,
            hint=error.hint,
        )


def _strong(tag: str) -> str:
    """Return an entity tag that vouches for every byte, and nothing for another (RFC 9110, 8.8.1)."""
    return tag if tag.startswith('"') else ""


def _status(status: int) -> str:
    # Not in the server's own words: nobody knows what it puts there.
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
