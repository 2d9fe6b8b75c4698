"""One index and no other, and whom an index knows by what nobody else may see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from support.bases import sdist
from support.commands import Command, Ended, secrets_in, with_resolver
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.store.store import Store

SECRET = "hush-7f3a9 @/:%"  # noqa: S105 - of an index that lives for one test
ENCODED = quote(SECRET, safe="")
HOUSE = WheelSpec(name="house", requires=["house-core"])

Configure = Callable[[Index], tuple[str, ...]]


@pytest.fixture
def command(command: Command, resolver: str) -> Command:
    return with_resolver(command, resolver)


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.vrf"
    path.write_text("house\n")
    return path


@pytest.fixture
def internal() -> Iterator[Index]:
    """The index of a house, which has packages that are nobody else's."""
    with Index([HOUSE, WheelSpec(name="house-core")]) as served:
        yield served


@pytest.fixture
def foreign() -> Iterator[Index]:
    """An index where somebody has published newer versions under the same names."""
    newer = [WheelSpec(name=name, version="99.0") for name in ("house", "house-core", "house-tool")]
    with Index(newer) as served:
        yield served


# --- one index


def _variable(name: str, path: str = "") -> Callable[[Index, pytest.MonkeyPatch, Path], None]:
    def configure(foreign: Index, monkeypatch: pytest.MonkeyPatch, _home: Path) -> None:
        monkeypatch.setenv(name, f"{foreign.url}{path}")

    return configure


