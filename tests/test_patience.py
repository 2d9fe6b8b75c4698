"""What fetching puts up with, decided without any network."""

from __future__ import annotations

import ssl
from urllib.parse import SplitResult, urlsplit

import pytest
import urllib3.exceptions

from vrfstore.requirements.connections import describe
from vrfstore.requirements.credentials import Credentials
from vrfstore.requirements.patience import Pace, Patience, may_pass, next_url, parsed, retry_after, same_host


def test_pauses_double_and_are_bounded() -> None:
    patience = Patience(first_pause=1, longest_pause=10)
    assert [patience.pause(failures, None, 0) for failures in range(1, 6)] == [1, 2, 4, 8, 10]
    assert patience.pause(1, None, 1) == 0.5
    assert patience.pause(2000, None, 0.5) == 10


@pytest.mark.parametrize(("asked", "pause"), [(0, 1), (3, 3), (11, 10), (float("inf"), 10)])
def test_a_server_that_asks_gets_at_least_that_but_not_more_than_the_longest(
    asked: float, pause: float
) -> None:
    assert Patience(first_pause=1, longest_pause=10).pause(1, asked, 0) == pause


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("0", 0),
        (" 120 ", 120),
        ("9" * 5000, float("inf")),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200),
        ("Thu, 01 Jan 1970 00:20:00", 200),
        ("Thu, 01 Jan 1970 00:10:00 GMT", 0),
        ("Thu, 99 Jan 1970 00:10:00 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, 1000) == seconds


def test_what_may_pass() -> None:
    assert [status for status in range(100, 600) if may_pass(status)] == [408, 429, 500, 502, 503, 504]


def url(text: str) -> SplitResult:
    return urlsplit(text)


@pytest.mark.parametrize(
    ("start", "location", "target"),
    [
        ("https://a/x/y.whl", "z.whl", "https://a/x/z.whl"),
        ("https://a/x/y.whl", "//b/z.whl", "https://b/z.whl"),
        ("http://a/x/y.whl", "https://a/z.whl?t=1#part", "https://a/z.whl?t=1"),
        ("https://a/x", "https://user:word@b:8080/z", "https://b:8080/z"),
    ],
)
def test_where_a_redirect_leads(start: str, location: str, target: str) -> None:
    assert next_url(url(start), location).geturl() == target


@pytest.mark.parametrize(
    ("location", "words"),
    [
        (None, "nowhere"),
        ("", "nowhere"),
        ("http://a/x", "from https: to http:"),
        ("file:///etc/passwd", "file: URL"),
        ("ftp://a/x", "ftp: URL"),
        ("https://a:secret/x", "no URL"),
        ("https://[::1", "no URL"),
    ],
)
def test_where_no_redirect_may_lead(location: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        next_url(url("https://a/x"), location)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "x", "file:///x", "http:///x", "http://a:b/", "http://a:0/", "http://[/"]
)
def test_what_cannot_be_asked_for(text: str) -> None:
    assert parsed(text) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a/", "https://A:443/x", True),
        ("http://a/", "https://a/", True),
        ("http://a:80/", "https://a:443/", True),
        ("https://a/", "https://a:8443/", False),
        ("http://a:8080/", "https://a:8080/", True),
        ("http://a/", "http://b/", False),
        ("http://a/", "http://a.b/", False),
    ],
)
def test_hosts(one: str, other: str, same: bool) -> None:
    assert same_host(url(one), url(other)) is same
    assert same_host(url(other), url(one)) is same


def test_credentials_are_for_their_host_only_and_not_less_secret_than_they_were() -> None:
    known = Credentials(
        ["https://ann:p%40ss@a/simple", "http://bob@b:8080/simple", "https://c/simple", "no url"]
    )
    assert known.to(url("https://a:443/file")) == ("ann", "p@ss")
    assert known.to(url("http://b:8080/file")) == ("bob", "")
    for other in (
        "http://a/file",
        "https://a:8443/file",
        "https://b/file",
        "https://c/file",
        "https://aa/file",
    ):
        assert known.to(url(other)) is None


# --- pace


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pace_counts_the_time_of_waiting_only() -> None:
    clock = Clock()
    pace = Pace(100, 10, clock)
    for _ in range(20):
        pace.wait()
        clock.now += 1
        pace.take(99)
        clock.now += 1000  # our own affair
    assert pace.too_slow
    pace = Pace(100, 10, clock)
    for _ in range(100):
        pace.wait()
        clock.now += 1
        pace.take(100)
        clock.now += 1000
        assert not pace.too_slow


def test_a_pace_that_was_good_does_not_excuse_what_comes_after() -> None:
    clock = Clock()
    pace = Pace(100, 10, clock)
    pace.wait()
    clock.now += 10
    pace.take(10**9)
    pace.wait()
    clock.now += 9.9
    assert not pace.too_slow
    clock.now += 0.1
    assert pace.too_slow


# --- words


class _OtherError(Exception):
    """What says where it came from in a way of its own."""


def test_a_certificate_that_is_refused_is_refused_again() -> None:
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_message = "self-signed certificate"
    words, again = describe(urllib3.exceptions.SSLError(cause))
    assert (words, again) == ("the server's certificate is not accepted: self-signed certificate", False)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (urllib3.exceptions.SSLError("x"), "TLS failed"),
        (urllib3.exceptions.ProxyError("x", _OtherError()), "the proxy gives no connection"),
        (
            urllib3.exceptions.ProtocolError("x", ConnectionResetError(104, "reset")),
            "the connection broke: reset",
        ),
        (urllib3.exceptions.ProtocolError("secret"), "the connection broke"),
        (urllib3.exceptions.ConnectTimeoutError("x"), "the server did not answer in time"),
        (TimeoutError(), "the server did not answer in time"),
    ],
)
def test_what_may_pass_is_told_in_our_own_words(error: Exception, words: str) -> None:
    assert describe(error) == (words, True)
