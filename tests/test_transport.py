"""How indexes are reached: pip's configuration, as people know it from pip, with either resolver and when fetching."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.commands import Command, secrets_in, with_resolver
from support.index import Index
from support.proxy import Proxy
from support.wheels import WheelSpec
from vrfstore.errors import PackageIndexError
from vrfstore.model import LockedWheel, nobody, parse_digest
from vrfstore.requirements import connections, fetch
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.connections import Connections
from vrfstore.requirements.patience import Patience
from vrfstore.requirements.pip import PipSettings, own_authorities
from vrfstore.requirements.sizes import with_sizes
from vrfstore.store.store import Store

HOUSE = [WheelSpec(name="house", requires=["house-core"]), WheelSpec(name="house-core")]
FOUND = {"house": "1.0", "house-core": "1.0"}
SECRET = "hush-7f3a9"  # noqa: S105 - of a proxy that lives for one test


@pytest.fixture
def command(command: Command, resolver: str) -> Command:
    return with_resolver(command, resolver)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.vrf"
    path.write_text("house\n")
    return path


@pytest.fixture
def secure(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that goes over TLS, with a certificate that nobody vouches for."""
    with Index(HOUSE, certificate=certificate) as served:
        monkeypatch.setenv("PIP_INDEX_URL", served.url)
        yield served


def port(index: Index) -> int:
    found = urlsplit(index.url).port
    assert found is not None
    return found


# --- certificates


def test_a_host_that_nobody_vouches_for_is_refused(secure: Index, asked: Path, command: Command) -> None:
    ended = command("link", asked)
    assert (ended.code, ended.kind) == (14, "index-unreachable")
    assert secure.requests == []


