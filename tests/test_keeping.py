"""``link --root``, ``--lease-pid`` and ``--lease-ttl``: what keeps an environment that nobody runs anything in yet."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.commands import Command, in_process_of_its_own
from support.index import Index
from support.wheels import WheelSpec
from vrfstore import fs
from vrfstore.cli import quick
from vrfstore.errors import UsageError
from vrfstore.gc import roots
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import Report, collect
from vrfstore.model import LinkOptions
from vrfstore.runner import hit
from vrfstore.runner.keeping import Keeping
from vrfstore.runner.link import LinkResult, link
from vrfstore.store import leases
from vrfstore.store.layout import Layout
from vrfstore.store.leases import LeaseRecord
from vrfstore.store.store import Store

DAY = 86400.0


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> Path:
    index.add(WheelSpec(name="pear"))
    path = tmp_path / "requirements.vrf"
    path.write_text("pear\n")
    return path


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs until it is killed."""
    with subprocess.Popen(["sleep", "600"]) as running:
        yield running
        running.kill()


def gc(store: Store) -> Report:
    return collect(store, Policy(max_age=0, grace=0))


def another(requirements: Path, store: Store, number: int, **options: Any) -> LinkResult:
    """Link another environment of the same file."""
    return link(requirements, store=store, options=LinkOptions(prompt=str(number)), **options)


def names(store: Store, name: str = "report") -> tuple[str, ...]:
    """The environments of a project."""
    (found,) = (root for root in roots.read(store) if isinstance(root, roots.Root) and root.name == name)
    assert found.project
    return tuple(each.removeprefix("environments/") for each in found.names)


def only_lease(store: Store) -> LeaseRecord:
    (lease,) = leases.read(store.layout)
    return lease


def test_a_link_is_recorded_as_the_newest_of_its_project_and_gc_keeps_that(
    requirements: Path, store: Store
) -> None:
    linked = [
        os.path.basename(another(requirements, store, number, root="report").environment)
        for number in range(3)
    ]
    assert names(store) == tuple(reversed(linked))
    # The whole way, then a hit.
    for status in ("hit", "hit"):
        again = another(requirements, store, 0, root="report")
        assert (again.status, again.lease) == (status, None)
        assert names(store) == (linked[0], linked[2], linked[1])
    assert gc(store).environments
    assert store.environments() == [linked[0]]
    roots.remove(store, "report")
    gc(store)
    assert store.environments() == []


