"""Somebody else builds the same: who that is, how far it is, and what is left of what was killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.commands import Command, Ended, check_link, commands, in_process_of_its_own
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.errors import BusyError
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.model import Event
from vrfstore.store.building import Building, builder_of
from vrfstore.store.holds import hold
from vrfstore.store.store import Store

NAMES = ("apple", "pear", "plum", "quince")
SLOW = "quince-1.0-py3-none-any.whl"


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(store, capsys)


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> Path:
    for name in NAMES:
        index.add(WheelSpec(name=name))
    path = tmp_path / "requirements.vrf"
    path.write_text("\n".join(NAMES))
    return path


def start(store: Store, requirements: Path, *options: str) -> subprocess.Popen[str]:
    """Start a link in a process group of its own, as a render is."""
    command = [sys.executable, "-m", "vrfstore", "--store", store.root, "link", str(requirements), "--json"]
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(running: subprocess.Popen[str]) -> Ended:
    out, err = running.communicate(timeout=60)
    ended = Ended(running.returncode, out, err)
    check_link(ended.document)
    return ended


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def builder(index: Index, store: Store, requirements: Path) -> Iterator[subprocess.Popen[str]]:
    """Somebody who has three of four wheels and waits for the last."""
    index.delay[SLOW] = 60
    running = start(store, requirements)
    until(lambda: len(store.entries()) == len(NAMES) - 1)
    until(lambda: told(store) == len(NAMES) - 1)
    try:
        yield running
    finally:
        index.delay.clear()
        running.kill()
        running.communicate()


def progress(store: Store) -> list[Path]:
    return list(Path(store.layout.of("tmp")).glob("*.progress"))


def told(store: Store) -> int:
    try:
        return max((int(json.loads(path.read_text())["done"]) for path in progress(store)), default=0)
    except FileNotFoundError:
        return 0


def test_no_wait_says_who_builds_since_when_and_how_far_it_is(
    builder: subprocess.Popen[str], store: Store, requirements: Path
) -> None:
    began = time.monotonic()
    ended = in_process_of_its_own(store, "link", requirements, "--json", "--no-wait")
    assert time.monotonic() - began < 5
    assert (ended.code, ended.kind) == (15, "building")
    message = ended.document["error"]["message"]
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    said = rf"process {builder.pid}, which builds this since {moment}: fetched 3 of 4 wheels, \d[\d.]* k?B"
    assert re.search(f"{said}$", message), message
    assert "--no-wait" in ended.document["error"]["hint"]


def test_no_wait_of_another_request_that_shares_a_wheel_says_so_too(
    builder: subprocess.Popen[str], store: Store, requirements: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.vrf"
    other.write_text("quince\n")
    ended = in_process_of_its_own(store, "link", other, "--json", "--no-wait")
    assert (ended.code, ended.kind) == (15, "building")
    assert f"process {builder.pid}," in ended.document["error"]["message"]


def test_no_wait_of_what_is_there_or_shares_nothing_is_served(
    builder: subprocess.Popen[str], index: Index, store: Store, tmp_path: Path
) -> None:
    other = tmp_path / "other.vrf"
    other.write_text("apple\nplum\n")
    assert in_process_of_its_own(store, "link", other, "--json", "--no-wait").document["status"] == "linked"


def test_who_waits_is_told_how_far_it_is_and_gets_the_same(
    builder: subprocess.Popen[str], index: Index, store: Store, requirements: Path, tmp_path: Path
) -> None:
    log = tmp_path / "render.log"
    waiting = start(store, requirements, "--log", str(log))
    until(lambda: log.exists() and "fetched 3 of 4 wheels" in log.read_text())
    assert f"waiting for process {builder.pid}, which builds this since" in log.read_text()
    builder.kill()
    index.delay.clear()
    ended = finish(waiting)
    assert ended.code == 0
    # It fetched what was missing itself, since nobody else was left.
    assert {package["name"]: package["reused"] for package in ended.document["packages"]} == {
        "apple": True, "pear": True, "plum": True, "quince": False,
    }  # fmt: skip


def test_a_resolution_that_somebody_else_is_at_is_told_as_well(store: Store) -> None:
    with store.session() as session, Building(store.layout, session) as telling:
        telling(Event(kind="resolving", subject="requirements.vrf"))
        telling.begin("digest")
        found = builder_of(store.layout, "digest", but="another")
        assert found is not None
        assert (found.process, found.step) == (os.getpid(), "resolving requirements.vrf")
        assert str(found).endswith(": resolving requirements.vrf")
        assert builder_of(store.layout, "digest", but=session.id) is None
        assert builder_of(store.layout, "other", but="another") is None
    assert progress(store) == []


def test_a_render_that_is_killed_with_its_group_loses_nothing_that_came(
    builder: subprocess.Popen[str], index: Index, store: Store, requirements: Path
) -> None:
    os.killpg(builder.pid, signal.SIGKILL)
    builder.communicate()
    index.delay.clear()
    index.requests.clear()
    ended = in_process_of_its_own(store, "link", requirements, "--json", "--no-wait")
    assert ended.code == 0, ended.err
    assert [index.downloads(f"{name}-1.0-py3-none-any.whl") for name in NAMES] == [0, 0, 0, 1]
    assert ended.document["bytes"]["downloaded"] > 0
    assert ended.document["bytes"]["shared"] > 2 * ended.document["bytes"]["unpacked"] > 0
    # What it told of itself is believed no more, and gc takes it.
    assert len(progress(store)) == 1
    sweep.collect(store, Policy(max_age=86400, grace=86400))
    assert progress(store) == []


def test_what_was_told_by_somebody_who_is_gone_is_not_believed(store: Store) -> None:
    with store.session() as session, Building(store.layout, session) as telling:
        telling.begin("digest")
        copy = Path(store.layout.of("tmp"), "0123456789abcdef.progress")
        copy.write_bytes(progress(store)[0].read_bytes())
        assert builder_of(store.layout, "digest", but=session.id) is None
    copy.write_text("[]")
    assert builder_of(store.layout, "digest", but="x") is None


def test_of_several_the_first_that_began_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.session() as one, store.session() as two:
        first, second = Building(store.layout, one), Building(store.layout, two)
        second._since += 1
        with first, second:
            first(Event(kind="linking"))
            second(Event(kind="resolving", subject="x"))
            for telling in (second, first):
                telling.begin("digest")
            found = builder_of(store.layout, "digest", but="x")
            assert found is not None
            assert found.step == "linking"


def test_telling_costs_a_few_files_a_second_and_nothing_where_nothing_is_built(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("vrfstore.store.building.time.monotonic", lambda: now[0])
    with store.session() as session, Building(store.layout, session) as telling:
        telling(Event(kind="received", size=5))
        assert progress(store) == []
        telling.begin("digest")
        written = progress(store)[0].read_bytes()
        telling(Event(kind="received", size=5))
        assert progress(store)[0].read_bytes() == written
        now[0] += 1
        telling(Event(kind="received", size=5))
        assert json.loads(progress(store)[0].read_bytes())["received"] == 15


def test_where_nothing_can_be_told_the_link_goes_on(
    command: Command, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Building, "_path", property(lambda _: "/absent/progress"))
    assert command("link", requirements, "--json").document["status"] == "built"


def test_who_attends_a_hold_is_called_at_once_and_again_and_can_give_up(tmp_path: Path) -> None:
    path = str(tmp_path / "hold")
    calls = []

    def attend() -> None:
        calls.append(time.monotonic())
        if len(calls) == 2:
            raise BusyError("enough")

    with hold(path), pytest.raises(BusyError, match="enough"), hold(path, attend=attend):
        pass
    assert 0.2 < calls[1] - calls[0] < 5
    with hold(path, timeout=0):
        pass
