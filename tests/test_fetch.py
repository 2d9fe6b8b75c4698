"""Fetching from an index that misbehaves: bounded, told apart, and nothing of it is stored."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vrfstore
from support.crash import litter
from support.index import Fault, Index
from support.wheels import WheelSpec, wheel_bytes, wheel_filename
from vrfstore import fs
from vrfstore.errors import CapError, PackageIndexError, ResolutionError, VrfstoreError, WheelError
from vrfstore.model import Event, LockedWheel, nobody, parse_digest
from vrfstore.requirements import fetch
from vrfstore.requirements.budget import Budget, Caps
from vrfstore.requirements.connections import Connections
from vrfstore.requirements.fetch import Fetched
from vrfstore.requirements.patience import Patience
from vrfstore.requirements.pip import PipSettings
from vrfstore.requirements.policy import Policy
from vrfstore.store.store import Store

SIZE = 200_000
BIG = WheelSpec(name="melon", files={"melon/noise.bin": random.Random(1).randbytes(SIZE)})
SMALL = [WheelSpec(name=name) for name in ("apple", "cherry", "fig", "pear")]

CHUNK = 1 << 18

QUICK = Patience(
    attempts=3, first_pause=0.01, longest_pause=0.3, slowest=50_000, window=0.4, largest=2 * SIZE
)
SETTINGS = PipSettings(timeout=0.3)
FILENAME = wheel_filename(BIG)


@pytest.fixture
def served() -> Iterator[Index]:
    """An index with one big wheel and some small ones."""
    with Index([BIG, *SMALL]) as index:
        yield index


def locked(index: Index, spec: WheelSpec = BIG, **other: Any) -> LockedWheel:
    """The wheel as a lock has it."""
    filename, content = wheel_filename(spec), wheel_bytes(spec)
    known: dict[str, Any] = {
        "name": spec.name,
        "version": spec.version,
        "filename": filename,
        "digest": parse_digest(hashlib.sha256(content).hexdigest()),
        "url": index.file_url(filename),
        "size": len(content),
    }
    return LockedWheel(**known | other)


def fetched(
    store: Store,
    wheels: Sequence[LockedWheel],
    *,
    budget: Budget | None = None,
    patience: Patience = QUICK,
    settings: PipSettings = SETTINGS,
    watch: Any = nobody,
) -> list[Fetched]:
    with store.session() as lease:
        return fetch.fetch(store, lease, wheels, settings, watch, budget, patience)


def failing(store: Store, wheels: Sequence[LockedWheel], **options: Any) -> VrfstoreError:
    """Fetch in vain; return the error, once it is seen that nothing half is left and little time has passed."""
    began = time.monotonic()
    with pytest.raises(VrfstoreError) as caught:
        fetched(store, wheels, **options)
    assert time.monotonic() - began < 8
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]
    assert litter(store) == []
    return caught.value


class Counted(Budget):
    """A budget that tells how many bytes have been taken."""

    def __init__(self, caps: Caps = Caps()) -> None:  # noqa: B008 - frozen
        super().__init__(caps)
        self.taken = 0

    def receive(self, size: int) -> None:
        self.taken += size
        super().receive(size)


def requests(index: Index, filename: str = FILENAME) -> int:
    return index.downloads(filename)


# --- what passes


PASSING: dict[str, Fault] = {
    "408": Fault(status=408),
    "429": Fault(status=429),
    "429, wait a moment": Fault(status=429, headers={"Retry-After": "0"}),
    "429, wait for an hour": Fault(status=429, headers={"Retry-After": "3600"}),
    "429, wait for ever": Fault(status=429, headers={"Retry-After": "9" * 5000}),
    "429, wait until": Fault(status=429, headers={"Retry-After": "Fri, 31 Dec 2999 23:59:59 GMT"}),
    "429, wait for what": Fault(status=429, headers={"Retry-After": "soon"}),
    "429, wait for less than nothing": Fault(status=429, headers={"Retry-After": "-5"}),
    "500": Fault(status=500),
    "502": Fault(status=502),
    "503": Fault(status=503),
    "504": Fault(status=504),
    "503 of great length": Fault(status=503, body=b"x" * 100_000),
    "503 without end": Fault(status=503, body=b"x" * 1000, length=False, endless=True),
    "reset before the head": Fault(in_head=True, cut=0, reset=True),
    "end before the head": Fault(in_head=True, cut=0),
    "reset in the head": Fault(in_head=True, cut=20, reset=True),
    "end in the head": Fault(in_head=True, cut=20),
    "head that is too long": Fault(in_head=True, endless=True),
    "head that drips": Fault(in_head=True, piece=1, pause=0.1),
    "reset in the body": Fault(cut=1000, reset=True),
    "end in the body": Fault(cut=1000),
    "end in a body in chunks": Fault(cut=1000, chunked=True),
    "end in a body without length": Fault(cut=1000, length=False),
    "more announced than comes": Fault(longer=10, goodbye=True),
    "no answer": Fault(pause=1.2),
    "stall in the body": Fault(piece=1000, pause=1.2),
    "drip in the body": Fault(piece=100, pause=0.05),
    "drip in the body in chunks": Fault(piece=100, pause=0.05, chunked=True),
}


@pytest.mark.parametrize("ranges", [False, True], ids=["whole", "in-parts"])
@pytest.mark.parametrize("fault", PASSING.values(), ids=list(PASSING))
def test_what_may_pass_is_tried_again(served: Index, store: Store, fault: Fault, *, ranges: bool) -> None:
    served.ranges = ranges
    wheel = locked(served) if fault != PASSING["more announced than comes"] else locked(served, size=None)
    served.misbehave(FILENAME, fault, Fault())
    (found,) = fetched(store, [wheel])
    assert found.size == len(wheel_bytes(BIG))
    # Where all is there that there is, there is no further part.
    assert requests(served) == (3 if ranges and fault.longer else 2)
    assert litter(store) == []


@pytest.mark.parametrize("fault", PASSING.values(), ids=list(PASSING))
def test_but_not_for_ever(served: Index, store: Store, fault: Fault) -> None:
    served.misbehave(FILENAME, fault)
    wheel = locked(served) if fault != PASSING["more announced than comes"] else locked(served, size=None)
    error = failing(store, [wheel])
    assert isinstance(error, PackageIndexError)
    assert (error.exit_code, error.kind) == (14, "download-failed")
    assert error.message.startswith(f"{FILENAME} could not be fetched: ")
    assert error.message.endswith("(tried 3 times)")
    assert requests(served) == 3
    served.behave(FILENAME)
    assert len(fetched(store, [wheel])) == 1


def test_what_broke_off_goes_on_where_it_broke_off(served: Index, store: Store) -> None:
    served.ranges = True
    served.misbehave(FILENAME, Fault(cut=150_000), Fault())
    events: list[Event] = []
    fetched(store, [locked(served)], watch=events.append, budget=Budget(Caps(received=len(wheel_bytes(BIG)))))
    first, second = served.headers[-2:]
    assert (first["Range"], second["Range"]) == (None, "bytes=150000-")
    assert second["If-Range"] == f'"{locked(served).digest[:16]}"'
    assert sum(event.size for event in events if event.kind == "received") == locked(served).size


def test_what_broke_off_and_has_no_parts_comes_again_and_counts_twice(served: Index, store: Store) -> None:
    served.misbehave(FILENAME, Fault(cut=150_000), Fault())
    events: list[Event] = []
    fetched(store, [locked(served)], watch=events.append)
    assert sum(event.size for event in events if event.kind == "received") == locked(served).size
    other = Store.open(f"{store.root}-other")
    served.misbehave(FILENAME, Fault(cut=150_000), Fault())
    error = failing(other, [locked(served)], budget=Budget(Caps(received=len(wheel_bytes(BIG)) + 10_000)))
    assert isinstance(error, CapError)
    assert error.kind == "max-bytes"


def test_parts_of_two_files_are_no_reason_to_refuse_either(served: Index, store: Store) -> None:
    served.ranges, served.tags = True, False
    wrong = b"<html>please log in</html>" + b"x" * 1000
    served.misbehave(FILENAME, Fault(body=wrong, longer=5, goodbye=True), Fault())
    assert len(fetched(store, [locked(served)])) == 1
    assert requests(served) == 3


def test_a_server_that_sends_the_wrong_part_is_asked_for_the_whole(served: Index, store: Store) -> None:
    served.ranges = True
    wrong = Fault(headers={"Content-Range": "bytes 0-9/10"})
    served.misbehave(FILENAME, Fault(cut=150_000), wrong, Fault())
    fetched(store, [locked(served)])
    assert [headers["Range"] for headers in served.headers] == [None, "bytes=150000-", None]


def test_pauses_grow_and_the_server_is_listened_to(served: Index, store: Store) -> None:
    served.misbehave(FILENAME, Fault(status=503, headers={"Retry-After": "1"}), Fault())
    patience = replace(QUICK, longest_pause=5)
    began = time.monotonic()
    fetched(store, [locked(served)], patience=patience)
    assert 1 <= time.monotonic() - began < 5


def test_a_server_that_asks_for_too_much_patience_is_named(served: Index, store: Store) -> None:
    served.misbehave(FILENAME, Fault(status=429, headers={"Retry-After": "3600"}))
    error = failing(store, [locked(served)])
    assert "429 Too Many Requests" in error.message
    assert error.hint == "the server asks to try again in 3600 s; what has been fetched is kept"


# --- what does not pass


HOPELESS: dict[str, tuple[Fault, int, str, str]] = {
    "401": (Fault(status=401), 14, "download-failed", "401 Unauthorized"),
    "403": (Fault(status=403), 14, "download-failed", "403 Forbidden"),
    "404": (Fault(status=404), 14, "download-failed", "404 Not Found"),
    "410": (Fault(status=410), 14, "download-failed", "410 Gone"),
    "418": (Fault(status=418), 14, "download-failed", "418 I'm a Teapot"),
    "511": (Fault(status=511), 14, "download-failed", "511 Network Authentication Required"),
    "a part that nobody asked for": (Fault(status=206), 14, "download-failed", "206 Partial Content"),
    "another file": (Fault(body=random.Random(2).randbytes(1000)), 18, "hash-mismatch", "the lock says"),
    "a page": (
        Fault(body=b"<html>log in</html>", headers={"Content-Type": "text/html"}), 18, "hash-mismatch", "SHA-256",
    ),
    "nothing": (Fault(body=b""), 18, "hash-mismatch", "SHA-256"),
    "too long": (Fault(body=b"x" * (SIZE * 2)), 18, "size-mismatch", "has 400000 bytes"),
    "too long in chunks": (
        Fault(body=b"x" * (SIZE * 2), chunked=True, piece=5000), 18, "size-mismatch", "has more",
    ),
    "endless": (Fault(length=False, endless=True), 18, "size-mismatch", "has more"),
    "endless in chunks": (Fault(chunked=True, endless=True), 18, "size-mismatch", "has more"),
    "redirected to a file": (
        Fault(status=302, headers={"Location": "file:///etc/passwd"}), 14, "redirect-refused", "file: URL",
    ),
    "redirected to FTP": (
        Fault(status=301, headers={"Location": "ftp://127.0.0.1/x"}), 14, "redirect-refused", "ftp: URL",
    ),
    "redirected to nowhere": (Fault(status=302), 14, "redirect-refused", "nowhere"),
    "redirected to nonsense": (
        Fault(status=302, headers={"Location": "http://[::1"}), 14, "redirect-refused", "no URL",
    ),
    "redirected to a port that is none": (
        Fault(status=302, headers={"Location": "http://127.0.0.1:x/"}), 14, "redirect-refused", "no URL",
    ),
    "redirected to itself": (
        Fault(status=307, headers={"Location": f"/files/{FILENAME}"}),
        14, "redirect-refused", "more than 5 times",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "code", "kind", "words"), HOPELESS.values(), ids=list(HOPELESS))
def test_what_will_not_pass_is_not_tried_again(
    served: Index, store: Store, fault: Fault, code: int, kind: str, words: str
) -> None:
    served.misbehave(FILENAME, fault)
    budget = Counted()
    error = failing(store, [locked(served)], budget=budget)
    assert (error.exit_code, error.kind) == (code, kind)
    assert words in error.message
    assert "tried" not in error.message
    assert requests(served) == (6 if "more than" in words else 1)
    assert store.entries() == []
    assert budget.taken <= len(wheel_bytes(BIG)) + CHUNK


def test_what_nobody_knows_the_length_of_has_an_end_all_the_same(served: Index, store: Store) -> None:
    served.misbehave(FILENAME, Fault(chunked=True, endless=True))
    budget = Counted()
    error = failing(store, [locked(served, size=None)], budget=budget)
    assert (error.exit_code, error.kind) == (14, "download-endless")
    assert budget.taken <= QUICK.largest + CHUNK


def test_no_server_at_all(store: Store) -> None:
    error = failing(store, [replace(locked_anywhere(), url="http://127.0.0.1:9/melon.whl")])
    assert "there is no connection: Connection refused (tried 3 times)" in error.message


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/x", "gopher://127.0.0.1/x", "http:///x", ""])
def test_what_is_no_url(store: Store, url: str) -> None:
    error = failing(store, [replace(locked_anywhere(), url=url)])
    assert (error.kind, error.message) == (
        "download-failed", f"{FILENAME} could not be fetched: it has no URL that can be asked for",
    )  # fmt: skip


def locked_anywhere() -> LockedWheel:
    with Index([BIG]) as index:
        return locked(index)


# --- what is longer or shorter than somebody says


def test_a_lie_about_the_size_matters_only_where_more_comes(served: Index, store: Store) -> None:
    whole = len(wheel_bytes(BIG))
    error = failing(store, [locked(served, size=whole - 1)])
    assert (error.exit_code, error.kind) == (18, "size-mismatch")
    assert len(fetched(store, [locked(served, size=whole + 1)])) == 1


def test_what_comes_after_the_announced_end_is_not_taken_for_the_next_answer(
    served: Index, store: Store
) -> None:
    served.misbehave("apple-1.0-py3-none-any.whl", Fault(longer=-len(b"tail"), body=APPLE + b"tail"))
    wheels = [locked(served, spec) for spec in SMALL[:1]]
    fetched(store, wheels)
    with store.session() as lease:
        source_of = [locked(served, spec) for spec in SMALL]
        fetch.fetch(store, lease, source_of, SETTINGS, nobody, None, QUICK)
    assert len(store.entries()) == len(SMALL)


APPLE = wheel_bytes(SMALL[0])


def test_local_files_are_read_and_bounded_as_well(tmp_path: Path, store: Store) -> None:
    path = tmp_path / FILENAME
    path.write_bytes(wheel_bytes(BIG))
    wheel = replace(locked_anywhere(), url=path.as_uri())
    assert failing(store, [wheel], budget=Budget(Caps(received=SIZE // 2))).kind == "max-bytes"
    assert failing(store, [replace(wheel, size=10)]).kind == "size-mismatch"
    assert len(fetched(store, [wheel])) == 1
    gone = replace(wheel, url=(tmp_path / "gone.whl").as_uri(), digest=parse_digest("0" * 64))
    assert failing(store, [gone]).kind == "wheel-missing"


# --- redirects, and who we are to whom


def seen(index: Index) -> list[str | None]:
    """What was sent as ``Authorization`` with each request for a file."""
    return [headers["Authorization"] for headers in index.headers]


def test_redirects_are_followed_to_another_host_without_credentials(store: Store) -> None:
    with Index([BIG], credentials=("gardener", "hunter2")) as home, Index([BIG]) as other:
        settings = replace(SETTINGS, extra_indexes=(home.url_with_credentials, other_with_password(other)))
        elsewhere = other.file_url(FILENAME).replace("//", "//thief:trap@") + "?token=x"
        home.misbehave(FILENAME, Fault(status=302, headers={"Location": elsewhere}))
        fetched(store, [locked(home)], settings=settings)
        assert seen(home)[0] is not None
        assert seen(other) == [None]


def other_with_password(index: Index) -> str:
    return index.url.replace("//", "//gardener:hunter2@")


def test_redirects_on_the_same_host_keep_them(store: Store) -> None:
    moved = "moved-1.0-py3-none-any.whl"
    with Index([BIG], credentials=("gardener", "hunter2")) as index:
        index.add(wheel_bytes(BIG), moved)
        settings = replace(SETTINGS, extra_indexes=(index.url_with_credentials,))
        index.misbehave(FILENAME, Fault(status=308, headers={"Location": moved}))
        fetched(store, [locked(index)], settings=settings)
        assert None not in seen(index)
        assert index.connections == 1


def test_who_sent_us_away_does_not_get_them_when_we_are_sent_back(store: Store) -> None:
    with Index([BIG], credentials=("gardener", "hunter2")) as home, Index([BIG]) as other:
        home.misbehave(FILENAME, Fault(status=302, headers={"Location": other.file_url(FILENAME)}))
        other.misbehave(FILENAME, Fault(status=302, headers={"Location": home.file_url(FILENAME)}))
        error = failing(
            store, [locked(home)], settings=replace(SETTINGS, extra_indexes=(home.url_with_credentials,))
        )
        assert "401 Unauthorized" in error.message
        assert (seen(home)[1:], seen(other)) == ([None], [None])


def test_netrc_is_asked_where_no_index_is_meant(store: Store) -> None:
    with Index([BIG], credentials=("gardener", "hunter2")) as index:
        netrc = Path(os.environ["HOME"], ".netrc")
        netrc.write_text("machine 127.0.0.1 login gardener password hunter2\n")
        netrc.chmod(0o600)
        fetched(store, [locked(index)], settings=replace(SETTINGS, extra_indexes=("http://a:b@elsewhere/",)))


SECRET: dict[str, Fault] = PASSING | {name: row[0] for name, row in HOPELESS.items()}


@pytest.mark.parametrize("fault", SECRET.values(), ids=list(SECRET))
def test_no_failure_tells_a_password(store: Store, fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    with Index([BIG], credentials=("gardener", "hunter2")) as index:
        index.misbehave(FILENAME, fault)
        error = failing(
            store,
            [locked(index)],
            settings=replace(SETTINGS, extra_indexes=(index.url_with_credentials,)),
            patience=replace(QUICK, attempts=1),
            watch=events.append,
        )
        assert None not in seen(index)
    said = [str(error), error.hint, *map(str, events), caplog.text]
    cause: BaseException | None = error
    while cause is not None:
        said.append(repr(cause))
        cause = cause.__cause__ or cause.__context__
    for secret in ("hunter2", "gardener", "Z2FyZGVuZXI"):
        assert secret not in "\n".join(map(str, said))


def test_a_proxy_is_used_with_what_it_wants_to_know(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    with Index([BIG]) as proxy:
        settings = replace(SETTINGS, proxy=f"http://ann:secret@{proxy.url.split('/')[2]}")
        fetched(
            store, [replace(locked(proxy), url=f"http://far.example/files/{FILENAME}")], settings=settings
        )
        assert proxy.headers[0]["Proxy-Authorization"] == "Basic YW5uOnNlY3JldA=="
        assert proxy.headers[0]["Authorization"] is None


# --- TLS


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(store: Store, certificate: Path) -> None:
    with Index([BIG], certificate=certificate) as index:
        error = failing(store, [locked(index)])
        assert error.kind == "download-failed"
        assert "certificate is not accepted: self" in error.message
        assert "tried" not in error.message
        assert (
            len(fetched(store, [locked(index)], settings=replace(SETTINGS, certificate=str(certificate))))
            == 1
        )


def test_https_is_not_left(served: Index, store: Store, certificate: Path) -> None:
    with Index([BIG], certificate=certificate) as index:
        index.misbehave(FILENAME, Fault(status=302, headers={"Location": served.file_url(FILENAME)}))
        error = failing(store, [locked(index)], settings=replace(SETTINGS, certificate=str(certificate)))
        assert (error.exit_code, error.kind) == (14, "redirect-refused")
        assert "from https: to http:" in error.message
    assert served.requests == []


@pytest.mark.parametrize("fault", [Fault(pause=30), Fault(piece=10, pause=0.1), Fault(cut=1000)])
def test_a_line_of_tls_is_cut_as_well(store: Store, certificate: Path, fault: Fault) -> None:
    with Index([BIG], certificate=certificate) as index:
        index.misbehave(FILENAME, fault)
        began = time.monotonic()
        error = failing(
            store,
            [locked(index)],
            budget=Budget(Caps(seconds=0.7)),
            settings=PipSettings(timeout=15, certificate=str(certificate)),
            patience=Patience(),
        )
        assert (error.exit_code, error.kind) == (13, "max-time")
        assert time.monotonic() - began < 5


# --- connections


def test_connections_are_kept_and_made_anew_where_the_server_ends_them(served: Index, store: Store) -> None:
    for spec in SMALL:
        served.misbehave(wheel_filename(spec), Fault(goodbye=True))
    wheels = [locked(served, spec) for spec in SMALL]
    assert len(fetched(store, wheels)) == len(SMALL)


def test_many_wheels_need_few_connections(store: Store) -> None:
    specs = [WheelSpec(name=f"seed{number}") for number in range(40)]
    with Index(specs) as index:
        assert len(fetched(store, [locked(index, spec) for spec in specs])) == 40
        assert index.connections <= 8
        assert len(index.requests) == 40
        assert fetch.present(store, [locked(index, spec) for spec in specs])[1] == []


def test_wheels_that_wait_for_the_disk_keep_no_others_from_being_received_eight_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [WheelSpec(name=f"seed{number}") for number in range(20)]
    guard, come = threading.Lock(), threading.Semaphore(0)
    receiving, most = 0, 0
    receive, sync = Store.receive, fs.sync_filesystem

    def counted(self: Store, *arguments: Any) -> Any:
        nonlocal receiving, most
        with guard:
            receiving += 1
            most = max(most, receiving)
        try:
            time.sleep(0.02)
            return receive(self, *arguments)
        finally:
            with guard:
                receiving -= 1
            come.release()

    def late(*arguments: Any) -> None:
        # The disk does nothing until all have come.
        assert all(come.acquire(timeout=5) for _ in specs)
        monkeypatch.setattr(fs, "sync_filesystem", sync)
        sync(*arguments)

    monkeypatch.setattr(Store, "receive", counted)
    monkeypatch.setattr(fs, "sync_filesystem", late)
    with Index(specs) as index:
        assert len(fetched(store, [locked(index, spec) for spec in specs])) == len(specs)
    assert most == 8


def test_certificates_are_read_where_there_is_tls_only(
    served: Index, store: Store, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = Connections._new_context

    def noted(self: Connections, *, trusted: bool) -> Any:
        read.append(1)
        return original(self, trusted=trusted)

    monkeypatch.setattr(Connections, "_new_context", noted)
    assert len(fetched(store, [locked(served, spec) for spec in SMALL])) == len(SMALL)
    assert read == []
    with Index([BIG], certificate=certificate) as index:
        settings = replace(SETTINGS, certificate=str(certificate))
        assert len(fetched(store, [locked(index)], settings=settings)) == 1
    assert read == [1]


# --- caps


def test_what_is_known_to_be_too_much_is_not_begun(served: Index, store: Store) -> None:
    wheels = [locked(served), locked(served, SMALL[0])]
    total = sum(wheel.size or 0 for wheel in wheels)
    error = failing(store, wheels, budget=Budget(Caps(received=total - 1)))
    assert (error.exit_code, error.kind) == (13, "max-bytes")
    assert served.requests == []
    assert len(fetched(store, wheels, budget=Budget(Caps(received=total)))) == 2


def test_what_is_too_much_as_the_server_says_is_not_read(served: Index, store: Store) -> None:
    budget = Counted(Caps(received=SIZE))
    error = failing(store, [locked(served, size=None)], budget=budget)
    assert (error.exit_code, error.kind) == (13, "max-bytes")
    assert budget.taken == 0


def test_eight_threads_together_read_no_more_than_a_chunk_too_much(store: Store) -> None:
    specs = [
        WheelSpec(name=f"seed{number}", files={"s.bin": random.Random(number).randbytes(300_000)})
        for number in range(8)
    ]
    with Index(specs) as index:
        for spec in specs:
            index.misbehave(wheel_filename(spec), Fault(chunked=True, endless=True))
        budget = Counted(Caps(received=1_000_000))
        wheels = [locked(index, spec, size=None) for spec in specs]
        error = failing(store, wheels, budget=budget, patience=replace(QUICK, largest=1 << 30))
    assert (error.exit_code, error.kind) == (13, "max-bytes")
    assert 1_000_000 < budget.taken <= 1_000_000 + CHUNK


def test_what_came_whole_stays_when_a_cap_is_hit_and_only_the_rest_comes_next(
    served: Index, store: Store
) -> None:
    wheels = [locked(served, size=None), *(locked(served, spec) for spec in SMALL)]
    small = sum(wheel.size or 0 for wheel in wheels)
    done = threading.Event()

    def watch(event: Event) -> None:
        if event.kind == "unpacked":
            names.append(event.subject)
            if len(names) == len(SMALL):
                done.set()

    class Late(Budget):
        def receive(self, size: int) -> None:
            if size > 5000:
                done.wait(5)
            super().receive(size)

    names: list[str] = []
    served.misbehave(FILENAME, Fault(chunked=True))
    error = failing(store, wheels, budget=Late(Caps(received=small + 20_000)), watch=watch)
    assert (error.exit_code, error.kind) == (13, "max-bytes")
    assert len(store.entries()) == len(SMALL)
    served.requests.clear()
    _, missing = fetch.present(store, wheels)
    fetched(store, missing)
    assert served.requests == [("GET", f"/files/{FILENAME}")]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(pause=30),
        Fault(in_head=True, piece=1, pause=0.1),
        Fault(piece=100, pause=0.02),
        Fault(status=503, headers={"Retry-After": "5"}),
        Fault(chunked=True, endless=True, piece=100, pause=0.01),
    ],
    ids=["no answer", "head that drips", "drip", "asks to wait", "endless"],
)
@pytest.mark.parametrize("size", [None, SIZE + 903])
def test_time_is_over_whatever_takes_it(served: Index, store: Store, fault: Fault, size: int | None) -> None:
    served.misbehave(FILENAME, fault)
    began = time.monotonic()
    error = failing(
        store,
        [locked(served, size=size)],
        budget=Budget(Caps(seconds=0.5)),
        settings=PipSettings(timeout=15),
        patience=replace(QUICK, longest_pause=10, window=30, slowest=1),
    )
    assert (error.exit_code, error.kind) == (13, "max-time")
    assert time.monotonic() - began < 5


def test_no_time_at_all(served: Index, store: Store) -> None:
    assert failing(store, [locked(served)], budget=Budget(Caps(seconds=0))).kind == "max-time"
    assert served.requests == []


def test_time_is_over_while_another_process_has_the_wheel(served: Index, store: Store) -> None:
    wheel = locked(served)
    with store.hold_entry(wheel.digest):
        assert failing(store, [wheel], budget=Budget(Caps(seconds=0.3))).kind == "max-time"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="small wheels are unpacked where they are")
def test_time_is_over_while_something_is_unpacked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vrfstore.store.unpacking._ALONE", 1000)
    slow = WheelSpec(name="slow", files={f"slow/{number}.py": "x = 1\n" for number in range(8000)})
    with Index([slow]) as index:
        wheel = locked(index, slow)
        began = time.monotonic()
        error = failing(store, [wheel], budget=Budget(Caps(seconds=0.6)), patience=Patience())
        assert error.kind == "max-time"
        assert time.monotonic() - began < 3
        assert store.entries() == []


def test_what_unpacks_to_too_much_is_not_unpacked(served: Index, store: Store) -> None:
    error = failing(store, [locked(served)], budget=Budget(Caps(unpacked=SIZE)))
    assert (error.exit_code, error.kind) == (13, "max-unpacked")
    assert store.entries() == []
    (found,) = fetched(store, [locked(served)], budget=Budget(Caps(unpacked=SIZE + 1000)))
    assert found.plan.unpacked > SIZE


def test_what_is_no_archive_is_refused_for_that(store: Store) -> None:
    with Index() as index:
        index.add(b"no archive", FILENAME)
        digest = parse_digest(hashlib.sha256(b"no archive").hexdigest())
        error = failing(store, [locked(index, digest=digest, size=None)], budget=Budget(Caps(unpacked=SIZE)))
    assert (error.exit_code, error.kind) == (18, "wheel-archive")


# --- being stopped


@pytest.mark.parametrize(
    "fault", [Fault(pause=30), Fault(piece=10, pause=0.1), Fault(in_head=True, piece=1, pause=0.1)]
)
def test_a_failure_stops_all_others_at_once(served: Index, store: Store, fault: Fault) -> None:
    served.misbehave(FILENAME, fault)
    served.delay["apple-1.0-py3-none-any.whl"] = 0.3
    served.corrupt("apple-1.0-py3-none-any.whl")
    began = time.monotonic()
    error = failing(
        store,
        [locked(served), locked(served, SMALL[0])],
        settings=PipSettings(timeout=15),
        patience=Patience(),
    )
    assert isinstance(error, WheelError)
    assert error.kind == "hash-mismatch"
    assert time.monotonic() - began < 5


def test_so_does_an_interruption(served: Index, store: Store) -> None:
    served.misbehave(FILENAME, Fault(pause=30))
    began = time.monotonic()

    def interrupt(event: Event) -> None:
        if event.kind == "missing":
            main = threading.main_thread().ident or 0
            threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        fetched(
            store,
            [locked(served)],
            settings=PipSettings(timeout=15),
            patience=Patience(),
            watch=interrupt,
        )
    assert time.monotonic() - began < 5
    assert litter(store) == []


def test_one_wheel_alone_comes_the_same_way(served: Index) -> None:
    served.misbehave(FILENAME, Fault(status=503), Fault())
    got = b"".join(fetch.chunks(locked(served), SETTINGS, nobody, patience=QUICK))
    assert got == wheel_bytes(BIG)
    served.misbehave(FILENAME, Fault(status=404))
    with pytest.raises(PackageIndexError, match="404"):
        list(fetch.chunks(locked(served), SETTINGS, nobody, patience=QUICK))
    served.misbehave(FILENAME, Fault(pause=30))
    with pytest.raises(CapError):
        list(fetch.chunks(locked(served), SETTINGS, nobody, Budget(Caps(seconds=0.3)), Patience()))


def test_an_index_without_hashes_is_not_fetched_from(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("apple\n")
    with Index(SMALL) as index:
        index.without_hashes = True
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        with pytest.raises(ResolutionError) as caught:
            vrfstore.link(requirements, store=store, policy=Policy(resolver="pip"))
        assert (caught.value.exit_code, caught.value.kind) == (11, "no-hash")
        assert index.downloads("apple-1.0-py3-none-any.whl") <= 1
        assert store.entries() == []
        assert litter(store) == []
        # uv computes what the index does not say, and what is fetched is held against that.
        (package,) = vrfstore.link(requirements, store=store, policy=Policy(resolver="uv")).packages
        assert package.digest == locked(index, SMALL[0]).digest
