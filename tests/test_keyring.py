"""Keyrings: asked where pip would ask one, once, and what they say is for the index alone."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from support.bases import base_with, site_packages
from support.commands import Command, secrets_in, with_resolver
from support.index import Fault, Index
from support.keyrings import Keyring
from support.wheels import WheelSpec
from vrfstore.errors import CapError, PackageIndexError
from vrfstore.model import LockedWheel, nobody, parse_digest
from vrfstore.requirements import fetch, keyring
from vrfstore.requirements.budget import Budget, Caps
from vrfstore.requirements.credentials import Credentials, authorization
from vrfstore.requirements.keyring import Keyring as Asked
from vrfstore.requirements.patience import parsed
from vrfstore.requirements.pip import PipSettings
from vrfstore.requirements.sizes import with_sizes
from vrfstore.store.store import Store

HOUSE = [WheelSpec(name="house", requires=["house-core"]), WheelSpec(name="house-core")]
FOUND = {"house": "1.0", "house-core": "1.0"}
FILES = ["house-1.0-py3-none-any.whl", "house_core-1.0-py3-none-any.whl"]
USER, SECRET = "gardener", "hush-7f3a9"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.fixture
def garden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keyring:
    """A keyring that knows nothing yet."""
    return Keyring(tmp_path / "garden", monkeypatch)


@pytest.fixture
def private() -> Iterator[Index]:
    """An index that wants to know who we are."""
    with Index(HOUSE, credentials=(USER, SECRET)) as served:
        yield served


@pytest.fixture
def command(command: Command, resolver: str) -> Command:
    return with_resolver(command, resolver)


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.vrf"
    path.write_text("house\n")
    return path


def with_user(index: Index, user: str = USER) -> str:
    return index.url.replace("//", f"//{user}@")


def host(index: Index) -> str:
    return urlsplit(index.url).netloc


# --- from the configuration to the environment


@pytest.mark.parametrize("provider", ["subprocess", "import"])
@pytest.mark.parametrize("service", ["index", "host"])
def test_only_the_keyring_knows_the_password(
    garden: Keyring,
    private: Index,
    asked: Path,
    command: Command,
    store: Store,
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    provider: str,
    service: str,
) -> None:
    garden.knows((private.url if service == "index" else host(private), USER, SECRET))
    monkeypatch.setenv("PIP_KEYRING_PROVIDER", provider)
    monkeypatch.setenv("PIP_INDEX_URL", with_user(private))
    python = sys.executable
    if provider == "subprocess":
        garden.on_path()
    else:
        # pip looks for the package where it runs.
        python = base_with(tmp_path / "base")
        (site_packages(tmp_path / "base") / "keyring.pth").write_text(
            f"{garden.packages}\n{garden.directory}\n"
        )
    output = tmp_path / "out/pylock.toml"
    output.parent.mkdir()
    for words in (("link", asked), ("lock", asked, "-o", output)):
        ended = command(*words, "--python", python)
        assert ended.versions.keys() >= FOUND.keys()
        assert SECRET not in ended.out + ended.err
    assert SECRET not in " ".join(started) + garden.started
    assert secrets_in(store.root, SECRET) + secrets_in(output.parent, SECRET) == []
    assert all(map(private.downloads, FILES))
    assert garden.asked
    assert not garden.has_terminal


def test_no_user_is_needed_in_the_url(
    garden: Keyring,
    private: Index,
    asked: Path,
    command: Command,
    store: Store,
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = "of/the:p@ck %41"
    private._credentials = (USER, odd)
    garden.knows((host(private), USER, odd))
    garden.on_path()
    monkeypatch.setenv("PIP_KEYRING_PROVIDER", "subprocess")
    monkeypatch.setenv("PIP_INDEX_URL", private.url)
    ended = command("link", asked)
    assert ended.versions == FOUND
    assert odd not in ended.out + ended.err + " ".join(started)
    assert secrets_in(store.root, odd) + secrets_in(store.root, quote(odd, safe="")) == []


def test_of_several_indexes_each_may_have_its_password_in_the_keyring(
    garden: Keyring,
    private: Index,
    asked: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    garden.on_path()
    monkeypatch.setenv("PIP_KEYRING_PROVIDER", "subprocess")
    newer = [WheelSpec(name="house", version="2.0"), WheelSpec(name="house-core", version="0.1")]
    with Index(newer[1:]) as public, Index(newer[:1], credentials=("ann", "of-elsewhere")) as team:
        garden.knows((private.url, USER, SECRET), (host(team), "ann", "of-elsewhere"))
        monkeypatch.setenv("PIP_INDEX_URL", public.url)
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{private.url} {with_user(team, 'ann')}")
        assert command("link", asked).versions == {"house": "2.0"}


def test_of_several_indexes_one_that_refuses_us_is_named(
    garden: Keyring,
    private: Index,
    asked: Path,
    command: Command,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Index([WheelSpec(name="tree")]) as public:
        monkeypatch.setenv("PIP_INDEX_URL", public.url)
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", with_user(private, f"{USER}:{SECRET}x"))
        ended = command("link", asked)
        assert (ended.code, ended.kind) == (14, "index-unreachable")
        assert "401 Client Error: Unauthorized" in ended.document["error"]["message"]
        assert SECRET not in ended.out + ended.err
        assert garden.asked == []
        assert secrets_in(store.root, SECRET) == []
        # What no index has is not there, whoever refuses us elsewhere.
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", with_user(private, f"{USER}:{SECRET}"))
        asked.write_text("barn\n")
        assert command("link", asked).kind == "package-missing"


@pytest.mark.parametrize("provider", ["", "auto", "disabled", "subprocess", "import"])
def test_without_one_it_ends_with_what_to_do(
    garden: Keyring,
    private: Index,
    asked: Path,
    command: Command,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
) -> None:
    if provider not in {"subprocess", "import"}:
        # There is one, but nobody has said that it may be asked.
        garden.knows((private.url, USER, SECRET))
        garden.on_path()
    if provider:
        monkeypatch.setenv("PIP_KEYRING_PROVIDER", provider)
    monkeypatch.setenv("PIP_INDEX_URL", with_user(private))
    ended = command("link", asked)
    assert (ended.code, ended.kind) == (14, "index-unreachable")
    assert "keyring-provider is import or subprocess" in ended.document["error"]["hint"]
    if provider != "import":
        assert garden.asked == []
    assert secrets_in(store.root, SECRET) == []


# --- who is asked, and when


def locked(index: Index) -> list[LockedWheel]:
    return [
        LockedWheel(
            name=spec.name,
            version="1.0",
            filename=name,
            digest=parse_digest(index._files[name].sha256),
            url=index.file_url(name),
        )
        for spec, name in zip(HOUSE, FILES, strict=True)
    ]


def fetched(store: Store, served: Index, budget: Budget | None = None, **settings: Any) -> None:
    with store.session() as lease:
        fetch.fetch(store, lease, locked(served), PipSettings(retries=0, **settings), nobody, budget)


def test_fetching_asks_once_though_several_are_refused(garden: Keyring, private: Index, store: Store) -> None:
    garden.knows((host(private), USER, SECRET))
    fetched(store, private, keyring="import", index=private.url)
    assert garden.asked == [(private.url, None), (host(private), None)]
    assert not garden.has_terminal


def test_sizes_are_asked_for_as_well(garden: Keyring, private: Index) -> None:
    garden.mood("talks")
    garden.knows((host(private), USER, SECRET))
    found = with_sizes(locked(private), PipSettings(keyring="import"), Budget())
    assert None not in [wheel.size for wheel in found]


def test_nobody_is_asked_whom_an_index_lets_in(garden: Keyring, store: Store, private: Index) -> None:
    with Index(HOUSE) as index:
        fetched(store, index, keyring="import", index=with_user(index))
    assert garden.asked == []


def test_nor_where_a_password_is_written_down(garden: Keyring, store: Store, private: Index) -> None:
    garden.knows((host(private), USER, SECRET))
    with pytest.raises(PackageIndexError, match="401"):
        fetched(store, private, keyring="import", index=with_user(private, "gardener:wrong"))
    assert garden.asked == []


def test_netrc_comes_first_and_a_keyring_after_it(garden: Keyring, store: Store, private: Index) -> None:
    garden.knows((host(private), USER, SECRET))
    netrc = Path(os.environ["HOME"], ".netrc")
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {SECRET}\n")
    fetched(store, private, keyring="import", index=with_user(private))
    assert garden.asked == []
    netrc.write_text(f"machine 127.0.0.1 login {USER} password of-yesterday\n")
    assert None not in [
        wheel.size for wheel in with_sizes(locked(private), PipSettings(keyring="import"), Budget())
    ]
    assert garden.asked == [(host(private), None)]


def test_a_host_elsewhere_is_not_told(garden: Keyring, store: Store, private: Index) -> None:
    garden.knows((host(private), USER, SECRET))
    with Index(HOUSE) as thief:
        thief._credentials = ("thief", "trap")
        for name in FILES:
            private.misbehave(name, Fault(status=302, headers={"Location": thief.file_url(name)}))
        with pytest.raises(PackageIndexError, match="401"):
            fetched(store, private, keyring="import", index=private.url)
        assert [headers["Authorization"] for headers in thief.headers] == [None] * len(thief.headers)
        assert host(thief) not in [service for service, _ in garden.asked]


def test_what_is_for_https_is_not_asked_for_http(garden: Keyring) -> None:
    garden.knows(("a", USER, SECRET))
    known = Credentials(["https://a/simple"], Asked("import", lambda: None))
    url = parsed("http://a/file")
    assert url is not None
    assert known.instead_of(None, url) is None
    assert garden.asked == []
    secure = parsed("https://a/file")
    assert secure is not None
    assert known.instead_of(None, secure) == (USER, SECRET)
    # It is known from now on, but not to whoever listens.
    assert (known.to(secure), known.to(url)) == ((USER, SECRET), None)


def test_the_nearest_index_is_the_service(garden: Keyring) -> None:
    garden.knows(("https://a/team/simple/", "ann", SECRET))
    indexes = ["https://bob@a/simple", "https://ann@a/team/simple"]
    url = parsed("https://a/team/simple/house/house-1.0-py3-none-any.whl")
    assert url is not None
    known = Credentials(indexes, Asked("import", lambda: None))
    assert known.to(url) == ("ann", "")
    assert known.instead_of(("ann", ""), url) == ("ann", SECRET)


# --- keyrings that are not as they should be


def test_one_that_fails_is_not_asked_again_and_not_quoted(
    garden: Keyring, private: Index, store: Store
) -> None:
    garden.mood("fails")
    with pytest.raises(PackageIndexError, match="401") as caught:
        fetched(store, private, keyring="import", index=private.url)
    assert len(garden.asked) == 1
    assert SECRET not in f"{caught.value} {caught.value.hint}"
    assert "the keyring failed" in str(caught.value.hint)


@pytest.mark.parametrize("provider", ["import", "subprocess"])
def test_time_is_over_while_a_keyring_sleeps(
    garden: Keyring, private: Index, store: Store, provider: str
) -> None:
    garden.mood("sleeps")
    garden.on_path()
    began = time.monotonic()
    with pytest.raises(CapError, match="s"):
        fetched(store, private, Budget(Caps(seconds=2)), keyring=provider, index=private.url)
    assert time.monotonic() - began < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]
    # A connection that nobody has closed is complained of now, and here.
    gc.collect()


def test_no_answer_in_time_is_none(garden: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_LONGEST", 1.5)
    garden.mood("sleeps")
    known = Asked("import", lambda: None)
    assert known.ask("a", None) is None
    assert known.hint.endswith("the keyring did not answer in 1.5 s")


def test_a_command_that_is_missing_is_named(garden: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(garden.directory))
    known = Asked("subprocess", lambda: None)
    assert known.ask("a", None) is None
    assert "no command keyring on PATH" in known.hint


def test_so_is_a_package(garden: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    # Found first, and no keyring.
    (garden.directory / "keyring.py").write_text("raise ImportError\n")
    known = Asked("import", lambda: None)
    assert known.ask("a", None) is None
    assert f"the package keyring, which {sys.executable} does not have" in known.hint


OLD = 'echo "keyring: error: unrecognized arguments: --mode=creds" >&2; exit 2'
WRONG: dict[str, tuple[str, str]] = {
    "old": (OLD, "older than 25.2.1"),
    "no JSON": ("echo hush-7f3a9", "the keyring failed"),
    "a list": ("echo '[1]'", "the keyring failed"),
    "no password": ("""echo '{"username": "a", "password": null}'""", "the keyring failed"),
}


@pytest.mark.parametrize(("script", "words"), WRONG.values(), ids=list(WRONG))
def test_so_is_what_makes_no_sense(
    garden: Keyring, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    garden.on_path()
    (garden.directory / "bin/keyring").write_text(f"#!/bin/sh\n{script}\n")
    known = Asked("subprocess", lambda: None)
    assert known.ask("a", "b") is None
    assert words in known.hint
    assert SECRET not in known.hint


def test_eight_threads_ask_one_after_the_other_and_each_thing_once(garden: Keyring) -> None:
    garden.knows(("a", USER, SECRET))
    known = Asked("import", lambda: None)
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda _: known.ask("a", USER), range(8)))
    assert answers == {(USER, SECRET)}
    assert garden.asked == [("a", USER)]


@pytest.mark.parametrize(
    ("who", "sent"),
    [(("a", "é"), "Basic YTrp"), (("a", "ж"), "Basic YTrQtg==")],
    ids=["Latin-1", "UTF-8"],
)
def test_any_password_can_be_sent(who: tuple[str, str], sent: str) -> None:
    assert authorization(who) == {"Authorization": sent}
