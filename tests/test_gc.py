"""Collecting: what nobody refers to goes, to the byte; what somebody refers to stays, whatever else happens."""

from __future__ import annotations

import errno
import functools
import gc as garbage
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from support.crash import LOCK, base, dangling, litter, make_environment, together, tree, wheel_digest
from support.wheels import WheelSpec, build_wheel
from vrfstore import codec, fs
from vrfstore.errors import BusyError, StoreDamagedError, UsageError
from vrfstore.gc import roots, runtime, scan, sweep
from vrfstore.gc.policy import Policy, decide
from vrfstore.linker.link import environment_key, link
from vrfstore.store import condemned, leases, memos, records
from vrfstore.store.holds import hold
from vrfstore.store.interpreters import ready_links
from vrfstore.store.store import Store

EVERYTHING = Policy(max_age=0, grace=0)
POLICY_OF_ENTRIES = Policy(max_age=1e9, grace=0)
DAY = 86400.0
ABSENT = "f" * 32
"""The key of no environment."""

UNREADABLE = {
    "empty": b"",
    "torn": b'{"schema":1,"whe',
    "not-text": b"\xff\xfe",
    "no-object": b"[]",
    "null": b"null",
    "no-fields": b'{"schema":1}',
    "newer": b'{"schema":999}',
    "nested": b"[" * 200_000,
}
"""What a record may come to hold that was not written by this version."""


pytestmark = pytest.mark.usefixtures("without_sync")


class World:
    """A store with two environments, ``live`` and ``dead``, that share an entry; and how to ask about it."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.wheels = {
            # Unlike those of any other test: in /proc, a name counts for every store that has it.
            name: build_wheel(
                WheelSpec(name=name, entry_points=points, metadata_extra=f"Keywords: {fs.unique_name()}\n"),
                folder,
            )
            for name, points in {
                "live": {},
                "dead": {"console_scripts": {"dead": "dead:main"}},
                "shared": {},
                "lonely": {},
            }.items()
        }
        self.live = self.environment("live", "shared")
        self.dead = self.environment("dead", "shared")
        self.lonely = self.entry("lonely")

    def environment(self, *names: str, lock: str = LOCK) -> str:
        return make_environment(self.store, *(self.wheels[name] for name in names), lock=lock).directory

    def entry(self, name: str) -> str:
        return self.store.add(self.wheels[name]).plan.reference.directory

    def entries(self) -> set[str]:
        """The names of the distributions that have an entry."""
        return {self.store.plan(directory).reference.name for directory in self.store.entries()}

    def path(self, environment: str) -> str:
        return self.store.layout.of("environments", environment)

    def age(self, environment: str, seconds: float) -> None:
        """Let an environment have been used so long ago."""
        used = time.time() - seconds
        os.utime(self.store.layout.record(environment), (used, used))

    def pin(self) -> None:
        roots.add(self.store, "pin", self.live)

    def collect(self, policy: Policy = EVERYTHING) -> sweep.Report:
        return sweep.collect(self.store, policy)


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    """A store with something in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    return World(store, folder)


def test_without_roots_and_users_everything_goes(world: World) -> None:
    report = world.collect()
    assert set(report.environments) == {world.live, world.dead}
    assert len(report.entries) == 4
    assert world.store.environments() == world.store.entries() == []
    assert litter(world.store) == []
    assert (report.kept, report.entries_kept, report.problems) == ({}, 0, ())


def test_an_environment_goes_when_it_was_not_used_for_the_maximum_age(world: World) -> None:
    world.age(world.dead, 2 * DAY)
    world.age(world.live, 0.5 * DAY)
    report = world.collect(Policy(max_age=DAY, grace=0))
    assert report.environments == (world.dead,)
    assert report.kept == {world.live: ("used 12 hours ago",)}
    assert world.entries() == {"live", "shared"}


def test_environments_go_least_recently_used_first(world: World) -> None:
    world.age(world.dead, 2 * DAY)
    world.age(world.live, 3 * DAY)
    assert world.collect().environments == (world.live, world.dead)


def test_an_entry_goes_only_when_it_is_older_than_the_grace(world: World) -> None:
    report = world.collect(Policy(max_age=0, grace=DAY))
    assert len(report.environments) == 2
    assert report.entries == ()
    assert world.entries() == {"live", "dead", "shared", "lonely"}


def test_a_root_keeps_exactly_its_closure(world: World) -> None:
    whole = tree(world.path(world.live))
    world.pin()
    report = world.collect()
    assert report.kept == {world.live: ("pinned by root pin",)}
    assert world.store.environments() == [world.live]
    assert world.entries() == {"live", "shared"}
    assert tree(world.path(world.live)) == whole
    assert dangling(world.path(world.live)) == []
    subprocess.run([f"{world.path(world.live)}/bin/python", "-c", "import live, shared"], check=True)

    roots.remove(world.store, "pin")
    assert world.collect().environments == (world.live,)


def test_a_root_on_an_entry_keeps_that_entry_only(world: World) -> None:
    roots.add(world.store, "pin", world.lonely)
    world.collect()
    assert world.store.environments() == []
    assert world.store.entries() == [world.lonely]


def test_a_root_that_names_nothing_keeps_nothing(world: World) -> None:
    roots.add(world.store, "pin", world.live)
    root = Path(world.store.layout.of("roots", "pin.json"))
    root.write_text(root.read_text().replace(world.live, ABSENT))
    world.collect()
    assert world.store.environments() == []


