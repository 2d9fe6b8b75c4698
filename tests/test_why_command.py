"""``vrfstore why``, ``du`` and ``list --unused`` on real stores: as people and as machines read them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.commands import Command
from support.crash import make_environment, tree
from support.wheels import WheelSpec, build_wheel
from test_usage import couple
from vrfstore import fs
from vrfstore.gc import keepers, roots, sizes, sweep
from vrfstore.gc.policy import Policy
from vrfstore.store import externals, leases
from vrfstore.store.machine import Machine
from vrfstore.store.store import Store

DAY = 86400.0
EVERYTHING = Policy(max_age=0, grace=0)


class World:
    """Environments of wheels unlike those of any other test, which ``/proc`` could have mistaken for them."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        folder.mkdir()
        self.wheels = {
            name: build_wheel(
                WheelSpec(name=name, metadata_extra=f"Keywords: {fs.unique_name()}\n"),
                folder,
            )
            for name in ("apple", "pear", "plum")
        }

    def environment(self, *names: str, used: float = 0.0) -> str:
        """Make one that was used so many seconds ago; return its directory name."""
        record = make_environment(self.store, *(self.wheels[name] for name in names))
        self.age(record.directory, used)
        return record.directory

    def age(self, environment: str, seconds: float) -> None:
        used = time.time() - seconds
        os.utime(self.store.layout.record(environment), (used, used))

    def entry(self, name: str) -> str:
        return self.store.add(self.wheels[name]).plan.reference.directory