@pytest.mark.parametrize("written", ["127.0.0.1", "127.0.0.1:{port}", "other.example 127.0.0.1"])
def test_unless_it_is_trusted(
    secure: Index, asked: Path, command: Command, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("PIP_TRUSTED_HOST", written.format(port=port(secure)))
    ended = command("link", asked)
    assert ended.versions == FOUND
    assert "warning" not in ended.err.lower()
    assert {package["size"] for package in command("lock", asked).document["packages"]} != {None}


@pytest.mark.parametrize("name", ["PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_or_its_authority_is_named(
    secure: Index,
    certificate: Path,
    asked: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv(name, str(certificate))
    assert command("link", asked).versions == FOUND


def test_it_is_named_beside_the_usual_ones(
    certificate: Path, asked: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An authority that is configured leaves those of the system, which vouch for the other index."""
    others = tmp_path / "authorities"
    others.mkdir()
    (others / "README").write_text("Those of the house.\n")
    (others / "house.pem").write_bytes(certificate.read_bytes())
    usual = tmp_path / "usual.pem"
    usual.write_bytes(certificate.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(usual))
    with Index(HOUSE, certificate=certificate) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        monkeypatch.setenv("PIP_CERT", own_authorities())
        assert command("link", asked).versions == FOUND


# --- a proxy


@pytest.fixture(params=["http", "https"])
def proxied(
    request: pytest.FixtureRequest, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Index, Proxy]]:
    """An index that has a name of its own, by which only a proxy finds it; and that proxy."""
    secure = request.param == "https"
    with (
        Index(HOUSE, certificate=certificate if secure else None) as index,
        Proxy({"index.example": port(index)}, ("ann", SECRET)) as proxy,
    ):
        monkeypatch.setenv("PIP_INDEX_URL", f"{request.param}://index.example/simple/")
        if secure:
            monkeypatch.setenv("PIP_CERT", str(certificate))
        else:
            monkeypatch.setenv("PIP_TRUSTED_HOST", "index.example")
        yield index, proxy


@pytest.mark.parametrize("where", ["configuration", "variable", "any"])
def test_all_goes_through_the_proxy(
    proxied: tuple[Index, Proxy],
    asked: Path,
    command: Command,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    where: str,
) -> None:
    index, proxy = proxied
    match where:
        case "configuration":
            # To pip there are no exceptions from a proxy that it is configured with.
            monkeypatch.setenv("NO_PROXY", "index.example")
            monkeypatch.setenv("no_proxy", "index.example")
            monkeypatch.setenv("PIP_PROXY", proxy.url)
        case "variable":
            for name in ("http_proxy", "https_proxy"):
                monkeypatch.setenv(name, proxy.url)
        case _:
            monkeypatch.setenv("ALL_PROXY", proxy.url)
    output = tmp_path / "out/pylock.toml"
    output.parent.mkdir()
    ended = [command("link", asked), command("lock", asked, "-o", output)]
    assert [each.versions for each in ended] == [FOUND, FOUND]
    assert {path.rpartition("/")[2] for _, path in index.requests} >= {
        "house-1.0-py3-none-any.whl",
        "house_core-1.0-py3-none-any.whl",
    }
    assert {
        urlsplit(target if "//" in target else f"//{target}").hostname for _, target in proxy.requests
    } == {"index.example"}
    assert SECRET not in "".join(each.out + each.err for each in ended)
    assert secrets_in(store.root, SECRET) + secrets_in(output.parent, SECRET) == []


def test_a_proxy_that_refuses_us_is_named(
    proxied: tuple[Index, Proxy],
    asked: Path,
    command: Command,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, proxy = proxied
    monkeypatch.setenv("PIP_PROXY", proxy.url.replace("ann", "bob"))
    ended = command("link", asked)
    assert (ended.code, ended.kind) == (14, "index-unreachable")
    assert index.requests == []
    assert SECRET not in ended.out + ended.err
    assert secrets_in(store.root, SECRET) == []


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
def test_variables_have_exceptions_and_can_be_ignored(
    name: str, asked: Path, command: Command, monkeypatch: pytest.MonkeyPatch, index: Index
) -> None:
    for spec in HOUSE:
        index.add(spec)
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert command("link", asked).code == 14
    with monkeypatch.context() as patch:
        patch.setenv("PIP_NO_PROXY_ENV", "1")
        # What is fetched here is not there yet.
        asked.write_text("house-core\n")
        assert command("link", asked).versions == {"house-core": "1.0"}
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    asked.write_text("house\n")
    assert command("link", asked).versions == FOUND


# --- netrc


@pytest.mark.parametrize("where", ["NETRC", ".netrc", "_netrc"])
def test_netrc_is_looked_for_where_pip_does(
    where: str, asked: Path, command: Command, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = Path(os.environ["HOME"])
    path = tmp_path / "elsewhere" if where == "NETRC" else home / where
    if where == "NETRC":
        monkeypatch.setenv("NETRC", str(path))
        (home / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    path.write_text(f"machine 127.0.0.1 login gardener password {SECRET}\n")
    # As pip reads it, it may be open to others.
    path.chmod(0o644)
    with Index(HOUSE, credentials=("gardener", SECRET)) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        ended = command("link", asked)
    assert ended.versions == FOUND
    assert SECRET not in ended.out + ended.err
    assert secrets_in(store.root, SECRET) == []


def test_a_named_netrc_that_is_not_there_has_no_stand_in(
    asked: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path(os.environ["HOME"], ".netrc").write_text(f"machine 127.0.0.1 login gardener password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "nowhere"))
    with Index(HOUSE, credentials=("gardener", SECRET)) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        assert command("link", asked).code == 14


# --- what fetching does by itself


def test_only_what_is_named_is_trusted(store: Store, certificate: Path) -> None:
    with Index(HOUSE, certificate=certificate) as named, Index(HOUSE, certificate=certificate) as other:
        settings = PipSettings(retries=0, trusted_hosts=(f"127.0.0.1:{port(named)}",))
        assert [wheel.size for wheel in with_sizes([locked(named)], settings, Budget())] != [None]
        assert [wheel.size for wheel in with_sizes([locked(other)], settings, Budget())] == [None]
        with pytest.raises(PackageIndexError, match="certificate is not accepted"):
            fetched(store, locked(other), settings)
        assert other.requests == []
        fetched(store, locked(named), settings)


@pytest.mark.parametrize(
    ("named", "url", "trusted"),
    [
        ("a", "https://a/", True),
        ("A.Example", "https://a.example:8443/", True),
        ("a:8443", "https://a:8443/", True),
        ("a:8443", "https://a/", False),
        ("a:443", "https://a/", False),
        ("a", "https://a.b/", False),
        ("a.b", "https://a/", False),
        ("::1", "https://[::1]:8443/", True),
        ("[::1]:8443", "https://[::1]:8443/", True),
        ("[::1]:8443", "https://[::1]/", False),
        ("a:port", "https://a/", False),
        ("", "https://a/", False),
    ],
)
def test_hosts_are_trusted_as_pip_trusts_them(*, named: str, url: str, trusted: bool) -> None:
    assert Connections(PipSettings(trusted_hosts=(named,)), 1)._is_trusted(urlsplit(url)) is trusted


def test_configured_authorities_come_beside_the_usual_ones(
    store: Store, certificate: Path, tmp_path: Path
) -> None:
    with Index(HOUSE, certificate=certificate) as index, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(certificate))
        fetched(store, locked(index), PipSettings(retries=0, certificate=own_authorities()))


def test_those_that_come_with_pip_are_among_the_usual_ones(
    store: Store, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path(own_authorities()).is_file()
    monkeypatch.setattr(connections, "own_authorities", lambda: str(certificate))
    with Index(HOUSE, certificate=certificate) as index:
        fetched(store, locked(index), PipSettings(retries=0))


@pytest.mark.parametrize(("retries", "requests"), [(None, 4), (0, 1), (1, 2), (5, 6)])
def test_what_may_pass_is_tried_as_often_as_pip_is_told(
    retries: int | None, requests: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Patience, "pause", lambda *_: 0.0)
    with Index(HOUSE) as index:
        index.status["/files/"] = 503
        with pytest.raises(PackageIndexError):
            fetched(store, locked(index), PipSettings(retries=retries))
        assert len(index.requests) == requests


def locked(index: Index) -> LockedWheel:
    filename = "house-1.0-py3-none-any.whl"
    return LockedWheel(
        name="house",
        version="1.0",
        filename=filename,
        digest=parse_digest(index._files[filename].sha256),
        url=index.file_url(filename),
    )


def fetched(store: Store, wheel: LockedWheel, settings: PipSettings) -> None:
    with store.session() as lease:
        fetch.fetch(store, lease, [wheel], settings, nobody)