def test_a_root_is_found_by_path_name_or_beginning_and_replaced_by_its_name(world: World) -> None:
    for target in (f"{world.path(world.live)}/", world.live, world.live[:12]):
        assert roots.add(world.store, "pin", target).environment == world.live
    assert roots.add(world.store, "pin", world.lonely[:25]).entry == world.lonely
    assert list(roots.read(world.store)) == [roots.Root(name="pin", names=(f"entries/{world.lonely}",))]


@pytest.mark.parametrize(
    ("name", "target", "kind"),
    [
        ("../pin", "{live}", "root-name"),
        ("", "{live}", "root-name"),
        (".pin", "{live}", "root-name"),
        ("p" * 101, "{live}", "root-name"),
        ("pin\n", "{live}", "root-name"),
        ("pin", "", "target-unknown"),
        ("pin", "/", "target-unknown"),
        ("pin", ABSENT, "target-unknown"),
        ("pin", "../..", "target-unknown"),
    ],
)
def test_a_root_that_makes_no_sense_is_refused(world: World, name: str, target: str, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        roots.add(world.store, name, target.format(live=world.live))
    assert caught.value.kind == kind
    assert list(roots.read(world.store)) == []


def test_removing_a_root_that_is_not_there_is_an_error(store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        roots.remove(store, "pin")
    assert caught.value.kind == "root-missing"


@pytest.mark.parametrize(
    "record",
    [
        {"schema": 1, "environment": "/", "entry": None},
        {"schema": 1, "environment": "../..", "entry": None},
        {"schema": 1, "environment": None, "entry": "../../outside"},
        {"schema": 1, "environment": "", "entry": None},
    ],
)
def test_a_root_that_names_a_place_elsewhere_touches_nothing_there(
    world: World, tmp_path: Path, record: dict[str, object]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    before = tree(tmp_path, without=("store",))
    Path(world.store.layout.of("roots", "odd.json")).write_bytes(codec.dumps(record))
    world.collect()
    assert tree(tmp_path, without=("store",)) == before
    assert world.store.environments() == []


def test_a_lease_keeps_its_environment_its_wheels_and_its_lock(world: World) -> None:
    wanted, other = "1" * 64, "2" * 64
    for lock in (wanted, other):
        Path(world.store.layout.of("locks", f"{lock}.toml")).touch()
    digest = wheel_digest(world.wheels["lonely"])
    with leases.take(world.store.layout, environment=world.live, digests=[digest], lock=wanted):
        report = world.collect()
        assert report.kept == {world.live: ("leased",)}
        assert world.entries() == {"live", "shared", "lonely"}
        assert os.listdir(world.store.layout.of("locks")) == [f"{wanted}.toml"]
    world.collect()
    assert world.store.environments() == world.store.entries() == []
    assert os.listdir(world.store.layout.of("locks")) == []


def test_a_lease_on_a_key_keeps_all_its_generations(world: World) -> None:
    Path(world.path(world.live), "pyvenv.cfg").touch()
    second = world.environment("live", "shared")
    assert second == f"{world.live}.1"
    with leases.take(world.store.layout, environment=world.live):
        assert set(world.collect().kept) == {world.live, second}


@pytest.mark.parametrize(("changed", "stays"), [(True, False), (False, True)])
def test_an_earlier_generation_goes_after_a_week_only_where_it_is_not_handed_out_any_more(
    world: World, changed: bool, stays: bool
) -> None:
    configuration = Path(world.path(world.live), "pyvenv.cfg")
    aside = configuration.rename(configuration.with_name("aside"))
    second = world.environment("live", "shared")
    aside.rename(configuration)
    record = world.store.record(world.live)
    if not changed:
        # As healing leaves it: it is handed out again.
        own = {path: records.own_token(f"{world.path(world.live)}/{path}") for path in record.own}
        Path(world.store.layout.record(world.live)).write_bytes(
            records.record_to_json(replace(record, own=own))
        )
    assert world.store.usable_environment(record.key)[1] == changed
    for environment in (world.live, second):
        world.age(environment, 8 * DAY)
    report = world.collect(Policy(max_age=30 * DAY, grace=DAY))
    assert (world.live in report.kept) is stays
    assert second in report.kept


@contextmanager
def running(arguments: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs until it is killed here."""
    with subprocess.Popen(arguments, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def sleeper(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "import time; time.sleep(60)", *arguments]


USERS: dict[str, Callable[[str], tuple[list[str], dict[str, object]]]] = {
    "its own python": lambda path: ([f"{path}/bin/python", "-c", "import time; time.sleep(60)"], {}),
    "an argument": lambda path: (sleeper(f"--kernel={path}/share/jupyter"), {}),
    "VIRTUAL_ENV": lambda path: (sleeper(), {"env": {"VIRTUAL_ENV": path}}),
    "PATH": lambda path: (sleeper(), {"env": {"PATH": f"/usr/bin:{path}/bin:/bin"}}),
    "its directory": lambda path: (sleeper(), {"cwd": path}),
    "a directory in it": lambda path: (sleeper(), {"cwd": f"{path}/lib"}),
}


@pytest.mark.parametrize("user", USERS)
def test_a_process_keeps_the_environment_it_uses(world: World, user: str) -> None:
    arguments, options = USERS[user](world.path(world.live))
    with running(arguments, **options) as process:
        report = world.collect()
        assert report.kept == {world.live: (f"in use by process {process.pid}",)}
        assert world.entries() == {"live", "shared"}
    assert world.collect().environments == (world.live,)


def test_a_process_keeps_the_entry_whose_file_it_has_mapped(world: World) -> None:
    module = f"{world.store.layout.of('entries', world.lonely)}/site-packages/lonely/__init__.py"
    with open(module, "rb") as stream, closing(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)):
        world.collect()
        assert world.store.entries() == [world.lonely]
    world.collect()
    assert world.store.entries() == []


def test_processes_that_cannot_be_looked_at_protect_nothing_and_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    (tmp_path / "2/cmdline").write_bytes(b"python\0/srv/store/environments/" + b"a" * 32 + b".2/x.py\0")
    (tmp_path / "version").touch()
    store, proc = "/srv/store", str(tmp_path)
    assert runtime.names_in_use(store, proc) == {f"environments/{'a' * 32}.2": {2}}
    assert runtime.names_in_use(store, f"{proc}/absent") == {}


def test_where_no_process_can_be_seen_the_report_says_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime.can_be_seen()
    assert not runtime.can_be_seen(str(tmp_path / "absent"))
    monkeypatch.setattr(runtime, "can_be_seen", lambda: False)
    for report in (sweep.preview(world.store, EVERYTHING), world.collect()):
        (problem,) = report.problems
        assert "/proc does not show them" in problem


def test_a_long_argument_of_some_process_does_not_hold_a_collection_up(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    # Linear search takes less than a millisecond, quadratic search several seconds.
    (tmp_path / "1/cmdline").write_bytes(b"/environments/" + b"a" * 32 + b"\0" + b"x" * 30_000)
    began = time.process_time()
    assert runtime.names_in_use("/srv/store", str(tmp_path)) == {f"environments/{'a' * 32}": {1}}
    assert time.process_time() - began < 1


def test_a_link_that_ends_while_the_store_is_looked_at_keeps_its_entries(world: World) -> None:
    lease = leases.take(world.store.layout, digests=[wheel_digest(world.wheels["lonely"])])

    def publish_and_end() -> dict[str, set[int]]:
        world.environment("lonely")
        lease.release()
        return {}

    began = scan.now() + 3600  # so that neither age nor the scan's own moment keeps anything
    view = scan.View(world.store, began=began, in_use=publish_and_end)
    assert world.lonely not in decide(view.snapshot(), POLICY_OF_ENTRIES).entries


def test_a_name_that_was_leased_at_an_earlier_look_stays_for_the_whole_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = leases.take(world.store.layout, environment=world.live)
    # It ends before the second look, as that of `run` does; the kernel that it left is not found.
    at_effect(monkeypatch, "overwrite", world.store.layout.of("gc", "spare"), lease.release)
    monkeypatch.setattr("vrfstore.gc.runtime.names_in_use", lambda _: {})
    assert world.collect().environments == (world.dead,)
    assert world.store.environments() == [world.live]


def test_a_pipe_in_the_place_of_a_store_s_marker_holds_nobody_up(world: World, tmp_path: Path) -> None:
    (tmp_path / "trap/environments").mkdir(parents=True)
    os.mkfifo(tmp_path / "trap/store.json")
    with running(sleeper(f"{tmp_path}/trap/environments/{world.live}/bin/python")):
        assert set(world.collect().kept) == {world.live}


def test_a_process_in_another_store_keeps_nothing_here(world: World, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "elsewhere")
    elsewhere = Path(other.layout.of("environments", world.live))
    elsewhere.mkdir()
    with running(sleeper(), cwd=elsewhere):
        assert world.collect().kept == {}


def test_a_process_that_knows_the_store_by_another_path_keeps_its_environment(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "alias").symlink_to(world.store.root)
    with running(sleeper(f"{tmp_path}/alias/environments/{world.live}/bin/python")):
        assert set(world.collect().kept) == {world.live}


@pytest.mark.parametrize("content", [*UNREADABLE.values(), None], ids=[*UNREADABLE, "missing"])
def test_an_environment_with_an_unreadable_record_stays_with_what_its_links_lead_to(
    world: World, content: bytes | None
) -> None:
    record = Path(world.store.layout.record(world.live))
    record.unlink()
    if content is not None:
        record.write_bytes(content)
    report = world.collect()
    assert report.environments == (world.dead,)
    assert report.kept == {world.live: ("its record cannot be read",)}
    assert [problem for problem in report.problems if f"environments/{world.live} is kept" in problem]
    assert world.entries() == {"live", "shared"}
    assert dangling(world.path(world.live)) == []


def test_an_environment_that_comes_between_scan_and_second_reading_and_tells_nothing_keeps_older_entries(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.age(world.live, -DAY)  # it stays, and with it all but the lonely entry

    def appear() -> None:
        Path(world.path(ABSENT)).mkdir()

    dead = world.store.layout.of("environments", ".dead-")
    at_effect(
        monkeypatch,
        "rename",
        dead,
        lambda: at_effect(monkeypatch, "rename", world.store.layout.condemned, appear),
    )
    assert world.collect().environments == (world.dead,)
    assert os.path.isdir(world.path(ABSENT))
    assert world.entries() == {"live", "dead", "shared", "lonely"}


@pytest.mark.parametrize(
    "changes",
    [
        {"lock": []},
        {"lock": {}},
        {"key": 1},
        {"options": []},
        {"options": None},
        {"interpreter": []},
        {"interpreter": {}},
        {"executable": None},
        {"library": 5},
        {"asked": []},
        {"own": ["bin"]},
        {"own": {"bin": 7}},
    ],
    ids=str,
)
def test_a_record_with_something_else_in_the_place_of_a_field_is_unreadable_and_stops_nothing(
    world: World, changes: dict[str, object]
) -> None:
    record = Path(world.store.layout.record(world.live))
    value = codec.loads(record.read_bytes())
    assert changes.keys() < value.keys()
    record.write_bytes(codec.dumps(value | changes))
    with pytest.raises(StoreDamagedError):
        world.store.record(world.live)
    report = world.collect()
    assert report.kept == {world.live: ("its record cannot be read",)}
    assert world.entries() == {"live", "shared"}


HUGE = b"1" + b"0" * 400
"""A whole number that is no float."""


def test_a_memo_that_is_stale_in_a_time_beyond_all_floats_stays(world: World) -> None:
    layout = world.store.layout
    world.pin()
    with world.store.session() as lease:
        memos.write_input(
            layout, lease, "late", environment=world.live, lock="", own={}, stats={}, until=int(HUGE)
        )
    world.collect()
    assert os.listdir(layout.of("inputs")) == ["late.json"]


@pytest.mark.parametrize("number", [b"Infinity", b"1e999", b"NaN", b"{}"])
@pytest.mark.parametrize("field", [b"device", b"namespace"])
def test_a_registration_with_a_number_that_is_none_keeps_whatever_is_older(
    world: World, field: bytes, number: bytes
) -> None:
    fields = {b"device": b"1", b"namespace": b"1"} | {field: number}
    Path(world.store.layout.of("external", f"{'a' * 16}.json")).write_bytes(
        b'{"device":%b,"locks":[],"namespace":%b,"path":"/x","references":[],"schema":1}'
        % (fields[b"device"], fields[b"namespace"])
    )
    report = world.collect()
    assert world.entries() == {"live", "dead", "shared", "lonely"}
    assert [problem for problem in report.problems if "registration" in problem]


def test_where_nothing_tells_what_an_environment_refers_to_every_older_entry_stays(world: World) -> None:
    fs.remove_tree(world.path(world.live))
    Path(world.path(world.live)).mkdir()
    time.sleep(0.02)
    younger = build_wheel(WheelSpec(name="younger"), Path(world.wheels["live"]).parent)
    world.store.add(younger)
    report = world.collect()
    assert (report.environments, set(report.kept)) == ((world.dead,), {world.live})
    assert world.entries() == {"live", "dead", "shared", "lonely"}
    assert [problem for problem in report.problems if "every entry that is older" in problem]


UNREADABLE_ROOTS = {
    **UNREADABLE,
    "no-name": b'{"schema":1,"environment":5,"entry":null}',
    "no-target": b'{"schema":1,"environment":null,"entry":null}',
    "no-kind": b'{"schema":2,"kind":"other","names":[]}',
    "no-names": b'{"schema":2,"kind":"pin","names":[]}',
    "elsewhere": b'{"schema":2,"kind":"pin","names":["locks/../../outside"]}',
    "project-of-entries": b'{"schema":2,"kind":"project","names":["entries/' + b"0" * 20 + b'-a-1"]}',
}


@pytest.mark.parametrize("content", UNREADABLE_ROOTS.values(), ids=UNREADABLE_ROOTS)
def test_a_root_that_cannot_be_read_keeps_whatever_is_older(world: World, content: bytes) -> None:
    Path(world.store.layout.of("roots", "odd.json")).write_bytes(content)
    assert_what_is_older_stays(world, "roots/odd.json")


def test_a_root_that_leads_to_what_is_not_mounted_keeps_everything(world: World) -> None:
    os.symlink("/nonexistent/root.json", world.store.layout.of("roots", "odd.json"))
    time.sleep(0.02)
    # What the link leads to may have been written after this, and may pin it.
    world.store.add(build_wheel(WheelSpec(name="younger"), Path(world.wheels["live"]).parent))
    report = world.collect()
    assert (report.environments, report.entries) == ((), ())
    assert world.entries() == {"live", "dead", "shared", "lonely", "younger"}
    assert [problem for problem in report.problems if "roots/odd.json" in problem]


def test_a_root_that_is_a_directory_keeps_whatever_is_older(world: World) -> None:
    os.mkdir(world.store.layout.of("roots", "odd.json"))
    assert_what_is_older_stays(world, "roots/odd.json")


def assert_what_is_older_stays(world: World, culprit: str) -> None:
    time.sleep(0.02)
    world.store.add(build_wheel(WheelSpec(name="younger"), Path(world.wheels["live"]).parent))
    assert "younger" in world.entries()
    assert_everything_stays(world, culprit, "whatever is older is kept")


@pytest.mark.parametrize("name", ["until.0123456789abcdef.x", "process.1.2.3", "held", "odd"])
def test_a_lease_of_an_unknown_kind_keeps_everything(world: World, name: str) -> None:
    Path(world.store.layout.of("leases", name)).touch()
    assert_everything_stays(world, name)
    assert os.listdir(world.store.layout.of("leases")) == [name]


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_live_lease_that_cannot_be_read_keeps_everything(world: World, content: bytes) -> None:
    with leases.take(world.store.layout) as lease:
        os.write(lease.descriptor, content or b" ")
        os.truncate(lease.descriptor, len(content))
        assert_everything_stays(world, os.path.basename(lease.path))
    assert len(world.collect().environments) == 2


def assert_everything_stays(world: World, culprit: str, words: str = "everything is kept") -> None:
    report = world.collect()
    assert report.environments == ()
    assert [problem for problem in report.problems if words in problem and culprit in problem]
    assert set(world.store.environments()) == {world.live, world.dead}
    assert world.entries() == {"live", "dead", "shared", "lonely"}


def test_an_environment_that_cannot_be_removed_is_named_and_stops_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def refuse(source: str, target: str) -> None:
        if source == world.path(world.live):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    report = world.collect()
    assert report.environments == (world.dead,)
    assert world.entries() == {"live", "shared"}
    assert report.problems == (f"environments/{world.live} cannot be removed: Invalid cross-device link",)
    assert litter(world.store) == []


@pytest.fixture
def bottomless(world: World) -> Iterator[World]:
    """A store in whose ``live`` environment somebody made directories below directories."""
    here = os.open(".", os.O_RDONLY)
    os.chdir(world.path(world.live))
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    os.fchdir(here)
    os.close(here)
    yield world
    # What is left would be too deep for pytest to remove.
    subprocess.run(["rm", "-rf", world.store.root], check=True)


def test_an_environment_without_a_bottom_stops_nothing(bottomless: World) -> None:
    bottomless.pin()
    assert bottomless.collect().environments == (bottomless.dead,)
    roots.remove(bottomless.store, "pin")
    bottomless.collect()
    assert bottomless.store.environments() == bottomless.store.entries() == []


STAGED = ["entries/.new-{id}.0", "environments/.new-{id}.0", "tmp/{id}.0", "tmp/{id}.lease"]


@pytest.mark.parametrize("place", STAGED)
@pytest.mark.parametrize("kind", ["file", "tree"])
def test_what_a_dead_run_staged_goes_and_what_a_live_one_stages_stays(
    world: World, place: str, kind: str
) -> None:
    with leases.take(world.store.layout) as lease:
        ours, others = (Path(world.store.root, place.format(id=id_)) for id_ in (lease.id, "0" * 16))
        for path in (ours, others):
            if kind == "tree":
                (path / "sub").mkdir(parents=True)
                (path / "sub").chmod(0o555)
            else:
                path.touch()
        assert world.collect().leftovers == 1
        assert ours.exists()
        assert not others.exists()
    assert world.collect().leftovers == 1
    assert litter(world.store) == []


def test_a_lease_in_the_making_is_not_litter(world: World) -> None:
    path = world.store.layout.of("tmp", f"{'0' * 16}.lease")
    with hold(path):
        assert world.collect().leftovers == 0
        assert os.path.exists(path)
    assert world.collect().leftovers == 1


def test_dead_names_ended_leases_and_a_stale_list_are_cleared(world: World) -> None:
    layout = world.store.layout
    os.rename(world.path(world.dead), layout.of("environments", ".dead-0"))
    os.rename(layout.of("entries", world.lonely), layout.of("entries", ".dead-0"))
    lease = leases.take(layout, environment=world.live)
    os.close(lease.descriptor)
    condemned.publish(layout, [f"environments/{world.live}", "../../outside"])
    report = world.collect(Policy(max_age=DAY, grace=DAY))
    assert report.leftovers == 3
    assert litter(world.store) == []
    assert world.store.environments() == [world.live]


def test_memos_and_locks_go_with_what_they_lead_to(world: World) -> None:
    layout = world.store.layout
    kept_lock, free_lock = "a" * 64, "b" * 64
    pinned = world.environment("live", lock=kept_lock)
    roots.add(world.store, "pin", pinned)
    with world.store.session() as lease:
        for lock in (kept_lock, free_lock):
            Path(layout.of("locks", f"{lock}.toml")).touch()
            memos.write_request(layout, lease, lock[:8], memos.RequestMemo(lock=lock, resolved_at=0))
        for digest, environment in (("kept", pinned), ("gone", world.dead)):
            memos.write_input(layout, lease, digest, environment=environment, lock="", own={}, stats={})
    Path(layout.of("inputs", "newer.json")).write_bytes(UNREADABLE["newer"])
    Path(layout.of("requests", "newer.json")).write_bytes(UNREADABLE["newer"])
    Path(layout.of("inputs", "torn.json")).write_bytes(UNREADABLE["torn"])
    Path(layout.of("requests", "torn.json")).write_bytes(UNREADABLE["torn"])

    def left() -> dict[str, set[str]]:
        return {part: set(os.listdir(layout.of(part))) for part in ("inputs", "requests", "locks")}

    world.collect(Policy(max_age=DAY, grace=0))
    assert left()["locks"] == {f"{kept_lock}.toml", f"{free_lock}.toml"}, (
        "a memo that is not old keeps its lock"
    )
    world.collect()
    assert left() == {
        "inputs": {"kept.json", "newer.json"},
        "requests": {f"{kept_lock[:8]}.json", "newer.json"},
        "locks": {f"{kept_lock}.toml"},
    }


def test_a_lock_that_a_memo_names_by_the_second_reading_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, earlier = "3" * 64, "4" * 64
    layout = world.store.layout
    for digest in (lock, earlier):
        Path(layout.of("locks", f"{digest}.toml")).touch()

    def remember(digest: str, named: str) -> None:
        with world.store.session() as lease:
            memos.write_request(layout, lease, digest, memos.RequestMemo(lock=named, resolved_at=0))

    def remember_both() -> None:
        remember("new", lock)
        remember("replaced", earlier)

    remember("replaced", "5" * 64)
    # The last list is of locks; by the time of it environments and entries are gone.
    at_effect(
        monkeypatch,
        "rename",
        layout.of("entries", ".dead-"),
        lambda: at_effect(monkeypatch, "rename", layout.condemned, remember_both),
    )
    world.collect()
    assert sorted(os.listdir(layout.of("locks"))) == [f"{lock}.toml", f"{earlier}.toml"]


@pytest.mark.parametrize("part", ["inputs", "requests"])
@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_memo_that_cannot_be_read_stops_nothing(world: World, part: str, content: bytes) -> None:
    Path(world.store.layout.of(part, "odd.json")).write_bytes(content)
    world.collect()
    assert world.store.environments() == []


def test_links_to_an_interpreter_that_is_gone_go_as_a_whole_wherever_a_gc_is_killed(
    world: World, tmp_path: Path
) -> None:
    layout = world.store.layout
    interpreter = tmp_path / "python"
    interpreter.touch()
    with world.store.session() as lease:
        links = Path(ready_links(layout, lease, replace(base(), real=str(interpreter))))
    made = sorted(os.listdir(links))
    interpreter.unlink()

    unlinked: list[str] = []

    def kill(name: str, path: str) -> None:
        if name == "unlink" and f"{layout.of('interpreters')}/" in path:
            unlinked.append(path)
            if len(unlinked) > 1:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "on_effect", kill)
        with pytest.raises(KeyboardInterrupt):
            world.collect()
    interpreter.touch()  # it was only not mounted
    with world.store.session() as lease:
        again = ready_links(layout, lease, replace(base(), real=str(interpreter)))
    assert (Path(again), sorted(os.listdir(links))) == (links, made)
    world.collect()
    assert sorted(os.listdir(links)) == made
    assert [name for name in os.listdir(layout.of("interpreters")) if name.startswith(".")] == []


def test_logs_go_after_a_week(world: World) -> None:
    for name, days in (("old", 8), ("new", 6)):
        path = world.store.layout.of("logs", name)
        Path(path).touch()
        os.utime(path, (time.time() - days * DAY,) * 2)
    world.collect(Policy(max_age=30 * DAY, grace=DAY))
    assert os.listdir(world.store.layout.of("logs")) == ["new"]


def leave_remains(world: World) -> None:
    """Fill every part of a store with something that goes and something that stays."""
    layout = world.store.layout
    world.pin()
    world.environment("dead", "lonely")
    partial = Path(layout.of("entries", f".new-{'0' * 16}.0"))
    partial.mkdir()
    (partial / "half").write_bytes(b"x" * 100_000)
    os.link(partial / "half", layout.of("tmp", f"{'0' * 16}.0"))
    os.rename(layout.of("entries", world.lonely), layout.of("entries", ".dead-0"))
    Path(layout.of("locks", f"{'b' * 64}.toml")).write_bytes(b"x" * 5000)
    Path(layout.of("logs", "old")).write_bytes(b"x" * 9000)
    os.utime(layout.of("logs", "old"), (0, 0))
    with world.store.session() as lease:
        memos.write_input(layout, lease, "gone", environment=world.dead, lock="", own={}, stats={})
    os.close(leases.take(layout, environment=world.dead).descriptor)


def test_a_preview_is_what_a_collection_does_to_the_byte(world: World) -> None:
    leave_remains(world)
    time.sleep(0.01)
    before = tree(world.store.root)
    seen = sweep.preview(world.store, EVERYTHING)
    assert tree(world.store.root) == before
    done = world.collect()
    assert seen.dry_run
    assert replace(seen, dry_run=False, kept={}) == replace(done, kept={})
    assert seen.kept.keys() == done.kept.keys()
    assert (len(done.environments), len(done.entries), done.leftovers, done.records) == (2, 1, 4, 3)


def test_a_preview_and_a_collection_agree_on_files_that_are_not_called_as_ours(world: World) -> None:
    world.pin()
    strangers = {part: Path(world.store.layout.of(part, "x.bak")) for part in ("inputs", "requests", "locks")}
    for path in strangers.values():
        path.write_bytes(b"{}")
    time.sleep(0.01)
    seen = sweep.preview(world.store, EVERYTHING)
    done = world.collect()
    assert seen.records == done.records == 0
    assert all(path.exists() for path in strangers.values())


def test_what_a_collection_says_it_freed_is_what_became_free(world: World) -> None:
    leave_remains(world)
    time.sleep(0.01)
    Path(world.store.layout.of("gc", "run")).touch()  # and not a byte more than there was
    before = blocks(world.store.root)
    report = world.collect()
    assert report.freed == before - blocks(world.store.root)


def blocks(root: str) -> int:
    """The bytes that a tree occupies, each inode once; a directory of parts keeps what it once grew to."""
    inodes = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            found = os.lstat(os.path.join(directory, name))
            inodes[found.st_ino] = found.st_blocks * 512
    return sum(inodes.values())


def test_a_second_collection_is_refused_while_one_is_at_work(world: World) -> None:
    with hold(world.store.layout.of("gc", "run")), pytest.raises(BusyError) as caught:
        sweep.collect(world.store, EVERYTHING)
    assert (caught.value.exit_code, caught.value.kind) == (15, "gc-running")
    assert len(world.store.environments()) == 2


def at_effect(monkeypatch: pytest.MonkeyPatch, name: str, path: str, action: Callable[[], object]) -> None:
    """Do something, once, just before the first effect of this name on this path or one that begins so."""
    pending = [action]

    def notice(effect: str, where: str) -> None:
        if pending and effect == name and where.startswith(path):
            pending.pop()()

    monkeypatch.setattr(fs, "on_effect", notice)


LATE_USERS: dict[str, Callable[[World], object]] = {
    "a stamp": lambda world: fs.stamp(world.store.layout.record(world.dead)),
    "a lease": lambda world: leases.take(world.store.layout, environment=world.dead),
    "a root": lambda world: roots.add(world.store, "late", world.dead),
}


@pytest.mark.parametrize("user", LATE_USERS)
def test_who_uses_an_environment_between_scan_and_second_reading_keeps_it(
    world: World, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    held: list[object] = []

    def use() -> None:
        held.append(LATE_USERS[user](world))
        time.sleep(0.02)  # by the second reading that is a while ago, but still after the scan began

    at_effect(monkeypatch, "rename", world.store.layout.condemned, use)
    report = world.collect()
    assert len(held) == 1
    assert report.environments == (world.live,)
    assert world.entries() == {"dead", "shared"}
    assert dangling(world.path(world.dead)) == []


PROTECTIONS: dict[str, Callable[[World], Callable[[], object]]] = {
    "a lease": lambda world: leases.take(world.store.layout, environment=world.live).release,
    "a root": lambda world: functools.partial(roots.remove, world.store, "pin"),
}
"""Each gives what ends it."""


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_an_environment_that_is_set_free_after_its_turn_still_has_its_entries(
    world: World, monkeypatch: pytest.MonkeyPatch, protection: str
) -> None:
    if protection == "a root":
        world.pin()
    end = PROTECTIONS[protection](world)
    at_effect(monkeypatch, "unlink", world.store.layout.of("environments", ".dead-"), end)
    assert world.collect().environments == (world.dead,)
    assert world.store.environments() == [world.live]
    assert dangling(world.path(world.live)) == []
    assert world.environment("live", "shared") == world.live


@pytest.mark.parametrize("user", ["a lease", "a root"])
def test_who_wants_an_entry_between_scan_and_second_reading_keeps_it(
    world: World, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    held: list[object] = []

    def want() -> None:
        if user == "a root":
            roots.add(world.store, "late", world.lonely)
        else:
            held.append(leases.take(world.store.layout, digests=[wheel_digest(world.wheels["lonely"])]))

    # The first list is of environments; by the time of the second they are gone.
    at_effect(monkeypatch, "rename", world.store.layout.of("environments", ".dead-"), lambda: None)
    at_effect(
        monkeypatch,
        "rename",
        world.store.layout.condemned,
        lambda: at_effect(monkeypatch, "rename", world.store.layout.condemned, want),
    )
    world.collect()
    assert world.store.entries() == [world.lonely]


def test_who_comes_after_the_second_reading_finds_the_name_on_the_list(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[frozenset[str]] = []
    at_effect(
        monkeypatch,
        "rename",
        world.store.layout.of("environments", ".dead-"),
        lambda: seen.append(condemned.names(world.store.layout)),
    )
    world.collect()
    assert seen == [{f"environments/{world.live}", f"environments/{world.dead}"}]


def test_nothing_is_deleted_under_its_own_name_or_while_the_list_is_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    offences = []

    def watch(effect: str, path: str) -> None:
        part, _, name = path.removeprefix(f"{world.store.root}/").partition("/")
        if effect in {"unlink", "rmdir"} and part in {"environments", "entries"}:
            if not name.startswith(".dead-"):
                offences.append(f"{path} is not a dead name")
            if os.path.exists(world.store.layout.condemned):
                offences.append(f"{path} is removed while users wait")

    monkeypatch.setattr(fs, "on_effect", watch)
    assert len(world.collect().entries) == 4
    assert offences == []


def test_environments_go_before_the_entries_that_they_lead_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def watch(effect: str, path: str) -> None:
        if effect == "rename" and ".dead-" in path:
            order.append(path.removeprefix(f"{world.store.root}/").split("/")[0])

    monkeypatch.setattr(fs, "on_effect", watch)
    world.collect()
    assert order == ["environments"] * 2 + ["entries"] * 4


LINKED_PLACES = [
    f"environments/{ABSENT}",
    "environments/.dead-0",
    f"environments/.new-{'0' * 16}.0",
    f"entries/{'0' * 20}-outside-1.0",
    "entries/.dead-0",
    f"entries/.new-{'0' * 16}.0",
    f"tmp/{'0' * 16}.0",
    f"leases/held.{'0' * 16}.-",
    "logs/outside",
    "inputs/outside.json",
    "requests/outside.json",
    f"locks/{'0' * 64}.toml",
    "environments/{dead}/outside",
    "environments/{dead}/lib/outside",
]


@pytest.mark.parametrize("place", LINKED_PLACES)
@pytest.mark.parametrize("target", ["outside", "outside/file"])
def test_a_symlink_out_of_the_store_is_never_followed(
    world: World, tmp_path: Path, place: str, target: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    for name in ("file", "vrfstore.json", "sub/file"):
        (outside / name).write_bytes(Path(world.store.layout.record(world.dead)).read_bytes())
        os.utime(outside / name, (0, 0))
    before = tree(outside)
    os.symlink(tmp_path / target, Path(world.store.root, place.format(dead=world.dead)))
    report = world.collect()
    # A lease that is a link may be one that cannot be read; then everything stays.
    assert (world.dead in report.environments) != place.startswith("leases/")
    assert tree(outside) == before


def test_a_hostile_record_reaches_nothing_outside(world: World, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    record = Path(world.store.layout.record(world.live))
    value = json.loads(record.read_bytes())
    value["wheels"] = [["0" * 64, "x", "1", "../../outside"]]
    value["lock"] = "../../outside"
    value["key"] = "../../outside"
    record.write_bytes(codec.dumps(value))
    before = tree(tmp_path, without=("store",))
    world.age(world.live, DAY)
    assert world.live in world.collect().environments
    assert tree(tmp_path, without=("store",)) == before


def test_a_leftover_that_vanishes_meanwhile_is_no_problem(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = Path(world.store.layout.of("tmp", f"{'0' * 16}.0"))
    leftover.touch()
    found = scan.leftovers(world.store)
    monkeypatch.setattr(scan, "leftovers", lambda _store: found)
    leftover.unlink()
    assert world.collect().problems == ()


def test_roots_are_read_one_by_one_with_an_error_in_place_of_the_unreadable(world: World) -> None:
    world.pin()
    Path(world.store.layout.of("roots", "newer.json")).write_bytes(b'{"schema":3,"kind":"pin","names":[]}')
    Path(world.store.layout.of("roots", "torn.json")).write_bytes(b"{")
    newer, pin, torn = roots.read(world.store)
    assert isinstance(newer, StoreDamagedError)
    assert pin == roots.Root(name="pin", names=(f"environments/{world.live}",))
    assert isinstance(torn, StoreDamagedError)
    assert (newer.kind, torn.kind) == ("root-unknown", "root-unreadable")


@pytest.mark.slow
def test_who_links_under_a_lease_never_loses_anything_to_collections_without_pause(
    world: World, tmp_path: Path
) -> None:
    enough, begun = tmp_path / "enough", tmp_path / "begun"
    begun.touch()
    deadline = time.monotonic() + 60

    def use(*names: str) -> int:
        rounds = 0
        wheels = [world.wheels[name] for name in names]
        digests = [wheel_digest(wheel) for wheel in wheels]
        key = environment_key(digests, base())
        while not enough.exists():
            with leases.take(world.store.layout, environment=key, digests=digests) as lease:
                world.store.await_entries(
                    (digest, name, "1.0") for digest, name in zip(digests, names, strict=True)
                )
                plans = [world.store.add(wheel).plan for wheel in wheels]
                record, _ = link(world.store, lease, plans, base(), key=key, lock=LOCK)
                for _ in range(3):
                    assert dangling(world.path(record.directory)) == []
                    assert world.store.record(record.directory) == record
            rounds += 1
            # Every other time, stay away for a whole collection.
            until = begun.stat().st_size + 2 * (rounds % 2)
            while begun.stat().st_size < until and not enough.exists():
                time.sleep(0.002)
        return rounds

    def collect() -> int:
        removed = 0
        try:
            while removed < 20 and time.monotonic() < deadline:
                with begun.open("ab") as stream:
                    stream.write(b".")
                report = sweep.collect(world.store, EVERYTHING)
                assert report.problems == ()
                removed += len(report.environments) + len(report.entries)
        finally:
            enough.touch()
        return removed

    used, used_too, removed = together(
        functools.partial(use, "live", "shared"), functools.partial(use, "dead", "shared"), collect
    )
    assert min(used, used_too) > 3
    assert removed >= 20


def test_a_collector_that_was_killed_does_not_keep_users_waiting(world: World) -> None:
    process = os.fork()
    if not process:
        fs.on_effect = lambda name, path: (
            os.kill(os.getpid(), signal.SIGKILL) if name == "rename" and ".dead-" in path else None
        )
        time.sleep(0.01)
        sweep.collect(world.store, EVERYTHING)
        os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status)
    assert condemned.names(world.store.layout)
    began = time.monotonic()
    assert world.environment("live", "shared") == world.live
    assert time.monotonic() - began < 2
    assert not os.path.exists(world.store.layout.condemned)


@pytest.mark.parametrize("fails", [False, True])
def test_while_a_list_is_up_python_collects_nothing_and_afterwards_as_before(
    world: World, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    seen: list[tuple[bool, bool]] = []
    rename = fs.rename

    def noticed(source: str, target: str) -> None:
        is_up = os.path.exists(world.store.layout.condemned)
        if ".dead-" in target and is_up:
            seen.append((is_up, garbage.isenabled()))
            if fails:
                raise OSError(errno.EIO, os.strerror(errno.EIO), source)
        rename(source, target)

    monkeypatch.setattr(fs, "rename", noticed)
    world.collect()
    assert set(seen) == {(True, False)}
    assert garbage.isenabled()
