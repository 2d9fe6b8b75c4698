"""What every test stands on: an environment that nobody's configuration reaches, a store, an index on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support import crash, figures
from support.commands import Command, check_links, commands
from support.index import Index
from vrfstore import fs
from vrfstore.gc import scan
from vrfstore.store.store import Store


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests that kill processes try every step, and run those that take too long for every day."""
    parser.addoption(
        "--kill-all", action="store_true", help="kill at every step, not only at a sample of them"
    )
    parser.addoption(
        "--exhaustive", action="store_true", help="run every row of the large tables, on every Python"
    )
    parser.addoption(
        "--machine-seconds", type=float, default=25, help="how long the state machine of gc runs"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Pass it on."""
    crash.every_step = config.getoption("--kill-all")
    usual = settings.get_profile(settings.get_current_profile_name())
    settings.register_profile(
        "ours",
        parent=usual,
        # Half as many as usual: under coverage these tests take longer than all that kill.
        max_examples=usual.max_examples if config.getoption("--exhaustive") else 50,
        # How long an example takes, or to think of one, says something of the machine.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("ours")


_LONGEST = (
    "test_gc_beside_links", "test_soak", "test_gc_machine", "test_crash", "test_resolvers", "test_parity",
    "test_serving", "test_acceptance", "test_corpus", "test_faults", "test_many_renders",
    "test_runner_example", "test_concurrency", "test_node_client", "test_bench_harness",
)  # fmt: skip
"""Files that take long for the number of tests in them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is only run when it is asked for; begin with what takes longest, or one process ends alone."""
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.stem not in _LONGEST, -counts[item.path], item.path))
    if not config.getoption("--exhaustive"):
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this one, where there are several, what is to be said at the end."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["kills"] = crash.kills
        output["figures"] = figures.lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take that over from a process that has ended."""
    output = getattr(node, "workeroutput", {})
    crash.kills.update({name: tuple(numbers) for name, numbers in output.get("kills", {}).items()})
    figures.lines.update(output.get("figures", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how often something was killed, and what else was counted or measured."""
    if crash.kills:
        done, steps = (sum(numbers) for numbers in zip(*crash.kills.values(), strict=True))
        several = f"{len(crash.kills)} tests" if len(crash.kills) > 1 else "1 test"
        rest = "" if done == steps else f", of {steps:,}; all of them with --kill-all"
        terminalreporter.write_line(f"kill points: {done:,} in {several}{rest}")
    for subject, found in figures.lines.items():
        terminalreporter.write_line(f"{subject}: {found}")


_WAY_OUT = frozenset(
    {
        "ALL_PROXY", "CURL_CA_BUNDLE", "HTTPS_PROXY", "HTTP_PROXY", "NETRC", "NO_PROXY", "REQUESTS_CA_BUNDLE",
        "SSL_CERT_DIR", "SSL_CERT_FILE",
    }
)  # fmt: skip
"""Variables that say how the network is reached, in either case."""


@pytest.fixture(autouse=True)
def _own_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the caller's configuration out; tests on the real index keep what it takes to reach it."""
    network = request.node.get_closest_marker("network") is not None
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "VRFSTORE_", "XDG_")) and not (network and name == "PIP_CERT"):
            monkeypatch.delenv(name)
        if name.upper() in _WAY_OUT and not network:
            monkeypatch.delenv(name)
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "VIRTUAL_ENV", "QUARTO_PYTHON", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    # Processes that go on compiling would be in the way of the tests that follow.
    monkeypatch.setenv("VRFSTORE_COMPILE", "off")
    # pip reads no configuration file at all with this one.
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CONFIG", "1")


@pytest.fixture(autouse=True)
def _contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold whatever a link prints for machines against its schema, in every test."""
    check_links(monkeypatch)


@pytest.fixture(autouse=True)
def _own_signals() -> None:
    """Ctrl-C is as a process has it at its start, for the test and for all that it starts, whatever ran before."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_priority() -> Iterator[None]:
    """No test may lower the priority of the session that it runs in (sched(7), autogroups): others go on there."""
    before = _autogroup()
    yield
    assert _autogroup() == before


def _autogroup() -> str:
    try:
        return Path("/proc/self/autogroup").read_text()
    except OSError:  # a kernel without them
        return ""


@pytest.fixture(autouse=True)
def _tick_before_gc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each gc begin in a tick that follows what the test did: of what was used in its own tick it takes nothing."""
    usual = scan.now

    def now() -> float:
        before = usual()
        while usual() == before:
            time.sleep(0.001)
        return usual()

    monkeypatch.setattr(scan, "now", now)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.open(tmp_path / "store")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An empty package index on loopback, which pip is pointed at."""
    with Index() as served:
        monkeypatch.setenv("PIP_INDEX_URL", served.url)
        yield served


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and index.example that nobody has signed, and its key, in one file."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl, which makes certificates, is not here")
    directory = tmp_path_factory.mktemp("tls")
    both = [directory / "key.pem", directory / "certificate.pem"]
    words = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 "
        "-addext subjectAltName=IP:127.0.0.1,DNS:index.example "
        # As its own authority uv does not take it for a server's.
        "-addext basicConstraints=critical,CA:FALSE"
    )
    subprocess.run(
        [program, *words.split(), "-keyout", both[0], "-out", both[1]], check=True, capture_output=True
    )
    whole = directory / "both.pem"
    whole.write_text("".join(path.read_text() for path in both))
    return whole


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run vrfstore on the store, in this process."""
    return commands(store, capsys)


@pytest.fixture(params=["pip", "uv"])
def resolver(request: pytest.FixtureRequest) -> str:
    """The name of either resolver."""
    return str(request.param)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All arguments of all processes that are started, which everybody on the machine can see."""
    found: list[str] = []

    class Noted(subprocess.Popen[str]):
        def __init__(self, words: Any, *arguments: Any, **options: Any) -> None:
            found.extend(map(str, words))
            super().__init__(words, *arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return found


@pytest.fixture
def without_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out syncfs(2), which waits for what other processes write: nothing here is about power cuts."""
    monkeypatch.setattr(fs, "_syncfs", lambda _descriptor: None)
