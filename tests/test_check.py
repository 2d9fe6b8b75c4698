"""Environments compared with what they were linked as, and linked anew where they are not that."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.crash import LOCK, base, dangling, litter, make_environment, tree, wheel_digest
from support.wheels import WheelSpec, build_wheel
from test_verify import OTHER, RICH, a_directory, a_file, findings, flip, nothing, replaced
from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError
from vrfstore.linker.check import Linked, check_environment, expected_links, leads_nowhere, relink
from vrfstore.linker.link import environment_key, link
from vrfstore.linker.plan import EnvironmentPlan
from vrfstore.linker.realise import realise
from vrfstore.model import Interpreter
from vrfstore.runner.verify import verify
from vrfstore.store import interpreters, leases, records
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    return [build_wheel(RICH, tmp_path), build_wheel(OTHER, tmp_path)]


@pytest.fixture
def record(store: Store, wheels: list[Path]) -> EnvironmentRecord:
    return make_environment(store, *wheels)


@pytest.fixture
def environment(store: Store, record: EnvironmentRecord) -> Path:
    return Path(store.layout.of("environments", record.directory))


@pytest.fixture
def site(record: EnvironmentRecord, environment: Path) -> Path:
    return environment / f"lib/{record.library}/site-packages"


def wrong(store: Store, record: EnvironmentRecord) -> set[tuple[str, str]]:
    return {(problem.kind, problem.path) for problem in check_environment(store, record)}


def mend(store: Store, record: EnvironmentRecord, *, trusted: bool) -> None:
    with store.session() as lease:
        relink(store, lease, record, trusted=trusted, wanted=lambda _linked: True)


def swapped(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else in the place of a name in an environment, as its user may."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    make(path)


def to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def test_what_is_expected_is_what_was_linked(
    store: Store, record: EnvironmentRecord, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = expected_links(store, record)
    assert len(expected) > 15
    for linked in expected:
        assert os.path.samestat(
            os.lstat(environment / linked.path), os.lstat(f"{store.root}/{linked.source}")
        )
    links: list[tuple[str, str]] = []

    def noted(plan: EnvironmentPlan, root: str, staging: str, begin: Callable[[], object] | None) -> None:
        links.extend(plan.links)
        realise(plan, root, staging, begin)

    monkeypatch.setattr("vrfstore.linker.link.realise", noted)
    fs.remove_tree(str(environment))
    key = environment_key([wheel.digest for wheel in record.wheels], base())
    with leases.take(store.layout, environment=key) as lease:
        link(
            store, lease, [store.plan(wheel.directory) for wheel in record.wheels], base(), key=key, lock=LOCK
        )
    assert expected == [Linked(source, path) for source, path in links]
    assert {linked.entry for linked in expected} == {"", *(wheel.directory for wheel in record.wheels)}


def test_an_environment_as_it_was_linked_has_nothing_wrong(store: Store, record: EnvironmentRecord) -> None:
    assert wrong(store, record) == set()


@pytest.mark.parametrize("target", ["/etc", "nowhere", "../../../../../entries"])
@pytest.mark.parametrize(
    "place",
    [
        "site-packages/demo_kit",
        "site-packages/space/part",
        "bin/python",
        "bin/python3",
        "lib64",
        "share/demo",
    ],
)
def test_links_that_lead_elsewhere_are_found_and_mended(
    store: Store, record: EnvironmentRecord, environment: Path, site: Path, place: str, target: str
) -> None:
    path = site.parent / place if place.startswith("site-packages") else environment / place
    before = os.readlink(path)
    swapped(path, to(target))
    relative = str(path.relative_to(environment))
    through = {("dangling", f"bin/{name}") for name in ("python3", record.library)}
    assert wrong(store, record) - through == {("repointed", relative)}
    assert (f"environments/{record.directory}", "repointed", relative) in findings(verify(store, full=False))
    report = verify(store, mend=True)
    assert report.sound
    assert os.readlink(path) == before
    assert findings(verify(store)) == []
    assert litter(store) == []


def test_a_link_that_leads_nowhere_because_a_package_is_gone_dangles(
    store: Store, record: EnvironmentRecord, site: Path, wheels: list[Path]
) -> None:
    entry = Path(store.layout.of("entries", record.wheels[0].directory))
    replaced(entry / "site-packages/demo_kit", nothing)
    place = f"lib/{record.library}/site-packages/demo_kit"
    assert (f"environments/{record.directory}", "dangling", place) in findings(verify(store, full=False))
    assert verify(store, mend=True).sound
    assert dangling(str(site)) == []
    assert wheels[0].is_file()


def test_an_interpreter_that_is_gone_leaves_links_that_dangle_until_it_is_back(
    store: Store, wheels: list[Path], tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    shutil.copy(base().real, program)
    record = environment_on(
        store, dataclasses.replace(base(), real=str(program), executable=str(program)), wheels
    )
    assert findings(verify(store)) == []
    program.rename(program.with_name("away"))
    report = verify(store, mend=True)
    assert {(finding.problem.kind, finding.problem.path) for finding in report.findings} == {
        ("dangling", path) for path in ("bin/python", "bin/python3", f"bin/{record.library}")
    }
    assert not report.sound
    assert {finding.hint for finding in report.findings} == {
        f"bring back {program}, or link its requirements again for another Python"
    }
    program.with_name("away").rename(program)
    assert findings(verify(store)) == []
    assert records.unchanged(store.layout, record)


def environment_on(store: Store, interpreter: Interpreter, wheels: list[Path]) -> EnvironmentRecord:
    digests = [wheel_digest(wheel) for wheel in wheels]
    key = environment_key(digests, interpreter)
    with leases.take(store.layout, environment=key, digests=digests) as lease:
        plans = [store.add(wheel).plan for wheel in wheels]
        return link(store, lease, plans, interpreter, key=key, lock=LOCK)[0]


@pytest.mark.parametrize("name", ["python", "python3", "lib64"])
@pytest.mark.parametrize(
    "make", [nothing, to("/etc"), a_file, a_directory], ids=["gone", "elsewhere", "file", "directory"]
)
def test_ready_made_links_to_an_interpreter_do_not_spread_what_is_wrong_with_them(
    store: Store, record: EnvironmentRecord, environment: Path, name: str, make: Callable[[Path], object]
) -> None:
    ready = Path(store.root) / interpreters.ready_links_name(base()) / name
    before = tree(environment)
    ready.unlink()
    make(ready)
    assert wrong(store, record) == set(), "the environment is as it should be"
    assert verify(store, mend=True).sound
    assert tree(environment) == before
    swapped(environment / ("lib64" if name == "lib64" else f"bin/{name}"), to("nowhere"))
    assert verify(store, mend=True).sound
    assert tree(environment) == before
    assert os.readlink(ready)


@pytest.mark.parametrize("sentinel", [True, False])
def test_ready_made_links_that_are_gone_are_made_again(
    store: Store, record: EnvironmentRecord, environment: Path, *, sentinel: bool
) -> None:
    ready = Path(store.root) / interpreters.ready_links_name(base())
    before = tree(environment)
    if sentinel:
        (ready / "sentinel").unlink()
    else:
        shutil.rmtree(ready)
    verify(store, mend=True)
    assert findings(verify(store)) == []
    assert (ready / "sentinel").is_file()
    assert {path: value for path, value in tree(environment).items() if path != "vrfstore.json"} == {
        path: value for path, value in before.items() if path != "vrfstore.json"
    }
    assert records.unchanged(store.layout, store.record(record.directory))


def test_a_file_that_another_took_the_place_of_is_found_where_nobody_would_see_it(
    store: Store, record: EnvironmentRecord, site: Path, wheels: list[Path]
) -> None:
    """Directories inside site-packages do not tell that they were changed."""
    metadata = site / RICH.dist_info / "METADATA"
    swapped(metadata, a_file)
    assert wrong(store, record) == {("changed", str(metadata.relative_to(site.parents[2])))}
    assert verify(store, mend=True).sound
    assert metadata.samefile(
        Path(store.layout.of("entries", record.wheels[0].directory))
        / "site-packages"
        / RICH.dist_info
        / "METADATA"
    )
    assert make_environment(store, *wheels).directory == record.directory


def test_a_copy_with_the_same_bytes_is_right(store: Store, record: EnvironmentRecord, site: Path) -> None:
    """Where hard links cannot be made, small files are copied."""
    for name in ("METADATA", "WHEEL"):
        path = site / RICH.dist_info / name
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    assert wrong(store, record) == set()


def test_a_link_to_a_large_file_in_its_place_is_right(
    store: Store, record: EnvironmentRecord, site: Path
) -> None:
    """Where hard links cannot be made, a large file is linked to."""
    source = (
        Path(store.layout.of("entries", record.wheels[0].directory))
        / "site-packages"
        / RICH.dist_info
        / "METADATA"
    )
    path = site / RICH.dist_info / "METADATA"
    swapped(path, to(os.path.relpath(source, path.parent)))
    assert wrong(store, record) == set()
    swapped(path, to("WHEEL"))
    assert {kind for kind, _ in wrong(store, record)} == {"repointed"}
    mend(store, record, trusted=False)
    assert path.samefile(source)


def test_what_was_changed_by_hand_is_somebody_s_own(
    store: Store, record: EnvironmentRecord, environment: Path, site: Path
) -> None:
    swapped(site / "single.py", lambda path: path.write_text("mine\n"))
    swapped(environment / "bin/demo-run", lambda path: path.write_text("mine\n"))
    (site / "other.py").unlink()
    swapped(site / "demo_kit", Path.mkdir)
    (site / "demo_kit/__init__.py").write_text("mine\n")
    swapped(environment / "share", lambda path: path.write_text("no directory\n"))
    assert wrong(store, record) == set()
    swapped(environment / "bin/python", to("/etc"))
    assert wrong(store, record) == {("repointed", "bin/python")}
    mine = {path: value for path, value in tree(environment).items() if path != "bin/python"}
    assert verify(store, mend=True).sound
    assert {path: value for path, value in tree(environment).items() if path != "bin/python"} == mine
    assert os.readlink(environment / "bin/python") == base().real


def test_only_inodes_that_were_replaced_are_taken_from_a_changed_environment(
    store: Store, record: EnvironmentRecord, site: Path
) -> None:
    for name in ("single.py", "other.py"):
        swapped(site / name, lambda path: path.write_text("mine\n"))
    seen = (site / "single.py").stat()
    with store.session() as lease:
        relink(
            store,
            lease,
            record,
            trusted=False,
            wanted=lambda _linked: True,
            replaced={f"{seen.st_dev}:{seen.st_ino}"},
        )
    assert (site / "single.py").read_text() == "one = 1\n"
    assert (site / "other.py").read_text() == "mine\n"


def test_what_is_linked_anew_by_trust_is_handed_out_as_before_and_not_used(
    store: Store, record: EnvironmentRecord, environment: Path, wheels: list[Path]
) -> None:
    swapped(environment / "bin/demo-run", a_file)
    os.utime(store.layout.record(record.directory), ns=(1_000, 2_000))
    assert not records.unchanged(store.layout, record)
    mend(store, record, trusted=True)
    again = store.record(record.directory)
    assert records.unchanged(store.layout, again)
    assert dataclasses.replace(again, own=record.own) == record
    assert os.stat(store.layout.record(record.directory)).st_mtime_ns == 2_000
    assert make_environment(store, *wheels).directory == record.directory


def test_only_what_is_wanted_is_linked_anew(store: Store, record: EnvironmentRecord, site: Path) -> None:
    for name in ("demo_kit", "space/part"):
        swapped(site / name, to("/etc"))
    with store.session() as lease:
        relink(store, lease, record, trusted=False, wanted=lambda linked: linked.path.endswith("demo_kit"))
    assert os.readlink(site / "space/part") == "/etc"
    assert os.readlink(site / "demo_kit") != "/etc"


def test_an_entry_that_is_damaged_does_not_tell_what_is_right(
    store: Store, record: EnvironmentRecord, environment: Path
) -> None:
    name = record.wheels[0].directory
    entry = Path(store.layout.of("entries", name))
    links = [linked for linked in expected_links(store, record) if linked.entry == name]
    number = next(
        linked
        for linked in links
        if "/links/" in linked.source and os.path.islink(f"{store.root}/{linked.source}")
    )
    replaced(Path(store.root) / number.source, to("/etc"))
    assert {(problem.kind, problem.path) for problem in check_environment(store, record)} == {
        ("repointed", number.path)
    }
    assert check_environment(store, record, damaged={name}) == ()
    before = tree(environment)
    assert {finding.place for finding in verify(store).findings} == {f"entries/{name}"}
    assert verify(store, [record.directory], mend=True).findings == ()
    assert tree(environment) == before
    assert entry.is_dir()


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("trees"),
        lambda value: value.update(trees={"site-pbckages": {}}),
        lambda value: value.update(trees={"site-packages": [1]}),
        lambda value: value.update(trees=None),
        lambda value: value["trees"]["site-packages"].update(demo_kit="elsewhere"),
        lambda value: value.update(dist_info=None),
        lambda value: value.update(record_ready=True),
    ],
)
def test_a_plan_that_makes_no_sense_stops_nothing(
    store: Store, record: EnvironmentRecord, environment: Path, change: Callable[[dict[str, object]], object]
) -> None:
    entry = Path(store.layout.of("entries", record.wheels[0].directory))
    before = tree(environment, without=("vrfstore.json",))
    value = dict(codec.loads((entry / "plan.json").read_bytes()))
    change(value)
    (entry / "plan.json").chmod(0o644)
    (entry / "plan.json").write_bytes(codec.dumps(value))
    (entry / "plan.json").chmod(0o444)
    report = verify(store)
    assert f"entries/{entry.name}" in {finding.place for finding in report.findings}
    assert verify(store, mend=True).sound
    assert findings(verify(store)) == []
    assert tree(environment, without=("vrfstore.json",)) == before


def test_of_an_entry_that_is_gone_the_environment_says_so(store: Store, record: EnvironmentRecord) -> None:
    fs.remove_tree(store.layout.of("entries", record.wheels[0].directory))
    with pytest.raises(StoreDamagedError, match="is gone") as caught:
        expected_links(store, record)
    assert record.wheels[0].directory in str(caught.value.hint)
    assert wrong(store, record) == {("unchecked", "")}


def test_a_marked_entry_still_tells_what_was_linked(
    store: Store, record: EnvironmentRecord, wheels: list[Path]
) -> None:
    expected = expected_links(store, record)
    entry = Path(store.layout.of("entries", record.wheels[0].directory))
    wheels[0].unlink()
    flip(entry / "site-packages/single.py")
    assert not verify(store, mend=True).sound
    with pytest.raises(StoreDamagedError):
        store.plan(entry.name)
    assert expected_links(store, record) == expected


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema":99}'])
def test_a_record_that_cannot_be_read_is_said_and_stops_nothing(
    store: Store, record: EnvironmentRecord, environment: Path, wheels: list[Path], content: bytes
) -> None:
    (environment / "vrfstore.json").write_bytes(content)
    report = verify(store, mend=True)
    assert findings(report) == [(f"environments/{record.directory}", "record", "vrfstore.json")]
    assert "link its requirements again" in str(report.findings[0].hint)
    assert make_environment(store, *wheels).directory != record.directory


def test_an_environment_that_vanishes_is_no_damage(
    store: Store, record: EnvironmentRecord, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped(environment / "bin/python", to("/etc"))
    looked = check_environment

    def vanishing(*arguments: object, **named: object) -> object:
        found = looked(*arguments, **named)  # type: ignore[arg-type]
        if environment.exists():
            fs.remove_tree(str(environment))
        return found

    monkeypatch.setattr("vrfstore.linker.check.check_environment", vanishing)
    assert verify(store, mend=True).sound
    assert litter(store) == []
    assert record.directory not in store.environments()


def test_what_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, target in (("right", "file"), ("gone", "nothing"), ("loop", "loop"), ("below", "file/x")):
        (tmp_path / name).symlink_to(target)
    found = {name: leads_nowhere(str(tmp_path / name)) for name in ("right", "gone", "loop", "below")}
    assert found == {"right": False, "gone": True, "loop": True, "below": True}


def test_two_wheels_that_share_a_package_are_expected_as_they_were_linked(
    store: Store, tmp_path: Path
) -> None:
    one = build_wheel(WheelSpec(name="one", files={"shared/__init__.py": "", "shared/a.py": ""}), tmp_path)
    two = build_wheel(WheelSpec(name="two", files={"shared/b.py": ""}), tmp_path)
    record = make_environment(store, one, two)
    assert wrong(store, record) == set()
    place = (
        Path(store.layout.of("environments", record.directory))
        / f"lib/{record.library}/site-packages/shared/b.py"
    )
    swapped(place, a_file)
    # Its directory is watched: what differs there is somebody's own, and the next link makes a new environment.
    assert wrong(store, record) == set()
    assert not records.unchanged(store.layout, record)