@pytest.fixture
def world(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A store without anything."""
    monkeypatch.setattr(fs, "_syncfs", lambda _descriptor: None)
    return World(store, tmp_path / "wheels")


def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    path = tmp_path / "vrfstore.toml"
    path.write_text(f"[gc]\n{text}\n")
    monkeypatch.setenv("VRFSTORE_CONFIG", str(path))


# --- why


def test_every_reason_stands_below_what_refers_to_it(world: World, command: Command, tmp_path: Path) -> None:
    pinned = world.environment("apple", "pear", used=40 * DAY)
    recent = world.environment("apple", used=3 * DAY)
    dead = world.environment("apple", "plum", used=40 * DAY)
    for root in ("nightly", "release"):
        roots.add(world.store, root, pinned)
    entry = world.entry("apple")
    known = externals.Registration(
        token="a" * 16,
        path=str(tmp_path / "mine"),
        device=0,
        references=(world.store.plan(entry).reference,),
        locks=(),
    )
    with world.store.session() as lease:
        externals.register(world.store.layout, lease, known)
    ended = command("why", "Apple")
    assert (ended.code, ended.out.splitlines()[0]) == (0, f"entry {entry}")
    first, second = sorted((pinned, recent))
    branches = {
        pinned: ["root nightly (pin)", "root release (pin)"],
        recent: ["used 3 days ago, due in 27 days"],
    }
    contents = {pinned: "apple 1.0, pear 1.0", recent: "apple 1.0", dead: "apple 1.0, plum 1.0"}
    expected = [
        f"├── external environment {tmp_path / 'mine'}",
        "├── published 0 seconds ago, due in 24 hours",
    ]
    for environment in (first, second):
        expected.append(f"├── environment {environment} ({contents[environment]})")
        *others, last = branches[environment]
        expected += [f"│   ├── {other}" for other in others] + [f"│   └── {last}"]
    expected.append(f"└── environment {dead} ({contents[dead]}): nothing keeps it, the next gc takes it")
    shown = [re.sub(r"published \d+ seconds", "published 0 seconds", line) for line in ended.out.splitlines()]
    assert shown[1:] == expected


def test_machines_get_the_chains(world: World, command: Command) -> None:
    environment = world.environment("apple", used=3 * DAY)
    roots.add(world.store, "nightly", environment)
    (target,) = command("why", environment, "--json").document["targets"]
    assert (target["name"], target["kept"], target["due"]) == (f"environments/{environment}", True, None)
    root, use = target["chains"]
    path = [f"environments/{environment}"]
    assert root == {
        "kind": "root", "name": "nightly", "words": "root nightly (pin)", "until": None, "path": path,
    }  # fmt: skip
    assert (use["kind"], use["name"], use["path"]) == ("use", environment, path)
    due = time.strptime(use["until"], "%Y-%m-%dT%H:%M:%SZ")
    assert abs(time.mktime(due) - time.timezone - time.time() - 27 * DAY) < 100


def test_what_nothing_keeps_goes_with_the_next_gc(world: World, command: Command) -> None:
    environment = world.environment("apple", used=40 * DAY)
    ended = command("why", environment)
    assert ended.out == f"environment {environment} (apple 1.0): nothing keeps it, the next gc takes it\n"
    assert command("gc", "--json").document["removed"]["environments"] == [environment]


def test_what_counts_as_recent_is_configured(
    world: World, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = world.environment("apple", used=3 * DAY)
    configure(monkeypatch, tmp_path, 'max-age = "9d"\nmin-free = "1%"')
    expected = "used 3 days ago, due in 6 days, or when the budget asks for it"
    assert command("why", environment).out.splitlines()[1] == f"└── {expected}"
    configure(monkeypatch, tmp_path, 'max-age = "2d"')
    assert "nothing keeps it" in command("why", environment).out


def test_a_project_says_which_of_its_environments_it_is(
    world: World, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [world.environment(name, used=40 * DAY) for name in ("apple", "pear", "plum")]
    for name in names:
        roots.record(world.store, "report", name)
    configure(monkeypatch, tmp_path, "keep-last = 2")
    newest, second, third = (command("why", name).out.splitlines() for name in reversed(names))
    assert newest[1] == "└── root report (project, the newest of 3)"
    assert second[1] == "└── root report (project, number 2 of 3)"
    assert "nothing keeps it" in third[0]
    keeps = command("why", "report").out.splitlines()
    assert keeps[0] == "root report keeps"
    assert {line[4:].split()[1] for line in keeps[1:]} == set(names[1:])


def test_leases_and_processes_are_reasons(world: World, command: Command) -> None:
    environment = world.environment("apple", used=40 * DAY)
    path = world.store.layout.of("environments", environment)
    key = environment
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", path], stdin=subprocess.PIPE
    )
    try:
        process = Machine().process(sleeper.pid)
        assert process is not None
        with (
            leases.take(world.store.layout, environment=key) as held,
            leases.take_until(world.store.layout, environment=key, seconds=5 * DAY) as until,
            leases.take_for_process(world.store.layout, environment=key, process=process) as bound,
        ):
            found = command("why", environment).out.splitlines()[1:]
    finally:
        sleeper.communicate()
    said = Path(sys.executable).name[:15]
    assert sorted(line[4:] for line in found) == sorted(
        [
            f"lease {held.id} of a link or a run that is at work",
            f"lease {until.id}, due in 5 days",
            f"lease {bound.id} of process {sleeper.pid}",
            f"process {sleeper.pid} ({said})",
        ]
    )


def test_a_pinned_lock_keeps_its_entries(world: World, command: Command) -> None:
    entry = world.entry("apple")
    digest = world.store.plan(entry).reference.digest
    lock = "1" * 64
    Path(world.store.layout.of("locks", f"{lock}.toml")).write_text(
        f'[[packages]]\nname = "apple"\n[[packages.wheels]]\nhashes = {{sha256 = "{digest}"}}\n'
    )
    roots.add(world.store, "release", lock)
    assert f"├── root release (pin of lock {lock[:12]})" in command("why", "apple").out.splitlines()
    assert "├── root release (pin)" in command("why", lock[:9]).out.splitlines()
    time.sleep(0.01)
    sweep.collect(world.store, EVERYTHING)
    assert world.store.entries() == [entry]


def test_a_composite_and_its_members_do_not_keep_each_other(
    world: World, command: Command, tmp_path: Path
) -> None:
    record = couple(world.store, tmp_path / "wheels")
    (composite,), members = record.composites, [reference.directory for reference in record.wheels]
    whole = command("why", composite.directory).out.splitlines()
    assert whole[-len(members) - 1 :] == [
        "└── made of, and not keeping",
        *(f"    {branch} entry {member}" for branch, member in zip(("├──", "└──"), members, strict=True)),
    ]
    for member in members:
        last = command("why", member).out.splitlines()[-1]
        assert last == f"└── part of, and not kept by, the composite {composite.directory}"


@pytest.mark.parametrize(
    "given", ["{directory}", "{short}", "{path}", "{path}/", "{path}/bin/python", "{link}/bin/python"]
)
def test_an_environment_is_told_by_name_and_by_path(
    world: World, command: Command, tmp_path: Path, given: str
) -> None:
    directory = world.environment("apple")
    link = tmp_path / "link"
    link.symlink_to(world.store.root)
    path = world.store.layout.of("environments", directory)
    target = given.format(
        directory=directory, short=directory[:9], path=path, link=f"{link}/environments/{directory}"
    )
    (found,) = command("why", target, "--json").document["targets"]
    assert found["name"] == f"environments/{directory}"


def test_an_environment_elsewhere_says_what_it_keeps(world: World, command: Command, tmp_path: Path) -> None:
    entry = world.entry("apple")
    place = tmp_path / "mine"
    place.mkdir()
    reference = world.store.plan(entry).reference
    known = externals.Registration(
        token="a" * 16, path=str(place), device=0, references=(reference,), locks=()
    )
    with world.store.session() as lease:
        externals.register(world.store.layout, lease, known)
    for given in (place, os.path.relpath(place)):
        assert command("why", given).out.splitlines() == [
            f"external environment {place} keeps",
            f"└── entry {entry}",
        ]


@pytest.mark.parametrize("target", ["nothing", "", "/", "/nowhere/at/all", "..", "\x1b[2J", "entries", "%"])
def test_what_is_unknown_is_an_error_with_a_hint(world: World, command: Command, target: str) -> None:
    world.environment("apple")
    ended = command("why", target, "--json")
    assert (ended.code, ended.kind) == (2, "target-unknown")
    assert ended.document["error"]["hint"]


def test_the_beginning_of_several_names_is_an_error_that_lists_them(world: World, command: Command) -> None:
    for name in ("a" * 20, "a" * 19 + "b"):
        os.mkdir(world.store.layout.of("entries", f"{name}-x-1"))
    ended = command("why", "aaaa")
    assert (ended.code, ended.out) == (2, "")
    assert f"may be any of 2 things: entries/{'a' * 20}-x-1, entries/{'a' * 19}b-x-1" in ended.err
    assert command("why", "x").code == 0


def test_names_from_outside_do_nothing_to_a_terminal(world: World, command: Command, tmp_path: Path) -> None:
    reference = world.store.plan(world.entry("apple")).reference
    known = externals.Registration(
        token="a" * 16, path=f"{tmp_path}/\x1b[2J", device=0, references=(reference,), locks=()
    )
    with world.store.session() as lease:
        externals.register(world.store.layout, lease, known)
    for arguments in (("why", "apple"), ("du",), ("list", "--unused")):
        ended = command(*arguments)
        assert ended.code == 0
        assert "\x1b" not in ended.out + ended.err


def test_what_is_without_a_chain_is_what_a_gc_takes(world: World) -> None:
    roots.add(world.store, "kept", world.environment("apple", "pear"))
    world.environment("pear", "plum")
    with leases.take(world.store.layout, digests=[world.store.plan(world.entry("plum")).reference.digest]):
        time.sleep(0.01)
        graph = keepers.read(keepers.look(world.store, EVERYTHING), EVERYTHING)
        kept = {name for name in graph if graph.chains(name)}
        sweep.collect(world.store, EVERYTHING)
    there = {f"environments/{name}" for name in world.store.environments()}
    there |= {f"entries/{name}" for name in world.store.entries()}
    assert kept == there
    assert len(there) == 4


# --- list --unused


def test_unused_is_what_the_next_gc_takes_and_when_the_rest_is_due(world: World, command: Command) -> None:
    dead = world.environment("apple", used=40 * DAY)
    later = world.environment("pear", used=18 * DAY)
    sooner = world.environment("plum", used=29.5 * DAY)
    pinned = world.environment("apple", "pear", used=40 * DAY)
    roots.add(world.store, "nightly", pinned)
    ended = command("list", "--unused")
    before = sizes.size_of(world.store.root)
    lines = ended.out.splitlines()
    assert re.fullmatch(
        r"the next gc takes 1 environment, 0 entries, 0 leftovers, 0 records, and frees .+", lines[0]
    )
    assert lines[1:] == [
        f"  environment {dead} (apple 1.0): used 40 days ago",
        "due later, unless it is used again",
        f"  in 12 hours: environment {sooner} (plum 1.0)",
        f"  in 12 days: environment {later} (pear 1.0)",
        "kept until somebody lets it go",
        f"  environment {pinned} (apple 1.0, pear 1.0): root nightly (pin)",
    ]
    listed = command("list", "--unused", "--json").document
    assert [each["environment"] for each in listed["next"]["environments"]] == [dead]
    assert [each["name"] for each in listed["rest"]] == [
        f"environments/{name}" for name in (sooner, later, pinned)
    ]
    assert [each["due"] is None for each in listed["rest"]] == [False, False, True]
    report = sweep.collect(world.store, Policy(max_age=30 * DAY, grace=DAY))
    assert report.environments == (dead,)
    assert before - sizes.size_of(world.store.root) == report.freed == listed["next"]["bytes"]


def test_unused_goes_by_what_is_configured(
    world: World, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = world.environment("apple", used=3 * DAY)
    configure(monkeypatch, tmp_path, 'max-age = "2d"')
    assert f"environment {environment}" in command("list", "--unused").out.splitlines()[1]
    configure(monkeypatch, tmp_path, 'max-age = "9d"\nmax-size = 1')
    assert f"environment {environment}" in command("list", "--unused").out.splitlines()[1]


# --- du


def test_usage_is_a_table_whose_parts_are_the_total(world: World, command: Command) -> None:
    first = world.environment("apple", "pear")
    second = world.environment("pear")
    found = command("du", "--json").document
    assert found["by"] == "environment"
    assert {row["name"] for row in found["rows"]} == {f"environments/{name}" for name in (first, second)}
    exclusive = sum(row["bytes_exclusive"] for row in found["rows"])
    rest = found["bytes_shared"] + found["bytes_of_others"] + sum(found["bytes_of_the_store"].values())
    assert exclusive + rest == found["bytes_total"] == sizes.size_of(world.store.root)
    lines = command("du").out.splitlines()
    assert lines[0].split() == ["EXCLUSIVE", "SHARED", "ENVIRONMENT"]
    assert lines[1].endswith(f"{first} (apple 1.0, pear 1.0)")
    assert lines[2].endswith(f"{second} (pear 1.0)")
    assert lines[-1].endswith("  total")


@pytest.mark.parametrize(("by", "names"), [("package", {"apple", "pear"}), ("root", {"nightly"})])
def test_usage_is_shown_by_what_is_asked_for(
    world: World, command: Command, by: str, names: set[str]
) -> None:
    roots.add(world.store, "nightly", world.environment("apple", "pear"))
    found = command("du", "--by", by, "--json").document
    assert {row["name"] for row in found["rows"]} == names
    shown = command("du", "--by", by).out
    assert all(name in shown for name in names)


def test_usage_fits_on_a_screen_unless_all_of_it_is_wanted(world: World, command: Command) -> None:
    for number in range(25):
        os.makedirs(world.store.layout.of("entries", f"{number:020}-fruit{number}-1"))
    lines = command("du", "--by", "package").out.splitlines()
    assert len(lines) <= 28
    assert sum("fruit" in line for line in lines) == 20
    assert any(line.endswith("and 5 more; see --all") for line in lines)
    everything = command("du", "--by", "package", "--all").out.splitlines()
    assert sum("fruit" in line for line in everything) == 25


def test_an_empty_store_has_only_itself(command: Command, store: Store) -> None:
    lines = command("du").out.splitlines()
    assert [line.split("  ")[-1].partition(":")[0] for line in lines] == ["the store itself", "total"]
    assert command("list", "--unused").code == 0


# --- all of them


@pytest.mark.parametrize("arguments", [("why", "apple"), ("du",), ("list", "--unused")])
def test_looking_changes_nothing(world: World, command: Command, arguments: tuple[str, ...]) -> None:
    world.environment("apple")
    before = tree(world.store.root)
    assert command(*arguments).code == 0
    assert tree(world.store.root) == before


@pytest.mark.parametrize("arguments", [("why", "apple"), ("du",), ("list", "--unused")])
def test_what_cannot_be_read_is_named_and_the_rest_is_shown(
    world: World, command: Command, arguments: tuple[str, ...]
) -> None:
    world.environment("apple")
    Path(world.store.layout.of("roots", "bad.json")).write_text("{")
    ended = command(*arguments)
    assert ended.code == 0
    assert ended.out
    assert "the root cannot be read" in ended.err
