"""Exit code 1 never occurs but as a command's own in ``run``: a runner loses the answer with it.

Every command is driven through every way to end, and says for machines what it says for people.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.index import Index, silent_index
from support.wheels import WheelSpec, build_wheel
from vrfstore import errors, sessions
from vrfstore.cli import application, render
from vrfstore.cli.ending import TerminatedError, deadline, terminable
from vrfstore.cli.running import run
from vrfstore.errors import CapError, VrfstoreError
from vrfstore.store.store import Store

COMMANDS: dict[str, Sequence[str]] = {
    "add": ["add", "WHEEL"],
    "compile": ["compile"],
    "doctor": ["doctor"],
    "du": ["du"],
    "env check": ["env", "check", "OWN"],
    "env export-tree": ["env", "export-tree", "OWN", "COPY"],
    "env forget": ["env", "forget", "OWN"],
    "env heal": ["env", "heal", "OWN"],
    "env undo": ["env", "undo", "OWN"],
    "export": ["export", "ENVIRONMENT", "-o", "COPY"],
    "gc": ["gc"],
    "hint": ["hint", "pear"],
    "import": ["import", "WHEEL"],
    "link": ["link", "FILE"],
    "list": ["list"],
    "lock": ["lock", "FILE"],
    "roots add": ["roots", "add", "name", "ENVIRONMENT"],
    "roots list": ["roots", "list"],
    "roots remove": ["roots", "remove", "name"],
    "run": ["run", "FILE", "--", "true"],
    "tree": ["tree", "FILE"],
    "verify": ["verify"],
    "why": ["why", "pear"],
}
"""Each command, with what makes sense to it."""

WITHOUT_JSON = {("run",), ("roots", "add"), ("roots", "remove")}
JUDGES = {("doctor",), ("env", "check"), ("env", "heal")}
"""Those that find out what is wrong, and say so in a way of their own."""

every_command = pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())


def test_every_command_is_here() -> None:
    assert {words[0] for words in COMMANDS.values()} == set(application.COMMANDS)


@pytest.fixture
def fill(
    index: Index, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Sequence[str]], list[str]]:
    """A store with an environment, one of one's own, and what gives a command's words their meaning."""
    monkeypatch.setenv("VRFSTORE_HOME", store.root)
    pear = WheelSpec(name="pear")
    index.add(pear)
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("pear\n")
    assert run(["link", str(requirements), "--into", str(tmp_path / "own")]) == 0
    assert run(["link", str(requirements)]) == 0
    (environment,) = store.environments()
    meanings = {
        "FILE": str(requirements), "OWN": str(tmp_path / "own"), "COPY": str(tmp_path / "copy"),
        "ENVIRONMENT": environment, "WHEEL": str(build_wheel(pear, tmp_path)),
    }  # fmt: skip
    return lambda words: [meanings.get(word, word) for word in words]


def with_json(words: Sequence[str]) -> list[str]:
    """Return a command line with --json, before what is a command's own."""
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], "--json", *words[at:]]


def answer(out: str) -> dict[str, Any]:
    document = json.loads(out)
    assert isinstance(document, dict)
    assert document["status"] == "error"
    return document


