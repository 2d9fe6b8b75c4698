"""Collecting on a budget: sizes to the byte, what goes for them, and how the command says so."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from support.commands import Command
from support.crash import LOCK, make_environment
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.cli.running import run
from vrfstore.errors import StoreError, UsageError
from vrfstore.gc import sizes, sweep
from vrfstore.gc.policy import Policy, Room
from vrfstore.runner import collecting
from vrfstore.runner.configuration import Collecting
from vrfstore.runner.doctor import look
from vrfstore.store import ballast, condemned, leases
from vrfstore.store.holds import hold
from vrfstore.store.layout import Layout
from vrfstore.store.store import Store

DAY = 86400.0
KILOBYTE = 1024
HEAVY = 200 * KILOBYTE
"""The bytes that each of the wheels has at least."""


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def environments(store: Store, tmp_path: Path) -> list[str]:
    """Three environments, the oldest first, each with a wheel of its own and one that all have."""

    def wheel(name: str) -> Path:
        # What does not compress, or the blocks would be fewer than the bytes on some file systems.
        return build_wheel(
            WheelSpec(name=name, files={f"{name}.bin": os.urandom(HEAVY).hex()[:HEAVY]}), tmp_path
        )

    shared = wheel("shared")
    made = [
        make_environment(store, wheel(name), shared, lock=LOCK).directory for name in ("old", "mid", "new")
    ]
    for name, days in zip(made, (3, 2, 1), strict=True):
        used = time.time() - days * DAY
        os.utime(store.layout.record(name), (used, used))
    time.sleep(0.02)
    return made


def names(store: Store) -> set[str]:
    return {store.plan(directory).reference.name for directory in store.entries()}


def occupied(store: Store) -> int:
    """The bytes that the store takes, counted without the code under test."""
    inodes = {os.lstat(store.root).st_ino: os.lstat(store.root).st_blocks}
    for directory, children, files in os.walk(store.root):
        for name in children + files:
            found = os.lstat(os.path.join(directory, name))
            inodes[found.st_ino] = found.st_blocks
    return sum(inodes.values()) * 512


PATIENT = Policy(max_age=30 * DAY, grace=0)


def with_budget(**budget: Any) -> Policy:
    return Policy(max_age=30 * DAY, grace=0, **budget)


# --- sizes


def test_a_size_counts_every_inode_once(store: Store, environments: list[str]) -> None:
    assert environments
    assert sizes.size_of(store.root) == occupied(store)


def test_what_comes_back_when_trees_go_are_the_inodes_that_lose_their_last_link(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own").write_bytes(b"x" * 5000)
    for name in ("both", "outside"):
        (tmp_path / "one" / name).write_bytes(b"x" * 9000)
    os.link(tmp_path / "one/both", tmp_path / "two/both")
    os.link(tmp_path / "one/both", tmp_path / "two/both again")
    os.link(tmp_path / "one/outside", tmp_path / "outside")
    blocks = {
        name: os.lstat(tmp_path / name).st_blocks * 512 for name in ("one", "two", "one/own", "one/both")
    }
    freed = sizes.Freed()
    freed.see(str(tmp_path / "one"))
    assert freed.bytes == blocks["one"] + blocks["one/own"]
    freed.see(str(tmp_path / "two"))
    assert freed.bytes == blocks["one"] + blocks["two"] + 2 * blocks["one/own"] + blocks["one/both"]


def test_a_link_counts_whether_or_not_the_others_have_gone_meanwhile(tmp_path: Path) -> None:
    trees = [tmp_path / "trees" / name for name in ("one", "two", "three")]
    for tree in trees:
        tree.mkdir(parents=True)
    with (trees[0] / "file").open("wb") as stream:
        stream.write(b"x" * 9000)
        stream.flush()
        os.fsync(stream.fileno())  # until then, its blocks are a guess
    for tree in trees[1:]:
        os.link(trees[0] / "file", tree / "file")
    expected = sizes.size_of(str(tmp_path / "trees")) - os.lstat(tmp_path / "trees").st_blocks * 512
    freed = sizes.Freed()
    for tree in trees:
        freed.see(str(tree))
        fs.remove_tree(str(tree))
    assert freed.bytes == expected


# --- budgets


def test_for_a_size_the_least_recently_used_go_with_what_only_they_have(
    store: Store, environments: list[str]
) -> None:
    before = occupied(store)
    report = sweep.collect(store, with_budget(max_size=before - HEAVY))
    assert report.environments == (environments[0],)
    assert names(store) == {"mid", "new", "shared"}
    assert report.used == occupied(store) <= before - HEAVY
    assert (report.missing, report.stopped) == (0, "")


def test_a_store_within_its_size_loses_nothing(store: Store, environments: list[str]) -> None:
    report = sweep.collect(store, with_budget(max_size=occupied(store) + (1 << 20)))
    assert report.environments == report.entries == ()
    assert len(store.environments()) == len(environments)


def test_where_less_is_free_than_has_to_be_environments_go_until_the_target(
    store: Store, environments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    total = 100 * HEAVY
    monkeypatch.setattr(sizes, "room", lambda _: (10 * HEAVY, total))
    least = with_budget(min_free=Room(10, relative=True), target_free=Room(50, relative=True))
    assert sweep.preview(store, least).environments == ()
    least = with_budget(min_free=Room(10 * HEAVY + 1))
    assert sweep.preview(store, least).environments == (environments[0],)
    more = with_budget(min_free=Room(10 * HEAVY + 1), target_free=Room(12.5, relative=True))
    assert sweep.collect(store, more).environments == tuple(environments[:2])


def test_room_that_the_ballast_gives_back_for_a_while_is_not_free(
    store: Store, environments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def room(_path: str) -> tuple[int, int]:
        held = os.path.exists(store.layout.ballast)
        return 10 * HEAVY - (ballast.SIZE if held else 0), 100 * HEAVY

    monkeypatch.setattr(sizes, "room", room)
    monkeypatch.setattr(ballast, "free", lambda layout: fs.remove_file(layout.ballast))
    policy = with_budget(min_free=Room(10 * HEAVY - ballast.SIZE + 1))
    seen = sweep.preview(store, policy)
    assert seen.environments == (environments[0],)
    assert sweep.collect(store, policy).environments == seen.environments
    assert os.path.exists(store.layout.ballast)


def test_what_was_used_within_the_grace_stays_and_the_rest_of_the_budget_is_missing(
    store: Store, environments: list[str]
) -> None:
    before = occupied(store)
    report = sweep.collect(store, Policy(max_age=30 * DAY, grace=1.5 * DAY, max_size=0))
    # The entries are younger than the grace, whatever their environments are.
    assert report.environments == tuple(environments[:2])
    assert report.entries == ()
    assert report.missing == report.used == before - report.freed == occupied(store)


@pytest.mark.parametrize(
    "budget",
    [
        {"max_size": 0},
        {"max_size": 3 * HEAVY},
        {"max_size": 1 << 40},
        {"max_freed": 1},
        {"max_freed": HEAVY, "max_size": 0},
        {"min_free": Room(1 << 60)},
    ],
    ids=str,
)
def test_a_preview_with_a_budget_is_what_a_collection_does_to_the_byte(
    store: Store, environments: list[str], budget: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Others write to the file system meanwhile.
    monkeypatch.setattr(sizes, "room", lambda _: (10 * HEAVY, 100 * HEAVY))
    policy = with_budget(**budget)
    Path(store.layout.of("gc", "run")).touch()
    with leases.take(store.layout, environment=environments[1]):
        before = occupied(store)
        seen = sweep.preview(store, policy)
        done = sweep.collect(store, policy)
        assert environments[1] in store.environments()
        assert done.freed == before - occupied(store)
    fields = (
        "environments",
        "entries",
        "leftovers",
        "records",
        "freed",
        "entries_kept",
        "missing",
        "used",
        "stopped",
    )
    assert {name: getattr(seen, name) for name in fields} == {name: getattr(done, name) for name in fields}
    assert seen.kept.keys() == done.kept.keys()


def test_a_run_that_may_free_so_much_stops_and_the_next_goes_on(
    store: Store, environments: list[str]
) -> None:
    everything = Policy(max_age=0, grace=0, max_freed=1)
    first = sweep.collect(store, everything)
    assert (first.environments, first.stopped) == ((environments[0],), "freed")
    assert sweep.collect(store, everything).environments == (environments[1],)


def test_a_run_that_is_out_of_time_stops_and_says_so(store: Store, environments: list[str]) -> None:
    report = sweep.collect(store, Policy(max_age=0, grace=0, max_seconds=0))
    assert (report.environments, report.stopped) == ((), "time")
    assert sweep.collect(store, Policy(max_age=0, grace=0)).environments == tuple(environments)


def test_what_is_claimed_in_the_middle_of_a_run_is_made_up_for_by_another(
    store: Store, environments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = [environments[0]]

    def use(effect: str, path: str) -> None:
        if pending and effect == "rename" and path == store.layout.condemned:
            fs.stamp(store.layout.record(pending.pop()))

    monkeypatch.setattr(fs, "on_effect", use)
    budget = occupied(store) - HEAVY
    report = sweep.collect(store, with_budget(max_size=budget))
    assert report.environments == (environments[1],)
    assert (report.missing, occupied(store) <= budget) == (0, True)


@pytest.mark.parametrize(
    ("fixed", "each", "size"),
    [
        (0.0, 0.0, 256),
        (0.0, 0.00001, 256),
        (0.0, 0.0001, 100),
        (0.005, 0.0001, 50),
        (0.009, 0.0001, 50),  # what looking takes is no reason to look more often
        (0.5, 0.0001, 50),
        (0.0, 0.01, 8),
        (0.0, 5.0, 8),
    ],
)
def test_a_batch_is_as_large_as_users_do_not_notice(fixed: float, each: float, size: int) -> None:
    assert sweep.batch_size(fixed, each) == size


def test_batches_follow_what_they_cost(
    store: Store, environments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environments
    batches: list[int] = []
    publish = condemned.publish

    def notice(layout: Layout, listed: list[str]) -> None:
        batches.append(len(listed))
        publish(layout, listed)

    monkeypatch.setattr(condemned, "publish", notice)
    monkeypatch.setattr(sweep, "batch_size", lambda _fixed, _each: 10)
    for number in range(40):
        directory = Path(store.layout.of("entries", f"{number:020x}-x-1"))
        directory.mkdir()
    time.sleep(0.02)
    sweep.collect(store, Policy(max_age=30 * DAY, grace=0))
    assert batches == [16, 10, 10, 4]


# --- the command


def test_what_is_given_comes_before_what_is_configured_and_that_before_the_usual() -> None:
    assert collecting.policy(Collecting()) == Policy(max_age=30 * DAY, grace=DAY)
    configured = Collecting(max_age=7 * DAY, grace=2 * DAY, max_size=100, keep_last=3)
    assert collecting.policy(configured) == Policy(max_age=7 * DAY, grace=2 * DAY, max_size=100, keep_last=3)
    assert collecting.policy(configured, max_size=50, keep_last=0) == Policy(
        max_age=7 * DAY, grace=2 * DAY, max_size=50, keep_last=0
    )
    # An age of zero means what is young as well, unless a grace is given.
    assert collecting.policy(configured, max_age=0.0) == Policy(max_age=0, grace=0, max_size=100, keep_last=3)
    assert collecting.policy(Collecting(), max_age=0.0, grace=60.0) == Policy(max_age=0, grace=60)


def test_a_target_without_a_least_is_refused(command: Command) -> None:
    with pytest.raises(UsageError):
        collecting.policy(Collecting(target_free=Room(5)))
    ended = command("gc", "--target-free", "10%", "--json")
    assert (ended.code, ended.kind) == (2, "options-conflict")


@pytest.mark.parametrize(
    "arguments", [("--min-free", "120%"), ("--min-free", "much"), ("--max-size", "-1"), ("--keep-last", "-1")]
)
def test_a_budget_that_makes_no_sense_is_refused(command: Command, arguments: tuple[str, str]) -> None:
    assert command("gc", *arguments).code == 2


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_no_store_is_made_to_be_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(["--store", f"{tmp_path}/mistyped", "gc", "--json", *arguments]) == 21
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "store-missing"
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(
    "arguments",
    [["gc", "--dry-run"], ["why", "x"], ["du"], ["list"], ["list", "--unused"], ["roots", "list"]],
    ids=" ".join,
)
def test_of_a_store_that_was_made_by_half_nothing_is_told(
    command: Command, store: Store, arguments: list[str]
) -> None:
    os.rmdir(store.layout.of("leases"))
    ended = command(*arguments, "--json")
    assert (ended.code, ended.document["error"]["kind"]) == (21, "store-part")
    assert command("gc").code == 0
    assert os.path.isdir(store.layout.of("leases"))


def test_over_budget_has_an_exit_code_of_its_own_and_the_report_is_there_all_the_same(
    command: Command, store: Store, environments: list[str]
) -> None:
    with leases.take(store.layout, environment=environments[0]):
        ended = command("gc", "--max-size", "1k", "--grace", "0", "--json")
        left = occupied(store)
    assert ended.code == 20
    assert ended.document["status"] == "over-budget"
    assert ended.document["error"]["kind"] == "over-budget"
    assert ended.document["bytes_missing"] == left - 1000
    assert store.environments() == [environments[0]]


def test_what_a_dry_run_would_take_is_not_said_to_hold_anything(
    command: Command, store: Store, environments: list[str]
) -> None:
    with leases.take(store.layout, environment=environments[0]):
        seen = command("gc", "--max-size", "1k", "--grace", "0", "--dry-run", "--json")
        done = command("gc", "--max-size", "1k", "--grace", "0", "--json")
    assert seen.document["removed"]["environments"] == environments[1:]
    assert [holder["name"] for holder in seen.document["holders"]] == [f"environments/{environments[0]}"]
    assert seen.document["holders"] == done.document["holders"]


@pytest.mark.parametrize("budget", [(), ("--max-size", "1k")], ids=["", "over budget"])
def test_a_collection_is_told_of_although_its_metrics_cannot_be_written(
    command: Command, tmp_path: Path, environments: list[str], budget: tuple[str, ...]
) -> None:
    # Longer than a name may be: who is root may write everywhere else.
    place = f"{tmp_path}/{'x' * 300}.prom"
    ended = command("gc", "--max-age", "0", "--grace", "1h", "--prometheus", place, *budget, "--json")
    assert sorted(ended.document["removed"]["environments"]) == sorted(environments)
    error = ended.document["error"]
    assert (ended.code, error["kind"]) == ((20, "over-budget") if budget else (2, "path"))
    assert budget or error["path"] == place
    told = ended.err if budget else error["message"]
    assert "the metrics cannot be written: File name too long" in told


def test_over_budget_in_words(command: Command, store: Store, environments: list[str]) -> None:
    assert environments
    ended = command("gc", "--max-size", "1k")
    assert ended.code == 20
    assert "freed" in ended.out
    assert "all that is left is in use or too young" in ended.err
    assert len(store.entries()) == 4


def test_a_budget_that_is_configured_counts(
    command: Command, store: Store, environments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vrfstore.toml"
    file.write_text(f"[gc]\nmax-size = {occupied(store) - HEAVY}\ngrace = 0\n")
    monkeypatch.setenv("VRFSTORE_CONFIG", str(file))
    ended = command("gc", "--json")
    assert (ended.code, ended.document["removed"]["environments"]) == (0, [environments[0]])


def test_with_no_wait_another_gc_is_an_error_and_otherwise_it_is_waited_for(
    command: Command, store: Store
) -> None:
    release = threading.Event()
    with hold(store.layout.of("gc", "run")):
        ended = command("gc", "--no-wait", "--json")
        assert (ended.code, ended.kind) == (15, "gc-running")
        ended = command("gc", "--max-seconds", "0.05", "--json")
        assert (ended.code, ended.kind) == (15, "gc-running")

    def let_go_later() -> None:
        with hold(store.layout.of("gc", "run")):
            release.set()
            time.sleep(0.2)

    other = threading.Thread(target=let_go_later)
    other.start()
    release.wait()
    ended = command("gc")
    other.join()
    assert ended.code == 0
    assert "another gc is at work" in ended.err


def test_on_a_network_file_system_only_the_host_collects_that_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = collecting.policy(Collecting())
    table = f"30 1 0:30 / {os.path.realpath(store.root)} rw - nfs4 server:/x rw\n"
    monkeypatch.setattr(look, "mount_table", lambda: table)
    with pytest.raises(StoreError, match="network file system") as caught:
        collecting.run(store, policy)
    assert caught.value.kind == "gc-network"
    collecting.run(store, policy, dry_run=True)
    here = os.uname().nodename
    collecting.run(store, policy, host=here)
    with pytest.raises(StoreError, match="only elsewhere") as caught:
        collecting.run(store, policy, host="elsewhere")
    assert caught.value.kind == "gc-other-host"
