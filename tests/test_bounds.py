"""``--timeout`` covers all of a link, whatever it is that takes so long, and nothing is left running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from support.bases import sdist
from support.commands import Command, Ended, commands, in_process_of_its_own
from support.index import Index, silent_index
from support.wheels import WheelSpec
from vrfstore.store.holds import hold
from vrfstore.store.machine import Machine
from vrfstore.store.store import Store

SECONDS = 1.0
ENOUGH = 8.0
"""Seconds in which it has to be over; the machine may be busy."""


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(store, capsys)


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> Path:
    index.add(WheelSpec(name="pear"))
    path = tmp_path / "requirements.vrf"
    path.write_text("pear\n")
    return path


@contextmanager
def bounded() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < ENOUGH


def over(ended: Ended) -> None:
    assert (ended.code, ended.kind) == (13, "max-time"), ended.err


def held(store: Store, kind: str) -> AbstractContextManager[None]:
    """Hold all that there could be of a kind."""

    @contextmanager
    def all_of_them() -> Iterator[None]:
        # A test need not know the digest: one process holds what everybody asks for.
        from contextlib import ExitStack

        with ExitStack() as stack:
            for number in range(4096):
                stack.enter_context(hold(store.layout.of("holds", f"{kind}-{number:03x}"), timeout=0))
            yield

    return all_of_them()


@pytest.fixture
def _many_files() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", ["request", "building", "entry", "environment"])
@pytest.mark.usefixtures("_many_files")
def test_waiting_for_somebody_else_is_covered(store: Store, requirements: Path, kind: str) -> None:
    in_process_of_its_own(store, "lock", requirements)  # the interpreter is known then
    with held(store, kind), bounded():
        options = ["--refresh"] if kind == "request" else []
        over(
            in_process_of_its_own(store, "link", requirements, "--json", "--timeout", str(SECONDS), *options)
        )
    assert in_process_of_its_own(store, "link", requirements, "--json").code == 0


@pytest.mark.parametrize("by", ["--timeout", "configuration"])
def test_an_interpreter_that_hangs_is_covered_and_ended_with_what_it_has_started(
    store: Store, requirements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    pids = tmp_path / "pids"
    shim = tmp_path / "python"
    shim.write_text(f"#!/bin/sh\nsleep 600 &\necho $$ $! > {pids}\nwait\n")
    shim.chmod(0o755)
    options = ["--timeout", str(SECONDS)]
    if by == "configuration":
        (tmp_path / "site.toml").write_text(f"[resolve]\ntimeout = '{SECONDS:g}s'\n")
        monkeypatch.setenv("VRFSTORE_CONFIG", str(tmp_path / "site.toml"))
        options = []
    with bounded():
        over(in_process_of_its_own(store, "link", requirements, "--json", "--python", shim, *options))
    for pid in pids.read_text().split():
        found = Machine().process(int(pid))
        assert found is None or found.ended


@pytest.mark.parametrize("resolver", ["pip", "uv"])
def test_an_index_that_does_not_answer_is_covered(store: Store, requirements: Path, resolver: str) -> None:
    with silent_index() as url, bounded():
        over(
            in_process_of_its_own(
                store, "link", requirements, "--json", "--timeout", str(SECONDS), "--resolver", resolver,
                "--index-url", url,
            )
        )  # fmt: skip
    assert os.listdir(store.layout.of("tmp")) == []


def test_a_build_that_hangs_is_covered_and_ended_with_what_it_has_started(
    index: Index, store: Store, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    started = "import subprocess; child = subprocess.Popen(['sleep', '600'])"
    code = f"{started}; open({str(pids)!r}, 'w').write(str(child.pid)); child.wait()"
    index.add(*sdist("plum", before=code))
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("plum\n")
    began = time.monotonic()
    ended = in_process_of_its_own(
        store, "link", requirements, "--json", "--timeout", "10", "--allow-builds", "--resolver", "pip"
    )
    over(ended)
    assert time.monotonic() - began < 10 + ENOUGH
    found = Machine().process(int(pids.read_text()))
    assert found is None or found.ended


def test_compiling_before_the_answer_is_covered(
    command: Command, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_: object, **__: object) -> None:
        subprocess.run(["sleep", "600"], check=False)

    monkeypatch.setattr("vrfstore.store.compiling.compile_entries", hang)
    with bounded():
        over(command("link", requirements, "--json", "--timeout", str(SECONDS), "--compile", "eager"))
    monkeypatch.undo()


def test_a_time_limit_of_run_does_not_reach_its_command(store: Store, requirements: Path) -> None:
    in_process_of_its_own(store, "link", requirements)
    ended = in_process_of_its_own(
        store, "run", requirements, "--timeout", "3", "--", "sh", "-c", "sleep 4; echo done"
    )
    assert (ended.code, ended.out) == (0, "done\n")


@pytest.mark.parametrize("words", [["lock", "FILE", "--json"], ["run", "FILE"]], ids=["lock", "run"])
@pytest.mark.usefixtures("_many_files")
def test_the_time_limits_of_lock_and_run_cover_waiting_too(
    store: Store, requirements: Path, words: list[str]
) -> None:
    filled = [str(requirements) if word == "FILE" else word for word in words]
    with held(store, "request"), bounded():
        command = ["--", "true"] if words[0] == "run" else []
        ended = in_process_of_its_own(store, *filled, "--timeout", str(SECONDS), *command)
    assert ended.code == 13


def test_an_environment_whose_python_does_not_start_is_not_handed_out(
    command: Command, store: Store, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vrfstore.errors import InterpreterError
    from vrfstore.runner import making

    asked = []

    @contextmanager
    def failing(executable: str, code: str, **options: object) -> Iterator[None]:
        asked.append((executable, options))
        assert os.path.exists(executable)
        yield
        raise InterpreterError(f"{executable} fails", kind="interpreter-broken")

    with monkeypatch.context() as patch:
        patch.setattr(making, "starting", failing)
        ended = command("link", requirements, "--json")
    assert (ended.code, ended.kind) == (22, "interpreter-broken")
    ((executable, options),) = asked
    assert executable.startswith(store.layout.of("environments"))
    assert os.listdir(store.layout.of("environments")) == []
    assert options["site"] is False


def test_a_python_that_fails_in_an_environment_that_never_was_is_called_by_a_path_that_there_is(
    command: Command, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vrfstore import starting
    from vrfstore.runner import making

    monkeypatch.setattr(
        making,
        "starting",
        lambda executable, _, **options: starting.starting(executable, "raise SystemExit('boom')", **options),
    )
    ended = command("link", requirements, "--json", "--python", sys.executable)
    assert (ended.code, ended.kind) == (22, "interpreter-broken")
    assert ended.document["error"]["message"] == f"{sys.executable}, linked into an environment, fails: boom"


def test_a_step_inside_of_another_one_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from vrfstore.runner import clock

    moments = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 127.0, 255.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(moments))
    measured = clock.Clock(began=0.0)
    with measured.step("link"):
        with measured.step("start"):
            pass
        with measured.step("start"):
            pass
    with measured.step("link"):
        pass
    assert measured.finish() == {"start": 2.0 + 8.0, "link": 31.0 - 10.0 + 64.0, "total": 255.0}


def test_a_python_that_hangs_is_ended_and_said_to_hang() -> None:
    from vrfstore import starting
    from vrfstore.errors import InterpreterError

    with (
        pytest.raises(InterpreterError, match=r"^mine does not start: nothing came of it within 0\.5 s$"),
        starting.starting(sys.executable, "import time; time.sleep(60)", seconds=0.5, called="mine"),
    ):
        pass
