"""``vrfstore.toml``: every key, whatever nobody understands, and who wins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.commands import Command
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.errors import UsageError
from vrfstore.gc.policy import Room
from vrfstore.requirements.budget import Caps
from vrfstore.requirements.policy import Policy
from vrfstore.runner import configuration
from vrfstore.runner.configuration import Collecting, Configuration, applied

WHOLE = """
[resolve]
protect = ["Py_Spark", "numpy", "numpy"]
lock-name = "service"
resolver = "pip"
index-url = "https://index.example/simple/"
stale-after = "7d"
timeout = "10m"
max-packages = 200
max-bytes = "2GiB"
max-unpacked = 5000
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one file that counts."""
    path = tmp_path / "chosen.toml"
    monkeypatch.setenv("VRFSTORE_CONFIG", str(path))
    return path


def read(text: str | bytes, file: Path) -> Configuration:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return configuration.read(os.environ)


# --- what it says


def test_every_key_is_understood(file: Path) -> None:
    assert read(WHOLE, file) == Configuration(
        protect=("numpy", "py-spark"),
        lock_name="service",
        resolver="pip",
        index_url="https://index.example/simple/",
        stale_after=7 * 86400.0,
        timeout=600.0,
        max_packages=200,
        max_bytes=2 << 30,
        max_unpacked=5000,
    )


def test_every_key_of_gc_is_understood(file: Path) -> None:
    text = """
    [gc]
    max-age = "14d"
    grace = 2
    max-size = "50G"
    min-free = "10%"
    target-free = "200GiB"
    keep-last = 3
    max-freed = "5G"
    max-seconds = "10m"
    host = "builder"
    prometheus = "/var/lib/metrics/vrfstore.prom"
    """
    assert read(text, file).collecting == Collecting(
        max_age=14 * 86400.0,
        grace=2 * 86400.0,
        max_size=50 * 10**9,
        min_free=Room(10.0, relative=True),
        target_free=Room(200.0 * 2**30),
        keep_last=3,
        max_freed=5 * 10**9,
        max_seconds=600.0,
        host="builder",
        prometheus="/var/lib/metrics/vrfstore.prom",
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "[resolve]\n", "[gc]\n", "\ufeff"])
def test_a_file_that_says_nothing_says_nothing(file: Path, text: str) -> None:
    if text == "\ufeff":
        with pytest.raises(UsageError):
            read(text, file)
        return
    assert read(text, file) == Configuration()


@pytest.mark.parametrize(
    ("key", "value", "seconds"),
    [
        ("timeout", "30", 30.0),
        ("timeout", '"30"', 30.0),
        ("timeout", '"2h"', 7200.0),
        ("stale-after", "0", 0.0),
        ("stale-after", "7", 7.0),
        ("stale-after", '"7"', 7.0),
        ("stale-after", '"12h"', 43200.0),
    ],
)
def test_a_bare_number_is_seconds_however_it_is_written(
    file: Path, key: str, value: str, seconds: float
) -> None:
    found = read(f"[resolve]\n{key} = {value}\n", file)
    assert (found.timeout if key == "timeout" else found.stale_after) == seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resolve = 1\n", "resolve is no table"),
        ("[[resolve]]\n", "resolve is no table"),
        ("[resolv]\n", "resolv is not known"),
        ("[resolve]\n[store]\n[linking]\n", "linking, store are not known"),
        ("gc = []\n", "gc is no table"),
        ("[gc]\nmax_age = '3d'\n", "gc.max_age is not known"),
        ("[gc]\nprotect = ['numpy']\n", "gc.protect is not known"),
        ("[gc]\nmax-age = 'old'\n", "gc.max-age: 'old' is not a length of time"),
        ("[gc]\nmax-age = 1.5\n", "gc.max-age: a text is needed"),
        ("[gc]\nmax-size = '10%'\n", "gc.max-size: '10%' is not a size"),
        ("[gc]\nmin-free = '110%'\n", "gc.min-free: '110%' is neither a size"),
        ("[gc]\nmin-free = 'some'\n", "gc.min-free: 'some' is neither a size"),
        ("[gc]\nkeep-last = -1\n", "gc.keep-last: a whole number is needed"),
        (f"[gc]\nmax-age = {10**400}\n", "gc.max-age: int too large"),
        (f"[gc]\nmax-seconds = {10**400}\n", "gc.max-seconds: int too large"),
        (f"[gc]\nmax-size = {'9' * 5000}\n", "not TOML: Exceeds the limit"),
        ("[gc]\nmax-seconds = 'long'\n", "gc.max-seconds: 'long' is not a length of time"),
        ("[gc]\nhost = 7\n", "gc.host: a text is needed"),
        ("[resolve]\nprotected = []\n", "resolve.protected is not known"),
        ("[resolve]\nindex_url = 'x'\n", "resolve.index_url is not known"),
        ("[resolve]\nprotect = 'numpy'\n", "resolve.protect: a list of names is needed"),
        ("[resolve]\nprotect = [1]\n", "resolve.protect: a text is needed"),
        ("[resolve]\nprotect = ['num py']\n", "resolve.protect: "),
        ("[resolve]\nresolver = 'poetry'\n", "resolve.resolver: it may be pip or uv"),
        ("[resolve]\nresolver = []\n", "resolve.resolver: it may be pip or uv"),
        ("[resolve]\nindex-url = 7\n", "resolve.index-url: a text is needed"),
        ("[resolve]\nlock-name = true\n", "resolve.lock-name: a text is needed"),
        ("[resolve]\nstale-after = 'soon'\n", "resolve.stale-after: 'soon' is not a length of time"),
        ("[resolve]\nstale-after = -1\n", "resolve.stale-after: a whole number is needed"),
        ("[resolve]\ntimeout = true\n", "resolve.timeout: a whole number is needed"),
        ("[resolve]\ntimeout = 2020-01-01\n", "resolve.timeout: a text is needed"),
        ("[resolve]\nmax-packages = '5'\n", "resolve.max-packages: a whole number is needed"),
        ("[resolve]\nmax-packages = false\n", "resolve.max-packages: a whole number is needed"),
        ("[resolve]\nmax-bytes = 'much'\n", "resolve.max-bytes: 'much' is not a size"),
        ("[resolve]\nmax-unpacked = -5\n", "resolve.max-unpacked: a whole number is needed"),
        ("[resolve\n", "not TOML"),
        (b"\xff", "not TOML"),
        (b"x = " + b"[" * 100_000, "not TOML"),
    ],
)
def test_what_nobody_understands_is_refused_with_its_place(file: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text, file)
    assert caught.value.message.startswith(said)
    assert (caught.value.kind, caught.value.path) == ("configuration", str(file))


# --- which files


def test_a_file_that_was_chosen_has_to_be_there(file: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "requirements.vrf").write_text("pear\n")
    for name in ("link", "lock", "tree", "run"):
        words = ["--", "true"] if name == "run" else ["--json"]
        ended = command(name, tmp_path / "requirements.vrf", *words)
        assert ended.code == 2, name
        assert "VRFSTORE_CONFIG" in ended.out + ended.err


@pytest.mark.parametrize("what", ["directory", "pipe", "large"])
def test_what_is_no_file_of_that_kind_is_refused(file: Path, what: str) -> None:
    match what:
        case "directory":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "large":
            file.write_text("#" * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="cannot be read"):
        configuration.read(os.environ)


def test_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = "/etc/vrfstore/vrfstore.toml"
    assert configuration.places({}) == (site, f"{os.environ['HOME']}/.config/vrfstore/vrfstore.toml")
    assert configuration.places({"XDG_CONFIG_HOME": "/own"}) == (site, "/own/vrfstore/vrfstore.toml")
    monkeypatch.chdir(tmp_path)
    assert configuration.places({"VRFSTORE_CONFIG": "x.toml"}) == (f"{tmp_path}/x.toml",)
    assert configuration.places({"VRFSTORE_CONFIG": ""})[0] == site


def test_the_users_own_keys_win_over_the_sites(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site, own = tmp_path / "site.toml", tmp_path / "home/.config/vrfstore/vrfstore.toml"
    monkeypatch.setattr(configuration, "_SITE", str(site))
    assert configuration.read(os.environ) == Configuration()
    site.write_text('[resolve]\nresolver = "pip"\nmax-packages = 5\n')
    own.parent.mkdir(parents=True)
    own.write_text('[resolve]\nresolver = "uv"\ntimeout = 7\n')
    found = configuration.read(os.environ)
    assert (found.resolver, found.max_packages, found.timeout) == ("uv", 5, 7.0)
    monkeypatch.setenv("VRFSTORE_CONFIG", str(site))
    assert configuration.read(os.environ).resolver == "pip"


def test_what_a_project_brings_along_has_no_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("vrfstore.toml", ".vrfstore.toml"):
        (tmp_path / name).write_text("[resolve]\nmax-packages = 5\n")
    monkeypatch.chdir(tmp_path)
    assert configuration.read(os.environ) == Configuration()


# --- against the command line


def test_the_command_line_wins_and_what_it_leaves_open_is_as_configured() -> None:
    configured = Configuration(
        protect=("numpy",),
        resolver="pip",
        index_url="https://configured/",
        stale_after=60.0,
        timeout=60.0,
        max_packages=5,
        max_bytes=5,
        max_unpacked=5,
    )
    said = Policy(
        protect=("pear",),
        resolver="uv",
        index_url="https://said/",
        stale_after=0.0,
        caps=Caps(seconds=0.0, packages=0, received=0, unpacked=0),
    )
    # What is protected by anybody is.
    assert applied(said, configured) == Policy(
        protect=("numpy", "pear"),
        resolver="uv",
        index_url="https://said/",
        stale_after=0.0,
        caps=said.caps,
    )
    assert applied(Policy(), configured) == Policy(
        protect=("numpy",),
        resolver="pip",
        index_url="https://configured/",
        stale_after=60.0,
        caps=Caps(seconds=60.0, packages=5, received=5, unpacked=5),
    )


def test_what_is_configured_counts_from_the_next_call_on(
    index: Index, file: Path, command: Command, tmp_path: Path
) -> None:
    index.add(WheelSpec(name="apple", requires=["pear"]))
    index.add(WheelSpec(name="pear"))
    asked = tmp_path / "requirements.vrf"
    asked.write_text("apple\n")
    file.write_text("")
    assert command("link", asked).code == 0
    file.write_text("[resolve]\nmax-packages = 1\n")
    ended = command("link", asked, "--json")
    assert (ended.code, ended.kind) == (13, "max-packages")
    assert command("link", asked, "--max-packages", "2").code == 0
    file.write_text("[resolve]\nmax-bytes = 10\n")
    asked.write_text("apple\n# again\n")
    assert command("link", asked).code == 0  # nothing has to be fetched
    file.write_text("[resolve]\ntimeout = 0\n")
    asked.write_text("pear\n")
    assert command("link", asked).code == 13


def test_a_lock_of_the_configured_name_is_for_us(
    index: Index, file: Path, command: Command, tmp_path: Path
) -> None:
    index.add(WheelSpec(name="pear"))
    asked, lock = tmp_path / "requirements.vrf", tmp_path / "pylock.service.toml"
    asked.write_text("pear\n")
    file.write_text("")
    assert command("lock", asked, "-o", lock).code == 0
    assert command("link", lock, "--json").kind == "lock-name"
    file.write_text('[resolve]\nlock-name = "service"\n')
    assert command("link", lock, "--json").versions == {"pear": "1.0"}
    file.write_text('[resolve]\nlock-name = "other"\n')
    assert command("link", lock, "--json").kind == "lock-name"


def test_the_configured_resolver_is_asked(index: Index, file: Path, command: Command, tmp_path: Path) -> None:
    asked = tmp_path / "requirements.vrf"
    asked.write_text("ghost\n")
    for resolver in ("pip", "uv"):
        file.write_text(f'[resolve]\nresolver = "{resolver}"\n')
        log = Path(command("link", asked, "--json").document["error"]["log"]).read_text()
        assert ("No matching distribution found" in log) is (resolver == "pip")