def _file(place: str, text: str) -> Callable[[Index, pytest.MonkeyPatch, Path], None]:
    def configure(foreign: Index, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        for name in ("PIP_CONFIG_FILE", "UV_NO_CONFIG"):
            monkeypatch.delenv(name)
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text(text.format(url=foreign.url))

    return configure


def _chosen_file(foreign: Index, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    (home / "chosen.conf").write_text(f"[global]\nextra-index-url = {foreign.url}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(home / "chosen.conf"))


CONFIGURED: dict[str, Callable[[Index, pytest.MonkeyPatch, Path], None]] = {
    **{
        name: _variable(name)
        for name in (
            "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_DEFAULT_INDEX",
        )
    },
    "PIP_FIND_LINKS": _variable("PIP_FIND_LINKS", "house/"),
    "UV_FIND_LINKS": _variable("UV_FIND_LINKS", "house/"),
    "PIP_CONSTRAINT": _variable("PIP_CONSTRAINT", "house/"),
    "PIP_CONFIG_FILE": _chosen_file,
    "pip.conf": _file(".config/pip/pip.conf", "[global]\nextra-index-url = {url}\nfind-links = {url}house/\n"),
    "install": _file(".pip/pip.conf", "[install]\nindex-url = {url}\n"),
    "uv.toml": _file(".config/uv/uv.toml", 'extra-index-url = ["{url}"]\n'),
}  # fmt: skip


@pytest.mark.parametrize("where", CONFIGURED)
def test_where_one_index_is_given_no_other_is_ever_asked(
    internal: Index,
    foreign: Index,
    asked: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    where: str,
) -> None:
    CONFIGURED[where](foreign, monkeypatch, tmp_path / "home")
    found = command("link", asked, "--index-url", internal.url)
    assert found.versions == {"house": "1.0", "house-core": "1.0"}
    assert foreign.requests == []


def test_without_it_the_newer_one_wins_as_in_pip(
    internal: Index, foreign: Index, asked: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the other index is there to be asked, and would be."""
    monkeypatch.setenv("PIP_INDEX_URL", internal.url)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", foreign.url)
    assert command("link", asked).versions == {"house": "99.0"}


def test_one_index_can_be_configured_and_another_given(
    internal: Index,
    foreign: Index,
    asked: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    configuration = tmp_path / "vrfstore.toml"
    configuration.write_text(f'[resolve]\nindex-url = "{internal.url}"\n')
    monkeypatch.setenv("VRFSTORE_CONFIG", str(configuration))
    monkeypatch.setenv("PIP_INDEX_URL", foreign.url)
    assert command("link", asked).versions == {"house": "1.0", "house-core": "1.0"}
    assert foreign.requests == []
    internal.requests.clear()
    assert command("link", asked, "--index-url", foreign.url).versions == {"house": "99.0"}
    assert internal.requests == []


def test_a_build_asks_no_other_index_either(
    internal: Index,
    foreign: Index,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Nor does it find there what it is built with."""
    internal.add(*sdist("house-source", build_requires=("house-tool",)))
    internal.add(WheelSpec(name="house-tool", version="1.0"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", foreign.url)
    path = tmp_path / "requirements.vrf"
    path.write_text("house-source\n")
    found = command("link", path, "--index-url", internal.url, "--allow-builds")
    assert found.versions == {"house-source": "1.0"}
    assert internal.downloads("house_tool-1.0-py3-none-any.whl") >= 1
    assert foreign.requests == []


def test_what_one_index_has_is_not_served_to_who_asks_another(
    internal: Index, foreign: Index, asked: Path, command: Command
) -> None:
    assert command("link", asked, "--index-url", foreign.url).versions == {"house": "99.0"}
    assert command("link", asked, "--index-url", internal.url).versions == {
        "house": "1.0",
        "house-core": "1.0",
    }
    assert command("link", asked, "--index-url", foreign.url).versions == {"house": "99.0"}


# --- who we are to an index


@pytest.fixture
def private() -> Iterator[Index]:
    """An index that answers those who have its password."""
    with Index([HOUSE, WheelSpec(name="house-core")], credentials=("some body", SECRET)) as served:
        yield served


def _given(private: Index, _monkeypatch: pytest.MonkeyPatch, _home: Path) -> tuple[str, ...]:
    return "--index-url", private.url_with_credentials


def _in_variable(private: Index, monkeypatch: pytest.MonkeyPatch, _home: Path) -> tuple[str, ...]:
    monkeypatch.setenv("PIP_INDEX_URL", private.url_with_credentials)
    return ()


def _in_file(private: Index, monkeypatch: pytest.MonkeyPatch, home: Path) -> tuple[str, ...]:
    monkeypatch.delenv("PIP_CONFIG_FILE")
    (home / ".config/pip").mkdir(parents=True)
    (home / ".config/pip/pip.conf").write_text(f"[global]\nindex-url = {private.url_with_credentials}\n")
    return ()


def _further(private: Index, monkeypatch: pytest.MonkeyPatch, home: Path) -> tuple[str, ...]:
    _in_variable(private, monkeypatch, home)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", private.url_with_credentials)
    return ()


def _configured(private: Index, monkeypatch: pytest.MonkeyPatch, home: Path) -> tuple[str, ...]:
    (home / "vrfstore.toml").write_text(f'[resolve]\nindex-url = "{private.url_with_credentials}"\n')
    monkeypatch.setenv("VRFSTORE_CONFIG", str(home / "vrfstore.toml"))
    return ()


KNOWN = {
    "--index-url": _given,
    "PIP_INDEX_URL": _in_variable,
    "PIP_EXTRA_INDEX_URL": _further,
    "pip.conf": _in_file,
    "vrfstore.toml": _configured,
}


def check_silence(store: Store, ended: Ended, started: list[str], *places: Path) -> None:
    for secret in (SECRET, ENCODED):
        assert secret not in ended.out
        assert secret not in ended.err
        assert not any(secret in word for word in started)
        roots: list[str | Path] = [store.root, *places]
        for place in roots:
            assert secrets_in(place, secret) == []


@pytest.mark.parametrize("where", KNOWN)
def test_who_we_are_serves_and_is_nowhere_to_be_seen(
    private: Index,
    asked: Path,
    command: Command,
    store: Store,
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    where: str,
) -> None:
    options = KNOWN[where](private, monkeypatch, tmp_path / "home")
    output = tmp_path / "out/pylock.toml"
    output.parent.mkdir()
    for words in (("link", asked), ("lock", asked, "-o", output), ("tree", asked)):
        ended = command(*words, *options)
        assert {package["name"] for package in ended.document["packages"]} >= {"house", "house-core"}, ended
        check_silence(store, ended, started, output.parent)
    assert private.url.removesuffix("simple/") in output.read_text()


def test_who_we_are_may_be_in_netrc(
    private: Index,
    asked: Path,
    command: Command,
    store: Store,
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    private._credentials = ("somebody", "hush-7f3a9")
    (tmp_path / "home/.netrc").write_text("machine 127.0.0.1 login somebody password hush-7f3a9\n")
    (tmp_path / "home/.netrc").chmod(0o600)
    monkeypatch.setenv("PIP_INDEX_URL", private.url)
    ended = command("link", asked)
    assert ended.versions == {"house": "1.0", "house-core": "1.0"}
    assert "hush-7f3a9" not in ended.out + ended.err + " ".join(started)
    assert secrets_in(store.root, "hush-7f3a9") == []


@pytest.mark.parametrize("where", KNOWN)
@pytest.mark.parametrize("trouble", ["refused", "fails", "missing", "conflict"])
def test_nor_is_it_where_something_goes_wrong(
    private: Index,
    asked: Path,
    command: Command,
    store: Store,
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    where: str,
    trouble: str,
) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    options = KNOWN[where](private, monkeypatch, tmp_path / "home")
    match trouble:
        case "refused":
            private._credentials = ("some body", "another")
        case "fails":
            private.status["/simple/house"] = 500
        case "missing":
            asked.write_text("ghost\n")
        case "conflict":
            asked.write_text("house\nhouse-core>=7\n")
    ended = command("link", asked, *options)
    assert ended.code in {11, 14}
    check_silence(store, ended, started)


def test_a_source_is_built_of_an_index_that_knows_us(
    private: Index, command: Command, store: Store, started: list[str], tmp_path: Path
) -> None:
    private.add(*sdist("house-source"))
    path = tmp_path / "requirements.vrf"
    path.write_text("house-source\n")
    ended = command("link", path, "--index-url", private.url_with_credentials, "--allow-builds")
    assert ended.versions == {"house-source": "1.0"}
    check_silence(store, ended, started)