@every_command
def test_a_usage_error_is_2_and_an_object(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    own = words[: words.index("--")] if "--" in words else words
    assert run([*own, "--frobnicate", "--json"]) == 2
    document = answer(capsys.readouterr().out)
    assert (document["error"]["code"], document["error"]["kind"]) == (2, "usage")


@pytest.mark.parametrize(
    "words", [["--store"], ["--frobnicate", "link", "x"], ["frobnicate"], ["--store", "x"]]
)
def test_so_is_one_that_no_command_can_be_made_out_of(
    words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--json", *words]) == 2
    assert answer(capsys.readouterr().out)["error"]["kind"] == "usage"


def unforeseen(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/somewhere")


FAILURES: dict[str, tuple[BaseException, int]] = {
    **{
        name: (getattr(errors, name)("it failed"), getattr(errors, name).exit_code) for name in errors.__all__
    },
    "full": (unforeseen(28), 16),
    "denied": (unforeseen(13), 21),
    "no memory": (MemoryError(), 70),
    "recursion": (RecursionError(), 70),
    "too many files": (unforeseen(24), 70),
    "a bug": (AssertionError("bug"), 70),
    "Ctrl-C": (KeyboardInterrupt(), 130),
    "end of file": (EOFError(), 130),
    "terminated": (TerminatedError(signal.SIGTERM), 143),
    "hung up": (TerminatedError(signal.SIGHUP), 129),
}


@every_command
def test_whatever_fails_has_its_code_and_an_object(
    words: Sequence[str],
    fill: Callable[[Sequence[str]], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = with_json(fill(words))
    beginnings = {tuple(words[:1]), tuple(words[:2])}
    for name, (error, code) in FAILURES.items():
        capsys.readouterr()

        def fail(*_: object, found: BaseException = error, **__: object) -> None:
            raise found

        with monkeypatch.context() as patch:
            for place in ("Store.open", "Store.session", "Store.environments", "_prepare"):
                patch.setattr(f"vrfstore.store.store.{place}", fail)
            patch.setattr("vrfstore.store.externals.read", fail)
            patch.setattr("vrfstore.runner.adopt.undo", fail, raising=False)
            ended = run(filled)
        out, err = capsys.readouterr()
        assert ended not in {1, None}, (name, err)
        if beginnings & WITHOUT_JSON:
            continue
        if beginnings & JUDGES:
            assert isinstance(json.loads(out), dict)
            continue
        assert ended == code, (name, err)
        assert answer(out)["error"]["code"] == code, name


@every_command
@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_an_answer_that_cannot_be_delivered_is_never_1(
    words: Sequence[str], fill: Callable[[Sequence[str]], list[str]], redirection: str
) -> None:
    for options in ([], ["--json"]):
        filled = [*fill(words), *options] if "--" not in words else fill(words)
        command = [sys.executable, "-m", "vrfstore", *filled]
        done = subprocess.run(
            ["sh", "-c", f'"$@" {redirection}', "sh", *command], capture_output=True, check=False
        )
        assert done.returncode not in {1, -1}, done.stderr
        assert done.returncode < 128


@every_command
def test_a_reader_that_has_gone_is_never_1(
    words: Sequence[str], fill: Callable[[Sequence[str]], list[str]]
) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "vrfstore", *fill(words)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    # Some have nothing to print.
    assert done.returncode in {0, 2, 18, 141}, done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("code", [0, 1, 3])
def test_run_passes_its_commands_own_code_on(fill: Callable[[Sequence[str]], list[str]], code: int) -> None:
    command = [sys.executable, "-m", "vrfstore", *fill(["run", "FILE"]), "--", "sh", "-c", f"exit {code}"]
    assert subprocess.run(command, check=False).returncode == code


# --- signals


def started(store: Store, requirements: Path, *options: str, **kept: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vrfstore", "--store", store.root, "link", str(requirements), "--json"]
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **kept,
    )


def processes_of(store: Store) -> list[int]:
    """The processes that something of a store is in the arguments of."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(store.root) in words:
                found.append(int(entry))
    return found


@pytest.mark.parametrize(
    ("number", "code", "kind"),
    [
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("resolver", ["pip", "uv"])
@pytest.mark.parametrize("step", ["resolving", "fetching"])
def test_a_signal_ends_a_link_with_an_object_and_all_that_it_has_started(
    index: Index, store: Store, tmp_path: Path, step: str, resolver: str, number: int, code: int, kind: str
) -> None:
    wheel = index.add(WheelSpec(name="pear"))
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("pear\n")
    log = tmp_path / "log"
    index.delay[wheel] = 30
    with silent_index() as silent:
        url = silent if step == "resolving" else index.url
        options = ["--resolver", resolver, "--fallback", "--log", str(log), "--index-url", url]
        running = started(store, requirements, *options)
        deadline_at = time.monotonic() + 30
        while not _is_at(step, log, index, wheel, store):
            assert time.monotonic() < deadline_at, running.poll()
            time.sleep(0.02)
        running.send_signal(number)
        # Nothing that is still on its way is waited for: a socket has 15 seconds.
        out, err = running.communicate(timeout=10)
    index.delay.clear()
    assert running.returncode == code, err
    assert answer(out)["error"]["kind"] == kind
    assert "Traceback" not in err
    assert log.read_text().endswith("ended before it was done\n")
    assert processes_of(store) == []
    assert os.listdir(store.layout.of("tmp")) == []
    assert os.listdir(store.layout.of("leases")) == []


def _is_at(step: str, log: Path, index: Index, wheel: str, store: Store) -> bool:
    if step == "fetching":
        return any(path.endswith(wheel) for _, path in index.requests)
    return log.exists() and "resolving" in log.read_text() and len(processes_of(store)) > 1


_EARLY = """
import signal, sys
from vrfstore import cli
real = cli.quick
cli.quick = lambda arguments: (signal.raise_signal({number}), real(arguments))[1]
cli.main()
"""

_LATE = """
import signal
from vrfstore import cli
from vrfstore.cli import render
real = render.plain
render.plain = lambda text: (real(text), signal.raise_signal({number}))
cli.main()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_that_comes_before_we_could_answer_is_answered_and_one_after_that_is_not(
    store: Store, tmp_path: Path, number: int, code: int
) -> None:
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("")
    words = ["--store", store.root, "link", "--json", str(requirements)]
    for program, expected in ((_EARLY, code), (_LATE, 0)):
        script = program.format(number=int(number))
        done = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == expected, done.stderr
        assert "Traceback" not in done.stderr
        document = json.loads(done.stdout)
        assert (document["error"] or {"code": 0})["code"] == expected
        assert (document["python"] is None) is (expected > 0)


def test_who_does_not_read_the_answer_is_left_at_the_second_signal(store: Store, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("")
    script = (
        "from vrfstore import cli\nfrom vrfstore.cli import render\nreal = render.plain\n"
        "render.plain = lambda text: real(text + ' ' * (1 << 20))\ncli.main()"
    )
    words = ["--store", store.root, "link", "--json", str(requirements)]
    with subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as running:
        assert running.stdout is not None
        assert running.stdout.read(1) == b"{"
        for _ in range(2):
            running.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert running.wait(10) == -signal.SIGTERM


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Leaves what SIGTERM does as it was: coverage saves its data then."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("handlers")
def test_what_somebody_else_does_at_a_signal_comes_back_and_does_not_come_before() -> None:
    came: list[int] = []

    def other(number: int, _frame: object) -> None:
        came.append(number)

    signal.signal(signal.SIGTERM, other)
    with terminable():
        pass
    assert signal.getsignal(signal.SIGTERM) is other
    with pytest.raises(TerminatedError), terminable():
        signal.raise_signal(signal.SIGTERM)
    assert came == []


def test_whoever_prints_outside_of_a_command_keeps_his_signals(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    render.print_json({"status": "done"})
    assert [signal.getsignal(number) for number in numbers] == before
    with terminable():
        render.print_json({"status": "done"})
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in numbers] == before
    assert capsys.readouterr().out.count("done") == 2


@pytest.mark.usefixtures("handlers")
def test_after_a_signal_the_next_ends_us_at_once() -> None:
    with pytest.raises(TerminatedError), terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_time_that_is_over_ends_whatever_is_done_and_only_then() -> None:
    began = time.monotonic()
    with pytest.raises(CapError, match=r"within 0\.1 s"), deadline(0.1):
        time.sleep(30)
    assert time.monotonic() - began < 5
    with deadline(0.1):
        pass
    time.sleep(0.5)
    with deadline(None):
        pass
    with deadline(1e12):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 1e5
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert isinstance(CapError("x"), VrfstoreError)


@pytest.mark.usefixtures("handlers")
def test_a_signal_while_a_process_is_being_started_does_not_leave_it_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        """Is told to end before anybody knows its number."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            began.append(self)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("vrfstore.sessions.subprocess.Popen", Interrupted)
    with pytest.raises(TerminatedError), terminable(), sessions.session(["sleep", "600"]):
        pytest.fail("it was told to end")
    assert began[0].returncode == -signal.SIGKILL
