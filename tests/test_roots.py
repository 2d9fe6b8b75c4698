"""Roots: pins of environments, entries and locks, the environments of projects, and the list of all that keeps."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.commands import Command
from support.crash import each_kill, make_environment, together
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.gc import roots
from vrfstore.gc.policy import Policy
from vrfstore.gc.roots import MOST, Root
from vrfstore.gc.sweep import collect
from vrfstore.model import Lock, LockedWheel
from vrfstore.requirements import lock as locks
from vrfstore.requirements.policy import Policy as Asking
from vrfstore.runner.link import link
from vrfstore.store import condemned, externals, leases
from vrfstore.store.externals import Registration
from vrfstore.store.locked import locked_digests
from vrfstore.store.machine import Machine
from vrfstore.store.store import Store

KEYS = [f"{number:032x}" for number in range(1, 200)]


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def entry(store: Store, tmp_path: Path) -> str:
    return store.add(build_wheel(WheelSpec(name="apple"), tmp_path)).plan.reference.directory


@pytest.fixture
def environment(store: Store, tmp_path: Path) -> str:
    return make_environment(store, build_wheel(WheelSpec(name="pear"), tmp_path)).directory


def wheel(name: str, digest: str, *, built: bool = False) -> LockedWheel:
    return LockedWheel(
        name=name,
        version="1.0",
        filename=f"{name}-1.0-py3-none-any.whl",
        digest=digest,  # type: ignore[arg-type]
        url=f"https://index.example/{name}-1.0.tar.gz" if built else f"https://index.example/{name}.whl",
        requires_python=None,
        size=None if built else 5,
        built_from="d" * 64 if built else "",
    )


def write_lock(store: Store, *wheels: LockedWheel) -> str:
    with store.session() as lease:
        return locks.write(store.layout, lease, Lock(wheels=wheels, python="3.11"))


@pytest.fixture
def lock(store: Store, entry: str) -> str:
    """A lock that names a wheel that has an entry, one that has none, and one that was built here."""
    digest = store.plan(entry).reference.digest
    return write_lock(
        store, wheel("apple", digest), wheel("fig", "2" * 64), wheel("plum", "3" * 64, built=True)
    )


def only(store: Store) -> Root:
    (root,) = roots.read(store)
    assert isinstance(root, Root)
    return root


def test_an_environment_an_entry_and_a_lock_can_be_pinned(
    store: Store, environment: str, entry: str, lock: str
) -> None:
    for target, name in (
        (environment, f"environments/{environment}"), (environment[:10], f"environments/{environment}"),
        (store.layout.of("environments", environment), f"environments/{environment}"),
        (entry, f"entries/{entry}"), (entry[:24], f"entries/{entry}"),
        (lock, f"locks/{lock}"), (lock[:10], f"locks/{lock}"), (f"{lock}.toml", f"locks/{lock}"),
        (store.layout.of("locks", f"{lock}.toml"), f"locks/{lock}"),
        (os.path.relpath(store.layout.of("locks", f"{lock}.toml")), f"locks/{lock}"),
    ):  # fmt: skip
        assert roots.add(store, "pin", target) == only(store) == Root(name="pin", names=(name,))
    assert (only(store).environment, only(store).entry, only(store).lock) == (None, None, lock)


def test_a_pinned_lock_names_its_wheels_those_that_were_built_here_too(
    store: Store, lock: str, entry: str
) -> None:
    assert locked_digests(store.layout, lock) == {store.plan(entry).reference.digest, "2" * 64, "3" * 64}
    assert locked_digests(store.layout, "f" * 64) == set()
    parsed = locks.read(store.layout, lock)
    assert parsed is not None
    assert locked_digests(store.layout, lock) == {wheel.digest for wheel in parsed.wheels}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"[", b"packages = 5", b"[[packages]]\nwheels = [5]", b"[[packages]]\nwheels = [{}]",
        b"[[packages]]\nwheels = [{hashes = {sha256 = 5}}]", b"[[packages]]\nwheels = [{hashes = {sha256 = 'x'}}]",
        b"[[packages]]\ntool = 5", b"[[packages]]\ntool.vrfstore.built = 5", b"packages = [5]", b"x = " + b"[" * 9999,
    ],
)  # fmt: skip
def test_a_lock_that_cannot_be_read_is_an_error_and_is_not_pinned(
    store: Store, lock: str, content: bytes
) -> None:
    Path(store.layout.of("locks", f"{lock}.toml")).write_bytes(content)
    with pytest.raises(StoreDamagedError) as caught:
        locked_digests(store.layout, lock)
    assert (caught.value.kind, caught.value.path) == (
        "lock-unreadable",
        store.layout.of("locks", f"{lock}.toml"),
    )
    with pytest.raises(StoreDamagedError):
        roots.add(store, "pin", lock)
    assert list(roots.read(store)) == []


def test_a_lock_of_somebody_s_own_is_refused_with_what_to_do_instead(
    store: Store, lock: str, tmp_path: Path
) -> None:
    for name in ("pylock.toml", f"{lock}.toml"):
        own = tmp_path / name
        own.write_text("lock-version = '1.0'\n")
        with pytest.raises(UsageError) as caught:
            roots.add(store, "pin", str(own))
        assert (caught.value.kind, caught.value.path) == ("root-file", str(own))
        assert "vrfstore link FILE --root NAME" in str(caught.value.hint)
    assert list(roots.read(store)) == []


def test_a_beginning_of_several_things_is_refused_and_a_whole_name_is_none(
    store: Store, environment: str, entry: str, lock: str
) -> None:
    for twin in (environment, entry):
        Path(store.layout.of("locks", f"{twin[:10]}{'0' * 54}.toml")).write_text("packages = []")
        with pytest.raises(UsageError, match="may be any of 2 things"):
            roots.add(store, "pin", twin[:10])
        assert roots.add(store, "pin", twin).names[0].endswith(twin)
    for odd in ("x.toml", ".dead-1", f"{lock.upper()}.toml"):
        Path(store.layout.of("locks", odd)).touch()
        with pytest.raises(UsageError):
            roots.add(store, "pin", odd)


def test_what_is_collected_while_it_is_pinned_leaves_what_was_pinned_before(
    store: Store, environment: str, entry: str, lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots.add(store, "pin", environment)
    before = Path(store.layout.of("roots", "pin.json")).read_bytes()
    asked = []

    def collected(_layout: object, names: set[str]) -> None:
        # It was written before anybody looked: see store.condemned.
        asked.append([root.names[0] in names for root in roots.read(store) if isinstance(root, Root)])
        fs.remove_tree(store.layout.of("locks", f"{lock}.toml"))
        fs.remove_tree(store.layout.of("entries", entry))

    monkeypatch.setattr(condemned, "wait_until_clear", collected)
    for name, target in (("pin", entry), ("pin", lock), ("other", lock)):
        Path(store.layout.of("locks", f"{lock}.toml")).write_text("packages = []")
        with pytest.raises(UsageError, match="has just been collected"):
            roots.add(store, name, target)
        assert Path(store.layout.of("roots", "pin.json")).read_bytes() == before
        assert os.listdir(store.layout.of("roots")) == ["pin.json"]
    assert [any(each) for each in asked] == [True] * 3


def test_who_pins_a_lock_waits_for_its_entries_too(
    store: Store, entry: str, lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []
    monkeypatch.setattr(condemned, "wait_until_clear", lambda _layout, names: waited.append(set(names)))
    roots.add(store, "pin", lock)
    assert waited == [{f"locks/{lock}", f"entries/{entry}"}]


def test_what_a_pinned_lock_keeps_can_be_linked_again_without_network(
    index: Index, store: Store, tmp_path: Path
) -> None:
    for name in ("pear", "fig"):
        index.add(WheelSpec(name=name))
        (tmp_path / f"{name}.vrf").write_text(f"{name}\n")
    pear, _ = (link(tmp_path / f"{name}.vrf", store=store) for name in ("pear", "fig"))
    roots.add(store, "release", pear.lock)
    report = collect(store, Policy(max_age=0, grace=0))
    assert len(report.environments) == 2
    assert [store.plan(entry).reference.name for entry in store.entries()] == ["pear"]
    asked = len(index.requests)
    copy = tmp_path / "pylock.toml"
    copy.write_bytes(Path(pear.lock).read_bytes())
    again = link(copy, store=store, policy=Asking(offline=True))
    assert (again.status, again.environment, len(index.requests)) == ("linked", pear.environment, asked)


def test_a_project_keeps_its_newest_environments_and_a_pin_everything(store: Store) -> None:
    for key in KEYS[:4]:
        roots.record(store, "report", key)
    root = only(store)
    assert root == Root(
        name="report", project=True, names=tuple(f"environments/{key}" for key in KEYS[3::-1])
    )
    assert root.environment == KEYS[3]
    assert [len(root.kept(number, KEYS)) for number in (0, 1, 3, 4, 10**30)] == [0, 1, 3, 4, 4]
    assert root.kept(-1, KEYS) == ()
    assert root.kept(2, KEYS) == (f"environments/{KEYS[3]}", f"environments/{KEYS[2]}")
    # One that has gone makes room for an older one.
    assert root.kept(2, {KEYS[0], KEYS[2]}) == (f"environments/{KEYS[2]}", f"environments/{KEYS[0]}")
    pin = Root(name="pin", names=("environments/x",))
    assert pin.kept(0, ()) == pin.names


def test_an_environment_that_is_linked_again_is_the_newest_again(store: Store) -> None:
    for key in (KEYS[0], KEYS[1], f"{KEYS[0]}.1", KEYS[0]):
        root = roots.record(store, "report", key)
    assert root.names == tuple(f"environments/{key}" for key in (KEYS[0], f"{KEYS[0]}.1", KEYS[1]))
    assert only(store) == root


def test_what_is_the_newest_already_is_not_written_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots.record(store, "report", KEYS[0])
    effects: list[tuple[str, str]] = []
    monkeypatch.setattr(fs, "on_effect", lambda *effect: effects.append(effect))
    roots.record(store, "report", KEYS[0])
    assert effects == []


def test_of_a_project_so_many_environments_are_remembered(store: Store) -> None:
    path = Path(store.layout.of("roots", "report.json"))
    names = [f"environments/{key}" for key in KEYS[:MOST]]
    path.write_bytes(codec.dumps({"schema": 2, "kind": "project", "names": names}))
    assert roots.record(store, "report", KEYS[-1]).names == (f"environments/{KEYS[-1]}", *names[: MOST - 1])


def test_a_pin_and_a_project_never_take_each_other_s_name(store: Store, environment: str) -> None:
    roots.add(store, "pin", environment)
    roots.record(store, "project", environment)
    roots.check_project(store, "project")
    roots.check_project(store, "new")
    for action in (
        lambda: roots.check_project(store, "pin"),
        lambda: roots.record(store, "pin", environment),
        lambda: roots.add(store, "project", environment),
    ):
        with pytest.raises(UsageError) as caught:
            action()
        assert caught.value.kind == "root-taken"
        assert "vrfstore roots remove" in str(caught.value.hint)
    kinds = [(root.name, root.kind) for root in roots.read(store) if isinstance(root, Root)]
    assert kinds == [("pin", "pin"), ("project", "project")]
    roots.remove(store, "project")
    assert roots.add(store, "project", environment).kind == "pin"


@pytest.mark.parametrize("name", ["", "../x", ".x", "x" * 101, "x\n", "a/b", "ü"])
def test_a_project_has_a_name_like_a_pin(store: Store, name: str) -> None:
    for action in (roots.check_project, functools.partial(roots.record, directory=KEYS[0])):
        with pytest.raises(UsageError) as caught:
            action(store, name)
        assert caught.value.kind == "root-name"
    assert os.listdir(store.layout.of("roots")) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema":3}', b'{"schema":2}', b'{"schema":[]}', b"[]"])
def test_a_record_that_cannot_be_read_is_not_written_over(
    store: Store, environment: str, content: bytes
) -> None:
    path = Path(store.layout.of("roots", "report.json"))
    path.write_bytes(content)
    for action in (
        lambda: roots.record(store, "report", environment),
        lambda: roots.check_project(store, "report"),
        lambda: roots.add(store, "report", environment),
    ):
        with pytest.raises(StoreDamagedError) as caught:
            action()
        assert "vrfstore roots remove report" in str(caught.value.hint)
        assert path.read_bytes() == content
    roots.remove(store, "report")
    assert list(roots.read(store)) == []


def test_a_record_of_the_first_schema_is_read(store: Store) -> None:
    for name, environment, entry in (("a", KEYS[0], None), ("b", None, "x-1")):
        value = {"schema": 1, "environment": environment, "entry": entry}
        Path(store.layout.of("roots", f"{name}.json")).write_bytes(codec.dumps(value))
    assert list(roots.read(store)) == [
        Root(name="a", names=(f"environments/{KEYS[0]}",)), Root(name="b", names=("entries/x-1",)),
    ]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(linked=st.lists(st.sampled_from(KEYS[:6]), min_size=1, max_size=12))
def test_a_project_has_what_was_linked_the_newest_first_and_each_once(
    store: Store, linked: list[str]
) -> None:
    for key in linked:
        roots.record(store, "report", key)
    newest = list(dict.fromkeys(reversed(linked)))
    assert only(store).names == tuple(f"environments/{key}" for key in newest)
    roots.remove(store, "report")


def test_many_who_record_at_once_lose_nothing(store: Store) -> None:
    def record(keys: list[str]) -> None:
        for key in keys:
            roots.record(store, "report", key)

    together(*(functools.partial(record, KEYS[start : start + 10]) for start in (0, 10, 20, 30)))
    assert {*only(store).names} == {f"environments/{key}" for key in KEYS[:40]}


def test_recording_removing_and_pinning_wait_for_each_other(
    store: Store, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def noted(path: str) -> contextlib.AbstractContextManager[None]:
        taken.append(os.path.basename(path))
        return contextlib.nullcontext()

    monkeypatch.setattr("vrfstore.gc.roots.hold", noted)
    roots.record(store, "report", environment)
    roots.remove(store, "report")
    roots.add(store, "report", environment)
    assert len(taken) == 3
    assert {name[:5] for name in taken} == {"root-"}
    assert len({*taken}) == 1


def test_recording_killed_anywhere_leaves_the_record_of_before_or_after(store: Store) -> None:
    before = roots.record(store, "report", KEYS[0])
    after = roots.record(store, "report", KEYS[1])
    path = Path(store.layout.of("roots", "report.json"))

    def again() -> Store:
        path.write_bytes(codec.dumps({"schema": 2, "kind": "project", "names": list(before.names)}))
        return store

    found = [only(store) for _ in each_kill(again, lambda store: roots.record(store, "report", KEYS[1]))]
    assert {root.names for root in found} == {before.names, after.names}


def test_a_command_shows_everything_that_keeps_something(
    store: Store, command: Command, environment: str, entry: str, lock: str, tmp_path: Path
) -> None:
    shown = command("roots", "list")
    assert (shown.code, shown.out, shown.err) == (0, "", "")
    assert command("roots", "add", "nightly", environment).out == f"nightly pins {environment}\n"
    assert command("roots", "add", "release", lock[:12]).out == f"release pins {lock}\n"
    assert command("roots", "add", "apple", entry).out == f"apple pins {entry}\n"
    for key in KEYS[:2]:
        roots.record(store, "report", key)
    known = Registration(
        token="a" * 16, path=f"{tmp_path}/own\x1b", device=1, references=(), locks=(), namespace=1
    )
    with store.session() as session:
        externals.register(store.layout, session, known)
    process = Machine().process(os.getpid())
    assert process is not None
    held = leases.take(store.layout, environment=environment, digests=[store.plan(entry).reference.digest])
    until = leases.take_until(store.layout, 3600, environment=environment)
    of_process = leases.take_for_process(store.layout, process)
    Path(store.layout.of("leases", "odd")).touch()
    Path(store.layout.of("leases", f"until.{'0' * 16}.-.{'0' * 32}.1.1")).touch()
    Path(store.layout.of("roots", "broken.json")).write_text("{")

    shown = command("roots", "list", "--json")
    assert shown.code == 0
    document = shown.document
    assert (document["schema_version"], document["status"]) == (1, "done")
    assert document["roots"] == [
        {
            "name": name, "kind": kind, "names": names, "environment": newest, "entry": pinned, "lock": of_lock,
        }
        for name, kind, names, newest, pinned, of_lock in (
            ("apple", "pin", [f"entries/{entry}"], None, entry, None),
            ("nightly", "pin", [f"environments/{environment}"], environment, None, None),
            ("release", "pin", [f"locks/{lock}"], None, None, lock),
            ("report", "project", [f"environments/{KEYS[1]}", f"environments/{KEYS[0]}"], KEYS[1], None, None),
        )
    ]  # fmt: skip
    assert document["external"] == [{"token": "a" * 16, "path": f"{tmp_path}/own\x1b", "state": "unknown"}]
    found = {lease["kind"]: lease for lease in document["leases"]}
    assert len(document["leases"]) == len(found) == 4
    assert found["held"] == {
        "id": held.id, "name": os.path.basename(held.path), "kind": "held", "environment": environment,
        "digests": [store.plan(entry).reference.digest], "lock": None, "process": None, "expires": None,
    }  # fmt: skip
    assert (found["process"]["id"], found["process"]["process"]) == (of_process.id, os.getpid())
    assert found["until"]["expires"].endswith("Z")
    assert (found["unknown"]["name"], found["unknown"]["digests"]) == ("odd", None)
    (warning,) = document["warnings"]
    assert "broken.json" in warning
    assert json.loads(command("roots", "list", "--json").out)["roots"] == document["roots"]

    text = command("roots", "list")
    heading, *lines = text.out.splitlines()
    assert heading.split() == ["KIND", "NAME", "KEEPS", "UNTIL"]
    columns = [heading.index(word) for word in heading.split()]
    rows = [
        tuple(line[a:b].strip() for a, b in zip(columns, [*columns[1:], None], strict=True)) for line in lines
    ]
    assert rows[:4] == [
        ("pin", "apple", f"entries/{entry}", "it is removed"),
        ("pin", "nightly", f"environments/{environment}", "it is removed"),
        ("pin", "release", f"locks/{lock}", "it is removed"),
        ("project", "report", f"2 environments, the newest {KEYS[1]}", "it is removed"),
    ]
    assert rows[4] == (
        "external", "a" * 16, f"{tmp_path}/own\\x1b", "env forget (it cannot be seen from here)",
    )  # fmt: skip
    assert ("lease", held.id, f"environments/{environment}, 1 entry", "its owner ends") in rows
    assert ("lease", of_process.id, "what is being made", f"process {os.getpid()} ends") in rows
    assert ("lease", until.id, f"environments/{environment}", found["until"]["expires"]) in rows
    assert ("lease", "odd", "everything, because it cannot be read", "it is removed") in rows
    assert len(rows) == 9
    assert "broken.json" in text.err
    for lease in (held, until, of_process):
        lease.release()


@pytest.mark.parametrize("expires", [1, 10**15 - 1])
def test_a_time_far_away_can_be_shown(store: Store, command: Command, expires: int) -> None:
    boot = Machine().boot()
    name = f"until.{'0' * 16}.-.{boot}.{10**15 - 1}.{expires}"
    Path(store.layout.of("leases", name)).touch()
    (lease,) = command("roots", "list", "--json").document["leases"]
    assert lease["expires"] == "9999-12-31T23:59:59Z"
    assert command("roots", "list").code == 0
