"""What pip is run with, and what its configuration says of fetching."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pip as installed_pip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrfstore.errors import ResolutionError
from vrfstore.model import Interpreter
from vrfstore.requirements import pip, pip_starter
from vrfstore.requirements.pip import (
    PipSettings,
    configuration_files,
    environment,
    last_line,
    parse_settings,
    run_for_target,
    settings,
)
from vrfstore.requirements.targets import Target
from vrfstore.store.store import Store
from vrfstore.target import marker_environment, resolver_options


def interpreter(executable: str, prefix: str, *, virtual: bool = False) -> Interpreter:
    return Interpreter(
        executable=executable,
        real=f"{prefix}/bin/python3.11",
        version="3.11.9",
        implementation="cpython",
        cache_tag="cpython-311",
        abi_flags="",
        magic="a70d0d0a",
        platform="linux-x86_64",
        prefix=prefix,
        virtual=virtual,
        site_directories=(),
        base=(),
    )


BASE = interpreter("/usr/bin/python3", "/usr")


# --- pip config list

MANY_SWITCHES = """\
install.pre='yes'
global.no-index='1'
global.trusted-host='a b:8'
:env:.constraint='/c.txt'
global.keyring-provider='subprocess'
"""

MANY_INDEXES = """\
global.extra-index-url='\\nhttps://one.example/simple\\nhttps://two.example/simple'
global.find-links='/wheels'
global.index-url='https://user:secret@index.example/simple'
"""


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("", PipSettings()),
        ("global.cert='/etc/ca.pem'", PipSettings(certificate="/etc/ca.pem")),
        ("install.client-cert='/me.pem'", PipSettings(client_certificate="/me.pem")),
        (":env:.cert='/env.pem'", PipSettings(certificate="/env.pem")),
        ("global.proxy='http://proxy.example:3128'", PipSettings(proxy="http://proxy.example:3128")),
        ("global.timeout='60'", PipSettings(timeout=60.0)),
        ("global.timeout='2.5'", PipSettings(timeout=2.5)),
        ("global.default-timeout='7'", PipSettings(timeout=7.0)),
        ("global.timeout='soon'", PipSettings()),
        ("global.quiet='1'\nnot a line\nglobal.cert=unquoted\n=\n", PipSettings()),
        (
            "global.index-url='https://index.example/simple?a=b'",
            PipSettings(index="https://index.example/simple?a=b"),
        ),
        (
            MANY_INDEXES,
            PipSettings(
                index="https://user:secret@index.example/simple",
                extra_indexes=("https://one.example/simple", "https://two.example/simple"),
                find_links=("/wheels",),
            ),
        ),
        (
            MANY_SWITCHES,
            PipSettings(
                prereleases=True,
                no_index=True,
                trusted_hosts=("a", "b:8"),
                constraints=("/c.txt",),
                keyring="subprocess",
            ),
        ),
        ("freeze.pre='yes'\nwheel.no-index='1'\n", PipSettings()),
        ('global.cert="/it\'s/ca.pem"', PipSettings(certificate="/it's/ca.pem")),
    ],
)
def test_settings_are_what_pip_lists(listing: str, expected: PipSettings) -> None:
    assert parse_settings(listing) == expected


def test_all_urls_may_say_who_we_are() -> None:
    assert parse_settings(MANY_INDEXES).indexes == (
        "https://user:secret@index.example/simple",
        "https://one.example/simple",
        "https://two.example/simple",
        "/wheels",
    )
    assert PipSettings().indexes == ()


def test_later_lines_win_as_they_do_for_pip() -> None:
    listing = "global.cert='/global'\ninstall.cert='/install'\n:env:.cert='/environment'\n"
    lines = listing.splitlines()
    assert [parse_settings("\n".join(lines[:count])).certificate for count in (1, 2, 3)] == [
        "/global",
        "/install",
        "/environment",
    ]


@given(listing=st.text())
def test_any_text_gives_settings(listing: str) -> None:
    assert isinstance(parse_settings(listing), PipSettings)


def test_what_the_real_pip_lists_is_understood(tmp_path: Path) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\n"
        "cert = /etc/it's a ca.pem\n"
        "timeout = 33\n"
        "index-url = https://user:p%40ss@index.example/simple\n"
        "extra-index-url =\n    https://one.example/simple\n    https://two.example/simple\n"
        "[install]\n"
        "proxy = http://proxy.example:3128\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env={
            **os.environ,
            "PIP_CONFIG_FILE": str(configuration),
            "PIP_TIMEOUT": "44",
            "PIP_CLIENT_CERT": "/me.pem",
            "XDG_CONFIG_DIRS": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert parse_settings(done.stdout) == PipSettings(
        certificate="/etc/it's a ca.pem",
        client_certificate="/me.pem",
        index="https://user:p%40ss@index.example/simple",
        extra_indexes=("https://one.example/simple", "https://two.example/simple"),
        timeout=44.0,
        proxy="http://proxy.example:3128",
    )


# --- what pip is run with


@pytest.mark.parametrize(
    "name",
    [
        "PIP_ABI", "PIP_DRY_RUN", "PIP_EDITABLE", "PIP_GROUP", "PIP_IMPLEMENTATION", "PIP_LOG", "PIP_NO_BINARY",
        "PIP_ONLY_BINARY", "PIP_PLATFORM", "PIP_PREFIX", "PIP_PYTHON", "PIP_PYTHON_VERSION", "PIP_QUIET",
        "PIP_REPORT", "PIP_REQUIREMENT", "PIP_ROOT", "PIP_TARGET", "PIP_VERBOSE",
    ],
)  # fmt: skip
def test_what_would_change_the_request_is_kept_from_pip(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert name not in environment()


@pytest.mark.parametrize(
    "name",
    [
        "PIP_FORCE_REINSTALL",
        "PIP_IGNORE_INSTALLED",
        "PIP_NO_DEPS",
        "PIP_REQUIRE_HASHES",
        "PIP_UPGRADE",
        "PIP_USER",
    ],
)
def test_what_a_configuration_file_may_switch_on_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert environment()[name] == "0"
    monkeypatch.setenv(name, "1")
    assert environment()[name] == "0"


@pytest.mark.parametrize(
    "name",
    ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "PIP_PROXY", "PIP_TIMEOUT", "HTTPS_PROXY", "PATH"],
)
def test_how_to_reach_the_index_is_left_to_the_user(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "a value")
    assert environment()[name] == "a value"


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("PIP_REQUIRE_VIRTUALENV", "1", "0"),
        ("PIP_NO_INPUT", "0", "1"),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "0", "1"),
    ],
)
def test_pip_never_asks_and_never_wants_a_venv(
    monkeypatch: pytest.MonkeyPatch, name: str, theirs: str, ours: str
) -> None:
    monkeypatch.setenv(name, theirs)
    assert environment()[name] == ours
    assert os.environ[name] == theirs


# --- where its configuration is


def pip_looks_at(python: str) -> list[str]:
    """The files that the real pip says it reads, in its order."""
    done = subprocess.run(
        [python, "-m", "pip", "config", "debug"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    lines = (line.strip() for line in done.stdout.splitlines())
    return [
        line.partition(", exists: ")[0] for line in lines if line.startswith("/") and ", exists: " in line
    ]


def test_configuration_is_looked_for_where_the_real_pip_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PIP_CONFIG_FILE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", f"{tmp_path}/shared:{tmp_path}/more")
    this = interpreter(sys.executable, sys.prefix, virtual=sys.prefix != sys.base_prefix)
    looked_at = pip_looks_at(sys.executable)
    assert f"{tmp_path}/own/pip/pip.conf" in looked_at
    assert set(looked_at) == set(configuration_files(this))


def test_a_named_configuration_file_counts_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", "mine.conf")
    assert f"{tmp_path}/mine.conf" in configuration_files(BASE)
    monkeypatch.delenv("PIP_CONFIG_FILE")
    assert f"{tmp_path}/mine.conf" not in configuration_files(BASE)


def test_configuration_files_are_absolute_and_come_without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_CONFIG_FILE")
    monkeypatch.setenv("HOME", "/home/one")
    assert configuration_files(BASE) == (
        "/etc/xdg/pip/pip.conf",
        "/etc/pip.conf",
        "/home/one/.pip/pip.conf",
        "/home/one/.config/pip/pip.conf",
        "/usr/pip.conf",
    )


def test_the_configuration_of_a_venv_is_its_own() -> None:
    venv = interpreter("/home/one/venv/bin/python", "/usr", virtual=True)
    assert "/home/one/venv/pip.conf" in configuration_files(venv)
    assert "/usr/pip.conf" not in configuration_files(venv)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no message"),
        ("\n \n", "no message"),
        ("one\nERROR: two\n\n", "two"),
        ("ERROR:three", "three"),
        ("the ERROR: four", "the ERROR: four"),
    ],
)
def test_the_last_line_that_says_something_is_pip_s_message(text: str, expected: str) -> None:
    assert last_line(text) == expected


# --- for a target


def target(**changes: object) -> Target:
    values = {field.name: getattr(BASE, field.name) for field in fields(BASE)}
    return Target(**values | {"version": "3.12.3", "platform": "linux-aarch64", "magic": ""} | changes)


RUNNER = os.path.join(os.path.dirname(installed_pip.__file__), "__pip-runner__.py")
STARTER = str(pip_starter.__file__)


def test_pip_for_a_target_reads_the_configuration_of_our_own_python(tmp_path: Path) -> None:
    variables = {name: value for name, value in environment().items() if name != "PIP_CONFIG_FILE"}
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-B",
            STARTER,
            RUNNER,
            sys.prefix,
            "{}",
            str(tmp_path),
            "config",
            "debug",
        ],
        capture_output=True,
        text=True,
        check=True,
        env=variables,
    )
    assert f"{sys.prefix}/pip.conf, exists" in done.stdout
    assert f"{sys.prefix}/pip.conf" in configuration_files(target(prefix="/opt/image"))


def pip_with(root: Path, markers: str) -> str:
    """Write a pip that says what it was started with, and return its runner."""
    packaging = root / "pip/_vendor/packaging"
    packaging.mkdir(parents=True)
    for directory in (root / "pip", root / "pip/_vendor", packaging):
        (directory / "__init__.py").touch()
    (packaging / "markers.py").write_text(markers)
    runner = root / "pip/__pip-runner__.py"
    runner.write_text(
        "import json, sys\n"
        "from pip._vendor.packaging.markers import default_environment\n"
        "print(json.dumps([sys.argv[1:], default_environment(), sys.prefix, sys.path, sorted(sys.modules)]))\n"
    )
    return str(runner)


MARKERS = "def default_environment():\n    return {}\n"


def test_pip_for_a_target_is_lent_its_markers_and_sees_nothing_else(tmp_path: Path) -> None:
    done = run_for_target(
        target(), pip_with(tmp_path, MARKERS), ["install", "--dry-run"], installed="/nowhere/installed"
    )
    assert done.returncode == 0, done.stderr
    arguments, markers, prefix, path, modules = json.loads(done.stdout)
    assert arguments == ["install", *resolver_options(target()), "--dry-run"]
    assert markers == marker_environment(target())
    assert prefix == sys.prefix
    assert path[-1] == "/nowhere/installed"
    assert not [entry for entry in path if entry.endswith("-packages")]
    assert str(tmp_path) not in path
    assert "site" not in modules


@pytest.mark.parametrize("markers", ["", "default_environment = None\n", "import nothing_of_that_name\n"])
def test_a_pip_that_is_not_known_well_enough_is_not_started(tmp_path: Path, markers: str) -> None:
    with pytest.raises(ResolutionError) as caught:
        run_for_target(target(), pip_with(tmp_path, markers), ["install"], installed=str(tmp_path))
    assert (caught.value.kind, caught.value.exit_code) == ("resolver-target", 11)
    assert caught.value.message == (
        "pip did not resolve for the target: nothing is known of how it evaluates environment markers"
    )


@pytest.mark.parametrize("markers", [MARKERS, ""], ids=["known", "unknown"])
def test_the_starter_lends_before_pip_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], markers: str
) -> None:
    for name in ("prefix", "exec_prefix", "argv"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    for name in ("meta_path", "path"):
        monkeypatch.setattr(sys, name, list(getattr(sys, name)))
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "pip"}
    for name in ours:
        del sys.modules[name]
    arguments = (pip_with(tmp_path, markers), "/a/prefix", '{"os_name": "lent"}', "/installed", "list")
    try:
        if markers:
            pip_starter.main(*arguments)
            said = json.loads(capsys.readouterr().out)
            assert (said[0], said[1], said[2]) == (["list"], {"os_name": "lent"}, "/a/prefix")
        else:
            with pytest.raises(SystemExit) as caught:
                pip_starter.main(*arguments)
            assert caught.value.code == 64
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "pip"]:
            del sys.modules[name]
        sys.modules.update(ours)


def test_variables_alone_are_read_as_pip_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one.example/simple\n https://it's.example/simple")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "3")
    monkeypatch.setenv("PIP_NO_INDEX", "true")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    monkeypatch.setattr(pip, "run", lambda *_, **__: pytest.fail("pip was started"))
    found = settings(store, interpreter("/usr/bin/python3", "/usr"))
    assert found == parse_settings(done.stdout)
    assert (found.extra_indexes[1], found.timeout, found.no_index) == (
        "https://it's.example/simple",
        3.0,
        True,
    )


def test_where_one_index_is_given_nothing_else_says_where_packages_come_from(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "CONSTRAINT", "PRE", "CERT", "CONFIG_FILE"):
        monkeypatch.setenv(f"PIP_{name}", f"/of/the/user/{name}")
    url = "https://one.example/simple"
    kept = {name: value for name, value in environment(index_url=url).items() if name.startswith("PIP_")}
    assert kept["PIP_INDEX_URL"] == url
    assert [name for name, value in kept.items() if "/of/the/user" in value] == ["PIP_CERT"]
    base = interpreter("/usr/bin/python3", "/usr")
    assert settings(store, base, index_url=url) == PipSettings(certificate="/of/the/user/CERT", index=url)
    assert configuration_files(base, index_url=url) == ()