def test_a_hit_on_the_newest_writes_nothing_but_the_last_use(
    requirements: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(requirements, store=store, root="report")
    effects: list[str] = []
    monkeypatch.setattr(fs, "on_effect", lambda effect, _path: effects.append(effect))
    assert link(requirements, store=store, root="report").status == "hit"
    assert set(effects) == {"stamp"}


@pytest.mark.parametrize("wanted", [{"root": "report"}, {"lease_ttl": DAY}, {"lease": True}], ids=str)
def test_who_keeps_writes_first_and_looks_afterwards(
    requirements: Path, store: Store, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    first = link(requirements, store=store)
    keep = Keeping.keep
    seen: list[list[str]] = []

    def collected(self: Keeping, opened: Store, directory: str) -> leases.Lease | None:
        if not seen:  # a gc that looked before anything was written
            fs.rename(first.environment, f"{os.path.dirname(first.environment)}/.dead-1")
        kept = keep(self, opened, directory)
        seen.append(sorted([*os.listdir(store.layout.of("leases")), *os.listdir(store.layout.of("roots"))]))
        return kept

    monkeypatch.setattr(Keeping, "keep", collected)
    result = link(requirements, store=store, **wanted)
    assert len(seen) == 2
    assert result.status == "linked"
    assert os.path.exists(result.python)
    # What was taken in vain has been given back.
    assert len([lease for lease in leases.read(store.layout) if lease.alive]) == (result.lease is not None)
    if result.lease is not None:
        result.lease.release()


def test_a_memo_that_leads_elsewhere_meanwhile_gives_no_lease_on_another_environment(
    requirements: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(requirements, store=store)
    keep = Keeping.keep
    changed: list[str] = []

    def relinked(self: Keeping, opened: Store, directory: str) -> leases.Lease | None:
        kept = keep(self, opened, directory)
        if not changed:
            changed.append(directory)
            Path(store.layout.of("environments", directory), "pyvenv.cfg").touch()
            link(requirements, store=store)
        return kept

    monkeypatch.setattr(Keeping, "keep", relinked)
    result = link(requirements, store=store, root="report")
    assert os.path.basename(result.environment) == f"{changed[0]}.1" == names(store)[0]


def test_a_lease_of_a_process_keeps_the_environment_until_that_ends(
    requirements: Path, store: Store, command: Command, process: subprocess.Popen[bytes]
) -> None:
    for _ in ("the whole way", "a hit"):
        ended = command("link", requirements, "--lease-pid", process.pid, "--json")
        lease = only_lease(store)
        assert (lease.kind, lease.process) == ("process", process.pid)
        assert ended.document["lease"]["id"] == lease.id
        seconds = datetime.fromisoformat(ended.document["lease"]["expires"]).timestamp() - time.time()
        assert 7 * DAY - 60 < seconds < 7 * DAY + 60
        assert gc(store).environments == ()
        os.unlink(store.layout.of("leases", lease.name))
    command("link", requirements, "--lease-pid", process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert len(gc(store).environments) == 1
    assert os.listdir(store.layout.of("leases")) == []


def test_a_lease_until_a_time_keeps_the_environment_until_then(
    requirements: Path, store: Store, command: Command
) -> None:
    ended = command("link", requirements, "--lease-ttl", "12h", "--json")
    lease = only_lease(store)
    assert (lease.kind, ended.document["lease"]["id"]) == ("until", lease.id)
    moment = datetime.fromisoformat(ended.document["lease"]["expires"])
    assert moment.tzinfo == UTC
    assert 12 * 3600 - 60 < moment.timestamp() - time.time() < 12 * 3600 + 60
    assert gc(store).environments == ()
    # As after twelve hours.
    *parts, deadline, wall = lease.name.split(".")
    over = ".".join([*parts, str(int(deadline) - 12 * 3600 - 1), wall])
    os.rename(store.layout.of("leases", lease.name), store.layout.of("leases", over))
    assert len(gc(store).environments) == 1


def test_with_a_process_a_time_is_for_those_who_cannot_see_it(
    requirements: Path, store: Store, process: subprocess.Popen[bytes]
) -> None:
    result = link(requirements, store=store, lease_pid=process.pid, lease_ttl=60)
    assert only_lease(store).kind == "process"
    assert result.lease is not None
    assert result.lease.expires is not None
    assert 0 < result.lease.expires - time.time() < 62
    result.lease.release()
    assert os.listdir(store.layout.of("leases")) == []


def test_without_a_lease_there_is_none_and_the_text_is_the_python(
    requirements: Path, store: Store, command: Command
) -> None:
    assert command("link", requirements, "--json").document["lease"] is None
    python = link(requirements, store=store).python
    for options in (["--root", "report"], ["--lease-ttl", "1h"], ["--lease-pid", os.getpid()], []):
        assert command("link", requirements, *options).out == f"{python}\n"
    arguments = ["--store", store.root, "link", str(requirements)]
    assert quick(arguments) == os.fsencode(python)
    for option in (
        "--root=x",
        "--lease-pid=1",
        "--lease-ttl=0s",
        "--lease-ttl=1",
        "--lease-ttl=1.5h",
        "--lease-ttl=367d",
    ):
        # The short way knows nothing of these.
        assert quick([*arguments, option]) is quick([*arguments, *option.split("=")]) is None


@pytest.mark.parametrize("length", ["90s", "15m", "12h", "7d"])
def test_the_short_way_takes_the_same_lease(
    requirements: Path, store: Store, command: Command, length: str
) -> None:
    python = link(requirements, store=store).python
    arguments = ["link", str(requirements), "--lease-ttl", length]
    began = time.time()
    assert quick(["--store", store.root, *arguments]) == os.fsencode(python)
    lease = only_lease(store)
    os.unlink(store.layout.of("leases", lease.name))
    assert command(*arguments, "--json").document["status"] == "hit"
    other = only_lease(store)
    assert (lease.kind, lease.environment, lease.alive) == (other.kind, other.environment, other.alive)
    assert lease.kind == "until"
    assert lease.expires is not None
    assert other.expires is not None
    assert -2 < other.expires - lease.expires - (time.time() - began) < 2
    assert gc(store).environments == ()


def test_the_short_way_hands_out_nothing_that_has_gone_while_it_took_its_lease(
    requirements: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = link(requirements, store=store).python
    take = hit.keep

    def keep(layout: Layout, found: hit.Hit, seconds: float) -> str:
        kept = take(layout, found, seconds)
        os.rename(python, f"{python}.away")
        return kept

    monkeypatch.setattr(hit, "keep", keep)
    assert quick(["--store", store.root, "link", str(requirements), "--lease-ttl", "1h"]) is None
    assert os.listdir(store.layout.of("leases")) == []


def a_zombie(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_a_process_that_is_not_there_can_keep_nothing(
    requirements: Path, store: Store, command: Command, process: subprocess.Popen[bytes]
) -> None:
    a_zombie(process)
    for pid in (process.pid, 2**22 + 1, 2**40):
        ended = command("link", requirements, "--lease-pid", pid, "--json")
        assert (ended.code, ended.kind) == (2, "lease-process")
        assert f"there is no process {pid}" in ended.err
    for pid in (0, -1):
        assert command("link", requirements, "--lease-pid", pid).code == 2
        with pytest.raises(UsageError, match="there is no process"):
            link(requirements, store=store, lease_pid=pid)
    assert store.environments() == os.listdir(store.layout.of("leases")) == []


def test_a_process_that_cannot_be_told_from_others_can_keep_nothing(
    requirements: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(_self: object) -> int:
        raise OSError(18, "it shows the processes of another pid namespace", "/proc/self/status")

    monkeypatch.setattr("vrfstore.store.machine.Machine.namespace", elsewhere)
    with pytest.raises(UsageError) as caught:
        link(requirements, store=store, lease_pid=os.getpid())
    assert (caught.value.kind, caught.value.path) == ("lease-process", "/proc/self/status")


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--into", "own", "--root", "report"], "options-conflict"),
        (["--into", "own", "--lease-ttl", "1h"], "options-conflict"),
        (["--into", "own", "--lease-pid", "1"], "options-conflict"),
        (["--lease-ttl", "0"], "lease-ttl"),
        (["--lease-ttl", "3651d"], "lease-ttl"),
        (["--lease-ttl", "9" * 18 + "w"], "lease-ttl"),
        (["--root", "../x"], "root-name"),
        (["--root", ""], "root-name"),
        (["--root", "pin"], "root-taken"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_done(
    requirements: Path, store: Store, command: Command, index: Index, options: list[str], kind: str
) -> None:
    Path(store.layout.of("roots", "pin.json")).write_text(
        f'{{"schema":2,"kind":"pin","names":["locks/{"0" * 64}"]}}'
    )
    asked = len(index.requests)
    ended = command("link", requirements, *options, "--json")
    assert (ended.code, ended.kind) == (2, kind)
    assert ended.document["error"]["hint"]
    assert len(index.requests) == asked
    assert store.environments() == os.listdir(store.layout.of("leases")) == []
    assert not Path("own").exists()


def test_two_kinds_of_lease_at_once_are_refused(requirements: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="one lease at a time"):
        link(requirements, store=store, lease=True, lease_ttl=60)


def test_a_name_that_becomes_a_pin_s_meanwhile_leaves_no_lease(
    requirements: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(requirements, store=store)

    def taken(*_arguments: object) -> None:
        raise UsageError("it is the name of a pin already", kind="root-taken")

    monkeypatch.setattr(roots, "record", taken)
    with pytest.raises(UsageError):
        link(requirements, store=store, root="report", lease_ttl=60)
    assert os.listdir(store.layout.of("leases")) == []


def test_run_records_its_environment_too(requirements: Path, store: Store, tmp_path: Path) -> None:
    for _ in ("the whole way", "a hit"):
        ended = in_process_of_its_own(store, "run", requirements, "--root", "report", "--", "true")
        assert ended.code == 0, ended.err
        assert names(store) == tuple(store.environments())
    managed = store.layout.of("environments", store.environments()[0])
    assert in_process_of_its_own(store, "run", managed, "--root", "report", "--", "true").code == 2
    own = ["--into", str(tmp_path / "own"), "--root", "report"]
    assert in_process_of_its_own(store, "run", requirements, *own, "--", "true").code == 2
